import Graft

/// `graft bench`
enum BenchCommand {
    static let mode = Argument.required(
        "mode", .choice("infer", "train"), placeholderValue: "", help: "Forward passes or training steps.")
    static let trainable = Argument.option(
        "trainable", .names("S"), default: ["all"], shownAs: "all",
        help: "Layers that train, with --mode train: all or names; the rest is frozen.")
    static let repeats = Argument.option(
        "repeats", .wholeNumber("R", atLeast: 1, atMost: 1_000_000), default: 5, help: "Timed runs.")
    static let imageSize = Argument.optional(
        "image-size", .wholeNumber("S", atLeast: 1, atMost: 65_536), shownAs: "the architecture's", example: "224",
        help: "Side of the input.")

    static let command = Command(
        name: "bench",
        summary: "Time a network with random weights and inputs: milliseconds per image.",
        discussion: "A training step is forward, loss, backward and an SGD update. Reading images is not included.",
        examples: [
            "graft bench --model resnet18 --mode infer --batch-size 8 --json",
            "graft bench --model resnet18 --mode train --trainable layer3,fc --device opencl",
        ],
        groups: [
            ArgumentGroup("What", [Shared.model, mode, trainable, TrainableSet.frozenStatistics, imageSize, repeats]),
            Shared.runGroup(seeded: true),
            Shared.outputGroup,
        ],
        validate: { values throws(UsageError) in
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
        let mode: Benchmark.Mode = values[mode] == "train" ? .train : .infer
        let architecture = try Architecture.named(values[Shared.model])
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
            frozenStatistics: NetworkRequest.frozenStatistics(values))
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
                ("version", .string(graftVersion)), ("device", .string(result.device.selector)),
                ("cpu", .string(result.device.name)), ("kernels", .string(result.device.kernelClass)),
                ("device_bytes", .integer(result.byteCount)),
            ]
            try Console.result(JSON.object(entries).compact + "\n")
            return
        }
        let what = mode == .train ? "training step, trainable \(values[trainable].joined(separator: ","))" : "inference"
        try Console.result(
            """
            \(architecture.name), \(what), batch \(batchSize) of 3×\(size)×\(size), \(values[repeats]) runs
            device: \(NetworkRequest.text(of: result.device)), \(formatBytes(result.byteCount)) used
            minimum \(fixed(result.minimum, 3)) ms per image, median \(fixed(result.median, 3)) ms per image \
            (\(fixed(1000 / result.median, 1)) images/s)

            """)
    }

    private static func rounded(_ value: Double) -> Double { (value * 10000).rounded() / 10000 }
}
