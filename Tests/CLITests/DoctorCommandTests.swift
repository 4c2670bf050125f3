import Foundation
import Testing

@Suite struct DoctorCommandTests {
    static let hasOpenCL = SharedDataTests.devices.contains("opencl")

    @Test func theProcessorPasses() throws {
        let folder = try TemporaryFolder()
        let arguments = ["doctor", "--device", "cpu", "--quick", "--primitive", "relu,convolution,optimizerUpdate"]
        let environment = ["GRAFT_CACHE": folder.path]
        let json = try Graft.run(arguments + ["--json"], environment: environment)
        #expect(json.status == 0, "\(json.errors)")
        let device = try #require((try json.json["devices"] as? [[String: Any]])?.first)
        #expect(device["selector"] as? String == "cpu")
        #expect(device["cases"] as? Int == device["passed"] as? Int)
        let rows = try #require(device["primitives"] as? [[String: Any]])
        #expect(Set(rows.compactMap { $0["primitive"] as? String }) == ["relu", "convolution", "optimizerUpdate"])
        let text = try Graft.run(arguments + ["--quiet"], environment: environment)
        #expect(text.status == 0)
        #expect(text.errors.isEmpty)
        #expect(text.output.contains("kept in \(folder.path)/verdicts/"))
        #expect(text.output.split(separator: "\n").first?.contains("passed") == true)
    }

    @Test(arguments: [
        (["doctor", "--primitive", "rleu"], Int32(64), "did you mean relu"),
        (["doctor", "--device", "no such device"], 69, "no such device"),
        (["doctor", "--quick", "--primitive", "wholePrograms"], 64, "--quick leaves out wholePrograms"),
    ])
    func wrongRequests(_ arguments: [String], _ status: Int32, _ message: String) throws {
        let result = try Graft.run(arguments)
        #expect(result.status == status)
        #expect(result.errors.contains(message), "\(result.errors)")
    }

    /// A driver that computes one kernel wrongly, played by a kernel file that does: found, remembered, passed over.
    @Test(.enabled(if: hasOpenCL, "no OpenCL device here"))
    func aDeviceWithABrokenKernelIsPassedOver() throws {
        let folder = try TemporaryFolder()
        let sources = folder.url.appending(path: "cl")
        try FileManager.default.copyItem(at: Graft.repository.appending(path: "Kernels/cl"), to: sources)
        for name in ["pooling_cpu", "pooling_gpu"] {
            let file = sources.appending(path: name + ".cl")
            let text = try String(contentsOf: file, encoding: .utf8)
            let start = try #require(text.range(of: "void adaptive_average_pooling("))
            // The sum begins at one instead of zero.
            let body = text[start.lowerBound...]
            let zero = try #require(body.range(of: name == "pooling_cpu" ? "sum = ZERO" : "sum = 0.0f"))
            let one = name == "pooling_cpu" ? "sum = (float16)(1.0f)" : "sum = 1.0f"
            try text.replacingCharacters(in: zero, with: one).write(to: file, atomically: true, encoding: .utf8)
        }
        let environment = ["GRAFT_CACHE": folder.path + "/cache", "GRAFT_OPENCL_SOURCES": sources.path]
        let doctor = ["doctor", "--device", "opencl:0", "--quick", "--primitive", "adaptiveAveragePooling,flatten"]
        let bench = [
            "bench", "--model", "resnet20_cifar", "--mode", "infer", "--batch-size", "1", "--repeats", "1", "--json",
        ]

        // Before the examination nothing is known against the device.
        let before = try Graft.run(bench + ["--device", "opencl:0"], environment: environment)
        #expect(before.status == 0, "\(before.errors)")

        let examined = try Graft.run(doctor, environment: environment)
        #expect(examined.status == 1)
        #expect(examined.output.contains("opencl:0: adaptiveAveragePooling fails in"), "\(examined.output)")
        #expect(!examined.output.contains("flatten fails"))
        #expect(examined.errors.contains("adaptiveAveragePooling computes wrong results"), "\(examined.errors)")

        let named = try Graft.run(bench + ["--device", "opencl:0"], environment: environment)
        #expect(named.status == 69)
        #expect(named.errors.contains("its adaptiveAveragePooling fails (adaptiveAveragePooling."), "\(named.errors)")
        #expect(named.errors.contains("--trust-device"))
        let trusted = try Graft.run(bench + ["--device", "opencl:0", "--trust-device"], environment: environment)
        #expect(trusted.status == 0, "\(trusted.errors)")
        #expect(try trusted.json["device"] as? String == "opencl:0")

        // auto goes on to the next device and says why; every other OpenCL device is fit, or there is pure Swift.
        let automatic = try Graft.run(bench, environment: environment)
        #expect(automatic.status == 0, "\(automatic.errors)")
        #expect(try automatic.json["device"] as? String != "opencl:0")
        #expect(automatic.errors.contains("warning: ") && automatic.errors.contains("adaptiveAveragePooling fails"))

        // The right kernels are another build: nothing is known against them.
        let right = try Graft.run(
            bench + ["--device", "opencl:0"], environment: ["GRAFT_CACHE": folder.path + "/cache"])
        #expect(right.status == 0, "\(right.errors)")

        // A damaged verdict is none, and the next examination writes it anew.
        let verdicts = folder.url.appending(path: "cache/verdicts")
        for name in try FileManager.default.contentsOfDirectory(atPath: verdicts.path) {
            try Data("graft".utf8).write(to: verdicts.appending(path: name))
        }
        #expect(try Graft.run(bench + ["--device", "opencl:0"], environment: environment).status == 0)
        #expect(try Graft.run(doctor, environment: environment).status == 1)
        #expect(try Graft.run(bench + ["--device", "opencl:0"], environment: environment).status == 69)
    }

    @Test(.enabled(if: hasOpenCL, "no OpenCL device here"))
    func aFolderWithoutEveryKernelFileIsAnError() throws {
        let folder = try TemporaryFolder()
        let result = try Graft.run(
            ["doctor", "--device", "opencl:0", "--quick", "--primitive", "relu"],
            environment: ["GRAFT_OPENCL_SOURCES": folder.path, "GRAFT_CACHE": folder.path])
        #expect(result.status == 1)
        #expect(result.errors.contains("the folder must hold every file of Kernels/cl"), "\(result.errors)")
    }
}
