import CSystemSupport
import GraftCPUKernelInterface

// The kernels of one instruction set. The same text is built once per variant (by symbolic links), in one file
// because debug builds inline only within a file. Vectors cross no function that is not inlined.

// MARK: - Vectors

// Widths of this variant. Everything below a variant's folder is the same text, built once per instruction set.

#if GRAFT_AVX512
    /// One register.
    typealias Vector = SIMD16<Float>
#elseif GRAFT_AVX2
    /// One register.
    typealias Vector = SIMD8<Float>
#else
    /// One register.
    typealias Vector = SIMD4<Float>
#endif

/// A pixel's 16 channels: one, two or four registers.
typealias Block = SIMD16<Float>

#if GRAFT_AVX512
    /// Floats per register.
    @inline(__always) var vectorWidth: Int { 16 }
#elseif GRAFT_AVX2
    /// Floats per register.
    @inline(__always) var vectorWidth: Int { 8 }
#else
    /// Floats per register.
    @inline(__always) var vectorWidth: Int { 4 }
#endif

@inline(__always) func load(_ pointer: UnsafePointer<Float>) -> Vector {
    UnsafeRawPointer(pointer).load(as: Vector.self)
}

@inline(__always) func store(_ vector: Vector, _ pointer: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: Vector.self).pointee = vector
}

@inline(__always) func loadBlock(_ pointer: UnsafePointer<Float>) -> Block {
    UnsafeRawPointer(pointer).load(as: Block.self)
}

@inline(__always) func storeBlock(_ block: Block, _ pointer: UnsafeMutablePointer<Float>) {
    UnsafeMutableRawPointer(pointer).assumingMemoryBound(to: Block.self).pointee = block
}

/// `c + a · b`, fused where the instruction set has it: without it `addingProduct` is a library call for each lane.
@inline(__always) func multiplyAdd(_ c: Vector, _ a: Vector, _ b: Vector) -> Vector {
    #if GRAFT_AVX512 || GRAFT_AVX2 || arch(arm64)
        c.addingProduct(a, b)
    #else
        c + a * b
    #endif
}

#if !GRAFT_AVX512
    @inline(__always) func multiplyAdd(_ c: Block, _ a: Block, _ b: Block) -> Block {
        #if GRAFT_AVX2 || arch(arm64)
            c.addingProduct(a, b)
        #else
            c + a * b
        #endif
    }
#endif

/// `x < 0 ? 0 : x`: NaN stays, and −0 stays, as in `torch.relu`.
@inline(__always) func rectified(_ x: Block) -> Block { x.replacing(with: Block.zero, where: x .< Block.zero) }

// MARK: - Register tiles

// Register tiles. Accumulators are named scalars because an array of vectors would live in memory; the text is regular:
// row r, vector a or b, four reduction steps per turn.

/// Weights that are needed soon: with each reduction block so many cache lines of them are asked for.
struct Fetch {
    var first: UnsafePointer<Float>?
    var lines = 0

    /// Nothing.
    init() {}

    /// The `index`-th of `count` equal shares of what follows `blocks` reduction blocks.
    init(_ following: UnsafePointer<Float>?, blocks: Int, index: Int, of count: Int) {
        guard let following else { return }
        lines = (32 + count - 1) / count
        first = following + index * blocks * lines * 16
    }
}

