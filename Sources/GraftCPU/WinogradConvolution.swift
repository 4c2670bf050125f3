import GraftCPUKernelInterface
import GraftGraph

/// How Winograd's products of a plane are cut into bands of tiles: by shape alone.
struct WinogradPlan {
    /// Tiles of one image, and of all.
    let tileRows: Int
    let tileColumns: Int
    let tileCount: Int
    /// Blocks of 16 input channels.
    let inputBlockCount: Int
    /// Tiles of a band, a multiple of the register tile's rows.
    let capacity: Int
    let bandCount: Int
    /// Blocks of 32 output channels.
    let outputBlockCount: Int
    /// A band's transformed tiles and its products stay in one thread's cache, through all output blocks. Otherwise
    /// three loops pass over memory: the tiles' transforms, the products of one of 36 elements with one output block at
    /// a time, and their transforms back.
    let isFused: Bool

    /// Units that a loop is split into at least where its shape allows.
    private static let unitGoal = 16
    /// Input blocks up to which a band's transformed tiles are best kept by the thread: a megabyte of them for kernels of
    /// 14 rows, which are for processors with as large a second-level cache, else half of it.
    private static func fusedBlocks(registerRows: Int) -> Int { registerRows >= 14 ? 16 : 8 }
    private static let fusedCapacity = 28
    /// Tiles of a band whose transform lies in memory: one element's fit the second-level cache.
    private static let splitCapacity = 128

    /// Tiles over the plane of `output` from `inputChannels` channels; `registerRows` is the kernels' tile.
    init(inputChannels: Int, output: ActivationShape, registerRows: Int) {
        tileRows = (output.height + 3) / 4
        tileColumns = (output.width + 3) / 4
        let total = output.batch * tileRows * tileColumns
        tileCount = total
        inputBlockCount = ChannelBlockedLayout.blockCount(inputChannels)
        outputBlockCount = (output.channels + 31) / 32
        // At least two register tiles share a weight in the first-level cache.
        let fewest = (11 / registerRows + 1) * registerRows
        isFused =
            inputBlockCount <= Self.fusedBlocks(registerRows: registerRows) && tileCount >= Self.unitGoal * fewest
        if isFused {
            let even = max(total / Self.unitGoal / registerRows, 1) * registerRows
            capacity = min(max(even, fewest), Self.fusedCapacity / registerRows * registerRows)
        } else {
            let bands = max((total + Self.splitCapacity - 1) / Self.splitCapacity, 1)
            let even = (total + bands - 1) / bands
            capacity = max((even + registerRows - 1) / registerRows, 1) * registerRows
        }
        bandCount = (tileCount + capacity - 1) / capacity
    }

    /// Floats between the 36 transformed planes of a band; odd in cache lines, so that they do not share sets.
    var transformedStride: Int { inputBlockCount * capacity * 16 + 16 }
    /// Floats between the 36 products of a band.
    var productStride: Int { capacity * 32 + 16 }
    /// Floats of one band's transformed tiles.
    var transformedFloats: Int { 36 * transformedStride }
    var productFloats: Int { 36 * productStride }
    /// Floats of transformed tiles in the workspace, all bands; the products lie behind them.
    var allTransformedFloats: Int { bandCount * transformedFloats }
    /// Floats of transformed tiles and products in the workspace.
    var workspaceFloatCount: Int {
        isFused ? 0 : allTransformedFloats + bandCount * outputBlockCount * productFloats
    }
}

/// A product by Winograd's transforms: a convolution, or its input gradient with rotated, transposed weights.
struct WinogradProduct {
    var source: UnsafePointer<Float>
    var sourceShape: ActivationShape
    /// Where the first output pixel's first tap lies in the source.
    var firstRow: Int
    var firstColumn: Int
    /// `[output block][36][input block][16][32]`.
    var weights: UnsafePointer<Float>
    var output: UnsafeMutablePointer<Float>
    var outputShape: ActivationShape
    /// What is stored of the output: the output, or the maxima of its windows of 2×2.
    var storedShape: ActivationShape
    var bias: UnsafePointer<Float>?
    var residual: UnsafePointer<Float>?
    var relu: Bool
    /// Memory for the plan's transformed tiles; nil where it is fused.
    var transformed: UnsafeMutablePointer<Float>?
}

