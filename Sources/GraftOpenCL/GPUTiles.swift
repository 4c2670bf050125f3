#if OpenCL
    import GraftGraph

    /// Extents of a GEMM tile: what a group computes and what each of its items does of it.
    ///
    /// The tunables `BM`, `BN`, `BK`, `TM` and `TN` of `convolution_gpu.cl`, `convolution_weight_gradient_gpu.cl` and
    /// the two Winograd files. They change speed alone: how sums are cut is decided without them (``ReductionChunks``).
    package struct GEMMTile: Hashable, Sendable {
        package var rows: Int
        package var columns: Int
        /// Reduction per step.
        package var depth: Int
        package var itemRows: Int
        package var itemColumns: Int

        package init(rows: Int, columns: Int, depth: Int, itemRows: Int, itemColumns: Int) {
            self.rows = rows
            self.columns = columns
            self.depth = depth
            self.itemRows = itemRows
            self.itemColumns = itemColumns
        }

        package var itemCount: Int { rows / itemRows * (columns / itemColumns) }

        /// `128×128×8 by 8×8`: rows, columns and depth, then what an item does.
        package var text: String { "\(rows)×\(columns)×\(depth) by \(itemRows)×\(itemColumns)" }

        var definitions: [KernelLaunch.Definition] {
            [
                .init("BM", rows), .init("BN", columns), .init("BK", depth), .init("TM", itemRows),
                .init("TN", itemColumns),
            ]
        }

        /// Double-buffered tiles of both operands, rows padded by 4 floats, and the weight gradient's table of columns.
        private var localByteCount: Int { 8 * depth * (rows + columns + 8) + 12 * columns }

        /// Whether the kernels of a place can be built with this tile for a device; the rules of the `.cl` files.
        package func isLegal(for place: TilePlace, on device: KernelDevice) -> Bool {
            guard [1, 2, 4, 8].contains(itemRows), [1, 2, 4, 8].contains(itemColumns), [8, 16, 32].contains(depth),
                rows > 0, columns > 0, rows <= 256, columns <= 256, rows % itemRows == 0, columns % itemColumns == 0,
                itemCount <= min(256, device.maximumWorkGroupSize), rows * depth % itemCount == 0,
                columns * depth % itemCount == 0, localByteCount <= min(32 << 10, device.localMemoryByteCount)
            else { return false }
            switch place.pass {
            case .forward, .inputGradient:
                return place.access == .linear ? itemCount % depth == 0 : itemCount % columns == 0
            case .weightGradient: return itemCount % depth == 0
            // Vectors only: each item loads whole ones.
            case .winograd, .winogradWeightGradient:
                return rows % 4 == 0 && columns % 4 == 0 && rows * depth / 4 % itemCount == 0
                    && columns * depth / 4 % itemCount == 0 && itemCount % (depth / 4) == 0
            }
        }

        /// 8 × 8 per item: 64 independent accumulators, 4 multiply-adds for each float read from local memory.
        static let large = GEMMTile(rows: 128, columns: 128, depth: 8, itemRows: 8, itemColumns: 8)
        static let wide = GEMMTile(rows: 64, columns: 128, depth: 16, itemRows: 4, itemColumns: 8)
        static let tall = GEMMTile(rows: 128, columns: 64, depth: 16, itemRows: 8, itemColumns: 4)
        static let square = GEMMTile(rows: 64, columns: 64, depth: 16, itemRows: 4, itemColumns: 4)
        static let flat = GEMMTile(rows: 32, columns: 128, depth: 16, itemRows: 4, itemColumns: 4)
        /// Few channels per group, as in ResNeXt; 128 items.
        static let slim = GEMMTile(rows: 16, columns: 128, depth: 16, itemRows: 4, itemColumns: 4)
        static let thin = GEMMTile(rows: 8, columns: 128, depth: 16, itemRows: 4, itemColumns: 2)
        /// 128 items that load whole vectors of both operands.
        static let low = GEMMTile(rows: 32, columns: 64, depth: 16, itemRows: 4, itemColumns: 4)
        /// Few columns and long reductions: linear layers of small batches.
        static let narrow = GEMMTile(rows: 64, columns: 32, depth: 32, itemRows: 4, itemColumns: 2)
        /// 64 items: small extents, and devices with small groups.
        static let small = GEMMTile(rows: 32, columns: 32, depth: 16, itemRows: 4, itemColumns: 4)
        /// 16 items, for devices whose groups are smaller still.
        static let least = GEMMTile(rows: 16, columns: 16, depth: 8, itemRows: 4, itemColumns: 4)

        /// What the tuner tries, the likely ones first; where a tile is not legal it is passed over.
        package static let candidates: [GEMMTile] =
            [large, wide, square, tall, low, flat, narrow, small, slim, thin]
            + [
                (64, 128, 8, 8, 8), (128, 64, 8, 8, 8), (64, 64, 16, 8, 4), (64, 64, 8, 4, 4), (128, 64, 8, 8, 4),
                (64, 128, 8, 4, 8), (64, 64, 16, 8, 8), (32, 128, 8, 4, 8), (128, 128, 8, 4, 8), (32, 128, 8, 4, 4),
                (64, 32, 16, 4, 2), (64, 32, 16, 4, 4), (32, 64, 32, 4, 4), (32, 32, 32, 2, 2), (32, 32, 32, 4, 4),
                (16, 128, 8, 2, 4), (16, 64, 16, 2, 4), (8, 128, 8, 2, 4), (8, 64, 16, 2, 2), (16, 32, 32, 2, 2),
            ].map { GEMMTile(rows: $0.0, columns: $0.1, depth: $0.2, itemRows: $0.3, itemColumns: $0.4) }
    }

    /// Where a tile is used: one entry of a ``TileTable``. A pure function of a convolution's shape without its batch.
    package struct TilePlace: Hashable, Sendable, CustomStringConvertible {
        package enum Pass: String, Hashable, Sendable, CaseIterable {
            case forward, inputGradient, weightGradient, winograd, winogradWeightGradient
        }

        /// Extent of the product, rows (output channels of a group) before all.
        package enum Extent: String, Hashable, Sendable, CaseIterable {
            /// At most 8, 16, 32, 64 rows; more.
            case rows8, rows16, rows32, rows64, many
            /// Few columns as well.
            case few
        }

        /// How the operand with the pixels is read.
        package enum Access: String, Hashable, Sendable, CaseIterable {
            /// 1×1 kernels on planes; on single pixels; few channels across taps; tap by tap.
            case pointwise, linear, flat, taps
        }

        package var pass: Pass
        package var extent: Extent
        package var access: Access

        package init(_ pass: Pass, _ extent: Extent, _ access: Access) {
            self.pass = pass
            self.extent = extent
            self.access = access
        }

        package var description: String { "\(pass.rawValue).\(extent.rawValue).\(access.rawValue)" }

        /// The place of a description.
        package init?(_ description: Substring) {
            let parts = description.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
            guard parts.count == 3, let pass = Pass(rawValue: parts[0]), let extent = Extent(rawValue: parts[1]),
                let access = Access(rawValue: parts[2])
            else { return nil }
            self.init(pass, extent, access)
        }
    }

    /// Tiles by place: a small table for the kind of device, and over it what the tuner has found on this one.
    package struct TileTable: Hashable, Sendable {
        private let device: KernelDevice
        /// What the tuner found; legal on the device.
        package private(set) var tuned: [TilePlace: GEMMTile]

        /// The table of a device; of `tuned`, entries that are not legal on it are left out.
        package init(device: KernelDevice, tuned: [TilePlace: GEMMTile] = [:]) {
            self.device = device
            self.tuned = tuned.filter { $0.value.isLegal(for: $0.key, on: device) }
        }

        /// This table with another tile in one place; unchanged where that is not legal.
        package func with(_ tile: GEMMTile, at place: TilePlace) -> TileTable {
            TileTable(device: device, tuned: tuned.merging([place: tile]) { $1 })
        }

        package subscript(place: TilePlace) -> GEMMTile {
            if let tile = tuned[place] { return tile }
            for tile in [preferred(place), .small] where tile.isLegal(for: place, on: device) { return tile }
            return .least
        }

        /// Discrete GPUs, and CPU devices that run this class for a test: 64 accumulators per item where there is work
        /// enough. GPUs that share the processor's memory have a fourth of the registers per item: 16 accumulators.
        private func preferred(_ place: TilePlace) -> GEMMTile {
            let tile: GEMMTile
            switch (place.pass, place.extent, place.access) {
            case (_, .few, .linear): tile = .narrow
            case (.weightGradient, .rows64, _), (.winogradWeightGradient, .rows64, _): tile = .square
            case (.weightGradient, .many, _), (.winogradWeightGradient, .many, _): tile = .tall
            case (.weightGradient, _, _), (.winogradWeightGradient, _, _), (_, .few, _): tile = .small
            case (.winograd, .rows8, _), (.winograd, .rows16, _), (.winograd, .rows32, _): tile = .low
            case (_, .rows8, _): tile = .thin
            case (_, .rows16, _): tile = .slim
            case (_, .rows32, _): tile = .flat
            case (_, .rows64, _): tile = .wide
            case (_, .many, _): tile = .large
            }
            return device.isIntegrated && tile.itemRows * tile.itemColumns > 16 ? .square : tile
        }
    }

    /// How a long sum is cut: constants and shapes, not the device, the batch or a tile, so that the same image gives the
    /// same bytes in every batch, and tuning changes no result.
    struct ReductionChunks {
        /// Groups that fill a large GPU: about two for each of its 132 multiprocessors.
        static let groupTarget = 264
        /// Terms below which a reduction is not cut further, and above which it is.
        static let minimumTerms = 256
        static let maximumTerms = 1024
        static let maximumCount = 64
        static let maximumWorkspaceByteCount = 256 << 20
        /// Batches that shapes stand for; linear layers see larger ones.
        static let nominalBatch = 16
        static let nominalLinearBatch = 32

        private let channels: Int
        private let taps: Int
        /// Terms run on across taps: steps fill them without gaps.
        private let isContiguous: Bool
        /// In terms, a multiple of 32 where contiguous, or in taps.
        private let unitsPerChunk: Int

        /// Cuts `taps` times `channels` terms; `isFlat` where steps run across taps anyway. `tilesOf64` counts the 64 × 64
        /// tiles of the result at the nominal batch.
        init(channels: Int, taps: Int, isFlat: Bool, tilesOf64: Int) {
            self.channels = channels
            self.taps = taps
            isContiguous = isFlat || taps == 1 || channels % 32 == 0
            let terms = channels * taps
            let wanted = max(ceilDivide(Self.groupTarget, max(tilesOf64, 1)), ceilDivide(terms, Self.maximumTerms))
            let count = max(min(wanted, terms / Self.minimumTerms, Self.maximumCount), 1)
            unitsPerChunk =
                isContiguous ? ceilDivide(terms, count).roundedUp(to: 32) : max(ceilDivide(taps, count), 1)
        }

        /// Steps of a chunk with tiles of a depth, a divisor of 32.
        func stepsPerChunk(depth: Int) -> Int {
            isContiguous ? unitsPerChunk / depth : unitsPerChunk * ceilDivide(channels, depth)
        }

        var count: Int {
            isContiguous ? ceilDivide(channels * taps, unitsPerChunk) : ceilDivide(taps, unitsPerChunk)
        }
    }
#endif
