/// What `GraftCPU` and the kernel variants agree on: argument structures and the table of functions. The variants are
/// the same sources built for different instruction sets, so nothing here may be generic or contain code that a
/// variant could instantiate a copy of.

/// Floats of ``BandProduct/tile``: the sums of 64 rows of 32.
package let bandTileFloats = 2048

/// A band of pixels times one block of 32 output channels: `output[pixel][k] = Σ a[reduction][pixel] · weights[reduction][k]`.
///
/// `a` is `[outer][inner][pixel][16]` with the given strides in floats; `weights` is `[outer · inner][16][32]`.
/// Rows behind `pixelCount` up to the next multiple of the tile's rows are read (never used), so they must be mapped.
package struct BandProduct {
    package var a: UnsafePointer<Float>
    package var outerCount: Int
    package var outerStride: Int
    package var innerCount: Int
    package var innerStride: Int
    /// Quarters of the last reduction block that are used, 1 to 4.
    package var lastQuads: Int
    package var pixelCount: Int
    package var weights: UnsafePointer<Float>
    /// Floats of weights to leave out after the inner blocks of each outer one.
    package var weightSkip: Int
    /// Activation blocks of 16 that the output block has: 1 or 2.
    package var blockCount: Int
    package var epilogue: BandEpilogue
    /// ``bandTileFloats`` floats that the kernel may use.
    package var tile: UnsafeMutablePointer<Float>
    /// Whether register tiles continue the sums that are in their result's place; for the kernels' own use.
    package var accumulates = false
    /// The weights that are read after these, fetched meanwhile; nil where a cache holds all of them.
    package var following: UnsafePointer<Float>?
    /// Whether no block of output channels has read this input before: each tile fetches the next one's meanwhile.
    package var readsNewInput: Bool

    package init(
        a: UnsafePointer<Float>, outerCount: Int, outerStride: Int, innerCount: Int, innerStride: Int, lastQuads: Int,
        pixelCount: Int, weights: UnsafePointer<Float>, weightSkip: Int = 0, blockCount: Int, epilogue: BandEpilogue,
        tile: UnsafeMutablePointer<Float>, following: UnsafePointer<Float>? = nil, readsNewInput: Bool = false
    ) {
        self.a = a
        self.outerCount = outerCount
        self.outerStride = outerStride
        self.innerCount = innerCount
        self.innerStride = innerStride
        self.lastQuads = lastQuads
        self.pixelCount = pixelCount
        self.weights = weights
        self.weightSkip = weightSkip
        self.blockCount = blockCount
        self.epilogue = epilogue
        self.tile = tile
        self.following = following
        self.readsNewInput = readsNewInput
    }
}

/// How a band's results are stored: `+ bias`, `+ residual`, negative to zero, then to a pixel's 16 floats.
package struct BandEpilogue {
    /// Pixel 0 of the band in the first of the (up to) two output blocks, or of the plane when `pixelOffsets` is set.
    package var output: UnsafeMutablePointer<Float>
    /// Floats between the two output blocks.
    package var blockStride: Int
    /// 32 floats.
    package var bias: UnsafePointer<Float>?
    /// Addressed as `output`.
    package var residual: UnsafePointer<Float>?
    package var relu: Bool
    /// Where each pixel of the band lies in the plane, in pixels; nil when they follow each other.
    package var pixelOffsets: UnsafePointer<Int32>?

    package init(
        output: UnsafeMutablePointer<Float>, blockStride: Int, bias: UnsafePointer<Float>?,
        residual: UnsafePointer<Float>?, relu: Bool, pixelOffsets: UnsafePointer<Int32>?
    ) {
        self.output = output
        self.blockStride = blockStride
        self.bias = bias
        self.residual = residual
        self.relu = relu
        self.pixelOffsets = pixelOffsets
    }
}

/// Rows of an image of at most 8 channels, to be copied without the other lanes, with zeros around.
package struct DenseRows {
    /// Channel block 0 of one image, `[H][W][16]`, or compact, `[H][W][channels]`.
    package var source: UnsafePointer<Float>
    package var isCompact: Bool
    package var sourceHeight: Int
    package var sourceWidth: Int
    package var channels: Int
    /// The first row, and the first column of each; they may lie outside.
    package var first: Int
    package var left: Int
    package var rowCount: Int
    package var columnCount: Int
    /// `[row][column][channels]`, `rowFloats` ≥ columns · channels + 8 from row to row.
    package var target: UnsafeMutablePointer<Float>
    package var rowFloats: Int

    package init(
        source: UnsafePointer<Float>, isCompact: Bool, sourceHeight: Int, sourceWidth: Int, channels: Int, first: Int,
        left: Int, rowCount: Int, columnCount: Int, target: UnsafeMutablePointer<Float>, rowFloats: Int
    ) {
        self.source = source
        self.isCompact = isCompact
        self.sourceHeight = sourceHeight
        self.sourceWidth = sourceWidth
        self.channels = channels
        self.first = first
        self.left = left
        self.rowCount = rowCount
        self.columnCount = columnCount
        self.target = target
        self.rowFloats = rowFloats
    }
}

