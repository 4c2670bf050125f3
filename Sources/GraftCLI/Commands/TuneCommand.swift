import Graft

/// `graft tune`
enum TuneCommand {
    static let seconds = Argument.option(
        "seconds", .wholeNumber("N", atLeast: 1, atMost: 86_400), default: 60,
        help: "Time for trying; no candidate is begun after it.")

    static let command = Command(
        name: "tune",
        summary: "Time the GPU kernels' tile parameters on a device and keep the faster ones.",
        discussion:
            "Never needed, and changes no order of sums. Every candidate's output is held against the default's before it may "
            + "win. Winners are stored per device, driver and kernel version, in the cache folder (GRAFT_CACHE); a "
            + "damaged or outdated file is ignored. Devices that run other kernels than the GPU class have nothing to "
            + "tune, which is said and no error.",
        examples: ["graft tune --device gpu", "graft tune --seconds 20 --json"],
        groups: [
            ArgumentGroup("Running", [Shared.device, seconds]),
            Shared.outputGroup,
        ],
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let result = try KernelTuning.run(
            device: Device(values[Shared.device]), seconds: Double(values[seconds])
        ) { row in
            NetworkRequest.note(
                "\(row.pass), \(row.shape): \(fixed(row.defaultMilliseconds, 3)) → "
                    + "\(fixed(row.bestMilliseconds, 3)) ms, \(row.candidateCount) tried", values)
        }
        NetworkRequest.announce(result.device, result.deviceNotes, values)
        if values[Shared.json] {
            try Console.result(json(result).pretty() + "\n")
            return
        }
        if let reason = result.nothingToTune {
            try Console.result("nothing to tune: \(reason)\n")
            return
        }
        var table = Table([
            Table.Column(title: "pass"), Table.Column(title: "shape", isFlexible: true),
            Table.Column(title: "default ms", alignment: .right), Table.Column(title: "best ms", alignment: .right),
            Table.Column(title: "ratio", alignment: .right), Table.Column(title: "parameters"),
        ])
        for row in result.rows {
            table.rows.append([
                row.pass, row.shape, fixed(row.defaultMilliseconds, 3), fixed(row.bestMilliseconds, 3),
                fixed(ratio(row), 2), row.bestParameters == row.defaultParameters ? "default" : row.bestParameters,
            ])
        }
        var text =
            table.text() + "batch \(result.batchSize); parameters: rows×columns×depth of a tile by an item's part\n"
        if result.skippedCount > 0 {
            text += "\(result.skippedCount) shapes were not reached in \(values[seconds]) s, or do not fit the device\n"
        }
        if let path = result.path { text += "stored in \(path)\n" }
        try Console.result(text)
    }

    private static func ratio(_ row: KernelTuning.Row) -> Double {
        row.defaultMilliseconds > 0 ? row.bestMilliseconds / row.defaultMilliseconds : 1
    }

    private static func json(_ result: KernelTuning.Result) -> JSON {
        [
            "device": .string(result.device.selector), "name": .string(result.device.name),
            "driver": .string(result.device.driverVersion), "kernels": .string(result.device.kernelClass),
            "nothing_to_tune": .optional(result.nothingToTune),
            "batch": .integer(result.batchSize),
            "shapes": .array(
                result.rows.map { row in
                    [
                        "pass": .string(row.pass), "shape": .string(row.shape),
                        "default_ms": .number(row.defaultMilliseconds), "best_ms": .number(row.bestMilliseconds),
                        "ratio": .number(ratio(row)), "default_parameters": .string(row.defaultParameters),
                        "parameters": .string(row.bestParameters), "candidates": .integer(row.candidateCount),
                        "rejected": .integer(row.rejectedCount),
                    ]
                }), "skipped": .integer(result.skippedCount), "file": .optional(result.path),
        ]
    }
}
