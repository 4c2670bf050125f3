import Foundation

/// Text from outside (class names, paths, command lines) made harmless in HTML and SVG, in content and in attributes.
///
/// Control characters, which no HTML may hold, become U+FFFD.
package func escapedHTML(_ text: String) -> String {
    var result = ""
    result.reserveCapacity(text.utf8.count)
    for scalar in text.unicodeScalars {
        switch scalar {
        case "&": result += "&amp;"
        case "<": result += "&lt;"
        case ">": result += "&gt;"
        case "\"": result += "&quot;"
        case "'": result += "&#39;"
        case "\n", "\t": result.unicodeScalars.append(scalar)
        case _ where scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value): result += "\u{FFFD}"
        default: result.unicodeScalars.append(scalar)
        }
    }
    return result
}

/// Numbers as the page writes them.
enum ReportNumber {
    /// At most so many decimals, without trailing zeros.
    static func plain(_ value: Double, decimals: Int = 4) -> String {
        guard value.isFinite else { return "\(value)" }
        var text = String(format: "%.\(decimals)f", value)
        if text.contains(".") {
            while text.hasSuffix("0") { text.removeLast() }
            if text.hasSuffix(".") { text.removeLast() }
        }
        return text == "-0" ? "0" : text
    }

    /// Coordinates within a chart.
    static func coordinate(_ value: Double) -> String { plain(value, decimals: 1) }

    /// `92.8 %`.
    static func percent(_ fraction: Double, decimals: Int = 1) -> String {
        String(format: "%.\(decimals)f", fraction * 100) + "\u{202F}%"
    }

    /// Three significant digits, with an exponent where that is shorter: `0.001`, `3e-05`.
    static func rate(_ value: Double) -> String { String(format: "%.3g", value) }

    /// `11,689,512`.
    static func grouped(_ number: Int) -> String {
        var digits = String(number.magnitude)
        var result = ""
        while digits.count > 3 {
            result = "," + digits.suffix(3) + result
            digits.removeLast(3)
        }
        return (number < 0 ? "-" : "") + digits + result
    }

    /// `42 s`, `3 min 20 s`, `2 h 5 min`.
    static func duration(_ seconds: Double) -> String {
        guard seconds.isFinite, seconds >= 0, seconds < 1e10 else { return "–" }
        if seconds < 10 { return String(format: "%.1f s", seconds) }
        let total = Int(seconds.rounded())
        if total < 60 { return "\(total) s" }
        if total < 3600 { return "\(total / 60) min \(total % 60) s" }
        return "\(total / 3600) h \(total / 60 % 60) min"
    }
}
