import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

/// Extraction and what comes after it, on pictures and a network made here.
@Suite struct ProbeCommandTests {
    private static let small = [
        "--image-size", "32", "--resize", "32", "--device", "cpu", "--batch-size", "4", "--quiet",
    ]

    /// Pictures of two classes, and two networks that are barely trained.
    private struct Setting {
        let data: TemporaryFolder
        let out: TemporaryFolder
        var weights: String { out.path + "/a/last.safetensors" }
        var others: String { out.path + "/b/last.safetensors" }

        init(imagesPerClass: Int = 10) throws {
            data = try TemporaryFolder()
            try data.writeClasses(imagesPerClass: imagesPerClass)
            out = try TemporaryFolder()
            for (run, seed) in [("a", "1"), ("b", "2")] {
                let result = try Graft.run(
                    [
                        "train", data.path, "--model", "resnet20_cifar", "--epochs", "1", "--steps", "1", "--seed",
                        seed,
                        "--out", out.path + "/" + run,
                    ] + small)
                try #require(result.status == 0, "\(result.errors)")
            }
        }

        func extract(_ file: String, _ more: [String] = [], layer: String = "avgpool") throws -> GraftResult {
            try Graft.run(
                ["extract", data.path, "--weights", weights, "--layer", layer, "--out", out.path + "/" + file] + small
                    + more)
        }
    }

    private static func expectFailure(
        _ arguments: [String], _ status: Int32, _ message: String, sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try Graft.run(arguments)
        #expect(result.status == status, "\(result.errors)", sourceLocation: sourceLocation)
        #expect(result.errors.contains(message), "\(result.errors)", sourceLocation: sourceLocation)
    }

    @Test(arguments: ["logistic", "knn"]) func aProbeIsFittedSavedAndUsed(_ method: String) throws {
        let setting = try Setting()
        for file in ["f.npz", "f.safetensors"] {
            let extracted = try setting.extract(file)
            #expect(extracted.status == 0, "\(extracted.errors)")
        }
        let features = setting.out.path + "/f.npz"
        let probe = setting.out.path + "/probe.safetensors"
        let fitted = try Graft.run([
            "probe", features, "--method", method, "--val", features, "--out", probe, "--json",
        ])
        #expect(fitted.status == 0, "\(fitted.errors)")
        let json = try fitted.json
        #expect(json["fitted_images"] as? Int == 20)
        #expect(json["width"] as? Int == 64)
        #expect((json["held_out"] as? [String: Any])?["images"] as? Int == 4)
        let measured = try #require(json["validation"] as? [String: Any])
        #expect(measured["top1_correct"] as? Int == 20)

        // The other container gives the same.
        let other = try Graft.run([
            "probe", setting.out.path + "/f.safetensors", "--method", method, "--val", features, "--json", "--quiet",
        ])
        #expect(other.status == 0, "\(other.errors)")
        #expect((try other.json["validation"] as? [String: Any])?["top1_correct"] as? Int == 20)

        let text = try Graft.run(["probe", features, "--method", method])
        #expect(text.status == 0, "\(text.errors)")
        #expect(text.output.contains("confusion"))
        #expect(text.output.split(separator: "\n").allSatisfy { $0.count <= 100 })

        let picture = setting.data.path + "/light/3.png"
        let predicted = try Graft.run(
            ["predict", picture, "--weights", setting.weights, "--probe", probe, "--json"] + Self.small)
        #expect(predicted.status == 0, "\(predicted.errors)")
        let images = try #require(try predicted.json["images"] as? [[String: Any]])
        let best = (images[0]["predictions"] as? [[String: Any]])?.first
        #expect(best?["class"] as? String == "light")
        let evaluated = try Graft.run(
            [
                "evaluate", setting.data.path, "--weights", setting.weights, "--probe", probe, "--json", "--device",
                "cpu",
            ])
        #expect(evaluated.status == 0, "\(evaluated.errors)")
        #expect(try evaluated.json["top1_correct"] as? Int == 20)
        #expect(try evaluated.json["confusion"] as? [[Int]] == [[10, 0], [0, 10]])

        try Self.expectFailure(
            ["predict", picture, "--weights", setting.others, "--probe", probe] + Self.small, 65,
            "pass the weights that the features were extracted with")
        try Self.expectFailure(
            ["predict", picture, "--weights", setting.weights, "--probe", features] + Self.small, 65, "is no probe")
    }

