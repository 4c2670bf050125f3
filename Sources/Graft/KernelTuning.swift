import Foundation
import GraftGraph
import GraftTensor

#if OpenCL
    import GraftOpenCL
#endif

/// Times the GPU kernels' tile parameters on a device and keeps the faster ones: `graft tune`.
///
/// Never needed: without a stored result, or with one of another driver or version of Graft, a built-in table is used.
/// Tiles change how fast a sum is done, not in what order, so that results stay what they were.
public enum KernelTuning {
    /// What came of one convolution shape.
    public struct Row: Sendable, Hashable {
        /// `64→64 3×3 56×56`: channels, kernel with stride and groups, input.
        public let shape: String
        /// `forward`, `input gradient`, `weight gradient`, `forward, Winograd` or `weight gradient, Winograd`.
        public let pass: String
        /// Milliseconds with the built-in tile.
        public let defaultMilliseconds: Double
        /// Milliseconds with the best tile found; the built-in one's where none was clearly faster.
        public let bestMilliseconds: Double
        /// The built-in tile: rows × columns × depth, and what an item computes of it.
        public let defaultParameters: String
        /// The best tile.
        public let bestParameters: String
        /// Other tiles that were tried.
        public let candidateCount: Int
        /// Those of them that did not build, did not run or gave another result than the built-in tile.
        public let rejectedCount: Int
    }

    /// What a run found and where it is kept.
    public struct Result: Sendable {
        /// The device.
        public let device: DeviceDescription
        /// Why this device was chosen, and a warning if another had to be passed over.
        public let deviceNotes: (reason: String, warning: String?)
        /// Why there is nothing to tune; nil when there is.
        public let nothingToTune: String?
        /// One row for each shape that was reached.
        public let rows: [Row]
        /// Images per batch.
        public let batchSize: Int
        /// How many shapes were not reached in time or do not fit the device.
        public let skippedCount: Int
        /// The file that holds the winners; nil when nothing was tuned.
        public let path: String?
    }

    /// Tries tiles for usual convolution shapes, each result held against the built-in tile's before it may win, and
    /// stores the winners for this device, driver and version of the kernels. Of an earlier run, what this one did not
    /// reach is kept.
    ///
    /// - Parameters:
    ///   - device: where; only devices that run the GPU class of kernels have something to tune.
    ///   - seconds: no candidate is begun after this; a compilation under way is waited for.
    ///   - progress: called with each row as soon as it is known.
    /// - Returns: the rows and where the winners are; with ``Result/nothingToTune`` and no row where there are no tiles.
    /// - Throws: `DeviceError` when the device cannot be used; ``GraftError/outputFailed(_:)`` when the result cannot be
    ///   stored.
    public static func run(
        device: Device, seconds: Double, progress: (Row) -> Void = { _ in }
    ) throws -> Result {
        guard seconds.isFinite, seconds > 0 else {
            throw GraftError.invalidArgument("--seconds \(seconds): expected a number above 0")
        }
        let opened = try device.open(running: [])
        let description = opened.backend.description
        // A processor takes seconds for what a GPU does in a millisecond.
        let batchSize = description.type == "CPU" ? 1 : 16
        func result(
            _ rows: [Row], skipped: Int = 0, path: String? = nil, nothingToTune: String? = nil
        ) -> Result {
            Result(
                device: description, deviceNotes: (opened.reason, opened.warning), nothingToTune: nothingToTune,
                rows: rows, batchSize: batchSize, skippedCount: skipped, path: path)
        }
        #if OpenCL
            if let backend = opened.backend as? OpenCLBackend, let tuner = KernelTuner(backend) {
                guard let store = TuningStore.standard, let key = backend.tuningKey else {
                    throw GraftError.outputFailed(
                        "there is no folder for tuning results; set GRAFT_CACHE to one that can be written")
                }
                let report = try tuner.run(KernelTuner.shapes(batch: batchSize), seconds: seconds) { progress(Row($0)) }
                let path = store.file(key).path
                do {
                    try store.store(report, key: key)
                } catch {
                    throw GraftError.outputFailed(
                        "\(path) cannot be written: \(systemReason(of: error)); set GRAFT_CACHE to another folder")
                }
                return result(report.rows.map(Row.init), skipped: report.skipped.count, path: path)
            }
        #endif
        return result(
            [],
            nothingToTune:
                "\(description.selector) (\(description.name)) runs the \(description.kernelClass) kernels, whose "
                + "register tiles follow from the processor's vectors; only the GPU class of kernels has tiles to tune")
    }
}

#if OpenCL
    extension KernelTuning.Row {
        fileprivate init(_ row: KernelTuner.Row) {
            self.init(
                shape: row.shape.name, pass: row.shape.pass, defaultMilliseconds: row.defaultSeconds * 1e3,
                bestMilliseconds: row.bestSeconds * 1e3, defaultParameters: row.defaultTile.text,
                bestParameters: row.bestTile.text, candidateCount: row.candidateCount,
                rejectedCount: row.rejectedCount)
        }
    }
#endif
