import Foundation
import GraftTensor

/// From a decoded picture to a network's input, as torchvision does it.
///
/// With `resize` the picture's shorter side becomes that long, the longer one `Int(resize · long / short)`, and the
/// centre square of `imageSize` is cut out (`Resize(resize)`, `CenterCrop(imageSize)`); where the picture is smaller
/// than the square, black is added around it. Without `resize` the picture is stretched to the square. Then each
/// channel is divided by 255, the mean subtracted, and the result divided by the standard deviation.
public struct ImagePreprocessing: Sendable, Hashable {
    /// The shorter side after resizing, in pixels; nil stretches to `imageSize × imageSize`.
    public let resize: Int?
    /// The side of the network's input, in pixels.
    public let imageSize: Int
    /// How resizing interpolates.
    public let interpolation: Interpolation
    /// The mean of red, green and blue, for values in 0 … 1.
    public let mean: [Float]
    /// The standard deviation of red, green and blue, for values in 0 … 1.
    public let standardDeviation: [Float]
    /// What to do with a camera's orientation.
    public let exif: ExifPolicy

    /// The mean of ImageNet's pictures.
    public static let imageNetMean: [Float] = [0.485, 0.456, 0.406]
    /// The standard deviation of ImageNet's pictures.
    public static let imageNetStandardDeviation: [Float] = [0.229, 0.224, 0.225]

    /// A value that makes no preprocessing.
    public struct InvalidValue: Error, Sendable, Equatable, CustomStringConvertible {
        /// What, found against expected.
        public let description: String
    }

    /// The largest side accepted; more is a slip of the keyboard.
    private static let largestSide = 1 << 16

    /// Makes a preprocessing.
    ///
    /// - Throws: `InvalidValue` for a side that is not in 1 … 65536, or for means and deviations that are not three
    ///   finite numbers, deviations above zero.
    public init(
        imageSize: Int = 224, resize: Int? = 256, interpolation: Interpolation = .bilinear,
        mean: [Float] = Self.imageNetMean, standardDeviation: [Float] = Self.imageNetStandardDeviation,
        exif: ExifPolicy = .apply
    ) throws(InvalidValue) {
        for (name, side) in [("image size", imageSize), ("resize", resize ?? 1)]
        where !(1...Self.largestSide).contains(side) {
            throw InvalidValue(description: "\(name) \(side): expected 1 … \(Self.largestSide) pixels")
        }
        guard mean.count == 3, mean.allSatisfy(\.isFinite) else {
            throw InvalidValue(description: "mean \(mean): expected three numbers, red, green and blue")
        }
        guard standardDeviation.count == 3, standardDeviation.allSatisfy({ $0.isFinite && $0 > 0 }) else {
            throw InvalidValue(
                description: "standard deviation \(standardDeviation): expected three numbers above zero")
        }
        self.resize = resize
        self.imageSize = imageSize
        self.interpolation = interpolation
        self.mean = mean
        self.standardDeviation = standardDeviation
        self.exif = exif
    }

    /// The bytes of one input: `imageSize × imageSize × 3`.
    public var byteCount: Int { imageSize * imageSize * 3 }

    /// The resized and cropped picture: `imageSize × imageSize × 3` bytes, rows from top to bottom, R G B per pixel.
    public func geometry(_ image: RGBImage) -> [UInt8] {
        let workspace = ImageWorkspace()
        // A copy, because resampling may read a little behind the last pixel.
        let copy = workspace.decoded.reserve(image.pixels.count)
        image.pixels.withUnsafeBufferPointer { pixels in
            if let base = pixels.baseAddress { copy.update(from: base, count: pixels.count) }
        }
        let view = PixelView(
            base: UnsafePointer(copy), width: image.width, height: image.height, stride: image.width * 3)
        return render(DecodedPicture(view), transformation: .none, workspace: workspace)
    }

    /// The same for a file.
    ///
    /// - Parameters:
    ///   - path: the file.
    ///   - fastDecode: whether a large JPEG may be decoded at a fraction of its size, see `BatchLoaderOptions`.
    ///   - limits: bounds on what is read.
    ///   - workspace: buffers, to be reused from file to file.
    /// - Returns: `imageSize × imageSize × 3` bytes.
    /// - Throws: `ImageError`, which names the file.
    public func geometry(
        contentsOf path: String, fastDecode: Bool = false, limits: ImageLimits = ImageLimits(),
        workspace: ImageWorkspace = ImageWorkspace()
    ) throws(ImageError) -> [UInt8] {
        let picture = try workspace.decode(contentsOf: path, exif: exif, limits: limits) { width, height in
            request(width: width, height: height, transformation: .none, fastDecode: fastDecode)
        }
        return render(picture, transformation: .none, workspace: workspace)
    }

    private func render(
        _ picture: DecodedPicture, transformation: Transformation, workspace: ImageWorkspace
    ) -> [UInt8] {
        [UInt8](unsafeUninitializedCapacity: byteCount) { buffer, count in
            if let base = buffer.baseAddress {
                render(picture, transformation: transformation, into: base, workspace: workspace)
            }
            count = byteCount
        }
    }

    /// The size of the whole resized picture, of which the centre is cut out.
    func resizedSize(width: Int, height: Int) -> (width: Int, height: Int) {
        guard let resize else { return (imageSize, imageSize) }
        let short = min(width, height)
        let long = Int(Double(resize * max(width, height)) / Double(short))
        return width <= height ? (resize, long) : (long, resize)
    }