/// A row of a convolution's grid times one output block, over rows that ``DenseRows`` kept:
/// `result[p][k] = Σ rows[p · pixelStride + outer · outerStride + inner · innerStride + t] · weights[outer][inner][t][k]`,
/// t below `run`. Pixels behind the last up to the next multiple of the tile's rows are read, never used.
package struct DenseProduct {
    package var rows: UnsafePointer<Float>
    package var pixelStride: Int
    package var outerCount: Int
    package var outerStride: Int
    package var innerCount: Int
    package var innerStride: Int
    package var run: Int
    /// `[outer][inner][run][32]`.
    package var weights: UnsafePointer<Float>
    package var pixelCount: Int
    /// Activation blocks of 16 that the output block has: 1 or 2.
    package var blockCount: Int
    /// Without offsets.
    package var epilogue: BandEpilogue
    /// ``bandTileFloats`` floats that the kernel may use.
    package var tile: UnsafeMutablePointer<Float>

    package init(
        rows: UnsafePointer<Float>, pixelStride: Int, outerCount: Int, outerStride: Int, innerCount: Int,
        innerStride: Int, run: Int, weights: UnsafePointer<Float>, pixelCount: Int, blockCount: Int,
        epilogue: BandEpilogue, tile: UnsafeMutablePointer<Float>
    ) {
        self.rows = rows
        self.pixelStride = pixelStride
        self.outerCount = outerCount
        self.outerStride = outerStride
        self.innerCount = innerCount
        self.innerStride = innerStride
        self.run = run
        self.weights = weights
        self.pixelCount = pixelCount
        self.blockCount = blockCount
        self.epilogue = epilogue
        self.tile = tile
    }
}

/// Collects what a band of grid pixels reads. Grid pixel `(n, i, j)` and tap `t` read source pixel
/// `(n, i · strideHeight + tapRows[t], j · strideWidth + tapColumns[t])`, zero outside.
package struct Gather {
    /// `[blocks][N][H][W][16]`.
    package var source: UnsafePointer<Float>
    /// Floats between source blocks.
    package var blockStride: Int
    package var blockCount: Int
    package var sourceHeight: Int
    package var sourceWidth: Int
    package var gridHeight: Int
    package var gridWidth: Int
    package var strideHeight: Int
    package var strideWidth: Int
    package var tapCount: Int
    package var tapRows: UnsafePointer<Int32>
    package var tapColumns: UnsafePointer<Int32>
    /// `[tap][block][capacity][16]`; dense: `[⌈taps · channels/16⌉][capacity][16]`.
    package var target: UnsafeMutablePointer<Float>
    package var capacity: Int
    /// Dense gathering only: channels of the single source block, at most 8.
    package var channels: Int
    /// Dense gathering only: whether the source is compact, `[N][H][W][channels]`, of at most 4 channels.
    package var isCompact = false

    package init(
        source: UnsafePointer<Float>, blockStride: Int, blockCount: Int, sourceHeight: Int, sourceWidth: Int,
        gridHeight: Int, gridWidth: Int, strideHeight: Int, strideWidth: Int, tapCount: Int,
        tapRows: UnsafePointer<Int32>, tapColumns: UnsafePointer<Int32>, target: UnsafeMutablePointer<Float>,
        capacity: Int, channels: Int
    ) {
        self.source = source
        self.blockStride = blockStride
        self.blockCount = blockCount
        self.sourceHeight = sourceHeight
        self.sourceWidth = sourceWidth
        self.gridHeight = gridHeight
        self.gridWidth = gridWidth
        self.strideHeight = strideHeight
        self.strideWidth = strideWidth
        self.tapCount = tapCount
        self.tapRows = tapRows
        self.tapColumns = tapColumns
        self.target = target
        self.capacity = capacity
        self.channels = channels
    }
}

