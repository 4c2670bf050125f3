import Foundation
import GraftCheckpoint
import GraftTensor

/// Writes features of many images to one file, batch by batch. The file appears under its name with ``finish()``.
///
/// `.npz` holds one float32 array per layer (`[N, C, H, W]`), `labels` (int64), `paths` and `classes` (texts); features
/// wait on the disk, not in memory. `.npy` holds the array of one layer, `.safetensors` one tensor per layer and
/// `labels`, with paths and classes as JSON in the metadata; both gather in memory. `.csv` has a row per image: path,
/// label, class and the flattened features.
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

    /// The file.
    public let path: String
    /// Its format.
    public let format: Format
    private let layers: [String]
    private let classes: [String]
    private var labels: [Int64] = []
    private var paths: [String] = []
    private var rowShapes: [String: Shape] = [:]
    private var spools: [String: FloatRowSpool] = [:]
    private var gathered: [String: [Float]] = [:]
    private var table: AtomicFile?

    /// Begins a file, or says at once that it cannot be written.
    ///
    /// - Parameters:
    ///   - path: its extension decides the format.
    ///   - layers: the layers, in the order of the file.
    ///   - classes: names that labels point to.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for an unknown extension, ``GraftError/outputFailed(_:)``.
    public init(_ path: String, layers: [String], classes: [String]) throws {
        format = try Format(path: path, layerCount: layers.count)
        self.path = path
        self.layers = layers
        self.classes = classes
        let folder = URL(fileURLWithPath: path).deletingLastPathComponent().path
        guard FileManager.default.isWritableFile(atPath: folder) else {
            throw GraftError.outputFailed(
                "\(path) cannot be written: the folder \(folder) does not exist or is not writable; choose another --out"
            )
        }
        if format == .csv { table = try AtomicFile(path: path) }
    }

    /// Adds a batch.
    ///
    /// - Parameters:
    ///   - features: by layer, float32 with N as the first extent.
    ///   - labels: N class numbers.
    ///   - paths: N names.
    /// - Throws: ``GraftError/invalidArgument(_:)`` when shapes do not agree, errors of writing.
    public func append(_ features: [String: HostTensor], labels: [Int32], paths: [String]) throws {
        for layer in layers {
            guard let tensor = features[layer], let values = tensor.floats, tensor.shape.rank > 0,
                tensor.shape[0] == labels.count, paths.count == labels.count
            else {
                throw GraftError.invalidArgument(
                    "the features of \(layer) have shape \(features[layer]?.shape.description ?? "none") for \(labels.count) labels and \(paths.count) paths"
                )
            }
            let row = Shape(Array(tensor.shape.dimensions.dropFirst()))
            guard rowShapes[layer, default: row] == row else {
                throw GraftError.invalidArgument("the features of \(layer) change their shape to \(row)")
            }
            if rowShapes[layer] == nil {
                rowShapes[layer] = row
                if format == .npz { spools[layer] = try FloatRowSpool(besides: path, rowShape: row) }
            }
            switch format {
            case .npz: try spools[layer]?.append(values)
            case .npy, .safetensors: gathered[layer, default: []] += values
            case .csv: break
            }
        }
        if let table { try write(features, labels, paths, to: table) }
        self.labels += labels.map(Int64.init)
        self.paths += paths
    }

    /// Puts the file in its place.
    ///
    /// - Throws: errors of writing; an older file of this name is then as it was.
    public func finish() throws {
        switch format {
        case .npz:
            let writer = try NumpyArchiveWriter(path: path)
            for layer in layers {
                if let spool = spools[layer] { try writer.add(layer, spool) }
            }
            try writer.add("labels", NumpyArray(labels))
            try writer.add("paths", NumpyArray(paths))
            try writer.add("classes", NumpyArray(classes))
            try writer.finish()
        case .npy:
            try NumpyArchiveWriter.writeArray(NumpyArray(tensor(layers[0])), to: path)
        case .safetensors:
            var state = StateDictionary(layers.map { ($0, tensor($0)) })
            state["labels"] = HostTensor(shape: [labels.count], storage: .int64(labels))
            try Safetensors.write(state, metadata: ["paths": json(paths), "classes": json(classes)], to: path)
        case .csv: try table?.commit()
        }
    }

    private func tensor(_ layer: String) -> HostTensor {
        let row = rowShapes[layer]?.dimensions ?? []
        return HostTensor(Shape([labels.count] + row), gathered[layer] ?? [])
    }

    private func json(_ texts: [String]) throws -> String {
        String(decoding: try JSONEncoder().encode(texts), as: UTF8.self)
    }

    private func write(
        _ features: [String: HostTensor], _ labels: [Int32], _ paths: [String], to table: AtomicFile
    ) throws {
        if self.labels.isEmpty {
            let columns = layers.flatMap { layer in
                (0..<(rowShapes[layer]?.elementCount ?? 0)).map { quoted("\(layer)[\($0)]") }
            }
            try table.write((["path", "label", "class"] + columns).joined(separator: ",") + "\n")
        }
        for (row, label) in labels.enumerated() {
            let name = classes.indices.contains(Int(label)) ? classes[Int(label)] : ""
            var line = "\(quoted(paths[row])),\(label),\(quoted(name))"
            for layer in layers {
                let width = rowShapes[layer]?.elementCount ?? 0
                guard let values = features[layer]?.floats else { continue }
                for value in values[row * width..<(row + 1) * width] { line += ",\(value)" }
            }
            try table.write(line + "\n")
        }
    }

    /// A field as RFC 4180 has it.
    private func quoted(_ text: String) -> String {
        guard text.contains(where: { ",\"\n\r".contains($0) }) else { return text }
        return "\"" + text.replacingOccurrences(of: "\"", with: "\"\"") + "\""
    }
}
