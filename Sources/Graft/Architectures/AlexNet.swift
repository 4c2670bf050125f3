import GraftGraph

extension Architecture {
    /// torchvision's AlexNet: "One weird trick" (Krizhevsky 2014; torchvision `alexnet.py`).
    static let alexNets: [Architecture] = [
        Architecture(
            name: "alexnet", family: "AlexNet", headName: "classifier.6", imageSize: 224, classCount: 1000,
            source: "torchvision.models.alexnet"
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            let features: [Layer] = [
                .convolution(ConvolutionLayer(3, 64, kernel: 11, stride: 4, padding: 2, bias: true)), .relu,
                .maxPooling(kernel: 3, stride: 2),
                .convolution(ConvolutionLayer(64, 192, kernel: 5, padding: 2, bias: true)), .relu,
                .maxPooling(kernel: 3, stride: 2),
                .convolution(ConvolutionLayer(192, 384, kernel: 3, padding: 1, bias: true)), .relu,
                .convolution(ConvolutionLayer(384, 256, kernel: 3, padding: 1, bias: true)), .relu,
                .convolution(ConvolutionLayer(256, 256, kernel: 3, padding: 1, bias: true)), .relu,
                .maxPooling(kernel: 3, stride: 2),
            ]
            for (position, layer) in features.enumerated() { x = graph.add("features.\(position)", layer, x) }
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 6, width: 6), x)
            x = graph.add("flatten", .flatten, x)
            let classifier: [Layer] = [
                .dropout(rate: 0.5), .linear(inputFeatures: 256 * 6 * 6, outputFeatures: 4096), .relu,
                .dropout(rate: 0.5), .linear(inputFeatures: 4096, outputFeatures: 4096), .relu,
                .linear(inputFeatures: 4096, outputFeatures: classCount),
            ]
            for (position, layer) in classifier.enumerated() { x = graph.add("classifier.\(position)", layer, x) }
            return graph
        }
    ]
}
