import Foundation
import GraftGraph
import GraftTensor
import GraftVision

/// How ``Trainer/fit(_:validation:options:resuming:onEvent:)`` walks through the data.
public struct FitOptions: Sendable {
    /// Selectors that become trainable before the first step of an epoch, counted from 0.
    public var unfreezeAtEpoch: [(epoch: Int, selector: String)] = []
    /// Selectors that become trainable before a step of the run, counted from 0.
    public var unfreezeAtStep: [(step: Int, selector: String)] = []
    /// Times every image is seen.
    public var epochs = 10
    /// Stops after so many steps in all, if that comes earlier.
    public var stepLimit: Int?
    /// Images per step, or per part of a step with ``accumulatedBatches``.
    public var batchSize = 32
    /// Batches that make one step: their gradients' mean over all images is what the optimizer sees. The last step of an
    /// epoch has the batches that are left.
    public var accumulatedBatches = 1
    /// Whether each epoch has an order of its own, from the trainer's seed.
    public var shuffles = true
    /// Whether a last, smaller batch is left out. It is trained on by default.
    public var dropsLast = false
    /// Random changes to training images.
    public var augmentation = Augmentation.none
    /// Above 0: images are mixed with others of their batch, with shares from Beta(mixup, mixup) (mixup). Nothing is cached
    /// then, and training accuracies are against the label with the larger share.
    public var mixup = 0.0
    /// Above 0: the same by a rectangle of the other image (CutMix); with ``mixup`` either in half of the batches.
    public var cutMix = 0.0
    /// Which images an epoch sees.
    public var sampler = Sampler.uniform
    /// What to do about an image that cannot be decoded.
    public var onBadImage = BadImagePolicy.fail
    /// Whether large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, for training and validation: faster, with
    /// pixels that differ a little.
    public var fastDecode = false
    /// Threads that decode images ahead of the device.
    public var workerCount = 2
    /// Whether the frozen part's outputs are kept, so that epochs after the first compute only what trains. Has no
    /// effect on results. With augmentation nothing is kept unless ``cachedViews`` is set, and then in memory alone:
    /// ``CachePolicy/disk`` needs `Augmentation.none`.
    public var cache = CachePolicy.auto
    /// With augmentation: how many views of each image there are; epoch e sees view e mod this. nil makes a new one for
    /// every epoch, of which nothing can be kept. Decides what is trained on whatever ``cache`` says.
    public var cachedViews: Int?
    /// The most bytes that the files of ``CachePolicy/disk`` may take together; those used longest ago go first.
    public var cacheLimit = 10 << 30
    /// Where they are; nil for `frontier` in `$GRAFT_CACHE`, else `$XDG_CACHE_HOME/graft`, else `~/.cache/graft`.
    public var cacheFolder: URL?
    /// The most bytes of the frozen part's outputs that are kept in memory; nil for half of what is free.
    public var cacheMemoryLimit: Int?
    /// How the learning rate changes.
    public var schedule = LearningRateSchedule.constant
    /// Ends the run when the validation loss (the average's, where one is kept) has not fallen for so many epochs. An
    /// unfreezing begins the count anew.
    public var earlyStopPatience: Int?
    /// Steps over which the learning rate rises to its start value.
    public var warmupSteps = 0
    /// Seconds between two ``TrainingEvent/state(_:)``, of which there also is one at the end and one on an interruption;
    /// nil for none. 0 gives one behind every step.
    public var stateIntervalSeconds: Double?
    /// Asked before every step; a true answer ends the run with ``GraftError/interrupted``.
    public var isCancelled: @Sendable () -> Bool = { false }

    /// The defaults: ten epochs of shuffled batches of 32 at a constant rate.
    public init() {}
}

/// One step of a run.
public struct StepRecord: Sendable, Hashable {
    /// Counted from 0 over the whole run.
    public let step: Int
    /// Counted from 0.
    public let epoch: Int
    /// Mean loss of the batch before the update.
    public let loss: Double
    /// Share of right answers in the batch.
    public let accuracy: Double
    /// The rate of this step.
    public let learningRate: Double
    /// Images of this step over the time since the step before, decoding included.
    public let imagesPerSecond: Double
    /// The norm of all gradients before they were clipped; nil without clipping.
    public var gradientNorm: Double?
}

