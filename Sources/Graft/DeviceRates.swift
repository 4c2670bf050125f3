import GraftGraph
import GraftTensor

/// What a device reaches on work made for it, as the measure of what a network's instructions reach.
///
/// Measured through the same backend: a 1×1 convolution of 256 to 256 channels, whose operands stay in the caches, and
/// an element-wise pass over 49 MiB that are read and as many that are written.
public struct DeviceRates: Sendable, Hashable {
    /// Operations per second of the convolution, two per multiply-accumulate.
    public let operationsPerSecond: Double
    /// Bytes read and written per second by the element-wise pass.
    public let bytesPerSecond: Double

    /// Measures; about a second.
    ///
    /// - Throws: `DeviceError` when memory or kernels fail.
    init(backend: any DeviceBackend) throws {
        let shape = ActivationShape(8, 256, 28, 28)
        let geometry = ConvolutionGeometry(input: shape, outputChannels: 256, kernelHeight: 1, kernelWidth: 1)
        var product = Program()
        let source = product.add(.activation(shape), .input, "input")
        let weight = product.add(.weight(geometry.weight), .input, "weight")
        let result = product.add(.activation(geometry.output), .output, "output")
        product.append(.convolution(geometry, .none), [source, weight], [result], node: "product")
        operationsPerSecond =
            try 2 * Double(geometry.multiplyAccumulateCount) / Self.fastest(product, repeats: 20, backend: backend)

        let plane = ActivationShape(16, 64, 112, 112)
        var pass = Program()
        let read = pass.add(.activation(plane), .input, "input")
        let written = pass.add(.activation(plane), .output, "output")
        pass.append(.relu(plane), [read], [written], node: "pass")
        bytesPerSecond = try 8 * Double(plane.elementCount) / Self.fastest(pass, repeats: 10, backend: backend)
    }

    /// Seconds of the fastest run.
    private static func fastest(_ program: Program, repeats: Int, backend: any DeviceBackend) throws -> Double {
        let plan = try MemoryPlan(programs: [program], layout: MemoryLayout(backend: backend))
        let memory = try backend.allocate(plan)
        // Whatever the memory held could be denormal, and slow.
        try memory.fill(0)
        let prepared = try backend.prepare(program, index: 0, memory: memory)
        var fastest = Double.infinity
        for _ in 0..<repeats {
            fastest = min(fastest, try prepared.profile(StepConstants()).reduce(0, +))
        }
        return fastest
    }
}
