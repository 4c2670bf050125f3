#if OpenCL
    import GraftGraph

    /// `batch_normalization_cpu.cl`.
    extension CPUKernelClass {
        private static let file = "batch_normalization_cpu"

        /// How the pixels of one channel block are cut, and how many blocks there are in activations and in vectors.
        private struct Segments {
            let pixels: Int
            let segmentPixels: Int
            let count: Int
            let blocks: Int
            /// Channel vectors are padded to 32.
            let vectorBlocks: Int

            init(_ shape: ActivationShape) {
                pixels = shape.batch * shape.pixelCount
                segmentPixels = max(1024, ceilDivide(pixels, 256))
                count = ceilDivide(pixels, segmentPixels)
                blocks = ChannelBlockedLayout.blockCount(shape.channels)
                vectorBlocks = ceilDivide(shape.channels, ChannelBlockedLayout.outputBlock) * 2
            }
        }

        private func definitions(_ epilogue: Epilogue, isTraining: Bool) -> [KernelLaunch.Definition] {
            [
                .init("TRAINING", isTraining ? 1 : 0), .init("RESIDUAL", epilogue.residual ? 1 : 0),
                .init("RELU", epilogue.relu ? 1 : 0), .init("ACTIVATION", epilogue.furtherActivation?.code ?? 0),
            ]
        }

        func batchNormalizationTraining(
            _ shape: ActivationShape, _ epsilon: Float, _ momentum: Float, _ epilogue: Epilogue
        ) -> LaunchPlan {
            var plan = LaunchPlan()
            let segments = Segments(shape)
            let partial = plan.takeWorkspace(floats: segments.blocks * segments.count * 32)
            plan.launch(
                Self.file, "statistics", [],
                [.input(0), partial] + integers(segments.pixels, segments.segmentPixels),
                global: segments.count, segments.blocks)
            plan.launch(
                Self.file, "combine_statistics", [],
                [.input(0), partial, .input(3), .input(4), .output(1), .output(2), .output(3), .output(4)]
                    + integers(segments.pixels, segments.segmentPixels, segments.count, shape.channels)
                    + [.float32(epsilon), .float32(momentum)],
                global: segments.vectorBlocks)
            normalize(shape, epilogue, statistics: [.output(1), .output(2)], to: &plan)
            return plan
        }

        func batchNormalizationReplay(_ shape: ActivationShape, _ epilogue: Epilogue) -> LaunchPlan {
            var plan = LaunchPlan()
            normalize(shape, epilogue, statistics: [.input(3), .input(4)], to: &plan)
            return plan
        }

        /// y from x, gamma, beta and `[mean, 1/deviation]`.
        private func normalize(
            _ shape: ActivationShape, _ epilogue: Epilogue, statistics: [KernelArgument], to plan: inout LaunchPlan
        ) {
            let segments = Segments(shape)
            // The last argument is for running variances only.
            plan.launch(
                Self.file, "normalize_blocks", definitions(epilogue, isTraining: true),
                [.input(0), .input(1), .input(2)] + statistics + (epilogue.residual ? [.input(5)] : [])
                    + [.output(0)] + integers(segments.pixels, segments.segmentPixels, shape.channels)
                    + [.float32(0)],
                global: segments.count, segments.blocks)
        }

        func batchNormalizationInference(
            _ shape: ActivationShape, _ epsilon: Float, _ epilogue: Epilogue
        ) -> LaunchPlan {
            var plan = LaunchPlan()
            let segments = Segments(shape)
            plan.launch(
                Self.file, "normalize_blocks", definitions(epilogue, isTraining: false),
                [.input(0), .input(1), .input(2), .input(3), .input(4)] + (epilogue.residual ? [.input(5)] : [])
                    + [.output(0)] + integers(segments.pixels, segments.segmentPixels, shape.channels)
                    + [.float32(epsilon)],
                global: segments.count, segments.blocks)
            return plan
        }

        func batchNormalizationTrainingGradient(_ shape: ActivationShape) -> LaunchPlan {
            var plan = LaunchPlan()
            let segments = Segments(shape)
            let partial = plan.takeWorkspace(floats: segments.blocks * segments.count * 32)
            let coefficients = plan.takeWorkspace(floats: segments.vectorBlocks * 48)
            plan.launch(
                Self.file, "gradient_sums", [],
                [.input(0), .input(1), .input(3), partial] + integers(segments.pixels, segments.segmentPixels),
                global: segments.count, segments.blocks)
            plan.launch(
                Self.file, "combine_gradients", [],
                [partial, .input(2), .input(4), .output(1), .output(2), coefficients]
                    + integers(segments.pixels, segments.count, shape.channels),
                global: segments.vectorBlocks)
            plan.launch(
                Self.file, "input_gradient", [],
                [.input(0), .input(1), .input(3), coefficients, .output(0)]
                    + integers(segments.pixels, segments.segmentPixels),
                global: segments.count, segments.blocks)
            return plan
        }

        func batchNormalizationInferenceGradient(_ shape: ActivationShape, _ epsilon: Float) -> LaunchPlan {
            var plan = LaunchPlan()
            let segments = Segments(shape)
            plan.launch(
                Self.file, "scale_gradient", [],
                [.input(0), .input(1), .input(2), .output(0)]
                    + integers(segments.pixels, segments.segmentPixels, shape.channels) + [.float32(epsilon)],
                global: segments.count, segments.blocks)
            return plan
        }

        func channelSum(_ shape: ActivationShape) -> LaunchPlan {
            var plan = LaunchPlan()
            let segments = Segments(shape)
            let partial = plan.takeWorkspace(floats: segments.blocks * segments.count * 16)
            plan.launch(
                Self.file, "channel_sum", [],
                [.input(0), partial] + integers(segments.pixels, segments.segmentPixels),
                global: segments.count, segments.blocks)
            plan.launch(
                Self.file, "combine_sums", [],
                [partial, .output(0)] + integers(segments.count, shape.channels), global: segments.vectorBlocks)
            return plan
        }
    }
#endif
