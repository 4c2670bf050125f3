import Foundation
import Graft

/// `graft explain`
enum ExplainCommand {
    static let layer = Argument.optional(
        "layer", .text("L"), shownAs: "the last convolutional stage", example: "layer4",
        help: "Node whose outputs are looked at, by torchvision's names; earlier ones give finer maps.")
    static let classOption = Argument.optional(
        "class", .text("NAME"), shownAs: "each image's most probable one", example: "bee",
        help: "Class to explain, by name or number.")
    static let out = Argument.required(
        "out", .path("DIR"), placeholderValue: "", help: "Folder of the pictures; made if it is not there.")
    static let maps = Argument.optional(
        "maps", .path("F.npz"), shownAs: "none", example: "maps.npz",
        help: "Write the maps as numbers: maps [N, h, w], not scaled, with labels and paths.")

    static let command = Command(
        name: "explain",
        summary: "Show where in images a network sees a class (Grad-CAM).",
        discussion: """
            For each image a PNG: what the network saw, and beside it the same under a map, dark where nothing speaks for \
            the class, bright yellow where most does. The gradient of the class's score is computed by the same kernels \
            that train.
            """,
        examples: [
            "graft explain photo.jpg --weights runs/a/best.safetensors --out maps",
            "graft explain *.jpg --model squeezenet1_1 --weights squeezenet1_1.pth --class 308 --out maps",
        ],
        groups: [
            ArgumentGroup("Input", [PredictCommand.images]),
            ArgumentGroup(
                "Model", [Shared.requiredWeights, Shared.offline, Shared.modelOfWeights, Shared.classesFile]),
            ArgumentGroup("Map", [layer, classOption]),
            Shared.imageGroup,
            Shared.runGroup(seeded: false),
            ArgumentGroup("Output", [out, maps, Shared.quiet, Shared.json]),
        ],
        validate: { values throws(UsageError) in
            if let path = values[maps], !path.lowercased().hasSuffix(".npz") {
                throw UsageError("--maps \"\(path)\" does not end in .npz, the one format it is written in")
            }
        },
        run: run)

    private struct Result {
        var image: String
        var file: String
        var map: ClassActivation.Map
    }

    private static func run(_ values: ArgumentValues) throws {
        var network = try NetworkRequest.model(values)
        try NetworkRequest.applyImages(&network, values)
        let files = try DataRequest.files(values[PredictCommand.images])
        let names = try DataRequest.outputNames(of: network, values)
        let label = try values[classOption].map { try number(ofClass: $0, names: names, count: network.classCount) }
        let explainer = try ClassActivation(network, layer: values[layer], device: NetworkRequest.device(values))
        NetworkRequest.announce(explainer.deviceDescription, explainer.deviceNotes, values)
        NetworkRequest.note("layer: \(explainer.layer)", values)
        let folder = values[out]
        do {
            try createFolder(folder)
        } catch {
            throw CommandFailure(
                .cannotCreate, "cannot create the folder \(folder): \(systemReason(of: error)); choose another --out"
            )
        }
        let writer = try values[maps].map { try FeatureWriter($0, layers: ["maps"], classes: names ?? []) }

        let size = network.preprocessing.imageSize
        var taken: Set<String> = []
        var results: [Result] = []
        try DataRequest.forEachBatch(files, network, values, title: "explain") { batch in
            let found = try explainer.explain(pixels: batch.pixels, count: batch.count, label: label)
            for (row, map) in found.enumerated() {
                let image = files.samples[batch.sampleIndices[row]].path
                let pixels = Array(batch.pixels[row * size * size * 3..<(row + 1) * size * size * 3])
                let file = folder + "/" + newName(for: image, &taken)
                try map.overlay(on: pixels, imageSize: size).writePNG(to: file)
                results.append(Result(image: image, file: file, map: map))
            }
            if let writer {
                let shape = found.first?.values.shape.dimensions ?? []
                try writer.append(
                    ["maps": HostTensor(Shape([found.count] + shape), found.flatMap { $0.values.floats ?? [] })],
                    labels: found.map { Int32($0.label) },
                    paths: batch.sampleIndices.map { files.samples[$0].path })
            }
        }
        try writer?.finish()
        func name(_ label: Int) -> String { names.flatMap { label < $0.count ? $0[label] : nil } ?? "\(label)" }
        if values[Shared.json] {
            let entries = results.map { result -> JSON in
                [
                    "path": .string(result.image), "file": .string(result.file),
                    "class": .string(name(result.map.label)),
                    "label": .integer(result.map.label), "probability": .number(result.map.probability),
                    "predicted": .string(name(result.map.prediction)),
                ]
            }
            let json: JSON = [
                "model": .string(network.architecture.name), "layer": .string(explainer.layer),
                "device": .string(explainer.deviceDescription.selector), "images": .array(entries),
            ]
            try Console.result(json.pretty(levels: 2) + "\n")
            return
        }
        var table = Table([
            Table.Column(title: "image", isFlexible: true), Table.Column(title: "class", isFlexible: true),
            Table.Column(title: "probability", alignment: .right), Table.Column(title: "map", isFlexible: true),
        ])
        for result in results {
            table.rows.append([
                result.image, name(result.map.label), percent(result.map.probability), result.file,
            ])
        }
        try Console.result(table.text())
    }

    /// A class by its name, else by its number.
    private static func number(ofClass text: String, names: [String]?, count: Int) throws -> Int {
        if let names {
            let found = names.indices.filter { names[$0] == text }
            guard found.count < 2 else {
                throw CommandFailure(
                    .badData,
                    "--class \"\(text)\" names the outputs \(found.map(String.init).joined(separator: ", ")); give a number"
                )
            }
            if let first = found.first { return first }
        }
        if let number = Int(text), (0..<count).contains(number) { return number }
        let near = nearest(text, in: names ?? []).map { "; did you mean \"\($0)\"?" } ?? ""
        throw UsageError(
            "--class \"\(text)\" is no class of the network"
                + (names.map { ": it has \(DataRequest.list($0))" } ?? ", whose outputs have no names")
                + " (numbers 0 to \(count - 1))" + near)
    }

    /// The image's name with `.png`, with a number behind it where that is taken.
    private static func newName(for image: String, _ taken: inout Set<String>) -> String {
        let stem = URL(filePath: image).deletingPathExtension().lastPathComponent
        var name = stem
        var suffix = 1
        while !taken.insert(name).inserted {
            suffix += 1
            name = "\(stem)-\(suffix)"
        }
        return name + ".png"
    }
}
