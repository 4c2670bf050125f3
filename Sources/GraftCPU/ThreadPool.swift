import CSystemSupport
import Synchronization

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// One parallel loop, made once when a program is prepared: `body(unit, scratch)` for every unit, in any order.
///
/// Units depend on shapes alone, never on the number of threads, so results are the same bytes for any number of them.
final class ParallelLoop {
    let unitCount: Int
    let body: (Int, UnsafeMutableRawPointer) -> Void

    init(_ unitCount: Int, _ body: @escaping (Int, UnsafeMutableRawPointer) -> Void) {
        self.unitCount = unitCount
        self.body = body
    }
}

/// Threads that live as long as the backend and take units from a common counter. The caller takes part.
final class ThreadPool {
    let threadCount: Int
    private let shared: PoolState
    private var threads: [pthread_t] = []
    private var callerScratch: UnsafeMutableRawPointer?
    private var scratchByteCount = 0

    /// Starts `threadCount − 1` threads; fewer when the system grants no more.
    init(threadCount: Int) {
        self.threadCount = max(threadCount, 1)
        shared = PoolState(threadCount: self.threadCount)
        for worker in 1..<max(self.threadCount, 2) where worker < self.threadCount {
            let start = Unmanaged.passRetained(WorkerStart(state: shared))
            #if canImport(Darwin)
                var thread: pthread_t?
            #else
                var thread = pthread_t()
            #endif
            let status = pthread_create(&thread, nil, workerMain, start.toOpaque())
            guard status == 0 else {
                start.release()
                break
            }
            #if canImport(Darwin)
                if let thread { threads.append(thread) }
            #else
                threads.append(thread)
            #endif
        }
    }

    deinit {
        shared.stop()
        for thread in threads { pthread_join(thread, nil) }
        free(callerScratch)
    }

    /// Makes sure that each thread's scratch has at least so many bytes. Not while a loop runs.
    func reserveScratch(byteCount: Int) {
        guard byteCount > scratchByteCount else { return }
        free(callerScratch)
        callerScratch = nil
        scratchByteCount = byteCount
        shared.scratchByteCount.store(byteCount, ordering: .releasing)
    }

    /// Runs a loop to its end.
    func run(_ loop: ParallelLoop) {
        let scratch: UnsafeMutableRawPointer
        if let callerScratch {
            scratch = callerScratch
        } else {
            scratch = allocateScratch(scratchByteCount)
            callerScratch = scratch
        }
        guard loop.unitCount > 1, !threads.isEmpty else {
            for unit in 0..<loop.unitCount { loop.body(unit, scratch) }
            return
        }
        shared.run(loop, scratch: scratch)
    }
}

/// At least a page, aligned to a page; a large one to a large page.
private func allocateScratch(_ byteCount: Int) -> UnsafeMutableRawPointer {
    var pointer: UnsafeMutableRawPointer?
    let largePage = 2 << 20
    let page = byteCount > largePage / 4 ? largePage : 4096
    let rounded = max((byteCount + page - 1) / page, 1) * page
    let status = posix_memalign(&pointer, page, rounded)
    guard status == 0, let pointer else {
        // Scratch is about a megabyte; where that fails no error could be reported either.
        preconditionFailure("no memory for \(byteCount) bytes of kernel scratch")
    }
    #if canImport(Glibc)
        // Spares address translations; where large pages are off this is a no-op.
        if page == largePage { madvise(pointer, rounded, MADV_HUGEPAGE) }
    #endif
    return pointer
}

private final class WorkerStart {
    let state: PoolState
    init(state: PoolState) { self.state = state }
}

#if canImport(Darwin)
    private func workerMain(_ argument: UnsafeMutableRawPointer) -> UnsafeMutableRawPointer? {
        Unmanaged<WorkerStart>.fromOpaque(argument).takeRetainedValue().state.work()
        return nil
    }
#else
    private func workerMain(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
        if let argument { Unmanaged<WorkerStart>.fromOpaque(argument).takeRetainedValue().state.work() }
        return nil
    }
#endif

/// What the threads share. A loop is published by a new generation in `ticket`, whose low half counts units handed out:
/// a thread that wakes late cannot take a unit of a loop other than the one it looked at.
private final class PoolState: @unchecked Sendable {
    /// `generation << 32 | next unit`.
    private let ticket = Atomic<UInt64>(0)
    private let unitCount = Atomic<Int>(0)
    private let finished = Atomic<Int>(0)
    private let loopAddress = Atomic<UInt>(0)
    private let stopping = Atomic<Bool>(false)
    private let sleepers = Atomic<Int>(0)
    let scratchByteCount = Atomic<Int>(0)
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>
    private let condition: UnsafeMutablePointer<pthread_cond_t>