#if GRAFT_AVX512
    /// 14 pixels × 32 output channels: 28 accumulators of 32 registers.
    @inline(never)
    func tile14x2(
        _ product: BandProduct, _ first: UnsafePointer<Float>, _ weights: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>, _ pitch: Int = 2 * vectorWidth, second: Int = vectorWidth,
        bias: UnsafePointer<Float>? = nil, residual: UnsafePointer<Float>? = nil, relu: Bool = false,
        sums: UnsafePointer<Float>? = nil, fetch: Fetch = Fetch(), newLines: Int = 0
    ) {
        // What is added comes in while the products are summed.
        if let residual {
            for row in 0..<14 {
                graft_fetch_soon(residual + row * pitch)
                graft_fetch_soon(residual + row * pitch + second)
            }
        }
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        var c4a = Vector.zero, c4b = Vector.zero
        var c5a = Vector.zero, c5b = Vector.zero
        var c6a = Vector.zero, c6b = Vector.zero
        var c7a = Vector.zero, c7b = Vector.zero
        var c8a = Vector.zero, c8b = Vector.zero
        var c9a = Vector.zero, c9b = Vector.zero
        var c10a = Vector.zero, c10b = Vector.zero
        var c11a = Vector.zero, c11b = Vector.zero
        var c12a = Vector.zero, c12b = Vector.zero
        var c13a = Vector.zero, c13b = Vector.zero
        if let sums {
            c0a = load(sums + 0 * 2 * vectorWidth)
            c0b = load(sums + (0 * 2 + 1) * vectorWidth)
            c1a = load(sums + 1 * 2 * vectorWidth)
            c1b = load(sums + (1 * 2 + 1) * vectorWidth)
            c2a = load(sums + 2 * 2 * vectorWidth)
            c2b = load(sums + (2 * 2 + 1) * vectorWidth)
            c3a = load(sums + 3 * 2 * vectorWidth)
            c3b = load(sums + (3 * 2 + 1) * vectorWidth)
            c4a = load(sums + 4 * 2 * vectorWidth)
            c4b = load(sums + (4 * 2 + 1) * vectorWidth)
            c5a = load(sums + 5 * 2 * vectorWidth)
            c5b = load(sums + (5 * 2 + 1) * vectorWidth)
            c6a = load(sums + 6 * 2 * vectorWidth)
            c6b = load(sums + (6 * 2 + 1) * vectorWidth)
            c7a = load(sums + 7 * 2 * vectorWidth)
            c7b = load(sums + (7 * 2 + 1) * vectorWidth)
            c8a = load(sums + 8 * 2 * vectorWidth)
            c8b = load(sums + (8 * 2 + 1) * vectorWidth)
            c9a = load(sums + 9 * 2 * vectorWidth)
            c9b = load(sums + (9 * 2 + 1) * vectorWidth)
            c10a = load(sums + 10 * 2 * vectorWidth)
            c10b = load(sums + (10 * 2 + 1) * vectorWidth)
            c11a = load(sums + 11 * 2 * vectorWidth)
            c11b = load(sums + (11 * 2 + 1) * vectorWidth)
            c12a = load(sums + 12 * 2 * vectorWidth)
            c12b = load(sums + (12 * 2 + 1) * vectorWidth)
            c13a = load(sums + 13 * 2 * vectorWidth)
            c13b = load(sums + (13 * 2 + 1) * vectorWidth)
        }
        var ahead = fetch.first
        var w = weights
        var remaining = product.outerCount * product.innerCount
        for outer in 0..<product.outerCount {
            var block = first + outer * product.outerStride
            for _ in 0..<product.innerCount {
                remaining -= 1
                var quads = remaining == 0 ? product.lastQuads : 4
                var a = block
                block += product.innerStride
                for _ in 0..<fetch.lines {
                    graft_fetch_soon(ahead)
                    ahead = ahead.map { $0 + 16 }
                }
                for line in 0..<newLines { graft_fetch_soon(a + (14 + line) * 16) }
                repeat {
                    do {
                        let wa = load(w + 0 + 0 * vectorWidth)
                        let wb = load(w + 0 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[0])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[16])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[32])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[48])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[64])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[80])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[96])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[112])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                        let x8 = Vector(repeating: a[128])
                        c8a = multiplyAdd(c8a, x8, wa)
                        c8b = multiplyAdd(c8b, x8, wb)
                        let x9 = Vector(repeating: a[144])
                        c9a = multiplyAdd(c9a, x9, wa)
                        c9b = multiplyAdd(c9b, x9, wb)
                        let x10 = Vector(repeating: a[160])
                        c10a = multiplyAdd(c10a, x10, wa)
                        c10b = multiplyAdd(c10b, x10, wb)
                        let x11 = Vector(repeating: a[176])
                        c11a = multiplyAdd(c11a, x11, wa)
                        c11b = multiplyAdd(c11b, x11, wb)
                        let x12 = Vector(repeating: a[192])
                        c12a = multiplyAdd(c12a, x12, wa)
                        c12b = multiplyAdd(c12b, x12, wb)
                        let x13 = Vector(repeating: a[208])
                        c13a = multiplyAdd(c13a, x13, wa)
                        c13b = multiplyAdd(c13b, x13, wb)
                    }
                    do {
                        let wa = load(w + 32 + 0 * vectorWidth)
                        let wb = load(w + 32 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[1])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[17])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[33])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[49])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[65])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[81])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[97])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[113])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                        let x8 = Vector(repeating: a[129])
                        c8a = multiplyAdd(c8a, x8, wa)
                        c8b = multiplyAdd(c8b, x8, wb)
                        let x9 = Vector(repeating: a[145])
                        c9a = multiplyAdd(c9a, x9, wa)
                        c9b = multiplyAdd(c9b, x9, wb)
                        let x10 = Vector(repeating: a[161])
                        c10a = multiplyAdd(c10a, x10, wa)
                        c10b = multiplyAdd(c10b, x10, wb)
                        let x11 = Vector(repeating: a[177])
                        c11a = multiplyAdd(c11a, x11, wa)
                        c11b = multiplyAdd(c11b, x11, wb)
                        let x12 = Vector(repeating: a[193])
                        c12a = multiplyAdd(c12a, x12, wa)
                        c12b = multiplyAdd(c12b, x12, wb)
                        let x13 = Vector(repeating: a[209])
                        c13a = multiplyAdd(c13a, x13, wa)
                        c13b = multiplyAdd(c13b, x13, wb)
                    }
                    do {
                        let wa = load(w + 64 + 0 * vectorWidth)
                        let wb = load(w + 64 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[2])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[18])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[34])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[50])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[66])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[82])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[98])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[114])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                        let x8 = Vector(repeating: a[130])
                        c8a = multiplyAdd(c8a, x8, wa)
                        c8b = multiplyAdd(c8b, x8, wb)
                        let x9 = Vector(repeating: a[146])
                        c9a = multiplyAdd(c9a, x9, wa)
                        c9b = multiplyAdd(c9b, x9, wb)
                        let x10 = Vector(repeating: a[162])
                        c10a = multiplyAdd(c10a, x10, wa)
                        c10b = multiplyAdd(c10b, x10, wb)
                        let x11 = Vector(repeating: a[178])
                        c11a = multiplyAdd(c11a, x11, wa)
                        c11b = multiplyAdd(c11b, x11, wb)
                        let x12 = Vector(repeating: a[194])
                        c12a = multiplyAdd(c12a, x12, wa)
                        c12b = multiplyAdd(c12b, x12, wb)
                        let x13 = Vector(repeating: a[210])
                        c13a = multiplyAdd(c13a, x13, wa)
                        c13b = multiplyAdd(c13b, x13, wb)
                    }
                    do {
                        let wa = load(w + 96 + 0 * vectorWidth)
                        let wb = load(w + 96 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[3])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[19])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[35])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[51])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[67])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[83])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[99])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[115])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                        let x8 = Vector(repeating: a[131])
                        c8a = multiplyAdd(c8a, x8, wa)
                        c8b = multiplyAdd(c8b, x8, wb)
                        let x9 = Vector(repeating: a[147])
                        c9a = multiplyAdd(c9a, x9, wa)
                        c9b = multiplyAdd(c9b, x9, wb)
                        let x10 = Vector(repeating: a[163])
                        c10a = multiplyAdd(c10a, x10, wa)
                        c10b = multiplyAdd(c10b, x10, wb)
                        let x11 = Vector(repeating: a[179])
                        c11a = multiplyAdd(c11a, x11, wa)
                        c11b = multiplyAdd(c11b, x11, wb)
                        let x12 = Vector(repeating: a[195])
                        c12a = multiplyAdd(c12a, x12, wa)
                        c12b = multiplyAdd(c12b, x12, wb)
                        let x13 = Vector(repeating: a[211])
                        c13a = multiplyAdd(c13a, x13, wa)
                        c13b = multiplyAdd(c13b, x13, wb)
                    }
                    a += 4
                    w += 128
                    quads -= 1
                } while quads > 0
            }
            w += product.weightSkip
        }
        if let bias {
            let left = load(bias), right = load(bias + vectorWidth)
            c0a += left
            c0b += right
            c1a += left
            c1b += right
            c2a += left
            c2b += right
            c3a += left
            c3b += right
            c4a += left
            c4b += right
            c5a += left
            c5b += right
            c6a += left
            c6b += right
            c7a += left
            c7b += right
            c8a += left
            c8b += right
            c9a += left
            c9b += right
            c10a += left
            c10b += right
            c11a += left
            c11b += right
            c12a += left
            c12b += right
            c13a += left
            c13b += right
        }
        if let residual {
            c0a += load(residual + 0 * pitch)
            c0b += load(residual + 0 * pitch + second)
            c1a += load(residual + 1 * pitch)
            c1b += load(residual + 1 * pitch + second)
            c2a += load(residual + 2 * pitch)
            c2b += load(residual + 2 * pitch + second)
            c3a += load(residual + 3 * pitch)
            c3b += load(residual + 3 * pitch + second)
            c4a += load(residual + 4 * pitch)
            c4b += load(residual + 4 * pitch + second)
            c5a += load(residual + 5 * pitch)
            c5b += load(residual + 5 * pitch + second)
            c6a += load(residual + 6 * pitch)
            c6b += load(residual + 6 * pitch + second)
            c7a += load(residual + 7 * pitch)
            c7b += load(residual + 7 * pitch + second)
            c8a += load(residual + 8 * pitch)
            c8b += load(residual + 8 * pitch + second)
            c9a += load(residual + 9 * pitch)
            c9b += load(residual + 9 * pitch + second)
            c10a += load(residual + 10 * pitch)
            c10b += load(residual + 10 * pitch + second)
            c11a += load(residual + 11 * pitch)
            c11b += load(residual + 11 * pitch + second)
            c12a += load(residual + 12 * pitch)
            c12b += load(residual + 12 * pitch + second)
            c13a += load(residual + 13 * pitch)
            c13b += load(residual + 13 * pitch + second)
        }
        if relu {
            c0a.replace(with: Vector.zero, where: c0a .< Vector.zero)
            c0b.replace(with: Vector.zero, where: c0b .< Vector.zero)
            c1a.replace(with: Vector.zero, where: c1a .< Vector.zero)
            c1b.replace(with: Vector.zero, where: c1b .< Vector.zero)
            c2a.replace(with: Vector.zero, where: c2a .< Vector.zero)
            c2b.replace(with: Vector.zero, where: c2b .< Vector.zero)
            c3a.replace(with: Vector.zero, where: c3a .< Vector.zero)
            c3b.replace(with: Vector.zero, where: c3b .< Vector.zero)
            c4a.replace(with: Vector.zero, where: c4a .< Vector.zero)
            c4b.replace(with: Vector.zero, where: c4b .< Vector.zero)
            c5a.replace(with: Vector.zero, where: c5a .< Vector.zero)
            c5b.replace(with: Vector.zero, where: c5b .< Vector.zero)
            c6a.replace(with: Vector.zero, where: c6a .< Vector.zero)
            c6b.replace(with: Vector.zero, where: c6b .< Vector.zero)
            c7a.replace(with: Vector.zero, where: c7a .< Vector.zero)
            c7b.replace(with: Vector.zero, where: c7b .< Vector.zero)
            c8a.replace(with: Vector.zero, where: c8a .< Vector.zero)
            c8b.replace(with: Vector.zero, where: c8b .< Vector.zero)
            c9a.replace(with: Vector.zero, where: c9a .< Vector.zero)
            c9b.replace(with: Vector.zero, where: c9b .< Vector.zero)
            c10a.replace(with: Vector.zero, where: c10a .< Vector.zero)
            c10b.replace(with: Vector.zero, where: c10b .< Vector.zero)
            c11a.replace(with: Vector.zero, where: c11a .< Vector.zero)
            c11b.replace(with: Vector.zero, where: c11b .< Vector.zero)
            c12a.replace(with: Vector.zero, where: c12a .< Vector.zero)
            c12b.replace(with: Vector.zero, where: c12b .< Vector.zero)
            c13a.replace(with: Vector.zero, where: c13a .< Vector.zero)
            c13b.replace(with: Vector.zero, where: c13b .< Vector.zero)
        }
        store(c0a, result + 0 * pitch)
        store(c0b, result + 0 * pitch + second)
        store(c1a, result + 1 * pitch)
        store(c1b, result + 1 * pitch + second)
        store(c2a, result + 2 * pitch)
        store(c2b, result + 2 * pitch + second)
        store(c3a, result + 3 * pitch)
        store(c3b, result + 3 * pitch + second)
        store(c4a, result + 4 * pitch)
        store(c4b, result + 4 * pitch + second)
        store(c5a, result + 5 * pitch)
        store(c5b, result + 5 * pitch + second)
        store(c6a, result + 6 * pitch)
        store(c6b, result + 6 * pitch + second)
        store(c7a, result + 7 * pitch)
        store(c7b, result + 7 * pitch + second)
        store(c8a, result + 8 * pitch)
        store(c8b, result + 8 * pitch + second)
        store(c9a, result + 9 * pitch)
        store(c9b, result + 9 * pitch + second)
        store(c10a, result + 10 * pitch)
        store(c10b, result + 10 * pitch + second)
        store(c11a, result + 11 * pitch)
        store(c11b, result + 11 * pitch + second)
        store(c12a, result + 12 * pitch)
        store(c12b, result + 12 * pitch + second)
        store(c13a, result + 13 * pitch)
        store(c13b, result + 13 * pitch + second)
    }

    /// 8 pixels × 32 output channels, for short tails.
    @inline(never)
    func tile8x2(
        _ product: BandProduct, _ first: UnsafePointer<Float>, _ weights: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>, sums: UnsafePointer<Float>? = nil, fetch: Fetch = Fetch()
    ) {
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        var c4a = Vector.zero, c4b = Vector.zero
        var c5a = Vector.zero, c5b = Vector.zero
        var c6a = Vector.zero, c6b = Vector.zero
        var c7a = Vector.zero, c7b = Vector.zero
        if let sums {
            c0a = load(sums + 0 * 2 * vectorWidth)
            c0b = load(sums + (0 * 2 + 1) * vectorWidth)
            c1a = load(sums + 1 * 2 * vectorWidth)
            c1b = load(sums + (1 * 2 + 1) * vectorWidth)
            c2a = load(sums + 2 * 2 * vectorWidth)
            c2b = load(sums + (2 * 2 + 1) * vectorWidth)
            c3a = load(sums + 3 * 2 * vectorWidth)
            c3b = load(sums + (3 * 2 + 1) * vectorWidth)
            c4a = load(sums + 4 * 2 * vectorWidth)
            c4b = load(sums + (4 * 2 + 1) * vectorWidth)
            c5a = load(sums + 5 * 2 * vectorWidth)
            c5b = load(sums + (5 * 2 + 1) * vectorWidth)
            c6a = load(sums + 6 * 2 * vectorWidth)
            c6b = load(sums + (6 * 2 + 1) * vectorWidth)
            c7a = load(sums + 7 * 2 * vectorWidth)
            c7b = load(sums + (7 * 2 + 1) * vectorWidth)
        }
        var ahead = fetch.first
        var w = weights
        var remaining = product.outerCount * product.innerCount
        for outer in 0..<product.outerCount {
            var block = first + outer * product.outerStride
            for _ in 0..<product.innerCount {
                remaining -= 1
                var quads = remaining == 0 ? product.lastQuads : 4
                var a = block
                block += product.innerStride
                for _ in 0..<fetch.lines {
                    graft_fetch_soon(ahead)
                    ahead = ahead.map { $0 + 16 }
                }
                repeat {
                    do {
                        let wa = load(w + 0 + 0 * vectorWidth)
                        let wb = load(w + 0 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[0])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[16])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[32])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[48])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[64])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[80])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[96])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[112])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                    }
                    do {
                        let wa = load(w + 32 + 0 * vectorWidth)
                        let wb = load(w + 32 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[1])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[17])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[33])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[49])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[65])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[81])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[97])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[113])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                    }
                    do {
                        let wa = load(w + 64 + 0 * vectorWidth)
                        let wb = load(w + 64 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[2])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[18])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[34])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[50])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[66])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[82])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[98])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[114])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                    }
                    do {
                        let wa = load(w + 96 + 0 * vectorWidth)
                        let wb = load(w + 96 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[3])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[19])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[35])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[51])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[67])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[83])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                        let x6 = Vector(repeating: a[99])
                        c6a = multiplyAdd(c6a, x6, wa)
                        c6b = multiplyAdd(c6b, x6, wb)
                        let x7 = Vector(repeating: a[115])
                        c7a = multiplyAdd(c7a, x7, wa)
                        c7b = multiplyAdd(c7b, x7, wb)
                    }
                    a += 4
                    w += 128
                    quads -= 1
                } while quads > 0
            }
            w += product.weightSkip
        }
        store(c0a, result + 0 * vectorWidth)
        store(c0b, result + 1 * vectorWidth)
        store(c1a, result + 2 * vectorWidth)
        store(c1b, result + 3 * vectorWidth)
        store(c2a, result + 4 * vectorWidth)
        store(c2b, result + 5 * vectorWidth)
        store(c3a, result + 6 * vectorWidth)
        store(c3b, result + 7 * vectorWidth)
        store(c4a, result + 8 * vectorWidth)
        store(c4b, result + 9 * vectorWidth)
        store(c5a, result + 10 * vectorWidth)
        store(c5b, result + 11 * vectorWidth)
        store(c6a, result + 12 * vectorWidth)
        store(c6b, result + 13 * vectorWidth)
        store(c7a, result + 14 * vectorWidth)
        store(c7b, result + 15 * vectorWidth)
    }

    /// 14 pixels × 16 output channels, for output blocks of at most 16 channels.
    @inline(never)
    func tile14x1(
        _ product: BandProduct, _ first: UnsafePointer<Float>, _ weights: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>
    ) {
        var c0a = Vector.zero
        var c1a = Vector.zero
        var c2a = Vector.zero
        var c3a = Vector.zero
        var c4a = Vector.zero
        var c5a = Vector.zero
        var c6a = Vector.zero
        var c7a = Vector.zero
        var c8a = Vector.zero
        var c9a = Vector.zero
        var c10a = Vector.zero
        var c11a = Vector.zero
        var c12a = Vector.zero
        var c13a = Vector.zero
        if product.accumulates {
            c0a = load(result + 0 * 2 * vectorWidth)
            c1a = load(result + 1 * 2 * vectorWidth)
            c2a = load(result + 2 * 2 * vectorWidth)
            c3a = load(result + 3 * 2 * vectorWidth)
            c4a = load(result + 4 * 2 * vectorWidth)
            c5a = load(result + 5 * 2 * vectorWidth)
            c6a = load(result + 6 * 2 * vectorWidth)
            c7a = load(result + 7 * 2 * vectorWidth)
            c8a = load(result + 8 * 2 * vectorWidth)
            c9a = load(result + 9 * 2 * vectorWidth)
            c10a = load(result + 10 * 2 * vectorWidth)
            c11a = load(result + 11 * 2 * vectorWidth)
            c12a = load(result + 12 * 2 * vectorWidth)
            c13a = load(result + 13 * 2 * vectorWidth)
        }
        var w = weights
        var remaining = product.outerCount * product.innerCount
        for outer in 0..<product.outerCount {
            var block = first + outer * product.outerStride
            for _ in 0..<product.innerCount {
                remaining -= 1
                var quads = remaining == 0 ? product.lastQuads : 4
                var a = block
                block += product.innerStride
                repeat {
                    do {
                        let wa = load(w + 0 + 0 * vectorWidth)
                        let x0 = Vector(repeating: a[0])
                        c0a = multiplyAdd(c0a, x0, wa)
                        let x1 = Vector(repeating: a[16])
                        c1a = multiplyAdd(c1a, x1, wa)
                        let x2 = Vector(repeating: a[32])
                        c2a = multiplyAdd(c2a, x2, wa)
                        let x3 = Vector(repeating: a[48])
                        c3a = multiplyAdd(c3a, x3, wa)
                        let x4 = Vector(repeating: a[64])
                        c4a = multiplyAdd(c4a, x4, wa)
                        let x5 = Vector(repeating: a[80])
                        c5a = multiplyAdd(c5a, x5, wa)
                        let x6 = Vector(repeating: a[96])
                        c6a = multiplyAdd(c6a, x6, wa)
                        let x7 = Vector(repeating: a[112])
                        c7a = multiplyAdd(c7a, x7, wa)
                        let x8 = Vector(repeating: a[128])
                        c8a = multiplyAdd(c8a, x8, wa)
                        let x9 = Vector(repeating: a[144])
                        c9a = multiplyAdd(c9a, x9, wa)
                        let x10 = Vector(repeating: a[160])
                        c10a = multiplyAdd(c10a, x10, wa)
                        let x11 = Vector(repeating: a[176])
                        c11a = multiplyAdd(c11a, x11, wa)
                        let x12 = Vector(repeating: a[192])
                        c12a = multiplyAdd(c12a, x12, wa)
                        let x13 = Vector(repeating: a[208])
                        c13a = multiplyAdd(c13a, x13, wa)
                    }
                    do {
                        let wa = load(w + 32 + 0 * vectorWidth)
                        let x0 = Vector(repeating: a[1])
                        c0a = multiplyAdd(c0a, x0, wa)
                        let x1 = Vector(repeating: a[17])
                        c1a = multiplyAdd(c1a, x1, wa)
                        let x2 = Vector(repeating: a[33])
                        c2a = multiplyAdd(c2a, x2, wa)
                        let x3 = Vector(repeating: a[49])
                        c3a = multiplyAdd(c3a, x3, wa)
                        let x4 = Vector(repeating: a[65])
                        c4a = multiplyAdd(c4a, x4, wa)
                        let x5 = Vector(repeating: a[81])
                        c5a = multiplyAdd(c5a, x5, wa)
                        let x6 = Vector(repeating: a[97])
                        c6a = multiplyAdd(c6a, x6, wa)
                        let x7 = Vector(repeating: a[113])
                        c7a = multiplyAdd(c7a, x7, wa)
                        let x8 = Vector(repeating: a[129])
                        c8a = multiplyAdd(c8a, x8, wa)
                        let x9 = Vector(repeating: a[145])
                        c9a = multiplyAdd(c9a, x9, wa)
                        let x10 = Vector(repeating: a[161])
                        c10a = multiplyAdd(c10a, x10, wa)
                        let x11 = Vector(repeating: a[177])
                        c11a = multiplyAdd(c11a, x11, wa)
                        let x12 = Vector(repeating: a[193])
                        c12a = multiplyAdd(c12a, x12, wa)
                        let x13 = Vector(repeating: a[209])
                        c13a = multiplyAdd(c13a, x13, wa)
                    }
                    do {
                        let wa = load(w + 64 + 0 * vectorWidth)
                        let x0 = Vector(repeating: a[2])
                        c0a = multiplyAdd(c0a, x0, wa)
                        let x1 = Vector(repeating: a[18])
                        c1a = multiplyAdd(c1a, x1, wa)
                        let x2 = Vector(repeating: a[34])
                        c2a = multiplyAdd(c2a, x2, wa)
                        let x3 = Vector(repeating: a[50])
                        c3a = multiplyAdd(c3a, x3, wa)
                        let x4 = Vector(repeating: a[66])
                        c4a = multiplyAdd(c4a, x4, wa)
                        let x5 = Vector(repeating: a[82])
                        c5a = multiplyAdd(c5a, x5, wa)
                        let x6 = Vector(repeating: a[98])
                        c6a = multiplyAdd(c6a, x6, wa)
                        let x7 = Vector(repeating: a[114])
                        c7a = multiplyAdd(c7a, x7, wa)
                        let x8 = Vector(repeating: a[130])
                        c8a = multiplyAdd(c8a, x8, wa)
                        let x9 = Vector(repeating: a[146])
                        c9a = multiplyAdd(c9a, x9, wa)
                        let x10 = Vector(repeating: a[162])
                        c10a = multiplyAdd(c10a, x10, wa)
                        let x11 = Vector(repeating: a[178])
                        c11a = multiplyAdd(c11a, x11, wa)
                        let x12 = Vector(repeating: a[194])
                        c12a = multiplyAdd(c12a, x12, wa)
                        let x13 = Vector(repeating: a[210])
                        c13a = multiplyAdd(c13a, x13, wa)
                    }
                    do {
                        let wa = load(w + 96 + 0 * vectorWidth)
                        let x0 = Vector(repeating: a[3])
                        c0a = multiplyAdd(c0a, x0, wa)
                        let x1 = Vector(repeating: a[19])
                        c1a = multiplyAdd(c1a, x1, wa)
                        let x2 = Vector(repeating: a[35])
                        c2a = multiplyAdd(c2a, x2, wa)
                        let x3 = Vector(repeating: a[51])
                        c3a = multiplyAdd(c3a, x3, wa)
                        let x4 = Vector(repeating: a[67])
                        c4a = multiplyAdd(c4a, x4, wa)
                        let x5 = Vector(repeating: a[83])
                        c5a = multiplyAdd(c5a, x5, wa)
                        let x6 = Vector(repeating: a[99])
                        c6a = multiplyAdd(c6a, x6, wa)
                        let x7 = Vector(repeating: a[115])
                        c7a = multiplyAdd(c7a, x7, wa)
                        let x8 = Vector(repeating: a[131])
                        c8a = multiplyAdd(c8a, x8, wa)
                        let x9 = Vector(repeating: a[147])
                        c9a = multiplyAdd(c9a, x9, wa)
                        let x10 = Vector(repeating: a[163])
                        c10a = multiplyAdd(c10a, x10, wa)
                        let x11 = Vector(repeating: a[179])
                        c11a = multiplyAdd(c11a, x11, wa)
                        let x12 = Vector(repeating: a[195])
                        c12a = multiplyAdd(c12a, x12, wa)
                        let x13 = Vector(repeating: a[211])
                        c13a = multiplyAdd(c13a, x13, wa)
                    }
                    a += 4
                    w += 128
                    quads -= 1
                } while quads > 0
            }
            w += product.weightSkip
        }
        store(c0a, result + 0 * vectorWidth)
        store(c1a, result + 2 * vectorWidth)
        store(c2a, result + 4 * vectorWidth)
        store(c3a, result + 6 * vectorWidth)
        store(c4a, result + 8 * vectorWidth)
        store(c5a, result + 10 * vectorWidth)
        store(c6a, result + 12 * vectorWidth)
        store(c7a, result + 14 * vectorWidth)
        store(c8a, result + 16 * vectorWidth)
        store(c9a, result + 18 * vectorWidth)
        store(c10a, result + 20 * vectorWidth)
        store(c11a, result + 22 * vectorWidth)
        store(c12a, result + 24 * vectorWidth)
        store(c13a, result + 26 * vectorWidth)
    }

    /// 8 input × 32 output channels of a weight gradient.
    @inline(never)
    func outerProduct8x2(
        _ product: OuterProduct, _ x: UnsafePointer<Float>, _ d0: UnsafePointer<Float>, _ d1: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>
    ) {
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        var c4a = Vector.zero, c4b = Vector.zero
        var c5a = Vector.zero, c5b = Vector.zero
        var c6a = Vector.zero, c6b = Vector.zero
        var c7a = Vector.zero, c7b = Vector.zero
        for row in 0..<product.rowCount {
            var a = x + row * product.inputRowStride
            var left = d0 + row * product.gradientRowStride
            var right = d1 + row * product.gradientRowStride
            for _ in 0..<product.columnCount {
                let wa = load(left)
                let wb = load(right)
                let x0 = Vector(repeating: a[0])
                c0a = multiplyAdd(c0a, x0, wa)
                c0b = multiplyAdd(c0b, x0, wb)
                let x1 = Vector(repeating: a[1])
                c1a = multiplyAdd(c1a, x1, wa)
                c1b = multiplyAdd(c1b, x1, wb)
                let x2 = Vector(repeating: a[2])
                c2a = multiplyAdd(c2a, x2, wa)
                c2b = multiplyAdd(c2b, x2, wb)
                let x3 = Vector(repeating: a[3])
                c3a = multiplyAdd(c3a, x3, wa)
                c3b = multiplyAdd(c3b, x3, wb)
                let x4 = Vector(repeating: a[4])
                c4a = multiplyAdd(c4a, x4, wa)
                c4b = multiplyAdd(c4b, x4, wb)
                let x5 = Vector(repeating: a[5])
                c5a = multiplyAdd(c5a, x5, wa)
                c5b = multiplyAdd(c5b, x5, wb)
                let x6 = Vector(repeating: a[6])
                c6a = multiplyAdd(c6a, x6, wa)
                c6b = multiplyAdd(c6b, x6, wb)
                let x7 = Vector(repeating: a[7])
                c7a = multiplyAdd(c7a, x7, wa)
                c7b = multiplyAdd(c7b, x7, wb)
                a += product.inputStep
                left += 16
                right += 16
            }
        }
        if product.accumulates {
            c0a += load(result + 0 + 0 * vectorWidth)
            c0b += load(result + 0 + 1 * vectorWidth)
            c1a += load(result + 32 + 0 * vectorWidth)
            c1b += load(result + 32 + 1 * vectorWidth)
            c2a += load(result + 64 + 0 * vectorWidth)
            c2b += load(result + 64 + 1 * vectorWidth)
            c3a += load(result + 96 + 0 * vectorWidth)
            c3b += load(result + 96 + 1 * vectorWidth)
            c4a += load(result + 128 + 0 * vectorWidth)
            c4b += load(result + 128 + 1 * vectorWidth)
            c5a += load(result + 160 + 0 * vectorWidth)
            c5b += load(result + 160 + 1 * vectorWidth)
            c6a += load(result + 192 + 0 * vectorWidth)
            c6b += load(result + 192 + 1 * vectorWidth)
            c7a += load(result + 224 + 0 * vectorWidth)
            c7b += load(result + 224 + 1 * vectorWidth)
        }
        store(c0a, result + 0 + 0 * vectorWidth)
        store(c0b, result + 0 + 1 * vectorWidth)
        store(c1a, result + 32 + 0 * vectorWidth)
        store(c1b, result + 32 + 1 * vectorWidth)
        store(c2a, result + 64 + 0 * vectorWidth)
        store(c2b, result + 64 + 1 * vectorWidth)
        store(c3a, result + 96 + 0 * vectorWidth)
        store(c3b, result + 96 + 1 * vectorWidth)
        store(c4a, result + 128 + 0 * vectorWidth)
        store(c4b, result + 128 + 1 * vectorWidth)
        store(c5a, result + 160 + 0 * vectorWidth)
        store(c5b, result + 160 + 1 * vectorWidth)
        store(c6a, result + 192 + 0 * vectorWidth)
        store(c6b, result + 192 + 1 * vectorWidth)
        store(c7a, result + 224 + 0 * vectorWidth)
        store(c7b, result + 224 + 1 * vectorWidth)
    }

    /// 8 input × 16 output channels of a weight gradient.
    @inline(never)
    func outerProduct8x1(
        _ product: OuterProduct, _ x: UnsafePointer<Float>, _ d0: UnsafePointer<Float>, _ d1: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>
    ) {
        var c0a = Vector.zero
        var c1a = Vector.zero
        var c2a = Vector.zero
        var c3a = Vector.zero
        var c4a = Vector.zero
        var c5a = Vector.zero
        var c6a = Vector.zero
        var c7a = Vector.zero
        for row in 0..<product.rowCount {
            var a = x + row * product.inputRowStride
            var left = d0 + row * product.gradientRowStride
            for _ in 0..<product.columnCount {
                let wa = load(left)
                let x0 = Vector(repeating: a[0])
                c0a = multiplyAdd(c0a, x0, wa)
                let x1 = Vector(repeating: a[1])
                c1a = multiplyAdd(c1a, x1, wa)
                let x2 = Vector(repeating: a[2])
                c2a = multiplyAdd(c2a, x2, wa)
                let x3 = Vector(repeating: a[3])
                c3a = multiplyAdd(c3a, x3, wa)
                let x4 = Vector(repeating: a[4])
                c4a = multiplyAdd(c4a, x4, wa)
                let x5 = Vector(repeating: a[5])
                c5a = multiplyAdd(c5a, x5, wa)
                let x6 = Vector(repeating: a[6])
                c6a = multiplyAdd(c6a, x6, wa)
                let x7 = Vector(repeating: a[7])
                c7a = multiplyAdd(c7a, x7, wa)
                a += product.inputStep
                left += 16
            }
        }
        if product.accumulates {
            c0a += load(result + 0 + 0 * vectorWidth)
            c1a += load(result + 32 + 0 * vectorWidth)
            c2a += load(result + 64 + 0 * vectorWidth)
            c3a += load(result + 96 + 0 * vectorWidth)
            c4a += load(result + 128 + 0 * vectorWidth)
            c5a += load(result + 160 + 0 * vectorWidth)
            c6a += load(result + 192 + 0 * vectorWidth)
            c7a += load(result + 224 + 0 * vectorWidth)
        }
        store(c0a, result + 0 + 0 * vectorWidth)
        store(c1a, result + 32 + 0 * vectorWidth)
        store(c2a, result + 64 + 0 * vectorWidth)
        store(c3a, result + 96 + 0 * vectorWidth)
        store(c4a, result + 128 + 0 * vectorWidth)
        store(c5a, result + 160 + 0 * vectorWidth)
        store(c6a, result + 192 + 0 * vectorWidth)
        store(c7a, result + 224 + 0 * vectorWidth)
    }
