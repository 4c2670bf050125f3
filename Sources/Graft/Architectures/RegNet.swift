import GraftGraph

extension Architecture {
    /// torchvision's RegNetY: grouped bottlenecks with squeeze-and-excitation and a table (Radosavovic et al. 2020;
    /// torchvision `regnet.py`).
    static let regNets: [Architecture] = [
        regNetY(
            "regnet_y_400mf", resize: 232, stem: 32, groupWidth: 8, [(48, 1), (104, 3), (208, 6), (440, 6)])
    ]

    static func regNetY(
        _ name: String, resize: Int, stem: Int, groupWidth: Int, _ stages: [(width: Int, depth: Int)]
    ) -> Architecture {
        Architecture(
            name: name, family: "RegNet", headName: "fc", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)", resize: resize, initialization: .mobileNet
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            let rectified = NormalizedConvolution(activation: .relu)
            let plain = NormalizedConvolution()
            x = rectified.add(&graph, "stem", ConvolutionLayer(3, stem, kernel: 3, stride: 2, padding: 1), x)
            var channels = stem
            for (stage, (width, depth)) in stages.enumerated() {
                for index in 0..<depth {
                    let path = "trunk_output.block\(stage + 1).block\(stage + 1)-\(index)"
                    let stride = index == 0 ? 2 : 1
                    var shortcut = x
                    if index == 0 {
                        shortcut = plain.add(
                            &graph, "\(path).proj", ConvolutionLayer(channels, width, kernel: 1, stride: stride), x)
                    }
                    x = rectified.add(&graph, "\(path).f.a", ConvolutionLayer(channels, width, kernel: 1), x)
                    x = rectified.add(
                        &graph, "\(path).f.b",
                        ConvolutionLayer(
                            width, width, kernel: 3, stride: stride, padding: 1, groups: width / groupWidth), x)
                    x = Excitation(channels: width, squeezed: channels / 4, activation: .relu, gate: .sigmoid).add(
                        &graph, "\(path).f.se", x)
                    x = plain.add(&graph, "\(path).f.c", ConvolutionLayer(width, width, kernel: 1), x)
                    x = graph.add("\(path).add", .add, shortcut, x)
                    x = graph.add("\(path).activation", .relu, x)
                    channels = width
                }
            }
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            _ = graph.add("fc", .linear(inputFeatures: channels, outputFeatures: classCount), x)
            return graph
        }
    }
}
