import GraftGraph
import GraftTensor
import Testing

@testable import GraftONNX

/// What is exported comes back: layers, names, shapes, every bit of the weights.
@Suite struct RoundTripTests {
    /// A network with every kind of layer and awkward sizes.
    static func everyLayer() -> Graph {
        var graph = Graph()
        let input = graph.add("input", .input(channels: 3))
        var x = graph.add(
            "stem.conv", .convolution(ConvolutionLayer(3, 6, kernel: 5, stride: 2, padding: 2, groups: 3, bias: true)),
            input)
        x = graph.add("stem.bn", .batchNormalization(channels: 6, epsilon: 1e-3, momentum: 0.05), x)
        x = graph.add("stem.relu", .relu, x)
        let y = graph.add("pool", .maxPooling(kernel: 3, stride: 2, padding: 1, ceilMode: true), x)
        let shortcut = graph.add("block.shortcut", .subsampleAndPad(stride: 2, before: 1, after: 1), y)
        x = graph.add(
            "block.conv", .convolution(ConvolutionLayer(6, 8, kernel: 3, stride: 2, padding: 2, dilation: 2)), y)
        x = graph.add("block.add", .add, x, shortcut)
        x = graph.add("block.relu", .relu, x)
        x = graph.add("block.cat", .concatenation, inputs: [x, shortcut, x])
        x = graph.add("average", .averagePooling(kernel: 2, stride: 1, padding: 1), x)
        x = graph.add("drop", .dropout(rate: 0.25), x)
        for function in [Activation.relu6, .silu, .hardSwish, .hardSigmoid, .sigmoid, .gelu] {
            x = graph.add("functions.\(function.rawValue)", .activation(function), x)
        }
        var gate = graph.add("se.avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        gate = graph.add("se.fc", .convolution(ConvolutionLayer(24, 24, kernel: 1, bias: true)), gate)
        gate = graph.add("se.scale_activation", .activation(.sigmoid), gate)
        x = graph.add("se.mul", .channelScale, x, gate)
        let start = x
        x = graph.add("next.norm", .layerNormalization(channels: 24, epsilon: 1e-6), x)
        x = graph.add("next.wide", .pixelwiseLinear(inputFeatures: 24, outputFeatures: 30), x)
        x = graph.add("next.gelu", .activation(.gelu), x)
        x = graph.add("next.narrow", .pixelwiseLinear(inputFeatures: 30, outputFeatures: 24), x)
        x = graph.add("next.mul", .layerScale(channels: 24), x)
        x = graph.add("next.add", .add, x, start)
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        x = graph.add("flat.norm", .layerNormalization(channels: 24, epsilon: 1e-3), x)
        x = graph.add("flat.mul", .layerScale(channels: 24), x)
        x = graph.add("classifier.0", .linear(inputFeatures: 24, outputFeatures: 7), x)
        x = graph.add("classifier.1", .relu, x)
        _ = graph.add("classifier.2", .linear(inputFeatures: 7, outputFeatures: 4), x)
        return graph
    }

    static func state(of graph: Graph) -> StateDictionary {
        var state = StateDictionary()
        for (number, parameter) in graph.parameters.enumerated() {
            if parameter.role == .counter {
                state[parameter.name] = HostTensor(shape: [], storage: .int64([0]))
                continue
            }
            let random = CounterRandom(seed: 3, UInt64(number))
            state[parameter.name] = HostTensor(
                parameter.shape, (0..<parameter.shape.elementCount).map { Float(random.uniform($0)) - 0.4 })
        }
        return state
    }

    static func bytes(_ pieces: [ONNXPiece]) -> [UInt8] {
        pieces.flatMap { piece -> [UInt8] in
            switch piece {
            case .bytes(let bytes): bytes
            case .floats(let values): values.withUnsafeBytes { Array($0) }
            }
        }
    }

    static func file(
        _ graph: Graph, outputs: [String] = ["logits"], size: Int = 33, metadata: [String: String] = [:]
    ) throws -> [UInt8] {
        bytes(
            try ONNXExport.file(
                ONNXExport.Request(
                    graph: graph, state: state(of: graph), outputs: outputs, height: size, width: size, name: "test",
                    metadata: metadata)))
    }

    @Test(arguments: [32, 33, 34, 37]) func everyLayerComesBack(_ size: Int) throws {
        let graph = Self.everyLayer()
        let metadata = ["class_names": "[\"ä\",\"b\"]", "mean": "0.5,0.5,0.5"]
        let bytes = try Self.file(graph, size: size, metadata: metadata)
        #expect(ONNXImport.recognizes(Array(bytes.prefix(16))))
        let network = try ONNXImport.network(bytes, name: "test")
        #expect(network.graph.nodes.map(\.name) == graph.nodes.map(\.name))
        #expect(network.graph.nodes.map(\.layer) == graph.nodes.map(\.layer))
        #expect(network.graph.nodes.map(\.inputs) == graph.nodes.map(\.inputs))
        #expect(network.state == Self.state(of: graph))
        #expect(network.headName == "classifier.2")
        #expect(network.classCount == 4)
        #expect(network.imageSize == size)
        #expect(network.metadata == metadata)
    }

    /// Where the last window would begin in the far padding, ONNX's `ceil_mode` means another size than PyTorch's.
    @Test func ceilModeMeansPyTorchs() throws {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        x = graph.add("pool", .maxPooling(kernel: 2, stride: 3, padding: 1, ceilMode: true), x)
        x = graph.add("head", .convolution(ConvolutionLayer(3, 2, kernel: 1, bias: true)), x)
        _ = graph.add("flatten", .flatten, graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x))
        for size in 4...12 {
            let network = try ONNXImport.network(try Self.file(graph, size: size), name: "test")
            let expected = try graph.shapes(batch: 1, height: size, width: size)
            #expect(try network.graph.shapes(batch: 1, height: size, width: size) == expected, "\(size)")
        }
    }

