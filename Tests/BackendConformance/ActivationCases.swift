import GraftGraph

extension ConformanceCases {
    /// What an activation's gradient reads, over all its branches.
    private static func operand(_ activation: Activation) -> Fill {
        switch activation {
        case .relu: .tied
        case .relu6: .range(-1, 7)
        case .hardSigmoid: .range(-0.2, 1.2)
        case .sigmoid: .range(0, 1)
        case .hardSwish, .silu, .gelu: .range(-8, 8)
        }
    }

    static let activationCases: [ConformanceCase] = shapes.flatMap { name, s, quick in
        Activation.allCases.flatMap { activation in
            let tag = "\(activation.rawValue).\(name)"
            return [
                ConformanceCase(
                    "activation.\(tag)", .activation(s, activation), fills: [0: .range(-8, 8)], quick: quick),
                ConformanceCase(
                    "activation.far.\(tag)", .activation(s, activation), fills: [0: .range(-60, 60)]),
                ConformanceCase(
                    "activation.nan.\(tag)", .activation(s, activation), fills: [0: .special(.nan, every: 3)]),
                ConformanceCase(
                    "activation.inPlace.\(tag)", .activation(s, activation), fills: [0: .range(-8, 8)],
                    setting: .inPlace(0)),
                ConformanceCase(
                    "activationGradient.\(tag)", .activationGradient(s, activation),
                    fills: [1: operand(activation)], quick: quick),
                ConformanceCase(
                    "activationGradient.inPlace.\(tag)", .activationGradient(s, activation),
                    fills: [1: operand(activation)], setting: .inPlace(0)),
            ]
        } + [
            ConformanceCase("channelScale.\(name)", .channelScale(s), quick: quick),
            ConformanceCase("channelScale.inPlace.\(name)", .channelScale(s), setting: .inPlace(0), quick: quick),
            ConformanceCase("channelScaleGradient.\(name)", .channelScaleGradient(s), quick: quick),
            ConformanceCase(
                "channelScaleGradient.positive.\(name)", .channelScaleGradient(s),
                fills: [0: .range(1, 2), 1: .range(0.5, 1)]),
            ConformanceCase("stochasticDepth.0.\(name)", .stochasticDepth(s, rate: 0, salt: 1)),
            ConformanceCase(
                "stochasticDepth.0.5.\(name)", .stochasticDepth(s, rate: 0.5, salt: 7), quick: quick),
            ConformanceCase(
                "stochasticDepth.0.2.\(name)", .stochasticDepth(s, rate: 0.2, salt: 3),
                constants: StepConstants(dropoutKey: .max)),
            ConformanceCase(
                "stochasticDepth.inPlace.\(name)", .stochasticDepth(s, rate: 0.5, salt: 9), setting: .inPlace(0),
                quick: quick),
        ]
    }

    /// Activations in the epilogue of what can hold one.
    static let fusedActivationCases: [ConformanceCase] = Activation.allCases.flatMap { activation in
        let s = shape(3, 19, 9, 7)
        let epilogue = Epilogue(bias: true, activation: activation)
        let normalized = Epilogue(activation: activation)
        let joined = Epilogue(residual: true, activation: activation)
        func square(_ output: Int, _ kernel: Int, stride: Int = 1, groups: Int = 1) -> ConvolutionGeometry {
            ConvolutionGeometry(
                input: s, outputChannels: output, kernelHeight: kernel, kernelWidth: kernel, strideHeight: stride,
                strideWidth: stride, paddingHeight: kernel / 2, paddingWidth: kernel / 2, groups: groups)
        }
        let name = activation.rawValue
        let large = ConvolutionGeometry(
            input: shape(2, 32, 33, 31), outputChannels: 33, kernelHeight: 1, kernelWidth: 1)
        let linear = ConvolutionGeometry(
            input: shape(5, 33, 1, 1), outputChannels: 10, kernelHeight: 1, kernelWidth: 1)
        let stem = ConvolutionGeometry(
            input: shape(2, 3, 15, 13), outputChannels: 24, kernelHeight: 3, kernelWidth: 3, strideHeight: 2,
            strideWidth: 2, paddingHeight: 1, paddingWidth: 1)
        let grouped = ConvolutionGeometry(
            input: shape(2, 24, 7, 9), outputChannels: 24, kernelHeight: 3, kernelWidth: 3, paddingHeight: 1,
            paddingWidth: 1, groups: 3)
        let variance: [Int: Fill] = [4: .range(0.25, 2)]
        // Every activation is a program of its own: those whose value at zero differs stand for the rest elsewhere.
        var cases = [
            ConformanceCase("convolution.fused.\(name).1x1", .convolution(square(35, 1), epilogue), quick: true),
            ConformanceCase(
                "convolution.fused.\(name).depthwise", .convolution(square(19, 3, groups: 19), epilogue), quick: true),
            ConformanceCase(
                "batchNormalizationReplay.fused.\(name)", .batchNormalizationReplay(s, normalized), fills: variance,
                quick: true),
        ]
        guard [.relu6, .sigmoid].contains(activation) else { return cases }
        cases += [
            ConformanceCase("convolution.fused.\(name).large", .convolution(large, epilogue)),
            ConformanceCase("convolution.fused.\(name).linear", .convolution(linear, epilogue), quick: true),
            ConformanceCase("convolution.fused.\(name).stem", .convolution(stem, epilogue)),
            ConformanceCase("convolution.fused.\(name).groups", .convolution(grouped, epilogue)),
            ConformanceCase(
                "convolution.fused.\(name).residual",
                .convolution(square(35, 3, stride: 2), Epilogue(bias: true, residual: true, activation: activation))),
            ConformanceCase(
                "convolution.fused.\(name).depthwise.s2", .convolution(square(19, 5, stride: 2, groups: 19), epilogue)),
            ConformanceCase(
                "convolution.fused.\(name).winograd", .convolution(square(35, 3).with(.winograd), epilogue),
                quick: true),
            ConformanceCase(
                "batchNormalizationTraining.fused.\(name)",
                .batchNormalizationTraining(s, epsilon: 1e-3, momentum: 0.01, normalized), fills: variance,
                quick: true),
            ConformanceCase(
                "batchNormalizationInference.fused.\(name)",
                .batchNormalizationInference(s, epsilon: 1e-3, joined), fills: variance, quick: true),
        ]
        return cases
    }
}
