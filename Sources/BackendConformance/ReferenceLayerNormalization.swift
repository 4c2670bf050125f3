import GraftGraph

/// `torch.nn.LayerNorm` over the channels of each pixel, and factors per channel.
extension ReferenceExecutor {
    /// A pixel's mean and 1/deviation with what a float32 evaluation may miss of them.
    private struct PixelStatistics {
        var mean: Double
        var meanBound: Double
        var inverse: Double
        /// In units of the inverse's own size.
        var inverseRelative: Double

        init(_ x: [Double], _ epsilon: Double) {
            let count = Double(x.count)
            mean = x.reduce(0, +) / count
            meanBound = (count * x.reduce(0) { $0 + $1 * $1 }).squareRoot() / count
            var squares = 0.0
            var fourths = 0.0
            for value in x {
                let square = (value - mean) * (value - mean)
                squares += square
                fourths += square * square
            }
            let variance = squares / count
            // As for batch norm: the deviations' own sum, and the square of the mean's error.
            let shift = ToleranceModel().factor * ToleranceModel.epsilon * meanBound * meanBound
            let varianceBound = (count * fourths).squareRoot() / count + shift
            inverse = 1 / (variance + epsilon).squareRoot()
            inverseRelative = 1 + 0.5 * varianceBound / (variance + epsilon)
        }

        func normalized(_ x: Double) -> Double { (x - mean) * inverse }

        func bound(_ x: Double) -> Double { inverse * (abs(x - mean) * (1 + inverseRelative) + meanBound) }
    }

    /// Calls `body(flat indices of a pixel's channels)`.
    private static func forEachPixel(_ s: ActivationShape, _ body: ([Int]) -> Void) {
        for n in 0..<s.batch {
            for pixel in 0..<s.pixelCount {
                body((0..<s.channels).map { (n * s.channels + $0) * s.pixelCount + pixel })
            }
        }
    }

    static func layerNormalization(
        _ s: ActivationShape, _ epsilon: Double, _ inputs: [[Double]]
    ) -> ReferenceOutput {
        var y = ReferenceOutput(count: s.elementCount)
        forEachPixel(s) { places in
            let statistics = PixelStatistics(places.map { inputs[0][$0] }, epsilon)
            for (c, place) in places.enumerated() {
                let x = inputs[0][place]
                y.values[place] = statistics.normalized(x) * inputs[1][c] + inputs[2][c]
                y.bounds[place] = statistics.bound(x) * abs(inputs[1][c]) + abs(inputs[2][c])
            }
        }
        return y
    }

    static func layerNormalizationGradient(
        _ s: ActivationShape, _ epsilon: Double, _ inputs: [[Double]]
    ) -> [ReferenceOutput] {
        let (x, dy, gamma) = (inputs[0], inputs[1], inputs[2])
        var dx = ReferenceOutput(count: s.elementCount)
        var dgamma = ReferenceOutput(count: s.channels)
        var dbeta = dgamma
        var scaleSquares = [Double](repeating: 0, count: s.channels)
        var shiftSquares = scaleSquares
        var scaleErrors = scaleSquares
        let channels = Double(s.channels)
        forEachPixel(s) { places in
            let statistics = PixelStatistics(places.map { x[$0] }, epsilon)
            var (level, slope, levelSquares, slopeSquares, slopeErrors) = (0.0, 0.0, 0.0, 0.0, 0.0)
            for (c, place) in places.enumerated() {
                let normalized = statistics.normalized(x[place])
                let bound = statistics.bound(x[place])
                let scaled = dy[place] * gamma[c]
                level += scaled
                slope += scaled * normalized
                levelSquares += scaled * scaled
                slopeSquares += scaled * scaled * normalized * normalized
                slopeErrors += abs(scaled) * bound
                dbeta.values[c] += dy[place]
                dgamma.values[c] += dy[place] * normalized
                shiftSquares[c] += dy[place] * dy[place]
                scaleSquares[c] += dy[place] * dy[place] * normalized * normalized
                scaleErrors[c] += abs(dy[place]) * bound
            }
            level /= channels
            slope /= channels
            let levelBound = (channels * levelSquares).squareRoot() / channels
            let slopeBound = ((channels * slopeSquares).squareRoot() + slopeErrors) / channels
            for (c, place) in places.enumerated() {
                let normalized = statistics.normalized(x[place])
                let scaled = dy[place] * gamma[c]
                dx.values[place] = statistics.inverse * (scaled - level - normalized * slope)
                let terms = abs(scaled) + abs(level) + abs(normalized * slope)
                dx.bounds[place] =
                    statistics.inverse
                    * ((1 + statistics.inverseRelative) * terms + levelBound + abs(normalized) * slopeBound
                        + statistics.bound(x[place]) * abs(slope))
            }
        }
        let count = Double(s.batch * s.pixelCount)
        for c in 0..<s.channels {
            dbeta.bounds[c] = (count * shiftSquares[c]).squareRoot()
            dgamma.bounds[c] = (count * scaleSquares[c]).squareRoot() + scaleErrors[c]
        }
        return [dx, dgamma, dbeta]
    }

    static func layerScaleGradient(_ s: ActivationShape, _ x: [Double], _ dy: [Double]) -> ReferenceOutput {
        var output = ReferenceOutput(count: s.channels)
        for c in 0..<s.channels {
            var squares = 0.0
            forEachIndex(of: c, s) { index in
                output.values[c] += x[index] * dy[index]
                squares += x[index] * x[index] * dy[index] * dy[index]
            }
            output.bounds[c] = (Double(s.batch * s.pixelCount) * squares).squareRoot()
        }
        return output
    }
}
