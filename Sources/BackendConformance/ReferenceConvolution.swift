import GraftGraph

extension ReferenceExecutor {
    /// Calls `body(y index, x index, w index)` for each product of a convolution; the same walk serves the two gradients.
    private static func forEachProduct(_ g: ConvolutionGeometry, _ body: (Int, Int, Int) -> Void) {
        let x = g.input
        let y = g.output
        let perGroup = g.weight.inputChannelsPerGroup
        let outputsPerGroup = g.outputChannels / g.groups
        for n in 0..<y.batch {
            for k in 0..<y.channels {
                let firstChannel = k / outputsPerGroup * perGroup
                for p in 0..<y.height {
                    for q in 0..<y.width {
                        let yIndex = ((n * y.channels + k) * y.height + p) * y.width + q
                        for c in 0..<perGroup {
                            for r in 0..<g.kernelHeight {
                                let h = p * g.strideHeight + r * g.dilationHeight - g.paddingHeight
                                guard h >= 0, h < x.height else { continue }
                                let row = ((n * x.channels + firstChannel + c) * x.height + h) * x.width
                                let weightRow = ((k * perGroup + c) * g.kernelHeight + r) * g.kernelWidth
                                for s in 0..<g.kernelWidth {
                                    let w = q * g.strideWidth + s * g.dilationWidth - g.paddingWidth
                                    guard w >= 0, w < x.width else { continue }
                                    body(yIndex, row + w, weightRow + s)
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    /// Sums with the number and the squares of their terms.
    private struct Sums {
        var values: [Double]
        var squares: [Double]
        var counts: [Double]

        init(count: Int) {
            values = [Double](repeating: 0, count: count)
            squares = values
            counts = values
        }

        @inline(__always)
        mutating func add(_ term: Double, at index: Int) {
            values[index] += term
            squares[index] += term * term
            counts[index] += 1
        }

        var output: ReferenceOutput {
            ReferenceOutput(values: values, bounds: zip(squares, counts).map { ($0 * $1).squareRoot() })
        }

        /// Results of Winograd's transforms: an element shares its roundings with the others of its tile of
        /// `side` × `side` in planes of `height` × `width`, and the transforms lose up to three bits.
        func output(winogradTile side: Int, height: Int, width: Int) -> ReferenceOutput {
            let direct = output
            var bounds = direct.bounds
            for index in bounds.indices {
                let plane = index / (height * width) * height * width
                let row = index % (height * width) / width / side * side
                let column = index % width / side * side
                var largest = 0.0
                for h in row..<min(row + side, height) {
                    for w in column..<min(column + side, width) {
                        largest = max(largest, direct.bounds[plane + h * width + w])
                    }
                }
                bounds[index] = 8 * largest
            }
            return ReferenceOutput(values: direct.values, bounds: bounds)
        }
    }

    static func convolution(
        _ g: ConvolutionGeometry, _ epilogue: Epilogue, _ inputs: [[Double]]
    ) -> ReferenceOutput {
        var sums = Sums(count: g.output.elementCount)
        let (x, w) = (inputs[0], inputs[1])
        forEachProduct(g) { sums.add(x[$1] * w[$2], at: $0) }
        if epilogue.bias {
            for index in sums.values.indices {
                sums.add(inputs[2][index / g.output.pixelCount % g.outputChannels], at: index)
            }
        }
        if epilogue.residual, let residual = inputs.last {
            for index in sums.values.indices { sums.add(residual[index], at: index) }
        }
        var output =
            g.method == .direct
            ? sums.output
            : sums.output(winogradTile: Winograd.outputSide, height: g.output.height, width: g.output.width)
        output.apply(epilogue.activation)
        return epilogue.maxPooling.map { maxima($0, of: output) } ?? output
    }

    static func convolutionInputGradient(
        _ g: ConvolutionGeometry, _ addend: Bool, _ inputs: [[Double]]
    ) -> ReferenceOutput {
        var sums = Sums(count: g.input.elementCount)
        let (dy, w) = (inputs[0], inputs[1])
        forEachProduct(g) { sums.add(dy[$0] * w[$2], at: $1) }
        if addend {
            for index in sums.values.indices { sums.add(inputs[2][index], at: index) }
        }
        return g.method == .direct
            ? sums.output
            : sums.output(winogradTile: Winograd.outputSide, height: g.input.height, width: g.input.width)
    }

    static func convolutionWeightGradient(_ g: ConvolutionGeometry, _ inputs: [[Double]]) -> ReferenceOutput {
        var sums = Sums(count: g.weight.elementCount)
        let (x, dy) = (inputs[0], inputs[1])
        forEachProduct(g) { sums.add(x[$1] * dy[$0], at: $2) }
        return g.method == .direct ? sums.output : sums.output(winogradTile: 3, height: 3, width: 3)
    }
}
