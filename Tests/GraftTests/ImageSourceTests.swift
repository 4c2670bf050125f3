import Foundation
import Graft
import GraftTensor
import GraftVision
import Synchronization
import Testing

/// The demo's pictures from a source that counts how often it is asked.
private final class CountingSource: ImageSource {
    enum Form: CaseIterable { case file, encoded, pixels }

    struct Missing: Error, CustomStringConvertible {
        var description: String { "the archive is closed" }
    }

    let images: [RGBImage]
    let form: Form
    let declaresIdentity: Bool
    let missing: Int?
    private let folder: URL
    private let asked = Atomic(0)

    init(_ images: [RGBImage], form: Form, declaresIdentity: Bool = false, missing: Int? = nil) throws {
        self.images = images
        self.form = form
        self.declaresIdentity = declaresIdentity
        self.missing = missing
        folder = FileManager.default.temporaryDirectory.appending(path: "graft-source-\(UUID().uuidString)")
        guard form == .file else { return }
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        for (index, image) in images.enumerated() {
            try Data(ImageCodec.encodePNG(image)).write(to: folder.appending(path: "\(index).png"))
        }
    }

    deinit { try? FileManager.default.removeItem(at: folder) }

    var askedCount: Int { asked.load(ordering: .relaxed) }

    func image(at index: Int) throws -> SourceImage {
        asked.add(1, ordering: .relaxed)
        if index == missing { throw Missing() }
        return switch form {
        case .file: .file(folder.appending(path: "\(index).png").path)
        case .encoded: .encoded(try ImageCodec.encodePNG(images[index]))
        case .pixels: .pixels(images[index])
        }
    }

    func identity(ofImageAt index: Int) -> String? { declaresIdentity ? "tests/image-source/\(index)" : nil }
}

@Suite struct ImageSourceTests {
    private static let kinds: [DemoPictures.Kind] = [.disk, .cross, .stripes]
    private static let classes = kinds.map(\.rawValue)
    private static let labels = (0..<18).map { $0 / 6 }
    private static let images: [RGBImage] = labels.enumerated().map { index, label in
        let side = DemoPictures.imageSize
        return RGBImage(width: side, height: side, pixels: DemoPictures.draw(kinds[label], index: index, seed: 9))
    }

    private static func dataset(_ source: CountingSource) -> ImageDataset {
        ImageDataset(
            source: source, samples: labels.enumerated().map { ImageSample(path: "picture \($0)", label: $1) },
            classes: classes)
    }

    private static func trainer() throws -> Trainer {
        var model = try Model("resnet8_cifar", classCount: 3, seed: 5)
        model.freeze()
        try model.unfreeze("layer3,head")
        return try Trainer(model, optimizer: .sgd(learningRate: 0.05, momentum: 0.9), device: .cpu)
    }

    private static func options(_ cache: CachePolicy = .off) -> FitOptions {
        var options = FitOptions()
        options.epochs = 2
        options.batchSize = 5
        options.cache = cache
        return options
    }

    /// Fit, evaluate, subsets and extraction give the bytes that pictures in memory give.
    @Test(arguments: CountingSource.Form.allCases) fileprivate func aSourceIsAsGoodAsMemory(_ form: CountingSource.Form)
        throws
    {
        let data = Self.dataset(try CountingSource(Self.images, form: form))
        let memory = ImageDataset(images: Self.images, labels: Self.labels, classes: Self.classes)
        #expect(data.folder == nil && data.count == 18 && data.path(of: 3) == "picture 3")
        var digests: [String] = []
        var scores: [Double] = []
        for dataset in [data, memory] {
            let trainer = try Self.trainer()
            let epochs = try trainer.fit(dataset, validation: dataset.subset([17, 0, 9]), options: Self.options())
            digests.append(try trainer.model().digest())
            scores.append(try #require(epochs.last?.validation?.loss))
            scores.append(try trainer.evaluate(dataset).loss)
        }
        #expect(digests[0] == digests[1])
        #expect(scores[0] == scores[2] && scores[1] == scores[3])

        let model = try Model("resnet8_cifar", seed: 1)
        let extractor = try FeatureExtractor(model, layers: ["avgpool"], device: .cpu)
        let features = try [data.subset([4, 2]), memory.subset([4, 2])].map { dataset in
            let loader = BatchLoader(dataset: dataset, order: [1, 0], preprocessing: model.preprocessing)
            let batch = try #require(try loader.next())
            return try extractor.features(ofPixels: batch.pixels, count: batch.count)["avgpool"]
        }
        #expect(features[0] == features[1] && features[0] != nil)
    }

    /// Later runs find the rows by content or by identity; with an identity, pictures that are there are not made.
    @Test(arguments: [false, true]) func theDiskCacheKnowsItsPictures(_ declaresIdentity: Bool) throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "graft-cache-\(UUID().uuidString)")
        defer { try? FileManager.default.removeItem(at: folder) }
        var options = Self.options(.disk)
        options.cacheFolder = folder
        var digests: Set<String> = []
        for run in 0..<2 {
            let source = try CountingSource(Self.images, form: .pixels, declaresIdentity: declaresIdentity)
            let trainer = try Self.trainer()
            var found = 0
            try trainer.fit(Self.dataset(source), options: options) { event in
                if case .uncached(let report) = event { found = report.foundCount }
            }
            digests.insert(try trainer.model().digest())
            #expect(found == (run == 0 ? 0 : 18))
            #expect(source.askedCount == (run == 0 || !declaresIdentity ? 18 : 0))
        }
        #expect(digests.count == 1)
    }

    @Test func whatASourceThrowsNamesThePicture() throws {
        let source = try CountingSource(Self.images, form: .pixels, missing: 7)
        #expect {
            try Self.trainer().fit(Self.dataset(source), options: Self.options())
        } throws: {
            "\($0)" == "picture 7: cannot be read: the archive is closed"
        }
        var options = Self.options()
        options.onBadImage = .skip
        var skipped: [Int] = []
        try Self.trainer().fit(Self.dataset(source), options: options) { event in
            if case .skipped(let image) = event { skipped.append(image.sampleIndex) }
        }
        #expect(skipped == [7, 7])
    }
}

