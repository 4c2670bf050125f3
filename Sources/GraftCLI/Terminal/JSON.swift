/// A JSON value whose objects keep the order of their keys.
enum JSON: Sendable, ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    case null
    case boolean(Bool)
    case integer(Int)
    /// Written with as many digits as it takes to read the same value back; a value that is not finite becomes `null`.
    case number(Double)
    case string(String)
    case array([JSON])
    case object([(key: String, value: JSON)])

    init(stringLiteral value: String) { self = .string(value) }
    init(integerLiteral value: Int) { self = .integer(value) }
    init(floatLiteral value: Double) { self = .number(value) }
    init(booleanLiteral value: Bool) { self = .boolean(value) }
    init(arrayLiteral elements: JSON...) { self = .array(elements) }
    init(dictionaryLiteral elements: (String, JSON)...) { self = .object(elements.map { (key: $0.0, value: $0.1) }) }

    /// A string, or `null`.
    static func optional(_ value: String?) -> JSON { value.map { .string($0) } ?? .null }
    /// A number, or `null`.
    static func optional(_ value: Double?) -> JSON { value.map { .number($0) } ?? .null }
    /// Strings.
    static func strings(_ values: some Sequence<String>) -> JSON { .array(values.map { .string($0) }) }

    /// The text on one line.
    var compact: String {
        switch self {
        case .null: "null"
        case .boolean(let value): value ? "true" : "false"
        case .integer(let value): "\(value)"
        case .number(let value): Self.text(value)
        case .string(let value): Self.quoted(value)
        case .array(let values): "[" + values.map(\.compact).joined(separator: ", ") + "]"
        case .object(let entries):
            "{" + entries.map { "\(Self.quoted($0.key)): \($0.value.compact)" }.joined(separator: ", ") + "}"
        }
    }

    /// The text with one entry of the outer two levels a line.
    func pretty(levels: Int = 2, indent: Int = 0) -> String {
        let inner = String(repeating: " ", count: indent + 2)
        let outer = String(repeating: " ", count: indent)
        switch self {
        case .array(let values) where levels > 0 && !values.isEmpty:
            let lines = values.map { inner + $0.pretty(levels: levels - 1, indent: indent + 2) }
            return "[\n" + lines.joined(separator: ",\n") + "\n" + outer + "]"
        case .object(let entries) where levels > 0 && !entries.isEmpty:
            let lines = entries.map {
                inner + "\(Self.quoted($0.key)): \($0.value.pretty(levels: levels - 1, indent: indent + 2))"
            }
            return "{\n" + lines.joined(separator: ",\n") + "\n" + outer + "}"
        default: return compact
        }
    }

    private static func text(_ value: Double) -> String {
        guard value.isFinite else { return "null" }
        if value == value.rounded(), value.magnitude < 1e15 { return "\(Int(value)).0" }
        return "\(value)"
    }

    private static func quoted(_ text: String) -> String {
        var result = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": result += "\\\""
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\r": result += "\\r"
            case "\t": result += "\\t"
            case _ where scalar.value < 0x20 || scalar.value == 0x7F:
                let digits = String(scalar.value, radix: 16)
                result += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result + "\""
    }
}
