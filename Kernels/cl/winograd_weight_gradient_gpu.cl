// Gradient of the weights of a 3x3 convolution with stride 1: the adjoint of winograd_gpu.cl, where tiles, runs of tiles
// and V are explained. GPU class.
//
//   D[e][k][t] = (A dy A^T)[e] of the 4x4 pixels of dy of tile t, zero outside,
//   dU[e][k][c] = sum over t of D[e][k][t] * V[e][c][t] for each of 36 elements e,   dw = G^T dU G.
// In memory D is [36][K][pitch], V is [36][C][pitch] and dU is [split][36][K][C].
//
//   transform_inputs            V:  winograd_gpu.cl
//   transform_output_gradients  D:  work-item (tile of the run, output channel)
//   weight_products             dU: a group of (BM/TM)*(BN/TN) items computes a BM x BN tile of one e over a split of the
//                                   run's tiles; group ids 0 = column tile * row tiles + row tile, 1 = e, 2 = split
//   weight_gradients            dw: work-item (input channel, output channel)
//
// Order of summation: tiles in order within a split, then runs, then splits; how tiles are cut follows from the shape.
//
// Tunables of `weight_products`, chosen by the host for each kind of shape and device (default; legal values)
//   BM, BN      64, 64   tile extents (output, input channels); multiples of TM, TN
//   BK          16       tiles per step; 8, 16, 32; BM*BK/4 and BN*BK/4 multiples of the item count, which BK/4 divides
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

#define ITEMS ((BM / TM) * (BN / TN))
#define PITCH_A (BM + 4)
#define PITCH_B (BN + 4)
#define FETCHES_A (BM * BK / 4 / ITEMS)
#define FETCHES_B (BN * BK / 4 / ITEMS)
// Lanes along tiles, before channels.
#define LANES (BK / 4)

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

// A times a column: to[0], to[step], ... to[5 * step].
static inline void gradient_column(const float *y, float *to, int step) {
    const float even = y[0] + y[2], odd = y[1] + y[3];
    const float outer_even = MULTIPLY_ADD(4.0f, y[2], y[0]), outer_odd = MULTIPLY_ADD(8.0f, y[3], 2.0f * y[1]);
    to[0] = y[0];
    to[step] = even + odd;
    to[2 * step] = even - odd;
    to[3 * step] = outer_even + outer_odd;
    to[4 * step] = outer_even - outer_odd;
    to[5 * step] = y[3];
}

// G^T times a column.
static inline void weight_gradient_column(const float *u, float *to, int step) {
    const float inner_sum = (u[1] + u[2]) * (-1.0f / 6.0f), inner_difference = u[2] - u[1];
    const float outer_sum = u[3] + u[4], outer_difference = u[3] - u[4];
    to[0] = MULTIPLY_ADD(0.25f, u[0], MULTIPLY_ADD(1.0f / 24.0f, outer_sum, inner_sum));
    to[step] = MULTIPLY_ADD(1.0f / 12.0f, outer_difference, inner_difference * (1.0f / 6.0f));
    to[2 * step] = MULTIPLY_ADD(1.0f / 6.0f, outer_sum, inner_sum) + u[5];
}

// dy: [batch][channels][height][width]. run_tiles: tiles of the run that exist; the rest of the pitch becomes zero.
__kernel void transform_output_gradients(
    __global const float *restrict dy, __global float *restrict d, int channels, int height, int width,
    int tile_rows, int tile_columns, int first_tile, int run_tiles, int pitch)
{
    const int index = (int)get_global_id(0);
    const int channel = (int)get_global_id(1);
    if (index >= pitch) return;
    const int tile = first_tile + index;
    const int image = tile / (tile_rows * tile_columns);
    const int place = tile - image * (tile_rows * tile_columns);
    const int first_row = place / tile_columns * 4;
    const int first_column = place % tile_columns * 4;
    const bool exists = index < run_tiles;
    __global const float *plane = dy + ((size_t)(exists ? image : 0) * channels + channel) * height * width;

    float inner[24];
#pragma unroll
    for (int j = 0; j < 4; j++) {
        const bool column_exists = exists && first_column + j < width;
        float column[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int row = first_row + i;
            column[i] = column_exists && row < height ? plane[row * width + first_column + j] : 0.0f;
        }
        gradient_column(column, inner + j, 4);
    }
    const size_t stride = (size_t)channels * pitch;
    __global float *to = d + (size_t)channel * pitch + index;
#pragma unroll
    for (int i = 0; i < 6; i++) {
        float row[6];
        gradient_column(inner + 4 * i, row, 1);
#pragma unroll
        for (int j = 0; j < 6; j++) to[(6 * i + j) * stride] = row[j];
    }
}

