import Foundation
import GraftCheckpoint
import GraftGraph
import GraftTensor
import Testing

@testable import Graft

/// Networks that `torch.onnx.export` wrote: their scores are PyTorch's, they train, they are saved and come back.
@Suite struct ONNXTests {
    private static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "Fixtures").path
    static let files =
        ["TinyResNet", "TinySqueezeNet", "TinyVGG", "TinyMobileNet"].flatMap { name in
            ["folded", "kept", "dynamo"].map { (name, $0) }
        } + [("TinyConvNeXt", "folded"), ("TinyConvNeXt", "kept")]

    private static func path(_ network: String, _ kind: String) -> String { "\(folder)/\(network)-\(kind).onnx" }

    private static func logits(_ model: Model, _ input: HostTensor) throws -> [Float] {
        var model = model
        model.preprocessing = try ImagePreprocessing(imageSize: input.shape[2], resize: nil)
        let extractor = try FeatureExtractor(model, layers: ["logits"], device: Device("cpu", isExact: true))
        return try #require(try extractor.features(of: input)["logits"]?.floats)
    }

    /// The largest difference over the largest value.
    private static func difference(_ found: [Float], _ expected: [Float]) -> Float {
        guard found.count == expected.count else { return .infinity }
        return (zip(found, expected).map { abs($0 - $1) }.max() ?? 0) / (expected.map(abs).max() ?? 1)
    }

    @Test(arguments: files) func scoresArePyTorchs(_ network: String, _ kind: String) throws {
        let expected = try CheckpointReader.load(Self.folder + "/onnx_expected.npz").state
        let input = try #require(expected["\(network).input"])
        let scores = try #require(expected["\(network).logits"]?.floats)
        let model = try Model(weights: Self.path(network, kind))
        #expect(model.classCount == 5)
        #expect(Self.difference(try Self.logits(model, input), scores) < 1e-5)
        #expect(model.preprocessing.imageSize == 32)
        #expect(model.loadNotes.first?.hasPrefix("ONNX model by pytorch") == true)

        // Saved and read again without the ONNX file, and exported by Graft and read again.
        let temporary = try FolderForTest()
        for name in ["a.safetensors", "a.pth", "a.onnx"] {
            try model.save(temporary.path(name))
            let again = try Model(weights: temporary.path(name))
            #expect(again.graph.parameters.map(\.name) == model.graph.parameters.map(\.name))
            #expect(Self.difference(try Self.logits(again, input), scores) < 1e-5, "\(name)")
        }
        // With the ONNX file for the graph and another for the weights.
        let path = Self.path(network, kind)
        let both = try Model(path, weights: temporary.path("a.pth"))
        #expect(both.state == model.state)
    }

    @Test func namesAreTheModules() throws {
        let kept = try Model(weights: Self.path("TinyResNet", "kept"))
        #expect(kept.architecture.headName == "fc")
        let names = kept.graph.nodes.map(\.name)
        for name in [
            "conv1", "bn1", "relu", "maxpool", "layer1.0.conv1", "layer1.0.relu", "layer1.0.add", "layer1.0.relu_1",
            "layer2.0.downsample.0", "layer2.0.downsample.1", "avgpool", "flatten", "fc",
        ] { #expect(names.contains(name), "\(name) is not among \(names)") }
        #expect(kept.state["layer2.0.downsample.1.running_var"]?.shape == [16])
        // Constants without names: the modules that the nodes stand in.
        let folded = try Model(weights: Self.path("TinyResNet", "folded"))
        #expect(folded.state["layer1.0.conv1.weight"]?.shape == [8, 8, 3, 3])
        #expect(folded.state["layer1.0.conv1.bias"]?.shape == [8])
        let dynamo = try Model(weights: Self.path("TinyResNet", "dynamo"))
        #expect(dynamo.graph.nodes.map(\.name).contains("layer1.0.relu_1"))
        #expect(try Model(weights: Self.path("TinySqueezeNet", "kept")).architecture.headName == "classifier.1")
    }

    /// Functions that files write as several nodes are one layer, where the module stands.
    @Test(arguments: ["folded", "kept", "dynamo"]) func functionsOfSeveralNodesAreOneLayer(_ kind: String) throws {
        let mobile = try Model(weights: Self.path("TinyMobileNet", kind)).graph
        for (name, layer) in [
            ("features.0.2", Layer.activation(.relu6)), ("features.2.2", .activation(.silu)),
            ("features.3.activation", .activation(.silu)), ("features.3.scale_activation", .activation(.sigmoid)),
            ("features.3.mul", .channelScale), ("features.4.2", .activation(.hardSwish)),
            ("features.5.scale_activation", .activation(.hardSigmoid)), ("features.5.mul", .channelScale),
            ("classifier.1", .activation(.hardSwish)),
        ] {
            #expect(mobile.nodes.first { $0.name == name }?.layer == layer, "\(name) in \(mobile.nodes.map(\.name))")
        }
        guard case .convolution(let depthwise)? = mobile.nodes.first(where: { $0.name == "features.1.0" })?.layer else {
            Issue.record("there is no features.1.0")
            return
        }
        #expect(depthwise.groups == 8)
        guard kind != "dynamo" else { return }
        let next = try Model(weights: Self.path("TinyConvNeXt", kind))
        for (name, layer) in [
            ("features.0.1", Layer.layerNormalization(channels: 6, epsilon: 1e-6)),
            ("features.1.0.block.2", .layerNormalization(channels: 6, epsilon: 1e-6)),
            ("features.1.0.block.3", .pixelwiseLinear(inputFeatures: 6, outputFeatures: 24)),
            ("features.1.0.block.4", .activation(.gelu)),
            ("features.1.0.block.5", .pixelwiseLinear(inputFeatures: 24, outputFeatures: 6)),
            ("features.1.0.mul", .layerScale(channels: 6)),
            ("classifier.0", .layerNormalization(channels: 10, epsilon: 1e-6)),
        ] {
            #expect(
                next.graph.nodes.first { $0.name == name }?.layer == layer, "\(name) in \(next.graph.nodes.map(\.name))"
            )
        }
        #expect(next.state["features.3.0.layer_scale"]?.shape == [10, 1, 1])
    }

    @Test(arguments: files) func aNewHeadTrains(_ network: String, _ kind: String) throws {
        var model = try Model(weights: Self.path(network, kind))
        model.preprocessing = try ImagePreprocessing(imageSize: 32, resize: nil)
        model.freeze()
        try model.replaceHead(classCount: 2)
        let images = (0..<8).map { Self.picture($0) }
        let trainer = try Trainer(
            model, optimizer: .sgd(learningRate: 0.05), device: Device("cpu", isExact: true))
        var options = FitOptions()
        options.epochs = 2
        options.batchSize = 4
        try trainer.fit(
            ImageDataset(images: images, labels: (0..<8).map { $0 % 2 }, classes: ["a", "b"]), options: options)
        let trained = try trainer.model()
        let head = model.architecture.headName
        #expect(trained.state["\(head).weight"] != model.state["\(head).weight"])
        for (name, tensor) in model.state where !name.hasPrefix(head + ".") {
            #expect(trained.state[name] == tensor, "\(name) was frozen")
        }
        let temporary = try FolderForTest()
        try trained.save(temporary.path("t.safetensors"))
        let again = try Model(weights: temporary.path("t.safetensors"))
        #expect(again.classCount == 2)
        #expect(again.state == trained.state)
        #expect(again.architecture.name == "\(network)-\(kind).onnx")
    }

    /// An exported architecture of Graft's comes back as itself, dropout and all.
    @Test(arguments: [
        "resnet20_cifar", "squeezenet1_1", "resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
        "densenet121", "regnet_y_400mf", "convnext_tiny",
    ])
    func ownFilesAreRecognised(_ name: String) throws {
        let temporary = try FolderForTest()
        var model = try Model(name, classCount: 3, seed: 4)
        model.classNames = ["ant", "bee", "crane"]
        model.preprocessing = try ImagePreprocessing(imageSize: 64, resize: 72)
        try model.save(temporary.path("m.onnx"))
        let again = try Model(weights: temporary.path("m.onnx"))
        #expect(again.architecture.name == name)
        #expect(!again.architecture.isImported)
        #expect(again.graph == model.graph)
        #expect(again.state == model.state)
        #expect(again.classNames == model.classNames)
        #expect(again.preprocessing == model.preprocessing)
        // By name, and against another name.
        #expect(try Model(name, weights: temporary.path("m.onnx")).state == model.state)
        #expect(throws: GraftError.self) { try Model("resnet34", weights: temporary.path("m.onnx")) }
    }

    private static func picture(_ index: Int) -> RGBImage {
        var pixels: [UInt8] = []
        for position in 0..<32 * 32 * 3 {
            let value = position * (index + 3) + index * 90
            pixels.append(UInt8(value % 251))
        }
        return RGBImage(width: 32, height: 32, pixels: pixels)
    }

    @Test func aDamagedDescriptionIsAnError() throws {
        let temporary = try FolderForTest()
        let model = try Model(weights: Self.path("TinyVGG", "kept"))
        try model.save(temporary.path("m.safetensors"))
        let loaded = try CheckpointReader.load(temporary.path("m.safetensors"))
        let text = try #require(loaded.metadata["graph"])
        for (old, new) in [
            ("\"version\":1", "\"version\":9"), ("\"nodes\":[", "\"knots\":["), ("\"stride\":4", "\"stride\":0"),
            ("\"stride\":4", "\"stride\":9223372036854775807"), ("\"inputs\":[1]", "\"inputs\":[7]"),
            ("\"inputs\":[1]", "\"inputs\":[-1]"), ("\"groups\":3", "\"groups\":0"), ("\"head\":\"", "\"head\":\"x"),
            ("{", "["),
        ] {
            #expect(text.contains(old), "\(old) is not in \(text)")
            var metadata = loaded.metadata
            let range = try #require(text.range(of: old))
            metadata["graph"] = text.replacingCharacters(in: range, with: new)
            try Safetensors.write(loaded.state, metadata: metadata, to: temporary.path("d.safetensors"))
            #expect(throws: GraftError.self, "\(old) as \(new)") { try Model(weights: temporary.path("d.safetensors")) }
        }
    }

    /// Layer scales have their module's name: two of one module would be one tensor.
    @Test func tensorsOfOneNameAreAnError() throws {
        let input = Graph.Node(name: "input", layer: .input(channels: 3), inputs: [])
        let first = Graph.Node(name: "block.mul", layer: .layerScale(channels: 3), inputs: [0])
        let second = Graph.Node(name: "other.mul", layer: .layerScale(channels: 3), inputs: [1])
        let graph = try Graph(checking: [input, first, second], height: 8, width: 8)
        #expect(graph.parameters.map(\.name) == ["block.layer_scale", "other.layer_scale"])
        let again = Graph.Node(name: "block.mul_1", layer: .layerScale(channels: 3), inputs: [1])
        #expect(throws: GraphError.self) { try Graph(checking: [input, first, again], height: 8, width: 8) }
    }

    @Test func aFileThatIsNoModelIsAnError() throws {
        let temporary = try FolderForTest()
        let bytes = try Data(contentsOf: URL(filePath: Self.path("TinyVGG", "dynamo")))
        for count in stride(from: 0, to: bytes.count, by: 97) {
            try bytes.prefix(count).write(to: URL(filePath: temporary.path("c.onnx")))
            #expect(throws: (any Error).self) { try Model(weights: temporary.path("c.onnx")) }
        }
    }
}
