import CImageCodecs
import Foundation

/// How a picture is brought to another size.
public enum Interpolation: String, Sendable, Hashable, Codable, CaseIterable {
    /// The pixel at the centre; no antialiasing.
    case nearest
    /// A triangle, widened by the scale when shrinking.
    case bilinear
    /// Keys' cubic with a = -0.5, widened by the scale when shrinking.
    case bicubic
}

/// Resampling that equals Pillow's bit for bit.
///
/// A pixel of the result is a weighted sum of source pixels around `(x + 0.5) · scale`; the weights are the kernel,
/// widened by the scale when shrinking, normalised, and rounded to 22 fractional bits. Rows are resampled first, to
/// 8 bits, then columns (or the other way round, see `isVerticalFirst`). A direction in which the size stays is left
/// out. Source: Pillow's `Image.resize`; for the method, Turkowski, "Filters for common resampling tasks" (1990).
///
/// A sum of products of bytes and 23-bit weights does not depend on its order, so it is split for the sake of 16-bit
/// multiplication: weight = high · 2^11 + low, and both parts are multiplied and added in pairs. Sums wrap around
/// modulo 2^32 and are exact in the end because the complete sum fits.
enum Resampling {
    /// The bits of a weight behind the binary point.
    private static let fractionBits = 22
    /// The bits of a weight's lower part.
    private static let lowBits = 11

    /// Whether this processor has what the C functions for the passes need; elsewhere the Swift code below does them.
    private static let hasExtensions = graft_resample_has_avx2()

    /// The weights of a range of positions along one direction.
    struct Weights {
        /// The first source pixel of each position.
        var starts: [Int]
        /// How many pairs of source pixels each position has.
        var pairCounts: [Int]
        /// Pairs of upper and of lower parts, 16 bits each, `capacity` pairs per position: an even number.
        var highPairs: [UInt32]
        var lowPairs: [UInt32]
        var capacity: Int
        /// The source pixels that all positions together need.
        var sourceRange: Range<Int>

        /// Weights of the positions `positions` out of 0 ..< outputCount.
        init(inputCount: Int, outputCount: Int, positions: Range<Int>, interpolation: Interpolation) {
            let scale = Double(inputCount) / Double(outputCount)
            let filterScale = max(scale, 1)
            let support = (interpolation == .bicubic ? 2.0 : 1.0) * filterScale
            let longest = min(Int(support.rounded(.up)) * 2 + 1, inputCount)
            capacity = (longest + 3) / 4 * 2
            starts = []
            pairCounts = []
            starts.reserveCapacity(positions.count)
            pairCounts.reserveCapacity(positions.count)
            highPairs = [UInt32](repeating: 0, count: positions.count * capacity)
            lowPairs = highPairs
            var weights = [Double](repeating: 0, count: longest)
            let inverse = 1.0 / filterScale
            for (row, position) in positions.enumerated() {
                let center = (Double(position) + 0.5) * scale
                let start = max(Int(center - support + 0.5), 0)
                let end = min(Int(center + support + 0.5), inputCount)
                let count = min(max(end - start, 0), longest)
                var sum = 0.0
                for index in 0..<count {
                    let distance = (Double(index + start) - center + 0.5) * inverse
                    let weight = interpolation == .bicubic ? Self.cubic(distance) : Self.triangle(distance)
                    weights[index] = weight
                    sum += weight
                }
                for index in 0..<count {
                    let weight = sum == 0 ? weights[index] : weights[index] / sum
                    let scaled = weight * Double(1 << Resampling.fractionBits)
                    let fixed = Int32(weight < 0 ? scaled - 0.5 : scaled + 0.5)  // towards zero, as a C cast
                    let high = UInt32(truncatingIfNeeded: fixed >> Int32(Resampling.lowBits)) & 0xFFFF
                    let low = UInt32(truncatingIfNeeded: fixed) & (1 << UInt32(Resampling.lowBits) - 1)
                    let slot = row * capacity + index / 2
                    let shift = UInt32(index % 2 * 16)
                    highPairs[slot] |= high << shift
                    lowPairs[slot] |= low << shift
                }
                starts.append(start)
                pairCounts.append((count + 1) / 2)
            }
            let first = starts.first ?? 0
            let last = min(Int((Double(positions.upperBound - 1) + 0.5) * scale + support + 0.5), inputCount)
            sourceRange = first..<max(first, last)
        }

