import GraftTensor

/// The element types that tensors have in files.
enum ElementType: String, Hashable, Sendable {
    case float64, float32, float16, bfloat16
    case int64, int32, int16, int8, uint8, bool
    case uint16, uint32, uint64

    var byteCount: Int {
        switch self {
        case .float64, .int64, .uint64: 8
        case .float32, .int32, .uint32: 4
        case .float16, .bfloat16, .int16, .uint16: 2
        case .int8, .uint8, .bool: 1
        }
    }

    var isFloatingPoint: Bool {
        switch self {
        case .float64, .float32, .float16, .bfloat16: true
        default: false
        }
    }

    /// Bytes of one element after conversion to float32 or int64.
    var convertedByteCount: Int { isFloatingPoint ? 4 : 8 }

    /// Whether a tensor keeps its type when it is loaded.
    var isKept: Bool { self == .float32 || self == .int64 }
}

/// Extents and steps of a tensor in its storage, counted in elements; checked once, here.
struct StridedView {
    let shape: Shape
    let strides: [Int]
    let offset: Int
    /// Elements from the first to the last one touched, both included; 0 when there are none.
    let span: Int
    let isContiguous: Bool

    /// Checks a view against its storage.
    init(
        dimensions: [Int], strides: [Int], offset: Int, storageCount: Int, file: String, what: String, position: Int?,
        limits: ReadLimits
    ) throws(CheckpointError) {
        self.shape = try checkedShape(dimensions, file: file, what: what, position: position, limits: limits)
        func refuse(_ found: String, _ expected: String) -> CheckpointError {
            .malformed(file: file, what: what, offset: position, found: found, expected: expected)
        }
        guard strides.count == dimensions.count else {
            throw refuse("\(strides.count) strides", "one for each of \(dimensions.count) dimensions")
        }
        guard offset >= 0, strides.allSatisfy({ $0 >= 0 }) else {
            throw refuse("offset \(offset), strides \(strides)", "nothing negative")
        }
        self.strides = strides
        self.offset = offset
        guard shape.elementCount > 0 else {
            span = 0
            isContiguous = true
            return
        }
        var last = 0
        var contiguous = true
        var step = 1
        for (extent, stride) in zip(dimensions, strides).reversed() {
            let reach = stride.multipliedReportingOverflow(by: extent - 1)
            let sum = last.addingReportingOverflow(reach.partialValue)
            guard !reach.overflow, !sum.overflow else {
                throw refuse("shape \(shape) with strides \(strides)", "offsets that fit 63 bits")
            }
            last = sum.partialValue
            if extent != 1, stride != step { contiguous = false }
            step *= extent
        }
        guard offset < storageCount, last < storageCount - offset else {
            throw refuse(
                "shape \(shape), strides \(strides) and offset \(offset)", "a view inside \(storageCount) elements")
        }
        span = last + 1
        isContiguous = contiguous
    }
}

/// A shape whose element count and byte count fit, whatever the order in which they are multiplied.
func checkedShape(
    _ dimensions: [Int], file: String, what: String, position: Int?, limits: ReadLimits
) throws(CheckpointError) -> Shape {
    guard dimensions.count <= limits.rank else {
        throw .overLimit(file: file, what: what, found: "\(dimensions.count) dimensions", limit: "\(limits.rank)")
    }
    var product = 8
    for extent in dimensions {
        let next = product.multipliedReportingOverflow(by: max(extent, 1))
        guard extent >= 0, !next.overflow else {
            throw .malformed(
                file: file, what: what, offset: position, found: "shape \(dimensions)",
                expected: "no negative extent and a size in bytes that fits 63 bits")
        }
        product = next.partialValue
    }
    return Shape(dimensions)
}

