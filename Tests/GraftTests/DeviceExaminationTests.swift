import BackendConformance
import Foundation
import GraftCPU
import GraftGraph
import GraftTensor
import Testing

@testable import Graft

/// The pure-Swift backend with one kernel that computes something else, as a driver with a bug would.
private final class BrokenBackend: DeviceBackend {
    let inner: CPUBackend
    let description: DeviceDescription

    init(driver: String = "1.0") throws {
        inner = try CPUBackend(threadCount: 1)
        description = DeviceDescription(
            selector: "opencl:7", name: "Test device", platform: "Tests", type: "GPU", driverVersion: driver,
            memoryByteCount: inner.description.memoryByteCount, computeUnitCount: 1, kernelClass: "cpu-class")
    }

    func byteCount(of kind: ValueKind) -> Int { inner.byteCount(of: kind) }
    func workspaceByteCount(for primitive: Primitive) -> Int { inner.workspaceByteCount(for: primitive) }
    func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? {
        inner.channelOffset(of: channels, in: shape)
    }
    var alignment: Int { inner.alignment }
    var maximumArenaByteCount: Int { inner.maximumArenaByteCount }
    func allocate(_ plan: MemoryPlan) throws(DeviceError) -> any DeviceMemory { try inner.allocate(plan) }

    /// ReLU as `x + x`.
    func prepare(_ program: Program, index: Int, memory: any DeviceMemory) throws(DeviceError) -> any PreparedProgram {
        var broken = program
        for position in broken.instructions.indices {
            guard case .relu(let shape) = broken.instructions[position].primitive else { continue }
            let instruction = broken.instructions[position]
            broken.instructions[position] = Instruction(
                .add(shape, relu: false), inputs: instruction.inputs + instruction.inputs,
                outputs: instruction.outputs, node: instruction.node)
        }
        return try inner.prepare(broken, index: index, memory: memory)
    }
}

/// A folder that goes when the value does.
private final class VerdictFolder {
    let url = FileManager.default.temporaryDirectory.appending(path: "graft-verdicts-\(UUID().uuidString)")
    var verdicts: DeviceVerdicts { DeviceVerdicts(folder: url) }
    deinit { try? FileManager.default.removeItem(at: url) }
}

@Suite struct DeviceExaminationTests {
    private static func examine(
        _ backend: any DeviceBackend, _ primitives: [String], _ folder: VerdictFolder
    ) throws -> DeviceExamination {
        try DeviceExamination.run(on: backend, isQuick: true, primitives: primitives, verdicts: folder.verdicts)
    }

    @Test func aRightDeviceIsNotRefused() throws {
        let folder = VerdictFolder()
        let backend = try CPUBackend(threadCount: 2)
        let examination = try Self.examine(backend, ["relu", "add"], folder)
        #expect(examination.rows.map(\.primitive).sorted() == ["add", "relu"])
        #expect(examination.failures.isEmpty)
        #expect(examination.caseCount > 4 && examination.passedCount == examination.caseCount)
        #expect(examination.worstRatio <= 1)
        let path = try #require(examination.path)
        #expect(FileManager.default.fileExists(atPath: path))
        #expect(try folder.verdicts.refusal(of: backend, running: [.relu, .add]) == nil)
    }

    @Test func aKernelThatComputesSomethingElseIsFoundAndRemembered() throws {
        let folder = VerdictFolder()
        let broken = try BrokenBackend()
        #expect(try folder.verdicts.refusal(of: broken, running: [.relu]) == nil)
        var counts: [Int] = []
        let examination = try DeviceExamination.run(
            on: broken, isQuick: true, primitives: ["relu", "add"], verdicts: folder.verdicts
        ) { done, _ in counts.append(done) }
        #expect(counts == Array(0...examination.caseCount))
        #expect(examination.failures.map(\.primitive) == ["relu"])
        let row = try #require(examination.failures.first)
        #expect(row.passedCount < row.caseCount && row.worstRatio > 1)
        #expect(row.message.hasPrefix("relu."))

        let refusal = try #require(try folder.verdicts.refusal(of: broken, running: [.relu, .add]))
        #expect(refusal.contains("its relu fails (relu."))
        // Programs without that kernel run.
        #expect(try folder.verdicts.refusal(of: broken, running: [.add]) == nil)
        #expect(try folder.verdicts.refusal(of: broken, running: []) == nil)
        // Another driver version is another matter.
        #expect(try folder.verdicts.refusal(of: BrokenBackend(driver: "1.1"), running: [.relu]) == nil)
        // An examination of other primitives leaves the verdict, and one of the same replaces it.
        _ = try Self.examine(broken, ["flatten"], folder)
        #expect(try folder.verdicts.refusal(of: broken, running: [.relu]) != nil)
        let key = try DeviceVerdicts.key(broken)
        #expect(folder.verdicts.load(key)?.keys.sorted() == ["add", "flatten", "relu"])
    }