#else
    /// 6 pixels × two vectors of output channels: 12 accumulators of 16 registers. Pixels of the result, and of the
    /// residual if there is one, are `pitch` floats apart.
    @inline(never)
    func tile6x2(
        _ product: BandProduct, _ first: UnsafePointer<Float>, _ weights: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>, _ pitch: Int = 2 * vectorWidth, bias: UnsafePointer<Float>? = nil,
        residual: UnsafePointer<Float>? = nil, relu: Bool = false, fetch: Fetch = Fetch(), newLines: Int = 0
    ) {
        // What is added comes in while the products are summed.
        if let residual {
            for row in 0..<6 { graft_fetch_soon(residual + row * pitch) }
        }
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        var c4a = Vector.zero, c4b = Vector.zero
        var c5a = Vector.zero, c5b = Vector.zero
        if product.accumulates {
            c0a = load(result + 0 * pitch)
            c0b = load(result + 0 * pitch + vectorWidth)
            c1a = load(result + 1 * pitch)
            c1b = load(result + 1 * pitch + vectorWidth)
            c2a = load(result + 2 * pitch)
            c2b = load(result + 2 * pitch + vectorWidth)
            c3a = load(result + 3 * pitch)
            c3b = load(result + 3 * pitch + vectorWidth)
            c4a = load(result + 4 * pitch)
            c4b = load(result + 4 * pitch + vectorWidth)
            c5a = load(result + 5 * pitch)
            c5b = load(result + 5 * pitch + vectorWidth)
        }
        var ahead = fetch.first
        var w = weights
        var remaining = product.outerCount * product.innerCount
        for outer in 0..<product.outerCount {
            var block = first + outer * product.outerStride
            for _ in 0..<product.innerCount {
                remaining -= 1
                var quads = remaining == 0 ? product.lastQuads : 4
                var a = block
                block += product.innerStride
                for _ in 0..<fetch.lines {
                    graft_fetch_soon(ahead)
                    ahead = ahead.map { $0 + 16 }
                }
                for line in 0..<newLines { graft_fetch_soon(a + (6 + line) * 16) }
                repeat {
                    do {
                        let wa = load(w + 0 + 0 * vectorWidth)
                        let wb = load(w + 0 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[0])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[16])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[32])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[48])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[64])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[80])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                    }
                    do {
                        let wa = load(w + 32 + 0 * vectorWidth)
                        let wb = load(w + 32 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[1])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[17])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[33])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[49])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[65])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[81])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                    }
                    do {
                        let wa = load(w + 64 + 0 * vectorWidth)
                        let wb = load(w + 64 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[2])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[18])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[34])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[50])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[66])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[82])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                    }
                    do {
                        let wa = load(w + 96 + 0 * vectorWidth)
                        let wb = load(w + 96 + 1 * vectorWidth)
                        let x0 = Vector(repeating: a[3])
                        c0a = multiplyAdd(c0a, x0, wa)
                        c0b = multiplyAdd(c0b, x0, wb)
                        let x1 = Vector(repeating: a[19])
                        c1a = multiplyAdd(c1a, x1, wa)
                        c1b = multiplyAdd(c1b, x1, wb)
                        let x2 = Vector(repeating: a[35])
                        c2a = multiplyAdd(c2a, x2, wa)
                        c2b = multiplyAdd(c2b, x2, wb)
                        let x3 = Vector(repeating: a[51])
                        c3a = multiplyAdd(c3a, x3, wa)
                        c3b = multiplyAdd(c3b, x3, wb)
                        let x4 = Vector(repeating: a[67])
                        c4a = multiplyAdd(c4a, x4, wa)
                        c4b = multiplyAdd(c4b, x4, wb)
                        let x5 = Vector(repeating: a[83])
                        c5a = multiplyAdd(c5a, x5, wa)
                        c5b = multiplyAdd(c5b, x5, wb)
                    }
                    a += 4
                    w += 128
                    quads -= 1
                } while quads > 0
            }
            w += product.weightSkip
        }
        if let bias {
            let left = load(bias), right = load(bias + vectorWidth)
            c0a += left
            c0b += right
            c1a += left
            c1b += right
            c2a += left
            c2b += right
            c3a += left
            c3b += right
            c4a += left
            c4b += right
            c5a += left
            c5b += right
        }
        if let residual {
            c0a += load(residual + 0 * pitch)
            c0b += load(residual + 0 * pitch + vectorWidth)
            c1a += load(residual + 1 * pitch)
            c1b += load(residual + 1 * pitch + vectorWidth)
            c2a += load(residual + 2 * pitch)
            c2b += load(residual + 2 * pitch + vectorWidth)
            c3a += load(residual + 3 * pitch)
            c3b += load(residual + 3 * pitch + vectorWidth)
            c4a += load(residual + 4 * pitch)
            c4b += load(residual + 4 * pitch + vectorWidth)
            c5a += load(residual + 5 * pitch)
            c5b += load(residual + 5 * pitch + vectorWidth)
        }
        if relu {
            c0a.replace(with: Vector.zero, where: c0a .< Vector.zero)
            c0b.replace(with: Vector.zero, where: c0b .< Vector.zero)
            c1a.replace(with: Vector.zero, where: c1a .< Vector.zero)
            c1b.replace(with: Vector.zero, where: c1b .< Vector.zero)
            c2a.replace(with: Vector.zero, where: c2a .< Vector.zero)
            c2b.replace(with: Vector.zero, where: c2b .< Vector.zero)
            c3a.replace(with: Vector.zero, where: c3a .< Vector.zero)
            c3b.replace(with: Vector.zero, where: c3b .< Vector.zero)
            c4a.replace(with: Vector.zero, where: c4a .< Vector.zero)
            c4b.replace(with: Vector.zero, where: c4b .< Vector.zero)
            c5a.replace(with: Vector.zero, where: c5a .< Vector.zero)
            c5b.replace(with: Vector.zero, where: c5b .< Vector.zero)
        }
        store(c0a, result + 0 * pitch)
        store(c0b, result + 0 * pitch + vectorWidth)
        store(c1a, result + 1 * pitch)
        store(c1b, result + 1 * pitch + vectorWidth)
        store(c2a, result + 2 * pitch)
        store(c2b, result + 2 * pitch + vectorWidth)
        store(c3a, result + 3 * pitch)
        store(c3b, result + 3 * pitch + vectorWidth)
        store(c4a, result + 4 * pitch)
        store(c4b, result + 4 * pitch + vectorWidth)
        store(c5a, result + 5 * pitch)
        store(c5b, result + 5 * pitch + vectorWidth)
    }

    /// 4 input channels × two vectors of output channels of a weight gradient.
    @inline(never)
    func outerProduct4x2(
        _ product: OuterProduct, _ x: UnsafePointer<Float>, _ d0: UnsafePointer<Float>, _ d1: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>
    ) {
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        for row in 0..<product.rowCount {
            var a = x + row * product.inputRowStride
            var left = d0 + row * product.gradientRowStride
            var right = d1 + row * product.gradientRowStride
            for _ in 0..<product.columnCount {
                let wa = load(left)
                let wb = load(right)
                let x0 = Vector(repeating: a[0])
                c0a = multiplyAdd(c0a, x0, wa)
                c0b = multiplyAdd(c0b, x0, wb)
                let x1 = Vector(repeating: a[1])
                c1a = multiplyAdd(c1a, x1, wa)
                c1b = multiplyAdd(c1b, x1, wb)
                let x2 = Vector(repeating: a[2])
                c2a = multiplyAdd(c2a, x2, wa)
                c2b = multiplyAdd(c2b, x2, wb)
                let x3 = Vector(repeating: a[3])
                c3a = multiplyAdd(c3a, x3, wa)
                c3b = multiplyAdd(c3b, x3, wb)
                a += product.inputStep
                left += 16
                right += 16
            }
        }
        if product.accumulates {
            c0a += load(result + 0 + 0 * vectorWidth)
            c0b += load(result + 0 + 1 * vectorWidth)
            c1a += load(result + 32 + 0 * vectorWidth)
            c1b += load(result + 32 + 1 * vectorWidth)
            c2a += load(result + 64 + 0 * vectorWidth)
            c2b += load(result + 64 + 1 * vectorWidth)
            c3a += load(result + 96 + 0 * vectorWidth)
            c3b += load(result + 96 + 1 * vectorWidth)
        }
        store(c0a, result + 0 + 0 * vectorWidth)
        store(c0b, result + 0 + 1 * vectorWidth)
        store(c1a, result + 32 + 0 * vectorWidth)
        store(c1b, result + 32 + 1 * vectorWidth)
        store(c2a, result + 64 + 0 * vectorWidth)
        store(c2b, result + 64 + 1 * vectorWidth)
        store(c3a, result + 96 + 0 * vectorWidth)
        store(c3b, result + 96 + 1 * vectorWidth)
    }
#endif

// MARK: - Convolution

/// A band of pixels times one output block, tile by tile; see ``BandProduct``.
@inline(never)
func bandProduct(_ product: BandProduct) {
    let count = product.pixelCount
    let tile = product.tile
    #if GRAFT_AVX512
        if product.blockCount == 1 {
            for pixel in stride(from: 0, to: count, by: 14) {
                tile14x1(product, product.a + pixel * 16, product.weights, tile)
                storeTile(product.epilogue, tile, pixel, min(14, count - pixel), 0, 1)
            }
            return
        }
        let tiles = (count + 13) / 14
        let newLines = product.readsNewInput ? 14 : 0
        // Where weights come from far away, a few input blocks' at a time: they stay in the first-level cache through all
        // tiles, and the next come in meanwhile.
        let isParted =
            product.following != nil && product.outerCount > 0 && product.innerCount >= 8 && product.weightSkip == 0
            && tiles * 448 <= bandTileFloats
        let epilogue = product.epilogue
        var part = product
        if isParted { part.outerCount = 1 }
        var weights = product.weights
        for outer in 0..<(isParted ? product.outerCount : 1) {
            for block in stride(from: 0, to: product.innerCount, by: isParted ? 8 : max(product.innerCount, 1)) {
                let left = product.innerCount - block
                if isParted { part.innerCount = min(8, left) }
                let isLast = !isParted || outer == product.outerCount - 1 && left <= 8
                part.lastQuads = isLast ? product.lastQuads : 4
                let blocks = part.outerCount * part.innerCount
                let following = isLast ? product.following : product.following.map { _ in weights + blocks * 512 }
                let first = product.a + outer * product.outerStride + block * product.innerStride
                for index in 0..<tiles {
                    let pixel = index * 14
                    let sums = tile + (isParted ? index * 448 : 0)
                    let begun = weights > product.weights ? UnsafePointer(sums) : nil
                    let fetch = Fetch(following, blocks: blocks, index: index, of: tiles)
                    if isLast, count - pixel >= 14, epilogue.pixelOffsets == nil {
                        tile14x2(
                            part, first + pixel * 16, weights, epilogue.output + pixel * 16, 16,
                            second: epilogue.blockStride, bias: epilogue.bias,
                            residual: epilogue.residual.map { $0 + pixel * 16 }, relu: epilogue.relu, sums: begun,
                            fetch: fetch, newLines: newLines)
                        continue
                    }
                    if count - pixel <= 8 {
                        tile8x2(part, first + pixel * 16, weights, sums, sums: begun, fetch: fetch)
                    } else {
                        tile14x2(
                            part, first + pixel * 16, weights, sums, sums: begun, fetch: fetch, newLines: newLines)
                    }
                    if isLast { storeTile(epilogue, sums, pixel, min(14, count - pixel), 0, 2) }
                }
                weights += blocks * 512
            }
        }
    #else
        let laneStep = 2 * vectorWidth
        let lanes = product.blockCount * 16 / laneStep
        let tiles = (count + 5) / 6
        let newLines = product.readsNewInput ? 6 : 0
        if product.innerCount >= 8, product.outerCount * product.innerCount >= 32, product.weightSkip == 0,
            tiles * lanes * 6 * laneStep <= bandTileFloats
        {
            // Many weights pass once: a few input blocks' stay in the first-level cache through all tiles.
            var part = product
            part.outerCount = 1
            var weights = product.weights
            for outer in 0..<product.outerCount {
                for block in stride(from: 0, to: product.innerCount, by: 8) {
                    let left = product.innerCount - block
                    part.innerCount = min(8, left)
                    part.lastQuads = outer == product.outerCount - 1 && left <= 8 ? product.lastQuads : 4
                    part.accumulates = weights > product.weights
                    let isLast = outer == product.outerCount - 1 && left <= 8
                    let following =
                        isLast ? product.following : product.following.map { _ in weights + part.innerCount * 512 }
                    let first = product.a + outer * product.outerStride + block * product.innerStride
                    for lane in 0..<lanes {
                        for index in 0..<tiles {
                            tile6x2(
                                part, first + index * 96, weights + lane * laneStep,
                                tile + (lane * tiles + index) * 6 * laneStep,
                                fetch: Fetch(
                                    following, blocks: part.innerCount, index: lane * tiles + index,
                                    of: lanes * tiles), newLines: lane == 0 ? newLines : 0)
                        }
                    }
                    weights += part.innerCount * 512
                }
            }
            for lane in 0..<lanes {
                for index in 0..<tiles {
                    storeTile(
                        product.epilogue, tile + (lane * tiles + index) * 6 * laneStep, index * 6,
                        min(6, count - index * 6), lane * laneStep, 2)
                }
            }
            return
        }
        // One pass over the band per pair of vectors: their share of the weights stays in the first-level cache.
        let epilogue = product.epilogue
        for lane in stride(from: 0, to: product.blockCount * 16, by: 2 * vectorWidth) {
            var pixel = 0
            if epilogue.pixelOffsets == nil {
                let place = lane / 16 * epilogue.blockStride + lane % 16
                let bias = epilogue.bias.map { $0 + lane }
                while pixel + 6 <= count {
                    tile6x2(
                        product, product.a + pixel * 16, product.weights + lane,
                        epilogue.output + (place + pixel * 16), 16, bias: bias,
                        residual: epilogue.residual.map { $0 + (place + pixel * 16) }, relu: epilogue.relu,
                        newLines: lane == 0 ? newLines : 0)
                    pixel += 6
                }
            }
            while pixel < count {
                tile6x2(product, product.a + pixel * 16, product.weights + lane, tile)
                storeTile(product.epilogue, tile, pixel, min(6, count - pixel), lane, 2)
                pixel += 6
            }
        }
    #endif
}

/// Applies the epilogue to a tile `[row][2 vectors]` whose first lane is `lane` of the output block.
@inline(__always)
private func storeTile(
    _ epilogue: BandEpilogue, _ tile: UnsafeMutablePointer<Float>, _ pixel: Int, _ rows: Int, _ lane: Int,
    _ vectors: Int
) {
    for vector in 0..<vectors {
        let channel = lane + vector * vectorWidth
        let start = (channel / 16) * epilogue.blockStride + channel % 16
        let output = epilogue.output + start
        var bias = Vector.zero
        if let values = epilogue.bias { bias = load(values + channel) }
        for row in 0..<rows {
            var place = (pixel + row) * 16
            if let offsets = epilogue.pixelOffsets { place = Int(offsets[pixel + row]) * 16 }
            var value = load(tile + (row * 2 + vector) * vectorWidth) + bias
            if let residual = epilogue.residual { value += load(residual + start + place) }
            if epilogue.relu { value.replace(with: Vector.zero, where: value .< Vector.zero) }
            store(value, output + place)
        }
    }
}

// Register tiles of few input channels. The stride between pixels is a constant in the usual cases, so that it costs no
// registers.

