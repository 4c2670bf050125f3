import Foundation

/// A run as one page of HTML: no script, nothing from the network, readable on a phone and in the dark.
struct ReportPage {
    private let run: RunDescription
    private let history: RunHistory
    private let thumbnails: ThumbnailStore
    /// Where each step ends, in epochs.
    private let positions: [Double]

    init(_ run: RunDescription, _ history: RunHistory, thumbnails: ThumbnailStore) {
        self.run = run
        self.history = history
        self.thumbnails = thumbnails
        var counts: [Int: Int] = [:]
        for step in history.steps { counts[step.epoch, default: 0] += 1 }
        let longest = counts.values.max() ?? 1
        let done = Set(history.epochs.map(\.epoch))
        var seen: [Int: Int] = [:]
        positions = history.steps.map { step in
            seen[step.epoch, default: 0] += 1
            // An epoch that is not over has as many steps as the longest so far.
            let all = done.contains(step.epoch) ? counts[step.epoch] ?? 1 : longest
            return Double(step.epoch) + Double(seen[step.epoch] ?? 0) / Double(max(all, 1))
        }
    }

    private var classes: [String] { run.network.classes }

    /// The page.
    func html() -> String {
        let title = "\(run.network.architecture) on \(dataName)"
        let parts = [
            header(title), cards, failure, command, curves, plan, confusion, perClass, mistakes, epochs, conditions,
        ]
        return """
            <!doctype html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
            <meta name="color-scheme" content="light dark">
            <title>\(escapedHTML(title)) – Graft</title>
            <style>\(ReportStyle.sheet)</style>
            </head>
            <body>
            <main>
            \(parts.joined())<footer>Made by graft\(run.versions["graft"].map { " \(escapedHTML($0))" } ?? "") from \
            run.json, steps.csv, epochs.csv and confusion.csv beside it. \
            <code>graft report</code> makes it again.</footer>
            </main>
            </body>
            </html>

            """
    }

    private var dataName: String {
        guard let folder = run.training.folder else { return "\(run.training.count) images" }
        let parts = folder.split(separator: "/")
        return parts.last == "train" && parts.count > 1
            ? String(parts[parts.count - 2]) : parts.last.map(String.init) ?? "/"
    }

    // MARK: Top

    private func header(_ title: String) -> String {
        let status =
            switch run.status {
            case .running: "running"
            case .finished: "finished"
            case .interrupted: "interrupted"
            case .failed: "failed"
            }
        let trained = run.phases.last.map { phase in
            "\(ReportNumber.grouped(phase.plan.trainableCount)) of \(ReportNumber.grouped(run.network.parameterCount)) "
                + "parameters train"
        }
        let lines = [
            "\(classes.count) classes, \(run.training.count) images to train on"
                + (run.validation.map { ", \($0.count) to validate on" } ?? ""),
            trained,
            run.network.weights.map { "first weights: \(URL(fileURLWithPath: $0).lastPathComponent)" }
                ?? "random first weights",
            run.stoppedEarlyBestEpoch.map { "stopped early: the validation loss has not fallen since epoch \($0)" },
        ].compactMap { $0 }
        return """
            <header>
            <h1><bdi>\(escapedHTML(title))</bdi> <span class="pill \(status)">\(status)</span></h1>
            <p>\(escapedHTML(lines.joined(separator: " · ")))</p>
            </header>

            """
    }

    private var secondsInAll: Double {
        run.sessions.reduce(0) { $0 + max(0, $1.ended.timeIntervalSince($1.started)) }
    }

