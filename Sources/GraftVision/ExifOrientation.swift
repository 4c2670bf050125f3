/// What to do with the orientation that a camera recorded.
public enum ExifPolicy: String, Sendable, Hashable, Codable, CaseIterable {
    /// Turn the picture upright (Pillow's `ImageOps.exif_transpose`).
    case apply
    /// Leave the picture as stored, as torchvision's `ImageFolder` does.
    case ignore
}

/// How the stored picture relates to the upright one: EXIF tag 0x0112.
enum ExifOrientation: Int {
    case upright = 1
    case mirrored = 2
    case upsideDown = 3
    case mirroredUpsideDown = 4
    case transposed = 5
    case needsClockwiseTurn = 6
    case transverse = 7
    case needsCounterclockwiseTurn = 8

    /// Whether rows become columns.
    var swapsSides: Bool { rawValue >= 5 }
}

/// Finds the orientation in a JPEG's APP1 segment or a PNG's eXIf chunk; anything out of order means upright.
///
/// Every offset of the file is checked against the buffer: nothing is read outside, and there is no loop that a file
/// can make longer than itself. Without an EXIF entry the XMP packet's `tiff:Orientation` counts, as in Pillow.
struct ExifReader {
    private let bytes: UnsafeBufferPointer<UInt8>

    static func orientation(of bytes: UnsafeBufferPointer<UInt8>, format: ImageFormat) -> ExifOrientation {
        let reader = ExifReader(bytes: bytes)
        let value: Int? =
            switch format {
            case .jpeg: reader.orientationInJPEG()
            case .png: reader.orientationInPNG()
            case .other: nil
            }
        return value.flatMap(ExifOrientation.init(rawValue:)) ?? .upright
    }

    private func matches(_ text: StaticString, at offset: Int, before end: Int) -> Bool {
        let count = text.utf8CodeUnitCount
        guard offset >= 0, offset <= end, end - offset >= count else { return false }
        return (0..<count).allSatisfy { bytes[offset + $0] == text.utf8Start[$0] }
    }

    private func orientationInJPEG() -> Int? {
        var position = 2
        var fromPacket: Int?
        while position + 4 <= bytes.count {
            guard bytes[position] == 0xFF else { return fromPacket }
            let marker = bytes[position + 1]
            if marker == 0xFF {  // fill byte
                position += 1
                continue
            }
            if marker == 0xDA || marker == 0xD9 { return fromPacket }
            if marker == 0x01 || (0xD0...0xD8).contains(marker) {  // markers without a length
                position += 2
                continue
            }
            let length = Int(bytes[position + 2]) << 8 | Int(bytes[position + 3])
            guard length >= 2, position + 2 + length <= bytes.count else { return fromPacket }
            let start = position + 4
            let end = position + 2 + length
            if marker == 0xE1 {
                if matches("Exif\0\0", at: start, before: end) {
                    if let value = orientationInTIFF(start: start + 6, end: end) { return value }
                } else if matches("http://ns.adobe.com/xap/1.0/\0", at: start, before: end) {
                    fromPacket = fromPacket ?? orientationInXMP(start: start, end: end)
                }
            }
            position = end
        }
        return fromPacket
    }

    private func orientationInPNG() -> Int? {
        var position = 8
        while position + 12 <= bytes.count {
            let length = (0..<4).reduce(0) { $0 << 8 | Int(bytes[position + $1]) }
            let start = position + 8
            guard length <= bytes.count - start else { return nil }
            if matches("eXIf", at: position + 4, before: bytes.count) {
                return orientationInTIFF(start: start, end: start + length)
            }
            if matches("IEND", at: position + 4, before: bytes.count) { return nil }
            position = start + length + 4
        }
        return nil
    }

    /// The first directory's entry 0x0112 of a TIFF structure; offsets count from `start`.
    private func orientationInTIFF(start: Int, end: Int) -> Int? {
        guard end - start >= 8 else { return nil }
        let isLittleEndian: Bool
        switch (bytes[start], bytes[start + 1]) {
        case (0x49, 0x49): isLittleEndian = true
        case (0x4D, 0x4D): isLittleEndian = false
        default: return nil
        }
        func number(_ offset: Int, _ byteCount: Int) -> Int? {
            guard offset >= 0, offset <= end - start - byteCount else { return nil }
            return (0..<byteCount).reduce(0) { value, index in
                let byte = Int(bytes[start + offset + index])
                return isLittleEndian ? value | byte << (8 * index) : value << 8 | byte
            }
        }
        guard number(2, 2) == 42, let directory = number(4, 4), let count = number(directory, 2) else { return nil }
        for index in 0..<count {
            let entry = directory + 2 + 12 * index
            guard let tag = number(entry, 2), let type = number(entry + 2, 2) else { return nil }
            guard tag == 0x0112 else { continue }
            switch type {
            case 1: return number(entry + 8, 1)
            case 3: return number(entry + 8, 2)
            case 4: return number(entry + 8, 4)
            default: return nil
            }
        }
        return nil
    }

    private func orientationInXMP(start: Int, end: Int) -> Int? {
        let name: StaticString = "tiff:Orientation"
        var position = start
        while position < end {
            if bytes[position] == 0x74, matches(name, at: position, before: end) {
                var digit = position + name.utf8CodeUnitCount
                if matches("=\"", at: digit, before: end) {
                    digit += 2
                } else if matches(">", at: digit, before: end) {
                    digit += 1
                } else {
                    position += 1
                    continue
                }
                guard digit < end, (0x30...0x39).contains(bytes[digit]) else { return nil }
                return Int(bytes[digit]) - 0x30
            }
            position += 1
        }
        return nil
    }
}

extension PixelView {
    /// Writes the upright picture as packed rows; the target has room for as many pixels as there are here.
    func writeUpright(_ orientation: ExifOrientation, to target: UnsafeMutablePointer<UInt8>) -> PixelView {
        let right = 3
        let down = stride
        let lastColumn = (width - 1) * 3
        let lastRow = (height - 1) * stride
        // Where the upright picture's first pixel is stored, and the way to its right and lower neighbours.
        let (origin, stepX, stepY): (Int, Int, Int) =
            switch orientation {
            case .upright: (0, right, down)
            case .mirrored: (lastColumn, -right, down)
            case .upsideDown: (lastRow + lastColumn, -right, -down)
            case .mirroredUpsideDown: (lastRow, right, -down)
            case .transposed: (0, down, right)
            case .needsClockwiseTurn: (lastRow, -down, right)
            case .transverse: (lastRow + lastColumn, -down, -right)
            case .needsCounterclockwiseTurn: (lastColumn, down, -right)
            }
        let newWidth = orientation.swapsSides ? height : width
        let newHeight = orientation.swapsSides ? width : height
        // Squares keep both sides of a transposition in the cache.
        let tile = 64
        for tileY in Swift.stride(from: 0, to: newHeight, by: tile) {
            for tileX in Swift.stride(from: 0, to: newWidth, by: tile) {
                let endX = min(tileX + tile, newWidth)
                for y in tileY..<min(tileY + tile, newHeight) {
                    var source = base + origin + y * stepY + tileX * stepX
                    var pixel = target + (y * newWidth + tileX) * 3
                    for _ in tileX..<endX {
                        pixel[0] = source[0]
                        pixel[1] = source[1]
                        pixel[2] = source[2]
                        source += stepX
                        pixel += 3
                    }
                }
            }
        }
        return PixelView(base: UnsafePointer(target), width: newWidth, height: newHeight, stride: newWidth * 3)
    }
}
