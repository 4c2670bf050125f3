/// What can go wrong with a weights or array file; every case names the file, and its text says what to do next.
package enum CheckpointError: Error, Equatable, Sendable {
    /// The operating system refused to open or read the file.
    case cannotRead(file: String, operation: String, reason: String)
    /// The operating system refused to create or write the file; an earlier file of that name is untouched.
    case cannotWrite(file: String, operation: String, reason: String)
    /// The first bytes belong to no format that is read here.
    case unknownFormat(file: String, found: String)
    /// The file ends inside something; counts are bytes.
    case truncated(file: String, what: String, offset: Int, needed: String, available: String)
    /// The file contradicts its own format.
    case malformed(file: String, what: String, offset: Int?, found: String, expected: String)
    /// A pickle names a Python symbol that is not needed to rebuild tensors.
    case forbiddenSymbol(file: String, symbol: String, offset: Int)
    /// The file is in order, but holds something that is not read or written here.
    case unsupported(file: String, what: String, found: String, next: String)
    /// The file asks for more than a reader of untrusted files grants.
    case overLimit(file: String, what: String, found: String, limit: String)
    /// The file is in order, but holds no tensors.
    case noTensors(file: String, found: String)

    /// The file concerned.
    package var file: String {
        switch self {
        case .cannotRead(let file, _, _), .cannotWrite(let file, _, _), .unknownFormat(let file, _),
            .truncated(let file, _, _, _, _), .malformed(let file, _, _, _, _), .forbiddenSymbol(let file, _, _),
            .unsupported(let file, _, _, _), .overLimit(let file, _, _, _), .noTensors(let file, _):
            file
        }
    }

    /// Whether the fault lies with writing, not with a file that was read.
    package var isOutputFailure: Bool {
        if case .cannotWrite = self { true } else { false }
    }
}

extension CheckpointError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .cannotRead(let file, let operation, let reason):
            return "\(file): cannot \(operation): \(reason); check the path and its permissions"
        case .cannotWrite(let file, let operation, let reason):
            return "\(file): cannot \(operation): \(reason); an earlier file of that name is unchanged; "
                + "choose a folder that is writable and has space"
        case .unknownFormat(let file, let found):
            return "\(file): not a weights file: found \(found); expected a PyTorch checkpoint (zip, legacy or tar), "
                + "safetensors, .npz or .npy"
        case .truncated(let file, let what, let offset, let needed, let available):
            return "\(file): ends within \(what) at byte \(offset): needs \(needed) bytes, has \(available); "
                + "download or copy the file again"
        case .malformed(let file, let what, let offset, let found, let expected):
            let place = offset.map { " at byte \($0)" } ?? ""
            return "\(file): \(what)\(place): found \(found), expected \(expected); "
                + "the file is damaged or was written by a faulty program"
        case .forbiddenSymbol(let file, let symbol, let offset):
            return "\(file): the pickle names \(symbol) at byte \(offset), which is not needed to rebuild tensors and "
                + "is not run; save the tensors alone in PyTorch: torch.save(model.state_dict(), path)"
        case .unsupported(let file, let what, let found, let next):
            return "\(file): \(what): \(found) is not supported; \(next)"
        case .overLimit(let file, let what, let found, let limit):
            return "\(file): \(what): \(found), over the limit of \(limit); the file is damaged or hostile"
        case .noTensors(let file, let found):
            return "\(file): holds no tensors: found \(found); expected a state dictionary, bare or under "
                + "\(StateExtraction.wrapperNames.joined(separator: ", "))"
        }
    }
}

/// What a reader grants a file before it says that the file is damaged or hostile.
package struct ReadLimits: Sendable {
    /// Bytes of one pickle stream; PyTorch needs about 100 for each tensor.
    package var pickleByteCount = 64 << 20
    /// Opcodes of one pickle stream.
    package var pickleOperationCount = 8_000_000
    /// Bytes of a zip's directory.
    package var directoryByteCount = 256 << 20
    /// Bytes of a safetensors header, as its specification has it.
    package var headerByteCount = 100_000_000
    /// Dimensions of a tensor, as in PyTorch's iterators.
    package var rank = 64
    /// Containers inside containers that are searched for tensors.
    package var nestingDepth = 32
    /// Bytes of all tensors together may be this much …
    package var baseByteCount = 256 << 20
    /// … plus so many times the size of the file: room for int8 that becomes int64 and for compressed arrays.
    package var expansion = 64
    /// Not a limit: whether tensors that are neither float32 nor int64 are handed out as they are in the file too.
    package var keepsElementTypes = false

    /// The limits of every loader unless a caller says otherwise.
    package static let standard = ReadLimits()

    package init() {}
}

/// Counts down the bytes that a file may still make us read or allocate.
struct ByteBudget {
    private let file: String
    private let total: Int
    private var left: Int

    init(file: String, fileByteCount: Int, limits: ReadLimits) {
        let expanded = fileByteCount.multipliedReportingOverflow(by: limits.expansion)
        let sum = limits.baseByteCount.addingReportingOverflow(expanded.overflow ? Int.max : expanded.partialValue)
        self.file = file
        self.total = sum.overflow ? Int.max : sum.partialValue
        self.left = total
    }

    mutating func spend(_ byteCount: Int, on what: String) throws(CheckpointError) {
        guard byteCount >= 0, byteCount <= left else {
            throw .overLimit(
                file: file, what: what, found: "\(byteCount) bytes more", limit: "\(total) bytes for this file")
        }
        left -= byteCount
    }
}
