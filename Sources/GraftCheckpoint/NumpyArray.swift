import GraftTensor

/// An array of a `.npy` file or `.npz` archive.
package struct NumpyArray: Sendable, Equatable {
    /// The elements in row-major order.
    package enum Storage: Sendable, Equatable {
        case float32([Float])
        case int64([Int64])
        case int32([Int32])
        case uint8([UInt8])
        /// Unicode texts, numpy's `<U`; numpy drops NULs at the end of a text.
        case strings([String])

        /// The number of elements.
        package var count: Int {
            switch self {
            case .float32(let values): values.count
            case .int64(let values): values.count
            case .int32(let values): values.count
            case .uint8(let values): values.count
            case .strings(let values): values.count
            }
        }
    }

    /// The extents.
    package let shape: Shape
    /// The elements.
    package let storage: Storage

    /// Makes an array; `storage` must hold exactly as many elements as `shape` says.
    package init(shape: Shape, storage: Storage) {
        precondition(storage.count == shape.elementCount, "\(storage.count) elements for shape \(shape)")
        self.shape = shape
        self.storage = storage
    }

    /// A list of texts.
    package init(_ strings: [String]) {
        self.init(shape: [strings.count], storage: .strings(strings))
    }

    /// A list of labels.
    package init(_ values: [Int64]) {
        self.init(shape: [values.count], storage: .int64(values))
    }

    /// The same elements as a tensor.
    package init(_ tensor: HostTensor) {
        let storage: Storage =
            switch tensor.storage {
            case .float32(let values): .float32(values)
            case .int64(let values): .int64(values)
            case .int32(let values): .int32(values)
            case .uint8(let values): .uint8(values)
            }
        self.init(shape: tensor.shape, storage: storage)
    }

    /// The same elements as a tensor; nil for texts.
    package var tensor: HostTensor? {
        switch storage {
        case .float32(let values): HostTensor(shape: shape, storage: .float32(values))
        case .int64(let values): HostTensor(shape: shape, storage: .int64(values))
        case .int32(let values): HostTensor(shape: shape, storage: .int32(values))
        case .uint8(let values): HostTensor(shape: shape, storage: .uint8(values))
        case .strings: nil
        }
    }

    /// The elements as float32, or nil for another type.
    package var floats: [Float]? { if case .float32(let values) = storage { values } else { nil } }

    /// The elements as texts, or nil for another type.
    package var strings: [String]? { if case .strings(let values) = storage { values } else { nil } }

    /// Whole numbers of any width as int64, or nil for floats and texts.
    package var integers: [Int64]? {
        switch storage {
        case .int64(let values): values
        case .int32(let values): values.map(Int64.init)
        case .uint8(let values): values.map(Int64.init)
        case .float32, .strings: nil
        }
    }
}

/// The arrays of a `.npz` archive in the order of the file.
package struct NumpyArchive: Sendable {
    /// The names, without `.npy`.
    package private(set) var names: [String] = []
    private var arrays: [String: NumpyArray] = [:]

    init() {}

    /// The array of a name.
    package subscript(name: String) -> NumpyArray? { arrays[name] }

    mutating func append(_ name: String, _ array: NumpyArray) {
        names.append(name)
        arrays[name] = array
    }
}

