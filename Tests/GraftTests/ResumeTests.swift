import Foundation
import GraftCheckpoint
import GraftGraph
import GraftTensor
import GraftVision
import Synchronization
import Testing

@testable import Graft

private func pictures(_ count: Int, held: Bool = false) -> ImageDataset {
    Demo.pictures([.disk, .cross, .stripes], count: count, training: !held)
}

/// A run that can be made again: its network, its trainer's options, its walk through the data.
struct ResumeRecipe: Sendable, CustomTestStringConvertible {
    var name: String
    var architecture = "resnet8_cifar"
    var trainable = "head"
    var optimizer = Optimizer.sgd(learningRate: 0.05)
    var statistics = FrozenStatistics.keep
    var groups = ParameterGroups()
    var clipNorm: Double?
    var averageDecay: Double?
    var configure: @Sendable (inout FitOptions) -> Void = { _ in }

    var testDescription: String { name }

    /// 21 images in batches of 6: four steps an epoch, the last one of three images.
    static let all: [ResumeRecipe] = [
        ResumeRecipe(name: "head, kept in memory") { $0.cache = .memory },
        ResumeRecipe(name: "Adam, unfreezing at an epoch", optimizer: .adam(learningRate: 0.01)) {
            $0.unfreezeAtEpoch = [(1, "layer3")]
        },
        ResumeRecipe(name: "momentum, unfreezing at a step, kept in memory") {
            $0.unfreezeAtStep = [(2, "layer3"), (5, "layer2")]
            $0.cache = .memory
        },
        ResumeRecipe(
            name: "everything, AdamW, cosine and warm-up", trainable: "all", optimizer: .adamW(learningRate: 0.01)
        ) {
            $0.schedule = .cosine
            $0.warmupSteps = 3
        },
        ResumeRecipe(name: "statistics that follow, no order, flips", statistics: .track) {
            $0.augmentation = .flip
            $0.shuffles = false
        },
        ResumeRecipe(name: "two kept views") {
            $0.augmentation = .standard
            $0.cachedViews = 2
            $0.cache = .memory
        },
        ResumeRecipe(name: "dropout", architecture: "squeezenet1_1", optimizer: .adam(learningRate: 0.001)) {
            $0.dropsLast = true
        },
        ResumeRecipe(
            name: "average, groups, clipping, accumulation, unfreezing", trainable: "layer3,linear",
            optimizer: .adam(learningRate: 0.01),
            groups: ParameterGroups(rates: [.init("linear", 0.02)], layerDecay: 0.5),
            clipNorm: 0.5, averageDecay: 0.8
        ) {
            $0.accumulatedBatches = 2
            $0.unfreezeAtEpoch = [(1, "layer2")]
        },
        ResumeRecipe(
            name: "average of the head before its first unfreezing, kept in memory", averageDecay: 0.5
        ) {
            $0.unfreezeAtStep = [(5, "layer3")]
            $0.cache = .memory
        },
        ResumeRecipe(name: "plateau and early stopping", optimizer: .sgd(learningRate: 2)) {
            $0.epochs = 8
            $0.schedule = .plateau(factor: 0.3, patience: 0)
            $0.earlyStopPatience = 3
        },
        ResumeRecipe(name: "one cycle, mixing, RandAugment, balanced") {
            $0.schedule = .oneCycle()
            $0.augmentation = .strong
            $0.mixup = 0.4
            $0.cutMix = 1
            $0.sampler = .balanced
        },
    ]
}

/// What a run, or a part of it, left.
private struct Outcome {
    var state: StateDictionary
    var losses: [Int: Double] = [:]
    var epochs: [Int: [Double]] = [:]
    var saved: TrainingState?
}

