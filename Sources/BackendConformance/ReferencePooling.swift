import GraftGraph

extension ReferenceExecutor {
    /// Calls `body(y index, x's plane start, tap)` for each tap of each window that lies on the image; `tap` is `h·W + w`.
    private static func forEachTap(_ g: PoolingGeometry, _ body: (Int, Int, Int) -> Void) {
        let (x, y) = (g.input, g.output)
        for plane in 0..<x.batch * x.channels {
            for p in 0..<y.height {
                for q in 0..<y.width {
                    for r in 0..<g.kernelHeight {
                        let h = p * g.strideHeight - g.paddingHeight + r * g.dilation
                        guard h >= 0, h < x.height else { continue }
                        for s in 0..<g.kernelWidth {
                            let w = q * g.strideWidth - g.paddingWidth + s * g.dilation
                            guard w >= 0, w < x.width else { continue }
                            body((plane * y.height + p) * y.width + q, plane * x.pixelCount, h * x.width + w)
                        }
                    }
                }
            }
        }
    }

    static func maxPooling(_ g: PoolingGeometry, _ x: [Double]) -> [ReferenceOutput] {
        var y = ReferenceOutput(exact: [Double](repeating: -.infinity, count: g.output.elementCount))
        var indices = ReferenceOutput(exact: [Double](repeating: -1, count: g.output.elementCount))
        forEachTap(g) { index, plane, tap in
            let value = x[plane + tap]
            if indices.values[index] < 0 || value > y.values[index] || value.isNaN {
                y.values[index] = value
                indices.values[index] = Double(tap)
            }
        }
        return [y, indices]
    }

    /// The largest of values that are not exact: no further off than the furthest of its window.
    static func maxima(_ g: PoolingGeometry, of x: ReferenceOutput) -> ReferenceOutput {
        var y = maxPooling(g, x.values)[0]
        forEachTap(g) { index, plane, tap in y.bounds[index] = max(y.bounds[index], x.bounds[plane + tap]) }
        return y
    }

    static func maxPoolingGradient(_ g: PoolingGeometry, _ dy: [Double], _ indices: [Double]) -> ReferenceOutput {
        let (x, y) = (g.input, g.output)
        var output = ReferenceOutput(count: x.elementCount)
        var squares = output.values
        var counts = output.values
        for index in dy.indices {
            let target = index / y.pixelCount * x.pixelCount + Int(indices[index])
            output.values[target] += dy[index]
            squares[target] += dy[index] * dy[index]
            counts[target] += 1
        }
        for index in counts.indices where counts[index] > 1 {
            output.bounds[index] = (counts[index] * squares[index]).squareRoot()
        }
        return output
    }

    /// What a window's sum is divided by: with padding counted, the part of the window on the padded image.
    private static func divisors(_ g: PoolingGeometry) -> [Double] {
        let (x, y) = (g.input, g.output)
        func extent(_ position: Int, _ stride: Int, _ kernel: Int, _ padding: Int, _ size: Int) -> Int {
            let start = position * stride - padding
            let end = min(start + kernel, size + padding)
            return g.countsPadding ? end - start : min(end, size) - max(start, 0)
        }
        return (0..<y.pixelCount).map { pixel in
            Double(
                extent(pixel / y.width, g.strideHeight, g.kernelHeight, g.paddingHeight, x.height)
                    * extent(pixel % y.width, g.strideWidth, g.kernelWidth, g.paddingWidth, x.width))
        }
    }

    static func averagePooling(_ g: PoolingGeometry, _ x: [Double]) -> ReferenceOutput {
        let divisors = divisors(g)
        var output = ReferenceOutput(count: g.output.elementCount)
        var squares = output.values
        var counts = output.values
        forEachTap(g) { index, plane, tap in
            output.values[index] += x[plane + tap]
            squares[index] += x[plane + tap] * x[plane + tap]
            counts[index] += 1
        }
        for index in output.values.indices {
            let divisor = divisors[index % divisors.count]
            output.values[index] /= divisor
            output.bounds[index] = (counts[index] * squares[index]).squareRoot() / divisor
        }
        return output
    }

    static func averagePoolingGradient(_ g: PoolingGeometry, _ dy: [Double]) -> ReferenceOutput {
        let divisors = divisors(g)
        var output = ReferenceOutput(count: g.input.elementCount)
        var squares = output.values
        var counts = output.values
        forEachTap(g) { index, plane, tap in
            let term = dy[index] / divisors[index % divisors.count]
            output.values[plane + tap] += term
            squares[plane + tap] += term * term
            counts[plane + tap] += 1
        }
        for index in counts.indices { output.bounds[index] = (counts[index] * squares[index]).squareRoot() }
        return output
    }

    /// Calls `body(y index, x index, taps of the bin)` for each tap of each bin.
    private static func forEachBinTap(
        _ s: ActivationShape, _ height: Int, _ width: Int, _ body: (Int, Int, Int) -> Void
    ) {
        func bin(_ index: Int, _ count: Int, _ size: Int) -> Range<Int> {
            index * size / count..<((index + 1) * size + count - 1) / count
        }
        for plane in 0..<s.batch * s.channels {
            for p in 0..<height {
                let rows = bin(p, height, s.height)
                for q in 0..<width {
                    let columns = bin(q, width, s.width)
                    for h in rows {
                        for w in columns {
                            body(
                                (plane * height + p) * width + q, (plane * s.height + h) * s.width + w,
                                rows.count * columns.count)
                        }
                    }
                }
            }
        }
    }

    static func adaptiveAveragePooling(
        _ s: ActivationShape, _ height: Int, _ width: Int, _ x: [Double]
    ) -> ReferenceOutput {
        var output = ReferenceOutput(count: s.batch * s.channels * height * width)
        var squares = output.values
        forEachBinTap(s, height, width) { index, source, count in
            let term = x[source] / Double(count)
            output.values[index] += term
            squares[index] += term * term * Double(count)
        }
        output.bounds = squares.map { $0.squareRoot() }
        return output
    }

    static func adaptiveAveragePoolingGradient(
        _ s: ActivationShape, _ height: Int, _ width: Int, _ dy: [Double]
    ) -> ReferenceOutput {
        var output = ReferenceOutput(count: s.elementCount)
        var squares = output.values
        var counts = output.values
        forEachBinTap(s, height, width) { index, target, count in
            let term = dy[index] / Double(count)
            output.values[target] += term
            squares[target] += term * term
            counts[target] += 1
        }
        for index in counts.indices { output.bounds[index] = (counts[index] * squares[index]).squareRoot() }
        return output
    }
}
