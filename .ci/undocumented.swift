import Foundation

// Names every public symbol of symbol graphs that has no doc comment, and fails if there is one.
//
//     swift .ci/undocumented.swift FILE.symbols.json…

struct SymbolGraph: Decodable {
    struct Symbol: Decodable {
        struct Kind: Decodable {
            var identifier: String
        }
        struct Comment: Decodable {
            struct Line: Decodable {
                var text: String
            }
            var lines: [Line]
        }
        struct Location: Decodable {
            struct Position: Decodable {
                var line: Int
            }
            var uri: String
            var position: Position
        }
        var kind: Kind
        var pathComponents: [String]
        var accessLevel: String
        var docComment: Comment?
        /// Absent where the compiler wrote the declaration.
        var location: Location?
    }
    var symbols: [Symbol]
}

var count = 0
var faults: [String] = []
for path in CommandLine.arguments.dropFirst() {
    let graph = try JSONDecoder().decode(SymbolGraph.self, from: Data(contentsOf: URL(filePath: path)))
    for symbol in graph.symbols where ["public", "open"].contains(symbol.accessLevel) {
        guard let location = symbol.location else { continue }
        count += 1
        let isDocumented = symbol.docComment?.lines.contains { !$0.text.allSatisfy(\.isWhitespace) } ?? false
        if !isDocumented {
            let file = location.uri.replacing("file://", with: "")
            faults.append("\(file):\(location.position.line + 1): \(symbol.pathComponents.joined(separator: "."))")
        }
    }
}
for fault in faults.sorted() { print("undocumented: \(fault)") }
print("\(count) public symbols, \(faults.count) without a doc comment")
// A graph without symbols would pass for documented.
exit(faults.isEmpty && count > 100 ? 0 : 1)
