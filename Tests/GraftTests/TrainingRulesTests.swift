import Foundation
import Graft
import GraftTensor
import GraftVision
import Testing

/// What PyTorch gives for the cases of `Tests/Acceptance/training_rules.py`, which writes the file.
private struct Golden: Decodable {
    struct Tensor: Decodable {
        let norm: Double
        let first: [Float]
    }

    struct Case: Decodable {
        let name: String
        let losses: [Double]
        let rates: [Double]
        let tensors: [String: Tensor]
        let average: [String: Tensor]
    }

    let cases: [Case]

    static func load(_ name: String) throws -> Case {
        let file = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Fixtures/training_rules.json")
        let golden = try JSONDecoder().decode(Golden.self, from: Data(contentsOf: file))
        return try #require(golden.cases.first { $0.name == name }, "\(name) is not in \(file.path)")
    }
}

/// The script's pictures and labels: twelve of 16 × 16 pixels, four of each class.
enum RulePictures {
    static let size = 16
    static let count = 12
    static let labels: [Int32] = (0..<Int32(count)).map { $0 / 4 }
    static let pixels: [UInt8] = {
        let random = CounterRandom(key: 7)
        let image = size * size * 3
        return (0..<count * image).map { UInt8(random.bits($0) >> 57) + 40 * UInt8(labels[$0 / image]) }
    }()

    static func batch(_ range: Range<Int>) -> (pixels: [UInt8], labels: [Int32]) {
        let image = size * size * 3
        return (Array(pixels[range.lowerBound * image..<range.upperBound * image]), Array(labels[range]))
    }

    static let data = ImageDataset(
        images: (0..<count).map { RGBImage(width: size, height: size, pixels: batch($0..<$0 + 1).pixels) },
        labels: labels.map(Int.init), classes: ["0", "1", "2"])

    static func model() throws -> Model {
        var model = try Model("resnet8_cifar", classCount: 3)
        try model.replaceState(FormulaWeights.state(of: model, seed: 1))
        model.preprocessing = try ImagePreprocessing(imageSize: size, resize: size)
        return model
    }
}

@Suite struct TrainingRulesTests {
    /// One case: how the trainer is made, images a batch, batches a step.
    private struct Rule: Sendable {
        var name: String
        var optimizer = Optimizer.sgd(learningRate: 0.02)
        var loss: Loss = .crossEntropy
        var groups = ParameterGroups()
        var clipNorm: Double?
        var averageDecay: Double?
        var batch = 6
        var window = 1
        var mixed: MixedLabels?
    }

    private static let rules: [Rule] = [
        Rule(name: "plain"),
        Rule(
            name: "rates",
            groups: ParameterGroups(rates: [
                .init("layer3", 0.005), .init("layer3.0.bn2", 0.01), .init("linear", 0.05),
            ])),
        Rule(name: "layer_decay", groups: ParameterGroups(layerDecay: 0.5)),
        Rule(
            name: "no_decay", optimizer: .sgd(learningRate: 0.02, weightDecay: 0.1),
            groups: ParameterGroups(decaysBiasesAndNorms: false)),
        Rule(
            name: "adamw_groups", optimizer: .adamW(learningRate: 0.002, weightDecay: 0.1),
            groups: ParameterGroups(rates: [.init("linear", 0.01)], layerDecay: 0.7, decaysBiasesAndNorms: false)),
        Rule(name: "clip", optimizer: .sgd(learningRate: 0.02, weightDecay: 0.01), clipNorm: 0.5),
        Rule(name: "clip_adam", optimizer: .adam(learningRate: 0.001), clipNorm: 0.1),
        Rule(name: "accumulate", batch: 3, window: 3),
        Rule(name: "accumulate_clip", clipNorm: 0.5, averageDecay: 0.9, batch: 4, window: 2),
        Rule(name: "average", averageDecay: 0.5),
        Rule(name: "class_weights", loss: .crossEntropy(classWeights: [0.5, 1, 3])),
        Rule(name: "class_weights_smoothed", loss: .crossEntropy(labelSmoothing: 0.1, classWeights: [0.5, 1, 3])),
        Rule(name: "mixed", mixed: mixture),
        Rule(name: "mixed_smoothed", loss: .crossEntropy(labelSmoothing: 0.1), mixed: mixture),
        Rule(
            name: "mixed_weighted", loss: .crossEntropy(labelSmoothing: 0.1, classWeights: [0.5, 1, 3]), mixed: mixture),
    ]

