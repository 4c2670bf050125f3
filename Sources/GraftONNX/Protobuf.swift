/// Reads protobuf's wire format (protobuf.dev/programming-guides/encoding): fields of one message, in order.
///
/// Messages are ranges of one array; nothing is copied before it is known to lie inside its message.
struct ProtobufReader {
    enum Value {
        case number(UInt64)
        case fixed64(UInt64)
        case fixed32(UInt32)
        /// Bytes, a text, a message or packed numbers: where they lie.
        case bytes(Range<Int>)
    }

    let file: ProtobufFile
    let what: String
    private(set) var position: Int
    let end: Int

    init(_ file: ProtobufFile, _ range: Range<Int>, _ what: String) {
        self.file = file
        self.what = what
        position = range.lowerBound
        end = range.upperBound
    }

    func refuse(_ found: String, _ expected: String) -> ONNXError {
        .malformed(file: file.name, what: "\(what) at byte \(position)", found: found, expected: expected)
    }

    private mutating func varint() throws(ONNXError) -> UInt64 {
        var value: UInt64 = 0
        var shift: UInt64 = 0
        while true {
            guard position < end else { throw refuse("the end of the message", "the rest of a number") }
            let byte = file.bytes[position]
            position += 1
            guard shift < 63 || byte <= 1 else { throw refuse("a number of more than 64 bits", "fewer") }
            value |= UInt64(byte & 0x7F) << shift
            if byte & 0x80 == 0 { return value }
            shift += 7
        }
    }

    private mutating func little(_ count: Int) throws(ONNXError) -> UInt64 {
        guard end - position >= count else { throw refuse("\(end - position) bytes", "\(count)") }
        defer { position += count }
        return (0..<count).reduce(0) { $0 | UInt64(file.bytes[position + $1]) << UInt64(8 * $1) }
    }

    /// The next field; nil at the end of the message.
    mutating func next() throws(ONNXError) -> (field: Int, value: Value)? {
        guard position < end else { return nil }
        let tag = try varint()
        guard tag >> 3 >= 1, tag >> 3 <= 0x1FFF_FFFF else { throw refuse("field number \(tag >> 3)", "1 to 2^29 − 1") }
        let field = Int(tag >> 3)
        switch tag & 7 {
        case 0: return (field, .number(try varint()))
        case 1: return (field, .fixed64(try little(8)))
        case 5: return (field, .fixed32(UInt32(truncatingIfNeeded: try little(4))))
        case 2:
            let count = try varint()
            guard count <= UInt64(end - position) else {
                throw refuse("a field \(field) of \(count) bytes", "at most \(end - position)")
            }
            defer { position += Int(count) }
            return (field, .bytes(position..<position + Int(count)))
        default: throw refuse("wire type \(tag & 7) of field \(field)", "0, 1, 2 or 5")
        }
    }

    // MARK: Values

    func text(_ value: Value) throws(ONNXError) -> String {
        guard case .bytes(let range) = value else { throw refuse("a number", "a text") }
        guard let text = String(validating: file.bytes[range], as: UTF8.self) else {
            throw refuse("bytes that are not UTF-8", "a text")
        }
        return text
    }

    func range(_ value: Value) throws(ONNXError) -> Range<Int> {
        guard case .bytes(let range) = value else { throw refuse("a number", "bytes or a message") }
        return range
    }

    func number(_ value: Value) throws(ONNXError) -> Int64 {
        guard case .number(let bits) = value else { throw refuse("another type", "a number") }
        return Int64(bitPattern: bits)
    }

    func float(_ value: Value) throws(ONNXError) -> Float {
        guard case .fixed32(let bits) = value else { throw refuse("another type", "a float") }
        return Float(bitPattern: bits)
    }

    /// Numbers of a repeated field, one or packed.
    func numbers(_ value: Value, into list: inout [Int64]) throws(ONNXError) {
        switch value {
        case .number(let bits): list.append(Int64(bitPattern: bits))
        case .bytes(let range):
            var packed = ProtobufReader(file, range, what)
            while packed.position < packed.end { list.append(Int64(bitPattern: try packed.varint())) }
        case .fixed32, .fixed64: throw refuse("another type", "numbers")
        }
    }

