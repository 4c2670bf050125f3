import Foundation
import Graft

/// The whole of `graft`: one command line in, one exit code out.
enum CommandLineTool {
    static let commands: [Command] = [
        DevicesCommand.command, ModelsCommand.command, SummaryCommand.command, TrainCommand.command,
        FindLearningRateCommand.command, ReportCommand.command, EvaluateCommand.command, PredictCommand.command,
        ExplainCommand.command, ExtractCommand.command, ProbeCommand.command, ConvertCommand.command,
        BenchCommand.command, TuneCommand.command, DoctorCommand.command, DemoCommand.command,
        CompletionsCommand.command,
    ]

    /// What `graft --version` prints: all that a report of an error should say of the program itself.
    private static func versionText() throws -> String {
        """
        graft \(BuildInformation.version)
        build            \(BuildInformation.configuration), \(BuildInformation.hasOpenCL ? "with" : "without") OpenCL
        instruction set  \(try BuildInformation.instructionSet())

        """
    }

    static func run(_ words: [String]) -> ExitCode {
        do {
            let parser = ArgumentParser(commands: commands, environment: ProcessInfo.processInfo.environment)
            switch try parser.parse(words) {
            case .overview: try Console.result(HelpText.overview(of: commands))
            case .help(let command): try Console.result(HelpText.page(of: command))
            case .version: try Console.result(versionText())
            case .run(let command, let values): try command.run(values)
            }
            return .success
        } catch {
            let failure = CommandFailure(describing: error)
            if !failure.message.isEmpty { Console.error(failure.message) }
            return failure.code
        }
    }
}
