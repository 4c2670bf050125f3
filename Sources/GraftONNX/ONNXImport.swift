import GraftGraph
import GraftTensor

/// A classifier of images read from an ONNX file.
package struct ImportedNetwork: Sendable {
    /// The layers, without preprocessing; its last node makes the class scores.
    package var graph: Graph
    /// Every tensor of the graph's state dictionary.
    package var state: StateDictionary
    /// The layer that makes the class scores, which a new head replaces.
    package var headName: String
    package var classCount: Int
    /// Side of the images, where the file fixes it.
    package var imageSize: Int?
    /// The file's own texts.
    package var metadata: [String: String]
    /// What was found and done, a line each, for a log.
    package var notes: [String]
}

/// Reads convolutional classifiers from ONNX files: those that `torch.onnx.export` writes, and ``ONNXExport``.
package enum ONNXImport {
    /// Operator sets whose operators mean what is read here.
    private static let operatorSets: ClosedRange<Int64> = 7...25

    /// Whether the first bytes are those of an ONNX model: field 1, a small version of the format, and a field of
    /// `ModelProto` behind it.
    package static func recognizes(_ start: [UInt8]) -> Bool {
        guard start.count >= 4, start[0] == 0x08, (1...64).contains(start[1]) else { return false }
        // producer_name, producer_version, domain, model_version, doc_string, graph, opset_import, metadata_props.
        return [0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72].contains(start[2])
    }

    /// Reads a model.
    ///
    /// - Parameters:
    ///   - bytes: the whole file.
    ///   - name: what errors call it.
    /// - Returns: the layers and their tensors.
    /// - Throws: ``ONNXError``; for nodes that are not supported it names all of them.
    package static func network(_ bytes: [UInt8], name: String) throws(ONNXError) -> ImportedNetwork {
        let file = ProtobufFile(name: name, bytes: bytes)
        let model = try ONNXModel(file)
        guard let graph = model.graph else {
            throw .malformed(file: name, what: "ONNX model", found: "no graph", expected: "one")
        }
        guard let set = model.operatorSets.first(where: { $0.domain.isEmpty || $0.domain == "ai.onnx" }) else {
            throw .malformed(file: name, what: "ONNX model", found: "no operator set", expected: "one of ONNX's own")
        }
        guard operatorSets.contains(set.version) else {
            throw .unsupported(
                file: name, what: "operator set", found: "\(set.version)",
                next: "export the model with one from \(operatorSets.lowerBound) to \(operatorSets.upperBound)")
        }
        guard model.functionCount == 0 else {
            throw .unsupported(
                file: name, what: "ONNX model", found: "\(model.functionCount) functions of its own",
                next: "inline them, for example with onnx.inliner.inline_local_functions")
        }
        guard graph.sparseInitializerCount == 0 else {
            throw .unsupported(
                file: name, what: "ONNX model", found: "sparse constants", next: "export it with dense ones")
        }
        var builder = try ONNXGraphReader(file, graph, operatorSet: Int(set.version))
        try builder.readNodes()
        var network = try builder.finish()
        network.metadata = model.metadata
        let producer = model.producer.isEmpty ? "" : " by \(model.producer)"
        network.notes.insert(
            "ONNX model\(producer), operator set \(set.version), \(graph.nodes.count) nodes, "
                + "\(network.graph.parameters.count) tensors", at: 0)
        return network
    }
}

/// Why one node is not read; becomes an entry of ``ONNXError/unsupportedNodes(file:nodes:)``.
struct NodeRefusal: Error {
    var reason: String

    init(_ reason: String) { self.reason = reason }
}

/// Turns the nodes of a file into layers, one after the other.
struct ONNXGraphReader {
    /// What a name of the file stands for.
    enum Value {
        /// A layer's output.
        case activation(Int)
        case constant(ONNXTensor)
        /// A layer's output `[N, H, W, C]`.
        case channelsLast(Int)
        /// What some nodes of a layer of several have made of an output.
        case partial(ONNXPartial)
        /// Every n-th row (axis 2) or column (axis 3) of a layer's output, until the other axis follows.
        case halfSubsampled(Int, axis: Int64, step: Int64)
        /// The extents of an activation, or some of them: what shape computations hand on.
        case extents([Extent])
        /// The output of a node that is not supported: what reads it is left out without another message.
        case unknown
    }

