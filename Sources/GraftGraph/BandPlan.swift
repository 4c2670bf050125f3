/// How the product of a convolution is cut into items that threads take: bands of register tiles times runs of output
/// blocks. It decides how often input is gathered and weights are read, and changes no result.
package struct BandPlan: Hashable, Sendable {
    /// Register tiles of a band.
    package var tiles: Int
    /// Output blocks of 32 channels that an item computes of its band.
    package var blocksPerItem: Int

    /// A product of matrices.
    package struct Product {
        /// Register tiles, each of `pixelsPerTile` rows.
        package var tileCount: Int
        package var pixelsPerTile: Int
        /// Length of the sums: taps times input channels, with padding.
        package var reduction: Int
        /// Blocks of 32 output channels.
        package var outputBlocks: Int
        /// Whether each item gathers its band's rows into scratch of its own.
        package var isGathered: Bool

        package init(tileCount: Int, pixelsPerTile: Int, reduction: Int, outputBlocks: Int, isGathered: Bool) {
            self.tileCount = tileCount
            self.pixelsPerTile = pixelsPerTile
            self.reduction = reduction
            self.outputBlocks = outputBlocks
            self.isGathered = isGathered
        }
    }

    /// Takes the cheapest cut.
    ///
    /// - Parameters:
    ///   - product: what is cut.
    ///   - mostTiles: of a band: what the second-level cache holds.
    ///   - threadCount: that take items.
    ///   - lotCount: lots in which a driver deals out items; nil when each item is dealt out by itself.
    package init(_ product: Product, mostTiles: Int, threadCount: Int, lotCount: Int? = nil) {
        func ceilDivide(_ a: Int, _ b: Int) -> Int { (a + b - 1) / b }
        // In multiply-adds of 16 floats, from the rates of one AVX-512 machine: a vector that is gathered costs as much as
        // 12, one that is read from the last-level cache 4.
        let tileVectors = Double(product.pixelsPerTile * product.reduction) / 16
        let multiply = tileVectors * 32
        let input = tileVectors * (product.isGathered ? 12 : 4)
        let weights = Double(product.reduction * 2) * 4
        tiles = 1
        blocksPerItem = 1
        var best = Double.infinity
        var most = max(min(mostTiles, product.tileCount), 1)
        while most > 0 {
            // Bands of sizes that differ little.
            let bandTiles = ceilDivide(product.tileCount, ceilDivide(product.tileCount, most))
            let bands = ceilDivide(product.tileCount, bandTiles)
            var pieces = 0
            for share in 1...max(product.outputBlocks, 1) {
                guard ceilDivide(product.outputBlocks, share) != pieces else { continue }
                pieces = ceilDivide(product.outputBlocks, share)
                let blocks = ceilDivide(product.outputBlocks, pieces)
                let items = bands * pieces
                let item = Double(bandTiles) * (Double(blocks) * multiply + input) + Double(blocks) * weights
                let lot = item * Double(lotCount.map { ceilDivide(items, $0) } ?? 1)
                // Threads end apart by half of what each is dealt at a time.
                let cost = item * Double(items) / Double(threadCount) + lot / 2
                if cost < best {
                    best = cost
                    tiles = bandTiles
                    blocksPerItem = blocks
                }
            }
            most /= 2
        }
    }
}

extension PoolingGeometry {
    /// The rows of the input that some rows of the output see.
    package func inputRows(_ rows: Range<Int>) -> Range<Int> {
        let first = max(rows.lowerBound * strideHeight - paddingHeight, 0)
        let end = min((rows.upperBound - 1) * strideHeight - paddingHeight + kernelHeight, input.height)
        return first..<max(end, first)
    }

    /// How a convolution that pools its result is cut (``ConvolutionGeometry/canPool(_:_:)``): rows of the pooled plane to
    /// a band, and rows of the result that a band needs at most. Those of 32 channels stay in the second-level cache, and
    /// each of `threadCount` threads has as many bands as the others.
    package func band(threadCount: Int) -> (rows: Int, resultRows: Int) {
        let all = output.height
        var most = max((Self.bandByteCount / max(input.width * 32 * 4, 1) - kernelHeight) / strideHeight + 1, 1)
        while most > 1, input.batch * ((all + most - 1) / most) < 3 * threadCount { most /= 2 }
        var bands = (all + most - 1) / most
        while bands < all, input.batch * bands < 16 * threadCount, input.batch * bands % threadCount != 0 {
            bands += 1
        }
        let rows = (all + bands - 1) / bands
        return (rows, min((rows - 1) * strideHeight + kernelHeight, input.height))
    }

    private static let bandByteCount = 260 << 10
}
