import GraftCPUKernelInterface
import GraftGraph

extension ActivationShape {
    /// Floats of a channel vector: whole blocks of 32.
    var channelVectorFloats: Int { (channels + 31) / 32 * 32 }

    /// Lanes of a channel block that are channels.
    func lanes(of block: Int) -> Int { min(16, channels - block * 16) }
}

/// Zeroes the lanes of the 16 floats at `block` that are no channels, and the second half of the last block of 32.
private func clearPadding(_ vector: UnsafeMutablePointer<Float>, _ block: Int, _ shape: ActivationShape) {
    for lane in shape.lanes(of: block)..<16 { vector[block * 16 + lane] = 0 }
    if block == shape.blocks - 1 {
        for index in shape.blocks * 16..<max(shape.blocks * 16, shape.channelVectorFloats) { vector[index] = 0 }
    }
}

extension InstructionBinding {
    /// A loop over pieces of channel planes: `body(block, first float, vectors, scratch)`.
    private mutating func parallelPlanes(
        _ shape: ActivationShape, _ body: @escaping (Int, Int, Int, UnsafeMutablePointer<Float>) -> Void
    ) {
        let piece = 1024
        let pieces = (shape.pixels + piece - 1) / piece
        parallel(shape.blocks * pieces, scratchFloats: 128) { unit, scratch in
            let block = unit / pieces
            let first = unit % pieces * piece
            body(block, (block * shape.pixels + first) * 16, min(piece, shape.pixels - first), scratch)
        }
    }

    mutating func bindBatchNormalizationTraining(
        _ shape: ActivationShape, epsilon: Float, momentum: Float, _ epilogue: Epilogue
    ) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let gamma = try input(1)
        let beta = try input(2)
        let oldMean = try input(3)
        let oldVariance = try input(4)
        let residual = epilogue.residual ? try input(5) : nil
        let y = try output(0)
        let mean = try output(1)
        let inverse = try output(2)
        let runningMean = try output(3)
        let runningVariance = try output(4)
        let chunks = PlaneChunks(shape)
        let partials = try workspace(floatCount: shape.blocks * chunks.count * 48)

