import Foundation
import Graft

/// `graft train`
enum TrainCommand {
    static let out = Argument.required(
        "out", .path("RUN"), placeholderValue: "",
        help: "Folder of the run: last.safetensors, best.safetensors, steps.csv, epochs.csv.")

    static let epochs = Argument.option("epochs", .wholeNumber(atLeast: 1), default: 10, help: "Passes over the data.")
    static let steps = Argument.optional(
        "steps", .wholeNumber(atLeast: 1), shownAs: "all", example: "100", help: "Stop after N steps.")
    static let optimizer = Argument.option(
        "optimizer", .choice("sgd", "adam", "adamw"), default: "sgd", help: "Update rule, as in torch.optim.")
    static let learningRate = Argument.option(
        "learning-rate", .learningRates, default: LearningRateRequest(base: defaultRate),
        help: "Learning rate; layer4:1e-4,fc:1e-3 gives parts of the network rates of their own, later entries win.")
    private static let defaultRate = 0.001
    static let layerDecay = Argument.optional(
        "layer-decay", .share(), shownAs: "1", example: "0.75",
        help: "Multiply the learning rate by X for each block further down from the head.")
    static let noDecayBiasNorm = Argument.flag(
        "no-decay-bias-norm", help: "No weight decay for biases and for the scales and shifts of norms.")
    static let clipNorm = Argument.optional(
        "clip-norm", .positive(), shownAs: "off", example: "1",
        help: "Scale gradients so that their norm over all parameters is at most X.")
    static let accumulate = Argument.option(
        "accumulate", .wholeNumber(atLeast: 1, atMost: 100_000), default: 1,
        help: "Batches that make one step, which sees the mean over all their images.")
    static let average = Argument.optional(
        "ema", .fraction("DECAY", includingZero: true), shownAs: "off", example: "0.999",
        help:
            "Keep an exponential moving average of the weights: validated too, saved as ema.safetensors, and best.safetensors is the average's."
    )
    static let momentum = Argument.option(
        "momentum", .fraction(includingZero: true), default: 0.9, help: "Momentum of sgd.")
    static let weightDecay = Argument.optional(
        "weight-decay", .number(), shownAs: "0; 0.01 for adamw", example: "0.0001",
        help: "Weight decay of every trainable parameter.")
    static let nesterov = Argument.flag("nesterov", help: "Nesterov's momentum, for sgd.")
    static let schedule = Argument.option(
        "schedule", .schedule, default: .constant,
        help:
            "Learning rate over time: constant, step:N:G (times G every N epochs), cosine[:FLOOR] (down to that share), "
            + "one-cycle[:RISE] (up over that share of the run, then down), plateau:FACTOR:PATIENCE (times FACTOR when the "
            + "validation loss has not fallen for more than PATIENCE epochs).")
    static let earlyStop = Argument.optional(
        "early-stop", .wholeNumber("PATIENCE", atLeast: 1), shownAs: "off", example: "5",
        help: "End the run when the validation loss has not fallen for PATIENCE epochs.")
    static let keepBest = Argument.option(
        "keep-best", .wholeNumber("K", atLeast: 0, atMost: 100_000), default: 0,
        help: "Keep the weights of the K best epochs, as epoch-N.safetensors.")
    static let warmup = Argument.option(
        "warmup", .wholeNumber(atLeast: 0), default: 0, help: "Raise the learning rate linearly over N steps first.")
    static let labelSmoothing = Argument.option(
        "label-smoothing", .fraction(includingZero: true), default: 0, shownAs: "0",
        help: "Share of the target spread over all classes.")
    static let dropout = Argument.option(
        "dropout", .choice("on", "off"), default: "on", help: "Whether dropout layers drop.")

    static let augment = Argument.option(
        "augment", .choice("none", "flip", "standard"), default: "none",
        help: "flip: horizontal flips; standard: random resized crops and flips.")
    static let validation = Argument.optional(
        "val", .path("DIR"), shownAs: "DATA/val where it exists", help: "Folder of class folders to validate on.")
    static let validationSplit = Argument.optional(
        "val-split", .fraction(includingZero: false), shownAs: "none", example: "0.2",
        help: "Set this share of the images aside to validate on.")
    static let noShuffle = Argument.flag("no-shuffle", help: "Keep the order of the list in every epoch.")
    static let dropLast = Argument.flag("drop-last", help: "Leave out the last, smaller batch of an epoch.")

    static let cache = Argument.option(
        "cache", .choice("auto", "memory", "disk", "off"), default: "auto",
        help:
            "Keep the frozen part's outputs: in memory for the later epochs, on disk for later runs too (an error when "
            + "they do not fit), or never; auto takes memory when they fit, else disk. Needs --augment none or --cached-views."
    )
    static let cachedViews = Argument.optional(
        "cached-views", .wholeNumber("K", atLeast: 1), shownAs: "a new view every epoch", example: "4",
        help: "With --augment: epoch e sees view e mod K of each image, so that the frozen part's outputs can be kept.")
    static let cacheLimit = Argument.option(
        "cache-limit", .byteCount, default: 10 << 30, shownAs: "10G",
        help: "Most bytes of all cache files on disk; those used longest ago are removed first.")

