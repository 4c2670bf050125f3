import Foundation

/// Pictures of one training or evaluation step, ready for upload.
public struct ImageBatch: Sendable, Equatable {
    /// The batch's position in the epoch; batches that came out empty leave gaps.
    public let index: Int
    /// `count × imageSize × imageSize × 3` bytes.
    public let pixels: [UInt8]
    /// The classes.
    public let labels: [Int32]
    /// The positions in the data set.
    public let sampleIndices: [Int]
    /// Pictures left out of this batch, and of empty batches before it.
    public let skipped: [SkippedImage]
    /// Pictures of this batch that were not decoded because they are known.
    package let knownIndices: [Int]

    /// The number of pictures, at least 1 unless some are known.
    public var count: Int { labels.count }
}

/// A picture that was left out, and why.
public struct SkippedImage: Sendable, Equatable {
    /// The position in the data set.
    public let sampleIndex: Int
    /// What was wrong; it names the file.
    public let error: ImageError
}

/// What a picture is made from.
package enum ImageContent {
    /// A file's bytes.
    case file(UnsafeRawBufferPointer)
    /// A picture in memory.
    case image(RGBImage)
    /// What a source declares instead.
    case identity(String)
}

/// What to do about a picture that cannot be decoded.
public enum BadImagePolicy: String, Sendable, Hashable, Codable, CaseIterable {
    /// Throw the error, which names the file.
    case fail
    /// Leave the picture out and report it.
    case skip
}

/// How pictures become batches.
public struct BatchLoaderOptions: Sendable {
    /// Pictures per batch.
    public var batchSize: Int
    /// Threads that decode.
    public var workerCount: Int
    /// Batches that are decoded or being decoded ahead of the consumer.
    public var prefetchCount: Int
    /// Random changes to the pictures.
    public var augmentation: Augmentation
    /// The seed of those.
    public var seed: UInt64
    /// The epoch, or the number of a cached view, for those.
    public var epoch: Int
    /// What to do about a picture that cannot be decoded.
    public var onBadImage: BadImagePolicy
    /// Whether a last batch with fewer pictures is left out.
    public var dropsLast: Bool
    /// The first batch to deliver, counted from 0: how an interrupted epoch goes on.
    public var firstBatch: Int
    /// Whether large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size; faster, with pixels
    /// that differ a little. It happens where that leaves a quarter more than the resized picture needs.
    public var fastDecode: Bool
    /// Bounds on what is read from a file.
    public var limits: ImageLimits
    /// Asked on a decoding thread with a picture's position and content, before it is decoded; when it is known already,
    /// it is not.
    package var isKnown: (@Sendable (Int, ImageContent) -> Bool)?

    /// Makes options; counts below 1 are taken as 1.
    public init(
        batchSize: Int = 32, workerCount: Int = 1, prefetchCount: Int = 2, augmentation: Augmentation = .none,
        seed: UInt64 = 0, epoch: Int = 0, onBadImage: BadImagePolicy = .fail, dropsLast: Bool = false,
        firstBatch: Int = 0, fastDecode: Bool = false, limits: ImageLimits = ImageLimits()
    ) {
        self.batchSize = max(batchSize, 1)
        self.workerCount = max(workerCount, 1)
        self.prefetchCount = max(prefetchCount, 1)
        self.augmentation = augmentation
        self.seed = seed
        self.epoch = epoch
        self.onBadImage = onBadImage
        self.dropsLast = dropsLast
        self.firstBatch = max(firstBatch, 0)
        self.fastDecode = fastDecode
        self.limits = limits
    }
}

/// Decodes one epoch's pictures on threads of its own, ahead of the consumer, and delivers them in order.
///
/// Batch `b` holds the positions `b · batchSize ..< (b + 1) · batchSize` of `order`, whatever the number of threads.
/// Under `BadImagePolicy.skip` a batch is smaller by the pictures left out, and one without any picture is not
/// delivered.
/// The threads end when the epoch does, on `cancel()`, on an error, or when the loader is released.
public final class BatchLoader: @unchecked Sendable {
    // Mutable state lies in `shared`, behind its condition; this class holds only constants.
    private let shared: SharedState

