/// A value that a pickle builds; containers are numbers into the machine's lists.
///
/// Numbers instead of references: a pickle may put a list into itself or nest a million lists, and neither cycles of
/// references nor recursion through them may come of it.
enum PickleValue: Equatable {
    case none
    case bool(Bool)
    case integer(Int)
    /// A number of more than 64 bits, little-endian two's complement.
    case longInteger([UInt8])
    case float(Double)
    case string(String)
    case bytes([UInt8])
    case tuple(Int)
    case list(Int)
    case dictionary(Int)
    case symbol(PickleSymbol)
    case storage(Int)
    case tensor(Int)
    /// Something that is not needed, such as a device.
    case opaque(String)

    /// A key of a dictionary or table; nil for what Python cannot hash or torch never uses as a key.
    var key: PickleKey? {
        switch self {
        case .string(let text): .string(text)
        case .integer(let number): .integer(number)
        case .bool(let value): .integer(value ? 1 : 0)
        case .none: PickleKey.none
        case .float(let number): .float(number)
        case .bytes(let bytes): .bytes(bytes)
        case .tuple(let index): .tuple(index)
        default: nil
        }
    }

    /// The text of a storage's or object's key, which Python writes as a string or as a number.
    var identifier: String? {
        switch self {
        case .string(let text): text
        case .integer(let number): String(number)
        default: nil
        }
    }
}

/// What identifies an entry of a Python dictionary.
enum PickleKey: Hashable {
    case none, string(String), integer(Int), float(Double), bytes([UInt8]), tuple(Int)

    /// As part of a name; nil for keys that are neither text nor number.
    var text: String? {
        switch self {
        case .string(let text): text
        case .integer(let number): String(number)
        default: nil
        }
    }
}

/// A Python dictionary, in the order of insertion.
struct PickleDictionary {
    private(set) var entries: [(key: PickleKey, value: PickleValue)] = []
    private var positions: [PickleKey: Int] = [:]

    subscript(key: PickleKey) -> PickleValue? {
        positions[key].map { entries[$0].value }
    }

    mutating func set(_ value: PickleValue, for key: PickleKey) {
        if let position = positions[key] {
            entries[position].value = value
        } else {
            positions[key] = entries.count
            entries.append((key, value))
        }
    }
}

/// A storage that tensors view; its bytes are found by the container's reader.
struct StorageReference: Equatable {
    /// The key of the storage in its container.
    let key: String
    /// Nil for an untyped storage, counted in bytes.
    let type: ElementType?
    /// Elements of the storage, or of the part of it that a legacy view takes.
    let count: Int
    /// Where a legacy view begins in the storage, in elements.
    let offset: Int
    /// Elements of the whole storage.
    let rootCount: Int
}

/// A tensor before its elements are read.
struct TensorReference: Equatable {
    let storage: Int
    let type: ElementType
    let dimensions: [Int]
    let strides: [Int]
    let offset: Int
    /// Where in the file it is described, for errors.
    let position: Int
}

/// Runs the part of Python's pickle language in which tensors are described.
///
/// It knows the opcodes of PyTorch's restricted unpickler and `BINSTRING` of Python 2, and the names of
/// `PickleSymbol`. It calls nothing, allocates in proportion to the stream and needs no recursion.
struct PickleMachine {
    let file: String
    let limits: ReadLimits
    private(set) var tuples: [[PickleValue]] = []
    private(set) var lists: [[PickleValue]] = []
    private(set) var dictionaries: [PickleDictionary] = []
    var storages: [StorageReference] = []
    /// Nil for a parameter that was made empty and not given its data.
    var tensors: [TensorReference?] = []
    /// Storages by key, so that two descriptions of one storage must agree.
    private(set) var storageNumbers: [String: Int] = [:]
    /// Objects of the tar format, to which its pickle refers by number.
    var persistentObjects: [String: PickleValue]?

    private var stack: [PickleValue] = []
    private var marks: [Int] = []
    private var memo: [Int: PickleValue] = [:]
    /// Items copied from one container into another, and opcodes run.
    private var copiedCount = 0
    private var operationCount = 0
    private var position = 0

    init(file: String, limits: ReadLimits) {
        self.file = file
        self.limits = limits
    }

    func refuse(_ what: String, found: String, expected: String) -> CheckpointError {
        .malformed(file: file, what: what, offset: position, found: found, expected: expected)
    }

