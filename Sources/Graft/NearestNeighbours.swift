import GraftTensor

/// Classifies by the most similar known features: no training at all.
public struct NearestNeighbours: Sendable {
    private let features: [[Float]]
    private let labels: [Int32]

    /// Keeps labelled features.
    ///
    /// - Parameters:
    ///   - features: float32 `[N, …]`; rows are flattened and scaled to length 1.
    ///   - labels: N class numbers.
    /// - Throws: ``GraftError/invalidArgument(_:)`` when counts differ or there is nothing.
    public init(features: HostTensor, labels: [Int32]) throws {
        self.features = try Self.rows(features)
        self.labels = labels
        guard self.features.count == labels.count, !labels.isEmpty else {
            throw GraftError.invalidArgument("\(self.features.count) feature rows for \(labels.count) labels")
        }
    }

    /// The class of each row: the majority among the `count` neighbours of largest cosine; the closest one decides ties.
    public func predict(_ queries: HostTensor, neighbours count: Int = 1) throws -> [Int32] {
        let rows = try Self.rows(queries)
        guard rows.allSatisfy({ $0.count == features[0].count }) else {
            throw GraftError.invalidArgument(
                "features of \(rows[0].count) numbers, the known ones have \(features[0].count)")
        }
        return rows.map { query in
            let scored = features.indices.map { index in (similarity: dot(query, features[index]), index: index) }
            let nearest = scored.sorted { ($0.similarity, -$0.index) > ($1.similarity, -$1.index) }.prefix(
                max(count, 1))
            var votes: [Int32: Int] = [:]
            for neighbour in nearest { votes[labels[neighbour.index], default: 0] += 1 }
            let most = votes.values.max() ?? 0
            return nearest.map { labels[$0.index] }.first { votes[$0] == most } ?? labels[0]
        }
    }

    private static func rows(_ tensor: HostTensor) throws -> [[Float]] {
        guard let values = tensor.floats, let count = tensor.shape.dimensions.first, count > 0 else {
            throw GraftError.invalidArgument("features must be float32 [N, …], found \(tensor.shape)")
        }
        let width = values.count / count
        return (0..<count).map { row in
            let slice = Array(values[row * width..<(row + 1) * width])
            let length = dot(slice, slice).squareRoot()
            return length > 0 ? slice.map { $0 / length } : slice
        }
    }
}

private func dot(_ a: [Float], _ b: [Float]) -> Float {
    var sum: Float = 0
    for index in a.indices { sum += a[index] * b[index] }
    return sum
}
