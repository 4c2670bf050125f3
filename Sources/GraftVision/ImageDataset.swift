import Foundation
import GraftTensor

/// One labelled picture of a data set.
public struct ImageSample: Sendable, Hashable {
    /// The path relative to the data set's folder, with `/` between its parts; a name for a picture in memory.
    public let path: String
    /// The class, as a position in `ImageDataset.classes`.
    public let label: Int

    /// Makes a sample.
    public init(path: String, label: Int) {
        self.path = path
        self.label = label
    }
}

/// Why a folder or a list of pictures could not be used.
public enum ImageDatasetError: Error, Sendable, Equatable, CustomStringConvertible {
    /// The folder is not there.
    case folderNotFound(String)
    /// The path is a file.
    case notAFolder(String)
    /// The operating system would not list a folder or read a list; the text is its reason.
    case unreadable(String, reason: String)
    /// The folder holds no folders; with the number of pictures that lie directly in it.
    case noClasses(String, imageCount: Int)
    /// Some classes have no pictures.
    case emptyClasses(String, [String])
    /// There are no pictures at all.
    case noImages(String)
    /// A line of a list, counted from 1, or an entry of its JSON form, is not as it should be.
    case badList(String, line: Int, reason: String)

    /// What, where, found against expected, next step.
    public var description: String {
        switch self {
        case .folderNotFound(let path): "\(path): no such folder; expected a folder of class folders"
        case .notAFolder(let path): "\(path): is a file; expected a folder of class folders"
        case .unreadable(let path, let reason): "\(path): cannot be read: \(reason)"
        case .noClasses(let path, let imageCount):
            "\(path): no class folders"
                + (imageCount > 0
                    ? ", but \(imageCount) pictures; put them into one folder per class"
                    : "; expected one folder per class, with that class's pictures")
        case .emptyClasses(let path, let classes):
            "\(path): no pictures in \(classes.count == 1 ? "class" : "classes") \(classes.joined(separator: ", ")); "
                + "add some or remove the folder (known extensions: "
                + "\(ImageDataset.extensions.joined(separator: " ")))"
        case .noImages(let path):
            "\(path): no pictures (known extensions: \(ImageDataset.extensions.joined(separator: " ")))"
        case .badList(let path, let line, let reason): "\(path), line \(line): \(reason)"
        }
    }
}

/// Labelled pictures in a fixed order: a folder of class folders, a list, or pictures in memory.
public struct ImageDataset: Sendable {
    /// Where the pixels come from.
    enum Source: Sendable {
        case folder(String)
        case memory([RGBImage])
    }

    /// The names of the classes; a label is a position among them.
    public let classes: [String]
    /// The pictures in order.
    public let samples: [ImageSample]
    let source: Source

    /// The extensions of torchvision's `ImageFolder`; other files are passed over.
    public static let extensions = [
        ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
    ]

    /// What to do about a class folder without pictures.
    public enum EmptyClassPolicy: Sendable {
        /// Throw, as torchvision does: the folder is likely a mistake.
        case fail
        /// Keep the class; no sample has its label.
        case allow
    }

    /// The folder that the samples' paths are relative to; nil for pictures in memory.
    public var folder: String? {
        if case .folder(let path) = source { path } else { nil }
    }

    /// The number of pictures.
    public var count: Int { samples.count }

    /// Where a sample's file is; its name for a picture in memory.
    public func path(of sampleIndex: Int) -> String {
        let path = samples[sampleIndex].path
        guard case .folder(let folder) = source, !path.hasPrefix("/") else { return path }
        return folder.hasSuffix("/") ? folder + path : folder + "/" + path
    }

    /// Hands out what a sample's picture is made from; nil for a file that cannot be read.
    package func withContent<Result>(
        of sampleIndex: Int, limits: ImageLimits = ImageLimits(), workspace: ImageWorkspace,
        _ body: (ImageContent?) throws -> Result
    ) rethrows -> Result {
        switch source {
        case .folder:
            let bytes = try? workspace.read(path(of: sampleIndex), limits: limits)
            return try body(bytes.map { ImageContent.file(UnsafeRawBufferPointer($0)) })
        case .memory(let images): return try body(.image(images[sampleIndex]))
        }
    }

