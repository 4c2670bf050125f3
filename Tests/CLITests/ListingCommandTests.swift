import Foundation
import Testing

@Suite struct ListingCommandTests {
    @Test func withoutOpenCLTheOnlyDeviceIsTheProcessor() throws {
        let empty = try TemporaryFolder()
        let environment = ["OCL_ICD_VENDORS": empty.path]
        let result = try Graft.run(["devices", "--json"], environment: environment)
        #expect(result.status == 0)
        let devices = try #require(try result.json["devices"] as? [[String: Any]])
        #expect(devices.map { $0["selector"] as? String } == ["cpu"])
        #expect(devices.first?["accepted"] as? Bool == true)
        #expect(try (result.json["note"] as? String)?.isEmpty == false)

        let table = try Graft.run(["devices"], environment: environment)
        #expect(table.status == 0)
        #expect(table.output.contains("note: "))
        #expect(table.output.contains("\ncpu "))
    }

    @Test func withoutOpenCLAutomaticFallsBackWithOneWarningAndByNameIsAnError() throws {
        let environment = ["OCL_ICD_VENDORS": try TemporaryFolder().path]
        let bench = ["bench", "--model", "resnet20_cifar", "--mode", "infer", "--batch-size", "1", "--repeats", "1"]
        let automatic = try Graft.run(bench + ["--device", "auto", "--json"], environment: environment)
        #expect(automatic.status == 0)
        #expect(try automatic.json["device"] as? String == "cpu")
        #expect(automatic.errors.components(separatedBy: "warning: ").count == 2, "\(automatic.errors)")
        for name in ["opencl", "gpu", "opencl:0"] {
            let named = try Graft.run(bench + ["--device", name], environment: environment)
            #expect(named.status == 69)
            #expect(named.output.isEmpty)
            #expect(named.errors.hasPrefix("error: "))
        }
    }

    @Test func thereIsNothingToTuneOnTheProcessor() throws {
        let result = try Graft.run(["tune", "--device", "cpu", "--json"])
        #expect(result.status == 0)
        #expect(try (result.json["nothing_to_tune"] as? String)?.contains("only the GPU class") == true)
        #expect(try (result.json["shapes"] as? [Any])?.isEmpty == true)
        let text = try Graft.run(["tune", "--device", "cpu"])
        #expect(text.status == 0)
        #expect(text.output.hasPrefix("nothing to tune: cpu "))
        #expect(try Graft.run(["tune", "--seconds", "0"]).status == 64)
        let absent = try Graft.run(
            ["tune", "--device", "gpu"], environment: ["OCL_ICD_VENDORS": try TemporaryFolder().path])
        #expect(absent.status == 69)
    }

    /// The GPU class on whatever OpenCL device there is, with the shortest time: the first shape with its default.
    @Test func tuningStoresWhatItFound() throws {
        let devices = try #require(try Graft.run(["devices", "--json"]).json["devices"] as? [[String: Any]])
        guard devices.contains(where: { $0["accepted"] as? Bool == true && $0["selector"] as? String != "cpu" }) else {
            return
        }
        let cache = try TemporaryFolder()
        let environment = ["GRAFT_OPENCL_KERNELS": "gpu", "GRAFT_CACHE": cache.path]
        let result = try Graft.run(
            ["tune", "--device", "opencl", "--seconds", "1", "--json"], environment: environment)
        #expect(result.status == 0, "\(result.errors)")
        let shapes = try #require(try result.json["shapes"] as? [[String: Any]])
        #expect(!shapes.isEmpty)
        for shape in shapes {
            #expect(try #require(shape["default_ms"] as? Double) > 0)
            #expect(try #require(shape["ratio"] as? Double) <= 1)
        }
        #expect(try #require(try result.json["skipped"] as? Int) > 0)
        let file = try #require(try result.json["file"] as? String)
        #expect(file.hasPrefix(cache.path) && file.hasSuffix(".tuning"))
        #expect(FileManager.default.fileExists(atPath: file))
        #expect(try result.json["kernels"] as? String == "gpu-class")

        let unwritable = try Graft.run(
            ["tune", "--device", "opencl", "--seconds", "1"],
            environment: ["GRAFT_OPENCL_KERNELS": "gpu", "GRAFT_CACHE": file])
        #expect(unwritable.status == 73)
        #expect(unwritable.errors.contains("GRAFT_CACHE"))
    }

