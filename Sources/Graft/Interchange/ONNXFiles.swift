import Foundation
import GraftCheckpoint
import GraftGraph
import GraftONNX
import GraftTensor
import GraftVision

/// Networks that come from ONNX files, and go into them.
enum ONNXFile {
    /// Whether a file's content is an ONNX model's.
    static func recognizes(_ path: String) throws(CheckpointError) -> Bool {
        ONNXImport.recognizes(try WholeFile.start(of: path, byteCount: 16))
    }

    static func read(_ path: String) throws -> ImportedNetwork {
        try ONNXImport.network(WholeFile.bytes(of: path, limit: ONNXExport.byteCountLimit), name: path)
    }

    /// Whether `--model` names a file rather than an architecture.
    static func isPath(_ name: String) -> Bool { name.lowercased().hasSuffix(".onnx") }
}

extension Architecture {
    /// A network of an ONNX file, under the file's name.
    init(_ network: ImportedNetwork, path: String) {
        self.init(
            imported: network.graph, name: path.split(separator: "/").last.map(String.init) ?? path,
            headName: network.headName, imageSize: network.imageSize ?? 224, classCount: network.classCount,
            source: path)
    }

    fileprivate init(
        imported graph: Graph, name: String, headName: String, imageSize: Int, classCount: Int, source: String
    ) {
        self.init(
            name: name, family: "ONNX", headName: headName, imageSize: imageSize, classCount: classCount,
            source: source
        ) { classCount in
            guard let head = graph.nodes.firstIndex(where: { $0.name == headName }) else { return graph }
            switch graph.nodes[head].layer {
            case .linear(let inputs, _):
                return graph.replacing(head, with: .linear(inputFeatures: inputs, outputFeatures: classCount))
            case .convolution(var layer):
                layer.outputChannels = classCount
                return graph.replacing(head, with: .convolution(layer))
            default: return graph
            }
        }
        isImported = true
    }

    /// What `--model` and a weights file's own metadata say together.
    ///
    /// - Parameters:
    ///   - name: an architecture's name or the path of an `.onnx` file; nil takes what the metadata say.
    ///   - metadata: of the weights file.
    ///   - path: of the weights file.
    /// - Returns: the network that the weights are for.
    /// - Throws: ``GraftError`` when neither names a network; errors of ONNX files.
    static func resolve(_ name: String?, _ metadata: ModelMetadata, path: String) throws -> Architecture {
        if let name, ONNXFile.isPath(name) { return Architecture(try ONNXFile.read(name), path: name) }
        guard let name = name ?? metadata.architecture else { throw GraftError.architectureUnknown(path: path) }
        if let text = metadata.graph, name == metadata.architecture {
            let size = try metadata.preprocessing(path: path)?.imageSize ?? 224
            return try GraphDescription.architecture(text, name: name, imageSize: size, path: path)
        }
        return try named(name)
    }
}

/// A graph as a weights file's metadata hold it: a network that no table lists can be used without its ONNX file.
struct GraphDescription: Codable {
    /// Counts up with changes that older versions cannot read.
    private static let currentVersion = 1

    private var version = GraphDescription.currentVersion
    private var head: String
    private var nodes: [Graph.Node]

    /// The description of a model's graph; the same graph gives the same text.
    static func text(of model: Model) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let description = GraphDescription(head: model.architecture.headName, nodes: model.graph.nodes)
        return String(decoding: try encoder.encode(description), as: UTF8.self)
    }

    private init(head: String, nodes: [Graph.Node]) {
        self.head = head
        self.nodes = nodes
    }

    /// The network that a description stands for.
    static func architecture(_ text: String, name: String, imageSize: Int, path: String) throws -> Architecture {
        func refuse(_ reason: String) -> GraftError {
            .weightsMismatch(
                "the metadata of \(path) describe a graph that cannot be used: \(reason); pass --model with the ONNX "
                    + "file it comes from")
        }
        let description: GraphDescription
        do {
            description = try JSONDecoder().decode(GraphDescription.self, from: Data(text.utf8))
        } catch {
            throw refuse("another version of Graft wrote it, or it is damaged")
        }
        guard description.version == currentVersion else { throw refuse("it has version \(description.version)") }
        let graph: Graph
        do {
            graph = try Graph(checking: description.nodes, height: imageSize, width: imageSize)
        } catch {
            throw refuse("\(error)")
        }
        let classCount: Int
        switch graph.nodes.first(where: { $0.name == description.head })?.layer {
        case .linear(_, let count)?: classCount = count
        case .convolution(let layer)?: classCount = layer.outputChannels
        default: throw refuse("its head \(description.head) is no layer that makes class scores")
        }
        return Architecture(
            imported: graph, name: name, headName: description.head, imageSize: imageSize, classCount: classCount,
            source: path)
    }
}

