import Foundation
import GraftCheckpoint
import GraftGraph
import GraftVision

/// A network's graph as an SVG picture: one box for each convolution with what follows it, edges with residual
/// connections beside, and colours and borders that tell what trains, what is frozen and what is computed once.
///
/// The picture is self-contained, and light or dark as the viewer is.
public struct NetworkDrawing: Sendable {
    private struct Box {
        var nodes: [Int]
        var name: String
        var kinds: String
        var shape: String
        var parameterCount: Int
        var role: TrainingRole
        var stage: String
        var inputs: [Int]
        var row = 0
        var column = 0
        var y = 0
    }

    private let boxes: [Box]
    private let title: String
    private let counts: [TrainingRole: Int]

    private static let width = 300
    private static let height = 42
    private static let rowGap = 18
    private static let columnGap = 22
    private static let stageGap = 16
    private static let gutter = 104
    private static let top = 92
    private static let laneWidth = 11
    private static let laneCount = 12

    /// Draws a model with its trainable parameters.
    ///
    /// - Parameters:
    ///   - model: the network.
    ///   - frozenStatistics: what batch norms with frozen parameters do.
    ///   - keepsOutputs: whether training keeps the frozen part's outputs, as `--cache auto` does.
    /// - Throws: `GraphError` for an image size that is too small.
    public init(_ model: Model, frozenStatistics: FrozenStatistics = .keep, keepsOutputs: Bool = true) throws {
        let graph = model.graph
        let size = model.preprocessing.imageSize
        let shapes = try graph.shapes(batch: 1, height: size, width: size)
        let roles = try TrainabilityPlan.roles(
            model, frozenStatistics: frozenStatistics, dropout: true, keepsOutputs: keepsOutputs)
        let stages = TrainabilityPlan.blockNames(graph)
        var consumers = [Int](repeating: 0, count: graph.nodes.count)
        for node in graph.nodes {
            for input in Set(node.inputs) { consumers[input] += 1 }
        }
        var parameters = [Int](repeating: 0, count: graph.nodes.count)
        var trains = [Bool](repeating: false, count: graph.nodes.count)
        for parameter in graph.parameters where parameter.role.isTrainable {
            parameters[parameter.node] += parameter.shape.elementCount
            if model.trainable.contains(parameter.name) { trains[parameter.node] = true }
        }
        var boxOf: [Int] = []
        var boxes: [Box] = []
        for (index, node) in graph.nodes.enumerated() {
            let isNorm =
                switch node.layer {
                case .batchNormalization, .layerNormalization: true
                case .input, .convolution, .linear, .pixelwiseLinear, .layerScale, .relu, .activation, .maxPooling,
                    .averagePooling, .adaptiveAveragePooling, .add, .concatenation, .dropout, .stochasticDepth,
                    .channelScale, .flatten, .subsampleAndPad:
                    false
                }
            if let input = node.inputs.first, node.inputs.count == 1, consumers[input] == 1,
                Self.joinsItsInput(node.layer), stages[input] == stages[index] || parameters[index] == 0 || isNorm,
                index > 0, input > 0
            {
                boxOf.append(boxOf[input])
                boxes[boxOf[input]].nodes.append(index)
            } else {
                boxOf.append(boxes.count)
                var seen: Set<Int> = []
                let inputs = node.inputs.map { boxOf[$0] }.filter { seen.insert($0).inserted }
                boxes.append(
                    Box(
                        nodes: [index], name: node.name, kinds: "", shape: "", parameterCount: 0, role: roles[index],
                        stage: stages[index], inputs: inputs))
            }
        }
        for index in boxes.indices {
            let members = boxes[index].nodes
            let owners = members.filter { parameters[$0] > 0 }
            let found = Set((owners.isEmpty ? members : owners).map { roles[$0] })
            boxes[index].role = [TrainingRole.trainable, .passing, .frozen].first(where: found.contains) ?? .kept
            boxes[index].parameterCount = members.reduce(0) { $0 + parameters[$1] }
            boxes[index].kinds = members.map { Self.kind(graph.nodes[$0].layer) }.joined(separator: ", ")
            let shape = shapes[members.last ?? 0]
            boxes[index].shape =
                shape.pixelCount == 1
                ? "\(shape.channels)" : "\(shape.channels)×\(shape.height)×\(shape.width)"
        }
        var counts: [TrainingRole: Int] = [:]
        for (index, count) in parameters.enumerated() where count > 0 { counts[roles[index], default: 0] += count }
        self.counts = counts
        title = "\(model.architecture.name), \(model.classCount) classes, input 3×\(size)×\(size)"
        self.boxes = Self.placed(boxes)
    }