#if GRAFT_AVX512
    /// 14 pixels × two vectors of output channels of a ``DenseProduct``; `stride` floats lie between the pixels.
    @inline(__always)
    private func denseTile14x2(
        _ stride: Int, _ product: DenseProduct, _ first: UnsafePointer<Float>, _ weights: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>, _ pitch: Int, _ second: Int, _ bias: UnsafePointer<Float>?,
        _ residual: UnsafePointer<Float>?, _ relu: Bool
    ) {
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        var c4a = Vector.zero, c4b = Vector.zero
        var c5a = Vector.zero, c5b = Vector.zero
        var c6a = Vector.zero, c6b = Vector.zero
        var c7a = Vector.zero, c7b = Vector.zero
        var c8a = Vector.zero, c8b = Vector.zero
        var c9a = Vector.zero, c9b = Vector.zero
        var c10a = Vector.zero, c10b = Vector.zero
        var c11a = Vector.zero, c11b = Vector.zero
        var c12a = Vector.zero, c12b = Vector.zero
        var c13a = Vector.zero, c13b = Vector.zero
        var w = weights
        for outer in 0..<product.outerCount {
            for inner in 0..<product.innerCount {
                var a = first + (outer * product.outerStride + inner * product.innerStride)
                for _ in 0..<product.run {
                    let wa = load(w)
                    let wb = load(w + vectorWidth)
                    let x0 = Vector(repeating: a[0 * stride])
                    c0a = multiplyAdd(c0a, x0, wa)
                    c0b = multiplyAdd(c0b, x0, wb)
                    let x1 = Vector(repeating: a[1 * stride])
                    c1a = multiplyAdd(c1a, x1, wa)
                    c1b = multiplyAdd(c1b, x1, wb)
                    let x2 = Vector(repeating: a[2 * stride])
                    c2a = multiplyAdd(c2a, x2, wa)
                    c2b = multiplyAdd(c2b, x2, wb)
                    let x3 = Vector(repeating: a[3 * stride])
                    c3a = multiplyAdd(c3a, x3, wa)
                    c3b = multiplyAdd(c3b, x3, wb)
                    let x4 = Vector(repeating: a[4 * stride])
                    c4a = multiplyAdd(c4a, x4, wa)
                    c4b = multiplyAdd(c4b, x4, wb)
                    let x5 = Vector(repeating: a[5 * stride])
                    c5a = multiplyAdd(c5a, x5, wa)
                    c5b = multiplyAdd(c5b, x5, wb)
                    let x6 = Vector(repeating: a[6 * stride])
                    c6a = multiplyAdd(c6a, x6, wa)
                    c6b = multiplyAdd(c6b, x6, wb)
                    let x7 = Vector(repeating: a[7 * stride])
                    c7a = multiplyAdd(c7a, x7, wa)
                    c7b = multiplyAdd(c7b, x7, wb)
                    let x8 = Vector(repeating: a[8 * stride])
                    c8a = multiplyAdd(c8a, x8, wa)
                    c8b = multiplyAdd(c8b, x8, wb)
                    let x9 = Vector(repeating: a[9 * stride])
                    c9a = multiplyAdd(c9a, x9, wa)
                    c9b = multiplyAdd(c9b, x9, wb)
                    let x10 = Vector(repeating: a[10 * stride])
                    c10a = multiplyAdd(c10a, x10, wa)
                    c10b = multiplyAdd(c10b, x10, wb)
                    let x11 = Vector(repeating: a[11 * stride])
                    c11a = multiplyAdd(c11a, x11, wa)
                    c11b = multiplyAdd(c11b, x11, wb)
                    let x12 = Vector(repeating: a[12 * stride])
                    c12a = multiplyAdd(c12a, x12, wa)
                    c12b = multiplyAdd(c12b, x12, wb)
                    let x13 = Vector(repeating: a[13 * stride])
                    c13a = multiplyAdd(c13a, x13, wa)
                    c13b = multiplyAdd(c13b, x13, wb)
                    a += 1
                    w += 32
                }
            }
        }
        if let bias {
            let left = load(bias), right = load(bias + vectorWidth)
            c0a += left
            c0b += right
            c1a += left
            c1b += right
            c2a += left
            c2b += right
            c3a += left
            c3b += right
            c4a += left
            c4b += right
            c5a += left
            c5b += right
            c6a += left
            c6b += right
            c7a += left
            c7b += right
            c8a += left
            c8b += right
            c9a += left
            c9b += right
            c10a += left
            c10b += right
            c11a += left
            c11b += right
            c12a += left
            c12b += right
            c13a += left
            c13b += right
        }
        if let residual {
            c0a += load(residual + 0 * pitch)
            c0b += load(residual + 0 * pitch + second)
            c1a += load(residual + 1 * pitch)
            c1b += load(residual + 1 * pitch + second)
            c2a += load(residual + 2 * pitch)
            c2b += load(residual + 2 * pitch + second)
            c3a += load(residual + 3 * pitch)
            c3b += load(residual + 3 * pitch + second)
            c4a += load(residual + 4 * pitch)
            c4b += load(residual + 4 * pitch + second)
            c5a += load(residual + 5 * pitch)
            c5b += load(residual + 5 * pitch + second)
            c6a += load(residual + 6 * pitch)
            c6b += load(residual + 6 * pitch + second)
            c7a += load(residual + 7 * pitch)
            c7b += load(residual + 7 * pitch + second)
            c8a += load(residual + 8 * pitch)
            c8b += load(residual + 8 * pitch + second)
            c9a += load(residual + 9 * pitch)
            c9b += load(residual + 9 * pitch + second)
            c10a += load(residual + 10 * pitch)
            c10b += load(residual + 10 * pitch + second)
            c11a += load(residual + 11 * pitch)
            c11b += load(residual + 11 * pitch + second)
            c12a += load(residual + 12 * pitch)
            c12b += load(residual + 12 * pitch + second)
            c13a += load(residual + 13 * pitch)
            c13b += load(residual + 13 * pitch + second)
        }
        if relu {
            c0a.replace(with: Vector.zero, where: c0a .< Vector.zero)
            c0b.replace(with: Vector.zero, where: c0b .< Vector.zero)
            c1a.replace(with: Vector.zero, where: c1a .< Vector.zero)
            c1b.replace(with: Vector.zero, where: c1b .< Vector.zero)
            c2a.replace(with: Vector.zero, where: c2a .< Vector.zero)
            c2b.replace(with: Vector.zero, where: c2b .< Vector.zero)
            c3a.replace(with: Vector.zero, where: c3a .< Vector.zero)
            c3b.replace(with: Vector.zero, where: c3b .< Vector.zero)
            c4a.replace(with: Vector.zero, where: c4a .< Vector.zero)
            c4b.replace(with: Vector.zero, where: c4b .< Vector.zero)
            c5a.replace(with: Vector.zero, where: c5a .< Vector.zero)
            c5b.replace(with: Vector.zero, where: c5b .< Vector.zero)
            c6a.replace(with: Vector.zero, where: c6a .< Vector.zero)
            c6b.replace(with: Vector.zero, where: c6b .< Vector.zero)
            c7a.replace(with: Vector.zero, where: c7a .< Vector.zero)
            c7b.replace(with: Vector.zero, where: c7b .< Vector.zero)
            c8a.replace(with: Vector.zero, where: c8a .< Vector.zero)
            c8b.replace(with: Vector.zero, where: c8b .< Vector.zero)
            c9a.replace(with: Vector.zero, where: c9a .< Vector.zero)
            c9b.replace(with: Vector.zero, where: c9b .< Vector.zero)
            c10a.replace(with: Vector.zero, where: c10a .< Vector.zero)
            c10b.replace(with: Vector.zero, where: c10b .< Vector.zero)
            c11a.replace(with: Vector.zero, where: c11a .< Vector.zero)
            c11b.replace(with: Vector.zero, where: c11b .< Vector.zero)
            c12a.replace(with: Vector.zero, where: c12a .< Vector.zero)
            c12b.replace(with: Vector.zero, where: c12b .< Vector.zero)
            c13a.replace(with: Vector.zero, where: c13a .< Vector.zero)
            c13b.replace(with: Vector.zero, where: c13b .< Vector.zero)
        }
        store(c0a, result + 0 * pitch)
        store(c0b, result + 0 * pitch + second)
        store(c1a, result + 1 * pitch)
        store(c1b, result + 1 * pitch + second)
        store(c2a, result + 2 * pitch)
        store(c2b, result + 2 * pitch + second)
        store(c3a, result + 3 * pitch)
        store(c3b, result + 3 * pitch + second)
        store(c4a, result + 4 * pitch)
        store(c4b, result + 4 * pitch + second)
        store(c5a, result + 5 * pitch)
        store(c5b, result + 5 * pitch + second)
        store(c6a, result + 6 * pitch)
        store(c6b, result + 6 * pitch + second)
        store(c7a, result + 7 * pitch)
        store(c7b, result + 7 * pitch + second)
        store(c8a, result + 8 * pitch)
        store(c8b, result + 8 * pitch + second)
        store(c9a, result + 9 * pitch)
        store(c9b, result + 9 * pitch + second)
        store(c10a, result + 10 * pitch)
        store(c10b, result + 10 * pitch + second)
        store(c11a, result + 11 * pitch)
        store(c11b, result + 11 * pitch + second)
        store(c12a, result + 12 * pitch)
        store(c12b, result + 12 * pitch + second)
        store(c13a, result + 13 * pitch)
        store(c13b, result + 13 * pitch + second)
    }

    /// 8 pixels × two vectors of output channels of a ``DenseProduct``; `stride` floats lie between the pixels.
    @inline(__always)
    private func denseTile8x2(
        _ stride: Int, _ product: DenseProduct, _ first: UnsafePointer<Float>, _ weights: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>, _ pitch: Int, _ second: Int, _ bias: UnsafePointer<Float>?,
        _ residual: UnsafePointer<Float>?, _ relu: Bool
    ) {
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        var c4a = Vector.zero, c4b = Vector.zero
        var c5a = Vector.zero, c5b = Vector.zero
        var c6a = Vector.zero, c6b = Vector.zero
        var c7a = Vector.zero, c7b = Vector.zero
        var w = weights
        for outer in 0..<product.outerCount {
            for inner in 0..<product.innerCount {
                var a = first + (outer * product.outerStride + inner * product.innerStride)
                for _ in 0..<product.run {
                    let wa = load(w)
                    let wb = load(w + vectorWidth)
                    let x0 = Vector(repeating: a[0 * stride])
                    c0a = multiplyAdd(c0a, x0, wa)
                    c0b = multiplyAdd(c0b, x0, wb)
                    let x1 = Vector(repeating: a[1 * stride])
                    c1a = multiplyAdd(c1a, x1, wa)
                    c1b = multiplyAdd(c1b, x1, wb)
                    let x2 = Vector(repeating: a[2 * stride])
                    c2a = multiplyAdd(c2a, x2, wa)
                    c2b = multiplyAdd(c2b, x2, wb)
                    let x3 = Vector(repeating: a[3 * stride])
                    c3a = multiplyAdd(c3a, x3, wa)
                    c3b = multiplyAdd(c3b, x3, wb)
                    let x4 = Vector(repeating: a[4 * stride])
                    c4a = multiplyAdd(c4a, x4, wa)
                    c4b = multiplyAdd(c4b, x4, wb)
                    let x5 = Vector(repeating: a[5 * stride])
                    c5a = multiplyAdd(c5a, x5, wa)
                    c5b = multiplyAdd(c5b, x5, wb)
                    let x6 = Vector(repeating: a[6 * stride])
                    c6a = multiplyAdd(c6a, x6, wa)
                    c6b = multiplyAdd(c6b, x6, wb)
                    let x7 = Vector(repeating: a[7 * stride])
                    c7a = multiplyAdd(c7a, x7, wa)
                    c7b = multiplyAdd(c7b, x7, wb)
                    a += 1
                    w += 32
                }
            }
        }
        if let bias {
            let left = load(bias), right = load(bias + vectorWidth)
            c0a += left
            c0b += right
            c1a += left
            c1b += right
            c2a += left
            c2b += right
            c3a += left
            c3b += right
            c4a += left
            c4b += right
            c5a += left
            c5b += right
            c6a += left
            c6b += right
            c7a += left
            c7b += right
        }
        if let residual {
            c0a += load(residual + 0 * pitch)
            c0b += load(residual + 0 * pitch + second)
            c1a += load(residual + 1 * pitch)
            c1b += load(residual + 1 * pitch + second)
            c2a += load(residual + 2 * pitch)
            c2b += load(residual + 2 * pitch + second)
            c3a += load(residual + 3 * pitch)
            c3b += load(residual + 3 * pitch + second)
            c4a += load(residual + 4 * pitch)
            c4b += load(residual + 4 * pitch + second)
            c5a += load(residual + 5 * pitch)
            c5b += load(residual + 5 * pitch + second)
            c6a += load(residual + 6 * pitch)
            c6b += load(residual + 6 * pitch + second)
            c7a += load(residual + 7 * pitch)
            c7b += load(residual + 7 * pitch + second)
        }
        if relu {
            c0a.replace(with: Vector.zero, where: c0a .< Vector.zero)
            c0b.replace(with: Vector.zero, where: c0b .< Vector.zero)
            c1a.replace(with: Vector.zero, where: c1a .< Vector.zero)
            c1b.replace(with: Vector.zero, where: c1b .< Vector.zero)
            c2a.replace(with: Vector.zero, where: c2a .< Vector.zero)
            c2b.replace(with: Vector.zero, where: c2b .< Vector.zero)
            c3a.replace(with: Vector.zero, where: c3a .< Vector.zero)
            c3b.replace(with: Vector.zero, where: c3b .< Vector.zero)
            c4a.replace(with: Vector.zero, where: c4a .< Vector.zero)
            c4b.replace(with: Vector.zero, where: c4b .< Vector.zero)
            c5a.replace(with: Vector.zero, where: c5a .< Vector.zero)
            c5b.replace(with: Vector.zero, where: c5b .< Vector.zero)
            c6a.replace(with: Vector.zero, where: c6a .< Vector.zero)
            c6b.replace(with: Vector.zero, where: c6b .< Vector.zero)
            c7a.replace(with: Vector.zero, where: c7a .< Vector.zero)
            c7b.replace(with: Vector.zero, where: c7b .< Vector.zero)
        }
        store(c0a, result + 0 * pitch)
        store(c0b, result + 0 * pitch + second)
        store(c1a, result + 1 * pitch)
        store(c1b, result + 1 * pitch + second)
        store(c2a, result + 2 * pitch)
        store(c2b, result + 2 * pitch + second)
        store(c3a, result + 3 * pitch)
        store(c3b, result + 3 * pitch + second)
        store(c4a, result + 4 * pitch)
        store(c4b, result + 4 * pitch + second)
        store(c5a, result + 5 * pitch)
        store(c5b, result + 5 * pitch + second)
        store(c6a, result + 6 * pitch)
        store(c6b, result + 6 * pitch + second)
        store(c7a, result + 7 * pitch)
        store(c7b, result + 7 * pitch + second)
    }

#else
    /// 6 pixels × two vectors of output channels of a ``DenseProduct``; `stride` floats lie between the pixels.
    @inline(__always)
    private func denseTile6x2(
        _ stride: Int, _ product: DenseProduct, _ first: UnsafePointer<Float>, _ weights: UnsafePointer<Float>,
        _ result: UnsafeMutablePointer<Float>, _ pitch: Int, _ second: Int, _ bias: UnsafePointer<Float>?,
        _ residual: UnsafePointer<Float>?, _ relu: Bool
    ) {
        var c0a = Vector.zero, c0b = Vector.zero
        var c1a = Vector.zero, c1b = Vector.zero
        var c2a = Vector.zero, c2b = Vector.zero
        var c3a = Vector.zero, c3b = Vector.zero
        var c4a = Vector.zero, c4b = Vector.zero
        var c5a = Vector.zero, c5b = Vector.zero
        var w = weights
        for outer in 0..<product.outerCount {
            for inner in 0..<product.innerCount {
                var a = first + (outer * product.outerStride + inner * product.innerStride)
                for _ in 0..<product.run {
                    let wa = load(w)
                    let wb = load(w + vectorWidth)
                    let x0 = Vector(repeating: a[0 * stride])
                    c0a = multiplyAdd(c0a, x0, wa)
                    c0b = multiplyAdd(c0b, x0, wb)
                    let x1 = Vector(repeating: a[1 * stride])
                    c1a = multiplyAdd(c1a, x1, wa)
                    c1b = multiplyAdd(c1b, x1, wb)
                    let x2 = Vector(repeating: a[2 * stride])
                    c2a = multiplyAdd(c2a, x2, wa)
                    c2b = multiplyAdd(c2b, x2, wb)
                    let x3 = Vector(repeating: a[3 * stride])
                    c3a = multiplyAdd(c3a, x3, wa)
                    c3b = multiplyAdd(c3b, x3, wb)
                    let x4 = Vector(repeating: a[4 * stride])
                    c4a = multiplyAdd(c4a, x4, wa)
                    c4b = multiplyAdd(c4b, x4, wb)
                    let x5 = Vector(repeating: a[5 * stride])
                    c5a = multiplyAdd(c5a, x5, wa)
                    c5b = multiplyAdd(c5b, x5, wb)
                    a += 1
                    w += 32
                }
            }
        }
        if let bias {
            let left = load(bias), right = load(bias + vectorWidth)
            c0a += left
            c0b += right
            c1a += left
            c1b += right
            c2a += left
            c2b += right
            c3a += left
            c3b += right
            c4a += left
            c4b += right
            c5a += left
            c5b += right
        }
        if let residual {
            c0a += load(residual + 0 * pitch)
            c0b += load(residual + 0 * pitch + second)
            c1a += load(residual + 1 * pitch)
            c1b += load(residual + 1 * pitch + second)
            c2a += load(residual + 2 * pitch)
            c2b += load(residual + 2 * pitch + second)
            c3a += load(residual + 3 * pitch)
            c3b += load(residual + 3 * pitch + second)
            c4a += load(residual + 4 * pitch)
            c4b += load(residual + 4 * pitch + second)
            c5a += load(residual + 5 * pitch)
            c5b += load(residual + 5 * pitch + second)
        }
        if relu {
            c0a.replace(with: Vector.zero, where: c0a .< Vector.zero)
            c0b.replace(with: Vector.zero, where: c0b .< Vector.zero)
            c1a.replace(with: Vector.zero, where: c1a .< Vector.zero)
            c1b.replace(with: Vector.zero, where: c1b .< Vector.zero)
            c2a.replace(with: Vector.zero, where: c2a .< Vector.zero)
            c2b.replace(with: Vector.zero, where: c2b .< Vector.zero)
            c3a.replace(with: Vector.zero, where: c3a .< Vector.zero)
            c3b.replace(with: Vector.zero, where: c3b .< Vector.zero)
            c4a.replace(with: Vector.zero, where: c4a .< Vector.zero)
            c4b.replace(with: Vector.zero, where: c4b .< Vector.zero)
            c5a.replace(with: Vector.zero, where: c5a .< Vector.zero)
            c5b.replace(with: Vector.zero, where: c5b .< Vector.zero)
        }
        store(c0a, result + 0 * pitch)
        store(c0b, result + 0 * pitch + second)
        store(c1a, result + 1 * pitch)
        store(c1b, result + 1 * pitch + second)
        store(c2a, result + 2 * pitch)
        store(c2b, result + 2 * pitch + second)
        store(c3a, result + 3 * pitch)
        store(c3b, result + 3 * pitch + second)
        store(c4a, result + 4 * pitch)
        store(c4b, result + 4 * pitch + second)
        store(c5a, result + 5 * pitch)
        store(c5b, result + 5 * pitch + second)
    }

#endif

/// A tile of a row of ``DenseProduct``; all its pixels are summed.
@inline(__always)
private func denseTile(
    _ stride: Int, _ rows: Int, _ product: DenseProduct, _ first: UnsafePointer<Float>,
    _ weights: UnsafePointer<Float>, _ result: UnsafeMutablePointer<Float>, _ pitch: Int, _ second: Int,
    _ bias: UnsafePointer<Float>?, _ residual: UnsafePointer<Float>?, _ relu: Bool
) {
    #if GRAFT_AVX512
        if rows == 8 {
            denseTile8x2(stride, product, first, weights, result, pitch, second, bias, residual, relu)
        } else {
            denseTile14x2(stride, product, first, weights, result, pitch, second, bias, residual, relu)
        }
    #else
        denseTile6x2(stride, product, first, weights, result, pitch, second, bias, residual, relu)
    #endif
}

/// ``denseRow(_:_:)`` for one stride.
@inline(__always)
private func denseRow(_ product: DenseProduct, _ stride: Int) {
    let count = product.pixelCount
    let epilogue = product.epilogue
    for lane in Swift.stride(from: 0, to: product.blockCount * 16, by: 2 * vectorWidth) {
        let place = lane / 16 * epilogue.blockStride + lane % 16
        // Two vectors of one block, or one of each.
        let second = vectorWidth == 16 ? epilogue.blockStride : vectorWidth
        var pixel = 0
        while pixel < count {
            #if GRAFT_AVX512
                let rows = count - pixel <= 8 ? 8 : 14
            #else
                let rows = 6
            #endif
            let first = product.rows + pixel * stride
            let output = place + pixel * 16
            if pixel + rows <= count, product.blockCount * 16 >= 2 * vectorWidth {
                denseTile(
                    stride, rows, product, first, product.weights + lane, epilogue.output + output, 16, second,
                    epilogue.bias.map { $0 + lane }, epilogue.residual.map { $0 + output }, epilogue.relu)
            } else {
                denseTile(
                    stride, rows, product, first, product.weights + lane, product.tile, 2 * vectorWidth, vectorWidth,
                    nil, nil, false)
                storeTile(
                    epilogue, product.tile, pixel, min(rows, count - pixel), lane,
                    min(2, product.blockCount * 16 / vectorWidth))
            }
            pixel += rows
        }
    }
}

