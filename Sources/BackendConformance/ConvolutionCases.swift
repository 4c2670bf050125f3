import GraftGraph

extension ConformanceCases {
    /// A convolution with square defaults.
    private static func convolution(
        _ input: ActivationShape, _ outputChannels: Int, kernel: (Int, Int), stride: (Int, Int) = (1, 1),
        padding: (Int, Int) = (0, 0), dilation: (Int, Int) = (1, 1), groups: Int = 1
    ) -> ConvolutionGeometry {
        ConvolutionGeometry(
            input: input, outputChannels: outputChannels, kernelHeight: kernel.0, kernelWidth: kernel.1,
            strideHeight: stride.0, strideWidth: stride.1, paddingHeight: padding.0, paddingWidth: padding.1,
            dilationHeight: dilation.0, dilationWidth: dilation.1, groups: groups)
    }

    /// Each is run forward and as both gradients.
    package static let convolutions: [(name: String, geometry: ConvolutionGeometry, quick: Bool)] = [
        // 1×1
        ("1x1.one", convolution(shape(1, 1, 1, 1), 1, kernel: (1, 1)), true),
        ("1x1.small", convolution(shape(2, 3, 5, 7), 5, kernel: (1, 1)), true),
        ("1x1.off", convolution(shape(2, 33, 7, 5), 65, kernel: (1, 1)), false),
        ("1x1.blocks", convolution(shape(3, 64, 7, 7), 32, kernel: (1, 1)), false),
        ("1x1.deep", convolution(shape(1, 257, 7, 5), 31, kernel: (1, 1)), false),
        ("1x1.wide", convolution(shape(1, 16, 33, 31), 63, kernel: (1, 1)), false),
        ("1x1.s2", convolution(shape(2, 17, 7, 9), 33, kernel: (1, 1), stride: (2, 2)), true),
        ("1x1.s2.even", convolution(shape(1, 64, 14, 8), 31, kernel: (1, 1), stride: (2, 2)), false),
        ("1x1.s2.deep", convolution(shape(2, 65, 6, 5), 160, kernel: (1, 1), stride: (2, 2)), true),
        ("1x1.deep.blocks", convolution(shape(1, 272, 9, 7), 97, kernel: (1, 1)), false),
        ("1x1.s3", convolution(shape(2, 5, 11, 7), 3, kernel: (1, 1), stride: (3, 3)), true),
        ("1x1.p1", convolution(shape(2, 7, 3, 2), 5, kernel: (1, 1), padding: (1, 2)), true),
        // 3×3
        ("3x3.one", convolution(shape(1, 1, 1, 1), 1, kernel: (3, 3), padding: (1, 1)), true),
        ("3x3.small", convolution(shape(1, 3, 5, 7), 5, kernel: (3, 3), padding: (1, 1)), true),
        ("3x3.off", convolution(shape(2, 17, 7, 6), 33, kernel: (3, 3), padding: (1, 1)), false),
        ("3x3.blocks", convolution(shape(2, 32, 14, 14), 64, kernel: (3, 3), padding: (1, 1)), false),
        ("3x3.batch5", convolution(shape(5, 16, 7, 7), 32, kernel: (3, 3), padding: (1, 1)), false),
        ("3x3.wide", convolution(shape(1, 5, 9, 65), 33, kernel: (3, 3), padding: (1, 1)), false),
        ("3x3.tall", convolution(shape(1, 31, 63, 2), 7, kernel: (3, 3), padding: (1, 1)), false),
        ("3x3.deep", convolution(shape(1, 160, 7, 7), 33, kernel: (3, 3), padding: (1, 1)), false),
        ("3x3.plane", convolution(shape(2, 3, 33, 31), 7, kernel: (3, 3), padding: (1, 1)), false),
        ("3x3.p0", convolution(shape(2, 16, 5, 8), 16, kernel: (3, 3)), true),
        ("3x3.p2", convolution(shape(2, 7, 4, 5), 17, kernel: (3, 3), padding: (2, 2)), true),
        ("3x3.p3", convolution(shape(1, 3, 2, 3), 5, kernel: (3, 3), padding: (3, 3)), true),
        ("3x3.s2", convolution(shape(2, 17, 7, 9), 33, kernel: (3, 3), stride: (2, 2), padding: (1, 1)), true),
        ("3x3.s2.even", convolution(shape(2, 32, 14, 8), 31, kernel: (3, 3), stride: (2, 2), padding: (1, 1)), false),
        (
            "3x3.s2.deep", convolution(shape(2, 160, 9, 8), 65, kernel: (3, 3), stride: (2, 2), padding: (1, 1)), false
        ),
        ("3x3.s2.p0", convolution(shape(1, 3, 8, 9), 33, kernel: (3, 3), stride: (2, 2)), true),
        ("3x3.s4", convolution(shape(2, 5, 11, 13), 7, kernel: (3, 3), stride: (4, 5), padding: (1, 1)), true),
        ("3x3.d2", convolution(shape(2, 17, 9, 8), 16, kernel: (3, 3), padding: (2, 2), dilation: (2, 2)), true),
        (
            "3x3.d3.s2",
            convolution(shape(1, 5, 13, 11), 33, kernel: (3, 3), stride: (2, 2), padding: (1, 1), dilation: (3, 3)),
            false
        ),
        (
            "3x3.d1x2",
            convolution(shape(1, 16, 7, 9), 17, kernel: (3, 3), padding: (1, 2), dilation: (1, 2)), false
        ),
        ("2x2.s2", convolution(shape(2, 16, 6, 8), 33, kernel: (2, 2), stride: (2, 2)), true),
        // Larger and uneven kernels
        ("5x5.p2", convolution(shape(2, 7, 9, 7), 33, kernel: (5, 5), padding: (2, 2)), false),
        ("5x5.p2.off", convolution(shape(1, 33, 6, 5), 17, kernel: (5, 5), padding: (2, 2)), false),
        ("7x7.s2.p3", convolution(shape(1, 3, 33, 31), 33, kernel: (7, 7), stride: (2, 2), padding: (3, 3)), false),
        ("7x7.s2.p3.64", convolution(shape(2, 3, 32, 32), 64, kernel: (7, 7), stride: (2, 2), padding: (3, 3)), false),
        ("7x7.s2.p3.small", convolution(shape(1, 3, 9, 8), 5, kernel: (7, 7), stride: (2, 2), padding: (3, 3)), true),
        ("11x11.s4.p2", convolution(shape(1, 3, 35, 31), 33, kernel: (11, 11), stride: (4, 4), padding: (2, 2)), false),
        ("1x7", convolution(shape(2, 17, 5, 9), 16, kernel: (1, 7), padding: (0, 3)), false),
        ("7x1", convolution(shape(2, 16, 9, 5), 17, kernel: (7, 1), padding: (3, 0)), false),
        ("3x1.s1x2", convolution(shape(1, 5, 7, 8), 33, kernel: (3, 1), stride: (1, 2), padding: (1, 0)), true),
        (
            "2x5.s3x1.p1x4",
            convolution(shape(2, 3, 9, 7), 7, kernel: (2, 5), stride: (3, 1), padding: (1, 4)), true
        ),
        ("plane.7x5", convolution(shape(3, 17, 7, 5), 33, kernel: (7, 5)), false),
        ("plane.2x3", convolution(shape(2, 5, 2, 3), 7, kernel: (2, 3)), true),
        // Groups
        ("groups.2", convolution(shape(2, 6, 5, 7), 10, kernel: (3, 3), padding: (1, 1), groups: 2), true),
        ("groups.2.blocks", convolution(shape(1, 64, 7, 7), 64, kernel: (3, 3), padding: (1, 1), groups: 2), false),
        ("groups.2.off", convolution(shape(1, 34, 7, 5), 66, kernel: (3, 3), padding: (1, 1), groups: 2), false),
        ("groups.2.5x5", convolution(shape(1, 48, 7, 7), 64, kernel: (5, 5), padding: (2, 2), groups: 2), false),
        ("groups.3", convolution(shape(2, 51, 5, 7), 33, kernel: (3, 3), padding: (1, 1), groups: 3), false),
        ("groups.3.1x1", convolution(shape(2, 15, 5, 3), 21, kernel: (1, 1), groups: 3), true),
        ("groups.32", convolution(shape(1, 128, 7, 7), 128, kernel: (3, 3), padding: (1, 1), groups: 32), false),
        (
            "groups.32.s2",
            convolution(shape(1, 128, 8, 7), 128, kernel: (3, 3), stride: (2, 2), padding: (1, 1), groups: 32), false
        ),
        ("groups.32.8", convolution(shape(1, 256, 5, 3), 256, kernel: (3, 3), padding: (1, 1), groups: 32), false),
        ("groups.widening", convolution(shape(1, 12, 5, 7), 36, kernel: (3, 3), padding: (1, 1), groups: 4), true),
        ("groups.narrowing", convolution(shape(1, 72, 5, 3), 8, kernel: (1, 1), groups: 4), false),
        ("depthwise", convolution(shape(2, 17, 7, 5), 17, kernel: (3, 3), padding: (1, 1), groups: 17), true),
        (
            "depthwise.33.s2",
            convolution(shape(1, 33, 9, 8), 33, kernel: (3, 3), stride: (2, 2), padding: (1, 1), groups: 33), false
        ),
        ("depthwise.64.5x5", convolution(shape(1, 64, 7, 9), 64, kernel: (5, 5), padding: (2, 2), groups: 64), false),
        ("depthwise.one", convolution(shape(1, 2, 1, 1), 2, kernel: (3, 3), padding: (1, 1), groups: 2), true),
        ("depthwise.1x1", convolution(shape(2, 18, 5, 3), 18, kernel: (1, 1), groups: 18), true),
        ("depthwise.p0", convolution(shape(2, 5, 7, 13), 5, kernel: (3, 3), groups: 5), true),
        ("depthwise.wide", convolution(shape(1, 16, 5, 65), 16, kernel: (3, 3), padding: (1, 1), groups: 16), false),
        ("depthwise.tall", convolution(shape(2, 31, 63, 2), 31, kernel: (3, 3), padding: (1, 1), groups: 31), false),
        ("depthwise.7x7", convolution(shape(2, 24, 9, 20), 24, kernel: (7, 7), padding: (3, 3), groups: 24), false),
        (
            "depthwise.5x5.s2",
            convolution(shape(2, 40, 14, 12), 40, kernel: (5, 5), stride: (2, 2), padding: (2, 2), groups: 40), false
        ),
        (
            "depthwise.s3x2.d2",
            convolution(
                shape(2, 7, 13, 15), 7, kernel: (3, 2), stride: (3, 2), padding: (2, 1), dilation: (2, 3), groups: 7),
            true
        ),
        ("depthwise.many", convolution(shape(5, 3, 65, 63), 3, kernel: (3, 3), padding: (1, 1), groups: 3), false),
        (
            "depthwise.multiplier",
            convolution(shape(1, 5, 7, 5), 15, kernel: (3, 3), padding: (1, 1), groups: 5), true
        ),
        // A long sum for the weight's gradient: 5·33·31 terms.
        ("long", convolution(shape(5, 3, 33, 31), 5, kernel: (3, 3), padding: (1, 1)), false),
    ]