        /// The same for the C functions.
        func withShimWeights(_ body: (UnsafePointer<graft_resample_weights>) -> Void) {
            starts.withUnsafeBufferPointer { starts in
                pairCounts.withUnsafeBufferPointer { pairCounts in
                    highPairs.withUnsafeBufferPointer { highs in
                        lowPairs.withUnsafeBufferPointer { lows in
                            var weights = graft_resample_weights(
                                count: starts.count, starts: starts.baseAddress, pair_counts: pairCounts.baseAddress,
                                high_pairs: highs.baseAddress, low_pairs: lows.baseAddress, capacity: capacity)
                            body(&weights)
                        }
                    }
                }
            }
        }

        private static func triangle(_ x: Double) -> Double {
            let distance = abs(x)
            return distance < 1 ? 1 - distance : 0
        }

        private static func cubic(_ x: Double) -> Double {
            let a = -0.5
            let distance = abs(x)
            if distance < 1 { return ((a + 2) * distance - (a + 3)) * distance * distance + 1 }
            if distance < 2 { return (((distance - 5) * distance + 8) * distance - 4) * a }
            return 0
        }
    }

    /// At least the source pixels that a range of positions needs.
    static func sourceRange(
        of positions: Range<Int>, inputCount: Int, outputCount: Int, interpolation: Interpolation
    ) -> Range<Int> {
        let scale = Double(inputCount) / Double(outputCount)
        let support = (interpolation == .bicubic ? 2.0 : 1.0) * max(scale, 1)
        let first = Int(((Double(positions.lowerBound) + 0.5) * scale - support).rounded(.down)) - 2
        let end = Int(((Double(positions.upperBound) - 0.5) * scale + support).rounded(.up)) + 2
        return (first..<max(end, first)).clamped(to: 0..<inputCount)
    }

    /// Resizes a picture to `width × height` and writes a window of the result.
    ///
    /// - Parameters:
    ///   - source: the picture; `PixelBuffer.slackByteCount` bytes behind it must be readable.
    ///   - width: the width of the complete result.
    ///   - height: the height of the complete result.
    ///   - interpolation: how to interpolate.
    ///   - columns: the window's columns within the result; only these are computed.
    ///   - rows: the window's rows within the result.
    ///   - target: where the window's first pixel goes.
    ///   - targetStride: bytes between the window's rows.
    ///   - workspace: where the picture between the passes goes.
    static func resize(
        _ source: PixelView, width: Int, height: Int, interpolation: Interpolation, columns: Range<Int>,
        rows: Range<Int>,
        target: UnsafeMutablePointer<UInt8>, targetStride: Int, workspace: ImageWorkspace
    ) {
        if columns.isEmpty || rows.isEmpty { return }
        if interpolation == .nearest || (width == source.width && height == source.height) {
            pickNearest(
                source, width: width, height: height, columns: columns, rows: rows, target: target,
                targetStride: targetStride)
            return
        }
        let horizontal = workspace.weights.weights(
            inputCount: source.width, outputCount: width, positions: columns, interpolation: interpolation)
        let vertical = workspace.weights.weights(
            inputCount: source.height, outputCount: height, positions: rows, interpolation: interpolation)
        let usesExtensions = workspace.allowsVectorExtensions && Self.hasExtensions
        if height == source.height {
            let input = source.cropped(x: 0, y: rows.lowerBound, width: source.width, height: rows.count)
            resampleRows(
                input, weights: horizontal, firstColumn: 0, target: target, targetStride: targetStride,
                usesExtensions: usesExtensions)
        } else if width == source.width {
            let input = source.cropped(x: columns.lowerBound, y: 0, width: columns.count, height: source.height)
            resampleColumns(
                input, firstRow: 0, weights: vertical, target: target, targetStride: targetStride,
                usesExtensions: usesExtensions)
        } else if isVerticalFirst(width: source.width, height: source.height, newWidth: width, newHeight: height) {
            let needed = horizontal.sourceRange
            let input = source.cropped(x: needed.lowerBound, y: 0, width: needed.count, height: source.height)
            let stride = needed.count * 3
            let buffer = workspace.intermediate.reserve(stride * rows.count)
            resampleColumns(
                input, firstRow: 0, weights: vertical, target: buffer, targetStride: stride,
                usesExtensions: usesExtensions)
            let between = PixelView(
                base: UnsafePointer(buffer), width: needed.count, height: rows.count, stride: stride)
            resampleRows(
                between, weights: horizontal, firstColumn: needed.lowerBound, target: target,
                targetStride: targetStride, usesExtensions: usesExtensions)
        } else {
            let needed = vertical.sourceRange
            let input = source.cropped(x: 0, y: needed.lowerBound, width: source.width, height: needed.count)
            let stride = columns.count * 3
            let buffer = workspace.intermediate.reserve(stride * needed.count)
            resampleRows(
                input, weights: horizontal, firstColumn: 0, target: buffer, targetStride: stride,
                usesExtensions: usesExtensions)
            let between = PixelView(
                base: UnsafePointer(buffer), width: columns.count, height: needed.count, stride: stride)
            resampleColumns(
                between, firstRow: needed.lowerBound, weights: vertical, target: target, targetStride: targetStride,
                usesExtensions: usesExtensions)
        }
    }

