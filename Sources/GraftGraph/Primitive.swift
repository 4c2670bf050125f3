/// What is applied to each element of a convolution's or batch norm's result before it is stored, in this order:
/// `+ bias`, `+ residual`, the activation. A convolution can pool the result.
package struct Epilogue: Hashable, Sendable {
    /// A channel vector is added (convolution only; batch norm has its own shift).
    package var bias: Bool
    /// An activation of the output's shape is added.
    package var residual: Bool
    /// The function applied last. NaN stays NaN, as in `torch.relu`.
    package var activation: Activation?
    /// The output is the maxima of windows over the result (convolution only, where
    /// ``ConvolutionGeometry/canPool(_:_:)`` says so): the result itself is never in memory as a whole.
    package var maxPooling: PoolingGeometry?

    package init(bias: Bool = false, residual: Bool = false, activation: Activation?) {
        self.bias = bias
        self.residual = residual
        self.activation = activation
    }

    package init(bias: Bool = false, residual: Bool = false, relu: Bool = false) {
        self.init(bias: bias, residual: residual, activation: relu ? .relu : nil)
    }

    /// The same without the pooling.
    package var unpooled: Epilogue {
        var copy = self
        copy.maxPooling = nil
        return copy
    }

    /// Whether the activation is the plain ReLU, which kernels apply in registers.
    package var relu: Bool { activation == .relu }

    /// An activation other than ReLU.
    package var furtherActivation: Activation? { activation == .relu ? nil : activation }

    package static let none = Epilogue()
}

/// The update rule of an optimizer, as in `torch.optim`. Rates and step counts come with each step (``CohortConstants``).
package enum OptimizerRule: Hashable, Sendable {
    /// `g += wd·w; b = first ? g : momentum·b + g; u = nesterov ? g + momentum·b : b; w −= lr·u`. State: b (only if `momentum`).
    case sgd(momentum: Bool, nesterov: Bool)
    /// `g += wd·w` (adam) or `w *= 1 − lr·wd` (decoupled: AdamW), then
    /// `m = β₁m + (1−β₁)g; v = β₂v + (1−β₂)g²; w −= (lr/bc₁) · m / (√v/√bc₂ + ε)`. State: m, v; zero at first.
    case adam(decoupledWeightDecay: Bool)

    /// How many state slabs the rule keeps.
    package var stateCount: Int {
        switch self {
        case .sgd(let momentum, _): momentum ? 1 : 0
        case .adam: 2
        }
    }
}

/// What the targets of a loss are besides one label for each image.
package struct LossTargets: Hashable, Sendable {
    /// Each image has a second label, and the share of the first: `target = (1−s)·(share·onehot(a) + (1−share)·onehot(b)) + s/classes`.
    package var isMixed: Bool
    /// Each class has a weight; with one label the mean divides by the labels' weights, as `torch.nn.CrossEntropyLoss` does.
    package var isWeighted: Bool

    package init(isMixed: Bool = false, isWeighted: Bool = false) {
        self.isMixed = isMixed
        self.isWeighted = isWeighted
    }

    /// One label each, classes alike.
    package static let labels = LossTargets()
}