    /// Makes a data set of pictures in memory; every label must be a position in `classes`.
    public init(images: [RGBImage], labels: [Int], classes: [String]) {
        precondition(images.count == labels.count, "\(images.count) pictures and \(labels.count) labels")
        precondition(labels.allSatisfy(classes.indices.contains), "a label outside \(classes.count) classes")
        self.classes = classes
        self.samples = labels.enumerated().map {
            ImageSample(path: "\(classes[$0.element])/\($0.offset)", label: $0.element)
        }
        self.source = .memory(images)
    }

    /// Makes a data set of files; paths are relative to `folder` or absolute, labels positions in `classes`.
    public init(folder: String, samples: [ImageSample], classes: [String]) {
        self.init(classes: classes, samples: samples, source: .folder(folder))
    }

    private init(classes: [String], samples: [ImageSample], source: Source) {
        self.classes = classes
        self.samples = samples
        self.source = source
    }

    /// The samples at some positions, in that order, with the same classes.
    public func subset(_ indices: [Int]) -> ImageDataset {
        switch source {
        case .folder: ImageDataset(classes: classes, samples: indices.map { samples[$0] }, source: source)
        case .memory(let images):
            ImageDataset(
                classes: classes, samples: indices.map { samples[$0] }, source: .memory(indices.map { images[$0] }))
        }
    }

    /// The same images under other labels.
    ///
    /// - Parameters:
    ///   - labels: the new label of each old one.
    ///   - classes: the names that the new labels point to.
    /// - Returns: the same samples in the same order.
    public func relabelled(_ labels: [Int], classes: [String]) -> ImageDataset {
        let samples = samples.map { ImageSample(path: $0.path, label: labels[$0.label]) }
        return ImageDataset(classes: classes, samples: samples, source: source)
    }

    // MARK: Folders

    /// Reads `FOLDER/<class>/…/<file>` as torchvision's `ImageFolder` does.
    ///
    /// Classes are the folders in code point order. A class's files are those with a known extension in any case, in
    /// its folder and the folders below, links followed; folders in code point order of their paths, files within a folder
    /// likewise. Other files are passed over.
    ///
    /// - Parameters:
    ///   - folder: the folder of class folders.
    ///   - emptyClasses: what to do about a class without pictures.
    ///   - limit: only the first pictures of that order.
    /// - Throws: `ImageDatasetError` for a folder that cannot be read, has no class folders or has classes without
    ///   pictures.
    public init(
        folder: String, emptyClasses: EmptyClassPolicy = .fail, limit: Int? = nil
    ) throws(ImageDatasetError) {
        let classes = try Self.classNames(in: folder)
        if classes.isEmpty {
            let files = try Self.entries(of: folder).filter { !$0.isFolder && Self.hasKnownExtension($0.name) }
            throw ImageDatasetError.noClasses(folder, imageCount: files.count)
        }
        var samples: [ImageSample] = []
        var empty: [String] = []
        for (label, name) in classes.enumerated() {
            let before = samples.count
            var folders = [name]
            try Self.collectFolders(root: folder, relative: name, ancestors: [], into: &folders)
            for relative in folders.sorted(by: Self.codePointOrder) {
                let names = try Self.entries(of: folder + "/" + relative)
                    .filter { !$0.isFolder && Self.hasKnownExtension($0.name) }.map(\.name)
                for file in names.sorted(by: Self.codePointOrder) {
                    samples.append(ImageSample(path: relative + "/" + file, label: label))
                }
            }
            if samples.count == before { empty.append(name) }
        }
        if samples.isEmpty { throw ImageDatasetError.noImages(folder) }
        if emptyClasses == .fail, !empty.isEmpty { throw ImageDatasetError.emptyClasses(folder, empty) }
        if let limit { samples = Array(samples.prefix(max(limit, 0))) }
        if samples.isEmpty { throw ImageDatasetError.noImages(folder) }
        self.init(classes: classes, samples: samples, source: .folder(folder))
    }

    /// The names of a folder's class folders in code point order.
    public static func classNames(in folder: String) throws(ImageDatasetError) -> [String] {
        try entries(of: folder).filter(\.isFolder).map(\.name).sorted(by: codePointOrder)
    }

