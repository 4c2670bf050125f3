import GraftTensor

/// What a graph is lowered to.
package struct LoweringOptions: Sendable {
    package enum Mode: Hashable, Sendable {
        /// Forward with running statistics, no dropout.
        case inference
        /// Forward, loss, backward, update.
        case training
        /// The update alone, from accumulated gradients.
        case update
    }

    /// How images come in.
    package enum Input: Hashable, Sendable {
        /// uint8 `[N, H, W, 3]`, normalised on the device.
        case pixels(mean: [Float], deviation: [Float])
        /// float32 `[N, C, H, W]`, already normalised.
        case tensor
    }

    package var batch: Int
    package var height: Int
    package var width: Int
    package var mode: Mode
    package var input: Input
    /// Trainable parameters by cohort: those of one cohort became trainable at the same step. Inference programs that
    /// share memory with a training program name the same cohorts.
    package var cohorts: [[String]] = []
    /// Training: the update's part is left to a program of its own (``Mode/update``); gradients are accumulated instead.
    package var accumulates = false
    /// Training: gradients are scaled so that their norm does not exceed this.
    package var maximumGradientNorm: Float?
    /// Training: how slowly the average of the weights follows them. Running statistics that training moves are averaged too;
    /// they lie in a last cohort of their own, which no optimizer updates.
    package var averageDecay: Float?
    package var targets = LossTargets.labels
    /// By class, where ``targets`` are weighted.
    package var classWeights: [Float] = []
    package var frozenStatistics: FrozenStatistics = .keep
    package var dropout = true
    package var labelSmoothing: Float = 0
    package var optimizer: OptimizerRule = .sgd(momentum: true, nesterov: false)
    /// Whether convolutions may be summed by ``Winograd``'s transforms where they are the faster way.
    package var allowsWinograd = true
    /// The batch that algorithms are chosen for, nil for ``batch``: programs that must give an image the same values,
    /// however many share its batch, have it in common.
    package var algorithmBatch: Int?
    /// State slabs: those of the optimizer's rule, the weights' average, the accumulated gradients.
    package var stateCount: Int { accumulationState + (accumulates ? 1 : 0) }
    /// The slab of the average.
    package var averageState: Int { optimizer.stateCount }
    /// The slab of accumulated gradients.
    package var accumulationState: Int { optimizer.stateCount + (averageDecay == nil ? 0 : 1) }

    /// Inference: nodes whose values the host reads, by the name they are asked for. Empty means the logits.
    package var outputs: [String] = []
    /// Nodes whose values the host writes, as inputs of these names (``Frontier/nodes``); what lies before them is left
    /// out, the image too.
    package var frontier: [String] = []

    /// Inference: a node whose value's gradient is wanted, of a weighted sum of the scores. The host writes the weights
    /// as the input `score weights`, float32 `[N, classes, 1, 1]`; the output `gradient` has the node's shape. Logits and the
    /// node's value are outputs then.
    package var gradientOf: String?

    package init(batch: Int, height: Int, width: Int, mode: Mode, input: Input) {
        self.batch = batch
        self.height = height
        self.width = width
        self.mode = mode
        self.input = input
    }
}

extension Program {
    /// Lowers a graph to one straight list of primitives.
    ///
    /// Frozen convolutions are merged with the batch norm behind them (its statistics kept), with the addition of a
    /// residual and with a ReLU. Nodes that no output needs are left out. In training mode the list is
    /// forward ++ loss ++ backward ++ update; gradients stop below the lowest trainable layer.
    package init(_ graph: Graph, _ options: LoweringOptions) throws(GraphError) {
        var lowering = try Lowering(graph, options)
        switch options.mode {
        case .inference: try lowering.lowerInference()
        case .training: try lowering.lowerTraining()
        case .update: lowering.lowerUpdate()
        }
        self = lowering.program
    }
}

/// The state of one lowering.
private struct Lowering {
    /// A run of nodes that becomes one forward instruction: a head, and what its epilogue takes in.
    struct Group {
        var head: Int
        /// The batch norm folded into a convolution.
        var foldedNorm: Int?
        var add: Int?
        var residual: Int?
        /// The node of the activation, and what it computes.
        var relu: Int?
        var activation: Activation?
        /// The max pooling of the result.
        var pooling: Int?
        /// The node whose value the instruction writes.
        var output: Int
    }

