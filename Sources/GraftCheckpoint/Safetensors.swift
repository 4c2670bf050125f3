import GraftTensor

/// Element types by their names in safetensors headers.
package enum SafetensorsType: String, Sendable {
    case f64 = "F64"
    case f32 = "F32"
    case f16 = "F16"
    case bf16 = "BF16"
    case i64 = "I64"
    case i32 = "I32"
    case i16 = "I16"
    case i8 = "I8"
    case u8 = "U8"
    case bool = "BOOL"
    case u16 = "U16"
    case u32 = "U32"
    case u64 = "U64"

    init(of storage: HostTensor.Storage) { self.init(ElementType(of: storage)) }

    init(_ type: ElementType) {
        switch type {
        case .float64: self = .f64
        case .float32: self = .f32
        case .float16: self = .f16
        case .bfloat16: self = .bf16
        case .int64: self = .i64
        case .int32: self = .i32
        case .int16: self = .i16
        case .int8: self = .i8
        case .uint8: self = .u8
        case .bool: self = .bool
        case .uint16: self = .u16
        case .uint32: self = .u32
        case .uint64: self = .u64
        }
    }

    var elementType: ElementType {
        switch self {
        case .f64: .float64
        case .f32: .float32
        case .f16: .float16
        case .bf16: .bfloat16
        case .i64: .int64
        case .i32: .int32
        case .i16: .int16
        case .i8: .int8
        case .u8: .uint8
        case .bool: .bool
        case .u16: .uint16
        case .u32: .uint32
        case .u64: .uint64
        }
    }
}

