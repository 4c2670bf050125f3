/// The extents of a tensor, outermost dimension first.
///
/// A scalar has no dimensions and one element. Activations are `[N, C, H, W]`, convolution weights
/// `[K, C/groups, R, S]`, linear weights `[out, in]`, as in PyTorch.
public struct Shape: Hashable, Sendable, ExpressibleByArrayLiteral, CustomStringConvertible {
    /// The extents, outermost first.
    public let dimensions: [Int]

    /// Makes a shape of the given extents; none may be negative.
    public init(_ dimensions: [Int]) {
        precondition(dimensions.allSatisfy { $0 >= 0 }, "negative extent in \(dimensions)")
        self.dimensions = dimensions
    }

    /// Makes a shape from a literal such as `[2, 3, 224, 224]`.
    public init(arrayLiteral elements: Int...) {
        self.init(elements)
    }

    /// The number of dimensions.
    public var rank: Int { dimensions.count }

    /// The product of the extents; 1 for a scalar.
    public var elementCount: Int { dimensions.reduce(1, *) }

    /// The extent of one dimension.
    public subscript(index: Int) -> Int { dimensions[index] }

    /// The extents as PyTorch prints them, for example `[64, 3, 7, 7]`.
    public var description: String { "[" + dimensions.map(String.init).joined(separator: ", ") + "]" }
}