    enum Extent: Hashable {
        case batch
        case known(Int64)
        /// Height or width, which depend on the image.
        case variable
    }

    let file: ProtobufFile
    let source: ONNXGraph
    let operatorSet: Int
    private(set) var values: [String: Value] = [:]
    private(set) var nodes: [Graph.Node] = []
    private(set) var checker: GraphChecker
    private var parameters: [String: HostTensor] = [:]
    private var nameCounts: [String: Int] = [:]
    private var usedNames: Set<String> = []
    /// How often each value is read.
    private(set) var readCounts: [String: Int] = [:]
    /// Values that are outputs of the graph.
    private(set) var outputNames: Set<String> = []
    /// Constants that more than one layer takes as its weight.
    private var weightUses: [String: Int] = [:]
    /// Linear layers made of `MatMul`, whose bias may follow: node of the layer.
    var awaitsBias: Set<Int> = []
    /// Modules that hold layers with weights, so that functions of theirs are not mistaken for them.
    private var containers: Set<String> = []
    private var notes: [String] = []
    private let imageHeight: Int?
    private let imageWidth: Int?

    init(_ file: ProtobufFile, _ source: ONNXGraph, operatorSet: Int) throws(ONNXError) {
        self.file = file
        self.source = source
        self.operatorSet = operatorSet
        for tensor in source.initializers {
            guard values.updateValue(.constant(tensor), forKey: tensor.name) == nil else {
                throw .malformed(
                    file: file.name, what: "ONNX graph", found: "the constant \(tensor.name) twice",
                    expected: "each once")
            }
        }
        // Files of older versions list constants among the inputs too.
        let constants = values
        let inputs = source.inputs.filter { constants[$0.name] == nil }
        guard let input = inputs.first, inputs.count == 1 else {
            throw .unsupported(
                file: file.name, what: "inputs of the ONNX graph",
                found: inputs.isEmpty ? "none" : inputs.map(\.name).joined(separator: ", "),
                next: "a classifier has one input, the images")
        }
        let shape = input.shape ?? []
        guard shape.count == 4, input.elementType == ONNXTensor.DataType.float.rawValue else {
            throw .unsupported(
                file: file.name, what: "input \(input.name)",
                found: "\(shape.count) dimensions of element type \(input.elementType)",
                next: "export the model with float32 images [N, 3, H, W]")
        }
        if case .known(let channels) = shape[1], channels != 3 {
            throw .unsupported(
                file: file.name, what: "input \(input.name)", found: "\(channels) channels",
                next: "Graft reads images of 3 channels in the order [N, 3, H, W]")
        }
        func extent(_ index: Int) throws(ONNXError) -> Int? {
            guard case .known(let value) = shape[index], value > 0 else { return nil }
            guard value <= 1 << 16 else {
                throw .overLimit(
                    file: file.name, what: "input \(input.name)", found: "\(value) pixels", limit: "\(1 << 16)")
            }
            return Int(value)
        }
        imageHeight = try extent(2)
        imageWidth = try extent(3)
        guard imageHeight == imageWidth else {
            throw .unsupported(
                file: file.name, what: "input \(input.name)",
                found: "images of \(imageHeight ?? 0)×\(imageWidth ?? 0)", next: "export the model for square images")
        }
        let side = imageHeight ?? 224
        checker = GraphChecker(height: side, width: side)
        for node in source.nodes {
            for name in node.inputs where !name.isEmpty { readCounts[name, default: 0] += 1 }
        }
        outputNames = Set(source.outputs.map(\.name))
        let index = try addLayer("input", .input(channels: 3), [])
        values[input.name] = .activation(index)
    }

    // MARK: Reading

    /// Reads all nodes.
    ///
    /// - Throws: ``ONNXError/unsupportedNodes(file:nodes:)`` with all that are not supported.
    mutating func readNodes() throws(ONNXError) {
        findContainers()
        var refused: [ONNXError.UnsupportedNode] = []
        for node in source.nodes {
            do {
                try read(node)
            } catch let refusal as NodeRefusal {
                refused.append(
                    ONNXError.UnsupportedNode(
                        operation: node.domain.isEmpty ? node.operation : "\(node.domain).\(node.operation)",
                        name: node.name, reason: refusal.reason))
                for output in node.outputs where !output.isEmpty { values[output] = .unknown }
            } catch let error as ONNXError {
                throw error
            } catch let error as GraphError {
                throw .malformed(
                    file: file.name, what: "ONNX node \(node.name)", found: "\(error)",
                    expected: "layers that fit one another")
            } catch {
                throw .malformed(
                    file: file.name, what: "ONNX node \(node.name)", found: "\(error)", expected: "a readable node")
            }
        }
        guard refused.isEmpty else { throw .unsupportedNodes(file: file.name, nodes: refused) }
    }

