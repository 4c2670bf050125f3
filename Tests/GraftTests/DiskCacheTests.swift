import Foundation
import GraftGraph
import GraftTensor
import GraftVision
import Synchronization
import Testing

@testable import Graft

/// A folder of pictures and one for cache files, which go away with the value.
private final class Place {
    let root = NSTemporaryDirectory() + "graft-disk-\(UInt64.random(in: 0 ... .max))"
    var cacheFolder: URL { URL(filePath: root + "/cache") }

    init() throws { try Demo.writePictures(to: root + "/data", countPerClass: 4, grafted: true) }

    deinit { try? FileManager.default.removeItem(atPath: root) }

    var files: [String] {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: cacheFolder.path)) ?? []
        return names.sorted().map { cacheFolder.path + "/" + $0 }
    }

    func data() throws -> ImageDataset { try ImageDataset(folder: root + "/data/train") }
}

private struct Outcome {
    var state: StateDictionary
    var losses: [Double] = []
    var began: [CacheReport] = []
    var ended: [CacheReport] = []
    var warnings: [String] = []
}

private func run(
    _ policy: CachePolicy, _ place: Place, device: String = "cpu", weightSeed: UInt64 = 5, resize: Int? = nil,
    configure: (inout FitOptions) -> Void = { _ in }, onEvent: (TrainingEvent) throws -> Void = { _ in }
) throws -> Outcome {
    let data = try place.data()
    let validation = try ImageDataset(folder: place.root + "/data/val")
    var model = try Model("resnet8_cifar", classCount: data.classes.count, seed: weightSeed)
    if let resize {
        model.preprocessing = try ImagePreprocessing(imageSize: model.preprocessing.imageSize, resize: resize)
    }
    model.freeze()
    try model.unfreeze("head")
    let trainer = try Trainer(model, optimizer: .sgd(learningRate: 0.05), device: Device(device), seed: 4)
    var options = FitOptions()
    options.epochs = 3
    options.batchSize = 5
    options.cache = policy
    options.cacheFolder = place.cacheFolder
    configure(&options)
    var outcome = Outcome(state: StateDictionary())
    let epochs = try trainer.fit(data, validation: validation, options: options) { event in
        switch event {
        case .step(let record): outcome.losses.append(record.loss)
        case .caching(let report): outcome.began.append(report)
        case .uncached(let report): outcome.ended.append(report)
        case .cacheUnavailable(let reason): outcome.warnings.append(reason)
        case .prepared, .unfroze, .skipped, .epoch, .stoppedEarly, .state: break
        }
        try onEvent(event)
    }
    outcome.state = try trainer.model().state
    outcome.losses += epochs.compactMap(\.validation?.loss)
    return outcome
}

private func expectSame(_ a: Outcome, _ b: Outcome, _ comment: Comment? = nil) {
    #expect(a.state == b.state, comment)
    #expect(a.losses == b.losses, comment)
}

/// Changes a file's bytes.
private func edit(_ path: String, _ change: (inout Data) -> Void) throws {
    var data = try Data(contentsOf: URL(filePath: path))
    change(&data)
    let handle = try FileHandle(forWritingTo: URL(filePath: path))
    try handle.truncate(atOffset: 0)
    try handle.write(contentsOf: data)
    try handle.close()
}

@Suite struct DiskCacheTests {
    @Test(arguments: parityDevices)
    func firstAndSecondRunAreTheSameRun(_ device: String) throws {
        let place = try Place()
        let plain = try run(.off, place, device: device)
        let first = try run(.disk, place, device: device)
        expectSame(first, plain)
        let count = try #require(first.ended.first?.imageCount)
        #expect(first.ended.map(\.foundCount) == [0])
        #expect(first.ended.map(\.sparedEvaluationCount) == [2 * count])
        let second = try run(.disk, place, device: device)
        expectSame(second, plain)
        #expect(second.ended.map(\.foundCount) == [count])
        #expect(second.ended.map(\.sparedEvaluationCount) == [3 * count])
        #expect(place.files.count == 1)
        #expect(second.began.first?.location == .disk(path: place.files[0]))
        // Batches of another size, and another order, use the same rows.
        let other = try run(.disk, place, device: device) {
            $0.batchSize = 7
            $0.shuffles = false
        }
        let otherPlain = try run(.off, place, device: device) {
            $0.batchSize = 7
            $0.shuffles = false
        }
        expectSame(other, otherPlain)
        #expect(other.ended.map(\.foundCount) == [count])
    }

