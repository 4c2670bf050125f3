import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

/// Parameter groups, clipping, accumulation and the average of the weights, from the command line.
@Suite struct TrainingRulesCommandTests {
    private static func train(_ data: String, _ run: String, _ more: [String]) throws -> GraftResult {
        try Graft.run(
            [
                "train", data, "--model", "resnet8_cifar", "--out", run, "--epochs", "2", "--batch-size", "4",
                "--image-size", "32", "--resize", "32", "--device", "cpu",
            ] + more)
    }

    @Test func groupsAreSaidAndTheAverageIsSaved() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 6)
        let run = try TemporaryFolder()
        let result = try Self.train(
            data.path, run.path,
            [
                "--learning-rate", "0.02,layer3:0.005,linear:0.05", "--weight-decay", "0.01", "--no-decay-bias-norm",
                "--clip-norm", "0.5", "--accumulate", "2", "--ema", "0.9", "--val-split", "0.34",
            ])
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.errors.contains("learning rate 0.02: conv1.weight"), "\(result.errors)")
        #expect(result.errors.contains("learning rate 0.05, no weight decay: linear.bias"), "\(result.errors)")
        #expect(result.errors.contains("learning rate 0.005: layer3.0.conv1.weight"), "\(result.errors)")
        #expect(result.errors.contains("of the average"), "\(result.errors)")
        #expect(result.output.contains("/ema.safetensors"))
        // 8 images in batches of 4, two a step.
        let steps = try String(contentsOfFile: run.path + "/steps.csv", encoding: .utf8).split(separator: "\n")
        #expect(steps.count == 3)
        let epochs = try String(contentsOfFile: run.path + "/epochs.csv", encoding: .utf8).split(separator: "\n")
        #expect(
            epochs[0] == "epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds,ema_val_loss,ema_val_accuracy")
        #expect(epochs[1].split(separator: ",").count == 8)
        let last = try CheckpointReader.load(run.path + "/last.safetensors").state
        let averaged = try CheckpointReader.load(run.path + "/ema.safetensors").state
        #expect(last["linear.weight"] != averaged["linear.weight"])
        // The best is one of the averages, and no run without an average keeps an older one's.
        let best = try CheckpointReader.load(run.path + "/best.safetensors").state
        #expect(best["linear.weight"] != last["linear.weight"])
        let described = try #require(try Self.description(run.path)["best"] as? [String: Any])
        #expect(described["is_average"] as? Bool == true)
        let page = try String(contentsOfFile: run.path + "/report.html", encoding: .utf8)
        #expect(page.contains("best validation accuracy of the averaged weights"))
        #expect(page.contains("validation of the averaged weights") && page.contains(">accuracy of the average<"))
        #expect(try Graft.run(["report", run.path]).status == 0)
        #expect(try String(contentsOfFile: run.path + "/report.html", encoding: .utf8) == page)
        let again = try Self.train(data.path, run.path, ["--epochs", "1"])
        #expect(again.status == 0, "\(again.errors)")
        #expect(!FileManager.default.fileExists(atPath: run.path + "/ema.safetensors"))
        let plain = try String(contentsOfFile: run.path + "/report.html", encoding: .utf8)
        #expect(!plain.contains("averaged weights"))
    }

    /// `run.json` of a run.
    private static func description(_ run: String) throws -> [String: Any] {
        let value = try JSONSerialization.jsonObject(with: Data(contentsOf: URL(filePath: run + "/run.json")))
        return try #require(value as? [String: Any])
    }

    @Test func aRunThatStopsEarlySaysSo() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 6)
        let run = try TemporaryFolder()
        // Nothing changes: the first epoch stays the best.
        let result = try Self.train(
            data.path, run.path,
            [
                "--epochs", "9", "--freeze", "backbone", "--learning-rate", "0", "--val-split", "0.34", "--early-stop",
                "2", "--json",
            ])
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.errors.contains("stopped early: the validation loss has not fallen since epoch 1"))
        let json = try result.json
        #expect(json["stopped_early"] as? Bool == true)
        #expect((json["epochs"] as? [Any])?.count == 3)
        let description = try Self.description(run.path)
        #expect(description["status"] as? String == "finished")
        #expect(description["stopped_early_best_epoch"] as? Int == 0)
        let page = try String(contentsOfFile: run.path + "/report.html", encoding: .utf8)
        #expect(page.contains("stopped early: the validation loss has not fallen since epoch 0"))
        // What a resumed run prints follows its own command line: the run began with --json.
        #expect(try Graft.run(["train", "--resume", "--out", run.path]).output.contains("is finished: 6 steps"))
        let resumed = try Graft.run(["train", "--resume", "--out", run.path, "--json"]).json
        #expect(resumed["finished"] as? Bool == true && resumed["steps"] as? Int == 6)
    }

    @Test func classWeightsAreFoundFromAnyFolderOnResuming() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 6)
        let place = try TemporaryFolder()
        try "light 2\ndark 0.5\n".write(toFile: place.path + "/weights.txt", atomically: true, encoding: .utf8)
        func start(_ run: String, _ epochs: String, _ weights: String) throws -> GraftResult {
            try Graft.run(
                [
                    "train", data.path, "--model", "resnet8_cifar", "--out", place.path + "/" + run, "--epochs", epochs,
                    "--batch-size", "4", "--image-size", "32", "--resize", "32", "--device", "cpu", "--class-weights",
                    weights,
                ], directory: place.url)
        }
        func last(_ run: String) throws -> Data {
            try Data(contentsOf: URL(filePath: "\(place.path)/\(run)/last.safetensors"))
        }
        var files: [Data] = []
        for weights in ["weights.txt", "balanced"] {
            let whole = try start("whole-\(weights)", "2", weights)
            #expect(whole.status == 0, "\(whole.errors)")
            let part = try start("part-\(weights)", "1", weights)
            #expect(part.status == 0, "\(part.errors)")
            let rest = try Graft.run(
                ["train", "--resume", "--epochs", "2", "--out", "\(place.path)/part-\(weights)"], directory: data.url)
            #expect(rest.status == 0, "\(rest.errors)")
            #expect(try last("part-\(weights)") == last("whole-\(weights)"))
            files.append(try last("whole-\(weights)"))
        }
        #expect(files[0] != files[1])
    }

    @Test func schedulesImagesAndWeightsGoTogether() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 6)
        let run = try TemporaryFolder()
        let weights = run.path + "/weights.txt"
        try "light 2\n\ndark 0.5\n".write(toFile: weights, atomically: true, encoding: .utf8)
        func arguments(_ name: String) -> [String] {
            [
                "--schedule", "one-cycle", "--augment", "crop:0.5,flip,jitter:0.2,randaugment:1:5,erase:0.5", "--mixup",
                "0.2", "--cutmix", "1", "--class-weights", weights, "--sampler", "balanced", "--keep-best", "1",
                "--label-smoothing", "0.1",
            ]
        }
        let first = try Self.train(data.path, run.path + "/a", arguments("a") + ["--threads", "1"])
        #expect(first.status == 0, "\(first.errors)")
        let second = try Self.train(data.path, run.path + "/b", arguments("b") + ["--threads", "2"])
        #expect(second.status == 0, "\(second.errors)")
        let files = try ["a", "b"].map { try Data(contentsOf: URL(filePath: run.path + "/\($0)/last.safetensors")) }
        #expect(files[0] == files[1])
        let kept = try FileManager.default.contentsOfDirectory(atPath: run.path + "/a").filter {
            $0.hasPrefix("epoch-")
        }
        #expect(kept.count == 1)
        // A run that keeps none does not leave an older one's behind.
        let plain = try Self.train(data.path, run.path + "/b", ["--steps", "1"])
        #expect(plain.status == 0, "\(plain.errors)")
        #expect(
            try FileManager.default.contentsOfDirectory(atPath: run.path + "/b").allSatisfy { !$0.hasPrefix("epoch-") })
        // 12 images, 3 steps an epoch, 6 in all: the rate rises to its height at 0.3 · 6 − 1 and falls to almost nothing.
        let steps = try String(contentsOfFile: run.path + "/a/steps.csv", encoding: .utf8).split(separator: "\n")
        let rates = steps.dropFirst().compactMap { Double($0.split(separator: ",")[4]) }
        #expect(rates.count == 6)
        #expect(abs((rates.first ?? 0) - 0.00004) < 1e-12)
        #expect((rates.last ?? 1) < 1e-8)
        #expect(rates.max() == rates[1])
    }

    @Test(arguments: [
        ("light 1\n", "has no weight for dark"), ("light 1\ndrak 2\n", "did you mean \"dark\"?"),
        ("light 1\nlight 1\n", "has a weight already"), ("light\n", "is not a class's name and a weight"),
    ])
    func classWeightsThatAreNoneEndWith65(_ text: String, _ message: String) throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        let file = run.path + "/weights.txt"
        try text.write(toFile: file, atomically: true, encoding: .utf8)
        let result = try Self.train(data.path, run.path + "/run", ["--class-weights", file])
        #expect(result.status == 65, "\(result.errors)")
        #expect(result.errors.contains(message), "\(result.errors)")
    }

    @Test func theRecipeIsTheOptionsItSays() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 4)
        let run = try TemporaryFolder()
        let recipe = try Self.train(data.path, run.path + "/a", ["--recipe", "fine-tune"])
        #expect(recipe.status == 0, "\(recipe.errors)")
        let options = "--freeze backbone --unfreeze-at 1:all --layer-decay 0.75 --schedule one-cycle"
        #expect(recipe.errors.contains("--recipe fine-tune stands for \(options)"), "\(recipe.errors)")
        #expect(
            try Graft.run(["help", "train"]).output.split(whereSeparator: \.isWhitespace).joined(separator: " ")
                .contains(options))
        let held = try #require(try Self.description(run.path + "/a")["defaults"] as? [String: String])
        #expect(held["freeze"] == "backbone, of --recipe fine-tune")
        #expect(held["layer-decay"] == "0.75, of --recipe fine-tune")
        let spelled = try Self.train(data.path, run.path + "/b", options.split(separator: " ").map(String.init))
        #expect(spelled.status == 0, "\(spelled.errors)")
        let files = try ["a", "b"].map { try Data(contentsOf: URL(filePath: run.path + "/\($0)/last.safetensors")) }
        #expect(files[0] == files[1])
        // What is given replaces what the recipe has.
        let other = try Self.train(data.path, run.path + "/c", ["--recipe", "fine-tune", "--layer-decay", "0.5"])
        #expect(other.errors.contains("stands for --freeze backbone --unfreeze-at 1:all --schedule one-cycle"))
        #expect(try Data(contentsOf: URL(filePath: run.path + "/c/last.safetensors")) != files[0])
    }

    @Test func aLearningRateIsFoundAndDrawn() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 6)
        let out = try TemporaryFolder()
        func arguments(_ more: [String]) -> [String] {
            [
                "find-learning-rate", data.path, "--model", "resnet8_cifar", "--image-size", "32", "--resize", "32",
                "--device", "cpu", "--batch-size", "4", "--steps", "40", "--from", "1e-5",
            ] + more
        }
        let result = try Graft.run(arguments(["--out", out.path + "/curve", "--json", "--quiet"]))
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.errors.isEmpty)
        let json = try result.json
        let suggestion = try #require(json["suggestion"] as? Double)
        #expect((1e-5...10).contains(suggestion))
        let rates = try #require(json["learning_rates"] as? [Double])
        #expect(rates.count >= 10 && rates[0] == 1e-5)
        #expect(zip(rates, rates.dropFirst()).allSatisfy { $0 < $1 })
        let table = try String(contentsOfFile: out.path + "/curve/learning-rate.csv", encoding: .utf8)
        #expect(table.hasPrefix("learning_rate,loss,smoothed_loss\n"))
        #expect(table.split(separator: "\n").count == rates.count + 1)
        let drawing = try String(contentsOfFile: out.path + "/curve/learning-rate.svg", encoding: .utf8)
        #expect(drawing.hasPrefix("<svg ") && drawing.hasSuffix("</svg>\n"))
        #expect(drawing.contains("<polyline"))
        // The same again, as text.
        let text = try Graft.run(arguments(["--quiet"]))
        #expect(text.output.hasPrefix("suggestion  "), "\(text.output)")
        #expect(try Graft.run(arguments(["--to", "1e-6"])).status == 64)
    }

    @Test func aSearchFollowsTheRulesOfTraining() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 6)
        func run(_ more: [String], steps: String = "12", from: String = "1e-3") throws -> GraftResult {
            try Graft.run(
                [
                    "find-learning-rate", data.path, "--model", "resnet8_cifar", "--image-size", "32", "--resize", "32",
                    "--device", "cpu", "--batch-size", "4", "--steps", steps, "--from", from, "--quiet",
                ] + more)
        }
        func losses(_ more: [String]) throws -> [Double] {
            let result = try run(more + ["--json"])
            #expect(result.status == 0, "\(result.errors)")
            return try #require(try result.json["losses"] as? [Double])
        }
        let plain = try losses([])
        let parts = try losses(["--learning-rate", "0.02,layer3:0.005"])
        #expect(parts != plain)
        // What grows is the base rate: of the rates only the ratios count.
        #expect(try losses(["--learning-rate", "0.04,layer3:0.01"]) == parts)
        for rule in [
            ["--mixup", "0.4"], ["--cutmix", "1"], ["--sampler", "balanced"], ["--accumulate", "2"],
            ["--layer-decay", "0.5"], ["--class-weights", "balanced", "--label-smoothing", "0.1"],
        ] {
            #expect(try losses(rule) != plain, "\(rule)")
        }
        let text = try run(["--learning-rate", "0.02,layer3:0.005"], steps: "40", from: "1e-5")
        #expect(text.output.hasPrefix("suggestion  ") && text.output.contains(",layer3:"), "\(text.output)")
        // What changes in the course of a run is not for a search.
        for (rule, message) in [
            (["--warmup", "3"], "--warmup"), (["--schedule", "cosine"], "--schedule"), (["--ema", "0.9"], "--ema"),
            (["--early-stop", "2"], "--early-stop"), (["--learning-rate", "0,layer3:0.1"], "a base rate of 0"),
        ] {
            let result = try run(rule)
            #expect(result.status == 64, "\(rule)")
            #expect(result.errors.contains(message), "\(result.errors)")
        }
    }

    @Test func whatJoinsAtAnUnfreezingIsSaidWithItsRates() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 4)
        let run = try TemporaryFolder()
        let options = ["--freeze", "backbone", "--weight-decay", "0.01", "--no-decay-bias-norm"]
        let rates = try Self.train(
            data.path, run.path + "/a",
            options + ["--unfreeze-at", "1:layer3", "--learning-rate", "0.02,layer3:0.005"])
        #expect(rates.status == 0, "\(rates.errors)")
        #expect(rates.errors.contains("joined with learning rate 0.005: layer3.0.conv1.weight"), "\(rates.errors)")
        #expect(
            rates.errors.contains("; learning rate 0.005, no weight decay: layer3.0.bn1.weight and "),
            "\(rates.errors)")
        let decay = try Self.train(
            data.path, run.path + "/b", options + ["--unfreeze-at-step", "1:layer3", "--layer-decay", "0.5"])
        #expect(decay.errors.contains("joined with learning rate 0.0005: layer3.0.conv1.weight"), "\(decay.errors)")
        // One common rate goes without saying.
        let plain = try Self.train(data.path, run.path + "/c", options + ["--unfreeze-at", "1:layer3"])
        #expect(plain.status == 0, "\(plain.errors)")
        #expect(plain.errors.contains("layer3 trains from here on") && !plain.errors.contains("joined with"))
    }

    @Test func aRateForNothingNamesWhatIsNear() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        let result = try Self.train(data.path, run.path + "/run", ["--learning-rate", "0.01,layer33:0.1"])
        #expect(result.status == 64 || result.status == 1, "\(result.status)")
        #expect(result.errors.contains("layer33"))
        #expect(result.errors.contains("layer3"))
    }

    @Test(arguments: [
        (["--learning-rate", "0.1,0.2"], "is not a number of at least 0, or a list such as layer4:1e-4,fc:1e-3"),
        (["--learning-rate", "layer3:"], "is not a number of at least 0"),
        (["--learning-rate", ":0.1"], "is not a number of at least 0"),
        (["--layer-decay", "0"], "is not a number above 0 and at most 1"),
        (["--layer-decay", "1.1"], "is not a number above 0 and at most 1"),
        (["--clip-norm", "0"], "is not a number above 0"),
        (["--accumulate", "0"], "is not a whole number from 1 to 100000"),
        (["--ema", "1"], "is not a number from 0 and below 1"),
        (["--no-decay-bias-norm"], "needs a --weight-decay above 0"),
        (["--schedule", "one-cycle:1"], "is not a schedule"),
        (["--schedule", "plateau:0.5"], "is not a schedule"),
        (["--schedule", "plateau:1:2"], "is not a schedule"),
        (["--schedule", "cosine:2"], "is not a schedule"),
        (["--schedule", "one-cycle", "--warmup", "3"], "does not go with --warmup"),
        (["--recipe", "fine-tune", "--warmup", "3"], "does not go with --warmup"),
        (["--recipe", "finetune"], "did you mean \"fine-tune\"?"),
        (["--early-stop", "0"], "is not a whole number from 1"),
        (["--augment", "flips"], "did you mean \"flip\"?"),
        (["--augment", "flip,flip"], "is not none, flip, standard, strong, or a list of crop"),
        (["--schedule", "onecycle"], "did you mean \"one-cycle\"?"),
        (["--augment", "flip,randaugment:2:31"], "is not none, flip, standard, strong, or a list of crop"),
        (["--mixup", "-1"], "is not a number of at least 0"),
        (["--sampler", "balanced", "--no-shuffle"], "does not go with --no-shuffle"),
        (["--augment", "flip", "--cached-views", "2", "--cutmix", "1"], "does not go with --mixup or --cutmix"),
    ])
    func wrongOptionsEndWith64(_ options: [String], _ message: String) throws {
        let result = try Graft.run(["train", "x", "--model", "m", "--out", "r"] + options)
        #expect(result.status == 64)
        #expect(result.errors.contains(message), "\(result.errors)")
    }
}
