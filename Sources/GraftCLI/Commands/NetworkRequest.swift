import Graft

/// What several commands make of their arguments: a device, a network, its preprocessing and its frozen part.
enum NetworkRequest {
    /// The device of `--device` and `--threads`.
    static func device(_ values: ArgumentValues) -> Device {
        Device(values[Shared.device], threadCount: values[Shared.threads], isExact: values[Shared.exact])
    }

    /// Prints what was chosen and why, and the warning if `auto` had to pass over something.
    static func announce(
        _ device: DeviceDescription, _ notes: (reason: String, warning: String?), _ values: ArgumentValues
    ) {
        if let warning = notes.warning { Console.warning(warning) }
        note("device: \(text(of: device)) (\(notes.reason))", values)
    }

    /// `opencl:0 Tesla, cpu-class kernels`.
    static func text(of device: DeviceDescription) -> String {
        "\(device.selector), \(device.name), \(device.kernelClass) kernels"
    }

    /// A note on standard error, unless `--quiet`.
    static func note(_ text: String, _ values: ArgumentValues) {
        if !values[Shared.quiet] { Console.note(text) }
    }

    /// The network of a name with the weights of `--weights`, or random without.
    static func model(
        named name: String, weights: WeightsSource?, _ values: ArgumentValues, seed: UInt64 = 0
    ) throws -> Model {
        guard let weights else { return try Model(name, seed: seed) }
        return try Model(name, weights: try weightsFile(weights, architecture: name, values))
    }

    /// The file of `--weights`; what is not one of the user's is downloaded unless it is in the cache.
    static func weightsFile(
        _ source: WeightsSource, architecture: String?, _ values: ArgumentValues
    ) throws -> String {
        let report = DownloadReport(isQuiet: values[Shared.quiet])
        defer { report.finish() }
        var download = WeightsDownload(onEvent: report.receive)
        download.isOffline = values[Shared.offline]
        return try download.file(for: source, architecture: architecture)
    }

    /// The network of a required `--weights`, and of `--model` where it is given; says what was found in the file.
    ///
    /// Without `--model` the weights file says what it is for, else a `--probe`.
    static func model(_ values: ArgumentValues) throws -> Model {
        let source = values[Shared.requiredWeights]
        var named = values[Shared.modelOfWeights]
        if named == nil, source == .hub {
            named = try values[ProbeRequest.probe].map { try Probe($0) }?.origin?.architecture
        }
        let path = try weightsFile(source, architecture: named, values)
        let network: Model
        do {
            network = try Model(named, weights: path)
        } catch GraftError.architectureUnknown {
            guard let origin = try values[ProbeRequest.probe].map({ try Probe($0) })?.origin else {
                throw GraftError.architectureUnknown(path: path)
            }
            network = try Model(origin.architecture, weights: path)
        }
        announceLoading(network, values)
        return network
    }

    /// Says what was found in the weights file and done with it.
    static func announceLoading(_ network: Model, _ values: ArgumentValues) {
        if !network.loadNotes.isEmpty { note("weights: " + network.loadNotes.joined(separator: "; "), values) }
    }

    /// Applies `--image-size`, `--resize`, `--mean`, `--std`, `--interpolation` and `--exif` over what the weights carry.
    static func applyImages(_ network: inout Model, _ values: ArgumentValues) throws {
        let carried = network.preprocessing
        let imageSize = values[Shared.imageSize] ?? carried.imageSize
        let resize = values[Shared.resize] ?? standardResize(carried, imageSize: imageSize)
        guard resize.map({ $0 >= imageSize }) ?? true else {
            throw UsageError(
                "--resize \(resize ?? 0) is smaller than --image-size \(imageSize): the crop would not be filled; "
                    + "pass --resize \(imageSize) or more")
        }
        network.preprocessing = try ImagePreprocessing(
            imageSize: imageSize, resize: resize,
            interpolation: values.isGiven(Shared.interpolation)
                ? Interpolation(rawValue: values[Shared.interpolation]) ?? carried.interpolation
                : carried.interpolation,
            mean: values[Shared.mean] ?? carried.mean,
            standardDeviation: values[Shared.standardDeviation] ?? carried.standardDeviation,
            exif: values.isGiven(Shared.exif) ? ExifPolicy(rawValue: values[Shared.exif]) ?? carried.exif : carried.exif
        )
    }

    /// Applies `--image-size` alone, for commands that read no images.
    static func applyImageSize(_ network: inout Model, _ imageSize: Int?) throws {
        guard let imageSize else { return }
        let carried = network.preprocessing
        network.preprocessing = try ImagePreprocessing(
            imageSize: imageSize, resize: standardResize(carried, imageSize: imageSize),
            interpolation: carried.interpolation, mean: carried.mean, standardDeviation: carried.standardDeviation,
            exif: carried.exif)
    }

    /// An unchanged size keeps what the weights carry, nil for a stretched picture; another one gets the usual margin of
    /// 256 to 224.
    private static func standardResize(_ carried: ImagePreprocessing, imageSize: Int) -> Int? {
        imageSize == carried.imageSize ? carried.resize : min(imageSize * 256 / 224, 65_536)
    }

    /// Applies `--freeze` and `--unfreeze`, in this order. With weights and without `--freeze`, the backbone is frozen.
    static func freeze(_ network: inout Model, _ values: ArgumentValues) throws {
        if let names = values[TrainableSet.freeze] {
            try network.freeze(names.joined(separator: ","))
        } else if values[Shared.weights] != nil {
            try network.freeze("backbone")
        }
        if let names = values[TrainableSet.unfreeze] { try network.unfreeze(names.joined(separator: ",")) }
    }

    static func frozenStatistics(_ values: ArgumentValues) -> FrozenStatistics {
        values[TrainableSet.frozenStatistics] == "track" ? .track : .keep
    }

    /// The sizes of the batches that `count` images make.
    static func batchSizes(count: Int, batchSize: Int) -> Set<Int> {
        Set([min(count, batchSize), count % batchSize].filter { $0 > 0 })
    }
}
