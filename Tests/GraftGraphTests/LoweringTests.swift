import GraftGraph
import GraftTensor
import Testing

/// A stem, two residual blocks and a head: small enough to follow on paper.
private func residualGraph() -> Graph {
    var graph = Graph()
    var x = graph.add("input", .input(channels: 3))
    x = graph.add("conv1", .convolution(ConvolutionLayer(3, 4, kernel: 3, padding: 1)), x)
    x = graph.add("bn1", .batchNormalization(channels: 4), x)
    x = graph.add("relu", .relu, x)
    for name in ["layer1", "layer2"] {
        let input = x
        x = graph.add("\(name).conv1", .convolution(ConvolutionLayer(4, 4, kernel: 3, padding: 1)), x)
        x = graph.add("\(name).bn1", .batchNormalization(channels: 4), x)
        x = graph.add("\(name).relu", .relu, x)
        x = graph.add("\(name).conv2", .convolution(ConvolutionLayer(4, 4, kernel: 3, padding: 1)), x)
        x = graph.add("\(name).bn2", .batchNormalization(channels: 4), x)
        x = graph.add("\(name).add", .add, x, input)
        x = graph.add("\(name).relu", .relu, x)
    }
    x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
    x = graph.add("flatten", .flatten, x)
    _ = graph.add("fc", .linear(inputFeatures: 4, outputFeatures: 2), x)
    return graph
}

private func program(
    _ graph: Graph, mode: LoweringOptions.Mode, trainable prefixes: [String] = [], statistics: FrozenStatistics = .keep,
    outputs: [String] = []
) throws -> Program {
    var options = LoweringOptions(batch: 2, height: 8, width: 8, mode: mode, input: .tensor)
    let names = graph.parameters.filter(\.role.isTrainable).map(\.name)
        .filter { name in prefixes.contains { name.hasPrefix($0 + ".") } }
    if !names.isEmpty { options.cohorts = [names] }
    options.frozenStatistics = statistics
    options.outputs = outputs
    return try Program(graph, options)
}

extension Program {
    fileprivate func kinds() -> [Primitive.Kind] { instructions.map(\.primitive.kind) }
    fileprivate func count(_ kind: Primitive.Kind) -> Int { kinds().filter { $0 == kind }.count }
}

