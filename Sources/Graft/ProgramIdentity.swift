import CSystemSupport
import Foundation
import GraftCheckpoint
import GraftVision

/// What computes, as code: another build may have other kernels, and another library may decode other pixels.
enum ProgramIdentity {
    /// The SHA-256 of the file that holds this code, and version and SHA-256 of each library that decodes images.
    ///
    /// - Returns: a text that two processes share only when they run the same code.
    /// - Throws: ``FrontierFile/Refusal/failed(_:)`` when the program's own file cannot be read.
    static func text() throws(FrontierFile.Refusal) -> String { try cached.get() }

    private static let cached = Result { () throws(FrontierFile.Refusal) in
        guard let path = ownPath, let digest = digest(ofFile: path) else {
            throw .failed("the running program's own file cannot be read, which tells builds apart")
        }
        // A library that is linked in is part of the program's file, and one that is gone from the disk has its version.
        let libraries = ImageCodec.libraries.map { library in
            "\(library.version) \(library.path.flatMap(digest(ofFile:)) ?? "")"
        }
        return (["build \(digest)"] + libraries).joined(separator: "\n")
    }

    /// The file of the program, or of the library that this code was built into.
    private static var ownPath: String? {
        // The loader gives the main program the name it was called by, which leads nowhere when it came from PATH.
        if let path = graft_image_path(#dsohandle).map({ String(cString: $0) }), path.hasPrefix("/") { return path }
        return Bundle.main.executablePath
    }

    private static func digest(ofFile path: String) -> String? {
        guard let data = try? Data(contentsOf: URL(filePath: path), options: .mappedIfSafe) else { return nil }
        let digest = SHA256Digest()
        data.withUnsafeBytes { digest.update($0) }
        return try? digest.hex()
    }
}