/// One plane of a depthwise convolution, or of a class of its input gradient's pixels:
/// `output[i · rowStep + j · columnStep] = Σ_tap source[i · strideHeight + tapRows[tap]][j · strideWidth + tapColumns[tap]] · weights[tapPlaces[tap]]`,
/// then `+ bias`, `+ residual`, negative to zero.
package struct DepthwisePlane {
    /// `[sourceHeight][sourceWidth][16]`.
    package var source: UnsafePointer<Float>
    package var sourceHeight: Int
    package var sourceWidth: Int
    package var strideHeight: Int
    package var strideWidth: Int
    package var tapCount: Int
    package var tapRows: UnsafePointer<Int32>
    package var tapColumns: UnsafePointer<Int32>
    /// Which vector of the weights belongs to each tap.
    package var tapPlaces: UnsafePointer<Int32>
    /// `[place][16]`.
    package var weights: UnsafePointer<Float>
    package var gridWidth: Int
    /// Grid columns for which the columns of all taps exist.
    package var firstInner: Int
    package var endInner: Int
    package var output: UnsafeMutablePointer<Float>
    /// Floats between the outputs of grid rows and of grid columns.
    package var rowStep: Int
    package var columnStep: Int
    /// 16 floats.
    package var bias: UnsafePointer<Float>?
    /// Addressed as `output`.
    package var residual: UnsafePointer<Float>?
    package var relu: Bool

    package init(
        source: UnsafePointer<Float>, sourceHeight: Int, sourceWidth: Int, strideHeight: Int, strideWidth: Int,
        tapCount: Int, tapRows: UnsafePointer<Int32>, tapColumns: UnsafePointer<Int32>,
        tapPlaces: UnsafePointer<Int32>, weights: UnsafePointer<Float>, gridWidth: Int, firstInner: Int, endInner: Int,
        output: UnsafeMutablePointer<Float>, rowStep: Int, columnStep: Int, bias: UnsafePointer<Float>?,
        residual: UnsafePointer<Float>?, relu: Bool
    ) {
        self.source = source
        self.sourceHeight = sourceHeight
        self.sourceWidth = sourceWidth
        self.strideHeight = strideHeight
        self.strideWidth = strideWidth
        self.tapCount = tapCount
        self.tapRows = tapRows
        self.tapColumns = tapColumns
        self.tapPlaces = tapPlaces
        self.weights = weights
        self.gridWidth = gridWidth
        self.firstInner = firstInner
        self.endInner = endInner
        self.output = output
        self.rowStep = rowStep
        self.columnStep = columnStep
        self.bias = bias
        self.residual = residual
        self.relu = relu
    }
}

/// Pixels whose channels are normalised each for itself: `[block][pixel][16]`.
package struct PixelRun {
    /// Pixels, at most ``pixelRunLength``.
    package var count: Int
    /// Floats between channel blocks.
    package var blockStride: Int
    package var blocks: Int
    package var channels: Int
    package var epsilon: Float
    /// ``pixelRunLength`` times 64 floats that the kernel may use.
    package var scratch: UnsafeMutablePointer<Float>

    package init(
        count: Int, blockStride: Int, blocks: Int, channels: Int, epsilon: Float, scratch: UnsafeMutablePointer<Float>
    ) {
        self.count = count
        self.blockStride = blockStride
        self.blocks = blocks
        self.channels = channels
        self.epsilon = epsilon
        self.scratch = scratch
    }
}

/// Pixels of a ``PixelRun``.
package let pixelRunLength = 16

/// `dw[c][k] (+)= Σ x[row][column][c] · dy[row][column][k]` over a rectangle of pixels, for 16 input × 32 output channels.
package struct OuterProduct {
    package var rowCount: Int
    package var columnCount: Int
    /// Floats.
    package var inputRowStride: Int
    /// Floats from one column's input pixel to the next.
    package var inputStep: Int
    package var gradientRowStride: Int
    /// Whether `dw` is added to or overwritten.
    package var accumulates: Bool
    /// Input channels that exist in the block, 1 to 16; lanes behind are not computed beyond the tile that holds the last.
    package var inputChannels: Int

    package init(
        rowCount: Int, columnCount: Int, inputRowStride: Int, inputStep: Int, gradientRowStride: Int, accumulates: Bool,
        inputChannels: Int
    ) {
        self.rowCount = rowCount
        self.columnCount = columnCount
        self.inputRowStride = inputRowStride
        self.inputStep = inputStep
        self.gradientRowStride = gradientRowStride
        self.accumulates = accumulates
        self.inputChannels = inputChannels
    }
}

