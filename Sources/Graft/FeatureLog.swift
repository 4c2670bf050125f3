import CSystemSupport
import Foundation
import GraftTensor

/// Batches of features on their way to a file: appended one by one, read back one layer after the other.
///
/// The log is a file beside the one that is being made: a header that says what was asked for, then a record for each
/// batch with its labels, paths and rows and a checksum over them. A kill or a power loss leaves at most a last record
/// that is not whole; ``init(resuming:layers:request:)`` finds the end of the whole ones and goes on behind it. Memory
/// holds a few numbers for each record, whatever the number of features.
final class FeatureLog {
    /// What a record says of itself.
    private struct Head: Codable {
        var batch: Int
        var shapes: [[Int]]
        var labels: [Int64]
        var paths: [String]
    }

    private struct Record {
        var headStart: Int
        var headByteCount: Int
        var rowCount: Int
        var bodyStart: Int { headStart + headByteCount }
    }

    /// The log's own place; nil where it has no name.
    let path: String?
    private let target: String
    private let layers: [String]
    private let descriptor: Int32
    private var records: [Record] = []
    private var end = 0
    /// The shape of a row, by layer; empty before the first batch.
    private(set) var rowShapes: [String: Shape] = [:]
    /// Images so far.
    private(set) var rowCount = 0
    /// Code points of the longest path.
    private(set) var longestPath = 0
    /// The batch behind the last whole record.
    private(set) var nextBatch = 0
    private var isRemoved = false

    private static let magic = Array("graft features 1".utf8)
    private static let recordMagic: UInt64 = 0x5352_5754_4652_4731
    private static let prefixByteCount = 32
    private static let pieceCount = 1 << 18

    /// Where the log of a features file lies.
    static func path(for target: String) -> String { target + ".partial" }

    /// An empty log without a name, which goes away by itself.
    init(besides target: String, layers: [String]) throws(GraftError) {
        self.target = target
        self.layers = layers
        path = nil
        let folder = URL(fileURLWithPath: target).deletingLastPathComponent().path
        var template = Array((folder + "/.graft-rows-XXXXXX").utf8CString)
        descriptor = mkstemp(&template)
        guard descriptor >= 0 else { throw Self.failure(target, "create a file beside it") }
        unlink(template)
    }

    /// A log that a later process can go on with.
    ///
    /// - Parameters:
    ///   - target: the features file.
    ///   - layers: the layers in the order of a record.
    ///   - request: everything the features depend on, by name.
    ///   - resumes: whether to go on with a log that is there; otherwise it is emptied.
    /// - Throws: ``GraftError/outputFailed(_:)``; ``GraftError/invalidArgument(_:)`` for the log of another request or
    ///   one that another process is writing.
    init(besides target: String, layers: [String], request: [String: String], resumes: Bool) throws(GraftError) {
        self.target = target
        self.layers = layers
        let path = Self.path(for: target)
        self.path = path
        descriptor = try Self.openLocked(path)
        let size = Int(lseek(descriptor, 0, SEEK_END))
        if resumes, size > 0 {
            do throws(GraftError) {
                try resume(request, size: size, path: path)
            } catch {
                // What is there is somebody's work, even where it is not what was asked for.
                isRemoved = true
                throw error
            }
        } else {
            guard ftruncate(descriptor, 0) == 0 else { throw Self.failure(path, "empty it") }
            try begin(request)
        }
    }