    private static let epilogues: [(name: String, epilogue: Epilogue)] = [
        ("plain", .none), ("bias", Epilogue(bias: true)), ("relu", Epilogue(relu: true)),
        ("residual", Epilogue(residual: true)), ("bias.relu", Epilogue(bias: true, relu: true)),
        ("bias.residual", Epilogue(bias: true, residual: true)),
        ("residual.relu", Epilogue(residual: true, relu: true)),
        ("bias.residual.relu", Epilogue(bias: true, residual: true, relu: true)),
    ]

    /// The geometries that are run with every epilogue.
    private static let everyEpilogue: Set<String> = [
        "1x1.small", "1x1.off", "3x3.small", "3x3.off", "3x3.s2", "groups.2", "depthwise", "depthwise.33.s2",
    ]

    /// A convolution's epilogues with the usual windows, as far as its plane allows them.
    private static func pooled(_ geometry: ConvolutionGeometry, _ index: Int) -> [(tag: String, epilogue: Epilogue)] {
        [(2, 0, false), (2, 0, true), (3, 1, false), (3, 0, true), (3, 0, false)].compactMap { kernel, padding, ceil in
            var epilogue = Epilogue(bias: index % 2 == 0, relu: (index + kernel) % 3 != 0)
            let window = PoolingGeometry(
                input: geometry.output, kernel: kernel, stride: 2, padding: padding, ceilMode: ceil)
            guard geometry.canPool(window, epilogue) else { return nil }
            epilogue.maxPooling = window
            return ("\(kernel)x\(kernel).p\(padding)\(ceil ? ".ceil" : "")", epilogue)
        }
    }