    let graph: Graph
    let options: LoweringOptions
    private(set) var shapes: [ActivationShape]
    let plan: FreezeAnalysis
    let cohortOf: [String: Int]
    /// Running statistics that are averaged.
    let averagedStatistics: Set<String>
    let needed: [Bool]
    let requested: Set<Int>
    let frontier: Set<Int>
    /// The node that ``LoweringOptions/gradientOf`` names.
    let gradientSource: Int?
    let consumers: [[Int]]
    var program = Program()
    var groups: [Group] = []
    var valueOf: [Int: ValueID] = [:]
    var parameterValues: [String: ValueID] = [:]
    /// What backward needs of a group's forward instruction, by head.
    var saved: [Int: [ValueID]] = [:]
    /// Forward values that the backward pass makes again rather than keeps, by node: what makes them.
    var replays: [Int: (primitive: Primitive, inputs: [ValueID])] = [:]
    /// Those that were made again.
    var replayed: [Int: ValueID] = [:]
    var dropoutCount: UInt32 = 0
    var gradientOf: [Int: ValueID] = [:]

    init(_ graph: Graph, _ options: LoweringOptions) throws(GraphError) {
        self.graph = graph
        self.options = options
        shapes = try graph.shapes(batch: options.batch, height: options.height, width: options.width)
        var cohortOf: [String: Int] = [:]
        for (cohort, names) in options.cohorts.enumerated() {
            for name in names { cohortOf[name] = cohort }
        }
        self.cohortOf = cohortOf
        if options.mode == .inference, let name = options.gradientOf {
            gradientSource = try graph.index(of: name)
        } else {
            gradientSource = nil
        }
        plan = FreezeAnalysis(
            graph, trainable: Set(cohortOf.keys), frozenStatistics: options.frozenStatistics,
            gradientSource: gradientSource)
        averagedStatistics =
            options.averageDecay == nil
            ? []
            : Set(
                zip(graph.nodes, plan.nodes).filter { $1.usesBatchStatistics }.flatMap {
                    ["\($0.0.module).running_mean", "\($0.0.module).running_var"]
                })
        var wanted: Set<Int> = [graph.outputIndex]
        if options.mode == .inference, !options.outputs.isEmpty {
            wanted = []
            for name in options.outputs { wanted.insert(try graph.index(of: name)) }
        }
        if let gradientSource { wanted.formUnion([gradientSource, graph.outputIndex]) }
        requested = wanted
        var frontier: Set<Int> = []
        for name in options.frontier { frontier.insert(try graph.index(of: name)) }
        self.frontier = frontier
        var needed = [Bool](repeating: false, count: graph.nodes.count)
        for index in wanted { needed[index] = true }
        for index in graph.nodes.indices.reversed() where needed[index] && !frontier.contains(index) {
            for input in graph.nodes[index].inputs { needed[input] = true }
        }
        self.needed = needed
        var consumers = [[Int]](repeating: [], count: graph.nodes.count)
        for (index, node) in graph.nodes.enumerated() where needed[index] && !frontier.contains(index) {
            for input in node.inputs { consumers[input].append(index) }
        }
        self.consumers = consumers
        for index in graph.nodes.indices where isCompactImage(index) { shapes[index].isCompact = true }
    }

    /// Whether a node is an image of which only convolutions read, that can do without padding.
    private func isCompactImage(_ index: Int) -> Bool {
        guard case .input = graph.nodes[index].layer, !requested.contains(index), !frontier.contains(index),
            !flowsGradient(to: index)
        else { return false }
        return consumers[index].allSatisfy { consumer in
            guard case .convolution = graph.nodes[consumer].layer, var geometry = geometry(consumer) else {
                return false
            }
            geometry.method = method(geometry)
            return geometry.canReadCompactInput
        }
    }

    // MARK: Grouping

    private var isTraining: Bool { options.mode == .training }

    /// Whether a backward pass follows.
    private var passesGradients: Bool { isTraining || gradientSource != nil }

    /// Whether a batch norm normalises with running statistics here.
    private func usesRunningStatistics(_ index: Int) -> Bool {
        !isTraining || !plan.nodes[index].usesBatchStatistics
    }

    /// The only reader of a node whose own value nobody asks for.
    private func onlyConsumer(of index: Int) -> Int? {
        consumers[index].count == 1 && !requested.contains(index) ? consumers[index][0] : nil
    }

    /// The activation that a node is, if the group before it can apply it to its results.
    ///
    /// One whose gradient needs its argument is not fused where a gradient passes: the argument would be lost. A batch
    /// norm of the batch makes it again.
    private func fusedActivation(at index: Int, _ group: Group) -> Activation? {
        switch graph.nodes[index].layer {
        case .relu: return .relu
        case .activation(let activation):
            if case .add = graph.nodes[group.head].layer { return nil }
            guard passesGradients, plan.nodes[index].computesInputGradient, activation.gradientReads == .argument else {
                return activation
            }
            guard case .batchNormalization = graph.nodes[group.head].layer else { return nil }
            return !usesRunningStatistics(group.head) && group.residual == nil ? activation : nil
        case .input, .convolution, .linear, .pixelwiseLinear, .batchNormalization, .layerNormalization, .layerScale,
            .maxPooling, .averagePooling, .adaptiveAveragePooling,
            .add, .concatenation, .dropout, .stochasticDepth, .channelScale, .flatten, .subsampleAndPad:
            return nil
        }
    }

