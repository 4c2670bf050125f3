import Foundation
import GraftCheckpoint
import GraftTensor

/// Labelled features of one layer: a row of numbers for each image.
///
/// ```swift
/// let table = try FeatureTable("features.npz", layer: "avgpool")
/// let probe = try Probe(fitting: table)
/// ```
public struct FeatureTable: Sendable {
    /// The layer, as torchvision names it.
    public let layer: String
    /// Numbers of a row.
    public let width: Int
    /// The rows, one behind the other.
    public let values: [Float]
    /// The class of each row.
    public let labels: [Int32]
    /// Names that labels point to.
    public let classNames: [String]
    /// Which network the features are from; nil where that is unknown.
    public let origin: FeatureOrigin?
    /// Where the features come from, for messages.
    public let source: String

    /// Rows.
    public var count: Int { labels.count }

    private static let labelsName = "labels"
    private static let notLayers: Set = [labelsName, "paths", "classes", FeatureWriter.metadataName]

    /// Takes features that are in memory.
    ///
    /// - Parameters:
    ///   - features: float32 `[N, …]`; the rows are flattened.
    ///   - labels: N class numbers from 0.
    ///   - classNames: names that labels point to; nil names classes by their numbers.
    ///   - layer: the layer's name.
    ///   - origin: which network the features are from.
    ///   - source: where they come from, for messages.
    /// - Throws: ``GraftError/badFeatures(_:)`` when counts differ, a label has no class, there is nothing, or a number
    ///   is not finite.
    public init(
        features: HostTensor, labels: [Int32], classNames: [String]? = nil, layer: String = "features",
        origin: FeatureOrigin? = nil, source: String = "the features"
    ) throws(GraftError) {
        guard let values = features.floats, let count = features.shape.dimensions.first, count > 0, !values.isEmpty
        else {
            throw .badFeatures(
                "\(source): \(layer) has shape \(features.shape), expected float32 [N, …] with N above 0")
        }
        guard labels.count == count else {
            throw .badFeatures("\(source): \(layer) has \(count) rows, and there are \(labels.count) labels")
        }
        let names = classNames ?? (0...Int(max(labels.max() ?? 0, 0))).map(String.init)
        if let row = labels.firstIndex(where: { $0 < 0 || Int($0) >= names.count }) {
            throw .badFeatures(
                "\(source): label \(labels[row]) of row \(row) is not among the \(names.count) classes, counted from 0")
        }
        let width = values.count / count
        if let position = values.firstIndex(where: { !$0.isFinite }) {
            throw .badFeatures(
                "\(source): \(layer) holds \(values[position]) in row \(position / width), column \(position % width); "
                    + "nothing can be fitted to that: extract the features again from weights and images that are whole"
            )
        }
        self.layer = layer
        self.width = width
        self.values = values
        self.labels = labels
        self.classNames = names
        self.origin = origin
        self.source = source
    }

