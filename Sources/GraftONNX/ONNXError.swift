/// What can go wrong with an ONNX file; every case names the file, and its text says what to do next.
package enum ONNXError: Error, Equatable, Sendable {
    /// The file ends inside something, or contradicts protobuf's encoding or ONNX's rules.
    case malformed(file: String, what: String, found: String, expected: String)
    /// The file asks for more than a reader of untrusted files grants.
    case overLimit(file: String, what: String, found: String, limit: String)
    /// Nodes that are not read: each as operator, name and reason.
    case unsupportedNodes(file: String, nodes: [UnsupportedNode])
    /// The file is in order, but is something else than a classifier of images that is read here.
    case unsupported(file: String, what: String, found: String, next: String)
    /// A network cannot be written as ONNX.
    case notExportable(what: String, next: String)

    /// A node that is not read.
    package struct UnsupportedNode: Hashable, Sendable {
        package var operation: String
        package var name: String
        package var reason: String
    }
}

extension ONNXError: CustomStringConvertible {
    package var description: String {
        switch self {
        case .malformed(let file, let what, let found, let expected):
            return "\(file): \(what): found \(found), expected \(expected); the file is damaged or was written by a "
                + "faulty program"
        case .overLimit(let file, let what, let found, let limit):
            return "\(file): \(what): \(found), over the limit of \(limit); the file is damaged or hostile"
        case .unsupportedNodes(let file, let nodes):
            let lines = nodes.map { "  \($0.operation) \($0.name.isEmpty ? "(unnamed)" : $0.name): \($0.reason)" }
            return "\(file): \(nodes.count) nodes of the graph are not supported:\n"
                + lines.joined(separator: "\n")
                + "\nGraft reads convolutional classifiers; export the model in inference mode, without pre- and "
                + "post-processing"
        case .unsupported(let file, let what, let found, let next):
            return "\(file): \(what): found \(found); \(next)"
        case .notExportable(let what, let next):
            return "cannot be written as ONNX: \(what); \(next)"
        }
    }
}