    @Test func modelsListsEveryArchitecture() throws {
        let result = try Graft.run(["models", "--json"])
        #expect(result.status == 0)
        let models = try #require(try result.json["models"] as? [[String: Any]])
        let names = Set(models.compactMap { $0["name"] as? String })
        for name in [
            "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2",
            "resnext50_32x4d", "resnext101_32x8d", "vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn",
            "vgg19", "vgg19_bn", "alexnet", "squeezenet1_0", "squeezenet1_1", "resnet20_cifar", "resnet32_cifar",
            "resnet44_cifar", "resnet56_cifar", "resnet110_cifar", "mobilenet_v2", "mobilenet_v3_small",
            "mobilenet_v3_large", "densenet121", "efficientnet_b0", "efficientnet_b1", "efficientnet_b2",
            "efficientnet_b3", "regnet_y_400mf",
        ] {
            #expect(names.contains(name), "\(name) is missing")
        }
        // Published parameter counts (torchvision's documentation).
        let counts = Dictionary(
            uniqueKeysWithValues: models.map { ($0["name"] as? String ?? "", $0["parameters"] as? Int ?? 0) })
        #expect(counts["resnet18"] == 11_689_512)
        #expect(counts["resnet50"] == 25_557_032)
        #expect(counts["vgg16"] == 138_357_544)
        #expect(counts["alexnet"] == 61_100_840)
        #expect(counts["squeezenet1_1"] == 1_235_496)
        #expect(counts["resnext50_32x4d"] == 25_028_904)
        #expect(counts["mobilenet_v2"] == 3_504_872)
        #expect(counts["mobilenet_v3_small"] == 2_542_856)
        #expect(counts["mobilenet_v3_large"] == 5_483_032)
        #expect(counts["densenet121"] == 7_978_856)
        #expect(counts["efficientnet_b0"] == 5_288_548)
        #expect(counts["efficientnet_b3"] == 12_233_232)
        #expect(counts["regnet_y_400mf"] == 4_344_144)
        let hub = Dictionary(uniqueKeysWithValues: models.map { ($0["name"] as? String ?? "", $0["hub"] as? String) })
        #expect(hub["resnet18"] == "https://download.pytorch.org/models/resnet18-f37072fd.pth")
        #expect(hub["resnet20_cifar"] == .some(nil))
        let table = try Graft.run(["models"])
        #expect(table.output.contains("11,689,512"))
        #expect(table.output.split(separator: "\n").allSatisfy { $0.count <= 100 })
    }

    @Test func summaryShowsWhatTrains() throws {
        let result = try Graft.run([
            "summary", "resnet18", "--classes", "10", "--freeze", "all", "--unfreeze", "layer3,fc", "--batch-size", "8",
            "--json",
        ])
        #expect(result.status == 0, "\(result.errors)")
        let summary = try result.json
        #expect(summary["parameters"] as? Int == 11_181_642)
        // layer3 has 2,099,712 parameters and the head 5,130 (PyTorch).
        #expect(summary["trainable_parameters"] as? Int == 2_099_712 + 5_130)
        // 1.81 GMACs an image (torchvision's documentation).
        let work = try #require(summary["macs"] as? Int)
        #expect((1.80e9...1.83e9).contains(Double(work) / 8))
        #expect(try #require(summary["training_bytes"] as? Int) > 0)
        let nodes = try #require(summary["nodes"] as? [[String: Any]])
        let backward = Dictionary(
            nodes.map { ($0["node"] as? String ?? "", $0["backward"] as? String ?? "") },
            uniquingKeysWith: { a, _ in a })
        #expect(backward["conv1"] == "")
        #expect(backward["layer2.1.conv2"] == "")
        #expect(backward["layer3.0.conv1"] == "dW")
        #expect(backward["layer3.0.conv2"] == "dW, dx")
        #expect(backward["layer4.0.conv1"] == "dx")
        #expect(backward["fc"] == "dW, dx")
        let table = try Graft.run(["summary", "resnet18", "--freeze", "backbone"])
        #expect(table.output.split(separator: "\n").allSatisfy { $0.count <= 100 })
        #expect(table.output.contains("parameters: 11,689,512, of these trainable: 513,000"))
    }

