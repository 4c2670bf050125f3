#if OpenCL
    import GraftGraph

    /// `winograd_cpu.cl`, where every symbol is explained.
    extension CPUKernelClass {
        private static let file = "winograd_cpu"
        /// Tiles per work-item of a transform.
        private static let tilesPerItem = 8

        /// V and M of one group of tiles: what a usual second-level cache holds.
        private var groupByteCount: Int { vectorWidth == 16 ? 700 << 10 : 400 << 10 }

        private func definitions(_ tile: Int) -> [KernelLaunch.Definition] {
            [.init("VECTOR", vectorWidth), .init("MR", tile)]
        }

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
                [.init("VECTOR", vectorWidth), .init("MR", tilePixels)],
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
                Self.file, "transform_weights", definitions(tilePixels), [weights, transformed],
                global: blocking.inputBlockCount, blocking.outputBlockCount)
            return transformed
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
            let tile = tilePixels(tileCount)
            let output = geometry.output
            let plane = integers(
                geometry.input.height, geometry.input.width, geometry.input.batch * geometry.input.pixelCount,
                output.height, output.width, output.batch * output.pixelCount, geometry.paddingHeight,
                geometry.paddingWidth, perImage.rows, perImage.columns, tileCount)
            let bits = Self.epilogueBits(epilogue, channels: output.channels)
            // An absent operand is replaced by one that is not read in its place.
            let addends = [bias ?? transformed, residual ?? transformed]
            /// Floats of V and M, an odd number of cache lines for each of 36 elements.
            func vFloats(_ tiles: Int) -> Int { 36 * (blocks * tiles | 1) * 16 }
            func mFloats(_ tiles: Int, _ kbs: Int) -> Int { 36 * (kbs * tiles * 32 + 16) }

            // Fewer tiles per group than this would read the transformed weights too often.
            let fewest = vectorWidth == 16 ? tile : 2 * tile
            var groupTiles = groupByteCount / (36 * 4 * (blocks * 16 + 32)) / tile * tile
            if groupTiles >= fewest {
                while groupTiles > fewest, ceilDivide(tileCount, groupTiles) < Self.itemCount / 2 { groupTiles -= tile }
                let groups = ceilDivide(tileCount, groupTiles)
                let kbPerItem = max(kbCount / ceilDivide(Self.itemCount / 4, groups), 1)
                let items = groups * ceilDivide(kbCount, kbPerItem)
                let workers = min(items, slabCount)
                let slab = (vFloats(groupTiles) + mFloats(groupTiles, 1) + 127) / 128 * 128
                plan.launch(
                    Self.file, "winograd", definitions(tile),
                    [.input(0), transformed] + addends
                        + [.output(0), plan.takeWorkspace(floats: workers * slab)] + integers(slab) + plane
                        + integers(bits, output.channels, blocks, kbCount, kbPerItem, items, groups, groupTiles),
                    global: workers)
                return
            }
            let padded = ceilDivide(tileCount, tile) * tile
            let v = plan.takeWorkspace(floats: vFloats(padded))
            let m = plan.takeWorkspace(floats: mFloats(padded, kbCount))
            plan.launch(
                Self.file, "transform_inputs", definitions(tile),
                [.input(0), v] + plane + integers(padded, Self.tilesPerItem),
                global: ceilDivide(padded, Self.tilesPerItem), blocks)
            plan.launch(
                Self.file, "multiply", definitions(tile),
                [v, transformed, m] + integers(blocks, padded, output.channels), global: kbCount, 36)
            plan.launch(
                Self.file, "transform_outputs", definitions(tile),
                [m] + addends + [.output(0)] + plane
                    + integers(bits, output.channels, padded, Self.tilesPerItem),
                global: ceilDivide(tileCount, Self.tilesPerItem), kbCount)
        }
    }
#endif
