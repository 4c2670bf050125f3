#if OpenCL
    import Foundation
    import GraftGraph

    /// What the tuner has found, on disk beside the built programs: one file for each device, driver and set of kernels.
    ///
    /// A file is used only if its header, its digest and every entry are right; anything else counts as absent, and
    /// without a file the built-in table is used.
    package struct TuningStore: Sendable {
        /// The folder of the files; made when the first is stored.
        package let folder: URL

        package init(folder: URL) { self.folder = folder }

        /// Where ``ProgramCache/standard`` is; nil when no folder is known.
        package static var standard: TuningStore? { ProgramCache.standard.map { TuningStore(folder: $0.folder) } }

        /// Everything that a tuning result depends on, as 64 hexadecimal digits; nil when SHA-256 is not to be had.
        package static func key(_ device: DeviceDescription, sources: [String: String]) -> String? {
            ProgramCache.key(
                source: [
                    "prelude", "convolution_gpu", "convolution_weight_gradient_gpu", "winograd_gpu",
                    "winograd_weight_gradient_gpu",
                ].map { sources[$0] ?? "" }.joined(separator: "\n"), options: "tuning", platform: device.platform,
                device: device.name,
                driverVersion: device.driverVersion)
        }

        /// The tiles stored under a key; nil when there are none or the file is damaged.
        package func load(_ key: String) -> [TilePlace: GEMMTile]? {
            guard let data = try? Data(contentsOf: file(key)), data.count <= Self.maximumByteCount,
                let text = String(data: data, encoding: .utf8)
            else { return nil }
            let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
            guard lines.count >= 4, lines.last?.isEmpty == true, lines[0] == Self.title, lines[1] == key else {
                return nil
            }
            let body = lines[3...].joined(separator: "\n")
            guard let digest = Self.digest(body), lines[2] == digest else { return nil }
            var tiles: [TilePlace: GEMMTile] = [:]
            for line in lines[3...].dropLast() {
                let words = line.split(separator: " ", omittingEmptySubsequences: false)
                let numbers = words.dropFirst().compactMap { Int($0) }
                guard words.count == 6, numbers.count == 5, let place = TilePlace(words[0]), tiles[place] == nil else {
                    return nil
                }
                tiles[place] = GEMMTile(
                    rows: numbers[0], columns: numbers[1], depth: numbers[2], itemRows: numbers[3],
                    itemColumns: numbers[4])
            }
            return tiles
        }

        /// Stores tiles under a key, replacing what is there: written beside its place and renamed.
        package func store(_ tiles: [TilePlace: GEMMTile], key: String) throws {
            let body =
                tiles.map { place, tile in
                    "\(place) \(tile.rows) \(tile.columns) \(tile.depth) \(tile.itemRows) \(tile.itemColumns)\n"
                }.sorted().joined()
            guard let digest = Self.digest(body) else { throw CocoaError(.featureUnsupported) }
            try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
            try Data("\(Self.title)\n\(key)\n\(digest)\n\(body)".utf8).write(to: file(key), options: .atomic)
        }

        /// Stores what a tuner has found; of an earlier result the places that it did not reach are kept.
        package func store(_ report: KernelTuner.Report, key: String) throws {
            let kept = (load(key) ?? [:]).filter { !report.places.contains($0.key) }
            try store(kept.merging(report.tiles) { $1 }, key: key)
        }

        /// Where the file of a key lies.
        package func file(_ key: String) -> URL { folder.appending(path: key + ".tuning") }

        private static let title = "graft tuning 1"
        private static let maximumByteCount = 64 << 10

        private static func digest(_ text: String) -> String? { ProgramCache.hexadecimalDigest(Array(text.utf8)) }
    }
#endif
