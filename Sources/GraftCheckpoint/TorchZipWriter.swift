import CSystemSupport
import GraftTensor

/// Writes PyTorch's zip container as `torch.save(state_dict)` does: `data.pkl`, `byteorder`, one entry for each
/// storage, `version`; stored, each entry's bytes at a multiple of 64.
///
/// The pickle is byte for byte that of Python's own pickler (protocol 2) for an `OrderedDict` of tensors that each have
/// a storage of their own, so that `torch.load(weights_only=True)` meets nothing that it does not write itself.
enum TorchZipWriter {
    /// The entry that holds metadata as a JSON object; `extra/` is where PyTorch keeps what it does not interpret.
    static let metadataEntry = "extra/graft_metadata.json"
    private static let root = "archive/"
    private static let alignment = 64

    static func write(
        _ tensors: [(name: String, content: TensorContent)], metadata: [String: String], to path: String
    ) throws(CheckpointError) {
        let file = try AtomicFile(path: path)
        var entries: [ZipWriterEntry] = []
        func begin(_ name: String, byteCount: Int, crc: UInt32) throws(CheckpointError) {
            let entry = ZipWriterEntry(
                name: Array((root + name).utf8), headerStart: file.byteCount, byteCount: byteCount, crc: crc)
            try file.write(entry.localHeader(alignment: alignment))
            entries.append(entry)
        }
        func add(_ name: String, _ bytes: [UInt8]) throws(CheckpointError) {
            try begin(name, byteCount: bytes.count, crc: graft_crc32(0, bytes, bytes.count))
            try file.write(bytes)
        }
        var pickler = StateDictionaryPickler()
        try add("data.pkl", pickler.pickle(tensors.map { ($0.name, $0.content.shape, $0.content.type) }))
        try add("byteorder", Array("little".utf8))
        for (index, tensor) in tensors.enumerated() {
            try begin("data/\(index)", byteCount: tensor.content.byteCount, crc: tensor.content.crc32())
            try tensor.content.write(to: file)
        }
        try add("version", Array("3\n".utf8))
        if !metadata.isEmpty { try add(metadataEntry, Array(CheckpointWriter.text(of: metadata).utf8)) }
        let directoryStart = file.byteCount
        for entry in entries { try file.write(entry.directoryEntry) }
        try file.write(
            ZipWriterEntry.endRecords(
                entryCount: entries.count, directoryStart: directoryStart, directoryEnd: file.byteCount))
        try file.commit()
    }
}

/// Writes the pickle of a state dictionary, opcode by opcode as Python's pickler (protocol 2) would.
struct StateDictionaryPickler {
    private var bytes: [UInt8] = []
    /// Numbers of what stands in the pickle's memo, by what it is.
    private var memo: [String: Int] = [:]
    private var memoCount = 0

    /// Python writes so many items of a dictionary at a time.
    private static let batchCount = 1000

    /// The pickle of an ordered dictionary whose tensor number i has all of storage number i.
    mutating func pickle(_ tensors: [(name: String, shape: Shape, type: ElementType)]) -> [UInt8] {
        bytes = [0x80, 2]
        emptyOrderedDictionary()
        var start = 0
        while start < tensors.count {
            let batch = tensors[start..<min(start + Self.batchCount, tensors.count)]
            // A lone last item gets the opcode for one.
            let isLone = batch.count == 1
            if !isLone { bytes.append(0x28) }
            for (index, tensor) in zip(batch.indices, batch) {
                // Every name is a text of its own, even one that was written before.
                text(tensor.name)
                memoize(nil)
                self.tensor(index, tensor.shape, tensor.type)
            }
            bytes.append(isLone ? 0x73 : 0x75)
            start += batch.count
        }
        bytes.append(0x2E)
        return bytes
    }

    private mutating func memoize(_ key: String?) {
        if let key { memo[key] = memoCount }
        bytes += memoCount < 256 ? [0x71, UInt8(memoCount)] : [0x72] + littleEndianBytes(memoCount, 4)
        memoCount += 1
    }

