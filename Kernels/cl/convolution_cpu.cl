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
// One work-item is a worker: it takes the items gid, gid + workers, ... An item is a band of bandTiles*MR output pixels
// times kbPerItem blocks of 32 output channels. The band's input is gathered into the worker's slab of scratch as
// [tile][r*S+s][input block][MR][16] (DENSE: [tile][MR][DENSE_STRIDE], the existing channels only), then each tile of
// MR pixels times 32 channels is summed in registers, 2*VECTOR channels at a time. With DIRECT (1x1, stride 1, no padding) x itself has that form.
// Which worker takes an item changes no result. Long reductions are cut into parts of partBlocks blocks, whose weights
// stay in the first-level cache over the band's tiles; y holds the sums in between.
//
// Tunables, set by the host:
//   ACTIVATION    of the result, where it is not ReLU (prelude.cl). Default 0.
//   VECTOR        16, 8, 4 floats per vector (prelude.cl): the native width of the device. Default 16.
//   MR            1...14   pixels per register tile; 2*MR accumulators of VECTOR floats. Default 14, which is for 32
//                          registers; 6 for 16 of them.
//   DIRECT        0, 1     no gather. Default 0.
//   DENSE         0...4    channels of an input of at most 4 channels; 0: all 16 lanes. Default 0.
//   DENSE_STRIDE  >= R*S*DENSE + 4 - DENSE: floats per gathered pixel with DENSE. Default 160.
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
#define DENSE_STRIDE 160
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
#else
    // Output pixel of each of the tile's pixels.
    const __global int *table;
