/// Minimises a smooth function: L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5) with a line search for
/// the strong Wolfe conditions (algorithms 3.5 and 3.6), in Double.
struct LimitedMemoryBFGS {
    /// Pairs of steps and gradient changes that are kept.
    var memory = 10
    /// The search ends when no component of the gradient is larger.
    var gradientTolerance = 1e-9
    /// Steps at most.
    var maximumIterations = 2000

    /// Where the search ended.
    struct Result {
        var point: [Double]
        var value: Double
        var iterations: Int
        /// Whether the gradient became small enough, or the value cannot be told from the minimum's any more.
        var converged: Bool
    }

    private static let armijo = 1e-4
    private static let curvature = 0.9

    /// Minimises from a start; `evaluate` returns the value and fills in the gradient.
    func minimize(from start: [Double], _ evaluate: @escaping ([Double], inout [Double]) -> Double) -> Result {
        var point = start
        var gradient = [Double](repeating: 0, count: start.count)
        var value = evaluate(point, &gradient)
        var pairs: [(step: [Double], change: [Double], scale: Double)] = []
        var flatSteps = 0
        for iteration in 0..<maximumIterations {
            guard largest(gradient) > gradientTolerance else {
                return Result(point: point, value: value, iterations: iteration, converged: true)
            }
            var direction = descent(gradient, pairs)
            var slope = dot(direction, gradient)
            if slope >= 0 {
                // Rounding has spoilt the memory: steepest descent is always one.
                pairs = []
                direction = gradient.map { -$0 }
                slope = -dot(gradient, gradient)
            }
            let first = pairs.isEmpty ? min(1, 1 / largest(gradient)) : 1
            let search = LineSearch(
                point: point, direction: direction, value: value, slope: slope, armijo: Self.armijo,
                curvature: Self.curvature, evaluate: evaluate)
            guard let found = search.run(firstStep: first) else {
                // No lower point along a direction of descent: the value is at the limit of its precision.
                if pairs.isEmpty {
                    return Result(point: point, value: value, iterations: iteration, converged: true)
                }
                pairs = []
                continue
            }
            let step = zip(found.point, point).map { $0 - $1 }
            let change = zip(found.gradient, gradient).map { $0 - $1 }
            let product = dot(step, change)
            if product > 1e-300, product > 1e-16 * dot(change, change) {
                pairs.append((step, change, 1 / product))
                if pairs.count > memory { pairs.removeFirst() }
            }
            flatSteps = value - found.value <= 1e-16 * max(value.magnitude, found.value.magnitude) ? flatSteps + 1 : 0
            (point, value, gradient) = (found.point, found.value, found.gradient)
            if flatSteps == 3 {
                return Result(point: point, value: value, iterations: iteration + 1, converged: true)
            }
        }
        return Result(point: point, value: value, iterations: maximumIterations, converged: false)
    }

    /// Two loops over the memory: minus the inverse Hessian's estimate times the gradient.
    private func descent(
        _ gradient: [Double], _ pairs: [(step: [Double], change: [Double], scale: Double)]
    ) -> [Double] {
        var direction = gradient.map { -$0 }
        var factors: [Double] = []
        for pair in pairs.reversed() {
            let factor = pair.scale * dot(pair.step, direction)
            factors.append(factor)
            add(-factor, pair.change, to: &direction)
        }
        if let last = pairs.last {
            let scale = 1 / (last.scale * dot(last.change, last.change))
            for index in direction.indices { direction[index] *= scale }
        }
        for (pair, factor) in zip(pairs, factors.reversed()) {
            add(factor - pair.scale * dot(pair.change, direction), pair.step, to: &direction)
        }
        return direction
    }
}

/// A step along a direction that fulfils the strong Wolfe conditions.
private struct LineSearch {
    struct Found {
        var step: Double
        var point: [Double]
        var value: Double
        var gradient: [Double]
        var slope: Double
    }

    let point: [Double]
    let direction: [Double]
    let value: Double
    let slope: Double
    let armijo: Double
    let curvature: Double
    let evaluate: ([Double], inout [Double]) -> Double

    private static let maximumTrials = 40

    func run(firstStep: Double) -> Found? {
        var previous = Found(step: 0, point: point, value: value, gradient: [], slope: slope)
        var step = firstStep
        for trial in 0..<Self.maximumTrials {
            let found = at(step)
            guard found.value.isFinite else {
                step = (previous.step + step) / 2
                continue
            }
            if found.value > limit(step) || (trial > 0 && found.value >= previous.value) {
                return zoom(previous, found)
            }
            if found.slope.magnitude <= -curvature * slope { return found }
            if found.slope >= 0 { return zoom(found, previous) }
            previous = found
            step *= 2
        }
        return previous.step > 0 ? previous : nil
    }

    /// Narrows a bracket in which a good step lies; `low` has the lower value.
    private func zoom(_ low: Found, _ high: Found) -> Found? {
        var (low, high) = (low, high)
        for _ in 0..<Self.maximumTrials {
            let found = at(between(low, high))
            if found.value > limit(found.step) || found.value >= low.value {
                high = found
            } else {
                if found.slope.magnitude <= -curvature * slope { return found }
                if found.slope * (high.step - low.step) >= 0 { high = low }
                low = found
            }
            if (high.step - low.step).magnitude <= 1e-14 * max(high.step, low.step) { break }
        }
        return low.step > 0 && low.value < value ? low : nil
    }

    private func limit(_ step: Double) -> Double { value + armijo * step * slope }

    /// The minimum of the cubic through two ends and their slopes, kept off both ends.
    private func between(_ a: Found, _ b: Found) -> Double {
        let width = b.step - a.step
        let d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.step - b.step)
        let radicand = d1 * d1 - a.slope * b.slope
        var step = a.step + width / 2
        if radicand >= 0 {
            let d2 = radicand.squareRoot() * (width < 0 ? -1 : 1)
            let cubic = b.step - width * (b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2)
            if cubic.isFinite { step = cubic }
        }
        let margin = 0.1 * width.magnitude
        return max(min(a.step, b.step) + margin, min(step, max(a.step, b.step) - margin))
    }

    private func at(_ step: Double) -> Found {
        var trial = point
        add(step, direction, to: &trial)
        var gradient = [Double](repeating: 0, count: point.count)
        let value = evaluate(trial, &gradient)
        return Found(step: step, point: trial, value: value, gradient: gradient, slope: dot(gradient, direction))
    }
}

private func largest(_ values: [Double]) -> Double { values.reduce(0) { max($0, $1.magnitude) } }

private func dot(_ a: [Double], _ b: [Double]) -> Double {
    var sum = 0.0
    for index in a.indices { sum += a[index] * b[index] }
    return sum
}

private func add(_ factor: Double, _ values: [Double], to target: inout [Double]) {
    for index in values.indices { target[index] += factor * values[index] }
}
