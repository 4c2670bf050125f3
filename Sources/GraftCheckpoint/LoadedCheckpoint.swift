import GraftTensor

/// The kinds of files that weights are read from.
package enum CheckpointContainer: String, Sendable {
    /// PyTorch since 1.6: a zip with a pickle and one entry for each storage.
    case torchZip = "PyTorch zip"
    /// PyTorch 0.1.10 to 1.5: pickles followed by raw storages.
    case torchLegacy = "PyTorch legacy stream"
    /// PyTorch before 0.1.10: a tar of storages, tensors and a pickle.
    case torchTar = "PyTorch tar"
    case safetensors
    case npz
    case npy
}

/// An entry of a checkpoint that is not a weight, such as an epoch number or an optimizer's state.
package struct IgnoredEntry: Sendable, Equatable {
    /// The keys that lead to it, joined by dots.
    package let name: String
    /// What it is: a number or text itself, or the kind of thing.
    package let description: String

    package init(name: String, description: String) {
        self.name = name
        self.description = description
    }
}

/// What a weights file holds.
package struct LoadedCheckpoint: Sendable {
    /// The tensors in the order of the file: float32, or int64 for whole numbers.
    package var state: StateDictionary
    /// Texts of a safetensors file's `__metadata__`; empty for other files.
    package var metadata: [String: String]
    /// The kind of file, found by its content.
    package var container: CheckpointContainer
    /// Element types in the file of the tensors that were converted, by name, as PyTorch calls them.
    package var originalTypes: [String: String]
    /// Those tensors as they are in the file, when ``ReadLimits/keepsElementTypes`` asks for them.
    package var originals: [String: TensorContent] = [:]
    /// Keys such as `state_dict` that the tensors stood under.
    package var wrapper: [String] = []
    /// The prefix such as `module.` that every name had and that was taken off; empty if none.
    package var strippedPrefix: String = ""
    /// Entries that are not weights.
    package var ignored: [IgnoredEntry] = []

    /// The tensors in the order of the file, with its element types as far as they were kept.
    package var contents: [(name: String, content: TensorContent)] {
        state.map { ($0.name, originals[$0.name] ?? TensorContent($0.tensor)) }
    }

    /// What was found and done, a line each, for a log.
    package var notes: [String] {
        var notes = ["\(container.rawValue), \(state.count) tensors, \(state.elementCount) elements"]
        if !wrapper.isEmpty { notes.append("tensors under \(wrapper.joined(separator: "."))") }
        if !strippedPrefix.isEmpty { notes.append("prefix \(strippedPrefix) taken off every name") }
        for type in Set(originalTypes.values).sorted() {
            let count = originalTypes.count { $0.value == type && originals[$0.key] == nil }
            guard count > 0 else { continue }
            let target = ElementType(rawValue: type)?.isFloatingPoint == true ? "float32" : "int64"
            notes.append("\(count) tensors converted from \(type) to \(target)")
        }
        if !ignored.isEmpty {
            let shown = ignored.prefix(8).map { "\($0.name) (\($0.description))" }.joined(separator: ", ")
            notes.append("not weights: \(shown)" + (ignored.count > 8 ? " and \(ignored.count - 8) more" : ""))
        }
        return notes
    }
}

extension LoadedCheckpoint {
    /// Makes what a safetensors file of these tensors and texts would be.
    package init(state: StateDictionary, metadata: [String: String]) {
        self.init(state: state, metadata: metadata, container: .safetensors, originalTypes: [:])
    }
}

/// Reads weights from any of the known kinds of files.
package enum CheckpointReader {
    /// Reads a file, whatever its name: the content says what it is.
    ///
    /// Nothing in the file is ever executed. Memory is taken in proportion to the size of the file and not to what
    /// the file claims.
    ///
    /// - Throws: `CheckpointError`, for every kind of damaged or hostile file too.
    package static func load(
        _ path: String, limits: ReadLimits = .standard
    ) throws(CheckpointError) -> LoadedCheckpoint {
        try load(try ByteSource(path: path), limits: limits)
    }

    /// Reads a file that is already in memory; `name` stands for it in errors.
    package static func load(
        bytes: [UInt8], name: String, limits: ReadLimits = .standard
    ) throws(CheckpointError) -> LoadedCheckpoint {
        try load(ByteSource(name: name, memory: bytes), limits: limits)
    }

    private static func load(
        _ source: ByteSource, limits: ReadLimits
    ) throws(CheckpointError) -> LoadedCheckpoint {
        let start = try source.bytes(at: 0, count: min(source.count, TarArchive.blockByteCount), what: "first bytes")
        if ZipArchive.recognizes(start) {
            let archive = try ZipArchive(source, limits: limits)
            if let root = TorchZip.root(of: archive) {
                return try TorchZip.load(archive, root: root, limits: limits)
            }
            if archive.entries.allSatisfy({ $0.name.hasSuffix(".npy") }), !archive.entries.isEmpty {
                return withoutCommonPrefixes(try NumpyFile.loadState(archive, limits: limits))
            }
            let names = archive.entries.prefix(3).map(\.name).joined(separator: ", ")
            throw .unknownFormat(
                file: source.name, found: "a zip with \(names.isEmpty ? "no entries" : "the entries \(names)")")
        }
        if NumpyFile.recognizes(start) {
            return withoutCommonPrefixes(try NumpyFile.loadState(source, limits: limits))
        }
        if TarArchive.recognizes(start) { return try TorchTar.load(source, limits: limits) }
        // Before pickles: a header of 128 or 384 bytes begins as they do, and no pickle has zeros and a brace there.
        if Safetensors.recognizes(start) {
            return withoutCommonPrefixes(try Safetensors.load(source, limits: limits))
        }
        // A pickle of protocol 2 or later.
        if start.first == 0x80 { return try TorchLegacy.load(source, limits: limits) }
        throw .unknownFormat(file: source.name, found: describe(start))
    }

    /// The same tensors without prefixes such as `module.` that every name has; pickles lose theirs while they are read.
    private static func withoutCommonPrefixes(_ checkpoint: LoadedCheckpoint) -> LoadedCheckpoint {
        let (names, stripped) = StateExtraction.withoutCommonPrefixes(checkpoint.state.names)
        guard !stripped.isEmpty else { return checkpoint }
        var result = checkpoint
        result.state = StateDictionary(zip(names, checkpoint.state).map { ($0, $1.tensor) })
        result.originalTypes = Dictionary(
            uniqueKeysWithValues: checkpoint.originalTypes.map { (String($0.key.dropFirst(stripped.count)), $0.value) })
        result.originals = Dictionary(
            uniqueKeysWithValues: checkpoint.originals.map { (String($0.key.dropFirst(stripped.count)), $0.value) })
        result.strippedPrefix = stripped
        return result
    }

    /// What an unknown file looks like.
    private static func describe(_ start: [UInt8]) -> String {
        func begins(_ text: String) -> Bool { start.starts(with: text.utf8) }
        if start.isEmpty { return "an empty file" }
        if begins("version https://git-lfs") { return "a Git LFS pointer (fetch the file itself with git lfs pull)" }
        let text = String(decoding: start.prefix(64), as: UTF8.self).lowercased()
        if text.contains("<html") || text.contains("<!doctype") || text.contains("<?xml") {
            return "a web page (the download went wrong)"
        }
        if start.starts(with: [0x1F, 0x8B]) { return "gzip data (unpack it first)" }
        if start.starts(with: [0x89, 0x48, 0x44, 0x46]) { return "an HDF5 file" }
        return "the bytes \(hexadecimal(start.prefix(8)))"
    }
}
