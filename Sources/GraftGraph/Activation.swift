/// An element-wise non-linear function, as in `torch.nn`. NaN stays NaN.
package enum Activation: String, Hashable, Sendable, CaseIterable {
    /// `max(0, x)`.
    case relu
    /// `min(max(0, x), 6)`.
    case relu6
    /// `relu6(x + 3) / 6`.
    case hardSigmoid
    /// `x · relu6(x + 3) / 6`.
    case hardSwish
    /// `1 / (1 + e⁻ˣ)`.
    case sigmoid
    /// `x / (1 + e⁻ˣ)`.
    case silu
    /// `x · Φ(x)` with the normal distribution function, `torch.nn.GELU` without approximation.
    case gelu

    /// What the gradient is a function of besides `dy`.
    package enum Operand: Sendable {
        /// The function's argument x.
        case argument
        /// Its result y.
        case result
    }

    /// What the gradient reads: the result where it says enough, so that the argument need not be kept.
    package var gradientReads: Operand {
        switch self {
        case .relu, .relu6, .hardSigmoid, .sigmoid: .result
        case .hardSwish, .silu, .gelu: .argument
        }
    }

    /// The number under which kernels of every language know it; 0 is none.
    package var code: Int {
        switch self {
        case .relu: 1
        case .relu6: 2
        case .hardSigmoid: 3
        case .hardSwish: 4
        case .sigmoid: 5
        case .silu: 6
        case .gelu: 7
        }
    }
}
