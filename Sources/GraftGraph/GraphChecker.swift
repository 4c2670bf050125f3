import GraftTensor

/// Checks layer by layer a graph that comes from a file: every constant in its range, every input before its reader,
/// every shape of a size that can be computed with.
package struct GraphChecker {
    /// The shapes so far, for a batch of one image.
    package private(set) var shapes: [ActivationShape] = []
    private let height: Int
    private let width: Int
    /// Nodes, channels and extents beyond any network for images.
    package static let nodeLimit = 10_000
    private static let channelLimit = 1 << 20
    private static let extentLimit = 1 << 16
    private static let elementLimit = 1 << 40

    /// Checks for images of a size.
    package init(height: Int, width: Int) {
        self.height = height
        self.width = width
    }

    /// Checks one more node and computes its shape.
    package mutating func add(_ node: Graph.Node) throws(GraphError) {
        func refuse(_ message: String) -> GraphError { .shapeMismatch(node: node.name, message: message) }
        guard shapes.count < Self.nodeLimit else { throw refuse("the graph has more than \(Self.nodeLimit) nodes") }
        guard node.inputs.allSatisfy({ $0 >= 0 && $0 < shapes.count }) else {
            throw refuse("it reads a node that does not come before it")
        }
        guard node.layer.inputCounts.contains(node.inputs.count) else {
            throw refuse("it has \(node.inputs.count) inputs")
        }
        guard shapes.isEmpty == node.inputs.isEmpty else {
            throw refuse("the first node, and no other, must be the image")
        }
        if let fault = node.layer.fault { throw refuse(fault) }
        let inputs = node.inputs.map { shapes[$0] }
        if node.layer == .concatenation {
            guard inputs.allSatisfy({ $0.with(channels: 1) == inputs[0].with(channels: 1) }) else {
                throw refuse("it joins \(inputs.map(\.description).joined(separator: " and "))")
            }
        }
        let shape = try Graph().outputShape(of: node, inputs, batch: 1, height: height, width: width)
        guard shape.channels <= Self.channelLimit, shape.height <= Self.extentLimit, shape.width <= Self.extentLimit,
            shape.elementCount <= Self.elementLimit
        else { throw refuse("its output would be \(shape)") }
        shapes.append(shape)
    }
}

extension Graph {
    /// A graph of nodes that come from a file.
    ///
    /// - Throws: `GraphError` for nodes that make no network for images of this size.
    package init(checking nodes: [Node], height: Int, width: Int) throws(GraphError) {
        var checker = GraphChecker(height: height, width: width)
        var names: Set<String> = []
        for node in nodes {
            guard !node.name.isEmpty, names.insert(node.name).inserted else {
                throw .shapeMismatch(node: node.name, message: "its name is empty or used before")
            }
            try checker.add(node)
        }
        guard !nodes.isEmpty else { throw .shapeMismatch(node: "graph", message: "it has no nodes") }
        self.init(nodes)
        // Layer scales are named after the module that holds them, which may hold another.
        var tensors: Set<String> = []
        for parameter in parameters where !tensors.insert(parameter.name).inserted {
            throw .shapeMismatch(
                node: nodes[parameter.node].name, message: "its tensor \(parameter.name) is another node's too")
        }
    }
}

extension Layer {
    /// How many inputs the layer may have.
    fileprivate var inputCounts: ClosedRange<Int> {
        switch self {
        case .input: 0...0
        case .convolution, .linear, .pixelwiseLinear, .batchNormalization, .layerNormalization, .layerScale, .relu,
            .activation, .maxPooling, .averagePooling, .adaptiveAveragePooling, .dropout, .stochasticDepth, .flatten,
            .subsampleAndPad:
            1...1
        case .add, .channelScale: 2...2
        case .concatenation: 1...4096
        }
    }

    /// What is wrong with the layer's constants; nil for nothing.
    fileprivate var fault: String? {
        func ranges(_ values: (name: String, value: Int, range: ClosedRange<Int>)...) -> String? {
            values.first { !$0.range.contains($0.value) }.map {
                "\($0.name) is \($0.value), not \($0.range.lowerBound) to \($0.range.upperBound)"
            }
        }
        let extents = 1...(1 << 16)
        let channels = 1...(1 << 20)
        func window(_ kernel: Int, _ stride: Int, _ padding: Int) -> String? {
            ranges(("its window", kernel, extents), ("its stride", stride, extents))
                ?? ranges(("its padding", padding, 0...kernel / 2))
        }
        switch self {
        case .input(let count): return ranges(("the number of channels", count, 3...3))
        case .convolution(let layer):
            if let fault = ranges(
                ("its kernel", layer.kernel, extents), ("its stride", layer.stride, extents),
                ("its padding", layer.padding, 0...(1 << 16)), ("its dilation", layer.dilation, 1...1024),
                ("its input", layer.inputChannels, channels), ("its output", layer.outputChannels, channels),
                ("the number of groups", layer.groups, channels))
            {
                return fault
            }
            guard layer.inputChannels.isMultiple(of: layer.groups), layer.outputChannels.isMultiple(of: layer.groups)
            else { return "\(layer.groups) groups do not divide its channels" }
            return nil
        case .linear(let input, let output), .pixelwiseLinear(let input, let output):
            return ranges(("its input", input, 1...(1 << 30)), ("its output", output, channels))
        case .batchNormalization(let count, let epsilon, let momentum):
            guard epsilon >= 0, epsilon < 1, (0...1).contains(momentum) else {
                return "epsilon \(epsilon) or momentum \(momentum) is out of its range"
            }
            return ranges(("its channels", count, channels))
        case .layerNormalization(let count, let epsilon):
            guard epsilon >= 0, epsilon < 1 else { return "epsilon \(epsilon) is out of its range" }
            return ranges(("its channels", count, channels))
        case .layerScale(let count): return ranges(("its channels", count, channels))
        case .maxPooling(let kernel, let stride, let padding, _): return window(kernel, stride, padding)
        case .averagePooling(let kernel, let stride, let padding): return window(kernel, stride, padding)
        case .adaptiveAveragePooling(let height, let width):
            return ranges(("its height", height, extents), ("its width", width, extents))
        case .dropout(let rate), .stochasticDepth(let rate): return (0..<1).contains(rate) ? nil : "its rate is \(rate)"
        case .subsampleAndPad(let stride, let before, let after):
            return ranges(("its stride", stride, extents), ("its padding", before, 0...(1 << 20)))
                ?? ranges(("its padding", after, 0...(1 << 20)))
        case .relu, .activation, .add, .concatenation, .channelScale, .flatten: return nil
        }
    }
}
