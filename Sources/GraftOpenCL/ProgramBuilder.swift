#if OpenCL
    import COpenCL
    import GraftGraph

    /// Builds OpenCL programs, each once: from memory, from the cache on disk, or from source.
    final class ProgramBuilder {
        /// One text with one set of definitions.
        struct Key: Hashable, Sendable {
            var file: String
            var definitions: [KernelLaunch.Definition]
        }

        private let context: OpenCLContext
        let sources: [String: String]
        private let cache: ProgramCache?
        private var built: [Key: SharedHandle] = [:]
        /// How many programs were compiled from source, and how many came from disk.
        private(set) var compiledCount = 0
        private(set) var loadedCount = 0

        init(context: OpenCLContext, sources: [String: String], cache: ProgramCache?) {
            self.context = context
            self.sources = sources
            self.cache = cache
        }

        /// The program of a key.
        ///
        /// Programs are built one after another: side by side, eight of them took 1.46 s instead of 1.28 s on PoCL 3.1 and
        /// 1.54 s instead of 0.68 s on Intel's runtime (two cores), and Oclgrind's compiler is not safe in threads.
        func program(_ key: Key) throws(DeviceError) -> SharedHandle {
            if let made = built[key] { return made }
            let text = try text(of: key.file)
            let options = options(for: key)
            let description = context.description
            let cacheKey =
                cache == nil
                ? nil
                : ProgramCache.key(
                    source: text, options: options, platform: description.platform, device: description.name,
                    driverVersion: description.driverVersion)
            let program: SharedHandle
            if let cache, let cacheKey, let binary = cache.load(cacheKey), let loaded = load(binary, options) {
                program = loaded
                loadedCount += 1
            } else {
                program = try compile(key.file, text, options)
                compiledCount += 1
                if let cache, let cacheKey, let binary = binary(of: program) { cache.store(binary, key: cacheKey) }
            }
            built[key] = program
            return program
        }

        private func text(of file: String) throws(DeviceError) -> String {
            guard let prelude = sources["prelude"], let text = sources[file] else {
                throw DeviceError.unsupported(
                    "kernel file \(file).cl is not embedded: add it to Kernels/kernel_sources.c")
            }
            return "#line 1 \"prelude.cl\"\n\(prelude)\n#line 1 \"\(file).cl\"\n\(text)\n"
        }

        private func options(for key: Key) -> String {
            // -w: PoCL counts warnings, such as those of vectors wider than the processor's, on standard error.
            var options = ["-cl-std=CL1.2", "-w"]
            if context.supportsCorrectDivision { options.append("-cl-fp32-correctly-rounded-divide-sqrt") }
            options += key.definitions.map { "-D \($0.name)=\($0.value)" }
            return options.joined(separator: " ")
        }

        /// A program from its binary; nil when the driver does not take it, whatever the reason.
        private func load(_ binary: [UInt8], _ options: String) -> SharedHandle? {
            let api = context.api
            var device: cl_device_id? = context.device
            var status: cl_int = 0
            var binaryStatus: cl_int = 0
            let made = binary.withUnsafeBufferPointer { bytes in
                var length = bytes.count
                var start = bytes.baseAddress
                return api.CreateProgramWithBinary(context.context, 1, &device, &length, &start, &binaryStatus, &status)
            }
            guard let made else { return nil }
            let program = SharedHandle(Handle(made, release: api.ReleaseProgram))
            guard status == CL_SUCCESS, binaryStatus == CL_SUCCESS,
                api.BuildProgram(program.pointer, 1, &device, options, nil, nil) == CL_SUCCESS
            else { return nil }
            return program
        }

        private func compile(_ file: String, _ text: String, _ options: String) throws(DeviceError) -> SharedHandle {
            let api = context.api
            var device: cl_device_id? = context.device
            var status: cl_int = 0
            let made = text.withCString { start in
                var start: UnsafePointer<CChar>? = start
                return api.CreateProgramWithSource(context.context, 1, &start, nil, &status)
            }
            guard let made, status == CL_SUCCESS else {
                throw context.failure("clCreateProgramWithSource (\(file).cl)", status)
            }
            let program = SharedHandle(Handle(made, release: api.ReleaseProgram))
            let built = api.BuildProgram(program.pointer, 1, &device, options, nil, nil)
            guard built == CL_SUCCESS else {
                let log = buildLog(of: program.pointer)
                if log.isEmpty { throw context.failure("clBuildProgram (\(file).cl, options \"\(options)\")", built) }
                throw DeviceError.buildFailed(
                    device: "\(context.description.selector) (\(context.description.name))", source: "\(file).cl",
                    options: options, log: log)
            }
            return program
        }

        /// The first lines of the compiler's log.
        private func buildLog(of program: cl_program) -> String {
            let api = context.api
            var byteCount = 0
            let name = cl_program_build_info(CL_PROGRAM_BUILD_LOG)
            guard api.GetProgramBuildInfo(program, context.device, name, 0, nil, &byteCount) == CL_SUCCESS,
                byteCount > 0
            else {
                return ""
            }
            var buffer = [CChar](repeating: 0, count: byteCount)
            guard api.GetProgramBuildInfo(program, context.device, name, byteCount, &buffer, nil) == CL_SUCCESS else {
                return ""
            }
            let lines = OpenCLLibrary.text(buffer).split(separator: "\n", omittingEmptySubsequences: true)
            let shown = lines.prefix(20).joined(separator: "\n")
            return lines.count > 20 ? shown + "\n… \(lines.count - 20) more lines" : shown
        }

        private func binary(of program: SharedHandle) -> [UInt8]? {
            let api = context.api
            var byteCount = 0
            let sizes = cl_program_info(CL_PROGRAM_BINARY_SIZES)
            guard api.GetProgramInfo(program.pointer, sizes, MemoryLayoutOf<Int>.size, &byteCount, nil) == CL_SUCCESS,
                byteCount > 0
            else { return nil }
            var bytes = [UInt8](repeating: 0, count: byteCount)
            let status = bytes.withUnsafeMutableBufferPointer { buffer in
                var start: UnsafeMutablePointer<UInt8>? = buffer.baseAddress
                let pointerByteCount = MemoryLayoutOf<UnsafeMutablePointer<UInt8>?>.size
                return api.GetProgramInfo(
                    program.pointer, cl_program_info(CL_PROGRAM_BINARIES), pointerByteCount, &start, nil)
            }
            return status == CL_SUCCESS ? bytes : nil
        }
    }

    /// The standard library's `MemoryLayout`, whose name GraftGraph uses for another thing.
    typealias MemoryLayoutOf<Value> = Swift.MemoryLayout<Value>
#endif
