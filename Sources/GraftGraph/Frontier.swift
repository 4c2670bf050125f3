/// Where the part of a network ends whose values for an image never change while the rest trains: frozen layers with
/// running statistics and without active dropout, from the image on.
///
/// Its nodes are the last of that part: the rest reads nothing else of it. What they hold for an image can be kept.
package struct Frontier: Hashable, Sendable {
    /// Node names, in execution order.
    package let nodes: [String]
    /// Their shapes for one image.
    package let shapes: [ActivationShape]
    /// Multiply-accumulate operations per image up to the frontier: what an evaluation spares.
    package let multiplyAccumulateCount: Int
    /// Those of the whole network's forward pass.
    package let totalMultiplyAccumulateCount: Int

    /// Floats that the frontier's nodes hold for one image.
    package var elementCount: Int { shapes.reduce(0) { $0 + $1.elementCount } }

    /// Finds the frontier; nil where a layer that reads the image itself trains.
    ///
    /// - Parameters:
    ///   - graph: the network.
    ///   - trainable: names of trainable parameters.
    ///   - frozenStatistics: batch norms that track statistics depend on the batch and end the part.
    ///   - dropout: whether dropout layers drop, and so end it too.
    ///   - height: the image's.
    ///   - width: the image's.
    /// - Throws: `GraphError` for images that are too small.
    package init?(
        _ graph: Graph, trainable: Set<String>, frozenStatistics: FrozenStatistics, dropout: Bool, height: Int,
        width: Int
    ) throws(GraphError) {
        let shapes = try graph.shapes(batch: 1, height: height, width: width)
        let analysis = FreezeAnalysis(graph, trainable: trainable, frozenStatistics: frozenStatistics)
        var isConstant: [Bool] = []
        var work = 0
        var totalWork = 0
        for (index, node) in graph.nodes.enumerated() {
            var drops = false
            if case .dropout(let rate) = node.layer { drops = dropout && rate > 0 }
            if case .stochasticDepth(let rate) = node.layer { drops = dropout && rate > 0 }
            let nodeWork = graph.multiplyAccumulateCount(of: index, shapes: shapes)
            let plan = analysis.nodes[index]
            let keeps =
                plan.isPrefix && !plan.usesBatchStatistics && !drops && node.inputs.allSatisfy { isConstant[$0] }
            isConstant.append(keeps)
            totalWork += nodeWork
            if keeps { work += nodeWork }
        }
        var border: Set<Int> = []
        for (index, node) in graph.nodes.enumerated() where !isConstant[index] {
            border.formUnion(node.inputs.filter { isConstant[$0] })
        }
        let indices = border.sorted()
        guard !indices.isEmpty, !indices.contains(where: { graph.nodes[$0].inputs.isEmpty }) else { return nil }
        nodes = indices.map { graph.nodes[$0].name }
        self.shapes = indices.map { shapes[$0] }
        multiplyAccumulateCount = work
        totalMultiplyAccumulateCount = totalWork
    }
}
