import Foundation
import Testing

/// `graft train --resume` as processes that are killed, terminated and interrupted.
@Suite struct ResumeCommandTests {
    private struct Place {
        let folder: TemporaryFolder
        var path: String { folder.path }

        /// Two classes of pictures in `data`.
        init(imagesPerClass: Int = 10) throws {
            folder = try TemporaryFolder()
            let names = ["dark", "light"]
            try folder.writeClasses(names, imagesPerClass: imagesPerClass)
            let data = folder.url.appending(path: "data")
            try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
            for name in names {
                try FileManager.default.moveItem(at: folder.url.appending(path: name), to: data.appending(path: name))
            }
        }

        func arguments(_ run: String, _ more: [String] = []) -> [String] {
            [
                "train", path + "/data", "--model", "resnet20_cifar", "--freeze", "backbone", "--unfreeze-at",
                "2:layer3", "--optimizer", "adam", "--epochs", "4", "--batch-size", "4", "--val-split", "0.2",
                "--device", "cpu", "--out", path + "/" + run, "--save-every", "0",
            ] + more
        }

        func data(_ name: String) throws -> Data { try Data(contentsOf: folder.url.appending(path: name)) }

        /// A table without its last column, which is a time.
        func table(_ name: String) throws -> [Substring] {
            String(decoding: try data(name), as: UTF8.self).split(separator: "\n").map { line in
                line[..<(line.lastIndex(of: ",") ?? line.endIndex)]
            }
        }

        func expectSame(_ a: String, _ b: String) throws {
            for name in ["last", "best"] {
                #expect(try data("\(a)/\(name).safetensors") == data("\(b)/\(name).safetensors"), "\(name)")
            }
            for name in ["steps.csv", "epochs.csv"] { #expect(try table("\(a)/\(name)") == table("\(b)/\(name)")) }
        }

        /// Waits for a state that is not the one that was there.
        func waitForState(_ run: String, not old: Data?, _ process: RunningGraft) {
            let deadline = Date(timeIntervalSinceNow: 120)
            while (try? data(run + "/state.safetensors")) == old, process.process.isRunning, Date() < deadline {
                usleep(2_000)
            }
        }
    }

    @Test(arguments: [SIGKILL, SIGTERM, SIGINT])
    func aRunThatIsEndedAgainAndAgainLeavesTheSameBytes(_ signal: Int32) throws {
        let place = try Place()
        let whole = try Graft.run(place.arguments("whole"))
        try #require(whole.status == 0, "\(whole.errors)")
        var ended = 0
        var arguments = place.arguments("parts", ["--threads", "1"])
        for attempt in 0..<30 {
            let old = try? place.data("parts/state.safetensors")
            let running = try Graft.start(arguments)
            if attempt < 4 {
                place.waitForState("parts", not: old, running)
                usleep(UInt32(attempt) * 15_000)
                kill(running.process.processIdentifier, signal)
            }
            let result = try running.wait()
            // From now on nothing but the folder is named.
            arguments = ["train", "--resume", "--out", place.path + "/parts"]
            if result.status == 0 { break }
            ended += 1
            if signal != SIGKILL {
                #expect(result.status == 130, "\(result.errors)")
                #expect(result.errors.contains("--resume"), "\(result.errors)")
            }
        }
        #expect(ended > 0, "no process was ended before its end")
        try place.expectSame("whole", "parts")
    }

