import Foundation
import GraftCheckpoint
import GraftTensor
import GraftVision

/// The folder of one training run: weights, state and tables, each written so that a crash leaves the older file.
///
/// `last.safetensors` after every epoch, `best.safetensors` after the best one, `ema.safetensors` where an average of the
/// weights is kept, `epoch-N.safetensors` of the best epochs if asked for; `steps.csv` and `epochs.csv`;
/// `state.safetensors`, from which the run can go on, and the state before it, `state.previous.safetensors`; an event file
/// for TensorBoard. With ``begin(_:validation:resumingAtStep:)`` also `run.json`, `confusion.csv` and the page `report.html`.
public final class RunFolder {
    /// The folder's path.
    public let path: String
    /// The epochs of the run so far, those before an interruption included.
    public private(set) var epochs: [EpochSummary] = []
    private static let stepHeader = "step,epoch,loss,accuracy,learning_rate,images_per_second"
    private static let epochHeader = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds"
    private static let averageHeader = ",ema_val_loss,ema_val_accuracy"
    private var stepRows = RunFolder.stepHeader + "\n"
    private var epochRows = ""
    /// Whether the table of epochs has the average's columns.
    private var keepsAverage = false
    private var bestScore = -Double.infinity
    private let keptCount: Int
    /// How many times as long as writing an epoch's files took must pass until those of another epoch are written; 0
    /// writes them behind every epoch. What waits is written before a state, by ``save(_:averaged:)`` and by
    /// ``end(_:message:)``, so that only a kill can cost it; a run with a spacing must end with one of these.
    public var saveSpacing = 0.0
    /// What ``finish(_:model:averaged:)`` was given and has not written yet.
    private var unsaved: Unsaved?
    /// When the files of an epoch were last written, and how long that took.
    private var lastSave: (end: ContinuousClock.Instant, duration: Duration)?
    /// The epochs whose weights are kept, best first.
    private var kept: [(score: Double, epoch: Int)] = []
    private var last: (epoch: Int, step: Int) = (0, 0)
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
    /// Whether the state file on the disk is known to be whole.
    private var isStateWhole = false
    /// The folder itself, while it is locked.
    private var lockedDescriptor: Int32 = -1

    /// A row of `epochs.csv`.
    public struct EpochSummary: Sendable, Hashable {
        /// Counted from 0.
        public let epoch: Int
        /// Mean loss of the epoch's images, each before its step's update.
        public let trainLoss: Double
        /// Share of right answers, each before its step's update.
        public let trainAccuracy: Double
        /// On the validation images, if there are any.
        public let validationLoss: Double?
        /// On the validation images, if there are any.
        public let validationAccuracy: Double?
        /// Wall time, validation included.
        public let seconds: Double
        /// On the validation images with the averaged weights, where an average is kept.
        public var averagedValidationLoss: Double?
        /// On the validation images with the averaged weights, where an average is kept.
        public var averagedValidationAccuracy: Double?
    }

    /// Weights that wait to be written.
    private struct Unsaved {
        let last: Model
        let averaged: Model?
        let stepCount: Int
        let epochCount: Int
        /// Those of the best epoch, where they are not written yet, and the table of its mistakes.
        let best: (model: Model, confusion: String?)?
        /// Whether the best are the last.
        let isBest: Bool
    }

    private enum Name {
        static let last = "last.safetensors"
        static let best = "best.safetensors"
        static let average = "ema.safetensors"
        static let state = "state.safetensors"
        static let previousState = "state.previous.safetensors"
        static let steps = "steps.csv"
        static let epochs = "epochs.csv"
        static let description = "run.json"
        static let confusion = "confusion.csv"
        static let report = "report.html"
        static let all = [last, best, average, state, previousState, steps, epochs, description, confusion, report]
    }

    private static let bestScoreNote = "best_score"
    private static let keptNote = "kept_epochs"

