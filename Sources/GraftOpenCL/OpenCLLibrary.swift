#if OpenCL
    import COpenCL
    import Foundation
    import GraftGraph
    import Synchronization

    /// The OpenCL loader of this process: its functions, or why there are none.
    enum OpenCLLibrary {
        /// Opened once. `GRAFT_OPENCL_LIBRARY` names another library than the system's loader.
        static let functions: Result<graft_opencl, LoadFailure> = {
            let path = ProcessInfo.processInfo.environment["GRAFT_OPENCL_LIBRARY"]
            let table = UnsafeMutablePointer<graft_opencl>.allocate(capacity: 1)
            defer { table.deallocate() }
            var reason = [CChar](repeating: 0, count: 512)
            guard graft_opencl_load(path, table, &reason, reason.count) == 1 else {
                return .failure(LoadFailure(reason: text(reason)))
            }
            return .success(table.pointee)
        }()

        struct LoadFailure: Error, Sendable {
            var reason: String
        }

        /// The text of a buffer that a C function filled, up to its zero byte.
        static func text(_ buffer: [CChar]) -> String {
            String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        }

        /// The name of a status as the specification has it.
        static func statusName(_ status: cl_int) -> String {
            statusNames[status] ?? "status \(status)"
        }

        private static let statusNames: [cl_int: String] = [
            0: "CL_SUCCESS", -1: "CL_DEVICE_NOT_FOUND", -2: "CL_DEVICE_NOT_AVAILABLE", -3: "CL_COMPILER_NOT_AVAILABLE",
            -4: "CL_MEM_OBJECT_ALLOCATION_FAILURE", -5: "CL_OUT_OF_RESOURCES", -6: "CL_OUT_OF_HOST_MEMORY",
            -7: "CL_PROFILING_INFO_NOT_AVAILABLE", -8: "CL_MEM_COPY_OVERLAP", -9: "CL_IMAGE_FORMAT_MISMATCH",
            -10: "CL_IMAGE_FORMAT_NOT_SUPPORTED", -11: "CL_BUILD_PROGRAM_FAILURE", -12: "CL_MAP_FAILURE",
            -13: "CL_MISALIGNED_SUB_BUFFER_OFFSET", -14: "CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST",
            -15: "CL_COMPILE_PROGRAM_FAILURE", -16: "CL_LINKER_NOT_AVAILABLE", -17: "CL_LINK_PROGRAM_FAILURE",
            -18: "CL_DEVICE_PARTITION_FAILED", -19: "CL_KERNEL_ARG_INFO_NOT_AVAILABLE", -30: "CL_INVALID_VALUE",
            -31: "CL_INVALID_DEVICE_TYPE", -32: "CL_INVALID_PLATFORM", -33: "CL_INVALID_DEVICE",
            -34: "CL_INVALID_CONTEXT", -35: "CL_INVALID_QUEUE_PROPERTIES", -36: "CL_INVALID_COMMAND_QUEUE",
            -37: "CL_INVALID_HOST_PTR", -38: "CL_INVALID_MEM_OBJECT", -39: "CL_INVALID_IMAGE_FORMAT_DESCRIPTOR",
            -40: "CL_INVALID_IMAGE_SIZE", -41: "CL_INVALID_SAMPLER", -42: "CL_INVALID_BINARY",
            -43: "CL_INVALID_BUILD_OPTIONS", -44: "CL_INVALID_PROGRAM", -45: "CL_INVALID_PROGRAM_EXECUTABLE",
            -46: "CL_INVALID_KERNEL_NAME", -47: "CL_INVALID_KERNEL_DEFINITION", -48: "CL_INVALID_KERNEL",
            -49: "CL_INVALID_ARG_INDEX", -50: "CL_INVALID_ARG_VALUE", -51: "CL_INVALID_ARG_SIZE",
            -52: "CL_INVALID_KERNEL_ARGS", -53: "CL_INVALID_WORK_DIMENSION", -54: "CL_INVALID_WORK_GROUP_SIZE",
            -55: "CL_INVALID_WORK_ITEM_SIZE", -56: "CL_INVALID_GLOBAL_OFFSET", -57: "CL_INVALID_EVENT_WAIT_LIST",
            -58: "CL_INVALID_EVENT", -59: "CL_INVALID_OPERATION", -60: "CL_INVALID_GL_OBJECT",
            -61: "CL_INVALID_BUFFER_SIZE", -62: "CL_INVALID_MIP_LEVEL", -63: "CL_INVALID_GLOBAL_WORK_SIZE",
            -64: "CL_INVALID_PROPERTY", -65: "CL_INVALID_IMAGE_DESCRIPTOR", -66: "CL_INVALID_COMPILER_OPTIONS",
            -67: "CL_INVALID_LINKER_OPTIONS", -68: "CL_INVALID_DEVICE_PARTITION_COUNT",
            -1001: "CL_PLATFORM_NOT_FOUND_KHR",
        ]
    }

    /// Counts the driver objects made while it is current; tests hold it against leaks, whatever runs beside them.
    package final class DriverObjectLedger: Sendable {
        @TaskLocal package static var current: DriverObjectLedger?

        fileprivate let count = Atomic<Int>(0)

        package init() {}

        /// Objects that exist now.
        package var liveCount: Int { count.load(ordering: .relaxed) }
    }

    /// Sole owner of one reference to a driver object, released when it goes.
    struct Handle: ~Copyable {
        let pointer: OpaquePointer
        private let release: @convention(c) (OpaquePointer?) -> cl_int
        private let ledger = DriverObjectLedger.current

        init(_ pointer: OpaquePointer, release: @escaping @convention(c) (OpaquePointer?) -> cl_int) {
            self.pointer = pointer
            self.release = release
            ledger?.count.add(1, ordering: .relaxed)
        }

        deinit {
            _ = release(pointer)
            ledger?.count.subtract(1, ordering: .relaxed)
        }
    }

    /// A handle that can be kept in arrays and shared by what depends on it.
    final class SharedHandle {
        private let handle: Handle
        var pointer: OpaquePointer { handle.pointer }
        init(_ handle: consuming Handle) { self.handle = handle }
    }
#endif