extension Model {
    /// A network with the weights of an ONNX file.
    ///
    /// - Parameters:
    ///   - path: the file.
    ///   - name: an architecture whose names and shapes the file's constants must have; nil takes the file's graph. The
    ///     graph of a file that names one of Graft's architectures, and is that, becomes it.
    /// - Throws: errors of ONNX files; ``GraftError/weightsMismatch(_:)``.
    init(onnx path: String, name: String?) throws {
        let network = try ONNXFile.read(path)
        var checkpoint = LoadedCheckpoint(
            state: network.state, metadata: network.metadata, container: .onnx, originalTypes: [:])
        let metadata = ModelMetadata(network.metadata)
        var architecture = Architecture(network, path: path)
        if let name, !ONNXFile.isPath(name) {
            architecture = try Architecture.named(name)
        } else if let name, name != path {
            architecture = Architecture(try ONNXFile.read(name), path: name)
        } else if let stated = metadata.architecture, let known = try? Architecture.named(stated),
            Self.isSame(network.graph, known.graph(classCount: network.classCount), side: architecture.imageSize)
        {
            architecture = known
        }
        // What an exported file says of itself holds for the graph that it has.
        if architecture.isImported { checkpoint.metadata["architecture"] = nil }
        try self.init(checkpoint: checkpoint, architecture: architecture, path: path)
        prependLoadNotes(network.notes)
    }

    /// Whether two graphs compute the same in inference: the same layers, but for those that do nothing there.
    private static func isSame(_ first: Graph, _ second: Graph, side: Int) -> Bool {
        guard let one = essence(first, side: side), let other = essence(second, side: side) else { return false }
        return one == other
    }

    private static func essence(_ graph: Graph, side: Int) -> [Graph.Node]? {
        guard let shapes = try? graph.shapes(batch: 1, height: side, width: side) else { return nil }
        var places: [Int: Int] = [:]
        var nodes: [Graph.Node] = []
        for (index, node) in graph.nodes.enumerated() {
            let source = node.inputs.first ?? index
            let isIdle =
                switch node.layer {
                case .dropout, .stochasticDepth: true
                case .adaptiveAveragePooling: shapes[index] == shapes[source] && shapes[index].pixelCount > 1
                default: false
                }
            if isIdle {
                places[index] = places[source]
                continue
            }
            // Layers without weights may have other names.
            let hasWeights =
                switch node.layer {
                case .convolution, .linear, .pixelwiseLinear, .batchNormalization, .layerNormalization, .layerScale:
                    true
                default: false
                }
            places[index] = nodes.count
            nodes.append(
                Graph.Node(
                    name: hasWeights ? node.name : "", layer: node.layer, inputs: node.inputs.compactMap { places[$0] })
            )
        }
        return nodes
    }

    /// Writes the network as ONNX: operator set 13, inference form, batch dimension free, torchvision's names, batch
    /// norms kept as nodes of their own; class names and preprocessing as the model's metadata.
    ///
    /// - Parameters:
    ///   - path: the new file, which takes the place of an old one when it is whole.
    ///   - layers: nodes whose values are the outputs, `[N, C, H, W]` or `[N, C]`; layers that none of them needs are
    ///     left out.
    /// - Throws: `GraphError.unknownNode`; an error that says why for networks of more than 2 GiB.
    public func exportONNX(_ path: String, layers: [String] = ["logits"]) throws {
        guard !layers.isEmpty, Set(layers).count == layers.count else {
            throw GraftError.invalidArgument("name one layer or more, each once")
        }
        var metadata = try ModelMetadata(self, digest: digest()).entries
        // Safetensors' own, and what the file's graph says itself.
        metadata["format"] = nil
        metadata[ModelMetadata.Key.graph] = nil
        let pieces = try ONNXExport.file(
            ONNXExport.Request(
                graph: graph, state: state, outputs: layers, height: preprocessing.imageSize,
                width: preprocessing.imageSize, name: architecture.name, metadata: metadata))
        let file = try AtomicFile(path: path)
        for piece in pieces {
            switch piece {
            case .bytes(let bytes): try file.write(bytes)
            case .floats(let values): try file.write(values)
            }
        }
        try file.commit()
    }
}
