// Convolution and its input gradient as one implicit GEMM, GPU class. Linear layers are the 1x1 case on a 1x1 plane.
//
//   out[m, j] = sum over k of A[m, k] * B[k, j]        m: channel of `output` within its group, j: (image, pixel)
//
//   GRADIENT 0  forward          output = y,  source = x:   k = (r, s, c), A = w[g*M + m][r][s][c],
//               B = x[image][g*Cg + c][p*stride + r*dilation - padding][q*stride + s*dilation - padding], 0 outside
//   GRADIENT 1  input gradient   output = dx, source = dy:  k = (r, s, o), A = w[g*Kg + o][r][s][m],
//               B = dy[image][g*Kg + o][(h + padding - r*dilation) / stride][...], 0 where not divisible or outside.
//               Pixels are taken in strideHeight * strideWidth classes of equal (h % stride, w % stride), so that a
//               whole group skips the taps (r, s) that no pixel of its class meets.
//
// Activations are NCHW. Weights are O,R,S,I (input channel fastest): both passes then read them along contiguous
// memory. There is no im2col buffer: the tile loader computes source addresses, once for each tap, not for each
// channel.
//
// Work-items: one group of (BM/TM)*(BN/TN) computes a BM x BN tile of out; an item owns TM x TN elements in vectors of
// up to 4, spread BM/(TM/4) and BN/(TN/4) apart, which keeps local memory free of bank conflicts. Group ids: 0 = column
// tile * row tiles + row tile (row tiles of the same columns run together and share the source in cache), 1 =
// convolution group, 2 = class * splitCount + split. Tiles of A and B are double-buffered in local memory, the next one
// is fetched into registers while the present one is multiplied; one barrier per step.
//
// Order of summation: the reduction is cut in chunks of steps_per_chunk steps, terms are added in order within a chunk,
// chunks in order after that. The host makes chunks by the shape of one image and of the weight alone, of whole taps or
// of a multiple of 32 terms, so that neither the batch size nor a tile's extents change what is added to what.
//   one chunk        neither SPLIT nor FLUSH
//   FLUSH 1          a group does all chunks, one after the other, with a second set of accumulators
//   SPLIT 1          a group does one chunk and writes it to partial[chunk][output]; `convolution_finish` adds them. The
//                    same sums as with FLUSH, for outputs too small to fill the device.
//
// Tunables, chosen by the host for each kind of shape and device (default; legal values)
//   BM, BN      64, 64   tile extents; multiples of TM, TN; BN divides the group's item count
//   BK          16       reduction per step; 8, 16, 32; BM*BK and BN*BK multiples of the item count (times 4 where
//                        vectors)
//   TM, TN      4, 4     elements per item: 1, 2, 4, 8;  (BM/TM)*(BN/TN) <= 256
//                        local memory: 8 * BK * (BM + BN + 8) bytes <= 32 KiB
// Variants (default 0)
//   GRADIENT, SPLIT, FLUSH    as above
//   BIAS, RESIDUAL, RELU or ACTIVATION (prelude.cl)      of the result, in this order; with SPLIT by `convolution_finish`
//   POINTWISE   1x1, stride 1, no padding: source and output planes agree
//   LINEAR      POINTWISE on a 1x1 plane: lanes run along k, not along j
//   FLAT        k = (r, s, c) or (r, s, o) is cut in steps of BK across taps, for few channels per group (fewer than
//               16, less than 2^21 terms in all); in the gradient for stride 1 only
//   VECTOR_A    4 where the contiguous extent of A is a multiple of 4, else 1
//   VECTOR_B    4 where POINTWISE, not LINEAR, and the plane is a multiple of 4 pixels, else 1

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
#define FLUSH 0
#endif
#ifndef GRADIENT
#define GRADIENT 0
#endif
#ifndef SPLIT
#define SPLIT 0
#endif
#ifndef BIAS
#define BIAS 0
#endif
#ifndef RESIDUAL
#define RESIDUAL 0
#endif
#ifndef RELU
#define RELU 0
#endif
#ifndef POINTWISE
#define POINTWISE 0
#endif
#ifndef LINEAR
#define LINEAR 0
#endif
#ifndef FLAT
#define FLAT 0
#endif
#ifndef VECTOR_A
#define VECTOR_A 1
#endif
#ifndef VECTOR_B
#define VECTOR_B 1
#endif

#define ITEMS ((BM / TM) * (BN / TN))
// Rows of local memory are padded by 4 floats: transposed stores then fall on different banks, vectors stay aligned.
#define PITCH_A (BM + 4)
#define PITCH_B (BN + 4)

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

#define FETCHES_A (BM * BK / VECTOR_A / ITEMS)
#define FETCHES_B (BN * BK / VECTOR_B / ITEMS)

