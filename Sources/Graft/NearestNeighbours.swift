import Dispatch
import Foundation
import GraftTensor

/// Classifies by the most similar known features: no training at all.
public struct NearestNeighbours: Sendable, Equatable {
    /// Rows of length 1, one behind the other.
    private let features: [Float]
    private let labels: [Int32]
    /// Numbers of a row.
    public let width: Int

    /// Known rows.
    public var count: Int { labels.count }

    /// Keeps labelled features.
    ///
    /// - Parameters:
    ///   - features: float32 `[N, …]`; rows are flattened and scaled to length 1.
    ///   - labels: N class numbers.
    /// - Throws: ``GraftError/invalidArgument(_:)`` when counts differ or there is nothing.
    public init(features: HostTensor, labels: [Int32]) throws {
        let rows = try Self.rows(features)
        self.features = rows.values
        self.labels = labels
        width = rows.width
        guard rows.count == labels.count, !labels.isEmpty else {
            throw GraftError.invalidArgument("\(rows.count) feature rows for \(labels.count) labels")
        }
    }

    /// The class of each row: the majority among the `count` neighbours of largest cosine; the closest one decides ties.
    public func predict(_ queries: HostTensor, neighbours count: Int = 1) throws -> [Int32] {
        try nearest(queries, count: max(count, 1)).map { neighbours in
            var votes: [Int32: Int] = [:]
            for label in neighbours { votes[label, default: 0] += 1 }
            let most = votes.values.max() ?? 0
            return neighbours.first { votes[$0] == most } ?? labels[0]
        }
    }

    /// Scores of which the softmax is each class's share of the `neighbours` nearest known rows.
    ///
    /// - Parameters:
    ///   - queries: float32 `[N, …]`.
    ///   - neighbours: how many vote.
    ///   - classCount: classes.
    /// - Returns: float32 `[N, classes]`: the logarithm of the share, −∞ where it is 0. Of two equal shares that of the
    ///   closest neighbour is larger, by less than a millionth.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for rows of another width.
    public func scores(of queries: HostTensor, neighbours: Int, classCount: Int) throws -> HostTensor {
        let nearest = try nearest(queries, count: max(neighbours, 1))
        return HostTensor(
            [nearest.count, classCount],
            nearest.flatMap { Self.scores($0, classCount: classCount) })
    }

    /// Scores from the labels of the neighbours, the closest first.
    static func scores(_ neighbours: some Collection<Int32>, classCount: Int) -> [Float] {
        var votes = [Double](repeating: 0, count: classCount)
        var rank = [Double](repeating: 0, count: classCount)
        for (position, label) in neighbours.enumerated() {
            if votes[Int(label)] == 0 { rank[Int(label)] = Double(position) }
            votes[Int(label)] += 1
        }
        let total = Double(neighbours.count)
        return votes.indices.map { label in
            guard votes[label] > 0 else { return -.infinity }
            // Steps of float32 near −1 are 6e-8; the closest neighbours are what ties are about.
            return Float(log(votes[label] / total) - 1e-6 * rank[label] / total)
        }
    }

    /// The labels of the nearest known rows of each query, the closest first; of equally close ones the earlier row.
    func nearest(_ queries: HostTensor, count: Int) throws -> [[Int32]] {
        let rows = try Self.rows(queries)
        guard rows.width == width else {
            throw GraftError.invalidArgument(
                "features of \(rows.width) numbers, the known ones have \(width)")
        }
        let count = min(count, labels.count)
        var found = [Int32](repeating: 0, count: rows.count * count)
        found.withUnsafeMutableBufferPointer { found in
            // Each query has a place of its own.
            nonisolated(unsafe) let found = found
            DispatchQueue.concurrentPerform(iterations: rows.count) { query in
                for (rank, label) in nearest(rows.values, at: query * width, count: count).enumerated() {
                    found[query * count + rank] = label
                }
            }
        }
        return (0..<rows.count).map { Array(found[$0 * count..<($0 + 1) * count]) }
    }

    private func nearest(_ query: [Float], at start: Int, count: Int) -> [Int32] {
        // Sorted, the closest first; a row is only compared with the last of them unless it is closer.
        var best: [(similarity: Float, label: Int32)] = []
        best.reserveCapacity(count + 1)
        for row in labels.indices {
            let similarity = dot(query, at: start, features, at: row * width, count: width)
            if best.count == count, let last = best.last, similarity <= last.similarity { continue }
            var position = best.count
            while position > 0, best[position - 1].similarity < similarity { position -= 1 }
            best.insert((similarity, labels[row]), at: position)
            if best.count > count { best.removeLast() }
        }
        return best.map(\.label)
    }

    /// The known rows of length 1, and their labels.
    var known: (features: HostTensor, labels: [Int32]) { (HostTensor([count, width], features), labels) }

    private static func rows(_ tensor: HostTensor) throws -> (values: [Float], count: Int, width: Int) {
        guard var values = tensor.floats, let count = tensor.shape.dimensions.first, count > 0, !values.isEmpty else {
            throw GraftError.invalidArgument("features must be float32 [N, …], found \(tensor.shape)")
        }
        let width = values.count / count
        for row in 0..<count {
            let length = dot(values, at: row * width, values, at: row * width, count: width).squareRoot()
            guard length > 0 else { continue }
            for index in row * width..<(row + 1) * width { values[index] /= length }
        }
        return (values, count, width)
    }
}

/// A dot product with eight sums side by side.
private func dot(_ a: [Float], at aStart: Int, _ b: [Float], at bStart: Int, count: Int) -> Float {
    a.withUnsafeBufferPointer { a in
        b.withUnsafeBufferPointer { b in
            var sums = SIMD8<Float>()
            let whole = count / 8 * 8
            var index = 0
            while index < whole {
                var x = SIMD8<Float>()
                var y = SIMD8<Float>()
                for lane in 0..<8 {
                    x[lane] = a[aStart + index + lane]
                    y[lane] = b[bStart + index + lane]
                }
                sums += x * y
                index += 8
            }
            var sum = sums.sum()
            while index < count {
                sum += a[aStart + index] * b[bStart + index]
                index += 1
            }
            return sum
        }
    }
}
