import Graft

/// `graft bench`
enum BenchCommand {
    static let mode = Argument.required(
        "mode", .choice("infer", "train", "read"), placeholderValue: "",
        help: "Forward passes, training steps, or reading of image files.")
    static let model = Argument.optional(
        "model", .architecture, shownAs: "none; needed by --mode infer and train",
        help: "Architecture, as `graft models` lists it.")
    static let data = Argument.optional(
        "data", .folder("DIR"), shownAs: "none; needed by --mode read",
        help: "Folder of class folders of JPEGs or PNGs.")
    static let trainable = Argument.option(
        "trainable", .names("S"), default: ["all"], shownAs: "all",
        help: "Layers that train, with --mode train: all or names; the rest is frozen.")
    static let repeats = Argument.option(
        "repeats", .wholeNumber("R", atLeast: 1, atMost: 1_000_000), default: 5, help: "Timed runs.")
    static let imageSize = Argument.optional(
        "image-size", .wholeNumber("S", atLeast: 1, atMost: 65_536), shownAs: "the architecture's, else 224",
        example: "224", help: "Side of the input.")

    static let profile = Argument.flag(
        "profile", help: "Time of every node, its rates, and their share of what the device reaches at best.")

    static let command = Command(
        name: "bench",
        summary: "Time a network with random weights and inputs, or the reading of images: milliseconds per image.",
        discussion: """
            A training step is forward, loss, backward and an SGD update; reading images is not included. With --mode \
            read, a run is one pass over DIR by the loader of `graft train`: read, decode, resize, crop, gather into \
            batches of bytes; normalisation is the device's work and not included.
            """,
        examples: [
            "graft bench --model resnet18 --mode infer --batch-size 8 --json",
            "graft bench --model resnet18 --mode train --trainable layer3,fc --device opencl",
            "graft bench --model resnet18 --mode infer --batch-size 8 --profile",
            "graft bench --mode read --data photos/train --threads 2",
        ],
        groups: [
            ArgumentGroup(
                "What", [mode, model, trainable, TrainableSet.frozenStatistics, imageSize, repeats, profile]),
            ArgumentGroup("Reading", [data, Shared.limit, Shared.fastDecode]),
            Shared.runGroup(seeded: true),
            Shared.outputGroup,
        ],
        validate: { values throws(UsageError) in
            let isReading = values[mode] == "read"
            let needed = isReading ? data as any AnyArgument : model
            guard values.isGiven(needed) else {
                throw UsageError("missing \(needed.display) \(needed.placeholder), which --mode \(values[mode]) needs")
            }
            let others: [any AnyArgument] =
                isReading
                ? [model, profile, Shared.device, Shared.trustDevice, Shared.exact, Shared.seed]
                : [data, Shared.limit, Shared.fastDecode]
            for argument in others where values.isGiven(argument) {
                throw UsageError(
                    "\(argument.display) \(isReading ? "does not apply to" : "applies to") --mode read\(isReading ? "" : " only")"
                        + ", found --mode \(values[mode])")
            }
            for argument in [trainable as any AnyArgument, TrainableSet.frozenStatistics]
            where values[mode] != "train" && values.isGiven(argument) {
                throw UsageError("\(argument.display) applies to --mode train only, found --mode \(values[mode])")
            }
        },
        run: run)

    /// The class count that `bench_peers.py` uses for a mode, so that figures can be compared.
    private static func classCount(of architecture: Architecture, mode: Benchmark.Mode) -> Int {
        mode == .train ? 10 : architecture.classCount
    }

    private static func run(_ values: ArgumentValues) throws {
        guard let name = values[model] else { return try read(values) }
        let mode: Benchmark.Mode = values[mode] == "train" ? .train : .infer
        let architecture = try Architecture.named(name)
        var network = try Model(
            architecture.name, classCount: classCount(of: architecture, mode: mode), seed: values[Shared.seed])
        try NetworkRequest.applyImageSize(&network, values[imageSize])
        if mode == .train {
            network.freeze()
            try network.unfreeze(values[trainable].joined(separator: ","))
        }
        let batchSize = values[Shared.batchSize]
        let result = try Benchmark.run(
            network, mode: mode, batchSize: batchSize, repeats: values[repeats], device: NetworkRequest.device(values),
            frozenStatistics: NetworkRequest.frozenStatistics(values), profiles: values[profile])
        if let warning = result.deviceNotes.warning { Console.warning(warning) }
        let size = network.preprocessing.imageSize
        if values[Shared.json] {
            var entries: [(key: String, value: JSON)] = [
                ("peer", "graft"), ("model", .string(architecture.name)), ("mode", .string(mode.rawValue)),
            ]
            if mode == .train {
                entries.append(("trainable", .string(values[trainable].joined(separator: "+"))))
                entries.append(("frozen_statistics", .string(values[TrainableSet.frozenStatistics])))
            }
            entries += [
                ("batch", .integer(batchSize)), ("image_size", .integer(size)),
                ("threads", .integer(result.device.computeUnitCount)), ("repeats", .integer(values[repeats])),
                ("ms_per_image_min", .number(rounded(result.minimum))),
                ("ms_per_image_median", .number(rounded(result.median))), ("precision", "f32"),
                ("version", .string(BuildInformation.version)), ("device", .string(result.device.selector)),
                ("cpu", .string(result.device.name)), ("kernels", .string(result.device.kernelClass)),
                ("device_bytes", .integer(result.byteCount)), ("device_bytes_least", .integer(result.leastByteCount)),
            ]
            if let profile = result.profile { entries.append(("profile", json(profile))) }
            try Console.result(JSON.object(entries).compact + "\n")
            return
        }
        let what = mode == .train ? "training step, trainable \(values[trainable].joined(separator: ","))" : "inference"
        try Console.result(
            """
            \(architecture.name), \(what), batch \(batchSize) of 3×\(size)×\(size), \(values[repeats]) runs
            device: \(NetworkRequest.text(of: result.device)), \(formatBytes(result.byteCount)) used, at least \
            \(formatBytes(result.leastByteCount)) needed
            minimum \(fixed(result.minimum, 3)) ms per image, median \(fixed(result.median, 3)) ms per image \
            (\(fixed(1000 / result.median, 1)) images/s)

            """ + (result.profile.map(text) ?? ""))
    }