/// A run, from the start or from a state, to its end or until so many steps are done.
private func run(
    _ recipe: ResumeRecipe, device: String = "cpu", threads: Int? = nil, from state: TrainingState? = nil,
    until stepCount: Int? = nil, data: ImageDataset = pictures(7), validation: ImageDataset? = pictures(4, held: true),
    epochs: Int = 3, interval: Double? = 1000, configure: (inout FitOptions) -> Void = { _ in },
    onEvent: (TrainingEvent, Trainer) throws -> Void = { _, _ in }
) throws -> Outcome {
    var model = try Model(recipe.architecture, classCount: data.classes.count, seed: 5)
    if recipe.architecture == "squeezenet1_1" {
        model.preprocessing = try ImagePreprocessing(imageSize: 33, resize: 33)
    }
    model.freeze()
    try model.unfreeze(recipe.trainable)
    let trainer = try Trainer(
        model, optimizer: recipe.optimizer, device: Device(device, threadCount: threads),
        frozenStatistics: recipe.statistics, seed: 4, groups: recipe.groups, clipNorm: recipe.clipNorm,
        averageDecay: recipe.averageDecay)
    var options = FitOptions()
    options.epochs = epochs
    options.batchSize = 6
    options.stateIntervalSeconds = interval
    options.workerCount = threads ?? 2
    recipe.configure(&options)
    configure(&options)
    var outcome = Outcome(state: StateDictionary())
    let flag = Flag()
    options.isCancelled = { flag.isSet }
    do {
        try trainer.fit(data, validation: validation, options: options, resuming: state) { event in
            switch event {
            case .step(let record):
                outcome.losses[record.step] = record.loss
                if record.step + 1 == stepCount { flag.set() }
            case .epoch(let record):
                outcome.epochs[record.epoch] =
                    [record.trainLoss, record.trainAccuracy]
                    + [record.validation?.loss, record.averagedValidation?.loss].compactMap(\.self)
            case .state(let state): outcome.saved = state
            default: break
            }
            try onEvent(event, trainer)
        }
        #expect(stepCount == nil, "it was to be interrupted")
    } catch GraftError.interrupted {
        #expect(stepCount != nil)
    }
    outcome.state = try trainer.model().state
    return outcome
}

/// Set once, from any thread.
final class Flag: Sendable {
    private let value = Mutex(false)
    var isSet: Bool { value.withLock { $0 } }
    func set() { value.withLock { $0 = true } }
}

/// A folder that goes away with the value.
private final class Place {
    let path = NSTemporaryDirectory() + "graft-resume-\(UInt64.random(in: 0 ... .max))"
    init() throws { try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true) }
    deinit { try? FileManager.default.removeItem(atPath: path) }
}

/// The state as a file gives it back.
private func reread(_ state: TrainingState?, in place: Place) throws -> TrainingState {
    let path = place.path + "/state"
    try #require(state).write(to: path)
    return try TrainingState(contentsOf: path)
}

private func expectContinuation(_ first: Outcome, _ second: Outcome, is whole: Outcome, _ comment: Comment) {
    #expect(second.state == whole.state, comment)
    #expect(first.losses.merging(second.losses) { _, new in new } == whole.losses, comment)
    #expect(first.epochs.merging(second.epochs) { _, new in new } == whole.epochs, comment)
}

@Suite struct ResumeTests {
    @Test(arguments: ResumeRecipe.all)
    func aResumedRunIsTheSameRun(_ recipe: ResumeRecipe) throws {
        let place = try Place()
        let whole = try run(recipe)
        // Behind the first step, in mid-epoch, at both ends of an epoch and so at its unfreezing, before the last step and
        // behind it, before the last validation.
        let last = try #require(whole.losses.keys.max())
        for stop in [1, 2, 4, 5, last, last + 1] {
            let first = try run(recipe, until: stop)
            let state = try reread(first.saved, in: place)
            #expect(state.stepCount == stop)
            let second = try run(recipe, threads: 1, from: state)
            #expect(second.losses.keys.min() == (stop > last ? nil : stop))
            #expect(second.saved?.isFinished == true)
            expectContinuation(first, second, is: whole, "\(recipe.name), step \(stop)")
        }
    }

    @Test(arguments: parityDevices.filter { $0 != "cpu" })
    func onOtherDevicesToo(_ device: String) throws {
        let place = try Place()
        let recipe = ResumeRecipe.all[1]
        let whole = try run(recipe, device: device)
        for stop in [3, 4, 6] {
            let first = try run(recipe, device: device, until: stop)
            let second = try run(recipe, device: device, from: reread(first.saved, in: place))
            expectContinuation(first, second, is: whole, "step \(stop)")
        }
    }

