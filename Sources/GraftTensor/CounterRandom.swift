/// A counter-based random generator: the same key and counter give the same number, in any order, on any thread.
///
/// Numbers are splitmix64 of `key + (counter + 1) * 0x9E3779B97F4A7C15` (Steele, Lea and Flood 2014). A key is made
/// from a seed and any number of parts, such as epoch, sample and purpose, so that neither the number of workers nor
/// a resumed run changes what a sample gets.
public struct CounterRandom: Sendable, Hashable {
    /// Golden-ratio increment of splitmix64.
    package static let golden: UInt64 = 0x9E37_79B9_7F4A_7C15

    /// The key that all numbers of this generator depend on.
    public let key: UInt64

    /// Makes a generator with a key of its own for each seed and list of parts.
    public init(seed: UInt64, _ parts: UInt64...) {
        var key = Self.mix(seed &+ Self.golden)
        for part in parts { key = Self.mix(key ^ Self.mix(part &+ Self.golden &* 2)) }
        self.key = key
    }

    /// Makes a generator from a finished key.
    public init(key: UInt64) { self.key = key }

    /// The finalizer of splitmix64: a bijection that spreads each input bit over all output bits.
    public static func mix(_ value: UInt64) -> UInt64 {
        var z = value
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    /// 64 random bits for a counter.
    public func bits(_ counter: Int) -> UInt64 {
        Self.mix(key &+ (UInt64(truncatingIfNeeded: counter) &+ 1) &* Self.golden)
    }

    /// A number in [0, 1) with 24 random bits, exactly representable in Float.
    public func uniform(_ counter: Int) -> Double {
        Double(bits(counter) >> 40) * 0x1p-24
    }

    /// A whole number in 0 ..< bound, without modulo bias beyond 2^-64 · bound.
    public func integer(below bound: Int, _ counter: Int) -> Int {
        precondition(bound > 0, "bound must be positive")
        return Int(truncatingIfNeeded: bits(counter).multipliedFullWidth(by: UInt64(bound)).high)
    }

    /// The whole numbers 0 ..< count in random order (Fisher and Yates).
    public func permutation(_ count: Int) -> [Int] {
        var order = Array(0..<count)
        for last in stride(from: count - 1, to: 0, by: -1) {
            order.swapAt(last, integer(below: last + 1, last))
        }
        return order
    }
}