    // MARK: Profile

    private static func text(_ profile: Benchmark.Profile) -> String {
        var table = Table([
            .init(title: "node", isFlexible: true), .init(title: "operation"), .init(title: "shape", isFlexible: true),
            .init(title: "ms", alignment: .right), .init(title: "GF/s", alignment: .right),
            .init(title: "GB/s", alignment: .right), .init(title: "of limit", alignment: .right),
        ])
        var total = 0.0
        for instruction in profile.instructions {
            total += instruction.seconds
            table.rows.append([
                instruction.node, shortName(instruction.primitive), instruction.shape,
                fixed(instruction.seconds * 1e3, 3),
                instruction.operationCount == 0
                    ? "" : fixed(Double(instruction.operationCount) / instruction.seconds * 1e-9, 1),
                fixed(Double(instruction.byteCount) / instruction.seconds * 1e-9, 1),
                percent(instruction.share(of: profile.rates)),
            ])
        }
        let rates = profile.rates
        return "\n" + table.text() + """

            \(fixed(total * 1e3, 3)) ms in all, one node at a time, median of the runs
            limits measured on this device: \(fixed(rates.operationsPerSecond * 1e-9, 1)) GF/s (a 1×1 convolution in \
            the caches), \(fixed(rates.bytesPerSecond * 1e-9, 1)) GB/s (a pass over memory)
            Winograd's convolutions are counted as direct ones and can be above the limit.

            """
    }

    private static func json(_ profile: Benchmark.Profile) -> JSON {
        [
            "limit_gflops": .number(rounded(profile.rates.operationsPerSecond * 1e-9)),
            "limit_gbytes_per_second": .number(rounded(profile.rates.bytesPerSecond * 1e-9)),
            "nodes": .array(
                profile.instructions.map { instruction in
                    [
                        "node": .string(instruction.node), "primitive": .string(instruction.primitive),
                        "shape": .string(instruction.shape), "ms": .number(rounded(instruction.seconds * 1e3)),
                        "gflops": .number(
                            rounded(Double(instruction.operationCount) / max(instruction.seconds, 1e-9) * 1e-9)),
                        "gbytes_per_second": .number(
                            rounded(Double(instruction.byteCount) / max(instruction.seconds, 1e-9) * 1e-9)),
                        "share_of_limit": .number(rounded(instruction.share(of: profile.rates))),
                    ]
                }),
        ]
    }

    /// A primitive's name in a narrow column.
    private static func shortName(_ primitive: String) -> String {
        primitive.replacing("WeightGradient", with: " dW").replacing("InputGradient", with: " dx")
            .replacing("Gradient", with: " dx").replacing("convolution", with: "conv")
            .replacing("batchNormalization", with: "norm ").replacing("Winograd", with: "W")
    }

    /// `--mode read`
    private static func read(_ values: ArgumentValues) throws {
        let size = values[imageSize] ?? 224
        let preprocessing = try ImagePreprocessing(imageSize: size, resize: min(size * 256 / 224, 65_536))
        let images = try ImageDataset(folder: values[data] ?? "", limit: values[Shared.limit])
        let options = DataRequest.loaderOptions(values)
        let result = try Interruption.deferred {
            try ReadingBenchmark.run(
                images, preprocessing: preprocessing, options: options, repeats: values[repeats],
                isCancelled: { Interruption.isRequested })
        }
        if values[Shared.json] {
            let line: JSON = [
                "peer": "graft", "mode": "read", "images": .integer(result.imageCount), "image_size": .integer(size),
                "batch": .integer(options.batchSize), "threads": .integer(options.workerCount),
                "fast_decode": .boolean(options.fastDecode), "output": "uint8", "repeats": .integer(values[repeats]),
                "ms_per_image_min": .number(rounded(result.minimum)),
                "ms_per_image_median": .number(rounded(result.median)),
                "images_per_second": .number((1e4 / result.median).rounded() / 10),
                "version": .string(BuildInformation.version),
            ]
            try Console.result(line.compact + "\n")
            return
        }
        try Console.result(
            """
            reading \(result.imageCount) images to 3×\(size)×\(size) bytes, \(options.workerCount) threads, \
            \(values[repeats]) passes\(options.fastDecode ? ", fast decoding" : "")
            minimum \(fixed(result.minimum, 3)) ms per image, median \(fixed(result.median, 3)) ms per image \
            (\(fixed(1000 / result.median, 1)) images/s); normalisation, on the device, is not included

            """)
    }

    private static func rounded(_ value: Double) -> Double { (value * 10000).rounded() / 10000 }
}
