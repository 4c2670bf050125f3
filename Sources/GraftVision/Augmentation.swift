import Foundation
import GraftTensor

/// Random changes to training pictures, as torchvision makes them.
///
/// A change depends on nothing but the seed, the epoch, the picture's position in the data set and its purpose, so that
/// neither threads nor the order of pictures matter. As text it is `none`, `flip`, `standard`, `strong`, or a list such as
/// `crop,flip,jitter,randaugment:2:9,erase:0.25`.
public struct Augmentation: Sendable, Hashable, RawRepresentable, Codable, CaseIterable, CustomStringConvertible {
    /// The least share of a picture's area that a crop keeps (`RandomResizedCrop`, sides between 3:4 and 4:3); nil for the
    /// usual resize and centre crop.
    public var cropScale: Double?
    /// Left and right are swapped in half of the cases (`RandomHorizontalFlip`).
    public var flips: Bool
    /// `ColorJitter`: brightness, contrast and saturation between 1 − x and 1 + x, the hue by at most ± x of a turn.
    public var jitter: Jitter?
    /// `RandAugment`.
    public var randAugment: RandAugment?
    /// How often a rectangle is painted over with the mean colour (`RandomErasing`, value 0 behind normalisation); 0 is never.
    public var eraseProbability: Double

    /// How far colours move.
    public struct Jitter: Sendable, Hashable {
        /// At most 1 − x to 1 + x.
        public var brightness: Double
        /// At most 1 − x to 1 + x.
        public var contrast: Double
        /// At most 1 − x to 1 + x.
        public var saturation: Double
        /// At most ± x of a turn, up to 0.5.
        public var hue: Double

        /// Makes a jitter.
        public init(brightness: Double = 0.4, contrast: Double = 0.4, saturation: Double = 0.4, hue: Double = 0.1) {
            self.brightness = brightness
            self.contrast = contrast
            self.saturation = saturation
            self.hue = hue
        }
    }

    /// How many operations of how much strength.
    public struct RandAugment: Sendable, Hashable {
        /// Operations for each picture, drawn from fourteen.
        public var count: Int
        /// Strength, 0 to 30.
        public var magnitude: Int

        /// Makes a RandAugment.
        public init(count: Int = 2, magnitude: Int = 9) {
            self.count = count
            self.magnitude = magnitude
        }
    }

    /// Makes an augmentation; without arguments it changes nothing.
    public init(
        cropScale: Double? = nil, flips: Bool = false, jitter: Jitter? = nil, randAugment: RandAugment? = nil,
        eraseProbability: Double = 0
    ) {
        self.cropScale = cropScale
        self.flips = flips
        self.jitter = jitter
        self.randAugment = randAugment
        self.eraseProbability = eraseProbability
    }

    /// None: every epoch sees the same pixels.
    public static let none = Augmentation()
    /// Left and right are swapped in half of the cases.
    public static let flip = Augmentation(flips: true)
    /// torchvision's `RandomResizedCrop` (8 to 100 % of the area, sides between 3:4 and 4:3) and then `flip`.
    public static let standard = Augmentation(cropScale: 0.08, flips: true)
    /// `standard`, `RandAugment(2, 9)` and `RandomErasing(0.25)`: torchvision's newer recipes.
    public static let strong = Augmentation(
        cropScale: 0.08, flips: true, randAugment: RandAugment(), eraseProbability: 0.25)

    /// Those with names.
    public static let allCases: [Augmentation] = [none, flip, standard, strong]
    private static let names = ["none", "flip", "standard", "strong"]

    // MARK: Text

    /// Reads a name or a list; nil for anything else.
    ///
    /// Entries: `crop[:MINIMUM]`, `flip`, `jitter[:BRIGHTNESS[:CONTRAST[:SATURATION[:HUE]]]]`, `randaugment[:N[:M]]`,
    /// `erase[:P]`; each once at most. Whatever their order, they are done in this one.
    public init?(rawValue: String) {
        if let index = Self.names.firstIndex(of: rawValue) {
            self = Self.allCases[index]
            return
        }
        self.init()
        var seen: Set<Substring> = []
        for entry in rawValue.split(separator: ",", omittingEmptySubsequences: false) {
            let parts = entry.split(separator: ":", omittingEmptySubsequences: false)
            let numbers = parts.dropFirst().compactMap { Self.number($0) }
            guard let name = parts.first, numbers.count == parts.count - 1, seen.insert(name).inserted else {
                return nil
            }
            func number(_ index: Int, _ range: ClosedRange<Double>, _ fallback: Double) -> Double? {
                index < numbers.count ? (range.contains(numbers[index]) ? numbers[index] : nil) : fallback
            }
            func whole(_ index: Int, _ range: ClosedRange<Int>, _ fallback: Int) -> Int? {
                guard index < numbers.count else { return fallback }
                return Int(exactly: numbers[index]).flatMap { range.contains($0) ? $0 : nil }
            }
            switch (name, numbers.count) {
            case ("crop", 0...1):
                guard let scale = number(0, 0.0001...1, 0.08) else { return nil }
                cropScale = scale
            case ("flip", 0): flips = true
            case ("jitter", 0...4):
                let standard = Jitter()
                // One number is for brightness, contrast and saturation alike; the hue stays unless it is given.
                guard let brightness = number(0, 0...1, standard.brightness),
                    let contrast = number(1, 0...1, numbers.count == 1 ? brightness : standard.contrast),
                    let saturation = number(2, 0...1, numbers.count == 1 ? brightness : standard.saturation),
                    let hue = number(3, 0...0.5, numbers.isEmpty ? standard.hue : 0)
                else { return nil }
                jitter = Jitter(brightness: brightness, contrast: contrast, saturation: saturation, hue: hue)
            case ("randaugment", 0...2):
                let standard = RandAugment()
                guard let count = whole(0, 1...14, standard.count), let magnitude = whole(1, 0...30, standard.magnitude)
                else { return nil }
                randAugment = RandAugment(count: count, magnitude: magnitude)
            case ("erase", 0...1):
                guard let probability = number(0, 0...1, 0.5) else { return nil }
                eraseProbability = probability
            default: return nil
            }
        }
    }

