import GraftGraph

extension Architecture {
    /// The ResNets for 32-pixel images with parameter-free shortcuts (He et al. 2015, section 4.2; names as in the
    /// published `resnet20-12fca82f.th` and its kin). Depth 8 is the demo's.
    static let cifarResNets: [Architecture] = [8, 20, 32, 44, 56, 110].map { depth in
        cifarResNet("resnet\(depth)_cifar", blockCount: (depth - 2) / 6)
    }

    /// A stem of 16 channels and three stages of 16, 32, 64 channels with `blockCount` basic blocks each.
    static func cifarResNet(_ name: String, blockCount: Int) -> Architecture {
        Architecture(
            name: name, family: "CIFAR ResNet", headName: "linear", imageSize: 32, classCount: 10,
            source: "He et al. 2015, arXiv:1512.03385, section 4.2"
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            x = graph.add("conv1", .convolution(ConvolutionLayer(3, 16, kernel: 3, padding: 1)), x)
            x = graph.add("bn1", .batchNormalization(channels: 16), x)
            x = graph.add("relu", .relu, x)
            var channels = 16
            for (stage, width) in [16, 32, 64].enumerated() {
                for block in 0..<blockCount {
                    let path = "layer\(stage + 1).\(block)"
                    let stride = stage > 0 && block == 0 ? 2 : 1
                    let input = x
                    x = graph.add(
                        "\(path).conv1",
                        .convolution(ConvolutionLayer(channels, width, kernel: 3, stride: stride, padding: 1)), x)
                    x = graph.add("\(path).bn1", .batchNormalization(channels: width), x)
                    x = graph.add("\(path).relu", .relu, x)
                    x = graph.add(
                        "\(path).conv2", .convolution(ConvolutionLayer(width, width, kernel: 3, padding: 1)), x)
                    x = graph.add("\(path).bn2", .batchNormalization(channels: width), x)
                    var shortcut = input
                    if stride != 1 || channels != width {
                        shortcut = graph.add(
                            "\(path).shortcut", .subsampleAndPad(stride: stride, before: width / 4, after: width / 4),
                            input)
                    }
                    x = graph.add("\(path).add", .add, x, shortcut)
                    x = graph.add("\(path).relu", .relu, x)
                    channels = width
                }
            }
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            _ = graph.add("linear", .linear(inputFeatures: 64, outputFeatures: classCount), x)
            return graph
        }
    }
}
