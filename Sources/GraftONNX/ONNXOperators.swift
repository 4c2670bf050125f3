import GraftGraph
import GraftTensor

/// ONNX's operators that are read, by name: each makes a layer, a constant or a computation with shapes of a node.
///
/// A new operator is an entry of `table`, or of the table of its family, and a function.
enum ONNXOperators {
    typealias Operation = @Sendable (inout ONNXGraphReader, ONNXNode) throws -> ONNXGraphReader.Value

    static let table: [String: Operation] = layers.merging(constants) { first, _ in first }
        .merging(decompositions) { first, _ in first }

    private static let layers: [String: Operation] = [
        "Conv": convolution, "Gemm": gemm, "MatMul": matrixProduct, "BatchNormalization": batchNormalization,
        "Relu": { .activation(try $0.addLayer($0.layerName($1), .relu, [$0.activation($1)])) },
        "Clip": clip, "MaxPool": maxPooling, "AveragePool": averagePooling,
        "GlobalAveragePool": {
            let input = try $0.activation($1)
            return .activation(
                try $0.addLayer($0.layerName($1), .adaptiveAveragePooling(height: 1, width: 1), [input]))
        },
        "ReduceMean": mean, "Add": add, "Sum": add, "Concat": concatenation, "Dropout": dropout, "Flatten": flatten,
        "Reshape": reshape, "Squeeze": squeeze, "Identity": identity, "Softmax": softmax, "LogSoftmax": softmax,
        "Slice": slice, "Pad": pad, "Mul": product, "HardSigmoid": hardSigmoid,
        "Sigmoid": { try function(.sigmoid, &$0, $1) }, "HardSwish": { try function(.hardSwish, &$0, $1) },
        "Gelu": gelu,
    ]

    private static let constants: [String: Operation] = [
        "Constant": constant, "Shape": extents, "Gather": gather, "Cast": identity,
    ]

    // MARK: Layers with weights

    /// One number of a list in which all must be the same, as Graft's square windows have it.
    private static func same(_ values: [Int64]?, count: Int, default fallback: Int, _ what: String) throws(NodeRefusal)
        -> Int
    {
        guard let values else { return fallback }
        guard values.count == count, let first = values.first, values.allSatisfy({ $0 == first }) else {
            throw NodeRefusal("its \(what) \(values) are not \(count) times the same number")
        }
        guard let value = Int(exactly: first), value >= 0, value <= 1 << 20 else {
            throw NodeRefusal("its \(what) \(first) is out of range")
        }
        return value
    }

    /// The padding of all four sides.
    private static func padding(_ node: ONNXNode, kernel: Int, dilation: Int, stride: Int) throws(NodeRefusal) -> Int {
        switch node.text("auto_pad") ?? "NOTSET" {
        case "NOTSET", "": return try same(node.numbers("pads"), count: 4, default: 0, "pads")
        case "VALID": return 0
        case "SAME_UPPER", "SAME_LOWER":
            // The same on both sides for an odd window that moves by one pixel, whatever the image's size.
            let reach = dilation * (kernel - 1)
            guard stride == 1, reach.isMultiple(of: 2) else {
                throw NodeRefusal(
                    "padding that depends on the image's size (auto_pad) is not read for stride \(stride)")
            }
            return reach / 2
        case let other: throw NodeRefusal("auto_pad \(other) is not read")
        }
    }

    private static let convolution: Operation = { reader, node in
        let input = try reader.activation(node)
        let weight = try reader.constant(node, 1)
        if weight.storedRank == 2 { return try pixelwiseLinear(&reader, node, input, weight) }
        let extents = weight.dimensions
        guard extents.count == 4, extents.allSatisfy({ $0 > 0 && $0 <= 1 << 24 }) else {
            throw NodeRefusal("its weight has shape \(extents), only convolutions of images are read")
        }
        guard extents[2] == extents[3] else {
            throw NodeRefusal("its window is \(extents[2])×\(extents[3]), not square")
        }
        let kernel = Int(extents[2])
        let stride = try same(node.numbers("strides"), count: 2, default: 1, "strides")
        let dilation = try same(node.numbers("dilations"), count: 2, default: 1, "dilations")
        let groups = node.number("group", default: 1)
        guard groups >= 1, groups <= 1 << 20, stride >= 1, dilation >= 1, dilation <= 1024 else {
            throw NodeRefusal("its stride, dilation or group is out of range")
        }
        let hasBias = reader.input(node, 2) != nil
        let layer = ConvolutionLayer(
            Int(extents[1]) * Int(groups), Int(extents[0]), kernel: kernel, stride: stride,
            padding: try padding(node, kernel: kernel, dilation: dilation, stride: stride), dilation: dilation,
            groups: Int(groups), bias: hasBias)
        let values = try reader.values(weight, count: weight.elementCount(reader.file), "weight")
        let bias = hasBias ? try reader.values(reader.constant(node, 2), count: layer.outputChannels, "bias") : []
        let index = try reader.addLayer(
            reader.moduleName(node, weight: node.inputs[1]), .convolution(layer), [input])
        try reader.set(index, "weight", Shape(extents.map { Int($0) }), values)
        if hasBias { try reader.set(index, "bias", [layer.outputChannels], bias) }
        return .activation(index)
    }

