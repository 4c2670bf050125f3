import GraftCPUKernelInterface
import GraftGraph
import GraftTensor

/// A program bound to memory: for each instruction the parallel loops that compute it, made once.
final class CPUProgram: PreparedProgram {
    private let instructions: [[ParallelLoop]]
    private let step: StepState
    private let requiredCohortCount: Int
    private let backend: CPUBackend
    /// Keeps the arenas that the loops point into.
    private let memory: CPUMemory

    init(_ program: Program, index: Int, memory: CPUMemory, backend: CPUBackend) throws(DeviceError) {
        self.memory = memory
        self.backend = backend
        let step = StepState()
        self.step = step
        var instructions: [[ParallelLoop]] = []
        var scratchByteCount = 0
        var cohortCount = 0
        for instruction in program.instructions {
            var binding = try InstructionBinding(
                instruction, program: program, slots: memory.plan.slots[index], memory: memory,
                kernels: backend.kernels, step: step, threadCount: backend.pool.threadCount)
            try binding.bind(instruction.primitive)
            instructions.append(binding.loops)
            scratchByteCount = max(scratchByteCount, binding.scratchByteCount)
            if case .optimizerUpdate(_, let cohort) = instruction.primitive {
                cohortCount = max(cohortCount, cohort + 1)
            }
        }
        backend.pool.reserveScratch(byteCount: scratchByteCount)
        self.instructions = instructions
        requiredCohortCount = cohortCount
    }

    func run(_ constants: StepConstants) throws(DeviceError) {
        try begin(constants)
        for loops in instructions {
            for loop in loops { backend.pool.run(loop) }
        }
    }

    func synchronize() throws(DeviceError) {}

    func profile(_ constants: StepConstants) throws(DeviceError) -> [Double] {
        try begin(constants)
        let clock = ContinuousClock()
        return instructions.map { loops in
            let duration = clock.measure { for loop in loops { backend.pool.run(loop) } }
            let (seconds, attoseconds) = duration.components
            return Double(seconds) + Double(attoseconds) * 1e-18
        }
    }

    private func begin(_ constants: StepConstants) throws(DeviceError) {
        guard constants.cohorts.count >= requiredCohortCount else {
            throw DeviceError.dataMismatch(
                "the program updates \(requiredCohortCount) cohorts, constants for \(constants.cohorts.count) were given"
            )
        }
        step.constants = constants
    }
}

/// What changes from run to run, read by the loops that need it.
final class StepState {
    var constants = StepConstants()
}

/// The operands of one instruction as pointers, and the loops made for it.
struct InstructionBinding {
    let kernels: KernelTable
    let step: StepState
    let node: String
    /// Threads that will run the loops; no result may depend on it.
    let threadCount: Int
    private let memory: CPUMemory
    private let inputs: [UnsafeMutableRawPointer]
    private let outputs: [UnsafeMutableRawPointer]
    private let workspaceAddress: UnsafeMutableRawPointer?
    private let workspaceByteCount: Int
    private(set) var loops: [ParallelLoop] = []
    private(set) var scratchByteCount = 0

    init(
        _ instruction: Instruction, program: Program, slots: [Slot], memory: CPUMemory, kernels: KernelTable,
        step: StepState, threadCount: Int
    ) throws(DeviceError) {
        self.kernels = kernels
        self.threadCount = threadCount
        self.step = step
        self.memory = memory
        node = instruction.node
        inputs = try Self.addresses(instruction.inputs, slots, memory)
        outputs = try Self.addresses(instruction.outputs, slots, memory)
        if let slot = memory.plan.workspace {
            workspaceAddress = try memory.address(of: slot)
            workspaceByteCount = slot.byteCount
        } else {
            workspaceAddress = nil
            workspaceByteCount = 0
        }
    }

    private static func addresses(
        _ values: [ValueID], _ slots: [Slot], _ memory: CPUMemory
    ) throws(DeviceError) -> [UnsafeMutableRawPointer] {
        var addresses: [UnsafeMutableRawPointer] = []
        for value in values { addresses.append(try memory.address(of: slots[value.index])) }
        return addresses
    }

