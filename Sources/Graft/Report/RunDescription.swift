import Foundation
import GraftCheckpoint
import GraftVision

/// What `run.json` in a ``RunFolder`` says: what was asked for, of which data, on which device, and what came of it.
public struct RunDescription: Sendable, Hashable, Codable {
    /// How a run stands.
    public enum Status: String, Sendable, Hashable, Codable {
        /// Training; or its process was killed.
        case running
        /// All epochs or steps are done.
        case finished
        /// Stopped on request, after saving.
        case interrupted
        /// Ended by an error; ``RunDescription/message`` says which.
        case failed
    }

    /// The network.
    public struct Network: Sendable, Hashable, Codable {
        /// The architecture's name.
        public var architecture: String
        /// Names of its outputs.
        public var classes: [String]
        /// Side of its input in pixels.
        public var imageSize: Int
        /// Shorter side before the centre crop; nil where images are stretched.
        public var resize: Int?
        /// Parameters that gradients can train.
        public var parameterCount: Int
        /// The file its first weights came from; nil for random ones.
        public var weights: String?
        /// SHA-256 over its tensors at the start.
        public var digest: String
    }

    /// The device.
    public struct DeviceEntry: Sendable, Hashable, Codable {
        /// What selects it.
        public var selector: String
        /// Its name as its driver gives it.
        public var name: String
        /// The platform or implementation.
        public var platform: String
        /// The version of its driver.
        public var driver: String
        /// Which family of kernels it runs.
        public var kernels: String
        /// Compute units or threads.
        public var computeUnitCount: Int
        /// Bytes of device memory that the plan takes; nil before the first step.
        public var plannedByteCount: Int?
    }

    /// A set of labelled images.
    public struct DataEntry: Sendable, Hashable, Codable {
        /// Its folder as an absolute path; nil for images in memory.
        public var folder: String?
        /// Images.
        public var count: Int
        /// Images of each class, in the order of ``Network/classes``.
        public var classCounts: [Int]
        /// SHA-256 over the images' paths and labels, in order; not over their content.
        public var listDigest: String
    }

    /// From one step on, what trains.
    public struct Phase: Sendable, Hashable, Codable {
        /// The first step, counted from 0.
        public var step: Int
        /// Its epoch, counted from 0.
        public var epoch: Int
        /// What was unfrozen; nil for the start.
        public var selector: String?
        /// Parameter tensors that became trainable.
        public var tensorCount: Int
        /// What training does with each block.
        public var plan: TrainabilityPlan
    }

    /// What is kept of the frozen part.
    public struct Kept: Sendable, Hashable, Codable {
        /// The layers whose outputs are kept.
        public var layers: [String]
        /// The cache file; nil for memory.
        public var file: String?
        /// Bytes in all.
        public var byteCount: Int
        /// Share of a forward pass that each kept image spares.
        public var sparedShare: Double
    }

    /// A wrong answer on a validation image.
    public struct Mistake: Sendable, Hashable, Codable {
        /// The image as the data set names it.
        public var image: String
        /// Its file as an absolute path; nil for an image in memory.
        public var file: String?
        /// The right class.
        public var label: Int
        /// The class it was taken for.
        public var prediction: Int
        /// That class's softmax probability.
        public var probability: Double
        /// The right class's.
        public var labelProbability: Double
    }

    /// Scores on the validation images; the confusion matrix is in `confusion.csv`.
    public struct Validation: Sendable, Hashable, Codable {
        /// The epoch, counted from 0.
        public var epoch: Int
        /// Images.
        public var count: Int
        /// Mean cross entropy.
        public var loss: Double
        /// Share of right answers.
        public var top1: Double
        /// Share of images with the label among the five largest scores.
        public var top5: Double
        /// True where these are the scores of the averaged weights, of which `best.safetensors` is then one.
        public var isAverage: Bool?
        /// The wrong answers that were given with the most confidence.
        public var mistakes: [Mistake]
    }

    /// A stretch of the run within one process.
    public struct Session: Sendable, Hashable, Codable {
        /// Its first step.
        public var step: Int
        /// When it began.
        public var started: Date
        /// When it last wrote its tables, or ended.
        public var ended: Date
    }

    /// What came of a run.
    public struct Result: Sendable, Hashable, Codable {
        /// Steps done.
        public var steps: Int
        /// Epochs completed.
        public var epochs: Int
        /// SHA-256 over the tensors in `last.safetensors`.
        public var digest: String
    }