    private var cards: String {
        var entries: [(value: String, label: String)] = []
        if let best = run.best {
            entries.append(
                (
                    ReportNumber.percent(best.top1),
                    "best validation accuracy\(best.isAverage == true ? " of the averaged weights" : ""), epoch \(best.epoch)"
                ))
        }
        if let last = history.epochs.last {
            if let accuracy = last.validationAccuracy {
                entries.append((ReportNumber.percent(accuracy), "validation accuracy, last epoch"))
            } else {
                entries.append((ReportNumber.percent(last.trainAccuracy), "training accuracy, last epoch"))
            }
            entries.append((ReportNumber.plain(last.trainLoss), "training loss, last epoch"))
        } else if let step = history.steps.last {
            entries.append((ReportNumber.plain(step.loss), "training loss, last step"))
        }
        entries.append(("\(history.epochs.count)", "epochs, \(history.steps.count) steps"))
        entries.append((ReportNumber.duration(secondsInAll), "on \(run.device.selector)"))
        let speeds = history.steps.suffix(50).map(\.imagesPerSecond).filter(\.isFinite).sorted()
        if !speeds.isEmpty {
            entries.append(
                (
                    ReportNumber.plain(speeds[speeds.count / 2], decimals: speeds[speeds.count / 2] < 100 ? 1 : 0),
                    "images a second, last steps"
                ))
        }
        return "<div class=\"cards\">"
            + entries.map { "<div><b>\(escapedHTML($0.value))</b><span>\(escapedHTML($0.label))</span></div>" }.joined()
            + "</div>\n"
    }

    private var failure: String {
        guard run.status == .failed, let message = run.message else { return "" }
        return "<section class=\"message\"><h2>It failed</h2><p>\(escapedHTML(message))</p></section>\n"
    }

    private var command: String {
        guard !run.command.isEmpty else { return "" }
        let text = run.command.map(Self.shellQuoted).joined(separator: " ")
        return "<section aria-label=\"Command\"><h2>Command</h2><pre>\(escapedHTML(text))</pre></section>\n"
    }

    /// A word as a shell takes it.
    static func shellQuoted(_ word: String) -> String {
        let safe = word.unicodeScalars.allSatisfy {
            $0.isASCII && ($0.properties.isAlphabetic || "0123456789-_./:=,+@%".unicodeScalars.contains($0))
        }
        return safe && !word.isEmpty ? word : "'" + word.replacingOccurrences(of: "'", with: "'\\''") + "'"
    }

    // MARK: Curves

    private var curves: String {
        guard !history.steps.isEmpty else {
            return "<section><h2>Curves</h2><p class=\"soft\">No step was written yet.</p></section>\n"
        }
        let last = max(positions.last ?? 1, Double(history.epochs.last.map { $0.epoch + 1 } ?? 0))
        let range = 0...max(last, 1e-6)
        let markers = run.phases.filter { $0.selector != nil }.map { phase in
            ReportChart.Marker(
                x: position(ofStep: phase.step, epoch: phase.epoch), label: "+ \(phase.selector ?? "")")
        }
        func perStep(_ name: String, _ value: (StepRecord) -> Double) -> ReportChart.Series {
            .smoothed(name: name, style: "train", zip(positions, history.steps).map { ($0, value($1)) })
        }
        func perEpoch(_ name: String, _ style: String, _ value: (RunHistory.Epoch) -> Double?) -> ReportChart.Series {
            let points = history.epochs.compactMap { epoch in
                value(epoch).flatMap { $0.isFinite ? (x: Double(epoch.epoch + 1), y: $0) : nil }
            }
            return ReportChart.Series(name: name, style: style, points: points, hasDots: points.count <= 60)
        }
        let unfrozen = run.phases.filter { $0.selector != nil }.map { "\($0.selector ?? "") from epoch \($0.epoch)" }
        let unfreezing = unfrozen.isEmpty ? "" : " Unfrozen: \(unfrozen.joined(separator: ", "))."
        func sentence(
            _ what: String, _ train: (RunHistory.Epoch) -> Double, _ val: (RunHistory.Epoch) -> Double?,
            _ text: (Double) -> String
        ) -> String {
            guard let first = history.epochs.first, let last = history.epochs.last else {
                return "\(what) over \(history.steps.count) steps."
            }
            var result =
                "\(what) over \(history.epochs.count) epochs: training from \(text(train(first))) to \(text(train(last)))"
            if let begin = val(first), let end = val(last) {
                result += ", validation from \(text(begin)) to \(text(end))"
            }
            return result + "." + unfreezing
        }
        let losses = [
            perStep("training, per step", \.loss), perEpoch("training, per epoch", "epoch", \.trainLoss),
            perEpoch("validation", "val", \.validationLoss),
            perEpoch("validation of the averaged weights", "average", \.averagedValidationLoss),
        ]
        let drawn = losses.flatMap(\.points).map(\.y)
        let least = drawn.min() ?? 0
        let loss = ReportChart(
            title: "Loss", series: losses, markers: markers, xRange: range,
            yRange: least >= 0 && least < (drawn.max() ?? 1) * 0.4 ? 0...least : nil,
            format: { ReportNumber.plain($0) },
            description: sentence("Loss", \.trainLoss, \.validationLoss) { ReportNumber.plain($0) })
        let accuracy = ReportChart(
            title: "Accuracy",
            series: [
                perStep("training, per step", \.accuracy), perEpoch("training, per epoch", "epoch", \.trainAccuracy),
                perEpoch("validation", "val", \.validationAccuracy),
                perEpoch("validation of the averaged weights", "average", \.averagedValidationAccuracy),
            ], markers: markers, xRange: range, format: { ReportNumber.plain($0 * 100, decimals: 2) + " %" },
            description: sentence("Accuracy", \.trainAccuracy, \.validationAccuracy) { ReportNumber.percent($0) })
        let rates = history.steps.map(\.learningRate).filter { $0 > 0 }
        let isWide = (rates.max() ?? 1) > 50 * (rates.min() ?? 1)
        let rate = ReportChart(
            title: "Learning rate", series: [thinned(name: "learning rate", style: "rate") { $0.learningRate }],
            xRange: range,
            yRange: isWide ? nil : 0...(rates.max() ?? 1), format: ReportNumber.rate, isLogarithmic: isWide,
            description: "Learning rate from \(ReportNumber.rate(history.steps.first?.learningRate ?? 0)) to "
                + "\(ReportNumber.rate(history.steps.last?.learningRate ?? 0)).", isSmall: true)
        let speed = ReportChart(
            title: "Images a second", series: [perStep("images a second", \.imagesPerSecond)], xRange: range,
            yRange: 0...0, format: { ReportNumber.plain($0, decimals: 1) },
            description: "Images a second over the run.", isSmall: true)
        return """
            <section aria-label="Curves"><h2>Curves</h2>
            <p class="soft">Training values are those before each update, smoothed, with their range behind the line; \
            validation follows each epoch\(markers.isEmpty ? "" : "; dashed lines mark where layers began to train").</p>
            <div class="charts">
            \(loss.html())\(accuracy.html())\(rate.html())\(speed.html())</div>
            </section>

            """
    }