    private mutating func read(_ node: ONNXNode) throws {
        for output in node.outputs where !output.isEmpty {
            guard values[output] == nil else {
                throw ONNXError.malformed(
                    file: file.name, what: "ONNX node \(node.name)", found: "the output \(output), made before",
                    expected: "each value made once")
            }
        }
        var isPoisoned = false
        for input in node.inputs where !input.isEmpty {
            guard let value = values[input] else {
                throw ONNXError.malformed(
                    file: file.name, what: "ONNX node \(node.name) (\(node.operation))",
                    found: "the input \(input), which no earlier node makes",
                    expected: "nodes in the order of execution, without cycles")
            }
            if case .unknown = value { isPoisoned = true }
        }
        guard node.domain.isEmpty || node.domain == "ai.onnx" else {
            throw NodeRefusal("operators of \(node.domain) are not read")
        }
        guard let operation = ONNXOperators.table[node.operation] else {
            throw NodeRefusal("the operator is not read")
        }
        guard !node.output.isEmpty else { throw NodeRefusal("it has no output") }
        guard !isPoisoned else {
            values[node.output] = .unknown
            return
        }
        values[node.output] = try operation(&self, node)
    }

    // MARK: What operators use

    /// The value of an input; nil when it is absent.
    func input(_ node: ONNXNode, _ index: Int) -> Value? {
        guard index < node.inputs.count, !node.inputs[index].isEmpty else { return nil }
        return values[node.inputs[index]]
    }

    /// The layer whose output an input is.
    func activation(_ node: ONNXNode, _ index: Int = 0) throws(NodeRefusal) -> Int {
        guard case .activation(let layer)? = input(node, index) else {
            throw NodeRefusal("its input \(index) is not made by a layer")
        }
        return layer
    }

    func constant(_ node: ONNXNode, _ index: Int) throws(NodeRefusal) -> ONNXTensor {
        guard case .constant(let tensor)? = input(node, index) else {
            throw NodeRefusal("its input \(index) is not a constant")
        }
        return tensor
    }

    /// Whole numbers of an attribute, or since a later operator set of an input; nil when neither is there.
    func integers(_ node: ONNXNode, attribute: String, input index: Int) throws -> [Int64]? {
        if let values = node.numbers(attribute) { return values }
        guard let value = input(node, index) else { return nil }
        guard case .constant(let tensor) = value, tensor.isInteger else {
            throw NodeRefusal("its input \(index), \(attribute), is not a constant of whole numbers")
        }
        return try tensor.integers(file)
    }

    /// A constant with one element.
    func scalar(_ node: ONNXNode, _ index: Int) throws -> Float? {
        guard let value = input(node, index) else { return nil }
        guard case .constant(let tensor) = value else { throw NodeRefusal("its input \(index) is not a constant") }
        let values = try tensor.values(file)
        guard values.count == 1 else { throw NodeRefusal("its input \(index) has \(values.count) elements, not one") }
        return values[0]
    }

    func shape(_ index: Int) -> ActivationShape { checker.shapes[index] }

    /// Whether an activation is `[N, C]`.
    func isFlat(_ index: Int) -> Bool { flatness[index] }

    private var flatness: [Bool] = []

    /// Whether a value has no reader but one, and is no output.
    func hasOneReader(_ name: String) -> Bool { readCounts[name] == 1 && !outputNames.contains(name) }

    /// Appends a layer under a name of its own; `_1`, `_2`, … as in torch.fx where it is taken.
    mutating func addLayer(_ name: String, _ layer: Layer, _ inputs: [Int]) throws(ONNXError) -> Int {
        var unique = name
        while !usedNames.insert(unique).inserted {
            nameCounts[name, default: 0] += 1
            unique = "\(name)_\(nameCounts[name] ?? 0)"
        }
        let node = Graph.Node(name: unique, layer: layer, inputs: inputs)
        do {
            try checker.add(node)
        } catch {
            throw .malformed(
                file: file.name, what: "ONNX graph", found: "\(error)", expected: "layers that fit one another")
        }
        nodes.append(node)
        switch layer {
        case .flatten, .linear: flatness.append(true)
        case .relu, .activation, .dropout, .stochasticDepth, .add, .batchNormalization, .layerNormalization,
            .layerScale, .pixelwiseLinear:
            flatness.append(inputs.contains { flatness[$0] })
        case .input, .convolution, .maxPooling, .averagePooling, .adaptiveAveragePooling, .concatenation,
            .channelScale, .subsampleAndPad:
            flatness.append(false)
        }
        return nodes.count - 1
    }

