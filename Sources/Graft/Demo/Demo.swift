import Foundation
import GraftCheckpoint
import GraftTensor
import GraftVision

/// The embedded default: a small network that Graft trained on pictures it drew itself, grafted to other classes.
///
/// Both recipes in about a minute, with nothing from outside: features and a nearest-neighbour look, then fine-tuning
/// with an unfreeze.
public enum Demo {
    /// What a run found.
    public struct Result: Sendable {
        /// The embedded network on unseen pictures of its own ten classes.
        public let ownAccuracy: Double
        /// Nearest neighbours in raw pixels, on unseen pictures of the five other classes.
        public let pixelAccuracy: Double
        /// Nearest neighbours in the frozen network's features, on the same pictures.
        public let featureAccuracy: Double
        /// The grafted head before it was trained.
        public let accuracyBefore: Double
        /// The head alone trained.
        public let headAccuracy: Double
        /// The head and `layer3` trained.
        public let accuracyAfter: Double
        /// The device that computed.
        public let device: DeviceDescription
        /// Wall time.
        public let seconds: Double
    }

    /// Name of the embedded network's architecture.
    public static let architecture = "resnet8_cifar"
    private static let seed: UInt64 = 2026
    /// Pictures from this index on are never trained on.
    private static let heldOutIndex = 1_000_000

    /// The embedded network with its ten classes.
    public static func model() throws -> Model {
        try Model(
            checkpoint: CheckpointReader.load(bytes: EmbeddedWeights.bytes, name: "embedded demo weights"),
            name: architecture, path: "embedded demo weights")
    }

    /// Labelled pictures: `training` ones have other indices than the rest.
    public static func pictures(_ kinds: [DemoPictures.Kind], count: Int, training: Bool) -> ImageDataset {
        var images: [RGBImage] = []
        for kind in kinds {
            for index in 0..<count { images.append(picture(kind, index: (training ? 0 : heldOutIndex) + index)) }
        }
        return ImageDataset(
            images: images, labels: images.indices.map { $0 / max(count, 1) }, classes: kinds.map(\.rawValue))
    }

    private static func picture(_ kind: DemoPictures.Kind, index: Int) -> RGBImage {
        let size = DemoPictures.imageSize
        return RGBImage(width: size, height: size, pixels: DemoPictures.draw(kind, index: index, seed: seed))
    }

    /// Runs the demo.
    ///
    /// - Parameters:
    ///   - device: where to compute.
    ///   - report: gets one line of text at a time.
    ///   - warn: gets the warning when a better device had to be passed over; nil gives it to `report`.
    /// - Returns: the accuracies, the device and the time.
    /// - Throws: `DeviceError` when the device cannot be used.
    public static func run(
        device: Device = .auto, report: (String) -> Void = { _ in }, warn: ((String) -> Void)? = nil
    ) throws -> Result {
        let start = Date()
        let pretrained = try model()
        func percent(_ value: Double) -> String { String(format: "%5.1f %%", value * 100) }

        let own = pictures(DemoPictures.pretrainingKinds, count: 50, training: false)
        let classifier = try FeatureExtractor(pretrained, layers: ["logits"], device: device, batchSizes: [50])
        let notes = classifier.deviceNotes
        report(
            "device: \(classifier.deviceDescription.name) (\(classifier.deviceDescription.selector)), \(notes.reason)")
        if let warning = notes.warning {
            if let warn { warn(warning) } else { report("warning: \(warning)") }
        }
        var evaluation = Evaluation(classNames: own.classes)
        try forEachBatch(own, pretrained) { batch in
            guard let logits = try classifier.features(ofPixels: batch.pixels, count: batch.labels.count)["logits"]
            else { return }
            try evaluation.add(logits: logits, labels: batch.labels)
        }
        let parameterCount = pretrained.architecture.parameterCount(classCount: pretrained.classCount)
        report(
            "embedded network: \(architecture), \(parameterCount) parameters, trained on \(own.classes.joined(separator: ", "))"
        )
        report("  on \(own.count) unseen pictures of these classes     \(percent(evaluation.top1))")

        let training = pictures(DemoPictures.graftedKinds, count: 40, training: true)
        let held = pictures(DemoPictures.graftedKinds, count: 100, training: false)
        report(
            "other classes: \(training.classes.joined(separator: ", ")); \(training.count) pictures to learn from, \(held.count) unseen ones to test"
        )

        report("recipe 1, feature extraction (frozen network, avgpool, 64 numbers a picture):")
        let extractor = try FeatureExtractor(pretrained, layers: ["avgpool"], device: device, batchSizes: [50])
        let known = try features(training, pretrained, extractor)
        let unknown = try features(held, pretrained, extractor)
        func agreement(_ predictions: [Int32]) -> Double {
            Double(zip(predictions, held.samples).filter { Int($0) == $1.label }.count) / Double(held.count)
        }
        let pixelAccuracy = agreement(
            try NearestNeighbours(features: pixelFeatures(training, pretrained), labels: labels(training)).predict(
                pixelFeatures(held, pretrained), neighbours: 5))
        let featureAccuracy = agreement(
            try NearestNeighbours(features: known, labels: labels(training)).predict(unknown, neighbours: 5))
        report("  5 nearest neighbours in raw pixels              \(percent(pixelAccuracy))")
        report("  5 nearest neighbours in the network's features  \(percent(featureAccuracy))")

        report(
            "recipe 2, partial fine-tuning (new head for \(training.classes.count) classes; layer3 joins at epoch 10):")
        var grafted = pretrained
        grafted.freeze()
        try grafted.replaceHead(classCount: training.classes.count, seed: seed)
        let trainer = try Trainer(
            grafted, optimizer: .sgd(learningRate: 0.05, momentum: 0.9), device: device, seed: seed)
        let before = try trainer.evaluate(held, batchSize: 50)
        report("  before training                                 \(percent(before.top1))")
        var options = FitOptions()
        options.epochs = 20
        options.batchSize = 25
        options.schedule = .step(epochs: 16, factor: 0.2)
        options.unfreezeAtEpoch = [(10, "layer3")]
        var head = 0.0
        let epochs = try trainer.fit(training, validation: held, options: options) { event in
            switch event {
            case .epoch(let record):
                let accuracy = record.validation?.top1 ?? 0
                if record.epoch == 9 {
                    head = accuracy
                    report("  head alone, 10 epochs                           \(percent(accuracy))")
                }
            case .unfroze(let selector, let names, let epoch, _, _):
                report("  epoch \(epoch): \(selector) unfrozen (\(names.count) tensors)")
            case .prepared, .caching, .uncached, .cacheUnavailable, .step, .skipped, .stoppedEarly, .state: break
            }
        }
        let after = epochs.last?.validation?.top1 ?? 0
        let seconds = Date().timeIntervalSince(start)
        report("  head and layer3, 10 more epochs                 \(percent(after))")
        report(String(format: "%.1f seconds in all", seconds))
        return Result(
            ownAccuracy: evaluation.top1, pixelAccuracy: pixelAccuracy, featureAccuracy: featureAccuracy,
            accuracyBefore: before.top1, headAccuracy: head, accuracyAfter: after,
            device: classifier.deviceDescription, seconds: seconds)
    }

