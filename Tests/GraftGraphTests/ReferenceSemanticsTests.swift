import BackendConformance
import GraftGraph
import Testing

/// The reference gives PyTorch's numbers where conventions differ between frameworks.
@Suite("The reference against PyTorch")
struct ReferenceSemanticsTests {
    static func expectClose(
        _ found: [Double], _ expected: [Double], sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(found.count == expected.count, sourceLocation: sourceLocation)
        for (index, (a, b)) in zip(found, expected).enumerated() where abs(a - b) > 2e-11 {
            Issue.record("element \(index): \(a), expected \(b)", sourceLocation: sourceLocation)
        }
    }

    static let image = ActivationShape(1, 2, 5, 6)
    static let x = TorchGoldens.values(image.elementCount)

    @Test("output extents of pooling, ceil_mode too")
    func extents() {
        #expect(TorchGoldens.poolingExtents.count > 60)
        for (extent, kernel, stride, padding, dilation, ceilMode, expected) in TorchGoldens.poolingExtents {
            let found = PoolingGeometry.outputExtent(
                extent, kernel: kernel, stride: stride, padding: padding, dilation: dilation, ceilMode: ceilMode)
            #expect(found == expected, "extent \(extent), kernel \(kernel), stride \(stride), padding \(padding)")
        }
    }

    @Test("a window larger than the padded image gives no output")
    func emptyOutput() {
        #expect(
            PoolingGeometry.outputExtent(2, kernel: 3, stride: 1, padding: 0, dilation: 1, ceilMode: false) == 0)
    }

    @Test("average pooling divides by the window on the padded image, or on the image")
    func averagePooling() {
        func pooled(_ kernel: Int, _ stride: Int, _ padding: Int, counts: Bool = true) -> [Double] {
            let geometry = PoolingGeometry(
                input: Self.image, kernel: kernel, stride: stride, padding: padding, ceilMode: true,
                countsPadding: counts)
            return ReferenceExecutor.run(.averagePooling(geometry), [Self.x])[0].values
        }
        Self.expectClose(pooled(3, 2, 1), TorchGoldens.averageCeil)
        Self.expectClose(pooled(3, 2, 1, counts: false), TorchGoldens.averageCeilExcluded)
        Self.expectClose(pooled(2, 3, 0), TorchGoldens.averageCeilStride3)
    }

    @Test("max pooling: values and indices")
    func maxPooling() {
        let geometry = PoolingGeometry(input: Self.image, kernel: 3, stride: 2, padding: 1, ceilMode: true)
        let outputs = ReferenceExecutor.run(.maxPooling(geometry, indices: true), [Self.x])
        Self.expectClose(outputs[0].values, TorchGoldens.maxCeil)
        Self.expectClose(outputs[1].values, TorchGoldens.maxCeilIndices)
    }

    @Test("bins of adaptive pooling, also larger than the image")
    func adaptivePooling() {
        Self.expectClose(
            ReferenceExecutor.run(
                .adaptiveAveragePooling(Self.image, outputHeight: 2, outputWidth: 4), [Self.x])[0].values,
            TorchGoldens.adaptive)
        let corner = [0, 1, 2, 6, 7, 8, 30, 31, 32, 36, 37, 38].map { Self.x[$0] }
        Self.expectClose(
            ReferenceExecutor.run(
                .adaptiveAveragePooling(ActivationShape(1, 2, 2, 3), outputHeight: 3, outputWidth: 5), [corner])[0]
                .values, TorchGoldens.adaptiveLarger)
    }

    @Test("batch norm: biased variance normalises, the unbiased one is remembered")
    func batchNormalization() {
        let outputs = ReferenceExecutor.run(
            .batchNormalizationTraining(ActivationShape(3, 2, 2, 2), epsilon: 1e-5, momentum: 0.1, .none),
            [
                TorchGoldens.values(24), TorchGoldens.values(2, seed: 2), TorchGoldens.values(2, seed: 3),
                TorchGoldens.values(2, seed: 1), [0.5, 1.5],
            ])
        Self.expectClose(outputs[0].values, TorchGoldens.batchNormalization)
        Self.expectClose(outputs[3].values, TorchGoldens.runningMean)
        Self.expectClose(outputs[4].values, TorchGoldens.runningVariance)
    }

    @Test("cross entropy with and without label smoothing")
    func crossEntropy() {
        let logits = TorchGoldens.values(12).map { $0 * 3 }
        for (smoothing, loss, gradient) in [
            (Float(0), TorchGoldens.loss, TorchGoldens.lossGradient),
            (0.1, TorchGoldens.lossSmoothed, TorchGoldens.lossSmoothedGradient),
        ] {
            let outputs = ReferenceExecutor.run(
                .softmaxCrossEntropy(batch: 3, classes: 4, labelSmoothing: smoothing), [logits, [1, 3, 0]])
            Self.expectClose(outputs[0].values, gradient)
            Self.expectClose([outputs[1].values[0]], loss)
        }
    }

    /// Three steps from zero state.
    private func optimized(_ rule: OptimizerRule, rate: Float, decay: Float) -> [Double] {
        var tensors = [[Double]](repeating: [Double](repeating: 0, count: 5), count: 2 + rule.stateCount)
        tensors[0] = TorchGoldens.values(5, seed: 1)
        for step in 0..<3 {
            tensors[1] = TorchGoldens.values(5, seed: 4 + step)
            var constants = CohortConstants()
            constants.learningRate = rate
            constants.weightDecay = decay
            constants.momentum = 0.9
            constants.isFirstStep = step == 0
            var (power1, power2) = (1.0, 1.0)
            for _ in 0...step {
                power1 *= Double(constants.beta1)
                power2 *= Double(constants.beta2)
            }
            constants.biasCorrection1 = Float(1 - power1)
            constants.biasCorrection2Root = Float((1 - power2).squareRoot())
            let outputs = ReferenceExecutor.run(
                .optimizerUpdate(rule, cohort: 0), tensors, constants: StepConstants(cohorts: [constants]))
            tensors[0] = outputs[0].values
            for state in 0..<rule.stateCount { tensors[2 + state] = outputs[1 + state].values }
        }
        return tensors[0]
    }

    @Test("SGD: momentum, Nesterov, weight decay")
    func sgd() {
        Self.expectClose(
            optimized(.sgd(momentum: false, nesterov: false), rate: 0.1, decay: 0.01), TorchGoldens.sgdPlain)
        Self.expectClose(
            optimized(.sgd(momentum: true, nesterov: false), rate: 0.1, decay: 0.01), TorchGoldens.sgdMomentum)
        Self.expectClose(
            optimized(.sgd(momentum: true, nesterov: true), rate: 0.1, decay: 0.01), TorchGoldens.sgdNesterov)
    }

    @Test("Adam and AdamW")
    func adam() {
        // The bias corrections are float32 in Graft, so that seven digits of each update agree.
        for (decoupled, expected) in [(false, TorchGoldens.adam), (true, TorchGoldens.adamW)] {
            let found = optimized(.adam(decoupledWeightDecay: decoupled), rate: 0.01, decay: 0.1)
            for (a, b) in zip(found, expected) { #expect(abs(a - b) < 1e-8) }
        }
    }
}
