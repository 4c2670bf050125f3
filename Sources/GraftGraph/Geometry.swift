/// Extents of an activation: batch, channels, height, width. All of graph, plan and tests speak NCHW;
/// the physical layout is private to a kernel class.
package struct ActivationShape: Hashable, Sendable, CustomStringConvertible {
    package var batch: Int
    package var channels: Int
    package var height: Int
    package var width: Int
    /// Whether the channels of a pixel follow each other without padding, `[N][H][W][C]`, in kernel classes that pad them
    /// to blocks otherwise: an image that only convolutions of few channels read
    /// (``ConvolutionGeometry/canReadCompactInput``).
    package var isCompact = false

    package init(_ batch: Int, _ channels: Int, _ height: Int, _ width: Int) {
        self.batch = batch
        self.channels = channels
        self.height = height
        self.width = width
    }

    package var elementCount: Int { batch * channels * height * width }
    package var pixelCount: Int { height * width }
    package var description: String { "[\(batch), \(channels), \(height), \(width)]" }

    package func with(channels: Int) -> ActivationShape { ActivationShape(batch, channels, height, width) }

    /// The same extents without padding in memory.
    package var compact: ActivationShape {
        var copy = self
        copy.isCompact = true
        return copy
    }
}

/// A 2-D convolution, `torch.nn.Conv2d`: `output[n,k,p,q] = Σ weight[k,c,r,s] · input[n, g·C/groups + c, p·stride + r·dilation − padding, …]`.
///
/// Weight `[outputChannels, inputChannels/groups, kernelHeight, kernelWidth]`. A linear layer is the case of a 1×1
/// kernel on a 1×1 plane.
package struct ConvolutionGeometry: Hashable, Sendable {
    package var input: ActivationShape
    package var outputChannels: Int
    package var kernelHeight: Int
    package var kernelWidth: Int
    package var strideHeight: Int
    package var strideWidth: Int
    package var paddingHeight: Int
    package var paddingWidth: Int
    package var dilationHeight: Int
    package var dilationWidth: Int
    package var groups: Int
    /// How it is summed; the same for a convolution and its gradients, which may each have another.
    package var method = ConvolutionMethod.direct

    package init(
        input: ActivationShape, outputChannels: Int, kernelHeight: Int, kernelWidth: Int, strideHeight: Int = 1,
        strideWidth: Int = 1, paddingHeight: Int = 0, paddingWidth: Int = 0, dilationHeight: Int = 1,
        dilationWidth: Int = 1, groups: Int = 1
    ) {
        self.input = input
        self.outputChannels = outputChannels
        self.kernelHeight = kernelHeight
        self.kernelWidth = kernelWidth
        self.strideHeight = strideHeight
        self.strideWidth = strideWidth
        self.paddingHeight = paddingHeight
        self.paddingWidth = paddingWidth
        self.dilationHeight = dilationHeight
        self.dilationWidth = dilationWidth
        self.groups = groups
    }

    /// `⌊(extent + 2·padding − dilation·(kernel − 1) − 1) / stride⌋ + 1` in both directions.
    package var output: ActivationShape {
        ActivationShape(
            input.batch, outputChannels,
            (input.height + 2 * paddingHeight - dilationHeight * (kernelHeight - 1) - 1) / strideHeight + 1,
            (input.width + 2 * paddingWidth - dilationWidth * (kernelWidth - 1) - 1) / strideWidth + 1)
    }

    package var weight: WeightShape {
        WeightShape(
            outputChannels: outputChannels, inputChannels: input.channels, kernelHeight: kernelHeight,
            kernelWidth: kernelWidth, groups: groups)
    }

    /// A first layer: the lanes of a block of channels would be mostly padding, and are left out of the sums.
    package var hasFewInputChannels: Bool { input.channels <= 4 && groups == 1 && kernelHeight * kernelWidth > 1 }

    /// Whether it and its weights' gradient can read an input that is compact: all kernel classes gather so few channels
    /// in any case.
    package var canReadCompactInput: Bool { hasFewInputChannels && method == .direct }

    /// Whether its result can be pooled where it is made. Winograd's tiles of 4×4 hold whole windows of 2×2; a first layer,
    /// whose result is the largest of a network, is pooled a band of rows at a time, with windows that overlap by little,
    /// since rows that two bands need are computed twice.
    package func canPool(_ pooling: PoolingGeometry, _ epilogue: Epilogue) -> Bool {
        guard pooling.input == output, pooling.kernelHeight == pooling.kernelWidth,
            pooling.strideHeight == pooling.strideWidth, pooling.paddingHeight == pooling.paddingWidth,
            pooling.dilation == 1, pooling.output.pixelCount > 0, !epilogue.residual, epilogue.furtherActivation == nil
        else { return false }
        if method != .direct, canUseWinograd {
            return pooling.kernelHeight == 2 && pooling.strideHeight == 2 && pooling.paddingHeight == 0
                && pooling.output.height == output.height / 2 && pooling.output.width == output.width / 2
        }
        return input.isCompact && canReadCompactInput && (2...3).contains(pooling.kernelHeight)
            && pooling.strideHeight >= 2
    }

    /// One filter per channel: kernels of their own run it.
    package var isDepthwise: Bool { weight.isDepthwise }

    /// Multiply-accumulate operations of the forward pass.
    package var multiplyAccumulateCount: Int {
        output.elementCount * weight.inputChannelsPerGroup * kernelHeight * kernelWidth
    }
}