    /// A convolution whose weight is a linear layer's: our own form of one on each pixel.
    private static func pixelwiseLinear(
        _ reader: inout ONNXGraphReader, _ node: ONNXNode, _ input: Int, _ weight: ONNXTensor
    ) throws -> ONNXGraphReader.Value {
        let extents = weight.dimensions
        guard extents.count == 4, extents[2] == 1, extents[3] == 1, extents.allSatisfy({ $0 > 0 && $0 <= 1 << 24 }),
            try same(node.numbers("strides"), count: 2, default: 1, "strides") == 1,
            try padding(node, kernel: 1, dilation: 1, stride: 1) == 0, node.number("group", default: 1) == 1,
            reader.input(node, 2) != nil
        else { throw NodeRefusal("a linear layer's weight is read as that of a plain 1×1 convolution with bias only") }
        return .activation(
            try addPixelwiseLinear(
                &reader, node, input, inputs: Int(extents[1]), outputs: Int(extents[0]), name: weight.name,
                weight: reader.values(weight, count: weight.elementCount(reader.file), "weight"),
                bias: reader.values(reader.constant(node, 2), count: Int(extents[0]), "bias")))
    }

    private static func addPixelwiseLinear(
        _ reader: inout ONNXGraphReader, _ node: ONNXNode, _ input: Int, inputs: Int, outputs: Int, name: String,
        weight: [Float], bias: [Float]
    ) throws -> Int {
        let index = try reader.addLayer(
            reader.moduleName(node, weight: name), .pixelwiseLinear(inputFeatures: inputs, outputFeatures: outputs),
            [input])
        try reader.set(index, "weight", [outputs, inputs], weight)
        try reader.set(index, "bias", [outputs], bias)
        return index
    }

    /// A linear layer's input: what is `[N, C]`.
    private static func flatInput(_ reader: ONNXGraphReader, _ node: ONNXNode) throws -> Int {
        let input = try reader.activation(node)
        guard reader.isFlat(input) else { throw NodeRefusal("its input is not flattened to [N, C]") }
        return input
    }

    static func transposed(_ values: [Float], rows: Int, columns: Int) -> [Float] {
        (0..<columns).flatMap { column in (0..<rows).map { values[$0 * columns + column] } }
    }

    private static let gemm: Operation = { reader, node in
        let input = try flatInput(reader, node)
        let weight = try reader.constant(node, 1)
        guard weight.dimensions.count == 2, weight.dimensions.allSatisfy({ $0 > 0 && $0 <= 1 << 30 }) else {
            throw NodeRefusal("its weight has shape \(weight.dimensions), expected two extents")
        }
        guard node.number("transA", default: 0) == 0 else { throw NodeRefusal("transA is not read") }
        guard node.float("alpha", default: 1) == 1, node.float("beta", default: 1) == 1 else {
            throw NodeRefusal("alpha and beta other than 1 are not read")
        }
        let isTransposed = node.number("transB", default: 0) != 0
        let rows = Int(weight.dimensions[0])
        let columns = Int(weight.dimensions[1])
        let (outputs, inputs) = isTransposed ? (rows, columns) : (columns, rows)
        let values = try reader.values(weight, count: weight.elementCount(reader.file), "weight")
        var bias = [Float](repeating: 0, count: outputs)
        if reader.input(node, 2) != nil {
            let given = try reader.constant(node, 2).values(reader.file)
            guard given.count == outputs || given.count == 1 else {
                throw NodeRefusal("its bias has \(given.count) elements, expected \(outputs)")
            }
            bias = given.count == outputs ? given : [Float](repeating: given[0], count: outputs)
        }
        let index = try reader.addLayer(
            reader.moduleName(node, weight: node.inputs[1]), .linear(inputFeatures: inputs, outputFeatures: outputs),
            [input])
        try reader.set(
            index, "weight", [outputs, inputs], isTransposed ? values : transposed(values, rows: rows, columns: columns)
        )
        try reader.set(index, "bias", [outputs], bias)
        return .activation(index)
    }

