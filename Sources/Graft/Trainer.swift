import GraftGraph
import GraftTensor
import GraftVision

/// What is minimised.
public enum Loss: Sendable, Hashable {
    /// Mean cross entropy over the batch; the target is `(1 − s)·onehot + s/classes` (`torch.nn.CrossEntropyLoss`). With a
    /// weight for each class the mean is one over the labels' weights, as there.
    case crossEntropy(labelSmoothing: Double = 0, classWeights: [Double] = [])

    /// Cross entropy without smoothing.
    public static let crossEntropy = Loss.crossEntropy(labelSmoothing: 0, classWeights: [])
}

/// What one step did.
public struct StepMetrics: Sendable, Hashable {
    /// Mean loss of the batch before the update.
    public let loss: Double
    /// Share of the batch whose largest score was the label's; of a mixed image, the label's with the larger share.
    public let accuracy: Double
    /// The norm of all gradients before they were clipped; nil without clipping.
    public var gradientNorm: Double?
}

/// Second labels of a batch of mixed images (mixup, CutMix).
public struct MixedLabels: Sendable, Hashable {
    /// One for each image.
    public var labels: [Int32]
    /// The shares of the images' first labels, 0 to 1.
    public var shares: [Float]

    /// Makes second labels.
    public init(labels: [Int32], shares: [Float]) {
        self.labels = labels
        self.shares = shares
    }
}