    @Test func oneEpochUsesWhatIsThereAndLeavesSomething() throws {
        let place = try Place()
        let first = try run(.disk, place) { $0.epochs = 1 }
        let second = try run(.disk, place) { $0.epochs = 1 }
        expectSame(first, second)
        expectSame(first, try run(.off, place) { $0.epochs = 1 })
        #expect(second.ended.map(\.foundCount) == first.ended.map(\.imageCount))
    }

    @Test func unfreezingTakesAnotherFile() throws {
        let place = try Place()
        func unfrozen(_ policy: CachePolicy) throws -> Outcome {
            try run(policy, place) {
                $0.epochs = 4
                $0.unfreezeAtEpoch = [(2, "layer3")]
            }
        }
        let plain = try unfrozen(.off)
        expectSame(try unfrozen(.disk), plain)
        #expect(place.files.count == 2)
        let second = try unfrozen(.disk)
        expectSame(second, plain)
        #expect(second.ended.allSatisfy { $0.foundCount == $0.imageCount })
    }

    @Test func damagedEntriesAreComputedAnew() throws {
        let place = try Place()
        let plain = try run(.off, place)
        let count = try #require(try run(.disk, place).ended.first?.imageCount)
        try edit(place.files[0]) { data in
            let stride = (data.count - 4096) / count
            // The image's digest, the checksum, and the row.
            for (slot, offset) in [(0, 3), (1, 40), (2, 64), (3, 70)] { data[4096 + slot * stride + offset] ^= 0x10 }
        }
        let repaired = try run(.disk, place)
        expectSame(repaired, plain)
        #expect(repaired.ended.map(\.foundCount) == [count - 4])
        #expect(repaired.ended.map(\.damagedCount) == [3], "a changed digest is another image's entry")
        #expect(try run(.disk, place).ended.map(\.foundCount) == [count])
    }

    @Test(arguments: [0, 1, 100, 4095, 4096, 4097, 4500, 6000])
    func aFileCutShortIsFilledUp(_ byteCount: Int) throws {
        let place = try Place()
        let plain = try run(.off, place)
        _ = try run(.disk, place)
        try edit(place.files[0]) { $0 = $0.prefix(byteCount) }
        expectSame(try run(.disk, place), plain)
        let last = try run(.disk, place)
        expectSame(last, plain)
        #expect(last.ended.allSatisfy { $0.foundCount == $0.imageCount })
    }

    @Test func aDamagedHeaderBeginsAnew() throws {
        let place = try Place()
        let plain = try run(.off, place)
        _ = try run(.disk, place)
        for position in [0, 20, 100, 4090] {
            try edit(place.files[0]) { $0[position] ^= 1 }
            let again = try run(.disk, place)
            expectSame(again, plain)
            #expect(again.ended.map(\.foundCount) == [0])
        }
        try edit(place.files[0]) { $0 = Data((0..<50_000).map { _ in UInt8.random(in: 0...255) }) }
        expectSame(try run(.disk, place), plain)
    }

    @Test func aChangedImageIsComputedAnew() throws {
        let place = try Place()
        let first = try run(.disk, place)
        let data = try place.data()
        let path = data.path(of: 1)
        let modified = try FileManager.default.attributesOfItem(atPath: path)[.modificationDate] as? Date
        let other = try Data(contentsOf: URL(filePath: data.path(of: data.count - 1)))
        try other.write(to: URL(filePath: path))
        // Neither the time nor the name says that the content is another.
        if let modified { try FileManager.default.setAttributes([.modificationDate: modified], ofItemAtPath: path) }
        let changed = try run(.disk, place)
        expectSame(changed, try run(.off, place))
        #expect(changed.state != first.state)
    }

