import GraftGraph
import GraftTensor

/// Programs that share parameters on one device, and the traffic between them and the host.
///
/// An engine is made for a graph, its trainable cohorts and a set of batch sizes; an unfreezing makes a new one. The
/// host keeps a state dictionary: parameters go up once, trained ones come back when asked for.
final class Engine {
    /// Which part of the network a program computes.
    enum Part: Hashable {
        /// From pixels to the logits or the update.
        case whole
        /// From pixels to the frontier's nodes.
        case prefix
        /// From the frontier's nodes on.
        case suffix
        /// From accumulated gradients to the weights.
        case update
    }

    /// One program of an engine.
    struct Request: Hashable {
        var batch: Int
        var isTraining: Bool
        var part = Part.whole
        /// Training: the gradients are added to those of the batches before, and the update is left to ``Part/update``.
        var accumulates = false
        /// Training: images have two labels each.
        var isMixed = false

        /// The one update of accumulated gradients.
        static let update = Request(batch: 1, isTraining: true, part: .update)
    }

    let backend: any DeviceBackend
    let plan: MemoryPlan
    private let memory: any DeviceMemory
    private let programs: [Program]
    private let prepared: [any PreparedProgram]
    private let indexOf: [Request: Int]

    /// Lowers, plans, allocates, prepares and uploads.
    ///
    /// - Parameters:
    ///   - graph: the network.
    ///   - state: every tensor of the network.
    ///   - requests: which programs, each at its own batch size.
    ///   - options: what they have in common; `batch` and `mode` come from the requests.
    ///   - frontier: names of the nodes where prefix and suffix programs meet.
    ///   - backend: the device.
    /// - Throws: `GraphError` for shapes that do not fit, `DeviceError` when memory or kernels fail.
    init(
        _ graph: Graph, state: StateDictionary, requests: [Request], options: LoweringOptions,
        frontier: [String] = [], backend: any DeviceBackend
    ) throws {
        self.backend = backend
        var programs: [Program] = []
        var indexOf: [Request: Int] = [:]
        for request in requests where indexOf[request] == nil {
            let lowering = Self.lowering(request, options, frontier)
            indexOf[request] = programs.count
            programs.append(try Program(graph, lowering))
        }
        do throws(DeviceError) {
            plan = try MemoryPlan(
                programs: programs, layout: MemoryLayout(backend: backend),
                options: Self.planOptions(requests, options))
            memory = try backend.allocate(plan)
        } catch {
            throw Self.withBatchSizeAdvice(
                error, graph, requests: requests, options: options, frontier: frontier, backend: backend)
        }
        let memory = self.memory
        self.programs = programs
        self.indexOf = indexOf
        prepared = try programs.enumerated().map { try backend.prepare($1, index: $0, memory: memory) }
        try upload(state)
    }

    private static func lowering(
        _ request: Request, _ options: LoweringOptions, _ frontier: [String]
    ) -> LoweringOptions {
        var lowering = options
        lowering.batch = request.batch
        lowering.mode = request.isTraining ? .training : .inference
        lowering.accumulates = request.accumulates
        lowering.targets.isMixed = request.isMixed
        switch request.part {
        case .whole: break
        case .prefix: lowering.outputs = frontier
        case .suffix: lowering.frontier = frontier
        case .update:
            lowering.mode = .update
            lowering.batch = 1
        }
        return lowering
    }

    private static func planOptions(_ requests: [Request], _ options: LoweringOptions) -> MemoryPlan.Options {
        var options = options
        options.accumulates = requests.contains { $0.accumulates }
        return MemoryPlan.Options(optimizerStateCount: options.stateCount)
    }

    /// Plans a program without allocating anything.
    ///
    /// - Throws: `DeviceError.outOfMemory`, which names a batch size that fits; `GraphError` for shapes that do not fit.
    static func check(
        _ graph: Graph, request: Request, options: LoweringOptions, backend: any DeviceBackend
    ) throws {
        let program = try Program(graph, lowering(request, options, []))
        let available = backend.description.memoryByteCount
        do throws(DeviceError) {
            let plan = try MemoryPlan(
                programs: [program], layout: MemoryLayout(backend: backend),
                options: planOptions([request], options))
            guard plan.totalByteCount <= available else {
                throw DeviceError.outOfMemory(
                    device: backend.description.name, requestedByteCount: plan.totalByteCount,
                    availableByteCount: available, advice: "Try a smaller --image-size, or freeze more layers.")
            }
        } catch {
            throw withBatchSizeAdvice(
                error, graph, requests: [request], options: options, frontier: [], backend: backend)
        }
    }

    /// Says which batch size would fit, when memory is short.
    private static func withBatchSizeAdvice(
        _ error: DeviceError, _ graph: Graph, requests: [Request], options: LoweringOptions, frontier: [String],
        backend: any DeviceBackend
    ) -> DeviceError {
        guard case .outOfMemory(let device, let requested, let available, let advice) = error,
            let largest = requests.max(by: { $0.batch < $1.batch })
        else { return error }
        func fits(_ batch: Int) -> Bool {
            var request = largest
            request.batch = batch
            let lowering = lowering(request, options, frontier)
            guard let program = try? Program(graph, lowering),
                let plan = try? MemoryPlan(
                    programs: [program], layout: MemoryLayout(backend: backend),
                    options: planOptions(requests, options))
            else { return false }
            return plan.totalByteCount <= available
        }
        var low = 0
        var high = largest.batch
        while high - low > 1 {
            let middle = (low + high) / 2
            if fits(middle) { low = middle } else { high = middle }
        }
        // What one value of the plan needs says little; the whole plan, as if it could lie in one piece, says more.
        var unbounded = MemoryLayout(backend: backend)
        unbounded.maximumArenaByteCount = .max / 2
        let whole = try? MemoryPlan(
            programs: [Program(graph, lowering(largest, options, frontier))], layout: unbounded,
            options: planOptions(requests, options))
        return .outOfMemory(
            device: device == "the device" ? backend.description.name : device,
            requestedByteCount: max(requested, whole?.totalByteCount ?? 0), availableByteCount: available,
            advice: low > 0 ? "Batch \(largest.batch) does not fit; try --batch-size \(low)." : advice)
    }

