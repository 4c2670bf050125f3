import CSystemSupport
import Foundation
import GraftCheckpoint
import GraftTensor

/// Weights files from the network, kept in a folder: downloaded once, checked on every use.
///
/// A file whose name ends in `-` and at least eight hexadecimal digits before its extension, as torchvision's do, must
/// have a SHA-256 that begins with them: after the download and whenever it is used. A download that broke off goes on
/// where it was, if the server's file is still the same; two processes that want one file wait for each other. Proxies
/// come from the environment (`https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`).
///
/// ```swift
/// let path = try WeightsDownload().file(for: .hub, architecture: "resnet18")
/// let model = try Model("resnet18", weights: path)
/// ```
public struct WeightsDownload: Sendable {
    /// What happens on the way.
    public enum Event: Sendable, Hashable {
        /// Another process is downloading the same file.
        case waiting(name: String)
        /// Bytes begin to come; `from` is not 0 where a download goes on.
        case started(address: String, from: Int, total: Int?)
        /// So many bytes are there.
        case progress(done: Int, total: Int?)
        /// The connection broke off; it is tried again.
        case retrying(reason: String)
        /// A file of the folder is not what its name says, and is downloaded anew.
        case damaged(path: String)
        /// The file is in its place.
        case finished(path: String)
    }

    /// Where files are kept: `weights` in `$GRAFT_CACHE`, else in `graft` below `$XDG_CACHE_HOME` or `~/.cache`; nil when
    /// none of these is known.
    public var folder: URL? = CacheFolder.url("weights")
    /// Where the hub's files are: `$GRAFT_HUB`, else ``PretrainedWeights/publishedBase``.
    public var hub: String = {
        let named = ProcessInfo.processInfo.environment["GRAFT_HUB"] ?? ""
        return named.isEmpty ? PretrainedWeights.publishedBase : named
    }()
    /// Whether only what is in the folder is used.
    public var isOffline = false
    /// A connection is given up when nothing came for so many seconds.
    public var stallTimeoutSeconds = 60
    /// Attempts in a row without a byte before an error.
    public var attempts = 4
    /// Seconds before the second attempt; twice as many before each further one.
    public var pauseSeconds = 0.5
    /// Gets what happens on the way.
    public var onEvent: @Sendable (Event) -> Void

    /// Downloads as the environment says.
    public init(onEvent: @escaping @Sendable (Event) -> Void = { _ in }) { self.onEvent = onEvent }

    /// The path of a weights file that is there and, where its name says so, has the right bytes.
    ///
    /// - Parameters:
    ///   - source: where it is from; a file of the user's is returned as it is.
    ///   - architecture: which one the hub is asked for.
    /// - Returns: a path.
    /// - Throws: ``GraftError``: ``GraftError/noInput(_:)`` when it cannot be had, with the place to put it by hand,
    ///   ``GraftError/weightsMismatch(_:)`` for wrong bytes, ``GraftError/outputFailed(_:)``,
    ///   ``GraftError/invalidArgument(_:)`` for an architecture without published weights.
    public func file(for source: WeightsSource, architecture: String? = nil) throws -> String {
        switch source {
        case .file(let path): return path
        case .address(let address): return try file(at: address)
        case .hub:
            guard let architecture else {
                throw GraftError.invalidArgument(
                    "weights from the hub are those of an architecture; pass --model NAME too")
            }
            _ = try Architecture.named(architecture)
            guard let address = PretrainedWeights.address(of: architecture, base: hub) else {
                throw GraftError.invalidArgument(
                    "torchvision publishes no weights for \(architecture); pass a file or an address with --weights "
                        + "(`graft models` shows for which there are some)")
            }
            return try file(at: address)
        }
    }

    private func file(at address: String) throws -> String {
        let target = try Target(address, in: folder)
        return try target.file(self)
    }
}

/// One file of the cache, and how it comes there.
private struct Target {
    let address: String
    /// The address without a password.
    let shown: String
    let name: String
    /// The digits that the SHA-256 begins with; nil when the name does not say.
    let prefix: String?
    let folder: String
    let path: String
    var partialPath: String { path + ".partial" }
    var validatorPath: String { path + ".partial.json" }

    private static let leastDigits = 8
    private static let restartLimit = 3

