// Convolution 3x3 with stride 1 by Winograd's minimal filtering F(4x4, 3x3), CPU class. Its input's gradient is the same
// over dy with rotated, transposed weights. Matrices and source: GraftGraph/Winograd.swift.
//
// Layouts as in convolution_cpu.cl; transformed weights U are laid out as weights with 6x6 kernels, [K/32][36][B][16][32].
// Tile t = (n*tileRows + i)*tileColumns + j gives the 4x4 outputs from (4*i, 4*j) on, from the 6x6 inputs d from
// (4*i - paddingHeight, 4*j - paddingWidth) on; taps outside of x count as zero:
//   V[e][c][t] = (B^T d B)[e],  M[e][k][t] = sum over c of U[k][e][c] * V[e][c][t] for each of 36 elements e,
//   y = bias + residual + A^T M A, or the maxima of that in windows of 2x2, of which a tile has four.
// In memory V is [36][B][tiles][16] and M is [36][kb][tiles][32], a cache line wider than that per e, so that the 36
// streams of a transform do not fall on the same lines of the cache.
//
// `winograd` does all three steps for a group of tiles, whose V and M stay in the second-level cache: a work-item is a
// worker with a slab of scratch, and takes the items gid, gid + workers, ...; an item is a group of tiles times
// kbPerItem blocks of 32 output channels. Where a group does not fit there are three launches with V and M of all
// tiles in scratch:
//   transform_inputs   work-item (run of tilesPerItem tiles, input block)
//   multiply           work-item (block of output channels, e)
//   transform_outputs  work-item (run of tilesPerItem tiles, block of output channels)
// The result is the same to the last bit, whichever way and however the work is cut.
// transform_weights makes U of weights: work-item (input block, block of output channels).
//
// The weights' gradient is the adjoint, dw = G^T dU G, for a chunk of whole images after the other:
//   transform_inputs            V as above
//   transform_output_gradients  D = A dy A^T as [36][kb][tiles][32]; work-item as in transform_outputs
//   weight_products             dU[e] = or += sum over t of V[e][c][t] * D[e][k][t], LANES x 2*VECTOR sums in registers at
//                               a time, as [kb][36][B][16][32] with a cache line between the e; work-item as in multiply
//   weight_gradients            dw; work-item as in transform_weights
//
// Tunables, set by the host:
//   VECTOR  16, 8, 4  floats per vector (prelude.cl): the native width of the device. Default 16.
//   FETCHES 0, 1      weights are fetched ahead (prelude.cl): on processors. Default 0.
//   MR      1...14    tiles per register tile; 2*MR accumulators of VECTOR floats. Default 14, which is for 32 registers;
//                     6 for 16 of them. The number of tiles in V and M is a multiple; those that do not exist are zero.
//   LANES   divisor of 16: input channels per register tile of weight_products. Default 8 with VECTOR 16, else 4.

#ifndef MR
#define MR 14
#endif

#ifndef LANES
#if VECTOR == 16
#define LANES 8
#else
#define LANES 4
#endif
#endif

// Input blocks whose sums are made at a time.
#define PART_BLOCKS 8

#define INLINE static inline __attribute__((always_inline))
// Of kernels only: inlined helpers with restrict need an LLVM intrinsic that Oclgrind does not know.
#define GLOBAL_IN const __global float *restrict
#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1)))

// Bits of the epilogue, as in convolution_cpu.cl.
#define BIASED 1
#define RESIDUAL 2
#define RECTIFIED 4
#define MASKED 8
// And one more: y gets the maxima of whole windows of 2x2. Not with a residual.
#define POOLED 16

// Of loops over a tile's columns and rows: unrolled, they only take longer to compile.
#define ROLLED _Pragma("unroll 1")

typedef struct {
    // x and y: extents of a plane, pixels of all images. Of a result that is pooled only outputPixels are y's.
    int height, width, inputPixels, outputHeight, outputWidth, outputPixels;
    int paddingHeight, paddingWidth;
    int tileRows, tileColumns, tileCount;
} Plane;

