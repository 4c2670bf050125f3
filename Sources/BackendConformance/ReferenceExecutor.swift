import Foundation
import GraftGraph

/// One output of the reference: the values and how far a float32 result may lie from them.
package struct ReferenceOutput: Sendable {
    /// In NCHW (or host) order.
    package var values: [Double]
    /// √K·‖terms‖ of each element, K the number of terms summed and ‖·‖ the root of the sum of their squares, or a sum of
    /// absolute terms where several roundings add. Zero where the result is a copy and must be exact.
    package var bounds: [Double]

    package init(values: [Double], bounds: [Double]) {
        self.values = values
        self.bounds = bounds
    }

    /// Values that a backend must give exactly.
    init(exact values: [Double]) {
        self.init(values: values, bounds: [Double](repeating: 0, count: values.count))
    }

    init(count: Int) {
        self.init(exact: [Double](repeating: 0, count: count))
    }

    /// `max(0, ·)`, NaN kept; it moves no two numbers further apart, so bounds stay.
    mutating func rectify() {
        for index in values.indices where values[index] < 0 { values[index] = 0 }
    }
}

/// A tolerance that grows with what was summed: `c · ε · √K · ‖terms‖ + a`, never a percentage of the whole tensor.
package struct ToleranceModel: Sendable {
    /// c. A plain float32 sum of K terms of random sign errs by about 0.2·ε·√K·‖terms‖; 4 leaves room for other orders of
    /// summation, fused or unfused products and a device's approximate `exp`.
    package var factor: Double = 4
    /// a: subnormal results may be flushed to zero.
    package var absolute: Double = 1e-36

    package init() {}

    /// ε: distance from 1 to the next float32.
    package static let epsilon = Double(Float.ulpOfOne)

    package func tolerance(bound: Double) -> Double { factor * Self.epsilon * bound + absolute }
}

