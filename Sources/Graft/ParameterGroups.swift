import GraftGraph

/// Which parameters learn how fast, and which are decayed: the parameter groups of `torch.optim`.
///
/// Every trainable parameter belongs to one group, whenever it is unfrozen. A schedule multiplies the rates of all groups
/// alike.
public struct ParameterGroups: Sendable, Hashable {
    /// A learning rate for what a selector names.
    public struct Rate: Sendable, Hashable {
        /// Names, prefixes, globs, or `all`, `head`, `backbone` (see ``ParameterSelection``).
        public var selector: String
        /// The rate before any schedule.
        public var learningRate: Double

        /// Makes an entry of ``ParameterGroups/rates``.
        public init(_ selector: String, _ learningRate: Double) {
            self.selector = selector
            self.learningRate = learningRate
        }
    }

    /// Rates that differ from the optimizer's; where several name a parameter, the last one counts.
    public var rates: [Rate]
    /// Each block's rate is this times the rate of the block above it: the head keeps its own, the block below has it times
    /// `layerDecay`, and so on to the stem (`--layer-decay` of timm). nil and 1 leave all alike.
    public var layerDecay: Double?
    /// Whether weight decay applies to biases and to the scales and shifts of norms, as `torch.optim` has it.
    public var decaysBiasesAndNorms: Bool

    /// Makes groups; by default all parameters are alike.
    public init(rates: [Rate] = [], layerDecay: Double? = nil, decaysBiasesAndNorms: Bool = true) {
        self.rates = rates
        self.layerDecay = layerDecay
        self.decaysBiasesAndNorms = decaysBiasesAndNorms
    }

    /// Whether parts of the network may learn at unlike rates.
    package var hasUnlikeRates: Bool { !rates.isEmpty || (layerDecay ?? 1) != 1 }

    /// What distinguishes the parameters of one group.
    struct Setting: Hashable {
        /// A rate of its own, or nil for the optimizer's.
        var learningRate: Double?
        /// What layer decay multiplies it with.
        var scale: Double
        var isDecayed: Bool
    }

    /// The setting of each of the model's parameters.
    ///
    /// - Throws: ``GraftError/unknownSelector(_:near:)`` for a rate whose selector names nothing;
    ///   ``GraftError/invalidArgument(_:)`` for rates and decays that are none.
    func settings(of model: Model) throws -> [String: Setting] {
        if let layerDecay, !(layerDecay > 0 && layerDecay <= 1) {
            throw GraftError.invalidArgument(
                "--layer-decay \(layerDecay): expected above 0, and 1 at most; 0.75 is usual")
        }
        var rateOf: [String: Double] = [:]
        for rate in rates {
            guard rate.learningRate.isFinite, rate.learningRate >= 0 else {
                throw GraftError.invalidArgument(
                    "the learning rate \(rate.learningRate) of \(rate.selector): expected a number of at least 0")
            }
            for name in try model.names(rate.selector) { rateOf[name] = rate.learningRate }
        }
        let names = model.parameterNames
        let depths = Self.depths(of: names, head: model.architecture.headName)
        let deepest = depths.values.max() ?? 0
        let isVector = Dictionary(
            model.graph.parameters.map { ($0.name, $0.shape.rank <= 1) }, uniquingKeysWith: { first, _ in first })
        return Dictionary(
            uniqueKeysWithValues: names.map { name in
                let below = deepest - (depths[name] ?? deepest)
                let scale = (0..<below).reduce(1.0) { value, _ in value * (layerDecay ?? 1) }
                return (
                    name,
                    Setting(
                        learningRate: rateOf[name], scale: scale,
                        isDecayed: decaysBiasesAndNorms || !(isVector[name] ?? false))
                )
            })
    }

    /// How far up in the network each parameter is: the stem is 0, every block one more than the one before, the head the
    /// most. A block is what the numbers in torchvision's names count: `layer1.0`, `features.3`; a numbered layer alone
    /// (`features.0` of VGG) is one too; other layers belong to the block before them.
    static func depths(of names: [String], head: String) -> [String: Int] {
        func block(_ name: String) -> String? {
            let components = name.split(separator: ".").dropLast().map(String.init)
            func isNumbered(_ index: Int) -> Bool {
                components.indices.contains(index) && components[index].contains(where: \.isNumber)
            }
            guard let first = components.indices.first(where: isNumbered) else { return nil }
            var last = isNumbered(first + 1) ? first + 1 : first
            // Nothing but the layer itself is below: not a block, but part of one, or of none.
            if last == components.count - 1 {
                if last > first {
                    last -= 1
                } else if Int(components[last]) == nil {
                    return nil
                }
            }
            return components[...last].joined(separator: ".")
        }
        var depths: [String: Int] = [:]
        var depth = 0
        var current: String?
        // What lies before the first block is the stem, at depth 0.
        for name in names where !(name == head || name.hasPrefix(head + ".") || Self.isClassifier(name, head)) {
            if let key = block(name), key != current {
                if current != nil || !depths.isEmpty { depth += 1 }
                current = key
            }
            depths[name] = depth
        }
        for name in names where depths[name] == nil { depths[name] = depth + 1 }
        return depths
    }

    /// Whether a layer stands beside the head: `classifier.0` where the head is `classifier.6`.
    private static func isClassifier(_ name: String, _ head: String) -> Bool {
        guard let dot = head.lastIndex(of: ".") else { return false }
        return name.hasPrefix(head[...dot])
    }
}
