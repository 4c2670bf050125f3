/// How a convolution or one of its gradients is summed.
package enum ConvolutionMethod: Hashable, Sendable {
    /// Products of the operands, summed.
    case direct
    /// ``Winograd``'s transforms allowed, the weight's among them while the instruction runs. A backend without them
    /// sums directly.
    case winograd
    /// Forward only: the weight is a ``ValueKind/winogradWeight(_:)``, transformed when it was written.
    case winogradWithTransformedWeight
}

/// Winograd's minimal filtering F(4×4, 3×3): a tile of 4×4 outputs from 6×6 inputs with 36 products instead of 144.
///
/// `Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A` (Lavin and Gray 2016, arXiv:1509.09308). In float32 the relative error of a result is
/// about six times that of a direct sum.
package enum Winograd {
    /// Side of an output tile.
    package static let outputSide = 4
    /// Side of an input tile, and of a transformed weight.
    package static let inputSide = 6
    /// Products per channel pair and tile.
    package static let productCount = 36

    /// G, row by row.
    package static let weightMatrix: [[Double]] = [
        [1.0 / 4, 0, 0], [-1.0 / 6, -1.0 / 6, -1.0 / 6], [-1.0 / 6, 1.0 / 6, -1.0 / 6],
        [1.0 / 24, 1.0 / 12, 1.0 / 6], [1.0 / 24, -1.0 / 12, 1.0 / 6], [0, 0, 1],
    ]
    /// Bᵀ, row by row.
    package static let inputMatrix: [[Double]] = [
        [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
    /// Aᵀ, row by row.
    package static let outputMatrix: [[Double]] = [
        [1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1],
    ]

    /// Transforms a weight `[K, C, 3, 3]` to `[K, C, 6, 6]`, `G g Gᵀ` for each filter g, in float64, rounded once.
    package static func transform(weight: [Float]) -> [Float] {
        weight.withUnsafeBufferPointer { transform(weight: $0) }
    }

    /// The same of weights in memory.
    package static func transform(weight: UnsafeBufferPointer<Float>) -> [Float] {
        let count = weight.count / 9
        let matrix = weightMatrix.flatMap { $0 }
        return [Float](unsafeUninitializedCapacity: count * 36) { target, initialized in
            matrix.withUnsafeBufferPointer { matrix in
                for filter in 0..<count {
                    let g = filter * 9
                    for i in 0..<6 {
                        func rowTimesColumn(_ column: Int) -> Double {
                            matrix[i * 3] * Double(weight[g + column])
                                + matrix[i * 3 + 1] * Double(weight[g + 3 + column])
                                + matrix[i * 3 + 2] * Double(weight[g + 6 + column])
                        }
                        let row = (rowTimesColumn(0), rowTimesColumn(1), rowTimesColumn(2))
                        for j in 0..<6 {
                            target[filter * 36 + i * 6 + j] = Float(
                                row.0 * matrix[j * 3] + row.1 * matrix[j * 3 + 1] + row.2 * matrix[j * 3 + 2])
                        }
                    }
                }
            }
            initialized = count * 36
        }
    }

    /// The weight `[K, C, 3, 3]` that ``transform(weight:)`` made `[K, C, 6, 6]` of, to rounding: rows 0 and 5 of G give the
    /// outer taps, the difference of rows 1 and 2 the middle one.
    package static func weight(transformed: [Float]) -> [Float] {
        let count = transformed.count / 36
        return [Float](unsafeUninitializedCapacity: count * 9) { target, initialized in
            func middle(_ first: Double, _ second: Double) -> Double { 3 * (second - first) }
            for filter in 0..<count {
                func value(_ i: Int, _ j: Int) -> Double { Double(transformed[filter * 36 + i * 6 + j]) }
                func row(_ i: Int) -> [Double] { [4 * value(i, 0), middle(value(i, 1), value(i, 2)), value(i, 5)] }
                let first = row(0)
                let second = row(1)
                let third = row(2)
                let last = row(5)
                for j in 0..<3 {
                    target[filter * 9 + j] = Float(4 * first[j])
                    target[filter * 9 + 3 + j] = Float(middle(second[j], third[j]))
                    target[filter * 9 + 6 + j] = Float(last[j])
                }
            }
            initialized = count * 9
        }
    }
}

extension ConvolutionGeometry {
    /// 3×3 with stride 1, neither dilated nor grouped: what F(4×4, 3×3) computes.
    package var canUseWinograd: Bool {
        kernelHeight == 3 && kernelWidth == 3 && strideHeight == 1 && strideWidth == 1 && dilationHeight == 1
            && dilationWidth == 1 && groups == 1 && paddingHeight <= 2 && paddingWidth <= 2
    }

    /// Output tiles of 4×4 per image, those at the right and lower border partly outside.
    package var winogradTileCount: (rows: Int, columns: Int) {
        ((output.height + 3) / 4, (output.width + 3) / 4)
    }

    /// Whether Winograd is taken for the faster way, by all kernel classes alike: enough channels and tiles to pay for
    /// the transforms, and tiles that are not mostly border. Measured on processors.
    ///
    /// - Parameter batch: the images that count, not those of this geometry.
    /// - Returns: whether it is.
    package func prefersWinograd(batch: Int) -> Bool {
        guard canUseWinograd, input.channels >= 16, outputChannels >= 16 else { return false }
        let tiles = winogradTileCount
        // The transformed weights are four times as large; so few tiles take less time than reading them.
        guard batch * tiles.rows * tiles.columns >= 8 else { return false }
        // Four times fewer products, times the share of the tiles that is kept.
        return 4 * Double(output.pixelCount) / Double(tiles.rows * tiles.columns * 16) >= 1.5
    }

    /// This geometry summed by a method.
    package func with(_ method: ConvolutionMethod) -> ConvolutionGeometry {
        var copy = self
        copy.method = method
        return copy
    }
}

extension WeightShape {
    /// The shape of the weight's transform: 6×6 kernels, which the layouts treat as any other.
    package var winograd: WeightShape {
        WeightShape(
            outputChannels: outputChannels, inputChannels: inputChannels, kernelHeight: Winograd.inputSide,
            kernelWidth: Winograd.inputSide, groups: groups)
    }
}
