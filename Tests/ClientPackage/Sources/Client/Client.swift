import Foundation
import Graft

/// Runs what README.md shows in a folder of its own, and checks what came of it.
@main struct Client {
    struct Failure: Error {
        var message: String
    }

    static func main() async throws {
        let manager = FileManager.default
        let folder = manager.temporaryDirectory.appending(path: "graft-client-\(UUID().uuidString)")
        try manager.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? manager.removeItem(at: folder) }
        guard manager.changeCurrentDirectoryPath(folder.path) else { throw Failure(message: "no folder to work in") }
        try writeInputs()

        try partialFineTuning()
        let model = try Model("resnet18", weights: "out.safetensors")
        try expect(model.classCount == 10, "the head has \(model.classCount) classes")
        let before = try Model.resNet18(weights: "resnet18.pth").state
        for name in ["conv1.weight", "layer4.1.conv2.weight", "bn1.running_mean"] {
            try expect(model.state[name] == before[name], "\(name) was frozen and has changed")
        }
        for name in ["layer3.0.conv1.weight", "layer3.1.bn2.bias"] {
            try expect(model.state[name] != before[name], "\(name) was unfrozen and has not changed")
        }

        var shapes: Set<String> = []
        try featureExtraction(model) { features in
            for (layer, tensor) in features { shapes.insert("\(layer) \(tensor.shape)") }
        }
        try expect(
            shapes == ["avgpool [4, 512, 1, 1]", "layer3 [4, 256, 14, 14]"], "the features are \(shapes.sorted())")

        let own = try ownPictures()
        try expect(own.accuracy == 1, "accuracy \(own.accuracy) on two colours")
        try expect(own.callbackLoss < 0.7, "the callback saw the loss \(own.callbackLoss)")

        let cancelled = try await cancelledRun()
        try expect(
            cancelled.seenSteps >= 3 && cancelled.trainerSteps - cancelled.seenSteps <= 1,
            "\(cancelled.seenSteps) steps seen, \(cancelled.trainerSteps) taken")

        let devices = Device.all().devices.map(\.description.selector)
        #if OpenCL
            try expect(BuildInformation.hasOpenCL, "the trait OpenCL did not reach Graft")
        #else
            try expect(!BuildInformation.hasOpenCL && devices == ["cpu"], "Graft was built with OpenCL: \(devices)")
        #endif
        print("both recipes, own pictures and a cancelled run are as they should be; devices: \(devices)")
    }

    static func expect(_ condition: Bool, _ message: @autoclosure () -> String) throws {
        guard condition else { throw Failure(message: message()) }
    }

    /// ResNet-18 with random weights under a PyTorch file's name, and four small pictures for each part of the data.
    private static func writeInputs() throws {
        try Model("resnet18", seed: 1).save("resnet18.pth")
        for (part, count) in [("train", 2), ("val", 1)] {
            for (label, name) in ["ants", "bees"].enumerated() {
                let folder = "photos/\(part)/\(name)"
                try FileManager.default.createDirectory(atPath: folder, withIntermediateDirectories: true)
                for index in 0..<count {
                    let image = RGBImage(
                        width: 40, height: 30, red: UInt8(60 + 120 * label), green: UInt8(40 * index), blue: 90)
                    try Data(ImageCodec.encodePNG(image)).write(to: URL(filePath: "\(folder)/\(index).png"))
                }
            }
        }
    }
}
