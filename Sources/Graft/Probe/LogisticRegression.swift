import Dispatch
import Foundation
import GraftTensor

/// Multinomial logistic regression with an L2 penalty on standardised features.
///
/// It minimises what scikit-learn's `LogisticRegression` does, `C · Σ cross entropy + ½ ‖weights‖²` with biases free, on
/// features shifted and scaled as `StandardScaler` does it: a softmax over all classes, and for two classes the sigmoid
/// of one score. The result depends on the features alone, not on the number of processors.
public struct LogisticRegression: Sendable, Equatable {
    /// `[classes, width]`; one row, the second class's, where there are two classes.
    public let weight: HostTensor
    /// A bias for each row of the weights.
    public let bias: HostTensor
    /// Subtracted from each feature.
    public let mean: HostTensor
    /// Divides each feature after that.
    public let scale: HostTensor

    /// How a fit went.
    public struct Fit: Sendable, Equatable {
        /// `C · Σ cross entropy + ½ ‖weights‖²` at the end.
        public let objective: Double
        /// Steps of L-BFGS.
        public let iterations: Int
        /// Whether it ended at the minimum; otherwise the steps ran out.
        public let converged: Bool
    }

    /// Classes.
    public var classCount: Int { Self.classCount(rows: weight.shape[0]) }

    /// Features of a row.
    public var width: Int { weight.shape[1] }

    private static func classCount(rows: Int) -> Int { rows == 1 ? 2 : rows }

    init(weight: HostTensor, bias: HostTensor, mean: HostTensor, scale: HostTensor) {
        self.weight = weight
        self.bias = bias
        self.mean = mean
        self.scale = scale
    }

    /// Fits labelled features.
    ///
    /// - Parameters:
    ///   - table: features whose labels use every class.
    ///   - inverseStrength: scikit-learn's `C`.
    /// - Returns: the regression, in float32, and how the fit went, in Double.
    /// - Throws: ``GraftError/badFeatures(_:)`` for fewer than two classes; ``GraftError/invalidArgument(_:)`` for a
    ///   strength that is not a number above zero.
    public static func fit(
        _ table: FeatureTable, inverseStrength: Double
    ) throws(GraftError) -> (regression: LogisticRegression, fit: Fit) {
        var problem = try LogisticProblem(table)
        return try problem.solve(inverseStrength: inverseStrength)
    }

    /// Scores of features, of which the softmax is the probability.
    ///
    /// - Parameter features: float32 `[N, …]` with ``width`` numbers in a row.
    /// - Returns: float32 `[N, classes]`.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for another width.
    public func scores(of features: HostTensor) throws(GraftError) -> HostTensor {
        let values = try rows(of: features, width: width)
        let count = values.count / width
        let (weight, bias) = (weight.floats ?? [], bias.floats ?? [])
        let (mean, scale) = (mean.floats ?? [], scale.floats ?? [])
        let rowCount = bias.count
        var result: [Float] = []
        result.reserveCapacity(count * classCount)
        var standardised = [Double](repeating: 0, count: width)
        for row in 0..<count {
            for column in 0..<width {
                standardised[column] =
                    (Double(values[row * width + column]) - Double(mean[column])) / Double(scale[column])
            }
            if rowCount == 1 { result.append(0) }
            for line in 0..<rowCount {
                var sum = Double(bias[line])
                for column in 0..<width { sum += Double(weight[line * width + column]) * standardised[column] }
                result.append(Float(sum))
            }
        }
        return HostTensor([count, classCount], result)
    }
}

/// The rows of features for a classifier of a certain width.
func rows(of features: HostTensor, width: Int) throws(GraftError) -> [Float] {
    guard let values = features.floats, let count = features.shape.dimensions.first, count > 0,
        values.count == count * width
    else {
        throw .invalidArgument(
            "features of shape \(features.shape), expected float32 [N, …] with \(width) numbers in a row")
    }
    return values
}

