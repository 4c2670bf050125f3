import GraftCPUKernelInterface
import GraftGraph

extension ConvolutionGeometry {
    /// One class of input pixels that read the same taps: those of equal remainder modulo the stride.
    struct GradientClass {
        var lattice: OutputLattice
        var gridHeight: Int
        var gridWidth: Int
        /// Positions in the kernel, and where in `dy` each is found relative to the grid position.
        var positions: [Int]
        var taps: [(row: Int, column: Int)]
    }

    /// The classes; with stride 1 there is one. A class without taps receives no gradient.
    var gradientClasses: [GradientClass] {
        var classes: [GradientClass] = []
        for firstRow in 0..<min(strideHeight, input.height) {
            for firstColumn in 0..<min(strideWidth, input.width) {
                var positions: [Int] = []
                var taps: [(row: Int, column: Int)] = []
                for r in 0..<kernelHeight {
                    let row = firstRow + paddingHeight - r * dilationHeight
                    guard row % strideHeight == 0 else { continue }
                    for s in 0..<kernelWidth {
                        let column = firstColumn + paddingWidth - s * dilationWidth
                        guard column % strideWidth == 0 else { continue }
                        positions.append(r * kernelWidth + s)
                        taps.append((row / strideHeight, column / strideWidth))
                    }
                }
                classes.append(
                    GradientClass(
                        lattice: OutputLattice(
                            firstRow: firstRow, firstColumn: firstColumn, stepHeight: strideHeight,
                            stepWidth: strideWidth),
                        gridHeight: (input.height - firstRow + strideHeight - 1) / strideHeight,
                        gridWidth: (input.width - firstColumn + strideWidth - 1) / strideWidth, positions: positions,
                        taps: taps))
            }
        }
        return classes
    }

    /// How a weight gradient's sum over pixels is cut: by shape alone.
    var weightGradientSplit: WeightGradientSplit { WeightGradientSplit(self) }
}

/// Rectangles of output pixels, each of which adds once to the weights, and how many partial sums are kept apart.
struct WeightGradientSplit {
    /// Output rows and columns as the kernel sees them: a 1×1 kernel of stride 1 sees one row of all pixels.
    var isFlat: Bool
    var imageCount: Int
    var rowCount: Int
    var columnCount: Int
    var rowsPerChunk: Int
    var columnsPerChunk: Int
    var chunksPerImage: Int
    var chunkCount: Int
    var inputBlocksPerUnit: Int
    var inputPieceCount: Int
    var partialCount: Int

    /// Pixels of a rectangle: dy and x of a block pair stay in the second-level cache while all taps read them.
    private static let chunkPixels = 512

    init(_ geometry: ConvolutionGeometry) {
        let blocking = WeightBlocking(geometry.weight)
        let output = geometry.output
        isFlat =
            geometry.tapCount == 1 && geometry.strideHeight == 1 && geometry.strideWidth == 1
            && geometry.paddingHeight == 0
            && geometry.paddingWidth == 0
        if isFlat {
            imageCount = 1
            rowCount = 1
            columnCount = output.pixels
            rowsPerChunk = 1
            columnsPerChunk = min(max(output.pixels, 1), Self.chunkPixels)
            chunksPerImage = (columnCount + columnsPerChunk - 1) / columnsPerChunk
        } else {
            imageCount = output.batch
            rowCount = output.height
            columnCount = output.width
            rowsPerChunk = min(max(Self.chunkPixels / max(output.width, 1), 1), max(output.height, 1))
            columnsPerChunk = output.width
            chunksPerImage = (output.height + rowsPerChunk - 1) / rowsPerChunk
        }
        chunkCount = imageCount * chunksPerImage
        let pairs = blocking.outputBlockCount * blocking.inputBlockCount
        inputBlocksPerUnit = min(max(pairs / 64, 1), min(16, blocking.inputBlockCount))
        inputPieceCount = (blocking.inputBlockCount + inputBlocksPerUnit - 1) / inputBlocksPerUnit
        let units = blocking.outputBlockCount * inputPieceCount
        partialCount = units >= 32 ? 1 : max(1, min(chunkCount, (32 + units - 1) / units))
    }
}

/// How the dense weight gradient's sum over pixels is cut: by shape alone.
struct DenseWeightGradientSplit {
    /// Pixels gathered at once.
    static let chunkPixels = 112
    var chunkCount: Int
    var partialCount: Int
    var partialFloats: Int

