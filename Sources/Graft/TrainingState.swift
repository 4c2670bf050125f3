import Foundation
import GraftCheckpoint
import GraftGraph
import GraftTensor
import GraftVision

/// Everything that a run needs to go on as if it had never stopped.
///
/// ``Trainer/fit(_:validation:options:resuming:onEvent:)`` hands one out every ``FitOptions/stateIntervalSeconds`` and takes
/// one back. The run that goes on ends with the same bytes as one that was never interrupted. It is a value: what the
/// trainer does later does not change it.
public struct TrainingState: Sendable {
    /// Steps of the run that are done.
    public internal(set) var stepCount = 0
    /// The epoch that the run is in, counted from 0; or the last one, when that is finished.
    public internal(set) var epoch = 0
    /// Images of the epoch's order that are behind the run, those left out included.
    public internal(set) var position = 0
    /// Whether the epoch is finished, validation included, and the next one has not begun.
    public internal(set) var isEpochFinished = false
    /// Whether the run had reached its end; a longer run can go on from here.
    public internal(set) var isFinished = false
    /// Names and values of all options that decide what is computed.
    public internal(set) var settings: [RunSetting] = []
    /// Texts of whoever keeps the state, such as the best score so far; the trainer does not look at them.
    public var notes: [String: String] = [:]

    /// Sums over the images of the epoch so far.
    struct EpochSums: Sendable, Equatable {
        var loss = 0.0
        var correct = 0.0
        var count = 0
        var seconds = 0.0
    }

    /// What waits for the validation loss.
    struct PatienceState: Sendable, Equatable, Codable {
        var plateau = Plateau()
        var waiting = Patience()
        var bestEpoch = 0
    }

    var sums = EpochSums()
    var patience = PatienceState()
    /// What the trainer itself holds.
    var trainer = Trainer.Snapshot()
    /// A number for the content of every image, in the order of the data; the first of them for training.
    var trainingHashes: [Int64] = []
    var validationHashes: [Int64] = []
    /// What computed, see ``ProgramIdentity``.
    var program = ""
    /// What a weights file says of itself.
    var modelMetadata: [String: String] = [:]

    /// The network with its weights as they are in the state, all of it trainable as after loading a weights file.
    ///
    /// - Throws: ``GraftError/weightsMismatch(_:)`` for a state that was made of another architecture.
    public func model() throws -> Model {
        let checkpoint = LoadedCheckpoint(state: trainer.weights, metadata: modelMetadata)
        return try Model(checkpoint: checkpoint, name: nil, path: "the training state")
    }

    /// Whether every weight and statistic is a finite number.
    var hasFiniteWeights: Bool {
        trainer.weights.allSatisfy(\.tensor.isFinite)
    }

    /// Whether the state was written by this build of the program; the last bits of another one may differ.
    public var isOfThisBuild: Bool { program.isEmpty || (try? ProgramIdentity.text()) == program }
}

// MARK: - Files

extension TrainingState {
    private enum Key {
        static let format = "graft_training_state"
        static let formatVersion = "1"
        static let digest = "sha256_of_state"
        static let model = "model."
        static let note = "note."
        static let text = "text."
        static let settings = "settings"
        static let cohorts = "cohorts"
        static let program = "program"
        static let numbers = "numbers"
        static let patience = "patience"
        static let weights = "weights/"
        static let optimizer = "optimizer/"
        static let extra = "extra/"
        static let trainingHashes = "images/training"
        static let validationHashes = "images/validation"
    }

    /// Numbers of the state, each as the shortest text that gives the same bits back.
    private struct Numbers: Codable {
        var stepCount: Int
        var epoch: Int
        var position: Int
        var isEpochFinished: Bool
        var isFinished: Bool
        var lossSum: String
        var correctSum: String
        var imageCount: Int
        var seconds: String
        var trainerStepCount: Int
    }

    private struct Cohort: Codable {
        var names: [String]
        var steps: Int
    }

    /// Writes the state as safetensors with a checksum, atomically.
    ///
    /// - Parameters:
    ///   - path: the file.
    ///   - beforeReplacing: called when the new file is whole on the disk and is about to take the old one's place.
    /// - Throws: `CheckpointError.cannotWrite`; an older file is as it was then.
    public func write(to path: String, beforeReplacing: () throws -> Void = {}) throws {
        let (tensors, metadata) = try contents()
        var signed = metadata
        signed[Key.digest] = try Self.digest(tensors, metadata)
        try Safetensors.write(tensors, metadata: signed, to: path, beforeReplacing: beforeReplacing)
    }