/// numpy's file formats: `.npy` (version 1 to 3) and `.npz`, a zip of them.
package enum NumpyFile {
    /// A `.npy` file's name for its array where one is needed: what `numpy.savez` calls the first unnamed array.
    private static let unnamed = "arr_0"
    private static let magic: [UInt8] = [0x93, 0x4E, 0x55, 0x4D, 0x50, 0x59]

    static func recognizes(_ start: [UInt8]) -> Bool { start.starts(with: magic) }

    /// Reads a `.npz` archive, or a `.npy` file as an archive of one array named `arr_0`; the content says which.
    ///
    /// float16 and float64 become float32; bool becomes uint8; other whole numbers become int64, except int32 and
    /// uint8. Fortran order and big-endian numbers are converted. Python objects and structured types are errors.
    package static func read(
        _ path: String, limits: ReadLimits = .standard
    ) throws(CheckpointError) -> NumpyArchive {
        try read(try ByteSource(path: path), limits: limits)
    }

    /// Reads an archive that is already in memory; `name` stands for it in errors.
    package static func read(
        bytes: [UInt8], name: String, limits: ReadLimits = .standard
    ) throws(CheckpointError) -> NumpyArchive {
        try read(ByteSource(name: name, memory: bytes), limits: limits)
    }

    private static func read(_ source: ByteSource, limits: ReadLimits) throws(CheckpointError) -> NumpyArchive {
        let start = try source.bytes(at: 0, count: min(source.count, 8), what: "first bytes")
        var archive = NumpyArchive()
        var budget = ByteBudget(file: source.name, fileByteCount: source.count, limits: limits)
        if recognizes(start) {
            let location = StorageLocation(source: source, start: 0, byteCount: source.count)
            archive.append(unnamed, try readArray(location, limits: limits, budget: &budget))
            return archive
        }
        guard ZipArchive.recognizes(start) else {
            throw .unknownFormat(
                file: source.name, found: start.isEmpty ? "an empty file" : "the bytes \(hexadecimal(start))")
        }
        let zip = try ZipArchive(source, limits: limits)
        for entry in zip.entries {
            guard entry.name.hasSuffix(".npy") else {
                throw .unsupported(
                    file: source.name, what: "npz archive", found: "the entry \(entry.name)",
                    next: "write it with numpy.savez")
            }
            let location = try zip.open(entry)
            archive.append(
                String(entry.name.dropLast(4)), try readArray(location, limits: limits, budget: &budget))
        }
        return archive
    }

    // Weights.

    static func loadState(_ zip: ZipArchive, limits: ReadLimits) throws(CheckpointError) -> LoadedCheckpoint {
        var checkpoint = LoadedCheckpoint(
            state: StateDictionary(), metadata: [:], container: .npz, originalTypes: [:])
        var budget = ByteBudget(file: zip.source.name, fileByteCount: zip.source.count, limits: limits)
        for entry in zip.entries {
            try add(
                String(entry.name.dropLast(4)), try zip.open(entry), to: &checkpoint, limits: limits, budget: &budget)
        }
        guard !checkpoint.state.isEmpty else { throw .noTensors(file: zip.source.name, found: "no numbers") }
        return checkpoint
    }

    static func loadState(_ source: ByteSource, limits: ReadLimits) throws(CheckpointError) -> LoadedCheckpoint {
        var checkpoint = LoadedCheckpoint(
            state: StateDictionary(), metadata: [:], container: .npy, originalTypes: [:])
        var budget = ByteBudget(file: source.name, fileByteCount: source.count, limits: limits)
        let location = StorageLocation(source: source, start: 0, byteCount: source.count)
        try add(unnamed, location, to: &checkpoint, limits: limits, budget: &budget)
        guard !checkpoint.state.isEmpty else { throw .noTensors(file: source.name, found: "texts") }
        return checkpoint
    }

    private static func add(
        _ name: String, _ location: StorageLocation, to checkpoint: inout LoadedCheckpoint, limits: ReadLimits,
        budget: inout ByteBudget
    ) throws(CheckpointError) {
        let header = try Header(location, limits: limits)
        guard case .number(let type) = header.kind else {
            if name == CheckpointWriter.metadataName, header.view.shape.elementCount == 1 {
                let width: Int
                if case .unicode(let count) = header.kind {
                    width = count
                } else {
                    width = header.kind.elementByteCount
                }
                let texts = try readStrings(header, width: width, location: location, budget: &budget)
                checkpoint.metadata = try Safetensors.parseMetadata(
                    Array((texts.first ?? "").utf8), file: "\(location.source.name):\(name)")
                return
            }
            checkpoint.ignored.append(IgnoredEntry(name: name, description: "texts \(header.view.shape)"))
            return
        }
        checkpoint.state[name] = try readTensor(
            header.view, type: type, bigEndian: header.bigEndian, source: location.source,
            storageStart: header.dataStart, what: name, budget: &budget)
        guard !type.isKept else { return }
        checkpoint.originalTypes[name] = type.rawValue
        if limits.keepsElementTypes {
            checkpoint.originals[name] = try readOriginal(
                header.view, type: type, bigEndian: header.bigEndian, source: location.source,
                storageStart: header.dataStart, what: name, budget: &budget)
        }
    }

    // Arrays.

    private static func readArray(
        _ location: StorageLocation, limits: ReadLimits, budget: inout ByteBudget
    ) throws(CheckpointError) -> NumpyArray {
        let header = try Header(location, limits: limits)
        let shape = header.view.shape
        switch header.kind {
        case .number(let type):
            let tensor = try readTensor(
                header.view, type: type, bigEndian: header.bigEndian, source: location.source,
                storageStart: header.dataStart, what: "npy array", budget: &budget)
            guard let values = tensor.int64s else { return NumpyArray(tensor) }
            switch type {
            // The types of the file say that every value fits.
            case .int32:
                return NumpyArray(shape: shape, storage: .int32(values.map { Int32(truncatingIfNeeded: $0) }))
            case .uint8, .bool:
                return NumpyArray(shape: shape, storage: .uint8(values.map { UInt8(truncatingIfNeeded: $0) }))
            default: return NumpyArray(tensor)
            }
        case .unicode(let width), .bytes(let width):
            return NumpyArray(
                shape: shape,
                storage: .strings(try readStrings(header, width: width, location: location, budget: &budget)))
        }
    }

    private static func readStrings(
        _ header: Header, width: Int, location: StorageLocation, budget: inout ByteBudget
    ) throws(CheckpointError) -> [String] {
        let count = header.view.shape.elementCount
        let unit = header.kind.elementByteCount
        // A text takes 16 bytes even when it is empty: an array of a trillion empty ones must not pass.
        try budget.spend(
            count.multipliedReportingOverflow(by: unit + 16).overflow ? Int.max : count * (unit + 16), on: "texts")
        let raw = try location.source.bytes(at: header.dataStart, count: count * unit, what: "npy texts")
        var strings: [String] = []
        strings.reserveCapacity(count)
        var failure: CheckpointError?
        ElementIndices(header.view).forEach { index in
            guard failure == nil else { return }
            var scalars = String.UnicodeScalarView()
            // NULs at the end are padding.
            var trailing = 0
            for position in 0..<width {
                let value: UInt32
                if case .unicode = header.kind {
                    let bits = UInt32(raw.littleEndian(at: index * unit + position * 4, byteCount: 4))
                    value = header.bigEndian ? bits.byteSwapped : bits
                } else {
                    value = UInt32(raw[index * unit + position])
                }
                guard value != 0 else {
                    trailing += 1
                    continue
                }
                guard let scalar = UnicodeScalar(value) else {
                    failure = .malformed(
                        file: location.source.name, what: "npy text \(index)",
                        offset: header.dataStart + index * unit + position * 4, found: "the code \(value)",
                        expected: "a Unicode scalar")
                    return
                }
                for _ in 0..<trailing { scalars.append("\0") }
                trailing = 0
                scalars.append(scalar)
            }
            strings.append(String(scalars))
        }
        if let failure { throw failure }
        return strings
    }

    // Header.

    private enum Kind {
        case number(ElementType)
        /// `<U`: so many 4-byte code points.
        case unicode(Int)
        /// `|S`: so many bytes.
        case bytes(Int)

        var elementByteCount: Int {
            switch self {
            case .number(let type): type.byteCount
            case .unicode(let width): width * 4
            case .bytes(let width): width
            }
        }
    }

    private struct Header {
        let kind: Kind
        let bigEndian: Bool
        let view: StridedView
        let dataStart: Int

        init(_ location: StorageLocation, limits: ReadLimits) throws(CheckpointError) {
            let source = location.source
            var cursor = ByteCursor(source, from: location.start, to: location.start + location.byteCount)
            guard try cursor.bytes(6, what: "npy header") == NumpyFile.magic else {
                throw .malformed(
                    file: source.name, what: "npy array", offset: location.start, found: "another signature",
                    expected: "\\x93NUMPY")
            }
            let version = try cursor.byte("npy version")
            _ = try cursor.byte("npy version")
            guard (1...3).contains(version) else {
                throw .unsupported(
                    file: source.name, what: "npy array", found: "format version \(version)",
                    next: "write it with numpy.save")
            }
            let count = Int(try cursor.unsigned(version == 1 ? 2 : 4, what: "npy header length"))
            guard count <= 1 << 20 else {
                throw .overLimit(
                    file: source.name, what: "npy header", found: "\(count) bytes", limit: "\(1 << 20) bytes")
            }
            let headerStart = cursor.position
            let text = try cursor.bytes(count, what: "npy header")
            var scanner = NumpyHeaderScanner(text, file: source.name, base: headerStart)
            let fields = try scanner.fields(rank: limits.rank)
            (kind, bigEndian) = try Self.type(fields.type, file: source.name, position: headerStart)
            let dimensions = fields.shape
            let shape = try checkedShape(
                dimensions, file: source.name, what: "npy array", position: headerStart, limits: limits)
            var strides = [Int](repeating: 1, count: dimensions.count)
            var step = 1
            for axis in fields.isFortranOrder ? Array(dimensions.indices) : dimensions.indices.reversed() {
                strides[axis] = step
                step *= max(1, dimensions[axis])
            }
            view = try StridedView(
                dimensions: dimensions, strides: strides, offset: 0, storageCount: shape.elementCount,
                file: source.name, what: "npy array", position: headerStart, limits: limits)
            dataStart = cursor.position
            let byteCount = shape.elementCount.multipliedReportingOverflow(by: kind.elementByteCount)
            guard !byteCount.overflow, byteCount.partialValue == cursor.remaining else {
                throw .malformed(
                    file: source.name, what: "npy array", offset: dataStart, found: "\(cursor.remaining) bytes",
                    expected: "those of shape \(shape) and type \(fields.type)")
            }
        }

        private static func type(
            _ text: String, file: String, position: Int
        ) throws(CheckpointError) -> (Kind, Bool) {
            var rest = Substring(text)
            var bigEndian = false
            if let first = rest.first, "<>|=".contains(first) {
                bigEndian = first == ">"
                rest.removeFirst()
            }
            if let first = rest.first, first == "U" || first == "S", let width = Int(rest.dropFirst()), width >= 0,
                width <= 1 << 20
            {
                return (first == "U" ? .unicode(width) : .bytes(width), bigEndian)
            }
            let types: [Substring: ElementType] = [
                "f2": .float16, "f4": .float32, "f8": .float64, "i1": .int8, "i2": .int16, "i4": .int32, "i8": .int64,
                "u1": .uint8, "u2": .uint16, "u4": .uint32, "u8": .uint64, "b1": .bool,
            ]
            guard let type = types[rest] else {
                throw .unsupported(
                    file: file, what: "npy array", found: "element type \(text)",
                    next: "save numbers or texts, without Python objects")
            }
            return (.number(type), bigEndian)
        }
    }
}

