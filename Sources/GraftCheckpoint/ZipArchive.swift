import CSystemSupport

/// Reads a zip archive, with the 64-bit extensions, stored and deflated entries.
///
/// The directory at the end is what counts, as in Python and PyTorch; local headers must agree with it in place, and
/// no two entries may share bytes.
final class ZipArchive {
    /// A file of the archive.
    struct Entry {
        let name: String
        let crc: UInt32
        let isDeflated: Bool
        /// Bytes in the archive and after unpacking.
        let storedByteCount: Int
        let byteCount: Int
        /// Where the entry's bytes begin.
        let dataStart: Int
    }

    let source: ByteSource
    private(set) var entries: [Entry] = []
    private var numbers: [String: Int] = [:]
    private var inflateBudget: ByteBudget

    static func recognizes(_ start: [UInt8]) -> Bool {
        start.starts(with: [0x50, 0x4B, 0x03, 0x04]) || start.starts(with: [0x50, 0x4B, 0x05, 0x06])
    }

    subscript(name: String) -> Entry? { numbers[name].map { entries[$0] } }

    init(_ source: ByteSource, limits: ReadLimits) throws(CheckpointError) {
        self.source = source
        inflateBudget = ByteBudget(file: source.name, fileByteCount: source.count, limits: limits)
        let directory = try Self.findDirectory(source)
        guard directory.byteCount <= limits.directoryByteCount else {
            throw .overLimit(
                file: source.name, what: "zip directory", found: "\(directory.byteCount) bytes",
                limit: "\(limits.directoryByteCount) bytes")
        }
        try readDirectory(directory)
    }

    private struct Directory {
        var start: Int
        var byteCount: Int
        var entryCount: Int
    }

    private func refuse(_ what: String, at offset: Int, _ found: String, _ expected: String) -> CheckpointError {
        .malformed(file: source.name, what: what, offset: offset, found: found, expected: expected)
    }

    private static func findDirectory(_ source: ByteSource) throws(CheckpointError) -> Directory {
        // The end record is 22 bytes, followed by a comment of at most 65535.
        let tailStart = max(0, source.count - 22 - 65535)
        let tail = try source.bytes(at: tailStart, count: source.count - tailStart, what: "zip end record")
        var index = tail.count - 22
        while index >= 0 {
            if tail.littleEndian(at: index, byteCount: 4) == 0x0605_4B50,
                index + 22 + Int(tail.littleEndian(at: index + 20, byteCount: 2)) == tail.count
            {
                break
            }
            index -= 1
        }
        guard index >= 0 else {
            throw .truncated(
                file: source.name, what: "zip archive (no end record)", offset: source.count, needed: "more",
                available: "0")
        }
        let end = tailStart + index
        var disk = tail.littleEndian(at: index + 4, byteCount: 2)
        var count = tail.littleEndian(at: index + 10, byteCount: 2)
        var size = tail.littleEndian(at: index + 12, byteCount: 4)
        var start = tail.littleEndian(at: index + 16, byteCount: 4)
        // The 64-bit locator stands right before the end record.
        if end >= 20 {
            let locator = try source.bytes(at: end - 20, count: 20, what: "zip64 locator")
            if locator.littleEndian(at: 0, byteCount: 4) == 0x0706_4B50 {
                let place = locator.littleEndian(at: 8, byteCount: 8)
                guard place <= UInt64(end) else {
                    throw .malformed(
                        file: source.name, what: "zip64 locator", offset: end - 20, found: "\(place)",
                        expected: "a place before it")
                }
                let record = try source.bytes(at: Int(place), count: 56, what: "zip64 end record")
                guard record.littleEndian(at: 0, byteCount: 4) == 0x0606_4B50 else {
                    throw .malformed(
                        file: source.name, what: "zip64 end record", offset: Int(place), found: "another signature",
                        expected: "PK 6 6")
                }
                disk = record.littleEndian(at: 16, byteCount: 4)
                count = record.littleEndian(at: 32, byteCount: 8)
                size = record.littleEndian(at: 40, byteCount: 8)
                start = record.littleEndian(at: 48, byteCount: 8)
            }
        }
        guard disk == 0 else {
            throw .unsupported(
                file: source.name, what: "zip archive", found: "one in several parts", next: "join the parts")
        }
        guard start <= UInt64(end), size <= UInt64(end) - start, count <= size / 46 else {
            throw .malformed(
                file: source.name, what: "zip directory", offset: end,
                found: "\(count) entries in \(size) bytes from \(start)", expected: "a directory before the end record")
        }
        return Directory(start: Int(start), byteCount: Int(size), entryCount: Int(count))
    }

