#if OpenCL
    import Dispatch
    import GraftGraph
    import GraftTensor

    /// Kernels for OpenCL CPU devices, in ``ChannelBlockedLayout``: one work-item is one register tile or one run of
    /// vectors of 16 floats; no barriers, no local memory, work-groups of one.
    ///
    /// All work is cut by shape alone, so that results are the same bytes on any number of threads. Only the number of
    /// scratch slabs, which changes no result, follows the number of compute units.
    package struct CPUKernelClass: KernelClass {
        let device: KernelDevice

        package init(device: KernelDevice) {
            self.device = device
        }

        package var name: String { "cpu-class" }

        /// Floats per vector of a register tile: 16, 8 or 4. Wider than native, its accumulators would be spilled.
        var vectorWidth: Int {
            device.nativeFloatVectorWidth >= 16 ? 16 : device.nativeFloatVectorWidth >= 8 ? 8 : 4
        }

        /// Pixels of a register tile of two vectors per pixel: 28 of 32 registers, or 12 of 16.
        var tilePixels: Int { vectorWidth == 16 ? 14 : 6 }

        /// What programs of register tiles have in common. Processors' compilers know a prefetch.
        func tileDefinitions(_ tile: Int) -> [KernelLaunch.Definition] {
            [.init("VECTOR", vectorWidth), .init("MR", tile)] + (device.isGPU ? [] : [.init("FETCHES", 1)])
        }

        package func byteCount(of kind: ValueKind) -> Int { ChannelBlockedLayout.byteCount(of: kind) }

        package func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? {
            ChannelBlockedLayout.channelOffset(of: channels, in: shape)
        }

        package func pack(_ tensor: HostTensor, kind: ValueKind) throws(DeviceError) -> [UInt8] {
            try ChannelBlockedLayout.pack(tensor, kind: kind)
        }

        package func pack(
            _ tensor: HostTensor, kind: ValueKind, into target: UnsafeMutableRawBufferPointer
        ) throws(DeviceError) {
            // The device's own threads wait for the input, so its processors are free.
            try ChannelBlockedLayout.pack(tensor, kind: kind, into: target) { unitCount, body in
                DispatchQueue.concurrentPerform(iterations: unitCount, execute: body)
            }
        }

        package func unpack(_ bytes: UnsafeRawBufferPointer, kind: ValueKind) -> HostTensor {
            ChannelBlockedLayout.unpack(bytes, kind: kind)
        }

        package func workspaceByteCount(for primitive: Primitive) -> Int {
            // What cannot be planned at all is reported by `launches`, which plans the same.
            (try? plan(primitive, cohortByteCount: 0).workspaceByteCount) ?? 0
        }

        package func launches(
            for primitive: Primitive, cohortByteCount: Int
        ) throws(DeviceError) -> [KernelLaunch] {
            try plan(primitive, cohortByteCount: cohortByteCount).launches
        }

        /// The launches of a primitive and the scratch they need.
        private func plan(_ primitive: Primitive, cohortByteCount: Int) throws(DeviceError) -> LaunchPlan {
            switch primitive {
            case .imageNormalization(let shape, let mean, let deviation):
                try checked(shape, primitive)
                return try normalizeImage(shape, mean, deviation)
            case .convolution(let geometry, let epilogue):
                try checked(geometry.input, geometry.output, primitive)
                return convolution(geometry, epilogue)
            case .convolutionInputGradient(let geometry, let addend):
                try checked(geometry.input, geometry.output, primitive)
                return convolutionInputGradient(geometry, addend: addend)
            case .convolutionWeightGradient(let geometry):
                try checked(geometry.input, geometry.output, primitive)
                return convolutionWeightGradient(geometry)
            case .channelSum(let shape):
                try checked(shape, primitive)
                return channelSum(shape)
            case .batchNormalizationTraining(let shape, let epsilon, let momentum, let epilogue):
                try checked(shape, primitive)
                return batchNormalizationTraining(shape, epsilon, momentum, epilogue)
            case .batchNormalizationInference(let shape, let epsilon, let epilogue):
                try checked(shape, primitive)
                return batchNormalizationInference(shape, epsilon, epilogue)
            case .batchNormalizationReplay(let shape, let epilogue):
                try checked(shape, primitive)
                return batchNormalizationReplay(shape, epilogue)
            case .batchNormalizationTrainingGradient(let shape):
                try checked(shape, primitive)
                return batchNormalizationTrainingGradient(shape)
            case .batchNormalizationInferenceGradient(let shape, let epsilon):
                try checked(shape, primitive)
                return batchNormalizationInferenceGradient(shape, epsilon)
            case .relu(let shape):
                try checked(shape, primitive)
                return elementwise("relu", shape, [.input(0), .output(0)])
            case .reluGradient(let shape):
                try checked(shape, primitive)
                return elementwise("relu_gradient", shape, [.input(0), .input(1), .output(0)])
            case .activation(let shape, let activation):
                try checked(shape, primitive)
                return self.activation(shape, activation)
            case .activationGradient(let shape, let activation):
                try checked(shape, primitive)
                return elementwise(
                    "activation_gradient", shape, [.input(0), .input(1), .output(0)],
                    definitions: [.init("ACTIVATION", activation.code)])
            case .layerNormalization(let shape, let epsilon):
                try checked(shape, primitive)
                return layerNormalization(shape, epsilon)
            case .layerNormalizationGradient(let shape, let epsilon):
                try checked(shape, primitive)
                return layerNormalizationGradient(shape, epsilon)
            case .layerScale(let shape):
                try checked(shape, primitive)
                return layerScale(shape)
            case .layerScaleGradient(let shape):
                try checked(shape, primitive)
                return layerScaleGradient(shape)
            case .channelScale(let shape):
                try checked(shape, primitive)
                return planewise("channel_scale", shape, [.input(0), .input(1), .output(0)])
            case .channelScaleGradient(let shape):
                try checked(shape, primitive)
                return planewise("channel_scale_gradient", shape, [.input(0), .input(1), .output(0)])
            case .stochasticDepth(let shape, let rate, let salt):
                try checked(shape, primitive)
                return stochasticDepth(shape, rate, salt)
            case .maxPooling(let geometry, let indices):
                try checked(geometry.input, geometry.output, primitive)
                return maxPooling(geometry, indices: indices)
            case .maxPoolingGradient(let geometry):
                try checked(geometry.input, geometry.output, primitive)
                return maxPoolingGradient(geometry)
            case .averagePooling(let geometry):
                try checked(geometry.input, geometry.output, primitive)
                return averagePooling(geometry)
            case .averagePoolingGradient(let geometry):
                try checked(geometry.input, geometry.output, primitive)
                return averagePoolingGradient(geometry)
            case .adaptiveAveragePooling(let shape, let height, let width):
                try checked(shape, primitive)
                return adaptiveAveragePooling(shape, height, width)
            case .adaptiveAveragePoolingGradient(let shape, let height, let width):
                try checked(shape, primitive)
                return adaptiveAveragePoolingGradient(shape, height, width)
            case .add(let shape, let relu):
                try checked(shape, primitive)
                return elementwise(
                    "add", shape, [.input(0), .input(1), .output(0)], definitions: [.init("RELU", relu ? 1 : 0)])
            case .concatenation(let shape, let channels):
                try checked(shape, primitive)
                return concatenation(shape, channels)
            case .channelSlice(let shape, let offset, let count):
                try checked(shape, primitive)
                return channelSlice(shape, offset, count)
            case .dropout(let shape, let rate, let salt):
                try checked(shape, primitive)
                return dropout(shape, rate, salt)
            case .flatten(let shape):
                try checked(shape, primitive)
                return flatten(shape)
            case .flattenGradient(let shape):
                try checked(shape, primitive)
                return flattenGradient(shape)
            case .subsampleAndPad(let shape, let stride, let before, let after):
                try checked(shape, primitive)
                return subsampleAndPad(shape, stride, before, after)
            case .subsampleAndPadGradient(let shape, let stride, let before, let after):
                try checked(shape, primitive)
                return subsampleAndPadGradient(shape, stride, before, after)
            case .softmaxCrossEntropy(let batch, let classes, let labelSmoothing, let targets):
                return softmaxCrossEntropy(batch, classes, labelSmoothing, targets)
            case .optimizerUpdate(let rule, _):
                return optimizerUpdate(rule, cohortByteCount)
            case .gradientAccumulation(let state):
                return slabLaunch(
                    "accumulate", [.cohortGradients, .cohortState(state)], cohortByteCount, [.accumulationShare])
            case .gradientNorm(let maximum): return gradientNorm(maximum, cohortByteCount)
            case .gradientScaling:
                return slabLaunch("scale_by_norm", [.cohortGradients, .input(0)], cohortByteCount)
            case .weightAveraging(let state, let decay):
                return slabLaunch(
                    "average_weights", [.cohortParameters, .cohortState(state)], cohortByteCount,
                    [.float32(1 - decay)])
            }
        }

        /// Kernels count vectors of 16 in 32 bits.
        private func checked(_ shapes: ActivationShape..., primitive: Primitive) throws(DeviceError) {
            for shape in shapes {
                let vectors = ChannelBlockedLayout.blockCount(shape.channels) * shape.batch * shape.pixelCount
                guard vectors <= Int32.max else {
                    throw DeviceError.unsupported(
                        "\(primitive.kind) of \(shape) is too large for the OpenCL kernels: \(vectors) vectors, at most \(Int32.max); try a smaller --batch-size"
                    )
                }
            }
        }

        private func checked(_ shape: ActivationShape, _ primitive: Primitive) throws(DeviceError) {
            try checked(shape, primitive: primitive)
        }

        private func checked(
            _ first: ActivationShape, _ second: ActivationShape, _ primitive: Primitive
        ) throws(DeviceError) {
            try checked(first, second, primitive: primitive)
        }
    }

    /// Launches under construction, with the workspace they share.
    struct LaunchPlan {
        var launches: [KernelLaunch] = []
        private(set) var workspaceByteCount = 0

        /// A range of the workspace that no other argument of this primitive touches.
        mutating func takeWorkspace(floats: Int) -> KernelArgument {
            let alignment = KernelArgument.workspaceAlignment
            let byteCount = max(4 * floats, 4)
            let offset = workspaceByteCount
            workspaceByteCount = (offset + byteCount + alignment - 1) / alignment * alignment
            return .workspace(offset: offset, byteCount: byteCount)
        }

        /// Adds a launch of work-groups of one; nothing where an extent is zero.
        mutating func launch(
            _ file: String, _ kernel: String, _ definitions: [KernelLaunch.Definition] = [],
            _ arguments: [KernelArgument], global: Int...
        ) {
            guard !global.contains(0) else { return }
            launches.append(
                KernelLaunch(
                    file: file, kernel: kernel, definitions: definitions, arguments: arguments, globalSize: global,
                    localSize: global.map { _ in 1 }))
        }
    }

    /// Arguments from host integers; shapes have been checked to fit.
    func integers(_ values: Int...) -> [KernelArgument] { values.map { .int32(Int32(clamping: $0)) } }

    /// ⌈a/b⌉ for a ≥ 0.
    func ceilDivide(_ a: Int, _ b: Int) -> Int { (a + b - 1) / b }

    /// How many of `count` things to an item so that items differ by little: drivers deal items out in large lots.
    func evenShare(of count: Int, atMost most: Int) -> Int { ceilDivide(count, ceilDivide(count, most)) }
#endif
