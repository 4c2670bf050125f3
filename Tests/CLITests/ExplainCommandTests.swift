import Foundation
import GraftCheckpoint
import GraftTensor
import GraftVision
import Testing

/// `explain`, and `summary --svg`.
@Suite struct ExplainCommandTests {
    @Test func mapsAreWrittenForEveryImage() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 4)
        let out = try TemporaryFolder()
        let trained = try TrainingCommandTests.train(data.path, out.path + "/run", ["--learning-rate", "0.02"])
        #expect(trained.status == 0, "\(trained.errors)")
        let weights = out.path + "/run/last.safetensors"
        let images = [data.path + "/dark/0.png", data.path + "/light/0.png"]
        let options = ["--weights", weights, "--device", "cpu", "--quiet"]
        let explained = try Graft.run(
            ["explain"] + images + options + ["--out", out.path + "/maps", "--maps", out.path + "/m.npz", "--json"])
        #expect(explained.status == 0, "\(explained.errors)")
        #expect(explained.errors.isEmpty)
        let entries = try #require(try explained.json["images"] as? [[String: Any]])
        // Two images of one name: neither picture replaces the other.
        let files = entries.compactMap { $0["file"] as? String }
        #expect(files == [out.path + "/maps/0.png", out.path + "/maps/0-2.png"])
        for file in files {
            let picture = try ImageCodec.decode(contentsOf: file)
            #expect(picture.width == 456 && picture.height == 224)
        }
        #expect(entries.allSatisfy { ["dark", "light"].contains($0["class"] as? String) })
        let maps = try CheckpointReader.load(out.path + "/m.npz").state
        #expect(maps["maps"]?.shape.dimensions == [2, 8, 8])
        #expect(try explained.json["layer"] as? String == "layer3.2.relu_1")

        let named = try Graft.run(
            ["explain", images[0]] + options + ["--out", out.path + "/maps", "--class", "light", "--layer", "layer1"])
        #expect(named.status == 0, "\(named.errors)")
        #expect(named.output.contains("light"))
        let numbered = try Graft.run(
            ["explain", images[0]] + options + ["--out", out.path + "/maps", "--class", "1", "--layer", "layer1"])
        #expect(numbered.output == named.output)

        let unknown = try Graft.run(
            ["explain", images[0]] + options + ["--out", out.path + "/maps", "--class", "ligth"])
        #expect(unknown.status == 64)
        #expect(unknown.errors.contains("did you mean \"light\""), "\(unknown.errors)")
        let flat = try Graft.run(
            ["explain", images[0]] + options + ["--out", out.path + "/maps", "--layer", "linear"])
        #expect(flat.status == 64)
        #expect(flat.errors.contains("layer3.2.relu_1"), "\(flat.errors)")
        let wrong = try Graft.run(
            ["explain", images[0]] + options + ["--out", out.path + "/maps", "--layer", "layr1"])
        #expect(wrong.status == 64)
        #expect(wrong.errors.contains("layer1"), "\(wrong.errors)")
    }

    @Test func theGraphIsDrawn() throws {
        let out = try TemporaryFolder()
        let path = out.path + "/net work.svg"
        let drawn = try Graft.run([
            "summary", "resnet18", "--classes", "10", "--freeze", "all", "--unfreeze", "layer3,head", "--svg", path,
        ])
        #expect(drawn.status == 0, "\(drawn.errors)")
        let svg = try String(contentsOfFile: path, encoding: .utf8)
        #expect(svg.hasPrefix("<svg xmlns="))
        #expect(svg.contains("layer4.1.conv2") && svg.contains("resnet18, 10 classes, input 3×224×224"))
        let nowhere = try Graft.run(["summary", "resnet18", "--svg", out.path + "/no/such/folder.svg"])
        #expect(nowhere.status == 73)
    }

    /// The table of every architecture that is not large, with a frozen part.
    @Test func summariesFitAHundredColumns() throws {
        let listed = try Graft.run(["models", "--json"])
        let models = try #require(try listed.json["models"] as? [[String: Any]])
        let small = models.filter { ($0["parameters"] as? Int ?? .max) < 26_000_000 }
        #expect(small.count > 8)
        for name in small.compactMap({ $0["name"] as? String }) {
            let summary = try Graft.run(["summary", name, "--freeze", "backbone", "--classes", "10"])
            #expect(summary.status == 0, "\(name): \(summary.errors)")
            let longest = summary.output.split(separator: "\n").map(\.count).max() ?? 0
            #expect(longest <= 100, "\(name): \(longest) columns")
        }
    }
}
