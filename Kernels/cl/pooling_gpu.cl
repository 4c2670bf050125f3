// Max, average and adaptive average pooling and their gradients, GPU class. Activations and indices are NCHW.
//
//   window of output (p, q): rows p*stride - padding + r*dilation, r in 0 ..< kernel, likewise columns;
//                             clipped to the plane
//   indices: h*W + w within the input plane
//
// Work-items: one for each element of the result, in flat order (grid rounded up); gradients are gathered, so that no
// two items write one element and the order of summation is fixed (windows by ascending row, then column). Adaptive
// pooling takes LANES items for each output: item l of them adds elements l, l + LANES, ... of the bin, then a tree.
//
// Tunables (default; legal values)
//   ITEMS     256  items per group of `adaptive_average_pooling`: a power of two, at most 256
//   LANES     1    its items per output: 1, 32, or ITEMS
// Variants (default 0)
//   INDICES   `max_pooling` also writes indices

#ifndef LANES
#define LANES 1
#endif
#ifndef INDICES
#define INDICES 0
#endif

#ifndef ITEMS
#define ITEMS 256
#endif

// Pads with -inf, first of equal values, a NaN wins; arg-max as torch.nn.MaxPool2d.
__kernel void max_pooling(
    __global const float *restrict x, __global float *restrict y, __global int *restrict indices, int count,
    int height, int width, int output_height, int output_width, int kernel_height, int kernel_width,
    int stride_height, int stride_width, int padding_height, int padding_width, int dilation)
{
    const int element = (int)get_global_id(0);
    if (element >= count) return;
    const int output_plane = output_height * output_width;
    const int plane = element / output_plane;
    const int pixel = element - plane * output_plane;
    const int p = pixel / output_width;
    const int first_row = p * stride_height - padding_height;
    const int first_column = (pixel - p * output_width) * stride_width - padding_width;
    __global const float *source = x + (size_t)plane * height * width;
    float best = -INFINITY;
    int best_index = -1;
    for (int r = 0; r < kernel_height; r++) {
        const int row = first_row + r * dilation;
        if (row < 0 || row >= height) continue;
        for (int s = 0; s < kernel_width; s++) {
            const int column = first_column + s * dilation;
            if (column < 0 || column >= width) continue;
            const float value = source[row * width + column];
            if (best_index < 0 || value > best || isnan(value)) {
                best = value;
                best_index = row * width + column;
            }
        }
    }
    y[element] = best;
#if INDICES
    indices[element] = best_index;
#endif
}

// dx of a pixel: the sum of dy over the windows whose index is this pixel.
__kernel void max_pooling_gradient(
    __global const float *restrict dy, __global const int *restrict indices, __global float *restrict dx, int count,
    int height, int width, int output_height, int output_width, int kernel_height, int kernel_width,
    int stride_height, int stride_width, int padding_height, int padding_width, int dilation)
{
    const int element = (int)get_global_id(0);
    if (element >= count) return;
    const int plane = element / (height * width);
    const int pixel = element - plane * (height * width);
    const int row = pixel / width;
    const int column = pixel - row * width;
    const size_t base = (size_t)plane * output_height * output_width;
    float sum = 0.0f;
    for (int r = kernel_height - 1; r >= 0; r--) {
        const int p_start = row + padding_height - r * dilation;
        if (p_start < 0 || p_start % stride_height != 0 || p_start / stride_height >= output_height) continue;
        for (int s = kernel_width - 1; s >= 0; s--) {
            const int q_start = column + padding_width - s * dilation;
            if (q_start < 0 || q_start % stride_width != 0 || q_start / stride_width >= output_width) continue;
            const size_t at = base + (p_start / stride_height) * output_width + q_start / stride_width;
            if (indices[at] == pixel) sum += dy[at];
        }
    }
    dx[element] = sum;
}

// Elements by which a window's sum is divided: with padding (up to the padded edge) or without.
static inline float window_divisor(
    int p, int q, int height, int width, int kernel_height, int kernel_width, int stride_height, int stride_width,
    int padding_height, int padding_width, int counts_padding)
{
    int first_row = p * stride_height - padding_height, first_column = q * stride_width - padding_width;
    int last_row = min(first_row + kernel_height, height + padding_height);
    int last_column = min(first_column + kernel_width, width + padding_width);
    if (!counts_padding) {
        first_row = max(first_row, 0);
        first_column = max(first_column, 0);
        last_row = min(last_row, height);
        last_column = min(last_column, width);
    }
    return (float)((last_row - first_row) * (last_column - first_column));
}

