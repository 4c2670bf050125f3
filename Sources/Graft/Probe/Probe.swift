import Foundation
import GraftCheckpoint
import GraftTensor

/// A classifier on the features of one layer of a frozen network: logistic regression, or the vote of the nearest known
/// features.
///
/// ```swift
/// let result = try Probe.fit(try FeatureTable("features.npz"), options: ProbeOptions())
/// print(result.heldOut?.top1 ?? 0)
/// try result.probe.save("probe.safetensors")
/// ```
public struct Probe: Sendable, Equatable {
    /// How features are classified.
    public enum Method: String, Sendable, CaseIterable {
        /// ``LogisticRegression`` on standardised features.
        case logistic
        /// The vote of the nearest rows by cosine, ``NearestNeighbours``.
        case knn
    }

    /// What was fitted.
    public enum Classifier: Sendable, Equatable {
        /// Logistic regression.
        case logistic(LogisticRegression)
        /// Known features, and how many of the nearest vote.
        case neighbours(NearestNeighbours, count: Int)
    }

    /// What was fitted.
    public let classifier: Classifier
    /// The layer whose outputs are the features.
    public let layer: String
    /// Names of the classes.
    public let classNames: [String]
    /// The network; nil when the features did not say.
    public let origin: FeatureOrigin?

    /// The method.
    public var method: Method {
        switch classifier {
        case .logistic: .logistic
        case .neighbours: .knn
        }
    }

    /// Features of a row.
    public var width: Int {
        switch classifier {
        case .logistic(let regression): regression.width
        case .neighbours(let known, _): known.width
        }
    }

    /// Scores of features: their softmax is each class's probability, or its share of the votes.
    ///
    /// - Parameter features: float32 `[N, …]` of ``layer``.
    /// - Returns: float32 `[N, classes]`.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for another width.
    public func scores(of features: HostTensor) throws -> HostTensor {
        switch classifier {
        case .logistic(let regression): try regression.scores(of: features)
        case .neighbours(let known, let count):
            try known.scores(of: features, neighbours: count, classCount: classNames.count)
        }
    }

    /// How well the probe does on labelled features.
    ///
    /// - Throws: ``GraftError/badFeatures(_:)`` for features of another layer, width, network or of other classes.
    public func evaluate(_ table: FeatureTable) throws -> Evaluation {
        try requireAgreement(table)
        var evaluation = Evaluation(classNames: classNames)
        let batch = 1024
        for start in stride(from: 0, to: table.count, by: batch) {
            let end = min(start + batch, table.count)
            let rows = HostTensor(
                [end - start, table.width], Array(table.values[start * table.width..<end * table.width]))
            try evaluation.add(logits: try scores(of: rows), labels: Array(table.labels[start..<end]))
        }
        return evaluation
    }

    private func requireAgreement(_ table: FeatureTable) throws(GraftError) {
        func refuse(_ what: String, _ found: String, _ expected: String) -> GraftError {
            .badFeatures(
                "\(table.source): \(what) \(found), the features that the probe was fitted to have \(expected); "
                    + "extract both with the same network, layer and --pool from folders of the same classes")
        }
        guard table.layer == layer else { throw refuse("layer", table.layer, layer) }
        guard table.width == width else { throw refuse("numbers of a row", "\(table.width)", "\(width)") }
        guard table.classNames == classNames else {
            throw refuse(
                "classes", table.classNames.joined(separator: ", "), classNames.joined(separator: ", "))
        }
        if let theirs = table.origin, let ours = origin, theirs != ours {
            guard theirs.digest == ours.digest else {
                throw refuse(
                    "network", "\(theirs.architecture) \(theirs.digest.prefix(12))",
                    "\(ours.architecture) \(ours.digest.prefix(12))")
            }
            throw refuse(
                "preprocessing or pooling", "\(theirs.preprocessing), \(theirs.pooling)",
                "\(ours.preprocessing), \(ours.pooling)")
        }
    }

