#if OpenCL
    import GraftKernels

    /// The OpenCL C files of `Kernels/cl`, embedded in the binary.
    package enum KernelSources {
        /// Text by file name without extension.
        package static let texts: [String: String] = {
            var texts: [String: String] = [:]
            for index in 0..<graftKernelSourceCount() {
                guard let source = graftKernelSourceAt(index)?.pointee else { continue }
                texts[String(cString: source.name)] = String(cString: source.text)
            }
            return texts
        }()
    }
#endif
