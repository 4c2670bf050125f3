/// What batch norms with frozen parameters do in training.
public enum FrozenStatistics: String, Sendable, CaseIterable {
    /// They normalise with their running statistics and leave them as they are.
    case keep
    /// They normalise with the batch and update, as PyTorch's plain `model.train()`.
    case track
}

/// What training asks of each node, from two reachability bits (cf. the table in the article "Freezing and unfreezing").
package struct FreezeAnalysis: Hashable, Sendable {
    /// What one node does in a training step.
    package struct NodePlan: Hashable, Sendable {
        /// A parameter of this node, or of a node before it, is trainable: a gradient flows into it.
        package var hasTrainableAncestorOrSelf: Bool
        /// The loss depends on it.
        package var reachesLoss: Bool
        /// Names of its own trainable parameters.
        package var trainableParameters: [String]
        /// Batch norm: normalises with the batch and updates running statistics.
        package var usesBatchStatistics: Bool
        /// Its inputs' gradients are computed: something before it is trainable.
        package var computesInputGradient: Bool

        /// Neither trained nor on the way of a gradient: runs as inference, folded and fused.
        package var isPrefix: Bool { !hasTrainableAncestorOrSelf }
    }

    package let nodes: [NodePlan]

    /// Analyses a graph.
    ///
    /// - Parameters:
    ///   - graph: the network.
    ///   - trainable: names of trainable parameters.
    ///   - frozenStatistics: what batch norms without trainable parameters do.
    ///   - gradientSource: a node whose value a gradient is wanted of, as if it were trainable.
    package init(
        _ graph: Graph, trainable: Set<String>, frozenStatistics: FrozenStatistics, gradientSource: Int? = nil
    ) {
        var owned = [[String]](repeating: [], count: graph.nodes.count)
        for parameter in graph.parameters where trainable.contains(parameter.name) && parameter.role.isTrainable {
            owned[parameter.node].append(parameter.name)
        }
        var reaches = [Bool](repeating: false, count: graph.nodes.count)
        if !graph.nodes.isEmpty { reaches[graph.outputIndex] = true }
        for index in graph.nodes.indices.reversed() where reaches[index] {
            for input in graph.nodes[index].inputs { reaches[input] = true }
        }
        var result: [NodePlan] = []
        for (index, node) in graph.nodes.enumerated() {
            let inherited = node.inputs.contains { result[$0].hasTrainableAncestorOrSelf }
            let isBatchNorm = if case .batchNormalization = node.layer { true } else { false }
            result.append(
                NodePlan(
                    hasTrainableAncestorOrSelf: inherited || !owned[index].isEmpty || index == gradientSource,
                    reachesLoss: reaches[index],
                    trainableParameters: owned[index],
                    usesBatchStatistics: isBatchNorm && (!owned[index].isEmpty || frozenStatistics == .track),
                    computesInputGradient: inherited && reaches[index]))
        }
        nodes = result
    }
}
