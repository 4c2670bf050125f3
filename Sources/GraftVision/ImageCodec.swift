import CImageCodecs
import Foundation

/// What a file's first bytes say it is; its name plays no part.
public enum ImageFormat: Sendable, Equatable {
    /// JPEG, baseline or progressive.
    case jpeg
    /// PNG.
    case png
    /// Something else, in words.
    case other(String)

    /// Recognises a format by content.
    public init(sniffing bytes: UnsafeBufferPointer<UInt8>) {
        func starts(_ prefix: [UInt8], at offset: Int = 0) -> Bool {
            bytes.count >= offset + prefix.count
                && prefix.indices.allSatisfy { bytes[offset + $0] == prefix[$0] }
        }
        func starts(_ prefix: String, at offset: Int = 0) -> Bool { starts(Array(prefix.utf8), at: offset) }

        if starts([0xFF, 0xD8, 0xFF]) {
            self = .jpeg
        } else if starts([0x89, 0x50, 0x4E, 0x47, 0x0D, 0x0A, 0x1A, 0x0A]) {
            self = .png
        } else if starts("GIF87a") || starts("GIF89a") {
            self = .other("GIF")
        } else if starts("RIFF"), starts("WEBP", at: 8) {
            self = .other("WebP")
        } else if starts("BM") {
            self = .other("BMP")
        } else if starts([0x49, 0x49, 0x2A, 0x00]) || starts([0x4D, 0x4D, 0x00, 0x2A]) {
            self = .other("TIFF")
        } else if bytes.count >= 3, bytes[0] == 0x50, (0x31...0x36).contains(bytes[1]), bytes[2] <= 0x20 {
            self = .other("PPM/PGM/PBM")
        } else if starts("ftyp", at: 4) {
            self = .other(
                starts("avif", at: 8) ? "AVIF" : starts("hei", at: 8) || starts("mif1", at: 8) ? "HEIC" : "MP4")
        } else if starts([0x00, 0x00, 0x00, 0x0C, 0x6A, 0x50, 0x20, 0x20]) {
            self = .other("JPEG 2000")
        } else if starts([0x00, 0x00, 0x00, 0x0C, 0x4A, 0x58, 0x4C, 0x20]) || starts([0xFF, 0x0A]) {
            self = .other("JPEG XL")
        } else if starts("8BPS") {
            self = .other("Photoshop")
        } else if starts("%PDF") {
            self = .other("PDF")
        } else if starts([0x50, 0x4B, 0x03, 0x04]) {
            self = .other("a zip archive")
        } else if bytes.prefix(256).allSatisfy({ $0 >= 0x20 || (0x09...0x0D).contains($0) }) {
            self = .other("text")
        } else {
            self = .other("unknown content")
        }
    }
}

/// Bounds on what is read from a file, checked before anything of that size is allocated.
public struct ImageLimits: Sendable, Hashable {
    /// The largest width × height; by default Pillow's, twice 89478485.
    public var pixelCount: Int
    /// The longest file.
    public var byteCount: Int

    /// Makes limits; the defaults admit a picture of 12000 × 9000 pixels.
    public init(pixelCount: Int = 178_956_970, byteCount: Int = 1 << 30) {
        self.pixelCount = pixelCount
        self.byteCount = byteCount
    }
}

/// Reads and writes picture files.
public enum ImageCodec {
    /// A library that decodes, as it is loaded and not as it was when this was built.
    package struct Library: Sendable {
        /// What it says of itself.
        package let version: String
        /// Its file; nil when the loader does not say.
        package let path: String?
    }

