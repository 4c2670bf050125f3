import Foundation
import Testing

/// `graft train --cache disk` as processes: what is left for the next, a kill, two at once.
@Suite struct DiskCacheCommandTests {
    private struct Place {
        let folder: TemporaryFolder

        init(imagesPerClass: Int) throws {
            folder = try TemporaryFolder()
            try folder.writeClasses(imagesPerClass: imagesPerClass)
            // The classes only: cache and runs lie elsewhere.
            let data = folder.url.appending(path: "data")
            try FileManager.default.createDirectory(at: data, withIntermediateDirectories: true)
            for name in ["dark", "light"] {
                try FileManager.default.moveItem(
                    at: folder.url.appending(path: name), to: data.appending(path: name))
            }
        }

        func arguments(_ run: String, _ cache: String) -> [String] {
            [
                "train", folder.path + "/data", "--model", "resnet20_cifar", "--freeze", "backbone", "--epochs", "2",
                "--batch-size", "4", "--device", "cpu", "--threads", "1", "--out", folder.path + "/" + run, "--cache",
                cache,
            ]
        }

        var environment: [String: String] { ["GRAFT_CACHE": folder.path + "/cache"] }

        func train(_ run: String, _ cache: String, _ extra: [String] = []) throws -> GraftResult {
            let result = try Graft.run(arguments(run, cache) + extra, environment: environment)
            try #require(result.status == 0, "\(result.errors)")
            return result
        }

        func weights(_ run: String) throws -> Data {
            try Data(contentsOf: folder.url.appending(path: run + "/last.safetensors"))
        }

        var cacheFile: String? {
            let cache = folder.url.appending(path: "cache/frontier")
            return try? FileManager.default.contentsOfDirectory(atPath: cache.path).first.map { cache.path + "/" + $0 }
        }
    }

    @Test func everyCacheLeavesTheSameBytes() throws {
        let place = try Place(imagesPerClass: 6)
        _ = try place.train("off", "off")
        for (run, cache) in [("memory", "memory"), ("first", "disk"), ("second", "disk")] {
            let result = try place.train(run, cache)
            #expect(try place.weights(run) == place.weights("off"), "\(run)")
            #expect(result.errors.contains(cache == "disk" ? "on disk" : "in memory"))
            if run == "second" { #expect(result.errors.contains("12 of them found from earlier runs")) }
        }
        let small = try Graft.run(
            place.arguments("small", "disk") + ["--cache-limit", "1K"], environment: place.environment)
        #expect(small.status != 0)
        #expect(small.errors.contains("--cache-limit 1024"))
        let augmented = try place.train("augmented", "disk", ["--augment", "flip"])
        #expect(augmented.errors.contains("--cache disk is without effect"))
    }

    @Test func aKilledRunLeavesWhatIsWholeAndNothingElse() throws {
        let place = try Place(imagesPerClass: 60)
        _ = try place.train("off", "off")
        for _ in 0..<3 {
            let running = try Graft.start(place.arguments("killed", "disk"), environment: place.environment)
            let start = Date()
            while place.cacheFile == nil, running.process.isRunning, Date().timeIntervalSince(start) < 60 {
                usleep(2_000)
            }
            usleep(UInt32.random(in: 0..<150_000))
            kill(running.process.processIdentifier, SIGKILL)
            _ = try running.wait()
        }
        _ = try place.train("after", "disk")
        #expect(try place.weights("after") == place.weights("off"))
        _ = try place.train("again", "disk")
        #expect(try place.weights("again") == place.weights("off"))
    }

    @Test func twoRunsAtOnceAreBothRight() throws {
        let place = try Place(imagesPerClass: 60)
        _ = try place.train("off", "off")
        let runs = try ["one", "two"].map {
            try Graft.start(place.arguments($0, "disk"), environment: place.environment)
        }
        let results = try runs.map { try $0.wait() }
        #expect(results.allSatisfy { $0.status == 0 }, "\(results.map(\.errors))")
        for run in ["one", "two"] { #expect(try place.weights(run) == place.weights("off")) }
        // A run that finds the file locked says so; both may also have come one after the other.
        #expect(results.count { $0.errors.contains("in use by another run") } <= 1)
    }
}
