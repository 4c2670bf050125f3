/// The Python names that a checkpoint may mention; all others are errors.
///
/// They are names only: nothing is looked up or called. What rebuilds a tensor is done by `PickleMachine` itself.
enum PickleSymbol: Equatable {
    case orderedDictionary
    case counter
    case set
    case byteArray
    case encode
    case complex
    case size
    case device
    case parameter
    case rebuildTensor
    case rebuildTensorV2
    case rebuildTensorV3
    case rebuildParameter
    case rebuildParameterWithState
    case storage(ElementType)
    case untypedStorage
    /// A tensor class such as `torch.FloatTensor`, which the tar format uses as a type tag.
    case tensorClass
    case elementType(ElementType)

    /// The symbol of a `module name` pair; nil for one that is not allowed.
    init?(module: String, name: String) {
        switch (module, name) {
        case ("collections", "OrderedDict"): self = .orderedDictionary
        case ("collections", "Counter"): self = .counter
        case ("builtins", "set"), ("__builtin__", "set"): self = .set
        case ("builtins", "bytearray"), ("__builtin__", "bytearray"): self = .byteArray
        case ("builtins", "complex"), ("__builtin__", "complex"): self = .complex
        case ("_codecs", "encode"): self = .encode
        case ("torch", "Size"): self = .size
        case ("torch", "device"): self = .device
        case ("torch.nn.parameter", "Parameter"): self = .parameter
        case ("torch._utils", "_rebuild_tensor"): self = .rebuildTensor
        case ("torch._utils", "_rebuild_tensor_v2"): self = .rebuildTensorV2
        case ("torch._utils", "_rebuild_tensor_v3"): self = .rebuildTensorV3
        case ("torch._utils", "_rebuild_parameter"): self = .rebuildParameter
        case ("torch._utils", "_rebuild_parameter_with_state"): self = .rebuildParameterWithState
        case ("torch.storage", "UntypedStorage"), ("torch", "UntypedStorage"): self = .untypedStorage
        case ("torch", _), ("torch.cuda", _):
            if let type = ElementType(torchName: name) {
                self = .elementType(type)
            } else if name.hasSuffix("Storage"), let type = ElementType(torchClass: name.dropLast(7)) {
                self = .storage(type)
            } else if name == "Tensor" || (name.hasSuffix("Tensor") && ElementType(torchClass: name.dropLast(6)) != nil)
            {
                self = .tensorClass
            } else {
                return nil
            }
        default: return nil
        }
    }
}

extension ElementType {
    /// The type of `torch.FloatStorage` or `torch.FloatTensor`, given `Float`.
    fileprivate init?(torchClass name: Substring) {
        switch name {
        case "Double": self = .float64
        case "Float": self = .float32
        case "Half": self = .float16
        case "BFloat16": self = .bfloat16
        case "Long": self = .int64
        case "Int": self = .int32
        case "Short": self = .int16
        case "Char": self = .int8
        case "Byte": self = .uint8
        case "Bool": self = .bool
        default: return nil
        }
    }

    /// The type of `torch.float32`.
    fileprivate init?(torchName name: String) {
        guard let type = ElementType(rawValue: name) else { return nil }
        self = type
    }
}