    /// Whether columns come before rows, which changes the rounding in between: since Pillow 13, when the height loses
    /// more than twice as many pixels as the width.
    static func isVerticalFirst(width: Int, height: Int, newWidth: Int, newHeight: Int) -> Bool {
        newHeight < height && height - newHeight > 2 * (width - newWidth)
    }

    /// Products of bytes and parts of weights, added in pairs: one instruction on x86-64.
    @inline(__always)
    private static func multiplyAddPairs(_ pixels: SIMD8<Int16>, _ weights: SIMD8<Int16>) -> SIMD4<Int32> {
        let products = SIMD8<Int32>(truncatingIfNeeded: pixels) &* SIMD8<Int32>(truncatingIfNeeded: weights)
        return products.evenHalf &+ products.oddHalf
    }

    @inline(__always)
    private static func broadcast(_ pair: UInt32) -> SIMD8<Int16> {
        unsafeBitCast(SIMD4<UInt32>(repeating: pair), to: SIMD8<Int16>.self)
    }

    /// The bytes of two neighbours side by side: first, second, first, second …
    @inline(__always)
    private static func interleave(_ first: UnsafeRawPointer, _ second: UnsafeRawPointer) -> SIMD8<Int16> {
        let a = SIMD4<UInt32>(truncatingIfNeeded: first.loadUnaligned(as: SIMD4<UInt8>.self))
        let b = SIMD4<UInt32>(truncatingIfNeeded: second.loadUnaligned(as: SIMD4<UInt8>.self))
        return unsafeBitCast(a | (b &<< 16), to: SIMD8<Int16>.self)
    }

    @inline(__always)
    private static func interleave(_ first: SIMD8<UInt8>, _ second: SIMD8<UInt8>) -> SIMD16<Int16> {
        let a = SIMD8<UInt32>(truncatingIfNeeded: first)
        let b = SIMD8<UInt32>(truncatingIfNeeded: second)
        return unsafeBitCast(a | (b &<< 16), to: SIMD16<Int16>.self)
    }

    /// Both parts' sums as a byte, rounded to nearest.
    @inline(__always)
    private static func round(high: SIMD4<Int32>, low: SIMD4<Int32>) -> SIMD4<Int32> {
        let half = SIMD4<Int32>(repeating: 1 << (Int32(fractionBits) - 1))
        let sum = (high &<< SIMD4(repeating: Int32(lowBits))) &+ low &+ half
        return (sum &>> SIMD4(repeating: Int32(fractionBits)))
            .clamped(lowerBound: SIMD4(repeating: 0), upperBound: SIMD4(repeating: 255))
    }

    @inline(__always)
    private static func storePixel(_ sum: SIMD4<Int32>, _ target: UnsafeMutablePointer<UInt8>) {
        let bytes = SIMD4<UInt8>(truncatingIfNeeded: sum)
        target[0] = bytes[0]
        target[1] = bytes[1]
        target[2] = bytes[2]
    }

