import CSystemSupport
import GraftTensor

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// Writes a `.npz` archive array by array, atomically; the same arrays give the same bytes.
///
/// Entries are stored without compression and dated 1980-01-01. Arrays may be written in pieces, so that features
/// need not fit in memory. The archive appears under its name with `finish`.
package final class NumpyArchiveWriter {
    private let file: AtomicFile
    /// Whether this writes a lone `.npy` array.
    private let isBare: Bool
    private var entries: [ZipWriterEntry] = []
    private var names: Set<String> = []
    /// Elements that the current array still lacks.
    private var missingCount = 0

    /// Begins an archive; the folder of `path` must exist.
    package init(path: String) throws(CheckpointError) {
        isBare = false
        file = try AtomicFile(path: path)
    }

    /// Adds a whole array under a name without `.npy`.
    package func add(_ name: String, _ array: NumpyArray) throws(CheckpointError) {
        switch array.storage {
        case .float32(let values):
            try begin(name, shape: array.shape, type: "<f4", elementByteCount: 4)
            try append(values)
        case .int64(let values):
            try begin(name, shape: array.shape, type: "<i8", elementByteCount: 8)
            try append(values)
        case .int32(let values):
            try begin(name, shape: array.shape, type: "<i4", elementByteCount: 4)
            try append(values)
        case .uint8(let values):
            try begin(name, shape: array.shape, type: "|u1", elementByteCount: 1)
            try append(values)
        case .strings(let values):
            // numpy's narrowest text type has one code point.
            let width = max(1, values.map(\.unicodeScalars.count).max() ?? 1)
            try begin(name, shape: array.shape, type: "<U\(width)", elementByteCount: width * 4)
            for text in values {
                var codes = text.unicodeScalars.map(\.value)
                codes.append(contentsOf: repeatElement(0, count: width - codes.count))
                try appendRaw(codes, elementCount: 1)
            }
        }
    }

    /// Adds a tensor with its own element type; numpy has no bfloat16, which becomes float32 of the same values.
    func add(_ name: String, _ tensor: TensorContent) throws(CheckpointError) {
        let content = tensor.widenedFromBFloat16()
        try begin(name, shape: content.shape, type: content.type.numpyName, elementByteCount: content.type.byteCount)
        guard let last = entries.indices.last else { return }
        entries[last].crc = content.crc32(after: entries[last].crc)
        missingCount = 0
        try content.write(to: file)
    }

    /// Adds the rows of a spool as one float32 array `[rows] + rowShape`.
    package func add(_ name: String, _ spool: FloatRowSpool) throws(CheckpointError) {
        try begin(
            name, shape: Shape([spool.rowCount] + spool.rowShape.dimensions), type: "<f4", elementByteCount: 4)
        try spool.forEachPiece { (piece) throws(CheckpointError) in try self.append(piece) }
    }

    /// Begins a float32 array that `append` fills in row-major order.
    package func beginFloats(_ name: String, shape: Shape) throws(CheckpointError) {
        try begin(name, shape: shape, type: "<f4", elementByteCount: 4)
    }

    /// Adds elements to the array that was begun.
    package func append(_ values: [Float]) throws(CheckpointError) {
        try appendRaw(values, elementCount: values.count)
    }

    private func append<Element: FixedWidthInteger & BitwiseCopyable>(
        _ values: [Element]
    ) throws(CheckpointError) {
        try appendRaw(values, elementCount: values.count)
    }

    private func appendRaw<Element: BitwiseCopyable>(
        _ values: [Element], elementCount: Int
    ) throws(CheckpointError) {
        guard elementCount <= missingCount, !entries.isEmpty else {
            throw .unsupported(
                file: file.path, what: "npz array", found: "\(elementCount) elements where \(missingCount) are missing",
                next: "append exactly as many elements as the shape says")
        }
        missingCount -= elementCount
        let last = entries.count - 1
        values.withUnsafeBytes { bytes in
            entries[last].crc = graft_crc32(entries[last].crc, bytes.baseAddress, bytes.count)
        }
        try file.write(values)
    }

    private func requireWhole() throws(CheckpointError) {
        guard missingCount == 0 else {
            throw .unsupported(
                file: file.path, what: "npz array", found: "an array that lacks \(missingCount) elements",
                next: "append all of them before the next array")
        }
    }

    private func begin(
        _ name: String, shape: Shape, type: String, elementByteCount: Int
    ) throws(CheckpointError) {
        try requireWhole()
        guard !name.isEmpty, name.utf8.count < 60_000, names.insert(name).inserted else {
            throw .unsupported(
                file: file.path, what: "npz archive", found: "the name '\(name)' (empty, too long or used before)",
                next: "give each array a name of its own")
        }
        let extents = shape.dimensions.map(String.init).joined(separator: ", ")
        let tuple = shape.rank == 1 ? "(\(extents),)" : "(\(extents))"
        var header = "{'descr': '\(type)', 'fortran_order': False, 'shape': \(tuple), }"
        // Magic, version and length take 10 bytes; the data begins at a multiple of 64.
        header += String(repeating: " ", count: (64 - (10 + header.utf8.count + 1) % 64) % 64) + "\n"
        var npy: [UInt8] = [0x93, 0x4E, 0x55, 0x4D, 0x50, 0x59, 1, 0]
        npy.append(contentsOf: littleEndianBytes(header.utf8.count, 2))
        npy.append(contentsOf: header.utf8)

        let entry = ZipWriterEntry(
            name: Array((name + ".npy").utf8), headerStart: file.byteCount,
            byteCount: npy.count + shape.elementCount * elementByteCount, crc: 0)
        try patchLast()
        entries.append(entry)
        if !isBare { try file.write(entry.localHeader()) }
        missingCount = shape.elementCount
        try appendHeader(npy)
    }

    private func appendHeader(_ bytes: [UInt8]) throws(CheckpointError) {
        let last = entries.count - 1
        entries[last].crc = graft_crc32(0, bytes, bytes.count)
        try file.write(bytes)
    }

    /// Puts the CRC into the header of the entry that is now whole.
    private func patchLast() throws(CheckpointError) {
        guard let entry = entries.last else { return }
        try file.overwrite(littleEndianBytes(Int(entry.crc), 4), at: entry.headerStart + ZipWriterEntry.crcOffset)
    }

    /// Finishes the archive and puts it in its place.
    package func finish() throws(CheckpointError) {
        try requireWhole()
        try patchLast()
        let directoryStart = file.byteCount
        for entry in entries { try file.write(entry.directoryEntry) }
        let directoryEnd = file.byteCount
        try file.write(
            ZipWriterEntry.endRecords(
                entryCount: entries.count, directoryStart: directoryStart, directoryEnd: directoryEnd))
        try file.commit()
    }

    /// Writes a whole archive.
    package static func write(
        _ arrays: [(name: String, array: NumpyArray)], to path: String
    ) throws(CheckpointError) {
        let writer = try NumpyArchiveWriter(path: path)
        for (name, array) in arrays { try writer.add(name, array) }
        try writer.finish()
    }

    /// Writes tensors, and texts as a text array `__metadata__` of one JSON object.
    static func write(
        _ tensors: [(name: String, content: TensorContent)], metadata: [String: String], to path: String
    ) throws(CheckpointError) {
        let writer = try NumpyArchiveWriter(path: path)
        for (name, content) in tensors { try writer.add(name, content) }
        if !metadata.isEmpty {
            let text = CheckpointWriter.text(of: metadata)
            try writer.add(CheckpointWriter.metadataName, NumpyArray(shape: [], storage: .strings([text])))
        }
        try writer.finish()
    }

    /// Writes one array as a `.npy` file.
    package static func writeArray(_ array: NumpyArray, to path: String) throws(CheckpointError) {
        // The same bytes as the entry of an archive, without the archive around it.
        let writer = try NumpyArchiveWriter(bare: path)
        try writer.add("array", array)
        try writer.requireWhole()
        try writer.file.commit()
    }

    private init(bare path: String) throws(CheckpointError) {
        isBare = true
        file = try AtomicFile(path: path)
    }
}

