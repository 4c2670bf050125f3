import Foundation
import Testing

/// The house rules that the compiler does not hold: who imports whom, what no source may contain.
@Suite struct LayeringTests {
    /// For each module of `Sources`, the modules of ours that it may import. `Foundation`, `Synchronization` and the C
    /// library are free.
    static let allowedImports: [String: Set<String>] = [
        "GraftTensor": [],
        "GraftGraph": ["GraftTensor"],
        "GraftCPUKernels": ["GraftCPUKernelInterface", "CSystemSupport"],
        "GraftCPU": [
            "GraftTensor", "GraftGraph", "CSystemSupport", "GraftCPUKernelInterface", "GraftCPUKernelsBaseline",
            "GraftCPUKernelsAVX2", "GraftCPUKernelsAVX512",
        ],
        "GraftOpenCL": ["GraftTensor", "GraftGraph", "GraftKernels", "COpenCL", "CSystemSupport"],
        "GraftCheckpoint": ["GraftTensor", "CSystemSupport"],
        "GraftONNX": ["GraftTensor", "GraftGraph"],
        "GraftVision": ["GraftTensor", "CImageCodecs"],
        "BackendConformance": ["GraftTensor", "GraftGraph"],
        "Graft": [
            "GraftTensor", "GraftGraph", "GraftCPU", "GraftOpenCL", "GraftCheckpoint", "GraftONNX", "GraftVision",
            "CSystemSupport", "CDemoWeights", "BackendConformance",
        ],
        "GraftCLI": ["Graft"],
    ]

    static let freeImports: Set<String> = [
        "Foundation", "FoundationEssentials", "Dispatch", "Synchronization", "Glibc", "Musl", "Darwin", "Swift",
    ]

    @Test func everyModuleImportsOnlyWhatTheTableAllows() throws {
        for file in try Repository.swiftSources {
            let module = try #require(file.path.split(separator: "/").dropFirst().first.map(String.init))
            let allowed = try #require(Self.allowedImports[module], "\(module) is not in the table of imports")
            for name in file.imports where !Self.freeImports.contains(name) {
                #expect(allowed.contains(name), "\(file.path) imports \(name), which \(module) may not")
            }
        }
    }

    @Test func everyModuleOfTheTableExists() throws {
        let found = Set(try Repository.swiftSources.compactMap { $0.path.split(separator: "/").dropFirst().first })
        #expect(found == Set(Self.allowedImports.keys.map { Substring($0) }))
    }

    @Test(arguments: ["fatalError(", "try!", " as! "])
    func noSourceContains(_ word: String) throws {
        for file in try Repository.swiftSources {
            for (number, line) in file.codeLines where line.contains(word) {
                Issue.record("\(file.path):\(number) contains \(word)")
            }
        }
    }

    /// A file that names a folder of the machine it was written on works nowhere else.
    @Test func noFileNamesAMachinePath() throws {
        let beginnings = ["home", "root", "Users", "work", "tmp", "mnt"].map { "/" + $0 + "/" }
        for file in try Repository.textFiles {
            for (number, line) in file.numberedLines {
                for beginning in beginnings where line.containsPath(beginning) {
                    Issue.record("\(file.path):\(number) names a path under \(beginning): \(line)")
                }
            }
        }
    }

    /// Nothing below `Graft` knows which backends there are.
    @Test func onlyGraftAndTheBackendsNameABackend() throws {
        let neutral: Set<Substring> = [
            "GraftTensor", "GraftGraph", "GraftCheckpoint", "GraftONNX", "GraftVision", "BackendConformance",
        ]
        for file in try Repository.swiftSources {
            guard let module = file.path.split(separator: "/").dropFirst().first, neutral.contains(module) else {
                continue
            }
            for (number, line) in file.codeLines {
                for name in ["GraftCPU", "GraftOpenCL", "OpenCLBackend", "CPUBackend"] where line.contains(name) {
                    Issue.record("\(file.path):\(number) names \(name)")
                }
            }
        }
    }