/// Everything that a device can be asked to do. Closed on purpose: backends `switch` over it without `default:`.
///
/// Operands are listed as `inputs → outputs`. Activations are `a[N,C,H,W]`, weights `w`, channel vectors `v[C]`.
/// Every output is overwritten in full, padding lanes of a private layout included (with zero), so that a slot may hold
/// anything before. Unless noted, an output must not share a slot with an input; ``allowsInPlace`` says where it may.
package enum Primitive: Hashable, Sendable {
    /// `pixels[N,H,W,3] uint8 → a[N,3,H,W]`: `(u/255 − mean[c]) / deviation[c]` in float32, division not reciprocal.
    case imageNormalization(ActivationShape, mean: [Float], deviation: [Float])

    /// `x, w, [bias v], [residual a] → y`.
    case convolution(ConvolutionGeometry, Epilogue)
    /// `dy, w, [addend a of x's shape] → dx`: the transpose of the convolution; `addend` is the gradient gathered so far.
    case convolutionInputGradient(ConvolutionGeometry, addend: Bool)
    /// `x, dy → dw`. A fixed order of summation.
    case convolutionWeightGradient(ConvolutionGeometry)
    /// `a → v`: sum over N, H, W of each channel; the gradient of a bias.
    case channelSum(ActivationShape)

    /// `x, gamma v, beta v, runningMean v, runningVariance v, [residual a] → y, mean v, inverseDeviation v, runningMean v, runningVariance v`
    /// where the last two outputs are the same values as the inputs, updated in place: `new = (1−m)·old + m·batch`, with the unbiased variance.
    /// `epilogue.bias` is false. Variance is two-pass or Welford.
    case batchNormalizationTraining(ActivationShape, epsilon: Float, momentum: Float, Epilogue)
    /// `x, gamma v, beta v, runningMean v, runningVariance v, [residual a] → y`.
    case batchNormalizationInference(ActivationShape, epsilon: Float, Epilogue)
    /// `x, gamma v, beta v, mean v, inverseDeviation v, [residual a] → y`: once more what ``batchNormalizationTraining``
    /// made of x with these statistics, bit for bit, so that a training step need not keep y for its backward pass.
    case batchNormalizationReplay(ActivationShape, Epilogue)
    /// `x, dy, gamma v, mean v, inverseDeviation v → dx, dgamma v, dbeta v` (dy is the gradient before the epilogue).
    case batchNormalizationTrainingGradient(ActivationShape)
    /// `dy, gamma v, runningVariance v → dx`: parameters frozen, running statistics.
    case batchNormalizationInferenceGradient(ActivationShape, epsilon: Float)

    /// `x → y`: `max(0, x)`. In place allowed.
    case relu(ActivationShape)
    /// `dy, y → dx`: `y > 0 ? dy : 0`. In place of dy allowed.
    case reluGradient(ActivationShape)
    /// `x → y`. In place allowed.
    case activation(ActivationShape, Activation)
    /// `dy, v → dx`: v is the activation's argument or result, see ``Activation/gradientReads``. In place of dy allowed.
    case activationGradient(ActivationShape, Activation)

    /// `x, gamma v, beta v → y`: each pixel's channels minus their mean, over the root of their (biased) variance plus
    /// epsilon, times gamma, plus beta: `torch.nn.LayerNorm` over the channels. Variance is two-pass.
    case layerNormalization(ActivationShape, epsilon: Float)
    /// `x, dy, gamma v → dx, dgamma v, dbeta v`.
    case layerNormalizationGradient(ActivationShape, epsilon: Float)
    /// `x, v → y`: `x · v`, one factor per channel; also the gradient of x. In place of x allowed.
    case layerScale(ActivationShape)
    /// `x, dy → dv`: `Σ x · dy` over images and pixels, in a fixed order.
    case layerScaleGradient(ActivationShape)

    /// `x, s[N,C,1,1] → y`: `x · s`, one factor per image and channel; also the gradient of x. In place of x allowed.
    case channelScale(ActivationShape)
    /// `x, dy → ds[N,C,1,1]`: `Σ x · dy` over each plane, in a fixed order.
    case channelScaleGradient(ActivationShape)

    /// `x → y, [indices int32 of y's shape]`: pads with −∞, ties go to the first, NaN wins; an index is `h·W + w` in x's plane.
    case maxPooling(PoolingGeometry, indices: Bool)
    /// `dy, indices → dx`. Overlapping windows add.
    case maxPoolingGradient(PoolingGeometry)
    /// `x → y`.
    case averagePooling(PoolingGeometry)
    /// `dy → dx`.
    case averagePoolingGradient(PoolingGeometry)
    /// `x → y[N,C,outputHeight,outputWidth]`: bin i covers `⌊i·H/outputHeight⌋ ..< ⌈(i+1)·H/outputHeight⌉`.
    case adaptiveAveragePooling(ActivationShape, outputHeight: Int, outputWidth: Int)
    /// `dy → dx`.
    case adaptiveAveragePoolingGradient(ActivationShape, outputHeight: Int, outputWidth: Int)

    /// `a, b → y`: `a + b`, then `max(0, ·)` if `relu`. In place of a or b allowed.
    case add(ActivationShape, relu: Bool)
    /// `a₀[N,channels₀,H,W], a₁, … → y`: along channels. The shape is the output's.
    case concatenation(ActivationShape, channels: [Int])
    /// `a → y[N,count,H,W]`: channels `offset ..< offset+count`; the gradient of a concatenation. The shape is the input's.
    case channelSlice(ActivationShape, offset: Int, count: Int)

    /// `x → y`: `keep(i) ? x / (1 − rate) : 0`, see ``DropoutMask``; also its own gradient. In place allowed.
    case dropout(ActivationShape, rate: Float, salt: UInt32)
    /// `x → y`: `keep(n) ? x / (1 − rate) : 0` for whole images, see ``DropoutMask``; also its own gradient. In place allowed.
    case stochasticDepth(ActivationShape, rate: Float, salt: UInt32)
    /// `x[N,C,H,W] → y[N,C·H·W,1,1]`.
    case flatten(ActivationShape)
    /// `dy[N,C·H·W,1,1] → dx[N,C,H,W]`. The shape is dx's.
    case flattenGradient(ActivationShape)

    /// `x[N,C,H,W] → y[N,before+C+after,⌈H/stride⌉,⌈W/stride⌉]`: every stride-th pixel, zero channels around (the option-A shortcut of He et al. 2015).
    case subsampleAndPad(ActivationShape, stride: Int, before: Int, after: Int)
    /// `dy → dx`; the shape is dx's.
    case subsampleAndPadGradient(ActivationShape, stride: Int, before: Int, after: Int)

    /// `logits a[N,classes,1,1], labels int32[N] → dlogits a, metrics[2]`: metrics = mean loss, count of correct arg-max (first on ties).
    /// `dlogits = (softmax − target) / N`, `target = (1−s)·onehot + s/classes`. The loss is `log1p(Σ_{j≠max} e^{x_j−max}) − …`, exact for small losses.
    ///
    /// Mixed targets have the further inputs `second labels int32[N], shares v[N]`; the prediction is held against the label
    /// with the larger share. Weighted ones have `weights v[classes]` last: with `u = weights · target`,
    /// `loss = Σ_j u_j·(log Σ − x_j) / D` and `dlogits = (softmax·Σu − u) / D`, where D is N for mixed targets and else the
    /// sum of the labels' weights.
    case softmaxCrossEntropy(batch: Int, classes: Int, labelSmoothing: Float, targets: LossTargets = .labels)

    /// No operands: updates the slab range of one cohort (see ``MemoryPlan/cohorts``) from its gradients, in one launch.
    case optimizerUpdate(OptimizerRule, cohort: Int)
    /// No operands, all cohorts: `sum = share ≥ 1 ? g : sum + share·(g − sum); g = sum`, where `sum` is the state slab of this
    /// number and the share comes with the step (``StepConstants/accumulationShare``): the running mean of the gradients of
    /// several batches.
    case gradientAccumulation(state: Int)
    /// `→ v[2]`, from the gradients of all cohorts: their Euclidean norm, and what they are to be multiplied with so that it
    /// does not exceed the maximum: `min(1, maximum / (norm + 1e-6))` (`torch.nn.utils.clip_grad_norm_`). A fixed order of
    /// summation.
    case gradientNorm(maximum: Float)
    /// `v[2] →`: the gradients of all cohorts times the vector's second element.
    case gradientScaling
    /// No operands, all cohorts: `average += (1 − decay)·(w − average)`, where `average` is the state slab of this number.
    case weightAveraging(state: Int, decay: Float)
}

