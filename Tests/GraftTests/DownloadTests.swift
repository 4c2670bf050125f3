import Foundation
import Graft
import GraftCheckpoint
import LoopbackServer
import Testing

/// Downloads over the loopback interface, with the faults of real networks.
@Suite struct DownloadTests {
    private static let bytes = (0..<200_000).map { UInt8(truncatingIfNeeded: $0 &* 31 ^ ($0 >> 8)) }

    /// `net-1a2b3c4d.pth` for bytes.
    private static func name(of bytes: [UInt8]) throws -> String {
        let digest = SHA256Digest()
        digest.update(bytes)
        return "net-\(try digest.hex().prefix(8)).pth"
    }

    /// A folder that goes when the value does, and downloads into it.
    private final class Cache {
        let folder = FileManager.default.temporaryDirectory.appending(path: "graft-download-\(UUID().uuidString)")
        let events = Events()

        init() { setenv("no_proxy", "127.0.0.1", 1) }
        deinit { try? FileManager.default.removeItem(at: folder) }

        func download(attempts: Int = 4, offline: Bool = false, stall: Int = 60) -> WeightsDownload {
            let events = events
            var download = WeightsDownload { events.append($0) }
            download.folder = folder
            download.attempts = attempts
            download.isOffline = offline
            download.stallTimeoutSeconds = stall
            download.pauseSeconds = 0.01
            return download
        }

        func path(_ name: String) -> String { folder.appending(path: name).path }
        var names: [String] { (try? FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()) ?? [] }
    }

    private final class Events: @unchecked Sendable {
        private let lock = NSLock()
        private var list: [WeightsDownload.Event] = []
        func append(_ event: WeightsDownload.Event) { lock.withLock { list.append(event) } }
        var all: [WeightsDownload.Event] { lock.withLock { list } }
    }

    private static func message(_ body: () throws -> Void) -> String {
        do {
            try body()
            return "no error"
        } catch {
            return "\(error)"
        }
    }

    private static func content(_ path: String) -> [UInt8] {
        FileManager.default.contents(atPath: path).map(Array.init) ?? []
    }

