import Foundation

/// One change of an input's pixels with fixed parameters, byte for byte as Pillow makes it where torchvision asks it to.
enum PixelOperation: Hashable, Sendable {
    /// `ImageEnhance.Brightness`: black at 0, the picture at 1.
    case brightness(Double)
    /// `ImageEnhance.Contrast`: the mean grey at 0.
    case contrast(Double)
    /// `ImageEnhance.Color`: grey at 0.
    case saturation(Double)
    /// `ImageEnhance.Sharpness`: smoothed at 0.
    case sharpness(Double)
    /// `torchvision.transforms.functional.adjust_hue`: a share of a turn, −0.5 to 0.5.
    case hue(Double)
    /// `ImageOps.posterize`: the upper bits are kept.
    case posterize(bits: Int)
    /// `ImageOps.solarize`: bytes from the threshold on are inverted.
    case solarize(threshold: Double)
    /// `ImageOps.autocontrast` without a cutoff.
    case autoContrast
    /// `ImageOps.equalize`.
    case equalize
    /// `functional.affine` with shear about the corner, in tangents, nearest pixel, black outside; one of the two is 0.
    case shear(x: Double, y: Double)
    /// `functional.affine` with a shift by whole pixels.
    case translate(x: Int, y: Int)
    /// `functional.rotate` about the centre, counterclockwise, nearest pixel, black outside.
    case rotate(degrees: Double)
    /// `functional.erase` with the mean colour.
    case erase(Transformation.Region)
}

/// The pixels of one input: `size × size × 3` bytes.
struct PixelSquare {
    let base: UnsafeMutablePointer<UInt8>
    let size: Int

    private var byteCount: Int { size * size * 3 }

    /// Changes the pixels.
    ///
    /// - Parameters:
    ///   - operation: what to do.
    ///   - mean: the mean colour, 0 to 1, that erasing paints with.
    func apply(_ operation: PixelOperation, mean: [Float]) {
        switch operation {
        case .brightness(let factor): blend(factor) { _ in (0, 0, 0) }
        case .contrast(let factor):
            var sum = 0
            for pixel in 0..<size * size { sum += Int(grey(pixel)) }
            let level = UInt8(Double(sum) / Double(size * size) + 0.5)
            blend(factor) { _ in (level, level, level) }
        case .saturation(let factor):
            blend(factor) { pixel in
                let level = grey(pixel)
                return (level, level, level)
            }
        case .sharpness(let factor):
            let smooth = smoothed()
            blend(factor) { (smooth[$0 * 3], smooth[$0 * 3 + 1], smooth[$0 * 3 + 2]) }
        case .hue(let share): turnHue(share)
        case .posterize(let bits):
            let mask = bits >= 8 ? 255 : bits <= 0 ? 0 : UInt8(truncatingIfNeeded: 255 << (8 - bits))
            for index in 0..<byteCount { base[index] &= mask }
        case .solarize(let threshold):
            for index in 0..<byteCount where Double(base[index]) >= threshold { base[index] = 255 - base[index] }
        case .autoContrast:
            for channel in 0..<3 { map(channel, Self.stretch(histogram(channel))) }
        case .equalize:
            for channel in 0..<3 { map(channel, Self.equalization(histogram(channel))) }
        case .shear(let x, let y):
            move(inverse(shearX: atan(x), shearY: atan(y)))
        case .translate(let x, let y): translate(x, y)
        case .rotate(let degrees): rotate(degrees)
        case .erase(let region): erase(region, mean)
        }
    }

    // MARK: Colours

    /// Pillow's `convert("L")`: ITU-R 601-2 in 16-bit fixed point.
    private func grey(_ pixel: Int) -> UInt8 {
        let p = base + pixel * 3
        let red = Int(p[0]) * 19595
        let green = Int(p[1]) * 38470
        let blue = Int(p[2]) * 7471
        return UInt8((red + green + blue + 0x8000) >> 16)
    }

    /// `Image.blend(other, self, factor)`: in float32, cut off towards zero.
    private func blend(_ factor: Double, _ other: (Int) -> (UInt8, UInt8, UInt8)) {
        let alpha = Float(factor)
        guard alpha != 1 else { return }
        func mix(_ from: UInt8, _ to: UInt8) -> UInt8 {
            let value = Float(from) + alpha * Float(Int(to) - Int(from))
            return value <= 0 ? 0 : value >= 255 ? 255 : UInt8(value)
        }
        for pixel in 0..<size * size {
            let p = base + pixel * 3
            let (r, g, b) = other(pixel)
            (p[0], p[1], p[2]) = (mix(r, p[0]), mix(g, p[1]), mix(b, p[2]))
        }
    }

