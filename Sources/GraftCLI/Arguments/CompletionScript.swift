/// Scripts with which shells complete `graft`'s command line, made from the declarations alone.
///
/// What needs a network or a device is asked of `graft completions layers|selectors|devices` when it is needed.
struct CompletionScript: Sendable {
    var commands: [Command]
    /// Architectures' names.
    var models: [String]

    /// Words that may stand in the command's place.
    private var firstWords: [String] { commands.map(\.name) + ["help", "--help", "--version"] }

    /// Options of a command, `--help` among them.
    private func optionNames(_ command: Command) -> [String] { command.options.map(\.display) + ["--help"] }

    /// The command whose first positional argument names the network.
    private var commandsOfModels: [String] {
        commands.filter { $0.positionals.first?.completion == .models }.map(\.name)
    }

    // MARK: bash

    /// For `source <(graft completions bash)`; bash 3.2 and later.
    var bash: String {
        """
        # bash completion of graft, made by `graft completions bash`.

        # What stands behind an option of a command, or at a position of it.
        _graft_kind() {
            case "$1 $2" in
        \(bashKinds)
                *) echo nothing ;;
            esac
        }

        # The options of a command.
        _graft_options() {
            case "$1" in
        \(commands.map { "        \($0.name)) echo \"\(optionNames($0).joined(separator: " "))\" ;;" }
            .joined(separator: "\n"))
            esac
        }

        _graft() {
            local IFS=$' \\t\\n'
            local -a words=()
            local i word raw
            COMPREPLY=()
            # = and : part words for readline; here they do not.
            for ((i = 0; i <= COMP_CWORD; i++)); do
                raw=${COMP_WORDS[i]}
                if ((i > 1)) && [[ $raw == [=:]* || ${COMP_WORDS[i - 1]} == [=:]* ]]; then
                    words[${#words[@]} - 1]+=$raw
                else
                    words+=("$raw")
                fi
            done
            local count=${#words[@]}
            local current=${words[count - 1]}
            local command=${words[1]}
            if ((count == 2)); then
                COMPREPLY=($(compgen -W "\(firstWords.joined(separator: " "))" -- "$current"))
                compopt +o default 2>/dev/null
                return
            fi
            if [[ $command == help ]]; then
                COMPREPLY=($(compgen -W "\(commands.map(\.name).joined(separator: " "))" -- "$current"))
                compopt +o default 2>/dev/null
                return
            fi
            local position=1 expecting="" ended=""
            local -a network=()
            for ((i = 2; i < count - 1; i++)); do
                word=${words[i]}
                if [[ -n $expecting ]]; then
                    [[ $expecting == --model || $expecting == --weights && ${#network[@]} == 0 ]] &&
                        network=("$expecting" "$word")
                    expecting=""
                elif [[ -n $ended || $word != -* || $word == - ]]; then
                    case $command in
                        \(commandsOfModels.joined(separator: " | "))) network=(--model "$word") ;;
                    esac
                    ((position++))
                elif [[ $word == -- ]]; then
                    ended=1
                elif [[ $word == --model=* || $word == --weights=* && ${#network[@]} == 0 ]]; then
                    network=("${word%%=*}" "${word#*=}")
                elif [[ $word != *=* && $(_graft_kind "$command" "$word") != flag ]]; then
                    expecting=$word
                fi
            done
            local kind value=$current
            if [[ -n $expecting ]]; then
                kind=$(_graft_kind "$command" "$expecting")
            elif [[ -z $ended && $current == --*=* ]]; then
                kind=$(_graft_kind "$command" "${current%%=*}")
                value=${current#*=}
            elif [[ -z $ended && $current == -?* ]]; then
                COMPREPLY=($(compgen -W "$(_graft_options "$command")" -- "$current"))
                compopt +o default 2>/dev/null
                return
            else
                kind=$(_graft_kind "$command" "$position")
            fi
            local candidates="" prefix=""
            case $kind in
                # Where a function has no answer, readline completes file names itself.
                files) return ;;
                folders)
                    compopt +o default -o dirnames 2>/dev/null
                    return
                    ;;
                words\\ *) candidates=${kind#words } ;;
                devices) candidates=$("${words[0]/#\\~/$HOME}" completions devices 2>/dev/null) ;;
                layers | selectors | positioned)
                    prefix=${value%"${value##*,}"}
                    if [[ $kind == positioned && $value == *:* ]]; then
                        [[ -n $prefix ]] || prefix=${value%%:*}:
                        kind=selectors
                    fi
                    [[ $kind == positioned ]] ||
                        candidates=$("${words[0]/#\\~/$HOME}" completions "$kind" "${network[@]}" 2>/dev/null)
                    compopt -o nospace 2>/dev/null
                    ;;
            esac
            compopt +o default 2>/dev/null
            COMPREPLY=($(compgen -P "$prefix" -W "$candidates" -- "${value#"$prefix"}"))
            # readline replaces what stands behind the last colon only.
            if [[ $value == *:* && $COMP_WORDBREAKS == *:* ]]; then
                prefix=${value%"${value##*:}"}
                for ((i = 0; i < ${#COMPREPLY[@]}; i++)); do COMPREPLY[i]=${COMPREPLY[i]#"$prefix"}; done
            fi
        }

        complete -o default -F _graft graft

        """
    }

