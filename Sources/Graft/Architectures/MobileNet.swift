import GraftGraph

extension Architecture {
    /// torchvision's MobileNetV2: inverted residuals and a table (Sandler et al. 2018; torchvision `mobilenetv2.py`).
    static let mobileNetV2s: [Architecture] = [
        mobileNetV2(
            "mobilenet_v2", resize: 232, stem: 32, last: 1280,
            [
                (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                (6, 320, 1, 1),
            ])
    ]

    /// `blocks`: expansion, output channels, how many blocks, stride of the first.
    static func mobileNetV2(
        _ name: String, resize: Int, stem: Int, last: Int,
        _ blocks: [(expansion: Int, channels: Int, count: Int, stride: Int)]
    ) -> Architecture {
        Architecture(
            name: name, family: "MobileNetV2", headName: "classifier.1", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)", resize: resize, initialization: .mobileNet
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            let normalized = NormalizedConvolution(activation: .activation(.relu6))
            x = normalized.add(&graph, "features.0", ConvolutionLayer(3, stem, kernel: 3, stride: 2, padding: 1), x)
            var channels = stem
            var position = 1
            for block in blocks {
                for index in 0..<block.count {
                    let path = "features.\(position)"
                    let input = x
                    let width = channels * block.expansion
                    let stride = index == 0 ? block.stride : 1
                    var part = 0
                    if block.expansion != 1 {
                        x = normalized.add(&graph, "\(path).conv.0", ConvolutionLayer(channels, width, kernel: 1), x)
                        part = 1
                    }
                    x = normalized.add(
                        &graph, "\(path).conv.\(part)",
                        ConvolutionLayer(width, width, kernel: 3, stride: stride, padding: 1, groups: width), x)
                    x = graph.add(
                        "\(path).conv.\(part + 1)",
                        .convolution(ConvolutionLayer(width, block.channels, kernel: 1)), x)
                    x = graph.add("\(path).conv.\(part + 2)", .batchNormalization(channels: block.channels), x)
                    if stride == 1, channels == block.channels { x = graph.add("\(path).add", .add, input, x) }
                    channels = block.channels
                    position += 1
                }
            }
            x = normalized.add(&graph, "features.\(position)", ConvolutionLayer(channels, last, kernel: 1), x)
            x = graph.add("adaptive_avg_pool2d", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            x = graph.add("classifier.0", .dropout(rate: 0.2), x)
            _ = graph.add("classifier.1", .linear(inputFeatures: last, outputFeatures: classCount), x)
            return graph
        }
    }

    /// torchvision's MobileNetV3: inverted residuals with squeeze-and-excitation and a table (Howard et al. 2019;
    /// torchvision `mobilenetv3.py`).
    static let mobileNetV3s: [Architecture] = [
        mobileNetV3(
            "mobilenet_v3_small", resize: 256, last: 1024,
            [
                MobileBlock(16, 3, 16, 16, true, .relu, 2), MobileBlock(16, 3, 72, 24, false, .relu, 2),
                MobileBlock(24, 3, 88, 24, false, .relu, 1),
                MobileBlock(24, 5, 96, 40, true, .activation(.hardSwish), 2),
                MobileBlock(40, 5, 240, 40, true, .activation(.hardSwish), 1),
                MobileBlock(40, 5, 240, 40, true, .activation(.hardSwish), 1),
                MobileBlock(40, 5, 120, 48, true, .activation(.hardSwish), 1),
                MobileBlock(48, 5, 144, 48, true, .activation(.hardSwish), 1),
                MobileBlock(48, 5, 288, 96, true, .activation(.hardSwish), 2),
                MobileBlock(96, 5, 576, 96, true, .activation(.hardSwish), 1),
                MobileBlock(96, 5, 576, 96, true, .activation(.hardSwish), 1),
            ]),
        mobileNetV3(
            "mobilenet_v3_large", resize: 232, last: 1280,
            [
                MobileBlock(16, 3, 16, 16, false, .relu, 1), MobileBlock(16, 3, 64, 24, false, .relu, 2),
                MobileBlock(24, 3, 72, 24, false, .relu, 1), MobileBlock(24, 5, 72, 40, true, .relu, 2),
                MobileBlock(40, 5, 120, 40, true, .relu, 1), MobileBlock(40, 5, 120, 40, true, .relu, 1),
                MobileBlock(40, 3, 240, 80, false, .activation(.hardSwish), 2),
                MobileBlock(80, 3, 200, 80, false, .activation(.hardSwish), 1),
                MobileBlock(80, 3, 184, 80, false, .activation(.hardSwish), 1),
                MobileBlock(80, 3, 184, 80, false, .activation(.hardSwish), 1),
                MobileBlock(80, 3, 480, 112, true, .activation(.hardSwish), 1),
                MobileBlock(112, 3, 672, 112, true, .activation(.hardSwish), 1),
                MobileBlock(112, 5, 672, 160, true, .activation(.hardSwish), 2),
                MobileBlock(160, 5, 960, 160, true, .activation(.hardSwish), 1),
                MobileBlock(160, 5, 960, 160, true, .activation(.hardSwish), 1),
            ]),
    ]

    /// A row of MobileNetV3's table.
    struct MobileBlock: Sendable {
        var input: Int
        var kernel: Int
        var expanded: Int
        var output: Int
        var isExcited: Bool
        var activation: Layer
        var stride: Int

        init(
            _ input: Int, _ kernel: Int, _ expanded: Int, _ output: Int, _ isExcited: Bool, _ activation: Layer,
            _ stride: Int
        ) {
            self.input = input
            self.kernel = kernel
            self.expanded = expanded
            self.output = output
            self.isExcited = isExcited
            self.activation = activation
            self.stride = stride
        }
    }

    static func mobileNetV3(_ name: String, resize: Int, last: Int, _ blocks: [MobileBlock]) -> Architecture {
        Architecture(
            name: name, family: "MobileNetV3", headName: "classifier.3", imageSize: 224, classCount: 1000,
            source: "torchvision.models.\(name)", resize: resize, initialization: .mobileNet
        ) { classCount in
            var graph = Graph()
            var x = graph.add("input", .input(channels: 3))
            func convolve(_ path: String, _ layer: ConvolutionLayer, _ activation: Layer?) {
                x = NormalizedConvolution(epsilon: 1e-3, momentum: 0.01, activation: activation).add(
                    &graph, path, layer, x)
            }
            let stem = blocks.first?.input ?? 16
            convolve(
                "features.0", ConvolutionLayer(3, stem, kernel: 3, stride: 2, padding: 1), .activation(.hardSwish))
            for (index, block) in blocks.enumerated() {
                let path = "features.\(index + 1)"
                let input = x
                var part = 0
                func next() -> String {
                    part += 1
                    return "\(path).block.\(part - 1)"
                }
                if block.expanded != block.input {
                    convolve(next(), ConvolutionLayer(block.input, block.expanded, kernel: 1), block.activation)
                }
                convolve(
                    next(),
                    ConvolutionLayer(
                        block.expanded, block.expanded, kernel: block.kernel, stride: block.stride,
                        padding: block.kernel / 2, groups: block.expanded), block.activation)
                if block.isExcited {
                    x = Excitation(
                        channels: block.expanded, squeezed: multipleOf8(Double(block.expanded / 4)),
                        activation: .relu, gate: .hardSigmoid
                    ).add(&graph, next(), x)
                }
                convolve(next(), ConvolutionLayer(block.expanded, block.output, kernel: 1), nil)
                if block.stride == 1, block.input == block.output { x = graph.add("\(path).add", .add, x, input) }
            }
            let channels = blocks.last?.output ?? stem
            convolve(
                "features.\(blocks.count + 1)", ConvolutionLayer(channels, 6 * channels, kernel: 1),
                .activation(.hardSwish))
            x = graph.add("avgpool", .adaptiveAveragePooling(height: 1, width: 1), x)
            x = graph.add("flatten", .flatten, x)
            x = graph.add("classifier.0", .linear(inputFeatures: 6 * channels, outputFeatures: last), x)
            x = graph.add("classifier.1", .activation(.hardSwish), x)
            x = graph.add("classifier.2", .dropout(rate: 0.2), x)
            _ = graph.add("classifier.3", .linear(inputFeatures: last, outputFeatures: classCount), x)
            return graph
        }
    }

    /// The multiple of 8 next to a number of channels, not more than a tenth below (`_make_divisible`).
    static func multipleOf8(_ channels: Double) -> Int {
        let rounded = max(8, Int(channels + 4) / 8 * 8)
        return Double(rounded) < 0.9 * channels ? rounded + 8 : rounded
    }
}

/// torchvision's `Conv2dNormActivation`: nodes `0`, `1` and, with an activation, `2`.
struct NormalizedConvolution {
    var epsilon: Float = 1e-5
    var momentum: Float = 0.1
    var activation: Layer?

    func add(_ graph: inout Graph, _ path: String, _ layer: ConvolutionLayer, _ input: Int) -> Int {
        var x = graph.add("\(path).0", .convolution(layer), input)
        x = graph.add(
            "\(path).1", .batchNormalization(channels: layer.outputChannels, epsilon: epsilon, momentum: momentum), x)
        guard let activation else { return x }
        return graph.add("\(path).2", activation, x)
    }
}

/// torchvision's `SqueezeExcitation` (Hu et al. 2018).
struct Excitation {
    var channels: Int
    var squeezed: Int
    var activation: Layer
    var gate: Activation

    func add(_ graph: inout Graph, _ path: String, _ input: Int) -> Int {
        var x = graph.add("\(path).avgpool", .adaptiveAveragePooling(height: 1, width: 1), input)
        x = graph.add("\(path).fc1", .convolution(ConvolutionLayer(channels, squeezed, kernel: 1, bias: true)), x)
        x = graph.add("\(path).activation", activation, x)
        x = graph.add("\(path).fc2", .convolution(ConvolutionLayer(squeezed, channels, kernel: 1, bias: true)), x)
        x = graph.add("\(path).scale_activation", .activation(gate), x)
        return graph.add("\(path).mul", .channelScale, input, x)
    }
}
