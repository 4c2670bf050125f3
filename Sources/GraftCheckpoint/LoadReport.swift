import GraftTensor

/// What a model expects of a weights file under one name.
package struct ExpectedTensor: Sendable, Equatable {
    /// The name, as torchvision has it.
    package let name: String
    /// The extents.
    package let shape: Shape
    /// Whether it is a counter of whole numbers (`num_batches_tracked`) and not a float tensor.
    package let isInteger: Bool

    package init(name: String, shape: Shape, isInteger: Bool = false) {
        self.name = name
        self.shape = shape
        self.isInteger = isInteger
    }
}

/// A tensor that is there, but not as expected.
package struct TensorMismatch: Sendable, Equatable {
    package let name: String
    /// Element type and shape in the file, such as `float32 [1000, 512]`.
    package let found: String
    /// What the model has.
    package let expected: String

    package init(name: String, found: String, expected: String) {
        self.name = name
        self.found = found
        self.expected = expected
    }
}

/// How a weights file fits a model.
package struct LoadReport: Sendable, Equatable {
    /// Names that the model has and the file lacks.
    package internal(set) var missing: [String] = []
    /// Names that the file has and the model lacks.
    package internal(set) var unexpected: [String] = []
    /// Names that both have with different shapes or types.
    package internal(set) var mismatched: [TensorMismatch] = []
    /// Counters that files before PyTorch 0.4.1 lack and that were filled with 0.
    package internal(set) var filledCounters: [String] = []
    /// The number of tensors taken from the file.
    package internal(set) var loadedCount = 0
    /// All names of the file and of the model, for near matches.
    private var fileNames: [String] = []
    private var modelNames: [String] = []

    /// Whether everything fits.
    package var isClean: Bool { missing.isEmpty && unexpected.isEmpty && mismatched.isEmpty }

    /// Compares a state dictionary with what a model expects.
    ///
    /// - Parameters:
    ///   - state: the tensors of a file.
    ///   - expected: the model's tensors in its order.
    /// - Returns: the report, and the tensors that fit in the model's order, with counters filled in.
    package static func resolve(
        _ state: StateDictionary, expected: [ExpectedTensor]
    ) -> (report: LoadReport, state: StateDictionary) {
        var report = LoadReport()
        report.fileNames = state.names
        report.modelNames = expected.map(\.name)
        var resolved = StateDictionary()
        for tensor in expected {
            let wanted = describe(tensor.isInteger ? "int64" : "float32", tensor.shape)
            guard let found = state[tensor.name] else {
                if tensor.isInteger, tensor.name.hasSuffix("num_batches_tracked") {
                    report.filledCounters.append(tensor.name)
                    resolved[tensor.name] = HostTensor(
                        shape: tensor.shape,
                        storage: .int64([Int64](repeating: 0, count: tensor.shape.elementCount)))
                } else {
                    report.missing.append(tensor.name)
                }
                continue
            }
            guard fits(found, tensor) else {
                report.mismatched.append(
                    TensorMismatch(name: tensor.name, found: describe(found), expected: wanted))
                continue
            }
            resolved[tensor.name] = found.reshaped(tensor.shape)
            report.loadedCount += 1
        }
        let known = Set(report.modelNames)
        report.unexpected = state.names.filter { !known.contains($0) }
        return (report, resolved)
    }

    private static func fits(_ tensor: HostTensor, _ expected: ExpectedTensor) -> Bool {
        // Counters of one element were vectors before PyTorch 0.4 and load_state_dict takes them still.
        let isOldCounter = expected.isInteger && expected.shape.rank == 0 && tensor.shape == [1]
        let shapeFits = tensor.shape == expected.shape || isOldCounter
        return shapeFits && (expected.isInteger ? tensor.int64s != nil : tensor.floats != nil)
    }

    private static func describe(_ tensor: HostTensor) -> String {
        let type =
            switch tensor.storage {
            case .float32: "float32"
            case .int64: "int64"
            case .int32: "int32"
            case .uint8: "uint8"
            }
        return describe(type, tensor.shape)
    }

    private static func describe(_ type: String, _ shape: Shape) -> String { "\(type) \(shape)" }
}

extension LoadReport: CustomStringConvertible {
    /// Several lines: counts first, then what does not fit, with near matches.
    package var description: String {
        var lines = [
            "\(loadedCount) of \(modelNames.count) tensors loaded, \(missing.count) missing, "
                + "\(unexpected.count) unexpected, \(mismatched.count) mismatched"
        ]
        lines += Self.list(missing) { name in
            let near = nearMatches(to: name, in: unexpected, limit: 2)
            return "missing: \(name)" + (near.isEmpty ? "" : " (the file has \(near.joined(separator: ", ")))")
        }
        lines += Self.list(unexpected) { "unexpected: \($0)" }
        lines += Self.list(mismatched) { "mismatched: \($0.name): found \($0.found), expected \($0.expected)" }
        if !filledCounters.isEmpty {
            lines.append("\(filledCounters.count) num_batches_tracked counters are not in the file and start at 0")
        }
        return lines.joined(separator: "\n")
    }

    /// The first lines of a long list.
    private static func list<Item>(_ items: [Item], _ line: (Item) -> String) -> [String] {
        let shown = 8
        let lines = items.prefix(shown).map(line)
        return items.count > shown ? lines + ["… and \(items.count - shown) more"] : lines
    }
}
