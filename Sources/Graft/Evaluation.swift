import Foundation
import GraftTensor

/// How well class scores agree with labels.
public struct Evaluation: Sendable, Equatable {
    /// Images scored.
    public private(set) var count = 0
    /// Images whose largest score was the label's.
    public private(set) var top1Correct = 0
    /// Images whose label was among the five largest scores.
    public private(set) var top5Correct = 0
    /// Sum of cross entropies, in Double from float32 scores.
    public private(set) var lossSum = 0.0
    /// Rows are labels, columns predictions.
    public private(set) var confusion: [[Int]]
    /// Names of the classes.
    public let classNames: [String]
    /// The wrong answers given with the most confidence, those first; at most ``mistakeLimit``, and only of images that
    /// were added with their positions.
    public private(set) var mistakes: [Mistake] = []

    /// How many mistakes are remembered.
    public static let mistakeLimit = 24

    /// A wrong answer.
    public struct Mistake: Sendable, Hashable {
        /// The image's position in its data set.
        public let sampleIndex: Int
        /// The right class.
        public let label: Int
        /// The class with the largest score.
        public let prediction: Int
        /// Its softmax probability.
        public let probability: Double
        /// The right class's.
        public let labelProbability: Double
    }

    /// Starts with nothing scored.
    public init(classNames: [String]) {
        self.classNames = classNames
        confusion = [[Int]](repeating: [Int](repeating: 0, count: classNames.count), count: classNames.count)
    }

    /// Share of images whose largest score was the label's.
    public var top1: Double { count == 0 ? 0 : Double(top1Correct) / Double(count) }
    /// Share of images whose label was among the five largest scores.
    public var top5: Double { count == 0 ? 0 : Double(top5Correct) / Double(count) }
    /// Mean cross entropy.
    public var loss: Double { count == 0 ? 0 : lossSum / Double(count) }

    /// Adds a batch.
    ///
    /// - Parameters:
    ///   - logits: float32 `[N, classes]`, or `[N, classes, 1, 1]`.
    ///   - labels: N class numbers.
    ///   - sampleIndices: N positions in a data set, for ``mistakes``; nil remembers none.
    /// - Throws: ``GraftError/invalidArgument(_:)`` when sizes do not agree.
    public mutating func add(logits: HostTensor, labels: [Int32], sampleIndices: [Int]? = nil) throws {
        let classes = logits.shape.rank > 1 ? logits.shape[1] : 0
        guard let values = logits.floats, classes == classNames.count, values.count == labels.count * classes,
            sampleIndices.map({ $0.count == labels.count }) ?? true
        else {
            throw GraftError.invalidArgument(
                "scores of shape \(logits.shape) for \(labels.count) labels of \(classNames.count) classes")
        }
        for (row, label) in labels.enumerated() {
            guard label >= 0, Int(label) < classes else {
                throw GraftError.invalidArgument("label \(label) is not among \(classes) classes")
            }
            let scores = values[row * classes..<(row + 1) * classes]
            let start = scores.startIndex
            let wanted = scores[start + Int(label)]
            var best = start
            var higher = 0
            for index in scores.indices {
                if scores[index] > scores[best] { best = index }
                if scores[index] > wanted || (scores[index] == wanted && index - start < Int(label)) { higher += 1 }
            }
            let sum = scores.reduce(0.0) { $0 + exp(Double($1) - Double(scores[best])) }
            lossSum += log(sum) - (Double(wanted) - Double(scores[best]))
            if best - start != Int(label), let sampleIndices {
                remember(
                    Mistake(
                        sampleIndex: sampleIndices[row], label: Int(label), prediction: best - start,
                        probability: 1 / sum, labelProbability: exp(Double(wanted) - Double(scores[best])) / sum))
            }
            count += 1
            if best - start == Int(label) { top1Correct += 1 }
            if higher < 5 { top5Correct += 1 }
            confusion[Int(label)][best - start] += 1
        }
    }

    /// Keeps a mistake if it is among the most confident; of equal ones the earlier image's.
    private mutating func remember(_ mistake: Mistake) {
        guard mistake.probability.isFinite else { return }
        let place = mistakes.firstIndex { $0.probability < mistake.probability } ?? mistakes.count
        guard place < Self.mistakeLimit else { return }
        mistakes.insert(mistake, at: place)
        if mistakes.count > Self.mistakeLimit { mistakes.removeLast() }
    }

    /// Precision and recall of one class; nil where nothing was predicted or nothing was there.
    public func precisionAndRecall(of label: Int) -> (precision: Double?, recall: Double?) {
        let right = confusion[label][label]
        let present = confusion[label].reduce(0, +)
        let predicted = confusion.reduce(0) { $0 + $1[label] }
        return (
            predicted == 0 ? nil : Double(right) / Double(predicted),
            present == 0 ? nil : Double(right) / Double(present)
        )
    }
}

/// The largest scores of one image, best first, as probabilities.
public struct Prediction: Sendable, Equatable {
    /// A class and its softmax probability.
    public struct Choice: Sendable, Equatable {
        /// Class number.
        public let label: Int
        /// Its name, or its number when names are unknown.
        public let name: String
        /// Softmax of the scores, in Double.
        public let probability: Double
    }

    /// Best first.
    public let choices: [Choice]

    /// The `count` largest of one image's scores.
    public init(logits: ArraySlice<Float>, classNames: [String]?, count: Int) {
        let largest = Double(logits.max() ?? 0)
        let exponentials = logits.map { exp(Double($0) - largest) }
        let sum = exponentials.reduce(0, +)
        let order = exponentials.indices.sorted { (-exponentials[$0], $0) < (-exponentials[$1], $1) }
        choices = order.prefix(count).map { index in
            let names = classNames ?? []
            return Choice(
                label: index, name: index < names.count ? names[index] : String(index),
                probability: exponentials[index] / sum)
        }
    }
}
