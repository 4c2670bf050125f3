import GraftGraph
import GraftTensor

/// A gradient primitive of the reference held against central differences of its forward primitive, in Double.
package struct GradientCheck: Sendable, CustomStringConvertible {
    package var name: String
    /// All inputs of the forward function.
    var inputs: [[Double]]
    /// Which input the gradient is of.
    var position: Int
    var outputCount: Int
    var forward: @Sendable ([[Double]]) -> [Double]
    /// Inputs and the gradient of the output to the gradient of the input at `position`.
    var gradient: @Sendable ([[Double]], [Double]) -> [Double]

    package var description: String { name }

    /// Largest difference between the gradient and `(L(x + h) − L(x − h)) / 2h` over all elements, where
    /// `L = Σ dy·forward(x)`, as a share of the gradient's largest element.
    package func worstError(step: Double = 1e-5) -> Double {
        let random = CounterRandom(seed: 99)
        let dy = (0..<outputCount).map { 2 * random.uniform($0) - 1 }
        let analytic = gradient(inputs, dy)
        guard analytic.count == inputs[position].count else { return .infinity }
        var worst = 0.0
        for index in analytic.indices {
            func loss(_ change: Double) -> Double {
                var moved = inputs
                moved[position][index] += change
                return zip(forward(moved), dy).reduce(0) { $0 + $1.0 * $1.1 }
            }
            worst = max(worst, abs((loss(step) - loss(-step)) / (2 * step) - analytic[index]))
        }
        let scale = analytic.reduce(0) { max($0, abs($1)) }
        return scale > 0 ? worst / scale : .infinity
    }

    /// One or more checks of every gradient primitive.
    package static let all: [GradientCheck] =
        convolutions + normalizations + poolings + movements + elementwise + losses

    // MARK: Lists

    private static func values(_ primitive: Primitive, _ seed: UInt64 = 1) -> [[Double]] {
        primitive.operands.inputs.enumerated().map { index, kind in
            let random = CounterRandom(seed: seed, UInt64(index))
            return (0..<kind.hostShape.elementCount).map { 2 * random.uniform($0) - 1 }
        }
    }

    /// A pair in which `backward` takes the output's gradient first and no other operand but those named.
    private static func pair(
        _ name: String, _ forward: Primitive, _ backward: Primitive, position: Int = 0,
        arguments: @escaping @Sendable ([[Double]], [Double]) -> [[Double]] = { [$1] }, output: Int = 0,
        inputs: [[Double]]? = nil
    ) -> GradientCheck {
        GradientCheck(
            name: "\(backward.kind).\(name)", inputs: inputs ?? values(forward), position: position,
            outputCount: forward.operands.outputs[0].hostShape.elementCount,
            forward: { ReferenceExecutor.run(forward, $0)[0].values },
            gradient: { ReferenceExecutor.run(backward, arguments($0, $1))[output].values })
    }

    private static let convolutions: [GradientCheck] = {
        let names: Set = [
            "1x1.small", "1x1.p1", "3x3.small", "3x3.s2.p0", "2x5.s3x1.p1x4", "groups.2", "groups.3.1x1",
            "depthwise.multiplier", "depthwise.p0", "depthwise.s3x2.d2", "3x3.p3", "plane.2x3",
        ]
        return ConformanceCases.convolutions.filter { names.contains($0.name) }.flatMap { name, g, _ in
            let forward = Primitive.convolution(g, Epilogue(bias: true))
            return [
                pair(name, forward, .convolutionInputGradient(g, addend: false), arguments: { [$1, $0[1]] }),
                pair(name, forward, .convolutionWeightGradient(g), position: 1, arguments: { [$0[0], $1] }),
                pair(name, forward, .channelSum(g.output), position: 2),
            ]
        }
    }()

    private static let normalizations: [GradientCheck] = {
        let s = ActivationShape(3, 2, 2, 3)
        let epsilon: Float = 1e-3
        let training = Primitive.batchNormalizationTraining(s, epsilon: epsilon, momentum: 0.1, .none)
        let inference = Primitive.batchNormalizationInference(s, epsilon: epsilon, .none)
        var inputs = values(training)
        inputs[4] = [0.5, 1.5]
        let arguments: @Sendable ([[Double]], [Double]) -> [[Double]] = { x, dy in
            let statistics = ReferenceExecutor.run(training, x)
            return [x[0], dy, x[1], statistics[1].values, statistics[2].values]
        }
        let gradient = Primitive.batchNormalizationTrainingGradient(s)
        return (0..<3).map {
            pair(
                ["x", "gamma", "beta"][$0], training, gradient, position: $0, arguments: arguments, output: $0,
                inputs: inputs)
        } + [
            pair(
                "x", inference, .batchNormalizationInferenceGradient(s, epsilon: epsilon),
                arguments: { [$1, $0[1], $0[4]] }, inputs: inputs)
        ]
    }()

    private static let poolings: [GradientCheck] = {
        let names: Set = [
            "2x2.s2", "3x3.s2.ceil", "3x3.s3.p1.ceil", "2x2.s3.ceil", "3x3.s1.small", "3x3.s2.p1.ceil.excluded",
        ]
        var checks = ConformanceCases.poolings.filter { names.contains($0.name) }.flatMap { name, g, _ in
            [
                pair(
                    name, .maxPooling(g, indices: true), .maxPoolingGradient(g),
                    arguments: { [$1, ReferenceExecutor.run(.maxPooling(g, indices: true), $0)[1].values] }),
                pair(name, .averagePooling(g), .averagePoolingGradient(g)),
            ]
        }
        for (s, height, width) in [
            (ActivationShape(2, 2, 5, 7), 1, 1), (ActivationShape(1, 2, 7, 5), 3, 4),
            (ActivationShape(2, 1, 2, 3), 5, 4),
        ] {
            checks.append(
                pair(
                    "\(s.height)x\(s.width)to\(height)x\(width)",
                    .adaptiveAveragePooling(s, outputHeight: height, outputWidth: width),
                    .adaptiveAveragePoolingGradient(s, outputHeight: height, outputWidth: width)))
        }
        return checks
    }()

    private static let movements: [GradientCheck] = {
        let s = ActivationShape(2, 7, 3, 2)
        let channels = [2, 4, 1]
        var checks = channels.indices.map { index in
            pair(
                "concatenation.\(index)", .concatenation(s, channels: channels),
                .channelSlice(s, offset: channels[..<index].reduce(0, +), count: channels[index]), position: index)
        }
        checks += [
            pair("flatten", .flatten(s), .flattenGradient(s)),
            pair(
                "s2", .subsampleAndPad(s, stride: 2, before: 1, after: 2),
                .subsampleAndPadGradient(s, stride: 2, before: 1, after: 2)),
            // Dropout is its own gradient.
            GradientCheck(
                name: "dropout", inputs: values(.dropout(s, rate: 0.5, salt: 1)), position: 0,
                outputCount: s.elementCount, forward: { dropout(s, $0[0]) }, gradient: { dropout(s, $1) }),
        ]
        return checks
    }()

    private static func dropout(_ s: ActivationShape, _ x: [Double]) -> [Double] {
        ReferenceExecutor.run(
            .dropout(s, rate: 0.5, salt: 1), [x], constants: StepConstants(dropoutKey: 5, cohorts: []))[0].values
    }

    private static let elementwise: [GradientCheck] = {
        let s = ActivationShape(2, 3, 2, 4)
        let images = ActivationShape(8, 2, 1, 3)
        return [
            pair(
                "relu", .relu(s), .reluGradient(s),
                arguments: { [$1, ReferenceExecutor.run(.relu(s), $0)[0].values] }),
            pair(
                "add.relu", .add(s, relu: true), .reluGradient(s), position: 1,
                arguments: { [$1, ReferenceExecutor.run(.add(s, relu: true), $0)[0].values] }),
            pair("x", .channelScale(s), .channelScale(s), arguments: { [$1, $0[1]] }),
            pair("scale", .channelScale(s), .channelScaleGradient(s), position: 1, arguments: { [$0[0], $1] }),
            // Stochastic depth is its own gradient. Of eight images some are kept and some dropped.
            pair("self", .stochasticDepth(images, rate: 0.5, salt: 5), .stochasticDepth(images, rate: 0.5, salt: 5)),
        ]
            + Activation.allCases.map { activation in
                let forward = Primitive.activation(s, activation)
                let reads = activation.gradientReads
                return pair(
                    activation.rawValue, forward, .activationGradient(s, activation),
                    arguments: { [$1, reads == .argument ? $0[0] : ReferenceExecutor.run(forward, $0)[0].values] },
                    inputs: values(forward, 3).map { $0.map { 8 * $0 } })
            }
    }()

    private static let losses: [GradientCheck] =
        plainLosses
        + [
            LossTargets(isMixed: true), LossTargets(isWeighted: true), LossTargets(isMixed: true, isWeighted: true),
        ].map { targets in
            let primitive = Primitive.softmaxCrossEntropy(
                batch: 3, classes: 5, labelSmoothing: 0.1, targets: targets)
            var inputs = values(primitive)
            inputs[1] = [4, 0, 2]
            if targets.isMixed {
                inputs[2] = [1, 0, 3]
                inputs[3] = [0.25, 0.75, 0.5]
            }
            if targets.isWeighted { inputs[targets.isMixed ? 4 : 2] = [0.5, 2, 1, 0.25, 3] }
            return GradientCheck(
                name: "softmaxCrossEntropy.mixed\(targets.isMixed).weighted\(targets.isWeighted)", inputs: inputs,
                position: 0, outputCount: 1, forward: { [ReferenceExecutor.run(primitive, $0)[1].values[0]] },
                gradient: { x, dy in ReferenceExecutor.run(primitive, x)[0].values.map { $0 * dy[0] } })
        }

    private static let plainLosses: [GradientCheck] = [Float(0), 0.1].map { smoothing in
        let primitive = Primitive.softmaxCrossEntropy(batch: 3, classes: 5, labelSmoothing: smoothing)
        var inputs = values(primitive)
        inputs[1] = [4, 0, 2]
        return GradientCheck(
            name: "softmaxCrossEntropy.s\(smoothing)", inputs: inputs, position: 0, outputCount: 1,
            forward: { [ReferenceExecutor.run(primitive, $0)[1].values[0]] },
            gradient: { x, dy in ReferenceExecutor.run(primitive, x)[0].values.map { $0 * dy[0] } })
    }
}
