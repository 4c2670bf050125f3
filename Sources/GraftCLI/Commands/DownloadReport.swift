import Graft

/// Says on standard error how a download goes.
///
/// Events come one after the other on the thread that asked for the file; that is why it may be shared.
final class DownloadReport: @unchecked Sendable {
    private let isQuiet: Bool
    private var progress: ProgressLine?
    private static let unit = 1_000_000

    init(isQuiet: Bool) { self.isQuiet = isQuiet }

    /// Takes the bar away.
    func finish() {
        progress?.finish()
        progress = nil
    }

    func receive(_ event: WeightsDownload.Event) {
        switch event {
        case .waiting(let name): note("waiting for another process that downloads \(name)")
        case .started(let address, let first, let total):
            note(
                "downloading \(address)" + (total.map { ", \(formatBytes($0))" } ?? "")
                    + (first > 0 ? ", from byte \(first) on" : ""))
            guard let total else { return }
            progress = ProgressLine(
                "download", total: Self.rounded(total), unit: "MB", first: first / Self.unit, isQuiet: isQuiet)
        case .progress(let done, _): progress?.update(done / Self.unit)
        case .retrying(let reason):
            finish()
            Console.warning("the download broke off: \(reason); trying again")
        case .damaged(let path):
            Console.warning("\(path) has not the SHA-256 that its name promises; downloading it anew")
        case .finished(let path):
            finish()
            note("kept as \(path)")
        }
    }

    private static func rounded(_ byteCount: Int) -> Int { (byteCount + unit - 1) / unit }

    private func note(_ text: String) {
        if !isQuiet { Console.note(text) }
    }
}
