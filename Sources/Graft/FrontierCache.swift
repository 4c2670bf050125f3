import Foundation
import GraftCPU
import GraftCheckpoint
import GraftGraph
import GraftTensor
import GraftVision
import Synchronization

/// Whether, and where, the outputs of the frozen part are kept so that it is computed once per image.
public enum CachePolicy: String, Sendable, Hashable, CaseIterable {
    /// When that is worth it: in memory when they fit, else on disk when they fit there, else not.
    case auto
    /// In memory; an error when they do not fit.
    case memory
    /// In a file that later runs use too, so that they do not even decode the images; an error when they do not fit.
    case disk
    /// Every epoch computes the whole network.
    case off
}

/// Where a run keeps the outputs of its frozen part.
public enum CacheLocation: Sendable, Hashable {
    /// In the process's memory.
    case memory
    /// In a file, which stays.
    case disk(path: String)
}

/// What a run keeps of its frozen part.
public struct CacheReport: Sendable, Hashable {
    /// The layers whose outputs are kept, by torchvision's node names.
    public let layers: [String]
    /// Where they are kept.
    public let location: CacheLocation
    /// Rows that have a place: one for each view of a training image, and one for each validation image.
    public let imageCount: Int
    /// Bytes for one image.
    public let imageByteCount: Int
    /// Bytes of the file on disk, images of other runs included; 0 in memory.
    public let fileByteCount: Int
    /// Multiply-accumulate operations of the forward pass that a kept image spares, as a share of all.
    public let sparedShare: Double
    /// Evaluations of the frozen part that were spared so far, decoding included.
    public let sparedEvaluationCount: Int
    /// Images whose outputs an earlier run left on disk, so far.
    public let foundCount: Int
    /// Entries on disk that were damaged and are computed anew.
    public let damagedCount: Int

    /// Bytes in all.
    public var byteCount: Int { imageCount * imageByteCount }
}

/// Where the rows of one data set are.
private protocol FrontierRows: AnyObject {
    /// Writes the row of an image.
    func write(_ index: Int, _ row: UnsafeRawBufferPointer) throws
    /// Reads a part of the row of an image.
    func read(_ index: Int, at offset: Int, into target: UnsafeMutableRawBufferPointer) throws
}

/// Rows in host memory.
private final class MemoryRows: FrontierRows {
    private let rows: UnsafeMutableRawPointer
    private let rowByteCount: Int

    /// Reserves room for every image; the system gives it when rows are written.
    init(imageCount: Int, rowByteCount: Int) {
        self.rowByteCount = rowByteCount
        rows = .allocate(byteCount: max(imageCount * rowByteCount, 1), alignment: 64)
    }

    deinit { rows.deallocate() }

    func write(_ index: Int, _ row: UnsafeRawBufferPointer) {
        UnsafeMutableRawBufferPointer(start: rows + index * rowByteCount, count: rowByteCount).copyMemory(from: row)
    }

    func read(_ index: Int, at offset: Int, into target: UnsafeMutableRawBufferPointer) {
        target.copyMemory(
            from: UnsafeRawBufferPointer(start: rows + index * rowByteCount + offset, count: target.count))
    }
}

/// Rows in a file, found by the images' content.
final class DiskRows: FrontierRows, Sendable {
    let file: FrontierFile
    private let digests = Mutex<[Int: ContentDigest]>([:])

    init(_ file: FrontierFile) { self.file = file }

    /// Whether the file has the row of an image; called on decoding threads.
    func isKnown(_ index: Int, _ content: ImageContent) -> Bool {
        guard let digest = try? Self.digest(content) else { return false }
        digests.withLock { $0[index] = digest }
        return file.contains(digest)
    }

    private static func digest(_ content: ImageContent) throws -> ContentDigest {
        switch content {
        case .file(let bytes): return try ContentDigest(of: bytes)
        case .image(let image):
            // Neither a file's content nor another shape of the same bytes.
            let shape = Array("graft picture \(image.width) \(image.height)\n".utf8)
            return try shape.withUnsafeBytes { shape in
                try image.pixels.withUnsafeBytes { pixels in try ContentDigest(of: shape, pixels) }
            }
        }
    }

    private func digest(of index: Int) throws -> ContentDigest {
        guard let digest = digests.withLock({ $0[index] }) else {
            throw GraftError.outputFailed(
                "image \(index) has no SHA-256, which \(file.path) needs; check the OpenSSL installation, or use "
                    + "--cache memory")
        }
        return digest
    }

