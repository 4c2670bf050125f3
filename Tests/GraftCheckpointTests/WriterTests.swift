import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

@Suite struct WriterTests {
    static let state = StateDictionary([
        ("features.0.weight", HostTensor([2, 3], [1, -2, 3.5, .infinity, -0.0, 0x1p-140])),
        ("bn.num_batches_tracked", HostTensor(shape: [], storage: .int64([Int64.min]))),
        ("empty", HostTensor([0, 4], [])),
        ("pixels", HostTensor(shape: [3], storage: .uint8([0, 128, 255]))),
        ("labels", HostTensor(shape: [2], storage: .int32([-1, Int32.max]))),
        ("name \"quoted\" \\ ü\n\u{1}", HostTensor([1], [42])),
    ])

    @Test func safetensorsRoundTrip() throws {
        let folder = try TestFiles.temporaryFolder()
        let metadata = ["architecture": "resnet18", "classes": "ant\nbee", "ü": "\u{7}\"\\"]
        try Safetensors.write(Self.state, metadata: metadata, to: folder + "/a.safetensors")
        let loaded = try CheckpointReader.load(folder + "/a.safetensors")
        #expect(loaded.state.names == Self.state.names)
        for (name, tensor) in Self.state where tensor.floats != nil || tensor.int64s != nil {
            #expect(loaded.state[name] == tensor, "\(name)")
        }
        // Small integers come back widened, and say so.
        #expect(loaded.state["pixels"]?.int64s == [0, 128, 255])
        #expect(loaded.state["labels"]?.int64s == [-1, Int64(Int32.max)])
        #expect(loaded.originalTypes == ["pixels": "uint8", "labels": "int32"])
        #expect(loaded.metadata == metadata)
        // Signs of zeros survive.
        #expect(loaded.state["features.0.weight"]?.floats?[4].sign == .minus)
    }

    @Test func commonPrefixesComeOffInEveryContainer() throws {
        let folder = try TestFiles.temporaryFolder()
        let wrapped = StateDictionary([
            ("_orig_mod.module.fc.weight", HostTensor([1, 2], [1, 2])),
            ("_orig_mod.module.fc.bias", HostTensor([1], [3])),
        ])
        try Safetensors.write(wrapped, metadata: [:], to: folder + "/a.safetensors")
        let loaded = try CheckpointReader.load(folder + "/a.safetensors")
        #expect(loaded.state.names == ["fc.weight", "fc.bias"])
        #expect(loaded.state["fc.bias"]?.floats == [3])
        #expect(loaded.strippedPrefix == "_orig_mod.module.")
        let archive = try NumpyArchiveWriter(path: folder + "/a.npz")
        try archive.add("module.fc.weight", NumpyArray(HostTensor([1, 2], [1, 2])))
        try archive.finish()
        #expect(try CheckpointReader.load(folder + "/a.npz").state.names == ["fc.weight"])
    }

    @Test func aHeaderThatBeginsLikeAPickleIsSafetensors() throws {
        let json = #"{"fc.bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#
        for length in [128, 384] {
            let header = Array(json.utf8) + [UInt8](repeating: 0x20, count: length - json.utf8.count)
            let bytes =
                [UInt8(length & 255), UInt8(length >> 8), 0, 0, 0, 0, 0, 0] + header + [UInt8](repeating: 0, count: 8)
            #expect(bytes[0] == 0x80)
            let loaded = try CheckpointReader.load(bytes: bytes, name: "head")
            #expect(loaded.container == .safetensors)
            #expect(loaded.state["fc.bias"]?.floats == [0, 0])
        }
    }

    @Test func aPipeIsNoWeightsFile() throws {
        let path = try TestFiles.temporaryFolder() + "/pipe"
        #expect(mkfifo(path, 0o600) == 0)
        // Nobody writes to it: opening it to read would wait for ever.
        #expect(throws: CheckpointError.self) { try CheckpointReader.load(path) }
    }

    @Test func safetensorsBytesAreDeterministicAndAligned() throws {
        let folder = try TestFiles.temporaryFolder()
        let metadata = Dictionary(uniqueKeysWithValues: (0..<50).map { ("key\($0)", "\($0)") })
        var files: [Data] = []
        for index in 0..<3 {
            try Safetensors.write(Self.state, metadata: metadata, to: folder + "/\(index).safetensors")
            files.append(try Data(contentsOf: URL(filePath: folder + "/\(index).safetensors")))
        }
        #expect(files[0] == files[1])
        #expect(files[0] == files[2])
        let header = files[0].prefix(8).enumerated().reduce(0) { $0 | Int($1.element) << (8 * $1.offset) }
        #expect(header % 8 == 0)
        #expect(files[0].count == 8 + header + 8 + 24 + 8 + 4 + 3)
    }

