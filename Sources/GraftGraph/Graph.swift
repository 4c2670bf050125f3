import GraftTensor

/// One layer of a network, declared without a device or a mode. Defaults and conventions are PyTorch's.
package enum Layer: Hashable, Sendable {
    /// The image batch; its channels.
    case input(channels: Int)
    case convolution(ConvolutionLayer)
    /// `torch.nn.Linear` on `[N, in, 1, 1]`.
    case linear(inputFeatures: Int, outputFeatures: Int)
    case batchNormalization(channels: Int, epsilon: Float = 1e-5, momentum: Float = 0.1)
    case relu
    /// Another element-wise function of `torch.nn`.
    case activation(Activation)
    case maxPooling(kernel: Int, stride: Int, padding: Int = 0, ceilMode: Bool = false)
    case averagePooling(kernel: Int, stride: Int, padding: Int = 0)
    case adaptiveAveragePooling(height: Int, width: Int)
    case add
    case concatenation
    case dropout(rate: Float)
    /// `torchvision.ops.StochasticDepth` in mode `row`: drops whole images.
    case stochasticDepth(rate: Float)
    /// The first input times the second, `[N, C, 1, 1]`: the excitation of squeeze-and-excitation.
    case channelScale
    case flatten
    /// Every stride-th pixel, zero channels around: the parameter-free shortcut "option A" of He et al. 2015.
    case subsampleAndPad(stride: Int, before: Int, after: Int)
}

/// The constants of `torch.nn.Conv2d`.
package struct ConvolutionLayer: Hashable, Sendable {
    package var inputChannels: Int
    package var outputChannels: Int
    package var kernel: Int
    package var stride: Int
    package var padding: Int
    package var dilation: Int
    package var groups: Int
    package var bias: Bool

    package init(
        _ inputChannels: Int, _ outputChannels: Int, kernel: Int, stride: Int = 1, padding: Int = 0, dilation: Int = 1,
        groups: Int = 1, bias: Bool = false
    ) {
        self.inputChannels = inputChannels
        self.outputChannels = outputChannels
        self.kernel = kernel
        self.stride = stride
        self.padding = padding
        self.dilation = dilation
        self.groups = groups
        self.bias = bias
    }

    package func geometry(_ input: ActivationShape) -> ConvolutionGeometry {
        ConvolutionGeometry(
            input: input, outputChannels: outputChannels, kernelHeight: kernel, kernelWidth: kernel,
            strideHeight: stride, strideWidth: stride, paddingHeight: padding, paddingWidth: padding,
            dilationHeight: dilation, dilationWidth: dilation, groups: groups)
    }
}

/// Why a graph cannot be evaluated as asked.
package enum GraphError: Error, Hashable, Sendable, CustomStringConvertible {
    case inputTooSmall(node: String, found: ActivationShape)
    case shapeMismatch(node: String, message: String)
    case oneValuePerChannel(node: String, shape: ActivationShape)
    case unknownNode(String, near: [String])
    case nothingToTrain

    package var description: String {
        switch self {
        case .inputTooSmall(let node, let found):
            "\(node) receives only \(found.height)×\(found.width) pixels, fewer than its window; use a larger --image-size"
        case .shapeMismatch(let node, let message): "\(node): \(message)"
        case .oneValuePerChannel(let node, let shape):
            "\(node) would compute batch statistics from one value per channel (input \(shape)); use a larger --batch-size or --image-size, or keep it frozen"
        case .unknownNode(let name, let near):
            "there is no layer \"\(name)\""
                + (near.isEmpty
                    ? "; `graft summary MODEL` lists the layers" : "; did you mean \(near.joined(separator: ", "))?")
        case .nothingToTrain: "no parameter is trainable: unfreeze at least one layer, for example --unfreeze head"
        }
    }
}

/// What a tensor of a network's state dictionary is.
package enum ParameterRole: Hashable, Sendable {
    case weight, bias
    /// Scale and shift of a batch norm.
    case scale, shift
    /// `running_mean`, `running_var`: buffers, never trained by gradients.
    case runningMean, runningVariance
    /// `num_batches_tracked`, int64.
    case counter

    /// Whether gradients can train it.
    package var isTrainable: Bool {
        switch self {
        case .weight, .bias, .scale, .shift: true
        case .runningMean, .runningVariance, .counter: false
        }
    }
}

