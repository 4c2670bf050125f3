import Foundation
import Graft

/// `graft find-learning-rate`
enum FindLearningRateCommand {
    static let lowest = Argument.option(
        "from", .positive("X"), default: 1e-7, shownAs: "1e-7", help: "The first learning rate.")
    static let highest = Argument.option("to", .positive("X"), default: 10, shownAs: "10", help: "The last one.")
    static let steps = Argument.option(
        "steps", .wholeNumber(atLeast: 10, atMost: 100_000), default: 100, help: "Steps from the first to the last.")
    static let out = Argument.optional(
        "out", .folder("DIR"), shownAs: "none",
        help: "Folder for the curve: learning-rate.csv and learning-rate.svg.")

    static let command = Command(
        name: "find-learning-rate",
        summary: "Try growing learning rates for a few steps and suggest one.",
        discussion: """
            Trains with a learning rate that grows by the same factor from step to step, until the loss runs away, and \
            suggests a rate from where it fell (fastai's lr_find). Nothing is kept of the training. Give it the options \
            that graft train will have: steps are made as there. The rate that grows is the base rate, the plain number of \
            --learning-rate; rates of parts of the network (--learning-rate layer4:1e-4,fc:1e-3, --layer-decay) are \
            multiplied by the same factor, so that their ratios to it stay, and the suggestion names them all.
            """,
        examples: [
            "graft find-learning-rate photos --model resnet18 --weights resnet18.pth",
            "graft find-learning-rate photos --model resnet18 --weights resnet18.pth \\",
            "      --unfreeze layer4 --learning-rate layer4:1e-4,fc:1e-3 --mixup 0.2 --out curve",
        ],
        groups: [
            ArgumentGroup("Data", [Shared.data, Shared.list, Shared.limit]),
            ArgumentGroup(
                "Model",
                [
                    Shared.modelUnlessWeights, Shared.weights, Shared.offline, TrainableSet.headWeights,
                    TrainableSet.classes,
                    Shared.classesFile,
                ]),
            ArgumentGroup(
                "Frozen and trainable", [TrainableSet.freeze, TrainableSet.unfreeze, TrainableSet.frozenStatistics]),
            ArgumentGroup("Search", [lowest, highest, steps]),
            ArgumentGroup("Training", TrainCommand.updateRules, TrainCommand.batchRules),
            Shared.imageGroup,
            Shared.runGroup(seeded: true),
            ArgumentGroup("Output", [out, Shared.quiet, Shared.json]),
        ],
        waived: { $0[Shared.weights] == nil ? [] : [Shared.modelUnlessWeights.name] },
        validate: { values throws(UsageError) in
            guard values[lowest] < values[highest] else {
                throw UsageError("--from \(values[lowest]) must be less than --to \(values[highest])")
            }
            let rates = values[TrainCommand.learningRate]
            guard rates.base != 0 || rates.entries.isEmpty else {
                throw UsageError(
                    "--learning-rate \(rates): no rate is in proportion to a base rate of 0; give a plain number above 0, or "
                        + "leave it out")
            }
            try TrainCommand.checkOptimizer(values)
        },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let (network, training, _) = try TrainCommand.prepare(values)
        let trainer = try TrainCommand.trainer(network, training, values)
        var search = LearningRateSearch()
        search.lowest = values[lowest]
        search.highest = values[highest]
        search.steps = values[steps]
        search.batchSize = values[Shared.batchSize]
        search.accumulatedBatches = values[TrainCommand.accumulate]
        search.augmentation = values[TrainCommand.augment]
        search.mixup = values[TrainCommand.mixup]
        search.cutMix = values[TrainCommand.cutMix]
        search.sampler = Sampler(rawValue: values[TrainCommand.sampler]) ?? .uniform
        search.onBadImage = DataRequest.badImagePolicy(values)
        search.fastDecode = values[Shared.fastDecode]
        search.workerCount = DataRequest.workerCount(values)
        search.isCancelled = { Interruption.isRequested }
        if let folder = values[out] { try makeFolder(folder) }
        let progress = ProgressLine("steps", total: search.steps, unit: "steps", isQuiet: values[Shared.quiet])
        var done = 0
        let curve: LearningRateCurve
        do {
            curve = try Interruption.deferred {
                try trainer.findLearningRate(training, search) { point in
                    done += 1
                    progress.update(
                        done, detail: "rate \(short(point.learningRate)), loss \(fixed(point.smoothedLoss, 4))")
                }
            }
        } catch {
            progress.finish()
            if case GraftError.interrupted = error {
                throw CommandFailure(.interrupted, "interrupted after \(done) steps; nothing was written")
            }
            throw error
        }
        progress.finish()
        if let folder = values[out] {
            try write(curve.csv(), to: folder + "/learning-rate.csv")
            try write(curve.svg(), to: folder + "/learning-rate.svg")
            NetworkRequest.note("wrote \(folder)/learning-rate.csv and \(folder)/learning-rate.svg", values)
        }
        if values[Shared.json] {
            let result: JSON = [
                "suggestion": .optional(curve.suggestion), "valley": .optional(curve.valley),
                "steepest": .optional(curve.steepest), "minimum": .optional(curve.minimum?.learningRate),
                "learning_rates": .array(curve.points.map { .number($0.learningRate) }),
                "losses": .array(curve.points.map { .number($0.loss) }),
                "smoothed_losses": .array(curve.points.map { .number($0.smoothedLoss) }),
            ]
            try Console.result(result.pretty() + "\n")
            return
        }
        guard let suggestion = curve.suggestion else {
            try Console.result(
                "no suggestion: the loss fell at none of \(curve.points.count) rates; try other --from and --to, or more --steps\n"
            )
            return
        }
        func line(_ name: String, _ rate: Double?, _ note: String) -> String {
            guard let rate else { return "" }
            return name.padding(toLength: 12, withPad: " ", startingAt: 0)
                + short(rate).padding(toLength: 10, withPad: " ", startingAt: 0) + note + "\n"
        }
        try Console.result(
            line(
                "suggestion", suggestion,
                "graft train … --learning-rate \(TrainCommand.learningRates(base: suggestion, values))")
                + line("valley", curve.valley, "within the longest fall of the loss")
                + line("steepest", curve.steepest, "where the loss falls fastest")
                + line("minimum", curve.minimum?.learningRate, "least loss; a tenth of it is a common choice"))
    }

    private static func makeFolder(_ path: String) throws {
        do {
            try createFolder(path)
        } catch {
            throw GraftError.outputFailed(
                "cannot create the folder \(path): \(systemReason(of: error)); choose another --out")
        }
    }

    private static func write(_ text: String, to path: String) throws {
        do {
            try Data(text.utf8).write(to: URL(fileURLWithPath: path), options: .atomic)
        } catch {
            throw GraftError.outputFailed("cannot write \(path): \(systemReason(of: error)); choose another --out")
        }
    }
}

/// A rate with two digits: `0.0021`, `1e-05`.
func short(_ value: Double) -> String { String(format: "%.2g", value) }
