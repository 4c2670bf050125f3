#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Zeroed pages of host memory, unmapped when the object goes. Not thread-safe.
package final class HostPages {
    /// The memory; begins at a page.
    package let bytes: UnsafeMutableRawBufferPointer

    /// - Returns: nil when the system has no such memory.
    package init?(byteCount: Int) {
        #if canImport(Darwin)
            let flags = MAP_PRIVATE | MAP_ANON
        #else
            let flags = MAP_PRIVATE | MAP_ANONYMOUS
        #endif
        let address = mmap(nil, max(byteCount, 1), PROT_READ | PROT_WRITE, flags, -1, 0)
        guard let address, address != MAP_FAILED else { return nil }
        #if canImport(Glibc)
            // Large pages spare address translations; where they are off this is a no-op.
            if byteCount >= 4 << 20 { madvise(address, byteCount, MADV_HUGEPAGE) }
        #endif
        bytes = UnsafeMutableRawBufferPointer(start: address, count: max(byteCount, 1))
    }

    deinit { munmap(bytes.baseAddress, bytes.count) }
}
