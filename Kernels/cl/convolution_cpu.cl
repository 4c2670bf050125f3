// Convolution of the CPU class, and the gradient of its input, which is a convolution too.
//
// Layouts (GraftGraph/ChannelBlockedLayout.swift): activations [C/16][N][H][W][16]; weights
// [K/32][R*S][B][16][32], where output block kb reads the B input blocks from first(kb).
// Every convolution is a product of matrices: with m = (n*gridHeight + i)*gridWidth + j a pixel of the output grid,
//   y[k][m] = bias[k] + residual[k][m] + sum over r, s, c of w[k][c][r][s] * x[c][n][ih][iw]
//   ih = i*strideHeight + offsetHeight + r*stepHeight,  iw = j*strideWidth + offsetWidth + s*stepWidth;
// taps outside of x count as zero. A step may be negative and an offset have any sign, so that the input's gradient
// is the same kernel over dy with transposed weights: once for stride 1, else once for each class of input pixels that
// see the same taps, whose results are stored outputStride apart.
//
// One work-item is a worker: it takes an equal share of the items, neighbours. An item is a band of bandTiles*MR output pixels
// times kbPerItem blocks of 32 output channels. The band's input is gathered into the worker's slab of scratch as
// [tile][r*S+s][input block][MR][16], then each tile of MR pixels times 32 channels is summed in registers, 2*VECTOR
// channels at a time. With DIRECT (1x1, stride 1, no padding) x itself has that form.
//
// DENSE, few input channels: a band is bandTiles rows of the grid of one image, and a tile MR pixels of one row. The rows
// of x that the band sees are kept as [row][column][DENSE], zeros around them, in which the pixels of a tile and the taps
// of a kernel's row are equal steps apart; the output block's weights as [tap][DENSE][32]. With POOL a band is bandTiles
// rows of the pooled plane: the rows of the result that they need stay in the slab, of which y gets the windows' maxima.
// Which worker takes an item changes no result. Long reductions are cut into parts of partBlocks blocks, whose weights
// stay in the first-level cache over the band's tiles; y holds the sums in between.
//
// Tunables, set by the host:
//   ACTIVATION    of the result, where it is not ReLU (prelude.cl). Default 0.
//   VECTOR        16, 8, 4 floats per vector (prelude.cl): the native width of the device. Default 16.
//   FETCHES       0, 1     operands are fetched ahead (prelude.cl): on processors. Default 0.
//   MR            1...14   pixels per register tile; 2*MR accumulators of VECTOR floats. Default 14, which is for 32
//                          registers; 6 for 16 of them.
//   DIRECT        0, 1     no gather. Default 0.
//   DENSE         0...4    channels of an input of at most 4 channels; 0: all 16 lanes. Default 0.
//   COMPACT       0, 1     x has DENSE floats per pixel, [N][H][W][DENSE], not 16. Default 0.
//   POOL          0, 2, 3  with DENSE: y = maxima over windows of this side of the result; outside of it is -infinity, and
//                          NaN wins. Default 0.
//   DENSE_STRIDE  strideWidth*DENSE: floats from a pixel of a tile to the next with DENSE. Default 6.
// What else differs between convolutions is an argument, so that a network needs few programs.

#ifndef MR
#define MR 14
#endif
#ifndef DIRECT
#define DIRECT 0
#endif
#ifndef DENSE
#define DENSE 0
#endif
#ifndef DENSE_STRIDE
#define DENSE_STRIDE 6
#endif
#ifndef COMPACT
#define COMPACT 0
#endif
#ifndef POOL
#define POOL 0
#endif

#define EACH_PIXEL(X) EACH_COUNT(MR, X)

#define INLINE static inline __attribute__((always_inline))
// Of kernels only: inlined helpers with restrict need an LLVM intrinsic that Oclgrind does not know.
#define GLOBAL_IN const __global float *restrict

// What is applied to the sums, in this order; MASKED: K is no multiple of 16, and lanes behind it are stored as zero
// whatever the input.
#define BIASED 1
#define RESIDUAL 2
#define RECTIFIED 4
#define MASKED 8

