import Foundation
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// Ctrl-C: a command that saves its work asks ``isRequested`` between steps; any other ends at once with 130.
enum Interruption {
    private static let requested = Atomic(false)
    private static let isDeferred = Atomic(false)

    /// Whether Ctrl-C was pressed.
    static var isRequested: Bool { requested.load(ordering: .relaxed) }

    /// Installs the handlers. A write to a closed pipe becomes an error of the write.
    static func install() {
        signal(SIGPIPE, SIG_IGN)
        let handler: @convention(c) (Int32) -> Void = { _ in Interruption.receive() }
        signal(SIGINT, handler)
        signal(SIGTERM, handler)
        // A parent that started us from a worker thread may have left us a mask that blocks them.
        var interrupts = sigset_t()
        sigemptyset(&interrupts)
        sigaddset(&interrupts, SIGINT)
        sigaddset(&interrupts, SIGTERM)
        sigprocmask(SIG_UNBLOCK, &interrupts, nil)
    }

    /// While `body` runs, the first Ctrl-C only sets ``isRequested``; the second ends the process.
    static func deferred<Result>(_ body: () throws -> Result) rethrows -> Result {
        isDeferred.store(true, ordering: .relaxed)
        defer { isDeferred.store(false, ordering: .relaxed) }
        return try body()
    }

    /// Runs in the signal handler: atomics and `_exit` only.
    private static func receive() {
        let isRepeated = requested.exchange(true, ordering: .relaxed)
        if isRepeated || !isDeferred.load(ordering: .relaxed) { _exit(ExitCode.interrupted.rawValue) }
    }
}
