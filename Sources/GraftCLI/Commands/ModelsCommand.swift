import Graft

/// `graft models`
enum ModelsCommand {
    static let command = Command(
        name: "models",
        summary: "List the architectures: parameters, input size, head, and whether the hub has weights.",
        examples: ["graft models", "graft models --json"],
        groups: [ArgumentGroup("Output", [Shared.json])],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let architectures = Architecture.all
        if values[Shared.json] {
            let entries = architectures.map { architecture -> JSON in
                [
                    "name": .string(architecture.name), "family": .string(architecture.family),
                    "parameters": .integer(architecture.parameterCount(classCount: architecture.classCount)),
                    "classes": .integer(architecture.classCount), "image_size": .integer(architecture.imageSize),
                    "head": .string(architecture.headName), "source": .string(architecture.source),
                    "hub": .optional(PretrainedWeights.address(of: architecture.name)),
                ]
            }
            try Console.result(JSON.object([("models", .array(entries))]).pretty() + "\n")
            return
        }
        var table = Table([
            Table.Column(title: "model"), Table.Column(title: "family"),
            Table.Column(title: "parameters", alignment: .right), Table.Column(title: "classes", alignment: .right),
            Table.Column(title: "input", alignment: .right), Table.Column(title: "head"),
            Table.Column(title: "hub"),
        ])
        for architecture in architectures {
            table.rows.append([
                architecture.name, architecture.family,
                grouped(architecture.parameterCount(classCount: architecture.classCount)),
                "\(architecture.classCount)", "\(architecture.imageSize)", architecture.headName,
                PretrainedWeights.address(of: architecture.name) == nil ? "" : "yes",
            ])
        }
        try Console.result(table.text())
    }
}