    /// Reads what `graft extract` writes: `.npz` or `.safetensors`, told apart by content; or arrays of the same names.
    ///
    /// - Parameters:
    ///   - path: the file.
    ///   - layer: which layer; nil takes the only one.
    /// - Throws: ``GraftError/badFeatures(_:)``, ``GraftError/invalidArgument(_:)`` for a layer that is not there or,
    ///   among several, not named; `CheckpointError`.
    public init(_ path: String, layer: String? = nil) throws {
        let content = try Content(path)
        let layers = content.tensors.names.filter { name in
            !Self.notLayers.contains(name) && content.tensors[name]?.floats != nil
        }
        guard !layers.isEmpty else {
            throw GraftError.badFeatures(
                "\(path) holds no float32 features: found \(content.names.joined(separator: ", ")); "
                    + "`graft extract … --out F.npz` writes some")
        }
        let name: String
        if let layer {
            guard layers.contains(layer) else {
                let near = nearMatches(to: layer, in: layers)
                throw GraftError.invalidArgument(
                    "\(path) has no layer \(layer)\(near.first.map { " (did you mean \($0)?)" } ?? ""); it has "
                        + layers.joined(separator: ", "))
            }
            name = layer
        } else if layers.count == 1 {
            name = layers[0]
        } else {
            throw GraftError.invalidArgument(
                "\(path) holds \(layers.count) layers; name one with --layer: \(layers.joined(separator: ", "))")
        }
        guard let features = content.tensors[name], let labels = content.labels else {
            throw GraftError.badFeatures(
                "\(path) has no labels, or none that are whole numbers: expected an int64 array \"\(Self.labelsName)\", "
                    + "a class number from 0 for each row, as `graft extract` writes it")
        }
        guard labels.allSatisfy({ Int32(exactly: $0) != nil }) else {
            throw GraftError.badFeatures("\(path): labels beyond 32 bits are no class numbers")
        }
        try self.init(
            features: features, labels: labels.map { Int32(truncatingIfNeeded: $0) }, classNames: content.classes,
            layer: name, origin: try FeatureOrigin(content.metadata, path: path), source: path)
    }

    /// Some of the rows, in that order.
    func subset(_ rows: [Int]) -> FeatureTable {
        var chosen: [Float] = []
        chosen.reserveCapacity(rows.count * width)
        for row in rows { chosen += values[row * width..<(row + 1) * width] }
        return FeatureTable(self, values: chosen, labels: rows.map { labels[$0] })
    }

    private init(_ other: FeatureTable, values: [Float], labels: [Int32]) {
        layer = other.layer
        width = other.width
        self.values = values
        self.labels = labels
        classNames = other.classNames
        origin = other.origin
        source = other.source
    }

    /// What a features file holds, whatever its kind.
    private struct Content {
        var names: [String]
        var tensors = StateDictionary()
        var labels: [Int64]?
        var classes: [String]?
        var metadata: [String: String] = [:]

        init(_ path: String) throws {
            if let start = FileManager.default.contents(ofFile: path, upTo: 2), start == Array("PK".utf8) {
                let archive = try NumpyFile.read(path)
                names = archive.names
                for name in archive.names { tensors[name] = archive[name]?.tensor }
                labels = archive[FeatureTable.labelsName]?.integers
                classes = archive["classes"]?.strings
                if let text = archive[FeatureWriter.metadataName]?.strings?.first {
                    metadata = try Self.decode([String: String].self, text, what: "metadata", path: path)
                }
                return
            }
            let checkpoint = try CheckpointReader.load(path)
            guard checkpoint.container == .safetensors else {
                throw GraftError.badFeatures(
                    "\(path) is a \(checkpoint.container.rawValue) file; features with their labels come as .npz or "
                        + ".safetensors, as `graft extract` writes them")
            }
            names = checkpoint.state.names
            tensors = checkpoint.state
            labels = checkpoint.state[FeatureTable.labelsName]?.int64s
            metadata = checkpoint.metadata
            if let text = checkpoint.metadata["classes"] {
                classes = try Self.decode([String].self, text, what: "classes", path: path)
            }
        }

        private static func decode<Value: Decodable>(
            _ type: Value.Type, _ text: String, what: String, path: String
        ) throws -> Value {
            do {
                return try JSONDecoder().decode(type, from: Data(text.utf8))
            } catch {
                throw GraftError.badFeatures(
                    "\(path): its \(what) are \"\(text.prefix(60))\", expected JSON as `graft extract` writes it")
            }
        }
    }
}

extension FileManager {
    /// The first bytes of a file; nil when it cannot be read.
    fileprivate func contents(ofFile path: String, upTo count: Int) -> [UInt8]? {
        guard let handle = FileHandle(forReadingAtPath: path) else { return nil }
        defer { try? handle.close() }
        return (try? handle.read(upToCount: count)).map { Array($0) }
    }
}