    /// The branches of `_graft_kind`, one for each kind.
    private var bashKinds: String {
        var patterns: [(kind: String, patterns: [String])] = []
        func add(_ pattern: String, _ kind: String) {
            if let index = patterns.firstIndex(where: { $0.kind == kind }) {
                patterns[index].patterns.append(pattern)
            } else {
                patterns.append((kind, [pattern]))
            }
        }
        for command in commands {
            for option in command.options {
                add(
                    "\"\(command.name) \(option.display)\"",
                    option.form == .flag ? "flag" : bashKind(option.completion))
            }
            for (index, argument) in command.positionals.enumerated() {
                let kind = bashKind(argument.completion)
                add("\"\(command.name) \"" + (argument.isRepeatable ? "[0-9]*" : "\(index + 1)"), kind)
            }
        }
        return patterns.filter { $0.kind != "nothing" }
            .map { "        \($0.patterns.joined(separator: " | "))) echo \"\($0.kind)\" ;;" }.joined(separator: "\n")
    }

    private func bashKind(_ completion: Completion) -> String {
        switch completion {
        case .nothing: "nothing"
        case .words(let words): "words " + words.joined(separator: " ")
        case .files: "files"
        case .folders: "folders"
        case .models: "words " + models.joined(separator: " ")
        case .devices: "devices"
        case .layers: "layers"
        case .selectors: "selectors"
        case .positionedSelectors: "positioned"
        }
    }

    // MARK: zsh

    /// For `source <(graft completions zsh)` behind `compinit`, or as the file `_graft` in a folder of `fpath`.
    var zsh: String {
        """
        #compdef graft
        # zsh completion of graft, made by `graft completions zsh`.

        # Words that graft itself knows.
        _graft_words() {
            local -a candidates
            candidates=(${(f)"$(${~${(Q)graft_program}} completions "$@" 2>/dev/null)"})
            compadd -a candidates
        }

        # The last entry of a list with commas, of the network that the line names.
        _graft_list() {
            local -a network candidates
            local i
            for ((i = 2; i <= $#words; i++)); do
                case $words[i] in
                    --model) network=(--model "${(Q)words[i + 1]}") ;;
                    --model=*) network=(--model "${(Q)words[i]#*=}") ;;
                    --weights) (($#network)) || network=(--weights "${(Q)words[i + 1]}") ;;
                    --weights=*) (($#network)) || network=(--weights "${(Q)words[i]#*=}") ;;
                    -*) ;;
                    *)
                        case $words[1] in
                            \(commandsOfModels.joined(separator: " | ")))
                                [[ $words[i-1] != -* ]] && network=(--model "${(Q)words[i]}") ;;
                        esac
                        ;;
                esac
            done
            compset -P '*,'
            candidates=(${(f)"$(${~${(Q)graft_program}} completions $1 $network 2>/dev/null)"})
            compadd -S '' -a candidates
        }

        # An epoch or a step, a colon, and a list.
        _graft_positioned() {
            compset -P '*:' || return 1
            _graft_list selectors
        }

        _graft() {
            local graft_program=$words[1]
            local -a commands
            commands=(
        \(commands.map { "        \(Self.quoted("\($0.name):\($0.summary)"))" }.joined(separator: "\n"))
                'help:Show the options of a command.'
            )
            if ((CURRENT == 2)); then
                if [[ $words[2] == -* ]]; then
                    compadd -- --help --version
                else
                    _describe -t commands command commands
                fi
                return
            fi
            shift words
            ((CURRENT--))
            case $words[1] in
                help)
                    ((CURRENT == 2)) && _describe -t commands command commands
                    ;;
        \(commands.map(zshBranch).joined(separator: "\n"))
            esac
        }

        if [[ $funcstack[1] == _graft ]]; then
            _graft "$@"
        else
            compdef _graft graft
        fi

        """
    }

    private func zshBranch(_ command: Command) -> String {
        var specifications = command.options.map { option in
            let text = Self.zshText(option.help)
            if option.form == .flag { return "\(option.display)[\(text)]" }
            return (option.isRepeatable ? "*" : "") + "\(option.display)=[\(text)]"
                + ":\(Self.zshText(option.placeholder)):\(zshAction(option.completion))"
        }
        specifications.append("(- *)--help[Show this command's options.]")
        specifications += command.positionals.enumerated().map { index, argument in
            "\(argument.isRepeatable ? "*" : "\(index + 1)"):\(Self.zshText(argument.placeholder)):"
                + zshAction(argument.completion)
        }
        let lines = specifications.map { "                    \(Self.quoted($0))" }
        return "        \(command.name))\n            _arguments \\\n" + lines.joined(separator: " \\\n")
            + "\n            ;;"
    }

