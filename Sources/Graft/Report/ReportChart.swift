import Foundation

/// A line chart: an SVG that stretches to the width of the page, with labels in HTML so that they keep their size.
struct ReportChart {
    /// A line of a chart.
    struct Series {
        var name: String
        /// Chooses colour and dash: `train`, `epoch`, `val`, `average`, `rate`.
        var style: String
        var points: [(x: Double, y: Double)]
        /// The range around the line, drawn pale.
        var band: [(x: Double, low: Double, high: Double)] = []
        /// Whether each point gets a dot.
        var hasDots = false
    }

    /// Something that happened at a position.
    struct Marker {
        var x: Double
        var label: String
    }

    var title: String
    var series: [Series]
    var markers: [Marker] = []
    var xRange: ClosedRange<Double>
    /// The smallest range that the y axis shows; it grows with the data.
    var yRange: ClosedRange<Double>?
    var format: (Double) -> String
    /// Whether values are ratios to each other: steps of powers of ten.
    var isLogarithmic = false
    /// The whole in a sentence, for those who do not see it.
    var description: String
    var isSmall = false

    private static let size = 1000.0

    /// The chart; nothing without data.
    func html() -> String {
        let drawn = series.filter { !$0.points.isEmpty }
        guard !drawn.isEmpty else { return "" }
        let axis = axis(drawn)
        let xSpan = max(xRange.upperBound - xRange.lowerBound, 1e-9)
        func x(_ value: Double) -> Double { (value - xRange.lowerBound) / xSpan }
        func y(_ value: Double) -> Double {
            let value = isLogarithmic ? log10(max(value, 1e-30)) : value
            return min(max(1 - (value - axis.low) / (axis.high - axis.low), -0.02), 1.02)
        }
        func point(_ px: Double, _ py: Double) -> String {
            "\(ReportNumber.coordinate(x(px) * Self.size)) \(ReportNumber.coordinate(y(py) * Self.size))"
        }
        var svg = ""
        for tick in axis.ticks {
            let place = ReportNumber.coordinate(y(tick) * Self.size)
            svg += "<path class=\"grid\" d=\"M0 \(place)H1000\"/>"
        }
        for marker in markers {
            svg += "<path class=\"mark\" d=\"M\(ReportNumber.coordinate(x(marker.x) * Self.size)) 0V1000\"/>"
        }
        for line in drawn {
            if line.band.count > 1 {
                let upper = line.band.map { point($0.x, $0.high) }.joined(separator: "L")
                let lower = line.band.reversed().map { point($0.x, $0.low) }.joined(separator: "L")
                svg += "<path class=\"band \(line.style)\" d=\"M\(upper)L\(lower)Z\"/>"
            }
            if line.points.count > 1 {
                let path = line.points.map { point($0.x, $0.y) }.joined(separator: "L")
                svg += "<path class=\"line \(line.style)\" d=\"M\(path)\"/>"
            }
            if line.hasDots || line.points.count == 1 {
                // A line of no length with round ends is a dot that stays round when the picture is stretched.
                let dots = line.points.map { "M\(point($0.x, $0.y))h0" }.joined()
                svg += "<path class=\"dot \(line.style)\" d=\"\(dots)\"/>"
            }
        }
        var labels = ""
        for tick in axis.ticks {
            labels += "<span class=\"y\" style=\"top:\(share(y(tick)))\">\(escapedHTML(format(tick)))</span>"
        }
        for tick in Self.ticks(xRange.lowerBound, xRange.upperBound, count: 8, isWhole: xSpan > 2) {
            labels += "<span class=\"x\" style=\"left:\(share(x(tick)))\">\(ReportNumber.plain(tick))</span>"
        }
        for (index, marker) in markers.enumerated() {
            let side = x(marker.x) > 0.6 ? " left" : ""
            labels +=
                "<span class=\"note\(side)\" style=\"left:\(share(x(marker.x)));top:\(index % 4 * 18 + 2)px\">"
                + "\(escapedHTML(marker.label))</span>"
        }
        let legend = drawn.map { line in
            "<span class=\"key\"><svg viewBox=\"0 0 24 10\" aria-hidden=\"true\"><path class=\"line \(line.style)\" "
                + "d=\"M1 5H23\"/>"
                + (line.hasDots ? "<path class=\"dot \(line.style)\" d=\"M12 5h0\"/>" : "")
                + "</svg>\(escapedHTML(line.name))</span>"
        }
        return """
            <figure class="chart\(isSmall ? " small" : "")">
            <figcaption><b>\(escapedHTML(title))</b>\(drawn.count > 1 ? legend.joined() : "")</figcaption>
            <div class="plot" role="img" aria-label="\(escapedHTML(description))">
            <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">\(svg)</svg>\(labels)
            </div>
            <div class="xname" aria-hidden="true">epoch</div>
            </figure>

            """
    }

