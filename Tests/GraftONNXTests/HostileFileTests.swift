import GraftGraph
import GraftTensor
import Testing

@testable import GraftONNX

/// Damaged and malicious files give typed errors: no trap, no hang, no memory beyond the file's measure.
@Suite struct HostileFileTests {
    private static func failure(_ bytes: [UInt8]) -> ONNXError? {
        do throws(ONNXError) {
            _ = try ONNXImport.network(bytes, name: "test")
            return nil
        } catch { return error }
    }

    private struct Node {
        var operation: String
        var inputs: [String]
        var outputs: [String]
        var name = ""
        var attributes: [(String, (inout ProtobufWriter) -> Void)] = []
        var domain = ""
    }

    private struct Constant {
        var name: String
        var dimensions: [Int]
        var floats: [Float]
        var type = 1
    }

    private static func ints(_ values: [Int]) -> (inout ProtobufWriter) -> Void {
        { message in
            for value in values { message.number(8, value) }
            message.number(20, 7)
        }
    }

    private static func int(_ value: Int) -> (inout ProtobufWriter) -> Void {
        { message in
            message.number(3, value)
            message.number(20, 2)
        }
    }

    private static func model(
        _ nodes: [Node], _ constants: [Constant] = [], input: [Int] = [0, 3, 8, 8], operatorSet: Int = 13,
        output: String = "y", extra: (inout ProtobufWriter) -> Void = { _ in }
    ) -> [UInt8] {
        var writer = ProtobufWriter()
        writer.number(1, 7)
        writer.message(8) { $0.number(2, operatorSet) }
        writer.message(7) { graph in
            for node in nodes {
                graph.message(1) { message in
                    for input in node.inputs { message.text(1, input) }
                    for output in node.outputs { message.text(2, output) }
                    message.text(3, node.name)
                    message.text(4, node.operation)
                    for (name, write) in node.attributes {
                        message.message(5) {
                            $0.text(1, name)
                            write(&$0)
                        }
                    }
                    message.text(7, node.domain)
                }
            }
            for constant in constants {
                graph.message(5) { tensor in
                    for extent in constant.dimensions { tensor.number(1, extent) }
                    tensor.number(2, constant.type)
                    tensor.text(8, constant.name)
                    tensor.raw(9, floats: constant.floats)
                }
            }
            func value(_ field: Int, _ name: String, _ extents: [Int]) {
                graph.message(field) { value in
                    value.text(1, name)
                    value.message(2) { type in
                        type.message(1) { tensor in
                            tensor.number(1, 1)
                            tensor.message(2) { shape in
                                for extent in extents {
                                    shape.message(1) { if extent > 0 { $0.number(1, extent) } else { $0.text(2, "n") } }
                                }
                            }
                        }
                    }
                }
            }
            value(11, "x", input)
            value(12, output, [0, 2])
            extra(&graph)
        }
        return RoundTripTests.bytes(writer.finished)
    }

    private static var flat: [Node] {
        [
            Node(operation: "GlobalAveragePool", inputs: ["x"], outputs: ["a"]),
            Node(operation: "Flatten", inputs: ["a"], outputs: ["b"]),
        ]
    }
    private static var head: Node {
        Node(operation: "Gemm", inputs: ["b", "fc.weight"], outputs: ["y"], attributes: [("transB", int(1))])
    }
    private static let weight = Constant(name: "fc.weight", dimensions: [2, 3], floats: [1, 2, 3, 4, 5, 6])

    @Test func theSmallestClassifierIsRead() throws {
        let network = try ONNXImport.network(Self.model(Self.flat + [Self.head], [Self.weight]), name: "test")
        #expect(network.classCount == 2)
        #expect(network.headName == "fc")
        #expect(network.state["fc.weight"]?.floats == [1, 2, 3, 4, 5, 6])
        #expect(network.state["fc.bias"]?.floats == [0, 0])
        #expect(network.imageSize == 8)
    }

    @Test func everyBeginningOfAFileIsAnErrorOrAModel() throws {
        let bytes = Self.model(Self.flat + [Self.head], [Self.weight])
        for count in 0..<bytes.count {
            #expect(Self.failure(Array(bytes[..<count])) != nil, "\(count) of \(bytes.count) bytes")
        }
    }

