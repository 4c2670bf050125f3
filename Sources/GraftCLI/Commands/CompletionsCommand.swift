import Graft

/// `graft completions`
enum CompletionsCommand {
    static let what = Argument.positional(
        "SHELL", .choice("bash", "zsh", "fish", "layers", "selectors", "devices"), placeholderValue: "",
        help:
            "bash, zsh or fish: that shell's script. layers, selectors or devices: words, one a line, that the scripts ask "
            + "for.")
    static let model = Argument.optional(
        "model", .architecture, shownAs: "what the weights file names", help: "Network of layers and selectors.")
    static let weights = Argument.optional(
        "weights", .path("F"), shownAs: "none", help: "Weights file that names the network of layers and selectors.")

    static let command = Command(
        name: "completions",
        summary: "Print a script with which bash, zsh or fish completes the command line.",
        discussion: """
            The script follows from the declarations of commands and options. Commands, options, words of a closed set, \
            files and folders, architectures, devices and the layers of the network that --model or --weights names are \
            completed.
            """,
        examples: [
            "source <(graft completions bash)                                      # in ~/.bashrc",
            "source <(graft completions zsh)                         # in ~/.zshrc, behind compinit",
            "graft completions fish > ~/.config/fish/completions/graft.fish",
        ],
        groups: [
            ArgumentGroup("What", [what]),
            ArgumentGroup("Words", [model, weights]),
        ],
        validate: { values throws(UsageError) in
            let needsNetwork = ["layers", "selectors"].contains(values[what])
            for argument in [model as any AnyArgument, weights] where values.isGiven(argument) && !needsNetwork {
                throw UsageError("\(argument.display) applies to layers and selectors only, found \(values[what])")
            }
            if values[what] == "layers", values[model] == nil, values[weights] == nil {
                throw UsageError("layers needs --model MODEL or --weights F")
            }
        },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let script = CompletionScript(commands: CommandLineTool.commands, models: Architecture.all.map(\.name))
        switch values[what] {
        case "bash": try Console.result(script.bash)
        case "zsh": try Console.result(script.zsh)
        case "fish": try Console.result(script.fish)
        case "devices":
            let listed = Device.all().devices.filter { $0.rejection == nil }.map(\.description.selector)
            try printWords(["auto", "cpu", "opencl", "gpu"] + listed.filter { $0 != "cpu" })
        case "layers": try printWords(architecture(values)?.layerNames ?? [])
        default: try printWords((architecture(values)?.moduleNames ?? []) + ["all", "head", "backbone"])
        }
    }

    private static func architecture(_ values: ArgumentValues) throws -> Architecture? {
        if let name = values[model] { return try Architecture.named(name) }
        return try values[weights].map { try Model(weights: $0).architecture }
    }

    private static func printWords(_ words: [String]) throws {
        try Console.result(words.map { $0 + "\n" }.joined())
    }
}
