#if OpenCL
    import GraftGraph

    // Launches of batch_normalization_gpu.cl and softmax_cross_entropy_gpu.cl.
    extension GPUKernelClass {
        private static let normalizationFile = "batch_normalization_gpu"
        /// Elements that one item of a chunk holds in registers.
        private static let valuesPerItem = 16

        /// Chunks into which the elements of each channel are cut.
        func chunks(_ shape: ActivationShape) -> Int {
            let chunk = reductionItemCount * Self.valuesPerItem
            return max((shape.batch * shape.pixelCount + chunk - 1) / chunk, 1)
        }

        private var reductionDefinitions: [KernelLaunch.Definition] {
            [.init("ITEMS", reductionItemCount), .init("VALUES", Self.valuesPerItem)]
        }

        /// One group for each (channel, chunk).
        private func chunkLaunch(
            _ kernel: String, _ shape: ActivationShape, _ buffers: [KernelArgument]
        ) -> KernelLaunch {
            KernelLaunch(
                file: Self.normalizationFile, kernel: kernel, definitions: reductionDefinitions,
                arguments: buffers
                    + [shape.channels, shape.pixelCount, shape.batch * shape.pixelCount, chunks(shape)]
                    .map(KernelArgument.integer),
                globalSize: [shape.channels * chunks(shape) * reductionItemCount], localSize: [reductionItemCount])
        }

        /// One group for each channel.
        private func channelLaunch(_ kernel: String, _ shape: ActivationShape, _ arguments: [KernelArgument])
            -> KernelLaunch
        {
            KernelLaunch(
                file: Self.normalizationFile, kernel: kernel, definitions: reductionDefinitions, arguments: arguments,
                globalSize: [shape.channels * reductionItemCount], localSize: [reductionItemCount])
        }

        /// One item for each 4 elements, or for each.
        private func channelwise(
            _ kernel: String, _ shape: ActivationShape, _ buffers: [KernelArgument], trailing: [KernelArgument] = [],
            _ epilogue: Epilogue = .none
        ) -> KernelLaunch {
            let vector = shape.pixelCount % 4 == 0 ? 4 : 1
            return elementLaunch(
                Self.normalizationFile, kernel, count: shape.elementCount / vector, buffers,
                integers: [shape.channels, shape.pixelCount], trailing: trailing,
                definitions: [
                    .init("VECTOR", vector), .init("RESIDUAL", epilogue.residual ? 1 : 0),
                    .init("RELU", epilogue.relu ? 1 : 0),
                    .init("ACTIVATION", epilogue.furtherActivation?.code ?? 0),
                ])
        }

        private func pairs(_ shape: ActivationShape) -> KernelArgument {
            .workspace(offset: 0, byteCount: 8 * shape.channels * chunks(shape))
        }

        func channelSum(_ shape: ActivationShape) -> [KernelLaunch] {
            let count = chunks(shape)
            guard count > 1 else { return [chunkLaunch("channel_sums", shape, [.input(0), .output(0)])] }
            let partial = KernelArgument.workspace(offset: 0, byteCount: 4 * shape.channels * count)
            return [
                chunkLaunch("channel_sums", shape, [.input(0), partial]),
                channelLaunch("finish_channel_sums", shape, [partial, .output(0), .integer(count)]),
            ]
        }

        func batchNormalizationTraining(
            _ shape: ActivationShape, epsilon: Float, momentum: Float, _ epilogue: Epilogue
        ) -> [KernelLaunch] {
            [
                chunkLaunch("channel_moments", shape, [.input(0), pairs(shape)]),
                channelLaunch(
                    "finish_moments", shape,
                    [
                        pairs(shape), .output(1), .output(2), .output(3), .output(4),
                        .integer(shape.batch * shape.pixelCount), .integer(chunks(shape)), .float32(epsilon),
                        .float32(momentum),
                    ]),
                normalizeByBatch(shape, epilogue, statistics: [.output(1), .output(2)]),
            ]
        }

        /// y from x, gamma, beta and `[mean, 1/deviation]`.
        func normalizeByBatch(
            _ shape: ActivationShape, _ epilogue: Epilogue, statistics: [KernelArgument]
        ) -> KernelLaunch {
            channelwise(
                "normalize_by_batch", shape,
                [.input(0), .input(1), .input(2)] + statistics + [.input(epilogue.residual ? 5 : 0), .output(0)],
                epilogue)
        }

        func batchNormalizationInference(
            _ shape: ActivationShape, epsilon: Float, _ epilogue: Epilogue
        ) -> [KernelLaunch] {
            [
                channelwise(
                    "normalize_by_running", shape,
                    [
                        .input(0), .input(1), .input(2), .input(3), .input(4), .input(epilogue.residual ? 5 : 0),
                        .output(0),
                    ], trailing: [.float32(epsilon)], epilogue)
            ]
        }

        func batchNormalizationTrainingGradient(_ shape: ActivationShape) -> [KernelLaunch] {
            [
                chunkLaunch(
                    "channel_gradient_sums", shape, [.input(0), .input(1), .input(3), .input(4), pairs(shape)]),
                channelLaunch(
                    "finish_gradient_sums", shape,
                    [pairs(shape), .output(1), .output(2), .integer(chunks(shape))]),
                channelwise(
                    "normalize_gradient", shape,
                    [
                        .input(0), .input(1), .input(2), .input(3), .input(4), .output(1), .output(2), .output(0),
                    ], trailing: [.integer(shape.batch * shape.pixelCount)]),
            ]
        }

        func batchNormalizationInferenceGradient(_ shape: ActivationShape, epsilon: Float) -> [KernelLaunch] {
            [
                channelwise(
                    "normalize_by_running_gradient", shape, [.input(0), .input(1), .input(2), .output(0)],
                    trailing: [.float32(epsilon)])
            ]
        }

        func softmaxCrossEntropy(
            batch: Int, classes: Int, labelSmoothing: Float, targets: LossTargets
        ) -> [KernelLaunch] {
            let items = reductionItemCount
            let rows = KernelArgument.workspace(offset: 0, byteCount: 8 * batch)
            return [
                KernelLaunch(
                    file: "softmax_cross_entropy_gpu", kernel: "softmax_rows",
                    definitions: [.init("ITEMS", items)] + targets.definitions,
                    arguments: [.input(0), .input(1), .output(0), rows] + targets.operands + [
                        .integer(classes), .integer(batch), .float32(labelSmoothing),
                    ], globalSize: [batch * items], localSize: [items]),
                KernelLaunch(
                    file: "softmax_cross_entropy_gpu", kernel: "softmax_finish",
                    definitions: [.init("ITEMS", items)] + targets.definitions,
                    arguments: [rows, .output(1), .integer(batch)], globalSize: [items], localSize: [items]),
            ]
        }
    }
#endif
