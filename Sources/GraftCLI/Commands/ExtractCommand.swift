import Graft

/// `graft extract`
enum ExtractCommand {
    static let layer = Argument.required(
        "layer", .layers("A[,B]"), placeholderValue: [],
        help: "Nodes whose outputs are kept, by torchvision's names; `NAME:input` is a node's input.")
    static let out = Argument.required(
        "out", .path("F"), placeholderValue: "", help: "Features: .npz, .npy (one layer), .csv or .safetensors.")

    static let pool = Argument.option(
        "pool", .choice("average", "max", "none"), default: "none",
        help: "Reduce maps to one number a channel: the mean or the largest value over height and width.")
    static let resume = Argument.flag(
        "resume", help: "Go on with an interrupted extraction to the same file: the result has the same bytes.")

    static let projector = Argument.optional(
        "projector", .path("DIR"), shownAs: "none", example: "projector",
        help: "Write the features for TensorBoard's embedding projector too.")

    static let command = Command(
        name: "extract",
        summary: "Write the outputs of inner layers for every image.",
        discussion: """
            Where DATA has train/ and val/ in it, the images of both are taken, train first. Features wait on the disk, in \
            F.partial, so that memory does not grow with their number and an interrupted extraction can go on.
            """,
        examples: [
            "graft extract photos --model resnet18 --weights hub --layer avgpool --out features.npz",
            "graft extract photos --model squeezenet1_1 --weights squeezenet1_1.pth \\",
            "      --layer features,classifier --out features.safetensors",
            "graft extract photos --weights run/best.safetensors --layer avgpool --out features.npz",
            "graft extract photos --weights best.safetensors --layer layer3 --pool average --out f.npz --resume",
        ],
        groups: [
            ArgumentGroup("Data", [Shared.data, Shared.list, Shared.limit]),
            ArgumentGroup("Model", [Shared.requiredWeights, Shared.offline, Shared.modelOfWeights, layer, pool]),
            Shared.imageGroup,
            Shared.runGroup(seeded: false),
            ArgumentGroup("Output", [out, resume, projector, Shared.quiet, Shared.json]),
        ],
        validate: { values throws(UsageError) in
            if values[resume], values.isGiven(projector) {
                throw UsageError(
                    "--projector needs the images from the first one on and does not go with --resume; leave one of "
                        + "them out")
            }
        },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let layers = values[layer]
        var network = try NetworkRequest.model(values)
        try NetworkRequest.applyImages(&network, values)
        let pooling = FeaturePooling(rawValue: values[pool]) ?? .none
        let images = try DataRequest.everything(values)
        let path = values[out]
        _ = try FeatureWriter.Format(path: path, layerCount: layers.count)
        let extractor = try FeatureExtractor(
            network, layers: layers, pooling: pooling, device: NetworkRequest.device(values),
            batchSizes: NetworkRequest.batchSizes(count: images.count, batchSize: values[Shared.batchSize]))
        NetworkRequest.announce(extractor.deviceDescription, extractor.deviceNotes, values)

        let projectorWriter = try values[projector].map {
            try ProjectorWriter(
                $0, layers: layers, classes: images.classes, imageCount: images.count,
                imageSize: network.preprocessing.imageSize)
        }
        let isDropped = FeatureWriter.hasPartialWork(for: path) && !values[resume]
        let writer = try FeatureWriter(
            path, layers: layers, classes: images.classes, origin: FeatureOrigin(network, pooling: pooling),
            request: request(images, extractor.deviceDescription, values), resumes: values[resume])
        if isDropped {
            Console.warning(
                "\(path) was begun before and interrupted; that work is dropped, which --resume would have gone on with"
            )
        }
        if values[resume] {
            NetworkRequest.note(
                writer.imageCount > 0
                    ? "going on behind \(writer.imageCount) images" : "nothing to go on with: from the first image",
                values)
        }
        do {
            try DataRequest.forEachBatch(
                images, network, values, title: "extract", firstBatch: writer.nextBatch, knownCount: writer.imageCount
            ) { batch in
                let features = try extractor.features(ofPixels: batch.pixels, count: batch.count)
                try writer.append(
                    features, labels: batch.labels, paths: batch.sampleIndices.map { images.samples[$0].path },
                    batch: batch.index)
                try projectorWriter?.append(
                    features, labels: batch.labels, paths: batch.sampleIndices.map { images.samples[$0].path },
                    pixels: batch.pixels)
            }
            try writer.finish()
        } catch {
            if writer.imageCount > 0, let partial = writer.partialPath {
                NetworkRequest.note(
                    "\(writer.imageCount) images are kept in \(partial); the same command with --resume goes on", values
                )
            }
            throw error
        }
        if let projectorWriter {
            try projectorWriter.finish()
            NetworkRequest.note("tensorboard --logdir \(projectorWriter.folder) shows the features", values)
        }
        let shapes = layers.map { (name: $0, extents: writer.shape(of: $0)?.dimensions ?? []) }
        if values[Shared.json] {
            let arrays = shapes.map { (key: $0.name, value: JSON.array($0.extents.map { .integer($0) })) }
            let result: JSON = [
                "model": .string(network.architecture.name), "images": .integer(writer.imageCount),
                "device": .string(extractor.deviceDescription.selector), "layers": .object(arrays),
                "file": .string(writer.path),
            ]
            try Console.result(result.pretty() + "\n")
        } else {
            let texts = shapes.map { "\($0.name) " + $0.extents.map(String.init).joined(separator: "×") }
            try Console.result("\(writer.path): \(texts.joined(separator: ", "))\n")
        }
    }

    /// What the features depend on besides network, preprocessing and layers; the names are those of the options.
    private static func request(
        _ images: ImageDataset, _ device: DeviceDescription, _ values: ArgumentValues
    ) throws -> [String: String] {
        [
            "images": try images.listDigest(), "--batch-size": "\(values[Shared.batchSize])",
            "--device": "\(device.name) (\(device.kernelClass))", "--exact": "\(values[Shared.exact])",
            "--fast-decode": "\(values[Shared.fastDecode])",
        ]
    }
}