    /// Runs one pickle from a cursor to its `STOP`; what earlier ones built stays valid, their memo does not.
    mutating func run(_ cursor: inout ByteCursor) throws(CheckpointError) -> PickleValue {
        stack.removeAll()
        marks.removeAll()
        memo.removeAll()
        let start = cursor.position
        var operations = 0
        while true {
            position = cursor.position
            operations += 1
            operationCount += 1
            guard operations <= limits.pickleOperationCount, position - start <= limits.pickleByteCount else {
                throw .overLimit(
                    file: file, what: "pickle", found: "\(operations) opcodes in \(position - start) bytes",
                    limit: "\(limits.pickleOperationCount) opcodes and \(limits.pickleByteCount) bytes")
            }
            let opcode = try cursor.byte("pickle opcode")
            if opcode == UInt8(ascii: ".") {
                guard marks.isEmpty, stack.count == 1 else {
                    throw refuse("pickle STOP", found: "\(stack.count) values on the stack", expected: "one")
                }
                return stack[0]
            }
            try execute(opcode, &cursor)
        }
    }

    private mutating func pop() throws(CheckpointError) -> PickleValue {
        guard stack.count > marks.last ?? 0, let value = stack.popLast() else {
            throw refuse("pickle", found: "an empty stack", expected: "a value")
        }
        return value
    }

    private func top() throws(CheckpointError) -> PickleValue {
        guard stack.count > marks.last ?? 0, let value = stack.last else {
            throw refuse("pickle", found: "an empty stack", expected: "a value")
        }
        return value
    }

    private mutating func popToMark() throws(CheckpointError) -> [PickleValue] {
        guard let mark = marks.popLast(), mark <= stack.count else {
            throw refuse("pickle", found: "no mark", expected: "a mark below the items")
        }
        let items = Array(stack[mark...])
        stack.removeSubrange(mark...)
        return items
    }

    private mutating func pushTuple(_ items: [PickleValue]) {
        tuples.append(items)
        stack.append(.tuple(tuples.count - 1))
    }

    private mutating func newDictionary() -> PickleValue {
        dictionaries.append(PickleDictionary())
        return .dictionary(dictionaries.count - 1)
    }

