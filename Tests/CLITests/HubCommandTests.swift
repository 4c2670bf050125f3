import Foundation
import GraftCheckpoint
import LoopbackServer
import Testing

/// `--weights hub` and `--weights http://…`, against a server in this process.
@Suite struct HubCommandTests {
    /// A weights file with the digits of its SHA-256 in its name, and a cache of its own.
    private struct Setting {
        let data: TemporaryFolder
        let folder: TemporaryFolder
        let bytes: [UInt8]
        let name: String
        var cache: String { folder.path + "/cache" }
        var kept: String { cache + "/weights/" + name }
        var environment: [String: String] { ["GRAFT_CACHE": cache, "no_proxy": "127.0.0.1", "http_proxy": ""] }

        init() throws {
            data = try TemporaryFolder()
            try data.writeClasses(imagesPerClass: 2)
            folder = try TemporaryFolder()
            let run = folder.path + "/run"
            let trained = try Graft.run([
                "train", data.path, "--model", "resnet20_cifar", "--epochs", "1", "--steps", "1", "--image-size",
                "32",
                "--resize", "32", "--device", "cpu", "--quiet", "--out", run,
            ])
            try #require(trained.status == 0, "\(trained.errors)")
            bytes = Array(try Data(contentsOf: URL(filePath: run + "/last.safetensors")))
            try FileManager.default.removeItem(atPath: run)
            let digest = SHA256Digest()
            digest.update(bytes)
            name = "net-\(try digest.hex().prefix(8)).safetensors"
        }

        func server(pause: Double = 0) throws -> LoopbackServer {
            let bytes = bytes
            return try LoopbackServer { request, _ in
                .file(bytes, tag: "\"a\"", for: request).slow(pieces: bytes.count / 10, pause: pause)
            }
        }
    }

    @Test func everyCommandDownloadsAndThenNeedsNoNetwork() throws {
        let setting = try Setting()
        let server = try setting.server()
        let weights = server.address + "/models/" + setting.name
        let data = setting.data.path
        let out = setting.folder.path
        let small = ["--device", "cpu", "--quiet"]
        let first = try Graft.run(
            ["summary", "resnet20_cifar", "--weights", weights, "--json"], environment: setting.environment)
        #expect(first.status == 0, "\(first.errors)")
        #expect(first.errors.contains("downloading \(weights)"), "\(first.errors)")
        #expect(first.errors.contains("kept as \(setting.kept)"), "\(first.errors)")
        #expect(try Array(Data(contentsOf: URL(filePath: setting.kept))) == setting.bytes)
        for arguments in [
            ["evaluate", data, "--weights", weights, "--offline"] + small,
            ["predict", data + "/dark/0.png", "--weights", weights] + small,
            ["extract", data, "--weights", weights, "--layer", "avgpool", "--out", out + "/f.npz"] + small,
            [
                "train", data, "--model", "resnet20_cifar", "--weights", weights, "--epochs", "1", "--out",
                out + "/run",
            ] + small,
        ] {
            let result = try Graft.run(arguments, environment: setting.environment)
            #expect(result.status == 0, "\(result.errors)")
        }
        #expect(server.requests.count == 1)

        // A file that was damaged is fetched again; offline it is an error.
        try Data(setting.bytes.dropLast()).write(to: URL(filePath: setting.kept))
        let offline = try Graft.run(
            ["summary", "resnet20_cifar", "--weights", weights, "--offline"], environment: setting.environment)
        #expect(offline.status == 65)
        #expect(offline.errors.contains("it is damaged or another file"), "\(offline.errors)")
        let again = try Graft.run(
            ["summary", "resnet20_cifar", "--weights", weights], environment: setting.environment)
        #expect(again.status == 0)
        #expect(again.errors.contains("downloading it anew"), "\(again.errors)")
    }

    @Test func twoProcessesAtOnceDownloadOnce() throws {
        let setting = try Setting()
        let server = try setting.server(pause: 0.1)
        let arguments = ["summary", "resnet20_cifar", "--weights", server.address + "/" + setting.name]
        let first = try Graft.start(arguments, environment: setting.environment)
        while server.requests.isEmpty, first.process.isRunning { usleep(1000) }
        let second = try Graft.start(arguments, environment: setting.environment)
        let results = [try first.wait(), try second.wait()]
        #expect(results.allSatisfy { $0.status == 0 }, "\(results.map(\.errors))")
        #expect(results[0].output == results[1].output)
        #expect(results[1].errors.contains("waiting for another process"), "\(results[1].errors)")
        #expect(server.requests.count == 1)
        #expect(try FileManager.default.contentsOfDirectory(atPath: setting.cache + "/weights") == [setting.name])
    }

