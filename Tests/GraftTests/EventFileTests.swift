import Foundation
import Graft
import Testing

/// TensorBoard's files, byte for byte. The records were written by the Python package tensorboard.
@Suite struct EventFileTests {
    static func bytes(_ digits: String) -> [UInt8] {
        let characters = Array(digits)
        return stride(from: 0, to: characters.count, by: 2).compactMap {
            UInt8(String(characters[$0...$0 + 1]), radix: 16)
        }
    }

    /// RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
    @Test func checksumsAreThoseOfTheStandard() {
        #expect(CRC32C.checksum([UInt8](repeating: 0, count: 32)) == 0x8A91_36AA)
        #expect(CRC32C.checksum([UInt8](repeating: 0xFF, count: 32)) == 0x62A8_AB43)
        #expect(CRC32C.checksum(0..<32) == 0x46DD_794E)
        #expect(CRC32C.checksum((0..<32).reversed()) == 0x113F_DB5C)
        #expect(CRC32C.checksum("123456789".utf8) == 0xE306_9283)
        #expect(CRC32C.checksum([]) == 0)
        #expect(CRC32C.masked([]) == 0xA282_EAD8)
    }

    @Test func recordsAreThoseOfTensorBoard() {
        #expect(
            EventRecord.framed(EventMessage.fileVersion(time: 1.5))
                == Self.bytes("1800000000000000a37f4b2209000000000000f83f1a0d627261696e2e4576656e743a322a28646c"))
        #expect(
            EventRecord.framed(
                EventMessage.scalars([("loss/train", 0.25), ("learning_rate", 0.001)], step: 300, time: 1.5))
                == Self.bytes(
                    "3700000000000000e7e8ca5909000000000000f83f10ac022a290a110a0a6c6f73732f747261696e150000803e"
                        + "0a140a0d6c6561726e696e675f72617465156f12833a734ffde4"))
        #expect(
            EventRecord.framed(EventMessage.sessionStart(step: 7, time: 2))
                == Self.bytes("0f000000000000006d532b0909000000000000004010073a020801d1715dcb"))
    }

    /// A new run replaces an older one's file; one that goes on adds a file that is read behind it.
    @Test func resumingKeepsEarlierFiles() throws {
        let folder = try TestFolder()
        let first = try EventFile(folder: folder.path)
        try first.add([("loss/train", 1)], step: 0)
        try first.flush()
        let resumed = try EventFile(folder: folder.path, resumingAtStep: 1)
        try resumed.flush()
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(names.count == 2)
        #expect(resumed.path == folder.path + "/" + names[1])
        let records = try [UInt8](Data(contentsOf: URL(filePath: first.path)))
        #expect(records.count > 40)
        let fresh = try EventFile(folder: folder.path)
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: folder.path) == [
                URL(filePath: fresh.path).lastPathComponent
            ])
    }
}

/// A folder that goes when the value does.
final class TestFolder {
    let path: String

    init() throws {
        path = FileManager.default.temporaryDirectory.appending(path: "graft-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func text(_ name: String) throws -> String { try String(contentsOfFile: path + "/" + name, encoding: .utf8) }
}
