import Graft

/// `graft demo`
enum DemoCommand {
    static let command = Command(
        name: "demo",
        summary: "Show feature extraction and fine-tuning on built-in weights and images, in about a minute.",
        examples: ["graft demo", "graft demo --device cpu"],
        groups: [
            ArgumentGroup("Running", [Shared.device, Shared.threads]),
            Shared.outputGroup,
        ],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let isSilent = values[Shared.quiet] || values[Shared.json]
        var failure: (any Error)?
        let result = try Demo.run(device: NetworkRequest.device(values)) { line in
            guard !isSilent else { return }
            do { try Console.result(line + "\n") } catch { failure = error }
        }
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