    private mutating func execute(_ opcode: UInt8, _ cursor: inout ByteCursor) throws(CheckpointError) {
        switch opcode {
        case 0x80:  // PROTO
            let version = try cursor.byte("pickle protocol")
            guard version <= 3 else {
                throw .unsupported(
                    file: file, what: "pickle protocol", found: "protocol \(version)",
                    next: "save with PyTorch's default protocol 2")
            }
        case UInt8(ascii: "c"):  // GLOBAL
            stack.append(.symbol(try readSymbol(&cursor)))
        case 0x81:  // NEWOBJ
            let arguments = try popTuple("NEWOBJ")
            let type = try pop()
            stack.append(try newObject(type, arguments))
        case UInt8(ascii: "R"):  // REDUCE
            let arguments = try popTuple("REDUCE")
            let function = try pop()
            stack.append(try reduce(function, arguments))
        case UInt8(ascii: "b"):  // BUILD
            let state = try pop()
            try build(state)
        case UInt8(ascii: "a"):  // APPEND
            let item = try pop()
            try append([item])
        case UInt8(ascii: "e"):  // APPENDS
            let items = try popToMark()
            try append(items)
        case UInt8(ascii: "s"):  // SETITEM
            let value = try pop()
            let key = try pop()
            try setItems([key, value])
        case UInt8(ascii: "u"):  // SETITEMS
            let items = try popToMark()
            try setItems(items)
        case UInt8(ascii: "("): marks.append(stack.count)
        case UInt8(ascii: "t"): pushTuple(try popToMark())
        case 0x85: pushTuple([try pop()])
        case 0x86:
            let second = try pop()
            pushTuple([try pop(), second])
        case 0x87:
            let third = try pop()
            let second = try pop()
            pushTuple([try pop(), second, third])
        case UInt8(ascii: "N"): stack.append(.none)
        case 0x88: stack.append(.bool(true))
        case 0x89: stack.append(.bool(false))
        case UInt8(ascii: ")"): pushTuple([])
        case UInt8(ascii: "]"):
            lists.append([])
            stack.append(.list(lists.count - 1))
        case UInt8(ascii: "}"): stack.append(newDictionary())
        case 0x8F:  // EMPTY_SET
            lists.append([])
            stack.append(.list(lists.count - 1))
        case UInt8(ascii: "J"):  // BININT
            let bits = UInt32(truncatingIfNeeded: try cursor.unsigned(4, what: "pickle number"))
            stack.append(.integer(Int(Int32(bitPattern: bits))))
        case UInt8(ascii: "K"): stack.append(.integer(Int(try cursor.byte("pickle number"))))
        case UInt8(ascii: "M"): stack.append(.integer(Int(try cursor.unsigned(2, what: "pickle number"))))
        case UInt8(ascii: "G"):  // BINFLOAT, big-endian
            let bits = try cursor.unsigned(8, what: "pickle number").byteSwapped
            stack.append(.float(Double(bitPattern: bits)))
        case UInt8(ascii: "X"):  // BINUNICODE
            let count = Int(try cursor.unsigned(4, what: "pickle text length"))
            let bytes = try cursor.bytes(checkedText(count, &cursor), what: "pickle text")
            guard let text = String(validating: bytes, as: UTF8.self) else {
                throw refuse("pickle text", found: "bytes that are not UTF-8", expected: "UTF-8")
            }
            stack.append(.string(text))
        case UInt8(ascii: "U"):  // SHORT_BINSTRING
            stack.append(try python2String(Int(try cursor.byte("pickle text length")), &cursor))
        case UInt8(ascii: "T"):  // BINSTRING
            stack.append(try python2String(Int(try cursor.unsigned(4, what: "pickle text length")), &cursor))
        case UInt8(ascii: "Q"):  // BINPERSID
            let identifier = try pop()
            stack.append(try persistentObject(identifier))
        case UInt8(ascii: "h"): try recall(Int(try cursor.byte("pickle memo number")))
        case UInt8(ascii: "j"): try recall(Int(try cursor.unsigned(4, what: "pickle memo number")))
        case UInt8(ascii: "q"): memo[Int(try cursor.byte("pickle memo number"))] = try top()
        case UInt8(ascii: "r"): memo[Int(try cursor.unsigned(4, what: "pickle memo number"))] = try top()
        case 0x8A:  // LONG1
            let bytes = try cursor.bytes(Int(try cursor.byte("pickle number length")), what: "pickle number")
            stack.append(Self.long(bytes))
        default:
            let name = opcode > 0x20 && opcode < 0x7F ? " ('\(Character(UnicodeScalar(opcode)))')" : ""
            throw .unsupported(
                file: file, what: "pickle at byte \(position)", found: "opcode 0x\(hexadecimal([opcode]))\(name)",
                next: "save with torch.save and its default protocol")
        }
    }

    private func checkedText(_ count: Int, _ cursor: inout ByteCursor) throws(CheckpointError) -> Int {
        guard count <= limits.pickleByteCount else {
            throw .overLimit(
                file: file, what: "pickle text", found: "\(count) bytes", limit: "\(limits.pickleByteCount) bytes")
        }
        return count
    }

    /// Little-endian two's complement.
    private static func long(_ bytes: [UInt8]) -> PickleValue {
        guard bytes.count <= 8 else { return .longInteger(bytes) }
        var value: UInt64 = bytes.last.map { $0 & 0x80 != 0 } == true ? .max : 0
        for byte in bytes.reversed() { value = value << 8 | UInt64(byte) }
        return .integer(Int(Int64(bitPattern: value)))
    }

    private func python2String(_ count: Int, _ cursor: inout ByteCursor) throws(CheckpointError) -> PickleValue {
        let bytes = try cursor.bytes(checkedText(count, &cursor), what: "pickle text")
        return String(validating: bytes, as: UTF8.self).map(PickleValue.string) ?? .bytes(bytes)
    }

    private mutating func recall(_ number: Int) throws(CheckpointError) {
        guard let value = memo[number] else {
            throw refuse("pickle memo", found: "number \(number)", expected: "a number that was stored")
        }
        stack.append(value)
    }

    private func readSymbol(_ cursor: inout ByteCursor) throws(CheckpointError) -> PickleSymbol {
        let module = String(decoding: try cursor.line(limit: 1024, what: "pickle symbol"), as: UTF8.self)
        let name = String(decoding: try cursor.line(limit: 1024, what: "pickle symbol"), as: UTF8.self)
        guard let symbol = PickleSymbol(module: module, name: name) else {
            throw .forbiddenSymbol(file: file, symbol: "\(module).\(name)", offset: position)
        }
        return symbol
    }

