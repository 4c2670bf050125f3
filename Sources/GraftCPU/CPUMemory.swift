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
    private let pages: [HostPages]
    private var arenas: [UnsafeMutableRawBufferPointer] { pages.map(\.bytes) }

    /// Kernels read a register tile's rows in full, so up to this many bytes behind the last slot must be mapped.
    private static let tailByteCount = 8192

    init(_ plan: MemoryPlan) throws(DeviceError) {
        self.plan = plan
        var pages: [HostPages] = []
        for arena in plan.arenas {
            guard let mapped = HostPages(byteCount: arena.byteCount + Self.tailByteCount) else {
                throw DeviceError.outOfMemory(
                    device: "the CPU device", requestedByteCount: plan.totalByteCount,
                    availableByteCount: SystemMemory.availableByteCount, advice: "Try a smaller --batch-size.")
            }
            pages.append(mapped)
        }
        self.pages = pages
    }

    /// The first byte of a slot.
    func address(of slot: Slot) throws(DeviceError) -> UnsafeMutableRawPointer {
        guard slot.arena >= 0, slot.arena < pages.count, slot.offset >= 0, slot.byteCount >= 0,
            slot.offset + slot.byteCount <= plan.arenas[slot.arena].byteCount,
            let base = pages[slot.arena].bytes.baseAddress
        else {
            throw DeviceError.unsupported(
                "slot at \(slot.offset) with \(slot.byteCount) bytes lies outside arena \(slot.arena) of \(pages.count)"
            )
        }
        return base + slot.offset
    }

    func write(_ tensor: HostTensor, kind: ValueKind, to slot: Slot) throws(DeviceError) {
        let target = UnsafeMutableRawBufferPointer(start: try address(of: slot), count: slot.byteCount)
        try ChannelBlockedLayout.pack(tensor, kind: kind, into: target)
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
