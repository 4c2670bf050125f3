import Foundation
import Graft

/// A change of the trainable set during training: `5:layer3`.
struct UnfreezeRequest: Hashable, Sendable {
    /// The epoch or step, counted from 0, before which it takes effect.
    var position: Int
    /// Names, prefixes, globs or `all`, `head`, `backbone`.
    var names: [String]
}

/// Learning rates as written on the command line: `0.01`, `layer4:1e-4,fc:1e-3`, or both.
struct LearningRateRequest: Hashable, Sendable, CustomStringConvertible {
    /// The plain number; nil where there is none.
    var base: Double?
    /// Selectors with rates of their own, in order.
    var entries: [Entry] = []

    struct Entry: Hashable, Sendable {
        var name: String
        var rate: Double
    }

    var description: String {
        ((base.map { ["\($0)"] } ?? []) + entries.map { "\($0.name):\($0.rate)" }).joined(separator: ",")
    }
}

/// A learning-rate schedule as written on the command line.
enum ScheduleRequest: Hashable, Sendable, CustomStringConvertible {
    case constant
    /// Multiply by `factor` every `epochs` epochs.
    case step(epochs: Int, factor: Double)
    /// Down to a share of the rate.
    case cosine(floor: Double)
    /// Rising over a share of the run.
    case oneCycle(warmup: Double)
    case plateau(factor: Double, patience: Int)

    var description: String {
        switch self {
        case .constant: "constant"
        case .step(let epochs, let factor): "step:\(epochs):\(factor)"
        case .cosine(let floor): floor == 0 ? "cosine" : "cosine:\(floor)"
        case .oneCycle(let warmup): warmup == 0.3 ? "one-cycle" : "one-cycle:\(warmup)"
        case .plateau(let factor, let patience): "plateau:\(factor):\(patience)"
        }
    }
}

extension ValueKind where Value == String {
    /// Any text, empty text excepted.
    static func text(_ placeholder: String) -> ValueKind {
        ValueKind(placeholder, expectation: "a value") { $0.isEmpty ? nil : $0 }
    }

    /// A path of a file; whether it exists is for the command to say.
    static func path(_ placeholder: String) -> ValueKind {
        ValueKind(placeholder, expectation: "a path", completion: .files) { $0.isEmpty ? nil : $0 }
    }

    /// A path of a folder; whether it exists is for the command to say.
    static func folder(_ placeholder: String) -> ValueKind {
        ValueKind(placeholder, expectation: "a path", completion: .folders) { $0.isEmpty ? nil : $0 }
    }

    /// An architecture's name; whether there is one is for the command to say.
    static var architecture: ValueKind {
        ValueKind("MODEL", expectation: "a name", completion: .models) { $0.isEmpty ? nil : $0 }
    }

    /// A device's selector; whether there is one is for the command to say.
    static var device: ValueKind {
        ValueKind("D", expectation: "a device", completion: .devices) { $0.isEmpty ? nil : $0 }
    }

    /// One of a closed set of words.
    static func choice(_ words: String...) -> ValueKind {
        ValueKind(
            words.joined(separator: "|"), expectation: "one of " + words.joined(separator: ", "), choices: words
        ) { words.contains($0) ? $0 : nil }
    }
}

extension ValueKind where Value == WeightsSource {
    /// A path, `hub` or an address.
    static var weights: ValueKind {
        ValueKind("F|hub|URL", expectation: "a path, hub or an https address") {
            $0.isEmpty ? nil : WeightsSource($0)
        }
    }
}

extension ValueKind where Value == [String] {
    /// Names of parameters or of modules, separated by commas.
    static func names(_ placeholder: String) -> ValueKind {
        ValueKind(
            placeholder, expectation: "a comma-separated list of names", completion: .selectors,
            read: commaSeparatedNames)
    }

    /// Names of the engine's primitives, separated by commas; whether there are such is for the command to say.
    static var primitives: ValueKind {
        ValueKind(
            "NAMES", expectation: "a comma-separated list of names",
            completion: .words(DeviceExamination.primitiveNames), read: commaSeparatedNames)
    }

