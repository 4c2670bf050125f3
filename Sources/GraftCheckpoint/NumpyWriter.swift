import CSystemSupport
import GraftTensor

/// Writes a `.npz` archive array by array, atomically; the same arrays give the same bytes.
///
/// Entries are stored without compression and dated 1980-01-01. Arrays may be written in pieces, so that features
/// need not fit in memory. The archive appears under its name with `finish`. A lone `.npy` array is written likewise.
package final class NumpyArchiveWriter {
    private struct Entry {
        var name: [UInt8]
        var headerStart: Int
        var byteCount: Int
        var crc: UInt32
    }

    private let file: AtomicFile
    /// Whether this writes a lone `.npy` array.
    private let isBare: Bool
    private var entries: [Entry] = []
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
        npy.append(contentsOf: Self.bytes(header.utf8.count, 2))
        npy.append(contentsOf: header.utf8)

        let entry = Entry(
            name: Array((name + ".npy").utf8), headerStart: file.byteCount,
            byteCount: npy.count + shape.elementCount * elementByteCount, crc: 0)
        if !isBare { try patchLast() }
        entries.append(entry)
        if !isBare { try file.write(Self.localHeader(entry)) }
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
        try file.overwrite(Self.bytes(Int(entry.crc), 4), at: entry.headerStart + 14)
    }

    /// Finishes the archive, or the lone array, and puts it in its place.
    package func finish() throws(CheckpointError) {
        try requireWhole()
        guard !isBare else { return try file.commit() }
        try patchLast()
        let directoryStart = file.byteCount
        for entry in entries { try file.write(Self.directoryEntry(entry)) }
        let directoryEnd = file.byteCount
        let size = directoryEnd - directoryStart
        let limit = 0xFFFF_FFFF
        if entries.count >= 0xFFFF || size >= limit || directoryStart >= limit {
            var record: [UInt8] = [0x50, 0x4B, 6, 6]
            for (value, width) in [
                (44, 8), (45, 2), (45, 2), (0, 4), (0, 4), (entries.count, 8), (entries.count, 8), (size, 8),
                (directoryStart, 8),
            ] { record.append(contentsOf: Self.bytes(value, width)) }
            record.append(contentsOf: [0x50, 0x4B, 6, 7])
            for (value, width) in [(0, 4), (directoryEnd, 8), (1, 4)] {
                record.append(contentsOf: Self.bytes(value, width))
            }
            try file.write(record)
        }
        var end: [UInt8] = [0x50, 0x4B, 5, 6]
        let count = min(entries.count, 0xFFFF)
        for (value, width) in [
            (0, 2), (0, 2), (count, 2), (count, 2), (min(size, limit), 4), (min(directoryStart, limit), 4), (0, 2),
        ] { end.append(contentsOf: Self.bytes(value, width)) }
        try file.write(end)
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

    private static func bytes(_ value: Int, _ count: Int) -> [UInt8] {
        (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
    }

    private static let largeEntry = 0xFFFF_FFFF

    private static func localHeader(_ entry: Entry) -> [UInt8] {
        let isLarge = entry.byteCount >= largeEntry
        let size = isLarge ? largeEntry : entry.byteCount
        var header: [UInt8] = [0x50, 0x4B, 3, 4]
        // Version, flags (names in UTF-8), method, time, date 1980-01-01, CRC (patched later), sizes, lengths.
        for (value, width) in [
            (isLarge ? 45 : 20, 2), (0x800, 2), (0, 2), (0, 2), (0x21, 2), (0, 4), (size, 4), (size, 4),
            (entry.name.count, 2), (isLarge ? 20 : 0, 2),
        ] { header.append(contentsOf: bytes(value, width)) }
        header.append(contentsOf: entry.name)
        if isLarge {
            for (value, width) in [(1, 2), (16, 2), (entry.byteCount, 8), (entry.byteCount, 8)] {
                header.append(contentsOf: bytes(value, width))
            }
        }
        return header
    }

    private static func directoryEntry(_ entry: Entry) -> [UInt8] {
        let isLarge = entry.byteCount >= largeEntry
        let isFar = entry.headerStart >= largeEntry
        let size = isLarge ? largeEntry : entry.byteCount
        var extra: [UInt8] = []
        if isLarge || isFar {
            extra.append(contentsOf: bytes(1, 2))
            extra.append(contentsOf: bytes((isLarge ? 16 : 0) + (isFar ? 8 : 0), 2))
            if isLarge { extra.append(contentsOf: bytes(entry.byteCount, 8) + bytes(entry.byteCount, 8)) }
            if isFar { extra.append(contentsOf: bytes(entry.headerStart, 8)) }
        }
        var header: [UInt8] = [0x50, 0x4B, 1, 2]
        for (value, width) in [
            (0x314, 2), (isLarge || isFar ? 45 : 20, 2), (0x800, 2), (0, 2), (0, 2), (0x21, 2), (Int(entry.crc), 4),
            (size, 4), (size, 4), (entry.name.count, 2), (extra.count, 2), (0, 2), (0, 2), (0, 2),
            (0o100644 << 16, 4), (isFar ? largeEntry : entry.headerStart, 4),
        ] { header.append(contentsOf: bytes(value, width)) }
        return header + entry.name + extra
    }
}
