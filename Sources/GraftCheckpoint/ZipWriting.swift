/// An entry of a zip archive that is being written: stored, dated 1980-01-01, names in UTF-8.
struct ZipWriterEntry {
    var name: [UInt8]
    var headerStart: Int
    var byteCount: Int
    var crc: UInt32

    private static let largest = 0xFFFF_FFFF

    private var isLarge: Bool { byteCount >= Self.largest }
    private var isFar: Bool { headerStart >= Self.largest }

    /// Where the CRC-32 stands in the local header.
    static let crcOffset = 14

    /// The header before the entry's bytes; with `alignment`, a padding field makes these begin at a multiple of it.
    func localHeader(alignment: Int = 1) -> [UInt8] {
        let size = isLarge ? Self.largest : byteCount
        var extra: [UInt8] = []
        if isLarge {
            for (value, width) in [(1, 2), (16, 2), (byteCount, 8), (byteCount, 8)] {
                extra.append(contentsOf: littleEndianBytes(value, width))
            }
        }
        let unpadded = headerStart + 30 + name.count + extra.count
        if unpadded % alignment != 0 {
            // A field has 4 bytes before its content; PyTorch calls its own "FB" and fills it with Z.
            let count = (alignment - (unpadded + 4) % alignment) % alignment
            extra.append(contentsOf: [0x46, 0x42] + littleEndianBytes(count, 2))
            extra.append(contentsOf: repeatElement(0x5A, count: count))
        }
        var header: [UInt8] = [0x50, 0x4B, 3, 4]
        // Version, flags (names in UTF-8), method, time, date, CRC, sizes, lengths.
        for (value, width) in [
            (isLarge ? 45 : 20, 2), (0x800, 2), (0, 2), (0, 2), (0x21, 2), (Int(crc), 4), (size, 4), (size, 4),
            (name.count, 2), (extra.count, 2),
        ] { header.append(contentsOf: littleEndianBytes(value, width)) }
        return header + name + extra
    }

    /// The entry in the archive's directory.
    var directoryEntry: [UInt8] {
        let size = isLarge ? Self.largest : byteCount
        var extra: [UInt8] = []
        if isLarge || isFar {
            extra.append(contentsOf: littleEndianBytes(1, 2))
            extra.append(contentsOf: littleEndianBytes((isLarge ? 16 : 0) + (isFar ? 8 : 0), 2))
            if isLarge { extra.append(contentsOf: littleEndianBytes(byteCount, 8) + littleEndianBytes(byteCount, 8)) }
            if isFar { extra.append(contentsOf: littleEndianBytes(headerStart, 8)) }
        }
        var header: [UInt8] = [0x50, 0x4B, 1, 2]
        for (value, width) in [
            (0x314, 2), (isLarge || isFar ? 45 : 20, 2), (0x800, 2), (0, 2), (0, 2), (0x21, 2), (Int(crc), 4),
            (size, 4), (size, 4), (name.count, 2), (extra.count, 2), (0, 2), (0, 2), (0, 2),
            (0o100644 << 16, 4), (isFar ? Self.largest : headerStart, 4),
        ] { header.append(contentsOf: littleEndianBytes(value, width)) }
        return header + name + extra
    }

    /// What stands behind the directory, with the 64-bit records where they are needed.
    static func endRecords(entryCount: Int, directoryStart: Int, directoryEnd: Int) -> [UInt8] {
        let size = directoryEnd - directoryStart
        var records: [UInt8] = []
        if entryCount >= 0xFFFF || size >= largest || directoryStart >= largest {
            records.append(contentsOf: [0x50, 0x4B, 6, 6])
            for (value, width) in [
                (44, 8), (45, 2), (45, 2), (0, 4), (0, 4), (entryCount, 8), (entryCount, 8), (size, 8),
                (directoryStart, 8),
            ] { records.append(contentsOf: littleEndianBytes(value, width)) }
            records.append(contentsOf: [0x50, 0x4B, 6, 7])
            for (value, width) in [(0, 4), (directoryEnd, 8), (1, 4)] {
                records.append(contentsOf: littleEndianBytes(value, width))
            }
        }
        records.append(contentsOf: [0x50, 0x4B, 5, 6])
        let count = min(entryCount, 0xFFFF)
        for (value, width) in [
            (0, 2), (0, 2), (count, 2), (count, 2), (min(size, largest), 4), (min(directoryStart, largest), 4), (0, 2),
        ] { records.append(contentsOf: littleEndianBytes(value, width)) }
        return records
    }
}

/// The lowest bytes of a number, lowest first.
func littleEndianBytes(_ value: Int, _ count: Int) -> [UInt8] {
    (0..<count).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) }
}