/// Transforms 6×6 patches of a plane (or 4×4 ones of a gradient) for Winograd's products.
package struct WinogradTransform {
    /// `[blocks][N][H][W][16]`.
    package var source: UnsafePointer<Float>
    /// Floats between source blocks.
    package var blockStride: Int
    package var blockCount: Int
    package var sourceHeight: Int
    package var sourceWidth: Int
    /// Where the patch of an image's first tile begins in the source; patches are 4 apart.
    package var firstRow: Int
    package var firstColumn: Int
    /// Tiles per image.
    package var tileRows: Int
    package var tileColumns: Int
    /// `[36][block][capacity][16]`.
    package var target: UnsafeMutablePointer<Float>
    /// Floats between the 36.
    package var productStride: Int
    package var capacity: Int
    /// 1280 floats that the kernel may use.
    package var scratch: UnsafeMutablePointer<Float>

    package init(
        source: UnsafePointer<Float>, blockStride: Int, blockCount: Int, sourceHeight: Int, sourceWidth: Int,
        firstRow: Int, firstColumn: Int, tileRows: Int, tileColumns: Int, target: UnsafeMutablePointer<Float>,
        productStride: Int, capacity: Int, scratch: UnsafeMutablePointer<Float>
    ) {
        self.source = source
        self.blockStride = blockStride
        self.blockCount = blockCount
        self.sourceHeight = sourceHeight
        self.sourceWidth = sourceWidth
        self.firstRow = firstRow
        self.firstColumn = firstColumn
        self.tileRows = tileRows
        self.tileColumns = tileColumns
        self.target = target
        self.productStride = productStride
        self.capacity = capacity
        self.scratch = scratch
    }
}

/// 36 products of a band of transformed tiles with one block of 32 output channels.
package struct WinogradProducts {
    /// `[36][input block][capacity][16]`, rows behind `tileCount` mapped up to the next multiple of the tile's rows.
    package var transformed: UnsafePointer<Float>
    /// Floats between the 36.
    package var transformedStride: Int
    package var inputBlockCount: Int
    /// Quarters of the last input block that are used, 1 to 4.
    package var lastQuads: Int
    package var tileCount: Int
    package var capacity: Int
    /// `[36][input block][16][32]`.
    package var weights: UnsafePointer<Float>
    /// The weights that are read after those of the last element.
    package var following: UnsafePointer<Float>?
    /// Activation blocks of 16 that the output block has: 1 or 2.
    package var blockCount: Int
    /// 36 of `32 · capacity` floats in an order that only `winogradOutput` of the same variant knows.
    package var target: UnsafeMutablePointer<Float>
    /// Floats between the 36.
    package var targetStride: Int

    package init(
        transformed: UnsafePointer<Float>, transformedStride: Int, inputBlockCount: Int, lastQuads: Int, tileCount: Int,
        capacity: Int, weights: UnsafePointer<Float>, following: UnsafePointer<Float>?, blockCount: Int,
        target: UnsafeMutablePointer<Float>, targetStride: Int
    ) {
        self.transformed = transformed
        self.transformedStride = transformedStride
        self.inputBlockCount = inputBlockCount
        self.lastQuads = lastQuads
        self.tileCount = tileCount
        self.capacity = capacity
        self.weights = weights
        self.following = following
        self.blockCount = blockCount
        self.target = target
        self.targetStride = targetStride
    }
}

/// Transforms a band's products back and stores the 4×4 outputs of each tile that exist, or the maxima of their whole
/// windows of 2×2.
package struct WinogradOutput {
    /// What `winogradProducts` wrote.
    package var products: UnsafePointer<Float>
    /// Floats between the 36.
    package var productStride: Int
    package var capacity: Int
    /// Tiles per image.
    package var tileRows: Int
    package var tileColumns: Int
    package var outputHeight: Int
    package var outputWidth: Int
    /// Whether the windows' maxima are stored; without a residual then.
    package var isPooled: Bool
    package var blockCount: Int
    /// `output` and `residual` at pixel 0 of the first image; without offsets.
    package var epilogue: BandEpilogue
    /// 1280 floats that the kernel may use.
    package var scratch: UnsafeMutablePointer<Float>

    package init(
        products: UnsafePointer<Float>, productStride: Int, capacity: Int, tileRows: Int, tileColumns: Int,
        outputHeight: Int, outputWidth: Int, isPooled: Bool, blockCount: Int, epilogue: BandEpilogue,
        scratch: UnsafeMutablePointer<Float>
    ) {
        self.products = products
        self.productStride = productStride
        self.capacity = capacity
        self.tileRows = tileRows
        self.tileColumns = tileColumns
        self.outputHeight = outputHeight
        self.outputWidth = outputWidth
        self.isPooled = isPooled
        self.blockCount = blockCount
        self.epilogue = epilogue
        self.scratch = scratch
    }
}

