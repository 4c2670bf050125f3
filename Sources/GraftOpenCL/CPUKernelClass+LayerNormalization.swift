#if OpenCL
    import GraftGraph

    /// `layer_normalization_cpu.cl`.
    extension CPUKernelClass {
        private static let layerFile = "layer_normalization_cpu"

        func layerNormalization(_ shape: ActivationShape, _ epsilon: Float) -> LaunchPlan {
            var plan = LaunchPlan()
            let pixels = shape.batch * shape.pixelCount
            let runPixels = 256
            plan.launch(
                Self.layerFile, "layer_normalization", [],
                [.input(0), .input(1), .input(2), .output(0)] + integers(pixels, runPixels, shape.channels)
                    + [.float32(epsilon)],
                global: ceilDivide(pixels, runPixels))
            return plan
        }

        func layerNormalizationGradient(_ shape: ActivationShape, _ epsilon: Float) -> LaunchPlan {
            var plan = LaunchPlan()
            let pixels = shape.batch * shape.pixelCount
            // Whole runs of 16 pixels.
            let splitPixels = max(ceilDivide(ceilDivide(pixels, Self.itemCount), 16) * 16, 16)
            let splits = max(ceilDivide(pixels, splitPixels), 1)
            let vectorBlocks = ceilDivide(shape.channels, ChannelBlockedLayout.outputBlock) * 2
            let partial = plan.takeWorkspace(floats: splits * 2 * vectorBlocks * 16)
            plan.launch(
                Self.layerFile, "layer_normalization_gradient", [],
                [.input(0), .input(1), .input(2), .output(0), partial]
                    + integers(pixels, splitPixels, shape.channels, vectorBlocks) + [.float32(epsilon)],
                global: splits)
            plan.launch(
                Self.layerFile, "layer_normalization_sums", [],
                [partial, .output(1), .output(2)] + integers(splits), global: vectorBlocks, 2)
            return plan
        }

        func layerScale(_ shape: ActivationShape) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.layerFile, "layer_scale", [], [.input(0), .input(1), .output(0)] + integers(shape.pixelCount),
                global: shape.batch, ChannelBlockedLayout.blockCount(shape.channels))
            return plan
        }

        func layerScaleGradient(_ shape: ActivationShape) -> LaunchPlan {
            var plan = LaunchPlan()
            let blocks = ChannelBlockedLayout.blockCount(shape.channels)
            let sums = plan.takeWorkspace(floats: blocks * shape.batch * 16)
            // By image first, as for factors per image.
            plan.launch(
                "elementwise_cpu", "channel_scale_gradient", [],
                [.input(0), .input(1), sums] + integers(shape.pixelCount), global: shape.batch, blocks)
            plan.launch(
                Self.layerFile, "layer_scale_sum", [], [sums, .output(0)] + integers(shape.batch, blocks),
                global: ceilDivide(shape.channels, ChannelBlockedLayout.outputBlock) * 2)
            return plan
        }
    }
#endif
