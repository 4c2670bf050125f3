import Foundation
import GraftVision
import Testing

/// Names that a shell passes on although people fear them, and standard input in a file's place.
@Suite struct PathTests {
    static let small = ["--image-size", "32", "--resize", "32", "--device", "cpu", "--quiet"]

    /// A network that was trained in a folder whose name has spaces, accents and quotes.
    private static func trained() throws -> (folder: TemporaryFolder, weights: String) {
        let folder = try TemporaryFolder()
        for (label, name) in ["ombre d'été", "光 light"].enumerated() {
            for index in 0..<6 {
                try folder.write(
                    try Picture.png(label: label, index: index, width: 32, height: 32),
                    to: "my \"photos\"/\(name)/bild \(index) ä.png")
            }
        }
        let run = folder.path + "/läufe 1/-run"
        let result = try Graft.run(
            [
                "train", folder.path + "/my \"photos\"", "--model", "resnet20_cifar", "--epochs", "2", "--out=" + run,
                "--batch-size=4",
            ] + small)
        #expect(result.status == 0, "\(result.errors)")
        return (folder, run + "/last.safetensors")
    }

    @Test func namesWithSpacesAccentsAndDashes() throws {
        let (folder, weights) = try Self.trained()
        let data = folder.path + "/my \"photos\""
        let evaluation = try Graft.run(["evaluate", data, "--weights", weights, "--json"] + Self.small)
        #expect(evaluation.status == 0, "\(evaluation.errors)")
        let classes = try #require(try evaluation.json["classes"] as? [[String: Any]])
        #expect(classes.compactMap { $0["class"] as? String } == ["ombre d'été", "光 light"])

        // A file whose name begins with a dash: behind --, with a folder, or as an option's value.
        let picture = try Picture.png(label: 1, index: 3, width: 32, height: 32)
        try folder.write(picture, to: "-x ü.png")
        try FileManager.default.copyItem(
            at: URL(filePath: weights), to: folder.url.appending(path: "-w.safetensors"))
        let arguments = ["predict", "--weights=-w.safetensors", "--json"] + Self.small
        let behind = try Graft.run(arguments + ["--", "-x ü.png"], directory: folder.url)
        #expect(behind.status == 0, "\(behind.errors)")
        #expect(behind.output.contains("\"path\": \"-x ü.png\""))
        #expect(try Graft.run(arguments + ["./-x ü.png"], directory: folder.url).status == 0)
        let bare = try Graft.run(arguments + ["-x ü.png"], directory: folder.url)
        #expect(bare.status == 64)
        #expect(bare.errors.contains("there is a file of this name: give it behind --"), "\(bare.errors)")
        let spaced = try Graft.run(
            ["predict", "--weights", "-w.safetensors", "a.png"] + Self.small, directory: folder.url)
        #expect(spaced.status == 64)
        #expect(spaced.errors.contains("--weights=-w.safetensors"), "\(spaced.errors)")
    }

    @Test func standardInputIsAnImageOrAList() throws {
        let (folder, weights) = try Self.trained()
        let picture = try Picture.png(label: 1, index: 3, width: 32, height: 32)
        let path = try folder.write(picture, to: "same.png")
        let arguments = ["predict", "--weights", weights, "--json"] + Self.small
        let both = try Graft.run(arguments + [path, "-"], input: picture)
        #expect(both.status == 0, "\(both.errors)")
        let images = try #require(try both.json["images"] as? [[String: Any]])
        #expect(images.compactMap { $0["path"] as? String } == [path, "standard input"])
        #expect("\(images[0]["predictions"] ?? 0)" == "\(images[1]["predictions"] ?? 1)")

        let text = try Graft.run(arguments + ["-"], input: Array("no picture".utf8))
        #expect(text.status == 65)
        #expect(text.errors.contains("standard input: found text, expected JPEG or PNG"), "\(text.errors)")
        let nothing = try Graft.run(arguments + ["-"])
        #expect(nothing.status == 65)
        #expect(nothing.errors.contains("standard input: is empty"), "\(nothing.errors)")

        let data = folder.path + "/my \"photos\""
        let evaluate = ["evaluate", data, "--weights", weights, "--json", "--list", "-"] + Self.small
        let listed = try Graft.run(evaluate, input: Array("光 light/bild 2 ä.png\nombre d'été/bild 0 ä.png\t0\n".utf8))
        #expect(listed.status == 0, "\(listed.errors)")
        #expect(try listed.json["images"] as? Int == 2)
        let wrong = try Graft.run(evaluate, input: Array("光 licht/bild 2 ä.png\n".utf8))
        #expect(wrong.status == 65)
        #expect(
            wrong.errors.contains("standard input, line 1: no label, and '光 licht' is no class folder; near: 光 light"))
    }

    /// Faults of the file system in the system's words, without the sentences of a framework.
    @Test func faultsOfFilesAreSaidInTheSystemsWords() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 1)
        let file = try folder.write("{\"files\": [{\"path\": \"dark/0.png\"}]}".utf8, to: "lists/keys.json")
        let types = try folder.write(
            "{\"files\": [{\"path\": \"dark/0.png\", \"label\": \"a\"}]}".utf8, to: "lists/types.json")
        let noJSON = try folder.write("{\"files\": [".utf8, to: "lists/cut.json")
        let train = ["train", folder.path, "--model", "resnet20_cifar", "--out"]
        let out = folder.path + "/run"
        for (arguments, message) in [
            (
                train + [out, "--list", folder.path + "/none.txt"],
                "none.txt: cannot be read: No such file or directory"
            ),
            (train + [out, "--list", folder.path + "/dark"], "dark: cannot be read: Is a directory"),
            (train + [out, "--list", file], "found no files[0].label"),
            (train + [out, "--list", types], "found files[0].label that is no whole number"),
            (train + [out, "--list", noJSON], "found text that is no JSON"),
            (train + [file + "/run"], "Not a directory"),
            (train + ["/proc/none/run"], "No such file or directory"),
        ] {
            let result = try Graft.run(arguments + Self.small)
            #expect(result.status != 0)
            #expect(result.errors.contains(message), "\(result.errors)")
            for word in ["couldn", "NSError", "Domain", "operation", "DecodingError", "CodingKeys"] {
                #expect(!result.errors.contains(word), "\(result.errors)")
            }
        }
    }
}
