// Convolution 3x3 with stride 1 by Winograd's minimal filtering F(4x4, 3x3), GPU class. Its input's gradient is the same
// over dy with rotated, transposed weights, padded by what the kernel's extent leaves. Matrices and source:
// GraftGraph/Winograd.swift.
//
// Tile t = (n*tile_rows + i)*tile_columns + j gives the 4x4 outputs from (4*i, 4*j) on, from the 6x6 inputs d from
// (4*i - padding_height, 4*j - padding_width) on; taps outside of x count as zero:
//   V[e][c][t] = (B^T d B)[e],  M[e][m][t] = sum over c of U[e][c][m] * V[e][c][t] for each of 36 elements e,
//   y = relu(A^T M A + bias + residual).
// Activations are NCHW. In memory V is [36][C][pitch], M is [36][rows][pitch] and U is [36][C][rows]; `pitch` and `rows`
// are tiles and output channels rounded up to 4, so that a row is whole vectors. Tiles are done in runs from
// first_tile on, which bounds V and M and changes no result; tiles of a run's end that do not exist are zero.
//
//   transform_inputs    V:  work-item (tile of the run, channel)
//   multiply            M:  a group of (BM/TM)*(BN/TN) items computes a BM x BN tile of one e, as in convolution_gpu.cl;
//                           group ids 0 = column tile * row tiles + row tile, 1 = e
//   transform_outputs   y:  work-item (tile of the run, output channel)
//   transform_weights   U:  work-item (output channel of U, input channel of U)
// All are one program for each tile of `multiply`: what else varies are arguments, the same for every item.
//
// Order of summation: channels in order.
//
// Tunables of `multiply`, chosen by the host for each kind of shape and device (default; legal values)
//   BM, BN      64, 64   tile extents; multiples of TM, TN and 4
//   BK          16       channels per step; 8, 16, 32; BM*BK/4 and BN*BK/4 multiples of the item count
//   TM, TN      4, 4     elements per item: 1, 2, 4, 8;  (BM/TM)*(BN/TN) <= 256
//                        local memory: 8 * BK * (BM + BN + 8) bytes <= 32 KiB

#ifndef BM
#define BM 64
#endif
#ifndef BN
#define BN 64
#endif
#ifndef BK
#define BK 16
#endif
#ifndef TM
#define TM 4
#endif
#ifndef TN
#define TN 4
#endif
// Bits of the epilogue.
#define BIASED 1
#define RESIDUAL 2
#define RECTIFIED 4
// The output's width is a multiple of 4: a row of a tile is one vector.
#define WHOLE_ROWS 8

#define ITEMS ((BM / TM) * (BN / TN))
#define PITCH_A (BM + 4)
#define PITCH_B (BN + 4)
#define FETCHES_A (BM * BK / 4 / ITEMS)
#define FETCHES_B (BN * BK / 4 / ITEMS)

#if TM >= 4
#define WIDTH_M 4
typedef float4 vector_m;
#elif TM == 2
#define WIDTH_M 2
typedef float2 vector_m;
#else
#define WIDTH_M 1
typedef float vector_m;
#endif
#if TN >= 4
#define WIDTH_N 4
typedef float4 vector_n;
#elif TN == 2
#define WIDTH_N 2
typedef float2 vector_n;
#else
#define WIDTH_N 1
typedef float vector_n;
#endif
#define SPREAD_M (BM / (TM / WIDTH_M))
#define SPREAD_N (BN / (TN / WIDTH_N))

#ifdef FP_FAST_FMAF
#define MULTIPLY_ADD(a, b, c) fma(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) mad(a, b, c)
#endif

