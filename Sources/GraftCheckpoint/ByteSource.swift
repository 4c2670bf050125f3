import CSystemSupport

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// The text of an errno.
func errorText(_ number: Int32) -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
        guard let base = buffer.baseAddress else { return "error \(number)" }
        base.initialize(repeating: 0, count: buffer.count)
        graft_error_text(number, base, buffer.count)
        return String(cString: base)
    }
}

/// Random access to the bytes of a file or of memory.
///
/// Files are read with `pread`, not mapped: a file that shrinks while it is read is an error instead of a signal.
final class ByteSource {
    /// What error messages call it.
    let name: String
    /// Bytes in all.
    let count: Int
    private let descriptor: Int32
    private let memory: [UInt8]

    /// Opens a regular file.
    init(path: String) throws(CheckpointError) {
        // A pipe that nobody writes to would block the opening; what is no regular file is refused below.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else {
            throw .cannotRead(file: path, operation: "open", reason: errorText(errno))
        }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            let reason = errorText(errno)
            close(descriptor)
            throw .cannotRead(file: path, operation: "examine", reason: reason)
        }
        guard status.st_mode & S_IFMT == S_IFREG else {
            close(descriptor)
            let kind = status.st_mode & S_IFMT == S_IFDIR ? "it is a folder" : "it is not a regular file"
            throw .cannotRead(file: path, operation: "read", reason: kind)
        }
        self.name = path
        self.count = Int(status.st_size)
        self.descriptor = descriptor
        self.memory = []
    }

    /// Reads from memory.
    init(name: String, memory: [UInt8]) {
        self.name = name
        self.count = memory.count
        self.descriptor = -1
        self.memory = memory
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
    }

    /// Fills a buffer from `offset` on; a range that is not inside the file is an error.
    func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int, what: String) throws(CheckpointError) {
        try check(offset: offset, byteCount: buffer.count, what: what)
        guard buffer.count > 0, let base = buffer.baseAddress else { return }
        if descriptor < 0 {
            memory.withUnsafeBytes { buffer.copyMemory(from: .init(rebasing: $0[offset..<offset + buffer.count])) }
            return
        }
        var done = 0
        while done < buffer.count {
            let result = pread(descriptor, base + done, min(buffer.count - done, 1 << 30), off_t(offset + done))
            if result < 0 {
                if errno == EINTR { continue }
                throw .cannotRead(file: name, operation: "read \(what)", reason: errorText(errno))
            }
            guard result > 0 else {
                throw .truncated(
                    file: name, what: what, offset: offset, needed: "\(buffer.count)", available: "\(done)")
            }
            done += result
        }
    }

    /// The bytes of a range; nothing is allocated before the range is known to lie inside the file.
    func bytes(at offset: Int, count: Int, what: String) throws(CheckpointError) -> [UInt8] {
        try check(offset: offset, byteCount: count, what: what)
        return try makeArray(count: count) { (buffer) throws(CheckpointError) in
            try self.read(into: buffer, at: offset, what: what)
        }
    }

    /// Says whether a range lies inside the file.
    func check(offset: Int, byteCount: Int, what: String) throws(CheckpointError) {
        let available = offset >= 0 && offset <= count ? count - offset : 0
        guard offset >= 0, byteCount >= 0, byteCount <= available else {
            throw .truncated(
                file: name, what: what, offset: offset, needed: "\(byteCount)", available: "\(available)")
        }
    }

    /// The CRC-32 of a range, in pieces.
    func crc32(at offset: Int, count: Int, what: String) throws(CheckpointError) -> UInt32 {
        try check(offset: offset, byteCount: count, what: what)
        let pieceSize = min(count, 1 << 20)
        let piece = UnsafeMutableRawBufferPointer.allocate(byteCount: max(1, pieceSize), alignment: 64)
        defer { piece.deallocate() }
        var crc: UInt32 = 0
        var done = 0
        while done < count {
            let part = UnsafeMutableRawBufferPointer(rebasing: piece[..<min(pieceSize, count - done)])
            try read(into: part, at: offset + done, what: what)
            crc = graft_crc32(crc, part.baseAddress, part.count)
            done += part.count
        }
        return crc
    }
}