    @Test func whatRowsDependOnHasAFileOfItsOwn() throws {
        let place = try Place()
        _ = try run(.disk, place)
        #expect(place.files.count == 1)
        let otherWeights = try run(.disk, place, weightSeed: 6)
        #expect(otherWeights.ended.map(\.foundCount) == [0])
        expectSame(otherWeights, try run(.off, place, weightSeed: 6))
        #expect(place.files.count == 2)
        let otherSize = try run(.disk, place, resize: 40)
        #expect(otherSize.ended.map(\.foundCount) == [0])
        expectSame(otherSize, try run(.off, place, resize: 40))
        #expect(place.files.count == 3)
        let fast = try run(.disk, place) { $0.fastDecode = true }
        #expect(fast.ended.map(\.foundCount) == [0])
        #expect(place.files.count == 4)
    }

    @Test func theKeyNamesTheCodeThatComputes() throws {
        let text = try ProgramIdentity.text()
        #expect(try ProgramIdentity.text() == text)
        #expect(text.hasPrefix("build "))
        #expect(text.contains("libpng 1."))
        #expect(text.contains("libjpeg 6b") || text.contains("libjpeg 8") || text.contains("libjpeg 9"), "\(text)")
        // The program and both libraries, each by its content.
        let digests = Set(text.matches(of: /[0-9a-f]{64}/).map(\.output))
        #expect(digests.count == 3, "\(text)")
        #expect(ImageCodec.libraries.allSatisfy { $0.path.map(FileManager.default.fileExists(atPath:)) == true })
    }

    @Test func augmentationKeepsNothing() throws {
        let place = try Place()
        for policy in [CachePolicy.disk, .memory] {
            let outcome = try run(policy, place) { $0.augmentation = .flip }
            #expect(outcome.began.isEmpty)
            #expect(outcome.warnings.count == 1)
            #expect(outcome.warnings.first?.contains("--cache \(policy.rawValue) is without effect") == true)
        }
        #expect(try run(.auto, place) { $0.augmentation = .flip }.warnings.isEmpty, "nothing was asked for")
        #expect(place.files.isEmpty)
    }

    @Test func theLimitHolds() throws {
        let place = try Place()
        let error = #expect(throws: GraftError.self) { try run(.disk, place) { $0.cacheLimit = 5000 } }
        #expect(error?.description.contains("--cache-limit 5000") == true)
        #expect(place.files.isEmpty)
        let byteCount = try #require(try run(.disk, place).ended.first?.fileByteCount)
        // Room for one file: the other's goes.
        let second = try run(.disk, place, weightSeed: 6) { $0.cacheLimit = byteCount * 3 / 2 }
        #expect(second.ended.map(\.fileByteCount) == [byteCount])
        #expect(place.files.count == 1)
        #expect(try run(.disk, place, weightSeed: 6).ended.allSatisfy { $0.foundCount == $0.imageCount })
        #expect(try run(.disk, place).ended.map(\.foundCount) == [0])
    }