    /// `ImageFilter.SMOOTH`: the pixel counts five times its eight neighbours, a thirteenth of all; the rim stays.
    private func smoothed() -> [UInt8] {
        var result = [UInt8](UnsafeBufferPointer(start: base, count: byteCount))
        guard size > 2 else { return result }
        let row = size * 3
        for y in 1..<size - 1 {
            for index in y * row + 3..<(y + 1) * row - 3 {
                var sum = 4 * Int(base[index])
                for step in [-row, 0, row] {
                    sum += Int(base[index + step - 3]) + Int(base[index + step]) + Int(base[index + step + 3])
                }
                result[index] = UInt8((2 * sum + 13) / 26)
            }
        }
        return result
    }

    /// Through Pillow's HSV, whose channels are bytes.
    private func turnHue(_ share: Double) {
        let turn = UInt8(truncatingIfNeeded: Int(share * 255))
        func byte(_ value: Double) -> UInt8 { UInt8(min(max(value, 0), 255)) }
        for pixel in 0..<size * size {
            let p = base + pixel * 3
            let (r, g, b) = (p[0], p[1], p[2])
            let largest = max(r, g, b)
            let smallest = min(r, g, b)
            var hue: UInt8 = 0
            var saturation: UInt8 = 0
            if largest != smallest {
                let range = Float(largest - smallest)
                let (rc, gc, bc) = (Float(largest - r) / range, Float(largest - g) / range, Float(largest - b) / range)
                let sixth: Float =
                    r == largest
                    ? bc - gc : g == largest ? Float(2 + Double(rc) - Double(bc)) : Float(4 + Double(gc) - Double(rc))
                let angle = Float(fmod(Double(sixth) / 6 + 1, 1))
                hue = byte((Double(angle) * 255).rounded(.towardZero))
                saturation = byte((Double(range / Float(largest)) * 255).rounded(.towardZero))
            }
            hue &+= turn
            guard saturation != 0 else {
                (p[0], p[1], p[2]) = (largest, largest, largest)
                continue
            }
            let position = Double(Float(hue)) * 6 / 255
            let sector = Int(position)
            let rest = Float(position - Double(Float(sector)))
            let share = Float(Double(Float(saturation)) / 255)
            let value = Double(largest)
            let low = byte((value * (1 - Double(share))).rounded(.toNearestOrAwayFromZero))
            let falling = byte((value * (1 - Double(share * rest))).rounded(.toNearestOrAwayFromZero))
            let rising = byte((value * (1 - Double(share) * (1 - Double(rest)))).rounded(.toNearestOrAwayFromZero))
            switch sector % 6 {
            case 0: (p[0], p[1], p[2]) = (largest, rising, low)
            case 1: (p[0], p[1], p[2]) = (falling, largest, low)
            case 2: (p[0], p[1], p[2]) = (low, largest, rising)
            case 3: (p[0], p[1], p[2]) = (low, falling, largest)
            case 4: (p[0], p[1], p[2]) = (rising, low, largest)
            default: (p[0], p[1], p[2]) = (largest, low, falling)
            }
        }
    }

    // MARK: Histograms

    private func histogram(_ channel: Int) -> [Int] {
        var counts = [Int](repeating: 0, count: 256)
        for pixel in 0..<size * size { counts[Int(base[pixel * 3 + channel])] += 1 }
        return counts
    }

    private func map(_ channel: Int, _ table: [UInt8]?) {
        guard let table else { return }
        for pixel in 0..<size * size { base[pixel * 3 + channel] = table[Int(base[pixel * 3 + channel])] }
    }

    /// From the least byte that occurs to the largest becomes 0 to 255; nil where there is one byte only.
    private static func stretch(_ counts: [Int]) -> [UInt8]? {
        guard let low = counts.firstIndex(where: { $0 > 0 }), let high = counts.lastIndex(where: { $0 > 0 }), low < high
        else { return nil }
        let scale = 255.0 / Double(high - low)
        let offset = -Double(low) * scale
        return (0..<256).map { UInt8(min(max(Double($0) * scale + offset, 0), 255)) }
    }

