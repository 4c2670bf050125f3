import Foundation
import Testing

@testable import GraftVision

@Suite struct DecodingTests {
    /// Every committed file: RGB bytes as Pillow's, stored and upright.
    @Test func committedFilesEqualPillow() throws {
        let golden = try #require(
            try TestData.json(TestData.golden + "/golden.json")["files"] as? [String: [String: Any]])
        #expect(golden.count == 41)
        for (name, entry) in golden.sorted(by: { $0.key < $1.key }) {
            let path = TestData.golden + "/files/" + name
            let stored = try ImageCodec.decode(contentsOf: path, exif: .ignore)
            #expect([stored.width, stored.height] == entry["size"] as? [Int], "\(name)")
            #expect(try sha256(stored.pixels) == entry["sha256"] as? String, "\(name)")
            let upright = try ImageCodec.decode(try TestData.bytes(path), exif: .apply)
            #expect([upright.width, upright.height] == entry["upright_size"] as? [Int], "\(name)")
            #expect(try sha256(upright.pixels) == entry["upright_sha256"] as? String, "\(name) upright")
        }
    }

    @Test(.enabled(if: TestData.shared != nil, "needs the shared data"))
    func oddImagesAreAsPillowSeesThem() throws {
        let folder = try TestData.sharedPath("data/odd_images")
        let expected = try TestData.json(folder + "/expected.json")
        #expect(expected.count >= 40)
        var decoded = 0
        for (name, value) in expected.sorted(by: { $0.key < $1.key }) {
            let entry = try #require(value as? [String: Any])
            let path = folder + "/" + name
            guard entry["decodes"] as? Bool == true else {
                let error = #expect(throws: ImageError.self, "\(name)") { try ImageCodec.decode(contentsOf: path) }
                #expect(error?.file == path, "\(name)")
                #expect(["truncated", "empty"].contains(error?.kind), "\(name): \(String(describing: error))")
                continue
            }
            decoded += 1
            let image = try ImageCodec.decode(contentsOf: path, exif: .ignore)
            #expect([image.width, image.height] == entry["size"] as? [Int], "\(name)")
            let means = try #require(entry["rgb_mean"] as? [Double])
            for channel in 0..<3 {
                var sum = 0
                for index in stride(from: channel, to: image.pixels.count, by: 3) { sum += Int(image.pixels[index]) }
                let mean = Double(sum) / Double(image.width * image.height)
                #expect(
                    abs(mean - means[channel]) <= 0.0006, "\(name) channel \(channel): \(mean) for \(means[channel])")
            }
            if let digest = entry["rgb_sha256"] as? String { #expect(try sha256(image.pixels) == digest, "\(name)") }
            let upright = try ImageCodec.decode(contentsOf: path, exif: .apply)
            if let size = entry["upright_size"] as? [Int] {
                #expect([upright.width, upright.height] == size, "\(name)")
                let quadrants = try #require(entry["upright_quadrants"] as? [Double])
                for (mean, expected) in zip(Self.quadrantMeans(upright), quadrants) {
                    #expect(abs(mean - expected) <= 0.0051, "\(name): \(mean) for \(expected)")
                }
            } else {
                #expect(upright == image, "\(name)")
            }
        }
        #expect(decoded >= 36)
    }

    /// Grey means of top left, top right, bottom left and bottom right, grey as Pillow's `convert("L")`.
    private static func quadrantMeans(_ image: RGBImage) -> [Double] {
        let halfWidth = image.width / 2
        let halfHeight = image.height / 2
        func mean(_ columns: Range<Int>, _ rows: Range<Int>) -> Double {
            var sum = 0
            for y in rows {
                for x in columns {
                    let pixel = (y * image.width + x) * 3
                    let red = Int(image.pixels[pixel]) * 19595
                    let green = Int(image.pixels[pixel + 1]) * 38470
                    let blue = Int(image.pixels[pixel + 2]) * 7471
                    sum += (red + green + blue + 0x8000) >> 16
                }
            }
            return Double(sum) / Double(columns.count * rows.count)
        }
        let left = 0..<halfWidth
        let right = (image.width - halfWidth)..<image.width
        let top = 0..<halfHeight
        let bottom = (image.height - halfHeight)..<image.height
        return [mean(left, top), mean(right, top), mean(left, bottom), mean(right, bottom)]
    }

    /// JPEG originals through decoder, resize and crop equal the PNG copies that Pillow made of them.
    @Test(
        .enabled(if: TestData.shared != nil, "needs the shared data"),
        arguments: [
            ("hymenoptera/train", "hymenoptera64_png", 72, 64, 80),
            ("hymenoptera/val", "hymenoptera_val16_224_png", 256, 224, 16),
        ])
    func hymenopteraEqualsItsCopies(originals: String, copies: String, resize: Int, size: Int, count: Int) throws {
        let copyFolder = try ImageDataset(folder: try TestData.sharedPath("data/" + copies), emptyClasses: .allow)
        #expect(copyFolder.count == count)
        let originalFolder = try ImageDataset(folder: try TestData.sharedPath("data/" + originals))
        var byStem: [String: Int] = [:]
        for (index, sample) in originalFolder.samples.enumerated() {
            byStem[(sample.path as NSString).deletingPathExtension] = index
        }
        let cut = try ImagePreprocessing(imageSize: size, resize: resize, exif: .ignore)
        let plain = try ImagePreprocessing(imageSize: size, resize: nil, exif: .ignore)
        var differing: [String] = []
        for index in 0..<copyFolder.count {
            let stem = (copyFolder.samples[index].path as NSString).deletingPathExtension
            let original = try #require(byStem[stem])
            let fromJPEG = try cut.geometry(contentsOf: originalFolder.path(of: original))
            if fromJPEG != (try plain.geometry(contentsOf: copyFolder.path(of: index))) { differing.append(stem) }
        }
        #expect(differing.isEmpty)
    }

    @Test func pngRoundTrip() throws {
        for (width, height) in [(1, 1), (37, 29), (256, 3)] {
            let image = formula(width, height)
            for level in [0, 6, 9] {
                let bytes = try ImageCodec.encodePNG(image, compressionLevel: level)
                #expect(try ImageCodec.decode(bytes) == image)
            }
        }
    }

    @Test func otherFormatsAreNamed() throws {
        let cases: [(String, [UInt8])] = [
            ("GIF", Array("GIF89a\u{1}\0".utf8)),
            ("WebP", Array("RIFF\0\0\0\0WEBPVP8 ".utf8)),
            ("BMP", Array("BM\u{1}\0\0\0".utf8)),
            ("TIFF", [0x49, 0x49, 0x2A, 0, 8, 0, 0, 0]),
            ("TIFF", [0x4D, 0x4D, 0, 0x2A, 0, 0, 0, 8]),
            ("PPM/PGM/PBM", Array("P6\n1 1\n255\nabc".utf8)),
            ("AVIF", Array("\0\0\0\u{18}ftypavif".utf8)),
            ("HEIC", Array("\0\0\0\u{18}ftypheic".utf8)),
            ("text", Array("not a picture\n".utf8)),
            ("unknown content", [0, 1, 2, 3]),
        ]
        for (name, bytes) in cases {
            let error = #expect(throws: ImageError.self) { try ImageCodec.decode(bytes) }
            #expect(error?.fault == .unsupportedFormat(name))
            #expect(error?.description.contains("convert it to PNG or JPEG") == true)
        }
        #expect(throws: ImageError(file: nil, fault: .empty)) { try ImageCodec.decode([]) }
    }

    @Test func unreadablePathsAreErrors() throws {
        let folder = try TemporaryFolder()
        try folder.makeFolder("directory.jpg")
        try folder.link("broken.jpg", to: "nowhere")
        #expect(mkfifo(folder.path + "/pipe.jpg", 0o600) == 0)
        func kind(_ name: String) -> String? {
            do {
                _ = try ImageCodec.decode(contentsOf: folder.path + "/" + name)
                return nil
            } catch {
                #expect(error.description.hasPrefix(folder.path + "/" + name))
                return error.kind
            }
        }
        #expect(kind("directory.jpg") == "not-a-file")
        #expect(kind("pipe.jpg") == "not-a-file")
        #expect(kind("broken.jpg") == "unreadable")
        #expect(kind("absent.jpg") == "unreadable")
    }

    @Test func limitsHoldBeforeAllocation() throws {
        let bytes = try ImageCodec.encodePNG(formula(20, 10))
        #expect(try ImageCodec.decode(bytes, limits: ImageLimits(pixelCount: 200)).width == 20)
        #expect(throws: ImageError(file: nil, fault: .tooManyPixels(width: 20, height: 10, limit: 199))) {
            try ImageCodec.decode(bytes, limits: ImageLimits(pixelCount: 199))
        }
        // A header that claims 2^31 - 1 pixels each way, for both formats.
        var lying = bytes
        lying.replaceSubrange(16..<24, with: [0x7F, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF])
        lying.replaceSubrange(29..<33, with: crc32(lying[12..<29]))
        let error = #expect(throws: ImageError.self) { try ImageCodec.decode(lying) }
        #expect(error?.kind == "too-many-pixels")
        var jpeg = try TestData.bytes(TestData.golden + "/files/jpeg_444.jpg")
        let frame = try #require(jpeg.indices.first { jpeg[$0] == 0xFF && jpeg[$0 + 1] == 0xC0 })
        jpeg.replaceSubrange(frame + 5..<frame + 9, with: [0xFF, 0xDC, 0xFF, 0xDC])
        let jpegError = #expect(throws: ImageError.self) { try ImageCodec.decode(jpeg) }
        #expect(jpegError?.kind == "too-many-pixels")
        let folder = try TemporaryFolder()
        try folder.write("a.png", bytes)
        let long = #expect(throws: ImageError.self) {
            try ImageCodec.decode(contentsOf: folder.path + "/a.png", limits: ImageLimits(byteCount: bytes.count - 1))
        }
        #expect(long?.kind == "too-many-bytes")
    }

    private func crc32(_ bytes: some Sequence<UInt8>) -> [UInt8] {
        var value: UInt32 = 0xFFFF_FFFF
        for byte in bytes {
            value ^= UInt32(byte)
            for _ in 0..<8 { value = value & 1 == 1 ? value >> 1 ^ 0xEDB8_8320 : value >> 1 }
        }
        return withUnsafeBytes(of: (~value).bigEndian, Array.init)
    }

    /// Truncated at every length: an error, or the whole picture where only bytes after it are missing.
    @Test func truncatedFilesAreErrors() throws {
        for name in ["jpeg_420.jpg", "jpeg_progressive.jpg", "jpeg_cmyk.jpg", "png_rgba.png", "png_palette_4.png"] {
            let bytes = try TestData.bytes(TestData.golden + "/files/" + name)
            let whole = try ImageCodec.decode(bytes)
            var failures = 0
            for length in 0..<bytes.count {
                do {
                    let image = try ImageCodec.decode(Array(bytes[..<length]))
                    #expect(image == whole, "\(name) cut at \(length) of \(bytes.count)")
                    #expect(length >= bytes.count - 24, "\(name) cut at \(length) of \(bytes.count)")
                } catch {
                    failures += 1
                }
            }
            #expect(failures >= bytes.count - 24, "\(name)")
        }
    }

    /// Changed bytes: an error or some picture of the stated size, never a crash.
    @Test func mutatedFilesNeverCrash() throws {
        let names = try FileManager.default.contentsOfDirectory(atPath: TestData.golden + "/files").sorted()
        var state: UInt64 = 1
        func random(_ bound: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int((state >> 33) % UInt64(bound))
        }
        var outcomes: [String: Int] = [:]
        for name in names {
            let bytes = try TestData.bytes(TestData.golden + "/files/" + name)
            for _ in 0..<120 {
                var mutated = bytes
                for _ in 0..<(1 + random(4)) {
                    switch random(4) {
                    case 0: mutated[random(mutated.count)] = UInt8(random(256))
                    case 1: mutated[random(mutated.count)] ^= 1 << UInt8(random(8))
                    case 2: mutated[random(min(mutated.count, 200))] = [0, 0xFF, 0x7F, 0x80][random(4)]
                    default:
                        let start = random(mutated.count)
                        let end = min(start + random(16), mutated.count)
                        if random(2) == 0 {
                            mutated.removeSubrange(start..<end)
                        } else {
                            mutated.insert(contentsOf: mutated[start..<end], at: start)
                        }
                    }
                    if mutated.isEmpty { mutated = [0] }
                }
                do {
                    let image = try ImageCodec.decode(mutated, limits: ImageLimits(pixelCount: 1 << 22))
                    #expect(image.pixels.count == image.width * image.height * 3)
                    outcomes["decoded", default: 0] += 1
                } catch {
                    #expect(!error.description.isEmpty)
                    outcomes[error.kind, default: 0] += 1
                }
            }
        }
        #expect(outcomes["decoded", default: 0] > 0)
        #expect(outcomes["damaged", default: 0] > 0)
        #expect(outcomes["truncated", default: 0] > 0)
    }

    /// EXIF structures that lie about counts and offsets: read as upright, not beyond the buffer.
    @Test func hostileExifIsIgnored() throws {
        let base = try TestData.bytes(TestData.golden + "/files/jpeg_orientation_6.jpg")
        let upright = try ImageCodec.decode(base, exif: .apply)
        let stored = try ImageCodec.decode(base, exif: .ignore)
        #expect(upright.width == stored.height)
        let exif = try #require(base.indices.first { base[$0...].starts(with: Array("Exif\0\0".utf8)) })
        let tiff = exif + 6
        for offset in tiff..<tiff + 26 {
            for value in [0, 1, 0x7F, 0x80, 0xFE, 0xFF] as [UInt8] {
                var mutated = base
                mutated[offset] = value
                let image = try ImageCodec.decode(mutated, exif: .apply)
                #expect(image.width * image.height == stored.width * stored.height)
            }
        }
        for orientation in [0, 9, 200] as [UInt8] {
            var mutated = base
            let entry = try #require(mutated.indices.first { $0 > tiff && mutated[$0...].starts(with: [0, 6, 0, 0]) })
            mutated[entry + 1] = orientation
            #expect(try ImageCodec.decode(mutated, exif: .apply) == stored)
        }
    }

    /// 12000 × 9000 pixels decode and resize; built here from one repeated row.
    @Test func largePictureDecodes() throws {
        let image = RGBImage(width: 12_000, height: 9_000, red: 200, green: 100, blue: 50)
        let bytes = try ImageCodec.encodePNG(image, compressionLevel: 1)
        let folder = try TemporaryFolder()
        try folder.write("large.png", bytes)
        let preprocessing = try ImagePreprocessing()
        let result = try preprocessing.geometry(contentsOf: folder.path + "/large.png")
        #expect(result.prefix(3) == [200, 100, 50] && result.suffix(3) == [200, 100, 50])
    }
}