    /// The number of batches of the whole epoch, before any picture is left out.
    public let batchCount: Int

    /// Starts decoding.
    ///
    /// - Parameters:
    ///   - dataset: the pictures.
    ///   - order: positions in the data set, in the order of delivery.
    ///   - preprocessing: from picture to input.
    ///   - options: the rest.
    public init(
        dataset: ImageDataset, order: [Int], preprocessing: ImagePreprocessing,
        options: BatchLoaderOptions = BatchLoaderOptions()
    ) {
        precondition(order.allSatisfy(dataset.samples.indices.contains), "a position outside the data set")
        let used = options.dropsLast ? order.count / options.batchSize * options.batchSize : order.count
        batchCount = (used + options.batchSize - 1) / options.batchSize
        shared = SharedState(
            dataset: dataset, order: Array(order.prefix(used)), preprocessing: preprocessing, options: options,
            batchCount: batchCount)
        let remaining = max(used - min(options.firstBatch, batchCount) * options.batchSize, 0)
        shared.start(workerCount: min(options.workerCount, remaining))
    }

    deinit { shared.stop() }

    /// Lives as long as the loader or one of its threads.
    package var threadState: AnyObject { shared }

    /// The next batch in order; waits for it. Nil after the last one and after `cancel()`.
    ///
    /// - Throws: under `BadImagePolicy.fail` the error of the batch's first bad picture, after all batches before it;
    ///   later calls throw it again.
    public func next() throws(ImageError) -> ImageBatch? { try shared.next() }

    /// Ends the threads, waiting for the pictures they are at, and drops what was decoded.
    public func cancel() { shared.stop() }

    /// All pictures left out so far, in order of delivery.
    public var skippedImages: [SkippedImage] { shared.skippedImages }

    /// Pictures left out of the empty batches behind the last one that was delivered; known once `next()` gave nil.
    public var skippedBehindLastBatch: [SkippedImage] { shared.skippedBehindLastBatch }
}

/// What the consumer and the workers share; workers keep it alive, not the loader.
private final class SharedState: @unchecked Sendable {
    /// One batch on its way: workers fill its places side by side.
    final class Pending {
        let pixels: UnsafeMutablePointer<UInt8>
        let count: Int
        var remaining: Int
        var errors: [Int: ImageError] = [:]
        var known: Set<Int> = []

        init(count: Int, byteCount: Int) {
            pixels = UnsafeMutablePointer<UInt8>.allocate(capacity: max(count * byteCount, 1))
            self.count = count
            remaining = count
        }

        deinit { pixels.deallocate() }
    }

    let dataset: ImageDataset
    let order: [Int]
    let preprocessing: ImagePreprocessing
    let options: BatchLoaderOptions
    let batchCount: Int

    private let condition = NSCondition()
    // Everything below only while `condition` is held.
    private var pending: [Int: Pending] = [:]
    private var nextPosition: Int
    private var nextBatch: Int
    private var liveWorkers = 0
    private var isStopped = false
    private var failure: ImageError?
    private var skipped: [SkippedImage] = []
    private var trailing: [SkippedImage] = []

    init(
        dataset: ImageDataset, order: [Int], preprocessing: ImagePreprocessing, options: BatchLoaderOptions,
        batchCount: Int
    ) {
        self.dataset = dataset
        self.order = order
        self.preprocessing = preprocessing
        self.options = options
        self.batchCount = batchCount
        nextBatch = min(options.firstBatch, batchCount)
        nextPosition = nextBatch * options.batchSize
    }

    func start(workerCount: Int) {
        condition.lock()
        liveWorkers = workerCount
        condition.unlock()
        for index in 0..<workerCount {
            let thread = Thread { [self] in
                Thread.current.name = "graft-images-\(index)"
                work()
            }
            thread.start()
        }
    }