    @Test func aFileInUseIsLeftAlone() throws {
        let place = try Place()
        let plain = try run(.disk, place)
        let descriptor = open(place.files[0], O_RDWR)
        defer { close(descriptor) }
        try #require(flock(descriptor, LOCK_EX | LOCK_NB) == 0)
        let second = try run(.disk, place)
        expectSame(second, plain)
        #expect(second.warnings.count == 1)
        #expect(second.warnings.first?.contains("in use by another run") == true)
        #expect(second.began.map(\.location) == [.memory])
        // Nor is it removed to make room.
        let held = place.files
        let limit = plain.ended[0].fileByteCount * 3 / 2
        let error = #expect(throws: GraftError.self) {
            try run(.disk, place, weightSeed: 7) { $0.cacheLimit = limit }
        }
        #expect(error?.description.contains("of --cache-limit \(limit) are to be had") == true, "\(error as Any)")
        #expect(place.files == held)
    }

    @Test func nothingIsRemovedForAFileThatDoesNotFit() throws {
        let place = try Place()
        let byteCount = try #require(try run(.disk, place).ended.first?.fileByteCount)
        let idle = place.files
        _ = try run(.disk, place, weightSeed: 6)
        let inUse = try #require(place.files.first { !idle.contains($0) })
        let descriptor = open(inUse, O_RDWR)
        defer { close(descriptor) }
        try #require(flock(descriptor, LOCK_EX | LOCK_NB) == 0)
        // The idle one could go, and still there would be too little room beside the one in use.
        let files = place.files
        let error = #expect(throws: GraftError.self) {
            try run(.disk, place, weightSeed: 7) { $0.cacheLimit = byteCount * 3 / 2 }
        }
        #expect(error?.description.contains("\(byteCount / 2) of --cache-limit") == true, "\(error as Any)")
        #expect(place.files == files)
    }

    @Test func anUnfreezingInMidEpochFreesTheOldRowsFirst() throws {
        let place = try Place()
        func unfrozen(_ policy: CachePolicy, limit: Int = 1 << 30) throws -> Outcome {
            try run(policy, place) {
                $0.epochs = 4
                $0.unfreezeAtStep = [(4, "layer3")]
                $0.cacheLimit = limit
            }
        }
        let plain = try unfrozen(.off)
        let roomy = try unfrozen(.disk)
        expectSame(roomy, plain)
        let sizes = roomy.ended.map(\.fileByteCount)
        try #require(sizes.count == 2)
        for file in place.files { try FileManager.default.removeItem(atPath: file) }
        // Half of the first file and the second: only one of them has room at a time.
        expectSame(try unfrozen(.disk, limit: sizes[1] + sizes[0] / 2), plain)
        #expect(place.files.count == 1)
    }

    @Test(arguments: ["step", "epoch"])
    func underAutoARunGoesOnWithoutRowsThatCannotBeRead(_ moment: String) throws {
        let place = try Place()
        let plain = try run(.off, place) { $0.epochs = 4 }
        func damaged(_ policy: CachePolicy) throws -> Outcome {
            try run(policy, place) {
                $0.epochs = 4
                $0.cacheMemoryLimit = 0
            } onEvent: { event in
                // Training images are read again behind the one, validation images behind the other.
                let isNow =
                    switch event {
                    case .step(let record): moment == "step" && record.step == 5
                    case .epoch(let record): moment == "epoch" && record.epoch == 1
                    default: false
                    }
                if isNow { try edit(place.files[0]) { $0 = $0.prefix(4096) } }
            }
        }
        let outcome = try damaged(.auto)
        expectSame(outcome, plain)
        #expect(outcome.warnings.count == 1)
        #expect(outcome.warnings.first?.contains("cannot be read any more") == true, "\(outcome.warnings)")
        #expect(outcome.began.count == 1)
        #expect(outcome.ended.count == 1)
        // Whoever asked for it by name is told by an error.
        let error = #expect(throws: GraftError.self) { try damaged(.disk) }
        #expect(error?.description.contains("cannot be read any more") == true)
    }

    @Test func aRunThatEndsLeavesTheFileToTheNext() throws {
        let place = try Place()
        struct Stop: Error {}
        for attempt in 0..<20 {
            let stopped = #expect(throws: (any Error).self) {
                try run(.disk, place) {
                    $0.workerCount = 8
                } onEvent: { event in
                    if case .step(let record) = event, record.step == attempt % 3 { throw Stop() }
                }
            }
            #expect(stopped is Stop)
            let file = try FrontierFile(
                folder: place.cacheFolder,
                key: URL(filePath: try #require(place.files.first)).deletingPathExtension().lastPathComponent,
                rowByteCount: 256, imageCount: 1, limit: 1 << 30)
            file.close()
        }
    }

    @Test func aFolderThatCannotBeIsAnError() throws {
        let place = try Place()
        let file = place.root + "/file"
        try Data("x".utf8).write(to: URL(filePath: file))
        let error = #expect(throws: GraftError.self) {
            try run(.disk, place) { $0.cacheFolder = URL(filePath: file + "/cache") }
        }
        #expect(error?.description.contains(file) == true)
    }
}

@Suite struct FrontierFileTests {
    private static let key = String(repeating: "ab", count: 32)

    private func digest(_ number: UInt8) throws -> ContentDigest {
        try [number].withUnsafeBytes { try ContentDigest(of: $0) }
    }