    /// Holds a network against the one that made the features.
    ///
    /// - Parameters:
    ///   - model: the network.
    ///   - source: the probe's file, for the message.
    /// - Throws: ``GraftError/weightsMismatch(_:)`` for another network.
    public func requireNetwork(_ model: Model, source: String) throws {
        guard let origin else {
            throw GraftError.badFeatures("\(source) does not say which network its features are from")
        }
        let digest = try model.digest()
        guard origin.digest == digest else {
            throw GraftError.weightsMismatch(
                "\(source) was fitted to features of \(layer) in the \(origin.architecture) with digest "
                    + "\(origin.digest.prefix(12)), and the weights given are a \(model.architecture.name) with "
                    + "\(digest.prefix(12)); pass the weights that the features were extracted with")
        }
    }
}

// MARK: Fitting

/// How a probe is fitted.
public struct ProbeOptions: Sendable {
    /// The method.
    public var method = Probe.Method.logistic
    /// scikit-learn's C for ``Probe/Method/logistic``; nil chooses one of ``strengths`` on rows held out.
    public var inverseStrength: Double?
    /// Votes for ``Probe/Method/knn``; nil chooses one of ``neighbourCounts`` on rows held out.
    public var neighbours: Int?
    /// Share of each class that is held out.
    public var heldOutShare = 0.2
    /// Which rows are held out.
    public var seed: UInt64 = 0

    /// The values of C that are tried, each ten times the one before.
    public static let strengths = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 1e1, 1e2, 1e3]
    /// The numbers of neighbours that are tried, as far as there are so many rows.
    public static let neighbourCounts = [1, 3, 5, 7, 9, 11, 15, 21, 31, 51]

    /// Logistic regression with its strength chosen.
    public init() {}
}

/// A probe and how it came about.
public struct ProbeResult: Sendable {
    /// A value that was tried.
    public struct Trial: Sendable, Equatable {
        /// C, or the number of neighbours.
        public let value: Double
        /// Rows held out that were classified rightly.
        public let correct: Int
        /// Their mean cross entropy; nil for neighbours.
        public let loss: Double?
    }

    /// Fitted to all rows.
    public let probe: Probe
    /// C, or the number of neighbours.
    public let chosen: Double
    /// What was tried on the rows held out; empty when the value was given.
    public let trials: [Trial]
    /// How a probe fitted to the other rows, with the chosen value, does on the rows held out; nil where none could be.
    public let heldOut: Evaluation?
    /// How the fit to all rows went; nil for neighbours.
    public let fit: LogisticRegression.Fit?
}

extension Probe {
    /// Fits a probe to all rows, with a strength or number of neighbours that does best on rows held out.
    ///
    /// A share of each class is held out, chosen by the seed; at least one row of each class stays to fit to. Most right
    /// classifications win, then the lower cross entropy, then the smaller value.
    ///
    /// - Parameters:
    ///   - table: features whose labels use every class.
    ///   - options: the rest.
    /// - Returns: the probe, what was chosen and how it does on the rows held out.
    /// - Throws: ``GraftError/badFeatures(_:)`` for a table with fewer than two classes, a class without rows, or too few
    ///   rows to hold some out; ``GraftError/invalidArgument(_:)`` for values out of range.
    public static func fit(_ table: FeatureTable, options: ProbeOptions = ProbeOptions()) throws -> ProbeResult {
        try requireEveryClass(table)
        let parts = split(table, options)
        let isGiven = options.method == .logistic ? options.inverseStrength != nil : options.neighbours != nil
        guard parts != nil || isGiven else {
            throw GraftError.badFeatures(
                "\(table.source): with \(table.count) rows of \(table.classNames.count) classes no row can be held out to "
                    + "choose by; give the value, or extract more images")
        }
        switch options.method {
        case .logistic: return try fitLogistic(table, parts, options)
        case .knn: return try fitNeighbours(table, parts, options)
        }
    }

    private typealias Parts = (kept: FeatureTable, heldOut: FeatureTable)