    @Test func aFileIsDownloadedOnceAndCheckedOnEachUse() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, _ in .file(Self.bytes, tag: "\"a\"", for: request) }
        let source = WeightsSource(server.address + "/models/" + name)
        let path = try cache.download().file(for: source)
        #expect(path == cache.path(name))
        #expect(Self.content(path) == Self.bytes)
        #expect(cache.names == [name])
        #expect(cache.events.all.contains(.started(address: "\(source)", from: 0, total: Self.bytes.count)))
        #expect(try cache.download().file(for: source) == path)
        #expect(try cache.download(offline: true).file(for: source) == path)
        #expect(server.requests.count == 1)

        var damaged = Self.bytes
        damaged[5] ^= 1
        try Data(damaged).write(to: URL(filePath: path))
        #expect(
            Self.message { _ = try cache.download(offline: true).file(for: source) }.contains(
                "it is damaged or another file"))
        #expect(try cache.download().file(for: source) == path)
        #expect(cache.events.all.contains(.damaged(path: path)))
        #expect(Self.content(path) == Self.bytes)
        #expect(server.requests.count == 2)
    }

    @Test func aCutConnectionGoesOnWhereItWas() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, number in
            let file = LoopbackServer.Response.file(Self.bytes, tag: "\"a\"", for: request)
            return number < 2 ? file.cut(after: 70_000) : file
        }
        let path = try cache.download().file(for: .address(server.address + "/" + name))
        #expect(Self.content(path) == Self.bytes)
        #expect(server.requests.map(\.rangeStart) == [nil, 70_000, 140_000])
        #expect(server.requests.map { $0.headers["if-range"] } == [nil, "\"a\"", "\"a\""])
        #expect(cache.names == [name])
    }

    @Test func whatACallLeftTheNextOneGoesOnWith() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, number in
            let file = LoopbackServer.Response.file(Self.bytes, tag: "\"a\"", for: request)
            return number == 0 ? file.cut(after: 1000) : file
        }
        let source = WeightsSource.address(server.address + "/" + name)
        let text = Self.message { _ = try cache.download(attempts: 1).file(for: source) }
        #expect(text.contains("after 1000 of 200000 bytes"), "\(text)")
        #expect(text.contains("put it at \(cache.path(name))"), "\(text)")
        #expect(cache.names == [name + ".partial", name + ".partial.json"])
        #expect(Self.content(try cache.download().file(for: source)) == Self.bytes)
        #expect(server.requests.last?.rangeStart == 1000)
        #expect(cache.names == [name])
    }

    @Test func wrongBytesAreThrownAway() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, _ in
            .file(Array("<html>please log in".utf8), tag: "\"a\"", for: request)
        }
        let text = Self.message { _ = try cache.download().file(for: .address(server.address + "/" + name)) }
        #expect(text.contains("its name promises \(name.dropFirst(4).prefix(8))"), "\(text)")
        #expect(cache.names.isEmpty)
    }

    @Test func answersOtherThanTheFile() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let absent = try LoopbackServer { _, _ in .init(404, body: Array("no such page".utf8)) }
        let text = Self.message { _ = try cache.download().file(for: .address(absent.address + "/" + name)) }
        #expect(text.contains("the server answers 404 (no such file)"), "\(text)")
        #expect(text.contains("put it at \(cache.path(name))"), "\(text)")
        #expect(absent.requests.count == 1)
        #expect(cache.names.isEmpty)

        let busy = try LoopbackServer { request, number in
            number < 2 ? .init(503, body: Array("busy".utf8)) : .file(Self.bytes, tag: "\"a\"", for: request)
        }
        #expect(Self.content(try cache.download().file(for: .address(busy.address + "/" + name))) == Self.bytes)
        let down = try LoopbackServer { _, _ in .init(500) }
        let other = Self.message { _ = try cache.download(attempts: 2).file(for: .address(down.address + "/x.pth")) }
        #expect(other.contains("the server answers 500"), "\(other)")
        #expect(down.requests.count == 2)
    }

    @Test func aRangeBehindTheEnd() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, _ in .file(Self.bytes, tag: "\"a\"", for: request) }
        let source = WeightsSource.address(server.address + "/" + name)
        func leave(_ bytes: [UInt8], total: Int) throws {
            try? FileManager.default.createDirectory(at: cache.folder, withIntermediateDirectories: true)
            try Data(bytes).write(to: URL(filePath: cache.path(name + ".partial")))
            let validator = "{\"address\": \"\(source)\", \"entityTag\": \"\\\"a\\\"\", \"total\": \(total)}"
            try Data(validator.utf8).write(to: URL(filePath: cache.path(name + ".partial.json")))
        }
        // All bytes were there when the process ended.
        try leave(Self.bytes, total: Self.bytes.count)
        #expect(Self.content(try cache.download().file(for: source)) == Self.bytes)
        #expect(server.requests.map(\.rangeStart) == [Self.bytes.count])
        #expect(cache.names == [name])
        // More than the file has, and so many that are not its own.
        for left in [Self.bytes + [1, 2, 3], [UInt8](repeating: 7, count: Self.bytes.count)] {
            try FileManager.default.removeItem(atPath: cache.path(name))
            try leave(left, total: left.count)
            #expect(Self.content(try cache.download().file(for: source)) == Self.bytes)
        }
    }

    @Test func aServerThatKnowsNoRangesStartsOver() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, number in
            let file = LoopbackServer.Response.file(Self.bytes, tag: "\"a\"", for: request, honoursRange: false)
            return number == 0 ? file.cut(after: 90_000) : file
        }
        #expect(Self.content(try cache.download().file(for: .address(server.address + "/" + name))) == Self.bytes)
        #expect(server.requests.map(\.rangeStart) == [nil, 90_000])
    }

    /// The file changes while its first part is here: with a server that heeds If-Range, with one that does not but says so
    /// by its tag, and with one that says nothing.
    @Test(arguments: [(true, "\"b\""), (false, "\"b\""), (false, "\"a\"")])
    func contentThatChangesBetweenTheParts(_ honoursCondition: Bool, _ newTag: String) throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let old = Self.bytes.map { $0 ^ 0xFF }
        let server = try LoopbackServer { request, number in
            number == 0
                ? .file(old, tag: "\"a\"", for: request).cut(after: 50_000)
                : .file(Self.bytes, tag: newTag, for: request, honoursCondition: honoursCondition)
        }
        #expect(Self.content(try cache.download().file(for: .address(server.address + "/" + name))) == Self.bytes)
        #expect(server.requests.count == (honoursCondition ? 2 : 3))
        #expect(cache.names == [name])
    }

    @Test func slowServersAreWaitedForAndDeadOnesAreNot() throws {
        let cache = Cache()
        let small = Array(Self.bytes[..<10_000])
        let name = try Self.name(of: small)
        let server = try LoopbackServer { request, _ in
            .file(small, tag: "\"a\"", for: request).slow(pieces: 1000, pause: 0.02)
        }
        #expect(Self.content(try cache.download().file(for: .address(server.address + "/" + name))) == small)
        try FileManager.default.removeItem(atPath: cache.path(name))
        let dead = try LoopbackServer { request, number in
            let file = LoopbackServer.Response.file(small, tag: "\"a\"", for: request)
            return number == 0 ? file.slow(pieces: 6000, pause: 4).cut(after: 6001) : file
        }
        let started = ContinuousClock.now
        #expect(Self.content(try cache.download(stall: 1).file(for: .address(dead.address + "/" + name))) == small)
        #expect(ContinuousClock.now - started < .seconds(60))
        #expect(dead.requests.count >= 2)
    }

    @Test func redirectionsAreFollowedAndLoopsAreNot() throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, number in
            switch request.target {
            case "/a/" + name: .init(302, body: Array("moved".utf8), headers: [("Location", "/b/\(name)")])
            case "/loop.pth": .init(302, headers: [("Location", "/loop.pth")])
            default:
                number == 1
                    ? .file(Self.bytes, tag: "\"a\"", for: request).cut(after: 10)
                    : .file(Self.bytes, tag: "\"a\"", for: request)
            }
        }
        #expect(Self.content(try cache.download().file(for: .address(server.address + "/a/" + name))) == Self.bytes)
        #expect(server.requests.map(\.rangeStart) == [nil, nil, 10, 10])
        let text = Self.message { _ = try cache.download().file(for: .address(server.address + "/loop.pth")) }
        #expect(text.contains("redirect"), "\(text)")
    }

    @Test func withoutANetworkTheMessageSaysWhereToPutTheFile() throws {
        let cache = Cache()
        var download = cache.download()
        download.hub = "http://127.0.0.1:1/models"
        for offline in [false, true] {
            download.isOffline = offline
            let text = Self.message { _ = try download.file(for: .hub, architecture: "resnet18") }
            #expect(text.contains("resnet18-f37072fd.pth"), "\(text)")
            #expect(text.contains("http://127.0.0.1:1/models/resnet18-f37072fd.pth"), "\(text)")
            #expect(text.contains("put it at \(cache.path("resnet18-f37072fd.pth"))"), "\(text)")
        }
        #expect(cache.names.isEmpty)
        #expect(Self.message { _ = try download.file(for: .hub) }.contains("--model"))
        #expect(
            Self.message { _ = try download.file(for: .hub, architecture: "resnet20_cifar") }.contains(
                "publishes no weights"))
        #expect(Self.message { _ = try download.file(for: .address("https:///x.pth")) }.contains("is no address"))
        #expect(Self.message { _ = try download.file(for: .address("https://host/")) }.contains("names no file"))
    }

    @Test func filesWithoutDigitsBelongToTheirAddress() throws {
        let cache = Cache()
        let server = try LoopbackServer { request, _ in .file(Array(request.target.utf8), tag: "\"a\"", for: request) }
        let paths = try ["/a/net.pth", "/b/net.pth"].map {
            try cache.download().file(for: .address(server.address + $0))
        }
        #expect(paths[0] != paths[1])
        #expect(paths.allSatisfy { $0.hasSuffix("/net.pth") })
        #expect(Self.content(paths[1]) == Array("/b/net.pth".utf8))
        // A password is neither kept nor shown.
        let secret = server.address.replacing("http://", with: "http://user:secret@")
        #expect(try cache.download().file(for: .address(secret + "/a/net.pth")) == paths[0])
    }

    /// Threads of one process exclude each other like processes do.
    @Test func twoAtOnceMakeOneRequest() async throws {
        let cache = Cache()
        let name = try Self.name(of: Self.bytes)
        let server = try LoopbackServer { request, _ in
            .file(Self.bytes, tag: "\"a\"", for: request).slow(pieces: 20_000, pause: 0.03)
        }
        let download = cache.download()
        let source = WeightsSource.address(server.address + "/" + name)
        let paths = try await withThrowingTaskGroup(of: String.self) { group in
            for _ in 0..<3 { group.addTask { try download.file(for: source) } }
            return try await group.reduce(into: [String]()) { $0.append($1) }
        }
        #expect(Set(paths) == [cache.path(name)])
        #expect(server.requests.count == 1)
    }

    @Test func everyArchitectureOfTorchvisionHasAnAddress() throws {
        for architecture in Architecture.all where !architecture.name.hasSuffix("_cifar") {
            let address = try #require(PretrainedWeights.address(of: architecture.name), "\(architecture.name)")
            #expect(address.hasPrefix("https://download.pytorch.org/models/"))
            let digits = address.dropLast(4).suffix(8)
            #expect(address.hasSuffix("-\(digits).pth"))
            #expect(digits.allSatisfy { "0123456789abcdef".contains($0) })
        }
    }
}