/// The safetensors format: an 8-byte header length, a JSON header, the raw tensors.
package enum Safetensors {
    private struct Entry {
        var name: String
        var type: SafetensorsType
        var dimensions: [Int]
        var begin: Int
        var end: Int
        var position: Int
    }

    private static var metadataName: String { CheckpointWriter.metadataName }

    /// Whether the first bytes are those of a safetensors file.
    static func recognizes(_ start: [UInt8]) -> Bool {
        guard start.count >= 9 else { return false }
        let headerCount = start.littleEndian(at: 0, byteCount: 8)
        return headerCount >= 2 && headerCount <= 1 << 40 && start[8] == UInt8(ascii: "{")
    }

    /// Reads every tensor.
    ///
    /// As strict as the format's own library: header of at most 100 MB that begins with `{`, no duplicate names, data
    /// offsets that follow one another without hole or overlap to the last byte, element type times shape equal to
    /// the byte count.
    static func load(_ source: ByteSource, limits: ReadLimits) throws(CheckpointError) -> LoadedCheckpoint {
        let file = source.name
        let prefix = try source.bytes(at: 0, count: 8, what: "safetensors header length")
        let headerCount = prefix.littleEndian(at: 0, byteCount: 8)
        guard headerCount <= UInt64(limits.headerByteCount) else {
            throw .overLimit(
                file: file, what: "safetensors header", found: "\(headerCount) bytes",
                limit: "\(limits.headerByteCount) bytes")
        }
        let dataStart = 8 + Int(headerCount)
        let header = try source.bytes(at: 8, count: Int(headerCount), what: "safetensors header")
        guard header.first == UInt8(ascii: "{") else {
            throw .malformed(
                file: file, what: "safetensors header", offset: 8, found: "no opening brace", expected: "{")
        }
        var (entries, metadata) = try parse(header, file: file, limits: limits)

        // The data must be covered exactly, so that nothing hides in a file and nothing is read twice.
        var position = 0
        for entry in entries.sorted(by: { ($0.begin, $0.end) < ($1.begin, $1.end) }) {
            guard entry.begin == position, entry.end >= entry.begin else {
                throw .malformed(
                    file: file, what: "data offsets of \(entry.name)", offset: entry.position,
                    found: "\(entry.begin) to \(entry.end)",
                    expected: "a range that begins at \(position), without hole or overlap")
            }
            position = entry.end
        }
        let available = source.count - dataStart
        guard position <= available else {
            throw .truncated(
                file: file, what: "tensor data", offset: dataStart, needed: "\(position)", available: "\(available)")
        }
        guard position == available else {
            throw .malformed(
                file: file, what: "tensor data", offset: dataStart + position,
                found: "\(available - position) bytes that belong to no tensor", expected: "the end of the file")
        }

        var budget = ByteBudget(file: file, fileByteCount: source.count, limits: limits)
        var state = StateDictionary()
        var originalTypes: [String: String] = [:]
        var originals: [String: TensorContent] = [:]
        for entry in entries {
            let type = entry.type.elementType
            let view = try StridedView.rowMajor(
                entry.dimensions, file: file, what: entry.name, position: entry.position, limits: limits)
            let byteCount = view.shape.elementCount * type.byteCount
            guard byteCount == entry.end - entry.begin else {
                throw .malformed(
                    file: file, what: "tensor \(entry.name)", offset: entry.position,
                    found: "\(entry.end - entry.begin) bytes",
                    expected: "\(byteCount) for \(entry.type.rawValue) \(view.shape)")
            }
            state[entry.name] = try readTensor(
                view, type: type, bigEndian: false, source: source, storageStart: dataStart + entry.begin,
                what: entry.name, budget: &budget)
            if !type.isKept { originalTypes[entry.name] = type.rawValue }
            if !type.isKept, limits.keepsElementTypes {
                originals[entry.name] = try readOriginal(
                    view, type: type, bigEndian: false, source: source, storageStart: dataStart + entry.begin,
                    what: entry.name, budget: &budget)
            }
        }
        entries.removeAll()
        return LoadedCheckpoint(
            state: state, metadata: metadata, container: .safetensors, originalTypes: originalTypes,
            originals: originals)
    }

    private static func parse(
        _ header: [UInt8], file: String, limits: ReadLimits
    ) throws(CheckpointError) -> ([Entry], [String: String]) {
        var scanner = HeaderScanner(header, file: file, base: 8)
        var entries: [Entry] = []
        var names: Set<String> = []
        var metadata: [String: String] = [:]
        try scanner.expect("{")
        if !scanner.take("}") {
            repeat {
                let position = scanner.position
                let name = try scanner.string()
                guard names.insert(name).inserted else { throw scanner.refuse("\(name) twice", "each name once") }
                try scanner.expect(":")
                if name == metadataName {
                    metadata = try parseMetadata(&scanner)
                } else {
                    entries.append(try parseEntry(&scanner, name: name, position: position, file: file, limits: limits))
                }
            } while scanner.take(",")
            try scanner.expect("}")
        }
        try scanner.expectEnd()
        return (entries, metadata)
    }

    /// The texts of a JSON object that stands alone.
    static func parseMetadata(_ text: [UInt8], file: String) throws(CheckpointError) -> [String: String] {
        var scanner = HeaderScanner(text, file: file, base: 0)
        let metadata = try parseMetadata(&scanner)
        try scanner.expectEnd()
        return metadata
    }

    private static func parseMetadata(_ scanner: inout HeaderScanner) throws(CheckpointError) -> [String: String] {
        var metadata: [String: String] = [:]
        try scanner.expect("{")
        if scanner.take("}") { return metadata }
        repeat {
            let key = try scanner.string()
            try scanner.expect(":")
            let value = try scanner.string()
            guard metadata.updateValue(value, forKey: key) == nil else {
                throw scanner.refuse("\(key) twice in \(metadataName)", "each name once")
            }
        } while scanner.take(",")
        try scanner.expect("}")
        return metadata
    }

    private static func parseEntry(
        _ scanner: inout HeaderScanner, name: String, position: Int, file: String, limits: ReadLimits
    ) throws(CheckpointError) -> Entry {
        var type: SafetensorsType?
        var dimensions: [Int]?
        var offsets: [Int]?
        try scanner.expect("{")
        repeat {
            let key = try scanner.string()
            try scanner.expect(":")
            switch key {
            case "dtype" where type == nil:
                let text = try scanner.string()
                guard let known = SafetensorsType(rawValue: text) else {
                    throw .unsupported(
                        file: file, what: "tensor \(name)", found: "element type \(text)",
                        next: "convert it to F32 before saving")
                }
                type = known
            case "shape" where dimensions == nil: dimensions = try scanner.numbers(limit: limits.rank)
            case "data_offsets" where offsets == nil: offsets = try scanner.numbers(limit: 2)
            default: throw scanner.refuse("\(key) in \(name)", "dtype, shape and data_offsets, once each")
            }
        } while scanner.take(",")
        try scanner.expect("}")
        guard let type, let dimensions, let offsets, offsets.count == 2 else {
            throw scanner.refuse("an incomplete entry for \(name)", "dtype, shape and two data_offsets")
        }
        return Entry(
            name: name, type: type, dimensions: dimensions, begin: offsets[0], end: offsets[1], position: position)
    }

    /// Writes a state dictionary atomically; the same dictionary gives the same bytes.
    ///
    /// Tensors stand in the order of the dictionary, names and offsets of metadata sorted, and the header is padded
    /// with spaces so that the data begins at a multiple of 8 bytes; 8-byte integers come first so that every tensor
    /// is aligned.
    package static func write(
        _ state: StateDictionary, metadata: [String: String] = [:], to path: String
    ) throws(CheckpointError) {
        try write(state.map { (name: $0.name, content: TensorContent($0.tensor)) }, metadata: metadata, to: path)
    }

    /// Writes tensors of any element type, in the order given; the same tensors give the same bytes.
    static func write(
        _ tensors: [(name: String, content: TensorContent)], metadata: [String: String], to path: String
    ) throws(CheckpointError) {
        let file = try AtomicFile(path: path)
        try write(tensors, metadata: metadata, into: file)
        try file.commit()
    }

    /// The same, and calls `beforeReplacing` when everything is written and the file is about to take its place.
    package static func write(
        _ state: StateDictionary, metadata: [String: String], to path: String, beforeReplacing: () throws -> Void
    ) throws {
        let file = try AtomicFile(path: path)
        try write(
            state.map { (name: $0.name, content: TensorContent($0.tensor)) }, metadata: metadata, into: file)
        try beforeReplacing()
        try file.commit()
    }

    private static func write(
        _ tensors: [(name: String, content: TensorContent)], metadata: [String: String], into file: AtomicFile
    ) throws(CheckpointError) {
        let order = try writeHeader(
            tensors.map {
                Description(name: $0.name, type: SafetensorsType($0.content.type), shape: $0.content.shape)
            }, metadata: metadata, into: file)
        let contents = Dictionary(tensors.map { ($0.name, $0.content) }) { first, _ in first }
        for description in order { try contents[description.name]?.write(to: file) }
    }

    /// What the header says of a tensor, besides where its data lie.
    package struct Description: Sendable {
        package var name: String
        package var type: SafetensorsType
        package var shape: Shape

        package init(name: String, type: SafetensorsType, shape: Shape) {
            self.name = name
            self.type = type
            self.shape = shape
        }

        var byteCount: Int { shape.elementCount * type.elementType.byteCount }
    }

    /// Writes the header; the data must follow in the order that is returned.
    fileprivate static func writeHeader(
        _ tensors: [Description], metadata: [String: String], into file: AtomicFile
    ) throws(CheckpointError) -> [Description] {
        guard !tensors.contains(where: { $0.name == metadataName }) else {
            throw .unsupported(
                file: file.path, what: "safetensors", found: "a tensor named \(metadataName)", next: "rename it")
        }
        let ordered = [8, 4, 2, 1].flatMap { width in tensors.filter { $0.type.elementType.byteCount == width } }
        var ranges: [String: (begin: Int, end: Int)] = [:]
        var position = 0
        for tensor in ordered {
            ranges[tensor.name] = (position, position + tensor.byteCount)
            position += tensor.byteCount
        }
        var header = "{"
        if !metadata.isEmpty {
            header += "\(CheckpointWriter.quoted(metadataName)):\(CheckpointWriter.text(of: metadata))"
        }
        for tensor in tensors {
            guard let range = ranges[tensor.name] else { continue }
            if header.utf8.count > 1 { header += "," }
            let shape = tensor.shape.dimensions.map(String.init).joined(separator: ",")
            header += "\(CheckpointWriter.quoted(tensor.name)):{\"dtype\":\"\(tensor.type.rawValue)\","
            header += "\"shape\":[\(shape)],\"data_offsets\":[\(range.begin),\(range.end)]}"
        }
        header += "}"
        header += String(repeating: " ", count: (8 - header.utf8.count % 8) % 8)
        guard header.utf8.count <= ReadLimits.standard.headerByteCount else {
            throw .unsupported(
                file: file.path, what: "safetensors", found: "a header of \(header.utf8.count) bytes",
                next: "write less metadata")
        }
        try file.write([UInt64(header.utf8.count).littleEndian])
        try file.write(header)
        return ordered
    }
}