// rows, columns: output and input channels. tiles: the pitch of D and V, a multiple of 4. tiles_per_split: of 32.
// is_first: dU is written, else added to.
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void weight_products(
    __global const float *restrict d, __global const float *restrict v, __global float *restrict du,
    int rows, int columns, int tiles, int tiles_per_split, int is_first)
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
    const size_t split = get_group_id(2);
    __global const float *a_source = d + element * rows * tiles;
    __global const float *b_source = v + element * columns * tiles;

    float sum[TM][TN] __attribute__((aligned(16)));
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) sum[i][j] = 0.0f;
    }

    int t_start = (int)split * tiles_per_split;
    const int t_end = min(t_start + tiles_per_split, tiles);
    int buffer = 0;
    bool pending = false;
    for (;;) {
        const bool fetching = t_start < t_end;
        float4 fetched_a[FETCHES_A];
        float4 fetched_b[FETCHES_B];
        if (fetching) {
            const int t = t_start + item % LANES * 4;
#pragma unroll
            for (int i = 0; i < FETCHES_A; i++) {
                const int row = first_row + item / LANES + i * (ITEMS / LANES);
                fetched_a[i] = row < rows && t < t_end
                    ? *(__global const float4 *)(a_source + (size_t)row * tiles + t) : (float4)(0.0f);
            }
#pragma unroll
            for (int i = 0; i < FETCHES_B; i++) {
                const int column = first_column + item / LANES + i * (ITEMS / LANES);
                fetched_b[i] = column < columns && t < t_end
                    ? *(__global const float4 *)(b_source + (size_t)column * tiles + t) : (float4)(0.0f);
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
        __local float *next_a = tile_a + buffer * (BK * PITCH_A) + item % LANES * 4 * PITCH_A + item / LANES;
        __local float *next_b = tile_b + buffer * (BK * PITCH_B) + item % LANES * 4 * PITCH_B + item / LANES;
#pragma unroll
        for (int i = 0; i < FETCHES_A; i++) {
            __local float *to = next_a + i * (ITEMS / LANES);
            to[0] = fetched_a[i].x;
            to[PITCH_A] = fetched_a[i].y;
            to[2 * PITCH_A] = fetched_a[i].z;
            to[3 * PITCH_A] = fetched_a[i].w;
        }
#pragma unroll
        for (int i = 0; i < FETCHES_B; i++) {
            __local float *to = next_b + i * (ITEMS / LANES);
            to[0] = fetched_b[i].x;
            to[PITCH_B] = fetched_b[i].y;
            to[2 * PITCH_B] = fetched_b[i].z;
            to[3 * PITCH_B] = fetched_b[i].w;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        pending = true;
        t_start += BK;
    }

    __global float *result = du + (split * 36 + element) * rows * columns;
    // Unrolled, or the accumulators would be indexed at run time and live in memory throughout.
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int row = first_row + (i / WIDTH_M) * SPREAD_M + item_m * WIDTH_M + i % WIDTH_M;
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const int column = first_column + (j / WIDTH_N) * SPREAD_N + item_n * WIDTH_N + j % WIDTH_N;
            if (row < rows && column < columns) {
                const size_t at = (size_t)row * columns + column;
                result[at] = is_first ? sum[i][j] : result[at] + sum[i][j];
            }
        }
    }
}

// dw: [output_channels][3][3][input_channels].
__kernel void weight_gradients(
    __global const float *restrict du, __global float *restrict dw, int output_channels, int input_channels,
    int split_count)
{
    const int channel = (int)get_global_id(0);
    const int row = (int)get_global_id(1);
    if (channel >= input_channels) return;
    const size_t stride = (size_t)output_channels * input_channels;
    __global const float *from = du + (size_t)row * input_channels + channel;
    float inner[18];
#pragma unroll
    for (int j = 0; j < 6; j++) {
        float column[6];
#pragma unroll
        for (int i = 0; i < 6; i++) {
            float total = 0.0f;
            for (int split = 0; split < split_count; split++) total += from[((size_t)split * 36 + 6 * i + j) * stride];
            column[i] = total;
        }
        weight_gradient_column(column, inner + j, 6);
    }
    __global float *to = dw + (size_t)row * 9 * input_channels + channel;
#pragma unroll
    for (int i = 0; i < 3; i++) {
        float values[3];
        weight_gradient_column(inner + 6 * i, values, 1);
#pragma unroll
        for (int j = 0; j < 3; j++) to[(3 * i + j) * input_channels] = values[j];
    }
}
