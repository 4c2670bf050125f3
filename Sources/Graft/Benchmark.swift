import Foundation
import GraftGraph
import GraftTensor
import GraftVision

/// Times inference or training steps of a network on one device, without data loading.
public struct Benchmark: Sendable {
    /// What is timed.
    public enum Mode: String, Sendable, CaseIterable {
        /// Upload of a normalised batch, forward, class scores read back.
        case infer
        /// Upload of pixels and labels, forward, backward, update, loss read back.
        case train
    }

    /// Time of one instruction.
    public struct InstructionTime: Sendable {
        /// Graph node.
        public let node: String
        /// Primitive, with the method of a convolution that is not summed directly.
        public let primitive: String
        /// Shapes, as the primitive sees them.
        public let shape: String
        /// Median seconds over the repeats.
        public let seconds: Double
        /// Operations, two per multiply-accumulate, as a direct convolution counts them.
        public let operationCount: Int
        /// Bytes of the operands: what must be read or written at least.
        public let byteCount: Int

        /// The time that the device's rates allow, over the time taken: 1 is the limit. Winograd's convolution needs a
        /// quarter of the operations that are counted for it, and can be above.
        public func share(of rates: DeviceRates) -> Double {
            let least = max(
                Double(operationCount) / rates.operationsPerSecond, Double(byteCount) / rates.bytesPerSecond)
            return least / max(seconds, 1e-9)
        }
    }

    /// Where the time goes.
    public struct Profile: Sendable {
        /// In execution order.
        public let instructions: [InstructionTime]
        /// What the device reaches at best.
        public let rates: DeviceRates
    }

    /// What was measured.
    public struct Result: Sendable {
        /// Milliseconds per image of each repeat, in order.
        public let millisecondsPerImage: [Double]
        /// The device that computed.
        public let device: DeviceDescription
        /// Why this device was chosen, and a warning if another had to be passed over.
        public let deviceNotes: (reason: String, warning: String?)
        /// Bytes on the device.
        public let byteCount: Int
        /// The least that any placing of the same values would need.
        public let leastByteCount: Int
        /// Where the time goes, if that was asked for.
        public let profile: Profile?

        /// The fastest repeat.
        public var minimum: Double { millisecondsPerImage.min() ?? 0 }
        /// The median repeat.
        public var median: Double { Benchmark.median(millisecondsPerImage) }
    }

    /// Runs `warmup` batches, then `repeats` timed ones, on random input.
    ///
    /// - Parameters:
    ///   - model: the network; its trainable parameters are trained in training mode.
    ///   - mode: what is timed.
    ///   - batchSize: images per batch.
    ///   - repeats: timed batches.
    ///   - warmup: batches before.
    ///   - device: where to compute.
    ///   - frozenStatistics: what batch norms with frozen parameters do.
    ///   - profiles: whether to time every instruction as well, in as many runs, one at a time.
    /// - Returns: times per image and the device's description.
    /// - Throws: ``GraftError/invalidArgument(_:)``; `DeviceError` when the plan does not fit the device.
    public static func run(
        _ model: Model, mode: Mode, batchSize: Int, repeats: Int, warmup: Int = 2, device: Device,
        frozenStatistics: FrozenStatistics = .keep, profiles: Bool = false
    ) throws -> Result {
        try Limits.check(batchSize: batchSize)
        guard (1...1_000_000).contains(repeats) else {
            throw GraftError.invalidArgument("--repeats \(repeats): expected 1 to 1000000")
        }
        let size = model.preprocessing.imageSize
        let random = CounterRandom(seed: 1, 0xBE4C)
        switch mode {
        case .infer:
            let extractor = try FeatureExtractor(model, layers: ["logits"], device: device, batchSizes: [batchSize])
            // First of all: a plan that is too large for the device ends here.
            let (engine, request) = try extractor.preparedEngine(batch: batchSize)
            let shape: Shape = [batchSize, 3, size, size]
            let input = HostTensor(shape, (0..<shape.elementCount).map { Float(random.uniform($0)) * 4 - 2 })
            let times = try time(repeats: repeats, warmup: warmup, batchSize: batchSize) {
                try engine.write(input, to: "input", of: request)
                try engine.run(request)
                _ = try engine.read("logits", of: request)
            }
            return Result(
                millisecondsPerImage: times, device: extractor.deviceDescription,
                deviceNotes: extractor.deviceNotes, byteCount: engine.plan.totalByteCount,
                leastByteCount: engine.plan.leastByteCount,
                profile: profiles ? try profile(engine, request, StepConstants(), repeats) : nil)
        case .train:
            let trainer = try Trainer(model, device: device, frozenStatistics: frozenStatistics)
            _ = try trainer.preparedEngine(batch: batchSize)
            let pixels = (0..<batchSize * size * size * 3).map { UInt8(random.integer(below: 256, $0)) }
            let labels = (0..<batchSize).map { Int32(random.integer(below: model.classCount, 1 << 40 + $0)) }
            let times = try time(repeats: repeats, warmup: warmup, batchSize: batchSize) {
                _ = try trainer.step(pixels: pixels, labels: labels, learningRate: 1e-5)
            }
            let (engine, request) = try trainer.preparedEngine(batch: batchSize)
            return Result(
                millisecondsPerImage: times, device: trainer.deviceDescription,
                deviceNotes: trainer.deviceNotes, byteCount: engine.plan.totalByteCount,
                leastByteCount: engine.plan.leastByteCount,
                profile: profiles ? try profile(engine, request, trainer.nextConstants, repeats) : nil)
        }
    }

    private static func profile(
        _ engine: Engine, _ request: Engine.Request, _ constants: StepConstants, _ repeats: Int
    ) throws -> Profile {
        let program = try engine.program(of: request)
        let runs = try (0..<repeats).map { _ in try engine.profile(request, constants) }
        let instructions = program.instructions.enumerated().map { index, instruction in
            InstructionTime(
                node: instruction.node, primitive: instruction.primitive.label, shape: instruction.primitive.shapeText,
                seconds: runs.map { $0[index] }.sorted()[repeats / 2],
                operationCount: 2 * instruction.primitive.multiplyAccumulateCount,
                byteCount: program.operandByteCount(of: instruction))
        }
        return Profile(instructions: instructions, rates: try DeviceRates(backend: engine.backend))
    }

    static func median(_ values: [Double]) -> Double {
        let sorted = values.sorted()
        guard !sorted.isEmpty else { return 0 }
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    static func time(repeats: Int, warmup: Int, batchSize: Int, _ body: () throws -> Void) throws -> [Double] {
        for _ in 0..<max(warmup, 0) { try body() }
        let clock = ContinuousClock()
        return try (0..<repeats).map { _ in
            let elapsed = try clock.measure(body)
            let seconds = Double(elapsed.components.seconds) + Double(elapsed.components.attoseconds) * 1e-18
            return seconds * 1e3 / Double(batchSize)
        }
    }
}