    private static let mixture = MixedLabels(labels: [2, 1, 0, 2, 1, 0], shares: [0.25, 0.5, 0.75, 0.9, 0.1, 0.6])

    /// Runs of whole epochs in order, with their schedule.
    private static let schedules: [(name: String, optimizer: Optimizer, schedule: LearningRateSchedule, epochs: Int)] =
        [
            ("one_cycle", .sgd(learningRate: 0.02), .oneCycle(), 5),
            ("one_cycle_adamw", .adamW(learningRate: 0.002, weightDecay: 0.01), .oneCycle(warmup: 0.4), 5),
            ("cosine_floor", .sgd(learningRate: 0.02), .cosine(floor: 0.1), 4),
            ("plateau", .sgd(learningRate: 0.2), .plateau(factor: 0.5, patience: 0), 8),
        ]

    @Test(arguments: schedules.indices, parityDevices)
    func schedulesFollowPyTorch(_ index: Int, device: String) throws {
        let (name, optimizer, schedule, epochs) = Self.schedules[index]
        let golden = try Golden.load(name)
        let trainer = try Trainer(RulePictures.model(), optimizer: optimizer, device: Device(device))
        var options = FitOptions()
        options.epochs = epochs
        options.batchSize = 6
        options.shuffles = false
        options.schedule = schedule
        var losses: [Double] = []
        var rates: [Double] = []
        try trainer.fit(RulePictures.data, validation: RulePictures.data, options: options) { event in
            guard case .step(let record) = event else { return }
            losses.append(record.loss)
            rates.append(record.learningRate)
        }
        #expect(rates.count == golden.rates.count)
        for (found, wanted) in zip(rates, golden.rates) {
            #expect(abs(found - wanted) <= 1e-9 + 1e-9 * wanted, "\(name): \(rates), \(golden.rates)")
        }
        for (found, wanted) in zip(losses, golden.losses) {
            // A rate of 0.2 makes much of roundings; there the rates are what is held.
            let tolerance = name == "plateau" ? 5e-2 : 5e-3
            #expect(abs(found - wanted) <= tolerance * wanted, "\(name) on \(device): \(losses), \(golden.losses)")
        }
        if name != "plateau" { try compare(trainer.model(), golden.tensors, "\(name) on \(device)") }
    }