    @Test func featuresThatCannotBeProbed() throws {
        let folder = try TemporaryFolder()
        func write(_ name: String, _ arrays: [(String, NumpyArray)]) throws -> String {
            try NumpyArchiveWriter.write(arrays.map { (name: $0.0, array: $0.1) }, to: folder.path + "/" + name)
            return folder.path + "/" + name
        }
        func rows(_ values: [Float], width: Int = 2) -> NumpyArray {
            NumpyArray(shape: [values.count / width, width], storage: .float32(values))
        }
        let good = rows([0, 0, 1, 0, 0, 1, 1, 1, 0, 0.5, 1, 0.5])
        let labels = NumpyArray([0, 1, 0, 1, 0, 1])
        let whole = try write("whole.npz", [("a", good), ("labels", labels)])
        #expect(try Graft.run(["probe", whole, "--c", "1"]).status == 0)
        try Self.expectFailure(
            ["probe", whole, "--out", folder.path + "/p.safetensors"], 65, "does not say which network")
        try Self.expectFailure(
            ["probe", try write("nan.npz", [("a", rows([0, .nan, 1, 0])), ("labels", NumpyArray([0, 1]))])], 65,
            "holds nan in row 0, column 1")
        try Self.expectFailure(
            ["probe", try write("one.npz", [("a", good), ("labels", NumpyArray([0, 0, 0, 0, 0, 0]))])], 65, "one class")
        try Self.expectFailure(["probe", try write("no.npz", [("a", good)])], 65, "has no labels")
        let two = try write("two.npz", [("a", good), ("b", good), ("labels", labels)])
        try Self.expectFailure(["probe", two], 64, "name one with --layer: a, b")
        #expect(try Graft.run(["probe", two, "--layer", "b"]).status == 0)
        try Self.expectFailure(["probe", two, "--layer", "c"], 64, "has no layer c")
        let wide = try write("wide.npz", [("a", rows([0, 0, 1, 0, 0, 1], width: 3)), ("labels", NumpyArray([0, 1]))])
        try Self.expectFailure(["probe", whole, "--val", wide], 65, "numbers of a row 3")
        let named = try write("named.npz", [("a", good), ("labels", labels), ("classes", NumpyArray(["x", "y"]))])
        try Self.expectFailure(["probe", whole, "--val", named], 65, "classes x, y")
        try Self.expectFailure(["probe", folder.path + "/absent.npz"], 66, "absent.npz")
        let text = try folder.write(Array("PK no archive".utf8), to: "broken.npz")
        try Self.expectFailure(["probe", text], 65, "broken.npz")
        try Self.expectFailure(
            ["probe", whole, "--c", "1", "--method", "knn"], 64, "--c does not apply to --method knn")
        try Self.expectFailure(["probe", whole, "--k", "3"], 64, "--k does not apply to --method logistic")
        try Self.expectFailure(["probe", whole, "--out", "p.npz"], 64, "does not end in .safetensors")
    }

    @Test func pooledMapsAreTheirMeanOrLargest() throws {
        let setting = try Setting(imagesPerClass: 3)
        for (file, pool) in [("none.npz", "none"), ("average.npz", "average"), ("max.npz", "max")] {
            let result = try setting.extract(file, ["--pool", pool], layer: "layer3,avgpool")
            #expect(result.status == 0, "\(result.errors)")
        }
        func tensor(_ file: String, _ layer: String) throws -> HostTensor {
            try #require(try CheckpointReader.load(setting.out.path + "/" + file).state[layer])
        }
        let maps = try tensor("none.npz", "layer3")
        #expect(maps.shape == [6, 64, 8, 8])
        let values = try #require(maps.floats)
        let (average, largest) = (try tensor("average.npz", "layer3"), try tensor("max.npz", "layer3"))
        #expect(average.shape == [6, 64])
        #expect(largest.shape == [6, 64])
        for index in 0..<6 * 64 {
            let map = values[index * 64..<(index + 1) * 64]
            let mean = map.reduce(0) { $0 + Double($1) } / 64
            #expect(abs(Double(average.floats?[index] ?? .nan) - mean) <= 1e-6 * max(1, mean.magnitude))
            #expect(largest.floats?[index] == map.max())
        }
        #expect(try tensor("average.npz", "avgpool").shape == [6, 64])
        #expect(try tensor("none.npz", "avgpool").shape == [6, 64, 1, 1])
    }

