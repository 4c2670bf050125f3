import Foundation
import GraftGraph
import GraftTensor
import GraftVision

/// Shows where in an image a network sees a class: Grad-CAM (Selvaraju et al. 2017).
///
/// The gradient of the class's score is computed for the outputs of one layer, by the same kernels that train; each channel
/// counts with the mean of its gradient, and what speaks against the class is left out.
///
/// ```swift
/// let explainer = try ClassActivation(model, device: .auto)
/// let map = try explainer.explain(pixels: pixels, count: 1)[0]
/// let picture = map.overlay(on: pixels, imageSize: 224)
/// ```
public final class ClassActivation {
    /// Where an image's class was seen.
    public struct Map: Sendable {
        /// The class that is explained.
        public let label: Int
        /// Its softmax probability.
        public let probability: Double
        /// The class with the largest score.
        public let prediction: Int
        /// float32 `[h, w]` in the layer's resolution, at least 0, not scaled.
        public let values: HostTensor
    }

    /// The network.
    public let model: Model
    /// The node whose outputs are looked at.
    public let layer: String
    /// The device that computes.
    public var deviceDescription: DeviceDescription { opened.backend.description }
    /// Why this device was chosen, and a warning if another had to be passed over.
    public var deviceNotes: (reason: String, warning: String?) { (opened.reason, opened.warning) }

    private let opened: Device.Opened
    private var engines: [Int: Engine] = [:]
    /// The layer's node.
    private let node: String

    /// Checks the layer and opens the device.
    ///
    /// - Parameters:
    ///   - model: the network.
    ///   - layer: torchvision's name of a node or module; nil takes ``standardLayer(of:)``.
    ///   - device: where to compute.
    /// - Throws: `GraphError.unknownNode`; ``GraftError/invalidArgument(_:)`` for a layer without height and width;
    ///   `DeviceError` when the device cannot be used.
    public init(_ model: Model, layer: String? = nil, device: Device = .auto) throws {
        let name = try layer ?? Self.standardLayer(of: model)
        let size = model.preprocessing.imageSize
        let index = try model.graph.index(of: name)
        let shape = try model.graph.shapes(batch: 1, height: size, width: size)[index]
        let standard = try Self.standardLayer(of: model)
        guard shape.pixelCount > 1, index > 0 else {
            throw GraftError.invalidArgument(
                "layer \(name) has outputs of \(shape.height)×\(shape.width), of which no map can be made; take a "
                    + "convolutional one, such as \(standard)")
        }
        // A node that no score is computed from is refused here, not in the middle of the images.
        var options = LoweringOptions(batch: 1, height: size, width: size, mode: .inference, input: .tensor)
        options.gradientOf = name
        let program = try Program(model.graph, options)
        self.model = model
        self.layer = name
        node = model.graph.nodes[index].name
        opened = try device.open(running: Set(program.instructions.map(\.primitive.kind)))
    }

    /// The last layer before the head that still has height and width and is neither a pooling nor a dropout: the last
    /// convolutional stage.
    public static func standardLayer(of model: Model) throws -> String {
        let graph = model.graph
        let size = model.preprocessing.imageSize
        let shapes = try graph.shapes(batch: 1, height: size, width: size)
        let head = graph.nodes.firstIndex { $0.name.hasPrefix(model.architecture.headName) } ?? graph.outputIndex
        let found = graph.nodes.indices.last { index in
            guard index > 0, index < head, shapes[index].pixelCount > 1 else { return false }
            switch graph.nodes[index].layer {
            case .maxPooling, .averagePooling, .adaptiveAveragePooling, .dropout, .stochasticDepth, .flatten, .input:
                return false
            case .convolution, .linear, .pixelwiseLinear, .batchNormalization, .layerNormalization, .layerScale, .relu,
                .activation, .add, .concatenation, .channelScale,
                .subsampleAndPad:
                return true
            }
        }
        guard let found else {
            throw GraftError.invalidArgument(
                "no layer of \(model.architecture.name) has height and width at --image-size \(size); use a larger one")
        }
        return graph.nodes[found].name
    }