    @Test func withRowsOnDiskAndImagesLeftOut() throws {
        let place = try Place()
        try Demo.writePictures(to: place.path + "/data", countPerClass: 5, grafted: true)
        let data = try ImageDataset(folder: place.path + "/data/train")
        for index in [2, 7, 8, 9] { try Data("no image".utf8).write(to: URL(filePath: data.path(of: index))) }
        let recipe = ResumeRecipe(name: "disk") { options in
            options.onBadImage = .skip
            options.batchSize = 3
            options.cache = .disk
        }
        func part(_ state: TrainingState? = nil, until stop: Int? = nil, cache: String) throws -> Outcome {
            try run(recipe, from: state, until: stop, data: data, validation: nil) {
                $0.cacheFolder = URL(filePath: place.path + "/" + cache)
            }
        }
        let whole = try part(cache: "whole")
        let last = try #require(whole.losses.keys.max())
        for stop in 1..<last {
            let first = try part(until: stop, cache: "parts")
            // Another cache, or none, changes nothing.
            let second = try part(reread(first.saved, in: place), cache: "parts")
            expectContinuation(first, second, is: whole, "step \(stop)")
            let third = try run(
                recipe, from: reread(first.saved, in: place), data: data, validation: nil
            ) { $0.cache = .off }
            expectContinuation(first, third, is: whole, "step \(stop), without a cache")
        }
    }

    @Test func aStateBehindEveryStepAndAnInterruptionOfAResumedRun() throws {
        let place = try Place()
        let recipe = ResumeRecipe.all[1]
        var states: [TrainingState] = []
        let whole = try run(
            recipe, interval: 0,
            onEvent: { event, _ in
                if case .state(let state) = event { states.append(state) }
            })
        // The first ones may be missing while the images are looked at.
        #expect(states.count >= 3)
        #expect(states.last?.isFinished == true)
        for state in states {
            let second = try run(recipe, from: reread(state, in: place))
            #expect(second.state == whole.state, "state of step \(state.stepCount)")
        }
        var outcome = try run(recipe, until: 1)
        for stop in 2..<12 {
            outcome = try run(recipe, from: reread(outcome.saved, in: place), until: stop)
        }
        #expect(try run(recipe, from: outcome.saved).state == whole.state)
    }

    @Test func aFinishedRunCanBecomeLonger() throws {
        let place = try Place()
        let recipe = ResumeRecipe.all[0]
        let whole = try run(recipe)
        let short = try run(recipe, epochs: 2)
        let state = try reread(short.saved, in: place)
        #expect(state.isFinished && state.isEpochFinished)
        let nothing = try run(recipe, from: state, epochs: 2)
        #expect(nothing.losses.isEmpty)
        #expect(nothing.state == short.state)
        let longer = try run(recipe, from: state)
        #expect(longer.state == whole.state)
        #expect(longer.epochs.keys.sorted() == [2])
        // Cut short by a limit of steps, in mid-epoch.
        let cut = try run(recipe) { $0.stepLimit = 6 }
        let middle = try reread(cut.saved, in: place)
        #expect(middle.isFinished && !middle.isEpochFinished)
        let rest = try run(recipe, from: middle)
        #expect(rest.state == whole.state)
        #expect(rest.epochs[1] == whole.epochs[1])
        // What is added behind the old end is no change of what was done.
        _ = try run(recipe, from: state, epochs: 4) { $0.unfreezeAtEpoch = [(2, "layer3")] }
    }

