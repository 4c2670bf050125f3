import BackendConformance
import Foundation
import GraftCPU
import GraftGraph

#if OpenCL
    import GraftOpenCL
#endif

// Runs the conformance suite on one device, for machines where `swift test` cannot run:
//
//     swift run GraftConformance --device opencl:0 --class gpu --quick --filter convolution
//
// Exit codes: 0 all cases passed, 1 some did not, 64 wrong command line, 69 no such device.

struct Request {
    var device = "cpu"
    var kernelClass = "automatic"
    var isQuick = false
    var filter = ""
    var lists = false
    /// Random geometries besides the listed cases.
    var randomCount = 0
    var seed: UInt64 = 1

    static let usage = """
        usage: GraftConformance [--device cpu|opencl|gpu|opencl:N|NAME] [--class automatic|cpu|gpu] [--quick]
                                [--filter TEXT] [--random COUNT] [--seed N] [--list]
        """

    init(_ words: [String]) throws(UsageFault) {
        var rest = words[...]
        while let word = rest.popFirst() {
            switch word {
            case "--quick": isQuick = true
            case "--list": lists = true
            case "--random", "--seed":
                guard let text = rest.popFirst(), let number = UInt64(text), number < 1_000_000 else {
                    throw UsageFault(message: "\(word) needs a whole number below 1000000")
                }
                if word == "--random" { randomCount = Int(number) } else { seed = number }
            case "--device", "--class", "--filter":
                guard let value = rest.popFirst() else { throw UsageFault(message: "\(word) needs a value") }
                if word == "--device" { device = value }
                if word == "--class" { kernelClass = value }
                if word == "--filter" { filter = value }
            default: throw UsageFault(message: "unknown argument \(word)")
            }
        }
    }
}

struct UsageFault: Error {
    var message: String
}

func backend(_ request: Request) throws -> any DeviceBackend {
    if request.device == "cpu" {
        guard request.kernelClass == "automatic" else {
            throw UsageFault(message: "--class applies to OpenCL devices only, found --device cpu")
        }
        return try CPUBackend(threadCount: nil)
    }
    #if OpenCL
        guard let choice = KernelClassChoice(rawValue: request.kernelClass) else {
            throw UsageFault(message: "--class \(request.kernelClass) is none of automatic, cpu, gpu")
        }
        return try OpenCLBackend(DeviceCatalog.current.select(request.device), kernelClass: choice)
    #else
        throw DeviceError.unavailable("there is no device \(request.device): this build has no OpenCL support")
    #endif
}

func fail(_ text: String, _ code: Int32) -> Never {
    FileHandle.standardError.write(Data("error: \(text)\n".utf8))
    exit(code)
}

do {
    let request = try Request(Array(CommandLine.arguments.dropFirst()))
    func isWanted(_ name: String) -> Bool { request.filter.isEmpty || name.contains(request.filter) }
    let listed = request.isQuick ? ConformanceCases.quick : ConformanceCases.all
    let cases = (listed + ConformanceCases.random(count: request.randomCount, seed: request.seed)).filter {
        isWanted($0.name)
    }
    let programs = ProgramConformance.all.filter { isWanted($0.name) && !request.isQuick }
    guard !cases.isEmpty || !programs.isEmpty else {
        throw UsageFault(message: "no case contains \"\(request.filter)\"; --list shows them")
    }
    if request.lists {
        print((cases.map(\.name) + programs.map(\.name)).joined(separator: "\n"))
        exit(0)
    }
    let device = try backend(request)
    print("\(device.description.selector): \(device.description.name), \(device.description.kernelClass)")
    print("\(cases.count) cases, \(programs.count) programs")
    // A line per fault at once: a driver may take the process down later.
    let showFault = { (result: CaseResult) in
        if !result.passed { print("FAILED \(result.name): \(result.message)") }
        fflush(nil)
    }
    let harness = ConformanceHarness()
    let results =
        harness.runAll(on: device, cases: cases, progress: showFault)
        + harness.runPrograms(on: device, programs, progress: showFault)
    print(ConformanceHarness.summary(results))
    exit(results.allSatisfy(\.passed) ? 0 : 1)
} catch let fault as UsageFault {
    fail(fault.message + "\n" + Request.usage, 64)
} catch let error as DeviceError {
    fail(error.description, 69)
} catch {
    fail("\(error)", 1)
}