    private func readDirectory(_ directory: Directory) throws(CheckpointError) {
        var cursor = ByteCursor(source, from: directory.start, to: directory.start + directory.byteCount)
        var ranges: [(start: Int, end: Int, name: String)] = []
        for _ in 0..<directory.entryCount {
            let position = cursor.position
            let fixed = try cursor.bytes(46, what: "zip directory entry")
            guard fixed.littleEndian(at: 0, byteCount: 4) == 0x0201_4B50 else {
                throw refuse("zip directory entry", at: position, "another signature", "PK 1 2")
            }
            let flags = fixed.littleEndian(at: 8, byteCount: 2)
            let method = fixed.littleEndian(at: 10, byteCount: 2)
            let crc = UInt32(fixed.littleEndian(at: 16, byteCount: 4))
            var stored = fixed.littleEndian(at: 20, byteCount: 4)
            var unpacked = fixed.littleEndian(at: 24, byteCount: 4)
            var header = fixed.littleEndian(at: 42, byteCount: 4)
            let nameBytes = try cursor.bytes(
                Int(fixed.littleEndian(at: 28, byteCount: 2)), what: "zip directory entry")
            let extra = try cursor.bytes(Int(fixed.littleEndian(at: 30, byteCount: 2)), what: "zip directory entry")
            try cursor.skip(Int(fixed.littleEndian(at: 32, byteCount: 2)), what: "zip directory entry")
            let name = String(decoding: nameBytes, as: UTF8.self)
            guard flags & 1 == 0 else {
                throw .unsupported(
                    file: source.name, what: "zip entry \(name)", found: "encryption", next: "unpack it first")
            }
            guard method == 0 || method == 8 else {
                throw .unsupported(
                    file: source.name, what: "zip entry \(name)", found: "compression method \(method)",
                    next: "store or deflate it")
            }
            readZip64(extra, &unpacked, &stored, &header)
            let limit = UInt64(directory.start)
            guard header <= limit, stored <= limit, unpacked <= UInt64(Int.max), method == 8 || stored == unpacked
            else {
                throw refuse(
                    "zip entry \(name)", at: position, "\(stored) bytes at \(header), \(unpacked) unpacked",
                    "bytes before the directory")
            }
            if name.hasSuffix("/"), unpacked == 0 { continue }

            let local = try source.bytes(at: Int(header), count: 30, what: "zip header of \(name)")
            guard local.littleEndian(at: 0, byteCount: 4) == 0x0403_4B50 else {
                throw refuse("zip header of \(name)", at: Int(header), "another signature", "PK 3 4")
            }
            let dataStart =
                Int(header) + 30 + Int(local.littleEndian(at: 26, byteCount: 2))
                + Int(local.littleEndian(at: 28, byteCount: 2))
            guard dataStart <= directory.start, Int(stored) <= directory.start - dataStart else {
                throw refuse(
                    "zip entry \(name)", at: dataStart, "\(stored) bytes", "an end before the directory")
            }
            let localName = try source.bytes(
                at: Int(header) + 30, count: min(nameBytes.count, dataStart - Int(header) - 30),
                what: "zip header of \(name)")
            guard localName == nameBytes, local.littleEndian(at: 26, byteCount: 2) == UInt64(nameBytes.count) else {
                throw refuse("zip header of \(name)", at: Int(header), "another name", "the directory's")
            }
            guard numbers.updateValue(entries.count, forKey: name) == nil else {
                throw refuse("zip directory", at: position, "\(name) twice", "each name once")
            }
            entries.append(
                Entry(
                    name: name, crc: crc, isDeflated: method == 8, storedByteCount: Int(stored),
                    byteCount: Int(unpacked), dataStart: dataStart))
            ranges.append((Int(header), dataStart + Int(stored), name))
        }
        ranges.sort { ($0.start, $0.end) < ($1.start, $1.end) }
        for (earlier, later) in zip(ranges, ranges.dropFirst()) where later.start < earlier.end {
            throw refuse("zip entry \(later.name)", at: later.start, "bytes shared with \(earlier.name)", "its own")
        }
    }