/// One epoch of a run.
public struct EpochRecord: Sendable {
    /// Counted from 0.
    public let epoch: Int
    /// Mean loss of the epoch's images, each before its step's update.
    public let trainLoss: Double
    /// Share of right answers, each before its step's update.
    public let trainAccuracy: Double
    /// On the validation images behind the epoch, if there are any.
    public let validation: Evaluation?
    /// The same with the averaged weights, where an average is kept.
    public var averagedValidation: Evaluation?
    /// Wall time, validation included.
    public let seconds: Double

    /// Makes a record.
    public init(
        epoch: Int, trainLoss: Double, trainAccuracy: Double, validation: Evaluation?,
        averagedValidation: Evaluation? = nil,
        seconds: Double
    ) {
        self.epoch = epoch
        self.trainLoss = trainLoss
        self.trainAccuracy = trainAccuracy
        self.validation = validation
        self.averagedValidation = averagedValidation
        self.seconds = seconds
    }
}

/// What a run reports while it goes on.
public enum TrainingEvent: Sendable {
    /// Memory is planned and kernels are built: bytes on the device, steps of an epoch.
    case prepared(byteCount: Int, stepsPerEpoch: Int)
    /// From here on the frozen part's outputs are kept.
    case caching(CacheReport)
    /// Why the cache on disk is not used although it was to be.
    case cacheUnavailable(reason: String)
    /// They are given up, in memory, or closed, on disk: something below was unfrozen, or the run ends.
    case uncached(CacheReport)
    /// Parameters became trainable before a step, in these groups.
    case unfroze(selector: String, names: [String], epoch: Int, step: Int, groups: [Trainer.Group])
    /// A step is done.
    case step(StepRecord)
    /// An image could not be read and was passed over.
    case skipped(SkippedImage)
    /// An epoch is done.
    case epoch(EpochRecord)
    /// The run ends before its time: the validation loss has not fallen since an epoch, counted from 0.
    case stoppedEarly(bestEpoch: Int)
    /// What the run can go on from if it ends here; see ``FitOptions/stateIntervalSeconds``.
    case state(TrainingState)
}

