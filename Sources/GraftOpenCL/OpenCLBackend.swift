#if OpenCL
    import COpenCL
    import Foundation
    import GraftGraph
    import GraftTensor

    /// Which family of kernels runs on a device.
    package enum KernelClassChoice: String, Hashable, Sendable, CaseIterable {
        /// The one made for the device's type, unless `GRAFT_OPENCL_KERNELS` says `cpu` or `gpu`.
        case automatic
        /// One work-item is a register tile.
        case cpu
        /// Tiles in local memory.
        case gpu

        /// The kernel class for a device.
        ///
        /// - Throws: ``DeviceError/unsupported(_:)`` when the environment variable holds something else.
        package func make(for device: KernelDevice) throws(DeviceError) -> any KernelClass {
            switch self {
            case .cpu: return CPUKernelClass(device: device)
            case .gpu: return GPUKernelClass(device: device)
            case .automatic:
                guard let name = ProcessInfo.processInfo.environment["GRAFT_OPENCL_KERNELS"], !name.isEmpty else {
                    return try (device.isGPU ? KernelClassChoice.gpu : .cpu).make(for: device)
                }
                guard let choice = KernelClassChoice(rawValue: name), choice != .automatic else {
                    throw DeviceError.unsupported("GRAFT_OPENCL_KERNELS is \"\(name)\"; it takes cpu or gpu")
                }
                return try choice.make(for: device)
            }
        }
    }

    /// An OpenCL device that runs programs.
    package final class OpenCLBackend: DeviceBackend {
        /// How a backend is made.
        package struct Options: Sendable {
            /// Where built programs are kept between runs.
            package enum Cache: Sendable {
                /// In the standard folder, except on PoCL, which keeps its own: handing a binary out makes it compile every
                /// kernel of the program once more (ResNet-18: 31 instead of 11 s of processor time on the first start,
                /// 2.0 instead of 2.2 s on later ones).
                case automatic
                /// In memory only.
                case none
                case folder(ProgramCache)

                func programs(for device: DeviceDescription) -> ProgramCache? {
                    switch self {
                    case .automatic: device.platform == "Portable Computing Language" ? nil : .standard
                    case .none: nil
                    case .folder(let cache): cache
                    }
                }
            }

            /// Where built programs are kept between runs.
            package var cache: Cache = .automatic
            /// Kernel files by name; tests put in broken ones.
            package var sources: [String: String] = KernelSources.texts
            /// Where the tuner's results are; nil for none.
            package var tuning: TuningStore? = .standard

            package init(
                cache: Cache = .automatic, sources: [String: String] = KernelSources.texts,
                tuning: TuningStore? = .standard
            ) {
                self.cache = cache
                self.sources = sources
                self.tuning = tuning
            }
        }

        package let description: DeviceDescription
        /// Also at most what 32-bit element indices in kernels reach.
        package var maximumArenaByteCount: Int { min(context.maximumBufferByteCount, 8 << 30 - context.alignment) }
        package var alignment: Int { context.alignment }
        /// Programs compiled from source and taken from the cache on disk so far.
        package var builtProgramCounts: (compiled: Int, loaded: Int) { (builder.compiledCount, builder.loadedCount) }

        private let context: OpenCLContext
        private let kernels: any KernelClass
        private let builder: ProgramBuilder

        /// Opens a device.
        ///
        /// - Throws: ``DeviceError/unavailable(_:)`` for a rejected device, ``DeviceError/callFailed`` when the driver refuses.
        package convenience init(
            _ entry: OpenCLDeviceEntry, kernelClass: KernelClassChoice = .automatic, options: Options = Options()
        ) throws(DeviceError) {
            let context = try OpenCLContext(entry)
            let kernels = try kernelClass.make(for: context.kernelDevice)
            guard let gpuKernels = kernels as? GPUKernelClass, let tuning = options.tuning,
                let key = TuningStore.key(context.description, sources: options.sources),
                let tiles = tuning.load(key)
            else {
                self.init(context, kernels: kernels, options: options)
                return
            }
            let table = TileTable(device: context.kernelDevice, tuned: tiles)
            self.init(context, kernels: gpuKernels.with(table), options: options)
        }

        /// Opens a device with a kernel class of the caller's.
        package convenience init(
            _ entry: OpenCLDeviceEntry, kernels: any KernelClass, options: Options = Options()
        ) throws(DeviceError) {
            self.init(try OpenCLContext(entry), kernels: kernels, options: options)
        }

        private convenience init(_ context: OpenCLContext, kernels: any KernelClass, options: Options) {
            let builder = ProgramBuilder(
                context: context, sources: options.sources, cache: options.cache.programs(for: context.description))
            self.init(context, kernels: kernels, builder: builder)
        }

        private init(_ context: OpenCLContext, kernels: any KernelClass, builder: ProgramBuilder) {
            self.context = context
            self.kernels = kernels
            self.builder = builder
            var description = context.description
            description.kernelClass = kernels.name
            self.description = description
        }

        // MARK: Tuning

        /// The GPU class with its tiles; nil when another class runs.
        package var gpuKernels: GPUKernelClass? { kernels as? GPUKernelClass }

        /// Under which key the tuner's results for this device, driver and set of kernels are stored.
        package var tuningKey: String? { TuningStore.key(description, sources: builder.sources) }

        /// This device with other tiles: the same context and programs, so that memory may be shared.
        func with(_ tiles: TileTable) -> OpenCLBackend {
            OpenCLBackend(context, kernels: gpuKernels?.with(tiles) ?? kernels, builder: builder)
        }

        /// This device with programs of its own, which are not kept: most of what the tuner builds is slower.
        func withoutDiskCache() -> OpenCLBackend {
            let builder = ProgramBuilder(context: context, sources: builder.sources, cache: nil)
            return OpenCLBackend(context, kernels: kernels, builder: builder)
        }

        /// Builds one small kernel, so that a driver whose compiler fails is found out while another device can be taken.
        package func probe() throws(DeviceError) {
            for launch in try kernels.launches(for: .relu(ActivationShape(1, 16, 1, 1)), cohortByteCount: 0) {
                _ = try builder.program(ProgramBuilder.Key(file: launch.file, definitions: launch.definitions))
            }
        }

        package func byteCount(of kind: ValueKind) -> Int { kernels.byteCount(of: kind) }

        package func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? {
            kernels.channelOffset(of: channels, in: shape)
        }

        package func workspaceByteCount(for primitive: Primitive) -> Int { kernels.workspaceByteCount(for: primitive) }

        /// - Throws: ``DeviceError/outOfMemory`` before anything is allocated when the plan is larger than the device.
        package func allocate(_ plan: MemoryPlan) throws(DeviceError) -> any DeviceMemory {
            let total = plan.totalByteCount
            let largest = plan.arenas.map(\.byteCount).max() ?? 0
            if total > description.memoryByteCount || largest > context.maximumBufferByteCount {
                throw DeviceError.outOfMemory(
                    device: "\(description.selector) (\(description.name))", requestedByteCount: max(total, largest),
                    availableByteCount: total > description.memoryByteCount
                        ? description.memoryByteCount : context.maximumBufferByteCount,
                    advice: "Try a smaller --batch-size or --image-size, or freeze more layers.")
            }
            return try OpenCLMemory(plan: plan, context: context, kernels: kernels)
        }

        package func prepare(
            _ program: Program, index: Int, memory: any DeviceMemory
        ) throws(DeviceError) -> any PreparedProgram {
            guard let memory = memory as? OpenCLMemory, memory.context === context else {
                throw DeviceError.unsupported("a program was prepared with memory of another device")
            }
            guard memory.plan.slots.indices.contains(index), memory.plan.slots[index].count == program.values.count
            else {
                throw DeviceError.unsupported("program \(index) is not one that the memory plan was made for")
            }
            return try OpenCLProgram(
                program, index: index, memory: memory, context: context, kernels: kernels, builder: builder)
        }
    }
#endif
