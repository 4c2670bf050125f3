#if OpenCL
    import COpenCL
    import GraftGraph

    /// A program as a list of kernels with their arguments set: a run only enqueues them.
    final class OpenCLProgram: PreparedProgram {
        /// A kernel ready to run.
        private struct Launch {
            var kernel: SharedHandle
            /// File, kernel and graph node, for errors.
            var name: String
            var globalSize: [Int]
            var localSize: [Int]?
            var instruction: Int
            /// Arguments that change from run to run.
            var changing: [(position: Int, argument: ChangingArgument)]
        }

        private enum ChangingArgument {
            case dropoutKey(salt: UInt32)
            case constant(KernelArgument.CohortConstant, cohort: Int)
            case accumulationShare
        }

        private let context: OpenCLContext
        private let instructionCount: Int
        private let cohortCount: Int
        private var launches: [Launch] = []
        /// Some drivers do not retain the buffers that arguments name. They go before the memory.
        private var buffers: [SharedHandle] = []
        private let memory: OpenCLMemory

        init(
            _ program: Program, index: Int, memory: OpenCLMemory, context: OpenCLContext, kernels: any KernelClass,
            builder: ProgramBuilder
        ) throws(DeviceError) {
            self.context = context
            self.memory = memory
            instructionCount = program.instructions.count
            let plan = memory.plan
            var described: [(instruction: Int, launch: KernelLaunch)] = []
            var cohortCount = 0
            let instructions = program.instructions
            for (position, instruction) in instructions.enumerated() {
                let cohortByteCount = try instruction.primitive.slabs(of: plan)?.parameters.byteCount ?? 0
                if case .optimizerUpdate(_, let cohort) = instruction.primitive {
                    cohortCount = max(cohortCount, cohort + 1)
                }
                for launch in try kernels.launches(for: instruction.primitive, cohortByteCount: cohortByteCount)
                where !Self.isInPlace(launch, instruction, plan.slots[index]) {
                    described.append((position, launch))
                }
            }
            self.cohortCount = cohortCount
            for (position, launch) in described where !launch.globalSize.contains(0) {
                let program = try builder.program(.init(file: launch.file, definitions: launch.definitions))
                try bind(
                    launch, program: program, instruction: instructions[position], position: position,
                    slots: plan.slots[index])
            }
        }

        /// Whether a launch copies to a concatenation what the memory plan had written there.
        private static func isInPlace(_ launch: KernelLaunch, _ instruction: Instruction, _ slots: [Slot]) -> Bool {
            guard case .concatenation = instruction.primitive else { return false }
            for case .input(let operand) in launch.arguments {
                let source = slots[instruction.inputs[operand].index]
                let whole = slots[instruction.outputs[0].index]
                return source.arena == whole.arena && source.offset >= whole.offset
                    && source.offset + source.byteCount <= whole.offset + whole.byteCount
            }
            return false
        }

        // MARK: Binding

        private func bind(
            _ launch: KernelLaunch, program: SharedHandle, instruction: Instruction, position: Int, slots: [Slot]
        ) throws(DeviceError) {
            let api = context.api
            let name = "\(launch.file).cl \(launch.kernel) for \(instruction.node) (\(instruction.primitive.kind))"
            var status: cl_int = 0
            let made = api.CreateKernel(program.pointer, launch.kernel, &status)
            guard let made, status == CL_SUCCESS else { throw context.failure("clCreateKernel (\(name))", status) }
            let kernel = SharedHandle(Handle(made, release: api.ReleaseKernel))
            try check(launch, kernel, name)
            var changing: [(position: Int, argument: ChangingArgument)] = []
            for (argumentIndex, argument) in launch.arguments.enumerated() {
                func set<Value: BitwiseCopyable>(_ value: Value) throws(DeviceError) {
                    try setArgument(kernel, argumentIndex, value, name)
                }
                switch argument {
                case .input(let operand):
                    try setBuffer(kernel, argumentIndex, slot(operand, instruction.inputs, slots, name), name)
                case .output(let operand):
                    try setBuffer(kernel, argumentIndex, slot(operand, instruction.outputs, slots, name), name)
                case .workspace(let offset, let byteCount):
                    try setBuffer(kernel, argumentIndex, workspace(offset, byteCount, name), name)
                case .cohortParameters:
                    try setBuffer(kernel, argumentIndex, slabs(instruction, name).parameters, name)
                case .cohortGradients:
                    try setBuffer(kernel, argumentIndex, slabs(instruction, name).gradients, name)
                case .cohortState(let state):
                    let states = try slabs(instruction, name).states
                    guard states.indices.contains(state) else {
                        throw DeviceError.unsupported(
                            "\(name) uses optimizer state \(state), the plan has \(states.count)")
                    }
                    try setBuffer(kernel, argumentIndex, states[state], name)
                case .int32(let value): try set(value)
                case .uint32(let value): try set(value)
                case .float32(let value): try set(value)
                case .dropoutKey(let salt): changing.append((argumentIndex, .dropoutKey(salt: salt)))
                case .cohortConstant(let constant):
                    guard case .optimizerUpdate(_, let cohort) = instruction.primitive else {
                        throw DeviceError.unsupported("\(name) is no optimizer and has no constant \(constant)")
                    }
                    changing.append((argumentIndex, .constant(constant, cohort: cohort)))
                case .accumulationShare: changing.append((argumentIndex, .accumulationShare))
                case .local(let byteCount):
                    try context.check(
                        api.SetKernelArg(kernel.pointer, cl_uint(argumentIndex), byteCount, nil),
                        "clSetKernelArg (\(name), argument \(argumentIndex), \(byteCount) bytes of local memory)")
                }
            }
            launches.append(
                Launch(
                    kernel: kernel, name: name, globalSize: launch.globalSize, localSize: launch.localSize,
                    instruction: position, changing: changing))
        }

        /// Holds a launch against the kernel that was built: drivers answer such mistakes late or never.
        private func check(_ launch: KernelLaunch, _ kernel: SharedHandle, _ name: String) throws(DeviceError) {
            let api = context.api
            var argumentCount: cl_uint = 0
            try context.check(
                api.GetKernelInfo(
                    kernel.pointer, cl_kernel_info(CL_KERNEL_NUM_ARGS), MemoryLayoutOf<cl_uint>.size, &argumentCount,
                    nil),
                "clGetKernelInfo (\(name))")
            guard Int(argumentCount) == launch.arguments.count else {
                throw DeviceError.unsupported(
                    "\(name) has \(argumentCount) parameters and was given \(launch.arguments.count) arguments")
            }
            guard (1...3).contains(launch.globalSize.count), launch.globalSize.allSatisfy({ $0 > 0 }) else {
                throw DeviceError.unsupported("\(name) has the global size \(launch.globalSize)")
            }
            guard let localSize = launch.localSize else { return }
            guard localSize.count == launch.globalSize.count,
                zip(launch.globalSize, localSize).allSatisfy({ $1 > 0 && $0 % $1 == 0 })
            else {
                throw DeviceError.unsupported(
                    "\(name): the local size \(localSize) does not divide the global size \(launch.globalSize)")
            }
            var largest = 0
            try context.check(
                api.GetKernelWorkGroupInfo(
                    kernel.pointer, context.device, cl_kernel_work_group_info(CL_KERNEL_WORK_GROUP_SIZE),
                    MemoryLayoutOf<Int>.size, &largest, nil),
                "clGetKernelWorkGroupInfo (\(name))")
            guard localSize.reduce(1, *) <= largest else {
                throw DeviceError.unsupported(
                    "\(name) wants groups of \(localSize.reduce(1, *)) work-items, "
                        + "\(context.description.name) allows \(largest)")
            }
        }

        private func slot(
            _ operand: Int, _ operands: [ValueID], _ slots: [Slot], _ name: String
        ) throws(DeviceError) -> Slot {
            guard operands.indices.contains(operand), slots.indices.contains(operands[operand].index) else {
                throw DeviceError.unsupported("\(name) uses operand \(operand), the instruction has \(operands.count)")
            }
            return slots[operands[operand].index]
        }

        private func slabs(_ instruction: Instruction, _ name: String) throws(DeviceError) -> CohortSlots {
            guard let slabs = try instruction.primitive.slabs(of: memory.plan) else {
                throw DeviceError.unsupported("\(name) is no optimizer and has no cohort")
            }
            return slabs
        }

        private func workspace(_ offset: Int, _ byteCount: Int, _ name: String) throws(DeviceError) -> Slot {
            guard let whole = memory.plan.workspace, offset >= 0, byteCount >= 0, offset + byteCount <= whole.byteCount
            else {
                throw DeviceError.unsupported(
                    "\(name) uses workspace \(offset) ..< \(offset + byteCount), the plan has \(memory.plan.workspace?.byteCount ?? 0) bytes"
                )
            }
            guard offset % KernelArgument.workspaceAlignment == 0, offset % context.alignment == 0 else {
                throw DeviceError.unsupported(
                    "\(name) uses workspace from \(offset), which is no multiple of \(max(KernelArgument.workspaceAlignment, context.alignment))"
                )
            }
            return Slot(arena: whole.arena, offset: whole.offset + offset, byteCount: byteCount)
        }

        private func setBuffer(
            _ kernel: SharedHandle, _ index: Int, _ slot: Slot, _ name: String
        ) throws(DeviceError) {
            let buffer = try memory.buffer(slot)
            buffers.append(buffer)
            try setArgument(kernel, index, buffer.pointer, name)
        }

        private func setArgument<Value: BitwiseCopyable>(
            _ kernel: SharedHandle, _ index: Int, _ value: Value, _ name: String
        ) throws(DeviceError) {
            let status = withUnsafeBytes(of: value) { bytes in
                context.api.SetKernelArg(kernel.pointer, cl_uint(index), bytes.count, bytes.baseAddress)
            }
            try context.check(
                status, "clSetKernelArg (\(name), argument \(index), \(MemoryLayoutOf<Value>.size) bytes)")
        }

        // MARK: Running

        func run(_ constants: StepConstants) throws(DeviceError) {
            try checkCohorts(constants)
            for launch in launches {
                try setChanging(launch, constants)
                try enqueue(launch, context.queue, event: nil)
            }
            // Drivers may otherwise wait with the work until someone asks for a result.
            try context.check(context.api.Flush(context.queue), "clFlush")
        }

        func synchronize() throws(DeviceError) { try context.finish() }

        func profile(_ constants: StepConstants) throws(DeviceError) -> [Double] {
            try checkCohorts(constants)
            try context.finish()
            let queue = try context.profilingQueue()
            var seconds = [Double](repeating: 0, count: instructionCount)
            var index = 0
            while index < launches.count {
                let instruction = launches[index].instruction
                let clock = ContinuousClock()
                let start = clock.now
                var stamped: Double? = 0
                var events: [SharedHandle] = []
                while index < launches.count, launches[index].instruction == instruction {
                    try setChanging(launches[index], constants)
                    var event: cl_event?
                    try enqueue(launches[index], queue, event: &event)
                    if let event { events.append(SharedHandle(Handle(event, release: context.api.ReleaseEvent))) }
                    index += 1
                }
                try context.check(context.api.Finish(queue), "clFinish (profiling)")
                let elapsed = (clock.now - start) / .seconds(1)
                for event in events {
                    stamped = duration(of: event.pointer).flatMap { time in stamped.map { $0 + time } }
                }
                seconds[instruction] = stamped ?? elapsed
            }
            return seconds
        }

        /// Seconds between the device's stamps of begin and end; nil where the driver gives none.
        private func duration(of event: cl_event) -> Double? {
            func time(_ name: Int32) -> cl_ulong? {
                var value: cl_ulong = 0
                let status = context.api.GetEventProfilingInfo(
                    event, cl_profiling_info(name), MemoryLayoutOf<cl_ulong>.size, &value, nil)
                return status == CL_SUCCESS ? value : nil
            }
            guard let start = time(CL_PROFILING_COMMAND_START), let end = time(CL_PROFILING_COMMAND_END), end >= start
            else {
                return nil
            }
            return Double(end - start) * 1e-9
        }

        private func checkCohorts(_ constants: StepConstants) throws(DeviceError) {
            guard constants.cohorts.count >= cohortCount else {
                throw DeviceError.dataMismatch(
                    "the program updates \(cohortCount) cohorts, the step has constants for \(constants.cohorts.count)")
            }
        }

        private func enqueue(
            _ launch: Launch, _ queue: cl_command_queue, event: UnsafeMutablePointer<cl_event?>?
        ) throws(DeviceError) {
            let dimensions = cl_uint(launch.globalSize.count)
            let status: cl_int
            if let localSize = launch.localSize {
                status = context.api.EnqueueNDRangeKernel(
                    queue, launch.kernel.pointer, dimensions, nil, launch.globalSize, localSize, 0, nil, event)
            } else {
                status = context.api.EnqueueNDRangeKernel(
                    queue, launch.kernel.pointer, dimensions, nil, launch.globalSize, nil, 0, nil, event)
            }
            try context.check(
                status,
                "clEnqueueNDRangeKernel (\(launch.name), global \(launch.globalSize), local \(launch.localSize ?? []))")
        }

        private func setChanging(_ launch: Launch, _ constants: StepConstants) throws(DeviceError) {
            for (position, argument) in launch.changing {
                switch argument {
                case .dropoutKey(let salt):
                    let key = DropoutMask.key(step: constants.dropoutKey, salt: salt)
                    try setArgument(launch.kernel, position, key, launch.name)
                case .accumulationShare:
                    try setArgument(launch.kernel, position, constants.accumulationShare, launch.name)
                case .constant(.isFirstStep, let cohort):
                    let flag: Int32 = constants.cohorts[cohort].isFirstStep ? 1 : 0
                    try setArgument(launch.kernel, position, flag, launch.name)
                case .constant(let constant, let cohort):
                    try setArgument(
                        launch.kernel, position, Self.value(constant, constants.cohorts[cohort]), launch.name)
                }
            }
        }

        private static func value(_ constant: KernelArgument.CohortConstant, _ cohort: CohortConstants) -> Float {
            switch constant {
            case .learningRate: cohort.learningRate
            case .weightDecay: cohort.weightDecay
            case .momentum: cohort.momentum
            case .isFirstStep: cohort.isFirstStep ? 1 : 0
            case .beta1: cohort.beta1
            case .beta2: cohort.beta2
            case .epsilon: cohort.epsilon
            case .biasCorrection1: cohort.biasCorrection1
            case .biasCorrection2Root: cohort.biasCorrection2Root
            }
        }
    }
#endif