    /// A decimal number; `nan`, `inf` and hexadecimal are none.
    private static func number(_ text: Substring) -> Double? {
        guard text.allSatisfy({ $0.isNumber || $0 == "." }), let value = Double(text), value.isFinite else {
            return nil
        }
        return value
    }

    /// A text that ``init(rawValue:)`` reads as the same.
    public var rawValue: String {
        if let index = Self.allCases.firstIndex(of: self) { return Self.names[index] }
        func short(_ value: Double) -> String {
            value == value.rounded() && abs(value) < 1e9 ? String(Int(value)) : "\(value)"
        }
        var entries: [String] = []
        if let cropScale { entries.append("crop:\(short(cropScale))") }
        if flips { entries.append("flip") }
        if let jitter {
            entries.append(
                "jitter:"
                    + [jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue].map(short).joined(
                        separator: ":"))
        }
        if let randAugment { entries.append("randaugment:\(randAugment.count):\(randAugment.magnitude)") }
        if eraseProbability > 0 { entries.append("erase:\(short(eraseProbability))") }
        return entries.isEmpty ? "none" : entries.joined(separator: ",")
    }

    /// ``rawValue``.
    public var description: String { rawValue }

    /// Whether two do the same; by their parts, of which ``rawValue`` is made.
    public static func == (a: Augmentation, b: Augmentation) -> Bool {
        a.cropScale == b.cropScale && a.flips == b.flips && a.jitter == b.jitter && a.randAugment == b.randAugment
            && a.eraseProbability == b.eraseProbability
    }

    /// Hashes what is compared.
    public func hash(into hasher: inout Hasher) {
        hasher.combine(cropScale)
        hasher.combine(flips)
        hasher.combine(jitter)
        hasher.combine(randAugment)
        hasher.combine(eraseProbability)
    }

    // MARK: Drawing

    /// Numbers that keep the uses of randomness apart.
    private enum Purpose {
        static let flip: UInt64 = 0x666C_6970
        static let crop: UInt64 = 0x6372_6F70
        static let jitter: UInt64 = 0x6A69_7474
        static let randAugment: UInt64 = 0x7261_6E64
        static let erase: UInt64 = 0x6572_6173
    }

    /// What happens to one picture; it depends on nothing but the arguments.
    ///
    /// - Parameters:
    ///   - seed: the run's seed.
    ///   - epoch: the epoch, or the number of a cached view.
    ///   - sampleIndex: the picture's position in the data set.
    ///   - width: the decoded picture's width.
    ///   - height: the decoded picture's height.
    ///   - imageSize: the side of the square that it becomes.
    /// - Returns: what to cut out, whether to mirror it, and what to do to its pixels then.
    func transformation(
        seed: UInt64, epoch: Int, sampleIndex: Int, width: Int, height: Int, imageSize: Int = 224
    ) -> Transformation {
        func random(_ purpose: UInt64) -> CounterRandom {
            CounterRandom(
                seed: seed, UInt64(truncatingIfNeeded: epoch), UInt64(truncatingIfNeeded: sampleIndex), purpose)
        }
        var result = Transformation.none
        if let cropScale {
            result.region = Self.randomRegion(
                width: width, height: height, random: random(Purpose.crop), minimum: cropScale)
        }
        if flips { result.isMirrored = random(Purpose.flip).uniform(0) < 0.5 }
        if let jitter { result.operations += Self.draw(jitter, random(Purpose.jitter)) }
        if let randAugment { result.operations += Self.draw(randAugment, imageSize, random(Purpose.randAugment)) }
        if eraseProbability > 0 {
            let random = random(Purpose.erase)
            if random.uniform(0) < eraseProbability, let rectangle = Self.randomRectangle(imageSize, random) {
                result.operations.append(.erase(rectangle))
            }
        }
        return result
    }

