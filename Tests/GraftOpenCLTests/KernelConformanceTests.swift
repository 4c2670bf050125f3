#if OpenCL
    import BackendConformance
    import Foundation
    import GraftGraph
    import GraftOpenCL
    import Testing

    extension OnDevice {
        /// Both kernel classes on the same device: a driver for CPUs runs the kernels for GPUs as well.
        @Suite("Kernel conformance")
        struct KernelConformanceTests {
            /// `GRAFT_CONFORMANCE=quick` runs the small cases only; a simulator always does.
            static func cases(of kind: Primitive.Kind, on entry: OpenCLDeviceEntry) -> [ConformanceCase] {
                let isQuick =
                    ProcessInfo.processInfo.environment["GRAFT_CONFORMANCE"] == "quick"
                    || entry.description.platform == "Oclgrind"
                return (isQuick ? ConformanceCases.quick : ConformanceCases.all).filter { $0.primitive.kind == kind }
            }

            @Test("agrees with the reference", arguments: [KernelClassChoice.cpu, .gpu], Primitive.Kind.allCases)
            func conforms(choice: KernelClassChoice, kind: Primitive.Kind) throws {
                let entry = try testDevice()
                let cases = Self.cases(of: kind, on: entry)
                try #require(!cases.isEmpty)
                let backend = try OpenCLBackend(entry, kernelClass: choice)
                #expect(backend.description.kernelClass == "\(choice.rawValue)-class")
                let isVerbose = ProcessInfo.processInfo.environment["GRAFT_CONFORMANCE_LOG"] != nil
                func report(_ result: CaseResult) {
                    let line = "\(choice) \(result.name): \(result.seconds) s, \(result.worstRatio) of the tolerance\n"
                    if isVerbose { FileHandle.standardError.write(Data(line.utf8)) }
                }
                let results = ConformanceHarness().runAll(on: backend, cases: cases, progress: report)
                for result in results where !result.passed { Issue.record("\(result.name): \(result.message)") }
            }
        }
    }
#endif
