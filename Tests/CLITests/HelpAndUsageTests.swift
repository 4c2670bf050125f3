import Foundation
import Testing

@Suite struct HelpAndUsageTests {
    static let commands = [
        "devices", "models", "summary", "train", "find-learning-rate", "report", "evaluate", "predict", "explain",
        "extract", "probe", "convert", "bench", "tune", "doctor", "demo", "completions",
    ]

    @Test func theOverviewNamesEveryCommand() throws {
        for arguments in [[], ["--help"], ["-h"], ["help"]] {
            let result = try Graft.run(arguments)
            #expect(result.status == 0)
            #expect(result.errors.isEmpty)
            for command in Self.commands { #expect(result.output.contains("\n  \(command) ")) }
            #expect(result.output.split(separator: "\n").allSatisfy { $0.count <= 100 })
        }
    }

    @Test(arguments: commands) func helpFitsAndShowsDefaults(_ command: String) throws {
        let result = try Graft.run(["help", command])
        #expect(result.status == 0)
        #expect(result.output.contains("USAGE: graft \(command)"))
        #expect(result.output.split(separator: "\n").allSatisfy { $0.count <= 100 })
        // Help wins over faults of the rest.
        let amidFaults = try Graft.run([command, "--no-such-option", "--help"])
        #expect(amidFaults.status == 0)
        #expect(amidFaults.output == result.output)
    }

    /// The contract of names: every option of `train`, with its default where it has one.
    @Test func trainHasEveryOptionOfTheContract() throws {
        let text = try Graft.run(["help", "train"]).output.split(whereSeparator: \.isWhitespace).joined(separator: " ")
        for option in [
            "--freeze", "--unfreeze", "--unfreeze-at", "--unfreeze-at-step", "--frozen-statistics", "--epochs",
            "--steps",
            "--optimizer", "--learning-rate", "--momentum", "--weight-decay", "--nesterov", "--schedule", "--warmup",
            "--label-smoothing", "--augment", "--val", "--val-split", "--no-shuffle", "--drop-last", "--head-weights",
            "--dropout", "--device", "--threads", "--seed", "--batch-size", "--image-size", "--resize", "--mean",
            "--std",
            "--classes-file", "--exif", "--interpolation", "--list", "--limit", "--on-bad-image", "--quiet", "--json",
            "--weights", "--model", "--classes", "--out", "--recipe", "--layer-decay", "--no-decay-bias-norm",
            "--clip-norm", "--accumulate", "--ema", "--early-stop", "--keep-best", "--mixup", "--cutmix",
            "--class-weights", "--sampler",
        ] {
            #expect(text.contains(option + " "), "\(option) is missing")
        }
        for (option, value) in [
            ("--epochs", "10"), ("--learning-rate", "0.001"), ("--momentum", "0.9"), ("--batch-size", "32"),
            ("--seed", "0"), ("--frozen-statistics", "keep"), ("--device", "auto"),
        ] {
            let start = try #require(text.range(of: option + " "))
            #expect(text[start.upperBound...].prefix(200).contains("default: \(value)"), "default of \(option)")
        }
    }

    @Test func versionIsPrinted() throws {
        let result = try Graft.run(["--version"])
        #expect(result.status == 0)
        #expect(result.output.hasPrefix("graft 0."))
        #expect(result.output.contains("OpenCL\n"))
        #expect(result.output.contains("\ninstruction set  "))
        // In the words of GRAFT_CPU_KERNELS, which is the one that runs.
        let baseline = try Graft.run(["--version"], environment: ["GRAFT_CPU_KERNELS": "baseline"])
        #expect(baseline.output.contains("instruction set  baseline\n"))
    }

    /// Every option says what holds without it; flags are off, and what is required has no default.
    @Test(arguments: commands) func helpShowsEveryDefault(_ command: String) throws {
        let lines = try Graft.run(["help", command]).output.split(separator: "\n", omittingEmptySubsequences: false)
        var entries: [(heading: String, text: String)] = []
        for line in lines {
            if line.hasPrefix("  --") {
                entries.append((line.split(separator: "  ").first.map(String.init) ?? "", String(line)))
            } else if line.hasPrefix("      "), !entries.isEmpty {
                entries[entries.count - 1].text += " " + line.drop { $0 == " " }
            }
        }
        #expect(!entries.isEmpty)
        for entry in entries where entry.heading.contains(" ") {
            #expect(entry.text.contains("default: ") || entry.text.contains("(required"), "\(entry.text)")
        }
    }

    @Test(arguments: [
        (["trian"], "did you mean \"train\"?"),
        (["quux"], "the commands are devices, models"),
        (["train", "x", "--epoch", "3"], "did you mean --epochs?"),
        (["evaluate", "x", "--epochs", "3"], "does not apply to `graft evaluate`; it is an option of `graft train`"),
        (["train", "x", "--epochs", "x"], "--epochs \"x\" is not a whole number from 1 to 1000000000"),
        (["train", "x", "--epochs", "0"], "--epochs \"0\" is not a whole number from 1 to 1000000000"),
        (["train", "x", "--epochs=1.5"], "--epochs \"1.5\" is not a whole number from 1 to 1000000000"),
        (["train", "x", "--epochs"], "--epochs needs a value: --epochs N"),
        (["train", "x", "--epochs", "--json"], "--epochs needs a value: --epochs N; found --json"),
        (["train", "x", "--learning-rate", "nan"], "--learning-rate \"nan\" is not a number"),
        (["train", "x", "--learning-rate", "-1"], "--learning-rate \"-1\" is not a number of at least 0"),
        (["train", "x", "--optimizer", "sdg"], "is not one of sgd, adam, adamw; did you mean \"sgd\"?"),
        (["train", "x", "--unfreeze-at", "layer3"], "is not of the form EPOCH:NAMES"),
        (["train", "x", "--unfreeze-at", "5:"], "is not of the form EPOCH:NAMES"),
        (["train", "x", "--schedule", "step:0:0.1"], "is not a schedule"),
        (["train", "x", "--mean", "1,2"], "is not three numbers"),
        (["train", "x", "--std", "1,0,1"], "is not three positive numbers"),
        (["train", "x", "--val-split", "1"], "is not a number above 0 and below 1"),
        (["train", "--nesterov=1"], "--nesterov takes no value"),
        (["train", "x"], "missing --model MODEL and --out RUN"),
        (["train", "--model", "m", "--out", "r"], "missing DATA"),
        (["train", "x", "--model", "m", "--out", "r", "--val", "a", "--val-split", "0.1"], "exclude each other"),
        (
            ["train", "x", "--model", "m", "--out", "r", "--optimizer", "adam", "--momentum", "0.5"],
            "only to --optimizer sgd"
        ),
        (["train", "x", "--model", "m", "--out", "r", "--nesterov", "--momentum", "0"], "needs a --momentum above 0"),
        (["train", "x", "--model", "m", "--out", "r", "--cached-views", "2"], "needs --augment flip or standard"),
        (
            [
                "train", "x", "--model", "m", "--out", "r", "--augment", "flip", "--cached-views", "2", "--cache",
                "disk",
            ], "does not apply to --cache disk"
        ),
        (
            ["train", "x", "--model", "m", "--out", "r", "--cache", "off", "--cache-limit", "1G"],
            "does not apply to --cache off"
        ),
        (["bench", "--model", "m", "--mode", "infer", "--trainable", "fc"], "applies to --mode train only"),
        (["bench", "--mode", "infer"], "missing --model MODEL, which --mode infer needs"),
        (["bench", "--mode", "read"], "missing --data DIR, which --mode read needs"),
        (["bench", "--mode", "read", "--data", "d", "--model", "m"], "--model does not apply to --mode read"),
        (["bench", "--mode", "infer", "--model", "m", "--fast-decode"], "--fast-decode applies to --mode read only"),
        (["train", "x", "--cache-limit", "10Q"], "is not a number of bytes"),
        (["train", "x", "--cache-limit", "0"], "is not a number of bytes"),
        (["train", "x", "--cache-limit", "99999999999G"], "is not a number of bytes"),
        (["devices", "extra"], "unexpected argument \"extra\""),
        (["--json"], "--json stands before a command; options follow it: graft COMMAND --json"),
        (["--device=cpu", "train"], "--device stands before a command"),
        (["--verison"], "did you mean --version?"),
        (["--nonsense"], "unknown option --nonsense before a command"),
        (["help", "trian"], "did you mean \"train\"?"),
        (["train", "x", "-epochs", "3"], "did you mean --epochs?"),
        (["evaluate", "x", "--weights", "-w.pth"], "which as a value is written --weights=-w.pth"),
        (["train", "x", "--schedule", "cosin"], "did you mean \"cosine\"?"),
        (["predict", "-", "-", "--weights", "w"], "- is given more than once"),
    ])
    func wrongCommandLinesEndWith64(_ arguments: [String], _ message: String) throws {
        let result = try Graft.run(arguments)
        #expect(result.status == 64)
        #expect(result.output.isEmpty)
        #expect(result.errors.hasPrefix("error: "))
        #expect(result.errors.contains(message), "\(result.errors)")
    }

    @Test func wordsAfterTheTerminatorArePositional() throws {
        let result = try Graft.run(["devices", "--", "--json"])
        #expect(result.status == 64)
        #expect(result.errors.contains("unexpected argument \"--json\""))
    }

    /// What the environment sets is a default, not a wish that contradicts others.
    @Test func theEnvironmentContradictsNothing() throws {
        let folder = try TemporaryFolder()
        try folder.writeClasses(imagesPerClass: 1)
        let result = try Graft.run(
            ["bench", "--mode", "read", "--data", folder.path, "--repeats", "1"], environment: ["GRAFT_DEVICE": "cpu"])
        #expect(result.status == 0, "\(result.errors)")
    }

    @Test func aMisspelledDeviceIsGuessed() throws {
        let bench = ["bench", "--model", "resnet20_cifar", "--mode", "infer", "--device"]
        for (wrong, right) in [("opncl", "opencl"), ("cpuu", "cpu"), ("atuo", "auto"), ("gpuu", "gpu")] {
            let result = try Graft.run(bench + [wrong])
            #expect(result.status == 69)
            #expect(result.errors.contains("id you mean \"\(right)\"?"), "\(result.errors)")
        }
    }

    @Test func theEnvironmentSetsTheDevice() throws {
        let arguments = [
            "bench", "--model", "resnet20_cifar", "--mode", "infer", "--batch-size", "1", "--repeats", "1",
        ]
        let named = try Graft.run(arguments, environment: ["GRAFT_DEVICE": "no such device"])
        #expect(named.status == 69)
        #expect(named.errors.contains("no such device"))
        let overridden = try Graft.run(
            arguments + ["--device", "cpu", "--json"], environment: ["GRAFT_DEVICE": "no such device"])
        #expect(overridden.status == 0)
        #expect(try overridden.json["device"] as? String == "cpu")
    }

    @Test func theLastOfAnOptionGivenTwiceCounts() throws {
        let result = try Graft.run([
            "bench", "--model", "resnet20_cifar", "--mode", "infer", "--repeats", "1", "--device", "cpu",
            "--batch-size", "8",
            "--batch-size=2", "--json",
        ])
        #expect(result.status == 0)
        #expect(try result.json["batch"] as? Int == 2)
    }

    @Test func nothingColoursAFile() throws {
        let result = try Graft.run(["trian"])
        #expect(!result.errors.contains("\u{1B}"))
    }
}