@inline(never) private func denseRow3(_ product: DenseProduct) { denseRow(product, 3) }
@inline(never) private func denseRow6(_ product: DenseProduct) { denseRow(product, 6) }
@inline(never) private func denseRow12(_ product: DenseProduct) { denseRow(product, 12) }
@inline(never) private func denseRowOfAnyStride(_ product: DenseProduct) { denseRow(product, product.pixelStride) }

/// One row of the grid times one output block; see ``DenseProduct``.
@inline(never)
func denseProduct(_ product: DenseProduct) {
    switch product.pixelStride {
    case 3: denseRow3(product)
    case 6: denseRow6(product)
    case 12: denseRow12(product)
    default: denseRowOfAnyStride(product)
    }
}

/// Copies rows of pixels without the lanes that they do not have; see ``DenseRows``.
@inline(never)
func keepDenseRows(_ rows: DenseRows) {
    let channels = rows.channels
    let from = min(max(-rows.left, 0), rows.columnCount)
    let end = max(min(rows.sourceWidth - rows.left, rows.columnCount), from)
    for row in 0..<rows.rowCount {
        let sourceRow = rows.first + row
        var target = UnsafeMutableRawPointer(rows.target + row * rows.rowFloats)
        let exists = sourceRow >= 0 && sourceRow < rows.sourceHeight
        let low = exists ? from : rows.columnCount
        let high = exists ? end : rows.columnCount
        // Whole vectors are written; the next pixel overwrites the lanes too many.
        for _ in 0..<low {
            target.storeBytes(of: SIMD8<Float>.zero, as: SIMD8<Float>.self)
            target += channels * 4
        }
        if low < high {
            let pixelFloats = rows.isCompact ? channels : 16
            var source = UnsafeRawPointer(rows.source + (sourceRow * rows.sourceWidth + rows.left + low) * pixelFloats)
            if rows.isCompact {
                let byteCount = (high - low) * channels * 4
                target.copyMemory(from: source, byteCount: byteCount)
                target += byteCount
            } else if channels <= 4 {
                for _ in low..<high {
                    target.storeBytes(of: source.load(as: SIMD4<Float>.self), as: SIMD4<Float>.self)
                    source += 64
                    target += channels * 4
                }
            } else {
                for _ in low..<high {
                    target.storeBytes(of: source.load(as: SIMD8<Float>.self), as: SIMD8<Float>.self)
                    source += 64
                    target += channels * 4
                }
            }
        }
        for _ in high..<rows.columnCount {
            target.storeBytes(of: SIMD8<Float>.zero, as: SIMD8<Float>.self)
            target += channels * 4
        }
    }
}

/// Calls `body(first source row of the image, source row of tap row 0, grid column, columns, pixel in the band)` for each
/// piece of a grid row in the band.
@inline(__always)
private func forEachSegment(
    _ gather: Gather, _ first: Int, _ count: Int, _ body: (Int, Int, Int, Int, Int) -> Void
) {
    var done = 0
    var column = first % gather.gridWidth
    let line = first / gather.gridWidth
    var row = line % gather.gridHeight
    var image = line / gather.gridHeight
    while done < count {
        let length = min(gather.gridWidth - column, count - done)
        body(image * gather.sourceHeight, row * gather.strideHeight, column, length, done)
        done += length
        column = 0
        row += 1
        if row == gather.gridHeight {
            row = 0
            image += 1
        }
    }
}

/// The part of `length` grid columns from `column` on whose source column exists: offsets from the piece's start.
@inline(__always)
private func validColumns(_ gather: Gather, _ column: Int, _ length: Int, _ tapColumn: Int) -> (Int, Int) {
    let start = column * gather.strideWidth + tapColumn
    let low = start >= 0 ? 0 : (-start + gather.strideWidth - 1) / gather.strideWidth
    let room = gather.sourceWidth - 1 - start
    let high = min(room < 0 ? 0 : room / gather.strideWidth + 1, length)
    return (min(low, high), high)
}

@inline(never)
func gather(_ gather: Gather, _ first: Int, _ count: Int) {
    let step = gather.strideWidth * 16
    forEachSegment(gather, first, count) { imageRow, row, column, length, done in
        for tap in 0..<gather.tapCount {
            let sourceRow = row + Int(gather.tapRows[tap])
            let tapColumn = Int(gather.tapColumns[tap])
            var (low, high) = validColumns(gather, column, length, tapColumn)
            if sourceRow < 0 || sourceRow >= gather.sourceHeight {
                low = 0
                high = 0
            }
            let offset =
                ((imageRow + sourceRow) * gather.sourceWidth + (column + low) * gather.strideWidth + tapColumn) * 16
            for block in 0..<gather.blockCount {
                var target = gather.target + ((tap * gather.blockCount + block) * gather.capacity + done) * 16
                for _ in 0..<low {
                    storeBlock(Block.zero, target)
                    target += 16
                }
                if high > low {
                    var source = gather.source + (block * gather.blockStride + offset)
                    for _ in low..<high {
                        storeBlock(loadBlock(source), target)
                        source += step
                        target += 16
                    }
                }
                for _ in high..<length {
                    storeBlock(Block.zero, target)
                    target += 16
                }
            }
        }
    }
}

/// Taps and channels in one dense reduction, for images of few channels: 147 terms instead of 49 · 16.
@inline(never)
func gatherDense(_ gather: Gather, _ first: Int, _ count: Int) {
    // Lanes behind the last term are zero.
    let lastBlock = (gather.tapCount * gather.channels + 15) / 16 - 1
    zero(gather.target + lastBlock * gather.capacity * 16, count)
    if gather.isCompact {
        fillDense(gather, first, count, 4) { source, target in
            // Not whole: the next pixel's channels are no zeros, and behind the last pixel may be no memory.
            var value = SIMD4<Float>(source[0], 0, 0, 0)
            if gather.channels > 1 { value[1] = source[1] }
            if gather.channels > 2 { value[2] = source[2] }
            if gather.channels > 3 { value[3] = source[3] }
            UnsafeMutableRawPointer(target).storeBytes(of: value, as: SIMD4<Float>.self)
        } clear: { target in
            UnsafeMutableRawPointer(target).storeBytes(of: SIMD4<Float>.zero, as: SIMD4<Float>.self)
        }
    } else if gather.channels <= 4 {
        fillDense(gather, first, count, 4) { source, target in
            UnsafeMutableRawPointer(target).storeBytes(
                of: UnsafeRawPointer(source).load(as: SIMD4<Float>.self), as: SIMD4<Float>.self)
        } clear: { target in
            UnsafeMutableRawPointer(target).storeBytes(of: SIMD4<Float>.zero, as: SIMD4<Float>.self)
        }
    } else {
        fillDense(gather, first, count, 8) { source, target in
            UnsafeMutableRawPointer(target).storeBytes(
                of: UnsafeRawPointer(source).load(as: SIMD8<Float>.self), as: SIMD8<Float>.self)
        } clear: { target in
            UnsafeMutableRawPointer(target).storeBytes(of: SIMD8<Float>.zero, as: SIMD8<Float>.self)
        }
    }
}

/// `copy` moves `width` lanes of a source pixel, those behind its last channel zero, and `clear` zeroes them: taps are
/// written in order, so that the next tap overwrites them. A tap at the border of two blocks goes lane by lane.
@inline(__always)
private func fillDense(
    _ gather: Gather, _ first: Int, _ count: Int, _ width: Int,
    _ copy: (UnsafePointer<Float>, UnsafeMutablePointer<Float>) -> Void, clear: (UnsafeMutablePointer<Float>) -> Void
) {
    let channels = gather.channels
    let pixelFloats = gather.isCompact ? channels : 16
    let sourceStep = gather.strideWidth * pixelFloats
    forEachSegment(gather, first, count) { imageRow, row, column, length, done in
        for tap in 0..<gather.tapCount {
            let sourceRow = row + Int(gather.tapRows[tap])
            let tapColumn = Int(gather.tapColumns[tap])
            var (low, high) = validColumns(gather, column, length, tapColumn)
            if sourceRow < 0 || sourceRow >= gather.sourceHeight {
                low = 0
                high = 0
            }
            let place = (imageRow + sourceRow) * gather.sourceWidth + (column + low) * gather.strideWidth + tapColumn
            let term = tap * channels
            if term % 16 + width <= 16 {
                var target = gather.target + ((term / 16 * gather.capacity + done) * 16 + term % 16)
                for _ in 0..<low {
                    clear(target)
                    target += 16
                }
                if high > low {
                    var source = gather.source + place * pixelFloats
                    for _ in low..<high {
                        copy(source, target)
                        source += sourceStep
                        target += 16
                    }
                }
                for _ in high..<length {
                    clear(target)
                    target += 16
                }
            } else {
                for channel in 0..<channels {
                    let lane = term + channel
                    var target = gather.target + ((lane / 16 * gather.capacity + done) * 16 + lane % 16)
                    for _ in 0..<low {
                        target.pointee = 0
                        target += 16
                    }
                    if high > low {
                        var source = gather.source + (place * pixelFloats + channel)
                        for _ in low..<high {
                            target.pointee = source.pointee
                            source += sourceStep
                            target += 16
                        }
                    }
                    for _ in high..<length {
                        target.pointee = 0
                        target += 16
                    }
                }
            }
        }
    }
}

/// One rectangle's contribution to 16 × 32 weights; see ``OuterProduct``.
@inline(never)
func outerProduct(
    _ product: OuterProduct, _ x: UnsafePointer<Float>, _ first: UnsafePointer<Float>,
    _ second: UnsafePointer<Float>?, _ result: UnsafeMutablePointer<Float>
) {
    #if GRAFT_AVX512
        for channel in stride(from: 0, to: product.inputChannels, by: 8) {
            if let second {
                outerProduct8x2(product, x + channel, first, second, result + channel * 32)
            } else {
                outerProduct8x1(product, x + channel, first, first, result + channel * 32)
            }
        }
    #else
        for channel in stride(from: 0, to: product.inputChannels, by: 4) {
            for lane in stride(from: 0, to: second == nil ? 16 : 32, by: 2 * vectorWidth) {
                var gradient = first + lane % 16
                if lane >= 16, let second { gradient = second + lane % 16 }
                outerProduct4x2(
                    product, x + channel, gradient, gradient + vectorWidth, result + (channel * 32 + lane))
            }
        }
    #endif
}

@inline(never)
func transpose16(
    _ source: UnsafePointer<Float>, _ sourceStride: Int, _ target: UnsafeMutablePointer<Float>, _ targetStride: Int
) {
    for row in 0..<16 {
        for column in 0..<16 { target[row * targetStride + column] = source[column * sourceStride + row] }
    }
}

@inline(never)
func sumPartials(
    _ sources: UnsafePointer<Float>, _ partialStride: Int, _ count: Int, _ target: UnsafeMutablePointer<Float>,
    _ vectors: Int
) {
    for vector in 0..<vectors {
        var sum = Block.zero
        for partial in 0..<count { sum += loadBlock(sources + (partial * partialStride + vector * 16)) }
        storeBlock(sum, target + vector * 16)
    }
}

// MARK: - Winograd

// F(4×4, 3×3): tiles of 4×4 outputs from 6×6 inputs. One register's lanes at a time; the half-transformed tile goes
// through scratch in the first-level cache, because 36 vectors fit no register file.

/// Bᵀ times a column.
@inline(__always)
private func inputTransform(
    _ d0: Vector, _ d1: Vector, _ d2: Vector, _ d3: Vector, _ d4: Vector, _ d5: Vector
) -> (Vector, Vector, Vector, Vector, Vector, Vector) {
    let four = Vector(repeating: 4)
    let minusFour = Vector(repeating: -4)
    let minusFive = Vector(repeating: -5)
    let even = multiplyAdd(d4, d2, minusFour)
    let odd = multiplyAdd(d3, d1, minusFour)
    let evenDifference = d4 - d2
    let oddDifference = d3 - d1
    let twice = oddDifference + oddDifference
    return (
        multiplyAdd(multiplyAdd(d4, d2, minusFive), d0, four), even + odd, even - odd, evenDifference + twice,
        evenDifference - twice, multiplyAdd(multiplyAdd(d5, d3, minusFive), d1, four)
    )
}

/// Aᵀ times a column.
@inline(__always)
private func outputTransform(
    _ m0: Vector, _ m1: Vector, _ m2: Vector, _ m3: Vector, _ m4: Vector, _ m5: Vector
) -> (Vector, Vector, Vector, Vector) {
    let sum = m1 + m2
    let difference = m1 - m2
    let outerSum = m3 + m4
    let outerDifference = m3 - m4
    return (
        m0 + sum + outerSum, multiplyAdd(difference, outerDifference, Vector(repeating: 2)),
        multiplyAdd(sum, outerSum, Vector(repeating: 4)),
        multiplyAdd(difference + m5, outerDifference, Vector(repeating: 8))
    )
}

/// G times a column.
@inline(__always)
private func weightTransform(
    _ a: Vector, _ b: Vector, _ c: Vector
) -> (Vector, Vector, Vector, Vector, Vector, Vector) {
    let sixth = Vector(repeating: 1.0 / 6)
    let twelfth = Vector(repeating: 1.0 / 12)
    let outer = a + c
    let edge = multiplyAdd(c * sixth, a, Vector(repeating: 1.0 / 24))
    let middle = b * twelfth
    return (
        a * Vector(repeating: 0.25), (outer + b) * -sixth, (outer - b) * -sixth, edge + middle, edge - middle, c
    )
}

/// Where a tile of a plane lies: image, tile row, tile column of tile `index`, stepping on.
private struct TilePosition {
    var image: Int
    var row: Int
    var column: Int

    @inline(__always)
    init(_ index: Int, _ tileRows: Int, _ tileColumns: Int) {
        column = index % tileColumns
        row = index / tileColumns % tileRows
        image = index / tileColumns / tileRows
    }

    @inline(__always)
    mutating func advance(_ tileRows: Int, _ tileColumns: Int) {
        column += 1
        guard column == tileColumns else { return }
        column = 0
        row += 1
        guard row == tileRows else { return }
        row = 0
        image += 1
    }
}

/// Copies the part of a `side` × `side` patch that exists, zeros elsewhere, to `[side][side][16]`.
@inline(__always)
private func copyPatch(
    _ plane: UnsafePointer<Float>, _ height: Int, _ width: Int, _ firstRow: Int, _ firstColumn: Int, _ side: Int,
    _ patch: UnsafeMutablePointer<Float>
) {
    for row in 0..<side {
        let sourceRow = firstRow + row
        for column in 0..<side {
            let sourceColumn = firstColumn + column
            let target = patch + (row * side + column) * 16
            if sourceRow >= 0, sourceRow < height, sourceColumn >= 0, sourceColumn < width {
                storeBlock(loadBlock(plane + (sourceRow * width + sourceColumn) * 16), target)
            } else {
                storeBlock(Block.zero, target)
            }
        }
    }
}

/// `V = Bᵀ d B` of `count` tiles from tile `first` on; see ``WinogradTransform``.
@inline(never)
func winogradInput(_ transform: WinogradTransform, _ first: Int, _ count: Int) {
    let patch = transform.scratch
    let half = patch + 576
    let height = transform.sourceHeight
    let width = transform.sourceWidth
    let step = transform.productStride
    for block in 0..<transform.blockCount {
        var position = TilePosition(first, transform.tileRows, transform.tileColumns)
        let planes = transform.source + block * transform.blockStride
        var target = transform.target + block * transform.capacity * 16
        for _ in 0..<count {
            let plane = planes + position.image * height * width * 16
            let row = position.row * 4 + transform.firstRow
            let column = position.column * 4 + transform.firstColumn
            var source = UnsafePointer(patch)
            var rowStride = 96
            if row >= 0, column >= 0, row + 6 <= height, column + 6 <= width {
                source = plane + (row * width + column) * 16
                rowStride = width * 16
            } else {
                copyPatch(plane, height, width, row, column, 6, patch)
            }
            for lane in stride(from: 0, to: 16, by: vectorWidth) {
                for j in 0..<6 {
                    let d = source + (j * 16 + lane)
                    let t = inputTransform(
                        load(d), load(d + rowStride), load(d + 2 * rowStride), load(d + 3 * rowStride),
                        load(d + 4 * rowStride), load(d + 5 * rowStride))
                    let h = half + j * vectorWidth
                    store(t.0, h)
                    store(t.1, h + 6 * vectorWidth)
                    store(t.2, h + 12 * vectorWidth)
                    store(t.3, h + 18 * vectorWidth)
                    store(t.4, h + 24 * vectorWidth)
                    store(t.5, h + 30 * vectorWidth)
                }
                for i in 0..<6 {
                    let h = half + i * 6 * vectorWidth
                    let t = inputTransform(
                        load(h), load(h + vectorWidth), load(h + 2 * vectorWidth), load(h + 3 * vectorWidth),
                        load(h + 4 * vectorWidth), load(h + 5 * vectorWidth))
                    let v = target + (i * 6 * step + lane)
                    store(t.0, v)
                    store(t.1, v + step)
                    store(t.2, v + 2 * step)
                    store(t.3, v + 3 * step)
                    store(t.4, v + 4 * step)
                    store(t.5, v + 5 * step)
                }
            }
            target += 16
            position.advance(transform.tileRows, transform.tileColumns)
        }
    }
}

