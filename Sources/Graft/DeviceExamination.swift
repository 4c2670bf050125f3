import BackendConformance
import Foundation
import GraftGraph

/// Every kernel of a device held against a reference in double precision, on the user's own driver: what `graft doctor`
/// runs.
///
/// ```swift
/// for listing in Device.all().devices where listing.rejection == nil {
///     let examination = try DeviceExamination.run(on: Device(listing.description.selector), isQuick: true)
///     print(examination.device.name, examination.failures.map(\.primitive))
/// }
/// ```
///
/// What is found is kept in the cache folder for each device, driver version and build: from then on
/// ``Device`` refuses programs that would run a kernel that failed.
public struct DeviceExamination: Sendable {
    /// What came of one primitive's cases.
    public struct Row: Sendable, Hashable {
        /// The primitive's name, or ``DeviceExamination/wholePrograms``.
        public let primitive: String
        /// Cases that ran.
        public let caseCount: Int
        /// Those that passed.
        public let passedCount: Int
        /// The largest error of any element as a share of its tolerance.
        public let worstRatio: Double
        /// Time, the building of kernels included.
        public let seconds: Double
        /// The first case that failed and what was wrong, or empty.
        public let message: String

        /// Whether every case passed.
        public var isPassed: Bool { passedCount == caseCount }
    }

    /// The device.
    public let device: DeviceDescription
    /// Whether only small cases ran.
    public let isQuick: Bool
    /// What came of each primitive, in the order of the engine's list.
    public let rows: [Row]
    /// The file that keeps the verdicts; nil where no folder is known for it.
    public let path: String?

    /// The name under which small networks, trained for a few steps, are listed beside the primitives.
    public static let wholePrograms = "wholePrograms"

    /// The names of all primitives, and ``wholePrograms``.
    public static let primitiveNames = Primitive.Kind.allCases.map(\.rawValue) + [wholePrograms]

    /// Primitives with a case that failed.
    public var failures: [Row] { rows.filter { !$0.isPassed } }
    /// Cases that ran.
    public var caseCount: Int { rows.reduce(0) { $0 + $1.caseCount } }
    /// Those that passed.
    public var passedCount: Int { rows.reduce(0) { $0 + $1.passedCount } }
    /// The largest error of any element as a share of its tolerance.
    public var worstRatio: Double { rows.map(\.worstRatio).max() ?? 0 }
    /// Time, the building of kernels included.
    public var seconds: Double { rows.reduce(0) { $0 + $1.seconds } }

    /// Examines a device and keeps the verdicts.
    ///
    /// - Parameters:
    ///   - device: a selector that names one device; what an earlier examination found does not keep it from being opened.
    ///   - isQuick: whether only small cases run, and no whole programs.
    ///   - primitives: names of the primitives to examine; nil for all. Verdicts of the others stay.
    ///   - progress: told how many cases are done, of how many; a thrown error ends the examination.
    /// - Returns: what was found.
    /// - Throws: `DeviceError` when the device cannot be used, ``GraftError/invalidArgument(_:)`` for a name that is no
    ///   primitive's, ``GraftError/outputFailed(_:)`` when the verdicts cannot be written.
    public static func run(
        on device: Device, isQuick: Bool = false, primitives: [String]? = nil,
        progress: (_ done: Int, _ count: Int) throws -> Void = { _, _ in }
    ) throws -> DeviceExamination {
        let trusted = Device(
            device.selector, threadCount: device.threadCount, isExact: device.isExact, isTrusted: true)
        return try run(
            on: trusted.open(running: []).backend, isQuick: isQuick, primitives: primitives,
            verdicts: DeviceVerdicts.standard, progress: progress)
    }

    /// Examines a backend of the caller's.
    static func run(
        on backend: any DeviceBackend, isQuick: Bool, primitives: [String]?, verdicts: DeviceVerdicts?,
        progress: (_ done: Int, _ count: Int) throws -> Void = { _, _ in }
    ) throws -> DeviceExamination {
        for name in primitives ?? [] where !primitiveNames.contains(name) {
            throw GraftError.invalidArgument(
                "\"\(name)\" is no primitive"
                    + (nearMatches(to: name, in: primitiveNames, limit: 3).joined(separator: ", ").nonEmpty.map {
                        "; did you mean \($0)?"
                    } ?? "; there are \(primitiveNames.joined(separator: ", "))"))
        }
        func isWanted(_ name: String) -> Bool { primitives?.contains(name) ?? true }
        let cases = (isQuick ? ConformanceCases.quick : ConformanceCases.all).filter {
            isWanted($0.primitive.kind.rawValue)
        }
        let programs = !isQuick && isWanted(wholePrograms) ? ProgramConformance.all : []
        let harness = ConformanceHarness()
        let count = cases.count + programs.count
        var results: [CaseResult] = []
        for test in cases {
            try progress(results.count, count)
            results += harness.runAll(on: backend, cases: [test])
        }
        for test in programs {
            try progress(results.count, count)
            results += harness.runPrograms(on: backend, [test])
        }
        try progress(count, count)
        let rows = (Primitive.Kind.allCases.map(Optional.some) + [nil]).compactMap { kind in
            row(kind?.rawValue ?? wholePrograms, results.filter { $0.kind == kind })
        }
        guard !rows.isEmpty else {
            throw GraftError.invalidArgument(
                "no case is left: \(wholePrograms) are not among the quick ones; leave --quick out")
        }
        let path = try verdicts.flatMap { verdicts in
            try verdicts.add(
                rows.map {
                    DeviceVerdicts.Verdict(primitive: $0.primitive, isPassed: $0.isPassed, message: $0.message)
                }, for: backend)
        }
        return DeviceExamination(device: backend.description, isQuick: isQuick, rows: rows, path: path)
    }

    private static func row(_ name: String, _ results: [CaseResult]) -> Row? {
        guard !results.isEmpty else { return nil }
        return Row(
            primitive: name, caseCount: results.count, passedCount: results.count { $0.passed },
            worstRatio: results.map(\.worstRatio).max() ?? 0, seconds: results.reduce(0) { $0 + $1.seconds },
            message: results.first { !$0.passed }.map { "\($0.name): \($0.message)" } ?? "")
    }
}

extension String {
    fileprivate var nonEmpty: String? { isEmpty ? nil : self }
}