    init(_ address: String, in cache: URL?) throws {
        guard let components = URLComponents(string: address), let host = components.host, !host.isEmpty else {
            throw GraftError.invalidArgument(
                "\(address) is no address; an example is https://host/folder/name-1a2b3c4d.pth")
        }
        var plain = components
        plain.user = nil
        plain.password = nil
        self.address = address
        shown = plain.string ?? host
        let last = components.path.split(separator: "/").last.map(String.init) ?? ""
        guard !last.isEmpty, last != ".", last != "..", !last.contains("\0"), last.utf8.count <= 200 else {
            throw GraftError.invalidArgument("\(shown) names no file behind its last slash")
        }
        name = last
        prefix = Self.digits(of: last)
        guard let cache else {
            throw GraftError.outputFailed(
                "there is no folder to keep \(name) in: none of GRAFT_CACHE, XDG_CACHE_HOME and HOME names one; set "
                    + "GRAFT_CACHE, or pass a file with --weights")
        }
        // A name with digits means one content, wherever it is from; another belongs to its address.
        var folder = cache
        if prefix == nil {
            let digest = SHA256Digest()
            digest.update(shown)
            folder = cache.appending(path: String(try digest.hex().prefix(16)))
        }
        self.folder = folder.path
        path = folder.appending(path: last).path
    }

    /// `f37072fd` of `resnet18-f37072fd.pth`.
    static func digits(of name: String) -> String? {
        guard let point = name.lastIndex(of: "."), let dash = name[..<point].lastIndex(of: "-") else { return nil }
        let digits = name[name.index(after: dash)..<point]
        guard (leastDigits...64).contains(digits.count), digits.allSatisfy({ "0123456789abcdef".contains($0) }) else {
            return nil
        }
        return String(digits)
    }

    // MARK: The file

    func file(_ options: WeightsDownload) throws -> String {
        if try isGood(options) { return path }
        guard !options.isOffline else {
            throw GraftError.noInput(
                "\(name) is not in the cache and --offline forbids to download it from \(shown); \(byHand)")
        }
        do {
            try createFolder(folder)
        } catch {
            throw GraftError.outputFailed(
                "\(folder) cannot be made: \(systemReason(of: error)); set GRAFT_CACHE to a folder that can be written"
            )
        }
        while true {
            let descriptor = try lock(options)
            defer { close(descriptor) }
            // Whoever had the lock before may have finished, and then what is locked has another name.
            var own = stat()
            var named = stat()
            guard fstat(descriptor, &own) == 0, stat(partialPath, &named) == 0, own.st_ino == named.st_ino,
                own.st_dev == named.st_dev
            else {
                if try isGood(options) { return path }
                continue
            }
            if try isGood(options) {
                unlink(partialPath)
                unlink(validatorPath)
                return path
            }
            do {
                try download(descriptor, options)
            } catch {
                // A first part is kept for the next time, an empty file is litter.
                if lseek(descriptor, 0, SEEK_END) == 0 {
                    unlink(partialPath)
                    unlink(validatorPath)
                }
                throw error
            }
            options.onEvent(.finished(path: path))
            return path
        }
    }

    /// What to do without a network.
    private var byHand: String {
        "fetch that file elsewhere and put it at \(path), or pass a file of your own with --weights"
    }

