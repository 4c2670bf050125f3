import Foundation
import GraftCheckpoint
import GraftTensor
import Synchronization

/// What identifies an image's content: 32 bytes of SHA-256.
struct ContentDigest: Hashable, Sendable {
    static let byteCount = 32
    let bytes: SIMD32<UInt8>

    init(_ bytes: SIMD32<UInt8>) { self.bytes = bytes }

    /// The digest of several pieces, one behind the other.
    init(of pieces: UnsafeRawBufferPointer...) throws(CheckpointError) {
        let digest = SHA256Digest()
        for piece in pieces { digest.update(piece) }
        bytes = SIMD32(try digest.bytes())
    }
}

/// Outputs of a frozen part on disk: one file for one such part, one slot of fixed size for each image.
///
/// A slot is the image's digest, a checksum over digest and row, and the row. A kill while a slot is written leaves one
/// whose checksum is wrong; it counts as free, like a slot of zeros. The file is locked while it is open, so that one
/// process has it at a time; the system gives the lock back when the process ends in whatever way. Rows are read with
/// `pread`, not through a mapping: a file that another program cuts short then is an error and not a signal.
final class FrontierFile: Sendable {
    /// Why a file cannot be used.
    enum Refusal: Error, Equatable {
        /// Another process, or another trainer of this one, has it open.
        case inUse
        /// The rows do not fit what is allowed.
        case tooLarge(needed: Int, allowed: Int)
        /// The file system says no.
        case failed(String)
    }

    private struct State {
        var slotOf: [ContentDigest: Int] = [:]
        var freeSlots: [Int] = []
        var slotCount = 0
        /// Slots that this run has written, or read and found whole.
        var inUse: Set<Int> = []
        var damagedCount = 0
        /// Whether the lock was given back: the file may be another run's.
        var isClosed = false
    }

    /// Takes room for bytes of a file behind an offset; gives 0 or the number of an error, as `posix_fallocate` does.
    typealias Allocation = @Sendable (_ descriptor: Int32, _ offset: Int, _ byteCount: Int) -> Int32
    /// `posix_fallocate`.
    static let systemAllocation: Allocation = { posix_fallocate($0, off_t($1), off_t($2)) }

    let path: String
    private let descriptor: Int32
    private let rowByteCount: Int
    private let stride: Int
    private let maximumByteCount: Int
    private let state = Mutex(State())

    private static let suffix = ".frontier"
    private static let headerByteCount = 4096
    private static let entryByteCount = 2 * ContentDigest.byteCount

