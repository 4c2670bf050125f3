#if OpenCL
    import COpenCL
    import GraftGraph

    /// A device with its context and queue: what backend, memory and programs share.
    final class OpenCLContext {
        let api: graft_opencl
        let device: cl_device_id
        let description: DeviceDescription
        /// Multiple of which a sub-buffer's origin must be, in bytes.
        let alignment: Int
        /// No buffer may be larger.
        let maximumBufferByteCount: Int
        let kernelDevice: KernelDevice
        let supportsCorrectDivision: Bool
        private let contextHandle: SharedHandle
        private let queueHandle: SharedHandle
        private var profilingQueueHandle: SharedHandle?

        var context: cl_context { contextHandle.pointer }
        /// In order: each command sees the results of those before it.
        var queue: cl_command_queue { queueHandle.pointer }

        init(_ entry: OpenCLDeviceEntry) throws(DeviceError) {
            description = entry.description
            if let rejection = entry.rejection {
                throw DeviceError.unavailable(
                    "\(entry.description.selector) (\(entry.description.name)) cannot be used: \(rejection). Try --device cpu."
                )
            }
            switch OpenCLLibrary.functions {
            case .failure(let failure): throw DeviceError.unavailable(failure.reason + ". Try --device cpu.")
            case .success(let functions): api = functions
            }
            guard let device = cl_device_id(bitPattern: entry.deviceBits),
                let platform = cl_platform_id(bitPattern: entry.platformBits)
            else { throw DeviceError.unavailable("\(entry.description.name) is not a device of this process") }
            self.device = device
            let info = DeviceInfo(device: device, api: api)
            alignment = max(128, Int(info.value(CL_DEVICE_MEM_BASE_ADDR_ALIGN, cl_uint(1024))) / 8)
            maximumBufferByteCount = Int(clamping: info.value(CL_DEVICE_MAX_MEM_ALLOC_SIZE, cl_ulong(0)))
            kernelDevice = KernelDevice(
                computeUnitCount: max(entry.description.computeUnitCount, 1),
                localMemoryByteCount: Int(clamping: info.value(CL_DEVICE_LOCAL_MEM_SIZE, cl_ulong(0))),
                maximumWorkGroupSize: max(info.value(CL_DEVICE_MAX_WORK_GROUP_SIZE, 1), 1), isGPU: entry.rank != .cpu,
                isIntegrated: entry.rank == .integratedGPU,
                nativeFloatVectorWidth: Int(info.value(CL_DEVICE_NATIVE_VECTOR_WIDTH_FLOAT, cl_uint(1))))
            let float = info.value(CL_DEVICE_SINGLE_FP_CONFIG, cl_device_fp_config(0))
            supportsCorrectDivision = float & cl_device_fp_config(CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT) != 0

            var status: cl_int = 0
            var properties = [
                cl_context_properties(CL_CONTEXT_PLATFORM),
                cl_context_properties(bitPattern: UInt(bitPattern: platform)), 0,
            ]
            var one: cl_device_id? = device
            let made = api.CreateContext(&properties, 1, &one, nil, nil, &status)
            guard let made, status == CL_SUCCESS else {
                throw Self.failure(entry.description, "clCreateContext", status)
            }
            contextHandle = SharedHandle(Handle(made, release: api.ReleaseContext))
            let queue = api.CreateCommandQueue(made, device, 0, &status)
            guard let queue, status == CL_SUCCESS else {
                throw Self.failure(entry.description, "clCreateCommandQueue", status)
            }
            queueHandle = SharedHandle(Handle(queue, release: api.ReleaseCommandQueue))
        }

        /// A second queue that stamps times; the first stays free of their cost.
        func profilingQueue() throws(DeviceError) -> cl_command_queue {
            if let made = profilingQueueHandle { return made.pointer }
            var status: cl_int = 0
            let properties = cl_command_queue_properties(CL_QUEUE_PROFILING_ENABLE)
            let queue = api.CreateCommandQueue(context, device, properties, &status)
            guard let queue, status == CL_SUCCESS else { throw failure("clCreateCommandQueue (profiling)", status) }
            let handle = SharedHandle(Handle(queue, release: api.ReleaseCommandQueue))
            profilingQueueHandle = handle
            return handle.pointer
        }

        /// Waits until everything enqueued is done.
        func finish() throws(DeviceError) { try check(api.Finish(queue), "clFinish") }

        func check(_ status: cl_int, _ call: @autoclosure () -> String) throws(DeviceError) {
            if status != CL_SUCCESS { throw failure(call(), status) }
        }

        func failure(_ call: String, _ status: cl_int) -> DeviceError { Self.failure(description, call, status) }

        private static func failure(_ device: DeviceDescription, _ call: String, _ status: cl_int) -> DeviceError {
            let advice: String
            switch status {
            case CL_MEM_OBJECT_ALLOCATION_FAILURE, CL_OUT_OF_RESOURCES:
                advice = "The device may be out of memory: try a smaller --batch-size, or close what else uses it."
            case CL_OUT_OF_HOST_MEMORY: advice = "The machine is out of memory: try a smaller --batch-size."
            case CL_DEVICE_NOT_AVAILABLE: advice = "Another program may hold the device. Try again, or --device cpu."
            default:
                advice =
                    "This is a fault of the driver or of Graft: graft doctor narrows it down; --device cpu works without it."
            }
            return .callFailed(
                device: "\(device.selector) (\(device.name))", call: call, status: OpenCLLibrary.statusName(status),
                advice: advice)
        }
    }
#endif