    /// Creates the folder, or takes one that exists and can be written.
    ///
    /// - Parameters:
    ///   - path: the folder.
    ///   - keptCount: how many of the best epochs' weights are kept as `epoch-N.safetensors`, N counted from 1; 0 is none
    ///     besides `best.safetensors`.
    /// - Throws: ``GraftError/outputFailed(_:)``.
    public init(_ path: String, keptCount: Int = 0) throws {
        self.path = path
        self.keptCount = keptCount
        do {
            try createFolder(path)
        } catch {
            throw GraftError.outputFailed(
                "cannot create the folder \(path): \(systemReason(of: error)); choose another --out")
        }
        guard FileManager.default.isWritableFile(atPath: path) else {
            throw GraftError.outputFailed("the folder \(path) cannot be written; choose another --out")
        }
    }

    deinit { if lockedDescriptor >= 0 { close(lockedDescriptor) } }

    /// Takes the folder for this object alone, until it or the process ends in whatever way. A file system without locks
    /// takes no part.
    ///
    /// - Throws: ``GraftError/outputFailed(_:)`` when another run has it.
    public func lock() throws {
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { return }
        guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK else {
            close(descriptor)
            throw GraftError.outputFailed(
                "another run is writing to \(path); wait for its end, or choose another --out")
        }
        lockedDescriptor = descriptor
    }

    private func file(_ name: String) -> String { path + "/" + name }

    /// Whether weights of an earlier run lie here.
    public var holdsEarlierRun: Bool { Self.holdsEarlierRun(path) }

    /// Whether weights of an earlier run lie in a folder.
    public static func holdsEarlierRun(_ path: String) -> Bool {
        FileManager.default.fileExists(atPath: path + "/" + Name.last)
    }

    // MARK: Description

    /// Describes the run. `run.json` and the page are written from the first step on; until then an earlier run's files
    /// stay as they are.
    ///
    /// - Parameters:
    ///   - description: what is about to begin.
    ///   - validation: the validation images, which mistakes are named after.
    ///   - resumingAtStep: the next step of a run that goes on in this folder, nil to take that of ``resume(_:)``: what
    ///     `run.json` and the event files say about earlier steps stays, what the event files say about this and later
    ///     ones is declared void.
    /// - Throws: ``GraftError/damagedFile(_:)`` for the `run.json` of a run that goes on.
    public func begin(
        _ description: RunDescription, validation: ImageDataset? = nil, resumingAtStep: Int? = nil
    ) throws {
        var description = description
        validationImages = validation
        let resumingAtStep = resumingAtStep ?? self.resumingAtStep
        self.resumingAtStep = resumingAtStep
        if let resumingAtStep, FileManager.default.fileExists(atPath: file(Name.description)) {
            let earlier = try RunDescription(contentsOf: file(Name.description))
            description.phases = earlier.phases.filter { $0.step <= resumingAtStep }
            description.sessions = earlier.sessions
            description.best = earlier.best
            description.kept = earlier.kept
            description.command = earlier.command
            description.network = earlier.network
        }
        description.sessions.append(
            RunDescription.Session(step: resumingAtStep ?? 0, started: Date(), ended: Date()))
        self.description = description
    }

    /// Takes the folder for this run.
    private func takeFolder() throws {
        isOpen = true
        if kept.isEmpty { try removeKeptEpochs() }
        events = try EventFile(folder: path, resumingAtStep: resumingAtStep)
        guard description != nil else { return }
        if resumingAtStep == nil { try remove(Name.confusion) }
        try writeAll()
    }

