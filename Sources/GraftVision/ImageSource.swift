/// Pictures from anywhere: an archive, a database, a generator.
///
/// ```swift
/// struct Discs: ImageSource {
///     func image(at index: Int) -> SourceImage { .pixels(drawDisc(radius: index)) }
/// }
/// let samples = (0..<100).map { ImageSample(path: "disc \($0)", label: $0 % 2) }
/// let discs = ImageDataset(source: Discs(), samples: samples, classes: ["even", "odd"])
/// ```
///
/// ``image(at:)`` is called on several decoding threads at once, in any order, once per image and epoch where nothing is
/// kept; it must give the same picture every time.
public protocol ImageSource: Sendable {
    /// The picture of the sample at a position of the data set that was made with this source.
    ///
    /// - Throws: an `ImageError`, which is passed on under the sample's name, or any error, whose text becomes the reason
    ///   of one. ``BadImagePolicy`` decides what that means for the run.
    func image(at index: Int) throws -> SourceImage

    /// A text that stands for the picture's content in caches on disk: another picture of any source must have another
    /// text, and a changed picture a new one. A picture that is in the cache is then not even asked for. nil, the
    /// default, takes the content itself.
    func identity(ofImageAt index: Int) -> String?
}

extension ImageSource {
    /// Pictures are told apart by their content.
    public func identity(ofImageAt index: Int) -> String? { nil }
}

/// A picture of an ``ImageSource``.
public enum SourceImage: Sendable, Equatable {
    /// A JPEG or PNG file of the file system.
    case file(String)
    /// The bytes of a JPEG or PNG file.
    case encoded([UInt8])
    /// Pixels.
    case pixels(RGBImage)
}
