import GraftGraph
import GraftVision

extension Architecture {
    /// torchvision's EfficientNet B0 to B3: one table, scaled in width and depth (Tan and Le 2019; torchvision
    /// `efficientnet.py`). Sizes and interpolation are those of the published weights.
    static let efficientNets: [Architecture] = [
        efficientNet("efficientnet_b0", width: 1, depth: 1, dropout: 0.2, imageSize: 224, resize: 256, .bicubic),
        efficientNet("efficientnet_b1", width: 1, depth: 1.1, dropout: 0.2, imageSize: 240, resize: 255, .bilinear),
        efficientNet("efficientnet_b2", width: 1.1, depth: 1.2, dropout: 0.3, imageSize: 288, resize: 288, .bicubic),
        efficientNet("efficientnet_b3", width: 1.2, depth: 1.4, dropout: 0.3, imageSize: 300, resize: 320, .bicubic),
    ]

    /// Expansion, kernel, stride of the first block, input and output channels, blocks.
    private static let efficientStages: [(Int, Int, Int, Int, Int, Int)] = [
        (1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 2), (6, 3, 2, 40, 80, 3), (6, 5, 1, 80, 112, 3),
        (6, 5, 2, 112, 192, 4), (6, 3, 1, 192, 320, 1),
    ]

    private static func efficientNet(
        _ name: String, width: Double, depth: Double, dropout: Float, imageSize: Int, resize: Int,
        _ interpolation: Interpolation
    ) -> Architecture {
        Architecture(
            name: name, family: "EfficientNet", headName: "classifier.1", imageSize: imageSize, classCount: 1000,
            source: "torchvision.models.\(name)", resize: resize, interpolation: interpolation,
            initialization: .efficientNet
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            func channels(_ count: Int) -> Int { multipleOf8(Double(count) * width) }
            func convolve(_ path: String, _ layer: ConvolutionLayer, _ activation: Layer?) {
                x = NormalizedConvolution(activation: activation).add(&graph, path, layer, x)
            }
            let counts = efficientStages.map { Int((Double($0.5) * depth).rounded(.up)) }
            let total = counts.reduce(0, +)
            convolve(
                "features.0", ConvolutionLayer(3, channels(32), kernel: 3, stride: 2, padding: 1), .activation(.silu))
            var blockNumber = 0
            for (stage, (expansion, kernel, firstStride, stageInput, stageOutput, _)) in efficientStages.enumerated() {
                let output = channels(stageOutput)
                for index in 0..<counts[stage] {
                    let path = "features.\(stage + 1).\(index)"
                    let input = index == 0 ? channels(stageInput) : output
                    let stride = index == 0 ? firstStride : 1
                    let expanded = multipleOf8(Double(input * expansion))
                    let start = x
                    var part = 0
                    func next() -> String {
                        part += 1
                        return "\(path).block.\(part - 1)"
                    }
                    if expanded != input {
                        convolve(next(), ConvolutionLayer(input, expanded, kernel: 1), .activation(.silu))
                    }
                    convolve(
                        next(),
                        ConvolutionLayer(
                            expanded, expanded, kernel: kernel, stride: stride, padding: kernel / 2, groups: expanded),
                        .activation(.silu))
                    x = Excitation(
                        channels: expanded, squeezed: max(1, input / 4), activation: .activation(.silu), gate: .sigmoid
                    ).add(&graph, next(), x)
                    convolve(next(), ConvolutionLayer(expanded, output, kernel: 1), nil)
                    if stride == 1, input == output {
                        let rate = Float(0.2 * Double(blockNumber) / Double(total))
                        x = graph.add("\(path).stochastic_depth", .stochasticDepth(rate: rate), x)
                        x = graph.add("\(path).add", .add, x, start)
                    }
                    blockNumber += 1
                }
            }
            let last = channels(320)
            convolve(
                "features.\(efficientStages.count + 1)", ConvolutionLayer(last, 4 * last, kernel: 1),
                .activation(.silu))
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            x = graph.add("classifier.0", .dropout(rate: dropout), x)
            _ = graph.add("classifier.1", .linear(inputFeatures: 4 * last, outputFeatures: classCount), x)
            return graph
        }
    }
}