// B^T times a column: to[0], to[step], ... to[5 * step].
INLINE void input_column(const vector *d, vector *to, int step) {
    const vector even = fma((vector)(-4.0f), d[2], d[4]), odd = fma((vector)(-4.0f), d[1], d[3]);
    const vector difference = d[4] - d[2], twice = 2.0f * (d[3] - d[1]);
    to[0] = fma((vector)(4.0f), d[0], fma((vector)(-5.0f), d[2], d[4]));
    to[step] = even + odd;
    to[2 * step] = even - odd;
    to[3 * step] = difference + twice;
    to[4 * step] = difference - twice;
    to[5 * step] = fma((vector)(4.0f), d[1], fma((vector)(-5.0f), d[3], d[5]));
}

// A^T times a column.
INLINE void output_column(const vector *m, vector *to, int step) {
    const vector sum1 = m[1] + m[2], difference1 = m[1] - m[2];
    const vector sum2 = m[3] + m[4], difference2 = m[3] - m[4];
    to[0] = m[0] + sum1 + sum2;
    to[step] = fma((vector)(2.0f), difference2, difference1);
    to[2 * step] = fma((vector)(4.0f), sum2, sum1);
    to[3 * step] = fma((vector)(8.0f), difference2, difference1) + m[5];
}

// G times a column.
INLINE void weight_column(const vector *g, vector *to, int step) {
    const vector outer = (g[0] + g[2]) * (-1.0f / 6), middle = g[1] * (1.0f / 6);
    const vector far = fma(g[0], (vector)(1.0f / 24), g[2] * (1.0f / 6)), near = g[1] * (1.0f / 12);
    to[0] = g[0] * 0.25f;
    to[step] = outer - middle;
    to[2 * step] = outer + middle;
    to[3 * step] = far + near;
    to[4 * step] = far - near;
    to[5 * step] = g[2];
}

// A times a column.
INLINE void gradient_column(const vector *y, vector *to, int step) {
    const vector even = y[0] + y[2], odd = y[1] + y[3];
    const vector farEven = fma((vector)(4.0f), y[2], y[0]), farOdd = fma((vector)(8.0f), y[3], 2.0f * y[1]);
    to[0] = y[0];
    to[step] = even + odd;
    to[2 * step] = even - odd;
    to[3 * step] = farEven + farOdd;
    to[4 * step] = farEven - farOdd;
    to[5 * step] = y[3];
}

// G^T times a column.
INLINE void weight_gradient_column(const vector *u, vector *to, int step) {
    const vector sum1 = (u[1] + u[2]) * (-1.0f / 6), difference1 = (u[2] - u[1]) * (1.0f / 6);
    const vector sum2 = u[3] + u[4], difference2 = u[3] - u[4];
    to[0] = fma(u[0], (vector)(0.25f), fma(sum2, (vector)(1.0f / 24), sum1));
    to[step] = fma(difference2, (vector)(1.0f / 12), difference1);
    to[2 * step] = fma(sum2, (vector)(1.0f / 6), sum1) + u[5];
}

