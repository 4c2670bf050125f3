import GraftGraph
import GraftTensor

/// Runs whole programs on the Double reference: every value has memory of its own, nothing is planned.
package struct ReferenceProgram {
    /// Tensors of the state dictionary by name; updates write to them.
    package var tensors: [String: [Double]]
    /// Optimizer state by parameter, created as zero.
    package var states: [String: [[Double]]] = [:]
    /// Every value of the last run that was written or read, by position.
    package private(set) var values: [Int: [Double]] = [:]

    package init(tensors: [String: [Double]]) { self.tensors = tensors }

    /// Random tensors for a graph: variances positive, weights of the size of `nn.Linear`'s initial ones.
    package init(graph: Graph, seed: UInt64) {
        tensors = [:]
        for (index, parameter) in graph.parameters.enumerated() {
            let random = CounterRandom(seed: seed, UInt64(index))
            let count = parameter.shape.elementCount
            let inputs = max(1, count / max(1, parameter.shape.rank > 0 ? parameter.shape[0] : 1))
            tensors[parameter.name] = (0..<count).map { element in
                let value = Double(Float(2 * random.uniform(element) - 1))
                return switch parameter.role {
                case .weight: Double(Float(value * (3 / Double(inputs)).squareRoot()))
                case .scale, .runningVariance: 1 + value / 2
                case .bias, .shift, .runningMean: value / 2
                case .counter: 0
                }
            }
        }
    }

    /// The content of a persistent value.
    package func content(of source: ParameterSource) -> [Double] {
        func tensor(_ name: String) -> [Double] { tensors[name] ?? [] }
        switch source {
        case .tensor(let name): return tensor(name)
        case .foldedWeight(let convolution, let norm, let epsilon):
            let weight = tensor("\(convolution).weight")
            let scales = scales(norm, epsilon)
            return weight.indices.map { weight[$0] * scales[$0 / (weight.count / scales.count)] }
        case .foldedBias(let convolution, let norm, let epsilon):
            let bias = tensor("\(convolution).bias")
            let scales = scales(norm, epsilon)
            let (shift, mean) = (tensor("\(norm).bias"), tensor("\(norm).running_mean"))
            return scales.indices.map { shift[$0] + ((bias.isEmpty ? 0 : bias[$0]) - mean[$0]) * scales[$0] }
        case .numbers(let values): return values.map { Double($0) }
        }
    }

    private func scales(_ norm: String, _ epsilon: Float) -> [Double] {
        zip(tensors["\(norm).weight"] ?? [], tensors["\(norm).running_var"] ?? []).map {
            $0 / ($1 + Double(epsilon)).squareRoot()
        }
    }

    /// Runs a program once.
    package mutating func run(_ program: Program, inputs: [String: [Double]], constants: StepConstants) {
        values = [:]
        for (name, id) in program.inputs { values[id.index] = inputs[name] }
        for (index, value) in program.values.enumerated() {
            switch value.storage {
            case .constant(_, let source), .parameter(_, let source, _): values[index] = content(of: source)
            case .transient, .input, .output, .gradient: continue
            }
        }
        for instruction in program.instructions {
            switch instruction.primitive {
            case .optimizerUpdate(let rule, let cohort):
                update(program, rule, cohort, constants)
                continue
            case .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging:
                updateSlabs(program, instruction, constants)
                continue
            default: break
            }
            let operands = instruction.inputs.map { values[$0.index] ?? [] }
            let outputs = ReferenceExecutor.run(instruction.primitive, operands, constants: constants)
            for (id, output) in zip(instruction.outputs, outputs) {
                values[id.index] = output.values
                // Running statistics are updated where they are kept.
                switch program[id].storage {
                case .constant(_, .tensor(let name)), .parameter(_, .tensor(let name), _): tensors[name] = output.values
                default: break
                }
            }
        }
    }

    /// The gradient of a parameter in the last run.
    package func gradient(of key: String, in program: Program) -> [Double]? {
        for (index, value) in program.values.enumerated() {
            if case .gradient(let parameter) = value.storage, parameter == key { return values[index] }
        }
        return nil
    }

    private mutating func update(
        _ program: Program, _ rule: OptimizerRule, _ cohort: Int, _ constants: StepConstants
    ) {
        for value in program.values {
            guard case .parameter(let key, .tensor(let name), cohort) = value.storage, let tensor = tensors[name],
                let gradient = gradient(of: key, in: program)
            else { continue }
            let zeros = [[Double]](repeating: tensor.map { _ in 0 }, count: rule.stateCount)
            let outputs = ReferenceExecutor.run(
                .optimizerUpdate(rule, cohort: cohort), [tensor, gradient] + states[key, default: zeros],
                constants: constants)
            tensors[name] = outputs[0].values
            states[key] = outputs.dropFirst().map(\.values) + states[key, default: []].dropFirst(rule.stateCount)
        }
    }

    /// What is done to all cohorts at once. States that were not there are zero.
    private mutating func updateSlabs(_ program: Program, _ instruction: Instruction, _ constants: StepConstants) {
        var entries: [(key: String, name: String, tensor: [Double], gradient: Int?)] = []
        for value in program.values {
            guard case .parameter(let key, .tensor(let name), _) = value.storage, let tensor = tensors[name] else {
                continue
            }
            let gradient = program.values.firstIndex { $0.storage == .gradient(parameterKey: key) }
            entries.append((key, name, tensor, gradient))
        }
        let gradients = entries.map { entry in
            entry.gradient.flatMap { values[$0] } ?? [Double](repeating: 0, count: entry.tensor.count)
        }
        let operands = instruction.inputs.map { values[$0.index] ?? [] }
        let outputs = ReferenceExecutor.slabs(
            instruction.primitive,
            zip(entries, gradients).map { entry, gradient in
                .init(
                    parameter: entry.tensor, gradient: gradient,
                    states: (0..<8).map { index in
                        let saved = states[entry.key, default: []]
                        return index < saved.count
                            ? saved[index] : [Double](repeating: 0, count: entry.tensor.count)
                    })
            }, operands: operands, constants: constants)
        for (entry, output) in zip(entries, outputs.parameters) {
            if let index = entry.gradient { values[index] = output.gradient.values }
            states[entry.key] = output.states.map(\.values)
        }
        if let id = instruction.outputs.first { values[id.index] = outputs.output?.values }
    }
}
