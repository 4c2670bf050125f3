/// An ONNX model as its file has it (onnx.proto of ONNX 1.20, as far as inference needs it).
struct ONNXModel {
    struct OperatorSet {
        var domain = ""
        var version: Int64 = 0
    }

    var producer = ""
    var operatorSets: [OperatorSet] = []
    var graph: ONNXGraph?
    var metadata: [String: String] = [:]
    var functionCount = 0
}

/// Nodes in execution order, constants, and what goes in and out.
struct ONNXGraph {
    var nodes: [ONNXNode] = []
    var initializers: [ONNXTensor] = []
    var sparseInitializerCount = 0
    var inputs: [ONNXValue] = []
    var outputs: [ONNXValue] = []
}

struct ONNXNode {
    var name = ""
    var operation = ""
    var domain = ""
    var inputs: [String] = []
    var outputs: [String] = []
    var attributes: [String: ONNXAttribute] = [:]
    /// The modules around the node, outermost first, as PyTorch's newer exporter writes them; empty where unknown.
    var scopes: [String] = []

    /// The value of an output that is there.
    var output: String { outputs.first ?? "" }
}

/// A node's attribute; kinds that no operator here takes are `other`.
enum ONNXAttribute {
    case number(Int64)
    case float(Float)
    case text(String)
    case numbers([Int64])
    case floats([Float])
    case tensor(ONNXTensor)
    case other
}

/// A constant; its elements stay in the file until they are asked for.
struct ONNXTensor {
    /// ONNX's numbers of element types.
    enum DataType: Int64 {
        case float = 1
        case uint8 = 2
        case int8 = 3
        case int32 = 6
        case int64 = 7
        case bool = 9
        case float16 = 10
        case double = 11
        case bfloat16 = 16
    }

    var name = ""
    var dimensions: [Int64] = []
    /// The rank that it has in the file where nodes have given it more axes.
    var storedRank: Int?
    var dataType: Int64 = 0
    var raw: Range<Int>?
    var floats: [Float] = []
    /// Of `int32_data` and `int64_data`.
    var numbers: [Int64] = []
    /// `double_data` and others that are not read.
    var hasOtherData = false
    var isExternal = false
}

/// An input or output of the graph.
struct ONNXValue {
    enum Dimension: Hashable {
        case known(Int64)
        case named(String)
    }

    var name = ""
    /// ONNX's number of the element type; 0 where it is not given.
    var elementType: Int64 = 0
    /// nil where no shape is given.
    var shape: [Dimension]?
}

extension ONNXModel {
    /// Reads a model.
    init(_ file: ProtobufFile) throws(ONNXError) {
        var reader = ProtobufReader(file, 0..<file.bytes.count, "ONNX model")
        while let (field, value) = try reader.next() {
            switch field {
            case 2: producer = try reader.text(value)
            case 7:
                guard graph == nil else { throw reader.refuse("a second graph", "one") }
                graph = try ONNXGraph(file, reader.range(value))
            case 8: operatorSets.append(try Self.operatorSet(file, reader.range(value)))
            case 14:
                let (key, text) = try ONNXModel.entry(file, reader.range(value))
                metadata[key] = text
            case 25: functionCount += 1
            default: break
            }
        }
    }

    private static func operatorSet(_ file: ProtobufFile, _ range: Range<Int>) throws(ONNXError) -> OperatorSet {
        try file.countMessage()
        var reader = ProtobufReader(file, range, "operator set")
        var result = OperatorSet()
        while let (field, value) = try reader.next() {
            switch field {
            case 1: result.domain = try reader.text(value)
            case 2: result.version = try reader.number(value)
            default: break
            }
        }
        return result
    }

    /// A `StringStringEntryProto`.
    static func entry(_ file: ProtobufFile, _ range: Range<Int>) throws(ONNXError) -> (key: String, value: String) {
        try file.countMessage()
        var reader = ProtobufReader(file, range, "metadata")
        var result = (key: "", value: "")
        while let (field, value) = try reader.next() {
            switch field {
            case 1: result.key = try reader.text(value)
            case 2: result.value = try reader.text(value)
            default: break
            }
        }
        return result
    }
}

