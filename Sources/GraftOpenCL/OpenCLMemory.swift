#if OpenCL
    import COpenCL
    import GraftGraph
    import GraftTensor

    /// The arenas of a plan, one buffer each; operands are sub-buffers.
    final class OpenCLMemory: DeviceMemory {
        let plan: MemoryPlan
        let context: OpenCLContext
        private let kernels: any KernelClass
        private var arenas: [SharedHandle]
        private var ranges: [Slot: SharedHandle] = [:]
        /// What the arenas of a processor lie in: drivers' own memory has small pages, whose translations cost up to a
        /// quarter of the time of wide layers.
        private let pages: [HostPages]

        init(plan: MemoryPlan, context: OpenCLContext, kernels: any KernelClass) throws(DeviceError) {
            self.plan = plan
            self.context = context
            self.kernels = kernels
            let api = context.api
            var arenas: [SharedHandle] = []
            var pages: [HostPages] = []
            for arena in plan.arenas {
                var status: cl_int = 0
                let byteCount = max(arena.byteCount, 1)
                var flags = cl_mem_flags(CL_MEM_READ_WRITE)
                var host: UnsafeMutableRawPointer?
                if context.description.type == "CPU", let mapped = HostPages(byteCount: byteCount) {
                    pages.append(mapped)
                    host = mapped.bytes.baseAddress
                    flags |= cl_mem_flags(CL_MEM_USE_HOST_PTR)
                }
                let buffer = api.CreateBuffer(context.context, flags, byteCount, host, &status)
                guard let buffer, status == CL_SUCCESS else {
                    throw context.failure("clCreateBuffer (\(formatBytes(byteCount)) for \(arena.role))", status)
                }
                arenas.append(SharedHandle(Handle(buffer, release: api.ReleaseMemObject)))
            }
            self.arenas = arenas
            self.pages = pages
            for (arena, handle) in zip(plan.arenas, arenas) {
                switch arena.role {
                case .state, .gradients: try fill(handle, arena.byteCount, 0)
                case .constants, .parameters, .transients, .io, .workspace: break
                }
            }
            try context.finish()
        }

        deinit {
            // What is enqueued may still write, and the driver's objects go before the memory that they lie in. A queue that
            // failed writes nothing any more.
            _ = context.api.Finish(context.queue)
            ranges = [:]
            arenas = []
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
            let byteCount = kernels.byteCount(of: kind)
            try check(slot, kind, byteCount: byteCount)
            guard byteCount > 0 else { return }
            let buffer = arenas[slot.arena].pointer
            // Written where the driver wants it: on a processor that is the buffer itself.
            var status: cl_int = 0
            let mapped = context.api.EnqueueMapBuffer(
                context.queue, buffer, cl_bool(CL_TRUE), cl_map_flags(CL_MAP_WRITE_INVALIDATE_REGION), slot.offset,
                byteCount, 0, nil, nil, &status)
            guard let mapped, status == CL_SUCCESS else {
                throw context.failure("clEnqueueMapBuffer (\(byteCount) bytes)", status)
            }
            var failure: DeviceError?
            do throws(DeviceError) {
                try kernels.pack(
                    tensor, kind: kind, into: UnsafeMutableRawBufferPointer(start: mapped, count: byteCount))
            } catch {
                failure = error
            }
            try context.check(
                context.api.EnqueueUnmapMemObject(context.queue, buffer, mapped, 0, nil, nil),
                "clEnqueueUnmapMemObject (\(byteCount) bytes)")
            if let failure { throw failure }
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