    private static let matrixProduct: Operation = { reader, node in
        let place = place(reader, node)
        let isPixelwise = place?.isChannelsLast ?? false
        let input = try isPixelwise ? place?.layer ?? 0 : flatInput(reader, node)
        let weight = try reader.constant(node, 1)
        guard weight.dimensions.count == 2, weight.dimensions.allSatisfy({ $0 > 0 && $0 <= 1 << 30 }) else {
            throw NodeRefusal("its weight has shape \(weight.dimensions), expected two extents")
        }
        let inputs = Int(weight.dimensions[0])
        let outputs = Int(weight.dimensions[1])
        let values = try reader.values(weight, count: weight.elementCount(reader.file), "weight")
        if isPixelwise {
            let index = try addPixelwiseLinear(
                &reader, node, input, inputs: inputs, outputs: outputs, name: weight.name,
                weight: transposed(values, rows: inputs, columns: outputs),
                bias: [Float](repeating: 0, count: outputs))
            if reader.hasOneReader(node.output) { reader.awaitsBias.insert(index) }
            return .channelsLast(index)
        }
        let index = try reader.addLayer(
            reader.moduleName(node, weight: node.inputs[1]), .linear(inputFeatures: inputs, outputFeatures: outputs),
            [input])
        try reader.set(index, "weight", [outputs, inputs], transposed(values, rows: inputs, columns: outputs))
        try reader.set(index, "bias", [outputs], [Float](repeating: 0, count: outputs))
        if reader.hasOneReader(node.output) { reader.awaitsBias.insert(index) }
        return .activation(index)
    }

    private static let batchNormalization: Operation = { reader, node in
        let input = try reader.activation(node)
        guard node.number("training_mode", default: 0) == 0, node.outputs.dropFirst().allSatisfy(\.isEmpty) else {
            throw NodeRefusal("it computes statistics of the batch; export the model in evaluation mode")
        }
        let channels = reader.shape(input).channels
        let tensors = try (1...4).map { try reader.values(reader.constant(node, $0), count: channels, "input \($0)") }
        // ONNX's momentum is the share of the old value. Exporters write 0.9 as the float nearest to it.
        let momentum = 1 - node.float("momentum", default: 0.9)
        let layer = Layer.batchNormalization(
            channels: channels, epsilon: node.float("epsilon", default: 1e-5),
            momentum: (momentum * 1e5).rounded() / 1e5)
        let index = try reader.addLayer(reader.moduleName(node, weight: node.inputs[1]), layer, [input])
        for (suffix, values) in zip(["weight", "bias", "running_mean", "running_var"], tensors) {
            try reader.set(index, suffix, [channels], values)
        }
        return .activation(index)
    }

    // MARK: Layers without weights

    private static let clip: Operation = { reader, node in
        let input = try reader.activation(node)
        let low = try reader.scalar(node, 1) ?? node.float("min", default: -.infinity)
        let high = try reader.scalar(node, 2) ?? node.float("max", default: .infinity)
        guard low == 0, high == 6 || high >= .greatestFiniteMagnitude else {
            throw NodeRefusal("it cuts off at \(low) and \(high); only ReLU and ReLU6 are read")
        }
        return .activation(
            try reader.addLayer(reader.layerName(node), high == 6 ? .activation(.relu6) : .relu, [input]))
    }

    private static func function(
        _ function: Activation, _ reader: inout ONNXGraphReader, _ node: ONNXNode
    ) throws -> ONNXGraphReader.Value {
        .activation(try reader.addLayer(reader.layerName(node), .activation(function), [reader.activation(node)]))
    }

