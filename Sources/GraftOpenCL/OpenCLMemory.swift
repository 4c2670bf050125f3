#if OpenCL
    import COpenCL
    import GraftGraph
    import GraftTensor

    /// The arenas of a plan, one buffer each; operands are sub-buffers.
    final class OpenCLMemory: DeviceMemory {
        let plan: MemoryPlan
        let context: OpenCLContext
        private let kernels: any KernelClass
        private let arenas: [SharedHandle]
        private var ranges: [Slot: SharedHandle] = [:]

        init(plan: MemoryPlan, context: OpenCLContext, kernels: any KernelClass) throws(DeviceError) {
            self.plan = plan
            self.context = context
            self.kernels = kernels
            let api = context.api
            var arenas: [SharedHandle] = []
            for arena in plan.arenas {
                var status: cl_int = 0
                let byteCount = max(arena.byteCount, 1)
                let buffer = api.CreateBuffer(context.context, cl_mem_flags(CL_MEM_READ_WRITE), byteCount, nil, &status)
                guard let buffer, status == CL_SUCCESS else {
                    throw context.failure("clCreateBuffer (\(formatBytes(byteCount)) for \(arena.role))", status)
                }
                arenas.append(SharedHandle(Handle(buffer, release: api.ReleaseMemObject)))
            }
            self.arenas = arenas
            for (arena, handle) in zip(plan.arenas, arenas) {
                switch arena.role {
                case .state, .gradients: try fill(handle, arena.byteCount, 0)
                case .constants, .parameters, .transients, .io, .workspace: break
                }
            }
            try context.finish()
        }

        /// The sub-buffer of a range; the same object for the same range.
        func buffer(_ slot: Slot) throws(DeviceError) -> SharedHandle {
            if let made = ranges[slot] { return made }
            guard plan.arenas.indices.contains(slot.arena), slot.offset >= 0,
                slot.offset + slot.byteCount <= plan.arenas[slot.arena].byteCount
            else { throw DeviceError.unsupported("a range lies outside its arena: \(slot)") }
            var region = cl_buffer_region(origin: slot.offset, size: max(slot.byteCount, 1))
            var status: cl_int = 0
            let made = context.api.CreateSubBuffer(
                arenas[slot.arena].pointer, cl_mem_flags(CL_MEM_READ_WRITE),
                cl_buffer_create_type(CL_BUFFER_CREATE_TYPE_REGION),
                &region, &status)
            guard let made, status == CL_SUCCESS else {
                throw context.failure("clCreateSubBuffer (offset \(slot.offset), \(slot.byteCount) bytes)", status)
            }
            let handle = SharedHandle(Handle(made, release: context.api.ReleaseMemObject))
            ranges[slot] = handle
            return handle
        }

        func write(_ tensor: HostTensor, kind: ValueKind, to slot: Slot) throws(DeviceError) {
            let bytes = try kernels.pack(tensor, kind: kind)
            try check(slot, kind, byteCount: bytes.count)
            guard !bytes.isEmpty else { return }
            let status = bytes.withUnsafeBytes { source in
                context.api.EnqueueWriteBuffer(
                    context.queue, arenas[slot.arena].pointer, cl_bool(CL_TRUE), slot.offset, source.count,
                    source.baseAddress, 0, nil, nil)
            }
            try context.check(status, "clEnqueueWriteBuffer (\(bytes.count) bytes)")
        }

        func read(kind: ValueKind, from slot: Slot) throws(DeviceError) -> HostTensor {
            let byteCount = kernels.byteCount(of: kind)
            try check(slot, kind, byteCount: byteCount)
            let bytes = try read(arena: slot.arena, offset: slot.offset, byteCount: byteCount)
            return bytes.withUnsafeBytes { kernels.unpack($0, kind: kind) }
        }

        func fill(_ byte: UInt8) throws(DeviceError) {
            for (arena, handle) in zip(plan.arenas, arenas) { try fill(handle, arena.byteCount, byte) }
            try context.finish()
        }

        func rawBytes(arena: Int) throws(DeviceError) -> [UInt8] {
            guard plan.arenas.indices.contains(arena) else {
                throw DeviceError.dataMismatch("there is no arena \(arena), the plan has \(plan.arenas.count)")
            }
            return try read(arena: arena, offset: 0, byteCount: plan.arenas[arena].byteCount)
        }

        private func check(_ slot: Slot, _ kind: ValueKind, byteCount: Int) throws(DeviceError) {
            guard plan.arenas.indices.contains(slot.arena), byteCount <= slot.byteCount, slot.offset >= 0,
                slot.offset + byteCount <= plan.arenas[slot.arena].byteCount
            else {
                throw DeviceError.dataMismatch(
                    "a value of shape \(kind.hostShape) takes \(byteCount) bytes, its slot has \(slot.byteCount)")
            }
        }

        private func fill(_ handle: SharedHandle, _ byteCount: Int, _ byte: UInt8) throws(DeviceError) {
            guard byteCount > 0 else { return }
            var pattern = byte
            let status = context.api.EnqueueFillBuffer(
                context.queue, handle.pointer, &pattern, 1, 0, byteCount, 0, nil, nil)
            try context.check(status, "clEnqueueFillBuffer (\(byteCount) bytes)")
        }

        private func read(arena: Int, offset: Int, byteCount: Int) throws(DeviceError) -> [UInt8] {
            guard byteCount > 0 else { return [] }
            var status: cl_int = 0
            let bytes = [UInt8](unsafeUninitializedCapacity: byteCount) { target, initialized in
                status = context.api.EnqueueReadBuffer(
                    context.queue, arenas[arena].pointer, cl_bool(CL_TRUE), offset, byteCount, target.baseAddress, 0,
                    nil, nil)
                initialized = status == CL_SUCCESS ? byteCount : 0
            }
            try context.check(status, "clEnqueueReadBuffer (\(byteCount) bytes)")
            return bytes
        }
    }
#endif
