import Foundation
import GraftCheckpoint
import GraftVision

/// What becomes of a layer's maps before they are written.
public enum FeaturePooling: String, Sendable, Hashable, CaseIterable {
    /// `[N, C, H, W]` as it is.
    case none
    /// The mean over height and width: `[N, C]`.
    case average
    /// The largest value over height and width: `[N, C]`.
    case max
}

/// Which network made features, and from what kind of picture: enough to make more of the same, and to refuse others.
public struct FeatureOrigin: Sendable, Hashable {
    /// The architecture's name.
    public let architecture: String
    /// SHA-256 over all tensors of the network, see ``Model/digest()``.
    public let digest: String
    /// How pictures became the network's input.
    public let preprocessing: ImagePreprocessing
    /// What became of maps.
    public let pooling: FeaturePooling

    private static let poolingKey = "pool"

    /// The origin of features of a model.
    ///
    /// - Throws: an error of libcrypto.
    public init(_ model: Model, pooling: FeaturePooling = .none) throws {
        architecture = model.architecture.name
        digest = try model.digest()
        preprocessing = model.preprocessing
        self.pooling = pooling
    }

    /// Reads what a file carries; nil when it says nothing of a network.
    init?(_ entries: [String: String], path: String) throws {
        let metadata = ModelMetadata(entries)
        guard let architecture = metadata.architecture, let digest = metadata.digest else { return nil }
        guard let preprocessing = try metadata.preprocessing(path: path) else { return nil }
        guard let pooling = FeaturePooling(rawValue: entries[Self.poolingKey] ?? FeaturePooling.none.rawValue) else {
            throw GraftError.badFeatures(
                "the metadata of \(path) say \(Self.poolingKey) = \"\(entries[Self.poolingKey] ?? "")\", expected "
                    + FeaturePooling.allCases.map(\.rawValue).joined(separator: ", "))
        }
        self.architecture = architecture
        self.digest = digest
        self.preprocessing = preprocessing
        self.pooling = pooling
    }

    /// What a file carries.
    var entries: [String: String] {
        var entries = ModelMetadata.entries(architecture: architecture, preprocessing: preprocessing, digest: digest)
        entries[Self.poolingKey] = pooling.rawValue
        return entries
    }
}

extension ImageDataset {
    /// SHA-256 over paths and labels in order: whether two lists of pictures are the same.
    ///
    /// - Throws: an error of libcrypto.
    public func listDigest() throws -> String {
        let digest = SHA256Digest()
        for sample in samples { digest.update("\(sample.path)\0\(sample.label)\n") }
        return try digest.hex()
    }
}