    /// Ends the workers and waits for them.
    func stop() {
        condition.lock()
        isStopped = true
        pending.removeAll()
        condition.broadcast()
        while liveWorkers > 0 { condition.wait() }
        condition.unlock()
    }

    var skippedBehindLastBatch: [SkippedImage] {
        condition.lock()
        defer { condition.unlock() }
        return trailing
    }

    var skippedImages: [SkippedImage] {
        condition.lock()
        defer { condition.unlock() }
        return skipped
    }

    // MARK: Workers

    private func work() {
        let workspace = ImageWorkspace()
        while let (batch, position) = take() {
            let place = position % options.batchSize
            let target = batch.pixels + place * preprocessing.byteCount
            let outcome = Result { () throws(ImageError) in
                try load(order[position], into: target, workspace: workspace)
            }
            condition.lock()
            switch outcome {
            case .success(true): break
            case .success(false): batch.known.insert(place)
            case .failure(let error): batch.errors[place] = error
            }
            batch.remaining -= 1
            if batch.remaining == 0 { condition.broadcast() }
            condition.unlock()
        }
        condition.lock()
        liveWorkers -= 1
        condition.broadcast()
        condition.unlock()
    }

    /// The next place to fill, once its batch is near enough to the consumer; nil when there is nothing left.
    private func take() -> (batch: Pending, position: Int)? {
        condition.lock()
        defer { condition.unlock() }
        while true {
            if isStopped || nextPosition >= order.count { return nil }
            let index = nextPosition / options.batchSize
            if index < nextBatch + options.prefetchCount {
                let position = nextPosition
                nextPosition += 1
                if let batch = pending[index] { return (batch, position) }
                let count = min(options.batchSize, order.count - index * options.batchSize)
                let batch = Pending(count: count, byteCount: preprocessing.byteCount)
                pending[index] = batch
                return (batch, position)
            }
            condition.wait()
        }
    }

    /// Decodes a picture to its place, unless it is known.
    ///
    /// - Returns: whether it was decoded.
    private func load(
        _ sampleIndex: Int, into target: UnsafeMutablePointer<UInt8>, workspace: ImageWorkspace
    ) throws(ImageError) -> Bool {
        let picture: DecodedPicture?
        switch dataset.source {
        case .folder: picture = try decode(fileOf: sampleIndex, dataset.path(of: sampleIndex), true, workspace)
        case .memory(let images): picture = copy(images[sampleIndex], of: sampleIndex, true, workspace)
        case .custom(let source, let positions):
            picture = try fetch(sampleIndex, from: source, at: positions[sampleIndex], workspace)
        }
        guard let picture else { return false }
        preprocessing.render(
            picture, transformation: transformation(sampleIndex, width: picture.width, height: picture.height),
            into: target, workspace: workspace)
        return true
    }

    private func transformation(_ sampleIndex: Int, width: Int, height: Int) -> Transformation {
        options.augmentation.transformation(
            seed: options.seed, epoch: options.epoch, sampleIndex: sampleIndex, width: width, height: height,
            imageSize: preprocessing.imageSize)
    }

    // The functions below give nil for a picture that is known; `asks` says whether that is asked of its content.

    private func fetch(
        _ sampleIndex: Int, from source: any ImageSource, at position: Int, _ workspace: ImageWorkspace
    ) throws(ImageError) -> DecodedPicture? {
        let name = dataset.samples[sampleIndex].path
        var asks = true
        if let isKnown = options.isKnown, let identity = source.identity(ofImageAt: position) {
            if isKnown(sampleIndex, .identity(identity)) { return nil }
            asks = false
        }
        let image: SourceImage
        do {
            image = try source.image(at: position)
        } catch let error as ImageError {
            throw error.naming(name)
        } catch {
            throw ImageError(file: name, fault: .unreadable("\(error)"))
        }
        switch image {
        case .file(let path): return try decode(fileOf: sampleIndex, path, asks, workspace)
        case .pixels(let image): return copy(image, of: sampleIndex, asks, workspace)
        case .encoded(let bytes):
            let outcome = bytes.withUnsafeBufferPointer { buffer in
                Result { () throws(ImageError) in try decode(buffer, of: sampleIndex, asks, workspace) }
            }
            do { return try outcome.get() } catch { throw error.naming(name) }
        }
    }