    /// Whether a group's convolution can pool its result itself: nothing else needs it, no backward pass either.
    private func canPool(_ group: Group, at index: Int) -> Bool {
        guard case .convolution = graph.nodes[group.head].layer, case .maxPooling = graph.nodes[index].layer,
            var geometry = geometry(group.head), !flowsGradient(to: index)
        else { return false }
        geometry.method = method(geometry)
        return geometry.canPool(
            graph.pooling(graph.nodes[index].layer, shapes[group.output]),
            Epilogue(residual: group.residual != nil, activation: group.activation))
    }

    private mutating func formGroups() {
        var absorbed: Set<Int> = []
        var headOf: [Int: Int] = [:]
        for index in graph.nodes.indices where needed[index] && !absorbed.contains(index) {
            var group = Group(head: index, output: index)
            let isFusible =
                switch graph.nodes[index].layer {
                case .convolution, .linear, .pixelwiseLinear, .batchNormalization, .add: true
                case .input, .layerNormalization, .layerScale, .relu, .activation, .maxPooling, .averagePooling,
                    .adaptiveAveragePooling, .concatenation,
                    .dropout, .stochasticDepth, .channelScale, .flatten, .subsampleAndPad:
                    false
                }
            if isFusible, !frontier.contains(index) {
                if case .convolution = graph.nodes[index].layer, plan.nodes[index].trainableParameters.isEmpty,
                    let next = onlyConsumer(of: index), case .batchNormalization = graph.nodes[next].layer,
                    // Statistics that training moves cannot be folded into a constant, in an inference program either.
                    !plan.nodes[next].usesBatchStatistics
                {
                    group.foldedNorm = next
                    group.output = next
                }
                if case .add = graph.nodes[index].layer {
                } else if let next = onlyConsumer(of: group.output), case .add = graph.nodes[next].layer,
                    let other = graph.nodes[next].inputs.first(where: { $0 != group.output }),
                    headOf[other, default: Int.max] < index
                {
                    group.add = next
                    group.residual = other
                    group.output = next
                }
                if let next = onlyConsumer(of: group.output), let activation = fusedActivation(at: next, group) {
                    group.relu = next
                    group.activation = activation
                    group.output = next
                }
                if let next = onlyConsumer(of: group.output), canPool(group, at: next) {
                    group.pooling = next
                    group.output = next
                }
            }
            absorbed.formUnion([group.foldedNorm, group.add, group.relu, group.pooling].compactMap { $0 })
            headOf[group.output] = index
            groups.append(group)
        }
    }

    // MARK: Values

    /// The value of a parameter or statistic: trainable in its cohort's slab, else a constant.
    private mutating func parameter(_ name: String, _ kind: ValueKind) -> ValueID {
        if let known = parameterValues[name] { return known }
        let storage: ValueStorage =
            if let cohort = cohortOf[name] {
                .parameter(key: name, source: .tensor(name), cohort: cohort)
            } else if averagedStatistics.contains(name) {
                .parameter(key: name, source: .tensor(name), cohort: options.cohorts.count)
            } else {
                .constant(key: name, source: .tensor(name))
            }
        let id = program.add(kind, storage, name)
        parameterValues[name] = id
        return id
    }

    private mutating func constant(_ key: String, _ kind: ValueKind, _ source: ParameterSource) -> ValueID {
        if let known = parameterValues[key] { return known }
        let id = program.add(kind, .constant(key: key, source: source), key)
        parameterValues[key] = id
        return id
    }

    private func activationStorage(of node: Int) -> ValueStorage {
        !isTraining && requested.contains(node) ? .output : .transient
    }

    private mutating func newValue(of node: Int) -> ValueID {
        program.add(.activation(shapes[node]), activationStorage(of: node), graph.nodes[node].name)
    }

    private func value(_ node: Int) -> ValueID {
        guard let id = valueOf[node] else { preconditionFailure("\(graph.nodes[node].name) has not been lowered") }
        return id
    }

    /// The convolution that a convolution or linear node is.
    private func geometry(_ index: Int) -> ConvolutionGeometry? {
        let input = shapes[graph.nodes[index].inputs.first ?? index]
        return switch graph.nodes[index].layer {
        case .convolution(let layer): layer.geometry(input)
        case .linear(_, let output), .pixelwiseLinear(_, let output):
            ConvolutionGeometry(input: input, outputChannels: output, kernelHeight: 1, kernelWidth: 1)
        case .input, .batchNormalization, .layerNormalization, .layerScale, .relu, .activation, .maxPooling,
            .averagePooling, .adaptiveAveragePooling,
            .add, .concatenation, .dropout, .stochasticDepth, .channelScale, .flatten, .subsampleAndPad:
            nil
        }
    }