/// A tensor of a network's state dictionary.
package struct ParameterDescription: Hashable, Sendable {
    package var name: String
    package var shape: Shape
    package var role: ParameterRole
    /// Index of the node that owns it.
    package var node: Int
}

/// A network: layers with torchvision's node names, in execution order. Inputs of a node come before it.
package struct Graph: Hashable, Sendable {
    package struct Node: Hashable, Sendable {
        /// torchvision's node name, for example `layer1.0.relu_1`.
        package var name: String
        package var layer: Layer
        /// Indices of the nodes it reads.
        package var inputs: [Int]

        /// Parameter names start with this: the module's path, the node's name for layers that own parameters.
        package var module: String { name }
    }

    package private(set) var nodes: [Node] = []

    package init() {}

    /// The node whose value the network returns.
    package var outputIndex: Int { nodes.count - 1 }

    /// Appends a node and returns its index; a name that is taken gets the suffix `_1`, `_2`, … as in torch.fx.
    package mutating func add(_ name: String, _ layer: Layer, _ inputs: Int...) -> Int {
        add(name, layer, inputs: inputs)
    }

    /// Appends a node with a list of inputs.
    package mutating func add(_ name: String, _ layer: Layer, inputs: [Int]) -> Int {
        var unique = name
        var suffix = 0
        while nodes.contains(where: { $0.name == unique }) {
            suffix += 1
            unique = "\(name)_\(suffix)"
        }
        nodes.append(Node(name: unique, layer: layer, inputs: inputs))
        return nodes.count - 1
    }

    /// The same graph with another layer at one node (a new head).
    package func replacing(_ index: Int, with layer: Layer) -> Graph {
        var copy = self
        copy.nodes[index].layer = layer
        return copy
    }

    /// The tensors of the state dictionary, in PyTorch's order.
    package var parameters: [ParameterDescription] {
        var result: [ParameterDescription] = []
        for (index, node) in nodes.enumerated() {
            func append(_ suffix: String, _ shape: Shape, _ role: ParameterRole) {
                result.append(
                    ParameterDescription(name: "\(node.module).\(suffix)", shape: shape, role: role, node: index))
            }
            switch node.layer {
            case .convolution(let layer):
                append(
                    "weight", [layer.outputChannels, layer.inputChannels / layer.groups, layer.kernel, layer.kernel],
                    .weight)
                if layer.bias { append("bias", [layer.outputChannels], .bias) }
            case .linear(let input, let output):
                append("weight", [output, input], .weight)
                append("bias", [output], .bias)
            case .batchNormalization(let channels, _, _):
                append("weight", [channels], .scale)
                append("bias", [channels], .shift)
                append("running_mean", [channels], .runningMean)
                append("running_var", [channels], .runningVariance)
                append("num_batches_tracked", [], .counter)
            case .input, .relu, .activation, .maxPooling, .averagePooling, .adaptiveAveragePooling, .add,
                .concatenation, .dropout, .stochasticDepth, .channelScale, .flatten, .subsampleAndPad:
                break
            }
        }
        return result
    }

    /// The index of a node by torchvision node name, by module name (its last node), or `logits`; with the suffix
    /// `:input`, of the node that the module reads.
    package func index(of name: String) throws(GraphError) -> Int {
        if name == "logits" { return outputIndex }
        if name.hasSuffix(":input") {
            let base = String(name.dropLast(6))
            guard let first = nodes.firstIndex(where: { $0.name == base || $0.name.hasPrefix(base + ".") }),
                let input = nodes[first].inputs.first
            else { throw unknown(base) }
            return input
        }
        if let exact = nodes.firstIndex(where: { $0.name == name }) { return exact }
        if let last = nodes.lastIndex(where: { $0.name.hasPrefix(name + ".") }) { return last }
        throw unknown(name)
    }

    /// Whether a node's value is `[N, C]` in PyTorch: a flattening, or something of that value, is behind it.
    package func isFlat(_ index: Int) -> Bool {
        switch nodes[index].layer {
        case .flatten, .linear: true
        case .relu, .activation, .dropout, .stochasticDepth, .add, .batchNormalization:
            nodes[index].inputs.contains { isFlat($0) }
        case .input, .convolution, .maxPooling, .averagePooling, .adaptiveAveragePooling, .concatenation,
            .channelScale, .subsampleAndPad:
            false
        }
    }

    private func unknown(_ name: String) -> GraphError {
        .unknownNode(name, near: nearMatches(to: name, in: moduleNames))
    }

    /// Every node name and every module name that holds one, for selectors and near matches.
    package var moduleNames: [String] {
        var seen: Set<String> = []
        var result: [String] = []
        for node in nodes where node.name != "input" {
            var prefix = ""
            for component in node.name.split(separator: ".") {
                prefix += prefix.isEmpty ? String(component) : ".\(component)"
                if seen.insert(prefix).inserted { result.append(prefix) }
            }
        }
        return result
    }

    /// The output shape of every node for a batch of images.
    package func shapes(batch: Int, height: Int, width: Int) throws(GraphError) -> [ActivationShape] {
        var shapes: [ActivationShape] = []
        for node in nodes {
            let inputs = node.inputs.map { shapes[$0] }
            shapes.append(try outputShape(of: node, inputs, batch: batch, height: height, width: width))
        }
        return shapes
    }

    private func outputShape(
        of node: Node, _ inputs: [ActivationShape], batch: Int, height: Int, width: Int
    ) throws(GraphError) -> ActivationShape {
        let first = inputs.first ?? ActivationShape(batch, 0, height, width)
        func checked(_ shape: ActivationShape) throws(GraphError) -> ActivationShape {
            guard shape.height > 0, shape.width > 0 else { throw .inputTooSmall(node: node.name, found: first) }
            return shape
        }
        func expect(_ found: Int, _ expected: Int) throws(GraphError) {
            guard found == expected else {
                throw .shapeMismatch(node: node.name, message: "its input has \(found) channels, expected \(expected)")
            }
        }
        switch node.layer {
        case .input(let channels): return try checked(ActivationShape(batch, channels, height, width))
        case .convolution(let layer):
            try expect(first.channels, layer.inputChannels)
            let span = min(first.height, first.width) + 2 * layer.padding - layer.dilation * (layer.kernel - 1)
            guard span > 0 else { throw .inputTooSmall(node: node.name, found: first) }
            return layer.geometry(first).output
        case .linear(let input, let output):
            try expect(first.channels, input)
            guard first.pixelCount == 1 else {
                throw .shapeMismatch(node: node.name, message: "a linear layer needs a flattened input, found \(first)")
            }
            return first.with(channels: output)
        case .batchNormalization(let channels, _, _):
            try expect(first.channels, channels)
            return first
        case .relu, .activation, .dropout, .stochasticDepth: return first
        case .channelScale:
            guard let factor = inputs.last, inputs.count == 2,
                factor == ActivationShape(first.batch, first.channels, 1, 1)
            else {
                throw .shapeMismatch(
                    node: node.name,
                    message:
                        "scales \(inputs.map(\.description).joined(separator: " by ")); the factor must be [N, C, 1, 1]"
                )
            }
            return first
        case .maxPooling, .averagePooling: return try checked(pooling(node.layer, first).output)
        case .adaptiveAveragePooling(let height, let width):
            return ActivationShape(first.batch, first.channels, height, width)
        case .add:
            guard let other = inputs.last, other == first else {
                throw .shapeMismatch(
                    node: node.name, message: "adds \(inputs.map(\.description).joined(separator: " and "))")
            }
            return first
        case .concatenation: return first.with(channels: inputs.reduce(0) { $0 + $1.channels })
        case .flatten: return ActivationShape(first.batch, first.channels * first.pixelCount, 1, 1)
        case .subsampleAndPad(let stride, let before, let after):
            return ActivationShape(
                first.batch, before + first.channels + after, (first.height + stride - 1) / stride,
                (first.width + stride - 1) / stride)
        }
    }

    /// The geometry of a pooling layer on an input.
    package func pooling(_ layer: Layer, _ input: ActivationShape) -> PoolingGeometry {
        switch layer {
        case .maxPooling(let kernel, let stride, let padding, let ceilMode):
            PoolingGeometry(input: input, kernel: kernel, stride: stride, padding: padding, ceilMode: ceilMode)
        case .averagePooling(let kernel, let stride, let padding):
            PoolingGeometry(input: input, kernel: kernel, stride: stride, padding: padding)
        case .input, .convolution, .linear, .batchNormalization, .relu, .activation, .adaptiveAveragePooling, .add,
            .concatenation, .dropout, .stochasticDepth, .channelScale, .flatten, .subsampleAndPad:
            preconditionFailure("not a pooling layer: \(layer)")
        }
    }
}