    private mutating func popTuple(_ what: String) throws(CheckpointError) -> [PickleValue] {
        let value = try pop()
        guard case .tuple(let index) = value else {
            throw refuse("pickle \(what)", found: describe(value), expected: "a tuple of arguments")
        }
        return tuples[index]
    }

    private mutating func append(_ items: [PickleValue]) throws(CheckpointError) {
        let target = try top()
        guard case .list(let index) = target else {
            throw refuse("pickle APPEND", found: describe(target), expected: "a list")
        }
        lists[index].append(contentsOf: items)
    }

    private mutating func setItems(_ items: [PickleValue]) throws(CheckpointError) {
        let target = try top()
        guard case .dictionary(let index) = target else {
            throw refuse("pickle SETITEM", found: describe(target), expected: "a dictionary")
        }
        guard items.count.isMultiple(of: 2) else {
            throw refuse("pickle SETITEMS", found: "\(items.count) items", expected: "pairs")
        }
        for pair in stride(from: 0, to: items.count, by: 2) {
            guard let key = items[pair].key else {
                throw refuse(
                    "pickle dictionary", found: "\(describe(items[pair])) as key", expected: "text or a number")
            }
            dictionaries[index].set(items[pair + 1], for: key)
        }
    }

    /// The kind of a value, for errors and reports.
    func describe(_ value: PickleValue) -> String {
        switch value {
        case .none: "None"
        case .bool(let flag): flag ? "True" : "False"
        case .integer(let number): String(number)
        case .longInteger: "a long number"
        case .float(let number): "\(number)"
        case .string(let text): text.count <= 64 ? "'\(text)'" : "a text of \(text.utf8.count) bytes"
        case .bytes(let bytes): "\(bytes.count) bytes"
        case .tuple(let index): "a tuple of \(tuples[index].count)"
        case .list(let index): "a list of \(lists[index].count)"
        case .dictionary(let index): "a dictionary of \(dictionaries[index].entries.count)"
        case .symbol(let symbol): "the symbol \(symbol)"
        case .storage: "a storage"
        case .tensor: "a tensor"
        case .opaque(let text): text
        }
    }
}

// What Python would call, done here by name.
extension PickleMachine {
    private mutating func newObject(
        _ type: PickleValue, _ arguments: [PickleValue]
    ) throws(CheckpointError) -> PickleValue {
        switch type {
        case .symbol(.orderedDictionary), .symbol(.counter), .symbol(.set), .symbol(.size):
            return try reduce(type, arguments)
        case .symbol(.parameter), .symbol(.tensorClass):
            if case .tensor(let index)? = arguments.first { return .tensor(index) }
            tensors.append(nil)
            return .tensor(tensors.count - 1)
        default:
            throw refuse("pickle NEWOBJ", found: describe(type), expected: "a dictionary or a parameter")
        }
    }

    private mutating func reduce(
        _ function: PickleValue, _ arguments: [PickleValue]
    ) throws(CheckpointError) -> PickleValue {
        guard case .symbol(let symbol) = function else {
            throw refuse("pickle REDUCE", found: describe(function), expected: "a symbol")
        }
        switch symbol {
        case .orderedDictionary, .counter:
            return try makeDictionary(arguments)
        case .set:
            if case .list(let index)? = arguments.first { return .list(index) }
            lists.append([])
            return .list(lists.count - 1)
        case .size:
            guard let first = arguments.first else { return makeTuple([]) }
            switch first {
            case .tuple: return first
            case .list(let index):
                try spendCopies(lists[index].count)
                return makeTuple(lists[index])
            default: throw refuse("torch.Size", found: describe(first), expected: "a tuple")
            }
        case .rebuildParameter, .rebuildParameterWithState:
            guard case .tensor(let index)? = arguments.first else {
                throw refuse("parameter", found: arguments.first.map(describe) ?? "nothing", expected: "a tensor")
            }
            return .tensor(index)
        case .rebuildTensor, .rebuildTensorV2, .rebuildTensorV3:
            return try rebuildTensor(symbol, arguments)
        case .device: return .opaque("a device")
        case .complex: return .opaque("a complex number")
        case .byteArray, .encode: return .opaque("bytes")
        case .parameter, .tensorClass: return try newObject(function, arguments)
        case .storage, .untypedStorage, .elementType:
            throw refuse("pickle REDUCE", found: describe(function), expected: "a function that rebuilds a tensor")
        }
    }

