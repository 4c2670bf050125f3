import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

@Suite struct HostileTests {
    static let smallFiles = [
        "types.pth", "types_legacy.pth", "views.pth", "views_legacy.pth", "training_legacy.pth", "old.tar",
        "types.safetensors", "arrays.npz", "deflated.npz", "zip64.npz", "fortran.npy", "big_endian.pth", "nested.pth",
    ]

    @Test(arguments: ["hostile.pth", "hostile_legacy.pth"])
    func nothingIsExecuted(_ name: String) throws {
        let error = failure(try TestFiles.bytes(name))
        guard case .forbiddenSymbol(_, let symbol, _)? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(symbol == "posix.system")
        #expect(error?.description.contains("torch.save(model.state_dict(), path)") == true)
        #expect(!FileManager.default.fileExists(atPath: "HOSTILE_PICKLE_RAN"))
    }

    @Test(arguments: [
        ("os", "system"), ("builtins", "eval"), ("__builtin__", "eval"), ("torch", "load"), ("torch.hub", "load"),
        ("torch", "FloatStorage.__init__"), ("collections", "defaultdict"), ("torch._utils", "_rebuild_wrapper"),
        ("numpy.core.multiarray", "_reconstruct"), ("", ""), ("torch", "XStorage"), ("torch", "serialization.Storage"),
    ])
    func onlyListedSymbols(_ module: String, _ name: String) {
        let error = failure(Pickle.legacyFile(Pickle.global(module, name) + Pickle.emptyTuple + Pickle.reduce))
        guard case .forbiddenSymbol(_, "\(module).\(name)", _)? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func wholeModelsAndProgramsAreExplained() throws {
        guard case .forbiddenSymbol(_, "__main__.Toy", _)? = failure(try TestFiles.bytes("whole_model.pth")) else {
            Issue.record("a whole model was not refused by name")
            return
        }
        guard case .noTensors? = failure(try TestFiles.bytes("no_tensors.pth")) else {
            Issue.record("a file without tensors was not refused")
            return
        }
    }

    /// Every prefix of a file is an error; a tar's own end may lack its padding.
    @Test(arguments: smallFiles)
    func everyPrefixIsAnError(_ name: String) throws {
        let bytes = try TestFiles.bytes(name)
        // The last member of the tar ends before its two empty blocks and the padding to 10240.
        let whole = name == "old.tar" ? 5 * 512 : bytes.count
        for count in 0..<whole {
            if failure(Array(bytes[..<count]), limits: tightLimits) == nil {
                Issue.record("\(name) cut to \(count) of \(bytes.count) bytes was accepted")
                return
            }
        }
    }

    /// Flipped bits, overwritten numbers, removed and doubled pieces: an error or tensors, in bounded memory.
    @Test(arguments: smallFiles)
    func mutationsNeverCrash(_ name: String) throws {
        let original = try TestFiles.bytes(name)
        var accepted = 0
        for round in 0..<1500 {
            let random = CounterRandom(seed: 7, UInt64(round))
            var bytes = original
            for edit in 0..<(1 + random.integer(below: 3, 0)) {
                let draw = edit * 8 + 1
                let place = random.integer(below: bytes.count, draw)
                switch random.integer(below: 6, draw + 1) {
                case 0, 1: bytes[place] ^= 1 << UInt8(random.integer(below: 8, draw + 2))
                case 2: bytes[place] = UInt8(random.integer(below: 256, draw + 2))
                case 3:
                    // A number at its limits, where lengths, counts and offsets stand.
                    let extreme: [UInt8] = [0xFF, 0x7F, 0x80, 0x00]
                    let byte = extreme[random.integer(below: 4, draw + 2)]
                    for index in place..<min(bytes.count, place + 8) { bytes[index] = byte }
                case 4:
                    let count = min(bytes.count - place, 1 + random.integer(below: 16, draw + 2))
                    bytes.removeSubrange(place..<place + count)
                    if bytes.isEmpty { bytes = [0] }
                default:
                    let count = min(bytes.count - place, 1 + random.integer(below: 16, draw + 2))
                    bytes.insert(contentsOf: bytes[place..<place + count], at: place)
                }
            }
            do throws(CheckpointError) {
                let loaded = try CheckpointReader.load(bytes: bytes, name: name, limits: tightLimits)
                #expect(loaded.state.elementCount * 4 <= tightLimits.baseByteCount + 8 * bytes.count)
                accepted += 1
            } catch {
                #expect(!error.description.isEmpty)
            }
            _ = try? NumpyFile.read(bytes: bytes, name: name, limits: tightLimits)
        }
        // Some bytes are data: a test in which nothing passes would only show that the first byte is checked.
        #expect(accepted > 0 || name.hasSuffix(".npz"))
    }

    @Test(arguments: [
        // Holes, overlaps, ends before beginnings, bytes that belong to nobody.
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#, 8),
        (
            #"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            8
        ),
        (
            #"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}"#,
            12
        ),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, 8),
        (#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4),
        // Type times shape.
        (#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8),
        (#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
        (#"{"a":{"dtype":"F32","shape":[9223372036854775807,0],"data_offsets":[0,0]}}"#, 0),
        (#"{"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,0]}}"#, 0),
        // Duplicates and JSON that is none, or more than the format has.
        (
            #"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
            0
        ),
        (#"{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, 0),
        (#"{"__metadata__":{"x":"1","x":"2"}}"#, 0),
        (
            #"{"\u0061":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
            0
        ),
        (#"{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[01],"data_offsets":[0,4]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":{}}}"#, 4),
        (#"{"a":{"dtype":"Q3","shape":[1],"data_offsets":[0,4]}}"#, 4),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x"#, 4),
        (#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},}"#, 4),
        (#"{"a":null}"#, 0), (#"{"a":[[[[[[[[[[]"#, 0), (#"{"\ud800":"#, 0), (#"{"a"#, 0), (#"{"a\x":1}"#, 0),
    ])
    func strictSafetensors(_ header: String, _ data: Int) {
        #expect(failure(safetensorsFile(header, data: data)) != nil)
    }

    @Test func headerLengthsThatLie() {
        let valid = safetensorsFile(#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#, data: 4)
        #expect(failure(valid) == nil)
        for length in [0, 1, valid.count, 100_000_000, 100_000_001, 1 << 39, Int.max, -1] {
            #expect(failure(little(length, 8) + valid.dropFirst(8)) != nil, "\(length)")
        }
        // A header of spaces up to the limit is bounded by the file.
        #expect(failure(safetensorsFile("{}" + String(repeating: " ", count: 1000), data: 0)) == nil)
    }

    @Test(arguments: [
        (offset: 0, shape: [13], strides: [1]), (offset: 1, shape: [12], strides: [1]),
        (offset: 12, shape: [1], strides: [1]),
        (offset: -1, shape: [1], strides: [1]), (offset: 0, shape: [2], strides: [-1]),
        (offset: 0, shape: [3, 4], strides: [1]), (offset: 0, shape: [2, 2], strides: [Int.max, Int.max]),
        (offset: Int.max, shape: [1], strides: [1]), (offset: 0, shape: [Int.max], strides: [0]),
        (offset: 0, shape: [1 << 31, 1 << 31, 4], strides: [0, 0, 0]),
        (offset: 0, shape: [Int.max, 2, 0], strides: [0, 0, 0]),
        (offset: 0, shape: [-1], strides: [1]), (offset: 0, shape: [1 << 40], strides: [0]),
        (offset: 0, shape: [Int](repeating: 1, count: 65), strides: [Int](repeating: 1, count: 65)),
    ])
    func viewsStayInside(offset: Int, shape: [Int], strides: [Int]) {
        #expect(failure(Pickle.legacyTensor(offset: offset, shape: shape, strides: strides)) != nil)
    }

    @Test(arguments: [11, 13, Int.max, -1, 1 << 61])
    func storageCountsMustAgree(_ count: Int) {
        #expect(failure(Pickle.legacyTensor(shape: [1], strides: [1], count: count)) != nil)
        #expect(failure(Pickle.legacyTensor(shape: [1], strides: [1])) == nil)
    }

    @Test func expandedTensorsAreBounded() {
        // Four bytes that claim to be 2^28 elements, a few hundred times over.
        let tensor = Pickle.tensor(Pickle.storage("0", count: 12), shape: [1 << 26], strides: [0])
        let object =
            Pickle.emptyDictionary + Pickle.mark
            + (0..<300).flatMap { Pickle.text("w\($0)") + tensor } + Pickle.setItems
        let error = failure(Pickle.legacyFile(object, storages: [("0", (0..<12).map(Float.init))]), limits: tightLimits)
        guard case .overLimit? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }

    @Test func deepNestingNeedsNoStack() {
        // A million lists inside one another, and as many tuples.
        let lists = [UInt8](repeating: 0x5D, count: 1_000_000) + [UInt8](repeating: 0x61, count: 999_999)
        let tuples = Pickle.none + [UInt8](repeating: 0x85, count: 1_000_000)
        for deep in [lists, tuples] {
            guard case .noTensors? = failure(Pickle.legacyFile(deep)) else {
                Issue.record("deep nesting was not walked")
                continue
            }
        }
        // Dictionaries in dictionaries, with a tensor at the bottom, stop at the limit.
        var object = Pickle.emptyDictionary
        for _ in 0..<100 { object += Pickle.text("d") + Pickle.emptyDictionary }
        object += Pickle.text("w") + Pickle.tensor(Pickle.storage("0", count: 12), shape: [1], strides: [1])
        object += (0..<101).flatMap { _ in Pickle.setItem }
        guard case .overLimit? = failure(Pickle.legacyFile(object, storages: [("0", (0..<12).map(Float.init))])) else {
            Issue.record("a hundred nested dictionaries were accepted")
            return
        }
    }

    @Test func copiesOfOneListAreBounded() {
        // A list of a thousand pairs, made into dictionaries again and again by two-byte references.
        let pairs = (0..<1000).flatMap { Pickle.mark + Pickle.text("\($0)") + Pickle.none + Pickle.tuple }
        var object = Pickle.emptyList + Pickle.mark + pairs + Pickle.appends + [0x85] + Pickle.put(1)
        object += Pickle.global("collections", "OrderedDict") + Pickle.put(2) + Pickle.tuple()
        for _ in 0..<20_000 { object += Pickle.get(2) + Pickle.get(1) + Pickle.reduce + [0x86] }
        guard case .overLimit? = failure(Pickle.legacyFile(object)) else {
            Issue.record("twenty million copied pairs were accepted")
            return
        }
    }

    @Test(arguments: [
        [0x2E], [0x30, 0x2E], [0x28, 0x2E], [0x61], [0x52], [0x68, 0], [0x51], [0x74], [0x75], [0x28, 0x4E, 0x75],
        [0x62],
        [0x4E, 0x4E, 0x2E], [0x7D, 0x5D, 0x4E, 0x73], [0x5D, 0x28, 0x61], [0x7D, 0x28, 0x4E, 0x73], [0x95], [0x80, 4],
        [0x58, 0xFF, 0xFF, 0xFF, 0xFF], [0x58, 1, 0, 0, 0, 0xFF], [0x49, 0x31, 0x0A], [0x29, 0x29, 0x52], [0x71, 0],
    ])
    func brokenPickles(_ bytes: [UInt8]) {
        #expect(failure(Pickle.legacyFile(bytes)) != nil)
        #expect(failure(Pickle.start + bytes) != nil)
    }

    @Test(arguments: [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", 8),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", 4),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4611686018427387904), }", 0),
        ("{'descr': '<U0', 'fortran_order': False, 'shape': (1000000000000,), }", 0),
        ("{'descr': '<U4611686018427387904', 'fortran_order': False, 'shape': (4,), }", 0),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", 0),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,), }", 4),
        ("{'descr': '<f4', 'shape': (1,), }", 4), ("{'descr': '<f4'", 4), ("", 4), ("{}", 0),
        ("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4),
        ("{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", 8),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), } x", 4),
        ("__import__('os').system('true')", 4),
    ])
    func brokenArrays(_ header: String, _ data: Int) {
        #expect(failure(npyFile(header, data: data)) != nil)
        #expect(throws: CheckpointError.self) { try NumpyFile.read(bytes: npyFile(header, data: data), name: "test") }
    }

    @Test func badTextInArrays() {
        let header = "{'descr': '<U1', 'fortran_order': False, 'shape': (1,), }"
        let surrogate = npyFile(header, data: 0) + [0x00, 0xD8, 0, 0]
        #expect(throws: CheckpointError.self) { try NumpyFile.read(bytes: surrogate, name: "test") }
        #expect(throws: CheckpointError.self) { try NumpyFile.read(TestFiles.path("object.npy")) }
    }

    /// Zips whose directory lies: entries that share bytes, duplicate names, sizes beyond the file, bombs.
    @Test func lyingZips() throws {
        let bytes = try TestFiles.bytes("deflated.npz")
        let directory = Int(bytes.littleEndian(bytes.count - 6, 4))
        #expect(failure(bytes) == nil)
        func changed(_ edit: (inout [UInt8]) -> Void) -> CheckpointError? {
            var copy = bytes
            edit(&copy)
            return failure(copy, limits: tightLimits)
        }
        // The unpacked size says 3 GiB, more than deflate can hold in so few bytes.
        #expect(changed { $0.replaceSubrange(directory + 24..<directory + 28, with: little(3 << 30, 4)) } != nil)
        // One more, one less than the stream holds.
        #expect(changed { $0[directory + 24] &+= 1 } != nil)
        #expect(changed { $0[directory + 24] &-= 1 } != nil)
        // Encrypted, an unknown method, a wrong checksum.
        #expect(changed { $0[directory + 8] |= 1 } != nil)
        #expect(changed { $0[directory + 10] = 12 } != nil)
        #expect(changed { $0[directory + 16] ^= 1 } != nil)
        // The second entry points at the first one's bytes.
        let second = directory + 46 + Int(bytes.littleEndian(directory + 28, 2) + bytes.littleEndian(directory + 30, 2))
        #expect(changed { $0.replaceSubrange(second + 42..<second + 46, with: little(0, 4)) } != nil)
        // More entries than there are.
        #expect(changed { $0[$0.count - 12] = 200 } != nil)
        // The directory begins behind the end.
        #expect(changed { $0.replaceSubrange($0.count - 6..<$0.count - 2, with: little(0x7FFF_FFFF, 4)) } != nil)
    }

    @Test func twoEntriesOfTheSameBytes() throws {
        // Two directory entries for one local entry, as quoted zip bombs have it.
        let bytes = try TestFiles.bytes("zip64.npz")
        let directory = Int(bytes.littleEndian(bytes.count - 6, 4))
        let end = bytes.count - 22
        let entry = bytes[directory..<end]
        var doubled = Array(bytes[..<end]) + entry + bytes[end...]
        let newEnd = end + entry.count
        doubled.replaceSubrange(newEnd + 8..<newEnd + 12, with: little(2, 2) + little(2, 2))
        doubled.replaceSubrange(newEnd + 12..<newEnd + 16, with: little(2 * entry.count, 4))
        #expect(failure(doubled)?.description.contains("twice") == true)
        // Under another name the local header does not agree.
        doubled[newEnd - entry.count + 46] = UInt8(ascii: "b")
        #expect(failure(doubled) != nil)
    }

    @Test func compressedArraysAreBounded() throws {
        var limits = ReadLimits()
        limits.baseByteCount = 1000
        limits.expansion = 1
        guard case .overLimit? = failure(try TestFiles.bytes("deflated.npz"), limits: limits) else {
            Issue.record("8000 bytes were unpacked under a limit of 1000 and the file's size")
            return
        }
    }

    @Test func whatUnknownFilesLookLike() throws {
        func description(_ text: String) -> String { failure(Array(text.utf8))?.description ?? "" }
        #expect(description("").contains("an empty file"))
        #expect(description("<!DOCTYPE html><html>").contains("web page"))
        #expect(description("version https://git-lfs.github.com/spec/v1").contains("LFS"))
        #expect(failure([0x1F, 0x8B, 8, 0])?.description.contains("gzip") == true)
        #expect(description("plain text").contains("not a weights file"))
        #expect(throws: CheckpointError.self) { try CheckpointReader.load("/nonexistent/weights.pth") }
        #expect(throws: CheckpointError.self) { try CheckpointReader.load(TestFiles.folder.path) }
        let error = #expect(throws: CheckpointError.self) { try CheckpointReader.load("/nonexistent/weights.pth") }
        #expect(error?.description.contains("No such file") == true)
    }

    @Test func endlessDevicesAreRefused() {
        #expect(throws: CheckpointError.self) { try CheckpointReader.load("/dev/zero") }
    }
}

extension [UInt8] {
    func littleEndian(_ index: Int, _ count: Int) -> UInt64 {
        (0..<count).reduce(0) { $0 | UInt64(self[index + $1]) << UInt64(8 * $1) }
    }
}
