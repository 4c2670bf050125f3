import GraftGraph
import GraftTensor
import GraftVision

/// What is minimised.
public enum Loss: Sendable, Hashable {
    /// Mean cross entropy over the batch; the target is `(1 − s)·onehot + s/classes` (`torch.nn.CrossEntropyLoss`).
    case crossEntropy(labelSmoothing: Double = 0)

    /// Cross entropy without smoothing.
    public static let crossEntropy = Loss.crossEntropy(labelSmoothing: 0)
}

/// What one step did.
public struct StepMetrics: Sendable, Hashable {
    /// Mean loss of the batch before the update.
    public let loss: Double
    /// Share of the batch whose largest score was the label's.
    public let accuracy: Double
}

/// Trains a model on one device, step by step or over epochs (see ``Trainer/fit(_:validation:options:onEvent:)``).
///
/// Frozen means frozen: parameters and batch-norm statistics below and between trainable layers stay byte for byte, and
/// gradients stop below the lowest trainable layer. Unfreezing keeps the optimizer's state of what already trained.
public final class Trainer {
    /// The optimizer with its base learning rate.
    public let optimizer: Optimizer
    /// What is minimised.
    public let loss: Loss
    /// What batch norms with frozen parameters do.
    public let frozenStatistics: FrozenStatistics
    /// Whether dropout layers drop.
    public let usesDropout: Bool
    /// Keys dropout masks, shuffling and augmentation.
    public let seed: UInt64
    /// Steps done so far.
    public private(set) var stepCount = 0
    /// The device that computes.
    public var deviceDescription: DeviceDescription { opened.backend.description }
    /// Why this device was chosen, and a warning if another had to be passed over.
    public var deviceNotes: (reason: String, warning: String?) { (opened.reason, opened.warning) }

    /// Whether convolutions are summed directly.
    var isExact: Bool { opened.isExact }

    /// Parameters that became trainable together, with the number of steps they have taken.
    struct Cohort: Sendable {
        var names: [String]
        var steps: Int
    }

    private let opened: Device.Opened
    private var hostModel: Model
    private var hostIsCurrent = true
    private var cohorts: [Cohort]
    private var engine: Engine?
    private var requests: Set<Engine.Request> = []
    private var savedOptimizerState: [String: [HostTensor]] = [:]
    private var trackingNorms: [String] = []
    /// Where the engine's prefix and suffix programs meet, while a run keeps the frozen part's outputs.
    private var frontier: Frontier?

    /// Makes a trainer for the model's trainable parameters.
    ///
    /// - Parameters:
    ///   - model: a copy is trained; ``model()`` returns it.
    ///   - loss: what to minimise.
    ///   - optimizer: how parameters follow their gradients.
    ///   - device: where to compute.
    ///   - frozenStatistics: what batch norms with frozen parameters do.
    ///   - dropout: whether dropout layers drop.
    ///   - seed: of dropout, shuffling and augmentation.
    /// - Throws: `GraphError.nothingToTrain`; `DeviceError` when the device cannot be used.
    public init(
        _ model: Model, loss: Loss = .crossEntropy, optimizer: Optimizer = .sgd(), device: Device = .auto,
        frozenStatistics: FrozenStatistics = .keep, dropout: Bool = true, seed: UInt64 = 0
    ) throws {
        guard !model.trainable.isEmpty else { throw GraphError.nothingToTrain }
        self.loss = loss
        self.optimizer = optimizer
        self.frozenStatistics = frozenStatistics
        self.seed = seed
        usesDropout = dropout
        hostModel = model
        cohorts = [Cohort(names: model.parameterNames.filter(model.trainable.contains), steps: 0)]
        opened = try device.open(
            running: Self.primitives(
                of: model, loss: loss, optimizer: optimizer, frozenStatistics: frozenStatistics, dropout: dropout,
                isExact: device.isExact))
    }

