import Foundation
import Graft

/// The images that commands work on.
enum DataRequest {
    /// What to train on and what to validate on.
    static func training(_ values: ArgumentValues) throws -> (training: ImageDataset, validation: ImageDataset?) {
        let root = values[Shared.data]
        let images = try dataset(root, part: "train", values)
        if let share = values[TrainCommand.validationSplit] {
            return try split(images, share: share, seed: values[Shared.seed])
        }
        if let folder = values[TrainCommand.validation] { return (images, try ImageDataset(folder: folder)) }
        // A list says which images take part; those of val/ are not its own.
        guard values[Shared.list] == nil else { return (images, nil) }
        let standard = root + "/val"
        return (images, isSplit(root) ? try ImageDataset(folder: standard) : nil)
    }

    /// The images to evaluate on: DATA, or the val/ in it.
    static func evaluation(_ values: ArgumentValues) throws -> ImageDataset {
        try dataset(values[Shared.data], part: "val", values)
    }

    /// All images of DATA; where it has train/ and val/ in it, those of both.
    static func everything(_ values: ArgumentValues) throws -> ImageDataset {
        let root = values[Shared.data]
        guard values[Shared.list] == nil, isSplit(root) else { return try dataset(root, part: nil, values) }
        let parts = try ["train", "val"].map { (name: $0, images: try ImageDataset(folder: "\(root)/\($0)")) }
        guard parts[0].images.classes == parts[1].images.classes else {
            throw CommandFailure(
                .badData,
                "\(root)/train and \(root)/val have different classes: \(list(parts[0].images.classes)) and "
                    + "\(list(parts[1].images.classes)); make them agree, or extract from one at a time")
        }
        let samples = parts.flatMap { part in
            part.images.samples.map { ImageSample(path: "\(part.name)/\($0.path)", label: $0.label) }
        }
        return ImageDataset(
            folder: root, samples: Array(samples.prefix(values[Shared.limit] ?? samples.count)),
            classes: parts[0].images.classes)
    }

    /// Single files, without labels; `-` is standard input.
    static func files(_ paths: [String]) throws -> ImageDataset {
        let samples = paths.map { ImageSample(path: $0 == "-" ? "standard input" : $0, label: 0) }
        guard paths.contains("-") else { return ImageDataset(folder: ".", samples: samples, classes: []) }
        guard paths.count(where: { $0 == "-" }) == 1 else {
            throw UsageError("- is given more than once, and standard input holds one image; give it once")
        }
        let source = FilesAndStandardInput(paths: paths, standardInput: try Console.standardInput())
        return ImageDataset(source: source, samples: samples, classes: ["image"])
    }

    private struct FilesAndStandardInput: ImageSource {
        let paths: [String]
        let standardInput: [UInt8]

        func image(at index: Int) -> SourceImage {
            paths[index] == "-" ? .encoded(standardInput) : .file(paths[index])
        }
    }

    /// The images of `--list`; `-` is standard input.
    private static func listed(_ list: String, in folder: String, limit: Int?) throws -> ImageDataset {
        guard list == "-" else { return try ImageDataset(folder: folder, list: list, limit: limit) }
        return try ImageDataset(
            folder: folder, listBytes: Data(Console.standardInput()), named: "standard input", limit: limit)
    }

    private static func isSplit(_ root: String) -> Bool { isFolder(root + "/train") && isFolder(root + "/val") }

    private static func isFolder(_ path: String) -> Bool {
        var isFolder: ObjCBool = false
        return FileManager.default.fileExists(atPath: path, isDirectory: &isFolder) && isFolder.boolValue
    }

    private static func dataset(_ root: String, part: String?, _ values: ArgumentValues) throws -> ImageDataset {
        if let list = values[Shared.list] {
            return try listed(list, in: root, limit: values[Shared.limit])
        }
        var folder = part.map { isSplit(root) ? "\(root)/\($0)" : root } ?? root
        // A lone train/ is half of a split, not a class of that name.
        if folder == root, try ImageDataset.classNames(in: root) == ["train"],
            try !ImageDataset.classNames(in: root + "/train").isEmpty
        {
            guard part != "val" else {
                throw CommandFailure(.noInput, "\(root) has train/ but no val/; pass \(root)/train to use that")
            }
            folder = root + "/train"
        }
        return try ImageDataset(folder: folder, limit: values[Shared.limit])
    }

