/// A range of one arena.
package struct Slot: Hashable, Sendable {
    package var arena: Int
    package var offset: Int
    package var byteCount: Int

    package init(arena: Int, offset: Int, byteCount: Int) {
        self.arena = arena
        self.offset = offset
        self.byteCount = byteCount
    }
}

/// What an arena is for.
package enum ArenaRole: Hashable, Sendable {
    case constants, parameters, gradients, state(Int), transients, io, workspace
}

/// One allocation.
package struct Arena: Hashable, Sendable {
    package var role: ArenaRole
    package var byteCount: Int
}

/// Where the optimizer finds the parameters that became trainable together: contiguous ranges of equal length.
package struct CohortSlots: Hashable, Sendable {
    package var parameters: Slot
    package var gradients: Slot
    /// As many as the optimizer's rule keeps.
    package var states: [Slot]
}

/// What a plan needs to know of a backend; ``DeviceBackend`` values give it by ``init(backend:)``.
package struct MemoryLayout: Sendable {
    package var byteCount: @Sendable (ValueKind) -> Int
    package var workspaceByteCount: @Sendable (Primitive) -> Int
    /// Where a range of channels of an activation lies, if it lies in one piece that is laid out as an activation of
    /// those channels alone: what is to be concatenated can then be written there at once.
    package var channelOffset: @Sendable (ActivationShape, Range<Int>) -> Int?
    package var alignment: Int
    package var maximumArenaByteCount: Int

    package init(
        byteCount: @escaping @Sendable (ValueKind) -> Int, workspaceByteCount: @escaping @Sendable (Primitive) -> Int,
        channelOffset: @escaping @Sendable (ActivationShape, Range<Int>) -> Int? = { _, _ in nil },
        alignment: Int, maximumArenaByteCount: Int
    ) {
        self.byteCount = byteCount
        self.workspaceByteCount = workspaceByteCount
        self.channelOffset = channelOffset
        self.alignment = alignment
        self.maximumArenaByteCount = maximumArenaByteCount
    }
}

