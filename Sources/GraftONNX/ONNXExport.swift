import GraftGraph
import GraftTensor

/// Writes a network as an ONNX model: operator set 13, batch dimension free, height and width fixed, inference form.
///
/// Batch norms stay nodes of their own and parameters keep torchvision's names, so that the file can be trained again
/// and its weights compared with the original's; runtimes fold batch norms when they load a model. Value names are node
/// names, dropout stays with its rate (a no-op in inference).
package enum ONNXExport {
    /// protobuf's own limit.
    package static let byteCountLimit = 0x7FFF_FFFF
    private static let operatorSet = 13
    /// The version of ONNX's file format that operator set 13 came with.
    private static let fileVersion = 7

    /// What a network is written with.
    package struct Request {
        package var graph: Graph
        package var state: StateDictionary
        /// Names of the nodes whose values are outputs, as ``Graph/index(of:)`` takes them; what only other nodes need
        /// is left out.
        package var outputs: [String]
        package var height: Int
        package var width: Int
        /// The model's own name.
        package var name: String
        package var metadata: [String: String]

        package init(
            graph: Graph, state: StateDictionary, outputs: [String], height: Int, width: Int, name: String,
            metadata: [String: String]
        ) {
            self.graph = graph
            self.state = state
            self.outputs = outputs
            self.height = height
            self.width = width
            self.name = name
            self.metadata = metadata
        }
    }

    /// The bytes of the file, in pieces.
    ///
    /// - Throws: `GraphError` for an image that is too small; ``ONNXError/notExportable(what:next:)``.
    package static func file(_ request: Request) throws -> [ONNXPiece] {
        var builder = try GraphBuilder(request)
        try builder.addNodes()
        // Nothing is built in memory that could not be written: weights are most of the file.
        let weightCount = builder.initializers.reduce(0) { $0 + $1.byteCount }
        guard weightCount < byteCountLimit - (1 << 20) else {
            throw ONNXError.notExportable(
                what: "the weights take \(weightCount) bytes, an ONNX file at most \(byteCountLimit)",
                next: "export a smaller network or an earlier --layer")
        }
        var model = ProtobufWriter()
        model.number(1, fileVersion)
        model.text(2, "graft")
        model.message(7) { builder.write(to: &$0) }
        model.message(8) {
            $0.text(1, "")
            $0.number(2, operatorSet)
        }
        for (key, value) in request.metadata.sorted(by: { $0.key < $1.key }) {
            model.message(14) {
                $0.text(1, key)
                $0.text(2, value)
            }
        }
        guard model.byteCount <= byteCountLimit else {
            throw ONNXError.notExportable(
                what: "the file would have \(model.byteCount) bytes, more than \(byteCountLimit)",
                next: "export a smaller network or an earlier --layer")
        }
        return model.finished
    }
}

/// A constant of the file.
private struct Initializer {
    enum Elements {
        case floats([Float])
        case integers([Int])
    }

    var name: String
    var dimensions: [Int]
    var elements: Elements

    var byteCount: Int {
        switch elements {
        case .floats(let values): values.count * 4
        case .integers(let values): values.count * 8
        }
    }

    func write(to tensor: inout ProtobufWriter) {
        for extent in dimensions { tensor.number(1, extent) }
        switch elements {
        case .floats(let values):
            tensor.number(2, Int(ONNXTensor.DataType.float.rawValue))
            tensor.text(8, name)
            tensor.raw(9, floats: values)
        case .integers(let values):
            tensor.number(2, Int(ONNXTensor.DataType.int64.rawValue))
            tensor.text(8, name)
            tensor.raw(9, values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } })
        }
    }
}

/// An attribute of a node that is written.
private enum Attribute {
    case number(Int)
    case float(Float)
    case numbers([Int])
}

/// Makes the nodes and constants of a graph.
private struct GraphBuilder {
    private let request: ONNXExport.Request
    private let graph: Graph
    private let shapes: [ActivationShape]
    private let needed: [Bool]
    private let wanted: [(name: String, node: Int)]
    private var nodes:
        [(operation: String, name: String, inputs: [String], output: String, attributes: [(String, Attribute)])] = []
    private(set) var initializers: [Initializer] = []
    /// The name of each node's value.
    private var values: [Int: String] = [:]
    /// Whether each node's value is `[N, C]` in the file.
    private var isFlat: [Int: Bool] = [:]
    private var inputName = ""

    init(_ request: ONNXExport.Request) throws {
        self.request = request
        graph = request.graph
        shapes = try graph.shapes(batch: 1, height: request.height, width: request.width)
        var wanted: [(name: String, node: Int)] = []
        for name in request.outputs { wanted.append((name, try request.graph.index(of: name))) }
        self.wanted = wanted
        var needed = [Bool](repeating: false, count: graph.nodes.count)
        for (_, index) in wanted { needed[index] = true }
        for index in graph.nodes.indices.reversed() where needed[index] {
            for input in graph.nodes[index].inputs { needed[input] = true }
        }
        self.needed = needed
    }