    static let command = Command(
        name: "train",
        summary: "Fine-tune a network on a folder of images.",
        discussion: """
            With --weights and without --freeze, the backbone is frozen and the head is trained. Weights and tables \
            are written behind every epoch; Ctrl-C saves them and ends.
            """,
        examples: [
            "graft train photos --model resnet18 --weights resnet18.pth --out runs/a",
            "graft train photos --model resnet18 --weights resnet18.pth --out runs/b \\",
            "      --unfreeze-at 5:layer3 --epochs 10",
        ],
        groups: [
            ArgumentGroup("Data", [Shared.data, validation, validationSplit, Shared.list, Shared.limit]),
            ArgumentGroup(
                "Model",
                [Shared.model, Shared.weights, TrainableSet.headWeights, TrainableSet.classes, Shared.classesFile]),
            ArgumentGroup(
                "Frozen and trainable",
                [
                    TrainableSet.freeze, TrainableSet.unfreeze, TrainableSet.unfreezeAt, TrainableSet.unfreezeAtStep,
                    TrainableSet.frozenStatistics,
                ]),
            ArgumentGroup(
                "Training",
                [
                    epochs, steps, optimizer, learningRate, layerDecay, momentum, weightDecay, noDecayBiasNorm, nesterov,
                    clipNorm, accumulate, average, schedule, warmup, earlyStop, keepBest, labelSmoothing, dropout, augment, noShuffle, dropLast, cache, cachedViews, cacheLimit,
                ]),
            Shared.imageGroup,
            Shared.runGroup(seeded: true),
            ArgumentGroup("Output", [out, Shared.quiet, Shared.json]),
        ],
        validate: { values throws(UsageError) in
            if values.isGiven(validation), values.isGiven(validationSplit) {
                throw UsageError("--val and --val-split exclude each other; give one of them")
            }
            let optimizerName = values[optimizer]
            for argument in [momentum as any AnyArgument, nesterov]
            where optimizerName != "sgd" && values.isGiven(argument) {
                throw UsageError(
                    "\(argument.display) does not apply to --optimizer \(optimizerName), only to --optimizer sgd")
            }
            if values.isGiven(cachedViews) {
                guard values[augment] != "none" else {
                    throw UsageError("--cached-views needs --augment flip or standard")
                }
                guard values[cache] != "disk" else {
                    throw UsageError(
                        "--cached-views keeps views in memory and does not apply to --cache disk; leave one of them out"
                    )
                }
            }
            if values.isGiven(cacheLimit), ["memory", "off"].contains(values[cache]) {
                throw UsageError(
                    "\(cacheLimit.display) is about the disk and does not apply to --cache \(values[cache])")
            }
            if case .oneCycle = values[schedule], values[warmup] > 0 {
                throw UsageError("--schedule one-cycle rises by itself and does not go with --warmup; leave that out")
            }
            let decay = values[weightDecay] ?? (optimizerName == "adamw" ? 0.01 : 0)
            if values[noDecayBiasNorm], decay == 0 {
                throw UsageError("--no-decay-bias-norm needs a --weight-decay above 0; leave it out or give one")
            }
            if values[nesterov], values[momentum] == 0 {
                throw UsageError("--nesterov needs a --momentum above 0, found 0")
            }
        },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let images = try DataRequest.training(values)
        var network = try NetworkRequest.model(
            named: values[Shared.model], weights: values[Shared.weights], seed: values[Shared.seed])
        NetworkRequest.announceLoading(network, values)
        try NetworkRequest.applyImages(&network, values)
        let classCount =
            try values[TrainableSet.classes] ?? DataRequest.classNames(values)?.count ?? images.training.classes.count
        if classCount != network.classCount {
            try network.replaceHead(classCount: classCount, seed: values[Shared.seed])
        }
        if let path = values[TrainableSet.headWeights] { try network.load(tensorsFrom: path) }
        let (training, validationImages) = try DataRequest.align(
            images.training, images.validation, with: &network, values)
        try NetworkRequest.freeze(&network, values)
        if values[Shared.batchSize] > training.count, !values[dropLast] {
            Console.warning(
                "--batch-size \(values[Shared.batchSize]) is more than the \(training.count) images to train on: an "
                    + "epoch is one step over all of them")
        }

        if values[augment] != "none", values[cachedViews] == nil, ["memory", "disk"].contains(values[cache]) {
            Console.warning(
                "--cache \(values[cache]) is without effect: with --augment \(values[augment]) every epoch sees other "
                    + "pixels; --cached-views K keeps K of them")
        }

        let folder = try RunFolder(values[out], keptCount: values[keepBest])
        if folder.holdsEarlierRun {
            Console.warning("\(values[out]) holds an earlier run; this one replaces its files")
        }
        let trainer = try Trainer(
            network, loss: .crossEntropy(labelSmoothing: values[labelSmoothing]), optimizer: rule(values),
            device: NetworkRequest.device(values), frozenStatistics: NetworkRequest.frozenStatistics(values),
            dropout: values[dropout] == "on", seed: values[Shared.seed], groups: groups(values),
            clipNorm: values[clipNorm], averageDecay: values[average])
        NetworkRequest.announce(trainer.deviceDescription, trainer.deviceNotes, values)
        let trainableCount = network.trainable.count
        NetworkRequest.note(
            "\(network.architecture.name), \(classCount) classes; \(training.count) images to train on"
                + (validationImages.map { ", \($0.count) to validate on" } ?? "")
                + "; \(trainableCount) of \(network.parameterNames.count) parameter tensors are trainable", values)

        announceGroups(trainer, values)

        let options = fitOptions(values)
        let report = TrainingReport(
            folder: folder, trainer: trainer, imageCount: training.count, options: options, values)
        do {
            let epochs = try Interruption.deferred {
                try trainer.fit(training, validation: validationImages, options: options, onEvent: report.receive)
            }
            report.finish()
            try report.save()
            try report.printResult(epochs)
        } catch GraftError.interrupted {
            report.finish()
            guard trainer.stepCount > 0 else {
                throw CommandFailure(.interrupted, "interrupted before the first step; nothing was written")
            }
            try report.save()
            throw CommandFailure(
                .interrupted,
                "interrupted after step \(trainer.stepCount); \(values[out]) holds the weights and tables so far")
        } catch {
            report.finish()
            throw error
        }
    }