    /// The position of a step's beginning, in epochs.
    private func position(ofStep step: Int, epoch: Int) -> Double {
        guard let index = history.steps.firstIndex(where: { $0.step >= step }) else { return Double(epoch) }
        let isFirst = index == 0 || history.steps[index - 1].epoch != history.steps[index].epoch
        return isFirst ? Double(history.steps[index].epoch) : positions[index - 1]
    }

    /// Exact values, of each stretch of equal ones only the ends.
    private func thinned(name: String, style: String, _ value: (StepRecord) -> Double) -> ReportChart.Series {
        let values = history.steps.map(value)
        let stride = max(1, values.count / 400)
        let kept = values.indices.filter { index in
            let isTurn =
                index == 0 || index == values.count - 1
                || (values[index] != values[index - 1]) != (values[index + 1] != values[index])
            return isTurn || (values[index] != values[index - 1] && index % stride == 0)
        }
        return ReportChart.Series(name: name, style: style, points: kept.map { (positions[$0], values[$0]) })
    }

    // MARK: Plan

    private static func words(_ role: TrainingRole) -> String {
        switch role {
        case .trainable: "trains"
        case .passing: "frozen, passes gradients"
        case .kept: "frozen, kept"
        case .frozen: "frozen"
        }
    }

    private var plan: String {
        guard let last = run.phases.last else { return "" }
        let phases = run.phases.count <= 6 ? run.phases : [run.phases[0]] + run.phases.suffix(5)
        var rows = ""
        for (index, block) in last.plan.blocks.enumerated() {
            rows += "<tr><th scope=\"row\">\(escapedHTML(block.name))</th>"
            rows += "<td>\(ReportNumber.grouped(block.parameterCount))</td>"
            for phase in phases where phase.plan.blocks.indices.contains(index) {
                let state = phase.plan.blocks[index]
                let isPart = state.role == .trainable && state.trainableCount < state.parameterCount
                let words = isPart ? "a part trains" : Self.words(state.role)
                rows += "<td class=\"text\"><span class=\"pill \(state.role.rawValue)\">\(words)</span></td>"
            }
            rows += "</tr>\n"
        }
        let heads = phases.map { phase in
            phase.selector.map { "<th scope=\"col\" class=\"text\">from epoch \(phase.epoch): \(escapedHTML($0))</th>" }
                ?? "<th scope=\"col\" class=\"text\">from the start</th>"
        }
        let totals = phases.map { "<td class=\"text soft\">\(ReportNumber.grouped($0.plan.trainableCount)) train</td>" }
        var notes: [String] = []
        if let kept = run.kept {
            let bytes = formatBytes(kept.byteCount)
            notes.append(
                "“Kept”: the outputs of \(kept.layers.joined(separator: ", ")) are computed once for each image "
                    + "(\(bytes) \(kept.file == nil ? "in memory" : "on disk")), which spares "
                    + "\(ReportNumber.percent(kept.sparedShare)) of a forward pass.")
        }
        if phases.count < run.phases.count {
            notes.append("The first and the last five of \(run.phases.count) stages.")
        }
        return """
            <section aria-label="What trains"><h2>What trains</h2>
            \(notes.map { "<p class=\"soft\">\(escapedHTML($0))</p>" }.joined())
            <div class="scroll" tabindex="0" role="region" aria-label="Blocks and what trains"><table class="wide">
            <thead><tr><th scope="col">block</th><th scope="col">parameters</th>\(heads.joined())</tr></thead>
            <tbody>
            \(rows)</tbody>
            <tfoot><tr><th scope="row">all</th><td>\(ReportNumber.grouped(run.network.parameterCount))</td>\(totals.joined())</tr></tfoot>
            </table></div>
            </section>

            """
    }