    mutating func addNodes() throws {
        for index in graph.nodes.indices where needed[index] { try add(index) }
        // An output that has another name than its node, `logits` above all.
        for (name, index) in wanted where values[index] != name {
            node("Identity", "\(name)/Identity", [value(index)], name, [])
        }
    }

    private func value(_ index: Int) -> String { values[index] ?? "" }

    private mutating func node(
        _ operation: String, _ name: String, _ inputs: [String], _ output: String, _ attributes: [(String, Attribute)]
    ) {
        nodes.append((operation, name, inputs, output, attributes))
    }

    private mutating func constant(_ name: String, _ values: [Int]) -> String {
        initializers.append(Initializer(name: name, dimensions: [values.count], elements: .integers(values)))
        return name
    }

    private mutating func constant(_ name: String, _ dimensions: [Int], _ values: [Float]) -> String {
        initializers.append(Initializer(name: name, dimensions: dimensions, elements: .floats(values)))
        return name
    }

    /// A parameter or statistic under its own name.
    private mutating func parameter(_ name: String) throws -> String {
        guard let tensor = request.state[name], let floats = tensor.floats else {
            throw ONNXError.notExportable(what: "there is no float32 tensor \(name)", next: "load weights that fit")
        }
        return constant(name, tensor.shape.dimensions, floats)
    }

    // MARK: Layers

    private mutating func add(_ index: Int) throws {
        let layer = graph.nodes[index].layer
        let name = graph.nodes[index].name
        let inputs = graph.nodes[index].inputs.map { value($0) }
        let input = inputs.first ?? ""
        let source = graph.nodes[index].inputs.first ?? index
        values[index] = name
        isFlat[index] = isFlat[source] ?? false
        let shape = shapes[source]
        switch layer {
        case .input:
            inputName = name
        case .convolution(let layer):
            let operands = try [input, parameter("\(name).weight")] + (layer.bias ? [parameter("\(name).bias")] : [])
            node(
                "Conv", name, operands, name,
                [
                    ("dilations", .numbers([layer.dilation, layer.dilation])), ("group", .number(layer.groups)),
                    ("kernel_shape", .numbers([layer.kernel, layer.kernel])),
                    ("pads", .numbers([Int](repeating: layer.padding, count: 4))),
                    ("strides", .numbers([layer.stride, layer.stride])),
                ])
        case .linear:
            var operand = input
            if isFlat[source] != true {
                operand = "\(name)/flat"
                node("Flatten", operand, [input], operand, [("axis", .number(1))])
            }
            try product(name, operand)
            isFlat[index] = true
        case .pixelwiseLinear:
            if isFlat[source] == true {
                try product(name, input)
                break
            }
            // A convolution whose weight has no window yet.
            let weight = spread(try parameter("\(name).weight"), [2, 3])
            node(
                "Conv", name, [input, weight, try parameter("\(name).bias")], name,
                [("kernel_shape", .numbers([1, 1]))])
        case .batchNormalization(_, let epsilon, let momentum):
            let operands = try ["weight", "bias", "running_mean", "running_var"].map { try parameter("\(name).\($0)") }
            // ONNX's momentum is the share of the old value.
            node(
                "BatchNormalization", name, [input] + operands, name,
                [("epsilon", .float(epsilon)), ("momentum", .float(1 - momentum))])
        case .layerNormalization(_, let epsilon):
            try layerNormalization(name, input, epsilon, isFlat: isFlat[source] == true)
        case .layerScale:
            // [C, 1, 1], or one row of C for what is [N, C].
            var factor = try parameter("\(graph.nodes[index].module).layer_scale")
            if isFlat[source] == true {
                node("Flatten", "\(name)/factor", [factor], "\(name)/factor", [("axis", .number(0))])
                factor = "\(name)/factor"
            }
            node("Mul", name, [input, factor], name, [])
        case .relu: node("Relu", name, [input], name, [])
        case .activation(let function): activation(function, name, input)
        case .maxPooling(let kernel, let stride, let padding, let ceilMode):
            node(
                "MaxPool", name, [input], name,
                window(kernel, stride, padding, ceilMode: ceilMode, shape: shape, output: shapes[index]))
        case .averagePooling(let kernel, let stride, let padding):
            node(
                "AveragePool", name, [input], name,
                window(kernel, stride, padding, ceilMode: false, shape: shape, output: shapes[index])
                    + [("count_include_pad", .number(1))])
        case .adaptiveAveragePooling(let height, let width):
            average(name, input, shape, height, width)
        case .add: node("Add", name, inputs, name, [])
        case .channelScale: node("Mul", name, inputs, name, [])
        // It drops in training only.
        case .stochasticDepth: node("Identity", name, [input], name, [])
        case .concatenation: node("Concat", name, inputs, name, [("axis", .number(1))])
        case .dropout(let rate):
            node("Dropout", name, [input, constant("\(name)/rate", [], [rate])], name, [])
        case .flatten:
            node("Flatten", name, [input], name, [("axis", .number(1))])
            isFlat[index] = true
        case .subsampleAndPad(let stride, let before, let after):
            let operands = [
                constant("\(name)/starts", [0, 0]), constant("\(name)/ends", [shape.height, shape.width]),
                constant("\(name)/axes", [2, 3]), constant("\(name)/steps", [stride, stride]),
            ]
            node("Slice", "\(name)/Slice", [input] + operands, "\(name)/subsampled", [])
            let pads = constant("\(name)/pads", [0, before, 0, 0, 0, after, 0, 0])
            node("Pad", name, ["\(name)/subsampled", pads], name, [])
        }
    }

