import GraftGraph
import GraftTensor
import Testing

@Suite("Channel-blocked layout")
struct ChannelBlockedLayoutTests {
    /// 1, 2, 3 …: every element differs and none is zero.
    static func counting(_ kind: ValueKind) -> HostTensor {
        let shape = kind.hostShape
        let count = shape.elementCount
        switch kind {
        case .indices, .labels: return HostTensor(shape: shape, storage: .int32((0..<count).map { Int32($0 + 1) }))
        case .pixels:
            return HostTensor(shape: shape, storage: .uint8((0..<count).map { UInt8(truncatingIfNeeded: $0) }))
        case .activation, .weight, .winogradWeight, .channelVector, .metrics:
            return HostTensor(shape, (0..<count).map { Float($0 + 1) })
        }
    }

    static let weights: [WeightShape] = [
        (1, 1, 1, 1, 1), (5, 3, 3, 3, 1), (33, 17, 3, 2, 1), (64, 32, 1, 1, 1), (65, 63, 5, 5, 1), (10, 6, 3, 3, 2),
        (66, 34, 3, 3, 2), (33, 51, 3, 1, 3), (128, 128, 3, 3, 32), (256, 256, 3, 3, 32), (17, 17, 3, 3, 17),
        (64, 64, 5, 5, 64), (15, 5, 3, 3, 5), (36, 12, 3, 3, 4), (8, 72, 1, 1, 4), (96, 48, 3, 3, 3),
        (40, 200, 1, 1, 5),
    ].map {
        WeightShape(outputChannels: $0, inputChannels: $1, kernelHeight: $2, kernelWidth: $3, groups: $4)
    }

    static let kinds: [ValueKind] = [
        .activation(ActivationShape(1, 1, 1, 1)), .activation(ActivationShape(2, 17, 3, 5)),
        .activation(ActivationShape(3, 33, 7, 2)), .activation(ActivationShape(1, 64, 2, 3)),
        .indices(ActivationShape(2, 5, 3, 4)), .channelVector(1), .channelVector(32), .channelVector(33),
        .pixels(batch: 2, height: 3, width: 5), .labels(batch: 7), .metrics,
    ]

    @Test("what is packed is unpacked", arguments: kinds + weights.map { .weight($0) })
    func roundTrip(kind: ValueKind) throws {
        let tensor = Self.counting(kind)
        let bytes = try ChannelBlockedLayout.pack(tensor, kind: kind)
        #expect(bytes.count == ChannelBlockedLayout.byteCount(of: kind))
        #expect(bytes.withUnsafeBytes { ChannelBlockedLayout.unpack($0, kind: kind) } == tensor)
        guard case .pixels = kind else {
            // Every element lies somewhere once, and all other lanes are zero.
            let words = bytes.withUnsafeBytes { Array($0.bindMemory(to: UInt32.self)) }
            #expect(words.count { $0 != 0 } == tensor.shape.elementCount)
            #expect(Set(words).subtracting([0]).count == tensor.shape.elementCount)
            return
        }
    }

    @Test("an activation's element lies at ((block · N + n) · H · W + pixel) · 16 + lane")
    func activationPlace() throws {
        let s = ActivationShape(2, 17, 3, 5)
        let bytes = try ChannelBlockedLayout.pack(Self.counting(.activation(s)), kind: .activation(s))
        let floats = bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        for (n, c, h, w) in [(0, 0, 0, 0), (1, 3, 2, 4), (0, 16, 1, 2), (1, 16, 2, 0)] {
            let place = ((c / 16 * 2 + n) * 15 + h * 5 + w) * 16 + c % 16
            #expect(floats[place] == Float(((n * 17 + c) * 3 + h) * 5 + w + 1))
        }
    }