    /// Version of this file's layout.
    public var format = 1
    /// The words of the command; empty for a run of the library.
    public var command: [String]
    /// Options that were given, by name.
    public var options: [String: String]
    /// Options that were not given, with what held instead.
    public var defaults: [String: String]
    /// Versions: `graft`, `system`.
    public var versions: [String: String]
    /// The network.
    public var network: Network
    /// The device.
    public var device: DeviceEntry
    /// The training images.
    public var training: DataEntry
    /// The validation images.
    public var validation: DataEntry?
    /// How it stands.
    public var status = Status.running
    /// Why it failed.
    public var message: String?
    /// One for each time the run was started or resumed.
    public var sessions: [Session] = []
    /// What trained from when on.
    public var phases: [Phase] = []
    /// What is kept of the frozen part now, or was last.
    public var kept: Kept?
    /// Scores of the best epoch, whose weights are `best.safetensors`.
    public var best: Validation?
    /// Where the run ended before its time because the validation loss no longer fell: the epoch of the least one,
    /// counted from 0.
    public var stoppedEarlyBestEpoch: Int?
    /// What came of it so far.
    public var result: Result?

    /// Describes a run that is about to begin.
    ///
    /// - Parameters:
    ///   - trainer: what trains, before its first step.
    ///   - data: the training images.
    ///   - validation: the validation images.
    ///   - command: the words of the command.
    ///   - options: options that were given, by name.
    ///   - defaults: options that were not given, with what holds instead.
    ///   - weights: the file of the first weights.
    ///   - version: Graft's version.
    /// - Throws: errors of the device when weights cannot be read back.
    public init(
        _ trainer: Trainer, data: ImageDataset, validation: ImageDataset? = nil, command: [String] = [],
        options: [String: String] = [:], defaults: [String: String] = [:], weights: String? = nil,
        version: String? = nil
    ) throws {
        let model = try trainer.model()
        let device = trainer.deviceDescription
        self.command = command
        self.options = options
        self.defaults = defaults
        versions = ["system": ProcessInfo.processInfo.operatingSystemVersionString]
        versions["graft"] = version
        network = Network(
            architecture: model.architecture.name,
            classes: (model.classNames ?? data.classes).padded(to: model.classCount),
            imageSize: model.preprocessing.imageSize, resize: model.preprocessing.resize,
            parameterCount: model.architecture.parameterCount(classCount: model.classCount), weights: weights,
            digest: try model.digest())
        self.device = DeviceEntry(
            selector: device.selector, name: device.name, platform: device.platform, driver: device.driverVersion,
            kernels: device.kernelClass, computeUnitCount: device.computeUnitCount)
        training = try DataEntry(data, classCount: model.classCount)
        self.validation = try validation.map { try DataEntry($0, classCount: model.classCount) }
        phases = [
            Phase(
                step: 0, epoch: 0, tensorCount: model.trainable.count,
                plan: try TrainabilityPlan(
                    model, frozenStatistics: trainer.frozenStatistics, dropout: trainer.usesDropout,
                    keepsOutputs: false))
        ]
    }

    // MARK: File

    /// Dates to the millisecond, in UTC.
    private static let dates = Date.ISO8601FormatStyle(includingFractionalSeconds: true)

    /// Reads `run.json`.
    ///
    /// - Throws: ``GraftError/noInput(_:)``, ``GraftError/damagedFile(_:)``.
    package init(contentsOf path: String) throws {
        guard let data = FileManager.default.contents(atPath: path) else {
            throw GraftError.noInput(
                "\(path): no such file, or it cannot be read; the folder of a run of `graft train` has one")
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        decoder.dateDecodingStrategy = .custom { decoder in
            try Self.dates.parse(decoder.singleValueContainer().decode(String.self))
        }
        do {
            self = try decoder.decode(RunDescription.self, from: data)
        } catch {
            throw GraftError.damagedFile("\(path) does not describe a run of this version of graft: \(error)")
        }
        guard training.classCounts.count == network.classes.count,
            best?.mistakes.allSatisfy({
                network.classes.indices.contains($0.label) && network.classes.indices.contains($0.prediction)
            }) ?? true
        else { throw GraftError.damagedFile("\(path): the numbers of classes contradict each other") }
    }

    /// The text of `run.json`.
    package func json() throws -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.dateEncodingStrategy = .custom { date, encoder in
            var container = encoder.singleValueContainer()
            try container.encode(Self.dates.format(date))
        }
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
        return Array(try encoder.encode(self)) + [UInt8(ascii: "\n")]
    }
}

extension RunDescription.DataEntry {
    /// Counts a data set.
    init(_ data: ImageDataset, classCount: Int) throws {
        folder = data.folder.map { URL(fileURLWithPath: $0).standardizedFileURL.path }
        count = data.count
        classCounts = [Int](repeating: 0, count: classCount)
        let digest = SHA256Digest()
        for sample in data.samples {
            if classCounts.indices.contains(sample.label) { classCounts[sample.label] += 1 }
            digest.update("\(sample.path)\0\(sample.label)\n")
        }
        listDigest = try digest.hex()
    }
}
