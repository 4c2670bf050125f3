import Foundation
import GraftCPU
import GraftGraph
import GraftTensor
import Testing

/// Rates of representative layers, printed; `GRAFT_CPU_RATES=1 swift test --filter LayerRates`.
///
/// `GRAFT_CPU_RATES` may name layers: those whose line contains it are timed.
@Suite(.enabled(if: ProcessInfo.processInfo.environment["GRAFT_CPU_RATES"] != nil), .serialized) struct LayerRates {
    static func seconds(_ primitive: Primitive, _ inputs: [ValueKind], _ outputs: [ValueKind], threads: Int) throws
        -> Double
    {
        let backend = try CPUBackend(threadCount: threads)
        var program = Program()
        let inputIDs = inputs.enumerated().map { program.add($1, .input, "input \($0)") }
        let outputIDs = outputs.enumerated().map { program.add($1, .output, "output \($0)") }
        program.append(primitive, inputIDs, outputIDs, node: "rate")
        let plan = try MemoryPlan(programs: [program], layout: MemoryLayout(backend: backend))
        let memory = try backend.allocate(plan)
        let prepared = try backend.prepare(program, index: 0, memory: memory)
        for id in inputIDs {
            let kind = program[id].kind
            if case .indices = kind { continue }
            try memory.write(randomTensor(kind.hostShape, seed: 1), kind: kind, to: plan.slots[0][id.index])
        }
        var best = Double.infinity
        for _ in 0..<3 { try prepared.run(StepConstants()) }
        // With one thread processor time is counted, so that other work on the machine does not.
        let clock = threads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC
        func now() -> Double {
            var time = timespec()
            clock_gettime(clock, &time)
            return Double(time.tv_sec) + Double(time.tv_nsec) * 1e-9
        }
        let start = now()
        while now() - start < 0.3 {
            let before = now()
            try prepared.run(StepConstants())
            best = min(best, now() - before)
        }
        return best
    }

    static func wanted(_ line: String) -> Bool {
        let choice = ProcessInfo.processInfo.environment["GRAFT_CPU_RATES"] ?? ""
        return choice.count < 2 || line.contains(choice)
    }

    static func convolution(
        _ batch: Int, _ channels: Int, _ extent: Int, _ outputs: Int, _ kernel: Int, _ stride: Int, _ padding: Int,
        groups: Int = 1
    ) -> ConvolutionGeometry {
        ConvolutionTests.geometry(
            batch, channels, extent, extent, outputs, kernel, stride: stride, padding: padding, groups: groups)
    }

    @Test func convolutions() throws {
        let layers = [
            Self.convolution(8, 3, 224, 64, 7, 2, 3), Self.convolution(8, 64, 56, 64, 3, 1, 1),
            Self.convolution(8, 64, 56, 128, 3, 2, 1), Self.convolution(8, 128, 28, 128, 3, 1, 1),
            Self.convolution(8, 256, 14, 256, 3, 1, 1), Self.convolution(8, 512, 7, 512, 3, 1, 1),
            Self.convolution(8, 64, 56, 256, 1, 1, 0), Self.convolution(8, 1024, 14, 256, 1, 1, 0),
            Self.convolution(8, 512, 7, 2048, 1, 1, 0), Self.convolution(8, 256, 56, 512, 1, 2, 0),
            Self.convolution(64, 16, 32, 16, 3, 1, 1), Self.convolution(64, 32, 16, 32, 3, 1, 1),
            Self.convolution(32, 512, 1, 1000, 1, 1, 0), Self.convolution(8, 128, 56, 128, 3, 1, 1, groups: 32),
            Self.convolution(8, 3, 224, 64, 3, 2, 0), Self.convolution(8, 64, 55, 16, 1, 1, 0),
            Self.convolution(8, 16, 55, 64, 1, 1, 0), Self.convolution(8, 16, 55, 64, 3, 1, 1),
            Self.convolution(8, 48, 13, 192, 3, 1, 1), Self.convolution(8, 512, 13, 1000, 1, 1, 0),
        ]
        let threads = Int(ProcessInfo.processInfo.environment["GRAFT_THREADS"] ?? "") ?? 2
        for g in layers {
            let flops = 2 * Double(g.multiplyAccumulateCount)
            let name =
                "\(g.input) -> \(g.outputChannels), \(g.kernelHeight)x\(g.kernelWidth) s\(g.strideHeight) g\(g.groups)"
            guard Self.wanted(name) else { continue }
            let x = ValueKind.activation(g.input)
            let y = ValueKind.activation(g.output)
            let w = ValueKind.weight(g.weight)
            let forward = try Self.seconds(.convolution(g, .none), [x, w], [y], threads: threads)
            let inputGradient = try Self.seconds(
                .convolutionInputGradient(g, addend: false), [y, w], [x], threads: threads)
            let weightGradient = try Self.seconds(.convolutionWeightGradient(g), [x, y], [w], threads: threads)
            let rates = [forward, inputGradient, weightGradient].map { String(format: "%7.1f", flops / $0 / 1e9) }
            print("RATE \(name): GF/s y, dx, dw: \(rates.joined(separator: " "))")
        }
    }

    @Test func memoryBoundOperations() throws {
        let shape = ActivationShape(32, 64, 56, 56)
        let wide = ActivationShape(32, 64, 112, 112)
        let a = ValueKind.activation(shape)
        let v = ValueKind.channelVector(64)
        let pool = PoolingGeometry(input: wide, kernel: 3, stride: 2, padding: 1)
        let p = ValueKind.activation(pool.output)
        let cases: [(Primitive, [ValueKind], [ValueKind], Int)] = [
            (.relu(shape), [a], [a], 2), (.add(shape, relu: true), [a, a], [a], 3),
            (.reluGradient(shape), [a, a], [a], 3),
            (
                .batchNormalizationTraining(shape, epsilon: 1e-5, momentum: 0.1, Epilogue(relu: true)),
                [a, v, v, v, v],
                [a, v, v, v, v], 3
            ),
            (.batchNormalizationTrainingGradient(shape), [a, a, v, v, v], [a, v, v], 5),
            (.batchNormalizationInferenceGradient(shape, epsilon: 1e-5), [a, v, v], [a], 2),
            (.channelSum(shape), [a], [v], 1),
            (.dropout(shape, rate: 0.5, salt: 1), [a], [a], 2),
            (.maxPooling(pool, indices: true), [.activation(wide)], [p, .indices(pool.output)], 6),
            (.maxPoolingGradient(pool), [p, .indices(pool.output)], [.activation(wide)], 6),
            (
                .adaptiveAveragePooling(shape, outputHeight: 1, outputWidth: 1), [a],
                [.activation(.init(32, 64, 1, 1))], 1
            ),
        ]
        let threads = Int(ProcessInfo.processInfo.environment["GRAFT_THREADS"] ?? "") ?? 2
        for (primitive, inputs, outputs, passes) in cases where Self.wanted("\(primitive.kind)") {
            let seconds = try Self.seconds(primitive, inputs, outputs, threads: threads)
            let bytes = Double(ChannelBlockedLayout.byteCount(of: a) * passes)
            print(
                "RATE \(primitive.kind): \(String(format: "%.2f ms, %.1f GB/s", seconds * 1e3, bytes / seconds / 1e9))")
        }
    }
}
