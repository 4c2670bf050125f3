/// What waits for a loss to fall: the plateau schedule's state and that of early stopping. Values, so that a run that goes
/// on later goes on the same.
struct Patience: Sendable, Hashable, Codable {
    /// The least loss so far.
    private(set) var best: Double?
    /// Epochs since then.
    private(set) var badEpochs = 0

    /// Takes an epoch's loss.
    ///
    /// - Parameters:
    ///   - loss: of the validation images.
    ///   - threshold: the share of the best by which it must fall to count.
    /// - Returns: whether it fell.
    mutating func improves(_ loss: Double, threshold: Double = 0) -> Bool {
        if let best, !(loss < best * (1 - threshold)) {
            badEpochs += 1
            return false
        }
        best = loss
        badEpochs = 0
        return true
    }

    /// Begins to count anew; the best stays.
    mutating func restart() { badEpochs = 0 }
}

/// `ReduceLROnPlateau` in its mode `min` with a relative threshold of 1e-4.
struct Plateau: Sendable, Hashable, Codable {
    private var patience = Patience()
    /// What the schedule multiplies the rate with.
    private(set) var factor = 1.0

    /// Takes an epoch's validation loss.
    mutating func take(_ loss: Double, schedule: LearningRateSchedule) {
        guard case .plateau(let step, let limit) = schedule else { return }
        if patience.improves(loss, threshold: 1e-4) { return }
        if patience.badEpochs > limit {
            factor *= step
            patience.restart()
        }
    }
}