    private func hasBias(_ index: Int) -> Bool {
        switch graph.nodes[index].layer {
        case .convolution(let layer): layer.bias
        case .linear, .pixelwiseLinear: true
        case .input, .batchNormalization, .layerNormalization, .layerScale, .relu, .activation, .maxPooling,
            .averagePooling, .adaptiveAveragePooling,
            .add, .concatenation, .dropout, .stochasticDepth, .channelScale, .flatten, .subsampleAndPad:
            false
        }
    }

    /// Winograd's transforms where they are allowed and pay.
    private func method(_ geometry: ConvolutionGeometry) -> ConvolutionMethod {
        options.allowsWinograd && geometry.prefersWinograd(batch: options.algorithmBatch ?? options.batch)
            ? .winograd : .direct
    }

    /// The weight that a group's convolution multiplies with: folded with a frozen batch norm, or the tensor itself;
    /// transformed when `geometry` says so.
    private mutating func weight(_ group: Group, _ geometry: ConvolutionGeometry) -> ValueID {
        let module = graph.nodes[group.head].module
        let isTransformed = geometry.method == .winogradWithTransformedWeight
        let kind: ValueKind = isTransformed ? .winogradWeight(geometry.weight) : .weight(geometry.weight)
        let suffix = isTransformed ? "#winograd" : ""
        guard let norm = group.foldedNorm, case .batchNormalization(_, let epsilon, _) = graph.nodes[norm].layer else {
            let name = "\(module).weight"
            return isTransformed ? constant(name + suffix, kind, .tensor(name)) : parameter(name, kind)
        }
        let normModule = graph.nodes[norm].module
        return constant(
            "\(module).weight×\(normModule)\(suffix)", kind,
            .foldedWeight(convolution: module, batchNormalization: normModule, epsilon: epsilon))
    }

    /// Whether a group's weight never changes while the program lives.
    private func hasConstantWeight(_ group: Group) -> Bool {
        group.foldedNorm != nil || cohortOf["\(graph.nodes[group.head].module).weight"] == nil
    }

    // MARK: Forward

    mutating func lowerForward() throws(GraphError) {
        formGroups()
        for group in groups { try lowerForward(group) }
    }

