#if OpenCL
    import GraftGraph

    /// `depthwise_cpu.cl`, where every symbol is explained.
    extension CPUKernelClass {
        private static let depthwiseFile = "depthwise_cpu"

        func depthwise(_ geometry: ConvolutionGeometry, _ epilogue: Epilogue) -> LaunchPlan {
            var plan = LaunchPlan()
            var next = 2
            func operand(_ exists: Bool) -> KernelArgument {
                guard exists else { return .input(1) }
                next += 1
                return .input(next - 1)
            }
            let operands: [KernelArgument] = [
                .input(0), .input(1), operand(epilogue.bias), operand(epilogue.residual), .output(0),
            ]
            append(
                geometry, operands, source: geometry.input, output: geometry.output,
                vertical: DepthwiseAxis(
                    grid: geometry.output.height, stride: geometry.strideHeight, offset: -geometry.paddingHeight,
                    step: geometry.dilationHeight, count: geometry.kernelHeight),
                horizontal: DepthwiseAxis(
                    grid: geometry.output.width, stride: geometry.strideWidth, offset: -geometry.paddingWidth,
                    step: geometry.dilationWidth, count: geometry.kernelWidth), epilogue, to: &plan)
            return plan
        }

        func depthwiseInputGradient(_ geometry: ConvolutionGeometry, addend: Bool) -> LaunchPlan {
            var plan = LaunchPlan()
            let input = geometry.input
            for phaseHeight in 0..<geometry.strideHeight {
                let rows = Taps(
                    phase: phaseHeight, stride: geometry.strideHeight, padding: geometry.paddingHeight,
                    dilation: geometry.dilationHeight, kernel: geometry.kernelHeight, extent: input.height)
                for phaseWidth in 0..<geometry.strideWidth {
                    let columns = Taps(
                        phase: phaseWidth, stride: geometry.strideWidth, padding: geometry.paddingWidth,
                        dilation: geometry.dilationWidth, kernel: geometry.kernelWidth, extent: input.width)
                    append(
                        geometry, [.input(0), .input(1), .input(1), .input(addend ? 2 : 1), .output(0)],
                        source: geometry.output, output: input,
                        vertical: DepthwiseAxis(rows, phase: phaseHeight, scatter: geometry.strideHeight),
                        horizontal: DepthwiseAxis(columns, phase: phaseWidth, scatter: geometry.strideWidth),
                        Epilogue(residual: addend), to: &plan)
                }
            }
            return plan
        }

        /// One direction of a launch.
        private struct DepthwiseAxis {
            /// Positions computed; position i is written to `i · scatter + phase`.
            var grid: Int
            var scatter = 1
            var phase = 0
            /// Position i, tap j reads `i · stride + offset + j · step`.
            var stride: Int
            var offset: Int
            var step: Int
            var count: Int
            /// Tap j is place `firstPlace + j · placeStep` of the kernel.
            var firstPlace = 0
            var placeStep = 1

            init(grid: Int, stride: Int, offset: Int, step: Int, count: Int) {
                self.grid = grid
                self.stride = stride
                self.offset = offset
                self.step = step
                self.count = count
            }

            init(_ taps: Taps, phase: Int, scatter: Int) {
                self.init(grid: taps.positions, stride: 1, offset: taps.offset, step: taps.step, count: taps.count)
                self.scatter = scatter
                self.phase = phase
                firstPlace = taps.first
                placeStep = taps.tapStep
            }

            /// Positions whose taps all exist in an extent.
            func inner(_ extent: Int) -> Range<Int> {
                let exist = (0..<grid).filter { position in
                    (0..<count).allSatisfy { (0..<extent).contains(position * stride + offset + $0 * step) }
                }
                return (exist.first ?? 0)..<((exist.last ?? -1) + 1)
            }
        }

        /// `operands`: x, w, bias, residual, y; an absent one is replaced by w, which is not read in its place.
        private func append(
            _ geometry: ConvolutionGeometry, _ operands: [KernelArgument], source: ActivationShape,
            output: ActivationShape, vertical: DepthwiseAxis, horizontal: DepthwiseAxis, _ epilogue: Epilogue,
            to plan: inout LaunchPlan
        ) {
            guard vertical.grid > 0, horizontal.grid > 0 else { return }
            var definitions: [KernelLaunch.Definition] = [.init("VECTOR", vectorWidth)]
            if let activation = epilogue.furtherActivation { definitions.append(.init("ACTIVATION", activation.code)) }
            let rowCount = source.batch * vertical.grid
            // Some thousand pixels per item, and enough items for every thread.
            let blocks = ChannelBlockedLayout.blockCount(source.channels)
            let most = max(1, ceilDivide(rowCount * blocks, Self.itemCount))
            let runRows = min(max(1024 / horizontal.grid, 1), most)
            let inner = horizontal.inner(source.width)
            let columns = vertical.count > 0 ? horizontal.count : 0
            plan.launch(
                Self.depthwiseFile, "depthwise", definitions,
                operands
                    + integers(
                        source.height, source.width, vertical.grid, horizontal.grid, vertical.stride,
                        horizontal.stride, vertical.offset, horizontal.offset, vertical.step, horizontal.step,
                        vertical.count, columns,
                        vertical.firstPlace * geometry.kernelWidth + horizontal.firstPlace,
                        vertical.placeStep * geometry.kernelWidth, horizontal.placeStep,
                        geometry.kernelHeight * geometry.kernelWidth)
                    + integers(
                        output.height, output.width, vertical.scatter, horizontal.scatter, vertical.phase,
                        horizontal.phase, Self.epilogueBits(epilogue, channels: 16), source.channels,
                        inner.lowerBound, inner.upperBound, rowCount, runRows),
                global: ceilDivide(rowCount, runRows), blocks)
        }

        func depthwiseWeightGradient(_ geometry: ConvolutionGeometry) -> LaunchPlan {
            var plan = LaunchPlan()
            let output = geometry.output
            let rowCount = output.batch * output.height
            let blocks = ChannelBlockedLayout.blockCount(output.channels)
            let count = WeightBlocking(geometry.weight).elementCount
            // Splits of at least 256 pixels.
            let wanted = min(
                ceilDivide(Self.itemCount, blocks), max(output.batch * output.pixelCount / 256, 1), max(rowCount, 1))
            let rowsPerSplit = max(ceilDivide(rowCount, wanted), 1)
            let splits = max(ceilDivide(rowCount, rowsPerSplit), 1)
            let partial = splits > 1 ? plan.takeWorkspace(floats: splits * count) : .output(0)
            let definitions: [KernelLaunch.Definition] = [.init("VECTOR", vectorWidth)]
            plan.launch(
                Self.depthwiseFile, "depthwise_weight_gradient", definitions,
                [.input(0), .input(1), partial]
                    + integers(
                        geometry.input.height, geometry.input.width, output.height, output.width,
                        geometry.strideHeight, geometry.strideWidth, geometry.paddingHeight, geometry.paddingWidth,
                        geometry.dilationHeight, geometry.dilationWidth, geometry.kernelHeight, geometry.kernelWidth,
                        rowCount, rowsPerSplit, max(512 / max(output.width, 1), 1)),
                global: splits, blocks)
            if splits > 1 {
                plan.launch(
                    Self.depthwiseFile, "depthwise_sum", definitions, [partial, .output(0)] + integers(splits),
                    global: count / 16)
            }
            return plan
        }
    }
#endif