    /// Explains a batch of decoded images.
    ///
    /// - Parameters:
    ///   - pixels: `count` images of `imageSize × imageSize` RGB pixels, uint8 `[N, H, W, 3]`.
    ///   - count: images in the batch.
    ///   - label: the class to explain; nil takes each image's most probable one.
    /// - Returns: a map for each image.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for a wrong byte count or class; `DeviceError`.
    public func explain(pixels: [UInt8], count: Int, label: Int? = nil) throws -> [Map] {
        let size = model.preprocessing.imageSize
        let classCount = model.classCount
        guard count > 0, pixels.count == count * size * size * 3 else {
            throw GraftError.invalidArgument(
                "\(pixels.count) bytes of pixels for \(count) images of \(size)×\(size)×3, expected \(count * size * size * 3)"
            )
        }
        guard label.map({ (0..<classCount).contains($0) }) ?? true else {
            throw GraftError.invalidArgument("class \(label ?? 0) is not among the network's 0 ..< \(classCount)")
        }
        let found = try gradients(pixels: pixels, count: count, label: label)
        guard let values = found.values.floats, let slopes = found.slopes.floats, found.values.shape.rank == 4 else {
            throw GraftError.invalidArgument("the outputs of \(layer) are not float32")
        }
        let channels = found.values.shape[1]
        let height = found.values.shape[2]
        let width = found.values.shape[3]
        let length = channels * height * width
        return (0..<count).map { image in
            let map = Self.map(
                values[image * length..<(image + 1) * length], slopes[image * length..<(image + 1) * length],
                channels: channels, pixelCount: height * width)
            let row = found.logits[image * classCount..<(image + 1) * classCount]
            let largest = Double(row.max() ?? 0)
            let sum = row.reduce(0.0) { $0 + exp(Double($1) - largest) }
            let own = Double(row[row.startIndex + found.labels[image]])
            return Map(
                label: found.labels[image], probability: exp(own - largest) / sum,
                prediction: found.predictions[image], values: HostTensor([height, width], map))
        }
    }

    /// The layer's outputs, and the gradient of each image's class score in them.
    struct Gradients {
        /// float32 `[N, C, H, W]`.
        var values: HostTensor
        /// float32 `[N, C, H, W]`.
        var slopes: HostTensor
        /// `N × classes`.
        var logits: [Float]
        /// The class of each image whose score it is.
        var labels: [Int]
        /// The class with the largest score.
        var predictions: [Int]
    }

    /// Computes gradients; without a label for the class with the largest score, which takes a run more.
    func gradients(pixels: [UInt8], count: Int, label: Int?) throws -> Gradients {
        let size = model.preprocessing.imageSize
        let classCount = model.classCount
        let request = Engine.Request(batch: count, isTraining: false)
        let engine = try engine(batch: count)
        try engine.write(HostTensor(shape: [count, size, size, 3], storage: .uint8(pixels)), to: "pixels", of: request)
        func run(_ labels: [Int?]) throws -> [Float] {
            var weights = [Float](repeating: 0, count: count * classCount)
            for (row, label) in labels.enumerated() {
                if let label { weights[row * classCount + label] = 1 }
            }
            try engine.write(HostTensor([count, classCount, 1, 1], weights), to: "score weights", of: request)
            try engine.run(request)
            return try engine.read("logits", of: request).floats ?? []
        }
        let logits = try run([Int?](repeating: label, count: count))
        let predictions = (0..<count).map { image in
            let row = logits[image * classCount..<(image + 1) * classCount]
            return (row.indices.max { (row[$0], $1) < (row[$1], $0) } ?? row.startIndex) - row.startIndex
        }
        if label == nil { _ = try run(predictions) }
        return Gradients(
            values: try engine.read(node, of: request), slopes: try engine.read("gradient", of: request),
            logits: logits, labels: predictions.map { label ?? $0 }, predictions: predictions)
    }

    /// Channels weighted by the mean of their gradients; negative sums become 0.
    private static func map(
        _ values: ArraySlice<Float>, _ slopes: ArraySlice<Float>, channels: Int, pixelCount: Int
    ) -> [Float] {
        var sums = [Double](repeating: 0, count: pixelCount)
        for channel in 0..<channels {
            let start = values.startIndex + channel * pixelCount
            let slope = slopes.startIndex + channel * pixelCount
            let weight = slopes[slope..<slope + pixelCount].reduce(0.0) { $0 + Double($1) } / Double(pixelCount)
            for pixel in 0..<pixelCount { sums[pixel] += weight * Double(values[start + pixel]) }
        }
        return sums.map { Float(max($0, 0)) }
    }