    @Test func aScheduleGoesOnAcrossAnUnfreezing() throws {
        var model = try RulePictures.model()
        model.freeze()
        try model.unfreeze("linear")
        func rates(_ schedule: LearningRateSchedule, unfreezing: Bool) throws -> [Double] {
            let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.02), device: .cpu)
            var options = FitOptions()
            options.epochs = 4
            options.batchSize = 6
            options.schedule = schedule
            if unfreezing { options.unfreezeAtStep = [(3, "layer3")] }
            var rates: [Double] = []
            try trainer.fit(RulePictures.data, validation: RulePictures.data, options: options) { event in
                if case .step(let record) = event { rates.append(record.learningRate) }
            }
            return rates
        }
        for schedule in [LearningRateSchedule.oneCycle(), .cosine(floor: 0.01)] {
            #expect(try rates(schedule, unfreezing: true) == rates(schedule, unfreezing: false))
        }
    }

    @Test func earlyStoppingWaitsAndAnUnfreezingBeginsAnew() throws {
        // A rate of 0 never gets better: the first epoch is the best.
        func epochs(patience: Int, unfreezingAt epoch: Int? = nil) throws -> (count: Int, best: Int?) {
            var model = try RulePictures.model()
            model.freeze()
            try model.unfreeze("linear")
            let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0), device: .cpu)
            var options = FitOptions()
            options.epochs = 9
            options.earlyStopPatience = patience
            if let epoch { options.unfreezeAtEpoch = [(epoch, "linear")] }
            var best: Int?
            let records = try trainer.fit(RulePictures.data, validation: RulePictures.data, options: options) { event in
                if case .stoppedEarly(let epoch) = event { best = epoch }
            }
            return (records.count, best)
        }
        #expect(try epochs(patience: 2) == (3, 0))
        #expect(try epochs(patience: 3, unfreezingAt: 2) == (5, 0))
        let trainer = try Trainer(RulePictures.model(), device: .cpu)
        var options = FitOptions()
        options.earlyStopPatience = 1
        #expect(throws: GraftError.self) { try trainer.fit(RulePictures.data, options: options) }
        options.earlyStopPatience = nil
        options.schedule = .plateau(factor: 0.5, patience: 1)
        #expect(throws: GraftError.self) { try trainer.fit(RulePictures.data, options: options) }
        options.schedule = .oneCycle()
        options.warmupSteps = 2
        #expect(throws: GraftError.self) { try trainer.fit(RulePictures.data, options: options) }
    }

    @Test func theBestEpochsAreKept() throws {
        let model = try RulePictures.model()
        let path = NSTemporaryDirectory() + "graft-kept-\(UInt64.random(in: 0 ... .max))"
        defer { try? FileManager.default.removeItem(atPath: path) }
        func names() throws -> [String] {
            try FileManager.default.contentsOfDirectory(atPath: path).filter { $0.hasPrefix("epoch-") }.sorted()
        }
        var folder = try RunFolder(path, keptCount: 2)
        for (epoch, loss) in [3.0, 1, 4, 2, 2, 0.5].enumerated() {
            try folder.finish(
                EpochRecord(
                    epoch: epoch, trainLoss: loss, trainAccuracy: 0, validation: nil, averagedValidation: nil,
                    seconds: 0),
                model: model)
        }
        #expect(try names() == ["epoch-2.safetensors", "epoch-6.safetensors"])
        // Another run in the same folder does not take them for its own.
        folder = try RunFolder(path, keptCount: 1)
        try folder.finish(
            EpochRecord(
                epoch: 0, trainLoss: 9, trainAccuracy: 0, validation: nil, averagedValidation: nil, seconds: 0),
            model: model)
        #expect(try names() == ["epoch-1.safetensors"])
    }

    // MARK: Search

    @Test func aSearchPutsEverythingBack() throws {
        var model = try RulePictures.model()
        model.freeze()
        try model.unfreeze("layer3,linear")
        func trainer() throws -> Trainer {
            try Trainer(model, optimizer: .sgd(learningRate: 0.02), device: .cpu, averageDecay: 0.9)
        }
        func step(_ trainer: Trainer) throws {
            let batch = RulePictures.batch(0..<12)
            _ = try trainer.step(pixels: batch.pixels, labels: batch.labels, dropoutKey: 1)
        }
        let plain = try trainer()
        let searching = try trainer()
        try step(plain)
        try step(searching)
        var search = LearningRateSearch()
        search.batchSize = 5
        search.steps = 30
        search.lowest = 1e-4
        var points = 0
        let curve = try searching.findLearningRate(RulePictures.data, search) { _ in points += 1 }
        #expect(curve.points.count == points)
        #expect(curve.points.count > 10)
        #expect(searching.stepCount == 1)
        #expect(try searching.model().state == plain.model().state)
        // Momentum and the average are back too: the next step is the same.
        try step(plain)
        try step(searching)
        #expect(try searching.model().state == plain.model().state)
        #expect(try searching.averagedModel()?.state == plain.averagedModel()?.state)
        search.lowest = 20
        #expect(throws: GraftError.self) { try searching.findLearningRate(RulePictures.data, search) }
    }

    @Test func aSearchTakesTheStepsOfTraining() throws {
        func trainer() throws -> Trainer {
            try Trainer(
                RulePictures.model(), loss: .crossEntropy(classWeights: [0.5, 1, 3]),
                optimizer: .sgd(learningRate: 1e-12), device: .cpu)
        }
        let rules: [(mixup: Double, cutMix: Double, window: Int, sampler: Sampler)] = [
            (0.4, 0, 1, .uniform), (0, 1, 2, .uniform), (0, 0, 2, .balanced),
        ]
        for rule in rules {
            var options = FitOptions()
            options.stepLimit = 10
            options.batchSize = 4
            options.mixup = rule.mixup
            options.cutMix = rule.cutMix
            options.accumulatedBatches = rule.window
            options.sampler = rule.sampler
            var losses: [Double] = []
            try trainer().fit(RulePictures.data, options: options) { event in
                if case .step(let record) = event { losses.append(record.loss) }
            }
            // Such rates move nothing, so that the losses of all steps can be compared.
            var search = LearningRateSearch()
            search.lowest = 1e-12
            search.highest = 2e-12
            search.steps = 10
            search.batchSize = 4
            search.mixup = rule.mixup
            search.cutMix = rule.cutMix
            search.accumulatedBatches = rule.window
            search.sampler = rule.sampler
            let found = try trainer().findLearningRate(RulePictures.data, search).points.map(\.loss)
            #expect(losses.count == 10 && found.count == 10, "\(rule)")
            #expect(zip(found, losses).allSatisfy { abs($0 - $1) <= 1e-5 * $1 }, "\(rule): \(found), \(losses)")
        }
    }

    @Test func aSearchByRulesThatAreNoneIsAnError() throws {
        let parts = ParameterGroups(rates: [.init("linear", 0.1)])
        let still = try Trainer(
            RulePictures.model(), optimizer: .sgd(learningRate: 0), device: .cpu, groups: parts)
        #expect(throws: GraftError.self) { try still.findLearningRate(RulePictures.data) }
        let trainer = try Trainer(RulePictures.model(), device: .cpu, groups: parts)
        var search = LearningRateSearch()
        search.mixup = -1
        #expect(throws: GraftError.self) { try trainer.findLearningRate(RulePictures.data, search) }
        search.mixup = 0
        search.accumulatedBatches = 0
        #expect(throws: GraftError.self) { try trainer.findLearningRate(RulePictures.data, search) }
    }

    @Test func suggestionsAreFromWhereTheLossFalls() throws {
        // Flat, a fall between 1e-4 and 1e-1, then off.
        let rates = (0..<100).map { 1e-7 * pow(1e8, Double($0) / 99) }
        let losses = rates.map { rate -> Double in
            let place = log10(rate)
            return place < -4 ? 2 : place < -1 ? 2 - (place + 4) / 2 : 0.5 + (place + 1) * 8
        }
        let curve = LearningRateCurve(
            points: zip(rates, losses).map { .init(learningRate: $0, loss: $1, smoothedLoss: $1) })
        let valley = try #require(curve.valley)
        // Half-way between the first and the second third of the fall's decades.
        #expect(valley > 1e-3 && valley < 1e-2, "\(valley)")
        let steepest = try #require(curve.steepest)
        #expect(steepest > 1e-4 && steepest < 1e-1, "\(steepest)")
        #expect(abs(log10(try #require(curve.minimum).learningRate) + 1) < 0.1)
        let flat = LearningRateCurve(points: rates.map { .init(learningRate: $0, loss: 1, smoothedLoss: 1) })
        #expect(flat.suggestion == nil)
        #expect(LearningRateCurve(points: []).suggestion == nil)
        #expect(LearningRateCurve(points: []).svg().hasPrefix("<svg"))
    }

    // MARK: Images

    @Test(arguments: [(0.4, 0.0), (0.0, 1.0), (0.3, 0.7)])
    func mixedRunsRepeatThemselvesOnAnyNumberOfThreads(_ mixup: Double, _ cutMix: Double) throws {
        func run(threads: Int, window: Int = 1, mixup: Double) throws -> (StateDictionary, cached: Bool) {
            var model = try RulePictures.model()
            model.freeze()
            try model.unfreeze("linear")
            let trainer = try Trainer(
                model, optimizer: .sgd(learningRate: 0.05), device: Device("cpu", threadCount: threads), seed: 4)
            var options = FitOptions()
            options.epochs = 3
            options.batchSize = 4
            options.accumulatedBatches = window
            options.augmentation = .strong
            options.workerCount = threads
            options.mixup = mixup
            options.cutMix = cutMix
            var cached = false
            try trainer.fit(RulePictures.data, options: options) { event in
                if case .caching = event { cached = true }
            }
            return (try trainer.model().state, cached)
        }
        let once = try run(threads: 1, mixup: mixup)
        #expect(!once.cached)
        #expect(try run(threads: 3, mixup: mixup).0 == once.0)
        #expect(try run(threads: 1, mixup: mixup + 0.5).0 != once.0)
        let window = try run(threads: 1, window: 2, mixup: mixup)
        #expect(try run(threads: 2, window: 2, mixup: mixup).0 == window.0)
    }

    @Test func mixturesAreOfNeighboursByOneShare() {
        let size = 4
        let bytes = size * size * 3
        let source = (0..<3 * bytes).map { UInt8(truncatingIfNeeded: $0 * 37 + 11 * ($0 / bytes)) }
        for seed in 0..<20 as Range<UInt64> {
            let random = CounterRandom(seed: seed)
            var mixed = source
            let labels = Mixing(mixup: 0.4, cutMix: 0).mix(&mixed, labels: [5, 6, 7], size: size, random: random)
            #expect(labels.labels == [7, 5, 6])
            let share = labels.shares[0]
            #expect(labels.shares == [share, share, share])
            for index in source.indices {
                let other = source[(index + 2 * bytes) % (3 * bytes)]
                let wanted = share * Float(source[index]) + (1 - share) * Float(other)
                #expect(abs(Float(mixed[index]) - wanted) <= 0.5001)
            }
            var cut = source
            let cutLabels = Mixing(mixup: 0, cutMix: 1).mix(&cut, labels: [5, 6, 7], size: size, random: random)
            var kept = 0
            for index in source.indices {
                let other = source[(index + 2 * bytes) % (3 * bytes)]
                #expect(cut[index] == source[index] || cut[index] == other)
                kept += cut[index] == source[index] ? 1 : 0
            }
            // No byte of the two images is equal here, so that the share can be counted.
            #expect(abs(Float(kept) / Float(source.count) - cutLabels.shares[0]) < 1e-6)
        }
    }

    @Test(arguments: [0.2, 0.4, 1.0, 2.5]) func sharesAreOfTheBetaDistribution(_ alpha: Double) {
        let count = 20000
        let values = (0..<count).map { Mixing.beta(alpha, CounterRandom(seed: 3, UInt64($0))) }
        #expect(values.allSatisfy { (0...1).contains($0) })
        let mean = values.reduce(0, +) / Double(count)
        let variance = values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count)
        #expect(abs(mean - 0.5) < 0.01)
        #expect(abs(variance - 1 / (4 * (2 * alpha + 1))) < 0.004)
    }

    @Test func balancedSamplingDrawsClassesAlike() throws {
        // Eleven of one class, one of another.
        let images = (0..<12).map { _ in RGBImage(width: 16, height: 16, pixels: [UInt8](repeating: 9, count: 768)) }
        let data = ImageDataset(images: images, labels: [Int](repeating: 0, count: 11) + [1], classes: ["a", "b"])
        #expect(Loss.balancedWeights(of: data, classCount: 3) == [12.0 / 22, 6, 1])
        let labels = data.samples.map(\.label)
        let drawn = (0..<200).flatMap { Sampler.balanced.order(labels: labels, seed: 3, epoch: $0) }
        #expect(drawn.count == 2400)
        // The standard deviation of 2400 throws is 24.5; within its class each image comes as often as any other.
        #expect(abs(drawn.count { $0 == 11 } - 1200) < 100)
        for image in 0..<11 { #expect(abs(Double(drawn.count { $0 == image }) - 1200.0 / 11) < 45) }
        var model = try Model("resnet8_cifar", classCount: 2)
        model.preprocessing = try ImagePreprocessing(imageSize: 16, resize: 16)
        model.freeze()
        try model.unfreeze("linear")
        // A small rate: the twelve of an epoch are a noisy sample, which the head must not follow.
        let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.01, momentum: 0), device: .cpu)
        var options = FitOptions()
        options.epochs = 160
        options.batchSize = 12
        options.sampler = .balanced
        let records = try trainer.fit(data, options: options)
        // The images are equal: with classes drawn alike the loss comes to log 2, and not to that of 11 in 12.
        let last = records.suffix(80).map(\.trainLoss).reduce(0, +) / 80
        #expect(abs(last - 0.693) < 0.05, "\(last)")
        options.shuffles = false
        #expect(throws: GraftError.self) { try trainer.fit(data, options: options) }
    }

    @Test(arguments: rules.indices, parityDevices)
    func followsPyTorch(_ index: Int, device: String) throws {
        let rule = Self.rules[index]
        let golden = try Golden.load(rule.name)
        let trainer = try Trainer(
            RulePictures.model(), loss: rule.loss, optimizer: rule.optimizer, device: Device(device),
            groups: rule.groups, clipNorm: rule.clipNorm, averageDecay: rule.averageDecay)
        var losses: [Double] = []
        for _ in 0..<3 {
            var parts = stride(from: 0, to: RulePictures.count, by: rule.batch).map {
                RulePictures.batch($0..<min($0 + rule.batch, RulePictures.count))
            }
            while !parts.isEmpty {
                let step = Array(parts.prefix(rule.window))
                parts.removeFirst(step.count)
                if rule.window > 1 {
                    losses.append(try trainer.step(accumulating: step).loss)
                } else {
                    losses.append(
                        try trainer.step(pixels: step[0].pixels, labels: step[0].labels, mixed: rule.mixed).loss)
                }
            }
        }
        #expect(losses.count == golden.losses.count)
        for (found, wanted) in zip(losses, golden.losses) {
            #expect(abs(found - wanted) <= 2e-3 * wanted, "\(rule.name) on \(device): \(losses), \(golden.losses)")
        }
        try compare(trainer.model(), golden.tensors, "\(rule.name) on \(device)")
        if let averaged = try trainer.averagedModel() {
            #expect(!golden.average.isEmpty)
            try compare(averaged, golden.average, "the average of \(rule.name) on \(device)")
        }
    }

    private func compare(_ model: Model, _ golden: [String: Golden.Tensor], _ what: String) throws {
        #expect(golden.count >= 7)
        for (name, wanted) in golden {
            let values = try #require(model.state[name]?.floats)
            let norm = values.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
            #expect(abs(norm - wanted.norm) <= 2e-3 * wanted.norm, "\(what): \(name) has norm \(norm), \(wanted.norm)")
            let scale = Float(wanted.norm / Double(values.count).squareRoot())
            for (found, element) in zip(values, wanted.first) {
                #expect(
                    abs(found - element) <= 5e-3 * max(scale, abs(element)), "\(what): \(name) \(found), \(element)")
            }
        }
    }

    @Test(arguments: parityDevices) func accumulationEqualsTheBigBatchWithoutBatchStatistics(_ device: String) throws {
        func weights(_ parts: [Range<Int>]) throws -> [Float] {
            var model = try RulePictures.model()
            model.freeze()
            try model.unfreeze("linear")
            let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.1), device: Device(device))
            for _ in 0..<3 {
                let batches = parts.map(RulePictures.batch)
                _ = try trainer.step(accumulating: batches)
            }
            return try #require(try trainer.model().state["linear.weight"]?.floats)
        }
        let whole = try weights([0..<12])
        // Parts of unlike sizes: each counts with its images.
        let parts = try weights([0..<5, 5..<7, 7..<12])
        #expect(zip(whole, parts).allSatisfy { abs($0 - $1) <= 1e-5 })
        #expect(try weights([0..<6]) != whole)
    }

    @Test func fitTakesAccumulatedStepsAndTheRestOfAnEpoch() throws {
        let data = Demo.pictures([.disk, .cross, .stripes], count: 7, training: true)
        var model = try Model("resnet8_cifar", classCount: 3, seed: 5)
        model.freeze()
        try model.unfreeze("linear")
        func run(batch: Int, window: Int) throws -> (steps: Int, state: StateDictionary) {
            let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.05), device: .cpu)
            var options = FitOptions()
            options.epochs = 2
            options.batchSize = batch
            options.accumulatedBatches = window
            var steps = 0
            try trainer.fit(data, options: options) { event in
                if case .step = event { steps += 1 }
            }
            #expect(trainer.stepCount == steps)
            return (steps, try trainer.model().state)
        }
        // 21 images: batches of 4 in steps of 2 are 8, 8 and 5 images.
        let small = try run(batch: 4, window: 2)
        let large = try run(batch: 8, window: 1)
        #expect(small.steps == 6)
        #expect(large.steps == 6)
        let (a, b) = (
            try #require(small.state["linear.weight"]?.floats), try #require(large.state["linear.weight"]?.floats)
        )
        #expect(zip(a, b).allSatisfy { abs($0 - $1) <= 1e-5 })
    }

    @Test func groupsAreByBlocksFromTheHeadDown() throws {
        func scales(_ name: String, _ parameters: [String]) throws -> [Double] {
            let model = try Model(name)
            let trainer = try Trainer(
                model, optimizer: .sgd(learningRate: 1), device: .cpu, groups: ParameterGroups(layerDecay: 0.5))
            return try parameters.map { parameter in
                try #require(trainer.trainingGroups.first { $0.names.contains(parameter) }?.learningRate)
            }
        }
        // timm: stem 0, one for each of the eight blocks, the head 9.
        #expect(
            try scales(
                "resnet18",
                ["fc.bias", "layer4.1.conv1.weight", "layer4.0.downsample.1.bias", "layer1.0.bn1.weight", "bn1.bias"])
                == [1, 0.5, 0.25, 0x1p-8, 0x1p-9])
        // Eight convolutions; the three linear layers belong together.
        #expect(
            try scales("vgg11", ["classifier.6.bias", "classifier.0.weight", "features.18.weight", "features.0.bias"])
                == [1, 1, 0.5, 0x1p-8])
    }

    @Test func aSelectorThatNamesNothingIsAnError() throws {
        let model = try RulePictures.model()
        for groups in [
            ParameterGroups(rates: [.init("layer9", 0.1)]), ParameterGroups(rates: [.init("linear", -1)]),
            ParameterGroups(layerDecay: 0), ParameterGroups(layerDecay: 1.5),
        ] {
            #expect(throws: GraftError.self) { try Trainer(model, device: .cpu, groups: groups) }
        }
        #expect(throws: GraftError.self) { try Trainer(model, device: .cpu, clipNorm: 0) }
        #expect(throws: GraftError.self) { try Trainer(model, device: .cpu, averageDecay: 1) }
    }

    @Test func whatIsUnfrozenLaterJoinsItsGroup() throws {
        var model = try RulePictures.model()
        model.freeze()
        try model.unfreeze("linear")
        let trainer = try Trainer(
            model, optimizer: .adam(learningRate: 0.01), device: .cpu,
            groups: ParameterGroups(rates: [.init("layer3", 0.25), .init("linear", 0.5)]), averageDecay: 0.9)
        let batch = RulePictures.batch(0..<12)
        _ = try trainer.step(pixels: batch.pixels, labels: batch.labels)
        let before = try trainer.model().state
        let averaged = try #require(try trainer.averagedModel()).state
        #expect(averaged["linear.weight"] != before["linear.weight"])
        try trainer.unfreeze("layer3.0.conv2")
        // An average of what has not trained is what it is; what has trained keeps its average across the unfreezing.
        #expect(try trainer.averagedModel()?.state == averaged)
        #expect(trainer.trainingGroups.map(\.learningRate) == [0.5, 0.25])
        _ = try trainer.step(pixels: batch.pixels, labels: batch.labels)
        let after = try trainer.model().state
        let found = try #require(try trainer.averagedModel()).state
        for name in ["linear.weight", "layer3.0.conv2.weight"] {
            let (old, new, mean) = (
                try #require(averaged[name]?.floats), try #require(after[name]?.floats),
                try #require(found[name]?.floats)
            )
            #expect(new != before[name]?.floats)
            for index in old.indices {
                #expect(abs(mean[index] - (0.9 * old[index] + 0.1 * new[index])) <= 1e-6)
            }
        }
    }

    @Test func anUnfreezingSaysWhichGroupsJoin() throws {
        var model = try RulePictures.model()
        model.freeze()
        try model.unfreeze("linear")
        let trainer = try Trainer(
            model, optimizer: .sgd(learningRate: 0.01), device: .cpu,
            groups: ParameterGroups(
                rates: [.init("layer3", 0.002), .init("layer3.0.bn2", 0.004)], decaysBiasesAndNorms: false))
        var options = FitOptions()
        options.epochs = 2
        options.batchSize = 6
        options.unfreezeAtEpoch = [(0, "layer3.0.conv2,layer3.0.bn2")]
        options.unfreezeAtStep = [(2, "layer3.0.conv1")]
        var joined: [Trainer.Group] = []
        try trainer.fit(RulePictures.data, options: options) { event in
            if case .unfroze(_, _, _, _, let groups) = event { joined += groups }
        }
        #expect(joined.map(\.learningRate) == [0.002, 0.004, 0.002])
        #expect(joined.map(\.isDecayed) == [true, false, true])
        #expect(
            joined.map(\.names) == [
                ["layer3.0.conv2.weight"], ["layer3.0.bn2.weight", "layer3.0.bn2.bias"], ["layer3.0.conv1.weight"],
            ])
    }

    @Test(arguments: parityDevices) func validationOfTheAverageLeavesTheRunAlone(_ device: String) throws {
        let data = Demo.pictures([.disk, .cross, .stripes], count: 6, training: true)
        func run(average: Double?) throws -> (state: StateDictionary, last: EpochRecord, averaged: Model?) {
            var model = try Model("resnet8_cifar", classCount: 3, seed: 5)
            model.freeze()
            try model.unfreeze("layer3,linear")
            let trainer = try Trainer(
                model, optimizer: .sgd(learningRate: 0.05), device: Device(device), averageDecay: average)
            var options = FitOptions()
            options.epochs = 2
            options.batchSize = 6
            let records = try trainer.fit(data, validation: data, options: options)
            return (try trainer.model().state, try #require(records.last), try trainer.averagedModel())
        }
        let plain = try run(average: nil)
        let kept = try run(average: 0.8)
        #expect(plain.state == kept.state)
        #expect(plain.last.validation == kept.last.validation)
        #expect(plain.last.averagedValidation == nil)
        // The recorded validation is that of the averaged weights, batch-norm statistics included.
        let averaged = try #require(kept.averaged)
        let trainer = try Trainer(averaged, device: Device(device))
        let again = try trainer.evaluate(data)
        let during = try #require(kept.last.averagedValidation)
        #expect(abs(again.loss - during.loss) <= 1e-4 * during.loss)
        #expect(during.loss != kept.last.validation?.loss)
        #expect(averaged.state["layer3.0.bn1.running_mean"] != kept.state["layer3.0.bn1.running_mean"])
    }
}
