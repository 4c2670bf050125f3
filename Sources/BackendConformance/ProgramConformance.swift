import GraftGraph
import GraftTensor

/// A small network that is trained for a few steps: every instruction in the company of the others, with shared memory.
package struct ProgramConformance: Sendable, CustomStringConvertible {
    package var name: String
    package var graph: Graph
    package var options: LoweringOptions
    package var description: String { name }

    package init(
        _ name: String, _ graph: Graph, size: (Int, Int, Int), trainable prefixes: [[String]],
        optimizer: OptimizerRule = .sgd(momentum: true, nesterov: false), statistics: FrozenStatistics = .keep,
        labelSmoothing: Float = 0, maximumGradientNorm: Float? = nil, averageDecay: Float? = nil, winograd: Bool = true
    ) {
        self.name = "program.\(name)"
        self.graph = graph
        options = LoweringOptions(batch: size.0, height: size.1, width: size.2, mode: .training, input: .tensor)
        options.cohorts = prefixes.map { cohort in
            graph.parameters.filter(\.role.isTrainable).map(\.name).filter { name in
                cohort.contains { $0 == "all" || name.hasPrefix($0 + ".") }
            }
        }
        options.optimizer = optimizer
        options.frozenStatistics = statistics
        options.labelSmoothing = labelSmoothing
        options.maximumGradientNorm = maximumGradientNorm
        options.averageDecay = averageDecay
        options.allowsWinograd = winograd
    }

    // MARK: Networks

    /// Stem with max pooling, two residual blocks (one widening with a 1×1 shortcut), a head: ResNet in small.
    package static func residual(_ a: Int = 5, _ b: Int = 17) -> Graph {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        x = graph.add("conv1", .convolution(ConvolutionLayer(3, a, kernel: 7, stride: 2, padding: 3)), x)
        x = graph.add("bn1", .batchNormalization(channels: a), x)
        x = graph.add("relu", .relu, x)
        x = graph.add("maxpool", .maxPooling(kernel: 3, stride: 2, padding: 1), x)
        for (name, inputs, outputs, stride) in [("layer1", a, a, 1), ("layer2", a, b, 2)] {
            let start = x
            x = graph.add(
                "\(name).conv1",
                .convolution(ConvolutionLayer(inputs, outputs, kernel: 3, stride: stride, padding: 1)), x)
            x = graph.add("\(name).bn1", .batchNormalization(channels: outputs), x)
            x = graph.add("\(name).relu", .relu, x)
            x = graph.add("\(name).conv2", .convolution(ConvolutionLayer(outputs, outputs, kernel: 3, padding: 1)), x)
            x = graph.add("\(name).bn2", .batchNormalization(channels: outputs), x)
            var shortcut = start
            if inputs != outputs {
                shortcut = graph.add(
                    "\(name).downsample.0", .convolution(ConvolutionLayer(inputs, outputs, kernel: 1, stride: stride)),
                    start)
                shortcut = graph.add("\(name).downsample.1", .batchNormalization(channels: outputs), shortcut)
            }
            x = graph.add("\(name).add", .add, x, shortcut)
            x = graph.add("\(name).relu", .relu, x)
        }
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        _ = graph.add("fc", .linear(inputFeatures: b, outputFeatures: 3), x)
        return graph
    }

    /// Biased convolutions, max pooling, uneven adaptive pooling, dropout, two linear layers: VGG and AlexNet in small.
    package static func plain() -> Graph {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        x = graph.add("features.0", .convolution(ConvolutionLayer(3, 7, kernel: 3, padding: 1, bias: true)), x)
        x = graph.add("features.1", .relu, x)
        x = graph.add("features.2", .maxPooling(kernel: 2, stride: 2), x)
        x = graph.add("features.3", .convolution(ConvolutionLayer(7, 6, kernel: 3, padding: 1, bias: true)), x)
        x = graph.add("features.4", .relu, x)
        x = graph.add("features.5", .maxPooling(kernel: 3, stride: 2, ceilMode: true), x)
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 2, width: 3), x)
        x = graph.add("flatten", .flatten, x)
        x = graph.add("classifier.0", .linear(inputFeatures: 36, outputFeatures: 19), x)
        x = graph.add("classifier.1", .relu, x)
        x = graph.add("classifier.2", .dropout(rate: 0.5), x)
        _ = graph.add("classifier.3", .linear(inputFeatures: 19, outputFeatures: 4), x)
        return graph
    }

    /// Branches joined along channels, average pooling, groups, a parameter-free shortcut.
    package static func branched() -> Graph {
        var graph = Graph()
        let input = graph.add("input", .input(channels: 3))
        let stem = graph.add(
            "stem", .convolution(ConvolutionLayer(3, 8, kernel: 3, padding: 1, bias: true)), input)
        let left = graph.add(
            "left", .convolution(ConvolutionLayer(8, 6, kernel: 3, padding: 2, dilation: 2, groups: 2)), stem)
        let pool = graph.add("pool", .averagePooling(kernel: 3, stride: 1, padding: 1), stem)
        let right = graph.add("right", .convolution(ConvolutionLayer(8, 5, kernel: 1)), pool)
        var x = graph.add("cat", .concatenation, left, right, stem)
        x = graph.add("norm", .batchNormalization(channels: 19), x)
        x = graph.add("relu", .relu, x)
        x = graph.add("down", .convolution(ConvolutionLayer(19, 23, kernel: 3, stride: 2, padding: 1)), x)
        x = graph.add("norm2", .batchNormalization(channels: 23), x)
        let shortcut = graph.add("shortcut", .subsampleAndPad(stride: 2, before: 7, after: 8), stem)
        x = graph.add("add", .add, x, shortcut)
        x = graph.add("relu2", .relu, x)
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        _ = graph.add("fc", .linear(inputFeatures: 23, outputFeatures: 3), x)
        return graph
    }

    /// Inverted residuals with depthwise convolutions and ReLU6: MobileNetV2 in small.
    package static func mobile() -> Graph {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        func convolve(_ name: String, _ layer: ConvolutionLayer, _ activation: Activation?) {
            x = graph.add("\(name).0", .convolution(layer), x)
            x = graph.add("\(name).1", .batchNormalization(channels: layer.outputChannels), x)
            if let activation { x = graph.add("\(name).2", .activation(activation), x) }
        }
        convolve("stem", ConvolutionLayer(3, 8, kernel: 3, stride: 2, padding: 1), .relu6)
        convolve("first.depth", ConvolutionLayer(8, 8, kernel: 3, padding: 1, groups: 8), .relu6)
        convolve("first.project", ConvolutionLayer(8, 5, kernel: 1), nil)
        let start = x
        convolve("second.expand", ConvolutionLayer(5, 30, kernel: 1), .relu6)
        convolve("second.depth", ConvolutionLayer(30, 30, kernel: 3, padding: 1, groups: 30), .relu6)
        convolve("second.project", ConvolutionLayer(30, 5, kernel: 1), nil)
        x = graph.add("second.add", .add, start, x)
        convolve("third.expand", ConvolutionLayer(5, 20, kernel: 1), .relu6)
        convolve("third.depth", ConvolutionLayer(20, 20, kernel: 3, stride: 2, padding: 1, groups: 20), .relu6)
        convolve("third.project", ConvolutionLayer(20, 9, kernel: 1), nil)
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        x = graph.add("classifier.0", .dropout(rate: 0.2), x)
        _ = graph.add("classifier.1", .linear(inputFeatures: 9, outputFeatures: 3), x)
        return graph
    }

    /// Squeeze-and-excitation, every activation, stochastic depth: MobileNetV3 and EfficientNet in small.
    package static func excited() -> Graph {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        func convolve(_ name: String, _ layer: ConvolutionLayer, _ activation: Activation?) {
            x = graph.add("\(name).0", .convolution(layer), x)
            let norm = Layer.batchNormalization(channels: layer.outputChannels, epsilon: 1e-3, momentum: 0.01)
            x = graph.add("\(name).1", norm, x)
            if let activation { x = graph.add("\(name).2", .activation(activation), x) }
        }
        func excite(_ name: String, _ channels: Int, _ squeezed: Int, _ inner: Layer, _ gate: Activation) {
            let start = x
            x = graph.add("\(name).avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("\(name).fc1", .convolution(ConvolutionLayer(channels, squeezed, kernel: 1, bias: true)), x)
            x = graph.add("\(name).activation", inner, x)
            x = graph.add("\(name).fc2", .convolution(ConvolutionLayer(squeezed, channels, kernel: 1, bias: true)), x)
            x = graph.add("\(name).scale_activation", .activation(gate), x)
            x = graph.add("\(name).mul", .channelScale, start, x)
        }
        convolve("stem", ConvolutionLayer(3, 8, kernel: 3, stride: 2, padding: 1), .hardSwish)
        convolve("first.expand", ConvolutionLayer(8, 18, kernel: 1), .hardSwish)
        convolve("first.depth", ConvolutionLayer(18, 18, kernel: 5, stride: 2, padding: 2, groups: 18), .hardSwish)
        excite("first.se", 18, 5, .relu, .hardSigmoid)
        convolve("first.project", ConvolutionLayer(18, 8, kernel: 1), nil)
        let start = x
        convolve("second.expand", ConvolutionLayer(8, 20, kernel: 1), .silu)
        convolve("second.depth", ConvolutionLayer(20, 20, kernel: 3, padding: 1, groups: 20), .silu)
        excite("second.se", 20, 3, .activation(.silu), .sigmoid)
        convolve("second.project", ConvolutionLayer(20, 8, kernel: 1), nil)
        x = graph.add("second.depthDrop", .stochasticDepth(rate: 0.5), x)
        x = graph.add("second.add", .add, x, start)
        x = graph.add("third", .convolution(ConvolutionLayer(8, 12, kernel: 3, padding: 1, bias: true)), x)
        x = graph.add("third.gelu", .activation(.gelu), x)
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        _ = graph.add("fc", .linear(inputFeatures: 12, outputFeatures: 3), x)
        return graph
    }

    /// Concatenations whose parts can be written in place: read elsewhere too, joined twice, dropped behind, one of them
    /// with a last block that is not full.
    package static func joined() -> Graph {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        func convolve(_ name: String, _ from: Int, _ channels: Int, _ outputs: Int, kernel: Int = 1) -> Int {
            let layer = ConvolutionLayer(channels, outputs, kernel: kernel, padding: kernel / 2, bias: true)
            return graph.add("\(name)_activation", .relu, graph.add(name, .convolution(layer), from))
        }
        x = convolve("stem", x, 3, 16, kernel: 3)
        let left = convolve("left", x, 16, 16)
        let right = convolve("right", x, 16, 19, kernel: 3)
        let cat = graph.add("cat", .concatenation, left, right)
        let dropped = graph.add("drop", .dropout(rate: 0.3), cat)
        let next = convolve("next", dropped, 35, 32)
        let wide = graph.add("wide", .concatenation, next, x, right)
        let last = graph.add("last", .concatenation, wide, next)
        x = convolve("join", last, 99, 5)
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        _ = graph.add("fc", .linear(inputFeatures: 5, outputFeatures: 3), x)
        return graph
    }

    /// All networks with several sets of trainable layers.
    package static let all: [ProgramConformance] = [
        ProgramConformance("residual.head", residual(), size: (3, 18, 15), trainable: [["fc"]]),
        ProgramConformance(
            "residual.through", residual(), size: (3, 18, 15), trainable: [["fc"], ["layer1"]],
            optimizer: .sgd(momentum: true, nesterov: true)),
        ProgramConformance(
            "residual.all", residual(), size: (2, 21, 18), trainable: [["all"]],
            // Adam's first step is the gradient's sign: rounding of Winograd's size turns those near zero.
            optimizer: .adam(decoupledWeightDecay: true), winograd: false),
        ProgramConformance("residual.winograd", residual(5, 17), size: (2, 21, 18), trainable: [["all"]]),
        ProgramConformance(
            "residual.track", residual(), size: (3, 18, 15), trainable: [["layer2", "fc"]], statistics: .track,
            labelSmoothing: 0.1),
        ProgramConformance(
            "residual.clipped", residual(), size: (3, 18, 15), trainable: [["fc"], ["layer2"]],
            maximumGradientNorm: 0.1, averageDecay: 0.9),
        ProgramConformance("residual.wide", residual(33, 65), size: (2, 24, 17), trainable: [["all"]]),
        ProgramConformance("plain.head", plain(), size: (4, 14, 17), trainable: [["classifier.3"]]),
        ProgramConformance(
            "plain.all", plain(), size: (3, 14, 17), trainable: [["all"]], optimizer: .adam(decoupledWeightDecay: false)
        ),
        ProgramConformance("plain.first", plain(), size: (2, 14, 17), trainable: [["features.0"]]),
        ProgramConformance("branched.all", branched(), size: (3, 9, 7), trainable: [["all"]]),
        ProgramConformance(
            "branched.stem", branched(), size: (2, 8, 7), trainable: [["fc"], ["stem"]],
            optimizer: .sgd(momentum: false, nesterov: false), statistics: .track),
        ProgramConformance("mobile.all", mobile(), size: (3, 18, 15), trainable: [["all"]]),
        ProgramConformance("mobile.through", mobile(), size: (3, 17, 19), trainable: [["classifier.1"], ["second"]]),
        ProgramConformance("excited.all", excited(), size: (3, 21, 18), trainable: [["all"]]),
        ProgramConformance("excited.through", excited(), size: (4, 18, 21), trainable: [["fc"], ["first"]]),
        ProgramConformance(
            "excited.track", excited(), size: (3, 21, 18), trainable: [["fc", "second"]], statistics: .track,
            labelSmoothing: 0.1),
        ProgramConformance("joined.all", joined(), size: (2, 8, 7), trainable: [["all"]]),
        ProgramConformance("joined.head", joined(), size: (4, 5, 8), trainable: [["fc"]]),
    ]

    // MARK: Steps

    /// Images and labels of a step.
    package func inputs(_ program: Program, step: Int) -> [String: HostTensor] {
        var result: [String: HostTensor] = [:]
        for (name, id) in program.inputs {
            let kind = program[id].kind
            let random = CounterRandom(seed: 5, UInt64(step), UInt64(name.utf8.count))
            let classes = { if case .linear(_, let count)? = graph.nodes.last?.layer { count } else { 1 } }()
            let fill: Fill = if case .labels = kind { .labels(classes: classes) } else { .uniform }
            result[name] = fill.tensor(of: kind, random: random)
        }
        return result
    }

    /// Rates of a step (from 0), the same for every cohort.
    package func constants(step: Int) -> StepConstants {
        var cohort = CohortConstants()
        cohort.learningRate = 0.01
        cohort.weightDecay = 0.01
        cohort.momentum = 0.9
        cohort.isFirstStep = step == 0
        var (power1, power2) = (1.0, 1.0)
        for _ in 0...step {
            power1 *= Double(cohort.beta1)
            power2 *= Double(cohort.beta2)
        }
        cohort.biasCorrection1 = Float(1 - power1)
        cohort.biasCorrection2Root = Float((1 - power2).squareRoot())
        return StepConstants(
            dropoutKey: UInt64(step) + 100,
            cohorts: [CohortConstants](repeating: cohort, count: options.cohorts.count))
    }

    /// What a device has after the steps.
    private struct Outcome {
        var metrics: [[Double]] = []
        var gradients: [String: [Double]] = [:]
        var tensors: [String: [Double]] = [:]
        var bytes: [String: [UInt8]] = [:]
    }

    /// Trains for three steps with and without shared memory and holds the two against each other, byte for byte, and
    /// against the reference.
    ///
    /// The differences to the reference are those of whole tensors, `‖found − expected‖ ≤ 10⁻³ · ‖expected‖ + 10⁻⁶` for
    /// gradients and 10⁻⁴ for the rest: after ten layers an element's own terms say little, and Adam divides by roots of
    /// small sums. Each primitive by itself is held much closer elsewhere.
    ///
    /// - Throws: what the backend throws, or the graph's own fault as a `DeviceError`.
    package func run(on backend: any DeviceBackend) throws(DeviceError) -> CaseResult {
        let clock = ContinuousClock()
        let start = clock.now
        let program: Program
        do throws(GraphError) {
            program = try Program(graph, options)
        } catch {
            throw .unsupported("\(name) cannot be lowered: \(error)")
        }
        let steps = 3
        var reference = ReferenceProgram(graph: graph, seed: 11)
        let initial = reference
        var losses: [[Double]] = []
        for step in 0..<steps {
            reference.run(
                program, inputs: inputs(program, step: step).mapValues(\.doubles), constants: constants(step: step))
            losses.append(program.outputs["metrics"].flatMap { reference.values[$0.index] } ?? [])
        }
        let separate = try train(program, initial, steps, backend, reusesMemory: false)
        let shared = try train(program, initial, steps, backend, reusesMemory: true)
        var failures: [String] = []
        for (key, bytes) in separate.bytes.sorted(by: { $0.key < $1.key }) where shared.bytes[key] != bytes {
            failures.append("\(key) differs when memory is shared")
        }
        var worst = 0.0
        func compare(_ what: String, _ found: [Double], _ expected: [Double], _ share: Double) {
            func norm(_ values: [Double]) -> Double { values.reduce(0) { $0 + $1 * $1 }.squareRoot() }
            guard found.count == expected.count else {
                failures.append("\(what) has \(found.count) elements, expected \(expected.count)")
                return
            }
            let ratio = norm(zip(found, expected).map { $0 - $1 }) / (share * norm(expected) + 1e-6)
            worst = ratio.isNaN ? .infinity : max(worst, ratio)
            if !(ratio <= 1) { failures.append("\(what): difference is \(ratio) times the tolerance") }
        }
        for step in 0..<steps { compare("loss of step \(step)", separate.metrics[step], losses[step], 1e-4) }
        for (key, found) in separate.gradients.sorted(by: { $0.key < $1.key }) {
            compare("gradient of \(key)", found, reference.gradient(of: key, in: program) ?? [], 1e-3)
        }
        for (key, found) in separate.tensors.sorted(by: { $0.key < $1.key }) {
            compare(key, found, reference.tensors[key] ?? [], 1e-4)
        }
        let elapsed = clock.now - start
        return CaseResult(
            name: name, kind: nil, passed: failures.isEmpty, worstRatio: worst,
            message: failures.prefix(4).joined(separator: "; "),
            seconds: Double(elapsed.components.seconds) + Double(elapsed.components.attoseconds) * 1e-18)
    }

    private func train(
        _ program: Program, _ initial: ReferenceProgram, _ steps: Int, _ backend: any DeviceBackend, reusesMemory: Bool
    ) throws(DeviceError) -> Outcome {
        let plan = try MemoryPlan(
            programs: [program], layout: MemoryLayout(backend: backend),
            options: .init(reusesMemory: reusesMemory, optimizerStateCount: options.stateCount))
        let memory = try backend.allocate(plan)
        let prepared = try backend.prepare(program, index: 0, memory: memory)
        try memory.fill(0xFF)
        if let slot = plan.slabs?.gradients {
            // What lies between gradients is zero on a device that has just allocated them.
            try ConformanceHarness.clear(slot, memory)
        }
        for (key, slots) in plan.states {
            guard let kind = plan.persistent[key]?.kind else { continue }
            for slot in slots { try memory.write(HostTensor(kind.hostShape, repeating: 0), kind: kind, to: slot) }
        }
        for (index, value) in program.values.enumerated() {
            switch value.storage {
            case .constant(_, let source), .parameter(_, let source, _):
                let content = initial.content(of: source).map { Float($0) }
                try memory.write(HostTensor(value.kind.hostShape, content), kind: value.kind, to: plan.slots[0][index])
            case .transient, .input, .output, .gradient: continue
            }
        }
        var outcome = Outcome()
        for step in 0..<steps {
            for (name, tensor) in inputs(program, step: step) {
                guard let id = program.inputs[name] else { continue }
                try memory.write(tensor, kind: program[id].kind, to: plan.slots[0][id.index])
            }
            try prepared.run(constants(step: step))
            try prepared.synchronize()
            if let id = program.outputs["metrics"] {
                outcome.metrics.append(
                    try memory.read(kind: program[id].kind, from: plan.slots[0][id.index]).doubles)
            }
        }
        for (index, value) in program.values.enumerated() {
            let slot = plan.slots[0][index]
            func bytes() throws(DeviceError) -> [UInt8] {
                Array(try memory.rawBytes(arena: slot.arena)[slot.offset..<slot.offset + slot.byteCount])
            }
            switch value.storage {
            case .gradient(let key):
                outcome.gradients[key] = try memory.read(kind: value.kind, from: slot).doubles
                outcome.bytes["gradient of \(key)"] = try bytes()
            case .constant(let key, .tensor(let name)), .parameter(let key, .tensor(let name), _):
                outcome.tensors[name] = try memory.read(kind: value.kind, from: slot).doubles
                outcome.bytes[key] = try bytes()
            case .constant, .parameter, .transient, .input, .output: continue
            }
        }
        return outcome
    }
}

extension ConformanceHarness {
    /// Trains every network; what a backend throws becomes a result that did not pass.
    package func runPrograms(
        on backend: any DeviceBackend, _ programs: [ProgramConformance] = ProgramConformance.all,
        progress: (CaseResult) -> Void = { _ in }
    ) -> [CaseResult] {
        programs.map { test in
            let result: CaseResult
            do throws(DeviceError) {
                result = try test.run(on: backend)
            } catch {
                result = CaseResult(
                    name: test.name, kind: nil, passed: false, worstRatio: .infinity,
                    message: error.description, seconds: 0)
            }
            progress(result)
            return result
        }
    }
}
