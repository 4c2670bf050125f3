import GraftGraph
import GraftTensor
import GraftVision

/// Runs a network in inference mode and returns what its layers compute.
///
/// Everything is frozen here: batch norms are folded, ReLU and residual additions are fused, and layers behind the last
/// one asked for are left out.
///
/// ```swift
/// let extractor = try FeatureExtractor(model, layers: ["avgpool"], device: .auto)
/// let features = try extractor.features(ofPixels: pixels, count: 8)["avgpool"]  // [8, 512, 1, 1]
/// ```
public final class FeatureExtractor {
    /// The network.
    public let model: Model
    /// The layers asked for: torchvision's node or module names, `NAME:input`, or `logits`.
    public let layers: [String]
    /// What becomes of maps.
    public let pooling: FeaturePooling
    /// The device that computes.
    public var deviceDescription: DeviceDescription { opened.backend.description }
    /// Why this device was chosen, and a warning if another had to be passed over.
    public var deviceNotes: (reason: String, warning: String?) { (opened.reason, opened.warning) }

    private let opened: Device.Opened
    private var engines: [LoweringOptions.Input: Engine] = [:]
    private var batchSizes: [LoweringOptions.Input: Set<Int>] = [:]
    private let expectedBatchSizes: Set<Int>

    /// Checks the layers' names and opens the device.
    ///
    /// - Parameters:
    ///   - model: the network.
    ///   - layers: names; an unknown one is an error that shows near matches.
    ///   - pooling: whether maps `[N, C, H, W]` are reduced to `[N, C]`.
    ///   - device: where to compute.
    ///   - batchSizes: sizes to prepare for at once; another size is prepared when it first comes. Algorithms are
    ///     chosen for the largest of them.
    /// - Throws: `GraphError.unknownNode`; `DeviceError` when the device cannot be used.
    public init(
        _ model: Model, layers: [String], pooling: FeaturePooling = .none, device: Device = .auto,
        batchSizes: Set<Int> = []
    ) throws {
        guard !layers.isEmpty else { throw GraftError.invalidArgument("no layer was asked for") }
        for (position, layer) in layers.enumerated() {
            _ = try model.graph.index(of: layer)
            guard !layers.prefix(position).contains(layer) else {
                throw GraftError.invalidArgument("layer \(layer) is asked for twice; name each layer once")
            }
        }
        self.model = model
        self.layers = layers
        self.pooling = pooling
        opened = try device.open(
            running: Self.primitives(of: model, layers: layers, isExact: device.isExact))
        expectedBatchSizes = batchSizes
        // Before anyone decodes a batch that the device has no room for.
        if let largest = batchSizes.max() {
            let size = model.preprocessing.imageSize
            try Engine.check(
                model.graph, request: Engine.Request(batch: largest, isTraining: false),
                options: loweringOptions(
                    .pixels(mean: model.preprocessing.mean, deviation: model.preprocessing.standardDeviation),
                    height: size, width: size), backend: opened.backend)
        }
    }

    /// What the extraction runs.
    private static func primitives(of model: Model, layers: [String], isExact: Bool) -> Set<Primitive.Kind> {
        let preprocessing = model.preprocessing
        let size = preprocessing.imageSize
        var options = LoweringOptions(
            batch: 32, height: size, width: size, mode: .inference,
            input: .pixels(mean: preprocessing.mean, deviation: preprocessing.standardDeviation))
        options.outputs = layers
        options.allowsWinograd = !isExact
        // A network that cannot be lowered says why when it is to run.
        return Set((try? Program(model.graph, options))?.instructions.map(\.primitive.kind) ?? [])
    }

    private func loweringOptions(_ input: LoweringOptions.Input, height: Int, width: Int) -> LoweringOptions {
        var options = LoweringOptions(batch: 0, height: height, width: width, mode: .inference, input: input)
        options.outputs = layers
        options.allowsWinograd = !opened.isExact
        // The last batch is smaller, and is computed as the others are.
        options.algorithmBatch = expectedBatchSizes.max()
        return options
    }

