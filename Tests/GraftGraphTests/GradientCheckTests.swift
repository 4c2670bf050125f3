import BackendConformance
import GraftGraph
import Testing

@Suite("Gradients of the reference")
struct GradientCheckTests {
    @Test("each equals central differences of its forward primitive", arguments: GradientCheck.all)
    func finiteDifferences(check: GradientCheck) {
        #expect(check.worstError() < 1e-6)
    }

    @Test("every gradient primitive is checked")
    func coverage() {
        let names = GradientCheck.all.map { $0.name.prefix { $0 != "." } }
        for kind in Primitive.Kind.allCases where kind.rawValue.hasSuffix("Gradient") {
            #expect(names.contains(Substring(kind.rawValue)), "\(kind)")
        }
        for kind in [Primitive.Kind.channelSum, .channelSlice, .dropout, .softmaxCrossEntropy] {
            #expect(names.contains(Substring(kind.rawValue)), "\(kind)")
        }
    }
}