    // MARK: Validation

    /// A name for a class that may be missing one.
    private func name(_ label: Int) -> String {
        "<bdi>\(escapedHTML(classes.indices.contains(label) ? classes[label] : "class \(label)"))</bdi>"
    }

    private struct Counts {
        var present: [Int]
        var predicted: [Int]
        var right: [Int]
        var worst: [(prediction: Int, count: Int)?]
    }

    private var counts: Counts? {
        guard !history.confusion.isEmpty else { return nil }
        let none = [Int](repeating: 0, count: classes.count)
        var counts = Counts(present: none, predicted: none, right: none, worst: classes.map { _ in nil })
        for cell in history.confusion
        where classes.indices.contains(cell.label) && classes.indices.contains(cell.prediction) {
            counts.present[cell.label] += cell.count
            counts.predicted[cell.prediction] += cell.count
            if cell.label == cell.prediction {
                counts.right[cell.label] += cell.count
            } else if cell.count > counts.worst[cell.label]?.count ?? 0 {
                counts.worst[cell.label] = (cell.prediction, cell.count)
            }
        }
        return counts
    }

    private var confusion: String {
        guard let best = run.best, let counts else { return "" }
        let wrong = history.confusion.filter { $0.label != $0.prediction }.sorted {
            (-$0.count, $0.label, $0.prediction) < (-$1.count, $1.label, $1.prediction)
        }
        let shown = classes.indices.filter { counts.present[$0] > 0 || counts.predicted[$0] > 0 }
        let matrix = shown.count <= 12 ? table(shown, counts) : heatMap(counts)
        var list = "<p>No wrong answer.</p>"
        if !wrong.isEmpty {
            let rows = wrong.prefix(12).map { cell in
                "<tr><td class=\"text name\">\(name(cell.label))</td><td class=\"text name\">\(name(cell.prediction))</td>"
                    + "<td>\(cell.count)</td><td>\(ReportNumber.percent(Double(cell.count) / Double(max(counts.present[cell.label], 1)), decimals: 0))</td></tr>"
            }
            list = """
                <div class="scroll" tabindex="0" role="region" aria-label="Most frequent confusions"><table>
                <thead><tr><th scope="col">label</th><th scope="col" class="text">taken for</th><th scope="col">images</th>\
                <th scope="col">of the class</th></tr></thead>
                <tbody>\(rows.joined())</tbody></table></div>
                """
        }
        return """
            <section aria-label="Confusion matrix"><h2>Confusion</h2>
            <p class="soft">\(best.count) validation images after epoch \(best.epoch), the best one (best.safetensors): \
            top-1 \(ReportNumber.percent(best.top1)), top-5 \(ReportNumber.percent(best.top5)), \
            loss \(ReportNumber.plain(best.loss)).</p>
            <div class="columns"><div>\(matrix)</div><div><h3 class="soft">Most frequent confusions</h3>\(list)</div></div>
            </section>

            """
    }