    private static let hardSigmoid: Operation = { reader, node in
        guard abs(node.float("alpha", default: 0.2) - 1 / 6) < 1e-6, node.float("beta", default: 0.5) == 0.5 else {
            throw NodeRefusal("only PyTorch's (alpha 1/6, beta 0.5) is read")
        }
        return try function(.hardSigmoid, &reader, node)
    }

    private static let gelu: Operation = { reader, node in
        guard node.text("approximate") ?? "none" == "none" else {
            throw NodeRefusal("its approximation by tanh is not read")
        }
        guard let place = place(reader, node) else { throw NodeRefusal("its input 0 is not made by a layer") }
        let layer = try reader.addLayer(reader.layerName(node), .activation(.gelu), [place.layer])
        return ONNXPlace(layer: layer, isChannelsLast: place.isChannelsLast).value
    }

    /// A value times its own gate, or times one factor for each channel.
    private static let product: Operation = { reader, node in
        guard node.inputs.count == 2 else { throw NodeRefusal("it has \(node.inputs.count) inputs, not two") }
        if let value = try partialProduct(&reader, node) { return value }
        let operands = try [reader.activation(node, 0), reader.activation(node, 1)]
        for (place, value) in [(1, operands[0]), (0, operands[1])] where reader.nodes[operands[place]].inputs == [value]
        {
            let gate = operands[place]
            let function: Activation
            switch reader.nodes[gate].layer {
            case .activation(.sigmoid): function = .silu
            case .activation(.hardSigmoid): function = .hardSwish
            default: continue
            }
            // PyTorch's exporters write the gate where the module stands, and the product as a function of it. A gate that
            // something else reads stays, and is left out where nothing does.
            if ONNXGraphReader.isTraced(node), reader.hasOneReader(node.inputs[place]) {
                reader.replaceActivation(gate, with: function)
                return .activation(gate)
            }
            return .activation(try reader.addLayer(reader.layerName(node), .activation(function), [value]))
        }
        for (value, factor) in [(operands[0], operands[1]), (operands[1], operands[0])] {
            let shape = reader.shape(value)
            guard reader.shape(factor) == ActivationShape(shape.batch, shape.channels, 1, 1),
                reader.isFlat(value) == reader.isFlat(factor)
            else { continue }
            return .activation(try reader.addLayer(reader.layerName(node), .channelScale, [value, factor]))
        }
        throw NodeRefusal(
            "it multiplies \(reader.shape(operands[0])) and \(reader.shape(operands[1])); gates (SiLU, hard-swish) and "
                + "factors of channels are read")
    }

    private static func window(_ node: ONNXNode) throws(NodeRefusal) -> (kernel: Int, stride: Int) {
        let kernel = try same(node.numbers("kernel_shape"), count: 2, default: 0, "kernel_shape")
        guard kernel > 0 else { throw NodeRefusal("it has no window") }
        let stride = try same(node.numbers("strides"), count: 2, default: 1, "strides")
        guard stride > 0 else { throw NodeRefusal("its stride is 0") }
        guard try same(node.numbers("dilations"), count: 2, default: 1, "dilations") == 1 else {
            throw NodeRefusal("windows with gaps (dilations) are not read for pooling")
        }
        return (kernel, stride)
    }

    /// Padding that has as much at the end as at the beginning, or what `ceil_mode` stands for in our own files.
    private static func poolingPadding(
        _ reader: ONNXGraphReader, _ node: ONNXNode, input: Int, kernel: Int, stride: Int
    ) throws(NodeRefusal) -> (padding: Int, ceilMode: Bool) {
        let ceilMode = node.number("ceil_mode", default: 0) != 0
        if let pads = node.numbers("pads"), pads.count == 4, pads[0] == pads[1],
            pads[2] != pads[0] || pads[3] != pads[0],
            !ceilMode, let padding = Int(exactly: pads[0]), padding >= 0, padding <= kernel / 2
        {
            let shape = reader.shape(input)
            let output = PoolingGeometry(
                input: shape, kernel: kernel, stride: stride, padding: padding, ceilMode: true
            ).output
            func reaches(_ extent: Int, _ count: Int, _ end: Int64) -> Bool {
                end >= 0 && end <= 1 << 16 && (extent + padding + Int(end) - kernel) / stride + 1 == count
            }
            guard reaches(shape.height, output.height, pads[2]), reaches(shape.width, output.width, pads[3]) else {
                throw NodeRefusal("its pads \(pads) differ between beginning and end")
            }
            return (padding, true)
        }
        let padding = try padding(node, kernel: kernel, dilation: 1, stride: stride)
        guard padding <= kernel / 2 else { throw NodeRefusal("its padding \(padding) is over half of its window") }
        return (padding, ceilMode)
    }

