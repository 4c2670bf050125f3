import Foundation
import Graft
import GraftCheckpoint
import GraftTensor
import Testing

@testable import Graft

@Suite struct ProbeTests {
    /// Features and labels by a formula that numpy computes likewise; `sharpness` moves each class off the others.
    static func table(_ count: Int, _ width: Int, classes: Int) throws -> FeatureTable {
        var values: [Float] = []
        let labels = (0..<count).map { Int32(($0 * 7 + $0 / 3) % classes) }
        for row in 0..<count {
            for column in 0..<width {
                let number = (row * 37 + column * 101 + row * column * 13) % 61
                values.append(Float(number) / 61 + (Int(labels[row]) == column ? 0.5 : 0))
            }
        }
        return try FeatureTable(features: HostTensor([count, width], values), labels: labels)
    }

    /// Rosenbrock's valley, whose minimum is 0 at (1, 1).
    @Test func theMinimumOfACurvedValley() {
        let result = LimitedMemoryBFGS().minimize(from: [-1.2, 1]) { point, gradient in
            let (x, y) = (point[0], point[1])
            gradient = [-2 * (1 - x) - 400 * x * (y - x * x), 200 * (y - x * x)]
            return (1 - x) * (1 - x) + 100 * (y - x * x) * (y - x * x)
        }
        #expect(result.converged)
        #expect(result.value < 1e-16)
        #expect(zip(result.point, [1, 1]).allSatisfy { abs($0 - $1) < 1e-8 })
    }

    /// Objectives of scikit-learn 1.9.1, `LogisticRegression(C, tol=1e-12)` on `StandardScaler`'s output.
    @Test(arguments: [
        (2, 0.01, 0.5019627791477022), (2, 1, 22.145553975576284), (2, 100, 1796.122729530646),
        (3, 0.01, 0.8629634307359029), (3, 1, 44.110165208102266), (3, 100, 3947.692551418479),
    ])
    func theObjectiveIsScikitLearns(_ classes: Int, _ strength: Double, _ expected: Double) throws {
        let table = try Self.table(90, 7, classes: classes)
        let (regression, fit) = try LogisticRegression.fit(table, inverseStrength: strength)
        #expect(fit.converged)
        #expect(abs(fit.objective / expected - 1) < 1e-9, "\(fit.objective)")
        #expect(regression.weight.shape == [classes == 2 ? 1 : 3, 7])
        // The same bytes again.
        #expect(try LogisticRegression.fit(table, inverseStrength: strength).regression == regression)
    }

    @Test func theChosenValueIsTheBestOnWhatWasHeldOut() throws {
        let table = try Self.table(90, 7, classes: 3)
        let result = try Probe.fit(table)
        #expect(result.trials.map(\.value) == ProbeOptions.strengths)
        let heldOut = try #require(result.heldOut)
        #expect(heldOut.count == 18)
        #expect(result.trials.map(\.correct).max() == heldOut.top1Correct)
        let best = result.trials.filter { $0.correct == heldOut.top1Correct }.min { ($0.loss ?? 0) < ($1.loss ?? 0) }
        #expect(best?.value == result.chosen)
        // Another seed holds others out.
        var options = ProbeOptions()
        options.seed = 1
        #expect(try Probe.fit(table, options: options).trials != result.trials)
    }

    @Test func neighboursVoteAndTheClosestDecidesTies() throws {
        let known = try NearestNeighbours(
            features: HostTensor([4, 2], [1, 0, 0, 2, 0.1, 3, 5, 0.4]), labels: [0, 1, 1, 2])
        let queries = HostTensor([2, 2], [7, 0.1, 0, 1])
        #expect(try known.predict(queries, neighbours: 1) == [0, 1])
        #expect(try known.predict(queries, neighbours: 2) == [0, 1])
        let scores = try #require(try known.scores(of: queries, neighbours: 3, classCount: 3).floats)
        #expect(scores[0] > scores[2] && scores[2] > scores[1])
        #expect(abs(scores[4] - Float(log(2.0 / 3))) < 1e-5)
        #expect(scores[3] == -.infinity)
    }

    @Test(arguments: Probe.Method.allCases) func aSavedProbeScoresTheSame(_ method: Probe.Method) throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "graft-probe-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        let path = folder.appending(path: "probe.safetensors").path
        let plain = try Self.table(60, 5, classes: 3)
        var options = ProbeOptions()
        options.method = method
        let nameless = try Probe.fit(plain, options: options).probe
        #expect(throws: GraftError.self) { try nameless.save(path) }