/// Reads the Python dictionary of a `.npy` header: `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
private struct NumpyHeaderScanner {
    private let bytes: [UInt8]
    private let file: String
    private let base: Int
    private var index = 0

    init(_ bytes: [UInt8], file: String, base: Int) {
        self.bytes = bytes
        self.file = file
        self.base = base
    }

    private func refuse(_ expected: String) -> CheckpointError {
        let rest = String(decoding: bytes.dropFirst(index).prefix(12), as: UTF8.self)
        return .malformed(
            file: file, what: "npy header", offset: base + index, found: rest.isEmpty ? "its end" : "'\(rest)'",
            expected: expected)
    }

    private mutating func skipSpace() {
        while index < bytes.count, [0x20, 0x0A, 0x09].contains(bytes[index]) { index += 1 }
    }

    private mutating func take(_ text: String) -> Bool {
        skipSpace()
        guard bytes.dropFirst(index).starts(with: text.utf8) else { return false }
        index += text.utf8.count
        return true
    }

    private mutating func expect(_ text: String) throws(CheckpointError) {
        guard take(text) else { throw refuse(text) }
    }

    private mutating func string() throws(CheckpointError) -> String {
        skipSpace()
        guard index < bytes.count, bytes[index] == 0x27 || bytes[index] == 0x22 else { throw refuse("a text") }
        let quote = bytes[index]
        let start = index + 1
        guard let end = bytes[start...].firstIndex(of: quote) else { throw refuse("a closing quote") }
        index = end + 1
        return String(decoding: bytes[start..<end], as: UTF8.self)
    }

