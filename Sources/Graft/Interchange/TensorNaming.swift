import GraftTensor

/// Whose names a state dictionary's tensors have. Graft's own are torchvision's.
///
/// timm names ResNet's and DenseNet's tensors as torchvision does. Its VGG has convolutions where torchvision has
/// linear layers: `pre_logits.fc1`, `pre_logits.fc2` and `head.fc` for `classifier.0`, `classifier.3` and
/// `classifier.6`, with the first weight as `[4096, 512, 7, 7]`.
public enum TensorNaming: String, Sendable, CaseIterable {
    case torchvision, timm

    /// Modules of VGG's classifier: torchvision's name, timm's, and the side of timm's kernel; nil for a linear layer.
    private static let vggModules: [(torchvision: String, timm: String, kernel: Int?)] = [
        ("classifier.0", "pre_logits.fc1", 7), ("classifier.3", "pre_logits.fc2", 1), ("classifier.6", "head.fc", nil),
    ]

    /// The family whose names differ, told by its tensors.
    private static func isVGG(_ names: Set<String>, in naming: TensorNaming) -> Bool {
        names.contains("features.0.weight")
            && vggModules.allSatisfy { names.contains((naming == .timm ? $0.timm : $0.torchvision) + ".weight") }
    }

    /// New names and shapes for tensors, in their order; nil when they have this naming already.
    ///
    /// - Throws: ``GraftError/weightsMismatch(_:)`` when timm's names are asked for and none are known for such tensors.
    func renaming(_ tensors: [(name: String, shape: Shape)], source: String) throws(GraftError) -> [(
        name: String, shape: Shape
    )]? {
        let names = Set(tensors.map(\.name))
        let opposite: TensorNaming = self == .timm ? .torchvision : .timm
        guard Self.isVGG(names, in: opposite) else {
            let isShared = names.contains("layer1.0.conv1.weight") || names.contains("features.conv0.weight")
            guard self == .torchvision || isShared || Self.isVGG(names, in: self) else {
                throw .weightsMismatch(
                    "\(source): timm's names are known for ResNet, DenseNet and VGG; the file's tensors begin with "
                        + names.sorted().prefix(4).joined(separator: ", ") + "; leave --names out to keep the names")
            }
            return nil
        }
        var result: [(name: String, shape: Shape)] = []
        for (name, shape) in tensors {
            guard
                let module = Self.vggModules.first(where: {
                    name.hasPrefix((self == .timm ? $0.torchvision : $0.timm) + ".")
                })
            else {
                result.append((name, shape))
                continue
            }
            let suffix = name.dropFirst((self == .timm ? module.torchvision : module.timm).count)
            let newName = (self == .timm ? module.timm : module.torchvision) + suffix
            guard suffix == ".weight", let kernel = module.kernel else {
                result.append((newName, shape))
                continue
            }
            switch self {
            case .torchvision:
                guard shape.rank == 4, shape[2] == kernel, shape[3] == kernel else {
                    throw .weightsMismatch(
                        "\(source): \(name) has shape \(shape), timm's VGG has [N, C, \(kernel), \(kernel)]")
                }
                result.append((newName, [shape[0], shape[1] * kernel * kernel]))
            case .timm:
                guard shape.rank == 2, shape[1].isMultiple(of: kernel * kernel) else {
                    throw .weightsMismatch(
                        "\(source): \(name) has shape \(shape), torchvision's VGG has [N, C·\(kernel * kernel)]")
                }
                result.append((newName, [shape[0], shape[1] / (kernel * kernel), kernel, kernel]))
            }
        }
        return result
    }

    /// The same tensors under torchvision's names; nil when they have them already.
    static func withTorchvisionNames(_ state: StateDictionary, source: String) throws(GraftError) -> StateDictionary? {
        let tensors = state.map { (name: $0.name, shape: $0.tensor.shape) }
        guard let renamed = try TensorNaming.torchvision.renaming(tensors, source: source) else { return nil }
        return StateDictionary(zip(state, renamed).map { ($1.name, $0.tensor.reshaped($1.shape)) })
    }
}
