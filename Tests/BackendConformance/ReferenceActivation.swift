import Foundation
import GraftGraph

extension ReferenceOutput {
    /// The activation of an epilogue, if there is one.
    mutating func apply(_ activation: Activation?) {
        guard let activation else { return }
        if activation == .relu { return rectify() }
        for index in values.indices {
            let x = values[index]
            values[index] = ReferenceExecutor.value(activation, x)
            // No derivative is larger than 1.5.
            bounds[index] = 1.5 * bounds[index] + ReferenceExecutor.bound(activation, x)
        }
    }
}

/// Activations from the formulas of PyTorch's documentation.
extension ReferenceExecutor {
    /// Φ(−|x|).
    private static func tail(_ x: Double) -> Double { 0.5 * erfc(abs(x) / 2.0.squareRoot()) }

    fileprivate static func value(_ activation: Activation, _ x: Double) -> Double {
        if x.isNaN { return x }
        return switch activation {
        case .relu: max(0, x)
        case .relu6: min(max(0, x), 6)
        case .hardSigmoid: min(max(0, x + 3), 6) / 6
        case .hardSwish: x * min(max(0, x + 3), 6) / 6
        case .sigmoid: 1 / (1 + exp(-x))
        case .silu: x / (1 + exp(-x))
        case .gelu: x * 0.5 * erfc(-x / 2.0.squareRoot())
        }
    }

    /// Roundings of a float32 evaluation: the exponential's argument is rounded too.
    fileprivate static func bound(_ activation: Activation, _ x: Double) -> Double {
        switch activation {
        case .relu, .relu6: 0
        case .hardSigmoid: (abs(x) + 3) / 6
        case .hardSwish: abs(x) * (abs(x) + 3) / 6
        case .sigmoid, .silu: 4 * abs(value(activation, x))
        case .gelu: abs(x) * distributionBound(x)
        }
    }

    private static func distributionBound(_ x: Double) -> Double { tail(x) * (4 + x * x / 2) + (x > 0 ? 1 : 0) }

    /// v is the argument or the result, as ``Activation/gradientReads`` says.
    static func activationGradient(_ activation: Activation, _ dy: [Double], _ v: [Double]) -> ReferenceOutput {
        var output = ReferenceOutput(count: dy.count)
        for index in dy.indices {
            let v = v[index]
            let slope: Double
            let bound: Double
            switch activation {
            case .relu: (slope, bound) = (v > 0 ? 1 : 0, 0)
            case .relu6: (slope, bound) = (v > 0 && v < 6 ? 1 : 0, 0)
            case .hardSigmoid:
                slope = v > 0 && v < 1 ? 1.0 / 6 : 0
                bound = slope
            case .hardSwish:
                slope = v < -3 ? 0 : v > 3 ? 1 : v / 3 + 0.5
                bound = abs(v) > 3 ? 0 : abs(v) + 1
            case .sigmoid:
                slope = v * (1 - v)
                bound = 2 * abs(v) * (1 + abs(v))
            case .silu:
                let share = 1 / (1 + exp(-v))
                slope = share * (1 + v * (1 - share))
                bound = 4 * share * (1 + abs(v))
            case .gelu:
                let density = exp(-v * v / 2) / (2 * Double.pi).squareRoot()
                slope = 0.5 * erfc(-v / 2.0.squareRoot()) + v * density
                bound = distributionBound(v) + abs(v) * density * (4 + v * v)
            }
            output.values[index] = dy[index] * slope
            output.bounds[index] = abs(dy[index]) * bound
        }
        return output
    }

    static func channelScaleGradient(_ s: ActivationShape, _ x: [Double], _ dy: [Double]) -> ReferenceOutput {
        var output = ReferenceOutput(count: s.batch * s.channels)
        for plane in output.values.indices {
            var sum = 0.0
            var squares = 0.0
            for index in plane * s.pixelCount..<(plane + 1) * s.pixelCount {
                sum += x[index] * dy[index]
                squares += x[index] * x[index] * dy[index] * dy[index]
            }
            output.values[plane] = sum
            output.bounds[plane] = (Double(s.pixelCount) * squares).squareRoot()
        }
        return output
    }

    static func stochasticDepth(
        _ s: ActivationShape, _ rate: Float, _ salt: UInt32, _ step: UInt64, _ x: [Double]
    ) -> ReferenceOutput {
        let key = DropoutMask.key(step: step, salt: salt)
        let threshold = DropoutMask.threshold(rate: rate)
        let size = s.channels * s.pixelCount
        var output = ReferenceOutput(count: x.count)
        for n in 0..<s.batch where DropoutMask.keeps(key: key, index: UInt32(n), threshold: threshold) {
            for index in n * size..<(n + 1) * size {
                output.values[index] = rate == 0 ? x[index] : x[index] / (1 - Double(rate))
                output.bounds[index] = rate == 0 ? 0 : abs(output.values[index])
            }
        }
        return output
    }
}
