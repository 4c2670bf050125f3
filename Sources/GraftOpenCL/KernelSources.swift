#if OpenCL
    import Foundation
    import GraftGraph
    import GraftKernels

    /// The OpenCL C files of `Kernels/cl`, embedded in the binary.
    package enum KernelSources {
        /// Text by file name without extension.
        package static let texts: [String: String] = {
            var texts: [String: String] = [:]
            for index in 0..<graft_kernel_source_count() {
                guard let source = graft_kernel_source_at(index)?.pointee else { continue }
                texts[String(cString: source.name)] = String(cString: source.text)
            }
            return texts
        }()

        /// The environment variable that names a folder of kernel files, for work on them without a build.
        package static let environmentVariable = "GRAFT_OPENCL_SOURCES"

        /// The embedded files, or those of the folder that `GRAFT_OPENCL_SOURCES` names.
        ///
        /// - Throws: ``DeviceError/unsupported(_:)`` when one of them is not in the folder.
        package static func chosen() throws(DeviceError) -> [String: String] {
            guard let folder = ProcessInfo.processInfo.environment[environmentVariable], !folder.isEmpty else {
                return texts
            }
            var chosen: [String: String] = [:]
            for name in texts.keys {
                let path = "\(folder)/\(name).cl"
                guard let data = FileManager.default.contents(atPath: path),
                    let text = String(data: data, encoding: .utf8)
                else {
                    throw DeviceError.unsupported(
                        "\(environmentVariable)=\(folder): \(name).cl is not there or no UTF-8 text; the folder must hold "
                            + "every file of Kernels/cl")
                }
                chosen[name] = text
            }
            return chosen
        }
    }
#endif
