import Foundation
import GraftCheckpoint
import GraftVision

/// The folder of one training run: weights and tables, each written so that a crash leaves the older file.
///
/// `last.safetensors` after every epoch, `best.safetensors` after the best one, `steps.csv` and `epochs.csv`, an event
/// file for TensorBoard. With ``begin(_:validation:resumingAtStep:)`` also `run.json`, `confusion.csv` and the page `report.html`.
public final class RunFolder {
    /// The folder's path.
    public let path: String
    private var stepRows = "step,epoch,loss,accuracy,learning_rate,images_per_second\n"
    private var epochRows = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds\n"
    private var bestScore = -Double.infinity
    private var last: (epoch: Int, step: Int) = (0, 0)
    /// Epochs completed.
    private var epochCount = 0
    /// Whether this run has taken the folder.
    private var isOpen = false
    private var resumingAtStep: Int?
    private var events: EventFile?
    /// What `run.json` says; nil until ``begin(_:validation:resumingAtStep:)``.
    public private(set) var description: RunDescription?
    private let thumbnails = ThumbnailStore()
    /// The validation images, for the names of mistakes.
    private var validationImages: ImageDataset?
    /// The layers whose outputs are kept now.
    private var keptLayers: [String]?

    /// Creates the folder, or takes one that exists and can be written.
    ///
    /// - Throws: ``GraftError/outputFailed(_:)``.
    public init(_ path: String) throws {
        self.path = path
        do {
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            throw GraftError.outputFailed(
                "cannot create the folder \(path): \(error.localizedDescription); choose another --out")
        }
        guard FileManager.default.isWritableFile(atPath: path) else {
            throw GraftError.outputFailed("the folder \(path) cannot be written; choose another --out")
        }
    }

    private func file(_ name: String) -> String { path + "/" + name }

    /// Whether weights of an earlier run lie here.
    public var holdsEarlierRun: Bool { FileManager.default.fileExists(atPath: file("last.safetensors")) }

    // MARK: Description

    /// Describes the run. `run.json` and the page are written from the first step on; until then an earlier run's files
    /// stay as they are.
    ///
    /// - Parameters:
    ///   - description: what is about to begin.
    ///   - validation: the validation images, which mistakes are named after.
    ///   - resumingAtStep: the next step of a run that goes on in this folder: what `run.json` and the event files say
    ///     about earlier steps stays, what the event files say about this and later ones is declared void.
    /// - Throws: ``GraftError/damagedFile(_:)`` for the `run.json` of a run that goes on.
    public func begin(
        _ description: RunDescription, validation: ImageDataset? = nil, resumingAtStep: Int? = nil
    ) throws {
        var description = description
        validationImages = validation
        self.resumingAtStep = resumingAtStep
        if let resumingAtStep, FileManager.default.fileExists(atPath: file("run.json")) {
            let earlier = try RunDescription(contentsOf: file("run.json"))
            description.phases = earlier.phases.filter { $0.step <= resumingAtStep }
            description.sessions = earlier.sessions
            description.best = earlier.best
            description.kept = earlier.kept
        }
        description.sessions.append(
            RunDescription.Session(step: resumingAtStep ?? 0, started: Date(), ended: Date()))
        self.description = description
    }

    /// Takes the folder for this run.
    private func takeFolder() throws {
        isOpen = true
        events = try EventFile(folder: path, resumingAtStep: resumingAtStep)
        guard description != nil else { return }
        if resumingAtStep == nil { try remove("confusion.csv") }
        try writeTables()
    }

    /// Removes what an older run left under a name.
    private func remove(_ name: String) throws {
        guard FileManager.default.fileExists(atPath: file(name)) else { return }
        do { try FileManager.default.removeItem(atPath: file(name)) } catch {
            throw GraftError.outputFailed("cannot remove the older run's \(file(name)): \(error.localizedDescription)")
        }
    }