/// Every primitive on Double arrays in NCHW order, in plain loops: what backends are held against. It shares no code
/// with them.
package enum ReferenceExecutor {
    /// Runs one primitive.
    ///
    /// - Parameters:
    ///   - primitive: what to compute.
    ///   - inputs: its operands in order. For an optimizer update: parameter, gradient, then the state slabs.
    ///   - constants: the dropout key and the cohorts' rates.
    /// - Returns: its outputs in order. For an optimizer update: parameter, then the state slabs.
    package static func run(
        _ primitive: Primitive, _ inputs: [[Double]], constants: StepConstants = StepConstants()
    ) -> [ReferenceOutput] {
        switch primitive {
        case .imageNormalization(let s, let mean, let deviation):
            return [imageNormalization(s, mean, deviation, inputs[0])]
        case .convolution(let g, let epilogue): return [convolution(g, epilogue, inputs)]
        case .convolutionInputGradient(let g, let addend): return [convolutionInputGradient(g, addend, inputs)]
        case .convolutionWeightGradient(let g): return [convolutionWeightGradient(g, inputs)]
        case .channelSum(let s): return [channelSum(s, inputs[0])]
        case .batchNormalizationTraining(let s, let epsilon, let momentum, let epilogue):
            return batchNormalizationTraining(s, Double(epsilon), Double(momentum), epilogue, inputs)
        case .batchNormalizationInference(let s, let epsilon, let epilogue):
            return [batchNormalizationInference(s, Double(epsilon), epilogue, inputs)]
        case .batchNormalizationReplay(let s, let epilogue): return [batchNormalizationReplay(s, epilogue, inputs)]
        case .batchNormalizationTrainingGradient(let s): return batchNormalizationTrainingGradient(s, inputs)
        case .batchNormalizationInferenceGradient(let s, let epsilon):
            return [batchNormalizationInferenceGradient(s, Double(epsilon), inputs)]
        case .relu:
            var output = ReferenceOutput(exact: inputs[0])
            output.rectify()
            return [output]
        case .reluGradient:
            return [ReferenceOutput(exact: zip(inputs[0], inputs[1]).map { $1 > 0 ? $0 : 0 })]
        case .activation(_, let activation):
            var output = ReferenceOutput(exact: inputs[0])
            output.apply(activation)
            return [output]
        case .activationGradient(_, let activation): return [activationGradient(activation, inputs[0], inputs[1])]
        case .layerNormalization(let s, let epsilon): return [layerNormalization(s, Double(epsilon), inputs)]
        case .layerNormalizationGradient(let s, let epsilon):
            return layerNormalizationGradient(s, Double(epsilon), inputs)
        case .layerScale(let s):
            let values = inputs[0].indices.map { inputs[0][$0] * inputs[1][$0 / s.pixelCount % s.channels] }
            return [ReferenceOutput(values: values, bounds: values.map { abs($0) })]
        case .layerScaleGradient(let s): return [layerScaleGradient(s, inputs[0], inputs[1])]
        case .channelScale(let s):
            let values = inputs[0].indices.map { inputs[0][$0] * inputs[1][$0 / s.pixelCount] }
            return [ReferenceOutput(values: values, bounds: values.map { abs($0) })]
        case .channelScaleGradient(let s): return [channelScaleGradient(s, inputs[0], inputs[1])]
        case .stochasticDepth(let s, let rate, let salt):
            return [stochasticDepth(s, rate, salt, constants.dropoutKey, inputs[0])]
        case .maxPooling(let g, let indices):
            let outputs = maxPooling(g, inputs[0])
            return indices ? outputs : [outputs[0]]
        case .maxPoolingGradient(let g): return [maxPoolingGradient(g, inputs[0], inputs[1])]
        case .averagePooling(let g): return [averagePooling(g, inputs[0])]
        case .averagePoolingGradient(let g): return [averagePoolingGradient(g, inputs[0])]
        case .adaptiveAveragePooling(let s, let height, let width):
            return [adaptiveAveragePooling(s, height, width, inputs[0])]
        case .adaptiveAveragePoolingGradient(let s, let height, let width):
            return [adaptiveAveragePoolingGradient(s, height, width, inputs[0])]
        case .add(_, let relu):
            var output = ReferenceOutput(
                values: zip(inputs[0], inputs[1]).map { $0 + $1 },
                bounds: zip(inputs[0], inputs[1]).map { abs($0) + abs($1) })
            if relu { output.rectify() }
            return [output]
        case .concatenation(let s, let channels): return [concatenation(s, channels, inputs)]
        case .channelSlice(let s, let offset, let count): return [channelSlice(s, offset, count, inputs[0])]
        case .dropout(_, let rate, let salt): return [dropout(rate, salt, constants.dropoutKey, inputs[0])]
        case .flatten, .flattenGradient: return [ReferenceOutput(exact: inputs[0])]
        case .subsampleAndPad(let s, let stride, let before, let after):
            return [subsampleAndPad(s, stride, before, after, inputs[0])]
        case .subsampleAndPadGradient(let s, let stride, let before, let after):
            return [subsampleAndPadGradient(s, stride, before, after, inputs[0])]
        case .softmaxCrossEntropy(let batch, let classes, let smoothing, let targets):
            return targets == .labels
                ? softmaxCrossEntropy(batch, classes, Double(smoothing), inputs[0], inputs[1])
                : softmaxCrossEntropy(batch, classes, Double(smoothing), targets, inputs)
        case .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging:
            preconditionFailure("\(primitive.kind) works on slabs; ask slabs(_:_:operands:constants:)")
        case .optimizerUpdate(let rule, let cohort):
            return optimizerUpdate(rule, constants.cohorts[cohort], inputs)
        }
    }

    // MARK: Elementwise and data movement

    private static func imageNormalization(
        _ s: ActivationShape, _ mean: [Float], _ deviation: [Float], _ pixels: [Double]
    ) -> ReferenceOutput {
        var output = ReferenceOutput(count: s.elementCount)
        for n in 0..<s.batch {
            for c in 0..<3 {
                for pixel in 0..<s.pixelCount {
                    let scaled = pixels[(n * s.pixelCount + pixel) * 3 + c] / 255
                    let index = (n * 3 + c) * s.pixelCount + pixel
                    output.values[index] = (scaled - Double(mean[c])) / Double(deviation[c])
                    output.bounds[index] = (scaled + abs(Double(mean[c]))) / Double(deviation[c])
                }
            }
        }
        return output
    }

    private static func channelSum(_ s: ActivationShape, _ x: [Double]) -> ReferenceOutput {
        var output = ReferenceOutput(count: s.channels)
        for c in 0..<s.channels {
            var sum = 0.0
            var squares = 0.0
            forEachIndex(of: c, s) { index in
                sum += x[index]
                squares += x[index] * x[index]
            }
            output.values[c] = sum
            output.bounds[c] = (Double(s.batch * s.pixelCount) * squares).squareRoot()
        }
        return output
    }

    /// The flat NCHW indices of one channel, image after image.
    static func forEachIndex(of channel: Int, _ s: ActivationShape, _ body: (Int) -> Void) {
        for n in 0..<s.batch {
            let start = (n * s.channels + channel) * s.pixelCount
            for index in start..<start + s.pixelCount { body(index) }
        }
    }

    private static func concatenation(
        _ s: ActivationShape, _ channels: [Int], _ inputs: [[Double]]
    ) -> ReferenceOutput {
        var values: [Double] = []
        for n in 0..<s.batch {
            for (input, count) in zip(inputs, channels) {
                let size = count * s.pixelCount
                values += input[n * size..<(n + 1) * size]
            }
        }
        return ReferenceOutput(exact: values)
    }

    private static func channelSlice(
        _ s: ActivationShape, _ offset: Int, _ count: Int, _ x: [Double]
    ) -> ReferenceOutput {
        var values: [Double] = []
        for n in 0..<s.batch {
            let start = (n * s.channels + offset) * s.pixelCount
            values += x[start..<start + count * s.pixelCount]
        }
        return ReferenceOutput(exact: values)
    }

    private static func dropout(_ rate: Float, _ salt: UInt32, _ step: UInt64, _ x: [Double]) -> ReferenceOutput {
        let key = DropoutMask.key(step: step, salt: salt)
        let threshold = DropoutMask.threshold(rate: rate)
        var output = ReferenceOutput(count: x.count)
        for (index, value) in x.enumerated()
        where DropoutMask.keeps(key: key, index: UInt32(truncatingIfNeeded: index), threshold: threshold) {
            output.values[index] = rate == 0 ? value : value / (1 - Double(rate))
            output.bounds[index] = rate == 0 ? 0 : abs(output.values[index])
        }
        return output
    }

    /// Calls `body(position in x, position in y)` for each pixel that is kept.
    private static func forEachKept(
        _ s: ActivationShape, _ stride: Int, _ before: Int, _ after: Int, _ body: (Int, Int) -> Void
    ) {
        let height = (s.height + stride - 1) / stride
        let width = (s.width + stride - 1) / stride
        for n in 0..<s.batch {
            for c in 0..<s.channels {
                for p in 0..<height {
                    for q in 0..<width {
                        body(
                            ((n * s.channels + c) * s.height + p * stride) * s.width + q * stride,
                            ((n * (before + s.channels + after) + before + c) * height + p) * width + q)
                    }
                }
            }
        }
    }

    private static func subsampleAndPad(
        _ s: ActivationShape, _ stride: Int, _ before: Int, _ after: Int, _ x: [Double]
    ) -> ReferenceOutput {
        let pixels = ((s.height + stride - 1) / stride) * ((s.width + stride - 1) / stride)
        var output = ReferenceOutput(count: s.batch * (before + s.channels + after) * pixels)
        forEachKept(s, stride, before, after) { output.values[$1] = x[$0] }
        return output
    }

    private static func subsampleAndPadGradient(
        _ s: ActivationShape, _ stride: Int, _ before: Int, _ after: Int, _ dy: [Double]
    ) -> ReferenceOutput {
        var output = ReferenceOutput(count: s.elementCount)
        forEachKept(s, stride, before, after) { output.values[$0] = dy[$1] }
        return output
    }

    // MARK: Loss

    /// `torch.nn.functional.cross_entropy` with mean reduction, and its gradient.
    private static func softmaxCrossEntropy(
        _ batch: Int, _ classes: Int, _ smoothing: Double, _ logits: [Double], _ labels: [Double]
    ) -> [ReferenceOutput] {
        var gradient = ReferenceOutput(count: batch * classes)
        var metrics = ReferenceOutput(count: 2)
        for n in 0..<batch {
            let x = Array(logits[n * classes..<(n + 1) * classes])
            let label = Int(labels[n])
            var best = 0
            for j in 1..<max(classes, 1) where x[j] > x[best] { best = j }
            if best == label { metrics.values[1] += 1 }
            // The others' share is summed apart from the largest one's 1, so that log1p keeps tiny losses.
            var others = 0.0
            var othersBound = 0.0
            for j in 0..<classes where j != best {
                let distance = x[best] - x[j]
                others += exp(-distance)
                // The argument's rounding, ε·distance, and exp's own few units are relative errors of the exponential.
                othersBound += exp(-distance) * (4 + distance)
            }
            let logarithm = log1p(others)
            var loss = logarithm
            var bound = othersBound / (1 + others) + abs(logarithm)
            for j in 0..<classes {
                let target = (j == label ? 1 - smoothing : 0) + smoothing / Double(classes)
                let distance = x[best] - x[j]
                loss += target * distance
                bound += target * distance
                let share = exp(-distance) / (1 + others)
                gradient.values[n * classes + j] = (share - target) / Double(batch)
                gradient.bounds[n * classes + j] =
                    (share * (4 + distance + othersBound / (1 + others)) + target) / Double(batch)
            }
            metrics.values[0] += loss / Double(batch)
            metrics.bounds[0] += bound / Double(batch)
        }
        return [gradient, metrics]
    }

    /// The same for targets that are distributions, with weights of classes: `torch.nn.functional.cross_entropy` with
    /// probabilities (mean over the images), or with labels and `weight` (mean over the labels' weights).
    private static func softmaxCrossEntropy(
        _ batch: Int, _ classes: Int, _ smoothing: Double, _ targets: LossTargets, _ inputs: [[Double]]
    ) -> [ReferenceOutput] {
        var gradient = ReferenceOutput(count: batch * classes)
        var metrics = ReferenceOutput(count: 2)
        let weights =
            targets.isWeighted ? inputs[targets.isMixed ? 4 : 2] : [Double](repeating: 1, count: classes)
        let divisor =
            targets.isMixed
            ? Double(batch) : (0..<batch).reduce(0.0) { $0 + weights[Int(inputs[1][$1])] }
        for n in 0..<batch {
            let x = Array(inputs[0][n * classes..<(n + 1) * classes])
            let label = Int(inputs[1][n])
            let other = targets.isMixed ? Int(inputs[2][n]) : label
            let share = targets.isMixed ? inputs[3][n] : 1
            var best = 0
            for j in 1..<max(classes, 1) where x[j] > x[best] { best = j }
            if best == (share >= 0.5 ? label : other) { metrics.values[1] += 1 }
            let exponentials = x.map { exp($0 - x[best]) }
            let sum = exponentials.reduce(0, +)
            var pulls = [Double](repeating: 0, count: classes)
            for j in 0..<classes {
                let hard = (j == label ? share : 0) + (j == other ? 1 - share : 0)
                pulls[j] = weights[j] * ((1 - smoothing) * hard + smoothing / Double(classes))
            }
            let mass = pulls.reduce(0, +)
            // Rounding of an exponential's argument is relative to the distance.
            let spread = zip(x, exponentials).reduce(0.0) { $0 + $1.1 / sum * (4 + x[best] - $1.0) }
            for j in 0..<classes {
                let distance = x[best] - x[j]
                metrics.values[0] += pulls[j] * (log(sum) + distance) / divisor
                metrics.bounds[0] += pulls[j] * (log(sum) + 2 * distance + spread + 4) / divisor
                let probability = exponentials[j] / sum
                gradient.values[n * classes + j] = (probability * mass - pulls[j]) / divisor
                gradient.bounds[n * classes + j] =
                    (probability * mass * (8 + distance + spread) + 4 * pulls[j]) / divisor
            }
        }
        return [gradient, metrics]
    }

    // MARK: Slabs

    /// One parameter with what the slabs hold for it.
    package struct SlabEntry {
        package var parameter: [Double]
        package var gradient: [Double]
        package var states: [[Double]]

        package init(parameter: [Double], gradient: [Double], states: [[Double]]) {
            self.parameter = parameter
            self.gradient = gradient
            self.states = states
        }
    }

    /// What a parameter's gradient and states become.
    package struct SlabResult {
        package var gradient: ReferenceOutput
        package var states: [ReferenceOutput]
    }

    /// The primitives that work on all cohorts at once: what gradients and states become, and the output if there is one.
    package static func slabs(
        _ primitive: Primitive, _ entries: [SlabEntry], operands: [[Double]], constants: StepConstants
    ) -> (parameters: [SlabResult], output: ReferenceOutput?) {
        var results = entries.map {
            SlabResult(
                gradient: ReferenceOutput(exact: $0.gradient), states: $0.states.map { ReferenceOutput(exact: $0) })
        }
        func mixed(_ share: Double, _ new: [Double], _ old: [Double]) -> ReferenceOutput {
            ReferenceOutput(
                values: zip(new, old).map { $1 + share * ($0 - $1) },
                bounds: zip(new, old).map { abs($1) + share * (abs($0) + abs($1)) })
        }
        switch primitive {
        case .gradientAccumulation(let state):
            for (index, entry) in entries.enumerated() {
                let share = Double(constants.accumulationShare)
                let sum =
                    share >= 1
                    ? ReferenceOutput(exact: entry.gradient) : mixed(share, entry.gradient, entry.states[state])
                results[index].states[state] = sum
                results[index].gradient = sum
            }
        case .gradientNorm(let maximum):
            let sum = entries.reduce(0.0) { $0 + $1.gradient.reduce(0.0) { $0 + $1 * $1 } }
            let norm = sum.squareRoot()
            let factor = min(1, Double(maximum) / (norm + 1e-6))
            return (results, ReferenceOutput(values: [norm, factor], bounds: [8 * norm, 10 * factor]))
        case .gradientScaling:
            for (index, entry) in entries.enumerated() {
                let scaled = entry.gradient.map { $0 * operands[0][1] }
                results[index].gradient = ReferenceOutput(values: scaled, bounds: scaled.map(abs))
            }
        case .weightAveraging(let state, let decay):
            for (index, entry) in entries.enumerated() {
                results[index].states[state] = mixed(Double(1 - decay), entry.parameter, entry.states[state])
            }
        default: preconditionFailure("\(primitive.kind) works on operands")
        }
        return (results, nil)
    }

    // MARK: Optimizers

    /// `torch.optim.SGD`, `Adam` and `AdamW`: one step of every element.
    private static func optimizerUpdate(
        _ rule: OptimizerRule, _ k: CohortConstants, _ inputs: [[Double]]
    ) -> [ReferenceOutput] {
        var outputs = [ReferenceOutput](
            repeating: ReferenceOutput(count: inputs[0].count), count: 1 + rule.stateCount)
        let rate = Double(k.learningRate)
        let decay = Double(k.weightDecay)
        for i in inputs[0].indices {
            var w = inputs[0][i]
            var g = inputs[1][i]
            switch rule {
            case .sgd(let usesMomentum, let nesterov):
                let momentum = Double(k.momentum)
                var bound = abs(g) + abs(decay * w)
                g += decay * w
                var update = g
                if usesMomentum {
                    var buffer = g
                    if !k.isFirstStep {
                        buffer += momentum * inputs[2][i]
                        bound += abs(momentum * inputs[2][i])
                    }
                    outputs[1].values[i] = buffer
                    outputs[1].bounds[i] = bound
                    update = nesterov ? g + momentum * buffer : buffer
                    if nesterov { bound *= 1 + momentum }
                }
                outputs[0].values[i] = w - rate * update
                outputs[0].bounds[i] = abs(w) + rate * bound
            case .adam(let decoupled):
                let beta1 = Double(k.beta1)
                let beta2 = Double(k.beta2)
                var bound = abs(g)
                let wBound = abs(w)
                if decoupled {
                    w *= 1 - rate * decay
                } else {
                    bound += abs(decay * w)
                    g += decay * w
                }
                let mean = beta1 * inputs[2][i] + (1 - beta1) * g
                let meanBound = abs(beta1 * inputs[2][i]) + (1 - beta1) * bound
                let square = beta2 * inputs[3][i] + (1 - beta2) * g * g
                let squareBound = beta2 * inputs[3][i] + (1 - beta2) * bound * bound
                let denominator = square.squareRoot() / Double(k.biasCorrection2Root) + Double(k.epsilon)
                let scale = rate / Double(k.biasCorrection1) / denominator
                outputs[1].values[i] = mean
                outputs[1].bounds[i] = meanBound
                outputs[2].values[i] = square
                outputs[2].bounds[i] = squareBound
                outputs[0].values[i] = w - scale * mean
                // The denominator's relative error is at most the square's, halved by the root, and a few roundings.
                let relative = square > 0 ? 2 + 0.5 * squareBound / square : 2
                outputs[0].bounds[i] = wBound + scale * (meanBound + abs(mean) * relative)
            }
        }
        return outputs
    }
}