    /// Opens or makes the file for a key, with room for so many images; older files of the folder go when all together
    /// are larger than the limit.
    ///
    /// - Parameters:
    ///   - folder: where the files are; made when it is not there.
    ///   - key: 64 hexadecimal digits for everything the rows depend on besides the image.
    ///   - rowByteCount: bytes of an image's row.
    ///   - imageCount: images that are to find a place.
    ///   - limit: the most bytes that the files of the folder may take together.
    ///   - allocate: takes room on the disk; another one than the system's in tests.
    /// - Throws: why the file cannot be used. No file was made then, and rows of earlier runs are as they were.
    init(
        folder: URL, key: String, rowByteCount: Int, imageCount: Int, limit: Int,
        allocate: Allocation = FrontierFile.systemAllocation
    ) throws(Refusal) {
        let stride = (Self.entryByteCount + rowByteCount + 63) / 64 * 64
        let needed = Self.headerByteCount + imageCount * stride
        guard needed <= limit else { throw .tooLarge(needed: needed, allowed: limit) }
        do {
            try createFolder(folder.path)
        } catch {
            throw .failed("\(folder.path) cannot be made: \(GraftTensor.systemReason(of: error))")
        }
        let path = folder.appending(path: key + Self.suffix).path
        let opened = try Self.openLocked(path, makes: true)
        let descriptor = opened.descriptor
        self.path = path
        self.rowByteCount = rowByteCount
        self.stride = stride
        self.descriptor = descriptor
        // Nothing is lost with a file that was made here, or that holds no rows of ours.
        var isDisposable = opened.isNew
        do throws(Refusal) {
            let header = try Self.header(key: key, rowByteCount: rowByteCount)
            var size = try Self.size(of: descriptor, path)
            var found = [UInt8](repeating: 0, count: header.count)
            if size < header.count || !Self.read(descriptor, &found, at: 0) || found != header {
                isDisposable = true
                guard ftruncate(descriptor, 0) == 0, Self.write(descriptor, header, at: 0) else {
                    throw Self.failure("cannot be written", path)
                }
                size = header.count
            }
            let others = Self.others(in: folder, besides: path)
            // What is in use stays whatever happens; only what is left besides can be had.
            let available = limit - others.lockedByteCount
            guard needed <= available else { throw .tooLarge(needed: needed, allowed: max(available, 0)) }
            // A lower limit than before, or a slot that a kill cut short.
            let keptCount = min((size - header.count) / stride, (available - header.count) / stride)
            let slotCount = max(keptCount, imageCount)
            let byteCount = header.count + slotCount * stride
            func grow() throws(Refusal) {
                let kept = header.count + keptCount * stride
                do throws(Refusal) {
                    // Asked for at once: a disk that is full must not end a run in its middle.
                    try Self.take(byteCount - kept, behind: kept, descriptor, path, allocate)
                } catch {
                    // It was grown in part, perhaps.
                    ftruncate(descriptor, off_t(size))
                    throw error
                }
            }
            // Others go when it is known that this file has room, or where the disk has none without.
            let otherByteCount: Int
            do throws(Refusal) {
                try grow()
                otherByteCount = Self.remove(others.idle, until: available - byteCount)
            } catch {
                let left = Self.remove(others.idle, until: available - byteCount)
                guard left < others.idle.reduce(0, { $0 + $1.byteCount }) else { throw error }
                try grow()
                otherByteCount = left
            }
            // One that has come into use meanwhile stays.
            guard byteCount <= available - otherByteCount else {
                ftruncate(descriptor, off_t(size))
                throw .tooLarge(needed: needed, allowed: max(available - otherByteCount, 0))
            }
            guard ftruncate(descriptor, off_t(byteCount)) == 0 else { throw Self.failure("cannot be cut", path) }
            futimens(descriptor, nil)
            // Last: once everything is set, an error would run `deinit` too, which closes the file a second time.
            maximumByteCount = available - otherByteCount
            let index = Self.index(descriptor, slotCount: slotCount, stride: stride)
            state.withLock {
                $0.slotCount = slotCount
                $0.slotOf = index.slotOf
                $0.freeSlots = index.freeSlots
            }
        } catch {
            if isDisposable { unlink(path) }
            Foundation.close(descriptor)
            throw error
        }
    }

    deinit { Foundation.close(descriptor) }

    /// Gives the lock back at once, whatever still holds this object; nothing is read or written afterwards.
    func close() {
        state.withLock { state in
            guard !state.isClosed else { return }
            state.isClosed = true
            state.slotOf = [:]
            flock(descriptor, LOCK_UN)
        }
    }

    /// Slots that were found to be damaged.
    var damagedCount: Int { state.withLock { $0.damagedCount } }

    /// Bytes of the file.
    var byteCount: Int { state.withLock { Self.headerByteCount + $0.slotCount * stride } }

    // MARK: Rows

    /// Whether there is a whole row for an image. Reads it; one that is damaged is given up.
    func contains(_ digest: ContentDigest) -> Bool {
        guard let slot = state.withLock({ $0.slotOf[digest] }) else { return false }
        if state.withLock({ $0.inUse.contains(slot) }) { return true }
        var bytes = [UInt8](repeating: 0, count: Self.entryByteCount + rowByteCount)
        let isWhole = Self.read(descriptor, &bytes, at: offset(slot)) && Self.isWhole(bytes, digest)
        return state.withLock {
            guard $0.slotOf[digest] == slot else { return false }
            if isWhole {
                $0.inUse.insert(slot)
            } else {
                $0.slotOf[digest] = nil
                $0.freeSlots.append(slot)
                $0.damagedCount += 1
            }
            return isWhole
        }
    }

    /// Reads a part of the row of an image for which `contains` was true, or which was written.
    func read(_ digest: ContentDigest, at position: Int, into target: UnsafeMutableRawBufferPointer) throws {
        guard let slot = state.withLock({ $0.slotOf[digest] }),
            Self.read(descriptor, target, at: offset(slot) + Self.entryByteCount + position)
        else {
            throw GraftError.outputFailed(
                "\(path): a row that was there cannot be read any more; start the run again, or use --cache memory")
        }
    }

