import GraftGraph

extension Primitive {
    /// Floats of scratch that all threads share while the primitive runs; a function of its shapes alone.
    var workspaceFloatCount: Int {
        switch self {
        case .convolution(let geometry, _):
            geometry.usesDenseReduction
                ? WeightBlocking(geometry.weight).outputBlockCount * geometry.denseBlockCount * 512 : 0
        case .convolutionInputGradient(let geometry, _): WeightBlocking(geometry.transposedWeight).elementCount
        case .convolutionWeightGradient(let geometry):
            geometry.weightGradientSplit.partialCount > 1
                ? geometry.weightGradientSplit.partialCount * WeightBlocking(geometry.weight).elementCount : 0
        case .channelSum(let shape): shape.blocks * PlaneChunks(shape).count * 16
        case .batchNormalizationTraining(let shape, _, _, _): shape.blocks * PlaneChunks(shape).count * 32
        case .batchNormalizationTrainingGradient(let shape): shape.blocks * PlaneChunks(shape).count * 32
        case .softmaxCrossEntropy(let batch, _, _): batch * 4
        case .imageNormalization, .batchNormalizationInference, .batchNormalizationInferenceGradient, .relu,
            .reluGradient, .maxPooling, .maxPoolingGradient, .averagePooling,
            .averagePoolingGradient, .adaptiveAveragePooling, .adaptiveAveragePoolingGradient, .add, .concatenation,
            .channelSlice, .dropout, .flatten, .flattenGradient, .subsampleAndPad, .subsampleAndPadGradient,
            .optimizerUpdate:
            0
        }
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