        let network = try Model("resnet20_cifar", classCount: 3, seed: 1)
        let table = try FeatureTable(
            features: HostTensor([60, 5], plain.values), labels: plain.labels, classNames: ["a", "b", "c"],
            layer: "avgpool", origin: FeatureOrigin(network, pooling: .average))
        let probe = try Probe.fit(table, options: options).probe
        try probe.save(path)
        let read = try Probe(path)
        #expect(read.layer == "avgpool")
        #expect(read.classNames == ["a", "b", "c"])
        #expect(read.origin == table.origin)
        #expect(try read.evaluate(table).confusion == probe.evaluate(table).confusion)
        try read.requireNetwork(network, source: path)
        #expect(throws: GraftError.self) {
            try read.requireNetwork(Model("resnet20_cifar", classCount: 3, seed: 2), source: path)
        }
    }

    @Test func whatCannotBeFitted() throws {
        func message(_ body: () throws -> Void) -> String {
            do {
                try body()
                return "no error"
            } catch {
                return "\(error)"
            }
        }
        let good = try Self.table(12, 3, classes: 2)
        var values = good.values
        values[7] = .nan
        #expect(
            message { _ = try FeatureTable(features: HostTensor([12, 3], values), labels: good.labels) }
                .contains("holds nan in row 2, column 1"))
        #expect(
            message { _ = try FeatureTable(features: HostTensor([12, 3], good.values), labels: [0, 1]) }
                .contains("12 rows, and there are 2 labels"))
        #expect(
            message {
                _ = try FeatureTable(
                    features: HostTensor([12, 3], good.values), labels: good.labels, classNames: ["one"])
            }.contains("label 1 of row"))
        let one = try FeatureTable(
            features: HostTensor([12, 3], good.values), labels: [Int32](repeating: 0, count: 12), classNames: ["ants"])
        #expect(message { _ = try Probe.fit(one) }.contains("all 12 rows are of one class (ants)"))
        let lone = try FeatureTable(features: HostTensor([2, 3], Array(good.values[..<6])), labels: [0, 1])
        #expect(message { _ = try Probe.fit(lone) }.contains("no row can be held out"))
        var given = ProbeOptions()
        given.inverseStrength = 1
        #expect(try Probe.fit(lone, options: given).heldOut == nil)
        var many = ProbeOptions()
        many.method = .knn
        many.neighbours = 13
        #expect(message { _ = try Probe.fit(good, options: many) }.contains("13 neighbours of 12 rows"))

        let probe = try Probe.fit(good).probe
        let wider = try Self.table(12, 4, classes: 2)
        #expect(message { _ = try probe.evaluate(wider) }.contains("numbers of a row 4"))
        let others = try FeatureTable(
            features: HostTensor([12, 3], good.values), labels: good.labels, classNames: ["x", "y"])
        #expect(message { _ = try probe.evaluate(others) }.contains("classes x, y"))
    }
}

@Suite struct FeatureLogTests {
    private static func folder() throws -> URL {
        let url = FileManager.default.temporaryDirectory.appending(path: "graft-log-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: url, withIntermediateDirectories: true)
        return url
    }

    private static func rows(_ batch: Int) -> [String: HostTensor] {
        [
            "a": HostTensor([2, 3], (0..<6).map { Float(batch * 6 + $0) }),
            "b": HostTensor([2, 1, 1, 1], [Float(-batch), 0.5]),
        ]
    }

    private static func log(_ target: String, resumes: Bool, request: [String: String] = ["x": "1"]) throws
        -> FeatureLog
    {
        try FeatureLog(besides: target, layers: ["a", "b"], request: request, resumes: resumes)
    }

    /// Whatever a kill leaves of the last record, resuming goes on behind the whole ones.
    @Test func aTornTailIsCutOff() throws {
        let folder = try Self.folder()
        defer { try? FileManager.default.removeItem(at: folder) }
        let target = folder.appending(path: "f.npz").path
        let partial = URL(filePath: FeatureLog.path(for: target))
        var log: FeatureLog? = try Self.log(target, resumes: false)
        try log?.append(Self.rows(0), batch: 0, labels: [0, 1], paths: ["p", "längst"])
        let first = try Data(contentsOf: partial).count
        try log?.append(Self.rows(1), batch: 1, labels: [1, 1], paths: ["q", "r"])
        log = nil
        let whole = try Data(contentsOf: partial)
        for count in stride(from: whole.count - 1, through: first, by: -7) {
            try whole.prefix(count).write(to: partial)
            let resumed = try Self.log(target, resumes: true)
            #expect(resumed.rowCount == 2)
            #expect(resumed.nextBatch == 1)
        }
        var flipped = whole
        flipped[whole.count - 2] ^= 1
        try flipped.write(to: partial)
        let resumed = try Self.log(target, resumes: true)
        #expect(resumed.nextBatch == 1)
        try resumed.append(Self.rows(1), batch: 1, labels: [1, 1], paths: ["q", "r"])
        #expect(try Data(contentsOf: partial) == whole)
        #expect(resumed.longestPath == 6)
        var values: [Float] = []
        try resumed.forEachPiece(of: "b") { values += $0 }
        #expect(values == [0, 0.5, -1, 0.5])
    }

    @Test func onlyTheSameRequestGoesOn() throws {
        let folder = try Self.folder()
        defer { try? FileManager.default.removeItem(at: folder) }
        let target = folder.appending(path: "f.npz").path
        var log: FeatureLog? = try Self.log(target, resumes: false)
        try log?.append(Self.rows(0), batch: 0, labels: [0, 1], paths: ["p", "q"])
        // Locked while it is open.
        #expect(throws: GraftError.self) { try Self.log(target, resumes: true) }
        log = nil
        #expect(FeatureLog.exists(for: target))
        #expect(throws: GraftError.self) { try Self.log(target, resumes: true, request: ["x": "2"]) }
        #expect(throws: GraftError.self) { try Self.log(target, resumes: true, request: ["x": "1", "y": "1"]) }
        // A refusal takes nothing away.
        #expect(try Self.log(target, resumes: true).rowCount == 2)
        #expect(try Self.log(target, resumes: false).rowCount == 0)
        // An empty one goes with its log.
        #expect(!FeatureLog.exists(for: target))
        try Data("no log".utf8).write(to: URL(filePath: FeatureLog.path(for: target)))
        #expect(throws: GraftError.self) { try Self.log(target, resumes: true) }
    }
}
