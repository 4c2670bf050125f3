import Graft

/// Arguments that several commands take, declared once.
enum Shared {
    // Input
    static let data = Argument.positional(
        "DATA", .path("DATA"), placeholderValue: "", help: "Folder of class folders, or one with train/ and val/ in it."
    )
    static let weights = Argument.optional(
        "weights", .weights, shownAs: "random",
        help: "Pretrained weights: a .pth, .th, .safetensors or .npz file, hub for torchvision's, or an https address.")
    static let requiredWeights = Argument.required(
        "weights", .weights, placeholderValue: .file(""),
        help: "Weights: a .pth, .th, .safetensors or .npz file, hub for torchvision's, or an https address.")
    static let offline = Argument.flag(
        "offline", help: "Download nothing: weights from the hub or an address must be in the cache.")
    static let model = Argument.required(
        "model", .text("MODEL"), placeholderValue: "", help: "Architecture, as `graft models` lists it.")
    static let modelOfWeights = Argument.optional(
        "model", .text("MODEL"), shownAs: "what the weights file names",
        help: "Architecture, as `graft models` lists it.")

    // Images
    static let imageSize = Argument.optional(
        "image-size", .wholeNumber(atLeast: 1, atMost: 65_536), shownAs: "the weights file's, else 224", example: "224",
        help: "Side of the centre crop that the network sees.")
    static let resize = Argument.optional(
        "resize", .wholeNumber(atLeast: 1, atMost: 65_536), shownAs: "the weights file's, else 256/224 of --image-size",
        example: "256", help: "Shorter side before the crop.")
    static let mean = Argument.optional(
        "mean", .channels(positive: false), shownAs: "the weights file's, else 0.485,0.456,0.406",
        example: "0.485,0.456,0.406", help: "Subtracted per channel from pixels in 0…1.")
    static let standardDeviation = Argument.optional(
        "std", .channels(positive: true), shownAs: "the weights file's, else 0.229,0.224,0.225",
        example: "0.229,0.224,0.225", help: "Divides each channel after that.")
    static let interpolation = Argument.option(
        "interpolation", .choice("bilinear", "bicubic"), default: "bilinear",
        help: "Resampling, antialiased as Pillow does it.")
    static let exif = Argument.option(
        "exif", .choice("apply", "ignore"), default: "apply", help: "Whether EXIF orientation turns the image.")
    static let onBadImage = Argument.option(
        "on-bad-image", .choice("fail", "skip"), default: "fail",
        help: "An image that cannot be read ends the command, naming the file, or is left out with a warning.")
    static let fastDecode = Argument.flag(
        "fast-decode",
        help: "Decode large JPEGs at 1/2, 1/4 or 1/8 of their size where that leaves a quarter more than --resize "
            + "needs: faster, with pixels that differ a little.")
    static let list = Argument.optional(
        "list", .path("F"), shownAs: "all images, by name",
        help: "File that names images relative to DATA with their labels, one a line; fixes the order.")
    static let limit = Argument.optional(
        "limit", .wholeNumber(atLeast: 1), shownAs: "all", example: "100", help: "Take the first N images only.")
    static let classesFile = Argument.optional(
        "classes-file", .path("F"), shownAs: "the weights file's, else the folders'",
        help: "Class names, one a line, in the order of the network's outputs.")

    // Running
    static let device = Argument.option(
        "device", .text("D"), default: "auto", environment: "GRAFT_DEVICE",
        help: "auto, cpu, opencl, gpu, opencl:N or a part of a device's name; see `graft devices`.")
    static let threads = Argument.optional(
        "threads", .wholeNumber(atLeast: 1, atMost: 1024), shownAs: "all cores", example: "4",
        help: "Threads of the cpu device and of image decoding.")
    static let exact = Argument.flag(
        "exact", help: "Sum every convolution directly: no Winograd transforms, smaller rounding errors, slower.")
    static let batchSize = Argument.option(
        "batch-size", .wholeNumber(atLeast: 1, atMost: 65_536), default: 32, help: "Images per step.")
    static let seed = Argument.option(
        "seed", .seed, default: 0, help: "Seed of everything random: shuffling, augmentation, dropout, a new head.")

    // Output
    static let quiet = Argument.flag("quiet", help: "No progress, no notes; warnings and errors stay.")
    static let json = Argument.flag("json", help: "Machine-readable result on standard output.")

    static let imageGroup = ArgumentGroup(
        "Images", [imageSize, resize, mean, standardDeviation, interpolation, exif, fastDecode, onBadImage])
    static let selectionGroup = ArgumentGroup("Selection", [list, limit])

    static func runGroup(seeded: Bool) -> ArgumentGroup {
        ArgumentGroup("Running", [device, threads, exact, batchSize] + (seeded ? [seed] : []))
    }
    static let outputGroup = ArgumentGroup("Output", [quiet, json])
}