    /// Takes what an event of ``Trainer/fit(_:validation:options:onEvent:)`` says about frozen and trainable layers.
    public func note(_ event: TrainingEvent, trainer: Trainer) throws {
        guard description != nil else { return }
        let model = trainer.configuration
        func plan(keepsOutputs: Bool) throws -> TrainabilityPlan {
            try TrainabilityPlan(
                model, frozenStatistics: trainer.frozenStatistics, dropout: trainer.usesDropout,
                keepsOutputs: keepsOutputs)
        }
        switch event {
        case .prepared(let byteCount, _): description?.device.plannedByteCount = byteCount
        case .caching(let report):
            keptLayers = report.layers
            if let index = description?.phases.indices.last {
                description?.phases[index].plan = try plan(keepsOutputs: true)
            }
            var file: String?
            if case .disk(let path) = report.location { file = path }
            description?.kept = RunDescription.Kept(
                layers: report.layers, file: file, byteCount: report.byteCount, sparedShare: report.sparedShare)
        case .uncached: keptLayers = nil
        case .unfroze(let selector, let names, let epoch, let step):
            guard !names.isEmpty else { return }
            // Where the frozen part does not change, no event says that its outputs are kept as before.
            let frontier = try trainer.currentFrontier()
            description?.phases.removeAll { $0.step == step && $0.selector == selector }
            description?.phases.append(
                RunDescription.Phase(
                    step: step, epoch: epoch, selector: selector, tensorCount: names.count,
                    plan: try plan(keepsOutputs: keptLayers != nil && keptLayers == frontier?.nodes)))
        case .cacheUnavailable, .step, .skipped, .epoch: break
        }
    }

    /// Says how the run ended, in `run.json` and on the page.
    ///
    /// - Parameters:
    ///   - status: how.
    ///   - message: why it failed.
    /// - Throws: errors of writing.
    public func end(_ status: RunDescription.Status, message: String? = nil) throws {
        guard isOpen, description != nil else { return }
        description?.status = status
        description?.message = message
        try writeTables()
    }

    /// Writes the tables, `run.json` and the page.
    private func writeTables() throws {
        try AtomicFile.write(Array(stepRows.utf8), to: file("steps.csv"))
        try AtomicFile.write(Array(epochRows.utf8), to: file("epochs.csv"))
        try events?.flush()
        guard var description else { return }
        if let index = description.sessions.indices.last { description.sessions[index].ended = Date() }
        self.description = description
        try AtomicFile.write(description.json(), to: file("run.json"))
        try writeReport()
    }

    private func writeReport() throws {
        // From the files alone, so that the page can be made again of them.
        let description = try RunDescription(contentsOf: file("run.json"))
        let page = ReportPage(description, try RunHistory(folder: path), thumbnails: thumbnails)
        try AtomicFile.write(page.html(), to: file("report.html"))
    }

    /// Makes `report.html` of a run's folder anew from `run.json` and the tables; pictures come from the images' own
    /// files, if they are still there.
    ///
    /// - Parameters:
    ///   - folder: the run's folder.
    ///   - path: where the page goes; nil for `report.html` in the folder.
    /// - Returns: the page's path.
    /// - Throws: ``GraftError/noInput(_:)``, ``GraftError/damagedFile(_:)``; errors of writing.
    @discardableResult
    public static func rebuildReport(of folder: String, to path: String? = nil) throws -> String {
        let description = try RunDescription(contentsOf: folder + "/run.json")
        let page = ReportPage(description, try RunHistory(folder: folder), thumbnails: ThumbnailStore())
        let target = path ?? folder + "/report.html"
        try AtomicFile.write(page.html(), to: target)
        return target
    }

    // MARK: Tables and weights

    /// Keeps a step for `steps.csv`, and hands it to TensorBoard.
    public func record(_ step: StepRecord) throws {
        last = (step.epoch, step.step)
        if !isOpen { try takeFolder() }
        try events?.add(
            [
                ("loss/train", step.loss), ("accuracy/train", step.accuracy), ("learning_rate", step.learningRate),
                ("images_per_second", step.imagesPerSecond),
            ], step: step.step)
        stepRows +=
            "\(step.step),\(step.epoch),\(step.loss),\(step.accuracy),\(step.learningRate),\(rounded(step.imagesPerSecond))\n"
    }