    /// A loop over units that each get the thread's scratch.
    mutating func parallel(
        _ unitCount: Int, scratchFloats: Int = 0, _ body: @escaping (Int, UnsafeMutablePointer<Float>) -> Void
    ) {
        scratchByteCount = max(scratchByteCount, scratchFloats * 4)
        loops.append(
            ParallelLoop(unitCount) { unit, scratch in body(unit, scratch.assumingMemoryBound(to: Float.self)) })
    }

    /// A loop over `count` vectors of 16 floats, in pieces of half a megabyte at most: `body(first vector, vectors)`.
    mutating func parallelVectors(_ count: Int, _ body: @escaping (Int, Int) -> Void) {
        let piece = 2048
        parallel((count + piece - 1) / piece) { unit, _ in
            let first = unit * piece
            body(first, min(piece, count - first))
        }
    }

    func input(_ index: Int) throws(DeviceError) -> UnsafePointer<Float> {
        UnsafePointer(try raw(inputs, index, "input").assumingMemoryBound(to: Float.self))
    }

    func output(_ index: Int) throws(DeviceError) -> UnsafeMutablePointer<Float> {
        try raw(outputs, index, "output").assumingMemoryBound(to: Float.self)
    }

    func integerInput(_ index: Int) throws(DeviceError) -> UnsafePointer<Int32> {
        UnsafePointer(try raw(inputs, index, "input").assumingMemoryBound(to: Int32.self))
    }

    func integerOutput(_ index: Int) throws(DeviceError) -> UnsafeMutablePointer<Int32> {
        try raw(outputs, index, "output").assumingMemoryBound(to: Int32.self)
    }

    func byteInput(_ index: Int) throws(DeviceError) -> UnsafePointer<UInt8> {
        UnsafePointer(try raw(inputs, index, "input").assumingMemoryBound(to: UInt8.self))
    }

    func workspace(floatCount: Int) throws(DeviceError) -> UnsafeMutablePointer<Float> {
        guard let workspaceAddress, floatCount * 4 <= workspaceByteCount else {
            throw DeviceError.unsupported(
                "\(node) needs a workspace of \(formatBytes(floatCount * 4)), the plan has \(formatBytes(workspaceByteCount))"
            )
        }
        return workspaceAddress.assumingMemoryBound(to: Float.self)
    }

    private func slabs(of primitive: Primitive) throws(DeviceError) -> CohortSlots {
        guard let slabs = try primitive.slabs(of: memory.plan) else {
            throw DeviceError.unsupported("\(node) works on no slab")
        }
        return slabs
    }

    func pointer(_ slot: Slot) throws(DeviceError) -> UnsafeMutablePointer<Float> {
        try memory.address(of: slot).assumingMemoryBound(to: Float.self)
    }

    private func raw(
        _ operands: [UnsafeMutableRawPointer], _ index: Int, _ role: String
    ) throws(DeviceError) -> UnsafeMutableRawPointer {
        guard index < operands.count else {
            throw DeviceError.unsupported("\(node) has \(operands.count) \(role)s, number \(index + 1) is needed")
        }
        return operands[index]
    }

