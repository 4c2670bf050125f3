import GraftTensor

/// PyTorch's zip container: `<root>/data.pkl`, `<root>/byteorder`, `<root>/data/<key>`.
enum TorchZip {
    /// The folder inside the archive, with its slash; nil when there is no `data.pkl`.
    static func root(of archive: ZipArchive) -> String? {
        for entry in archive.entries {
            if entry.name == "data.pkl" { return "" }
            if entry.name.hasSuffix("/data.pkl"), entry.name.split(separator: "/").count == 2 {
                return String(entry.name.dropLast("data.pkl".count))
            }
        }
        return nil
    }

    static func load(_ archive: ZipArchive, root: String, limits: ReadLimits) throws(CheckpointError)
        -> LoadedCheckpoint
    {
        let file = archive.source.name
        if archive[root + "constants.pkl"] != nil {
            throw .unsupported(
                file: file, what: "PyTorch zip", found: "a TorchScript program",
                next: "save its tensors: torch.save(model.state_dict(), path)")
        }
        guard let pickle = archive[root + "data.pkl"] else {
            throw .noTensors(file: file, found: "no data.pkl")
        }
        var bigEndian = false
        if let entry = archive[root + "byteorder"] {
            let order = String(decoding: try archive.contents(entry, limit: 64), as: UTF8.self)
            guard order == "little" || order == "big" else {
                throw .malformed(
                    file: file, what: "byteorder", offset: entry.dataStart, found: "'\(order)'",
                    expected: "'little' or 'big'")
            }
            bigEndian = order == "big"
        }
        let stream = try archive.contents(pickle, limit: limits.pickleByteCount)
        var cursor = ByteCursor(ByteSource(name: file, memory: stream))
        var machine = PickleMachine(file: file, limits: limits)
        let value = try machine.run(&cursor)
        var locations: [String: StorageLocation] = [:]
        for storage in machine.storages where locations[storage.key] == nil {
            guard let entry = archive[root + "data/" + storage.key] else { continue }
            // A size that contradicts the pickle is refused before anything is unpacked.
            let unit = storage.type?.byteCount ?? 1
            guard entry.byteCount == storage.rootCount * unit else {
                throw .malformed(
                    file: file, what: "storage \(storage.key)", offset: entry.dataStart,
                    found: "\(entry.byteCount) bytes", expected: "\(storage.rootCount * unit)")
            }
            locations[storage.key] = try archive.open(entry)
        }
        var checkpoint = try StateExtraction.load(
            value, machine: machine, container: .torchZip, locations: locations, bigEndian: bigEndian,
            fileByteCount: archive.source.count, limits: limits)
        if let entry = archive[root + TorchZipWriter.metadataEntry] {
            checkpoint.metadata = try Safetensors.parseMetadata(
                archive.contents(entry, limit: limits.headerByteCount), file: "\(file):\(entry.name)")
        }
        return checkpoint
    }
}

/// PyTorch's legacy container: pickles of a magic number, a protocol, facts about the system, the object and the list
/// of storage keys; then each storage as an 8-byte element count and its elements, always little-endian.
enum TorchLegacy {
    /// 0x1950a86a20f9469cfc6c.
    private static let magic: [UInt8] = [0x6C, 0xFC, 0x9C, 0x46, 0xF9, 0x20, 0x6A, 0xA8, 0x50, 0x19]

    static func load(_ source: ByteSource, limits: ReadLimits) throws(CheckpointError) -> LoadedCheckpoint {
        let file = source.name
        var cursor = ByteCursor(source)
        var machine = PickleMachine(file: file, limits: limits)
        let magic = try machine.run(&cursor)
        guard magic == .longInteger(Self.magic) else {
            throw .unknownFormat(
                file: file, found: "a pickle of \(machine.describe(magic)) that torch.save did not write")
        }
        let version = try machine.run(&cursor)
        guard version == .integer(1001) else {
            throw .unsupported(
                file: file, what: "PyTorch legacy stream", found: "protocol \(machine.describe(version))",
                next: "save it again with a current PyTorch")
        }
        _ = try machine.run(&cursor)
        let value = try machine.run(&cursor)
        let keys = try machine.run(&cursor)
        guard case .list(let index) = keys else {
            throw .malformed(
                file: file, what: "storage keys", offset: cursor.position, found: machine.describe(keys),
                expected: "a list")
        }
        var locations: [String: StorageLocation] = [:]
        for item in machine.lists[index] {
            guard let key = item.identifier, let number = machine.storageNumbers[key], locations[key] == nil else {
                throw .malformed(
                    file: file, what: "storage keys", offset: cursor.position, found: machine.describe(item),
                    expected: "the key of a storage, once each")
            }
            let storage = machine.storages[number]
            locations[key] = try readStorage(
                &cursor, source: source, what: "storage \(key)", unit: storage.type?.byteCount ?? 1,
                expectedCount: storage.rootCount)
        }
        return try StateExtraction.load(
            value, machine: machine, container: .torchLegacy, locations: locations, bigEndian: false,
            fileByteCount: source.count, limits: limits)
    }

