import Foundation

/// The folder of real weights, images and PyTorch traces that lies beside the repository on some machines.
enum SharedData {
    /// `GRAFT_SHARED`, else `shared` beside the repository's root; nil where there is none.
    static let root: String? = {
        var candidates = [ProcessInfo.processInfo.environment["GRAFT_SHARED"]].compactMap { $0 }
        let repository = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        candidates.append(repository.deletingLastPathComponent().appendingPathComponent("shared").path)
        return candidates.first { FileManager.default.fileExists(atPath: $0 + "/reference/parity.py") }
    }()

    static var isPresent: Bool { root != nil }

    static func path(_ relative: String) throws -> String {
        guard let root else { throw Missing() }
        return root + "/" + relative
    }

    struct Missing: Error {}
}