extension ConvolutionGeometry {
    func winogradPlan(registerRows: Int) -> WinogradPlan {
        WinogradPlan(inputChannels: input.channels, output: output, registerRows: registerRows)
    }

    func winogradInputGradientPlan(registerRows: Int) -> WinogradPlan {
        WinogradPlan(inputChannels: outputChannels, output: input, registerRows: registerRows)
    }

    /// Whether this backend computes it by Winograd's transforms.
    var usesWinograd: Bool { method != .direct && canUseWinograd }
}

extension InstructionBinding {
    /// Floats of the kernels' scratch.
    fileprivate static var kernelScratchFloats: Int { 1280 }

    /// Forward: weight and bias as in ``bindConvolution(_:_:)``.
    mutating func bindWinogradConvolution(
        _ geometry: ConvolutionGeometry, weights: UnsafePointer<Float>, bias: UnsafePointer<Float>?,
        residual: UnsafePointer<Float>?, _ epilogue: Epilogue
    ) throws(DeviceError) {
        let plan = geometry.winogradPlan(registerRows: kernels.tileRows)
        var transformedWeights = weights
        var weightFloats = 0
        if geometry.method == .winograd {
            weightFloats = WeightBlocking(geometry.weight.winograd).elementCount
            let target = try workspace(floatCount: weightFloats)
            transformWeights(WeightBlocking(geometry.weight), weights, target)
            transformedWeights = UnsafePointer(target)
        }
        append(
            WinogradProduct(
                source: try input(0), sourceShape: geometry.input, firstRow: -geometry.paddingHeight,
                firstColumn: -geometry.paddingWidth, weights: transformedWeights, output: try output(0),
                outputShape: geometry.output, storedShape: epilogue.maxPooling?.output ?? geometry.output, bias: bias,
                residual: residual, relu: epilogue.relu,
                transformed: plan.isFused
                    ? nil : try workspace(floatCount: weightFloats + plan.workspaceFloatCount) + weightFloats),
            plan)
    }

    /// `[block][9][input block][16][32]` to `[block][36][input block][16][32]`.
    private mutating func transformWeights(
        _ blocking: WeightBlocking, _ weights: UnsafePointer<Float>, _ target: UnsafeMutablePointer<Float>
    ) {
        let kernels = kernels
        let inputBlocks = blocking.inputBlockCount
        parallel(blocking.outputBlockCount * inputBlocks, scratchFloats: Self.kernelScratchFloats) { unit, scratch in
            let block = unit / inputBlocks
            let inputBlock = unit % inputBlocks
            kernels.winogradWeight(
                weights + (block * 9 * inputBlocks + inputBlock) * 512, inputBlocks * 512, false,
                target + (block * 36 * inputBlocks + inputBlock) * 512, inputBlocks * 512, scratch)
        }
    }

    /// The input gradient of a convolution of stride 1 is a convolution of `dy` with rotated weights whose input and
    /// output channels change places, padded by 2 − padding.
    mutating func bindWinogradInputGradient(_ geometry: ConvolutionGeometry, addend: Bool) throws(DeviceError) {
        let plan = geometry.winogradInputGradientPlan(registerRows: kernels.tileRows)
        let blocking = WeightBlocking(geometry.transposedWeight.winograd)
        let workspace = try self.workspace(floatCount: blocking.elementCount + plan.workspaceFloatCount)
        transformTransposedWeights(WeightBlocking(geometry.weight), blocking, try input(1), workspace)
        append(
            WinogradProduct(
                source: try input(0), sourceShape: geometry.output, firstRow: geometry.paddingHeight - 2,
                firstColumn: geometry.paddingWidth - 2, weights: UnsafePointer(workspace), output: try output(0),
                outputShape: geometry.input, storedShape: geometry.input, bias: nil,
                residual: addend ? try input(2) : nil, relu: false,
                transformed: plan.isFused ? nil : workspace + blocking.elementCount),
            plan)
    }