/// A pooling window over one `[H][W][16]` plane.
package struct PoolingWindow {
    package var inputHeight: Int
    package var inputWidth: Int
    package var outputHeight: Int
    package var outputWidth: Int
    package var kernelHeight: Int
    package var kernelWidth: Int
    package var strideHeight: Int
    package var strideWidth: Int
    package var paddingHeight: Int
    package var paddingWidth: Int
    package var dilation: Int
    package var countsPadding: Bool

    package init(
        inputHeight: Int, inputWidth: Int, outputHeight: Int, outputWidth: Int, kernelHeight: Int, kernelWidth: Int,
        strideHeight: Int, strideWidth: Int, paddingHeight: Int, paddingWidth: Int, dilation: Int, countsPadding: Bool
    ) {
        self.inputHeight = inputHeight
        self.inputWidth = inputWidth
        self.outputHeight = outputHeight
        self.outputWidth = outputWidth
        self.kernelHeight = kernelHeight
        self.kernelWidth = kernelWidth
        self.strideHeight = strideHeight
        self.strideWidth = strideWidth
        self.paddingHeight = paddingHeight
        self.paddingWidth = paddingWidth
        self.dilation = dilation
        self.countsPadding = countsPadding
    }
}

/// Constants of one optimizer step of one cohort.
package struct UpdateConstants {
    package var learningRate: Float = 0
    package var weightDecay: Float = 0
    package var momentum: Float = 0
    package var isFirstStep = false
    package var nesterov = false
    package var beta1: Float = 0
    package var beta2: Float = 0
    package var epsilon: Float = 0
    package var biasCorrection1: Float = 1
    package var biasCorrection2Root: Float = 1
    package var decoupledWeightDecay = false

    package init() {}
}

