#if OpenCL
    import GraftGraph

    /// `pooling_cpu.cl`: one work-item per row of the result and channel block.
    extension CPUKernelClass {
        private static let file = "pooling_cpu"

        private func rows(_ shape: ActivationShape) -> Int { shape.batch * shape.height }

        private func window(_ geometry: PoolingGeometry) -> [KernelArgument] {
            let output = geometry.output
            return integers(
                geometry.input.height, geometry.input.width, output.height, output.width, geometry.kernelHeight,
                geometry.kernelWidth, geometry.strideHeight, geometry.strideWidth, geometry.paddingHeight,
                geometry.paddingWidth)
        }

        func maxPooling(_ geometry: PoolingGeometry, indices: Bool) -> LaunchPlan {
            var plan = LaunchPlan()
            let isUnrolled =
                geometry.kernelHeight == geometry.kernelWidth && geometry.dilation == 1
                && (2...3).contains(geometry.kernelHeight)
            plan.launch(
                Self.file, "max_pooling",
                [.init("INDICES", indices ? 1 : 0), .init("KERNEL", isUnrolled ? geometry.kernelHeight : 0)],
                [.input(0), .output(0)] + (indices ? [.output(1)] : []) + integers(geometry.input.channels)
                    + window(geometry) + integers(geometry.dilation),
                global: rows(geometry.output), ChannelBlockedLayout.blockCount(geometry.input.channels))
            return plan
        }

        func maxPoolingGradient(_ geometry: PoolingGeometry) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "max_pooling_gradient", [],
                [.input(0), .input(1), .output(0)] + window(geometry) + integers(geometry.dilation),
                global: rows(geometry.input), ChannelBlockedLayout.blockCount(geometry.input.channels))
            return plan
        }

        func averagePooling(_ geometry: PoolingGeometry) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "average_pooling", [],
                [.input(0), .output(0)] + window(geometry) + integers(geometry.countsPadding ? 1 : 0),
                global: rows(geometry.output), ChannelBlockedLayout.blockCount(geometry.input.channels))
            return plan
        }

        func averagePoolingGradient(_ geometry: PoolingGeometry) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "average_pooling_gradient", [],
                [.input(0), .output(0)] + window(geometry) + integers(geometry.countsPadding ? 1 : 0),
                global: rows(geometry.input), ChannelBlockedLayout.blockCount(geometry.input.channels))
            return plan
        }

        func adaptiveAveragePooling(_ shape: ActivationShape, _ height: Int, _ width: Int) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "adaptive_average_pooling", [],
                [.input(0), .output(0)] + integers(shape.height, shape.width, height, width),
                global: shape.batch * height, ChannelBlockedLayout.blockCount(shape.channels))
            return plan
        }

        func adaptiveAveragePoolingGradient(_ shape: ActivationShape, _ height: Int, _ width: Int) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "adaptive_average_pooling_gradient", [],
                [.input(0), .output(0)] + integers(shape.height, shape.width, height, width),
                global: rows(shape), ChannelBlockedLayout.blockCount(shape.channels))
            return plan
        }
    }
#endif
