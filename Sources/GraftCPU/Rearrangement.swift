import GraftCPUKernelInterface
import GraftGraph

extension InstructionBinding {
    /// Channels `sourceFirst ..< sourceFirst + count` of the source become channels from `targetFirst` on, pixel by pixel.
    private struct ChannelRun {
        var source: UnsafePointer<Float>
        var sourceFirst: Int
        var targetFirst: Int
        var count: Int
    }

    mutating func bindConcatenation(_ shape: ActivationShape, _ channels: [Int]) throws(DeviceError) {
        var runs: [ChannelRun] = []
        var first = 0
        let output = try output(0)
        for (index, count) in channels.enumerated() {
            runs.append(ChannelRun(source: try input(index), sourceFirst: 0, targetFirst: first, count: count))
            first += count
        }
        gatherChannels(runs, shape, output)
    }

    mutating func bindChannelSlice(_ shape: ActivationShape, offset: Int, count: Int) throws(DeviceError) {
        let run = ChannelRun(source: try input(0), sourceFirst: offset, targetFirst: 0, count: count)
        gatherChannels([run], shape.with(channels: count), try output(0))
    }

    /// One unit per plane of the target: runs that lie on block boundaries are copied, others lane by lane.
    private mutating func gatherChannels(
        _ runs: [ChannelRun], _ target: ActivationShape, _ y: UnsafeMutablePointer<Float>
    ) {
        let kernels = kernels
        let pixels = target.pixelCount
        // What the memory plan had written where it belongs fills whole blocks.
        let inPlace = runs.filter { $0.source == UnsafePointer(y) + $0.targetFirst / 16 * target.blockFloats }
        let blocks = (0..<target.blocks).filter { block in
            !inPlace.contains { ($0.targetFirst..<$0.targetFirst + $0.count).contains(block * 16) }
        }
        parallel(blocks.count * target.batch) { unit, _ in
            let block = blocks[unit / target.batch]
            let image = unit % target.batch
            let output = y + (block * target.batch + image) * target.planeFloats
            let channels = block * 16..<min(block * 16 + 16, target.channels)
            if channels.count < 16 { kernels.zero(output, pixels) }
            for run in runs {
                let wanted = channels.clamped(to: run.targetFirst..<run.targetFirst + run.count)
                if wanted.isEmpty { continue }
                var channel = wanted.lowerBound
                while channel < wanted.upperBound {
                    let sourceChannel = channel - run.targetFirst + run.sourceFirst
                    let count = min(wanted.upperBound - channel, 16 - sourceChannel % 16)
                    let source = run.source + ((sourceChannel / 16) * target.batch + image) * target.planeFloats
                    if count == 16 {
                        kernels.copy(source, output, pixels)
                    } else {
                        moveLanes(source + sourceChannel % 16, output + channel % 16, count, pixels, 16)
                    }
                    channel += count
                }
            }
        }
    }

    mutating func bindFlatten(_ shape: ActivationShape) throws(DeviceError) {
        let x = try input(0)
        let y = try output(0)
        let pixels = shape.pixelCount
        let total = shape.channels * pixels
        // A channel block's features begin at a multiple of 16, so units never share a vector.
        parallel(shape.blocks * shape.batch) { plane, _ in
            let block = plane / shape.batch
            let image = plane % shape.batch
            let source = x + plane * shape.planeFloats
            for index in 0..<pixels * 16 {
                let feature = block * 16 * pixels + index
                guard feature < (total + 15) / 16 * 16 else { break }
                let value = feature < total ? source[index % pixels * 16 + index / pixels] : 0
                y[((feature / 16) * shape.batch + image) * 16 + feature % 16] = value
            }
        }
    }

    mutating func bindFlattenGradient(_ shape: ActivationShape) throws(DeviceError) {
        let dy = try input(0)
        let dx = try output(0)
        let pixels = shape.pixelCount
        parallel(shape.blocks * shape.batch) { plane, _ in
            let block = plane / shape.batch
            let image = plane % shape.batch
            let target = dx + plane * shape.planeFloats
            let lanes = shape.lanes(of: block)
            for lane in 0..<16 {
                for pixel in 0..<pixels {
                    let feature = (block * 16 + lane) * pixels + pixel
                    target[pixel * 16 + lane] =
                        lane < lanes ? dy[((feature / 16) * shape.batch + image) * 16 + feature % 16] : 0
                }
            }
        }
    }

    mutating func bindSubsampleAndPad(
        _ shape: ActivationShape, stride: Int, before: Int, after: Int
    ) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let y = try output(0)
        let output = ActivationShape(
            shape.batch, before + shape.channels + after, (shape.height + stride - 1) / stride,
            (shape.width + stride - 1) / stride)
        parallel(output.blocks * output.batch) { plane, _ in
            let block = plane / output.batch
            let image = plane % output.batch
            let target = y + plane * output.planeFloats
            kernels.zero(target, output.pixelCount)
            var channel = max(block * 16, before)
            let end = min(block * 16 + 16, before + shape.channels)
            while channel < end {
                let sourceChannel = channel - before
                let count = min(end - channel, 16 - sourceChannel % 16)
                let source = x + ((sourceChannel / 16) * shape.batch + image) * shape.planeFloats + sourceChannel % 16
                for row in 0..<output.height {
                    moveLanes(
                        source + row * stride * shape.width * 16, target + row * output.width * 16 + channel % 16,
                        count,
                        output.width, stride * 16)
                }
                channel += count
            }
        }
    }

    mutating func bindSubsampleAndPadGradient(
        _ shape: ActivationShape, stride: Int, before: Int, after: Int
    ) throws(DeviceError) {
        let kernels = kernels
        let dy = try input(0)
        let dx = try output(0)
        let output = ActivationShape(
            shape.batch, before + shape.channels + after, (shape.height + stride - 1) / stride,
            (shape.width + stride - 1) / stride)
        parallel(shape.blocks * shape.batch) { plane, _ in
            let block = plane / shape.batch
            let image = plane % shape.batch
            let target = dx + plane * shape.planeFloats
            kernels.zero(target, shape.pixelCount)
            var channel = block * 16
            let end = min(block * 16 + 16, shape.channels)
            while channel < end {
                let outputChannel = channel + before
                let count = min(end - channel, 16 - outputChannel % 16)
                let source =
                    dy + ((outputChannel / 16) * output.batch + image) * output.planeFloats + outputChannel % 16
                for row in 0..<output.height {
                    for column in 0..<output.width {
                        let from = source + (row * output.width + column) * 16
                        let to = target + (row * stride * shape.width + column * stride) * 16 + channel % 16
                        for lane in 0..<count { to[lane] = from[lane] }
                    }
                }
                channel += count
            }
        }
    }
}

/// Copies `count` neighbouring lanes of each pixel; the target's pixels follow each other, the source's are `step` floats apart.
private func moveLanes(
    _ source: UnsafePointer<Float>, _ target: UnsafeMutablePointer<Float>, _ count: Int, _ pixels: Int, _ step: Int
) {
    for pixel in 0..<pixels {
        for lane in 0..<count { target[pixel * 16 + lane] = source[pixel * step + lane] }
    }
}