// V of one tile and input block. x: the block; v: the tile's 16 floats of element 0.
INLINE void transform_input(const __global float *x, __global float *v, size_t elementStride, int t,
                            const Plane plane) {
    if (t >= plane.tileCount) {
        for (int e = 0; e < 36; ++e) vstore16((float16)(0.0f), 0, v + e * elementStride);
        return;
    }
    const int ih0 = t / plane.tileColumns % plane.tileRows * 4 - plane.paddingHeight;
    const int iw0 = t % plane.tileColumns * 4 - plane.paddingWidth;
    const int n = t / plane.tileColumns / plane.tileRows;
    const ptrdiff_t corner = (((ptrdiff_t)n * plane.height + ih0) * plane.width + iw0) * 16;
    const int isInterior = ih0 >= 0 && iw0 >= 0 && ih0 + 6 <= plane.height && iw0 + 6 <= plane.width;
    for (int lane = 0; lane < 16; lane += VECTOR) {
        vector inner[36];
        const __global float *from = x + corner + lane;
        ROLLED
        for (int j = 0; j < 6; ++j) {
            vector column[6];
            if (isInterior) {
#pragma unroll
                for (int i = 0; i < 6; ++i) column[i] = LOAD(from + ((ptrdiff_t)i * plane.width + j) * 16);
            } else {
                const int exists = iw0 + j >= 0 && iw0 + j < plane.width;
#pragma unroll
                for (int i = 0; i < 6; ++i)
                    column[i] = exists && ih0 + i >= 0 && ih0 + i < plane.height
                                    ? LOAD(from + ((ptrdiff_t)i * plane.width + j) * 16)
                                    : ZERO_VECTOR;
            }
            input_column(column, inner + j, 6);
        }
        ROLLED
        for (int i = 0; i < 6; ++i) {
            vector row[6];
            input_column(inner + 6 * i, row, 1);
#pragma unroll
            for (int j = 0; j < 6; ++j) STORE(row[j], v + (6 * i + j) * elementStride + lane);
        }
    }
}