    @Test func theRulesOfTrainingAreAmongWhatADeviceIsOpenedFor() throws {
        let model = try Model("resnet8_cifar", classCount: 3)
        func kinds(clipNorm: Double? = nil, averageDecay: Double? = nil) -> Set<Primitive.Kind> {
            Trainer.primitives(
                of: model, loss: .crossEntropy(classWeights: [1, 2, 3]), optimizer: .sgd(), frozenStatistics: .keep,
                dropout: true, isExact: false, clipNorm: clipNorm, averageDecay: averageDecay)
        }
        // Several batches may make any step.
        let plain = kinds()
        #expect(plain.isSuperset(of: [.softmaxCrossEntropy, .optimizerUpdate, .gradientAccumulation]))
        #expect(plain.isDisjoint(with: [.gradientNorm, .gradientScaling, .weightAveraging]))
        #expect(kinds(clipNorm: 1).subtracting(plain) == [.gradientNorm, .gradientScaling])
        #expect(kinds(averageDecay: 0.9).subtracting(plain) == [.weightAveraging])
    }

    @Test func damagedFilesCountAsAbsentAndAreWrittenAnew() throws {
        let folder = VerdictFolder()
        let broken = try BrokenBackend()
        _ = try Self.examine(broken, ["relu", "add"], folder)
        let file = folder.verdicts.file(try DeviceVerdicts.key(broken))
        let whole = try Data(contentsOf: file)
        var changed = whole
        changed[changed.count - 20] ^= 1
        let text = String(decoding: whole, as: UTF8.self)
        let damaged: [Data] = [
            Data(), whole.prefix(whole.count / 2), whole.dropLast(), changed, Data([0xFF, 0xFE]) + whole,
            Data(text.replacing("failed", with: "passed").utf8),
            Data(text.replacing("verdicts 1", with: "verdicts 2").utf8),
        ]
        for data in damaged {
            try data.write(to: file)
            #expect(folder.verdicts.load(try DeviceVerdicts.key(broken)) == nil)
            #expect(try folder.verdicts.refusal(of: broken, running: [.relu]) == nil)
            _ = try Self.examine(broken, ["relu"], folder)
            #expect(try folder.verdicts.refusal(of: broken, running: [.relu]) != nil)
        }
        // A file of another device under this one's name.
        try whole.write(to: folder.verdicts.file("0000"))
        #expect(folder.verdicts.load("0000") == nil)
    }

    @Test func namesThatAreNoPrimitivesAreGuessed() throws {
        let folder = VerdictFolder()
        let backend = try CPUBackend(threadCount: 1)
        #expect {
            try Self.examine(backend, ["rleu"], folder)
        } throws: {
            "\($0)".contains("did you mean relu")
        }
        #expect(throws: GraftError.self) { try Self.examine(backend, [DeviceExamination.wholePrograms], folder) }
    }

    /// A refused device is an error by name and nothing when it is trusted.
    @Test func aDeviceByNameIsRefusedUnlessItIsTrusted() throws {
        let folder = VerdictFolder()
        let backend = try CPUBackend()
        _ = try folder.verdicts.add(
            [.init(primitive: "relu", isPassed: false, message: "relu.small: output 0 is 2, expected 1")], for: backend)
        #expect {
            _ = try Device.cpu.open(running: [.relu], verdicts: folder.verdicts)
        } throws: { error in
            guard case DeviceError.unavailable(let text) = error else { return false }
            return text.contains("its relu fails (relu.small: output 0 is 2, expected 1)")
                && text.contains("--trust-device")
        }
        _ = try Device.cpu.open(running: [.add], verdicts: folder.verdicts)
        _ = try Device("cpu", isTrusted: true).open(running: [.relu], verdicts: folder.verdicts)
    }

    /// What the networks are held to: an extraction needs no gradient, a training all of them.
    @Test func programsNameTheKernelsThatTheyNeed() throws {
        let folder = VerdictFolder()
        let backend = try CPUBackend()
        let kinds: [Primitive.Kind] = [.convolutionWeightGradient, .optimizerUpdate]
        _ = try folder.verdicts.add(
            kinds.map { .init(primitive: $0.rawValue, isPassed: false, message: "m") }, for: backend)
        let refusal = try #require(try folder.verdicts.refusal(of: backend, running: Set(Primitive.Kind.allCases)))
        #expect(refusal.contains("convolutionWeightGradient, optimizerUpdate fail ("))
    }
}
