import Foundation
import GraftTensor
import Testing

@testable import GraftVision

/// Decoding of a part, or at a fraction of the size, against decoding of the whole.
@Suite struct PartialDecodingTests {
    private static func decode(
        _ bytes: [UInt8], _ request: DecodingRequest, exif: ExifPolicy = .ignore
    ) throws -> (pixels: [UInt8], width: Int, height: Int, fullWidth: Int, fullHeight: Int) {
        let workspace = ImageWorkspace()
        return try bytes.withUnsafeBufferPointer { buffer in
            let picture = try workspace.decode(buffer, exif: exif, limits: ImageLimits()) { _, _ in request }
            let view = picture.view
            let pixels = [UInt8](UnsafeBufferPointer(start: view.base, count: view.height * view.stride))
            return (pixels, view.width, view.height, picture.width, picture.height)
        }
    }

    /// Every committed JPEG, and photographs where they are at hand.
    private static func files() throws -> [String] {
        let golden = TestData.golden + "/files"
        var paths = try FileManager.default.contentsOfDirectory(atPath: golden).map { golden + "/" + $0 }
        if TestData.shared != nil {
            let photographs = try ImageDataset(folder: try TestData.sharedPath("data/hymenoptera/train"))
            paths += (0..<photographs.count).map { photographs.path(of: $0) }
            let odd = try TestData.sharedPath("data/odd_images/exif_orientation")
            paths += try FileManager.default.contentsOfDirectory(atPath: odd).map { odd + "/" + $0 }
        }
        return paths.sorted()
    }

    /// Numbers in a fixed order, so that a failure comes back.
    private struct CounterNumbers: RandomNumberGenerator {
        let random: CounterRandom
        var counter = 0

        init(_ random: CounterRandom) { self.random = random }

        mutating func next() -> UInt64 {
            counter += 1
            return random.bits(counter)
        }
    }

    private static func windows(_ width: Int, _ height: Int) -> [(columns: Range<Int>, rows: Range<Int>)] {
        [
            (width / 5..<width * 4 / 5, height / 5..<height * 4 / 5),
            (width / 3..<width / 3 + 1, height / 2..<height / 2 + 1),
            (0..<width, height / 2..<height), (width / 2..<width, 0..<height),
            (0..<(width + 1) / 2, 0..<(height + 1) / 2),
            (max(width - 1, 0)..<width, max(height - 1, 0)..<height),
        ]
    }

    @Test func aWindowHoldsTheWholesPixels() throws {
        for path in try Self.files() {
            let bytes = try TestData.bytes(path)
            guard let whole = try? Self.decode(bytes, DecodingRequest()) else { continue }
            for window in Self.windows(whole.width, whole.height) {
                let part = try Self.decode(bytes, DecodingRequest(window: window))
                #expect((part.width, part.height) == (whole.width, whole.height), "\(path)")
                let differs = window.rows.contains { y in
                    let range =
                        (y * whole.width + window.columns.lowerBound)
                        * 3..<(y * whole.width + window.columns.upperBound) * 3
                    return part.pixels[range] != whole.pixels[range]
                }
                #expect(!differs, "\(path) \(window)")
            }
        }
    }

    @Test(.enabled(if: ImageCodec.decodesWindows, "needs libjpeg-turbo 2.1 or later"))
    func whatIsFarFromTheWindowIsNotDecoded() throws {
        let bytes = try TestData.bytes(TestData.golden + "/files/jpeg_420.jpg")
        let (width, height) = (37, 29)
        let workspace = ImageWorkspace()
        let mark: UInt8 = 0xA5
        workspace.decoded.reserve(width * height * 3).update(repeating: mark, count: width * height * 3)
        let pixels = try bytes.withUnsafeBufferPointer { buffer in
            let view = try workspace.decode(buffer, exif: .ignore, limits: ImageLimits()) { _, _ in
                DecodingRequest(window: (0..<4, 0..<4))
            }.view
            return [UInt8](UnsafeBufferPointer(start: view.base, count: view.height * view.stride))
        }
        try #require(pixels.count == width * height * 3)
        func isMarked(_ x: Int, _ y: Int) -> Bool {
            pixels[(y * width + x) * 3..<(y * width + x + 1) * 3].allSatisfy { $0 == mark }
        }
        // The window's block and one more are 32 pixels at most; below, the last row alone is read, to see the file's end.
        #expect((0..<20).allSatisfy { y in (32..<width).allSatisfy { x in isMarked(x, y) } })
        #expect((20..<height - 1).allSatisfy { y in (0..<width).allSatisfy { x in isMarked(x, y) } })
        #expect(!(0..<4).contains { y in (0..<4).contains { x in isMarked(x, y) } })
    }

    @Test func aFileThatEndsEarlyIsOneWhateverIsNeeded() throws {
        let golden = TestData.golden + "/files/"
        for name in try FileManager.default.contentsOfDirectory(atPath: golden).sorted() where name.hasSuffix(".jpg") {
            let bytes = try TestData.bytes(golden + name)
            for cut in stride(from: 1, to: bytes.count, by: max(bytes.count / 23, 1)) {
                let short = Array(bytes.dropLast(cut))
                let whole = Result { try Self.decode(short, DecodingRequest()) }
                let size = (try? whole.get()).map { ($0.width, $0.height) } ?? (64, 48)
                for window in Self.windows(size.0, size.1) {
                    let part = Result { try Self.decode(short, DecodingRequest(window: window)) }
                    switch (whole, part) {
                    case (.success, .success): break
                    case (.failure(let a), .failure(let b)):
                        #expect((a as? ImageError)?.kind == (b as? ImageError)?.kind, "\(name) without \(cut) bytes")
                    default: Issue.record("\(name) without \(cut) bytes: \(whole) and \(part)")
                    }
                }
            }
        }
    }

