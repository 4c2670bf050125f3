import Foundation
import Graft
import GraftTensor

/// Weights from the formula in the reference's README: every program can make the same ones without a generator.
enum FormulaWeights {
    static func uniform(_ name: String, seed: UInt64, count: Int) -> [Double] {
        var hash: UInt64 = 14_695_981_039_346_656_037
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 1_099_511_628_211 }
        let random = CounterRandom(key: hash ^ (seed &* 0x9E37_79B9_7F4A_7C15))
        return (0..<count).map { random.uniform($0) }
    }

    /// All tensors of a model, in its names and shapes.
    static func state(of model: Model, seed: UInt64) -> StateDictionary {
        let names = Set(model.state.names)
        let head = model.architecture.headName
        return StateDictionary(
            model.state.map { name, tensor in (name, self.tensor(name, tensor.shape, names, head: head, seed: seed)) })
    }

    private static func tensor(_ name: String, _ shape: Shape, _ names: Set<String>, head: String, seed: UInt64)
        -> HostTensor
    {
        let parts = name.split(separator: ".").map(String.init)
        let kind = parts.last ?? ""
        let prefix = parts.dropLast().joined(separator: ".")
        if kind == "num_batches_tracked" { return HostTensor(shape: [], storage: .int64([100])) }
        let u = uniform(name, seed: seed, count: shape.elementCount)
        let isNorm = names.contains(prefix + ".running_mean")
        let values: [Double]
        switch kind {
        case "running_mean": values = u.map { 0.4 * $0 - 0.2 }
        case "running_var": values = u.map { 0.5 + $0 }
        case "bias" where isNorm: values = u.map { 0.4 * $0 - 0.2 }
        case "weight" where isNorm:
            let block = parts.dropLast(2).joined(separator: ".")
            let last = names.contains(block + ".bn3.weight") ? "bn3" : "bn2"
            let closes = block.hasPrefix("layer") && parts.dropLast().last == last
            values = u.map { closes ? 0.2 + 0.2 * $0 : 0.75 + 0.5 * $0 }
        case "layer_scale": values = u.map { 0.3 + 0.4 * $0 }
        case "weight" where shape.rank == 1: values = u.map { 0.75 + 0.5 * $0 }
        case "bias": values = u.map { 0.1 * $0 - 0.05 }
        default:
            let fanIn = shape.dimensions.dropFirst().reduce(1, *)
            let bound = ((prefix == head ? 1.0 : 6.0) / Double(fanIn)).squareRoot()
            values = u.map { (2 * $0 - 1) * bound }
        }
        return HostTensor(shape, values.map { Float($0) })
    }
}