/// Writes a safetensors file whose tensors need not fit in memory: shapes first, then the data in pieces.
package final class SafetensorsWriter {
    private let file: AtomicFile
    private var missingByteCount: Int
    /// The tensors in the order in which their data must be appended.
    package let order: [Safetensors.Description]

    /// Begins a file; the folder of `path` must exist. The file appears under its name with `finish`.
    package init(
        path: String, tensors: [Safetensors.Description], metadata: [String: String] = [:]
    ) throws(CheckpointError) {
        file = try AtomicFile(path: path)
        order = try Safetensors.writeHeader(tensors, metadata: metadata, into: file)
        missingByteCount = order.reduce(0) { $0 + $1.byteCount }
    }

    /// Adds elements, of the type of the tensor they belong to.
    package func append<Element: BitwiseCopyable>(_ values: [Element]) throws(CheckpointError) {
        missingByteCount -= values.count * MemoryLayout<Element>.stride
        try file.write(values)
    }

    /// Puts the file in its place.
    package func finish() throws(CheckpointError) {
        guard missingByteCount == 0 else {
            throw .unsupported(
                file: file.path, what: "safetensors", found: "data of which \(missingByteCount) bytes are missing",
                next: "append as many elements as the shapes say")
        }
        try file.commit()
    }
}

extension StridedView {
    /// A dense row-major view of a storage that holds exactly its elements.
    static func rowMajor(
        _ dimensions: [Int], file: String, what: String, position: Int?, limits: ReadLimits
    ) throws(CheckpointError) -> StridedView {
        let shape = try checkedShape(dimensions, file: file, what: what, position: position, limits: limits)
        var strides = [Int](repeating: 1, count: dimensions.count)
        for axis in dimensions.indices.dropLast().reversed() {
            strides[axis] = strides[axis + 1] * max(1, dimensions[axis + 1])
        }
        return try StridedView(
            dimensions: dimensions, strides: strides, offset: 0, storageCount: shape.elementCount, file: file,
            what: what, position: position, limits: limits)
    }
}
