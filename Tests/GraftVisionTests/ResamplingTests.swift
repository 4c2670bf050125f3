import Foundation
import GraftTensor
import Testing

@testable import GraftVision

@Suite struct ResamplingTests {
    struct Case: CustomStringConvertible {
        let numbers: [Int]
        let interpolation: Interpolation
        let digest: String
        var description: String { "\(numbers) \(interpolation)" }
    }

    static func cases(_ key: String) throws -> [Case] {
        let golden = try TestData.json(TestData.golden + "/golden.json")
        let rows = try #require(golden[key] as? [[Any]])
        return try rows.map { row in
            let name = try #require(row[row.count - 2] as? String)
            return Case(
                numbers: row.compactMap { $0 as? Int }, interpolation: try #require(Interpolation(rawValue: name)),
                digest: try #require(row.last as? String))
        }
    }

    @Test func resizeEqualsPillow() throws {
        let cases = try Self.cases("resize")
        #expect(cases.count == 87)
        for item in cases {
            let n = item.numbers
            let result = resize(
                formula(n[0], n[1]), width: n[2], height: n[3], interpolation: item.interpolation, columns: 0..<n[2],
                rows: 0..<n[3])
            #expect(try sha256(result) == item.digest, "\(item)")
        }
    }

    /// The code for every processor gives what the code for this one gives, which the other tests hold to Pillow.
    @Test func portableCodeIsTheSame() throws {
        let image = formula(61, 83)
        for interpolation in Interpolation.allCases {
            for (width, height) in [(1, 1), (7, 9), (40, 50), (61, 50), (40, 83), (90, 120), (55, 13), (500, 3)] {
                let results = [true, false].map { allowed in
                    resize(
                        image, width: width, height: height, interpolation: interpolation, columns: 0..<width,
                        rows: 0..<height, allowsVectorExtensions: allowed)
                }
                #expect(results[0] == results[1], "\(interpolation) \(width) × \(height)")
            }
        }
    }

    @Test func windowEqualsCutOut() throws {
        let image = formula(61, 83)
        for interpolation in Interpolation.allCases {
            for (width, height) in [(40, 50), (61, 50), (40, 83), (90, 120), (61, 83), (55, 40)] {
                let whole = resize(
                    image, width: width, height: height, interpolation: interpolation, columns: 0..<width,
                    rows: 0..<height)
                let columns = 7..<(width - 4)
                let rows = 5..<(height - 11)
                let window = resize(
                    image, width: width, height: height, interpolation: interpolation, columns: columns, rows: rows)
                let cut = rows.flatMap { row in
                    whole[(row * width + columns.lowerBound) * 3..<(row * width + columns.upperBound) * 3]
                }
                #expect(window == cut, "\(interpolation) \(width) × \(height)")
            }
        }
    }

    @Test func geometryEqualsTorchvision() throws {
        let cases = try Self.cases("geometry")
        #expect(cases.count == 60)
        for item in cases {
            let n = item.numbers
            let preprocessing = try ImagePreprocessing(
                imageSize: n[3], resize: n[2] == 0 ? nil : n[2], interpolation: item.interpolation)
            #expect(try sha256(preprocessing.geometry(formula(n[0], n[1]))) == item.digest, "\(item)")
        }
    }

    @Test func regionEqualsTorchvision() throws {
        let cases = try Self.cases("region")
        #expect(cases.count == 15)
        for item in cases {
            let n = item.numbers
            let preprocessing = try ImagePreprocessing(imageSize: n[6], interpolation: item.interpolation)
            let region = Transformation.Region(x: n[2], y: n[3], width: n[4], height: n[5])
            let plain = render(formula(n[0], n[1]), preprocessing, Transformation(region: region, isMirrored: false))
            #expect(try sha256(plain) == item.digest, "\(item)")
            let mirrored = render(formula(n[0], n[1]), preprocessing, Transformation(region: region, isMirrored: true))
            for y in 0..<n[6] {
                for x in 0..<n[6] {
                    for c in 0..<3 {
                        let expected = plain[(y * n[6] + n[6] - 1 - x) * 3 + c]
                        if mirrored[(y * n[6] + x) * 3 + c] != expected {
                            Issue.record("mirrored \(item) at \(x), \(y)")
                        }
                    }
                }
            }
        }
    }

    @Test func normalizationEqualsTorchvision() throws {
        let preprocessing = try ImagePreprocessing()
        let table = preprocessing.normalizationTable()
        let bytes = table.flatMap { value in withUnsafeBytes(of: value.bitPattern.littleEndian, Array.init) }
        let expected = try #require(try TestData.json(TestData.golden + "/golden.json")["normalize"] as? String)
        #expect(try sha256(bytes) == expected)

        let small = try ImagePreprocessing(imageSize: 2, resize: nil, mean: [0, 0.5, 1], standardDeviation: [1, 2, 4])
        let pixels: [UInt8] = Array(0..<24)
        let tensor = small.normalized(pixels)
        #expect(tensor.shape == [2, 3, 2, 2])
        let floats = try #require(tensor.floats)
        for image in 0..<2 {
            for channel in 0..<3 {
                for index in 0..<4 {
                    let byte = Float(pixels[image * 12 + index * 3 + channel])
                    let expected = (byte / 255 - small.mean[channel]) / small.standardDeviation[channel]
                    #expect(floats[(image * 3 + channel) * 4 + index] == expected)
                }
            }
        }
    }

    @Test func extremeSidesNeedNoGiantIntermediate() throws {
        // Resized completely, this would be 256 × 7,680,000 pixels.
        let preprocessing = try ImagePreprocessing()
        let image = RGBImage(width: 30_000, height: 1, red: 9, green: 8, blue: 7)
        let result = preprocessing.geometry(image)
        #expect(result.count == preprocessing.byteCount)
        #expect(result.prefix(3) == [9, 8, 7] && result.suffix(3) == [9, 8, 7])
    }

    @Test func badValuesAreRefused() {
        #expect(throws: ImagePreprocessing.InvalidValue.self) { try ImagePreprocessing(imageSize: 0) }
        #expect(throws: ImagePreprocessing.InvalidValue.self) { try ImagePreprocessing(resize: -1) }
        #expect(throws: ImagePreprocessing.InvalidValue.self) { try ImagePreprocessing(resize: 1 << 40) }
        #expect(throws: ImagePreprocessing.InvalidValue.self) { try ImagePreprocessing(mean: [0, 0]) }
        #expect(throws: ImagePreprocessing.InvalidValue.self) { try ImagePreprocessing(standardDeviation: [1, 0, 1]) }
        #expect(throws: ImagePreprocessing.InvalidValue.self) { try ImagePreprocessing(mean: [.nan, 0, 0]) }
    }

    @Test func preprocessingSurvivesCoding() throws {
        for resize in [nil, 300] as [Int?] {
            let original = try ImagePreprocessing(
                imageSize: 96, resize: resize, interpolation: .bicubic, mean: [0.1, 0.2, 0.3], exif: .ignore)
            let copy = try JSONDecoder().decode(ImagePreprocessing.self, from: JSONEncoder().encode(original))
            #expect(copy == original)
        }
        let broken = Data(
            #"{"imageSize":-1,"interpolation":"bilinear","mean":[0,0,0],"standardDeviation":[1,1,1],"exif":"apply"}"#
                .utf8)
        #expect(throws: (any Error).self) { try JSONDecoder().decode(ImagePreprocessing.self, from: broken) }
    }

    private func resize(
        _ image: RGBImage, width: Int, height: Int, interpolation: Interpolation, columns: Range<Int>, rows: Range<Int>,
        allowsVectorExtensions: Bool = true
    ) -> [UInt8] {
        let workspace = ImageWorkspace()
        workspace.allowsVectorExtensions = allowsVectorExtensions
        let copy = workspace.decoded.reserve(image.pixels.count)
        for (index, byte) in image.pixels.enumerated() { copy[index] = byte }
        let view = PixelView(
            base: UnsafePointer(copy), width: image.width, height: image.height, stride: image.width * 3)
        // Guard bytes behind the last pixel must stay.
        var result = [UInt8](repeating: 0xA5, count: columns.count * rows.count * 3 + 64)
        result.withUnsafeMutableBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return }
            Resampling.resize(
                view, width: width, height: height, interpolation: interpolation, columns: columns, rows: rows,
                target: base, targetStride: columns.count * 3, workspace: workspace)
        }
        #expect(result.suffix(64).allSatisfy { $0 == 0xA5 })
        return Array(result.dropLast(64))
    }

    private func render(
        _ image: RGBImage, _ preprocessing: ImagePreprocessing, _ transformation: Transformation
    ) -> [UInt8] {
        let workspace = ImageWorkspace()
        let copy = workspace.decoded.reserve(image.pixels.count)
        for (index, byte) in image.pixels.enumerated() { copy[index] = byte }
        let view = PixelView(
            base: UnsafePointer(copy), width: image.width, height: image.height, stride: image.width * 3)
        var result = [UInt8](repeating: 0, count: preprocessing.byteCount)
        result.withUnsafeMutableBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return }
            preprocessing.render(
                DecodedPicture(view), transformation: transformation, into: base, workspace: workspace)
        }
        return result
    }
}
