import Foundation
import Graft
import GraftCheckpoint
import GraftTensor
import Testing

@Suite struct ArchitectureTests {
    private struct Entry: Decodable {
        let tensors: Int
        let elements: Int
        let sha256: String
    }

    private static let reference: [String: Entry] = {
        let url = URL(fileURLWithPath: #filePath).deletingLastPathComponent()
            .appendingPathComponent("Fixtures/architectures.json")
        let data = (try? Data(contentsOf: url)) ?? Data()
        return (try? JSONDecoder().decode([String: Entry].self, from: data)) ?? [:]
    }()

    @Test func everyArchitectureHasAReference() {
        #expect(Set(Architecture.all.map(\.name)) == Set(Self.reference.keys))
    }

    @Test(arguments: Architecture.all.map(\.name))
    func stateDictionaryIsPyTorchs(_ name: String) throws {
        let entry = try #require(Self.reference[name])
        let parameters = try Architecture.named(name).stateDescription(classCount: nil)
        #expect(parameters.count == entry.tensors)
        #expect(parameters.reduce(0) { $0 + $1.shape.elementCount } == entry.elements)
        let digest = SHA256Digest()
        for parameter in parameters { digest.update("\(parameter.name) \(parameter.shape)\n") }
        #expect(try digest.hex() == entry.sha256)
    }

    @Test func unknownNamesShowNearMatches() {
        #expect(
            throws: GraftError.unknownModel(
                "resnet-18", near: ["resnet18", "resnet101", "resnet152", "resnet34", "resnet50"])
        ) {
            try Architecture.named("resnet-18")
        }
    }

    @Test(arguments: [
        ("resnet18", "fc"), ("vgg11", "classifier.6"), ("squeezenet1_1", "classifier.1"), ("resnet20_cifar", "linear"),
    ])
    func headsAreReplacedAndEverythingElseKept(_ name: String, head: String) throws {
        var model = try Model(name, classCount: 7, seed: 3)
        let before = model.state
        model.freeze()
        try model.replaceHead(classCount: 3, seed: 4)
        #expect(model.classCount == 3)
        #expect(model.trainable == ["\(head).weight", "\(head).bias"])
        #expect(model.state["\(head).weight"]?.shape[0] == 3)
        for (tensor, value) in before where !tensor.hasPrefix(head + ".") { #expect(model.state[tensor] == value) }
        let weight = try #require(model.state["\(head).weight"])
        let values = try #require(weight.floats)
        if weight.shape.rank == 2 {
            let bound = 1 / Float(weight.shape[1]).squareRoot()
            #expect(values.allSatisfy { abs($0) <= bound } == true)
        } else {
            // A wider start of SqueezeNet's head leaves half of a two-class head behind its ReLU.
            let deviation = (values.reduce(0) { $0 + $1 * $1 } / Float(values.count)).squareRoot()
            #expect(abs(deviation - 0.01) < 0.001)
            #expect(model.state["\(head).bias"]?.floats?.allSatisfy { $0 == 0 } == true)
        }
    }

    /// The check values and the checksum of the reference's README.
    @Test func formulaWeightsAreTheReferences() throws {
        let model = try Model("resnet18")
        let state = FormulaWeights.state(of: model, seed: 1)
        let stem = try #require(state["conv1.weight"]?.floats)
        #expect(
            [stem[0], stem[1], stem[2], stem[9407]] == [
                -0.1996212750673294, 0.09769745171070099, 0.08355973660945892, -0.13292944431304932,
            ])
        #expect(state["bn1.weight"]?.floats?.first == 0.9128189086914062)
        #expect(state["bn1.running_mean"]?.floats?.first == 0.1872824877500534)
        #expect(state["bn1.running_var"]?.floats?.first == 1.3537259101867676)
        #expect(state["layer1.0.bn1.weight"]?.floats?.first == 0.8654382228851318)
        #expect(state["layer1.0.bn2.weight"]?.floats?.first == 0.34591373801231384)
        #expect(state["layer1.0.bn2.bias"]?.floats?.first == 0.08264851570129395)
        #expect(state["layer2.0.downsample.1.weight"]?.floats?.first == 0.7763999700546265)
        // The runner writes counters as vectors of one element.
        let written = StateDictionary(
            state.map { name, tensor in (name, tensor.int64s == nil ? tensor : tensor.reshaped([1])) })
        #expect(
            try GraftCheckpoint.digest(of: written)
                == "3b0908d63caa5aaaaeb3cc4b0efe06faa313fe1b7a84e627235a7aaccf181c0e")
    }

    @Test func selectors() throws {
        var model = try Model("resnet18", classCount: 4)
        model.freeze()
        #expect(try model.unfreeze("layer3").count == 15)
        #expect(try model.unfreeze("layer3") == [])
        try model.freeze("layer3.0")
        #expect(model.trainable.contains("layer3.1.conv1.weight"))
        #expect(!model.trainable.contains("layer3.0.conv1.weight"))
        #expect(try model.names("head") == ["fc.weight", "fc.bias"])
        #expect(try model.names("layer?.0.bn1").count == 8)
        #expect(try model.names("*.bias").allSatisfy { $0.hasSuffix(".bias") })
        #expect(try model.names("backbone").count + 2 == model.names("all").count)
        #expect(throws: GraftError.self) { try model.names("layer9") }
        let near = nearMatchesOfFailure { try model.names("layr3") }
        #expect(near.contains("layer3"))
    }

    private func nearMatchesOfFailure(_ body: () throws -> [String]) -> [String] {
        do {
            _ = try body()
        } catch {
            if let error = error as? GraftError, case .unknownSelector(_, let near) = error { return near }
        }
        return []
    }
}
