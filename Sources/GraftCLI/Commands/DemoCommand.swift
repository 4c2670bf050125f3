import Graft

/// `graft demo`
enum DemoCommand {
    static let writePictures = Argument.optional(
        "write-pictures", .folder("DIR"), shownAs: "none",
        help: "Only write the pictures of the built-in network's classes as PNG, in DIR/train and DIR/val.")
    static let picturesPerClass = Argument.option(
        "pictures-per-class", .wholeNumber(atLeast: 1), default: 600, help: "Training pictures of each class to write.")
    static let grafted = Argument.flag(
        "grafted", help: "Write the pictures of the five classes that the demo learns.")
    static let command = Command(
        name: "demo",
        summary: "Show feature extraction and fine-tuning on built-in weights and images, in about a minute.",
        examples: ["graft demo", "graft demo --device cpu"],
        groups: [
            ArgumentGroup("Pictures", [writePictures, picturesPerClass, grafted]),
            ArgumentGroup("Running", [Shared.device, Shared.trustDevice, Shared.threads, Shared.exact]),
            Shared.outputGroup,
        ],
        validate: { values throws(UsageError) in
            guard values[writePictures] == nil else { return }
            for argument in [picturesPerClass as any AnyArgument, grafted] where values.isGiven(argument) {
                throw UsageError("\(argument.display) applies to \(writePictures.display) only; give that too")
            }
        },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        if let folder = values[writePictures] {
            let count = try Demo.writePictures(
                to: folder, countPerClass: values[picturesPerClass], grafted: values[grafted])
            try Console.result("\(count) pictures in \(folder)\n")
            return
        }
        let isSilent = values[Shared.quiet] || values[Shared.json]
        var failure: (any Error)?
        let result = try Demo.run(
            device: NetworkRequest.device(values),
            report: { line in
                guard !isSilent else { return }
                do { try Console.result(line + "\n") } catch { failure = error }
            }, warn: Console.warning)
        if let failure { throw failure }
        if values[Shared.json] {
            let entries: JSON = [
                "device": .string(result.device.selector), "own_accuracy": .number(result.ownAccuracy),
                "pixel_neighbours_accuracy": .number(result.pixelAccuracy),
                "feature_neighbours_accuracy": .number(result.featureAccuracy),
                "accuracy_before": .number(result.accuracyBefore), "head_accuracy": .number(result.headAccuracy),
                "accuracy_after": .number(result.accuracyAfter), "seconds": .number(result.seconds),
            ]
            try Console.result(entries.pretty() + "\n")
            return
        }
        try Console.result(
            """
            accuracy on five new classes: before \(percent(result.accuracyBefore)), nearest neighbours \
            \(percent(result.featureAccuracy)), fine-tuned \(percent(result.accuracyAfter)), on \(result.device.name)

            """)
    }
}