    /// Tries before a thread sleeps: 50 to 100 microseconds, about what the last unit of a loop keeps another thread.
    private static let spinCount = 2500

    private let threadCount: Int

    init(threadCount: Int) {
        self.threadCount = threadCount
        mutex = .allocate(capacity: 1)
        condition = .allocate(capacity: 1)
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(condition, nil)
    }

    deinit {
        pthread_cond_destroy(condition)
        pthread_mutex_destroy(mutex)
        condition.deallocate()
        mutex.deallocate()
    }

    func run(_ loop: ParallelLoop, scratch: UnsafeMutableRawPointer) {
        let last = ticket.load(ordering: .relaxed) >> 32
        // Closes the old generation before its counts change under a thread that still looks at it.
        ticket.store(last << 32 | 0xFFFF_FFFF, ordering: .sequentiallyConsistent)
        finished.store(0, ordering: .relaxed)
        unitCount.store(loop.unitCount, ordering: .relaxed)
        loopAddress.store(UInt(bitPattern: Unmanaged.passUnretained(loop).toOpaque()), ordering: .relaxed)
        let generation = (last + 1) & 0xFFFF_FFFF
        ticket.store(generation << 32, ordering: .sequentiallyConsistent)
        wakeSleepers()
        takeUnits(generation, scratch)
        var spins = 0
        while finished.load(ordering: .acquiring) < loop.unitCount {
            spins += 1
            if spins > Self.spinCount { sched_yield() } else { graft_spin_hint() }
        }
    }

    func stop() {
        stopping.store(true, ordering: .sequentiallyConsistent)
        pthread_mutex_lock(mutex)
        pthread_cond_broadcast(condition)
        pthread_mutex_unlock(mutex)
    }

    private func wakeSleepers() {
        guard sleepers.load(ordering: .sequentiallyConsistent) > 0 else { return }
        pthread_mutex_lock(mutex)
        pthread_cond_broadcast(condition)
        pthread_mutex_unlock(mutex)
    }

    func work() {
        var seen: UInt64 = 0
        var scratch: UnsafeMutableRawPointer?
        var reserved = 0
        while let generation = nextGeneration(after: seen) {
            seen = generation
            let wanted = scratchByteCount.load(ordering: .acquiring)
            if scratch == nil || wanted > reserved {
                free(scratch)
                scratch = allocateScratch(wanted)
                reserved = wanted
            }
            if let scratch { takeUnits(generation, scratch) }
        }
        free(scratch)
    }

    /// Waits for a generation other than `seen`, first spinning, then asleep; nil when the pool stops.
    private func nextGeneration(after seen: UInt64) -> UInt64? {
        for _ in 0..<Self.spinCount {
            if stopping.load(ordering: .relaxed) { return nil }
            let generation = ticket.load(ordering: .acquiring) >> 32
            if generation != seen { return generation }
            graft_spin_hint()
        }
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        sleepers.add(1, ordering: .sequentiallyConsistent)
        defer { sleepers.subtract(1, ordering: .sequentiallyConsistent) }
        while true {
            if stopping.load(ordering: .sequentiallyConsistent) { return nil }
            let generation = ticket.load(ordering: .sequentiallyConsistent) >> 32
            if generation != seen { return generation }
            pthread_cond_wait(condition, mutex)
        }
    }

    private func takeUnits(_ generation: UInt64, _ scratch: UnsafeMutableRawPointer) {
        while true {
            let current = ticket.load(ordering: .acquiring)
            guard current >> 32 == generation else { return }
            let unit = Int(current & 0xFFFF_FFFF)
            let address = loopAddress.load(ordering: .relaxed)
            let left = unitCount.load(ordering: .relaxed) - unit
            guard left > 0 else { return }
            // Runs of neighbours read memory in one stream; at the end single units, so that threads end together.
            let count = max(min(left / (8 * threadCount), 16), 1)
            let exchange = ticket.compareExchange(
                expected: current, desired: current + UInt64(count), ordering: .sequentiallyConsistent)
            guard exchange.exchanged, let pointer = UnsafeRawPointer(bitPattern: address) else { continue }
            // The exchange proves that this generation still has unfinished units, so its loop is alive.
            Unmanaged<ParallelLoop>.fromOpaque(pointer)._withUnsafeGuaranteedRef {
                for index in unit..<unit + count { $0.body(index, scratch) }
            }
            finished.add(count, ordering: .releasing)
        }
    }
}
