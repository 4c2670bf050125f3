#if OpenCL
    import Foundation
    import GraftGraph
    import GraftOpenCL
    import GraftTensor
    import Testing

    /// All suites that open a device: one after another, because one of them counts the process's driver objects.
    @Suite("On an OpenCL device", .serialized, .enabled(if: hasOpenCLDevice, "no OpenCL device"))
    enum OnDevice {}

    extension OnDevice {
        @Suite("OpenCL host side")
        struct OpenCLBackendTests {
            static let shape = ActivationShape(2, 3, 5, 7)

            func backend(_ fault: PlainKernelClass.Fault? = nil, cache: ProgramCache? = nil) throws -> OpenCLBackend {
                try OpenCLBackend(
                    testDevice(), kernels: PlainKernelClass(fault: fault),
                    options: .init(cache: cache.map { .folder($0) } ?? .none, sources: PlainKernelClass.sources))
            }

            @Test("a compiler that fails is found out before anything is prepared")
            func probing() throws {
                var sources = KernelSources.texts
                for (name, text) in sources { sources[name] = text + "\n#error broken driver\n" }
                let broken = try OpenCLBackend(testDevice(), options: .init(cache: .none, sources: sources))
                let error = #expect(throws: DeviceError.self) { try broken.probe() }
                guard case .buildFailed(_, _, _, let log)? = error else {
                    Issue.record("not a failed build: \(String(describing: error))")
                    return
                }
                #expect(log.contains("broken driver"), "\(log)")
                try OpenCLBackend(testDevice()).probe()
            }

            /// `x → relu → dropout → y`.
            func program(_ shape: ActivationShape = shape) -> Program {
                var program = Program()
                let x = program.add(.activation(shape), .input, "x")
                let middle = program.add(.activation(shape), .transient, "middle")
                let y = program.add(.activation(shape), .output, "y")
                program.inputs["input"] = x
                program.outputs["y"] = y
                program.append(.relu(shape), [x], [middle], node: "relu")
                program.append(.dropout(shape, rate: 0.25, salt: 7), [middle], [y], node: "drop")
                return program
            }

            func prepared(
                _ backend: OpenCLBackend, _ program: Program, guardByteCount: Int = 0
            ) throws -> (any PreparedProgram, any DeviceMemory) {
                let plan = try MemoryPlan(
                    programs: [program], layout: MemoryLayout(backend: backend),
                    options: .init(guardByteCount: guardByteCount, optimizerStateCount: 1))
                let memory = try backend.allocate(plan)
                return (try backend.prepare(program, index: 0, memory: memory), memory)
            }

            func write(_ value: Float, _ program: Program, _ memory: any DeviceMemory) throws {
                let x = try #require(program.inputs["input"])
                let tensor = HostTensor([2, 3, 5, 7], repeating: value)
                try memory.write(tensor, kind: program[x].kind, to: memory.plan.slots[0][x.index])
            }

            @Test("a program runs: operands, workspace, scalars, local memory, a key set anew for each run")
            func runs() throws {
                let backend = try backend()
                let program = program()
                let (prepared, memory) = try prepared(backend, program)
                let values = (0..<Self.shape.elementCount).map { Float($0) - 100 }
                let x = try #require(program.inputs["input"])
                let y = try #require(program.outputs["y"])
                try memory.write(
                    HostTensor([2, 3, 5, 7], values), kind: program[x].kind, to: memory.plan.slots[0][x.index])
                for step in [UInt64(3), 4] {
                    try prepared.run(StepConstants(dropoutKey: step))
                    try prepared.synchronize()
                    let result = try memory.read(kind: program[y].kind, from: memory.plan.slots[0][y.index])
                    let key = DropoutMask.key(step: step, salt: 7)
                    let threshold = DropoutMask.threshold(rate: 0.25)
                    let expected = values.enumerated().map { (index: Int, value: Float) -> Float in
                        let keeps = DropoutMask.keeps(key: key, index: UInt32(index), threshold: threshold)
                        return keeps ? max(0, value) * 2 * (1 / 0.75) : 0
                    }
                    #expect(result.floats == expected)
                }
                let seconds = try prepared.profile(StepConstants(dropoutKey: 3))
                #expect(seconds.count == 2 && seconds.allSatisfy { $0 > 0 })
                // Two sets of definitions of one file.
                #expect(backend.builtProgramCounts.compiled == 2)
            }

            @Test("an optimizer's cohort: slabs, state that starts as zero, constants of each step")
            func optimizer() throws {
                let backend = try backend()
                var program = Program()
                let kind = ValueKind.channelVector(40)
                let w = program.add(kind, .parameter(key: "w", source: .tensor("w"), cohort: 0), "w")
                let g = program.add(kind, .gradient(parameterKey: "w"), "dw")
                program.append(
                    .optimizerUpdate(.sgd(momentum: true, nesterov: false), cohort: 0), [], [], node: "update")
                let (prepared, memory) = try prepared(backend, program)
                let slots = memory.plan.slots[0]
                let state = try #require(memory.plan.states["w"]?.first)
                #expect(try memory.read(kind: kind, from: state).floats == [Float](repeating: 0, count: 40))
                try memory.write(HostTensor([40], repeating: 1), kind: kind, to: slots[w.index])
                try memory.write(HostTensor([40], repeating: 2), kind: kind, to: slots[g.index])
                var constants = CohortConstants()
                constants.learningRate = 0.5
                constants.momentum = 0.25
                constants.isFirstStep = true
                try prepared.run(StepConstants(cohorts: [constants]))
                #expect(try memory.read(kind: kind, from: slots[w.index]).floats == [Float](repeating: 0, count: 40))
                constants.isFirstStep = false
                constants.learningRate = 1
                try prepared.run(StepConstants(cohorts: [constants]))
                #expect(try memory.read(kind: kind, from: slots[w.index]).floats == [Float](repeating: -2.5, count: 40))
                #expect(throws: DeviceError.self) { try prepared.run(StepConstants()) }
            }

            @Test("guard bytes around every slot survive, fill and rawBytes see the whole arena")
            func guards() throws {
                let backend = try backend()
                let program = program()
                let plan = try MemoryPlan(
                    programs: [program], layout: MemoryLayout(backend: backend),
                    options: .init(guardByteCount: 2 * backend.alignment))
                let memory = try backend.allocate(plan)
                try memory.fill(0xA5)
                let prepared = try backend.prepare(program, index: 0, memory: memory)
                try prepared.run(StepConstants())
                try prepared.synchronize()
                for (index, arena) in plan.arenas.enumerated() {
                    let bytes = try memory.rawBytes(arena: index)
                    #expect(bytes.count == arena.byteCount)
                    var used = [Bool](repeating: false, count: bytes.count)
                    for slot in plan.slots[0] + [plan.workspace].compactMap({ $0 }) where slot.arena == index {
                        for position in slot.offset..<slot.offset + slot.byteCount { used[position] = true }
                    }
                    #expect(zip(bytes, used).allSatisfy { $1 || $0 == 0xA5 })
                }
            }

            @Test("a kernel that does not build: file and line, device, options, log")
            func buildFailure() throws {
                let backend = try backend()
                var program = Program()
                let x = program.add(.activation(Self.shape), .input, "x")
                let y = program.add(.activation(Self.shape), .output, "y")
                program.append(.flatten(Self.shape), [x], [y], node: "flatten")
                let error = #expect(throws: DeviceError.self) { try prepared(backend, program) }
                guard case .buildFailed(let device, let source, let options, let log) = try #require(error) else {
                    Issue.record("\(String(describing: error))")
                    return
                }
                #expect(device.contains("opencl:") && source == "broken.cl" && options.contains("-cl-std=CL1.2"))
                #expect(log.contains("no_such_name"), "\(log)")
                // Oclgrind does not heed #line.
                #expect(log.contains("broken.cl:2") || backend.description.platform == "Oclgrind", "\(log)")
            }

            @Test(
                "mistakes in a launch are errors that name the kernel",
                arguments: [
                    (PlainKernelClass.Fault.missingKernel, "CL_INVALID_KERNEL_NAME"),
                    (.tooManyArguments, "4 parameters and was given 5"), (.unevenLocalSize, "does not divide"),
                    (.unalignedWorkspace, "no multiple of"), (.missingFile, "absent.cl is not embedded"),
                ])
            func launchFault(fault: PlainKernelClass.Fault, expected: String) throws {
                let error = #expect(throws: DeviceError.self) { try prepared(try backend(fault), program()) }
                let message = try #require(error).description
                #expect(
                    message.contains(expected) && message.contains(fault == .missingFile ? "absent" : "plain.cl"),
                    "\(message)")
            }

            @Test("a plan larger than the device is refused before anything is allocated")
            func tooLarge() throws {
                let backend = try backend()
                let shape = ActivationShape(max(1, backend.maximumArenaByteCount / (1 << 20) / 4 * 3), 256, 32, 32)
                var program = Program()
                for index in 0..<64 { _ = program.add(.activation(shape), .input, "x\(index)") }
                let plan = try MemoryPlan(programs: [program], layout: MemoryLayout(backend: backend))
                try #require(plan.totalByteCount > backend.description.memoryByteCount)
                let ledger = DriverObjectLedger()
                let error = DriverObjectLedger.$current.withValue(ledger) {
                    #expect(throws: DeviceError.self) { try backend.allocate(plan) }
                }
                guard case .outOfMemory(_, let requested, let available, let advice) = try #require(error) else {
                    Issue.record("\(String(describing: error))")
                    return
                }
                #expect(requested == plan.totalByteCount && available == backend.description.memoryByteCount)
                #expect(advice.contains("--batch-size"))
                #expect(ledger.liveCount == 0)
            }

            @Test("programs come from the disk the second time, and are rebuilt silently when the entry is damaged")
            func cache() throws {
                let folder = try TemporaryFolder()
                let cache = ProgramCache(folder: folder.url)
                func counts() throws -> (compiled: Int, loaded: Int) {
                    let backend = try backend(cache: cache)
                    let program = program()
                    let (prepared, memory) = try prepared(backend, program)
                    let x = try #require(program.inputs["input"])
                    let y = try #require(program.outputs["y"])
                    try memory.write(
                        HostTensor([2, 3, 5, 7], repeating: 3), kind: program[x].kind, to: memory.plan.slots[0][x.index]
                    )
                    try prepared.run(StepConstants())
                    let result = try memory.read(kind: program[y].kind, from: memory.plan.slots[0][y.index])
                    let expected: Set<Float> = [0, 3 * 2 * (1 / 0.75)]
                    #expect(Set(result.floats ?? []) == expected)
                    return backend.builtProgramCounts
                }
                #expect(try counts() == (2, 0))
                #expect(try counts() == (0, 2))
                let files = try FileManager.default.contentsOfDirectory(at: folder.url, includingPropertiesForKeys: nil)
                #expect(files.count == 2)
                for file in files { try Data(contentsOf: file).dropLast(7).write(to: file) }
                #expect(try counts() == (2, 0))
                #expect(try counts() == (0, 2))
                // A sound entry whose content is no program of the driver's.
                for file in files {
                    cache.store(
                        [UInt8](repeating: 0x5A, count: 4096), key: file.deletingPathExtension().lastPathComponent)
                }
                #expect(try counts() == (2, 0))
                #expect(try counts() == (0, 2))
            }

            @Test("200 backends leave no driver object behind")
            func leaks() throws {
                let ledger = DriverObjectLedger()
                try DriverObjectLedger.$current.withValue(ledger) {
                    for round in 0..<200 {
                        let backend = try self.backend()
                        guard round % 20 == 0 else { continue }
                        let program = self.program()
                        let (prepared, memory) = try self.prepared(backend, program)
                        try write(1, program, memory)
                        try prepared.run(StepConstants())
                        _ = try prepared.profile(StepConstants())
                        #expect(throws: DeviceError.self) {
                            try self.prepared(try self.backend(.missingKernel), program)
                        }
                        #expect(ledger.liveCount > 0)
                    }
                }
                #expect(ledger.liveCount == 0)
            }
        }
    }
#endif
