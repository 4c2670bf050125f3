import GraftGraph
import GraftTensor

extension ConformanceCases {
    /// Convolutions and poolings of random geometry, and their gradients: what the list did not think of.
    ///
    /// - Parameters:
    ///   - count: how many geometries; each gives up to four cases.
    ///   - seed: another seed, other geometries.
    /// - Returns: the cases, in a fixed order.
    package static func random(count: Int, seed: UInt64) -> [ConformanceCase] {
        var cases: [ConformanceCase] = []
        for number in 0..<count {
            let random = CounterRandom(seed: seed, UInt64(number))
            var counter = 0
            func below(_ bound: Int) -> Int {
                counter += 1
                return random.integer(below: bound, counter)
            }
            func one(_ values: [Int]) -> Int { values[below(values.count)] }
            let name = "random.\(seed).\(number)"
            if number % 4 == 3 {
                cases += randomPooling(name, below)
                continue
            }
            let groups = one([1, 1, 1, 1, 2, 3, 4, 8])
            var g = ConvolutionGeometry(
                input: ActivationShape(
                    one([1, 1, 2, 3, 5]), groups * one([1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 32, 33]), 1 + below(20),
                    1 + below(20)),
                outputChannels: groups * one([1, 2, 3, 4, 5, 7, 8, 16, 17, 31, 32, 33]), kernelHeight: 1,
                kernelWidth: 1, groups: groups)
            // Half of them square, as networks have them.
            let isSquare = below(2) == 0
            (g.kernelHeight, g.kernelWidth) = (one([1, 1, 2, 3, 3, 3, 5, 7]), one([1, 1, 2, 3, 3, 3, 5, 7]))
            (g.strideHeight, g.strideWidth) = (one([1, 1, 2, 3]), one([1, 1, 2, 3]))
            (g.dilationHeight, g.dilationWidth) = (one([1, 1, 1, 2, 3]), one([1, 1, 1, 2, 3]))
            (g.paddingHeight, g.paddingWidth) = (below(g.kernelHeight + 1), below(g.kernelWidth + 1))
            if isSquare {
                g.kernelWidth = g.kernelHeight
                g.strideWidth = g.strideHeight
                g.dilationWidth = g.dilationHeight
                g.paddingWidth = g.paddingHeight
            }
            if number % 8 == 5 {
                g.groups = g.input.channels
                g.outputChannels = g.input.channels
            }
            guard g.input.height + 2 * g.paddingHeight > g.dilationHeight * (g.kernelHeight - 1),
                g.input.width + 2 * g.paddingWidth > g.dilationWidth * (g.kernelWidth - 1),
                g.multiplyAccumulateCount < 8_000_000
            else { continue }
            let epilogue = Epilogue(bias: below(2) == 0, residual: below(3) == 0, relu: below(3) == 0)
            if g.canReadCompactInput, number % 2 == 0 {
                var compact = g
                compact.input.isCompact = true
                cases += [
                    ConformanceCase("convolution.compact.\(name)", .convolution(compact, epilogue)),
                    ConformanceCase("convolutionWeightGradient.compact.\(name)", .convolutionWeightGradient(compact)),
                ]
            }
            cases += [
                ConformanceCase("convolution.\(name)", .convolution(g, epilogue)),
                ConformanceCase(
                    "convolutionInputGradient.\(name)", .convolutionInputGradient(g, addend: below(2) == 0)),
                ConformanceCase("convolutionWeightGradient.\(name)", .convolutionWeightGradient(g)),
            ]
        }
        return cases
    }

    private static func randomPooling(_ name: String, _ below: (Int) -> Int) -> [ConformanceCase] {
        var g = PoolingGeometry(
            input: ActivationShape(1 + below(3), 1 + below(40), 1 + below(20), 1 + below(20)), kernel: 1 + below(5),
            stride: 1 + below(4), ceilMode: below(2) == 0, countsPadding: below(2) == 0)
        g.kernelWidth = 1 + below(5)
        g.strideWidth = 1 + below(4)
        g.paddingHeight = below(g.kernelHeight / 2 + 1)
        g.paddingWidth = below(g.kernelWidth / 2 + 1)
        guard g.output.height > 0, g.output.width > 0 else { return [] }
        return [
            ConformanceCase(
                "maxPooling.\(name)", .maxPooling(g, indices: true), fills: below(2) == 0 ? [0: .tied] : [:]),
            ConformanceCase("maxPoolingGradient.\(name)", .maxPoolingGradient(g), fills: [1: .maximumIndices(g)]),
            ConformanceCase("averagePooling.\(name)", .averagePooling(g)),
            ConformanceCase("averagePoolingGradient.\(name)", .averagePoolingGradient(g)),
        ]
    }
}
