import GraftGraph

extension Primitive {
    /// Floats of scratch that all threads share while the primitive runs; a function of its shapes and of the kernels'
    /// register tile alone.
    func workspaceFloatCount(registerRows: Int) -> Int {
        switch self {
        case .convolution(let geometry, _): geometry.forwardWorkspaceFloatCount(registerRows: registerRows)
        case .convolutionInputGradient(let geometry, _):
            geometry.isDepthwise
                ? 0
                : geometry.usesWinograd
                    ? WeightBlocking(geometry.transposedWeight.winograd).elementCount
                        + geometry.winogradInputGradientPlan(registerRows: registerRows).workspaceFloatCount
                    : WeightBlocking(geometry.transposedWeight).elementCount
        case .convolutionWeightGradient(let geometry): geometry.weightGradientWorkspaceFloatCount
        case .channelSum(let shape): shape.blocks * PlaneChunks(shape).count * 16
        case .batchNormalizationTraining(let shape, _, _, _): shape.blocks * PlaneChunks(shape).count * 48
        case .batchNormalizationTrainingGradient(let shape): shape.blocks * PlaneChunks(shape).count * 32
        case .layerNormalizationGradient(let shape, _): LayerNormalizationSplit(shape).workspaceFloatCount(shape)
        case .layerScaleGradient(let shape): shape.blocks * shape.batch * 16
        case .softmaxCrossEntropy(let batch, _, _, _): batch * 4
        case .gradientNorm: GradientNorm.partialCount * 16
        case .imageNormalization, .batchNormalizationInference, .batchNormalizationReplay,
            .batchNormalizationInferenceGradient, .relu,
            .reluGradient, .layerNormalization, .layerScale, .activation, .activationGradient, .channelScale,
            .channelScaleGradient, .stochasticDepth,
            .maxPooling, .maxPoolingGradient, .averagePooling,
            .averagePoolingGradient, .adaptiveAveragePooling, .adaptiveAveragePoolingGradient, .add, .concatenation,
            .channelSlice, .dropout, .flatten, .flattenGradient, .subsampleAndPad, .subsampleAndPadGradient,
            .optimizerUpdate, .gradientAccumulation, .gradientScaling, .weightAveraging:
            0
        }
    }
}

extension ConvolutionGeometry {
    fileprivate func forwardWorkspaceFloatCount(registerRows: Int) -> Int {
        if isDepthwise { return 0 }
        if usesWinograd {
            return winogradPlan(registerRows: registerRows).workspaceFloatCount
                + (method == .winograd ? WeightBlocking(weight.winograd).elementCount : 0)
        }
        return usesDenseReduction ? WeightBlocking(weight).outputBlockCount * tapCount * input.channels * 32 : 0
    }

    fileprivate var weightGradientWorkspaceFloatCount: Int {
        if isDepthwise { return DepthwiseGradientSplit(self).workspaceFloatCount(weight) }
        if usesDenseReduction {
            let split = DenseWeightGradientSplit(self)
            return split.partialCount * split.partialFloats
        }
        if usesWinograd { return winogradWeightGradientWorkspaceFloatCount }
        let partialCount = weightGradientSplit.partialCount
        return partialCount > 1 ? partialCount * WeightBlocking(weight).elementCount : 0
    }
}

/// A channel block's pixels (all images) in pieces that the first-level cache holds; the unit of two-pass statistics.
struct PlaneChunks {
    static let pixels = 256
    let pixelCount: Int
    let count: Int

    init(_ shape: ActivationShape) {
        pixelCount = shape.pixels
        count = (shape.pixels + Self.pixels - 1) / Self.pixels
    }

    func range(_ chunk: Int) -> Range<Int> { chunk * Self.pixels..<min((chunk + 1) * Self.pixels, pixelCount) }
}
