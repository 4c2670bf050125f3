import Foundation
import Testing

@testable import GraftVision

@Suite struct DatasetTests {
    @Test func orderIsTorchvisions() throws {
        let folder = try TemporaryFolder()
        for path in [
            "b/2.JPG", "b/10.jpg", "b/note.txt", "b/x.gif", "B/é.png", "a b/z.jpeg", "a b/deep/y.PNG",
            "a b/deep-er/x.tiff",
            "a b/deep/er/w.webp", "a b/.hidden.bmp", "stray.png", "b/jpg", "b/.jpg",
        ] {
            try folder.write(path, [0])
        }
        let dataset = try ImageDataset(folder: folder.path)
        #expect(dataset.classes == ["B", "a b", "b"])
        // A folder's path sorts as a whole: "a b/deep-er" comes before "a b/deep/er".
        #expect(
            dataset.samples.map(\.path) == [
                "B/é.png", "a b/.hidden.bmp", "a b/z.jpeg", "a b/deep/y.PNG", "a b/deep-er/x.tiff",
                "a b/deep/er/w.webp",
                "b/.jpg", "b/10.jpg", "b/2.JPG",
            ])
        #expect(dataset.samples.map(\.label) == [0, 1, 1, 1, 1, 1, 2, 2, 2])
        #expect(dataset.path(of: 0) == folder.path + "/B/é.png")
        #expect(try ImageDataset(folder: folder.path, limit: 2).count == 2)
        #expect(try ImageDataset(folder: folder.path + "/", limit: 200).count == 9)
    }

    @Test func linksAreFollowedOnceOnTheWayDown() throws {
        let folder = try TemporaryFolder()
        try folder.write("c/1.png", [0])
        try folder.write("elsewhere-not-a-class.txt", [0])
        let outside = try TemporaryFolder()
        try outside.write("sub/2.png", [0])
        try folder.link("c/loop", to: "..")
        try folder.link("c/self", to: ".")
        try folder.link("c/out", to: outside.path)
        try folder.link("linked", to: outside.path)
        try folder.link("c/broken.png", to: "nowhere")
        let dataset = try ImageDataset(folder: folder.path)
        #expect(dataset.classes == ["c", "linked"])
        #expect(dataset.samples.map(\.path).contains("c/out/sub/2.png"))
        #expect(dataset.samples.map(\.path).contains("linked/sub/2.png"))
        #expect(dataset.samples.map(\.path).contains("c/broken.png"))
        #expect(dataset.count < 20)
    }

    @Test func errorsSayWhatIsWrong() throws {
        let folder = try TemporaryFolder()
        #expect(throws: ImageDatasetError.folderNotFound(folder.path + "/none")) {
            try ImageDataset(folder: folder.path + "/none")
        }
        #expect(throws: ImageDatasetError.noClasses(folder.path, imageCount: 0)) {
            try ImageDataset(folder: folder.path)
        }
        try folder.write("flat.jpg", [0])
        #expect(throws: ImageDatasetError.notAFolder(folder.path + "/flat.jpg")) {
            try ImageDataset(folder: folder.path + "/flat.jpg")
        }
        #expect(throws: ImageDatasetError.noClasses(folder.path, imageCount: 1)) {
            try ImageDataset(folder: folder.path)
        }
        try folder.makeFolder("empty")
        #expect(throws: ImageDatasetError.noImages(folder.path)) { try ImageDataset(folder: folder.path) }
        try folder.write("full/a.png", [0])
        try folder.write("text/a.txt", [0])
        #expect(throws: ImageDatasetError.emptyClasses(folder.path, ["empty", "text"])) {
            try ImageDataset(folder: folder.path)
        }
        let allowed = try ImageDataset(folder: folder.path, emptyClasses: .allow)
        #expect(allowed.classes == ["empty", "full", "text"])
        #expect(allowed.samples.map(\.label) == [1])
        for error in [
            ImageDatasetError.folderNotFound("f"), .noClasses("f", imageCount: 2), .emptyClasses("f", ["e"]),
            .noImages("f"),
            .badList("f", line: 3, reason: "r"), .unreadable("f", reason: "r"), .notAFolder("f"),
        ] {
            #expect(error.description.hasPrefix("f"))
        }
    }

    @Test func lists() throws {
        let folder = try TemporaryFolder()
        try folder.makeFolder("ants")
        try folder.makeFolder("bees")
        try folder.write(
            "list.txt", Array("# comment\nbees/b.png\t1\r\n\nants/a b.png\nbees/c.png\t\nants/d.png\t7\n".utf8))
        let dataset = try ImageDataset(folder: folder.path, list: folder.path + "/list.txt")
        #expect(dataset.classes == ["ants", "bees"])
        #expect(
            dataset.samples == [
                ImageSample(path: "bees/b.png", label: 1), ImageSample(path: "ants/a b.png", label: 0),
                ImageSample(path: "bees/c.png", label: 1), ImageSample(path: "ants/d.png", label: 7),
            ])
        #expect(try ImageDataset(folder: folder.path, list: folder.path + "/list.txt", limit: 3).count == 3)

        let json = #"{"data": "x", "classes": ["p", "q"], "files": [{"path": "q/1.png", "label": 1}]}"#
        try folder.write("list.json", Array(json.utf8))
        let fromJSON = try ImageDataset(folder: folder.path, list: folder.path + "/list.json")
        #expect(fromJSON.samples == [ImageSample(path: "q/1.png", label: 1)])
        // What a list states wins; what it is called says nothing.
        #expect(fromJSON.classes == ["p", "q"])
        try folder.write("list", Array(json.utf8))
        #expect(try ImageDataset(folder: folder.path, list: folder.path + "/list").samples == fromJSON.samples)
        try folder.write("marked.txt", [0xEF, 0xBB, 0xBF] + Array("bees/b.png\n".utf8))
        #expect(
            try ImageDataset(folder: folder.path, list: folder.path + "/marked.txt").samples == [
                ImageSample(path: "bees/b.png", label: 1)
            ])
        let flat = try TemporaryFolder()
        #expect(try ImageDataset(folder: flat.path, list: folder.path + "/list.json").classes == ["p", "q"])

        // A list over a split names files of either part; the classes are those within.
        let split = try TemporaryFolder()
        for name in ["train/ants", "train/bees", "val/ants", "val/bees"] { try split.makeFolder(name) }
        try split.write("list.txt", Array("train/bees/b.png\t1\nval/ants/a.png\t0\n".utf8))
        #expect(try ImageDataset(folder: split.path, list: split.path + "/list.txt").classes == ["ants", "bees"])

        // bees, ants, bees.
        let relabelled = dataset.subset([0, 1, 2]).relabelled([2, 4], classes: ["a", "b", "ants", "c", "bees"])
        #expect(relabelled.samples.map(\.label) == [4, 2, 4])
        #expect(relabelled.samples.map(\.path) == ["bees/b.png", "ants/a b.png", "bees/c.png"])
        #expect(relabelled.classes.count == 5)

        let bad: [(String, String)] = [
            ("ant/a.png\n", "near: ants"), ("ants/a.png\tone\n", "label 'one'"), ("ants/a.png\t-1\n", "label '-1'"),
            ("\t1\n", "no path"), ("ants/a.png\t99999999999999999999\n", "label"),
        ]
        for (text, reason) in bad {
            try folder.write("bad.txt", Array(("#\n" + text).utf8))
            let error = #expect(throws: ImageDatasetError.self) {
                try ImageDataset(folder: folder.path, list: folder.path + "/bad.txt")
            }
            #expect(error?.description.contains("line 2") == true, "\(text)")
            #expect(error?.description.contains(reason) == true, "\(String(describing: error))")
        }
        for text in [
            "{", "[]", #"{"files": [{"path": "a"}]}"#, #"{"files": [{"path": "", "label": 0}]}"#, #"{"files": []}"#,
        ] {
            try folder.write("bad.json", Array(text.utf8))
            #expect(throws: ImageDatasetError.self, "\(text)") {
                try ImageDataset(folder: folder.path, list: folder.path + "/bad.json")
            }
        }
        #expect(throws: ImageDatasetError.unreadable(folder.path + "/no.txt", reason: "no such file")) {
            try ImageDataset(folder: folder.path, list: folder.path + "/no.txt")
        }
    }

    @Test(
        .enabled(if: TestData.shared != nil, "needs the shared data"),
        arguments: [
            ("cifar10_train_first320", "cifar10/train", 320), ("hymenoptera64_png", "hymenoptera64_png", 80),
            ("hymenoptera_train_all", "hymenoptera/train", 244), ("hymenoptera_train_first80", "hymenoptera/train", 80),
        ])
    func referenceLists(name: String, data: String, count: Int) throws {
        let folder = try TestData.sharedPath("data/" + data)
        let list = try TestData.sharedPath("reference/lists/" + name)
        let text = try ImageDataset(folder: folder, list: list + ".txt")
        let json = try ImageDataset(folder: folder, list: list + ".json")
        #expect(text.samples == json.samples)
        #expect(text.count == count)
        #expect(text.classes == json.classes)
        #expect(text.samples.indices.allSatisfy { FileManager.default.fileExists(atPath: text.path(of: $0)) })
    }

    @Test func subsetsKeepPicturesAndLabels() throws {
        let images = (1...4).map { formula($0, $0) }
        let dataset = ImageDataset(images: images, labels: [0, 1, 0, 1], classes: ["x", "y"])
        let subset = dataset.subset([3, 0])
        #expect(subset.samples.map(\.label) == [1, 0])
        let loader = BatchLoader(
            dataset: subset, order: [0, 1], preprocessing: try ImagePreprocessing(imageSize: 4, resize: nil))
        let batch = try #require(try loader.next())
        #expect(Array(batch.pixels.prefix(48)) == images[3].pixels)
        #expect(try loader.next() == nil)
    }
}