    static let convolutionCases: [ConformanceCase] = convolutions.enumerated().flatMap { index, entry in
        let (name, geometry, quick) = entry
        var cases: [ConformanceCase] = []
        let chosen =
            everyEpilogue.contains(name)
            ? epilogues : [epilogues[0], epilogues[1 + index % (epilogues.count - 1)]]
        for (tag, epilogue) in chosen {
            cases.append(
                ConformanceCase("convolution.\(name).\(tag)", .convolution(geometry, epilogue), quick: quick))
        }
        for addend in [false, true] {
            cases.append(
                ConformanceCase(
                    "convolutionInputGradient.\(name)\(addend ? ".addend" : "")",
                    .convolutionInputGradient(geometry, addend: addend), quick: quick && (addend == (index % 2 == 0))))
        }
        cases.append(
            ConformanceCase("convolutionWeightGradient.\(name)", .convolutionWeightGradient(geometry), quick: quick))
        if geometry.canReadCompactInput {
            var compact = geometry
            compact.input.isCompact = true
            cases += [
                ConformanceCase(
                    "convolution.compact.\(name)", .convolution(compact, epilogues[index % epilogues.count].epilogue),
                    quick: quick),
                ConformanceCase(
                    "convolutionWeightGradient.compact.\(name)", .convolutionWeightGradient(compact), quick: quick),
            ]
            cases += pooled(compact, index).map {
                ConformanceCase(
                    "convolution.pooled.\(name).\($0.tag)", .convolution(compact, $0.epilogue), quick: quick)
            }
        }
        return cases
    }

