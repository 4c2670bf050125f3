import GraftCPU
import GraftGraph
import GraftTensor
import GraftVision

/// Whether, and where, the outputs of the frozen part are kept so that it is computed once per image.
public enum CachePolicy: String, Sendable, Hashable, CaseIterable {
    /// In memory when that is worth it and they fit.
    case auto
    /// In memory; an error when they do not fit.
    case memory
    /// Every epoch computes the whole network.
    case off
}

/// What a run keeps of its frozen part.
public struct CacheReport: Sendable, Hashable {
    /// The layers whose outputs are kept, by torchvision's node names.
    public let layers: [String]
    /// Images that have a place, those of the validation set included.
    public let imageCount: Int
    /// Bytes for one image.
    public let imageByteCount: Int
    /// Multiply-accumulate operations of the forward pass that a kept image spares, as a share of all.
    public let sparedShare: Double
    /// Evaluations of the frozen part that were spared so far.
    public let sparedEvaluationCount: Int

    /// Bytes in all.
    public var byteCount: Int { imageCount * imageByteCount }
}

/// What the frozen part makes of the images of one data set, by position: float32 rows in host memory.
///
/// A row holds the frontier's nodes one behind the other, each in `[C, H, W]` order. Rows are written once.
final class FrontierCache {
    let frontier: Frontier
    /// Images that cannot be read, so that they are tried once.
    private(set) var unreadable: [Int: SkippedImage] = [:]
    /// How often a row was read again.
    private(set) var rereadCount = 0
    private let rows: UnsafeMutablePointer<Float>
    /// Images that have a place.
    let imageCount: Int
    private var isPresent: [Bool]
    private var isFresh: [Bool]

    /// Reserves room for every image; the system gives it when rows are written.
    init(_ frontier: Frontier, imageCount: Int) {
        self.frontier = frontier
        self.imageCount = imageCount
        rows = .allocate(capacity: max(imageCount * frontier.elementCount, 1))
        isPresent = [Bool](repeating: false, count: imageCount)
        isFresh = isPresent
    }

    deinit { rows.deallocate() }

    func contains(_ index: Int) -> Bool { isPresent[index] }

    /// Whether an image need not be read: it has a row, or none can be made.
    func isSettled(_ index: Int) -> Bool { isPresent[index] || unreadable[index] != nil }

    func note(unreadable image: SkippedImage) { unreadable[image.sampleIndex] = image }

    /// Takes over what a prefix program gave for images: float32 `[at least images, C, H, W]` for each node.
    func store(_ values: [HostTensor], of indices: [Int]) throws(GraftError) {
        var offset = 0
        for (tensor, shape) in zip(values, frontier.shapes) {
            let count = shape.elementCount
            guard let floats = tensor.floats, floats.count >= indices.count * count else {
                throw .invalidArgument("the frozen part gave \(tensor.shape) for \(indices.count) images of \(shape)")
            }
            floats.withUnsafeBufferPointer { floats in
                guard let base = floats.baseAddress else { return }
                for (row, index) in indices.enumerated() {
                    (rows + index * frontier.elementCount + offset).update(from: base + row * count, count: count)
                }
            }
            offset += count
        }
        for index in indices {
            isPresent[index] = true
            isFresh[index] = true
        }
    }

    /// The rows of images as one batch: `[count, C, H, W]` for each node, in the frontier's order.
    func batch(_ indices: [Int]) -> [HostTensor] {
        for index in indices {
            // The first reading follows the writing; only later ones spare something.
            if isFresh[index] { isFresh[index] = false } else { rereadCount += 1 }
        }
        var offset = 0
        return frontier.shapes.map { shape in
            let count = shape.elementCount
            let values = [Float](unsafeUninitializedCapacity: indices.count * count) { target, initialized in
                if let base = target.baseAddress {
                    for (row, index) in indices.enumerated() {
                        (base + row * count).initialize(
                            from: rows + index * frontier.elementCount + offset, count: count)
                    }
                }
                initialized = indices.count * count
            }
            offset += count
            return HostTensor([indices.count, shape.channels, shape.height, shape.width], values)
        }
    }
}

/// The caches of one run: of the training images and of the validation images, with one frontier.
final class RunCache {
    let training: FrontierCache
    let validation: FrontierCache?
    let frontier: Frontier

    private init(_ frontier: Frontier, _ data: ImageDataset, _ validationData: ImageDataset?) {
        self.frontier = frontier
        training = FrontierCache(frontier, imageCount: data.count)
        validation = validationData.map { FrontierCache(frontier, imageCount: $0.count) }
    }

    /// Less than this share of the forward pass is not worth a cache.
    private static let leastShare = 0.1

    /// A cache for a frontier, where the policy wants one and it is worth it.
    ///
    /// - Throws: `DeviceError.outOfMemory` when ``CachePolicy/memory`` asks for more than half of the free memory.
    static func make(
        _ frontier: Frontier?, _ policy: CachePolicy, training data: ImageDataset, validation: ImageDataset?
    ) throws -> RunCache? {
        guard policy != .off, let frontier,
            Double(frontier.multiplyAccumulateCount)
                >= leastShare * Double(max(frontier.totalMultiplyAccumulateCount, 1))
        else { return nil }
        let byteCount = (data.count + (validation?.count ?? 0)) * frontier.elementCount * 4
        let available = SystemMemory.availableByteCount / 2
        guard byteCount <= available else {
            guard policy == .memory else { return nil }
            throw DeviceError.outOfMemory(
                device: "the cache", requestedByteCount: byteCount, availableByteCount: available,
                advice: "Use --cache off, or unfreeze less: \(frontier.nodes.joined(separator: ", ")) would be kept.")
        }
        return RunCache(frontier, data, validation)
    }

    var report: CacheReport {
        CacheReport(
            layers: frontier.nodes, imageCount: training.imageCount + (validation?.imageCount ?? 0),
            imageByteCount: frontier.elementCount * 4,
            sparedShare: Double(frontier.multiplyAccumulateCount)
                / Double(max(frontier.totalMultiplyAccumulateCount, 1)),
            sparedEvaluationCount: training.rereadCount + (validation?.rereadCount ?? 0))
    }
}
