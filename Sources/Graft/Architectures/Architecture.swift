import GraftGraph
import GraftTensor
import GraftVision

/// A network family's member: a name, a graph for any class count, and what belongs to it.
///
/// Names and parameter paths are torchvision's, verbatim. See the article "Adding an architecture".
public struct Architecture: Sendable {
    /// torchvision's name, for example `resnet18`; `resnet20_cifar` for the CIFAR networks.
    public let name: String
    /// The family, for example `ResNet`.
    public let family: String
    /// The module that makes the class scores, for example `fc`: what `replaceHead` replaces and `head` selects.
    public let headName: String
    /// Side of the square images it was designed for.
    public let imageSize: Int
    /// Classes of the published weights.
    public let classCount: Int
    /// The published table or paper of the architecture.
    public let source: String
    /// The shorter side before the centre crop, as the published weights were evaluated; nil is 256/224 of the image
    /// size, or the image size itself for networks of small pictures.
    public internal(set) var resize: Int?
    /// How pictures are resized for the published weights.
    public internal(set) var interpolation = Interpolation.bilinear
    /// What fresh parameters start from.
    var initialization = Initialization.Rule.resNet

    let build: @Sendable (_ classCount: Int) -> Graph

    /// The graph with a head of `classCount` classes.
    func graph(classCount: Int) -> Graph { build(classCount) }

    /// Every architecture, by family and size.
    public static let all: [Architecture] =
        resNets + vggs + alexNets + squeezeNets + mobileNetV2s + mobileNetV3s + denseNets + efficientNets + regNets
        + cifarResNets

    /// The architecture of a name.
    ///
    /// - Throws: ``GraftError/unknownModel(_:near:)`` with the names most like it.
    public static func named(_ name: String) throws(GraftError) -> Architecture {
        guard let found = all.first(where: { $0.name == name }) else {
            throw GraftError.unknownModel(name, near: nearMatches(to: name, in: all.map(\.name)))
        }
        return found
    }

    /// Number of parameters that gradients can train, for a class count.
    public func parameterCount(classCount: Int) -> Int {
        graph(classCount: classCount).parameters.filter(\.role.isTrainable).reduce(0) { $0 + $1.shape.elementCount }
    }
}

extension Architecture {
    /// A tensor of the state dictionary.
    public struct TensorDescription: Sendable, Hashable {
        /// torchvision's name.
        public let name: String
        /// The extents.
        public let shape: Shape
        /// Whether gradients can train it; running statistics and counters are not.
        public let isTrainable: Bool
    }

    /// The tensors of the state dictionary in PyTorch's order; nil takes the architecture's own class count.
    public func stateDescription(classCount: Int? = nil) -> [TensorDescription] {
        graph(classCount: classCount ?? self.classCount).parameters.map {
            TensorDescription(name: $0.name, shape: $0.shape, isTrainable: $0.role.isTrainable)
        }
    }
}