    /// The order of Python's strings: UTF-8 bytes sort as code points do, whatever the canonical equivalences.
    static func codePointOrder(_ a: String, _ b: String) -> Bool { a.utf8.lexicographicallyPrecedes(b.utf8) }

    static func hasKnownExtension(_ name: String) -> Bool {
        // Compared in bytes: an accent after the point is another extension, not a decorated letter.
        let lowered = name.utf8.map { (0x41...0x5A).contains($0) ? $0 + 0x20 : $0 }
        return extensions.contains { lowered.suffix($0.utf8.count).elementsEqual($0.utf8) }
    }

    private struct Entry {
        let name: String
        let isFolder: Bool
    }

    /// A folder's entries, links resolved, without `.` and `..`.
    private static func entries(of folder: String) throws(ImageDatasetError) -> [Entry] {
        guard let stream = opendir(folder) else {
            switch errno {
            case ENOENT: throw .folderNotFound(folder)
            case ENOTDIR: throw .notAFolder(folder)
            default: throw .unreadable(folder, reason: String(cString: strerror(errno)))
            }
        }
        defer { closedir(stream) }
        var found: [Entry] = []
        errno = 0
        while let entry = readdir(stream) {
            let bytes = withUnsafeBytes(of: &entry.pointee.d_name) { name in Array(name.prefix { $0 != 0 }) }
            if bytes == [0x2E] || bytes == [0x2E, 0x2E] { continue }
            var status = stat()
            let name = String(validating: bytes, as: UTF8.self)
            guard let name else {
                let shown = String(decoding: bytes, as: UTF8.self)
                // Only names that would be used matter.
                guard hasKnownExtension(shown) || entry.pointee.d_type == UInt8(DT_DIR) else { continue }
                throw .unreadable(folder + "/" + shown, reason: "its name is not valid UTF-8; rename it")
            }
            // A broken link stays an entry: a file that will turn out unreadable.
            let isFolder = stat(folder + "/" + name, &status) == 0 && status.st_mode & S_IFMT == S_IFDIR
            found.append(Entry(name: name, isFolder: isFolder))
            errno = 0
        }
        guard errno == 0 else { throw .unreadable(folder, reason: String(cString: strerror(errno))) }
        return found
    }

    private struct FolderIdentity: Hashable {
        let device: UInt64
        let file: UInt64
    }

    /// Adds all folders below `root/relative`; a link back to a folder on the way down is not followed.
    private static func collectFolders(
        root: String, relative: String, ancestors: Set<FolderIdentity>, into folders: inout [String]
    ) throws(ImageDatasetError) {
        let path = root + "/" + relative
        var status = stat()
        guard stat(path, &status) == 0 else {
            throw .unreadable(path, reason: String(cString: strerror(errno)))
        }
        let identity = FolderIdentity(
            device: UInt64(truncatingIfNeeded: status.st_dev), file: UInt64(truncatingIfNeeded: status.st_ino))
        let below = ancestors.union([identity])
        for entry in try entries(of: path) where entry.isFolder {
            let child = relative + "/" + entry.name
            var childStatus = stat()
            guard stat(root + "/" + child, &childStatus) == 0 else { continue }
            let childIdentity = FolderIdentity(
                device: UInt64(truncatingIfNeeded: childStatus.st_dev),
                file: UInt64(truncatingIfNeeded: childStatus.st_ino))
            if below.contains(childIdentity) { continue }
            folders.append(child)
            try collectFolders(root: root, relative: child, ancestors: below, into: &folders)
        }
    }

    // MARK: Lists

