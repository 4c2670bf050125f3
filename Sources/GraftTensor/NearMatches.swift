/// The candidates most like a misspelled name, best first: what an error message proposes.
///
/// - Parameters:
///   - name: what was asked for.
///   - candidates: what there is.
///   - limit: how many to return at most.
/// - Returns: candidates within an edit distance of a third of the name's length, or that contain it.
public func nearMatches(to name: String, in candidates: some Sequence<String>, limit: Int = 5) -> [String] {
    let wanted = Array(name.lowercased().utf8)
    let allowed = max(2, wanted.count / 3)
    var scored: [(distance: Int, candidate: String)] = []
    for candidate in Set(candidates) {
        let lowered = candidate.lowercased()
        let distance = editDistance(wanted, Array(lowered.utf8))
        if distance <= allowed {
            scored.append((distance, candidate))
        } else if !wanted.isEmpty, lowered.contains(name.lowercased()) {
            scored.append((allowed + distance, candidate))
        }
    }
    return scored.sorted { ($0.distance, $0.candidate) < ($1.distance, $1.candidate) }.prefix(limit).map(\.candidate)
}

/// Levenshtein distance, one row at a time.
private func editDistance(_ a: [UInt8], _ b: [UInt8]) -> Int {
    var row = Array(0...b.count)
    for (i, x) in a.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, y) in b.enumerated() {
            let substituted = diagonal + (x == y ? 0 : 1)
            diagonal = row[j + 1]
            row[j + 1] = min(substituted, diagonal + 1, row[j] + 1)
        }
    }
    return row[b.count]
}