__kernel void average_pooling(
    __global const float *restrict x, __global float *restrict y, int count,
    int height, int width, int output_height, int output_width, int kernel_height, int kernel_width,
    int stride_height, int stride_width, int padding_height, int padding_width, int counts_padding)
{
    const int element = (int)get_global_id(0);
    if (element >= count) return;
    const int output_plane = output_height * output_width;
    const int plane = element / output_plane;
    const int pixel = element - plane * output_plane;
    const int p = pixel / output_width;
    const int q = pixel - p * output_width;
    const int first_row = max(p * stride_height - padding_height, 0);
    const int last_row = min(p * stride_height - padding_height + kernel_height, height);
    const int first_column = max(q * stride_width - padding_width, 0);
    const int last_column = min(q * stride_width - padding_width + kernel_width, width);
    __global const float *source = x + (size_t)plane * height * width;
    float sum = 0.0f;
    for (int row = first_row; row < last_row; row++) {
        float row_sum = 0.0f;
        for (int column = first_column; column < last_column; column++) row_sum += source[row * width + column];
        sum += row_sum;
    }
    y[element] = sum / window_divisor(
        p, q, height, width, kernel_height, kernel_width, stride_height, stride_width, padding_height, padding_width,
        counts_padding);
}

__kernel void average_pooling_gradient(
    __global const float *restrict dy, __global float *restrict dx, int count,
    int height, int width, int output_height, int output_width, int kernel_height, int kernel_width,
    int stride_height, int stride_width, int padding_height, int padding_width, int counts_padding)
{
    const int element = (int)get_global_id(0);
    if (element >= count) return;
    const int plane = element / (height * width);
    const int pixel = element - plane * (height * width);
    const int row = pixel / width;
    const int column = pixel - row * width;
    // Windows p with p*stride - padding <= row < p*stride - padding + kernel.
    const int reach_row = row + padding_height - kernel_height;
    const int reach_column = column + padding_width - kernel_width;
    const int first_p = reach_row < 0 ? 0 : reach_row / stride_height + 1;
    const int last_p = min((row + padding_height) / stride_height, output_height - 1);
    const int first_q = reach_column < 0 ? 0 : reach_column / stride_width + 1;
    const int last_q = min((column + padding_width) / stride_width, output_width - 1);
    const size_t base = (size_t)plane * output_height * output_width;
    float sum = 0.0f;
    for (int p = first_p; p <= last_p; p++) {
        for (int q = first_q; q <= last_q; q++) {
            sum += dy[base + p * output_width + q] / window_divisor(
                p, q, height, width, kernel_height, kernel_width, stride_height, stride_width, padding_height,
                padding_width, counts_padding);
        }
    }
    dx[element] = sum;
}

// Bin i covers floor(i*extent/bins) ..< ceil((i+1)*extent/bins). 64-bit: a product of extents may pass 2^31.
static inline int bin_start(int i, int extent, int bins) { return (int)((long)i * extent / bins); }
static inline int bin_end(int i, int extent, int bins) { return (int)(((long)(i + 1) * extent + bins - 1) / bins); }

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void adaptive_average_pooling(
    __global const float *restrict x, __global float *restrict y, int count,
    int height, int width, int output_height, int output_width)
{
    __local float scratch[ITEMS];
    const int lane = (int)get_local_id(0) % LANES;
    const int element = (int)get_group_id(0) * (ITEMS / LANES) + (int)get_local_id(0) / LANES;
    float sum = 0.0f;
    float bin_count = 1.0f;
    if (element < count) {
        const int output_plane = output_height * output_width;
        const int plane = element / output_plane;
        const int pixel = element - plane * output_plane;
        const int p = pixel / output_width;
        const int q = pixel - p * output_width;
        const int first_row = bin_start(p, height, output_height);
        const int first_column = bin_start(q, width, output_width);
        const int bin_width = bin_end(q, width, output_width) - first_column;
        const int elements = (bin_end(p, height, output_height) - first_row) * bin_width;
        __global const float *source = x + (size_t)plane * height * width + first_row * width + first_column;
        for (int i = lane; i < elements; i += LANES) sum += source[(i / bin_width) * width + i % bin_width];
        bin_count = (float)elements;
    }
#if LANES > 1
    scratch[get_local_id(0)] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int reach = LANES / 2; reach > 0; reach >>= 1) {
        if (lane < reach) scratch[get_local_id(0)] += scratch[get_local_id(0) + reach];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    sum = scratch[get_local_id(0)];
#endif
    if (element < count && lane == 0) y[element] = sum / bin_count;
}

__kernel void adaptive_average_pooling_gradient(
    __global const float *restrict dy, __global float *restrict dx, int count,
    int height, int width, int output_height, int output_width)
{
    const int element = (int)get_global_id(0);
    if (element >= count) return;
    const int plane = element / (height * width);
    const int pixel = element - plane * (height * width);
    const int row = pixel / width;
    const int column = pixel - row * width;
    // The bins that hold a row: floor(row*bins/extent) ... ceil((row+1)*bins/extent) - 1.
    const int first_p = bin_start(row, output_height, height), last_p = bin_end(row, output_height, height) - 1;
    const int first_q = bin_start(column, output_width, width), last_q = bin_end(column, output_width, width) - 1;
    const size_t base = (size_t)plane * output_height * output_width;
    float sum = 0.0f;
    for (int p = first_p; p <= last_p; p++) {
        const int bin_height = bin_end(p, height, output_height) - bin_start(p, height, output_height);
        for (int q = first_q; q <= last_q; q++) {
            const int bin_width = bin_end(q, width, output_width) - bin_start(q, width, output_width);
            sum += dy[base + p * output_width + q] / (float)(bin_height * bin_width);
        }
    }
    dx[element] = sum;
}