    /// Opens the file and takes its lock, for a name that still leads to it then.
    private static func openLocked(_ path: String) throws(GraftError) -> Int32 {
        while true {
            let descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o644)
            guard descriptor >= 0 else { throw failure(path, "open it") }
            guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
                close(descriptor)
                throw .invalidArgument("another process is writing \(path); wait for it, or choose another file")
            }
            var status = stat()
            if fstat(descriptor, &status) == 0, status.st_nlink > 0 { return descriptor }
            close(descriptor)
        }
    }

    deinit {
        // Before the lock goes, so that a next process does not lose a file of its own.
        if records.isEmpty { remove() }
        close(descriptor)
    }

    /// Whether a log with something in it lies beside a features file.
    static func exists(for target: String) -> Bool {
        var status = stat()
        return stat(path(for: target), &status) == 0 && status.st_size > prefixByteCount
    }

    /// Takes the file away: the features are where they belong.
    func remove() {
        guard let path, !isRemoved else { return }
        unlink(path)
        isRemoved = true
    }

    // MARK: Writing

    private func begin(_ request: [String: String]) throws(GraftError) {
        let text = Self.json(request)
        var bytes = Self.magic
        for value in [UInt64(text.count), Self.checksum(text)] { Self.append(value, to: &bytes) }
        try write(bytes + text)
    }

    /// Adds a batch; every layer has as many rows as there are labels.
    func append(_ features: [String: HostTensor], batch: Int, labels: [Int32], paths: [String]) throws(GraftError) {
        for layer in layers {
            guard let tensor = features[layer], tensor.floats != nil, tensor.shape.rank > 0,
                tensor.shape[0] == labels.count, paths.count == labels.count
            else {
                throw .invalidArgument(
                    "the features of \(layer) have shape \(features[layer]?.shape.description ?? "none") for "
                        + "\(labels.count) labels and \(paths.count) paths")
            }
            let row = Shape(Array(tensor.shape.dimensions.dropFirst()))
            guard rowShapes[layer, default: row] == row else {
                throw .invalidArgument("the features of \(layer) change their shape to \(row)")
            }
        }
        let head = Head(
            batch: batch, shapes: layers.map { Array((features[$0]?.shape.dimensions ?? []).dropFirst()) },
            labels: labels.map(Int64.init), paths: paths)
        let headBytes = Self.json(head)
        var body: [UInt8] = headBytes
        for layer in layers {
            features[layer]?.floats?.withUnsafeBytes { body.append(contentsOf: $0) }
        }
        var bytes: [UInt8] = []
        bytes.reserveCapacity(Self.prefixByteCount + body.count)
        for value in [
            Self.recordMagic, UInt64(headBytes.count), UInt64(body.count - headBytes.count), Self.checksum(body),
        ] { Self.append(value, to: &bytes) }
        bytes.append(contentsOf: body)
        let start = end
        try write(bytes)
        note(head, at: start + Self.prefixByteCount, headByteCount: headBytes.count)
    }

    private func note(_ head: Head, at headStart: Int, headByteCount: Int) {
        records.append(Record(headStart: headStart, headByteCount: headByteCount, rowCount: head.labels.count))
        for (layer, shape) in zip(layers, head.shapes) { rowShapes[layer] = Shape(shape) }
        rowCount += head.labels.count
        longestPath = max(longestPath, head.paths.map(\.unicodeScalars.count).max() ?? 0)
        nextBatch = head.batch + 1
    }

    private func write(_ bytes: [UInt8]) throws(GraftError) {
        var done = 0
        while done < bytes.count {
            let result = bytes.withUnsafeBytes { bytes in
                pwrite(descriptor, bytes.baseAddress.map { $0 + done }, bytes.count - done, off_t(end + done))
            }
            if result < 0 {
                if errno == EINTR { continue }
                throw Self.failure(path ?? target, "write \(bytes.count) bytes\(path == nil ? " beside it" : "")")
            }
            done += result
        }
        end += bytes.count
    }

    // MARK: Resuming

    /// Reads what is there up to the last whole record and cuts off the rest.
    private func resume(_ request: [String: String], size: Int, path: String) throws(GraftError) {
        let start = Self.magic.count + 16
        guard let prefix = read(at: 0, count: start), Array(prefix.prefix(Self.magic.count)) == Self.magic,
            let textCount = Int(exactly: Self.number(prefix, at: Self.magic.count)), textCount <= size - start,
            let text = read(at: start, count: textCount),
            Self.checksum(text) == Self.number(prefix, at: Self.magic.count + 8),
            let found = try? JSONDecoder().decode([String: String].self, from: Data(text))
        else {
            throw .invalidArgument(
                "\(path) is not the beginning of an extraction, or is damaged; without --resume it is begun anew")
        }
        let differing = Set(found.keys).union(request.keys).filter { found[$0] != request[$0] }.sorted()
        guard differing.isEmpty else {
            let list = differing.map { "\($0) \(found[$0] ?? "none") there, \(request[$0] ?? "none") asked for" }
            throw .invalidArgument(
                "\(path) belongs to another request: \(list.joined(separator: "; ")); repeat that request, or leave "
                    + "--resume out to begin anew")
        }
        end = start + textCount
        while let (head, headByteCount, recordByteCount) = record(at: end, size: size) {
            note(head, at: end + Self.prefixByteCount, headByteCount: headByteCount)
            end += recordByteCount
        }
        guard ftruncate(descriptor, off_t(end)) == 0 else { throw Self.failure(path, "cut it behind byte \(end)") }
    }

    /// The record at an offset, if it is whole.
    private func record(at offset: Int, size: Int) -> (head: Head, headByteCount: Int, recordByteCount: Int)? {
        guard let prefix = read(at: offset, count: Self.prefixByteCount),
            Self.number(prefix, at: 0) == Self.recordMagic,
            let headByteCount = Int(exactly: Self.number(prefix, at: 8)),
            let bodyByteCount = Int(exactly: Self.number(prefix, at: 16)),
            headByteCount <= size, bodyByteCount <= size,
            offset + Self.prefixByteCount + headByteCount + bodyByteCount <= size,
            let content = read(at: offset + Self.prefixByteCount, count: headByteCount + bodyByteCount),
            Self.checksum(content) == Self.number(prefix, at: 24),
            let head = try? JSONDecoder().decode(Head.self, from: Data(content.prefix(headByteCount))),
            head.shapes.count == layers.count, head.labels.count == head.paths.count,
            zip(layers, head.shapes).allSatisfy({ rowShapes[$0, default: Shape($1)] == Shape($1) }),
            bodyByteCount == 4 * head.labels.count * head.shapes.reduce(0, { $0 + $1.reduce(1, *) })
        else { return nil }
        return (head, headByteCount, Self.prefixByteCount + headByteCount + bodyByteCount)
    }

    // MARK: Reading back

    /// Hands out the rows of a layer in order, a piece at a time.
    func forEachPiece(of layer: String, _ body: ([Float]) throws -> Void) throws {
        guard let position = layers.firstIndex(of: layer) else { return }
        let widths = layers.map { rowShapes[$0]?.elementCount ?? 0 }
        for record in records {
            let before = widths[..<position].reduce(0, +) * record.rowCount
            let total = widths[position] * record.rowCount
            var done = 0
            while done < total {
                let count = min(Self.pieceCount, total - done)
                try body(try floats(at: record.bodyStart + 4 * (before + done), count: count))
                done += count
            }
        }
    }

    /// Hands out labels and paths in order, a batch at a time, with the rows of all layers where they are wanted.
    func forEachBatch(
        withRows: Bool, _ body: (_ labels: [Int64], _ paths: [String], _ rows: [[Float]]) throws -> Void
    ) throws {
        let widths = layers.map { rowShapes[$0]?.elementCount ?? 0 }
        for record in records {
            guard let bytes = read(at: record.headStart, count: record.headByteCount),
                let head = try? JSONDecoder().decode(Head.self, from: Data(bytes))
            else { throw lost }
            var rows: [[Float]] = []
            var start = record.bodyStart
            for width in withRows ? widths : [] {
                rows.append(try floats(at: start, count: width * record.rowCount))
                start += 4 * width * record.rowCount
            }
            try body(head.labels, head.paths, rows)
        }
    }

    private var lost: GraftError {
        .outputFailed(
            "\(path ?? "the file beside \(target)"): features that were written cannot be read back; extract them again"
        )
    }

    private func floats(at offset: Int, count: Int) throws(GraftError) -> [Float] {
        var isWhole = false
        let values = [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
            isWhole = read(into: UnsafeMutableRawBufferPointer(buffer), count: count * 4, at: offset)
            initialized = isWhole ? count : 0
        }
        guard isWhole else { throw lost }
        return values
    }

    private func read(at offset: Int, count: Int) -> [UInt8]? {
        var isWhole = false
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, initialized in
            isWhole = read(into: UnsafeMutableRawBufferPointer(buffer), count: count, at: offset)
            initialized = isWhole ? count : 0
        }
        return isWhole ? bytes : nil
    }

    private func read(into buffer: UnsafeMutableRawBufferPointer, count: Int, at offset: Int) -> Bool {
        var done = 0
        while done < count {
            let result = pread(descriptor, buffer.baseAddress.map { $0 + done }, count - done, off_t(offset + done))
            if result < 0, errno == EINTR { continue }
            guard result > 0 else { return false }
            done += result
        }
        return true
    }

    // MARK: Bytes

    private static func append(_ value: UInt64, to bytes: inout [UInt8]) {
        for shift in stride(from: 0, to: 64, by: 8) { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(shift))) }
    }

    private static func number(_ bytes: [UInt8], at offset: Int) -> UInt64 {
        (0..<8).reduce(0) { $0 | UInt64(bytes[offset + $1]) << UInt64(8 * $1) }
    }

    private static func checksum(_ bytes: [UInt8]) -> UInt64 {
        bytes.withUnsafeBytes { UInt64(graft_crc32(0, $0.baseAddress, $0.count)) }
    }

    /// Dictionaries of texts and lists of numbers and texts always have a JSON form.
    private static func json(_ value: some Encodable) -> [UInt8] {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        return (try? encoder.encode(value)).map(Array.init) ?? []
    }

    private static func failure(_ path: String, _ operation: String) -> GraftError {
        .outputFailed(
            "\(path): cannot \(operation): \(String(cString: strerror(errno))); choose a folder that is writable and has "
                + "space")
    }
}