    @Test func changedOptionsAreListed() throws {
        let recipe = ResumeRecipe.all[0]
        let state = try run(recipe, until: 3).saved
        func differences(
            _ other: ResumeRecipe = recipe, epochs: Int = 3, configure: (inout FitOptions) -> Void = { _ in }
        ) throws -> [RunDifference] {
            do {
                _ = try run(other, from: state, epochs: epochs, configure: configure)
                return []
            } catch GraftError.cannotResume(_, let differences) { return differences }
        }
        #expect(try differences().isEmpty)
        #expect(
            try differences {
                $0.workerCount = 5
                $0.cache = .off
                $0.stateIntervalSeconds = nil
            }.isEmpty)
        #expect(
            try differences {
                $0.batchSize = 5
                $0.warmupSteps = 2
            } == [
                RunDifference(name: "--batch-size", was: "6", now: "5"),
                RunDifference(name: "--warmup", was: "0", now: "2"),
            ])
        var other = recipe
        other.optimizer = .adam(learningRate: 0.05)
        let optimizers = try differences(other)
        #expect(optimizers.first == RunDifference(name: "--optimizer", was: "sgd", now: "adam"))
        #expect(optimizers.contains(RunDifference(name: "--momentum", was: "0.9", now: nil)))
        other = recipe
        other.trainable = "head,layer3.0.conv2"
        #expect(
            try differences(other) == [
                RunDifference(name: "--freeze, --unfreeze", was: "linear", now: "layer3.0.conv2.weight,linear")
            ])
        #expect(try differences(epochs: 2) == [RunDifference(name: "--epochs", was: "3", now: "2")])
        #expect(try differences { $0.unfreezeAtEpoch = [(1, "layer3")] }.map(\.name) == ["--unfreeze-at"])
        #expect(try differences { $0.schedule = .cosine }.map(\.name) == ["--schedule"])
        // A schedule that depends on the length.
        let cosine = ResumeRecipe(name: "cosine") { $0.schedule = .cosine }
        let half = try run(cosine, until: 3).saved
        #expect(throws: GraftError.self) { try run(cosine, from: half, epochs: 4) }
        let error = #expect(throws: GraftError.self) { try run(recipe, from: state) { $0.batchSize = 7 } }
        #expect(error?.description.contains("--batch-size: was 6, now 7") == true)
        #expect(error.map { failureKind(of: $0) } == .usage)
    }

    @Test func otherImagesAreNoticed() throws {
        let place = try Place()
        try Demo.writePictures(to: place.path + "/data", countPerClass: 5, grafted: true)
        let data = try ImageDataset(folder: place.path + "/data/train")
        let recipe = ResumeRecipe.all[0]
        let state = try run(recipe, until: 2, data: data, validation: nil).saved
        func reason(_ data: ImageDataset) throws -> String {
            let error = try #require(throws: GraftError.self) {
                try run(recipe, from: state, data: data, validation: nil)
            }
            #expect(failureKind(of: error) == .badData)
            return error.description
        }
        // A folder under another name is the same data.
        try FileManager.default.copyItem(atPath: place.path + "/data", toPath: place.path + "/moved")
        _ = try run(recipe, from: state, data: ImageDataset(folder: place.path + "/moved/train"), validation: nil)
        let labels = ImageDataset(
            folder: place.path + "/data/train",
            samples: data.samples.enumerated().map {
                $0 == 3 ? ImageSample(path: $1.path, label: ($1.label + 1) % 2) : $1
            }, classes: data.classes)
        #expect(try reason(labels).contains("1 of \(data.count) training images"))
        #expect(try reason(labels).contains(data.path(of: 3)))
        #expect(try reason(data.subset(Array(1..<data.count))).contains("are \(data.count - 1) now"))
        // The same size, another content.
        var bytes = try Data(contentsOf: URL(filePath: data.path(of: 4)))
        bytes[bytes.count - 20] ^= 1
        try bytes.write(to: URL(filePath: data.path(of: 4)))
        #expect(try reason(data).contains(data.path(of: 4)))
    }

    @Test func aStateOfAnotherNetworkIsRefused() throws {
        let recipe = ResumeRecipe.all[0]
        let state = try #require(try run(recipe, until: 2).saved)
        #expect(try state.model().architecture.name == "resnet8_cifar")
        var damaged = state
        damaged.trainer.weights["linear.weight"] = nil
        #expect(throws: GraftError.self) { try run(recipe, from: damaged) }
        damaged = state
        damaged.trainer.optimizerState["linear.weight"] = [HostTensor([2], [1, 2])]
        #expect(throws: GraftError.self) { try run(recipe, from: damaged) }
        damaged = state
        damaged.trainer.cohorts.append(Trainer.Cohort(names: ["conv9.weight"], steps: 1))
        #expect(throws: GraftError.self) { try run(recipe, from: damaged) }
    }
}