    /// Random damage: whatever comes of it, it is a model or a typed error.
    @Test func damagedBytesNeverTrap() throws {
        var models = [Self.model(Self.flat + [Self.head], [Self.weight])]
        models.append(try RoundTripTests.file(RoundTripTests.everyLayer()))
        for (number, original) in models.enumerated() {
            let random = CounterRandom(seed: 11, UInt64(number))
            var refused = 0
            for trial in 0..<4000 {
                var bytes = original
                for change in 0...(trial % 3) {
                    let counter = trial * 16 + change * 2
                    bytes[random.integer(below: bytes.count, counter)] = UInt8(random.integer(below: 256, counter + 1))
                }
                if Self.failure(bytes) != nil { refused += 1 }
            }
            // Most bytes of the larger file are weights.
            #expect(refused > 40)
        }
    }

    @Test func allUnsupportedNodesAreNamed() throws {
        let nodes =
            [
                Node(operation: "LSTM", inputs: ["x"], outputs: ["l"], name: "first"),
                Node(operation: "Relu", inputs: ["l"], outputs: ["m"]),
                Node(operation: "Conv", inputs: ["x", "m"], outputs: ["c"], name: "second"),
                Node(operation: "Relu", inputs: ["x"], outputs: ["r"], name: "third", domain: "com.microsoft"),
            ] + Self.flat + [Self.head]
        guard case .unsupportedNodes(_, let found)? = Self.failure(Self.model(nodes, [Self.weight])) else {
            Issue.record("not refused for its nodes")
            return
        }
        // The Conv reads what was not made; that is not another fault.
        #expect(found.map(\.name) == ["first", "third"])
        #expect(found.map(\.operation) == ["LSTM", "com.microsoft.Relu"])
        let text = ONNXError.unsupportedNodes(file: "f.onnx", nodes: found).description
        #expect(text.contains("LSTM first") && text.contains("com.microsoft.Relu third"))
    }

    /// GELU and layer norm are read where all their parts are of the same layer, and nowhere else.
    @Test func partsThatMakeNoLayerAreRefused() throws {
        let channels = [("axes", Self.ints([1]))]
        let scalars = [
            Constant(name: "root", dimensions: [], floats: [Float(2).squareRoot()]),
            Constant(name: "one", dimensions: [], floats: [1]), Constant(name: "half", dimensions: [], floats: [0.5]),
            Constant(name: "epsilon", dimensions: [], floats: [1e-6]), Self.weight,
            Constant(name: "factors", dimensions: [3, 1, 1], floats: [1, 2, 3]),
            Constant(name: "row", dimensions: [3], floats: [1, 2, 3]),
        ]
        func gelu(source: String = "x", one: String = "one", half: String = "half") -> [Node] {
            [
                Node(operation: "Relu", inputs: ["x"], outputs: ["r"]),
                Node(operation: "Div", inputs: ["x", "root"], outputs: ["s"], name: "divide"),
                Node(operation: "Erf", inputs: ["s"], outputs: ["e"], name: "erf"),
                Node(operation: "Add", inputs: ["e", one], outputs: ["p"], name: "add"),
                Node(operation: "Mul", inputs: [source, "p"], outputs: ["d"], name: "double"),
                Node(operation: "Mul", inputs: ["d", half], outputs: ["g"], name: "gelu"),
            ]
        }
        func norm(centered: String = "x", square: String = "c", factors: String = "factors") -> [Node] {
            [
                Node(operation: "Relu", inputs: ["x"], outputs: ["r"]),
                Node(operation: "ReduceMean", inputs: ["x"], outputs: ["m"], name: "mean", attributes: channels),
                Node(operation: "Sub", inputs: [centered, "m"], outputs: ["c"], name: "center"),
                Node(operation: "Mul", inputs: ["c", square], outputs: ["q"], name: "square"),
                Node(operation: "ReduceMean", inputs: ["q"], outputs: ["v"], name: "variance", attributes: channels),
                Node(operation: "Add", inputs: ["v", "epsilon"], outputs: ["w"], name: "shift"),
                Node(operation: "Sqrt", inputs: ["w"], outputs: ["d"], name: "root"),
                Node(operation: "Div", inputs: ["c", "d"], outputs: ["n"], name: "normalize"),
                Node(operation: "Mul", inputs: ["n", factors], outputs: ["f"], name: "scale"),
                Node(operation: "Add", inputs: ["f", factors], outputs: ["g"], name: "norm"),
            ]
        }
        let rest = [Node(operation: "GlobalAveragePool", inputs: ["g"], outputs: ["a"]), Self.flat[1], Self.head]
        for whole in [gelu(), norm()] {
            let network = try ONNXImport.network(Self.model(whole + rest, scalars), name: "test")
            #expect(network.graph.nodes.count == 5, "\(network.graph.nodes)")
        }
        for (broken, node) in [
            (gelu(source: "r"), "double"), (gelu(one: "half"), "add"), (gelu(half: "one"), "gelu"),
            (norm(centered: "r"), "center"), (norm(square: "x"), "square"), (norm(factors: "row"), "scale"),
        ] {
            guard case .unsupportedNodes(_, let found)? = Self.failure(Self.model(broken + rest, scalars)) else {
                Issue.record("\(node) was not refused")
                continue
            }
            #expect(found.map(\.name) == [node])
        }
        // A part is no output.
        let alone = [Node(operation: "Div", inputs: ["x", "root"], outputs: ["y"])]
        guard case .malformed? = Self.failure(Self.model(alone, scalars)) else {
            Issue.record("a part was taken for an output")
            return
        }
    }