    init(_ geometry: ConvolutionGeometry) {
        chunkCount = (geometry.output.pixels + Self.chunkPixels - 1) / Self.chunkPixels
        partialCount = max(1, min(chunkCount, 32))
        partialFloats = WeightBlocking(geometry.weight).outputBlockCount * geometry.denseBlockCount * 512
    }
}

extension InstructionBinding {
    mutating func bindConvolutionInputGradient(_ geometry: ConvolutionGeometry, addend: Bool) throws(DeviceError) {
        if geometry.isDepthwise { return try bindDepthwiseInputGradient(geometry, addend: addend) }
        if geometry.usesWinograd { return try bindWinogradInputGradient(geometry, addend: addend) }
        let gradient = try input(0)
        let weights = try input(1)
        let residual = addend ? try input(2) : nil
        let output = try self.output(0)
        let forward = WeightBlocking(geometry.weight)
        let blocking = WeightBlocking(geometry.transposedWeight)
        let packed = try workspace(floatCount: blocking.elementCount)
        let classes = geometry.gradientClasses
        let blockFloats = blocking.outputBlockCount * blocking.inputBlockCount * 512
        var start = 0
        for item in classes {
            packTransposed(item, geometry, forward, blocking, weights, packed + start)
            start += item.positions.count * blockFloats
        }
        start = 0
        for item in classes {
            append(
                TapProduct(
                    source: gradient, sourceShape: geometry.output, gridHeight: item.gridHeight,
                    gridWidth: item.gridWidth,
                    strideHeight: 1, strideWidth: 1, taps: TapList(item.taps), weights: UnsafePointer(packed + start),
                    blocking: blocking, output: output, outputShape: geometry.input,
                    lattice: item.lattice,
                    bias: nil, residual: residual, relu: false))
            start += item.positions.count * blockFloats
        }
    }

    /// Weights of one class with input and output channels exchanged: `[input block of 32][tap][output blocks][16][32]`.
    private mutating func packTransposed(
        _ item: ConvolutionGeometry.GradientClass, _ geometry: ConvolutionGeometry, _ forward: WeightBlocking,
        _ blocking: WeightBlocking, _ weights: UnsafePointer<Float>, _ packed: UnsafeMutablePointer<Float>
    ) {
        let kernels = kernels
        let positions = item.positions
        let positionCount = geometry.tapCount
        let inner = blocking.inputBlockCount
        let outputBlocks = blocking.outputBlockCount
        parallel(outputBlocks * positions.count) { unit, _ in
            let block = unit / positions.count
            let tap = unit % positions.count
            let first = blocking.firstInputBlock(of: block)
            for index in 0..<inner {
                let reduction = first + index
                let sourceBlock = reduction / 2
                let firstSource = forward.firstInputBlock(of: sourceBlock)
                let target = packed + ((block * positions.count + tap) * inner + index) * 512
                for half in 0..<2 {
                    let channelBlock = block * 2 + half - firstSource
                    if channelBlock >= 0, channelBlock < forward.inputBlockCount {
                        let place =
                            ((sourceBlock * positionCount + positions[tap]) * forward.inputBlockCount + channelBlock)
                            * 512
                        kernels.transpose16(weights + (place + reduction % 2 * 16), 32, target + half * 16, 32)
                    } else {
                        for row in 0..<16 { kernels.zero(target + (row * 32 + half * 16), 1) }
                    }
                }
            }
        }
    }

