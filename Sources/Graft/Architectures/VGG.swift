import GraftGraph

extension Architecture {
    /// torchvision's VGG, with and without batch norm: a table of widths with `nil` for a pooling (Simonyan and
    /// Zisserman 2014; torchvision `vgg.py`).
    static let vggs: [Architecture] = vggTables.flatMap { name, widths in
        [vgg(name, widths, batchNormalization: false), vgg("\(name)_bn", widths, batchNormalization: true)]
    }

    private static let vggTables: [(String, [Int?])] = [
        ("vgg11", [64, nil, 128, nil, 256, 256, nil, 512, 512, nil, 512, 512, nil]),
        ("vgg13", [64, 64, nil, 128, 128, nil, 256, 256, nil, 512, 512, nil, 512, 512, nil]),
        ("vgg16", [64, 64, nil, 128, 128, nil, 256, 256, 256, nil, 512, 512, 512, nil, 512, 512, 512, nil]),
        (
            "vgg19",
            [64, 64, nil, 128, 128, nil, 256, 256, 256, 256, nil, 512, 512, 512, 512, nil, 512, 512, 512, 512, nil]
        ),
    ]

    private static func vgg(_ name: String, _ widths: [Int?], batchNormalization: Bool) -> Architecture {
        Architecture(
            name: name, family: "VGG", headName: "classifier.6", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)"
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            var position = 0
            func add(_ layer: Layer) {
                x = graph.add("features.\(position)", layer, x)
                position += 1
            }
            var channels = 3
            for width in widths {
                guard let width else {
                    add(.maxPooling(kernel: 2, stride: 2))
                    continue
                }
                add(.convolution(ConvolutionLayer(channels, width, kernel: 3, padding: 1, bias: true)))
                if batchNormalization { add(.batchNormalization(channels: width)) }
                add(.relu)
                channels = width
            }
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 7, width: 7), x)
            x = graph.add("flatten", .flatten, x)
            x = graph.add("classifier.0", .linear(inputFeatures: 512 * 7 * 7, outputFeatures: 4096), x)
            x = graph.add("classifier.1", .relu, x)
            x = graph.add("classifier.2", .dropout(rate: 0.5), x)
            x = graph.add("classifier.3", .linear(inputFeatures: 4096, outputFeatures: 4096), x)
            x = graph.add("classifier.4", .relu, x)
            x = graph.add("classifier.5", .dropout(rate: 0.5), x)
            _ = graph.add("classifier.6", .linear(inputFeatures: 4096, outputFeatures: classCount), x)
            return graph
        }
    }
}