    /// Rotated, transposed and transformed: `[input block of 32][36][output block of 16][16][32]`.
    private mutating func transformTransposedWeights(
        _ forward: WeightBlocking, _ blocking: WeightBlocking, _ weights: UnsafePointer<Float>,
        _ target: UnsafeMutablePointer<Float>
    ) {
        let kernels = kernels
        let reductionBlocks = blocking.inputBlockCount
        let channelBlocks = forward.inputBlockCount
        let transposedFloats = 9 * 512
        parallel(
            blocking.outputBlockCount * reductionBlocks, scratchFloats: transposedFloats + Self.kernelScratchFloats
        ) { unit, scratch in
            let block = unit / reductionBlocks
            let reduction = unit % reductionBlocks
            for half in 0..<2 {
                let channelBlock = block * 2 + half
                for tap in 0..<9 {
                    let transposed = scratch + (tap * 512 + half * 16)
                    if channelBlock < channelBlocks {
                        let place = ((reduction / 2 * 9 + tap) * channelBlocks + channelBlock) * 512
                        kernels.transpose16(weights + (place + reduction % 2 * 16), 32, transposed, 32)
                    } else {
                        for row in 0..<16 { kernels.zero(transposed + row * 32, 1) }
                    }
                }
            }
            kernels.winogradWeight(
                scratch, 512, true, target + (block * 36 * reductionBlocks + reduction) * 512, reductionBlocks * 512,
                scratch + transposedFloats)
        }
    }

    /// Adds the loops that compute a product.
    private mutating func append(_ product: WinogradProduct, _ plan: WinogradPlan) {
        let kernels = kernels
        guard plan.tileCount > 0 else { return }
        let source = product.sourceShape
        let output = product.outputShape
        let stored = product.storedShape
        let outputBlocks = plan.outputBlockCount
        let weightBlockFloats = 36 * plan.inputBlockCount * 512
        let lastQuads = (source.channels - (plan.inputBlockCount - 1) * 16 + 3) / 4
        let scratchFloats = Self.kernelScratchFloats

        /// Transforms `blockCount` input blocks of a band from `firstBlock` on.
        func transform(
            _ band: Int, _ firstBlock: Int, _ blockCount: Int, _ target: UnsafeMutablePointer<Float>,
            _ scratch: UnsafeMutablePointer<Float>
        ) {
            kernels.winogradInput(
                WinogradTransform(
                    source: product.source + firstBlock * source.blockFloats, blockStride: source.blockFloats,
                    blockCount: blockCount, sourceHeight: source.height, sourceWidth: source.width,
                    firstRow: product.firstRow, firstColumn: product.firstColumn, tileRows: plan.tileRows,
                    tileColumns: plan.tileColumns, target: target + firstBlock * plan.capacity * 16,
                    productStride: plan.transformedStride, capacity: plan.capacity, scratch: scratch),
                band * plan.capacity, min(plan.capacity, plan.tileCount - band * plan.capacity))
        }
        func tiles(_ band: Int) -> Int { min(plan.capacity, plan.tileCount - band * plan.capacity) }
        /// Multiplies some of a band's 36 elements with one output block.
        func multiply(
            _ band: Int, _ block: Int, _ elements: Range<Int>, _ transformed: UnsafePointer<Float>,
            _ products: UnsafeMutablePointer<Float>
        ) {
            // All elements of a block, or one of all blocks, are read one after the other.
            let next = elements.count == 36 ? 0 : elements.lowerBound * plan.inputBlockCount * 512
            kernels.winogradProducts(
                WinogradProducts(
                    transformed: transformed, transformedStride: plan.transformedStride,
                    inputBlockCount: plan.inputBlockCount, lastQuads: lastQuads, tileCount: tiles(band),
                    capacity: plan.capacity, weights: product.weights + block * weightBlockFloats,
                    following: block + 1 < outputBlocks
                        ? product.weights + ((block + 1) * weightBlockFloats + next) : nil,
                    blockCount: min(2, output.blocks - block * 2), target: products, targetStride: plan.productStride),
                elements.lowerBound, elements.count)
        }
        /// Stores the pixels of a band and one output block.
        func store(
            _ band: Int, _ block: Int, _ products: UnsafePointer<Float>, _ scratch: UnsafeMutablePointer<Float>
        ) {
            let blockCount = min(2, output.blocks - block * 2)
            let place = block * 2 * stored.blockFloats
            kernels.winogradOutput(
                WinogradOutput(
                    products: products, productStride: plan.productStride, capacity: plan.capacity,
                    tileRows: plan.tileRows, tileColumns: plan.tileColumns, outputHeight: output.height,
                    outputWidth: output.width, isPooled: stored != output, blockCount: blockCount,
                    epilogue: BandEpilogue(
                        output: product.output + place, blockStride: stored.blockFloats,
                        bias: product.bias.map { $0 + block * 32 }, residual: product.residual.map { $0 + place },
                        relu: product.relu, pixelOffsets: nil),
                    scratch: scratch),
                band * plan.capacity, tiles(band))
        }

        guard let memory = product.transformed else {
            parallel(
                plan.bandCount, scratchFloats: scratchFloats + plan.transformedFloats + plan.productFloats
            ) { band, scratch in
                let transformed = scratch + scratchFloats
                transform(band, 0, plan.inputBlockCount, transformed, scratch)
                let products = transformed + plan.transformedFloats
                for block in 0..<outputBlocks {
                    multiply(band, block, 0..<36, transformed, products)
                    store(band, block, products, scratch)
                }
            }
            return
        }
        parallel(plan.bandCount * plan.inputBlockCount, scratchFloats: scratchFloats) { unit, scratch in
            let band = unit / plan.inputBlockCount
            transform(
                band, unit % plan.inputBlockCount, 1, memory + band * plan.transformedFloats, scratch)
        }
        let products = memory + plan.allTransformedFloats
        func place(_ band: Int, _ block: Int) -> UnsafeMutablePointer<Float> {
            products + (band * outputBlocks + block) * plan.productFloats
        }
        // Neighbouring units share one element of a band's tiles, which a cache then holds.
        parallel(plan.bandCount * 36 * outputBlocks) { unit, _ in
            let block = unit % outputBlocks
            let element = unit / outputBlocks % 36
            let band = unit / outputBlocks / 36
            multiply(
                band, block, element..<element + 1, UnsafePointer(memory + band * plan.transformedFloats),
                place(band, block))
        }
        parallel(plan.bandCount * outputBlocks, scratchFloats: scratchFloats) { unit, scratch in
            let band = unit / outputBlocks
            let block = unit % outputBlocks
            store(band, block, UnsafePointer(place(band, block)), scratch)
        }
    }
}

