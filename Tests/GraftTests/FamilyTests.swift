import Foundation
import Graft
import GraftCheckpoint
import GraftTensor
import GraftVision
import Testing

/// Families beside ResNet against PyTorch in float64, on formula weights and pixels (`Fixtures/make_families.py`): logits,
/// the gradients of the first step, ten losses, and the logits of the trained network with its running statistics.
@Suite(.serialized) struct FamilyTests {
    private struct Run: Decodable {
        let trainable: String
        let statistics: String
        let losses: [Double]
        let gradients: [String: Double]
        let logits: [Double]
    }

    private struct Entry: Decodable {
        let logits: [Double]
        let runs: [Run]
    }

    private static let reference: [String: Entry] = {
        let url = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Fixtures/families.json")
        let data = (try? Data(contentsOf: url)) ?? Data()
        return (try? JSONDecoder().decode([String: Entry].self, from: data)) ?? [:]
    }()

    static let names: [String] = reference.keys.sorted()
    private static let images = 4
    private static let side = 64
    private static let pixels = FormulaWeights.uniform("pixels", seed: 1, count: images * side * side * 3).map {
        UInt8(256 * $0)
    }

    private func model(_ name: String) throws -> Model {
        var model = try Model(name, classCount: 5)
        try model.replaceState(FormulaWeights.state(of: model, seed: 1))
        model.preprocessing = try ImagePreprocessing(imageSize: Self.side, resize: nil)
        return model
    }

    private func expectClose(_ found: [Float], _ wanted: [Double], _ tolerance: Double, _ what: String) {
        let scale = wanted.reduce(0) { max($0, abs($1)) }
        let worst = zip(found, wanted).reduce(0.0) { max($0, abs(Double($1.0) - $1.1)) }
        #expect(found.count == wanted.count)
        #expect(worst <= tolerance * scale, "\(what): off by \(worst) of \(scale)")
    }

    @Test func everyFamilyIsThere() {
        let families = Set(Self.names.compactMap { try? Architecture.named($0).family })
        let others = Set(Architecture.all.map(\.family)).subtracting(families)
        #expect(others == ["ResNet", "VGG", "AlexNet", "SqueezeNet", "CIFAR ResNet"])
    }