    private static func fitLogistic(
        _ table: FeatureTable, _ parts: Parts?, _ options: ProbeOptions
    ) throws -> ProbeResult {
        var chosen = options.inverseStrength ?? 0
        var trials: [ProbeResult.Trial] = []
        var heldOut: Evaluation?
        if let parts {
            // From the strongest penalty to the weakest: each fit begins at the one before.
            var problem = try LogisticProblem(parts.kept)
            var best: (value: Double, evaluation: Evaluation)?
            for value in options.inverseStrength.map({ [$0] }) ?? ProbeOptions.strengths {
                let regression = try problem.solve(inverseStrength: value).regression
                let evaluation = try probe(.logistic(regression), table).evaluate(parts.heldOut)
                if options.inverseStrength == nil {
                    trials.append(.init(value: value, correct: evaluation.top1Correct, loss: evaluation.loss))
                }
                let isBetter =
                    best.map {
                        (evaluation.top1Correct, -evaluation.loss) > ($0.evaluation.top1Correct, -$0.evaluation.loss)
                    } ?? true
                if isBetter { best = (value, evaluation) }
            }
            chosen = best?.value ?? chosen
            heldOut = best?.evaluation
        }
        let (regression, fit) = try LogisticRegression.fit(table, inverseStrength: chosen)
        return ProbeResult(
            probe: probe(.logistic(regression), table), chosen: chosen, trials: trials, heldOut: heldOut, fit: fit)
    }

    private static func fitNeighbours(
        _ table: FeatureTable, _ parts: Parts?, _ options: ProbeOptions
    ) throws -> ProbeResult {
        func known(_ table: FeatureTable) throws -> NearestNeighbours {
            try NearestNeighbours(features: HostTensor([table.count, table.width], table.values), labels: table.labels)
        }
        let all = try known(table)
        if let count = options.neighbours, !(1...table.count).contains(count) {
            throw GraftError.invalidArgument(
                "\(count) neighbours of \(table.count) rows, expected 1 to \(table.count)")
        }
        var chosen = options.neighbours ?? 0
        var trials: [ProbeResult.Trial] = []
        var heldOut: Evaluation?
        if let parts {
            let counts =
                options.neighbours.map { [min($0, parts.kept.count)] }
                ?? ProbeOptions.neighbourCounts.filter { $0 <= parts.kept.count }
            let queries = HostTensor([parts.heldOut.count, table.width], parts.heldOut.values)
            let nearest = try known(parts.kept).nearest(queries, count: counts.max() ?? 1)
            for count in counts {
                var evaluation = Evaluation(classNames: table.classNames)
                let scores = nearest.flatMap {
                    NearestNeighbours.scores($0.prefix(count), classCount: table.classNames.count)
                }
                try evaluation.add(
                    logits: HostTensor([nearest.count, table.classNames.count], scores), labels: parts.heldOut.labels)
                if options.neighbours == nil {
                    trials.append(.init(value: Double(count), correct: evaluation.top1Correct, loss: nil))
                }
                if evaluation.top1Correct > heldOut?.top1Correct ?? -1 {
                    heldOut = evaluation
                    if options.neighbours == nil { chosen = count }
                }
            }
        }
        return ProbeResult(
            probe: probe(.neighbours(all, count: chosen), table), chosen: Double(chosen), trials: trials,
            heldOut: heldOut, fit: nil)
    }

    private static func probe(_ classifier: Classifier, _ table: FeatureTable) -> Probe {
        Probe(classifier: classifier, layer: table.layer, classNames: table.classNames, origin: table.origin)
    }

    /// Sets a share of each class aside; nil where no class has a second row.
    private static func split(_ table: FeatureTable, _ options: ProbeOptions) -> Parts? {
        var kept: [Int] = []
        var heldOut: [Int] = []
        let members = Dictionary(grouping: table.labels.indices) { table.labels[$0] }
        for (label, rows) in members {
            let wanted = max(1, Int((Double(rows.count) * options.heldOutShare).rounded()))
            let count = min(wanted, rows.count - 1)
            let order = CounterRandom(seed: options.seed, UInt64(label), 0x9B0E).permutation(rows.count)
            heldOut += order.prefix(count).map { rows[$0] }
            kept += order.dropFirst(count).map { rows[$0] }
        }
        guard !heldOut.isEmpty else { return nil }
        return (table.subset(kept.sorted()), table.subset(heldOut.sorted()))
    }
}

// MARK: Files

extension Probe {
    private enum Key {
        static let kind = "graft_probe"
        static let layer = "layer"
        static let classNames = "class_names"
        static let neighbours = "neighbours"
    }