    private func row(_ number: UInt8) -> [UInt8] { (0..<100).map { UInt8(truncatingIfNeeded: $0 &* Int(number)) } }

    private func open(
        _ folder: URL, key: String = Self.key, imageCount: Int, limit: Int,
        allocate: @escaping FrontierFile.Allocation = FrontierFile.systemAllocation
    ) throws -> FrontierFile {
        try FrontierFile(
            folder: folder, key: key, rowByteCount: 100, imageCount: imageCount, limit: limit, allocate: allocate)
    }

    private func files(_ folder: URL) -> [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: folder.path)) ?? []).sorted()
    }

    private func size(_ path: String) throws -> Int? {
        try FileManager.default.attributesOfItem(atPath: path)[.size] as? Int
    }

    /// Gives half of what it is asked for, as a full disk does on file systems that write zeros to allocate.
    private static let fullDisk: FrontierFile.Allocation = { descriptor, offset, count in
        ftruncate(descriptor, off_t(offset + count / 2)) == 0 ? ENOSPC : errno
    }

    @Test func aFullDiskLeavesFilesAsTheyWere() throws {
        let folder = URL(filePath: NSTemporaryDirectory() + "graft-file-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        let error = #expect(throws: FrontierFile.Refusal.self) {
            try open(folder, imageCount: 5, limit: 1 << 20, allocate: Self.fullDisk)
        }
        guard case .failed(let reason) = error else {
            Issue.record("\(error as Any)")
            return
        }
        #expect(reason.contains("cannot be given \(5 * 192) bytes"))
        #expect(files(folder).isEmpty, "a file that was made for nothing")
        let path: String
        do {
            let file = try open(folder, imageCount: 2, limit: 1 << 20)
            path = file.path
            for number in 1...2 as ClosedRange<UInt8> {
                try row(number).withUnsafeBytes { try file.write(digest(number), row: $0) }
            }
        }
        let before = try Data(contentsOf: URL(filePath: path))
        #expect(throws: FrontierFile.Refusal.self) {
            try open(folder, imageCount: 50, limit: 1 << 20, allocate: Self.fullDisk)
        }
        #expect(try Data(contentsOf: URL(filePath: path)) == before)
        let file = try open(folder, imageCount: 2, limit: 1 << 20)
        #expect(try file.contains(digest(1)) && file.contains(digest(2)))
    }

    @Test func anInterruptedAllocationIsTriedAgain() throws {
        let folder = URL(filePath: NSTemporaryDirectory() + "graft-file-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        let attempts = Mutex(0)
        let file = try open(folder, imageCount: 3, limit: 1 << 20) { descriptor, offset, count in
            attempts.withLock { $0 += 1 }
            return attempts.withLock { $0 } < 3
                ? EINTR : FrontierFile.systemAllocation(descriptor, offset, count)
        }
        #expect(attempts.withLock { $0 } == 3)
        #expect(try size(file.path) == 4096 + 3 * 192)
    }

    @Test func aFileLargerThanTheLimitIsCutAndOthersMakeRoom() throws {
        let folder = URL(filePath: NSTemporaryDirectory() + "graft-file-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        let other = String(repeating: "cd", count: 32)
        for key in [Self.key, other] { _ = try open(folder, key: key, imageCount: 40, limit: 1 << 20) }
        let file = try open(folder, imageCount: 3, limit: 4096 + 10 * 192)
        #expect(file.byteCount == 4096 + 10 * 192)
        #expect(files(folder).count == 1)
    }

    @Test func aRefusalLeavesNoFile() throws {
        let folder = URL(filePath: NSTemporaryDirectory() + "graft-file-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        let held = try open(folder, key: String(repeating: "cd", count: 32), imageCount: 10, limit: 1 << 20)
        let before = files(folder)
        #expect(throws: FrontierFile.Refusal.tooLarge(needed: 4096 + 20 * 192, allowed: 1000 + 19 * 192)) {
            try open(folder, imageCount: 20, limit: held.byteCount + 1000 + 19 * 192)
        }
        // Nor does a limit that the files in use alone exceed become a negative number.
        #expect(throws: FrontierFile.Refusal.tooLarge(needed: 4096 + 192, allowed: 0)) {
            try open(folder, imageCount: 1, limit: held.byteCount - 100)
        }
        #expect(files(folder) == before)
    }

    @Test func aClosedFileIsFreeThoughSomethingHoldsIt() throws {
        let folder = URL(filePath: NSTemporaryDirectory() + "graft-file-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        let first = try open(folder, imageCount: 2, limit: 1 << 20)
        try row(1).withUnsafeBytes { try first.write(digest(1), row: $0) }
        first.close()
        let second = try open(folder, imageCount: 2, limit: 1 << 20)
        #expect(try second.contains(digest(1)))
        // What is closed is not used any more: the file is another's now.
        #expect(try !first.contains(digest(1)))
        #expect(throws: GraftError.self) { try row(2).withUnsafeBytes { try first.write(digest(2), row: $0) } }
        first.close()
        #expect(throws: FrontierFile.Refusal.inUse) { try open(folder, imageCount: 2, limit: 1 << 20) }
    }

    @Test func rowsOfEarlierRunsGiveWayAtTheLimit() throws {
        let folder = URL(filePath: NSTemporaryDirectory() + "graft-file-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        let limit = 4096 + 3 * 192
        do {
            let file = try open(folder, imageCount: 3, limit: limit)
            for number in 1...3 as ClosedRange<UInt8> {
                try row(number).withUnsafeBytes { try file.write(digest(number), row: $0) }
            }
            #expect(throws: FrontierFile.Refusal.inUse) { try open(folder, imageCount: 3, limit: limit) }
        }
        do {
            let file = try open(folder, imageCount: 2, limit: limit)
            #expect(try file.contains(digest(2)))
            for number in 4...5 as ClosedRange<UInt8> {
                #expect(try !file.contains(digest(number)))
                try row(number).withUnsafeBytes { try file.write(digest(number), row: $0) }
            }
            #expect(file.byteCount == limit)
            for number in [2, 4, 5] as [UInt8] {
                var bytes = [UInt8](repeating: 0, count: 100)
                try bytes.withUnsafeMutableBytes { try file.read(digest(number), at: 0, into: $0) }
                #expect(bytes == row(number))
            }
            // All three are in use now.
            #expect(throws: GraftError.self) {
                try row(6).withUnsafeBytes { try file.write(digest(6), row: $0) }
            }
        }
        let file = try open(folder, imageCount: 1, limit: 4096 + 2 * 192)
        #expect(file.byteCount == 4096 + 2 * 192, "a lower limit cuts the file")
        let found = try [2, 4, 5].filter { file.contains(try digest($0)) }
        #expect(found.count == 2)
        let gone = try [1, 3].filter { file.contains(try digest($0)) }
        #expect(gone.isEmpty)
    }

    @Test func aTornSlotIsFree() throws {
        let folder = URL(filePath: NSTemporaryDirectory() + "graft-file-\(UInt64.random(in: 0 ... .max))")
        defer { try? FileManager.default.removeItem(at: folder) }
        for written in stride(from: 0, to: 164, by: 9) {
            try? FileManager.default.removeItem(at: folder)
            let path: String
            do {
                let file = try open(folder, imageCount: 2, limit: 1 << 20)
                path = file.path
                for number in 1...2 as ClosedRange<UInt8> {
                    try row(number).withUnsafeBytes { try file.write(digest(number), row: $0) }
                }
            }
            // What a kill leaves when only the first bytes of the second entry were written.
            try edit(path) { data in
                for position in written..<192 { data[4096 + 192 + position] = 0 }
            }
            let file = try open(folder, imageCount: 2, limit: 1 << 20)
            #expect(try file.contains(digest(1)))
            #expect(try !file.contains(digest(2)), "\(written) bytes")
            try row(2).withUnsafeBytes { try file.write(digest(2), row: $0) }
            // A digest cut in two is taken for another image's; its slot is used again when the limit is reached.
            #expect(file.byteCount == 4096 + ((1..<32).contains(written) ? 3 : 2) * 192)
            #expect(try file.contains(digest(2)))
        }
    }
}