@Suite struct ResumedRunFolderTests {
    /// A run that its folder follows, as `graft train` does.
    private func follow(
        _ path: String, from state: TrainingState? = nil, until stop: Int? = nil, interval: Double = 0
    ) throws {
        let folder = try RunFolder(path)
        if let state { #expect(try folder.resume(state).isEmpty) }
        _ = try run(
            ResumeRecipe.all[1], from: state, until: stop, interval: interval,
            onEvent: { event, trainer in
                switch event {
                case .prepared: if state == nil { try folder.removeOlderState() }
                case .step(let record): try folder.record(record)
                case .epoch(let record): try folder.finish(record, model: trainer.model())
                case .state(let state): try folder.save(state)
                default: break
                }
            })
    }

    /// A table without its last column, which is a time.
    private func table(_ path: String) throws -> [Substring] {
        try String(contentsOfFile: path, encoding: .utf8).split(separator: "\n").map { line in
            line[..<(line.lastIndex(of: ",") ?? line.endIndex)]
        }
    }

    @Test func tablesAndWeightsAreThoseOfTheWholeRun() throws {
        let place = try Place()
        let (whole, parts) = (place.path + "/whole", place.path + "/parts")
        try follow(whole)
        try follow(parts, until: 3)
        for stop in [4, 7, nil] {
            let found = try #require(try RunFolder.state(in: parts))
            #expect(found.warning == nil)
            try follow(parts, from: found.state, until: stop)
        }
        for name in ["last.safetensors", "best.safetensors"] {
            #expect(
                try Data(contentsOf: URL(filePath: whole + "/" + name))
                    == Data(contentsOf: URL(filePath: parts + "/" + name)), "\(name)")
        }
        for name in ["steps.csv", "epochs.csv"] {
            #expect(try table(whole + "/" + name) == table(parts + "/" + name), "\(name)")
        }
        #expect(try table(whole + "/steps.csv").count == 13)
        let names = try FileManager.default.contentsOfDirectory(atPath: parts).sorted()
        #expect(names.filter { $0.hasPrefix("events.out.tfevents.") }.count == 4)
        #expect(
            names.filter { !$0.hasPrefix("events.out.tfevents.") } == [
                "best.safetensors", "epochs.csv", "last.safetensors", "state.previous.safetensors", "state.safetensors",
                "steps.csv",
            ])
    }

    @Test func theStateBeforeTakesTheBrokenOnesPlace() throws {
        let place = try Place()
        let (whole, parts) = (place.path + "/whole", place.path + "/parts")
        try follow(whole)
        try follow(parts, until: 7)
        let last = URL(filePath: parts + "/state.safetensors")
        let previous = URL(filePath: parts + "/state.previous.safetensors")
        let good = (try Data(contentsOf: last), try Data(contentsOf: previous))
        #expect(good.0 != good.1)
        var broken: [Data] = [Data(), good.0.prefix(100), good.0.dropLast(1), Data("no state".utf8)]
        // In the header, in the weights, at the end.
        for position in [9, 300, good.0.count / 2, good.0.count - 5] {
            var copy = good.0
            copy[position] ^= 4
            broken.append(copy)
        }
        for (index, bytes) in broken.enumerated() {
            try bytes.write(to: last)
            let found = try #require(try RunFolder.state(in: parts))
            #expect(found.warning?.contains("state.previous.safetensors") == true, "\(index)")
            #expect(found.state.stepCount < 7)
        }
        // The good one is kept until there is a better one.
        let found = try #require(try RunFolder.state(in: parts))
        let folder = try RunFolder(parts)
        #expect(try folder.resume(found.state).isEmpty)
        try folder.save(found.state)
        #expect(try Data(contentsOf: previous) == good.1)
        #expect(try RunFolder.state(in: parts)?.warning == nil)
        try broken[4].write(to: last)
        try follow(parts, from: try #require(try RunFolder.state(in: parts)).state)
        #expect(
            try Data(contentsOf: URL(filePath: whole + "/last.safetensors"))
                == Data(contentsOf: URL(filePath: parts + "/last.safetensors")))
        // Both broken is an error that names both.
        try broken[1].write(to: last)
        try broken[5].write(to: previous)
        let error = #expect(throws: GraftError.self) { try RunFolder.state(in: parts) }
        #expect(error?.description.contains(last.path) == true)
        #expect(error?.description.contains(previous.path) == true)
        #expect(error.map { failureKind(of: $0) } == .badData)
        try FileManager.default.removeItem(at: last)
        try FileManager.default.removeItem(at: previous)
        #expect(try RunFolder.state(in: parts)?.state.stepCount == nil)
    }

    @Test func aNewRunLeavesNoStateOfAnOlderOne() throws {
        let place = try Place()
        try follow(place.path, until: 7)
        // Killed before its first state: there must be none of the run before.
        try Data("x".utf8).write(to: URL(filePath: place.path + "/.last.safetensors.77.0.tmp"))
        try RunFolder(place.path).removeOlderState()
        #expect(try RunFolder.state(in: place.path)?.state.stepCount == nil)
        #expect(!FileManager.default.fileExists(atPath: place.path + "/.last.safetensors.77.0.tmp"))
    }

    @Test func rowsThatAreMissingAreSaid() throws {
        let place = try Place()
        try follow(place.path, until: 6)
        let state = try #require(try RunFolder.state(in: place.path)).state
        try FileManager.default.removeItem(atPath: place.path + "/steps.csv")
        let warnings = try RunFolder(place.path).resume(state)
        #expect(warnings.count == 1)
        #expect(warnings.first?.contains("0 of 6 rows") == true)
    }
}
