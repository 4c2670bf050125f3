import Foundation
import GraftCheckpoint
import GraftVision
import Synchronization

/// A number for every image of a run: over its path, its label and its content. It is computed beside the training, on
/// threads of its own, and asked for when the state is first written.
final class DataFingerprint: Sendable {
    /// The numbers, in the order of the data.
    struct Hashes: Sendable {
        var training: [Int64]
        var validation: [Int64]
    }

    private struct Progress {
        var result: Result<Hashes, any Error>?
        var isCancelled = false
    }

    private let progress = Mutex(Progress())
    private let condition = NSCondition()

    /// Starts computing.
    init(_ training: ImageDataset, _ validation: ImageDataset?, workerCount: Int) {
        let thread = Thread { [self] in
            let result = Result {
                Hashes(
                    training: try hashes(training, workerCount: workerCount),
                    validation: try validation.map { try hashes($0, workerCount: workerCount) } ?? [])
            }
            progress.withLock { $0.result = result }
            condition.lock()
            condition.broadcast()
            condition.unlock()
        }
        thread.name = "graft-fingerprint"
        // The training goes first.
        thread.qualityOfService = .utility
        thread.start()
    }

    /// Whether the numbers are there.
    var isReady: Bool { progress.withLock { $0.result != nil } }

    /// The numbers; waits for them.
    ///
    /// - Throws: `CheckpointError` when SHA-256 is not to be had.
    func get() throws -> Hashes {
        condition.lock()
        defer { condition.unlock() }
        while !isReady { condition.wait() }
        guard let result = progress.withLock({ $0.result }) else { throw GraftError.interrupted }
        return try result.get()
    }

    /// Ends the computation.
    func cancel() { progress.withLock { $0.isCancelled = true } }

    private func hashes(_ data: ImageDataset, workerCount: Int) throws -> [Int64] {
        let results = Mutex(Results(hashes: [Int64](repeating: 0, count: data.count)))
        let count = max(min(workerCount, data.count), 1)
        DispatchQueue.concurrentPerform(iterations: count) { worker in
            let workspace = ImageWorkspace()
            for index in stride(from: worker, to: data.count, by: count) {
                if progress.withLock({ $0.isCancelled }) { return }
                do {
                    let hash = try Self.hash(data, index, workspace)
                    results.withLock { $0.hashes[index] = hash }
                } catch {
                    results.withLock { $0.error = error }
                    return
                }
            }
        }
        return try results.withLock { results in
            if let error = results.error { throw error }
            return results.hashes
        }
    }

    private struct Results {
        var hashes: [Int64]
        var error: (any Error)?
    }

    private static func hash(_ data: ImageDataset, _ index: Int, _ workspace: ImageWorkspace) throws
        -> Int64
    {
        let sample = data.samples[index]
        let digest = SHA256Digest()
        digest.update("\(sample.path.utf8.count):\(sample.path)\(sample.label):")
        data.withContent(of: index, workspace: workspace) { content in
            switch content {
            case .file(let bytes): digest.update(bytes)
            case .image(let image):
                digest.update("\(image.width) \(image.height)\n")
                digest.update(image.pixels)
            case nil: digest.update("it cannot be read")
            }
        }
        return try digest.bytes().prefix(8).reduce(0) { $0 << 8 | Int64($1) }
    }
}

extension DataFingerprint.Hashes {
    /// What differs from the images that a state was made with, in words; nil when they are the same.
    ///
    /// - Parameters:
    ///   - state: the state.
    ///   - training: the images to train on now.
    ///   - validation: the images to validate on now.
    /// - Returns: what to tell the user.
    func difference(from state: TrainingState, _ training: ImageDataset, _ validation: ImageDataset?)
        -> String?
    {
        func difference(_ kind: String, _ was: [Int64], _ now: [Int64], _ data: ImageDataset?)
            -> String?
        {
            guard was != now else { return nil }
            guard was.count == now.count else {
                return "there were \(was.count) \(kind) images and are \(now.count) now"
            }
            let changed = was.indices.filter { was[$0] != now[$0] }
            let first = changed.first.flatMap { index in data?.path(of: index) } ?? ""
            return
                "\(changed.count) of \(was.count) \(kind) images have another name, label or content than before, the "
                + "first of them \(first)"
        }
        return difference("training", state.trainingHashes, self.training, training)
            ?? difference("validation", state.validationHashes, self.validation, validation)
    }
}
