#if OpenCL
    import Foundation
    import GraftGraph
    import GraftTensor

    /// Finds faster tiles for the GPU class on one device by timing them, each held against the default's result before
    /// it may win. Nothing depends on it: without it, or without its file, the built-in table is used.
    package struct KernelTuner {
        /// A convolution of the usual networks that stands for a place of the table.
        package struct Shape: Sendable {
            /// `64→64 3×3 56×56`.
            package var name: String
            /// `forward`, `input gradient`, `weight gradient`, `forward, Winograd` or `weight gradient, Winograd`.
            package var pass: String
            package var primitive: Primitive

            package init(name: String, pass: String, primitive: Primitive) {
                self.name = name
                self.pass = pass
                self.primitive = primitive
            }
        }

        /// What came of one shape.
        package struct Row: Sendable {
            package var shape: Shape
            package var defaultSeconds: Double
            package var bestSeconds: Double
            package var defaultTile: GEMMTile
            /// The default where nothing was clearly faster.
            package var bestTile: GEMMTile
            /// How many tiles were timed, the default not counted.
            package var candidateCount: Int
            /// How many did not build, did not run or gave another result.
            package var rejectedCount: Int
        }

        package struct Report: Sendable {
            package var rows: [Row]
            /// Shapes for which the time or the device's memory did not suffice.
            package var skipped: [Shape]
            /// What is faster than the built-in table.
            package var tiles: [TilePlace: GEMMTile]
            /// The places for which at least one candidate was tried.
            package var places: Set<TilePlace>

            package init(rows: [Row], skipped: [Shape], tiles: [TilePlace: GEMMTile], places: Set<TilePlace>) {
                self.rows = rows
                self.skipped = skipped
                self.tiles = tiles
                self.places = places
            }
        }

        /// Less is taken for noise.
        private static let leastGain = 0.03
        /// Largest difference from the default's result, as a share of its largest element.
        private static let tolerance: Float = 1e-4

        private let backend: OpenCLBackend
        private let device: KernelDevice
        /// Tests put tiles in that cannot win.
        private let candidates: [GEMMTile]

        /// - Returns: nil where the backend does not run the GPU class: nothing else has tiles to choose.
        package init?(_ backend: OpenCLBackend, candidates: [GEMMTile] = GEMMTile.candidates) {
            guard let kernels = backend.gpuKernels else { return nil }
            self.backend = backend.withoutDiskCache()
            device = kernels.device
            self.candidates = candidates
        }

        /// The shapes of the usual networks, the most important first.
        package static func shapes(batch: Int) -> [Shape] {
            func geometry(
                _ channels: Int, _ side: Int, to outputs: Int, kernel: Int, stride: Int = 1, groups: Int = 1
            ) -> ConvolutionGeometry {
                ConvolutionGeometry(
                    input: ActivationShape(batch, channels, side, side), outputChannels: outputs, kernelHeight: kernel,
                    kernelWidth: kernel, strideHeight: stride, strideWidth: stride, paddingHeight: kernel / 2,
                    paddingWidth: kernel / 2, groups: groups)
            }
            let deep = geometry(256, 14, to: 256, kernel: 3)
            let early = geometry(64, 56, to: 64, kernel: 3)
            let widening = geometry(256, 14, to: 1024, kernel: 1)
            let narrowing = geometry(256, 56, to: 64, kernel: 1)
            let linear = geometry(2048, 1, to: 1000, kernel: 1)
            let small = geometry(32, 16, to: 32, kernel: 3)
            let stem = geometry(3, 224, to: 64, kernel: 7, stride: 2)
            let grouped = geometry(128, 28, to: 128, kernel: 3, groups: 32)
            func forward(_ geometry: ConvolutionGeometry) -> Shape {
                shape(geometry, "forward", .convolution(geometry, .none))
            }
            func winograd(_ geometry: ConvolutionGeometry) -> Shape {
                shape(
                    geometry, "forward, Winograd",
                    .convolution(geometry.with(.winogradWithTransformedWeight), .none))
            }
            func inputGradient(_ geometry: ConvolutionGeometry) -> Shape {
                shape(geometry, "input gradient", .convolutionInputGradient(geometry, addend: false))
            }
            func weightGradient(_ geometry: ConvolutionGeometry) -> Shape {
                shape(geometry, "weight gradient", .convolutionWeightGradient(geometry))
            }
            func winogradWeightGradient(_ geometry: ConvolutionGeometry) -> Shape {
                shape(
                    geometry, "weight gradient, Winograd", .convolutionWeightGradient(geometry.with(.winograd)))
            }
            return [
                winograd(deep), winograd(early), winogradWeightGradient(deep), winogradWeightGradient(early),
                forward(widening), forward(narrowing), forward(deep), forward(early),
                weightGradient(deep), weightGradient(early), weightGradient(widening), weightGradient(narrowing),
                inputGradient(widening), inputGradient(deep), inputGradient(early), forward(linear),
                weightGradient(linear), inputGradient(linear), forward(stem), winograd(small), forward(small),
                inputGradient(small), weightGradient(small), forward(grouped), inputGradient(grouped),
            ]
        }

        private static func shape(_ geometry: ConvolutionGeometry, _ pass: String, _ primitive: Primitive) -> Shape {
            let (input, output) = (geometry.input, geometry.output)
            var name = "\(input.channels)→\(output.channels) \(geometry.kernelHeight)×\(geometry.kernelWidth)"
            if geometry.strideHeight > 1 { name += "/\(geometry.strideHeight)" }
            if geometry.groups > 1 { name += " in \(geometry.groups)" }
            name += " \(input.height)×\(input.width)"
            return Shape(name: name, pass: pass, primitive: primitive)
        }

        /// Tunes one shape after the other until the time is over; at least the first is timed with its default.
        ///
        /// - Parameters:
        ///   - shapes: what to tune.
        ///   - seconds: no candidate is begun after this; one compilation may go beyond.
        ///   - progress: called with each row as soon as it is known.
        /// - Returns: a row for each shape that was reached, and the tiles that won.
        /// - Throws: what the default kernels throw.
        package func run(
            _ shapes: [Shape], seconds: Double, progress: (Row) -> Void = { _ in }
        ) throws(DeviceError) -> Report {
            var report = Report(rows: [], skipped: [], tiles: [:], places: [])
            let clock = ContinuousClock()
            let end = clock.now + .seconds(seconds)
            for (index, shape) in shapes.enumerated() {
                let rest = end - clock.now
                guard index == 0 || rest > .zero, let place = place(of: shape.primitive) else {
                    report.skipped.append(shape)
                    continue
                }
                let row: Row
                do throws(DeviceError) {
                    row = try tune(shape, place, until: clock.now + rest / (shapes.count - index))
                } catch .outOfMemory {
                    report.skipped.append(shape)
                    continue
                }
                if row.candidateCount > 0 { report.places.insert(place) }
                if row.bestTile != row.defaultTile { report.tiles[place] = row.bestTile }
                report.rows.append(row)
                progress(row)
            }
            return report
        }

        private func place(of primitive: Primitive) -> TilePlace? {
            GPUKernelClass(device: device).place(of: primitive)
        }

        private func tune(
            _ shape: Shape, _ place: TilePlace, until end: ContinuousClock.Instant
        ) throws(DeviceError) -> Row {
            let table = TileTable(device: device)
            // What won before goes first: a short run must not lose it.
            let earlier = backend.gpuKernels?.tiles.tuned[place]
            let candidates = ([earlier].compactMap { $0 } + candidates.filter { $0 != earlier }).filter {
                $0 != table[place] && $0.isLegal(for: place, on: device)
            }
            let trial = try Trial(shape.primitive, backend, [table] + candidates.map { table.with($0, at: place) })
            let standard = try trial.prepare(table)
            let reference = try trial.output(of: standard)
            let defaultSeconds = try trial.seconds(standard, giveUpAbove: .infinity)
            var row = Row(
                shape: shape, defaultSeconds: defaultSeconds, bestSeconds: defaultSeconds, defaultTile: table[place],
                bestTile: table[place], candidateCount: 0, rejectedCount: 0)
            var best: (any PreparedProgram)?
            for tile in candidates where ContinuousClock.now < end {
                row.candidateCount += 1
                do throws(DeviceError) {
                    let prepared = try trial.prepare(table.with(tile, at: place))
                    guard Self.agrees(try trial.output(of: prepared), reference) else {
                        row.rejectedCount += 1
                        continue
                    }
                    let seconds = try trial.seconds(prepared, giveUpAbove: 2 * row.bestSeconds)
                    guard seconds < row.bestSeconds else { continue }
                    (row.bestSeconds, row.bestTile, best) = (seconds, tile, prepared)
                } catch {
                    // A tile that this driver cannot build or run is no fault of the device's.
                    row.rejectedCount += 1
                }
            }
            guard let best else { return row }
            // Once more, by turns: the machine may have been busy with something else at first.
            row.defaultSeconds = try trial.seconds(standard, giveUpAbove: .infinity)
            row.bestSeconds = try trial.seconds(best, giveUpAbove: .infinity)
            row.defaultSeconds = min(row.defaultSeconds, try trial.seconds(standard, giveUpAbove: .infinity))
            row.bestSeconds = min(row.bestSeconds, try trial.seconds(best, giveUpAbove: .infinity))
            if row.bestSeconds > row.defaultSeconds * (1 - Self.leastGain) {
                (row.bestSeconds, row.bestTile) = (row.defaultSeconds, row.defaultTile)
            }
            return row
        }

        /// Whether a result is the default's within rounding; NaN agrees with nothing.
        package static func agrees(_ found: HostTensor, _ expected: HostTensor) -> Bool {
            guard let found = found.floats, let expected = expected.floats, found.count == expected.count else {
                return false
            }
            let bound = tolerance * expected.reduce(0) { max($0, abs($1)) }
            return zip(found, expected).allSatisfy { abs($0 - $1) <= bound }
        }

        /// One primitive with random operands on the device.
        private final class Trial {
            private let backend: OpenCLBackend
            private let memory: any DeviceMemory
            private let program: Program
            private let result: ValueID

            // `tables`: every one that will be prepared; the workspace is large enough for each.
            init(_ primitive: Primitive, _ backend: OpenCLBackend, _ tables: [TileTable]) throws(DeviceError) {
                self.backend = backend
                var program = Program()
                let inputs: [ValueKind]
                let output: ValueKind
                if case .convolution(let geometry, _) = primitive {
                    let weight: ValueKind =
                        geometry.method == .winogradWithTransformedWeight
                        ? .winogradWeight(geometry.weight) : .weight(geometry.weight)
                    inputs = [.activation(geometry.input), weight]
                    output = .activation(geometry.output)
                } else if case .convolutionInputGradient(let geometry, _) = primitive {
                    inputs = [.activation(geometry.output), .weight(geometry.weight)]
                    output = .activation(geometry.input)
                } else if case .convolutionWeightGradient(let geometry) = primitive {
                    inputs = [.activation(geometry.input), .activation(geometry.output)]
                    output = .weight(geometry.weight)
                } else {
                    throw DeviceError.unsupported("\(primitive.kind) has no tiles to tune")
                }
                let operands = inputs.enumerated().map { program.add($0.element, .input, "operand \($0.offset)") }
                result = program.add(output, .output, "result")
                program.append(primitive, operands, [result], node: "tuning")
                self.program = program
                let classes = tables.compactMap { table in backend.gpuKernels.map { $0.with(table) } }
                let usual = MemoryLayout(backend: backend)
                let layout = MemoryLayout(
                    byteCount: usual.byteCount,
                    workspaceByteCount: { primitive in
                        classes.map { $0.workspaceByteCount(for: primitive) }.max() ?? 0
                    }, alignment: usual.alignment, maximumArenaByteCount: usual.maximumArenaByteCount)
                memory = try backend.allocate(MemoryPlan(programs: [program], layout: layout))
                for (index, operand) in operands.enumerated() {
                    let shape = program[operand].kind.hostShape
                    let random = CounterRandom(seed: 0x7_0E5, UInt64(index))
                    // A prime, so that no row repeats the one before.
                    let some = (0..<65_537).map { Float(random.uniform($0)) - 0.5 }
                    let values = (0..<shape.elementCount).map { some[$0 % some.count] }
                    try memory.write(HostTensor(shape, values), kind: program[operand].kind, to: slot(operand))
                }
            }

            private func slot(_ value: ValueID) -> Slot { memory.plan.slots[0][value.index] }

            func prepare(_ table: TileTable) throws(DeviceError) -> any PreparedProgram {
                try backend.with(table).prepare(program, index: 0, memory: memory)
            }

            /// The result of one run over memory that holds NaN where the result goes.
            func output(of prepared: any PreparedProgram) throws(DeviceError) -> HostTensor {
                let kind = program[result].kind
                try memory.write(HostTensor(kind.hostShape, repeating: .nan), kind: kind, to: slot(result))
                try prepared.run(StepConstants())
                return try memory.read(kind: kind, from: slot(result))
            }

            /// The fastest of three blocks of runs, of about 20 ms each; the first run alone where it takes longer than
            /// `limit`.
            func seconds(_ prepared: any PreparedProgram, giveUpAbove limit: Double) throws(DeviceError) -> Double {
                let once = try time(prepared, runs: 1)
                if once > limit { return once }
                let runs = max(min(Int(0.02 / max(once, 1e-6)), 200), 1)
                var best = once
                for _ in 0..<(once > 0.5 ? 1 : 3) { best = min(best, try time(prepared, runs: runs)) }
                return best
            }

            private func time(_ prepared: any PreparedProgram, runs: Int) throws(DeviceError) -> Double {
                let start = ContinuousClock.now
                for _ in 0..<runs { try prepared.run(StepConstants()) }
                try prepared.synchronize()
                return (ContinuousClock.now - start) / .seconds(1) / Double(runs)
            }
        }
    }
#endif
