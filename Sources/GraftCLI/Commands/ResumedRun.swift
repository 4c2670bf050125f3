import Foundation
import Graft

/// A run that goes on: its state, and its options out of the state and of the command line.
struct ResumedRun {
    /// The entry of the state's notes that has the options.
    static let argumentsNote = "arguments"

    let state: TrainingState
    /// The options that the run began with, and over them what the command line gives.
    let values: ArgumentValues
    private let began: ArgumentValues

    /// Options that cannot change a result, or of which the library compares what they lead to: images, device, length.
    private static let free: Set<String> = [
        TrainCommand.out.name, TrainCommand.resume.name, TrainCommand.saveEvery.name,
        TrainCommand.cache.name,
        TrainCommand.cacheLimit.name, TrainCommand.epochs.name, TrainCommand.steps.name,
        TrainCommand.validation.name,
        TrainableSet.unfreezeAt.name, TrainableSet.unfreezeAtStep.name, Shared.data.name,
        Shared.list.name,
        Shared.classesFile.name, Shared.device.name, Shared.trustDevice.name, Shared.threads.name, Shared.quiet.name,
        Shared.json.name,
    ]
    private static let paths: Set<String> = [
        Shared.data.name, TrainCommand.validation.name, Shared.list.name, Shared.classesFile.name,
        Shared.weights.name,
        TrainableSet.headWeights.name, TrainCommand.classWeights.name,
    ]

    /// Reads the state of the run in `--out` and puts the options together.
    ///
    /// - Returns: nil when there is no state.
    /// - Throws: ``GraftError/cannotResume(_:differences:)`` for options that are not as they were.
    init?(_ given: ArgumentValues) throws {
        guard let found = try RunFolder.state(in: given[TrainCommand.out]) else { return nil }
        if let warning = found.warning { Console.warning(warning) }
        state = found.state
        let began = try Self.values(of: found.state)
        self.began = began
        let names = Set(given.occurrences.filter { !$0.isFromEnvironment }.map(\.name))
        var merged = began
        // How much is said, and in which form, is this command line's own affair.
        merged.replace(names.union([Shared.quiet.name, Shared.json.name]), from: given)
        let command = TrainCommand.command
        let differences = command.arguments.compactMap { argument -> RunDifference? in
            guard names.contains(argument.name), !Self.free.contains(argument.name) else { return nil }
            let (was, now) = (Self.text(of: argument, in: began), Self.text(of: argument, in: given))
            // Paths are compared in full, other values as they are read.
            let isSame =
                Self.paths.contains(argument.name)
                ? was == now : argument.description(in: began) == argument.description(in: given)
            return isSame ? nil : RunDifference(name: argument.display, was: was, now: now)
        }
        guard differences.isEmpty else {
            throw GraftError.cannotResume(
                "the options are not those that the run began with", differences: differences)
        }
        try TrainCommand.checkTogether(merged)
        values = merged
    }

    /// Whether the run has reached its end and is not to become longer.
    var isFinished: Bool {
        state.isFinished && values[TrainCommand.epochs] == began[TrainCommand.epochs]
            && values[TrainCommand.steps] == began[TrainCommand.steps]
    }

    /// Says that there is nothing to do.
    func printFinished() throws {
        let path = values[TrainCommand.out]
        let folder = try RunFolder(path)
        for warning in try folder.resume(state) { Console.warning(warning) }
        guard values[Shared.json] else {
            return try Console.result(
                "\(path) is finished: \(state.stepCount) steps, \(folder.epochs.count) epochs; more --epochs or --steps "
                    + "make it longer\n")
        }
        let result: JSON = [
            "finished": true, "steps": .integer(state.stepCount),
            "epochs": .array(folder.epochs.map(TrainingReport.json)),
            "best_val_accuracy": .optional(TrainingReport.bestAccuracy(folder.epochs)),
            "run": .string(path),
        ]
        try Console.result(result.pretty() + "\n")
    }

    // MARK: Options as text

    /// The options of a run for its state; paths from the root, so that it can be resumed from any folder.
    static func text(of values: ArgumentValues) throws -> String {
        let pairs = values.occurrences.filter { $0.name != TrainCommand.resume.name }.map {
            occurrence in
            [occurrence.name, full(occurrence)]
        }
        return String(decoding: try JSONEncoder().encode(pairs), as: UTF8.self)
    }

    private static func full(_ occurrence: ArgumentValues.Occurrence) -> String {
        guard paths.contains(occurrence.name),
            occurrence.name != TrainCommand.classWeights.name || occurrence.text != TrainCommand.balanced
        else { return occurrence.text }
        return URL(filePath: occurrence.text).standardizedFileURL.path
    }

    private static func values(of state: TrainingState) throws -> ArgumentValues {
        guard let text = state.notes[argumentsNote],
            let pairs = try? JSONDecoder().decode([[String]].self, from: Data(text.utf8)),
            pairs.allSatisfy({ $0.count == 2 })
        else {
            throw GraftError.cannotResume(
                "the state does not say with which options the run began", differences: [])
        }
        let command = TrainCommand.command
        let words = pairs.map { pair in
            switch command.arguments.first(where: { $0.name == pair[0] })?.form {
            case .positional: pair[1]
            case .flag: "--\(pair[0])"
            default: "--\(pair[0])=\(pair[1])"
            }
        }
        guard
            case .run(_, let values) = try ArgumentParser(commands: [command], environment: [:]).parse(
                ["train"] + words)
        else {
            throw GraftError.cannotResume("its options are not those of a run: \(words)", differences: [])
        }
        return values
    }

    /// What an argument was given, or what holds without it.
    private static func text(of argument: any AnyArgument, in values: ArgumentValues) -> String {
        let given = values.occurrences.filter { $0.name == argument.name }
        if argument.form == .flag { return given.isEmpty ? "off" : "on" }
        return given.isEmpty
            ? argument.defaultText ?? "not given" : given.map(full).joined(separator: " ")
    }
}
