import GraftGraph

extension Architecture {
    /// torchvision's SqueezeNet 1.0 and 1.1: fire modules and a table (Iandola et al. 2016; torchvision `squeezenet.py`).
    static let squeezeNets: [Architecture] = [
        squeezeNet(
            "squeezenet1_0", stem: ConvolutionLayer(3, 96, kernel: 7, stride: 2, bias: true),
            [nil, (16, 64), (16, 64), (32, 128), nil, (32, 128), (48, 192), (48, 192), (64, 256), nil, (64, 256)]),
        squeezeNet(
            "squeezenet1_1", stem: ConvolutionLayer(3, 64, kernel: 3, stride: 2, bias: true),
            [nil, (16, 64), (16, 64), nil, (32, 128), (32, 128), nil, (48, 192), (48, 192), (64, 256), (64, 256)]),
    ]

    /// `fires`: squeeze width and the width of each of the two expansions; nil is a pooling.
    private static func squeezeNet(
        _ name: String, stem: ConvolutionLayer, _ fires: [(squeeze: Int, expand: Int)?]
    ) -> Architecture {
        Architecture(
            name: name, family: "SqueezeNet", headName: "classifier.1", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)"
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            x = graph.add("features.0", .convolution(stem), x)
            x = graph.add("features.1", .relu, x)
            var channels = stem.outputChannels
            for (offset, fire) in fires.enumerated() {
                let path = "features.\(offset + 2)"
                guard let (squeeze, expand) = fire else {
                    x = graph.add(path, .maxPooling(kernel: 3, stride: 2, ceilMode: true), x)
                    continue
                }
                func convolve(_ part: String, _ input: Int, _ layer: ConvolutionLayer) -> Int {
                    let y = graph.add("\(path).\(part)", .convolution(layer), input)
                    return graph.add("\(path).\(part)_activation", .relu, y)
                }
                let squeezed = convolve("squeeze", x, ConvolutionLayer(channels, squeeze, kernel: 1, bias: true))
                let narrow = convolve("expand1x1", squeezed, ConvolutionLayer(squeeze, expand, kernel: 1, bias: true))
                let wide = convolve(
                    "expand3x3", squeezed, ConvolutionLayer(squeeze, expand, kernel: 3, padding: 1, bias: true))
                x = graph.add("\(path).cat", .concatenation, narrow, wide)
                channels = 2 * expand
            }
            x = graph.add("classifier.0", .dropout(rate: 0.5), x)
            x = graph.add("classifier.1", .convolution(ConvolutionLayer(512, classCount, kernel: 1, bias: true)), x)
            x = graph.add("classifier.2", .relu, x)
            x = graph.add("classifier.3", .adaptiveAveragePooling(height: 1, width: 1), x)
            _ = graph.add("flatten", .flatten, x)
            return graph
        }
    }
}