    /// Reads a storage's count and passes over its elements.
    static func readStorage(
        _ cursor: inout ByteCursor, source: ByteSource, what: String, unit: Int, expectedCount: Int?
    ) throws(CheckpointError) -> StorageLocation {
        let position = cursor.position
        let count = try cursor.unsigned(8, what: what)
        let bytes = count.multipliedReportingOverflow(by: UInt64(unit))
        guard !bytes.overflow, bytes.partialValue <= UInt64(Int.max), expectedCount.map({ UInt64($0) == count }) ?? true
        else {
            throw .malformed(
                file: source.name, what: what, offset: position, found: "\(count) elements",
                expected: expectedCount.map { "\($0)" } ?? "a size that fits 63 bits")
        }
        let location = StorageLocation(source: source, start: cursor.position, byteCount: Int(bytes.partialValue))
        try cursor.skip(location.byteCount, what: what)
        return location
    }
}

/// Finds the members of a tar.
enum TarArchive {
    static let blockByteCount = 512

    /// Whether the first block is a tar header: its checksum is right.
    static func recognizes(_ start: [UInt8]) -> Bool {
        guard start.count >= blockByteCount, start[0] != 0, let checksum = octal(start[148..<156]) else { return false }
        return checksum == sum(start)
    }

    private static func sum(_ block: [UInt8]) -> Int {
        var sum = 0
        for (index, byte) in block.prefix(blockByteCount).enumerated() {
            sum += (148..<156).contains(index) ? 0x20 : Int(byte)
        }
        return sum
    }

    /// A number in octal digits, padded with spaces or NULs; nil if it is none.
    private static func octal(_ field: ArraySlice<UInt8>) -> Int? {
        var value = 0
        var digits = 0
        for byte in field {
            if byte == 0 || byte == 0x20 {
                if digits > 0 { break }
                continue
            }
            guard (0x30...0x37).contains(byte), value < 1 << 58 else { return nil }
            value = value << 3 | Int(byte - 0x30)
            digits += 1
        }
        return digits > 0 ? value : nil
    }

    /// The regular files by name: where their bytes lie.
    static func members(_ source: ByteSource) throws(CheckpointError) -> [String: (start: Int, byteCount: Int)] {
        var members: [String: (start: Int, byteCount: Int)] = [:]
        var position = 0
        while position < source.count {
            let block = try source.bytes(at: position, count: blockByteCount, what: "tar header")
            if block.allSatisfy({ $0 == 0 }) { break }
            guard octal(block[148..<156]) == sum(block) else {
                throw .malformed(
                    file: source.name, what: "tar header", offset: position, found: "a wrong checksum",
                    expected: "\(sum(block))")
            }
            guard let byteCount = octal(block[124..<136]) else {
                throw .malformed(
                    file: source.name, what: "tar header", offset: position, found: "no size", expected: "octal digits")
            }
            var name = String(decoding: block[..<100].prefix { $0 != 0 }, as: UTF8.self)
            if name.hasPrefix("./") { name.removeFirst(2) }
            let start = position + blockByteCount
            try source.check(offset: start, byteCount: byteCount, what: "tar member \(name)")
            // '0' and NUL are regular files; links, folders and extended headers hold nothing needed.
            if block[156] == 0x30 || block[156] == 0 {
                guard members.updateValue((start, byteCount), forKey: name) == nil else {
                    throw .malformed(
                        file: source.name, what: "tar", offset: position, found: "\(name) twice",
                        expected: "each member once")
                }
            }
            position = start + (byteCount + blockByteCount - 1) / blockByteCount * blockByteCount
        }
        return members
    }
}

