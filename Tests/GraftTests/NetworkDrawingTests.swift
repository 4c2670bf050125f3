import Foundation
import Graft
import Testing

/// The picture of a network's graph.
@Suite struct NetworkDrawingTests {
    /// A member of each family that is not large.
    @Test(arguments: ["resnet18", "squeezenet1_1", "efficientnet_b0", "densenet121"])
    func theDrawingIsWellFormedXML(_ name: String) throws {
        var model = try Model(name, classCount: 3)
        model.freeze()
        try model.unfreeze("head")
        let svg = try NetworkDrawing(model).svg()
        let reader = try XMLReader(svg)
        #expect(reader.elements["rect", default: 0] > 8)
        #expect(reader.elements["title", default: 0] > 5)
        #expect(!svg.contains("http:") || svg.components(separatedBy: "http:").count == 2)
    }

    @Test func rolesAndResidualConnectionsAreToldApart() throws {
        var model = try Model("resnet18", classCount: 10)
        model.freeze()
        try model.unfreeze("layer3,fc")
        let svg = try NetworkDrawing(model).svg()
        for (role, count) in [("trainable", 6), ("passing", 6), ("kept", 12)] {
            let found = svg.components(separatedBy: "<rect class=\"box \(role)\"").count - 1
            #expect(found >= count, "\(role): \(found)")
        }
        #expect(!svg.contains("<rect class=\"box frozen\""))
        // Five blocks of eight have the identity as their shortcut; three go through a convolution of their own.
        #expect(svg.components(separatedBy: "class=\"e skip\"").count - 1 == 5)
        #expect(svg.contains("prefers-color-scheme:dark"))
        let all = try NetworkDrawing(Model("resnet18", classCount: 10)).svg()
        #expect(!all.contains("<rect class=\"box kept\"") && all.contains("<rect class=\"box trainable\""))
    }
}

/// Counts the elements of a text, which must be well-formed: tags are closed in order, text and attributes escaped.
private struct XMLReader {
    var elements: [String: Int] = [:]

    struct Malformed: Error { var found: String }

    init(_ text: String) throws {
        var open: [Substring] = []
        var rest = text[...]
        while let start = rest.firstIndex(of: "<") {
            guard let end = rest[start...].firstIndex(of: ">") else { throw Malformed(found: String(rest[start...])) }
            let tag = rest[rest.index(after: start)..<end]
            guard !tag.contains("<"), tag.filter({ $0 == "\"" }).count % 2 == 0 else {
                throw Malformed(found: String(tag))
            }
            rest = rest[rest.index(after: end)...]
            if tag.hasPrefix("/") {
                guard open.popLast() == tag.dropFirst() else { throw Malformed(found: String(tag)) }
                continue
            }
            let name = tag.prefix { $0 != " " && $0 != "/" }
            elements[String(name), default: 0] += 1
            if !tag.hasSuffix("/") { open.append(name) }
        }
        guard open.isEmpty else { throw Malformed(found: open.joined(separator: ",")) }
    }
}
