import Foundation
import Graft

/// How the process ends, by sysexits.h.
enum ExitCode: Int32, Sendable {
    case success = 0
    /// A failure at run time.
    case failure = 1
    /// A wrong command line.
    case usage = 64
    /// Input that is not what it should be.
    case badData = 65
    /// Input that is not there or holds nothing.
    case noInput = 66
    /// The device that was asked for cannot be used.
    case unavailable = 69
    /// An output cannot be made.
    case cannotCreate = 73
    /// Writing an output failed.
    case outputError = 74
    /// Ctrl-C.
    case interrupted = 130
}

/// An error of a command itself, with the code the process ends with.
struct CommandFailure: Error, Sendable {
    var code: ExitCode
    /// What, where, found against expected, next step; without `error: `.
    var message: String

    init(_ code: ExitCode, _ message: String) {
        self.code = code
        self.message = message
    }
}

extension CommandFailure {
    /// The one place where errors become exit codes.
    init(describing error: any Error) {
        switch error {
        case let failure as CommandFailure: self = failure
        case let usage as UsageError: self.init(.usage, usage.message)
        default: self.init(Self.code(of: failureKind(of: error)), Self.text(of: error))
        }
    }

    private static func code(of kind: FailureKind) -> ExitCode {
        switch kind {
        case .usage: .usage
        case .badData: .badData
        case .noInput: .noInput
        case .deviceUnavailable: .unavailable
        case .cannotWrite: .cannotCreate
        case .interrupted: .interrupted
        case .runtime: .failure
        }
    }

    /// Our errors describe themselves; of Foundation's only the system's reason is for people.
    private static func text(of error: any Error) -> String {
        error is CocoaError || error is POSIXError ? systemReason(of: error) : "\(error)"
    }
}
