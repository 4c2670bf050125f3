import GraftGraph
import GraftTensor
import Testing

@Suite struct WinogradTests {
    /// `Aᵀ [U ⊙ (Bᵀ d B)] A` of a 6×6 input tile and a transformed filter, in Double.
    private func outputTile(_ input: [Double], _ transformed: [Double]) -> [Double] {
        func product(_ matrix: [[Double]], _ tile: [Double], _ side: Int) -> [Double] {
            // matrix · tile · matrixᵀ
            let rows = matrix.count
            var half = [Double](repeating: 0, count: rows * side)
            for i in 0..<rows {
                for j in 0..<side { for k in 0..<side { half[i * side + j] += matrix[i][k] * tile[k * side + j] } }
            }
            var result = [Double](repeating: 0, count: rows * rows)
            for i in 0..<rows {
                for j in 0..<rows { for k in 0..<side { result[i * rows + j] += half[i * side + k] * matrix[j][k] } }
            }
            return result
        }
        let values = product(Winograd.inputMatrix, input, 6)
        return product(Winograd.outputMatrix, zip(values, transformed).map { $0 * $1 }, 6)
    }

    @Test func matricesComputeTheConvolution() {
        let random = CounterRandom(seed: 11)
        let input = (0..<36).map { Double(random.uniform($0)) - 0.5 }
        let filter = (0..<9).map { Float(random.uniform(100 + $0)) - 0.5 }
        let found = outputTile(input, Winograd.transform(weight: filter).map(Double.init))
        for p in 0..<4 {
            for q in 0..<4 {
                var wanted = 0.0
                for r in 0..<3 { for s in 0..<3 { wanted += input[(p + r) * 6 + q + s] * Double(filter[r * 3 + s]) } }
                #expect(
                    abs(found[p * 4 + q] - wanted) < 1e-5, "output \(p), \(q): \(found[p * 4 + q]), direct \(wanted)")
            }
        }
    }

    @Test func transformedWeightsGiveTheWeightBack() throws {
        let shape = WeightShape(outputChannels: 33, inputChannels: 17, kernelHeight: 3, kernelWidth: 3)
        let random = CounterRandom(seed: 3)
        let values = (0..<shape.elementCount).map { Float(random.uniform($0)) - 0.5 }
        let kind = ValueKind.winogradWeight(shape)
        let bytes = try ChannelBlockedLayout.pack(HostTensor(kind.hostShape, values), kind: kind)
        #expect(bytes.count == ChannelBlockedLayout.byteCount(of: kind))
        let found = try #require(bytes.withUnsafeBytes { ChannelBlockedLayout.unpack($0, kind: kind) }.floats)
        #expect(zip(found, values).allSatisfy { abs($0 - $1) < 1e-6 })
    }

    @Test func onlyWhatTheTransformsComputeUsesThem() {
        var geometry = ConvolutionGeometry(
            input: ActivationShape(2, 64, 56, 56), outputChannels: 64, kernelHeight: 3, kernelWidth: 3,
            paddingHeight: 1, paddingWidth: 1)
        #expect(geometry.prefersWinograd(batch: 2))
        geometry.strideWidth = 2
        #expect(!geometry.canUseWinograd)
        geometry.strideWidth = 1
        geometry.input.channels = 3
        #expect(geometry.canUseWinograd && !geometry.prefersWinograd(batch: 2))
        geometry.input = ActivationShape(2, 64, 1, 1)
        #expect(!geometry.prefersWinograd(batch: 2))
        // Four tiles do not pay for reading transformed weights, eight do.
        geometry.input = ActivationShape(1, 64, 7, 7)
        #expect(geometry.canUseWinograd && !geometry.prefersWinograd(batch: 1))
        #expect(geometry.prefersWinograd(batch: 2))
    }
}