    /// Takes 64-bit sizes from the extra field where the 32-bit ones are all ones.
    private func readZip64(_ extra: [UInt8], _ unpacked: inout UInt64, _ stored: inout UInt64, _ header: inout UInt64) {
        var index = 0
        while index + 4 <= extra.count {
            let kind = extra.littleEndian(at: index, byteCount: 2)
            let size = Int(extra.littleEndian(at: index + 2, byteCount: 2))
            index += 4
            guard size <= extra.count - index else { return }
            if kind == 1 {
                var field = index
                func next() -> UInt64? {
                    guard field + 8 <= index + size else { return nil }
                    defer { field += 8 }
                    return extra.littleEndian(at: field, byteCount: 8)
                }
                if unpacked == 0xFFFF_FFFF, let value = next() { unpacked = value }
                if stored == 0xFFFF_FFFF, let value = next() { stored = value }
                if header == 0xFFFF_FFFF, let value = next() { header = value }
            }
            index += size
        }
    }

    /// Where an entry's bytes can be read: in the archive itself, or in memory after inflating. Checks the CRC.
    func open(_ entry: Entry) throws(CheckpointError) -> StorageLocation {
        let what = "zip entry \(entry.name)"
        let location: StorageLocation
        if entry.isDeflated {
            location = StorageLocation(source: try inflate(entry), start: 0, byteCount: entry.byteCount)
        } else {
            location = StorageLocation(source: source, start: entry.dataStart, byteCount: entry.byteCount)
        }
        // PyTorch can be told to leave the CRC out; it then writes 0.
        if entry.crc != 0 {
            let crc = try location.source.crc32(at: location.start, count: location.byteCount, what: what)
            guard crc == entry.crc else {
                throw refuse(
                    what, at: entry.dataStart, "CRC-32 \(String(crc, radix: 16))", String(entry.crc, radix: 16))
            }
        }
        return location
    }

    /// All bytes of a small entry.
    func contents(_ entry: Entry, limit: Int) throws(CheckpointError) -> [UInt8] {
        guard entry.byteCount <= limit else {
            throw .overLimit(
                file: source.name, what: "zip entry \(entry.name)", found: "\(entry.byteCount) bytes",
                limit: "\(limit) bytes")
        }
        let location = try open(entry)
        return try location.source.bytes(at: location.start, count: location.byteCount, what: entry.name)
    }

    private func inflate(_ entry: Entry) throws(CheckpointError) -> ByteSource {
        let what = "zip entry \(entry.name)"
        // Deflate cannot shrink by more than a factor of 1032: a larger claim is a lie before anything is allocated.
        let most = entry.storedByteCount.multipliedReportingOverflow(by: 1032)
        guard most.overflow || entry.byteCount <= most.partialValue + 1032 else {
            throw refuse(what, at: entry.dataStart, "\(entry.byteCount) bytes from \(entry.storedByteCount)", "less")
        }
        try inflateBudget.spend(entry.byteCount, on: what)
        let packed = try source.bytes(at: entry.dataStart, count: entry.storedByteCount, what: what)
        var written = 0
        var used = 0
        var status = GRAFT_INFLATE_CORRUPT
        let bytes = [UInt8](unsafeUninitializedCapacity: entry.byteCount) { buffer, initialized in
            packed.withUnsafeBytes { packed in
                status = graft_inflate_raw(
                    packed.baseAddress, packed.count, buffer.baseAddress, entry.byteCount, &written, &used)
            }
            initialized = written
        }
        guard status == GRAFT_INFLATE_OK, written == entry.byteCount, used == packed.count else {
            let found =
                switch status {
                case GRAFT_INFLATE_OK: "\(written) bytes from \(used) of \(packed.count)"
                case GRAFT_INFLATE_TRUNCATED: "a stream that goes on after its end"
                case GRAFT_INFLATE_TOO_LARGE: "more bytes"
                case GRAFT_INFLATE_OUT_OF_MEMORY: "no memory"
                default: "damaged deflate data"
                }
            throw refuse(what, at: entry.dataStart, found, "\(entry.byteCount) bytes")
        }
        return ByteSource(name: "\(source.name):\(entry.name)", memory: bytes)
    }
}