    /// 3×3 kernels by Winograd's transforms: planes off the tiles of 4, every padding, channels off the blocks.
    private static let winogradGeometries: [(name: String, geometry: ConvolutionGeometry, quick: Bool)] = [
        ("one", convolution(shape(1, 1, 1, 1), 1, kernel: (3, 3), padding: (1, 1)), true),
        ("small", convolution(shape(2, 17, 5, 7), 5, kernel: (3, 3), padding: (1, 1)), true),
        ("tile", convolution(shape(1, 16, 4, 4), 16, kernel: (3, 3), padding: (1, 1)), true),
        ("off", convolution(shape(3, 33, 7, 6), 65, kernel: (3, 3), padding: (1, 1)), false),
        ("blocks", convolution(shape(2, 64, 14, 13), 96, kernel: (3, 3), padding: (1, 1)), false),
        ("wide", convolution(shape(1, 32, 9, 65), 33, kernel: (3, 3), padding: (1, 1)), false),
        ("tall", convolution(shape(1, 31, 63, 2), 32, kernel: (3, 3), padding: (1, 1)), false),
        ("deep", convolution(shape(5, 288, 7, 7), 64, kernel: (3, 3), padding: (1, 1)), false),
        ("deeper", convolution(shape(2, 528, 7, 7), 48, kernel: (3, 3), padding: (1, 1)), false),
        ("many", convolution(shape(3, 48, 33, 31), 32, kernel: (3, 3), padding: (1, 1)), false),
        // 704 tiles: the weight's gradient is summed over more than one chunk of them.
        ("chunks", convolution(shape(11, 16, 31, 30), 16, kernel: (3, 3), padding: (1, 1)), false),
        ("p0", convolution(shape(2, 32, 5, 8), 16, kernel: (3, 3)), true),
        ("p2", convolution(shape(2, 7, 4, 5), 17, kernel: (3, 3), padding: (2, 2)), true),
        ("p0x2", convolution(shape(1, 40, 6, 9), 33, kernel: (3, 3), padding: (0, 2)), false),
    ]

    static let winogradCases: [ConformanceCase] = winogradGeometries.enumerated().flatMap { index, entry in
        let (name, geometry, quick) = entry
        let epilogue = epilogues[(index + 4) % epilogues.count]
        let transformed = geometry.with(.winogradWithTransformedWeight)
        let inPlace = geometry.with(.winograd)
        return [
            ConformanceCase(
                "convolution.winograd.\(name).\(epilogue.name)", .convolution(inPlace, epilogue.epilogue), quick: quick),
            ConformanceCase(
                "convolution.winograd.transformed.\(name)",
                .convolution(transformed, Epilogue(bias: true, residual: true, relu: true)), quick: quick),
            ConformanceCase(
                "convolutionInputGradient.winograd.\(name)",
                .convolutionInputGradient(inPlace, addend: index % 2 == 1), quick: quick),
            ConformanceCase(
                "convolutionWeightGradient.winograd.\(name)", .convolutionWeightGradient(inPlace), quick: quick),
        ]
            + pooled(index % 2 == 0 ? inPlace : transformed, index).map {
                ConformanceCase(
                    "convolution.winograd.pooled.\(name).\($0.tag)",
                    .convolution(index % 2 == 0 ? inPlace : transformed, $0.epilogue), quick: quick)
            }
    }

    /// 1×1 kernels on 1×1 planes.
    static let linearCases: [ConformanceCase] = [
        (1, 1, 1, true), (1, 3, 2, true), (2, 17, 5, true), (3, 33, 10, true), (5, 64, 10, false), (4, 512, 10, false),
        (1, 512, 65, false), (33, 31, 7, true), (32, 64, 33, false), (65, 63, 64, false), (2, 1025, 33, false),
        (3, 65, 1000, false),
    ].flatMap { batch, inputs, outputs, quick in
        let geometry = convolution(shape(batch, inputs, 1, 1), outputs, kernel: (1, 1))
        let name = "linear.\(batch)x\(inputs)to\(outputs)"
        return [
            ConformanceCase("convolution.\(name)", .convolution(geometry, Epilogue(bias: true)), quick: quick),
            ConformanceCase(
                "convolution.\(name).relu", .convolution(geometry, Epilogue(bias: true, relu: true)), quick: quick),
            ConformanceCase(
                "convolutionInputGradient.\(name)", .convolutionInputGradient(geometry, addend: false), quick: quick),
            ConformanceCase(
                "convolutionWeightGradient.\(name)", .convolutionWeightGradient(geometry), quick: quick),
        ]
    }
}
