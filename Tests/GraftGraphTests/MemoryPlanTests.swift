import GraftGraph
import GraftTensor
import Testing

/// Plans of random programs: no two values that live at once overlap, guards are kept, no arena is too large.
@Suite("Memory plan")
struct MemoryPlanTests {
    static let alignment = 64

    static func layout(maximumArenaByteCount: Int = 1 << 40, workspace: Int = 0) -> MemoryLayout {
        MemoryLayout(
            byteCount: { 4 * $0.hostShape.elementCount },
            workspaceByteCount: { primitive in
                if case .add(let shape, _) = primitive { workspace * shape.channels } else { 0 }
            }, alignment: alignment, maximumArenaByteCount: maximumArenaByteCount)
    }

    /// A random graph of relus, additions, concatenations and slices; some results are outputs, some inputs live on.
    static func randomProgram(_ seed: UInt64, sharedKeys: Int = 3) -> Program {
        let random = CounterRandom(seed: seed, 77)
        var counter = 0
        func below(_ bound: Int) -> Int {
            counter += 1
            return random.integer(below: bound, counter)
        }
        var program = Program()
        var live: [(id: ValueID, shape: ActivationShape)] = []
        for index in 0..<(1 + below(3)) {
            let shape = ActivationShape(1 + below(3), 1 + below(40), 1 + below(9), 1 + below(9))
            live.append((program.add(.activation(shape), .input, "x\(index)"), shape))
        }
        for index in 0..<sharedKeys {
            _ = program.add(
                .channelVector(1 + index * 37), .constant(key: "c\(index)", source: .tensor("c\(index)")), "c\(index)")
        }
        for step in 0..<(2 + below(40)) {
            let first = live[below(live.count)]
            let storage: ValueStorage = below(9) == 0 ? .output : .transient
            func result(_ shape: ActivationShape) -> ValueID {
                let id = program.add(.activation(shape), storage, "v\(step)")
                // Outputs may not be read again, a device may leave them in another memory.
                if storage == .transient { live.append((id, shape)) }
                return id
            }
            switch below(4) {
            case 0:
                program.append(.relu(first.shape), [first.id], [result(first.shape)], node: "relu")
            case 1:
                let equals = live.filter { $0.shape == first.shape }
                let second = equals[below(equals.count)]
                program.append(
                    .add(first.shape, relu: false), [first.id, second.id], [result(first.shape)], node: "add")
            case 2:
                let total = first.shape.with(channels: 2 * first.shape.channels)
                guard total.channels < 500 else { continue }
                program.append(
                    .concatenation(total, channels: [first.shape.channels, first.shape.channels]),
                    [first.id, first.id], [result(total)], node: "concatenation")
            default:
                let count = 1 + below(first.shape.channels)
                program.append(
                    .channelSlice(first.shape, offset: 0, count: count), [first.id],
                    [result(first.shape.with(channels: count))], node: "slice")
            }
            // Old values die.
            while live.count > 6 { live.remove(at: below(live.count)) }
        }
        return program
    }

    struct Lifetime {
        var first: Int
        var last: Int
    }

    static func lifetimes(_ program: Program) -> [Int: Lifetime] {
        var result: [Int: Lifetime] = [:]
        for (step, instruction) in program.instructions.enumerated() {
            for id in instruction.inputs + instruction.outputs where program[id].storage == .transient {
                result[id.index, default: Lifetime(first: step, last: step)].last = step
            }
        }
        return result
    }

    /// Whether output 0 of the instruction at which `earlier` dies and `later` is born may take its slot.
    static func mayJoin(_ program: Program, _ earlier: Int, _ later: Int, _ step: Int) -> Bool {
        let instruction = program.instructions[step]
        return instruction.outputs.first?.index == later
            && instruction.primitive.inPlaceInputs.contains {
                $0 < instruction.inputs.count && instruction.inputs[$0].index == earlier
            } && instruction.inputs.filter { $0.index == earlier }.count == 1
    }

