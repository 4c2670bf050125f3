import Graft

/// Pictures that are drawn when they are asked for: discs on a dark ground, of two colours.
struct Discs: ImageSource {
    let side = 32

    func image(at index: Int) -> SourceImage {
        let radius = side / 4 + index / 2 % 5
        var pixels: [UInt8] = []
        for row in 0..<side {
            for column in 0..<side {
                let (x, y) = (column - side / 2 + index % 3, row - side / 2 - index % 4)
                let isInside = x * x + y * y <= radius * radius
                pixels += isInside ? (index % 2 == 0 ? [220, 60, 40] : [40, 80, 220]) : [20, 20, 20]
            }
        }
        return .pixels(RGBImage(width: side, height: side, pixels: pixels))
    }

    /// The same number, the same disc: caches on disk need not draw it to know it.
    func identity(ofImageAt index: Int) -> String? { "disc \(side) \(index)" }

    static func dataset(_ range: Range<Int>) -> ImageDataset {
        let samples = (0..<range.upperBound).map { ImageSample(path: "disc \($0)", label: $0 % 2) }
        return ImageDataset(source: Discs(), samples: samples, classes: ["red", "blue"]).subset(Array(range))
    }
}

/// A callback of one's own: keeps the weights of the epoch with the lowest training loss.
final class BestEpoch {
    private(set) var loss = Double.infinity
    private(set) var model: Model?

    func receive(_ event: TrainingEvent, _ trainer: Trainer) throws {
        guard case .epoch(let record) = event, record.trainLoss < loss else { return }
        loss = record.trainLoss
        model = try trainer.model()
    }
}

/// Trains on pictures of one's own with a callback, and gives the accuracy on pictures it has not seen.
func ownPictures() throws -> (accuracy: Double, callbackLoss: Double) {
    var model = try Model("resnet8_cifar", classCount: 2, seed: 3)
    model.freeze()
    try model.unfreeze("layer3,head")
    let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.02, momentum: 0.9), device: .auto)
    var options = FitOptions()
    options.epochs = 4
    options.batchSize = 8
    let best = BestEpoch()
    try trainer.fit(Discs.dataset(0..<48), options: options) { try best.receive($0, trainer) }
    return (try trainer.evaluate(Discs.dataset(48..<64)).top1, best.loss)
}

/// The same as an asynchronous sequence, cancelled from outside in the middle: the trainer keeps the last whole step.
func cancelledRun() async throws -> (seenSteps: Int, trainerSteps: Int) {
    let (steps, continuation) = AsyncStream.makeStream(of: Int.self)
    let task = Task {
        let trainer = try Trainer(
            try Model("resnet8_cifar", classCount: 2, seed: 3), optimizer: .sgd(learningRate: 0.02), device: .auto)
        var options = FitOptions()
        options.epochs = 1000
        options.batchSize = 8
        var seen = 0
        do {
            for try await event in trainer.run(Discs.dataset(0..<48), options: options) {
                guard case .step = event else { continue }
                seen += 1
                continuation.yield(seen)
            }
        } catch is CancellationError {
            // Cancelled, as asked.
        }
        _ = try trainer.model().digest()
        return (seen, trainer.stepCount)
    }
    for await step in steps where step >= 3 { break }
    task.cancel()
    return try await task.value
}