    /// What training and evaluating a model may run, now and after any unfreezing.
    private static func primitives(
        of model: Model, loss: Loss, optimizer: Optimizer, frozenStatistics: FrozenStatistics, dropout: Bool,
        isExact: Bool
    ) -> Set<Primitive.Kind> {
        var options = loweringOptions(
            of: model, loss: loss, optimizer: optimizer, frozenStatistics: frozenStatistics, dropout: dropout,
            isExact: isExact)
        options.batch = 32
        var kinds: Set<Primitive.Kind> = []
        func add(_ options: LoweringOptions) {
            // A network that cannot be lowered says why when it is to run.
            guard let program = try? Program(model.graph, options) else { return }
            kinds.formUnion(program.instructions.map(\.primitive.kind))
        }
        for names in [model.parameterNames.filter(model.trainable.contains), model.parameterNames] {
            options.cohorts = [names]
            add(options)
        }
        options.mode = .inference
        add(options)
        return kinds
    }

    /// The model with the weights as they are now.
    public func model() throws -> Model {
        try synchronizeHost()
        return hostModel
    }

    /// The network being trained, without waiting for the device: its weights may be older than the device's.
    var configuration: Model { hostModel }

    // MARK: State

    /// What a trainer holds between two steps.
    struct Snapshot: Sendable {
        /// Every tensor of the network.
        var weights = StateDictionary()
        var cohorts: [Cohort] = []
        /// By parameter name, in the order of the optimizer's slabs; only of parameters that have taken a step.
        var optimizerState: [String: [HostTensor]] = [:]
        var stepCount = 0
        /// Tensors and texts of whatever else is kept between steps, by name: a new feature adds its own in
        /// ``Trainer/snapshot()`` and takes them back in ``Trainer/restore(_:)``.
        var extraTensors = StateDictionary()
        var extraTexts: [String: String] = [:]
    }

    /// What the trainer holds now.
    func snapshot() throws -> Snapshot {
        try synchronizeHost()
        var snapshot = Snapshot(weights: hostModel.state, cohorts: cohorts, stepCount: stepCount)
        let stepped = Set(cohorts.filter { $0.steps > 0 }.flatMap(\.names))
        for (name, tensors) in try engine?.optimizerState() ?? savedOptimizerState
        where stepped.contains(name) {
            // In PyTorch's shapes, as the weights are.
            snapshot.optimizerState[name] = tensors.map {
                $0.reshaped(hostModel.state[name]?.shape ?? $0.shape)
            }
        }
        return snapshot
    }

    /// Takes over what another trainer of the same network and optimizer held.
    ///
    /// - Throws: ``GraftError/weightsMismatch(_:)`` when it was of another network; nothing is taken over then.
    func restore(_ snapshot: Snapshot) throws {
        let source = "the training state"
        let parameters = Set(hostModel.parameterNames)
        let names = snapshot.cohorts.flatMap(\.names)
        for name in hostModel.state.names where snapshot.weights[name] == nil {
            throw GraftError.weightsMismatch("\(source) has no tensor \(name)")
        }
        guard !names.isEmpty, Set(names).count == names.count else {
            throw GraftError.weightsMismatch(
                "\(source) has no trainable parameters, or one of them twice")
        }
        for name in names + snapshot.optimizerState.keys.sorted() where !parameters.contains(name) {
            throw GraftError.weightsMismatch(
                "\(source) trains \(name), which \(hostModel.architecture.name) has not")
        }
        for (name, tensors) in snapshot.optimizerState {
            for tensor in tensors
            where tensor.floats == nil || tensor.shape != hostModel.state[name]?.shape {
                throw GraftError.weightsMismatch(
                    "the optimizer's state of \(name) in \(source) has shape \(tensor.shape), expected float32 "
                        + "\(hostModel.state[name]?.shape.description ?? "")")
            }
            guard tensors.count == optimizer.rule.stateCount else {
                throw GraftError.weightsMismatch(
                    "\(source) has \(tensors.count) tensors of the optimizer's state for \(name), expected "
                        + "\(optimizer.rule.stateCount)")
            }
        }
        try hostModel.replaceState(snapshot.weights, source: source)
        hostModel.setTrainable(Set(names))
        cohorts = snapshot.cohorts
        savedOptimizerState = snapshot.optimizerState
        stepCount = snapshot.stepCount
        hostIsCurrent = true
        engine = nil
    }

