import Foundation
import GraftVision

/// Times the way from picture files to a network's input: read, decode, resize, crop, gathered into batches.
///
/// Pixels stay bytes, as they go to the device: normalisation is the device's work and not part of the time.
public struct ReadingBenchmark: Sendable {
    /// Milliseconds per image of each pass over the files, in order.
    public let millisecondsPerImage: [Double]
    /// Images of a pass.
    public let imageCount: Int

    /// The fastest pass.
    public var minimum: Double { millisecondsPerImage.min() ?? 0 }
    /// The median pass.
    public var median: Double { Benchmark.median(millisecondsPerImage) }

    /// Runs `warmup` passes over all images, then `repeats` timed ones. Starting the loader's threads is part of a pass.
    ///
    /// - Parameters:
    ///   - images: the files.
    ///   - preprocessing: from picture to input.
    ///   - options: batch size, threads and decoding.
    ///   - repeats: timed passes.
    ///   - warmup: passes before, which bring the files into the system's cache.
    ///   - isCancelled: asked before every batch.
    /// - Returns: times per image.
    /// - Throws: `ImageError` for a file that cannot be read; ``GraftError/invalidArgument(_:)``;
    ///   ``GraftError/interrupted``.
    public static func run(
        _ images: ImageDataset, preprocessing: ImagePreprocessing, options: BatchLoaderOptions, repeats: Int,
        warmup: Int = 1, isCancelled: () -> Bool = { false }
    ) throws -> ReadingBenchmark {
        guard (1...1_000_000).contains(repeats) else {
            throw GraftError.invalidArgument("--repeats \(repeats): expected 1 to 1000000")
        }
        guard images.count > 0 else { throw GraftError.noInput("there is no image to read") }
        let order = Array(0..<images.count)
        let times = try Benchmark.time(repeats: repeats, warmup: warmup, batchSize: images.count) {
            let loader = BatchLoader(dataset: images, order: order, preprocessing: preprocessing, options: options)
            defer { loader.cancel() }
            while try loader.next() != nil {
                guard !isCancelled() else { throw GraftError.interrupted }
            }
        }
        return ReadingBenchmark(millisecondsPerImage: times, imageCount: images.count)
    }
}