/// Where every value of a set of programs lies. Persistent values are shared between the programs by key; transients of
/// one program share memory by liveness, and the programs, which never run at the same time, share the arenas.
package struct MemoryPlan: Sendable {
    /// How a plan is made.
    package struct Options: Sendable {
        /// Unused bytes kept before and behind every slot; the conformance suite looks for writes there.
        package var guardByteCount = 0
        /// Whether transients whose lifetimes do not overlap share memory.
        package var reusesMemory = true
        /// Zero or more state slabs per trainable parameter.
        package var optimizerStateCount = 0

        package init(guardByteCount: Int = 0, reusesMemory: Bool = true, optimizerStateCount: Int = 0) {
            self.guardByteCount = guardByteCount
            self.reusesMemory = reusesMemory
            self.optimizerStateCount = optimizerStateCount
        }
    }

    package private(set) var arenas: [Arena] = []
    /// By program, then by value.
    package private(set) var slots: [[Slot]] = []
    /// Persistent values by key: constants and trainable parameters.
    package private(set) var persistent: [String: (slot: Slot, kind: ValueKind)] = [:]
    /// Keys of persistent values in the order in which they were first met.
    package private(set) var persistentKeys: [String] = []
    /// Gradient and state slots of trainable parameters by key.
    package private(set) var gradients: [String: Slot] = [:]
    package private(set) var states: [String: [Slot]] = [:]
    /// By cohort index.
    package private(set) var cohorts: [CohortSlots] = []
    /// The ranges of all cohorts together, which lie one behind the other; nil where nothing trains.
    package var slabs: CohortSlots? {
        guard let first = cohorts.first, let last = cohorts.last else { return nil }
        func whole(_ first: Slot, _ last: Slot) -> Slot {
            Slot(arena: first.arena, offset: first.offset, byteCount: last.offset + last.byteCount - first.offset)
        }
        return CohortSlots(
            parameters: whole(first.parameters, last.parameters), gradients: whole(first.gradients, last.gradients),
            states: zip(first.states, last.states).map(whole))
    }
    /// Scratch for one instruction at a time.
    package private(set) var workspace: Slot?
    /// Largest sum of bytes of transients alive at once, over all programs: no plan can need less.
    package private(set) var transientLowerBound = 0

    /// Bytes of all arenas.
    package var totalByteCount: Int { arenas.reduce(0) { $0 + $1.byteCount } }

    /// Bytes that no placing of the same values at the same instructions could do without.
    package var leastByteCount: Int { totalByteCount - byteCount(of: .transients) + transientLowerBound }

    /// Bytes of the arenas of one role.
    package func byteCount(of role: ArenaRole) -> Int {
        arenas.filter { $0.role == role }.reduce(0) { $0 + $1.byteCount }
    }

    private let layout: MemoryLayout
    private let options: Options

    /// Plans memory for programs that share parameters.
    ///
    /// - Throws: ``DeviceError/outOfMemory`` when one value alone is larger than the largest arena.
    package init(programs: [Program], layout: MemoryLayout, options: Options = Options()) throws(DeviceError) {
        self.layout = layout
        self.options = options
        try placePersistent(programs)
        let workspaceBytes =
            programs.lazy.flatMap(\.instructions).map { layout.workspaceByteCount($0.primitive) }.max() ?? 0
        if workspaceBytes > 0 { workspace = try appendSlot(.workspace, workspaceBytes, "workspace") }
        let firstShared = arenas.count
        for program in programs {
            var programSlots = program.values.map { value in
                switch value.storage {
                case .constant(let key, _), .parameter(let key, _, _): persistent[key]?.slot
                case .gradient(let key): gradients[key]
                case .transient, .input, .output: Slot?.none
                }
            }
            try placeIO(program, &programSlots, firstShared: firstShared)
            try placeTransients(program, &programSlots, firstShared: firstShared)
            slots.append(
                try programSlots.enumerated().map { (index, slot) throws(DeviceError) in
                    guard let slot else {
                        throw DeviceError.unsupported(
                            "value \(program.values[index].name) has no slot: it is used but never written")
                    }
                    return slot
                })
        }
    }

    // MARK: Persistent values

    private mutating func placePersistent(_ programs: [Program]) throws(DeviceError) {
        var cohortKeys: [[(key: String, kind: ValueKind)]] = []
        for value in programs.lazy.flatMap(\.values) {
            switch value.storage {
            case .constant(let key, _):
                guard persistent[key] == nil else { continue }
                persistent[key] = (try appendSlot(.constants, layout.byteCount(value.kind), key), value.kind)
                persistentKeys.append(key)
            case .parameter(let key, _, let cohort):
                guard persistent[key] == nil else { continue }
                while cohortKeys.count <= cohort { cohortKeys.append([]) }
                cohortKeys[cohort].append((key, value.kind))
                persistent[key] = (Slot(arena: -1, offset: 0, byteCount: 0), value.kind)
                persistentKeys.append(key)
            case .transient, .input, .output, .gradient: continue
            }
        }
        guard !cohortKeys.isEmpty else { return }
        // Equal offsets in every slab, so that one launch walks parameters, gradients and state together.
        var offset = options.guardByteCount
        var ranges: [Range<Int>] = []
        var places: [(key: String, kind: ValueKind, offset: Int, byteCount: Int)] = []
        for keys in cohortKeys {
            let start = offset
            for (key, kind) in keys {
                let bytes = layout.byteCount(kind)
                places.append((key, kind, offset, bytes))
                offset += aligned(bytes)
            }
            ranges.append(start..<offset)
        }
        let total = offset + options.guardByteCount
        guard total <= layout.maximumArenaByteCount else {
            throw DeviceError.outOfMemory(
                device: "the device", requestedByteCount: total, availableByteCount: layout.maximumArenaByteCount,
                advice: "The trainable parameters must lie in one piece; freeze more layers.")
        }
        let roles: [ArenaRole] = [.parameters, .gradients] + (0..<options.optimizerStateCount).map { .state($0) }
        let base = arenas.count
        for role in roles { arenas.append(Arena(role: role, byteCount: total)) }
        for place in places {
            func slot(_ arena: Int) -> Slot {
                Slot(arena: base + arena, offset: place.offset, byteCount: place.byteCount)
            }
            persistent[place.key] = (slot(0), place.kind)
            gradients[place.key] = slot(1)
            states[place.key] = (0..<options.optimizerStateCount).map { slot(2 + $0) }
        }
        cohorts = ranges.map { range in
            func slot(_ arena: Int) -> Slot {
                Slot(arena: base + arena, offset: range.lowerBound, byteCount: range.count)
            }
            return CohortSlots(
                parameters: slot(0), gradients: slot(1), states: (0..<options.optimizerStateCount).map { slot(2 + $0) })
        }
    }

    // MARK: Inputs and outputs

    private mutating func placeIO(_ program: Program, _ slots: inout [Slot?], firstShared: Int) throws(DeviceError) {
        var ends: [Int: Int] = [:]
        for (index, value) in program.values.enumerated() where value.storage == .input || value.storage == .output {
            slots[index] = try place(
                .io, layout.byteCount(value.kind), value.name, firstShared: firstShared
            ) { ends[$1, default: 0] }
            if let slot = slots[index] {
                ends[slot.arena] = slot.offset + aligned(slot.byteCount) + options.guardByteCount
            }
        }
    }

    // MARK: Transients

    /// Values that share a slot, and from when to when any of them is needed.
    private struct Interval {
        var first: Int
        var last: Int
        var byteCount: Int
        /// Values by index, and where each begins in the slot.
        var members: [(value: Int, offset: Int)]
    }

    private mutating func placeTransients(_ program: Program, _ slots: inout [Slot?], firstShared: Int)
        throws(DeviceError)
    {
        var intervals = liveIntervals(program)
        transientLowerBound = max(transientLowerBound, Self.largestLiveByteCount(intervals, program.instructions.count))
        if options.reusesMemory { intervals.sort { ($0.byteCount, $1.first) > ($1.byteCount, $0.first) } }
        var placed: [(interval: Interval, slot: Slot)] = []
        for interval in intervals {
            let rivals = placed.filter {
                !options.reusesMemory || ($0.interval.first <= interval.last && interval.first <= $0.interval.last)
            }
            let slot = try place(
                .transients, interval.byteCount, program.values[interval.members[0].value].name,
                firstShared: firstShared
            ) {
                plan, arena in
                plan.lowestGap(interval.byteCount, beside: rivals.lazy.map(\.slot).filter { $0.arena == arena })
            }
            for member in interval.members {
                slots[member.value] = Slot(
                    arena: slot.arena, offset: slot.offset + member.offset,
                    byteCount: layout.byteCount(program.values[member.value].kind))
            }
            placed.append((interval, slot))
        }
    }

    /// Lifetimes by instruction index; values joined in place, or written where they are concatenated, are one interval.
    private func liveIntervals(_ program: Program) -> [Interval] {
        var first: [Int: Int] = [:]
        var last: [Int: Int] = [:]
        for (step, instruction) in program.instructions.enumerated() {
            for id in instruction.inputs + instruction.outputs where program[id].storage == .transient {
                if first[id.index] == nil { first[id.index] = step }
                last[id.index] = step
            }
        }
        var leader: [Int: Int] = [:]
        func find(_ index: Int) -> Int {
            var root = index
            while let next = leader[root], next != root { root = next }
            return root
        }
        if options.reusesMemory {
            for (step, instruction) in program.instructions.enumerated() {
                guard let output = instruction.outputs.first, program[output].storage == .transient else { continue }
                for position in instruction.primitive.inPlaceInputs where position < instruction.inputs.count {
                    let input = instruction.inputs[position]
                    guard program[input].storage == .transient, last[input.index] == step, first[output.index] == step,
                        instruction.inputs.filter({ $0 == input }).count == 1,
                        layout.byteCount(program[input].kind) == layout.byteCount(program[output].kind)
                    else { continue }
                    leader[output.index] = find(input.index)
                    break
                }
            }
        }
        var intervals: [Int: Interval] = [:]
        for index in first.keys.sorted() {
            guard let start = first[index], let end = last[index] else { continue }
            let bytes = layout.byteCount(program.values[index].kind)
            let root = find(index)
            if var joined = intervals[root] {
                joined.first = min(joined.first, start)
                joined.last = max(joined.last, end)
                joined.members.append((index, 0))
                intervals[root] = joined
            } else {
                intervals[root] = Interval(first: start, last: end, byteCount: bytes, members: [(index, 0)])
            }
        }
        if options.reusesMemory {
            for (step, instruction) in program.instructions.enumerated() {
                guard case .concatenation(let shape, let channels) = instruction.primitive,
                    let output = instruction.outputs.first, program[output].storage == .transient
                else { continue }
                var start = 0
                for (input, count) in zip(instruction.inputs, channels) {
                    defer { start += count }
                    let whole = find(output.index)
                    let part = find(input.index)
                    guard program[input].storage == .transient, whole != part,
                        instruction.inputs.filter({ $0 == input }).count == 1,
                        let offset = layout.channelOffset(shape, start..<start + count),
                        offset % layout.alignment == 0,
                        var parent = intervals[whole], let child = intervals[part],
                        child.byteCount == layout.byteCount(program[input].kind),
                        offset + child.byteCount <= parent.byteCount,
                        // Nothing is written over the part behind the concatenation, nor over the whole while the part is read.
                        child.members.allSatisfy({ first[$0.value, default: step] < step }),
                        child.last == step || parent.members.allSatisfy({ first[$0.value, default: 0] <= step })
                    else { continue }
                    parent.first = min(parent.first, child.first)
                    parent.last = max(parent.last, child.last)
                    parent.members += child.members.map { ($0.value, $0.offset + offset) }
                    leader[part] = whole
                    intervals[part] = nil
                    intervals[whole] = parent
                }
            }
        }
        return intervals.values.sorted { ($0.first, $0.members[0].value) < ($1.first, $1.members[0].value) }
    }

    private static func largestLiveByteCount(_ intervals: [Interval], _ stepCount: Int) -> Int {
        var change = [Int](repeating: 0, count: stepCount + 2)
        for interval in intervals {
            change[interval.first] += interval.byteCount
            change[interval.last + 1] -= interval.byteCount
        }
        var live = 0
        var peak = 0
        for step in change {
            live += step
            peak = max(peak, live)
        }
        return peak
    }

    // MARK: Placing

    private func aligned(_ count: Int) -> Int {
        (count + layout.alignment - 1) / layout.alignment * layout.alignment
    }

    /// A slot at the end of an arena of the role, opening another arena when the last one is full.
    private mutating func appendSlot(_ role: ArenaRole, _ byteCount: Int, _ name: String) throws(DeviceError) -> Slot {
        try place(role, byteCount, name, firstShared: 0) { $0.arenas[$1].byteCount }
    }

    /// A slot at the offset that `start` proposes within the first arena of the role that has room there.
    private mutating func place(
        _ role: ArenaRole, _ byteCount: Int, _ name: String, firstShared: Int,
        start: (MemoryPlan, Int) -> Int
    ) throws(DeviceError) -> Slot {
        let need = aligned(max(byteCount, 1)) + options.guardByteCount
        for arena in firstShared..<arenas.count where arenas[arena].role == role {
            let offset = max(start(self, arena), options.guardByteCount)
            if offset + need <= layout.maximumArenaByteCount {
                arenas[arena].byteCount = max(arenas[arena].byteCount, offset + need)
                return Slot(arena: arena, offset: offset, byteCount: byteCount)
            }
        }
        let total = options.guardByteCount + need
        guard total <= layout.maximumArenaByteCount else {
            throw DeviceError.outOfMemory(
                device: "the device", requestedByteCount: total, availableByteCount: layout.maximumArenaByteCount,
                advice: "\(name) must lie in one piece; try a smaller --batch-size.")
        }
        arenas.append(Arena(role: role, byteCount: total))
        return Slot(arena: arenas.count - 1, offset: options.guardByteCount, byteCount: byteCount)
    }

    /// The lowest offset at which a slot and the guard behind it touch none of the taken slots or their guards.
    private func lowestGap(_ byteCount: Int, beside taken: some Sequence<Slot>) -> Int {
        let need = aligned(max(byteCount, 1)) + options.guardByteCount
        var offset = options.guardByteCount
        for slot in taken.sorted(by: { $0.offset < $1.offset }) {
            if offset + need <= slot.offset { break }
            offset = max(offset, slot.offset + aligned(max(slot.byteCount, 1)) + options.guardByteCount)
        }
        return offset
    }
}

extension MemoryLayout {
    /// The layout of a backend.
    package init(backend: any DeviceBackend) {
        // Backends answer these from constants; they are called while planning only, on the planning thread.
        nonisolated(unsafe) let backend = backend
        self.init(
            byteCount: { backend.byteCount(of: $0) }, workspaceByteCount: { backend.workspaceByteCount(for: $0) },
            channelOffset: { backend.channelOffset(of: $1, in: $0) }, alignment: backend.alignment,
            maximumArenaByteCount: backend.maximumArenaByteCount)
    }
}