extension Trainer {
    /// Trains over epochs.
    ///
    /// - Parameters:
    ///   - data: the training images.
    ///   - validation: images to evaluate on behind every epoch.
    ///   - options: epochs, batches, schedule, unfreezing.
    ///   - state: where an earlier run was, to go on from there with the same bytes as if it had never stopped. The
    ///     trainer takes over its weights, its optimizer's state and what trains; it is made as the earlier one was.
    ///   - onEvent: called on this thread; an error it throws ends the run.
    /// - Returns: the epochs, without those that were finished in the state.
    /// - Throws: ``GraftError/diverged(epoch:step:)`` when the loss is not finite, ``GraftError/interrupted``, errors of
    ///   images and devices; the model then holds the last finished step. With a state,
    ///   ``GraftError/cannotResume(_:differences:)`` when the images or the options are not those of the earlier run, but
    ///   for more epochs or steps, where the schedule does not depend on their number.
    @discardableResult
    public func fit(
        _ data: ImageDataset, validation: ImageDataset? = nil, options: FitOptions = FitOptions(),
        resuming state: TrainingState? = nil, onEvent: (TrainingEvent) throws -> Void = { _ in }
    ) throws -> [EpochRecord] {
        let settings = RunSettings.list(self, options)
        let keepsState = options.stateIntervalSeconds != nil
        let fingerprint =
            keepsState || state != nil
            ? DataFingerprint(data, validation, workerCount: options.workerCount) : nil
        defer { fingerprint?.cancel() }
        if let state {
            try checkSettings(state.settings, settings, options)
            if let difference = try fingerprint?.get().difference(from: state, data, validation) {
                throw GraftError.cannotResume(
                    "the images are not those that the run began with: \(difference)", differences: [])
            }
            try restore(state.trainer)
        }
        try check(data, validation, options)
        let batchSize = min(options.batchSize, data.count)
        let used = options.dropsLast ? data.count / batchSize * batchSize : data.count
        let window = options.accumulatedBatches
        let mixing = Mixing(mixup: options.mixup, cutMix: options.cutMix)
        let labels = data.samples.map(\.label)
        let stepsPerEpoch = ((used + batchSize - 1) / batchSize + window - 1) / window
        let allSteps = options.epochs.multipliedReportingOverflow(by: stepsPerEpoch)
        let plannedSteps = allSteps.overflow ? Int.max : allSteps.partialValue
        let totalSteps = min(plannedSteps, options.stepLimit ?? Int.max)
        try checkUnfreezing(options, stepsPerEpoch: stepsPerEpoch, totalSteps: totalSteps)
        let prefixBatch = batchSize
        var cache: RunCache?
        // Also when an error ends the run: threads that decode may hold the file a moment longer.
        defer { cache?.close() }
        /// The frontier for which no cache was to be had; asking again in every epoch would only repeat the warning.
        var refused: Frontier?
        let viewCount = options.augmentation == .none ? 1 : options.cachedViews ?? options.epochs
        /// Frees what was kept, before room for something new is looked for.
        func dropCache() throws {
            if let cache { try onEvent(.uncached(cache.report)) }
            cache?.close()
            cache = nil
        }
        /// Goes on without a cache that cannot be written or read any more, unless it was asked for by name.
        func giveUpCache(_ failure: FrontierCacheFailure, epoch: Int) throws {
            guard options.cache == .auto else { throw failure.cause }
            try onEvent(.cacheUnavailable(reason: "\(failure.cause); the run goes on and computes the frozen part"))
            refused = cache?.frontier
            try dropCache()
            try refreshCache(epoch: epoch)
        }
        /// Finds out what can be kept from an epoch on, and prepares the programs for it.
        func refreshCache(epoch: Int) throws {
            let isRepeated = !mixing.isOn && (options.augmentation == .none || options.cachedViews != nil)
            let frontier = isRepeated ? try currentFrontier() : nil
            if cache?.frontier != frontier {
                try dropCache()
            }
            if cache == nil, let frontier, frontier != refused {
                let request = RunCache.Request(
                    policy: options.cache, trainingCount: data.count, viewCount: viewCount,
                    validationCount: validation?.count, limit: options.cacheLimit,
                    memoryLimit: options.cacheMemoryLimit,
                    folder: options.cacheFolder ?? CacheFolder.url("frontier"),
                    allowsDisk: options.augmentation == .none, isReadAgain: epoch < options.epochs - viewCount
                ) { [self] in
                    try frontierKey($0, fastDecode: options.fastDecode, batchSize: prefixBatch)
                }
                cache = try RunCache.make(frontier, request) { try onEvent(.cacheUnavailable(reason: $0)) }
                if let cache { try onEvent(.caching(cache.report)) } else { refused = frontier }
            }
            try prepare(
                trainingBatches: Self.sizes(count: used, batchSize: batchSize),
                evaluationBatches: validation.map { Self.sizes(count: $0.count, batchSize: options.batchSize) } ?? [],
                frontier: cache?.frontier, prefixBatch: prefixBatch, accumulates: window > 1,
                isMixed: mixing.isOn)
        }
        func batches(_ epoch: Int, _ order: [Int]) -> TrainingBatches {
            TrainingBatches(
                data: data, order: order, preprocessing: configuration.preprocessing,
                options: BatchLoaderOptions(
                    batchSize: batchSize, workerCount: options.workerCount, augmentation: options.augmentation,
                    seed: seed, epoch: epoch % viewCount, onBadImage: options.onBadImage, fastDecode: options.fastDecode
                ),
                batchSize: batchSize, cache: cache?.training(epoch: epoch)
            ) { try self.frontierValues(ofPixels: $0, batch: prefixBatch) }
        }
        if [.memory, .disk].contains(options.cache), mixing.isOn {
            try onEvent(
                .cacheUnavailable(
                    reason:
                        "--cache \(options.cache.rawValue) is without effect: mixed images (--mixup, --cutmix) are new in "
                        + "every batch"))
        } else if [.memory, .disk].contains(options.cache), options.augmentation != .none, options.cachedViews == nil {
            try onEvent(
                .cacheUnavailable(
                    reason: "--cache \(options.cache.rawValue) is without effect: with --augment "
                        + "\(options.augmentation.rawValue) every epoch sees other pixels; --cached-views K keeps K of them"
                        + (options.cache == .disk ? ", with --cache auto or memory" : "")))
        }
        var announced = false
        var plateau = state?.patience.plateau ?? Plateau()
        var waiting = state?.patience.waiting ?? Patience()
        var bestEpoch = state?.patience.bestEpoch ?? 0
        var step = state?.stepCount ?? 0
        var records: [EpochRecord] = []
        var sums = TrainingState.EpochSums()
        /// Images of the epoch's order that are behind the run.
        var done = 0
        let clock = ContinuousClock()
        var lastSaved: (time: ContinuousClock.Instant, step: Int, epoch: Int)?
        /// Hands out where the run is: `isEpochFinished` behind the last event of an epoch.
        func reportState(
            epoch: Int, since start: Date, isEpochFinished: Bool = false, isFinished: Bool = false
        ) throws {
            guard keepsState, step > 0, let hashes = try fingerprint?.get() else { return }
            if let lastSaved, (lastSaved.step, lastSaved.epoch) == (step, epoch), !isFinished { return }
            var state = TrainingState()
            state.stepCount = step
            state.epoch = epoch
            state.position = done
            state.isEpochFinished = isEpochFinished
            state.isFinished = isFinished
            state.settings = settings
            state.sums = sums
            state.sums.seconds += Date().timeIntervalSince(start)
            state.trainer = try snapshot()
            state.patience = TrainingState.PatienceState(
                plateau: plateau, waiting: waiting, bestEpoch: bestEpoch)
            state.trainingHashes = hashes.training
            state.validationHashes = hashes.validation
            state.program = try ProgramIdentity.text()
            state.modelMetadata = try ModelMetadata(configuration, digest: "").entries
            try onEvent(.state(state))
            lastSaved = (clock.now, step, epoch)
        }
        let runStart = clock.now
        /// Whether it is time to hand it out.
        var isStateDue: Bool {
            guard let interval = options.stateIntervalSeconds, fingerprint?.isReady == true else { return false }
            let last = lastSaved?.time ?? runStart
            return last.duration(to: clock.now) >= .seconds(min(max(interval, 0), 1e9))
        }
        /// Runs what may have a driver compile. Compilers inside drivers clean up when a signal asks the process to end, and
        /// then fail: that is the interruption, not a fault of the kernels.
        func interruptibly<Result>(epoch: Int, since start: Date, _ body: () throws -> Result) throws -> Result {
            do { return try body() } catch let error as DeviceError {
                guard case .buildFailed = error, options.isCancelled() else { throw error }
                try reportState(epoch: epoch, since: start)
                throw GraftError.interrupted
            }
        }
        let firstEpoch = state.map { $0.isEpochFinished ? $0.epoch + 1 : $0.epoch } ?? 0
        for epoch in min(firstEpoch, options.epochs)..<options.epochs {
            let begun = state.flatMap { epoch == $0.epoch && !$0.isEpochFinished ? $0 : nil }
            // Behind the last step there may be an epoch left to validate and to record.
            if step >= totalSteps, begun?.isFinished ?? true { break }
            let start = Date()
            sums = begun?.sums ?? TrainingState.EpochSums()
            done = begun?.position ?? 0
            // What was unfrozen before the state is trainable in it.
            for entry in options.unfreezeAtEpoch where entry.epoch == epoch && begun == nil {
                waiting.restart()
                try onEvent(unfreezing(entry.selector, epoch: epoch, step: step))
            }
            try refreshCache(epoch: epoch)
            let permutation =
                options.shuffles
                ? options.sampler.order(labels: labels, seed: seed, epoch: epoch) : Array(0..<data.count)
            let order = Array(permutation.prefix(used))
            var remaining = order.dropFirst(done)
            /// Not there while another one is to come: it holds on to the rows it reads.
            var source: TrainingBatches? = batches(epoch, Array(remaining))
            defer { source?.cancel() }
            /// The next batch, from the images themselves when the cache fails.
            func nextBatch() throws -> TrainingBatch? {
                do { return try source?.next() } catch let failure as FrontierCacheFailure {
                    try beginAgain(at: source?.position ?? 0) { try giveUpCache(failure, epoch: epoch) }
                    return try source?.next()
                }
            }
            /// Leaves the source, changes the cache, and takes the batches from a position of the source on anew.
            func beginAgain(at position: Int, change: () throws -> Void) throws {
                source?.cancel()
                source = nil
                try change()
                remaining = remaining.dropFirst(position)
                source = batches(epoch, Array(remaining))
            }
            var last = Date()
            var isExhausted = false
            while step < totalSteps {
                guard var batch = try interruptibly(epoch: epoch, since: start, nextBatch) else {
                    isExhausted = true
                    break
                }
                guard !options.isCancelled() else {
                    try reportState(epoch: epoch, since: start)
                    throw GraftError.interrupted
                }
                for entry in options.unfreezeAtStep where entry.step == step {
                    waiting.restart()
                    try onEvent(unfreezing(entry.selector, epoch: epoch, step: step))
                }
                if case .frontier = batch.content, try currentFrontier() != cache?.frontier {
                    // This batch and those behind it begin at another frontier, or at the pixels.
                    try beginAgain(at: batch.position) { try refreshCache(epoch: epoch) }
                    guard let again = try interruptibly(epoch: epoch, since: start, nextBatch) else {
                        isExhausted = true
                        break
                    }
                    batch.content = again.content
                    batch.end = again.end
                }
                let rate =
                    optimizer.learningRate * plateau.factor
                    * options.schedule.factor(
                        step: step, totalSteps: totalSteps, stepsPerEpoch: stepsPerEpoch,
                        warmupSteps: options.warmupSteps)
                let momentum =
                    optimizer.momentum > 0 ? options.schedule.momentum(step: step, totalSteps: totalSteps) : nil
                let metrics: StepMetrics
                let imageCount: Int
                (metrics, imageCount, batch.end) = try interruptibly(epoch: epoch, since: start) {
                    try trainingStep(
                        first: batch, window: window, mixing: mixing, rate: rate, momentum: momentum, epoch: epoch,
                        step: step, onEvent: onEvent
                    ) { try nextBatch() }
                }
                if !announced {
                    announced = true
                    try onEvent(.prepared(byteCount: memoryPlan?.totalByteCount ?? 0, stepsPerEpoch: stepsPerEpoch))
                }
                let now = Date()
                let record = StepRecord(
                    step: step, epoch: epoch, loss: metrics.loss, accuracy: metrics.accuracy, learningRate: rate,
                    imagesPerSecond: Double(imageCount) / max(now.timeIntervalSince(last), 1e-9),
                    gradientNorm: metrics.gradientNorm)
                last = now
                try onEvent(.step(record))
                guard metrics.loss.isFinite else { throw GraftError.diverged(epoch: epoch, step: step) }
                sums.loss += metrics.loss * Double(imageCount)
                sums.correct += metrics.accuracy * Double(imageCount)
                sums.count += imageCount
                step += 1
                done = order.count - remaining.count + batch.end
                if isStateDue { try reportState(epoch: epoch, since: start) }
            }
            for image in source?.skippedBehindLastBatch ?? [] { try onEvent(.skipped(image)) }
            guard sums.count > 0 else {
                throw GraftError.noInput(
                    "no image of epoch \(epoch) could be read: all \(data.count) were passed over")
            }
            func scores(reportsSkipped: Bool) throws -> Evaluation? {
                try validation.map {
                    try evaluate(
                        $0, batchSize: options.batchSize, onBadImage: options.onBadImage,
                        workerCount: options.workerCount, fastDecode: options.fastDecode,
                        isCancelled: options.isCancelled, cache: cache?.validation, prefixBatch: prefixBatch
                    ) { image in if reportsSkipped { try onEvent(.skipped(image)) } }
                }
            }
            /// Once more without the cache, when that fails; an interruption leaves a state.
            func evenWithoutCache(_ body: () throws -> Evaluation?) throws -> Evaluation? {
                do {
                    do { return try interruptibly(epoch: epoch, since: start, body) } catch let failure
                        as FrontierCacheFailure
                    {
                        try giveUpCache(failure, epoch: epoch)
                        return try interruptibly(epoch: epoch, since: start, body)
                    }
                } catch GraftError.interrupted {
                    try reportState(epoch: epoch, since: start)
                    throw GraftError.interrupted
                }
            }
            // Weights of this epoch are about to be kept, perhaps: there is a state that goes with them from now on.
            if lastSaved == nil { try reportState(epoch: epoch, since: start) }
            let evaluation = try evenWithoutCache { try scores(reportsSkipped: true) }
            let averaged =
                averageDecay == nil
                ? nil : try evenWithoutCache { try withAveragedWeights { try scores(reportsSkipped: false) } }
            // The last update of an epoch shows in no training loss any more.
            if let evaluation, !evaluation.loss.isFinite { throw GraftError.diverged(epoch: epoch, step: step - 1) }
            let record = EpochRecord(
                epoch: epoch, trainLoss: sums.loss / Double(sums.count),
                trainAccuracy: sums.correct / Double(sums.count), validation: evaluation,
                averagedValidation: averaged, seconds: sums.seconds + Date().timeIntervalSince(start))
            records.append(record)
            if let evaluation { plateau.take(evaluation.loss, schedule: options.schedule) }
            try onEvent(.epoch(record))
            var stopsEarly = false
            if let patience = options.earlyStopPatience, let loss = (averaged ?? evaluation)?.loss {
                if waiting.improves(loss) { bestEpoch = epoch }
                stopsEarly = waiting.badEpochs >= patience && epoch + 1 < options.epochs && step < totalSteps
            }
            if stopsEarly { try onEvent(.stoppedEarly(bestEpoch: bestEpoch)) }
            if stopsEarly || step >= totalSteps || epoch == options.epochs - 1 {
                // An epoch that the limit of steps cut short is not finished for a run that goes on.
                try reportState(
                    epoch: epoch, since: start, isEpochFinished: isExhausted || done >= order.count,
                    isFinished: true)
            }
            if stopsEarly { break }
        }
        try dropCache()
        try prepare(trainingBatches: [], evaluationBatches: [])
        return records
    }

