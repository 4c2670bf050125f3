import GraftTensor
import Testing

@Suite("Counter-based random numbers")
struct CounterRandomTests {
    @Test("splitmix64 as published: the first numbers of seed 1234567")
    func published() {
        // The generator of Steele, Lea and Flood; these five numbers are in many test suites of it.
        let random = CounterRandom(key: 1_234_567)
        let expected: [UInt64] = [
            6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
            4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
        ]
        #expect((0..<5).map { random.bits($0) } == expected)
    }

    @Test("golden numbers of a seed with parts: they may never change, checkpoints depend on them")
    func golden() {
        let random = CounterRandom(seed: 42, 3, 17, 1)
        #expect(random.key == 0x806D479403647712)
        #expect((0..<3).map { random.bits($0) } == [0xE0D7EC487527AA82, 0x39082903B43AAC81, 0xABD755E2D418F977])
        #expect(random.permutation(10) == [1, 0, 2, 5, 4, 7, 3, 6, 9, 8])
    }

    @Test("keys differ by seed, by part, by order and by number of parts")
    func keys() {
        let keys = [
            CounterRandom(seed: 0), CounterRandom(seed: 1), CounterRandom(seed: 0, 0), CounterRandom(seed: 0, 0, 0),
            CounterRandom(seed: 0, 1, 2), CounterRandom(seed: 0, 2, 1), CounterRandom(seed: 1, 2),
            CounterRandom(seed: 2, 1),
        ].map(\.key)
        #expect(Set(keys).count == keys.count)
    }

    @Test("uniform numbers lie in [0, 1), fit a Float and have the moments of an even distribution")
    func uniform() {
        let random = CounterRandom(seed: 7)
        let values = (0..<100_000).map { random.uniform($0) }
        #expect(values.allSatisfy { $0 >= 0 && $0 < 1 && Double(Float($0)) == $0 })
        let mean = values.reduce(0, +) / 1e5
        let square = values.reduce(0) { $0 + $1 * $1 } / 1e5
        // Four standard errors.
        #expect(abs(mean - 0.5) < 4 * 0.2887 / 316 && abs(square - 1.0 / 3) < 4 * 0.2981 / 316)
    }

    @Test("whole numbers below a bound are even (χ² below the 99.99th percentile)")
    func integers() {
        let random = CounterRandom(seed: 8)
        var counts = [Int](repeating: 0, count: 7)
        for index in 0..<70_000 { counts[random.integer(below: 7, index)] += 1 }
        let chiSquare = counts.reduce(0.0) { $0 + Double(($1 - 10_000) * ($1 - 10_000)) / 10_000 }
        #expect(chiSquare < 27.9)
        #expect(random.integer(below: 1, 5) == 0)
        #expect((0..<100).allSatisfy { random.integer(below: .max, $0) >= 0 })
    }

    @Test("a permutation holds every number once", arguments: [0, 1, 2, 3, 64, 1000])
    func permutations(count: Int) {
        let order = CounterRandom(seed: 9).permutation(count)
        #expect(order.sorted() == Array(0..<count))
        if count == 1000 { #expect(order != CounterRandom(seed: 10).permutation(count)) }
    }

    @Test("all six orders of three are equally frequent")
    func permutationsAreEven() {
        var counts: [[Int]: Int] = [:]
        for seed in 0..<6000 { counts[CounterRandom(seed: UInt64(seed)).permutation(3), default: 0] += 1 }
        #expect(counts.count == 6)
        let chiSquare = counts.values.reduce(0.0) { $0 + Double(($1 - 1000) * ($1 - 1000)) / 1000 }
        #expect(chiSquare < 25.8)
    }
}
