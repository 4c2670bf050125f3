import GraftCheckpoint
import GraftGraph
import GraftTensor
import GraftVision

/// A network with its weights on the host, and which of its parameters are trainable. A value: copies are independent.
///
/// ```swift
/// var model = try Model.resNet18(weights: "resnet18.pth")
/// model.freeze()
/// try model.replaceHead(classCount: 10)
/// ```
public struct Model: Sendable {
    /// What the network is.
    public let architecture: Architecture
    /// Number of class scores.
    public private(set) var classCount: Int
    /// Names of the classes, if they are known.
    public var classNames: [String]?
    /// How images become its input: what the weights file carries, else ImageNet's mean and deviation.
    public var preprocessing: ImagePreprocessing
    /// All tensors by torchvision's names, in PyTorch's order.
    public internal(set) var state: StateDictionary
    /// Names of the parameters that training changes; all of them at first, as in PyTorch.
    public private(set) var trainable: Set<String>
    /// What the last weights file said, for `report`s: which tensors were missing, unexpected or of another size.
    public private(set) var loadReport: LoadReport?

    let graph: Graph

    /// A network with fresh random weights.
    ///
    /// - Parameters:
    ///   - name: an architecture's name, see ``Architecture/all``.
    ///   - classCount: class scores; nil takes the architecture's own.
    ///   - seed: the random numbers depend on it and on each parameter's name.
    public init(_ name: String, classCount: Int? = nil, seed: UInt64 = 0) throws {
        let architecture = try Architecture.named(name)
        let count = classCount ?? architecture.classCount
        guard count > 0 else { throw GraftError.invalidArgument("a classifier needs at least one class, not \(count)") }
        let graph = architecture.graph(classCount: count)
        self.init(
            architecture: architecture, graph: graph, classCount: count,
            state: Initialization.state(of: graph, headName: architecture.headName, seed: seed))
    }

    private init(architecture: Architecture, graph: Graph, classCount: Int, state: StateDictionary) {
        self.architecture = architecture
        self.graph = graph
        self.classCount = classCount
        self.state = state
        trainable = Set(graph.parameters.filter(\.role.isTrainable).map(\.name))
        preprocessing = ImagePreprocessing(imageSize: architecture.imageSize)
    }

    /// ResNet-18 with the weights of a file.
    public static func resNet18(weights: String) throws -> Model { try Model("resnet18", weights: weights) }

    /// A network with the weights of a file: `.pth` (any container), `.safetensors` or `.npz`, told apart by content.
    ///
    /// - Parameters:
    ///   - name: an architecture's name; nil takes what the file's metadata say.
    ///   - path: the file.
    /// - Throws: ``GraftError``, ``CheckpointError``. The class count is the file's; see ``replaceHead(classCount:seed:)``.
    public init(_ name: String? = nil, weights path: String) throws {
        let checkpoint = try CheckpointReader.load(path)
        guard let name = name ?? checkpoint.metadata["architecture"] else {
            throw GraftError.architectureUnknown(path: path)
        }
        let architecture = try Architecture.named(name)
        if let stated = checkpoint.metadata["architecture"], stated != name {
            throw GraftError.weightsMismatch("\(path) holds weights for \(stated), not for \(name); pass --model \(stated)")
        }
        guard let head = checkpoint.state["\(architecture.headName).weight"], let classCount = head.shape.dimensions.first, classCount > 0
        else {
            throw GraftError.weightsMismatch(
                "\(path) has no tensor \(architecture.headName).weight, the head of \(name); is it the right --model? The file's tensors begin with "
                    + checkpoint.state.names.prefix(4).joined(separator: ", "))
        }
        let graph = architecture.graph(classCount: classCount)
        self.init(architecture: architecture, graph: graph, classCount: classCount, state: StateDictionary())
        let (state, report) = LoadReport.match(
            checkpoint.state, against: graph.parameters.map { ($0.name, $0.shape) }, file: path)
        loadReport = report
        guard report.isComplete else { throw GraftError.weightsMismatch(report.description) }
        self.state = state
        try readMetadata(checkpoint.metadata, path: path)
    }

