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
        ],
        groups: [
            ArgumentGroup("Data", [Shared.data, Shared.list, Shared.limit]),
            ArgumentGroup("Model", [Shared.requiredWeights, Shared.modelOfWeights, Shared.classesFile]),
            Shared.imageGroup,
            Shared.runGroup(seeded: false),
            ArgumentGroup("Output", [logits, Shared.quiet, Shared.json]),
        ],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        if let path = values[logits], !path.lowercased().hasSuffix(".npz") {
            throw UsageError("--logits \"\(path)\" does not end in .npz, the one format it is written in")
        }
        var network = try Model(values[Shared.modelOfWeights], weights: values[Shared.requiredWeights])
        NetworkRequest.announceLoading(network, values)
        try NetworkRequest.applyImages(&network, values)
        let images = try DataRequest.evaluation(values)
        let alignment = try DataRequest.align(images, with: network, values)
        let extractor = try FeatureExtractor(
            network, layers: ["logits"], device: NetworkRequest.device(values),
            batchSizes: NetworkRequest.batchSizes(count: images.count, batchSize: values[Shared.batchSize]))
        NetworkRequest.announce(extractor.deviceDescription, extractor.deviceNotes, values)

        let writer = try values[logits].map { try FeatureWriter($0, layers: ["logits"], classes: alignment.names) }
        var evaluation = Evaluation(classNames: alignment.names)
        try DataRequest.forEachBatch(images, network, values, title: "evaluate") { batch in
            let features = try extractor.features(ofPixels: batch.pixels, count: batch.count)
            guard let scores = features["logits"]?.reshaped([batch.count, network.classCount]) else { return }
            let labels = batch.labels.map { alignment.outputOfLabel[Int($0)] }
            try evaluation.add(logits: scores, labels: labels)
            try writer?.append(
                ["logits": scores], labels: labels, paths: batch.sampleIndices.map { images.samples[$0].path })
        }
        if let writer {
            try writer.finish()
            NetworkRequest.note("wrote \(writer.path)", values)
        }
        try Console.result(values[Shared.json] ? json(evaluation, network).pretty(levels: 2) + "\n" : text(evaluation))
    }

    private static func text(_ evaluation: Evaluation) -> String {
        let present = evaluation.classNames.indices.filter { evaluation.confusion[$0].contains { $0 > 0 } }
        let predicted = evaluation.classNames.indices.filter { label in
            evaluation.confusion.contains { $0[label] > 0 }
        }
        var text = """
            images  \(evaluation.count)
            top-1   \(percent(evaluation.top1)) (\(evaluation.top1Correct) of \(evaluation.count))
            top-5   \(percent(evaluation.top5)) (\(evaluation.top5Correct) of \(evaluation.count))
            loss    \(fixed(evaluation.loss, 4))


            """
        var table = Table([
            Table.Column(title: "class", isFlexible: true), Table.Column(title: "images", alignment: .right),
            Table.Column(title: "right", alignment: .right), Table.Column(title: "recall", alignment: .right),
            Table.Column(title: "precision", alignment: .right), Table.Column(title: "most often taken for"),
        ])
        for label in present {
            let row = evaluation.confusion[label]
            let (precision, recall) = evaluation.precisionAndRecall(of: label)
            let wrong = row.indices.filter { $0 != label && row[$0] > 0 }.max { (row[$0], $1) < (row[$1], $0) }
            table.rows.append([
                evaluation.classNames[label], "\(row.reduce(0, +))", "\(row[label])", recall.map(percent) ?? "–",
                precision.map(percent) ?? "–", wrong.map { "\(evaluation.classNames[$0]) (\(row[$0]))" } ?? "",
            ])
        }
        text += table.text()
        let shown = Array(Set(present + predicted)).sorted()
        if shown.count <= 12 {
            text += "\nconfusion (rows: labels, columns: predictions)\n"
            var confusion = Table(
                [Table.Column(title: "", isFlexible: true)]
                    + shown.map { Table.Column(title: "\($0)", alignment: .right) })
            for label in shown {
                confusion.rows.append(
                    ["\(label) \(evaluation.classNames[label])"]
                        + shown.map { "\(evaluation.confusion[label][$0])" })
            }
            text += confusion.text()
        }
        return text
    }

    private static func json(_ evaluation: Evaluation, _ network: Model) -> JSON {
        let classes = evaluation.classNames.indices.map { label -> JSON in
            let row = evaluation.confusion[label]
            let (precision, recall) = evaluation.precisionAndRecall(of: label)
            return [
                "class": .string(evaluation.classNames[label]), "images": .integer(row.reduce(0, +)),
                "correct": .integer(row[label]), "precision": .optional(precision), "recall": .optional(recall),
            ]
        }
        return [
            "model": .string(network.architecture.name), "images": .integer(evaluation.count),
            "top1_correct": .integer(evaluation.top1Correct), "top1": .number(evaluation.top1),
            "top5_correct": .integer(evaluation.top5Correct), "top5": .number(evaluation.top5),
            "loss": .number(evaluation.loss), "classes": .array(classes),
            "confusion": .array(evaluation.confusion.map { .array($0.map { .integer($0) }) }),
        ]
    }
}