    /// A matrix with numbers, for few classes.
    private func table(_ shown: [Int], _ counts: Counts) -> String {
        var cells: [Int: Int] = [:]
        for cell in history.confusion { cells[cell.label * classes.count + cell.prediction] = cell.count }
        var rows = ""
        for label in shown {
            rows += "<tr><th scope=\"row\" title=\"\(title(label))\">\(name(label))</th>"
            for prediction in shown {
                let count = cells[label * classes.count + prediction] ?? 0
                let share = Double(count) / Double(max(counts.present[label], 1))
                if count == 0 {
                    rows += "<td class=\"zero\">0</td>"
                } else {
                    let opacity = 0.12 + 0.88 * share
                    rows +=
                        "<td class=\"\(label == prediction ? "r" : "w")\(opacity > 0.62 ? " strong" : "")\" "
                        + "style=\"--v:\(ReportNumber.plain(opacity, decimals: 2))\">\(count)</td>"
                }
            }
            rows += "</tr>\n"
        }
        let heads = shown.map { "<th scope=\"col\" title=\"\(title($0))\">\(name($0))</th>" }.joined()
        return """
            <div class="scroll" tabindex="0" role="region" aria-label="Confusion matrix">
            <table class="matrix"><thead><tr><th class="corner">label ↓<br>prediction →</th>\(heads)</tr></thead>
            <tbody>
            \(rows)</tbody></table></div>
            """
    }

    private func title(_ label: Int) -> String { escapedHTML(classes.indices.contains(label) ? classes[label] : "") }

    /// A picture of a large matrix: at most 100 cells a side, coloured by their share of the row.
    private func heatMap(_ counts: Counts) -> String {
        let group = (classes.count + 99) / 100
        let side = (classes.count + group - 1) / group
        var sums: [Int: Int] = [:]
        var totals = [Int](repeating: 0, count: side)
        for cell in history.confusion
        where classes.indices.contains(cell.label) && classes.indices.contains(cell.prediction) {
            sums[cell.label / group * side + cell.prediction / group, default: 0] += cell.count
            totals[cell.label / group] += cell.count
        }
        var paths: [String: String] = [:]
        for (key, count) in sums.sorted(by: { $0.key < $1.key }) where count > 0 {
            let row = key / side
            let column = key % side
            let share = Double(count) / Double(max(totals[row], 1))
            let level = min(5, Int(share * 5) + 1)
            paths["\(row == column ? "hr" : "hw") \(level)", default: ""] += "M\(column) \(row)h1v1h-1z"
        }
        let svg = paths.sorted { $0.key < $1.key }.map { entry in
            let parts = entry.key.split(separator: " ")
            let opacity = [0.22, 0.4, 0.6, 0.8, 1][(Int(parts[1]) ?? 1) - 1]
            return "<path class=\"\(parts[0])\" fill-opacity=\"\(opacity)\" d=\"\(entry.value)\"/>"
        }.joined()
        let step = side <= 20 ? 2 : side <= 50 ? 5 : 10
        let marks = stride(from: 0, to: side, by: step).map { index -> String in
            let place = ReportNumber.plain((Double(index) + 0.5) / Double(side) * 100, decimals: 2)
            return "<span class=\"y\" style=\"top:\(place)%\">\(index * group)</span>"
                + "<span class=\"x\" style=\"left:\(place)%\">\(index * group)</span>"
        }.joined()
        let note =
            group == 1
            ? "Rows are labels, columns predictions, by the class numbers of the table below."
            : "Each cell stands for \(group) × \(group) classes: rows are labels, columns predictions, by class number."
        let right = counts.right.reduce(0, +)
        let all = counts.present.reduce(0, +)
        return """
            <p class="soft">\(note) <span style="color:rgb(var(--right))">■</span> right, \
            <span style="color:rgb(var(--wrong))">■</span> wrong; the fuller the colour, the larger the share of the row.</p>
            <div class="heat" role="img" aria-label="Confusion matrix of \(classes.count) classes: \(right) of \(all) \
            images on the diagonal. The most frequent confusions are in the table beside it.">
            <svg viewBox="0 0 \(side) \(side)" shape-rendering="crispEdges" aria-hidden="true">\(svg)</svg>\(marks)</div>
            """
    }