/// Extents of a convolution's weight; logical order `[outputChannels, inputChannels/groups, kernelHeight, kernelWidth]`.
package struct WeightShape: Hashable, Sendable {
    package var outputChannels: Int
    package var inputChannels: Int
    package var kernelHeight: Int
    package var kernelWidth: Int
    package var groups: Int

    package init(outputChannels: Int, inputChannels: Int, kernelHeight: Int, kernelWidth: Int, groups: Int = 1) {
        self.outputChannels = outputChannels
        self.inputChannels = inputChannels
        self.kernelHeight = kernelHeight
        self.kernelWidth = kernelWidth
        self.groups = groups
    }

    package var inputChannelsPerGroup: Int { inputChannels / groups }
    /// Every channel is a group of its own, with one filter.
    package var isDepthwise: Bool { groups > 1 && groups == inputChannels && outputChannels == inputChannels }
    package var elementCount: Int { outputChannels * inputChannelsPerGroup * kernelHeight * kernelWidth }
}

/// A pooling window, `torch.nn.MaxPool2d` / `AvgPool2d`. `output` is computed by ``PoolingGeometry/output(of:)`` once and kept.
package struct PoolingGeometry: Hashable, Sendable {
    package var input: ActivationShape
    package var kernelHeight: Int
    package var kernelWidth: Int
    package var strideHeight: Int
    package var strideWidth: Int
    package var paddingHeight: Int
    package var paddingWidth: Int
    package var dilation: Int
    package var ceilMode: Bool
    /// Average pooling only: whether padding counts in the divisor (PyTorch's default).
    package var countsPadding: Bool

    package init(
        input: ActivationShape, kernel: Int, stride: Int, padding: Int = 0, dilation: Int = 1, ceilMode: Bool = false,
        countsPadding: Bool = true
    ) {
        self.input = input
        kernelHeight = kernel
        kernelWidth = kernel
        strideHeight = stride
        strideWidth = stride
        paddingHeight = padding
        paddingWidth = padding
        self.dilation = dilation
        self.ceilMode = ceilMode
        self.countsPadding = countsPadding
    }

    /// PyTorch's rule: with `ceilMode` the quotient is rounded up, but a window that would start in the far padding is dropped.
    package static func outputExtent(
        _ extent: Int, kernel: Int, stride: Int, padding: Int, dilation: Int, ceilMode: Bool
    ) -> Int {
        let span = extent + 2 * padding - dilation * (kernel - 1) - 1
        guard span >= 0 else { return 0 }
        var count = (ceilMode ? (span + stride - 1) / stride : span / stride) + 1
        if ceilMode, (count - 1) * stride >= extent + padding { count -= 1 }
        return count
    }

    package var output: ActivationShape {
        ActivationShape(
            input.batch, input.channels,
            Self.outputExtent(
                input.height, kernel: kernelHeight, stride: strideHeight, padding: paddingHeight, dilation: dilation,
                ceilMode: ceilMode),
            Self.outputExtent(
                input.width, kernel: kernelWidth, stride: strideWidth, padding: paddingWidth, dilation: dilation,
                ceilMode: ceilMode))
    }
}