    func write(_ index: Int, _ row: UnsafeRawBufferPointer) throws { try file.write(digest(of: index), row: row) }

    func read(_ index: Int, at offset: Int, into target: UnsafeMutableRawBufferPointer) throws {
        try file.read(digest(of: index), at: offset, into: target)
    }
}

/// Rows that cannot be written or read any more; a run can go on without them.
struct FrontierCacheFailure: Error {
    /// What went wrong.
    let cause: any Error
}

/// What the frozen part makes of the images of one data set, by position: float32 rows.
///
/// A row holds the frontier's nodes one behind the other, each in `[C, H, W]` order. Rows are written once.
final class FrontierCache {
    let frontier: Frontier
    /// The rows, if they are on disk.
    let disk: DiskRows?
    /// Images that cannot be read, so that they are tried once.
    private(set) var unreadable: [Int: SkippedImage] = [:]
    /// How often a row was read again.
    private(set) var rereadCount = 0
    /// Rows that were on disk before.
    private(set) var foundCount = 0
    private let rows: any FrontierRows
    /// Images that have a place.
    let imageCount: Int
    private var isPresent: [Bool]
    private var isFresh: [Bool]

    /// A cache in memory, or in a file.
    init(_ frontier: Frontier, imageCount: Int, file: FrontierFile? = nil) {
        self.frontier = frontier
        self.imageCount = imageCount
        disk = file.map(DiskRows.init)
        rows = disk ?? MemoryRows(imageCount: imageCount, rowByteCount: frontier.elementCount * 4)
        isPresent = [Bool](repeating: false, count: imageCount)
        isFresh = isPresent
    }

    func contains(_ index: Int) -> Bool { isPresent[index] }

    /// Whether an image need not be read: it has a row, or none can be made.
    func isSettled(_ index: Int) -> Bool { isPresent[index] || unreadable[index] != nil }

    func note(unreadable image: SkippedImage) { unreadable[image.sampleIndex] = image }

    /// Notes that the row of an image is on disk already.
    func note(found index: Int) {
        isPresent[index] = true
        isFresh[index] = true
        foundCount += 1
    }

    /// Takes over what a prefix program gave for images: float32 `[at least images, C, H, W]` for each node.
    ///
    /// - Throws: ``FrontierCacheFailure`` when a row cannot be written.
    func store(_ values: [HostTensor], of indices: [Int]) throws {
        for (tensor, shape) in zip(values, frontier.shapes) {
            guard let count = tensor.floats?.count, count >= indices.count * shape.elementCount else {
                throw GraftError.invalidArgument(
                    "the frozen part gave \(tensor.shape) for \(indices.count) images of \(shape)")
            }
        }
        var row = [Float](repeating: 0, count: frontier.elementCount)
        for (position, index) in indices.enumerated() {
            var offset = 0
            for (tensor, shape) in zip(values, frontier.shapes) {
                let count = shape.elementCount
                guard let floats = tensor.floats else { continue }
                row.replaceSubrange(offset..<offset + count, with: floats[position * count..<(position + 1) * count])
                offset += count
            }
            do { try row.withUnsafeBytes { try rows.write(index, $0) } } catch {
                throw FrontierCacheFailure(cause: error)
            }
            isPresent[index] = true
            isFresh[index] = true
        }
    }

    /// The rows of images as one batch: `[count, C, H, W]` for each node, in the frontier's order.
    ///
    /// - Throws: ``FrontierCacheFailure`` when a row cannot be read.
    func batch(_ indices: [Int]) throws -> [HostTensor] {
        for index in indices {
            // The first reading follows the writing; only later ones spare something.
            if isFresh[index] { isFresh[index] = false } else { rereadCount += 1 }
        }
        var offset = 0
        return try frontier.shapes.map { shape in
            let count = shape.elementCount
            let values = try [Float](unsafeUninitializedCapacity: indices.count * count) { target, initialized in
                for (position, index) in indices.enumerated() {
                    let part = UnsafeMutableBufferPointer(rebasing: target[position * count..<(position + 1) * count])
                    do { try rows.read(index, at: offset * 4, into: UnsafeMutableRawBufferPointer(part)) } catch {
                        throw FrontierCacheFailure(cause: error)
                    }
                    initialized = (position + 1) * count
                }
            }
            offset += count
            return HostTensor([indices.count, shape.channels, shape.height, shape.width], values)
        }
    }
}