    private func engine(batch: Int) throws -> Engine {
        if let engine = engines[batch] { return engine }
        let preprocessing = model.preprocessing
        var options = LoweringOptions(
            batch: batch, height: preprocessing.imageSize, width: preprocessing.imageSize, mode: .inference,
            input: .pixels(mean: preprocessing.mean, deviation: preprocessing.standardDeviation))
        options.gradientOf = layer
        options.allowsWinograd = !opened.isExact
        // One batch size at a time is in the device's memory.
        engines = [:]
        let engine = try Engine(
            model.graph, state: model.state, requests: [Engine.Request(batch: batch, isTraining: false)],
            options: options, backend: opened.backend)
        engines[batch] = engine
        return engine
    }
}

extension ClassActivation.Map {
    /// The image, and beside it the same with the map over it: dark where nothing speaks for the class, bright yellow
    /// where most does.
    ///
    /// - Parameters:
    ///   - pixels: one image of `imageSize × imageSize` RGB pixels.
    ///   - imageSize: its side.
    /// - Returns: both views, each at least 224 pixels a side, with a white stripe between them.
    public func overlay(on pixels: [UInt8], imageSize: Int) -> RGBImage {
        let scale = max(1, (224 + imageSize - 1) / imageSize)
        let side = imageSize * scale
        let gap = 8
        let width = 2 * side + gap
        let map = resized(to: side)
        var result = [UInt8](repeating: 255, count: width * side * 3)
        for y in 0..<side {
            for x in 0..<side {
                let source = (y / scale * imageSize + x / scale) * 3
                let heat = Self.colour(map[y * side + x])
                // Where the map is low, the picture shows through in grey.
                let strength = 0.35 + 0.35 * map[y * side + x]
                let grey =
                    0.299 * Float(pixels[source]) + 0.587 * Float(pixels[source + 1]) + 0.114
                    * Float(pixels[source + 2])
                for channel in 0..<3 {
                    let value = pixels[source + channel]
                    result[(y * width + x) * 3 + channel] = value
                    let base = 0.5 * Float(value) + 0.5 * grey
                    let mixed = base * (1 - strength) + 255 * heat[channel] * strength
                    result[(y * width + side + gap + x) * 3 + channel] = UInt8(min(max(mixed.rounded(), 0), 255))
                }
            }
        }
        return RGBImage(width: width, height: side, pixels: result)
    }

    /// The map over its maximum, bilinear between the centres of its cells; all 0 where it is 0 everywhere.
    func resized(to side: Int) -> [Float] {
        let height = values.shape[0]
        let width = values.shape[1]
        let cells = values.floats ?? []
        let largest = cells.max() ?? 0
        guard largest > 0 else { return [Float](repeating: 0, count: side * side) }
        func place(_ index: Int, _ count: Int) -> (Int, Int, Float) {
            let position = max(0, (Float(index) + 0.5) * Float(count) / Float(side) - 0.5)
            let low = min(Int(position), count - 1)
            return (low, min(low + 1, count - 1), position - Float(low))
        }
        var result: [Float] = []
        result.reserveCapacity(side * side)
        for y in 0..<side {
            let (top, bottom, down) = place(y, height)
            for x in 0..<side {
                let (left, right, across) = place(x, width)
                let upper = cells[top * width + left] * (1 - across) + cells[top * width + right] * across
                let lower = cells[bottom * width + left] * (1 - across) + cells[bottom * width + right] * across
                result.append((upper * (1 - down) + lower * down) / largest)
            }
        }
        return result
    }

    /// A scale that grows in brightness throughout, for values in 0 … 1: black, purple, red, orange, yellow.
    private static func colour(_ value: Float) -> [Float] {
        let stops: [[Float]] = [
            [0.0, 0.0, 0.02], [0.25, 0.04, 0.41], [0.58, 0.15, 0.40], [0.87, 0.32, 0.23], [0.99, 0.65, 0.04],
            [0.99, 1.0, 0.64],
        ]
        let position = min(max(value, 0), 1) * Float(stops.count - 1)
        let low = min(Int(position), stops.count - 2)
        let share = position - Float(low)
        return (0..<3).map { stops[low][$0] * (1 - share) + stops[low + 1][$0] * share }
    }
}