    /// Makes an element-wise function of another one.
    mutating func replaceActivation(_ index: Int, with function: Activation) {
        nodes[index].layer = .activation(function)
    }

    /// Sets a tensor of the state dictionary.
    mutating func set(_ layer: Int, _ suffix: String, _ shape: Shape, _ values: [Float]) throws {
        guard values.count == shape.elementCount else {
            throw NodeRefusal("its \(suffix) has \(values.count) elements, not \(shape.elementCount)")
        }
        parameters["\(nodes[layer].module).\(suffix)"] = HostTensor(shape, values)
    }

    /// The values of a constant that must have so many elements.
    func values(_ tensor: ONNXTensor, count: Int, _ what: String) throws -> [Float] {
        let values = try tensor.values(file)
        guard values.count == count else {
            throw NodeRefusal("its \(what) has \(values.count) elements, expected \(count)")
        }
        return values
    }

    mutating func note(_ text: String) {
        if !notes.contains(text) { notes.append(text) }
    }

    // MARK: Names

    /// The module of a layer with weights: the constant's name without `.weight` where it has one, else where the node
    /// stands, else the operator's name.
    mutating func moduleName(_ node: ONNXNode, weight: String) -> String {
        weightUses[weight, default: 0] += 1
        if weightUses[weight] == 2 {
            notes.append("constants that several layers share become one for each")
        }
        if let module = Self.module(ofParameter: weight), !usedNames.contains(module) { return module }
        let place = path(node)
        if !place.isEmpty, !usedNames.contains(place) { return place }
        return Self.functionNames[node.operation] ?? node.operation.lowercased()
    }

    /// `layer1.0.conv1` of `layer1.0.conv1.weight`; nil for anonymous constants.
    private static func module(ofParameter name: String) -> String? {
        guard name.hasSuffix(".weight"), name.utf8.count > 7, !name.contains("::"), !name.contains("/") else {
            return nil
        }
        return String(name.dropLast(7))
    }

    /// The name of a layer without weights: the module that it is, or the function inside a module, as torch.fx names
    /// them.
    func layerName(_ node: ONNXNode) -> String {
        let place = path(node)
        let function = Self.functionNames[node.operation] ?? node.operation.lowercased()
        if place.isEmpty { return function }
        // Other exporters, and our own, name the node itself.
        guard Self.isTraced(node) else { return place }
        let isFunction = Self.functions.contains(node.operation) || containers.contains(place)
        return isFunction ? "\(place).\(function)" : place
    }

    /// Whether PyTorch's exporters wrote the node and say in which module it stands.
    static func isTraced(_ node: ONNXNode) -> Bool { !node.scopes.isEmpty || node.name.hasPrefix("/") }

    /// The name of a layer that several nodes are: the module around them where it is nothing else.
    func decomposedName(_ node: ONNXNode) -> String {
        let place = path(node)
        return Self.isTraced(node) && !place.isEmpty && !containers.contains(place) ? place : layerName(node)
    }

    /// Operators that PyTorch's networks call as functions, not as modules.
    private static let functions: Set<String> = [
        "Add", "Concat", "Mul", "Flatten", "Reshape", "Slice", "Pad", "Squeeze",
    ]
    private static let functionNames = [
        "Concat": "cat", "Reshape": "flatten", "Squeeze": "flatten", "Gemm": "linear", "MatMul": "linear",
        "Conv": "conv", "BatchNormalization": "batch_norm", "GlobalAveragePool": "avgpool", "ReduceMean": "avgpool",
        "Slice": "shortcut", "Pad": "shortcut",
    ]

