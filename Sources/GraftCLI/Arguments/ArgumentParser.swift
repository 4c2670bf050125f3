import Foundation
import Graft

/// The candidate most like a misspelled word, if one is near.
func nearest(_ word: String, in candidates: [String]) -> String? {
    nearMatches(to: word, in: candidates, limit: 1).first
}

/// What a command line asks for.
enum Invocation: Sendable {
    case overview
    case help(Command)
    case version
    case run(Command, ArgumentValues)
}

/// Reads a command line by swift-argument-parser's conventions: `--name value`, `--name=value`, flags, repeatable
/// options, positional arguments anywhere, and `--` after which everything is positional. Of an option that is given twice
/// the last counts, so that a script can add to a line.
struct ArgumentParser: Sendable {
    var commands: [Command]
    var environment: [String: String]

    /// Reads the words after the program's name.
    func parse(_ words: [String]) throws(UsageError) -> Invocation {
        guard let first = words.first else { return .overview }
        switch first {
        case "-h", "--help": return .overview
        case "--version": return .version
        case "help":
            guard words.count > 1 else { return .overview }
            return .help(try command(named: words[1]))
        default: break
        }
        if first.hasPrefix("-") {
            let name = split(first).name
            if commands.contains(where: { $0.options.contains { $0.display == name } }) {
                throw UsageError("\(name) stands before a command; options follow it: graft COMMAND \(name) …")
            }
            let near = nearest(first, in: ["--help", "--version"]).map { "; did you mean \($0)?" }
            throw UsageError(
                "unknown option \(first) before a command" + (near ?? "; `graft --help` lists the commands"))
        }
        let command = try command(named: first)
        return try parse(Array(words.dropFirst()), for: command)
    }

    private func command(named name: String) throws(UsageError) -> Command {
        if let command = commands.first(where: { $0.name == name }) { return command }
        let hint =
            nearest(name, in: commands.map(\.name)).map { "did you mean \"\($0)\"?" }
            ?? "the commands are " + commands.map(\.name).joined(separator: ", ")
        throw UsageError("unknown command \"\(name)\"; \(hint)")
    }

    private func parse(_ words: [String], for command: Command) throws(UsageError) -> Invocation {
        // Help wins over every fault of the rest of the line, as far as the line is options.
        let optionWords = words.prefix { $0 != "--" }
        if optionWords.contains("--help") || optionWords.contains("-h") { return .help(command) }

        var values = ArgumentValues()
        var given: Set<String> = []
        var positionalWords: [String] = []
        var index = 0
        while index < words.count {
            let word = words[index]
            index += 1
            if word == "--" {
                positionalWords += words[index...]
                break
            }
            guard word.hasPrefix("-"), word != "-" else {
                positionalWords.append(word)
                continue
            }
            let (name, inlineValue) = split(word)
            let argument = try option(named: name, written: word, in: command)
            given.insert(argument.name)
            if argument.form == .flag {
                if let inlineValue {
                    throw UsageError("\(argument.display) takes no value, and was given \"\(inlineValue)\"")
                }
                try take(argument, "", into: &values)
            } else if let inlineValue {
                try take(argument, inlineValue, into: &values)
            } else {
                guard index < words.count, isValue(words[index]) else {
                    var message = "\(argument.display) needs a value: \(argument.display) \(argument.placeholder)"
                    if index < words.count { message += "; found \(words[index])" }
                    if index < words.count, !command.options.contains(where: { $0.display == words[index] }) {
                        message += ", which as a value is written \(argument.display)=\(words[index])"
                    }
                    throw UsageError(message)
                }
                try take(argument, words[index], into: &values)
                index += 1
            }
        }
        given.formUnion(try assign(positionalWords, for: command, into: &values))
        for argument in command.arguments where !given.contains(argument.name) {
            if let name = argument.environmentName, let text = environment[name], !text.isEmpty {
                do {
                    try take(argument, text, isFromEnvironment: true, into: &values)
                } catch {
                    throw UsageError("\(error.message) (from the environment variable \(name))")
                }
            }
        }
        let waived = command.waived(values)
        let missing = command.arguments.filter {
            $0.isRequired && !given.contains($0.name) && !waived.contains($0.name)
        }
        if !missing.isEmpty {
            let names = missing.map { $0.form == .positional ? $0.placeholder : "\($0.display) \($0.placeholder)" }
            throw UsageError(
                "missing \(names.joined(separator: " and ")); usage: \(HelpText.usage(command, isComplete: false))")
        }
        try command.validate(values)
        return .run(command, values)
    }

    private func take(
        _ argument: any AnyArgument, _ text: String, isFromEnvironment: Bool = false,
        into values: inout ArgumentValues
    ) throws(UsageError) {
        try argument.accept(text, into: &values)
        if !argument.isRepeatable { values.forget(argument.name) }
        values.note(
            ArgumentValues.Occurrence(
                name: argument.name, text: text, isFromEnvironment: isFromEnvironment))
    }

    /// `--name=value` as name and value; the value of other words is nil.
    private func split(_ word: String) -> (name: String, value: String?) {
        guard let equals = word.firstIndex(of: "=") else { return (word, nil) }
        return (String(word[..<equals]), String(word[word.index(after: equals)...]))
    }

    /// Whether a word can be an option's value: anything but another option. A negative number is a value.
    private func isValue(_ word: String) -> Bool {
        guard word.hasPrefix("-"), word != "-" else { return true }
        let second = word.dropFirst().first
        return second.map { $0.isNumber || $0 == "." } ?? false
    }

    private func option(named name: String, written word: String, in command: Command) throws(UsageError)
        -> any AnyArgument
    {
        if let argument = command.options.first(where: { "--\($0.name)" == name }) { return argument }
        let elsewhere = commands.filter { other in
            other.name != command.name && other.options.contains { "--\($0.name)" == name }
        }
        if !elsewhere.isEmpty {
            let owners = elsewhere.map { "`graft \($0.name)`" }.joined(separator: ", ")
            throw UsageError("\(name) does not apply to `graft \(command.name)`; it is an option of \(owners)")
        }
        if !command.positionals.isEmpty, FileManager.default.fileExists(atPath: word) {
            throw UsageError(
                "unknown option \(name) of `graft \(command.name)`; there is a file of this name: give it behind --, as "
                    + "the last words of the line, or as ./\(word)")
        }
        if let near = nearest(name, in: command.options.map(\.display)) {
            throw UsageError("unknown option \(name) of `graft \(command.name)`; did you mean \(near)?")
        }
        throw UsageError(
            "unknown option \(name) of `graft \(command.name)`; `graft help \(command.name)` lists its options")
    }

    /// Gives positional words to the declared arguments; the last one may take several. Returns the names given.
    private func assign(_ words: [String], for command: Command, into values: inout ArgumentValues)
        throws(UsageError) -> Set<String>
    {
        var given: Set<String> = []
        var remaining = words[...]
        for argument in command.positionals {
            let count = argument.isRepeatable ? remaining.count : min(1, remaining.count)
            for word in remaining.prefix(count) {
                try take(argument, word, into: &values)
                given.insert(argument.name)
            }
            remaining = remaining.dropFirst(count)
        }
        if let surplus = remaining.first {
            throw UsageError(
                "unexpected argument \"\(surplus)\"; usage: \(HelpText.usage(command, isComplete: false))")
        }
        return given
    }
}
