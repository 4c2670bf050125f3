// Gradient of a convolution's weights, CPU class.
//
//   dw[k][c][r][s] = sum over n, i, j of x[c][n][ih][iw] * dy[k][n][i][j]
//   ih = i*strideHeight - paddingHeight + r*dilationHeight,  iw = j*strideWidth - paddingWidth + s*dilationWidth
// Layouts as in convolution_cpu.cl. The pixels of dy are cut into rows (for a 1x1 kernel with stride 1, where nothing
// is clipped, into runs of equal length), the rows into splits. Work-item (input block group + groups * split, kb)
// sums one split for one block of 32 output channels: for each chunk of rows, that stays in cache, for each input
// block and kernel position, LANES x 2*VECTOR sums in registers at a time, added to
// partial[split][kb][r*S+s][B][16][32].
// A row contributes the pixels whose input exists: bounds of the loop, no test inside. sum_splits adds the partial sums
// in order of the splits and zeroes what lies between groups. Splits depend on the shape alone.
//
// dense_weight_gradient is the same for inputs of at most 4 channels: the input is gathered as [pixel][DENSE_STRIDE]
// with the existing channels only, and COLUMNS of its columns at a time times 2*VECTOR output channels are summed.
//
// Tunables, set by the host:
//   VECTOR        16, 8, 4 floats per vector (prelude.cl): the native width of the device. Default 16.
//   LANES         divisor of 16: input channels per register tile. Default 8, for 32 registers; 4 for 16 of them.
//   COLUMNS       1...14   columns per register tile. Default 14, for 32 registers; 6 for 16 of them.
//   DENSE         1...4    channels of the input. Default 3.
//   COMPACT       0, 1     of dense_weight_gradient: x has DENSE floats per pixel, not 16. Default 0.
//   DENSE_STRIDE  multiple of COLUMNS, >= R*S*DENSE + 4 - DENSE: floats per gathered pixel. Default 154.

#ifndef LANES
#define LANES 8
#endif
#ifndef COLUMNS
#define COLUMNS 14
#endif
#ifndef DENSE
#define DENSE 3
#endif
#ifndef DENSE_STRIDE
#define DENSE_STRIDE 154
#endif
#ifndef COMPACT
#define COMPACT 0
#endif

#define INLINE static inline __attribute__((always_inline))
// Of kernels only: inlined helpers with restrict need an LLVM intrinsic that Oclgrind does not know.
#define GLOBAL_IN const __global float *restrict
#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))


INLINE int first_input_block(int kb, int inputBlocks, int blocksPerOutput, int outputsPerGroup, int inputsPerGroup) {
    return min(kb * 32 / outputsPerGroup * inputsPerGroup / 16, inputBlocks - blocksPerOutput);
}

INLINE int ceil_divide(int a, int b) { return a > 0 ? (a + b - 1) / b : 0; }

typedef struct {
    // x and dy: extents of a plane, pixels of all images.
    int height, width, inputPixels, outputHeight, outputWidth, outputPixels;
    int strideHeight, strideWidth;
    // No more than this many pixels of dy exist.
    int pixelLimit;
} Plane;

