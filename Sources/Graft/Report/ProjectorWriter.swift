import Foundation
import GraftCheckpoint
import GraftTensor
import GraftVision

/// Writes features for TensorBoard's embedding projector: a table of numbers for each layer, labels and paths, a sprite
/// of the images, and the configuration that ties them together. `tensorboard --logdir FOLDER` shows them.
public final class ProjectorWriter {
    /// The folder.
    public let folder: String
    private let layers: [String]
    private let classes: [String]
    private let files: [String]
    private var tables: [AtomicFile] = []
    private var widths: [Int?]
    private var metadata = "class\tpath\n"
    private var count = 0
    private let columns: Int
    /// Pixels a side of one image in the sprite; 0 for no sprite.
    private let side: Int
    private let imageSize: Int
    private let shrinking: ImagePreprocessing?
    private var sprite: [UInt8] = []

    /// The sprite's sides are not longer: browsers refuse larger textures.
    private static let spriteLimit = 4096
    /// An image's side in the sprite where there is room.
    private static let largestSide = 64
    /// Smaller ones show nothing; there is no sprite then.
    private static let smallestSide = 8

    /// Makes the folder and begins its files.
    ///
    /// - Parameters:
    ///   - folder: where to write; made if it is not there.
    ///   - layers: the layers, in order.
    ///   - classes: names that labels point to.
    ///   - imageCount: the most images that will come.
    ///   - imageSize: side of the images that ``append(_:labels:paths:pixels:)`` gets.
    /// - Throws: ``GraftError/outputFailed(_:)``.
    public init(_ folder: String, layers: [String], classes: [String], imageCount: Int, imageSize: Int) throws {
        self.folder = folder
        self.layers = layers
        self.classes = classes
        self.imageSize = imageSize
        do {
            try createFolder(folder)
        } catch {
            throw GraftError.outputFailed(
                "cannot create the folder \(folder): \(systemReason(of: error)); choose another --projector")
        }
        var files: [String] = []
        for layer in layers {
            let name = layer.map { $0.isASCII && ($0.isLetter || $0.isNumber || "._-".contains($0)) ? String($0) : "_" }
                .joined()
            files.append((files.contains("\(name).tsv") ? "\(name)_\(files.count)" : name) + ".tsv")
        }
        self.files = files
        widths = layers.map { _ in nil }
        columns = max(1, Int(Double(max(imageCount, 1)).squareRoot().rounded(.up)))
        let room = min(Self.largestSide, imageSize, Self.spriteLimit / columns)
        side = room >= min(Self.smallestSide, imageSize) ? room : 0
        shrinking = side > 0 ? try ImagePreprocessing(imageSize: side, resize: nil) : nil
        let rows = (max(imageCount, 1) + columns - 1) / columns
        sprite = [UInt8](repeating: 255, count: side * columns * side * rows * 3)
        for file in files { tables.append(try AtomicFile(path: folder + "/" + file)) }
    }

    /// Adds a batch.
    ///
    /// - Parameters:
    ///   - features: by layer, float32 with N as the first extent; more extents are flattened.
    ///   - labels: N class numbers.
    ///   - paths: N names.
    ///   - pixels: N images of `imageSize × imageSize` RGB pixels.
    /// - Throws: ``GraftError/invalidArgument(_:)`` when sizes do not agree; errors of writing.
    public func append(_ features: [String: HostTensor], labels: [Int32], paths: [String], pixels: [UInt8]) throws {
        let batch = labels.count
        guard paths.count == batch, pixels.count == batch * imageSize * imageSize * 3 else {
            throw GraftError.invalidArgument(
                "\(batch) labels, \(paths.count) paths and \(pixels.count) bytes of pixels for the projector, expected "
                    + "\(batch * imageSize * imageSize * 3) bytes")
        }
        for (index, layer) in layers.enumerated() {
            guard batch > 0, let values = features[layer]?.floats, values.count % batch == 0,
                widths[index].map({ $0 == values.count / batch }) ?? true
            else {
                throw GraftError.invalidArgument(
                    "the features of \(layer) have shape \(features[layer]?.shape.description ?? "none") for \(batch) images"
                )
            }
            let width = values.count / batch
            widths[index] = width
            for row in 0..<batch {
                let line = values[row * width..<(row + 1) * width].map { "\($0)" }.joined(separator: "\t")
                try tables[index].write(line + "\n")
            }
        }
        for (row, label) in labels.enumerated() {
            let name = classes.indices.contains(Int(label)) ? classes[Int(label)] : "\(label)"
            metadata += "\(Self.field(name))\t\(Self.field(paths[row]))\n"
            let start = row * imageSize * imageSize * 3
            draw(Array(pixels[start..<start + imageSize * imageSize * 3]), at: count)
            count += 1
        }
    }

    /// A text without the characters that end fields and lines.
    private static func field(_ text: String) -> String {
        String(text.map { $0 == "\t" || $0.isNewline ? " " : $0 })
    }

    /// Puts an image into its place in the sprite.
    private func draw(_ pixels: [UInt8], at index: Int) {
        guard let shrinking else { return }
        let small = shrinking.geometry(RGBImage(width: imageSize, height: imageSize, pixels: pixels))
        let stride = side * columns * 3
        let origin = index / columns * side * stride + index % columns * side * 3
        guard origin + (side - 1) * stride + side * 3 <= sprite.count else { return }
        for y in 0..<side {
            let target = origin + y * stride
            sprite.replaceSubrange(target..<target + side * 3, with: small[y * side * 3..<(y + 1) * side * 3])
        }
    }

    /// Puts all files in their places, `projector_config.pbtxt` last.
    ///
    /// - Throws: errors of writing; ``GraftError/noInput(_:)`` when no image came.
    public func finish() throws {
        guard count > 0 else { throw GraftError.noInput("there are no features to write to \(folder)") }
        for table in tables { try table.commit() }
        try AtomicFile.write(metadata, to: folder + "/metadata.tsv")
        let usedRows = (count + columns - 1) / columns
        if side > 0 {
            let used = Array(sprite.prefix(side * columns * side * usedRows * 3))
            let picture = RGBImage(width: side * columns, height: side * usedRows, pixels: used)
            try AtomicFile.write(ImageCodec.encodePNG(picture), to: folder + "/sprite.png")
        }
        var configuration = ""
        for (index, layer) in layers.enumerated() {
            configuration += """
                embeddings {
                  tensor_name: \(Self.quoted(layer))
                  tensor_shape: \(count)
                  tensor_shape: \(widths[index] ?? 0)
                  tensor_path: \(Self.quoted(files[index]))
                  metadata_path: "metadata.tsv"

                """
            if side > 0 {
                configuration += """
                      sprite {
                        image_path: "sprite.png"
                        single_image_dim: \(side)
                        single_image_dim: \(side)
                      }

                    """
            }
            configuration += "}\n"
        }
        try AtomicFile.write(configuration, to: folder + "/projector_config.pbtxt")
    }

    private static func quoted(_ text: String) -> String {
        "\"" + text.replacingOccurrences(of: "\\", with: "\\\\").replacingOccurrences(of: "\"", with: "\\\"") + "\""
    }
}
