import CSystemSupport
import GraftTensor

/// Writes a `.npz` archive array by array, atomically; the same arrays give the same bytes.
///
/// Entries are stored without compression and dated 1980-01-01. Arrays may be written in pieces, so that features
/// need not fit in memory. The archive appears under its name with `finish`. A lone `.npy` array is written likewise.
package final class NumpyArchiveWriter {
    private let file: AtomicFile
    /// Whether this writes a lone `.npy` array.
    private let isBare: Bool
    private var entries: [ZipWriterEntry] = []
    private var names: Set<String> = []
    /// Elements that the current array still lacks.
    private var missingCount = 0
    /// Code points of each text of the current array.
    private var textWidth = 0

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
            try beginTexts(name, shape: array.shape, width: values.map(\.unicodeScalars.count).max() ?? 1)
            try append(values)
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

    /// Begins a float32 array that `append` fills in row-major order.
    package func beginFloats(_ name: String, shape: Shape) throws(CheckpointError) {
        try begin(name, shape: shape, type: "<f4", elementByteCount: 4)
    }

    /// Begins an int64 array that `append` fills in row-major order.
    package func beginIntegers(_ name: String, shape: Shape) throws(CheckpointError) {
        try begin(name, shape: shape, type: "<i8", elementByteCount: 8)
    }

    /// Begins an array of texts that `append` fills; none may have more than `width` code points.
    package func beginTexts(_ name: String, shape: Shape, width: Int) throws(CheckpointError) {
        // numpy's narrowest text type has one code point.
        textWidth = max(1, width)
        try begin(name, shape: shape, type: "<U\(textWidth)", elementByteCount: textWidth * 4)
    }

    /// Adds elements to the array that was begun, of the type it was begun with.
    package func append(_ values: [Float]) throws(CheckpointError) {
        try appendRaw(values, elementCount: values.count)
    }

    /// Adds elements to the array that was begun, of the type it was begun with.
    package func append<Element: FixedWidthInteger & BitwiseCopyable>(
        _ values: [Element]
    ) throws(CheckpointError) {
        try appendRaw(values, elementCount: values.count)
    }

    /// Adds texts to the array of texts that was begun.
    package func append(_ texts: [String]) throws(CheckpointError) {
        for text in texts {
            var codes = text.unicodeScalars.map(\.value)
            guard codes.count <= textWidth else {
                throw .unsupported(
                    file: file.path, what: "npz array of texts",
                    found: "a text of \(codes.count) code points where \(textWidth) were announced",
                    next: "announce the longest")
            }
            codes.append(contentsOf: repeatElement(0, count: textWidth - codes.count))
            try appendRaw(codes, elementCount: 1)
        }
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
        if !isBare { try patchLast() }
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

    /// Finishes the archive, or the lone array, and puts it in its place.
    package func finish() throws(CheckpointError) {
        try requireWhole()
        guard !isBare else { return try file.commit() }
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
        let writer = try NumpyArchiveWriter(arrayPath: path)
        try writer.add("array", array)
        try writer.finish()
    }

    /// Begins a `.npy` file of one array, whose name is not written.
    package init(arrayPath path: String) throws(CheckpointError) {
        isBare = true
        file = try AtomicFile(path: path)
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
