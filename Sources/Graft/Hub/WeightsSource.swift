/// Where weights come from.
public enum WeightsSource: Sendable, Hashable, CustomStringConvertible {
    /// A file of the user's.
    case file(String)
    /// What torchvision publishes for the architecture, see ``PretrainedWeights``.
    case hub
    /// An `http://` or `https://` address.
    case address(String)

    /// `hub`, an address, or else a path; a file of the name `hub` is `./hub`.
    public init(_ text: String) {
        let lowered = text.prefix(8).lowercased()
        if text == "hub" {
            self = .hub
        } else if lowered.hasPrefix("http://") || lowered.hasPrefix("https://") {
            self = .address(text)
        } else {
            self = .file(text)
        }
    }

    /// As it is written on the command line.
    public var description: String {
        switch self {
        case .file(let path): path
        case .hub: "hub"
        case .address(let address): address
        }
    }
}
