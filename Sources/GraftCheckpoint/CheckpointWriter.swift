import GraftTensor

/// The kinds of weights files that are written.
package enum CheckpointFormat: String, Sendable, CaseIterable {
    /// PyTorch's zip, for `torch.load(weights_only=True)`.
    case pth
    case safetensors
    case npz

    /// The format that a file name's ending stands for.
    package init?(ending path: String) {
        let name = path.split(separator: "/").last ?? ""
        guard let dot = name.lastIndex(of: ".") else { return nil }
        switch name[name.index(after: dot)...].lowercased() {
        case "pth", "pt", "th": self = .pth
        case "safetensors": self = .safetensors
        case "npz": self = .npz
        default: return nil
        }
    }
}

/// Writes state dictionaries as any of the known kinds of files.
package enum CheckpointWriter {
    /// The name under which an archive holds a file's texts: an array of `.npz`, a name in safetensors' header.
    static let metadataName = "__metadata__"

    /// Writes tensors in the order given, atomically; the same tensors and texts give the same bytes.
    ///
    /// Element types are kept; `.npz` has no bfloat16, which becomes float32 of the same values. The texts of
    /// `metadata` stand in safetensors' `__metadata__`, in an entry `extra/graft_metadata.json` of PyTorch's zip, which
    /// `torch.load` passes over, and in a text array `__metadata__` of `.npz`.
    package static func write(
        _ tensors: [(name: String, content: TensorContent)], metadata: [String: String], format: CheckpointFormat,
        to path: String
    ) throws(CheckpointError) {
        switch format {
        case .pth: try TorchZipWriter.write(tensors, metadata: metadata, to: path)
        case .safetensors: try Safetensors.write(tensors, metadata: metadata, to: path)
        case .npz: try NumpyArchiveWriter.write(tensors, metadata: metadata, to: path)
        }
    }

    /// Texts as one JSON object, sorted by name; empty for none.
    static func text(of metadata: [String: String]) -> String {
        let pairs = sortedByCodePoint(Array(metadata.keys)).map { "\(quoted($0)):\(quoted(metadata[$0] ?? ""))" }
        return metadata.isEmpty ? "" : "{\(pairs.joined(separator: ","))}"
    }

    /// A JSON string.
    static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20:
                result += "\\u00" + hexadecimal([UInt8(scalar.value)])
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