    /// The kind of layer, shorter than in the summary's table.
    private static func kind(_ layer: Layer) -> String {
        ModelSummary.name(of: layer).replacingOccurrences(of: "convolution", with: "conv")
    }

    /// Whether a layer is drawn in the box of the layer before it.
    private static func joinsItsInput(_ layer: Layer) -> Bool {
        switch layer {
        case .batchNormalization, .layerNormalization, .layerScale, .relu, .activation, .dropout, .stochasticDepth,
            .flatten:
            true
        case .input, .convolution, .linear, .pixelwiseLinear, .maxPooling, .averagePooling, .adaptiveAveragePooling,
            .add,
            .concatenation, .channelScale, .subsampleAndPad:
            false
        }
    }

    /// A row for each step from the image, and a column for each branch.
    private static func placed(_ boxes: [Box]) -> [Box] {
        var boxes = boxes
        var used: [Int: Int] = [:]
        for index in boxes.indices {
            let row = (boxes[index].inputs.map { boxes[$0].row }.max() ?? -1) + 1
            boxes[index].row = row
            boxes[index].column = used[row, default: 0]
            used[row, default: 0] += 1
        }
        var y = top
        var stage: String?
        for row in 0..<(used.keys.max() ?? 0) + 1 {
            let members = boxes.indices.filter { boxes[$0].row == row }
            let here = members.first.map { boxes[$0].stage }
            if let stage, stage != here { y += stageGap }
            stage = here
            for member in members { boxes[member].y = y }
            y += height + rowGap
        }
        return boxes
    }

    private func left(_ box: Box) -> Int { Self.gutter + box.column * (Self.width + Self.columnGap) }

    private static func words(_ role: TrainingRole) -> String {
        switch role {
        case .trainable: "trains"
        case .passing: "frozen, passes gradients"
        case .kept: "frozen, computed once and kept"
        case .frozen: "frozen"
        }
    }

    private static let symbols: [TrainingRole: String] = [.trainable: "●", .passing: "◐", .kept: "■", .frozen: "○"]

    private static let style = """
        text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans","DejaVu Sans",sans-serif;fill:#57606a}\
        .n{font-weight:600;fill:#1b1f24}.t{font-size:17px;font-weight:600;fill:#1b1f24}\
        .page{fill:#fff}.stage{fill:#f5f6f8;stroke:#d8dee4}.e{fill:none;stroke:#6e7781;stroke-width:1.5}\
        .arrow{fill:#6e7781}.skip{stroke:#8250df;stroke-width:2}.box{stroke-width:1.5}\
        .trainable{fill:#d3f3dc;stroke:#0f6d31;stroke-width:2.5}.passing{fill:#fdf0c4;stroke:#7d4e00;stroke-dasharray:6 3}\
        .kept{fill:#dbeefe;stroke:#0a5ca8}.plain{fill:#fff;stroke:#6e7781}.frozen{fill:#eceff2;stroke:#59636e;stroke-dasharray:2 3}\
        @media(prefers-color-scheme:dark){text{fill:#a8b3be}.n,.t{fill:#e6edf3}.page{fill:#0d1117}\
        .stage{fill:#161b22;stroke:#30363d}.e{stroke:#8b949e}.arrow{fill:#8b949e}.skip{stroke:#b794ff}\
        .trainable{fill:#12361f;stroke:#7ee2a0}.passing{fill:#3a2d06;stroke:#f2cc60}\
        .kept{fill:#0e2f4f;stroke:#8cc8ff}.plain{fill:#0d1117;stroke:#8b949e}.frozen{fill:#272e36;stroke:#b3bcc5}}
        """

