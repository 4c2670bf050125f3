import GraftGraph

extension Architecture {
    /// torchvision's DenseNet: dense blocks, transitions and a table (Huang et al. 2017; torchvision `densenet.py`).
    static let denseNets: [Architecture] = [
        denseNet("densenet121", growth: 32, [6, 12, 24, 16], stem: 64)
    ]

    /// torchvision's name for a tensor of a file: the published DenseNet files still say `denselayer1.norm.1.weight` where
    /// the module tree has `denselayer1.norm1.weight`.
    func currentName(of name: String) -> String {
        guard family == "DenseNet", name.contains(".denselayer") else { return name }
        var parts = name.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
        for index in parts.indices.dropLast().reversed()
        where ["norm", "conv"].contains(parts[index]) && ["1", "2"].contains(parts[index + 1]) {
            parts[index] += parts.remove(at: index + 1)
        }
        return parts.joined(separator: ".")
    }

    static func denseNet(_ name: String, growth: Int, _ depths: [Int], stem: Int) -> Architecture {
        Architecture(
            name: name, family: "DenseNet", headName: "classifier", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)", initialization: .denseNet
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            func rectify(_ path: String, _ number: String, _ channels: Int) {
                x = graph.add("\(path).norm\(number)", .batchNormalization(channels: channels), x)
                x = graph.add("\(path).relu\(number)", .relu, x)
            }
            x = graph.add(
                "features.conv0", .convolution(ConvolutionLayer(3, stem, kernel: 7, stride: 2, padding: 3)), x)
            rectify("features", "0", stem)
            x = graph.add("features.pool0", .maxPooling(kernel: 3, stride: 2, padding: 1), x)
            var channels = stem
            for (block, depth) in depths.enumerated() {
                let blockPath = "features.denseblock\(block + 1)"
                for layer in 1...depth {
                    let path = "\(blockPath).denselayer\(layer)"
                    // Everything so far in one value, to which each layer adds: torchvision joins the parts anew.
                    let features = x
                    rectify(path, "1", channels)
                    x = graph.add("\(path).conv1", .convolution(ConvolutionLayer(channels, 4 * growth, kernel: 1)), x)
                    rectify(path, "2", 4 * growth)
                    x = graph.add(
                        "\(path).conv2", .convolution(ConvolutionLayer(4 * growth, growth, kernel: 3, padding: 1)), x)
                    let name = layer < depth ? "\(blockPath).denselayer\(layer + 1).cat" : "\(blockPath).cat"
                    x = graph.add(name, .concatenation, features, x)
                    channels += growth
                }
                guard block < depths.count - 1 else { continue }
                let path = "features.transition\(block + 1)"
                rectify(path, "", channels)
                x = graph.add("\(path).conv", .convolution(ConvolutionLayer(channels, channels / 2, kernel: 1)), x)
                x = graph.add("\(path).pool", .averagePooling(kernel: 2, stride: 2), x)
                channels /= 2
            }
            x = graph.add("features.norm5", .batchNormalization(channels: channels), x)
            x = graph.add("relu", .relu, x)
            x = graph.add("adaptive_avg_pool2d", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            _ = graph.add("classifier", .linear(inputFeatures: channels, outputFeatures: classCount), x)
            return graph
        }
    }
}