/// The kernels of one instruction set. Counts named `vectors` are in units of 16 floats; pointers to activations are
/// aligned to 64 bytes.
package struct KernelTable {
    /// `baseline`, `avx2` or `avx512`.
    package var name: String
    /// Pixels per register tile.
    package var tileRows: Int

    /// A band of pixels times one output block.
    package var bandProduct: (BandProduct) -> Void
    /// Fills the band from grid pixel `first` on, `count` pixels.
    package var gather: (_ gather: Gather, _ first: Int, _ count: Int) -> Void
    /// The same with the reduction dense over taps and channels.
    package var gatherDense: (_ gather: Gather, _ first: Int, _ count: Int) -> Void
    /// Keeps the rows that a band of grid rows sees.
    package var keepDenseRows: (DenseRows) -> Void
    /// One row of a grid times one output block.
    package var denseProduct: (DenseProduct) -> Void
    /// `(product, x, dy block 0, dy block 1 or nil, dw[16][32])`.
    package var outerProduct:
        (
            OuterProduct, UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>?,
            UnsafeMutablePointer<Float>
        ) -> Void
    /// `target[row][column] = source[column][row]` of 16 × 16 floats with row strides in floats.
    package var transpose16:
        (
            _ source: UnsafePointer<Float>, _ sourceStride: Int, _ target: UnsafeMutablePointer<Float>,
            _ targetStride: Int
        ) -> Void
    /// `target = Σ_i sources[i · stride ..]`, `count` partial sums in order.
    package var sumPartials:
        (
            _ sources: UnsafePointer<Float>, _ stride: Int, _ count: Int, _ target: UnsafeMutablePointer<Float>,
            _ vectors: Int
        ) -> Void

    /// `V = Bᵀ d B` of `count` tiles from tile `first` on.
    package var winogradInput: (_ transform: WinogradTransform, _ first: Int, _ count: Int) -> Void
    /// Products of `count` of the 36 elements from element `first` on.
    package var winogradProducts: (_ products: WinogradProducts, _ first: Int, _ count: Int) -> Void
    /// `Y = Aᵀ M A` of `count` tiles from tile `first` on.
    package var winogradOutput: (_ output: WinogradOutput, _ first: Int, _ count: Int) -> Void
    /// `U = G g Gᵀ` of 16 × 32 filters: `[9][16][32]` to `[36][16][32]`, strides in floats; `rotated` reads the taps
    /// backwards; scratch of 1280 floats.
    package var winogradWeight:
        (
            _ weights: UnsafePointer<Float>, _ tapStride: Int, _ rotated: Bool,
            _ target: UnsafeMutablePointer<Float>, _ productStride: Int, _ scratch: UnsafeMutablePointer<Float>
        ) -> Void
    /// `D = A dY Aᵀ` of `count` tiles from tile `first` on, 4×4 patches of the gradient.
    package var winogradGradient: (_ transform: WinogradTransform, _ first: Int, _ count: Int) -> Void
    /// `dW = Gᵀ dU G` of 16 × 32 filters: `[36][16][32]` to `[9][16][32]`, strides in floats; lanes from
    /// `16 · blockCount` on become zero; scratch of 1280 floats.
    package var winogradWeightGradient:
        (
            _ products: UnsafePointer<Float>, _ productStride: Int, _ blockCount: Int,
            _ target: UnsafeMutablePointer<Float>, _ tapStride: Int, _ scratch: UnsafeMutablePointer<Float>
        ) -> Void

    /// `(x, vectors, result[3][16])`: a center, the mean's distance from it, the squared deviations from the mean.
    package var moments: (UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>) -> Void
    /// `y = (x − mean) · scale + shift (+ residual)`, then negative to zero; all four vectors are 16 floats.
    package var normalize:
        (
            _ x: UnsafePointer<Float>, _ mean: UnsafePointer<Float>, _ scale: UnsafePointer<Float>,
            _ shift: UnsafePointer<Float>, _ residual: UnsafePointer<Float>?, _ relu: Bool,
            _ y: UnsafeMutablePointer<Float>, _ vectors: Int
        ) -> Void
    /// `(x, dy, mean, vectors, Σdy[16], Σdy·(x − mean)[16])`.
    package var gradientSums:
        (
            UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>,
            UnsafeMutablePointer<Float>
        ) -> Void
    /// `dx = scale · (dy − meanGradient − (x − mean) · slope)`.
    package var normalizationGradient:
        (
            _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ mean: UnsafePointer<Float>,
            _ scale: UnsafePointer<Float>, _ meanGradient: UnsafePointer<Float>, _ slope: UnsafePointer<Float>,
            _ dx: UnsafeMutablePointer<Float>, _ vectors: Int
        ) -> Void
    /// `dx = dy · scale[16]`.
    package var scaleChannels:
        (_ dy: UnsafePointer<Float>, _ scale: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>, _ vectors: Int)
            -> Void
    /// `Σ x[16]` over the vectors.
    package var sumVectors: (_ x: UnsafePointer<Float>, _ vectors: Int, _ sum: UnsafeMutablePointer<Float>) -> Void

    package var relu: (_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) -> Void
    package var reluGradient:
        (_ dy: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>, _ vectors: Int) ->
            Void
    /// `y = f(x)` by the function's code (`Activation.code` of GraftGraph); lanes from `lanes` on become zero.
    package var activate:
        (
            _ code: Int, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int, _ lanes: Int
        ) -> Void
    /// `dx = f′ · dy`; v is the function's argument or result, as `Activation.gradientReads` says.
    package var activationGradient:
        (
            _ code: Int, _ dy: UnsafePointer<Float>, _ v: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>,
            _ vectors: Int
        ) -> Void
    /// `y = x / divisor`.
    package var divide:
        (_ x: UnsafePointer<Float>, _ divisor: Float, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) -> Void
    /// `Σ x · dy` of each of 16 lanes.
    package var sumProducts:
        (
            _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ vectors: Int, _ sum: UnsafeMutablePointer<Float>
        ) -> Void
    /// `y = (x − mean) / √(variance + ε) · gamma + beta` over each pixel's channels.
    package var layerNormalization:
        (
            PixelRun, _ x: UnsafePointer<Float>, _ gamma: UnsafePointer<Float>, _ beta: UnsafePointer<Float>,
            _ y: UnsafeMutablePointer<Float>
        ) -> Void
    /// dx, and dgamma and dbeta added to.
    package var layerNormalizationGradient:
        (
            PixelRun, _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ gamma: UnsafePointer<Float>,
            _ dx: UnsafeMutablePointer<Float>, _ dgamma: UnsafeMutablePointer<Float>,
            _ dbeta: UnsafeMutablePointer<Float>
        ) -> Void
    /// Grid rows `first ..< first + count` of a plane.
    package var depthwise: (_ plane: DepthwisePlane, _ first: Int, _ count: Int) -> Void
    /// `dw[16] += Σ x · dy` over a rectangle; `inputChannels` is not used.
    package var depthwiseWeightGradient:
        (
            OuterProduct, _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ dw: UnsafeMutablePointer<Float>
        ) -> Void
    package var add:
        (
            _ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, _ relu: Bool, _ y: UnsafeMutablePointer<Float>,
            _ vectors: Int
        ) -> Void
    package var copy: (_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) -> Void
    package var zero: (_ y: UnsafeMutablePointer<Float>, _ vectors: Int) -> Void
    /// One plane of dropout; lane `c` of pixel `p` has index `firstIndex + c · pixels + p`, modulo 2³².
    package var dropout:
        (
            _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pixels: Int, _ firstIndex: UInt32,
            _ key: UInt32,
            _ threshold: UInt32, _ keepRate: Float
        ) -> Void

    /// One plane; `indices` may be nil; index lanes from `lanes` on are written as zero.
    package var maxPool:
        (
            PoolingWindow, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>,
            _ indices: UnsafeMutablePointer<Int32>?, _ lanes: Int
        ) -> Void
    package var maxPoolGradient:
        (
            PoolingWindow, _ dy: UnsafePointer<Float>, _ indices: UnsafePointer<Int32>,
            _ dx: UnsafeMutablePointer<Float>
        ) -> Void
    package var averagePool: (PoolingWindow, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>) -> Void
    package var averagePoolGradient:
        (PoolingWindow, _ dy: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>) -> Void
    package var adaptivePool: (PoolingWindow, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>) -> Void
    package var adaptivePoolGradient:
        (PoolingWindow, _ dy: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>) -> Void

    /// `(constants, w, g, b or nil, vectors)`.
    package var sgd:
        (
            UpdateConstants, UnsafeMutablePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>?, Int
        ) -> Void
    /// `(constants, w, g, m, v, vectors)`.
    package var adam:
        (
            UpdateConstants, UnsafeMutablePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>,
            UnsafeMutablePointer<Float>, Int
        ) -> Void
    /// `y += share · (x − y)`.
    package var approach:
        (_ share: Float, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) -> Void
    /// `x *= factor`.
    package var scale: (_ factor: Float, _ x: UnsafeMutablePointer<Float>, _ vectors: Int) -> Void
    /// `Σ x²[16]` over the vectors.
    package var squareSums: (_ x: UnsafePointer<Float>, _ vectors: Int, _ sums: UnsafeMutablePointer<Float>) -> Void

    package init(
        name: String, tileRows: Int, bandProduct: @escaping (BandProduct) -> Void,
        gather: @escaping (Gather, Int, Int) -> Void,
        gatherDense: @escaping (Gather, Int, Int) -> Void,
        keepDenseRows: @escaping (DenseRows) -> Void, denseProduct: @escaping (DenseProduct) -> Void,
        outerProduct:
            @escaping (
                OuterProduct, UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>?,
                UnsafeMutablePointer<Float>
            ) -> Void,
        transpose16: @escaping (UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>, Int) -> Void,
        sumPartials: @escaping (UnsafePointer<Float>, Int, Int, UnsafeMutablePointer<Float>, Int) -> Void,
        winogradInput: @escaping (WinogradTransform, Int, Int) -> Void,
        winogradProducts: @escaping (WinogradProducts, Int, Int) -> Void,
        winogradOutput: @escaping (WinogradOutput, Int, Int) -> Void,
        winogradWeight:
            @escaping (
                UnsafePointer<Float>, Int, Bool, UnsafeMutablePointer<Float>, Int, UnsafeMutablePointer<Float>
            ) -> Void,
        winogradGradient: @escaping (WinogradTransform, Int, Int) -> Void,
        winogradWeightGradient:
            @escaping (
                UnsafePointer<Float>, Int, Int, UnsafeMutablePointer<Float>, Int, UnsafeMutablePointer<Float>
            ) -> Void,
        moments:
            @escaping (UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>) -> Void,
        normalize:
            @escaping (
                UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>,
                UnsafePointer<Float>?,
                Bool, UnsafeMutablePointer<Float>, Int
            ) -> Void,
        gradientSums:
            @escaping (
                UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>,
                UnsafeMutablePointer<Float>
            ) -> Void,
        normalizationGradient:
            @escaping (
                UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>,
                UnsafePointer<Float>,
                UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int
            ) -> Void,
        scaleChannels: @escaping (UnsafePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void,
        sumVectors: @escaping (UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>) -> Void,
        relu: @escaping (UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void,
        reluGradient: @escaping (UnsafePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void,
        activate: @escaping (Int, UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int, Int) -> Void,
        activationGradient:
            @escaping (Int, UnsafePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void,
        divide: @escaping (UnsafePointer<Float>, Float, UnsafeMutablePointer<Float>, Int) -> Void,
        sumProducts: @escaping (UnsafePointer<Float>, UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>) -> Void,
        layerNormalization:
            @escaping (
                PixelRun, UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>
            ) -> Void,
        layerNormalizationGradient:
            @escaping (
                PixelRun, UnsafePointer<Float>, UnsafePointer<Float>, UnsafePointer<Float>,
                UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>, UnsafeMutablePointer<Float>
            ) -> Void,
        depthwise: @escaping (DepthwisePlane, Int, Int) -> Void,
        depthwiseWeightGradient:
            @escaping (
                OuterProduct, UnsafePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>
            ) -> Void,
        add: @escaping (UnsafePointer<Float>, UnsafePointer<Float>, Bool, UnsafeMutablePointer<Float>, Int) -> Void,
        copy: @escaping (UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void,
        zero: @escaping (UnsafeMutablePointer<Float>, Int) -> Void,
        dropout:
            @escaping (UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int, UInt32, UInt32, UInt32, Float) -> Void,
        maxPool:
            @escaping (
                PoolingWindow, UnsafePointer<Float>, UnsafeMutablePointer<Float>, UnsafeMutablePointer<Int32>?, Int
            ) -> Void,
        maxPoolGradient:
            @escaping (
                PoolingWindow, UnsafePointer<Float>, UnsafePointer<Int32>, UnsafeMutablePointer<Float>
            ) -> Void,
        averagePool: @escaping (PoolingWindow, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void,
        averagePoolGradient: @escaping (PoolingWindow, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void,
        adaptivePool: @escaping (PoolingWindow, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void,
        adaptivePoolGradient: @escaping (PoolingWindow, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void,
        sgd:
            @escaping (
                UpdateConstants, UnsafeMutablePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>?, Int
            ) -> Void,
        adam:
            @escaping (
                UpdateConstants, UnsafeMutablePointer<Float>, UnsafePointer<Float>, UnsafeMutablePointer<Float>,
                UnsafeMutablePointer<Float>, Int
            ) -> Void,
        approach: @escaping (Float, UnsafePointer<Float>, UnsafeMutablePointer<Float>, Int) -> Void,
        scale: @escaping (Float, UnsafeMutablePointer<Float>, Int) -> Void,
        squareSums: @escaping (UnsafePointer<Float>, Int, UnsafeMutablePointer<Float>) -> Void
    ) {
        self.name = name
        self.tileRows = tileRows
        self.bandProduct = bandProduct
        self.gather = gather
        self.gatherDense = gatherDense
        self.keepDenseRows = keepDenseRows
        self.denseProduct = denseProduct
        self.outerProduct = outerProduct
        self.transpose16 = transpose16
        self.sumPartials = sumPartials
        self.winogradInput = winogradInput
        self.winogradProducts = winogradProducts
        self.winogradOutput = winogradOutput
        self.winogradWeight = winogradWeight
        self.winogradGradient = winogradGradient
        self.winogradWeightGradient = winogradWeightGradient
        self.moments = moments
        self.normalize = normalize
        self.gradientSums = gradientSums
        self.normalizationGradient = normalizationGradient
        self.scaleChannels = scaleChannels
        self.sumVectors = sumVectors
        self.relu = relu
        self.reluGradient = reluGradient
        self.activate = activate
        self.activationGradient = activationGradient
        self.divide = divide
        self.sumProducts = sumProducts
        self.layerNormalization = layerNormalization
        self.layerNormalizationGradient = layerNormalizationGradient
        self.depthwise = depthwise
        self.depthwiseWeightGradient = depthwiseWeightGradient
        self.add = add
        self.copy = copy
        self.zero = zero
        self.dropout = dropout
        self.maxPool = maxPool
        self.maxPoolGradient = maxPoolGradient
        self.averagePool = averagePool
        self.averagePoolGradient = averagePoolGradient
        self.adaptivePool = adaptivePool
        self.adaptivePoolGradient = adaptivePoolGradient
        self.sgd = sgd
        self.adam = adam
        self.approach = approach
        self.scale = scale
        self.squareSums = squareSums
    }
}