    /// Mixes the images of one batch of a step, where they are to be mixed.
    private func mix(
        _ batch: inout TrainingBatch, _ mixing: Mixing, epoch: Int, step: Int, part: Int
    ) -> MixedLabels? {
        guard mixing.isOn, case .pixels(var pixels) = batch.content else { return nil }
        let random = CounterRandom(seed: seed, UInt64(epoch), UInt64(step), 0x3117, UInt64(part))
        let mixed = mixing.mix(
            &pixels, labels: batch.labels, size: configuration.preprocessing.imageSize, random: random)
        batch.content = .pixels(pixels)
        return mixed
    }

    /// Unfreezes before a step; the event says what.
    private func unfreezing(_ selector: String, epoch: Int, step: Int) throws -> TrainingEvent {
        let names = try unfreeze(selector)
        return .unfroze(
            selector: selector, names: names, epoch: epoch, step: step, groups: trainingGroups(of: names))
    }

    /// A step of `window` batches, or of fewer where `more` has no other one; images are mixed where they are to be.
    func trainingStep(
        first: TrainingBatch, window: Int, mixing: Mixing, rate: Double, momentum: Double? = nil, epoch: Int, step: Int,
        onEvent: (TrainingEvent) throws -> Void,
        more: () throws -> TrainingBatch?
    ) throws -> (metrics: StepMetrics, imageCount: Int, end: Int) {
        guard window == 1 else {
            return try stepAccumulating(
                first: first, mixing: mixing, rate: rate, momentum: momentum, epoch: epoch, step: step,
                onEvent: onEvent
            ) { taken in taken < window ? try more() : nil }
        }
        var batch = first
        for image in batch.skipped { try onEvent(.skipped(image)) }
        let mixed = mix(&batch, mixing, epoch: epoch, step: step, part: 0)
        let metrics = try self.step(
            batch.content, labels: batch.labels, mixed: mixed, learningRate: rate, momentum: momentum,
            dropoutKey: CounterRandom(seed: seed, UInt64(epoch), UInt64(step), 0xD209).key)
        return (metrics: metrics, imageCount: batch.labels.count, end: batch.end)
    }