extension Primitive {
    /// The names of all primitives, for the coverage test of the conformance suite.
    package enum Kind: String, CaseIterable, Sendable {
        case imageNormalization, convolution, convolutionInputGradient, convolutionWeightGradient, channelSum
        case batchNormalizationTraining, batchNormalizationInference, batchNormalizationTrainingGradient
        case batchNormalizationReplay, batchNormalizationInferenceGradient, relu, reluGradient, maxPooling,
            maxPoolingGradient, averagePooling
        case averagePoolingGradient, adaptiveAveragePooling, adaptiveAveragePoolingGradient, add, concatenation
        case channelSlice, dropout, flatten, flattenGradient, subsampleAndPad, subsampleAndPadGradient
        case activation, activationGradient, channelScale, channelScaleGradient, stochasticDepth
        case layerNormalization, layerNormalizationGradient, layerScale, layerScaleGradient
        case softmaxCrossEntropy, optimizerUpdate, gradientAccumulation, gradientNorm, gradientScaling, weightAveraging
    }

    /// The name of this primitive.
    package var kind: Kind {
        switch self {
        case .imageNormalization: .imageNormalization
        case .convolution: .convolution
        case .convolutionInputGradient: .convolutionInputGradient
        case .convolutionWeightGradient: .convolutionWeightGradient
        case .channelSum: .channelSum
        case .batchNormalizationTraining: .batchNormalizationTraining
        case .batchNormalizationInference: .batchNormalizationInference
        case .batchNormalizationReplay: .batchNormalizationReplay
        case .batchNormalizationTrainingGradient: .batchNormalizationTrainingGradient
        case .batchNormalizationInferenceGradient: .batchNormalizationInferenceGradient
        case .relu: .relu
        case .reluGradient: .reluGradient
        case .activation: .activation
        case .activationGradient: .activationGradient
        case .channelScale: .channelScale
        case .channelScaleGradient: .channelScaleGradient
        case .layerNormalization: .layerNormalization
        case .layerNormalizationGradient: .layerNormalizationGradient
        case .layerScale: .layerScale
        case .layerScaleGradient: .layerScaleGradient
        case .maxPooling: .maxPooling
        case .maxPoolingGradient: .maxPoolingGradient
        case .averagePooling: .averagePooling
        case .averagePoolingGradient: .averagePoolingGradient
        case .adaptiveAveragePooling: .adaptiveAveragePooling
        case .adaptiveAveragePoolingGradient: .adaptiveAveragePoolingGradient
        case .add: .add
        case .concatenation: .concatenation
        case .channelSlice: .channelSlice
        case .dropout: .dropout
        case .stochasticDepth: .stochasticDepth
        case .flatten: .flatten
        case .flattenGradient: .flattenGradient
        case .subsampleAndPad: .subsampleAndPad
        case .subsampleAndPadGradient: .subsampleAndPadGradient
        case .softmaxCrossEntropy: .softmaxCrossEntropy
        case .optimizerUpdate: .optimizerUpdate
        case .gradientAccumulation: .gradientAccumulation
        case .gradientNorm: .gradientNorm
        case .gradientScaling: .gradientScaling
        case .weightAveraging: .weightAveraging
        }
    }