    /// Bytes by how many pixels lie below; nil where that changes nothing.
    private static func equalization(_ counts: [Int]) -> [UInt8]? {
        let present = counts.filter { $0 > 0 }
        guard present.count > 1, let last = present.last else { return nil }
        let step = (present.reduce(0, +) - last) / 255
        guard step > 0 else { return nil }
        var below = step / 2
        return counts.map { count in
            defer { below += count }
            return UInt8(min(below / step, 255))
        }
    }

    // MARK: Places

    /// Where a pixel comes from: `x = a·x' + b·y' + c`, `y = d·x' + e·y' + f`.
    private struct Affine {
        var a, b, c, d, e, f: Double
    }

    /// torchvision's `_get_inverse_affine_matrix` for shear alone, about the corner.
    private func inverse(shearX: Double, shearY: Double) -> Affine {
        // torchvision takes degrees, and turns them back.
        let x = shearX * 180 / .pi * .pi / 180
        let y = shearY * 180 / .pi * .pi / 180
        let a = cos(-y) / cos(y)
        let b = -cos(-y) * tan(x) / cos(y)
        let c = sin(-y) / cos(y)
        let d = -sin(-y) * tan(x) / cos(y) + 1
        return Affine(a: d, b: -b, c: 0, d: -c, e: a, f: 0)
    }

    /// Pillow's rotation: cosine and sine rounded to 15 digits.
    private func rotate(_ degrees: Double) {
        var angle = fmod(degrees, 360)
        if angle < 0 { angle += 360 }
        guard angle != 0 else { return }
        let radians = -(angle * .pi / 180)
        func rounded(_ value: Double) -> Double { (value * 1e15).rounded(.toNearestOrEven) / 1e15 }
        let (cosine, sine) = (rounded(cos(radians)), rounded(sin(radians)))
        let negative = rounded(-sin(radians))
        let centre = Double(size) / 2
        var matrix = Affine(a: cosine, b: sine, c: 0, d: negative, e: cosine, f: 0)
        matrix.c = matrix.a * -centre + matrix.b * -centre + centre
        matrix.f = matrix.d * -centre + matrix.e * -centre + centre
        move(matrix)
    }

    /// Pillow's nearest pixel in 16.16 fixed point; black where nothing comes from.
    private func move(_ matrix: Affine) {
        if matrix.b == 0, matrix.d == 0 { return }
        func fixed(_ value: Double) -> Int { Int((value * 65536 + 0.5).rounded(.down)) }
        let (a, b) = (fixed(matrix.a), fixed(matrix.b))
        let (d, e) = (fixed(matrix.d), fixed(matrix.e))
        var rowX = fixed(matrix.c + matrix.a * 0.5 + matrix.b * 0.5)
        var rowY = fixed(matrix.f + matrix.d * 0.5 + matrix.e * 0.5)
        let source = [UInt8](UnsafeBufferPointer(start: base, count: byteCount))
        for y in 0..<size {
            var (fromX, fromY) = (rowX, rowY)
            for x in 0..<size {
                let (column, row) = (fromX >> 16, fromY >> 16)
                let target = base + (y * size + x) * 3
                if column >= 0, column < size, row >= 0, row < size {
                    let index = (row * size + column) * 3
                    (target[0], target[1], target[2]) = (source[index], source[index + 1], source[index + 2])
                } else {
                    (target[0], target[1], target[2]) = (0, 0, 0)
                }
                fromX += a
                fromY += d
            }
            rowX += b
            rowY += e
        }
    }

    private func translate(_ dx: Int, _ dy: Int) {
        guard dx != 0 || dy != 0 else { return }
        let source = [UInt8](UnsafeBufferPointer(start: base, count: byteCount))
        for y in 0..<size {
            for x in 0..<size {
                let (column, row) = (x - dx, y - dy)
                let isInside = column >= 0 && column < size && row >= 0 && row < size
                for channel in 0..<3 {
                    base[(y * size + x) * 3 + channel] = isInside ? source[(row * size + column) * 3 + channel] : 0
                }
            }
        }
    }

    private func erase(_ region: Transformation.Region, _ mean: [Float]) {
        let colour = (0..<3).map { UInt8(min(max((mean[$0] * 255).rounded(), 0), 255)) }
        for y in region.y..<region.y + region.height {
            for x in region.x..<region.x + region.width {
                for channel in 0..<3 { base[(y * size + x) * 3 + channel] = colour[channel] }
            }
        }
    }
}
