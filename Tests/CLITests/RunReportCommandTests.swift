import Foundation
import Testing

/// What `train` leaves to look at, `report`, and `extract --projector`.
@Suite struct RunReportCommandTests {
    @Test func aRunLeavesAPageAndTensorBoardsFiles() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(["<b>dark<", "lïght & \"co\""], imagesPerClass: 6)
        let out = try TemporaryFolder()
        let run = out.path + "/run"
        let trained = try TrainingCommandTests.train(
            data.path, run,
            ["--val-split", "0.34", "--freeze", "all", "--unfreeze", "linear", "--unfreeze-at", "1:layer3"])
        #expect(trained.status == 0, "\(trained.errors)")
        let names = try FileManager.default.contentsOfDirectory(atPath: run)
        for name in ["report.html", "run.json", "confusion.csv", "steps.csv", "epochs.csv"] {
            #expect(names.contains(name), "\(name) is missing")
        }
        #expect(names.count { $0.hasPrefix("events.out.tfevents.") } == 1)
        let page = try String(contentsOfFile: run + "/report.html", encoding: .utf8)
        #expect(page.contains("&lt;b&gt;dark&lt;") && !page.contains("<b>dark"))
        #expect(page.contains("lïght &amp; &quot;co&quot;"))
        #expect(page.contains(">finished<") && page.contains("--unfreeze-at 1:layer3"))

        let json = try #require(
            try JSONSerialization.jsonObject(with: Data(contentsOf: URL(filePath: run + "/run.json"))) as? [String: Any]
        )
        #expect(json["status"] as? String == "finished")
        #expect((json["options"] as? [String: String])?["unfreeze-at"] == "1:layer3")
        #expect((json["defaults"] as? [String: String])?["learning-rate"] == "0.001")
        #expect((json["command"] as? [String])?.prefix(2) == ["graft", "train"])
        #expect((json["training"] as? [String: Any])?["class_counts"] as? [Int] == [4, 4])
        #expect((json["result"] as? [String: Any])?["steps"] as? Int == 4)

        try FileManager.default.removeItem(atPath: run + "/report.html")
        let rebuilt = try Graft.run(["report", run])
        #expect(rebuilt.status == 0, "\(rebuilt.errors)")
        #expect(rebuilt.output == run + "/report.html\n")
        #expect(try String(contentsOfFile: run + "/report.html", encoding: .utf8) == page)

        let nothing = try Graft.run(["report", data.path])
        #expect(nothing.status == 66)
        #expect(nothing.errors.contains("run.json"), "\(nothing.errors)")

        // A second run takes the folder over, TensorBoard's file too.
        let again = try TrainingCommandTests.train(data.path, run, ["--steps", "1"])
        #expect(again.status == 0, "\(again.errors)")
        let left = try FileManager.default.contentsOfDirectory(atPath: run)
        #expect(left.count { $0.hasPrefix("events.out.tfevents.") } == 1)
        #expect(!left.contains("confusion.csv"))
    }

    @Test func aRunThatFailsSaysSoOnItsPage() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 4)
        let out = try TemporaryFolder()
        let run = out.path + "/run"
        let failed = try TrainingCommandTests.train(data.path, run, ["--learning-rate", "1e30"])
        #expect(failed.status == 1, "\(failed.errors)")
        let page = try String(contentsOfFile: run + "/report.html", encoding: .utf8)
        #expect(page.contains(">failed<") && page.contains("not a finite number"))
    }

    @Test func extractWritesForTheProjector() throws {
        let data = try TemporaryFolder()
        try data.writeClasses(imagesPerClass: 3)
        let out = try TemporaryFolder()
        let trained = try TrainingCommandTests.train(data.path, out.path + "/run", ["--steps", "1"])
        #expect(trained.status == 0, "\(trained.errors)")
        let extracted = try Graft.run(
            [
                "extract", data.path, "--weights", out.path + "/run/last.safetensors", "--layer", "avgpool,logits",
                "--out", out.path + "/f.npz", "--projector", out.path + "/projector", "--batch-size", "4",
            ] + TrainingCommandTests.small)
        #expect(extracted.status == 0, "\(extracted.errors)")
        let table = try String(contentsOfFile: out.path + "/projector/avgpool.tsv", encoding: .utf8)
        let rows = table.split(separator: "\n")
        #expect(rows.count == 6)
        #expect(rows.allSatisfy { $0.split(separator: "\t").count == 64 })
        for name in ["logits.tsv", "metadata.tsv", "sprite.png", "projector_config.pbtxt"] {
            #expect(FileManager.default.fileExists(atPath: out.path + "/projector/" + name), "\(name) is missing")
        }
    }
}
