import CSystemSupport
import Foundation

/// One GET request, followed through its redirections.
struct HTTPRequest {
    /// How it ended.
    enum Ending: Equatable {
        /// A whole answer.
        case complete
        /// The receiver wanted no more.
        case stopped
        /// The connection broke off or stood still; the text says how.
        case cut(String)
        /// Nobody was reached.
        case unreachable(String)
        /// Trying again will not help.
        case refused(String)
    }

    var address: String
    var headers: [(name: String, value: String)] = []
    var connectTimeoutSeconds = 30
    var stallTimeoutSeconds = 60

    private static let redirectLimit = 10

    /// What the callbacks of libcurl see.
    private final class Receiver {
        var status = 0
        var headers: [String: String] = [:]
        let onBody: (Int, [String: String], UnsafeRawBufferPointer) -> Bool

        init(_ onBody: @escaping (Int, [String: String], UnsafeRawBufferPointer) -> Bool) { self.onBody = onBody }

        func take(_ line: String) {
            if line.hasPrefix("HTTP/") {
                status = line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0
                headers = [:]
            } else if let colon = line.firstIndex(of: ":") {
                headers[line[..<colon].lowercased()] =
                    line[line.index(after: colon)...].trimmingCharacters(in: .whitespacesAndNewlines)
            }
        }
    }

    /// Performs the request on this thread.
    ///
    /// - Parameter onBody: gets the answer's code, its headers by lowercased name, and a piece of the body; false ends it.
    /// - Returns: how it ended, and the last answer's code (0 when there was none) and headers.
    func perform(
        onBody: @escaping (Int, [String: String], UnsafeRawBufferPointer) -> Bool
    ) -> (ending: Ending, status: Int, headers: [String: String]) {
        let receiver = Receiver(onBody)
        var request = graft_http_request()
        request.connect_timeout_seconds = connectTimeoutSeconds
        request.stall_timeout_seconds = stallTimeoutSeconds
        request.redirect_limit = Self.redirectLimit
        request.allows_plain_redirects = address.lowercased().hasPrefix("http://")
        request.on_header = { context, bytes, count in
            guard let context, let bytes else { return false }
            let line = UnsafeRawBufferPointer(start: bytes, count: count)
            Unmanaged<Receiver>.fromOpaque(context).takeUnretainedValue().take(String(decoding: line, as: UTF8.self))
            return true
        }
        request.on_body = { context, bytes, count in
            guard let context else { return false }
            let receiver = Unmanaged<Receiver>.fromOpaque(context).takeUnretainedValue()
            return receiver.onBody(
                receiver.status, receiver.headers, UnsafeRawBufferPointer(start: bytes, count: count))
        }
        var outcome = graft_http_outcome()
        let lines = headers.map { strdup("\($0.name): \($0.value)") }
        defer { lines.forEach { free($0) } }
        let pointers = lines.map { UnsafePointer($0) }
        let status = withExtendedLifetime(receiver) {
            request.context = Unmanaged.passUnretained(receiver).toOpaque()
            return pointers.withUnsafeBufferPointer { pointers in
                address.withCString { address in
                    "graft".withCString { agent in
                        request.url = address
                        request.user_agent = agent
                        request.headers = pointers.baseAddress
                        request.header_count = pointers.count
                        return graft_http_get(&request, &outcome)
                    }
                }
            }
        }
        let message = withUnsafeBytes(of: outcome.message) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        let ending: Ending =
            switch status {
            case GRAFT_HTTP_OK: .complete
            case GRAFT_HTTP_STOPPED: .stopped
            case GRAFT_HTTP_CUT: .cut(message)
            case GRAFT_HTTP_UNREACHABLE, GRAFT_HTTP_NO_CLIENT: .unreachable(message)
            default: .refused(message)
            }
        return (ending, receiver.status, receiver.headers)
    }
}
