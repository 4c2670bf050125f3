// swift-tools-version: 6.2
import PackageDescription

// A package that uses Graft as others do, built and run by `.ci/run client`, with and without OpenCL:
//
//     swift run --package-path Tests/ClientPackage Client
//     swift run --package-path Tests/ClientPackage --disable-default-traits Client
let package = Package(
    name: "Client",
    traits: [
        .default(enabledTraits: ["OpenCL"]),
        .trait(name: "OpenCL", description: "Graft's OpenCL backend."),
    ],
    dependencies: [
        .package(name: "graft", path: "../..", traits: [.trait(name: "OpenCL", condition: .when(traits: ["OpenCL"]))])
    ],
    targets: [
        .executableTarget(
            name: "Client", dependencies: [.product(name: "Graft", package: "graft")],
            swiftSettings: [.treatAllWarnings(as: .error)])
    ],
    swiftLanguageModes: [.v6]
)
