#if OpenCL
    import GraftGraph
    import GraftOpenCL
    import GraftTensor

    /// Kernels for three primitives on plain NCHW memory: enough to test the host side alone.
    struct PlainKernelClass: KernelClass {
        var name: String { "plain" }
        /// What to ask for instead of the right launch.
        var fault: Fault?

        enum Fault: Sendable {
            case missingKernel, tooManyArguments, unevenLocalSize, unalignedWorkspace, missingFile
        }

        static let sources = KernelSources.texts.merging([
            "plain": """
            kernel void rectify(global const float *x, global float *y, uint count, local float *scratch) {
                size_t i = get_global_id(0);
                if (i < count) y[i] = positive_part(x[i]) * SCALE;
            }
            kernel void keep(global const float *x, global float *y, uint key, uint threshold, float factor) {
                uint i = (uint)get_global_id(0);
                y[i] = dropout_keeps(key, i, threshold) ? x[i] * factor : 0.0f;
            }
            kernel void copy(global const float *x, global float *y) { y[get_global_id(0)] = x[get_global_id(0)]; }
            kernel void descend(global float *w, global const float *g, global float *b, float rate, float momentum,
                                int first) {
                size_t i = get_global_id(0);
                b[i] = first ? g[i] : momentum * b[i] + g[i];
                w[i] = w[i] - rate * b[i];
            }
            """,
            "broken": "kernel void broken(global float *x) {\n    x[0] = no_such_name;\n}\n",
        ]) { $1 }

        func byteCount(of kind: ValueKind) -> Int { 4 * kind.hostShape.elementCount }
        func channelOffset(of channels: Range<Int>, in shape: ActivationShape) -> Int? { nil }

        func workspaceByteCount(for primitive: Primitive) -> Int {
            if case .relu(let shape) = primitive { 512 + 4 * shape.elementCount } else { 0 }
        }

        func launches(for primitive: Primitive, cohortByteCount: Int) throws(DeviceError) -> [KernelLaunch] {
            switch primitive {
            case .relu(let shape):
                let bytes = 4 * shape.elementCount
                let offset = fault == .unalignedWorkspace ? 4 : 512
                var arguments: [KernelArgument] = [
                    .input(0), .workspace(offset: offset, byteCount: bytes), .uint32(UInt32(shape.elementCount)),
                    .local(byteCount: 64),
                ]
                if fault == .tooManyArguments { arguments.append(.int32(0)) }
                let rounded = (shape.elementCount + 15) / 16 * 16
                let copy = KernelLaunch(
                    file: "plain", kernel: "copy", definitions: [.init("SCALE", 1)],
                    arguments: [.workspace(offset: offset, byteCount: bytes), .output(0)],
                    globalSize: [shape.elementCount])
                return [
                    KernelLaunch(
                        file: fault == .missingFile ? "absent" : "plain",
                        kernel: fault == .missingKernel ? "absent" : "rectify", definitions: [.init("SCALE", 2)],
                        arguments: arguments, globalSize: [fault == .unevenLocalSize ? rounded + 1 : rounded],
                        localSize: [16]),
                    copy,
                ]
            case .dropout(let shape, let rate, let salt):
                return [
                    KernelLaunch(
                        file: "plain", kernel: "keep", definitions: [.init("SCALE", 1)],
                        arguments: [
                            .input(0), .output(0), .dropoutKey(salt: salt), .uint32(DropoutMask.threshold(rate: rate)),
                            .float32(1 / (1 - rate)),
                        ], globalSize: [shape.elementCount])
                ]
            case .optimizerUpdate:
                return [
                    KernelLaunch(
                        file: "plain", kernel: "descend", definitions: [.init("SCALE", 1)],
                        arguments: [
                            .cohortParameters, .cohortGradients, .cohortState(0), .cohortConstant(.learningRate),
                            .cohortConstant(.momentum), .cohortConstant(.isFirstStep),
                        ], globalSize: [cohortByteCount / 4])
                ]
            case .flatten:
                return [KernelLaunch(file: "broken", kernel: "broken", arguments: [.input(0)], globalSize: [1])]
            default: throw DeviceError.unsupported("the test's kernels do not have \(primitive.kind)")
            }
        }

        func pack(_ tensor: HostTensor, kind: ValueKind) throws(DeviceError) -> [UInt8] {
            guard let values = tensor.floats, values.count == kind.hostShape.elementCount else {
                throw DeviceError.dataMismatch("a tensor of shape \(tensor.shape) was written to \(kind.hostShape)")
            }
            return values.withUnsafeBytes { Array($0) }
        }

        func unpack(_ bytes: UnsafeRawBufferPointer, kind: ValueKind) -> HostTensor {
            HostTensor(kind.hostShape, Array(bytes.bindMemory(to: Float.self)))
        }
    }
#endif