    mutating func bindConvolutionWeightGradient(_ geometry: ConvolutionGeometry) throws(DeviceError) {
        if geometry.isDepthwise { return try bindDepthwiseWeightGradient(geometry) }
        if geometry.usesDenseReduction { return try bindDenseWeightGradient(geometry) }
        if geometry.usesWinograd { return try bindWinogradWeightGradient(geometry) }
        let kernels = kernels
        let x = try input(0)
        let gradient = try input(1)
        let result = try output(0)
        let blocking = WeightBlocking(geometry.weight)
        let split = geometry.weightGradientSplit
        let partials =
            split.partialCount > 1 ? try workspace(floatCount: split.partialCount * blocking.elementCount) : result
        let shape = geometry.input
        let output = geometry.output
        let gradientBlocks = output.blocks
        let isDiagonal = geometry.weight.isBlockDiagonal
        let taps = geometry.tapCount
        let units = blocking.outputBlockCount * split.inputPieceCount

        parallel(units * split.partialCount) { unit, _ in
            let partial = unit / units
            let block = unit % units / split.inputPieceCount
            let piece = unit % split.inputPieceCount
            let target = partials + partial * blocking.elementCount
            let chunks =
                partial * split.chunkCount / split.partialCount..<(partial + 1) * split.chunkCount / split.partialCount
            let firstInput = blocking.firstInputBlock(of: block)
            let inputs =
                piece * split.inputBlocksPerUnit..<min((piece + 1) * split.inputBlocksPerUnit, blocking.inputBlockCount)
            let firstGradient = gradient + block * 2 * output.blockFloats
            let bothGradients = block * 2 + 1 < gradientBlocks
            for tap in 0..<taps {
                let place = ((block * taps + tap) * blocking.inputBlockCount + inputs.lowerBound) * 512
                kernels.zero(target + place, inputs.count * 32)
            }
            for chunk in chunks {
                let image = chunk / split.chunksPerImage
                let part = chunk % split.chunksPerImage
                let firstColumn = split.isFlat ? part * split.columnsPerChunk : 0
                let endColumn =
                    split.isFlat ? min(firstColumn + split.columnsPerChunk, split.columnCount) : split.columnCount
                let firstRow = split.isFlat ? 0 : part * split.rowsPerChunk
                let endRow = split.isFlat ? 1 : min(firstRow + split.rowsPerChunk, split.rowCount)
                for inputBlock in inputs {
                    let source = x + (firstInput + inputBlock) * shape.blockFloats
                    let channels = min(16, shape.channels - (firstInput + inputBlock) * 16)
                    var left = firstGradient
                    var right = bothGradients ? left + output.blockFloats : nil
                    var lane = 0
                    if isDiagonal {
                        // Only the output block of the same number has weights here.
                        let half = firstInput + inputBlock - block * 2
                        guard half == 0 || (half == 1 && bothGradients) else { continue }
                        left = firstGradient + half * output.blockFloats
                        right = nil
                        lane = half * 16
                    }
                    for tap in 0..<taps {
                        let weight =
                            target + ((block * taps + tap) * blocking.inputBlockCount + inputBlock) * 512 + lane
                        if split.isFlat {
                            let product = OuterProduct(
                                rowCount: 1, columnCount: endColumn - firstColumn, inputRowStride: 0, inputStep: 16,
                                gradientRowStride: 0, accumulates: true, inputChannels: channels)
                            kernels.outerProduct(
                                product, source + firstColumn * 16, left + firstColumn * 16,
                                right.map { $0 + firstColumn * 16 },
                                weight)
                            continue
                        }
                        let tapRow = tap / geometry.kernelWidth * geometry.dilationHeight - geometry.paddingHeight
                        let tapColumn = tap % geometry.kernelWidth * geometry.dilationWidth - geometry.paddingWidth
                        let rows = validRange(firstRow..<endRow, tapRow, geometry.strideHeight, shape.height)
                        let columns = validRange(0..<endColumn, tapColumn, geometry.strideWidth, shape.width)
                        guard !rows.isEmpty, !columns.isEmpty else { continue }
                        let inputRow = image * shape.height + rows.lowerBound * geometry.strideHeight + tapRow
                        let inputPixel = inputRow * shape.width + columns.lowerBound * geometry.strideWidth + tapColumn
                        let pixel = (image * output.height + rows.lowerBound) * output.width + columns.lowerBound
                        let product = OuterProduct(
                            rowCount: rows.count, columnCount: columns.count,
                            inputRowStride: geometry.strideHeight * shape.width * 16,
                            inputStep: geometry.strideWidth * 16,
                            gradientRowStride: output.width * 16, accumulates: true, inputChannels: channels)
                        kernels.outerProduct(
                            product, source + inputPixel * 16, left + pixel * 16, right.map { $0 + pixel * 16 }, weight)
                    }
                }
            }
        }
        if split.partialCount > 1 {
            let count = blocking.elementCount
            parallelVectors(count / 16) { first, vectors in
                kernels.sumPartials(partials + first * 16, count, split.partialCount, result + first * 16, vectors)
            }
        }
        if geometry.groups > 1 { clearBetweenGroups(blocking, result) }
    }

