import GraftGraph
import GraftTensor

/// What some nodes have made of a layer's output, on the way to a layer that operator set 13 has no operator for.
struct ONNXPartial: Hashable {
    enum Step: Hashable {
        // GELU, x · ½ · (1 + erf(x / √2)).
        case dividedByRoot, errorFunction, errorFunctionPlusOne, doubled
        // Layer norm, (x − mean) / √(variance + epsilon) · weight + bias.
        case mean, centered, squares, variance
        case shiftedVariance(epsilon: Float)
        case deviation(epsilon: Float)
        case normalized(epsilon: Float)
        /// `weight` is the constant's name.
        case scaled(epsilon: Float, weight: String)
    }

    /// The layer, and how its output lies.
    var source: ONNXPlace
    var step: Step
}

/// A layer's output, as it is or with the channels behind height and width.
struct ONNXPlace: Hashable {
    var layer: Int
    var isChannelsLast: Bool

    var value: ONNXGraphReader.Value { isChannelsLast ? .channelsLast(layer) : .activation(layer) }
}

/// Layers that files write as several nodes, or with the channels last: GELU, layer norm, layer scale, linear layers on
/// each pixel.
extension ONNXOperators {
    static let decompositions: [String: Operation] = [
        "Div": quotient, "Sub": difference, "Erf": errorFunction, "Pow": power, "Sqrt": root, "Transpose": transpose,
        "LayerNormalization": layerNormalization, "Unsqueeze": unsqueeze,
    ]

    /// The layer whose output an input is, in either order of its axes.
    static func place(_ reader: ONNXGraphReader, _ node: ONNXNode, _ index: Int = 0) -> ONNXPlace? {
        switch reader.input(node, index) {
        case .activation(let layer)?: ONNXPlace(layer: layer, isChannelsLast: false)
        case .channelsLast(let layer)?: ONNXPlace(layer: layer, isChannelsLast: true)
        default: nil
        }
    }

    private static func partial(_ reader: ONNXGraphReader, _ node: ONNXNode, _ index: Int) -> ONNXPartial? {
        if case .partial(let partial)? = reader.input(node, index) { return partial }
        return nil
    }

    private static func constant(_ reader: ONNXGraphReader, _ node: ONNXNode, _ index: Int) -> ONNXTensor? {
        if case .constant(let tensor)? = reader.input(node, index) { return tensor }
        return nil
    }

    /// A constant of one element; nil for another input.
    private static func number(_ reader: ONNXGraphReader, _ node: ONNXNode, _ index: Int) throws -> Float? {
        guard let tensor = constant(reader, node, index), try tensor.elementCount(reader.file) == 1 else { return nil }
        return try tensor.values(reader.file).first
    }

    private static func isNear(_ value: Float?, _ expected: Float) -> Bool {
        value.map { abs($0 - expected) <= 1e-6 * expected } ?? false
    }

    /// Whether a constant's shape spreads one number for each channel over a layer's output.
    private static func isForChannels(_ tensor: ONNXTensor, _ reader: ONNXGraphReader, _ place: ONNXPlace) -> Bool {
        let channels = Int64(reader.shape(place.layer).channels)
        let whole: [Int64] =
            place.isChannelsLast
            ? [1, 1, 1, channels] : reader.isFlat(place.layer) ? [1, channels] : [1, channels, 1, 1]
        guard tensor.dimensions.count <= whole.count else { return false }
        let missing = [Int64](repeating: 1, count: whole.count - tensor.dimensions.count)
        return missing + tensor.dimensions == whole
    }

    // MARK: What several layers share

    private static let quotient: Operation = { reader, node in
        if let place = place(reader, node, 0), isNear(try number(reader, node, 1), Float(2).squareRoot()) {
            return .partial(ONNXPartial(source: place, step: .dividedByRoot))
        }
        if let over = partial(reader, node, 0), let under = partial(reader, node, 1), over.source == under.source,
            over.step == .centered, case .deviation(let epsilon) = under.step
        {
            return .partial(ONNXPartial(source: over.source, step: .normalized(epsilon: epsilon)))
        }
        throw NodeRefusal("it is read as a part of GELU and of layer norm only")
    }

    private static let difference: Operation = { reader, node in
        guard let place = place(reader, node, 0), let mean = partial(reader, node, 1),
            mean == ONNXPartial(source: place, step: .mean)
        else { throw NodeRefusal("it is read as a part of layer norm only") }
        return .partial(ONNXPartial(source: place, step: .centered))
    }

    private static let errorFunction: Operation = { reader, node in
        guard let argument = partial(reader, node, 0), argument.step == .dividedByRoot else {
            throw NodeRefusal("it is read as a part of GELU only")
        }
        return .partial(ONNXPartial(source: argument.source, step: .errorFunction))
    }

    private static let power: Operation = { reader, node in
        guard let base = partial(reader, node, 0), base.step == .centered, try number(reader, node, 1) == 2 else {
            throw NodeRefusal("it is read as a part of layer norm only")
        }
        return .partial(ONNXPartial(source: base.source, step: .squares))
    }