    /// What `write` writes, or a reference to it when it was written before.
    private mutating func once(_ key: String, _ write: (inout Self) -> Void) {
        if let number = memo[key] {
            bytes += number < 256 ? [0x68, UInt8(number)] : [0x6A] + littleEndianBytes(number, 4)
        } else {
            write(&self)
            memoize(key)
        }
    }

    private mutating func text(_ text: String) {
        bytes += [0x58] + littleEndianBytes(text.utf8.count, 4) + Array(text.utf8)
    }

    private mutating func word(_ word: String) {
        once("text \(word)") { $0.text(word) }
    }

    private mutating func global(_ module: String, _ name: String) {
        once("global \(module) \(name)") { $0.bytes += [0x63] + Array("\(module)\n\(name)\n".utf8) }
    }

    private mutating func number(_ value: Int) {
        switch value {
        case 0..<0x100: bytes += [0x4B, UInt8(value)]
        case 0x100..<0x1_0000: bytes += [0x4D] + littleEndianBytes(value, 2)
        case 0x1_0000..<0x8000_0000: bytes += [0x4A] + littleEndianBytes(value, 4)
        default:
            // Two's complement with as few bytes as keep the sign.
            let count = (Int.bitWidth - value.leadingZeroBitCount) / 8 + 1
            bytes += [0x8A, UInt8(count)] + littleEndianBytes(value, count)
        }
    }

    /// A tuple of numbers; an empty one is not kept in the memo.
    private mutating func tuple(_ values: [Int]) {
        guard !values.isEmpty else {
            bytes.append(0x29)
            return
        }
        if values.count > 3 { bytes.append(0x28) }
        for value in values { number(value) }
        bytes.append(values.count > 3 ? 0x74 : 0x84 + UInt8(values.count))
        memoize(nil)
    }

    private mutating func emptyOrderedDictionary() {
        global("collections", "OrderedDict")
        bytes += [0x29, 0x52]
        memoize(nil)
    }

    private mutating func tensor(_ index: Int, _ shape: Shape, _ type: ElementType) {
        let storageClass = type.torchStorageClass
        global("torch._utils", storageClass == nil ? "_rebuild_tensor_v3" : "_rebuild_tensor_v2")
        bytes += [0x28, 0x28]
        word("storage")
        if let storageClass { global("torch", storageClass) } else { global("torch.storage", "UntypedStorage") }
        text("\(index)")
        memoize(nil)
        word("cpu")
        number(storageClass == nil ? shape.elementCount * type.byteCount : shape.elementCount)
        bytes.append(0x74)
        memoize(nil)
        bytes.append(0x51)
        number(0)
        tuple(shape.dimensions)
        var strides = [Int](repeating: 1, count: shape.rank)
        for axis in strides.indices.dropLast().reversed() {
            strides[axis] = strides[axis + 1] * max(1, shape[axis + 1])
        }
        tuple(strides)
        // requires_grad, backward hooks.
        bytes.append(0x89)
        emptyOrderedDictionary()
        if storageClass == nil { global("torch", type.rawValue) }
        bytes.append(0x74)
        memoize(nil)
        bytes.append(0x52)
        memoize(nil)
    }
}

extension ElementType {
    /// The name of PyTorch's storage class; nil for the types whose tensors have untyped storages.
    fileprivate var torchStorageClass: String? {
        switch self {
        case .float64: "DoubleStorage"
        case .float32: "FloatStorage"
        case .float16: "HalfStorage"
        case .bfloat16: "BFloat16Storage"
        case .int64: "LongStorage"
        case .int32: "IntStorage"
        case .int16: "ShortStorage"
        case .int8: "CharStorage"
        case .uint8: "ByteStorage"
        case .bool: "BoolStorage"
        case .uint16, .uint32, .uint64: nil
        }
    }
}
