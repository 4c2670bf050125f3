import Foundation
import GraftCheckpoint
import GraftTensor

/// Writes features of many images to one file, batch by batch. The file appears under its name with ``finish()``.
///
/// `.npz` holds one float32 array per layer (`[N, C, H, W]`, or `[N, C]` where maps are pooled), `labels` (int64),
/// `paths`, `classes` (texts) and, where the network is known, `metadata` (one text, JSON). `.npy` holds the array of one
/// layer, `.safetensors` one tensor per layer and `labels`, with paths, classes and the rest in the metadata. `.csv` has a
/// row per image: path, label, class and the flattened features. Whatever the format, features wait on the disk and not in
/// memory.
public final class FeatureWriter {
    /// What a file's extension says.
    public enum Format: String, Sendable, CaseIterable {
        /// NumPy's archive of arrays.
        case npz
        /// One NumPy array.
        case npy
        /// Text, one row per image.
        case csv
        /// safetensors.
        case safetensors

        /// The format of a path.
        ///
        /// - Throws: ``GraftError/invalidArgument(_:)`` for another extension, and for several layers in one `.npy`.
        public init(path: String, layerCount: Int) throws(GraftError) {
            let name = path.split(separator: "/").last ?? ""
            let ending = name.split(separator: ".").last.map { $0.lowercased() } ?? ""
            guard name.contains("."), let format = Format(rawValue: ending) else {
                throw .invalidArgument(
                    "\(path) ends in none of .npz, .npy, .csv, .safetensors, by which the format is chosen")
            }
            guard format != .npy || layerCount == 1 else {
                throw .invalidArgument(
                    "a .npy file holds one array and \(layerCount) layers were asked for; write \(path) as .npz instead"
                )
            }
            self = format
        }
    }

    /// Name of the text that says which network made the features.
    static let metadataName = "metadata"

    /// The file.
    public let path: String
    /// Its format.
    public let format: Format
    private let layers: [String]
    private let classes: [String]
    private let origin: FeatureOrigin?
    private let log: FeatureLog

    /// Begins a file, or says at once that it cannot be written.
    ///
    /// - Parameters:
    ///   - path: its extension decides the format.
    ///   - layers: the layers, in the order of the file.
    ///   - classes: names that labels point to.
    ///   - origin: which network the features are from; `.npz` and `.safetensors` keep it.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for an unknown extension, ``GraftError/outputFailed(_:)``.
    public convenience init(
        _ path: String, layers: [String], classes: [String], origin: FeatureOrigin? = nil
    ) throws {
        try self.init(path, layers: layers, classes: classes, origin: origin) { () throws(GraftError) -> FeatureLog in
            try FeatureLog(besides: path, layers: layers)
        }
    }

    /// Begins a file whose work is kept in `PATH.partial` when it is interrupted, or goes on with such work.
    ///
    /// - Parameters:
    ///   - path: its extension decides the format.
    ///   - layers: the layers, in the order of the file.
    ///   - classes: names that labels point to.
    ///   - origin: which network the features are from.
    ///   - request: everything else that the features depend on, by name: work for another request is refused.
    ///   - resumes: whether to go on with what is there; otherwise it is begun anew.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for an unknown extension, for the work of another request, and while
    ///   another process writes it; ``GraftError/outputFailed(_:)``.
    public convenience init(
        _ path: String, layers: [String], classes: [String], origin: FeatureOrigin, request: [String: String],
        resumes: Bool
    ) throws {
        var request = request.merging(origin.entries) { own, _ in own }
        request["layers"] = layers.joined(separator: ",")
        request["classes"] = classes.joined(separator: ",")
        let complete = request
        try self.init(path, layers: layers, classes: classes, origin: origin) { () throws(GraftError) -> FeatureLog in
            try FeatureLog(besides: path, layers: layers, request: complete, resumes: resumes)
        }
    }

    private init(
        _ path: String, layers: [String], classes: [String], origin: FeatureOrigin?,
        log: () throws(GraftError) -> FeatureLog
    ) throws {
        format = try Format(path: path, layerCount: layers.count)
        self.path = path
        self.layers = layers
        self.classes = classes
        self.origin = origin
        let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
        guard FileManager.default.isWritableFile(atPath: folder) else {
            throw GraftError.outputFailed(
                "\(path) cannot be written: the folder \(folder) does not exist or is not writable; choose another --out"
            )
        }
        self.log = try log()
    }

    /// Images so far, those of the interrupted work included.
    public var imageCount: Int { log.rowCount }

    /// The first batch that is still to be made.
    public var nextBatch: Int { log.nextBatch }