        parallel(shape.blocks * chunks.count) { unit, _ in
            let range = chunks.range(unit % chunks.count)
            let start = x + ((unit / chunks.count) * shape.pixels + range.lowerBound) * 16
            kernels.moments(start, range.count, partials + unit * 48)
        }
        parallel(shape.blocks) { block, _ in
            let count = Double(shape.pixels)
            for lane in 0..<shape.lanes(of: block) {
                let first = partials + block * chunks.count * 48 + lane
                func chunkMean(_ chunk: Int) -> Double { Double(first[chunk * 48]) + Double(first[chunk * 48 + 16]) }
                // Means and squares of the pieces are joined in their order (Chan, Golub and LeVeque 1979).
                var sum = 0.0
                for chunk in 0..<chunks.count { sum += chunkMean(chunk) * Double(chunks.range(chunk).count) }
                let center = sum / count
                var squares = 0.0
                for chunk in 0..<chunks.count {
                    let distance = chunkMean(chunk) - center
                    squares += Double(first[chunk * 48 + 32]) + Double(chunks.range(chunk).count) * distance * distance
                }
                squares = squares < 0 ? 0 : squares
                let channel = block * 16 + lane
                mean[channel] = Float(center)
                inverse[channel] = Float(1 / (squares / count + Double(epsilon)).squareRoot())
                // A single value has no unbiased variance; zero keeps the running one finite.
                let unbiased = Float(squares / max(count - 1, 1))
                runningMean[channel] = (1 - momentum) * oldMean[channel] + momentum * Float(center)
                runningVariance[channel] = (1 - momentum) * oldVariance[channel] + momentum * unbiased
            }
            clearPadding(mean, block, shape)
            clearPadding(inverse, block, shape)
            clearPadding(runningMean, block, shape)
            clearPadding(runningVariance, block, shape)
        }
        normalizePlanes(
            shape, x: x, gamma: gamma, beta: beta, mean: mean, inverse: inverse, residual: residual,
            epilogue, y: y)
    }

    mutating func bindBatchNormalizationReplay(_ shape: ActivationShape, _ epilogue: Epilogue) throws(DeviceError) {
        normalizePlanes(
            shape, x: try input(0), gamma: try input(1), beta: try input(2), mean: try input(3), inverse: try input(4),
            residual: epilogue.residual ? try input(5) : nil, epilogue, y: try output(0))
    }

    /// `y = (x − mean) · gamma · inverse + beta`, and the epilogue.
    private mutating func normalizePlanes(
        _ shape: ActivationShape, x: UnsafePointer<Float>, gamma: UnsafePointer<Float>, beta: UnsafePointer<Float>,
        mean: UnsafePointer<Float>, inverse: UnsafePointer<Float>, residual: UnsafePointer<Float>?,
        _ epilogue: Epilogue, y: UnsafeMutablePointer<Float>
    ) {
        let kernels = kernels
        let code = epilogue.furtherActivation?.code
        parallelPlanes(shape) { block, start, vectors, scratch in
            for lane in 0..<16 { scratch[lane] = gamma[block * 16 + lane] * inverse[block * 16 + lane] }
            kernels.normalize(
                x + start, mean + block * 16, scratch, beta + block * 16, residual.map { $0 + start },
                epilogue.relu, y + start, vectors)
            if let code { kernels.activate(code, y + start, y + start, vectors, shape.lanes(of: block)) }
        }
    }

    mutating func bindBatchNormalizationInference(
        _ shape: ActivationShape, epsilon: Float, _ epilogue: Epilogue
    ) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let gamma = try input(1)
        let beta = try input(2)
        let mean = try input(3)
        let variance = try input(4)
        let residual = epilogue.residual ? try input(5) : nil
        let y = try output(0)
        let code = epilogue.furtherActivation?.code
        parallelPlanes(shape) { block, start, vectors, scratch in
            inferenceScale(gamma, variance, epsilon, block, scratch)
            kernels.normalize(
                x + start, mean + block * 16, scratch, beta + block * 16, residual.map { $0 + start }, epilogue.relu,
                y + start,
                vectors)
            if let code { kernels.activate(code, y + start, y + start, vectors, shape.lanes(of: block)) }
        }
    }

    mutating func bindBatchNormalizationTrainingGradient(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let dy = try input(1)
        let gamma = try input(2)
        let mean = try input(3)
        let inverse = try input(4)
        let dx = try output(0)
        let dgamma = try output(1)
        let dbeta = try output(2)
        let chunks = PlaneChunks(shape)
        let partials = try workspace(floatCount: shape.blocks * chunks.count * 32)

        parallel(shape.blocks * chunks.count) { unit, _ in
            let block = unit / chunks.count
            let range = chunks.range(unit % chunks.count)
            let start = (block * shape.pixels + range.lowerBound) * 16
            kernels.gradientSums(
                x + start, dy + start, mean + block * 16, range.count, partials + unit * 32, partials + unit * 32 + 16)
        }
        parallel(shape.blocks) { block, _ in
            for lane in 0..<shape.lanes(of: block) {
                let first = partials + block * chunks.count * 32 + lane
                var sum = 0.0
                var product = 0.0
                for chunk in 0..<chunks.count {
                    sum += Double(first[chunk * 32])
                    product += Double(first[chunk * 32 + 16])
                }
                dbeta[block * 16 + lane] = Float(sum)
                dgamma[block * 16 + lane] = Float(product * Double(inverse[block * 16 + lane]))
            }
            clearPadding(dbeta, block, shape)
            clearPadding(dgamma, block, shape)
        }
        let count = Float(shape.pixels)
        parallelPlanes(shape) { block, start, vectors, scratch in
            for lane in 0..<16 {
                let channel = block * 16 + lane
                scratch[lane] = gamma[channel] * inverse[channel]
                scratch[16 + lane] = dbeta[channel] / count
                scratch[32 + lane] = dgamma[channel] * inverse[channel] / count
            }
            kernels.normalizationGradient(
                x + start, dy + start, mean + block * 16, scratch, scratch + 16, scratch + 32, dx + start, vectors)
        }
    }

    mutating func bindBatchNormalizationInferenceGradient(_ shape: ActivationShape, epsilon: Float) throws(DeviceError)
    {
        let kernels = kernels
        let dy = try input(0)
        let gamma = try input(1)
        let variance = try input(2)
        let dx = try output(0)
        parallelPlanes(shape) { block, start, vectors, scratch in
            inferenceScale(gamma, variance, epsilon, block, scratch)
            kernels.scaleChannels(dy + start, scratch, dx + start, vectors)
        }
    }

    mutating func bindChannelSum(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let sums = try output(0)
        let chunks = PlaneChunks(shape)
        let partials = try workspace(floatCount: shape.blocks * chunks.count * 16)
        parallel(shape.blocks * chunks.count) { unit, _ in
            let range = chunks.range(unit % chunks.count)
            let start = x + ((unit / chunks.count) * shape.pixels + range.lowerBound) * 16
            kernels.sumVectors(start, range.count, partials + unit * 16)
        }
        parallel(shape.blocks) { block, _ in
            for lane in 0..<shape.lanes(of: block) {
                var sum = 0.0
                for chunk in 0..<chunks.count { sum += Double(partials[(block * chunks.count + chunk) * 16 + lane]) }
                sums[block * 16 + lane] = Float(sum)
            }
            clearPadding(sums, block, shape)
        }
    }
}

/// `gamma / √(variance + epsilon)` of a block's 16 channels; zero where gamma is padding.
private func inferenceScale(
    _ gamma: UnsafePointer<Float>, _ variance: UnsafePointer<Float>, _ epsilon: Float, _ block: Int,
    _ scale: UnsafeMutablePointer<Float>
) {
    for lane in 0..<16 {
        scale[lane] = gamma[block * 16 + lane] / (variance[block * 16 + lane] + epsilon).squareRoot()
    }
}