/// The caches of one run: of the training images and of the validation images, with one frontier.
final class RunCache {
    /// One for each view of the training images.
    private let views: [FrontierCache]
    let validation: FrontierCache?
    let frontier: Frontier
    private let file: FrontierFile?

    private init(_ frontier: Frontier, _ request: Request, file: FrontierFile?) {
        self.frontier = frontier
        self.file = file
        views = (0..<request.viewCount).map { _ in
            FrontierCache(frontier, imageCount: request.trainingCount, file: file)
        }
        validation = request.validationCount.map { FrontierCache(frontier, imageCount: $0, file: file) }
    }

    /// Leaves the file to other runs at once; nothing is kept or found any more.
    func close() { file?.close() }

    /// The cache of the view that an epoch sees.
    func training(epoch: Int) -> FrontierCache { views[epoch % views.count] }

    /// Less than this share of the forward pass is not worth a cache.
    private static let leastShare = 0.1

    /// What a run wants to be kept.
    struct Request {
        var policy: CachePolicy
        var trainingCount: Int
        /// Augmented views of each training image; 1 where there is only the image itself.
        var viewCount: Int
        var validationCount: Int?
        /// The most bytes of all files.
        var limit: Int
        /// The most bytes to keep in memory; nil for half of what is free.
        var memoryLimit: Int?
        /// Where they are; nil where no folder is known.
        var folder: URL?
        /// Whether the disk may be used; a file's key knows nothing of augmentation.
        var allowsDisk: Bool
        /// Whether later epochs will read what this one keeps.
        var isReadAgain: Bool
        /// Everything the rows depend on besides the images.
        var key: (Frontier) throws -> String

        var imageCount: Int { trainingCount * viewCount + (validationCount ?? 0) }
    }

    /// A cache for a frontier, where the policy wants one and it is worth it.
    ///
    /// - Parameters:
    ///   - frontier: where the part to keep ends; nil for none.
    ///   - request: what is wanted.
    ///   - onWarning: told why the disk is not used although it was to be.
    /// - Returns: the cache; nil where there is none.
    /// - Throws: `DeviceError.outOfMemory` when ``CachePolicy/memory`` asks for more than half of the free memory,
    ///   ``GraftError/outputFailed(_:)`` when ``CachePolicy/disk`` has no room.
    static func make(_ frontier: Frontier?, _ request: Request, onWarning: (String) throws -> Void) throws -> RunCache?
    {
        guard request.policy != .off, request.isReadAgain || request.policy == .disk, let frontier,
            Double(frontier.multiplyAccumulateCount)
                >= leastShare * Double(max(frontier.totalMultiplyAccumulateCount, 1))
        else { return nil }
        let byteCount = request.imageCount * frontier.elementCount * 4
        let available = request.memoryLimit ?? SystemMemory.availableByteCount / 2
        let inMemory = byteCount <= available && request.isReadAgain
        switch request.policy {
        case .off: return nil
        case .memory:
            guard byteCount <= available else {
                throw DeviceError.outOfMemory(
                    device: "the cache", requestedByteCount: byteCount, availableByteCount: available,
                    advice: "Use --cache disk or --cache off, or unfreeze less: "
                        + "\(frontier.nodes.joined(separator: ", ")) would be kept.")
            }
            return RunCache(frontier, request, file: nil)
        case .auto:
            if inMemory { return RunCache(frontier, request, file: nil) }
            guard request.allowsDisk else {
                if request.isReadAgain {
                    try onWarning(
                        "\(request.viewCount) views of the outputs of \(frontier.nodes.joined(separator: ", ")) take "
                            + "\(formatBytes(byteCount)), \(formatBytes(available)) of memory are to be had; the frozen "
                            + "part is computed in every epoch")
                }
                return nil
            }
            do {
                return RunCache(frontier, request, file: try file(frontier, request))
            } catch {
                let reason = (error as? FrontierFile.Refusal).map { text($0, frontier, request) } ?? "\(error)"
                try onWarning("\(reason); the frozen part is computed in every epoch")
                return nil
            }
        case .disk:
            guard request.allowsDisk else {
                throw GraftError.invalidArgument(
                    "the cache on disk does not keep augmented views; use --cache auto, memory or off with "
                        + "--cached-views")
            }
            do {
                return RunCache(frontier, request, file: try file(frontier, request))
            } catch FrontierFile.Refusal.inUse {
                try onWarning(
                    text(.inUse, frontier, request)
                        + (inMemory
                            ? "; this one keeps its own in memory"
                            : "; this one computes the frozen part in every epoch"))
                return inMemory ? RunCache(frontier, request, file: nil) : nil
            } catch let refusal as FrontierFile.Refusal {
                throw GraftError.outputFailed(text(refusal, frontier, request))
            }
        }
    }