    private static let maxPooling: Operation = { reader, node in
        let input = try reader.activation(node)
        let (kernel, stride) = try window(node)
        guard node.outputs.dropFirst().allSatisfy(\.isEmpty) else { throw NodeRefusal("its indices are not read") }
        let (padding, ceilMode) = try poolingPadding(reader, node, input: input, kernel: kernel, stride: stride)
        return .activation(
            try reader.addLayer(
                reader.layerName(node),
                .maxPooling(kernel: kernel, stride: stride, padding: padding, ceilMode: ceilMode), [input]))
    }

    private static let averagePooling: Operation = { reader, node in
        let input = try reader.activation(node)
        let (kernel, stride) = try window(node)
        // A window of one pixel, as adaptive pooling to the same size is exported, does nothing.
        let (padding, ceilMode) = try poolingPadding(reader, node, input: input, kernel: kernel, stride: stride)
        if kernel == 1, stride == 1, padding == 0 { return .activation(input) }
        guard !ceilMode else { throw NodeRefusal("ceil_mode is not read for averages") }
        guard padding == 0 || node.number("count_include_pad", default: 0) != 0 else {
            throw NodeRefusal("averages that leave their padding out are not read")
        }
        let shape = reader.shape(input)
        let layer: Layer =
            shape.height == kernel && shape.width == kernel && padding == 0
            ? .adaptiveAveragePooling(height: 1, width: 1)
            : .averagePooling(kernel: kernel, stride: stride, padding: padding)
        return .activation(try reader.addLayer(reader.layerName(node), layer, [input]))
    }

    private static let mean: Operation = { reader, node in
        if let value = try channelMean(reader, node) { return value }
        let input = try reader.activation(node)
        guard let axes = try reader.integers(node, attribute: "axes", input: 1), !reader.isFlat(input),
            Set(axes.map { $0 < 0 ? $0 + 4 : $0 }) == [2, 3]
        else { throw NodeRefusal("only means over height and width, and those of layer norms, are read") }
        let index = try reader.addLayer(
            reader.layerName(node), .adaptiveAveragePooling(height: 1, width: 1), [input])
        guard node.number("keepdims", default: 1) == 0 else { return .activation(index) }
        return .activation(try reader.addLayer("flatten", .flatten, [index]))
    }

    private static let add: Operation = { reader, node in
        guard node.inputs.count == 2 else { throw NodeRefusal("it adds \(node.inputs.count) values, not two") }
        if let value = try partialSum(&reader, node) { return value }
        for (index, other) in [(0, 1), (1, 0)] {
            guard case .constant(let tensor)? = reader.input(node, other) else { continue }
            // The bias of a product.
            let layer = try reader.activation(node, index)
            guard reader.awaitsBias.remove(layer) != nil else {
                throw NodeRefusal("a constant is added, and not as the bias of a product")
            }
            let count = reader.shape(layer).channels
            guard tensor.dimensions.last ?? 1 == Int64(count) else {
                throw NodeRefusal("its constant has shape \(tensor.dimensions), expected [\(count)]")
            }
            try reader.set(layer, "bias", [count], reader.values(tensor, count: count, "bias"))
            return .activation(layer)
        }
        let first = try reader.activation(node, 0)
        let second = try reader.activation(node, 1)
        guard reader.shape(first) == reader.shape(second), reader.isFlat(first) == reader.isFlat(second) else {
            throw NodeRefusal("it adds \(reader.shape(first)) and \(reader.shape(second))")
        }
        return .activation(try reader.addLayer(reader.layerName(node), .add, [first, second]))
    }

