/// Bounds on what a caller may ask for; they keep every size computed from it within 64 bits.
enum Limits {
    /// Throws ``GraftError/invalidArgument(_:)`` unless a head of so many classes can be.
    static func check(classCount: Int) throws(GraftError) {
        guard (1...100_000).contains(classCount) else {
            throw .invalidArgument("a classifier of \(classCount) classes: expected 1 to 100000 (--classes)")
        }
    }

    /// Throws ``GraftError/invalidArgument(_:)`` unless a batch of so many images can be.
    static func check(batchSize: Int) throws(GraftError) {
        guard (1...65_536).contains(batchSize) else {
            throw .invalidArgument("--batch-size \(batchSize): expected 1 to 65536")
        }
    }

    /// Throws ``GraftError/invalidArgument(_:)`` unless so many batches can make a step.
    static func check(accumulatedBatches: Int) throws(GraftError) {
        guard (1...100_000).contains(accumulatedBatches) else {
            throw .invalidArgument("--accumulate \(accumulatedBatches): expected from 1 to 100000 batches a step")
        }
    }
}