    /// A step of several batches; `more` gives the next one, knowing how many were taken, and nil ends the step.
    private func stepAccumulating(
        first: TrainingBatch, mixing: Mixing, rate: Double, momentum: Double?, epoch: Int, step: Int,
        onEvent: (TrainingEvent) throws -> Void,
        more: (Int) throws -> TrainingBatch?
    ) throws -> (metrics: StepMetrics, imageCount: Int, end: Int) {
        var loss = 0.0
        var end = first.end
        var correct = 0.0
        var count = 0
        var taken = 0
        var next: TrainingBatch? = first
        while var batch = next {
            for image in batch.skipped { try onEvent(.skipped(image)) }
            let random =
                taken == 0
                ? CounterRandom(seed: seed, UInt64(epoch), UInt64(step), 0xD209)
                : CounterRandom(seed: seed, UInt64(epoch), UInt64(step), 0xD209, UInt64(taken))
            let mixed = mix(&batch, mixing, epoch: epoch, step: step, part: taken)
            let metrics = try accumulate(
                batch.content, labels: batch.labels, mixed: mixed, dropoutKey: random.key)
            loss += metrics.loss * Double(batch.labels.count)
            correct += metrics.accuracy * Double(batch.labels.count)
            count += batch.labels.count
            taken += 1
            end = batch.end
            next = try more(taken)
        }
        let norm = try updateFromAccumulated(learningRate: rate, momentum: momentum)
        return (
            StepMetrics(loss: loss / Double(count), accuracy: correct / Double(count), gradientNorm: norm), count, end
        )
    }

