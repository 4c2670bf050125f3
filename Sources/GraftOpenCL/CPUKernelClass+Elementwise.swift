#if OpenCL
    import GraftGraph

    extension LossTargets {
        /// What the loss kernels of both classes are built with.
        var definitions: [KernelLaunch.Definition] {
            self == .labels ? [] : [.init("MIXED", isMixed ? 1 : 0), .init("WEIGHTED", isWeighted ? 1 : 0)]
        }

        /// The operands behind logits and labels.
        var operands: [KernelArgument] {
            (isMixed ? [.input(2), .input(3)] : []) + (isWeighted ? [.input(isMixed ? 4 : 2)] : [])
        }
    }

    /// `elementwise_cpu.cl`, `softmax_cross_entropy_cpu.cl`, `optimizer_cpu.cl` and `gradients_cpu.cl`.
    extension CPUKernelClass {
        private static let file = "elementwise_cpu"
        /// Vectors of 16 floats per work-item: 64 KiB of each operand.
        private static let runVectors = 1024

        /// `arguments` are the kernel's first; the count and length of runs follow, then `rest`.
        func elementwise(
            _ kernel: String, _ shape: ActivationShape, _ arguments: [KernelArgument],
            definitions: [KernelLaunch.Definition] = [], rest: [KernelArgument] = []
        ) -> LaunchPlan {
            var plan = LaunchPlan()
            let vectors = ChannelBlockedLayout.blockCount(shape.channels) * shape.batch * shape.pixelCount
            plan.launch(
                Self.file, kernel, definitions, arguments + integers(vectors, Self.runVectors) + rest,
                global: ceilDivide(vectors, Self.runVectors))
            return plan
        }

        /// y from x, or in place.
        func append(
            _ activation: Activation, _ shape: ActivationShape, from source: KernelArgument, to plan: inout LaunchPlan
        ) {
            let pixels = shape.batch * shape.pixelCount
            plan.launch(
                Self.file, "activate", [.init("ACTIVATION", activation.code)],
                [source, .output(0)] + integers(pixels, Self.runVectors, shape.channels),
                global: ceilDivide(pixels, Self.runVectors), ChannelBlockedLayout.blockCount(shape.channels))
        }

        func activation(_ shape: ActivationShape, _ activation: Activation) -> LaunchPlan {
            var plan = LaunchPlan()
            append(activation, shape, from: .input(0), to: &plan)
            return plan
        }

        /// One item per plane: `arguments`, the pixels, then `rest`.
        func planewise(
            _ kernel: String, _ shape: ActivationShape, _ arguments: [KernelArgument], rest: [KernelArgument] = []
        ) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, kernel, [], arguments + integers(shape.pixelCount) + rest, global: shape.batch,
                ChannelBlockedLayout.blockCount(shape.channels))
            return plan
        }

        func stochasticDepth(_ shape: ActivationShape, _ rate: Float, _ salt: UInt32) -> LaunchPlan {
            planewise(
                "stochastic_depth", shape, [.input(0), .output(0)],
                rest: [
                    .uint32(DropoutMask.threshold(rate: rate)), .float32(1 - rate), .dropoutKey(salt: salt),
                ])
        }

        func dropout(_ shape: ActivationShape, _ rate: Float, _ salt: UInt32) -> LaunchPlan {
            elementwise(
                "dropout", shape, [.input(0), .output(0)],
                rest: integers(shape.batch, shape.channels, shape.pixelCount) + [
                    .uint32(DropoutMask.threshold(rate: rate)), .float32(1 - rate), .dropoutKey(salt: salt),
                ])
        }

        func normalizeImage(
            _ shape: ActivationShape, _ mean: [Float], _ deviation: [Float]
        ) throws(DeviceError) -> LaunchPlan {
            guard shape.channels == 3, mean.count == 3, deviation.count == 3 else {
                throw DeviceError.unsupported(
                    "image normalisation has \(mean.count) means and \(deviation.count) deviations for \(shape.channels) channels; 3 of each are needed"
                )
            }
            var plan = LaunchPlan()
            let pixels = shape.batch * shape.pixelCount
            plan.launch(
                Self.file, "normalize_image", shape.isCompact ? [.init("COMPACT", 1)] : [],
                [.input(0), .output(0)] + integers(pixels, Self.runVectors)
                    + (mean + deviation).map { .float32($0) },
                global: ceilDivide(pixels, Self.runVectors))
            return plan
        }

        // MARK: Channels

        /// Channels `first ..< first + count` of y are channels `first + shift ..<` of x.
        private func copyChannels(
            _ shape: ActivationShape, from input: Int, first: Int, count: Int, shift: Int, to plan: inout LaunchPlan
        ) {
            guard count > 0 else { return }
            let pixels = shape.batch * shape.pixelCount
            plan.launch(
                Self.file, "copy_channels", [.init("ALIGNED", shift % 16 == 0 ? 1 : 0)],
                [.input(input), .output(0)] + integers(pixels, Self.runVectors, first, count, shift),
                global: ceilDivide(pixels, Self.runVectors), (first + count - 1) / 16 - first / 16 + 1)
        }

        func concatenation(_ shape: ActivationShape, _ channels: [Int]) -> LaunchPlan {
            var plan = LaunchPlan()
            var first = 0
            for (input, count) in channels.enumerated() {
                copyChannels(shape, from: input, first: first, count: count, shift: -first, to: &plan)
                first += count
            }
            return plan
        }

        func channelSlice(_ shape: ActivationShape, _ offset: Int, _ count: Int) -> LaunchPlan {
            var plan = LaunchPlan()
            copyChannels(shape, from: 0, first: 0, count: count, shift: offset, to: &plan)
            return plan
        }

        func flatten(_ shape: ActivationShape) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "flatten", [],
                [.input(0), .output(0)] + integers(shape.channels, shape.pixelCount),
                global: shape.batch, ChannelBlockedLayout.blockCount(shape.channels * shape.pixelCount))
            return plan
        }

        func flattenGradient(_ shape: ActivationShape) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "flatten_gradient", [],
                [.input(0), .output(0)] + integers(shape.channels, shape.pixelCount),
                global: shape.batch, ChannelBlockedLayout.blockCount(shape.channels))
            return plan
        }

        func subsampleAndPad(_ shape: ActivationShape, _ stride: Int, _ before: Int, _ after: Int) -> LaunchPlan {
            var plan = LaunchPlan()
            let height = ceilDivide(shape.height, stride)
            let width = ceilDivide(shape.width, stride)
            plan.launch(
                Self.file, "subsample", [.init("ALIGNED", before % 16 == 0 ? 1 : 0)],
                [.input(0), .output(0)]
                    + integers(shape.channels, shape.height, shape.width, height, width, stride, before),
                global: shape.batch * height, ChannelBlockedLayout.blockCount(before + shape.channels + after))
            return plan
        }

        func subsampleAndPadGradient(
            _ shape: ActivationShape, _ stride: Int, _ before: Int, _ after: Int
        ) -> LaunchPlan {
            var plan = LaunchPlan()
            plan.launch(
                Self.file, "subsample_gradient", [],
                [.input(0), .output(0)]
                    + integers(
                        shape.channels, shape.height, shape.width, ceilDivide(shape.height, stride),
                        ceilDivide(shape.width, stride), stride, before),
                global: shape.batch * shape.height, ChannelBlockedLayout.blockCount(shape.channels))
            return plan
        }

        // MARK: Loss and update

        func softmaxCrossEntropy(
            _ batch: Int, _ classes: Int, _ labelSmoothing: Float, _ targets: LossTargets
        ) -> LaunchPlan {
            var plan = LaunchPlan()
            let partial = plan.takeWorkspace(floats: batch * 2)
            plan.launch(
                "softmax_cross_entropy_cpu", "softmax_cross_entropy", targets.definitions,
                [.input(0), .input(1), .output(0), partial] + targets.operands + integers(classes)
                    + [.float32(labelSmoothing)],
                global: batch)
            plan.launch(
                "softmax_cross_entropy_cpu", "mean_metrics", [], [partial, .output(1)] + integers(batch), global: 1)
            return plan
        }

        /// One launch of a kernel of `gradients_cpu.cl` over the slabs of all cohorts.
        func slabLaunch(
            _ kernel: String, _ buffers: [KernelArgument], _ byteCount: Int, _ trailing: [KernelArgument] = []
        ) -> LaunchPlan {
            var plan = LaunchPlan()
            let vectors = byteCount / 64
            plan.launch(
                "gradients_cpu", kernel, [], buffers + integers(vectors, Self.runVectors) + trailing,
                global: ceilDivide(vectors, Self.runVectors))
            return plan
        }

        /// Squares are summed in this many runs, whatever the device.
        private static let normPartialCount = 256

        func gradientNorm(_ maximum: Float, _ byteCount: Int) -> LaunchPlan {
            var plan = LaunchPlan()
            let partial = plan.takeWorkspace(floats: Self.normPartialCount * 16)
            plan.launch(
                "gradients_cpu", "square_sums", [],
                [.cohortGradients, partial]
                    + integers(byteCount / 64, ceilDivide(byteCount / 64, Self.normPartialCount)),
                global: Self.normPartialCount)
            plan.launch(
                "gradients_cpu", "norm", [],
                [partial, .output(0)] + integers(Self.normPartialCount) + [.float32(maximum)], global: 1)
            return plan
        }

        func optimizerUpdate(_ rule: OptimizerRule, _ cohortByteCount: Int) -> LaunchPlan {
            var plan = LaunchPlan()
            let floats = cohortByteCount / 4
            let runFloats = 16 * Self.runVectors
            let slabs: [KernelArgument] = [.cohortParameters, .cohortGradients]
            let runs = integers(floats, runFloats)
            let items = ceilDivide(floats, runFloats)
            switch rule {
            case .sgd(let momentum, let nesterov):
                plan.launch(
                    "optimizer_cpu", "sgd",
                    [.init("MOMENTUM", momentum ? 1 : 0), .init("NESTEROV", momentum && nesterov ? 1 : 0)],
                    slabs + (momentum ? [.cohortState(0)] : []) + runs
                        + [.cohortConstant(.learningRate), .cohortConstant(.weightDecay)]
                        + (momentum ? [.cohortConstant(.momentum), .cohortConstant(.isFirstStep)] : []),
                    global: items)
            case .adam(let decoupledWeightDecay):
                plan.launch(
                    "optimizer_cpu", "adam", [.init("DECOUPLED", decoupledWeightDecay ? 1 : 0)],
                    slabs + [.cohortState(0), .cohortState(1)] + runs
                        + [
                            .cohortConstant(.learningRate), .cohortConstant(.weightDecay), .cohortConstant(.beta1),
                            .cohortConstant(.beta2), .cohortConstant(.epsilon), .cohortConstant(.biasCorrection1),
                            .cohortConstant(.biasCorrection2Root),
                        ],
                    global: items)
            }
            return plan
        }
    }
#endif
