import BackendConformance
import GraftGraph
import GraftTensor

/// A backend over the Double reference in the channel-blocked layout, with faults on request: it shows that the
/// conformance harness passes a right backend and finds a wrong one.
final class ReferenceBackend: DeviceBackend {
    enum Fault: CaseIterable, Sendable {
        case writesBehindOutput, writesBeforeOutput, writesInput, leavesPadding, leavesElement, dependsOnContents
        case slightlyWrong, stateNotZero
    }

    let fault: Fault?
    let alignment = 64
    let maximumArenaByteCount = 1 << 30

    init(fault: Fault? = nil) { self.fault = fault }

    var description: DeviceDescription {
        DeviceDescription(
            selector: "reference", name: "reference", platform: "tests", type: "CPU", driverVersion: "1",
            memoryByteCount: 1 << 30, computeUnitCount: 1, kernelClass: "reference")
    }

    func byteCount(of kind: ValueKind) -> Int { ChannelBlockedLayout.byteCount(of: kind) }
    func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? {
        ChannelBlockedLayout.channelOffset(of: channels, in: shape)
    }
    func workspaceByteCount(for primitive: Primitive) -> Int { primitive.kind == .channelSum ? 100 : 0 }

    func allocate(_ plan: MemoryPlan) throws(DeviceError) -> any DeviceMemory {
        ReferenceMemory(plan, stateByte: fault == .stateNotZero ? 1 : 0)
    }

    func prepare(_ program: Program, index: Int, memory: any DeviceMemory) throws(DeviceError) -> any PreparedProgram {
        guard let memory = memory as? ReferenceMemory else {
            throw DeviceError.unsupported("memory of another backend")
        }
        return ReferencePrepared(program, index, memory, fault)
    }
}

final class ReferenceMemory: DeviceMemory {
    let plan: MemoryPlan
    var arenas: [[UInt8]]

    init(_ plan: MemoryPlan, stateByte: UInt8) {
        self.plan = plan
        arenas = plan.arenas.map {
            if case .state = $0.role { return [UInt8](repeating: stateByte, count: $0.byteCount) }
            if case .gradients = $0.role { return [UInt8](repeating: 0, count: $0.byteCount) }
            return [UInt8](repeating: 0xAB, count: $0.byteCount)
        }
    }

    func write(_ tensor: HostTensor, kind: ValueKind, to slot: Slot) throws(DeviceError) {
        let bytes = try ChannelBlockedLayout.pack(tensor, kind: kind)
        arenas[slot.arena].replaceSubrange(slot.offset..<slot.offset + bytes.count, with: bytes)
    }

    func read(kind: ValueKind, from slot: Slot) throws(DeviceError) -> HostTensor {
        let bytes = Array(arenas[slot.arena][slot.offset..<slot.offset + slot.byteCount])
        return bytes.withUnsafeBytes { ChannelBlockedLayout.unpack($0, kind: kind) }
    }

    func fill(_ byte: UInt8) {
        for index in arenas.indices { arenas[index] = [UInt8](repeating: byte, count: arenas[index].count) }
    }

    func rawBytes(arena: Int) -> [UInt8] { arenas[arena] }
}

final class ReferencePrepared: PreparedProgram {
    let program: Program
    let index: Int
    let memory: ReferenceMemory
    let fault: ReferenceBackend.Fault?

    init(_ program: Program, _ index: Int, _ memory: ReferenceMemory, _ fault: ReferenceBackend.Fault?) {
        self.program = program
        self.index = index
        self.memory = memory
        self.fault = fault
    }

    func synchronize() {}
    func profile(_ constants: StepConstants) -> [Double] { program.instructions.map { _ in 0 } }

    func run(_ constants: StepConstants) throws(DeviceError) {
        let slots = memory.plan.slots[index]
        for instruction in program.instructions {
            switch instruction.primitive {
            case .optimizerUpdate(_, let cohort):
                try update(instruction.primitive, cohort, constants)
                continue
            case .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging:
                try updateSlabs(instruction, constants)
                continue
            default: break
            }
            var inputs: [[Double]] = []
            for id in instruction.inputs {
                inputs.append(try memory.read(kind: program[id].kind, from: slots[id.index]).doubles)
            }
            let outputs = ReferenceExecutor.run(instruction.primitive, inputs, constants: constants)
            for (id, output) in zip(instruction.outputs, outputs) {
                try write(output.values, program[id].kind, slots[id.index])
            }
            if let first = instruction.outputs.first { misbehave(slots[first.index], instruction, slots) }
        }
    }

