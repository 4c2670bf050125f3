import GraftCPU

/// How this build of Graft was made, and which of its kernels this processor gets: what a report of an error should say.
public enum BuildInformation {
    /// The version, which CHANGELOG.md describes.
    public static let version = "0.1.0"

    /// Whether the OpenCL backend is in it (package trait `OpenCL`).
    public static var hasOpenCL: Bool {
        #if OpenCL
            true
        #else
            false
        #endif
    }

    /// `debug` or `release`.
    public static var configuration: String {
        #if DEBUG
            "debug"
        #else
            "release"
        #endif
    }

    /// The instruction set of the pure-Swift backend's kernels: `baseline`, `avx2` or `avx512`.
    ///
    /// - Throws: `DeviceError.unsupported` when `GRAFT_CPU_KERNELS` names one that this processor lacks.
    public static func instructionSet() throws -> String { try CPUInstructionSet.chosen().rawValue }
}