    /// Floats of a repeated field, one or packed.
    func floats(_ value: Value, into list: inout [Float]) throws(ONNXError) {
        switch value {
        case .fixed32(let bits): list.append(Float(bitPattern: bits))
        case .bytes(let range):
            guard range.count.isMultiple(of: 4) else {
                throw refuse("\(range.count) bytes of floats", "a multiple of 4")
            }
            var packed = ProtobufReader(file, range, what)
            list.reserveCapacity(list.count + range.count / 4)
            while packed.position < packed.end {
                list.append(Float(bitPattern: UInt32(truncatingIfNeeded: try packed.little(4))))
            }
        case .number, .fixed64: throw refuse("another type", "floats")
        }
    }
}

/// A file in memory, and how many messages may still be made of it.
final class ProtobufFile {
    let name: String
    let bytes: [UInt8]
    /// Nodes, attributes, tensors and other messages together.
    static let messageLimit = 500_000
    private var messageCount = 0

    init(name: String, bytes: [UInt8]) {
        self.name = name
        self.bytes = bytes
    }

    /// Counts one more message.
    func countMessage() throws(ONNXError) {
        messageCount += 1
        guard messageCount <= Self.messageLimit else {
            throw .overLimit(
                file: name, what: "ONNX model", found: "more than \(Self.messageLimit) messages",
                limit: "\(Self.messageLimit)")
        }
    }
}

/// Writes protobuf's wire format: small fields as bytes, large arrays of floats as they are in memory.
struct ProtobufWriter {
    private(set) var pieces: [ONNXPiece] = []
    private var bytes: [UInt8] = []
    private(set) var byteCount = 0

    private mutating func add(_ new: some Collection<UInt8>) {
        bytes.append(contentsOf: new)
        byteCount += new.count
    }

    private mutating func varint(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            add(CollectionOfOne(UInt8(truncatingIfNeeded: rest) | 0x80))
            rest >>= 7
        }
        add(CollectionOfOne(UInt8(rest)))
    }

    private mutating func tag(_ field: Int, _ wireType: UInt64) { varint(UInt64(field) << 3 | wireType) }

    mutating func number(_ field: Int, _ value: Int) {
        tag(field, 0)
        varint(UInt64(bitPattern: Int64(value)))
    }

    mutating func float(_ field: Int, _ value: Float) {
        tag(field, 5)
        let bits = value.bitPattern
        add((0..<4).map { UInt8(truncatingIfNeeded: bits >> (8 * $0)) })
    }

    mutating func text(_ field: Int, _ value: String) { raw(field, Array(value.utf8)) }

    mutating func raw(_ field: Int, _ value: [UInt8]) {
        tag(field, 2)
        varint(UInt64(value.count))
        add(value)
    }

    /// A bytes field of floats, little-endian as in memory; they are not copied.
    mutating func raw(_ field: Int, floats: [Float]) {
        tag(field, 2)
        varint(UInt64(floats.count * 4))
        pieces.append(.bytes(bytes))
        pieces.append(.floats(floats))
        bytes = []
        byteCount += floats.count * 4
    }

    mutating func message(_ field: Int, _ build: (inout ProtobufWriter) -> Void) {
        var inner = ProtobufWriter()
        build(&inner)
        tag(field, 2)
        varint(UInt64(inner.byteCount))
        guard !inner.pieces.isEmpty else {
            add(inner.bytes)
            return
        }
        byteCount += inner.byteCount
        pieces.append(.bytes(bytes))
        pieces += inner.pieces
        bytes = inner.bytes
    }

    /// Everything written so far, in order.
    var finished: [ONNXPiece] { pieces + [.bytes(bytes)] }
}

/// A part of a file that is written.
package enum ONNXPiece: Sendable, Equatable {
    case bytes([UInt8])
    /// Little-endian, as in memory.
    case floats([Float])
}