    private func zshAction(_ completion: Completion) -> String {
        switch completion {
        case .nothing: " "
        case .words(let words): "(" + words.map { $0.replacing(":", with: "\\:") }.joined(separator: " ") + ")"
        case .files: "_files"
        case .folders: "_files -/"
        case .models: "(" + models.joined(separator: " ") + ")"
        // With a blank before it a function is called with its own words alone.
        case .devices: " _graft_words devices"
        case .layers: " _graft_list layers"
        case .selectors: " _graft_list selectors"
        case .positionedSelectors: " _graft_positioned"
        }
    }

    /// A text in a specification of `_arguments`.
    private static func zshText(_ text: String) -> String {
        var result = ""
        for character in text {
            if "\\[]:".contains(character) { result.append("\\") }
            result.append(character)
        }
        return result
    }

    // MARK: fish

    /// For `~/.config/fish/completions/graft.fish`, or `graft completions fish | source`.
    var fish: String {
        var lines = [
            """
            # fish completion of graft, made by `graft completions fish`.

            # Whether the line is one of a command.
            function __graft_in
                set -l words (commandline -opc)
                test (count $words) -ge 2; and contains -- $words[2] $argv
            end

            # Whether no command was given yet.
            function __graft_begins
                test (count (commandline -opc)) -eq 1
            end

            # The value that is being typed, without the option before it.
            function __graft_value
                string replace -r '^--[a-z-]+=' '' -- (commandline -ct)
            end

            # Words that graft itself knows.
            function __graft_words
                set -l words (commandline -opc)
                $words[1] completions $argv 2>/dev/null
            end

            # The network that the line names, as options.
            function __graft_network
                set -l words (commandline -opc)
                set -l weights
                for i in (seq 2 (count $words))
                    set -l next (math $i + 1)
                    switch $words[$i]
                        case --model
                            set -q words[$next]; and printf '%s\\n' --model $words[$next]; and return
                        case '--model=*'
                            printf '%s\\n' $words[$i]
                            return
                        case --weights
                            set -q words[$next]; and set weights --weights $words[$next]
                        case '--weights=*'
                            set weights $words[$i]
                    end
                end
                if contains -- $words[2] \(commandsOfModels.joined(separator: " ")); and set -q words[3]
                    printf '%s\\n' --model $words[3]
                else if set -q weights[1]
                    printf '%s\\n' $weights
                end
            end

            # The last entry of a list with commas, behind a prefix that matches a pattern.
            function __graft_list
                set -l start (string match -r -- $argv[2] (__graft_value))
                test (count $start) -ge 1; or return
                for word in (__graft_words $argv[1] (__graft_network))
                    echo "$start[1]$word"
                end
            end

            function __graft_folders
                __fish_complete_directories (__graft_value) ''
            end

            complete -c graft -f
            complete -c graft -n __graft_begins -l help -d 'Show all commands.'
            complete -c graft -n __graft_begins -l version -d 'Show the version.'
            complete -c graft -n __graft_begins -a help -d 'Show the options of a command.'
            complete -c graft -n '__graft_in help' -a \(Self.fishQuoted(commands.map(\.name).joined(separator: " ")))
            """
        ]
        for command in commands {
            lines.append("")
            lines.append(
                "complete -c graft -n __graft_begins -a \(command.name) -d \(Self.fishQuoted(command.summary))")
            let condition = "complete -c graft -n '__graft_in \(command.name)'"
            lines.append("\(condition) -l help -d \(Self.fishQuoted("Show this command's options."))")
            for option in command.options {
                let value = option.form == .flag ? "" : " " + fishValue(option.completion, isOption: true)
                lines.append("\(condition) -l \(option.name)\(value) -d \(Self.fishQuoted(option.help))")
            }
            for argument in command.positionals where argument.completion != .nothing {
                lines.append("\(condition) \(fishValue(argument.completion, isOption: false))")
            }
        }
        return lines.joined(separator: "\n") + "\n"
    }

    private func fishValue(_ completion: Completion, isOption: Bool) -> String {
        let words: String
        switch completion {
        case .nothing: return "-x"
        case .files: return isOption ? "-r -F" : "-F"
        case .words(let list): words = list.joined(separator: " ")
        case .folders: words = "(__graft_folders)"
        case .models: words = models.joined(separator: " ")
        case .devices: words = "(__graft_words devices)"
        case .layers: words = "(__graft_list layers '^(.*,)?')"
        case .selectors: words = "(__graft_list selectors '^(.*,)?')"
        case .positionedSelectors: words = "(__graft_list selectors '^[0-9]+:(.*,)?')"
        }
        return (isOption ? "-x " : "") + "-a \(Self.fishQuoted(words))"
    }

    private static func fishQuoted(_ text: String) -> String {
        "'" + text.replacing("\\", with: "\\\\").replacing("'", with: "\\'") + "'"
    }

    /// A word in single quotes, for bash and zsh.
    private static func quoted(_ text: String) -> String { "'" + text.replacing("'", with: "'\\''") + "'" }
}