#endif
    // Pixels low ..< high of the tile are stored.
    int low, high;
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
// between its reduction blocks; w: the block's weights.
INLINE void tile(const int narrow, const __global float *a, size_t aStep, const __global float *w, int reductionBlocks,
                 const Target target) {
    const int biased = target.begins && (target.epilogue & BIASED);
    const int isWhole = target.low == 0 && target.high == MR;
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
    for (int block = 0; block < reductionBlocks; ++block, a += DENSE, w += 512) {
#pragma unroll
        for (int c = 0; c < DENSE; ++c) {
#else
#define A_STRIDE 16
    for (int block = 0; block < reductionBlocks; ++block, a += aStep, w += 512) {
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

#if !DIRECT
// Gathers the input of one tile, and writes its output pixels to the table.
INLINE void gather(const __global float *x, __global float *to, __global int *table, int m0, int pixelCount,
                   int firstBlock, int blocks, int inputPixels, int height, int width, int gridHeight, int gridWidth,
                   int strideHeight, int strideWidth, int offsetHeight, int offsetWidth, int stepHeight, int stepWidth,
                   int rows, int columns, int outputHeight, int outputWidth, int outputStrideHeight,
                   int outputStrideWidth, int outputOffsetHeight, int outputOffsetWidth) {
    int j = m0 % gridWidth;
    int i = m0 / gridWidth % gridHeight;
    int n = m0 / gridWidth / gridHeight;
    for (int p = 0; p < MR; ++p) {
        const int exists = m0 + p < pixelCount;
        const int ih0 = i * strideHeight + offsetHeight, iw0 = j * strideWidth + offsetWidth;
        table[p] = exists ? (n * outputHeight + i * outputStrideHeight + outputOffsetHeight) * outputWidth +
                                j * outputStrideWidth + outputOffsetWidth
                          : 0;
        const int ih1 = ih0 + (rows - 1) * stepHeight, iw1 = iw0 + (columns - 1) * stepWidth;
        const int isInterior = exists && min(ih0, ih1) >= 0 && max(ih0, ih1) < height && min(iw0, iw1) >= 0 &&
                               max(iw0, iw1) < width;
        const ptrdiff_t rowStep = (ptrdiff_t)stepHeight * width * 16, columnStep = (ptrdiff_t)stepWidth * 16;
        for (int b = 0; b < blocks; ++b) {
            const __global float *row = x + ((size_t)(firstBlock + b) * inputPixels + (size_t)n * height * width) * 16 +
                                        ((ptrdiff_t)ih0 * width + iw0) * 16;
#if DENSE
            // Four floats are written, the next tap overwrites those too many.
            __global float *at = to + (size_t)p * DENSE_STRIDE;
            const size_t atStep = DENSE;
#define COPY(condition) vstore4(condition ? vload4(0, from) : (float4)(0.0f), 0, at)
#else
            __global float *at = to + ((size_t)b * MR + p) * 16;
            const size_t atStep = (size_t)blocks * MR * 16;
#define COPY(condition) vstore16(condition ? vload16(0, from) : (float16)(0.0f), 0, at)
#endif
            if (isInterior) {
                for (int r = 0; r < rows; ++r, row += rowStep) {
                    const __global float *from = row;
                    for (int s = 0; s < columns; ++s, from += columnStep, at += atStep) COPY(1);
                }
            } else {
                for (int r = 0; r < rows; ++r, row += rowStep) {
                    const int ih = ih0 + r * stepHeight;
                    const int rowExists = exists && ih >= 0 && ih < height;
                    const __global float *from = row;
                    for (int s = 0; s < columns; ++s, from += columnStep, at += atStep) {
                        const int iw = iw0 + s * stepWidth;
                        COPY((rowExists && iw >= 0 && iw < width));
                    }
                }
            }
#undef COPY
        }
        if (++j == gridWidth) {
            j = 0;
            if (++i == gridHeight) {
                i = 0;
                ++n;
            }
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
#endif
                        int epilogue, int pixelCount, int inputPixels, int outputPixels, int outputChannels,
                        int inputBlocks, int blocksPerOutput, int outputsPerGroup, int inputsPerGroup, int taps,
                        int itemCount, int bandCount, int bandTiles, int kbCount, int kbPerItem, int partBlocks) {
    const int reductionBlocks = taps * blocksPerOutput;
    const int tileCount = (pixelCount + MR - 1) / MR;
#if !DIRECT
    // A slab begins with the table of output pixels.
    __global int *table = (__global int *)(scratch + (size_t)get_global_id(0) * slabFloats);
    __global float *slab = (__global float *)table + (bandTiles * MR + 15) / 16 * 16;
#if DENSE
    const size_t tileFloats = MR * DENSE_STRIDE;
#else
    const size_t tileFloats = (size_t)reductionBlocks * MR * 16;
#endif
#endif
    for (int item = (int)get_global_id(0); item < itemCount; item += (int)get_global_size(0)) {
        const int band = item % bandCount;
        const int kbFirst = item / bandCount * kbPerItem;
        const int kbEnd = min(kbFirst + kbPerItem, kbCount);
        const int tileFirst = band * bandTiles;
        const int tileEnd = min(tileFirst + bandTiles, tileCount);
        int firstBlock = first_input_block(kbFirst, inputBlocks, blocksPerOutput, outputsPerGroup, inputsPerGroup);
#if !DIRECT
        for (int t = tileFirst; t < tileEnd; ++t)
            gather(x, slab + (t - tileFirst) * tileFloats, table + (t - tileFirst) * MR, t * MR, pixelCount,
                   firstBlock, blocksPerOutput, inputPixels, height, width, gridHeight, gridWidth, strideHeight,
                   strideWidth, offsetHeight, offsetWidth, stepHeight, stepWidth, rows, columns, outputHeight,
                   outputWidth, outputStrideHeight, outputStrideWidth, outputOffsetHeight, outputOffsetWidth);
#endif
        for (int kb = kbFirst; kb < kbEnd; ++kb) {
            GLOBAL_IN weights = w + (size_t)kb * reductionBlocks * 512;
            const int channels = outputChannels - kb * 32;
#if DIRECT
            firstBlock = first_input_block(kb, inputBlocks, blocksPerOutput, outputsPerGroup, inputsPerGroup);
#endif
            // Tiles inside: a part's weights stay in the first-level cache over the band. Whole blocks of 16 are stored.
            for (int from = 0; from == 0 || from < reductionBlocks; from += partBlocks) {
                const int blocks = min(partBlocks, reductionBlocks - from);
                for (int k = 0; k < (channels > 16 ? 32 : 16); k += 2 * VECTOR) {
                    const size_t offset = (size_t)(kb * 2 + k / 16) * outputPixels * 16 + k % 16;
                    for (int t = tileFirst; t < tileEnd; ++t) {
                        Target target;
                        target.epilogue = epilogue;
                        target.begins = from == 0;
                        target.ends = from + blocks == reductionBlocks;
#if DIRECT
                        // The last tile is moved back onto existing pixels; those before it are summed again, not stored.
                        const int first = max(min(t * MR, pixelCount - MR), 0);
                        target.first = first;
                        target.low = t * MR - first;
                        target.high = MR;
                        const __global float *a = x + ((size_t)firstBlock * inputPixels + first) * 16;
                        const size_t aStep = (size_t)inputPixels * 16;
#else
                        target.low = 0;
                        target.high = min(MR, pixelCount - t * MR);
                        target.table = table + (t - tileFirst) * MR;
                        const __global float *a = slab + (t - tileFirst) * tileFloats;
                        const size_t aStep = MR * 16;
#endif
                        target.y = y + offset;
                        // Read only where the epilogue says so.
                        target.residual = residual + offset;
                        target.bias = biases + kb * 32 + k;
                        target.channels = channels - k;
#if VECTOR == 16
                        target.second = (size_t)outputPixels * 16;
                        if (channels <= 16)
                            tile(1, a + (size_t)from * aStep, aStep, weights + (size_t)from * 512, blocks, target);
                        else
#else
                        target.second = VECTOR;
#endif
                            tile(0, a + (size_t)from * aStep, aStep, weights + (size_t)from * 512 + k, blocks, target);
                    }
                }
            }
#if ACTIVATION
            // Forward passes alone: the band's pixels follow each other, and are still in the cache.
            for (int block = kb * 2; block < kb * 2 + (channels > 16 ? 2 : 1); ++block) {
                const int16 exists =
                    block * 16 + (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15) < outputChannels;
                __global float *to = y + (size_t)block * outputPixels * 16;
                for (int m = tileFirst * MR; m < min(tileEnd * MR, pixelCount); ++m)
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
