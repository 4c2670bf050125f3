import GraftTensor

/// Where a storage's bytes lie.
struct StorageLocation {
    let source: ByteSource
    let start: Int
    let byteCount: Int
}

/// Finds the weights among what a pickle built, and reads them.
enum StateExtraction {
    /// Keys under which training scripts put the state dictionary, tried in this order.
    static let wrapperNames = ["state_dict", "model_state_dict", "model", "net", "network", "weights"]
    /// Prefixes of `DataParallel` and of `torch.compile`.
    private static let prefixes = ["module.", "_orig_mod."]

    private struct Found {
        var tensors: [(name: String, number: Int)] = []
        var ignored: [IgnoredEntry] = []
    }

    /// Reads the tensors below a pickle's value; `locations` has the bytes of each storage by key.
    static func load(
        _ root: PickleValue, machine: PickleMachine, container: CheckpointContainer,
        locations: [String: StorageLocation], bigEndian: Bool, fileByteCount: Int, limits: ReadLimits
    ) throws(CheckpointError) -> LoadedCheckpoint {
        let file = machine.file
        let (value, wrapper, siblings) = unwrap(root, machine)
        var found = try search(value, machine, limits: limits)
        guard !found.tensors.isEmpty else {
            throw .noTensors(file: file, found: machine.describe(root))
        }
        found.ignored = siblings + found.ignored

        let (names, stripped) = withoutCommonPrefixes(found.tensors.map(\.name))

        var budget = ByteBudget(file: file, fileByteCount: fileByteCount, limits: limits)
        var state = StateDictionary()
        var originalTypes: [String: String] = [:]
        var originals: [String: TensorContent] = [:]
        for (name, (_, number)) in zip(names, found.tensors) {
            guard let reference = machine.tensors[number] else {
                throw .malformed(
                    file: file, what: "tensor \(name)", offset: nil, found: "no data", expected: "a storage")
            }
            guard state[name] == nil else {
                throw .malformed(
                    file: file, what: "tensor \(name)", offset: reference.position, found: "the name twice",
                    expected: "each name once")
            }
            let place = try locate(reference, name: name, machine: machine, locations: locations, limits: limits)
            state[name] = try readTensor(
                place.view, type: reference.type, bigEndian: bigEndian, source: place.source,
                storageStart: place.start, what: name, budget: &budget)
            guard !reference.type.isKept else { continue }
            originalTypes[name] = reference.type.rawValue
            if limits.keepsElementTypes {
                originals[name] = try readOriginal(
                    place.view, type: reference.type, bigEndian: bigEndian, source: place.source,
                    storageStart: place.start, what: name, budget: &budget)
            }
        }
        return LoadedCheckpoint(
            state: state, metadata: [:], container: container, originalTypes: originalTypes,
            originals: originals, wrapper: wrapper, strippedPrefix: stripped, ignored: found.ignored)
    }

    /// Takes off the prefixes that every name has.
    static func withoutCommonPrefixes(_ names: [String]) -> (names: [String], stripped: String) {
        var names = names
        var stripped = ""
        while !names.isEmpty,
            let prefix = prefixes.first(where: { prefix in names.allSatisfy { $0.hasPrefix(prefix) } })
        {
            names = names.map { String($0.dropFirst(prefix.count)) }
            stripped += prefix
        }
        return (names, stripped)
    }

    /// Steps into `state_dict` and its like as long as no tensor stands beside it.
    private static func unwrap(
        _ root: PickleValue, _ machine: PickleMachine
    ) -> (value: PickleValue, wrapper: [String], siblings: [IgnoredEntry]) {
        var value = root
        var wrapper: [String] = []
        var siblings: [IgnoredEntry] = []
        // Two steps are the most that scripts use ({"model": {"state_dict": …}}); four are granted.
        for _ in 0..<4 {
            guard case .dictionary(let index) = value else { break }
            let dictionary = machine.dictionaries[index]
            let holdsTensors = dictionary.entries.contains { if case .tensor = $0.value { true } else { false } }
            guard !holdsTensors else { break }
            var next: (name: String, value: PickleValue)?
            for name in wrapperNames {
                if case .dictionary(let inner)? = dictionary[.string(name)] {
                    next = (name, .dictionary(inner))
                    break
                }
            }
            guard let next else { break }
            for (key, entry) in dictionary.entries where key != .string(next.name) {
                let name = (wrapper + [key.text ?? "?"]).joined(separator: ".")
                siblings.append(IgnoredEntry(name: name, description: machine.describe(entry)))
            }
            value = next.value
            wrapper.append(next.name)
        }
        return (value, wrapper, siblings)
    }

    /// Collects the tensors of a dictionary and of dictionaries in it, names joined by dots.
    private static func search(
        _ root: PickleValue, _ machine: PickleMachine, limits: ReadLimits
    ) throws(CheckpointError) -> Found {
        var found = Found()
        if case .tensor(let number) = root {
            found.tensors.append(("tensor", number))
            return found
        }
        guard case .dictionary(let rootIndex) = root else { return found }
        // A path of (dictionary, next entry): depth first, without recursion, and never into a dictionary twice.
        var visited: Set<Int> = [rootIndex]
        var path: [(index: Int, next: Int, name: String)] = [(rootIndex, 0, "")]
        while let (index, next, name) = path.last {
            let entries = machine.dictionaries[index].entries
            guard next < entries.count else {
                path.removeLast()
                continue
            }
            path[path.count - 1].next += 1
            let (key, value) = entries[next]
            guard let text = key.text else {
                found.ignored.append(IgnoredEntry(name: name + "?", description: machine.describe(value)))
                continue
            }
            switch value {
            case .tensor(let number): found.tensors.append((name + text, number))
            case .dictionary(let inner) where visited.insert(inner).inserted:
                guard path.count < limits.nestingDepth else {
                    throw .overLimit(
                        file: machine.file, what: "dictionaries in \(path[0].name + text)",
                        found: "more than \(limits.nestingDepth) levels", limit: "\(limits.nestingDepth)")
                }
                path.append((inner, 0, name + text + "."))
            default:
                found.ignored.append(IgnoredEntry(name: name + text, description: machine.describe(value)))
            }
        }
        return found
    }

    /// The checked view of a tensor and the place of its storage.
    private static func locate(
        _ reference: TensorReference, name: String, machine: PickleMachine, locations: [String: StorageLocation],
        limits: ReadLimits
    ) throws(CheckpointError) -> (view: StridedView, source: ByteSource, start: Int) {
        let file = machine.file
        let storage = machine.storages[reference.storage]
        let elementByteCount = reference.type.byteCount
        let count = storage.type == nil ? storage.count / elementByteCount : storage.count
        let view = try StridedView(
            dimensions: reference.dimensions, strides: reference.strides, offset: reference.offset,
            storageCount: count, file: file, what: "tensor \(name)", position: reference.position, limits: limits)
        guard view.span > 0 else {
            // An empty tensor may have an empty storage, which legacy files do not list; nothing is read of it.
            return (view, ByteSource(name: file, memory: []), 0)
        }
        guard let location = locations[storage.key] else {
            throw .malformed(
                file: file, what: "tensor \(name)", offset: reference.position,
                found: "storage \(storage.key), which the file does not hold", expected: "a storage of the file")
        }
        let unit = storage.type?.byteCount ?? 1
        guard location.byteCount == storage.rootCount * unit else {
            throw .malformed(
                file: file, what: "storage \(storage.key) of \(name)", offset: location.start,
                found: "\(location.byteCount) bytes", expected: "\(storage.rootCount * unit)")
        }
        return (view, location.source, location.start + storage.offset * unit)
    }
}
