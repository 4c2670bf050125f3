import Foundation
import GraftCheckpoint
import GraftTensor
import Testing

@Suite struct ContainerTests {
    @Test(arguments: ["types.pth", "types_legacy.pth", "types.safetensors"])
    func everyElementType(_ name: String) throws {
        let loaded = try load(name)
        let halves: [Float] = [-1, -0.5, 0, 0.5, 1, 1.5]
        for type in ["float64", "float32", "float16", "bfloat16"] {
            #expect(loaded.state[type] == HostTensor([2, 3], halves), "\(type)")
        }
        for type in ["int64", "int32", "int16", "int8"] {
            #expect(loaded.state[type]?.int64s == [-2, -1, 0, 1, 2, 3], "\(type)")
            #expect(loaded.state[type]?.shape == [2, 3])
        }
        #expect(loaded.state["uint8"]?.int64s == [250, 251, 252, 253, 254, 255])
        #expect(loaded.state["bool"]?.int64s == [0, 1, 0, 1, 0, 1])
        #expect(loaded.state["scalar"] == HostTensor(shape: [], storage: .int64([7])))
        #expect(loaded.state["empty"] == HostTensor([0, 3], []))
        #expect(loaded.state.count == 12)
        #expect(loaded.originalTypes["float16"] == "float16")
        #expect(loaded.originalTypes["bool"] == "bool")
        #expect(loaded.originalTypes["float32"] == nil)
        #expect(loaded.notes.contains { $0.contains("bfloat16 to float32") })
    }

    @Test(arguments: ["views.pth", "views_legacy.pth"])
    func viewsOfSharedStorages(_ name: String) throws {
        let state = try load(name).state
        let base = (0..<24).map(Float.init)
        #expect(state["rows"] == HostTensor([6], Array(base[4..<10])))
        var transposed: [Float] = []
        for column in 0..<6 { for row in 0..<4 { transposed.append(base[row * 6 + column]) } }
        #expect(state["transposed"] == HostTensor([6, 4], transposed))
        #expect(state["strided"] == HostTensor([8], stride(from: 1, to: 24, by: 3).map { base[$0] }))
        var block: [Float] = []
        for i in 0..<2 { for j in 1..<3 { for k in [0, 2] { block.append(base[i * 12 + j * 4 + k]) } } }
        #expect(state["block"] == HostTensor([2, 2, 2], block))
        #expect(state["expanded"] == HostTensor([4], repeating: 2))
        #expect(state["tied"] == HostTensor([24], base))
        #expect(state["again"] == HostTensor([24], base))
        var double: [Float] = []
        for column in 1..<4 { for row in 0..<3 { double.append(Float(row * 4 + column)) } }
        #expect(state["double"] == HostTensor([3, 3], double))
    }

