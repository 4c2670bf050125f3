#if OpenCL
    import Foundation
    import GraftOpenCL
    import Testing

    @Suite("Kernel sources")
    struct KernelSourcesTests {
        /// The repository, from this file's place in it.
        static let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
            .deletingLastPathComponent()

        @Test("every .cl file is embedded, whole")
        func tableMatchesFolder() throws {
            let folder = Self.root.appending(path: "Kernels/cl")
            let files = try FileManager.default.contentsOfDirectory(at: folder, includingPropertiesForKeys: nil)
                .filter { $0.pathExtension == "cl" }
            #expect(!files.isEmpty)
            let names = files.map { $0.deletingPathExtension().lastPathComponent }
            #expect(Set(names) == Set(KernelSources.texts.keys))
            for file in files {
                let text = try String(contentsOf: file, encoding: .utf8)
                #expect(KernelSources.texts[file.deletingPathExtension().lastPathComponent] == text, "\(file.path)")
                #expect(text.utf8.allSatisfy { $0 < 128 }, "\(file.path): OpenCL C 1.2 sources are ASCII")
            }
        }
    }
#endif