    /// The shape of a layer's array so far; nil before the first batch.
    public func shape(of layer: String) -> Shape? {
        log.rowShapes[layer].map { Shape([log.rowCount] + $0.dimensions) }
    }

    /// Where work is kept until ``finish()``; nil where an interruption loses it.
    public var partialPath: String? { log.path }

    /// Whether interrupted work for a file lies beside it.
    public static func hasPartialWork(for path: String) -> Bool { FeatureLog.exists(for: path) }

    /// Adds a batch.
    ///
    /// - Parameters:
    ///   - features: by layer, float32 with N as the first extent.
    ///   - labels: N class numbers.
    ///   - paths: N names.
    ///   - batch: its position in the whole; nil takes the next one.
    /// - Throws: ``GraftError/invalidArgument(_:)`` when shapes do not agree, errors of writing.
    public func append(
        _ features: [String: HostTensor], labels: [Int32], paths: [String], batch: Int? = nil
    ) throws {
        try log.append(features, batch: batch ?? log.nextBatch, labels: labels, paths: paths)
    }

    /// Puts the file in its place.
    ///
    /// - Throws: errors of writing; an older file of this name is then as it was.
    public func finish() throws {
        switch format {
        case .npz: try finishArchive()
        case .npy:
            let writer = try NumpyArchiveWriter(arrayPath: path)
            try writer.beginFloats("array", shape: shape(of: layers[0]) ?? [0])
            try log.forEachPiece(of: layers[0]) { try writer.append($0) }
            try writer.finish()
        case .safetensors: try finishSafetensors()
        case .csv: try finishTable()
        }
        log.remove()
    }

    private func finishArchive() throws {
        let writer = try NumpyArchiveWriter(path: path)
        for layer in layers {
            guard let shape = shape(of: layer) else { continue }
            try writer.beginFloats(layer, shape: shape)
            try log.forEachPiece(of: layer) { try writer.append($0) }
        }
        try writer.beginIntegers("labels", shape: [log.rowCount])
        try log.forEachBatch(withRows: false) { labels, _, _ in try writer.append(labels) }
        try writer.beginTexts("paths", shape: [log.rowCount], width: log.longestPath)
        try log.forEachBatch(withRows: false) { _, paths, _ in try writer.append(paths) }
        try writer.add("classes", NumpyArray(classes))
        if let origin {
            try writer.add(
                Self.metadataName, NumpyArray(shape: [], storage: .strings([try json(origin.entries)])))
        }
        try writer.finish()
    }

    private func finishSafetensors() throws {
        var paths: [String] = []
        try log.forEachBatch(withRows: false) { _, batch, _ in paths += batch }
        var metadata = origin?.entries ?? [:]
        metadata["paths"] = try json(paths)
        metadata["classes"] = try json(classes)
        var tensors = layers.map {
            Safetensors.Description(name: $0, type: .f32, shape: shape(of: $0) ?? [0])
        }
        tensors.append(Safetensors.Description(name: "labels", type: .i64, shape: [log.rowCount]))
        let writer = try SafetensorsWriter(path: path, tensors: tensors, metadata: metadata)
        for tensor in writer.order {
            if tensor.type == .i64 {
                try log.forEachBatch(withRows: false) { labels, _, _ in try writer.append(labels) }
            } else {
                try log.forEachPiece(of: tensor.name) { try writer.append($0) }
            }
        }
        try writer.finish()
    }

    private func finishTable() throws {
        let table = try AtomicFile(path: path)
        let widths = layers.map { log.rowShapes[$0]?.elementCount ?? 0 }
        let columns = zip(layers, widths).flatMap { layer, width in (0..<width).map { quoted("\(layer)[\($0)]") } }
        try table.write((["path", "label", "class"] + columns).joined(separator: ",") + "\n")
        try log.forEachBatch(withRows: true) { labels, paths, rows in
            for (row, label) in labels.enumerated() {
                let name = classes.indices.contains(Int(label)) ? classes[Int(label)] : ""
                var line = "\(quoted(paths[row])),\(label),\(quoted(name))"
                for (values, width) in zip(rows, widths) {
                    for value in values[row * width..<(row + 1) * width] { line += ",\(value)" }
                }
                try table.write(line + "\n")
            }
        }
        try table.commit()
    }

    private func json(_ value: some Encodable) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        return String(decoding: try encoder.encode(value), as: UTF8.self)
    }

    /// A field as RFC 4180 has it.
    private func quoted(_ text: String) -> String {
        guard text.contains(where: { ",\"\n\r".contains($0) }) else { return text }
        return "\"" + text.replacingOccurrences(of: "\"", with: "\"\"") + "\""
    }
}
