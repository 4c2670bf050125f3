import GraftCPUKernelInterface
import GraftGraph

/// Source positions of a convolution's taps relative to a grid position, kept as long as a prepared program.
final class TapList {
    let count: Int
    let rows: UnsafeMutablePointer<Int32>
    let columns: UnsafeMutablePointer<Int32>

    init(_ taps: [(row: Int, column: Int)]) {
        count = taps.count
        rows = .allocate(capacity: max(taps.count, 1))
        columns = .allocate(capacity: max(taps.count, 1))
        for (index, tap) in taps.enumerated() {
            rows[index] = Int32(truncatingIfNeeded: tap.row)
            columns[index] = Int32(truncatingIfNeeded: tap.column)
        }
    }

    deinit {
        rows.deallocate()
        columns.deallocate()
    }
}

/// Every ``stepHeight``-th row and ``stepWidth``-th column of an output plane.
struct OutputLattice {
    var firstRow = 0
    var firstColumn = 0
    var stepHeight = 1
    var stepWidth = 1
}

/// The universal product of a convolution and of its input gradient:
/// `output[pixel(i, j)][k] = Σ_tap Σ_c source[i · stride + tapRow][j · stride + tapColumn][c] · weights[k][tap][c]`.
struct TapProduct {
    var source: UnsafePointer<Float>
    var sourceShape: ActivationShape
    /// Grid positions per image; they map to the lattice of output pixels.
    var gridHeight: Int
    var gridWidth: Int
    var strideHeight: Int
    var strideWidth: Int
    var taps: TapList
    /// `[output block][tap][blocking.inputBlockCount][16][32]`.
    var weights: UnsafePointer<Float>
    var blocking: WeightBlocking
    var output: UnsafeMutablePointer<Float>
    var outputShape: ActivationShape
    var lattice: OutputLattice
    var bias: UnsafePointer<Float>?
    var residual: UnsafePointer<Float>?
    var relu: Bool
    /// Applied to each band after it is stored; contiguous outputs only.
    var activation: Activation?

    var gridPixels: Int { sourceShape.batch * gridHeight * gridWidth }

    /// A 1×1 kernel of stride 1: the activation itself is the left matrix.
    var isDirect: Bool {
        taps.count == 1 && taps.rows[0] == 0 && taps.columns[0] == 0 && strideHeight == 1 && strideWidth == 1
            && gridHeight == sourceShape.height && gridWidth == sourceShape.width
    }

    /// Whether output pixels follow each other as grid positions do.
    var isContiguous: Bool { lattice.stepHeight == 1 && lattice.stepWidth == 1 }
}

extension ConvolutionGeometry {
    /// Few input channels (a network's first layer): the 16 lanes of a block would be mostly zeros.
    var usesDenseReduction: Bool { input.channels <= 8 && groups == 1 && kernelHeight * kernelWidth > 1 }

    var tapCount: Int { kernelHeight * kernelWidth }

    /// Blocks of 16 of the dense reduction.
    var denseBlockCount: Int { (tapCount * input.channels + 15) / 16 }

    /// Taps of the forward pass, in the weights' order.
    var forwardTaps: [(row: Int, column: Int)] {
        (0..<tapCount).map {
            ($0 / kernelWidth * dilationHeight - paddingHeight, $0 % kernelWidth * dilationWidth - paddingWidth)
        }
    }

    /// The weights of the input gradient's product: output and input channels change places.
    var transposedWeight: WeightShape {
        WeightShape(
            outputChannels: input.channels, inputChannels: outputChannels, kernelHeight: kernelHeight,
            kernelWidth: kernelWidth, groups: groups)
    }
}

extension WeightShape {
    /// Narrow groups of equal width on both sides: an output block of 16 reads the input block of the same number only.
    var isBlockDiagonal: Bool {
        groups > 1 && outputChannels == inputChannels && 16 % inputChannelsPerGroup == 0
    }
}

extension InstructionBinding {
    /// Bytes of second-level cache that a band's left matrix may take.
    private static let bandByteCount = 520 << 10
    /// Bytes of weights that stay in the second-level cache from one band to the next.
    private static let heldWeightByteCount = 2 << 20

