import Foundation
import GraftTensor

/// Random changes to training pictures.
public enum Augmentation: String, Sendable, Hashable, Codable, CaseIterable {
    /// None: every epoch sees the same pixels.
    case none
    /// Left and right are swapped in half of the cases.
    case flip
    /// torchvision's `RandomResizedCrop` (8 to 100 % of the area, sides between 3:4 and 4:3) and then `flip`.
    case standard

    /// Numbers that keep the uses of randomness apart.
    private enum Purpose {
        static let flip: UInt64 = 0x666C_6970
        static let crop: UInt64 = 0x6372_6F70
    }

    /// What happens to one picture; it depends on nothing but the arguments.
    ///
    /// - Parameters:
    ///   - seed: the run's seed.
    ///   - epoch: the epoch, or the number of a cached view.
    ///   - sampleIndex: the picture's position in the data set.
    ///   - width: the decoded picture's width.
    ///   - height: the decoded picture's height.
    /// - Returns: what to cut out and whether to mirror it.
    func transformation(seed: UInt64, epoch: Int, sampleIndex: Int, width: Int, height: Int) -> Transformation {
        func random(_ purpose: UInt64) -> CounterRandom {
            CounterRandom(
                seed: seed, UInt64(truncatingIfNeeded: epoch), UInt64(truncatingIfNeeded: sampleIndex), purpose)
        }
        switch self {
        case .none: return .none
        case .flip: return Transformation(region: nil, isMirrored: random(Purpose.flip).uniform(0) < 0.5)
        case .standard:
            return Transformation(
                region: Self.randomRegion(width: width, height: height, random: random(Purpose.crop)),
                isMirrored: random(Purpose.flip).uniform(0) < 0.5)
        }
    }

    /// `RandomResizedCrop.get_params`: ten attempts at a rectangle that fits, then the centre.
    static func randomRegion(width: Int, height: Int, random: CounterRandom) -> Transformation.Region {
        let area = Double(width) * Double(height)
        let narrowest = 3.0 / 4.0
        let widest = 4.0 / 3.0
        for attempt in 0..<10 {
            let target = area * (0.08 + (1.0 - 0.08) * random.uniform(4 * attempt))
            let ratio = exp(log(narrowest) + (log(widest) - log(narrowest)) * random.uniform(4 * attempt + 1))
            let regionWidth = Int((target * ratio).squareRoot().rounded(.toNearestOrEven))
            let regionHeight = Int((target / ratio).squareRoot().rounded(.toNearestOrEven))
            if (1...width).contains(regionWidth), (1...height).contains(regionHeight) {
                return Transformation.Region(
                    x: random.integer(below: width - regionWidth + 1, 4 * attempt + 2),
                    y: random.integer(below: height - regionHeight + 1, 4 * attempt + 3), width: regionWidth,
                    height: regionHeight)
            }
        }
        var regionWidth = width
        var regionHeight = height
        let ratio = Double(width) / Double(height)
        if ratio < narrowest {
            regionHeight = min(height, Int((Double(width) / narrowest).rounded(.toNearestOrEven)))
        } else if ratio > widest {
            regionWidth = min(width, Int((Double(height) * widest).rounded(.toNearestOrEven)))
        }
        return Transformation.Region(
            x: (width - regionWidth) / 2, y: (height - regionHeight) / 2, width: regionWidth, height: regionHeight)
    }
}

/// What augmentation does to one picture.
struct Transformation: Equatable {
    struct Region: Equatable {
        var x: Int
        var y: Int
        var width: Int
        var height: Int

        /// The same part of the picture at another size, at least one pixel of it.
        func scaled(from: (width: Int, height: Int), to: (width: Int, height: Int)) -> Region {
            guard from != to else { return self }
            func side(_ start: Int, _ count: Int, _ from: Int, _ to: Int) -> (start: Int, count: Int) {
                let first = min(start * to / from, to - 1)
                return (first, max(min((start + count) * to / from, to) - first, 1))
            }
            let columns = side(x, width, from.width, to.width)
            let rows = side(y, height, from.height, to.height)
            return Region(x: columns.start, y: rows.start, width: columns.count, height: rows.count)
        }
    }

    /// The part of the picture that is stretched to the input's square; nil for the usual resize and centre crop.
    var region: Region?
    /// Whether left and right are swapped.
    var isMirrored: Bool

    static let none = Transformation(region: nil, isMirrored: false)
}
