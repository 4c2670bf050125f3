import Foundation
import GraftCheckpoint

/// The folder of one training run: weights, state and tables, each written so that a crash leaves the older file.
///
/// `last.safetensors` after every epoch, `best.safetensors` after the best one, `steps.csv` and `epochs.csv`;
/// `state.safetensors`, from which the run can go on, and the state before it, `state.previous.safetensors`.
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
    /// The epochs whose weights are kept, best first.
    private var kept: [(score: Double, epoch: Int)] = []
    private var last: (epoch: Int, step: Int) = (0, 0)
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

    private enum Name {
        static let last = "last.safetensors"
        static let best = "best.safetensors"
        static let average = "ema.safetensors"
        static let state = "state.safetensors"
        static let previousState = "state.previous.safetensors"
        static let steps = "steps.csv"
        static let epochs = "epochs.csv"
        static let all = [last, best, average, state, previousState, steps, epochs]
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
            try FileManager.default.createDirectory(atPath: path, withIntermediateDirectories: true)
        } catch {
            throw GraftError.outputFailed(
                "cannot create the folder \(path): \(error.localizedDescription); choose another --out")
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

    // MARK: Tables and weights

    /// Keeps a step for `steps.csv`.
    public func record(_ step: StepRecord) {
        last = (step.epoch, step.step)
        stepRows +=
            "\(step.step),\(step.epoch),\(step.loss),\(step.accuracy),\(step.learningRate),\(rounded(step.imagesPerSecond))\n"
    }

    /// Writes the tables and the weights of an epoch, and `best.safetensors` if it is the best so far: the highest
    /// validation accuracy, or without validation the lowest training loss; the earlier one on ties. Where an average of
    /// the weights is kept it goes to `ema.safetensors`, its validation decides which is best, and its weights are.
    ///
    /// - Throws: ``GraftError/diverged(epoch:step:)`` for weights that are not finite: earlier files stay as they are.
    public func finish(_ epoch: EpochRecord, model: Model, averaged: Model? = nil) throws {
        try checkFinite(model.isFinite)
        if let averaged { try checkFinite(averaged.isFinite) }
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
        let score = (epoch.averagedValidation ?? epoch.validation)?.top1 ?? -epoch.trainLoss
        if score > bestScore {
            bestScore = score
            try (averaged ?? model).save(file(Name.best))
        }
        try keep(averaged ?? model, score: score, epoch: epoch.epoch)
        try save(model, averaged: averaged)
    }

    /// Writes the weights of an epoch that is among the best, and removes those of the one that no longer is.
    private func keep(_ model: Model, score: Double, epoch: Int) throws {
        guard keptCount > 0 else { return }
        if kept.isEmpty {
            // What an older run kept must not pass for this one's.
            for name in (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
            where name.hasPrefix("epoch-") && name.hasSuffix(".safetensors") { try remove(name) }
        }
        let place = kept.firstIndex { $0.score < score } ?? kept.count
        guard place < keptCount else { return }
        kept.insert((score, epoch), at: place)
        try model.save(file(Self.name(ofEpoch: epoch)))
        if kept.count > keptCount { try remove(Self.name(ofEpoch: kept.removeLast().epoch)) }
    }

    private static func name(ofEpoch epoch: Int) -> String { "epoch-\(epoch + 1).safetensors" }

    private func checkFinite(_ isFinite: Bool) throws {
        guard isFinite else { throw GraftError.diverged(epoch: last.epoch, step: last.step) }
    }

    /// Writes `last.safetensors`, `ema.safetensors` where there is an average, and the tables; weights that are not finite
    /// are refused.
    public func save(_ model: Model, averaged: Model? = nil) throws {
        try checkFinite(model.isFinite)
        // A run that ends within its first epoch has no best; that of an older run must not pass for its own.
        if bestScore == -.infinity { try remove(Name.best) }
        try model.save(file(Name.last))
        if let averaged { try averaged.save(file(Name.average)) } else { try remove(Name.average) }
        try saveTables()
    }

    private func saveTables() throws {
        try AtomicFile.write(Array(stepRows.utf8), to: file(Name.steps))
        let header = Self.epochHeader + (keepsAverage ? Self.averageHeader : "") + "\n"
        try AtomicFile.write(Array((header + epochRows).utf8), to: file(Name.epochs))
    }

    private func remove(_ name: String) throws {
        guard FileManager.default.fileExists(atPath: file(name)) else { return }
        do { try FileManager.default.removeItem(atPath: file(name)) } catch {
            throw GraftError.outputFailed(
                "cannot remove the older run's \(file(name)): \(error.localizedDescription)")
        }
    }

    private func rounded(_ value: Double) -> String { String(format: "%.3f", value) }

    // MARK: State

    /// Writes the tables and then the state; the state before it is kept beside it.
    ///
    /// - Throws: ``GraftError/diverged(epoch:step:)`` for weights that are not finite: earlier files stay as they are.
    public func save(_ state: TrainingState) throws {
        try checkFinite(state.hasFiniteWeights)
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
            if Name.all.contains(where: { name.hasPrefix(".\($0).") }) { unlink(file(name)) }
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