    /// Few input channels: taps and channels are gathered into one dense reduction, as in the forward pass.
    private mutating func bindDenseWeightGradient(_ geometry: ConvolutionGeometry) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let gradient = try input(1)
        let result = try output(0)
        let outputBlocks = WeightBlocking(geometry.weight).outputBlockCount
        let split = DenseWeightGradientSplit(geometry)
        let partials = try workspace(floatCount: split.partialCount * split.partialFloats)
        let taps = TapList(geometry.forwardTaps)
        let shape = geometry.input
        let output = geometry.output
        let channels = shape.channels
        let blocks = geometry.denseBlockCount
        let chunkPixels = DenseWeightGradientSplit.chunkPixels
        parallel(split.partialCount, scratchFloats: blocks * chunkPixels * 16) { partial, scratch in
            let target = partials + partial * split.partialFloats
            kernels.zero(target, split.partialFloats / 16)
            var gather = Gather(
                source: x, blockStride: shape.blockFloats, blockCount: 1, sourceHeight: shape.height,
                sourceWidth: shape.width, gridHeight: output.height, gridWidth: output.width,
                strideHeight: geometry.strideHeight, strideWidth: geometry.strideWidth, tapCount: taps.count,
                tapRows: UnsafePointer(taps.rows), tapColumns: UnsafePointer(taps.columns), target: scratch,
                capacity: chunkPixels, channels: channels)
            gather.isCompact = shape.isCompact
            let chunks =
                partial * split.chunkCount / split.partialCount..<(partial + 1) * split.chunkCount / split.partialCount
            for chunk in chunks {
                let first = chunk * chunkPixels
                let count = min(chunkPixels, output.pixels - first)
                kernels.gatherDense(gather, first, count)
                for outputBlock in 0..<outputBlocks {
                    let left = gradient + (outputBlock * 2 * output.blockFloats + first * 16)
                    let right = outputBlock * 2 + 1 < output.blocks ? left + output.blockFloats : nil
                    for block in 0..<blocks {
                        let product = OuterProduct(
                            rowCount: 1, columnCount: count, inputRowStride: 0, inputStep: 16, gradientRowStride: 0,
                            accumulates: true, inputChannels: min(16, taps.count * channels - block * 16))
                        kernels.outerProduct(
                            product, scratch + block * chunkPixels * 16, left, right,
                            target + (outputBlock * blocks + block) * 512)
                    }
                }
            }
        }
        parallel(outputBlocks * taps.count) { unit, _ in
            let tap = unit % taps.count
            let source = partials + unit / taps.count * blocks * 512 + tap * channels * 32
            let target = result + unit * 512
            for channel in 0..<channels {
                kernels.sumPartials(
                    source + channel * 32, split.partialFloats, split.partialCount, target + channel * 32, 2)
            }
            kernels.zero(target + channels * 32, (16 - channels) * 2)
        }
    }

    /// Products of channels of different groups are no weights: zero, as the layout wants.
    private mutating func clearBetweenGroups(_ blocking: WeightBlocking, _ result: UnsafeMutablePointer<Float>) {
        let shape = blocking.shape
        let taps = shape.kernelHeight * shape.kernelWidth
        let inputsPerGroup = max(shape.inputChannelsPerGroup, 1)
        let outputsPerGroup = max(shape.outputChannels / shape.groups, 1)
        parallel(blocking.outputBlockCount * taps) { unit, _ in
            let block = unit / taps
            let firstInput = blocking.firstInputBlock(of: block) * 16
            for row in 0..<blocking.inputBlockCount * 16 {
                let line = result + (unit * blocking.inputBlockCount * 16 + row) * 32
                let group = (firstInput + row) / inputsPerGroup
                for lane in 0..<32 where (block * 32 + lane) / outputsPerGroup != group { line[lane] = 0 }
            }
        }
    }
}

/// Output positions of a range whose input position `i · stride + offset` exists.
func validRange(_ range: Range<Int>, _ offset: Int, _ stride: Int, _ extent: Int) -> Range<Int> {
    let low = offset >= 0 ? 0 : (-offset + stride - 1) / stride
    let room = extent - 1 - offset
    let high = room < 0 ? 0 : room / stride + 1
    let lower = max(range.lowerBound, low)
    return lower..<max(lower, min(range.upperBound, high))
}
