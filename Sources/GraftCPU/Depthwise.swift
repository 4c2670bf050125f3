import GraftCPUKernelInterface
import GraftGraph

/// The taps of a depthwise product and which weight each takes; kept as long as a prepared program.
private final class DepthwiseTaps {
    let list: TapList
    let places: UnsafeMutablePointer<Int32>
    /// Grid columns for which the columns of all taps exist.
    let inner: Range<Int>

    init(
        _ taps: [(row: Int, column: Int)], positions: [Int], gridWidth: Int, strideWidth: Int, sourceWidth: Int
    ) {
        list = TapList(taps)
        places = .allocate(capacity: max(positions.count, 1))
        for (index, position) in positions.enumerated() { places[index] = Int32(truncatingIfNeeded: position) }
        let exist = (0..<gridWidth).filter { column in
            taps.allSatisfy { (0..<sourceWidth).contains(column * strideWidth + $0.column) }
        }
        inner = (exist.first ?? 0)..<((exist.last ?? -1) + 1)
    }

    deinit { places.deallocate() }
}

/// How a depthwise weight gradient's sum over pixels is cut: by shape alone.
struct DepthwiseGradientSplit {
    var rowsPerChunk: Int
    var chunksPerImage: Int
    var chunkCount: Int
    var partialCount: Int

    init(_ geometry: ConvolutionGeometry) {
        let output = geometry.output
        rowsPerChunk = min(max(512 / max(output.width, 1), 1), max(output.height, 1))
        chunksPerImage = (output.height + rowsPerChunk - 1) / rowsPerChunk
        chunkCount = output.batch * chunksPerImage
        partialCount = max(1, min(chunkCount, (32 + output.blocks - 1) / max(output.blocks, 1)))
    }

    func workspaceFloatCount(_ weight: WeightShape) -> Int {
        partialCount > 1 ? partialCount * WeightBlocking(weight).elementCount : 0
    }
}

/// One filter per channel: memory-bound, 16 channels at a time, without a gather.
extension InstructionBinding {
    /// Pixels of one unit, about.
    private static let unitPixels = 2048

    mutating func bindDepthwiseConvolution(
        _ geometry: ConvolutionGeometry, bias: UnsafePointer<Float>?, residual: UnsafePointer<Float>?,
        _ epilogue: Epilogue
    ) throws(DeviceError) {
        let output = geometry.output
        appendDepthwise(
            geometry, source: try input(0), geometry.input, weights: try input(1), output: try self.output(0), output,
            gridHeight: output.height, gridWidth: output.width, strideHeight: geometry.strideHeight,
            strideWidth: geometry.strideWidth, taps: geometry.forwardTaps, positions: Array(0..<geometry.tapCount),
            OutputLattice(), bias: bias, residual: residual, epilogue)
    }

    mutating func bindDepthwiseInputGradient(_ geometry: ConvolutionGeometry, addend: Bool) throws(DeviceError) {
        let gradient = try input(0)
        let weights = try input(1)
        let residual = addend ? try input(2) : nil
        let output = try self.output(0)
        for item in geometry.gradientClasses {
            appendDepthwise(
                geometry, source: gradient, geometry.output, weights: weights, output: output, geometry.input,
                gridHeight: item.gridHeight, gridWidth: item.gridWidth, strideHeight: 1, strideWidth: 1,
                taps: item.taps, positions: item.positions, item.lattice, bias: nil, residual: residual, .none)
        }
    }

