import GraftGraph

extension ConformanceCases {
    private static let epilogues: [(name: String, epilogue: Epilogue)] = [
        ("plain", .none), ("relu", Epilogue(relu: true)), ("residual", Epilogue(residual: true)),
        ("residual.relu", Epilogue(residual: true, relu: true)),
    ]

    private static let batches: [(name: String, shape: ActivationShape, quick: Bool)] = [
        ("two", shape(2, 1, 1, 1), true), ("small", shape(2, 3, 5, 7), true), ("image", shape(1, 17, 7, 5), true),
        ("vector", shape(5, 33, 1, 1), true), ("blocks", shape(3, 32, 7, 7), false),
        ("off", shape(2, 65, 9, 31), false), ("long", shape(5, 7, 65, 33), false), ("row", shape(3, 31, 1, 2), true),
        ("plane", shape(2, 64, 32, 31), false),
    ]

    static let normalizationCases: [ConformanceCase] = batches.flatMap { name, s, quick in
        var cases: [ConformanceCase] = []
        let variance = Fill.range(0.25, 2)
        for (tag, epilogue) in epilogues {
            cases += [
                ConformanceCase(
                    "batchNormalizationTraining.\(name).\(tag)",
                    .batchNormalizationTraining(s, epsilon: 1e-5, momentum: 0.1, epilogue), fills: [4: variance],
                    quick: quick && tag != "residual"),
                ConformanceCase(
                    "batchNormalizationInference.\(name).\(tag)",
                    .batchNormalizationInference(s, epsilon: 1e-5, epilogue), fills: [4: variance],
                    quick: quick && tag != "residual"),
                ConformanceCase(
                    "batchNormalizationReplay.\(name).\(tag)", .batchNormalizationReplay(s, epilogue),
                    fills: [4: variance], quick: quick && tag != "plain"),
            ]
        }
        // Far from zero E[x²] − E[x]² has no correct digit left: the mean is 10⁴ deviations.
        for (tag, fill) in [("offset", Fill.range(999.85, 1000.15)), ("negative", .range(-100.2, -100))] {
            cases.append(
                ConformanceCase(
                    "batchNormalizationTraining.\(tag).\(name)",
                    .batchNormalizationTraining(s, epsilon: 1e-5, momentum: 0.1, .none), fills: [0: fill, 4: variance],
                    quick: quick && tag == "offset"))
        }
        cases += [
            ConformanceCase(
                "batchNormalizationTraining.flat.\(name)",
                .batchNormalizationTraining(s, epsilon: 1e-3, momentum: 1, .none),
                fills: [0: .constant(0.75), 4: variance]),
            ConformanceCase(
                "batchNormalizationTraining.still.\(name)",
                .batchNormalizationTraining(s, epsilon: 1e-5, momentum: 0, .none), fills: [4: variance]),
            ConformanceCase(
                "batchNormalizationInference.offset.\(name)",
                .batchNormalizationInference(s, epsilon: 1e-5, .none),
                fills: [0: .range(999.85, 1000.15), 3: .range(999.9, 1000.1), 4: .range(0.005, 0.01)]),
            ConformanceCase(
                "batchNormalizationTrainingGradient.\(name)", .batchNormalizationTrainingGradient(s),
                fills: [4: .range(0.5, 2)], quick: quick),
            ConformanceCase(
                "batchNormalizationTrainingGradient.offset.\(name)", .batchNormalizationTrainingGradient(s),
                fills: [0: .range(999.85, 1000.15), 3: .range(999.99, 1000.01), 4: .range(9, 11)]),
            ConformanceCase(
                "batchNormalizationInferenceGradient.\(name)",
                .batchNormalizationInferenceGradient(s, epsilon: 1e-5), fills: [2: variance], quick: quick),
        ]
        return cases
    }
}
