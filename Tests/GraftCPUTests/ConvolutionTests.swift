import GraftCPU
import GraftGraph
import GraftTensor
import Testing

/// Convolutions and their gradients against loops in Double, on sizes that no tile divides.
@Suite struct ConvolutionTests {
    static let geometries: [ConvolutionGeometry] = [
        geometry(1, 1, 1, 1, 1, 1), geometry(2, 3, 9, 7, 5, 3, padding: 1),
        geometry(1, 3, 17, 15, 33, 7, stride: 2, padding: 3),
        geometry(2, 16, 6, 5, 16, 3, padding: 1), geometry(1, 33, 7, 9, 31, 3, stride: 2, padding: 1),
        geometry(3, 17, 5, 4, 65, 1), geometry(2, 32, 8, 8, 48, 1, stride: 2),
        geometry(1, 64, 14, 14, 32, 3, padding: 1),
        geometry(1, 5, 4, 6, 7, 3, padding: 2, dilation: 2), geometry(2, 16, 5, 5, 24, 2, stride: 3, padding: 1),
        geometry(31, 40, 1, 1, 10, 1), geometry(2, 64, 6, 7, 64, 3, padding: 1, groups: 8),
        geometry(1, 48, 5, 5, 96, 3, stride: 2, padding: 1, groups: 2),
        geometry(2, 36, 5, 4, 36, 3, padding: 1, groups: 36),
        geometry(1, 4, 12, 13, 64, 11, stride: 4, padding: 2), geometry(1, 8, 6, 6, 16, 5, padding: 4),
        geometry(1, 20, 5, 5, 20, 1, stride: 1, padding: 1), geometry(1, 96, 3, 3, 40, 1, groups: 4),
        geometry(2, 80, 5, 6, 80, 3, stride: 2, padding: 1, groups: 20), geometry(1, 72, 4, 5, 72, 1, groups: 9),
    ]

    static func geometry(
        _ batch: Int, _ channels: Int, _ height: Int, _ width: Int, _ outputs: Int, _ kernel: Int, stride: Int = 1,
        padding: Int = 0, dilation: Int = 1, groups: Int = 1
    ) -> ConvolutionGeometry {
        ConvolutionGeometry(
            input: ActivationShape(batch, channels, height, width), outputChannels: outputs, kernelHeight: kernel,
            kernelWidth: kernel, strideHeight: stride, strideWidth: stride, paddingHeight: padding,
            paddingWidth: padding,
            dilationHeight: dilation, dilationWidth: dilation, groups: groups)
    }

    /// Calls `body(x index, w index, y index)` for each product of the convolution.
    static func forEachProduct(_ g: ConvolutionGeometry, _ body: (Int, Int, Int) -> Void) {
        let o = g.output
        let perGroup = g.input.channels / g.groups
        for n in 0..<o.batch {
            for k in 0..<o.channels {
                let group = k / (o.channels / g.groups)
                for p in 0..<o.height {
                    for q in 0..<o.width {
                        for c in 0..<perGroup {
                            for r in 0..<g.kernelHeight {
                                let h = p * g.strideHeight + r * g.dilationHeight - g.paddingHeight
                                guard h >= 0, h < g.input.height else { continue }
                                for s in 0..<g.kernelWidth {
                                    let w = q * g.strideWidth + s * g.dilationWidth - g.paddingWidth
                                    guard w >= 0, w < g.input.width else { continue }
                                    let channel = group * perGroup + c
                                    body(
                                        ((n * g.input.channels + channel) * g.input.height + h) * g.input.width + w,
                                        ((k * perGroup + c) * g.kernelHeight + r) * g.kernelWidth + s,
                                        ((n * o.channels + k) * o.height + p) * o.width + q)
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    static func expectClose(_ actual: HostTensor, _ expected: [Double], _ scale: [Double], _ what: String) {
        guard let values = actual.floats else {
            Issue.record("\(what) is no float tensor")
            return
        }
        #expect(values.count == expected.count)
        var worst = 0.0
        for index in values.indices {
            let bound = 4e-7 * (scale[index] + 1)
            let error = abs(Double(values[index]) - expected[index]) / bound
            if !(error <= worst) { worst = error }
        }
        #expect(worst <= 1, "\(what): error is \(worst) times the bound")
    }

    @Test(arguments: geometries)
    func agreesWithLoops(_ g: ConvolutionGeometry) throws {
        let x = randomTensor([g.input.batch, g.input.channels, g.input.height, g.input.width], seed: 1)
        let weightKind = ValueKind.weight(g.weight)
        let w = randomTensor(weightKind.hostShape, seed: 2)
        let outputKind = ValueKind.activation(g.output)
        let dy = randomTensor(outputKind.hostShape, seed: 3)
        let bias = randomTensor([g.outputChannels], seed: 4)
        let residual = randomTensor(outputKind.hostShape, seed: 5)
        let addend = randomTensor(x.shape, seed: 6)
        let xs = try #require(x.floats), ws = try #require(w.floats), ds = try #require(dy.floats)
        let bs = try #require(bias.floats), rs = try #require(residual.floats), adds = try #require(addend.floats)

        var y = [Double](repeating: 0, count: ds.count), yScale = y
        var dx = adds.map(Double.init), dxScale = dx.map { abs($0) }
        var dw = [Double](repeating: 0, count: ws.count), dwScale = dw
        let plane = g.output.pixelCount
        for index in y.indices {
            y[index] = Double(bs[index / plane % g.outputChannels]) + Double(rs[index])
        }
        Self.forEachProduct(g) { i, j, k in
            y[k] += Double(xs[i]) * Double(ws[j])
            yScale[k] += abs(Double(xs[i]) * Double(ws[j]))
            dx[i] += Double(ds[k]) * Double(ws[j])
            dxScale[i] += abs(Double(ds[k]) * Double(ws[j]))
            dw[j] += Double(ds[k]) * Double(xs[i])
            dwScale[j] += abs(Double(ds[k]) * Double(xs[i]))
        }
        y = y.map { max($0, 0) }

        let inputKind = ValueKind.activation(g.input)
        for set in CPUInstructionSet.supported {
            var bytes: [[[UInt8]]] = []
            for threads in [1, 2, 3] {
                let runner = PrimitiveRunner(backend: try CPUBackend(threadCount: threads, instructionSet: set))
                let forward = try runner.run(
                    .convolution(g, Epilogue(bias: true, residual: true, relu: true)),
                    inputs: [
                        (inputKind, x), (weightKind, w), (.channelVector(g.outputChannels), bias),
                        (outputKind, residual),
                    ], outputs: [outputKind])
                let inputGradient = try runner.run(
                    .convolutionInputGradient(g, addend: true),
                    inputs: [(outputKind, dy), (weightKind, w), (inputKind, addend)],
                    outputs: [inputKind])
                let weightGradient = try runner.run(
                    .convolutionWeightGradient(g), inputs: [(inputKind, x), (outputKind, dy)], outputs: [weightKind])
                if threads == 1 {
                    Self.expectClose(forward.tensors[0], y, yScale, "y with \(set)")
                    Self.expectClose(inputGradient.tensors[0], dx, dxScale, "dx with \(set)")
                    Self.expectClose(weightGradient.tensors[0], dw, dwScale, "dw with \(set)")
                }
                bytes.append(forward.bytes + inputGradient.bytes + weightGradient.bytes)
            }
            #expect(bytes[0] == bytes[1] && bytes[0] == bytes[2], "threads change the result with \(set)")
        }
    }
}
