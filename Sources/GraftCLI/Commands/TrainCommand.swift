import Foundation
import Graft

/// `graft train`
enum TrainCommand {
    static let out = Argument.required(
        "out", .folder("RUN"), placeholderValue: "",
        help:
            "Folder of the run: last.safetensors, best.safetensors, with --ema ema.safetensors, state.safetensors, report.html, run.json, steps.csv, "
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
    static let recipe = Argument.option(
        "recipe", .choice("none", "fine-tune"), default: "none",
        help:
            "fine-tune: the head first, then all layers, the lower the slower; it stands for --freeze backbone "
            + "--unfreeze-at 1:all --layer-decay 0.75 --schedule one-cycle, and options that are given replace theirs.")
    static let dropout = Argument.option(
        "dropout", .choice("on", "off"), default: "on", help: "Whether dropout layers drop.")

    static let augment = Argument.option(
        "augment", .augmentation, default: .none,
        help:
            "none; flip: horizontal flips; standard: random resized crops and flips; strong: standard, RandAugment and random "
            + "erasing; or a list such as crop,flip,jitter,randaugment:2:9,erase:0.25.")
    static let mixup = Argument.option(
        "mixup", .number("A"), default: 0, shownAs: "off",
        help: "Mix each image with another of its batch, with shares from Beta(A, A); 0.2 is usual.")
    static let cutMix = Argument.option(
        "cutmix", .number("A"), default: 0, shownAs: "off",
        help: "Put a rectangle of another image into each, with shares from Beta(A, A); 1 is usual.")
    static let classWeights = Argument.optional(
        "class-weights", .path("balanced|F"), shownAs: "all alike", example: "balanced",
        help: "Weights of the classes in the loss: by their numbers of images, or from a file with NAME WEIGHT a line.")
    /// The word of `--class-weights` that names no file.
    static let balanced = "balanced"
    static let sampler = Argument.option(
        "sampler", .choice("uniform", "balanced"), default: "uniform",
        help: "balanced draws as many images as there are, with replacement, every class as often as any other.")
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

    /// How parameters follow their gradients, for all commands that train.
    static let updateRules: [any AnyArgument] = [
        optimizer, learningRate, layerDecay, momentum, weightDecay, noDecayBiasNorm, nesterov, clipNorm, accumulate,
    ]
    /// What a batch and its loss are, for all commands that train.
    static let batchRules: [any AnyArgument] = [
        labelSmoothing, classWeights, dropout, augment, mixup, cutMix, sampler,
    ]

    static let command = Command(
        name: "train",
        summary: "Fine-tune a network on a folder of images.",
        discussion: """
            With --weights and without --freeze, the backbone is frozen and the head is trained. Weights, tables \
            and the page report.html are written behind every epoch, or every few where epochs are shorter than writing \
            them, and at the end; Ctrl-C saves them and ends. After that, a kill or a power cut, --resume goes on and ends with the same bytes as a run that was never interrupted. It takes the options that the run began \
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
                "Training", [recipe, epochs, steps], updateRules, [average, schedule, warmup, earlyStop, keepBest],
                batchRules, [noShuffle, dropLast, cache, cachedViews, cacheLimit]),
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
        try checkOptimizer(values)
        if values[recipe] != "none", !values.isGiven(schedule), values[warmup] > 0 {
            throw UsageError(
                "--recipe \(values[recipe]) stands for --schedule one-cycle, which does not go with --warmup; leave that out "
                    + "or give another --schedule")
        }
        if values.isGiven(cachedViews) {
            guard values[augment] != .none else {
                throw UsageError("--cached-views needs --augment flip or standard")
            }
            guard values[mixup] == 0, values[cutMix] == 0 else {
                throw UsageError(
                    "--cached-views does not go with --mixup or --cutmix, whose images are new in every batch")
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
        if values[noShuffle], values[sampler] == "balanced" {
            throw UsageError("--sampler balanced draws images at random and does not go with --no-shuffle")
        }
    }

    /// Refuses options of optimizers that are not chosen.
    static func checkOptimizer(_ values: ArgumentValues) throws(UsageError) {
        let optimizerName = values[optimizer]
        for argument in [momentum as any AnyArgument, nesterov]
        where optimizerName != "sgd" && values.isGiven(argument) {
            throw UsageError(
                "\(argument.display) does not apply to --optimizer \(optimizerName), only to --optimizer sgd")
        }
        let decay = values[weightDecay] ?? (optimizerName == "adamw" ? 0.01 : 0)
        if values[noDecayBiasNorm], decay == 0 {
            throw UsageError("--no-decay-bias-norm needs a --weight-decay above 0; leave it out or give one")
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

    /// The network with its head and its frozen part, and the images with their labels in line with its outputs.
    static func prepare(
        _ values: ArgumentValues, resuming state: TrainingState? = nil
    ) throws -> (network: Model, training: ImageDataset, validation: ImageDataset?) {
        let images = try DataRequest.training(values)
        // The state has the weights, whatever became of the file they once came from.
        var network = try state?.model() ?? freshNetwork(values, images.training)
        let (training, validationImages) = try DataRequest.align(
            images.training, images.validation, with: &network, values)
        try NetworkRequest.freeze(&network, values)
        return (network, training, validationImages)
    }

    /// The trainer of the options; says on which device, and which groups there are.
    static func trainer(_ network: Model, _ training: ImageDataset, _ values: ArgumentValues) throws -> Trainer {
        let trainer = try Trainer(
            network,
            loss: .crossEntropy(
                labelSmoothing: values[labelSmoothing], classWeights: try classWeights(training, network, values)),
            optimizer: rule(values), device: NetworkRequest.device(values),
            frozenStatistics: NetworkRequest.frozenStatistics(values), dropout: values[dropout] == "on",
            seed: values[Shared.seed], groups: groups(values), clipNorm: values[clipNorm],
            averageDecay: values[average])
        NetworkRequest.announce(trainer.deviceDescription, trainer.deviceNotes, values)
        return trainer
    }

    /// What `--recipe` stands for, in the place of options that are not given.
    ///
    /// - Returns: all values, and those of the recipe as texts by the options' names.
    private static func expanded(_ given: ArgumentValues) -> (values: ArgumentValues, texts: [String: String]) {
        guard given[recipe] == "fine-tune" else { return (given, [:]) }
        var values = given
        var words: [String] = []
        var texts: [String: String] = [:]
        func set<Value>(_ value: Value, for argument: Argument<Value>, _ text: String) {
            guard !given.isGiven(argument) else { return }
            values.set(value, for: argument)
            words.append("\(argument.display) \(text)")
            texts[argument.name] = text
        }
        set(["backbone"], for: TrainableSet.freeze, "backbone")
        set([UnfreezeRequest(position: 1, names: ["all"])], for: TrainableSet.unfreezeAt, "1:all")
        set(0.75, for: layerDecay, "0.75")
        set(.oneCycle(warmup: 0.3), for: schedule, "one-cycle")
        NetworkRequest.note(
            words.isEmpty
                ? "--recipe fine-tune is without effect: all of its options are given"
                : "--recipe fine-tune stands for \(words.joined(separator: " "))", given)
        return (values, texts)
    }

    private static func run(_ given: ArgumentValues, resuming state: TrainingState?) throws {
        let (values, ofRecipe) = expanded(given)
        let (network, training, validationImages) = try prepare(values, resuming: state)
        if values[Shared.batchSize] > training.count, !values[dropLast] {
            Console.warning(
                "--batch-size \(values[Shared.batchSize]) is more than the \(training.count) images to train on: an "
                    + "epoch is one step over all of them")
        }

        let folder = try RunFolder(values[out], keptCount: values[keepBest])
        // A tenth of the time at most goes into files: epochs over kept outputs take less time than writing weights.
        folder.saveSpacing = 9
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
        let trainer = try Self.trainer(network, training, values)
        let trainableCount = network.trainable.count
        NetworkRequest.note(
            "\(network.architecture.name), \(network.classCount) classes; \(training.count) images to train on"
                + (validationImages.map { ", \($0.count) to validate on" } ?? "")
                + "; \(trainableCount) of \(network.parameterNames.count) parameter tensors are trainable", values)

        announceGroups(trainer, values)

        let options = fitOptions(values)
        try folder.begin(
            description(trainer, training, validationImages, values, ofRecipe: ofRecipe), validation: validationImages,
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
        _ trainer: Trainer, _ training: ImageDataset, _ validation: ImageDataset?, _ values: ArgumentValues,
        ofRecipe: [String: String]
    ) throws -> RunDescription {
        var given: [String: String] = [:]
        var defaults: [String: String] = [:]
        for argument in command.options {
            let texts = values.occurrences.filter { $0.name == argument.name }.map { $0.text.isEmpty ? "on" : $0.text }
            if !texts.isEmpty {
                given[argument.name] = texts.joined(separator: ", ")
            } else if let text = ofRecipe[argument.name] {
                defaults[argument.name] = "\(text), of --recipe \(values[recipe])"
            } else if let text = argument.defaultText {
                defaults[argument.name] = text
            }
        }
        return try RunDescription(
            trainer, data: training, validation: validation,
            command: ["graft"] + CommandLine.arguments.dropFirst(), options: given, defaults: defaults,
            weights: given[Shared.weights.name], version: BuildInformation.version)
    }

    /// The weights of `--class-weights`, in the order of the network's outputs.
    private static func classWeights(
        _ training: ImageDataset, _ network: Model, _ values: ArgumentValues
    ) throws -> [Double] {
        guard let source = values[classWeights] else { return [] }
        guard source != balanced else { return Loss.balancedWeights(of: training, classCount: network.classCount) }
        guard let bytes = FileManager.default.contents(atPath: source), let text = String(data: bytes, encoding: .utf8)
        else {
            throw CommandFailure(
                .noInput,
                "\(source): no such file, or it cannot be read; --class-weights takes balanced, or a file with NAME WEIGHT a line"
            )
        }
        let names = network.classNames ?? training.classes
        var weights = [Double?](repeating: nil, count: network.classCount)
        for (number, line) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
            let entry = line.trimmingCharacters(in: .whitespaces)
            guard !entry.isEmpty else { continue }
            let place = "\(source), line \(number + 1)"
            guard let gap = entry.lastIndex(where: \.isWhitespace),
                let weight = Double(entry[entry.index(after: gap)...]), weight.isFinite, weight >= 0
            else {
                throw CommandFailure(
                    .badData, "\(place): \"\(entry)\" is not a class's name and a weight of at least 0, such as cat 1.5"
                )
            }
            let name = entry[..<gap].trimmingCharacters(in: .whitespaces)
            guard let index = names.firstIndex(of: name), index < weights.count else {
                let near = nearest(name, in: names).map { "; did you mean \"\($0)\"?" } ?? ""
                throw CommandFailure(
                    .badData, "\(place): there is no class \"\(name)\" among \(DataRequest.list(names))\(near)")
            }
            guard weights[index] == nil else {
                throw CommandFailure(.badData, "\(place): the class \"\(name)\" has a weight already")
            }
            weights[index] = weight
        }
        let absent = names.indices.prefix(weights.count).filter { weights[$0] == nil }.map { names[$0] }
        guard absent.isEmpty else {
            throw CommandFailure(
                .badData, "\(source) has no weight for \(DataRequest.list(absent)); give each class a line NAME WEIGHT")
        }
        return weights.map { $0 ?? 1 }
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
        for group in groups { NetworkRequest.note(text(of: group, atMost: 6), values) }
    }

    /// A group's rate, whether it is decayed, and its first names.
    static func text(of group: Trainer.Group, atMost limit: Int) -> String {
        "learning rate \(String(format: "%.4g", group.learningRate))\(group.isDecayed ? "" : ", no weight decay"): "
            + DataRequest.list(group.names, atMost: limit)
    }

    /// What `--learning-rate` is for another base rate: the parts' rates keep their ratios to it.
    static func learningRates(base: Double, _ values: ArgumentValues) -> String {
        let given = values[learningRate]
        let factor = base / (given.base ?? defaultRate)
        let parts = given.entries.map { "\($0.name):\(short($0.rate * factor))" }
        return ([short(base)] + parts).joined(separator: ",")
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
        options.augmentation = values[augment]
        options.mixup = values[mixup]
        options.cutMix = values[cutMix]
        options.sampler = Sampler(rawValue: values[sampler]) ?? .uniform
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
        options.stateIntervalSeconds = values[saveEvery]
        options.isCancelled = { Interruption.isRequested }
        return options
    }
}
