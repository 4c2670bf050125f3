import Foundation
import GraftCheckpoint

/// The folder of one training run: weights and tables, each written so that a crash leaves the older file.
///
/// `last.safetensors` after every epoch, `best.safetensors` after the best one, `steps.csv` and `epochs.csv`.
public final class RunFolder {
    /// The folder's path.
    public let path: String
    private var stepRows = "step,epoch,loss,accuracy,learning_rate,images_per_second\n"
    private var epochRows = ""
    private var bestScore = -Double.infinity
    private let keptCount: Int
    /// The epochs whose weights are kept, best first.
    private var kept: [(score: Double, epoch: Int)] = []
    private var last: (epoch: Int, step: Int) = (0, 0)

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

    private func file(_ name: String) -> String { path + "/" + name }

    /// Whether weights of an earlier run lie here.
    public var holdsEarlierRun: Bool { FileManager.default.fileExists(atPath: file("last.safetensors")) }

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
        try checkFinite(model)
        if let averaged { try checkFinite(averaged) }
        if epochRows.isEmpty {
            epochRows = Self.epochHeader + (averaged == nil ? "" : ",ema_val_loss,ema_val_accuracy") + "\n"
        }
        func text(_ value: Double?) -> String { value.map { "\($0)" } ?? "" }
        epochRows +=
            "\(epoch.epoch),\(epoch.trainLoss),\(epoch.trainAccuracy),\(text(epoch.validation?.loss)),\(text(epoch.validation?.top1)),\(rounded(epoch.seconds))"
        if averaged != nil {
            epochRows += ",\(text(epoch.averagedValidation?.loss)),\(text(epoch.averagedValidation?.top1))"
        }
        epochRows += "\n"
        let score = (epoch.averagedValidation ?? epoch.validation)?.top1 ?? -epoch.trainLoss
        if score > bestScore {
            bestScore = score
            try (averaged ?? model).save(file("best.safetensors"))
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

    private func remove(_ name: String) throws {
        do { try FileManager.default.removeItem(atPath: file(name)) } catch {
            throw GraftError.outputFailed("cannot remove \(file(name)): \(error.localizedDescription)")
        }
    }

    private static let epochHeader = "epoch,train_loss,train_accuracy,val_loss,val_accuracy,seconds"

    private func checkFinite(_ model: Model) throws {
        guard model.isFinite else { throw GraftError.diverged(epoch: last.epoch, step: last.step) }
    }

    /// Writes `last.safetensors`, `ema.safetensors` where there is an average, and the tables; weights that are not finite
    /// are refused.
    public func save(_ model: Model, averaged: Model? = nil) throws {
        try checkFinite(model)
        // A run that ends within its first epoch has no best; that of an older run must not pass for its own.
        let best = file("best.safetensors")
        if bestScore == -.infinity, FileManager.default.fileExists(atPath: best) {
            do { try FileManager.default.removeItem(atPath: best) } catch {
                throw GraftError.outputFailed("cannot remove the older run's \(best): \(error.localizedDescription)")
            }
        }
        try model.save(file("last.safetensors"))
        if let averaged {
            try averaged.save(file("ema.safetensors"))
        } else if FileManager.default.fileExists(atPath: file("ema.safetensors")) {
            do { try FileManager.default.removeItem(atPath: file("ema.safetensors")) } catch {
                throw GraftError.outputFailed(
                    "cannot remove the older run's \(file("ema.safetensors")): \(error.localizedDescription)")
            }
        }
        try AtomicFile.write(Array(stepRows.utf8), to: file("steps.csv"))
        try AtomicFile.write(
            Array((epochRows.isEmpty ? Self.epochHeader + "\n" : epochRows).utf8), to: file("epochs.csv"))
    }

    private func rounded(_ value: Double) -> String { String(format: "%.3f", value) }
}