    // MARK: Freezing

    /// All parameters that gradients can train, in PyTorch's order.
    public var parameterNames: [String] { graph.parameters.filter(\.role.isTrainable).map(\.name) }

    /// Freezes what a selector names, everything by default: no gradients, no updates, and batch-norm statistics kept.
    public mutating func freeze(_ selector: String = "all") throws(GraftError) {
        trainable.subtract(try names(selector))
    }

    /// Freezes everything.
    public mutating func freeze() { trainable = [] }

    /// Makes what a selector names trainable.
    ///
    /// - Returns: the names that were frozen before.
    @discardableResult
    public mutating func unfreeze(_ selector: String) throws(GraftError) -> [String] {
        let added = try names(selector).filter { !trainable.contains($0) }
        trainable.formUnion(added)
        return added
    }

    /// The parameters that a selector names.
    public func names(_ selector: String) throws(GraftError) -> [String] {
        try ParameterSelection(selector).names(among: parameterNames, head: architecture.headName)
    }

    // MARK: Head

    /// Puts a new head with random weights in the place of the old one and makes it trainable.
    ///
    /// - Parameters:
    ///   - classCount: class scores of the new head.
    ///   - seed: its weights depend on it; they are uniform in ±1/√fan-in, as `nn.Linear` and `nn.Conv2d` start.
    public mutating func replaceHead(classCount: Int, seed: UInt64 = 0) throws {
        guard classCount > 0 else {
            throw GraftError.invalidArgument("a classifier needs at least one class, not \(classCount)")
        }
        let newGraph = architecture.graph(classCount: classCount)
        var newState = StateDictionary()
        let head = architecture.headName + "."
        let weights = Dictionary(
            uniqueKeysWithValues: newGraph.parameters.filter { $0.role == .weight }.map { ($0.node, $0.shape) })
        for parameter in newGraph.parameters {
            newState[parameter.name] =
                parameter.name.hasPrefix(head)
                ? Initialization.tensor(parameter, weightShape: weights[parameter.node], isHead: true, seed: seed)
                : state[parameter.name]
        }
        var copy = Model(architecture: architecture, graph: newGraph, classCount: classCount, state: newState)
        copy.preprocessing = preprocessing
        copy.trainable = trainable.union(newGraph.parameters.map(\.name).filter { $0.hasPrefix(head) })
        copy.loadReport = loadReport
        self = copy
    }

    /// Takes tensors by name from a file, for example the initial values of a new head.
    ///
    /// - Throws: ``GraftError/weightsMismatch(_:)`` when a name is unknown, a shape differs, or nothing is taken.
    public mutating func load(tensorsFrom path: String) throws {
        let checkpoint = try CheckpointReader.load(path)
        let shapes = Dictionary(uniqueKeysWithValues: graph.parameters.map { ($0.name, $0.shape) })
        guard !checkpoint.state.isEmpty else { throw GraftError.weightsMismatch("\(path) holds no tensors") }
        for (name, tensor) in checkpoint.state {
            guard let expected = shapes[name] else {
                let near = nearMatches(to: name, in: shapes.keys)
                throw GraftError.weightsMismatch(
                    "\(path) has a tensor \(name), \(architecture.name) has not"
                        + (near.isEmpty ? "" : "; did it mean \(near.joined(separator: ", "))?"))
            }
            guard tensor.shape == expected else {
                throw GraftError.weightsMismatch(
                    "\(name) in \(path) has shape \(tensor.shape), \(architecture.name) with \(classCount) classes expects \(expected)")
            }
            state[name] = tensor
        }
    }

    // MARK: Files

    /// Writes the weights as safetensors that PyTorch loads with `strict=True`; the metadata hold architecture, class
    /// names, preprocessing and digest. Written to a temporary file first: a failure leaves an older file as it was.
    public func save(_ path: String) throws {
        try SafetensorsWriter.write(state, metadata: metadata, to: path)
    }

    /// SHA-256 over all tensors, as `parity.py digest` computes it: independent of the container.
    public var digest: String { SHA256Digest.hex(of: state) }
}