    /// Scores labelled images with the weights as they are now.
    public func evaluate(
        _ data: ImageDataset, batchSize: Int = 32, onBadImage: BadImagePolicy = .fail, workerCount: Int = 2,
        fastDecode: Bool = false, isCancelled: () -> Bool = { false }, onSkip: (SkippedImage) throws -> Void = { _ in }
    ) throws -> Evaluation {
        try evaluate(
            data, batchSize: batchSize, onBadImage: onBadImage, workerCount: workerCount, fastDecode: fastDecode,
            isCancelled: isCancelled, cache: nil, prefixBatch: 0, onSkip: onSkip)
    }

    private func evaluate(
        _ data: ImageDataset, batchSize: Int, onBadImage: BadImagePolicy, workerCount: Int, fastDecode: Bool,
        isCancelled: () -> Bool, cache: FrontierCache?, prefixBatch: Int, onSkip: (SkippedImage) throws -> Void
    ) throws -> Evaluation {
        var evaluation = Evaluation(classNames: data.classes.padded(to: configuration.classCount))
        let batches = TrainingBatches(
            data: data, order: Array(0..<data.count), preprocessing: configuration.preprocessing,
            options: BatchLoaderOptions(
                batchSize: cache == nil ? batchSize : prefixBatch, workerCount: workerCount, onBadImage: onBadImage,
                fastDecode: fastDecode),
            batchSize: batchSize, cache: cache
        ) { try self.frontierValues(ofPixels: $0, batch: prefixBatch) }
        defer { batches.cancel() }
        while let batch = try batches.next() {
            guard !isCancelled() else { throw GraftError.interrupted }
            for image in batch.skipped { try onSkip(image) }
            let logits = try logits(of: batch.content, count: batch.labels.count)
            try evaluation.add(logits: logits, labels: batch.labels, sampleIndices: batch.sampleIndices)
        }
        for image in batches.skippedBehindLastBatch { try onSkip(image) }
        return evaluation
    }

