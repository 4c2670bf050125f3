import GraftGraph
import GraftVision

/// An option that decides what a run computes, by its name on the command line, and its value as text.
public struct RunSetting: Sendable, Hashable {
    /// `--learning-rate`.
    public let name: String
    /// `0.001`.
    public let value: String

    /// Makes a setting.
    public init(name: String, value: String) {
        self.name = name
        self.value = value
    }
}

/// An option that a resumed run has another value of than the run that it continues.
public struct RunDifference: Sendable, Hashable {
    /// `--learning-rate`.
    public let name: String
    /// The value that the run began with; nil when it had no such option.
    public let was: String?
    /// The value it is to go on with; nil when there is no such option any more.
    public let now: String?

    /// Makes a difference.
    public init(name: String, was: String?, now: String?) {
        self.name = name
        self.was = was
        self.now = now
    }
}

/// The options of a run that a resumed one must agree in.
enum RunSettings {
    private static let epochs = "--epochs"
    private static let steps = "--steps"
    private static let unfreezeAtEpoch = "--unfreeze-at"
    private static let unfreezeAtStep = "--unfreeze-at-step"
    private static let allSteps = "all"

    /// Everything that decides what a run computes: a new option of the trainer or of ``FitOptions`` is one line here.
    ///
    /// What cannot change a result (threads, caches, how often the state is written) is not in the list, nor are the
    /// images, of which the state has a number each.
    static func list(_ trainer: Trainer, _ options: FitOptions) -> [RunSetting] {
        let model = trainer.configuration
        let preprocessing = model.preprocessing
        let device = trainer.deviceDescription
        func text(_ values: [Float]) -> String { values.map { "\($0)" }.joined(separator: ",") }
        func text(_ entries: [(Int, String)]) -> String {
            entries.map { "\($0.0):\($0.1)" }.joined(separator: " ")
        }
        var list: [(String, String)] = [
            ("--model", model.architecture.name),
            ("--classes", "\(model.classCount)"),
            ("--image-size", "\(preprocessing.imageSize)"),
            ("--resize", preprocessing.resize.map { "\($0)" } ?? "stretch"),
            ("--mean", text(preprocessing.mean)),
            ("--std", text(preprocessing.standardDeviation)),
            ("--interpolation", preprocessing.interpolation.rawValue),
            ("--exif", preprocessing.exif.rawValue),
            ("--freeze, --unfreeze", trainableSummary(model)),
            ("--frozen-statistics", "\(trainer.frozenStatistics)"),
            ("--dropout", trainer.usesDropout ? "on" : "off"),
            ("--seed", "\(trainer.seed)"),
            (
                "--device",
                "\(device.name), \(device.platform), \(device.driverVersion), \(device.kernelClass) kernels"
            ),
            ("--exact", trainer.isExact ? "on" : "off"),
            ("--batch-size", "\(options.batchSize)"),
            ("--no-shuffle", options.shuffles ? "off" : "on"),
            ("--drop-last", options.dropsLast ? "on" : "off"),
            ("--augment", options.augmentation.rawValue),
            ("--cached-views", options.cachedViews.map { "\($0)" } ?? "none"),
            ("--on-bad-image", options.onBadImage.rawValue),
            ("--fast-decode", options.fastDecode ? "on" : "off"),
            ("--schedule", "\(options.schedule)"),
            ("--warmup", "\(options.warmupSteps)"),
            (epochs, "\(options.epochs)"),
            (steps, options.stepLimit.map { "\($0)" } ?? allSteps),
            (unfreezeAtEpoch, text(options.unfreezeAtEpoch.map { ($0.epoch, $0.selector) })),
            (unfreezeAtStep, text(options.unfreezeAtStep.map { ($0.step, $0.selector) })),
        ]
        switch trainer.loss {
        case .crossEntropy(let smoothing, let weights):
            list.append(("--label-smoothing", "\(smoothing)"))
            list.append(("--class-weights", weights.isEmpty ? "alike" : weights.map { "\($0)" }.joined(separator: ",")))
        }
        let groups = trainer.groups
        list += [
            ("--layer-decay", groups.layerDecay.map { "\($0)" } ?? "1"),
            ("--no-decay-bias-norm", groups.decaysBiasesAndNorms ? "off" : "on"),
            ("--clip-norm", trainer.clipNorm.map { "\($0)" } ?? "off"),
            ("--ema", trainer.averageDecay.map { "\($0)" } ?? "off"),
            ("--accumulate", "\(options.accumulatedBatches)"),
            ("--early-stop", options.earlyStopPatience.map { "\($0)" } ?? "off"),
            ("--mixup", "\(options.mixup)"), ("--cutmix", "\(options.cutMix)"),
            ("--sampler", options.sampler.rawValue),
        ]
        func rates(_ base: Double) -> String {
            (["\(base)"] + groups.rates.map { "\($0.selector):\($0.learningRate)" }).joined(separator: ",")
        }
        switch trainer.optimizer {
        case .sgd(let rate, let momentum, let weightDecay, let nesterov):
            list += [
                ("--optimizer", "sgd"), ("--learning-rate", rates(rate)), ("--momentum", "\(momentum)"),
                ("--weight-decay", "\(weightDecay)"), ("--nesterov", nesterov ? "on" : "off"),
            ]
        case .adam(let rate, let weightDecay):
            list += [
                ("--optimizer", "adam"), ("--learning-rate", rates(rate)),
                ("--weight-decay", "\(weightDecay)"),
            ]
        case .adamW(let rate, let weightDecay):
            list += [
                ("--optimizer", "adamw"), ("--learning-rate", rates(rate)),
                ("--weight-decay", "\(weightDecay)"),
            ]
        }
        return list.map { RunSetting(name: $0.0, value: $0.1) }
    }

