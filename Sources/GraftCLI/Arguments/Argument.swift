/// How a value is written on the command line: its placeholder, what it must be, and how it is read.
struct ValueKind<Value: Sendable>: Sendable {
    /// What help shows in the value's place, in capitals.
    let placeholder: String
    /// Completes "… is not": `a whole number of at least 1`.
    let expectation: String
    /// The legal words where the set is closed; empty otherwise.
    let choices: [String]
    /// What a shell may propose for it; a closed set's words by itself.
    let completion: Completion
    /// The value of a text, or nil where the text is none.
    let read: @Sendable (String) -> Value?

    init(
        _ placeholder: String, expectation: String, choices: [String] = [], completion: Completion? = nil,
        read: @escaping @Sendable (String) -> Value?
    ) {
        self.placeholder = placeholder
        self.expectation = expectation
        self.choices = choices
        self.completion = completion ?? (choices.isEmpty ? .nothing : .words(choices))
        self.read = read
    }
}

/// What a shell may propose where a value is expected.
enum Completion: Hashable, Sendable {
    /// Anything may stand there: a number, a name.
    case nothing
    /// One of these.
    case words([String])
    /// A file of the file system.
    case files
    /// A folder of the file system.
    case folders
    /// An architecture's name.
    case models
    /// A device's selector.
    case devices
    /// Nodes of the network that the line names, separated by commas.
    case layers
    /// Modules of the network that the line names, and `all`, `head`, `backbone`, separated by commas.
    case selectors
    /// A number, a colon, and selectors.
    case positionedSelectors
}

/// Where an argument stands on the command line.
enum ArgumentForm: Hashable, Sendable {
    /// `--name VALUE` or `--name=VALUE`.
    case option
    /// `--name`, without a value.
    case flag
    /// A value by its position.
    case positional
}

/// What the parser and the help text need of an argument, whatever its type.
protocol AnyArgument: Sendable {
    /// The name without dashes; a positional argument's name is its placeholder.
    var name: String { get }
    var form: ArgumentForm { get }
    var placeholder: String { get }
    var help: String { get }
    /// What holds when the argument is not given; nil where nothing needs to be said.
    var defaultText: String? { get }
    /// The legal words where the set is closed.
    var choices: [String] { get }
    /// What a shell may propose for its value.
    var completion: Completion { get }
    var isRequired: Bool { get }
    var isRepeatable: Bool { get }
    /// An environment variable that replaces the default.
    var environmentName: String? { get }
    /// Reads one occurrence into `values`.
    func accept(_ text: String, into values: inout ArgumentValues) throws(UsageError)
    /// The value in `values`, or the default, for comparisons.
    func description(in values: ArgumentValues) -> String
}

extension AnyArgument {
    /// `--name` or the placeholder: how messages call the argument.
    var display: String { form == .positional ? placeholder : "--\(name)" }
}

/// A declared argument. It is also the key under which the parsed value is found, with its type.
struct Argument<Value: Sendable>: AnyArgument {
    let name: String
    let form: ArgumentForm
    let placeholder: String
    let help: String
    let defaultText: String?
    let choices: [String]
    let completion: Completion
    let isRequired: Bool
    let isRepeatable: Bool
    let environmentName: String?
    /// The value when the argument is not given.
    let defaultValue: Value
    fileprivate let fold: @Sendable (inout Value, String) throws(UsageError) -> Void

    func accept(_ text: String, into values: inout ArgumentValues) throws(UsageError) {
        var value = values[self]
        try fold(&value, text)
        values.set(value, for: self)
    }

    func description(in values: ArgumentValues) -> String { "\(values[self])" }
}

/// Reads `text` as `kind`, or says what is wrong with it and what would be right.
private func read<Value>(_ text: String, as kind: ValueKind<Value>, of display: String, example: String?)
    throws(UsageError) -> Value
{
    if let value = kind.read(text) { return value }
    var message = "\(display) \"\(text)\" is not \(kind.expectation)"
    if let near = nearest(text, in: kind.choices) {
        message += "; did you mean \"\(near)\"?"
    } else if let example {
        message += "; an example is \(display) \(example)"
    }
    throw UsageError(message)
}

extension Argument {
    /// An option with a default that help prints.
    static func option(
        _ name: String, _ kind: ValueKind<Value>, default defaultValue: Value, shownAs defaultText: String? = nil,
        environment: String? = nil, help: String
    ) -> Argument {
        let shown = defaultText ?? "\(defaultValue)"
        return Argument(
            name: name, form: .option, placeholder: kind.placeholder, help: help, defaultText: shown,
            choices: kind.choices, completion: kind.completion, isRequired: false, isRepeatable: false,
            environmentName: environment,
            defaultValue: defaultValue
        ) { (value: inout Value, text) throws(UsageError) in
            value = try read(text, as: kind, of: "--\(name)", example: shown)
        }
    }