    /// Writes the row of an image: to a free slot, to a new one within the limit, else over one that this run does not use.
    func write(_ digest: ContentDigest, row: UnsafeRawBufferPointer) throws {
        let slot = state.withLock { state -> Int? in
            if state.isClosed { return nil }
            if let slot = state.slotOf[digest] { return slot }
            if let slot = state.freeSlots.popLast() { return slot }
            if Self.headerByteCount + (state.slotCount + 1) * stride <= maximumByteCount {
                state.slotCount += 1
                return state.slotCount - 1
            }
            guard let other = state.slotOf.first(where: { !state.inUse.contains($0.value) }) else { return nil }
            state.slotOf[other.key] = nil
            return other.value
        }
        var bytes = [UInt8]()
        bytes.reserveCapacity(Self.entryByteCount + rowByteCount)
        withUnsafeBytes(of: digest.bytes) { bytes.append(contentsOf: $0) }
        let checksum = try withUnsafeBytes(of: digest.bytes) { try ContentDigest(of: $0, row) }
        withUnsafeBytes(of: checksum.bytes) { bytes.append(contentsOf: $0) }
        bytes.append(contentsOf: row)
        guard let slot, Self.write(descriptor, bytes, at: offset(slot)) else {
            let reason = slot == nil ? "there is no slot left" : Self.systemReason()
            throw GraftError.outputFailed(
                "\(path) cannot be written: \(reason); free some space, or use --cache memory or --cache off")
        }
        state.withLock {
            $0.slotOf[digest] = slot
            $0.inUse.insert(slot)
        }
    }

    private func offset(_ slot: Int) -> Int { Self.headerByteCount + slot * stride }

    private static func isWhole(_ bytes: [UInt8], _ digest: ContentDigest) -> Bool {
        bytes.withUnsafeBytes { bytes in
            let stored = UnsafeRawBufferPointer(rebasing: bytes[..<ContentDigest.byteCount])
            let checksum = UnsafeRawBufferPointer(rebasing: bytes[ContentDigest.byteCount..<entryByteCount])
            let row = UnsafeRawBufferPointer(rebasing: bytes[entryByteCount...])
            guard stored.elementsEqual(withUnsafeBytes(of: digest.bytes) { Array($0) }),
                let actual = try? ContentDigest(of: stored, row)
            else { return false }
            return checksum.elementsEqual(withUnsafeBytes(of: actual.bytes) { Array($0) })
        }
    }

    // MARK: The file

    private static func header(key: String, rowByteCount: Int) throws(Refusal) -> [UInt8] {
        var bytes = Array("graft frontier 1\n\(key)\n\(rowByteCount)\n".utf8)
        bytes += [UInt8](repeating: 0, count: headerByteCount - ContentDigest.byteCount - bytes.count)
        do {
            let digest = SHA256Digest()
            digest.update(bytes)
            return bytes + (try digest.bytes())
        } catch {
            throw .failed("\(error)")
        }
    }

    /// Takes room for bytes behind an offset.
    private static func take(
        _ byteCount: Int, behind offset: Int, _ descriptor: Int32, _ path: String, _ allocate: Allocation
    ) throws(Refusal) {
        guard byteCount > 0 else { return }
        var status: Int32
        repeat { status = allocate(descriptor, offset, byteCount) } while status == EINTR
        guard status == 0 else {
            errno = status
            throw failure("cannot be given \(byteCount) bytes", path)
        }
    }