extension ONNXGraph {
    init(_ file: ProtobufFile, _ range: Range<Int>) throws(ONNXError) {
        var reader = ProtobufReader(file, range, "ONNX graph")
        while let (field, value) = try reader.next() {
            switch field {
            case 1: nodes.append(try ONNXNode(file, reader.range(value)))
            case 5: initializers.append(try ONNXTensor(file, reader.range(value)))
            case 11: inputs.append(try ONNXValue(file, reader.range(value)))
            case 12: outputs.append(try ONNXValue(file, reader.range(value)))
            case 15: sparseInitializerCount += 1
            default: break
            }
        }
    }
}

extension ONNXNode {
    fileprivate init(_ file: ProtobufFile, _ range: Range<Int>) throws(ONNXError) {
        try file.countMessage()
        var reader = ProtobufReader(file, range, "ONNX node")
        while let (field, value) = try reader.next() {
            switch field {
            case 1: inputs.append(try reader.text(value))
            case 2: outputs.append(try reader.text(value))
            case 3: name = try reader.text(value)
            case 4: operation = try reader.text(value)
            case 5:
                let (name, attribute) = try ONNXAttribute.named(file, reader.range(value))
                guard attributes.updateValue(attribute, forKey: name) == nil else {
                    throw reader.refuse("the attribute \(name) twice", "each once")
                }
            case 7: domain = try reader.text(value)
            case 9:
                let (key, text) = try ONNXModel.entry(file, reader.range(value))
                if key == "pkg.torch.onnx.name_scopes" { scopes = Self.names(inList: text) }
            default: break
            }
            guard inputs.count <= 4096, outputs.count <= 4096 else {
                throw .overLimit(file: file.name, what: "ONNX node \(name)", found: "more inputs", limit: "4096")
            }
        }
    }

    /// The texts of a Python list of texts: `['', 'layer4', 'layer4.1']`.
    private static func names(inList text: String) -> [String] {
        text.split(separator: "'", omittingEmptySubsequences: false).enumerated().compactMap { index, part in
            index.isMultiple(of: 2) ? nil : String(part)
        }
    }

    func number(_ name: String, default fallback: Int64) -> Int64 {
        if case .number(let value)? = attributes[name] { value } else { fallback }
    }

    func float(_ name: String, default fallback: Float) -> Float {
        if case .float(let value)? = attributes[name] { value } else { fallback }
    }

    func numbers(_ name: String) -> [Int64]? {
        if case .numbers(let values)? = attributes[name] { values } else { nil }
    }

    func text(_ name: String) -> String? {
        if case .text(let value)? = attributes[name] { value } else { nil }
    }
}

extension ONNXAttribute {
    fileprivate static func named(
        _ file: ProtobufFile, _ range: Range<Int>
    ) throws(ONNXError) -> (String, ONNXAttribute) {
        try file.countMessage()
        var reader = ProtobufReader(file, range, "ONNX attribute")
        var name = ""
        var type: Int64 = 0
        var number: Int64 = 0
        var float: Float = 0
        var bytes: Range<Int>?
        var numbers: [Int64] = []
        var floats: [Float] = []
        var tensor: ONNXTensor?
        while let (field, value) = try reader.next() {
            switch field {
            case 1: name = try reader.text(value)
            case 2: float = try reader.float(value)
            case 3: number = try reader.number(value)
            case 4: bytes = try reader.range(value)
            case 5: tensor = try ONNXTensor(file, reader.range(value))
            case 7: try reader.floats(value, into: &floats)
            case 8: try reader.numbers(value, into: &numbers)
            case 20: type = try reader.number(value)
            default: break
            }
        }
        let attribute: ONNXAttribute =
            switch type {
            case 1: .float(float)
            case 2: .number(number)
            case 3: .text(bytes.map { String(decoding: file.bytes[$0], as: UTF8.self) } ?? "")
            case 4: tensor.map { .tensor($0) } ?? .other
            case 6: .floats(floats)
            case 7: .numbers(numbers)
            default: .other
            }
        return (name, attribute)
    }
}

