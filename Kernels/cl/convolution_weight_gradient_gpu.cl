// Gradient of convolution weights as an implicit GEMM over pixels, GPU class.
//
//   dw[g*M + m][r][s][c] = sum over pixels k = (image, p, q) of dy[image][g*M + m][p][q]
//                          * x[image][g*Cg + c][p*stride + r*dilation - padding][q*stride + s*dilation - padding]
//
// Rows m are the output channels of a group, columns j = (r*S + s)*Cg + c. Activations are NCHW, dw is O,R,S,I.
//
// Work-items: one group of (BM/TM)*(BN/TN) computes a BM x BN tile of dw over a range of pixels; ids as in
// convolution_gpu.cl: 0 = column tile * row tiles + row tile, 1 = convolution group, 2 = split. Lanes load along
// pixels, which lie in a row in both operands; a table in local memory holds the place of each column's tap and
// channel.
//
// Order of summation: pixels in order within a split, in runs of FLUSH * BK pixels that are added in order; splits,
// whose length the shape decides, in order by `weight_gradient_finish`. With SPLIT 0 there is one split, written to dw.
// The host keeps FLUSH * BK and the length of a split the same for every tile.
//
// Tunables, chosen by the host for each kind of shape and device (default; legal values)
//   BM, BN    64, 64   tile extents; multiples of TM, TN
//   BK        16       pixels per step; 8, 16, 32; BM*BK and BN*BK multiples of the item count, BK divides
//                      it
//   TM, TN    4, 4     elements per item: 1, 2, 4, 8;  (BM/TM)*(BN/TN) <= 256
//                      local memory: 8 * BK * (BM + BN + 8) + 12 * BN bytes <= 32 KiB
//   FLUSH     32       steps between additions into the second set of accumulators; >= 1
// Variants (default 0)
//   SPLIT       partial sums to a workspace [split][dw]
//   POINTWISE   1x1, stride 1, no padding
//   LINEAR      POINTWISE on a 1x1 plane: lanes run along rows and columns, which lie in a row there
//   VECTOR_A    4 where the output's plane is a multiple of 4 pixels and not LINEAR, else 1 (default 1)
//   VECTOR_B    the same for x, which must be POINTWISE besides

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
#ifndef FLUSH
#define FLUSH 32
#endif
#ifndef SPLIT
#define SPLIT 0
#endif
#ifndef POINTWISE
#define POINTWISE 0
#endif
#ifndef LINEAR
#define LINEAR 0
#endif
#ifndef VECTOR_A
#define VECTOR_A 1
#endif
#ifndef VECTOR_B
#define VECTOR_B 1
#endif

