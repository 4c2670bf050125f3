#if OpenCL
    import GraftGraph

    /// How a convolution or its input gradient is run by `convolution_gpu.cl`.
    struct ConvolutionPlan {
        enum Direction { case forward, inputGradient }

        let geometry: ConvolutionGeometry
        let direction: Direction
        let place: TilePlace
        let tile: GEMMTile
        /// 1×1, stride 1, no padding.
        let isPointwise: Bool
        /// Pointwise on a 1×1 plane.
        let isLinear: Bool
        /// The reduction runs across taps.
        let isFlat: Bool
        let stepsPerChunk: Int
        /// Chunks of a reduction, in any case.
        let chunkCount: Int
        /// Chunks, when each has a group of its own, else 1.
        let splitCount: Int

        /// Output channels of the GEMM within a group.
        let rows: Int
        /// Reduction channels within a group.
        let reduction: Int
        let output: ActivationShape
        let source: ActivationShape

        init(_ geometry: ConvolutionGeometry, _ direction: Direction, _ tiles: TileTable) {
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
            let taps = geometry.kernelHeight * geometry.kernelWidth
            isFlat = !isPointwise && reduction < 16 && classes == 1 && reduction * taps < 1 << 21

            // What the order of sums and the tile depend on: the shape of one image, not how many there are.
            let nominalBatch = isLinear ? ReductionChunks.nominalLinearBatch : ReductionChunks.nominalBatch
            let nominalColumns = ceilDivide(nominalBatch * output.pixelCount, classes)
            let extent: TilePlace.Extent =
                if nominalColumns <= 32 || (rows > 16 && rows <= 32 && nominalColumns <= 256) {
                    .few
                } else if rows <= 8 {
                    .rows8
                } else if rows <= 16 {
                    .rows16
                } else if rows <= 32 {
                    .rows32
                } else if rows <= 64 {
                    .rows64
                } else {
                    .many
                }
            place = TilePlace(
                direction == .forward ? .forward : .inputGradient, extent,
                isLinear ? .linear : isPointwise ? .pointwise : isFlat ? .flat : .taps)
            tile = tiles[place]
            let chunks = ReductionChunks(
                channels: reduction, taps: taps, isFlat: isFlat,
                tilesOf64: ceilDivide(rows, 64) * ceilDivide(nominalColumns, 64) * geometry.groups * classes)
            stepsPerChunk = chunks.stepsPerChunk(depth: tile.depth)
            chunkCount = chunks.count
            // This changes no result, so the batch may decide. Half a wave more is not worth a second pass.
            let columns = ceilDivide(output.batch * output.pixelCount, classes)
            let groups =
                ceilDivide(rows, tile.rows) * ceilDivide(columns, tile.columns) * geometry.groups * classes
            let isSplit =
                groups * 3 <= ReductionChunks.groupTarget * 2
                && 4 * output.elementCount * chunkCount <= ReductionChunks.maximumWorkspaceByteCount
            splitCount = isSplit ? chunkCount : 1
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
                    .init("ACTIVATION", epilogue.furtherActivation?.code ?? 0),
                ]
            let rowTiles = (rows + tile.rows - 1) / tile.rows
            let columnTiles = (largestClassColumns + tile.columns - 1) / tile.columns
            let integers =
                [
                    output.batch, source.channels, source.height, source.width, output.channels, output.height,
                    output.width, reduction, rows,
                ] + geometry.windowIntegers + [stepsPerChunk, splitCount]
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
            return [
                .init("GRADIENT", direction == .inputGradient ? 1 : 0), .init("SPLIT", splitCount > 1 ? 1 : 0),
                .init("POINTWISE", isPointwise ? 1 : 0), .init("LINEAR", isLinear ? 1 : 0),
                .init("FLAT", isFlat ? 1 : 0), .init("VECTOR_A", vectorA), .init("VECTOR_B", vectorB),
                .init("FLUSH", chunkCount > splitCount ? 1 : 0),
            ]
        }
    }

    /// How a weight gradient is run by `convolution_weight_gradient_gpu.cl`.
    struct WeightGradientPlan {
        /// A sum longer than this goes on in a second set of accumulators.
        private static let flushedTerms = 512

        let geometry: ConvolutionGeometry
        let place: TilePlace
        let tile: GEMMTile
        let pixelsPerSplit: Int
        let splitCount: Int

        private let isLinear: Bool
        private let rows: Int
        private let channels: Int
        private let columns: Int

        init(_ geometry: ConvolutionGeometry, _ tiles: TileTable) {
            self.geometry = geometry
            rows = geometry.outputChannels / geometry.groups
            channels = geometry.weight.inputChannelsPerGroup
            columns = channels * geometry.kernelHeight * geometry.kernelWidth
            let output = geometry.output
            isLinear = geometry.isPointwise && output.pixelCount == 1
            place = TilePlace(
                .weightGradient, rows <= 32 || columns <= 32 ? .rows32 : rows <= 64 ? .rows64 : .many,
                isLinear ? .linear : geometry.isPointwise ? .pointwise : .taps)
            tile = tiles[place]
            let pixels = output.batch * output.pixelCount
            // Fixed by shape, whatever the tile.
            let groups = ceilDivide(rows, 64) * ceilDivide(columns, 64) * geometry.groups
            // Long sums are split even where the device is full: they stay exact, and the last groups end together.
            let wanted = max(ceilDivide(2 * ReductionChunks.groupTarget, groups), pixels / 16384)
            let allowed = min(
                pixels / ReductionChunks.minimumTerms,
                ReductionChunks.maximumWorkspaceByteCount / (4 * geometry.weight.elementCount), 32768)
            let splits = max(min(wanted, allowed), 1)
            pixelsPerSplit = ceilDivide(pixels, splits).roundedUp(to: 32)
            splitCount = max(ceilDivide(pixels, pixelsPerSplit), 1)
        }

        var workspaceByteCount: Int { splitCount > 1 ? 4 * splitCount * geometry.weight.elementCount : 0 }

        func launches() -> [KernelLaunch] {
            let isSplit = splitCount > 1
            let output = geometry.output
            let partial = KernelArgument.workspace(offset: 0, byteCount: workspaceByteCount)
            let rowTiles = (rows + tile.rows - 1) / tile.rows
            let columnTiles = (columns + tile.columns - 1) / tile.columns
            func vector(_ extent: Int, if condition: Bool) -> Int {
                let isPossible =
                    condition && !isLinear && output.pixelCount % 4 == 0
                    && extent * tile.depth / 4 % tile.itemCount == 0
                return isPossible ? 4 : 1
            }
            let definitions =
                tile.definitions + [
                    .init("SPLIT", isSplit ? 1 : 0), .init("POINTWISE", geometry.isPointwise ? 1 : 0),
                    .init("LINEAR", isLinear ? 1 : 0), .init("FLUSH", Self.flushedTerms / tile.depth),
                    .init("VECTOR_A", vector(tile.rows, if: true)),
                    .init("VECTOR_B", vector(tile.columns, if: geometry.isPointwise)),
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
        var isPointwise: Bool {
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
