import Foundation

/// Progress on standard error: a bar that redraws itself on a terminal, at most one plain line every few seconds
/// elsewhere, nothing under `--quiet`.
final class ProgressLine {
    private let title: String
    private let unit: String
    private let total: Int
    private let isQuiet: Bool
    private let first: Int
    private let clockStart = ContinuousClock.now
    private var lastShown: ContinuousClock.Instant
    private var isDrawn = false
    private var detail = ""

    /// Seconds between redraws of the bar, and between plain lines.
    private static let barInterval = 0.1
    private static let lineInterval = 5.0

    /// - Parameters:
    ///   - title: what is being done: `epoch 3/10`.
    ///   - total: how many units there are.
    ///   - unit: what is counted, in the plural: `images`.
    ///   - first: units that were done before, and do not count for the rate.
    ///   - isQuiet: whether nothing is shown at all.
    init(_ title: String, total: Int, unit: String, first: Int = 0, isQuiet: Bool) {
        self.title = title
        self.total = total
        self.unit = unit
        self.isQuiet = isQuiet
        self.first = first
        lastShown = clockStart
    }

    /// Shows that `done` units are done; `detail` is appended, such as the loss.
    func update(_ done: Int, detail: String = "") {
        guard !isQuiet else { return }
        self.detail = detail
        let now = ContinuousClock.now
        let interval = Console.isTerminal ? Self.barInterval : Self.lineInterval
        guard seconds(from: lastShown, to: now) >= interval else { return }
        lastShown = now
        if Console.isTerminal {
            Console.diagnostic("\r" + bar(done, now: now) + "\u{1B}[K")
            isDrawn = true
        } else {
            Console.diagnostic("\(title): \(done)/\(total) \(unit)\(rate(done, now: now))\(suffix)\n")
        }
    }

    /// Takes the bar away. What the work came to is for the caller to print.
    func finish() {
        if isDrawn { Console.diagnostic("\r\u{1B}[K") }
        isDrawn = false
    }

    private func bar(_ done: Int, now: ContinuousClock.Instant) -> String {
        let cells = 24
        let filled = total > 0 ? min(cells, done * cells / total) : 0
        let picture = String(repeating: "━", count: filled) + String(repeating: "─", count: cells - filled)
        return String("\(title) \(picture) \(done)/\(total)\(rate(done, now: now))\(suffix)".prefix(HelpText.width - 1))
    }

    private var suffix: String { detail.isEmpty ? "" : ", \(detail)" }

    /// `, 52.1 images/s, 0:12 left`.
    private func rate(_ done: Int, now: ContinuousClock.Instant) -> String {
        let elapsed = seconds(from: clockStart, to: now)
        guard done > first, elapsed > 0 else { return "" }
        let perSecond = Double(done - first) / elapsed
        return ", \(fixed(perSecond, 1)) \(unit)/s, \(clock(Double(total - done) / perSecond)) left"
    }

    private func seconds(from start: ContinuousClock.Instant, to end: ContinuousClock.Instant) -> Double {
        (end - start) / .seconds(1)
    }
}