    private mutating func lowerForward(_ group: Group) throws(GraphError) {
        let index = group.head
        let node = graph.nodes[index]
        let shape = shapes[index]
        func append(_ primitive: Primitive, _ inputs: [ValueID], _ outputs: [ValueID]) {
            program.append(primitive, inputs, outputs, node: graph.nodes[group.output].name)
        }
        if frontier.contains(index) {
            valueOf[index] = program.add(.activation(shape), .input, node.name)
            program.inputs[node.name] = valueOf[index]
            return
        }
        switch node.layer {
        case .input:
            switch options.input {
            case .tensor:
                valueOf[index] = program.add(.activation(shape), .input, node.name)
                program.inputs["input"] = valueOf[index]
            case .pixels(let mean, let deviation):
                let pixels = program.add(
                    .pixels(batch: shape.batch, height: shape.height, width: shape.width), .input, "pixels")
                program.inputs["pixels"] = pixels
                let output = newValue(of: index)
                let primitive = Primitive.imageNormalization(shape, mean: mean, deviation: deviation)
                append(primitive, [pixels], [output])
                replays[index] = (primitive, [pixels])
                valueOf[index] = output
            }
        case .layerNormalization(let channels, let epsilon):
            let vector = ValueKind.channelVector(channels)
            let inputs = [
                value(node.inputs[0]), parameter("\(node.module).weight", vector),
                parameter("\(node.module).bias", vector),
            ]
            let output = newValue(of: index)
            let primitive = Primitive.layerNormalization(shape, epsilon: epsilon)
            append(primitive, inputs, [output])
            // Where a gradient passes it needs x in any case.
            if flowsGradient(to: index) { replays[index] = (primitive, inputs) }
            valueOf[index] = output
        case .layerScale(let channels):
            let output = newValue(of: index)
            append(
                .layerScale(shape),
                [value(node.inputs[0]), parameter("\(node.module).layer_scale", .channelVector(channels))], [output])
            valueOf[index] = output
        case .convolution, .linear, .pixelwiseLinear:
            guard var geometry = geometry(index) else { return }
            geometry.method = method(geometry)
            if geometry.method == .winograd, hasConstantWeight(group) {
                geometry.method = .winogradWithTransformedWeight
            }
            var inputs = [value(node.inputs[0]), weight(group, geometry)]
            var epilogue = Epilogue(residual: group.residual != nil, activation: group.activation)
            if let norm = group.foldedNorm, case .batchNormalization(_, let epsilon, _) = graph.nodes[norm].layer {
                epilogue.bias = true
                let normModule = graph.nodes[norm].module
                inputs.append(
                    constant(
                        "\(node.module).bias×\(normModule)", .channelVector(geometry.outputChannels),
                        .foldedBias(convolution: node.module, batchNormalization: normModule, epsilon: epsilon)))
            } else if hasBias(index) {
                epilogue.bias = true
                inputs.append(parameter("\(node.module).bias", .channelVector(geometry.outputChannels)))
            }
            if let residual = group.residual { inputs.append(value(residual)) }
            if let pooling = group.pooling {
                epilogue.maxPooling = graph.pooling(
                    graph.nodes[pooling].layer, shapes[graph.nodes[pooling].inputs[0]])
            }
            let output = newValue(of: group.output)
            append(.convolution(geometry, epilogue), inputs, [output])
            valueOf[group.output] = output
        case .batchNormalization(let channels, let epsilon, let momentum):
            let vector = ValueKind.channelVector(channels)
            var inputs = [value(node.inputs[0])]
            for suffix in ["weight", "bias", "running_mean", "running_var"] {
                inputs.append(parameter("\(node.module).\(suffix)", vector))
            }
            let statistics = Array(inputs.suffix(2))
            if let residual = group.residual { inputs.append(value(residual)) }
            let epilogue = Epilogue(residual: group.residual != nil, activation: group.activation)
            let output = newValue(of: group.output)
            if usesRunningStatistics(index) {
                append(.batchNormalizationInference(shape, epsilon: epsilon, epilogue), inputs, [output])
            } else {
                guard shape.batch * shape.pixelCount > 1 else {
                    throw .oneValuePerChannel(node: node.name, shape: shape)
                }
                let mean = program.add(vector, .transient, "\(node.name) mean")
                let inverseDeviation = program.add(vector, .transient, "\(node.name) 1/σ")
                append(
                    .batchNormalizationTraining(shape, epsilon: epsilon, momentum: momentum, epilogue), inputs,
                    [output, mean, inverseDeviation] + statistics)
                saved[index] = [mean, inverseDeviation]
                // Where a gradient passes it needs x in any case. A residual would have to be kept for this alone.
                if group.residual == nil, flowsGradient(to: index) {
                    replays[group.output] = (
                        .batchNormalizationReplay(shape, epilogue), Array(inputs.prefix(3)) + [mean, inverseDeviation]
                    )
                }
            }
            valueOf[group.output] = output
        case .relu:
            let output = newValue(of: index)
            append(.relu(shape), [value(node.inputs[0])], [output])
            valueOf[index] = output
        case .activation(let activation):
            let output = newValue(of: index)
            let primitive = Primitive.activation(shape, activation)
            let source = value(node.inputs[0])
            append(primitive, [source], [output])
            // The backward pass needs the argument in any case.
            if passesGradients, plan.nodes[index].computesInputGradient, activation.gradientReads == .argument {
                replays[index] = (primitive, [source])
            }
            valueOf[index] = output
        case .channelScale:
            let output = newValue(of: index)
            append(.channelScale(shape), node.inputs.map(value), [output])
            valueOf[index] = output
        case .maxPooling:
            let geometry = graph.pooling(node.layer, shapes[node.inputs[0]])
            let output = newValue(of: index)
            if passesGradients, plan.nodes[index].computesInputGradient {
                let indices = program.add(.indices(geometry.output), .transient, "\(node.name) arg-max")
                append(.maxPooling(geometry, indices: true), [value(node.inputs[0])], [output, indices])
                saved[index] = [indices]
            } else {
                append(.maxPooling(geometry, indices: false), [value(node.inputs[0])], [output])
            }
            valueOf[index] = output
        case .averagePooling:
            let output = newValue(of: index)
            append(
                .averagePooling(graph.pooling(node.layer, shapes[node.inputs[0]])), [value(node.inputs[0])], [output])
            valueOf[index] = output
        case .adaptiveAveragePooling(let height, let width):
            let output = newValue(of: index)
            append(
                .adaptiveAveragePooling(shapes[node.inputs[0]], outputHeight: height, outputWidth: width),
                [value(node.inputs[0])], [output])
            valueOf[index] = output
        case .add:
            let output = newValue(of: group.output)
            append(.add(shape, relu: group.relu != nil), node.inputs.map(value), [output])
            valueOf[group.output] = output
        case .concatenation:
            let output = newValue(of: index)
            append(
                .concatenation(shape, channels: node.inputs.map { shapes[$0].channels }), node.inputs.map(value),
                [output])
            valueOf[index] = output
        case .dropout(let rate):
            dropoutCount += 1
            if isTraining, options.dropout, rate > 0 {
                let output = newValue(of: index)
                append(.dropout(shape, rate: rate, salt: dropoutCount), [value(node.inputs[0])], [output])
                valueOf[index] = output
            } else {
                try alias(index)
            }
        case .stochasticDepth(let rate):
            dropoutCount += 1
            if isTraining, options.dropout, rate > 0 {
                let output = newValue(of: index)
                append(.stochasticDepth(shape, rate: rate, salt: dropoutCount), [value(node.inputs[0])], [output])
                valueOf[index] = output
            } else {
                try alias(index)
            }
        case .flatten:
            let input = shapes[node.inputs[0]]
            if input.pixelCount == 1 {
                try alias(index)
            } else {
                let output = newValue(of: index)
                append(.flatten(input), [value(node.inputs[0])], [output])
                valueOf[index] = output
            }
        case .subsampleAndPad(let stride, let before, let after):
            let output = newValue(of: index)
            append(
                .subsampleAndPad(shapes[node.inputs[0]], stride: stride, before: before, after: after),
                [value(node.inputs[0])], [output])
            valueOf[index] = output
        }
    }