/// One set of features to which regressions of several strengths are fitted, each from the one before.
struct LogisticProblem {
    private let matrix: [Double]
    private let labels: [Int32]
    private let count: Int
    private let width: Int
    private let rowCount: Int
    private let mean: [Double]
    private let scale: [Double]
    private var parameters: [Double]

    /// Rows that one task works through; their number does not depend on the machine, so that sums do not either.
    private static let taskRows = 512
    private static let mostTasks = 8

    init(_ table: FeatureTable) throws(GraftError) {
        let classCount = table.classNames.count
        try requireEveryClass(table)
        let (count, width) = (table.count, table.width)
        var mean = [Double](repeating: 0, count: width)
        var scale = [Double](repeating: 0, count: width)
        var matrix = table.values.map(Double.init)
        for row in 0..<count {
            for column in 0..<width { mean[column] += matrix[row * width + column] }
        }
        // The regression is kept in float32: it shall see the very features that it was fitted to.
        for column in 0..<width { mean[column] = Double(Float(mean[column] / Double(count))) }
        for row in 0..<count {
            for column in 0..<width {
                let difference = matrix[row * width + column] - mean[column]
                scale[column] += difference * difference
            }
        }
        for column in 0..<width {
            let deviation = Double(Float((scale[column] / Double(count)).squareRoot()))
            // A feature that never changes tells nothing, whatever rounding made of its mean.
            scale[column] = deviation > 1e-6 * mean[column].magnitude && deviation > 1e-30 ? deviation : 1
        }
        for row in 0..<count {
            for column in 0..<width {
                matrix[row * width + column] = (matrix[row * width + column] - mean[column]) / scale[column]
            }
        }
        self.matrix = matrix
        labels = table.labels
        self.count = count
        self.width = width
        rowCount = classCount == 2 ? 1 : classCount
        self.mean = mean
        self.scale = scale
        parameters = [Double](repeating: 0, count: rowCount * (width + 1))
    }

    /// Fits for one strength, beginning at the last fit's parameters.
    mutating func solve(
        inverseStrength: Double
    ) throws(GraftError) -> (regression: LogisticRegression, fit: LogisticRegression.Fit) {
        guard inverseStrength.isFinite, inverseStrength > 0 else {
            throw .invalidArgument("C is \(inverseStrength), expected a number above 0")
        }
        // Divided by C·N, so that a small gradient means the same for every strength and size.
        let penalty = 1 / (inverseStrength * Double(count))
        let problem = self
        let result = LimitedMemoryBFGS().minimize(from: parameters) { point, gradient in
            problem.value(point, &gradient, penalty: penalty)
        }
        parameters = result.point
        let weightCount = rowCount * width
        let regression = LogisticRegression(
            weight: HostTensor([rowCount, width], result.point[..<weightCount].map(Float.init)),
            bias: HostTensor([rowCount], result.point[weightCount...].map(Float.init)),
            mean: HostTensor([width], mean.map(Float.init)), scale: HostTensor([width], scale.map(Float.init)))
        let fit = LogisticRegression.Fit(
            objective: result.value * inverseStrength * Double(count), iterations: result.iterations,
            converged: result.converged)
        return (regression, fit)
    }

    /// Mean cross entropy and penalty, and their gradient.
    private func value(_ point: [Double], _ gradient: inout [Double], penalty: Double) -> Double {
        let taskCount = max(1, min(Self.mostTasks, (count + Self.taskRows - 1) / Self.taskRows))
        let size = point.count
        var losses = [Double](repeating: 0, count: taskCount)
        var partial = [Double](repeating: 0, count: taskCount * size)
        losses.withUnsafeMutableBufferPointer { losses in
            partial.withUnsafeMutableBufferPointer { partial in
                // Each task has a place of its own in both.
                nonisolated(unsafe) let losses = losses
                nonisolated(unsafe) let partial = partial
                DispatchQueue.concurrentPerform(iterations: taskCount) { task in
                    losses[task] = accumulate(
                        point, rows: count * task / taskCount..<count * (task + 1) / taskCount,
                        into: UnsafeMutableBufferPointer(rebasing: partial[task * size..<(task + 1) * size]))
                }
            }
        }
        let weightCount = rowCount * width
        var norm = 0.0
        for index in 0..<size {
            var sum = 0.0
            for task in 0..<taskCount { sum += partial[task * size + index] }
            gradient[index] = sum / Double(count)
            if index < weightCount {
                gradient[index] += penalty * point[index]
                norm += point[index] * point[index]
            }
        }
        return losses.reduce(0, +) / Double(count) + 0.5 * penalty * norm
    }