    /// The horizontal pass: every row of `source` to `weights.starts.count` pixels, four rows at a time;
    /// column 0 of `source` is the picture's `firstColumn`.
    private static func resampleRows(
        _ source: PixelView, weights: Weights, firstColumn: Int, target: UnsafeMutablePointer<UInt8>, targetStride: Int,
        usesExtensions: Bool
    ) {
        if usesExtensions {
            weights.withShimWeights { weights in
                graft_resample_rows_avx2(
                    source.base, source.stride, source.height, weights, firstColumn, target, targetStride)
            }
            return
        }
        let outputCount = weights.starts.count
        let stride = source.stride
        weights.highPairs.withUnsafeBufferPointer { highs in
            weights.lowPairs.withUnsafeBufferPointer { lows in
                weights.starts.withUnsafeBufferPointer { starts in
                    weights.pairCounts.withUnsafeBufferPointer { pairCounts in
                        var row = 0
                        while row + 4 <= source.height {
                            let input = source.base + row * stride
                            let output = target + row * targetStride
                            for x in 0..<outputCount {
                                var high0 = SIMD4<Int32>()
                                var high1 = high0
                                var high2 = high0
                                var high3 = high0
                                var low0 = high0
                                var low1 = high0
                                var low2 = high0
                                var low3 = high0
                                var pixel = UnsafeRawPointer(input + (starts[x] &- firstColumn) &* 3)
                                let slot = x &* weights.capacity
                                for pair in 0..<pairCounts[x] {
                                    let high = broadcast(highs[slot &+ pair])
                                    let low = broadcast(lows[slot &+ pair])
                                    let pixels0 = interleave(pixel, pixel + 3)
                                    let pixels1 = interleave(pixel + stride, pixel + (stride &+ 3))
                                    let pixels2 = interleave(pixel + 2 &* stride, pixel + (2 &* stride &+ 3))
                                    let pixels3 = interleave(pixel + 3 &* stride, pixel + (3 &* stride &+ 3))
                                    high0 &+= multiplyAddPairs(pixels0, high)
                                    low0 &+= multiplyAddPairs(pixels0, low)
                                    high1 &+= multiplyAddPairs(pixels1, high)
                                    low1 &+= multiplyAddPairs(pixels1, low)
                                    high2 &+= multiplyAddPairs(pixels2, high)
                                    low2 &+= multiplyAddPairs(pixels2, low)
                                    high3 &+= multiplyAddPairs(pixels3, high)
                                    low3 &+= multiplyAddPairs(pixels3, low)
                                    pixel += 6
                                }
                                let place = output + 3 &* x
                                storePixel(round(high: high0, low: low0), place)
                                storePixel(round(high: high1, low: low1), place + targetStride)
                                storePixel(round(high: high2, low: low2), place + 2 &* targetStride)
                                storePixel(round(high: high3, low: low3), place + 3 &* targetStride)
                            }
                            row += 4
                        }
                        while row < source.height {
                            let input = source.base + row * stride
                            let output = target + row * targetStride
                            for x in 0..<outputCount {
                                var high = SIMD4<Int32>()
                                var low = high
                                var pixel = UnsafeRawPointer(input + (starts[x] &- firstColumn) &* 3)
                                let slot = x &* weights.capacity
                                for pair in 0..<pairCounts[x] {
                                    let pixels = interleave(pixel, pixel + 3)
                                    high &+= multiplyAddPairs(pixels, broadcast(highs[slot &+ pair]))
                                    low &+= multiplyAddPairs(pixels, broadcast(lows[slot &+ pair]))
                                    pixel += 6
                                }
                                storePixel(round(high: high, low: low), output + 3 &* x)
                            }
                            row += 1
                        }
                    }
                }
            }
        }
    }

