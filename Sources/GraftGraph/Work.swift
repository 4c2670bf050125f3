import GraftTensor

extension Graph {
    /// Multiply-accumulate operations of a node's forward pass; 0 for layers without a matrix product.
    ///
    /// - Parameters:
    ///   - index: the node.
    ///   - shapes: what ``shapes(batch:height:width:)`` gave.
    /// - Returns: the count for the batch of `shapes`.
    package func multiplyAccumulateCount(of index: Int, shapes: [ActivationShape]) -> Int {
        let node = nodes[index]
        switch node.layer {
        case .convolution(let layer): return layer.geometry(shapes[node.inputs[0]]).multiplyAccumulateCount
        case .linear(let input, let output), .pixelwiseLinear(let input, let output):
            return shapes[index].batch * shapes[index].pixelCount * input * output
        case .input, .batchNormalization, .layerNormalization, .layerScale, .relu, .activation, .maxPooling,
            .averagePooling, .adaptiveAveragePooling,
            .add, .concatenation, .dropout, .stochasticDepth, .channelScale, .flatten, .subsampleAndPad:
            return 0
        }
    }
}

extension Primitive {
    /// Multiply-accumulate operations as the direct sum counts them, whatever the method; 0 where memory alone decides.
    package var multiplyAccumulateCount: Int { multiplies?.multiplyAccumulateCount ?? 0 }

    /// Whether it is a depthwise convolution or a gradient of one.
    package var isDepthwise: Bool { multiplies?.isDepthwise ?? false }

    /// The convolution that it is, or is a gradient of.
    private var multiplies: ConvolutionGeometry? {
        switch self {
        case .convolution(let geometry, _), .convolutionInputGradient(let geometry, _),
            .convolutionWeightGradient(let geometry):
            geometry
        case .imageNormalization, .channelSum, .batchNormalizationTraining, .batchNormalizationInference,
            .batchNormalizationReplay, .batchNormalizationTrainingGradient, .batchNormalizationInferenceGradient, .relu,
            .reluGradient, .layerNormalization, .layerNormalizationGradient, .layerScale, .layerScaleGradient,
            .activation, .activationGradient, .channelScale, .channelScaleGradient, .stochasticDepth,
            .maxPooling, .maxPoolingGradient, .averagePooling, .averagePoolingGradient, .adaptiveAveragePooling,
            .adaptiveAveragePoolingGradient, .add, .concatenation, .channelSlice, .dropout, .flatten,
            .flattenGradient, .subsampleAndPad, .subsampleAndPadGradient, .softmaxCrossEntropy, .optimizerUpdate,
            .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging:
            nil
        }
    }
}

extension Program {
    /// Bytes of an instruction's operands in host layout, each counted once: no implementation moves fewer.
    package func operandByteCount(of instruction: Instruction) -> Int {
        if case .optimizerUpdate(let rule, let cohort) = instruction.primitive {
            let parameters = values.reduce(0) { sum, value in
                guard case .parameter(_, _, cohort) = value.storage else { return sum }
                return sum + value.kind.hostByteCount
            }
            // Parameters and state are read and written, gradients read.
            return parameters * (3 + 2 * rule.stateCount)
        }
        var slabByteCount: Int {
            values.reduce(0) { sum, value in
                guard case .parameter = value.storage else { return sum }
                return sum + value.kind.hostByteCount
            }
        }
        switch instruction.primitive.kind {
        case .gradientAccumulation: return 4 * slabByteCount
        case .gradientNorm: return slabByteCount + 8
        case .gradientScaling: return 2 * slabByteCount + 8
        case .weightAveraging: return 3 * slabByteCount
        default: break
        }
        return (instruction.inputs + instruction.outputs).reduce(0) { $0 + self[$1].kind.hostByteCount }
    }
}

extension ValueKind {
    /// Bytes on the host.
    package var hostByteCount: Int {
        switch self {
        case .pixels: hostShape.elementCount
        case .activation, .indices, .weight, .winogradWeight, .channelVector, .labels, .metrics:
            4 * hostShape.elementCount
        }
    }
}

extension Primitive {
    /// The kind, and the method of a convolution that is not summed directly: for profiles.
    package var label: String {
        (multiplies?.method ?? .direct) != .direct ? "\(kind.rawValue) (Winograd)" : kind.rawValue
    }

    /// The extents that decide the work, for profiles: `[8, 64, 56, 56] 3×3 → 128 /2`.
    package var shapeText: String {
        switch self {
        case .convolution(let g, let epilogue) where epilogue.maxPooling != nil:
            Primitive.convolution(g, .none).shapeText
                + (epilogue.maxPooling.map { ", max \($0.kernelHeight)×\($0.kernelWidth) /\($0.strideHeight)" } ?? "")
        case .convolution(let g, _), .convolutionInputGradient(let g, _), .convolutionWeightGradient(let g):
            "\(g.input) \(g.kernelHeight)×\(g.kernelWidth) → \(g.outputChannels)"
                + (g.strideHeight > 1 ? " /\(g.strideHeight)" : "") + (g.groups > 1 ? " groups \(g.groups)" : "")
        case .maxPooling(let g, _), .maxPoolingGradient(let g), .averagePooling(let g), .averagePoolingGradient(let g):
            "\(g.input) \(g.kernelHeight)×\(g.kernelWidth) /\(g.strideHeight)"
        case .imageNormalization(let shape, _, _), .channelSum(let shape),
            .batchNormalizationTraining(let shape, _, _, _), .batchNormalizationInference(let shape, _, _),
            .batchNormalizationReplay(let shape, _), .batchNormalizationTrainingGradient(let shape),
            .batchNormalizationInferenceGradient(let shape, _),
            .relu(let shape), .reluGradient(let shape), .activation(let shape, _), .activationGradient(let shape, _),
            .layerNormalization(let shape, _), .layerNormalizationGradient(let shape, _), .layerScale(let shape),
            .layerScaleGradient(let shape), .channelScale(let shape), .channelScaleGradient(let shape),
            .stochasticDepth(let shape, _, _),
            .adaptiveAveragePooling(let shape, _, _),
            .adaptiveAveragePoolingGradient(let shape, _, _), .add(let shape, _), .concatenation(let shape, _),
            .channelSlice(let shape, _, _), .dropout(let shape, _, _), .flatten(let shape),
            .flattenGradient(let shape), .subsampleAndPad(let shape, _, _, _),
            .subsampleAndPadGradient(let shape, _, _, _):
            shape.description
        case .softmaxCrossEntropy(let batch, let classes, _, _): "[\(batch), \(classes)]"
        case .optimizerUpdate(_, let cohort): "cohort \(cohort)"
        case .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging: "all cohorts"
        }
    }
}
