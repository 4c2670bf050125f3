import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

@testable import Graft

@Suite struct TensorNamingTests {
    /// VGG-11's tensors with few classes; zeros, but for the head's bias.
    private static func timmNames(_ state: StateDictionary) -> StateDictionary {
        let modules = [
            ("classifier.0", "pre_logits.fc1"), ("classifier.3", "pre_logits.fc2"), ("classifier.6", "head.fc"),
        ]
        return StateDictionary(
            state.map { name, tensor in
                for (own, timm) in modules where name.hasPrefix(own + ".") {
                    let kernel = own == "classifier.0" ? 7 : 1
                    let isConvolution = name.hasSuffix("weight") && own != "classifier.6"
                    let shape: Shape =
                        isConvolution
                        ? [tensor.shape[0], tensor.shape[1] / (kernel * kernel), kernel, kernel] : tensor.shape
                    return (timm + name.dropFirst(own.count), tensor.reshaped(shape))
                }
                return (name, tensor)
            })
    }

    /// A VGG of few channels: the mapping does not depend on widths.
    private static func smallState() -> StateDictionary {
        func tensor(_ shape: Shape) -> HostTensor { HostTensor(shape, (0..<shape.elementCount).map(Float.init)) }
        return StateDictionary([
            ("features.0.weight", tensor([2, 3, 3, 3])), ("features.0.bias", tensor([2])),
            ("classifier.0.weight", tensor([4, 98])), ("classifier.0.bias", tensor([4])),
            ("classifier.3.weight", tensor([4, 4])), ("classifier.3.bias", tensor([4])),
            ("classifier.6.weight", tensor([5, 4])), ("classifier.6.bias", tensor([5])),
        ])
    }

    @Test func namesMapBothWays() throws {
        let folder = try FolderForTest()
        let own = Self.smallState()
        let timm = Self.timmNames(own)
        #expect(timm["pre_logits.fc1.weight"]?.shape == [4, 2, 7, 7])
        try Safetensors.write(own, metadata: ["architecture": "vgg11"], to: folder.path("own.safetensors"))
        _ = try WeightsConversion.run(folder.path("own.safetensors"), to: folder.path("timm.pth"), names: .timm)
        let written = try CheckpointReader.load(folder.path("timm.pth"))
        #expect(written.state == timm)
        #expect(written.state.names == timm.names)
        #expect(written.metadata["architecture"] == "vgg11")
        _ = try WeightsConversion.run(folder.path("timm.pth"), to: folder.path("back.npz"), names: .torchvision)
        let back = try CheckpointReader.load(folder.path("back.npz"))
        #expect(back.state == own)
        // Names that are there already stay; names that nobody knows are an error.
        let again = try WeightsConversion.run(folder.path("timm.pth"), to: folder.path("again.pth"), names: .timm)
        #expect(again.notes.contains { $0.contains("timm's already") })
        #expect(try CheckpointReader.load(folder.path("again.pth")).state == timm)
        try Safetensors.write(StateDictionary([("x", HostTensor([1], [1]))]), to: folder.path("x.safetensors"))
        #expect(throws: GraftError.self) {
            try WeightsConversion.run(folder.path("x.safetensors"), to: folder.path("y.pth"), names: .timm)
        }
        #expect(!FileManager.default.fileExists(atPath: folder.path("y.pth")))
    }

    @Test func timmsShapesMustFit() throws {
        var timm = Self.timmNames(Self.smallState())
        timm["pre_logits.fc1.weight"] = HostTensor([4, 98], repeating: 0)
        #expect(throws: GraftError.self) { try TensorNaming.withTorchvisionNames(timm, source: "test") }
    }

    /// What loading does by itself.
    @Test func timmsNamesAreRecognised() throws {
        let own = Self.smallState()
        #expect(try TensorNaming.withTorchvisionNames(Self.timmNames(own), source: "test") == own)
        #expect(try TensorNaming.withTorchvisionNames(own, source: "test") == nil)
    }

    @Test func resNetsNamesAreTimms() throws {
        let model = try Model("resnet18", classCount: 2)
        let tensors = model.state.map { (name: $0.name, shape: $0.tensor.shape) }
        #expect(try TensorNaming.timm.renaming(tensors, source: "test") == nil)
        #expect(try TensorNaming.torchvision.renaming(tensors, source: "test") == nil)
    }

    /// A file's texts go through every format and back into a model.
    @Test func everyFormatCarriesTheModel() throws {
        let folder = try FolderForTest()
        var model = try Model("resnet20_cifar", classCount: 3, seed: 5)
        model.classNames = ["ant", "bee", "crane"]
        for name in ["m.pth", "m.npz", "m.safetensors", "m.bin"] {
            try model.save(folder.path(name))
            let loaded = try Model(weights: folder.path(name))
            #expect(loaded.state == model.state, "\(name)")
            #expect(loaded.classNames == model.classNames)
            #expect(loaded.preprocessing == model.preprocessing)
        }
        #expect(try CheckpointReader.load(folder.path("m.bin")).container == .safetensors)
    }
}

/// A folder that goes when the value does.
final class FolderForTest {
    private let url: URL

    init() throws {
        url = FileManager.default.temporaryDirectory.appending(path: "graft-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(at: url) }

    func path(_ name: String) -> String { url.appending(path: name).path }
}
