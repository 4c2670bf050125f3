import GraftGraph

/// How parameters follow their gradients; the rules and defaults of `torch.optim`.
public enum Optimizer: Sendable, Hashable {
    /// `torch.optim.SGD`: the first momentum buffer equals the gradient, weight decay is added to the gradient.
    case sgd(learningRate: Double = 0.001, momentum: Double = 0.9, weightDecay: Double = 0, nesterov: Bool = false)
    /// `torch.optim.Adam` with β = (0.9, 0.999), ε = 1e-8; weight decay is added to the gradient.
    case adam(learningRate: Double = 0.001, weightDecay: Double = 0)
    /// `torch.optim.AdamW` with β = (0.9, 0.999), ε = 1e-8; weight decay is decoupled.
    case adamW(learningRate: Double = 0.001, weightDecay: Double = 0.01)

    /// The learning rate before any schedule.
    public var learningRate: Double {
        switch self {
        case .sgd(let rate, _, _, _), .adam(let rate, _), .adamW(let rate, _): rate
        }
    }

    var rule: OptimizerRule {
        switch self {
        case .sgd(_, let momentum, _, let nesterov): .sgd(momentum: momentum != 0, nesterov: nesterov)
        case .adam: .adam(decoupledWeightDecay: false)
        case .adamW: .adam(decoupledWeightDecay: true)
        }
    }

    /// The momentum of SGD, β₁ of Adam: what a one-cycle schedule moves.
    var momentum: Double {
        switch self {
        case .sgd(_, let momentum, _, _): momentum
        case .adam, .adamW: 0.9
        }
    }

    /// The constants of one cohort's step number `step`, from 1.
    func constants(
        learningRate: Double, step: Int, isDecayed: Bool = true, momentum: Double? = nil
    ) -> CohortConstants {
        var constants = constants(learningRate: learningRate, step: step, momentum: momentum ?? self.momentum)
        if !isDecayed { constants.weightDecay = 0 }
        return constants
    }

    private func constants(learningRate: Double, step: Int, momentum: Double) -> CohortConstants {
        var constants = CohortConstants()
        constants.learningRate = Float(learningRate)
        constants.isFirstStep = step == 1
        switch self {
        case .sgd(_, _, let weightDecay, _):
            constants.momentum = Float(momentum)
            constants.weightDecay = Float(weightDecay)
        case .adam(_, let weightDecay), .adamW(_, let weightDecay):
            constants.weightDecay = Float(weightDecay)
            constants.beta1 = Float(momentum)
            constants.biasCorrection1 = Float(1 - power(momentum, step))
            constants.biasCorrection2Root = Float((1 - power(0.999, step)).squareRoot())
        }
        return constants
    }

    private func power(_ base: Double, _ exponent: Int) -> Double {
        var result = 1.0
        var factor = base
        var rest = exponent
        while rest > 0 {
            if rest & 1 == 1 { result *= factor }
            factor *= factor
            rest >>= 1
        }
        return result
    }
}

/// How the learning rate changes over a run, as a factor of the optimizer's rate.
public enum LearningRateSchedule: Sendable, Hashable {
    /// Always 1.
    case constant
    /// Multiplied by `factor` after every `epochs` epochs (`torch.optim.lr_scheduler.StepLR`).
    case step(epochs: Int, factor: Double)
    /// Half a cosine from 1 to 0 over the run, by step (`CosineAnnealingLR` per batch).
    case cosine

    /// The factor at a step.
    ///
    /// - Parameters:
    ///   - step: steps done so far.
    ///   - totalSteps: steps of the whole run.
    ///   - stepsPerEpoch: steps of one epoch.
    ///   - warmupSteps: the first so many steps rise linearly to 1; the schedule proper starts behind them.
    /// - Returns: what the optimizer's learning rate is multiplied with.
    public func factor(step: Int, totalSteps: Int, stepsPerEpoch: Int, warmupSteps: Int = 0) -> Double {
        if step < warmupSteps { return Double(step + 1) / (Double(warmupSteps) + 1) }
        switch self {
        case .constant: return 1
        case .step(let epochs, let factor):
            let drops = (step - warmupSteps) / max(stepsPerEpoch, 1) / max(epochs, 1)
            return (0..<drops).reduce(1.0) { value, _ in value * factor }
        case .cosine:
            let span = max(Double(totalSteps) - Double(warmupSteps), 1)
            return 0.5 * (1 + cosineOf(Double.pi * Double(step - warmupSteps) / span))
        }
    }
}
