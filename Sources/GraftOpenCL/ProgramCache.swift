#if OpenCL
    import CSystemSupport
    import Foundation
    import GraftTensor

    /// Built programs on disk, so that a second start does not compile again.
    ///
    /// An entry is one file named by its key, written beside its place and renamed. It is used only if its header, its
    /// length and the digest of its content are right; anything else counts as absent. Nothing here ever fails: without
    /// a writable folder there is no cache.
    package struct ProgramCache: Sendable {
        /// The folder of the entries; made when the first is stored.
        package let folder: URL

        /// When more bytes than this are stored, the oldest entries go.
        package let maximumByteCount: Int

        package init(folder: URL, maximumByteCount: Int = 256 << 20) {
            self.folder = folder
            self.maximumByteCount = maximumByteCount
        }

        /// `$GRAFT_CACHE/opencl`, else `$XDG_CACHE_HOME/graft/opencl`, else `~/.cache/graft/opencl`; nil when none is known.
        package static var standard: ProgramCache? {
            CacheFolder.url("opencl").map { ProgramCache(folder: $0) }
        }

        /// Everything that a built program depends on, as 64 hexadecimal digits; nil when SHA-256 is not to be had.
        package static func key(
            source: String, options: String, platform: String, device: String, driverVersion: String
        ) -> String? {
            // Lengths keep parts apart: ("ab", "c") and ("a", "bc") differ.
            let parts = [source, options, platform, device, driverVersion]
            let bytes = parts.flatMap { part in Array("\(part.utf8.count):".utf8) + Array(part.utf8) }
            return hexadecimalDigest(bytes)
        }

        /// The binary stored under a key; nil when there is none or it is damaged.
        package func load(_ key: String) -> [UInt8]? {
            guard let data = try? Data(contentsOf: file(key)) else { return nil }
            let bytes = [UInt8](data)
            let head = Self.header(key)
            guard bytes.count > head.count + Self.digestByteCount, bytes.starts(with: head) else { return nil }
            let stored = bytes[head.count..<head.count + Self.digestByteCount]
            let binary = Array(bytes[(head.count + Self.digestByteCount)...])
            guard let actual = Self.digest(binary), stored.elementsEqual(actual) else { return nil }
            return binary
        }

        /// Stores a binary under a key, replacing what is there.
        package func store(_ binary: [UInt8], key: String) {
            guard !binary.isEmpty, let digest = Self.digest(binary) else { return }
            let manager = FileManager.default
            guard (try? manager.createDirectory(at: folder, withIntermediateDirectories: true)) != nil else { return }
            // A crash between writing and renaming leaves a file that no key names.
            try? Data(Self.header(key) + digest + binary).write(to: file(key), options: .atomic)
            prune(keeping: file(key).lastPathComponent)
        }

        /// Removes the oldest entries until the rest takes half of what is allowed; kernels change with every version.
        private func prune(keeping name: String) {
            let manager = FileManager.default
            guard let names = try? manager.contentsOfDirectory(atPath: folder.path) else { return }
            var entries: [(path: String, byteCount: Int, date: Date)] = []
            for entry in names where entry.hasSuffix(Self.suffix) && entry != name {
                let path = folder.appending(path: entry).path
                guard let attributes = try? manager.attributesOfItem(atPath: path) else { continue }
                entries.append(
                    (path, attributes[.size] as? Int ?? 0, attributes[.modificationDate] as? Date ?? .distantPast))
            }
            var total = entries.reduce(0) { $0 + $1.byteCount }
            guard total > maximumByteCount else { return }
            for entry in entries.sorted(by: { $0.date < $1.date }) where total > maximumByteCount / 2 {
                try? manager.removeItem(atPath: entry.path)
                total -= entry.byteCount
            }
        }

        /// Where the entry of a key lies.
        package func file(_ key: String) -> URL { folder.appending(path: key + Self.suffix) }

        private static let suffix = ".program"

        private static let digestByteCount = 32

        private static func header(_ key: String) -> [UInt8] { Array("graft program 1\n\(key)\n".utf8) }

        private static func hexadecimal(_ byte: UInt8) -> String {
            let digits = String(byte, radix: 16)
            return digits.count == 1 ? "0" + digits : digits
        }

        /// SHA-256 in hexadecimal digits; nil when it is not to be had.
        static func hexadecimalDigest(_ bytes: [UInt8]) -> String? {
            digest(bytes).map { $0.map { hexadecimal($0) }.joined() }
        }

        private static func digest(_ bytes: [UInt8]) -> [UInt8]? {
            guard let running = graft_sha256_create() else { return nil }
            defer { graft_sha256_destroy(running) }
            var result = [UInt8](repeating: 0, count: digestByteCount)
            guard bytes.withUnsafeBytes({ graft_sha256_update(running, $0.baseAddress, $0.count) }),
                graft_sha256_final(running, &result)
            else { return nil }
            return result
        }
    }
#endif