    /// The JPEG library and the PNG library of this process. Another release may decode other pixels.
    package static var libraries: [Library] {
        var text = [CChar](repeating: 0, count: 512)
        graft_jpeg_library_version(&text, text.count)
        let jpeg = String(decoding: text.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return [
            Library(version: "libjpeg \(jpeg)", path: graft_jpeg_library_path().map { String(cString: $0) }),
            Library(
                version: "libpng \(graft_png_library_version().map { String(cString: $0) } ?? "")",
                path: graft_png_library_path().map { String(cString: $0) }),
        ]
    }

    /// Whether the JPEG library is one that can leave out what lies far from a window.
    static let decodesWindows = graft_jpeg_decodes_windows()

    /// Decodes a JPEG or PNG file.
    ///
    /// Grey, palette, alpha, 16-bit and CMYK become RGB as Pillow's `convert("RGB")` does: alpha and transparent
    /// colours are dropped, not blended; 16-bit samples keep their high byte, except in grey without alpha, where
    /// values above 255 become 255. A file that ends early is an error.
    public static func decode(
        contentsOf path: String, exif: ExifPolicy = .apply, limits: ImageLimits = ImageLimits()
    ) throws(ImageError) -> RGBImage {
        let workspace = ImageWorkspace()
        return try image(from: workspace.decode(contentsOf: path, exif: exif, limits: limits).view)
    }

    /// Decodes a JPEG or PNG file in memory; errors name no file.
    public static func decode(
        _ bytes: [UInt8], exif: ExifPolicy = .apply, limits: ImageLimits = ImageLimits()
    ) throws(ImageError) -> RGBImage {
        let workspace = ImageWorkspace()
        let outcome = bytes.withUnsafeBufferPointer { buffer in
            Result { () throws(ImageError) in
                image(from: try workspace.decode(buffer, exif: exif, limits: limits).view)
            }
        }
        return try outcome.get()
    }

    /// Encodes a picture as a PNG file in memory.
    ///
    /// - Parameters:
    ///   - image: the picture.
    ///   - compressionLevel: zlib's, 0 (none) to 9.
    /// - Returns: the file's bytes.
    /// - Throws: `ImageError` when there is not enough memory or the picture is longer than PNG allows.
    public static func encodePNG(_ image: RGBImage, compressionLevel: Int = 6) throws(ImageError) -> [UInt8] {
        var result = graft_image_result()
        var byteCount = 0
        let level = Int32(min(max(compressionLevel, 0), 9))
        guard let width = UInt32(exactly: image.width), let height = UInt32(exactly: image.height) else {
            throw ImageError(file: nil, fault: .tooManyPixels(width: image.width, height: image.height, limit: 1 << 31))
        }
        let encoded = image.pixels.withUnsafeBufferPointer { pixels in
            graft_png_encode(pixels.baseAddress, width, height, level, &byteCount, &result)
        }
        guard let encoded else { throw ImageError(result, limits: ImageLimits()) }
        defer { graft_image_free(encoded) }
        return [UInt8](UnsafeBufferPointer(start: encoded, count: byteCount))
    }

    private static func image(from view: PixelView) -> RGBImage {
        let pixels = UnsafeBufferPointer(start: view.base, count: view.width * view.height * 3)
        return RGBImage(width: view.width, height: view.height, pixels: [UInt8](pixels))
    }
}

extension ImageError {
    /// The C shim's outcome as an error.
    fileprivate init(_ result: graft_image_result, limits: ImageLimits) {
        var result = result
        let message = withUnsafeBytes(of: &result.message) { bytes in
            String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
        }
        let fault: Fault =
            switch result.status {
            case GRAFT_IMAGE_TRUNCATED: .truncated(message)
            case GRAFT_IMAGE_UNSUPPORTED: .unsupportedVariant(message)
            case GRAFT_IMAGE_TOO_LARGE:
                .tooManyPixels(width: Int(result.width), height: Int(result.height), limit: limits.pixelCount)
            case GRAFT_IMAGE_OUT_OF_MEMORY: .outOfMemory
            default: .damaged(message)
            }
        self.init(file: nil, fault: fault)
    }
}

/// A decoded picture, or what of it was asked for.
struct DecodedPicture {
    /// The pixels; only those of the window that was asked for mean something.
    var view: PixelView
    /// The whole picture's width when upright, before any scaling.
    var width: Int
    /// The whole picture's height when upright, before any scaling.
    var height: Int

    init(_ view: PixelView, width: Int, height: Int) {
        self.view = view
        self.width = width
        self.height = height
    }

    /// A picture of which everything is there.
    init(_ view: PixelView) { self.init(view, width: view.width, height: view.height) }
}

/// What a caller will use of a picture; more may be decoded.
struct DecodingRequest {
    /// 1, 2, 4 or 8: a JPEG may be decoded at so many eighths of its size.
    var eighths = 8
    /// The pixels that are needed, in the upright picture at full size; nil for all.
    var window: (columns: Range<Int>, rows: Range<Int>)?
}

extension ImageWorkspace {
    /// Decodes a file into this workspace; the view is good until the next decoding.
    ///
    /// `request` gets the width and height of the upright picture and says what will be used of it.
    func decode(
        contentsOf path: String, exif: ExifPolicy, limits: ImageLimits,
        request: (Int, Int) -> DecodingRequest = { _, _ in DecodingRequest() }
    ) throws(ImageError) -> DecodedPicture {
        do {
            return try decode(read(path, limits: limits), exif: exif, limits: limits, request: request)
        } catch {
            throw error.naming(path)
        }
    }