#define ITEMS ((BM / TM) * (BN / TN))
#define PITCH_A (BM + 4)
#define PITCH_B (BN + 4)
#define FETCHES_A (BM * BK / VECTOR_A / ITEMS)
#define FETCHES_B (BN * BK / VECTOR_B / ITEMS)
// Lanes along pixels, before rows or columns.
#define LANES_A (BK / VECTOR_A)
#define LANES_B (BK / VECTOR_B)

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

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void weight_gradient(
    __global const float *restrict x, __global const float *restrict dy, __global float *restrict output,
    int batch, int input_channels, int input_height, int input_width,
    int output_channels, int output_height, int output_width,
    int channels, int rows, int kernel_height, int kernel_width,
    int stride_height, int stride_width, int padding_height, int padding_width,
    int dilation_height, int dilation_width, int pixels_per_split)
{
    __local float tile_a[2 * BK * PITCH_A] __attribute__((aligned(16)));
    __local float tile_b[2 * BK * PITCH_B] __attribute__((aligned(16)));
    // Of each column: the offset of its channel and tap from a pixel's place in x, and the tap's row and column.
    __local int column_offset[BN];
    __local int column_tap_row[BN];
    __local int column_tap_column[BN];

    const int item = (int)get_local_id(0);
    const int item_n = item % (BN / TN);
    const int item_m = item / (BN / TN);
    const int row_tiles = (rows + BM - 1) / BM;
    const int column_tile = (int)get_group_id(0) / row_tiles;
    const int first_row = ((int)get_group_id(0) - column_tile * row_tiles) * BM;
    const int first_column = column_tile * BN;
    const int group = (int)get_group_id(1);
    const int split = (int)get_group_id(2);

    const int input_plane = input_height * input_width;
    const int output_plane = output_height * output_width;
    const int columns = kernel_height * kernel_width * channels;
    const int pixels = batch * output_plane;

    for (int i = item; i < BN; i += ITEMS) {
        const int column = min(first_column + i, columns - 1);
        const int tap = column / channels;
        const int channel = group * channels + column - tap * channels;
        const int r = tap / kernel_width;
        const int tap_row = r * dilation_height - padding_height;
        const int tap_column = (tap - r * kernel_width) * dilation_width - padding_width;
        column_offset[i] = channel * input_plane + tap_row * input_width + tap_column;
        column_tap_row[i] = tap_row;
        column_tap_column[i] = tap_column;
    }
    barrier(CLK_LOCAL_MEM_FENCE);

    float sum[TM][TN] __attribute__((aligned(16)));
    float total[TM][TN] __attribute__((aligned(16)));
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            sum[i][j] = 0.0f;
            total[i][j] = 0.0f;
        }
    }

    // The last split may be short; an int cannot overflow, since the host keeps pixels + pixels_per_split below 2^31.
    int k_start = split * pixels_per_split;
    const int k_end = min(k_start + pixels_per_split, pixels);
    int buffer = 0;
    int since_flush = 0;
    bool pending = false;
    for (;;) {
        const bool fetching = k_start < k_end;
#if VECTOR_A == 4
        float4 fetched_a[FETCHES_A];
#else
        float fetched_a[FETCHES_A];
#endif
#if VECTOR_B == 4
        float4 fetched_b[FETCHES_B];
#else
        float fetched_b[FETCHES_B];
#endif
        if (fetching) {
#if LINEAR
#pragma unroll
            for (int i = 0; i < FETCHES_A; i++) {
                const int e = item + i * ITEMS;
                const int m = first_row + e % BM;
                const int k = k_start + e / BM;
                fetched_a[i] = m < rows && k < k_end ? dy[(size_t)k * output_channels + group * rows + m] : 0.0f;
            }
#pragma unroll
            for (int i = 0; i < FETCHES_B; i++) {
                const int e = item + i * ITEMS;
                const int column = first_column + e % BN;
                const int k = k_start + e / BN;
                fetched_b[i] =
                    column < columns && k < k_end ? x[(size_t)k * input_channels + group * channels + column] : 0.0f;
            }
#else
            const int k_a = k_start + item % LANES_A * VECTOR_A;
            const bool valid_a = k_a < k_end;
            const int image_a = valid_a ? k_a / output_plane : 0;
            __global const float *dy_pixel = dy
                + ((size_t)image_a * output_channels + (size_t)group * rows) * output_plane
                + (valid_a ? k_a - image_a * output_plane : 0);
#pragma unroll
            for (int i = 0; i < FETCHES_A; i++) {
                const int m = first_row + item / LANES_A + i * (ITEMS / LANES_A);
#if VECTOR_A == 4
                fetched_a[i] = valid_a && m < rows ? *(__global const float4 *)(dy_pixel + m * output_plane)
                                                   : (float4)(0.0f);
#else
                fetched_a[i] = valid_a && m < rows ? dy_pixel[m * output_plane] : 0.0f;
#endif
            }
            const int k_b = k_start + item % LANES_B * VECTOR_B;
            const bool valid_b = k_b < k_end;
            const int image_b = valid_b ? k_b / output_plane : 0;
            const int pixel = valid_b ? k_b - image_b * output_plane : 0;
            __global const float *x_image = x + (size_t)image_b * input_channels * input_plane;
#if POINTWISE
            const int x_pixel = pixel;
#else
            const int p = pixel / output_width;
            const int x_row = p * stride_height;
            const int x_column = (pixel - p * output_width) * stride_width;
            const int x_pixel = x_row * input_width + x_column;
#endif
#pragma unroll
            for (int i = 0; i < FETCHES_B; i++) {
                const int j = item / LANES_B + i * (ITEMS / LANES_B);
                bool inside = valid_b && first_column + j < columns;
#if !POINTWISE
                const int source_row = x_row + column_tap_row[j];
                const int source_column = x_column + column_tap_column[j];
                inside = inside && source_row >= 0 && source_row < input_height && source_column >= 0
                    && source_column < input_width;
#endif
#if VECTOR_B == 4
                fetched_b[i] = inside ? *(__global const float4 *)(x_image + x_pixel + column_offset[j])
                                      : (float4)(0.0f);
#else
                fetched_b[i] = inside ? x_image[x_pixel + column_offset[j]] : 0.0f;
#endif
            }
#endif
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
            if (++since_flush == FLUSH) {
                since_flush = 0;
#pragma unroll
                for (int i = 0; i < TM; i++) {
#pragma unroll
                    for (int j = 0; j < TN; j++) {
                        total[i][j] += sum[i][j];
                        sum[i][j] = 0.0f;
                    }
                }
            }
        }
        if (!fetching) break;

        buffer ^= 1;
        __local float *next_a = tile_a + buffer * (BK * PITCH_A);
        __local float *next_b = tile_b + buffer * (BK * PITCH_B);
#pragma unroll
        for (int i = 0; i < FETCHES_A; i++) {
#if LINEAR
            const int e = item + i * ITEMS;
            next_a[(e / BM) * PITCH_A + e % BM] = fetched_a[i];
#else
            __local float *to = next_a + item % LANES_A * VECTOR_A * PITCH_A + item / LANES_A + i * (ITEMS / LANES_A);
#if VECTOR_A == 4
            to[0] = fetched_a[i].x;
            to[PITCH_A] = fetched_a[i].y;
            to[2 * PITCH_A] = fetched_a[i].z;
            to[3 * PITCH_A] = fetched_a[i].w;
#else
            to[0] = fetched_a[i];
#endif
#endif
        }
#pragma unroll
        for (int i = 0; i < FETCHES_B; i++) {
#if LINEAR
            const int e = item + i * ITEMS;
            next_b[(e / BN) * PITCH_B + e % BN] = fetched_b[i];
#else
            __local float *to = next_b + item % LANES_B * VECTOR_B * PITCH_B + item / LANES_B + i * (ITEMS / LANES_B);
#if VECTOR_B == 4
            to[0] = fetched_b[i].x;
            to[PITCH_B] = fetched_b[i].y;
            to[2 * PITCH_B] = fetched_b[i].z;
            to[3 * PITCH_B] = fetched_b[i].w;
#else
            to[0] = fetched_b[i];
#endif
#endif
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        pending = true;
        k_start += BK;
    }

#if SPLIT
    __global float *result = output + (size_t)split * output_channels * columns;
#else
    __global float *result = output;
#endif
    // Unrolled, or the accumulators would be indexed at run time and live in memory throughout.
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int m = first_row + (i / WIDTH_M) * SPREAD_M + item_m * WIDTH_M + i % WIDTH_M;
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const int column = first_column + (j / WIDTH_N) * SPREAD_N + item_n * WIDTH_N + j % WIDTH_N;
            if (m < rows && column < columns)
                result[((size_t)group * rows + m) * columns + column] = total[i][j] + sum[i][j];
        }
    }
}

// dw[element] = sum over splits of partial[split][element], in order, in blocks of 16 splits.
__kernel void weight_gradient_finish(
    __global const float *restrict partial, __global float *restrict dw, int element_count, int split_count)
{
    const int element = (int)get_global_id(0);
    if (element >= element_count) return;
    float total = 0.0f;
    for (int first = 0; first < split_count; first += 16) {
        const int last = min(first + 16, split_count);
        float sum = 0.0f;
        for (int split = first; split < last; split++) sum += partial[(size_t)split * element_count + element];
        total += sum;
    }
    dw[element] = total;
}
