#if OpenCL
    import GraftGraph

    /// `layer_normalization_gpu.cl`.
    extension GPUKernelClass {
        private static let layerFile = "layer_normalization_gpu"

        func layerNormalizationGradientWorkspaceByteCount(_ shape: ActivationShape) -> Int {
            8 * shape.batch * shape.pixelCount
        }

        func layerNormalization(_ shape: ActivationShape, epsilon: Float) -> [KernelLaunch] {
            [
                elementLaunch(
                    Self.layerFile, "layer_normalization", count: shape.batch * shape.pixelCount,
                    [.input(0), .input(1), .input(2), .output(0)], integers: [shape.channels, shape.pixelCount],
                    trailing: [.float32(epsilon)], definitions: layerDefinitions)
            ]
        }

        func layerNormalizationGradient(_ shape: ActivationShape, epsilon: Float) -> [KernelLaunch] {
            let statistics = KernelArgument.workspace(
                offset: 0, byteCount: layerNormalizationGradientWorkspaceByteCount(shape))
            return [
                elementLaunch(
                    Self.layerFile, "layer_normalization_gradient", count: shape.batch * shape.pixelCount,
                    [.input(0), .input(1), .input(2), .output(0), statistics],
                    integers: [shape.channels, shape.pixelCount], trailing: [.float32(epsilon)],
                    definitions: layerDefinitions),
                perChannel(
                    "layer_normalization_sums", shape, [.input(0), .input(1), statistics, .output(1), .output(2)]),
            ]
        }

        func layerScale(_ shape: ActivationShape) -> [KernelLaunch] {
            [
                elementLaunch(
                    Self.layerFile, "layer_scale", count: shape.elementCount, [.input(0), .input(1), .output(0)],
                    integers: [shape.channels, shape.pixelCount], definitions: layerDefinitions)
            ]
        }

        func layerScaleGradient(_ shape: ActivationShape) -> [KernelLaunch] {
            [perChannel("layer_scale_gradient", shape, [.input(0), .input(1), .output(0)])]
        }

        private var layerDefinitions: [KernelLaunch.Definition] { [.init("ITEMS", reductionItemCount)] }

        /// One group for each channel; buffers, then the pixels of all images, channels, pixels of a plane.
        private func perChannel(
            _ kernel: String, _ shape: ActivationShape, _ buffers: [KernelArgument]
        ) -> KernelLaunch {
            KernelLaunch(
                file: Self.layerFile, kernel: kernel, definitions: layerDefinitions,
                arguments: buffers
                    + [shape.batch * shape.pixelCount, shape.channels, shape.pixelCount].map(KernelArgument.integer),
                globalSize: [shape.channels * reductionItemCount], localSize: [reductionItemCount])
        }
    }
#endif
