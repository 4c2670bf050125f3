import GraftGraph
import GraftTensor

/// Which parameters of a network a selector names.
///
/// A selector is a comma-separated list of torchvision module or parameter names (`layer3`, `layer4.1.conv2`,
/// `fc.bias`; a name covers everything below it), globs (`layer?.0.*`), and the words `all`, `head` and `backbone`.
public struct ParameterSelection: Sendable, Hashable, CustomStringConvertible {
    /// The entries of the list.
    public let entries: [String]

    /// Splits a selector at its commas.
    public init(_ selector: String) {
        entries = selector.split(separator: ",").map { $0.trimmingSpaces() }.filter { !$0.isEmpty }
    }

    /// The selector as it is written.
    public var description: String { entries.joined(separator: ",") }

    /// The names among `parameters` that the selector names, in their order.
    ///
    /// - Throws: ``GraftError/unknownSelector(_:near:)`` for the first entry that names nothing.
    func names(among parameters: [String], head: String) throws(GraftError) -> [String] {
        var selected: Set<String> = []
        for entry in entries {
            let matches = parameters.filter { Self.matches(entry, $0, head: head) }
            guard !matches.isEmpty else {
                throw .unknownSelector(
                    entry, near: nearMatches(to: entry, in: Self.modules(of: parameters) + ["head", "backbone", "all"]))
            }
            selected.formUnion(matches)
        }
        guard !entries.isEmpty else { throw .unknownSelector("", near: []) }
        return parameters.filter(selected.contains)
    }

    private static func matches(_ entry: String, _ name: String, head: String) -> Bool {
        switch entry {
        case "all": return true
        case "head": return isBelow(head, name)
        case "backbone": return !isBelow(head, name)
        default:
            guard entry.contains(where: { $0 == "*" || $0 == "?" }) else { return isBelow(entry, name) }
            // A glob may name a module: it then covers everything below it.
            let components = name.split(separator: ".")
            return components.indices.contains { last in
                matchesGlob(Array(entry.utf8), Array(components[...last].joined(separator: ".").utf8))
            }
        }
    }

    private static func isBelow(_ module: String, _ name: String) -> Bool {
        name == module || name.hasPrefix(module + ".")
    }

    /// `*` matches any run of characters, dots included; `?` matches one.
    private static func matchesGlob(_ pattern: [UInt8], _ text: [UInt8]) -> Bool {
        var p = 0
        var t = 0
        var star = -1
        var mark = 0
        while t < text.count {
            if p < pattern.count, pattern[p] == text[t] || pattern[p] == UInt8(ascii: "?") {
                p += 1
                t += 1
            } else if p < pattern.count, pattern[p] == UInt8(ascii: "*") {
                star = p
                mark = t
                p += 1
            } else if star >= 0 {
                p = star + 1
                mark += 1
                t = mark
            } else {
                return false
            }
        }
        while p < pattern.count, pattern[p] == UInt8(ascii: "*") { p += 1 }
        return p == pattern.count
    }

    /// Parameter names and every module above them.
    private static func modules(of parameters: [String]) -> [String] {
        var result: Set<String> = []
        for name in parameters {
            var prefix = ""
            for component in name.split(separator: ".") {
                prefix += prefix.isEmpty ? String(component) : ".\(component)"
                result.insert(prefix)
            }
        }
        return Array(result)
    }
}

extension Substring {
    fileprivate func trimmingSpaces() -> String {
        var text = self
        while text.first == " " { text.removeFirst() }
        while text.last == " " { text.removeLast() }
        return String(text)
    }
}