    @Test func numpyRoundTrip() throws {
        let folder = try TestFiles.temporaryFolder()
        let arrays: [(name: String, array: NumpyArray)] = [
            ("features/0", NumpyArray(shape: [2, 3], storage: .float32([1, 2, 3, 4, 5, 6]))),
            ("labels", NumpyArray([3, -1, Int64.max])),
            ("small", NumpyArray(shape: [2, 1], storage: .int32([Int32.min, 7]))),
            ("pixels", NumpyArray(shape: [1, 2], storage: .uint8([0, 255]))),
            ("paths", NumpyArray(["train/ant/1.jpg", "", "ü🐝", "a\0b"])),
            ("none", NumpyArray([String]())),
            ("scalar", NumpyArray(shape: [], storage: .float32([2.5]))),
            ("empty", NumpyArray(shape: [0, 7], storage: .float32([]))),
        ]
        try NumpyArchiveWriter.write(arrays, to: folder + "/a.npz")
        try NumpyArchiveWriter.write(arrays, to: folder + "/b.npz")
        #expect(
            try Data(contentsOf: URL(filePath: folder + "/a.npz")) == Data(contentsOf: URL(filePath: folder + "/b.npz"))
        )
        let archive = try NumpyFile.read(folder + "/a.npz")
        #expect(archive.names == arrays.map(\.name))
        for (name, array) in arrays { #expect(archive[name] == array, "\(name)") }
        try NumpyArchiveWriter.writeArray(arrays[0].array, to: folder + "/a.npy")
        #expect(try NumpyFile.read(folder + "/a.npy")["arr_0"] == arrays[0].array)
    }

    @Test func numpyInPieces() throws {
        let folder = try TestFiles.temporaryFolder()
        let writer = try NumpyArchiveWriter(path: folder + "/pieces.npz")
        try writer.beginFloats("a", shape: [4, 3])
        for row in 0..<4 { try writer.append([Float](repeating: Float(row), count: 3)) }
        try writer.beginIntegers("labels", shape: [3])
        for label in 0..<3 { try writer.append([Int64(label)]) }
        try writer.beginTexts("paths", shape: [2], width: 4)
        try writer.append(["ab"])
        #expect(throws: CheckpointError.self) { try writer.append(["abcde"]) }
        try writer.append(["äöüé"])
        #expect(!FileManager.default.fileExists(atPath: folder + "/pieces.npz"))
        try writer.finish()
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["pieces.npz"])
        let archive = try NumpyFile.read(folder + "/pieces.npz")
        #expect(archive["a"]?.floats == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])
        #expect(archive["labels"] == NumpyArray([0, 1, 2]))
        #expect(archive["paths"] == NumpyArray(["ab", "äöüé"]))