/// How a weight gradient's tiles are cut into chunks whose transforms lie in the workspace: by shape alone.
struct WinogradGradientPlan {
    let tileRows: Int
    let tileColumns: Int
    let tileCount: Int
    let inputBlockCount: Int
    let gradientBlockCount: Int
    /// Tiles of a chunk.
    let capacity: Int
    let chunkCount: Int

    /// Bytes of a chunk's transforms, about: the last-level cache holds them.
    private static let chunkByteCount = 3 << 20
    /// Fewer tiles would read and write the sums too often.
    private static let fewestTiles = 128
    /// Tiles whose gradients and one block of inputs stay in the first-level cache.
    static let productTiles = 96
    /// Tiles that a unit transforms.
    static let transformTiles = 64

    init(_ geometry: ConvolutionGeometry) {
        let output = geometry.output
        tileRows = (output.height + 3) / 4
        tileColumns = (output.width + 3) / 4
        tileCount = output.batch * tileRows * tileColumns
        inputBlockCount = geometry.input.blocks
        gradientBlockCount = output.blocks
        let fitting = max(
            Self.chunkByteCount / (36 * 64 * (inputBlockCount + gradientBlockCount)), Self.fewestTiles)
        chunkCount = max((tileCount + fitting - 1) / fitting, 1)
        capacity = max((tileCount + chunkCount - 1) / chunkCount, 1)
    }

    /// Floats between the 36 transformed planes; odd in cache lines, so that they do not share sets.
    var inputStride: Int { (inputBlockCount * capacity / 2 * 2 + 1) * 16 }
    var gradientStride: Int { (gradientBlockCount * capacity / 2 * 2 + 1) * 16 }
}

extension ConvolutionGeometry {
    /// Floats of the transforms of a chunk and of the 36 sums.
    var winogradWeightGradientWorkspaceFloatCount: Int {
        let plan = WinogradGradientPlan(self)
        return 36 * (plan.inputStride + plan.gradientStride) + WeightBlocking(weight.winograd).elementCount
    }
}

