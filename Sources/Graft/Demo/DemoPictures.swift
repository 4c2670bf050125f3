import Foundation
import GraftTensor

/// Pictures that Graft draws itself, so that the demo needs nothing from outside: shapes and textures of random place,
/// size, angle and colour on a noisy background.
public enum DemoPictures {
    /// What can be drawn.
    public enum Kind: String, CaseIterable, Sendable {
        /// The ten classes that the embedded network was trained on.
        case disk, square, triangle, cross, ring, stripes, checkerboard, dots, frame, gradient
        /// The five classes that the demo grafts it to.
        case star, crescent, arrow, spiral, waves
    }

    /// Classes of the embedded network, in label order.
    public static let pretrainingKinds: [Kind] = [
        .checkerboard, .cross, .disk, .dots, .frame, .gradient, .ring, .square, .stripes, .triangle,
    ]
    /// Classes that the demo learns, in label order.
    public static let graftedKinds: [Kind] = [.arrow, .crescent, .spiral, .star, .waves]

    /// Side of a picture in pixels.
    public static let imageSize = 32

    /// Draws one picture: the same numbers give the same pixels on every machine.
    ///
    /// - Parameters:
    ///   - kind: what to draw.
    ///   - index: which of the pictures of this kind.
    ///   - seed: another seed gives other pictures.
    /// - Returns: uint8 RGB `[32, 32, 3]`.
    public static func draw(_ kind: Kind, index: Int, seed: UInt64) -> [UInt8] {
        let number = Kind.allCases.firstIndex(of: kind) ?? 0
        let random = CounterRandom(seed: seed, UInt64(number), UInt64(index), 0xD3A0)
        func uniform(_ counter: Int, _ low: Double, _ high: Double) -> Double {
            low + (high - low) * random.uniform(counter)
        }

        let background = (0..<3).map { uniform($0, 0.05, 0.95) }
        var foreground = (0..<3).map { uniform(3 + $0, 0.05, 0.95) }
        // Enough contrast to be seen: the strongest channel difference is at least 0.35.
        let differences = (0..<3).map { abs(foreground[$0] - background[$0]) }
        if (differences.max() ?? 0) < 0.35 {
            let channel = random.integer(below: 3, 6)
            foreground[channel] = background[channel] < 0.5 ? background[channel] + 0.45 : background[channel] - 0.45
        }
        let isTexture = [.stripes, .checkerboard, .dots, .gradient, .waves].contains(kind)
        let centreX = isTexture ? uniform(7, -1, 1) : uniform(7, -0.3, 0.3)
        let centreY = isTexture ? uniform(8, -1, 1) : uniform(8, -0.3, 0.3)
        let scale = isTexture ? uniform(9, 0.22, 0.42) : uniform(9, 0.4, 0.68)
        let angle = uniform(10, 0, 2 * Double.pi)
        let shade = uniform(11, -0.25, 0.25)
        let shadeAngle = uniform(12, 0, 2 * Double.pi)
        let noise = uniform(13, 0.03, 0.12)
        let cosine = cos(angle)
        let sine = sin(angle)

        var pixels = [UInt8](repeating: 0, count: imageSize * imageSize * 3)
        let samples = 3
        for y in 0..<imageSize {
            for x in 0..<imageSize {
                var coverage = 0.0
                for subY in 0..<samples {
                    for subX in 0..<samples {
                        let px = 2 * (Double(x) + (Double(subX) + 0.5) / Double(samples)) / Double(imageSize) - 1
                        let py = 2 * (Double(y) + (Double(subY) + 0.5) / Double(samples)) / Double(imageSize) - 1
                        let dx = (px - centreX) / scale
                        let dy = (py - centreY) / scale
                        coverage += amount(kind, cosine * dx + sine * dy, cosine * dy - sine * dx)
                    }
                }
                coverage /= Double(samples * samples)
                let px = 2 * Double(x) / Double(imageSize) - 1
                let py = 2 * Double(y) / Double(imageSize) - 1
                let light = shade * (px * cos(shadeAngle) + py * sin(shadeAngle))
                for channel in 0..<3 {
                    let position = (y * imageSize + x) * 3 + channel
                    let grain = noise * (2 * random.uniform(100 + position) - 1)
                    let value =
                        background[channel] + coverage * (foreground[channel] - background[channel]) + light + grain
                    pixels[position] = UInt8((min(max(value, 0), 1) * 255).rounded())
                }
            }
        }
        return pixels
    }

    /// How much of the foreground is at a point, in coordinates where the shape is about 1 in radius.
    private static func amount(_ kind: Kind, _ x: Double, _ y: Double) -> Double {
        let radius = (x * x + y * y).squareRoot()
        func inside(_ condition: Bool) -> Double { condition ? 1 : 0 }
        func isOdd(_ value: Double) -> Bool { Int(value.rounded(.down)) & 1 != 0 }
        switch kind {
        case .disk: return inside(radius < 0.95)
        case .square: return inside(max(abs(x), abs(y)) < 0.85)
        case .triangle: return inside(y > -0.6 && y < 1.1 - 1.9 * abs(x))
        case .cross: return inside(min(abs(x), abs(y)) < 0.28 && max(abs(x), abs(y)) < 1)
        case .ring: return inside(radius < 1 && radius > 0.6)
        case .frame: return inside(max(abs(x), abs(y)) < 0.95 && max(abs(x), abs(y)) > 0.58)
        case .stripes: return inside(isOdd(x * 1.6))
        case .checkerboard: return inside(isOdd(x * 1.3) != isOdd(y * 1.3))
        case .dots:
            let u = x * 1.1 - (x * 1.1).rounded()
            let v = y * 1.1 - (y * 1.1).rounded()
            return inside(u * u + v * v < 0.085)
        case .gradient: return min(max(0.5 + 0.22 * x, 0), 1)
        case .star:
            let sector = 2 * Double.pi / 5
            let turned = atan2(y, x) + Double.pi * 2
            let offset = abs(turned.truncatingRemainder(dividingBy: sector) - sector / 2) / (sector / 2)
            return inside(radius < 0.42 + 0.68 * offset * offset)
        case .crescent:
            let shifted = ((x - 0.45) * (x - 0.45) + y * y).squareRoot()
            return inside(radius < 1 && shifted > 0.8)
        case .arrow:
            return inside((abs(y) < 0.2 && x > -1 && x < 0.25) || (x >= 0.1 && x < 1 && abs(y) < 0.85 * (1 - x)))
        case .spiral:
            let turn = atan2(y, x) / (2 * Double.pi)
            let phase = radius * 1.9 - turn
            return inside(radius < 1.15 && phase - phase.rounded(.down) < 0.5)
        case .waves: return inside(isOdd(x * 1.5 + 0.55 * sin(y * 3.2)))
        }
    }
}