    private func check(_ data: ImageDataset, _ validation: ImageDataset?, _ options: FitOptions) throws {
        guard data.count > 0 else { throw GraftError.noInput("there is no training image") }
        try Limits.check(batchSize: options.batchSize)
        if let views = options.cachedViews {
            guard views > 0, options.augmentation != .none else {
                throw GraftError.invalidArgument(
                    "--cached-views \(views): expected at least 1, together with an --augment other than none")
            }
        }
        try Mixing(mixup: options.mixup, cutMix: options.cutMix).check()
        if options.mixup > 0 || options.cutMix > 0, options.cachedViews != nil {
            throw GraftError.invalidArgument(
                "--cached-views keeps what the frozen part makes of an image, and mixed images are new in every batch; leave "
                    + "one of them out")
        }
        if options.sampler == .balanced, !options.shuffles {
            throw GraftError.invalidArgument(
                "--sampler balanced draws images at random and does not go with --no-shuffle")
        }
        try Limits.check(accumulatedBatches: options.accumulatedBatches)
        try options.schedule.check(warmupSteps: options.warmupSteps, hasValidation: validation != nil)
        if let patience = options.earlyStopPatience {
            guard patience > 0, validation != nil else {
                throw GraftError.invalidArgument(
                    "--early-stop \(patience): expected at least 1 epoch, and validation images (--val or --val-split), "
                        + "whose loss it follows")
            }
        }
        guard options.epochs > 0 else {
            throw GraftError.invalidArgument("--epochs \(options.epochs) must be at least 1")
        }
        guard !options.dropsLast || data.count >= options.batchSize else {
            throw GraftError.invalidArgument(
                "--drop-last leaves nothing: there are \(data.count) images, fewer than --batch-size \(options.batchSize)"
            )
        }
        if let validation, validation.classes != data.classes {
            throw GraftError.invalidArgument(
                "the classes differ: training has \(data.classes.joined(separator: ", ")), validation has \(validation.classes.joined(separator: ", "))"
            )
        }
        let highest = max(data.classes.count, (data.samples.map(\.label).max() ?? 0) + 1)
        guard highest <= configuration.classCount else {
            throw GraftError.invalidArgument(
                "the data have \(highest) classes, the head has \(configuration.classCount); pass --classes \(highest)")
        }
        // A misspelled selector, or a plan that cannot be, must not surface hours into a run.
        for selector in options.unfreezeAtEpoch.map(\.selector) + options.unfreezeAtStep.map(\.selector) {
            _ = try configuration.names(selector)
        }
        try checkPlan(
            unfreezing: options.unfreezeAtEpoch.map(\.selector) + options.unfreezeAtStep.map(\.selector),
            batchSizes: Self.sizes(
                count: options.dropsLast ? data.count / options.batchSize * options.batchSize : data.count,
                batchSize: min(options.batchSize, data.count)), accumulates: options.accumulatedBatches > 1)
    }