    /// A picture that cannot be read ends the first run in its middle; with another in its place the second goes on.
    @Test func anInterruptedExtractionGoesOnToTheSameBytes() throws {
        let setting = try Setting(imagesPerClass: 10)
        let picture = setting.data.url.appending(path: "light/2.png")
        let whole = try Data(contentsOf: picture)
        for format in ["npz", "npy", "csv", "safetensors"] {
            let layers = format == "npy" ? "layer2" : "layer2,avgpool"
            #expect(try setting.extract("whole.\(format)", layer: layers).status == 0)
            try Data("no picture".utf8).write(to: picture)
            let failed = try setting.extract("resumed.\(format)", layer: layers)
            #expect(failed.status == 65, "\(failed.errors)")
            let partial = setting.out.url.appending(path: "resumed.\(format).partial")
            #expect(FileManager.default.fileExists(atPath: partial.path))
            #expect(!FileManager.default.fileExists(atPath: setting.out.path + "/resumed.\(format)"))
            try whole.write(to: picture)

            let start = ["extract", setting.data.path, "--out", setting.out.path + "/resumed.\(format)", "--resume"]
            try Self.expectFailure(
                start + ["--weights", setting.weights, "--layer", "layer1"] + Self.small, 64,
                "layers \(layers) there, layer1 asked for")
            try Self.expectFailure(
                start + ["--weights", setting.others, "--layer", layers] + Self.small, 64, "sha256_of_tensors")
            try Self.expectFailure(
                start + ["--weights", setting.weights, "--layer", layers, "--limit", "15"] + Self.small, 64, "images ")
            let resumed = try Graft.run(
                start + ["--weights", setting.weights, "--layer", layers] + Self.small.filter { $0 != "--quiet" })
            #expect(resumed.status == 0, "\(resumed.errors)")
            #expect(resumed.errors.contains("going on behind 12 images"), "\(resumed.errors)")
            #expect(!FileManager.default.fileExists(atPath: partial.path))
            let bytes = try ["whole", "resumed"].map {
                try Data(contentsOf: setting.out.url.appending(path: "\($0).\(format)"))
            }
            #expect(bytes[0] == bytes[1], "\(format)")
        }
    }

    @Test func aKilledExtractionGoesOnToTheSameBytes() throws {
        let setting = try Setting(imagesPerClass: 60)
        #expect(try setting.extract("whole.npz", layer: "layer1").status == 0)
        let arguments =
            [
                "extract", setting.data.path, "--weights", setting.weights, "--layer", "layer1", "--out",
                setting.out.path + "/killed.npz",
            ] + Self.small
        let partial = setting.out.path + "/killed.npz.partial"
        let running = try Graft.start(arguments)
        while running.process.isRunning {
            let size = try? FileManager.default.attributesOfItem(atPath: partial)[.size] as? Int
            if size ?? 0 > 1_000_000 { kill(running.process.processIdentifier, SIGKILL) }
            usleep(1000)
        }
        #expect(try running.wait().status == SIGKILL)
        #expect(!FileManager.default.fileExists(atPath: setting.out.path + "/killed.npz"))
        // Without --resume the work is dropped, and that is said.
        let dropped = try Graft.start(arguments)
        while dropped.process.isRunning {
            let size = try? FileManager.default.attributesOfItem(atPath: partial)[.size] as? Int
            if size ?? 0 > 2_000_000 { kill(dropped.process.processIdentifier, SIGINT) }
            usleep(1000)
        }
        let interrupted = try dropped.wait()
        #expect(interrupted.status == 130)
        #expect(interrupted.errors.contains("that work is dropped"), "\(interrupted.errors)")
        let resumed = try Graft.run(arguments + ["--resume"])
        #expect(resumed.status == 0, "\(resumed.errors)")
        #expect(
            try Data(contentsOf: setting.out.url.appending(path: "whole.npz"))
                == Data(contentsOf: setting.out.url.appending(path: "killed.npz")))
    }
}
