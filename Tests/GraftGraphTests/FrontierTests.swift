import GraftGraph
import Testing

/// A stem with dropout behind it, a block with a shortcut convolution, and a head.
private func graph() -> Graph {
    var graph = Graph()
    var x = graph.add("input", .input(channels: 3))
    x = graph.add("conv1", .convolution(ConvolutionLayer(3, 4, kernel: 3, padding: 1)), x)
    x = graph.add("bn1", .batchNormalization(channels: 4), x)
    x = graph.add("relu", .relu, x)
    let input = x
    x = graph.add("block.conv1", .convolution(ConvolutionLayer(4, 8, kernel: 3, padding: 1)), x)
    x = graph.add("block.conv2", .convolution(ConvolutionLayer(8, 8, kernel: 3, padding: 1)), x)
    let shortcut = graph.add("block.downsample", .convolution(ConvolutionLayer(4, 8, kernel: 1)), input)
    x = graph.add("block.add", .add, x, shortcut)
    x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
    x = graph.add("flatten", .flatten, x)
    x = graph.add("dropout", .dropout(rate: 0.5), x)
    _ = graph.add("fc", .linear(inputFeatures: 8, outputFeatures: 2), x)
    return graph
}

private func frontier(
    _ trainable: [String], statistics: FrozenStatistics = .keep, dropout: Bool = false
) throws -> Frontier? {
    try Frontier(
        graph(), trainable: Set(trainable), frozenStatistics: statistics, dropout: dropout, height: 8, width: 6)
}

@Suite struct FrontierTests {
    @Test func aHeadAloneReadsTheFlattenedFeatures() throws {
        let found = try #require(try frontier(["fc.weight", "fc.bias"]))
        #expect(found.nodes == ["dropout"])
        #expect(found.shapes == [ActivationShape(1, 8, 1, 1)])
        #expect(found.elementCount == 8)
        // 48 pixels · (3·4·9 + 4·8·9 + 8·8·9 + 4·8).
        #expect(found.multiplyAccumulateCount == 48 * (108 + 288 + 576 + 32))
        #expect(found.totalMultiplyAccumulateCount == found.multiplyAccumulateCount + 16)
    }

    @Test func activeDropoutEndsTheFrozenPart() throws {
        #expect(try frontier(["fc.weight"], dropout: true)?.nodes == ["flatten"])
    }

    @Test func aBlockThatTrainsReadsItsInputAndItsFrozenShortcut() throws {
        #expect(try frontier(["block.conv2.weight"])?.nodes == ["block.conv1", "block.downsample"])
        #expect(try frontier(["block.conv1.weight"])?.nodes == ["relu", "block.downsample"])
        #expect(try frontier(["block.conv1.weight", "block.downsample.weight"])?.nodes == ["relu"])
    }

    @Test func statisticsOfTheBatchEndTheFrozenPart() throws {
        #expect(try frontier(["fc.weight"], statistics: .track)?.nodes == ["conv1"])
    }

    @Test func aStemThatTrainsLeavesNothingToKeep() throws {
        #expect(try frontier(["conv1.weight"]) == nil)
    }

    @Test func programsMeetAtTheFrontier() throws {
        let found = try #require(try frontier(["block.conv2.weight"]))
        var options = LoweringOptions(
            batch: 2, height: 8, width: 6, mode: .inference, input: .pixels(mean: [0, 0, 0], deviation: [1, 1, 1]))
        options.cohorts = [["block.conv2.weight"]]
        options.outputs = found.nodes
        let prefix = try Program(graph(), options)
        #expect(Set(prefix.outputs.keys) == Set(found.nodes))
        #expect(
            prefix.instructions.map(\.node) == ["input", "relu", "block.conv1", "block.downsample"],
            "nothing behind the frontier is computed")
        options.outputs = []
        options.frontier = found.nodes
        options.mode = .training
        let suffix = try Program(graph(), options)
        #expect(Set(suffix.inputs.keys) == Set(found.nodes + ["labels"]))
        #expect(
            suffix.values.allSatisfy { !$0.name.hasPrefix("conv1") && !$0.name.hasPrefix("block.conv1.") },
            "no parameter of the frozen part is needed")
        #expect(suffix.instructions.filter { $0.primitive.kind == .convolutionInputGradient }.count == 1)
    }
}