/// PyTorch's first container: a tar whose `storages`, `tensors` and `pickle` refer to each other by numbers.
enum TorchTar {
    static func load(_ source: ByteSource, limits: ReadLimits) throws(CheckpointError) -> LoadedCheckpoint {
        let file = source.name
        let members = try TarArchive.members(source)
        func member(_ name: String) throws(CheckpointError) -> ByteCursor {
            guard let member = members[name] else {
                let names = members.keys.sorted().prefix(3).joined(separator: ", ")
                throw .unknownFormat(file: file, found: "a tar of \(names.isEmpty ? "nothing" : names)")
            }
            return ByteCursor(source, from: member.start, to: member.start + member.byteCount)
        }
        var storagesCursor = try member("storages")
        var tensorsCursor = try member("tensors")
        var pickleCursor = try member("pickle")
        var machine = PickleMachine(file: file, limits: limits)
        var objects: [String: PickleValue] = [:]
        var locations: [String: StorageLocation] = [:]

        func refuse(_ what: String, _ value: PickleValue, _ expected: String, _ cursor: ByteCursor) -> CheckpointError {
            .malformed(
                file: file, what: what, offset: cursor.position, found: machine.describe(value), expected: expected)
        }
        func triple(_ cursor: inout ByteCursor, _ what: String) throws(CheckpointError) -> [PickleValue] {
            let value = try machine.run(&cursor)
            guard case .tuple(let index) = value, machine.tuples[index].count == 3 else {
                throw refuse(what, value, "a tuple of three", cursor)
            }
            return machine.tuples[index]
        }
        func count(_ cursor: inout ByteCursor, _ what: String) throws(CheckpointError) -> Int {
            let value = try machine.run(&cursor)
            guard case .integer(let number) = value, number >= 0 else { throw refuse(what, value, "a count", cursor) }
            return number
        }

        for _ in 0..<(try count(&storagesCursor, "number of storages")) {
            let parts = try triple(&storagesCursor, "storage")
            guard let key = parts[0].identifier, case .symbol(let symbol) = parts[2], locations[key] == nil else {
                throw refuse("storage", parts[0], "key, location and storage class", storagesCursor)
            }
            guard case .storage(let type) = symbol else {
                throw refuse("storage", parts[2], "a storage class", storagesCursor)
            }
            let location = try TorchLegacy.readStorage(
                &storagesCursor, source: source, what: "storage \(key)", unit: type.byteCount, expectedCount: nil)
            locations[key] = location
            objects[key] = try machine.addStorage(
                symbol, key: key, count: location.byteCount / type.byteCount, view: nil)
        }
        let views = try machine.run(&storagesCursor)
        guard case .list(let viewList) = views else { throw refuse("storage views", views, "a list", storagesCursor) }
        for item in machine.lists[viewList] {
            guard case .tuple(let index) = item, machine.tuples[index].count == 4,
                let key = machine.tuples[index][0].identifier, let root = machine.tuples[index][1].identifier,
                case .integer(let offset) = machine.tuples[index][2],
                case .integer(let size) = machine.tuples[index][3],
                case .storage(let number)? = objects[root], let type = machine.storages[number].type
            else {
                throw refuse("storage view", item, "key, root, offset and count", storagesCursor)
            }
            let base = machine.storages[number]
            objects[key] = try machine.addStorage(
                .storage(type), key: base.key, count: base.rootCount, view: (key, offset, size))
        }

        for _ in 0..<(try count(&tensorsCursor, "number of tensors")) {
            let parts = try triple(&tensorsCursor, "tensor")
            guard let key = parts[0].identifier, let storageKey = parts[1].identifier,
                case .storage(let number)? = objects[storageKey], let type = machine.storages[number].type
            else {
                throw refuse("tensor", parts[1], "key, storage and tensor class", tensorsCursor)
            }
            let position = tensorsCursor.position
            // The count of dimensions is 4 bytes, followed by 4 that mean nothing.
            let rank = Int(try tensorsCursor.unsigned(4, what: "tensor \(key)"))
            try tensorsCursor.skip(4, what: "tensor \(key)")
            guard rank <= limits.rank else {
                throw .overLimit(
                    file: file, what: "tensor \(key)", found: "\(rank) dimensions", limit: "\(limits.rank)")
            }
            var numbers: [Int] = []
            for _ in 0..<(2 * rank + 1) {
                numbers.append(Int(truncatingIfNeeded: try tensorsCursor.unsigned(8, what: "tensor \(key)")))
            }
            machine.tensors.append(
                TensorReference(
                    storage: number, type: type, dimensions: Array(numbers[..<rank]),
                    strides: Array(numbers[rank..<2 * rank]), offset: numbers[2 * rank], position: position))
            objects[key] = .tensor(machine.tensors.count - 1)
        }

        machine.persistentObjects = objects
        let value = try machine.run(&pickleCursor)
        return try StateExtraction.load(
            value, machine: machine, container: .torchTar, locations: locations, bigEndian: false,
            fileByteCount: source.count, limits: limits)
    }
}
