import BackendConformance
import Foundation
import GraftCPU
import GraftGraph
import Testing

/// The conformance suite with every instruction set of this machine: every case with 3 threads, the quick ones with 1 and
/// 2 as well.
@Suite struct ConformanceTests {
    @Test(arguments: backendVariants)
    func everyPrimitiveAgreesWithTheReference(_ variant: (CPUInstructionSet, Int)) throws {
        let backend = try CPUBackend(threadCount: variant.1, instructionSet: variant.0)
        let results = ConformanceHarness().runAll(
            on: backend, cases: variant.1 == 3 ? ConformanceCases.all : ConformanceCases.quick)
        #expect(!results.isEmpty)
        if results.contains(where: { !$0.passed }) {
            Issue.record("\(variant.0), \(variant.1) threads:\n\(ConformanceHarness.summary(results))")
        } else if ProcessInfo.processInfo.environment["GRAFT_CONFORMANCE_SUMMARY"] != nil {
            print("\(variant.0), \(variant.1) threads:\n\(ConformanceHarness.summary(results))")
        }
    }

    @Test func aMissingInstructionSetIsAnErrorByName() {
        for set in CPUInstructionSet.allCases where !set.isSupported {
            #expect(throws: DeviceError.self) { try CPUBackend(threadCount: 1, instructionSet: set) }
        }
        #expect(throws: DeviceError.self) { try CPUBackend(threadCount: 0) }
    }

    /// A plan larger than the machine is refused before anything is allocated.
    @Test func aPlanLargerThanTheMachineIsRefused() throws {
        let backend = try CPUBackend(threadCount: 1)
        var program = Program()
        let shape = ActivationShape(1 << 16, 16, 256, 256)
        let kind = ValueKind.activation(shape)
        let x = program.add(kind, .input, "x")
        let y = program.add(kind, .output, "y")
        program.append(.relu(shape), [x], [y], node: "relu")
        let layout = MemoryLayout(
            byteCount: { ChannelBlockedLayout.byteCount(of: $0) }, workspaceByteCount: { _ in 0 }, alignment: 64,
            maximumArenaByteCount: Int.max)
        let plan = try MemoryPlan(programs: [program], layout: layout)
        do {
            _ = try backend.allocate(plan)
            Issue.record("\(plan.totalByteCount) bytes were granted")
        } catch {
            guard case .outOfMemory = error else {
                Issue.record("another error: \(error)")
                return
            }
            #expect(error.description.contains("--batch-size"))
        }
    }

    /// Wide instructions outside the kernel variants would stop the program on older processors.
    @Test(.enabled(if: FileManager.default.isExecutableFile(atPath: "/usr/bin/objdump"), "no objdump here"))
    func wideInstructionsStayInTheirVariants() throws {
        let root = URL(fileURLWithPath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()
        let bundle = try #require(CommandLine.arguments.first { $0.hasSuffix(".xctest") })
        let process = Process()
        process.executableURL = root.appending(path: ".ci/check-instruction-sets")
        process.arguments = [bundle]
        let pipe = Pipe()
        process.standardOutput = pipe
        process.standardError = pipe
        try process.run()
        let output = String(decoding: pipe.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
        process.waitUntilExit()
        #expect(process.terminationStatus == 0, "\(output)")
    }
}
