/// Arguments that say which head a network has and which of its layers train.
enum TrainableSet {
    static let classes = Argument.optional(
        "classes", .wholeNumber(atLeast: 1, atMost: 100_000), shownAs: "the weights file's or the folder's",
        example: "10",
        help: "Outputs of the head; it is replaced only when its size differs.")
    static let freeze = Argument.optional(
        "freeze", .names("S"), shownAs: "backbone with --weights, else nothing", example: "all",
        help: "Layers that stay as they are: names, prefixes or globs, or all, head, backbone.")
    static let unfreeze = Argument.optional(
        "unfreeze", .names("S"), shownAs: "nothing", example: "layer4,fc", help: "Layers that train after all.")
    static let unfreezeAt = Argument.repeatable(
        "unfreeze-at", .unfreezing("EPOCH"), example: "5:layer3",
        help: "Let layers train from an epoch on, counted from 0.")
    static let unfreezeAtStep = Argument.repeatable(
        "unfreeze-at-step", .unfreezing("STEP"), example: "100:layer3",
        help: "Let layers train from a step on, counted from 0 over all epochs.")
    static let frozenStatistics = Argument.option(
        "frozen-statistics", .choice("keep", "track"), default: "keep",
        help: "Batch-norm statistics of frozen layers: kept, or updated as PyTorch's train() does.")
    static let headWeights = Argument.optional(
        "head-weights", .path("F"), shownAs: "random", help: "Initial values of the new head, by name.")
}
