// Operations on single elements and copies of channels, GPU class. Activations are NCHW.
//
// Work-items: one for each VECTOR consecutive elements of the result, in flat order; the grid is rounded up and `count`
// says how many there are. Where in-place use is allowed (add, relu, activate, their gradients, channel_scale, dropout)
// an item reads only the elements that it writes, and pointers are not `restrict`.
//
//   copy_channels       destination[image * destination_stride + destination_offset + j] =
//                       source[image * source_stride + source_offset + j], j in 0 ..< run: concatenation, slice,
//                       flatten
//   subsample_and_pad   y[n][k][p][q] = x[n][k - before][p*stride][q*stride], 0 where k - before is no channel of x
//
// Tunables (default; legal values)
//   VECTOR    1    elements per item of add, relu, activate, their gradients, channel_scale, copy_channels: 1, or 4
//                  where counts, planes, strides and offsets are multiples of 4
//   ITEMS     256  items per group of channel_scale_gradient: a power of two
// Variants (default 0)
//   RELU      `add` ends in max(0, .)
//   ACTIVATION     prelude.cl

#ifndef VECTOR
#define VECTOR 1
#endif
#ifndef RELU
#define RELU 0
#endif
#ifndef ITEMS
#define ITEMS 256
#endif

#if VECTOR == 4
typedef float4 lanes;
#define activated_lanes activated_float4
#define activation_gradient_lanes activation_gradient_float4
static inline lanes positive_lanes(lanes value) {
    return (float4)(positive_part(value.x), positive_part(value.y), positive_part(value.z), positive_part(value.w));
}
#else
typedef float lanes;
#define activated_lanes activated_float
#define activation_gradient_lanes activation_gradient_float
static inline lanes positive_lanes(lanes value) { return positive_part(value); }
#endif

__kernel void add(__global const lanes *a, __global const lanes *b, __global lanes *y, int count)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
#if RELU
    y[i] = positive_lanes(a[i] + b[i]);
#else
    y[i] = a[i] + b[i];
#endif
}

__kernel void relu(__global const lanes *x, __global lanes *y, int count)
{
    const int i = (int)get_global_id(0);
    if (i < count) y[i] = positive_lanes(x[i]);
}

__kernel void relu_gradient(__global const lanes *dy, __global const lanes *y, __global lanes *dx, int count)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
#if VECTOR == 4
    dx[i] = select((float4)(0.0f), dy[i], y[i] > (float4)(0.0f));
#else
    dx[i] = y[i] > 0.0f ? dy[i] : 0.0f;
#endif
}

__kernel void activate(__global const lanes *x, __global lanes *y, int count)
{
    const int i = (int)get_global_id(0);
    if (i < count) y[i] = activated_lanes(x[i], ACTIVATION);
}

__kernel void activation_gradient(__global const lanes *dy, __global const lanes *v, __global lanes *dx, int count)
{
    const int i = (int)get_global_id(0);
    if (i < count) dx[i] = activation_gradient_lanes(dy[i], v[i], ACTIVATION);
}

// scales[n][c]; plane in units of VECTOR elements.
__kernel void channel_scale(
    __global const lanes *x, __global const float *restrict scales, __global lanes *y, int count, int plane)
{
    const int i = (int)get_global_id(0);
    if (i < count) y[i] = x[i] * scales[i / plane];
}

// One group per plane: its items' sums, then a tree.
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void channel_scale_gradient(
    __global const float *restrict x, __global const float *restrict dy, __global float *restrict dscales, int plane)
{
    __local float scratch[ITEMS];
    const int item = (int)get_local_id(0);
    const size_t start = (size_t)get_group_id(0) * plane;
    float sum = 0.0f;
    for (int p = item; p < plane; p += ITEMS) sum += x[start + p] * dy[start + p];
    scratch[item] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = ITEMS / 2; width > 0; width >>= 1) {
        if (item < width) scratch[item] += scratch[item + width];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (item == 0) dscales[get_group_id(0)] = scratch[0];
}

// Whole images, by the mask of the host's DropoutMask; imageCount: elements of one.
__kernel void stochastic_depth(
    __global const float *x, __global float *y, int count, int imageCount, uint key, uint threshold, float divisor)
{
    const int i = (int)get_global_id(0);
    if (i < count) y[i] = dropout_keeps(key, (uint)(i / imageCount), threshold) ? x[i] / divisor : 0.0f;
}

// x / divisor where the mask of the host's DropoutMask keeps the element, else 0; divisor = 1 - rate.
__kernel void dropout(__global const float *x, __global float *y, int count, uint key, uint threshold, float divisor)
{
    const int i = (int)get_global_id(0);
    if (i < count) y[i] = dropout_keeps(key, (uint)i, threshold) ? x[i] / divisor : 0.0f;
}

// Strides, offsets and run in units of VECTOR elements; count = images * run.
__kernel void copy_channels(
    __global const lanes *restrict source, __global lanes *restrict destination, int count, int run,
    int source_stride, int source_offset, int destination_stride, int destination_offset)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const int image = i / run;
    const int at = i - image * run;
    destination[(size_t)image * destination_stride + destination_offset + at] =
        source[(size_t)image * source_stride + source_offset + at];
}

// One item per element of y[n][output_channels][output_height][output_width].
__kernel void subsample_and_pad(
    __global const float *restrict x, __global float *restrict y, int count, int channels, int height, int width,
    int output_channels, int output_height, int output_width, int stride, int before)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const int q = i % output_width;
    const int p = i / output_width % output_height;
    const int plane = i / output_width / output_height;
    const int image = plane / output_channels;
    const int channel = plane - image * output_channels - before;
    y[i] = channel < 0 || channel >= channels
        ? 0.0f : x[(((size_t)image * channels + channel) * height + p * stride) * width + q * stride];
}

// One item per element of dx[n][channels][height][width].
__kernel void subsample_and_pad_gradient(
    __global const float *restrict dy, __global float *restrict dx, int count, int channels, int height, int width,
    int output_channels, int output_height, int output_width, int stride, int before)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const int column = i % width;
    const int row = i / width % height;
    const int plane = i / width / height;
    const int image = plane / channels;
    const int channel = plane - image * channels + before;
    const bool taken = row % stride == 0 && column % stride == 0;
    dx[i] = taken
        ? dy[(((size_t)image * output_channels + channel) * output_height + row / stride) * output_width
            + column / stride]
        : 0.0f;
}

// pixels[n][h][w][3] to y[n][3][h][w] = (u / 255 - mean[c]) / deviation[c]; one item per pixel.
__kernel void normalize_image(
    __global const uchar *restrict pixels, __global float *restrict y, int count, int plane,
    float mean0, float mean1, float mean2, float deviation0, float deviation1, float deviation2)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const int image = i / plane;
    const int pixel = i - image * plane;
    __global const uchar *u = pixels + (size_t)i * 3;
    __global float *target = y + (size_t)image * 3 * plane + pixel;
    target[0] = ((float)u[0] / 255.0f - mean0) / deviation0;
    target[plane] = ((float)u[1] / 255.0f - mean1) / deviation1;
    target[2 * (size_t)plane] = ((float)u[2] / 255.0f - mean2) / deviation2;
}
