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
    /// What was found in the weights file and done with it, a line each, for a log.
    public private(set) var loadNotes: [String] = []

    let graph: Graph

    /// A network with fresh random weights.
    ///
    /// - Parameters:
    ///   - name: an architecture's name, see ``Architecture/all``.
    ///   - classCount: class scores; nil takes the architecture's own.
    ///   - seed: the random numbers depend on it and on each parameter's name.
    /// - Throws: ``GraftError/unknownModel(_:near:)``, ``GraftError/invalidArgument(_:)``.
    public init(_ name: String, classCount: Int? = nil, seed: UInt64 = 0) throws {
        let architecture =
            try ONNXFile.isPath(name)
            ? Architecture(ONNXFile.read(name), path: name) : Architecture.named(name)
        let count = classCount ?? architecture.classCount
        try Limits.check(classCount: count)
        let graph = architecture.graph(classCount: count)
        self.init(
            architecture: architecture, graph: graph, classCount: count,
            state: Initialization.state(of: graph, architecture, seed: seed),
            preprocessing: try Self.defaultPreprocessing(architecture))
    }

    private init(
        architecture: Architecture, graph: Graph, classCount: Int, state: StateDictionary,
        preprocessing: ImagePreprocessing
    ) {
        self.architecture = architecture
        self.graph = graph
        self.classCount = classCount
        self.state = state
        trainable = Set(graph.parameters.filter(\.role.isTrainable).map(\.name))
        self.preprocessing = preprocessing
    }

    /// ImageNet's mean and deviation; the sizes and the interpolation that the architecture's published weights were
    /// evaluated with.
    private static func defaultPreprocessing(_ architecture: Architecture) throws -> ImagePreprocessing {
        let size = architecture.imageSize
        return try ImagePreprocessing(
            imageSize: size, resize: architecture.resize ?? (size < 64 ? size : size * 256 / 224),
            interpolation: architecture.interpolation)
    }

    /// ResNet-18 with the weights of a file.
    public static func resNet18(weights: String) throws -> Model { try Model("resnet18", weights: weights) }

    /// A network with the weights of a file: `.pth` (any container), `.safetensors`, `.npz` or `.onnx`, told apart by
    /// content.
    ///
    /// - Parameters:
    ///   - name: an architecture's name, or the path of an `.onnx` file whose graph is taken; nil takes what the file's
    ///     metadata say, or the file's own graph.
    ///   - path: the file.
    /// - Throws: ``GraftError``, `CheckpointError`, and errors of ONNX files that name every node that is not read. The class count is the file's; see ``replaceHead(classCount:seed:)``.
    public init(_ name: String? = nil, weights path: String) throws {
        if try ONNXFile.recognizes(path) {
            try self.init(onnx: path, name: name)
        } else {
            try self.init(checkpoint: CheckpointReader.load(path), name: name, path: path)
        }
    }

    init(checkpoint: LoadedCheckpoint, name: String?, path: String) throws {
        let architecture = try Architecture.resolve(name, ModelMetadata(checkpoint.metadata), path: path)
        try self.init(checkpoint: checkpoint, architecture: architecture, path: path)
    }

    init(checkpoint: LoadedCheckpoint, architecture: Architecture, path: String) throws {
        let metadata = ModelMetadata(checkpoint.metadata)
        var checkpoint = checkpoint
        let renamed = try TensorNaming.withTorchvisionNames(checkpoint.state, source: path)
        if let renamed, !architecture.isImported { checkpoint.state = renamed }
        let name = architecture.name
        checkpoint.state = StateDictionary(
            checkpoint.state.map { (architecture.currentName(of: $0.name), $0.tensor) })
        if let stated = metadata.architecture, stated != name, !architecture.isImported {
            throw GraftError.weightsMismatch(
                "\(path) holds weights for \(stated), not for \(name); pass --model \(stated)")
        }
        let headWeight = "\(architecture.headName).weight"
        guard let classCount = checkpoint.state[headWeight]?.shape.dimensions.first, classCount > 0 else {
            throw GraftError.weightsMismatch(
                "\(path) has no tensor \(headWeight), the head of \(name); is --model \(name) right? The file's tensors begin with "
                    + checkpoint.state.names.prefix(4).joined(separator: ", "))
        }
        let graph = architecture.graph(classCount: classCount)
        let (report, state) = LoadReport.resolve(
            checkpoint.state,
            expected: graph.parameters.map {
                ExpectedTensor(name: $0.name, shape: $0.shape, isInteger: $0.role == .counter)
            })
        guard report.isClean else {
            throw GraftError.weightsMismatch("\(path) does not fit \(name): \(report)\nIs --model \(name) right?")
        }
        for (name, tensor) in state {
            guard !tensor.isFinite, let position = tensor.floats?.firstIndex(where: { !$0.isFinite }) else { continue }
            throw GraftError.weightsMismatch(
                "\(path): \(name) holds \(tensor.floats?[position] ?? .nan) at element \(position), of which no score can "
                    + "be computed; take a checkpoint from before the training diverged")
        }
        self.init(
            architecture: architecture, graph: graph, classCount: classCount, state: state,
            preprocessing: try metadata.preprocessing(path: path) ?? Self.defaultPreprocessing(architecture))
        loadNotes =
            checkpoint.notes
            + (renamed == nil || architecture.isImported ? [] : ["timm's names replaced by torchvision's"])
        loadNotes += report.description.split(separator: "\n").map(String.init)
        if let names = metadata.classNames {
            guard names.count == classCount else {
                throw GraftError.weightsMismatch("\(path) names \(names.count) classes, its head has \(classCount)")
            }
            classNames = names
        }
    }

    mutating func prependLoadNotes(_ notes: [String]) { loadNotes = notes + loadNotes }

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

    /// Makes exactly these parameters trainable.
    mutating func setTrainable(_ names: Set<String>) { trainable = names }

    /// The parameters that a selector names.
    public func names(_ selector: String) throws(GraftError) -> [String] {
        try ParameterSelection(selector).names(among: parameterNames, head: architecture.headName)
    }

    // MARK: Head

    /// Puts a new head with random weights in the place of the old one and makes it trainable.
    ///
    /// - Parameters:
    ///   - classCount: class scores of the new head.
    ///   - seed: its weights depend on it; the head starts as torchvision's constructor of the family fills it:
    ///     uniform in ±1/√fan-in as `nn.Linear`, or for SqueezeNet, MobileNet and RegNet normal with deviation 0.01
    ///     and bias 0.
    /// - Throws: ``GraftError/invalidArgument(_:)`` for a count below 1.
    public mutating func replaceHead(classCount: Int, seed: UInt64 = 0) throws {
        try Limits.check(classCount: classCount)
        let newGraph = architecture.graph(classCount: classCount)
        var newState = StateDictionary()
        let head = architecture.headName + "."
        let weights = Dictionary(
            uniqueKeysWithValues: newGraph.parameters.filter { $0.role == .weight }.map { ($0.node, $0.shape) })
        for parameter in newGraph.parameters {
            newState[parameter.name] =
                parameter.name.hasPrefix(head)
                ? Initialization.tensor(parameter, weightShape: weights[parameter.node], architecture, seed: seed)
                : state[parameter.name]
        }
        var copy = Model(
            architecture: architecture, graph: newGraph, classCount: classCount, state: newState,
            preprocessing: preprocessing)
        copy.trainable = trainable.union(newGraph.parameters.map(\.name).filter { $0.hasPrefix(head) })
        copy.loadNotes = loadNotes
        self = copy
    }

    /// Takes tensors by name from a file, for example the initial values of a new head.
    ///
    /// - Throws: ``GraftError/weightsMismatch(_:)`` when a name is unknown, a shape or type differs, or there is nothing.
    public mutating func load(tensorsFrom path: String) throws {
        let loaded = try CheckpointReader.load(path).state
        guard !loaded.isEmpty else { throw GraftError.weightsMismatch("\(path) holds no tensors") }
        try replaceState(loaded, source: path)
    }

    /// Replaces tensors by name; those that are not named stay.
    ///
    /// - Parameters:
    ///   - tensors: the new values.
    ///   - source: where they come from, for error messages.
    /// - Throws: ``GraftError/weightsMismatch(_:)`` when a name is unknown or a shape or type differs; nothing is
    ///   replaced then.
    public mutating func replaceState(_ tensors: StateDictionary, source: String = "the new state") throws {
        let expected = Dictionary(uniqueKeysWithValues: graph.parameters.map { ($0.name, $0) })
        for (name, tensor) in tensors {
            guard let parameter = expected[name] else {
                let near = nearMatches(to: name, in: expected.keys)
                throw GraftError.weightsMismatch(
                    "\(source) has a tensor \(name), \(architecture.name) has not"
                        + (near.isEmpty ? "" : "; did it mean \(near.joined(separator: ", "))?"))
            }
            let fits = parameter.role == .counter ? tensor.int64s != nil : tensor.floats != nil
            guard tensor.shape == parameter.shape, fits else {
                throw GraftError.weightsMismatch(
                    "\(name) in \(source) has shape \(tensor.shape), \(architecture.name) with \(classCount) classes expects \(parameter.role == .counter ? "int64" : "float32") \(parameter.shape)"
                )
            }
        }
        for (name, tensor) in tensors { state[name] = tensor }
    }

    // MARK: Files

    /// Writes weights that PyTorch loads with `strict=True`; the metadata hold architecture, class names, preprocessing
    /// and digest. Written to a temporary file first: a failure leaves an older file as it was.
    ///
    /// - Parameters:
    ///   - path: the file.
    ///   - format: nil takes what the ending says, safetensors for an ending that says nothing.
    /// - Throws: `CheckpointError` when the file cannot be written.
    public func save(_ path: String, format: WeightsFormat? = nil) throws {
        try save(path, format: format, digest: nil)
    }

    /// The same with a digest that is known already.
    func save(_ path: String, format: WeightsFormat? = nil, digest: String?) throws {
        let format = format ?? WeightsFormat(ending: path) ?? .safetensors
        guard let container = format.checkpointFormat else { return try exportONNX(path) }
        try CheckpointWriter.write(
            state.map { ($0.name, TensorContent($0.tensor)) },
            metadata: ModelMetadata(self, digest: digest ?? self.digest()).entries, format: container, to: path)
    }

    /// Whether every weight and statistic is a finite number.
    public var isFinite: Bool {
        state.allSatisfy(\.tensor.isFinite)
    }

    /// SHA-256 over all tensors, independent of the container: what `parity.py digest` prints.
    public func digest() throws -> String { try GraftCheckpoint.digest(of: state) }
}