    /// Where a crop of `imageSize` begins in a side, or how much black goes before it, as torchvision's `center_crop`.
    private func crop(side: Int) -> (source: Range<Int>, target: Int) {
        if side < imageSize { return (0..<side, (imageSize - side) / 2) }
        let start = Int((Double(side - imageSize) / 2).rounded(.toNearestOrEven))
        return (start..<start + imageSize, 0)
    }

    /// How much larger than needed a picture must be when it is decoded at a fraction of its size.
    private static let fastDecodeMargin = 1.25

    /// What of a picture of a size `render` will read.
    func request(width: Int, height: Int, transformation: Transformation, fastDecode: Bool) -> DecodingRequest {
        var request = DecodingRequest()
        let size = transformation.region == nil ? resizedSize(width: width, height: height) : (imageSize, imageSize)
        let source = transformation.region.map { ($0.width, $0.height) } ?? (width, height)
        if fastDecode {
            let scale = max(Double(size.0) / Double(source.0), Double(size.1) / Double(source.1))
            request.eighths = [1, 2, 4].first { Double($0) / 8 >= scale * Self.fastDecodeMargin } ?? 8
        }
        if let region = transformation.region {
            request.window = (region.x..<region.x + region.width, region.y..<region.y + region.height)
        } else {
            request.window = (
                Resampling.sourceRange(
                    of: crop(side: size.0).source, inputCount: width, outputCount: size.0, interpolation: interpolation),
                Resampling.sourceRange(
                    of: crop(side: size.1).source, inputCount: height, outputCount: size.1, interpolation: interpolation
                )
            )
        }
        return request
    }

    /// Writes one input of `byteCount` bytes.
    ///
    /// The transformation and the size after resizing are those of the picture at its full size.
    func render(
        _ picture: DecodedPicture, transformation: Transformation, into target: UnsafeMutablePointer<UInt8>,
        workspace: ImageWorkspace
    ) {
        let stride = imageSize * 3
        let view = picture.view
        if let region = transformation.region {
            let place = region.scaled(
                from: (picture.width, picture.height), to: (view.width, view.height))
            Resampling.resize(
                view.cropped(x: place.x, y: place.y, width: place.width, height: place.height), width: imageSize,
                height: imageSize, interpolation: interpolation, columns: 0..<imageSize, rows: 0..<imageSize,
                target: target, targetStride: stride, workspace: workspace)
        } else {
            let size = resizedSize(width: picture.width, height: picture.height)
            let columns = crop(side: size.width)
            let rows = crop(side: size.height)
            if columns.source.count < imageSize || rows.source.count < imageSize {
                target.update(repeating: 0, count: byteCount)
            }
            Resampling.resize(
                view, width: size.width, height: size.height, interpolation: interpolation, columns: columns.source,
                rows: rows.source, target: target + rows.target * stride + columns.target * 3, targetStride: stride,
                workspace: workspace)
        }
        if transformation.isMirrored { mirror(target) }
        let square = PixelSquare(base: target, size: imageSize)
        for operation in transformation.operations { square.apply(operation, mean: mean) }
    }

    private func mirror(_ pixels: UnsafeMutablePointer<UInt8>) {
        for y in 0..<imageSize {
            var left = pixels + y * imageSize * 3
            var right = left + (imageSize - 1) * 3
            while left < right {
                for channel in 0..<3 {
                    let value = left[channel]
                    left[channel] = right[channel]
                    right[channel] = value
                }
                left += 3
                right -= 3
            }
        }
    }

    /// The normalised value of each byte per channel, `3 × 256`, with torchvision's float32 operations in their order.
    public func normalizationTable() -> [Float] {
        (0..<3).flatMap { channel in
            (0..<256).map { (Float($0) / 255 - mean[channel]) / standardDeviation[channel] }
        }
    }

    /// The normalised inputs as a network takes them.
    ///
    /// - Parameter pixels: `count × imageSize × imageSize × 3` bytes, as `geometry` and `BatchLoader` give them.
    /// - Returns: float32 `[count, 3, imageSize, imageSize]`, equal to `ToTensor` and `Normalize` bit for bit.
    public func normalized(_ pixels: [UInt8]) -> HostTensor {
        precondition(pixels.count % byteCount == 0, "\(pixels.count) bytes are no whole inputs of \(byteCount)")
        let count = pixels.count / byteCount
        let plane = imageSize * imageSize
        let table = normalizationTable()
        let values = [Float](unsafeUninitializedCapacity: count * 3 * plane) { values, initializedCount in
            pixels.withUnsafeBufferPointer { pixels in
                for image in 0..<count {
                    for channel in 0..<3 {
                        let source = image * byteCount + channel
                        let target = (image * 3 + channel) * plane
                        for index in 0..<plane {
                            values[target + index] = table[channel * 256 + Int(pixels[source + 3 * index])]
                        }
                    }
                }
            }
            initializedCount = count * 3 * plane
        }
        return HostTensor([count, 3, imageSize, imageSize], values)
    }
}

extension ImagePreprocessing: Codable {
    private enum CodingKeys: String, CodingKey {
        case resize, imageSize, interpolation, mean, standardDeviation, exif
    }

    /// Reads what `encode` wrote; values are checked as by the initialiser.
    public init(from decoder: any Decoder) throws {
        let values = try decoder.container(keyedBy: CodingKeys.self)
        try self.init(
            imageSize: values.decode(Int.self, forKey: .imageSize),
            resize: values.decodeIfPresent(Int.self, forKey: .resize),
            interpolation: values.decode(Interpolation.self, forKey: .interpolation),
            mean: values.decode([Float].self, forKey: .mean),
            standardDeviation: values.decode([Float].self, forKey: .standardDeviation),
            exif: values.decode(ExifPolicy.self, forKey: .exif))
    }
}
