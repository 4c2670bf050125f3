import Graft

/// `graft summary`
enum SummaryCommand {
    static let model = Argument.positional(
        "MODEL", .text("MODEL"), placeholderValue: "", help: "Architecture, as `graft models` lists it.")

    static let command = Command(
        name: "summary",
        summary: "Show the plan of a network: shapes, parameters, work, what trains, memory.",
        discussion: """
            Nothing is computed and no device is opened: the table follows from the architecture, the image size, the \
            batch size and the frozen set.
            """,
        examples: [
            "graft summary resnet18 --classes 10 --freeze all --unfreeze layer4,head",
            "graft summary squeezenet1_1 --weights squeezenet1_1.pth --json",
        ],
        groups: [
            ArgumentGroup("Model", [model, Shared.weights, Shared.offline, TrainableSet.classes]),
            ArgumentGroup("Frozen and trainable", [TrainableSet.freeze, TrainableSet.unfreeze]),
            ArgumentGroup("Input", [Shared.imageSize, Shared.batchSize]),
            ArgumentGroup("Output", [Shared.json]),
        ],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        var network = try NetworkRequest.model(named: values[model], weights: values[Shared.weights], values)
        if let count = values[TrainableSet.classes], count != network.classCount {
            try network.replaceHead(classCount: count)
        }
        try NetworkRequest.applyImageSize(&network, values[Shared.imageSize])
        try NetworkRequest.freeze(&network, values)
        let batchSize = values[Shared.batchSize]
        let summary = try ModelSummary(network, batchSize: batchSize)
        if values[Shared.json] {
            try Console.result(json(network, summary, batchSize: batchSize).pretty() + "\n")
        } else {
            try Console.result(text(network, summary, batchSize: batchSize))
        }
    }

    private static func text(_ network: Model, _ summary: ModelSummary, batchSize: Int) -> String {
        var table = Table([
            Table.Column(title: "node", isFlexible: true), Table.Column(title: "layer", isFlexible: true),
            Table.Column(title: "output"), Table.Column(title: "parameters", alignment: .right),
            Table.Column(title: "MMACs", alignment: .right), Table.Column(title: "trains"),
            Table.Column(title: "stats"), Table.Column(title: "backward"),
        ])
        for row in summary.rows {
            table.rows.append([
                row.node, row.layer, row.shape.dimensions.dropFirst().map(String.init).joined(separator: "×"),
                row.parameterCount == 0 ? "" : grouped(row.parameterCount),
                row.multiplyAccumulateCount == 0
                    ? "" : fixed(Double(row.multiplyAccumulateCount) / Double(batchSize) / 1e6, 1),
                trainability(row), row.statistics ?? "", row.backward,
            ])
        }
        let size = network.preprocessing.imageSize
        let training = summary.trainingByteCount.map { ", training \(formatBytes($0))" } ?? ", nothing is trainable"
        let leastTraining = summary.leastTrainingByteCount.map { ", training \(formatBytes($0))" } ?? ""
        return table.text() + """

            \(network.architecture.name), \(network.classCount) classes, input 3×\(size)×\(size), head \(network.architecture.headName)
            parameters: \(grouped(summary.parameterCount)), of these trainable: \(grouped(summary.trainableCount))
            work of a forward pass: \(fixed(Double(summary.multiplyAccumulateCount) / Double(batchSize) / 1e9, 3)) GMACs an image
            memory on a CPU device at batch \(batchSize): inference \(formatBytes(summary.inferenceByteCount))\(training)
            no placing could do with less than: inference \(formatBytes(summary.leastInferenceByteCount))\(leastTraining)

            """
    }

    private static func trainability(_ row: ModelSummary.Row) -> String {
        if row.parameterCount == 0 { return "" }
        if row.trainableCount == 0 { return "frozen" }
        return row.trainableCount == row.parameterCount ? "yes" : "partly"
    }

    private static func json(_ network: Model, _ summary: ModelSummary, batchSize: Int) -> JSON {
        let nodes = summary.rows.map { row -> JSON in
            [
                "node": .string(row.node), "layer": .string(row.layer),
                "shape": .array(row.shape.dimensions.map { .integer($0) }), "parameters": .integer(row.parameterCount),
                "trainable_parameters": .integer(row.trainableCount), "macs": .integer(row.multiplyAccumulateCount),
                "statistics": .optional(row.statistics), "backward": .string(row.backward),
            ]
        }
        return [
            "model": .string(network.architecture.name), "classes": .integer(network.classCount),
            "image_size": .integer(network.preprocessing.imageSize), "batch_size": .integer(batchSize),
            "parameters": .integer(summary.parameterCount), "trainable_parameters": .integer(summary.trainableCount),
            "macs": .integer(summary.multiplyAccumulateCount),
            "inference_bytes": .integer(summary.inferenceByteCount),
            "inference_bytes_least": .integer(summary.leastInferenceByteCount),
            "training_bytes_least": summary.leastTrainingByteCount.map { .integer($0) } ?? .null,
            "training_bytes": summary.trainingByteCount.map { .integer($0) } ?? .null, "nodes": .array(nodes),
        ]
    }
}
