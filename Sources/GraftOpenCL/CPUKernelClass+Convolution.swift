#if OpenCL
    import GraftGraph

    /// One launch of the universal convolution of `convolution_cpu.cl`, where every symbol is explained.
    private struct UniversalConvolution {
        /// What is read, and what is written.
        var input: ActivationShape
        var output: ActivationShape
        /// Pixels computed, and their place in the output: `i · scatterStride + scatterOffset`.
        var gridHeight: Int
        var gridWidth: Int
        var scatter: (strideHeight: Int, strideWidth: Int, offsetHeight: Int, offsetWidth: Int)?
        var strideHeight: Int
        var strideWidth: Int
        var offsetHeight: Int
        var offsetWidth: Int
        var stepHeight: Int
        var stepWidth: Int
        var rows: Int
        var columns: Int
        var groups: Int
        var epilogue: Epilogue

        var weight: WeightShape {
            WeightShape(
                outputChannels: output.channels, inputChannels: input.channels, kernelHeight: rows,
                kernelWidth: columns, groups: groups)
        }

        var pixelCount: Int { input.batch * gridHeight * gridWidth }

        /// 1×1 with stride 1: the input is the matrix.
        var isDirect: Bool {
            rows == 1 && columns == 1 && strideHeight == 1 && strideWidth == 1 && offsetHeight == 0
                && offsetWidth == 0 && gridHeight == input.height && gridWidth == input.width && scatter == nil
        }
    }

    extension CPUKernelClass {
        /// Gathered input of one band: a usual second-level cache. A smaller band reads the weights more often.
        private static let bandByteCount = 520 << 10
        /// Weights that stay in the second-level cache from one band to the next.
        private static let heldWeightByteCount = 2 << 20
        /// Pixels of one band.
        private static let bandPixelCount = 56
        /// Tiles of a band of few input channels.
        private static let bandDenseTiles = 32
        /// Items that a launch is cut into at least, where the shape allows.
        static let itemCount = 64
        static let convolutionFile = "convolution_cpu"

        /// Scratch slabs, one for each worker: at least two for each thread, so that a slow one holds up less, and few, since
        /// a worker's first item finds none of its slab in the cache.
        var slabCount: Int { max(8, 2 * device.computeUnitCount) }

        func convolution(_ geometry: ConvolutionGeometry, _ epilogue: Epilogue) -> LaunchPlan {
            if geometry.isDepthwise { return depthwise(geometry, epilogue) }
            if geometry.method != .direct {
                var plan = winogradConvolution(geometry, epilogue)
                if let activation = epilogue.furtherActivation {
                    append(activation, geometry.output, from: .output(0), to: &plan)
                }
                return plan
            }
            var plan = LaunchPlan()
            let output = geometry.output
            var operands: [KernelArgument] = [.input(0), .input(1)]
            if epilogue.bias { operands.append(.input(2)) }
            if epilogue.residual { operands.append(.input(epilogue.bias ? 3 : 2)) }
            operands.append(.output(0))
            append(
                UniversalConvolution(
                    input: geometry.input, output: output, gridHeight: output.height, gridWidth: output.width,
                    scatter: nil, strideHeight: geometry.strideHeight, strideWidth: geometry.strideWidth,
                    offsetHeight: -geometry.paddingHeight, offsetWidth: -geometry.paddingWidth,
                    stepHeight: geometry.dilationHeight, stepWidth: geometry.dilationWidth,
                    rows: geometry.kernelHeight, columns: geometry.kernelWidth, groups: geometry.groups,
                    epilogue: epilogue),
                operands, to: &plan)
            return plan
        }

        /// The bits of the kernel files.
        static func epilogueBits(_ epilogue: Epilogue, channels: Int) -> Int {
            (epilogue.bias ? 1 : 0) | (epilogue.residual ? 2 : 0) | (epilogue.relu ? 4 : 0)
                | (channels % 16 == 0 ? 0 : 8)
        }

        /// Pixels per register tile: all that fit, or for few pixels what wastes least; a tile costs about one pixel more
        /// than it has. Few sizes, since each is a program.
        func tilePixels(_ pixelCount: Int) -> Int {
            if pixelCount >= tilePixels * 32 { return tilePixels }
            // A tile is no larger than the plane: without a gather it reads the input itself.
            if vectorWidth < 16, pixelCount >= tilePixels {
                // Half a tile only for an eighth less; each size is a program.
                let cost = { (tile: Int) in ceilDivide(pixelCount, tile) * (tile + 1) }
                return cost(4) * 8 < cost(6) * 7 ? 4 : 6
            }
            var best = 1
            for candidate in vectorWidth == 16 ? [2, 4, 7, 8, 10, 12, 13, 14] : [2, 4]
            where candidate <= pixelCount
                && ceilDivide(pixelCount, candidate) * (candidate + 1) <= ceilDivide(pixelCount, best) * (best + 1)
            {
                best = candidate
            }
            return best
        }

        /// `operands`: x, w, [bias], [residual], y; an absent one is replaced by w, which is not read in its place.
        private func append(
            _ convolution: UniversalConvolution, _ operands: [KernelArgument], to plan: inout LaunchPlan
        ) {
            let pixels = convolution.pixelCount
            let taps = convolution.rows * convolution.columns
            let blocking = WeightBlocking(convolution.weight)
            let blocks = blocking.inputBlockCount
            let isDirect = convolution.isDirect
            let dense = !isDirect && convolution.input.channels <= 4 ? convolution.input.channels : 0
            let tile = tilePixels(dense > 0 ? convolution.gridWidth : pixels)
            let tiles = ceilDivide(pixels, tile)
            let tileFloats = taps * blocks * 16 * tile
            let kbCount = blocking.outputBlockCount
            let pooling = dense > 0 ? convolution.epilogue.maxPooling : nil
            // Rows of the result that a band of rows of the pooled plane needs.
            var resultRows = 0
            let bandTiles: Int
            let bands: Int
            let kbPerItem: Int
            if let pooling {
                (bandTiles, resultRows) = pooling.band(threadCount: device.computeUnitCount)
                bands = convolution.input.batch * ceilDivide(pooling.output.height, bandTiles)
                kbPerItem = kbCount
            } else if dense > 0 {
                // Rows of one image, kept for all output blocks.
                let height = convolution.gridHeight
                var most = max(Self.bandDenseTiles / ceilDivide(convolution.gridWidth, tile), 1)
                while most > 1, convolution.input.batch * ceilDivide(height, most) < Self.itemCount / 2 { most /= 2 }
                bandTiles = evenShare(of: height, atMost: most)
                resultRows = bandTiles
                bands = convolution.input.batch * ceilDivide(height, bandTiles)
                kbPerItem = kbCount
            } else {
                // Fewer than four gathered tiles would read the weights too often, whatever the cache holds.
                let most = min(
                    max(Self.bandByteCount / max(4 * tileFloats, 1), isDirect ? 1 : 4),
                    max(Self.bandPixelCount / tile, 4))
                let cut = BandPlan(
                    BandPlan.Product(
                        tileCount: tiles, pixelsPerTile: tile, reduction: taps * blocks * 16, outputBlocks: kbCount,
                        isGathered: !isDirect),
                    mostTiles: most, threadCount: device.computeUnitCount, lotCount: isDirect ? nil : slabCount)
                bandTiles = cut.tiles
                bands = ceilDivide(tiles, bandTiles)
                kbPerItem = convolution.groups > 1 ? 1 : cut.blocksPerItem
            }
            let items = bands * ceilDivide(kbCount, kbPerItem)
            let workers = isDirect ? items : min(items, slabCount)

            // Weights of so many blocks are a quarter or half of a first-level cache; a short reduction's fit it whole.
            let reductionBlocks = taps * blocks
            let partBlocks = dense > 0 || reductionBlocks < 16 ? max(reductionBlocks, 1) : 8

            var definitions = tileDefinitions(tile)
            func define(_ name: String, _ value: Int) { if value != 0 { definitions.append(.init(name, value)) } }
            define("ACTIVATION", convolution.epilogue.furtherActivation?.code ?? 0)
            define("DIRECT", isDirect ? 1 : 0)
            define("DENSE", dense)
            define("DENSE_STRIDE", convolution.strideWidth * dense)
            define("COMPACT", convolution.input.isCompact ? 1 : 0)
            define("POOL", pooling?.kernelHeight ?? 0)

            var arguments = Array(operands.prefix(2))
            arguments.append(convolution.epilogue.bias ? operands[2] : operands[1])
            arguments.append(convolution.epilogue.residual ? operands[operands.count - 2] : operands[1])
            arguments += operands.suffix(1)
            if !isDirect {
                let tilesPerRow = ceilDivide(convolution.gridWidth, tile)
                let table = ((dense > 0 ? tilesPerRow * resultRows : bandTiles) * tile + 15) / 16 * 16
                let planeFloats = pooling == nil ? 0 : resultRows * convolution.gridWidth * 16
                var held = bandTiles * tileFloats
                if dense > 0 {
                    let rowSpan = max(convolution.rows - 1, 0) * abs(convolution.stepHeight)
                    let columnSpan = max(convolution.columns - 1, 0) * abs(convolution.stepWidth)
                    let columnCount = (tilesPerRow * tile - 1) * convolution.strideWidth + columnSpan + 1
                    held =
                        taps * dense * 32 + 2 * planeFloats
                        + ((resultRows - 1) * convolution.strideHeight + rowSpan + 1) * (columnCount * dense + 4)
                }
                let slab = (table + held + 127) / 128 * 128
                arguments.append(plan.takeWorkspace(floats: workers * slab))
                arguments += integers(
                    slab, convolution.input.height, convolution.input.width, convolution.gridHeight,
                    convolution.gridWidth, convolution.strideHeight, convolution.strideWidth, convolution.offsetHeight,
                    convolution.offsetWidth, convolution.stepHeight, convolution.stepWidth, convolution.rows,
                    convolution.columns)
                let scatter = convolution.scatter ?? (1, 1, 0, 0)
                arguments += integers(
                    convolution.output.height, convolution.output.width, scatter.strideHeight, scatter.strideWidth,
                    scatter.offsetHeight, scatter.offsetWidth)
                if let pooling {
                    arguments += integers(
                        pooling.output.height, pooling.output.width, pooling.strideHeight, pooling.paddingHeight,
                        planeFloats, resultRows)
                }
            }
            arguments += integers(Self.epilogueBits(convolution.epilogue, channels: convolution.output.channels))
            arguments += integers(
                pixels, convolution.input.batch * convolution.input.pixelCount,
                convolution.output.batch * (pooling?.output ?? convolution.output).pixelCount,
                convolution.output.channels,
                ChannelBlockedLayout.blockCount(convolution.input.channels), blocks,
                convolution.output.channels / convolution.groups, convolution.input.channels / convolution.groups, taps,
                items, bands, bandTiles, kbCount, kbPerItem, partBlocks,
                dense == 0 && (bands <= 4 || 4 * blocking.elementCount > Self.heldWeightByteCount) ? 1 : 0)
            plan.launch(Self.convolutionFile, "convolution", definitions, arguments, global: workers)
        }

        // MARK: Gradient of the input

        /// The taps of one direction that input positions `phase, phase + stride, …` see, as an arithmetic series, and
        /// where in dy they read: position i, tap j reads `i + offset + j · step`.
        struct Taps {
            var first = 0
            var tapStep = 1
            var count = 0
            var offset = 0
            var step = 0
            /// Input positions of this phase.
            var positions: Int

            init(phase: Int, stride: Int, padding: Int, dilation: Int, kernel: Int, extent: Int) {
                positions = phase < extent ? ceilDivide(extent - phase, stride) : 0
                let seen = (0..<kernel).filter { (phase + padding - $0 * dilation) % stride == 0 }
                guard let first = seen.first else { return }
                self.first = first
                count = seen.count
                tapStep = seen.count > 1 ? seen[1] - first : 1
                offset = (phase + padding - first * dilation) / stride
                step = -tapStep * dilation / stride
            }
        }

        func convolutionInputGradient(_ geometry: ConvolutionGeometry, addend: Bool) -> LaunchPlan {
            if geometry.isDepthwise { return depthwiseInputGradient(geometry, addend: addend) }
            if geometry.method != .direct { return winogradInputGradient(geometry, addend: addend) }
            var plan = LaunchPlan()
            let input = geometry.input
            let isScattered = geometry.strideHeight > 1 || geometry.strideWidth > 1
            for phaseHeight in 0..<geometry.strideHeight {
                let vertical = Taps(
                    phase: phaseHeight, stride: geometry.strideHeight, padding: geometry.paddingHeight,
                    dilation: geometry.dilationHeight, kernel: geometry.kernelHeight, extent: input.height)
                for phaseWidth in 0..<geometry.strideWidth {
                    let horizontal = Taps(
                        phase: phaseWidth, stride: geometry.strideWidth, padding: geometry.paddingWidth,
                        dilation: geometry.dilationWidth, kernel: geometry.kernelWidth, extent: input.width)
                    guard vertical.positions > 0, horizontal.positions > 0 else { continue }
                    let rows = horizontal.count > 0 ? vertical.count : 0
                    let columns = rows > 0 ? horizontal.count : 0
                    let convolution = UniversalConvolution(
                        input: geometry.output, output: input, gridHeight: vertical.positions,
                        gridWidth: horizontal.positions,
                        scatter: isScattered
                            ? (geometry.strideHeight, geometry.strideWidth, phaseHeight, phaseWidth) : nil,
                        strideHeight: 1, strideWidth: 1, offsetHeight: vertical.offset, offsetWidth: horizontal.offset,
                        stepHeight: vertical.step, stepWidth: horizontal.step, rows: rows, columns: columns,
                        groups: geometry.groups, epilogue: Epilogue(residual: addend))
                    let blocking = WeightBlocking(convolution.weight)
                    let weights = plan.takeWorkspace(floats: blocking.elementCount)
                    plan.launch(
                        Self.convolutionFile, "transpose_weights",
                        tileDefinitions(tilePixels),
                        [.input(1), weights]
                            + integers(
                                geometry.outputChannels, input.channels, geometry.groups, geometry.kernelHeight,
                                geometry.kernelWidth, WeightBlocking(geometry.weight).inputBlockCount,
                                blocking.inputBlockCount, vertical.first, vertical.tapStep, horizontal.first,
                                horizontal.tapStep, columns),
                        global: blocking.inputBlockCount * rows * columns, blocking.outputBlockCount)
                    append(
                        convolution, [.input(0), weights] + (addend ? [.input(2)] : []) + [.output(0)], to: &plan)
                }
            }
            return plan
        }

        // MARK: Gradient of the weights

        func convolutionWeightGradient(_ geometry: ConvolutionGeometry) -> LaunchPlan {
            if geometry.isDepthwise { return depthwiseWeightGradient(geometry) }
            if usesWinogradWeightGradient(geometry) { return winogradWeightGradient(geometry) }
            return geometry.hasFewInputChannels ? denseWeightGradient(geometry) : blockedWeightGradient(geometry)
        }

        private static let gradientFile = "convolution_gradient_cpu"

        private var blockedDefinitions: [KernelLaunch.Definition] {
            [.init("VECTOR", vectorWidth), .init("LANES", vectorWidth == 16 ? 8 : 4)]
        }

        private func blockedWeightGradient(_ geometry: ConvolutionGeometry) -> LaunchPlan {
            var plan = LaunchPlan()
            let output = geometry.output
            let blocking = WeightBlocking(geometry.weight)
            let pixels = output.batch * output.pixelCount
            let blocks = blocking.inputBlockCount
            var plane = (height: geometry.input.height, width: geometry.input.width)
            var result = (height: output.height, width: output.width)
            var rowCount = output.batch * output.height
            let isPointwise =
                geometry.kernelHeight == 1 && geometry.kernelWidth == 1 && geometry.strideHeight == 1
                && geometry.strideWidth == 1 && geometry.paddingHeight == 0 && geometry.paddingWidth == 0
            if isPointwise {
                // Nothing is clipped: rows of any length.
                result.width = min(pixels, 256)
                rowCount = ceilDivide(pixels, max(result.width, 1))
                result.height = rowCount
                plane = result
            }
            let rowsPerChunk = max(512 / max(result.width, 1), 1)
            let pairs = blocking.outputBlockCount * blocks
            // Splits of at least 256 pixels, blocks in groups that share a chunk of dy.
            var splits = min(ceilDivide(Self.itemCount, pairs), max(pixels / 256, 1), max(rowCount, 1))
            let rowsPerSplit = max(ceilDivide(rowCount, splits), 1)
            splits = max(ceilDivide(rowCount, rowsPerSplit), 1)
            let blocksPerGroup = splits > 1 ? 1 : min(max(pairs / Self.itemCount, 1), 8, blocks)
            let blockGroups = ceilDivide(blocks, blocksPerGroup)
            let needsSum = splits > 1 || geometry.groups > 1
            let sums = needsSum ? plan.takeWorkspace(floats: splits * blocking.elementCount) : .output(0)
            let outputsPerGroup = geometry.outputChannels / geometry.groups
            let inputBlocks = ChannelBlockedLayout.blockCount(geometry.input.channels)
            plan.launch(
                Self.gradientFile, "weight_gradient", blockedDefinitions,
                [.input(0), .input(1), sums]
                    + integers(
                        plane.height, plane.width, geometry.input.batch * geometry.input.pixelCount, result.height,
                        result.width, pixels, geometry.strideHeight, geometry.strideWidth, geometry.paddingHeight,
                        geometry.paddingWidth, geometry.dilationHeight, geometry.dilationWidth, geometry.kernelHeight,
                        geometry.kernelWidth, geometry.input.channels, geometry.outputChannels, inputBlocks, blocks,
                        outputsPerGroup, geometry.weight.inputChannelsPerGroup, rowCount, rowsPerSplit, rowsPerChunk,
                        blockGroups, blocksPerGroup),
                global: blockGroups * splits, blocking.outputBlockCount)
            if needsSum { appendSum(geometry, blocking, sums, splits, to: &plan) }
            return plan
        }

        private func denseWeightGradient(_ geometry: ConvolutionGeometry) -> LaunchPlan {
            var plan = LaunchPlan()
            let output = geometry.output
            let blocking = WeightBlocking(geometry.weight)
            let pixels = output.batch * output.pixelCount
            let channels = geometry.input.channels
            let columns = geometry.kernelHeight * geometry.kernelWidth * channels + 4 - channels
            let stride = ceilDivide(columns, tilePixels) * tilePixels
            let pixelsPerSplit = max(ceilDivide(pixels, 32), 64)
            let splits = ceilDivide(pixels, pixelsPerSplit)
            let pixelsPerChunk = max(min(16384 / stride, pixelsPerSplit), 1)
            let slab = (pixelsPerChunk * stride + blocking.outputBlockCount * stride * 32 + 127) / 128 * 128
            let sums = plan.takeWorkspace(floats: splits * blocking.elementCount)
            let scratch = plan.takeWorkspace(floats: splits * slab)
            plan.launch(
                Self.gradientFile, "dense_weight_gradient",
                [
                    .init("VECTOR", vectorWidth), .init("COLUMNS", tilePixels), .init("DENSE", channels),
                    .init("DENSE_STRIDE", stride), .init("COMPACT", geometry.input.isCompact ? 1 : 0),
                ],
                [.input(0), .input(1), sums, scratch]
                    + integers(
                        slab, geometry.input.height, geometry.input.width, output.height, output.width, pixels,
                        geometry.strideHeight, geometry.strideWidth, geometry.paddingHeight, geometry.paddingWidth,
                        geometry.dilationHeight, geometry.dilationWidth, geometry.kernelHeight, geometry.kernelWidth,
                        geometry.outputChannels, blocking.outputBlockCount, pixelsPerSplit, pixelsPerChunk),
                global: splits)
            appendSum(geometry, blocking, sums, splits, to: &plan)
            return plan
        }

        private func appendSum(
            _ geometry: ConvolutionGeometry, _ blocking: WeightBlocking, _ sums: KernelArgument, _ splits: Int,
            to plan: inout LaunchPlan
        ) {
            let rows = geometry.kernelHeight * geometry.kernelWidth * blocking.inputBlockCount * 16
            let rowsPerItem = 64
            plan.launch(
                Self.gradientFile, "sum_splits", blockedDefinitions,
                [sums, .output(0)]
                    + integers(
                        splits, rows, rowsPerItem, geometry.input.channels, geometry.outputChannels,
                        ChannelBlockedLayout.blockCount(geometry.input.channels), blocking.inputBlockCount,
                        geometry.outputChannels / geometry.groups, geometry.weight.inputChannelsPerGroup),
                global: ceilDivide(rows, rowsPerItem), blocking.outputBlockCount)
        }
    }
#endif
