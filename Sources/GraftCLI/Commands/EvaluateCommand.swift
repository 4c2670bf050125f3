import Graft

/// `graft evaluate`
enum EvaluateCommand {
    static let logits = Argument.optional(
        "logits", .path("OUT.npz"), shownAs: "none", help: "Write logits, labels and paths of all images.")

    static let command = Command(
        name: "evaluate",
        summary: "Measure a network on labelled images: top-1, top-5, per class, confusion.",
        discussion: "Where DATA has train/ and val/ in it, val/ is evaluated.",
        examples: [
            "graft evaluate photos --weights runs/a/best.safetensors",
            "graft evaluate photos/val --model resnet18 --weights resnet18.pth --logits logits.npz",
            "graft evaluate photos/val --weights resnet18.pth --probe probe.safetensors",
        ],
        groups: [
            ArgumentGroup("Data", [Shared.data, Shared.list, Shared.limit]),
            ArgumentGroup(
                "Model",
                [
                    Shared.requiredWeights, Shared.offline, Shared.modelOfWeights, ProbeRequest.probe,
                    Shared.classesFile,
                ]),
            Shared.imageGroup,
            Shared.runGroup(seeded: false),
            ArgumentGroup("Output", [logits, Shared.quiet, Shared.json]),
        ],
        validate: { values throws(UsageError) in try ProbeRequest.validate(values) },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        if let path = values[logits], !path.lowercased().hasSuffix(".npz") {
            throw UsageError("--logits \"\(path)\" does not end in .npz, the one format it is written in")
        }
        var network = try NetworkRequest.model(values)
        let probe = try ProbeRequest(values, &network)
        try NetworkRequest.applyImages(&network, values)
        let images = try DataRequest.evaluation(values)
        let outputs = try probe?.classNames ?? DataRequest.outputNames(of: network, values)
        let outputCount = probe?.classNames.count ?? network.classCount
        let alignment = try DataRequest.align(images, names: outputs, count: outputCount, values)
        let extractor = try FeatureExtractor(
            network, layers: [probe?.layer ?? "logits"], pooling: probe?.pooling ?? .none,
            device: NetworkRequest.device(values),
            batchSizes: NetworkRequest.batchSizes(count: images.count, batchSize: values[Shared.batchSize]))
        NetworkRequest.announce(extractor.deviceDescription, extractor.deviceNotes, values)

        let writer = try values[logits].map { try FeatureWriter($0, layers: ["logits"], classes: alignment.names) }
        var evaluation = Evaluation(classNames: alignment.names)
        try DataRequest.forEachBatch(images, network, values, title: "evaluate") { batch in
            let features = try extractor.features(ofPixels: batch.pixels, count: batch.count)
            let outputs = try probe.map { try $0.scores(features) } ?? features["logits"]
            guard let scores = outputs?.reshaped([batch.count, outputCount]) else { return }
            let labels = batch.labels.map { alignment.outputOfLabel[Int($0)] }
            try evaluation.add(logits: scores, labels: labels)
            try writer?.append(
                ["logits": scores], labels: labels, paths: batch.sampleIndices.map { images.samples[$0].path })
        }
        if let writer {
            try writer.finish()
            NetworkRequest.note("wrote \(writer.path)", values)
        }
        let hasLoss = probe?.hasLoss ?? true
        let json = JSON.object(
            [("model", .string(network.architecture.name))] + EvaluationReport.entries(evaluation, hasLoss: hasLoss))
        try Console.result(
            values[Shared.json]
                ? json.pretty(levels: 2) + "\n" : EvaluationReport.text(evaluation, hasLoss: hasLoss))
    }
}