    mutating func bindConvolution(_ geometry: ConvolutionGeometry, _ epilogue: Epilogue) throws(DeviceError) {
        let source = try input(0)
        let weights = try input(1)
        var next = 2
        var bias: UnsafePointer<Float>?
        var residual: UnsafePointer<Float>?
        if epilogue.bias {
            bias = try input(next)
            next += 1
        }
        if epilogue.residual { residual = try input(next) }
        if geometry.isDepthwise {
            return try bindDepthwiseConvolution(geometry, bias: bias, residual: residual, epilogue)
        }
        if geometry.usesWinograd {
            try bindWinogradConvolution(geometry, weights: weights, bias: bias, residual: residual, epilogue)
            if let activation = epilogue.furtherActivation {
                appendActivation(geometry.output, activation, UnsafePointer(try self.output(0)), try self.output(0))
            }
            return
        }
        if geometry.usesDenseReduction {
            return try bindDenseConvolution(geometry, weights: weights, bias: bias, residual: residual, epilogue)
        }
        let output = geometry.output
        append(
            TapProduct(
                source: source, sourceShape: geometry.input, gridHeight: output.height, gridWidth: output.width,
                strideHeight: geometry.strideHeight, strideWidth: geometry.strideWidth,
                taps: TapList(geometry.forwardTaps), weights: weights, blocking: WeightBlocking(geometry.weight),
                output: try self.output(0), outputShape: output, lattice: OutputLattice(), bias: bias,
                residual: residual, relu: epilogue.relu, activation: epilogue.furtherActivation))
    }