    /// An option that may be absent; `shownAs` says what holds then.
    static func optional<Wrapped>(
        _ name: String, _ kind: ValueKind<Wrapped>, shownAs defaultText: String? = nil, example: String? = nil,
        help: String
    ) -> Argument where Value == Wrapped? {
        Argument(
            name: name, form: .option, placeholder: kind.placeholder, help: help, defaultText: defaultText,
            choices: kind.choices, completion: kind.completion, isRequired: false, isRepeatable: false,
            environmentName: nil, defaultValue: nil
        ) { (value: inout Wrapped?, text) throws(UsageError) in
            value = try read(text, as: kind, of: "--\(name)", example: example)
        }
    }

    /// An option that must be given. `placeholderValue` stands in its place until then and is never seen by a command.
    static func required(
        _ name: String, _ kind: ValueKind<Value>, placeholderValue: Value, help: String
    ) -> Argument {
        Argument(
            name: name, form: .option, placeholder: kind.placeholder, help: help, defaultText: nil,
            choices: kind.choices, completion: kind.completion, isRequired: true, isRepeatable: false,
            environmentName: nil,
            defaultValue: placeholderValue
        ) { (value: inout Value, text) throws(UsageError) in
            value = try read(text, as: kind, of: "--\(name)", example: nil)
        }
    }

    /// An option that may be given several times; the values are kept in order.
    static func repeatable<Element>(
        _ name: String, _ kind: ValueKind<Element>, example: String, help: String
    ) -> Argument where Value == [Element] {
        Argument(
            name: name, form: .option, placeholder: kind.placeholder, help: help, defaultText: "none",
            choices: kind.choices, completion: kind.completion, isRequired: false, isRepeatable: true,
            environmentName: nil, defaultValue: []
        ) { (value: inout [Element], text) throws(UsageError) in
            value.append(try read(text, as: kind, of: "--\(name)", example: example))
        }
    }

    /// A positional argument.
    static func positional(_ placeholder: String, _ kind: ValueKind<Value>, placeholderValue: Value, help: String)
        -> Argument
    {
        Argument(
            name: placeholder, form: .positional, placeholder: placeholder, help: help, defaultText: nil,
            choices: kind.choices, completion: kind.completion, isRequired: true, isRepeatable: false,
            environmentName: nil,
            defaultValue: placeholderValue
        ) { (value: inout Value, text) throws(UsageError) in
            value = try read(text, as: kind, of: placeholder, example: nil)
        }
    }

    /// One or more positional arguments, to the end of the line.
    static func positionals<Element>(_ placeholder: String, _ kind: ValueKind<Element>, help: String) -> Argument
    where Value == [Element] {
        Argument(
            name: placeholder, form: .positional, placeholder: placeholder, help: help, defaultText: nil,
            choices: kind.choices, completion: kind.completion, isRequired: true, isRepeatable: true,
            environmentName: nil, defaultValue: []
        ) { (value: inout [Element], text) throws(UsageError) in
            value.append(try read(text, as: kind, of: placeholder, example: nil))
        }
    }
}

extension Argument where Value == Bool {
    /// A flag: false unless given.
    static func flag(_ name: String, help: String) -> Argument {
        Argument(
            name: name, form: .flag, placeholder: "", help: help, defaultText: nil, choices: [], completion: .nothing,
            isRequired: false,
            isRepeatable: false, environmentName: nil, defaultValue: false
        ) { (value: inout Bool, _) throws(UsageError) in
            value = true
        }
    }
}

/// The parsed values of one command line.
struct ArgumentValues: Sendable {
    /// One argument as it was written.
    struct Occurrence: Sendable, Hashable {
        var name: String
        /// Empty for a flag.
        var text: String
        var isFromEnvironment = false
    }

    private var stored: [String: any Sendable] = [:]
    /// Everything that was given, in order.
    private(set) var occurrences: [Occurrence] = []

    /// The value that was given, or the default.
    subscript<Value>(_ argument: Argument<Value>) -> Value {
        stored[argument.name] as? Value ?? argument.defaultValue
    }

    /// Whether the command line itself names the argument.
    func isGiven(_ argument: some AnyArgument) -> Bool {
        occurrences.contains { $0.name == argument.name && !$0.isFromEnvironment }
    }

    mutating func set<Value>(_ value: Value, for argument: Argument<Value>) {
        stored[argument.name] = value
    }

    /// Notes that an argument was given.
    mutating func note(_ occurrence: Occurrence) { occurrences.append(occurrence) }

    /// Drops what was given for an argument before.
    mutating func forget(_ name: String) { occurrences.removeAll { $0.name == name } }

    /// Replaces the values of some arguments by those that another command line gives them.
    mutating func replace(_ names: Set<String>, from other: ArgumentValues) {
        for name in names { stored[name] = other.stored[name] }
        occurrences =
            occurrences.filter { !names.contains($0.name) }
            + other.occurrences.filter { names.contains($0.name) }
    }
}

/// A wrong command line: exit code 64.
struct UsageError: Error, Sendable {
    /// What is wrong and what would be right, without `error: `.
    var message: String

    init(_ message: String) { self.message = message }
}
