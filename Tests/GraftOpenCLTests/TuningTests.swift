#if OpenCL
    import BackendConformance
    import Foundation
    import GraftGraph
    import GraftOpenCL
    import GraftTensor
    import Testing

    @Suite("Tuning results on disk")
    struct TuningStoreTests {
        let tiles: [TilePlace: GEMMTile] = [
            TilePlace(.forward, .many, .taps): GEMMTile(rows: 64, columns: 64, depth: 16, itemRows: 4, itemColumns: 4),
            TilePlace(.winograd, .rows64, .pointwise): GEMMTile(
                rows: 32, columns: 64, depth: 16, itemRows: 4, itemColumns: 4),
        ]
        let key = String(repeating: "0a", count: 32)

        @Test("what is stored is loaded, also where nothing was faster")
        func roundTrip() throws {
            let folder = try TemporaryFolder()
            let store = TuningStore(folder: folder.url.appending(path: "made/when/needed"))
            #expect(store.load(key) == nil)
            try store.store(tiles, key: key)
            #expect(store.load(key) == tiles)
            try store.store([:], key: key)
            #expect(store.load(key) == [:])
            #expect(try FileManager.default.contentsOfDirectory(atPath: store.folder.path) == ["\(key).tuning"])
        }

        @Test("a run that did not reach all keeps what an earlier one found")
        func merging() throws {
            let folder = try TemporaryFolder()
            let store = TuningStore(folder: folder.url)
            try store.store(tiles, key: key)
            let (reached, rest) = (TilePlace(.forward, .many, .taps), TilePlace(.winograd, .rows64, .pointwise))
            try store.store(KernelTuner.Report(rows: [], skipped: [], tiles: [:], places: [reached]), key: key)
            #expect(store.load(key) == [rest: tiles[rest]].compactMapValues { $0 })
        }

        @Test("a damaged, short, foreign or empty file counts as absent")
        func damage() throws {
            let folder = try TemporaryFolder()
            let store = TuningStore(folder: folder.url)
            try store.store(tiles, key: key)
            let good = try Data(contentsOf: store.file(key))
            for length in 0..<good.count {
                try good.prefix(length).write(to: store.file(key))
                #expect(store.load(key) == nil, "cut to \(length) bytes")
            }
            for position in good.indices {
                var bad = good
                bad[position] ^= 1
                try bad.write(to: store.file(key))
                #expect(store.load(key) == nil, "bit flipped in byte \(position)")
            }
            try (good + good).write(to: store.file(key))
            #expect(store.load(key) == nil)
            let other = String(repeating: "1b", count: 32)
            try good.write(to: store.file(other))
            #expect(store.load(other) == nil, "the file of another device")
        }

        @Test("device, driver and kernels make the key")
        func keys() throws {
            var device = DeviceDescription(
                selector: "opencl:0", name: "a", platform: "p", type: "GPU", driverVersion: "1", memoryByteCount: 1,
                computeUnitCount: 1, kernelClass: "gpu-class")
            var keys = [TuningStore.key(device, sources: KernelSources.texts)]
            device.driverVersion = "2"
            keys.append(TuningStore.key(device, sources: KernelSources.texts))
            device.name = "b"
            keys.append(TuningStore.key(device, sources: KernelSources.texts))
            for file in [
                "prelude", "convolution_gpu", "convolution_weight_gradient_gpu", "winograd_gpu",
                "winograd_weight_gradient_gpu",
            ] {
                var sources = KernelSources.texts
                sources[file, default: ""] += " "
                keys.append(TuningStore.key(device, sources: sources))
            }
            #expect(Set(keys.compactMap { $0 }).count == keys.count)
            // What does not matter to convolutions does not matter to the key.
            var sources = KernelSources.texts
            sources["pooling_gpu", default: ""] += " "
            #expect(TuningStore.key(device, sources: sources) == keys[2])
        }

        @Test("a tile that the device or the kernels cannot run is never taken")
        func illegalTiles() {
            let device = KernelDevice(
                computeUnitCount: 1, localMemoryByteCount: 32 << 10, maximumWorkGroupSize: 128, isGPU: true,
                nativeFloatVectorWidth: 1)
            let place = TilePlace(.forward, .many, .taps)
            let usual = TileTable(device: device)[place]
            #expect(usual.itemCount <= 128)
            for tile in [
                GEMMTile(rows: 64, columns: 64, depth: 16, itemRows: 4, itemColumns: 4),
                GEMMTile(rows: 64, columns: 64, depth: 12, itemRows: 8, itemColumns: 4),
                GEMMTile(rows: 64, columns: 64, depth: 16, itemRows: 3, itemColumns: 8),
                GEMMTile(rows: 0, columns: 64, depth: 16, itemRows: 8, itemColumns: 8),
                GEMMTile(rows: -64, columns: 64, depth: 16, itemRows: 8, itemColumns: 8),
                GEMMTile(rows: 256, columns: 256, depth: 32, itemRows: 8, itemColumns: 8),
            ] {
                #expect(TileTable(device: device, tuned: [place: tile])[place] == usual, "\(tile.text)")
            }
            let legal = GEMMTile(rows: 64, columns: 64, depth: 8, itemRows: 8, itemColumns: 8)
            #expect(TileTable(device: device, tuned: [place: legal])[place] == legal)
        }

        @Test("the table has a legal tile for every place of every device")
        func table() {
            for items in [16, 32, 64, 100, 128, 256, 1024] {
                for kilobytes in [16, 32, 48, 64] {
                    for isIntegrated in [false, true] {
                        let device = KernelDevice(
                            computeUnitCount: 1, localMemoryByteCount: kilobytes << 10, maximumWorkGroupSize: items,
                            isGPU: true, isIntegrated: isIntegrated, nativeFloatVectorWidth: 1)
                        let table = TileTable(device: device)
                        for pass in TilePlace.Pass.allCases {
                            for extent in TilePlace.Extent.allCases {
                                for access in TilePlace.Access.allCases {
                                    let place = TilePlace(pass, extent, access)
                                    #expect(table[place].isLegal(for: place, on: device), "\(place)")
                                    #expect(TilePlace(Substring(place.description)) == place)
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    extension OnDevice {
        @Suite("Tuner")
        struct KernelTunerTests {
            static let geometry = ConvolutionGeometry(
                input: ActivationShape(1, 48, 9, 8), outputChannels: 72, kernelHeight: 3, kernelWidth: 3,
                paddingHeight: 1, paddingWidth: 1)
            static let shapes = [
                KernelTuner.Shape(name: "direct", pass: "forward", primitive: .convolution(geometry, .none)),
                KernelTuner.Shape(
                    name: "adjoint", pass: "weight gradient", primitive: .convolutionWeightGradient(geometry)),
            ]
            static let small = GEMMTile(rows: 32, columns: 32, depth: 16, itemRows: 4, itemColumns: 4)
            static let low = GEMMTile(rows: 32, columns: 64, depth: 16, itemRows: 4, itemColumns: 4)

            func backend(_ folder: TemporaryFolder, sources: [String: String] = KernelSources.texts) throws
                -> OpenCLBackend
            {
                try OpenCLBackend(
                    testDevice(), kernelClass: .gpu,
                    options: .init(cache: .none, sources: sources, tuning: TuningStore(folder: folder.url)))
            }

            @Test("candidates are timed, and what wins is taken by the next backend and gives right results")
            func wins() throws {
                let folder = try TemporaryFolder()
                let backend = try backend(folder)
                let tuner = try #require(KernelTuner(backend, candidates: [Self.small, Self.low]))
                var seen = 0
                let report = try tuner.run(Self.shapes, seconds: 3600) { _ in seen += 1 }
                #expect(seen == 2 && report.rows.count == 2 && report.skipped.isEmpty)
                for row in report.rows {
                    #expect(row.candidateCount > 0 && row.rejectedCount == 0)
                    #expect(row.bestSeconds > 0 && row.bestSeconds <= row.defaultSeconds)
                    #expect((row.bestTile == row.defaultTile) == (row.bestSeconds == row.defaultSeconds))
                }
                // Whatever won here, both tiles are stored, so that what follows does not hang on the clock.
                let tiles = [
                    TilePlace(.forward, .many, .taps): Self.low, TilePlace(.weightGradient, .many, .taps): Self.low,
                ]
                #expect(report.tiles.keys.allSatisfy { tiles[$0] != nil })
                let key = try #require(backend.tuningKey)
                try TuningStore(folder: folder.url).store(tiles, key: key)
                let tuned = try self.backend(folder)
                #expect(tuned.gpuKernels?.tiles.tuned == tiles)
                let cases = [
                    ConformanceCase("tuned.forward", .convolution(Self.geometry, Epilogue(bias: true)), quick: true),
                    ConformanceCase("tuned.weights", .convolutionWeightGradient(Self.geometry), quick: true),
                ]
                for result in ConformanceHarness().runAll(on: tuned, cases: cases) {
                    #expect(result.passed, "\(result.name): \(result.message)")
                }
                // The next run begins with what won before.
                let again = try #require(KernelTuner(tuned, candidates: []))
                let rows = try again.run(Self.shapes, seconds: 3600).rows
                #expect(rows.map(\.candidateCount) == [1, 1] && rows.allSatisfy { $0.rejectedCount == 0 })
                // A damaged file is no file.
                try Data("graft tuning 1\n".utf8).write(to: TuningStore(folder: folder.url).file(key))
                #expect(try self.backend(folder).gpuKernels?.tiles.tuned == [:])
            }

            @Test("a candidate that gives another result never wins, one that does not build is passed over")
            func rejects() throws {
                let folder = try TemporaryFolder()
                var sources = KernelSources.texts
                let text = try #require(sources["convolution_gpu"])
                sources["convolution_gpu"] =
                    "#if BM == 32 && BN == 64\n#error no such tile\n#endif\n"
                    + text.replacingOccurrences(
                        of: "int end_step = total_steps;", with: "int end_step = BM == 32 ? 1 : total_steps;")
                #expect(sources["convolution_gpu"]?.contains("BM == 32 ? 1") == true)
                let tuner = try #require(
                    KernelTuner(try backend(folder, sources: sources), candidates: [Self.small, Self.low]))
                // Enough pixels that nothing is split.
                var geometry = Self.geometry
                geometry.input = ActivationShape(1, 16, 40, 40)
                geometry.outputChannels = 65
                let report = try tuner.run(
                    [.init(name: "broken", pass: "forward", primitive: .convolution(geometry, .none))], seconds: 3600)
                #expect(report.rows.map(\.candidateCount) == [2] && report.rows.map(\.rejectedCount) == [2])
                #expect(report.tiles.isEmpty)
            }

            @Test("when the time is over the rest keeps its default")
            func timeBox() throws {
                let tuner = try #require(KernelTuner(try backend(try TemporaryFolder())))
                let report = try tuner.run(Self.shapes, seconds: 1e-3)
                #expect(report.rows.count == 1 && report.skipped.count == 1)
                #expect(report.rows.map(\.candidateCount) == [0] && report.tiles.isEmpty && report.places.isEmpty)
            }

            @Test("other kernel classes have nothing to tune")
            func otherClasses() throws {
                #expect(KernelTuner(try OpenCLBackend(testDevice(), kernelClass: .cpu)) == nil)
            }

            @Test("NaN and a wrong element agree with nothing")
            func agreement() {
                let right = HostTensor([3], [1, -2, 0.5])
                #expect(KernelTuner.agrees(HostTensor([3], [1, -2, 0.50001]), right))
                #expect(!KernelTuner.agrees(HostTensor([3], [1, -2, 0.51]), right))
                #expect(!KernelTuner.agrees(HostTensor([3], [1, -2, .nan]), right))
                #expect(!KernelTuner.agrees(HostTensor([2], [1, -2]), right))
            }
        }
    }
#endif