    private static let root: Operation = { reader, node in
        guard let argument = partial(reader, node, 0), case .shiftedVariance(let epsilon) = argument.step else {
            throw NodeRefusal("it is read as a part of layer norm only")
        }
        return .partial(ONNXPartial(source: argument.source, step: .deviation(epsilon: epsilon)))
    }

    /// A mean over the channels; nil for another one.
    static func channelMean(_ reader: ONNXGraphReader, _ node: ONNXNode) throws -> ONNXGraphReader.Value? {
        guard node.number("keepdims", default: 1) != 0,
            let axes = try reader.integers(node, attribute: "axes", input: 1), axes.count == 1
        else { return nil }
        func isOverChannels(_ place: ONNXPlace) -> Bool {
            if place.isChannelsLast { return axes[0] == 3 || axes[0] == -1 }
            return axes[0] == 1 || axes[0] == (reader.isFlat(place.layer) ? -1 : -3)
        }
        if let place = place(reader, node), isOverChannels(place) {
            return .partial(ONNXPartial(source: place, step: .mean))
        }
        if let squares = partial(reader, node, 0), squares.step == .squares, isOverChannels(squares.source) {
            return .partial(ONNXPartial(source: squares.source, step: .variance))
        }
        return nil
    }

    /// A sum that is a part of a layer of several nodes; nil for another one.
    static func partialSum(_ reader: inout ONNXGraphReader, _ node: ONNXNode) throws -> ONNXGraphReader.Value? {
        for (index, other) in [(0, 1), (1, 0)] {
            guard let tensor = constant(reader, node, other) else { continue }
            if case .channelsLast(let layer)? = reader.input(node, index) {
                guard reader.awaitsBias.remove(layer) != nil,
                    isForChannels(tensor, reader, ONNXPlace(layer: layer, isChannelsLast: true))
                else { throw NodeRefusal("a constant is added, and not as the bias of a product") }
                let count = reader.shape(layer).channels
                try reader.set(layer, "bias", [count], reader.values(tensor, count: count, "bias"))
                return .channelsLast(layer)
            }
            guard let part = partial(reader, node, index) else { continue }
            let value = try number(reader, node, other)
            switch part.step {
            case .errorFunction where value == 1:
                return .partial(ONNXPartial(source: part.source, step: .errorFunctionPlusOne))
            case .variance:
                guard let epsilon = value else { break }
                return .partial(ONNXPartial(source: part.source, step: .shiftedVariance(epsilon: epsilon)))
            case .scaled(let epsilon, let weight):
                guard case .constant(let factors)? = reader.values[weight],
                    isForChannels(tensor, reader, part.source)
                else { break }
                return try addLayerNormalization(
                    &reader, node, part.source, epsilon: epsilon, weight: factors, bias: tensor)
            case .dividedByRoot, .errorFunction, .errorFunctionPlusOne, .doubled, .mean, .centered, .squares,
                .shiftedVariance, .deviation, .normalized:
                break
            }
        }
        return nil
    }

    /// A product that is a part of a layer of several nodes, or a layer scale; nil for another one.
    static func partialProduct(_ reader: inout ONNXGraphReader, _ node: ONNXNode) throws -> ONNXGraphReader.Value? {
        for (index, other) in [(0, 1), (1, 0)] {
            if let place = place(reader, node, index) {
                if let gate = partial(reader, node, other),
                    gate == ONNXPartial(source: place, step: .errorFunctionPlusOne)
                {
                    return .partial(ONNXPartial(source: place, step: .doubled))
                }
                if isNear(try number(reader, node, other), Float(0.5).squareRoot()) {
                    return .partial(ONNXPartial(source: place, step: .dividedByRoot))
                }
                if let factors = constant(reader, node, other), isForChannels(factors, reader, place) {
                    return try addLayerScale(&reader, node, place, factors)
                }
            }
            guard let part = partial(reader, node, index) else { continue }
            let value = try number(reader, node, other)
            switch part.step {
            case .doubled where isNear(value, 0.5):
                let layer = try reader.addLayer(
                    reader.decomposedName(node), .activation(.gelu), [part.source.layer])
                return ONNXPlace(layer: layer, isChannelsLast: part.source.isChannelsLast).value
            case .centered where partial(reader, node, other) == part:
                return .partial(ONNXPartial(source: part.source, step: .squares))
            case .normalized(let epsilon):
                guard let factors = constant(reader, node, other), isForChannels(factors, reader, part.source) else {
                    break
                }
                return .partial(
                    ONNXPartial(
                        source: part.source, step: .scaled(epsilon: epsilon, weight: node.inputs[other])))
            case .dividedByRoot, .errorFunction, .errorFunctionPlusOne, .doubled, .mean, .centered, .squares, .variance,
                .shiftedVariance, .deviation, .scaled:
                break
            }
        }
        return nil
    }