// B^T times a column: to[0], to[step], ... to[5 * step].
static inline void input_column(const float *d, float *to, int step) {
    const float even = MULTIPLY_ADD(-4.0f, d[2], d[4]), odd = MULTIPLY_ADD(-4.0f, d[1], d[3]);
    const float difference = d[4] - d[2], twice = 2.0f * (d[3] - d[1]);
    to[0] = MULTIPLY_ADD(4.0f, d[0], MULTIPLY_ADD(-5.0f, d[2], d[4]));
    to[step] = even + odd;
    to[2 * step] = even - odd;
    to[3 * step] = difference + twice;
    to[4 * step] = difference - twice;
    to[5 * step] = MULTIPLY_ADD(4.0f, d[1], MULTIPLY_ADD(-5.0f, d[3], d[5]));
}

// A^T times a column.
static inline void output_column(const float *m, float *to, int step) {
    const float sum = m[1] + m[2], difference = m[1] - m[2];
    const float outer_sum = m[3] + m[4], outer_difference = m[3] - m[4];
    to[0] = m[0] + sum + outer_sum;
    to[step] = MULTIPLY_ADD(2.0f, outer_difference, difference);
    to[2 * step] = MULTIPLY_ADD(4.0f, outer_sum, sum);
    to[3 * step] = MULTIPLY_ADD(8.0f, outer_difference, difference) + m[5];
}

// G times a column.
static inline void weight_column(const float *g, float *to, int step) {
    const float sum = (g[0] + g[2]) * (-1.0f / 6.0f), middle = g[1] * (1.0f / 6.0f);
    const float outer = MULTIPLY_ADD(g[2], 1.0f / 6.0f, g[0] * (1.0f / 24.0f)), twelfth = g[1] * (1.0f / 12.0f);
    to[0] = 0.25f * g[0];
    to[step] = sum - middle;
    to[2 * step] = sum + middle;
    to[3 * step] = outer + twelfth;
    to[4 * step] = outer - twelfth;
    to[5 * step] = g[2];
}

// x: [batch][channels][height][width]. run_tiles: tiles of the run that exist.
__kernel void transform_inputs(
    __global const float *restrict x, __global float *restrict v, int channels, int height, int width,
    int padding_height, int padding_width, int tile_rows, int tile_columns, int first_tile, int run_tiles, int pitch)
{
    const int index = (int)get_global_id(0);
    const int channel = (int)get_global_id(1);
    if (index >= pitch) return;
    const int tile = first_tile + index;
    const int image = tile / (tile_rows * tile_columns);
    const int place = tile - image * (tile_rows * tile_columns);
    const int first_row = place / tile_columns * 4 - padding_height;
    const int first_column = place % tile_columns * 4 - padding_width;
    const bool exists = index < run_tiles;
    __global const float *plane = x + ((size_t)(exists ? image : 0) * channels + channel) * height * width;

    float inner[36];
#pragma unroll
    for (int j = 0; j < 6; j++) {
        const bool column_exists = exists && first_column + j >= 0 && first_column + j < width;
        float column[6];
#pragma unroll
        for (int i = 0; i < 6; i++) {
            const int row = first_row + i;
            column[i] = column_exists && row >= 0 && row < height ? plane[row * width + first_column + j] : 0.0f;
        }
        input_column(column, inner + j, 6);
    }
    const size_t stride = (size_t)channels * pitch;
    __global float *to = v + (size_t)channel * pitch + index;
#pragma unroll
    for (int i = 0; i < 6; i++) {
        float row[6];
        input_column(inner + 6 * i, row, 1);
#pragma unroll
        for (int j = 0; j < 6; j++) to[(6 * i + j) * stride] = row[j];
    }
}

