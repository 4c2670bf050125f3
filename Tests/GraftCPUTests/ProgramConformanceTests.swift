import BackendConformance
import GraftCPU
import GraftGraph
import Testing

/// Whole networks and random geometries on the Swift backend.
@Suite struct ProgramConformanceTests {
    @Test(arguments: backendVariants)
    func networksTrainAsTheReferenceDoes(_ variant: (CPUInstructionSet, Int)) throws {
        let backend = try CPUBackend(threadCount: variant.1, instructionSet: variant.0)
        let results = ConformanceHarness().runPrograms(on: backend)
        #expect(results.count == ProgramConformance.all.count)
        for result in results { #expect(result.passed, "\(result.name): \(result.message)") }
    }

    @Test(arguments: backendVariants)
    func randomGeometriesAgreeWithTheReference(_ variant: (CPUInstructionSet, Int)) throws {
        let backend = try CPUBackend(threadCount: variant.1, instructionSet: variant.0)
        let cases = ConformanceCases.random(count: 60, seed: UInt64(variant.1))
        for result in ConformanceHarness().runAll(on: backend, cases: cases) {
            #expect(result.passed, "\(result.name): \(result.message)")
        }
    }
}