    // MARK: Layers

    private static func addLayerNormalization(
        _ reader: inout ONNXGraphReader, _ node: ONNXNode, _ place: ONNXPlace, epsilon: Float, weight: ONNXTensor,
        bias: ONNXTensor
    ) throws -> ONNXGraphReader.Value {
        let channels = reader.shape(place.layer).channels
        let factors = try reader.values(weight, count: channels, "weight")
        let shifts = try reader.values(bias, count: channels, "bias")
        let layer = try reader.addLayer(
            reader.moduleName(node, weight: weight.name), .layerNormalization(channels: channels, epsilon: epsilon),
            [place.layer])
        try reader.set(layer, "weight", [channels], factors)
        try reader.set(layer, "bias", [channels], shifts)
        return ONNXPlace(layer: layer, isChannelsLast: place.isChannelsLast).value
    }

    private static let layerNormalization: Operation = { reader, node in
        guard let place = place(reader, node) else { throw NodeRefusal("its input 0 is not made by a layer") }
        let rank = place.isChannelsLast || !reader.isFlat(place.layer) ? 4 : 2
        let axis = node.number("axis", default: -1)
        guard place.isChannelsLast || rank == 2, axis == -1 || axis == Int64(rank - 1) else {
            throw NodeRefusal("only one over the channels of each pixel is read")
        }
        guard node.outputs.dropFirst().allSatisfy(\.isEmpty) else { throw NodeRefusal("its statistics are not read") }
        let weight = try reader.constant(node, 1)
        let channels = reader.shape(place.layer).channels
        var bias = ONNXTensor()
        bias.dataType = ONNXTensor.DataType.float.rawValue
        bias.dimensions = [Int64(channels)]
        bias.floats = [Float](repeating: 0, count: channels)
        if reader.input(node, 2) != nil { bias = try reader.constant(node, 2) }
        return try addLayerNormalization(
            &reader, node, place, epsilon: node.float("epsilon", default: 1e-5), weight: weight, bias: bias)
    }

    private static func addLayerScale(
        _ reader: inout ONNXGraphReader, _ node: ONNXNode, _ place: ONNXPlace, _ factors: ONNXTensor
    ) throws -> ONNXGraphReader.Value {
        let channels = reader.shape(place.layer).channels
        let values = try reader.values(factors, count: channels, "factors")
        let layer = try reader.addLayer(reader.layerName(node), .layerScale(channels: channels), [place.layer])
        try reader.set(layer, "layer_scale", [channels, 1, 1], values)
        return ONNXPlace(layer: layer, isChannelsLast: place.isChannelsLast).value
    }

    // MARK: Axes

    /// Channels behind height and width and back, and matrices that are constants.
    private static let transpose: Operation = { reader, node in
        let order = node.numbers("perm")
        switch reader.input(node, 0) {
        case .constant(var tensor)? where tensor.dimensions.count == 2 && (order ?? [1, 0]) == [1, 0]:
            let values = try tensor.values(reader.file)
            let rows = Int(tensor.dimensions[0])
            let columns = Int(tensor.dimensions[1])
            tensor.floats = transposed(values, rows: rows, columns: columns)
            tensor.dimensions.reverse()
            tensor.dataType = ONNXTensor.DataType.float.rawValue
            tensor.raw = nil
            tensor.numbers = []
            return .constant(tensor)
        case .activation(let layer)? where !reader.isFlat(layer) && order == [0, 2, 3, 1]: return .channelsLast(layer)
        case .channelsLast(let layer)? where order == [0, 3, 1, 2]: return .activation(layer)
        default: throw NodeRefusal("only channels are moved, behind height and width and back, and constant matrices")
        }
    }

    /// Constants get their shape; of shapes the value itself is handed on.
    private static let unsqueeze: Operation = { reader, node in
        guard let value = reader.input(node, 0) else { throw NodeRefusal("it has no input") }
        switch value {
        case .constant(var tensor) where !tensor.isInteger:
            guard let axes = try reader.integers(node, attribute: "axes", input: 1) else {
                throw NodeRefusal("it has no axes")
            }
            let rank = Int64(tensor.dimensions.count + axes.count)
            let places = Set(axes.map { $0 < 0 ? $0 + rank : $0 })
            guard rank <= 8, places.count == axes.count, places.allSatisfy({ (0..<rank).contains($0) }) else {
                throw NodeRefusal("its axes \(axes) are not read")
            }
            tensor.storedRank = tensor.storedRank ?? tensor.dimensions.count
            var rest = tensor.dimensions.makeIterator()
            tensor.dimensions = (0..<rank).map { places.contains($0) ? 1 : rest.next() ?? 1 }
            return .constant(tensor)
        case .constant, .extents: return value
        case .activation, .channelsLast, .partial, .halfSubsampled, .unknown:
            throw NodeRefusal("it is read for shapes and constants only")
        }
    }
}
