#if OpenCL
    import BackendConformance
    import Foundation
    import GraftGraph
    import GraftOpenCL
    import Testing

    extension OnDevice {
        /// Whole networks: every kernel in the company of the others, with shared memory.
        @Suite("Program conformance")
        struct ProgramConformanceTests {
            @Test(
                "networks train as the reference does", .disabled(if: isSimulator, "too large for a simulator"),
                arguments: [KernelClassChoice.cpu, .gpu], ["residual.through", "plain.all", "branched.all"])
            func trains(choice: KernelClassChoice, name: String) throws {
                let test = try #require(ProgramConformance.all.first { $0.name == "program.\(name)" })
                let result = try test.run(on: OpenCLBackend(testDevice(), kernelClass: choice))
                #expect(result.passed, "\(result.message)")
            }
        }
    }

    /// Whether tests run on Oclgrind.
    private let isSimulator = (try? testDevice())?.description.platform == "Oclgrind"
#endif