    /// Makes the loops of a primitive.
    mutating func bind(_ primitive: Primitive) throws(DeviceError) {
        switch primitive {
        case .imageNormalization(let shape, let mean, let deviation):
            try bindImageNormalization(shape, mean: mean, deviation: deviation)
        case .convolution(let geometry, let epilogue): try bindConvolution(geometry, epilogue)
        case .convolutionInputGradient(let geometry, let addend):
            try bindConvolutionInputGradient(geometry, addend: addend)
        case .convolutionWeightGradient(let geometry): try bindConvolutionWeightGradient(geometry)
        case .channelSum(let shape): try bindChannelSum(shape)
        case .batchNormalizationTraining(let shape, let epsilon, let momentum, let epilogue):
            try bindBatchNormalizationTraining(shape, epsilon: epsilon, momentum: momentum, epilogue)
        case .batchNormalizationInference(let shape, let epsilon, let epilogue):
            try bindBatchNormalizationInference(shape, epsilon: epsilon, epilogue)
        case .batchNormalizationReplay(let shape, let epilogue):
            try bindBatchNormalizationReplay(shape, epilogue)
        case .batchNormalizationTrainingGradient(let shape): try bindBatchNormalizationTrainingGradient(shape)
        case .batchNormalizationInferenceGradient(let shape, let epsilon):
            try bindBatchNormalizationInferenceGradient(shape, epsilon: epsilon)
        case .relu(let shape): try bindReLU(shape)
        case .reluGradient(let shape): try bindReLUGradient(shape)
        case .activation(let shape, let activation): try bindActivation(shape, activation)
        case .activationGradient(let shape, let activation): try bindActivationGradient(shape, activation)
        case .layerNormalization(let shape, let epsilon): try bindLayerNormalization(shape, epsilon: epsilon)
        case .layerNormalizationGradient(let shape, let epsilon):
            try bindLayerNormalizationGradient(shape, epsilon: epsilon)
        case .layerScale(let shape): try bindLayerScale(shape)
        case .layerScaleGradient(let shape): try bindLayerScaleGradient(shape)
        case .channelScale(let shape): try bindChannelScale(shape)
        case .channelScaleGradient(let shape): try bindChannelScaleGradient(shape)
        case .stochasticDepth(let shape, let rate, let salt): try bindStochasticDepth(shape, rate: rate, salt: salt)
        case .maxPooling(let geometry, let indices): try bindMaxPooling(geometry, indices: indices)
        case .maxPoolingGradient(let geometry): try bindMaxPoolingGradient(geometry)
        case .averagePooling(let geometry): try bindAveragePooling(geometry)
        case .averagePoolingGradient(let geometry): try bindAveragePoolingGradient(geometry)
        case .adaptiveAveragePooling(let shape, let height, let width):
            try bindAdaptiveAveragePooling(shape, height, width)
        case .adaptiveAveragePoolingGradient(let shape, let height, let width):
            try bindAdaptiveAveragePoolingGradient(shape, height, width)
        case .add(let shape, let relu): try bindAdd(shape, relu: relu)
        case .concatenation(let shape, let channels): try bindConcatenation(shape, channels)
        case .channelSlice(let shape, let offset, let count): try bindChannelSlice(shape, offset: offset, count: count)
        case .dropout(let shape, let rate, let salt): try bindDropout(shape, rate: rate, salt: salt)
        case .flatten(let shape): try bindFlatten(shape)
        case .flattenGradient(let shape): try bindFlattenGradient(shape)
        case .subsampleAndPad(let shape, let stride, let before, let after):
            try bindSubsampleAndPad(shape, stride: stride, before: before, after: after)
        case .subsampleAndPadGradient(let shape, let stride, let before, let after):
            try bindSubsampleAndPadGradient(shape, stride: stride, before: before, after: after)
        case .softmaxCrossEntropy(let batch, let classes, let labelSmoothing, let targets):
            try bindSoftmaxCrossEntropy(
                batch: batch, classes: classes, labelSmoothing: labelSmoothing, targets: targets)
        case .optimizerUpdate(let rule, let cohort):
            try bindOptimizerUpdate(rule, cohort: cohort, slabs: slabs(of: primitive))
        case .gradientAccumulation(let state):
            try bindGradientAccumulation(state: state, slabs: slabs(of: primitive))
        case .gradientNorm(let maximum): try bindGradientNorm(maximum: maximum, slabs: slabs(of: primitive))
        case .gradientScaling: try bindGradientScaling(slabs: slabs(of: primitive))
        case .weightAveraging(let state, let decay):
            try bindWeightAveraging(state: state, decay: decay, slabs: slabs(of: primitive))
        }
    }
}

extension ActivationShape {
    /// Blocks of 16 channels.
    var blocks: Int { ChannelBlockedLayout.blockCount(channels) }
    /// Floats of one block's planes: all images.
    var blockFloats: Int { batch * height * width * 16 }
    /// Floats of one image's plane of one block.
    var planeFloats: Int { height * width * 16 }
    /// Pixels of all images.
    var pixels: Int { batch * height * width }
    /// Vectors of 16 floats in memory.
    var vectors: Int { blocks * pixels }
}