/// Products of a band of tiles with one output block, `elementCount` of the 36 from `first` on; see ``WinogradProducts``.
@inline(never)
func winogradProducts(_ products: WinogradProducts, _ first: Int, _ elementCount: Int) {
    var product = BandProduct(
        a: products.transformed, outerCount: 1, outerStride: 0, innerCount: products.inputBlockCount,
        innerStride: products.capacity * 16, lastQuads: products.lastQuads, pixelCount: products.tileCount,
        weights: products.weights, blockCount: products.blockCount,
        epilogue: BandEpilogue(
            output: products.target, blockStride: 0, bias: nil, residual: nil, relu: false, pixelOffsets: nil),
        tile: products.target)
    let count = products.tileCount
    // A few input blocks at a time: their weights stay in the first-level cache from one tile to the next, and those that
    // follow come in meanwhile.
    let blocks = 8
    for index in first..<first + elementCount {
        product.a = products.transformed + index * products.transformedStride
        product.weights = products.weights + index * products.inputBlockCount * 512
        let target = products.target + index * products.targetStride
        let behind =
            index == first + elementCount - 1
            ? products.following : UnsafePointer(product.weights + products.inputBlockCount * 512)
        for block in stride(from: 0, to: products.inputBlockCount, by: blocks) {
            let left = products.inputBlockCount - block
            product.innerCount = min(blocks, left)
            product.lastQuads = left <= blocks ? products.lastQuads : 4
            product.accumulates = block > 0
            let a = product.a + block * product.innerStride
            let weights = product.weights + block * 512
            let following = left <= blocks ? behind : weights + blocks * 512
            #if GRAFT_AVX512
                let tiles = (count + 13) / 14
                for number in 0..<tiles {
                    let tile = number * 14
                    let result = target + tile * 32
                    let sums = block > 0 ? UnsafePointer(result) : nil
                    let fetch = Fetch(following, blocks: product.innerCount, index: number, of: tiles)
                    if products.blockCount == 1 {
                        tile14x1(product, a + tile * 16, weights, result)
                    } else if count - tile <= 8 {
                        tile8x2(product, a + tile * 16, weights, result, sums: sums, fetch: fetch)
                    } else {
                        tile14x2(product, a + tile * 16, weights, result, sums: sums, fetch: fetch)
                    }
                }
            #else
                let tiles = (count + 5) / 6
                let lanes = products.blockCount * 16 / (2 * vectorWidth)
                for lane in 0..<lanes {
                    for number in 0..<tiles {
                        tile6x2(
                            product, a + number * 96, weights + lane * 2 * vectorWidth,
                            target + (lane * products.capacity + number * 6) * 2 * vectorWidth,
                            fetch: Fetch(
                                following, blocks: product.innerCount, index: lane * tiles + number,
                                of: lanes * tiles))
                    }
                }
            #endif
        }
    }
}

/// `Y = Aᵀ M A` of `count` tiles from tile `first` on, with the epilogue; see ``WinogradOutput``.
@inline(never)
func winogradOutput(_ output: WinogradOutput, _ first: Int, _ count: Int) {
    let epilogue = output.epilogue
    let half = output.scratch
    let step = output.productStride
    let width = output.outputWidth
    for lane in stride(from: 0, to: output.blockCount * 16, by: vectorWidth) {
        var bias = Vector.zero
        if let values = epilogue.bias { bias = load(values + lane) }
        let place = (lane / 16) * epilogue.blockStride + lane % 16
        var m =
            output.products + (lane / (2 * vectorWidth) * output.capacity * 2 * vectorWidth + lane % (2 * vectorWidth))
        var position = TilePosition(first, output.tileRows, output.tileColumns)
        for _ in 0..<count {
            for j in 0..<6 {
                let p = m + j * step
                let t = outputTransform(
                    load(p), load(p + 6 * step), load(p + 12 * step), load(p + 18 * step), load(p + 24 * step),
                    load(p + 30 * step))
                let h = half + j * vectorWidth
                store(t.0, h)
                store(t.1, h + 6 * vectorWidth)
                store(t.2, h + 12 * vectorWidth)
                store(t.3, h + 18 * vectorWidth)
            }
            let firstRow = position.row * 4
            let firstColumn = position.column * 4
            let rows = min(4, output.outputHeight - firstRow)
            let columns = min(4, width - firstColumn)
            if output.isPooled {
                var pixel = (position.image * (output.outputHeight / 2) + firstRow / 2) * (width / 2) + firstColumn / 2
                for i in stride(from: 0, to: rows - 1, by: 2) {
                    let upper = outputRow(half + i * 6 * vectorWidth)
                    let lower = outputRow(half + (i + 1) * 6 * vectorWidth)
                    // Bias and ReLU keep the order, and so are applied to the largest alone.
                    if columns > 1 {
                        storeOutput(
                            epilogue, larger(larger(upper.0, upper.1), larger(lower.0, lower.1)), bias,
                            place + pixel * 16)
                    }
                    if columns > 3 {
                        storeOutput(
                            epilogue, larger(larger(upper.2, upper.3), larger(lower.2, lower.3)), bias,
                            place + (pixel + 1) * 16)
                    }
                    pixel += width / 2
                }
            } else {
                var pixel = place + ((position.image * output.outputHeight + firstRow) * width + firstColumn) * 16
                for i in 0..<rows {
                    let t = outputRow(half + i * 6 * vectorWidth)
                    storeOutput(epilogue, t.0, bias, pixel)
                    if columns > 1 { storeOutput(epilogue, t.1, bias, pixel + 16) }
                    if columns > 2 { storeOutput(epilogue, t.2, bias, pixel + 32) }
                    if columns > 3 { storeOutput(epilogue, t.3, bias, pixel + 48) }
                    pixel += width * 16
                }
            }
            m += 2 * vectorWidth
            position.advance(output.tileRows, output.tileColumns)
        }
    }
}

/// One row of a tile's outputs, of six sums that lie behind each other.
@inline(__always)
private func outputRow(_ half: UnsafePointer<Float>) -> (Vector, Vector, Vector, Vector) {
    outputTransform(
        load(half), load(half + vectorWidth), load(half + 2 * vectorWidth), load(half + 3 * vectorWidth),
        load(half + 4 * vectorWidth), load(half + 5 * vectorWidth))
}

/// The larger one; NaN before any number.
@inline(__always)
private func larger(_ a: Vector, _ b: Vector) -> Vector {
    a.replacing(with: b, where: (b .> a) .| (b .!= b))
}

@inline(__always)
private func storeOutput(_ epilogue: BandEpilogue, _ sum: Vector, _ bias: Vector, _ place: Int) {
    var value = sum + bias
    if let residual = epilogue.residual { value += load(residual + place) }
    if epilogue.relu { value.replace(with: Vector.zero, where: value .< Vector.zero) }
    store(value, epilogue.output + place)
}

/// `U = G g Gᵀ` of 16 × 32 filters, `[9][16][32]` with `tapStride` floats between taps to `[36][16][32]` with
/// `productStride`; `rotated` reads the taps backwards.
@inline(never)
func winogradWeight(
    _ weights: UnsafePointer<Float>, _ tapStride: Int, _ rotated: Bool, _ target: UnsafeMutablePointer<Float>,
    _ productStride: Int, _ scratch: UnsafeMutablePointer<Float>
) {
    let first = rotated ? weights + 8 * tapStride : weights
    let step = rotated ? -tapStride : tapStride
    for lane in stride(from: 0, to: 512, by: vectorWidth) {
        for s in 0..<3 {
            let g = first + (s * step + lane)
            let t = weightTransform(load(g), load(g + 3 * step), load(g + 6 * step))
            let h = scratch + s * vectorWidth
            store(t.0, h)
            store(t.1, h + 3 * vectorWidth)
            store(t.2, h + 6 * vectorWidth)
            store(t.3, h + 9 * vectorWidth)
            store(t.4, h + 12 * vectorWidth)
            store(t.5, h + 15 * vectorWidth)
        }
        for i in 0..<6 {
            let h = scratch + i * 3 * vectorWidth
            let t = weightTransform(load(h), load(h + vectorWidth), load(h + 2 * vectorWidth))
            let u = target + (i * 6 * productStride + lane)
            store(t.0, u)
            store(t.1, u + productStride)
            store(t.2, u + 2 * productStride)
            store(t.3, u + 3 * productStride)
            store(t.4, u + 4 * productStride)
            store(t.5, u + 5 * productStride)
        }
    }
}

/// A times a column of a gradient's tile.
@inline(__always)
private func gradientTransform(
    _ y0: Vector, _ y1: Vector, _ y2: Vector, _ y3: Vector
) -> (Vector, Vector, Vector, Vector, Vector, Vector) {
    let even = y0 + y2
    let odd = y1 + y3
    let outerEven = multiplyAdd(y0, y2, Vector(repeating: 4))
    let outerOdd = multiplyAdd(y1 + y1, y3, Vector(repeating: 8))
    return (y0, even + odd, even - odd, outerEven + outerOdd, outerEven - outerOdd, y3)
}

/// Gᵀ times a column.
@inline(__always)
private func weightGradientTransform(
    _ u0: Vector, _ u1: Vector, _ u2: Vector, _ u3: Vector, _ u4: Vector, _ u5: Vector
) -> (Vector, Vector, Vector) {
    let sixth = Vector(repeating: 1.0 / 6)
    let sum = u1 + u2
    let outerSum = u3 + u4
    let edge = multiplyAdd(u0 * Vector(repeating: 0.25), outerSum, Vector(repeating: 1.0 / 24))
    return (
        multiplyAdd(edge, sum, -sixth),
        multiplyAdd((u2 - u1) * sixth, u3 - u4, Vector(repeating: 1.0 / 12)),
        multiplyAdd(u5, outerSum - sum, sixth)
    )
}

/// `D = A dY Aᵀ` of `count` tiles from tile `first` on; see ``WinogradTransform``.
@inline(never)
func winogradGradient(_ transform: WinogradTransform, _ first: Int, _ count: Int) {
    let patch = transform.scratch
    let half = patch + 256
    let height = transform.sourceHeight
    let width = transform.sourceWidth
    let step = transform.productStride
    for block in 0..<transform.blockCount {
        var position = TilePosition(first, transform.tileRows, transform.tileColumns)
        let planes = transform.source + block * transform.blockStride
        var target = transform.target + block * transform.capacity * 16
        for _ in 0..<count {
            let plane = planes + position.image * height * width * 16
            let row = position.row * 4
            let column = position.column * 4
            var source = UnsafePointer(patch)
            var rowStride = 64
            if row + 4 <= height, column + 4 <= width {
                source = plane + (row * width + column) * 16
                rowStride = width * 16
            } else {
                copyPatch(plane, height, width, row, column, 4, patch)
            }
            for lane in stride(from: 0, to: 16, by: vectorWidth) {
                for j in 0..<4 {
                    let d = source + (j * 16 + lane)
                    let t = gradientTransform(
                        load(d), load(d + rowStride), load(d + 2 * rowStride), load(d + 3 * rowStride))
                    let h = half + j * vectorWidth
                    store(t.0, h)
                    store(t.1, h + 4 * vectorWidth)
                    store(t.2, h + 8 * vectorWidth)
                    store(t.3, h + 12 * vectorWidth)
                    store(t.4, h + 16 * vectorWidth)
                    store(t.5, h + 20 * vectorWidth)
                }
                for i in 0..<6 {
                    let h = half + i * 4 * vectorWidth
                    let t = gradientTransform(
                        load(h), load(h + vectorWidth), load(h + 2 * vectorWidth), load(h + 3 * vectorWidth))
                    let v = target + (i * 6 * step + lane)
                    store(t.0, v)
                    store(t.1, v + step)
                    store(t.2, v + 2 * step)
                    store(t.3, v + 3 * step)
                    store(t.4, v + 4 * step)
                    store(t.5, v + 5 * step)
                }
            }
            target += 16
            position.advance(transform.tileRows, transform.tileColumns)
        }
    }
}

/// `dW = Gᵀ dU G` of 16 × 32 filters, `[36][16][32]` to `[9][16][32]`; lanes of blocks that do not exist become zero.
@inline(never)
func winogradWeightGradient(
    _ products: UnsafePointer<Float>, _ productStride: Int, _ blockCount: Int, _ target: UnsafeMutablePointer<Float>,
    _ tapStride: Int, _ scratch: UnsafeMutablePointer<Float>
) {
    for lane in stride(from: 0, to: 512, by: vectorWidth) {
        if lane % 32 >= blockCount * 16 {
            for tap in 0..<9 { store(Vector.zero, target + (tap * tapStride + lane)) }
            continue
        }
        for j in 0..<6 {
            let u = products + (j * productStride + lane)
            let t = weightGradientTransform(
                load(u), load(u + 6 * productStride), load(u + 12 * productStride), load(u + 18 * productStride),
                load(u + 24 * productStride), load(u + 30 * productStride))
            let h = scratch + j * vectorWidth
            store(t.0, h)
            store(t.1, h + 6 * vectorWidth)
            store(t.2, h + 12 * vectorWidth)
        }
        for r in 0..<3 {
            let h = scratch + r * 6 * vectorWidth
            let t = weightGradientTransform(
                load(h), load(h + vectorWidth), load(h + 2 * vectorWidth), load(h + 3 * vectorWidth),
                load(h + 4 * vectorWidth), load(h + 5 * vectorWidth))
            let w = target + (r * 3 * tapStride + lane)
            store(t.0, w)
            store(t.1, w + tapStride)
            store(t.2, w + 2 * tapStride)
        }
    }
}

// MARK: - Normalization

/// A center of each lane, the mean's distance from it, and the sum of squared deviations from the mean, in two passes
/// over a range that fits the first-level cache. The distance is what rounding took from the center: where the mean is
/// large and the variance small it matters.
@inline(never)
func moments(_ x: UnsafePointer<Float>, _ vectors: Int, _ result: UnsafeMutablePointer<Float>) {
    let count = Block(repeating: Float(vectors))
    let center = laneSums(x, vectors) / count
    var s0 = Block.zero, s1 = Block.zero
    var q0 = Block.zero, q1 = Block.zero, q2 = Block.zero, q3 = Block.zero
    var index = 0
    while index + 4 <= vectors {
        let p = x + index * 16
        let d0 = loadBlock(p) - center
        let d1 = loadBlock(p + 16) - center
        let d2 = loadBlock(p + 32) - center
        let d3 = loadBlock(p + 48) - center
        s0 += d0 + d1
        s1 += d2 + d3
        q0 = multiplyAdd(q0, d0, d0)
        q1 = multiplyAdd(q1, d1, d1)
        q2 = multiplyAdd(q2, d2, d2)
        q3 = multiplyAdd(q3, d3, d3)
        index += 4
    }
    while index < vectors {
        let d = loadBlock(x + index * 16) - center
        s0 += d
        q0 = multiplyAdd(q0, d, d)
        index += 1
    }
    let sum = s0 + s1
    let distance = sum / count
    storeBlock(center, result)
    storeBlock(distance, result + 16)
    storeBlock((q0 + q1) + (q2 + q3) - sum * distance, result + 32)
}

@inline(__always)
func laneSums(_ x: UnsafePointer<Float>, _ vectors: Int) -> Block {
    var s0 = Block.zero, s1 = Block.zero, s2 = Block.zero, s3 = Block.zero
    var index = 0
    while index + 4 <= vectors {
        let p = x + index * 16
        s0 += loadBlock(p)
        s1 += loadBlock(p + 16)
        s2 += loadBlock(p + 32)
        s3 += loadBlock(p + 48)
        index += 4
    }
    while index < vectors {
        s0 += loadBlock(x + index * 16)
        index += 1
    }
    return (s0 + s1) + (s2 + s3)
}

@inline(never)
func sumVectors(_ x: UnsafePointer<Float>, _ vectors: Int, _ sum: UnsafeMutablePointer<Float>) {
    storeBlock(laneSums(x, vectors), sum)
}

@inline(never)
func normalize(
    _ x: UnsafePointer<Float>, _ mean: UnsafePointer<Float>, _ scale: UnsafePointer<Float>,
    _ shift: UnsafePointer<Float>,
    _ residual: UnsafePointer<Float>?, _ relu: Bool, _ y: UnsafeMutablePointer<Float>, _ vectors: Int
) {
    let center = loadBlock(mean)
    let factor = loadBlock(scale)
    let offset = loadBlock(shift)
    if let residual {
        for index in 0..<vectors {
            var value = multiplyAdd(offset, loadBlock(x + index * 16) - center, factor)
            value += loadBlock(residual + index * 16)
            storeBlock(relu ? rectified(value) : value, y + index * 16)
        }
    } else if relu {
        for index in 0..<vectors {
            storeBlock(rectified(multiplyAdd(offset, loadBlock(x + index * 16) - center, factor)), y + index * 16)
        }
    } else {
        for index in 0..<vectors {
            storeBlock(multiplyAdd(offset, loadBlock(x + index * 16) - center, factor), y + index * 16)
        }
    }
}

@inline(never)
func gradientSums(
    _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ mean: UnsafePointer<Float>, _ vectors: Int,
    _ sum: UnsafeMutablePointer<Float>, _ product: UnsafeMutablePointer<Float>
) {
    let center = loadBlock(mean)
    var s0 = Block.zero, s1 = Block.zero, p0 = Block.zero, p1 = Block.zero
    var index = 0
    while index + 2 <= vectors {
        let g0 = loadBlock(dy + index * 16)
        let g1 = loadBlock(dy + index * 16 + 16)
        s0 += g0
        s1 += g1
        p0 = multiplyAdd(p0, g0, loadBlock(x + index * 16) - center)
        p1 = multiplyAdd(p1, g1, loadBlock(x + index * 16 + 16) - center)
        index += 2
    }
    if index < vectors {
        let g = loadBlock(dy + index * 16)
        s0 += g
        p0 = multiplyAdd(p0, g, loadBlock(x + index * 16) - center)
    }
    storeBlock(s0 + s1, sum)
    storeBlock(p0 + p1, product)
}

@inline(never)
func normalizationGradient(
    _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ mean: UnsafePointer<Float>, _ scale: UnsafePointer<Float>,
    _ meanGradient: UnsafePointer<Float>, _ slope: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>,
    _ vectors: Int
) {
    let center = loadBlock(mean)
    let factor = loadBlock(scale)
    let level = loadBlock(meanGradient)
    let incline = loadBlock(slope)
    for index in 0..<vectors {
        let deviation = loadBlock(x + index * 16) - center
        let gradient = loadBlock(dy + index * 16) - level - deviation * incline
        storeBlock(gradient * factor, dx + index * 16)
    }
}

@inline(never)
func scaleChannels(
    _ dy: UnsafePointer<Float>, _ scale: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>, _ vectors: Int
) {
    let factor = loadBlock(scale)
    for index in 0..<vectors { storeBlock(loadBlock(dy + index * 16) * factor, dx + index * 16) }
}

// MARK: - Elementwise

@inline(never)
func relu(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) {
    for index in 0..<vectors { storeBlock(rectified(loadBlock(x + index * 16)), y + index * 16) }
}

@inline(never)
func reluGradient(
    _ dy: UnsafePointer<Float>, _ y: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>, _ vectors: Int
) {
    for index in 0..<vectors {
        let kept = loadBlock(y + index * 16) .> Block.zero
        storeBlock(Block.zero.replacing(with: loadBlock(dy + index * 16), where: kept), dx + index * 16)
    }
}

