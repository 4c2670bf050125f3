import GraftGraph

/// What training does with a layer or a block of layers.
public enum TrainingRole: String, Sendable, Hashable, Codable, CaseIterable {
    /// Its parameters change.
    case trainable
    /// Frozen; gradients flow through it to layers that train.
    case passing
    /// Frozen, with nothing trainable before it; computed in every step.
    case frozen
    /// Frozen, with nothing trainable before it; computed once for each image and kept.
    case kept
}

/// Which blocks of a network train, which are frozen, and of which the outputs are kept.
public struct TrainabilityPlan: Sendable, Hashable, Codable {
    /// A block: layers under one part of torchvision's names, such as `layer3` or `features.6`.
    public struct Block: Sendable, Hashable, Codable {
        /// The common part of the names.
        public let name: String
        /// Parameters that gradients can train.
        public let parameterCount: Int
        /// How many of them do train.
        public let trainableCount: Int
        /// What training does with it; ``TrainingRole/trainable`` if a part of it trains.
        public let role: TrainingRole
    }

    /// Blocks with parameters, from the image to the scores.
    public let blocks: [Block]

    /// Parameters that train.
    public var trainableCount: Int { blocks.reduce(0) { $0 + $1.trainableCount } }

    /// Finds the blocks of a model and what its trainable parameters make of them.
    ///
    /// - Parameters:
    ///   - model: the network with its trainable parameters.
    ///   - frozenStatistics: what batch norms with frozen parameters do.
    ///   - dropout: whether dropout layers drop.
    ///   - keepsOutputs: whether the frozen part's outputs are kept.
    /// - Throws: `GraphError` for an image size that is too small.
    public init(
        _ model: Model, frozenStatistics: FrozenStatistics = .keep, dropout: Bool = true, keepsOutputs: Bool = true
    ) throws {
        let roles = try Self.roles(
            model, frozenStatistics: frozenStatistics, dropout: dropout, keepsOutputs: keepsOutputs)
        let graph = model.graph
        let names = Self.blockNames(graph)
        var order: [String] = []
        var counts: [String: (all: Int, trainable: Int)] = [:]
        var members: [String: Set<TrainingRole>] = [:]
        for parameter in graph.parameters where parameter.role.isTrainable {
            let name = names[parameter.node]
            if counts[name] == nil { order.append(name) }
            let count = parameter.shape.elementCount
            counts[name, default: (0, 0)].all += count
            if model.trainable.contains(parameter.name) { counts[name, default: (0, 0)].trainable += count }
            members[name, default: []].insert(roles[parameter.node])
        }
        blocks = order.map { name in
            let found = members[name] ?? []
            let role = [TrainingRole.trainable, .passing, .frozen].first(where: found.contains) ?? .kept
            let count = counts[name] ?? (0, 0)
            return Block(name: name, parameterCount: count.all, trainableCount: count.trainable, role: role)
        }
    }

    /// What training does with each node.
    static func roles(
        _ model: Model, frozenStatistics: FrozenStatistics, dropout: Bool, keepsOutputs: Bool
    ) throws -> [TrainingRole] {
        let graph = model.graph
        let analysis = FreezeAnalysis(graph, trainable: model.trainable, frozenStatistics: frozenStatistics)
        let size = model.preprocessing.imageSize
        var isKept = [Bool](repeating: false, count: graph.nodes.count)
        if keepsOutputs,
            let frontier = try Frontier(
                graph, trainable: model.trainable, frozenStatistics: frozenStatistics, dropout: dropout, height: size,
                width: size)
        {
            for name in frontier.nodes { isKept[try graph.index(of: name)] = true }
            for index in graph.nodes.indices.reversed() where isKept[index] {
                for input in graph.nodes[index].inputs { isKept[input] = true }
            }
        }
        return graph.nodes.indices.map { index in
            let plan = analysis.nodes[index]
            if !plan.trainableParameters.isEmpty { return .trainable }
            if plan.hasTrainableAncestorOrSelf { return .passing }
            return isKept[index] ? .kept : .frozen
        }
    }

    /// The block of each node: the first part of its name, and the second too where one first part has most layers
    /// (`features.6`).
    static func blockNames(_ graph: Graph) -> [String] {
        let paths = graph.nodes.map { $0.name.split(separator: ".") }
        let owners = Set(graph.parameters.map(\.node))
        let heads = owners.map { paths[$0].first ?? "" }
        return paths.map { path in
            let first = path.first ?? ""
            let isLarge = heads.count { $0 == first } * 2 > heads.count
            return path.prefix(isLarge ? 2 : 1).joined(separator: ".")
        }
    }
}
