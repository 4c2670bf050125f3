import GraftTensor

/// A value of a program, by position in ``Program/values``.
package struct ValueID: Hashable, Sendable {
    package let index: Int
    package init(_ index: Int) { self.index = index }
}

/// What a value is, in logical terms; a backend decides how it lies in memory.
package enum ValueKind: Hashable, Sendable {
    /// float32 `[N, C, H, W]`.
    case activation(ActivationShape)
    /// int32 of an activation's shape: arg-max positions of a max pooling.
    case indices(ActivationShape)
    /// float32 convolution or linear weight, `[K, C/groups, R, S]`.
    case weight(WeightShape)
    /// The same, kept as the backend's Winograd convolution wants it; 3×3 kernels. Written by the host only.
    case winogradWeight(WeightShape)
    /// float32 vector, one element per channel.
    case channelVector(Int)
    /// uint8 `[N, H, W, 3]`.
    case pixels(batch: Int, height: Int, width: Int)
    /// int32 `[N]`.
    case labels(batch: Int)
    /// float32 `[2]`: mean loss, number of correct predictions.
    case metrics

    /// The shape under which the host reads and writes it.
    package var hostShape: Shape {
        switch self {
        case .activation(let s), .indices(let s): [s.batch, s.channels, s.height, s.width]
        case .weight(let w), .winogradWeight(let w):
            [w.outputChannels, w.inputChannelsPerGroup, w.kernelHeight, w.kernelWidth]
        case .channelVector(let count): [count]
        case .pixels(let batch, let height, let width): [batch, height, width, 3]
        case .labels(let batch): [batch]
        case .metrics: [2]
        }
    }
}

/// Where the host takes a persistent value's first content from.
package enum ParameterSource: Hashable, Sendable {
    /// The tensor of this name.
    case tensor(String)
    /// `weight[k] · gamma[k] / √(variance[k] + epsilon)` of the convolution and batch norm of these module names.
    case foldedWeight(convolution: String, batchNormalization: String, epsilon: Float)
    /// `beta + (bias − mean) · gamma / √(variance + epsilon)`.
    case foldedBias(convolution: String, batchNormalization: String, epsilon: Float)
    /// These numbers.
    case numbers([Float])
}

/// How long a value lives and who owns its memory.
package enum ValueStorage: Hashable, Sendable {
    /// Lives within one run; the plan shares its memory.
    case transient
    /// Written by the host before each run: images, labels. Never shared with transients of the same run.
    case input
    /// Kept until the host has read it after a run: logits, metrics, requested features.
    case output
    /// Parameters and statistics that do not train; kept across runs and programs under this key.
    case constant(key: String, source: ParameterSource)
    /// A trainable parameter in the slab of its cohort; kept across runs and programs under this key.
    case parameter(key: String, source: ParameterSource, cohort: Int)
    /// The gradient of the trainable parameter of this key, at the same offset in the gradient slab.
    case gradient(parameterKey: String)
}

/// A value: what it is and how it is stored.
package struct Value: Hashable, Sendable {
    package var kind: ValueKind
    package var storage: ValueStorage
    /// What error messages and profiles call it, for example `layer1.0.bn1`.
    package var name: String

    package init(kind: ValueKind, storage: ValueStorage, name: String) {
        self.kind = kind
        self.storage = storage
        self.name = name
    }
}

/// One primitive on values. Each transient value is written by exactly one instruction, before it is read.
package struct Instruction: Hashable, Sendable {
    package var primitive: Primitive
    package var inputs: [ValueID]
    package var outputs: [ValueID]
    /// The graph node it came from.
    package var node: String

    package init(_ primitive: Primitive, inputs: [ValueID], outputs: [ValueID], node: String) {
        self.primitive = primitive
        self.inputs = inputs
        self.outputs = outputs
        self.node = node
    }
}

/// A straight list of instructions: forward, or forward ++ backward ++ update. What a backend prepares once and runs per batch.
package struct Program: Sendable {
    package var values: [Value]
    package var instructions: [Instruction]
    /// Inputs by role: `pixels` or `input` (an activation), and `labels` when there is a loss.
    package var inputs: [String: ValueID]
    /// Outputs by name: `logits`, `metrics`, or the names of requested nodes.
    package var outputs: [String: ValueID]

    package init(
        values: [Value] = [], instructions: [Instruction] = [], inputs: [String: ValueID] = [:],
        outputs: [String: ValueID] = [:]
    ) {
        self.values = values
        self.instructions = instructions
        self.inputs = inputs
        self.outputs = outputs
    }

    package subscript(id: ValueID) -> Value { values[id.index] }

    /// Adds a value and returns its identity.
    package mutating func add(_ kind: ValueKind, _ storage: ValueStorage = .transient, _ name: String) -> ValueID {
        values.append(Value(kind: kind, storage: storage, name: name))
        return ValueID(values.count - 1)
    }

    /// Appends an instruction.
    package mutating func append(_ primitive: Primitive, _ inputs: [ValueID], _ outputs: [ValueID], node: String) {
        instructions.append(Instruction(primitive, inputs: inputs, outputs: outputs, node: node))
    }
}

/// Hyper-parameters of one cohort (parameters that became trainable together) in one step.
package struct CohortConstants: Hashable, Sendable {
    package var learningRate: Float = 0
    package var weightDecay: Float = 0
    /// SGD.
    package var momentum: Float = 0
    /// SGD: this is the cohort's first step, so its momentum buffer becomes the gradient.
    package var isFirstStep: Bool = false
    /// Adam.
    package var beta1: Float = 0.9
    package var beta2: Float = 0.999
    package var epsilon: Float = 1e-8
    /// Adam: `1 − β₁ᵗ` and `√(1 − β₂ᵗ)` with the cohort's own t from 1.
    package var biasCorrection1: Float = 1
    package var biasCorrection2Root: Float = 1

    package init() {}
}

/// What changes from run to run without preparing again.
package struct StepConstants: Sendable {
    /// Key of this step's dropout masks; ``DropoutMask/key(step:salt:)``.
    package var dropoutKey: UInt64 = 0
    /// By cohort index.
    package var cohorts: [CohortConstants] = []
    /// This batch's share of the images whose gradients are accumulated, itself included; 1 begins anew.
    package var accumulationShare: Float = 1

    package init(dropoutKey: UInt64 = 0, cohorts: [CohortConstants] = [], accumulationShare: Float = 1) {
        self.dropoutKey = dropoutKey
        self.cohorts = cohorts
        self.accumulationShare = accumulationShare
    }
}
