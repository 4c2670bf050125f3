/// A group of arguments under one heading of the help text.
struct ArgumentGroup: Sendable {
    var title: String
    var arguments: [any AnyArgument]

    init(_ title: String, _ lists: [any AnyArgument]...) {
        self.title = title
        arguments = lists.flatMap { $0 }
    }
}

/// A command as data: what it is called, what it takes, what it does.
struct Command: Sendable {
    var name: String
    /// One line, for the overview.
    var summary: String
    /// A paragraph for the command's own help; may be empty.
    var discussion = ""
    /// Complete command lines, each with what it does.
    var examples: [String] = []
    var groups: [ArgumentGroup]
    /// Names of required arguments that may be missing beside what is given: the command finds them elsewhere.
    var waived: @Sendable (ArgumentValues) -> Set<String> = { _ in [] }
    /// Conditions between arguments, checked before anything is loaded.
    var validate: @Sendable (ArgumentValues) throws(UsageError) -> Void = { _ in }
    var run: @Sendable (ArgumentValues) throws -> Void

    /// All arguments in the order of declaration.
    var arguments: [any AnyArgument] { groups.flatMap(\.arguments) }
    var positionals: [any AnyArgument] { arguments.filter { $0.form == .positional } }
    var options: [any AnyArgument] { arguments.filter { $0.form != .positional } }
}
