import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

/// Writing PyTorch's zip, and carrying tensors from one container to another.
@Suite struct ConversionTests {
    /// The bytes of the first entry, `data.pkl`, of a zip that was written here.
    private static func pickle(_ path: String) throws -> [UInt8] {
        let bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
        #expect(Array(bytes[30..<46]) == Array("archive/data.pkl".utf8))
        let start = 46 + Int(bytes[28]) + Int(bytes[29]) << 8
        let count = (0..<4).reduce(0) { $0 | Int(bytes[22 + $1]) << (8 * $1) }
        return Array(bytes[start..<start + count])
    }

    private static func kept(_ path: String) throws -> LoadedCheckpoint {
        var limits = ReadLimits.standard
        limits.keepsElementTypes = true
        return try CheckpointReader.load(path, limits: limits)
    }

    /// The pickle is byte for byte what `torch.save` wrote for the same tensors: every element type, scalars, empty
    /// tensors, five dimensions.
    @Test func thePickleIsPyTorchs() throws {
        let folder = try TestFiles.temporaryFolder()
        let source = try Self.kept(TestFiles.path("saved_types.pth"))
        #expect(source.contents.map(\.content.typeName).contains("uint16"))
        try CheckpointWriter.write(source.contents, metadata: [:], format: .pth, to: folder + "/a.pth")
        #expect(try Self.pickle(folder + "/a.pth") == TestFiles.bytes("saved_types.pkl"))
    }

    /// Digests of what `torch.save` writes for `count` tensors: batches of 1000 items, memo numbers above 255.
    @Test(arguments: [
        (0, "f415ed8a5f5414778834b70e68576b4cb1004836b3d1c11c0081e680872fd89e"),
        (1, "ec342cce2b8776037f395c0c9b9c4d5f78e93bc07a19d7304cae17823773ba99"),
        (2, "94978e692024b95578f7064617e750eb4e3663cf67dd3d6d536711f31107a628"),
        (1000, "4ec81999e0195454d77d5266e9783a8a2b09b2c64a66302ced847818cadc679d"),
        (1001, "db56c80313fff3c6dbd2aad8f2f52fa283c6a216e81221cc9dfc23b47f3f47fe"),
        (1300, "769d2f98299608bdeeaec451402c9f3972b8c8383a22209a65de0869c27bd661"),
    ])
    func manyTensors(_ count: Int, _ expected: String) throws {
        let folder = try TestFiles.temporaryFolder()
        let tensors = (0..<count).map { index in
            (name: "t\(index)", content: TensorContent(HostTensor([index % 3 + 1], repeating: 0)))
        }
        try CheckpointWriter.write(tensors, metadata: [:], format: .pth, to: folder + "/a.pth")
        let digest = SHA256Digest()
        digest.update(try Self.pickle(folder + "/a.pth"))
        #expect(try digest.hex() == expected)
    }

    @Test func everyFormatKeepsTypesNamesOrderAndTexts() throws {
        let folder = try TestFiles.temporaryFolder()
        let source = try Self.kept(TestFiles.path("saved_types.pth"))
        let metadata = ["architecture": "resnet18", "class_names": "[\"ant\",\"bee\"]", "ü": "\u{7}\"\\\n"]
        var previous = source.contents
        for format in [CheckpointFormat.pth, .safetensors, .pth, .npz, .pth] {
            let path = folder + "/again." + format.rawValue
            try CheckpointWriter.write(previous, metadata: metadata, format: format, to: path)
            let loaded = try Self.kept(path)
            #expect(loaded.metadata == metadata, "\(format)")
            #expect(loaded.contents.map(\.name) == source.contents.map(\.name), "\(format)")
            for (found, expected) in zip(loaded.contents, previous) {
                // numpy has no bfloat16.
                if format == .npz, expected.content.typeName == "bfloat16" {
                    #expect(found.content.typeName == "float32")
                    #expect(loaded.state[found.name] == source.state[found.name])
                } else {
                    #expect(found.content == expected.content, "\(found.name) in \(format)")
                }
            }
            previous = loaded.contents
        }
    }

