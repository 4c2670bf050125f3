/// A picture in memory: packed RGB, 8 bits per channel, rows from top to bottom.
public struct RGBImage: Sendable, Equatable {
    /// Pixels per row.
    public let width: Int
    /// Rows.
    public let height: Int
    /// `height × width × 3` bytes, R G B per pixel.
    public let pixels: [UInt8]

    /// Makes a picture; `pixels` must hold `width × height × 3` bytes, and neither side may be zero.
    public init(width: Int, height: Int, pixels: [UInt8]) {
        precondition(width > 0 && height > 0, "a picture of \(width) × \(height) pixels")
        precondition(pixels.count == width * height * 3, "\(pixels.count) bytes for \(width) × \(height) pixels")
        self.width = width
        self.height = height
        self.pixels = pixels
    }

    /// Makes a picture of one colour.
    public init(width: Int, height: Int, red: UInt8 = 0, green: UInt8 = 0, blue: UInt8 = 0) {
        var pixels = [UInt8](repeating: 0, count: width * height * 3)
        for index in 0..<(width * height) {
            pixels[3 * index] = red
            pixels[3 * index + 1] = green
            pixels[3 * index + 2] = blue
        }
        self.init(width: width, height: height, pixels: pixels)
    }
}