@Suite struct LoweringTests {
    @Test func inferenceFoldsNormsAndFusesResiduals() throws {
        let program = try program(residualGraph(), mode: .inference)
        #expect(
            program.kinds() == [
                .convolution, .convolution, .convolution, .convolution, .convolution, .adaptiveAveragePooling,
                .convolution,
            ])
        guard case .convolution(_, let epilogue) = program.instructions[2].primitive else {
            Issue.record("not a convolution")
            return
        }
        #expect(epilogue == Epilogue(bias: true, residual: true, relu: true))
        #expect(program.instructions[2].node == "layer1.relu_1")
    }

    @Test func requestedNodesAreNotFusedAway() throws {
        let program = try program(
            residualGraph(), mode: .inference, outputs: ["layer1.bn2", "layer1.conv1", "layer1", "layer1.add"])
        #expect(Set(program.outputs.keys) == ["layer1.bn2", "layer1.conv1", "layer1", "layer1.add"])
        for id in program.outputs.values { #expect(program[id].storage == .output) }
        // Nothing behind layer1 is computed.
        #expect(!program.instructions.contains { $0.node.hasPrefix("layer2") || $0.node == "fc" })
        #expect(
            program.kinds() == [
                .convolution, .convolution, .batchNormalizationInference, .convolution, .add, .relu,
            ])
    }

    @Test func headOnlyComputesNoGradientOfActivations() throws {
        let program = try program(residualGraph(), mode: .training, trainable: ["fc"])
        #expect(program.count(.convolutionInputGradient) == 0)
        #expect(program.count(.convolutionWeightGradient) == 1)
        #expect(program.count(.channelSum) == 1)
        #expect(program.count(.batchNormalizationTraining) == 0)
        #expect(program.count(.optimizerUpdate) == 1)
    }

    @Test func gradientsPassThroughAFrozenLayerAndStopBelowTheLowestTrainableOne() throws {
        // layer1 trains through a frozen layer2: dx flows through layer2's folded weights, its statistics are kept.
        let program = try program(residualGraph(), mode: .training, trainable: ["layer1", "fc"])
        #expect(program.count(.batchNormalizationTraining) == 2)
        #expect(program.count(.batchNormalizationTrainingGradient) == 2)
        #expect(program.count(.convolutionWeightGradient) == 3)
        // fc, layer2.conv2, layer2.conv1, layer1.conv2; none for layer1.conv1 and conv1.
        #expect(program.count(.convolutionInputGradient) == 4)
        #expect(
            !program.instructions.contains {
                $0.primitive.kind == .convolutionInputGradient && ($0.node == "layer1.conv1" || $0.node == "conv1")
            })
        // The residual of layer2 adds to what comes through its convolutions, as an addend.
        let addends = program.instructions.filter {
            if case .convolutionInputGradient(_, true) = $0.primitive { true } else { false }
        }
        #expect(addends.map(\.node) == ["layer2.conv1"])
        let gradients = Set(
            program.values.compactMap { value -> String? in
                if case .gradient(let key) = value.storage { key } else { nil }
            })
        #expect(
            gradients == [
                "layer1.conv1.weight", "layer1.bn1.weight", "layer1.bn1.bias", "layer1.conv2.weight",
                "layer1.bn2.weight",
                "layer1.bn2.bias", "fc.weight", "fc.bias",
            ])
    }

    @Test func trackedStatisticsUseTheBatchEverywhere() throws {
        let kept = try program(residualGraph(), mode: .training, trainable: ["fc"], statistics: .keep)
        let tracked = try program(residualGraph(), mode: .training, trainable: ["fc"], statistics: .track)
        #expect(kept.count(.batchNormalizationTraining) == 0)
        #expect(tracked.count(.batchNormalizationTraining) == 5)
        #expect(tracked.count(.batchNormalizationTrainingGradient) == 0)
    }

    @Test func inferenceBesideTrackedStatisticsFoldsNothing() throws {
        // The training program moves the statistics; a folded constant would keep the old ones.
        let kept = try program(residualGraph(), mode: .inference, trainable: ["fc"], statistics: .keep)
        let tracked = try program(residualGraph(), mode: .inference, trainable: ["fc"], statistics: .track)
        #expect(kept.count(.batchNormalizationInference) == 0)
        #expect(tracked.count(.batchNormalizationInference) == 5)
    }

    @Test func everyTransientIsWrittenOnceBeforeItIsRead() throws {
        for trainable in [
            ["fc"], ["layer1", "fc"], ["conv1", "bn1", "layer1", "layer2", "fc"], ["layer2.bn1"], ["bn1"],
        ] {
            for statistics in FrozenStatistics.allCases {
                let program = try program(
                    residualGraph(), mode: .training, trainable: trainable, statistics: statistics)
                var written: Set<ValueID> = []
                for instruction in program.instructions {
                    for input in instruction.inputs where program[input].storage == .transient {
                        #expect(written.contains(input), "\(program[input].name) is read before it is written")
                    }
                    for output in instruction.outputs where program[output].storage == .transient {
                        #expect(written.insert(output).inserted, "\(program[output].name) is written twice")
                    }
                }
            }
        }
    }

    @Test func theBackwardPassMakesAgainWhatItNeedNotKeep() throws {
        let program = try program(
            residualGraph(), mode: .training, trainable: ["conv1", "bn1", "layer1", "layer2", "fc"])
        #expect(program.count(.batchNormalizationReplay) > 0)
        let loss = try #require(program.instructions.firstIndex { $0.primitive.kind == .softmaxCrossEntropy })
        var kept: [ValueID] = []
        for instruction in program.instructions[..<loss] {
            if case .batchNormalizationTraining(_, _, _, let epilogue) = instruction.primitive, !epilogue.residual {
                kept.append(instruction.outputs[0])
            }
        }
        for instruction in program.instructions[loss...] {
            #expect(Set(kept).isDisjoint(with: instruction.inputs), "\(instruction.node) reads a kept output")
            guard case .batchNormalizationReplay(let shape, let epilogue) = instruction.primitive else { continue }
            // The same operands as forward, apart from the statistics, which are those that forward saved.
            let forward = program.instructions[..<loss].contains { earlier in
                guard case .batchNormalizationTraining(shape, _, _, epilogue) = earlier.primitive else { return false }
                return Array(earlier.inputs.prefix(3)) + Array(earlier.outputs[1...2]) == instruction.inputs
            }
            #expect(forward)
        }
    }

    @Test func nothingIsMadeAgainWhereNoGradientPasses() throws {
        // Tracked statistics in the frozen part: keeping its input instead of its output would spare nothing.
        let program = try program(residualGraph(), mode: .training, trainable: ["layer1", "fc"], statistics: .track)
        let again = program.instructions.filter { $0.primitive.kind == .batchNormalizationReplay }.map(\.node)
        #expect(!again.isEmpty)
        #expect(again.allSatisfy { $0.hasPrefix("layer") }, "\(again)")
    }

    @Test func pixelsAreKeptInPlaceOfTheImage() throws {
        var options = LoweringOptions(
            batch: 2, height: 16, width: 16, mode: .training,
            input: .pixels(mean: [0, 0, 0], deviation: [1, 1, 1]))
        options.cohorts = [["conv1.weight"]]
        let program = try Program(residualGraph(), options)
        #expect(program.count(.imageNormalization) == 2)
        options.cohorts = [["fc.weight"]]
        #expect(try Program(residualGraph(), options).count(.imageNormalization) == 1)
    }

    @Test func operandShapesAgreeWithTheirPrimitives() throws {
        let program = try program(
            residualGraph(), mode: .training, trainable: ["conv1", "bn1", "layer1", "layer2", "fc"])
        for instruction in program.instructions {
            switch instruction.primitive {
            case .convolution(let geometry, _):
                #expect(program[instruction.inputs[0]].kind == .activation(geometry.input))
                #expect(program[instruction.outputs[0]].kind == .activation(geometry.output))
            case .convolutionWeightGradient(let geometry):
                #expect(program[instruction.inputs[1]].kind == .activation(geometry.output))
                #expect(program[instruction.outputs[0]].kind == .weight(geometry.weight))
            case .convolutionInputGradient(let geometry, _):
                #expect(program[instruction.inputs[0]].kind == .activation(geometry.output))
                #expect(program[instruction.outputs[0]].kind == .activation(geometry.input))
            case .add(let shape, _), .reluGradient(let shape), .batchNormalizationTrainingGradient(let shape):
                for id in instruction.inputs.prefix(2) { #expect(program[id].kind == .activation(shape)) }
            default: break
            }
        }
    }

    @Test func oneValuePerChannelIsRefused() throws {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 3))
        x = graph.add("bn", .batchNormalization(channels: 3), x)
        _ = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        var options = LoweringOptions(batch: 1, height: 1, width: 1, mode: .training, input: .tensor)
        options.cohorts = [["bn.weight", "bn.bias"]]
        #expect(throws: GraphError.oneValuePerChannel(node: "bn", shape: ActivationShape(1, 3, 1, 1))) {
            try Program(graph, options)
        }
    }

    @Test func unknownNodesShowNearMatches() throws {
        #expect(throws: GraphError.unknownNode("layer9", near: ["layer1", "layer2"])) {
            try residualGraph().index(of: "layer9")
        }
        let graph = residualGraph()
        #expect(try graph.nodes[graph.index(of: "layer1")].name == "layer1.relu_1")
        #expect(try graph.nodes[graph.index(of: "fc:input")].name == "flatten")
        #expect(try graph.index(of: "logits") == graph.outputIndex)
    }

    /// A first layer with max pooling behind it, and a head; `second` reads the image too.
    private func pooledGraph(second: ConvolutionLayer? = nil) -> Graph {
        var graph = Graph()
        let image = graph.add("input", .input(channels: 3))
        var x = graph.add("conv1", .convolution(ConvolutionLayer(3, 8, kernel: 3, padding: 1)), image)
        x = graph.add("bn1", .batchNormalization(channels: 8), x)
        x = graph.add("relu", .relu, x)
        x = graph.add("maxpool", .maxPooling(kernel: 3, stride: 2, padding: 1), x)
        if let second {
            let other = graph.add("second", .convolution(second), image)
            x = graph.add("join", .concatenation, x, other)
        }
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        _ = graph.add("fc", .linear(inputFeatures: second == nil ? 8 : 16, outputFeatures: 2), x)
        return graph
    }

    /// Geometry and epilogue of the instruction that a node's value comes from.
    private func convolution(_ program: Program, _ node: String) throws -> (ConvolutionGeometry, Epilogue) {
        let instruction = try #require(program.instructions.first { $0.node == node })
        guard case .convolution(let geometry, let epilogue) = instruction.primitive else {
            Issue.record("\(node) is no convolution")
            throw GraphError.unknownNode(node, near: [])
        }
        return (geometry, epilogue)
    }

    @Test func aFirstLayerReadsACompactImageAndPoolsItsResult() throws {
        let inference = try program(pooledGraph(), mode: .inference)
        #expect(inference.kinds() == [.convolution, .adaptiveAveragePooling, .convolution])
        let (geometry, epilogue) = try convolution(inference, "maxpool")
        #expect(geometry.input.isCompact && epilogue.relu && epilogue.bias)
        #expect(epilogue.maxPooling?.output == ActivationShape(2, 8, 4, 4))
        let input = try #require(inference.inputs["input"])
        #expect(inference[input].kind == .activation(ActivationShape(2, 3, 8, 8).compact))

        // What is asked for is kept.
        let both = try program(pooledGraph(), mode: .inference, outputs: ["relu", "logits"])
        #expect(both.count(.maxPooling) == 1)
        #expect(try convolution(both, "relu").1.maxPooling == nil)

        // A frozen first layer pools in training too, one whose gradient passes the pooling does not.
        let head = try program(pooledGraph(), mode: .training, trainable: ["fc"])
        #expect(head.count(.maxPooling) == 0)
        let all = try program(pooledGraph(), mode: .training, trainable: ["conv1", "bn1", "fc"])
        #expect(all.count(.maxPooling) == 1 && all.count(.maxPoolingGradient) == 1)
        #expect(try convolution(all, "conv1").0.input.isCompact)
    }

    @Test func winogradPoolsWholeWindowsOfItsTiles() throws {
        func pools(
            _ layer: Layer = .maxPooling(kernel: 2, stride: 2), side: Int = 8, exact: Bool = false,
            trainable: [String]? = nil
        ) throws -> Bool {
            var graph = Graph()
            var x = graph.add("input", .input(channels: 16))
            x = graph.add("conv", .convolution(ConvolutionLayer(16, 16, kernel: 3, padding: 1)), x)
            x = graph.add("relu", .relu, x)
            x = graph.add("pool", layer, x)
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            _ = graph.add("fc", .linear(inputFeatures: 16, outputFeatures: 2), x)
            var options = LoweringOptions(
                batch: 8, height: side, width: side, mode: trainable == nil ? .inference : .training, input: .tensor)
            if let trainable { options.cohorts = [trainable] }
            options.allowsWinograd = !exact
            let program = try Program(graph, options)
            #expect(program.count(.convolution) == 2)
            return program.count(.maxPooling) == 0
        }
        #expect(try pools())
        // The last row and column of an odd plane are in no window, or in one that is cut.
        #expect(try pools(side: 9))
        #expect(try pools(.maxPooling(kernel: 2, stride: 2, ceilMode: true)))
        #expect(try !pools(.maxPooling(kernel: 2, stride: 2, ceilMode: true), side: 9))
        #expect(try !pools(.maxPooling(kernel: 3, stride: 2)))
        #expect(try !pools(.maxPooling(kernel: 2, stride: 2, padding: 1)))
        #expect(try !pools(exact: true))
        #expect(try !pools(trainable: ["conv.weight", "conv.bias", "fc.weight", "fc.bias"]))
    }

    @Test func anImageThatOthersReadIsPadded() throws {
        func isCompact(_ second: ConvolutionLayer, outputs: [String] = []) throws -> Bool {
            let program = try program(pooledGraph(second: second), mode: .inference, outputs: outputs)
            let input = try #require(program.inputs["input"])
            guard case .activation(let shape) = program[input].kind else { return false }
            return shape.isCompact
        }
        let gathered = ConvolutionLayer(3, 8, kernel: 3, stride: 2, padding: 1)
        #expect(try isCompact(gathered))
        // A 1×1 convolution reads blocks of channels where they lie.
        #expect(try !isCompact(ConvolutionLayer(3, 8, kernel: 1, stride: 2)))
        #expect(try !isCompact(gathered, outputs: ["input", "logits"]))
    }

    @Test func anExactProgramSumsEveryConvolutionDirectly() throws {
        var graph = Graph()
        var x = graph.add("input", .input(channels: 32))
        for name in ["a", "b"] {
            x = graph.add(name, .convolution(ConvolutionLayer(32, 32, kernel: 3, padding: 1)), x)
        }
        x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
        x = graph.add("flatten", .flatten, x)
        _ = graph.add("fc", .linear(inputFeatures: 32, outputFeatures: 2), x)
        func methods(_ allowsWinograd: Bool) throws -> [ConvolutionMethod] {
            var options = LoweringOptions(batch: 2, height: 8, width: 8, mode: .training, input: .tensor)
            options.cohorts = [["b.weight"]]
            options.allowsWinograd = allowsWinograd
            return try Program(graph, options).instructions.compactMap { instruction in
                if case .convolution(let geometry, _) = instruction.primitive, geometry.kernelHeight == 3 {
                    geometry.method
                } else {
                    nil
                }
            }
        }
        #expect(try methods(true) == [.winogradWithTransformedWeight, .winograd])
        #expect(try methods(false) == [.direct, .direct])
    }
}