    @Test func whenTheFirstIsKilledTheSecondGoesOn() throws {
        let setting = try Setting()
        let server = try setting.server(pause: 0.1)
        let arguments = ["summary", "resnet20_cifar", "--weights", server.address + "/" + setting.name]
        let first = try Graft.start(arguments, environment: setting.environment)
        let partial = setting.kept + ".partial"
        func size() -> Int { (try? FileManager.default.attributesOfItem(atPath: partial)[.size] as? Int) ?? 0 }
        while size() == 0, first.process.isRunning { usleep(1000) }
        let second = try Graft.start(arguments, environment: setting.environment)
        while try !second.text("errors").contains("waiting"), second.process.isRunning { usleep(1000) }
        kill(first.process.processIdentifier, SIGKILL)
        #expect(try first.wait().status == SIGKILL)
        let result = try second.wait()
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.errors.contains("from byte "), "\(result.errors)")
        #expect(server.requests.count == 2)
        #expect(server.requests[1].rangeStart ?? 0 > 0)
        #expect(try Array(Data(contentsOf: URL(filePath: setting.kept))) == setting.bytes)
    }

    @Test func theHubIsAMirrorWhereOneIsNamed() throws {
        let folder = try TemporaryFolder()
        let server = try LoopbackServer { request, _ in .file(Array("no weights".utf8), tag: "\"a\"", for: request) }
        let environment = [
            "GRAFT_CACHE": folder.path, "GRAFT_HUB": server.address + "/mirror", "no_proxy": "127.0.0.1",
        ]
        let wrong = try Graft.run(["summary", "resnet18", "--weights", "hub"], environment: environment)
        #expect(wrong.status == 65)
        #expect(wrong.errors.contains("its name promises f37072fd"), "\(wrong.errors)")
        #expect(server.requests.map(\.target) == ["/mirror/resnet18-f37072fd.pth"])
        let offline = try Graft.run(["summary", "resnet18", "--weights", "hub", "--offline"], environment: environment)
        #expect(offline.status == 66)
        #expect(
            offline.errors.contains("put it at \(folder.path)/weights/resnet18-f37072fd.pth"), "\(offline.errors)")
        let nameless = try Graft.run(["predict", "x.png", "--weights", "hub"], environment: environment)
        #expect(nameless.status == 64)
        #expect(nameless.errors.contains("--model"), "\(nameless.errors)")
        let unpublished = try Graft.run(["summary", "resnet20_cifar", "--weights", "hub"], environment: environment)
        #expect(unpublished.status == 64)
        #expect(unpublished.errors.contains("publishes no weights"), "\(unpublished.errors)")
    }

    @Test func proxiesComeFromTheEnvironment() throws {
        let setting = try Setting()
        let server = try setting.server()
        let address = "http://weights.invalid/models/" + setting.name
        let result = try Graft.run(
            ["summary", "resnet20_cifar", "--weights", address],
            environment: ["GRAFT_CACHE": setting.cache, "http_proxy": server.address, "no_proxy": ""])
        #expect(result.status == 0, "\(result.errors)")
        #expect(server.requests.map(\.target) == [address])
    }

    /// A published file whose name promises its SHA-256.
    @Test(.enabled(if: Graft.shared != nil, "no ../shared beside the repository, and GRAFT_SHARED is not set"))
    func aPublishedFileIsTheOneItsNamePromises() throws {
        let folder = try TemporaryFolder()
        let shared = try #require(Graft.shared)
        let name = "resnet20-12fca82f.th"
        let bytes = Array(try Data(contentsOf: shared.appending(path: "data/cifar_resnet/" + name)))
        let server = try LoopbackServer { request, _ in .file(bytes, tag: "\"a\"", for: request) }
        let environment = ["GRAFT_CACHE": folder.path, "no_proxy": "127.0.0.1"]
        for _ in 0..<2 {
            let result = try Graft.run(
                ["summary", "resnet20_cifar", "--weights", server.address + "/" + name], environment: environment)
            #expect(result.status == 0, "\(result.errors)")
        }
        #expect(server.requests.count == 1)
    }
}