/// Pictures that are written and read again.
@Suite struct EncodingTests {
    @Test func aJPEGComesBackAlmostAsItWas() throws {
        let width = 37
        let height = 23
        let pixels = (0..<width * height).flatMap { index in
            [UInt8(index % width * 6), UInt8(index / width * 10), UInt8(120)]
        }
        let bytes = try ImageCodec.encodeJPEG(RGBImage(width: width, height: height, pixels: pixels), quality: 95)
        #expect(bytes.prefix(3) == [0xFF, 0xD8, 0xFF])
        let decoded = try ImageCodec.decode(bytes)
        #expect(decoded.width == width && decoded.height == height)
        let difference = zip(decoded.pixels, pixels).map { abs(Int($0) - Int($1)) }.max() ?? 255
        #expect(difference < 20, "\(difference)")
        let coarse = try ImageCodec.encodeJPEG(RGBImage(width: width, height: height, pixels: pixels), quality: 10)
        #expect(coarse.count < bytes.count)
        // Noise at full quality takes more than the first buffer.
        var state: UInt32 = 1
        let noise = (0..<600 * 600 * 3).map { _ -> UInt8 in
            state = state &* 1_664_525 &+ 1_013_904_223
            return UInt8(state >> 24)
        }
        let large = try ImageCodec.encodeJPEG(RGBImage(width: 600, height: 600, pixels: noise), quality: 100)
        #expect(large.count > 600 * 600 + 65_536)
        #expect(try ImageCodec.decode(large).width == 600)
    }

    @Test func moreThanAJPEGHoldsIsRefused() throws {
        #expect(throws: ImageError.self) {
            try ImageCodec.encodeJPEG(RGBImage(width: 70_000, height: 1))
        }
    }
}