    @Test func whatIsSaidAboutOptions() throws {
        let place = try Place()
        let first = try Graft.run(place.arguments("run", ["--epochs", "2", "--unfreeze-at", "1:layer2"]))
        // `--unfreeze-at 2` never happens in two epochs.
        #expect(first.status == 64)
        let short = [
            "train", place.path + "/data", "--model", "resnet20_cifar", "--freeze", "backbone", "--epochs", "2",
            "--batch-size", "4", "--device", "cpu", "--out", place.path + "/run",
        ]
        let started = try Graft.run(short)
        try #require(started.status == 0, "\(started.errors)")
        let resume = ["train", "--resume", "--out", place.path + "/run"]

        let finished = try Graft.run(resume)
        #expect(finished.status == 0)
        #expect(finished.output.contains("is finished: 10 steps, 2 epochs"), "\(finished.output)")
        let json = try Graft.run(resume + ["--json"]).json
        #expect(json["finished"] as? Bool == true)
        #expect((json["epochs"] as? [Any])?.count == 2)

        let changed = try Graft.run(
            resume + ["--learning-rate", "0.1", "--batch-size=8", "--nesterov", "--epochs", "3"])
        #expect(changed.status == 64)
        for line in [
            "--learning-rate: was 0.001, now 0.1", "--batch-size: was 4, now 8", "--nesterov: was off, now on",
        ] {
            #expect(changed.errors.contains(line), "\(changed.errors)")
        }
        #expect(!changed.errors.contains("--epochs: "), "\(changed.errors)")
        let shorter = try Graft.run(resume + ["--epochs", "1"])
        #expect(shorter.status == 64)
        #expect(shorter.errors.contains("--epochs: was 2, now 1"), "\(shorter.errors)")

        // The same values in other words, and what changes no result.
        let longer = try Graft.run(
            resume + [
                "--epochs", "3", "--learning-rate", "1e-3", "--threads", "1", "--cache", "off", "--save-every", "5",
                "--json",
            ])
        #expect(longer.status == 0, "\(longer.errors)")
        let result = try longer.json
        #expect(result["steps"] as? Int == 15)
        #expect((result["epochs"] as? [Any])?.count == 3)
        #expect(result["resumed_behind_step"] as? Int == 10)
        let whole = try Graft.run(short + ["--out", place.path + "/whole", "--epochs", "3"])
        #expect(whole.status == 0)
        try place.expectSame("whole", "run")

        // The folder was moved: its path is no option of the run, its content is.
        try FileManager.default.moveItem(atPath: place.path + "/data", toPath: place.path + "/moved")
        let lost = try Graft.run(resume + ["--epochs", "4"])
        #expect(lost.status == 66)
        try Data("x".utf8).write(to: URL(filePath: place.path + "/moved/light/0.png"))
        let other = try Graft.run(["train", place.path + "/moved", "--epochs", "4"] + resume.dropFirst())
        #expect(other.status == 65)
        #expect(other.errors.contains("moved/light/0.png"), "\(other.errors)")
    }

    @Test func twoProcessesDoNotShareAFolder() throws {
        let place = try Place()
        let first = try Graft.start(place.arguments("run", ["--epochs", "10000"]))
        defer { if first.process.isRunning { kill(first.process.processIdentifier, SIGKILL) } }
        place.waitForState("run", not: nil, first)
        let second = try Graft.run(["train", "--resume", "--out", place.path + "/run"])
        #expect(second.status == 73, "\(second.errors)")
        #expect(second.errors.contains("another run is writing"), "\(second.errors)")
        kill(first.process.processIdentifier, SIGKILL)
        _ = try first.wait()
        // The lock ended with the process.
        let third = try Graft.start(["train", "--resume", "--out", place.path + "/run"])
        place.waitForState("run", not: try place.data("run/state.safetensors"), third)
        third.process.interrupt()
        #expect(try third.wait().status == 130)
    }

    @Test func aFolderWithoutAStateBeginsOrIsAnError() throws {
        let place = try Place(imagesPerClass: 3)
        let nothing = try Graft.run(["train", "--resume", "--out", place.path + "/none"])
        #expect(nothing.status == 66)
        #expect(nothing.errors.contains("no state to resume"), "\(nothing.errors)")
        let begun = try Graft.run(place.arguments("run", ["--resume"]))
        #expect(begun.status == 0, "\(begun.errors)")
        #expect(begun.errors.contains("the run begins"))
        // Weights without a state are not begun anew silently.
        for name in ["state", "state.previous"] {
            try? FileManager.default.removeItem(atPath: "\(place.path)/run/\(name).safetensors")
        }
        #expect(try Graft.run(place.arguments("run", ["--resume"])).status == 66)
    }

    @Test func aBrokenStateIsNamed() throws {
        let place = try Place(imagesPerClass: 5)
        let arguments = [
            "train", place.path + "/data", "--model", "resnet20_cifar", "--freeze", "backbone", "--epochs", "4",
            "--batch-size", "4", "--device", "cpu", "--save-every", "0", "--out",
        ]
        let whole = try Graft.run(arguments + [place.path + "/whole"])
        try #require(whole.status == 0, "\(whole.errors)")
        let parts = place.folder.url.appending(path: "parts")
        let part = try Graft.run(arguments + [parts.path, "--steps", "7"])
        try #require(part.status == 0, "\(part.errors)")
        let last = parts.appending(path: "state.safetensors")
        try Data(contentsOf: last).dropLast(1000).write(to: last)
        let resumed = try Graft.run(["train", "--resume", "--out", parts.path, "--steps", "1000"])
        #expect(resumed.status == 0, "\(resumed.errors)")
        #expect(resumed.errors.contains("warning: "), "\(resumed.errors)")
        #expect(resumed.errors.contains("state.previous.safetensors"), "\(resumed.errors)")
        #expect(try place.data("whole/last.safetensors") == place.data("parts/last.safetensors"))
        for name in ["state", "state.previous"] {
            try Data("no state".utf8).write(to: parts.appending(path: name + ".safetensors"))
        }
        let broken = try Graft.run(["train", "--resume", "--out", parts.path])
        #expect(broken.status == 65)
        #expect(broken.errors.contains(last.path) && broken.errors.contains("state.previous.safetensors"))
    }
}