// LANES input channels times 2*VECTOR output channels (VECTOR with narrow) over rows rowFirst ..< rowEnd, added to
// sums[LANES][32]. rowOffset, columnOffset: r*dilation - padding. second: floats from a pixel's first vector of dy to
// its second.
INLINE void outer_product(const int narrow, const __global float *x, const __global float *dy, size_t second,
                          __global float *sums, int isFirst, int rowFirst, int rowEnd, int rowOffset,
                          int columnOffset, const Plane plane) {
#define DECLARE(c) vector left##c = ZERO_VECTOR, right##c = ZERO_VECTOR;
    EACH_COUNT(LANES, DECLARE)
#undef DECLARE
    const size_t xStep = (size_t)plane.strideWidth * 16;
    const int q0 = min(ceil_divide(-columnOffset, plane.strideWidth), plane.outputWidth);
    const int qLimit = min(plane.outputWidth, ceil_divide(plane.width - columnOffset, plane.strideWidth));
    int n = rowFirst / plane.outputHeight, i = rowFirst % plane.outputHeight;
    for (int row = rowFirst; row < rowEnd; ++row) {
        const int ih = i * plane.strideHeight + rowOffset;
        const int pixel = row * plane.outputWidth;
        const int q1 = min(qLimit, plane.pixelLimit - pixel);
        if (ih >= 0 && ih < plane.height) {
            const __global float *xAt =
                x + (((ptrdiff_t)n * plane.height + ih) * plane.width + q0 * plane.strideWidth + columnOffset) * 16;
            const __global float *dyAt = dy + ((size_t)pixel + q0) * 16;
#pragma unroll 2
            for (int q = q0; q < q1; ++q, xAt += xStep, dyAt += 16) {
                const vector g0 = LOAD(dyAt);
                const vector g1 = narrow ? ZERO_VECTOR : LOAD(dyAt + second);
#define MULTIPLY_ADD(c)                                       \
    {                                                         \
        const vector broadcast = (vector)(xAt[c]);            \
        left##c = fma(broadcast, g0, left##c);                \
        if (!narrow) right##c = fma(broadcast, g1, right##c); \
    }
                EACH_COUNT(LANES, MULTIPLY_ADD)
#undef MULTIPLY_ADD
            }
        }
        if (++i == plane.outputHeight) {
            i = 0;
            ++n;
        }
    }
    if (isFirst) {
#define KEEP(c)                    \
    STORE(left##c, sums + (c) * 32); \
    STORE(right##c, sums + (c) * 32 + VECTOR);
        EACH_COUNT(LANES, KEEP)
#undef KEEP
    } else {
#define ADD(c)                                                 \
    STORE(LOAD(sums + (c) * 32) + left##c, sums + (c) * 32);     \
    if (!narrow) STORE(LOAD(sums + (c) * 32 + VECTOR) + right##c, sums + (c) * 32 + VECTOR);
        EACH_COUNT(LANES, ADD)
#undef ADD
    }
}

SINGLE_ITEM kernel void weight_gradient(GLOBAL_IN x, GLOBAL_IN dy, __global float *restrict partial, int height,
                                        int width, int inputPixels, int outputHeight, int outputWidth,
                                        int outputPixels, int strideHeight, int strideWidth, int paddingHeight,
                                        int paddingWidth, int dilationHeight, int dilationWidth, int rows, int columns,
                                        int inputChannels, int outputChannels, int inputBlocks, int blocksPerOutput,
                                        int outputsPerGroup, int inputsPerGroup, int rowCount, int rowsPerSplit,
                                        int rowsPerChunk, int blockGroups, int blocksPerGroup) {
    const int split = (int)get_global_id(0) / blockGroups, group = (int)get_global_id(0) % blockGroups;
    const int kb = (int)get_global_id(1), kbCount = (int)get_global_size(1);
    const int blockFirst = group * blocksPerGroup, blockEnd = min(blockFirst + blocksPerGroup, blocksPerOutput);
    const int firstBlock = first_input_block(kb, inputBlocks, blocksPerOutput, outputsPerGroup, inputsPerGroup);
    const int rowFirst = split * rowsPerSplit, rowEnd = min(rowFirst + rowsPerSplit, rowCount);
    const int taps = rows * columns;
    const Plane plane = {height, width, inputPixels, outputHeight, outputWidth, outputPixels, strideHeight, strideWidth,
                         outputPixels};
    __global float *sums = partial + ((size_t)split * kbCount + kb) * taps * blocksPerOutput * 512;
    GLOBAL_IN dyBlock = dy + (size_t)kb * 2 * outputPixels * 16;
    const int narrow = outputChannels - kb * 32 <= 16;
    // A split without rows is none: the first chunk also initialises the sums.
    for (int chunk = rowFirst; chunk == rowFirst || chunk < rowEnd; chunk += rowsPerChunk) {
        const int chunkEnd = min(chunk + rowsPerChunk, rowEnd);
        for (int b = blockFirst; b < blockEnd; ++b) {
            GLOBAL_IN xBlock = x + (size_t)(firstBlock + b) * inputPixels * 16;
            for (int tap = 0; tap < taps; ++tap) {
                const int rowOffset = tap / columns * dilationHeight - paddingHeight;
                const int columnOffset = tap % columns * dilationWidth - paddingWidth;
                for (int lanes = 0; lanes < 16; lanes += LANES) {
                    // Channels that do not exist: zero times anything.
                    const int exists = (firstBlock + b) * 16 + lanes < inputChannels;
                    const int end = exists ? chunkEnd : chunk;
                    __global float *to = sums + ((size_t)(tap * blocksPerOutput + b) * 16 + lanes) * 32;
                    for (int k = 0; k < 32; k += 2 * VECTOR) {
#if VECTOR == 16
                        const size_t second = (size_t)outputPixels * 16;
                        if (narrow)
                            outer_product(1, xBlock + lanes, dyBlock, second, to, chunk == rowFirst, chunk, end,
                                          rowOffset, columnOffset, plane);
                        else
#else
                        const size_t second = VECTOR;
#endif
                            // Blocks behind the last are never read: their sums are zero.
                            outer_product(0, xBlock + lanes, dyBlock + k / 16 * (size_t)outputPixels * 16 + k % 16,
                                          second, to + k, chunk == rowFirst, chunk, narrow && k >= 16 ? chunk : end,
                                          rowOffset, columnOffset, plane);
                    }
                }
            }
        }
    }
}

// Work-item (column tile group, kb, split): gathers chunks of pixels into its slab and sums them.
SINGLE_ITEM kernel void dense_weight_gradient(GLOBAL_IN x, GLOBAL_IN dy, __global float *restrict partial,
                                              __global float *restrict scratch, int slabFloats, int height, int width,
                                              int outputHeight, int outputWidth, int outputPixels, int strideHeight,
                                              int strideWidth, int paddingHeight, int paddingWidth, int dilationHeight,
                                              int dilationWidth, int rows, int columns, int outputChannels,
                                              int kbCount, int pixelsPerSplit, int pixelsPerChunk) {
    const int split = (int)get_global_id(0);
    const int pixelFirst = split * pixelsPerSplit, pixelEnd = min(pixelFirst + pixelsPerSplit, outputPixels);
    const int taps = rows * columns;
    // The slab: the gathered chunk, then sums as [kb][DENSE_STRIDE][32].
    __global float *gathered = scratch + (size_t)split * slabFloats;
    __global float *sums = gathered + (size_t)pixelsPerChunk * DENSE_STRIDE;
    for (int index = 0; index < kbCount * DENSE_STRIDE * 2; ++index) vstore16((float16)(0.0f), index, sums);
    for (int chunk = pixelFirst; chunk < pixelEnd; chunk += pixelsPerChunk) {
        const int chunkEnd = min(chunk + pixelsPerChunk, pixelEnd);
        int j = chunk % outputWidth, i = chunk / outputWidth % outputHeight, n = chunk / outputWidth / outputHeight;
        for (int m = chunk; m < chunkEnd; ++m) {
            __global float *to = gathered + (size_t)(m - chunk) * DENSE_STRIDE;
            for (int tail = taps * DENSE; tail < DENSE_STRIDE; ++tail) to[tail] = 0.0f;
            for (int r = 0; r < rows; ++r) {
                const int ih = i * strideHeight - paddingHeight + r * dilationHeight;
                for (int s = 0; s < columns; ++s) {
                    const int iw = j * strideWidth - paddingWidth + s * dilationWidth;
                    const int inside = ih >= 0 && ih < height && iw >= 0 && iw < width;
#if COMPACT
                    const __global float *from = x + (((ptrdiff_t)n * height + ih) * width + iw) * DENSE;
                    for (int c = 0; c < DENSE; ++c) to[(r * columns + s) * DENSE + c] = inside ? from[c] : 0.0f;
#else
                    const __global float *from = x + (((ptrdiff_t)n * height + ih) * width + iw) * 16;
                    // Lanes behind the channels are zero, so that what the last tap writes too much is zero.
                    vstore4(inside ? vload4(0, from) : (float4)(0.0f), 0, to + (r * columns + s) * DENSE);
#endif
                }
            }
            if (++j == outputWidth) {
                j = 0;
                if (++i == outputHeight) {
                    i = 0;
                    ++n;
                }
            }
        }
        for (int kb = 0; kb < kbCount; ++kb) {
            const int narrow = outputChannels - kb * 32 <= 16;
            for (int k = 0; k < (narrow ? 16 : 32); k += 2 * VECTOR) {
                // With one vector per block and one block only, that is summed twice.
                const size_t second = VECTOR < 16 ? VECTOR : narrow ? 0 : (size_t)outputPixels * 16;
                for (int column = 0; column < DENSE_STRIDE; column += COLUMNS) {
                    const __global float *a = gathered + column;
                    const __global float *g =
                        dy + ((size_t)(kb * 2 + k / 16) * outputPixels + chunk) * 16 + k % 16;
#define DECLARE(c) vector left##c = ZERO_VECTOR, right##c = ZERO_VECTOR;
                    EACH_COUNT(COLUMNS, DECLARE)
#undef DECLARE
                    for (int m = chunk; m < chunkEnd; ++m, a += DENSE_STRIDE, g += 16) {
                        const vector g0 = LOAD(g), g1 = LOAD(g + second);
#define MULTIPLY_ADD(c)                            \
    {                                              \
        const vector broadcast = (vector)(a[c]);   \
        left##c = fma(broadcast, g0, left##c);     \
        right##c = fma(broadcast, g1, right##c);   \
    }
                        EACH_COUNT(COLUMNS, MULTIPLY_ADD)
#undef MULTIPLY_ADD
                    }
                    __global float *to = sums + ((size_t)kb * DENSE_STRIDE + column) * 32 + k;
#define ADD(c)                                               \
    STORE(LOAD(to + (c) * 32) + left##c, to + (c) * 32);     \
    STORE(LOAD(to + (c) * 32 + VECTOR) + right##c, to + (c) * 32 + VECTOR);
                    EACH_COUNT(COLUMNS, ADD)
#undef ADD
                }
            }
        }
    }
    for (int kb = 0; kb < kbCount; ++kb) {
        const int narrow = outputChannels - kb * 32 <= 16;
        for (int tap = 0; tap < taps; ++tap) {
            __global float *to = partial + (((size_t)split * kbCount + kb) * taps + tap) * 512;
            const __global float *from = sums + ((size_t)kb * DENSE_STRIDE + tap * DENSE) * 32;
            for (int lane = 0; lane < 16; ++lane) {
                const int exists = lane < DENSE;
                vstore16(exists ? vload16(lane * 2, from) : (float16)(0.0f), lane * 2, to);
                vstore16(exists && !narrow ? vload16(lane * 2 + 1, from) : (float16)(0.0f), lane * 2 + 1, to);
            }
        }
    }
}

// dw = sum of the splits in order, zero between groups and outside of the channels.
// Work-item (rowGroup, kb): rowsPerItem rows of 32 of output block kb.
SINGLE_ITEM kernel void sum_splits(GLOBAL_IN partial, __global float *restrict dw, int splits, int rowCount,
                                   int rowsPerItem, int inputChannels, int outputChannels, int inputBlocks,
                                   int blocksPerOutput, int outputsPerGroup, int inputsPerGroup) {
    const int kb = (int)get_global_id(1);
    const size_t splitStride = (size_t)get_global_size(1) * rowCount * 32;
    const int rowFirst = (int)get_global_id(0) * rowsPerItem, rowEnd = min(rowFirst + rowsPerItem, rowCount);
    const int firstInput =
        16 * first_input_block(kb, inputBlocks, blocksPerOutput, outputsPerGroup, inputsPerGroup);
    const int16 lane = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const int16 k0 = kb * 32 + lane, k1 = k0 + 16;
    const int16 group0 = k0 / outputsPerGroup, group1 = k1 / outputsPerGroup;
    for (int row = rowFirst; row < rowEnd; ++row) {
        const __global float *from = partial + ((size_t)kb * rowCount + row) * 32;
        float16 sum0 = vload16(0, from), sum1 = vload16(1, from);
        for (int split = 1; split < splits; ++split) {
            from += splitStride;
            sum0 += vload16(0, from);
            sum1 += vload16(1, from);
        }
        const int channel = firstInput + row % (blocksPerOutput * 16);
        const int group = channel < inputChannels ? channel / inputsPerGroup : -1;
        sum0 = group0 == group && k0 < outputChannels ? sum0 : (float16)(0.0f);
        sum1 = group1 == group && k1 < outputChannels ? sum1 : (float16)(0.0f);
        __global float *to = dw + ((size_t)kb * rowCount + row) * 32;
        vstore16(sum0, 0, to);
        vstore16(sum1, 1, to);
    }
}