    /// The positions of inputs whose slot output 0 may take when the input dies there.
    package var inPlaceInputs: [Int] {
        switch self {
        case .relu, .dropout, .stochasticDepth, .activation, .channelScale, .layerScale: [0]
        case .reluGradient, .activationGradient: [0]
        case .add: [0, 1]
        case .imageNormalization, .convolution, .convolutionInputGradient, .convolutionWeightGradient, .channelSum,
            .batchNormalizationTraining, .batchNormalizationInference, .batchNormalizationReplay,
            .batchNormalizationTrainingGradient, .batchNormalizationInferenceGradient, .maxPooling, .maxPoolingGradient,
            .averagePooling,
            .averagePoolingGradient, .adaptiveAveragePooling, .adaptiveAveragePoolingGradient, .concatenation,
            .channelSlice, .channelScaleGradient, .layerNormalization, .layerNormalizationGradient, .layerScaleGradient,
            .flatten, .flattenGradient, .subsampleAndPad,
            .subsampleAndPadGradient, .softmaxCrossEntropy, .optimizerUpdate, .gradientAccumulation, .gradientNorm,
            .gradientScaling, .weightAveraging:
            []
        }
    }

    /// The ranges of parameters, gradients and state that a primitive works on besides its operands.
    package func slabs(of plan: MemoryPlan) throws(DeviceError) -> CohortSlots? {
        switch self {
        case .optimizerUpdate(_, let cohort):
            guard plan.cohorts.indices.contains(cohort) else {
                throw .unsupported("the memory plan has no cohort \(cohort)")
            }
            return plan.cohorts[cohort]
        case .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging:
            guard let slabs = plan.slabs else { throw .unsupported("the memory plan has nothing that trains") }
            return slabs
        case .imageNormalization, .convolution, .convolutionInputGradient, .convolutionWeightGradient, .channelSum,
            .batchNormalizationTraining, .batchNormalizationInference, .batchNormalizationReplay,
            .batchNormalizationTrainingGradient, .batchNormalizationInferenceGradient, .relu, .reluGradient,
            .maxPooling,
            .maxPoolingGradient, .averagePooling, .averagePoolingGradient, .adaptiveAveragePooling,
            .adaptiveAveragePoolingGradient, .add, .concatenation, .channelSlice, .dropout, .flatten, .flattenGradient,
            .subsampleAndPad, .subsampleAndPadGradient, .activation, .activationGradient, .channelScale,
            .channelScaleGradient, .stochasticDepth, .layerNormalization, .layerNormalizationGradient, .layerScale,
            .layerScaleGradient, .softmaxCrossEntropy:
            return nil
        }
    }
}

/// Which elements dropout keeps: a pure function of (step key, salt, logical NCHW index), equal on every backend.
package enum DropoutMask {
    /// The 32-bit key of one dropout layer in one step, computed on the host.
    package static func key(step: UInt64, salt: UInt32) -> UInt32 {
        mix(UInt32(truncatingIfNeeded: step) ^ mix(UInt32(truncatingIfNeeded: step >> 32) ^ mix(salt &+ 0x9E37_79B9)))
    }

    /// Finalizer "lowbias32" of C. Wellons: a bijection on 32 bits. Backends repeat it in their own language.
    package static func mix(_ value: UInt32) -> UInt32 {
        var x = value
        x = (x ^ (x >> 16)) &* 0x7FEB_352D
        x = (x ^ (x >> 15)) &* 0x846C_A68B
        return x ^ (x >> 16)
    }

    /// `index` is the flat NCHW index modulo 2³². Kept where `mix(key ^ mix(index)) >= threshold`.
    package static func keeps(key: UInt32, index: UInt32, threshold: UInt32) -> Bool {
        mix(key ^ mix(index)) >= threshold
    }

    /// `⌊rate · 2³²⌋`, at most 2³² − 1.
    package static func threshold(rate: Float) -> UInt32 {
        UInt32(min(Double(rate) * 4_294_967_296, 4_294_967_295))
    }
}
