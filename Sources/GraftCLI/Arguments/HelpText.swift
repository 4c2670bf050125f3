/// The help pages, made from the declarations alone.
enum HelpText {
    /// No line is longer: 100, or what the terminal of standard output has if that is less.
    static let width = min(100, max(Console.columns(of: .output) ?? 100, 40))
    /// Where an option's text begins; on a narrow terminal it stands below the name.
    private static let nameColumn = width < 72 ? 6 : 30

    /// The page of `graft --help`.
    static func overview(of commands: [Command]) -> String {
        var lines = wrap(
            "OVERVIEW: Fine-tune pretrained image networks and extract their features, on OpenCL or on the CPU.",
            width: width)
        lines += [
            "",
            "USAGE: graft COMMAND [arguments] [options]",
            "",
            "COMMANDS",
        ]
        let column = (commands.map(\.name.count).max() ?? 0) + 4
        for command in commands {
            lines += entry(command.name, command.summary, column: column)
        }
        lines += [
            "",
            "OPTIONS",
        ]
        lines += entry("--version", "Show the version, how Graft was built, and the instruction set.", column: column)
        lines += entry("-h, --help", "Show this page; `graft help COMMAND` shows a command's options.", column: column)
        lines.append("")
        lines += wrap(
            "EXIT CODES: 0 done, 1 failure at run time, 64 wrong command line, 65 bad data, 66 no input, "
                + "69 device unavailable, 73 or 74 output cannot be written, 130 interrupted.", width: width, indent: 12
        )
        lines += wrap(
            "ENVIRONMENT: GRAFT_DEVICE is the default of --device; GRAFT_CACHE is the folder of downloads and of what can "
                + "be made again; GRAFT_HUB is a mirror of torchvision's weights; NO_COLOR switches colours off.",
            width: width, indent: 13)
        return lines.joined(separator: "\n") + "\n"
    }

    /// The page of `graft help COMMAND`.
    static func page(of command: Command) -> String {
        var lines = wrap("OVERVIEW: \(command.summary)", width: width)
        if !command.discussion.isEmpty {
            lines +=
                [""]
                + command.discussion.split(separator: "\n", omittingEmptySubsequences: false)
                .flatMap { wrap(String($0), width: width) }
        }
        lines += [""] + wrap("USAGE: \(usage(command, isComplete: true))", width: width, indent: 7)
        for group in command.groups where !group.arguments.isEmpty {
            lines += ["", group.title.uppercased()]
            for argument in group.arguments {
                lines += entry(heading(of: argument), text(of: argument), column: nameColumn)
            }
        }
        if !command.examples.isEmpty {
            lines += ["", "EXAMPLES"]
            lines += command.examples.map { "  " + $0 }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    /// `graft train DATA --model MODEL --out RUN [options]`.
    static func usage(_ command: Command, isComplete: Bool) -> String {
        var words = ["graft", command.name]
        words += command.positionals.map { $0.placeholder + ($0.isRepeatable ? "…" : "") }
        words += command.options.filter(\.isRequired).map { "\($0.display) \($0.placeholder)" }
        if command.options.contains(where: { !$0.isRequired }) { words.append("[options]") }
        return words.joined(separator: " ")
    }

    private static func heading(of argument: any AnyArgument) -> String {
        switch argument.form {
        case .positional: argument.placeholder + (argument.isRepeatable ? "…" : "")
        case .flag: argument.display
        case .option: "\(argument.display) \(argument.placeholder)"
        }
    }

    private static func text(of argument: any AnyArgument) -> String {
        var text = argument.help
        var notes: [String] = []
        if argument.isRequired, argument.form != .positional { notes.append("required") }
        if argument.isRepeatable, argument.form != .positional { notes.append("may be repeated") }
        if let defaultText = argument.defaultText { notes.append("default: \(defaultText)") }
        if let name = argument.environmentName { notes.append("environment: \(name)") }
        if !notes.isEmpty { text += " (\(notes.joined(separator: "; ")))" }
        return text
    }

    private static func entry(_ heading: String, _ text: String, column: Int) -> [String] {
        let indent = String(repeating: " ", count: column)
        let body = wrap(text, width: width - column)
        let start = "  " + heading
        guard start.count + 1 < column else { return [start] + body.map { indent + $0 } }
        let padded = start + String(repeating: " ", count: column - start.count)
        return [padded + (body.first ?? "")] + body.dropFirst().map { indent + $0 }
    }

    /// Breaks a text at spaces so that no line is longer than `width`; lines after the first are indented.
    static func wrap(_ text: String, width: Int, indent: Int = 0) -> [String] {
        var lines: [String] = []
        var line = ""
        for word in text.split(separator: " ") {
            let margin = lines.isEmpty ? "" : String(repeating: " ", count: indent)
            if line.isEmpty {
                line = margin + word
            } else if line.count + 1 + word.count <= width {
                line += " " + word
            } else {
                lines.append(line)
                line = String(repeating: " ", count: indent) + word
            }
        }
        if !line.isEmpty || lines.isEmpty { lines.append(line) }
        return lines
    }
}
