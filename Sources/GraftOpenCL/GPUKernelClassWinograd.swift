#if OpenCL
    import GraftGraph

    /// `winograd_gpu.cl` and `winograd_weight_gradient_gpu.cl`, where every symbol is explained.
    struct WinogradPlan {
        private static let file = "winograd_gpu"
        /// Of the convolution that is computed: the transposed one for an input gradient.
        let geometry: ConvolutionGeometry
        private let tile: GEMMTile
        private let groupItems: Int
        /// Output channels, rounded up to whole vectors.
        private let rows: Int
        private let tileCount: Int
        private let tilesPerRun: Int

        private init(_ geometry: ConvolutionGeometry, _ kernels: GPUKernelClass) {
            self.geometry = geometry
            let output = geometry.output
            rows = geometry.outputChannels.roundedUp(to: 4)
            tile = kernels.tiles[Self.place(rows: geometry.outputChannels)]
            groupItems = min(64, kernels.device.maximumWorkGroupSize)
            let perImage = geometry.winogradTileCount
            tileCount = output.batch * perImage.rows * perImage.columns
            let most = kernels.winogradRunByteCount / (36 * 4 * (geometry.input.channels + rows))
            tilesPerRun = min(most >= 128 ? most / 128 * 128 : 32, tileCount.roundedUp(to: 4))
        }

        static func forwardPlace(_ geometry: ConvolutionGeometry) -> TilePlace { place(rows: geometry.outputChannels) }

        static func inputGradientPlace(_ geometry: ConvolutionGeometry) -> TilePlace {
            place(rows: geometry.input.channels)
        }

        private static func place(rows: Int) -> TilePlace {
            TilePlace(.winograd, rows <= 32 ? .rows32 : rows <= 64 ? .rows64 : .many, .pointwise)
        }

        /// Inputs: x, weight, then bias and residual as the epilogue says.
        static func forward(
            _ geometry: ConvolutionGeometry, _ epilogue: Epilogue, _ kernels: GPUKernelClass
        ) -> LaunchPlan {
            let winograd = WinogradPlan(geometry, kernels)
            var plan = LaunchPlan()
            var transformed = KernelArgument.input(1)
            if geometry.method == .winograd {
                let channels = geometry.input.channels
                transformed = winograd.appendTransform(
                    rowStride: 9 * channels, channelStride: 1, tapStride: channels, isRotated: false, to: &plan)
            }
            winograd.append(
                transformed, bias: epilogue.bias ? .input(2) : nil,
                residual: epilogue.residual ? .input(epilogue.bias ? 3 : 2) : nil, epilogue, to: &plan)
            return plan
        }

        /// Inputs: dy, weight, then the addend: the convolution of dy with the rotated, transposed weight.
        static func inputGradient(
            _ geometry: ConvolutionGeometry, addend: Bool, _ kernels: GPUKernelClass
        ) -> LaunchPlan {
            let channels = geometry.input.channels
            let transpose = ConvolutionGeometry(
                input: geometry.output, outputChannels: channels, kernelHeight: 3, kernelWidth: 3,
                paddingHeight: 2 - geometry.paddingHeight, paddingWidth: 2 - geometry.paddingWidth)
            let winograd = WinogradPlan(transpose, kernels)
            var plan = LaunchPlan()
            let transformed = winograd.appendTransform(
                rowStride: 1, channelStride: 9 * channels, tapStride: channels, isRotated: true, to: &plan)
            winograd.append(
                transformed, bias: nil, residual: addend ? .input(2) : nil, Epilogue(residual: addend), to: &plan)
            return plan
        }

        /// Inputs: x, dy.
        static func weightGradient(_ geometry: ConvolutionGeometry, _ kernels: GPUKernelClass) -> LaunchPlan {
            let winograd = WinogradPlan(geometry, kernels)
            var plan = LaunchPlan()
            winograd.appendWeightGradient(kernels.tiles[weightGradientPlace(geometry)], to: &plan)
            return plan
        }

        /// Whether there are tiles enough to pay for dU.
        static func paysForWeightGradient(_ geometry: ConvolutionGeometry) -> Bool {
            let perImage = geometry.winogradTileCount
            return geometry.input.batch * perImage.rows * perImage.columns >= 32
        }

        static func weightGradientPlace(_ geometry: ConvolutionGeometry) -> TilePlace {
            let (rows, columns) = (geometry.outputChannels, geometry.input.channels)
            return TilePlace(
                .winogradWeightGradient, rows <= 32 || columns <= 32 ? .rows32 : rows <= 64 ? .rows64 : .many,
                .pointwise)
        }

        private func appendWeightGradient(_ products: GEMMTile, to plan: inout LaunchPlan) {
            let (input, output) = (geometry.input, geometry.output)
            let tilesPerImage = geometry.winogradTileCount
            // Fixed by shape, whatever the tile.
            let groups = 36 * ceilDivide(output.channels, 64) * ceilDivide(input.channels, 64)
            let wanted = max(min(ceilDivide(ReductionChunks.groupTarget, groups), tilesPerRun / 128), 1)
            let tilesPerSplit = ceilDivide(tilesPerRun, wanted).roundedUp(to: 32)
            let splitCount = ceilDivide(tilesPerRun, tilesPerSplit)
            let v = plan.takeWorkspace(floats: 36 * input.channels * tilesPerRun)
            let d = plan.takeWorkspace(floats: 36 * output.channels * tilesPerRun)
            let sums = plan.takeWorkspace(floats: splitCount * 36 * output.channels * input.channels)
            let file = "winograd_weight_gradient_gpu"
            for first in stride(from: 0, to: tileCount, by: tilesPerRun) {
                let count = min(tilesPerRun, tileCount - first)
                let pitch = count.roundedUp(to: 4)
                appendInputTransform(first: first, count: count, to: v, &plan)
                plan.launches.append(
                    launch(
                        "transform_output_gradients", [.input(1), d],
                        [
                            output.channels, output.height, output.width, tilesPerImage.rows, tilesPerImage.columns,
                            first, count, pitch,
                        ], count: pitch, channels: output.channels, file: file, definitions: products.definitions))
                let groups = ceilDivide(output.channels, products.rows) * ceilDivide(input.channels, products.columns)
                plan.launches.append(
                    KernelLaunch(
                        file: file, kernel: "weight_products", definitions: products.definitions,
                        arguments: [d, v, sums]
                            + [output.channels, input.channels, pitch, tilesPerSplit, first == 0 ? 1 : 0]
                            .map(KernelArgument.integer),
                        globalSize: [groups * products.itemCount, 36, splitCount],
                        localSize: [products.itemCount, 1, 1]))
            }
            plan.launches.append(
                launch(
                    "weight_gradients", [sums, .output(0)], [output.channels, input.channels, splitCount],
                    count: input.channels, channels: output.channels, file: file, definitions: products.definitions))
        }

        private func appendInputTransform(
            first: Int, count: Int, to v: KernelArgument, _ plan: inout LaunchPlan
        ) {
            let input = geometry.input
            let tilesPerImage = geometry.winogradTileCount
            let pitch = count.roundedUp(to: 4)
            plan.launches.append(
                launch(
                    "transform_inputs", [.input(0), v],
                    [
                        input.channels, input.height, input.width, geometry.paddingHeight, geometry.paddingWidth,
                        tilesPerImage.rows, tilesPerImage.columns, first, count, pitch,
                    ], count: pitch, channels: input.channels))
        }

        private func appendTransform(
            rowStride: Int, channelStride: Int, tapStride: Int, isRotated: Bool, to plan: inout LaunchPlan
        ) -> KernelArgument {
            let channels = geometry.input.channels
            let transformed = plan.takeWorkspace(floats: 36 * channels * rows)
            plan.launches.append(
                launch(
                    "transform_weights", [.input(1), transformed],
                    [
                        geometry.outputChannels, rows, channels, rowStride, channelStride, tapStride,
                        isRotated ? 1 : 0,
                    ], count: rows, channels: channels))
            return transformed
        }

        private func append(
            _ transformed: KernelArgument, bias: KernelArgument?, residual: KernelArgument?, _ epilogue: Epilogue,
            to plan: inout LaunchPlan
        ) {
            let (input, output) = (geometry.input, geometry.output)
            let tilesPerImage = geometry.winogradTileCount
            let v = plan.takeWorkspace(floats: 36 * input.channels * tilesPerRun)
            let m = plan.takeWorkspace(floats: 36 * rows * tilesPerRun)
            let bits =
                (epilogue.bias ? 1 : 0) | (epilogue.residual ? 2 : 0) | (epilogue.relu ? 4 : 0)
                | (output.width % 4 == 0 ? 8 : 0)
            for first in stride(from: 0, to: tileCount, by: tilesPerRun) {
                let count = min(tilesPerRun, tileCount - first)
                let pitch = count.roundedUp(to: 4)
                appendInputTransform(first: first, count: count, to: v, &plan)
                let groups = ceilDivide(rows, tile.rows) * ceilDivide(pitch, tile.columns)
                plan.launches.append(
                    KernelLaunch(
                        file: Self.file, kernel: "multiply", definitions: tile.definitions,
                        arguments: [transformed, v, m] + [input.channels, rows, pitch].map(KernelArgument.integer),
                        globalSize: [groups * tile.itemCount, 36, 1], localSize: [tile.itemCount, 1, 1]))
                // An absent operand is replaced by one that is not read in its place.
                plan.launches.append(
                    launch(
                        "transform_outputs", [m, bias ?? transformed, residual ?? transformed, .output(0)],
                        [
                            bits, output.channels, output.height, output.width, tilesPerImage.rows,
                            tilesPerImage.columns, first, count, rows, pitch,
                        ], count: count, channels: output.channels))
            }
        }

        /// A transform: one item per place of the first extent, along which memory runs, and channel.
        private func launch(
            _ kernel: String, _ buffers: [KernelArgument], _ integers: [Int], count: Int, channels: Int,
            file: String = Self.file, definitions: [KernelLaunch.Definition]? = nil
        ) -> KernelLaunch {
            KernelLaunch(
                file: file, kernel: kernel, definitions: definitions ?? tile.definitions,
                arguments: buffers + integers.map(KernelArgument.integer),
                globalSize: [count.roundedUp(to: groupItems), channels], localSize: [groupItems, 1])
        }

        // MARK: Transformed weights

        /// Bytes of U.
        static func byteCount(_ weight: WeightShape) -> Int {
            4 * 36 * weight.inputChannels * weight.outputChannels.roundedUp(to: 4)
        }

        /// `[K, C, 3, 3]` → U.
        static func pack(_ values: [Float], _ weight: WeightShape) -> [Float] {
            let (channels, count) = (weight.inputChannels, weight.outputChannels)
            let rows = count.roundedUp(to: 4)
            let transformed = Winograd.transform(weight: values)
            var result = [Float](repeating: 0, count: 36 * channels * rows)
            for row in 0..<count {
                for channel in 0..<channels {
                    for element in 0..<36 {
                        result[(element * channels + channel) * rows + row] =
                            transformed[(row * channels + channel) * 36 + element]
                    }
                }
            }
            return result
        }

        /// U → `[K, C, 3, 3]`, to rounding.
        static func unpack(_ values: [Float], _ weight: WeightShape) -> [Float] {
            let (channels, count) = (weight.inputChannels, weight.outputChannels)
            let rows = count.roundedUp(to: 4)
            var transformed = [Float](repeating: 0, count: 36 * channels * count)
            for row in 0..<count {
                for channel in 0..<channels {
                    for element in 0..<36 {
                        transformed[(row * channels + channel) * 36 + element] =
                            values[(element * channels + channel) * rows + row]
                    }
                }
            }
            return Winograd.weight(transformed: transformed)
        }
    }
#endif