    func decode(
        _ bytes: UnsafeBufferPointer<UInt8>, exif: ExifPolicy, limits: ImageLimits,
        request: (Int, Int) -> DecodingRequest = { _, _ in DecodingRequest() }
    ) throws(ImageError) -> DecodedPicture {
        guard !bytes.isEmpty else { throw ImageError(file: nil, fault: .empty) }
        let format = ImageFormat(sniffing: bytes)
        let pixelLimit = UInt64(max(limits.pixelCount, 0))
        var result = graft_image_result()
        let decoder: OpaquePointer?
        switch format {
        case .jpeg: decoder = graft_jpeg_open(bytes.baseAddress, bytes.count, pixelLimit, &result)
        case .png: decoder = graft_png_open(bytes.baseAddress, bytes.count, pixelLimit, &result)
        case .other(let name): throw ImageError(file: nil, fault: .unsupportedFormat(name))
        }
        guard let decoder else { throw ImageError(result, limits: limits) }
        defer { graft_image_close(decoder) }
        let orientation = exif == .apply ? ExifReader.orientation(of: bytes, format: format) : .upright
        // Both sides are at most 2^31 - 1 and their product is within the limit, so this cannot overflow.
        var fullWidth = Int(result.width)
        var fullHeight = Int(result.height)
        if orientation.swapsSides { swap(&fullWidth, &fullHeight) }
        let request = request(fullWidth, fullHeight)
        var window = graft_image_window(x: 0, y: 0, width: result.width, height: result.height)
        if request.eighths < 8 {
            graft_image_scale(decoder, UInt32(request.eighths), &result)
            guard result.status == GRAFT_IMAGE_OK else { throw ImageError(result, limits: limits) }
            window = graft_image_window(x: 0, y: 0, width: result.width, height: result.height)
        } else if orientation == .upright, let wanted = request.window {
            let columns = wanted.columns.clamped(to: 0..<fullWidth)
            let rows = wanted.rows.clamped(to: 0..<fullHeight)
            window = graft_image_window(
                x: UInt32(columns.lowerBound), y: UInt32(rows.lowerBound), width: UInt32(columns.count),
                height: UInt32(rows.count))
        }
        let width = Int(result.width)
        let height = Int(result.height)
        let pixels = decoded.reserve(width * height * 3)
        graft_image_read(decoder, window, pixels, &result)
        guard result.status == GRAFT_IMAGE_OK else { throw ImageError(result, limits: limits) }
        let view = PixelView(base: UnsafePointer(pixels), width: width, height: height, stride: width * 3)
        guard orientation != .upright else { return DecodedPicture(view, width: fullWidth, height: fullHeight) }
        return DecodedPicture(
            view.writeUpright(orientation, to: upright.reserve(width * height * 3)), width: fullWidth,
            height: fullHeight)
    }

    /// Reads a whole file into the workspace.
    func read(_ path: String, limits: ImageLimits) throws(ImageError) -> UnsafeBufferPointer<UInt8> {
        func failure() -> ImageError { ImageError(file: path, fault: .unreadable(String(cString: strerror(errno)))) }
        // Without O_NONBLOCK, opening a pipe would wait for a writer.
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw failure() }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure() }
        guard status.st_mode & S_IFMT == S_IFREG else { throw ImageError(file: path, fault: .notAFile) }
        let byteCount = Int(status.st_size)
        guard byteCount <= limits.byteCount else {
            throw ImageError(file: path, fault: .tooManyBytes(byteCount: byteCount, limit: limits.byteCount))
        }
        let target = file.reserve(byteCount)
        var filled = 0
        while filled < byteCount {
            let count = Foundation.read(descriptor, target + filled, byteCount - filled)
            if count < 0 && errno == EINTR { continue }
            guard count >= 0 else { throw failure() }
            if count == 0 { break }
            filled += count
        }
        return UnsafeBufferPointer(start: target, count: filled)
    }
}