    /// A node that changes nothing shares its input's value; one that the host asked for becomes an output.
    private mutating func alias(_ index: Int) throws(GraphError) {
        let source = value(graph.nodes[index].inputs[0])
        valueOf[index] = source
        if activationStorage(of: index) == .output, program[source].storage == .transient {
            program.values[source.index].storage = .output
        }
    }

    mutating func lowerInference() throws(GraphError) {
        try lowerForward()
        let names = options.outputs.isEmpty ? ["logits"] : options.outputs
        for name in names { program.outputs[name] = value(try graph.index(of: name)) }
        if let gradientSource { try lowerGradient(of: gradientSource) }
    }

    /// The backward pass from the scores to one node's value; nothing is trained.
    private mutating func lowerGradient(of source: Int) throws(GraphError) {
        let name = graph.nodes[source].name
        program.outputs["logits"] = value(graph.outputIndex)
        program.outputs[name] = value(source)
        let weights = program.add(.activation(shapes[graph.outputIndex]), .input, "score weights")
        program.inputs["score weights"] = weights
        gradientOf[graph.outputIndex] = weights
        for group in groups.reversed() where group.output != source { lowerBackward(group) }
        guard source != graph.outputIndex, let gradient = gradientOf[source] else {
            throw .shapeMismatch(node: name, message: "no score is computed from it; name a layer before the head")
        }
        program.values[gradient.index].storage = .output
        program.outputs["gradient"] = gradient
    }

    // MARK: Training

    mutating func lowerTraining() throws(GraphError) {
        guard !cohortOf.isEmpty else { throw .nothingToTrain }
        try lowerForward()
        let logits = value(graph.outputIndex)
        let shape = shapes[graph.outputIndex]
        guard shape.pixelCount == 1 else {
            throw .shapeMismatch(
                node: graph.nodes[graph.outputIndex].name, message: "the loss needs [N, classes, 1, 1], found \(shape)")
        }
        let labels = program.add(.labels(batch: options.batch), .input, "labels")
        let metrics = program.add(.metrics, .output, "metrics")
        let gradient = program.add(.activation(shape), .transient, "d logits")
        program.inputs["labels"] = labels
        program.outputs["metrics"] = metrics
        var operands = [logits, labels]
        if options.targets.isMixed {
            let second = program.add(.labels(batch: options.batch), .input, "second labels")
            let shares = program.add(.channelVector(options.batch), .input, "shares")
            program.inputs["second labels"] = second
            program.inputs["shares"] = shares
            operands += [second, shares]
        }
        if options.targets.isWeighted {
            guard options.classWeights.count == shape.channels else {
                throw .shapeMismatch(
                    node: graph.nodes[graph.outputIndex].name,
                    message: "\(options.classWeights.count) class weights for \(shape.channels) classes")
            }
            operands.append(
                constant("class weights", .channelVector(shape.channels), .numbers(options.classWeights)))
        }
        program.append(
            .softmaxCrossEntropy(
                batch: options.batch, classes: shape.channels, labelSmoothing: options.labelSmoothing,
                targets: options.targets), operands, [gradient, metrics], node: "loss")
        gradientOf[graph.outputIndex] = gradient
        for group in groups.reversed() { lowerBackward(group) }
        if options.accumulates {
            program.append(.gradientAccumulation(state: options.accumulationState), [], [], node: "accumulation")
        } else {
            lowerUpdate()
        }
    }

    /// From gradients to weights: clipping over all cohorts, the rule for each, the average over all.
    mutating func lowerUpdate() {
        if let maximum = options.maximumGradientNorm {
            let norm = program.add(.channelVector(2), .output, "gradient norm")
            program.outputs["gradient norm"] = norm
            program.append(.gradientNorm(maximum: maximum), [], [norm], node: "clipping")
            program.append(.gradientScaling, [norm], [], node: "clipping")
        }
        for cohort in options.cohorts.indices where !options.cohorts[cohort].isEmpty {
            program.append(.optimizerUpdate(options.optimizer, cohort: cohort), [], [], node: "optimizer")
        }
        if let decay = options.averageDecay {
            program.append(.weightAveraging(state: options.averageState, decay: decay), [], [], node: "average")
        }
    }