    /// The outputs for a batch of decoded images.
    ///
    /// - Parameters:
    ///   - pixels: `count` images of `imageSize × imageSize` RGB pixels, uint8 `[N, H, W, 3]`.
    ///   - count: images in the batch.
    /// - Returns: by layer name, float32 `[N, C, H, W]`; `[N, C]` for layers from the flattening on and where maps are
    ///   pooled.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for a wrong byte count; `DeviceError`.
    public func features(ofPixels pixels: [UInt8], count: Int) throws -> [String: HostTensor] {
        let size = model.preprocessing.imageSize
        guard count > 0, pixels.count == count * size * size * 3 else {
            throw GraftError.invalidArgument(
                "\(pixels.count) bytes of pixels for \(count) images of \(size)×\(size)×3, expected \(count * size * size * 3)"
            )
        }
        let input = LoweringOptions.Input.pixels(
            mean: model.preprocessing.mean, deviation: model.preprocessing.standardDeviation)
        let tensor = HostTensor(shape: [count, size, size, 3], storage: .uint8(pixels))
        return try run(tensor, role: "pixels", input: input, batch: count, height: size, width: size)
    }

    /// The outputs for a batch that is already normalised.
    ///
    /// - Parameter input: float32 `[N, 3, S, S]` with S the preprocessing's image size.
    /// - Returns: by layer name, float32 `[N, C, H, W]`; `[N, C]` for layers from the flattening on and where maps are
    ///   pooled.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for another shape; `DeviceError`.
    public func features(of input: HostTensor) throws -> [String: HostTensor] {
        let size = model.preprocessing.imageSize
        guard input.shape.rank == 4, input.shape[0] > 0, input.shape[1] == 3, input.shape[2] == size,
            input.shape[3] == size,
            input.floats != nil
        else {
            throw GraftError.invalidArgument(
                "the input has shape \(input.shape), expected float32 [N, 3, \(size), \(size)]")
        }
        return try run(input, role: "input", input: .tensor, batch: input.shape[0], height: size, width: size)
    }

    /// Bytes of device memory that a batch size needs, before anything is allocated.
    public func plannedByteCount(batchSize: Int) throws -> Int {
        try Limits.check(batchSize: batchSize)
        let size = model.preprocessing.imageSize
        var options = loweringOptions(
            .pixels(mean: model.preprocessing.mean, deviation: model.preprocessing.standardDeviation), height: size,
            width: size)
        options.batch = batchSize
        return try MemoryPlan(programs: [Program(model.graph, options)], layout: MemoryLayout(backend: opened.backend))
            .totalByteCount
    }

    private func run(
        _ tensor: HostTensor, role: String, input: LoweringOptions.Input, batch: Int, height: Int, width: Int
    ) throws -> [String: HostTensor] {
        let request = Engine.Request(batch: batch, isTraining: false)
        let engine = try engine(for: request, input: input, height: height, width: width)
        try engine.write(tensor, to: role, of: request)
        try engine.run(request)
        var result: [String: HostTensor] = [:]
        for layer in layers {
            let value = try engine.read(layer, of: request)
            let isFlat = try model.graph.isFlat(model.graph.index(of: layer))
            result[layer] = isFlat ? value.reshaped([value.shape[0], value.shape[1]]) : pooled(value)
        }
        return result
    }

    /// Height and width reduced to one number; sums are in Double, in the order of the pixels.
    private func pooled(_ maps: HostTensor) -> HostTensor {
        guard pooling != .none, maps.shape.rank == 4, let values = maps.floats else { return maps }
        let area = maps.shape[2] * maps.shape[3]
        let reduced = (0..<maps.shape[0] * maps.shape[1]).map { index -> Float in
            let map = values[index * area..<(index + 1) * area]
            return pooling == .max
                ? map.max() ?? 0 : Float(map.reduce(0.0) { $0 + Double($1) } / Double(area))
        }
        return HostTensor([maps.shape[0], maps.shape[1]], reduced)
    }

    private func engine(
        for request: Engine.Request, input: LoweringOptions.Input, height: Int, width: Int
    ) throws -> Engine {
        if let engine = engines[input], engine.serves(request) { return engine }
        let sizes = batchSizes[input, default: expectedBatchSizes].union([request.batch])
        batchSizes[input] = sizes
        engines[input] = nil
        let engine = try Engine(
            model.graph, state: model.state,
            requests: sizes.sorted(by: >).map { Engine.Request(batch: $0, isTraining: false) },
            options: loweringOptions(input, height: height, width: width), backend: opened.backend)
        engines[input] = engine
        return engine
    }

    /// The engine's program for a batch size, for benchmarks.
    func preparedEngine(batch: Int) throws -> (engine: Engine, request: Engine.Request) {
        let request = Engine.Request(batch: batch, isTraining: false)
        let size = model.preprocessing.imageSize
        return (try engine(for: request, input: .tensor, height: size, width: size), request)
    }
}
