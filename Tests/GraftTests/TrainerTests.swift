import Foundation
import Graft
import GraftGraph
import GraftTensor
import GraftVision
import Testing

/// Small pictures that the demo draws, of three classes.
private func pictures(_ count: Int, held: Bool = false) -> ImageDataset {
    Demo.pictures([.disk, .cross, .stripes], count: count, training: !held)
}

private func smallModel() throws -> Model {
    var model = try Model("resnet8_cifar", classCount: 3, seed: 5)
    model.freeze()
    return model
}

@Suite struct TrainerTests {
    @Test(arguments: FrozenStatistics.allCases, parityDevices)
    func validationDuringTrainingIsThatOfTheSavedWeights(_ statistics: FrozenStatistics, device: String) throws {
        var model = try smallModel()
        try model.unfreeze("layer3.0.conv2,linear")
        let trainer = try Trainer(
            model, optimizer: .sgd(learningRate: 0.05), device: Device(device), frozenStatistics: statistics)
        var options = FitOptions()
        options.epochs = 2
        options.batchSize = 7
        let epochs = try trainer.fit(pictures(8), validation: pictures(6, held: true), options: options)
        let during = try #require(epochs.last?.validation)
        let extractor = try FeatureExtractor(trainer.model(), layers: ["logits"], device: Device(device))
        var after = Evaluation(classNames: during.classNames)
        let batches = BatchLoader(
            dataset: pictures(6, held: true), order: Array(0..<18), preprocessing: model.preprocessing,
            options: BatchLoaderOptions(batchSize: 7))
        while let batch = try batches.next() {
            let logits = try #require(try extractor.features(ofPixels: batch.pixels, count: batch.count)["logits"])
            try after.add(logits: logits, labels: batch.labels)
        }
        #expect(abs(during.loss - after.loss) <= 1e-4 * abs(after.loss))
        #expect(during.top1Correct == after.top1Correct)
    }

    @Test func theSameRunGivesTheSameBytesOnAnyNumberOfThreads() throws {
        func run(threads: Int) throws -> StateDictionary {
            var model = try smallModel()
            try model.unfreeze("layer2,layer3,linear")
            let trainer = try Trainer(
                model, optimizer: .adamW(learningRate: 0.01), device: Device("cpu", threadCount: threads), seed: 9)
            var options = FitOptions()
            options.epochs = 2
            options.batchSize = 10
            options.augmentation = .standard
            options.workerCount = threads
            try trainer.fit(pictures(8), options: options)
            return try trainer.model().state
        }
        let once = try run(threads: 1)
        #expect(try run(threads: 1) == once)
        #expect(try run(threads: 3) == once)
    }

    @Test func unfreezingKeepsTheOptimizersState() throws {
        // Unfreezing something that gets no gradient of its own must not disturb what trains: here, re-preparing the
        // engine for another batch size in mid-run.
        func run(interrupted: Bool) throws -> StateDictionary {
            var model = try smallModel()
            try model.unfreeze("linear")
            let trainer = try Trainer(model, optimizer: .adam(learningRate: 0.01), device: .cpu)
            let data = pictures(8)
            let loader = BatchLoader(
                dataset: data, order: Array(0..<24), preprocessing: model.preprocessing,
                options: BatchLoaderOptions(batchSize: 8))
            while let batch = try loader.next() {
                _ = try trainer.step(pixels: batch.pixels, labels: batch.labels)
                if interrupted { _ = try trainer.logits(ofPixels: Array(batch.pixels.prefix(3 * 3072)), count: 3) }
            }
            return try trainer.model().state
        }
        #expect(try run(interrupted: false) == run(interrupted: true))
    }