// One register tile of M: MR tiles times 2*VECTOR channels, or VECTOR with narrow. a: V, aStep floats between its blocks;
// w: U; to: 32 floats per tile, where the sums begin or, without `begins`, go on. ahead: weights that are needed soon, of
// which so many cache lines are asked for with each block.
INLINE void register_tile(const int narrow, const __global float *a, size_t aStep, const __global float *w, int blocks,
                          __global float *to, int begins, const __global float *ahead, int lines) {
#define DECLARE(p) vector left##p = ZERO_VECTOR, right##p = ZERO_VECTOR;
    EACH_COUNT(MR, DECLARE)
#undef DECLARE
    if (!begins) {
#define GO_ON(p)                   \
    left##p = LOAD(to + (p) * 32); \
    if (!narrow) right##p = LOAD(to + (p) * 32 + VECTOR);
        EACH_COUNT(MR, GO_ON)
#undef GO_ON
    }
    for (int block = 0; block < blocks; ++block, a += aStep, w += 512) {
        for (int line = 0; line < lines; ++line, ahead += 16) FETCH_SOON(ahead);
#pragma unroll 4
        for (int c = 0; c < 16; ++c) {
            const vector w0 = LOAD(w + c * 32), w1 = narrow ? ZERO_VECTOR : LOAD(w + c * 32 + VECTOR);
#define MULTIPLY_ADD(p)                                      \
    {                                                        \
        const vector broadcast = (vector)(a[(p) * 16 + c]);  \
        left##p = fma(broadcast, w0, left##p);               \
        if (!narrow) right##p = fma(broadcast, w1, right##p); \
    }
            EACH_COUNT(MR, MULTIPLY_ADD)
#undef MULTIPLY_ADD
        }
    }
#define KEEP(p)                  \
    STORE(left##p, to + (p) * 32); \
    if (!narrow) STORE(right##p, to + (p) * 32 + VECTOR);
    EACH_COUNT(MR, KEEP)
#undef KEEP
}

// Channels of a block of 32 that are stored: whole blocks of 16.
INLINE int stored_channels(int channels) { return channels > 16 ? 32 : 16; }

// M of one element and one block of output channels, tiles 0 ..< tiles. next: the weights of the block that follows.
INLINE void multiply_tiles(const __global float *v, size_t aStep, const __global float *u, int blocks,
                           __global float *m, int tiles, int channels, const __global float *next) {
    // A few blocks' weights stay in the first-level cache from one tile to the next, and memory is read line after line,
    // while the tiles before are multiplied.
    const int calls = (tiles + MR - 1) / MR * max(stored_channels(channels) / (2 * VECTOR), 1);
    const int lines = (32 + calls - 1) / calls;
    for (int from = 0; from < blocks; from += PART_BLOCKS) {
        const __global float *ahead = from + PART_BLOCKS < blocks ? u + (from + PART_BLOCKS) * 512 : next;
        for (int k = 0; k < stored_channels(channels); k += 2 * VECTOR)
            for (int t = 0; t < tiles; t += MR, ahead += PART_BLOCKS * lines * 16)
#if VECTOR == 16
                if (channels <= 16)
                    register_tile(1, v + from * aStep + t * 16, aStep, u + from * 512, min(PART_BLOCKS, blocks - from),
                                  m + t * 32, from == 0, ahead, lines);
                else
#endif
                    register_tile(0, v + from * aStep + t * 16, aStep, u + from * 512 + k,
                                  min(PART_BLOCKS, blocks - from), m + t * 32 + k, from == 0, ahead, lines);
    }
}

// The larger one; NaN before any number.
INLINE vector larger(vector a, vector b) { return (b > a) | (b != b) ? b : a; }

// The outputs of one tile for one block of output channels. y, residual, bias: that block's; m: the tile's 32 floats of
// element 0.
INLINE void transform_output(const __global float *m, size_t elementStride, int t, const __global float *bias,
                             const __global float *residual, __global float *y, int channels, int epilogue,
                             const Plane plane) {
    const int i0 = t / plane.tileColumns % plane.tileRows * 4, j0 = t % plane.tileColumns * 4;
    const int n = t / plane.tileColumns / plane.tileRows;
    const int rows = min(plane.outputHeight - i0, 4), columns = min(plane.outputWidth - j0, 4);
    const size_t corner = (((size_t)n * plane.outputHeight + i0) * plane.outputWidth + j0) * 16;
    for (int k = 0; k < stored_channels(channels); k += VECTOR) {
        vector inner[24];
        ROLLED
        for (int j = 0; j < 6; ++j) {
            vector column[6];
#pragma unroll
            for (int i = 0; i < 6; ++i) column[i] = LOAD(m + (6 * i + j) * elementStride + k);
            output_column(column, inner + j, 6);
        }
        const vector start = epilogue & BIASED ? LOAD(bias + k) : ZERO_VECTOR;
        const integer_vector exists = LANE_NUMBERS + k < channels;
        const size_t side = (size_t)(k / 16) * plane.outputPixels * 16 + k % 16;
        if (epilogue & POOLED) {
            const int pooledHeight = plane.outputHeight / 2, pooledWidth = plane.outputWidth / 2;
            ROLLED
            for (int i = 0; i + 1 < rows; i += 2) {
                vector upper[4], lower[4];
                output_column(inner + 6 * i, upper, 1);
                output_column(inner + 6 * i + 6, lower, 1);
                const size_t row = ((size_t)n * pooledHeight + (i0 + i) / 2) * pooledWidth + j0 / 2;
#pragma unroll
                for (int j = 0; j < 4; j += 2) {
                    if (j + 1 < columns) {
                        // Bias and ReLU keep the order, and so are applied to the largest alone.
                        vector value = larger(larger(upper[j], upper[j + 1]), larger(lower[j], lower[j + 1])) + start;
                        if (epilogue & RECTIFIED) value = value < 0.0f ? ZERO_VECTOR : value;
                        if (epilogue & MASKED) value = exists ? value : ZERO_VECTOR;
                        STORE(value, y + side + (row + j / 2) * 16);
                    }
                }
            }
            continue;
        }
        const size_t at0 = corner + side;
        ROLLED
        for (int i = 0; i < rows; ++i) {
            vector values[4];
            output_column(inner + 6 * i, values, 1);
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                if (j < columns) {
                    const size_t at = at0 + ((size_t)i * plane.outputWidth + j) * 16;
                    vector value = values[j] + start;
                    if (epilogue & RESIDUAL) value += LOAD(residual + at);
                    if (epilogue & RECTIFIED) value = value < 0.0f ? ZERO_VECTOR : value;
                    if (epilogue & MASKED) value = exists ? value : ZERO_VECTOR;
                    STORE(value, y + at);
                }
            }
        }
    }
}

#define PLANE_PARAMETERS                                                                                               \
    int height, int width, int inputPixels, int outputHeight, int outputWidth, int outputPixels, int paddingHeight,   \
        int paddingWidth, int tileRows, int tileColumns, int tileCount
#define PLANE                                                                                                     \
    {height, width, inputPixels, outputHeight, outputWidth, outputPixels, paddingHeight, paddingWidth, tileRows, \
     tileColumns, tileCount}

// biases, residual: any buffer where the epilogue has none. groupTiles: a multiple of MR.
SINGLE_ITEM kernel void winograd(GLOBAL_IN x, GLOBAL_IN u, GLOBAL_IN biases, GLOBAL_IN residual,
                                 __global float *restrict y, __global float *restrict scratch, int slabFloats,
                                 PLANE_PARAMETERS, int epilogue, int outputChannels, int blocks, int kbCount,
                                 int kbPerItem, int itemCount, int groupCount, int groupTiles) {
    const Plane plane = PLANE;
    const size_t vStride = ((size_t)blocks * groupTiles | 1) * 16, mStride = (size_t)groupTiles * 32 + 16;
    __global float *v = scratch + (size_t)get_global_id(0) * slabFloats;
    __global float *m = v + 36 * vStride;
    // Neighbours read the same rows, and memory in one stream.
    const int worker = (int)get_global_id(0), workers = (int)get_global_size(0);
    const int itemEnd = (int)((long)itemCount * (worker + 1) / workers);
    for (int item = (int)((long)itemCount * worker / workers); item < itemEnd; ++item) {
        const int tileFirst = item % groupCount * groupTiles, tiles = min(groupTiles, tileCount - tileFirst);
        const int kbFirst = item / groupCount * kbPerItem, kbEnd = min(kbFirst + kbPerItem, kbCount);
        const int padded = (tiles + MR - 1) / MR * MR;
        for (int b = 0; b < blocks; ++b)
            for (int t = 0; t < padded; ++t)
                transform_input(x + (size_t)b * inputPixels * 16, v + ((size_t)b * groupTiles + t) * 16, vStride,
                                tileFirst + t, plane);
        for (int kb = kbFirst; kb < kbEnd; ++kb) {
            const int channels = outputChannels - kb * 32;
            for (int e = 0; e < 36; ++e) {
                const __global float *weights = u + ((size_t)kb * 36 + e) * blocks * 512;
                multiply_tiles(v + e * vStride, (size_t)groupTiles * 16, weights, blocks, m + e * mStride, padded,
                               channels, weights + blocks * 512);
            }
            const size_t offset = (size_t)kb * 2 * outputPixels * 16;
            for (int t = 0; t < tiles; ++t)
                // Bias and residual are read only where the epilogue says so.
                transform_output(m + t * 32, mStride, tileFirst + t, biases + kb * 32, residual + offset, y + offset,
                                 channels, epilogue, plane);
        }
    }
}

// Tiles tileFirst ..< tileFirst + paddedTiles.
SINGLE_ITEM kernel void transform_inputs(GLOBAL_IN x, __global float *restrict v, PLANE_PARAMETERS, int tileFirst,
                                         int paddedTiles, int tilesPerItem) {
    const Plane plane = PLANE;
    const int b = (int)get_global_id(1), first = (int)get_global_id(0) * tilesPerItem;
    const size_t stride = (get_global_size(1) * paddedTiles | 1) * 16;
    for (int t = first; t < min(first + tilesPerItem, paddedTiles); ++t)
        transform_input(x + (size_t)b * inputPixels * 16, v + ((size_t)b * paddedTiles + t) * 16, stride,
                        tileFirst + t, plane);
}

SINGLE_ITEM kernel void multiply(GLOBAL_IN v, GLOBAL_IN u, __global float *restrict m, int blocks, int paddedTiles,
                                 int outputChannels) {
    const int kb = (int)get_global_id(0), kbCount = (int)get_global_size(0), e = (int)get_global_id(1);
    const size_t vStride = ((size_t)blocks * paddedTiles | 1) * 16, mStride = (size_t)kbCount * paddedTiles * 32 + 16;
    const __global float *weights = u + ((size_t)kb * 36 + e) * blocks * 512;
    multiply_tiles(v + e * vStride, (size_t)paddedTiles * 16, weights, blocks,
                   m + e * mStride + (size_t)kb * paddedTiles * 32, paddedTiles, outputChannels - kb * 32,
                   kb + 1 < kbCount ? weights + (size_t)36 * blocks * 512 : u);
}

// Tiles tileFirst ..< tileFirst + tiles, all of which exist.
SINGLE_ITEM kernel void transform_outputs(GLOBAL_IN m, GLOBAL_IN biases, GLOBAL_IN residual,
                                          __global float *restrict y, PLANE_PARAMETERS, int epilogue,
                                          int outputChannels, int tileFirst, int tiles, int paddedTiles,
                                          int tilesPerItem) {
    const Plane plane = PLANE;
    const int kb = (int)get_global_id(1), first = (int)get_global_id(0) * tilesPerItem;
    const size_t stride = get_global_size(1) * paddedTiles * 32 + 16;
    const size_t offset = (size_t)kb * 2 * outputPixels * 16;
    for (int t = first; t < min(first + tilesPerItem, tiles); ++t)
        transform_output(m + ((size_t)kb * paddedTiles + t) * 32, stride, tileFirst + t, biases + kb * 32, residual + offset,
                         y + offset, outputChannels - kb * 32, epilogue, plane);
}

SINGLE_ITEM kernel void transform_weights(GLOBAL_IN w, __global float *restrict u) {
    const size_t blocks = get_global_size(0), b = get_global_id(0), kb = get_global_id(1);
    w += (kb * 9 * blocks + b) * 512;
    u += (kb * 36 * blocks + b) * 512;
    for (int at = 0; at < 512; at += VECTOR) {
        vector inner[18];
        ROLLED
        for (int j = 0; j < 3; ++j) {
            vector column[3];
#pragma unroll
            for (int i = 0; i < 3; ++i) column[i] = LOAD(w + (3 * i + j) * blocks * 512 + at);
            weight_column(column, inner + j, 3);
        }
        ROLLED
        for (int i = 0; i < 6; ++i) {
            vector row[6];
            weight_column(inner + 3 * i, row, 1);
#pragma unroll
            for (int j = 0; j < 6; ++j) STORE(row[j], u + (6 * i + j) * blocks * 512 + at);
        }
    }
}

// Tiles tileFirst ..< tileFirst + tiles, all of which exist.
SINGLE_ITEM kernel void transform_output_gradients(GLOBAL_IN dy, __global float *restrict d, PLANE_PARAMETERS,
                                                   int outputChannels, int tileFirst, int tiles, int tilesPerItem) {
    const int kb = (int)get_global_id(1), first = (int)get_global_id(0) * tilesPerItem;
    const size_t stride = get_global_size(1) * tiles * 32 + 16;
    const int stored = stored_channels(outputChannels - kb * 32);
    for (int index = first; index < min(first + tilesPerItem, tiles); ++index) {
        const int t = tileFirst + index;
        const int i0 = t / tileColumns % tileRows * 4, j0 = t % tileColumns * 4, n = t / tileColumns / tileRows;
        const size_t corner = (((size_t)n * outputHeight + i0) * outputWidth + j0) * 16;
        __global float *to = d + ((size_t)kb * tiles + index) * 32;
        for (int k = 0; k < 32; k += VECTOR) {
            const size_t block = (size_t)(kb * 2 + k / 16) * outputPixels * 16;
            vector inner[24];
            ROLLED
            for (int j = 0; j < 4; ++j) {
                vector column[4];
#pragma unroll
                for (int i = 0; i < 4; ++i)
                    column[i] = k < stored && i0 + i < outputHeight && j0 + j < outputWidth
                                    ? LOAD(dy + block + corner + ((size_t)i * outputWidth + j) * 16 + k % 16)
                                    : ZERO_VECTOR;
                gradient_column(column, inner + j, 4);
            }
            ROLLED
            for (int i = 0; i < 6; ++i) {
                vector row[6];
                gradient_column(inner + 4 * i, row, 1);
#pragma unroll
                for (int j = 0; j < 6; ++j) STORE(row[j], to + (6 * i + j) * stride + k);
            }
        }
    }
}

SINGLE_ITEM kernel void weight_products(GLOBAL_IN v, GLOBAL_IN d, __global float *restrict du, int blocks, int tiles,
                                        int isFirst) {
    const int kb = (int)get_global_id(0), kbCount = (int)get_global_size(0), e = (int)get_global_id(1);
    v += e * ((size_t)blocks * tiles | 1) * 16;
    d += e * ((size_t)kbCount * tiles * 32 + 16) + (size_t)kb * tiles * 32;
    du += ((size_t)kb * 36 + e) * (blocks * 512 + 16);
    for (int b = 0; b < blocks; ++b)
        for (int lane = 0; lane < 16; lane += LANES)
            for (int k = 0; k < 32; k += 2 * VECTOR) {
                const __global float *a = v + (size_t)b * tiles * 16 + lane, *g = d + k;
#define DECLARE(c) vector left##c = ZERO_VECTOR, right##c = ZERO_VECTOR;
                EACH_COUNT(LANES, DECLARE)
#undef DECLARE
#pragma unroll 2
                for (int t = 0; t < tiles; ++t, a += 16, g += 32) {
                    const vector g0 = LOAD(g), g1 = LOAD(g + VECTOR);
#define MULTIPLY_ADD(c)                          \
    {                                            \
        const vector broadcast = (vector)(a[c]); \
        left##c = fma(broadcast, g0, left##c);   \
        right##c = fma(broadcast, g1, right##c); \
    }
                    EACH_COUNT(LANES, MULTIPLY_ADD)
#undef MULTIPLY_ADD
                }
                __global float *to = du + ((size_t)b * 16 + lane) * 32 + k;
                if (!isFirst) {
#define ADD(c)                       \
    left##c += LOAD(to + (c) * 32); \
    right##c += LOAD(to + (c) * 32 + VECTOR);
                    EACH_COUNT(LANES, ADD)
#undef ADD
                }
#define KEEP(c)                    \
    STORE(left##c, to + (c) * 32); \
    STORE(right##c, to + (c) * 32 + VECTOR);
                EACH_COUNT(LANES, KEEP)
#undef KEEP
            }
}

SINGLE_ITEM kernel void weight_gradients(GLOBAL_IN du, __global float *restrict dw) {
    const size_t blocks = get_global_size(0), b = get_global_id(0), kb = get_global_id(1);
    const size_t stride = blocks * 512 + 16;
    du += kb * 36 * stride + b * 512;
    dw += (kb * 9 * blocks + b) * 512;
    for (int at = 0; at < 512; at += VECTOR) {
        vector inner[18];
        ROLLED
        for (int j = 0; j < 6; ++j) {
            vector column[6];
#pragma unroll
            for (int i = 0; i < 6; ++i) column[i] = LOAD(du + (6 * i + j) * stride + at);
            weight_gradient_column(column, inner + j, 6);
        }
        ROLLED
        for (int i = 0; i < 3; ++i) {
            vector row[3];
            weight_gradient_column(inner + 6 * i, row, 1);
#pragma unroll
            for (int j = 0; j < 3; ++j) STORE(row[j], dw + (3 * i + j) * blocks * 512 + at);
        }
    }
}
