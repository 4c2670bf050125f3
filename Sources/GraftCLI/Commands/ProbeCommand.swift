import Graft

/// `graft probe`
enum ProbeCommand {
    static let features = Argument.positional(
        "FEATURES", .path("FEATURES"), placeholderValue: "",
        help: "Features with labels: .npz or .safetensors, as `graft extract` writes them.")
    static let layer = Argument.optional(
        "layer", .text("NAME"), shownAs: "the only one in the file", help: "Which layer's features.")
    static let method = Argument.option(
        "method", .choice("logistic", "knn"), default: "logistic",
        help: "Logistic regression on standardised features, or the nearest neighbours by cosine.")
    static let strength = Argument.optional(
        "c", .number("C"), shownAs: "the best of 1e-05 to 1000 on images held out", example: "0.01",
        help: "With --method logistic: the inverse of the L2 penalty, as in scikit-learn.")
    static let neighbours = Argument.optional(
        "k", .wholeNumber("K", atLeast: 1), shownAs: "the best of 1 to 51 on images held out", example: "5",
        help: "With --method knn: how many neighbours vote.")
    static let validation = Argument.optional(
        "val", .path("FEATURES"), shownAs: "none: images held out of FEATURES",
        help: "Features to measure on; nothing is chosen by them.")
    static let out = Argument.optional(
        "out", .path("PROBE.safetensors"), shownAs: "none", help: "Write the probe, for `graft predict --probe`.")

    static let command = Command(
        name: "probe",
        summary: "Fit a classifier to extracted features: logistic regression or nearest neighbours.",
        discussion: """
            C, or K, is chosen on a fifth of the images of each class, held out by --seed: most right, then the lower \
            loss, then the smaller value. C is one of 1e-05, 1e-04, … 1000; K one of 1, 3, 5, 7, 9, 11, 15, 21, 31, 51. The \
            probe is then fitted to all of FEATURES. Without --val the report is about the images held out, by which the \
            value was chosen too.
            """,
        examples: [
            "graft probe train.npz --val val.npz --out probe.safetensors",
            "graft probe features.npz --layer avgpool --method knn --k 5",
        ],
        groups: [
            ArgumentGroup("Features", [features, layer, validation]),
            ArgumentGroup("Fitting", [method, strength, neighbours, Shared.seed]),
            ArgumentGroup("Output", [out, Shared.quiet, Shared.json]),
        ],
        validate: { values throws(UsageError) in
            let other: any AnyArgument = values[method] == "knn" ? strength : neighbours
            if values.isGiven(other) {
                throw UsageError("\(other.display) does not apply to --method \(values[method])")
            }
            if values[strength] == 0 { throw UsageError("--c is 0, expected a number above 0") }
            if let path = values[out], !path.lowercased().hasSuffix(".safetensors") {
                throw UsageError("--out \"\(path)\" does not end in .safetensors, the one format it is written in")
            }
        },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let table = try FeatureTable(values[features], layer: values[layer])
        let measured = try values[validation].map { try FeatureTable($0, layer: table.layer) }
        var options = ProbeOptions()
        options.method = Probe.Method(rawValue: values[method]) ?? .logistic
        options.inverseStrength = values[strength]
        options.neighbours = values[neighbours]
        options.seed = values[Shared.seed]
        if table.origin == nil, let path = values[out] {
            throw CommandFailure(
                .badData,
                "\(values[features]) does not say which network its features are from, so that a probe in \(path) could "
                    + "not be held against one; pass features that `graft extract` wrote, or leave out --out")
        }
        let result = try Probe.fit(table, options: options)
        if result.fit?.converged == false {
            Console.warning(
                "logistic regression with C \(result.chosen) has not reached its minimum after "
                    + "\(result.fit?.iterations ?? 0) steps; a smaller --c has one that is easier to reach")
        }
        let evaluation = try measured.map { try result.probe.evaluate($0) }
        if let path = values[out] {
            try result.probe.save(path)
            NetworkRequest.note("wrote \(path)", values)
        }
        try Console.result(
            values[Shared.json]
                ? json(table, result, evaluation, values).pretty(levels: 2) + "\n"
                : text(table, result, evaluation, values))
    }

    private static func text(
        _ table: FeatureTable, _ result: ProbeResult, _ evaluation: Evaluation?, _ values: ArgumentValues
    ) -> String {
        let isLogistic = result.probe.method == .logistic
        let name = isLogistic ? "C" : "K"
        var text = """
            features  \(table.layer), \(table.count) images of \(table.classNames.count) classes, \(table.width) numbers each
            method    \(isLogistic ? "logistic regression, standardised features" : "nearest neighbours by cosine"), \
            \(name) = \(shown(result.chosen))

            """
        if !result.trials.isEmpty {
            var trials = Table([
                Table.Column(title: name, alignment: .right), Table.Column(title: "right", alignment: .right),
                Table.Column(title: "top-1", alignment: .right),
            ])
            if isLogistic { trials.columns.append(Table.Column(title: "loss", alignment: .right)) }
            let count = result.heldOut?.count ?? 0
            for trial in result.trials {
                trials.rows.append(
                    [
                        shown(trial.value), "\(trial.correct)",
                        percent(Double(trial.correct) / Double(max(count, 1))),
                    ]
                        + (isLogistic ? [trial.loss.map { fixed($0, 4) } ?? ""] : []))
            }
            text += "\nchosen on \(count) images held out of \(values[features])\n" + trials.text()
        }
        if let evaluation {
            text += "\non \(values[validation] ?? "")\n" + EvaluationReport.text(evaluation, hasLoss: isLogistic)
        } else if let heldOut = result.heldOut {
            text +=
                "\non the images held out, before fitting to all\n"
                + EvaluationReport.text(heldOut, hasLoss: isLogistic)
        }
        return text
    }

    private static func json(
        _ table: FeatureTable, _ result: ProbeResult, _ evaluation: Evaluation?, _ values: ArgumentValues
    ) -> JSON {
        let isLogistic = result.probe.method == .logistic
        let trials = result.trials.map { trial -> JSON in
            [
                (isLogistic ? "c" : "k"): isLogistic ? .number(trial.value) : .integer(Int(trial.value)),
                "correct": .integer(trial.correct), "loss": .optional(trial.loss),
            ]
        }
        var entries: [(key: String, value: JSON)] = [
            ("features", .string(values[features])), ("layer", .string(table.layer)),
            ("fitted_images", .integer(table.count)), ("width", .integer(table.width)),
            ("method", .string(result.probe.method.rawValue)),
            (isLogistic ? "c" : "k", isLogistic ? .number(result.chosen) : .integer(Int(result.chosen))),
            ("trials", .array(trials)),
        ]
        if let fit = result.fit {
            entries += [
                ("objective", .number(fit.objective)), ("iterations", .integer(fit.iterations)),
                ("converged", .boolean(fit.converged)),
            ]
        }
        let sections = [("held_out", result.heldOut), ("validation", evaluation)]
        for (key, section) in sections {
            entries.append(
                (key, section.map { .object(EvaluationReport.entries($0, hasLoss: isLogistic)) } ?? .null))
        }
        entries.append(("file", .optional(values[out])))
        return .object(entries)
    }

    /// `0.001`, `1e-05`, `15`.
    private static func shown(_ value: Double) -> String {
        value == value.rounded() && value < 1e6 ? "\(Int(value))" : "\(value)"
    }
}
