import Foundation
import GraftGraph
import GraftTensor
import GraftVision
import Testing

@testable import Graft

/// Grad-CAM: the gradient of a score for a layer's outputs, and the map made of it.
@Suite struct ClassActivationTests {
    static func pixels(_ count: Int, side: Int) -> [UInt8] {
        let random = CounterRandom(seed: 4, 1)
        return (0..<count * side * side * 3).map { UInt8(random.uniform($0) * 255) }
    }

    /// Along a direction, the score changes as the gradient says: central differences of the layers behind.
    @Test(
        arguments: [
            ("resnet8_cifar", "layer1", 32), ("squeezenet1_1", "features.7", 64), ("efficientnet_b0", "features.3", 64),
        ],
        parityDevices)
    func theGradientIsTheSlopeOfTheScore(_ network: (name: String, layer: String, side: Int), device: String) throws {
        var model = try Model(network.name, classCount: 5, seed: 3)
        model.preprocessing = try ImagePreprocessing(imageSize: network.side, resize: network.side)
        let explainer = try ClassActivation(model, layer: network.layer, device: Device(device, isExact: true))
        let found = try explainer.gradients(pixels: Self.pixels(2, side: network.side), count: 2, label: 3)
        let values = try #require(found.values.floats)
        let slopes = try #require(found.slopes.floats)
        #expect(found.labels == [3, 3])
        #expect(slopes.count == values.count && slopes.contains { $0 != 0 })

        let node = model.graph.nodes[try model.graph.index(of: network.layer)].name
        var options = LoweringOptions(
            batch: 2, height: network.side, width: network.side, mode: .inference, input: .tensor)
        options.allowsWinograd = false
        let request = Engine.Request(batch: 2, isTraining: false, part: .suffix)
        let engine = try Engine(
            model.graph, state: model.state, requests: [request], options: options, frontier: [node],
            backend: Device(device).open(running: []).backend)
        func score(_ values: [Float]) throws -> Double {
            try engine.write(HostTensor(found.values.shape, values), to: node, of: request)
            try engine.run(request)
            let logits = try #require(try engine.read("logits", of: request).floats)
            return Double(logits[3]) + Double(logits[5 + 3])
        }
        // The scores are those of the whole network.
        #expect(abs(try score(values) - Double(found.logits[3]) - Double(found.logits[8])) < 1e-4)
        let random = CounterRandom(seed: 9, 2)
        // Zeros stay zeros: where a pooling's window holds nothing else, its maximum has no slope.
        let direction = values.indices.map { (Float(random.uniform($0)) - 0.5) * values[$0] }
        // Small enough that few ReLUs and poolings change sides.
        let step: Float = 5e-4
        let ahead = try score(zip(values, direction).map { $0 + step * $1 })
        let behind = try score(zip(values, direction).map { $0 - step * $1 })
        let measured = (ahead - behind) / Double(2 * step)
        let predicted = zip(slopes, direction).reduce(0.0) { $0 + Double($1.0) * Double($1.1) }
        let size = zip(slopes, direction).reduce(0.0) { $0 + abs(Double($1.0) * Double($1.1)) }
        #expect(
            abs(measured - predicted) <= 0.02 * abs(predicted) + 2e-4 * size, "\(measured) against \(predicted)")
    }

    @Test func theMapWeighsChannelsByTheirMeanSlope() throws {
        let model = try Model("resnet8_cifar", classCount: 4, seed: 3)
        let explainer = try ClassActivation(model, device: .cpu)
        #expect(explainer.layer.hasPrefix("layer3."))
        let pixels = Self.pixels(3, side: 32)
        let maps = try explainer.explain(pixels: pixels, count: 3)
        let found = try explainer.gradients(pixels: pixels, count: 3, label: nil)
        let values = try #require(found.values.floats)
        let slopes = try #require(found.slopes.floats)
        let channels = found.values.shape[1]
        let area = found.values.shape[2] * found.values.shape[3]
        for (image, map) in maps.enumerated() {
            #expect(map.label == map.prediction && map.label == found.predictions[image])
            #expect(map.values.shape.dimensions == [found.values.shape[2], found.values.shape[3]])
            for pixel in 0..<area {
                var sum = 0.0
                for channel in 0..<channels {
                    let start = (image * channels + channel) * area
                    let mean = slopes[start..<start + area].reduce(0.0) { $0 + Double($1) } / Double(area)
                    sum += mean * Double(values[start + pixel])
                }
                let expected = Float(max(sum, 0))
                #expect(abs((map.values.floats?[pixel] ?? .nan) - expected) <= 1e-5 * max(1, abs(expected)))
            }
            let picture = map.overlay(on: Array(pixels[image * 32 * 32 * 3..<(image + 1) * 32 * 32 * 3]), imageSize: 32)
            #expect(picture.width == 2 * 224 + 8 && picture.height == 224)
            #expect(Array(picture.pixels.prefix(3)) == Array(pixels[image * 32 * 32 * 3..<image * 32 * 32 * 3 + 3]))
        }
    }

    @Test func theMapIsStretchedBetweenTheCentresOfItsCells() {
        let map = ClassActivation.Map(
            label: 0, probability: 1, prediction: 0, values: HostTensor([2, 2], [0, 2, 4, 2]))
        // torch.nn.functional.interpolate(..., size=4, mode="bilinear", align_corners=False) / 4
        let expected: [Float] = [
            0, 0.125, 0.375, 0.5, 0.25, 0.3125, 0.4375, 0.5, 0.75, 0.6875, 0.5625, 0.5, 1, 0.875, 0.625, 0.5,
        ]
        #expect(zip(map.resized(to: 4), expected).allSatisfy { abs($0 - $1) < 1e-6 })
        let nothing = ClassActivation.Map(
            label: 0, probability: 1, prediction: 0, values: HostTensor([1, 1], [0]))
        #expect(nothing.resized(to: 2) == [0, 0, 0, 0])
    }

    /// The last convolutional stage of every architecture, and refusals that say what to take.
    @Test func theStandardLayerIsTheLastStage() throws {
        for (name, layer) in [
            ("resnet18", "layer4.1.relu_1"), ("vgg11", "features.19"), ("alexnet", "features.11"),
            ("squeezenet1_1", "features.12"), ("mobilenet_v2", "features.18"), ("efficientnet_b0", "features.8"),
        ] {
            let found = try ClassActivation.standardLayer(of: Model(name, classCount: 2))
            #expect(found == layer || found.hasPrefix(layer + "."), "\(name): \(found)")
        }
        let model = try Model("resnet8_cifar", classCount: 2)
        for layer in ["avgpool", "linear", "logits", "input"] {
            #expect(throws: (any Error).self, "\(layer)") { try ClassActivation(model, layer: layer, device: .cpu) }
        }
        #expect(throws: GraphError.self) { try ClassActivation(model, layer: "layer9", device: .cpu) }
    }
}
