#if OpenCL
    import Foundation
    import GraftGraph
    import GraftOpenCL
    import Testing

    @Suite("Device catalogue")
    struct DeviceCatalogTests {
        static func entry(
            _ index: Int, _ name: String, _ rank: OpenCLDeviceEntry.Rank, rejection: String? = nil
        ) -> OpenCLDeviceEntry {
            OpenCLDeviceEntry(
                description: DeviceDescription(
                    selector: "opencl:\(index)", name: name, platform: "Platform", type: rank == .cpu ? "CPU" : "GPU",
                    driverVersion: "1", memoryByteCount: 1 << 30, computeUnitCount: 2, kernelClass: "cpu-class"),
                rank: rank, rejection: rejection, version: "OpenCL 1.2")
        }

        static let several = DeviceCatalog(entries: [
            entry(0, "Zen CPU", .cpu), entry(1, "Iris Graphics", .integratedGPU),
            entry(2, "Old Radeon", .discreteGPU, rejection: "it has \"OpenCL 1.1\", OpenCL 1.2 is needed"),
            entry(3, "GeForce 4090", .discreteGPU), entry(4, "GeForce 4080", .discreteGPU),
        ])

        @Test(
            "selectors",
            arguments: [
                ("opencl", "opencl:3"), ("gpu", "opencl:3"), ("opencl:1", "opencl:1"), ("OpenCL:0", "opencl:0"),
                ("iris", "opencl:1"), ("ZEN", "opencl:0"), ("4080", "opencl:4"),
            ])
        func selectors(selector: String, expected: String) throws {
            #expect(try Self.several.select(selector).description.selector == expected)
        }

        @Test(
            "a selector without one match is an error that lists what there is",
            arguments: [
                ("voodoo", "no OpenCL device matches \"voodoo\""), ("opencl:9", "no OpenCL device matches"),
                ("geforce", "part of the names of 2 devices"), ("opencl:2", "OpenCL 1.2 is needed"),
                ("radeon", "cannot be used"), ("", "no OpenCL device matches"), ("opencl:", "no OpenCL device matches"),
            ])
        func noMatch(selector: String, expected: String) throws {
            let error = #expect(throws: DeviceError.self) { try Self.several.select(selector) }
            let message = try #require(error).description
            #expect(message.contains(expected), "\(message)")
            #expect(message.contains("opencl:3") && message.contains("GeForce 4090"), "\(message)")
        }

        @Test("ranking: discrete GPU, integrated GPU, CPU; rejected devices never")
        func ranking() {
            #expect(
                Self.several.ranked.map(\.description.selector) == ["opencl:3", "opencl:4", "opencl:1", "opencl:0"])
        }

        @Test("auto says which devices it would have preferred and why it takes none of them")
        func passedOver() {
            #expect(Self.several.passedOver == [], "no better device than the best one was rejected")
            let beside = DeviceCatalog(entries: [
                Self.entry(0, "Zen CPU", .cpu), Self.entry(1, "Radeon", .discreteGPU, rejection: "no compiler"),
                Self.entry(2, "Other CPU", .cpu, rejection: "too old"),
            ])
            #expect(beside.passedOver == ["Radeon: no compiler"])
            let none = DeviceCatalog(entries: [Self.entry(0, "Zen CPU", .cpu, rejection: "too old")])
            #expect(none.passedOver == ["Zen CPU: too old"])
        }

        @Test("an empty catalogue says why")
        func empty() throws {
            let catalog = DeviceCatalog(entries: [], emptyReason: "no OpenCL loader")
            for selector in ["opencl", "gpu", "opencl:0", "zen"] {
                let error = #expect(throws: DeviceError.self) { try catalog.select(selector) }
                let message = try #require(error).description
                #expect(message.contains("no OpenCL loader") && message.contains("--device cpu"), "\(message)")
            }
        }

        @Test(
            "version numbers",
            arguments: [("OpenCL 1.2 CUDA", 1, 2), ("OpenCL 3.0 PoCL 3.1", 3, 0), ("OpenCL 1.1", 1, 1)])
        func version(text: String, major: Int, minor: Int) throws {
            let number = try #require(DeviceCatalog.versionNumber(text))
            #expect(number == (major, minor))
        }

        @Test("malformed versions", arguments: ["", "OpenCL", "OpenCL x.y", "1.2", "OpenCL 3"])
        func malformedVersion(text: String) { #expect(DeviceCatalog.versionNumber(text) == nil) }

        /// Runs ``childWithoutDevice()`` in a process of its own: a process asks for its devices once.
        @Test(
            "no loader, a library that is none, no platform: an empty catalogue with a reason",
            .enabled(if: FileManager.default.fileExists(atPath: "/proc/self/exe"), "needs /proc"),
            arguments: [
                ("GRAFT_OPENCL_LIBRARY", "nowhere/libOpenCL.so", "no OpenCL loader"),
                ("GRAFT_OPENCL_LIBRARY", "libm.so.6", "has no function cl"),
                ("OCL_ICD_VENDORS", "", "no platform"),
            ])
        func noDevice(variable: String, value: String, expected: String) throws {
            let folder = try TemporaryFolder()
            let process = Process()
            process.executableURL = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath()
            process.arguments = ["--testing-library", "swift-testing", "--filter", "childWithoutDevice"]
            var environment = ProcessInfo.processInfo.environment
            environment[variable] = value.isEmpty ? folder.url.path : value
            environment["GRAFT_TEST_EXPECTED_REASON"] = expected
            process.environment = environment
            let output = Pipe()
            process.standardOutput = output
            process.standardError = output
            try process.run()
            let text = String(decoding: output.fileHandleForReading.readDataToEndOfFile(), as: UTF8.self)
            process.waitUntilExit()
            #expect(process.terminationStatus == 0, "\(text)")
            #expect(text.contains("with 1 test in") && text.contains("passed"), "\(text)")
        }

        static let expectedReason = ProcessInfo.processInfo.environment["GRAFT_TEST_EXPECTED_REASON"]

        @Test("(child process) there is no device", .enabled(if: expectedReason != nil, "run by noDevice"))
        func childWithoutDevice() throws {
            let expected = try #require(Self.expectedReason)
            #expect(DeviceCatalog.devices().isEmpty)
            let reason = try #require(DeviceCatalog.emptyReason())
            #expect(reason.contains(expected), "\(reason)")
            let error = #expect(throws: DeviceError.self) { try DeviceCatalog.current.select("opencl") }
            #expect(try #require(error).description.contains(reason))
        }

        @Test("devices of this machine are described in full", .enabled(if: hasOpenCLDevice))
        func devices() {
            let devices = DeviceCatalog.devices()
            #expect(DeviceCatalog.emptyReason() == nil)
            #expect(devices.enumerated().allSatisfy { $1.description.selector == "opencl:\($0)" })
            for device in devices where device.rejection == nil {
                #expect(!device.description.name.isEmpty && !device.description.platform.isEmpty)
                #expect(device.description.memoryByteCount > 0 && device.description.computeUnitCount > 0)
            }
        }
    }

    /// Whether this machine has an OpenCL device that Graft accepts; tests that need one are skipped without.
    let hasOpenCLDevice = !DeviceCatalog.current.ranked.isEmpty

    /// The device that tests run on: `GRAFT_TEST_DEVICE`, a selector, else the best one.
    func testDevice() throws -> OpenCLDeviceEntry {
        try DeviceCatalog.current.select(ProcessInfo.processInfo.environment["GRAFT_TEST_DEVICE"] ?? "opencl")
    }
#endif
