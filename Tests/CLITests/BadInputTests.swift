import Foundation
import GraftCheckpoint
import GraftTensor
import GraftVision
import Testing

/// Everything that users get wrong: an error that says what, where and what next, with the right code; never a trap.
@Suite struct BadInputTests {
    static let small = ["--image-size", "32", "--resize", "32", "--device", "cpu", "--quiet"]

    private static func expectFailure(
        _ arguments: [String], _ status: Int32, _ parts: String..., sourceLocation: SourceLocation = #_sourceLocation
    ) throws {
        let result = try Graft.run(arguments)
        #expect(result.status == status, "\(result.errors)", sourceLocation: sourceLocation)
        #expect(result.errors.contains("error: "), "\(result.errors)", sourceLocation: sourceLocation)
        for part in parts {
            #expect(result.errors.contains(part), "no \"\(part)\" in: \(result.errors)", sourceLocation: sourceLocation)
        }
    }

    private static func train(_ data: String, _ run: String, _ more: [String] = []) -> [String] {
        ["train", data, "--model", "resnet20_cifar", "--out", run, "--epochs", "1"] + small + more
    }

    @Test func weightsThatAreMissingOrMalformed() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let evaluate = { (path: String) in
            ["evaluate", folder.path, "--model", "resnet20_cifar", "--weights", path] + Self.small
        }
        try Self.expectFailure(evaluate(folder.path + "/nothing.pth"), 66, "nothing.pth")
        try Self.expectFailure(evaluate(folder.path), 66, folder.path)
        let empty = try folder.write([], to: "files/empty.pth")
        try Self.expectFailure(evaluate(empty), 65, "empty.pth")
        let text = try folder.write("not a checkpoint at all".utf8, to: "files/text.safetensors")
        try Self.expectFailure(evaluate(text), 65, "text.safetensors")
        // A header that promises more than the file holds.
        let lying = try folder.write([255, 255, 0, 0, 0, 0, 0, 0] + Array("{}".utf8), to: "files/lying.safetensors")
        try Self.expectFailure(evaluate(lying), 65, "lying.safetensors")
    }

    @Test func weightsOfAnotherArchitecture() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = folder.path + ".run"
        defer { try? FileManager.default.removeItem(atPath: run) }
        #expect(try Graft.run(Self.train(folder.path, run)).status == 0)
        let weights = run + "/last.safetensors"
        try Self.expectFailure(
            ["evaluate", folder.path, "--model", "resnet32_cifar", "--weights", weights] + Self.small, 65,
            "resnet20_cifar",
            "resnet32_cifar")
        try Self.expectFailure(
            ["evaluate", folder.path, "--model", "resnet20", "--weights", weights] + Self.small, 64, "resnet20_cifar")
        // More class folders than the network has outputs.
        try folder.write(try Picture.png(label: 1, index: 0, width: 32, height: 32), to: "third/0.png")
        try Self.expectFailure(
            ["evaluate", folder.path, "--weights", weights] + Self.small, 65, "no class \"third\"", "dark, light, third"
        )
        try Self.expectFailure(Self.train(folder.path, run + "2", ["--classes", "2"]), 64, "3", "2")
        try Self.expectFailure(
            [
                "extract", folder.path, "--model", "resnet20_cifar", "--weights", weights, "--layer", "layer4", "--out",
                folder.path + "/f.npz",
            ] + Self.small, 64, "layer4", "layer3")
        try Self.expectFailure(
            [
                "extract", folder.path, "--model", "resnet20_cifar", "--weights", weights, "--layer", "avgpool",
                "--out",
                folder.path + "/f.txt",
            ] + Self.small, 64, ".npz")
    }

    @Test func foldersWithoutWhatIsNeeded() throws {
        let folder = try TemporaryFolder()
        let run = folder.path + "/run"
        try Self.expectFailure(Self.train(folder.path + "/absent", run), 66, "absent")
        try FileManager.default.createDirectory(
            at: folder.url.appending(path: "data"), withIntermediateDirectories: true)
        try Self.expectFailure(Self.train(folder.path + "/data", run), 66, "data")
        // Pictures, but no class folders.
        try folder.write(try Picture.png(label: 0, index: 0, width: 8, height: 8), to: "flat/a.png")
        try Self.expectFailure(Self.train(folder.path + "/flat", run), 66, "one folder per class")
        // One class is empty.
        try folder.write(try Picture.png(label: 0, index: 0, width: 8, height: 8), to: "hole/a/a.png")
        try folder.write([], to: "hole/b/notes.txt")
        try Self.expectFailure(Self.train(folder.path + "/hole", run), 65, "no pictures in class b")
        #expect(!FileManager.default.fileExists(atPath: run + "/last.safetensors"))
    }

    /// Four classes with a truncated JPEG, a text file named .jpg, a 1×1 picture and a very large one.
    @Test func brokenImagesFailByNameOrAreLeftOut() throws {
        let folder = try TemporaryFolder()
        for (label, name) in ["a", "b", "c", "d"].enumerated() {
            for index in 0..<3 {
                try folder.write(
                    try Picture.png(label: label, index: index, width: 40, height: 30), to: "\(name)/\(index).png")
            }
        }
        try folder.write(try Picture.png(label: 0, index: 9, width: 1, height: 1), to: "c/one.png")
        let large = RGBImage(width: 12000, height: 9000, red: 200, green: 30, blue: 30)
        try folder.write(try ImageCodec.encodePNG(large, compressionLevel: 1), to: "d/large.png")
        #expect(try Graft.run(Self.train(folder.path, folder.path + "/../whole-\(UUID().uuidString)")).status == 0)

        try folder.write("this is no picture\n".utf8, to: "b/text.jpg")
        try folder.write([0xFF, 0xD8, 0xFF, 0xE0, 0x00, 0x10, 0x4A, 0x46, 0x49, 0x46, 0x00], to: "a/cut.jpg")
        let run = try TemporaryFolder()
        try Self.expectFailure(Self.train(folder.path, run.path + "/fail", ["--no-shuffle"]), 65, "cut.jpg")
        let skipped = try Graft.run(Self.train(folder.path, run.path + "/skip", ["--on-bad-image", "skip"]))
        #expect(skipped.status == 0, "\(skipped.errors)")
        #expect(skipped.errors.contains("warning: ") && skipped.errors.contains("cut.jpg"))
        #expect(skipped.errors.contains("text.jpg"))
        try Self.expectFailure(
            ["predict", folder.path + "/b/text.jpg", "--weights", run.path + "/skip/last.safetensors"] + Self.small, 65,
            "text.jpg")
    }

    @Test func aBatchLargerThanTheSetIsFineUnlessTheLastIsDropped() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        #expect(try Graft.run(Self.train(folder.path, run.path + "/a", ["--batch-size", "64"])).status == 0)
        try Self.expectFailure(
            Self.train(folder.path, run.path + "/b", ["--batch-size", "64", "--drop-last"]), 64, "--drop-last", "4")
    }

    @Test func aPlanLargerThanTheDevice() throws {
        try Self.expectFailure(
            ["bench", "--model", "vgg19", "--mode", "train", "--batch-size", "20000", "--device", "cpu"], 1,
            "of memory", "try --batch-size ")
    }

    @Test(.enabled(if: getuid() != 0, "root may write anywhere"))
    func aFolderThatCannotBeWritten() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        try run.write(Array("old".utf8), to: "last.safetensors")
        try FileManager.default.setAttributes([.posixPermissions: 0o555], ofItemAtPath: run.path)
        defer { try? FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: run.path) }
        try Self.expectFailure(Self.train(folder.path, run.path), 73, run.path)
        #expect(try String(contentsOfFile: run.path + "/last.safetensors", encoding: .utf8) == "old")
    }

    @Test func anOutputThatCannotBeMade() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let other = try TemporaryFolder()
        let file = try other.write(Array("a file".utf8), to: "occupied")
        try Self.expectFailure(Self.train(folder.path, file + "/run"), 73, "occupied")
        #if os(Linux)
            // Nobody can make a folder there, not even root.
            try Self.expectFailure(Self.train(folder.path, "/proc/graft-run"), 73, "/proc/graft-run")
        #endif
    }

    @Test func earlierResultsSurviveAFailure() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        #expect(try Graft.run(Self.train(folder.path, run.path)).status == 0)
        let weights = run.url.appending(path: "last.safetensors")
        let before = try Data(contentsOf: weights)
        try folder.write("no picture".utf8, to: "dark/text.png")
        try Self.expectFailure(Self.train(folder.path, run.path, ["--no-shuffle"]), 65, "text.png")
        #expect(try Data(contentsOf: weights) == before)
    }

    @Test func weightsThatAreNotFinite() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        #expect(try Graft.run(Self.train(folder.path, run.path)).status == 0)
        var state = try CheckpointReader.load(run.path + "/last.safetensors").state
        state["linear.bias"] = HostTensor([2], [0, .nan])
        let diverged = run.path + "/diverged.safetensors"
        try Safetensors.write(state, metadata: [:], to: diverged)
        try Self.expectFailure(
            ["evaluate", folder.path, "--model", "resnet20_cifar", "--weights", diverged] + Self.small, 65,
            "linear.bias holds nan at element 1")
    }

    @Test func aBatchLargerThanTheSet() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        let arguments = Self.train(folder.path, run.path, ["--batch-size", "64"])
        let result = try Graft.run(arguments)
        #expect(result.status == 0)
        #expect(result.errors.contains("--batch-size 64 is more than the 4 images"))
        try Self.expectFailure(arguments + ["--drop-last"], 64, "--drop-last leaves nothing")
    }

    @Test func aLayerAskedForTwice() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        #expect(try Graft.run(Self.train(folder.path, run.path)).status == 0)
        for format in ["npz", "safetensors"] {
            try Self.expectFailure(
                [
                    "extract", folder.path, "--weights", run.path + "/last.safetensors",
                    "--layer", "avgpool,avgpool", "--out", "\(run.path)/f.\(format)",
                ] + Self.small, 64, "avgpool is asked for twice")
        }
    }

    @Test func demoOptionsWithoutAPurpose() throws {
        try Self.expectFailure(["demo", "--grafted"], 64, "--write-pictures")
    }

    @Test func aListWithFaults() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 2)
        let run = try TemporaryFolder()
        try Self.expectFailure(
            Self.train(folder.path, run.path, ["--list", folder.path + "/none.txt"]), 66, "none.txt")
        let bad = try run.write("dark/0.png\t0\ndark/1.png\tx\n".utf8, to: "bad.txt")
        try Self.expectFailure(Self.train(folder.path, run.path, ["--list", bad]), 65, "bad.txt", "line 2")
        let absent = try run.write("dark/99.png\t0\n".utf8, to: "absent.txt")
        try Self.expectFailure(Self.train(folder.path, run.path, ["--list", absent]), 66, "99.png")
    }
}
