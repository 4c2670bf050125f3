import GraftGraph

extension ConformanceCases {
    private static func pooling(
        _ input: ActivationShape, _ kernel: (Int, Int), _ stride: (Int, Int), padding: (Int, Int) = (0, 0),
        dilation: Int = 1, ceil: Bool = false, countsPadding: Bool = true
    ) -> PoolingGeometry {
        var geometry = PoolingGeometry(
            input: input, kernel: kernel.0, stride: stride.0, padding: padding.0, dilation: dilation, ceilMode: ceil,
            countsPadding: countsPadding)
        geometry.kernelWidth = kernel.1
        geometry.strideWidth = stride.1
        geometry.paddingWidth = padding.1
        return geometry
    }

    /// Undilated windows serve average pooling too.
    package static let poolings: [(name: String, geometry: PoolingGeometry, quick: Bool)] = [
        ("1x1", pooling(shape(1, 1, 1, 1), (1, 1), (1, 1)), true),
        ("2x2.s2", pooling(shape(2, 3, 6, 8), (2, 2), (2, 2)), true),
        ("2x2.s2.odd", pooling(shape(1, 17, 7, 5), (2, 2), (2, 2)), true),
        ("2x2.s2.ceil", pooling(shape(1, 17, 7, 5), (2, 2), (2, 2), ceil: true), true),
        ("2x2.s2.blocks", pooling(shape(2, 64, 14, 14), (2, 2), (2, 2)), false),
        ("3x3.s2.p1", pooling(shape(2, 33, 7, 9), (3, 3), (2, 2), padding: (1, 1)), true),
        ("3x3.s2.p1.even", pooling(shape(1, 64, 32, 31), (3, 3), (2, 2), padding: (1, 1)), false),
        ("3x3.s2", pooling(shape(2, 16, 13, 13), (3, 3), (2, 2)), false),
        ("3x3.s2.ceil", pooling(shape(2, 5, 8, 6), (3, 3), (2, 2), ceil: true), true),
        ("3x3.s2.p1.ceil", pooling(shape(1, 31, 6, 7), (3, 3), (2, 2), padding: (1, 1), ceil: true), true),
        ("3x3.s1.p1", pooling(shape(1, 65, 7, 5), (3, 3), (1, 1), padding: (1, 1)), false),
        ("3x3.s1.small", pooling(shape(2, 3, 4, 3), (3, 3), (1, 1)), true),
        ("3x3.s3.p1.ceil", pooling(shape(2, 7, 5, 11), (3, 3), (3, 3), padding: (1, 1), ceil: true), true),
        ("2x2.s3", pooling(shape(2, 5, 11, 7), (2, 2), (3, 3)), true),
        ("2x2.s3.ceil", pooling(shape(2, 5, 10, 6), (2, 2), (3, 3), ceil: true), true),
        ("3x2.s1x2.p1x0", pooling(shape(1, 17, 5, 7), (3, 2), (1, 2), padding: (1, 0)), true),
        ("5x5.s1.p2", pooling(shape(1, 5, 9, 7), (5, 5), (1, 1), padding: (2, 2)), false),
        ("plane", pooling(shape(3, 33, 7, 5), (7, 5), (1, 1)), false),
        (
            "3x3.s2.p1.excluded",
            pooling(shape(2, 17, 7, 6), (3, 3), (2, 2), padding: (1, 1), countsPadding: false), true
        ),
        (
            "3x3.s2.p1.ceil.excluded",
            pooling(shape(1, 7, 6, 8), (3, 3), (2, 2), padding: (1, 1), ceil: true, countsPadding: false), true
        ),
    ]

    private static let dilated: [(name: String, geometry: PoolingGeometry, quick: Bool)] = [
        ("3x3.d2", pooling(shape(2, 5, 9, 7), (3, 3), (1, 1), dilation: 2), true),
        ("2x2.d3.s2.ceil", pooling(shape(1, 17, 9, 8), (2, 2), (2, 2), dilation: 3, ceil: true), true),
        ("3x3.d2.p1", pooling(shape(1, 33, 7, 9), (3, 3), (2, 2), padding: (1, 1), dilation: 2), false),
    ]

    private static let adaptive: [(name: String, shape: ActivationShape, height: Int, width: Int, quick: Bool)] = [
        ("global", shape(2, 33, 7, 5), 1, 1, true), ("global.blocks", shape(3, 64, 7, 7), 1, 1, false),
        ("global.large", shape(1, 17, 65, 63), 1, 1, false), ("global.one", shape(2, 5, 1, 1), 1, 1, true),
        ("same", shape(1, 17, 6, 6), 6, 6, true), ("uneven", shape(2, 5, 7, 9), 3, 4, true),
        ("uneven.off", shape(1, 33, 13, 11), 6, 6, false), ("vgg", shape(1, 16, 7, 7), 7, 7, false),
        ("larger", shape(2, 3, 2, 3), 5, 7, true), ("larger.one", shape(1, 17, 1, 1), 7, 7, true),
        ("mixed", shape(1, 31, 9, 2), 2, 5, true),
    ]

    static let poolingCases: [ConformanceCase] = {
        var cases: [ConformanceCase] = []
        for (name, g, quick) in poolings + dilated {
            cases += [
                ConformanceCase("maxPooling.\(name)", .maxPooling(g, indices: true), quick: quick),
                ConformanceCase("maxPooling.values.\(name)", .maxPooling(g, indices: false), quick: quick),
                ConformanceCase(
                    "maxPooling.tied.\(name)", .maxPooling(g, indices: true), fills: [0: .tied], quick: quick),
                ConformanceCase(
                    "maxPooling.negative.\(name)", .maxPooling(g, indices: true), fills: [0: .range(-9, -8)]),
                ConformanceCase(
                    "maxPooling.low.\(name)", .maxPooling(g, indices: true), fills: [0: .constant(-.infinity)]),
                // One NaN in a plane at most, so that no window has two to choose from.
                ConformanceCase(
                    "maxPooling.nan.\(name)", .maxPooling(g, indices: true),
                    fills: [0: .special(.nan, every: g.input.pixelCount + 1)]),
                ConformanceCase(
                    "maxPoolingGradient.\(name)", .maxPoolingGradient(g), fills: [1: .maximumIndices(g)], quick: quick),
            ]
        }
        for (name, g, quick) in poolings {
            cases += [
                ConformanceCase("averagePooling.\(name)", .averagePooling(g), quick: quick),
                ConformanceCase("averagePoolingGradient.\(name)", .averagePoolingGradient(g), quick: quick),
            ]
        }
        for (name, s, height, width, quick) in adaptive {
            cases += [
                ConformanceCase(
                    "adaptiveAveragePooling.\(name)",
                    .adaptiveAveragePooling(s, outputHeight: height, outputWidth: width), quick: quick),
                ConformanceCase(
                    "adaptiveAveragePoolingGradient.\(name)",
                    .adaptiveAveragePoolingGradient(s, outputHeight: height, outputWidth: width), quick: quick),
            ]
        }
        return cases
    }()
}
