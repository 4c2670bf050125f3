import Foundation
import GraftCPU
import GraftGraph
import GraftTensor

#if OpenCL
    import GraftOpenCL
#endif

/// Which device to compute on, and how: a choice, made explicit and passed to whatever computes.
///
/// A selector is `auto`, `cpu` (pure Swift), `opencl` (the best OpenCL device), `gpu`, `opencl:N`, or a part of a
/// device's name. `auto` takes, in this order, a discrete GPU, an integrated GPU, an OpenCL CPU device, pure Swift.
public struct Device: Sendable, Hashable {
    /// What was asked for.
    public let selector: String
    /// Threads of the pure-Swift backend; nil takes one per processor.
    public let threadCount: Int?
    /// Whether every convolution is summed directly. Otherwise 3×3 convolutions may use Winograd's transforms, whose
    /// float32 error is a few times larger (the article "Devices" has figures).
    public let isExact: Bool
    /// Whether a device may run kernels that failed in an examination (``DeviceExamination``, `graft doctor`).
    public let isTrusted: Bool

    /// Makes a choice; it is checked when something computes.
    public init(_ selector: String, threadCount: Int? = nil, isExact: Bool = false, isTrusted: Bool = false) {
        self.selector = selector
        self.threadCount = threadCount
        self.isExact = isExact
        self.isTrusted = isTrusted
    }

    /// The best device there is; see ``Device``.
    public static let auto = Device("auto")
    /// The pure-Swift backend.
    public static let cpu = Device("cpu")
    /// The best OpenCL device.
    public static let openCL = Device("opencl")

    /// What `graft devices` shows: a device, or why one cannot be used.
    public struct Listing: Sendable, Hashable {
        /// The device.
        public let description: DeviceDescription
        /// Nil when it is accepted, else why not.
        public let rejection: String?
    }

    /// Every device of every platform, pure Swift last, and why there is no OpenCL device if there is none.
    public static func all() -> (devices: [Listing], note: String?) {
        var listings: [Listing] = []
        var note: String?
        #if OpenCL
            let catalog = DeviceCatalog.current
            listings = catalog.entries.map { Listing(description: $0.description, rejection: $0.rejection) }
            note = catalog.emptyReason
        #else
            note = "this build has no OpenCL support (package trait OpenCL is off)"
        #endif
        do throws(DeviceError) {
            listings.append(Listing(description: try CPUBackend().description, rejection: nil))
        } catch {
            note = [note, error.description].compactMap { $0 }.joined(separator: "; ")
        }
        return (listings, note)
    }

    /// A backend, what it is, why it was chosen, and a warning when `auto` had to pass over something.
    struct Opened {
        let backend: any DeviceBackend
        let isExact: Bool
        let reason: String
        var warning: String?
    }

    /// Opens the device for programs of some primitives.
    ///
    /// - Parameters:
    ///   - primitives: what the programs will run; a device of which an examination found that one of them fails is refused,
    ///     unless it is trusted. Empty for none.
    ///   - verdicts: what examinations found.
    /// - Returns: the backend, why it was chosen, and what had to be passed over.
    /// - Throws: `DeviceError.unavailable` when a device was asked for by name and cannot be used. Under `auto`
    ///   that becomes a warning and the next best device.
    func open(
        running primitives: Set<Primitive.Kind>, verdicts: DeviceVerdicts? = .standard
    ) throws -> Opened {
        func refusal(_ backend: any DeviceBackend) throws -> String? {
            isTrusted ? nil : try verdicts?.refusal(of: backend, running: primitives)
        }
        func named(_ backend: any DeviceBackend, reason: String) throws -> Opened {
            if let refusal = try refusal(backend) {
                let description = backend.description
                throw DeviceError.unavailable(
                    "\(description.selector) (\(description.name)) is not used: \(refusal). Choose another device; or "
                        + "examine it again after a change of its driver, with `graft doctor --device "
                        + "\(description.selector)`; or compute on it all the same, with --trust-device.")
            }
            return Opened(backend: backend, isExact: isExact, reason: reason, warning: nil)
        }
        if let threadCount, threadCount < 1 {
            throw GraftError.invalidArgument("--threads \(threadCount) must be at least 1")
        }
        switch selector.lowercased() {
        case "cpu":
            return try named(try CPUBackend(threadCount: threadCount), reason: "asked for by name")
        case "auto":
            var warning: String?
            #if OpenCL
                let catalog = DeviceCatalog.current
                var failures = catalog.passedOver
                for entry in catalog.ranked {
                    do {
                        let backend = try OpenCLBackend(entry)
                        try backend.probe()
                        if let refusal = try refusal(backend) {
                            failures.append("\(entry.description.selector) (\(entry.description.name)): \(refusal)")
                            continue
                        }
                        return Opened(
                            backend: backend, isExact: isExact,
                            reason: "the best of \(catalog.entries.count) OpenCL device(s)",
                            warning: failures.isEmpty ? nil : failures.joined(separator: "; "))
                    } catch {
                        failures.append("\(entry.description.name): \(error)")
                    }
                }
                warning = failures.isEmpty ? catalog.emptyReason : failures.joined(separator: "; ")
                warning =
                    "no OpenCL device can be used (\(warning ?? "none found")); computing in pure Swift on the processor"
            #endif
            var opened = try named(
                try CPUBackend(threadCount: threadCount), reason: "no OpenCL device can be used")
            opened.warning = warning
            return opened
        default:
            #if OpenCL
                let entry = try DeviceCatalog.current.select(selector)
                return try named(try OpenCLBackend(entry), reason: "asked for as \"\(selector)\"")
            #else
                throw DeviceError.unavailable(
                    "there is no device \"\(selector)\": this build has no OpenCL support; the only device is cpu"
                        + (nearMatches(to: selector, in: ["auto", "cpu"], limit: 1).first.map {
                            ", did you mean \"\($0)\"?"
                        } ?? ""))
            #endif
        }
    }
}