@Suite struct TrainingRunTests {
    private static let data = Demo.pictures([.disk, .cross, .stripes], count: 8, training: true)

    private static func trainer() throws -> Trainer {
        var model = try Model("resnet8_cifar", classCount: 3, seed: 5)
        model.freeze()
        try model.unfreeze("head")
        return try Trainer(model, optimizer: .sgd(learningRate: 0.05, momentum: 0.9), device: .cpu)
    }

    private static func options(epochs: Int) -> FitOptions {
        var options = FitOptions()
        options.epochs = epochs
        options.batchSize = 6
        return options
    }

    /// What an event is, without times.
    private static func text(_ event: TrainingEvent) -> String {
        switch event {
        case .prepared(let bytes, let steps): "prepared \(bytes) \(steps)"
        case .step(let record): "step \(record.step) \(record.loss) \(record.accuracy) \(record.learningRate)"
        case .epoch(let record): "epoch \(record.epoch) \(record.trainLoss) \(record.validation?.loss ?? -1)"
        case .unfroze(let selector, let names, let epoch, let step, let groups):
            "unfroze \(selector) \(names) \(epoch) \(step) \(groups)"
        case .skipped(let image): "skipped \(image.sampleIndex)"
        default: "cache"
        }
    }

    @Test func theSequenceGivesTheEventsOfFit() async throws {
        var options = Self.options(epochs: 3)
        options.unfreezeAtEpoch = [(1, "layer3")]
        let direct = try Self.trainer()
        var expected: [String] = []
        try direct.fit(Self.data, validation: Self.data, options: options) { expected.append(Self.text($0)) }
        let trainer = try Self.trainer()
        var found: [String] = []
        for try await event in trainer.run(Self.data, validation: Self.data, options: options) {
            found.append(Self.text(event))
        }
        #expect(found == expected && found.count > 12)
        #expect(try trainer.model().digest() == direct.model().digest())
    }

    /// Within the loop the trainer is the consumer's: it stands at the step that the event tells of.
    @Test func theTrainerWaitsWhileTheLoopRuns() async throws {
        let trainer = try Self.trainer()
        var digests: Set<String> = []
        for try await event in trainer.run(Self.data, options: Self.options(epochs: 2)) {
            guard case .step(let record) = event else { continue }
            #expect(trainer.stepCount == record.step + 1)
            digests.insert(try trainer.model().digest())
            if record.step == 2 { try trainer.unfreeze("layer3.0.conv2") }
        }
        #expect(digests.count == 8)
        #expect(try trainer.model().trainable.contains("layer3.0.conv2.weight"))
    }

    /// A cancelled task ends behind its step, and its weights are those of a run of so many steps.
    @Test func cancellationEndsTheRunBehindItsStep() async throws {
        let (steps, continuation) = AsyncStream.makeStream(of: Int.self)
        let task = Task { () -> (steps: Int, digest: String, ended: String) in
            let trainer = try Self.trainer()
            var ended = "by itself"
            do {
                for try await event in trainer.run(Self.data, options: Self.options(epochs: 100_000)) {
                    if case .step(let record) = event { continuation.yield(record.step) }
                }
            } catch is CancellationError {
                ended = "cancelled"
            }
            return (trainer.stepCount, try trainer.model().digest(), ended)
        }
        for await step in steps where step >= 5 { break }
        task.cancel()
        let result = try await task.value
        #expect(result.ended == "cancelled")
        #expect(result.steps >= 6)
        let whole = try Self.trainer()
        var options = Self.options(epochs: 100_000)
        options.stepLimit = result.steps
        try whole.fit(Self.data, options: options)
        #expect(try whole.model().digest() == result.digest)
    }

    /// A loop that is left gives the trainer back at once; it trains on.
    @Test func aLoopThatIsLeftFreesTheTrainer() async throws {
        let trainer = try Self.trainer()
        for try await event in trainer.run(Self.data, options: Self.options(epochs: 1000)) {
            if case .step(let record) = event, record.step == 1 { break }
        }
        #expect(trainer.stepCount == 2)
        try trainer.fit(Self.data, options: Self.options(epochs: 1))
        #expect(trainer.stepCount == 6)
    }

    @Test func errorsComeOutOfTheLoop() async throws {
        let trainer = try Self.trainer()
        await #expect(throws: GraftError.self) {
            for try await _ in trainer.run(Self.data, options: Self.options(epochs: 0)) {}
        }
        // An answer of the caller's own is no cancellation of a task.
        var options = Self.options(epochs: 5)
        options.isCancelled = { true }
        await #expect(throws: GraftError.interrupted) {
            for try await _ in trainer.run(Self.data, options: options) {}
        }
    }

    @Test @MainActor func itKeepsTheCallersIsolation() async throws {
        let trainer = try Self.trainer()
        var losses: [Double] = []
        for try await event in trainer.run(Self.data, options: Self.options(epochs: 1)) {
            MainActor.assertIsolated()
            if case .step(let record) = event { losses.append(record.loss) }
        }
        #expect(losses.count == 4)
    }
}