        let whole = NumpyArray(shape: [2, 2], storage: .float32([1, 2, 3, 4]))
        try NumpyArchiveWriter.writeArray(whole, to: folder + "/whole.npy")
        let lone = try NumpyArchiveWriter(arrayPath: folder + "/lone.npy")
        try lone.beginFloats("a", shape: [2, 2])
        try lone.append([1, 2] as [Float])
        try lone.append([3, 4] as [Float])
        try lone.finish()
        #expect(
            try Data(contentsOf: URL(filePath: folder + "/lone.npy"))
                == Data(contentsOf: URL(filePath: folder + "/whole.npy")))
    }

    @Test func safetensorsInPiecesHaveTheBytesOfWholeOnes() throws {
        let folder = try TestFiles.temporaryFolder()
        let state = StateDictionary([
            ("b", HostTensor([2, 2], [1, 2, 3, 4])), ("a", HostTensor(shape: [1], storage: .int64([7]))),
        ])
        try Safetensors.write(state, metadata: ["k": "v"], to: folder + "/whole.safetensors")
        let writer = try SafetensorsWriter(
            path: folder + "/pieces.safetensors",
            tensors: [.init(name: "b", type: .f32, shape: [2, 2]), .init(name: "a", type: .i64, shape: [1])],
            metadata: ["k": "v"])
        #expect(writer.order.map(\.name) == ["a", "b"])
        try writer.append([Int64(7)])
        try writer.append([1, 2, 3] as [Float])
        #expect(throws: CheckpointError.self) { try writer.finish() }
        try writer.append([4] as [Float])
        try writer.finish()
        #expect(
            try Data(contentsOf: URL(filePath: folder + "/pieces.safetensors"))
                == Data(contentsOf: URL(filePath: folder + "/whole.safetensors")))
    }

    @Test func unfinishedArraysAreErrors() throws {
        let folder = try TestFiles.temporaryFolder()
        do {
            let writer = try NumpyArchiveWriter(path: folder + "/a.npz")
            try writer.beginFloats("a", shape: [2])
            #expect(throws: CheckpointError.self) { try writer.append([1, 2, 3] as [Float]) }
            try writer.append([1] as [Float])
            #expect(throws: CheckpointError.self) { try writer.add("b", NumpyArray([1])) }
            #expect(throws: CheckpointError.self) { try writer.finish() }
            #expect(throws: CheckpointError.self) { try writer.beginFloats("a", shape: [1]) }
        }
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder).isEmpty)
    }

    @Test func numpysOwnArrays() throws {
        let archive = try NumpyFile.read(TestFiles.path("arrays.npz"))
        #expect(archive["floats"] == NumpyArray(shape: [2, 3], storage: .float32([0, 1, 2, 3, 4, 5])))
        #expect(archive["labels"] == NumpyArray([0, 1, 2, 3]))
        #expect(archive["small"] == NumpyArray(shape: [3], storage: .int32([0, 1, 2])))
        #expect(archive["bytes"] == NumpyArray(shape: [3], storage: .uint8([0, 1, 2])))
        #expect(archive["flags"] == NumpyArray(shape: [2], storage: .uint8([1, 0])))
        #expect(archive["half"]?.floats == [0, 1, 2])
        #expect(archive["double"]?.floats == [0, 1, 2])
        #expect(archive["names"] == NumpyArray(["ant", "büß", "", "🐝 bee"]))
        #expect(archive["latin"] == NumpyArray(["ab", "c"]))
        #expect(archive["scalar"] == NumpyArray(shape: [], storage: .float32([2.5])))
        #expect(archive["empty"]?.shape == [0, 4])
        let deflated = try NumpyFile.read(TestFiles.path("deflated.npz"))
        #expect(
            deflated["zeros"] == NumpyArray(shape: [50, 40], storage: .float32([Float](repeating: 0, count: 2000))))
        #expect(deflated["labels"]?.integers == Array(0..<100))
        #expect(try NumpyFile.read(TestFiles.path("zip64.npz"))["a"]?.floats == [0, 1, 2, 3, 4])
        #expect(try NumpyFile.read(TestFiles.path("fortran.npy"))["arr_0"]?.floats == (0..<12).map(Float.init))
        #expect(try NumpyFile.read(TestFiles.path("big_endian.npy"))["arr_0"]?.floats == [0, 1, 2, 3, 4])
        #expect(try NumpyFile.read(TestFiles.path("big_endian_text.npy"))["arr_0"]?.strings == ["ab", "c"])
        // As weights: numbers are tensors, texts are noted.
        let loaded = try load("arrays.npz")
        #expect(loaded.state["half"] == HostTensor([3], [0, 1, 2]))
        #expect(loaded.originalTypes["double"] == "float64")
        #expect(loaded.ignored.map(\.name) == ["names", "latin"])
    }

    @Test func earlierFilesSurviveFailures() throws {
        let folder = try TestFiles.temporaryFolder()
        let path = folder + "/weights.safetensors"
        try AtomicFile.write("earlier", to: path)
        do {
            let file = try AtomicFile(path: path)
            try file.write("half of a n")
            // Dropped without commit, as when an error is thrown.
        }
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "earlier")
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["weights.safetensors"])
        try AtomicFile.write("later", to: path)
        #expect(try String(contentsOfFile: path, encoding: .utf8) == "later")
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder) == ["weights.safetensors"])
    }

    @Test func linksStayLinks() throws {
        let folder = try TestFiles.temporaryFolder()
        try AtomicFile.write("earlier", to: folder + "/real")
        try FileManager.default.createSymbolicLink(atPath: folder + "/link", withDestinationPath: folder + "/real")
        try AtomicFile.write("later", to: folder + "/link")
        #expect(try String(contentsOfFile: folder + "/real", encoding: .utf8) == "later")
        #expect(try FileManager.default.destinationOfSymbolicLink(atPath: folder + "/link") == folder + "/real")
    }

    @Test func placesThatCannotBeWritten() throws {
        let folder = try TestFiles.temporaryFolder()
        for path in [folder, folder + "/", folder + "/absent/file", "/proc/file", "/dev/null", ""] {
            let error = #expect(throws: CheckpointError.self) { try AtomicFile.write("x", to: path) }
            #expect(error?.isOutputFailure == true, "\(path)")
            #expect(error?.description.contains("cannot") == true)
        }
        // Root may write anywhere: only other users can see this one.
        if getuid() != 0 {
            try FileManager.default.setAttributes([.posixPermissions: 0o555], ofItemAtPath: folder)
            let error = #expect(throws: CheckpointError.self) { try AtomicFile.write("x", to: folder + "/file") }
            #expect(error?.description.contains("Permission denied") == true)
            try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: folder)
        }
    }
}