/// Trains a model on one device, step by step or over epochs (see ``Trainer/fit(_:validation:options:resuming:onEvent:)``).
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
    /// Which parameters learn how fast, and which are decayed.
    public let groups: ParameterGroups
    /// Gradients are scaled so that their norm over all parameters does not exceed this
    /// (`torch.nn.utils.clip_grad_norm_`); nil leaves them alone.
    public let clipNorm: Double?
    /// With a decay d the average of the weights becomes `d · average + (1 − d) · weights` behind every step, from the
    /// first weights on (`ModelEmaV3` of timm, without warm-up); nil keeps no average.
    public let averageDecay: Double?
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

    /// Parameters that became trainable together and belong to one group, with the number of steps they have taken.
    struct Cohort: Sendable {
        var names: [String]
        var steps: Int
        /// In a file it is left out: the groups' options say it.
        var setting = ParameterGroups.Setting(learningRate: nil, scale: 1, isDecayed: true)
    }

    private let opened: Device.Opened
    private var hostModel: Model
    private var hostIsCurrent = true
    private var cohorts: [Cohort] = []
    private let settings: [String: ParameterGroups.Setting]
    /// Images whose gradients are accumulated since the last update.
    private var accumulatedCount = 0
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
    ///   - groups: learning rates and weight decay that differ between parameters.
    ///   - clipNorm: the largest norm of the gradients.
    ///   - averageDecay: how slowly an average of the weights follows them.
    /// - Throws: `GraphError.nothingToTrain`; `DeviceError` when the device cannot be used; ``GraftError`` for options that
    ///   are none.
    public init(
        _ model: Model, loss: Loss = .crossEntropy, optimizer: Optimizer = .sgd(), device: Device = .auto,
        frozenStatistics: FrozenStatistics = .keep, dropout: Bool = true, seed: UInt64 = 0,
        groups: ParameterGroups = ParameterGroups(), clipNorm: Double? = nil, averageDecay: Double? = nil
    ) throws {
        guard !model.trainable.isEmpty else { throw GraphError.nothingToTrain }
        if let clipNorm, !(clipNorm > 0 && clipNorm.isFinite) {
            throw GraftError.invalidArgument("--clip-norm \(clipNorm): expected a number above 0")
        }
        if let averageDecay, !(averageDecay >= 0 && averageDecay < 1) {
            throw GraftError.invalidArgument("--ema \(averageDecay): expected from 0 to below 1; 0.999 is usual")
        }
        if case .crossEntropy(_, let weights) = loss, !weights.isEmpty {
            guard weights.count == model.classCount, weights.allSatisfy({ $0.isFinite && $0 >= 0 }) else {
                throw GraftError.invalidArgument(
                    "\(weights.count) class weights from \(weights.min() ?? 0), expected \(model.classCount) numbers of at "
                        + "least 0, one for each class")
            }
        }
        self.loss = loss
        self.optimizer = optimizer
        self.frozenStatistics = frozenStatistics
        self.seed = seed
        usesDropout = dropout
        self.groups = groups
        self.clipNorm = clipNorm
        self.averageDecay = averageDecay
        hostModel = model
        settings = try groups.settings(of: model)
        opened = try device.open(
            running: Self.primitives(
                of: model, loss: loss, optimizer: optimizer, frozenStatistics: frozenStatistics, dropout: dropout,
                isExact: device.isExact, clipNorm: clipNorm, averageDecay: averageDecay))
        join(model.trainable)
    }

    /// What training and evaluating a model may run, now and after any unfreezing, by single batches or several to a step.
    static func primitives(
        of model: Model, loss: Loss, optimizer: Optimizer, frozenStatistics: FrozenStatistics, dropout: Bool,
        isExact: Bool, clipNorm: Double?, averageDecay: Double?
    ) -> Set<Primitive.Kind> {
        var options = loweringOptions(
            of: model, loss: loss, optimizer: optimizer, frozenStatistics: frozenStatistics, dropout: dropout,
            isExact: isExact, clipNorm: clipNorm, averageDecay: averageDecay)
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
        var accumulating = options
        accumulating.accumulates = true
        add(accumulating)
        options.mode = .inference
        add(options)
        return kinds
    }

    /// Adds parameters to the cohorts of their groups that have not stepped yet.
    private func join(_ added: Set<String>) {
        for name in hostModel.parameterNames where added.contains(name) {
            guard let setting = settings[name] else { continue }
            if let index = cohorts.firstIndex(where: { $0.steps == 0 && $0.setting == setting }) {
                let joined = Set(cohorts[index].names).union([name])
                cohorts[index].names = hostModel.parameterNames.filter(joined.contains)
            } else {
                cohorts.append(Cohort(names: [name], steps: 0, setting: setting))
            }
        }
    }

    /// A parameter group as it trains: its learning rate before any schedule, whether weight decay applies, its names.
    public typealias Group = (learningRate: Double, isDecayed: Bool, names: [String])

    /// The parameter groups as they train now.
    public var trainingGroups: [Group] {
        cohorts.map { cohort in
            (
                (cohort.setting.learningRate ?? optimizer.learningRate) * cohort.setting.scale,
                cohort.setting.isDecayed,
                cohort.names
            )
        }
    }

    /// The groups that some trainable parameters are in, with no other names.
    func trainingGroups(of parameters: [String]) -> [Group] {
        let wanted = Set(parameters)
        return trainingGroups.compactMap { group -> Group? in
            let names = group.names.filter(wanted.contains)
            guard !names.isEmpty else { return nil }
            return (learningRate: group.learningRate, isDecayed: group.isDecayed, names: names)
        }
    }

    /// The model with the weights as they are now.
    public func model() throws -> Model {
        try synchronizeHost()
        return hostModel
    }

    /// The model with the averages of the weights, and of the running statistics that training moves; nil without
    /// ``averageDecay``. Before the first step they are the weights themselves.
    public func averagedModel() throws -> Model? {
        guard averageDecay != nil else { return nil }
        var averaged = try model()
        let index = optimizer.rule.stateCount
        let states = try engine?.optimizerState(count: index + 1) ?? savedOptimizerState
        for (name, tensors) in states where tensors.count > index {
            if let shape = averaged.state[name]?.shape { averaged.state[name] = tensors[index].reshaped(shape) }
        }
        return averaged
    }

    /// Runs something with the averaged weights in place of the weights.
    func withAveragedWeights<Result>(_ body: () throws -> Result) throws -> Result {
        guard let averaged = try averagedModel() else { return try body() }
        let own = hostModel
        let names = trainedNames
        func exchange(_ state: StateDictionary) throws {
            for name in names { hostModel.state[name] = state[name] }
            try engine?.upload(hostModel.state, only: names)
        }
        try exchange(averaged.state)
        let result: Result
        do {
            result = try body()
        } catch {
            try exchange(own.state)
            throw error
        }
        try exchange(own.state)
        return result
    }

    /// Runs something that trains, and puts weights, optimizer state and counters back.
    func restoringAfterwards<Result>(_ body: () throws -> Result) throws -> Result {
        try suspend()
        let saved = (hostModel, cohorts, savedOptimizerState, stepCount, requests)
        defer {
            engine = nil
            (hostModel, cohorts, savedOptimizerState, stepCount, requests) = saved
            hostIsCurrent = true
            accumulatedCount = 0
        }
        return try body()
    }

    /// What training changes: parameters, and statistics that are not kept.
    private var trainedNames: Set<String> {
        var names = hostModel.trainable
        for norm in trackingNorms { names.formUnion(["\(norm).running_mean", "\(norm).running_var"]) }
        return names
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
        let count = optimizer.rule.stateCount
        let states = try engine?.optimizerState(count: count + (averageDecay == nil ? 0 : 1)) ?? savedOptimizerState
        for (name, tensors) in states.sorted(by: { $0.key < $1.key }) {
            // In PyTorch's shapes, as the weights are.
            let shaped = tensors.map { $0.reshaped(hostModel.state[name]?.shape ?? $0.shape) }
            if stepped.contains(name) { snapshot.optimizerState[name] = Array(shaped.prefix(count)) }
            if averageDecay != nil, shaped.count > count {
                snapshot.extraTensors[Self.averagePrefix + name] = shaped[count]
            }
        }
        return snapshot
    }

    /// Before the names of averages among a snapshot's further tensors.
    private static let averagePrefix = "average/"

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
        var restored = snapshot.optimizerState
        for (key, tensor) in snapshot.extraTensors where averageDecay != nil && key.hasPrefix(Self.averagePrefix) {
            let name = String(key.dropFirst(Self.averagePrefix.count))
            guard tensor.floats != nil, tensor.shape == hostModel.state[name]?.shape else {
                throw GraftError.weightsMismatch(
                    "the average of \(name) in \(source) has shape \(tensor.shape), expected float32 "
                        + "\(hostModel.state[name]?.shape.description ?? "and a tensor of that name in the network")")
            }
            // Running statistics, and parameters that have not stepped, have an average alone.
            let zeros = [HostTensor](
                repeating: HostTensor(tensor.shape, repeating: 0), count: optimizer.rule.stateCount)
            restored[name] = restored[name, default: zeros] + [tensor]
        }
        try hostModel.replaceState(snapshot.weights, source: source)
        hostModel.setTrainable(Set(names))
        cohorts = snapshot.cohorts.map { cohort in
            var cohort = cohort
            if let setting = cohort.names.first.flatMap({ settings[$0] }) { cohort.setting = setting }
            return cohort
        }
        savedOptimizerState = restored
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
        join(added)
        return hostModel.parameterNames.filter(added.contains)
    }

    /// Brings everything back to the host and gives the engine up.
    private func suspend() throws {
        try synchronizeHost()
        if let engine {
            savedOptimizerState = try engine.optimizerState(
                count: optimizer.rule.stateCount + (averageDecay == nil ? 0 : 1) + (accumulatedCount > 0 ? 1 : 0))
        }
        engine = nil
    }

    private func synchronizeHost() throws {
        guard let engine, !hostIsCurrent else { return }
        try engine.download(into: &hostModel.state, names: trainedNames)
        hostIsCurrent = true
    }

    // MARK: Engine

    private var loweringOptions: LoweringOptions {
        var options = Self.loweringOptions(
            of: hostModel, loss: loss, optimizer: optimizer, frozenStatistics: frozenStatistics, dropout: usesDropout,
            isExact: opened.isExact, clipNorm: clipNorm, averageDecay: averageDecay)
        options.cohorts = cohorts.map(\.names)
        return options
    }

    private static func loweringOptions(
        of model: Model, loss: Loss, optimizer: Optimizer, frozenStatistics: FrozenStatistics, dropout: Bool,
        isExact: Bool, clipNorm: Double?, averageDecay: Double?
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
        // Steps, validation and the cache see an image in batches of several sizes.
        options.algorithmBatch = 32
        options.maximumGradientNorm = clipNorm.map { Float($0) }
        options.averageDecay = averageDecay.map { Float($0) }
        switch loss {
        case .crossEntropy(let smoothing, let weights):
            options.labelSmoothing = Float(smoothing)
            options.targets.isWeighted = !weights.isEmpty
            options.classWeights = weights.map { Float($0) }
        }
        return options
    }

    /// Announces batch sizes, so that one engine is prepared for all of them.
    ///
    /// - Parameters:
    ///   - trainingBatches: sizes of training batches.
    ///   - evaluationBatches: sizes of validation batches.
    ///   - frontier: where steps begin, nil for the pixels.
    ///   - prefixBatch: images that the part before the frontier is run on at a time.
    ///   - accumulates: whether several batches make a step.
    ///   - isMixed: whether images have two labels each.
    /// - Throws: `DeviceError` when what has been trained cannot be read back.
    func prepare(
        trainingBatches: Set<Int>, evaluationBatches: Set<Int>, frontier: Frontier? = nil, prefixBatch: Int = 0,
        accumulates: Bool = false, isMixed: Bool = false
    ) throws {
        if frontier != self.frontier {
            try suspend()
            self.frontier = frontier
            requests = []
        }
        let part: Engine.Part = frontier == nil ? .whole : .suffix
        requests.formUnion(
            trainingBatches.map {
                Engine.Request(batch: $0, isTraining: true, part: part, accumulates: accumulates, isMixed: isMixed)
            })
        if accumulates, !trainingBatches.isEmpty { requests.insert(.update) }
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
    func checkPlan(unfreezing selectors: [String], batchSizes: Set<Int>, accumulates: Bool = false) throws {
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
            model.graph,
            request: Engine.Request(batch: batchSizes.max() ?? 1, isTraining: true, accumulates: accumulates),
            options: options, backend: opened.backend)
    }

    private func engine(for request: Engine.Request) throws -> Engine {
        requests.insert(request)
        if request.accumulates { requests.insert(.update) }
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
        try made.restoreOptimizerState(
            savedOptimizerState, averageState: averageDecay == nil ? nil : optimizer.rule.stateCount)
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
    ///   - mixed: second labels, where images are mixtures of two.
    ///   - dropoutKey: what the masks of this step depend on; nil derives it from seed and step.
    /// - Returns: loss and accuracy of the batch before the update.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for sizes and labels that do not fit; `DeviceError`.
    public func step(
        pixels: [UInt8], labels: [Int32], learningRate: Double? = nil, mixed: MixedLabels? = nil,
        dropoutKey: UInt64? = nil
    ) throws -> StepMetrics {
        try check(pixels, labels)
        return try step(
            .pixels(pixels), labels: labels, mixed: mixed, learningRate: learningRate, dropoutKey: dropoutKey)
    }

    /// One step from several batches: the update of one batch of all their images, for networks whose training uses no
    /// statistics of the batch.
    ///
    /// - Parameters:
    ///   - batches: pixels uint8 `[N, S, S, 3]` and labels of each.
    ///   - learningRate: nil takes the optimizer's.
    /// - Returns: loss and accuracy over all images before the update.
    /// - Throws: as ``step(pixels:labels:learningRate:mixed:dropoutKey:)``.
    public func step(
        accumulating batches: [(pixels: [UInt8], labels: [Int32])], learningRate: Double? = nil
    ) throws -> StepMetrics {
        guard !batches.isEmpty else { throw GraftError.invalidArgument("a step of no batch: expected at least 1") }
        var loss = 0.0
        var correct = 0.0
        var count = 0.0
        for (index, batch) in batches.enumerated() {
            try check(batch.pixels, batch.labels)
            let metrics = try accumulate(
                .pixels(batch.pixels), labels: batch.labels, mixed: nil,
                dropoutKey: CounterRandom(seed: seed, UInt64(stepCount), 0xD209, UInt64(index)).key)
            loss += metrics.loss * Double(batch.labels.count)
            correct += metrics.accuracy * Double(batch.labels.count)
            count += Double(batch.labels.count)
        }
        let norm = try updateFromAccumulated(learningRate: learningRate)
        return StepMetrics(loss: loss / count, accuracy: correct / count, gradientNorm: norm)
    }

    private func check(_ pixels: [UInt8], _ labels: [Int32]) throws {
        let size = hostModel.preprocessing.imageSize
        guard !labels.isEmpty, pixels.count == labels.count * size * size * 3 else {
            throw GraftError.invalidArgument(
                "\(pixels.count) bytes of pixels for \(labels.count) labels, expected \(labels.count * size * size * 3)"
            )
        }
    }

    /// A step from pixels, or from the frontier on.
    func step(
        _ content: TrainingBatch.Content, labels: [Int32], mixed: MixedLabels? = nil, learningRate: Double?,
        momentum: Double? = nil, dropoutKey: UInt64?
    ) throws -> StepMetrics {
        let (engine, request) = try write(content, labels: labels, mixed: mixed)
        for index in cohorts.indices { cohorts[index].steps += 1 }
        var constants = stepConstants(learningRate: learningRate, momentum: momentum)
        constants.dropoutKey = dropoutKey ?? CounterRandom(seed: seed, UInt64(stepCount), 0xD209).key
        try engine.run(request, constants)
        stepCount += 1
        var metrics = try finishForward(engine, request, count: labels.count)
        metrics.gradientNorm = try gradientNorm(engine, request)
        return metrics
    }

    /// Forward and backward of one of several batches whose gradients are averaged, each with the weight of its images.
    func accumulate(
        _ content: TrainingBatch.Content, labels: [Int32], mixed: MixedLabels?, dropoutKey: UInt64
    ) throws -> StepMetrics {
        let (engine, request) = try write(content, labels: labels, mixed: mixed, accumulates: true)
        accumulatedCount += labels.count
        try engine.run(
            request,
            StepConstants(
                dropoutKey: dropoutKey, accumulationShare: Float(Double(labels.count) / Double(accumulatedCount))))
        return try finishForward(engine, request, count: labels.count)
    }

    /// The update from what ``accumulate(_:labels:mixed:dropoutKey:)`` gathered, which it ends.
    ///
    /// - Returns: the gradients' norm, where they are clipped.
    @discardableResult
    func updateFromAccumulated(learningRate: Double?, momentum: Double? = nil) throws -> Double? {
        let engine = try engine(for: .update)
        for index in cohorts.indices { cohorts[index].steps += 1 }
        try engine.run(.update, stepConstants(learningRate: learningRate, momentum: momentum))
        accumulatedCount = 0
        hostIsCurrent = false
        stepCount += 1
        return try gradientNorm(engine, .update)
    }

    /// What the cohorts' rules need in their step, which has been counted.
    private func stepConstants(learningRate: Double?, momentum: Double?) -> StepConstants {
        let base = optimizer.learningRate
        let rate = learningRate ?? base
        let factor = base > 0 ? rate / base : 1
        return StepConstants(
            cohorts: cohorts.map { cohort in
                optimizer.constants(
                    learningRate: (cohort.setting.learningRate.map { $0 * factor } ?? rate) * cohort.setting.scale,
                    step: cohort.steps, isDecayed: cohort.setting.isDecayed, momentum: momentum)
            })
    }

    private func gradientNorm(_ engine: Engine, _ request: Engine.Request) throws -> Double? {
        guard clipNorm != nil else { return nil }
        return try engine.read("gradient norm", of: request).floats.map { Double($0[0]) }
    }

    /// Uploads a training batch and its labels.
    private func write(
        _ content: TrainingBatch.Content, labels: [Int32], mixed: MixedLabels?, accumulates: Bool = false
    ) throws -> (engine: Engine, request: Engine.Request) {
        for labels in [labels] + (mixed.map { [$0.labels] } ?? []) {
            guard let smallest = labels.min(), let largest = labels.max(), smallest >= 0,
                Int(largest) < hostModel.classCount
            else {
                throw GraftError.invalidArgument(
                    "labels must be in 0 ..< \(hostModel.classCount), found \(labels.min() ?? 0) to \(labels.max() ?? 0)"
                )
            }
        }
        if let mixed {
            guard mixed.labels.count == labels.count, mixed.shares.count == labels.count,
                mixed.shares.allSatisfy({ $0 >= 0 && $0 <= 1 })
            else {
                throw GraftError.invalidArgument(
                    "\(mixed.labels.count) second labels and \(mixed.shares.count) shares for \(labels.count) images, "
                        + "expected one of each, shares from 0 to 1")
            }
        }
        let (engine, request) = try write(
            content, count: labels.count, isTraining: true, accumulates: accumulates, isMixed: mixed != nil)
        let shape: Shape = [labels.count]
        try engine.write(HostTensor(shape: shape, storage: .int32(labels)), to: "labels", of: request)
        if let mixed {
            try engine.write(
                HostTensor(shape: shape, storage: .int32(mixed.labels)), to: "second labels", of: request)
            try engine.write(HostTensor(shape, mixed.shares), to: "shares", of: request)
        }
        return (engine, request)
    }

    /// Counts a batch that batch norms have seen, and reads its metrics.
    private func finishForward(_ engine: Engine, _ request: Engine.Request, count: Int) throws -> StepMetrics {
        hostIsCurrent = false
        for norm in trackingNorms {
            let name = "\(norm).num_batches_tracked"
            if let count = hostModel.state[name]?.int64s?.first {
                hostModel.state[name] = HostTensor(shape: [], storage: .int64([count + 1]))
            }
        }
        guard let metrics = try engine.read("metrics", of: request).floats else {
            throw GraftError.invalidArgument("the metrics are not float32")
        }
        return StepMetrics(loss: Double(metrics[0]), accuracy: Double(metrics[1]) / Double(count))
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
        _ content: TrainingBatch.Content, count: Int, isTraining: Bool, accumulates: Bool = false, isMixed: Bool = false
    ) throws -> (engine: Engine, request: Engine.Request) {
        switch content {
        case .pixels(let pixels):
            let size = hostModel.preprocessing.imageSize
            let request = Engine.Request(
                batch: count, isTraining: isTraining, accumulates: accumulates, isMixed: isMixed)
            let engine = try engine(for: request)
            try engine.write(
                HostTensor(shape: [count, size, size, 3], storage: .uint8(pixels)), to: "pixels", of: request)
            return (engine, request)
        case .frontier(let values):
            let request = Engine.Request(
                batch: count, isTraining: isTraining, part: .suffix, accumulates: accumulates, isMixed: isMixed)
            let engine = try engine(for: request)
            for (name, value) in zip(frontier?.nodes ?? [], values) { try engine.write(value, to: name, of: request) }
            return (engine, request)
        }
    }

    /// The gradients of the last step by parameter name, in PyTorch's shapes.
    public func gradients() throws -> [String: HostTensor] {
        guard let engine else { return [:] }
        var result = try engine.gradients().filter { hostModel.trainable.contains($0.key) }
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
            cohorts: cohorts.map {
                optimizer.constants(
                    learningRate: optimizer.learningRate, step: $0.steps + 1, isDecayed: $0.setting.isDecayed)
            })
    }
}
