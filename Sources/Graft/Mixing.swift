import Foundation
import GraftTensor

/// Mixtures of the images of a batch: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), one share for the whole batch,
/// each image with the one before it, as `torchvision.transforms.v2.MixUp` and `CutMix`.
package struct Mixing: Sendable, Hashable {
    /// The share is drawn from Beta(mixup, mixup); 0 is never.
    package var mixup: Double
    /// The same for CutMix. Where both are above 0, either is taken in half of the batches.
    package var cutMix: Double

    package init(mixup: Double, cutMix: Double) {
        self.mixup = mixup
        self.cutMix = cutMix
    }

    var isOn: Bool { mixup > 0 || cutMix > 0 }

    /// Throws ``GraftError/invalidArgument(_:)`` unless shares can be drawn.
    func check() throws(GraftError) {
        for (name, value) in [("--mixup", mixup), ("--cutmix", cutMix)] {
            guard value >= 0, value.isFinite else {
                throw .invalidArgument("\(name) \(value): expected a number of at least 0; 0.2 and 1 are usual")
            }
        }
    }

    /// Mixes a batch.
    ///
    /// - Parameters:
    ///   - pixels: uint8 `[N, S, S, 3]`; mixtures are rounded to bytes, halves to even.
    ///   - labels: N class numbers.
    ///   - size: S.
    ///   - random: all that the mixture depends on.
    /// - Returns: the second labels and the shares of the first ones.
    package func mix(_ pixels: inout [UInt8], labels: [Int32], size: Int, random: CounterRandom) -> MixedLabels {
        let count = labels.count
        let cuts = cutMix > 0 && (mixup <= 0 || random.uniform(0) < 0.5)
        let drawn = Self.beta(cuts ? cutMix : mixup, CounterRandom(seed: random.key, 1))
        let source = pixels
        let imageBytes = size * size * 3
        func partner(_ image: Int) -> Int { (image + count - 1) % count }
        var share = drawn
        if cuts {
            let box = Self.box(share: drawn, size: size, random)
            share = 1 - Double(box.width * box.height) / Double(size * size)
            for image in 0..<count {
                for y in box.y..<box.y + box.height {
                    let start = (y * size + box.x) * 3
                    let from = partner(image) * imageBytes + start
                    let to = image * imageBytes + start
                    for index in 0..<box.width * 3 { pixels[to + index] = source[from + index] }
                }
            }
        } else {
            let weight = Float(drawn)
            // All that a pair of bytes can become.
            let own = (0..<256).map { weight * Float($0) }
            let other = (0..<256).map { (1 - weight) * Float($0) }
            for image in 0..<count {
                let from = partner(image) * imageBytes
                let to = image * imageBytes
                for index in 0..<imageBytes {
                    let value = own[Int(source[to + index])] + other[Int(source[from + index])]
                    pixels[to + index] = UInt8(min(max(value.rounded(.toNearestOrEven), 0), 255))
                }
            }
        }
        return MixedLabels(
            labels: (0..<count).map { labels[partner($0)] }, shares: [Float](repeating: Float(share), count: count))
    }

    /// The rectangle that comes from the other image: around a random centre, cut off at the rim.
    package static func box(share: Double, size: Int, _ random: CounterRandom) -> (
        x: Int, y: Int, width: Int, height: Int
    ) {
        let half = Int(0.5 * (1 - share).squareRoot() * Double(size))
        let (x, y) = (random.integer(below: size, 2), random.integer(below: size, 3))
        let (left, top) = (max(x - half, 0), max(y - half, 0))
        return (left, top, min(x + half, size) - left, min(y + half, size) - top)
    }

    /// A number from Beta(alpha, alpha).
    package static func beta(_ alpha: Double, _ random: CounterRandom) -> Double {
        let first = gamma(alpha, CounterRandom(seed: random.key, 1))
        let second = gamma(alpha, CounterRandom(seed: random.key, 2))
        return first + second > 0 ? first / (first + second) : 0.5
    }

    /// A number from Gamma(alpha, 1) by rejection (Marsaglia and Tsang 2000).
    private static func gamma(_ alpha: Double, _ random: CounterRandom) -> Double {
        func uniform(_ counter: Int) -> Double { random.uniform(counter) + 0x1p-25 }
        if alpha < 1 {
            return gamma(alpha + 1, CounterRandom(seed: random.key, 3)) * pow(uniform(0), 1 / alpha)
        }
        let d = alpha - 1.0 / 3
        let c = 1 / (9 * d).squareRoot()
        var counter = 1
        while true {
            let normal = (-2 * log(uniform(counter))).squareRoot() * cos(2 * .pi * uniform(counter + 1))
            let u = uniform(counter + 2)
            counter += 3
            let root = 1 + c * normal
            guard root > 0 else { continue }
            let v = root * root * root
            if log(u) < 0.5 * normal * normal + d - d * v + d * log(v) { return d * v }
        }
    }
}

/// Which images an epoch sees.
public enum Sampler: String, Sendable, Hashable, Codable, CaseIterable {
    /// Every image once.
    case uniform
    /// As many images as there are, drawn with replacement so that every class comes as often as any other
    /// (`WeightedRandomSampler` with the classes' inverse counts).
    case balanced

    /// The order of an epoch, for shuffled data.
    package func order(labels: [Int], seed: UInt64, epoch: Int) -> [Int] {
        switch self {
        case .uniform: return CounterRandom(seed: seed, UInt64(epoch), 0x5F17).permutation(labels.count)
        case .balanced:
            let members = Dictionary(grouping: labels.indices) { labels[$0] }.sorted { $0.key < $1.key }.map(\.value)
            let random = CounterRandom(seed: seed, UInt64(epoch), 0xBA1A)
            return labels.indices.map { place in
                let group = members[random.integer(below: members.count, 2 * place)]
                return group[random.integer(below: group.count, 2 * place + 1)]
            }
        }
    }
}

extension Loss {
    /// Weights that make every class count alike: images / (classes · images of the class), as scikit-learn's `balanced`.
    ///
    /// - Parameters:
    ///   - data: the training images.
    ///   - classCount: outputs of the head; those without images get 1.
    /// - Returns: a weight for each output.
    public static func balancedWeights(of data: ImageDataset, classCount: Int) -> [Double] {
        var counts = [Int](repeating: 0, count: max(classCount, 0))
        for sample in data.samples where counts.indices.contains(sample.label) { counts[sample.label] += 1 }
        let present = counts.count { $0 > 0 }
        return counts.map { $0 == 0 ? 1 : Double(data.count) / Double(present * $0) }
    }
}