    @Test func momentumOfTheHeadSurvivesAnUnfreezing() throws {
        // By hand: w −= lr·b with b = momentum·b + g. With a zero learning rate for the new layer's first step the head
        // moves as if nothing had been unfrozen.
        var model = try smallModel()
        try model.unfreeze("linear")
        let data = pictures(8)
        func batch() throws -> ImageBatch {
            let loader = BatchLoader(
                dataset: data, order: Array(0..<24), preprocessing: model.preprocessing,
                options: BatchLoaderOptions(batchSize: 24))
            return try #require(try loader.next())
        }
        let images = try batch()
        func heads(unfreezing: Bool) throws -> [Float] {
            let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.05, momentum: 0.9), device: .cpu)
            for _ in 0..<3 { _ = try trainer.step(pixels: images.pixels, labels: images.labels) }
            if unfreezing { #expect(try trainer.unfreeze("layer3.0.conv2") == ["layer3.0.conv2.weight"]) }
            // The first step behind the unfreezing sees the same forward pass (conv2 alone trains, its norm stays
            // frozen), so the head's update is the same if its momentum was kept.
            _ = try trainer.step(pixels: images.pixels, labels: images.labels)
            return try #require(try trainer.model().state["linear.weight"]?.floats)
        }
        let plain = try heads(unfreezing: false)
        let unfrozen = try heads(unfreezing: true)
        #expect(zip(plain, unfrozen).allSatisfy { abs($0 - $1) <= 1e-5 * max(1, abs($0)) })
    }

    @Test func anUnfreezingThatNeverHappensIsRefused() throws {
        var model = try smallModel()
        try model.unfreeze("head")
        var options = FitOptions()
        options.epochs = 1
        options.unfreezeAtEpoch = [(1, "layer3")]
        #expect(throws: GraftError.self) { try Trainer(model, device: .cpu).fit(pictures(4), options: options) }
        options.unfreezeAtEpoch = []
        options.unfreezeAtStep = [(1, "layer3")]
        #expect(throws: GraftError.self) { try Trainer(model, device: .cpu).fit(pictures(4), options: options) }
    }

    @Test func aPlanThatCannotBeEndsARunBeforeItsFirstStep() throws {
        // A last batch of one image has one value per channel behind layer3 at 4 pixels.
        var model = try smallModel()
        model.preprocessing = try ImagePreprocessing(imageSize: 4, resize: 4)
        try model.unfreeze("head")
        var options = FitOptions()
        options.epochs = 2
        options.batchSize = 11
        options.unfreezeAtEpoch = [(1, "layer3")]
        var steps = 0
        #expect(throws: GraphError.self) {
            try Trainer(model, device: .cpu).fit(pictures(4), options: options) { event in
                if case .step = event { steps += 1 }
            }
        }
        #expect(steps == 0)
    }

    @Test func sizesBeyondReasonAreErrorsAndNotTraps() throws {
        #expect(throws: GraftError.self) { try Model("resnet8_cifar", classCount: .max) }
        #expect(throws: GraftError.self) { try ModelSummary(smallModel(), batchSize: .max) }
        var model = try smallModel()
        #expect(throws: GraftError.self) { try model.replaceHead(classCount: .max) }
        try model.unfreeze("head")
        var options = FitOptions()
        options.epochs = .max
        options.warmupSteps = .max
        options.stepLimit = 2
        let epochs = try Trainer(model, device: .cpu).fit(pictures(4), options: options)
        #expect(epochs.count == 2)
    }

    @Test func weightsThatAreNotFiniteAreNotSaved() throws {
        var model = try smallModel()
        let folder = try RunFolder(NSTemporaryDirectory() + "graft-finite-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(atPath: folder.path) }
        try folder.save(model)
        let before = try Data(contentsOf: URL(fileURLWithPath: folder.path + "/last.safetensors"))
        try model.replaceState(StateDictionary([("linear.bias", HostTensor([3], [0, .nan, 0]))]))
        #expect(throws: GraftError.diverged(epoch: 0, step: 0)) { try folder.save(model) }
        #expect(try Data(contentsOf: URL(fileURLWithPath: folder.path + "/last.safetensors")) == before)
    }

    @Test func labelsOutsideTheHeadAreRefused() throws {
        var model = try smallModel()
        try model.unfreeze("head")
        let trainer = try Trainer(model, device: .cpu)
        let pixels = [UInt8](repeating: 0, count: 3072)
        #expect(throws: GraftError.self) { try trainer.step(pixels: pixels, labels: [3]) }
        #expect(throws: GraftError.self) { try trainer.step(pixels: pixels, labels: []) }
        #expect(throws: GraphError.nothingToTrain) { try Trainer(smallModel(), device: .cpu) }
    }

    @Test func schedules() {
        func factors(_ schedule: LearningRateSchedule, warmup: Int = 0) -> [Double] {
            (0..<6).map { schedule.factor(step: $0, totalSteps: 6, stepsPerEpoch: 2, warmupSteps: warmup) }
        }
        #expect(factors(.constant) == [1, 1, 1, 1, 1, 1])
        #expect(factors(.step(epochs: 1, factor: 0.5)) == [1, 1, 0.5, 0.5, 0.25, 0.25])
        #expect(abs(factors(.cosine)[3] - 0.5) < 1e-12)
        #expect(factors(.constant, warmup: 3)[0] == 0.25)
        // The schedule proper starts behind the warm-up.
        #expect(factors(.step(epochs: 1, factor: 0.5), warmup: 2)[2...] == [1, 1, 0.5, 0.5])
    }
}
