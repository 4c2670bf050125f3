import GraftTensor
import GraftVision

/// The images of one step: as pixels, or as what the frozen part made of them.
struct TrainingBatch {
    enum Content {
        /// uint8 `[N, S, S, 3]`.
        case pixels([UInt8])
        /// The frontier's nodes, float32 `[N, C, H, W]` each.
        case frontier([HostTensor])
    }

    /// Where the batch begins in the pass's order, if it comes from a cache.
    var position = 0
    /// Where in the pass's order the next batch begins.
    var end: Int
    var content: Content
    var labels: [Int32]
    /// Positions of the images in the data set.
    var sampleIndices: [Int]
    /// Images left out of this batch, and of empty ones before it.
    var skipped: [SkippedImage]
}

/// The batches of one pass over images, in order: decoded ahead by a loader, or taken from a cache that the images it
/// lacks are added to on the way. Both give the same batches.
final class TrainingBatches {
    private let data: ImageDataset
    private let order: [Int]
    private let batchSize: Int
    private let cache: FrontierCache?
    private let loader: BatchLoader
    private let fill: ([UInt8]) throws -> [HostTensor]
    private let fillSize: Int
    private let byteCount: Int
    /// Where in the order the next batch begins.
    private(set) var position = 0
    private var trailing: [SkippedImage] = []
    /// Decoded images that wait for the frozen part to be run on a whole batch.
    private var waiting: (pixels: [UInt8], indices: [Int]) = ([], [])

    /// Starts decoding.
    ///
    /// - Parameters:
    ///   - data: the images.
    ///   - order: positions in them.
    ///   - preprocessing: from image to input.
    ///   - options: of the loader, which decodes for the device or for `fill`.
    ///   - batchSize: images per batch; the loader's own where there is no cache.
    ///   - cache: where the frozen part's outputs are.
    ///   - fill: computes them for decoded images' pixels, at most a batch of the loader's.
    init(
        data: ImageDataset, order: [Int], preprocessing: ImagePreprocessing, options: BatchLoaderOptions,
        batchSize: Int, cache: FrontierCache?, fill: @escaping ([UInt8]) throws -> [HostTensor]
    ) {
        self.data = data
        self.order = order
        self.batchSize = batchSize
        self.cache = cache
        self.fill = fill
        // Where an image comes twice, it is decoded for its first place.
        var asked: Set<Int> = []
        let wanted = cache.map { cache in order.filter { !cache.isSettled($0) && asked.insert($0).inserted } } ?? order
        var options = options
        if let disk = cache?.disk { options.isKnown = { disk.isKnown($0, $1) } }
        fillSize = options.batchSize
        byteCount = preprocessing.byteCount
        loader = BatchLoader(dataset: data, order: wanted, preprocessing: preprocessing, options: options)
    }

    /// The next batch with at least one image; nil behind the last.
    ///
    /// - Throws: `ImageError` for an image that cannot be read, unless it is to be skipped; `DeviceError`;
    ///   ``FrontierCacheFailure`` when the cache fails: ``position`` then says where another pass has to begin.
    func next() throws -> TrainingBatch? {
        guard let cache else {
            return try loader.next().map {
                TrainingBatch(
                    end: min(($0.index + 1) * batchSize, order.count), content: .pixels($0.pixels),
                    labels: $0.labels, sampleIndices: $0.sampleIndices, skipped: $0.skipped)
            }
        }
        let start = position
        do { return try next(from: cache) } catch {
            // Batches passed over on the way are empty; their images are reported by whoever begins again.
            position = start
            throw error
        }
    }

    private func next(from cache: FrontierCache) throws -> TrainingBatch? {
        var skipped: [SkippedImage] = []
        while position < order.count {
            let first = position
            let indices = Array(order[first..<min(first + batchSize, order.count)])
            position += batchSize
            while !indices.allSatisfy(cache.isSettled) {
                guard let batch = try loader.next() else {
                    for image in loader.skippedBehindLastBatch { cache.note(unreadable: image) }
                    while !waiting.indices.isEmpty { try fillWaiting(cache) }
                    break
                }
                for image in batch.skipped { cache.note(unreadable: image) }
                for index in batch.knownIndices { cache.note(found: index) }
                waiting.pixels += batch.pixels
                waiting.indices += batch.sampleIndices
                // Where some images are known, the others wait for company: a run costs the same for fewer.
                while waiting.indices.count >= (cache.disk == nil ? 1 : fillSize) { try fillWaiting(cache) }
            }
            skipped += indices.compactMap { cache.unreadable[$0] }
            let present = indices.filter(cache.contains)
            if !present.isEmpty {
                return TrainingBatch(
                    position: first, end: first + indices.count, content: .frontier(try cache.batch(present)),
                    labels: present.map { Int32(truncatingIfNeeded: data.samples[$0].label) },
                    sampleIndices: present, skipped: skipped)
            }
        }
        trailing += skipped
        return nil
    }

    /// Runs the frozen part on the images that have waited longest, at most a batch.
    private func fillWaiting(_ cache: FrontierCache) throws {
        let indices = Array(waiting.indices.prefix(fillSize))
        let pixels = Array(waiting.pixels.prefix(indices.count * byteCount))
        waiting.indices.removeFirst(indices.count)
        waiting.pixels.removeFirst(pixels.count)
        try cache.store(try fill(pixels), of: indices)
    }

    /// Images left out behind the last batch; known once ``next()`` gave nil.
    var skippedBehindLastBatch: [SkippedImage] { cache == nil ? loader.skippedBehindLastBatch : trailing }

    /// Ends the decoding.
    func cancel() { loader.cancel() }
}