    /// The client package runs what README.md shows, so both must be the same text.
    @Test(arguments: [("Recipe 1", "PartialFineTuning"), ("Recipe 2", "FeatureExtraction")])
    func theClientPackageRunsTheReadmesSnippets(_ recipe: String, _ file: String) throws {
        let readme = try Repository.text(of: "README.md")
        let section = try #require(
            readme.components(separatedBy: "\n## ").first { $0.hasPrefix(recipe) }, "README.md has no section \(recipe)"
        )
        let start = try #require(section.range(of: "```swift\n"))
        let end = try #require(section[start.upperBound...].range(of: "```"))
        func lines(_ text: some StringProtocol) -> [Substring] {
            text.split(separator: "\n").map { line in
                Substring(line).drop { $0 == " " }
            }.filter { $0 != "import Graft" && !$0.isEmpty }
        }
        // A client does something with what a loop gives; the snippet's own lines stand in order without a gap before.
        let snippet = lines(section[start.upperBound..<end.lowerBound]).reversed().drop { $0 == "}" }.reversed()
        let client = lines(try Repository.text(of: "Tests/ClientPackage/Sources/Client/\(file).swift"))
        #expect(snippet.count > 3)
        let isThere = client.indices.contains { client[$0...].starts(with: snippet) }
        #expect(isThere, "the snippet of \(recipe) is not in \(file).swift; change both together")
    }

    @Test func everyKernelFileIsEmbedded() throws {
        let table = try Repository.text(of: "Kernels/kernel_sources.c")
        let files = try Repository.files(under: "Kernels/cl").filter { $0.hasSuffix(".cl") }
        #expect(!files.isEmpty)
        for path in files {
            let name = path.split(separator: "/").dropFirst().joined(separator: "/")
            #expect(table.contains("#embed \"\(name)\""), "\(path) is not listed in Kernels/kernel_sources.c")
        }
    }

    @Test func theRootHoldsOnlyWhatItShould() throws {
        let expected: Set<String> = [
            "Package.swift", "Sources", "Kernels", "Tests", "README.md", "LICENSE", "CHANGELOG.md",
        ]
        let ignored = Set(["Package.resolved"])
        for name in try FileManager.default.contentsOfDirectory(atPath: Repository.root.path)
        where !name.hasPrefix(".") && !ignored.contains(name) && !name.hasSuffix(".o") {
            #expect(expected.contains(name), "\(name) does not belong in the root")
        }
    }
}

/// The repository's files, found from this file's place.
enum Repository {
    struct TextFile {
        /// Relative to the root.
        var path: String
        var text: String

        var numberedLines: [(number: Int, line: Substring)] {
            text.split(separator: "\n", omittingEmptySubsequences: false).enumerated().map {
                ($0.offset + 1, $0.element)
            }
        }

        /// The lines that are not comments.
        var codeLines: [(number: Int, line: Substring)] {
            numberedLines.filter { !$0.line.drop { $0 == " " }.hasPrefix("//") }
        }

        /// The modules that the file imports.
        var imports: [String] {
            codeLines.compactMap { _, line in
                var words = line.split(whereSeparator: { $0 == " " })
                guard let position = words.firstIndex(of: "import"), position + 1 < words.count else { return nil }
                guard words[..<position].allSatisfy({ $0.hasPrefix("@") || Self.modifiers.contains($0) }) else {
                    return nil
                }
                words.removeFirst(position + 1)
                if words.count > 1, Self.kinds.contains(words[0]) { words.removeFirst() }
                return words.first?.split(separator: ".").first.map(String.init)
            }
        }

        private static let modifiers: Set<Substring> = ["public", "package", "internal", "fileprivate", "private"]
        private static let kinds: Set<Substring> = [
            "struct", "class", "enum", "func", "protocol", "typealias", "let", "var",
        ]
    }

    static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    static func text(of path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    /// Paths of all files under a folder, relative to the root, sorted.
    static func files(under folder: String) throws -> [String] {
        let names = try FileManager.default.subpathsOfDirectory(atPath: root.appending(path: folder).path)
        return names.sorted().map { folder + "/" + $0 }.filter {
            var isFolder: ObjCBool = false
            return FileManager.default.fileExists(atPath: root.appending(path: $0).path, isDirectory: &isFolder)
                && !isFolder.boolValue
        }
    }

    static var swiftSources: [TextFile] {
        get throws {
            let paths = try files(under: "Sources").filter { $0.hasSuffix(".swift") }
            try #require(paths.count > 20, "the sources were not found under \(root.path)")
            return try paths.map { TextFile(path: $0, text: try text(of: $0)) }
        }
    }

    /// Every text file of the package, this one excepted.
    static var textFiles: [TextFile] {
        get throws {
            let endings = [".swift", ".c", ".h", ".cl", ".md", ".yml", ".sh", "/run"]
            var paths = try ["Sources", "Kernels", "Tests", ".ci", ".github"].flatMap { try files(under: $0) }
            paths += ["Package.swift", "README.md", "CHANGELOG.md"].filter {
                FileManager.default.fileExists(atPath: root.appending(path: $0).path)
            }
            return try paths.filter { path in endings.contains { path.hasSuffix($0) } }
                .map { TextFile(path: $0, text: try text(of: $0)) }
        }
    }
}

extension Substring {
    /// Whether a path with this beginning stands in the line: at its start, or after something that is no part of a path.
    fileprivate func containsPath(_ beginning: String) -> Bool {
        var rest = self
        while let range = rest.range(of: beginning) {
            let before = range.lowerBound > startIndex ? self[index(before: range.lowerBound)] : " "
            if !before.isLetter, !before.isNumber, !"._-}/)".contains(before) { return true }
            rest = rest[range.upperBound...]
        }
        return false
    }
}