    /// Names of nodes, separated by commas.
    static func layers(_ placeholder: String) -> ValueKind {
        ValueKind(
            placeholder, expectation: "a comma-separated list of names", completion: .layers,
            read: commaSeparatedNames)
    }
}

extension ValueKind where Value == Int {
    /// A whole number in `minimum ... maximum`; the bound keeps sizes computed from it within 64 bits.
    static func wholeNumber(
        _ placeholder: String = "N", atLeast minimum: Int, atMost maximum: Int = 1_000_000_000
    ) -> ValueKind {
        ValueKind(placeholder, expectation: "a whole number from \(minimum) to \(maximum)") { text in
            Int(text).flatMap { (minimum...maximum).contains($0) ? $0 : nil }
        }
    }
}

extension ValueKind where Value == Int {
    /// A number of bytes: `500M`, `10G`; K, M and G are powers of 1024.
    static var byteCount: ValueKind {
        ValueKind("BYTES", expectation: "a number of bytes from 1, with K, M, G or T behind it for powers of 1024") {
            text in
            let shifts: [Character: Int] = ["K": 10, "M": 20, "G": 30, "T": 40]
            let shift = text.last.flatMap { shifts[Character($0.uppercased())] }
            let digits = shift == nil ? Substring(text) : text.dropLast()
            guard digits.allSatisfy(\.isASCII), digits.allSatisfy(\.isNumber), let number = Int(digits), number > 0
            else { return nil }
            let (byteCount, overflow) = number.multipliedReportingOverflow(by: 1 << (shift ?? 0))
            return overflow ? nil : byteCount
        }
    }
}

extension ValueKind where Value == UInt64 {
    /// A seed.
    static var seed: ValueKind {
        ValueKind("N", expectation: "a whole number from 0 to 18446744073709551615") { UInt64($0) }
    }
}

extension ValueKind where Value == Double {
    /// A finite number of at least 0.
    static func number(_ placeholder: String = "X") -> ValueKind {
        ValueKind(placeholder, expectation: "a number of at least 0") { text in
            finiteNumber(text).flatMap { $0 >= 0 ? $0 : nil }
        }
    }

    /// A number from 0 to below 1, or above 0 to below 1.
    static func fraction(_ placeholder: String = "X", includingZero: Bool) -> ValueKind {
        ValueKind(
            placeholder, expectation: "a number \(includingZero ? "from" : "above") 0 and below 1"
        ) { text in
            finiteNumber(text).flatMap { (includingZero ? $0 >= 0 : $0 > 0) && $0 < 1 ? $0 : nil }
        }
    }
}

extension ValueKind where Value == Double {
    /// A number above 0.
    static func positive(_ placeholder: String = "X") -> ValueKind {
        ValueKind(placeholder, expectation: "a number above 0") { text in
            finiteNumber(text).flatMap { $0 > 0 ? $0 : nil }
        }
    }

    /// A number above 0, and 1 at most.
    static func share(_ placeholder: String = "X") -> ValueKind {
        ValueKind(placeholder, expectation: "a number above 0 and at most 1") { text in
            finiteNumber(text).flatMap { $0 > 0 && $0 <= 1 ? $0 : nil }
        }
    }
}

extension ValueKind where Value == Augmentation {
    /// A name or a list of changes.
    static var augmentation: ValueKind {
        ValueKind(
            "LIST",
            expectation:
                "none, flip, standard, strong, or a list of crop[:MIN], flip, jitter[:B[:C[:S[:H]]]], randaugment[:N[:M]], "
                + "erase[:P], each once",
            choices: ["none", "flip", "standard", "strong", "crop", "jitter", "randaugment", "erase"]
        ) { Augmentation(rawValue: $0) }
    }
}