// fma() is a slow library call where the device has none; mad() is then the device's own choice.
#ifdef FP_FAST_FMAF
#define MULTIPLY_ADD(a, b, c) fma(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) mad(a, b, c)
#endif

// floor(a / b) for 0 <= a < 2^21, 0 < b, with inverse = 1.0f / b: the half keeps the rounded quotient off the integers.
static inline int divide_small(int a, float inverse) { return (int)(((float)a + 0.5f) * inverse); }

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void convolution(
    __global const float *restrict source, __global const float *restrict weight, __global const float *restrict bias,
    __global const float *restrict residual, __global float *restrict output,
    int batch, int source_channels, int source_height, int source_width,
    int output_channels, int output_height, int output_width,
    int reduction, int rows, int kernel_height, int kernel_width,
    int stride_height, int stride_width, int padding_height, int padding_width,
    int dilation_height, int dilation_width, int steps_per_chunk, int split_count)
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
    const int group = (int)get_group_id(1);
    const int split = (int)get_group_id(2) % split_count;
    const int class_index = (int)get_group_id(2) / split_count;

    // The grid of columns: output pixels forward, the pixels of one stride class in the gradient.
#if GRADIENT && !POINTWISE
    const int class_row = class_index / stride_width;
    const int class_column = class_index - class_row * stride_width;
    const int grid_height = (output_height - class_row + stride_height - 1) / stride_height;
    const int grid_width = (output_width - class_column + stride_width - 1) / stride_width;
#else
    const int grid_height = output_height;
    const int grid_width = output_width;
#endif
    const int grid_plane = grid_height * grid_width;
    const int columns = batch * grid_plane;

    const int source_plane = source_height * source_width;
    const int output_plane = output_height * output_width;
    const int taps = kernel_height * kernel_width;

    // What this item loads of B: one column (or 4), some rows.
#if LINEAR
    const int b_k = item % BK;
    const int b_column = item / BK;
#else
    const int b_lanes = BN / VECTOR_B;
    const int b_k = item / b_lanes;
    const int b_column = first_column + (item % b_lanes) * VECTOR_B;
    const bool b_valid = b_column < columns;
    const int b_image = b_valid ? b_column / grid_plane : 0;
    const int b_pixel = b_valid ? b_column - b_image * grid_plane : 0;
    const int b_row = b_pixel / grid_width;
#if GRADIENT || POINTWISE
    const int b_base_row = b_row;
    const int b_base_column = b_pixel - b_row * grid_width;
#else
    const int b_base_row = b_row * stride_height;
    const int b_base_column = (b_pixel - b_row * grid_width) * stride_width;
#endif
    __global const float *b_source =
        source + ((size_t)b_image * source_channels + (size_t)group * reduction) * source_plane;
#endif

    // Weights of this group's rows. Forward: A[m][k] at weight_rows + m * a_pitch + k. Gradient: at k * a_pitch + m.
#if GRADIENT
    const int a_pitch = rows * taps;
    __global const float *weight_rows = weight + (size_t)group * reduction * a_pitch;
#else
    const int a_pitch = reduction * taps;
    __global const float *weight_rows = weight + (size_t)group * rows * a_pitch;
#endif

#if FLAT
    const int extent = reduction * taps;
    const float inverse_reduction = 1.0f / (float)reduction;
    const float inverse_kernel_width = 1.0f / (float)kernel_width;
    const int total_steps = (extent + BK - 1) / BK;
#else
    const int extent = reduction;
    const int steps_per_tap = (extent + BK - 1) / BK;
    const int total_steps = steps_per_tap * taps;
#endif
#if SPLIT
    int step = split * steps_per_chunk;
    const int end_step = min(step + steps_per_chunk, total_steps);
#else
    int step = 0;
    const int end_step = total_steps;
#endif
    // A tile behind the last column of a smaller class has nothing to do, but takes no early way out.
    const int last_step = first_column < columns ? end_step : step;

#if FLAT
    int k_start = step * BK;
#else
    int tap = step / steps_per_tap;
    int k_start = (step - tap * steps_per_tap) * BK;
#endif
#if !POINTWISE && !FLAT
    int tap_row = 0, tap_column = 0, tap_pixel = 0;
    bool b_inside = false;
    bool tap_changed = true;
#endif

    float sum[TM][TN] __attribute__((aligned(16)));
#if FLUSH
    float total[TM][TN] __attribute__((aligned(16)));
    int flush_step = steps_per_chunk;
#endif
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            sum[i][j] = 0.0f;
#if FLUSH
            total[i][j] = 0.0f;
