import Graft

/// `--probe`: another head for a network, fitted by `graft probe` to what one of its layers computes.
struct ProbeRequest {
    static let probe = Argument.optional(
        "probe", .path("PROBE.safetensors"), shownAs: "the network's own head",
        help: "Classify by a probe that `graft probe --out` wrote for this network.")

    private let probe: Probe

    /// The probe of the command line, held against the network, which takes over how the probe saw its pictures.
    init?(_ values: ArgumentValues, _ network: inout Model) throws {
        guard let path = values[Self.probe] else { return nil }
        probe = try Probe(path)
        try probe.requireNetwork(network, source: path)
        if let origin = probe.origin { network.preprocessing = origin.preprocessing }
    }

    /// A probe names its classes itself.
    static func validate(_ values: ArgumentValues) throws(UsageError) {
        guard values.isGiven(probe), values.isGiven(Shared.classesFile) else { return }
        throw UsageError("--probe names its classes itself: --classes-file does not apply to it")
    }

    var layer: String { probe.layer }
    var pooling: FeaturePooling { probe.origin?.pooling ?? .none }
    var classNames: [String] { probe.classNames }
    /// Whether scores are probabilities of a model, of which a cross entropy can be had.
    var hasLoss: Bool { probe.method == .logistic }

    /// The class scores of a batch.
    func scores(_ features: [String: HostTensor]) throws -> HostTensor? {
        try features[probe.layer].map { try probe.scores(of: $0) }
    }
}
