import Foundation
import GraftGraph
import GraftTensor

/// The cosine, for files that use nothing else of Foundation.
func cosineOf(_ x: Double) -> Double { cos(x) }

/// Fresh parameters.
enum Initialization {
    /// How torchvision's constructor of a family fills weights. Biases of convolutions are 0, batch norms 1 and 0.
    enum Rule: Sendable {
        /// Convolutions He-normal by fan-out; a convolution that is the head normal with deviation 0.01 (SqueezeNet: the
        /// ReLU behind such a head cuts a wider start off); linear layers as `nn.Linear`: weight and bias uniform in
        /// ±1/√fan-in.
        case resNet
        /// Convolutions He-normal by fan-out, linear layers normal with deviation 0.01 and bias 0.
        case mobileNet
        /// Convolutions He-normal by fan-out, linear layers uniform in ±1/√fan-out and bias 0.
        case efficientNet
        /// Convolutions He-normal by fan-in, linear layers uniform in ±1/√fan-in and bias 0.
        case denseNet
    }

    /// All parameters of an architecture.
    static func state(of graph: Graph, _ architecture: Architecture, seed: UInt64) -> StateDictionary {
        var state = StateDictionary()
        let parameters = graph.parameters
        let weights = Dictionary(
            uniqueKeysWithValues: parameters.filter { $0.role == .weight }.map { ($0.node, $0.shape) })
        for parameter in parameters {
            state[parameter.name] = tensor(
                parameter, weightShape: weights[parameter.node], architecture, seed: seed)
        }
        return state
    }

    /// One parameter. Random numbers depend on the seed and the parameter's name alone.
    static func tensor(
        _ parameter: ParameterDescription, weightShape: Shape?, _ architecture: Architecture, seed: UInt64
    ) -> HostTensor {
        let rule = architecture.initialization
        let isHead = parameter.name.hasPrefix(architecture.headName + ".")
        let count = parameter.shape.elementCount
        let random = CounterRandom(seed: seed, nameKey(parameter.name), 0x1417)
        switch parameter.role {
        case .counter: return HostTensor(shape: [], storage: .int64([0]))
        case .runningMean, .shift: return HostTensor(parameter.shape, repeating: 0)
        case .runningVariance, .scale: return HostTensor(parameter.shape, repeating: 1)
        case .weight where parameter.shape.rank == 4:
            let outputs = rule == .denseNet ? parameter.shape[1] : parameter.shape[0]
            let fan = outputs * parameter.shape[2] * parameter.shape[3]
            let deviation = isHead ? 0.01 : (2 / Double(fan)).squareRoot()
            return HostTensor(parameter.shape, (0..<count).map { Float(deviation * normal(random, $0)) })
        case .bias where weightShape?.rank == 4: return HostTensor(parameter.shape, repeating: 0)
        case .bias where rule != .resNet: return HostTensor(parameter.shape, repeating: 0)
        case .weight where rule == .mobileNet:
            return HostTensor(parameter.shape, (0..<count).map { Float(0.01 * normal(random, $0)) })
        case .weight where rule == .efficientNet:
            let bound = 1 / Double(max(parameter.shape[0], 1)).squareRoot()
            return HostTensor(parameter.shape, (0..<count).map { Float((2 * random.uniform($0) - 1) * bound) })
        case .weight, .bias:
            let fanIn = weightShape.map { $0.elementCount / max($0[0], 1) } ?? 1
            let bound = 1 / Double(fanIn).squareRoot()
            return HostTensor(parameter.shape, (0..<count).map { Float((2 * random.uniform($0) - 1) * bound) })
        }
    }

    /// A standard normal number (Box and Muller 1958).
    private static func normal(_ random: CounterRandom, _ index: Int) -> Double {
        let radius = (-2 * log(1 - random.uniform(2 * index))).squareRoot()
        return radius * cos(2 * Double.pi * random.uniform(2 * index + 1))
    }

    /// 64-bit FNV-1a of a name.
    private static func nameKey(_ name: String) -> UInt64 {
        name.utf8.reduce(14_695_981_039_346_656_037) { ($0 ^ UInt64($1)) &* 1_099_511_628_211 }
    }
}
