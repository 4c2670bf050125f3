#if OpenCL
    import COpenCL
    import GraftGraph
    import GraftTensor

    /// One OpenCL device of this machine, usable or not.
    package struct OpenCLDeviceEntry: Hashable, Sendable {
        /// How `auto` prefers devices, best first.
        package enum Rank: Int, Hashable, Sendable, Comparable {
            case discreteGPU, integratedGPU, accelerator, cpu

            package static func < (a: Rank, b: Rank) -> Bool { a.rawValue < b.rawValue }
        }

        /// Selector, names, memory; `kernelClass` is the one that runs unless another is asked for.
        package var description: DeviceDescription
        package var rank: Rank
        /// Why Graft cannot use the device; nil when it can.
        package var rejection: String?
        /// For example `OpenCL 3.0 PoCL …`.
        package var version: String
        /// Bits of the driver's platform and device handles, which live as long as the process.
        let platformBits: UInt
        let deviceBits: UInt

        package init(
            description: DeviceDescription, rank: Rank, rejection: String?, version: String, platformBits: UInt = 0,
            deviceBits: UInt = 0
        ) {
            self.description = description
            self.rank = rank
            self.rejection = rejection
            self.version = version
            self.platformBits = platformBits
            self.deviceBits = deviceBits
        }
    }

    /// All OpenCL devices of all platforms in one list.
    package struct DeviceCatalog: Sendable {
        /// In the order of the platforms; device N has the selector `opencl:N`.
        package var entries: [OpenCLDeviceEntry]
        /// Why there is no device at all; nil when there is one, usable or not.
        package var emptyReason: String?

        package init(entries: [OpenCLDeviceEntry], emptyReason: String? = nil) {
            self.entries = entries
            self.emptyReason = emptyReason
        }

        /// This machine's devices, asked for once per process.
        package static let current = DeviceCatalog.enumerate()

        /// This machine's devices; empty without a loader, a platform or a device: ``emptyReason()`` says which.
        package static func devices() -> [OpenCLDeviceEntry] { current.entries }

        /// Why ``devices()`` is empty; nil when it is not.
        package static func emptyReason() -> String? { current.emptyReason }

        // MARK: Selecting

        /// Accepted devices as `auto` prefers them: discrete GPU, integrated GPU, accelerator, CPU device.
        package var ranked: [OpenCLDeviceEntry] {
            entries.enumerated().filter { $0.element.rejection == nil }
                .sorted { ($0.element.rank, $0.offset) < ($1.element.rank, $1.offset) }.map(\.element)
        }

        /// Why `auto` takes none of the devices that it would prefer to the best accepted one: name and reason.
        package var passedOver: [String] {
            let best = ranked.first?.rank
            return entries.compactMap { entry in
                guard let rejection = entry.rejection, best.map({ entry.rank < $0 }) ?? true else { return nil }
                return "\(entry.description.name): \(rejection)"
            }
        }

        /// The device that a selector names: `opencl`, `gpu`, `opencl:N` or a part of a device's name, in any case.
        ///
        /// - Throws: ``DeviceError/unavailable(_:)`` that lists what there is when nothing, several devices or a
        ///   rejected device match.
        package func select(_ selector: String) throws(DeviceError) -> OpenCLDeviceEntry {
            let wanted = selector.lowercased()
            if wanted == "opencl" {
                guard let best = ranked.first else { throw unavailable("no usable OpenCL device") }
                return best
            }
            if wanted == "gpu" {
                guard let best = ranked.first(where: { $0.rank <= .integratedGPU }) else {
                    throw unavailable("no usable OpenCL GPU")
                }
                return best
            }
            var matches = entries.filter { $0.description.selector == wanted }
            if matches.isEmpty, !wanted.isEmpty, !wanted.hasPrefix("opencl:") {
                let named = entries.filter { $0.description.name.lowercased().contains(wanted) }
                // A rejected twin on another platform does not make a name ambiguous.
                let usable = named.filter { $0.rejection == nil }
                matches = usable.isEmpty ? named : usable
            }
            guard let match = matches.first else {
                let known = ["auto", "cpu", "opencl", "gpu"] + entries.map(\.description.selector)
                let near = nearMatches(to: selector, in: known, limit: 1).first
                throw unavailable("no OpenCL device matches \"\(selector)\"", near: near)
            }
            guard matches.count == 1 else {
                throw DeviceError.unavailable(
                    "\"\(selector)\" is part of the names of \(matches.count) devices; use opencl:N.\n"
                        + Self.list(matches))
            }
            if let rejection = match.rejection {
                throw unavailable(
                    "\(match.description.selector) (\(match.description.name)) cannot be used: \(rejection)")
            }
            return match
        }

        private func unavailable(_ what: String, near: String? = nil) -> DeviceError {
            let guess = near.map { " Did you mean \"\($0)\"?" } ?? ""
            if let emptyReason { return .unavailable("\(what): \(emptyReason).\(guess) Try --device cpu.") }
            return .unavailable("\(what).\(guess) There is:\n" + Self.list(entries) + "\n  cpu        pure Swift")
        }

        private static func list(_ entries: [OpenCLDeviceEntry]) -> String {
            entries.map { entry in
                let note = entry.rejection.map { " (not usable: \($0))" } ?? ""
                return
                    "  \(entry.description.selector)   \(entry.description.name), \(entry.description.platform)\(note)"
            }.joined(separator: "\n")
        }

        // MARK: Enumerating

        private static func enumerate() -> DeviceCatalog {
            let api: graft_opencl
            switch OpenCLLibrary.functions {
            case .failure(let failure): return DeviceCatalog(entries: [], emptyReason: failure.reason)
            case .success(let functions): api = functions
            }
            var platformCount: cl_uint = 0
            let status = api.GetPlatformIDs(0, nil, &platformCount)
            guard status == CL_SUCCESS, platformCount > 0 else {
                return DeviceCatalog(
                    entries: [],
                    emptyReason:
                        "the OpenCL loader knows no platform (\(OpenCLLibrary.statusName(status))); install a driver, "
                        + "for example pocl-opencl-icd")
            }
            var platforms = [cl_platform_id?](repeating: nil, count: Int(platformCount))
            guard api.GetPlatformIDs(platformCount, &platforms, nil) == CL_SUCCESS else {
                return DeviceCatalog(entries: [], emptyReason: "the OpenCL loader did not list its platforms")
            }
            var entries: [OpenCLDeviceEntry] = []
            for platform in platforms.compactMap({ $0 }) {
                var deviceCount: cl_uint = 0
                let all = cl_device_type(CL_DEVICE_TYPE_ALL)
                guard api.GetDeviceIDs(platform, all, 0, nil, &deviceCount) == CL_SUCCESS, deviceCount > 0 else {
                    continue
                }
                var devices = [cl_device_id?](repeating: nil, count: Int(deviceCount))
                guard api.GetDeviceIDs(platform, all, deviceCount, &devices, nil) == CL_SUCCESS else { continue }
                for device in devices.compactMap({ $0 }) {
                    entries.append(describe(device, of: platform, index: entries.count, api))
                }
            }
            return DeviceCatalog(
                entries: entries,
                emptyReason: entries.isEmpty ? "the OpenCL platforms of this machine have no device" : nil)
        }

        private static func describe(
            _ device: cl_device_id, of platform: cl_platform_id, index: Int, _ api: graft_opencl
        ) -> OpenCLDeviceEntry {
            let info = DeviceInfo(device: device, api: api)
            let type: cl_device_type = info.value(CL_DEVICE_TYPE, 0)
            let unified: cl_bool = info.value(CL_DEVICE_HOST_UNIFIED_MEMORY, 0)
            let rank: OpenCLDeviceEntry.Rank
            let typeName: String
            if type & cl_device_type(CL_DEVICE_TYPE_GPU) != 0 {
                (rank, typeName) = (unified != 0 ? .integratedGPU : .discreteGPU, "GPU")
            } else if type & cl_device_type(CL_DEVICE_TYPE_CPU) != 0 {
                (rank, typeName) = (.cpu, "CPU")
            } else {
                (rank, typeName) = (.accelerator, "accelerator")
            }
            let memory: cl_ulong = info.value(CL_DEVICE_GLOBAL_MEM_SIZE, 0)
            let units: cl_uint = info.value(CL_DEVICE_MAX_COMPUTE_UNITS, 0)
            let name = info.text(CL_DEVICE_NAME)
            return OpenCLDeviceEntry(
                description: DeviceDescription(
                    selector: "opencl:\(index)", name: name.isEmpty ? "unnamed device" : name,
                    platform: platformName(platform, api), type: typeName,
                    driverVersion: info.text(CL_DRIVER_VERSION), memoryByteCount: Int(clamping: memory),
                    computeUnitCount: Int(units), kernelClass: rank == .cpu ? "cpu-class" : "gpu-class"),
                rank: rank, rejection: rejection(info, type: type), version: info.text(CL_DEVICE_VERSION),
                platformBits: UInt(bitPattern: platform), deviceBits: UInt(bitPattern: device))
        }

        private static func platformName(_ platform: cl_platform_id, _ api: graft_opencl) -> String {
            var byteCount = 0
            let name = cl_platform_info(CL_PLATFORM_NAME)
            guard api.GetPlatformInfo(platform, name, 0, nil, &byteCount) == CL_SUCCESS, byteCount > 0 else {
                return ""
            }
            var buffer = [CChar](repeating: 0, count: byteCount)
            guard api.GetPlatformInfo(platform, name, byteCount, &buffer, nil) == CL_SUCCESS else { return "" }
            return OpenCLLibrary.text(buffer)
        }

        /// What Graft needs of a device and this one lacks.
        private static func rejection(_ info: DeviceInfo, type: cl_device_type) -> String? {
            if type & cl_device_type(CL_DEVICE_TYPE_CUSTOM) != 0 { return "it runs built-in kernels only" }
            if info.value(CL_DEVICE_AVAILABLE, cl_bool(0)) == 0 { return "its driver says that it is not available" }
            if info.value(CL_DEVICE_COMPILER_AVAILABLE, cl_bool(0)) == 0 { return "its driver has no compiler" }
            let version = info.text(CL_DEVICE_VERSION)
            guard let number = versionNumber(version), number >= (1, 2) else {
                return "it has \"\(version)\", OpenCL 1.2 is needed"
            }
            if info.value(CL_DEVICE_ENDIAN_LITTLE, cl_bool(0)) == 0 { return "it is not little-endian" }
            let float = info.value(CL_DEVICE_SINGLE_FP_CONFIG, cl_device_fp_config(0))
            let needed = cl_device_fp_config(CL_FP_ROUND_TO_NEAREST) | cl_device_fp_config(CL_FP_INF_NAN)
            if float & needed != needed { return "its float32 lacks rounding to nearest, infinity or NaN" }
            if info.value(CL_DEVICE_GLOBAL_MEM_SIZE, cl_ulong(0)) == 0 { return "it reports no memory" }
            return nil
        }

        /// `(1, 2)` of `OpenCL 1.2 …`, the form that the specification fixes.
        package static func versionNumber(_ text: String) -> (major: Int, minor: Int)? {
            let words = text.split(separator: " ")
            guard words.count >= 2, words[0] == "OpenCL" else { return nil }
            let parts = words[1].split(separator: ".")
            guard parts.count >= 2, let major = Int(parts[0]), let minor = Int(parts[1]) else { return nil }
            return (major, minor)
        }
    }

    /// Reads properties of a device.
    struct DeviceInfo {
        let device: cl_device_id
        let api: graft_opencl

        /// A property of fixed size, or `fallback` when the driver does not give it.
        func value<Value: BitwiseCopyable>(_ name: Int32, _ fallback: Value) -> Value {
            var value = fallback
            let status = api.GetDeviceInfo(device, cl_device_info(name), MemoryLayoutOf<Value>.size, &value, nil)
            return status == CL_SUCCESS ? value : fallback
        }

        /// A text, empty when the driver does not give it.
        func text(_ name: Int32) -> String {
            var byteCount = 0
            guard api.GetDeviceInfo(device, cl_device_info(name), 0, nil, &byteCount) == CL_SUCCESS, byteCount > 0
            else {
                return ""
            }
            var buffer = [CChar](repeating: 0, count: byteCount)
            guard api.GetDeviceInfo(device, cl_device_info(name), byteCount, &buffer, nil) == CL_SUCCESS else {
                return ""
            }
            let text = OpenCLLibrary.text(buffer)
            return text.split(separator: " ", omittingEmptySubsequences: true).joined(separator: " ")
        }
    }
#endif