    /// A linear layer on `[N, C]`.
    private mutating func product(_ name: String, _ input: String) throws {
        node(
            "Gemm", name, [input, try parameter("\(name).weight"), try parameter("\(name).bias")], name,
            [("alpha", .float(1)), ("beta", .float(1)), ("transB", .number(1))])
    }

    /// A parameter with extents of one at axes of the result.
    private mutating func spread(_ parameter: String, _ axes: [Int]) -> String {
        let spread = "\(parameter)/spread"
        node("Unsqueeze", spread, [parameter, constant("\(parameter)/axes", axes)], spread, [])
        return spread
    }

    /// `torch.nn.LayerNorm` over the channels of each pixel; an operator of its own came with operator set 17.
    private mutating func layerNormalization(_ name: String, _ input: String, _ epsilon: Float, isFlat: Bool) throws {
        func step(_ operation: String, _ inputs: [String], _ result: String) -> String {
            let attributes: [(String, Attribute)] =
                operation == "ReduceMean" ? [("axes", .numbers([1])), ("keepdims", .number(1))] : []
            node(operation, "\(name)/\(result)", inputs, "\(name)/\(result)", attributes)
            return "\(name)/\(result)"
        }
        let mean = step("ReduceMean", [input], "mean")
        let centered = step("Sub", [input, mean], "centered")
        let variance = step("ReduceMean", [step("Mul", [centered, centered], "squares")], "variance")
        let shifted = step("Add", [variance, constant("\(name)/epsilon", [], [epsilon])], "shifted")
        let normalized = step("Div", [centered, step("Sqrt", [shifted], "deviation")], "normalized")
        var weight = try parameter("\(name).weight")
        var bias = try parameter("\(name).bias")
        if !isFlat {
            weight = spread(weight, [1, 2])
            bias = spread(bias, [1, 2])
        }
        node("Add", name, [step("Mul", [normalized, weight], "scaled"), bias], name, [])
    }

    /// An element-wise function, of operators that operator set 13 has.
    private mutating func activation(_ function: Activation, _ name: String, _ input: String) {
        func gated(_ gate: String, _ attributes: [(String, Attribute)]) {
            node(gate, "\(name)/gate", [input], "\(name)/gate", attributes)
            node("Mul", name, [input, "\(name)/gate"], name, [])
        }
        let hard: [(String, Attribute)] = [("alpha", .float(1 / 6)), ("beta", .float(0.5))]
        switch function {
        case .relu: node("Relu", name, [input], name, [])
        case .relu6:
            node("Clip", name, [input, constant("\(name)/low", [], [0]), constant("\(name)/high", [], [6])], name, [])
        case .hardSigmoid: node("HardSigmoid", name, [input], name, hard)
        case .hardSwish: gated("HardSigmoid", hard)
        case .sigmoid: node("Sigmoid", name, [input], name, [])
        case .silu: gated("Sigmoid", [])
        case .gelu:
            // x · ½ · (1 + erf(x / √2)).
            let root = constant("\(name)/root", [], [Float(2).squareRoot()])
            let one = constant("\(name)/one", [], [1])
            let half = constant("\(name)/half", [], [0.5])
            node("Div", "\(name)/Div", [input, root], "\(name)/scaled", [])
            node("Erf", "\(name)/Erf", ["\(name)/scaled"], "\(name)/erf", [])
            node("Add", "\(name)/Add", ["\(name)/erf", one], "\(name)/sum", [])
            node("Mul", "\(name)/Mul", [input, "\(name)/sum"], "\(name)/double", [])
            node("Mul", name, ["\(name)/double", half], name, [])
        }
    }