    /// Reads a list of files relative to a folder; the list fixes the order.
    ///
    /// Text: one `path[TAB label]` a line, empty lines and lines that begin with `#` passed over; without a label the
    /// path's first part must be a class folder. JSON (a list that begins with `{`):
    /// `{"classes": […], "files": [{"path": …, "label": …}]}`. Classes are the JSON's `classes`; without them the folder's
    /// class folders, or those of its `train/` where it is a split of `train/` and `val/`.
    public init(folder: String, list: String, limit: Int? = nil) throws(ImageDatasetError) {
        var data: Data
        do {
            data = try Data(contentsOf: URL(fileURLWithPath: list))
        } catch {
            let reason = (error as NSError).localizedDescription
            throw ImageDatasetError.unreadable(
                list, reason: FileManager.default.fileExists(atPath: list) ? reason : "no such file")
        }
        if data.starts(with: [0xEF, 0xBB, 0xBF]) { data = data.dropFirst(3) }
        var classes = try Self.classNames(in: folder)
        if classes.contains("train"), Set(classes).isSubset(of: ["train", "val"]) {
            let inner = try Self.classNames(in: folder + "/train")
            if !inner.isEmpty { classes = inner }
        }
        var samples: [ImageSample]
        if data.first(where: { !$0.isWhitespace }) == UInt8(ascii: "{") {
            let listing = try Self.parseJSON(data, list: list)
            if let stated = listing.classes, !stated.isEmpty { classes = stated }
            samples = listing.samples
        } else {
            samples = try Self.parseText(data, list: list, classes: classes)
        }
        if let limit { samples = Array(samples.prefix(max(limit, 0))) }
        if samples.isEmpty { throw ImageDatasetError.noImages(list) }
        self.init(classes: classes, samples: samples, source: .folder(folder))
    }

    /// Labels fit the devices' 32-bit integers and no network has so many classes.
    private static let largestLabel = 1 << 24

    private static func parseText(
        _ data: Data, list: String, classes: [String]
    ) throws(ImageDatasetError) -> [ImageSample] {
        var positions: [String: Int] = [:]
        for (index, name) in classes.enumerated() { positions[name] = index }
        var samples: [ImageSample] = []
        for (index, bytes) in data.split(separator: 0x0A, omittingEmptySubsequences: false).enumerated() {
            func bad(_ reason: String) -> ImageDatasetError { .badList(list, line: index + 1, reason: reason) }
            let trimmed = bytes.last == 0x0D ? bytes.dropLast() : bytes
            if trimmed.isEmpty || trimmed.first == 0x23 { continue }
            guard let line = String(validating: trimmed, as: UTF8.self) else { throw bad("is not valid UTF-8") }
            let parts = line.split(separator: "\t", maxSplits: 1, omittingEmptySubsequences: false)
            let path = String(parts[0])
            if path.isEmpty { throw bad("no path before the tab") }
            if parts.count == 2, !parts[1].isEmpty {
                guard let label = Int(parts[1].trimmingCharacters(in: .whitespaces)),
                    (0...largestLabel).contains(label)
                else { throw bad("label '\(parts[1])': expected a whole number from 0") }
                samples.append(ImageSample(path: path, label: label))
            } else {
                let name = String(path.split(separator: "/", maxSplits: 1).first ?? "")
                guard let label = positions[name] else {
                    let near = nearMatches(to: name, in: classes)
                    throw bad(
                        "no label, and '\(name)' is no class folder"
                            + (near.isEmpty ? "" : "; near: \(near.joined(separator: ", "))"))
                }
                samples.append(ImageSample(path: path, label: label))
            }
        }
        return samples
    }

    private struct Listing: Decodable {
        struct File: Decodable {
            let path: String
            let label: Int
        }
        let classes: [String]?
        let files: [File]
    }

    private static func parseJSON(
        _ data: Data, list: String
    ) throws(ImageDatasetError) -> (classes: [String]?, samples: [ImageSample]) {
        let listing: Listing
        do {
            listing = try JSONDecoder().decode(Listing.self, from: data)
        } catch {
            throw .badList(list, line: 1, reason: "expected {\"files\": [{\"path\": …, \"label\": …}]}: \(error)")
        }
        var samples: [ImageSample] = []
        for (index, file) in listing.files.enumerated() {
            guard (0...largestLabel).contains(file.label), !file.path.isEmpty else {
                throw .badList(
                    list, line: 1,
                    reason: "entry \(index) ('\(file.path)', label \(file.label)): expected a path and a label from 0")
            }
            samples.append(ImageSample(path: file.path, label: file.label))
        }
        return (listing.classes, samples)
    }
}

extension UInt8 {
    /// Space, tab, line feed, carriage return.
    fileprivate var isWhitespace: Bool { self == 0x20 || (0x09...0x0D).contains(self) }
}
