import GraftGraph
import GraftTensor

/// Computes the first content of persistent values from a state dictionary.
enum ParameterFolding {
    /// The tensor of a source; folding is done in Double and rounded once.
    ///
    /// - Throws: ``GraftError/weightsMismatch(_:)`` when a tensor is absent, which loading has excluded.
    static func tensor(_ source: ParameterSource, in state: StateDictionary) throws(GraftError) -> HostTensor {
        switch source {
        case .tensor(let name): return try named(name, state)
        case .foldedWeight(let convolution, let norm, let epsilon):
            let weight = try named("\(convolution).weight", state)
            let values = try floats("\(convolution).weight", state)
            let scale = try scales(norm, epsilon, state)
            let perChannel = values.count / max(scale.count, 1)
            return HostTensor(
                weight.shape,
                [Float](unsafeUninitializedCapacity: values.count) { target, initialized in
                    for channel in 0..<scale.count {
                        for index in channel * perChannel..<(channel + 1) * perChannel {
                            target[index] = Float(Double(values[index]) * scale[channel])
                        }
                    }
                    initialized = values.count
                })
        case .foldedBias(let convolution, let norm, let epsilon):
            let scale = try scales(norm, epsilon, state)
            let shift = try floats("\(norm).bias", state)
            let mean = try floats("\(norm).running_mean", state)
            let bias = state["\(convolution).bias"]?.floats
            return HostTensor(
                [scale.count],
                scale.indices.map { Float(Double(shift[$0]) + (Double(bias?[$0] ?? 0) - Double(mean[$0])) * scale[$0]) }
            )
        case .numbers(let values): return HostTensor([values.count], values)
        }
    }

    /// `gamma / √(running_var + ε)`.
    private static func scales(_ norm: String, _ epsilon: Float, _ state: StateDictionary) throws(GraftError)
        -> [Double]
    {
        let gamma = try floats("\(norm).weight", state)
        let variance = try floats("\(norm).running_var", state)
        return gamma.indices.map { Double(gamma[$0]) / (Double(variance[$0]) + Double(epsilon)).squareRoot() }
    }

    private static func named(_ name: String, _ state: StateDictionary) throws(GraftError) -> HostTensor {
        guard let tensor = state[name] else { throw .weightsMismatch("the model has no tensor \(name)") }
        return tensor
    }

    private static func floats(_ name: String, _ state: StateDictionary) throws(GraftError) -> [Float] {
        guard let values = try named(name, state).floats else { throw .weightsMismatch("\(name) is not float32") }
        return values
    }
}