/// Reads a view of a storage that lies in a source, converted to float32 or int64.
///
/// `storageStart` is where the storage begins; the caller has checked that the storage lies in the source.
func readTensor(
    _ view: StridedView, type: ElementType, bigEndian: Bool, source: ByteSource, storageStart: Int, what: String,
    budget: inout ByteBudget
) throws(CheckpointError) -> HostTensor {
    let count = view.shape.elementCount
    try budget.spend(count * type.convertedByteCount, on: what)
    guard count > 0 else {
        return HostTensor(shape: view.shape, storage: type.isFloatingPoint ? .float32([]) : .int64([]))
    }
    let start = storageStart + view.offset * type.byteCount
    if view.isContiguous, !bigEndian {
        // What nearly every weight is: straight from the file into its array.
        if type == .float32 {
            let values: [Float] = try makeArray(count: count) { (buffer) throws(CheckpointError) in
                try source.read(into: buffer, at: start, what: what)
            }
            return HostTensor(shape: view.shape, storage: .float32(values))
        }
        if type == .int64 {
            let values: [Int64] = try makeArray(count: count) { (buffer) throws(CheckpointError) in
                try source.read(into: buffer, at: start, what: what)
            }
            return HostTensor(shape: view.shape, storage: .int64(values))
        }
    }
    try budget.spend(view.span * type.byteCount, on: what)
    let raw = try source.bytes(at: start, count: view.span * type.byteCount, what: what)
    let indices = ElementIndices(view)
    let storage: HostTensor.Storage = raw.withUnsafeBytes { raw in
        func floats<Bits: FixedWidthInteger>(_: Bits.Type, _ convert: (Bits) -> Float) -> HostTensor.Storage {
            .float32(gather(raw, indices, bigEndian: bigEndian, convert))
        }
        func integers<Bits: FixedWidthInteger>(_: Bits.Type, _ convert: (Bits) -> Int64) -> HostTensor.Storage {
            .int64(gather(raw, indices, bigEndian: bigEndian, convert))
        }
        switch type {
        case .float64: return floats(UInt64.self) { Float(Double(bitPattern: $0)) }
        case .float32: return floats(UInt32.self) { Float(bitPattern: $0) }
        case .float16: return floats(UInt16.self, floatFromHalf)
        case .bfloat16: return floats(UInt16.self) { Float(bitPattern: UInt32($0) << 16) }
        case .int64: return integers(Int64.self) { $0 }
        case .int32: return integers(Int32.self) { Int64($0) }
        case .int16: return integers(Int16.self) { Int64($0) }
        case .int8: return integers(Int8.self) { Int64($0) }
        case .uint8: return integers(UInt8.self) { Int64($0) }
        case .bool: return integers(UInt8.self) { $0 == 0 ? 0 : 1 }
        case .uint16: return integers(UInt16.self) { Int64($0) }
        case .uint32: return integers(UInt32.self) { Int64($0) }
        case .uint64: return integers(UInt64.self) { Int64(truncatingIfNeeded: $0) }
        }
    }
    if type == .uint64, let values = storage.int64Values, let negative = values.first(where: { $0 < 0 }) {
        throw .unsupported(
            file: source.name, what: what, found: "the uint64 value \(UInt64(bitPattern: negative))",
            next: "store the tensor as int64")
    }
    return HostTensor(shape: view.shape, storage: storage)
}

extension HostTensor.Storage {
    var int64Values: [Int64]? {
        if case .int64(let values) = self { values } else { nil }
    }
}

/// Element positions of a view in row-major order, relative to its first element.
struct ElementIndices {
    private let extents: [Int]
    private let strides: [Int]
    let count: Int
    let isContiguous: Bool

    init(_ view: StridedView) {
        extents = view.shape.dimensions
        strides = view.strides
        count = view.shape.elementCount
        isContiguous = view.isContiguous
    }

    /// Calls `body` with each position.
    func forEach(_ body: (Int) -> Void) {
        if isContiguous {
            for index in 0..<count { body(index) }
            return
        }
        var counters = [Int](repeating: 0, count: extents.count)
        var position = 0
        for _ in 0..<count {
            body(position)
            var axis = extents.count - 1
            while axis >= 0 {
                counters[axis] += 1
                position += strides[axis]
                if counters[axis] < extents[axis] { break }
                position -= strides[axis] * extents[axis]
                counters[axis] = 0
                axis -= 1
            }
        }
    }
}

/// Converts the elements at the given positions.
private func gather<Bits: FixedWidthInteger, Element>(
    _ raw: UnsafeRawBufferPointer, _ indices: ElementIndices, bigEndian: Bool, _ convert: (Bits) -> Element
) -> [Element] {
    let width = MemoryLayout<Bits>.size
    return [Element](unsafeUninitializedCapacity: indices.count) { buffer, initialized in
        var next = 0
        indices.forEach { position in
            let bits = raw.loadUnaligned(fromByteOffset: position * width, as: Bits.self)
            buffer.initializeElement(at: next, to: convert(bigEndian ? bits.byteSwapped : bits))
            next += 1
        }
        initialized = next
    }
}

/// IEEE binary16 to binary32, exact; `Float16` does not exist on every platform that Swift runs on.
func floatFromHalf(_ bits: UInt16) -> Float {
    let sign = UInt32(bits & 0x8000) << 16
    let exponent = UInt32(bits >> 10) & 0x1F
    let fraction = UInt32(bits & 0x3FF)
    switch exponent {
    case 0:
        // Subnormal: fraction · 2^-24.
        let magnitude = Float(fraction) * 0x1p-24
        return Float(bitPattern: magnitude.bitPattern | sign)
    case 0x1F:
        return Float(bitPattern: sign | 0x7F80_0000 | (fraction << 13))
    default:
        return Float(bitPattern: sign | ((exponent + 112) << 23) | (fraction << 13))
    }
}
