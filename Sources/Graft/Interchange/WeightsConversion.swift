import GraftCheckpoint
import GraftTensor

/// The kinds of weights files that Graft writes.
public enum WeightsFormat: String, Sendable, CaseIterable {
    /// PyTorch's zip, for `torch.load(weights_only=True)`; the ending `.pth`, `.pt` or `.th`.
    case pth
    /// safetensors.
    case safetensors
    /// numpy's archive of arrays.
    case npz

    /// The format that a file name's ending stands for; nil for another ending.
    public init?(ending path: String) {
        guard let format = CheckpointFormat(ending: path) else { return nil }
        self.init(format)
    }

    init?(_ format: CheckpointFormat) { self.init(rawValue: format.rawValue) }

    var checkpointFormat: CheckpointFormat {
        switch self {
        case .pth: .pth
        case .safetensors: .safetensors
        case .npz: .npz
        }
    }
}

/// What a conversion read and wrote.
public struct WeightsConversion: Sendable {
    /// The kind of file that was read, in words.
    public let source: String
    /// What was written.
    public let format: WeightsFormat
    /// Tensors written.
    public let tensorCount: Int
    /// Elements of all tensors.
    public let elementCount: Int
    /// Texts about the weights that the new file carries on, by name: architecture, class names, preprocessing.
    public let metadata: [String: String]
    /// What was found in the file and done with it, a line each.
    public let notes: [String]

    /// Writes the tensors of a weights file as another kind of file: names, order, element types and shapes are kept,
    /// and so are the texts that say what the weights are for.
    ///
    /// Everything is read before anything is written, and the new file takes the place of an old one when it is whole:
    /// `input` and `output` may be the same path. bfloat16 becomes float32 in `.npz`, which has none.
    ///
    /// - Parameters:
    ///   - input: `.pth` (any container), `.safetensors` or `.npz`, told apart by content.
    ///   - output: the new file.
    ///   - format: nil takes what the ending of `output` says.
    ///   - names: whose names the new file has; nil keeps those of the file.
    ///   - model: the architecture that the weights must fit, and that the new file names; nil takes the file as it is.
    /// - Returns: what was read and written.
    /// - Throws: `CheckpointError`; ``GraftError/invalidArgument(_:)`` for an ending that says no format;
    ///   ``GraftError/weightsMismatch(_:)`` for names that are not known.
    public static func run(
        _ input: String, to output: String, format: WeightsFormat? = nil, names: TensorNaming? = nil,
        model: String? = nil
    ) throws -> WeightsConversion {
        let format = try format ?? WeightsFormat.required(ending: output)
        var limits = ReadLimits.standard
        limits.keepsElementTypes = true
        let checkpoint = try CheckpointReader.load(input, limits: limits)
        var tensors = checkpoint.contents
        var metadata = checkpoint.metadata
        var notes = checkpoint.notes
        if let model {
            let network = try Model(checkpoint: checkpoint, name: model, path: input)
            metadata = try ModelMetadata(network, digest: digest(of: checkpoint.state)).entries
        }
        if let names {
            let shapes = tensors.map { (name: $0.name, shape: $0.content.shape) }
            if let renamed = try names.renaming(shapes, source: input) {
                tensors = zip(tensors, renamed).map { ($1.name, $0.content.reshaped($1.shape)) }
                notes.append("names of \(names.rawValue)")
                if metadata[ModelMetadata.Key.digest] != nil {
                    let state = StateDictionary(
                        zip(checkpoint.state, renamed).map { ($1.name, $0.tensor.reshaped($1.shape)) })
                    metadata[ModelMetadata.Key.digest] = try digest(of: state)
                }
            } else {
                notes.append("the names are \(names.rawValue)'s already")
            }
        }
        let widened = tensors.count { $0.content.typeName == "bfloat16" }
        if format == .npz, widened > 0 {
            notes.append("\(widened) bfloat16 tensors written as float32, since .npz has no bfloat16")
        }
        try CheckpointWriter.write(tensors, metadata: metadata, format: format.checkpointFormat, to: output)
        return WeightsConversion(
            source: checkpoint.container.rawValue, format: format, tensorCount: tensors.count,
            elementCount: checkpoint.state.elementCount, metadata: metadata, notes: notes)
    }
}

extension WeightsFormat {
    /// The format of a file name's ending.
    ///
    /// - Throws: ``GraftError/invalidArgument(_:)`` for another ending.
    static func required(ending path: String) throws(GraftError) -> WeightsFormat {
        guard let format = WeightsFormat(ending: path) else {
            throw .invalidArgument(
                "\(path): the ending says no format; use .pth, .safetensors or .npz, or name one with --format")
        }
        return format
    }
}
