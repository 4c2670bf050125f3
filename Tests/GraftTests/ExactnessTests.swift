import Graft
import GraftTensor
import GraftVision
import Testing

@Suite struct ExactnessTests {
    /// Features of a formula ResNet-18's last stage for two noise images.
    private func features(_ device: Device) throws -> [Float] {
        var model = try Model("resnet18")
        try model.replaceState(FormulaWeights.state(of: model, seed: 1))
        model.preprocessing = try ImagePreprocessing(imageSize: 64, resize: 64)
        let random = CounterRandom(seed: 5)
        let pixels = (0..<2 * 64 * 64 * 3).map { UInt8(truncatingIfNeeded: Int(random.uniform($0) * 255)) }
        let extractor = try FeatureExtractor(model, layers: ["layer4"], device: device)
        return try #require(try extractor.features(ofPixels: pixels, count: 2)["layer4"]?.floats)
    }

    @Test(arguments: parityDevices)
    func winogradStaysCloseToDirectSums(_ device: String) throws {
        let exact = try features(Device(device, isExact: true))
        let fast = try features(Device(device))
        let difference = zip(exact, fast).reduce(0.0) { $0 + Double($1.0 - $1.1) * Double($1.0 - $1.1) }.squareRoot()
        let size = exact.reduce(0.0) { $0 + Double($1) * Double($1) }.squareRoot()
        #expect(difference > 0, "the exact path is not a path of its own")
        #expect(difference <= 1e-5 * size, "relative difference \(difference / size)")
    }
}