    private var perClass: String {
        guard let counts else { return "" }
        let rows = classes.indices.filter { counts.present[$0] > 0 || counts.predicted[$0] > 0 }.map { label in
            let right = Double(counts.right[label])
            let recall = counts.present[label] > 0 ? right / Double(counts.present[label]) : nil
            let precision = counts.predicted[label] > 0 ? right / Double(counts.predicted[label]) : nil
            let trained = run.training.classCounts.indices.contains(label) ? "\(run.training.classCounts[label])" : ""
            func cell(_ value: Double?) -> String {
                guard let value else { return "<td>–</td>" }
                let width = ReportNumber.plain(value * 100, decimals: 0)
                return
                    "<td>\(ReportNumber.percent(value))<span class=\"bar\" aria-hidden=\"true\"><i style=\"width:\(width)%\">"
                    + "</i></span></td>"
            }
            let worst = counts.worst[label].map { "\(name($0.prediction)) (\($0.count))" } ?? ""
            return
                "<tr><td>\(label)</td><th scope=\"row\" class=\"text name\" title=\"\(title(label))\">\(name(label))</th>"
                + "<td>\(trained)</td><td>\(counts.present[label])</td>\(cell(precision))\(cell(recall))"
                + "<td class=\"text name\">\(worst)</td></tr>\n"
        }
        let table = """
            <div class="scroll" tabindex="0" role="region" aria-label="Precision and recall by class"><table class="wide">
            <thead><tr><th scope="col">no.</th><th scope="col" class="text">class</th><th scope="col">trained on</th>\
            <th scope="col">validated on</th><th scope="col">precision</th><th scope="col">recall</th>\
            <th scope="col" class="text">most often taken for</th></tr></thead>
            <tbody>
            \(rows.joined())</tbody></table></div>
            """
        let content =
            rows.count <= 20
            ? table : "<details><summary>All \(rows.count) classes</summary>\(table)</details>\(weakest(counts))"
        return "<section aria-label=\"Classes\"><h2>Classes</h2>\n\(content)\n</section>\n\n"
    }

    /// The classes that are recognised worst, where there are too many to read them all.
    private func weakest(_ counts: Counts) -> String {
        func recall(_ label: Int) -> Double { Double(counts.right[label]) / Double(max(counts.present[label], 1)) }
        let weak = classes.indices.filter { counts.present[$0] > 0 }.sorted { (recall($0), $0) < (recall($1), $1) }
        let items = weak.prefix(10).map { "\(name($0)) \(ReportNumber.percent(recall($0), decimals: 0))" }
        return "<p>Lowest recall: \(items.joined(separator: ", ")).</p>"
    }

    private var mistakes: String {
        guard let best = run.best, !best.mistakes.isEmpty else { return "" }
        let figures = best.mistakes.map { mistake -> String in
            let label = escapedHTML(classes[mistake.label])
            let prediction = escapedHTML(classes[mistake.prediction])
            let uri = mistake.file.flatMap {
                thumbnails.dataURI($0, imageSize: run.network.imageSize, resize: run.network.resize)
            }
            let alternative = "An image of \(label), taken for \(prediction)"
            let picture =
                uri.map { "<img src=\"\($0)\" alt=\"\(alternative)\" width=\"120\" height=\"120\">" }
                ?? "<div class=\"none\">picture not found</div>"
            return """
                <figure>\(picture)<figcaption><span><span class="wrong">\(name(mistake.prediction)) \
                \(ReportNumber.percent(mistake.probability))</span><br>is \(name(mistake.label)) \
                (\(ReportNumber.percent(mistake.labelProbability)))<span class="path"><bdi>\(escapedHTML(mistake.image))</bdi></span>\
                </span></figcaption></figure>

                """
        }
        return """
            <section aria-label="Mistakes"><h2>Most confident mistakes</h2>
            <p class="soft">Wrong answers on validation images after epoch \(best.epoch), with the probability that the \
            network\(best.isAverage == true ? " with the averaged weights" : "") gave to the wrong and to the right class.</p>
            <div class="gallery">
            \(figures.joined())</div>
            </section>

            """
    }

    // MARK: Bottom

