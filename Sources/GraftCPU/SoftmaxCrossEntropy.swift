import GraftCPUKernelInterface
import GraftGraph

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#else
    import Darwin
#endif

extension InstructionBinding {
    /// In double: a batch has few logits, and small losses keep their digits.
    mutating func bindSoftmaxCrossEntropy(
        batch: Int, classes: Int, labelSmoothing: Float, targets: LossTargets
    ) throws(DeviceError) {
        guard batch > 0, classes > 0 else {
            throw DeviceError.unsupported(
                "\(node) has \(batch) samples of \(classes) classes; at least one of each is needed")
        }
        let logits = try input(0)
        let labels = try integerInput(1)
        let gradient = try output(0)
        let metrics = try output(1)
        let second = targets.isMixed ? try integerInput(2) : nil
        let shares = targets.isMixed ? try input(3) : nil
        let weights = targets.isWeighted ? try input(targets.isMixed ? 4 : 2) : nil
        let partials = try workspace(floatCount: batch * 4)
        let results = UnsafeMutableRawPointer(partials).assumingMemoryBound(to: Double.self)
        let smoothing = Double(labelSmoothing)
        let blocks = ChannelBlockedLayout.blockCount(classes)

        parallel(batch) { sample, _ in
            func place(_ index: Int) -> Int { ((index / 16) * batch + sample) * 16 + index % 16 }
            var best = 0
            for index in 1..<max(classes, 1) {
                let value = logits[place(index)]
                let leader = logits[place(best)]
                // NaN wins, as in torch.argmax.
                if value > leader || (value.isNaN && !leader.isNaN) { best = index }
            }
            let largest = Double(logits[place(best)])
            var others = 0.0
            var total = 0.0
            for index in 0..<classes {
                let distance = Double(logits[place(index)]) - largest
                total += distance
                if index != best { others += exp(distance) }
            }
            // log softmax of class i is (xᵢ − max) − logSum, where 1 is the largest term itself.
            let logSum = log1p(others)
            let label = Int(labels[sample])
            let isValid = label >= 0 && label < classes
            let own = isValid ? Double(logits[place(label)]) - largest : .nan
            let sum = 1 + others
            if targets != .labels {
                let other = second.map { Int($0[sample]) } ?? label
                let share = shares.map { Double($0[sample]) } ?? 1
                let areValid = isValid && other >= 0 && other < classes
                func pull(_ index: Int) -> Double {
                    let hard = (index == label ? share : 0) + (index == other ? 1 - share : 0)
                    let target = (1 - smoothing) * hard + smoothing / Double(classes)
                    return target * (weights.map { Double($0[index]) } ?? 1)
                }
                var denominator = Double(batch)
                if let weights, !targets.isMixed {
                    denominator = (0..<batch).reduce(0) { sum, index in
                        let label = Int(labels[index])
                        return sum + (label >= 0 && label < classes ? Double(weights[label]) : .nan)
                    }
                }
                var loss = 0.0
                var mass = 0.0
                for index in 0..<classes {
                    let share = pull(index)
                    mass += share
                    if share != 0 { loss += share * (logSum - (Double(logits[place(index)]) - largest)) }
                }
                results[sample * 2] = areValid ? loss * Double(batch) / denominator : .nan
                results[sample * 2 + 1] = best == (share >= 0.5 ? label : other) ? 1 : 0
                for index in 0..<blocks * 16 {
                    guard index < classes else {
                        gradient[place(index)] = 0
                        continue
                    }
                    let probability = exp(Double(logits[place(index)]) - largest) / sum
                    gradient[place(index)] = Float((probability * mass - pull(index)) / denominator)
                }
                return
            }
            let loss =
                (1 - smoothing) * (logSum - own) + (smoothing == 0 ? 0 : smoothing * (logSum - total / Double(classes)))
            results[sample * 2] = loss
            results[sample * 2 + 1] = best == label ? 1 : 0
            for index in 0..<blocks * 16 {
                guard index < classes else {
                    gradient[place(index)] = 0
                    continue
                }
                let probability = exp(Double(logits[place(index)]) - largest) / sum
                let target = (index == label ? 1 - smoothing : 0) + smoothing / Double(classes)
                gradient[place(index)] = Float((probability - target) / Double(batch))
            }
        }
        parallel(1) { _, _ in
            var loss = 0.0
            var correct = 0.0
            for sample in 0..<batch {
                loss += results[sample * 2]
                correct += results[sample * 2 + 1]
            }
            metrics[0] = Float(loss / Double(batch))
            metrics[1] = Float(correct)
        }
    }
}
