/// Rows of text in columns, within the terminal, at most 100.
struct Table: Sendable {
    enum Alignment: Sendable { case left, right }

    struct Column: Sendable {
        var title: String
        var alignment: Alignment = .left
        /// Columns that may be cut, the widest first, when the table would be too wide.
        var isFlexible = false
    }

    var columns: [Column]
    var rows: [[String]] = []

    init(_ columns: [Column]) { self.columns = columns }

    /// The table as text, each line ended. Cut cells end in `…`.
    func text(width: Int = HelpText.width) -> String {
        let gap = 2
        var widths = columns.indices.map { column in
            rows.reduce(columns[column].title.count) { max($0, $1[column].count) }
        }
        var surplus = widths.reduce(0, +) + gap * (columns.count - 1) - width
        while surplus > 0 {
            let candidates = columns.indices.filter { columns[$0].isFlexible && widths[$0] > 8 }
            guard let widest = candidates.max(by: { widths[$0] < widths[$1] }) else { break }
            widths[widest] -= 1
            surplus -= 1
        }
        var result = line(columns.map(\.title), widths, gap)
        for row in rows { result += line(row, widths, gap) }
        return result
    }

    private func line(_ cells: [String], _ widths: [Int], _ gap: Int) -> String {
        var text = ""
        for (index, cell) in cells.enumerated() {
            let cut = cell.count > widths[index] ? cell.prefix(widths[index] - 1) + "…" : cell[...]
            let padding = String(repeating: " ", count: widths[index] - cut.count)
            if index > 0 { text += String(repeating: " ", count: gap) }
            text += columns[index].alignment == .left ? cut + padding : padding + cut
        }
        while text.last == " " { text.removeLast() }
        return text + "\n"
    }
}

/// `11,689,512`: whole numbers in tables.
func grouped(_ number: Int) -> String {
    var digits = String(number.magnitude)
    var result = ""
    while digits.count > 3 {
        result = "," + digits.suffix(3) + result
        digits.removeLast(3)
    }
    return (number < 0 ? "-" : "") + digits + result
}

/// A number with a fixed count of decimals.
func fixed(_ value: Double, _ decimals: Int) -> String {
    guard value.isFinite else { return "\(value)" }
    var scale = 1.0
    for _ in 0..<decimals { scale *= 10 }
    let scaled = (value.magnitude * scale).rounded()
    guard scaled < 1e15 else { return "\(value)" }
    let whole = Int(scaled) / Int(scale)
    let part = String(Int(scaled) % Int(scale))
    let sign = value < 0 && scaled > 0 ? "-" : ""
    guard decimals > 0 else { return sign + "\(whole)" }
    return sign + "\(whole)." + String(repeating: "0", count: decimals - part.count) + part
}

/// `92.81 %`.
func percent(_ fraction: Double) -> String { fixed(fraction * 100, 2) + " %" }

/// `1:05` or `2:03:09`.
func clock(_ seconds: Double) -> String {
    guard seconds.isFinite, seconds >= 0, seconds < 1e9 else { return "?" }
    let total = Int(seconds.rounded())
    let pad = { (number: Int) in number < 10 ? "0\(number)" : "\(number)" }
    let hours = total / 3600
    return hours > 0 ? "\(hours):\(pad(total / 60 % 60)):\(pad(total % 60))" : "\(total / 60):\(pad(total % 60))"
}
