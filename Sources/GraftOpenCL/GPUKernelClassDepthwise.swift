#if OpenCL
    import GraftGraph

    /// Depthwise convolutions by `depthwise_gpu.cl`.
    extension GPUKernelClass {
        private static let depthwiseFile = "depthwise_gpu"
        /// Pixels that one group of the weight's gradient sums: 64 for each item.
        private var pixelsPerSplit: Int { 64 * reductionItemCount }

        private func depthwiseSplitCount(_ geometry: ConvolutionGeometry) -> Int {
            max(ceilDivide(geometry.output.batch * geometry.output.pixelCount, pixelsPerSplit), 1)
        }

        func depthwiseWeightGradientWorkspaceByteCount(_ geometry: ConvolutionGeometry) -> Int {
            let splits = depthwiseSplitCount(geometry)
            return splits > 1 ? 4 * splits * geometry.weight.elementCount : 0
        }

        func depthwise(_ geometry: ConvolutionGeometry, _ epilogue: Epilogue) -> [KernelLaunch] {
            // An absent operand is replaced by one that is not read in its place.
            let bias = KernelArgument.input(epilogue.bias ? 2 : 1)
            let residual = KernelArgument.input(epilogue.residual ? (epilogue.bias ? 3 : 2) : 1)
            return [
                elementLaunch(
                    Self.depthwiseFile, "depthwise", count: geometry.output.elementCount,
                    [.input(0), .input(1), bias, residual, .output(0)], integers: window(geometry),
                    definitions: [
                        .init("BIAS", epilogue.bias ? 1 : 0), .init("RESIDUAL", epilogue.residual ? 1 : 0),
                        .init("ACTIVATION", epilogue.activation?.code ?? 0),
                    ])
            ]
        }

        func depthwiseInputGradient(_ geometry: ConvolutionGeometry, addend: Bool) -> [KernelLaunch] {
            [
                elementLaunch(
                    Self.depthwiseFile, "depthwise_input_gradient", count: geometry.input.elementCount,
                    [.input(0), .input(1), .input(addend ? 2 : 1), .output(0)], integers: window(geometry),
                    definitions: [.init("RESIDUAL", addend ? 1 : 0)])
            ]
        }

        func depthwiseWeightGradient(_ geometry: ConvolutionGeometry) -> [KernelLaunch] {
            let splits = depthwiseSplitCount(geometry)
            let count = geometry.weight.elementCount
            let items = reductionItemCount
            let partial = KernelArgument.workspace(
                offset: 0, byteCount: depthwiseWeightGradientWorkspaceByteCount(geometry))
            let definitions: [KernelLaunch.Definition] = [.init("ITEMS", items)]
            var launches = [
                KernelLaunch(
                    file: Self.depthwiseFile, kernel: "depthwise_weight_gradient", definitions: definitions,
                    arguments: [.input(0), .input(1), splits > 1 ? partial : .output(0)]
                        + ([geometry.output.batch * geometry.output.pixelCount] + window(geometry) + [pixelsPerSplit])
                        .map(KernelArgument.integer),
                    globalSize: [count * items, splits], localSize: [items, 1])
            ]
            if splits > 1 {
                launches.append(
                    elementLaunch(
                        Self.depthwiseFile, "depthwise_finish", count: count, [partial, .output(0)],
                        integers: [splits], definitions: definitions))
            }
            return launches
        }

        private func window(_ geometry: ConvolutionGeometry) -> [Int] {
            let output = geometry.output
            return [
                geometry.input.channels, geometry.input.height, geometry.input.width, output.height, output.width,
                geometry.kernelHeight, geometry.kernelWidth, geometry.strideHeight, geometry.strideWidth,
                geometry.paddingHeight, geometry.paddingWidth, geometry.dilationHeight, geometry.dilationWidth,
            ]
        }
    }
#endif
