import CSystemSupport
import GraftCPUKernelInterface
import GraftCPUKernelsBaseline
import GraftGraph

#if arch(x86_64)
    import GraftCPUKernelsAVX2
    import GraftCPUKernelsAVX512
#endif
#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

/// Which build of the kernels runs. All give results within rounding of each other, not the same bytes.
package enum CPUInstructionSet: String, CaseIterable, Sendable {
    /// What every processor of the architecture has: SSE2 on x86-64, NEON on arm64.
    case baseline
    /// AVX2 with FMA.
    case avx2
    /// AVX-512 F, BW, CD, DQ, VL.
    case avx512

    /// Whether this machine runs it.
    package var isSupported: Bool {
        switch self {
        case .baseline: true
        case .avx2: graft_cpu_supports(GRAFT_AVX2_FMA)
        case .avx512: graft_cpu_supports(GRAFT_AVX512)
        }
    }

    /// Those that this machine runs, widest last.
    package static var supported: [CPUInstructionSet] { allCases.filter(\.isSupported) }

    /// The environment variable that overrides the choice, for tests and for bug reports.
    package static let environmentVariable = "GRAFT_CPU_KERNELS"

    /// The widest supported set, or the one that `GRAFT_CPU_KERNELS` names.
    ///
    /// - Throws: ``DeviceError/unsupported(_:)`` when it names none or one that this processor lacks.
    package static func chosen() throws(DeviceError) -> CPUInstructionSet {
        let supported = Self.supported
        guard let value = getenv(environmentVariable), value.pointee != 0 else { return supported.last ?? .baseline }
        let name = String(cString: value)
        let choices = supported.map(\.rawValue).joined(separator: ", ")
        guard let wanted = CPUInstructionSet(rawValue: name) else {
            throw DeviceError.unsupported(
                "\(environmentVariable)=\(name) names no kernel variant; this machine runs: \(choices)")
        }
        guard supported.contains(wanted) else {
            throw DeviceError.unsupported(
                "\(environmentVariable)=\(name), but this processor lacks that instruction set; it runs: \(choices)")
        }
        return wanted
    }

    /// The kernels; nil where the build has none for this set.
    var kernels: KernelTable? {
        switch self {
        case .baseline: return GraftCPUKernelsBaseline.makeKernelTable()
        #if arch(x86_64)
            case .avx2: return GraftCPUKernelsAVX2.makeKernelTable()
            case .avx512: return GraftCPUKernelsAVX512.makeKernelTable()
        #else
            case .avx2, .avx512: return nil
        #endif
        }
    }
}
