import Foundation
import Graft
import GraftTensor
import GraftVision
import Testing

/// The page, the tables and `run.json` of a run.
@Suite struct RunFolderTests {
    /// A short run on pictures of files, under class names that a careless page would execute.
    static func run(
        in folder: TestFolder, classes: [String] = ["<script>alert(1)", "Käfer & \"Ähre\" 甲"], epochs: Int = 2
    ) throws -> (folder: RunFolder, data: ImageDataset, trainer: Trainer) {
        var samples: [ImageSample] = []
        for label in classes.indices {
            for index in 0..<4 {
                let name = "images/\(classes[label])/\(index).png"
                let file = URL(filePath: folder.path + "/" + name)
                try FileManager.default.createDirectory(
                    at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
                let picture = DemoPictures.draw(DemoPictures.graftedKinds[label % 5], index: index, seed: 1)
                let side = DemoPictures.imageSize
                try Data(ImageCodec.encodePNG(RGBImage(width: side, height: side, pixels: picture))).write(to: file)
                samples.append(ImageSample(path: name, label: label))
            }
        }
        let data = ImageDataset(folder: folder.path, samples: samples, classes: classes)
        var model = try Model("resnet8_cifar", classCount: classes.count, seed: 5)
        model.classNames = classes
        model.freeze()
        try model.unfreeze("linear")
        let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.001), device: .cpu)
        let run = try RunFolder(folder.path + "/run")
        try run.begin(
            RunDescription(
                trainer, data: data, validation: data, command: ["graft", "train", "it's <b>"],
                options: ["epochs": "2"], weights: nil, version: "0"), validation: data)
        var options = FitOptions()
        options.epochs = epochs
        options.batchSize = 4
        options.unfreezeAtEpoch = [(1, "layer3")]
        try trainer.fit(data, validation: data, options: options) { event in
            try run.note(event, trainer: trainer)
            switch event {
            case .step(let record): try run.record(record)
            case .epoch(let record): try run.finish(record, model: try trainer.model())
            default: break
            }
        }
        try run.end(.finished)
        return (run, data, trainer)
    }

    @Test func aRunIsDescribedByItsFiles() throws {
        let folder = try TestFolder()
        let (run, data, trainer) = try Self.run(in: folder)
        let description = try RunDescription(contentsOf: run.path + "/run.json")
        #expect(description.sessions.count == 1)
        #expect(description.status == .finished)
        #expect(description.command == ["graft", "train", "it's <b>"])
        #expect(description.training.classCounts == [4, 4])
        #expect(description.network.classes == data.classes)
        #expect(try description.result?.digest == trainer.model().digest())
        #expect(description.result?.steps == 4)
        #expect(description.phases.map(\.selector) == [nil, "layer3"])
        #expect(description.phases.map(\.step) == [0, 2])
        #expect(description.phases[0].plan.blocks.last?.role == .trainable)
        // The whole backbone is kept at first. The last epoch reads nothing again, so nothing is kept for it.
        let roles = description.phases.map { phase in
            Dictionary(uniqueKeysWithValues: phase.plan.blocks.map { ($0.name, $0.role) })
        }
        #expect(roles[0]["layer3"] == .kept)
        #expect(roles[1]["layer3"] == .trainable)
        #expect(roles[1]["layer1"] == .frozen)

        let history = try RunHistory(folder: run.path)
        #expect(history.steps.map(\.step) == [0, 1, 2, 3])
        #expect(history.epochs.map(\.epoch) == [0, 1])
        #expect(history.confusion.reduce(0) { $0 + $1.count } == 8)
        #expect(try folder.text("run/epochs.csv").hasPrefix("epoch,train_loss,train_accuracy,val_loss,val_accuracy"))
    }

    @Test func thePageIsOneFileAndEscapesWhatComesFromOutside() throws {
        let folder = try TestFolder()
        let (run, _, _) = try Self.run(in: folder)
        let page = try folder.text("run/report.html")
        #expect(!page.lowercased().contains("<script"))
        #expect(page.contains("&lt;script&gt;alert(1)"))
        #expect(page.contains("Käfer &amp; &quot;Ähre&quot; 甲"))
        #expect(page.contains("&#39;it&#39;\\&#39;&#39;s &lt;b&gt;&#39;"))
        #expect(!page.contains("http:") && !page.contains("https:") && !page.contains("src=\"/"))
        #expect(page.contains(">+ layer3</span>"))
        #expect(page.contains("2 classes, 8 images to train on, 8 to validate on"))
        // A network of random weights with a rate so small makes mistakes, and their pictures are in the page.
        let mistakes = try #require(run.description?.best).mistakes.count
        #expect(mistakes > 0)
        #expect(page.components(separatedBy: "<img src=\"data:image/jpeg;base64,").count == mistakes + 1)
        #expect(page.components(separatedBy: "alt=\"An image of ").count == mistakes + 1)

        // The same bytes from the files alone.
        #expect(
            try RunFolder.rebuildReport(of: run.path, to: folder.path + "/again.html") == folder.path + "/again.html")
        #expect(try folder.text("again.html") == page)
        // Without the pictures' files the page says so.
        try FileManager.default.removeItem(atPath: folder.path + "/images")
        try RunFolder.rebuildReport(of: run.path)
        let bare = try folder.text("run/report.html")
        #expect(!bare.contains("<img") && bare.contains("picture not found"))
    }

    @Test func aRunThatGoesOnKeepsWhatItSaidBefore() throws {
        let folder = try TestFolder()
        let (run, data, trainer) = try Self.run(in: folder)
        let again = try RunFolder(run.path)
        try again.begin(
            RunDescription(trainer, data: data, validation: data), validation: data, resumingAtStep: 3)
        let description = try #require(again.description)
        #expect(description.status == .running)
        #expect(description.sessions.map(\.step) == [0, 3])
        #expect(description.phases.map(\.selector) == [nil, "layer3"])
        #expect(description.best == run.description?.best)
    }

    @Test func aRunThatGoesOnBehindItsLastStepIsFinished() throws {
        let folder = try TestFolder()
        let (whole, data, _) = try Self.run(in: folder)
        /// The run anew or from a state, to its end or to the moment before its last validation.
        func part(_ state: TrainingState?, isEnded: Bool) throws -> RunFolder {
            var model = try Model("resnet8_cifar", classCount: data.classes.count, seed: 5)
            model.classNames = data.classes
            model.freeze()
            try model.unfreeze("linear")
            let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.001), device: .cpu)
            let run = try RunFolder(folder.path + "/parts")
            if let state { #expect(try run.resume(state).isEmpty) }
            try run.begin(RunDescription(trainer, data: data, validation: data), validation: data)
            var options = FitOptions()
            options.epochs = 2
            options.batchSize = 4
            options.unfreezeAtEpoch = [(1, "layer3")]
            options.stateIntervalSeconds = 1000
            let flag = Flag()
            options.isCancelled = { flag.isSet }
            try trainer.fit(data, validation: data, options: options, resuming: state) { event in
                try run.note(event, trainer: trainer)
                switch event {
                case .step(let record):
                    try run.record(record)
                    if isEnded, record.step == 3 { flag.set() }
                case .epoch(let record): try run.finish(record, model: try trainer.model())
                case .state(let state): try run.save(state)
                default: break
                }
            }
            try run.end(.finished)
            return run
        }
        #expect(throws: GraftError.interrupted) { try part(nil, isEnded: true) }
        let state = try #require(try RunFolder.state(in: folder.path + "/parts")).state
        #expect(state.stepCount == 4 && !state.isEpochFinished)
        let parts = try part(state, isEnded: false)
        #expect(try RunFolder.state(in: parts.path)?.state.isFinished == true)
        let description = try RunDescription(contentsOf: parts.path + "/run.json")
        #expect(description.status == .finished)
        #expect(description.sessions.map(\.step) == [0, 4])
        #expect(description.result == whole.description?.result)
        let (found, expected) = (try RunHistory(folder: parts.path), try RunHistory(folder: whole.path))
        #expect(found.epochs.map(\.trainLoss) == expected.epochs.map(\.trainLoss))
        #expect(found.epochs.map(\.validationLoss) == expected.epochs.map(\.validationLoss))
        #expect(found.steps.map(\.loss) == expected.steps.map(\.loss))
        let events = try FileManager.default.contentsOfDirectory(atPath: parts.path).filter { $0.contains("tfevents") }
        #expect(events.count == 2)
    }

    /// Files that wait are those of the last epoch and of the best one, and no end but a kill loses them.
    @Test(arguments: [RunDescription.Status.finished, .interrupted, .failed])
    func filesThatWaitAreWrittenAtTheEnd(status: RunDescription.Status) throws {
        let folder = try TestFolder()
        let (_, data, _) = try Self.run(in: folder)
        var model = try Model("resnet8_cifar", classCount: data.classes.count, seed: 5)
        model.classNames = data.classes
        let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.05), device: .cpu)
        let run = try RunFolder(folder.path + "/waiting")
        run.saveSpacing = .greatestFiniteMagnitude
        try run.begin(RunDescription(trainer, data: data, validation: data), validation: data)
        var options = FitOptions()
        options.epochs = 5
        options.batchSize = 4
        var digests: [String] = []
        var scores: [Double] = []
        func digest(_ name: String) throws -> String {
            try Model("resnet8_cifar", weights: run.path + "/" + name).digest()
        }
        try trainer.fit(data, validation: data, options: options) { event in
            try run.note(event, trainer: trainer)
            switch event {
            case .step(let record): try run.record(record)
            case .epoch(let record):
                digests.append(try trainer.model().digest())
                scores.append(try #require(record.validation).top1)
                try run.finish(record, model: try trainer.model())
                #expect(try digest("last.safetensors") == digests[0])
                #expect(try digest("best.safetensors") == digests[0])
            default: break
            }
        }
        #expect(Set(digests).count == 5)
        var broken = try trainer.model()
        try broken.replaceState(StateDictionary([("linear.bias", HostTensor([2], [0, .infinity]))]))
        // Refused, and what waits stays as it was.
        #expect(throws: GraftError.self) { try run.save(broken) }
        try run.end(status)
        let best = try #require(scores.indices.max { scores[$0] < scores[$1] || (scores[$0] == scores[$1] && $0 > $1) })
        #expect(try digest("last.safetensors") == digests[4])
        #expect(try digest("best.safetensors") == digests[best])
        let description = try RunDescription(contentsOf: run.path + "/run.json")
        #expect(description.status == status)
        #expect(description.result?.steps == 10 && description.result?.epochs == 5)
        #expect(description.result?.digest == digests[4])
        #expect(description.best?.epoch == best)
        let history = try RunHistory(folder: run.path)
        #expect(history.epochs.map(\.epoch) == [0, 1, 2, 3, 4])
        #expect(history.confusion.reduce(0) { $0 + $1.count } == 8)
    }

    @Test func theEndIsToldThoughWeightsCannotBeWritten() throws {
        let folder = try TestFolder()
        let (_, data, trainer) = try Self.run(in: folder)
        let run = try RunFolder(folder.path + "/run")
        run.saveSpacing = 1e9
        try run.begin(RunDescription(trainer, data: data, validation: data), validation: data)
        var options = FitOptions()
        options.epochs = 2
        options.batchSize = 4
        try trainer.fit(data, options: options) { event in
            switch event {
            case .step(let record): try run.record(record)
            case .epoch(let record): try run.finish(record, model: try trainer.model())
            default: break
            }
        }
        let last = run.path + "/last.safetensors"
        try FileManager.default.removeItem(atPath: last)
        try FileManager.default.createDirectory(atPath: last, withIntermediateDirectories: false)
        #expect(throws: (any Error).self) { try run.end(.failed, message: "no room") }
        let description = try RunDescription(contentsOf: run.path + "/run.json")
        #expect(description.status == .failed && description.message == "no room")
        // What waited still does.
        try FileManager.default.removeItem(atPath: last)
        try run.end(.failed)
        #expect(try Model("resnet8_cifar", weights: last).digest() == trainer.model().digest())
    }

    /// A state says what the best score is, so the best weights are on the disk before it.
    @Test func filesThatWaitAreWrittenBeforeAState() throws {
        let folder = try TestFolder()
        let (_, data, _) = try Self.run(in: folder)
        let trainer = try Trainer(
            try Model("resnet8_cifar", classCount: data.classes.count, seed: 5), optimizer: .sgd(learningRate: 0.05),
            device: .cpu)
        let run = try RunFolder(folder.path + "/waiting")
        run.saveSpacing = .greatestFiniteMagnitude
        var options = FitOptions()
        options.epochs = 3
        options.batchSize = 4
        options.stateIntervalSeconds = 1000
        var digests: [String] = []
        try trainer.fit(data, options: options) { event in
            switch event {
            case .step(let record): try run.record(record)
            case .epoch(let record):
                digests.append(try trainer.model().digest())
                try run.finish(record, model: try trainer.model())
            case .state(let state):
                guard state.isFinished else { break }
                try run.save(state)
                #expect(try Model("resnet8_cifar", weights: run.path + "/last.safetensors").digest() == digests.last)
            default: break
            }
        }
        #expect(digests.count == 3)
        let state = try #require(try RunFolder.state(in: run.path)).state
        #expect(state.isFinished)
        #expect(try RunFolder(run.path).resume(state).isEmpty)
    }

    @Test func damagedTablesAreNamed() throws {
        let folder = try TestFolder()
        let (run, _, _) = try Self.run(in: folder, epochs: 2)
        func expect(_ name: String, _ text: String, _ part: String) throws {
            let path = run.path + "/" + name
            let whole = try Data(contentsOf: URL(filePath: path))
            try Data(text.utf8).write(to: URL(filePath: path))
            let error = #expect(throws: GraftError.self) { try RunFolder.rebuildReport(of: run.path) }
            #expect(error?.description.contains(part) ?? false, "\(error?.description ?? "")")
            #expect(error.map { failureKind(of: $0) } == .badData)
            try whole.write(to: URL(filePath: path))
        }
        try expect("steps.csv", "step,epoch,loss,accuracy,learning_rate,images_per_second\n0,x,1,1,1,1\n", "line 2")
        try expect("steps.csv", "step,epoch,loss,accuracy,learning_rate,images_per_second\n0,1e99,1,1,1,1\n", "line 2")
        try expect("steps.csv", "step,epoch\n0,0\n", "no column loss")
        try expect("epochs.csv", "", "is empty")
        try expect("run.json", "{}", "run.json")
        let none = #expect(throws: GraftError.self) { try RunFolder.rebuildReport(of: folder.path) }
        #expect(none.map { failureKind(of: $0) } == .noInput)
    }

    @Test func aHundredClassesStayReadable() throws {
        let folder = try TestFolder()
        let names = (0..<100).map { "class number \($0)" }
        let (run, _, _) = try Self.run(in: folder, classes: names, epochs: 2)
        let page = try folder.text("run/report.html")
        #expect(page.utf8.count < 600_000, "\(page.utf8.count) bytes")
        #expect(page.contains("class=\"heat\""))
        #expect(page.contains("Most frequent confusions"))
        #expect(run.description?.best?.mistakes.count == Evaluation.mistakeLimit)
    }

    @Test func rolesFollowTheFrozenSet() throws {
        var model = try Model("resnet18", classCount: 10)
        model.freeze()
        try model.unfreeze("layer3,fc")
        let plan = try TrainabilityPlan(model)
        let roles = Dictionary(uniqueKeysWithValues: plan.blocks.map { ($0.name, $0.role) })
        #expect(plan.blocks.map(\.name) == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"])
        #expect(roles["layer2"] == .kept && roles["conv1"] == .kept)
        #expect(roles["layer3"] == .trainable && roles["layer4"] == .passing && roles["fc"] == .trainable)
        #expect(plan.trainableCount == 2_099_712 + 5_130)
        #expect(try TrainabilityPlan(model, keepsOutputs: false).blocks[0].role == .frozen)
        #expect(try TrainabilityPlan(model, frozenStatistics: .track).blocks[0].role == .kept)
        #expect(try TrainabilityPlan(model, frozenStatistics: .track).blocks[1].role == .frozen)
        let squeezeNet = try TrainabilityPlan(Model("squeezenet1_1"))
        #expect(squeezeNet.blocks.first?.name == "features.0")
        #expect(squeezeNet.blocks.allSatisfy { $0.role == .trainable })
    }

    @Test func theMostConfidentMistakesAreKeptInOrder() throws {
        var evaluation = Evaluation(classNames: ["a", "b", "c"])
        var logits: [Float] = []
        let count = 60
        for index in 0..<count { logits += [Float(index % 30), 0, -1] }
        try evaluation.add(
            logits: HostTensor([count, 3], logits), labels: [Int32](repeating: 1, count: count),
            sampleIndices: Array(100..<160))
        #expect(evaluation.mistakes.count == Evaluation.mistakeLimit)
        #expect(evaluation.mistakes.prefix(4).map(\.sampleIndex) == [129, 159, 128, 158])
        let first = try #require(evaluation.mistakes.first)
        #expect(first.label == 1 && first.prediction == 0 && abs(first.probability - 1) < 1e-9)
        #expect(
            zip(evaluation.mistakes, evaluation.mistakes.dropFirst()).allSatisfy { $0.probability >= $1.probability })
        #expect(throws: GraftError.self) {
            try evaluation.add(logits: HostTensor([1, 3], [0, 0, 0]), labels: [0], sampleIndices: [1, 2])
        }
    }

    @Test func theProjectorGetsItsFiles() throws {
        let folder = try TestFolder()
        let writer = try ProjectorWriter(
            folder.path + "/p", layers: ["avgpool", "a:b"], classes: ["x\ty"], imageCount: 5, imageSize: 16)
        for batch in [3, 2] {
            try writer.append(
                [
                    "avgpool": HostTensor([batch, 2, 1, 1], (0..<batch * 2).map { Float($0) / 4 }),
                    "a:b": HostTensor([batch, 1], (0..<batch).map { Float($0) }),
                ], labels: [Int32](repeating: 0, count: batch), paths: (0..<batch).map { "p\($0)" },
                pixels: [UInt8](repeating: UInt8(batch), count: batch * 16 * 16 * 3))
        }
        try writer.finish()
        #expect(try folder.text("p/avgpool.tsv") == "0.0\t0.25\n0.5\t0.75\n1.0\t1.25\n0.0\t0.25\n0.5\t0.75\n")
        #expect(try folder.text("p/metadata.tsv").hasPrefix("class\tpath\nx y\tp0\n"))
        let configuration = try folder.text("p/projector_config.pbtxt")
        #expect(configuration.contains("tensor_name: \"a:b\"") && configuration.contains("tensor_path: \"a_b.tsv\""))
        #expect(configuration.contains("tensor_shape: 5\n  tensor_shape: 2\n"))
        let sprite = try ImageCodec.decode(contentsOf: folder.path + "/p/sprite.png")
        #expect(sprite.width == 48 && sprite.height == 32)
        #expect(Array(sprite.pixels.prefix(3)) == [3, 3, 3] && Array(sprite.pixels.suffix(3)) == [255, 255, 255])
    }
}