    private func flowsGradient(to node: Int) -> Bool { plan.nodes[node].hasTrainableAncestorOrSelf }

    private mutating func newGradient(of node: Int) -> ValueID {
        program.add(.activation(shapes[node]), .transient, "d \(graph.nodes[node].name)")
    }

    /// Adds a contribution to the gradient of a node's value.
    private mutating func contribute(_ gradient: ValueID, to node: Int) {
        guard flowsGradient(to: node) else { return }
        guard let earlier = gradientOf[node] else {
            gradientOf[node] = gradient
            return
        }
        let sum = newGradient(of: node)
        program.append(.add(shapes[node], relu: false), [earlier, gradient], [sum], node: graph.nodes[node].name)
        gradientOf[node] = sum
    }

    /// A forward value as the backward pass reads it. One that is an element-wise function of what is kept anyway is made
    /// again where it is first needed: a pass over memory for two activations fewer at the peak.
    private mutating func backwardValue(_ node: Int) -> ValueID {
        guard let replay = replays[node] else { return value(node) }
        if let made = replayed[node] { return made }
        let again = program.add(.activation(shapes[node]), .transient, "\(graph.nodes[node].name) again")
        program.append(replay.primitive, replay.inputs, [again], node: graph.nodes[node].name)
        replayed[node] = again
        return again
    }

    private mutating func parameterGradient(_ name: String, _ kind: ValueKind) -> ValueID {
        cohortOf[name] == nil
            ? program.add(kind, .transient, "d \(name)") : program.add(kind, .gradient(parameterKey: name), "d \(name)")
    }

    /// What a batch norm of the batch gave to the activation that is fused with it, made again.
    private mutating func activationArgument(of group: Group, node: String) -> ValueID {
        guard let replay = replays[group.output], case .batchNormalizationReplay(let shape, _) = replay.primitive else {
            preconditionFailure("\(node) has no argument of its activation to make again")
        }
        let again = program.add(.activation(shape), .transient, "\(graph.nodes[group.head].name) again")
        program.append(.batchNormalizationReplay(shape, .none), replay.inputs, [again], node: node)
        return again
    }

