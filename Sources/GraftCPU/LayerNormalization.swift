import GraftCPUKernelInterface
import GraftGraph

/// How the pixels of a layer norm's gradient are cut into partial sums: by shape alone.
struct LayerNormalizationSplit {
    let runCount: Int
    let partialCount: Int

    init(_ shape: ActivationShape) {
        runCount = (shape.pixels + pixelRunLength - 1) / pixelRunLength
        partialCount = max(1, min(runCount, 64))
    }

    func runs(_ partial: Int) -> Range<Int> {
        partial * runCount / partialCount..<(partial + 1) * runCount / partialCount
    }

    /// Both sums of each partial.
    func workspaceFloatCount(_ shape: ActivationShape) -> Int { partialCount * 2 * shape.channelVectorFloats }
}

extension InstructionBinding {
    mutating func bindLayerNormalization(_ shape: ActivationShape, epsilon: Float) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let gamma = try input(1)
        let beta = try input(2)
        let y = try output(0)
        let runs = LayerNormalizationSplit(shape).runCount
        // A few runs per unit.
        let perUnit = 16
        parallel((runs + perUnit - 1) / perUnit, scratchFloats: pixelRunLength * 64) { unit, scratch in
            for run in unit * perUnit..<min((unit + 1) * perUnit, runs) {
                let first = run * pixelRunLength
                kernels.layerNormalization(
                    PixelRun(
                        count: min(pixelRunLength, shape.pixels - first), blockStride: shape.blockFloats,
                        blocks: shape.blocks, channels: shape.channels, epsilon: epsilon, scratch: scratch),
                    x + first * 16, gamma, beta, y + first * 16)
            }
        }
    }

    mutating func bindLayerNormalizationGradient(_ shape: ActivationShape, epsilon: Float) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let dy = try input(1)
        let gamma = try input(2)
        let dx = try output(0)
        let dgamma = try output(1)
        let dbeta = try output(2)
        let split = LayerNormalizationSplit(shape)
        let vectorFloats = shape.channelVectorFloats
        let partials = try workspace(floatCount: split.workspaceFloatCount(shape))
        parallel(split.partialCount, scratchFloats: pixelRunLength * 64) { partial, scratch in
            let sums = partials + partial * 2 * vectorFloats
            kernels.zero(sums, vectorFloats / 8)
            for run in split.runs(partial) {
                let first = run * pixelRunLength
                kernels.layerNormalizationGradient(
                    PixelRun(
                        count: min(pixelRunLength, shape.pixels - first), blockStride: shape.blockFloats,
                        blocks: shape.blocks, channels: shape.channels, epsilon: epsilon, scratch: scratch),
                    x + first * 16, dy + first * 16, gamma, dx + first * 16, sums, sums + vectorFloats)
            }
        }
        parallel(2) { unit, _ in
            kernels.sumPartials(
                partials + unit * vectorFloats, 2 * vectorFloats, split.partialCount, unit == 0 ? dgamma : dbeta,
                vectorFloats / 16)
        }
    }

    mutating func bindLayerScale(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let scale = try input(1)
        let y = try output(0)
        parallel(shape.blocks * shape.batch) { plane, _ in
            let start = plane * shape.planeFloats
            kernels.scaleChannels(x + start, scale + plane / shape.batch * 16, y + start, shape.pixelCount)
        }
    }

    mutating func bindLayerScaleGradient(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let dy = try input(1)
        let result = try output(0)
        let planes = try workspace(floatCount: shape.blocks * shape.batch * 16)
        let vectors = shape.channelVectorFloats / 16
        parallel(shape.blocks * shape.batch) { plane, _ in
            let start = plane * shape.planeFloats
            kernels.sumProducts(x + start, dy + start, shape.pixelCount, planes + plane * 16)
        }
        parallel(vectors) { block, _ in
            if block < shape.blocks {
                kernels.sumPartials(planes + block * shape.batch * 16, 16, shape.batch, result + block * 16, 1)
            } else {
                kernels.zero(result + block * 16, 1)
            }
        }
    }
}
