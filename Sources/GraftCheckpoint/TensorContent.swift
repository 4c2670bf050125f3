import CSystemSupport
import GraftTensor

/// A tensor with the element type that it has in a file: what a conversion carries from one container to another.
package struct TensorContent: Sendable, Equatable {
    private enum Elements: Sendable, Equatable {
        case host(HostTensor.Storage)
        /// Little-endian, row-major.
        case bytes([UInt8])
    }

    /// The extents.
    package let shape: Shape
    let type: ElementType
    private let elements: Elements

    /// A tensor of host memory; its elements are shared, not copied.
    package init(_ tensor: HostTensor) {
        shape = tensor.shape
        type = ElementType(of: tensor.storage)
        elements = .host(tensor.storage)
    }

    init(shape: Shape, type: ElementType, bytes: [UInt8]) {
        self.shape = shape
        self.type = type
        elements = .bytes(bytes)
    }

    /// The element type's name, as PyTorch calls it: `float32`.
    package var typeName: String { type.rawValue }

    /// Bytes of all elements.
    package var byteCount: Int { shape.elementCount * type.byteCount }

    /// The same elements under another shape of equal element count.
    package func reshaped(_ shape: Shape) -> TensorContent {
        switch elements {
        case .host(let storage): TensorContent(HostTensor(shape: shape, storage: storage))
        case .bytes(let bytes): TensorContent(shape: shape, type: type, bytes: bytes)
        }
    }

    /// Appends the raw elements to a file, little-endian and row-major.
    func write(to file: AtomicFile) throws(CheckpointError) {
        switch elements {
        case .host(.float32(let values)): try file.write(values)
        case .host(.int64(let values)): try file.write(values)
        case .host(.int32(let values)): try file.write(values)
        case .host(.uint8(let values)): try file.write(values)
        case .bytes(let bytes): try file.write(bytes)
        }
    }

    /// The CRC-32 of the raw elements, continuing another one.
    func crc32(after start: UInt32 = 0) -> UInt32 {
        func crc<Element: BitwiseCopyable>(_ values: [Element]) -> UInt32 {
            values.withUnsafeBytes { graft_crc32(start, $0.baseAddress, $0.count) }
        }
        return switch elements {
        case .host(.float32(let values)): crc(values)
        case .host(.int64(let values)): crc(values)
        case .host(.int32(let values)): crc(values)
        case .host(.uint8(let values)): crc(values)
        case .bytes(let bytes): crc(bytes)
        }
    }

    /// bfloat16 as the float32 of the same values, for formats that have none.
    func widenedFromBFloat16() -> TensorContent {
        guard type == .bfloat16, case .bytes(let bytes) = elements else { return self }
        let values = stride(from: 0, to: bytes.count, by: 2).map { index in
            Float(bitPattern: UInt32(bytes.littleEndian(at: index, byteCount: 2)) << 16)
        }
        return TensorContent(HostTensor(shape, values))
    }
}

extension ElementType {
    init(of storage: HostTensor.Storage) {
        switch storage {
        case .float32: self = .float32
        case .int64: self = .int64
        case .int32: self = .int32
        case .uint8: self = .uint8
        }
    }
}

/// Reads a view of a storage with its own element type, as little-endian row-major bytes.
func readOriginal(
    _ view: StridedView, type: ElementType, bigEndian: Bool, source: ByteSource, storageStart: Int, what: String,
    budget: inout ByteBudget
) throws(CheckpointError) -> TensorContent {
    let width = type.byteCount
    let count = view.shape.elementCount
    try budget.spend(count * width, on: what)
    guard count > 0 else { return TensorContent(shape: view.shape, type: type, bytes: []) }
    let start = storageStart + view.offset * width
    try budget.spend(view.span * width, on: what)
    let raw = try source.bytes(at: start, count: view.span * width, what: what)
    if view.isContiguous, !bigEndian || width == 1 {
        return TensorContent(shape: view.shape, type: type, bytes: raw)
    }
    var bytes: [UInt8] = []
    bytes.reserveCapacity(count * width)
    ElementIndices(view).forEach { position in
        let element = raw[position * width..<(position + 1) * width]
        if bigEndian { bytes.append(contentsOf: element.reversed()) } else { bytes.append(contentsOf: element) }
    }
    return TensorContent(shape: view.shape, type: type, bytes: bytes)
}
