import Foundation
import GraftVision

/// Small JPEG pictures of images as the network sees them, made once for each file.
final class ThumbnailStore {
    private var known: [String: String?] = [:]
    private let workspace = ImageWorkspace()

    /// Pixels a side.
    static let side = 120

    /// A `data:` URI with the centre of an image; nil where its file is gone or cannot be read any more.
    func dataURI(_ file: String, imageSize: Int, resize: Int?) -> String? {
        if let made = known[file] { return made }
        let made = make(file, imageSize: imageSize, resize: resize)
        known[file] = made
        return made
    }

    private func make(_ file: String, imageSize: Int, resize: Int?) -> String? {
        let side = min(Self.side, max(imageSize, 1))
        do {
            let preprocessing = try ImagePreprocessing(
                imageSize: side, resize: resize.map { max($0 * side / max(imageSize, 1), side) })
            let pixels = try preprocessing.geometry(contentsOf: file, fastDecode: true, workspace: workspace)
            let bytes = try ImageCodec.encodeJPEG(RGBImage(width: side, height: side, pixels: pixels), quality: 80)
            return "data:image/jpeg;base64," + Data(bytes).base64EncodedString()
        } catch {
            return nil
        }
    }
}
