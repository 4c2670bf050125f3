import GraftGraph
import GraftTensor

/// How an operand's elements are made; a pure function of the case's name, the operand's position and the element's index.
package enum Fill: Sendable {
    /// Even in −1 ..< 1.
    case uniform
    /// Even in low ..< high.
    case range(Double, Double)
    /// One of −1, 0 and 1: maxima are tied.
    case tied
    /// As `uniform`, with a special value at every n-th element.
    case special(Float, every: Int)
    case constant(Float)
    /// These elements, again and again.
    case list([Float])
    /// Class numbers below the bound.
    case labels(classes: Int)
    /// The same class number everywhere.
    case constantLabel(Int32)
    /// Where a max pooling of uniform elements finds its maxima.
    case maximumIndices(PoolingGeometry)

    /// The tensor of a value.
    package func tensor(of kind: ValueKind, random: CounterRandom) -> HostTensor {
        let shape = kind.hostShape
        let count = shape.elementCount
        func floats(_ body: (Int) -> Double) -> [Float] { (0..<count).map { Float(body($0)) } }
        func uniform(_ index: Int) -> Double { 2 * random.uniform(index) - 1 }
        if case .pixels = kind {
            return HostTensor(
                shape: shape, storage: .uint8((0..<count).map { UInt8(random.integer(below: 256, $0)) }))
        }
        switch self {
        case .uniform: return HostTensor(shape, floats(uniform))
        case .range(let low, let high):
            return HostTensor(shape, floats { low + (high - low) * random.uniform($0) })
        case .tied: return HostTensor(shape, floats { Double(random.integer(below: 3, $0) - 1) })
        case .special(let value, let every):
            return HostTensor(shape, floats { $0 % every == every / 2 ? Double(value) : uniform($0) })
        case .constant(let value): return HostTensor(shape, repeating: value)
        case .list(let values):
            return HostTensor(shape, (0..<count).map { values[$0 % values.count] })
        case .labels(let classes):
            return HostTensor(
                shape: shape, storage: .int32((0..<count).map { Int32(random.integer(below: classes, $0)) }))
        case .constantLabel(let label):
            return HostTensor(shape: shape, storage: .int32([Int32](repeating: label, count: count)))
        case .maximumIndices(let geometry):
            let x = (0..<geometry.input.elementCount).map(uniform)
            let indices = ReferenceExecutor.run(.maxPooling(geometry, indices: true), [x])[1].values
            return HostTensor(shape: shape, storage: .int32(indices.map { Int32($0) }))
        }
    }
}

/// One check of one primitive: what to run, on what, in which surroundings.
package struct ConformanceCase: Sendable, CustomStringConvertible {
    /// What stands around the primitive.
    package enum Setting: Sendable {
        /// Inputs and outputs have memory of their own.
        case alone
        /// The operand at this position lives only until the primitive, so that output 0 takes its slot.
        case inPlace(Int)
        /// Two programs in one plan, the second with this smaller batch; they share constants and run in turn.
        case shortBatch(Int)
        /// An optimizer update of these parameters by cohort; one run for each element of `steps`, one update for each
        /// cohort in `updated`.
        case optimizer(parameters: [(kind: ValueKind, cohort: Int)], updated: [Int], steps: [StepConstants])
        /// A primitive on the slabs of all cohorts, with these parameters; one run for each element of `steps`.
        case slabs(parameters: [(kind: ValueKind, cohort: Int)], steps: [StepConstants])
    }

    package var name: String
    package var primitive: Primitive
    /// By operand; operands without one are `uniform`.
    package var fills: [Int: Fill]
    package var setting: Setting
    package var constants: StepConstants
    /// Small enough for a simulator such as Oclgrind.
    package var isQuick: Bool

    package init(
        _ name: String, _ primitive: Primitive, fills: [Int: Fill] = [:], setting: Setting = .alone,
        constants: StepConstants = StepConstants(dropoutKey: 0x1234_5678_9ABC), quick: Bool = false
    ) {
        self.name = name
        self.primitive = primitive
        self.fills = fills
        self.setting = setting
        self.constants = constants
        isQuick = quick
    }

    package var description: String { name }

    /// The generator of an operand's elements.
    package func random(operand: Int) -> CounterRandom {
        // FNV-1a: the case's values do not change when cases are added before it.
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for byte in name.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        return CounterRandom(seed: hash, UInt64(operand))
    }

    /// The operands' contents; `batch` overrides the number of images.
    package func inputs(of primitive: Primitive) -> [HostTensor] {
        primitive.operands.inputs.enumerated().map { index, kind in
            var fill = fills[index] ?? .uniform
            // Indices depend on the number of images.
            if case .maximumIndices = fill, case .maxPoolingGradient(let geometry) = primitive {
                fill = .maximumIndices(geometry)
            }
            return fill.tensor(of: kind, random: random(operand: index))
        }
    }
}

extension HostTensor {
    /// The elements as Double, whatever their type.
    package var doubles: [Double] {
        switch storage {
        case .float32(let values): values.map { Double($0) }
        case .int64(let values): values.map { Double($0) }
        case .int32(let values): values.map { Double($0) }
        case .uint8(let values): values.map { Double($0) }
        }
    }
}