#endif
        }
    }

    int buffer = 0;
    bool pending = false;
    for (;;) {
#if !POINTWISE && !FLAT
        // A new tap: where it lies in the source, whether this item's column meets it. Uniform over the group.
        while (tap_changed && step < last_step) {
            const int r = tap / kernel_width;
            const int s = tap - r * kernel_width;
#if GRADIENT
            const int offset_row = class_row + padding_height - r * dilation_height;
            const int offset_column = class_column + padding_width - s * dilation_width;
            if (offset_row % stride_height != 0 || offset_column % stride_width != 0) {
                tap++;
                k_start = 0;
                step = tap * steps_per_tap;
                continue;
            }
            tap_row = offset_row / stride_height;
            tap_column = offset_column / stride_width;
#else
            tap_row = r * dilation_height - padding_height;
            tap_column = s * dilation_width - padding_width;
#endif
            const int source_row = b_base_row + tap_row;
            const int source_column = b_base_column + tap_column;
            b_inside = b_valid && source_row >= 0 && source_row < source_height && source_column >= 0
                && source_column < source_width;
            tap_pixel = source_row * source_width + source_column;
            tap_changed = false;
        }
#endif
        const bool fetching = step < last_step;
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
#pragma unroll
            for (int i = 0; i < FETCHES_A; i++) {
                const int e = item + i * ITEMS;
#if GRADIENT
                const int m = first_row + (e % (BM / VECTOR_A)) * VECTOR_A;
                const int k = k_start + e / (BM / VECTOR_A);
#if POINTWISE
                const int at = k * a_pitch + m;
#elif FLAT
                const int a_tap = divide_small(k, inverse_reduction);
                const int at = (k - a_tap * reduction) * a_pitch + a_tap * rows + m;
#else
                const int at = k * a_pitch + tap * rows + m;
#endif
#else
                const int m = first_row + e / (BK / VECTOR_A);
                const int k = k_start + (e % (BK / VECTOR_A)) * VECTOR_A;
#if POINTWISE || FLAT
                const int at = m * a_pitch + k;
#else
                const int at = m * a_pitch + tap * reduction + k;
#endif
#endif
                const bool valid = m < rows && k < extent;
#if VECTOR_A == 4
                fetched_a[i] = valid ? *(__global const float4 *)(weight_rows + at) : (float4)(0.0f);
#else
                fetched_a[i] = valid ? weight_rows[at] : 0.0f;
#endif
            }
#pragma unroll
            for (int i = 0; i < FETCHES_B; i++) {
#if LINEAR
                const int column = first_column + b_column + i * (ITEMS / BK);
                const int k = k_start + b_k;
                fetched_b[i] = column < columns && k < extent
                    ? source[(size_t)column * source_channels + group * reduction + k] : 0.0f;
#else
                const int k = k_start + b_k + i * (ITEMS / (BN / VECTOR_B));
#if POINTWISE && VECTOR_B == 4
                fetched_b[i] = b_valid && k < extent
                    ? *(__global const float4 *)(b_source + k * source_plane + b_pixel) : (float4)(0.0f);
#elif POINTWISE
                fetched_b[i] = b_valid && k < extent ? b_source[k * source_plane + b_pixel] : 0.0f;
#elif FLAT
                const int k_tap = divide_small(k, inverse_reduction);
                const int channel = k - k_tap * reduction;
                const int r = divide_small(k_tap, inverse_kernel_width);
                const int s = k_tap - r * kernel_width;
#if GRADIENT
                const int source_row = b_base_row + padding_height - r * dilation_height;
                const int source_column = b_base_column + padding_width - s * dilation_width;
#else
                const int source_row = b_base_row + r * dilation_height - padding_height;
                const int source_column = b_base_column + s * dilation_width - padding_width;
#endif
                const bool inside = b_valid && k < extent && source_row >= 0 && source_row < source_height
                    && source_column >= 0 && source_column < source_width;
                fetched_b[i] =
                    inside ? b_source[channel * source_plane + source_row * source_width + source_column] : 0.0f;
#else
                fetched_b[i] = b_inside && k < extent ? b_source[k * source_plane + tap_pixel] : 0.0f;
#endif
#endif
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
#if FLUSH
            // `step` is the one that comes next, taps that are passed over left out.
            if (step >= flush_step) {
                flush_step = (step / steps_per_chunk + 1) * steps_per_chunk;
#pragma unroll
                for (int i = 0; i < TM; i++) {
#pragma unroll
                    for (int j = 0; j < TN; j++) {
                        total[i][j] += sum[i][j];
                        sum[i][j] = 0.0f;
                    }
                }
            }
#endif
        }
        if (!fetching) break;

        buffer ^= 1;
        __local float *next_a = tile_a + buffer * (BK * PITCH_A);
        __local float *next_b = tile_b + buffer * (BK * PITCH_B);
#pragma unroll
        for (int i = 0; i < FETCHES_A; i++) {
            const int e = item + i * ITEMS;
#if GRADIENT
            const int m = (e % (BM / VECTOR_A)) * VECTOR_A;
            const int k = e / (BM / VECTOR_A);
#if VECTOR_A == 4
            *(__local float4 *)(next_a + k * PITCH_A + m) = fetched_a[i];
#else
            next_a[k * PITCH_A + m] = fetched_a[i];
#endif
#else
            const int m = e / (BK / VECTOR_A);
            const int k = (e % (BK / VECTOR_A)) * VECTOR_A;
#if VECTOR_A == 4
            next_a[k * PITCH_A + m] = fetched_a[i].x;
            next_a[(k + 1) * PITCH_A + m] = fetched_a[i].y;
            next_a[(k + 2) * PITCH_A + m] = fetched_a[i].z;
            next_a[(k + 3) * PITCH_A + m] = fetched_a[i].w;
#else
            next_a[k * PITCH_A + m] = fetched_a[i];
#endif
#endif
        }
#pragma unroll
        for (int i = 0; i < FETCHES_B; i++) {
#if LINEAR
            next_b[b_k * PITCH_B + b_column + i * (ITEMS / BK)] = fetched_b[i];
#else
            const int k = b_k + i * (ITEMS / (BN / VECTOR_B));
            const int column = (item % (BN / VECTOR_B)) * VECTOR_B;
#if VECTOR_B == 4
            *(__local float4 *)(next_b + k * PITCH_B + column) = fetched_b[i];
#else
            next_b[k * PITCH_B + column] = fetched_b[i];
#endif
#endif
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        pending = true;

        step++;
        k_start += BK;
#if !FLAT
        if (k_start >= extent) {
            k_start = 0;
            tap++;
#if !POINTWISE
            tap_changed = true;
#endif
        }
#endif
    }

#if SPLIT
    __global float *result = output + (size_t)split * batch * output_channels * output_plane;
#else
    __global float *result = output;
#endif
#pragma unroll
    for (int j = 0; j < TN; j += VECTOR_B) {
        const int column = first_column + (j / WIDTH_N) * SPREAD_N + item_n * WIDTH_N + j % WIDTH_N;
        const bool column_valid = column < columns;
        const int image = column / grid_plane;
        int pixel = column - image * grid_plane;
#if GRADIENT && !POINTWISE
        const int grid_row = pixel / grid_width;
        pixel = (class_row + grid_row * stride_height) * output_width + class_column
            + (pixel - grid_row * grid_width) * stride_width;
#endif
        const size_t base = ((size_t)image * output_channels + (size_t)group * rows) * output_plane + pixel;
#pragma unroll
        for (int i = 0; i < TM; i++) {
            const int m = first_row + (i / WIDTH_M) * SPREAD_M + item_m * WIDTH_M + i % WIDTH_M;
            if (column_valid && m < rows) {
                const size_t at = base + (size_t)m * output_plane;
#if VECTOR_B == 4
                float4 value = *(float4 *)(sum[i] + j);
#if FLUSH
                value += *(float4 *)(total[i] + j);
#endif
#if BIAS && !SPLIT
                value += bias[group * rows + m];
#endif
#if RESIDUAL && !SPLIT
                value += *(__global const float4 *)(residual + at);
#endif
#if RELU && !SPLIT
                value = (float4)(
                    positive_part(value.x), positive_part(value.y), positive_part(value.z), positive_part(value.w));
#elif ACTIVATION && !SPLIT
                value = activated_float4(value, ACTIVATION);
#endif
                *(__global float4 *)(result + at) = value;
#else
                float value = sum[i][j];
#if FLUSH
                value += total[i][j];
#endif
#if BIAS && !SPLIT
                value += bias[group * rows + m];
#endif
#if RESIDUAL && !SPLIT
                value += residual[at];
#endif
#if RELU && !SPLIT
                value = positive_part(value);
#elif ACTIVATION && !SPLIT
                value = activated_float(value, ACTIVATION);
#endif
                result[at] = value;
#endif
            }
        }
    }
}

// Adds the chunks of a split reduction in order, then the epilogue.
// One work-item per element of `output[batch, channels, plane]`; partial[split][element].
__kernel void convolution_finish(
    __global const float *restrict partial, __global const float *restrict bias,
    __global const float *restrict residual,
    __global float *restrict output, int element_count, int channels, int plane, int split_count)
{
    const int element = (int)get_global_id(0);
    if (element >= element_count) return;
    float value = 0.0f;
    for (int split = 0; split < split_count; split++) value += partial[(size_t)split * element_count + element];
#if BIAS
    value += bias[(element / plane) % channels];
#endif
#if RESIDUAL
    value += residual[element];
#endif
#if RELU
    value = positive_part(value);
#elif ACTIVATION
    value = activated_float(value, ACTIVATION);
#endif
    output[element] = value;
}