    /// Damage in the middle must neither trap nor read outside, whatever part is asked for.
    @Test func damagedFilesAreSafe() throws {
        let golden = TestData.golden + "/files/"
        var random = CounterNumbers(CounterRandom(seed: 0xDA3A6E))
        for name in try FileManager.default.contentsOfDirectory(atPath: golden).sorted() where name.hasSuffix(".jpg") {
            let bytes = try TestData.bytes(golden + name)
            for _ in 0..<40 {
                var damaged = bytes
                for _ in 0..<4 {
                    damaged[Int.random(in: 2..<bytes.count, using: &random)] = .random(in: 0...255, using: &random)
                }
                for eighths in [1, 2, 4, 8] {
                    _ = try? Self.decode(
                        damaged, DecodingRequest(eighths: eighths, window: (20..<40, 18..<30)), exif: .apply)
                }
            }
        }
    }

    @Test func fractionsAreChosenWithAMargin() throws {
        let preprocessing = try ImagePreprocessing()
        func eighths(_ width: Int, _ height: Int, _ transformation: Transformation = .none) -> Int {
            preprocessing.request(width: width, height: height, transformation: transformation, fastDecode: true)
                .eighths
        }
        #expect(eighths(500, 375) == 8)
        #expect(eighths(853, 639) == 8)
        #expect(eighths(853, 640) == 4)
        #expect(eighths(1280, 4000) == 2)
        #expect(eighths(4000, 3000) == 1)
        // 560 pixels to 224 of the input, in the direction that shrinks least.
        let region = Transformation.Region(x: 100, y: 0, width: 2000, height: 560)
        #expect(eighths(4000, 3000, Transformation(region: region, isMirrored: false)) == 4)
        #expect(
            preprocessing.request(width: 4000, height: 3000, transformation: .none, fastDecode: false).eighths == 8)
    }

    @Test(.enabled(if: TestData.shared != nil, "needs the shared data"))
    func fastDecodingIsNearTheWhole() throws {
        let folder = try TestData.sharedPath("data/odd_images/exif_orientation")
        let preprocessing = try ImagePreprocessing(imageSize: 64, resize: 72)
        for name in try FileManager.default.contentsOfDirectory(atPath: folder).sorted() where name.hasSuffix(".jpg") {
            let path = folder + "/" + name
            let whole = try preprocessing.geometry(contentsOf: path)
            let fast = try preprocessing.geometry(contentsOf: path, fastDecode: true)
            #expect(fast != whole, "\(name) is large enough for a fraction")
            let sum = zip(whole, fast).reduce(0) { $0 + abs(Int($1.0) - Int($1.1)) }
            let mean = Double(sum) / Double(whole.count)
            #expect(mean < 3, "\(name) differs by \(mean) on average")
        }
    }

    @Test func regionsFollowThePicture() {
        let region = Transformation.Region(x: 10, y: 20, width: 101, height: 79)
        #expect(region.scaled(from: (200, 100), to: (200, 100)) == region)
        #expect(
            region.scaled(from: (200, 100), to: (25, 13)) == Transformation.Region(x: 1, y: 2, width: 12, height: 10))
        let last = Transformation.Region(x: 199, y: 99, width: 1, height: 1)
        #expect(last.scaled(from: (200, 100), to: (25, 13)) == Transformation.Region(x: 24, y: 12, width: 1, height: 1))
    }

    @Test(.enabled(if: TestData.shared != nil, "needs the shared data"))
    func theLoaderDeliversTheSameBatchesThroughWindows() throws {
        let images = try ImageDataset(folder: try TestData.sharedPath("data/hymenoptera/val"), limit: 12)
        let preprocessing = try ImagePreprocessing()
        for augmentation in Augmentation.allCases {
            let loader = BatchLoader(
                dataset: images, order: Array(0..<images.count), preprocessing: preprocessing,
                options: BatchLoaderOptions(batchSize: 12, augmentation: augmentation, seed: 3))
            let batch = try #require(try loader.next())
            var expected: [UInt8] = []
            for index in 0..<images.count {
                let image = try ImageCodec.decode(contentsOf: images.path(of: index))
                let transformation = augmentation.transformation(
                    seed: 3, epoch: 0, sampleIndex: index, width: image.width, height: image.height)
                let workspace = ImageWorkspace()
                let copy = workspace.decoded.reserve(image.pixels.count)
                for (position, byte) in image.pixels.enumerated() { copy[position] = byte }
                let view = PixelView(
                    base: UnsafePointer(copy), width: image.width, height: image.height, stride: image.width * 3)
                var result = [UInt8](repeating: 0, count: preprocessing.byteCount)
                result.withUnsafeMutableBufferPointer { buffer in
                    if let base = buffer.baseAddress {
                        preprocessing.render(
                            DecodedPicture(view), transformation: transformation, into: base, workspace: workspace)
                    }
                }
                expected += result
            }
            #expect(batch.pixels == expected, "\(augmentation)")
        }
    }
}
