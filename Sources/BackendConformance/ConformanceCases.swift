import GraftGraph
import GraftTensor

/// The cases that every backend passes.
///
/// Sizes come from {1, 2, 3, 5, 7, 31, 32, 33, 63, 64, 65}, height and width differ, channels lie off the tiles of 16
/// and 32. Left out: batch norm in training over a single value per channel, which PyTorch refuses (its unbiased
/// variance is 0/0), and windows that lie on padding alone, which no geometry of `torch.nn.MaxPool2d` gives.
package enum ConformanceCases {
    /// Everything.
    package static let all: [ConformanceCase] =
        convolutionCases + winogradCases + linearCases + normalizationCases + elementwiseCases + activationCases
        + fusedActivationCases + layerNormalizationCases + poolingCases + dataMovementCases + lossCases + optimizerCases
        + slabCases + inPlaceCases + shortBatchCases

    /// Small cases of every primitive, for simulators.
    package static let quick: [ConformanceCase] = all.filter(\.isQuick)

    /// Primitives without a case; empty, or a primitive was added without one.
    package static func uncovered(by cases: [ConformanceCase] = all) -> [Primitive.Kind] {
        let covered = Set(cases.map(\.primitive.kind))
        return Primitive.Kind.allCases.filter { !covered.contains($0) }
    }

    static func shape(_ n: Int, _ c: Int, _ h: Int, _ w: Int) -> ActivationShape { ActivationShape(n, c, h, w) }

    // MARK: Elementwise

    /// Shapes for primitives that treat elements alike.
    static let shapes: [(name: String, shape: ActivationShape, quick: Bool)] = [
        ("one", shape(1, 1, 1, 1), true), ("small", shape(2, 3, 5, 7), true), ("odd", shape(3, 17, 7, 5), true),
        ("block", shape(1, 16, 3, 2), true), ("blocks", shape(2, 32, 7, 7), false), ("off", shape(5, 33, 31, 2), false),
        ("large", shape(2, 65, 33, 31), false), ("vector", shape(3, 65, 1, 1), true),
        ("row", shape(4, 31, 1, 63), false),
    ]

    private static let elementwiseCases: [ConformanceCase] =
        shapes.flatMap { name, s, quick in
            [
                ConformanceCase("relu.\(name)", .relu(s), quick: quick),
                ConformanceCase("relu.nan.\(name)", .relu(s), fills: [0: .special(.nan, every: 3)]),
                ConformanceCase("relu.infinity.\(name)", .relu(s), fills: [0: .special(-.infinity, every: 3)]),
                ConformanceCase("reluGradient.\(name)", .reluGradient(s), fills: [1: .tied], quick: quick),
                ConformanceCase("add.\(name)", .add(s, relu: false), quick: quick),
                ConformanceCase("add.relu.\(name)", .add(s, relu: true), quick: quick),
                ConformanceCase("add.relu.nan.\(name)", .add(s, relu: true), fills: [1: .special(.nan, every: 5)]),
                ConformanceCase("dropout.0.\(name)", .dropout(s, rate: 0, salt: 1)),
                ConformanceCase("dropout.0.5.\(name)", .dropout(s, rate: 0.5, salt: 2), quick: quick),
                ConformanceCase(
                    "dropout.0.9.\(name)", .dropout(s, rate: 0.9, salt: 3), fills: [0: .constant(1)],
                    constants: StepConstants(dropoutKey: .max)),
                ConformanceCase("channelSum.\(name)", .channelSum(s), quick: quick),
                ConformanceCase("channelSum.positive.\(name)", .channelSum(s), fills: [0: .range(1, 2)]),
            ]
        } + [
            ConformanceCase(
                "channelSum.long", .channelSum(shape(5, 3, 65, 63)), fills: [0: .range(1, 2)]),
            ConformanceCase("channelSum.plane", .channelSum(shape(1, 17, 65, 64)), fills: [0: .range(-1, 2)]),
            ConformanceCase("dropout.large", .dropout(shape(3, 64, 33, 31), rate: 0.25, salt: 0xFFFF_FFFF)),
        ]

    // MARK: Data movement

    private static let imageMean: [Float] = [0.485, 0.456, 0.406]
    private static let imageDeviation: [Float] = [0.229, 0.224, 0.225]

    private static let dataMovementCases: [ConformanceCase] = {
        var cases: [ConformanceCase] = []
        for (name, s, quick) in shapes {
            cases += [
                ConformanceCase("flatten.\(name)", .flatten(s), quick: quick),
                ConformanceCase("flattenGradient.\(name)", .flattenGradient(s), quick: quick),
                ConformanceCase(
                    "imageNormalization.\(name)",
                    .imageNormalization(s.with(channels: 3), mean: imageMean, deviation: imageDeviation), quick: quick),
                ConformanceCase(
                    "imageNormalization.compact.\(name)",
                    .imageNormalization(s.with(channels: 3).compact, mean: imageMean, deviation: imageDeviation),
                    quick: quick),
            ]
            for (stride, before, after) in [(1, 0, 0), (2, 8, 8), (2, 1, 2), (2, 16, 16), (1, 3, 0), (3, 0, 33)] {
                let tag = "\(name).s\(stride).\(before)+\(after)"
                let isQuick = quick && before == 1
                cases += [
                    ConformanceCase(
                        "subsampleAndPad.\(tag)",
                        .subsampleAndPad(s, stride: stride, before: before, after: after), quick: isQuick),
                    ConformanceCase(
                        "subsampleAndPadGradient.\(tag)",
                        .subsampleAndPadGradient(s, stride: stride, before: before, after: after), quick: isQuick),
                ]
            }
        }
        cases.append(
            ConformanceCase(
                "imageNormalization.image",
                .imageNormalization(shape(2, 3, 63, 65), mean: [0, 0.5, 1], deviation: [1, 0.5, 0.25])))
        let lists: [(channels: [Int], quick: Bool)] = [
            ([1, 1], true), ([3, 5], true), ([16, 16], false), ([17, 1, 15], true), ([32, 31, 33], false),
            ([64, 96, 32, 3], false), ([7], false), ([5, 16, 11, 32, 1, 2], true),
        ]
        for (channels, quick) in lists {
            for (n, h, w) in [(1, 1, 1), (3, 5, 2), (2, 7, 31)] {
                let s = shape(n, channels.reduce(0, +), h, w)
                cases.append(
                    ConformanceCase(
                        "concatenation.\(channels).\(n)x\(h)x\(w)", .concatenation(s, channels: channels),
                        quick: quick && n == 3))
            }
        }
        let slices: [(total: Int, offset: Int, count: Int, quick: Bool)] = [
            (1, 0, 1, true), (5, 2, 3, true), (33, 1, 31, true), (33, 16, 17, true), (64, 32, 32, false),
            (65, 33, 32, false), (65, 64, 1, true), (48, 16, 16, false), (63, 0, 7, false), (96, 15, 66, false),
        ]
        for (total, offset, count, quick) in slices {
            for (n, h, w) in [(1, 1, 1), (3, 5, 2), (2, 7, 31)] {
                cases.append(
                    ConformanceCase(
                        "channelSlice.\(offset)+\(count).of\(total).\(n)x\(h)x\(w)",
                        .channelSlice(shape(n, total, h, w), offset: offset, count: count), quick: quick && n == 3))
            }
        }
        return cases
    }()

    // MARK: Loss

    private static let lossCases: [ConformanceCase] = {
        var cases: [ConformanceCase] = []
        for (batch, classes) in [(1, 1), (1, 2), (2, 3), (3, 10), (5, 17), (7, 33), (4, 64), (33, 10), (2, 1000)] {
            for smoothing in [Float(0), 0.1] {
                let primitive = Primitive.softmaxCrossEntropy(
                    batch: batch, classes: classes, labelSmoothing: smoothing)
                let tag = "\(batch)x\(classes).s\(smoothing)"
                let quick = batch * classes < 100
                let labels = Fill.labels(classes: classes)
                cases += [
                    ConformanceCase(
                        "softmaxCrossEntropy.\(tag)", primitive, fills: [0: .range(-4, 4), 1: labels], quick: quick),
                    ConformanceCase(
                        "softmaxCrossEntropy.tied.\(tag)", primitive, fills: [0: .tied, 1: labels], quick: quick),
                    ConformanceCase(
                        "softmaxCrossEntropy.huge.\(tag)", primitive, fills: [0: .range(-3000, 3000), 1: labels]),
                    ConformanceCase(
                        "softmaxCrossEntropy.offset.\(tag)", primitive, fills: [0: .range(10000, 10004), 1: labels]),
                ]
            }
        }
        for (batch, classes) in [(1, 2), (3, 10), (5, 17), (33, 40), (2, 300)] {
            for (tag, targets) in [
                ("mixed", LossTargets(isMixed: true)), ("weighted", LossTargets(isWeighted: true)),
                ("both", LossTargets(isMixed: true, isWeighted: true)),
            ] {
                for smoothing in [Float(0), 0.1] {
                    let labels = Fill.labels(classes: classes)
                    var fills: [Int: Fill] = [0: .range(-6, 6), 1: labels]
                    if targets.isMixed {
                        fills[2] = labels
                        fills[3] = .range(0, 1)
                    }
                    if targets.isWeighted { fills[targets.isMixed ? 4 : 2] = .range(0.1, 3) }
                    cases.append(
                        ConformanceCase(
                            "softmaxCrossEntropy.\(tag).\(batch)x\(classes).s\(smoothing)",
                            .softmaxCrossEntropy(
                                batch: batch, classes: classes, labelSmoothing: smoothing, targets: targets),
                            fills: fills, quick: batch * classes < 50))
                }
            }
        }
        // The loss is e^−30: float32 loses it in 1 − p.
        for batch in [1, 3] {
            cases.append(
                ConformanceCase(
                    "softmaxCrossEntropy.tiny.\(batch)",
                    .softmaxCrossEntropy(batch: batch, classes: 5, labelSmoothing: 0),
                    fills: [0: .list([0, 0, 30, 0, 0]), 1: .constantLabel(2)], quick: true))
        }
        return cases
    }()

    // MARK: Optimizers

    private static func cohort(
        rate: Float = 0.01, decay: Float = 0, momentum: Float = 0, first: Bool = false, step: Int = 1
    ) -> CohortConstants {
        var constants = CohortConstants()
        constants.learningRate = rate
        constants.weightDecay = decay
        constants.momentum = momentum
        constants.isFirstStep = first
        var (power1, power2) = (1.0, 1.0)
        for _ in 0..<step {
            power1 *= Double(constants.beta1)
            power2 *= Double(constants.beta2)
        }
        constants.biasCorrection1 = Float(1 - power1)
        constants.biasCorrection2Root = Float((1 - power2).squareRoot())
        return constants
    }

    private static let optimizerCases: [ConformanceCase] = {
        let convolution = WeightShape(outputChannels: 33, inputChannels: 17, kernelHeight: 3, kernelWidth: 3)
        let grouped = WeightShape(outputChannels: 24, inputChannels: 24, kernelHeight: 3, kernelWidth: 1, groups: 8)
        let linear = WeightShape(outputChannels: 10, inputChannels: 65, kernelHeight: 1, kernelWidth: 1)
        let depthwise = WeightShape(
            outputChannels: 33, inputChannels: 33, kernelHeight: 3, kernelWidth: 3, groups: 33)
        let small: [(kind: ValueKind, cohort: Int)] = [(.channelVector(5), 0), (.weight(grouped), 0)]
        let one: [(kind: ValueKind, cohort: Int)] = [
            (.weight(convolution), 0), (.channelVector(33), 0), (.channelVector(1), 0), (.weight(linear), 0),
            (.weight(depthwise), 0), (.channelVector(10), 0),
        ]
        let two: [(kind: ValueKind, cohort: Int)] = [
            (.weight(linear), 0), (.weight(convolution), 1), (.channelVector(10), 0), (.channelVector(63), 1),
        ]
        var cases: [ConformanceCase] = []
        func add(
            _ name: String, _ rule: OptimizerRule, _ steps: [[CohortConstants]], updated: [Int] = [0],
            parameters: [(kind: ValueKind, cohort: Int)]? = nil, gradient: Fill = .uniform
        ) {
            for (tag, list) in [("small", small), ("network", one)] where parameters == nil || tag == "small" {
                let list = parameters ?? list
                cases.append(
                    ConformanceCase(
                        parameters == nil ? "optimizerUpdate.\(name).\(tag)" : "optimizerUpdate.\(name)",
                        .optimizerUpdate(rule, cohort: updated[0]), fills: [0: gradient],
                        setting: .optimizer(
                            parameters: list, updated: updated, steps: steps.map { StepConstants(cohorts: $0) }),
                        quick: tag == "small" && parameters == nil))
            }
        }
        let plain = OptimizerRule.sgd(momentum: false, nesterov: false)
        let heavy = OptimizerRule.sgd(momentum: true, nesterov: false)
        let nesterov = OptimizerRule.sgd(momentum: true, nesterov: true)
        add("sgd", plain, [[cohort()], [cohort(rate: 0.1)]])
        add("sgd.decay", plain, [[cohort(decay: 0.01)]])
        add("sgd.still", plain, [[cohort(rate: 0)]])
        for (name, rule) in [("momentum", heavy), ("nesterov", nesterov)] {
            add(
                "sgd.\(name).first", rule,
                [
                    [cohort(momentum: 0.9, first: true)], [cohort(momentum: 0.9)], [cohort(momentum: 0.5)],
                ])
            add("sgd.\(name).decay", rule, [[cohort(rate: 0.1, decay: 5e-4, momentum: 0.9)]])
        }
        for decoupled in [false, true] {
            let name = decoupled ? "adamw" : "adam"
            let rule = OptimizerRule.adam(decoupledWeightDecay: decoupled)
            add(name, rule, [[cohort(step: 1)], [cohort(step: 2)], [cohort(step: 1000)]])
            add("\(name).decay", rule, [[cohort(decay: 0.05, step: 3)], [cohort(rate: 0.001, decay: 0.05, step: 4)]])
            add("\(name).small", rule, [[cohort(step: 5)]], gradient: .range(-1e-7, 1e-7))
        }
        add(
            "cohorts.sgd", heavy,
            [
                [cohort(rate: 0.1, momentum: 0.9, first: true), cohort(momentum: 0.5, first: true)],
                [cohort(rate: 0.1, momentum: 0.9), cohort(momentum: 0.5)],
            ], updated: [0, 1], parameters: two)
        add(
            "cohorts.second", heavy,
            [
                [cohort(), cohort(momentum: 0.9)]
            ], updated: [1], parameters: two)
        add(
            "cohorts.adamw", .adam(decoupledWeightDecay: true),
            [
                [cohort(decay: 0.1, step: 7), cohort(rate: 0.1, step: 2)]
            ], updated: [1, 0], parameters: two)
        return cases
    }()

    // MARK: Slabs

    private static let slabCases: [ConformanceCase] = {
        let convolution = WeightShape(outputChannels: 33, inputChannels: 17, kernelHeight: 3, kernelWidth: 3)
        let large = WeightShape(outputChannels: 130, inputChannels: 257, kernelHeight: 3, kernelWidth: 3)
        let linear = WeightShape(outputChannels: 10, inputChannels: 65, kernelHeight: 1, kernelWidth: 1)
        let lists: [(String, [(kind: ValueKind, cohort: Int)])] = [
            ("one", [(.channelVector(1), 0)]),
            ("small", [(.channelVector(5), 0), (.weight(linear), 0)]),
            (
                "cohorts",
                [
                    (.weight(linear), 0), (.weight(convolution), 1), (.channelVector(10), 0), (.channelVector(63), 2),
                ]
            ),
            ("large", [(.weight(large), 0), (.channelVector(130), 1)]),
        ]
        return lists.flatMap { tag, parameters in
            func make(
                _ name: String, _ primitive: Primitive, _ steps: [StepConstants] = [StepConstants()],
                fills: [Int: Fill] = [:]
            ) -> ConformanceCase {
                ConformanceCase(
                    "\(primitive.kind).\(name).\(tag)", primitive, fills: fills,
                    setting: .slabs(parameters: parameters, steps: steps), quick: tag == "small" || tag == "cohorts")
            }
            return [
                make(
                    "three", .gradientAccumulation(state: 2),
                    [1, 0.5, Float(1) / 3, 1].map { StepConstants(accumulationShare: $0) }),
                make("below", .gradientNorm(maximum: 1e6)),
                make("above", .gradientNorm(maximum: 0.25)),
                make("tiny", .gradientNorm(maximum: 1), fills: [9: .range(-1e-7, 1e-7)]),
                make("zero", .gradientNorm(maximum: 1), fills: [9: .constant(0)]),
                make("half", .gradientScaling, fills: [0: .list([3, 0.3])]),
                make("slow", .weightAveraging(state: 1, decay: 0.999), [StepConstants(), StepConstants()]),
                make("none", .weightAveraging(state: 0, decay: 0)),
            ]
        }
    }()

    // MARK: Settings

    private static let inPlaceCases: [ConformanceCase] = shapes.flatMap { name, s, quick in
        [
            ConformanceCase("relu.inPlace.\(name)", .relu(s), setting: .inPlace(0), quick: quick),
            ConformanceCase(
                "reluGradient.inPlace.\(name)", .reluGradient(s), fills: [1: .tied], setting: .inPlace(0), quick: quick),
            ConformanceCase("add.inPlace.first.\(name)", .add(s, relu: false), setting: .inPlace(0), quick: quick),
            ConformanceCase("add.inPlace.second.\(name)", .add(s, relu: true), setting: .inPlace(1), quick: quick),
            ConformanceCase(
                "dropout.inPlace.\(name)", .dropout(s, rate: 0.5, salt: 9), setting: .inPlace(0), quick: quick),
        ]
    }

    private static let shortBatchCases: [ConformanceCase] = {
        let s = shape(5, 17, 7, 6)
        let convolution = ConvolutionGeometry(
            input: s, outputChannels: 33, kernelHeight: 3, kernelWidth: 3, paddingHeight: 1, paddingWidth: 1)
        let linear = ConvolutionGeometry(
            input: shape(33, 65, 1, 1), outputChannels: 10, kernelHeight: 1, kernelWidth: 1)
        let depthwise = ConvolutionGeometry(
            input: s, outputChannels: 17, kernelHeight: 3, kernelWidth: 3, paddingHeight: 1, paddingWidth: 1, groups: 17
        )
        let pool = PoolingGeometry(input: s, kernel: 3, stride: 2, padding: 1)
        let positive: [Int: Fill] = [4: .range(0.25, 2)]
        var cases: [ConformanceCase] = []
        func add(_ primitive: Primitive, _ batches: [Int] = [2, 1], fills: [Int: Fill] = [:]) {
            for batch in batches {
                cases.append(
                    ConformanceCase(
                        "\(primitive.kind).shortBatch.\(batch).\(cases.count)", primitive, fills: fills,
                        setting: .shortBatch(batch), quick: batch == 2))
            }
        }
        add(.convolution(convolution, Epilogue(bias: true, relu: true)))
        add(.convolutionInputGradient(convolution, addend: false))
        add(.convolutionWeightGradient(convolution))
        add(.convolution(linear, Epilogue(bias: true)), [17, 2])
        add(.convolutionInputGradient(linear, addend: false), [17, 2])
        add(.convolutionWeightGradient(linear), [17, 2])
        add(.batchNormalizationTraining(s, epsilon: 1e-5, momentum: 0.1, .none), fills: positive)
        add(.batchNormalizationInference(s, epsilon: 1e-5, Epilogue(relu: true)), fills: positive)
        add(.batchNormalizationReplay(s, Epilogue(relu: true)), fills: positive)
        add(.batchNormalizationTrainingGradient(s), fills: positive)
        add(.maxPooling(pool, indices: true))
        add(.maxPoolingGradient(pool), fills: [1: .maximumIndices(pool)])
        add(.averagePooling(pool))
        add(.adaptiveAveragePooling(s, outputHeight: 1, outputWidth: 1))
        add(.imageNormalization(s.with(channels: 3), mean: imageMean, deviation: imageDeviation))
        add(.flatten(s))
        add(.dropout(s, rate: 0.5, salt: 3))
        add(.stochasticDepth(s, rate: 0.5, salt: 3))
        add(.channelScale(s))
        add(.layerNormalization(s, epsilon: 1e-6))
        add(.layerNormalizationGradient(s, epsilon: 1e-6))
        add(.layerScaleGradient(s))
        add(.channelScaleGradient(s))
        add(.convolution(depthwise, Epilogue(bias: true, activation: .relu6)))
        add(.convolutionInputGradient(depthwise, addend: false))
        add(.convolutionWeightGradient(depthwise))
        add(.softmaxCrossEntropy(batch: 5, classes: 10, labelSmoothing: 0), fills: [1: .labels(classes: 10)])
        return cases
    }()
}
