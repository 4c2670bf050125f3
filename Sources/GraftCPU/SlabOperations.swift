import GraftCPUKernelInterface
import GraftGraph

/// How the gradients' norm is summed: a fixed number of runs, by the slab's length alone.
enum GradientNorm {
    static let partialCount = 256
}

/// What is done to the gradients and weights of all cohorts at once.
extension InstructionBinding {
    mutating func bindGradientAccumulation(state: Int, slabs: CohortSlots) throws(DeviceError) {
        let kernels = kernels
        let step = step
        let sums = try self.state(state, slabs)
        let gradients = try pointer(slabs.gradients)
        parallelVectors(slabs.gradients.byteCount / 64) { first, count in
            let share = step.constants.accumulationShare
            let (sum, gradient) = (sums + first * 16, gradients + first * 16)
            if share >= 1 {
                kernels.copy(gradient, sum, count)
            } else {
                kernels.approach(share, gradient, sum, count)
                kernels.copy(sum, gradient, count)
            }
        }
    }

    /// Sums of 16 lanes for each of the runs, then everything in Double.
    mutating func bindGradientNorm(maximum: Float, slabs: CohortSlots) throws(DeviceError) {
        let kernels = kernels
        let gradients = UnsafePointer(try pointer(slabs.gradients))
        let partials = try workspace(floatCount: GradientNorm.partialCount * 16)
        let result = try output(0)
        let vectors = slabs.gradients.byteCount / 64
        let run = (vectors + GradientNorm.partialCount - 1) / GradientNorm.partialCount
        parallel(GradientNorm.partialCount) { unit, _ in
            let first = min(unit * run, vectors)
            kernels.squareSums(gradients + first * 16, min(run, vectors - first), partials + unit * 16)
        }
        parallel(1) { _, _ in
            var sum = 0.0
            for index in 0..<GradientNorm.partialCount * 16 { sum += Double(partials[index]) }
            let norm = Float(sum.squareRoot())
            let factor = maximum / (norm + 1e-6)
            // The padding of a vector of two.
            for lane in 0..<ChannelBlockedLayout.outputBlock { result[lane] = 0 }
            result[0] = norm
            // NaN stays NaN, as in torch.clamp.
            result[1] = factor > 1 ? 1 : factor
        }
    }

    mutating func bindGradientScaling(slabs: CohortSlots) throws(DeviceError) {
        let kernels = kernels
        let norm = try input(0)
        let gradients = try pointer(slabs.gradients)
        parallelVectors(slabs.gradients.byteCount / 64) { first, count in
            kernels.scale(norm[1], gradients + first * 16, count)
        }
    }

    mutating func bindWeightAveraging(state: Int, decay: Float, slabs: CohortSlots) throws(DeviceError) {
        let kernels = kernels
        let averages = try self.state(state, slabs)
        let weights = UnsafePointer(try pointer(slabs.parameters))
        parallelVectors(slabs.parameters.byteCount / 64) { first, count in
            kernels.approach(1 - decay, weights + first * 16, averages + first * 16, count)
        }
    }

    private func state(_ index: Int, _ slabs: CohortSlots) throws(DeviceError) -> UnsafeMutablePointer<Float> {
        guard slabs.states.indices.contains(index) else {
            throw DeviceError.unsupported("state \(index) is needed, the plan has \(slabs.states.count)")
        }
        return try pointer(slabs.states[index])
    }
}
