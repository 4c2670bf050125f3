import Graft

/// `graft convert`
enum ConvertCommand {
    static let input = Argument.positional(
        "IN", .path("IN"), placeholderValue: "",
        help: "Weights: .pth (any container), .safetensors or .npz; the content says which.")
    static let output = Argument.positional(
        "OUT", .path("OUT"), placeholderValue: "",
        help: "New file; its ending says the format: .pth, .safetensors or .npz. May be IN.")
    static let format = Argument.optional(
        "format", .choice("pth", "safetensors", "npz"), shownAs: "what the ending of OUT says", example: "pth",
        help: "Format of OUT.")
    static let names = Argument.option(
        "names", .choice("keep", "torchvision", "timm"), default: "keep",
        help: "Tensor names of OUT. timm's differ from torchvision's for VGG; any command reads both.")
    static let model = Argument.optional(
        "model", .text("MODEL"), shownAs: "what the file says",
        help: "Check that the weights fit this architecture, and write its name and preprocessing into OUT.")

    static let command = Command(
        name: "convert",
        summary: "Write weights as another kind of file.",
        discussion: """
            Names, order, element types and shapes of the tensors are kept. A .pth file is PyTorch's zip, for \
            torch.load(weights_only=True). Architecture, class names and preprocessing go along: in safetensors' \
            __metadata__, in an entry of the .pth that PyTorch passes over, in a text array __metadata__ of the .npz.
            """,
        examples: [
            "graft convert runs/a/best.safetensors best.pth",
            "graft convert resnet18.pth resnet18.safetensors --model resnet18",
            "graft convert vgg16_timm.safetensors vgg16.pth --names torchvision",
        ],
        groups: [
            ArgumentGroup("Files", [input, output]),
            ArgumentGroup("Conversion", [format, names, model]),
            Shared.outputGroup,
        ],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let output = values[output]
        guard let format = values[format].flatMap(WeightsFormat.init(rawValue:)) ?? WeightsFormat(ending: output) else {
            throw UsageError(
                "OUT \"\(output)\" has an ending that says no format; use .pth, .safetensors or .npz, or name one with "
                    + "--format")
        }
        let result = try WeightsConversion.run(
            values[input], to: output, format: format, names: TensorNaming(rawValue: values[names]),
            model: values[model])
        NetworkRequest.note("read: " + result.notes.joined(separator: "; "), values)
        if values[Shared.json] {
            let json: JSON = [
                "file": .string(output), "format": .string(result.format.rawValue), "source": .string(result.source),
                "tensors": .integer(result.tensorCount), "elements": .integer(result.elementCount),
                "metadata": .object(
                    result.metadata.sorted { $0.key < $1.key }.map { (key: $0.key, value: .string($0.value)) }),
            ]
            try Console.result(json.pretty() + "\n")
        } else {
            let carried = result.metadata["architecture"].map { ", for \($0)" } ?? ""
            try Console.result(
                "\(output): \(result.format.rawValue), \(result.tensorCount) tensors, "
                    + "\(grouped(result.elementCount)) elements\(carried)\n")
        }
    }
}