    @Test func misspelledNamesGetNearMatches() throws {
        let model = try Graft.run(["summary", "resnet81"])
        #expect(model.status == 64)
        #expect(model.errors.contains("resnet18"))
        let layer = try Graft.run(["summary", "resnet18", "--freeze", "layer5"])
        #expect(layer.status == 64)
        #expect(layer.errors.contains("layer4"))
    }

    @Test(arguments: ["infer", "train"]) func aProfileNamesEveryNodeAndTheDevicesLimits(_ mode: String) throws {
        let arguments = [
            "bench", "--model", "resnet20_cifar", "--mode", mode, "--batch-size", "2", "--repeats", "2", "--profile",
            "--device", "cpu",
        ]
        let result = try Graft.run(arguments + ["--json"])
        #expect(result.status == 0, "\(result.errors)")
        let profile = try #require(try result.json["profile"] as? [String: Any])
        #expect((profile["limit_gflops"] as? Double ?? 0) > 0)
        #expect((profile["limit_gbytes_per_second"] as? Double ?? 0) > 0)
        let nodes = try #require(profile["nodes"] as? [[String: Any]])
        #expect(
            nodes.contains { $0["node"] as? String == "layer3.2.relu_1" || $0["node"] as? String == "layer3.2.conv2" })
        #expect(nodes.allSatisfy { ($0["ms"] as? Double ?? -1) >= 0 && $0["share_of_limit"] is Double })
        let least = try #require(try result.json["device_bytes_least"] as? Int)
        let used = try #require(try result.json["device_bytes"] as? Int)
        #expect(least > 0 && least <= used)
        let text = try Graft.run(arguments)
        #expect(text.output.contains("of limit") && text.output.contains("limits measured on this device"))
        #expect(text.output.split(separator: "\n").allSatisfy { $0.count <= 120 })
    }

    @Test(arguments: [[], ["--fast-decode"]]) func benchReadsImages(_ extra: [String]) throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 3)
        let result = try Graft.run(
            ["bench", "--mode", "read", "--data", folder.path, "--repeats", "2", "--threads", "2", "--json"] + extra)
        #expect(result.status == 0, "\(result.errors)")
        let line = try result.json
        #expect(line["images"] as? Int == 6)
        #expect(line["fast_decode"] as? Bool == !extra.isEmpty)
        #expect(line["output"] as? String == "uint8")
        #expect(try #require(line["ms_per_image_min"] as? Double) > 0)
    }

    @Test(arguments: ["infer", "train"]) func benchPrintsTheKeysOfThePeers(_ mode: String) throws {
        let result = try Graft.run([
            "bench", "--model", "resnet20_cifar", "--mode", mode, "--batch-size", "2", "--repeats", "3", "--device",
            "cpu",
            "--json",
        ])
        #expect(result.status == 0, "\(result.errors)")
        #expect(result.output.split(separator: "\n").count == 1)
        let line = try result.json
        for key in ["peer", "model", "mode", "batch", "image_size", "threads", "repeats", "precision", "cpu"] {
            #expect(line[key] != nil, "\(key) is missing")
        }
        #expect(line["image_size"] as? Int == 32)
        #expect((line["trainable"] as? String) == (mode == "train" ? "all" : nil))
        let minimum = try #require(line["ms_per_image_min"] as? Double)
        let median = try #require(line["ms_per_image_median"] as? Double)
        #expect(minimum > 0 && minimum <= median)
    }
}
