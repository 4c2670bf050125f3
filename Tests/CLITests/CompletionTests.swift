import Foundation
import Testing

/// The shells' own answer to a line that ends where the cursor is: scripts are sourced, not read.
@Suite struct CompletionTests {
    /// A line, words that must be proposed, and words that must not.
    struct Line: Sendable, CustomTestStringConvertible {
        var text: String
        var expected: [String]
        var excluded: [String] = []
        /// For lines whose answer is the shell's own: files.
        var isFiles = false
        var testDescription: String { text }
    }

    static let lines = [
        Line(text: "graft tra", expected: ["train"], excluded: ["evaluate"]),
        Line(text: "graft help eval", expected: ["evaluate"], excluded: ["train"]),
        Line(text: "graft train --opt", expected: ["--optimizer"], excluded: ["--epochs"]),
        Line(text: "graft train --optimizer ad", expected: ["adam", "adamw"], excluded: ["sgd"]),
        Line(text: "graft train --optimizer=ad", expected: ["adam", "adamw"], excluded: ["sgd"]),
        Line(text: "graft summary resnet3", expected: ["resnet34"], excluded: ["resnet18"]),
        Line(text: "graft train photos --model squeezenet1_", expected: ["squeezenet1_0", "squeezenet1_1"]),
        Line(text: "graft train --device op", expected: ["opencl"], excluded: ["cpu"]),
        Line(
            text: "graft extract x --model resnet18 --layer layer4.1.c",
            expected: ["layer4.1.conv1", "layer4.1.conv2"],
            excluded: ["layer4.0.conv1"]),
        Line(text: "graft summary alexnet --freeze classi", expected: ["classifier", "classifier.1"]),
        Line(text: "graft train x --freeze he", expected: ["head"], excluded: ["backbone"]),
        Line(text: "graft predict holi", expected: ["holiday pictures"], excluded: ["photo.jpg"], isFiles: true),
        Line(text: "graft predict pho", expected: ["photo.jpg", "phones"], isFiles: true),
        Line(text: "graft train pho", expected: ["phones"], excluded: ["photo.jpg"], isFiles: true),
        Line(text: "graft train x --epochs ", expected: [], excluded: ["photo.jpg", "train"]),
    ]

    /// Lines whose answer is a part of a word: the shells differ in which part they name.
    static let parts = [
        Line(
            text: "graft train x --model resnet18 --freeze layer3,layer4.1.b",
            expected: ["layer4.1.bn1", "layer4.1.bn2"]
        ),
        Line(
            text: "graft train x --model resnet18 --unfreeze-at 5:layer2.0.do", expected: ["layer2.0.downsample"],
            excluded: ["layer3"]),
    ]

