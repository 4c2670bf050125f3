import GraftGraph
import GraftTensor

/// What came of one case.
package struct CaseResult: Sendable {
    package var name: String
    /// The primitive, or nil for a whole program.
    package var kind: Primitive.Kind?
    package var passed: Bool
    /// Largest error of any element as a share of its tolerance; at most 1 when the values are right.
    package var worstRatio: Double
    /// What was wrong, or empty.
    package var message: String
    package var seconds: Double
}

/// Runs cases on a backend and holds the results against the Double reference.
///
/// Every case runs the real plan, memory and program of the backend: arenas filled with 0xFF (NaN as float32) before the
/// inputs are written, guard bytes around every slot, bytes outside the outputs compared before and after, padding lanes
/// of outputs held to zero, and a second run over memory filled with another byte that must give the same bytes.
package struct ConformanceHarness {
    package var tolerance = ToleranceModel()

    package init() {}

    // MARK: Running

    /// Runs one case.
    ///
    /// - Throws: what the backend throws; a wrong result is no error but a result that did not pass.
    package func run(_ test: ConformanceCase, on backend: any DeviceBackend) throws(DeviceError) -> CaseResult {
        let clock = ContinuousClock()
        let start = clock.now
        var check = Check(tolerance: tolerance)
        switch test.setting {
        case .alone: try runAlone(test, backend, &check)
        case .inPlace(let position): try runInPlace(test, position, backend, &check)
        case .shortBatch(let batch): try runShortBatch(test, batch, backend, &check)
        case .optimizer(let parameters, let updated, let steps):
            try runOptimizer(test, parameters, updated, steps, backend, &check)
        case .slabs(let parameters, let steps): try runSlabs(test, parameters, steps, backend, &check)
        }
        let elapsed = clock.now - start
        return CaseResult(
            name: test.name, kind: test.primitive.kind, passed: check.failures.isEmpty, worstRatio: check.worstRatio,
            message: check.failures.prefix(4).joined(separator: "; "),
            seconds: Double(elapsed.components.seconds) + Double(elapsed.components.attoseconds) * 1e-18)
    }

    /// Runs every case that the filter accepts; what a backend throws becomes a result that did not pass.
    package func runAll(
        on backend: any DeviceBackend, cases: [ConformanceCase] = ConformanceCases.all,
        filter: (ConformanceCase) -> Bool = { _ in true }, progress: (CaseResult) -> Void = { _ in }
    ) -> [CaseResult] {
        cases.filter(filter).map { test in
            let result: CaseResult
            do throws(DeviceError) {
                result = try run(test, on: backend)
            } catch {
                result = CaseResult(
                    name: test.name, kind: test.primitive.kind, passed: false, worstRatio: .infinity,
                    message: error.description, seconds: 0)
            }
            progress(result)
            return result
        }
    }

    /// One line per primitive (cases, failures, worst share of the tolerance, seconds), then one per failure.
    package static func summary(_ results: [CaseResult]) -> String {
        func padded(_ text: String, _ width: Int) -> String {
            text + String(repeating: " ", count: max(1, width - text.count))
        }
        func rounded(_ value: Double) -> String {
            value.isFinite ? "\((value * 1000).rounded() / 1000)" : "\(value)"
        }
        var lines = [
            padded("primitive", 40) + padded("cases", 8) + padded("failed", 8) + padded("worst", 10) + "seconds"
        ]
        for kind in Primitive.Kind.allCases.map(Optional.some) + [nil] {
            let mine = results.filter { $0.kind == kind }
            guard !mine.isEmpty else { continue }
            lines.append(
                padded(kind?.rawValue ?? "whole programs", 40) + padded("\(mine.count)", 8)
                    + padded("\(mine.count { !$0.passed })", 8)
                    + padded(rounded(mine.map(\.worstRatio).max() ?? 0), 10)
                    + rounded(mine.reduce(0) { $0 + $1.seconds }))
        }
        for result in results where !result.passed { lines.append("FAILED \(result.name): \(result.message)") }
        lines.append("\(results.count { $0.passed }) of \(results.count) cases passed")
        return lines.joined(separator: "\n")
    }

    // MARK: What is checked

    /// Collects failures and the worst share of the tolerance.
    private struct Check {
        let tolerance: ToleranceModel
        var failures: [String] = []
        var worstRatio = 0.0

        init(tolerance: ToleranceModel) { self.tolerance = tolerance }

        mutating func compare(_ found: [Double], _ expected: ReferenceOutput, _ what: String, _ shape: Shape) {
            guard found.count == expected.values.count else {
                failures.append("\(what) has \(found.count) elements, expected \(expected.values.count)")
                return
            }
            var worst = (ratio: 0.0, index: -1)
            var wrongCount = 0
            for index in found.indices {
                let (value, target) = (found[index], expected.values[index])
                let ratio: Double
                if value.isNaN || target.isNaN {
                    ratio = value.isNaN && target.isNaN ? 0 : .infinity
                } else if value.isInfinite || target.isInfinite {
                    ratio = value == target ? 0 : .infinity
                } else {
                    ratio = abs(value - target) / tolerance.tolerance(bound: expected.bounds[index])
                }
                if ratio > 1 { wrongCount += 1 }
                if ratio > worst.ratio { worst = (ratio, index) }
            }
            worstRatio = max(worstRatio, worst.ratio)
            guard wrongCount > 0 else { return }
            let limit = tolerance.tolerance(bound: expected.bounds[worst.index])
            failures.append(
                "\(what)\(Self.position(worst.index, shape)) is \(Self.text(found[worst.index])), expected "
                    + "\(Self.text(expected.values[worst.index])) ± \(limit) (\(wrongCount) of \(found.count) elements are wrong)"
            )
        }

        /// Without the payload that Swift prints of a NaN.
        static func text(_ value: Double) -> String { value.isNaN ? "nan" : "\(value)" }

        static func position(_ index: Int, _ shape: Shape) -> String {
            var rest = index
            var parts: [Int] = []
            for extent in shape.dimensions.reversed() {
                parts.append(rest % max(extent, 1))
                rest /= max(extent, 1)
            }
            return "\(Array(parts.reversed()))"
        }
    }

    /// A plan with its memory and prepared programs.
    private struct Bench {
        let programs: [Program]
        let memory: any DeviceMemory
        let prepared: [any PreparedProgram]
        var plan: MemoryPlan { memory.plan }

        func write(_ tensor: HostTensor, _ id: ValueID, program: Int = 0) throws(DeviceError) {
            try memory.write(tensor, kind: programs[program][id].kind, to: plan.slots[program][id.index])
        }

        func read(_ id: ValueID, program: Int = 0) throws(DeviceError) -> HostTensor {
            try memory.read(kind: programs[program][id].kind, from: plan.slots[program][id.index])
        }

        func run(_ constants: StepConstants, program: Int = 0) throws(DeviceError) {
            try prepared[program].run(constants)
            try prepared[program].synchronize()
        }

        /// The bytes of all arenas.
        func snapshot() throws(DeviceError) -> [[UInt8]] {
            var bytes: [[UInt8]] = []
            for arena in plan.arenas.indices { bytes.append(try memory.rawBytes(arena: arena)) }
            return bytes
        }

        func bytes(_ slots: [Slot]) throws(DeviceError) -> [[UInt8]] {
            let all = try snapshot()
            return slots.map { Array(all[$0.arena][$0.offset..<$0.offset + $0.byteCount]) }
        }
    }

    private func bench(
        _ programs: [Program], _ backend: any DeviceBackend, reusesMemory: Bool = false, stateCount: Int = 0,
        _ check: inout Check
    ) throws(DeviceError) -> Bench {
        let alignment = max(backend.alignment, 1)
        let guardByteCount = (64 + alignment - 1) / alignment * alignment
        let plan = try MemoryPlan(
            programs: programs, layout: MemoryLayout(backend: backend),
            options: .init(
                guardByteCount: guardByteCount, reusesMemory: reusesMemory, optimizerStateCount: stateCount))
        let memory = try backend.allocate(plan)
        for (key, slots) in plan.states {
            guard let kind = plan.persistent[key]?.kind else { continue }
            for slot in slots + [plan.gradients[key]].compactMap({ $0 }) {
                let state = try memory.read(kind: kind, from: slot)
                if state.doubles.contains(where: { $0 != 0 }) {
                    check.failures.append("optimizer state or gradient of \(key) is not zero after allocation")
                }
            }
        }
        try memory.fill(0xFF)
        var prepared: [any PreparedProgram] = []
        for (index, program) in programs.enumerated() {
            prepared.append(try backend.prepare(program, index: index, memory: memory))
        }
        return Bench(programs: programs, memory: memory, prepared: prepared)
    }

    /// No byte may have changed but those of the allowed slots and the workspace.
    private func compareOutside(
        _ allowed: [Slot], _ before: [[UInt8]], _ bench: Bench, _ check: inout Check
    ) throws(DeviceError) {
        let after = try bench.snapshot()
        let allowed = allowed + [bench.plan.workspace].compactMap { $0 }
        for arena in bench.plan.arenas.indices {
            var position = 0
            let ranges = allowed.filter { $0.arena == arena }.map { $0.offset..<$0.offset + $0.byteCount }
                .sorted { $0.lowerBound < $1.lowerBound }
            for range in ranges + [after[arena].count..<after[arena].count] {
                if position < range.lowerBound,
                    before[arena][position..<range.lowerBound]
                        != after[arena][position..<range.lowerBound]
                {
                    let first =
                        (position..<range.lowerBound).first { before[arena][$0] != after[arena][$0] } ?? position
                    check.failures.append(
                        "byte \(first) of the \(bench.plan.arenas[arena].role) arena was written: "
                            + describe(arena, first, bench))
                }
                position = max(position, range.upperBound)
            }
        }
    }

    private func describe(_ arena: Int, _ offset: Int, _ bench: Bench) -> String {
        var nearest = "no slot is near"
        var distance = Int.max
        for (program, slots) in zip(bench.programs, bench.plan.slots) {
            for (value, slot) in zip(program.values, slots) where slot.arena == arena {
                let end = slot.offset + slot.byteCount
                if offset >= slot.offset, offset < end { return "inside \(value.name), which is no output" }
                let gap = offset < slot.offset ? slot.offset - offset : offset - end + 1
                if gap < distance {
                    distance = gap
                    nearest = "\(gap) bytes \(offset < slot.offset ? "before" : "behind") \(value.name)"
                }
            }
        }
        return nearest
    }

    /// Writing back what was read must change no byte: the padding lanes of a private layout hold zero already.
    private func checkPadding(
        _ kind: ValueKind, _ slot: Slot, _ what: String, _ bench: Bench, _ check: inout Check
    ) throws(DeviceError) {
        let before = try bench.bytes([slot])[0]
        try bench.memory.write(try bench.memory.read(kind: kind, from: slot), kind: kind, to: slot)
        let after = try bench.bytes([slot])[0]
        guard before != after else { return }
        for word in 0..<before.count / 4 {
            func bits(_ bytes: [UInt8]) -> UInt32 {
                (0..<4).reduce(0) { $0 | UInt32(bytes[word * 4 + $1]) << (8 * UInt32($1)) }
            }
            // −0 in a padding lane is zero too; a NaN may change its payload on its way through the host.
            let (old, new) = (bits(before), bits(after))
            let (oldFloat, newFloat) = (Float(bitPattern: old), Float(bitPattern: new))
            if old != new, oldFloat != newFloat, !(oldFloat.isNaN && newFloat.isNaN) {
                check.failures.append(
                    "padding of \(what) is not zero: \(oldFloat) at float \(word) of \(before.count / 4)")
                return
            }
        }
    }

    // MARK: Settings

    /// A program of one primitive, and where its operands are.
    private struct Wiring {
        var program = Program()
        var inputs: [ValueID] = []
        var outputs: [ValueID] = []

        /// Fills both lists; parameters and constants have the same keys whatever the batch.
        init(_ primitive: Primitive) {
            let operands = primitive.operands
            for (index, kind) in operands.inputs.enumerated() {
                let storage: ValueStorage
                switch kind {
                case .activation, .indices, .pixels, .labels, .metrics: storage = .input
                case .weight, .winogradWeight:
                    storage = .constant(key: "input\(index)", source: .tensor("input\(index)"))
                case .channelVector:
                    // Scale and shift of a batch norm in training live in the slab, statistics among the constants.
                    let isTrained = primitive.kind == .batchNormalizationTraining && (index == 1 || index == 2)
                    storage =
                        isTrained
                        ? .parameter(key: "input\(index)", source: .tensor("input\(index)"), cohort: 0)
                        : .constant(key: "input\(index)", source: .tensor("input\(index)"))
                }
                inputs.append(program.add(kind, storage, "input \(index)"))
            }
            for (index, kind) in operands.outputs.enumerated() {
                if let input = operands.sameValue[index] {
                    outputs.append(inputs[input])
                } else if operands.outputsAreParameterGradients.contains(index) {
                    let key = "trained\(index)"
                    _ = program.add(kind, .parameter(key: key, source: .tensor(key), cohort: 0), key)
                    outputs.append(program.add(kind, .gradient(parameterKey: key), "output \(index)"))
                } else {
                    outputs.append(program.add(kind, .output, "output \(index)"))
                }
            }
            program.append(primitive, inputs, outputs, node: "\(primitive.kind)")
        }
    }

    private func runAlone(
        _ test: ConformanceCase, _ backend: any DeviceBackend, _ check: inout Check
    ) throws(DeviceError) {
        let wiring = Wiring(test.primitive)
        let bench = try bench([wiring.program], backend, &check)
        let inputs = test.inputs(of: test.primitive)
        let expected = ReferenceExecutor.run(
            test.primitive, inputs.map(\.doubles), constants: test.constants)
        let slots = wiring.outputs.map { bench.plan.slots[0][$0.index] }
        for (id, tensor) in zip(wiring.inputs, inputs) { try bench.write(tensor, id) }
        let before = try bench.snapshot()
        try bench.run(test.constants)
        try compareOutside(slots, before, bench, &check)
        let first = try bench.bytes(slots)
        for (index, id) in wiring.outputs.enumerated() {
            let found = try bench.read(id)
            check.compare(found.doubles, expected[index], "output \(index)", found.shape)
            try checkPadding(wiring.program[id].kind, slots[index], "output \(index)", bench, &check)
        }
        // What slots held before must not matter, and the same program gives the same bytes.
        try bench.memory.fill(0x7F)
        for (id, tensor) in zip(wiring.inputs, inputs) { try bench.write(tensor, id) }
        try bench.run(test.constants)
        let second = try bench.bytes(slots)
        for index in slots.indices where first[index] != second[index] {
            let byte = first[index].indices.first { first[index][$0] != second[index][$0] } ?? 0
            check.failures.append(
                "output \(index) differs from the first run's at byte \(byte) of \(first[index].count)")
        }
    }

    /// `t = input + 0; u = primitive(…t…); output = u + 0` in a plan that shares memory: u takes t's slot.
    private func runInPlace(
        _ test: ConformanceCase, _ position: Int, _ backend: any DeviceBackend, _ check: inout Check
    ) throws(DeviceError) {
        let operands = test.primitive.operands
        guard case .activation(let inputShape) = operands.inputs[position],
            case .activation(let outputShape) = operands.outputs[0]
        else {
            check.failures.append("operand \(position) of \(test.primitive.kind) is no activation")
            return
        }
        var program = Program()
        let zeroIn = program.add(.activation(inputShape), .input, "zeros")
        let zeroOut = program.add(.activation(outputShape), .input, "zeros")
        let ids = operands.inputs.enumerated().map { program.add($1, .input, "input \($0)") }
        let copy = program.add(.activation(inputShape), .transient, "transient input")
        let result = program.add(.activation(outputShape), .transient, "transient output")
        let output = program.add(.activation(outputShape), .output, "output")
        var arguments = ids
        arguments[position] = copy
        program.append(.add(inputShape, relu: false), [ids[position], zeroIn], [copy], node: "before")
        program.append(test.primitive, arguments, [result], node: "\(test.primitive.kind)")
        program.append(.add(outputShape, relu: false), [result, zeroOut], [output], node: "after")
        let bench = try bench([program], backend, reusesMemory: true, &check)
        guard bench.plan.slots[0][copy.index] == bench.plan.slots[0][result.index] else {
            check.failures.append("the plan does not run \(test.primitive.kind) in place of operand \(position)")
            return
        }
        let inputs = test.inputs(of: test.primitive)
        let expected = ReferenceExecutor.run(test.primitive, inputs.map(\.doubles), constants: test.constants)
        for (id, tensor) in zip(ids, inputs) { try bench.write(tensor, id) }
        for id in [zeroIn, zeroOut] { try bench.write(HostTensor(program[id].kind.hostShape, repeating: 0), id) }
        let before = try bench.snapshot()
        try bench.run(test.constants)
        let slots = [copy, output].map { bench.plan.slots[0][$0.index] }
        try compareOutside(slots, before, bench, &check)
        let found = try bench.read(output)
        check.compare(found.doubles, expected[0], "output", found.shape)
        try checkPadding(program[result].kind, slots[0], "the result in place", bench, &check)
    }

    /// The full batch, the short one, the full one again.
    private func runShortBatch(
        _ test: ConformanceCase, _ batch: Int, _ backend: any DeviceBackend, _ check: inout Check
    ) throws(DeviceError) {
        guard let short = test.primitive.with(batch: batch) else {
            check.failures.append("\(test.primitive.kind) has no batch")
            return
        }
        let primitives = [test.primitive, short]
        let wirings = primitives.map { Wiring($0) }
        let bench = try bench(wirings.map(\.program), backend, &check)
        for (turn, index) in [0, 1, 0].enumerated() {
            let inputs = test.inputs(of: primitives[index])
            let expected = ReferenceExecutor.run(
                primitives[index], inputs.map(\.doubles), constants: test.constants)
            for (id, tensor) in zip(wirings[index].inputs, inputs) { try bench.write(tensor, id, program: index) }
            let before = try bench.snapshot()
            try bench.run(test.constants, program: index)
            let slots = wirings[index].outputs.map { bench.plan.slots[index][$0.index] }
            try compareOutside(slots, before, bench, &check)
            for (output, id) in wirings[index].outputs.enumerated() {
                let found = try bench.read(id, program: index)
                let what = "run \(turn) (batch \(index == 0 ? "full" : "\(batch)")), output \(output)"
                check.compare(found.doubles, expected[output], what, found.shape)
                try checkPadding(wirings[index].program[id].kind, slots[output], what, bench, &check)
            }
        }
    }

    /// Zeros over a range, gaps between its values included: labels lie as on the host, whatever the layout, and have no
    /// padding.
    static func clear(_ slot: Slot, _ memory: any DeviceMemory) throws(DeviceError) {
        let kind = ValueKind.labels(batch: slot.byteCount / 4)
        let zeros = [Int32](repeating: 0, count: slot.byteCount / 4)
        try memory.write(HostTensor(shape: kind.hostShape, storage: .int32(zeros)), kind: kind, to: slot)
    }

    /// Parameters w0, w1 … and their gradients.
    private static func add(
        _ parameters: [(kind: ValueKind, cohort: Int)], to program: inout Program
    ) -> (weights: [ValueID], gradients: [ValueID]) {
        var weights: [ValueID] = []
        var gradients: [ValueID] = []
        for (index, parameter) in parameters.enumerated() {
            let storage = ValueStorage.parameter(
                key: "w\(index)", source: .tensor("w\(index)"), cohort: parameter.cohort)
            weights.append(program.add(parameter.kind, storage, "w\(index)"))
            gradients.append(program.add(parameter.kind, .gradient(parameterKey: "w\(index)"), "dw\(index)"))
        }
        return (weights, gradients)
    }

    /// Three state slabs, of which the primitive may change its own; gaps between gradients hold zero, as on a device that
    /// has just allocated them.
    private func runSlabs(
        _ test: ConformanceCase, _ parameters: [(kind: ValueKind, cohort: Int)], _ steps: [StepConstants],
        _ backend: any DeviceBackend, _ check: inout Check
    ) throws(DeviceError) {
        var program = Program()
        let (weights, gradients) = Self.add(parameters, to: &program)
        let operands = test.primitive.operands
        let inputs = operands.inputs.map { program.add($0, .input, "input") }
        let outputs = operands.outputs.map { program.add($0, .output, "output") }
        program.append(test.primitive, inputs, outputs, node: "\(test.primitive.kind)")
        let bench = try bench([program], backend, stateCount: 3, &check)
        let plan = bench.plan
        guard let slabs = plan.slabs else {
            check.failures.append("the plan has no slabs")
            return
        }
        try Self.clear(slabs.gradients, bench.memory)
        for (index, parameter) in parameters.enumerated() {
            try bench.write(
                Fill.uniform.tensor(of: parameter.kind, random: test.random(operand: index)), weights[index])
            for (state, slot) in (plan.states["w\(index)"] ?? []).enumerated() {
                let random = test.random(operand: 100 + 10 * index + state)
                let tensor = Fill.uniform.tensor(of: parameter.kind, random: random)
                try bench.memory.write(tensor, kind: parameter.kind, to: slot)
            }
        }
        let operandTensors = test.inputs(of: test.primitive)
        for (id, tensor) in zip(inputs, operandTensors) { try bench.write(tensor, id) }
        for (number, constants) in steps.enumerated() {
            var entries: [ReferenceExecutor.SlabEntry] = []
            for (index, parameter) in parameters.enumerated() {
                let random = test.random(operand: 1000 * (number + 1) + index)
                let gradient = (test.fills[9] ?? .uniform).tensor(of: parameter.kind, random: random)
                try bench.write(gradient, gradients[index])
                var states: [[Double]] = []
                for slot in plan.states["w\(index)"] ?? [] {
                    states.append(try bench.memory.read(kind: parameter.kind, from: slot).doubles)
                }
                entries.append(
                    .init(parameter: try bench.read(weights[index]).doubles, gradient: gradient.doubles, states: states)
                )
            }
            let expected = ReferenceExecutor.slabs(
                test.primitive, entries, operands: operandTensors.map(\.doubles), constants: constants)
            var allowed = outputs.map { plan.slots[0][$0.index] }
            switch test.primitive {
            case .gradientAccumulation(let state): allowed += [slabs.gradients, slabs.states[state]]
            case .gradientScaling: allowed.append(slabs.gradients)
            case .weightAveraging(let state, _): allowed.append(slabs.states[state])
            default: break
            }
            let before = try bench.snapshot()
            try bench.run(constants)
            try compareOutside(allowed, before, bench, &check)
            for id in outputs {
                let found = try bench.read(id)
                if let output = expected.output {
                    check.compare(found.doubles, output, "step \(number), output", found.shape)
                }
                try checkPadding(program[id].kind, plan.slots[0][id.index], "output", bench, &check)
            }
            for (index, parameter) in parameters.enumerated() {
                let gradientSlot = plan.slots[0][gradients[index].index]
                let found = try bench.read(gradients[index])
                check.compare(
                    found.doubles, expected.parameters[index].gradient, "step \(number), dw\(index)", found.shape)
                try checkPadding(parameter.kind, gradientSlot, "dw\(index)", bench, &check)
                for (state, slot) in (plan.states["w\(index)"] ?? []).enumerated() {
                    let found = try bench.memory.read(kind: parameter.kind, from: slot)
                    let what = "step \(number), state \(state) of w\(index)"
                    check.compare(found.doubles, expected.parameters[index].states[state], what, found.shape)
                    try checkPadding(parameter.kind, slot, what, bench, &check)
                }
            }
        }
    }

    /// Each step starts from what the device has, so that its errors do not add up over the steps.
    private func runOptimizer(
        _ test: ConformanceCase, _ parameters: [(kind: ValueKind, cohort: Int)], _ updated: [Int],
        _ steps: [StepConstants], _ backend: any DeviceBackend, _ check: inout Check
    ) throws(DeviceError) {
        guard case .optimizerUpdate(let rule, _) = test.primitive else {
            check.failures.append("\(test.primitive.kind) is no optimizer update")
            return
        }
        var program = Program()
        let (weights, gradients) = Self.add(parameters, to: &program)
        for cohort in updated { program.append(.optimizerUpdate(rule, cohort: cohort), [], [], node: "optimizer") }
        let bench = try bench([program], backend, stateCount: rule.stateCount, &check)
        let plan = bench.plan
        // Another byte than 0xFF in the first step's state would hide a rule that reads a buffer which is not there yet.
        let isFresh = steps.first?.cohorts.first?.isFirstStep ?? false
        for (index, parameter) in parameters.enumerated() {
            let random = test.random(operand: index)
            try bench.write(Fill.uniform.tensor(of: parameter.kind, random: random), weights[index])
            for (state, slot) in (plan.states["w\(index)"] ?? []).enumerated() where !isFresh {
                let fill: Fill = state == 1 ? .range(0, 0.5) : .uniform
                let tensor = fill.tensor(of: parameter.kind, random: test.random(operand: 100 + 10 * index + state))
                try bench.memory.write(tensor, kind: parameter.kind, to: slot)
            }
        }
        for (number, constants) in steps.enumerated() {
            var expected: [[ReferenceOutput]] = []
            for (index, parameter) in parameters.enumerated() {
                let random = test.random(operand: 1000 * (number + 1) + index)
                let gradient = (test.fills[0] ?? .uniform).tensor(of: parameter.kind, random: random)
                try bench.write(gradient, gradients[index])
                var inputs = [try bench.read(weights[index]).doubles, gradient.doubles]
                for slot in plan.states["w\(index)"] ?? [] {
                    inputs.append(try bench.memory.read(kind: parameter.kind, from: slot).doubles)
                }
                expected.append(
                    ReferenceExecutor.run(
                        .optimizerUpdate(rule, cohort: parameter.cohort), inputs, constants: constants))
            }
            let before = try bench.snapshot()
            try bench.run(constants)
            let cohorts = updated.map { plan.cohorts[$0] }
            try compareOutside(cohorts.flatMap { [$0.parameters] + $0.states }, before, bench, &check)
            for (index, parameter) in parameters.enumerated() where updated.contains(parameter.cohort) {
                let slots = [plan.slots[0][weights[index].index]] + (plan.states["w\(index)"] ?? [])
                for (output, slot) in slots.enumerated() {
                    let what = "step \(number), " + (output == 0 ? "w\(index)" : "state \(output - 1) of w\(index)")
                    let found = try bench.memory.read(kind: parameter.kind, from: slot)
                    check.compare(found.doubles, expected[index][output], what, found.shape)
                    try checkPadding(parameter.kind, slot, what, bench, &check)
                }
            }
        }
    }
}