    private static let concatenation: Operation = { reader, node in
        // Of shapes, or of activations.
        var parts: [ONNXGraphReader.Extent] = []
        var isShape = true
        for index in node.inputs.indices {
            guard let extents = try shapeValue(reader, node, index) else {
                isShape = false
                break
            }
            parts += extents
        }
        if isShape, !node.inputs.isEmpty, parts.count <= 16 { return .extents(parts) }
        let axis = node.number("axis", default: 1)
        let inputs = try node.inputs.indices.map { try reader.activation(node, $0) }
        guard axis == 1 || axis == -3, inputs.allSatisfy({ !reader.isFlat($0) }) else {
            throw NodeRefusal("it joins along axis \(axis); only channels of images are joined")
        }
        let size = reader.shape(inputs[0]).with(channels: 1)
        guard inputs.allSatisfy({ reader.shape($0).with(channels: 1) == size }) else {
            throw NodeRefusal("it joins images of different sizes")
        }
        return .activation(try reader.addLayer(reader.layerName(node), .concatenation, inputs))
    }

    private static let dropout: Operation = { reader, node in
        let input = try reader.activation(node)
        let rate = try reader.scalar(node, 1) ?? node.float("ratio", default: 0.5)
        guard (0..<1).contains(rate) else { throw NodeRefusal("its ratio \(rate) is not from 0 to below 1") }
        guard node.outputs.dropFirst().allSatisfy({ $0.isEmpty || reader.readCounts[$0] == nil }) else {
            throw NodeRefusal("its mask is not read")
        }
        return .activation(try reader.addLayer(reader.layerName(node), .dropout(rate: rate), [input]))
    }

    private static let softmax: Operation = { reader, node in
        let input = try reader.activation(node)
        let axis = node.number("axis", default: -1)
        guard reader.outputNames.contains(node.output), reader.readCounts[node.output] == nil, axis == 1 || axis == -1
        else { throw NodeRefusal("only one over the classes at the very end is read") }
        reader.note("the \(node.operation) at the end is left out: outputs are the scores before it")
        return .activation(input)
    }

    // MARK: Flattening

    private static func flattened(_ reader: inout ONNXGraphReader, _ node: ONNXNode, _ input: Int) throws
        -> ONNXGraphReader.Value
    {
        if reader.isFlat(input) { return .activation(input) }
        return .activation(try reader.addLayer(reader.layerName(node), .flatten, [input]))
    }

    private static let flatten: Operation = { reader, node in
        if case .constant(var tensor)? = reader.input(node, 0), !tensor.isInteger, node.number("axis", default: 1) == 0
        {
            tensor.dimensions = [1, Int64(try tensor.elementCount(reader.file))]
            return .constant(tensor)
        }
        let input = try reader.activation(node)
        let axis = node.number("axis", default: 1)
        guard axis == 1 || axis == (reader.isFlat(input) ? -1 : -3) else {
            throw NodeRefusal("it flattens from axis \(axis), not 1")
        }
        return try flattened(&reader, node, input)
    }

    private static let reshape: Operation = { reader, node in
        if try shapeValue(reader, node, 0) != nil { return reader.input(node, 0) ?? .unknown }
        let input = try reader.activation(node)
        var target: [ONNXGraphReader.Extent]?
        if let numbers = node.numbers("shape") { target = numbers.map { .known($0) } }
        if target == nil { target = try shapeValue(reader, node, 1) }
        guard let target else { throw NodeRefusal("its shape is computed in a way that is not read") }
        let shape = reader.shape(input)
        let count = shape.channels * shape.pixelCount
        let keepsBatch: Bool =
            switch target.first {
            case .batch, .known(0), .known(-1): true
            // A batch of fixed size at export, if the rest is known to be an image's whole.
            case .known(let extent): extent > 0 && target.dropFirst() != [.known(-1)]
            case .variable, nil: false
            }
        guard keepsBatch else { throw NodeRefusal("its shape \(describe(target)) does not keep the batch") }
        let rest = Array(target.dropFirst())
        if rest == [.known(Int64(count))] || rest == [.known(-1)] { return try flattened(&reader, node, input) }
        // [N, C, 1, 1] of [N, C] is the same activation.
        if rest == [.known(Int64(shape.channels)), .known(1), .known(1)], shape.pixelCount == 1, !reader.isFlat(input) {
            return .activation(input)
        }
        throw NodeRefusal(
            "it makes \(describe(target)) of [N, \(shape.channels), \(shape.height), \(shape.width)]; only flattening is "
                + "read")
    }

    private static func describe(_ extents: [ONNXGraphReader.Extent]) -> String {
        let texts = extents.map { extent in
            switch extent {
            case .batch: "N"
            case .known(let value): "\(value)"
            case .variable: "?"
            }
        }
        return "[\(texts.joined(separator: ", "))]"
    }

