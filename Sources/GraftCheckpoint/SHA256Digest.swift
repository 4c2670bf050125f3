import CSystemSupport
import GraftTensor

/// A running SHA-256 (FIPS 180-4), computed by libcrypto.
package final class SHA256Digest {
    private let handle: OpaquePointer?
    private var failed: Bool

    package init() {
        handle = graft_sha256_create()
        failed = handle == nil
    }

    deinit { graft_sha256_destroy(handle) }

    /// Adds bytes.
    package func update(_ bytes: UnsafeRawBufferPointer) {
        guard let handle, !failed else { return }
        failed = !graft_sha256_update(handle, bytes.baseAddress, bytes.count)
    }

    /// Adds the bytes of a text in UTF-8.
    package func update(_ text: String) {
        var text = text
        text.withUTF8 { update(UnsafeRawBufferPointer($0)) }
    }

    /// Adds the raw bytes of an array, little-endian as in memory.
    package func update<Element: BitwiseCopyable>(_ elements: [Element]) {
        elements.withUnsafeBytes { update($0) }
    }

    /// The 32 bytes of what was added so far; more may be added afterwards.
    ///
    /// - Throws: `CheckpointError.unsupported` when libcrypto refuses SHA-256, for example for want of memory.
    package func bytes() throws(CheckpointError) -> [UInt8] {
        var result = [UInt8](repeating: 0, count: 32)
        guard let handle, !failed, let copy = graft_sha256_copy(handle) else { throw Self.refused }
        defer { graft_sha256_destroy(copy) }
        guard graft_sha256_final(copy, &result) else { throw Self.refused }
        return result
    }

    /// The digest in 64 lowercase hexadecimal digits.
    package func hex() throws(CheckpointError) -> String {
        hexadecimal(try bytes())
    }

    private static let refused = CheckpointError.unsupported(
        file: "SHA-256", what: "libcrypto", found: "the digest", next: "check the OpenSSL installation and free memory")
}

/// Two lowercase hexadecimal digits for each byte.
func hexadecimal(_ bytes: some Sequence<UInt8>) -> String {
    let digits = Array("0123456789abcdef")
    var text = ""
    for byte in bytes {
        text.append(digits[Int(byte >> 4)])
        text.append(digits[Int(byte & 15)])
    }
    return text
}

/// The checksum of a state dictionary, independent of the order of its names and of the file that held it.
///
/// SHA-256 over the tensors in code point order of their names, each as name, NUL, element type (`F32`, `I64`, `I32`,
/// `U8`), NUL, extents in decimal joined by commas (nothing for a scalar), NUL, raw little-endian bytes.
///
/// - Returns: 64 lowercase hexadecimal digits.
package func digest(of state: StateDictionary) throws(CheckpointError) -> String {
    let digest = SHA256Digest()
    for name in sortedByCodePoint(state.names) {
        guard let tensor = state[name] else { continue }
        digest.update(name)
        let type = SafetensorsType(of: tensor.storage).rawValue
        digest.update("\0\(type)\0\(tensor.shape.dimensions.map(String.init).joined(separator: ","))\0")
        switch tensor.storage {
        case .float32(let values): digest.update(values)
        case .int64(let values): digest.update(values)
        case .int32(let values): digest.update(values)
        case .uint8(let values): digest.update(values)
        }
    }
    return try digest.hex()
}

/// Names as Python sorts them; Swift's own order is that of Unicode equivalence.
func sortedByCodePoint(_ names: [String]) -> [String] {
    names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
}
