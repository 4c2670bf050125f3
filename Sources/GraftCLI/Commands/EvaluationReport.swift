import Graft

/// How well scores agree with labels, as text and as JSON: for `evaluate` and `probe`.
enum EvaluationReport {
    /// Figures, a table of classes and, for up to twelve of them, the confusion.
    static func text(_ evaluation: Evaluation, title: String = "images", hasLoss: Bool = true) -> String {
        let present = evaluation.classNames.indices.filter { evaluation.confusion[$0].contains { $0 > 0 } }
        let predicted = evaluation.classNames.indices.filter { label in
            evaluation.confusion.contains { $0[label] > 0 }
        }
        var text = """
            \(title)  \(evaluation.count)
            top-1   \(percent(evaluation.top1)) (\(evaluation.top1Correct) of \(evaluation.count))
            top-5   \(percent(evaluation.top5)) (\(evaluation.top5Correct) of \(evaluation.count))

            """
        if hasLoss { text += "loss    \(fixed(evaluation.loss, 4))\n" }
        text += "\n"
        var table = Table([
            Table.Column(title: "class", isFlexible: true), Table.Column(title: "images", alignment: .right),
            Table.Column(title: "right", alignment: .right), Table.Column(title: "recall", alignment: .right),
            Table.Column(title: "precision", alignment: .right), Table.Column(title: "most often taken for"),
        ])
        for label in present {
            let row = evaluation.confusion[label]
            let (precision, recall) = evaluation.precisionAndRecall(of: label)
            let wrong = row.indices.filter { $0 != label && row[$0] > 0 }.max { (row[$0], $1) < (row[$1], $0) }
            table.rows.append([
                evaluation.classNames[label], "\(row.reduce(0, +))", "\(row[label])", recall.map(percent) ?? "–",
                precision.map(percent) ?? "–", wrong.map { "\(evaluation.classNames[$0]) (\(row[$0]))" } ?? "",
            ])
        }
        text += table.text()
        let shown = Array(Set(present + predicted)).sorted()
        if shown.count <= 12 {
            text += "\nconfusion (rows: labels, columns: predictions)\n"
            var confusion = Table(
                [Table.Column(title: "", isFlexible: true)]
                    + shown.map { Table.Column(title: "\($0)", alignment: .right) })
            for label in shown {
                confusion.rows.append(
                    ["\(label) \(evaluation.classNames[label])"]
                        + shown.map { "\(evaluation.confusion[label][$0])" })
            }
            text += confusion.text()
        }
        return text
    }

    /// The same figures as entries of a JSON object.
    static func entries(_ evaluation: Evaluation, hasLoss: Bool = true) -> [(key: String, value: JSON)] {
        let classes = evaluation.classNames.indices.map { label -> JSON in
            let row = evaluation.confusion[label]
            let (precision, recall) = evaluation.precisionAndRecall(of: label)
            return [
                "class": .string(evaluation.classNames[label]), "images": .integer(row.reduce(0, +)),
                "correct": .integer(row[label]), "precision": .optional(precision), "recall": .optional(recall),
            ]
        }
        return [
            ("images", .integer(evaluation.count)),
            ("top1_correct", .integer(evaluation.top1Correct)), ("top1", .number(evaluation.top1)),
            ("top5_correct", .integer(evaluation.top5Correct)), ("top5", .number(evaluation.top5)),
            ("loss", hasLoss ? .number(evaluation.loss) : .null), ("classes", .array(classes)),
            ("confusion", .array(evaluation.confusion.map { .array($0.map { .integer($0) }) })),
        ]
    }
}