    @Test(arguments: names, parityDevices)
    func logitsArePyTorchs(_ name: String, device: String) throws {
        let entry = try #require(Self.reference[name])
        let extractor = try FeatureExtractor(model(name), layers: ["logits"], device: Device(device))
        let found = try extractor.features(ofPixels: Self.pixels, count: Self.images)["logits"]?.floats
        expectClose(try #require(found), entry.logits, 1e-5, "\(name) on \(device)")
    }

    @Test(arguments: names, parityDevices)
    func trainingFollowsPyTorch(_ name: String, device: String) throws {
        for run in try #require(Self.reference[name]).runs {
            var model = try model(name)
            model.freeze()
            try model.unfreeze(run.trainable)
            let trainer = try Trainer(
                model, optimizer: .sgd(learningRate: 1e-3, momentum: 0.9), device: Device(device),
                frozenStatistics: try #require(FrozenStatistics(rawValue: run.statistics)), dropout: false)
            let labels = (0..<Self.images).map { Int32($0 % 5) }
            let what = "\(name) on \(device), \(run.trainable) trained, statistics \(run.statistics)"
            for (step, wanted) in run.losses.enumerated() {
                let loss = try trainer.step(pixels: Self.pixels, labels: labels).loss
                #expect(
                    abs(loss - wanted) <= 1e-3 * abs(wanted), "\(what): step \(step): loss \(loss), PyTorch \(wanted)")
                guard step == 0 else { continue }
                let gradients = try trainer.gradients()
                #expect(Set(gradients.keys) == Set(run.gradients.keys), "\(what): trained tensors differ")
                let floor = 1e-5 * (run.gradients.values.max() ?? 0)
                for (tensor, wanted) in run.gradients {
                    let values = gradients[tensor]?.floats ?? []
                    let found = values.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
                    #expect(
                        abs(found - wanted) <= 1e-3 * max(wanted, floor),
                        "\(what): gradient norm of \(tensor) \(found), PyTorch \(wanted)")
                }
            }
            let found = try #require(try trainer.logits(ofPixels: Self.pixels, count: Self.images).floats)
            expectClose(found, run.logits, 2e-3, "\(what): trained logits")
        }
    }

    /// Frozen layers, their statistics and their folded copies stay as they are, to the last bit.
    @Test func frozenStaysFrozen() throws {
        var model = try model("mobilenet_v3_small")
        model.freeze()
        try model.unfreeze("features.8,head")
        let trainer = try Trainer(model, device: Device("cpu"), dropout: true)
        for _ in 0..<2 { _ = try trainer.step(pixels: Self.pixels, labels: [0, 1, 2, 3]) }
        let trained = try trainer.model().state
        for (name, tensor) in model.state {
            let isTrained = name.hasPrefix("features.8.") || name.hasPrefix("classifier.3.")
            #expect((trained[name] == tensor) == !isTrained, "\(name)")
        }
    }

    @Test(arguments: [
        ("resnet18", 224, 256, Interpolation.bilinear), ("mobilenet_v2", 224, 232, .bilinear),
        ("mobilenet_v3_small", 224, 256, .bilinear), ("mobilenet_v3_large", 224, 232, .bilinear),
        ("densenet121", 224, 256, .bilinear), ("efficientnet_b0", 224, 256, .bicubic),
        ("efficientnet_b1", 240, 255, .bilinear), ("efficientnet_b2", 288, 288, .bicubic),
        ("efficientnet_b3", 300, 320, .bicubic), ("regnet_y_400mf", 224, 232, .bilinear),
        ("resnet20_cifar", 32, 32, .bilinear),
    ])
    func picturesAreMadeAsForThePublishedWeights(
        _ name: String, size: Int, resize: Int, interpolation: Interpolation
    ) throws {
        let preprocessing = try Model(name, classCount: 2).preprocessing
        #expect(preprocessing.imageSize == size)
        #expect(preprocessing.resize == resize)
        #expect(preprocessing.interpolation == interpolation)
    }

    /// How torchvision's constructors fill a head.
    @Test func newHeadsStartAsTorchvisions() throws {
        func head(_ name: String) throws -> (weights: [Float], bias: [Float]) {
            var model = try Model(name, classCount: 2)
            try model.replaceHead(classCount: 40, seed: 5)
            let head = model.architecture.headName
            return (
                try #require(model.state["\(head).weight"]?.floats), try #require(model.state["\(head).bias"]?.floats)
            )
        }
        func deviation(_ values: [Float]) -> Float {
            (values.reduce(0) { $0 + $1 * $1 } / Float(values.count)).squareRoot()
        }
        for name in ["mobilenet_v2", "mobilenet_v3_large", "regnet_y_400mf"] {
            let (weights, bias) = try head(name)
            #expect(abs(deviation(weights) - 0.01) < 5e-4, "\(name)")
            #expect(bias.allSatisfy { $0 == 0 }, "\(name)")
        }
        for (name, bound) in [
            ("efficientnet_b0", 1 / Float(40).squareRoot()), ("densenet121", 1 / Float(1024).squareRoot()),
        ] {
            let (weights, bias) = try head(name)
            #expect(weights.allSatisfy { abs($0) <= bound }, "\(name)")
            #expect(abs(deviation(weights) - bound / Float(3).squareRoot()) < 0.02 * bound, "\(name)")
            #expect(bias.allSatisfy { $0 == 0 }, "\(name)")
        }
    }

    /// torchvision's published DenseNet file has the names of an older module tree.
    @Test func publishedDenseNetNamesAreUnderstood() throws {
        let model = try Model("densenet121", classCount: 3, seed: 2)
        let old = StateDictionary(
            model.state.filter { !$0.name.hasSuffix("num_batches_tracked") }.map { name, tensor in
                var name = name
                if name.contains(".denselayer") {
                    for part in ["norm1", "norm2", "conv1", "conv2"] {
                        name = name.replacingOccurrences(
                            of: ".\(part).", with: ".\(part.dropLast()).\(part.suffix(1)).")
                    }
                }
                return (name, tensor)
            })
        #expect(old["features.denseblock1.denselayer1.norm.1.weight"] != nil)
        let folder = FileManager.default.temporaryDirectory.appendingPathComponent("graft-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let path = folder.appendingPathComponent("densenet.safetensors").path
        try Safetensors.write(old, metadata: [:], to: path)
        let loaded = try Model("densenet121", weights: path)
        #expect(Set(loaded.state.names) == Set(model.state.names))
        for (name, tensor) in model.state where !name.hasSuffix("num_batches_tracked") {
            #expect(loaded.state[name] == tensor, "\(name)")
        }
    }
}
