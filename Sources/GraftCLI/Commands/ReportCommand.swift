import Graft

/// `graft report`
enum ReportCommand {
    static let run = Argument.positional(
        "RUN", .path("RUN"), placeholderValue: "", help: "Folder of a run of `graft train`.")
    static let out = Argument.optional(
        "out", .path("F"), shownAs: "report.html in RUN", example: "page.html", help: "Where the page goes.")

    static let command = Command(
        name: "report",
        summary: "Make the page report.html of a run anew.",
        discussion: """
            The page is made of run.json, steps.csv, epochs.csv and confusion.csv in RUN; pictures of mistakes come from \
            the images' own files, if they are still there. `graft train` writes it behind every epoch by itself.
            """,
        examples: ["graft report runs/a", "graft report runs/a --out page.html"],
        groups: [ArgumentGroup("Input", [run]), ArgumentGroup("Output", [out])]
    ) { values in
        try Console.result(RunFolder.rebuildReport(of: values[run], to: values[out]) + "\n")
    }
}
