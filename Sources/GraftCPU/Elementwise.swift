import GraftCPUKernelInterface
import GraftGraph

extension InstructionBinding {
    mutating func bindReLU(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let y = try output(0)
        parallelVectors(shape.vectors) { first, vectors in kernels.relu(x + first * 16, y + first * 16, vectors) }
    }

    mutating func bindReLUGradient(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let dy = try input(0)
        let y = try input(1)
        let dx = try output(0)
        parallelVectors(shape.vectors) { first, vectors in
            kernels.reluGradient(dy + first * 16, y + first * 16, dx + first * 16, vectors)
        }
    }

    mutating func bindActivation(_ shape: ActivationShape, _ activation: Activation) throws(DeviceError) {
        appendActivation(shape, activation, try input(0), try output(0))
    }

    /// `y = f(x)`, where y may be x; lanes that are no channels stay zero.
    mutating func appendActivation(
        _ shape: ActivationShape, _ activation: Activation, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>
    ) {
        let kernels = kernels
        let piece = 1024
        let pieces = (shape.pixels + piece - 1) / piece
        parallel(shape.blocks * pieces) { unit, _ in
            let block = unit / pieces
            let first = unit % pieces * piece
            let start = (block * shape.pixels + first) * 16
            kernels.activate(
                activation.code, x + start, y + start, min(piece, shape.pixels - first), shape.lanes(of: block))
        }
    }

    mutating func bindActivationGradient(_ shape: ActivationShape, _ activation: Activation) throws(DeviceError) {
        let kernels = kernels
        let dy = try input(0)
        let v = try input(1)
        let dx = try output(0)
        parallelVectors(shape.vectors) { first, vectors in
            kernels.activationGradient(activation.code, dy + first * 16, v + first * 16, dx + first * 16, vectors)
        }
    }

    mutating func bindChannelScale(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let scale = try input(1)
        let y = try output(0)
        // Planes and factors have the same order: block, then image.
        parallel(shape.blocks * shape.batch) { plane, _ in
            let start = plane * shape.planeFloats
            kernels.scaleChannels(x + start, scale + plane * 16, y + start, shape.pixelCount)
        }
    }

