/// Why one picture could not be used: which file, what was found, and what to do about it.
public struct ImageError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The class of the fault.
    public enum Fault: Sendable, Equatable {
        /// The operating system would not give the bytes; the text is its reason.
        case unreadable(String)
        /// A folder, a pipe or a device where a file should be.
        case notAFile
        /// The file has no bytes.
        case empty
        /// The content is neither JPEG nor PNG; the text says what it is, as far as it can be told.
        case unsupportedFormat(String)
        /// JPEG or PNG, but of a kind that is not decoded.
        case unsupportedVariant(String)
        /// The file ends before the picture does.
        case truncated(String)
        /// The content contradicts its format; the text is the decoder's.
        case damaged(String)
        /// More pixels than allowed.
        case tooManyPixels(width: Int, height: Int, limit: Int)
        /// The file is longer than allowed.
        case tooManyBytes(byteCount: Int, limit: Int)
        /// There is not enough memory for the picture.
        case outOfMemory
    }

    /// The file's path, or nil for a picture that came from memory.
    public var file: String?
    /// What is wrong.
    public let fault: Fault

    /// Makes an error; `file` is nil for a picture that came from memory.
    public init(file: String?, fault: Fault) {
        self.file = file
        self.fault = fault
    }

    /// A word for the class of fault, stable for machine output.
    public var kind: String {
        switch fault {
        case .unreadable: "unreadable"
        case .notAFile: "not-a-file"
        case .empty: "empty"
        case .unsupportedFormat: "unsupported-format"
        case .unsupportedVariant: "unsupported-variant"
        case .truncated: "truncated"
        case .damaged: "damaged"
        case .tooManyPixels: "too-many-pixels"
        case .tooManyBytes: "too-many-bytes"
        case .outOfMemory: "out-of-memory"
        }
    }

    /// File, fault and next step in one line.
    public var description: String {
        let subject = file.map { "\($0): " } ?? "picture in memory: "
        switch fault {
        case .unreadable(let reason): return subject + "cannot be read: \(reason)"
        case .notAFile: return subject + "is not a regular file"
        case .empty: return subject + "is empty; copy it again or remove it"
        case .unsupportedFormat(let format):
            return subject + "found \(format), expected JPEG or PNG; convert it to PNG or JPEG, or remove it"
        case .unsupportedVariant(let variant):
            return subject + "unsupported kind of picture: \(variant); save it again as RGB in PNG or JPEG"
        case .truncated(let detail): return subject + "is truncated: \(detail); copy it again or remove it"
        case .damaged(let detail): return subject + "is damaged: \(detail); copy it again or remove it"
        case .tooManyPixels(let width, let height, let limit):
            return subject + "has \(width) × \(height) pixels, more than the limit of \(limit); scale it down"
        case .tooManyBytes(let byteCount, let limit):
            return subject + "has \(byteCount) bytes, more than the limit of \(limit); scale it down"
        case .outOfMemory: return subject + "not enough memory to decode it; use fewer threads or scale it down"
        }
    }

    /// The same fault under a file's name.
    func naming(_ file: String) -> ImageError { ImageError(file: file, fault: fault) }
}