    private mutating func lowerBackward(_ group: Group) {
        let index = group.head
        let node = graph.nodes[index]
        let shape = shapes[index]
        guard plan.nodes[group.output].hasTrainableAncestorOrSelf, var gradient = gradientOf[group.output] else {
            return
        }
        func append(_ primitive: Primitive, _ inputs: [ValueID], _ outputs: [ValueID]) {
            program.append(primitive, inputs, outputs, node: node.name)
        }
        if group.relu != nil {
            let masked = newGradient(of: group.output)
            if let activation = group.activation, activation != .relu {
                let operand =
                    activation.gradientReads == .result
                    ? backwardValue(group.output) : activationArgument(of: group, node: node.name)
                append(.activationGradient(shapes[group.output], activation), [gradient, operand], [masked])
            } else {
                append(.reluGradient(shapes[group.output]), [gradient, backwardValue(group.output)], [masked])
            }
            gradient = masked
        }
        if let residual = group.residual { contribute(gradient, to: residual) }
        guard plan.nodes[index].hasTrainableAncestorOrSelf else { return }
        let trainable = Set(plan.nodes[index].trainableParameters)
        let input = node.inputs.first ?? index
        let needsInputGradient = plan.nodes[index].computesInputGradient
        switch node.layer {
        case .input: break
        case .layerNormalization(let channels, let epsilon):
            let vector = ValueKind.channelVector(channels)
            let target = newGradient(of: input)
            let source = backwardValue(input)
            append(
                .layerNormalizationGradient(shape, epsilon: epsilon),
                [source, gradient, parameter("\(node.module).weight", vector)],
                [
                    target, parameterGradient("\(node.module).weight", vector),
                    parameterGradient("\(node.module).bias", vector),
                ])
            contribute(target, to: input)
        case .layerScale(let channels):
            let vector = ValueKind.channelVector(channels)
            let name = "\(node.module).layer_scale"
            if trainable.contains(name) {
                let source = backwardValue(input)
                append(.layerScaleGradient(shape), [source, gradient], [parameterGradient(name, vector)])
            }
            if needsInputGradient {
                let target = newGradient(of: input)
                append(.layerScale(shape), [gradient, parameter(name, vector)], [target])
                contribute(target, to: input)
            }
        case .convolution, .linear, .pixelwiseLinear:
            guard var geometry = geometry(index) else { return }
            geometry.method = method(geometry)
            if trainable.contains("\(node.module).bias") {
                let target = parameterGradient("\(node.module).bias", .channelVector(geometry.outputChannels))
                append(.channelSum(geometry.output), [gradient], [target])
            }
            if trainable.contains("\(node.module).weight") {
                let target = parameterGradient("\(node.module).weight", .weight(geometry.weight))
                let source = backwardValue(input)
                append(.convolutionWeightGradient(geometry), [source, gradient], [target])
            }
            if needsInputGradient {
                let target = newGradient(of: input)
                let earlier = gradientOf[input]
                append(
                    .convolutionInputGradient(geometry, addend: earlier != nil),
                    [gradient, weight(group, geometry)] + (earlier.map { [$0] } ?? []), [target])
                gradientOf[input] = target
            }
        case .batchNormalization(let channels, let epsilon, _):
            let vector = ValueKind.channelVector(channels)
            let gamma = parameter("\(node.module).weight", vector)
            // Below a batch norm nothing may be trainable; its gradient computes dx all the same, in the one pass that gives dgamma.
            let target = newGradient(of: input)
            if usesRunningStatistics(index) {
                guard needsInputGradient else { break }
                let variance = parameter("\(node.module).running_var", vector)
                append(
                    .batchNormalizationInferenceGradient(shape, epsilon: epsilon), [gradient, gamma, variance], [target]
                )
            } else {
                let source = backwardValue(input)
                append(
                    .batchNormalizationTrainingGradient(shape),
                    [source, gradient, gamma] + (saved[index] ?? []),
                    [
                        target, parameterGradient("\(node.module).weight", vector),
                        parameterGradient("\(node.module).bias", vector),
                    ])
            }
            contribute(target, to: input)
        case .relu:
            let target = newGradient(of: input)
            let result = backwardValue(index)
            append(.reluGradient(shape), [gradient, result], [target])
            contribute(target, to: input)
        case .activation(let activation):
            let target = newGradient(of: input)
            let operand = activation.gradientReads == .result ? backwardValue(index) : backwardValue(input)
            append(.activationGradient(shape, activation), [gradient, operand], [target])
            contribute(target, to: input)
        case .channelScale:
            let factor = node.inputs[1]
            if flowsGradient(to: factor) {
                let target = newGradient(of: factor)
                let source = backwardValue(input)
                append(.channelScaleGradient(shape), [source, gradient], [target])
                contribute(target, to: factor)
            }
            if flowsGradient(to: input) {
                let target = newGradient(of: input)
                let scale = backwardValue(factor)
                append(.channelScale(shape), [gradient, scale], [target])
                contribute(target, to: input)
            }
        case .maxPooling:
            let target = newGradient(of: input)
            append(
                .maxPoolingGradient(graph.pooling(node.layer, shapes[input])), [gradient] + (saved[index] ?? []),
                [target])
            contribute(target, to: input)
        case .averagePooling:
            let target = newGradient(of: input)
            append(.averagePoolingGradient(graph.pooling(node.layer, shapes[input])), [gradient], [target])
            contribute(target, to: input)
        case .adaptiveAveragePooling(let height, let width):
            let target = newGradient(of: input)
            append(
                .adaptiveAveragePoolingGradient(shapes[input], outputHeight: height, outputWidth: width), [gradient],
                [target])
            contribute(target, to: input)
        case .add:
            for operand in node.inputs { contribute(gradient, to: operand) }
        case .concatenation:
            var offset = 0
            for operand in node.inputs {
                let count = shapes[operand].channels
                if flowsGradient(to: operand) {
                    let target = newGradient(of: operand)
                    append(.channelSlice(shape, offset: offset, count: count), [gradient], [target])
                    contribute(target, to: operand)
                }
                offset += count
            }
        case .dropout(let rate):
            if options.dropout, rate > 0,
                let forward = program.instructions.first(where: { $0.outputs == [value(index)] }),
                case .dropout(_, _, let salt) = forward.primitive
            {
                let target = newGradient(of: input)
                append(.dropout(shape, rate: rate, salt: salt), [gradient], [target])
                contribute(target, to: input)
            } else {
                contribute(gradient, to: input)
            }
        case .stochasticDepth(let rate):
            if options.dropout, rate > 0,
                let forward = program.instructions.first(where: { $0.outputs == [value(index)] }),
                case .stochasticDepth(_, _, let salt) = forward.primitive
            {
                let target = newGradient(of: input)
                append(.stochasticDepth(shape, rate: rate, salt: salt), [gradient], [target])
                contribute(target, to: input)
            } else {
                contribute(gradient, to: input)
            }
        case .flatten:
            if shapes[input].pixelCount == 1 {
                contribute(gradient, to: input)
            } else {
                let target = newGradient(of: input)
                append(.flattenGradient(shapes[input]), [gradient], [target])
                contribute(target, to: input)
            }
        case .subsampleAndPad(let stride, let before, let after):
            let target = newGradient(of: input)
            append(
                .subsampleAndPadGradient(shapes[input], stride: stride, before: before, after: after), [gradient],
                [target])
            contribute(target, to: input)
        }
    }
}