// rows, columns: of M, multiples of 4; columns are the pitch of V and M.
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void multiply(
    __global const float *restrict u, __global const float *restrict v, __global float *restrict m,
    int channels, int rows, int columns)
{
    __local float tile_a[2 * BK * PITCH_A] __attribute__((aligned(16)));
    __local float tile_b[2 * BK * PITCH_B] __attribute__((aligned(16)));

    const int item = (int)get_local_id(0);
    const int item_n = item % (BN / TN);
    const int item_m = item / (BN / TN);
    const int row_tiles = (rows + BM - 1) / BM;
    const int column_tile = (int)get_group_id(0) / row_tiles;
    const int first_row = ((int)get_group_id(0) - column_tile * row_tiles) * BM;
    const int first_column = column_tile * BN;
    const size_t element = get_group_id(1);
    __global const float *a_source = u + element * channels * rows;
    __global const float *b_source = v + element * channels * columns;

    float sum[TM][TN] __attribute__((aligned(16)));
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) sum[i][j] = 0.0f;
    }

    int k_start = 0;
    int buffer = 0;
    bool pending = false;
    for (;;) {
        const bool fetching = k_start < channels;
        float4 fetched_a[FETCHES_A];
        float4 fetched_b[FETCHES_B];
        if (fetching) {
#pragma unroll
            for (int i = 0; i < FETCHES_A; i++) {
                const int e = item + i * ITEMS;
                const int row = first_row + e % (BM / 4) * 4;
                const int k = k_start + e / (BM / 4);
                fetched_a[i] = row < rows && k < channels
                    ? *(__global const float4 *)(a_source + (size_t)k * rows + row) : (float4)(0.0f);
            }
#pragma unroll
            for (int i = 0; i < FETCHES_B; i++) {
                const int e = item + i * ITEMS;
                const int column = first_column + e % (BN / 4) * 4;
                const int k = k_start + e / (BN / 4);
                fetched_b[i] = column < columns && k < channels
                    ? *(__global const float4 *)(b_source + (size_t)k * columns + column) : (float4)(0.0f);
            }
        }

        if (pending) {
            __local const float *a = tile_a + buffer * (BK * PITCH_A) + item_m * WIDTH_M;
            __local const float *b = tile_b + buffer * (BK * PITCH_B) + item_n * WIDTH_N;
#pragma unroll
            for (int k = 0; k < BK; k++) {
                float row[TM] __attribute__((aligned(16)));
                float column[TN] __attribute__((aligned(16)));
#pragma unroll
                for (int i = 0; i < TM; i += WIDTH_M)
                    *(vector_m *)(row + i) =
                        *(__local const vector_m *)(a + k * PITCH_A + (i / WIDTH_M) * SPREAD_M);
#pragma unroll
                for (int j = 0; j < TN; j += WIDTH_N)
                    *(vector_n *)(column + j) =
                        *(__local const vector_n *)(b + k * PITCH_B + (j / WIDTH_N) * SPREAD_N);
#pragma unroll
                for (int i = 0; i < TM; i++) {
#pragma unroll
                    for (int j = 0; j < TN; j++) sum[i][j] = MULTIPLY_ADD(row[i], column[j], sum[i][j]);
                }
            }
        }
        if (!fetching) break;

        buffer ^= 1;
        __local float *next_a = tile_a + buffer * (BK * PITCH_A);
        __local float *next_b = tile_b + buffer * (BK * PITCH_B);
#pragma unroll
        for (int i = 0; i < FETCHES_A; i++) {
            const int e = item + i * ITEMS;
            *(__local float4 *)(next_a + e / (BM / 4) * PITCH_A + e % (BM / 4) * 4) = fetched_a[i];
        }
#pragma unroll
        for (int i = 0; i < FETCHES_B; i++) {
            const int e = item + i * ITEMS;
            *(__local float4 *)(next_b + e / (BN / 4) * PITCH_B + e % (BN / 4) * 4) = fetched_b[i];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        pending = true;
        k_start += BK;
    }

    __global float *result = m + element * rows * columns;
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int row = first_row + (i / WIDTH_M) * SPREAD_M + item_m * WIDTH_M + i % WIDTH_M;
#pragma unroll
        for (int j = 0; j < TN; j += WIDTH_N) {
            const int column = first_column + (j / WIDTH_N) * SPREAD_N + item_n * WIDTH_N;
            // Columns are a multiple of 4, and a vector starts at a multiple of its width.
            if (row < rows && column < columns)
                *(__global vector_n *)(result + (size_t)row * columns + column) = *(vector_n *)(sum[i] + j);
        }
    }
}

