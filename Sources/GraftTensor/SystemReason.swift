import Foundation

/// The operating system's reason in an error of Foundation, as C programs print it: `Permission denied`.
///
/// Errors of Foundation describe themselves in sentences that name files and frameworks; messages of ours name the file
/// already.
package func systemReason(of error: any Error) -> String {
    var current = error as NSError
    while true {
        if current.domain == NSPOSIXErrorDomain { return String(cString: strerror(Int32(current.code))) }
        guard let deeper = current.userInfo[NSUnderlyingErrorKey] as? NSError else { break }
        current = deeper
    }
    guard current.domain == NSCocoaErrorDomain else { return "\(error)" }
    return switch CocoaError.Code(rawValue: current.code) {
    case .fileNoSuchFile, .fileReadNoSuchFile: String(cString: strerror(ENOENT))
    case .fileReadNoPermission, .fileWriteNoPermission: String(cString: strerror(EACCES))
    case .fileWriteFileExists: String(cString: strerror(EEXIST))
    case .fileWriteOutOfSpace: String(cString: strerror(ENOSPC))
    case .fileWriteVolumeReadOnly: String(cString: strerror(EROFS))
    case .fileReadTooLarge: String(cString: strerror(EFBIG))
    default: current.localizedDescription
    }
}

/// Creates a folder and those above it that are missing, as `mkdir -p` does. One that exists is taken.
///
/// `FileManager` does the same, but does not always say why it failed.
///
/// - Throws: the system's reason as a `POSIXError`.
package func createFolder(_ path: String) throws {
    if mkdir(path, 0o777) == 0 { return }
    var reason = errno
    let above = URL(filePath: path).deletingLastPathComponent().path
    if reason == ENOENT, above != path, !path.isEmpty {
        try createFolder(above)
        if mkdir(path, 0o777) == 0 { return }
        reason = errno
    }
    var isFolder: ObjCBool = false
    if reason == EEXIST, FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) {
        // Another process may have been faster.
        if isFolder.boolValue { return }
        reason = ENOTDIR
    }
    throw POSIXError(POSIXErrorCode(rawValue: reason) ?? .EIO)
}