    /// The dotted path of the modules that a node stands in; empty where the file does not say.
    private func path(_ node: ONNXNode) -> String {
        if !node.scopes.isEmpty {
            // The last one is the node's own name in the traced graph.
            return node.scopes.dropLast().last ?? ""
        }
        // PyTorch's older exporter: /layer4/layer4.1/conv1/Conv; our own: the layer's name.
        guard node.name.hasPrefix("/") else { return node.name.contains("/") ? "" : Self.cleaned(node.name) }
        var path = ""
        var last = ""
        for component in node.name.split(separator: "/").dropLast().map(String.init) {
            if !last.isEmpty, component.hasPrefix(last + ".") {
                path = String(path.dropLast(last.count)) + component
            } else {
                path += path.isEmpty ? component : ".\(component)"
            }
            last = component
        }
        return Self.cleaned(path)
    }

    /// A name without what selectors or the list of layers give a meaning; empty for one that is only a number.
    private static func cleaned(_ name: String) -> String {
        let text = String(name.map { $0 == "," || $0 == ":" || $0 == " " || $0 == "*" || $0 == "?" ? "_" : $0 })
        return text.utf8.count <= 200 ? text : ""
    }

    /// Every module that is above one with weights.
    private mutating func findContainers() {
        for node in source.nodes {
            guard ["Conv", "Gemm", "MatMul", "BatchNormalization"].contains(node.operation), node.inputs.count > 1
            else {
                continue
            }
            let module = Self.module(ofParameter: node.inputs[1]) ?? path(node)
            var prefix = module
            while let dot = prefix.lastIndex(of: ".") {
                prefix = String(prefix[..<dot])
                guard containers.insert(prefix).inserted else { break }
            }
        }
    }

    // MARK: Result

    /// The network that ends in the graph's output.
    func finish() throws(ONNXError) -> ImportedNetwork {
        guard let output = source.outputs.first(where: { $0.name == "logits" }) ?? source.outputs.first else {
            throw .malformed(file: file.name, what: "ONNX graph", found: "no output", expected: "one")
        }
        guard case .activation(let last)? = values[output.name] else {
            throw .malformed(
                file: file.name, what: "output \(output.name)", found: "no layer that makes it", expected: "one")
        }
        var needed = [Bool](repeating: false, count: nodes.count)
        needed[last] = true
        for index in nodes.indices.reversed() where needed[index] {
            for input in nodes[index].inputs { needed[input] = true }
        }
        var places: [Int: Int] = [:]
        var kept: [Graph.Node] = []
        for index in nodes.indices where needed[index] {
            var node = nodes[index]
            node.inputs = node.inputs.compactMap { places[$0] }
            places[index] = kept.count
            kept.append(node)
        }
        let head = try self.head(kept, output: output.name)
        let graph: Graph
        do {
            let side = imageHeight ?? 224
            graph = try Graph(checking: kept, height: side, width: side)
        } catch {
            throw .malformed(
                file: file.name, what: "ONNX graph", found: "\(error)", expected: "layers that fit one another")
        }
        var state = StateDictionary()
        for parameter in graph.parameters {
            if parameter.role == .counter {
                state[parameter.name] = HostTensor(shape: [], storage: .int64([0]))
            } else {
                state[parameter.name] = parameters[parameter.name]
            }
        }
        var notes = notes
        if source.outputs.count > 1 {
            notes.append("of \(source.outputs.count) outputs, \(output.name) is taken")
        }
        return ImportedNetwork(
            graph: graph, state: state, headName: head.name, classCount: head.classCount, imageSize: imageHeight,
            metadata: [:], notes: notes)
    }

    /// The last layer with weights, if what follows hands its scores on one by one.
    private func head(_ nodes: [Graph.Node], output: String) throws(ONNXError) -> (name: String, classCount: Int) {
        var index = nodes.count - 1
        while index > 0 {
            switch nodes[index].layer {
            case .linear(_, let count), .pixelwiseLinear(_, let count): return (nodes[index].name, count)
            case .convolution(let layer): return (nodes[index].name, layer.outputChannels)
            case .relu, .activation, .dropout, .flatten, .adaptiveAveragePooling(1, 1):
                index = nodes[index].inputs.first ?? 0
            case .input, .batchNormalization, .layerNormalization, .layerScale, .maxPooling, .averagePooling,
                .adaptiveAveragePooling, .add,
                .concatenation, .stochasticDepth, .channelScale, .subsampleAndPad:
                index = 0
            }
        }
        throw .unsupported(
            file: file.name, what: "output \(output)", found: "values that no linear layer or convolution makes last",
            next: "export the whole classifier, whose outputs are class scores")
    }
}
