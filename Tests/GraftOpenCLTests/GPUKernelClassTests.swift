#if OpenCL
    import BackendConformance
    import Foundation
    import GraftGraph
    import GraftOpenCL
    import GraftTensor
    import Testing

    extension OnDevice {
        @Suite("GPU kernel class")
        struct GPUKernelClassTests {
            /// One convolution with its operands.
            struct Convolution {
                let geometry: ConvolutionGeometry
                let epilogue = Epilogue(bias: true, relu: true)

                /// `y` of `images` copies of image `first ..< first + images` of a random set, in bytes.
                func output(_ backend: OpenCLBackend, first: Int, images: Int) throws -> [Float] {
                    var geometry = geometry
                    geometry.input.batch = images
                    var program = Program()
                    let x = program.add(.activation(geometry.input), .input, "x")
                    let isTransformed = geometry.method == .winogradWithTransformedWeight
                    let weightKind: ValueKind =
                        isTransformed ? .winogradWeight(geometry.weight) : .weight(geometry.weight)
                    let w = program.add(weightKind, .constant(key: "w", source: .tensor("w")), "w")
                    let biasKind = ValueKind.channelVector(geometry.outputChannels)
                    let bias = program.add(biasKind, .constant(key: "b", source: .tensor("b")), "b")
                    let y = program.add(.activation(geometry.output), .output, "y")
                    program.inputs["x"] = x
                    program.outputs["y"] = y
                    program.append(.convolution(geometry, epilogue), [x, w, bias], [y], node: "convolution")
                    let plan = try MemoryPlan(programs: [program], layout: MemoryLayout(backend: backend))
                    let memory = try backend.allocate(plan)
                    let prepared = try backend.prepare(program, index: 0, memory: memory)
                    let perImage = geometry.input.elementCount / images
                    for (id, seed, offset) in [(x, UInt64(1), first * perImage), (w, 2, 0), (bias, 3, 0)] {
                        let random = CounterRandom(seed: seed, 0)
                        let kind = program[id].kind
                        let values = (0..<kind.hostShape.elementCount).map { Float(random.uniform(offset + $0)) - 0.5 }
                        try memory.write(
                            HostTensor(kind.hostShape, values), kind: kind, to: plan.slots[0][id.index])
                    }
                    try prepared.run(StepConstants())
                    return try #require(
                        try memory.read(kind: program[y].kind, from: plan.slots[0][y.index]).floats)
                }
            }

            static let geometries: [ConvolutionGeometry] = [
                // Long reductions over few pixels: the ones that are split.
                ConvolutionGeometry(
                    input: ActivationShape(1, 512, 7, 7), outputChannels: 64, kernelHeight: 3, kernelWidth: 3,
                    paddingHeight: 1, paddingWidth: 1),
                ConvolutionGeometry(
                    input: ActivationShape(1, 40, 7, 6), outputChannels: 33, kernelHeight: 3, kernelWidth: 3,
                    paddingHeight: 1, paddingWidth: 1
                ).with(.winogradWithTransformedWeight),
                ConvolutionGeometry(
                    input: ActivationShape(1, 1100, 5, 4), outputChannels: 72, kernelHeight: 1, kernelWidth: 1),
                ConvolutionGeometry(
                    input: ActivationShape(1, 1600, 1, 1), outputChannels: 40, kernelHeight: 1, kernelWidth: 1),
                ConvolutionGeometry(
                    input: ActivationShape(1, 150, 6, 6), outputChannels: 20, kernelHeight: 3, kernelWidth: 3,
                    strideHeight: 2, strideWidth: 2, paddingHeight: 1, paddingWidth: 1),
                ConvolutionGeometry(
                    input: ActivationShape(1, 3, 15, 14), outputChannels: 12, kernelHeight: 7, kernelWidth: 7,
                    strideHeight: 2, strideWidth: 2, paddingHeight: 3, paddingWidth: 3),
            ]

            @Test("an image's outputs are the same bytes in every batch", arguments: geometries)
            func batchSizeChangesNothing(geometry: ConvolutionGeometry) throws {
                let backend = try OpenCLBackend(testDevice(), kernelClass: .gpu)
                let convolution = Convolution(geometry: geometry)
                let perImage = geometry.output.elementCount
                let together = try convolution.output(backend, first: 0, images: 11)
                for (first, images) in [(0, 1), (10, 1), (3, 2), (2, 5)] {
                    let part = try convolution.output(backend, first: first, images: images)
                    let same = zip(part, together[(first * perImage)...]).allSatisfy { $0.bitPattern == $1.bitPattern }
                    #expect(same, "images \(first) ..< \(first + images) alone differ from those of a batch of 11")
                }
            }

            /// Outputs large enough for a small tile that a group does all chunks of its sums itself, over whole taps and
            /// over taps that a stride passes over.
            @Test("long sums in one group agree with the reference")
            func longSums() throws {
                let standard = try OpenCLBackend(testDevice(), kernelClass: .gpu, options: .init(tuning: nil))
                let kernels = try #require(standard.gpuKernels)
                let forward = ConvolutionGeometry(
                    input: ActivationShape(2, 150, 24, 24), outputChannels: 64, kernelHeight: 3, kernelWidth: 3,
                    paddingHeight: 1, paddingWidth: 1)
                let strided = ConvolutionGeometry(
                    input: ActivationShape(2, 96, 20, 20), outputChannels: 60, kernelHeight: 3, kernelWidth: 3,
                    strideHeight: 2, strideWidth: 2, paddingHeight: 1, paddingWidth: 1)
                let tile = GEMMTile(rows: 16, columns: 16, depth: 8, itemRows: 4, itemColumns: 4)
                for primitive in [
                    Primitive.convolution(forward, Epilogue(bias: true)),
                    .convolutionInputGradient(strided, addend: true),
                ] {
                    let place = try #require(kernels.place(of: primitive))
                    let small = kernels.with(kernels.tiles.with(tile, at: place))
                    let launch = try #require(try small.launches(for: primitive, cohortByteCount: 0).first)
                    #expect(launch.definitions.contains(.init("FLUSH", 1)))
                    let backend = try OpenCLBackend(testDevice(), kernels: small)
                    let result = try ConformanceHarness().run(
                        ConformanceCase("long", primitive, quick: true), on: backend)
                    #expect(result.passed, "\(result.message)")
                }
            }

            @Test("tiles and runs of tiles change no result", arguments: geometries)
            func tilesChangeNothing(geometry: ConvolutionGeometry) throws {
                let standard = try OpenCLBackend(testDevice(), kernelClass: .gpu, options: .init(tuning: nil))
                let kernels = try #require(standard.gpuKernels)
                let place = try #require(kernels.place(of: .convolution(geometry, .none)))
                let expected = try Convolution(geometry: geometry).output(standard, first: 0, images: 30)
                for tile in [
                    GEMMTile(rows: 16, columns: 16, depth: 8, itemRows: 4, itemColumns: 4),
                    GEMMTile(rows: 32, columns: 32, depth: 32, itemRows: 4, itemColumns: 4),
                ] {
                    var other = kernels.with(kernels.tiles.with(tile, at: place))
                    #expect(other.tiles[place] == tile)
                    other.winogradRunByteCount = 1
                    let backend = try OpenCLBackend(testDevice(), kernels: other)
                    let found = try Convolution(geometry: geometry).output(backend, first: 0, images: 30)
                    let same = zip(found, expected).allSatisfy { $0.bitPattern == $1.bitPattern }
                    #expect(same, "with \(tile.text)")
                }
            }
        }
    }
#endif