    /// The picture.
    public func svg() -> String {
        let edges = boxes.indices.flatMap { target in boxes[target].inputs.map { (from: $0, to: target) } }
        let skips = lanes(edges.filter { isSkip($0.from, $0.to) })
        let columns = (boxes.map(\.column).max() ?? 0) + 1
        let lanesUsed = (skips.map(\.lane).max() ?? -1) + 1
        let right = Self.gutter + columns * (Self.width + Self.columnGap) - Self.columnGap
        let width = max(right + lanesUsed * Self.laneWidth + (lanesUsed > 0 ? 24 : 12), 560)
        let height = (boxes.map(\.y).max() ?? 0) + Self.height + 24
        var body = "<rect class=\"page\" width=\"\(width)\" height=\"\(height)\"/>\n"
        body += "<text class=\"t\" x=\"16\" y=\"28\">\(escapedHTML(title))</text>\n"
        var x = 16
        var y = 50
        for role in TrainingRole.allCases {
            guard let count = counts[role] else { continue }
            let text = "\(Self.symbols[role] ?? "") \(Self.words(role)): \(ReportNumber.grouped(count)) parameters"
            let length = 30 + text.count * 7
            if x + length > width, x > 16 {
                x = 16
                y += 20
            }
            body +=
                "<rect class=\"box \(role.rawValue)\" x=\"\(x)\" y=\"\(y - 11)\" width=\"18\" height=\"14\" rx=\"3\"/>"
            body += "<text x=\"\(x + 24)\" y=\"\(y)\">\(text)</text>\n"
            x += length
        }
        body += stages(right: right)
        for edge in edges where !isSkip(edge.from, edge.to) { body += line(boxes[edge.from], boxes[edge.to]) }
        for skip in skips { body += bow(boxes[skip.from], boxes[skip.to], x: right + 14 + skip.lane * Self.laneWidth) }
        for box in boxes { body += rectangle(box) }
        return """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(width) \(height)" width="\(width)" height="\(height)" \
            role="img" aria-label="\(escapedHTML(spoken))">
            <title>\(escapedHTML(title))</title>
            <style>\(Self.style)</style>
            <defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
            markerUnits="userSpaceOnUse" orient="auto"><path class="arrow" d="M0 0L8 4L0 8z"/></marker></defs>
            \(body)</svg>

            """
    }

    private var spoken: String {
        let parts = TrainingRole.allCases.compactMap { role in
            counts[role].map { "\(Self.words(role)): \($0) parameters" }
        }
        return "\(title); \(boxes.count) boxes from the image to the scores; \(parts.joined(separator: "; "))"
    }

    /// Whether an edge has to go around boxes: it passes rows whose first columns are taken.
    private func isSkip(_ from: Int, _ to: Int) -> Bool {
        boxes[to].row - boxes[from].row > 1
            && boxes.contains {
                $0.row > boxes[from].row && $0.row < boxes[to].row && $0.column == boxes[from].column
            }
    }

    /// A lane beside the boxes for each edge that goes around some, so that edges of the same rows lie beside each other.
    private func lanes(_ edges: [(from: Int, to: Int)]) -> [(from: Int, to: Int, lane: Int)] {
        var ends: [[Range<Int>]] = []
        let ordered = edges.sorted {
            let spans = (boxes[$0.to].row - boxes[$0.from].row, boxes[$1.to].row - boxes[$1.from].row)
            return (spans.0, $0.from) < (spans.1, $1.from)
        }
        return ordered.map { edge in
            let range = boxes[edge.from].row..<boxes[edge.to].row
            var lane = 0
            while lane < ends.count, lane < Self.laneCount - 1, ends[lane].contains(where: { $0.overlaps(range) }) {
                lane += 1
            }
            while ends.count <= lane { ends.append([]) }
            ends[lane].append(range)
            return (edge.from, edge.to, lane)
        }
    }