    /// Cross entropies of some rows, and what they add to the gradient.
    private func accumulate(
        _ point: [Double], rows: Range<Int>, into gradient: UnsafeMutableBufferPointer<Double>
    ) -> Double {
        var loss = 0.0
        var scores = [Double](repeating: 0, count: rowCount)
        let weightCount = rowCount * width
        matrix.withUnsafeBufferPointer { matrix in
            point.withUnsafeBufferPointer { point in
                for row in rows {
                    let features = UnsafeBufferPointer(rebasing: matrix[row * width..<(row + 1) * width])
                    for line in 0..<rowCount {
                        scores[line] = point[weightCount + line] + product(features, point, at: line * width)
                    }
                    let label = Int(labels[row])
                    if rowCount == 1 {
                        // log(1 + e^±z) without overflow.
                        let score = scores[0]
                        let signed = label == 1 ? -score : score
                        loss += max(signed, 0) + log1p(exp(-signed.magnitude))
                        scores[0] = 1 / (1 + exp(-score)) - Double(label)
                    } else {
                        let highest = scores.max() ?? 0
                        var sum = 0.0
                        let wanted = scores[label] - highest
                        for line in 0..<rowCount {
                            scores[line] = exp(scores[line] - highest)
                            sum += scores[line]
                        }
                        loss += log(sum) - wanted
                        for line in 0..<rowCount { scores[line] /= sum }
                        scores[label] -= 1
                    }
                    for line in 0..<rowCount {
                        gradient[weightCount + line] += scores[line]
                        add(scores[line], features, to: gradient, at: line * width)
                    }
                }
            }
        }
        return loss
    }

    /// A dot product with eight sums side by side.
    private func product(
        _ features: UnsafeBufferPointer<Double>, _ weights: UnsafeBufferPointer<Double>, at start: Int
    ) -> Double {
        var sums = SIMD8<Double>()
        let whole = width / 8 * 8
        var column = 0
        while column < whole {
            var a = SIMD8<Double>()
            var b = SIMD8<Double>()
            for lane in 0..<8 {
                a[lane] = features[column + lane]
                b[lane] = weights[start + column + lane]
            }
            sums += a * b
            column += 8
        }
        var sum = sums.sum()
        while column < width {
            sum += features[column] * weights[start + column]
            column += 1
        }
        return sum
    }

    private func add(
        _ factor: Double, _ features: UnsafeBufferPointer<Double>, to gradient: UnsafeMutableBufferPointer<Double>,
        at start: Int
    ) {
        for column in 0..<width { gradient[start + column] += factor * features[column] }
    }
}

/// Throws ``GraftError/badFeatures(_:)`` unless there are at least two classes and each has a row.
func requireEveryClass(_ table: FeatureTable) throws(GraftError) {
    let present = Set(table.labels)
    guard present.count > 1 else {
        let name = present.first.map { table.classNames[Int($0)] } ?? "none"
        throw .badFeatures(
            "\(table.source): all \(table.count) rows are of one class (\(name)); a classifier needs at least two")
    }
    if let missing = table.classNames.indices.first(where: { !present.contains(Int32($0)) }) {
        throw .badFeatures(
            "\(table.source): no row is of class \(table.classNames[missing]); extract images of every class")
    }
}