    /// Opens a file and takes its lock, for a name that still leads to it then: it may have been removed in between.
    ///
    /// - Parameters:
    ///   - path: the file.
    ///   - makes: whether it is made when it is not there; else that is a refusal.
    /// - Returns: the file, and whether it was made.
    /// - Throws: ``Refusal/inUse`` when another one has it open, ``Refusal/failed(_:)`` for all else.
    private static func openLocked(
        _ path: String, makes: Bool
    ) throws(Refusal) -> (descriptor: Int32, isNew: Bool) {
        for _ in 0..<16 {
            var isNew = false
            var descriptor = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW)
            if descriptor < 0, errno == ENOENT, makes {
                descriptor = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0o600)
                isNew = descriptor >= 0
                if descriptor < 0, errno == EEXIST { continue }
            }
            guard descriptor >= 0 else { throw failure("cannot be opened", path) }
            guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else {
                let isTaken = errno == EWOULDBLOCK
                let error = failure("cannot be locked", path)
                Foundation.close(descriptor)
                throw isTaken ? .inUse : error
            }
            var opened = stat()
            var named = stat()
            if fstat(descriptor, &opened) == 0, lstat(path, &named) == 0, opened.st_ino == named.st_ino,
                opened.st_dev == named.st_dev, opened.st_mode & S_IFMT == S_IFREG
            {
                return (descriptor, isNew)
            }
            Foundation.close(descriptor)
        }
        throw .failed("\(path) is replaced again and again by another program")
    }

    private struct Other {
        var path: String
        var byteCount: Int
        var seconds: Int
        var nanoseconds: Int
    }

    /// The folder's other files: the bytes of those that are in use, and those that are not, used longest ago first.
    private static func others(in folder: URL, besides path: String) -> (lockedByteCount: Int, idle: [Other]) {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []
        var lockedByteCount = 0
        var idle: [Other] = []
        for name in names where name.hasSuffix(suffix) {
            let other = folder.appending(path: name).path
            var status = stat()
            guard other != path, lstat(other, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { continue }
            if let opened = try? openLocked(other, makes: false) {
                Foundation.close(opened.descriptor)
                idle.append(
                    Other(
                        path: other, byteCount: Int(status.st_size), seconds: status.st_mtim.tv_sec,
                        nanoseconds: status.st_mtim.tv_nsec))
            } else {
                lockedByteCount += Int(status.st_size)
            }
        }
        idle.sort { ($0.seconds, $0.nanoseconds) < ($1.seconds, $1.nanoseconds) }
        return (lockedByteCount, idle)
    }

    /// Removes files from the first on until those left take at most so many bytes; one that has come into use stays.
    ///
    /// - Returns: the bytes that are left.
    private static func remove(_ idle: [Other], until byteCount: Int) -> Int {
        var total = idle.reduce(0) { $0 + $1.byteCount }
        for other in idle where total > max(byteCount, 0) {
            guard let opened = try? openLocked(other.path, makes: false) else { continue }
            if unlink(other.path) == 0 { total -= other.byteCount }
            Foundation.close(opened.descriptor)
        }
        return total
    }

    private static func index(_ descriptor: Int32, slotCount: Int, stride: Int) -> (
        slotOf: [ContentDigest: Int], freeSlots: [Int]
    ) {
        var slotOf: [ContentDigest: Int] = [:]
        var freeSlots: [Int] = []
        var bytes = [UInt8](repeating: 0, count: ContentDigest.byteCount)
        // From behind, so that the free slots come off their end in order.
        for slot in (0..<slotCount).reversed() {
            let isRead = read(descriptor, &bytes, at: headerByteCount + slot * stride)
            let digest = ContentDigest(SIMD32(bytes))
            if !isRead || digest.bytes == SIMD32() || slotOf[digest] != nil {
                freeSlots.append(slot)
            } else {
                slotOf[digest] = slot
            }
        }
        return (slotOf, freeSlots)
    }

    private static func size(of descriptor: Int32, _ path: String) throws(Refusal) -> Int {
        var status = stat()
        guard fstat(descriptor, &status) == 0 else { throw failure("cannot be looked at", path) }
        return Int(status.st_size)
    }

    private static func failure(_ what: String, _ path: String) -> Refusal {
        .failed("\(path) \(what): \(systemReason())")
    }

    private static func systemReason() -> String { String(cString: strerror(errno)) }

    private static func read(_ descriptor: Int32, _ target: inout [UInt8], at offset: Int) -> Bool {
        target.withUnsafeMutableBytes { read(descriptor, $0, at: offset) }
    }

    private static func read(_ descriptor: Int32, _ target: UnsafeMutableRawBufferPointer, at offset: Int) -> Bool {
        var done = 0
        while done < target.count {
            let rest = UnsafeMutableRawBufferPointer(rebasing: target[done...])
            let count = pread(descriptor, rest.baseAddress, rest.count, off_t(offset + done))
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            done += count
        }
        return true
    }

    private static func write(_ descriptor: Int32, _ bytes: [UInt8], at offset: Int) -> Bool {
        bytes.withUnsafeBytes { bytes in
            var done = 0
            while done < bytes.count {
                let rest = UnsafeRawBufferPointer(rebasing: bytes[done...])
                let count = pwrite(descriptor, rest.baseAddress, rest.count, off_t(offset + done))
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { return false }
                done += count
            }
            return true
        }
    }
}
