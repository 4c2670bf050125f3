import GraftCheckpoint
import GraftGraph
import GraftTensor
import GraftVision

/// Why the library could not do what was asked. Errors of files, images and devices keep their own types
/// (`CheckpointError`, `ImageError`, `DeviceError`).
public enum GraftError: Error, Hashable, Sendable, CustomStringConvertible {
    /// No architecture has this name.
    case unknownModel(String, near: [String])
    /// A selector matches no parameter.
    case unknownSelector(String, near: [String])
    /// Weights that do not fit an architecture, in full sentences.
    case weightsMismatch(String)
    /// Features, or a probe, that are not what they should be, in full sentences.
    case badFeatures(String)
    /// The weights file does not say which architecture it is for, and none was given.
    case architectureUnknown(path: String)
    /// Options that contradict each other or the data.
    case invalidArgument(String)
    /// There is nothing to read.
    case noInput(String)
    /// A folder or file of results cannot be written.
    case outputFailed(String)
    /// The loss is not finite any more.
    case diverged(epoch: Int, step: Int)
    /// The run was interrupted after saving.
    case interrupted
    /// A run cannot go on from a state: why, and the options that are not as they were.
    case cannotResume(String, differences: [RunDifference])

    /// What, where, found against expected, next step.
    public var description: String {
        switch self {
        case .unknownModel(let name, let near):
            "there is no model \"\(name)\"" + didYouMean(near) + "; `graft models` lists them all"
        case .unknownSelector(let name, let near):
            "\"\(name)\" matches no layer or parameter" + didYouMean(near)
        case .weightsMismatch(let message), .badFeatures(let message), .invalidArgument(let message),
            .noInput(let message), .outputFailed(let message):
            message
        case .architectureUnknown(let path):
            "\(path) does not say which architecture its weights are for; pass --model NAME"
        case .diverged(let epoch, let step):
            "the loss is not a finite number at epoch \(epoch), step \(step); try a lower --learning-rate"
        case .interrupted: "interrupted"
        case .cannotResume(let reason, let differences):
            "the run cannot be resumed: \(reason)"
                + differences.map {
                    "\n  \($0.name): was \($0.was ?? "not there"), now \($0.now ?? "not there")"
                }.joined()
                + (differences.isEmpty
                    ? "; give back what it began with, or start a new run from its weights"
                    : "\nleave them out, or start a new run from the weights of this one; a run can only become longer, and "
                        + "only with a schedule that does not depend on its length")
        }
    }

    private func didYouMean(_ near: [String]) -> String {
        near.isEmpty ? "" : "; did you mean \(near.joined(separator: ", "))?"
    }
}

/// What kind of failure an error is, for exit codes and for callers that show errors by kind.
public enum FailureKind: Sendable, Hashable {
    /// The request itself is wrong.
    case usage
    /// A file's content is wrong.
    case badData
    /// A file or folder does not exist or is empty.
    case noInput
    /// The device that was asked for cannot be used.
    case deviceUnavailable
    /// Results cannot be written.
    case cannotWrite
    /// The run was interrupted.
    case interrupted
    /// Anything else.
    case runtime
}

/// What kind of failure an error of this library is.
public func failureKind(of error: any Error) -> FailureKind {
    switch error {
    case let error as GraftError:
        switch error {
        case .unknownModel, .unknownSelector, .invalidArgument, .architectureUnknown: .usage
        case .weightsMismatch, .badFeatures: .badData
        case .noInput: .noInput
        case .outputFailed: .cannotWrite
        case .diverged: .runtime
        case .interrupted: .interrupted
        case .cannotResume(_, let differences): differences.isEmpty ? .badData : .usage
        }
    case let error as GraphError:
        switch error {
        case .unknownNode, .nothingToTrain, .inputTooSmall, .oneValuePerChannel: .usage
        case .shapeMismatch: .runtime
        }
    case let error as DeviceError:
        switch error {
        case .unavailable: .deviceUnavailable
        case .outOfMemory, .buildFailed, .callFailed, .dataMismatch, .unsupported: .runtime
        }
    case let error as CheckpointError:
        switch error {
        case .cannotRead: .noInput
        case .cannotWrite: .cannotWrite
        case .unknownFormat, .truncated, .malformed, .forbiddenSymbol, .unsupported, .overLimit, .noTensors: .badData
        }
    case let error as ImageDatasetError:
        switch error {
        case .folderNotFound, .notAFolder, .unreadable, .noClasses, .noImages: .noInput
        case .emptyClasses, .badList: .badData
        }
    case let error as ImageError:
        switch error.fault {
        case .unreadable, .notAFile: .noInput
        case .empty, .unsupportedFormat, .unsupportedVariant, .truncated, .damaged, .tooManyPixels, .tooManyBytes:
            .badData
        case .outOfMemory: .runtime
        }
    case is ImagePreprocessing.InvalidValue: .usage
    default: .runtime
    }
}