extension InstructionBinding {
    /// `dW = Gᵀ [Σ_tiles (Bᵀ x B) ⊙ (A dY Aᵀ)] G`, the adjoint of the forward pass with respect to the weight.
    mutating func bindWinogradWeightGradient(_ geometry: ConvolutionGeometry) throws(DeviceError) {
        let kernels = kernels
        let x = try input(0)
        let gradient = try input(1)
        let result = try output(0)
        let plan = WinogradGradientPlan(geometry)
        let shape = geometry.input
        let output = geometry.output
        let outputBlocks = WeightBlocking(geometry.weight).outputBlockCount
        let inputBlocks = plan.inputBlockCount
        let inputs = try workspace(floatCount: geometry.winogradWeightGradientWorkspaceFloatCount)
        let gradients = inputs + 36 * plan.inputStride
        let sums = gradients + 36 * plan.gradientStride
        let blocks = inputBlocks + plan.gradientBlockCount
        guard plan.tileCount > 0 else {
            parallelVectors(WeightBlocking(geometry.weight).elementCount / 16) { first, vectors in
                kernels.zero(result + first * 16, vectors)
            }
            return
        }
        for chunk in 0..<plan.chunkCount {
            let start = chunk * plan.capacity
            let count = min(plan.capacity, plan.tileCount - start)
            guard count > 0 else { continue }
            let pieces = (count + WinogradGradientPlan.transformTiles - 1) / WinogradGradientPlan.transformTiles
            parallel(blocks * pieces, scratchFloats: Self.kernelScratchFloats) { unit, scratch in
                let block = unit / pieces
                let first = unit % pieces * WinogradGradientPlan.transformTiles
                let tiles = min(WinogradGradientPlan.transformTiles, count - first)
                if block < inputBlocks {
                    kernels.winogradInput(
                        WinogradTransform(
                            source: x + block * shape.blockFloats, blockStride: shape.blockFloats, blockCount: 1,
                            sourceHeight: shape.height, sourceWidth: shape.width, firstRow: -geometry.paddingHeight,
                            firstColumn: -geometry.paddingWidth, tileRows: plan.tileRows,
                            tileColumns: plan.tileColumns, target: inputs + (block * plan.capacity + first) * 16,
                            productStride: plan.inputStride, capacity: plan.capacity, scratch: scratch),
                        start + first, tiles)
                } else {
                    let block = block - inputBlocks
                    kernels.winogradGradient(
                        WinogradTransform(
                            source: gradient + block * output.blockFloats, blockStride: output.blockFloats,
                            blockCount: 1, sourceHeight: output.height, sourceWidth: output.width, firstRow: 0,
                            firstColumn: 0, tileRows: plan.tileRows, tileColumns: plan.tileColumns,
                            target: gradients + (block * plan.capacity + first) * 16,
                            productStride: plan.gradientStride, capacity: plan.capacity, scratch: scratch),
                        start + first, tiles)
                }
            }
            parallel(36 * outputBlocks) { unit, _ in
                let index = unit / outputBlocks
                let block = unit % outputBlocks
                let left = gradients + (index * plan.gradientStride + block * 2 * plan.capacity * 16)
                let right = block * 2 + 1 < plan.gradientBlockCount ? left + plan.capacity * 16 : nil
                let target = sums + (block * 36 + index) * inputBlocks * 512
                for first in stride(from: 0, to: count, by: WinogradGradientPlan.productTiles) {
                    let product = OuterProduct(
                        rowCount: 1, columnCount: min(WinogradGradientPlan.productTiles, count - first),
                        inputRowStride: 0, inputStep: 16, gradientRowStride: 0, accumulates: chunk > 0 || first > 0,
                        inputChannels: 16)
                    for inputBlock in 0..<inputBlocks {
                        let place = index * plan.inputStride + (inputBlock * plan.capacity + first) * 16
                        kernels.outerProduct(
                            product, inputs + place, left + first * 16, right.map { $0 + first * 16 },
                            target + inputBlock * 512)
                    }
                }
            }
        }
        parallel(outputBlocks * inputBlocks, scratchFloats: Self.kernelScratchFloats) { unit, scratch in
            let block = unit / inputBlocks
            let inputBlock = unit % inputBlocks
            kernels.winogradWeightGradient(
                sums + (block * 36 * inputBlocks + inputBlock) * 512, inputBlocks * 512,
                min(2, plan.gradientBlockCount - block * 2), result + (block * 9 * inputBlocks + inputBlock) * 512,
                inputBlocks * 512, scratch)
        }
    }
}