    /// Sets a share of each class aside, chosen by the seed; at least one image of each class stays to train on.
    private static func split(_ images: ImageDataset, share: Double, seed: UInt64) throws -> (
        ImageDataset, ImageDataset
    ) {
        var training: [Int] = []
        var validation: [Int] = []
        for (label, members) in Dictionary(grouping: images.samples.indices, by: { images.samples[$0].label }) {
            let count = min(Int((Double(members.count) * share).rounded()), members.count - 1)
            let order = CounterRandom(seed: seed, UInt64(label), 0x5B17).permutation(members.count)
            validation += order.prefix(count).map { members[$0] }
            training += order.dropFirst(count).map { members[$0] }
        }
        guard !validation.isEmpty else {
            throw CommandFailure(
                .badData,
                "--val-split \(share) of \(images.count) images leaves none to validate on; give a larger share or --val"
            )
        }
        return (images.subset(training.sorted()), images.subset(validation.sorted()))
    }

    // MARK: Classes

    /// The names of `--classes-file`, one a line.
    static func classNames(_ values: ArgumentValues) throws -> [String]? {
        guard let path = values[Shared.classesFile] else { return nil }
        guard let bytes = FileManager.default.contents(atPath: path) else {
            throw CommandFailure(.noInput, "\(path): no such file, or it cannot be read; it should name a class a line")
        }
        guard let text = String(data: bytes, encoding: .utf8) else {
            throw CommandFailure(.badData, "\(path): is not UTF-8 text; it should name a class a line")
        }
        var lines = text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).map {
            $0.trimmingCharacters(in: .whitespaces)
        }
        while lines.last == "" { lines.removeLast() }
        return lines
    }

    /// Names of the network's outputs: those of `--classes-file`, or what the weights carry.
    static func outputNames(of network: Model, _ values: ArgumentValues) throws -> [String]? {
        guard let names = try classNames(values) else { return network.classNames }
        guard names.count == network.classCount else {
            throw CommandFailure(
                .badData,
                "\(values[Shared.classesFile] ?? "") names \(names.count) classes, the network has "
                    + "\(network.classCount) outputs; name each output on a line of its own")
        }
        return names
    }

    /// How a data set's labels map to a network's outputs.
    struct Alignment {
        /// A name for each output.
        var names: [String]
        /// The output of each label.
        var outputOfLabel: [Int32]
    }

    /// Maps folders to a network's outputs.
    static func align(_ images: ImageDataset, with network: Model, _ values: ArgumentValues) throws -> Alignment {
        try align(images, names: try outputNames(of: network, values), count: network.classCount, values)
    }

    /// Maps folders to outputs: by name where the outputs have names and know all folders, else by position.
    ///
    /// A list states its labels itself; they are outputs already.
    static func align(
        _ images: ImageDataset, names: [String]?, count: Int, _ values: ArgumentValues
    ) throws -> Alignment {
        let folders = images.classes
        let highest = images.samples.map(\.label).max() ?? 0
        if values[Shared.list] == nil, let names, names != folders {
            let positions = Dictionary(
                names.enumerated().map { ($1, Int32($0)) }, uniquingKeysWith: { first, _ in first })
            if let twice = folders.first(where: { folder in names.count { $0 == folder } > 1 }) {
                throw CommandFailure(
                    .badData, "the outputs name \"\(twice)\" twice, and a folder has that name; name each output once")
            }
            let unknown = folders.filter { positions[$0] == nil }
            guard unknown.isEmpty else {
                let near = nearest(unknown[0], in: names).map { " (did you mean \($0)?)" } ?? ""
                throw CommandFailure(
                    .badData,
                    "the network has no class \"\(unknown[0])\"\(near): the folder has \(list(folders)), the network "
                        + "\(list(names)); rename the folders or name the outputs with --classes-file")
            }
            return Alignment(names: names, outputOfLabel: folders.compactMap { positions[$0] })
        }
        guard max(folders.count, highest + 1) <= count else {
            throw CommandFailure(
                .badData,
                "the images have \(max(folders.count, highest + 1)) classes (\(list(folders))), the network has \(count) "
                    + "outputs; is it the right weights file?")
        }
        let isNameless = names == nil && folders.count < count
        if isNameless, values[Shared.list] == nil {
            Console.warning(
                "the network's \(count) outputs have no names: the folders \(list(folders)) are taken for its first "
                    + "\(folders.count) in this order; name the outputs with --classes-file if they are others")
        }
        // A list's labels are outputs, of which its folders name none.
        let given = names ?? (isNameless && values[Shared.list] != nil ? [] : folders)
        return Alignment(names: given.padded(to: count), outputOfLabel: (0..<count).map { Int32($0) })
    }

    /// Brings the labels of a run in line with the names of the network's outputs, and names outputs that have none
    /// after the folders.
    static func align(
        _ training: ImageDataset, _ validation: ImageDataset?, with network: inout Model, _ values: ArgumentValues
    ) throws -> (training: ImageDataset, validation: ImageDataset?) {
        if values[Shared.classesFile] == nil, let names = network.classNames,
            !Set(training.classes).isSubset(of: names)
        {
            Console.warning(
                "the weights' head is kept, since it has \(network.classCount) outputs as wanted, but its names "
                    + "\(list(names)) are replaced by the folders' \(list(training.classes))")
            network.classNames = nil
        }
        guard values[Shared.classesFile] != nil || network.classNames != nil else {
            network.classNames = training.classes.padded(to: network.classCount)
            return (training, validation)
        }
        let alignment = try align(training, with: network, values)
        network.classNames = alignment.names
        func mapped(_ images: ImageDataset) -> ImageDataset {
            images.relabelled(alignment.outputOfLabel.map(Int.init), classes: alignment.names)
        }
        // Classes that differ are an error, which the training itself reports.
        return (mapped(training), validation.map { $0.classes == training.classes ? mapped($0) : $0 })
    }

    /// Names, with those behind the first few as a number.
    static func list(_ names: [String], atMost limit: Int = 6) -> String {
        guard names.count > limit else { return names.joined(separator: ", ") }
        let named = limit - 1
        return names.prefix(named).joined(separator: ", ") + " and \(names.count - named) more"
    }

    // MARK: Batches

    /// Decodes all images in order and hands them out in batches, with progress and warnings on standard error.
    ///
    /// `firstBatch` passes over the batches of interrupted work, in which `knownCount` images were used.
    static func forEachBatch(
        _ images: ImageDataset, _ network: Model, _ values: ArgumentValues, title: String, firstBatch: Int = 0,
        knownCount: Int = 0, _ body: (ImageBatch) throws -> Void
    ) throws {
        var options = loaderOptions(values)
        options.firstBatch = firstBatch
        let loader = BatchLoader(
            dataset: images, order: Array(0..<images.count), preprocessing: network.preprocessing, options: options)
        defer { loader.cancel() }
        var done = min(firstBatch * options.batchSize, images.count)
        let progress = ProgressLine(
            title, total: images.count, unit: "images", first: done, isQuiet: values[Shared.quiet])
        defer { progress.finish() }
        var used = knownCount
        // Ctrl-C unwinds, so that half-written files go.
        try Interruption.deferred {
            while let batch = try loader.next() {
                guard !Interruption.isRequested else { throw GraftError.interrupted }
                for image in batch.skipped {
                    progress.finish()
                    Console.warning("left out: \(image.error)")
                }
                try body(batch)
                done += batch.count + batch.skipped.count
                used += batch.count
                progress.update(done)
            }
        }
        for image in loader.skippedBehindLastBatch {
            progress.finish()
            Console.warning("left out: \(image.error)")
        }
        guard used > 0 else {
            throw CommandFailure(
                .noInput,
                "none of the \(images.count) images could be read; without --on-bad-image skip the first says why")
        }
    }

    /// How images are decoded, by the shared options.
    static func loaderOptions(_ values: ArgumentValues) -> BatchLoaderOptions {
        BatchLoaderOptions(
            batchSize: values[Shared.batchSize], workerCount: workerCount(values), onBadImage: badImagePolicy(values),
            fastDecode: values[Shared.fastDecode])
    }

    static func workerCount(_ values: ArgumentValues) -> Int {
        values[Shared.threads] ?? ProcessInfo.processInfo.activeProcessorCount
    }

    static func badImagePolicy(_ values: ArgumentValues) -> BadImagePolicy {
        values[Shared.onBadImage] == "skip" ? .skip : .fail
    }
}