/// Rows of floats that wait on the disk until their number is known, without a name in the folder.
///
/// Several layers' features arrive batch by batch, and an archive holds them one layer after the other.
package final class FloatRowSpool {
    /// The extents of one row.
    package let rowShape: Shape
    /// Rows so far.
    package private(set) var rowCount = 0
    private let descriptor: Int32
    private let path: String
    private static let pieceCount = 1 << 18

    /// Makes an empty spool in the folder of the file that will be written.
    package init(besides path: String, rowShape: Shape) throws(CheckpointError) {
        self.rowShape = rowShape
        self.path = path
        let folder = path.contains("/") ? String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]) + "/" : ""
        var template = Array((folder + ".graft-rows-XXXXXX").utf8CString)
        descriptor = mkstemp(&template)
        guard descriptor >= 0 else {
            throw .cannotWrite(file: path, operation: "create a file beside it", reason: errorText(errno))
        }
        // Without a name the file goes away by itself, however this process ends.
        unlink(template)
    }

    deinit { if descriptor >= 0 { close(descriptor) } }

    /// Adds whole rows.
    package func append(_ values: [Float]) throws(CheckpointError) {
        let width = rowShape.elementCount
        guard width > 0, values.count.isMultiple(of: width) else {
            throw .unsupported(
                file: path, what: "rows of \(rowShape)", found: "\(values.count) elements", next: "append whole rows")
        }
        var done = 0
        let total = values.count * 4
        while done < total {
            let result = values.withUnsafeBytes { bytes in
                pwrite(
                    descriptor, bytes.baseAddress.map { $0 + done }, total - done, off_t(rowCount * width * 4 + done))
            }
            if result < 0 {
                let number = errno
                if number == EINTR { continue }
                throw .cannotWrite(file: path, operation: "write \(total) bytes beside it", reason: errorText(number))
            }
            done += result
        }
        rowCount += values.count / width
    }

    /// Hands out all elements in order, a piece at a time.
    func forEachPiece(_ body: ([Float]) throws(CheckpointError) -> Void) throws(CheckpointError) {
        let total = rowCount * rowShape.elementCount
        var done = 0
        while done < total {
            let count = min(Self.pieceCount, total - done)
            let piece: [Float] = try makeArray(count: count) { (buffer) throws(CheckpointError) in
                var read = 0
                while read < buffer.count {
                    let result = pread(
                        self.descriptor, buffer.baseAddress.map { $0 + read }, buffer.count - read,
                        off_t(done * 4 + read))
                    if result < 0, errno == EINTR { continue }
                    guard result > 0 else {
                        throw .cannotRead(
                            file: self.path, operation: "read the rows kept beside it", reason: errorText(errno))
                    }
                    read += result
                }
            }
            try body(piece)
            done += count
        }
    }
}

extension ElementType {
    /// numpy's type string, little-endian.
    fileprivate var numpyName: String {
        switch self {
        case .float64: "<f8"
        case .float32, .bfloat16: "<f4"
        case .float16: "<f2"
        case .int64: "<i8"
        case .int32: "<i4"
        case .int16: "<i2"
        case .int8: "|i1"
        case .uint8: "|u1"
        case .bool: "|b1"
        case .uint16: "<u2"
        case .uint32: "<u4"
        case .uint64: "<u8"
        }
    }
}