    private var epochs: String {
        guard !history.epochs.isEmpty else { return "" }
        let hasAverage = history.epochs.contains { $0.averagedValidationLoss != nil }
        let rows = history.epochs.map { epoch in
            "<tr><td>\(epoch.epoch)</td><td>\(ReportNumber.plain(epoch.trainLoss))</td>"
                + "<td>\(ReportNumber.percent(epoch.trainAccuracy))</td>"
                + "<td>\(epoch.validationLoss.map { ReportNumber.plain($0) } ?? "–")</td>"
                + "<td>\(epoch.validationAccuracy.map { ReportNumber.percent($0) } ?? "–")</td>"
                + (hasAverage
                    ? "<td>\(epoch.averagedValidationLoss.map { ReportNumber.plain($0) } ?? "–")</td>"
                        + "<td>\(epoch.averagedValidationAccuracy.map { ReportNumber.percent($0) } ?? "–")</td>" : "")
                + "<td>\(ReportNumber.duration(epoch.seconds))</td></tr>\n"
        }
        let averageHeads =
            hasAverage
            ? "<th scope=\"col\">loss of the average</th><th scope=\"col\">accuracy of the average</th>" : ""
        let table = """
            <div class="scroll" tabindex="0" role="region" aria-label="Values of every epoch"><table class="wide">
            <thead><tr><th scope="col">epoch</th><th scope="col">training loss</th><th scope="col">training accuracy</th>\
            <th scope="col">validation loss</th><th scope="col">validation accuracy</th>\(averageHeads)<th scope="col">time</th></tr></thead>
            <tbody>
            \(rows.joined())</tbody></table></div>
            """
        let content =
            rows.count <= 12 ? table : "<details><summary>All \(rows.count) epochs</summary>\(table)</details>"
        return "<section aria-label=\"Epochs\"><h2>Epochs</h2>\n\(content)\n</section>\n\n"
    }

    private var conditions: String {
        let dates = ISO8601DateFormatter()
        var entries: [(String, String)] = []
        for (index, session) in run.sessions.enumerated() {
            entries.append(
                (
                    index == 0 ? "started" : "resumed",
                    "\(dates.string(from: session.started))\(session.step > 0 ? ", at step \(session.step)" : ""), "
                        + ReportNumber.duration(session.ended.timeIntervalSince(session.started))
                ))
        }
        let device = run.device
        entries.append(("device", "\(device.selector): \(device.name), \(device.platform), driver \(device.driver)"))
        entries.append(
            (
                "kernels",
                "\(device.kernels), \(device.computeUnitCount) compute units"
                    + (device.plannedByteCount.map { ", \(formatBytes($0)) planned" } ?? "")
            ))
        for key in run.versions.keys.sorted() { entries.append((key, run.versions[key] ?? "")) }
        entries.append(("training images", describe(run.training)))
        if let validation = run.validation { entries.append(("validation images", describe(validation))) }
        entries.append(
            (
                "input",
                "\(run.network.imageSize) × \(run.network.imageSize)"
                    + (run.network.resize.map { " from a shorter side of \($0)" } ?? ", stretched")
            ))
        if let weights = run.network.weights { entries.append(("first weights", weights)) }
        entries.append(("digest at the start", run.network.digest))
        if let result = run.result { entries.append(("digest of last.safetensors", result.digest)) }
        func list(_ entries: [(String, String)]) -> String {
            "<dl>" + entries.map { "<dt>\(escapedHTML($0.0))</dt><dd>\(escapedHTML($0.1))</dd>\n" }.joined() + "</dl>"
        }
        func options(_ values: [String: String]) -> String {
            list(values.sorted { $0.key < $1.key }.map { ($0.key, $0.value) })
        }
        return """
            <section aria-label="Time, device, data"><h2>Time, device, data</h2>
            \(list(entries))
            \(run.options.isEmpty ? "" : "<h3>Options given</h3>\(options(run.options))")
            \(run.defaults.isEmpty ? "" : "<details><summary>Options left at their defaults</summary>\(options(run.defaults))</details>")
            </section>

            """
    }

    private func describe(_ data: RunDescription.DataEntry) -> String {
        "\(data.count)\(data.folder.map { " in \($0)" } ?? ""), list sha256 \(data.listDigest.prefix(12))…"
    }
}