extension ONNXTensor {
    init(_ file: ProtobufFile, _ range: Range<Int>) throws(ONNXError) {
        try file.countMessage()
        var reader = ProtobufReader(file, range, "ONNX tensor")
        while let (field, value) = try reader.next() {
            switch field {
            case 1:
                try reader.numbers(value, into: &dimensions)
                guard dimensions.count <= 64 else {
                    throw .overLimit(
                        file: file.name, what: "ONNX tensor \(name)", found: "\(dimensions.count) dimensions",
                        limit: "64")
                }
            case 2: dataType = try reader.number(value)
            case 4: try reader.floats(value, into: &floats)
            case 5, 7: try reader.numbers(value, into: &numbers)
            case 8: name = try reader.text(value)
            case 9: raw = try reader.range(value)
            case 6, 10, 11: hasOtherData = true
            case 13: isExternal = true
            case 14: if try reader.number(value) != 0 { isExternal = true }
            default: break
            }
        }
    }

    /// The number of elements, which must fit the file: a tensor of `count` elements takes at least as many bytes.
    func elementCount(_ file: ProtobufFile) throws(ONNXError) -> Int {
        var product: Int64 = 1
        for extent in dimensions {
            let next = product.multipliedReportingOverflow(by: extent)
            guard extent >= 0, !next.overflow, next.partialValue <= Int64(file.bytes.count) else {
                throw refuse(file, "shape \(dimensions)", "a shape whose elements fit the file")
            }
            product = next.partialValue
        }
        return Int(product)
    }

    private func refuse(_ file: ProtobufFile, _ found: String, _ expected: String) -> ONNXError {
        .malformed(file: file.name, what: "ONNX tensor \(name)", found: found, expected: expected)
    }

    private func check(_ file: ProtobufFile) throws(ONNXError) {
        guard !isExternal else {
            throw .unsupported(
                file: file.name, what: "ONNX tensor \(name)", found: "its data in another file",
                next: "save the model as one file, for example torch.onnx.export(…, external_data=False)")
        }
    }

    /// The elements as float32; other floating-point types are converted.
    func values(_ file: ProtobufFile) throws(ONNXError) -> [Float] {
        try check(file)
        let count = try elementCount(file)
        let type = DataType(rawValue: dataType)
        guard let raw else {
            switch type {
            case .float where floats.count == count: return floats
            case .float16 where numbers.count == count, .bfloat16 where numbers.count == count:
                return numbers.map { Self.float(bits: UInt16(truncatingIfNeeded: $0), isBrain: type == .bfloat16) }
            case .float, .float16, .bfloat16:
                throw refuse(
                    file, "\(max(floats.count, numbers.count)) elements for shape \(dimensions)", "\(count)")
            case .double, .uint8, .int8, .int32, .int64, .bool, nil: throw unreadable(file)
            }
        }
        switch type {
        case .float: try sized(raw.count, 4, count, file)
        case .double: try sized(raw.count, 8, count, file)
        case .float16, .bfloat16: try sized(raw.count, 2, count, file)
        case .uint8, .int8, .int32, .int64, .bool, nil: throw unreadable(file)
        }
        return file.bytes.withUnsafeBytes { all in
            let bytes = UnsafeRawBufferPointer(rebasing: all[raw])
            return [Float](unsafeUninitializedCapacity: count) { buffer, initialized in
                for index in 0..<count {
                    let value: Float =
                        switch type {
                        case .double: Float(bytes.loadUnaligned(fromByteOffset: 8 * index, as: Double.self))
                        case .float16, .bfloat16:
                            Self.float(
                                bits: bytes.loadUnaligned(fromByteOffset: 2 * index, as: UInt16.self),
                                isBrain: type == .bfloat16)
                        default: bytes.loadUnaligned(fromByteOffset: 4 * index, as: Float.self)
                        }
                    buffer.initializeElement(at: index, to: value)
                }
                initialized = count
            }
        }
    }

