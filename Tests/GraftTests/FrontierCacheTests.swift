import Foundation
import Graft
import GraftGraph
import GraftTensor
import GraftVision
import Testing

/// What a run reported of its cache.
private struct CacheLog {
    var began: [CacheReport] = []
    var ended: [CacheReport] = []
}

private func pictures(_ count: Int, held: Bool = false) -> ImageDataset {
    Demo.pictures([.disk, .cross, .stripes], count: count, training: !held)
}

/// A run and what it left: every tensor, the losses, the validation losses.
private func run(
    _ policy: CachePolicy, device: String, trainable: String, statistics: FrozenStatistics = .keep,
    data: ImageDataset = pictures(7), validation: ImageDataset = pictures(5, held: true),
    configure: (inout FitOptions) -> Void = { _ in }
) throws -> (state: StateDictionary, losses: [Double], log: CacheLog) {
    var model = try Model("resnet8_cifar", classCount: data.classes.count, seed: 5)
    model.freeze()
    try model.unfreeze(trainable)
    let trainer = try Trainer(
        model, optimizer: .sgd(learningRate: 0.05), device: Device(device), frozenStatistics: statistics, seed: 4)
    var options = FitOptions()
    options.epochs = 3
    options.batchSize = 6
    options.cache = policy
    configure(&options)
    var losses: [Double] = []
    var log = CacheLog()
    let epochs = try trainer.fit(data, validation: validation, options: options) { event in
        switch event {
        case .step(let record): losses.append(record.loss)
        case .caching(let report): log.began.append(report)
        case .uncached(let report): log.ended.append(report)
        case .prepared, .unfroze, .skipped, .epoch, .cacheUnavailable, .stoppedEarly, .state: break
        }
    }
    return (try trainer.model().state, losses + epochs.compactMap(\.validation?.loss), log)
}

@Suite struct FrontierCacheTests {
    @Test(arguments: parityDevices)
    func aKeptHeadRunIsTheSameRun(_ device: String) throws {
        let plain = try run(.off, device: device, trainable: "head")
        let kept = try run(.memory, device: device, trainable: "head")
        #expect(kept.state == plain.state)
        #expect(kept.losses == plain.losses)
        #expect(plain.log.began.isEmpty)
        #expect(kept.log.began.map(\.layers) == [["flatten"]])
        #expect(kept.log.began.map(\.imageCount) == [21 + 15])
        // Two of three epochs read every image again.
        #expect(kept.log.ended.map(\.sparedEvaluationCount) == [2 * 36])
    }

    @Test(arguments: parityDevices)
    func unfreezingMovesTheFrontier(_ device: String) throws {
        func unfrozen(_ policy: CachePolicy) throws -> (state: StateDictionary, losses: [Double], log: CacheLog) {
            try run(policy, device: device, trainable: "head") { options in
                options.epochs = 5
                options.unfreezeAtEpoch = [(2, "layer3")]
            }
        }
        let plain = try unfrozen(.off)
        let kept = try unfrozen(.auto)
        #expect(kept.state == plain.state)
        #expect(kept.losses == plain.losses)
        #expect(kept.log.began.count == 2)
        #expect(kept.log.began.first?.layers == ["flatten"])
        #expect(kept.log.began.last?.layers != ["flatten"])
        #expect(kept.log.ended.count == 2)
    }

    @Test func unfreezingInMidEpochGoesOnFromTheNewFrontier() throws {
        func unfrozen(_ policy: CachePolicy) throws -> (state: StateDictionary, losses: [Double], log: CacheLog) {
            try run(policy, device: "cpu", trainable: "head") { options in
                // Four steps an epoch: in the middle of the second, and down to the image in the third.
                options.unfreezeAtStep = [(5, "layer3"), (10, "all")]
                options.dropsLast = true
                options.epochs = 4
            }
        }
        let plain = try unfrozen(.off)
        let kept = try unfrozen(.memory)
        #expect(kept.state == plain.state)
        #expect(kept.losses == plain.losses)
        #expect(kept.log.began.count == 2)
    }

    @Test(arguments: parityDevices)
    func keptViewsAreTheViewsThatWouldBeMade(_ device: String) throws {
        func viewed(_ policy: CachePolicy, _ views: Int?) throws -> (
            state: StateDictionary, losses: [Double], log: CacheLog
        ) {
            try run(policy, device: device, trainable: "head") { options in
                options.augmentation = .standard
                options.cachedViews = views
                options.epochs = 5
            }
        }
        let plain = try viewed(.off, 2)
        let kept = try viewed(.memory, 2)
        #expect(kept.state == plain.state)
        #expect(kept.losses == plain.losses)
        #expect(kept.log.began.map(\.imageCount) == [2 * 21 + 15])
        // Three epochs read views that an earlier one made, four the validation images.
        #expect(kept.log.ended.map(\.sparedEvaluationCount) == [3 * 21 + 4 * 15])
        // Views differ from each other, and without a number every epoch has one of its own.
        let single = try viewed(.memory, 1)
        let endless = try viewed(.memory, nil)
        #expect(single.state != kept.state)
        #expect(endless.state != kept.state)
        #expect(endless.log.began.isEmpty)
    }

    @Test func viewsWithoutAugmentationAreRefused() throws {
        #expect(throws: GraftError.self) { try run(.auto, device: "cpu", trainable: "head") { $0.cachedViews = 2 } }
    }

    @Test func unreadableImagesAreLeftOutAlike() throws {
        let folder = NSTemporaryDirectory() + "graft-cache-\(UInt64.random(in: 0 ... .max))"
        defer { try? FileManager.default.removeItem(atPath: folder) }
        try Demo.writePictures(to: folder, countPerClass: 5, grafted: true)
        let data = try ImageDataset(folder: folder + "/train")
        // The second batch of three is bad as a whole, the third in part, and so is the end.
        for index in [3, 4, 5, 7, data.count - 1] {
            try Data("no image".utf8).write(to: URL(fileURLWithPath: data.path(of: index)))
        }
        let validation = try ImageDataset(folder: folder + "/val")
        func skipping(_ policy: CachePolicy) throws -> (state: StateDictionary, losses: [Double], log: CacheLog) {
            try run(policy, device: "cpu", trainable: "head", data: data, validation: validation) { options in
                options.onBadImage = .skip
                options.batchSize = 3
                options.shuffles = false
            }
        }
        let plain = try skipping(.off)
        let kept = try skipping(.memory)
        #expect(kept.state == plain.state)
        #expect(kept.losses == plain.losses)
    }

    @Test func whatIsNotWorthKeepingIsNotKept() throws {
        #expect(try run(.auto, device: "cpu", trainable: "all").log.began.isEmpty)
        #expect(try run(.auto, device: "cpu", trainable: "head", statistics: .track).log.began.isEmpty)
        #expect(
            try run(.auto, device: "cpu", trainable: "head") { $0.augmentation = .flip }.log.began.isEmpty,
            "pictures that change have no outputs to keep")
        #expect(try run(.auto, device: "cpu", trainable: "head") { $0.epochs = 1 }.log.began.isEmpty)
    }
}
