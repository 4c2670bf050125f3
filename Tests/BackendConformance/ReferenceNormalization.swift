import GraftGraph

extension ReferenceExecutor {
    static func batchNormalizationTraining(
        _ s: ActivationShape, _ epsilon: Double, _ momentum: Double, _ epilogue: Epilogue, _ inputs: [[Double]]
    ) -> [ReferenceOutput] {
        let (x, gamma, beta) = (inputs[0], inputs[1], inputs[2])
        let (oldMean, oldVariance) = (inputs[3], inputs[4])
        var y = ReferenceOutput(count: s.elementCount)
        var means = ReferenceOutput(count: s.channels)
        var inverses = means
        var runningMeans = means
        var runningVariances = means
        let count = Double(s.batch * s.pixelCount)
        for c in 0..<s.channels {
            var sum = 0.0
            var squares = 0.0
            forEachIndex(of: c, s) { index in
                sum += x[index]
                squares += x[index] * x[index]
            }
            let mean = sum / count
            let meanBound = (count * squares).squareRoot() / count
            var deviations = 0.0
            var fourths = 0.0
            forEachIndex(of: c, s) { index in
                let square = (x[index] - mean) * (x[index] - mean)
                deviations += square
                fourths += square * square
            }
            let variance = deviations / count
            // The deviations' own sum, and the square of the mean's error c·ε·meanBound (two-pass or Welford leaves no
            // more; E[x²] − E[x]² errs by ε·mean² and is found out by data far from zero).
            let shift = ToleranceModel().factor * ToleranceModel.epsilon * meanBound * meanBound
            let varianceBound = (count * fourths).squareRoot() / count + shift
            let inverse = 1 / (variance + epsilon).squareRoot()
            let inverseRelative = 1 + 0.5 * varianceBound / (variance + epsilon)
            means.values[c] = mean
            means.bounds[c] = meanBound
            inverses.values[c] = inverse
            inverses.bounds[c] = inverse * inverseRelative
            runningMeans.values[c] = (1 - momentum) * oldMean[c] + momentum * mean
            runningMeans.bounds[c] = (1 - momentum) * abs(oldMean[c]) + momentum * meanBound
            let unbiased = count / (count - 1)
            runningVariances.values[c] = (1 - momentum) * oldVariance[c] + momentum * variance * unbiased
            runningVariances.bounds[c] = (1 - momentum) * oldVariance[c] + momentum * varianceBound * unbiased
            forEachIndex(of: c, s) { index in
                let scale = gamma[c] * inverse
                let residual = epilogue.residual ? inputs[5][index] : 0
                y.values[index] = (x[index] - mean) * scale + beta[c] + residual
                y.bounds[index] =
                    abs(scale) * (abs(x[index] - mean) * (1 + inverseRelative) + meanBound) + abs(beta[c])
                    + abs(residual)
            }
        }
        y.apply(epilogue.activation)
        return [y, means, inverses, runningMeans, runningVariances]
    }

    static func batchNormalizationInference(
        _ s: ActivationShape, _ epsilon: Double, _ epilogue: Epilogue, _ inputs: [[Double]]
    ) -> ReferenceOutput {
        normalized(s, epilogue, inputs) { inputs[1][$0] / (inputs[4][$0] + epsilon).squareRoot() }
    }

    static func batchNormalizationReplay(
        _ s: ActivationShape, _ epilogue: Epilogue, _ inputs: [[Double]]
    ) -> ReferenceOutput {
        normalized(s, epilogue, inputs) { inputs[1][$0] * inputs[4][$0] }
    }

    private static func normalized(
        _ s: ActivationShape, _ epilogue: Epilogue, _ inputs: [[Double]], scale: (Int) -> Double
    ) -> ReferenceOutput {
        var y = ReferenceOutput(count: s.elementCount)
        for c in 0..<s.channels {
            let mean = inputs[3][c]
            let scale = scale(c)
            forEachIndex(of: c, s) { index in
                let x = inputs[0][index]
                let residual = epilogue.residual ? inputs[5][index] : 0
                y.values[index] = (x - mean) * scale + inputs[2][c] + residual
                y.bounds[index] = abs(scale) * (abs(x) + abs(mean)) + abs(inputs[2][c]) + abs(residual)
            }
        }
        y.apply(epilogue.activation)
        return y
    }

    static func batchNormalizationTrainingGradient(
        _ s: ActivationShape, _ inputs: [[Double]]
    ) -> [ReferenceOutput] {
        let (x, dy, gamma) = (inputs[0], inputs[1], inputs[2])
        let (mean, inverse) = (inputs[3], inputs[4])
        var dx = ReferenceOutput(count: s.elementCount)
        var dgamma = ReferenceOutput(count: s.channels)
        var dbeta = dgamma
        let count = Double(s.batch * s.pixelCount)
        for c in 0..<s.channels {
            var sum = 0.0
            var squares = 0.0
            var weighted = 0.0
            var weightedSquares = 0.0
            forEachIndex(of: c, s) { index in
                let term = dy[index] * (x[index] - mean[c]) * inverse[c]
                sum += dy[index]
                squares += dy[index] * dy[index]
                weighted += term
                weightedSquares += term * term
            }
            dbeta.values[c] = sum
            dbeta.bounds[c] = (count * squares).squareRoot()
            dgamma.values[c] = weighted
            dgamma.bounds[c] = (count * weightedSquares).squareRoot()
            let scale = gamma[c] * inverse[c]
            forEachIndex(of: c, s) { index in
                let normalized = (x[index] - mean[c]) * inverse[c]
                dx.values[index] = scale * (dy[index] - sum / count - normalized * weighted / count)
                dx.bounds[index] =
                    abs(scale)
                    * (abs(dy[index]) + dbeta.bounds[c] / count
                        + abs(normalized) * (abs(weighted) + dgamma.bounds[c]) / count)
            }
        }
        return [dx, dgamma, dbeta]
    }

    static func batchNormalizationInferenceGradient(
        _ s: ActivationShape, _ epsilon: Double, _ inputs: [[Double]]
    ) -> ReferenceOutput {
        var dx = ReferenceOutput(count: s.elementCount)
        for c in 0..<s.channels {
            let scale = inputs[1][c] / (inputs[2][c] + epsilon).squareRoot()
            forEachIndex(of: c, s) { index in
                dx.values[index] = inputs[0][index] * scale
                dx.bounds[index] = abs(dx.values[index])
            }
        }
        return dx
    }
}
