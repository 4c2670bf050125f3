import Foundation

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// The process's two output streams: results on standard output, everything else on standard error.
enum Console {
    /// Whether standard error is a terminal that can redraw a line.
    static let isTerminal = isatty(STDERR_FILENO) == 1 && ProcessInfo.processInfo.environment["TERM"] != "dumb"

    /// Whether standard error may be coloured: a terminal, and NO_COLOR is unset or empty.
    static let isColoured = isTerminal && (ProcessInfo.processInfo.environment["NO_COLOR"] ?? "").isEmpty

    /// Writes a result. A reader that has gone away (`graft models | head -1`) ends the process without a message, as
    /// SIGPIPE would.
    static func result(_ text: String) throws {
        do {
            try write(text, to: STDOUT_FILENO)
        } catch let failure where failure.status == EPIPE {
            exit(128 + SIGPIPE)
        } catch {
            throw CommandFailure(
                .outputError, "standard output cannot be written: \(String(cString: strerror(error.status)))")
        }
    }

    /// A note on standard error: what was chosen and why.
    static func note(_ text: String) { diagnostic(text + "\n") }

    /// A warning on standard error; `--quiet` does not silence it.
    static func warning(_ text: String) { diagnostic(styled("warning: ", "33") + text + "\n") }

    /// An error on standard error.
    static func error(_ text: String) { diagnostic(styled("error: ", "31") + text + "\n") }

    /// Text on standard error as it is. Nothing can be done where that fails.
    static func diagnostic(_ text: String) { try? write(text, to: STDERR_FILENO) }

    private static func styled(_ text: String, _ code: String) -> String {
        isColoured ? "\u{1B}[\(code)m\(text)\u{1B}[0m" : text
    }

    private struct WriteFailure: Error {
        var status: Int32
    }

    private static func write(_ text: String, to descriptor: Int32) throws(WriteFailure) {
        let bytes = Array(text.utf8)
        var start = 0
        while start < bytes.count {
            let written = bytes[start...].withUnsafeBytes { systemWrite(descriptor, $0.baseAddress, $0.count) }
            if written < 0 {
                if errno == EINTR { continue }
                throw WriteFailure(status: errno)
            }
            start += written
        }
    }
}

private func systemWrite(_ descriptor: Int32, _ bytes: UnsafeRawPointer?, _ count: Int) -> Int {
    write(descriptor, bytes, count)
}
