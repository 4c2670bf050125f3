import GraftGraph

/// The kinds of a primitive's operands, in the order that ``Primitive`` documents.
package struct Operands: Sendable {
    package var inputs: [ValueKind]
    package var outputs: [ValueKind]
    /// Outputs that are the same value as an input: output position to input position.
    package var sameValue: [Int: Int] = [:]
    /// Whether the outputs are gradients of trainable parameters and so lie in the gradient slab.
    package var outputsAreParameterGradients: Set<Int> = []

    init(
        _ inputs: [ValueKind], _ outputs: [ValueKind], sameValue: [Int: Int] = [:], parameterGradients: Set<Int> = []
    ) {
        self.inputs = inputs
        self.outputs = outputs
        self.sameValue = sameValue
        outputsAreParameterGradients = parameterGradients
    }
}

extension Primitive {
    /// What goes in and comes out. An optimizer update has no operands.
    package var operands: Operands {
        switch self {
        case .imageNormalization(let s, _, _):
            Operands([.pixels(batch: s.batch, height: s.height, width: s.width)], [.activation(s)])
        case .convolution(let g, let epilogue):
            Operands(
                [
                    .activation(g.input),
                    g.method == .winogradWithTransformedWeight ? .winogradWeight(g.weight) : .weight(g.weight),
                ]
                    + (epilogue.bias ? [.channelVector(g.outputChannels)] : [])
                    + (epilogue.residual ? [.activation(g.output)] : []),
                [.activation(epilogue.maxPooling?.output ?? g.output)])
        case .convolutionInputGradient(let g, let addend):
            Operands(
                [.activation(g.output), .weight(g.weight)] + (addend ? [.activation(g.input)] : []),
                [.activation(g.input)])
        case .convolutionWeightGradient(let g):
            Operands([.activation(g.input), .activation(g.output)], [.weight(g.weight)], parameterGradients: [0])
        case .channelSum(let s):
            Operands([.activation(s)], [.channelVector(s.channels)], parameterGradients: [0])
        case .batchNormalizationTraining(let s, _, _, let epilogue):
            Operands(
                [.activation(s)] + vectors(4, s) + (epilogue.residual ? [.activation(s)] : []),
                [.activation(s)] + vectors(4, s), sameValue: [3: 3, 4: 4])
        case .batchNormalizationInference(let s, _, let epilogue):
            Operands(
                [.activation(s)] + vectors(4, s) + (epilogue.residual ? [.activation(s)] : []), [.activation(s)])
        case .batchNormalizationReplay(let s, let epilogue):
            Operands(
                [.activation(s)] + vectors(4, s) + (epilogue.residual ? [.activation(s)] : []), [.activation(s)])
        case .batchNormalizationTrainingGradient(let s):
            Operands(
                [.activation(s), .activation(s)] + vectors(3, s), [.activation(s)] + vectors(2, s),
                parameterGradients: [1, 2])
        case .batchNormalizationInferenceGradient(let s, _):
            Operands([.activation(s)] + vectors(2, s), [.activation(s)])
        case .relu(let s), .dropout(let s, _, _), .activation(let s, _), .stochasticDepth(let s, _, _):
            Operands([.activation(s)], [.activation(s)])
        case .layerNormalization(let s, _): Operands([.activation(s)] + vectors(2, s), [.activation(s)])
        case .layerNormalizationGradient(let s, _):
            Operands(
                [.activation(s), .activation(s)] + vectors(1, s), [.activation(s)] + vectors(2, s),
                parameterGradients: [1, 2])
        case .layerScale(let s): Operands([.activation(s)] + vectors(1, s), [.activation(s)])
        case .layerScaleGradient(let s):
            Operands([.activation(s), .activation(s)], vectors(1, s), parameterGradients: [0])
        case .channelScale(let s): Operands([.activation(s), .activation(factors(s))], [.activation(s)])
        case .channelScaleGradient(let s): Operands([.activation(s), .activation(s)], [.activation(factors(s))])
        case .reluGradient(let s), .add(let s, _), .activationGradient(let s, _):
            Operands([.activation(s), .activation(s)], [.activation(s)])
        case .maxPooling(let g, let indices):
            Operands([.activation(g.input)], [.activation(g.output)] + (indices ? [.indices(g.output)] : []))
        case .maxPoolingGradient(let g):
            Operands([.activation(g.output), .indices(g.output)], [.activation(g.input)])
        case .averagePooling(let g): Operands([.activation(g.input)], [.activation(g.output)])
        case .averagePoolingGradient(let g): Operands([.activation(g.output)], [.activation(g.input)])
        case .adaptiveAveragePooling(let s, let height, let width):
            Operands([.activation(s)], [.activation(ActivationShape(s.batch, s.channels, height, width))])
        case .adaptiveAveragePoolingGradient(let s, let height, let width):
            Operands([.activation(ActivationShape(s.batch, s.channels, height, width))], [.activation(s)])
        case .concatenation(let s, let channels):
            Operands(channels.map { .activation(s.with(channels: $0)) }, [.activation(s)])
        case .channelSlice(let s, _, let count):
            Operands([.activation(s)], [.activation(s.with(channels: count))])
        case .flatten(let s): Operands([.activation(s)], [.activation(flattened(s))])
        case .flattenGradient(let s): Operands([.activation(flattened(s))], [.activation(s)])
        case .subsampleAndPad(let s, let stride, let before, let after):
            Operands([.activation(s)], [.activation(subsampled(s, stride, before + after))])
        case .subsampleAndPadGradient(let s, let stride, let before, let after):
            Operands([.activation(subsampled(s, stride, before + after))], [.activation(s)])
        case .softmaxCrossEntropy(let batch, let classes, _, let targets):
            Operands(
                [.activation(ActivationShape(batch, classes, 1, 1)), .labels(batch: batch)]
                    + (targets.isMixed ? [.labels(batch: batch), .channelVector(batch)] : [])
                    + (targets.isWeighted ? [.channelVector(classes)] : []),
                [.activation(ActivationShape(batch, classes, 1, 1)), .metrics])
        case .optimizerUpdate, .gradientAccumulation, .weightAveraging: Operands([], [])
        case .gradientNorm: Operands([], [.channelVector(2)])
        case .gradientScaling: Operands([.channelVector(2)], [])
        }
    }