    private static func groups(_ values: ArgumentValues) -> ParameterGroups {
        ParameterGroups(
            rates: values[learningRate].entries.map { .init($0.name, $0.rate) }, layerDecay: values[layerDecay],
            decaysBiasesAndNorms: !values[noDecayBiasNorm])
    }

    /// Says which rates train what, where they are not all alike.
    private static func announceGroups(_ trainer: Trainer, _ values: ArgumentValues) {
        let groups = trainer.trainingGroups
        guard groups.count > 1 else { return }
        for group in groups {
            let names = DataRequest.list(group.names)
            NetworkRequest.note(
                "learning rate \(String(format: "%.4g", group.learningRate))\(group.isDecayed ? "" : ", no weight decay"): \(names)", values)
        }
    }

    private static func rule(_ values: ArgumentValues) -> Optimizer {
        let rate = values[learningRate].base ?? defaultRate
        return switch values[optimizer] {
        case "adam": .adam(learningRate: rate, weightDecay: values[weightDecay] ?? 0)
        case "adamw": .adamW(learningRate: rate, weightDecay: values[weightDecay] ?? 0.01)
        default:
            .sgd(
                learningRate: rate, momentum: values[momentum], weightDecay: values[weightDecay] ?? 0,
                nesterov: values[nesterov])
        }
    }

    private static func fitOptions(_ values: ArgumentValues) -> FitOptions {
        var options = FitOptions()
        options.unfreezeAtEpoch = values[TrainableSet.unfreezeAt].map { ($0.position, $0.names.joined(separator: ",")) }
        options.unfreezeAtStep = values[TrainableSet.unfreezeAtStep].map {
            ($0.position, $0.names.joined(separator: ","))
        }
        options.epochs = values[epochs]
        options.stepLimit = values[steps]
        options.batchSize = values[Shared.batchSize]
        options.accumulatedBatches = values[accumulate]
        options.shuffles = !values[noShuffle]
        options.dropsLast = values[dropLast]
        options.augmentation = Augmentation(rawValue: values[augment]) ?? .none
        options.onBadImage = DataRequest.badImagePolicy(values)
        options.fastDecode = values[Shared.fastDecode]
        options.workerCount = DataRequest.workerCount(values)
        options.schedule =
            switch values[schedule] {
            case .constant: .constant
            case .step(let epochs, let factor): .step(epochs: epochs, factor: factor)
            case .cosine(let floor): .cosine(floor: floor)
            case .oneCycle(let warmup): .oneCycle(warmup: warmup)
            case .plateau(let factor, let patience): .plateau(factor: factor, patience: patience)
            }
        options.earlyStopPatience = values[earlyStop]
        options.warmupSteps = values[warmup]
        options.cachedViews = values[cachedViews]
        options.cache = CachePolicy(rawValue: values[cache]) ?? .auto
        options.cacheLimit = values[cacheLimit]
        options.isCancelled = { Interruption.isRequested }
        return options
    }
}
