import Graft

/// `graft train`
enum TrainCommand {
    static let out = Argument.required(
        "out", .folder("RUN"), placeholderValue: "",
        help:
            "Folder of the run: last.safetensors, best.safetensors, state.safetensors, report.html, run.json, steps.csv, "
            + "epochs.csv, confusion.csv, events for TensorBoard."
    )
    static let resume = Argument.flag(
        "resume",
        help:
            "Go on with the run in --out as if it had never stopped; its options and images need not be named again."
    )
    static let saveEvery = Argument.option(
        "save-every", .number("SECONDS"), default: 60, shownAs: "60",
        help: "Write the state that --resume goes on from at most every so many seconds.")

    static let epochs = Argument.option("epochs", .wholeNumber(atLeast: 1), default: 10, help: "Passes over the data.")
    static let steps = Argument.optional(
        "steps", .wholeNumber(atLeast: 1), shownAs: "all", example: "100", help: "Stop after N steps.")
    static let optimizer = Argument.option(
        "optimizer", .choice("sgd", "adam", "adamw"), default: "sgd", help: "Update rule, as in torch.optim.")
    static let learningRate = Argument.option("learning-rate", .number(), default: 0.001, help: "Learning rate.")
    static let momentum = Argument.option(
        "momentum", .fraction(includingZero: true), default: 0.9, help: "Momentum of sgd.")
    static let weightDecay = Argument.optional(
        "weight-decay", .number(), shownAs: "0; 0.01 for adamw", example: "0.0001",
        help: "Weight decay of every trainable parameter.")
    static let nesterov = Argument.flag("nesterov", help: "Nesterov's momentum, for sgd.")
    static let schedule = Argument.option(
        "schedule", .schedule, default: .constant,
        help: "Learning rate over time; step:N:G multiplies it by G every N epochs.")
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
        "val", .folder("DIR"), shownAs: "DATA/val where it exists", help: "Folder of class folders to validate on.")
    static let validationSplit = Argument.optional(
        "val-split", .fraction(includingZero: false), shownAs: "none", example: "0.2",
        help: "Set this share of the images aside to validate on.")
    static let noShuffle = Argument.flag("no-shuffle", help: "Keep the order of the list in every epoch.")
    static let dropLast = Argument.flag("drop-last", help: "Leave out the last, smaller batch of an epoch.")

    static let cache = Argument.option(
        "cache", .choice("auto", "memory", "disk", "off"), default: "auto",
        help:
            "Keep the frozen part's outputs: in memory for the later epochs, on disk for later runs too (an error when "
            + "they do not fit), or never; auto takes memory when they fit, else disk. With --augment other than none, "
            + "memory and auto need --cached-views, and disk keeps nothing."
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
            With --weights and without --freeze, the backbone is frozen and the head is trained. Weights, tables \
            and the page report.html are written behind every epoch; Ctrl-C saves them and ends. After that, a kill or a power cut, --resume goes \
            on and ends with the same bytes as a run that was never interrupted. It takes the options that the run began \
            with; only --threads, --cache, --save-every, the output options, and a larger number of epochs or steps may differ.
            """,
        examples: [
            "graft train photos --model resnet18 --weights resnet18.pth --out runs/a",
            "graft train photos --model resnet18 --weights resnet18.pth --out runs/b \\",
            "      --unfreeze-at 5:layer3 --epochs 10",
            "graft train --resume --out runs/b",
        ],
        groups: [
            ArgumentGroup("Data", [Shared.data, validation, validationSplit, Shared.list, Shared.limit]),
            ArgumentGroup(
                "Model",
                [
                    Shared.modelUnlessWeights, Shared.weights, Shared.offline, TrainableSet.headWeights,
                    TrainableSet.classes,
                    Shared.classesFile,
                ]),
            ArgumentGroup(
                "Frozen and trainable",
                [
                    TrainableSet.freeze, TrainableSet.unfreeze, TrainableSet.unfreezeAt, TrainableSet.unfreezeAtStep,
                    TrainableSet.frozenStatistics,
                ]),
            ArgumentGroup(
                "Training",
                [
                    epochs, steps, optimizer, learningRate, momentum, weightDecay, nesterov, schedule, warmup,
                    labelSmoothing, dropout, augment, noShuffle, dropLast, cache, cachedViews, cacheLimit,
                ]),
            Shared.imageGroup,
            Shared.runGroup(seeded: true),
            ArgumentGroup("Output", [out, resume, saveEvery, Shared.quiet, Shared.json]),
        ],
        waived: { values in
            let model: Set = [Shared.modelUnlessWeights.name]
            return values[resume] ? model.union([Shared.data.name]) : values[Shared.weights] == nil ? [] : model
        },
        validate: { values throws(UsageError) in
            // A resumed run's other options are in its state.
            if !values[resume] { try checkTogether(values) }
        },
        run: run)

    /// Conditions between arguments.
    static func checkTogether(_ values: ArgumentValues) throws(UsageError) {
        if values.isGiven(validation), values.isGiven(validationSplit) {
            throw UsageError("--val and --val-split exclude each other; give one of them")
        }
        let optimizerName = values[optimizer]
        for argument in [momentum as any AnyArgument, nesterov]
        where optimizerName != "sgd" && values.isGiven(argument) {
            throw UsageError(
                "\(argument.display) does not apply to --optimizer \(optimizerName), only to --optimizer sgd"
            )
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
        if values[nesterov], values[momentum] == 0 {
            throw UsageError("--nesterov needs a --momentum above 0, found 0")
        }
    }

    private static func run(_ values: ArgumentValues) throws {
        guard values[resume] else { return try run(values, resuming: nil) }
        if let resumed = try ResumedRun(values) {
            if resumed.isFinished { return try resumed.printFinished() }
            return try run(resumed.values, resuming: resumed.state)
        }
        guard values.isGiven(Shared.data), values.isGiven(Shared.modelUnlessWeights) || values.isGiven(Shared.weights),
            !RunFolder.holdsEarlierRun(values[out])
        else {
            throw CommandFailure(
                .noInput,
                "\(values[out]) holds no state to resume a run from; start one without --resume, or check --out"
            )
        }
        // One command line may start a run and go on with it.
        try checkTogether(values)
        NetworkRequest.note("\(values[out]) holds nothing to resume yet: the run begins", values)
        try run(values, resuming: nil)
    }

    /// The network before the first step.
    private static func freshNetwork(_ values: ArgumentValues, _ images: ImageDataset) throws -> Model {
        var network = try NetworkRequest.model(
            named: values[Shared.modelUnlessWeights], weights: values[Shared.weights], values, seed: values[Shared.seed]
        )
        NetworkRequest.announceLoading(network, values)
        try NetworkRequest.applyImages(&network, values)
        let classCount =
            try values[TrainableSet.classes] ?? DataRequest.classNames(values)?.count
            ?? images.classes.count
        if classCount != network.classCount {
            try network.replaceHead(classCount: classCount, seed: values[Shared.seed])
        }
        if let path = values[TrainableSet.headWeights] { try network.load(tensorsFrom: path) }
        return network
    }

    private static func run(_ values: ArgumentValues, resuming state: TrainingState?) throws {
        let images = try DataRequest.training(values)
        // The state has the weights, whatever became of the file they once came from.
        var network = try state?.model() ?? freshNetwork(values, images.training)
        let (training, validationImages) = try DataRequest.align(
            images.training, images.validation, with: &network, values)
        try NetworkRequest.freeze(&network, values)
        if values[Shared.batchSize] > training.count, !values[dropLast] {
            Console.warning(
                "--batch-size \(values[Shared.batchSize]) is more than the \(training.count) images to train on: an "
                    + "epoch is one step over all of them")
        }

        let folder = try RunFolder(values[out])
        try folder.lock()
        if let state {
            for warning in try folder.resume(state) { Console.warning(warning) }
            if !state.isOfThisBuild {
                Console.warning(
                    "the run was begun by another build of graft; the last bits of its results may differ from here on"
                )
            }
        } else if folder.holdsEarlierRun {
            Console.warning("\(values[out]) holds an earlier run; this one replaces its files")
        }
        let trainer = try Trainer(
            network, loss: .crossEntropy(labelSmoothing: values[labelSmoothing]), optimizer: rule(values),
            device: NetworkRequest.device(values), frozenStatistics: NetworkRequest.frozenStatistics(values),
            dropout: values[dropout] == "on", seed: values[Shared.seed])
        NetworkRequest.announce(trainer.deviceDescription, trainer.deviceNotes, values)
        let trainableCount = network.trainable.count
        NetworkRequest.note(
            "\(network.architecture.name), \(network.classCount) classes; \(training.count) images to train on"
                + (validationImages.map { ", \($0.count) to validate on" } ?? "")
                + "; \(trainableCount) of \(network.parameterNames.count) parameter tensors are trainable", values)

        let options = fitOptions(values)
        try folder.begin(
            description(trainer, training, validationImages, values), validation: validationImages,
            resumingAtStep: state?.stepCount)
        let report = TrainingReport(
            folder: folder, trainer: trainer, imageCount: training.count, options: options,
            resuming: state, values)
        if let state {
            NetworkRequest.note(
                "resumed behind step \(state.stepCount), in epoch \(state.epoch + 1)/\(options.epochs)",
                values)
        }
        do {
            try Interruption.deferred {
                _ = try trainer.fit(
                    training, validation: validationImages, options: options, resuming: state,
                    onEvent: report.receive)
            }
            report.finish()
            try report.save()
            try folder.end(.finished)
            try report.printResult()
        } catch GraftError.interrupted {
            report.finish()
            guard trainer.stepCount > 0 else {
                try folder.end(.interrupted)
                throw CommandFailure(.interrupted, "interrupted before the first step; nothing was written")
            }
            try report.save()
            try folder.end(.interrupted)
            throw CommandFailure(
                .interrupted,
                "interrupted after step \(trainer.stepCount); \(values[out]) holds the weights and tables so far; "
                    + "`graft train --resume --out \(values[out])` goes on")
        } catch {
            report.finish()
            // The error that ended the run is the one to report, whatever becomes of the page.
            try? folder.end(.failed, message: "\(error)")
            throw error
        }
    }

    /// What `run.json` and the page say about the run.
    private static func description(
        _ trainer: Trainer, _ training: ImageDataset, _ validation: ImageDataset?, _ values: ArgumentValues
    ) throws -> RunDescription {
        var given: [String: String] = [:]
        var defaults: [String: String] = [:]
        for argument in command.options {
            let texts = values.occurrences.filter { $0.name == argument.name }.map { $0.text.isEmpty ? "on" : $0.text }
            if !texts.isEmpty {
                given[argument.name] = texts.joined(separator: ", ")
            } else if let text = argument.defaultText {
                defaults[argument.name] = text
            }
        }
        return try RunDescription(
            trainer, data: training, validation: validation,
            command: ["graft"] + CommandLine.arguments.dropFirst(), options: given, defaults: defaults,
            weights: given[Shared.weights.name], version: BuildInformation.version)
    }

    private static func rule(_ values: ArgumentValues) -> Optimizer {
        let rate = values[learningRate]
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
            case .cosine: .cosine
            }
        options.warmupSteps = values[warmup]
        options.cachedViews = values[cachedViews]
        options.cache = CachePolicy(rawValue: values[cache]) ?? .auto
        options.cacheLimit = values[cacheLimit]
        options.stateIntervalSeconds = values[saveEvery]
        options.isCancelled = { Interruption.isRequested }
        return options
    }
}
