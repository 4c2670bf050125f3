#if OpenCL
    import Foundation
    import GraftOpenCL
    import Testing

    /// A folder that goes when the test ends.
    final class TemporaryFolder {
        let url: URL
        init() throws {
            url = FileManager.default.temporaryDirectory.appending(path: "graft-tests-\(UUID().uuidString)")
            try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        }
        deinit { try? FileManager.default.removeItem(at: url) }
    }

    @Suite("Program cache")
    struct ProgramCacheTests {
        let binary = [UInt8]((0..<1000).map { UInt8(truncatingIfNeeded: $0 &* 7) })

        func key(_ source: String) throws -> String {
            try #require(
                ProgramCache.key(source: source, options: "-O", platform: "p", device: "d", driverVersion: "1"))
        }

        @Test("what is stored is loaded")
        func roundTrip() throws {
            let folder = try TemporaryFolder()
            let cache = ProgramCache(folder: folder.url.appending(path: "made/when/needed"))
            let key = try key("source")
            #expect(cache.load(key) == nil)
            cache.store(binary, key: key)
            #expect(cache.load(key) == binary)
            cache.store(Array(binary.reversed()), key: key)
            #expect(cache.load(key) == binary.reversed())
            // Nothing temporary is left behind.
            #expect(try FileManager.default.contentsOfDirectory(atPath: cache.folder.path) == ["\(key).program"])
        }

        @Test("a damaged, short, foreign or empty entry counts as absent")
        func damage() throws {
            let folder = try TemporaryFolder()
            let cache = ProgramCache(folder: folder.url)
            let key = try key("source")
            cache.store(binary, key: key)
            let good = try Data(contentsOf: cache.file(key))
            for length in [0, 1, 20, 82, 83, 100, 115, good.count - 1] {
                try good.prefix(length).write(to: cache.file(key))
                #expect(cache.load(key) == nil, "cut to \(length) bytes")
            }
            try (good + [0]).write(to: cache.file(key))
            #expect(cache.load(key) == nil)
            for position in [0, 30, 90, good.count - 1] {
                var bad = good
                bad[position] ^= 1
                try bad.write(to: cache.file(key))
                #expect(cache.load(key) == nil, "bit flipped in byte \(position)")
            }
            try Data("something else entirely".utf8).write(to: cache.file(key))
            #expect(cache.load(key) == nil)
            // The entry of another key under this name.
            let other = try self.key("other")
            cache.store(binary, key: other)
            try Data(contentsOf: cache.file(other)).write(to: cache.file(key))
            #expect(cache.load(key) == nil)
            #expect(cache.load(other) == binary)
        }

        @Test("a folder that cannot be written means no cache and no error")
        func unwritable() throws {
            let folder = try TemporaryFolder()
            let file = folder.url.appending(path: "file")
            try Data([1]).write(to: file)
            let cache = ProgramCache(folder: file.appending(path: "below"))
            let key = try key("source")
            cache.store(binary, key: key)
            #expect(cache.load(key) == nil)
        }

        @Test("the oldest entries go when the folder is full")
        func pruning() throws {
            let folder = try TemporaryFolder()
            let cache = ProgramCache(folder: folder.url, maximumByteCount: 10_000)
            let keys = try (0..<12).map { try key("source \($0)") }
            for (age, key) in keys.enumerated() {
                cache.store(binary, key: key)
                let date = Date(timeIntervalSinceNow: Double(age) * 60 - 3600)
                try? FileManager.default.setAttributes([.modificationDate: date], ofItemAtPath: cache.file(key).path)
            }
            let kept = keys.map { cache.load($0) != nil }
            #expect(kept.last == true && kept.first == false)
            // The survivors are the newest.
            #expect(kept == kept.sorted { !$0 && $1 })
            let names = try FileManager.default.contentsOfDirectory(atPath: folder.url.path)
            #expect((2...11).contains(names.count))
        }

        @Test("every part changes the key, also where their concatenation is equal")
        func keys() throws {
            func key(_ s: String, _ o: String, _ p: String, _ d: String, _ v: String) -> String? {
                ProgramCache.key(source: s, options: o, platform: p, device: d, driverVersion: v)
            }
            let keys = [
                key("s", "o", "p", "d", "v"), key("S", "o", "p", "d", "v"), key("s", "O", "p", "d", "v"),
                key("s", "o", "P", "d", "v"), key("s", "o", "p", "D", "v"), key("s", "o", "p", "d", "V"),
                key("so", "", "p", "d", "v"), key("", "so", "p", "d", "v"),
            ]
            #expect(Set(keys.compactMap { $0 }).count == keys.count)
            #expect(key("s", "o", "p", "d", "v") == keys[0])
            #expect(keys[0]?.count == 64)
        }
    }
#endif