    private func stages(right: Int) -> String {
        var result = ""
        var order: [String] = []
        var members: [String: [Box]] = [:]
        for box in boxes {
            if members[box.stage] == nil { order.append(box.stage) }
            members[box.stage, default: []].append(box)
        }
        for stage in order {
            guard let inside = members[stage], let low = inside.map(\.y).min(), let high = inside.map(\.y).max(),
                inside.contains(where: { $0.parameterCount > 0 })
            else { continue }
            let count = inside.reduce(0) { $0 + $1.parameterCount }
            result +=
                "<rect class=\"stage\" x=\"8\" y=\"\(low - 7)\" width=\"\(right)\" height=\"\(high - low + Self.height + 14)\" rx=\"8\"/>"
            result += "<text class=\"n\" x=\"16\" y=\"\(low + 17)\">\(escapedHTML(stage))</text>"
            result += "<text x=\"16\" y=\"\(low + 33)\">\(ReportNumber.grouped(count))</text>\n"
        }
        return result
    }

    private func rectangle(_ box: Box) -> String {
        let x = left(box)
        // Additions and poolings among layers that train have nothing that could be frozen.
        let isPlain = box.parameterCount == 0 && box.role == .passing
        let symbol = isPlain ? "" : Self.symbols[box.role] ?? ""
        let style = isPlain ? "plain" : box.role.rawValue
        let words = isPlain ? "no parameters, passes gradients" : Self.words(box.role)
        var detail = box.kinds
        if box.parameterCount > 0 { detail += " · \(ReportNumber.grouped(box.parameterCount))" }
        if detail.count > 41 { detail = String(detail.prefix(40)) + "…" }
        let room = 34 - box.shape.count
        let name = box.name.count > room ? "…" + box.name.suffix(max(room - 1, 4)) : box.name
        return """
            <g><title>\(escapedHTML("\(box.name): \(box.kinds), output \(box.shape), \(words)"))</title>\
            <rect class="box \(style)" x="\(x)" y="\(box.y)" width="\(Self.width)" height="\(Self.height)" rx="6"/>\
            <text class="n" x="\(x + 10)" y="\(box.y + 17)">\(symbol) \(escapedHTML(name))</text>\
            <text x="\(x + Self.width - 10)" y="\(box.y + 17)" text-anchor="end">\(box.shape)</text>\
            <text x="\(x + 10)" y="\(box.y + 33)">\(escapedHTML(detail))</text></g>

            """
    }

    /// An edge to a box below.
    private func line(_ from: Box, _ to: Box) -> String {
        let start = left(from) + Self.width / 2
        let end = left(to) + Self.width / 2
        let y = from.y + Self.height
        if start == end { return "<path class=\"e\" marker-end=\"url(#a)\" d=\"M\(start) \(y)V\(to.y - 1)\"/>\n" }
        // Down its own column to the row above, then across.
        let turn = to.y - Self.rowGap
        return
            "<path class=\"e\" marker-end=\"url(#a)\" d=\"M\(start) \(y)V\(turn)C\(start) \(to.y - 4) \(end) \(turn) "
            + "\(end) \(to.y - 1)\"/>\n"
    }

    /// An edge around the boxes between.
    private func bow(_ from: Box, _ to: Box, x: Int) -> String {
        let start = left(from) + Self.width
        let end = left(to) + Self.width
        let y = from.y + Self.height * 3 / 4
        let target = to.y + Self.height / 4
        return "<path class=\"e skip\" marker-end=\"url(#a)\" d=\"M\(start) \(y)H\(x - 8)Q\(x) \(y) \(x) \(y + 8)"
            + "V\(target - 8)Q\(x) \(target) \(x - 8) \(target)H\(end + 1)\"/>\n"
    }

    /// Writes the picture to a file.
    public func write(to path: String) throws { try AtomicFile.write(svg(), to: path) }
}

extension RGBImage {
    /// Writes the picture as a PNG file; an older file stays as it was when that fails.
    public func writePNG(to path: String) throws { try AtomicFile.write(ImageCodec.encodePNG(self), to: path) }
}
