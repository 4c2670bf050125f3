#if OpenCL
    import COpenCL
    import Dispatch
    import GraftGraph
    import Synchronization

    /// Builds OpenCL programs, each once: from memory, from the cache on disk, or from source.
    final class ProgramBuilder {
        /// One text with one set of definitions.
        struct Key: Hashable, Sendable {
            var file: String
            var definitions: [KernelLaunch.Definition]
        }

        private let context: OpenCLContext
        private let sources: [String: String]
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

        /// The programs of these keys; those that are new are built side by side, where the driver allows it.
        func programs(_ keys: Set<Key>) throws(DeviceError) -> [Key: SharedHandle] {
            var missing: [(key: Key, text: String)] = []
            for key in keys where built[key] == nil { missing.append((key, try text(of: key.file))) }
            // The order decides which error is reported when several programs fail.
            missing.sort { ($0.key.file, options(for: $0.key)) < ($1.key.file, options(for: $1.key)) }
            let results = Mutex<[Int: Result<Outcome, DeviceError>]>([:])
            // OpenCL objects may be used by any thread, except a kernel by two at once; the tasks share no other state.
            nonisolated(unsafe) let builder = self
            let jobs = missing
            DispatchQueue.concurrentPerform(iterations: jobs.count) { index in
                let result: Result<Outcome, DeviceError>
                do throws(DeviceError) {
                    result = .success(try builder.build(jobs[index].key, text: jobs[index].text))
                } catch {
                    result = .failure(error)
                }
                results.withLock { $0[index] = result }
            }
            let finished = results.withLock { $0 }
            for (index, job) in jobs.enumerated() {
                guard let outcome = try finished[index]?.get(),
                    let program = OpaquePointer(bitPattern: outcome.programBits)
                else { continue }
                built[job.key] = SharedHandle(Handle(program, release: context.api.ReleaseProgram))
                if outcome.isFromDisk { loadedCount += 1 } else { compiledCount += 1 }
            }
            return built
        }

        private struct Outcome: Sendable {
            var programBits: UInt
            var isFromDisk: Bool
        }

        private func text(of file: String) throws(DeviceError) -> String {
            guard let prelude = sources["prelude"], let text = sources[file] else {
                throw DeviceError.unsupported(
                    "kernel file \(file).cl is not embedded: add it to Kernels/kernel_sources.c")
            }
            return "#line 1 \"prelude.cl\"\n\(prelude)\n#line 1 \"\(file).cl\"\n\(text)\n"
        }

        private func options(for key: Key) -> String {
            var options = ["-cl-std=CL1.2"]
            if context.supportsCorrectDivision { options.append("-cl-fp32-correctly-rounded-divide-sqrt") }
            options += key.definitions.map { "-D \($0.name)=\($0.value)" }
            return options.joined(separator: " ")
        }

        private func build(_ key: Key, text: String) throws(DeviceError) -> Outcome {
            let options = options(for: key)
            let description = context.description
            let cacheKey =
                cache == nil
                ? nil
                : ProgramCache.key(
                    source: text, options: options, platform: description.platform, device: description.name,
                    driverVersion: description.driverVersion)
            if let cache, let cacheKey, let binary = cache.load(cacheKey), let program = load(binary, options) {
                return Outcome(programBits: UInt(bitPattern: program), isFromDisk: true)
            }
            let program = try compile(key.file, text, options)
            if let cache, let cacheKey, let binary = binary(of: program) { cache.store(binary, key: cacheKey) }
            return Outcome(programBits: UInt(bitPattern: program), isFromDisk: false)
        }

        /// A program from its binary; nil when the driver does not take it, whatever the reason.
        private func load(_ binary: [UInt8], _ options: String) -> cl_program? {
            let api = context.api
            var device: cl_device_id? = context.device
            var status: cl_int = 0
            var binaryStatus: cl_int = 0
            let program = binary.withUnsafeBufferPointer { bytes in
                var length = bytes.count
                var start = bytes.baseAddress
                return api.CreateProgramWithBinary(context.context, 1, &device, &length, &start, &binaryStatus, &status)
            }
            guard let program else { return nil }
            guard status == CL_SUCCESS, binaryStatus == CL_SUCCESS,
                api.BuildProgram(program, 1, &device, options, nil, nil) == CL_SUCCESS
            else {
                _ = api.ReleaseProgram(program)
                return nil
            }
            return program
        }

        private func compile(_ file: String, _ text: String, _ options: String) throws(DeviceError) -> cl_program {
            let api = context.api
            var device: cl_device_id? = context.device
            var status: cl_int = 0
            let made = text.withCString { start in
                var start: UnsafePointer<CChar>? = start
                return api.CreateProgramWithSource(context.context, 1, &start, nil, &status)
            }
            guard let program = made, status == CL_SUCCESS else {
                throw context.failure("clCreateProgramWithSource (\(file).cl)", status)
            }
            let built = api.BuildProgram(program, 1, &device, options, nil, nil)
            guard built == CL_SUCCESS else {
                let log = buildLog(of: program)
                _ = api.ReleaseProgram(program)
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

        private func binary(of program: cl_program) -> [UInt8]? {
            let api = context.api
            var byteCount = 0
            let sizes = cl_program_info(CL_PROGRAM_BINARY_SIZES)
            guard api.GetProgramInfo(program, sizes, MemoryLayoutOf<Int>.size, &byteCount, nil) == CL_SUCCESS,
                byteCount > 0
            else { return nil }
            var bytes = [UInt8](repeating: 0, count: byteCount)
            let status = bytes.withUnsafeMutableBufferPointer { buffer in
                var start: UnsafeMutablePointer<UInt8>? = buffer.baseAddress
                let pointerByteCount = MemoryLayoutOf<UnsafeMutablePointer<UInt8>?>.size
                return api.GetProgramInfo(program, cl_program_info(CL_PROGRAM_BINARIES), pointerByteCount, &start, nil)
            }
            return status == CL_SUCCESS ? bytes : nil
        }
    }

    /// The standard library's `MemoryLayout`, whose name GraftGraph uses for another thing.
    typealias MemoryLayoutOf<Value> = Swift.MemoryLayout<Value>
#endif