    // MARK: Unfreezing

    /// Makes what a selector names trainable from the next step on. State of parameters that already train is kept.
    ///
    /// - Returns: the names that were frozen before.
    @discardableResult
    public func unfreeze(_ selector: String) throws -> [String] {
        let added = Set(try hostModel.names(selector)).subtracting(hostModel.trainable)
        guard !added.isEmpty else { return [] }
        try suspend()
        try hostModel.unfreeze(selector)
        let names = hostModel.parameterNames.filter(added.contains)
        if cohorts.last?.steps == 0 {
            let joined = Set(cohorts[cohorts.count - 1].names).union(added)
            cohorts[cohorts.count - 1].names = hostModel.parameterNames.filter(joined.contains)
        } else {
            cohorts.append(Cohort(names: names, steps: 0))
        }
        return names
    }

    /// Brings everything back to the host and gives the engine up.
    private func suspend() throws {
        try synchronizeHost()
        if let engine { savedOptimizerState = try engine.optimizerState() }
        engine = nil
    }

    private func synchronizeHost() throws {
        guard let engine, !hostIsCurrent else { return }
        var names = hostModel.trainable
        for norm in trackingNorms { names.formUnion(["\(norm).running_mean", "\(norm).running_var"]) }
        try engine.download(into: &hostModel.state, names: names)
        hostIsCurrent = true
    }

    // MARK: Engine

    private var loweringOptions: LoweringOptions {
        var options = Self.loweringOptions(
            of: hostModel, loss: loss, optimizer: optimizer, frozenStatistics: frozenStatistics, dropout: usesDropout,
            isExact: opened.isExact)
        options.cohorts = cohorts.map(\.names)
        return options
    }

    private static func loweringOptions(
        of model: Model, loss: Loss, optimizer: Optimizer, frozenStatistics: FrozenStatistics, dropout: Bool,
        isExact: Bool
    ) -> LoweringOptions {
        let preprocessing = model.preprocessing
        let size = preprocessing.imageSize
        var options = LoweringOptions(
            batch: 0, height: size, width: size, mode: .training,
            input: .pixels(mean: preprocessing.mean, deviation: preprocessing.standardDeviation))
        options.frozenStatistics = frozenStatistics
        options.dropout = dropout
        options.optimizer = optimizer.rule
        options.allowsWinograd = !isExact
        if case .crossEntropy(let smoothing) = loss { options.labelSmoothing = Float(smoothing) }
        return options
    }

    /// Announces batch sizes, so that one engine is prepared for all of them.
    ///
    /// - Parameters:
    ///   - trainingBatches: sizes of training batches.
    ///   - evaluationBatches: sizes of validation batches.
    ///   - frontier: where steps begin, nil for the pixels.
    ///   - prefixBatch: images that the part before the frontier is run on at a time.
    /// - Throws: `DeviceError` when what has been trained cannot be read back.
    func prepare(
        trainingBatches: Set<Int>, evaluationBatches: Set<Int>, frontier: Frontier? = nil, prefixBatch: Int = 0
    ) throws {
        if frontier != self.frontier {
            try suspend()
            self.frontier = frontier
            requests = []
        }
        let part: Engine.Part = frontier == nil ? .whole : .suffix
        requests.formUnion(trainingBatches.map { Engine.Request(batch: $0, isTraining: true, part: part) })
        requests.formUnion(evaluationBatches.map { Engine.Request(batch: $0, isTraining: false, part: part) })
        if frontier != nil { requests.insert(Engine.Request(batch: prefixBatch, isTraining: false, part: .prefix)) }
        if let engine, !requests.allSatisfy(engine.serves) { try suspend() }
    }

    /// Where the part that no step changes ends, with what is trainable now.
    func currentFrontier() throws -> Frontier? {
        let size = hostModel.preprocessing.imageSize
        return try Frontier(
            hostModel.graph, trainable: hostModel.trainable, frozenStatistics: frozenStatistics, dropout: usesDropout,
            height: size, width: size)
    }

