import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

/// The files of this target and of the data set beside the repository.
enum TestFiles {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures")

    static func path(_ name: String) -> String { folder.appending(path: name).path }

    static func bytes(_ name: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: folder.appending(path: name)))
    }

    /// The shared folder: `GRAFT_SHARED`, or `shared` beside the repository.
    static let shared: String = {
        if let named = ProcessInfo.processInfo.environment["GRAFT_SHARED"], !named.isEmpty { return named }
        let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        return root.deletingLastPathComponent().appending(path: "shared").path
    }()

    static let hasShared = FileManager.default.fileExists(atPath: shared + "/data/squeezenet1_1")

    /// An empty folder for one test.
    static func temporaryFolder() throws -> String {
        let url = FileManager.default.temporaryDirectory.appending(path: "graft-checkpoint-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        return url.path
    }
}

func load(_ name: String) throws -> LoadedCheckpoint {
    try CheckpointReader.load(TestFiles.path(name))
}

/// The error that loading some bytes gives; records an issue when there is none.
func failure(_ bytes: [UInt8], _ name: String = "test", limits: ReadLimits = .standard) -> CheckpointError? {
    do throws(CheckpointError) {
        _ = try CheckpointReader.load(bytes: bytes, name: name, limits: limits)
        return nil
    } catch { return error }
}

/// Limits under which a small hostile file cannot take more than a mebibyte and a little.
let tightLimits: ReadLimits = {
    var limits = ReadLimits()
    limits.baseByteCount = 1 << 20
    limits.expansion = 8
    return limits
}()

/// Little-endian bytes of a number.
func little(_ value: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}

/// Pieces of pickles, by the names of their opcodes.
enum Pickle {
    static let start: [UInt8] = [0x80, 2]
    static let stop: [UInt8] = [0x2E]
    static let mark: [UInt8] = [0x28]
    static let tuple: [UInt8] = [0x74]
    static let emptyTuple: [UInt8] = [0x29]
    static let emptyDictionary: [UInt8] = [0x7D]
    static let emptyList: [UInt8] = [0x5D]
    static let setItems: [UInt8] = [0x75]
    static let setItem: [UInt8] = [0x73]
    static let append: [UInt8] = [0x61]
    static let appends: [UInt8] = [0x65]
    static let reduce: [UInt8] = [0x52]
    static let build: [UInt8] = [0x62]
    static let newObject: [UInt8] = [0x81]
    static let persistent: [UInt8] = [0x51]
    static let none: [UInt8] = [0x4E]
    static let no: [UInt8] = [0x89]

    static func global(_ module: String, _ name: String) -> [UInt8] { [0x63] + "\(module)\n\(name)\n".utf8 }
    static func text(_ text: String) -> [UInt8] { [0x58] + little(text.utf8.count, 4) + text.utf8 }
    static func python2Text(_ text: String) -> [UInt8] { [0x55, UInt8(text.utf8.count)] + text.utf8 }
    static func long(_ value: Int) -> [UInt8] { [0x8A, 8] + little(value, 8) }
    static func put(_ number: UInt8) -> [UInt8] { [0x71, number] }
    static func get(_ number: UInt8) -> [UInt8] { [0x68, number] }
    static func tuple(_ items: [UInt8]...) -> [UInt8] { mark + items.flatMap { $0 } + tuple }

    /// A storage's persistent identifier.
    static func storage(_ key: String, type: String = "FloatStorage", count: Int, view: [UInt8] = none) -> [UInt8] {
        tuple(text("storage"), global("torch", type), text(key), text("cpu"), long(count), view) + persistent
    }

    /// A call of `_rebuild_tensor_v2`.
    static func tensor(_ storage: [UInt8], offset: Int = 0, shape: [Int], strides: [Int]) -> [UInt8] {
        global("torch._utils", "_rebuild_tensor_v2")
            + tuple(
                storage, long(offset), mark + shape.flatMap(long) + tuple, mark + strides.flatMap(long) + tuple, no,
                global("collections", "OrderedDict") + emptyTuple + reduce)
            + reduce
    }

    /// A legacy file around an object and its storages of floats.
    static func legacyFile(_ object: [UInt8], storages: [(key: String, values: [Float])] = []) -> [UInt8] {
        let magic: [UInt8] = [0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19]
        var file = start + [0x8A, 10] + magic + stop
        file += start + [0x4D] + little(1001, 2) + stop
        file += start + emptyDictionary + stop
        file += start + object + stop
        file += start + emptyList + mark + storages.flatMap { text($0.key) } + appends + stop
        for (_, values) in storages {
            file += little(values.count, 8) + values.flatMap { little(Int($0.bitPattern), 4) }
        }
        return file
    }

    /// A legacy file of one tensor named `w` over 12 floats.
    static func legacyTensor(
        offset: Int = 0, shape: [Int], strides: [Int], count: Int = 12, view: [UInt8] = none
    ) -> [UInt8] {
        legacyFile(
            emptyDictionary + text("w")
                + tensor(storage("0", count: count, view: view), offset: offset, shape: shape, strides: strides)
                + setItem,
            storages: [("0", (0..<12).map(Float.init))])
    }
}

/// A safetensors file from its header's text.
func safetensorsFile(_ header: String, data: Int) -> [UInt8] {
    little(header.utf8.count, 8) + Array(header.utf8) + [UInt8](repeating: 0, count: data)
}

/// A `.npy` file from its header's text.
func npyFile(_ header: String, data: Int) -> [UInt8] {
    [0x93, 0x4E, 0x55, 0x4D, 0x50, 0x59, 1, 0] + little(header.utf8.count, 2) + Array(header.utf8)
        + [UInt8](repeating: 0, count: data)
}