    @Test(
        "a weight lies where the doc comment says, within the blocks its group touches",
        arguments: weights.filter { !$0.isDepthwise })
    func weightPlace(weight: WeightShape) throws {
        let blocking = WeightBlocking(weight)
        let bytes = try ChannelBlockedLayout.pack(Self.counting(.weight(weight)), kind: .weight(weight))
        let floats = bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        #expect(floats.count == blocking.elementCount)
        let perGroup = weight.inputChannelsPerGroup
        let positions = weight.kernelHeight * weight.kernelWidth
        var wrong = 0
        for k in 0..<weight.outputChannels {
            let first = blocking.firstInputBlock(of: k / 32)
            for c in 0..<perGroup {
                let channel = k / (weight.outputChannels / weight.groups) * perGroup + c
                let block = channel / 16 - first
                if block < 0 || block >= blocking.inputBlockCount { wrong += 1 }
                for position in 0..<positions {
                    let place =
                        (((k / 32 * positions + position) * blocking.inputBlockCount + block) * 16 + channel % 16) * 32
                        + k % 32
                    if floats[place] != Float((k * perGroup + c) * positions + position + 1) { wrong += 1 }
                }
            }
        }
        #expect(wrong == 0)
    }

    @Test("a compact image lies pixel by pixel", arguments: [1, 2, 3, 4])
    func compactImage(channels: Int) throws {
        let shape = ActivationShape(2, channels, 3, 5).compact
        let kind = ValueKind.activation(shape)
        #expect(ChannelBlockedLayout.byteCount(of: kind) == 4 * shape.elementCount)
        let tensor = Self.counting(kind)
        let bytes = try ChannelBlockedLayout.pack(tensor, kind: kind)
        let floats = bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        let values = try #require(tensor.floats)
        for image in 0..<2 {
            for pixel in 0..<15 {
                for channel in 0..<channels {
                    #expect(
                        floats[(image * 15 + pixel) * channels + channel]
                            == values[(image * channels + channel) * 15 + pixel])
                }
            }
        }
        #expect(bytes.withUnsafeBytes { ChannelBlockedLayout.unpack($0, kind: kind) } == tensor)
        #expect(ChannelBlockedLayout.channelOffset(of: 0..<channels, in: shape) == nil)
    }

    @Test("a depthwise weight's element lies in its channel's lane", arguments: weights.filter(\.isDepthwise))
    func depthwiseWeightPlace(weight: WeightShape) throws {
        let bytes = try ChannelBlockedLayout.pack(Self.counting(.weight(weight)), kind: .weight(weight))
        let floats = bytes.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }
        let positions = weight.kernelHeight * weight.kernelWidth
        var expected = [Float](repeating: 0, count: (weight.outputChannels + 15) / 16 * positions * 16)
        for channel in 0..<weight.outputChannels {
            for position in 0..<positions {
                expected[(channel / 16 * positions + position) * 16 + channel % 16] =
                    Float(channel * positions + position + 1)
            }
        }
        #expect(floats == expected)
    }

    @Test("without groups an output block reads every input block; with them no more than needed")
    func blockCounts() {
        func blocking(_ outputs: Int, _ inputs: Int, _ groups: Int) -> WeightBlocking {
            WeightBlocking(
                WeightShape(
                    outputChannels: outputs, inputChannels: inputs, kernelHeight: 1, kernelWidth: 1, groups: groups))
        }
        #expect(blocking(65, 63, 1).inputBlockCount == 4 && blocking(65, 63, 1).outputBlockCount == 3)
        // ResNeXt: 32 outputs belong to 8 groups of 4 channels, two blocks of 16.
        #expect(blocking(128, 128, 32).inputBlockCount == 2)
        #expect((0..<4).map { blocking(128, 128, 32).firstInputBlock(of: $0) } == [0, 2, 4, 6])
        #expect(blocking(64, 64, 64).inputBlockCount == 2 && blocking(64, 64, 2).inputBlockCount == 2)
    }

    @Test("a tensor of the wrong size or type is an error")
    func mismatch() {
        #expect(throws: DeviceError.self) {
            try ChannelBlockedLayout.pack(HostTensor([2], [1, 2]), kind: .channelVector(3))
        }
        #expect(throws: DeviceError.self) {
            try ChannelBlockedLayout.pack(HostTensor([3], [1, 2, 3]), kind: .labels(batch: 3))
        }
    }
}