    /// What the outputs before a frontier depend on besides the image.
    func frontierKey(_ frontier: Frontier, fastDecode: Bool, batchSize: Int) throws -> String {
        try FrontierKey.text(
            frontier, model: hostModel, fastDecode: fastDecode, isExact: opened.isExact, batchSize: batchSize,
            device: deviceDescription)
    }

    /// What the part before the frontier gives for images; short batches are filled up.
    ///
    /// - Returns: float32 `[batch, C, H, W]` for each of the frontier's nodes; rows behind `count` mean nothing.
    func frontierValues(ofPixels pixels: [UInt8], batch: Int) throws -> [HostTensor] {
        let size = hostModel.preprocessing.imageSize
        let request = Engine.Request(batch: batch, isTraining: false, part: .prefix)
        let engine = try engine(for: request)
        let filled = pixels + [UInt8](repeating: 0, count: batch * size * size * 3 - pixels.count)
        try engine.write(HostTensor(shape: [batch, size, size, 3], storage: .uint8(filled)), to: "pixels", of: request)
        try engine.run(request)
        return try (frontier?.nodes ?? []).map { try engine.read($0, of: request) }
    }

    /// Lowers and plans what will train once everything is unfrozen, without allocating: a run must not fail for it later.
    func checkPlan(unfreezing selectors: [String], batchSizes: Set<Int>) throws {
        var model = hostModel
        for selector in selectors { try model.unfreeze(selector) }
        var options = loweringOptions
        options.cohorts = [model.parameterNames.filter(model.trainable.contains)]
        for size in batchSizes {
            options.batch = size
            _ = try Program(model.graph, options)
        }
        // With everything unfrozen that the run will train.
        try Engine.check(
            model.graph, request: Engine.Request(batch: batchSizes.max() ?? 1, isTraining: true), options: options,
            backend: opened.backend)
    }

    private func engine(for request: Engine.Request) throws -> Engine {
        requests.insert(request)
        if let engine {
            if engine.serves(request) { return engine }
            try suspend()
        }
        let analysis = FreezeAnalysis(
            hostModel.graph, trainable: hostModel.trainable, frozenStatistics: frozenStatistics)
        trackingNorms = zip(hostModel.graph.nodes, analysis.nodes).filter { $1.usesBatchStatistics }.map { $0.0.module }
        let ordered = requests.sorted { ($0.isTraining ? 1 : 0, $0.batch) > ($1.isTraining ? 1 : 0, $1.batch) }
        let made = try Engine(
            hostModel.graph, state: hostModel.state, requests: ordered, options: loweringOptions,
            frontier: frontier?.nodes ?? [], backend: opened.backend)
        try made.restoreOptimizerState(savedOptimizerState)
        savedOptimizerState = [:]
        engine = made
        return made
    }

    /// The memory plan of the current engine, for reports.
    var memoryPlan: MemoryPlan? { engine?.plan }

    // MARK: Steps

    /// One step: forward, loss, backward, update.
    ///
    /// - Parameters:
    ///   - pixels: uint8 `[N, S, S, 3]` with S the preprocessing's image size.
    ///   - labels: N class numbers.
    ///   - learningRate: nil takes the optimizer's.
    ///   - dropoutKey: what the masks of this step depend on; nil derives it from seed and step.
    /// - Returns: loss and accuracy of the batch before the update.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for sizes and labels that do not fit; `DeviceError`.
    public func step(
        pixels: [UInt8], labels: [Int32], learningRate: Double? = nil, dropoutKey: UInt64? = nil
    ) throws -> StepMetrics {
        let size = hostModel.preprocessing.imageSize
        guard !labels.isEmpty, pixels.count == labels.count * size * size * 3 else {
            throw GraftError.invalidArgument(
                "\(pixels.count) bytes of pixels for \(labels.count) labels, expected \(labels.count * size * size * 3)"
            )
        }
        return try step(.pixels(pixels), labels: labels, learningRate: learningRate, dropoutKey: dropoutKey)
    }