    mutating func bindChannelScaleGradient(_ shape: ActivationShape) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let dy = try input(1)
        let result = try output(0)
        parallel(shape.blocks * shape.batch) { plane, _ in
            let start = plane * shape.planeFloats
            kernels.sumProducts(x + start, dy + start, shape.pixelCount, result + plane * 16)
        }
    }

    mutating func bindStochasticDepth(_ shape: ActivationShape, rate: Float, salt: UInt32) throws(DeviceError) {
        let kernels = kernels
        let step = step
        let x = try input(0)
        let y = try output(0)
        let threshold = DropoutMask.threshold(rate: rate)
        parallel(shape.blocks * shape.batch) { plane, scratch in
            let key = DropoutMask.key(step: step.constants.dropoutKey, salt: salt)
            let image = UInt32(truncatingIfNeeded: plane % shape.batch)
            let start = plane * shape.planeFloats
            if DropoutMask.keeps(key: key, index: image, threshold: threshold) {
                kernels.divide(x + start, 1 - rate, y + start, shape.pixelCount)
            } else {
                kernels.zero(y + start, shape.pixelCount)
            }
        }
    }

    mutating func bindAdd(_ shape: ActivationShape, relu: Bool) throws(DeviceError) {
        let kernels = kernels
        let a = try input(0)
        let b = try input(1)
        let y = try output(0)
        parallelVectors(shape.vectors) { first, vectors in
            kernels.add(a + first * 16, b + first * 16, relu, y + first * 16, vectors)
        }
    }

    mutating func bindDropout(_ shape: ActivationShape, rate: Float, salt: UInt32) throws(DeviceError) {
        let kernels = kernels
        let step = step
        let x = try input(0)
        let y = try output(0)
        let threshold = DropoutMask.threshold(rate: rate)
        parallel(shape.blocks * shape.batch) { unit, _ in
            let block = unit / shape.batch
            let image = unit % shape.batch
            let first = (image * shape.channels + block * 16) * shape.pixelCount
            kernels.dropout(
                x + unit * shape.planeFloats, y + unit * shape.planeFloats, shape.pixelCount,
                UInt32(truncatingIfNeeded: first),
                DropoutMask.key(step: step.constants.dropoutKey, salt: salt), threshold, 1 - rate)
        }
    }

    mutating func bindImageNormalization(
        _ shape: ActivationShape, mean: [Float], deviation: [Float]
    ) throws(DeviceError) {
        guard shape.channels == 3, mean.count == 3, deviation.count == 3 else {
            throw DeviceError.unsupported(
                "\(node) normalises \(shape.channels) channels with \(mean.count) means and \(deviation.count) deviations; 3 are needed"
            )
        }
        let pixels = try byteInput(0)
        let y = try output(0)
        // A byte has 256 values: the divisions are done once.
        let table = FloatTable(
            (0..<3).flatMap { channel in (0..<256).map { (Float($0) / 255 - mean[channel]) / deviation[channel] } })
        let piece = 2048
        parallel((shape.pixels + piece - 1) / piece) { unit, _ in
            let run = unit * piece..<min((unit + 1) * piece, shape.pixels)
            if shape.isCompact {
                for pixel in run {
                    y[pixel * 3] = table.values[Int(pixels[pixel * 3])]
                    y[pixel * 3 + 1] = table.values[256 + Int(pixels[pixel * 3 + 1])]
                    y[pixel * 3 + 2] = table.values[512 + Int(pixels[pixel * 3 + 2])]
                }
                return
            }
            for pixel in run {
                var value = SIMD16<Float>.zero
                value[0] = table.values[Int(pixels[pixel * 3])]
                value[1] = table.values[256 + Int(pixels[pixel * 3 + 1])]
                value[2] = table.values[512 + Int(pixels[pixel * 3 + 2])]
                UnsafeMutableRawPointer(y + pixel * 16).storeBytes(of: value, as: SIMD16<Float>.self)
            }
        }
    }

    mutating func bindOptimizerUpdate(
        _ rule: OptimizerRule, cohort index: Int, slabs cohort: CohortSlots
    ) throws(DeviceError) {
        let kernels = kernels
        let step = step
        guard cohort.states.count >= rule.stateCount else {
            throw DeviceError.unsupported(
                "the optimizer keeps \(rule.stateCount) state values per parameter, the plan has \(cohort.states.count)"
            )
        }
        let weights = try pointer(cohort.parameters)
        let gradients = UnsafePointer(try pointer(cohort.gradients))
        // Slabs are multiples of 64 bytes: whole vectors.
        let vectors = cohort.parameters.byteCount / 64
        switch rule {
        case .sgd(let momentum, let nesterov):
            let buffer = momentum ? try pointer(cohort.states[0]) : nil
            parallelVectors(vectors) { first, count in
                var constants = UpdateConstants(step.constants.cohorts[index])
                constants.nesterov = nesterov
                kernels.sgd(
                    constants, weights + first * 16, gradients + first * 16, buffer.map { $0 + first * 16 }, count)
            }
        case .adam(let decoupledWeightDecay):
            let first = try pointer(cohort.states[0])
            let second = try pointer(cohort.states[1])
            parallelVectors(vectors) { start, count in
                var constants = UpdateConstants(step.constants.cohorts[index])
                constants.decoupledWeightDecay = decoupledWeightDecay
                kernels.adam(
                    constants, weights + start * 16, gradients + start * 16, first + start * 16, second + start * 16,
                    count)
            }
        }
    }
}

extension UpdateConstants {
    fileprivate init(_ constants: CohortConstants) {
        self.init()
        learningRate = constants.learningRate
        weightDecay = constants.weightDecay
        momentum = constants.momentum
        isFirstStep = constants.isFirstStep
        beta1 = constants.beta1
        beta2 = constants.beta2
        epsilon = constants.epsilon
        biasCorrection1 = constants.biasCorrection1
        biasCorrection2Root = constants.biasCorrection2Root
    }
}

/// Numbers that a loop reads, kept as long as the loop.
final class FloatTable {
    let values: UnsafeMutablePointer<Float>

    init(_ values: [Float]) {
        self.values = .allocate(capacity: max(values.count, 1))
        self.values.initialize(from: values, count: values.count)
    }

    deinit { values.deallocate() }
}
