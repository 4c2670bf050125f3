import Foundation

/// The tables of a run as its folder holds them.
package struct RunHistory {
    /// A row of `epochs.csv`.
    package struct Epoch {
        package let epoch: Int
        package let trainLoss: Double
        package let trainAccuracy: Double
        package let validationLoss: Double?
        package let validationAccuracy: Double?
        package let seconds: Double
        /// With the averaged weights, where an average is kept.
        package var averagedValidationLoss: Double?
        /// With the averaged weights, where an average is kept.
        package var averagedValidationAccuracy: Double?
    }

    /// Rows of `steps.csv`.
    package var steps: [StepRecord] = []
    /// Rows of `epochs.csv`.
    package var epochs: [Epoch] = []
    /// The confusion matrix of the best epoch, sparse: label, prediction, images.
    package var confusion: [(label: Int, prediction: Int, count: Int)] = []

    /// Reads the tables of a folder; those that are not there are empty.
    ///
    /// - Throws: ``GraftError/damagedFile(_:)`` for a line that is not as it should be.
    package init(folder: String) throws {
        if let table = try CSVTable(path: folder + "/steps.csv") {
            steps = try table.rows(["step", "epoch", "loss", "accuracy", "learning_rate", "images_per_second"]) { row in
                guard let step = whole(row[0]), let epoch = whole(row[1]), let loss = row[2], let accuracy = row[3],
                    let rate = row[4], let speed = row[5]
                else { return nil }
                return StepRecord(
                    step: step, epoch: epoch, loss: loss, accuracy: accuracy, learningRate: rate,
                    imagesPerSecond: speed)
            }
        }
        if let table = try CSVTable(path: folder + "/epochs.csv") {
            epochs = try table.rows(
                ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"],
                whereThere: ["ema_val_loss", "ema_val_accuracy"]
            ) { row in
                guard let epoch = whole(row[0]), let loss = row[1], let accuracy = row[2], let seconds = row[5] else {
                    return nil
                }
                return Epoch(
                    epoch: epoch, trainLoss: loss, trainAccuracy: accuracy, validationLoss: row[3],
                    validationAccuracy: row[4], seconds: seconds, averagedValidationLoss: row[6],
                    averagedValidationAccuracy: row[7])
            }
        }
        if let table = try CSVTable(path: folder + "/confusion.csv") {
            confusion = try table.rows(["label", "prediction", "images"]) { row in
                guard let label = whole(row[0]), let prediction = whole(row[1]), let count = whole(row[2]) else {
                    return nil
                }
                return (label, prediction, count)
            }
        }
    }
}

/// A number that counts something; nil for any other.
private func whole(_ value: Double?) -> Int? {
    value.flatMap { Int(exactly: $0) }.flatMap { $0 >= 0 ? $0 : nil }
}

/// A table of numbers with names over its columns.
private struct CSVTable {
    let path: String
    let columns: [String]
    let lines: [Substring.UTF8View]

    /// Reads a file; nil where there is none.
    init?(path: String) throws {
        guard let data = FileManager.default.contents(atPath: path) else { return nil }
        let text = String(decoding: data, as: UTF8.self)
        var lines = text.utf8.split { $0 == UInt8(ascii: "\n") || $0 == UInt8(ascii: "\r") }
        guard !lines.isEmpty else { throw GraftError.damagedFile("\(path) is empty, expected a line of column names") }
        self.path = path
        columns = Self.fields(lines.removeFirst()).map(String.init)
        self.lines = lines
    }

    private static func fields(_ line: Substring.UTF8View) -> [Substring] {
        line.split(separator: UInt8(ascii: ","), omittingEmptySubsequences: false).map { Substring($0) }
    }

    /// Reads some columns of every line as numbers, in the order asked for; nil for an empty field, and for the columns of
    /// `optional` that the table has not.
    func rows<Row>(
        _ names: [String], whereThere optional: [String] = [], _ make: ([Double?]) -> Row?
    ) throws -> [Row] {
        let places: [Int?] =
            try names.map { name in
                guard let place = columns.firstIndex(of: name) else {
                    throw GraftError.damagedFile(
                        "\(path) has no column \(name); its first line names \(columns.joined(separator: ", "))")
                }
                return place
            } + optional.map { columns.firstIndex(of: $0) }
        return try lines.enumerated().map { number, line in
            let fields = Self.fields(line)
            guard fields.count >= columns.count, let row = make(places.map { $0.flatMap { Double(fields[$0]) } })
            else {
                throw GraftError.damagedFile(
                    "\(path), line \(number + 2): found \"\(Substring(line))\", expected \(columns.count) fields, "
                        + "among them the numbers \(names.joined(separator: ", "))")
            }
            return row
        }
    }
}
