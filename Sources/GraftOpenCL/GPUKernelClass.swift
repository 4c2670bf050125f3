#if OpenCL
    import GraftGraph
    import GraftTensor

    /// The kernels for GPUs: local-memory tiles, barriers, fixed reduction trees (`Kernels/cl/*_gpu.cl`).
    ///
    /// Layout: activations and indices NCHW, channel vectors plain, weights `[K, R, S, C/groups]` (input channel fastest,
    /// which makes them contiguous for the forward pass and for the input gradient alike), transformed weights as
    /// `winograd_gpu.cl` says. How sums are cut follows from shapes alone, in forward passes from the shape of one image
    /// (``ReductionChunks``): an image's outputs are the same bytes in every batch. Tiles (``TileTable``) decide how fast
    /// a sum is done, not in what order.
    package struct GPUKernelClass: KernelClass {
        package let name = "gpu-class"
        /// Items of the groups that reduce: a power of two, at most 256 and the device's maximum.
        let reductionItemCount: Int
        package let device: KernelDevice

        /// Which tile is used where.
        package private(set) var tiles: TileTable

        /// V and M of one run of Winograd's tiles: large enough to fill a GPU, small enough for a large cache.
        package var winogradRunByteCount = 64 << 20

        /// The class for a device; without `tiles` with the table for its kind.
        package init(device: KernelDevice, tiles: TileTable? = nil) {
            self.device = device
            self.tiles = tiles ?? TileTable(device: device)
            var items = 256
            while items > max(device.maximumWorkGroupSize, 1) { items /= 2 }
            reductionItemCount = items
        }

        /// This class with other tiles.
        package func with(_ tiles: TileTable) -> GPUKernelClass {
            var copy = self
            copy.tiles = tiles
            return copy
        }

        /// Where in the table a convolution or a gradient finds its tile; nil for other primitives.
        package func place(of primitive: Primitive) -> TilePlace? {
            guard !primitive.isDepthwise else { return nil }
            if case .convolution(let geometry, _) = primitive {
                return usesWinograd(geometry)
                    ? WinogradPlan.forwardPlace(geometry) : ConvolutionPlan(geometry, .forward, tiles).place
            }
            if case .convolutionInputGradient(let geometry, _) = primitive {
                return usesWinograd(geometry)
                    ? WinogradPlan.inputGradientPlace(geometry)
                    : ConvolutionPlan(geometry, .inputGradient, tiles).place
            }
            guard case .convolutionWeightGradient(let geometry) = primitive else { return nil }
            return usesWinogradWeightGradient(geometry)
                ? WinogradPlan.weightGradientPlace(geometry) : WeightGradientPlan(geometry, tiles).place
        }

        // MARK: Layout

        /// Images follow each other whole, so that channels of one image alone lie in one piece.
        package func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? {
            shape.batch == 1 ? 4 * channels.lowerBound * shape.pixelCount : nil
        }

        package func byteCount(of kind: ValueKind) -> Int {
            switch kind {
            case .activation(let shape), .indices(let shape): 4 * shape.elementCount
            case .weight(let weight): 4 * weight.elementCount
            case .winogradWeight(let weight): WinogradPlan.byteCount(weight)
            case .channelVector(let count): 4 * count
            case .pixels(let batch, let height, let width): batch * height * width * 3
            case .labels(let batch): 4 * batch
            case .metrics: 8
            }
        }

        package func pack(_ tensor: HostTensor, kind: ValueKind) throws(DeviceError) -> [UInt8] {
            guard tensor.shape.elementCount == kind.hostShape.elementCount else {
                throw DeviceError.dataMismatch(
                    "a tensor of shape \(tensor.shape) was written to a value of shape \(kind.hostShape)")
            }
            switch (kind, tensor.storage) {
            case (.weight(let weight), .float32(let values)):
                return Self.bytes(Self.transposed(values, weight, toDevice: true))
            case (.winogradWeight(let weight), .float32(let values)):
                return Self.bytes(WinogradPlan.pack(values, weight))
            case (.activation, .float32(let values)), (.channelVector, .float32(let values)),
                (.metrics, .float32(let values)):
                return Self.bytes(values)
            case (.indices, .int32(let values)), (.labels, .int32(let values)): return Self.bytes(values)
            case (.pixels, .uint8(let values)): return values
            case (.activation, _), (.indices, _), (.weight, _), (.winogradWeight, _), (.channelVector, _),
                (.metrics, _),
                (.labels, _), (.pixels, _):
                throw DeviceError.dataMismatch(
                    "a tensor of the wrong element type was written to a value of shape \(kind.hostShape)")
            }
        }

        package func unpack(_ bytes: UnsafeRawBufferPointer, kind: ValueKind) -> HostTensor {
            let shape = kind.hostShape
            let count = shape.elementCount
            switch kind {
            case .activation, .channelVector, .metrics:
                return HostTensor(shape, Array(bytes.bindMemory(to: Float.self).prefix(count)))
            case .weight(let weight):
                let values = Array(bytes.bindMemory(to: Float.self).prefix(count))
                return HostTensor(shape, Self.transposed(values, weight, toDevice: false))
            case .winogradWeight(let weight):
                return HostTensor(shape, WinogradPlan.unpack(Array(bytes.bindMemory(to: Float.self)), weight))
            case .indices, .labels:
                return HostTensor(
                    shape: shape, storage: .int32(Array(bytes.bindMemory(to: Int32.self).prefix(count))))
            case .pixels:
                return HostTensor(shape: shape, storage: .uint8(Array(bytes.prefix(count))))
            }
        }

        /// `[K, C/groups, R·S]` ↔ `[K, R·S, C/groups]`.
        private static func transposed(_ values: [Float], _ weight: WeightShape, toDevice: Bool) -> [Float] {
            let channels = weight.inputChannelsPerGroup
            let taps = weight.kernelHeight * weight.kernelWidth
            guard channels > 1, taps > 1 else { return values }
            let inner = toDevice ? channels : taps
            let outer = toDevice ? taps : channels
            return [Float](unsafeUninitializedCapacity: values.count) { target, initialized in
                for first in stride(from: 0, to: values.count, by: channels * taps) {
                    for i in 0..<outer {
                        for j in 0..<inner { target[first + i * inner + j] = values[first + j * outer + i] }
                    }
                }
                initialized = values.count
            }
        }

        private static func bytes<Element>(_ values: [Element]) -> [UInt8] {
            values.withUnsafeBytes { Array($0) }
        }

        // MARK: Launches

        package func workspaceByteCount(for primitive: Primitive) -> Int {
            switch primitive {
            case .convolution(let geometry, let epilogue) where epilogue.maxPooling != nil:
                unpooledResultOffset(geometry, epilogue) + 4 * geometry.output.elementCount
            case .convolution(let geometry, _) where geometry.isDepthwise: 0
            case .convolutionInputGradient(let geometry, _) where geometry.isDepthwise: 0
            case .convolutionWeightGradient(let geometry) where geometry.isDepthwise:
                depthwiseWeightGradientWorkspaceByteCount(geometry)
            case .convolution(let geometry, let epilogue):
                usesWinograd(geometry)
                    ? WinogradPlan.forward(geometry, epilogue, self).workspaceByteCount
                    : ConvolutionPlan(geometry, .forward, tiles).workspaceByteCount
            case .convolutionInputGradient(let geometry, let addend):
                usesWinograd(geometry)
                    ? WinogradPlan.inputGradient(geometry, addend: addend, self).workspaceByteCount
                    : ConvolutionPlan(geometry, .inputGradient, tiles).workspaceByteCount
            case .convolutionWeightGradient(let geometry):
                usesWinogradWeightGradient(geometry)
                    ? WinogradPlan.weightGradient(geometry, self).workspaceByteCount
                    : WeightGradientPlan(geometry, tiles).workspaceByteCount
            case .channelSum(let shape): chunks(shape) > 1 ? 4 * shape.channels * chunks(shape) : 0
            case .batchNormalizationTraining(let shape, _, _, _), .batchNormalizationTrainingGradient(let shape):
                8 * shape.channels * chunks(shape)
            case .layerNormalizationGradient(let shape, _): layerNormalizationGradientWorkspaceByteCount(shape)
            case .softmaxCrossEntropy(let batch, _, _, _): 8 * batch
            case .gradientNorm: 4 * Self.normPartialCount
            case .imageNormalization, .batchNormalizationInference, .batchNormalizationReplay,
                .batchNormalizationInferenceGradient, .relu,
                .reluGradient, .layerNormalization, .layerScale, .layerScaleGradient, .activation, .activationGradient,
                .channelScale, .channelScaleGradient, .stochasticDepth,
                .maxPooling, .maxPoolingGradient, .averagePooling, .averagePoolingGradient,
                .adaptiveAveragePooling, .adaptiveAveragePoolingGradient, .add, .concatenation, .channelSlice, .dropout,
                .flatten, .flattenGradient, .subsampleAndPad, .subsampleAndPadGradient, .optimizerUpdate,
                .gradientAccumulation, .gradientScaling, .weightAveraging:
                0
            }
        }

        package func launches(for primitive: Primitive, cohortByteCount: Int) throws(DeviceError) -> [KernelLaunch] {
            try checkExtents(primitive, cohortByteCount: cohortByteCount)
            switch primitive {
            case .imageNormalization(let shape, let mean, let deviation):
                return try imageNormalization(shape, mean: mean, deviation: deviation)
            case .convolution(let geometry, let epilogue) where epilogue.maxPooling != nil:
                return try pooledConvolution(geometry, epilogue)
            case .convolution(let geometry, let epilogue) where geometry.isDepthwise:
                return depthwise(geometry, epilogue)
            case .convolutionInputGradient(let geometry, let addend) where geometry.isDepthwise:
                return depthwiseInputGradient(geometry, addend: addend)
            case .convolutionWeightGradient(let geometry) where geometry.isDepthwise:
                return depthwiseWeightGradient(geometry)
            case .convolution(let geometry, let epilogue):
                if usesWinograd(geometry) {
                    var launches = WinogradPlan.forward(geometry, epilogue, self).launches
                    if let activation = epilogue.furtherActivation {
                        launches += vectorized("activate", geometry.output, [.output(0), .output(0)], activation)
                    }
                    return launches
                }
                return ConvolutionPlan(geometry, .forward, tiles).launches(epilogue)
            case .convolutionInputGradient(let geometry, let addend):
                if usesWinograd(geometry) {
                    return WinogradPlan.inputGradient(geometry, addend: addend, self).launches
                }
                return ConvolutionPlan(geometry, .inputGradient, tiles).launches(Epilogue(residual: addend))
            case .convolutionWeightGradient(let geometry):
                if usesWinogradWeightGradient(geometry) {
                    return WinogradPlan.weightGradient(geometry, self).launches
                }
                return WeightGradientPlan(geometry, tiles).launches()
            case .channelSum(let shape): return channelSum(shape)
            case .batchNormalizationTraining(let shape, let epsilon, let momentum, let epilogue):
                return batchNormalizationTraining(shape, epsilon: epsilon, momentum: momentum, epilogue)
            case .batchNormalizationInference(let shape, let epsilon, let epilogue):
                return batchNormalizationInference(shape, epsilon: epsilon, epilogue)
            case .batchNormalizationReplay(let shape, let epilogue):
                return [normalizeByBatch(shape, epilogue, statistics: [.input(3), .input(4)])]
            case .batchNormalizationTrainingGradient(let shape): return batchNormalizationTrainingGradient(shape)
            case .batchNormalizationInferenceGradient(let shape, let epsilon):
                return batchNormalizationInferenceGradient(shape, epsilon: epsilon)
            case .relu(let shape): return vectorized("relu", shape, [.input(0), .output(0)])
            case .reluGradient(let shape):
                return vectorized("relu_gradient", shape, [.input(0), .input(1), .output(0)])
            case .add(let shape, let relu):
                return vectorized("add", shape, [.input(0), .input(1), .output(0)], relu: relu)
            case .activation(let shape, let activation):
                return vectorized("activate", shape, [.input(0), .output(0)], activation)
            case .activationGradient(let shape, let activation):
                return vectorized("activation_gradient", shape, [.input(0), .input(1), .output(0)], activation)
            case .layerNormalization(let shape, let epsilon): return layerNormalization(shape, epsilon: epsilon)
            case .layerNormalizationGradient(let shape, let epsilon):
                return layerNormalizationGradient(shape, epsilon: epsilon)
            case .layerScale(let shape): return layerScale(shape)
            case .layerScaleGradient(let shape): return layerScaleGradient(shape)
            case .channelScale(let shape):
                let vector = shape.pixelCount % 4 == 0 ? 4 : 1
                return [
                    elementLaunch(
                        "elementwise_gpu", "channel_scale", count: shape.elementCount / vector,
                        [.input(0), .input(1), .output(0)], integers: [shape.pixelCount / vector],
                        definitions: [.init("VECTOR", vector)])
                ]
            case .channelScaleGradient(let shape):
                let items = shape.pixelCount <= 1024 ? min(32, reductionItemCount) : reductionItemCount
                return [
                    KernelLaunch(
                        file: "elementwise_gpu", kernel: "channel_scale_gradient",
                        definitions: [.init("ITEMS", items)],
                        arguments: [.input(0), .input(1), .output(0), .integer(shape.pixelCount)],
                        globalSize: [shape.batch * shape.channels * items], localSize: [items])
                ]
            case .stochasticDepth(let shape, let rate, let salt):
                return [
                    elementLaunch(
                        "elementwise_gpu", "stochastic_depth", count: shape.elementCount, [.input(0), .output(0)],
                        integers: [shape.channels * shape.pixelCount],
                        trailing: [
                            .dropoutKey(salt: salt), .uint32(DropoutMask.threshold(rate: rate)), .float32(1 - rate),
                        ])
                ]
            case .maxPooling(let geometry, let indices):
                return pooling(
                    "max_pooling", geometry, count: geometry.output.elementCount,
                    [.input(0), .output(0), indices ? .output(1) : .output(0)], last: geometry.dilation,
                    definitions: [.init("INDICES", indices ? 1 : 0)])
            case .maxPoolingGradient(let geometry):
                return pooling(
                    "max_pooling_gradient", geometry, count: geometry.input.elementCount,
                    [.input(0), .input(1), .output(0)], last: geometry.dilation)
            case .averagePooling(let geometry):
                return pooling(
                    "average_pooling", geometry, count: geometry.output.elementCount, [.input(0), .output(0)],
                    last: geometry.countsPadding ? 1 : 0)
            case .averagePoolingGradient(let geometry):
                return pooling(
                    "average_pooling_gradient", geometry, count: geometry.input.elementCount, [.input(0), .output(0)],
                    last: geometry.countsPadding ? 1 : 0)
            case .adaptiveAveragePooling(let shape, let outputHeight, let outputWidth):
                return adaptiveAveragePooling(shape, outputHeight: outputHeight, outputWidth: outputWidth)
            case .adaptiveAveragePoolingGradient(let shape, let outputHeight, let outputWidth):
                return [
                    elementLaunch(
                        "pooling_gpu", "adaptive_average_pooling_gradient", count: shape.elementCount,
                        [.input(0), .output(0)],
                        integers: [shape.height, shape.width, outputHeight, outputWidth])
                ]
            case .concatenation(let shape, let channels):
                var launches: [KernelLaunch] = []
                var offset = 0
                for (index, count) in channels.enumerated() where count > 0 {
                    launches += copyChannels(
                        from: .input(index), sourceChannels: count, sourceOffset: 0, targetChannels: shape.channels,
                        targetOffset: offset, channels: count, shape)
                    offset += count
                }
                return launches
            case .channelSlice(let shape, let offset, let count):
                return copyChannels(
                    from: .input(0), sourceChannels: shape.channels, sourceOffset: offset, targetChannels: count,
                    targetOffset: 0, channels: count, shape)
            case .flatten(let shape), .flattenGradient(let shape):
                return copyChannels(
                    from: .input(0), sourceChannels: shape.channels, sourceOffset: 0, targetChannels: shape.channels,
                    targetOffset: 0, channels: shape.channels, shape)
            case .dropout(let shape, let rate, let salt):
                return [
                    elementLaunch(
                        "elementwise_gpu", "dropout", count: shape.elementCount, [.input(0), .output(0)],
                        trailing: [
                            .dropoutKey(salt: salt), .uint32(DropoutMask.threshold(rate: rate)), .float32(1 - rate),
                        ])
                ]
            case .subsampleAndPad(let shape, let stride, let before, let after):
                let output = subsampledShape(shape, stride: stride, before: before, after: after)
                return subsample("subsample_and_pad", shape, output, stride, before, count: output.elementCount)
            case .subsampleAndPadGradient(let shape, let stride, let before, let after):
                let output = subsampledShape(shape, stride: stride, before: before, after: after)
                return subsample("subsample_and_pad_gradient", shape, output, stride, before, count: shape.elementCount)
            case .softmaxCrossEntropy(let batch, let classes, let labelSmoothing, let targets):
                return softmaxCrossEntropy(
                    batch: batch, classes: classes, labelSmoothing: labelSmoothing, targets: targets)
            case .optimizerUpdate(let rule, _): return optimizerUpdate(rule, count: cohortByteCount / 4)
            case .gradientAccumulation(let state):
                return [
                    elementLaunch(
                        "gradients_gpu", "accumulate", count: cohortByteCount / 4,
                        [.cohortGradients, .cohortState(state)], trailing: [.accumulationShare],
                        definitions: [.init("ITEMS", reductionItemCount)])
                ]
            case .gradientNorm(let maximum): return gradientNorm(maximum, count: cohortByteCount / 4)
            case .gradientScaling:
                return [
                    elementLaunch(
                        "gradients_gpu", "scale_by_norm", count: cohortByteCount / 4, [.cohortGradients, .input(0)],
                        definitions: [.init("ITEMS", reductionItemCount)])
                ]
            case .weightAveraging(let state, let decay):
                return [
                    elementLaunch(
                        "gradients_gpu", "average_weights", count: cohortByteCount / 4,
                        [.cohortParameters, .cohortState(state)], trailing: [.float32(1 - decay)],
                        definitions: [.init("ITEMS", reductionItemCount)])
                ]
            }
        }

        private func usesWinograd(_ geometry: ConvolutionGeometry) -> Bool {
            geometry.method != .direct && geometry.canUseWinograd
        }

        private func usesWinogradWeightGradient(_ geometry: ConvolutionGeometry) -> Bool {
            usesWinograd(geometry) && WinogradPlan.paysForWeightGradient(geometry)
        }

        /// Where in the workspace the result of a convolution lies that is pooled: behind the convolution's own.
        private func unpooledResultOffset(_ geometry: ConvolutionGeometry, _ epilogue: Epilogue) -> Int {
            let alignment = KernelArgument.workspaceAlignment
            let own = workspaceByteCount(for: .convolution(geometry, epilogue.unpooled))
            return (own + alignment - 1) / alignment * alignment
        }

        /// The convolution into the workspace, and the pooling from there.
        private func pooledConvolution(
            _ geometry: ConvolutionGeometry, _ epilogue: Epilogue
        ) throws(DeviceError) -> [KernelLaunch] {
            guard let pooling = epilogue.maxPooling else { return [] }
            let result = KernelArgument.workspace(
                offset: unpooledResultOffset(geometry, epilogue), byteCount: 4 * geometry.output.elementCount)
            func replacing(_ old: KernelArgument, in primitive: Primitive) throws(DeviceError) -> [KernelLaunch] {
                var launches = try self.launches(for: primitive, cohortByteCount: 0)
                for index in launches.indices {
                    launches[index].arguments = launches[index].arguments.map { $0 == old ? result : $0 }
                }
                return launches
            }
            return try replacing(.output(0), in: .convolution(geometry, epilogue.unpooled))
                + replacing(.input(0), in: .maxPooling(pooling, indices: false))
        }

        /// Kernels index elements with 32-bit integers.
        static let maximumElementCount = Int(Int32.max) - 65536

        private func checkExtents(_ primitive: Primitive, cohortByteCount: Int) throws(DeviceError) {
            let largest: Int
            switch primitive {
            case .convolution(let geometry, _), .convolutionInputGradient(let geometry, _),
                .convolutionWeightGradient(let geometry):
                largest = max(
                    geometry.input.elementCount, geometry.output.elementCount, geometry.weight.elementCount)
            case .imageNormalization(let shape, _, _), .channelSum(let shape),
                .batchNormalizationTraining(let shape, _, _, _), .batchNormalizationInference(let shape, _, _),
                .batchNormalizationReplay(let shape, _), .batchNormalizationTrainingGradient(let shape),
                .batchNormalizationInferenceGradient(let shape, _),
                .relu(let shape), .reluGradient(let shape), .activation(let shape, _),
                .activationGradient(let shape, _), .channelScale(let shape), .channelScaleGradient(let shape),
                .layerNormalization(let shape, _), .layerNormalizationGradient(let shape, _), .layerScale(let shape),
                .layerScaleGradient(let shape), .stochasticDepth(let shape, _, _), .add(let shape, _),
                .concatenation(let shape, _),
                .channelSlice(let shape, _, _), .dropout(let shape, _, _), .flatten(let shape),
                .flattenGradient(let shape):
                largest = shape.elementCount
            case .maxPooling(let geometry, _), .maxPoolingGradient(let geometry), .averagePooling(let geometry),
                .averagePoolingGradient(let geometry):
                largest = max(geometry.input.elementCount, geometry.output.elementCount)
            case .adaptiveAveragePooling(let shape, let height, let width),
                .adaptiveAveragePoolingGradient(let shape, let height, let width):
                largest = max(shape.elementCount, shape.batch * shape.channels * height * width)
            case .subsampleAndPad(let shape, let stride, let before, let after),
                .subsampleAndPadGradient(let shape, let stride, let before, let after):
                largest = max(
                    shape.elementCount,
                    subsampledShape(shape, stride: stride, before: before, after: after).elementCount)
            case .softmaxCrossEntropy(let batch, let classes, _, _): largest = batch * classes
            case .optimizerUpdate, .gradientAccumulation, .gradientNorm, .gradientScaling, .weightAveraging:
                largest = cohortByteCount / 4
            }
            guard largest <= Self.maximumElementCount else {
                throw DeviceError.unsupported(
                    "\(primitive.kind) has a value of \(largest) elements, the GPU kernels index at most "
                        + "\(Self.maximumElementCount); use a smaller batch")
            }
        }
    }

    // MARK: Launches of one item per element

    extension GPUKernelClass {
        /// Arguments: buffers, the count, integers, then `trailing`. `count` items, rounded up to whole groups.
        func elementLaunch(
            _ file: String, _ kernel: String, count: Int, _ buffers: [KernelArgument], integers: [Int] = [],
            trailing: [KernelArgument] = [], definitions: [KernelLaunch.Definition] = []
        ) -> KernelLaunch {
            let items = reductionItemCount
            return KernelLaunch(
                file: file, kernel: kernel, definitions: definitions,
                arguments: buffers + [.integer(count)] + integers.map(KernelArgument.integer) + trailing,
                globalSize: [max(count.roundedUp(to: items), items)], localSize: [items])
        }

        private func vectorized(
            _ kernel: String, _ shape: ActivationShape, _ buffers: [KernelArgument], relu: Bool = false
        ) -> [KernelLaunch] {
            vectorized(kernel, shape, buffers, [.init("RELU", relu ? 1 : 0)])
        }

        private func vectorized(
            _ kernel: String, _ shape: ActivationShape, _ buffers: [KernelArgument], _ activation: Activation
        ) -> [KernelLaunch] {
            vectorized(kernel, shape, buffers, [.init("ACTIVATION", activation.code)])
        }

        private func vectorized(
            _ kernel: String, _ shape: ActivationShape, _ buffers: [KernelArgument],
            _ definitions: [KernelLaunch.Definition]
        ) -> [KernelLaunch] {
            let vector = shape.elementCount % 4 == 0 ? 4 : 1
            return [
                elementLaunch(
                    "elementwise_gpu", kernel, count: shape.elementCount / vector, buffers,
                    definitions: [.init("VECTOR", vector)] + definitions)
            ]
        }

        /// Channels of an activation of `shape`'s batch and plane; the target is output 0.
        private func copyChannels(
            from source: KernelArgument, sourceChannels: Int, sourceOffset: Int, targetChannels: Int,
            targetOffset: Int, channels: Int, _ shape: ActivationShape
        ) -> [KernelLaunch] {
            let plane = shape.pixelCount
            let run = channels * plane
            let places = [sourceChannels, sourceOffset, targetChannels, targetOffset].map { $0 * plane }
            let vector = (places + [run]).allSatisfy { $0 % 4 == 0 } ? 4 : 1
            return [
                elementLaunch(
                    "elementwise_gpu", "copy_channels", count: shape.batch * run / vector, [source, .output(0)],
                    integers: [run / vector] + places.map { $0 / vector }, definitions: [.init("VECTOR", vector)])
            ]
        }

        func subsampledShape(_ shape: ActivationShape, stride: Int, before: Int, after: Int) -> ActivationShape {
            ActivationShape(
                shape.batch, before + shape.channels + after, (shape.height + stride - 1) / stride,
                (shape.width + stride - 1) / stride)
        }

        private func subsample(
            _ kernel: String, _ input: ActivationShape, _ output: ActivationShape, _ stride: Int, _ before: Int,
            count: Int
        ) -> [KernelLaunch] {
            [
                elementLaunch(
                    "elementwise_gpu", kernel, count: count, [.input(0), .output(0)],
                    integers: [
                        input.channels, input.height, input.width, output.channels, output.height, output.width,
                        stride, before,
                    ])
            ]
        }

        private func imageNormalization(
            _ shape: ActivationShape, mean: [Float], deviation: [Float]
        ) throws(DeviceError) -> [KernelLaunch] {
            guard shape.channels == 3, mean.count == 3, deviation.count == 3 else {
                throw DeviceError.unsupported(
                    "image normalization takes 3 channels, found \(shape.channels) with \(mean.count) means and "
                        + "\(deviation.count) deviations")
            }
            return [
                elementLaunch(
                    "elementwise_gpu", "normalize_image", count: shape.batch * shape.pixelCount,
                    [.input(0), .output(0)], integers: [shape.pixelCount],
                    trailing: (mean + deviation).map(KernelArgument.float32))
            ]
        }

        private func pooling(
            _ kernel: String, _ geometry: PoolingGeometry, count: Int, _ buffers: [KernelArgument], last: Int,
            definitions: [KernelLaunch.Definition] = []
        ) -> [KernelLaunch] {
            let output = geometry.output
            return [
                elementLaunch(
                    "pooling_gpu", kernel, count: count, buffers,
                    integers: [
                        geometry.input.height, geometry.input.width, output.height, output.width,
                        geometry.kernelHeight, geometry.kernelWidth, geometry.strideHeight, geometry.strideWidth,
                        geometry.paddingHeight, geometry.paddingWidth, last,
                    ], definitions: definitions)
            ]
        }

        private func adaptiveAveragePooling(
            _ shape: ActivationShape, outputHeight: Int, outputWidth: Int
        ) -> [KernelLaunch] {
            let items = reductionItemCount
            let binHeight = (shape.height + outputHeight - 1) / max(outputHeight, 1)
            let binWidth = (shape.width + outputWidth - 1) / max(outputWidth, 1)
            let lanes = binHeight * binWidth <= 8 ? 1 : binHeight * binWidth <= 1024 ? min(32, items) : items
            let count = shape.batch * shape.channels * outputHeight * outputWidth
            var launch = elementLaunch(
                "pooling_gpu", "adaptive_average_pooling", count: count, [.input(0), .output(0)],
                integers: [shape.height, shape.width, outputHeight, outputWidth],
                definitions: [.init("LANES", lanes), .init("ITEMS", items)])
            launch.globalSize = [(count * lanes).roundedUp(to: items)]
            return [launch]
        }

        /// Squares are summed by this many groups, whatever the device.
        static let normPartialCount = 256

        private func gradientNorm(_ maximum: Float, count: Int) -> [KernelLaunch] {
            let items = reductionItemCount
            let partial = KernelArgument.workspace(offset: 0, byteCount: 4 * Self.normPartialCount)
            let run = (count + Self.normPartialCount - 1) / Self.normPartialCount
            return [
                KernelLaunch(
                    file: "gradients_gpu", kernel: "square_sums", definitions: [.init("ITEMS", items)],
                    arguments: [.cohortGradients, partial, .integer(count), .integer(run)],
                    globalSize: [Self.normPartialCount * items], localSize: [items]),
                KernelLaunch(
                    file: "gradients_gpu", kernel: "norm", definitions: [.init("ITEMS", items)],
                    arguments: [partial, .output(0), .integer(Self.normPartialCount), .float32(maximum)],
                    globalSize: [items], localSize: [items]),
            ]
        }

        /// One launch over the slab range of a cohort.
        private func optimizerUpdate(_ rule: OptimizerRule, count: Int) -> [KernelLaunch] {
            switch rule {
            case .sgd(momentum: false, nesterov: _):
                [
                    elementLaunch(
                        "optimizer_gpu", "sgd", count: count, [.cohortParameters, .cohortGradients],
                        trailing: [.cohortConstant(.learningRate), .cohortConstant(.weightDecay)])
                ]
            case .sgd(momentum: true, let nesterov):
                [
                    elementLaunch(
                        "optimizer_gpu", "sgd_momentum", count: count,
                        [.cohortParameters, .cohortGradients, .cohortState(0)],
                        trailing: [
                            .cohortConstant(.learningRate), .cohortConstant(.weightDecay), .cohortConstant(.momentum),
                            .cohortConstant(.isFirstStep),
                        ], definitions: [.init("NESTEROV", nesterov ? 1 : 0)])
                ]
            case .adam(let decoupledWeightDecay):
                [
                    elementLaunch(
                        "optimizer_gpu", "adam", count: count,
                        [.cohortParameters, .cohortGradients, .cohortState(0), .cohortState(1)],
                        trailing: [
                            .cohortConstant(.learningRate), .cohortConstant(.weightDecay), .cohortConstant(.beta1),
                            .cohortConstant(.beta2), .cohortConstant(.epsilon), .cohortConstant(.biasCorrection1),
                            .cohortConstant(.biasCorrection2Root),
                        ], definitions: [.init("DECOUPLED", decoupledWeightDecay ? 1 : 0)])
                ]
            }
        }
    }

    extension KernelArgument {
        /// An extent as `int`; extents are checked against ``GPUKernelClass/maximumElementCount`` before.
        static func integer(_ value: Int) -> KernelArgument { .int32(Int32(clamping: value)) }
    }

    extension Int {
        /// The least multiple of `unit` that is not below.
        func roundedUp(to unit: Int) -> Int { (self + unit - 1) / unit * unit }
    }
#endif
