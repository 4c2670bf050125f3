import Foundation

/// A small HTTP server on the loopback interface, with the faults that tests ask for. It goes when the object does.
public final class LoopbackServer: @unchecked Sendable {
    /// What a client asked for.
    public struct Request: Sendable {
        /// `GET`.
        public var method: String
        /// `/models/a.pth`, or a whole address where the server is used as a proxy.
        public var target: String
        /// By lowercased name.
        public var headers: [String: String]

        /// The first byte of `Range: bytes=N-`.
        public var rangeStart: Int? {
            headers["range"].flatMap { Int($0.dropFirst("bytes=".count).prefix { $0 != "-" }) }
        }
    }

    /// What the server does about it.
    public struct Response: Sendable {
        /// The code.
        public var status = 200
        /// Lines besides `Content-Length` and `Connection`.
        public var headers: [(name: String, value: String)] = []
        /// What is sent behind the headers.
        public var body: [UInt8] = []
        /// The connection is closed after so many bytes of the body.
        public var cutAfter: Int?
        /// The body is sent in pieces of this size …
        public var pieceByteCount = 1 << 16
        /// … with so many seconds before each.
        public var pauseSeconds = 0.0
        /// Whether the length is announced.
        public var announcesLength = true

        /// A whole answer.
        public init(_ status: Int = 200, body: [UInt8] = [], headers: [(name: String, value: String)] = []) {
            self.status = status
            self.body = body
            self.headers = headers
        }

        /// A file as an ordinary server gives it: whole, or the range that was asked for while the tag still holds.
        public static func file(
            _ bytes: [UInt8], tag: String, for request: Request, honoursRange: Bool = true,
            honoursCondition: Bool = true
        ) -> Response {
            let headers = [(name: "ETag", value: tag), (name: "Accept-Ranges", value: "bytes")]
            let holds = !honoursCondition || request.headers["if-range"] ?? tag == tag
            guard honoursRange, holds, let start = request.rangeStart else {
                return Response(body: bytes, headers: headers)
            }
            guard start < bytes.count else {
                return Response(416, headers: headers + [(name: "Content-Range", value: "bytes */\(bytes.count)")])
            }
            let range = (name: "Content-Range", value: "bytes \(start)-\(bytes.count - 1)/\(bytes.count)")
            return Response(206, body: Array(bytes[start...]), headers: headers + [range])
        }

        /// The same response that ends after so many bytes of its body.
        public func cut(after count: Int) -> Response {
            var result = self
            result.cutAfter = count
            return result
        }

        /// The same response in pieces with pauses.
        public func slow(pieces byteCount: Int, pause seconds: Double) -> Response {
            var result = self
            result.pieceByteCount = byteCount
            result.pauseSeconds = seconds
            return result
        }
    }

    /// What went wrong with a socket.
    public struct SocketError: Error {
        /// The call that failed.
        public var call: String
        /// Its errno.
        public var number: Int32
    }

    /// `http://127.0.0.1:PORT`.
    public let address: String
    private let listener: Int32
    private let handler: @Sendable (Request, Int) -> Response
    private let lock = NSLock()
    private var received: [Request] = []

    /// Starts a server; the handler gets each request and its number, counted from 0, on a thread of its own.
    public init(_ handler: @escaping @Sendable (Request, Int) -> Response) throws {
        self.handler = handler
        #if os(Linux)
            listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        #else
            listener = socket(AF_INET, SOCK_STREAM, 0)
        #endif
        guard listener >= 0 else { throw SocketError(call: "socket", number: errno) }
        var place = sockaddr_in()
        place.sin_family = sa_family_t(AF_INET)
        place.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        var size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let descriptor = listener
        let status = withUnsafeMutablePointer(to: &place) { place in
            place.withMemoryRebound(to: sockaddr.self, capacity: 1) { place in
                bind(descriptor, place, size) == 0 && listen(descriptor, 16) == 0
                    && getsockname(descriptor, place, &size) == 0
            }
        }
        guard status else { throw SocketError(call: "bind", number: errno) }
        address = "http://127.0.0.1:\(UInt16(bigEndian: place.sin_port))"
        Thread.detachNewThread { [weak self] in
            while true {
                let connection = accept(descriptor, nil, nil)
                guard connection >= 0 else { return }
                guard let server = self else {
                    close(connection)
                    return
                }
                Thread.detachNewThread { server.serve(connection) }
            }
        }
    }

    deinit {
        shutdown(listener, Int32(SHUT_RDWR))
        close(listener)
    }

    /// What was asked for so far.
    public var requests: [Request] { lock.withLock { received } }

    private func serve(_ connection: Int32) {
        defer { close(connection) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 4096)
        let end = Array("\r\n\r\n".utf8)
        while bytes.count < 4 || Array(bytes.suffix(4)) != end {
            let count = recv(connection, &buffer, buffer.count, 0)
            guard count > 0 else { return }
            bytes += buffer[..<count]
        }
        let lines = String(decoding: bytes, as: UTF8.self).components(separatedBy: "\r\n")
        let words = lines[0].split(separator: " ").map(String.init)
        var request = Request(method: words.first ?? "", target: words.count > 1 ? words[1] : "", headers: [:])
        for line in lines.dropFirst() {
            guard let colon = line.firstIndex(of: ":") else { continue }
            request.headers[line[..<colon].lowercased()] =
                line[line.index(after: colon)...].trimmingCharacters(in: .whitespaces)
        }
        let number = lock.withLock {
            received.append(request)
            return received.count - 1
        }
        let response = handler(request, number)
        var head = "HTTP/1.1 \(response.status) Answer\r\nConnection: close\r\n"
        if response.announcesLength { head += "Content-Length: \(response.body.count)\r\n" }
        for header in response.headers { head += "\(header.name): \(header.value)\r\n" }
        guard send(Array((head + "\r\n").utf8), to: connection) else { return }
        let body = response.body.prefix(response.cutAfter ?? response.body.count)
        var start = 0
        while start < body.count {
            if response.pauseSeconds > 0 { usleep(UInt32(response.pauseSeconds * 1e6)) }
            let piece = Array(body[start..<min(start + response.pieceByteCount, body.count)])
            guard send(piece, to: connection) else { return }
            start += piece.count
        }
    }

    private func send(_ bytes: [UInt8], to connection: Int32) -> Bool {
        var done = 0
        while done < bytes.count {
            let count = bytes.withUnsafeBytes { bytes in
                #if os(Linux)
                    systemSend(
                        connection, bytes.baseAddress.map { $0 + done }, bytes.count - done,
                        Int32(MSG_NOSIGNAL))
                #else
                    systemSend(connection, bytes.baseAddress.map { $0 + done }, bytes.count - done, 0)
                #endif
            }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }
}

private func systemSend(_ connection: Int32, _ bytes: UnsafeRawPointer?, _ count: Int, _ flags: Int32) -> Int {
    send(connection, bytes, count, flags)
}
