import Foundation
import GraftVision
import Synchronization

/// A run of a ``Trainer`` as an asynchronous sequence of its events.
///
/// ```swift
/// let task = Task {
///     let trainer = try Trainer(model, device: .auto)
///     for try await event in trainer.run(data, validation: held) {
///         if case .epoch(let record) = event { print(record.epoch, record.trainLoss) }
///     }
///     try trainer.model().save("out.safetensors")
/// }
/// ```
///
/// The training has a thread of its own and stands still while the body of the loop runs, as it does in the callback of
/// ``Trainer/fit(_:validation:options:resuming:onEvent:)``: within the body the trainer may be asked for its model, and more of it
/// unfrozen. No thread of the concurrency runtime waits for the device.
///
/// When the task is cancelled, the current step is finished and the loop ends with `CancellationError`; a loop that is left
/// early ends the run before the next step. In both cases the trainer holds the last finished step and can go on.
public struct TrainingRun: AsyncSequence {
    /// What a run reports.
    public typealias Element = TrainingEvent

    let trainer: Trainer
    let data: ImageDataset
    let validation: ImageDataset?
    let options: FitOptions

    /// Begins the run with the first call of `next`.
    public func makeAsyncIterator() -> Iterator { Iterator(self) }

    /// One pass over the events: one training.
    public struct Iterator: AsyncIteratorProtocol {
        private let thread: TrainingThread

        fileprivate init(_ run: TrainingRun) { thread = TrainingThread(run) }

        /// Lets the training go on to its next event.
        ///
        /// - Parameter actor: the caller's isolation, which is kept.
        /// - Returns: the event; nil when the run is done.
        /// - Throws: `CancellationError` when the task was cancelled, else what
        ///   ``Trainer/fit(_:validation:options:resuming:onEvent:)`` throws.
        public mutating func next(isolation actor: isolated (any Actor)?) async throws -> TrainingEvent? {
            try await thread.next(isolation: actor)
        }

        /// Lets the training go on to its next event; see ``next(isolation:)``.
        public mutating func next() async throws -> TrainingEvent? { try await thread.next(isolation: nil) }
    }
}

extension Trainer {
    /// Trains over epochs, as ``fit(_:validation:options:resuming:onEvent:)`` does, and gives the events as they come.
    ///
    /// - Parameters:
    ///   - data: the training images.
    ///   - validation: images to evaluate on behind every epoch.
    ///   - options: epochs, batches, schedule, unfreezing.
    /// - Returns: the events; nothing happens before they are asked for.
    public func run(
        _ data: ImageDataset, validation: ImageDataset? = nil, options: FitOptions = FitOptions()
    ) -> TrainingRun {
        TrainingRun(trainer: self, data: data, validation: validation, options: options)
    }
}

/// The thread of one run, and its owner in the consumer's hands: when that goes, the run ends.
private final class TrainingThread {
    private let run: TrainingRun
    private let turns = Turns()
    private var isStarted = false

    init(_ run: TrainingRun) { self.run = run }

    deinit {
        if isStarted { turns.abandon() }
    }

    func next(isolation actor: isolated (any Actor)?) async throws -> TrainingEvent? {
        if !isStarted {
            isStarted = true
            start()
        }
        let turns = turns
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { turns.ask($0) }
        } onCancel: {
            turns.cancel()
        }
    }

    private func start() {
        // Consumer and training take turns, so that only one of them is at the trainer at any time.
        nonisolated(unsafe) let trainer = run.trainer
        let (data, validation, turns) = (run.data, run.validation, turns)
        var options = run.options
        let isCancelled = options.isCancelled
        options.isCancelled = { turns.isCancelled || isCancelled() }
        let thread = Thread { [options] in
            Thread.current.name = "graft-training"
            turns.waitForFirst()
            do {
                try trainer.fit(data, validation: validation, options: options) { try turns.deliver($0) }
                turns.finish(nil)
            } catch {
                turns.finish(error)
            }
        }
        thread.stackSize = 8 << 20
        thread.start()
    }
}

/// Whose turn it is: the consumer's, or the training's.
private final class Turns: Sendable {
    private struct State {
        var waiting: CheckedContinuation<TrainingEvent?, any Error>?
        var isAbandoned = false
        var isFinished = false
    }

    private let state = Mutex(State())
    private let cancelled = Atomic(false)
    /// Signalled when the consumer asks for the next event, or goes.
    private let turn = DispatchSemaphore(value: 0)
    private let end = DispatchSemaphore(value: 0)

    var isCancelled: Bool { cancelled.load(ordering: .relaxed) }

    // MARK: The consumer's side

    func cancel() { cancelled.store(true, ordering: .relaxed) }

    func ask(_ continuation: CheckedContinuation<TrainingEvent?, any Error>) {
        let isFinished = state.withLock { state in
            if !state.isFinished { state.waiting = continuation }
            return state.isFinished
        }
        if isFinished { continuation.resume(returning: nil) } else { turn.signal() }
    }

    /// Ends the run before its next step and waits until the trainer is free.
    func abandon() {
        let isFinished = state.withLock { state in
            state.isAbandoned = true
            return state.isFinished
        }
        guard !isFinished else { return }
        cancel()
        turn.signal()
        end.wait()
    }

    // MARK: The training's side

    func waitForFirst() { turn.wait() }

    /// Hands an event over and waits until the next one is asked for.
    func deliver(_ event: TrainingEvent) throws {
        take()?.resume(returning: event)
        turn.wait()
        if state.withLock({ $0.isAbandoned }) { throw CancellationError() }
    }

    func finish(_ error: (any Error)?) {
        let waiting = state.withLock { state in
            state.isFinished = true
            defer { state.waiting = nil }
            return state.waiting
        }
        switch error {
        case nil: waiting?.resume(returning: nil)
        case GraftError.interrupted? where isCancelled: waiting?.resume(throwing: CancellationError())
        case let error?: waiting?.resume(throwing: error)
        }
        end.signal()
    }

    private func take() -> CheckedContinuation<TrainingEvent?, any Error>? {
        state.withLock { state in
            defer { state.waiting = nil }
            return state.waiting
        }
    }
}