    @Test(arguments: ["training.pth", "training_legacy.pth"])
    func trainingCheckpoint(_ name: String) throws {
        let loaded = try load(name)
        #expect(
            loaded.state.names == [
                "conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var",
                "bn.num_batches_tracked",
            ])
        #expect(loaded.state["conv.weight"] == HostTensor([3, 2, 1, 1], [0, 1, 2, 3, 4, 5]))
        #expect(loaded.state["conv.bias"] == HostTensor([3], [0.5, -0.5, 0.25]))
        #expect(loaded.state["bn.num_batches_tracked"] == HostTensor(shape: [], storage: .int64([0])))
        #expect(loaded.wrapper == ["state_dict"])
        #expect(loaded.strippedPrefix == "module.")
        let ignored = Dictionary(uniqueKeysWithValues: loaded.ignored.map { ($0.name, $0.description) })
        #expect(ignored["epoch"] == "7")
        #expect(ignored["best_prec1"] == "91.5")
        #expect(ignored["arch"] == "'toy'")
        #expect(ignored["optimizer"]?.hasPrefix("a dictionary") == true)
    }

    @Test func containersAreToldByContent() throws {
        #expect(try load("types.pth").container == .torchZip)
        #expect(try load("types_legacy.pth").container == .torchLegacy)
        #expect(try load("old.tar").container == .torchTar)
        #expect(try load("types.safetensors").container == .safetensors)
        #expect(try load("arrays.npz").container == .npz)
        #expect(try load("fortran.npy").container == .npy)
        // The name says something else.
        let bytes = try TestFiles.bytes("types.safetensors")
        #expect(try CheckpointReader.load(bytes: bytes, name: "lies.pth").container == .safetensors)
    }

    @Test func oldTar() throws {
        let loaded = try load("old.tar")
        var transposed: [Float] = []
        for row in 0..<3 { for column in 0..<4 { transposed.append(Float(column * 3 + row)) } }
        #expect(loaded.state["weight"] == HostTensor([3, 4], transposed))
        #expect(loaded.state["bias"] == HostTensor([5], [5, 6, 7, 8, 9]))
        #expect(loaded.state["count"] == HostTensor(shape: [2], storage: .int64([5, 6])))
        #expect(loaded.wrapper == ["model"])
        #expect(loaded.ignored == [IgnoredEntry(name: "epoch", description: "3")])
    }

    @Test func parametersPrefixesAndNesting() throws {
        #expect(try load("parameters.pth").state["a"] == HostTensor([3], [0, 1, 2]))
        let compiled = try load("compiled.pth")
        #expect(compiled.state.names == ["a"])
        #expect(compiled.strippedPrefix == "_orig_mod.module.")
        let nested = try load("nested.pth")
        #expect(nested.state.names == ["encoder.0.w", "head.w"])
        #expect(nested.ignored.map(\.name) == ["head.note", "steps"])
        #expect(try load("wrapped_twice.pth").wrapper == ["model", "state_dict"])
        #expect(try load("lone_tensor.pth").state["tensor"] == HostTensor([3], [0, 1, 2]))
        #expect(try load("untyped.pth").state["unsigned"]?.int64s == [1, 65535])
    }

    @Test func byteOrderAndMissingChecksums() throws {
        let big = try load("big_endian.pth").state
        #expect(big["f"] == HostTensor([3], [0, 1, 2]))
        #expect(big["h"] == HostTensor([4], [0, 1, 2, 3]))
        #expect(big["l"]?.int64s == [0, 1])
        #expect(try load("without_crc.pth").state["a"] == HostTensor([3], [0, 1, 2]))
    }

    @Test func selfReferencesAreHarmless() throws {
        let loaded = try load("cycle.pth")
        #expect(loaded.state.names == ["a"])
        #expect(loaded.ignored.map(\.name) == ["self", "list"])
    }

    @Test func python2LegacyText() throws {
        // Python 2 wrote its strings as SHORT_BINSTRING, storages' key and the word "storage" among them.
        let storage =
            Pickle.tuple(
                Pickle.python2Text("storage"), Pickle.global("torch", "FloatStorage"), Pickle.python2Text("140"),
                Pickle.python2Text("cuda:0"), Pickle.long(12), Pickle.none) + Pickle.persistent
        let object =
            Pickle.global("collections", "OrderedDict")
            + Pickle.tuple(
                Pickle.emptyList + Pickle.emptyList + Pickle.python2Text("w") + Pickle.append
                    + Pickle.tensor(storage, shape: [2], strides: [6]) + Pickle.append + Pickle.append)
            + Pickle.reduce
        let file = Pickle.legacyFile(object, storages: [("140", (0..<12).map(Float.init))])
        #expect(try CheckpointReader.load(bytes: file, name: "python2").state["w"] == HostTensor([2], [0, 6]))
    }

    @Test func legacyStorageViews() throws {
        let view = Pickle.tuple(Pickle.text("v"), Pickle.long(3), Pickle.long(5))
        let file = Pickle.legacyTensor(offset: 1, shape: [4], strides: [1], view: view)
        #expect(try CheckpointReader.load(bytes: file, name: "views").state["w"] == HostTensor([4], [4, 5, 6, 7]))
        // A view of a view may not reach beyond it, though the storage is long enough.
        let beyond = Pickle.legacyTensor(offset: 2, shape: [4], strides: [1], view: view)
        #expect(failure(beyond)?.description.contains("a view inside 5 elements") == true)
    }

    @Test func parameterOfVersion02() throws {
        // Parameter.__new__ without arguments, then __setstate__((data, requires_grad, …)).
        let tensor = Pickle.tensor(Pickle.storage("0", count: 12), shape: [3], strides: [1])
        let object =
            Pickle.emptyDictionary + Pickle.text("w") + Pickle.global("torch.nn.parameter", "Parameter")
            + Pickle.emptyTuple + Pickle.newObject + Pickle.tuple(tensor, Pickle.no) + Pickle.build + Pickle.setItem
        let file = Pickle.legacyFile(object, storages: [("0", (0..<12).map(Float.init))])
        #expect(try CheckpointReader.load(bytes: file, name: "parameter").state["w"] == HostTensor([3], [0, 1, 2]))
    }

    @Test func halfPrecisionIsExact() throws {
        // All 65536 patterns against the definition of binary16, in a file of a tensor of its own.
        let header = #"{"h":{"dtype":"F16","shape":[65536],"data_offsets":[0,131072]}}"#
        let file = little(header.utf8.count, 8) + Array(header.utf8) + (0..<65536).flatMap { little($0, 2) }
        let values = try #require(try CheckpointReader.load(bytes: file, name: "half").state["h"]?.floats)
        for (bits, value) in values.enumerated() {
            let exponent = bits >> 10 & 31
            let fraction = Double(bits & 1023)
            let sign = bits & 0x8000 == 0 ? 1.0 : -1.0
            if exponent == 31 {
                #expect(fraction == 0 ? Double(value) == sign * .infinity : value.isNaN)
            } else {
                let expected =
                    exponent == 0
                    ? fraction * 0x1p-24 : (1 + fraction / 1024) * Foundation.pow(2, Double(exponent - 15))
                #expect(Double(value) == sign * expected)
                #expect(value.sign == (bits & 0x8000 == 0 ? .plus : .minus))
            }
        }
    }

    @Test func safetensorsMetadata() throws {
        #expect(try load("types.safetensors").metadata == ["format": "pt", "ümlaut": "\"quoted\"\n"])
    }
}