    /// Adds the loop that computes a product.
    mutating func append(_ product: TapProduct) {
        let kernels = kernels
        let pixels = product.gridPixels
        guard pixels > 0 else { return }
        let taps = product.taps
        let sourceBlocks = product.sourceShape.blocks
        let isDirect = product.isDirect
        let reductionBlocks = taps.count * sourceBlocks
        let tileRows = kernels.tileRows

        let tileBytes = max(tileRows * reductionBlocks * 64, 1)
        let outputBlocks = product.blocking.outputBlockCount
        let cut = BandPlan(
            BandPlan.Product(
                tileCount: (pixels + tileRows - 1) / tileRows, pixelsPerTile: tileRows,
                reduction: taps.count * product.blocking.inputBlockCount * 16,
                outputBlocks: outputBlocks, isGathered: !isDirect),
            mostTiles: min(max(Self.bandByteCount / tileBytes, 1), max(56 / tileRows, 1)), threadCount: threadCount)
        let bandPixels = cut.tiles * tileRows
        let bandCount = (pixels + bandPixels - 1) / bandPixels
        let blocksPerPiece = cut.blocksPerItem
        let pieceCount = (outputBlocks + blocksPerPiece - 1) / blocksPerPiece

        let tileFloats = bandTileFloats
        let gatherFloats = isDirect ? 0 : reductionBlocks * bandPixels * 16
        let offsetFloats = product.isContiguous ? 0 : bandPixels
        let innerCount = product.blocking.inputBlockCount
        let outerCount = taps.count
        let sourceBlockFloats = product.sourceShape.blockFloats
        let outputBlockFloats = product.outputShape.blockFloats
        let totalOutputBlocks = product.outputShape.blocks
        let weightBlockFloats = outerCount * innerCount * 512
        let isFetching = bandCount <= 4 || 4 * outputBlocks * weightBlockFloats > Self.heldWeightByteCount
        let isDiagonal = product.blocking.shape.isBlockDiagonal
        let activation = product.activation?.code
        let outputShape = product.outputShape
        let firstBlocks = (0..<outputBlocks).map { product.blocking.firstInputBlock(of: $0) }

        parallel(bandCount * pieceCount, scratchFloats: tileFloats + gatherFloats + offsetFloats + 64) {
            unit, scratch in
            let band = unit / pieceCount
            let piece = unit % pieceCount
            let first = band * bandPixels
            let count = min(bandPixels, pixels - first)
            let gathered = scratch + tileFloats
            let offsets = UnsafeMutableRawPointer(gathered + gatherFloats).assumingMemoryBound(to: Int32.self)
            if !isDirect, taps.count > 0 {
                let gather = Gather(
                    source: product.source, blockStride: sourceBlockFloats, blockCount: sourceBlocks,
                    sourceHeight: product.sourceShape.height, sourceWidth: product.sourceShape.width,
                    gridHeight: product.gridHeight, gridWidth: product.gridWidth, strideHeight: product.strideHeight,
                    strideWidth: product.strideWidth, tapCount: taps.count, tapRows: UnsafePointer(taps.rows),
                    tapColumns: UnsafePointer(taps.columns), target: gathered, capacity: bandPixels, channels: 16)
                kernels.gather(gather, first, count)
            }
            if !product.isContiguous { fillOffsets(product, first, count, offsets) }
            for block in piece * blocksPerPiece..<min((piece + 1) * blocksPerPiece, outputBlocks) {
                let place = block * 2 * outputBlockFloats + (product.isContiguous ? first * 16 : 0)
                let firstInput = firstBlocks[block]
                if isDiagonal {
                    for half in 0..<min(2, totalOutputBlocks - block * 2) {
                        let channelBlock = block * 2 + half
                        let output = place + half * outputBlockFloats
                        let weights = block * weightBlockFloats + (channelBlock - firstInput) * 512 + half * 16
                        let source =
                            isDirect ? channelBlock * sourceBlockFloats + first * 16 : channelBlock * bandPixels * 16
                        kernels.bandProduct(
                            BandProduct(
                                a: (isDirect ? product.source : UnsafePointer(gathered)) + source,
                                outerCount: outerCount,
                                outerStride: sourceBlocks * bandPixels * 16, innerCount: 1, innerStride: 0,
                                lastQuads: 4,
                                pixelCount: count, weights: product.weights + weights,
                                weightSkip: (innerCount - 1) * 512, blockCount: 1,
                                epilogue: BandEpilogue(
                                    output: product.output + output, blockStride: outputBlockFloats,
                                    bias: product.bias.map { $0 + channelBlock * 16 },
                                    residual: product.residual.map { $0 + output }, relu: product.relu,
                                    pixelOffsets: product.isContiguous ? nil : UnsafePointer(offsets)),
                                tile: scratch))
                        if let activation {
                            kernels.activate(
                                activation, UnsafePointer(product.output + output), product.output + output, count,
                                outputShape.lanes(of: channelBlock))
                        }
                    }
                    continue
                }
                let a =
                    isDirect
                    ? product.source + (firstInput * sourceBlockFloats + first * 16)
                    : UnsafePointer(gathered + firstInput * bandPixels * 16)
                kernels.bandProduct(
                    BandProduct(
                        a: a, outerCount: outerCount, outerStride: sourceBlocks * bandPixels * 16,
                        innerCount: innerCount,
                        innerStride: isDirect ? sourceBlockFloats : bandPixels * 16, lastQuads: 4,
                        pixelCount: count,
                        weights: product.weights + block * weightBlockFloats,
                        blockCount: min(2, totalOutputBlocks - block * 2),
                        epilogue: BandEpilogue(
                            output: product.output + place, blockStride: outputBlockFloats,
                            bias: product.bias.map { $0 + block * 32 }, residual: product.residual.map { $0 + place },
                            relu: product.relu, pixelOffsets: product.isContiguous ? nil : UnsafePointer(offsets)),
                        tile: scratch,
                        following: isFetching && block + 1 < outputBlocks
                            ? product.weights + (block + 1) * weightBlockFloats : nil,
                        readsNewInput: isDirect && block == piece * blocksPerPiece))
                if let activation {
                    for half in 0..<min(2, totalOutputBlocks - block * 2) {
                        let written = product.output + (place + half * outputBlockFloats)
                        kernels.activate(
                            activation, UnsafePointer(written), written, count, outputShape.lanes(of: block * 2 + half))
                    }
                }
            }
        }
    }
}

/// Output pixels of the grid positions `first ..< first + count`.
private func fillOffsets(_ product: TapProduct, _ first: Int, _ count: Int, _ offsets: UnsafeMutablePointer<Int32>) {
    let lattice = product.lattice
    var column = first % product.gridWidth
    let line = first / product.gridWidth
    var row = line % product.gridHeight
    var image = line / product.gridHeight
    for index in 0..<count {
        let outputRow = image * product.outputShape.height + lattice.firstRow + row * lattice.stepHeight
        let pixel = outputRow * product.outputShape.width + lattice.firstColumn + column * lattice.stepWidth
        offsets[index] = Int32(truncatingIfNeeded: pixel)
        column += 1
        if column == product.gridWidth {
            column = 0
            row += 1
            if row == product.gridHeight {
                row = 0
                image += 1
            }
        }
    }
}