    /// The vertical pass: all columns of `source`, whose row 0 is row `firstRow` of the picture; 16 bytes at a time.
    private static func resampleColumns(
        _ source: PixelView, firstRow: Int, weights: Weights, target: UnsafeMutablePointer<UInt8>, targetStride: Int,
        usesExtensions: Bool
    ) {
        let byteCount = source.width * 3
        let lastRow = source.height - 1
        if usesExtensions {
            weights.withShimWeights { weights in
                graft_resample_columns_avx2(
                    source.base, source.stride, byteCount, lastRow, weights, firstRow, target, targetStride)
            }
            return
        }
        weights.highPairs.withUnsafeBufferPointer { highs in
            weights.lowPairs.withUnsafeBufferPointer { lows in
                for y in 0..<weights.starts.count {
                    let start = weights.starts[y] - firstRow
                    let slot = y * weights.capacity
                    let pairCount = weights.pairCounts[y]
                    let output = target + y * targetStride
                    var offset = 0
                    while offset < byteCount {
                        var high0 = SIMD4<Int32>()
                        var high1 = high0
                        var high2 = high0
                        var high3 = high0
                        var low0 = high0
                        var low1 = high0
                        var low2 = high0
                        var low3 = high0
                        for pair in 0..<pairCount {
                            let high = broadcast(highs[slot &+ pair])
                            let low = broadcast(lows[slot &+ pair])
                            let upper = start &+ 2 &* pair
                            // An odd count ends in a pair whose second weight is zero; its row must exist all the same.
                            let lower = min(upper &+ 1, lastRow)
                            let a = UnsafeRawPointer(source.base + (upper &* source.stride &+ offset))
                                .loadUnaligned(as: SIMD16<UInt8>.self)
                            let b = UnsafeRawPointer(source.base + (lower &* source.stride &+ offset))
                                .loadUnaligned(as: SIMD16<UInt8>.self)
                            let front = interleave(a.lowHalf, b.lowHalf)
                            let back = interleave(a.highHalf, b.highHalf)
                            high0 &+= multiplyAddPairs(front.lowHalf, high)
                            low0 &+= multiplyAddPairs(front.lowHalf, low)
                            high1 &+= multiplyAddPairs(front.highHalf, high)
                            low1 &+= multiplyAddPairs(front.highHalf, low)
                            high2 &+= multiplyAddPairs(back.lowHalf, high)
                            low2 &+= multiplyAddPairs(back.lowHalf, low)
                            high3 &+= multiplyAddPairs(back.highHalf, high)
                            low3 &+= multiplyAddPairs(back.highHalf, low)
                        }
                        let sum = SIMD16<Int32>(
                            lowHalf: SIMD8(
                                lowHalf: round(high: high0, low: low0), highHalf: round(high: high1, low: low1)),
                            highHalf: SIMD8(
                                lowHalf: round(high: high2, low: low2), highHalf: round(high: high3, low: low3))
                        )
                        let bytes = SIMD16<UInt8>(truncatingIfNeeded: sum)
                        if offset + 16 <= byteCount {
                            UnsafeMutableRawPointer(output + offset).storeBytes(of: bytes, as: SIMD16<UInt8>.self)
                        } else {
                            for index in 0..<(byteCount - offset) { output[offset + index] = bytes[index] }
                        }
                        offset += 16
                    }
                }
            }
        }
    }

    /// Copies the pixel whose square holds each centre; positions are summed up step by step, as Pillow does.
    private static func pickNearest(
        _ source: PixelView, width: Int, height: Int, columns: Range<Int>, rows: Range<Int>,
        target: UnsafeMutablePointer<UInt8>, targetStride: Int
    ) {
        let sourceColumns = nearestPositions(inputCount: source.width, outputCount: width, positions: columns)
        let sourceRows = nearestPositions(inputCount: source.height, outputCount: height, positions: rows)
        for (index, row) in sourceRows.enumerated() {
            let input = source.base + row * source.stride
            let output = target + index * targetStride
            if width == source.width {
                output.update(from: input + columns.lowerBound * 3, count: columns.count * 3)
                continue
            }
            for (x, column) in sourceColumns.enumerated() {
                output[3 * x] = input[3 * column]
                output[3 * x + 1] = input[3 * column + 1]
                output[3 * x + 2] = input[3 * column + 2]
            }
        }
    }

    private static func nearestPositions(inputCount: Int, outputCount: Int, positions: Range<Int>) -> [Int] {
        guard inputCount != outputCount else { return Array(positions) }
        let step = Double(inputCount) / Double(outputCount)
        var center = step * 0.5
        var found: [Int] = []
        found.reserveCapacity(positions.count)
        for position in 0..<positions.upperBound {
            if position >= positions.lowerBound { found.append(min(Int(center), inputCount - 1)) }
            center += step
        }
        return found
    }
}

/// The weights of the sizes that came last.
final class WeightsCache {
    private struct Key: Equatable {
        var inputCount: Int
        var outputCount: Int
        var positions: Range<Int>
        var interpolation: Interpolation
    }

    /// More sizes than that in turn are computed anew, which costs a hundredth of a picture.
    private static let capacity = 8
    private var entries: [(key: Key, weights: Resampling.Weights)] = []
    private var oldest = 0

    func weights(
        inputCount: Int, outputCount: Int, positions: Range<Int>, interpolation: Interpolation
    ) -> Resampling.Weights {
        let key = Key(
            inputCount: inputCount, outputCount: outputCount, positions: positions, interpolation: interpolation)
        if let found = entries.first(where: { $0.key == key }) { return found.weights }
        let made = Resampling.Weights(
            inputCount: inputCount, outputCount: outputCount, positions: positions, interpolation: interpolation)
        if entries.count < Self.capacity {
            entries.append((key, made))
        } else {
            entries[oldest] = (key, made)
            oldest = (oldest + 1) % Self.capacity
        }
        return made
    }
}
