import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

@Suite struct ConvertCommandTests {
    private static let state = StateDictionary([
        ("conv.weight", HostTensor([1, 2, 1, 1], [1.5, -0.0])),
        ("bn.num_batches_tracked", HostTensor(shape: [], storage: .int64([7]))),
    ])

    @Test func everyFormatByEndingAndByName() throws {
        let folder = try TemporaryFolder()
        let input = folder.path + "/in file ü.safetensors"
        try Safetensors.write(Self.state, metadata: ["architecture": "custom"], to: input)
        var previous = input
        for (name, options) in [("a.pth", []), ("a.npz", []), ("weights", ["--format", "pth"]), ("b.safetensors", [])] {
            let output = folder.path + "/" + name
            let result = try Graft.run(["convert", previous, output] + options)
            #expect(result.status == 0, "\(result.errors)")
            #expect(result.output.hasPrefix("\(output): "))
            #expect(result.output.contains("2 tensors, 3 elements, for custom"))
            let loaded = try CheckpointReader.load(output)
            #expect(loaded.state == Self.state)
            #expect(loaded.state.names == Self.state.names)
            #expect(loaded.metadata == ["architecture": "custom"])
            previous = output
        }
        #expect(try Data(contentsOf: URL(filePath: previous)) == Data(contentsOf: URL(filePath: input)))
        let json = try Graft.run(["convert", input, folder.path + "/a.pth", "--json", "--quiet"])
        #expect(json.errors.isEmpty)
        #expect(try json.json["tensors"] as? Int == 2)
        #expect(try json.json["format"] as? String == "pth")
        #expect(try json.json["metadata"] as? [String: String] == ["architecture": "custom"])
    }

    @Test func aFileMayReplaceItself() throws {
        let folder = try TemporaryFolder()
        let path = folder.path + "/w.pth"
        try Safetensors.write(Self.state, to: path)
        let result = try Graft.run(["convert", path, path])
        #expect(result.status == 0, "\(result.errors)")
        let loaded = try CheckpointReader.load(path)
        #expect(loaded.container == .torchZip)
        #expect(loaded.state == Self.state)
        #expect(try FileManager.default.contentsOfDirectory(atPath: folder.path) == ["w.pth"])
    }

    @Test func modelChecksAndNamesTheWeights() throws {
        let folder = try TemporaryFolder()
        let input = folder.path + "/w.safetensors"
        try Safetensors.write(Self.state, to: input)
        let wrong = try Graft.run(["convert", input, folder.path + "/o.pth", "--model", "resnet18"])
        #expect(wrong.status == 65)
        #expect(wrong.errors.contains("fc.weight"))
        #expect(!FileManager.default.fileExists(atPath: folder.path + "/o.pth"))
        let unknown = try Graft.run(["convert", input, folder.path + "/o.pth", "--model", "resnet19"])
        #expect(unknown.status == 64)
        #expect(unknown.errors.contains("resnet18"))
    }

    @Test func badRequestsSayWhatIsWrong() throws {
        let folder = try TemporaryFolder()
        let input = folder.path + "/w.safetensors"
        try Safetensors.write(Self.state, to: input)
        let ending = try Graft.run(["convert", input, folder.path + "/o.bin"])
        #expect(ending.status == 64)
        #expect(ending.errors.contains("--format"))
        #expect(try Graft.run(["convert", folder.path + "/absent.pth", folder.path + "/o.pth"]).status == 66)
        #expect(try Graft.run(["convert", input, folder.path + "/no/such/o.pth"]).status == 73)
        let names = try Graft.run(["convert", input, folder.path + "/o.pth", "--names", "timm"])
        #expect(names.status == 65)
        #expect(names.errors.contains("timm"))
        try folder.write(Array("text".utf8), to: "bad.pth")
        #expect(try Graft.run(["convert", folder.path + "/bad.pth", folder.path + "/o.pth"]).status == 65)
        #expect(try Graft.run(["convert", input]).status == 64)
    }
}