    private mutating func makeTuple(_ items: [PickleValue]) -> PickleValue {
        tuples.append(items)
        return .tuple(tuples.count - 1)
    }

    /// Copies of one big list again and again would take more memory than the stream; honest streams copy each once.
    private mutating func spendCopies(_ count: Int) throws(CheckpointError) {
        copiedCount += count
        guard copiedCount <= operationCount else {
            throw .overLimit(
                file: file, what: "pickle", found: "\(copiedCount) copied items",
                limit: "\(operationCount), one for each opcode")
        }
    }

    /// `OrderedDict()`, or Python 2's `OrderedDict([[key, value], …])`, or `Counter({…})`.
    private mutating func makeDictionary(_ arguments: [PickleValue]) throws(CheckpointError) -> PickleValue {
        var dictionary = PickleDictionary()
        switch arguments.first {
        case nil: break
        case .list(let index)?:
            try spendCopies(lists[index].count)
            for item in lists[index] {
                var pair: [PickleValue] = []
                if case .list(let inner) = item { pair = Array(lists[inner].prefix(3)) }
                if case .tuple(let inner) = item { pair = Array(tuples[inner].prefix(3)) }
                guard pair.count == 2, let key = pair[0].key else {
                    throw refuse("OrderedDict", found: describe(item), expected: "a pair of key and value")
                }
                dictionary.set(pair[1], for: key)
            }
        case .dictionary(let index)?:
            try spendCopies(dictionaries[index].entries.count)
            dictionary = dictionaries[index]
        case let other?:
            throw refuse("OrderedDict", found: describe(other), expected: "a list of pairs")
        }
        dictionaries.append(dictionary)
        return .dictionary(dictionaries.count - 1)
    }

    private mutating func build(_ state: PickleValue) throws(CheckpointError) {
        let target = try top()
        switch target {
        case .dictionary, .opaque:
            // Attributes of a dictionary, such as a state dictionary's `_metadata`.
            return
        case .tensor(let index):
            guard case .tuple(let number) = state, let first = tuples[number].first else {
                throw refuse("tensor state", found: describe(state), expected: "a tuple")
            }
            switch first {
            case .tensor(let data):
                guard tensors[index] == nil || data == index else { return }
                tensors[index] = tensors[data]
            case .storage:
                tensors[index] = try makeTensor(Array(tuples[number].prefix(4)), type: nil)
            default:
                throw refuse("tensor state", found: describe(first), expected: "a tensor or a storage")
            }
        default:
            throw refuse("pickle BUILD", found: describe(target), expected: "a dictionary or a parameter")
        }
    }

    /// `_rebuild_tensor(storage, offset, size, stride)`, `_v2(…, requires_grad, hooks[, metadata])`,
    /// `_v3(…, requires_grad, hooks, dtype[, metadata])`.
    private mutating func rebuildTensor(
        _ symbol: PickleSymbol, _ arguments: [PickleValue]
    ) throws(CheckpointError) -> PickleValue {
        var type: ElementType?
        var metadata: PickleValue?
        if symbol == .rebuildTensorV3 {
            guard arguments.count >= 7, case .symbol(.elementType(let named)) = arguments[6] else {
                throw refuse("_rebuild_tensor_v3", found: "\(arguments.count) arguments", expected: "an element type")
            }
            type = named
            metadata = arguments.count > 7 ? arguments[7] : nil
        } else if symbol == .rebuildTensorV2 {
            metadata = arguments.count > 6 ? arguments[6] : nil
        }
        if case .dictionary(let index)? = metadata,
            dictionaries[index].entries.contains(where: { $0.value == .bool(true) })
        {
            // Conjugate and negative bits: the storage does not hold the tensor's values.
            throw .unsupported(
                file: file, what: "tensor at byte \(position)", found: "a lazily negated or conjugated tensor",
                next: "call resolve_neg() and resolve_conj() before saving")
        }
        tensors.append(try makeTensor(Array(arguments.prefix(4)), type: type))
        return .tensor(tensors.count - 1)
    }

