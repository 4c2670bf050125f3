import GraftGraph
import GraftTensor

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// The arenas of a plan in host memory, each one mapping of zeroed pages.
final class CPUMemory: DeviceMemory {
    let plan: MemoryPlan
    private let arenas: [UnsafeMutableRawBufferPointer]

    /// Kernels read a register tile's rows in full, so up to this many bytes behind the last slot must be mapped.
    private static let tailByteCount = 8192

    init(_ plan: MemoryPlan) throws(DeviceError) {
        self.plan = plan
        var arenas: [UnsafeMutableRawBufferPointer] = []
        for arena in plan.arenas {
            let byteCount = arena.byteCount + Self.tailByteCount
            #if canImport(Darwin)
                let flags = MAP_PRIVATE | MAP_ANON
            #else
                let flags = MAP_PRIVATE | MAP_ANONYMOUS
            #endif
            let address = mmap(nil, byteCount, PROT_READ | PROT_WRITE, flags, -1, 0)
            guard let address, address != MAP_FAILED else {
                for arena in arenas { munmap(arena.baseAddress, arena.count) }
                throw DeviceError.outOfMemory(
                    device: "the CPU device", requestedByteCount: plan.totalByteCount,
                    availableByteCount: SystemMemory.availableByteCount, advice: "Try a smaller --batch-size.")
            }
            #if canImport(Glibc)
                // Large pages spare address translations; where they are off this is a no-op.
                if byteCount >= 4 << 20 { madvise(address, byteCount, MADV_HUGEPAGE) }
            #endif
            arenas.append(UnsafeMutableRawBufferPointer(start: address, count: byteCount))
        }
        self.arenas = arenas
    }

    deinit {
        for arena in arenas { munmap(arena.baseAddress, arena.count) }
    }

    /// The first byte of a slot.
    func address(of slot: Slot) throws(DeviceError) -> UnsafeMutableRawPointer {
        guard slot.arena >= 0, slot.arena < arenas.count, slot.offset >= 0, slot.byteCount >= 0,
            slot.offset + slot.byteCount <= plan.arenas[slot.arena].byteCount, let base = arenas[slot.arena].baseAddress
        else {
            throw DeviceError.unsupported(
                "slot at \(slot.offset) with \(slot.byteCount) bytes lies outside arena \(slot.arena) of \(arenas.count)"
            )
        }
        return base + slot.offset
    }

    func write(_ tensor: HostTensor, kind: ValueKind, to slot: Slot) throws(DeviceError) {
        let target = try address(of: slot)
        let bytes = try ChannelBlockedLayout.pack(tensor, kind: kind)
        guard bytes.count <= slot.byteCount else {
            throw DeviceError.dataMismatch("\(bytes.count) bytes were written to a slot of \(slot.byteCount)")
        }
        bytes.withUnsafeBytes { source in
            if let base = source.baseAddress { target.copyMemory(from: base, byteCount: source.count) }
        }
    }

    func read(kind: ValueKind, from slot: Slot) throws(DeviceError) -> HostTensor {
        let source = try address(of: slot)
        guard ChannelBlockedLayout.byteCount(of: kind) <= slot.byteCount else {
            throw DeviceError.dataMismatch(
                "a value of shape \(kind.hostShape) was read from a slot of \(slot.byteCount) bytes")
        }
        return ChannelBlockedLayout.unpack(UnsafeRawBufferPointer(start: source, count: slot.byteCount), kind: kind)
    }

    func fill(_ byte: UInt8) throws(DeviceError) {
        for arena in arenas {
            if let base = arena.baseAddress { memset(base, Int32(byte), arena.count) }
        }
    }

    func rawBytes(arena: Int) throws(DeviceError) -> [UInt8] {
        guard arena >= 0, arena < arenas.count else {
            throw DeviceError.unsupported("arena \(arena) of \(arenas.count) was read")
        }
        return Array(arenas[arena].prefix(plan.arenas[arena].byteCount))
    }
}
