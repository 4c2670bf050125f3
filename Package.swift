// swift-tools-version: 6.2
import PackageDescription

/// Settings of every Swift target: Swift 6 mode, explicit existentials, imports that say what they use.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
    .treatAllWarnings(as: .error),
]

/// The Swift kernels are built optimised in debug too: tests run real networks.
func kernelSettings(flags: [String]) -> [SwiftSetting] {
    [.unsafeFlags(["-Ounchecked", "-enforce-exclusivity=unchecked"] + flags)]
}

#if arch(x86_64)
    /// One source, built once per instruction set; `GraftCPU` chooses at run time.
    let kernelVariants: [(name: String, flags: [String])] = [
        ("GraftCPUKernelsBaseline", []),
        ("GraftCPUKernelsAVX2", ["-D", "GRAFT_AVX2", "-target-cpu", "haswell"]),
        ("GraftCPUKernelsAVX512", ["-D", "GRAFT_AVX512", "-target-cpu", "skylake-avx512"]),
    ]
#else
    let kernelVariants: [(name: String, flags: [String])] = [("GraftCPUKernelsBaseline", [])]
#endif

var targets: [Target] = [
    // C
    .target(name: "COpenCL"),
    .target(
        name: "CImageCodecs",
        linkerSettings: [.linkedLibrary("jpeg"), .linkedLibrary("png")]),
    .target(name: "CDemoWeights", exclude: ["resnet8_cifar.safetensors"]),
    .target(
        name: "CSystemSupport",
        linkerSettings: [
            .linkedLibrary("crypto"), .linkedLibrary("z"), .linkedLibrary("dl", .when(platforms: [.linux])),
        ]),
    .target(
        name: "GraftKernels", path: "Kernels", exclude: ["cl"], cSettings: [.unsafeFlags(["-Wno-c23-extensions"])]),

    // Swift
    .target(name: "GraftTensor", linkerSettings: [.linkedLibrary("m", .when(platforms: [.linux]))]),
    .target(name: "GraftGraph", dependencies: ["GraftTensor"]),
    .target(
        name: "GraftCPU",
        dependencies: ["GraftTensor", "GraftGraph", "CSystemSupport", "GraftCPUKernelInterface"]
            + kernelVariants.map { .target(name: $0.name) }),
    .target(
        name: "GraftOpenCL",
        dependencies: ["GraftTensor", "GraftGraph", "GraftKernels", "COpenCL", "CSystemSupport"]),
    .target(name: "GraftCheckpoint", dependencies: ["GraftTensor", "CSystemSupport"]),
    .target(name: "GraftONNX", dependencies: ["GraftTensor", "GraftGraph"]),
    .target(name: "GraftVision", dependencies: ["GraftTensor", "CImageCodecs"]),
    .target(name: "BackendConformance", dependencies: ["GraftTensor", "GraftGraph"]),
    .target(
        name: "Graft",
        dependencies: [
            "GraftTensor", "GraftGraph", "BackendConformance", "GraftCPU", "GraftCheckpoint", "GraftONNX",
            "GraftVision", "CSystemSupport",
            "CDemoWeights", .target(name: "GraftOpenCL", condition: .when(traits: ["OpenCL"])),
        ],
        exclude: ["Demo/make-weights.sh"]),
    .executableTarget(name: "GraftCLI", dependencies: ["Graft"]),

    // Tests
    .executableTarget(
        name: "GraftConformance",
        dependencies: [
            "BackendConformance", "GraftCPU", "GraftGraph",
            .target(name: "GraftOpenCL", condition: .when(traits: ["OpenCL"])),
        ],
        path: "Tests/ConformanceRunner"),
    .target(name: "LoopbackServer", path: "Tests/LoopbackServer"),
    .testTarget(name: "GraftTensorTests", dependencies: ["GraftTensor"]),
    .testTarget(name: "GraftGraphTests", dependencies: ["GraftGraph", "GraftTensor", "BackendConformance"]),
    .testTarget(name: "GraftCPUTests", dependencies: ["GraftCPU", "GraftGraph", "GraftTensor", "BackendConformance"]),
    .testTarget(
        name: "GraftOpenCLTests",
        dependencies: ["GraftOpenCL", "GraftCPU", "GraftGraph", "GraftTensor", "BackendConformance"]),
    .testTarget(
        name: "GraftCheckpointTests", dependencies: ["GraftCheckpoint", "GraftTensor"], exclude: ["Fixtures"]),
    .testTarget(name: "GraftONNXTests", dependencies: ["GraftONNX", "GraftGraph", "GraftTensor"]),
    .testTarget(
        name: "GraftVisionTests", dependencies: ["GraftVision", "GraftTensor", "CSystemSupport"], exclude: ["Golden"]),
    .testTarget(
        name: "GraftTests",
        dependencies: [
            "Graft", "GraftCPU", "GraftGraph", "GraftTensor", "GraftCheckpoint", "GraftVision", "BackendConformance",
            "LoopbackServer",
        ],
        exclude: ["Fixtures"]),
    .testTarget(name: "CLITests", dependencies: ["GraftTensor", "GraftCheckpoint", "GraftVision", "LoopbackServer"]),
    .testTarget(name: "LayeringTests"),
]

/// Loops over weights and pixels live here too: optimised in debug, so that tests on real networks stay short.
let optimizedInDebug: Set = [
    "GraftTensor", "GraftGraph", "GraftCPU", "GraftOpenCL", "GraftCheckpoint", "GraftONNX", "GraftVision",
    "Graft", "BackendConformance", "GraftTests",
]

for target in targets where optimizedInDebug.contains(target.name) {
    target.swiftSettings = [.unsafeFlags(["-O"], .when(configuration: .debug))]
}
for target in targets
where target.name.hasPrefix("Graft") || target.type == .test
    || ["BackendConformance", "LoopbackServer"].contains(target.name)
{
    if target.name != "GraftKernels" { target.swiftSettings = strict + (target.swiftSettings ?? []) }
}
for variant in kernelVariants {
    targets.append(
        .target(
            name: variant.name, dependencies: ["GraftCPUKernelInterface", "CSystemSupport"],
            path: "Sources/GraftCPUKernels/\(variant.name)",
            swiftSettings: strict + kernelSettings(flags: variant.flags)))
}
targets.append(
    .target(
        name: "GraftCPUKernelInterface", path: "Sources/GraftCPUKernels/Interface", swiftSettings: strict))

let package = Package(
    name: "Graft",
    products: [
        .library(name: "Graft", targets: ["Graft"]),
        .executable(name: "graft", targets: ["GraftCLI"]),
    ],
    traits: [
        .default(enabledTraits: ["OpenCL"]),
        .trait(name: "OpenCL", description: "The OpenCL backend; without it no OpenCL header is needed to build."),
    ],
    targets: targets,
    cLanguageStandard: .c2x
)