@inline(never)
func add(
    _ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, _ relu: Bool, _ y: UnsafeMutablePointer<Float>, _ vectors: Int
) {
    if relu {
        for index in 0..<vectors {
            storeBlock(rectified(loadBlock(a + index * 16) + loadBlock(b + index * 16)), y + index * 16)
        }
    } else {
        for index in 0..<vectors {
            storeBlock(loadBlock(a + index * 16) + loadBlock(b + index * 16), y + index * 16)
        }
    }
}

@inline(never)
func copy(_ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) {
    for index in 0..<vectors { storeBlock(loadBlock(x + index * 16), y + index * 16) }
}

@inline(never)
func zero(_ y: UnsafeMutablePointer<Float>, _ vectors: Int) {
    for index in 0..<vectors { storeBlock(Block.zero, y + index * 16) }
}

/// The finalizer that every backend's dropout uses; see `DropoutMask.mix` in GraftGraph.
@inline(__always)
private func mixed(_ value: SIMD16<UInt32>) -> SIMD16<UInt32> {
    var x = value
    x = (x ^ (x &>> 16)) &* 0x7FEB_352D
    x = (x ^ (x &>> 15)) &* 0x846C_A68B
    return x ^ (x &>> 16)
}

@inline(never)
func dropout(
    _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ pixels: Int, _ firstIndex: UInt32, _ key: UInt32,
    _ threshold: UInt32, _ keepRate: Float
) {
    let lanes = SIMD16<UInt32>(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    var index = lanes &* UInt32(truncatingIfNeeded: pixels) &+ firstIndex
    let keys = SIMD16<UInt32>(repeating: key)
    let limit = SIMD16<UInt32>(repeating: threshold)
    let rate = Block(repeating: keepRate)
    for pixel in 0..<pixels {
        let kept = mixed(keys ^ mixed(index)) .>= limit
        storeBlock(Block.zero.replacing(with: loadBlock(x + pixel * 16) / rate, where: kept), y + pixel * 16)
        index &+= 1
    }
}

// MARK: - Activations

// Not every variant has a fused product: these run on whole blocks with the block's own.
#if GRAFT_AVX512
    @inline(__always) private func fused(_ c: Block, _ a: Block, _ b: Block) -> Block { c.addingProduct(a, b) }
#else
    @inline(__always) private func fused(_ c: Block, _ a: Block, _ b: Block) -> Block { multiplyAdd(c, a, b) }
#endif

/// Larger than `high` becomes `high`; NaN stays.
@inline(__always)
private func limited(_ x: Block, _ high: Float) -> Block {
    let limit = Block(repeating: high)
    return x.replacing(with: limit, where: x .> limit)
}

/// eˣ to about one unit in the last place, limited to the range of normal numbers: a power of two times a polynomial
/// (Moshier's Cephes). NaN stays.
@inline(__always)
private func exponential(_ argument: Block) -> Block {
    let low = Block(repeating: -87.3)
    var x = argument.replacing(with: low, where: argument .< low)
    x = limited(x, 88.3)
    // Adding 1.5 · 2²³ rounds to an integer and leaves it in the low bits.
    let magic = Block(repeating: 12_582_912)
    let shifted = fused(magic, x, Block(repeating: 1.442_695_04))
    let power = shifted - magic
    var r = fused(x, power, Block(repeating: -0.693_359_375))
    r = fused(r, power, Block(repeating: 2.121_944_40e-4))
    var p = Block(repeating: 1.987_569_15e-4)
    p = fused(Block(repeating: 1.398_199_95e-3), p, r)
    p = fused(Block(repeating: 8.333_451_91e-3), p, r)
    p = fused(Block(repeating: 4.166_579_59e-2), p, r)
    p = fused(Block(repeating: 1.666_666_55e-1), p, r)
    p = fused(Block(repeating: 0.5), p, r)
    p = fused(r, p, r * r) + 1
    let exponent = unsafeBitCast(shifted, to: SIMD16<Int32>.self) &<< 23
    return unsafeBitCast(unsafeBitCast(p, to: SIMD16<Int32>.self) &+ exponent, to: Block.self)
}

@inline(__always)
private func logistic(_ x: Block) -> Block { 1 / (1 + exponential(-x)) }

/// Φ(x), half of `erfc(−x/√2)`; erfc by the Chebyshev fit of Press et al., Numerical Recipes, 6.2.
@inline(__always)
private func normalDistribution(_ x: Block) -> Block {
    let scaled = x * 0.707_106_781
    let z = scaled.replacing(with: -scaled, where: scaled .< 0)
    let t = 1 / fused(Block(repeating: 1), z, Block(repeating: 0.5))
    var p = Block(repeating: 0.170_872_77)
    p = fused(Block(repeating: -0.822_152_23), p, t)
    p = fused(Block(repeating: 1.488_515_87), p, t)
    p = fused(Block(repeating: -1.135_203_98), p, t)
    p = fused(Block(repeating: 0.278_868_07), p, t)
    p = fused(Block(repeating: -0.186_288_06), p, t)
    p = fused(Block(repeating: 0.096_784_18), p, t)
    p = fused(Block(repeating: 0.374_091_96), p, t)
    p = fused(Block(repeating: 1.000_023_68), p, t)
    p = fused(Block(repeating: -1.265_512_23), p, t)
    let tail = 0.5 * t * exponential(fused(p, -z, z))
    return tail.replacing(with: 1 - tail, where: scaled .> 0)
}

@inline(__always)
private func forEachBlock(
    _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int, _ lanes: Int, _ body: (Block) -> Block
) {
    if lanes >= 16 {
        for index in 0..<vectors { storeBlock(body(loadBlock(x + index * 16)), y + index * 16) }
    } else {
        let numbers = SIMD16<Int32>(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
        let absent = numbers .>= SIMD16<Int32>(repeating: Int32(truncatingIfNeeded: lanes))
        for index in 0..<vectors {
            storeBlock(body(loadBlock(x + index * 16)).replacing(with: Block.zero, where: absent), y + index * 16)
        }
    }
}

/// The function of a code (`Activation` of GraftGraph).
@inline(never)
func activate(
    _ code: Int, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int, _ lanes: Int
) {
    switch code {
    case 1: forEachBlock(x, y, vectors, lanes) { rectified($0) }
    case 2: forEachBlock(x, y, vectors, lanes) { limited(rectified($0), 6) }
    case 3: forEachBlock(x, y, vectors, lanes) { limited(rectified($0 + 3), 6) / 6 }
    case 4: forEachBlock(x, y, vectors, lanes) { $0 * limited(rectified($0 + 3), 6) / 6 }
    case 5: forEachBlock(x, y, vectors, lanes) { logistic($0) }
    case 6: forEachBlock(x, y, vectors, lanes) { $0 / (1 + exponential(-$0)) }
    default: forEachBlock(x, y, vectors, lanes) { $0 * normalDistribution($0) }
    }
}

@inline(__always)
private func forEachBlock(
    _ dy: UnsafePointer<Float>, _ v: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>, _ vectors: Int,
    _ body: (Block, Block) -> Block
) {
    for index in 0..<vectors {
        storeBlock(body(loadBlock(dy + index * 16), loadBlock(v + index * 16)), dx + index * 16)
    }
}

@inline(never)
func activationGradient(
    _ code: Int, _ dy: UnsafePointer<Float>, _ v: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>,
    _ vectors: Int
) {
    switch code {
    case 1: forEachBlock(dy, v, dx, vectors) { Block.zero.replacing(with: $0, where: $1 .> 0) }
    case 2: forEachBlock(dy, v, dx, vectors) { Block.zero.replacing(with: $0, where: ($1 .> 0) .& ($1 .< 6)) }
    case 3: forEachBlock(dy, v, dx, vectors) { Block.zero.replacing(with: $0 / 6, where: ($1 .> 0) .& ($1 .< 1)) }
    case 4:
        forEachBlock(dy, v, dx, vectors) { gradient, x in
            let inner = gradient * (x / 3 + 0.5)
            return inner.replacing(with: gradient, where: x .> 3).replacing(with: Block.zero, where: x .< -3)
        }
    case 5: forEachBlock(dy, v, dx, vectors) { $0 * $1 * (1 - $1) }
    case 6:
        forEachBlock(dy, v, dx, vectors) { gradient, x in
            let share = logistic(x)
            return gradient * share * (1 + x * (1 - share))
        }
    default:
        forEachBlock(dy, v, dx, vectors) { gradient, x in
            let density = 0.398_942_28 * exponential(-0.5 * x * x)
            return gradient * (normalDistribution(x) + x * density)
        }
    }
}

@inline(never)
func divide(_ x: UnsafePointer<Float>, _ divisor: Float, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) {
    let quotient = Block(repeating: divisor)
    for index in 0..<vectors { storeBlock(loadBlock(x + index * 16) / quotient, y + index * 16) }
}

@inline(never)
func sumProducts(
    _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ vectors: Int, _ sum: UnsafeMutablePointer<Float>
) {
    // Pieces of 64 vectors in four sums each keep long planes exact.
    var total = Block.zero
    var first = 0
    while first < vectors {
        let end = min(first + 64, vectors)
        var s0 = Block.zero, s1 = Block.zero, s2 = Block.zero, s3 = Block.zero
        var index = first
        while index + 4 <= end {
            s0 = fused(s0, loadBlock(x + index * 16), loadBlock(dy + index * 16))
            s1 = fused(s1, loadBlock(x + index * 16 + 16), loadBlock(dy + index * 16 + 16))
            s2 = fused(s2, loadBlock(x + index * 16 + 32), loadBlock(dy + index * 16 + 32))
            s3 = fused(s3, loadBlock(x + index * 16 + 48), loadBlock(dy + index * 16 + 48))
            index += 4
        }
        while index < end {
            s0 = fused(s0, loadBlock(x + index * 16), loadBlock(dy + index * 16))
            index += 1
        }
        total += (s0 + s1) + (s2 + s3)
        first = end
    }
    storeBlock(total, sum)
}

// MARK: - Layer normalisation

/// Lanes of a block that are channels, as a mask.
@inline(__always)
private func absentLanes(_ run: PixelRun, _ block: Int) -> SIMDMask<SIMD16<Int32>> {
    SIMD16<Int32>(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
        .>= SIMD16<Int32>(repeating: Int32(truncatingIfNeeded: run.channels - block * 16))
}

/// Leaves each pixel's mean in `scratch[pixel · 64]` and 1/deviation in `scratch[pixel · 64 + 16]`, in all 16 lanes.
@inline(__always)
private func pixelStatistics(_ run: PixelRun, _ x: UnsafePointer<Float>) {
    let scratch = run.scratch
    let channels = Float(run.channels)
    for pixel in 0..<run.count {
        storeBlock(Block.zero, scratch + pixel * 64)
        storeBlock(Block.zero, scratch + pixel * 64 + 16)
    }
    for block in 0..<run.blocks {
        let source = x + block * run.blockStride
        for pixel in 0..<run.count {
            let sum = scratch + pixel * 64
            storeBlock(loadBlock(sum) + loadBlock(source + pixel * 16), sum)
        }
    }
    for pixel in 0..<run.count {
        storeBlock(Block(repeating: loadBlock(scratch + pixel * 64).sum() / channels), scratch + pixel * 64)
    }
    for block in 0..<run.blocks {
        let source = x + block * run.blockStride
        let absent = absentLanes(run, block)
        for pixel in 0..<run.count {
            let squares = scratch + pixel * 64 + 16
            let deviation = (loadBlock(source + pixel * 16) - loadBlock(scratch + pixel * 64))
                .replacing(with: Block.zero, where: absent)
            storeBlock(fused(loadBlock(squares), deviation, deviation), squares)
        }
    }
    for pixel in 0..<run.count {
        let squares = scratch + pixel * 64 + 16
        let variance = loadBlock(squares).sum() / channels
        storeBlock(Block(repeating: 1 / (variance + run.epsilon).squareRoot()), squares)
    }
}

@inline(never)
func layerNormalization(
    _ run: PixelRun, _ x: UnsafePointer<Float>, _ gamma: UnsafePointer<Float>, _ beta: UnsafePointer<Float>,
    _ y: UnsafeMutablePointer<Float>
) {
    pixelStatistics(run, x)
    for block in 0..<run.blocks {
        let factor = loadBlock(gamma + block * 16)
        let shift = loadBlock(beta + block * 16)
        let start = block * run.blockStride
        // gamma and beta are zero behind the last channel, and so is the result.
        for pixel in 0..<run.count {
            let center = loadBlock(run.scratch + pixel * 64)
            let inverse = loadBlock(run.scratch + pixel * 64 + 16)
            let place = start + pixel * 16
            storeBlock(fused(shift, (loadBlock(x + place) - center) * inverse, factor), y + place)
        }
    }
}

@inline(never)
func layerNormalizationGradient(
    _ run: PixelRun, _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ gamma: UnsafePointer<Float>,
    _ dx: UnsafeMutablePointer<Float>, _ dgamma: UnsafeMutablePointer<Float>, _ dbeta: UnsafeMutablePointer<Float>
) {
    pixelStatistics(run, x)
    let scratch = run.scratch
    for pixel in 0..<run.count {
        storeBlock(Block.zero, scratch + pixel * 64 + 32)
        storeBlock(Block.zero, scratch + pixel * 64 + 48)
    }
    for block in 0..<run.blocks {
        let factor = loadBlock(gamma + block * 16)
        let start = block * run.blockStride
        var scaleSum = Block.zero
        var shiftSum = Block.zero
        for pixel in 0..<run.count {
            let statistics = scratch + pixel * 64
            let place = start + pixel * 16
            let normalized = (loadBlock(x + place) - loadBlock(statistics)) * loadBlock(statistics + 16)
            let gradient = loadBlock(dy + place)
            shiftSum += gradient
            scaleSum = fused(scaleSum, gradient, normalized)
            let scaled = gradient * factor
            storeBlock(loadBlock(statistics + 32) + scaled, statistics + 32)
            storeBlock(fused(loadBlock(statistics + 48), scaled, normalized), statistics + 48)
        }
        storeBlock(loadBlock(dgamma + block * 16) + scaleSum, dgamma + block * 16)
        storeBlock(loadBlock(dbeta + block * 16) + shiftSum, dbeta + block * 16)
    }
    let channels = Float(run.channels)
    for pixel in 0..<run.count {
        let statistics = scratch + pixel * 64
        storeBlock(Block(repeating: loadBlock(statistics + 32).sum() / channels), statistics + 32)
        storeBlock(Block(repeating: loadBlock(statistics + 48).sum() / channels), statistics + 48)
    }
    for block in 0..<run.blocks {
        let factor = loadBlock(gamma + block * 16)
        let start = block * run.blockStride
        let absent = absentLanes(run, block)
        for pixel in 0..<run.count {
            let statistics = scratch + pixel * 64
            let place = start + pixel * 16
            let inverse = loadBlock(statistics + 16)
            let normalized = (loadBlock(x + place) - loadBlock(statistics)) * inverse
            let inner = loadBlock(dy + place) * factor - loadBlock(statistics + 32)
            let result = (inner - normalized * loadBlock(statistics + 48)) * inverse
            storeBlock(result.replacing(with: Block.zero, where: absent), dx + place)
        }
    }
}

// MARK: - Depthwise convolution

/// The epilogue of one result; `place` from the plane's first output on, lane included.
@inline(__always)
private func storeDepthwise(_ plane: DepthwisePlane, _ sum: Vector, _ place: Int) {
    var value = sum
    if let residual = plane.residual { value += load(residual + place) }
    if plane.relu { value.replace(with: Vector.zero, where: value .< Vector.zero) }
    store(value, plane.output + place)
}

/// Eight inner grid columns.
@inline(__always)
private func depthwise8(
    _ plane: DepthwisePlane, _ start: Vector, _ sourceRow: Int, _ column: Int, _ lane: Int, _ place: Int
) {
    var s0 = start, s1 = start, s2 = start, s3 = start, s4 = start, s5 = start, s6 = start, s7 = start
    let step = plane.strideWidth * 16
    let first = plane.source + (column * step + lane)
    for tap in 0..<plane.tapCount {
        let row = sourceRow + Int(plane.tapRows[tap])
        guard row >= 0, row < plane.sourceHeight else { continue }
        let x = first + (row * plane.sourceWidth + Int(plane.tapColumns[tap])) * 16
        let weight = load(plane.weights + (Int(plane.tapPlaces[tap]) * 16 + lane))
        s0 = multiplyAdd(s0, load(x), weight)
        s1 = multiplyAdd(s1, load(x + step), weight)
        s2 = multiplyAdd(s2, load(x + 2 * step), weight)
        s3 = multiplyAdd(s3, load(x + 3 * step), weight)
        s4 = multiplyAdd(s4, load(x + 4 * step), weight)
        s5 = multiplyAdd(s5, load(x + 5 * step), weight)
        s6 = multiplyAdd(s6, load(x + 6 * step), weight)
        s7 = multiplyAdd(s7, load(x + 7 * step), weight)
    }
    let next = plane.columnStep
    storeDepthwise(plane, s0, place)
    storeDepthwise(plane, s1, place + next)
    storeDepthwise(plane, s2, place + 2 * next)
    storeDepthwise(plane, s3, place + 3 * next)
    storeDepthwise(plane, s4, place + 4 * next)
    storeDepthwise(plane, s5, place + 5 * next)
    storeDepthwise(plane, s6, place + 6 * next)
    storeDepthwise(plane, s7, place + 7 * next)
}

@inline(__always)
private func depthwise4(
    _ plane: DepthwisePlane, _ start: Vector, _ sourceRow: Int, _ column: Int, _ lane: Int, _ place: Int
) {
    var s0 = start, s1 = start, s2 = start, s3 = start
    let step = plane.strideWidth * 16
    let first = plane.source + (column * step + lane)
    for tap in 0..<plane.tapCount {
        let row = sourceRow + Int(plane.tapRows[tap])
        guard row >= 0, row < plane.sourceHeight else { continue }
        let x = first + (row * plane.sourceWidth + Int(plane.tapColumns[tap])) * 16
        let weight = load(plane.weights + (Int(plane.tapPlaces[tap]) * 16 + lane))
        s0 = multiplyAdd(s0, load(x), weight)
        s1 = multiplyAdd(s1, load(x + step), weight)
        s2 = multiplyAdd(s2, load(x + 2 * step), weight)
        s3 = multiplyAdd(s3, load(x + 3 * step), weight)
    }
    let next = plane.columnStep
    storeDepthwise(plane, s0, place)
    storeDepthwise(plane, s1, place + next)
    storeDepthwise(plane, s2, place + 2 * next)
    storeDepthwise(plane, s3, place + 3 * next)
}

/// One grid column, whose taps may lie outside.
@inline(__always)
private func depthwise1(
    _ plane: DepthwisePlane, _ start: Vector, _ sourceRow: Int, _ column: Int, _ lane: Int, _ place: Int
) {
    var sum = start
    let sourceColumn = column * plane.strideWidth
    for tap in 0..<plane.tapCount {
        let row = sourceRow + Int(plane.tapRows[tap])
        let source = sourceColumn + Int(plane.tapColumns[tap])
        guard row >= 0, row < plane.sourceHeight, source >= 0, source < plane.sourceWidth else { continue }
        sum = multiplyAdd(
            sum, load(plane.source + ((row * plane.sourceWidth + source) * 16 + lane)),
            load(plane.weights + (Int(plane.tapPlaces[tap]) * 16 + lane)))
    }
    storeDepthwise(plane, sum, place)
}

@inline(never)
func depthwise(_ plane: DepthwisePlane, _ first: Int, _ count: Int) {
    for row in first..<first + count {
        let sourceRow = row * plane.strideHeight
        for lane in stride(from: 0, to: 16, by: vectorWidth) {
            var start = Vector.zero
            if let bias = plane.bias { start = load(bias + lane) }
            var place = row * plane.rowStep + lane
            var column = 0
            while column < plane.gridWidth {
                if column >= plane.firstInner, column + 8 <= plane.endInner {
                    depthwise8(plane, start, sourceRow, column, lane, place)
                    column += 8
                    place += 8 * plane.columnStep
                } else if column >= plane.firstInner, column + 4 <= plane.endInner {
                    depthwise4(plane, start, sourceRow, column, lane, place)
                    column += 4
                    place += 4 * plane.columnStep
                } else {
                    depthwise1(plane, start, sourceRow, column, lane, place)
                    column += 1
                    place += plane.columnStep
                }
            }
        }
    }
}

@inline(never)
func depthwiseWeightGradient(
    _ product: OuterProduct, _ x: UnsafePointer<Float>, _ dy: UnsafePointer<Float>, _ dw: UnsafeMutablePointer<Float>
) {
    let step = product.inputStep
    for lane in stride(from: 0, to: 16, by: vectorWidth) {
        var s0 = Vector.zero, s1 = Vector.zero, s2 = Vector.zero, s3 = Vector.zero
        for row in 0..<product.rowCount {
            var input = x + (row * product.inputRowStride + lane)
            var gradient = dy + (row * product.gradientRowStride + lane)
            var column = 0
            while column + 4 <= product.columnCount {
                s0 = multiplyAdd(s0, load(input), load(gradient))
                s1 = multiplyAdd(s1, load(input + step), load(gradient + 16))
                s2 = multiplyAdd(s2, load(input + 2 * step), load(gradient + 32))
                s3 = multiplyAdd(s3, load(input + 3 * step), load(gradient + 48))
                input += 4 * step
                gradient += 64
                column += 4
            }
            while column < product.columnCount {
                s0 = multiplyAdd(s0, load(input), load(gradient))
                input += step
                gradient += 16
                column += 1
            }
        }
        store(load(dw + lane) + ((s0 + s1) + (s2 + s3)), dw + lane)
    }
}

// MARK: - Pooling

@inline(__always)
private func loadIndices(_ pointer: UnsafePointer<Int32>) -> SIMD16<Int32> {
    UnsafeRawPointer(pointer).load(as: SIMD16<Int32>.self)
}

/// ⌈a / b⌉ for b > 0 and any a, but never below zero.
@inline(__always)
private func ceilingQuotient(_ a: Int, _ b: Int) -> Int { a <= 0 ? 0 : (a + b - 1) / b }

/// Calls `step(pixel)` for the window's pixels in order; windows of three columns are unrolled.
@inline(__always)
private func forEachPixel(
    _ start: Int, _ rowCount: Int, _ columnCount: Int, _ rowStep: Int, _ columnStep: Int, _ step: (Int) -> Void
) {
    var line = start
    if columnCount == 3 {
        for _ in 0..<rowCount {
            step(line)
            step(line + columnStep)
            step(line + 2 * columnStep)
            line += rowStep
        }
    } else {
        for _ in 0..<rowCount {
            var pixel = line
            for _ in 0..<columnCount {
                step(pixel)
                pixel += columnStep
            }
            line += rowStep
        }
    }
}

@inline(never)
func maxPool(
    _ window: PoolingWindow, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>,
    _ indices: UnsafeMutablePointer<Int32>?, _ lanes: Int
) {
    let numbers = SIMD16<Int32>(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
    let exists = numbers .< SIMD16<Int32>(repeating: Int32(lanes))
    let dilation = window.dilation
    let rowStep = dilation * window.inputWidth
    for row in 0..<window.outputHeight {
        let top = row * window.strideHeight - window.paddingHeight
        let firstRow = ceilingQuotient(-top, dilation)
        let rows = max(min(window.kernelHeight, ceilingQuotient(window.inputHeight - top, dilation)) - firstRow, 0)
        let line = (top + firstRow * dilation) * window.inputWidth
        for column in 0..<window.outputWidth {
            let left = column * window.strideWidth - window.paddingWidth
            var firstColumn = 0
            if left < 0 { firstColumn = ceilingQuotient(-left, dilation) }
            var columns = window.kernelWidth - firstColumn
            if left + (window.kernelWidth - 1) * dilation >= window.inputWidth {
                columns = max(ceilingQuotient(window.inputWidth - left, dilation) - firstColumn, 0)
            }
            let start = line + left + firstColumn * dilation
            let output = (row * window.outputWidth + column) * 16
            var best = Block(repeating: -Float.infinity)
            if let indices {
                var place = SIMD16<Int32>(repeating: Int32(truncatingIfNeeded: start))
                forEachPixel(start, rows, columns, rowStep, dilation) { pixel in
                    let value = loadBlock(x + pixel * 16)
                    let wins = (value .> best) .| (value .!= value)
                    best.replace(with: value, where: wins)
                    place.replace(with: Int32(truncatingIfNeeded: pixel), where: wins)
                }
                UnsafeMutableRawPointer(indices + output).assumingMemoryBound(to: SIMD16<Int32>.self).pointee =
                    SIMD16<Int32>.zero.replacing(with: place, where: exists)
            } else {
                forEachPixel(start, rows, columns, rowStep, dilation) { pixel in
                    let value = loadBlock(x + pixel * 16)
                    best.replace(with: value, where: (value .> best) .| (value .!= value))
                }
            }
            storeBlock(best, y + output)
        }
    }
}

/// Each input pixel collects from the windows that chose it, in the order of the windows: no scattered adds.
@inline(never)
func maxPoolGradient(
    _ window: PoolingWindow, _ dy: UnsafePointer<Float>, _ indices: UnsafePointer<Int32>,
    _ dx: UnsafeMutablePointer<Float>
) {
    let reachHeight = window.dilation * (window.kernelHeight - 1)
    let reachWidth = window.dilation * (window.kernelWidth - 1)
    for row in 0..<window.inputHeight {
        let firstRow = ceilingQuotient(row + window.paddingHeight - reachHeight, window.strideHeight)
        let endRow = min(window.outputHeight, (row + window.paddingHeight) / window.strideHeight + 1)
        for column in 0..<window.inputWidth {
            let firstColumn = ceilingQuotient(column + window.paddingWidth - reachWidth, window.strideWidth)
            let endColumn = min(window.outputWidth, (column + window.paddingWidth) / window.strideWidth + 1)
            let pixel = row * window.inputWidth + column
            let place = SIMD16<Int32>(repeating: Int32(truncatingIfNeeded: pixel))
            var sum = Block.zero
            var outputRow = firstRow
            while outputRow < endRow {
                var output = outputRow * window.outputWidth + firstColumn
                var outputColumn = firstColumn
                while outputColumn < endColumn {
                    let chosen = loadIndices(indices + output * 16) .== place
                    sum += Block.zero.replacing(with: loadBlock(dy + output * 16), where: chosen)
                    output += 1
                    outputColumn += 1
                }
                outputRow += 1
            }
            storeBlock(sum, dx + pixel * 16)
        }
    }
}

/// How many positions of a window count in the average, as `torch.nn.AvgPool2d` counts them.
@inline(__always)
private func divisor(_ window: PoolingWindow, _ row: Int, _ column: Int) -> Float {
    let top = row * window.strideHeight - window.paddingHeight
    let left = column * window.strideWidth - window.paddingWidth
    if window.countsPadding {
        let height = min(top + window.kernelHeight, window.inputHeight + window.paddingHeight) - top
        let width = min(left + window.kernelWidth, window.inputWidth + window.paddingWidth) - left
        return Float(height * width)
    }
    let height = min(top + window.kernelHeight, window.inputHeight) - max(top, 0)
    let width = min(left + window.kernelWidth, window.inputWidth) - max(left, 0)
    return Float(height * width)
}

@inline(never)
func averagePool(_ window: PoolingWindow, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>) {
    for row in 0..<window.outputHeight {
        let top = row * window.strideHeight - window.paddingHeight
        let endRow = min(top + window.kernelHeight, window.inputHeight)
        for column in 0..<window.outputWidth {
            let left = column * window.strideWidth - window.paddingWidth
            let firstColumn = max(left, 0)
            let endColumn = min(left + window.kernelWidth, window.inputWidth)
            var sum = Block.zero
            var inputRow = max(top, 0)
            while inputRow < endRow {
                var line = Block.zero
                var inputColumn = firstColumn
                while inputColumn < endColumn {
                    line += loadBlock(x + (inputRow * window.inputWidth + inputColumn) * 16)
                    inputColumn += 1
                }
                sum += line
                inputRow += 1
            }
            storeBlock(
                sum / Block(repeating: divisor(window, row, column)), y + (row * window.outputWidth + column) * 16)
        }
    }
}

@inline(never)
func averagePoolGradient(_ window: PoolingWindow, _ dy: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>) {
    for row in 0..<window.inputHeight {
        let firstRow = ceilingQuotient(row + window.paddingHeight - window.kernelHeight + 1, window.strideHeight)
        let endRow = min(window.outputHeight, (row + window.paddingHeight) / window.strideHeight + 1)
        for column in 0..<window.inputWidth {
            let firstColumn = ceilingQuotient(column + window.paddingWidth - window.kernelWidth + 1, window.strideWidth)
            let endColumn = min(window.outputWidth, (column + window.paddingWidth) / window.strideWidth + 1)
            var sum = Block.zero
            var outputRow = firstRow
            while outputRow < endRow {
                var outputColumn = firstColumn
                while outputColumn < endColumn {
                    sum +=
                        loadBlock(dy + (outputRow * window.outputWidth + outputColumn) * 16)
                        / Block(repeating: divisor(window, outputRow, outputColumn))
                    outputColumn += 1
                }
                outputRow += 1
            }
            storeBlock(sum, dx + (row * window.inputWidth + column) * 16)
        }
    }
}

@inline(never)
func adaptivePool(_ window: PoolingWindow, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>) {
    for row in 0..<window.outputHeight {
        let firstRow = row * window.inputHeight / window.outputHeight
        let endRow = ((row + 1) * window.inputHeight + window.outputHeight - 1) / window.outputHeight
        for column in 0..<window.outputWidth {
            let firstColumn = column * window.inputWidth / window.outputWidth
            let endColumn = ((column + 1) * window.inputWidth + window.outputWidth - 1) / window.outputWidth
            var sum = Block.zero
            var inputRow = firstRow
            while inputRow < endRow {
                // Row sums first: the blocked summation keeps the error of large planes small.
                sum += laneSums(x + (inputRow * window.inputWidth + firstColumn) * 16, endColumn - firstColumn)
                inputRow += 1
            }
            let count = Float((endRow - firstRow) * (endColumn - firstColumn))
            storeBlock(sum / Block(repeating: count), y + (row * window.outputWidth + column) * 16)
        }
    }
}

@inline(never)
func adaptivePoolGradient(_ window: PoolingWindow, _ dy: UnsafePointer<Float>, _ dx: UnsafeMutablePointer<Float>) {
    for row in 0..<window.inputHeight {
        // Bins that contain the row: those with ⌊i·H/out⌋ ≤ row < ⌈(i+1)·H/out⌉.
        let firstRow = row * window.outputHeight / window.inputHeight
        let endRow = min(window.outputHeight, ceilingQuotient((row + 1) * window.outputHeight, window.inputHeight))
        for column in 0..<window.inputWidth {
            let firstColumn = column * window.outputWidth / window.inputWidth
            let endColumn = min(
                window.outputWidth, ceilingQuotient((column + 1) * window.outputWidth, window.inputWidth))
            var sum = Block.zero
            var outputRow = firstRow
            while outputRow < endRow {
                let height =
                    ((outputRow + 1) * window.inputHeight + window.outputHeight - 1) / window.outputHeight - outputRow
                    * window.inputHeight / window.outputHeight
                var outputColumn = firstColumn
                while outputColumn < endColumn {
                    let width =
                        ((outputColumn + 1) * window.inputWidth + window.outputWidth - 1) / window.outputWidth
                        - outputColumn * window.inputWidth / window.outputWidth
                    sum +=
                        loadBlock(dy + (outputRow * window.outputWidth + outputColumn) * 16)
                        / Block(repeating: Float(height * width))
                    outputColumn += 1
                }
                outputRow += 1
            }
            storeBlock(sum, dx + (row * window.inputWidth + column) * 16)
        }
    }
}

// MARK: - Optimizer

/// `torch.optim.SGD`, in its order of operations.
@inline(never)
func sgd(
    _ constants: UpdateConstants, _ w: UnsafeMutablePointer<Float>, _ g: UnsafePointer<Float>,
    _ buffer: UnsafeMutablePointer<Float>?, _ vectors: Int
) {
    let rate = Block(repeating: constants.learningRate)
    let decay = Block(repeating: constants.weightDecay)
    let momentum = Block(repeating: constants.momentum)
    for index in 0..<vectors {
        let offset = index * 16
        let weight = loadBlock(w + offset)
        let gradient = loadBlock(g + offset) + decay * weight
        var update = gradient
        if let buffer {
            let velocity = constants.isFirstStep ? gradient : momentum * loadBlock(buffer + offset) + gradient
            storeBlock(velocity, buffer + offset)
            update = constants.nesterov ? gradient + momentum * velocity : velocity
        }
        storeBlock(weight - rate * update, w + offset)
    }
}

/// `torch.optim.Adam` and, with decoupled decay, `AdamW`.
@inline(never)
func adam(
    _ constants: UpdateConstants, _ w: UnsafeMutablePointer<Float>, _ g: UnsafePointer<Float>,
    _ m: UnsafeMutablePointer<Float>, _ v: UnsafeMutablePointer<Float>, _ vectors: Int
) {
    let stepSize = Block(repeating: constants.learningRate / constants.biasCorrection1)
    let shrink = Block(repeating: 1 - constants.learningRate * constants.weightDecay)
    let decay = Block(repeating: constants.weightDecay)
    let beta1 = Block(repeating: constants.beta1)
    let beta2 = Block(repeating: constants.beta2)
    let rest1 = Block(repeating: 1 - constants.beta1)
    let rest2 = Block(repeating: 1 - constants.beta2)
    let root = Block(repeating: constants.biasCorrection2Root)
    let epsilon = Block(repeating: constants.epsilon)
    for index in 0..<vectors {
        let offset = index * 16
        var weight = loadBlock(w + offset)
        var gradient = loadBlock(g + offset)
        if constants.decoupledWeightDecay { weight *= shrink } else { gradient += decay * weight }
        let first = beta1 * loadBlock(m + offset) + rest1 * gradient
        let second = beta2 * loadBlock(v + offset) + rest2 * gradient * gradient
        storeBlock(first, m + offset)
        storeBlock(second, v + offset)
        let denominator = second.squareRoot() / root + epsilon
        storeBlock(weight - stepSize * first / denominator, w + offset)
    }
}

/// `y += share · (x − y)`.
@inline(never)
func approach(_ share: Float, _ x: UnsafePointer<Float>, _ y: UnsafeMutablePointer<Float>, _ vectors: Int) {
    let factor = Block(repeating: share)
    for index in 0..<vectors {
        let value = loadBlock(y + index * 16)
        storeBlock(value + factor * (loadBlock(x + index * 16) - value), y + index * 16)
    }
}

/// `x *= factor`.
@inline(never)
func scale(_ factor: Float, _ x: UnsafeMutablePointer<Float>, _ vectors: Int) {
    let factor = Block(repeating: factor)
    for index in 0..<vectors { storeBlock(loadBlock(x + index * 16) * factor, x + index * 16) }
}

/// Sums of squares of 16 lanes, in blocks of 64 vectors so that long sums keep their digits.
@inline(never)
func squareSums(_ x: UnsafePointer<Float>, _ vectors: Int, _ sums: UnsafeMutablePointer<Float>) {
    var total = Block.zero
    var first = 0
    while first < vectors {
        let end = min(first + 64, vectors)
        var sum = Block.zero
        for index in first..<end {
            let value = loadBlock(x + index * 16)
            sum += value * value
        }
        total += sum
        first = end
    }
    storeBlock(total, sums)
}

// MARK: - Table

/// The kernels of this variant. Building the table runs no wide instruction; calling its functions does.
package func makeKernelTable() -> KernelTable {
    #if GRAFT_AVX512
        let name = "avx512"
        let tileRows = 14
    #elseif GRAFT_AVX2
        let name = "avx2"
        let tileRows = 6
    #else
        let name = "baseline"
        let tileRows = 6
    #endif
    return KernelTable(
        name: name, tileRows: tileRows, bandProduct: bandProduct, gather: gather, gatherDense: gatherDense,
        keepDenseRows: keepDenseRows, denseProduct: denseProduct,
        outerProduct: outerProduct, transpose16: transpose16, sumPartials: sumPartials,
        winogradInput: winogradInput, winogradProducts: winogradProducts, winogradOutput: winogradOutput,
        winogradWeight: winogradWeight, winogradGradient: winogradGradient,
        winogradWeightGradient: winogradWeightGradient, moments: moments,
        normalize: normalize, gradientSums: gradientSums, normalizationGradient: normalizationGradient,
        scaleChannels: scaleChannels, sumVectors: sumVectors, relu: relu, reluGradient: reluGradient,
        activate: activate, activationGradient: activationGradient, divide: divide, sumProducts: sumProducts,
        layerNormalization: layerNormalization, layerNormalizationGradient: layerNormalizationGradient,
        depthwise: depthwise, depthwiseWeightGradient: depthwiseWeightGradient, add: add, copy: copy,
        zero: zero, dropout: dropout, maxPool: maxPool, maxPoolGradient: maxPoolGradient, averagePool: averagePool,
        averagePoolGradient: averagePoolGradient, adaptivePool: adaptivePool,
        adaptivePoolGradient: adaptivePoolGradient,
        sgd: sgd, adam: adam, approach: approach, scale: scale, squareSums: squareSums)
}
