import Foundation
import GraftCheckpoint
import GraftGraph
import GraftTensor

#if OpenCL
    import GraftOpenCL
#endif

/// What examinations of devices found, on disk: one file for each device, driver version, kernel class and set of kernels.
///
/// A file is used only if its header, its digest and every entry are right; anything else counts as absent, and the next
/// examination writes it anew.
struct DeviceVerdicts: Sendable {
    /// What was found out about one primitive.
    struct Verdict: Hashable, Sendable {
        /// The primitive's name, or ``DeviceExamination/wholePrograms``.
        var primitive: String
        var isPassed: Bool
        /// The first case that failed and what was wrong; empty otherwise.
        var message: String
    }

    /// The folder of the files; made when the first is stored.
    let folder: URL

    /// `verdicts` in the cache folder; nil when none is known.
    static var standard: DeviceVerdicts? { CacheFolder.url("verdicts").map { DeviceVerdicts(folder: $0) } }

    /// Everything that a verdict depends on, as 64 hexadecimal digits.
    static func key(_ backend: any DeviceBackend) throws -> String {
        let device = backend.description
        var parts = [
            BuildInformation.version, device.platform, device.name, device.driverVersion, device.kernelClass,
        ]
        #if OpenCL
            if let backend = backend as? OpenCLBackend {
                parts += backend.sources.sorted { $0.key < $1.key }.flatMap { [$0.key, $0.value] }
            }
        #endif
        let digest = SHA256Digest()
        // Lengths keep parts apart: ("ab", "c") and ("a", "bc") differ.
        for part in parts { digest.update("\(part.utf8.count):\(part)") }
        return try digest.hex()
    }

    /// The verdicts of a key by primitive; nil when there are none or the file is damaged.
    func load(_ key: String) -> [String: Verdict]? {
        guard let data = try? Data(contentsOf: file(key)), data.count <= Self.maximumByteCount,
            let text = String(data: data, encoding: .utf8)
        else { return nil }
        let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
        guard lines.count >= 4, lines.last?.isEmpty == true, lines[0] == Self.title, lines[1] == key else { return nil }
        guard let digest = try? Self.digest(lines[3...].joined(separator: "\n")), lines[2] == digest else { return nil }
        var verdicts: [String: Verdict] = [:]
        for line in lines[3...].dropLast() {
            let words = line.split(separator: " ", maxSplits: 2, omittingEmptySubsequences: false)
            guard words.count == 3, words[1] == "passed" || words[1] == "failed" else { return nil }
            let name = String(words[0])
            verdicts[name] = Verdict(primitive: name, isPassed: words[1] == "passed", message: String(words[2]))
        }
        return verdicts
    }

    /// Adds verdicts of a device to those that are there, replacing those of the same primitives.
    ///
    /// - Returns: the file.
    /// - Throws: ``GraftError/outputFailed(_:)``.
    func add(_ verdicts: [Verdict], for backend: any DeviceBackend) throws -> String {
        let key = try Self.key(backend)
        var all = load(key) ?? [:]
        for verdict in verdicts { all[verdict.primitive] = verdict }
        let body = all.values.sorted { $0.primitive < $1.primitive }.map { verdict in
            let message = verdict.message.split(whereSeparator: \.isNewline).joined(separator: " ").prefix(1000)
            return "\(verdict.primitive) \(verdict.isPassed ? "passed" : "failed") \(message)\n"
        }.joined()
        let path = file(key).path
        do {
            try createFolder(folder.path)
        } catch {
            throw GraftError.outputFailed(
                "the folder \(folder.path) of the verdicts cannot be made: \(systemReason(of: error)); set GRAFT_CACHE "
                    + "to a folder that can be written")
        }
        try AtomicFile.write(Array("\(Self.title)\n\(key)\n\(try Self.digest(body))\n\(body)".utf8), to: path)
        return path
    }

    /// Why a device must not run a program of these primitives; nil when nothing is known against it.
    func refusal(of backend: any DeviceBackend, running primitives: Set<Primitive.Kind>) throws -> String? {
        guard !primitives.isEmpty, let verdicts = load(try Self.key(backend)) else { return nil }
        let names = primitives.map(\.rawValue) + [DeviceExamination.wholePrograms]
        let failed = names.compactMap { verdicts[$0] }.filter { !$0.isPassed }.sorted { $0.primitive < $1.primitive }
        guard let first = failed.first else { return nil }
        return "`graft doctor` found that its \(failed.map(\.primitive).joined(separator: ", ")) "
            + "\(failed.count == 1 ? "fails" : "fail") (\(first.message))"
    }

    /// Where the file of a key lies.
    func file(_ key: String) -> URL { folder.appending(path: key + ".verdict") }

    private static let title = "graft verdicts 1"
    private static let maximumByteCount = 1 << 20

    private static func digest(_ text: String) throws -> String {
        let digest = SHA256Digest()
        digest.update(text)
        return try digest.hex()
    }
}