// Where a tile's results go, and what is added to them. All begin at the tile's first channel.
typedef struct {
    const __global float *bias;
    const __global float *residual;
    __global float *y;
#if DIRECT
    // Output pixel of the tile's first.
    size_t first;
    // Whether an item reads its input for the first time: the next tile's is asked for meanwhile.
    int isNew;
#else
    // Output pixel of each of the tile's pixels.
    const __global int *table;
#endif
    // Pixels low ..< high of the tile are stored.
    int low, high;
#if DENSE
    // Of the kernel, and floats of the kept rows from one of its rows or columns to the next.
    int rows, columns, rowStep, columnStep;
#endif
    // Floats from the first vector of a pixel's results to the second.
    size_t second;
    // Output channels that exist from the tile's first on, at least 1.
    int channels;
    int epilogue;
    // Whether the sums begin, or go on from what y holds; whether they end, or y keeps them as they are.
    int begins, ends;
} Target;

#if DIRECT
#define PLACE(p) ((target.first + (p)) * 16)
#else
#define PLACE(p) ((size_t)target.table[p] * 16)
#endif
#define RECTIFIED_VALUE(value) ((value) < 0.0f ? ZERO_VECTOR : (value))

// One register tile: MR pixels times 2*VECTOR channels, or VECTOR with narrow. a: the tile's input, aStep floats
// between its reduction blocks; w: the block's weights. ahead: weights that are needed soon, of which so many cache lines
// are asked for with each reduction block.
INLINE void tile(const int narrow, const __global float *a, size_t aStep, const __global float *w, int reductionBlocks,
                 const __global float *ahead, int lines, const Target target) {
    const int biased = target.begins && (target.epilogue & BIASED);
    const int isWhole = target.low == 0 && target.high == MR;
#if FETCHES
    // What is added comes in while the products are summed.
    if (isWhole && target.ends && (target.epilogue & RESIDUAL)) {
#define FETCH(p)                                \
    FETCH_SOON(target.residual + PLACE(p));     \
    if (VECTOR == 16 && !narrow) FETCH_SOON(target.residual + PLACE(p) + target.second);
        EACH_PIXEL(FETCH)
#undef FETCH
    }
#endif
    const vector start0 = biased ? LOAD(target.bias) : ZERO_VECTOR;
    const vector start1 = biased && !narrow ? LOAD(target.bias + VECTOR) : ZERO_VECTOR;
#define DECLARE(p) vector left##p = start0, right##p = start1;
    EACH_PIXEL(DECLARE)
#undef DECLARE
    if (!target.begins) {
        // Pixels that are not stored may be another worker's.
#define GO_ON(p)                                       \
    if (isWhole || ((p) >= target.low && (p) < target.high)) { \
        left##p = LOAD(target.y + PLACE(p));           \
        if (!narrow) right##p = LOAD(target.y + PLACE(p) + target.second); \
    }
        EACH_PIXEL(GO_ON)
#undef GO_ON
    }
#if DENSE
#define A_STRIDE DENSE_STRIDE
    for (int r = 0; r < target.rows; ++r, a += target.rowStep - target.columns * target.columnStep)
    for (int s = 0; s < target.columns; ++s, a += target.columnStep, w += DENSE * 32) {
#pragma unroll
        for (int c = 0; c < DENSE; ++c) {
#else
#define A_STRIDE 16
    for (int block = 0; block < reductionBlocks; ++block, a += aStep, w += 512) {
        for (int line = 0; line < lines; ++line, ahead += 16) FETCH_SOON(ahead);
#if DIRECT && FETCHES
        if (target.isNew) {
#define FETCH(p) FETCH_SOON(a + (MR + (p)) * 16);
            EACH_PIXEL(FETCH)
#undef FETCH
        }
#endif
#pragma unroll 4
        for (int c = 0; c < 16; ++c) {
#endif
            const vector w0 = LOAD(w + c * 32);
            const vector w1 = narrow ? ZERO_VECTOR : LOAD(w + c * 32 + VECTOR);
#define MULTIPLY_ADD(p)                                       \
    {                                                         \
        const vector broadcast = (vector)(a[(p) * A_STRIDE + c]); \
        left##p = fma(broadcast, w0, left##p);                \
        if (!narrow) right##p = fma(broadcast, w1, right##p); \
    }
            EACH_PIXEL(MULTIPLY_ADD)
#undef MULTIPLY_ADD
        }
    }
    const integer_vector exists0 = LANE_NUMBERS < target.channels;
    const integer_vector exists1 = LANE_NUMBERS + VECTOR < target.channels;
    const int epilogue = target.ends ? target.epilogue : 0;
    if (isWhole) {
        // A test for all pixels, not one for each.
        if (epilogue & RESIDUAL) {
#define ADD(p)                                      \
    left##p += LOAD(target.residual + PLACE(p));    \
    if (!narrow) right##p += LOAD(target.residual + PLACE(p) + target.second);
            EACH_PIXEL(ADD)
#undef ADD
        }
        if (epilogue & RECTIFIED) {
#define RECTIFY(p)                      \
    left##p = RECTIFIED_VALUE(left##p); \
    if (!narrow) right##p = RECTIFIED_VALUE(right##p);
            EACH_PIXEL(RECTIFY)
#undef RECTIFY
        }
        if (epilogue & MASKED) {
#define MASK(p)                                \
    left##p = exists0 ? left##p : ZERO_VECTOR; \
    if (!narrow) right##p = exists1 ? right##p : ZERO_VECTOR;
            EACH_PIXEL(MASK)
#undef MASK
        }
#define STORE_PIXEL(p)                  \
    STORE(left##p, target.y + PLACE(p)); \
    if (!narrow) STORE(right##p, target.y + PLACE(p) + target.second);
        EACH_PIXEL(STORE_PIXEL)
#undef STORE_PIXEL
    } else {
        vector values[MR * 2];
#define KEEP(p)               \
    values[2 * (p)] = left##p; \
    values[2 * (p) + 1] = right##p;
        EACH_PIXEL(KEEP)
#undef KEEP
        for (int p = target.low; p < target.high; ++p)
            for (int side = 0; side < (narrow ? 1 : 2); ++side) {
                const size_t at = PLACE(p) + side * target.second;
                vector value = values[2 * p + side];
                if (epilogue & RESIDUAL) value += LOAD(target.residual + at);
                if (epilogue & RECTIFIED) value = RECTIFIED_VALUE(value);
                value = (side ? exists1 : exists0) ? value : ZERO_VECTOR;
                STORE(value, target.y + at);
            }
    }
}

// The first input block that output block kb reads (WeightBlocking.firstInputBlock).
INLINE int first_input_block(int kb, int inputBlocks, int blocksPerOutput, int outputsPerGroup, int inputsPerGroup) {
    return min(kb * 32 / outputsPerGroup * inputsPerGroup / 16, inputBlocks - blocksPerOutput);
}

#if !DIRECT && !DENSE
// Gathers the input of one tile, and writes its output pixels to the table.
INLINE void gather(const __global float *x, __global float *to, __global int *table, int m0, int pixelCount,
                   int firstBlock, int blocks, int inputPixels, int height, int width, int gridHeight, int gridWidth,
                   int strideHeight, int strideWidth, int offsetHeight, int offsetWidth, int stepHeight, int stepWidth,
                   int rows, int columns, int outputHeight, int outputWidth, int outputStrideHeight,
                   int outputStrideWidth, int outputOffsetHeight, int outputOffsetWidth) {
    int j = m0 % gridWidth;
    int i = m0 / gridWidth % gridHeight;
    int n = m0 / gridWidth / gridHeight;
    // Where the first tap of each pixel reads: its row and column, and the pixel of x, which may lie outside.
    int ih0[MR], iw0[MR], from0[MR];
    int isInterior = 1;
    for (int p = 0; p < MR; ++p) {
        const int exists = m0 + p < pixelCount;
        // No tap of a pixel that does not exist is inside of x.
        ih0[p] = exists ? i * strideHeight + offsetHeight : -0x40000000;
        iw0[p] = j * strideWidth + offsetWidth;
        from0[p] = exists ? (n * height + ih0[p]) * width + iw0[p] : 0;
        table[p] = exists ? (n * outputHeight + i * outputStrideHeight + outputOffsetHeight) * outputWidth +
                                j * outputStrideWidth + outputOffsetWidth
                          : 0;
        const int ih1 = ih0[p] + (rows - 1) * stepHeight, iw1 = iw0[p] + (columns - 1) * stepWidth;
        isInterior &= exists && min(ih0[p], ih1) >= 0 && max(ih0[p], ih1) < height && min(iw0[p], iw1) >= 0 &&
                      max(iw0[p], iw1) < width;
        if (++j == gridWidth) {
            j = 0;
            if (++i == gridHeight) {
                i = 0;
                ++n;
            }
        }
    }
    x += (size_t)firstBlock * inputPixels * 16;
    // Pixels innermost: what is written is contiguous.
    for (int r = 0; r < rows; ++r)
        for (int s = 0; s < columns; ++s) {
            const int tap = r * stepHeight * width + s * stepWidth;
            if (isInterior) {
                const __global float *block = x;
                for (int b = 0; b < blocks; ++b, block += (size_t)inputPixels * 16, to += MR * 16)
                    for (int p = 0; p < MR; ++p)
                        vstore16(vload16(0, block + (ptrdiff_t)(from0[p] + tap) * 16), p, to);
            } else {
                int isInside[MR];
                for (int p = 0; p < MR; ++p) {
                    const int ih = ih0[p] + r * stepHeight, iw = iw0[p] + s * stepWidth;
                    isInside[p] = ih >= 0 && ih < height && iw >= 0 && iw < width;
                }
                const __global float *block = x;
                for (int b = 0; b < blocks; ++b, block += (size_t)inputPixels * 16, to += MR * 16)
                    for (int p = 0; p < MR; ++p)
                        vstore16(isInside[p] ? vload16(0, block + (ptrdiff_t)(from0[p] + tap) * 16) : (float16)(0.0f),
                                 p, to);
            }
        }
}
#endif

#if DENSE
#if COMPACT
INLINE void copy_floats(const __global float *from, __global float *to, int count) {
    int index = 0;
    for (; index + 16 <= count; index += 16) vstore16(vload16(0, from + index), 0, to + index);
    for (; index < count; ++index) to[index] = from[index];
}
#endif

// Keeps the rows of x from row `first` on, of which columns begin at column `left`, both perhaps outside of x: rowCount of
// columnCount pixels of DENSE floats, rowFloats apart.
INLINE void keep_rows(const __global float *x, __global float *to, int height, int width, int first, int rowCount,
                      int left, int columnCount, int rowFloats) {
    const int from = clamp(-left, 0, columnCount), end = clamp(width - left, from, columnCount);
    for (int v = 0; v < rowCount; ++v, to += rowFloats) {
        const int ih = first + v, exists = ih >= 0 && ih < height;
        const int low = exists ? from : columnCount, high = exists ? end : columnCount;
        for (int u = 0; u < low; ++u) vstore4((float4)(0.0f), 0, to + u * DENSE);
#if COMPACT
        if (low < high) copy_floats(x + ((ptrdiff_t)ih * width + left + low) * DENSE, to + low * DENSE, (high - low) * DENSE);
#else
        // Four floats are written, the next pixel overwrites those too many.
        for (int u = low; u < high; ++u)
            vstore4(vload4(0, x + ((ptrdiff_t)ih * width + left + u) * 16), 0, to + u * DENSE);
#endif
        for (int u = high; u < columnCount; ++u) vstore4((float4)(0.0f), 0, to + u * DENSE);
    }
}
#endif

#if POOL
// Rows of the pooled plane from row `first` on, of a block of 16 channels: from `rows` rows of the result, of which the
// first is row i0.
INLINE void pool_rows(const __global float *plane, __global float *to, int first, int pooledRows, int pooledWidth, int i0,
                      int rows, int width, int stride, int padding) {
    for (int i = 0; i < pooledRows; ++i) {
        const int top = (first + i) * stride - padding - i0;
        for (int j = 0; j < pooledWidth; ++j) {
            const int left = j * stride - padding;
            float16 best = (float16)(-INFINITY);
            if (top >= 0 && top + POOL <= rows && left >= 0 && left + POOL <= width) {
#pragma unroll
                for (int tap = 0; tap < POOL * POOL; ++tap) {
                    const float16 value = vload16((top + tap / POOL) * width + left + tap % POOL, plane);
                    best = (value > best) | (value != value) ? value : best;
                }
            } else {
                for (int h = max(top, 0); h < min(top + POOL, rows); ++h)
                    for (int w = max(left, 0); w < min(left + POOL, width); ++w) {
                        const float16 value = vload16(h * width + w, plane);
                        best = (value > best) | (value != value) ? value : best;
                    }
            }
            vstore16(best, i * pooledWidth + j, to);
        }
    }
}
#endif

// biases, residual: any buffer where the epilogue has none.
// pixelCount: pixels of the output grid, all images. inputPixels, outputPixels: N*H*W of x and of y.
__attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))
kernel void convolution(GLOBAL_IN x, GLOBAL_IN w, GLOBAL_IN biases, GLOBAL_IN residual, __global float *restrict y,
#if !DIRECT
                        __global float *restrict scratch, int slabFloats, int height, int width, int gridHeight,
                        int gridWidth, int strideHeight, int strideWidth, int offsetHeight, int offsetWidth,
                        int stepHeight, int stepWidth, int rows, int columns, int outputHeight, int outputWidth,
                        int outputStrideHeight, int outputStrideWidth, int outputOffsetHeight, int outputOffsetWidth,
#if POOL
                        int pooledHeight, int pooledWidth, int poolStride, int poolPadding, int planeFloats, int resultRows,
#endif
#endif
                        int epilogue, int pixelCount, int inputPixels, int outputPixels, int outputChannels,
                        int inputBlocks, int blocksPerOutput, int outputsPerGroup, int inputsPerGroup, int taps,
                        int itemCount, int bandCount, int bandTiles, int kbCount, int kbPerItem, int partBlocks,
                        int isFetching) {
    const int reductionBlocks = taps * blocksPerOutput;
#if !DENSE
    const int tileCount = (pixelCount + MR - 1) / MR;
#endif
#if !DIRECT
    // A slab begins with the table of output pixels.
    __global int *table = (__global int *)(scratch + (size_t)get_global_id(0) * slabFloats);
#if DENSE
    const int tilesPerRow = (gridWidth + MR - 1) / MR;
#if !POOL
    const int resultRows = bandTiles, planeFloats = 0;
#endif
    __global float *plane = (__global float *)table + (resultRows * tilesPerRow * MR + 15) / 16 * 16;
    __global float *slab = plane + 2 * planeFloats;
    __global float *packed = slab;
    slab += taps * DENSE * 32;
    // From the first tap to the last one; a kernel without taps has none.
    const int rowSpan = max(rows - 1, 0) * stepHeight, columnSpan = max(columns - 1, 0) * stepWidth;
    const int columnCount = (tilesPerRow * MR - 1) * strideWidth + abs(columnSpan) + 1;
    const int rowFloats = columnCount * DENSE + 4;
#else
    __global float *slab = (__global float *)table + (bandTiles * MR + 15) / 16 * 16;
    const size_t tileFloats = (size_t)reductionBlocks * MR * 16;
#endif
#endif
    // Neighbours read the same rows, and memory in one stream.
    const int worker = (int)get_global_id(0), workers = (int)get_global_size(0);
    const int itemEnd = (int)((long)itemCount * (worker + 1) / workers);
    for (int item = (int)((long)itemCount * worker / workers); item < itemEnd; ++item) {
        const int band = item % bandCount;
        const int kbFirst = item / bandCount * kbPerItem;
        const int kbEnd = min(kbFirst + kbPerItem, kbCount);
#if DENSE
#if POOL
        const int bandsPerImage = (pooledHeight + bandTiles - 1) / bandTiles;
        const int n = band / bandsPerImage, pooledFirst = band % bandsPerImage * bandTiles;
        const int pooledRows = min(bandTiles, pooledHeight - pooledFirst);
        const int i0 = max(pooledFirst * poolStride - poolPadding, 0);
        const int bandRows =
            max(min((pooledFirst + pooledRows - 1) * poolStride - poolPadding + POOL, gridHeight) - i0, 0);
#else
        const int bandsPerImage = (gridHeight + bandTiles - 1) / bandTiles;
        const int n = band / bandsPerImage, i0 = band % bandsPerImage * bandTiles;
        const int bandRows = min(bandTiles, gridHeight - i0);
#endif
        const int tileFirst = 0, tileEnd = bandRows * tilesPerRow;
        keep_rows(x + (size_t)n * height * width * (COMPACT ? DENSE : 16), slab, height, width,
                  i0 * strideHeight + offsetHeight + min(0, rowSpan), (bandRows - 1) * strideHeight + abs(rowSpan) + 1,
                  offsetWidth + min(0, columnSpan), columnCount, rowFloats);
        for (int t = 0; t < tileEnd; ++t)
            for (int p = 0; p < MR; ++p)
#if POOL
                table[t * MR + p] = t / tilesPerRow * gridWidth + t % tilesPerRow * MR + p;
#else
                table[t * MR + p] =
                    (n * outputHeight + (i0 + t / tilesPerRow) * outputStrideHeight + outputOffsetHeight) * outputWidth +
                    (t % tilesPerRow * MR + p) * outputStrideWidth + outputOffsetWidth;
#endif
        const int mFirst = (n * gridHeight + i0) * gridWidth, mEnd = mFirst + bandRows * gridWidth;
#else
        const int tileFirst = band * bandTiles;
        const int tileEnd = min(tileFirst + bandTiles, tileCount);
        const int mFirst = tileFirst * MR, mEnd = min(tileEnd * MR, pixelCount);
        int firstBlock = first_input_block(kbFirst, inputBlocks, blocksPerOutput, outputsPerGroup, inputsPerGroup);
#if !DIRECT
        for (int t = tileFirst; t < tileEnd; ++t)
            gather(x, slab + (t - tileFirst) * tileFloats, table + (t - tileFirst) * MR, t * MR, pixelCount,
                   firstBlock, blocksPerOutput, inputPixels, height, width, gridHeight, gridWidth, strideHeight,
                   strideWidth, offsetHeight, offsetWidth, stepHeight, stepWidth, rows, columns, outputHeight,
                   outputWidth, outputStrideHeight, outputStrideWidth, outputOffsetHeight, outputOffsetWidth);
#endif
#endif
        for (int kb = kbFirst; kb < kbEnd; ++kb) {
#if DENSE
            for (int tap = 0; tap < taps; ++tap)
                for (int c = 0; c < DENSE * 2; ++c)
                    vstore16(vload16(c, w + ((size_t)kb * reductionBlocks + tap) * 512), tap * DENSE * 2 + c, packed);
            const __global float *weights = packed;
#else
            GLOBAL_IN weights = w + (size_t)kb * reductionBlocks * 512;
#endif
            const int channels = outputChannels - kb * 32;
            // Where the results of the output block go, and floats from one of its two halves to the next.
#if POOL
            __global float *result = plane;
            const size_t resultStep = planeFloats;
#else
            const size_t resultStep = (size_t)outputPixels * 16;
            __global float *result = y + kb * 2 * resultStep;
#endif
#if DIRECT
            firstBlock = first_input_block(kb, inputBlocks, blocksPerOutput, outputsPerGroup, inputsPerGroup);
#endif
            // Tiles inside: a part's weights stay in the first-level cache over the band. Whole blocks of 16 are stored.
            for (int from = 0; from == 0 || from < reductionBlocks; from += partBlocks) {
                const int blocks = min(partBlocks, reductionBlocks - from);
                const int stored = channels > 16 ? 32 : 16;
                // The next part's weights, those of the next output block behind the last one, come in meanwhile, where the
                // second-level cache does not hold them anyway.
                const int calls = (tileEnd - tileFirst) * max(stored / (2 * VECTOR), 1);
                const int lines = isFetching ? (32 + calls - 1) / calls : 0;
                const __global float *ahead = weights + (size_t)(from + blocks) * 512;
                for (int k = 0; k < stored; k += 2 * VECTOR) {
                    const size_t offset = (k / 16) * resultStep + k % 16;
                    for (int t = tileFirst; t < tileEnd; ++t, ahead += (size_t)blocks * lines * 16) {
                        Target target;
                        target.epilogue = epilogue;
                        target.begins = from == 0;
                        target.ends = from + blocks == reductionBlocks;
#if DIRECT
                        // The last tile is moved back onto existing pixels; those before it are summed again, not stored.
                        const int first = max(min(t * MR, pixelCount - MR), 0);
                        target.first = first;
                        target.isNew = kb == kbFirst && k == 0;
                        target.low = t * MR - first;
                        target.high = MR;
                        const __global float *a = x + ((size_t)firstBlock * inputPixels + first) * 16;
                        const size_t aStep = (size_t)inputPixels * 16;
#else
                        target.low = 0;
                        target.table = table + (t - tileFirst) * MR;
#if DENSE
                        target.high = min(MR, gridWidth - t % tilesPerRow * MR);
                        target.rows = rows;
                        target.columns = columns;
                        target.rowStep = stepHeight * rowFloats;
                        target.columnStep = stepWidth * DENSE;
                        // Where steps are negative the first tap is the last row or column.
                        const __global float *a =
                            slab + (t / tilesPerRow * strideHeight - min(0, rowSpan)) * rowFloats +
                            (t % tilesPerRow * MR * strideWidth - min(0, columnSpan)) * DENSE;
                        const size_t aStep = 0;
#else
                        target.high = min(MR, pixelCount - t * MR);
                        const __global float *a = slab + (t - tileFirst) * tileFloats;
                        const size_t aStep = MR * 16;
#endif
#endif
                        target.y = result + offset;
                        // Read only where the epilogue says so; a result that is pooled has none.
                        target.residual = residual + kb * 2 * resultStep + offset;
                        target.bias = biases + kb * 32 + k;
                        target.channels = channels - k;
#if VECTOR == 16
                        target.second = resultStep;
                        if (channels <= 16)
                            tile(1, a + (size_t)from * aStep, aStep, weights + (size_t)from * 512, blocks, ahead, lines,
                                 target);
                        else
#else
                        target.second = VECTOR;
#endif
                            tile(0, a + (size_t)from * aStep, aStep, weights + (size_t)from * 512 + k, blocks, ahead, lines,
                                 target);
                    }
                }
            }
#if POOL
            for (int side = 0; side < (channels > 16 ? 2 : 1); ++side)
                pool_rows(result + side * resultStep,
                          y + ((size_t)(kb * 2 + side) * outputPixels + (n * pooledHeight + pooledFirst) * pooledWidth) * 16,
                          pooledFirst, pooledRows, pooledWidth, i0, bandRows, gridWidth, poolStride, poolPadding);
#endif
#if ACTIVATION
            // Forward passes alone: the band's pixels follow each other, and are still in the cache.
            for (int block = kb * 2; block < kb * 2 + (channels > 16 ? 2 : 1); ++block) {
                const int16 exists =
                    block * 16 + (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) < outputChannels;
                __global float *to = y + (size_t)block * outputPixels * 16;
                for (int m = mFirst; m < mEnd; ++m)
                    vstore16(exists ? activated_float16(vload16(m, to), ACTIVATION) : (float16)(0.0f), m, to);
            }
#endif
        }
    }
}

// Weights for the gradient of the input: to[cb][tap][B'][16 of k][32 of c] = w[k][c][r][s], transposed between input
// and output, for the taps r = rowFirst + rowStep*r', s = columnFirst + columnStep*s' with r' < rows, s' < columns;
// zero between groups and outside of the channels. Work-item (B' index + blocks' * tap, cb) writes 16 rows of 32.
__attribute__((reqd_work_group_size(1, 1, 1)))
kernel void transpose_weights(GLOBAL_IN w, __global float *restrict to, int outputChannels, int inputChannels,
                              int groups, int kernelHeight, int kernelWidth, int blocksPerOutput,
                              int transposedBlocks, int rowFirst, int rowStep, int columnFirst, int columnStep,
                              int columns) {
    const int outputsPerGroup = outputChannels / groups, inputsPerGroup = inputChannels / groups;
    const int kBlock = (int)get_global_id(0) % transposedBlocks, tap = (int)get_global_id(0) / transposedBlocks;
    const int cb = (int)get_global_id(1);
    const int position = (rowFirst + tap / columns * rowStep) * kernelWidth + columnFirst + tap % columns * columnStep;
    const int firstOutput = 16 * first_input_block(cb, (outputChannels + 15) / 16, transposedBlocks, inputsPerGroup,
                                                   outputsPerGroup);
    to += ((size_t)cb * get_global_size(0) + get_global_id(0)) * 512;
    const int k0 = firstOutput + kBlock * 16;
    if (groups == 1) {
        // Everything is related, and source lanes behind the last channel are zero: squares of 16 x 16.
        for (int side = 0; side < 2; ++side) {
            const int block = cb * 2 + side;
            float16 a[16], b[16];
            if (block < blocksPerOutput) {
                GLOBAL_IN from = w + ((size_t)(k0 / 32 * kernelHeight * kernelWidth + position) * blocksPerOutput +
                                      block) * 512 + k0 % 32;
#pragma unroll
                for (int c = 0; c < 16; ++c) a[c] = vload16(c * 2, from);
#pragma unroll
                for (int round = 0; round < 4; ++round) {
                    // Interleaving rows i and i + 8 four times transposes.
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        b[2 * i].even = a[i].lo;
                        b[2 * i].odd = a[i + 8].lo;
                        b[2 * i + 1].even = a[i].hi;
                        b[2 * i + 1].odd = a[i + 8].hi;
                    }
#pragma unroll
                    for (int i = 0; i < 16; ++i) a[i] = b[i];
                }
            } else {
#pragma unroll
                for (int i = 0; i < 16; ++i) a[i] = (float16)(0.0f);
            }
#pragma unroll
            for (int lane = 0; lane < 16; ++lane) vstore16(a[lane], lane * 2 + side, to);
        }
        return;
    }
    for (int lane = 0; lane < 16; ++lane) {
        const int k = k0 + lane, kb = k / 32;
        const int firstInput = 16 * first_input_block(kb, (inputChannels + 15) / 16, blocksPerOutput, outputsPerGroup,
                                                      inputsPerGroup);
        const ptrdiff_t row =
            (ptrdiff_t)(kb * kernelHeight * kernelWidth + position) * blocksPerOutput * 16 + cb * 32 - firstInput;
        const __global float *from = w + row * 32 + k % 32;
        // Channels of k's group; none for a k that does not exist.
        const int channelFirst = k < outputChannels ? k / outputsPerGroup * inputsPerGroup : 0;
        const int channelEnd = k < outputChannels ? channelFirst + inputsPerGroup : 0;
        for (int c = 0; c < 32; ++c) {
            const int channel = cb * 32 + c;
            to[lane * 32 + c] = channel >= channelFirst && channel < channelEnd ? from[(ptrdiff_t)c * 32] : 0.0f;
        }
    }
}
