import Foundation
import GraftTensor
import GraftVision

/// How a learning rate is looked for: rates that grow by the same factor from step to step (Smith 2017, fastai's `lr_find`).
///
/// The rate is the optimizer's own. Groups with other rates (``ParameterGroups``) have theirs multiplied by the same factor
/// as it, so that the ratios between groups stay. Steps are those of
/// ``Trainer/fit(_:validation:options:resuming:onEvent:)`` with the options of the same names; what a run changes in the
/// course of its steps (schedules, unfreezing) has no part in it.
public struct LearningRateSearch: Sendable, Hashable {
    /// The first rate.
    public var lowest = 1e-7
    /// The last one.
    public var highest = 10.0
    /// Steps from the first to the last; the search ends before when the loss is four times the least.
    public var steps = 100
    /// Images per step, or per part of a step with ``accumulatedBatches``.
    public var batchSize = 32
    /// Batches that make one step.
    public var accumulatedBatches = 1
    /// Random changes to the images.
    public var augmentation = Augmentation.none
    /// Above 0: images are mixed with others of their batch, with shares from Beta(mixup, mixup).
    public var mixup = 0.0
    /// Above 0: the same by a rectangle of the other image (CutMix); with ``mixup`` either in half of the batches.
    public var cutMix = 0.0
    /// Which images are seen.
    public var sampler = Sampler.uniform
    /// What to do about an image that cannot be decoded.
    public var onBadImage = BadImagePolicy.fail
    /// Whether large JPEGs are decoded at a fraction of their size.
    public var fastDecode = false
    /// Threads that decode images ahead of the device.
    public var workerCount = 2
    /// Asked before every step; a true answer ends the search with ``GraftError/interrupted``.
    public var isCancelled: @Sendable () -> Bool = { false }

    /// The defaults: a hundred steps of 32 images from 1e-7 to 10.
    public init() {}

    /// Searches are equal when their numbers and their samplers are.
    public static func == (a: LearningRateSearch, b: LearningRateSearch) -> Bool {
        a.numbers == b.numbers && a.sampler == b.sampler
    }

    /// Hashes what is compared.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(numbers)
        hasher.combine(sampler)
    }

    private var numbers: [Double] {
        [lowest, highest, Double(steps), Double(batchSize), Double(accumulatedBatches), mixup, cutMix]
    }
}

/// What a search found: the loss at each rate, and which rate it speaks for.
public struct LearningRateCurve: Sendable, Hashable, Codable {
    /// One step.
    public struct Point: Sendable, Hashable, Codable {
        /// The rate of the optimizer's own group; others have theirs in proportion.
        public let learningRate: Double
        /// Of the batch, before the update.
        public let loss: Double
        /// The average of the losses so far, the older the less (0.98 to a step, freed of its start at 0).
        public let smoothedLoss: Double

        /// Makes a point.
        public init(learningRate: Double, loss: Double, smoothedLoss: Double) {
            self.learningRate = learningRate
            self.loss = loss
            self.smoothedLoss = smoothedLoss
        }
    }

    /// In the order of the steps.
    public let points: [Point]

    /// Makes a curve.
    public init(points: [Point]) { self.points = points }

    /// Smooths losses of steps whose rates are given.
    init(rates: [Double], losses: [Double]) {
        var average = 0.0
        var rest = 1.0
        points = zip(rates, losses).map { rate, loss in
            average = 0.98 * average + 0.02 * loss
            rest *= 0.98
            return Point(learningRate: rate, loss: loss, smoothedLoss: average / (1 - rest))
        }
    }

    /// The points that suggestions look at: without the first tenth, where smoothing has seen little, and the last five,
    /// where the loss runs away.
    private var middle: ArraySlice<Point> {
        let first = points.count / 10
        return points[first..<max(points.count - 5, min(first + 1, points.count))]
    }

    /// A rate within the longest fall of the loss, half-way between its first and its second third (fastai's `valley`);
    /// nil where the loss never falls.
    public var valley: Double? {
        let points = Array(middle)
        // The longest strictly falling subsequence that ends at each point, and where it began.
        var lengths = [Int](repeating: 1, count: points.count)
        var last = 0
        for index in points.indices {
            for earlier in 0..<index where points[index].smoothedLoss < points[earlier].smoothedLoss {
                lengths[index] = max(lengths[index], lengths[earlier] + 1)
            }
            if lengths[index] > lengths[last] { last = index }
        }
        guard !points.isEmpty, lengths[last] > 1 else { return nil }
        let first = max(last - lengths[last], 0)
        let third = Double(last - first) / 3
        return points[first + Int(third) + Int(third / 2)].learningRate
    }

