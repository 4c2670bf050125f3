import GraftCPU
import GraftGraph
import GraftTensor
import Testing

/// Runs one primitive on memory that held NaN before.
struct PrimitiveRunner {
    let backend: CPUBackend

    struct Result {
        var tensors: [HostTensor]
        /// Each output's memory.
        var bytes: [[UInt8]]
    }

    func run(
        _ primitive: Primitive, inputs: [(ValueKind, HostTensor)], outputs: [ValueKind],
        constants: StepConstants = StepConstants()
    ) throws -> Result {
        var program = Program()
        let inputIDs = inputs.enumerated().map { program.add($1.0, .input, "input \($0)") }
        let outputIDs = outputs.enumerated().map { program.add($1, .output, "output \($0)") }
        program.append(primitive, inputIDs, outputIDs, node: "test")
        let plan = try MemoryPlan(
            programs: [program], layout: MemoryLayout(backend: backend), options: .init(guardByteCount: 256))
        let memory = try backend.allocate(plan)
        try memory.fill(0xFF)
        let prepared = try backend.prepare(program, index: 0, memory: memory)
        for (id, input) in zip(inputIDs, inputs) {
            try memory.write(input.1, kind: input.0, to: plan.slots[0][id.index])
        }
        try prepared.run(constants)
        try prepared.synchronize()
        var result = Result(tensors: [], bytes: [])
        var raw: [Int: [UInt8]] = [:]
        for id in outputIDs {
            let slot = plan.slots[0][id.index]
            result.tensors.append(try memory.read(kind: program[id].kind, from: slot))
            let arena = try raw[slot.arena] ?? memory.rawBytes(arena: slot.arena)
            raw[slot.arena] = arena
            result.bytes.append(Array(arena[slot.offset..<slot.offset + slot.byteCount]))
            for index in 0..<256 {
                #expect(arena[slot.offset - 1 - index] == 0xFF, "written \(index + 1) bytes before \(program[id].name)")
                #expect(
                    arena[(slot.offset + slot.byteCount + 63) / 64 * 64 + index] == 0xFF,
                    "written \(index) bytes behind \(program[id].name)")
            }
        }
        // What is not a channel must be zero: packing the values read gives the same bytes.
        for (index, kind) in outputs.enumerated() {
            let packed = try ChannelBlockedLayout.pack(result.tensors[index], kind: kind)
            #expect(packed == result.bytes[index], "padding of output \(index) of \(primitive) is not zero")
        }
        return result
    }
}

/// Numbers in −1 ..< 1 that depend on the seed.
func randomTensor(_ shape: Shape, seed: UInt64) -> HostTensor {
    let random = CounterRandom(seed: seed)
    return HostTensor(shape, (0..<shape.elementCount).map { Float(random.uniform($0) * 2 - 1) })
}

/// Every instruction set of this machine with 1, 2 and 3 threads.
let backendVariants: [(CPUInstructionSet, Int)] = CPUInstructionSet.supported.flatMap { set in
    [1, 2, 3].map { (set, $0) }
}
