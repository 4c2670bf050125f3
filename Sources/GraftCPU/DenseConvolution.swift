import GraftCPUKernelInterface
import GraftGraph

extension InstructionBinding {
    /// A convolution of few input channels: a unit keeps the rows that some rows of the grid see, without the lanes that
    /// are no channels, and the tiles read the pixels of a kernel's row from there. Where the result is pooled, a unit is
    /// a band of rows of the pooled plane, and its part of the result stays in scratch.
    mutating func bindDenseConvolution(
        _ geometry: ConvolutionGeometry, weights: UnsafePointer<Float>, bias: UnsafePointer<Float>?,
        residual: UnsafePointer<Float>?, _ epilogue: Epilogue
    ) throws(DeviceError) {
        let kernels = kernels
        let source = try input(0)
        let target = try self.output(0)
        let blocking = WeightBlocking(geometry.weight)
        let termCount = geometry.tapCount * geometry.input.channels
        let packed = try workspace(floatCount: blocking.outputBlockCount * termCount * 32)
        packDenseWeights(geometry, weights, packed)

        let output = geometry.output
        let channels = geometry.input.channels
        let isCompact = geometry.input.isCompact
        guard output.pixels > 0 else { return }
        let pooling = epilogue.maxPooling
        let outputPlane = pooling?.output ?? output
        // Rows of the output's plane to a band, and rows of the result that they need.
        let rowsPerBand: Int
        let resultRows: Int
        if let pooling {
            (rowsPerBand, resultRows) = pooling.band(threadCount: threadCount)
        } else {
            // About 32 tiles of 14 pixels: their rows and an output block's weights stay in the caches next to the processor.
            var most = min(max(448 / output.width, 1), output.height)
            while most > 1, output.batch * ((output.height + most - 1) / most) < 8 * threadCount { most /= 2 }
            let bands = (output.height + most - 1) / most
            rowsPerBand = (output.height + bands - 1) / bands
            resultRows = rowsPerBand
        }
        let bandsPerImage = (outputPlane.height + rowsPerBand - 1) / rowsPerBand
        let planeFloats = pooling == nil ? 0 : resultRows * output.width * 16
        let paddedWidth = (output.width + kernels.tileRows - 1) / kernels.tileRows * kernels.tileRows
        let columnCount =
            (paddedWidth - 1) * geometry.strideWidth + (geometry.kernelWidth - 1) * geometry.dilationWidth + 1
        let rowFloats = columnCount * channels + 8
        let keptRows =
            (resultRows - 1) * geometry.strideHeight + (geometry.kernelHeight - 1) * geometry.dilationHeight + 1
        let isRun = geometry.dilationWidth == 1
        let activation = epilogue.furtherActivation?.code

        parallel(
            output.batch * bandsPerImage, scratchFloats: bandTileFloats + 2 * planeFloats + keptRows * rowFloats
        ) { unit, scratch in
            let image = unit / bandsPerImage
            let firstTarget = unit % bandsPerImage * rowsPerBand
            let targetRows = firstTarget..<min(firstTarget + rowsPerBand, outputPlane.height)
            guard !targetRows.isEmpty else { return }
            let resultBand = pooling?.inputRows(targetRows) ?? targetRows
            let firstRow = resultBand.lowerBound
            let rowCount = resultBand.count
            let plane = scratch + bandTileFloats
            let kept = plane + 2 * planeFloats
            kernels.keepDenseRows(
                DenseRows(
                    source: source + image * geometry.input.pixelCount * (isCompact ? channels : 16),
                    isCompact: isCompact, sourceHeight: geometry.input.height, sourceWidth: geometry.input.width,
                    channels: channels,
                    first: firstRow * geometry.strideHeight - geometry.paddingHeight, left: -geometry.paddingWidth,
                    rowCount: (rowCount - 1) * geometry.strideHeight
                        + (geometry.kernelHeight - 1) * geometry.dilationHeight + 1,
                    columnCount: columnCount, target: kept, rowFloats: rowFloats))
            for block in 0..<blocking.outputBlockCount {
                let blockCount = min(2, output.blocks - block * 2)
                for row in 0..<rowCount {
                    let pixel = (image * output.height + firstRow + row) * output.width
                    let place = block * 2 * output.blockFloats + pixel * 16
                    let result = pooling == nil ? target + place : plane + row * output.width * 16
                    kernels.denseProduct(
                        DenseProduct(
                            rows: kept + row * geometry.strideHeight * rowFloats,
                            pixelStride: geometry.strideWidth * channels, outerCount: geometry.kernelHeight,
                            outerStride: geometry.dilationHeight * rowFloats,
                            innerCount: isRun ? 1 : geometry.kernelWidth,
                            innerStride: geometry.dilationWidth * channels,
                            run: isRun ? geometry.kernelWidth * channels : channels,
                            weights: packed + block * termCount * 32, pixelCount: output.width, blockCount: blockCount,
                            epilogue: BandEpilogue(
                                output: result, blockStride: pooling == nil ? output.blockFloats : planeFloats,
                                bias: bias.map { $0 + block * 32 }, residual: residual.map { $0 + place },
                                relu: epilogue.relu, pixelOffsets: nil),
                            tile: scratch))
                    guard let activation else { continue }
                    for half in 0..<blockCount {
                        let written = target + (place + half * output.blockFloats)
                        kernels.activate(
                            activation, UnsafePointer(written), written, output.width,
                            output.lanes(of: block * 2 + half))
                    }
                }
                guard let pooling else { continue }
                var window = PoolingWindow(pooling)
                window.inputHeight = rowCount
                window.outputHeight = targetRows.count
                window.paddingHeight = firstRow - (firstTarget * pooling.strideHeight - pooling.paddingHeight)
                for half in 0..<blockCount {
                    let place = ((block * 2 + half) * output.batch + image) * outputPlane.planeFloats
                    let rows = target + (place + firstTarget * outputPlane.width * 16)
                    kernels.maxPool(
                        window, plane + half * planeFloats, rows, nil, output.lanes(of: block * 2 + half))
                }
            }
        }
    }

    /// `[block][tap][16][32]` to `[block][tap][channels][32]`.
    private mutating func packDenseWeights(
        _ geometry: ConvolutionGeometry, _ weights: UnsafePointer<Float>, _ packed: UnsafeMutablePointer<Float>
    ) {
        let kernels = kernels
        let channels = geometry.input.channels
        let taps = geometry.tapCount
        parallel(WeightBlocking(geometry.weight).outputBlockCount) { block, _ in
            for tap in 0..<taps {
                kernels.copy(
                    weights + (block * taps + tap) * 512, packed + (block * taps + tap) * channels * 32, channels * 2)
            }
        }
    }
}
