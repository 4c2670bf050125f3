import GraftTensor
import Testing

@Suite("Tensors and names")
struct TensorTests {
    @Test("a shape's element count and text")
    func shapes() {
        let shape: Shape = [64, 3, 7, 7]
        #expect(shape.elementCount == 9408 && shape.rank == 4 && shape[1] == 3)
        #expect(shape.description == "[64, 3, 7, 7]")
        #expect(Shape([]).elementCount == 1 && Shape([3, 0, 2]).elementCount == 0)
    }

    @Test("a tensor gives its elements by their own type only")
    func elements() {
        let tensor = HostTensor([2, 2], [1, 2, 3, 4])
        #expect(tensor.floats == [1, 2, 3, 4] && tensor.int32s == nil && tensor.int64s == nil && tensor.bytes == nil)
        #expect(tensor.reshaped([4]).floats == [1, 2, 3, 4] && tensor.reshaped([4]) != tensor)
        #expect(HostTensor([3], repeating: 2).floats == [2, 2, 2])
        #expect(HostTensor(shape: [1], storage: .int64([5])).int64s == [5])
    }

    @Test("a tensor with an infinity or a NaN anywhere is not finite")
    func finite() {
        let count = 40_000
        let largest = Float.greatestFiniteMagnitude
        let numbers: [Float] = [0, -0.0, 1, -largest, largest, .leastNonzeroMagnitude]
        var values = (0..<count).map { numbers[$0 % numbers.count] }
        #expect(HostTensor([count], values).isFinite && HostTensor([0], []).isFinite)
        #expect(HostTensor(shape: [1], storage: .int32([.max])).isFinite)
        for place in [0, 16_383, 16_384, count - 1] {
            for broken in [Float.infinity, -.infinity, .nan, -Float.nan, Float(nan: 1, signaling: true)] {
                values[place] = broken
                #expect(!HostTensor([count], values).isFinite, "\(broken) at \(place)")
            }
            values[place] = 0
        }
    }

    @Test("a state dictionary keeps its order through replacement and removal")
    func stateDictionary() {
        var state = StateDictionary([("b", HostTensor([1], [1])), ("a", HostTensor([2], [2, 3]))])
        #expect(state.names == ["b", "a"] && state.count == 2 && state.elementCount == 3 && !state.isEmpty)
        state["b"] = HostTensor([1], [9])
        state["c"] = HostTensor([1], [4])
        #expect(state.names == ["b", "a", "c"] && state["b"]?.floats == [9])
        state["a"] = nil
        state["missing"] = nil
        #expect(state.names == ["b", "c"] && state.map(\.name) == ["b", "c"])
        #expect(StateDictionary().isEmpty)
    }

    @Test("near matches: typing errors first, parts of names after them, strangers never")
    func near() {
        let names = ["layer1", "layer2", "layer3", "layer4", "fc", "bn1", "conv1", "layer3.0.conv1"]
        #expect(nearMatches(to: "layr3", in: names).first == "layer3")
        #expect(nearMatches(to: "Layer3", in: names).first == "layer3")
        #expect(nearMatches(to: "layer3", in: names, limit: 2) == ["layer3", "layer1"])
        #expect(nearMatches(to: "conv", in: names).contains("conv1"))
        #expect(nearMatches(to: "conv", in: names).contains("layer3.0.conv1"))
        #expect(nearMatches(to: "classifier.6.weight", in: names).isEmpty)
        #expect(nearMatches(to: "resnet81", in: ["resnet18", "resnet50", "vgg16"]).first == "resnet18")
        #expect(nearMatches(to: "fc", in: []).isEmpty)
        #expect(nearMatches(to: "x", in: names, limit: 0).isEmpty)
        #expect(nearMatches(to: "layer1", in: ["layer1", "layer1"]) == ["layer1"])
    }
}