    /// The rate at which the smoothed loss falls fastest by the rate's logarithm; nil where it never falls.
    public var steepest: Double? {
        let points = Array(middle)
        guard points.count > 2 else { return nil }
        var best: (slope: Double, rate: Double)?
        for index in 1..<points.count - 1 {
            let run = log(points[index + 1].learningRate / points[index - 1].learningRate)
            let slope = (points[index + 1].smoothedLoss - points[index - 1].smoothedLoss) / run
            if slope < best?.slope ?? 0 { best = (slope, points[index].learningRate) }
        }
        return best?.rate
    }

    /// The rate with the least smoothed loss.
    public var minimum: Point? { points.min { $0.smoothedLoss < $1.smoothedLoss } }

    /// The rate to begin with: ``valley``, or where there is none ``steepest``.
    public var suggestion: Double? { valley ?? steepest }

    /// A table: `learning_rate,loss,smoothed_loss`.
    public func csv() -> String {
        "learning_rate,loss,smoothed_loss\n"
            + points.map { "\($0.learningRate),\($0.loss),\($0.smoothedLoss)\n" }.joined()
    }

    /// A drawing of the losses over the rate's logarithm, with the suggestion marked.
    public func svg() -> String {
        let (width, height, left, bottom) = (720.0, 420.0, 64.0, 48.0)
        let finite = points.filter { $0.smoothedLoss.isFinite && $0.learningRate > 0 }
        guard let first = finite.first, let last = finite.last, first.learningRate < last.learningRate else {
            return "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"420\"></svg>\n"
        }
        let low = finite.map(\.smoothedLoss).min() ?? 0
        let high = max((finite.map(\.smoothedLoss).max() ?? 1), low + 1e-9)
        func x(_ rate: Double) -> Double {
            left + (width - left - 16) * log(rate / first.learningRate) / log(last.learningRate / first.learningRate)
        }
        func y(_ loss: Double) -> Double {
            16 + (height - 16 - bottom) * (1 - (min(max(loss, low), high) - low) / (high - low))
        }
        func text(_ value: Double) -> String { String(format: "%.1f", value) }
        func line(_ values: [(Double, Double)], _ style: String) -> String {
            "<polyline fill=\"none\" \(style) points=\""
                + values.map { "\(text($0.0)),\(text($0.1))" }.joined(separator: " ") + "\"/>\n"
        }
        var drawing = """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 420" width="720" height="420" font-family="sans-serif" \
            font-size="12">
            <rect width="720" height="420" fill="white"/>

            """
        for power in Int(
            log10(first.learningRate).rounded(.up))...max(
                Int(log10(last.learningRate).rounded(.down)), Int(log10(first.learningRate).rounded(.up)))
        {
            let place = x(pow(10, Double(power)))
            drawing +=
                "<line x1=\"\(text(place))\" x2=\"\(text(place))\" y1=\"16\" y2=\"\(text(height - bottom))\" stroke=\"#ddd\"/>\n"
                + "<text x=\"\(text(place))\" y=\"\(text(height - bottom + 18))\" text-anchor=\"middle\">1e\(power)</text>\n"
        }
        for step in 0...4 {
            let loss = low + (high - low) * Double(step) / 4
            drawing +=
                "<line x1=\"\(text(left))\" x2=\"\(text(width - 16))\" y1=\"\(text(y(loss)))\" y2=\"\(text(y(loss)))\" stroke=\"#eee\"/>\n"
                + "<text x=\"\(text(left - 6))\" y=\"\(text(y(loss) + 4))\" text-anchor=\"end\">\(String(format: "%.3g", loss))</text>\n"
        }
        drawing += line(finite.map { (x($0.learningRate), y($0.loss)) }, "stroke=\"#bbb\"")
        drawing += line(
            finite.map { (x($0.learningRate), y($0.smoothedLoss)) }, "stroke=\"#1f6feb\" stroke-width=\"2\"")
        if let suggestion {
            drawing +=
                "<line x1=\"\(text(x(suggestion)))\" x2=\"\(text(x(suggestion)))\" y1=\"16\" y2=\"\(text(height - bottom))\" stroke=\"#d1242f\" stroke-dasharray=\"4 3\"/>\n"
                + "<text x=\"\(text(x(suggestion) + 6))\" y=\"28\" fill=\"#d1242f\">\(String(format: "%.2g", suggestion))</text>\n"
        }
        drawing += "<text x=\"\(text((left + width) / 2))\" y=\"412\" text-anchor=\"middle\">learning rate</text>\n"
        drawing += "<text x=\"16\" y=\"190\" transform=\"rotate(-90 16 190)\" text-anchor=\"middle\">loss</text>\n"
        return drawing + "</svg>\n"
    }
}