    private func contents() throws -> (tensors: StateDictionary, metadata: [String: String]) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        func json(_ value: some Encodable) throws -> String {
            String(decoding: try encoder.encode(value), as: UTF8.self)
        }
        var metadata = [
            "format": "pt", Key.format: Key.formatVersion, Key.program: program,
            Key.settings: try json(settings.map { [$0.name, $0.value] }),
            Key.patience: try json(patience),
            Key.cohorts: try json(trainer.cohorts.map { Cohort(names: $0.names, steps: $0.steps) }),
            Key.numbers: try json(
                Numbers(
                    stepCount: stepCount, epoch: epoch, position: position, isEpochFinished: isEpochFinished,
                    isFinished: isFinished, lossSum: "\(sums.loss)", correctSum: "\(sums.correct)",
                    imageCount: sums.count, seconds: "\(sums.seconds)", trainerStepCount: trainer.stepCount)),
        ]
        for (key, value) in modelMetadata { metadata[Key.model + key] = value }
        for (key, value) in notes { metadata[Key.note + key] = value }
        for (key, value) in trainer.extraTexts { metadata[Key.text + key] = value }
        var tensors = StateDictionary()
        for (name, tensor) in trainer.weights { tensors[Key.weights + name] = tensor }
        for name in trainer.optimizerState.keys.sorted() {
            for (index, tensor) in (trainer.optimizerState[name] ?? []).enumerated() {
                tensors["\(Key.optimizer)\(index)/\(name)"] = tensor
            }
        }
        for (name, tensor) in trainer.extraTensors { tensors[Key.extra + name] = tensor }
        for (name, hashes) in [
            (Key.trainingHashes, trainingHashes), (Key.validationHashes, validationHashes),
        ] {
            tensors[name] = HostTensor(shape: [hashes.count], storage: .int64(hashes))
        }
        return (tensors, metadata)
    }

    /// Over the tensors, and names and values of the metadata but the digest itself.
    private static func digest(_ tensors: StateDictionary, _ metadata: [String: String]) throws
        -> String
    {
        let digest = SHA256Digest()
        for key in metadata.keys.sorted() where key != Key.digest {
            // Lengths keep entries apart.
            digest.update(
                "\(key.utf8.count):\(key)\(metadata[key]?.utf8.count ?? 0):\(metadata[key] ?? "")")
        }
        digest.update(try GraftCheckpoint.digest(of: tensors))
        return try digest.hex()
    }

    /// Reads a state file.
    ///
    /// - Throws: `CheckpointError` for a file that cannot be read, is no state or is damaged.
    public init(contentsOf path: String) throws {
        let file = try CheckpointReader.load(path)
        let metadata = file.metadata
        func malformed(_ what: String, _ found: String, _ expected: String) -> CheckpointError {
            .malformed(file: path, what: what, offset: nil, found: found, expected: expected)
        }
        guard let version = metadata[Key.format] else {
            throw malformed(
                "training state", "another kind of file", "the state of a run, as graft train writes it")
        }
        guard version == Key.formatVersion else {
            throw CheckpointError.unsupported(
                file: path, what: "training state", found: "version \(version)",
                next: "use the version of graft that wrote it")
        }
        let digest = try Self.digest(file.state, metadata)
        guard metadata[Key.digest] == digest else {
            throw malformed("checksum of the training state", metadata[Key.digest] ?? "none", digest)
        }
        let decoder = JSONDecoder()
        func decode<Value: Decodable>(_ type: Value.Type, _ key: String) throws -> Value {
            guard let text = metadata[key], let value = try? decoder.decode(type, from: Data(text.utf8))
            else {
                throw malformed(
                    "\(key) of the training state", metadata[key] ?? "nothing", "what graft train writes")
            }
            return value
        }
        func double(_ text: String) throws -> Double {
            guard let value = Double(text) else {
                throw malformed("a sum of the training state", text, "a number")
            }
            return value
        }
        let numbers = try decode(Numbers.self, Key.numbers)
        stepCount = numbers.stepCount
        epoch = numbers.epoch
        position = numbers.position
        isEpochFinished = numbers.isEpochFinished
        isFinished = numbers.isFinished
        sums = EpochSums(
            loss: try double(numbers.lossSum), correct: try double(numbers.correctSum),
            count: numbers.imageCount,
            seconds: try double(numbers.seconds))
        patience = try decode(PatienceState.self, Key.patience)
        program = metadata[Key.program] ?? ""
        settings = try decode([[String]].self, Key.settings).map { pair in
            guard pair.count == 2 else {
                throw malformed("a setting of the training state", "\(pair)", "name and value")
            }
            return RunSetting(name: pair[0], value: pair[1])
        }
        trainer.stepCount = numbers.trainerStepCount
        trainer.cohorts = try decode([Cohort].self, Key.cohorts).map {
            Trainer.Cohort(names: $0.names, steps: $0.steps)
        }
        for (key, value) in metadata {
            if key.hasPrefix(Key.model) { modelMetadata[String(key.dropFirst(Key.model.count))] = value }
            if key.hasPrefix(Key.note) { notes[String(key.dropFirst(Key.note.count))] = value }
            if key.hasPrefix(Key.text) {
                trainer.extraTexts[String(key.dropFirst(Key.text.count))] = value
            }
        }
        for (name, tensor) in file.state {
            if name.hasPrefix(Key.weights) {
                trainer.weights[String(name.dropFirst(Key.weights.count))] = tensor
            } else if name.hasPrefix(Key.extra) {
                trainer.extraTensors[String(name.dropFirst(Key.extra.count))] = tensor
            } else if name.hasPrefix(Key.optimizer) {
                let rest = name.dropFirst(Key.optimizer.count)
                guard let slash = rest.firstIndex(of: "/"), let index = Int(rest[..<slash]) else {
                    throw malformed(
                        "a tensor of the training state", name, "\(Key.optimizer)NUMBER/PARAMETER")
                }
                let parameter = String(rest[rest.index(after: slash)...])
                // In the file they stand by name and then by number.
                guard trainer.optimizerState[parameter, default: []].count == index else {
                    throw malformed("a tensor of the training state", name, "numbers from 0 on, in order")
                }
                trainer.optimizerState[parameter, default: []].append(tensor)
            } else if name == Key.trainingHashes {
                trainingHashes = tensor.int64s ?? []
            } else if name == Key.validationHashes {
                validationHashes = tensor.int64s ?? []
            } else {
                throw malformed("a tensor of the training state", name, "a name that graft train writes")
            }
        }
    }
}
