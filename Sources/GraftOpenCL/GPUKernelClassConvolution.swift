#if OpenCL
    import GraftGraph

    /// Extents of a GEMM tile: what a group computes and what each of its items does of it.
    struct GEMMTile: Hashable, Sendable {
        var rows: Int
        var columns: Int
        /// Reduction per step.
        var depth: Int
        var itemRows: Int
        var itemColumns: Int

        var itemCount: Int { rows / itemRows * (columns / itemColumns) }

        var definitions: [KernelLaunch.Definition] {
            [
                .init("BM", rows), .init("BN", columns), .init("BK", depth), .init("TM", itemRows),
                .init("TN", itemColumns),
            ]
        }

        /// 8 × 8 per item: 64 independent accumulators, 4 multiply-adds for each float read from local memory.
        static let large = GEMMTile(rows: 128, columns: 128, depth: 8, itemRows: 8, itemColumns: 8)
        static let wide = GEMMTile(rows: 64, columns: 128, depth: 16, itemRows: 4, itemColumns: 8)
        static let tall = GEMMTile(rows: 128, columns: 64, depth: 16, itemRows: 8, itemColumns: 4)
        static let square = GEMMTile(rows: 64, columns: 64, depth: 16, itemRows: 4, itemColumns: 4)
        static let flat = GEMMTile(rows: 32, columns: 128, depth: 16, itemRows: 4, itemColumns: 4)
        /// Few channels per group, as in ResNeXt; 128 items.
        static let slim = GEMMTile(rows: 16, columns: 128, depth: 16, itemRows: 4, itemColumns: 4)
        static let thin = GEMMTile(rows: 8, columns: 128, depth: 16, itemRows: 4, itemColumns: 2)
        /// Few columns and long reductions: linear layers of small batches.
        static let narrow = GEMMTile(rows: 64, columns: 32, depth: 32, itemRows: 4, itemColumns: 2)
        /// 64 items: small extents, and devices with small groups.
        static let small = GEMMTile(rows: 32, columns: 32, depth: 16, itemRows: 4, itemColumns: 4)
        /// 16 items, for devices whose groups are smaller still.
        static let least = GEMMTile(rows: 16, columns: 16, depth: 8, itemRows: 4, itemColumns: 4)

        /// The tile, or a smaller one where the device's groups are small.
        func fitting(_ device: KernelDevice) -> GEMMTile {
            for tile in [self, .small] where tile.itemCount <= device.maximumWorkGroupSize { return tile }
            return .least
        }
    }

    /// How work is spread: constants, not the device's speed, so that every device sums in the same order.
    private enum Spread {
        /// Groups that fill a large GPU: about two for each of its 132 multiprocessors.
        static let groupTarget = 264
        /// Terms below which a reduction is not split further.
        static let minimumTerms = 256
        /// A sum longer than this uses a second set of accumulators where registers allow.
        static let flushedTerms = 512
        static let maximumSplits = 64
        static let maximumWorkspaceByteCount = 256 << 20
    }

    /// How a convolution or its input gradient is run by `convolution_gpu.cl`.
    struct ConvolutionPlan {
        enum Direction { case forward, inputGradient }

        let geometry: ConvolutionGeometry
        let direction: Direction
        let tile: GEMMTile
        /// 1×1, stride 1, no padding.
        let isPointwise: Bool
        /// Pointwise on a 1×1 plane.
        let isLinear: Bool
        /// The reduction runs across taps.
        let isFlat: Bool
        let stepsPerSplit: Int
        let splitCount: Int

        /// Output channels of the GEMM within a group.
        let rows: Int
        /// Reduction channels within a group.
        let reduction: Int
        let output: ActivationShape
        let source: ActivationShape

        init(_ geometry: ConvolutionGeometry, _ direction: Direction, _ device: KernelDevice) {
            self.geometry = geometry
            self.direction = direction
            switch direction {
            case .forward: (source, output) = (geometry.input, geometry.output)
            case .inputGradient: (source, output) = (geometry.output, geometry.input)
            }
            rows = output.channels / geometry.groups
            reduction = source.channels / geometry.groups
            isPointwise = geometry.isPointwise
            isLinear = isPointwise && output.pixelCount == 1
            let classes = direction == .forward ? 1 : geometry.strideHeight * geometry.strideWidth
            isFlat =
                !isPointwise && reduction < 16 && classes == 1
                && reduction * geometry.kernelHeight * geometry.kernelWidth < 1 << 21
            let columns = (output.batch * output.pixelCount + classes - 1) / classes

            let preferred: GEMMTile =
                if isLinear {
                    columns <= 32 ? .narrow : .square
                } else if rows <= 8 && columns > 256 {
                    .thin
                } else if rows <= 16 && columns > 256 {
                    .slim
                } else if columns <= 32 || (rows <= 32 && columns <= 256) {
                    .small
                } else if rows <= 32 {
                    .flat
                } else if rows <= 64 {
                    .wide
                } else {
                    .large
                }
            tile = preferred.fitting(device)

            let taps = geometry.kernelHeight * geometry.kernelWidth
            let steps =
                isFlat
                ? (reduction * taps + tile.depth - 1) / tile.depth
                : (reduction + tile.depth - 1) / tile.depth * taps
            let groups =
                ((rows + tile.rows - 1) / tile.rows) * ((columns + tile.columns - 1) / tile.columns) * geometry.groups
                * classes
            let wanted = (Spread.groupTarget + groups - 1) / groups
            let allowed = min(
                steps * tile.depth / Spread.minimumTerms, Spread.maximumSplits,
                Spread.maximumWorkspaceByteCount / max(4 * output.elementCount, 1))
            // Half a wave more is not worth a second pass.
            let splits = groups * 3 > Spread.groupTarget * 2 ? 1 : max(min(wanted, allowed), 1)
            stepsPerSplit = max((steps + splits - 1) / splits, 1)
            splitCount = max((steps + stepsPerSplit - 1) / stepsPerSplit, 1)
        }

        var workspaceByteCount: Int { splitCount > 1 ? 4 * splitCount * output.elementCount : 0 }

        /// Gradient: pixels of equal remainders modulo the strides are one class.
        private var classCount: Int {
            direction == .inputGradient && !isPointwise ? geometry.strideHeight * geometry.strideWidth : 1
        }

        private var largestClassColumns: Int {
            guard classCount > 1 else { return output.batch * output.pixelCount }
            return output.batch * ((output.height + geometry.strideHeight - 1) / geometry.strideHeight)
                * ((output.width + geometry.strideWidth - 1) / geometry.strideWidth)
        }

        /// Inputs: source, weight, then bias and residual as the epilogue says.
        func launches(_ epilogue: Epilogue) -> [KernelLaunch] {
            let isSplit = splitCount > 1
            let bias = KernelArgument.input(epilogue.bias ? 2 : 0)
            let residual = KernelArgument.input(epilogue.residual ? (epilogue.bias ? 3 : 2) : 0)
            let partial = KernelArgument.workspace(offset: 0, byteCount: workspaceByteCount)
            // The same for both launches: one program is built.
            let definitions =
                tile.definitions + variantDefinitions + [
                    .init("BIAS", epilogue.bias ? 1 : 0), .init("RESIDUAL", epilogue.residual ? 1 : 0),
                    .init("RELU", epilogue.relu ? 1 : 0),
                ]
            let rowTiles = (rows + tile.rows - 1) / tile.rows
            let columnTiles = (largestClassColumns + tile.columns - 1) / tile.columns
            let integers =
                [
                    output.batch, source.channels, source.height, source.width, output.channels, output.height,
                    output.width, reduction, rows,
                ] + geometry.windowIntegers + [stepsPerSplit, splitCount]
            var launches = [
                KernelLaunch(
                    file: "convolution_gpu", kernel: "convolution",
                    definitions: definitions,
                    arguments: [.input(0), .input(1), bias, residual, isSplit ? partial : .output(0)]
                        + integers.map(KernelArgument.integer),
                    globalSize: [
                        rowTiles * columnTiles * tile.itemCount, geometry.groups, splitCount * classCount,
                    ], localSize: [tile.itemCount, 1, 1])
            ]
            if isSplit {
                let items = min(tile.itemCount, 256)
                launches.append(
                    KernelLaunch(
                        file: "convolution_gpu", kernel: "convolution_finish", definitions: definitions,
                        arguments: [partial, bias, residual, .output(0)]
                            + [output.elementCount, output.channels, output.pixelCount, splitCount]
                            .map(KernelArgument.integer),
                        globalSize: [output.elementCount.roundedUp(to: items)], localSize: [items]))
            }
            return launches
        }

        private var variantDefinitions: [KernelLaunch.Definition] {
            let taps = geometry.kernelHeight * geometry.kernelWidth
            let contiguous =
                switch direction {
                case .forward: isFlat ? reduction * taps : reduction
                case .inputGradient: rows
                }
            let vectorA = contiguous % 4 == 0 && tile.rows * tile.depth / 4 % tile.itemCount == 0 ? 4 : 1
            let vectorB =
                isPointwise && !isLinear && output.pixelCount % 4 == 0 && tile.itemColumns >= 4
                    && tile.columns * tile.depth / 4 % tile.itemCount == 0 ? 4 : 1
            // 64 accumulators leave no registers for a second set.
            let flushes =
                stepsPerSplit * tile.depth > Spread.flushedTerms && tile.itemRows * tile.itemColumns <= 32
            return [
                .init("GRADIENT", direction == .inputGradient ? 1 : 0), .init("SPLIT", splitCount > 1 ? 1 : 0),
                .init("POINTWISE", isPointwise ? 1 : 0), .init("LINEAR", isLinear ? 1 : 0),
                .init("FLAT", isFlat ? 1 : 0), .init("VECTOR_A", vectorA), .init("VECTOR_B", vectorB),
                .init("FLUSH", flushes ? Spread.flushedTerms / tile.depth : 0),
            ]
        }
    }

    /// How a weight gradient is run by `convolution_weight_gradient_gpu.cl`.
    struct WeightGradientPlan {
        let geometry: ConvolutionGeometry
        let tile: GEMMTile
        let pixelsPerSplit: Int
        let splitCount: Int

        private let rows: Int
        private let channels: Int
        private let columns: Int

        init(_ geometry: ConvolutionGeometry, _ device: KernelDevice) {
            self.geometry = geometry
            rows = geometry.outputChannels / geometry.groups
            channels = geometry.weight.inputChannelsPerGroup
            columns = channels * geometry.kernelHeight * geometry.kernelWidth
            let preferred: GEMMTile =
                rows <= 32 || columns <= 32 ? .small : rows <= 64 ? .square : .tall
            tile = preferred.fitting(device)
            let output = geometry.output
            let pixels = output.batch * output.pixelCount
            let groups =
                ((rows + tile.rows - 1) / tile.rows) * ((columns + tile.columns - 1) / tile.columns) * geometry.groups
            // Long sums are split even where the device is full: they stay exact, and the last groups end together.
            let wanted = max((2 * Spread.groupTarget + groups - 1) / groups, pixels / 16384)
            let allowed = min(
                pixels / Spread.minimumTerms, Spread.maximumWorkspaceByteCount / (4 * geometry.weight.elementCount),
                32768)
            let splits = max(min(wanted, allowed), 1)
            pixelsPerSplit = ((pixels + splits - 1) / splits).roundedUp(to: tile.depth)
            splitCount = max((pixels + pixelsPerSplit - 1) / pixelsPerSplit, 1)
        }

        var workspaceByteCount: Int { splitCount > 1 ? 4 * splitCount * geometry.weight.elementCount : 0 }

        func launches() -> [KernelLaunch] {
            let isSplit = splitCount > 1
            let output = geometry.output
            let partial = KernelArgument.workspace(offset: 0, byteCount: workspaceByteCount)
            let rowTiles = (rows + tile.rows - 1) / tile.rows
            let columnTiles = (columns + tile.columns - 1) / tile.columns
            let isLinear = geometry.isPointwise && output.pixelCount == 1
            let definitions =
                tile.definitions + [
                    .init("SPLIT", isSplit ? 1 : 0), .init("POINTWISE", geometry.isPointwise ? 1 : 0),
                    .init("LINEAR", isLinear ? 1 : 0), .init("FLUSH", Spread.flushedTerms / tile.depth),
                ]
            var launches = [
                KernelLaunch(
                    file: "convolution_weight_gradient_gpu", kernel: "weight_gradient", definitions: definitions,
                    arguments: [.input(0), .input(1), isSplit ? partial : .output(0)]
                        + ([
                            geometry.input.batch, geometry.input.channels, geometry.input.height,
                            geometry.input.width, output.channels, output.height, output.width, channels, rows,
                        ] + geometry.windowIntegers + [pixelsPerSplit]).map(KernelArgument.integer),
                    globalSize: [rowTiles * columnTiles * tile.itemCount, geometry.groups, splitCount],
                    localSize: [tile.itemCount, 1, 1])
            ]
            if isSplit {
                let items = min(tile.itemCount, 256)
                launches.append(
                    KernelLaunch(
                        file: "convolution_weight_gradient_gpu", kernel: "weight_gradient_finish",
                        definitions: definitions,
                        arguments: [
                            partial, .output(0), .integer(geometry.weight.elementCount), .integer(splitCount),
                        ], globalSize: [geometry.weight.elementCount.roundedUp(to: items)], localSize: [items]))
            }
            return launches
        }
    }

    extension ConvolutionGeometry {
        /// 1×1, stride 1, no padding: input and output planes agree pixel by pixel.
        fileprivate var isPointwise: Bool {
            kernelHeight == 1 && kernelWidth == 1 && strideHeight == 1 && strideWidth == 1 && paddingHeight == 0
                && paddingWidth == 0
        }

        /// Kernel, stride, padding, dilation, each height first, as the kernels take them.
        fileprivate var windowIntegers: [Int] {
            [
                kernelHeight, kernelWidth, strideHeight, strideWidth, paddingHeight, paddingWidth, dilationHeight,
                dilationWidth,
            ]
        }
    }
#endif
