import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

/// `train`, `evaluate`, `predict` and `extract` on pictures made here.
@Suite struct TrainingCommandTests {
    static let small = ["--image-size", "32", "--resize", "32", "--device", "cpu", "--quiet"]

    static func train(_ data: String, _ run: String, _ more: [String] = []) throws -> GraftResult {
        // Each option once: a value of `more` stands in the place of the usual one.
        let epochs = more.contains("--epochs") ? [] : ["--epochs", "2"]
        return try Graft.run(
            ["train", data, "--model", "resnet20_cifar", "--out", run, "--batch-size", "4"] + epochs + small + more)
    }

    @Test func aRunLeavesWeightsAndTablesAndRepeatsItself() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 5)
        let runs = try TemporaryFolder()
        let first = try Self.train(data.path, runs.path + "/a", ["--val-split", "0.2", "--json", "--threads", "1"])
        #expect(first.status == 0, "\(first.errors)")
        #expect(first.errors.isEmpty)
        let result = try first.json
        #expect(result["steps"] as? Int == 4)
        #expect((result["epochs"] as? [Any])?.count == 2)
        for name in ["last.safetensors", "best.safetensors", "steps.csv", "epochs.csv"] {
            #expect(FileManager.default.fileExists(atPath: runs.path + "/a/" + name), "\(name) is missing")
        }
        let steps = try String(contentsOfFile: runs.path + "/a/steps.csv", encoding: .utf8).split(separator: "\n")
        #expect(steps.first == "step,epoch,loss,accuracy,learning_rate,images_per_second")
        #expect(steps.count == 5)

        // The same again, on two threads: the same bytes.
        _ = try Self.train(data.path, runs.path + "/b", ["--val-split", "0.2", "--threads", "2"])
        let a = try Data(contentsOf: URL(filePath: runs.path + "/a/last.safetensors"))
        let b = try Data(contentsOf: URL(filePath: runs.path + "/b/last.safetensors"))
        #expect(a == b)
        let other = try Self.train(data.path, runs.path + "/c", ["--val-split", "0.2", "--seed", "1"])
        #expect(other.status == 0)
        #expect(try Data(contentsOf: URL(filePath: runs.path + "/c/last.safetensors")) != a)
    }

    @Test func theTrainedNetworkEvaluatesPredictsAndExtracts() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 8)
        let out = try TemporaryFolder()
        let run = out.path + "/run"
        let trained = try Self.train(data.path, run, ["--learning-rate", "0.02", "--epochs", "4"])
        #expect(trained.status == 0, "\(trained.errors)")

        // What the file carries is enough: no architecture, no image options.
        let weights = run + "/last.safetensors"
        let logits = out.path + "/logits.npz"
        let evaluated = try Graft.run([
            "evaluate", data.path, "--weights", weights, "--device", "cpu", "--json", "--logits", logits, "--quiet",
        ])
        #expect(evaluated.status == 0, "\(evaluated.errors)")
        let evaluation = try evaluated.json
        #expect(evaluation["images"] as? Int == 16)
        #expect(try #require(evaluation["top1"] as? Double) > 0.9)
        let file = try CheckpointReader.load(logits)
        #expect(file.state["logits"]?.shape.dimensions == [16, 2])
        #expect(file.state["labels"]?.int64s == [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1])

        let predicted = try Graft.run([
            "predict", data.path + "/light/3.png", data.path + "/dark/1.png", "--weights", weights, "--device", "cpu",
            "--json", "--quiet", "--top", "1",
        ])
        #expect(predicted.status == 0, "\(predicted.errors)")
        let images = try #require(try predicted.json["images"] as? [[String: Any]])
        let best = images.map { ($0["predictions"] as? [[String: Any]])?.first?["class"] as? String }
        #expect(best == ["light", "dark"])

        let features = out.path + "/features.npz"
        let extracted = try Graft.run(
            [
                "extract", data.path, "--model", "resnet20_cifar", "--weights", weights, "--layer", "avgpool,layer1",
                "--out", features,
            ] + Self.small)
        #expect(extracted.status == 0, "\(extracted.errors)")
        let arrays = try CheckpointReader.load(features)
        #expect(arrays.state["avgpool"]?.shape.dimensions == [16, 64, 1, 1])
        #expect(arrays.state["layer1"]?.shape.dimensions == [16, 16, 32, 32])
        #expect(arrays.state["labels"]?.int64s?.count == 16)

        // The table of the text form fits, and standard error is silent when asked to be.
        let text = try Graft.run(["evaluate", data.path, "--weights", weights, "--device", "cpu", "--quiet"])
        #expect(text.errors.isEmpty)
        #expect(text.output.contains("top-1"))
        #expect(text.output.split(separator: "\n").allSatisfy { $0.count <= 100 })
    }

    @Test func classNamesOfAFileDecideWhichOutputIsWhich() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 8)
        let out = try TemporaryFolder()
        let names = try out.write("light\nother\ndark\n".utf8, to: "names.txt")
        let trained = try Self.train(
            data.path, out.path + "/run", ["--learning-rate", "0.02", "--epochs", "4", "--classes-file", names])
        #expect(trained.status == 0, "\(trained.errors)")
        let weights = out.path + "/run/last.safetensors"
        let evaluated = try Graft.run([
            "evaluate", data.path, "--weights", weights, "--device", "cpu", "--json", "--quiet",
        ])
        #expect(evaluated.status == 0, "\(evaluated.errors)")
        let evaluation = try evaluated.json
        #expect(try #require(evaluation["top1"] as? Double) > 0.9)
        let classes = try #require(evaluation["classes"] as? [[String: Any]])
        #expect(classes.map { $0["class"] as? String } == ["light", "other", "dark"])
        #expect(classes.map { $0["images"] as? Int } == [8, 0, 8])

        let unknown = try out.write("light\nshade\n".utf8, to: "unknown.txt")
        let refused = try Self.train(data.path, out.path + "/no", ["--classes-file", unknown])
        #expect(refused.status == 65)
        #expect(refused.errors.contains("no class \"dark\""), "\(refused.errors)")
        let twice = try out.write("light\ndark\nlight\n".utf8, to: "twice.txt")
        let ambiguous = try Self.train(data.path, out.path + "/no", ["--classes-file", twice])
        #expect(ambiguous.status == 65)
        #expect(ambiguous.errors.contains("\"light\" twice"), "\(ambiguous.errors)")

        // A second run on the same folder says what it replaces.
        let again = try Self.train(data.path, out.path + "/run", ["--weights", weights, "--steps", "1"])
        #expect(again.status == 0, "\(again.errors)")
        #expect(again.errors.contains("holds an earlier run"), "\(again.errors)")
    }

    @Test func outputsWithoutNamesAreTakenByPositionWithAWarning() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 2)
        let out = try TemporaryFolder()
        let trained = try Self.train(data.path, out.path + "/run", ["--classes", "5", "--steps", "1"])
        #expect(trained.status == 0, "\(trained.errors)")
        let nameless = out.path + "/nameless.safetensors"
        try Safetensors.write(
            CheckpointReader.load(out.path + "/run/last.safetensors").state, metadata: [:], to: nameless)
        let evaluated = try Graft.run(
            ["evaluate", data.path, "--model", "resnet20_cifar", "--weights", nameless] + Self.small)
        #expect(evaluated.status == 0, "\(evaluated.errors)")
        #expect(evaluated.errors.contains("warning: the network's 5 outputs have no names"), "\(evaluated.errors)")
        #expect(evaluated.errors.contains("--classes-file"))
    }

    @Test func frozenTensorsStayByteForByte() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 4)
        let runs = try TemporaryFolder()
        _ = try Self.train(data.path, runs.path + "/start", ["--steps", "1"])
        let start = runs.path + "/start/last.safetensors"
        let tuned = try Self.train(
            data.path, runs.path + "/tuned",
            [
                "--weights", start, "--freeze", "all", "--unfreeze", "linear", "--unfreeze-at", "1:layer3", "--epochs",
                "3",
            ])
        #expect(tuned.status == 0, "\(tuned.errors)")
        let before = try CheckpointReader.load(start).state
        let after = try CheckpointReader.load(runs.path + "/tuned/last.safetensors").state
        // Without the cache of the frozen part's outputs the run is the same.
        let computed = try Self.train(
            data.path, runs.path + "/computed",
            [
                "--weights", start, "--freeze", "all", "--unfreeze", "linear", "--unfreeze-at", "1:layer3", "--epochs",
                "3", "--cache", "off",
            ])
        #expect(computed.status == 0, "\(computed.errors)")
        #expect(
            try Data(contentsOf: URL(filePath: runs.path + "/computed/last.safetensors"))
                == Data(contentsOf: URL(filePath: runs.path + "/tuned/last.safetensors")))
        #expect(Set(before.names) == Set(after.names))
        for name in before.names {
            let mayChange = name.hasPrefix("linear.") || name.hasPrefix("layer3.")
            if mayChange {
                if name.hasSuffix(".weight") { #expect(before[name] != after[name], "\(name) did not train") }
            } else {
                #expect(before[name] == after[name], "\(name) changed though it was frozen")
            }
        }
    }

    @Test func ctrlCSavesAndEndsWith130() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 40)
        let runs = try TemporaryFolder()
        let process = try Graft.start(
            ["train", data.path, "--model", "resnet20_cifar", "--out", runs.path + "/a", "--epochs", "10000"]
                + ["--image-size", "32", "--resize", "32", "--device", "cpu", "--batch-size", "4"])
        // The first epoch's line says that training is under way.
        let deadline = Date(timeIntervalSinceNow: 60)
        while try !process.text("errors").contains("epoch 1/10000:"), Date() < deadline, process.process.isRunning {
            Thread.sleep(forTimeInterval: 0.05)
        }
        process.process.interrupt()
        // A process that does not listen must not keep the tests waiting.
        let patience = Date(timeIntervalSinceNow: 60)
        while process.process.isRunning, Date() < patience { Thread.sleep(forTimeInterval: 0.05) }
        if process.process.isRunning { kill(process.process.processIdentifier, SIGKILL) }
        let result = try process.wait()
        #expect(result.status == 130, "\(result.errors)")
        #expect(result.output.isEmpty)
        #expect(FileManager.default.fileExists(atPath: runs.path + "/a/last.safetensors"))
    }
}
