import Foundation
import GraftTensor
import GraftVision

/// What a weights file says about itself in safetensors' `__metadata__`.
struct ModelMetadata {
    enum Key {
        static let architecture = "architecture"
        static let classNames = "class_names"
        static let imageSize = "image_size"
        static let resize = "resize"
        static let interpolation = "interpolation"
        static let mean = "mean"
        static let deviation = "std"
        static let exif = "exif"
        static let digest = "sha256_of_tensors"
    }

    /// The texts of the file.
    let entries: [String: String]

    init(_ entries: [String: String]) { self.entries = entries }

    /// What a model's file shall say.
    init(_ model: Model, digest: String) throws {
        var entries = Self.entries(
            architecture: model.architecture.name, preprocessing: model.preprocessing, digest: digest)
        entries["format"] = "pt"
        if let names = model.classNames {
            let data = try JSONSerialization.data(withJSONObject: names)
            entries[Key.classNames] = String(decoding: data, as: UTF8.self)
        }
        self.entries = entries
    }

    /// What a network's files have in common.
    static func entries(architecture: String, preprocessing: ImagePreprocessing, digest: String) -> [String: String] {
        func list(_ values: [Float]) -> String { values.map { "\($0)" }.joined(separator: ",") }
        return [
            Key.architecture: architecture,
            Key.imageSize: String(preprocessing.imageSize),
            Key.resize: preprocessing.resize.map(String.init) ?? "stretch",
            Key.interpolation: preprocessing.interpolation.rawValue,
            Key.mean: list(preprocessing.mean),
            Key.deviation: list(preprocessing.standardDeviation),
            Key.exif: preprocessing.exif.rawValue,
            Key.digest: digest,
        ]
    }

    /// SHA-256 over the tensors.
    var digest: String? { entries[Key.digest] }

    var architecture: String? { entries[Key.architecture] }

    /// A JSON array of names.
    var classNames: [String]? {
        guard let text = entries[Key.classNames] else { return nil }
        return (try? JSONSerialization.jsonObject(with: Data(text.utf8))) as? [String]
    }

    /// What the file carries, or nil when it says nothing.
    ///
    /// - Throws: ``GraftError/weightsMismatch(_:)`` for values that make no preprocessing.
    func preprocessing(path: String) throws -> ImagePreprocessing? {
        guard let size = entries[Key.imageSize] else { return nil }
        func fail(_ key: String) -> GraftError {
            .weightsMismatch(
                "the metadata of \(path) say \(key) = \"\(entries[key] ?? "")\", which makes no preprocessing")
        }
        func numbers(_ key: String) throws -> [Float] {
            let parts = (entries[key] ?? "").split(separator: ",")
            let values = parts.compactMap { Float($0) }
            guard values.count == parts.count else { throw fail(key) }
            return values
        }
        guard let imageSize = Int(size) else { throw fail(Key.imageSize) }
        let resize: Int?
        switch entries[Key.resize] {
        case "stretch", nil: resize = nil
        case .some(let text):
            guard let side = Int(text) else { throw fail(Key.resize) }
            resize = side
        }
        guard let interpolation = Interpolation(rawValue: entries[Key.interpolation] ?? Interpolation.bilinear.rawValue)
        else {
            throw fail(Key.interpolation)
        }
        guard let exif = ExifPolicy(rawValue: entries[Key.exif] ?? ExifPolicy.apply.rawValue) else {
            throw fail(Key.exif)
        }
        do {
            return try ImagePreprocessing(
                imageSize: imageSize, resize: resize, interpolation: interpolation, mean: numbers(Key.mean),
                standardDeviation: numbers(Key.deviation), exif: exif)
        } catch let error as ImagePreprocessing.InvalidValue {
            throw GraftError.weightsMismatch("the metadata of \(path): \(error)")
        }
    }
}