    /// What differs, in the order of the lists, without what only makes the run longer.
    ///
    /// - Parameters:
    ///   - was: the settings that the run began with.
    ///   - now: those it is to go on with.
    ///   - schedule: how the learning rate changes; where that depends on the run's length, it cannot become longer.
    /// - Returns: the options with another value, or that only one of the lists has.
    static func differences(
        from was: [RunSetting], to now: [RunSetting], schedule: LearningRateSchedule
    ) -> [RunDifference] {
        let old = Dictionary(was.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        let new = Dictionary(now.map { ($0.name, $0.value) }, uniquingKeysWith: { first, _ in first })
        let names = was.map(\.name) + now.map(\.name).filter { old[$0] == nil }
        return names.compactMap { name in
            guard old[name] != new[name] else { return nil }
            if let before = old[name], let after = new[name] {
                if [epochs, steps].contains(name), length(after) > length(before), !schedule.dependsOnLength {
                    return nil
                }
                if name == unfreezeAtEpoch, onlyAdds(before, after, from: length(old[epochs] ?? "")) {
                    return nil
                }
                if name == unfreezeAtStep, onlyAdds(before, after, from: length(old[steps] ?? "")) {
                    return nil
                }
            }
            return RunDifference(name: name, was: old[name], now: new[name])
        }
    }

    private static func length(_ text: String) -> Int { Int(text) ?? .max }

    /// Whether the entries `POSITION:NAMES` of a list are those of an older one and more, none of them before a position.
    private static func onlyAdds(_ before: String, _ after: String, from end: Int) -> Bool {
        let old = before.split(separator: " ")
        let new = after.split(separator: " ")
        guard new.starts(with: old) else { return false }
        return new.dropFirst(old.count).allSatisfy { entry in
            Int(entry.prefix { $0 != ":" }).map { $0 >= end } ?? false
        }
    }

    /// The trainable parameters: whole parts of the network by their first name, others in full.
    private static func trainableSummary(_ model: Model) -> String {
        func part(_ name: String) -> Substring { name.prefix { $0 != "." } }
        var names: [String] = []
        for name in model.parameterNames where model.trainable.contains(name) {
            let isWhole = model.parameterNames.allSatisfy {
                part($0) != part(name) || model.trainable.contains($0)
            }
            let entry = isWhole ? String(part(name)) : name
            if names.last != entry { names.append(entry) }
        }
        return names.joined(separator: ",")
    }
}
