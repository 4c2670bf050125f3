import GraftCheckpoint
import GraftTensor
import Testing

@Suite struct ReportTests {
    static let expected = [
        ExpectedTensor(name: "conv1.weight", shape: [4, 3, 3, 3]),
        ExpectedTensor(name: "bn1.weight", shape: [4]),
        ExpectedTensor(name: "bn1.num_batches_tracked", shape: [], isInteger: true),
        ExpectedTensor(name: "fc.weight", shape: [10, 4]),
        ExpectedTensor(name: "fc.bias", shape: [10]),
    ]

    static func state(classes: Int) -> StateDictionary {
        StateDictionary([
            ("fc.weight", HostTensor([classes, 4], repeating: 1)), ("fc.bias", HostTensor([classes], repeating: 2)),
            ("bn1.num_batches_tracked", HostTensor(shape: [], storage: .int64([5]))),
            ("bn1.weight", HostTensor([4], repeating: 3)), ("conv1.weight", HostTensor([4, 3, 3, 3], repeating: 4)),
        ])
    }

    @Test func perfectFit() {
        let (report, state) = LoadReport.resolve(Self.state(classes: 10), expected: Self.expected)
        #expect(report.isClean)
        #expect(report.loadedCount == 5)
        #expect(state.names == Self.expected.map(\.name))
        #expect(state["bn1.num_batches_tracked"]?.int64s == [5])
    }

    @Test func anotherHead() {
        let (report, state) = LoadReport.resolve(Self.state(classes: 1000), expected: Self.expected)
        #expect(!report.isClean)
        #expect(report.mismatched.map(\.name) == ["fc.weight", "fc.bias"])
        #expect(report.description.contains("fc.bias: found float32 [1000], expected float32 [10]"))
        #expect(state["fc.weight"] == nil)
        #expect(state["conv1.weight"] != nil)
    }

    @Test func missingCountersStartAtZero() {
        var state = Self.state(classes: 10)
        state["bn1.num_batches_tracked"] = nil
        let (report, resolved) = LoadReport.resolve(state, expected: Self.expected)
        #expect(report.isClean)
        #expect(report.filledCounters == ["bn1.num_batches_tracked"])
        #expect(resolved["bn1.num_batches_tracked"] == HostTensor(shape: [], storage: .int64([0])))
        #expect(report.description.contains("start at 0"))
    }

    @Test func missingAndUnexpectedNamesAreProposed() {
        var state = Self.state(classes: 10)
        state["conv1.weights"] = state["conv1.weight"]
        state["conv1.weight"] = nil
        let (report, _) = LoadReport.resolve(state, expected: Self.expected)
        #expect(report.missing == ["conv1.weight"])
        #expect(report.unexpected == ["conv1.weights"])
        #expect(report.description.contains("missing: conv1.weight (the file has conv1.weights)"))
    }

    @Test func typesMustFitToo() {
        var state = Self.state(classes: 10)
        state["bn1.weight"] = HostTensor(shape: [4], storage: .int64([1, 2, 3, 4]))
        let (report, _) = LoadReport.resolve(state, expected: Self.expected)
        #expect(report.mismatched == [TensorMismatch(name: "bn1.weight", found: "int64 [4]", expected: "float32 [4]")])
    }
}

@Suite struct DigestTests {
    /// The published test vectors of FIPS 180-4.
    @Test func sha256() throws {
        let digest = SHA256Digest()
        #expect(try digest.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        digest.update("ab")
        digest.update("c")
        #expect(try digest.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
        // Asking does not end it.
        digest.update("dbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq")
        digest.update([UInt8]())
        #expect(try digest.hex() != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    }

    @Test func dependsOnContentAndNotOnOrder() throws {
        let a = ("a", HostTensor([2], [1, 2]))
        let b = ("b", HostTensor(shape: [], storage: .int64([3])))
        let sum = try digest(of: StateDictionary([a, b]))
        #expect(try digest(of: StateDictionary([b, a])) == sum)
        #expect(try digest(of: StateDictionary([a])) != sum)
        #expect(try digest(of: StateDictionary([("a", HostTensor([2, 1], [1, 2])), b])) != sum)
        #expect(try digest(of: StateDictionary([("a", HostTensor([2], [1, -2])), b])) != sum)
    }
}
