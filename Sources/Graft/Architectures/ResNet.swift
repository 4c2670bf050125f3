import GraftGraph

extension Architecture {
    /// torchvision's ResNet, Wide ResNet and ResNeXt: one block type and a table (He et al. 2015, Zagoruyko and
    /// Komodakis 2016, Xie et al. 2017; torchvision `resnet.py`).
    static let resNets: [Architecture] = [
        resNet("resnet18", .basic, [2, 2, 2, 2]),
        resNet("resnet34", .basic, [3, 4, 6, 3]),
        resNet("resnet50", .bottleneck(baseWidth: 64, groups: 1), [3, 4, 6, 3]),
        resNet("resnet101", .bottleneck(baseWidth: 64, groups: 1), [3, 4, 23, 3]),
        resNet("resnet152", .bottleneck(baseWidth: 64, groups: 1), [3, 8, 36, 3]),
        resNet("resnext50_32x4d", .bottleneck(baseWidth: 4, groups: 32), [3, 4, 6, 3]),
        resNet("resnext101_32x8d", .bottleneck(baseWidth: 8, groups: 32), [3, 4, 23, 3]),
        resNet("resnext101_64x4d", .bottleneck(baseWidth: 4, groups: 64), [3, 4, 23, 3]),
        resNet("wide_resnet50_2", .bottleneck(baseWidth: 128, groups: 1), [3, 4, 6, 3]),
        resNet("wide_resnet101_2", .bottleneck(baseWidth: 128, groups: 1), [3, 4, 23, 3]),
    ]

    /// The residual block of a ResNet.
    enum ResidualBlock: Sendable {
        /// 3×3, 3×3.
        case basic
        /// 1×1, 3×3 (grouped, strided), 1×1 to four times the planes; inner width `planes · baseWidth/64 · groups`.
        case bottleneck(baseWidth: Int, groups: Int)

        var expansion: Int {
            switch self {
            case .basic: 1
            case .bottleneck: 4
            }
        }
    }

    private static func resNet(_ name: String, _ block: ResidualBlock, _ depths: [Int]) -> Architecture {
        Architecture(
            name: name, family: "ResNet", headName: "fc", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)"
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            x = graph.add("conv1", .convolution(ConvolutionLayer(3, 64, kernel: 7, stride: 2, padding: 3)), x)
            x = graph.add("bn1", .batchNormalization(channels: 64), x)
            x = graph.add("relu", .relu, x)
            x = graph.add("maxpool", .maxPooling(kernel: 3, stride: 2, padding: 1), x)
            var channels = 64
            for (stage, depth) in depths.enumerated() {
                let planes = 64 << stage
                for index in 0..<depth {
                    let path = "layer\(stage + 1).\(index)"
                    let stride = stage > 0 && index == 0 ? 2 : 1
                    x = addBlock(&graph, path, block, input: x, channels: channels, planes: planes, stride: stride)
                    channels = planes * block.expansion
                }
            }
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            _ = graph.add("fc", .linear(inputFeatures: channels, outputFeatures: classCount), x)
            return graph
        }
    }

    private static func addBlock(
        _ graph: inout Graph, _ path: String, _ block: ResidualBlock, input: Int, channels: Int, planes: Int,
        stride: Int
    ) -> Int {
        let output = planes * block.expansion
        var x = input
        func convolve(_ number: Int, _ layer: ConvolutionLayer) {
            x = graph.add("\(path).conv\(number)", .convolution(layer), x)
            x = graph.add("\(path).bn\(number)", .batchNormalization(channels: layer.outputChannels), x)
        }
        switch block {
        case .basic:
            convolve(1, ConvolutionLayer(channels, planes, kernel: 3, stride: stride, padding: 1))
            x = graph.add("\(path).relu", .relu, x)
            convolve(2, ConvolutionLayer(planes, planes, kernel: 3, padding: 1))
        case .bottleneck(let baseWidth, let groups):
            let width = planes * baseWidth / 64 * groups
            convolve(1, ConvolutionLayer(channels, width, kernel: 1))
            x = graph.add("\(path).relu", .relu, x)
            convolve(2, ConvolutionLayer(width, width, kernel: 3, stride: stride, padding: 1, groups: groups))
            x = graph.add("\(path).relu", .relu, x)
            convolve(3, ConvolutionLayer(width, output, kernel: 1))
        }
        var shortcut = input
        if stride != 1 || channels != output {
            shortcut = graph.add(
                "\(path).downsample.0", .convolution(ConvolutionLayer(channels, output, kernel: 1, stride: stride)),
                input)
            shortcut = graph.add("\(path).downsample.1", .batchNormalization(channels: output), shortcut)
        }
        x = graph.add("\(path).add", .add, x, shortcut)
        return graph.add("\(path).relu", .relu, x)
    }
}
