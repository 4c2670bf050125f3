import GraftCheckpoint
import GraftTensor
import Testing

/// Needs the data folder beside the repository; skipped without it.
@Suite(.enabled(if: TestFiles.hasShared, "the shared data folder is absent")) struct RealFileTests {
    private func load(_ path: String) throws -> LoadedCheckpoint {
        try CheckpointReader.load(TestFiles.shared + "/" + path)
    }

    @Test func threeContainersHoldTheSameTensors() throws {
        let zip = try load("data/squeezenet1_1/squeezenet1_1.pth")
        let legacy = try load("data/squeezenet1_1/squeezenet1_1-legacy.pth")
        let safetensors = try load("data/squeezenet1_1/squeezenet1_1.safetensors")
        #expect(zip.container == .torchZip)
        #expect(legacy.container == .torchLegacy)
        #expect(safetensors.container == .safetensors)
        #expect(zip.state == legacy.state)
        #expect(zip.state.count == 52)
        #expect(zip.state.elementCount == 1_235_496)
        #expect(zip.state["features.0.weight"]?.shape == [64, 3, 3, 3])
        let sums = try [zip, legacy, safetensors].map { try digest(of: $0.state) }
        #expect(sums[0] == sums[1])
        #expect(sums[0] == sums[2])
    }

    @Test(arguments: [("resnet20-12fca82f.th", 20, 91.78), ("resnet32-d509ac18.th", 32, 92.78)])
    func cifarCheckpoints(_ name: String, _ depth: Int, _ accuracy: Double) throws {
        let loaded = try load("data/cifar_resnet/\(name)")
        #expect(loaded.container == .torchLegacy)
        #expect(loaded.strippedPrefix == "module.")
        #expect(loaded.wrapper == ["state_dict"])
        #expect(loaded.state["linear.weight"]?.shape == [10, 64])
        #expect(loaded.state["conv1.weight"]?.shape == [16, 3, 3, 3])
        // A convolution and four norm tensors for each layer, and the classifier; these files have no counters.
        #expect(loaded.state.count == (depth - 1) * 5 + 2)
        #expect(loaded.ignored.map(\.name) == ["best_prec1"])
        #expect(loaded.ignored.first.flatMap { Double($0.description) }.map { abs($0 - accuracy) < 0.01 } == true)
    }

    @Test(arguments: [
        ("resnet18-head10-seed2", "e1373ee34965e753d2b1020ee48eb224695628e8d321a8cdcd3f48cef7877d98"),
        ("resnet20_cifar-head10-seed3", "56760b54a517114e5fce320764f975fb38d2aa61545e86f5fc22ff5cd4c5bc03"),
        ("squeezenet1_1-head2-seed3", "39038c3bac90770eec84137ee36b2fc3a15a85266ee1575061f26ed7372e73af"),
    ])
    func publishedDigests(_ name: String, _ expected: String) throws {
        #expect(try digest(of: load("reference/heads/\(name).safetensors").state) == expected)
    }

    @Test func referenceFeatures() throws {
        let archive = try NumpyFile.read(TestFiles.shared + "/reference/traces/squeezenet1_1_val16_pooled.npz")
        #expect(archive["features"]?.shape == [16, 512])
        #expect(archive["logits"]?.floats?.count == 16000)
        #expect(archive["paths"]?.strings?.count == 16)
        #expect(archive["paths"]?.strings?.allSatisfy { $0.hasSuffix(".jpg") } == true)
        #expect(archive["labels"]?.integers?.count == 16)
    }
}