    private mutating func number() throws(CheckpointError) -> Int {
        skipSpace()
        let digits = bytes.dropFirst(index).prefix { (0x30...0x39).contains($0) }
        guard let value = Int(String(decoding: digits, as: UTF8.self)) else { throw refuse("a whole number") }
        index += digits.count
        // Python 2 wrote long numbers so.
        _ = take("L")
        return value
    }

    mutating func fields(
        rank: Int
    ) throws(CheckpointError) -> (type: String, isFortranOrder: Bool, shape: [Int]) {
        var type: String?
        var isFortranOrder: Bool?
        var shape: [Int]?
        try expect("{")
        while !take("}") {
            let key = try string()
            try expect(":")
            switch key {
            case "descr" where type == nil:
                if take("[") {
                    throw .unsupported(
                        file: file, what: "npy array", found: "a structured type", next: "save plain numbers or texts")
                }
                type = try string()
            case "fortran_order" where isFortranOrder == nil:
                if take("True") {
                    isFortranOrder = true
                } else {
                    try expect("False")
                    isFortranOrder = false
                }
            case "shape" where shape == nil:
                try expect("(")
                var values: [Int] = []
                while !take(")") {
                    values.append(try number())
                    guard values.count <= rank else { throw refuse("at most \(rank) dimensions") }
                    guard take(",") else {
                        try expect(")")
                        break
                    }
                }
                shape = values
            default: throw refuse("descr, fortran_order and shape, once each")
            }
            guard take(",") else {
                try expect("}")
                break
            }
        }
        skipSpace()
        guard index == bytes.count else { throw refuse("the end of the header") }
        guard let type, let isFortranOrder, let shape else { throw refuse("descr, fortran_order and shape") }
        return (type, isFortranOrder, shape)
    }
}
