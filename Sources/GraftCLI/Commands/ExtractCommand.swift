import Graft

/// `graft extract`
enum ExtractCommand {
    static let layer = Argument.required(
        "layer", .names("A[,B]"), placeholderValue: [],
        help: "Nodes whose outputs are kept, by torchvision's names; `NAME:input` is a node's input.")
    static let out = Argument.required(
        "out", .path("F"), placeholderValue: "", help: "Features: .npz, .npy (one layer), .csv or .safetensors.")

    static let projector = Argument.optional(
        "projector", .path("DIR"), shownAs: "none", example: "projector",
        help: "Write the features for TensorBoard's embedding projector too: `tensorboard --logdir DIR` shows them.")

    static let command = Command(
        name: "extract",
        summary: "Write the outputs of inner layers for every image.",
        discussion: "Where DATA has train/ and val/ in it, the images of both are taken, train first.",
        examples: [
            "graft extract photos --model resnet18 --weights resnet18.pth --layer avgpool --out features.npz",
            "graft extract photos --model squeezenet1_1 --weights squeezenet1_1.pth \\",
            "      --layer features,classifier --out features.safetensors",
            "graft extract photos --weights run/best.safetensors --layer avgpool --out features.npz",
        ],
        groups: [
            ArgumentGroup("Data", [Shared.data, Shared.list, Shared.limit]),
            ArgumentGroup("Model", [Shared.requiredWeights, Shared.modelOfWeights, layer]),
            Shared.imageGroup,
            Shared.runGroup(seeded: false),
            ArgumentGroup("Output", [out, projector, Shared.quiet, Shared.json]),
        ],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let layers = values[layer]
        var network = try Model(values[Shared.modelOfWeights], weights: values[Shared.requiredWeights])
        NetworkRequest.announceLoading(network, values)
        try NetworkRequest.applyImages(&network, values)
        let images = try DataRequest.everything(values)
        let writer = try FeatureWriter(values[out], layers: layers, classes: images.classes)
        let extractor = try FeatureExtractor(
            network, layers: layers, device: NetworkRequest.device(values),
            batchSizes: NetworkRequest.batchSizes(count: images.count, batchSize: values[Shared.batchSize]))
        NetworkRequest.announce(extractor.deviceDescription, extractor.deviceNotes, values)
        let projectorWriter = try values[projector].map {
            try ProjectorWriter(
                $0, layers: layers, classes: images.classes, imageCount: images.count,
                imageSize: network.preprocessing.imageSize)
        }

        var shapes: [String: [Int]] = [:]
        var count = 0
        try DataRequest.forEachBatch(images, network, values, title: "extract") { batch in
            let features = try extractor.features(ofPixels: batch.pixels, count: batch.count)
            for (name, tensor) in features { shapes[name] = Array(tensor.shape.dimensions.dropFirst()) }
            count += batch.count
            try writer.append(
                features, labels: batch.labels, paths: batch.sampleIndices.map { images.samples[$0].path })
            try projectorWriter?.append(
                features, labels: batch.labels, paths: batch.sampleIndices.map { images.samples[$0].path },
                pixels: batch.pixels)
        }
        try writer.finish()
        if let projectorWriter {
            try projectorWriter.finish()
            NetworkRequest.note("tensorboard --logdir \(projectorWriter.folder) shows the features", values)
        }
        if values[Shared.json] {
            let arrays = layers.map {
                (key: $0, value: JSON.array(([count] + (shapes[$0] ?? [])).map { .integer($0) }))
            }
            let result: JSON = [
                "model": .string(network.architecture.name), "images": .integer(count),
                "device": .string(extractor.deviceDescription.selector), "layers": .object(arrays),
                "file": .string(writer.path),
            ]
            try Console.result(result.pretty() + "\n")
        } else {
            let texts = layers.map { name in
                "\(name) " + ([count] + (shapes[name] ?? [])).map(String.init).joined(separator: "×")
            }
            try Console.result("\(writer.path): \(texts.joined(separator: ", "))\n")
        }
    }
}