    @Test func outputsAreTheLayersThatWereAskedFor() throws {
        let graph = Self.everyLayer()
        let file = ProtobufFile(
            name: "test", bytes: try Self.file(graph, outputs: ["block", "stem.relu", "drop:input"]))
        let model = try ONNXModel(file)
        let written = try #require(model.graph)
        #expect(written.outputs.map(\.name) == ["block", "stem.relu", "drop:input"])
        #expect(written.outputs[1].shape == [.named("batch"), .known(6), .known(17), .known(17)])
        #expect(written.inputs.first?.shape == [.named("batch"), .known(3), .known(33), .known(33)])
        // Nothing behind the last output.
        #expect(!written.initializers.contains { $0.name.hasPrefix("classifier") })
        #expect(model.operatorSets.map(\.version) == [13])
        #expect(throws: GraphError.self) { try Self.file(graph, outputs: ["nothing"]) }
    }

    /// A feature extractor has no class scores and is no classifier.
    @Test func anExtractorIsNoClassifier() throws {
        let bytes = try Self.file(Self.everyLayer(), outputs: ["pool"])
        #expect(throws: ONNXError.self) { try ONNXImport.network(bytes, name: "test") }
    }

    @Test func aFileOverTwoGiBIsRefused() throws {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        x = graph.add("flatten", .flatten, graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x))
        var state = StateDictionary()
        // One array, named often: what counts are the bytes of the file.
        let values = [Float](repeating: 0, count: 1 << 24)
        for index in 0..<33 {
            let name = "fc\(index)"
            x = graph.add(name, .linear(inputFeatures: index == 0 ? 3 : 4096, outputFeatures: 4096), x)
            state["\(name).weight"] = HostTensor([4096, 4096], values)
            state["\(name).bias"] = HostTensor([4096], repeating: 0)
        }
        let request = ONNXExport.Request(
            graph: graph, state: state, outputs: ["logits"], height: 8, width: 8, name: "large", metadata: [:])
        #expect(throws: ONNXError.self) { try ONNXExport.file(request) }
    }
}