// rows: of M; pitch as there. bias, residual: any buffer where the epilogue has none.
__kernel void transform_outputs(
    __global const float *restrict m, __global const float *restrict bias, __global const float *restrict residual,
    __global float *restrict y, int epilogue, int channels, int height, int width, int tile_rows, int tile_columns,
    int first_tile, int run_tiles, int rows, int pitch)
{
    const int index = (int)get_global_id(0);
    const int channel = (int)get_global_id(1);
    if (index >= run_tiles) return;
    const int tile = first_tile + index;
    const int image = tile / (tile_rows * tile_columns);
    const int place = tile - image * (tile_rows * tile_columns);
    const int first_row = place / tile_columns * 4;
    const int first_column = place % tile_columns * 4;

    const size_t stride = (size_t)rows * pitch;
    __global const float *from = m + (size_t)channel * pitch + index;
    float inner[24];
#pragma unroll
    for (int j = 0; j < 6; j++) {
        float column[6];
#pragma unroll
        for (int i = 0; i < 6; i++) column[i] = from[(6 * i + j) * stride];
        output_column(column, inner + j, 6);
    }
    const size_t corner = ((size_t)image * channels + channel) * height * width + first_row * width + first_column;
    const float start = epilogue & BIASED ? bias[channel] : 0.0f;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (first_row + i < height) {
            float values[4];
            output_column(inner + 6 * i, values, 1);
            const size_t at = corner + i * width;
            if (epilogue & WHOLE_ROWS) {
                float4 value = (float4)(values[0], values[1], values[2], values[3]) + start;
                if (epilogue & RESIDUAL) value += *(__global const float4 *)(residual + at);
                if (epilogue & RECTIFIED)
                    value = (float4)(
                        positive_part(value.x), positive_part(value.y), positive_part(value.z),
                        positive_part(value.w));
                *(__global float4 *)(y + at) = value;
            } else {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    if (first_column + j < width) {
                        float value = values[j] + start;
                        if (epilogue & RESIDUAL) value += residual[at + j];
                        if (epilogue & RECTIFIED) value = positive_part(value);
                        y[at + j] = value;
                    }
                }
            }
        }
    }
}

// w: filters of 3x3 floats tap_stride apart, that for output channel `row` and input channel `channel` of U from
// row * row_stride + channel * channel_stride on; with is_rotated turned by half a turn. rows: of U, a multiple of 4;
// those from row_count on are zero.
__kernel void transform_weights(
    __global const float *restrict w, __global float *restrict u, int row_count, int rows, int channels,
    int row_stride, int channel_stride, int tap_stride, int is_rotated)
{
    const int row = (int)get_global_id(0);
    const int channel = (int)get_global_id(1);
    if (row >= rows) return;
    const bool exists = row < row_count;
    __global const float *from = w + (size_t)(exists ? row : 0) * row_stride + (size_t)channel * channel_stride;
    float inner[18];
#pragma unroll
    for (int j = 0; j < 3; j++) {
        float column[3];
#pragma unroll
        for (int i = 0; i < 3; i++) {
            const int tap = is_rotated ? 8 - (3 * i + j) : 3 * i + j;
            column[i] = exists ? from[tap * tap_stride] : 0.0f;
        }
        weight_column(column, inner + j, 3);
    }
    const size_t stride = (size_t)channels * rows;
    __global float *to = u + (size_t)channel * rows + row;
#pragma unroll
    for (int i = 0; i < 6; i++) {
        float values[6];
        weight_column(inner + 3 * i, values, 1);
#pragma unroll
        for (int j = 0; j < 6; j++) to[(6 * i + j) * stride] = values[j];
    }
}