    @Test func bytesAreDeterministicAlignedAndExact() throws {
        let folder = try TestFiles.temporaryFolder()
        let values = (0..<37).map { Float(bitPattern: 0x4048_0000 &+ UInt32($0) &* 7919) }
        let tensors = [
            (name: "fc.weight", content: TensorContent(HostTensor([37], values))),
            (name: "bn.num_batches_tracked", content: TensorContent(HostTensor(shape: [], storage: .int64([.min])))),
            (name: "odd", content: TensorContent(HostTensor([2], [.nan, -0.0]))),
        ]
        for name in ["a", "b"] {
            try CheckpointWriter.write(tensors, metadata: ["k": "v"], format: .pth, to: folder + "/\(name).pth")
        }
        let bytes = [UInt8](try Data(contentsOf: URL(filePath: folder + "/a.pth")))
        #expect(try bytes == [UInt8](Data(contentsOf: URL(filePath: folder + "/b.pth"))))
        let raw = values.flatMap { little(Int($0.bitPattern), 4) }
        let places = (0...bytes.count - raw.count).filter { Array(bytes[$0..<$0 + raw.count]) == raw }
        #expect(places.count == 1)
        #expect(try #require(places.first).isMultiple(of: 64))
        let loaded = try Self.kept(folder + "/a.pth")
        #expect(loaded.container == .torchZip)
        #expect(loaded.state["fc.weight"]?.floats?.map(\.bitPattern) == values.map(\.bitPattern))
        #expect(loaded.state["bn.num_batches_tracked"]?.int64s == [.min])
        #expect(loaded.state["odd"]?.floats?[0].isNaN == true)
        #expect(loaded.state["odd"]?.floats?[1].sign == .minus)
    }

    /// Views are written as what they show, with a storage of their own; big-endian numbers turn round.
    @Test func viewsAndByteOrders() throws {
        let folder = try TestFiles.temporaryFolder()
        for name in ["views.pth", "views_legacy.pth", "big_endian.pth", "old.tar", "fortran.npy", "big_endian.npy"] {
            let source = try Self.kept(TestFiles.path(name))
            for format in CheckpointFormat.allCases {
                let path = folder + "/v." + format.rawValue
                try CheckpointWriter.write(source.contents, metadata: [:], format: format, to: path)
                let loaded = try Self.kept(path)
                #expect(loaded.contents.map(\.content) == source.contents.map(\.content), "\(name) as \(format)")
                #expect(loaded.state == source.state, "\(name) as \(format)")
            }
        }
    }

    @Test func damagedTextsAreErrors() throws {
        let folder = try TestFiles.temporaryFolder()
        let tensors = [(name: "w", content: TensorContent(HostTensor([1], [1])))]
        for format in [CheckpointFormat.pth, .npz] {
            let path = folder + "/m." + format.rawValue
            try CheckpointWriter.write(tensors, metadata: ["key": "value"], format: format, to: path)
            var bytes = [UInt8](try Data(contentsOf: URL(filePath: path)))
            // A changed text is noticed by its CRC-32.
            let needle = format == .pth ? Array("\"key\"".utf8) : "\"key\"".utf8.flatMap { [$0, 0, 0, 0] }
            let place = try #require(
                (0..<bytes.count - needle.count).first { Array(bytes[$0..<$0 + needle.count]) == needle })
            bytes[place] = UInt8(ascii: "[")
            #expect(failure(bytes) != nil, "\(format)")
        }
        // A text array of that name that holds no JSON object.
        let archive = try NumpyArchiveWriter(path: folder + "/n.npz")
        try archive.add("w", NumpyArray(HostTensor([1], [1])))
        try archive.add("__metadata__", NumpyArray(shape: [], storage: .strings(["{\"a\":1}"])))
        try archive.finish()
        #expect(throws: CheckpointError.self) { try CheckpointReader.load(folder + "/n.npz") }
    }

    @Test(arguments: [
        ("a.pth", CheckpointFormat.pth), ("a.PT", .pth), ("x/a.th", .pth), ("a.safetensors", .safetensors),
        ("a.b.npz", .npz), ("a.npy", nil), ("pth", nil), ("a.pth/b", nil),
    ]) func endings(_ path: String, _ format: CheckpointFormat?) {
        #expect(CheckpointFormat(ending: path) == format)
    }
}
