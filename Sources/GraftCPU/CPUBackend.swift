import GraftCPUKernelInterface
import GraftGraph
import GraftTensor

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The pure-Swift device: all primitives on the processor's vector units, on threads of its own.
///
/// Results depend on shapes and instruction set alone: any number of threads gives the same bytes.
package final class CPUBackend: DeviceBackend {
    package let description: DeviceDescription
    /// The kernels in use.
    package let instructionSet: CPUInstructionSet
    let kernels: KernelTable
    let pool: ThreadPool

    /// Starts the backend.
    ///
    /// - Parameters:
    ///   - threadCount: threads that compute, the caller's included; by default one per processor that is online.
    ///   - instructionSet: by default the widest supported one, or what `GRAFT_CPU_KERNELS` names.
    /// - Throws: ``DeviceError/unsupported(_:)`` when this processor lacks the instruction set.
    package init(threadCount: Int? = nil, instructionSet: CPUInstructionSet? = nil) throws(DeviceError) {
        let chosen: CPUInstructionSet
        if let instructionSet { chosen = instructionSet } else { chosen = try CPUInstructionSet.chosen() }
        guard chosen.isSupported, let kernels = chosen.kernels else {
            let names = CPUInstructionSet.supported.map(\.rawValue).joined(separator: ", ")
            throw DeviceError.unsupported("this processor has no \(chosen.rawValue); it runs: \(names)")
        }
        let threads = threadCount ?? SystemMemory.processorCount
        guard threads >= 1, threads <= 1024 else {
            throw DeviceError.unsupported("\(threads) threads were asked for; between 1 and 1024 are possible")
        }
        self.instructionSet = chosen
        self.kernels = kernels
        pool = ThreadPool(threadCount: threads)
        description = DeviceDescription(
            selector: "cpu", name: SystemMemory.processorName, platform: "Graft, pure Swift", type: "CPU",
            driverVersion: "Swift kernels (\(chosen.rawValue))", memoryByteCount: SystemMemory.totalByteCount,
            computeUnitCount: threads, kernelClass: "swift-\(chosen.rawValue)")
    }

    package func byteCount(of kind: ValueKind) -> Int { ChannelBlockedLayout.byteCount(of: kind) }

    package func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? {
        ChannelBlockedLayout.channelOffset(of: channels, in: shape)
    }

    package func workspaceByteCount(for primitive: Primitive) -> Int {
        primitive.workspaceFloatCount(registerRows: kernels.tileRows) * 4
    }

    package var alignment: Int { 64 }

    package var maximumArenaByteCount: Int { description.memoryByteCount }

    package func allocate(_ plan: MemoryPlan) throws(DeviceError) -> any DeviceMemory {
        let available = SystemMemory.availableByteCount
        guard plan.totalByteCount <= available else {
            throw DeviceError.outOfMemory(
                device: "the CPU device", requestedByteCount: plan.totalByteCount, availableByteCount: available,
                advice: "Try a smaller --batch-size, a smaller --image-size, or freeze more layers.")
        }
        return try CPUMemory(plan)
    }

    package func prepare(_ program: Program, index: Int, memory: any DeviceMemory) throws(DeviceError)
        -> any PreparedProgram
    {
        guard let memory = memory as? CPUMemory else {
            throw DeviceError.unsupported("memory of another device was given to the CPU device; allocate it there")
        }
        guard index >= 0, index < memory.plan.slots.count, memory.plan.slots[index].count == program.values.count else {
            throw DeviceError.unsupported(
                "program \(index) is not one of the \(memory.plan.slots.count) that the memory was planned for")
        }
        return try CPUProgram(program, index: index, memory: memory, backend: self)
    }
}

/// What the operating system says of the machine.
package enum SystemMemory {
    static var processorCount: Int { max(sysconf(Int32(_SC_NPROCESSORS_ONLN)), 1) }

    static var totalByteCount: Int { max(sysconf(Int32(_SC_PHYS_PAGES)), 1) * max(sysconf(Int32(_SC_PAGESIZE)), 4096) }

    /// What can be allocated without swapping: `MemAvailable` on Linux, else all of it.
    package static var availableByteCount: Int {
        for line in lines(of: "/proc/meminfo") where line.hasPrefix("MemAvailable:") {
            let number = line.drop { !$0.isNumber }.prefix { $0.isNumber }
            if let kibibytes = Int(number) { return kibibytes * 1024 }
        }
        return totalByteCount
    }

    /// The model name that the kernel reports.
    static var processorName: String {
        for line in lines(of: "/proc/cpuinfo") where line.hasPrefix("model name") {
            if let colon = line.firstIndex(of: ":") {
                return String(line[line.index(after: colon)...].drop { $0 == " " })
            }
        }
        return "CPU"
    }

    /// The first lines of a small text file, at most 64 KiB; none when it cannot be read.
    private static func lines(of path: String) -> [Substring] {
        guard let file = fopen(path, "r") else { return [] }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 65536)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes.prefix(count), as: UTF8.self).split(separator: "\n")
    }
}