    private func decode(
        fileOf sampleIndex: Int, _ path: String, _ asks: Bool, _ workspace: ImageWorkspace
    ) throws(ImageError) -> DecodedPicture? {
        do {
            return try decode(workspace.read(path, limits: options.limits), of: sampleIndex, asks, workspace)
        } catch {
            throw error.naming(path)
        }
    }

    private func decode(
        _ bytes: UnsafeBufferPointer<UInt8>, of sampleIndex: Int, _ asks: Bool, _ workspace: ImageWorkspace
    ) throws(ImageError) -> DecodedPicture? {
        if asks, let isKnown = options.isKnown, isKnown(sampleIndex, .file(UnsafeRawBufferPointer(bytes))) {
            return nil
        }
        return try workspace.decode(bytes, exif: preprocessing.exif, limits: options.limits) { width, height in
            preprocessing.request(
                width: width, height: height, transformation: transformation(sampleIndex, width: width, height: height),
                fastDecode: options.fastDecode)
        }
    }

    private func copy(
        _ image: RGBImage, of sampleIndex: Int, _ asks: Bool, _ workspace: ImageWorkspace
    ) -> DecodedPicture? {
        if asks, let isKnown = options.isKnown, isKnown(sampleIndex, .image(image)) { return nil }
        let copy = workspace.decoded.reserve(image.pixels.count)
        image.pixels.withUnsafeBufferPointer { pixels in
            if let base = pixels.baseAddress { copy.update(from: base, count: pixels.count) }
        }
        return DecodedPicture(
            PixelView(base: UnsafePointer(copy), width: image.width, height: image.height, stride: image.width * 3))
    }

    // MARK: Consumer

    func next() throws(ImageError) -> ImageBatch? {
        var leftOut: [SkippedImage] = []
        while true {
            condition.lock()
            if let failure {
                condition.unlock()
                throw failure
            }
            while !isStopped, nextBatch < batchCount, pending[nextBatch]?.remaining != 0 { condition.wait() }
            guard !isStopped, let batch = pending.removeValue(forKey: nextBatch) else {
                trailing += leftOut
                condition.unlock()
                return nil
            }
            let index = nextBatch
            nextBatch += 1
            let first = index * options.batchSize
            if options.onBadImage == .fail, let place = batch.errors.keys.min(), let error = batch.errors[place] {
                failure = error
                condition.unlock()
                stop()
                throw error
            }
            let newlySkipped = batch.errors.sorted { $0.key < $1.key }.map {
                SkippedImage(sampleIndex: order[first + $0.key], error: $0.value)
            }
            skipped += newlySkipped
            condition.broadcast()
            condition.unlock()
            leftOut += newlySkipped
            if batch.errors.count < batch.count { return assemble(batch, index: index, leftOut: leftOut) }
        }
    }

    private func assemble(_ batch: Pending, index: Int, leftOut: [SkippedImage]) -> ImageBatch {
        let first = index * options.batchSize
        let places = (0..<batch.count).filter { batch.errors[$0] == nil && !batch.known.contains($0) }
        let byteCount = preprocessing.byteCount
        let pixels = [UInt8](unsafeUninitializedCapacity: places.count * byteCount) { buffer, initializedCount in
            if let base = buffer.baseAddress {
                for (row, place) in places.enumerated() {
                    (base + row * byteCount).initialize(from: batch.pixels + place * byteCount, count: byteCount)
                }
            }
            initializedCount = places.count * byteCount
        }
        let indices = places.map { order[first + $0] }
        return ImageBatch(
            index: index, pixels: pixels, labels: indices.map { Int32(truncatingIfNeeded: dataset.samples[$0].label) },
            sampleIndices: indices, skipped: leftOut, knownIndices: batch.known.sorted().map { order[first + $0] })
    }
}
