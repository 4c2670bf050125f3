import GraftGraph

extension Architecture {
    /// torchvision's ConvNeXt: depthwise 7×7, layer norm, a two-layer perceptron per pixel, layer scale, and a table
    /// (Liu et al. 2022; torchvision `convnext.py`).
    static let convNeXts: [Architecture] = [
        convNeXt("convnext_tiny", resize: 236, stochasticDepth: 0.1, [(96, 3), (192, 3), (384, 9), (768, 3)])
    ]

    static func convNeXt(
        _ name: String, resize: Int, stochasticDepth: Double, _ stages: [(width: Int, depth: Int)]
    ) -> Architecture {
        Architecture(
            name: name, family: "ConvNeXt", headName: "classifier.2", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)", resize: resize, initialization: .convNeXt
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            var channels = stages.first?.width ?? 96
            x = graph.add(
                "features.0.0", .convolution(ConvolutionLayer(3, channels, kernel: 4, stride: 4, bias: true)), x)
            x = graph.add("features.0.1", .layerNormalization(channels: channels, epsilon: 1e-6), x)
            let total = stages.reduce(0) { $0 + $1.depth }
            var number = 0
            for (stage, (width, depth)) in stages.enumerated() {
                if stage > 0 {
                    let path = "features.\(2 * stage)"
                    x = graph.add("\(path).0", .layerNormalization(channels: channels, epsilon: 1e-6), x)
                    x = graph.add(
                        "\(path).1", .convolution(ConvolutionLayer(channels, width, kernel: 2, stride: 2, bias: true)),
                        x)
                }
                channels = width
                for index in 0..<depth {
                    let path = "features.\(2 * stage + 1).\(index)"
                    let input = x
                    x = graph.add(
                        "\(path).block.0",
                        .convolution(
                            ConvolutionLayer(width, width, kernel: 7, padding: 3, groups: width, bias: true)), x)
                    x = graph.add("\(path).block.2", .layerNormalization(channels: width, epsilon: 1e-6), x)
                    x = graph.add(
                        "\(path).block.3", .pixelwiseLinear(inputFeatures: width, outputFeatures: 4 * width), x)
                    x = graph.add("\(path).block.4", .activation(.gelu), x)
                    x = graph.add(
                        "\(path).block.5", .pixelwiseLinear(inputFeatures: 4 * width, outputFeatures: width), x)
                    x = graph.add("\(path).mul", .layerScale(channels: width), x)
                    let rate = Float(stochasticDepth * Double(number) / Double(max(total - 1, 1)))
                    x = graph.add("\(path).stochastic_depth", .stochasticDepth(rate: rate), x)
                    x = graph.add("\(path).add", .add, x, input)
                    number += 1
                }
            }
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("classifier.0", .layerNormalization(channels: channels, epsilon: 1e-6), x)
            x = graph.add("classifier.1", .flatten, x)
            _ = graph.add("classifier.2", .linear(inputFeatures: channels, outputFeatures: classCount), x)
            return graph
        }
    }
}
