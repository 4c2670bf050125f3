import GraftCPUKernelInterface
import GraftGraph

extension PoolingWindow {
    init(_ geometry: PoolingGeometry) {
        let output = geometry.output
        self.init(
            inputHeight: geometry.input.height, inputWidth: geometry.input.width, outputHeight: output.height,
            outputWidth: output.width, kernelHeight: geometry.kernelHeight, kernelWidth: geometry.kernelWidth,
            strideHeight: geometry.strideHeight, strideWidth: geometry.strideWidth,
            paddingHeight: geometry.paddingHeight,
            paddingWidth: geometry.paddingWidth, dilation: geometry.dilation, countsPadding: geometry.countsPadding)
    }

    /// Adaptive pooling uses the extents only.
    fileprivate init(_ shape: ActivationShape, _ height: Int, _ width: Int) {
        self.init(
            inputHeight: shape.height, inputWidth: shape.width, outputHeight: height, outputWidth: width,
            kernelHeight: 1,
            kernelWidth: 1, strideHeight: 1, strideWidth: 1, paddingHeight: 0, paddingWidth: 0, dilation: 1,
            countsPadding: false)
    }
}

extension InstructionBinding {
    mutating func bindMaxPooling(_ geometry: PoolingGeometry, indices: Bool) throws(DeviceError) {
        let kernels = kernels
        let shape = geometry.input
        let output = geometry.output
        let window = PoolingWindow(geometry)
        let x = try input(0)
        let y = try self.output(0)
        let places = indices ? try integerOutput(1) : nil
        parallel(shape.blocks * shape.batch) { plane, _ in
            let start = plane * output.planeFloats
            kernels.maxPool(
                window, x + plane * shape.planeFloats, y + start, places.map { $0 + start },
                shape.lanes(of: plane / shape.batch))
        }
    }

    mutating func bindMaxPoolingGradient(_ geometry: PoolingGeometry) throws(DeviceError) {
        let kernels = kernels
        let shape = geometry.input
        let output = geometry.output
        let window = PoolingWindow(geometry)
        let dy = try input(0)
        let places = try integerInput(1)
        let dx = try self.output(0)
        parallel(shape.blocks * shape.batch) { plane, _ in
            let start = plane * output.planeFloats
            kernels.maxPoolGradient(window, dy + start, places + start, dx + plane * shape.planeFloats)
        }
    }

    mutating func bindAveragePooling(_ geometry: PoolingGeometry) throws(DeviceError) {
        try bindPlanes(
            PoolingWindow(geometry), geometry.input, from: geometry.input, to: geometry.output, kernels.averagePool)
    }

    mutating func bindAveragePoolingGradient(_ geometry: PoolingGeometry) throws(DeviceError) {
        try bindPlanes(
            PoolingWindow(geometry), geometry.input, from: geometry.output, to: geometry.input,
            kernels.averagePoolGradient)
    }

    mutating func bindAdaptiveAveragePooling(_ shape: ActivationShape, _ height: Int, _ width: Int) throws(DeviceError)
    {
        let output = ActivationShape(shape.batch, shape.channels, height, width)
        try bindPlanes(PoolingWindow(shape, height, width), shape, from: shape, to: output, kernels.adaptivePool)
    }

    mutating func bindAdaptiveAveragePoolingGradient(
        _ shape: ActivationShape, _ height: Int, _ width: Int
    ) throws(DeviceError) {
        let output = ActivationShape(shape.batch, shape.channels, height, width)
        try bindPlanes(
            PoolingWindow(shape, height, width), shape, from: output, to: shape, kernels.adaptivePoolGradient)
    }

    /// One unit per plane of input 0 and output 0.
    private mutating func bindPlanes(
        _ window: PoolingWindow, _ shape: ActivationShape, from source: ActivationShape, to target: ActivationShape,
        _ kernel: @escaping (PoolingWindow, UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void
    ) throws(DeviceError) {
        let x = try input(0)
        let y = try output(0)
        parallel(shape.blocks * shape.batch) { plane, _ in
            kernel(window, x + plane * source.planeFloats, y + plane * target.planeFloats)
        }
    }
}
