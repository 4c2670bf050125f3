import Foundation
import Graft

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// The process's two output streams: results on standard output, everything else on standard error.
enum Console {
    enum Stream { case output, error }

    /// Columns of the terminal that a stream goes to, as it is now; nil where it goes elsewhere.
    static func columns(of stream: Stream) -> Int? {
        var size = winsize()
        let descriptor = stream == .output ? STDOUT_FILENO : STDERR_FILENO
        guard isatty(descriptor) == 1, ioctl(descriptor, UInt(TIOCGWINSZ), &size) == 0, size.ws_col > 0 else {
            return nil
        }
        return Int(size.ws_col)
    }

    /// Whether standard error is a terminal that can redraw a line.
    static let isTerminal = isatty(STDERR_FILENO) == 1 && ProcessInfo.processInfo.environment["TERM"] != "dumb"

    /// Whether standard error may be coloured: a terminal, and NO_COLOR is unset or empty.
    static let isColoured = isTerminal && (ProcessInfo.processInfo.environment["NO_COLOR"] ?? "").isEmpty

    /// All of standard input, which a user's `-` names.
    static func standardInput() throws -> [UInt8] {
        guard isatty(STDIN_FILENO) == 0 else {
            throw CommandFailure(
                .noInput, "- reads standard input, which is a terminal here; send a file into it: graft … - < FILE")
        }
        do {
            return Array(try FileHandle.standardInput.readToEnd() ?? Data())
        } catch {
            throw CommandFailure(.noInput, "standard input cannot be read: \(systemReason(of: error))")
        }
    }

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