    /// Takes what an event of ``Trainer/fit(_:validation:options:resuming:onEvent:)`` says about frozen and trainable layers.
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
        case .unfroze(let selector, let names, let epoch, let step, _):
            guard !names.isEmpty else { return }
            // Where the frozen part does not change, no event says that its outputs are kept as before.
            let frontier = try trainer.currentFrontier()
            description?.phases.removeAll { $0.step == step && $0.selector == selector }
            description?.phases.append(
                RunDescription.Phase(
                    step: step, epoch: epoch, selector: selector, tensorCount: names.count,
                    plan: try plan(keepsOutputs: keptLayers != nil && keptLayers == frontier?.nodes)))
        case .stoppedEarly(let bestEpoch): description?.stoppedEarlyBestEpoch = bestEpoch
        case .cacheUnavailable, .step, .skipped, .epoch, .state: break
        }
    }

    /// Says how the run ended, in `run.json` and on the page.
    ///
    /// - Parameters:
    ///   - status: how.
    ///   - message: why it failed.
    /// - Throws: errors of writing.
    public func end(_ status: RunDescription.Status, message: String? = nil) throws {
        guard isOpen else { return }
        description?.status = status
        description?.message = message
        do { try writeUnsaved() } catch {
            // Weights that cannot be written are no reason to leave the run's end out.
            try? writeAll()
            throw error
        }
        try writeAll()
    }

    /// Writes the tables, `run.json` and the page.
    private func writeAll() throws {
        try saveTables()
        guard var description else { return }
        if let index = description.sessions.indices.last { description.sessions[index].ended = Date() }
        self.description = description
        try AtomicFile.write(description.json(), to: file(Name.description))
        try writeReport()
    }

    private func writeReport() throws {
        // From the files alone, so that the page can be made again of them.
        let description = try RunDescription(contentsOf: file(Name.description))
        let page = ReportPage(description, try RunHistory(folder: path), thumbnails: thumbnails)
        try AtomicFile.write(page.html(), to: file(Name.report))
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
        var values = [
            ("loss/train", step.loss), ("accuracy/train", step.accuracy), ("learning_rate", step.learningRate),
            ("images_per_second", step.imagesPerSecond),
        ]
        if let norm = step.gradientNorm { values.append(("gradient_norm", norm)) }
        try events?.add(values, step: step.step)
        stepRows +=
            "\(step.step),\(step.epoch),\(step.loss),\(step.accuracy),\(step.learningRate),\(rounded(step.imagesPerSecond))\n"
    }

    /// Writes the tables and the weights of an epoch (see ``saveSpacing``), and `best.safetensors` if it is the best so
    /// far: the highest validation accuracy, or without validation the lowest training loss; the earlier one on ties. Where
    /// an average of the weights is kept it goes to `ema.safetensors`, its validation decides which is best, and its weights
    /// are.
    ///
    /// - Throws: ``GraftError/diverged(epoch:step:)`` for weights that are not finite: earlier files stay as they are.
    public func finish(_ epoch: EpochRecord, model: Model, averaged: Model? = nil) throws {
        try checkFinite(model.isFinite)
        if let averaged { try checkFinite(averaged.isFinite) }
        // A run that goes on behind the last step of an epoch comes here first.
        if !isOpen { try takeFolder() }
        keepsAverage = averaged != nil
        func text(_ value: Double?) -> String { value.map { "\($0)" } ?? "" }
        epochRows +=
            "\(epoch.epoch),\(epoch.trainLoss),\(epoch.trainAccuracy),\(text(epoch.validation?.loss)),\(text(epoch.validation?.top1)),\(rounded(epoch.seconds))"
        if averaged != nil {
            epochRows += ",\(text(epoch.averagedValidation?.loss)),\(text(epoch.averagedValidation?.top1))"
        }
        epochRows += "\n"
        epochs.append(
            EpochSummary(
                epoch: epoch.epoch, trainLoss: epoch.trainLoss, trainAccuracy: epoch.trainAccuracy,
                validationLoss: epoch.validation?.loss, validationAccuracy: epoch.validation?.top1,
                seconds: epoch.seconds, averagedValidationLoss: epoch.averagedValidation?.loss,
                averagedValidationAccuracy: epoch.averagedValidation?.top1))
        var values = [("loss/train_epoch", epoch.trainLoss), ("accuracy/train_epoch", epoch.trainAccuracy)]
        if let validation = epoch.validation {
            values += [("loss/validation", validation.loss), ("accuracy/validation", validation.top1)]
        }
        if let averaged = epoch.averagedValidation {
            values += [("loss/validation_average", averaged.loss), ("accuracy/validation_average", averaged.top1)]
        }
        try events?.add(values, step: last.step)
        let deciding = epoch.averagedValidation ?? epoch.validation
        let score = deciding?.top1 ?? -epoch.trainLoss
        var best = unsaved?.best
        let isBest = score > bestScore
        if isBest {
            bestScore = score
            best = (
                averaged ?? model, deciding.flatMap { remember($0, of: epoch.epoch, isAverage: averaged != nil) }
            )
        }
        try keep(averaged ?? model, score: score, epoch: epoch.epoch)
        unsaved = unsaved(model, averaged, best: best, isBest: isBest && averaged == nil)
        if let lastSave, lastSave.end.duration(to: .now) / lastSave.duration < saveSpacing { return }
        let begin = ContinuousClock.now
        try writeUnsaved()
        try writeAll()
        lastSave = (.now, begin.duration(to: .now))
    }

    private func unsaved(
        _ model: Model, _ averaged: Model?, best: (model: Model, confusion: String?)?, isBest: Bool
    ) -> Unsaved {
        Unsaved(
            last: model, averaged: averaged, stepCount: last.step + 1,
            epochCount: epochs.last.map { $0.epoch + 1 } ?? 0, best: best, isBest: isBest)
    }

    /// Keeps what the page says about the best epoch.
    ///
    /// - Returns: the table of its mistakes.
    private func remember(_ validation: Evaluation, of epoch: Int, isAverage: Bool) -> String? {
        guard let data = description?.validation else { return nil }
        description?.best = RunDescription.Validation(
            epoch: epoch, count: validation.count, loss: validation.loss, top1: validation.top1, top5: validation.top5,
            isAverage: isAverage ? true : nil,
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
        return table
    }

    /// Writes the weights of an epoch that is among the best, and removes those of the one that no longer is.
    private func keep(_ model: Model, score: Double, epoch: Int) throws {
        guard keptCount > 0 else { return }
        if kept.isEmpty { try removeKeptEpochs() }
        let place = kept.firstIndex { $0.score < score } ?? kept.count
        guard place < keptCount else { return }
        kept.insert((score, epoch), at: place)
        try model.save(file(Self.name(ofEpoch: epoch)))
        if kept.count > keptCount { try remove(Self.name(ofEpoch: kept.removeLast().epoch)) }
    }

    private static func name(ofEpoch epoch: Int) -> String { "epoch-\(epoch + 1).safetensors" }

    /// The epoch whose weights a file of this name has, counted from 0.
    private static func epoch(ofName name: String) -> Int? {
        guard name.hasPrefix("epoch-"), name.hasSuffix(".safetensors"),
            let number = Int(name.dropFirst("epoch-".count).dropLast(".safetensors".count)), number > 0,
            Self.name(ofEpoch: number - 1) == name
        else { return nil }
        return number - 1
    }

    /// Removes the weights of epochs that an older run kept: they must not pass for this one's.
    private func removeKeptEpochs() throws {
        for name in (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        where Self.epoch(ofName: name) != nil { try remove(name) }
    }

    private func checkFinite(_ isFinite: Bool) throws {
        guard isFinite else { throw GraftError.diverged(epoch: last.epoch, step: last.step) }
    }

    /// Writes `last.safetensors`, `ema.safetensors` where there is an average, and the tables; weights that are not finite
    /// are refused.
    public func save(_ model: Model, averaged: Model? = nil) throws {
        try checkFinite(model.isFinite)
        unsaved = unsaved(model, averaged, best: unsaved?.best, isBest: false)
        try writeUnsaved()
        try writeAll()
    }

    /// Writes the weights that wait.
    private func writeUnsaved() throws {
        guard let unsaved else { return }
        // A run that ends within its first epoch has no best; that of an older run must not pass for its own.
        if bestScore == -.infinity { try remove(Name.best) }
        let digest = try unsaved.last.digest()
        if let best = unsaved.best {
            try best.model.save(file(Name.best), digest: unsaved.isBest ? digest : nil)
            if let confusion = best.confusion { try AtomicFile.write(confusion, to: file(Name.confusion)) }
        }
        try unsaved.last.save(file(Name.last), digest: digest)
        if let averaged = unsaved.averaged {
            try averaged.save(file(Name.average))
        } else {
            try remove(Name.average)
        }
        description?.result = RunDescription.Result(
            steps: unsaved.stepCount, epochs: unsaved.epochCount, digest: digest)
        self.unsaved = nil
    }

    private func saveTables() throws {
        try AtomicFile.write(Array(stepRows.utf8), to: file(Name.steps))
        let header = Self.epochHeader + (keepsAverage ? Self.averageHeader : "") + "\n"
        try AtomicFile.write(Array((header + epochRows).utf8), to: file(Name.epochs))
        try events?.flush()
    }

    private func remove(_ name: String) throws {
        guard FileManager.default.fileExists(atPath: file(name)) else { return }
        do { try FileManager.default.removeItem(atPath: file(name)) } catch {
            throw GraftError.outputFailed(
                "cannot remove the older run's \(file(name)): \(systemReason(of: error))")
        }
    }

    private func rounded(_ value: Double) -> String { String(format: "%.3f", value) }

    // MARK: State

    /// Writes the tables and then the state; the state before it is kept beside it.
    ///
    /// - Throws: ``GraftError/diverged(epoch:step:)`` for weights that are not finite: earlier files stay as they are.
    public func save(_ state: TrainingState) throws {
        try checkFinite(state.hasFiniteWeights)
        // The state's best score speaks for the file.
        try writeUnsaved()
        var state = state
        state.notes[Self.bestScoreNote] = "\(bestScore)"
        state.notes[Self.keptNote] = kept.map { "\($0.epoch):\($0.score)" }.joined(separator: " ")
        // First: the state's steps must have their rows.
        try saveTables()
        try state.write(to: file(Name.state)) {
            // A broken one must not take the place of the one that is read instead of it.
            if isStateWhole { keepPrevious() }
        }
        isStateWhole = true
    }

    /// Gives the state file the other name too, so that there is one under its own name at every moment.
    private func keepPrevious() {
        let current = file(Name.state)
        let temporary = file(".\(Name.previousState).\(getpid()).tmp")
        if link(current, temporary) == 0 {
            if rename(temporary, file(Name.previousState)) != 0 { unlink(temporary) }
        } else {
            // A file system without links.
            rename(current, file(Name.previousState))
        }
    }

    /// Removes the state of an older run, which a new one in the same folder must not be resumed from.
    public func removeOlderState() throws {
        for name in [Name.state, Name.previousState] { try remove(name) }
        isStateWhole = false
        removeLeftovers()
    }

    /// Removes what a kill left of files that were being written.
    private func removeLeftovers() {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        for name in names where name.hasSuffix(".tmp") {
            // `.NAME.PROCESS.ATTEMPT.tmp`
            let written = name.dropFirst().split(separator: ".").dropLast(3).joined(separator: ".")
            let isOurs = Name.all.contains { name.hasPrefix(".\($0).") } || Self.epoch(ofName: written) != nil
            if isOurs { unlink(file(name)) }
        }
    }

    /// Reads the state of the run in a folder: the last one, or the one before it when the last one is broken.
    ///
    /// - Parameter path: the folder.
    /// - Returns: nil when there is none; else the state, and a warning when it is not the last one.
    /// - Throws: ``GraftError/cannotResume(_:differences:)`` when no state file can be read.
    public static func state(in path: String) throws -> (state: TrainingState, warning: String?)? {
        var reasons: [String] = []
        for name in [Name.state, Name.previousState] {
            let file = path + "/" + name
            guard FileManager.default.fileExists(atPath: file) else { continue }
            do {
                let state = try TrainingState(contentsOf: file)
                if name == Name.state { return (state, nil) }
                let reason = reasons.first ?? "\(path)/\(Name.state) is missing"
                return (
                    state,
                    "\(reason); the run goes on from the state before, \(file), of step \(state.stepCount)"
                )
            } catch {
                reasons.append("\(error)")
            }
        }
        guard !reasons.isEmpty else { return nil }
        throw GraftError.cannotResume(
            "no state in \(path) can be read:\n  " + reasons.joined(separator: "\n  ")
                + "\n  \(path)/\(Name.last) has the "
                + "weights of the last epoch that was finished, if there is one", differences: [])
    }

    /// Takes over the tables and the best score of a run that goes on from a state; rows behind the state go.
    ///
    /// - Parameter state: from ``state(in:)``.
    /// - Returns: what is missing in the tables, in words.
    /// - Throws: ``GraftError/cannotResume(_:differences:)`` for a state without a best score.
    public func resume(_ state: TrainingState) throws -> [String] {
        guard let text = state.notes[Self.bestScoreNote], let score = Double(text) else {
            throw GraftError.cannotResume("the state was not kept by a run's folder", differences: [])
        }
        bestScore = score
        kept = (state.notes[Self.keptNote] ?? "").split(separator: " ").compactMap { entry in
            let parts = entry.split(separator: ":")
            guard parts.count == 2, let epoch = Int(parts[0]), let score = Double(parts[1]) else { return nil }
            return (score, epoch)
        }
        removeLeftovers()
        isStateWhole = (try? TrainingState(contentsOf: file(Name.state))) != nil
        resumingAtStep = state.stepCount
        last = (state.epoch, max(state.stepCount - 1, 0))
        let epochCount = state.isEpochFinished ? state.epoch + 1 : state.epoch
        let stepLines = rows(of: Name.steps, below: state.stepCount)
        let epochLines = rows(of: Name.epochs, below: epochCount)
        stepRows = ([Self.stepHeader] + stepLines).joined(separator: "\n") + "\n"
        epochRows = epochLines.map { $0 + "\n" }.joined()
        epochs = epochLines.compactMap { line in
            let fields = line.split(separator: ",", omittingEmptySubsequences: false)
            guard fields.count >= 6, let epoch = Int(fields[0]), let loss = Double(fields[1]),
                let accuracy = Double(fields[2]), let seconds = Double(fields[5])
            else { return nil }
            return EpochSummary(
                epoch: epoch, trainLoss: loss, trainAccuracy: accuracy, validationLoss: Double(fields[3]),
                validationAccuracy: Double(fields[4]), seconds: seconds,
                averagedValidationLoss: fields.count > 7 ? Double(fields[6]) : nil,
                averagedValidationAccuracy: fields.count > 7 ? Double(fields[7]) : nil)
        }
        keepsAverage = epochLines.contains { $0.split(separator: ",", omittingEmptySubsequences: false).count > 7 }
        return [
            (Name.steps, stepLines.count, state.stepCount), (Name.epochs, epochLines.count, epochCount),
        ]
        .filter { $0.1 != $0.2 }.map {
            "\(file($0.0)) has \($0.1) of \($0.2) rows from before; the others are lost"
        }
    }

    /// The rows of a table whose number is below a bound.
    private func rows(of name: String, below bound: Int) -> [String] {
        guard let bytes = FileManager.default.contents(atPath: file(name)) else { return [] }
        return String(decoding: bytes, as: UTF8.self).split(separator: "\n").filter { line in
            Int(line.prefix { $0 != "," }).map { $0 < bound } ?? false
        }.map(String.init)
    }
}