    /// Whether the file is there, with the bytes its name promises.
    private func isGood(_ options: WeightsDownload) throws -> Bool {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return false }
        defer { close(descriptor) }
        guard let prefix else { return true }
        let found = try digest(descriptor)
        if found.hasPrefix(prefix) { return true }
        guard !options.isOffline else {
            throw GraftError.weightsMismatch(
                "\(path) has the SHA-256 \(found.prefix(16))…, its name promises \(prefix)…: it is damaged or another file; "
                    + "remove it and run without --offline, or put the right one there")
        }
        options.onEvent(.damaged(path: path))
        return false
    }

    private func digest(_ descriptor: Int32) throws -> String {
        let digest = SHA256Digest()
        var buffer = [UInt8](repeating: 0, count: 1 << 20)
        var offset = 0
        while true {
            let count = buffer.withUnsafeMutableBytes { pread(descriptor, $0.baseAddress, $0.count, off_t(offset)) }
            if count < 0, errno == EINTR { continue }
            guard count >= 0 else { throw failure("read it") }
            if count == 0 { return try digest.hex() }
            buffer.withUnsafeBytes { digest.update(UnsafeRawBufferPointer(rebasing: $0[..<count])) }
            offset += count
        }
    }

    /// Opens the partial file and waits for its lock.
    private func lock(_ options: WeightsDownload) throws -> Int32 {
        let descriptor = open(partialPath, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o644)
        guard descriptor >= 0 else { throw failure("create a file beside it") }
        if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { return descriptor }
        if errno == EWOULDBLOCK {
            options.onEvent(.waiting(name: name))
            while true {
                if flock(descriptor, LOCK_EX) == 0 { return descriptor }
                if errno != EINTR { break }
            }
        }
        let error = failure("lock \(partialPath)")
        close(descriptor)
        throw error
    }

    private func failure(_ operation: String) -> GraftError {
        .outputFailed(
            "\(path): cannot \(operation): \(String(cString: strerror(errno))); set GRAFT_CACHE to a folder that can be "
                + "written and has space")
    }

    // MARK: Downloading

    /// What tells whether the server's file is still the one that the first part is from.
    private struct Validator: Codable {
        var address: String
        var entityTag: String?
        var lastModified: String?
        var total: Int?

        /// What If-Range may hold; a weak tag may not.
        var condition: String? { entityTag ?? lastModified }

        init(_ address: String, _ headers: [String: String], total: Int?) {
            self.address = address
            entityTag = headers["etag"].flatMap { $0.hasPrefix("W/") ? nil : $0 }
            lastModified = headers["last-modified"]
            self.total = total
        }
    }

    private func download(_ descriptor: Int32, _ options: WeightsDownload) throws {
        var restarts = 0
        var fruitless = 0
        while true {
            let transfer = Transfer(descriptor, self, options, validator: validator())
            let (before, goesOn) = (transfer.position, transfer.position > 0)
            let (ending, status, _) = transfer.perform()
            if let error = transfer.error { throw error }
            if transfer.isWhole(ending, status) {
                guard try finish(descriptor) else {
                    // Parts of two files, or a first part that was never right: once more, from the first byte.
                    guard goesOn, restarts < Self.restartLimit else { throw wrongDigest(try digest(descriptor)) }
                    restarts += 1
                    try startOver(descriptor)
                    continue
                }
                return
            }
            if transfer.mustStartOver || status == 416 {
                restarts += 1
                guard restarts <= Self.restartLimit, goesOn else {
                    throw GraftError.noInput(
                        "\(shown): the server's parts do not belong together (answer \(status)); \(byHand)")
                }
                try startOver(descriptor)
                continue
            }
            let reason: String
            switch ending {
            case .unreachable(let message):
                throw GraftError.noInput("\(name) cannot be downloaded from \(shown): \(message); \(byHand)")
            case .refused(let message):
                throw GraftError.noInput("\(name) cannot be downloaded from \(shown): \(message); \(byHand)")
            case .complete, .stopped:
                guard [408, 429, 500, 502, 503, 504].contains(status) || (200...299).contains(status) else {
                    throw GraftError.noInput(
                        "\(shown): the server answers \(status)\(status == 404 ? " (no such file)" : ""); \(byHand)")
                }
                reason = (200...299).contains(status) ? "the end is missing" : "the server answers \(status)"
            case .cut(let message): reason = message
            }
            fruitless = transfer.position > before ? 1 : fruitless + 1
            guard fruitless < options.attempts else {
                let total = transfer.total.map { " of \($0)" } ?? ""
                throw GraftError.noInput(
                    "\(name) cannot be downloaded from \(shown): \(reason), after \(transfer.position)\(total) bytes; the "
                        + "same command goes on from there, or \(byHand)")
            }
            options.onEvent(.retrying(reason: reason))
            usleep(UInt32(options.pauseSeconds * Double(1 << (fruitless - 1)) * 1e6))
        }
    }

    /// Puts the file in its place; false when its bytes are not what its name promises.
    private func finish(_ descriptor: Int32) throws -> Bool {
        if let prefix, try !digest(descriptor).hasPrefix(prefix) { return false }
        guard fsync(descriptor) == 0 else { throw failure("flush it to the disk") }
        guard rename(partialPath, path) == 0 else { throw failure("rename \(partialPath) to it") }
        unlink(validatorPath)
        let number = graft_sync_path(folder)
        guard number == 0 || number == EACCES else {
            errno = number
            throw failure("flush its folder")
        }
        return true
    }

    private func wrongDigest(_ found: String) -> GraftError {
        unlink(partialPath)
        unlink(validatorPath)
        return .weightsMismatch(
            "\(shown) gave a file with the SHA-256 \(found.prefix(16))…, its name promises \(prefix ?? "")…; it was thrown away. "
                + "The server has another file, or something on the way (a proxy's page) took its place; \(byHand)")
    }

    private func startOver(_ descriptor: Int32) throws {
        guard ftruncate(descriptor, 0) == 0 else { throw failure("empty \(partialPath)") }
        unlink(validatorPath)
    }

    private func validator() -> Validator? {
        guard let data = FileManager.default.contents(atPath: validatorPath),
            let found = try? JSONDecoder().decode(Validator.self, from: data), found.address == shown
        else { return nil }
        return found
    }

    /// One request and what is done with its answer.
    private final class Transfer {
        private let descriptor: Int32
        private let target: Target
        private let options: WeightsDownload
        private let validator: Validator?
        private let offset: Int
        private var isAccepted: Bool?
        /// Where the next byte goes.
        private(set) var position: Int
        private(set) var total: Int?
        private(set) var mustStartOver = false
        private(set) var error: (any Error)?

        init(_ descriptor: Int32, _ target: Target, _ options: WeightsDownload, validator: Validator?) {
            self.descriptor = descriptor
            self.target = target
            self.options = options
            let size = Int(lseek(descriptor, 0, SEEK_END))
            // Without something that says that the server's file is the same, what is there cannot be gone on with.
            self.validator = validator?.condition == nil ? nil : validator
            offset = self.validator == nil ? 0 : max(size, 0)
            position = offset
            total = self.validator?.total
        }

        func perform() -> (ending: HTTPRequest.Ending, status: Int, headers: [String: String]) {
            var request = HTTPRequest(address: target.address, stallTimeoutSeconds: options.stallTimeoutSeconds)
            if offset > 0, let condition = validator?.condition {
                request.headers = [("Range", "bytes=\(offset)-"), ("If-Range", condition)]
            }
            let result = request.perform { [self] status, headers, bytes in
                guard accepts(status, headers) else { return false }
                return write(bytes)
            }
            // An answer without a body has not been asked about.
            if result.ending == .complete { _ = accepts(result.status, result.headers) }
            return result
        }

        /// Whether all bytes are there.
        func isWhole(_ ending: HTTPRequest.Ending, _ status: Int) -> Bool {
            if isAccepted == true { return ending == .complete && (total ?? position) == position }
            // There is nothing behind the end of what is there: it is all.
            return status == 416 && offset > 0 && total == offset
        }

        /// Decides, once, what an answer's body is.
        private func accepts(_ status: Int, _ headers: [String: String]) -> Bool {
            if let isAccepted { return isAccepted }
            let isGood = decide(status, headers)
            isAccepted = isGood
            if isGood { options.onEvent(.started(address: target.shown, from: position, total: total)) }
            return isGood
        }

        private func decide(_ status: Int, _ headers: [String: String]) -> Bool {
            switch status {
            case 200:
                // All of it: the server knows no ranges, or its file is another one by now.
                total = headers["content-length"].flatMap { Int($0) }
                guard ftruncate(descriptor, 0) == 0 else {
                    error = target.failure("empty \(target.partialPath)")
                    return false
                }
                position = 0
                do {
                    let text = try JSONEncoder().encode(Validator(target.shown, headers, total: total))
                    try AtomicFile.write(Array(text), to: target.validatorPath)
                } catch {
                    self.error = error
                    return false
                }
                return true
            case 206:
                let range = Self.contentRange(headers["content-range"])
                let isSame = headers["etag"].map { $0 == validator?.entityTag } ?? true
                guard offset > 0, let range, range.start == offset, validator?.entityTag == nil || isSame,
                    validator?.total == nil || range.total == nil || validator?.total == range.total
                else {
                    mustStartOver = true
                    return false
                }
                total = range.total ?? total
                return true
            case 416:
                // `bytes */N`
                if let text = headers["content-range"]?.split(separator: "/").last, let size = Int(text) {
                    total = size
                }
                return false
            default: return false
            }
        }

        /// `bytes 10-99/100`.
        private static func contentRange(_ text: String?) -> (start: Int, total: Int?)? {
            guard let text, text.lowercased().hasPrefix("bytes ") else { return nil }
            let parts = text.dropFirst(6).split(separator: "/")
            guard parts.count == 2, let start = parts[0].split(separator: "-").first.flatMap({ Int($0) }) else {
                return nil
            }
            return (start, Int(parts[1]))
        }

        private func write(_ bytes: UnsafeRawBufferPointer) -> Bool {
            var done = 0
            while done < bytes.count {
                let result = pwrite(
                    descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done, off_t(position))
                if result < 0 {
                    if errno == EINTR { continue }
                    error = target.failure("write \(bytes.count) bytes to \(target.partialPath)")
                    return false
                }
                done += result
                position += result
            }
            options.onEvent(.progress(done: position, total: total))
            return true
        }
    }
}