    /// Writes the tables and the weights of an epoch, and `best.safetensors` if it is the best so far: the highest
    /// validation accuracy, or without validation the lowest training loss; the earlier one on ties.
    ///
    /// - Throws: ``GraftError/diverged(epoch:step:)`` for weights that are not finite: earlier files stay as they are.
    public func finish(_ epoch: EpochRecord, model: Model) throws {
        try checkFinite(model)
        let digest = try model.digest()
        func text(_ value: Double?) -> String { value.map { "\($0)" } ?? "" }
        epochRows +=
            "\(epoch.epoch),\(epoch.trainLoss),\(epoch.trainAccuracy),\(text(epoch.validation?.loss)),\(text(epoch.validation?.top1)),\(rounded(epoch.seconds))\n"
        var values = [("loss/train_epoch", epoch.trainLoss), ("accuracy/train_epoch", epoch.trainAccuracy)]
        if let validation = epoch.validation {
            values += [("loss/validation", validation.loss), ("accuracy/validation", validation.top1)]
        }
        try events?.add(values, step: last.step)
        let score = epoch.validation?.top1 ?? -epoch.trainLoss
        if score > bestScore {
            bestScore = score
            try model.save(file("best.safetensors"), digest: digest)
            if let validation = epoch.validation { try remember(validation, of: epoch.epoch) }
        }
        epochCount = epoch.epoch + 1
        try save(model, digest: digest)
    }

    /// Keeps what the page says about the best epoch.
    private func remember(_ validation: Evaluation, of epoch: Int) throws {
        guard let data = description?.validation else { return }
        description?.best = RunDescription.Validation(
            epoch: epoch, count: validation.count, loss: validation.loss, top1: validation.top1, top5: validation.top5,
            mistakes: validation.mistakes.map { mistake in
                let image = validationImages?.samples[mistake.sampleIndex].path ?? "image \(mistake.sampleIndex)"
                return RunDescription.Mistake(
                    image: image,
                    file: data.folder.map { image.hasPrefix("/") ? image : $0 + "/" + image }, label: mistake.label,
                    prediction: mistake.prediction, probability: mistake.probability,
                    labelProbability: mistake.labelProbability)
            })
        var table = "label,prediction,images,label_class,predicted_class\n"
        func field(_ name: String) -> String {
            let line = name.map { $0.isNewline ? " " : String($0) }.joined()
            return "\"" + line.replacingOccurrences(of: "\"", with: "\"\"") + "\""
        }
        for (label, row) in validation.confusion.enumerated() {
            for (prediction, count) in row.enumerated() where count > 0 {
                table += "\(label),\(prediction),\(count),\(field(validation.classNames[label])),"
                table += "\(field(validation.classNames[prediction]))\n"
            }
        }
        try AtomicFile.write(table, to: file("confusion.csv"))
    }

    private func checkFinite(_ model: Model) throws {
        guard model.isFinite else { throw GraftError.diverged(epoch: last.epoch, step: last.step) }
    }

    /// Writes `last.safetensors` and the tables; weights that are not finite are refused.
    public func save(_ model: Model) throws {
        try checkFinite(model)
        try save(model, digest: model.digest())
    }

    private func save(_ model: Model, digest: String) throws {
        // A run that ends within its first epoch has no best; that of an older run must not pass for its own.
        if bestScore == -.infinity { try remove("best.safetensors") }
        try model.save(file("last.safetensors"), digest: digest)
        description?.result = RunDescription.Result(steps: last.step + 1, epochs: epochCount, digest: digest)
        try writeTables()
    }

    private func rounded(_ value: Double) -> String { String(format: "%.3f", value) }
}
