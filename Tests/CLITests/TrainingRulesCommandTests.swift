import Foundation
import GraftCheckpoint
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
        #expect(epochs[0] == "epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds,ema_val_loss,ema_val_accuracy")
        #expect(epochs[1].split(separator: ",").count == 8)
        let last = try CheckpointReader.load(run.path + "/last.safetensors").state
        let averaged = try CheckpointReader.load(run.path + "/ema.safetensors").state
        #expect(last["linear.weight"] != averaged["linear.weight"])
        // The best is one of the averages, and no run without an average keeps an older one's.
        let best = try CheckpointReader.load(run.path + "/best.safetensors").state
        #expect(best["linear.weight"] != last["linear.weight"])
        let again = try Self.train(data.path, run.path, ["--epochs", "1"])
        #expect(again.status == 0, "\(again.errors)")
        #expect(!FileManager.default.fileExists(atPath: run.path + "/ema.safetensors"))
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
    ])
    func wrongOptionsEndWith64(_ options: [String], _ message: String) throws {
        let result = try Graft.run(["train", "x", "--model", "m", "--out", "r"] + options)
        #expect(result.status == 64)
        #expect(result.errors.contains(message), "\(result.errors)")
    }
}
