import Foundation
import GraftVision
import Testing

/// What a run of the built `graft` printed and how it ended.
struct GraftResult {
    var status: Int32
    var output: String
    var errors: String

    /// Standard output as JSON.
    var json: [String: Any] {
        get throws {
            let value = try JSONSerialization.jsonObject(with: Data(output.utf8))
            return try #require(value as? [String: Any], "not a JSON object: \(output)")
        }
    }
}

/// Runs the `graft` that was built beside the tests.
enum Graft {
    /// The executable beside the test bundle.
    static let executable: URL = {
        var candidates = [Bundle.main.executableURL, URL(filePath: CommandLine.arguments[0])].compactMap { $0 }
        if let own = try? FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe") {
            candidates.append(URL(filePath: own))
        }
        for candidate in candidates {
            let url = candidate.deletingLastPathComponent().appending(path: "graft")
            if FileManager.default.isExecutableFile(atPath: url.path) { return url }
        }
        return repository.appending(path: ".build/debug/graft")
    }()

    static let repository = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    /// Real weights and images beside the repository, or where GRAFT_SHARED points; nil where they are absent.
    static let shared: URL? = {
        let named = ProcessInfo.processInfo.environment["GRAFT_SHARED"].map { URL(filePath: $0) }
        let url = named ?? repository.deletingLastPathComponent().appending(path: "shared")
        return FileManager.default.fileExists(atPath: url.appending(path: "data").path) ? url : nil
    }()

    /// Runs a command line. GRAFT_DEVICE and NO_COLOR are as `environment` says and otherwise unset.
    static func run(
        _ arguments: [String], environment: [String: String] = [:], input: [UInt8]? = nil, directory: URL? = nil
    ) throws -> GraftResult {
        try start(arguments, environment: environment, input: input, directory: directory).wait()
    }

    /// Starts a command line, with `input` on standard input, in the working directory `directory`.
    static func start(
        _ arguments: [String], environment: [String: String] = [:], input: [UInt8]? = nil, directory: URL? = nil
    ) throws -> RunningGraft {
        var variables = ProcessInfo.processInfo.environment
        variables["GRAFT_DEVICE"] = nil
        variables.merge(environment) { $1 }
        let process = Process()
        process.executableURL = executable
        process.arguments = arguments
        process.environment = variables
        process.standardInput = FileHandle.nullDevice
        if let directory { process.currentDirectoryURL = directory }
        // Files, not pipes: a full pipe would stop the process.
        let folder = try TemporaryFolder()
        if let input { process.standardInput = FileHandle(forReadingAtPath: try folder.write(input, to: "input")) }
        let output = try folder.newFile("output")
        let errors = try folder.newFile("errors")
        process.standardOutput = output
        process.standardError = errors
        try process.run()
        return RunningGraft(process: process, folder: folder)
    }
}

/// A `graft` that may still be running.
struct RunningGraft {
    let process: Process
    let folder: TemporaryFolder

    func wait() throws -> GraftResult {
        process.waitUntilExit()
        return GraftResult(status: process.terminationStatus, output: try text("output"), errors: try text("errors"))
    }

    /// What was printed so far.
    func text(_ name: String) throws -> String {
        String(decoding: try Data(contentsOf: folder.url.appending(path: name)), as: UTF8.self)
    }
}

/// A folder that goes when the value does.
final class TemporaryFolder: @unchecked Sendable {
    let url: URL
    var path: String { url.path }

    init() throws {
        url = FileManager.default.temporaryDirectory.appending(path: "graft-cli-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
    }

    deinit { try? FileManager.default.removeItem(at: url) }

    func newFile(_ name: String) throws -> FileHandle {
        let file = url.appending(path: name)
        try Data().write(to: file)
        return try FileHandle(forWritingTo: file)
    }

    /// Writes a file, making its folders.
    @discardableResult
    func write(_ bytes: some Sequence<UInt8>, to name: String) throws -> String {
        let file = url.appending(path: name)
        try FileManager.default.createDirectory(at: file.deletingLastPathComponent(), withIntermediateDirectories: true)
        try Data(bytes).write(to: file)
        return file.path
    }

    /// Two classes of small pictures that a network tells apart at once: dark ones and light ones, with some texture.
    func writeClasses(_ names: [String] = ["dark", "light"], imagesPerClass: Int, side: Int = 32) throws {
        for (label, name) in names.enumerated() {
            for index in 0..<imagesPerClass {
                try write(
                    try Picture.png(label: label, index: index, width: side, height: side), to: "\(name)/\(index).png")
            }
        }
    }
}

enum Picture {
    static func png(label: Int, index: Int, width: Int, height: Int) throws -> [UInt8] {
        let pixels = (0..<width * height * 3).map { position in
            UInt8(truncatingIfNeeded: 40 + 120 * label + (position &* 31 &+ index &* 17) % 40)
        }
        return try ImageCodec.encodePNG(RGBImage(width: width, height: height, pixels: pixels))
    }
}