    private func makeTensor(_ arguments: [PickleValue], type: ElementType?) throws(CheckpointError) -> TensorReference {
        guard arguments.count == 4, case .storage(let storage) = arguments[0], case .integer(let offset) = arguments[1]
        else {
            throw refuse(
                "tensor", found: arguments.map(describe).joined(separator: ", "),
                expected: "storage, offset, size and stride")
        }
        let reference = storages[storage]
        guard let type = type ?? reference.type else {
            throw refuse("tensor", found: "an untyped storage", expected: "an element type")
        }
        // Typed storages of another type than the tensor's are counted in other units.
        guard reference.type == nil || reference.type == type else {
            throw refuse("tensor", found: "\(type.rawValue) in another type's storage", expected: "one type")
        }
        return TensorReference(
            storage: storage, type: type, dimensions: try integers(arguments[2], "size"),
            strides: try integers(arguments[3], "stride"), offset: offset, position: position)
    }

    private func integers(_ value: PickleValue, _ what: String) throws(CheckpointError) -> [Int] {
        guard case .tuple(let index) = value, tuples[index].count <= limits.rank else {
            throw refuse("tensor \(what)", found: describe(value), expected: "a tuple of at most \(limits.rank)")
        }
        var result: [Int] = []
        for item in tuples[index] {
            guard case .integer(let number) = item else {
                throw refuse("tensor \(what)", found: describe(item), expected: "whole numbers")
            }
            result.append(number)
        }
        return result
    }

    /// `("storage", class, key, location, count[, (view key, offset, count)])`, or in a tar an object's number.
    private mutating func persistentObject(_ identifier: PickleValue) throws(CheckpointError) -> PickleValue {
        if let objects = persistentObjects {
            guard let key = identifier.identifier, let object = objects[key] else {
                throw refuse("persistent object", found: describe(identifier), expected: "a stored tensor's number")
            }
            return object
        }
        guard case .tuple(let index) = identifier else {
            throw refuse("persistent object", found: describe(identifier), expected: "a storage's description")
        }
        let parts = tuples[index]
        guard parts.count >= 5, parts[0] == .string("storage"), case .symbol(let symbol) = parts[1],
            let key = parts[2].identifier, case .integer(let count) = parts[4], count >= 0
        else {
            throw refuse(
                "persistent object", found: "(\(parts.prefix(5).map(describe).joined(separator: ", ")))",
                expected: "('storage', type, key, location, count)")
        }
        var view: (key: String, offset: Int, count: Int)?
        if parts.count > 5, case .tuple(let viewIndex) = parts[5] {
            let items = tuples[viewIndex]
            guard items.count == 3, let viewKey = items[0].identifier, case .integer(let offset) = items[1],
                case .integer(let viewCount) = items[2]
            else {
                throw refuse("storage view", found: describe(parts[5]), expected: "key, offset and count")
            }
            view = (viewKey, offset, viewCount)
        }
        return try addStorage(symbol, key: key, count: count, view: view)
    }

    /// Notes a storage, or a view of one.
    mutating func addStorage(
        _ symbol: PickleSymbol, key: String, count: Int, view: (key: String, offset: Int, count: Int)?
    ) throws(CheckpointError) -> PickleValue {
        let type: ElementType?
        switch symbol {
        case .storage(let known): type = known
        case .untypedStorage: type = nil
        default: throw refuse("storage \(key)", found: "the symbol \(symbol)", expected: "a storage class")
        }
        guard !count.multipliedReportingOverflow(by: 8).overflow else {
            throw refuse("storage \(key)", found: "\(count) elements", expected: "a size that fits 63 bits")
        }
        let root = StorageReference(key: key, type: type, count: count, offset: 0, rootCount: count)
        let number: Int
        if let known = storageNumbers[key] {
            guard storages[known] == root else {
                throw refuse(
                    "storage \(key)", found: "\(count) elements of \(type?.rawValue ?? "bytes")",
                    expected: "the type and size named before")
            }
            number = known
        } else {
            storages.append(root)
            number = storages.count - 1
            storageNumbers[key] = number
        }
        guard let view else { return .storage(number) }
        guard view.offset >= 0, view.count >= 0, view.offset <= count, view.count <= count - view.offset else {
            throw refuse(
                "view of storage \(key)", found: "\(view.count) elements from \(view.offset)",
                expected: "a part of \(count) elements")
        }
        storages.append(
            StorageReference(key: key, type: type, count: view.count, offset: view.offset, rootCount: count))
        return .storage(storages.count - 1)
    }
}