    @Test("random programs", arguments: 0..<150)
    func randomPrograms(seed: Int) throws {
        let random = CounterRandom(seed: UInt64(seed), 3)
        let programs = (0..<(1 + seed % 3)).map { Self.randomProgram(UInt64(seed * 10 + $0)) }
        let guardByteCount = [0, 64, 192][seed % 3]
        let reusesMemory = seed % 5 != 0
        // A small limit splits arenas; it admits the largest single value.
        let largest = programs.flatMap(\.values).map { 4 * $0.kind.hostShape.elementCount }.max() ?? 0
        let limit =
            seed % 2 == 0 ? 1 << 40 : largest + Self.alignment + 2 * guardByteCount + random.integer(below: 4096, 1)
        let plan = try MemoryPlan(
            programs: programs, layout: Self.layout(maximumArenaByteCount: limit, workspace: seed % 4 == 0 ? 8 : 0),
            options: .init(guardByteCount: guardByteCount, reusesMemory: reusesMemory))

        for arena in plan.arenas { #expect(arena.byteCount <= limit && arena.byteCount > 0) }
        var sumOfTransients = 0
        for (program, slots) in zip(programs, plan.slots) {
            #expect(slots.count == program.values.count)
            for (value, slot) in zip(program.values, slots) {
                #expect(slot.byteCount == 4 * value.kind.hostShape.elementCount)
                #expect(slot.offset % Self.alignment == 0 && slot.offset >= guardByteCount)
                #expect(slot.offset + slot.byteCount + guardByteCount <= plan.arenas[slot.arena].byteCount)
            }
            checkOverlaps(program, slots, plan, guardByteCount, reusesMemory)
            sumOfTransients += program.values.indices.filter { program.values[$0].storage == .transient }
                .reduce(0) { $0 + (slots[$1].byteCount + Self.alignment + guardByteCount) }
        }
        #expect(plan.byteCount(of: .transients) >= plan.transientLowerBound)
        if plan.byteCount(of: .transients) > 0 {
            let arenaCount = plan.arenas.filter { $0.role == .transients }.count
            #expect(plan.byteCount(of: .transients) <= sumOfTransients + arenaCount * guardByteCount)
        }
        if let workspace = plan.workspace {
            #expect(plan.arenas[workspace.arena].role == .workspace)
            for slots in plan.slots { #expect(slots.allSatisfy { $0.arena != workspace.arena }) }
        }
    }

    private func checkOverlaps(
        _ program: Program, _ slots: [Slot], _ plan: MemoryPlan, _ guardByteCount: Int, _ reusesMemory: Bool
    ) {
        let lifetimes = Self.lifetimes(program)
        var joined = 0
        for a in slots.indices {
            for b in slots.indices where a < b && slots[a].arena == slots[b].arena {
                let apart =
                    slots[a].offset + slots[a].byteCount + guardByteCount <= slots[b].offset
                    || slots[b].offset + slots[b].byteCount + guardByteCount <= slots[a].offset
                if apart { continue }
                guard reusesMemory, let x = lifetimes[a], let y = lifetimes[b] else {
                    Issue.record("\(program.values[a].name) and \(program.values[b].name) overlap")
                    continue
                }
                if x.last < y.first || y.last < x.first { continue }
                // They meet in one instruction: only in place, one dying where the other is born, in the same slot.
                let (earlier, later, step) = x.first < y.first ? (a, b, y.first) : (b, a, x.first)
                let dies = (x.first < y.first ? x.last : y.last) == step
                #expect(
                    dies && slots[a] == slots[b] && Self.mayJoin(program, earlier, later, step),
                    "\(program.values[a].name) and \(program.values[b].name) live at once and overlap")
                joined += 1
            }
        }
        if !reusesMemory { #expect(joined == 0) }
    }

    /// `x → t₀ → t₁ → … → y`.
    private func chain(_ length: Int, _ shape: ActivationShape, _ primitive: Primitive) -> Program {
        var program = Program()
        var current = program.add(.activation(shape), .input, "x")
        for index in 0..<length {
            let next = program.add(.activation(shape), index == length - 1 ? .output : .transient, "t\(index)")
            program.append(primitive, [current], [next], node: "n\(index)")
            current = next
        }
        return program
    }

    @Test("a chain in place needs one slot, any other chain two")
    func chains() throws {
        let shape = ActivationShape(1, 16, 4, 4)
        let inPlace = try MemoryPlan(programs: [chain(9, shape, .relu(shape))], layout: Self.layout())
        #expect(inPlace.byteCount(of: .transients) == 1024)
        let pool = PoolingGeometry(input: shape, kernel: 1, stride: 1)
        let program = chain(9, shape, .averagePooling(pool))
        let two = try MemoryPlan(programs: [program], layout: Self.layout())
        #expect(two.byteCount(of: .transients) == 2048 && two.transientLowerBound == 2048)
        let all = try MemoryPlan(programs: [program], layout: Self.layout(), options: .init(reusesMemory: false))
        #expect(all.byteCount(of: .transients) == 8 * 1024)
    }

    @Test("an operand that is read later, twice, or belongs to the host is not overwritten")
    func notInPlace() throws {
        let shape = ActivationShape(1, 16, 4, 4)
        func slots(_ build: (inout Program, ValueID, ValueID) -> Void) throws -> (Slot, Slot) {
            var program = Program()
            let x = program.add(.activation(shape), .input, "x")
            let t = program.add(.activation(shape), .transient, "t")
            let u = program.add(.activation(shape), .transient, "u")
            let y = program.add(.activation(shape), .output, "y")
            program.append(.relu(shape), [x], [t], node: "first")
            build(&program, t, u)
            program.append(.add(shape, relu: false), [u, x], [y], node: "last")
            let plan = try MemoryPlan(programs: [program], layout: Self.layout())
            return (plan.slots[0][t.index], plan.slots[0][u.index])
        }
        let once = try slots { $0.append(.relu(shape), [$1], [$2], node: "relu") }
        #expect(once.0 == once.1)
        let twice = try slots { $0.append(.add(shape, relu: false), [$1, $1], [$2], node: "add") }
        #expect(twice.0 != twice.1)
        let later = try slots { program, t, u in
            program.append(.relu(shape), [t], [u], node: "relu")
            let z = program.add(.activation(shape), .output, "z")
            program.append(.relu(shape), [t], [z], node: "again")
        }
        #expect(later.0 != later.1)
        let saved = try slots { program, t, u in
            // Of reluGradient's operands only dy may be overwritten.
            let x = ValueID(0)
            program.append(.reluGradient(shape), [x, t], [u], node: "gradient")
        }
        #expect(saved.0 != saved.1)
    }

    /// A random graph of channel-blocked values that are mostly concatenated.
    private static func concatenations(_ seed: UInt64) -> Program {
        let random = CounterRandom(seed: seed, 78)
        var counter = 0
        func below(_ bound: Int) -> Int {
            counter += 1
            return random.integer(below: bound, counter)
        }
        var program = Program()
        let shape = ActivationShape(2, 16, 2, 3)
        let x = program.add(.activation(shape), .input, "x")
        var live: [(id: ValueID, shape: ActivationShape)] = []
        for step in 0..<30 {
            func result(_ channels: Int) -> ValueID {
                let shape = shape.with(channels: channels)
                let id = program.add(.activation(shape), .transient, "v\(step)")
                live.append((id, shape))
                return id
            }
            let choice = below(5)
            if live.count < 2 || choice == 0 {
                program.append(.relu(shape), [x], [result(16)], node: "made")
            } else if choice == 1 {
                let source = live[below(live.count)]
                program.append(.relu(source.shape), [source.id], [result(source.shape.channels)], node: "relu")
            } else {
                let parts = (0..<2 + below(2)).map { _ in live[below(live.count)] }
                let channels = parts.map(\.shape.channels)
                let total = channels.reduce(0, +)
                guard total <= 512 else { continue }
                program.append(
                    .concatenation(shape.with(channels: total), channels: channels), parts.map(\.id), [result(total)],
                    node: "concatenation")
            }
            while live.count > 5 { live.remove(at: below(live.count)) }
        }
        return program
    }

    @Test("what is concatenated is written in its place, and every value is whole where it is read", arguments: 0..<100)
    func concatenationInPlace(seed: Int) throws {
        let program = Self.concatenations(UInt64(seed))
        let layout = MemoryLayout(
            byteCount: { ChannelBlockedLayout.byteCount(of: $0) }, workspaceByteCount: { _ in 0 },
            channelOffset: { ChannelBlockedLayout.channelOffset(of: $1, in: $0) }, alignment: Self.alignment,
            maximumArenaByteCount: 1 << 40)
        let plan = try MemoryPlan(programs: [program], layout: layout)
        let slots = plan.slots[0]
        // What lies in each 64 bytes of each arena, and what each value consists of.
        var memory: [[Int]: [Int]] = [:]
        var contents: [Int: [[Int]]] = [:]
        func place(_ value: Int, _ piece: Int) -> [Int] { [slots[value].arena, slots[value].offset / 64 + piece] }
        func isWhole(_ id: ValueID) -> Bool {
            guard program[id].storage == .transient else { return true }
            return (contents[id.index] ?? []).enumerated().allSatisfy { memory[place(id.index, $0)] == $1 }
        }
        for (step, instruction) in program.instructions.enumerated() {
            for input in instruction.inputs {
                #expect(isWhole(input), "step \(step): \(program[input].name) was overwritten before it is read")
            }
            let output = instruction.outputs[0].index
            if case .concatenation = instruction.primitive {
                contents[output] = instruction.inputs.flatMap { contents[$0.index] ?? [] }
            } else {
                contents[output] = (0..<slots[output].byteCount / 64).map { [output, $0] }
            }
            for (piece, content) in (contents[output] ?? []).enumerated() { memory[place(output, piece)] = content }
        }
    }

    @Test("a concatenation of values that nothing else reads needs no memory of its own")
    func concatenationNeedsNoMemory() throws {
        let shape = ActivationShape(1, 16, 4, 4)
        var program = Program()
        let x = program.add(.activation(shape), .input, "x")
        let parts = (0..<3).map { program.add(.activation(shape), .transient, "t\($0)") }
        for part in parts { program.append(.relu(shape), [x], [part], node: "relu") }
        let whole = program.add(.activation(shape.with(channels: 48)), .transient, "whole")
        program.append(.concatenation(shape.with(channels: 48), channels: [16, 16, 16]), parts, [whole], node: "cat")
        let y = program.add(.activation(shape.with(channels: 48)), .output, "y")
        program.append(.relu(shape.with(channels: 48)), [whole], [y], node: "last")
        let layout = MemoryLayout(
            byteCount: { ChannelBlockedLayout.byteCount(of: $0) }, workspaceByteCount: { _ in 0 },
            channelOffset: { ChannelBlockedLayout.channelOffset(of: $1, in: $0) }, alignment: Self.alignment,
            maximumArenaByteCount: 1 << 40)
        let plan = try MemoryPlan(programs: [program], layout: layout)
        #expect(plan.byteCount(of: .transients) == 3 * 1024)
        for (index, part) in parts.enumerated() {
            #expect(plan.slots[0][part.index].offset == plan.slots[0][whole.index].offset + index * 1024)
        }
        let apart = try MemoryPlan(programs: [program], layout: layout, options: .init(reusesMemory: false))
        #expect(apart.byteCount(of: .transients) == 6 * 1024)
    }

    @Test("parameters, gradients and states of a cohort are one range at equal offsets")
    func cohorts() throws {
        var program = Program()
        let weight = WeightShape(outputChannels: 5, inputChannels: 3, kernelHeight: 3, kernelWidth: 3)
        let kinds: [(String, ValueKind, Int)] = [
            ("a", .weight(weight), 0), ("b", .channelVector(5), 1), ("c", .channelVector(7), 0),
            ("d", .weight(weight), 1),
        ]
        for (key, kind, cohort) in kinds {
            _ = program.add(kind, .parameter(key: key, source: .tensor(key), cohort: cohort), key)
            _ = program.add(kind, .gradient(parameterKey: key), "d\(key)")
        }
        let plan = try MemoryPlan(
            programs: [program, program], layout: Self.layout(),
            options: .init(guardByteCount: 64, optimizerStateCount: 2))
        #expect(plan.cohorts.count == 2)
        #expect(plan.slots[0] == plan.slots[1])
        for (key, _, cohort) in kinds {
            let slot = try #require(plan.persistent[key]?.slot)
            let gradient = try #require(plan.gradients[key])
            let states = try #require(plan.states[key])
            #expect(states.count == 2)
            #expect(([gradient] + states).allSatisfy { $0.offset == slot.offset && $0.byteCount == slot.byteCount })
            #expect(Set(([slot, gradient] + states).map(\.arena)).count == 4)
            let range = plan.cohorts[cohort]
            #expect(slot.arena == range.parameters.arena && gradient.arena == range.gradients.arena)
            #expect(slot.offset >= range.parameters.offset)
            #expect(slot.offset + slot.byteCount <= range.parameters.offset + range.parameters.byteCount)
        }
        let (first, second) = (plan.cohorts[0].parameters, plan.cohorts[1].parameters)
        #expect(first.offset + first.byteCount <= second.offset)
        #expect(plan.persistentKeys == ["a", "b", "c", "d"])
    }

    @Test("one value larger than the largest arena is refused by name")
    func tooLarge() throws {
        let shape = ActivationShape(1, 16, 32, 32)
        let error = #expect(throws: DeviceError.self) {
            try MemoryPlan(
                programs: [chain(3, shape, .relu(shape))], layout: Self.layout(maximumArenaByteCount: 60_000))
        }
        let message = try #require(error).description
        #expect(message.contains("64.0 KiB") && message.contains("58.6 KiB") && message.contains("--batch-size"))
        #expect(throws: DeviceError.self) {
            var program = Program()
            for index in 0..<4 {
                let storage = ValueStorage.parameter(key: "w\(index)", source: .tensor("w"), cohort: 0)
                _ = program.add(.channelVector(5000), storage, "w\(index)")
            }
            _ = try MemoryPlan(programs: [program], layout: Self.layout(maximumArenaByteCount: 60_000))
        }
    }

    @Test("a value that nothing writes is refused")
    func unwritten() {
        var program = Program()
        _ = program.add(.channelVector(3), .transient, "lost")
        let error = #expect(throws: DeviceError.self) {
            try MemoryPlan(programs: [program], layout: Self.layout())
        }
        #expect(error?.description.contains("lost") == true)
    }
}
