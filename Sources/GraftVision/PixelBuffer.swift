/// Bytes that are reused from picture to picture, with slack behind them for vector loads past the last pixel.
final class PixelBuffer {
    /// Bytes that may be read, not interpreted, behind the requested ones.
    static let slackByteCount = 32

    /// What a buffer keeps between pictures; a single giant picture should not hold its memory to the end.
    private static let keptByteCount = 64 << 20

    private(set) var base: UnsafeMutablePointer<UInt8>
    private var capacity: Int

    init() {
        capacity = 0
        base = UnsafeMutablePointer<UInt8>.allocate(capacity: Self.slackByteCount)
        base.initialize(repeating: 0, count: Self.slackByteCount)
    }

    deinit { base.deallocate() }

    /// Makes room for a number of bytes; what was in the buffer is lost if it has to grow.
    func reserve(_ byteCount: Int) -> UnsafeMutablePointer<UInt8> {
        if byteCount > capacity || (capacity > Self.keptByteCount && byteCount <= Self.keptByteCount) {
            base.deallocate()
            base = UnsafeMutablePointer<UInt8>.allocate(capacity: byteCount + Self.slackByteCount)
            capacity = byteCount
        }
        // The slack takes part in products with zero, so its value is free, but it has to be a value.
        (base + byteCount).update(repeating: 0, count: Self.slackByteCount)
        return base
    }
}

/// A rectangle of packed RGB pixels in memory that someone else owns.
struct PixelView {
    let base: UnsafePointer<UInt8>
    let width: Int
    let height: Int
    /// Bytes from one row to the next.
    let stride: Int

    /// A rectangle within this one.
    func cropped(x: Int, y: Int, width: Int, height: Int) -> PixelView {
        PixelView(base: base + y * stride + x * 3, width: width, height: height, stride: stride)
    }
}

/// The buffers one thread needs to go from a file to a network's input.
///
/// Not `Sendable`: each worker has its own.
public final class ImageWorkspace {
    let file = PixelBuffer()
    let decoded = PixelBuffer()
    let upright = PixelBuffer()
    let intermediate = PixelBuffer()
    /// The weights of the last few sizes: pictures of one source often share theirs.
    let weights = WeightsCache()
    /// Whether resampling may use what only some processors have; for tests of the portable code.
    var allowsVectorExtensions = true

    /// Makes an empty workspace; its buffers grow with the pictures.
    public init() {}
}
