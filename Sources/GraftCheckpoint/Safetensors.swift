import GraftTensor

/// Element types by their names in safetensors headers.
enum SafetensorsType: String {
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

    init(of storage: HostTensor.Storage) {
        switch storage {
        case .float32: self = .f32
        case .int64: self = .i64
        case .int32: self = .i32
        case .uint8: self = .u8
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

    private static let metadataName = "__metadata__"

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
        }
        entries.removeAll()
        return LoadedCheckpoint(
            state: state, metadata: metadata, container: .safetensors, originalTypes: originalTypes)
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
        let file = try AtomicFile(path: path)
        try write(state, metadata: metadata, into: file)
        try file.commit()
    }

    /// The same, and calls `beforeReplacing` when everything is written and the file is about to take its place.
    package static func write(
        _ state: StateDictionary, metadata: [String: String], to path: String, beforeReplacing: () throws -> Void
    ) throws {
        let file = try AtomicFile(path: path)
        try write(state, metadata: metadata, into: file)
        try beforeReplacing()
        try file.commit()
    }

    private static func write(
        _ state: StateDictionary, metadata: [String: String], into file: AtomicFile
    ) throws(CheckpointError) {
        guard state[metadataName] == nil else {
            throw .unsupported(
                file: file.path, what: "safetensors", found: "a tensor named \(metadataName)", next: "rename it")
        }
        let tensors = state.map { (name: $0.name, tensor: $0.tensor) }
        let ordered = [8, 4, 1].flatMap { width in
            tensors.filter { SafetensorsType(of: $0.tensor.storage).elementType.byteCount == width }
        }
        var ranges: [String: (begin: Int, end: Int)] = [:]
        var position = 0
        for (name, tensor) in ordered {
            let type = SafetensorsType(of: tensor.storage).elementType
            let end = position + tensor.shape.elementCount * type.byteCount
            ranges[name] = (position, end)
            position = end
        }
        var header = "{"
        if !metadata.isEmpty {
            let pairs = sortedByCodePoint(Array(metadata.keys)).map { key in
                "\(quoted(key)):\(quoted(metadata[key] ?? ""))"
            }
            header += "\(quoted(metadataName)):{\(pairs.joined(separator: ","))}"
        }
        for (name, tensor) in tensors {
            guard let range = ranges[name] else { continue }
            if header.utf8.count > 1 { header += "," }
            let shape = tensor.shape.dimensions.map(String.init).joined(separator: ",")
            header += "\(quoted(name)):{\"dtype\":\"\(SafetensorsType(of: tensor.storage).rawValue)\","
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
        for (_, tensor) in ordered {
            switch tensor.storage {
            case .float32(let values): try file.write(values)
            case .int64(let values): try file.write(values)
            case .int32(let values): try file.write(values)
            case .uint8(let values): try file.write(values)
            }
        }
    }

    /// A JSON string.
    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20:
                result += "\\u00" + hexadecimal([UInt8(scalar.value)])
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
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
