/// Named tensors in a fixed order: what PyTorch calls a `state_dict`.
///
/// Names are torchvision's, verbatim (`layer1.0.conv1.weight`): they are a wire format.
public struct StateDictionary: Sendable, Equatable {
    /// The names in order.
    public private(set) var names: [String] = []
    private var tensors: [String: HostTensor] = [:]

    /// Makes an empty dictionary.
    public init() {}

    /// Makes a dictionary from pairs; a later pair replaces an earlier one of the same name.
    public init(_ pairs: some Sequence<(String, HostTensor)>) {
        for (name, tensor) in pairs { self[name] = tensor }
    }

    /// The tensor of a name; assigning nil removes it, assigning to a new name appends it.
    public subscript(name: String) -> HostTensor? {
        get { tensors[name] }
        set {
            if tensors[name] == nil, newValue != nil { names.append(name) }
            if newValue == nil, tensors[name] != nil { names.removeAll { $0 == name } }
            tensors[name] = newValue
        }
    }

    /// The number of tensors.
    public var count: Int { names.count }

    /// Whether there is no tensor.
    public var isEmpty: Bool { names.isEmpty }

    /// The number of elements of all tensors.
    public var elementCount: Int { tensors.values.reduce(0) { $0 + $1.shape.elementCount } }
}

extension StateDictionary: Sequence {
    /// Names and tensors in order.
    public func makeIterator() -> AnyIterator<(name: String, tensor: HostTensor)> {
        var index = 0
        return AnyIterator {
            while index < names.count {
                let name = names[index]
                index += 1
                if let tensor = tensors[name] { return (name, tensor) }
            }
            return nil
        }
    }
}
