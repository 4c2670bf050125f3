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
