import Foundation

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#elseif canImport(Darwin)
    import Darwin
#endif

/// CRC-32C (Castagnoli, RFC 3720), and the mask that TFRecord files put over it.
package enum CRC32C {
    private static let table: [UInt32] = (0..<256).map { index in
        (0..<8).reduce(UInt32(index)) { value, _ in value & 1 == 1 ? value >> 1 ^ 0x82F6_3B78 : value >> 1 }
    }

    /// The checksum of bytes.
    package static func checksum(_ bytes: some Sequence<UInt8>) -> UInt32 {
        ~bytes.reduce(~UInt32(0)) { $0 >> 8 ^ table[Int(UInt8(truncatingIfNeeded: $0) ^ $1)] }
    }

    /// The checksum as TFRecord stores it: rotated right by 15 bits, plus a constant, so that the checksum of data that
    /// hold checksums stays meaningful.
    package static func masked(_ bytes: some Sequence<UInt8>) -> UInt32 {
        let value = checksum(bytes)
        return (value >> 15 | value << 17) &+ 0xA282_EAD8
    }
}

/// One record of a TFRecord file: length, its checksum, content, its checksum; numbers little-endian.
package enum EventRecord {
    /// The bytes of a record.
    package static func framed(_ content: [UInt8]) -> [UInt8] {
        let length = littleEndian(UInt64(content.count))
        return length + littleEndian(CRC32C.masked(length)) + content + littleEndian(CRC32C.masked(content))
    }

    private static func littleEndian(_ value: some FixedWidthInteger) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }
}

/// The messages of `tensorboard/compat/proto/event.proto` that a scalar log needs, in protocol buffers' wire format.
package enum EventMessage {
    /// The first record of every file.
    package static func fileVersion(time: Double) -> [UInt8] {
        var message = WireFields()
        message.double(1, time)
        message.text(3, "brain.Event:2")
        return message.bytes
    }

    /// Says that what earlier files hold from this step on is void.
    package static func sessionStart(step: Int, time: Double) -> [UInt8] {
        var log = WireFields()
        log.integer(1, 1)
        var message = WireFields()
        message.double(1, time)
        message.integer(2, step)
        message.bytes(7, log.bytes)
        return message.bytes
    }

    /// Values of one step.
    package static func scalars(_ values: [(tag: String, value: Double)], step: Int, time: Double) -> [UInt8] {
        var summary = WireFields()
        for entry in values {
            var value = WireFields()
            value.text(1, entry.tag)
            value.float(2, Float(entry.value))
            summary.bytes(1, value.bytes)
        }
        var message = WireFields()
        message.double(1, time)
        message.integer(2, step)
        message.bytes(5, summary.bytes)
        return message.bytes
    }
}

/// Fields in protocol buffers' wire format, in the order they are added.
private struct WireFields {
    private(set) var bytes: [UInt8] = []

    private mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    private mutating func key(_ number: Int, wireType: UInt64) { varint(UInt64(number) << 3 | wireType) }

    mutating func integer(_ number: Int, _ value: Int) {
        key(number, wireType: 0)
        varint(UInt64(bitPattern: Int64(value)))
    }

    mutating func double(_ number: Int, _ value: Double) {
        key(number, wireType: 1)
        withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes += $0 }
    }

    mutating func float(_ number: Int, _ value: Float) {
        key(number, wireType: 5)
        withUnsafeBytes(of: value.bitPattern.littleEndian) { bytes += $0 }
    }

    mutating func bytes(_ number: Int, _ content: [UInt8]) {
        key(number, wireType: 2)
        varint(UInt64(content.count))
        bytes += content
    }

    mutating func text(_ number: Int, _ content: String) { bytes(number, Array(content.utf8)) }
}

/// A file of scalars that TensorBoard follows while it grows: records are appended, never rewritten.
package final class EventFile {
    /// The file.
    package let path: String
    private let handle: FileHandle
    private var pending: [UInt8] = []
    private var lastFlush = Date()

    /// Seconds after which records are written out even if nobody asks for it.
    private static let flushInterval = 2.0

    /// Begins a file.
    ///
    /// - Parameters:
    ///   - folder: an existing folder. Files of earlier runs in it are removed, unless their run goes on.
    ///   - resumingAtStep: the run's next step when it goes on after an interruption: files of its earlier parts stay,
    ///     and what they hold from this step on is declared void.
    /// - Throws: ``GraftError/outputFailed(_:)``.
    package init(folder: String, resumingAtStep: Int? = nil) throws {
        let time = Date().timeIntervalSince1970
        let manager = FileManager.default
        var stamp = Int(time)
        do {
            for name in try manager.contentsOfDirectory(atPath: folder) where name.hasPrefix(Self.prefix) {
                if resumingAtStep == nil {
                    try manager.removeItem(atPath: "\(folder)/\(name)")
                } else if let earlier = Int(name.dropFirst(Self.prefix.count).prefix { $0 != "." }) {
                    // TensorBoard reads the files in the order of their names.
                    stamp = max(stamp, earlier + 1)
                }
            }
        } catch {
            throw GraftError.outputFailed(
                "the event files of an earlier run in \(folder) cannot be replaced: \(systemReason(of: error))")
        }
        path = "\(folder)/\(Self.prefix)\(stamp).graft.\(getpid()).0"
        guard manager.createFile(atPath: path, contents: nil), let handle = FileHandle(forWritingAtPath: path) else {
            throw GraftError.outputFailed("\(path) cannot be created: \(String(cString: strerror(errno)))")
        }
        self.handle = handle
        add(EventMessage.fileVersion(time: time))
        if let resumingAtStep { add(EventMessage.sessionStart(step: resumingAtStep, time: time)) }
        try flush()
    }

    private static let prefix = "events.out.tfevents."

    private func add(_ message: [UInt8]) { pending += EventRecord.framed(message) }

    /// Adds values of one step; they reach the file within seconds, or with ``flush()``.
    package func add(_ values: [(tag: String, value: Double)], step: Int) throws {
        let now = Date()
        add(EventMessage.scalars(values, step: step, time: now.timeIntervalSince1970))
        if now.timeIntervalSince(lastFlush) >= Self.flushInterval { try flush() }
    }

    /// Writes what has been added.
    package func flush() throws {
        lastFlush = Date()
        guard !pending.isEmpty else { return }
        do {
            try handle.write(contentsOf: Data(pending))
        } catch {
            throw GraftError.outputFailed("\(path) cannot be written: \(systemReason(of: error))")
        }
        pending = []
    }
}
