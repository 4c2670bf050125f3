import Foundation
import Synchronization
import Testing

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// What `graft` does on a terminal, in a pipe, and in one that nobody reads.
@Suite struct TerminalTests {
    /// A pseudo-terminal of a given width.
    private final class PseudoTerminal: @unchecked Sendable {
        let controller: Int32
        let terminal: FileHandle

        init(columns: UInt16) throws {
            // posix_openpt and its kin are not in every C library's module: what they do on Linux.
            controller = open("/dev/ptmx", O_RDWR | O_NOCTTY)
            var (unlocked, number) = (Int32(0), Int32(0))
            let (setLock, getNumber) = (UInt(0x4004_5431), UInt(0x8004_5430))
            try #require(
                controller >= 0 && ioctl(controller, setLock, &unlocked) == 0
                    && ioctl(controller, getNumber, &number) == 0)
            let name = "/dev/pts/\(number)"
            let descriptor = open(name, O_RDWR | O_NOCTTY)
            try #require(descriptor >= 0)
            var size = winsize(ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0)
            try #require(ioctl(controller, UInt(TIOCSWINSZ), &size) == 0)
            terminal = FileHandle(fileDescriptor: descriptor, closeOnDealloc: true)
        }

        deinit { close(controller) }

        /// What was written to it, lines ended as on a terminal.
        func text() -> String {
            try? terminal.close()
            var bytes: [UInt8] = []
            var buffer = [UInt8](repeating: 0, count: 65_536)
            while true {
                let count = read(controller, &buffer, buffer.count)
                guard count > 0 else { break }
                bytes += buffer.prefix(count)
            }
            return String(decoding: bytes, as: UTF8.self).replacing("\r\n", with: "\n")
        }
    }

    /// Runs `graft` with standard output or standard error on a terminal of `columns` columns.
    private static func onTerminal(
        _ arguments: [String], columns: UInt16, errors: Bool = false, environment: [String: String] = [:]
    ) throws -> String {
        let terminal = try PseudoTerminal(columns: columns)
        let process = Process()
        process.executableURL = Graft.executable
        process.arguments = arguments
        var variables = ProcessInfo.processInfo.environment
        variables["NO_COLOR"] = nil
        variables["GRAFT_DEVICE"] = nil
        variables["TERM"] = "xterm"
        process.environment = variables.merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = errors ? FileHandle.nullDevice : terminal.terminal
        process.standardError = errors ? terminal.terminal : FileHandle.nullDevice
        try process.run()
        // A terminal's buffer is small: it is read while the process writes.
        let text = Mutex("")
        let done = DispatchSemaphore(value: 0)
        Thread.detachNewThread {
            let written = terminal.text()
            text.withLock { $0 = written }
            done.signal()
        }
        process.waitUntilExit()
        done.wait()
        return text.withLock { $0 }
    }

    @Test(arguments: [44, 60, 80, 200]) func helpFitsTheTerminal(_ columns: UInt16) throws {
        for command in [[], ["help", "train"], ["help", "completions"]] {
            let text = try Self.onTerminal(command, columns: columns)
            #expect(text.contains("USAGE: graft"))
            let limit = min(Int(columns), 100)
            for line in text.split(separator: "\n") {
                // What cannot be broken may stand out: an option with its values, an example.
                let isWhole =
                    line.split(separator: " ").count <= 2 || line.contains("graft ") || line.hasPrefix("      --")
                #expect(line.count <= limit || isWhole, "\(line.count) columns: \(line)")
            }
            if columns == 200 { #expect(text.split(separator: "\n").allSatisfy { $0.count <= 100 }) }
        }
    }

    @Test func tablesFitTheTerminal() throws {
        let text = try Self.onTerminal(["summary", "resnet18"], columns: 84)
        #expect(text.contains("layer4.1"))
        for line in text.split(separator: "\n").prefix(60) where !line.contains("memory") && !line.contains("placing") {
            #expect(line.count <= 84, "\(line)")
        }
    }

    @Test func coloursAreForTerminalsAlone() throws {
        let coloured = try Self.onTerminal(["trian"], columns: 80, errors: true)
        #expect(coloured.contains("\u{1B}[31merror: \u{1B}[0m"))
        for environment in [["NO_COLOR": "1"], ["TERM": "dumb"]] {
            let plain = try Self.onTerminal(["trian"], columns: 80, errors: true, environment: environment)
            #expect(plain.hasPrefix("error: unknown command"))
            #expect(!plain.contains("\u{1B}"))
        }
    }

    @Test func theBarIsForTerminalsAlone() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 40)
        let arguments = [
            "train", folder.path, "--model", "resnet20_cifar", "--epochs", "2", "--out", folder.path + "/run",
            "--device",
            "cpu", "--batch-size", "4",
        ]
        let onTerminal = try Self.onTerminal(arguments, columns: 50, errors: true)
        #expect(onTerminal.contains("━") || onTerminal.contains("─"))
        for frame in onTerminal.split(separator: "\r") where frame.contains("─") {
            #expect(frame.prefix { $0 != "\u{1B}" }.count < 50, "\(frame)")
        }
        let piped = try Graft.run(arguments)
        #expect(piped.status == 0)
        #expect(!piped.errors.contains("\r") && !piped.errors.contains("\u{1B}") && !piped.errors.contains("─"))
    }

    /// Runs `graft` into a pipe whose reader goes away at once.
    private static func intoClosedPipe(_ arguments: [String], output: Bool) throws -> (status: Int32, errors: String) {
        let folder = try TemporaryFolder()
        let pipe = Pipe()
        try pipe.fileHandleForReading.close()
        let process = Process()
        process.executableURL = Graft.executable
        process.arguments = arguments
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = output ? pipe.fileHandleForWriting : FileHandle.nullDevice
        process.standardError = output ? try folder.newFile("errors") : pipe.fileHandleForWriting
        try process.run()
        process.waitUntilExit()
        let errors = output ? try String(contentsOf: folder.url.appending(path: "errors"), encoding: .utf8) : ""
        #expect(process.terminationReason == .exit)
        return (process.terminationStatus, errors)
    }

    /// `graft models | head -1`: the status a shell gives a program that SIGPIPE ended, and not a word.
    @Test(arguments: [["models"], ["devices"], ["help", "train"], ["summary", "resnet18", "--json"]])
    func aReaderThatGoesAwayEndsItQuietly(_ arguments: [String]) throws {
        let result = try Self.intoClosedPipe(arguments, output: true)
        #expect(result.status == 141)
        #expect(result.errors.isEmpty)
    }

    /// Nobody reads the progress any more: the training goes on and is saved.
    @Test(arguments: [true, false]) func trainingOutlivesItsReader(_ output: Bool) throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 8)
        let result = try Self.intoClosedPipe(
            [
                "train", folder.path, "--model", "resnet20_cifar", "--epochs", "2", "--out", folder.path + "/run",
                "--device", "cpu",
            ], output: output)
        #expect(result.status == (output ? 141 : 0))
        let epochs = try String(contentsOf: folder.url.appending(path: "run/epochs.csv"), encoding: .utf8)
        #expect(epochs.split(separator: "\n").count == 3)
        #expect(FileManager.default.fileExists(atPath: folder.path + "/run/best.safetensors"))
        #expect(!result.errors.lowercased().contains("fatal") && !result.errors.contains("error: "))
    }
}