    private func write(_ values: [Double], _ kind: ValueKind, _ slot: Slot) throws(DeviceError) {
        let shape = kind.hostShape
        if case .indices = kind {
            try memory.write(HostTensor(shape: shape, storage: .int32(values.map { Int32($0) })), kind: kind, to: slot)
        } else {
            try memory.write(HostTensor(shape, values.map { Float($0) }), kind: kind, to: slot)
        }
    }

    private func update(_ primitive: Primitive, _ cohort: Int, _ constants: StepConstants) throws(DeviceError) {
        let range = memory.plan.cohorts[cohort].parameters
        for (key, gradient) in memory.plan.gradients {
            guard let (slot, kind) = memory.plan.persistent[key], slot.offset >= range.offset,
                slot.offset < range.offset + range.byteCount
            else { continue }
            let states = memory.plan.states[key] ?? []
            var inputs: [[Double]] = []
            for slot in [slot, gradient] + states { inputs.append(try memory.read(kind: kind, from: slot).doubles) }
            let outputs = ReferenceExecutor.run(primitive, inputs, constants: constants)
            for (slot, output) in zip([slot] + states, outputs) { try write(output.values, kind, slot) }
        }
    }

    private func updateSlabs(_ instruction: Instruction, _ constants: StepConstants) throws(DeviceError) {
        let keys = memory.plan.gradients.keys.sorted()
        var entries: [ReferenceExecutor.SlabEntry] = []
        for key in keys {
            guard let (slot, kind) = memory.plan.persistent[key], let gradient = memory.plan.gradients[key] else {
                continue
            }
            var states: [[Double]] = []
            for state in memory.plan.states[key] ?? [] {
                states.append(try memory.read(kind: kind, from: state).doubles)
            }
            entries.append(
                .init(
                    parameter: try memory.read(kind: kind, from: slot).doubles,
                    gradient: try memory.read(kind: kind, from: gradient).doubles, states: states))
        }
        var operands: [[Double]] = []
        for id in instruction.inputs {
            operands.append(
                try memory.read(kind: program[id].kind, from: memory.plan.slots[index][id.index]).doubles)
        }
        let outputs = ReferenceExecutor.slabs(
            instruction.primitive, entries, operands: operands, constants: constants)
        for (key, result) in zip(keys, outputs.parameters) {
            guard let kind = memory.plan.persistent[key]?.kind, let gradient = memory.plan.gradients[key] else {
                continue
            }
            try write(result.gradient.values, kind, gradient)
            for (slot, state) in zip(memory.plan.states[key] ?? [], result.states) {
                try write(state.values, kind, slot)
            }
        }
        if let id = instruction.outputs.first, let output = outputs.output {
            try write(output.values, program[id].kind, memory.plan.slots[index][id.index])
        }
    }

    private func misbehave(_ slot: Slot, _ instruction: Instruction, _ slots: [Slot]) {
        let end = slot.offset + slot.byteCount
        switch fault {
        case nil, .stateNotZero: break
        case .writesBehindOutput: memory.arenas[slot.arena][end] = 0
        case .writesBeforeOutput: memory.arenas[slot.arena][slot.offset - 1] = 0
        case .writesInput:
            if let input = instruction.inputs.first {
                memory.arenas[slots[input.index].arena][slots[input.index].offset] ^= 1
            }
        case .leavesPadding: memory.arenas[slot.arena][end - 1] = 0x40
        case .leavesElement:
            for byte in 0..<4 { memory.arenas[slot.arena][slot.offset + byte] = 0xFF }
        case .dependsOnContents:
            memory.arenas[slot.arena][slot.offset] ^= memory.arenas[slot.arena][slot.offset - 1] >> 7
        case .slightlyWrong:
            // Bit 8 of the first float: a relative error of 3·10⁻⁵.
            memory.arenas[slot.arena][slot.offset + 1] ^= 1
        }
    }
}