    private static let squeeze: Operation = { reader, node in
        if try shapeValue(reader, node, 0) != nil { return reader.input(node, 0) ?? .unknown }
        let input = try reader.activation(node)
        let axes = try reader.integers(node, attribute: "axes", input: 1)
        guard let axes, reader.shape(input).pixelCount == 1, Set(axes.map { $0 < 0 ? $0 + 4 : $0 }) == [2, 3] else {
            throw NodeRefusal("only height and width of one pixel are squeezed")
        }
        return try flattened(&reader, node, input)
    }

    // MARK: Constants and shapes

    /// The value itself: what copies, casts and unsqueezes shapes or constants do to what is read of them.
    private static let identity: Operation = { reader, node in
        guard let value = reader.input(node, 0) else { throw NodeRefusal("it has no input") }
        switch value {
        case .constant, .extents: return value
        case .activation, .channelsLast, .partial, .halfSubsampled, .unknown:
            guard node.operation == "Identity" else { throw NodeRefusal("it is read for shapes and constants only") }
            return value
        }
    }

    private static let constant: Operation = { reader, node in
        if case .tensor(let tensor)? = node.attributes["value"] { return .constant(tensor) }
        var tensor = ONNXTensor()
        tensor.name = node.output
        switch node.attributes.first {
        case (key: "value_int", value: .number(let value))?:
            tensor.dataType = ONNXTensor.DataType.int64.rawValue
            tensor.numbers = [value]
        case (key: "value_ints", value: .numbers(let values))?:
            tensor.dataType = ONNXTensor.DataType.int64.rawValue
            tensor.dimensions = [Int64(values.count)]
            tensor.numbers = values
        case (key: "value_float", value: .float(let value))?:
            tensor.dataType = ONNXTensor.DataType.float.rawValue
            tensor.floats = [value]
        case (key: "value_floats", value: .floats(let values))?:
            tensor.dataType = ONNXTensor.DataType.float.rawValue
            tensor.dimensions = [Int64(values.count)]
            tensor.floats = values
        default: throw NodeRefusal("only tensors and numbers are read")
        }
        return .constant(tensor)
    }

    private static let extents: Operation = { reader, node in
        let input = try reader.activation(node)
        guard node.number("start", default: 0) == 0, node.attributes["end"] == nil else {
            throw NodeRefusal("start and end are not read")
        }
        let channels = ONNXGraphReader.Extent.known(Int64(reader.shape(input).channels))
        return .extents(reader.isFlat(input) ? [.batch, channels] : [.batch, channels, .variable, .variable])
    }

    /// Extents of a shape computation, from a shape or a small constant of whole numbers; nil for something else.
    private static func shapeValue(
        _ reader: ONNXGraphReader, _ node: ONNXNode, _ index: Int
    ) throws -> [ONNXGraphReader.Extent]? {
        switch reader.input(node, index) {
        case .extents(let extents)?: return extents
        case .constant(let tensor)? where tensor.isInteger && tensor.dimensions.count <= 1:
            guard tensor.dimensions.first ?? 1 <= 16 else { return nil }
            return try tensor.integers(reader.file).map { .known($0) }
        default: return nil
        }
    }

    private static let gather: Operation = { reader, node in
        guard case .extents(let extents)? = reader.input(node, 0), node.number("axis", default: 0) == 0 else {
            throw NodeRefusal("it is read for shapes only")
        }
        let indices = try reader.constant(node, 1)
        guard indices.isInteger, indices.dimensions.count <= 1 else { throw NodeRefusal("its indices are not read") }
        return .extents(
            try indices.integers(reader.file).map { index in
                let place = index < 0 ? index + Int64(extents.count) : index
                guard place >= 0, place < extents.count else { throw NodeRefusal("its index \(index) is out of range") }
                return extents[Int(place)]
            })
    }

    // MARK: The parameter-free shortcut of CIFAR's ResNets

