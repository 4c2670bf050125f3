import GraftGraph
import Testing

/// Operations and bytes of a profile, on examples that paper and pencil can follow.
@Suite("Work of instructions") struct WorkTests {
    @Test func aConvolutionCountsItsSumsAndItsOperandsOnce() {
        let input = ActivationShape(2, 3, 8, 6)
        let geometry = ConvolutionGeometry(
            input: input, outputChannels: 5, kernelHeight: 3, kernelWidth: 3, strideHeight: 2, strideWidth: 2,
            paddingHeight: 1, paddingWidth: 1)
        var program = Program()
        let x = program.add(.activation(input), .input, "x")
        let w = program.add(.weight(geometry.weight), .input, "w")
        let y = program.add(.activation(geometry.output), .output, "y")
        program.append(.convolution(geometry, .none), [x, w], [y], node: "conv")
        let instruction = program.instructions[0]
        // 2 images of 5×4×3 results, each a sum of 3·3·3 products.
        #expect(instruction.primitive.multiplyAccumulateCount == 2 * 5 * 4 * 3 * 27)
        #expect(program.operandByteCount(of: instruction) == 4 * (2 * 3 * 48 + 5 * 27 + 2 * 5 * 12))
        #expect(instruction.primitive.shapeText == "[2, 3, 8, 6] 3×3 → 5 /2")
        #expect(instruction.primitive.label == "convolution")
    }

    @Test func anUpdateCountsWhatItReadsAndWritesOfItsOwnCohort() {
        var program = Program()
        for (name, cohort) in [("a", 0), ("b", 1), ("c", 0)] {
            _ = program.add(
                .channelVector(10), .parameter(key: name, source: .tensor(name), cohort: cohort), name)
        }
        program.append(.optimizerUpdate(.sgd(momentum: true, nesterov: false), cohort: 0), [], [], node: "update")
        // Parameters and momentum are read and written, gradients read: five passes over 20 floats.
        #expect(program.operandByteCount(of: program.instructions[0]) == 5 * 20 * 4)
    }
}
