#if OpenCL
    import GraftGraph
    import GraftTensor

    /// One kernel invocation, as data: a kernel class computes it, the backend builds, binds and enqueues it.
    package struct KernelLaunch: Hashable, Sendable {
        /// File name without extension in `Kernels/cl`.
        package var file: String
        package var kernel: String
        /// Preprocessor definitions, such as `("MR", 14)`: the program is built once for each distinct set.
        package var definitions: [Definition]
        package var arguments: [KernelArgument]
        /// One to three extents in work-items, each a multiple of the local size where that is given.
        package var globalSize: [Int]
        /// Nil leaves the choice to the driver.
        package var localSize: [Int]?

        package struct Definition: Hashable, Sendable {
            package var name: String
            package var value: Int
            package init(_ name: String, _ value: Int) {
                self.name = name
                self.value = value
            }
        }

        package init(
            file: String, kernel: String, definitions: [Definition] = [], arguments: [KernelArgument],
            globalSize: [Int], localSize: [Int]? = nil
        ) {
            self.file = file
            self.kernel = kernel
            self.definitions = definitions
            self.arguments = arguments
            self.globalSize = globalSize
            self.localSize = localSize
        }
    }

    /// One argument of a kernel, by position.
    package enum KernelArgument: Hashable, Sendable {
        /// The buffer of an operand of the instruction.
        case input(Int)
        case output(Int)
        /// A range of the plan's workspace; `offset` is a multiple of ``workspaceAlignment``.
        case workspace(offset: Int, byteCount: Int)
        /// A range of ``Primitive/slabs(of:)``: the optimizer's cohort, or all of them.
        case cohortParameters, cohortGradients, cohortState(Int)
        case int32(Int32)
        case uint32(UInt32)
        case float32(Float)
        /// Set anew for each run: ``DropoutMask/key(step:salt:)``.
        case dropoutKey(salt: UInt32)
        /// Set anew for each run from ``CohortConstants``: a `float`, except `isFirstStep`, an `int` that is 0 or 1.
        case cohortConstant(CohortConstant)
        /// Set anew for each run: ``StepConstants/accumulationShare``.
        case accumulationShare
        /// Local memory.
        case local(byteCount: Int)

        /// Ranges of the workspace begin at multiples of this many bytes: no device known aligns sub-buffers coarser.
        package static let workspaceAlignment = 512

        package enum CohortConstant: Hashable, Sendable {
            case learningRate, weightDecay, momentum, isFirstStep, beta1, beta2, epsilon, biasCorrection1,
                biasCorrection2Root
        }
    }

    /// What a kernel class knows of the device it will run on.
    package struct KernelDevice: Hashable, Sendable {
        package var computeUnitCount: Int
        package var localMemoryByteCount: Int
        package var maximumWorkGroupSize: Int
        package var isGPU: Bool
        /// A GPU that shares the processor's memory.
        package var isIntegrated: Bool
        /// Floats of a vector register.
        package var nativeFloatVectorWidth: Int

        package init(
            computeUnitCount: Int, localMemoryByteCount: Int, maximumWorkGroupSize: Int, isGPU: Bool,
            isIntegrated: Bool = false, nativeFloatVectorWidth: Int
        ) {
            self.computeUnitCount = computeUnitCount
            self.localMemoryByteCount = localMemoryByteCount
            self.maximumWorkGroupSize = maximumWorkGroupSize
            self.isGPU = isGPU
            self.isIntegrated = isIntegrated
            self.nativeFloatVectorWidth = nativeFloatVectorWidth
        }
    }

    /// A family of kernels with one memory layout: pure functions from primitives to launches.
    ///
    /// There are two: `CPUKernelClass(device:)` and `GPUKernelClass(device:)`, each made from a ``KernelDevice``.
    /// Results must not depend on the device's speed or thread count: work is split by shape alone.
    package protocol KernelClass: Sendable {
        /// `cpu-class` or `gpu-class`.
        var name: String { get }
        /// Bytes of a value in this class's layout.
        func byteCount(of kind: ValueKind) -> Int
        /// Where a range of channels lies in an activation, as ``DeviceBackend/channelOffset(of:in:)``.
        func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int?
        /// Scratch bytes of a primitive.
        func workspaceByteCount(for primitive: Primitive) -> Int
        /// The launches of a primitive, in order; each sees the results of those before it. `cohortByteCount` is that
        /// of the ranges of ``Primitive/slabs(of:)``, 0 where there are none.
        func launches(for primitive: Primitive, cohortByteCount: Int) throws(DeviceError) -> [KernelLaunch]
        /// Host layout to device layout.
        func pack(_ tensor: HostTensor, kind: ValueKind) throws(DeviceError) -> [UInt8]
        /// The same, written to memory of ``byteCount(of:)`` bytes.
        func pack(_ tensor: HostTensor, kind: ValueKind, into target: UnsafeMutableRawBufferPointer) throws(DeviceError)
        /// Device layout to host layout.
        func unpack(_ bytes: UnsafeRawBufferPointer, kind: ValueKind) -> HostTensor
    }

    extension KernelClass {
        package func pack(
            _ tensor: HostTensor, kind: ValueKind, into target: UnsafeMutableRawBufferPointer
        ) throws(DeviceError) {
            let bytes = try pack(tensor, kind: kind)
            guard bytes.count <= target.count else {
                throw DeviceError.dataMismatch("\(bytes.count) bytes were written to memory of \(target.count)")
            }
            bytes.withUnsafeBytes { target.copyMemory(from: $0) }
        }
    }
#endif