    /// The parts of a shape, or every n-th pixel of an image, which a `Pad` of channels follows.
    private static let slice: Operation = { reader, node in
        let starts = try reader.integers(node, attribute: "starts", input: 1)
        let ends = try reader.integers(node, attribute: "ends", input: 2)
        guard let starts, let ends, starts.count == ends.count, !starts.isEmpty else {
            throw NodeRefusal("it has no starts and ends")
        }
        let axes = try reader.integers(node, attribute: "axes", input: 3) ?? (0..<Int64(starts.count)).map { $0 }
        let steps =
            try reader.integers(node, attribute: "steps", input: 4) ?? [Int64](repeating: 1, count: starts.count)
        guard axes.count == starts.count, steps.count == starts.count else {
            throw NodeRefusal("its starts, axes and steps differ in number")
        }
        if case .extents(let extents)? = reader.input(node, 0) {
            let count = Int64(extents.count)
            func place(_ index: Int64) -> Int { Int(min(count, max(0, index < 0 ? index + count : index))) }
            guard axes == [0], steps == [1], place(starts[0]) <= place(ends[0]) else {
                throw NodeRefusal("parts of a shape are read with step 1 only")
            }
            return .extents(Array(extents[place(starts[0])..<place(ends[0])]))
        }
        var step: [Int64: Int64] = [2: 1, 3: 1]
        let input: Int
        if case .halfSubsampled(let layer, let axis, let earlier)? = reader.input(node, 0) {
            input = layer
            step[axis] = earlier
        } else {
            input = try reader.activation(node)
        }
        let shape = reader.shape(input)
        for (index, axis) in axes.enumerated() {
            let axis = axis < 0 ? axis + 4 : axis
            let extent = axis == 2 ? shape.height : axis == 3 ? shape.width : Int(Int32.max)
            guard (0..<4).contains(axis), starts[index] == 0, ends[index] >= Int64(extent), steps[index] >= 1,
                steps[index] <= 1 << 16, axis >= 2 || steps[index] == 1, step[axis] ?? 1 == 1 || steps[index] == 1
            else { throw NodeRefusal("only every n-th pixel of the whole image is read") }
            if steps[index] != 1 { step[axis] = steps[index] }
        }
        switch (step[2] ?? 1, step[3] ?? 1) {
        case (1, 1): return .activation(input)
        case (let down, 1): return .halfSubsampled(input, axis: 2, step: down)
        case (1, let across): return .halfSubsampled(input, axis: 3, step: across)
        case (let down, let across):
            guard down == across else { throw NodeRefusal("its steps differ between height and width") }
            let layer = Layer.subsampleAndPad(stride: Int(down), before: 0, after: 0)
            return .activation(try reader.addLayer(reader.layerName(node), layer, [input]))
        }
    }

    private static let pad: Operation = { reader, node in
        let input = try reader.activation(node)
        guard (node.text("mode") ?? "constant") == "constant",
            try reader.scalar(node, 2) ?? node.float("value", default: 0) == 0
        else { throw NodeRefusal("only zeros are padded") }
        guard var pads = try reader.integers(node, attribute: "pads", input: 1) else {
            throw NodeRefusal("it has no pads")
        }
        if let axes = try reader.integers(node, attribute: "axes", input: 3) {
            guard pads.count == 2 * axes.count, axes.allSatisfy({ $0 >= -4 && $0 < 4 }) else {
                throw NodeRefusal("its pads and axes differ in number")
            }
            var all = [Int64](repeating: 0, count: 8)
            for (index, axis) in axes.enumerated() {
                let axis = Int(axis < 0 ? axis + 4 : axis)
                all[axis] = pads[index]
                all[axis + 4] = pads[axes.count + index]
            }
            pads = all
        }
        if pads.allSatisfy({ $0 == 0 }) { return .activation(input) }
        guard pads.count == 8, pads.enumerated().allSatisfy({ $0.offset % 4 == 1 || $0.element == 0 }),
            (0...1 << 20).contains(pads[1]), (0...1 << 20).contains(pads[5]), !reader.isFlat(input)
        else { throw NodeRefusal("its pads \(pads) are not those of channels") }
        // Behind a layer that takes every n-th pixel, both become one.
        if case .subsampleAndPad(let stride, 0, 0) = reader.nodes[input].layer,
            let source = reader.nodes[input].inputs.first
        {
            let layer = Layer.subsampleAndPad(stride: stride, before: Int(pads[1]), after: Int(pads[5]))
            return .activation(try reader.addLayer(reader.layerName(node), layer, [source]))
        }
        let layer = Layer.subsampleAndPad(stride: 1, before: Int(pads[1]), after: Int(pads[5]))
        return .activation(try reader.addLayer(reader.layerName(node), layer, [input]))
    }
}
