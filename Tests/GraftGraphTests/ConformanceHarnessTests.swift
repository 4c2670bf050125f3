import BackendConformance
import GraftGraph
import Testing

/// The conformance suite itself: it covers every primitive, passes the reference and finds faults.
@Suite("Conformance harness")
struct ConformanceHarnessTests {
    @Test("every primitive has a case, among the quick ones too")
    func coverage() {
        #expect(ConformanceCases.uncovered() == [])
        #expect(ConformanceCases.uncovered(by: ConformanceCases.quick) == [])
        #expect(ConformanceCases.uncovered(by: []) == Primitive.Kind.allCases)
    }

    @Test("names are unique: a case's values follow from its name")
    func names() {
        let names = ConformanceCases.all.map(\.name)
        let repeated = Dictionary(grouping: names) { $0 }.filter { $1.count > 1 }.keys
        #expect(repeated.isEmpty)
    }

    @Test("the reference itself, rounded to float32, passes the quick cases")
    func referencePasses() {
        let results = ConformanceHarness().runAll(on: ReferenceBackend(), cases: ConformanceCases.quick)
        #expect(results.count == ConformanceCases.quick.count)
        for result in results where !result.passed { Issue.record("\(result.name): \(result.message)") }
    }

    @Test("each fault is found", arguments: ReferenceBackend.Fault.allCases)
    func faults(fault: ReferenceBackend.Fault) throws {
        let name = fault == .stateNotZero ? "optimizerUpdate.adam.small" : "convolution.3x3.p2.plain"
        let test = try #require(ConformanceCases.all.first { $0.name.hasPrefix(name) })
        let harness = ConformanceHarness()
        #expect(try harness.run(test, on: ReferenceBackend()).passed)
        let result = try harness.run(test, on: ReferenceBackend(fault: fault))
        #expect(!result.passed)
        let expected =
            switch fault {
            case .writesBehindOutput: "1 bytes behind output 0"
            case .writesBeforeOutput: "1 bytes before output 0"
            case .writesInput: "inside input 0"
            case .leavesPadding: "padding of output 0 is not zero"
            case .leavesElement: "output 0[0, 0, 0, 0] is nan"
            case .dependsOnContents: "differs from the first run"
            case .slightlyWrong: "output 0[0, 0, 0, 0] is"
            case .stateNotZero: "is not zero after allocation"
            }
        #expect(result.message.contains(expected), "\(result.message)")
    }
}
