import GraftTensor

/// The memory layout of the CPU kernel classes, in Swift and in OpenCL C alike.
///
/// - Activation (and int32 indices): `[⌈C/16⌉][N][H][W][16]`, the channel block outermost, the batch inside it. Lanes
///   of channels that do not exist hold zero, always. A compact one (``ActivationShape/isCompact``): `[N][H][W][C]`.
/// - Winograd weight: the weight's transform, laid out as a weight with 6×6 kernels.
/// - Channel vector: `⌈C/32⌉ · 32` floats, zero behind the last channel.
/// - Weight `[K, C/groups, R, S]`: `[⌈K/32⌉][R·S][B][16][32]`, for a block of 32 output channels, kernel position,
///   input block and input lane. Output block `kb` reads the `B` input blocks from ``WeightBlocking/firstInputBlock(of:)``,
///   those that its groups touch; without groups all of them. Weights between channels of different groups, and of
///   channels that do not exist, are zero. Gradients and optimizer state have the same layout and the same zeros.
///   Depthwise (``WeightShape/isDepthwise``): `[⌈C/16⌉][R·S][16]`.
/// - Pixels, labels, metrics: as on the host.
package enum ChannelBlockedLayout {
    /// Channels per activation block: one vector of 16 floats.
    package static let block = 16
    /// Output channels per weight block.
    package static let outputBlock = 32

    /// Where whole blocks of channels begin, in bytes; nil for a range that shares a block with other channels.
    package static func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? {
        guard !shape.isCompact, channels.lowerBound % block == 0,
            channels.upperBound % block == 0 || channels.upperBound == shape.channels
        else { return nil }
        return 4 * channels.lowerBound * shape.batch * shape.pixelCount
    }

    /// Bytes of a value.
    package static func byteCount(of kind: ValueKind) -> Int {
        switch kind {
        case .activation(let shape) where shape.isCompact: 4 * shape.elementCount
        case .activation(let shape), .indices(let shape):
            4 * blockCount(shape.channels) * shape.batch * shape.pixelCount * block
        case .weight(let weight): 4 * WeightBlocking(weight).elementCount
        case .winogradWeight(let weight): 4 * WeightBlocking(weight.winograd).elementCount
        case .channelVector(let count): 4 * ((count + outputBlock - 1) / outputBlock) * outputBlock
        case .pixels(let batch, let height, let width): batch * height * width * 3
        case .labels(let batch): 4 * batch
        case .metrics: 8
        }
    }

    /// ⌈channels/16⌉.
    package static func blockCount(_ channels: Int) -> Int { (channels + block - 1) / block }

    /// Converts a host tensor of the kind's host shape to this layout.
    package static func pack(_ tensor: HostTensor, kind: ValueKind) throws(DeviceError) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: byteCount(of: kind))
        var failure: DeviceError?
        bytes.withUnsafeMutableBytes { target in
            do throws(DeviceError) {
                try pack(tensor, kind: kind, into: target)
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Runs `body` for each of so many units, on any threads, and returns when all are done.
    package typealias Distribution = (_ unitCount: Int, _ body: @Sendable (Int) -> Void) -> Void

    private static func inOrder(_ unitCount: Int, _ body: (Int) -> Void) {
        for unit in 0..<unitCount { body(unit) }
    }

    /// Below this many bytes waking threads takes longer than the pass.
    private static let leastDistributedByteCount = 1 << 18

    /// The same, written to memory of at least ``byteCount(of:)`` bytes, aligned for its elements. One pass; that over
    /// an activation is shared out by channel block and image.
    package static func pack(
        _ tensor: HostTensor, kind: ValueKind, into target: UnsafeMutableRawBufferPointer,
        distribution: Distribution = inOrder
    ) throws(DeviceError) {
        guard tensor.shape.elementCount == kind.hostShape.elementCount else {
            throw DeviceError.dataMismatch(
                "a tensor of shape \(tensor.shape) was written to a value of shape \(kind.hostShape)")
        }
        let byteCount = byteCount(of: kind)
        guard byteCount <= target.count else {
            throw DeviceError.dataMismatch("\(byteCount) bytes were written to memory of \(target.count)")
        }
        let target = UnsafeMutableRawBufferPointer(rebasing: target[..<byteCount])
        let distribution = byteCount < leastDistributedByteCount ? inOrder : distribution
        switch (kind, tensor.storage) {
        case (.activation(let shape), .float32(let values)) where shape.isCompact:
            copyToPixels(values, shape, target, distribution)
        case (.activation(let shape), .float32(let values)): copyToBlocks(values, shape, target, distribution)
        case (.indices(let shape), .int32(let values)): copyToBlocks(values, shape, target, distribution)
        case (.weight(let weight), .float32(let values)): copyToBlocks(values, weight, target, distribution)
        case (.winogradWeight(let weight), .float32(let values)):
            copyTransformToBlocks(values, weight, target, distribution)
        case (.channelVector, .float32(let values)), (.metrics, .float32(let values)): copyPrefix(values, target)
        case (.labels, .int32(let values)): copyPrefix(values, target)
        case (.pixels, .uint8(let values)): copyPrefix(values, target)
        case (.activation, _), (.indices, _), (.weight, _), (.winogradWeight, _), (.channelVector, _), (.metrics, _),
            (.labels, _), (.pixels, _):
            throw DeviceError.dataMismatch(
                "a tensor of the wrong element type was written to a value of shape \(kind.hostShape)")
        }
    }

    /// Converts memory in this layout to a host tensor.
    package static func unpack(_ bytes: UnsafeRawBufferPointer, kind: ValueKind) -> HostTensor {
        let shape = kind.hostShape
        switch kind {
        case .activation(let extents) where extents.isCompact:
            return HostTensor(shape, copyFromPixels(bytes.bindMemory(to: Float.self), extents))
        case .activation(let extents):
            return HostTensor(shape, copyFromBlocks(bytes.bindMemory(to: Float.self), extents, zero: 0))
        case .indices(let extents):
            return HostTensor(
                shape: shape, storage: .int32(copyFromBlocks(bytes.bindMemory(to: Int32.self), extents, zero: 0)))
        case .weight(let weight): return HostTensor(shape, copyFromBlocks(bytes.bindMemory(to: Float.self), weight))
        case .winogradWeight(let weight):
            let transformed = copyFromBlocks(bytes.bindMemory(to: Float.self), weight.winograd)
            return HostTensor(shape, Winograd.weight(transformed: transformed))
        case .channelVector, .metrics:
            return HostTensor(shape, Array(bytes.bindMemory(to: Float.self).prefix(shape.elementCount)))
        case .labels:
            return HostTensor(
                shape: shape, storage: .int32(Array(bytes.bindMemory(to: Int32.self).prefix(shape.elementCount))))
        case .pixels:
            return HostTensor(shape: shape, storage: .uint8(Array(bytes.prefix(shape.elementCount))))
        }
    }

    private static func copyPrefix<Element>(_ values: [Element], _ target: UnsafeMutableRawBufferPointer) {
        values.withUnsafeBytes { source in
            target.copyMemory(from: source)
            UnsafeMutableRawBufferPointer(rebasing: target[source.count...]).initializeMemory(
                as: UInt8.self, repeating: 0)
        }
    }

    private static func copyToBlocks(
        _ values: [Float], _ weight: WeightShape, _ target: UnsafeMutableRawBufferPointer, _ distribution: Distribution
    ) {
        values.withUnsafeBufferPointer { values in
            nonisolated(unsafe) let values = values
            forEachBlock(of: WeightBlocking(weight), target, distribution) { _, copy in copy(values, 0) }
        }
    }

    /// The same of ``Winograd/transform(weight:)``, of which only an output block exists at a time.
    private static func copyTransformToBlocks(
        _ values: [Float], _ weight: WeightShape, _ target: UnsafeMutableRawBufferPointer, _ distribution: Distribution
    ) {
        let filterSize = weight.inputChannelsPerGroup * weight.kernelHeight * weight.kernelWidth
        values.withUnsafeBufferPointer { values in
            nonisolated(unsafe) let values = values
            forEachBlock(of: WeightBlocking(weight.winograd), target, distribution) { block, copy in
                let filters = block * outputBlock..<min((block + 1) * outputBlock, weight.outputChannels)
                let transformed = Winograd.transform(
                    weight: UnsafeBufferPointer(
                        rebasing: values[filters.lowerBound * filterSize..<filters.upperBound * filterSize]))
                transformed.withUnsafeBufferPointer {
                    copy($0, filters.lowerBound * weight.inputChannelsPerGroup * Winograd.productCount)
                }
            }
        }
    }

    /// Calls `body(block, copy)` for each output block, on any threads; `copy(values, first)` writes the block, zeros
    /// included, from `values`, which begin with the weight's element `first`.
    private static func forEachBlock(
        of blocking: WeightBlocking, _ target: UnsafeMutableRawBufferPointer, _ distribution: Distribution,
        _ body: @escaping @Sendable (Int, (_ values: UnsafeBufferPointer<Float>, _ first: Int) -> Void) -> Void
    ) {
        let stride = target.count / max(blocking.runBlockCount, 1)
        // Every unit writes an output block of its own.
        nonisolated(unsafe) let target = target
        distribution(blocking.runBlockCount) { block in
            body(block) { values, first in
                UnsafeMutableRawBufferPointer(rebasing: target[block * stride..<(block + 1) * stride])
                    .initializeMemory(as: UInt8.self, repeating: 0)
                let packed = target.bindMemory(to: Float.self)
                blocking.forEachRun(of: block) { logical, offset, count, logicalStride in
                    let from = logical - first
                    for lane in 0..<count { packed[offset + lane] = values[from + lane * logicalStride] }
                }
            }
        }
    }

    private static func copyFromBlocks(_ packed: UnsafeBufferPointer<Float>, _ weight: WeightShape) -> [Float] {
        let elementCount = weight.elementCount
        return [Float](unsafeUninitializedCapacity: elementCount) { target, initialized in
            let blocking = WeightBlocking(weight)
            for block in 0..<blocking.runBlockCount {
                blocking.forEachRun(of: block) { logical, offset, count, logicalStride in
                    for lane in 0..<count { target[logical + lane * logicalStride] = packed[offset + lane] }
                }
            }
            initialized = elementCount
        }
    }

    /// `[N][C][H][W]` to `[N][H][W][C]`, shared out by image.
    private static func copyToPixels(
        _ values: [Float], _ shape: ActivationShape, _ target: UnsafeMutableRawBufferPointer,
        _ distribution: Distribution
    ) {
        let (channels, pixels) = (shape.channels, shape.pixelCount)
        values.withUnsafeBufferPointer { values in
            guard let host = values.baseAddress, let memory = target.bindMemory(to: Float.self).baseAddress else {
                return
            }
            // Every unit writes an image of its own.
            nonisolated(unsafe) let target = memory
            nonisolated(unsafe) let source = host
            distribution(shape.batch) { image in
                let planes = source + image * channels * pixels
                let output = target + image * channels * pixels
                if channels == 3 {
                    for pixel in 0..<pixels {
                        output[pixel * 3] = planes[pixel]
                        output[pixel * 3 + 1] = planes[pixels + pixel]
                        output[pixel * 3 + 2] = planes[2 * pixels + pixel]
                    }
                } else {
                    for pixel in 0..<pixels {
                        for channel in 0..<channels {
                            output[pixel * channels + channel] = planes[channel * pixels + pixel]
                        }
                    }
                }
            }
        }
    }

    private static func copyFromPixels(_ packed: UnsafeBufferPointer<Float>, _ shape: ActivationShape) -> [Float] {
        let (channels, pixels) = (shape.channels, shape.pixelCount)
        return [Float](unsafeUninitializedCapacity: shape.elementCount) { target, initialized in
            for image in 0..<shape.batch {
                let first = image * channels * pixels
                for channel in 0..<channels {
                    for pixel in 0..<pixels {
                        target[first + channel * pixels + pixel] = packed[first + pixel * channels + channel]
                    }
                }
            }
            initialized = shape.elementCount
        }
    }

    /// Pixel by pixel, so that the target is written once and in order. Elements are of four bytes.
    private static func copyToBlocks<Element: BitwiseCopyable>(
        _ values: [Element], _ shape: ActivationShape, _ target: UnsafeMutableRawBufferPointer,
        _ distribution: Distribution
    ) {
        let pixels = shape.pixelCount
        let packed = target.bindMemory(to: UInt32.self)
        values.withUnsafeBytes { bytes in
            guard shape.batch > 0, let packed = packed.baseAddress,
                let values = bytes.bindMemory(to: UInt32.self).baseAddress
            else { return }
            // Every unit writes pixels of its own.
            nonisolated(unsafe) let target = packed
            nonisolated(unsafe) let source = values
            distribution(blockCount(shape.channels) * shape.batch) { unit in
                let first = unit / shape.batch * block
                let lanes = min(block, shape.channels - first)
                let planes = source + (unit % shape.batch * shape.channels + first) * pixels
                var output = target + unit * pixels * block
                if lanes == block {
                    for pixel in 0..<pixels {
                        for lane in 0..<16 { output[lane] = planes[lane * pixels + pixel] }
                        output += block
                    }
                } else {
                    for pixel in 0..<pixels {
                        UnsafeMutableRawPointer(output).storeBytes(
                            of: SIMD16<UInt32>.zero, as: SIMD16<UInt32>.self)
                        for lane in 0..<lanes { output[lane] = planes[lane * pixels + pixel] }
                        output += block
                    }
                }
            }
        }
    }

    private static func copyFromBlocks<Element>(
        _ packed: UnsafeBufferPointer<Element>, _ shape: ActivationShape, zero: Element
    ) -> [Element] {
        let pixels = shape.pixelCount
        return [Element](unsafeUninitializedCapacity: shape.elementCount) { target, initialized in
            for n in 0..<shape.batch {
                for c in 0..<shape.channels {
                    let source = (n * shape.channels + c) * pixels
                    let start = ((c / block) * shape.batch + n) * pixels * block + c % block
                    for pixel in 0..<pixels { target[source + pixel] = packed[start + pixel * block] }
                }
            }
            initialized = shape.elementCount
        }
    }
}

/// Which input blocks each block of 32 output channels reads, and where its weights lie.
package struct WeightBlocking: Hashable, Sendable {
    package let shape: WeightShape
    /// ⌈K/32⌉.
    package let outputBlockCount: Int
    /// B: input blocks of 16 per output block, the same for all.
    package let inputBlockCount: Int

    package init(_ shape: WeightShape) {
        self.shape = shape
        outputBlockCount = (shape.outputChannels + 31) / 32
        let total = ChannelBlockedLayout.blockCount(shape.inputChannels)
        var widest = 1
        for block in 0..<outputBlockCount {
            let channels = Self.inputChannels(of: block, shape)
            widest = max(widest, (channels.upperBound + 15) / 16 - channels.lowerBound / 16)
        }
        inputBlockCount = min(widest, total)
    }

    /// Floats in memory.
    package var elementCount: Int {
        if shape.isDepthwise {
            return ChannelBlockedLayout.blockCount(shape.outputChannels) * shape.kernelHeight * shape.kernelWidth * 16
        }
        return outputBlockCount * shape.kernelHeight * shape.kernelWidth * inputBlockCount * 16 * 32
    }

    /// The first of the ``inputBlockCount`` input blocks that output block `block` reads.
    package func firstInputBlock(of block: Int) -> Int {
        let total = ChannelBlockedLayout.blockCount(shape.inputChannels)
        return min(Self.inputChannels(of: block, shape).lowerBound / 16, total - inputBlockCount)
    }

    private static func inputChannels(of block: Int, _ shape: WeightShape) -> Range<Int> {
        let outputsPerGroup = max(shape.outputChannels / shape.groups, 1)
        let first = block * 32 / outputsPerGroup
        let last = (min(block * 32 + 32, shape.outputChannels) - 1) / outputsPerGroup
        return first * shape.inputChannelsPerGroup..<(last + 1) * shape.inputChannelsPerGroup
    }

    /// Blocks of output channels, one behind the other in memory: of 16 channels for depthwise weights, else of 32.
    package var runBlockCount: Int {
        shape.isDepthwise ? ChannelBlockedLayout.blockCount(shape.outputChannels) : outputBlockCount
    }

    /// Calls `body(logical index, packed offset, count, logical stride)` for each run of output lanes of one group in one
    /// of the ``runBlockCount`` blocks.
    package func forEachRun(of block: Int, _ body: (Int, Int, Int, Int) -> Void) {
        let positions = shape.kernelHeight * shape.kernelWidth
        if shape.isDepthwise {
            let first = block * 16
            for position in 0..<positions {
                body(
                    first * positions + position, (block * positions + position) * 16,
                    min(16, shape.outputChannels - first), positions)
            }
            return
        }
        let perGroup = shape.inputChannelsPerGroup
        let outputsPerGroup = max(shape.outputChannels / shape.groups, 1)
        let stride = perGroup * positions
        let firstInput = firstInputBlock(of: block) * 16
        var output = block * 32
        let end = min(output + 32, shape.outputChannels)
        while output < end {
            let group = output / outputsPerGroup
            let runEnd = min(end, (group + 1) * outputsPerGroup)
            for position in 0..<positions {
                for channel in 0..<perGroup {
                    let lane = group * perGroup + channel - firstInput
                    let offset = ((block * positions + position) * inputBlockCount * 16 + lane) * 32 + output % 32
                    body((output * perGroup + channel) * positions + position, offset, runEnd - output, stride)
                }
            }
            output = runEnd
        }
    }
}