    /// `RandomResizedCrop.get_params`: ten attempts at a rectangle that fits, then the centre.
    static func randomRegion(
        width: Int, height: Int, random: CounterRandom, minimum: Double = 0.08
    ) -> Transformation.Region {
        let area = Double(width) * Double(height)
        let narrowest = 3.0 / 4.0
        let widest = 4.0 / 3.0
        for attempt in 0..<10 {
            let target = area * (minimum + (1.0 - minimum) * random.uniform(4 * attempt))
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

    /// `ColorJitter.get_params`: the four in random order, each by a random factor.
    private static func draw(_ jitter: Jitter, _ random: CounterRandom) -> [PixelOperation] {
        func factor(_ strength: Double, _ counter: Int) -> Double {
            let low = max(0, 1 - strength)
            return low + (1 + strength - low) * random.uniform(counter)
        }
        // The permutation takes the counters 1 to 3.
        return random.permutation(4).compactMap { index in
            switch index {
            case 0: jitter.brightness > 0 ? .brightness(factor(jitter.brightness, 8)) : nil
            case 1: jitter.contrast > 0 ? .contrast(factor(jitter.contrast, 9)) : nil
            case 2: jitter.saturation > 0 ? .saturation(factor(jitter.saturation, 10)) : nil
            default: jitter.hue > 0 ? .hue(jitter.hue * (2 * random.uniform(11) - 1)) : nil
            }
        }
    }

    /// `RandAugment.forward`: operations with replacement, signs at random.
    private static func draw(_ settings: RandAugment, _ imageSize: Int, _ random: CounterRandom) -> [PixelOperation] {
        (0..<settings.count).compactMap { index in
            operation(
                random.integer(below: operationCount, 2 * index), magnitude: settings.magnitude,
                isNegative: random.integer(below: 2, 2 * index + 1) == 1, imageSize: imageSize)
        }
    }

    /// The operations of `RandAugment`, identity included.
    static let operationCount = 14

    /// `RandAugment._augmentation_space` with 31 strengths, in its order; nil is the identity.
    static func operation(_ index: Int, magnitude: Int, isNegative: Bool, imageSize: Int) -> PixelOperation? {
        /// `torch.linspace(0, end, 31)[magnitude]`, from both ends to the middle in float32.
        func level(_ end: Double) -> Double {
            let step = Float(end) / 30
            let value = magnitude < 15 ? step * Float(magnitude) : Float(end) - step * Float(30 - magnitude)
            return Double(value)
        }
        func signed(_ end: Double) -> Double { isNegative ? -level(end) : level(end) }
        let shift = 150.0 / 331.0 * Double(imageSize)
        switch index {
        case 1: return .shear(x: signed(0.3), y: 0)
        case 2: return .shear(x: 0, y: signed(0.3))
        case 3: return .translate(x: Int(signed(shift)), y: 0)
        case 4: return .translate(x: 0, y: Int(signed(shift)))
        case 5: return .rotate(degrees: signed(30))
        case 6: return .brightness(1 + signed(0.9))
        case 7: return .saturation(1 + signed(0.9))
        case 8: return .contrast(1 + signed(0.9))
        case 9: return .sharpness(1 + signed(0.9))
        case 10: return .posterize(bits: 8 - Int((Float(magnitude) / 7.5).rounded(.toNearestOrEven)))
        case 11:
            return .solarize(
                threshold: Double(
                    magnitude < 15 ? 255 - Float(8.5) * Float(magnitude) : Float(8.5) * Float(30 - magnitude)))
        case 12: return .autoContrast
        case 13: return .equalize
        default: return nil
        }
    }

    /// `RandomErasing.get_params` with scale 0.02 to 0.33 and ratio 0.3 to 3.3; nil after ten attempts that do not fit.
    static func randomRectangle(_ imageSize: Int, _ random: CounterRandom) -> Transformation.Region? {
        let area = Double(imageSize * imageSize)
        let (narrowest, widest) = (log(0.3), log(3.3))
        for attempt in 1...10 {
            let target = area * (0.02 + (0.33 - 0.02) * random.uniform(4 * attempt))
            let ratio = exp(narrowest + (widest - narrowest) * random.uniform(4 * attempt + 1))
            let height = Int((target * ratio).squareRoot().rounded(.toNearestOrEven))
            let width = Int((target / ratio).squareRoot().rounded(.toNearestOrEven))
            guard height < imageSize, width < imageSize else { continue }
            return Transformation.Region(
                x: random.integer(below: imageSize - width + 1, 4 * attempt + 3),
                y: random.integer(below: imageSize - height + 1, 4 * attempt + 2), width: width, height: height)
        }
        return nil
    }
}

/// What augmentation does to one picture.
struct Transformation: Equatable {
    struct Region: Hashable {
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
    /// What is done to the square's pixels then, in order.
    var operations: [PixelOperation] = []

    static let none = Transformation(region: nil, isMirrored: false)
}
