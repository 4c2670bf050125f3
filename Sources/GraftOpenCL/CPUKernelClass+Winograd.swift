#if OpenCL
    import GraftGraph

    /// `winograd_cpu.cl`, where every symbol is explained.
    extension CPUKernelClass {
        private static let file = "winograd_cpu"
        /// Tiles per work-item of a transform.
        private static let tilesPerItem = 8

        /// V and M of one group of tiles: what a usual second-level cache holds.
        private var groupByteCount: Int { vectorWidth == 16 ? 700 << 10 : 400 << 10 }
        /// Transformed weights that are read again for every group: what a share of the last-level cache holds.
        private static let groupWeightByteCount = 3 << 20

        /// Of the epilogue's bits: windows of 2×2 are stored.
        private static let pooledBit = 16

        /// V and M of one chunk of tiles in three kernels.
        private static let chunkByteCount = 20 << 20

        func winogradConvolution(_ geometry: ConvolutionGeometry, _ epilogue: Epilogue) -> LaunchPlan {
            var plan = LaunchPlan()
            var transformed = KernelArgument.input(1)
            if geometry.method == .winograd { transformed = appendTransform(.input(1), geometry.weight, to: &plan) }
            append(
                geometry, transformed, bias: epilogue.bias ? .input(2) : nil,
                residual: epilogue.residual ? .input(epilogue.bias ? 3 : 2) : nil, epilogue, to: &plan)
            return plan
        }

        /// The convolution of dy with the rotated, transposed weight, padded by what the kernel's extent leaves.
        func winogradInputGradient(_ geometry: ConvolutionGeometry, addend: Bool) -> LaunchPlan {
            var plan = LaunchPlan()
            let transpose = ConvolutionGeometry(
                input: geometry.output, outputChannels: geometry.input.channels, kernelHeight: 3, kernelWidth: 3,
                paddingHeight: 2 - geometry.paddingHeight, paddingWidth: 2 - geometry.paddingWidth)
            let blocking = WeightBlocking(transpose.weight)
            let weights = plan.takeWorkspace(floats: blocking.elementCount)
            plan.launch(
                Self.convolutionFile, "transpose_weights",
                tileDefinitions(tilePixels),
                [.input(1), weights]
                    + integers(
                        geometry.outputChannels, geometry.input.channels, 1, 3, 3,
                        WeightBlocking(geometry.weight).inputBlockCount, blocking.inputBlockCount, 2, -1, 2, -1, 3),
                global: blocking.inputBlockCount * 9, blocking.outputBlockCount)
            let transformed = appendTransform(weights, transpose.weight, to: &plan)
            append(
                transpose, transformed, bias: nil, residual: addend ? .input(2) : nil, Epilogue(residual: addend),
                to: &plan)
            return plan
        }

        private func appendTransform(
            _ weights: KernelArgument, _ shape: WeightShape, to plan: inout LaunchPlan
        ) -> KernelArgument {
            let blocking = WeightBlocking(shape.winograd)
            let transformed = plan.takeWorkspace(floats: blocking.elementCount)
            plan.launch(
                Self.file, "transform_weights", tileDefinitions(tilePixels), [weights, transformed],
                global: blocking.inputBlockCount, blocking.outputBlockCount)
            return transformed
        }

        /// Floats of V, and of M or D: an odd number of cache lines for each of 36 elements.
        private static func vFloats(_ blocks: Int, _ tiles: Int) -> Int { 36 * (blocks * tiles | 1) * 16 }
        private static func mFloats(_ kbCount: Int, _ tiles: Int) -> Int { 36 * (kbCount * tiles * 32 + 16) }

        /// `stored`: what lies in memory of the result where that is pooled.
        private static func plane(
            _ geometry: ConvolutionGeometry, stored: ActivationShape? = nil
        ) -> [KernelArgument] {
            let output = geometry.output
            let stored = stored ?? output
            let perImage = geometry.winogradTileCount
            return integers(
                geometry.input.height, geometry.input.width, geometry.input.batch * geometry.input.pixelCount,
                output.height, output.width, stored.batch * stored.pixelCount, geometry.paddingHeight,
                geometry.paddingWidth, perImage.rows, perImage.columns, output.batch * perImage.rows * perImage.columns)
        }

        /// Whether the gradient of the weights is summed by the transforms: enough tiles to pay for dU.
        func usesWinogradWeightGradient(_ geometry: ConvolutionGeometry) -> Bool {
            let perImage = geometry.winogradTileCount
            return geometry.method == .winograd && geometry.input.batch * perImage.rows * perImage.columns >= 32
        }

        func winogradWeightGradient(_ geometry: ConvolutionGeometry) -> LaunchPlan {
            var plan = LaunchPlan()
            let blocking = WeightBlocking(geometry.weight)
            let blocks = blocking.inputBlockCount
            let kbCount = blocking.outputBlockCount
            let perImage = geometry.winogradTileCount
            let tilesPerImage = perImage.rows * perImage.columns
            let batch = geometry.input.batch
            // Whole images with this many tiles: V and D stay in the last-level cache, dU is added to seldom.
            let imagesPerChunk = min(max(192 / tilesPerImage, 1), batch)
            let v = plan.takeWorkspace(floats: Self.vFloats(blocks, imagesPerChunk * tilesPerImage))
            let d = plan.takeWorkspace(floats: Self.mFloats(kbCount, imagesPerChunk * tilesPerImage))
            let sums = plan.takeWorkspace(floats: kbCount * 36 * (blocks * 512 + 16))
            let plane = Self.plane(geometry)
            for image in stride(from: 0, to: batch, by: imagesPerChunk) {
                let first = image * tilesPerImage
                let tiles = min(imagesPerChunk, batch - image) * tilesPerImage
                plan.launch(
                    Self.file, "transform_inputs", tileDefinitions(tilePixels),
                    [.input(0), v] + plane + integers(first, tiles, Self.tilesPerItem),
                    global: ceilDivide(tiles, Self.tilesPerItem), blocks)
                plan.launch(
                    Self.file, "transform_output_gradients", tileDefinitions(tilePixels),
                    [.input(1), d] + plane
                        + integers(geometry.outputChannels, first, tiles, Self.tilesPerItem),
                    global: ceilDivide(tiles, Self.tilesPerItem), kbCount)
                plan.launch(
                    Self.file, "weight_products", tileDefinitions(tilePixels),
                    [v, d, sums] + integers(blocks, tiles, image == 0 ? 1 : 0), global: kbCount, 36)
            }
            plan.launch(
                Self.file, "weight_gradients", tileDefinitions(tilePixels), [sums, .output(0)], global: blocks, kbCount)
            return plan
        }

        private func append(
            _ geometry: ConvolutionGeometry, _ transformed: KernelArgument, bias: KernelArgument?,
            residual: KernelArgument?, _ epilogue: Epilogue, to plan: inout LaunchPlan
        ) {
            let blocking = WeightBlocking(geometry.weight)
            let blocks = blocking.inputBlockCount
            let kbCount = blocking.outputBlockCount
            let perImage = geometry.winogradTileCount
            let tileCount = geometry.input.batch * perImage.rows * perImage.columns
            // One size where tiles are small anyway: each is a program.
            let tile = vectorWidth == 16 ? tilePixels(tileCount) : tilePixels
            let output = geometry.output
            let plane = Self.plane(geometry, stored: epilogue.maxPooling?.output)
            let bits =
                Self.epilogueBits(epilogue, channels: output.channels)
                | (epilogue.maxPooling == nil ? 0 : Self.pooledBit)
            // An absent operand is replaced by one that is not read in its place.
            let addends = [bias ?? transformed, residual ?? transformed]
            // Fewer tiles per group than this would read the transformed weights too often.
            let fewest = vectorWidth == 16 ? tile : 2 * tile
            var groupTiles = groupByteCount / (36 * 4 * (blocks * 16 + 32)) / tile * tile
            if groupTiles >= fewest,
                4 * WeightBlocking(geometry.weight.winograd).elementCount <= Self.groupWeightByteCount
            {
                while groupTiles > fewest, ceilDivide(tileCount, groupTiles) < Self.itemCount / 2 { groupTiles -= tile }
                let groups = ceilDivide(tileCount, groupTiles)
                let kbPerItem = evenShare(
                    of: kbCount, atMost: max(kbCount / ceilDivide(Self.itemCount / 4, groups), 1))
                let items = groups * ceilDivide(kbCount, kbPerItem)
                let workers = min(items, slabCount)
                let slab = (Self.vFloats(blocks, groupTiles) + Self.mFloats(1, groupTiles) + 127) / 128 * 128
                plan.launch(
                    Self.file, "winograd", tileDefinitions(tile),
                    [.input(0), transformed] + addends
                        + [.output(0), plan.takeWorkspace(floats: workers * slab)] + integers(slab) + plane
                        + integers(bits, output.channels, blocks, kbCount, kbPerItem, items, groups, groupTiles),
                    global: workers)
                return
            }
            // Chunks of tiles whose V and M a last-level cache has room for, no smaller than the weights that each reads.
            let weightByteCount = 4 * WeightBlocking(geometry.weight.winograd).elementCount
            let tileByteCount = 36 * 4 * (blocks * 16 + kbCount * 32)
            let most = max(max(Self.chunkByteCount, weightByteCount) / tileByteCount / tile, 1) * tile
            let chunk = ceilDivide(evenShare(of: tileCount, atMost: most), tile) * tile
            let v = plan.takeWorkspace(floats: Self.vFloats(blocks, chunk))
            let m = plan.takeWorkspace(floats: Self.mFloats(kbCount, chunk))
            for first in stride(from: 0, to: tileCount, by: chunk) {
                let tiles = min(chunk, tileCount - first)
                let padded = ceilDivide(tiles, tile) * tile
                plan.launch(
                    Self.file, "transform_inputs", tileDefinitions(tile),
                    [.input(0), v] + plane + integers(first, padded, Self.tilesPerItem),
                    global: ceilDivide(padded, Self.tilesPerItem), blocks)
                plan.launch(
                    Self.file, "multiply", tileDefinitions(tile),
                    [v, transformed, m] + integers(blocks, padded, output.channels), global: kbCount, 36)
                plan.launch(
                    Self.file, "transform_outputs", tileDefinitions(tile),
                    [m] + addends + [.output(0)] + plane
                        + integers(bits, output.channels, first, tiles, padded, Self.tilesPerItem),
                    global: ceilDivide(tiles, Self.tilesPerItem), kbCount)
            }
        }
    }
#endif
