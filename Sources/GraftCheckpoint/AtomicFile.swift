import CSystemSupport

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// Writes a file under a temporary name beside its place and moves it there when it is whole.
///
/// `commit` flushes the file, renames it and flushes the folder; until then, and after any error, an earlier file of
/// the same name is as it was. The temporary file disappears with this object.
package final class AtomicFile {
    /// The place of the finished file.
    package let path: String
    private let target: String
    private let temporary: String
    private var descriptor: Int32
    private var buffer: [UInt8] = []
    /// Bytes written so far.
    package private(set) var byteCount = 0
    private static let bufferByteCount = 1 << 20

    /// Creates the temporary file; the folder must exist.
    package init(path: String) throws(CheckpointError) {
        self.path = path
        // A link stays a link: what it points to is replaced.
        if let resolved = realpath(path, nil) {
            target = String(cString: resolved)
            free(resolved)
        } else {
            target = path
        }
        let folder = Self.folder(of: target)
        let name = target.split(separator: "/").last.map(String.init) ?? ""
        guard !name.isEmpty, !target.hasSuffix("/") else {
            throw .cannotWrite(file: path, operation: "create it", reason: "the path names a folder")
        }
        var status = stat()
        if stat(target, &status) == 0, status.st_mode & S_IFMT != S_IFREG {
            throw .cannotWrite(
                file: path, operation: "replace it",
                reason: status.st_mode & S_IFMT == S_IFDIR ? "it is a folder" : "it is not a regular file")
        }
        var attempt = 0
        while true {
            // Long names are cut so that the temporary name stays under the usual 255 bytes.
            let candidate = "\(folder)/.\(String(name.prefix(60))).\(getpid()).\(attempt).tmp"
            let opened = open(candidate, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
            if opened >= 0 {
                descriptor = opened
                temporary = candidate
                break
            }
            let number = errno
            attempt += 1
            if number == EEXIST, attempt < 1000 { continue }
            throw .cannotWrite(file: path, operation: "create a file in \(folder)", reason: errorText(number))
        }
    }

    deinit { discard() }

    private static func folder(of path: String) -> String {
        guard let slash = path.lastIndex(of: "/") else { return "." }
        return slash == path.startIndex ? "/" : String(path[..<slash])
    }

    private func discard() {
        guard descriptor >= 0 else { return }
        close(descriptor)
        descriptor = -1
        unlink(temporary)
    }

    /// Appends bytes.
    package func write(_ bytes: UnsafeRawBufferPointer) throws(CheckpointError) {
        guard bytes.count > 0 else { return }
        if buffer.count + bytes.count <= Self.bufferByteCount {
            buffer.append(contentsOf: bytes)
            byteCount += bytes.count
            return
        }
        try flush()
        if bytes.count >= Self.bufferByteCount {
            try writeAll(bytes, at: nil)
        } else {
            buffer.append(contentsOf: bytes)
        }
        byteCount += bytes.count
    }

    /// Appends the raw bytes of an array, little-endian as in memory.
    package func write<Element: BitwiseCopyable>(_ elements: [Element]) throws(CheckpointError) {
        // The closure must not throw: the standard library's signature would erase the error's type.
        var failure: CheckpointError?
        elements.withUnsafeBytes { bytes in
            do throws(CheckpointError) { try self.write(bytes) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    /// Appends a text in UTF-8.
    package func write(_ text: String) throws(CheckpointError) {
        try write(Array(text.utf8))
    }

    /// Replaces bytes that were already written.
    func overwrite(_ bytes: [UInt8], at offset: Int) throws(CheckpointError) {
        try flush()
        var failure: CheckpointError?
        bytes.withUnsafeBytes { bytes in
            do throws(CheckpointError) { try self.writeAll(bytes, at: offset) } catch { failure = error }
        }
        if let failure { throw failure }
    }

    private func flush() throws(CheckpointError) {
        guard !buffer.isEmpty else { return }
        var failure: CheckpointError?
        buffer.withUnsafeBytes { bytes in
            do throws(CheckpointError) { try self.writeAll(bytes, at: nil) } catch { failure = error }
        }
        if let failure { throw failure }
        buffer.removeAll(keepingCapacity: true)
    }

    private func writeAll(_ bytes: UnsafeRawBufferPointer, at offset: Int?) throws(CheckpointError) {
        guard descriptor >= 0 else {
            throw .cannotWrite(file: path, operation: "write to it", reason: "it is already finished")
        }
        var done = 0
        while done < bytes.count {
            guard let base = bytes.baseAddress else { return }
            let count = min(bytes.count - done, 1 << 30)
            let result: Int =
                if let offset {
                    pwrite(descriptor, base + done, count, off_t(offset + done))
                } else {
                    #if canImport(Darwin)
                        Darwin.write(descriptor, base + done, count)
                    #elseif canImport(Musl)
                        Musl.write(descriptor, base + done, count)
                    #else
                        Glibc.write(descriptor, base + done, count)
                    #endif
                }
            if result < 0 {
                let number = errno
                if number == EINTR { continue }
                throw .cannotWrite(file: path, operation: "write \(bytes.count) bytes", reason: errorText(number))
            }
            done += result
        }
    }

    /// Flushes everything to the disk and puts the file in its place.
    package func commit() throws(CheckpointError) {
        try flush()
        guard fsync(descriptor) == 0 else {
            throw .cannotWrite(file: path, operation: "flush it to the disk", reason: errorText(errno))
        }
        // Some file systems report a full disk only here.
        let closed = close(descriptor)
        descriptor = -1
        guard closed == 0 else {
            let reason = errorText(errno)
            unlink(temporary)
            throw .cannotWrite(file: path, operation: "close it", reason: reason)
        }
        guard rename(temporary, target) == 0 else {
            let reason = errorText(errno)
            unlink(temporary)
            throw .cannotWrite(file: path, operation: "rename \(temporary) to it", reason: reason)
        }
        let number = graft_sync_path(Self.folder(of: target))
        // A folder that may be written but not read cannot be opened to be flushed; the file itself is safe.
        guard number == 0 || number == EACCES else {
            throw .cannotWrite(file: path, operation: "flush its folder", reason: errorText(number))
        }
    }

    /// Writes a whole file of bytes.
    package static func write(_ bytes: [UInt8], to path: String) throws(CheckpointError) {
        let file = try AtomicFile(path: path)
        try file.write(bytes)
        try file.commit()
    }

    /// Writes a whole text file in UTF-8.
    package static func write(_ text: String, to path: String) throws(CheckpointError) {
        try write(Array(text.utf8), to: path)
    }
}