extension ValueKind where Value == LearningRateRequest {
    /// A number, and rates for names: `0.001`, `layer4:1e-4,fc:1e-3`, `0.001,layer4:1e-4`.
    static var learningRates: ValueKind {
        ValueKind(
            "X|S:X,…",
            expectation:
                "a number of at least 0, or a list such as layer4:1e-4,fc:1e-3 (a plain number in it is for the rest)"
        ) { text in
            var request = LearningRateRequest()
            for part in text.split(separator: ",", omittingEmptySubsequences: false) {
                let entry = part.trimmingCharacters(in: .whitespaces)
                guard let colon = entry.lastIndex(of: ":") else {
                    guard request.base == nil, let rate = finiteNumber(entry), rate >= 0 else { return nil }
                    request.base = rate
                    continue
                }
                let name = entry[..<colon].trimmingCharacters(in: .whitespaces)
                guard !name.isEmpty, let rate = finiteNumber(String(entry[entry.index(after: colon)...])), rate >= 0
                else { return nil }
                request.entries.append(.init(name: name, rate: rate))
            }
            return request
        }
    }
}

extension ValueKind where Value == [Float] {
    /// Three numbers, for red, green and blue.
    static func channels(positive: Bool) -> ValueKind {
        ValueKind("R,G,B", expectation: "three \(positive ? "positive " : "")numbers separated by commas") { text in
            let parts = text.split(separator: ",", omittingEmptySubsequences: false)
            let numbers = parts.compactMap { finiteNumber(String($0)).map(Float.init) }
            guard parts.count == 3, numbers.count == 3, !positive || numbers.allSatisfy({ $0 > 0 }) else { return nil }
            return numbers
        }
    }
}

extension ValueKind where Value == UnfreezeRequest {
    /// `5:layer3`: a position, a colon, names.
    static func unfreezing(_ unit: String) -> ValueKind {
        ValueKind(
            "\(unit):S", expectation: "of the form \(unit):NAMES, with the \(unit.lowercased()) counted from 0",
            completion: .positionedSelectors
        ) { text in
            guard let colon = text.firstIndex(of: ":"), let position = Int(text[..<colon]), position >= 0,
                let names = commaSeparatedNames(String(text[text.index(after: colon)...]))
            else { return nil }
            return UnfreezeRequest(position: position, names: names)
        }
    }
}

extension ValueKind where Value == ScheduleRequest {
    static var schedule: ValueKind {
        ValueKind(
            "SCHEDULE",
            expectation:
                "a schedule: constant, step:N:G (times G every N epochs), cosine[:FLOOR], one-cycle[:RISE] or "
                + "plateau:FACTOR:PATIENCE",
            choices: ["constant", "cosine", "one-cycle"]
        ) { text in
            let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
            switch (parts.first, parts.count) {
            case ("constant", 1): return .constant
            case ("cosine", 1): return .cosine(floor: 0)
            case ("cosine", 2):
                guard let floor = finiteNumber(parts[1]), floor >= 0, floor <= 1 else { return nil }
                return .cosine(floor: floor)
            case ("one-cycle", 1): return .oneCycle(warmup: 0.3)
            case ("one-cycle", 2):
                guard let warmup = finiteNumber(parts[1]), warmup > 0, warmup < 1 else { return nil }
                return .oneCycle(warmup: warmup)
            case ("plateau", 3):
                guard let factor = finiteNumber(parts[1]), factor > 0, factor < 1, let patience = Int(parts[2]),
                    patience >= 0
                else { return nil }
                return .plateau(factor: factor, patience: patience)
            case ("step", 3):
                guard let epochs = Int(parts[1]), epochs > 0, let factor = finiteNumber(parts[2]), factor > 0 else {
                    return nil
                }
                return .step(epochs: epochs, factor: factor)
            default: return nil
            }
        }
    }
}

private let commaSeparatedNames: @Sendable (String) -> [String]? = { text in
    let names = text.split(separator: ",", omittingEmptySubsequences: false).map {
        $0.trimmingCharacters(in: .whitespaces)
    }
    return names.contains("") ? nil : names
}

/// A decimal number; `nan`, `inf` and hexadecimal are none.
private func finiteNumber(_ text: String) -> Double? {
    guard text.allSatisfy({ $0.isNumber || "+-.eE".contains($0) }), let value = Double(text), value.isFinite else {
        return nil
    }
    return value
}
