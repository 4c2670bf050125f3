import Graft

/// `graft predict`
enum PredictCommand {
    static let images = Argument.positionals("IMAGE", .path("IMAGE"), help: "JPEG or PNG files.")
    static let top = Argument.option("top", .wholeNumber("K", atLeast: 1), default: 5, help: "Classes shown per image.")

    static let command = Command(
        name: "predict",
        summary: "Classify images.",
        examples: [
            "graft predict photo.jpg --weights runs/a/best.safetensors",
            "graft predict *.jpg --model squeezenet1_1 --weights squeezenet1_1.pth --classes-file names.txt",
            "graft predict photo.jpg --model resnet18 --weights hub --classes-file imagenet.txt",
            "graft predict photo.jpg --weights resnet18.pth --probe probe.safetensors",
        ],
        groups: [
            ArgumentGroup("Input", [images]),
            ArgumentGroup(
                "Model",
                [
                    Shared.requiredWeights, Shared.offline, Shared.modelOfWeights, ProbeRequest.probe,
                    Shared.classesFile,
                ]),
            Shared.imageGroup,
            Shared.runGroup(seeded: false),
            ArgumentGroup("Output", [top, Shared.quiet, Shared.json]),
        ],
        validate: { values throws(UsageError) in try ProbeRequest.validate(values) },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        var network = try NetworkRequest.model(values)
        let probe = try ProbeRequest(values, &network)
        try NetworkRequest.applyImages(&network, values)
        let files = DataRequest.files(values[images])
        let classNames = try probe?.classNames ?? DataRequest.outputNames(of: network, values)
        let outputCount = probe?.classNames.count ?? network.classCount
        let extractor = try FeatureExtractor(
            network, layers: [probe?.layer ?? "logits"], pooling: probe?.pooling ?? .none,
            device: NetworkRequest.device(values),
            batchSizes: NetworkRequest.batchSizes(count: files.count, batchSize: values[Shared.batchSize]))
        NetworkRequest.announce(extractor.deviceDescription, extractor.deviceNotes, values)

        var predictions: [(path: String, prediction: Prediction)] = []
        try DataRequest.forEachBatch(files, network, values, title: "predict") { batch in
            let result = try extractor.features(ofPixels: batch.pixels, count: batch.count)
            let scores = (try probe.map { try $0.scores(result) } ?? result["logits"])?.floats ?? []
            for (row, index) in batch.sampleIndices.enumerated() {
                let slice = scores[row * outputCount..<(row + 1) * outputCount]
                let prediction = Prediction(logits: slice, classNames: classNames, count: values[top])
                predictions.append((files.samples[index].path, prediction))
            }
        }
        if values[Shared.json] {
            let entries = predictions.map { entry -> JSON in
                let choices = entry.prediction.choices.map { choice -> JSON in
                    [
                        "class": .string(choice.name), "label": .integer(choice.label),
                        "probability": .number(choice.probability),
                    ]
                }
                return ["path": .string(entry.path), "predictions": .array(choices)]
            }
            try Console.result(JSON.object([("images", .array(entries))]).pretty(levels: 3) + "\n")
            return
        }
        var table = Table([
            Table.Column(title: "image", isFlexible: true), Table.Column(title: "probability", alignment: .right),
            Table.Column(title: "class", isFlexible: true),
        ])
        for (path, prediction) in predictions {
            for (rank, choice) in prediction.choices.enumerated() {
                table.rows.append([rank == 0 ? path : "", percent(choice.probability), choice.name])
            }
        }
        try Console.result(table.text())
    }
}