    /// Writes the probe as safetensors; the metadata say which network it is for.
    ///
    /// Logistic regression: `weight` `[classes, width]` (one row for two classes), `bias`, `mean` and `scale`, float32.
    /// Neighbours: `features` `[N, width]` of length 1 and `labels`, int64.
    ///
    /// - Throws: ``GraftError/badFeatures(_:)`` when the network is unknown: such a probe could not be used.
    public func save(_ path: String) throws {
        guard let origin else {
            throw GraftError.badFeatures(
                "the features do not say which network they are from, so that a probe in \(path) could not be held "
                    + "against one; fit it to features that `graft extract` wrote as .npz or .safetensors")
        }
        var metadata = origin.entries
        metadata[Key.kind] = method.rawValue
        metadata[Key.layer] = layer
        metadata[Key.classNames] = String(decoding: try JSONEncoder().encode(classNames), as: UTF8.self)
        let state: StateDictionary
        switch classifier {
        case .logistic(let regression):
            state = StateDictionary([
                ("weight", regression.weight), ("bias", regression.bias), ("mean", regression.mean),
                ("scale", regression.scale),
            ])
        case .neighbours(let known, let count):
            metadata[Key.neighbours] = String(count)
            let (features, labels) = known.known
            state = StateDictionary([
                ("features", features),
                ("labels", HostTensor(shape: [labels.count], storage: .int64(labels.map(Int64.init)))),
            ])
        }
        try Safetensors.write(state, metadata: metadata, to: path)
    }

    /// Reads what ``save(_:)`` writes.
    ///
    /// - Throws: ``GraftError/badFeatures(_:)`` for a file that is no probe; `CheckpointError`.
    public init(_ path: String) throws {
        let checkpoint = try CheckpointReader.load(path)
        func refuse(_ found: String) -> GraftError {
            .badFeatures(
                "\(path) is no probe: \(found); `graft probe FEATURES --out \(path)` writes one")
        }
        guard let text = checkpoint.metadata[Key.kind] else {
            throw refuse("its metadata have no \(Key.kind) (\(checkpoint.container.rawValue))")
        }
        guard let method = Method(rawValue: text) else { throw refuse("\(Key.kind) is \"\(text)\"") }
        guard let layer = checkpoint.metadata[Key.layer],
            let names = checkpoint.metadata[Key.classNames].flatMap({
                try? JSONDecoder().decode([String].self, from: Data($0.utf8))
            }), names.count > 1
        else { throw refuse("its metadata name no layer or no classes") }
        guard let origin = try FeatureOrigin(checkpoint.metadata, path: path) else {
            throw refuse("its metadata name no network")
        }
        func floats(_ name: String, _ shape: Shape?) throws(GraftError) -> HostTensor {
            guard let tensor = checkpoint.state[name], let values = tensor.floats, !values.isEmpty,
                shape == nil ? tensor.shape.rank == 2 : tensor.shape == shape
            else {
                throw refuse(
                    "\(name) has shape \(checkpoint.state[name]?.shape.description ?? "none"), expected float32 "
                        + (shape?.description ?? "[N, width]"))
            }
            guard values.allSatisfy(\.isFinite) else { throw refuse("\(name) holds numbers that are not finite") }
            return tensor
        }
        switch method {
        case .logistic:
            let weight = try floats("weight", nil)
            let (rows, width) = (weight.shape[0], weight.shape[1])
            guard rows == (names.count == 2 ? 1 : names.count) else {
                throw refuse("\(rows) rows of weights for \(names.count) classes")
            }
            let scale = try floats("scale", [width])
            guard scale.floats?.allSatisfy({ $0 > 0 }) == true else { throw refuse("a scale is not above 0") }
            classifier = .logistic(
                LogisticRegression(
                    weight: weight, bias: try floats("bias", [rows]), mean: try floats("mean", [width]), scale: scale))
        case .knn:
            let features = try floats("features", nil)
            let labels = checkpoint.state["labels"]?.int64s ?? []
            guard labels.count == features.shape[0], labels.allSatisfy({ names.indices.contains(Int($0)) }) else {
                throw refuse("its labels do not fit \(features.shape[0]) rows and \(names.count) classes")
            }
            let count = checkpoint.metadata[Key.neighbours].flatMap { Int($0) } ?? 0
            guard (1...labels.count).contains(count) else {
                throw refuse("\(Key.neighbours) is \"\(checkpoint.metadata[Key.neighbours] ?? "")\"")
            }
            classifier = .neighbours(
                try NearestNeighbours(features: features, labels: labels.map { Int32($0) }), count: count)
        }
        self.layer = layer
        classNames = names
        self.origin = origin
    }
}
