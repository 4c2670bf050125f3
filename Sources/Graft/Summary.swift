import GraftCPU
import GraftGraph
import GraftTensor
import GraftVision

/// What a training or inference plan does with each layer: shapes, parameters, work, freezing, memory.
public struct ModelSummary: Sendable {
    /// One layer.
    public struct Row: Sendable {
        /// torchvision's node name.
        public let node: String
        /// The kind of layer.
        public let layer: String
        /// Output shape `[N, C, H, W]`.
        public let shape: Shape
        /// Parameters that gradients can train.
        public let parameterCount: Int
        /// How many of them are trainable.
        public let trainableCount: Int
        /// Multiply-accumulate operations of the forward pass, for the whole batch.
        public let multiplyAccumulateCount: Int
        /// Batch norm: `running` or `batch`; nil for other layers.
        public let statistics: String?
        /// `none`, `dx`, `dW` or `dW, dx`: which gradients a training step computes.
        public let backward: String
    }

    /// In execution order.
    public let rows: [Row]
    /// Parameters that gradients can train.
    public var parameterCount: Int { rows.reduce(0) { $0 + $1.parameterCount } }
    /// How many of them are trainable.
    public var trainableCount: Int { rows.reduce(0) { $0 + $1.trainableCount } }
    /// Multiply-accumulate operations of the forward pass, for the whole batch.
    public var multiplyAccumulateCount: Int { rows.reduce(0) { $0 + $1.multiplyAccumulateCount } }
    /// Bytes of device memory that a training step needs in the CPU kernels' layout; nil when nothing is trainable.
    public let trainingByteCount: Int?
    /// Bytes of device memory for inference in the CPU kernels' layout.
    public let inferenceByteCount: Int
    /// The least that any placing of the same values would need for a training step.
    public let leastTrainingByteCount: Int?
    /// The least that any placing of the same values would need for inference.
    public let leastInferenceByteCount: Int

    /// Plans without allocating anything.
    ///
    /// - Parameters:
    ///   - model: the network with its trainable parameters.
    ///   - batchSize: images per batch.
    ///   - frozenStatistics: what batch norms with frozen parameters do.
    ///   - optimizer: decides how much state is kept.
    /// - Throws: `GraphError` for an image size that is too small; ``GraftError/invalidArgument(_:)``.
    public init(
        _ model: Model, batchSize: Int = 32, frozenStatistics: FrozenStatistics = .keep, optimizer: Optimizer = .sgd()
    ) throws {
        try Limits.check(batchSize: batchSize)
        let graph = model.graph
        let size = model.preprocessing.imageSize
        let shapes = try graph.shapes(batch: batchSize, height: size, width: size)
        let analysis = FreezeAnalysis(graph, trainable: model.trainable, frozenStatistics: frozenStatistics)
        let parameters = graph.parameters.filter(\.role.isTrainable)
        rows = graph.nodes.indices.map { index in
            let node = graph.nodes[index]
            let plan = analysis.nodes[index]
            let owned = parameters.filter { $0.node == index }
            var statistics: String?
            if case .batchNormalization = node.layer { statistics = plan.usesBatchStatistics ? "batch" : "running" }
            let gradients = [plan.trainableParameters.isEmpty ? nil : "dW", plan.computesInputGradient ? "dx" : nil]
            let shape = shapes[index]
            return Row(
                node: node.name, layer: Self.name(of: node.layer),
                shape: [shape.batch, shape.channels, shape.height, shape.width],
                parameterCount: owned.reduce(0) { $0 + $1.shape.elementCount },
                trainableCount: owned.filter { model.trainable.contains($0.name) }.reduce(0) {
                    $0 + $1.shape.elementCount
                },
                multiplyAccumulateCount: graph.multiplyAccumulateCount(of: index, shapes: shapes),
                statistics: statistics,
                backward: gradients.compactMap { $0 }.joined(separator: ", "))
        }
        var layout = MemoryLayout(backend: try CPUBackend(threadCount: 1))
        // The figure is of interest on machines with less memory too.
        layout.maximumArenaByteCount = .max / 2
        var options = LoweringOptions(
            batch: batchSize, height: size, width: size, mode: .inference,
            input: .pixels(mean: model.preprocessing.mean, deviation: model.preprocessing.standardDeviation))
        let inference = try MemoryPlan(programs: [Program(graph, options)], layout: layout)
        inferenceByteCount = inference.totalByteCount
        leastInferenceByteCount = inference.leastByteCount
        guard !model.trainable.isEmpty else {
            trainingByteCount = nil
            leastTrainingByteCount = nil
            return
        }
        options.mode = .training
        options.frozenStatistics = frozenStatistics
        options.optimizer = optimizer.rule
        options.cohorts = [model.parameterNames.filter(model.trainable.contains)]
        let training = try MemoryPlan(
            programs: [Program(graph, options)], layout: layout,
            options: MemoryPlan.Options(optimizerStateCount: optimizer.rule.stateCount))
        trainingByteCount = training.totalByteCount
        leastTrainingByteCount = training.leastByteCount
    }

    private static func name(of layer: Layer) -> String {
        switch layer {
        case .input: "input"
        case .convolution(let layer):
            (layer.groups > 1 && layer.groups == layer.inputChannels ? "depthwise " : "convolution ")
                + "\(layer.kernel)×\(layer.kernel)" + (layer.stride > 1 ? " /\(layer.stride)" : "")
                + (layer.groups > 1 && layer.groups < layer.inputChannels ? " groups \(layer.groups)" : "")
        case .linear: "linear"
        case .batchNormalization: "batch norm"
        case .relu: "relu"
        case .activation(let activation):
            switch activation {
            case .relu: "relu"
            case .relu6: "relu6"
            case .hardSigmoid: "hard sigmoid"
            case .hardSwish: "hard swish"
            case .sigmoid: "sigmoid"
            case .silu: "silu"
            case .gelu: "gelu"
            }
        case .maxPooling(let kernel, let stride, _, _): "max pool \(kernel)×\(kernel) /\(stride)"
        case .averagePooling(let kernel, let stride, _): "average pool \(kernel)×\(kernel) /\(stride)"
        case .adaptiveAveragePooling(let height, let width): "average to \(height)×\(width)"
        case .add: "add"
        case .concatenation: "concatenate"
        case .dropout(let rate): "dropout \(rate)"
        case .stochasticDepth(let rate): "stochastic depth \(rate)"
        case .channelScale: "scale channels"
        case .flatten: "flatten"
        case .subsampleAndPad: "subsample, pad"
        }
    }
}