    private func share(_ value: Double) -> String { ReportNumber.plain(value * 100, decimals: 2) + "%" }

    /// The y axis, in logarithms where the scale is logarithmic; ticks are values.
    private func axis(_ drawn: [Series]) -> (low: Double, high: Double, ticks: [Double]) {
        let values = drawn.flatMap { line in line.points.map(\.y) }.filter(\.isFinite)
        var low = values.min() ?? 0
        var high = values.max() ?? 1
        if isLogarithmic {
            low = floor(log10(max(low, 1e-30)) - 0.001)
            high = ceil(log10(max(high, 1e-30)) + 0.001)
            let stride = max(1, Int((high - low) / 5))
            let ticks = Swift.stride(from: Int(low), through: Int(high), by: stride).map { pow(10, Double($0)) }
            return (low, high, ticks)
        }
        if let yRange {
            low = min(low, yRange.lowerBound)
            high = max(high, yRange.upperBound)
        }
        if high - low < 1e-12 {
            let margin = max(abs(high) * 0.1, 1e-6)
            low -= margin
            high += margin
        }
        let step = Self.step(low, high, count: isSmall ? 3 : 5)
        low = floor(low / step + 1e-9) * step
        high = ceil(high / step - 1e-9) * step
        let count = Int(((high - low) / step).rounded())
        return (low, high, (0...max(count, 1)).map { low + Double($0) * step })
    }

    /// The round number nearest to a share of a range.
    private static func step(_ low: Double, _ high: Double, count: Int) -> Double {
        let raw = (high - low) / Double(count)
        let power = pow(10, floor(log10(raw)))
        let factor = raw / power
        return power * (factor < 1.5 ? 1 : factor < 3.5 ? 2 : factor < 7.5 ? 5 : 10)
    }

    private static func ticks(_ low: Double, _ high: Double, count: Int, isWhole: Bool) -> [Double] {
        guard high > low else { return [low] }
        var step = step(low, high, count: count)
        if isWhole { step = max(1, step.rounded()) }
        return stride(from: ceil(low / step) * step, through: high + step * 1e-6, by: step).map { $0 }
    }
}

extension ReportChart.Series {
    /// Many noisy values as a smooth line with the range of what it smooths: at most 240 points.
    ///
    /// The line is an exponential mean, free of the bias of its start, over about a fortieth of the values.
    static func smoothed(name: String, style: String, _ values: [(x: Double, y: Double)]) -> ReportChart.Series {
        let finite = values.filter { $0.y.isFinite }
        var line = ReportChart.Series(name: name, style: style, points: [])
        guard !finite.isEmpty else { return line }
        let decay = finite.count < 40 ? 0 : 1 - 1 / (Double(finite.count) / 40)
        var mean = 0.0
        var weight = 0.0
        var means: [Double] = []
        for value in finite {
            mean = decay * mean + (1 - decay) * value.y
            weight = decay * weight + (1 - decay)
            means.append(mean / weight)
        }
        let bucket = (finite.count + 239) / 240
        for start in stride(from: 0, to: finite.count, by: bucket) {
            let range = start..<min(start + bucket, finite.count)
            let last = range.upperBound - 1
            line.points.append((finite[last].x, means[last]))
            if finite.count >= 40 {
                let window = finite[max(0, start - bucket)..<range.upperBound].map(\.y)
                line.band.append((finite[last].x, window.min() ?? 0, window.max() ?? 0))
            }
        }
        return line
    }
}