extension Trainer {
    /// Trains with growing learning rates until the loss runs away, and puts everything back as it was: weights, optimizer
    /// state and counters. It costs at most the search's steps of training, and a copy of the weights and the optimizer's
    /// state on the host.
    ///
    /// - Parameters:
    ///   - data: the training images; they are shuffled or drawn as in training, and seen again where they are too few.
    ///   - search: rates of the optimizer, which those of ``groups`` follow in proportion; steps, batches.
    ///   - onPoint: called behind every step; an error it throws ends the search, with everything put back.
    /// - Returns: the losses over the rates.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for a search that is none, or where the optimizer's rate is 0 and groups
    ///   have others; ``GraftError/interrupted``; errors of images and devices.
    public func findLearningRate(
        _ data: ImageDataset, _ search: LearningRateSearch = LearningRateSearch(),
        onPoint: (LearningRateCurve.Point) throws -> Void = { _ in }
    ) throws -> LearningRateCurve {
        guard data.count > 0 else { throw GraftError.noInput("there is no training image") }
        try Limits.check(batchSize: search.batchSize)
        guard search.lowest > 0, search.lowest < search.highest, search.highest.isFinite else {
            throw GraftError.invalidArgument(
                "learning rates from \(search.lowest) to \(search.highest): expected two numbers above 0, the first one less"
            )
        }
        guard (10...100_000).contains(search.steps) else {
            throw GraftError.invalidArgument("\(search.steps) steps: expected from 10 to 100000; 100 are usual")
        }
        guard optimizer.learningRate > 0 || groups.rates.isEmpty else {
            throw GraftError.invalidArgument(
                "the base learning rate is \(optimizer.learningRate), and no rate of a part is in proportion to it: expected "
                    + "a number above 0")
        }
        let mixing = Mixing(mixup: search.mixup, cutMix: search.cutMix)
        try mixing.check()
        try Limits.check(accumulatedBatches: search.accumulatedBatches)
        let labels = data.samples.map(\.label)
        let batchSize = min(search.batchSize, data.count)
        return try restoringAfterwards {
            var rates: [Double] = []
            var losses: [Double] = []
            var least = Double.infinity
            var epoch = 0
            while rates.count < search.steps {
                let before = rates.count
                // Nothing is cached: a search sees few images twice.
                let batches = TrainingBatches(
                    data: data, order: search.sampler.order(labels: labels, seed: seed, epoch: epoch),
                    preprocessing: configuration.preprocessing,
                    options: BatchLoaderOptions(
                        batchSize: batchSize, workerCount: search.workerCount, augmentation: search.augmentation,
                        seed: seed, epoch: epoch, onBadImage: search.onBadImage, dropsLast: true,
                        fastDecode: search.fastDecode),
                    batchSize: batchSize, cache: nil
                ) { _ in [] }
                defer { batches.cancel() }
                while rates.count < search.steps, let batch = try batches.next() {
                    guard !search.isCancelled() else { throw GraftError.interrupted }
                    let share = Double(rates.count) / Double(search.steps - 1)
                    let rate = search.lowest * pow(search.highest / search.lowest, share)
                    let (metrics, _, _) = try trainingStep(
                        first: batch, window: search.accumulatedBatches, mixing: mixing, rate: rate, epoch: epoch,
                        step: rates.count, onEvent: { _ in }
                    ) { try batches.next() }
                    guard metrics.loss.isFinite else { return LearningRateCurve(rates: rates, losses: losses) }
                    rates.append(rate)
                    losses.append(metrics.loss)
                    let curve = LearningRateCurve(rates: rates, losses: losses)
                    guard let point = curve.points.last else { continue }
                    try onPoint(point)
                    least = min(least, point.smoothedLoss)
                    if point.smoothedLoss > 4 * least { return curve }
                }
                guard rates.count > before else {
                    throw GraftError.noInput("no image could be read: all \(data.count) were passed over")
                }
                epoch += 1
            }
            return LearningRateCurve(rates: rates, losses: losses)
        }
    }
}