    private func vectors(_ count: Int, _ shape: ActivationShape) -> [ValueKind] {
        [ValueKind](repeating: .channelVector(shape.channels), count: count)
    }

    private func factors(_ shape: ActivationShape) -> ActivationShape {
        ActivationShape(shape.batch, shape.channels, 1, 1)
    }

    private func flattened(_ shape: ActivationShape) -> ActivationShape {
        ActivationShape(shape.batch, shape.channels * shape.pixelCount, 1, 1)
    }

    private func subsampled(_ shape: ActivationShape, _ stride: Int, _ added: Int) -> ActivationShape {
        ActivationShape(
            shape.batch, shape.channels + added, (shape.height + stride - 1) / stride,
            (shape.width + stride - 1) / stride)
    }

    /// The same primitive on another number of images; nil where there is no batch.
    package func with(batch: Int) -> Primitive? {
        func sized(_ shape: ActivationShape) -> ActivationShape {
            var shape = shape
            shape.batch = batch
            return shape
        }
        func sized(_ geometry: ConvolutionGeometry) -> ConvolutionGeometry {
            var geometry = geometry
            geometry.input = sized(geometry.input)
            return geometry
        }
        func sized(_ geometry: PoolingGeometry) -> PoolingGeometry {
            var geometry = geometry
            geometry.input = sized(geometry.input)
            return geometry
        }
        switch self {
        case .imageNormalization(let s, let mean, let deviation):
            return .imageNormalization(sized(s), mean: mean, deviation: deviation)
        case .convolution(let g, var epilogue):
            epilogue.maxPooling = epilogue.maxPooling.map(sized)
            return .convolution(sized(g), epilogue)
        case .convolutionInputGradient(let g, let addend):
            return .convolutionInputGradient(sized(g), addend: addend)
        case .convolutionWeightGradient(let g): return .convolutionWeightGradient(sized(g))
        case .channelSum(let s): return .channelSum(sized(s))
        case .batchNormalizationTraining(let s, let epsilon, let momentum, let epilogue):
            return .batchNormalizationTraining(sized(s), epsilon: epsilon, momentum: momentum, epilogue)
        case .batchNormalizationInference(let s, let epsilon, let epilogue):
            return .batchNormalizationInference(sized(s), epsilon: epsilon, epilogue)
        case .batchNormalizationReplay(let s, let epilogue): return .batchNormalizationReplay(sized(s), epilogue)
        case .batchNormalizationTrainingGradient(let s): return .batchNormalizationTrainingGradient(sized(s))
        case .batchNormalizationInferenceGradient(let s, let epsilon):
            return .batchNormalizationInferenceGradient(sized(s), epsilon: epsilon)
        case .relu(let s): return .relu(sized(s))
        case .reluGradient(let s): return .reluGradient(sized(s))
        case .activation(let s, let activation): return .activation(sized(s), activation)
        case .activationGradient(let s, let activation): return .activationGradient(sized(s), activation)
        case .layerNormalization(let s, let epsilon): return .layerNormalization(sized(s), epsilon: epsilon)
        case .layerNormalizationGradient(let s, let epsilon):
            return .layerNormalizationGradient(sized(s), epsilon: epsilon)
        case .layerScale(let s): return .layerScale(sized(s))
        case .layerScaleGradient(let s): return .layerScaleGradient(sized(s))
        case .channelScale(let s): return .channelScale(sized(s))
        case .channelScaleGradient(let s): return .channelScaleGradient(sized(s))
        case .stochasticDepth(let s, let rate, let salt): return .stochasticDepth(sized(s), rate: rate, salt: salt)
        case .maxPooling(let g, let indices): return .maxPooling(sized(g), indices: indices)
        case .maxPoolingGradient(let g): return .maxPoolingGradient(sized(g))
        case .averagePooling(let g): return .averagePooling(sized(g))
        case .averagePoolingGradient(let g): return .averagePoolingGradient(sized(g))
        case .adaptiveAveragePooling(let s, let height, let width):
            return .adaptiveAveragePooling(sized(s), outputHeight: height, outputWidth: width)
        case .adaptiveAveragePoolingGradient(let s, let height, let width):
            return .adaptiveAveragePoolingGradient(sized(s), outputHeight: height, outputWidth: width)
        case .add(let s, let relu): return .add(sized(s), relu: relu)
        case .concatenation(let s, let channels): return .concatenation(sized(s), channels: channels)
        case .channelSlice(let s, let offset, let count): return .channelSlice(sized(s), offset: offset, count: count)
        case .dropout(let s, let rate, let salt): return .dropout(sized(s), rate: rate, salt: salt)
        case .flatten(let s): return .flatten(sized(s))
        case .flattenGradient(let s): return .flattenGradient(sized(s))
        case .subsampleAndPad(let s, let stride, let before, let after):
            return .subsampleAndPad(sized(s), stride: stride, before: before, after: after)
        case .subsampleAndPadGradient(let s, let stride, let before, let after):
            return .subsampleAndPadGradient(sized(s), stride: stride, before: before, after: after)
        case .softmaxCrossEntropy(_, let classes, let smoothing, let targets):
            return .softmaxCrossEntropy(
                batch: batch, classes: classes, labelSmoothing: smoothing, targets: targets)
        case .optimizerUpdate, .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging: return nil
        }
    }
}
