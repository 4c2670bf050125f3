/// torchvision's published weights: the one table of their addresses.
public enum PretrainedWeights {
    /// Where torchvision publishes; `GRAFT_HUB` names a mirror with the same files.
    public static let publishedBase = "https://download.pytorch.org/models/"

    /// torchvision's `IMAGENET1K_V1` of each architecture. The digits before the extension begin the file's SHA-256.
    static let files: [String: String] = [
        "alexnet": "alexnet-owt-7be5be79.pth",
        "convnext_tiny": "convnext_tiny-983f1562.pth",
        "densenet121": "densenet121-a639ec97.pth",
        "efficientnet_b0": "efficientnet_b0_rwightman-7f5810bc.pth",
        "efficientnet_b1": "efficientnet_b1_rwightman-bac287d4.pth",
        "efficientnet_b2": "efficientnet_b2_rwightman-c35c1473.pth",
        "efficientnet_b3": "efficientnet_b3_rwightman-b3899882.pth",
        "mobilenet_v2": "mobilenet_v2-b0353104.pth",
        "mobilenet_v3_large": "mobilenet_v3_large-8738ca79.pth",
        "mobilenet_v3_small": "mobilenet_v3_small-047dcff4.pth",
        "regnet_y_400mf": "regnet_y_400mf-c65dace8.pth",
        "resnet101": "resnet101-63fe2227.pth",
        "resnet152": "resnet152-394f9c45.pth",
        "resnet18": "resnet18-f37072fd.pth",
        "resnet34": "resnet34-b627a593.pth",
        "resnet50": "resnet50-0676ba61.pth",
        "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
        "resnext101_64x4d": "resnext101_64x4d-173b62eb.pth",
        "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
        "squeezenet1_0": "squeezenet1_0-b66bff10.pth",
        "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
        "vgg11": "vgg11-8a719046.pth",
        "vgg11_bn": "vgg11_bn-6002323d.pth",
        "vgg13": "vgg13-19584684.pth",
        "vgg13_bn": "vgg13_bn-abd245e5.pth",
        "vgg16": "vgg16-397923af.pth",
        "vgg16_bn": "vgg16_bn-6c64b313.pth",
        "vgg19": "vgg19-dcbb9e9d.pth",
        "vgg19_bn": "vgg19_bn-c79401a0.pth",
        "wide_resnet101_2": "wide_resnet101_2-32ee1156.pth",
        "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
    ]

    /// The address of an architecture's published weights; nil where there are none.
    ///
    /// - Parameters:
    ///   - architecture: the architecture's name.
    ///   - base: where the files are, with or without a slash at the end.
    /// - Returns: the address.
    public static func address(of architecture: String, base: String = publishedBase) -> String? {
        files[architecture].map { base.hasSuffix("/") ? base + $0 : base + "/" + $0 }
    }
}
