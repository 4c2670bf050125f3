/// Reads files of formats that other modules know.
package enum WholeFile {
    /// The first bytes of a file, or all of a shorter one.
    package static func start(of path: String, byteCount: Int) throws(CheckpointError) -> [UInt8] {
        let source = try ByteSource(path: path)
        return try source.bytes(at: 0, count: min(byteCount, source.count), what: "first bytes")
    }

    /// All bytes of a file.
    package static func bytes(of path: String, limit: Int) throws(CheckpointError) -> [UInt8] {
        let source = try ByteSource(path: path)
        guard source.count <= limit else {
            throw .overLimit(file: path, what: "file", found: "\(source.count) bytes", limit: "\(limit) bytes")
        }
        return try source.bytes(at: 0, count: source.count, what: "file")
    }
}