    /// The elements as whole numbers.
    func integers(_ file: ProtobufFile) throws(ONNXError) -> [Int64] {
        try check(file)
        let count = try elementCount(file)
        let type = DataType(rawValue: dataType)
        guard type == .int64 || type == .int32 else { throw unreadable(file) }
        guard let raw else {
            guard numbers.count == count else {
                throw refuse(file, "\(numbers.count) elements for shape \(dimensions)", "\(count)")
            }
            return numbers
        }
        try sized(raw.count, type == .int64 ? 8 : 4, count, file)
        return file.bytes.withUnsafeBytes { all in
            let bytes = UnsafeRawBufferPointer(rebasing: all[raw])
            return (0..<count).map {
                type == .int64
                    ? bytes.loadUnaligned(fromByteOffset: 8 * $0, as: Int64.self)
                    : Int64(bytes.loadUnaligned(fromByteOffset: 4 * $0, as: Int32.self))
            }
        }
    }

    /// Whether its elements are whole numbers, as shapes and axes are.
    var isInteger: Bool { dataType == DataType.int64.rawValue || dataType == DataType.int32.rawValue }

    private func sized(_ byteCount: Int, _ width: Int, _ count: Int, _ file: ProtobufFile) throws(ONNXError) {
        guard byteCount == count * width else {
            throw refuse(file, "\(byteCount) bytes for shape \(dimensions)", "\(count * width)")
        }
    }

    private func unreadable(_ file: ProtobufFile) -> ONNXError {
        .unsupported(
            file: file.name, what: "ONNX tensor \(name)",
            found: hasOtherData ? "data of an unusual kind" : "element type \(dataType)",
            next: "export the model in float32, not quantized")
    }

    /// IEEE binary16 or bfloat16 to binary32.
    private static func float(bits: UInt16, isBrain: Bool) -> Float {
        if isBrain { return Float(bitPattern: UInt32(bits) << 16) }
        let sign = UInt32(bits & 0x8000) << 16
        let exponent = UInt32(bits >> 10) & 0x1F
        let fraction = UInt32(bits & 0x3FF)
        switch exponent {
        case 0: return Float(bitPattern: (Float(fraction) * 0x1p-24).bitPattern | sign)
        case 0x1F: return Float(bitPattern: sign | 0x7F80_0000 | (fraction << 13))
        default: return Float(bitPattern: sign | ((exponent + 112) << 23) | (fraction << 13))
        }
    }
}

extension ONNXValue {
    fileprivate init(_ file: ProtobufFile, _ range: Range<Int>) throws(ONNXError) {
        try file.countMessage()
        var reader = ProtobufReader(file, range, "ONNX value")
        while let (field, value) = try reader.next() {
            switch field {
            case 1: name = try reader.text(value)
            case 2: try readType(file, reader.range(value))
            default: break
            }
        }
    }

    private mutating func readType(_ file: ProtobufFile, _ range: Range<Int>) throws(ONNXError) {
        var type = ProtobufReader(file, range, "type of \(name)")
        while let (field, value) = try type.next() {
            guard field == 1 else { continue }
            var tensor = ProtobufReader(file, try type.range(value), "type of \(name)")
            while let (field, value) = try tensor.next() {
                switch field {
                case 1: elementType = try tensor.number(value)
                case 2: shape = try Self.dimensions(file, tensor.range(value), name)
                default: break
                }
            }
        }
    }

    private static func dimensions(
        _ file: ProtobufFile, _ range: Range<Int>, _ name: String
    ) throws(ONNXError) -> [Dimension] {
        var result: [Dimension] = []
        var reader = ProtobufReader(file, range, "shape of \(name)")
        while let (_, value) = try reader.next() {
            try file.countMessage()
            var dimension = ProtobufReader(file, try reader.range(value), "shape of \(name)")
            var found = Dimension.named("")
            while let (field, value) = try dimension.next() {
                switch field {
                case 1: found = .known(try dimension.number(value))
                case 2: found = .named(try dimension.text(value))
                default: break
                }
            }
            result.append(found)
        }
        return result
    }
}