    private mutating func appendDepthwise(
        _ geometry: ConvolutionGeometry, source: UnsafePointer<Float>, _ sourceShape: ActivationShape,
        weights: UnsafePointer<Float>, output: UnsafeMutablePointer<Float>, _ outputShape: ActivationShape,
        gridHeight: Int, gridWidth: Int, strideHeight: Int, strideWidth: Int, taps: [(row: Int, column: Int)],
        positions: [Int], _ lattice: OutputLattice, bias: UnsafePointer<Float>?, residual: UnsafePointer<Float>?,
        _ epilogue: Epilogue
    ) {
        guard gridHeight > 0, gridWidth > 0 else { return }
        let kernels = kernels
        let rows = min(max(Self.unitPixels / gridWidth, 1), gridHeight)
        let pieces = (gridHeight + rows - 1) / rows
        let taps = DepthwiseTaps(
            taps, positions: positions, gridWidth: gridWidth, strideWidth: strideWidth, sourceWidth: sourceShape.width)
        let code = epilogue.furtherActivation?.code
        let corner = (lattice.firstRow * outputShape.width + lattice.firstColumn) * 16
        let blockWeights = geometry.tapCount * 16
        parallel(outputShape.blocks * outputShape.batch * pieces) { unit, _ in
            let plane = unit / pieces
            let block = plane / outputShape.batch
            let first = unit % pieces * rows
            let count = min(rows, gridHeight - first)
            let start = plane * outputShape.planeFloats + corner
            let target = output + start
            kernels.depthwise(
                DepthwisePlane(
                    source: source + plane * sourceShape.planeFloats, sourceHeight: sourceShape.height,
                    sourceWidth: sourceShape.width, strideHeight: strideHeight, strideWidth: strideWidth,
                    tapCount: taps.list.count, tapRows: UnsafePointer(taps.list.rows),
                    tapColumns: UnsafePointer(taps.list.columns), tapPlaces: UnsafePointer(taps.places),
                    weights: weights + block * blockWeights, gridWidth: gridWidth, firstInner: taps.inner.lowerBound,
                    endInner: taps.inner.upperBound, output: target,
                    rowStep: lattice.stepHeight * outputShape.width * 16, columnStep: lattice.stepWidth * 16,
                    bias: bias.map { $0 + block * 16 }, residual: residual.map { $0 + start }, relu: epilogue.relu),
                first, count)
            if let code {
                // Forward passes alone have an activation, and their rows follow each other.
                let written = target + first * outputShape.width * 16
                kernels.activate(
                    code, UnsafePointer(written), written, count * outputShape.width, outputShape.lanes(of: block))
            }
        }
    }

    mutating func bindDepthwiseWeightGradient(_ geometry: ConvolutionGeometry) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let gradient = try input(1)
        let result = try output(0)
        let split = DepthwiseGradientSplit(geometry)
        let count = WeightBlocking(geometry.weight).elementCount
        let partials = split.partialCount > 1 ? try workspace(floatCount: split.partialCount * count) : result
        let shape = geometry.input
        let output = geometry.output
        let taps = geometry.tapCount
        parallel(output.blocks * split.partialCount) { unit, _ in
            let block = unit % output.blocks
            let partial = unit / output.blocks
            let target = partials + (partial * count + block * taps * 16)
            kernels.zero(target, taps)
            let chunks =
                partial * split.chunkCount / split.partialCount..<(partial + 1) * split.chunkCount / split.partialCount
            for chunk in chunks {
                let image = chunk / split.chunksPerImage
                let firstRow = chunk % split.chunksPerImage * split.rowsPerChunk
                let endRow = min(firstRow + split.rowsPerChunk, output.height)
                let source = x + (block * shape.batch + image) * shape.planeFloats
                let left = gradient + (block * output.batch + image) * output.planeFloats
                for tap in 0..<taps {
                    let tapRow = tap / geometry.kernelWidth * geometry.dilationHeight - geometry.paddingHeight
                    let tapColumn = tap % geometry.kernelWidth * geometry.dilationWidth - geometry.paddingWidth
                    let rows = validRange(firstRow..<endRow, tapRow, geometry.strideHeight, shape.height)
                    let columns = validRange(0..<output.width, tapColumn, geometry.strideWidth, shape.width)
                    guard !rows.isEmpty, !columns.isEmpty else { continue }
                    let inputPixel =
                        (rows.lowerBound * geometry.strideHeight + tapRow) * shape.width
                        + columns.lowerBound * geometry.strideWidth + tapColumn
                    kernels.depthwiseWeightGradient(
                        OuterProduct(
                            rowCount: rows.count, columnCount: columns.count,
                            inputRowStride: geometry.strideHeight * shape.width * 16,
                            inputStep: geometry.strideWidth * 16, gradientRowStride: output.width * 16,
                            accumulates: true, inputChannels: 16),
                        source + inputPixel * 16,
                        left + (rows.lowerBound * output.width + columns.lowerBound) * 16, target + tap * 16)
                }
            }
        }
        if split.partialCount > 1 {
            parallelVectors(count / 16) { first, vectors in
                kernels.sumPartials(partials + first * 16, count, split.partialCount, result + first * 16, vectors)
            }
        }
    }
}
