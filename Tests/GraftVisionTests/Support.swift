import CSystemSupport
import Foundation
import GraftVision
import Testing

/// Files beside the tests and in the shared folder.
enum TestData {
    static let golden = URL(fileURLWithPath: #filePath).deletingLastPathComponent().appendingPathComponent("Golden")
        .path

    /// `$GRAFT_SHARED`, else `shared` beside the package; nil if there is none.
    static let shared: String? = {
        let package = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let path =
            ProcessInfo.processInfo.environment["GRAFT_SHARED"]
            ?? package.deletingLastPathComponent().appendingPathComponent("shared").path
        return FileManager.default.fileExists(atPath: path + "/data") ? path : nil
    }()

    static func sharedPath(_ relative: String) throws -> String { try #require(shared) + "/" + relative }

    static func bytes(_ path: String) throws -> [UInt8] { [UInt8](try Data(contentsOf: URL(fileURLWithPath: path))) }

    static func json(_ path: String) throws -> [String: Any] {
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        return try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
    }
}

/// A folder that goes away with the value.
final class TemporaryFolder {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.appendingPathComponent("graft-vision-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func write(_ relative: String, _ bytes: [UInt8]) throws {
        let target = path + "/" + relative
        let folder = (target as NSString).deletingLastPathComponent
        try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
        try Data(bytes).write(to: URL(fileURLWithPath: target))
    }

    func makeFolder(_ relative: String) throws {
        try FileManager.default.createDirectory(atPath: path + "/" + relative, withIntermediateDirectories: true)
    }

    func link(_ relative: String, to target: String) throws {
        try FileManager.default.createSymbolicLink(atPath: path + "/" + relative, withDestinationPath: target)
    }
}

func sha256(_ bytes: some Collection<UInt8>) throws -> String {
    let digest = try #require(graft_sha256_create())
    defer { graft_sha256_destroy(digest) }
    let all = Array(bytes)
    try #require(graft_sha256_update(digest, all, all.count))
    var result = [UInt8](repeating: 0, count: 32)
    try #require(graft_sha256_final(digest, &result))
    return result.map { ($0 < 16 ? "0" : "") + String($0, radix: 16) }.joined()
}

/// The picture of `Golden/make_golden.py`: noise, a slope and edges from whole numbers.
func formula(_ width: Int, _ height: Int) -> RGBImage {
    var pixels: [UInt8] = []
    pixels.reserveCapacity(width * height * 3)
    for y in 0..<height {
        for x in 0..<width {
            for c in 0..<3 {
                var z = UInt64(x) &* 73_856_093 &+ UInt64(y) &* 19_349_663 &+ UInt64(c) &* 83_492_791
                z ^= z >> 13
                z = z &* 0x9E37_79B9_7F4A_7C15
                switch (x + y) % 3 {
                case 0: pixels.append(UInt8(z >> 56))
                case 1: pixels.append(UInt8((x * 5 + y * 3 + c * 40) & 255))
                default: pixels.append(((x >> 3) + (y >> 3)) & 1 == 1 ? 255 : 0)
                }
            }
        }
    }
    return RGBImage(width: width, height: height, pixels: pixels)
}
