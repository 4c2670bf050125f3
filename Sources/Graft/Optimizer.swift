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
    /// Half a cosine from 1 to `floor` over the run, by step (`CosineAnnealingLR` per batch).
    case cosine(floor: Double = 0)
    /// Up to 1 over the first `warmup` of the run and down to almost nothing, by step, with SGD's momentum (Adam's β₁) going
    /// the other way (`torch.optim.lr_scheduler.OneCycleLR` with its defaults: cosines, from 1/25 and to 1/250000 of the
    /// rate, momentum 0.95 to 0.85).
    case oneCycle(warmup: Double = 0.3)
    /// Multiplied by `factor` when the validation loss has not fallen by a ten-thousandth of itself for more than `patience`
    /// epochs (`ReduceLROnPlateau`). Needs validation images.
    case plateau(factor: Double, patience: Int)

    /// Half a cosine from 1 to 0.
    public static let cosine = LearningRateSchedule.cosine(floor: 0)

    /// Whether the factor of a step depends on how long the whole run is, so that a longer run is another one from its
    /// start.
    var dependsOnLength: Bool {
        switch self {
        case .constant, .step, .plateau: false
        case .cosine, .oneCycle: true
        }
    }

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
        case .constant, .plateau: return 1
        case .step(let epochs, let factor):
            let drops = (step - warmupSteps) / max(stepsPerEpoch, 1) / max(epochs, 1)
            return (0..<drops).reduce(1.0) { value, _ in value * factor }
        case .cosine(let floor):
            let span = max(Double(totalSteps) - Double(warmupSteps), 1)
            return floor + (1 - floor) * 0.5 * (1 + cosineOf(Double.pi * Double(step - warmupSteps) / span))
        case .oneCycle(let warmup):
            return Self.cycle(step, totalSteps, warmup, from: 1.0 / 25, over: 1, to: 1.0 / 25 / 1e4)
        }
    }

    /// SGD's momentum, or Adam's β₁, at a step; nil where the schedule leaves it alone.
    func momentum(step: Int, totalSteps: Int) -> Double? {
        guard case .oneCycle(let warmup) = self else { return nil }
        return Self.cycle(step, totalSteps, warmup, from: 0.95, over: 0.85, to: 0.95)
    }

    /// The two phases of `OneCycleLR`, of `warmup · totalSteps` steps and of the rest.
    private static func cycle(
        _ step: Int, _ totalSteps: Int, _ warmup: Double, from start: Double, over peak: Double, to end: Double
    ) -> Double {
        let turn = warmup * Double(totalSteps) - 1
        let last = Double(totalSteps - 1)
        let place = Double(step)
        func blend(_ start: Double, _ end: Double, _ from: Double, _ to: Double) -> Double {
            guard to > from else { return end }
            return end + (start - end) / 2 * (1 + cosineOf(Double.pi * min((place - from) / (to - from), 1)))
        }
        return place <= turn ? blend(start, peak, 0, turn) : blend(peak, end, turn, last)
    }

    /// Refuses numbers that make no schedule.
    func check(warmupSteps: Int, hasValidation: Bool) throws(GraftError) {
        switch self {
        case .constant: break
        case .step(let epochs, let factor):
            guard epochs > 0, factor > 0, factor.isFinite else {
                throw .invalidArgument(
                    "a schedule of times \(factor) every \(epochs) epochs: expected a factor above 0 and at least 1 epoch"
                )
            }
        case .cosine(let floor):
            guard floor >= 0, floor <= 1 else {
                throw .invalidArgument("a cosine down to \(floor) of the rate: expected a share from 0 to 1")
            }
        case .oneCycle(let warmup):
            guard warmup > 0, warmup < 1 else {
                throw .invalidArgument(
                    "one cycle with a rise over \(warmup) of the run: expected a share above 0 and below 1")
            }
            guard warmupSteps == 0 else {
                throw .invalidArgument(
                    "--warmup \(warmupSteps) does not go with the one-cycle schedule, which rises by itself; leave it out"
                )
            }
        case .plateau(let factor, let patience):
            guard factor > 0, factor < 1, patience >= 0 else {
                throw .invalidArgument(
                    "a plateau schedule of times \(factor) after \(patience) epochs: expected a factor above 0 and below 1, "
                        + "and 0 epochs or more")
            }
            guard hasValidation else {
                throw .invalidArgument(
                    "the plateau schedule follows the validation loss, and there are no validation images; give --val or "
                        + "--val-split")
            }
        }
    }
}
