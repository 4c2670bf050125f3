/// Reads the JSON of a safetensors header, and no more of JSON than that: objects, arrays of whole numbers, strings.
///
/// General JSON parsers accept duplicate names, which two readers of one file may resolve differently.
struct HeaderScanner {
    private let bytes: [UInt8]
    private let file: String
    /// Where the header begins in the file.
    private let base: Int
    private var index = 0

    init(_ bytes: [UInt8], file: String, base: Int) {
        self.bytes = bytes
        self.file = file
        self.base = base
    }

    var position: Int { base + index }

    func refuse(_ found: String, _ expected: String) -> CheckpointError {
        .malformed(file: file, what: "safetensors header", offset: position, found: found, expected: expected)
    }

    private var foundHere: String {
        guard index < bytes.count else { return "its end" }
        let byte = bytes[index]
        return byte > 0x20 && byte < 0x7F
            ? "'\(Character(UnicodeScalar(byte)))'" : "the byte 0x" + hexadecimal([byte])
    }

    private mutating func skipSpace() {
        while index < bytes.count, [0x20, 0x09, 0x0A, 0x0D].contains(bytes[index]) { index += 1 }
    }

    /// Passes over one punctuation mark, with the space before it.
    mutating func expect(_ mark: Character) throws(CheckpointError) {
        guard take(mark) else { throw refuse(foundHere, "'\(mark)'") }
    }

    /// Passes over a punctuation mark if it comes next.
    mutating func take(_ mark: Character) -> Bool {
        skipSpace()
        guard index < bytes.count, bytes[index] == mark.asciiValue else { return false }
        index += 1
        return true
    }

    /// Says whether only space is left.
    mutating func expectEnd() throws(CheckpointError) {
        skipSpace()
        guard index == bytes.count else { throw refuse(foundHere, "nothing after the closing brace") }
    }

    /// A whole number from 0 to 2^63 − 1.
    mutating func number() throws(CheckpointError) -> Int {
        skipSpace()
        let start = index
        var value = 0
        while index < bytes.count, (0x30...0x39).contains(bytes[index]) {
            let times = value.multipliedReportingOverflow(by: 10)
            let sum = times.partialValue.addingReportingOverflow(Int(bytes[index] - 0x30))
            guard !times.overflow, !sum.overflow else { throw refuse("a number over 2^63", "a count") }
            value = sum.partialValue
            index += 1
        }
        guard index > start else { throw refuse(foundHere, "a whole number") }
        guard index == start + 1 || bytes[start] != 0x30 else { throw refuse("a leading zero", "a whole number") }
        if index < bytes.count, [0x2E, 0x65, 0x45].contains(bytes[index]) {
            throw refuse("a number with a fraction or exponent", "a whole number")
        }
        return value
    }

    /// An array of whole numbers.
    mutating func numbers(limit: Int) throws(CheckpointError) -> [Int] {
        try expect("[")
        var values: [Int] = []
        if take("]") { return values }
        repeat {
            values.append(try number())
            guard values.count <= limit else { throw refuse("more than \(limit) numbers", "at most \(limit)") }
        } while take(",")
        try expect("]")
        return values
    }

    /// A string, its escapes resolved.
    mutating func string() throws(CheckpointError) -> String {
        try expect("\"")
        var text: [UInt8] = []
        while true {
            guard index < bytes.count else { throw refuse("its end", "a closing quote") }
            let byte = bytes[index]
            index += 1
            switch byte {
            case 0x22:
                guard let result = String(validating: text, as: UTF8.self) else {
                    throw refuse("a string that is not UTF-8", "UTF-8")
                }
                return result
            case 0x5C: text.append(contentsOf: try escape())
            case 0..<0x20: throw refuse("a control character in a string", "an escape")
            default: text.append(byte)
            }
        }
    }

    private mutating func escape() throws(CheckpointError) -> [UInt8] {
        guard index < bytes.count else { throw refuse("its end", "an escape") }
        let byte = bytes[index]
        index += 1
        switch byte {
        case 0x22, 0x5C, 0x2F: return [byte]
        case 0x62: return [0x08]
        case 0x66: return [0x0C]
        case 0x6E: return [0x0A]
        case 0x72: return [0x0D]
        case 0x74: return [0x09]
        case 0x75:
            var code = UInt32(try hexadecimalUnit())
            if (0xD800..<0xDC00).contains(code), index + 1 < bytes.count, bytes[index] == 0x5C,
                bytes[index + 1] == 0x75
            {
                index += 2
                let low = UInt32(try hexadecimalUnit())
                guard (0xDC00..<0xE000).contains(low) else { throw refuse("a lone surrogate", "a pair") }
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
            }
            guard let scalar = UnicodeScalar(code) else { throw refuse("a lone surrogate", "a pair") }
            return Array(String(Character(scalar)).utf8)
        default: throw refuse("an unknown escape", "one of JSON's")
        }
    }

    private mutating func hexadecimalUnit() throws(CheckpointError) -> UInt16 {
        guard index + 4 <= bytes.count else { throw refuse("its end", "four hexadecimal digits") }
        var value: UInt16 = 0
        for _ in 0..<4 {
            guard let digit = Character(UnicodeScalar(bytes[index])).hexDigitValue, bytes[index] < 0x80 else {
                throw refuse(foundHere, "a hexadecimal digit")
            }
            value = value << 4 | UInt16(digit)
            index += 1
        }
        return value
    }
}