    /// A step from pixels, or from the frontier on.
    func step(
        _ content: TrainingBatch.Content, labels: [Int32], learningRate: Double?, dropoutKey: UInt64?
    ) throws -> StepMetrics {
        guard let smallest = labels.min(), let largest = labels.max(), smallest >= 0,
            Int(largest) < hostModel.classCount
        else {
            throw GraftError.invalidArgument(
                "labels must be in 0 ..< \(hostModel.classCount), found \(labels.min() ?? 0) to \(labels.max() ?? 0)")
        }
        let (engine, request) = try write(content, count: labels.count, isTraining: true)
        try engine.write(HostTensor(shape: [labels.count], storage: .int32(labels)), to: "labels", of: request)
        for index in cohorts.indices { cohorts[index].steps += 1 }
        let constants = StepConstants(
            dropoutKey: dropoutKey ?? CounterRandom(seed: seed, UInt64(stepCount), 0xD209).key,
            cohorts: cohorts.map {
                optimizer.constants(learningRate: learningRate ?? optimizer.learningRate, step: $0.steps)
            })
        try engine.run(request, constants)
        hostIsCurrent = false
        stepCount += 1
        for norm in trackingNorms {
            let name = "\(norm).num_batches_tracked"
            if let count = hostModel.state[name]?.int64s?.first {
                hostModel.state[name] = HostTensor(shape: [], storage: .int64([count + 1]))
            }
        }
        guard let metrics = try engine.read("metrics", of: request).floats else {
            throw GraftError.invalidArgument("the metrics are not float32")
        }
        return StepMetrics(loss: Double(metrics[0]), accuracy: Double(metrics[1]) / Double(labels.count))
    }

    /// The class scores of a batch with the weights as they are now, batch norms and dropout in inference mode.
    ///
    /// - Returns: float32 `[N, classes]`.
    public func logits(ofPixels pixels: [UInt8], count: Int) throws -> HostTensor {
        let size = hostModel.preprocessing.imageSize
        guard count > 0, pixels.count == count * size * size * 3 else {
            throw GraftError.invalidArgument("\(pixels.count) bytes of pixels for \(count) images")
        }
        return try logits(of: .pixels(pixels), count: count)
    }

    /// The class scores of a batch, from pixels or from the frontier on.
    func logits(of content: TrainingBatch.Content, count: Int) throws -> HostTensor {
        let (engine, request) = try write(content, count: count, isTraining: false)
        try engine.run(request)
        return try engine.read("logits", of: request).reshaped([count, hostModel.classCount])
    }

    /// Uploads a batch to the program that takes it.
    private func write(
        _ content: TrainingBatch.Content, count: Int, isTraining: Bool
    ) throws -> (engine: Engine, request: Engine.Request) {
        switch content {
        case .pixels(let pixels):
            let size = hostModel.preprocessing.imageSize
            let request = Engine.Request(batch: count, isTraining: isTraining)
            let engine = try engine(for: request)
            try engine.write(
                HostTensor(shape: [count, size, size, 3], storage: .uint8(pixels)), to: "pixels", of: request)
            return (engine, request)
        case .frontier(let values):
            let request = Engine.Request(batch: count, isTraining: isTraining, part: .suffix)
            let engine = try engine(for: request)
            for (name, value) in zip(frontier?.nodes ?? [], values) { try engine.write(value, to: name, of: request) }
            return (engine, request)
        }
    }

    /// The gradients of the last step by parameter name, in PyTorch's shapes.
    public func gradients() throws -> [String: HostTensor] {
        guard let engine else { return [:] }
        var result = try engine.gradients()
        for (name, tensor) in result {
            if let shape = hostModel.state[name]?.shape { result[name] = tensor.reshaped(shape) }
        }
        return result
    }

    /// The engine's training program for a batch size, for benchmarks.
    func preparedEngine(batch: Int) throws -> (engine: Engine, request: Engine.Request) {
        let request = Engine.Request(batch: batch, isTraining: true)
        return (try engine(for: request), request)
    }

    /// Constants of a step that follows the ones done, for benchmarks.
    var nextConstants: StepConstants {
        StepConstants(
            dropoutKey: 1,
            cohorts: cohorts.map { optimizer.constants(learningRate: optimizer.learningRate, step: $0.steps + 1) })
    }
}