    @Test func cyclesAndDoubleNamesAreErrors() {
        let cycle = [
            Node(operation: "Add", inputs: ["x", "q"], outputs: ["p"]),
            Node(operation: "Relu", inputs: ["p"], outputs: ["q"]),
        ]
        #expect(Self.failure(Self.model(cycle + Self.flat + [Self.head], [Self.weight])) != nil)
        let selfish = [Node(operation: "Relu", inputs: ["p"], outputs: ["p"])]
        #expect(Self.failure(Self.model(selfish + Self.flat + [Self.head], [Self.weight])) != nil)
        let twice = [Node(operation: "Relu", inputs: ["x"], outputs: ["a"])]
        #expect(Self.failure(Self.model(twice + Self.flat + [Self.head], [Self.weight])) != nil)
        #expect(Self.failure(Self.model(Self.flat + [Self.head], [Self.weight, Self.weight])) != nil)
    }

    /// Doubling channels sixty times, or adding a value to itself: neither overflows nor takes for ever.
    @Test func growthIsBounded() {
        var nodes: [Node] = []
        for index in 0..<60 {
            let input = index == 0 ? "x" : "c\(index - 1)"
            nodes.append(
                Node(
                    operation: "Concat", inputs: [input, input], outputs: ["c\(index)"],
                    attributes: [("axis", Self.int(1))]))
        }
        #expect(Self.failure(Self.model(nodes + Self.flat + [Self.head], [Self.weight])) != nil)
        nodes = (0..<3000).map {
            Node(
                operation: "Add", inputs: [$0 == 0 ? "x" : "c\($0 - 1)", $0 == 0 ? "x" : "c\($0 - 1)"],
                outputs: ["c\($0)"])
        }
        nodes.append(Node(operation: "GlobalAveragePool", inputs: ["c2999"], outputs: ["a"]))
        #expect(
            Self.failure(Self.model(nodes + [Self.flat[1], Self.head], [Self.weight])) == nil,
            "a long chain is in order")
        nodes = (0..<20_000).map {
            Node(operation: "Relu", inputs: [$0 == 0 ? "x" : "c\($0 - 1)"], outputs: ["c\($0)"])
        }
        #expect(Self.failure(Self.model(nodes + Self.flat + [Self.head], [Self.weight])) != nil)
    }

    @Test(arguments: [
        ([2, 4], [Float](repeating: 1, count: 8)), ([2, 3], [1]), ([-2, -3], [1, 2, 3, 4, 5, 6]),
        ([Int.max, Int.max], [1]), ([1 << 40, 0], []), ([6], [1, 2, 3, 4, 5, 6]), ([2, 3, 1], [1, 2, 3, 4, 5, 6]),
    ]) func wrongShapesAreErrors(_ dimensions: [Int], _ values: [Float]) {
        let weight = Constant(name: "fc.weight", dimensions: dimensions, floats: values)
        #expect(Self.failure(Self.model(Self.flat + [Self.head], [weight])) != nil)
    }

    @Test func wrongConstantsOfLayersAreErrors() {
        let kernel = Constant(name: "c.weight", dimensions: [3, 3, 1, 1], floats: [Float](repeating: 1, count: 9))
        for attributes: [(String, (inout ProtobufWriter) -> Void)] in [
            [("strides", Self.ints([0, 0]))], [("strides", Self.ints([-1, -1]))], [("strides", Self.ints([1, 2]))],
            [("pads", Self.ints([1, 1, 0, 0]))], [("pads", Self.ints([-1, -1, -1, -1]))], [("group", Self.int(0))],
            [("group", Self.int(.max))], [("dilations", Self.ints([.max, .max]))],
            [("strides", Self.ints([.max, .max]))],
            [("group", Self.int(2))], [("pads", Self.ints([1 << 40, 1 << 40, 1 << 40, 1 << 40]))],
        ] {
            let node = Node(operation: "Conv", inputs: ["x", "c.weight"], outputs: ["c"], attributes: attributes)
            let rest = [Node(operation: "GlobalAveragePool", inputs: ["c"], outputs: ["a"]), Self.flat[1], Self.head]
            #expect(Self.failure(Self.model([node] + rest, [Self.weight, kernel])) != nil)
        }
        for attributes: [(String, (inout ProtobufWriter) -> Void)] in [
            [], [("kernel_shape", Self.ints([0, 0]))],
            [("kernel_shape", Self.ints([2, 2])), ("strides", Self.ints([0, 0]))],
            [("kernel_shape", Self.ints([2, 2])), ("pads", Self.ints([2, 2, 2, 2]))],
            [("kernel_shape", Self.ints([2, 2])), ("pads", Self.ints([0, 0, .max, .max]))],
            [("kernel_shape", Self.ints([9, 9]))],
        ] {
            let node = Node(operation: "MaxPool", inputs: ["x"], outputs: ["c"], attributes: attributes)
            let rest = [Node(operation: "GlobalAveragePool", inputs: ["c"], outputs: ["a"]), Self.flat[1], Self.head]
            #expect(Self.failure(Self.model([node] + rest, [Self.weight])) != nil)
        }
    }

    @Test func otherKindsOfModelsAreRefusedWithAReason() throws {
        let nodes = Self.flat + [Self.head]
        for bytes in [
            Self.model(nodes, [Self.weight], operatorSet: 3), Self.model(nodes, [Self.weight], input: [0, 1, 8, 8]),
            Self.model(nodes, [Self.weight], input: [0, 3, 8, 9]), Self.model(nodes, [Self.weight], input: [0, 3]),
            Self.model(nodes, [Self.weight], input: [0, 3, 1 << 40, 1 << 40]),
            Self.model(nodes, [Self.weight], output: "z"), Self.model(nodes, []),
            // Data in another file.
            Self.model(nodes, []) { graph in
                graph.message(5) { tensor in
                    tensor.number(1, 2)
                    tensor.number(1, 3)
                    tensor.number(2, 1)
                    tensor.text(8, "fc.weight")
                    tensor.message(13) {
                        $0.text(1, "location")
                        $0.text(2, "/etc/passwd")
                    }
                    tensor.number(14, 1)
                }
            },
            // A second input, a sparse constant.
            Self.model(nodes, [Self.weight]) { $0.message(11) { $0.text(1, "other") } },
            Self.model(nodes, [Self.weight]) { $0.message(15) { $0.number(1, 1) } },
        ] {
            let error = try #require(Self.failure(bytes))
            #expect(error.description.count > 20)
        }
        let external = Self.failure(
            Self.model(nodes, []) { graph in
                graph.message(5) { tensor in
                    tensor.number(1, 2)
                    tensor.number(1, 3)
                    tensor.number(2, 1)
                    tensor.text(8, "fc.weight")
                    tensor.number(14, 1)
                }
            })
        #expect(external?.description.contains("external_data=False") == true)
    }

    /// Fields that claim more bytes than there are, numbers without an end, groups, messages in messages.
    @Test func wireFormatFaultsAreErrors() {
        for bytes: [UInt8] in [
            [], [0x08], [0x08, 0xFF], [0x3A, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], [0x3A, 0x05, 0x0A],
            [UInt8](repeating: 0xFF, count: 32), [0x3B, 0x3C], [0x00, 0x01], [0x3A, 0x02, 0x0A, 0x7F], [0x3D, 1, 2],
            [UInt8](repeating: 0x0A, count: 4096), [0x12, 0x02, 0xC3, 0x28],
        ] { #expect(Self.failure(bytes) != nil, "\(bytes.prefix(12))") }
        // Half a million empty nodes.
        var many = ProtobufWriter()
        many.message(8) { $0.number(2, 13) }
        many.raw(7, [UInt8](repeating: 0, count: 0) + (0..<600_000).flatMap { _ in [0x0A, 0x00] as [UInt8] })
        if case .overLimit? = Self.failure(RoundTripTests.bytes(many.finished)) {
        } else {
            Issue.record("half a million nodes pass")
        }
    }
}
