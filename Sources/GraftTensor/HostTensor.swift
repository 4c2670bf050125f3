/// A dense row-major array in host memory.
///
/// It is what files hold, what is written to a device and what is read back. It computes nothing.
public struct HostTensor: Sendable, Equatable {
    /// The elements, by type.
    public enum Storage: Sendable, Equatable {
        /// IEEE binary32.
        case float32([Float])
        /// 64-bit integers, for counters such as `num_batches_tracked` and for labels in files.
        case int64([Int64])
        /// 32-bit integers, for labels and pooling indices on a device.
        case int32([Int32])
        /// Bytes, for decoded pixels.
        case uint8([UInt8])

        /// The number of elements.
        public var count: Int {
            switch self {
            case .float32(let values): values.count
            case .int64(let values): values.count
            case .int32(let values): values.count
            case .uint8(let values): values.count
            }
        }
    }

    /// The extents.
    public let shape: Shape
    /// The elements in row-major order.
    public var storage: Storage

    /// Makes a tensor; `storage` must hold exactly as many elements as `shape` says.
    public init(shape: Shape, storage: Storage) {
        precondition(storage.count == shape.elementCount, "\(storage.count) elements for shape \(shape)")
        self.shape = shape
        self.storage = storage
    }

    /// Makes a float32 tensor.
    public init(_ shape: Shape, _ values: [Float]) {
        self.init(shape: shape, storage: .float32(values))
    }

    /// Makes a float32 tensor in which every element has the same value.
    public init(_ shape: Shape, repeating value: Float) {
        self.init(shape, [Float](repeating: value, count: shape.elementCount))
    }

    /// The elements of a float32 tensor, or nil for another type.
    public var floats: [Float]? {
        if case .float32(let values) = storage { values } else { nil }
    }

    /// Whether every element is a finite number; elements of other types than float32 are.
    public var isFinite: Bool {
        guard case .float32(let values) = storage else { return true }
        return values.withUnsafeBufferPointer { values in
            // No early end within a part: a loop without branches is done in vectors, at memory's rate.
            let part = 1 << 14
            for first in stride(from: 0, to: values.count, by: part) {
                var isInfinite: UInt32 = 0
                for index in first..<min(first + part, values.count) {
                    // An exponent of ones carries into the sign's place.
                    isInfinite |= (values[index].bitPattern & 0x7F80_0000) &+ 0x0080_0000
                }
                if isInfinite & 0x8000_0000 != 0 { return false }
            }
            return true
        }
    }

    /// The elements of an int64 tensor, or nil for another type.
    public var int64s: [Int64]? {
        if case .int64(let values) = storage { values } else { nil }
    }

    /// The elements of an int32 tensor, or nil for another type.
    public var int32s: [Int32]? {
        if case .int32(let values) = storage { values } else { nil }
    }

    /// The elements of a uint8 tensor, or nil for another type.
    public var bytes: [UInt8]? {
        if case .uint8(let values) = storage { values } else { nil }
    }

    /// The same elements under another shape of equal element count.
    public func reshaped(_ shape: Shape) -> HostTensor {
        HostTensor(shape: shape, storage: storage)
    }
}
