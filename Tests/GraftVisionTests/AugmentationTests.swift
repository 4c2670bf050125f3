import Foundation
import Testing

@testable import GraftVision

@Suite struct AugmentationTests {
    // MARK: Fixed parameters

    /// The pictures of `Golden/make_augmentation.py`.
    private static func picture(_ kind: String, _ size: Int) -> [UInt8] {
        (0..<size).flatMap { y in
            (0..<size).flatMap { x in
                (0..<3).map { c in
                    switch kind {
                    case "colours":
                        UInt8((((x * (7 + 4 * c) + y * (13 - 3 * c) + 31 * c * x * y / 8) % 256) + 256) % 256)
                    case "narrow": UInt8(60 + (x * 3 + y * 5 + 17 * c) % 90)
                    default: UInt8(128)
                    }
                }
            }
        }
    }

    @Test func operationsAreThoseOfPillowByteForByte() throws {
        let golden = try TestData.json(TestData.golden + "/augmentation.json")
        let size = try #require(golden["size"] as? Int)
        let cases = try #require(golden["cases"] as? [[String: Any]])
        #expect(cases.count > 150)
        var seen: Set<String> = []
        for entry in cases {
            let kind = try #require(entry["picture"] as? String)
            let name = try #require(entry["name"] as? String)
            let arguments = try #require(entry["arguments"] as? [NSNumber]).map(\.doubleValue)
            let first = arguments.first ?? 0
            let operation: PixelOperation?
            switch name {
            case "brightness": operation = .brightness(first)
            case "contrast": operation = .contrast(first)
            case "saturation": operation = .saturation(first)
            case "sharpness": operation = .sharpness(first)
            case "hue": operation = .hue(first)
            case "posterize": operation = .posterize(bits: Int(first))
            case "solarize": operation = .solarize(threshold: first)
            case "autoContrast": operation = .autoContrast
            case "equalize": operation = .equalize
            case "rotate": operation = .rotate(degrees: first)
            default:
                operation = Augmentation.operation(
                    Int(first), magnitude: Int(arguments[1]), isNegative: arguments[2] == 1, imageSize: size)
            }
            seen.insert(name)
            var pixels = Self.picture(kind, size)
            pixels.withUnsafeMutableBufferPointer { buffer in
                guard let base = buffer.baseAddress, let operation else { return }
                PixelSquare(base: base, size: size).apply(operation, mean: [0.5, 0.5, 0.5])
            }
            let wanted = try #require(entry["sha256"] as? String)
            #expect(try sha256(pixels) == wanted, "\(name) \(arguments) of \(kind)")
        }
        #expect(seen.count == 11)
    }

    @Test func erasingPaintsTheMean() {
        var pixels = [UInt8](repeating: 200, count: 5 * 5 * 3)
        pixels.withUnsafeMutableBufferPointer { buffer in
            guard let base = buffer.baseAddress else { return }
            PixelSquare(base: base, size: 5).apply(
                .erase(.init(x: 1, y: 2, width: 3, height: 2)), mean: [0.485, 0.456, 0.406])
        }
        for y in 0..<5 {
            for x in 0..<5 {
                let isInside = (1..<4).contains(x) && (2..<4).contains(y)
                let found = Array(pixels[(y * 5 + x) * 3..<(y * 5 + x) * 3 + 3])
                #expect(found == (isInside ? [124, 116, 104] : [200, 200, 200]))
            }
        }
    }

    // MARK: Drawing

    @Test func drawnParametersStayInTheirRanges() {
        let augmentation = Augmentation(
            cropScale: 0.3, jitter: .init(brightness: 0.2, contrast: 0.3, saturation: 0.4, hue: 0.05),
            randAugment: .init(count: 3, magnitude: 12), eraseProbability: 0.5)
        var kinds: [String: Int] = [:]
        var erased = 0
        var orders: Set<[String]> = []
        for sample in 0..<400 {
            let drawn = augmentation.transformation(
                seed: 3, epoch: 1, sampleIndex: sample, width: 300, height: 200, imageSize: 64)
            let region = drawn.region
            #expect((region?.width ?? 0) * (region?.height ?? 0) >= 16000)
            var order: [String] = []
            for (index, operation) in drawn.operations.enumerated() {
                switch operation {
                case .brightness(let factor) where index < 4: #expect((0.8...1.2).contains(factor))
                case .contrast(let factor) where index < 4: #expect((0.7...1.3).contains(factor))
                case .saturation(let factor) where index < 4: #expect((0.6...1.4).contains(factor))
                case .hue(let share): #expect(abs(share) <= 0.05)
                case .erase(let area):
                    erased += 1
                    #expect(area.x >= 0 && area.y >= 0 && area.x + area.width <= 64 && area.y + area.height <= 64)
                    #expect((0.015...0.35).contains(Double(area.width * area.height) / 4096))
                default: break
                }
                let kind = String("\(operation)".prefix { $0 != "(" })
                if index < 4 { order.append(kind) } else { kinds[kind, default: 0] += 1 }
            }
            orders.insert(order)
        }
        // All orders of the jitter, all operations of RandAugment, and erasing in about half of the cases.
        #expect(orders.count == 24)
        #expect(kinds.count == 12)
        #expect((150...250).contains(erased))
    }

    @Test func changesDependOnSeedEpochAndSampleAlone() {
        func drawn(_ seed: UInt64, _ epoch: Int, _ sample: Int) -> Transformation {
            Augmentation.strong.transformation(
                seed: seed, epoch: epoch, sampleIndex: sample, width: 100, height: 80, imageSize: 32)
        }
        #expect(drawn(1, 2, 3) == drawn(1, 2, 3))
        #expect(drawn(1, 2, 3) != drawn(2, 2, 3))
        #expect(drawn(1, 2, 3) != drawn(1, 3, 3))
        #expect(drawn(1, 2, 3) != drawn(1, 2, 4))
    }

    // MARK: Text

    @Test(arguments: [
        ("crop,flip", Augmentation.standard), ("flip,crop:0.08", .standard),
        ("crop,flip,randaugment,erase:0.25", .strong), ("randaugment:2:9,erase:0.25,flip,crop", .strong),
        ("jitter", Augmentation(jitter: .init())),
        ("jitter:0.2", Augmentation(jitter: .init(brightness: 0.2, contrast: 0.2, saturation: 0.2, hue: 0))),
        (
            "jitter:0.2:0.3:0.4:0.1",
            Augmentation(jitter: .init(brightness: 0.2, contrast: 0.3, saturation: 0.4, hue: 0.1))
        ),
        ("erase", Augmentation(eraseProbability: 0.5)),
    ])
    func textsAreRead(_ text: String, _ expected: Augmentation) {
        #expect(Augmentation(rawValue: text) == expected)
        #expect(Augmentation(rawValue: expected.rawValue) == expected)
    }

    @Test(arguments: [
        "", "crops", "crop,crop", "crop:0", "crop:2", "flip:1", "jitter:2", "jitter:0.1:0.1:0.1:0.6", "randaugment:0",
        "randaugment:2:31", "randaugment:2.5", "erase:1.5", "erase:nan", "flip,", "none,flip",
    ])
    func otherTextsAreNot(_ text: String) {
        #expect(Augmentation(rawValue: text) == nil)
    }
}