    private static func file(_ frontier: Frontier, _ request: Request) throws -> FrontierFile {
        guard let folder = request.folder else {
            throw FrontierFile.Refusal.failed(
                "no folder is known for the cache; set GRAFT_CACHE, XDG_CACHE_HOME or HOME, or use --cache memory")
        }
        return try FrontierFile(
            folder: folder, key: try request.key(frontier), rowByteCount: frontier.elementCount * 4,
            imageCount: request.imageCount, limit: request.limit)
    }

    private static func text(_ refusal: FrontierFile.Refusal, _ frontier: Frontier, _ request: Request) -> String {
        switch refusal {
        case .inUse: "the cache file of this network and these images' preprocessing is in use by another run"
        case .tooLarge(let needed, let allowed):
            "the outputs of \(frontier.nodes.joined(separator: ", ")) for \(request.imageCount) images take \(needed) "
                + "bytes on disk, \(allowed) of --cache-limit \(request.limit) are to be had; raise --cache-limit, or "
                + "use --cache memory or --cache off"
        case .failed(let reason): "the cache on disk cannot be used: \(reason)"
        }
    }

    private var caches: [FrontierCache] { views + [validation].compactMap(\.self) }

    var report: CacheReport {
        CacheReport(
            layers: frontier.nodes, location: file.map { .disk(path: $0.path) } ?? .memory,
            imageCount: caches.reduce(0) { $0 + $1.imageCount },
            imageByteCount: frontier.elementCount * 4, fileByteCount: file?.byteCount ?? 0,
            sparedShare: Double(frontier.multiplyAccumulateCount)
                / Double(max(frontier.totalMultiplyAccumulateCount, 1)),
            sparedEvaluationCount: caches.reduce(0) { $0 + $1.rereadCount + $1.foundCount },
            foundCount: caches.reduce(0) { $0 + $1.foundCount }, damagedCount: file?.damagedCount ?? 0)
    }
}

/// What the rows of a frozen part depend on besides the image.
enum FrontierKey {
    /// The key as 64 hexadecimal digits.
    ///
    /// - Parameters:
    ///   - frontier: where the part ends.
    ///   - model: the network, of which the part's weights count.
    ///   - fastDecode: how images are decoded.
    ///   - isExact: whether convolutions are summed directly.
    ///   - batchSize: images that the part is run on at once.
    ///   - device: what computes.
    /// - Returns: the key.
    /// - Throws: `GraphError` for a node that the network lacks; `CheckpointError` when SHA-256 is not to be had.
    static func text(
        _ frontier: Frontier, model: Model, fastDecode: Bool, isExact: Bool, batchSize: Int, device: DeviceDescription
    ) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        var needed: Set<Int> = []
        for name in frontier.nodes { needed.insert(try model.graph.index(of: name)) }
        for index in model.graph.nodes.indices.reversed() where needed.contains(index) {
            needed.formUnion(model.graph.nodes[index].inputs)
        }
        let nodes = needed.sorted().map { model.graph.nodes[$0] }
        let modules = Set(nodes.map(\.module))
        var weights = StateDictionary()
        for name in model.state.names where !name.hasSuffix(".num_batches_tracked") {
            guard let dot = name.lastIndex(of: "."), modules.contains(String(name[..<dot])) else { continue }
            weights[name] = model.state[name]
        }
        let parts = [
            "graft frontier 2", try ProgramIdentity.text(),
            String(decoding: try encoder.encode(model.preprocessing), as: UTF8.self),
            "fast decode \(fastDecode)", "exact \(isExact)",
            "\(device.platform)\n\(device.name)\n\(device.driverVersion)\n\(device.kernelClass)",
            // Only there do rows depend on their company.
            device.kernelClass == "gpu-class" ? "batch \(batchSize)" : "any batch",
            frontier.nodes.joined(separator: ","),
            nodes.map { "\($0.name) \($0.layer) \($0.inputs)" }.joined(separator: "\n"),
            try digest(of: weights),
        ]
        let digest = SHA256Digest()
        // Lengths keep parts apart.
        for part in parts { digest.update("\(part.utf8.count):\(part)") }
        return try digest.hex()
    }
}