    /// Whether there is a program for a request.
    func serves(_ request: Request) -> Bool { indexOf[request] != nil }

    // MARK: Parameters

    private func forEachPersistent(_ body: (String, ParameterSource, ValueKind, Slot) throws -> Void) throws {
        var seen: Set<String> = []
        for value in programs.lazy.flatMap(\.values) {
            switch value.storage {
            case .constant(let key, let source), .parameter(let key, let source, _):
                guard seen.insert(key).inserted, let place = plan.persistent[key] else { continue }
                try body(key, source, value.kind, place.slot)
            case .transient, .input, .output, .gradient: continue
            }
        }
    }

    /// Writes every parameter and statistic, or those that one of the names is needed for.
    func upload(_ state: StateDictionary, only names: Set<String>? = nil) throws {
        try forEachPersistent { _, source, kind, slot in
            if let names {
                guard case .tensor(let name) = source, names.contains(name) else { return }
            }
            let tensor = try ParameterFolding.tensor(source, in: state)
            try memory.write(tensor.reshaped(kind.hostShape), kind: kind, to: slot)
        }
    }

    /// Reads trained parameters and running statistics back into a state dictionary, in its own shapes.
    func download(into state: inout StateDictionary, names: Set<String>) throws {
        try forEachPersistent { key, source, kind, slot in
            guard case .tensor(let name) = source, names.contains(name), let shape = state[name]?.shape else { return }
            state[name] = try memory.read(kind: kind, from: slot).reshaped(shape)
        }
    }

    /// The optimizer's state of trainable parameters by name, one tensor per state slab, in the parameter's shape.
    /// `count` state slabs are read; accumulated gradients behind them mean nothing between two steps.
    func optimizerState(count: Int) throws -> [String: [HostTensor]] {
        var result: [String: [HostTensor]] = [:]
        for (key, slots) in plan.states {
            guard let kind = plan.persistent[key]?.kind else { continue }
            result[key] = try slots.prefix(count).map { try memory.read(kind: kind, from: $0) }
        }
        return result
    }

    /// Restores what ``optimizerState()`` gave, for the parameters that are in it.
    /// The state slab of the weights' average has the weights themselves where nothing was saved.
    func restoreOptimizerState(_ saved: [String: [HostTensor]], averageState: Int? = nil) throws {
        if let averageState {
            for (key, slots) in plan.states where saved[key].map({ $0.count <= averageState }) ?? true {
                guard let (slot, kind) = plan.persistent[key] else { continue }
                try memory.write(try memory.read(kind: kind, from: slot), kind: kind, to: slots[averageState])
            }
        }
        for (key, tensors) in saved {
            guard let kind = plan.persistent[key]?.kind, let slots = plan.states[key] else { continue }
            for (tensor, slot) in zip(tensors, slots) {
                try memory.write(tensor.reshaped(kind.hostShape), kind: kind, to: slot)
            }
        }
    }

    /// The gradients of the last training step by parameter name.
    func gradients() throws -> [String: HostTensor] {
        var result: [String: HostTensor] = [:]
        for (key, slot) in plan.gradients {
            guard let kind = plan.persistent[key]?.kind else { continue }
            result[key] = try memory.read(kind: kind, from: slot)
        }
        return result
    }

    // MARK: Running

    private func index(_ request: Request) throws -> Int {
        guard let index = indexOf[request] else {
            throw GraftError.invalidArgument("no program was prepared for a batch of \(request.batch)")
        }
        return index
    }

    /// Writes one input of a program: `pixels`, `input`, `labels` or a node of the frontier.
    func write(_ tensor: HostTensor, to role: String, of request: Request) throws {
        let index = try index(request)
        guard let id = programs[index].inputs[role] else {
            throw GraftError.invalidArgument("the program has no input \"\(role)\"")
        }
        try memory.write(tensor, kind: programs[index][id].kind, to: plan.slots[index][id.index])
    }

    /// Enqueues a program.
    func run(_ request: Request, _ constants: StepConstants = StepConstants()) throws {
        try prepared[index(request)].run(constants)
    }

    /// Reads an output: `logits`, `metrics` or a requested node.
    func read(_ name: String, of request: Request) throws -> HostTensor {
        let index = try index(request)
        guard let id = programs[index].outputs[name] else {
            throw GraftError.invalidArgument("the program has no output \"\(name)\"")
        }
        return try memory.read(kind: programs[index][id].kind, from: plan.slots[index][id.index])
    }

    /// Seconds per instruction of one run, beside the program's instructions.
    func profile(_ request: Request, _ constants: StepConstants = StepConstants()) throws -> [Double] {
        try prepared[index(request)].profile(constants)
    }

    /// The program of a request.
    func program(of request: Request) throws -> Program { programs[try index(request)] }
}
