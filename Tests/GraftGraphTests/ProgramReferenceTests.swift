import BackendConformance
import GraftGraph
import Testing

/// Whole programs on the reference: what lowering derives as gradients, and what the memory plan shares.
@Suite("Lowered programs on the reference")
struct ProgramReferenceTests {
    @Test(
        "gradients of every trainable parameter equal central differences of the loss",
        arguments: ProgramConformance.all.filter { $0.name != "program.residual.wide" })
    func gradients(test: ProgramConformance) throws {
        // Clipping would scale them in place.
        var options = test.options
        options.maximumGradientNorm = nil
        let program = try Program(test.graph, options)
        let inputs = test.inputs(program, step: 0).mapValues(\.doubles)
        let constants = test.constants(step: 0)
        let metrics = try #require(program.outputs["metrics"])
        let start = ReferenceProgram(graph: test.graph, seed: 3)
        var run = start
        run.run(program, inputs: inputs, constants: constants)
        for key in test.options.cohorts.joined() {
            let gradient = try #require(run.gradient(of: key, in: program))
            #expect(gradient.contains { $0 != 0 }, "\(key)")
            let scale = gradient.reduce(0) { max($0, abs($1)) }
            // Four elements of each tensor; the step is small, so that it crosses no corner of a ReLU or a maximum.
            for index in Set([0, gradient.count / 3, gradient.count / 2, gradient.count - 1]) {
                func loss(_ change: Double) -> Double {
                    var moved = start
                    moved.tensors[key]?[index] += change
                    moved.run(program, inputs: inputs, constants: constants)
                    return moved.values[metrics.index]?[0] ?? .nan
                }
                let difference = (loss(1e-6) - loss(-1e-6)) / 2e-6
                #expect(abs(difference - gradient[index]) < 1e-6 * scale + 1e-8, "\(key)[\(index)]")
            }
        }
    }

    @Test("a step changes trainable tensors and tracked statistics, nothing else", arguments: ProgramConformance.all)
    func frozen(test: ProgramConformance) throws {
        let program = try Program(test.graph, test.options)
        var run = ReferenceProgram(graph: test.graph, seed: 3)
        let before = run.tensors
        run.run(program, inputs: test.inputs(program, step: 0).mapValues(\.doubles), constants: test.constants(step: 0))
        let trainable = Set(test.options.cohorts.joined())
        let analysis = FreezeAnalysis(
            test.graph, trainable: trainable, frozenStatistics: test.options.frozenStatistics)
        for parameter in test.graph.parameters {
            let changed = run.tensors[parameter.name] != before[parameter.name]
            let expected =
                switch parameter.role {
                case .weight, .bias, .scale, .shift: trainable.contains(parameter.name)
                case .runningMean, .runningVariance: analysis.nodes[parameter.node].usesBatchStatistics
                case .counter: false
                }
            #expect(changed == expected, "\(parameter.name)")
        }
    }

    @Test(
        "programs give the same bytes with and without shared memory, and the reference's numbers",
        arguments: ProgramConformance.all)
    func sharedMemory(test: ProgramConformance) throws {
        let result = try test.run(on: ReferenceBackend())
        #expect(result.passed, "\(result.message)")
    }

    @Test("the fault of a backend is found in a program too")
    func fault() throws {
        let result = try ProgramConformance.all[0].run(on: ReferenceBackend(fault: .leavesElement))
        #expect(!result.passed)
    }

    @Test("random cases are valid and pass on the reference")
    func random() {
        let cases = ConformanceCases.random(count: 60, seed: 1)
        #expect(cases.count > 100)
        for result in ConformanceHarness().runAll(on: ReferenceBackend(), cases: cases) {
            #expect(result.passed, "\(result.name): \(result.message)")
        }
    }
}