    /// Refuses options that would make another run of one that is to go on.
    private func checkSettings(_ was: [RunSetting], _ now: [RunSetting], _ options: FitOptions) throws {
        let differences = RunSettings.differences(from: was, to: now, schedule: options.schedule)
        guard differences.isEmpty else {
            throw GraftError.cannotResume(
                "the options are not those that the run began with", differences: differences)
        }
    }

    /// Refuses an unfreezing that the run would never reach: it would be silently without effect.
    private func checkUnfreezing(_ options: FitOptions, stepsPerEpoch: Int, totalSteps: Int) throws {
        let lastStep = totalSteps - 1
        for entry in options.unfreezeAtEpoch where entry.epoch < 0 || entry.epoch > lastStep / stepsPerEpoch {
            throw GraftError.invalidArgument(
                "unfreezing \(entry.selector) at epoch \(entry.epoch) never happens: the run has the epochs 0 to "
                    + "\(lastStep / stepsPerEpoch)")
        }
        for entry in options.unfreezeAtStep where entry.step < 0 || entry.step > lastStep {
            throw GraftError.invalidArgument(
                "unfreezing \(entry.selector) at step \(entry.step) never happens: the run has the steps 0 to \(lastStep)"
            )
        }
    }

    private static func sizes(count: Int, batchSize: Int) -> Set<Int> {
        var sizes: Set<Int> = []
        if count >= batchSize { sizes.insert(batchSize) }
        if count % batchSize > 0 { sizes.insert(count % batchSize) }
        return sizes
    }
}

extension [String] {
    /// The names, and numbers for classes of the head that have none.
    package func padded(to count: Int) -> [String] {
        self + (self.count..<Swift.max(count, self.count)).map { "class \($0)" }
    }
}