    /// Writes the pictures as PNG in class folders: what the embedded network was trained on (`train`, `val`), or with
    /// `grafted` the other classes.
    ///
    /// - Returns: the number of files.
    @discardableResult
    public static func writePictures(to folder: String, countPerClass: Int, grafted: Bool = false) throws -> Int {
        var written = 0
        let kinds = grafted ? DemoPictures.graftedKinds : DemoPictures.pretrainingKinds
        for (part, count, first) in [("train", countPerClass, 0), ("val", max(countPerClass / 8, 1), heldOutIndex)] {
            for kind in kinds {
                let path = "\(folder)/\(part)/\(kind.rawValue)"
                do {
                    try createFolder(path)
                } catch {
                    throw GraftError.outputFailed("cannot create the folder \(path): \(systemReason(of: error))")
                }
                for index in 0..<count {
                    let image = picture(kind, index: first + index)
                    let digits = String(index)
                    let name = String(repeating: "0", count: max(0, 5 - digits.count)) + digits
                    try AtomicFile.write(try ImageCodec.encodePNG(image), to: "\(path)/\(name).png")
                    written += 1
                }
            }
        }
        return written
    }

    private static func labels(_ data: ImageDataset) -> [Int32] { data.samples.map { Int32($0.label) } }

    private static func forEachBatch(_ data: ImageDataset, _ model: Model, _ body: (ImageBatch) throws -> Void) throws {
        let batches = BatchLoader(
            dataset: data, order: Array(0..<data.count), preprocessing: model.preprocessing,
            options: BatchLoaderOptions(batchSize: 50))
        while let batch = try batches.next() { try body(batch) }
    }

    private static func features(_ data: ImageDataset, _ model: Model, _ extractor: FeatureExtractor) throws
        -> HostTensor
    {
        var rows: [Float] = []
        try forEachBatch(data, model) { batch in
            rows += try extractor.features(ofPixels: batch.pixels, count: batch.count)["avgpool"]?.floats ?? []
        }
        return HostTensor([data.count, rows.count / data.count], rows)
    }

    /// Pixels around their mean, as a baseline that knows nothing.
    private static func pixelFeatures(_ data: ImageDataset, _ model: Model) throws -> HostTensor {
        var rows: [Float] = []
        try forEachBatch(data, model) { rows += $0.pixels.map { Float($0) / 255 - 0.5 } }
        return HostTensor([data.count, rows.count / data.count], rows)
    }
}