    private static func shell(_ name: String) -> String? {
        let folders = (ProcessInfo.processInfo.environment["PATH"] ?? "").split(separator: ":")
        return folders.map { "\($0)/\(name)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
    }

    /// A folder to complete names in, with the script and a driver.
    private static func folder(_ shell: String) throws -> TemporaryFolder {
        let folder = try TemporaryFolder()
        try folder.write([], to: "photo.jpg")
        try folder.write([], to: "holiday pictures/1.jpg")
        try folder.write([], to: "phones/1.jpg")
        let script = try Graft.run(["completions", shell])
        #expect(script.status == 0)
        #expect(script.errors.isEmpty)
        try folder.write(script.output.utf8, to: "graft.\(shell)")
        return folder
    }

    private static func run(_ executable: String, _ arguments: [String], in folder: TemporaryFolder) throws -> [String]
    {
        let process = Process()
        process.executableURL = URL(filePath: executable)
        process.arguments = arguments
        process.currentDirectoryURL = folder.url
        var variables = ProcessInfo.processInfo.environment
        variables["PATH"] = Graft.executable.deletingLastPathComponent().path + ":" + (variables["PATH"] ?? "")
        variables["HOME"] = folder.path
        variables["XDG_CONFIG_HOME"] = folder.path
        variables["GRAFT_DEVICE"] = nil
        process.environment = variables
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try folder.newFile("output")
        process.standardError = try folder.newFile("errors")
        try process.run()
        process.waitUntilExit()
        func text(_ name: String) throws -> String {
            String(decoding: try Data(contentsOf: folder.url.appending(path: name)), as: UTF8.self)
        }
        let errors = try text("errors")
        #expect(errors.isEmpty, "\(errors)")
        return try text("output").split(separator: "\n").map(String.init)
    }

    private static func check(_ line: Line, _ proposals: [String], inPart: Bool = false) {
        // What a shell adds for the eye: quoting, a slash behind a folder, a description behind a tab.
        let words = Set(
            proposals.map { proposal in
                var word = proposal.split(separator: "\t").first.map(String.init) ?? ""
                word = word.replacing("\\ ", with: " ")
                if let equals = word.firstIndex(of: "="), word.hasPrefix("--") {
                    word = String(word[word.index(after: equals)...])
                }
                if inPart, let comma = word.lastIndex(where: { ",:".contains($0) }) {
                    word = String(word[word.index(after: comma)...])
                }
                while word.hasSuffix("/") || word.hasSuffix(" ") { word.removeLast() }
                return word
            })
        for word in line.expected { #expect(words.contains(word), "\(line.text): \(word) is not among \(proposals)") }
        for word in line.excluded { #expect(!words.contains(word), "\(line.text): \(word) is among \(proposals)") }
    }

    @Test(.enabled(if: shell("bash") != nil, "bash is not installed"))
    func bashCompletes() throws {
        let bash = try #require(Self.shell("bash"))
        let folder = try Self.folder("bash")
        // As readline calls it: the line parted at blanks and at the characters of COMP_WORDBREAKS.
        try folder.write(
            """
            source graft.bash
            complete -p graft > /dev/null || exit 1
            COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:'
            COMP_LINE=$1
            COMP_POINT=${#COMP_LINE}
            spaced=${1//=/ = }
            spaced=${spaced//:/ : }
            read -r -a COMP_WORDS <<< "$spaced"
            [[ $1 == *" " ]] && COMP_WORDS+=("")
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            _graft graft "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\\n' "${COMPREPLY[@]}"
            """.utf8, to: "driver")
        for line in Self.lines where !line.isFiles {
            Self.check(line, try Self.run(bash, ["driver", line.text], in: folder))
        }
        for line in Self.parts {
            Self.check(line, try Self.run(bash, ["driver", line.text], in: folder), inPart: true)
        }
        // Files are left to readline: the function answers nothing.
        let files = try Self.run(bash, ["driver", "graft predict pho"], in: folder)
        #expect(files.isEmpty)
    }

    @Test(.enabled(if: shell("zsh") != nil, "zsh is not installed"))
    func zshCompletes() throws {
        let zsh = try #require(Self.shell("zsh"))
        let folder = try Self.folder("zsh")
        // The completion system only works within the line editor: a zsh in a pseudo-terminal, whose matches are written
        // down where they are added.
        try folder.write(
            """
            zmodload zsh/zpty
            zpty inner zsh -f -i
            print -r -- '
            PS1=; unset zle_bracketed_paste
            autoload -U compinit; compinit -u -D
            source ./graft.zsh
            compadd() {
                if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\\ * ]]; then builtin compadd "$@"; return; fi
                local -a hits; builtin compadd -O hits "$@"; (($#hits)) && print -rl -- $hits >> found
                builtin compadd "$@"
            }
            answer() { : > found; zle list-choices; print -r -- END >> found; BUFFER= }
            zle -N answer; bindkey "^X" answer
            print READY > ready
            ' > setup
            zpty -w inner 'source ./setup'
            for i in {1..600}; do [[ -s ready ]] && break; sleep 0.05; done
            [[ -s ready ]] || { print "no zsh in a pseudo-terminal"; exit 1 }
            while IFS= read -r line; do
                rm -f found
                zpty -w -n inner "$line"$'\\x18'
                for i in {1..600}; do [[ -s found && $(tail -1 found) == END ]] && break; sleep 0.05; done
                print -r -- "LINE $line"
                [[ -s found ]] && cat found
            done < lines
            zpty -d inner
            """.utf8, to: "driver")
        let lines = Self.lines + Self.parts
        try folder.write((lines.map(\.text).joined(separator: "\n") + "\n").utf8, to: "lines")
        var answers: [String: [String]] = [:]
        var current = ""
        for text in try Self.run(zsh, ["-f", "driver"], in: folder) {
            if text.hasPrefix("LINE ") {
                current = String(text.dropFirst(5))
            } else {
                answers[current, default: []].append(text)
            }
        }
        for line in lines {
            let answer = try #require(answers[line.text], "zsh did not come to \(line.text)")
            #expect(answer.last == "END", "\(line.text): no answer, \(answer)")
            Self.check(line, answer, inPart: true)
        }
    }

    @Test(.enabled(if: shell("fish") != nil, "fish is not installed"))
    func fishCompletes() throws {
        let fish = try #require(Self.shell("fish"))
        let folder = try Self.folder("fish")
        for line in Self.lines + Self.parts {
            let answer = try Self.run(
                fish, ["--no-config", "-c", "source graft.fish; complete -C $argv[1]", line.text], in: folder)
            Self.check(line, answer, inPart: Self.parts.contains { $0.text == line.text })
        }
    }

    @Test func wordsAreListedAndFaultsAreNot() throws {
        let layers = try Graft.run(["completions", "layers", "--model", "resnet18"])
        #expect(layers.output.split(separator: "\n").contains("layer4.1.conv2"))
        #expect(layers.output.split(separator: "\n").contains("avgpool"))
        let selectors = try Graft.run(["completions", "selectors", "--model", "resnet18"])
        #expect(selectors.output.split(separator: "\n").contains("layer4.1"))
        #expect(selectors.output.split(separator: "\n").contains("head"))
        let devices = try Graft.run(["completions", "devices"]).output.split(separator: "\n")
        #expect(devices.starts(with: ["auto", "cpu"]))
        for (arguments, message) in [
            (["completions", "bsh"], "did you mean \"bash\"?"), (["completions"], "missing SHELL"),
            (["completions", "layers"], "needs --model MODEL or --weights F"),
            (["completions", "bash", "--model", "resnet18"], "applies to layers and selectors only"),
            (["completions", "layers", "--model", "resnet81"], "did you mean resnet18"),
        ] {
            let result = try Graft.run(arguments)
            #expect(result.status == 64)
            #expect(result.errors.contains(message), "\(result.errors)")
        }
    }

    /// Every command and every option of the help is in every script.
    @Test(arguments: ["bash", "zsh", "fish"]) func nothingIsLeftOut(_ shell: String) throws {
        let script = try Graft.run(["completions", shell]).output
        for command in HelpAndUsageTests.commands {
            #expect(script.contains(command))
            for word in try Graft.run(["help", command]).output.split(whereSeparator: { " \n".contains($0) })
            where word.hasPrefix("--") && word.count > 2 {
                let name = word.dropFirst(2).prefix { $0.isLetter || $0 == "-" }
                #expect(script.contains(shell == "fish" ? "-l \(name)" : "--\(name)"), "\(command) --\(name)")
            }
        }
    }
}
