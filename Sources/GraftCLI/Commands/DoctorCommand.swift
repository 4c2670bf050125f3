import Graft

/// `graft doctor`
enum DoctorCommand {
    static let device = Argument.optional(
        "device", .device, shownAs: "every device of `graft devices`", example: "opencl",
        help: "Examine this device only.")
    static let quick = Argument.flag("quick", help: "Small cases of every kernel only, and no whole networks.")
    static let primitive = Argument.optional(
        "primitive", .primitives, shownAs: "all", example: "relu,convolution",
        help: "Examine these kernels only; what is known of others stays.")

    static let command = Command(
        name: "doctor",
        summary: "Check every kernel of every device against a reference in double precision.",
        discussion: """
            Every primitive of the engine, forward and gradient, at awkward sizes, with guard bytes around its memory, \
            twice for equal bytes; without --quick also small networks trained for a few steps. What is found is kept \
            for each device, driver version and build, in the cache folder (GRAFT_CACHE): under --device auto a device \
            is then passed over for a network that needs a kernel that failed, and by name it is refused, unless \
            --trust-device is given. An OpenCL driver compiles each case's kernels first, which takes most of the time.
            """,
        examples: ["graft doctor --quick", "graft doctor --device opencl:0 --json"],
        groups: [
            ArgumentGroup("What", [device, quick, primitive]),
            ArgumentGroup("Running", [Shared.threads]),
            Shared.outputGroup,
        ],
        validate: { values throws(UsageError) in
            if values[quick], values[primitive] == [DeviceExamination.wholePrograms] {
                throw UsageError("--quick leaves out \(DeviceExamination.wholePrograms); leave one of them out")
            }
        },
        run: run)

    private static func run(_ values: ArgumentValues) throws {
        let selectors: [String]
        var rejected: [Device.Listing] = []
        if let selector = values[device] {
            selectors = [selector]
        } else {
            let (devices, note) = Device.all()
            selectors = devices.filter { $0.rejection == nil }.map(\.description.selector)
            rejected = devices.filter { $0.rejection != nil }
            if let note { NetworkRequest.note("note: \(note)", values) }
        }
        var examinations: [DeviceExamination] = []
        var unusable: [(selector: String, reason: String)] = rejected.map {
            ($0.description.selector, $0.rejection ?? "")
        }
        for selector in selectors {
            let choice = Device(selector, threadCount: values[Shared.threads])
            do {
                examinations.append(try examine(choice, values))
            } catch let error as DeviceError where values[device] == nil {
                // A driver that refuses is a finding about this device, not the end of the others' examination.
                unusable.append((selector, error.description))
            }
        }
        try Console.result(
            values[Shared.json] ? json(examinations, unusable).pretty() + "\n" : text(examinations, unusable))
        let failed = examinations.filter { !$0.failures.isEmpty }
        guard failed.isEmpty else {
            throw CommandFailure(
                .failure,
                failed.map { examination in
                    "\(examination.device.selector) (\(examination.device.name)): "
                        + "\(DataRequest.list(examination.failures.map(\.primitive))) computes wrong results; try another "
                        + "version of its driver, and report it with the output of `graft doctor --json`"
                }.joined(separator: "\n"))
        }
    }

    private static func examine(_ choice: Device, _ values: ArgumentValues) throws -> DeviceExamination {
        var progress: ProgressLine?
        defer { progress?.finish() }
        return try Interruption.deferred {
            try DeviceExamination.run(on: choice, isQuick: values[quick], primitives: values[primitive]) {
                done, count in
                guard !Interruption.isRequested else { throw GraftError.interrupted }
                if progress == nil {
                    progress = ProgressLine(
                        choice.selector, total: count, unit: "cases", isQuiet: values[Shared.quiet])
                }
                progress?.update(done)
            }
        }
    }

    private static func text(
        _ examinations: [DeviceExamination], _ unusable: [(selector: String, reason: String)]
    ) -> String {
        var table = Table([
            Table.Column(title: "selector"), Table.Column(title: "device", isFlexible: true),
            Table.Column(title: "driver", isFlexible: true), Table.Column(title: "kernels"),
            Table.Column(title: "cases", alignment: .right), Table.Column(title: "passed", alignment: .right),
            Table.Column(title: "worst", alignment: .right), Table.Column(title: "seconds", alignment: .right),
        ])
        for examination in examinations {
            let device = examination.device
            table.rows.append([
                device.selector, device.name,
                [device.platform, device.driverVersion].filter { !$0.isEmpty }.joined(separator: ", "),
                device.kernelClass, "\(examination.caseCount)", "\(examination.passedCount)",
                fixed(examination.worstRatio, 3), fixed(examination.seconds, 1),
            ])
        }
        var text = examinations.isEmpty ? "" : table.text()
        text += examinations.isEmpty ? "" : "worst: the largest error of any element, as a share of its tolerance\n"
        for examination in examinations {
            for row in examination.failures {
                text +=
                    "\(examination.device.selector): \(row.primitive) fails in \(row.caseCount - row.passedCount) of "
                text += "\(row.caseCount) cases; \(row.message)\n"
            }
        }
        for (selector, reason) in unusable { text += "\(selector) cannot be used: \(reason)\n" }
        for path in examinations.compactMap(\.path) { text += "kept in \(path)\n" }
        return text
    }

    private static func json(
        _ examinations: [DeviceExamination], _ unusable: [(selector: String, reason: String)]
    ) -> JSON {
        [
            "version": .string(BuildInformation.version),
            "devices": .array(
                examinations.map { examination in
                    let device = examination.device
                    return [
                        "selector": .string(device.selector), "name": .string(device.name),
                        "platform": .string(device.platform), "driver": .string(device.driverVersion),
                        "kernels": .string(device.kernelClass), "quick": .boolean(examination.isQuick),
                        "cases": .integer(examination.caseCount), "passed": .integer(examination.passedCount),
                        "worst": .number(examination.worstRatio), "seconds": .number(examination.seconds),
                        "file": .optional(examination.path),
                        "primitives": .array(
                            examination.rows.map { row in
                                [
                                    "primitive": .string(row.primitive), "cases": .integer(row.caseCount),
                                    "passed": .integer(row.passedCount), "worst": .number(row.worstRatio),
                                    "seconds": .number(row.seconds), "message": .string(row.message),
                                ]
                            }),
                    ]
                }),
            "unusable": .array(
                unusable.map { ["selector": .string($0.selector), "reason": .string($0.reason)] }),
        ]
    }
}