    /// The attributes of a pooling window. PyTorch's `ceil_mode` leaves out a window that would begin in the far padding;
    /// where that makes a difference, the padding at the end says what `ceil_mode` would not.
    private func window(
        _ kernel: Int, _ stride: Int, _ padding: Int, ceilMode: Bool, shape: ActivationShape, output: ActivationShape
    ) -> [(String, Attribute)] {
        func rounded(_ extent: Int) -> Int { (extent + 2 * padding - kernel + stride - 1) / stride + 1 }
        let isPlain = !ceilMode || (rounded(shape.height) == output.height && rounded(shape.width) == output.width)
        func end(_ extent: Int, _ count: Int) -> Int { max(0, (count - 1) * stride + kernel - extent - padding) }
        let ends =
            isPlain ? [padding, padding] : [end(shape.height, output.height), end(shape.width, output.width)]
        return [
            ("ceil_mode", .number(ceilMode && isPlain ? 1 : 0)), ("kernel_shape", .numbers([kernel, kernel])),
            ("pads", .numbers([padding, padding] + ends)), ("strides", .numbers([stride, stride])),
        ]
    }

    /// `AdaptiveAvgPool2d`: one of ONNX's poolings where the extents divide, else one product with a matrix of averages
    /// on each side.
    private mutating func average(
        _ name: String, _ input: String, _ shape: ActivationShape, _ height: Int, _ width: Int
    ) {
        if height == 1, width == 1 {
            node("GlobalAveragePool", name, [input], name, [])
        } else if shape.height.isMultiple(of: height), shape.width.isMultiple(of: width) {
            let kernel = [shape.height / height, shape.width / width]
            node(
                "AveragePool", name, [input], name, [("kernel_shape", .numbers(kernel)), ("strides", .numbers(kernel))])
        } else {
            // rows · X · columnsᵀ, rows [height, H], columnsᵀ [W, width].
            let rows = Self.averages(shape.height, height)
            let columns = Self.averages(shape.width, width)
            let transposed = (0..<shape.width).flatMap { x in (0..<width).map { columns[$0 * shape.width + x] } }
            let left = constant("\(name)/rows", [height, shape.height], rows)
            let right = constant("\(name)/columns", [shape.width, width], transposed)
            node("MatMul", "\(name)/MatMul", [left, input], "\(name)/averaged_rows", [])
            node("MatMul", name, ["\(name)/averaged_rows", right], name, [])
        }
    }

    /// PyTorch's windows ⌊i·n/m⌋ ..< ⌈(i+1)·n/m⌉ as a matrix `[m, n]`.
    private static func averages(_ extent: Int, _ count: Int) -> [Float] {
        var matrix = [Float](repeating: 0, count: count * extent)
        for index in 0..<count {
            let start = index * extent / count
            let end = ((index + 1) * extent + count - 1) / count
            for position in start..<end { matrix[index * extent + position] = 1 / Float(end - start) }
        }
        return matrix
    }

    // MARK: Writing

    func write(to writer: inout ProtobufWriter) {
        for node in nodes {
            writer.message(1) { message in
                for input in node.inputs { message.text(1, input) }
                message.text(2, node.output)
                message.text(3, node.name)
                message.text(4, node.operation)
                for (name, attribute) in node.attributes { message.message(5) { write(name, attribute, to: &$0) } }
            }
        }
        writer.text(2, request.name)
        for initializer in initializers { writer.message(5) { initializer.write(to: &$0) } }
        let first = shapes.first ?? ActivationShape(1, 3, request.height, request.width)
        writer.message(11) {
            write(
                inputName, [.text("batch"), .number(first.channels), .number(first.height), .number(first.width)],
                to: &$0)
        }
        for (name, index) in wanted {
            let shape = shapes[index]
            var dimensions: [Dimension] = [.text("batch"), .number(shape.channels)]
            if isFlat[index] != true { dimensions += [.number(shape.height), .number(shape.width)] }
            writer.message(12) { write(name, dimensions, to: &$0) }
        }
    }

    private enum Dimension {
        case text(String)
        case number(Int)
    }

    private func write(_ name: String, _ dimensions: [Dimension], to value: inout ProtobufWriter) {
        value.text(1, name)
        value.message(2) { type in
            type.message(1) { tensor in
                tensor.number(1, Int(ONNXTensor.DataType.float.rawValue))
                tensor.message(2) { shape in
                    for dimension in dimensions {
                        shape.message(1) {
                            switch dimension {
                            case .number(let extent): $0.number(1, extent)
                            case .text(let name): $0.text(2, name)
                            }
                        }
                    }
                }
            }
        }
    }

    private func write(_ name: String, _ attribute: Attribute, to message: inout ProtobufWriter) {
        message.text(1, name)
        switch attribute {
        case .float(let value):
            message.float(2, value)
            message.number(20, 1)
        case .number(let value):
            message.number(3, value)
            message.number(20, 2)
        case .numbers(let values):
            for value in values { message.number(8, value) }
            message.number(20, 7)
        }
    }
}