/// Makes an array of a trivial type from the bytes that `fill` writes.
func makeArray<Element: BitwiseCopyable>(
    count: Int, fill: (UnsafeMutableRawBufferPointer) throws(CheckpointError) -> Void
) throws(CheckpointError) -> [Element] {
    var failure: CheckpointError?
    let array = [Element](unsafeUninitializedCapacity: count) { buffer, initialized in
        do throws(CheckpointError) {
            try fill(
                UnsafeMutableRawBufferPointer(
                    rebasing: UnsafeMutableRawBufferPointer(buffer)[..<(count * MemoryLayout<Element>.stride)]))
            initialized = count
        } catch {
            failure = error
            initialized = 0
        }
    }
    if let failure { throw failure }
    return array
}

/// Reads forward through a part of a source with a buffer.
struct ByteCursor {
    let source: ByteSource
    /// The next byte to read, counted from the start of the file.
    private(set) var position: Int
    /// The first byte that is not to be read.
    let end: Int
    private var buffer: [UInt8] = []
    private var bufferStart = 0

    init(_ source: ByteSource, from start: Int = 0, to end: Int? = nil) {
        self.source = source
        self.position = start
        self.end = min(end ?? source.count, source.count)
    }

    var remaining: Int { max(0, end - position) }

    /// Makes at least `count` bytes available at `position`; returns their index in the buffer.
    private mutating func prepare(_ count: Int, what: String) throws(CheckpointError) -> Int {
        guard count <= remaining else {
            throw .truncated(
                file: source.name, what: what, offset: position, needed: "\(count)", available: "\(remaining)")
        }
        let index = position - bufferStart
        if index >= 0, index + count <= buffer.count { return index }
        buffer = try source.bytes(at: position, count: min(remaining, max(count, 1 << 16)), what: what)
        bufferStart = position
        return 0
    }

    mutating func byte(_ what: String) throws(CheckpointError) -> UInt8 {
        let index = try prepare(1, what: what)
        position += 1
        return buffer[index]
    }

    mutating func bytes(_ count: Int, what: String) throws(CheckpointError) -> [UInt8] {
        guard count > 0 else { return [] }
        let index = try prepare(count, what: what)
        position += count
        return Array(buffer[index..<index + count])
    }

    /// A little-endian unsigned number of 1 to 8 bytes.
    mutating func unsigned(_ byteCount: Int, what: String) throws(CheckpointError) -> UInt64 {
        let index = try prepare(byteCount, what: what)
        position += byteCount
        var value: UInt64 = 0
        for i in 0..<byteCount { value |= UInt64(buffer[index + i]) << UInt64(8 * i) }
        return value
    }

    /// The bytes up to a line feed, without it.
    mutating func line(limit: Int, what: String) throws(CheckpointError) -> [UInt8] {
        var result: [UInt8] = []
        while true {
            let next = try byte(what)
            if next == 0x0A { return result }
            result.append(next)
            guard result.count <= limit else {
                throw .malformed(
                    file: source.name, what: what, offset: position, found: "a line of more than \(limit) bytes",
                    expected: "a name")
            }
        }
    }

    mutating func skip(_ count: Int, what: String) throws(CheckpointError) {
        guard count >= 0, count <= remaining else {
            throw .truncated(
                file: source.name, what: what, offset: position, needed: "\(count)", available: "\(remaining)")
        }
        position += count
    }
}

extension [UInt8] {
    /// A little-endian number at an index; the caller has checked the range.
    func littleEndian(at index: Int, byteCount: Int) -> UInt64 {
        var value: UInt64 = 0
        for i in 0..<byteCount { value |= UInt64(self[index + i]) << UInt64(8 * i) }
        return value
    }
}
