import Graft

/// Follows a training run: progress and one line per epoch on standard error, the run's folder, the result.
final class TrainingReport {
    private let folder: RunFolder
    private let trainer: Trainer
    private let options: FitOptions
    private let imageCount: Int
    private let values: ArgumentValues
    private var progress: ProgressLine?
    private var seenInEpoch = 0
    private var epoch = -1
    private var isStoppedEarly = false
    private let state: TrainingState?

    init(
        folder: RunFolder, trainer: Trainer, imageCount: Int, options: FitOptions,
        resuming state: TrainingState?,
        _ values: ArgumentValues
    ) {
        self.state = state
        self.folder = folder
        self.trainer = trainer
        self.imageCount = imageCount
        self.options = options
        self.values = values
    }

    /// Takes an event of ``Trainer/fit(_:validation:options:resuming:onEvent:)``.
    func receive(_ event: TrainingEvent) throws {
        try folder.note(event, trainer: trainer)
        switch event {
        case .prepared(let byteCount, let stepsPerEpoch):
            if state == nil { try folder.removeOlderState() }
            note("\(formatBytes(byteCount)) on the device, \(stepsPerEpoch) steps an epoch")
        case .caching(let report):
            note(
                "outputs of \(report.layers.joined(separator: ", ")) are kept \(Self.place(report)): "
                    + "\(formatBytes(report.imageByteCount)) an image, \(formatBytes(report.byteCount)) for "
                    + "\(report.imageCount); each spares \(percent(report.sparedShare)) of the forward pass and the "
                    + "decoding in later epochs (--cache off computes them every time)")
        case .cacheUnavailable(let reason):
            finish()
            Console.warning(reason)
        case .uncached(let report):
            note(
                "the kept outputs of \(report.layers.joined(separator: ", ")) spared "
                    + "\(report.sparedEvaluationCount) evaluations and decodings"
                    + (report.location == .memory ? "" : ", \(report.foundCount) of them found from earlier runs")
                    + (report.damagedCount == 0
                        ? "" : "; \(report.damagedCount) damaged entries were computed anew"))
        case .unfroze(let selector, let names, let epoch, let step, let groups):
            note("epoch \(epoch), step \(step): \(selector) trains from here on (\(names.count) parameter tensors)")
            if trainer.groups.hasUnlikeRates, !groups.isEmpty {
                let texts = groups.map { TrainCommand.text(of: $0, atMost: 2) }
                note("joined with \(texts.joined(separator: "; "))")
            }
        case .step(let record):
            if record.epoch != epoch {
                epoch = record.epoch
                seenInEpoch = state.map { $0.epoch == epoch && !$0.isEpochFinished ? $0.position : 0 } ?? 0
                progress = ProgressLine(
                    "epoch \(epoch + 1)/\(options.epochs)", total: imageCount, unit: "images",
                    isQuiet: values[Shared.quiet])
            }
            seenInEpoch = min(seenInEpoch + options.batchSize * options.accumulatedBatches, imageCount)
            try folder.record(record)
            progress?.update(seenInEpoch, detail: "loss \(fixed(record.loss, 4))")
        case .skipped(let image):
            finish()
            Console.warning("left out: \(image.error)")
        case .epoch(let record):
            finish()
            try folder.finish(record, model: try trainer.model(), averaged: try trainer.averagedModel())
            note(line(record))
        case .stoppedEarly(let bestEpoch):
            isStoppedEarly = true
            note(
                "stopped early: the validation loss has not fallen since epoch \(bestEpoch + 1); best.safetensors has the "
                    + "weights of the epoch with the highest validation accuracy")
        case .state(var state):
            state.notes[ResumedRun.argumentsNote] = try ResumedRun.text(of: values)
            try folder.save(state)
        }
    }

    private static func place(_ report: CacheReport) -> String {
        switch report.location {
        case .memory: "in memory"
        case .disk(let path): "on disk for this and later runs, in \(path) (\(formatBytes(report.fileByteCount)))"
        }
    }

    /// Takes the progress bar away.
    func finish() { progress?.finish() }

    /// Writes weights and tables as they are now.
    func save() throws { try folder.save(try trainer.model(), averaged: try trainer.averagedModel()) }

    /// The result on standard output.
    func printResult() throws {
        let model = try trainer.model()
        let epochs = folder.epochs
        if values[Shared.json] {
            let entries = epochs.map(Self.json)
            let result: JSON = [
                "model": .string(model.architecture.name), "classes": .integer(model.classCount),
                "device": .string(trainer.deviceDescription.selector), "steps": .integer(trainer.stepCount),
                "epochs": .array(entries), "best_val_accuracy": .optional(Self.bestAccuracy(epochs)),
                "stopped_early": .boolean(isStoppedEarly), "digest": .string(try model.digest()),
                "run": .string(folder.path),
                "resumed_behind_step": state.map { JSON.integer($0.stepCount) } ?? .null,
            ]
            try Console.result(result.pretty() + "\n")
            return
        }
        var text = "\(trainer.stepCount) steps"
        if let last = epochs.last {
            text +=
                ", train loss \(fixed(last.trainLoss, 4)), train accuracy \(percent(last.trainAccuracy))"
            if let accuracy = last.validationAccuracy { text += ", val accuracy \(percent(accuracy))" }
        }
        if let best = Self.bestAccuracy(epochs) {
            text += " (best \(percent(best))\(trainer.averageDecay == nil ? "" : ", of the average"))"
        }
        let files = ["last", "best"] + (trainer.averageDecay == nil ? [] : ["ema"])
        try Console.result(text + "\n" + files.map { "\(folder.path)/\($0).safetensors\n" }.joined())
    }

    /// What `best.safetensors` reached.
    static func bestAccuracy(_ epochs: [RunFolder.EpochSummary]) -> Double? {
        epochs.compactMap { $0.averagedValidationAccuracy ?? $0.validationAccuracy }.max()
    }

    static func json(_ record: RunFolder.EpochSummary) -> JSON {
        [
            "epoch": .integer(record.epoch), "train_loss": .number(record.trainLoss),
            "train_accuracy": .number(record.trainAccuracy), "val_loss": .optional(record.validationLoss),
            "val_accuracy": .optional(record.validationAccuracy),
            "ema_val_loss": .optional(record.averagedValidationLoss),
            "ema_val_accuracy": .optional(record.averagedValidationAccuracy), "seconds": .number(record.seconds),
        ]
    }

    private func line(_ record: EpochRecord) -> String {
        var text = "epoch \(record.epoch + 1)/\(options.epochs): loss \(fixed(record.trainLoss, 4)), "
        text += "accuracy \(percent(record.trainAccuracy))"
        if let validation = record.validation {
            text += ", val loss \(fixed(validation.loss, 4)), val accuracy \(percent(validation.top1))"
        }
        if let averaged = record.averagedValidation {
            text += ", of the average \(fixed(averaged.loss, 4)) and \(percent(averaged.top1))"
        }
        return text + ", \(fixed(record.seconds, 1)) s"
    }

    private func note(_ text: String) {
        finish()
        NetworkRequest.note(text, values)
    }
}
