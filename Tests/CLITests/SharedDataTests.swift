import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

/// Real weights and images, held against PyTorch's numbers. Skipped where the data are not beside the repository.
@Suite(.enabled(if: Graft.shared != nil, "no ../shared beside the repository, and GRAFT_SHARED is not set"))
struct SharedDataTests {
    static let devices: [String] = {
        let listing = try? Graft.run(["devices", "--json"]).json["devices"] as? [[String: Any]]
        let hasOpenCL = (listing ?? []).contains { ($0["selector"] as? String)?.hasPrefix("opencl:") == true }
        return hasOpenCL ? ["cpu", "opencl"] : ["cpu"]
    }()

    private static func path(_ relative: String) throws -> String {
        try #require(Graft.shared).appending(path: relative).path
    }

    @Test(arguments: devices) func cifarEvaluatesAsInPyTorch(_ device: String) throws {
        let folder = try TemporaryFolder()
        let result = try Graft.run([
            "evaluate", try Self.path("data/cifar10/test"), "--model", "resnet20_cifar", "--weights",
            try Self.path("data/cifar_resnet/resnet20-12fca82f.th"), "--image-size", "32", "--resize", "32", "--device",
            device, "--logits", folder.path + "/logits.npz", "--json",
        ])
        #expect(result.status == 0, "\(result.errors)")
        #expect(try result.json["top1_correct"] as? Int == 455)
        let found = try CheckpointReader.load(folder.path + "/logits.npz").state
        let expected = try CheckpointReader.load(try Self.path("reference/traces/resnet20_cifar_test500.npz")).state
        let logits = try #require(found["logits"]?.floats)
        let reference = try #require(expected["logits"]?.floats)
        #expect(logits.count == reference.count)
        #expect(found["labels"] == expected["labels"])
        #expect(zip(logits, reference).allSatisfy { abs($0 - $1) < 1e-3 })
        for row in 0..<500 {
            let scores = logits[row * 10..<row * 10 + 10]
            let wanted = reference[row * 10..<row * 10 + 10]
            #expect(
                scores.firstIndex(of: scores.max() ?? 0) == wanted.firstIndex(of: wanted.max() ?? 0), "image \(row)")
        }
    }

    @Test(arguments: ["squeezenet1_1.pth", "squeezenet1_1-legacy.pth", "squeezenet1_1.safetensors"])
    func featuresOfPhotographsEqualPyTorchs(_ file: String) throws {
        let folder = try TemporaryFolder()
        let result = try Graft.run([
            "extract", try Self.path("data/hymenoptera/val"), "--model", "squeezenet1_1", "--weights",
            try Self.path("data/squeezenet1_1/" + file), "--layer", "features", "--limit", "2", "--exif", "ignore",
            "--device", "cpu", "--out", folder.path + "/features.npz", "--quiet",
        ])
        #expect(result.status == 0, "\(result.errors)")
        let found = try CheckpointReader.load(folder.path + "/features.npz").state["features"]
        let expected = try CheckpointReader.load(try Self.path("reference/traces/squeezenet1_1_val2_maps.npz")).state[
            "features"]
        #expect(found?.shape == expected?.shape)
        let values = try #require(found?.floats)
        let reference = try #require(expected?.floats)
        let largest = reference.map(abs).max() ?? 0
        #expect(zip(values, reference).allSatisfy { abs($0 - $1) <= 1e-4 * largest })
    }

    /// The recipe with its defaults: what the last of five epochs reaches, not the luckiest.
    @Test func fiveEpochsOfTheHeadReachNinetyTwoPerCent() throws {
        let folder = try TemporaryFolder()
        let weights = try Self.path("data/squeezenet1_1/squeezenet1_1.pth")
        let result = try Graft.run([
            "train", try Self.path("data/hymenoptera"), "--model", "squeezenet1_1", "--weights", weights, "--epochs",
            "5",
            "--device", "cpu", "--out", folder.path + "/run", "--quiet",
        ])
        #expect(result.status == 0, "\(result.errors)")
        let rows = try String(contentsOfFile: folder.path + "/run/epochs.csv", encoding: .utf8).split(separator: "\n")
        #expect(rows.count == 6)
        let accuracy = rows.last.flatMap { Double($0.split(separator: ",")[4]) } ?? 0
        #expect(accuracy >= 0.92)
        let before = try CheckpointReader.load(weights).state
        let after = try CheckpointReader.load(folder.path + "/run/last.safetensors").state
        for name in before.names where !name.hasPrefix("classifier.1.") {
            #expect(before[name] == after[name], "\(name)")
        }
    }

    /// Ten steps of a trace: the loss at each, and the frozen tensors byte for byte.
    @Test(arguments: devices, ["keep", "track"]) func fineTuningFollowsTheTrace(_ device: String, _ mode: String) throws
    {
        let folder = try TemporaryFolder()
        let weights = try Self.path("data/cifar_resnet/resnet20-12fca82f.th")
        let result = try Graft.run([
            "train", try Self.path("data/cifar10/train"), "--list",
            try Self.path("reference/lists/cifar10_train_first320.txt"),
            "--model", "resnet20_cifar", "--weights", weights, "--head-weights",
            try Self.path("reference/heads/resnet20_cifar-head10-seed3.safetensors"), "--unfreeze", "layer3",
            "--image-size", "32", "--resize", "32", "--batch-size", "32", "--steps", "10", "--learning-rate", "0.01",
            "--frozen-statistics", mode, "--no-shuffle", "--device", device, "--out", folder.path + "/run", "--quiet",
        ])
        #expect(result.status == 0, "\(result.errors)")
        let data = try Data(
            contentsOf: URL(filePath: try Self.path("reference/traces/resnet20_cifar_layer3_linear_\(mode).json")))
        let trace = try #require(try JSONSerialization.jsonObject(with: data) as? [String: Any])
        let expected = try #require(trace["steps"] as? [[String: Any]]).compactMap { $0["loss"] as? Double }
        let rows = try String(contentsOfFile: folder.path + "/run/steps.csv", encoding: .utf8).split(separator: "\n")
        let losses = rows.dropFirst().compactMap { Double($0.split(separator: ",")[2]) }
        #expect(losses.count == expected.count)
        for (step, (loss, reference)) in zip(losses, expected).enumerated() {
            #expect(abs(loss - reference) <= 1e-4 * reference, "step \(step): \(loss), PyTorch \(reference)")
        }
        let before = try CheckpointReader.load(weights).state
        let after = try CheckpointReader.load(folder.path + "/run/last.safetensors").state
        for name in before.names where !name.hasPrefix("layer3") && !name.hasPrefix("linear") {
            let isTracked = mode == "track" && name.contains("running_")
            #expect((before[name] == after[name]) != isTracked, "\(name)")
        }
    }
}
