// Depthwise convolution (one filter per channel) and its gradients, GPU class. Memory-bound: one item per result, neighbours
// in a row read neighbours. Activations NCHW, weights [C][R*S].
//
//   depthwise                   y, then bias, residual, activation.
//   depthwise_input_gradient    dx, then addend.
//   depthwise_weight_gradient   group (channel * taps + tap, split): its items take pixels of dy (all images) in turn,
//                               then a tree; partial[split][weight].
//   depthwise_finish            the splits in order.
//
// Tunables: ITEMS 256 items per group of the weight gradient, a power of two.
// Variants (default 0): BIAS, RESIDUAL (the addend of the gradient), ACTIVATION (prelude.cl; 1 is ReLU).

#ifndef BIAS
#define BIAS 0
#endif
#ifndef RESIDUAL
#define RESIDUAL 0
#endif
#ifndef ITEMS
#define ITEMS 256
#endif

// Extents of x, of y, of the window.
#define WINDOW                                                                                                  \
    int channels, int height, int width, int output_height, int output_width, int kernel_height, int kernel_width, \
        int stride_height, int stride_width, int padding_height, int padding_width, int dilation_height,        \
        int dilation_width

__kernel void depthwise(
    __global const float *restrict x, __global const float *restrict w, __global const float *restrict bias,
    __global const float *restrict residual, __global float *restrict y, int count, WINDOW)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const int q = i % output_width;
    const int p = i / output_width % output_height;
    const int plane = i / output_width / output_height;
    const int channel = plane % channels;
    __global const float *source = x + (size_t)plane * height * width;
    __global const float *filter = w + (size_t)channel * kernel_height * kernel_width;
    float value = 0.0f;
    for (int r = 0; r < kernel_height; r++) {
        const int row = p * stride_height + r * dilation_height - padding_height;
        if (row < 0 || row >= height) continue;
        for (int s = 0; s < kernel_width; s++) {
            const int column = q * stride_width + s * dilation_width - padding_width;
            if (column < 0 || column >= width) continue;
            value = mad(source[row * width + column], filter[r * kernel_width + s], value);
        }
    }
#if BIAS
    value += bias[channel];
#endif
#if RESIDUAL
    value += residual[i];
#endif
    y[i] = activated_float(value, ACTIVATION);
}

__kernel void depthwise_input_gradient(
    __global const float *restrict dy, __global const float *restrict w, __global const float *restrict addend,
    __global float *restrict dx, int count, WINDOW)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const int column = i % width;
    const int row = i / width % height;
    const int plane = i / width / height;
    __global const float *source = dy + (size_t)plane * output_height * output_width;
    __global const float *filter = w + (size_t)(plane % channels) * kernel_height * kernel_width;
    float value = 0.0f;
    for (int r = 0; r < kernel_height; r++) {
        const int p = row + padding_height - r * dilation_height;
        if (p < 0 || p % stride_height != 0 || p / stride_height >= output_height) continue;
        for (int s = 0; s < kernel_width; s++) {
            const int q = column + padding_width - s * dilation_width;
            if (q < 0 || q % stride_width != 0 || q / stride_width >= output_width) continue;
            value = mad(
                source[p / stride_height * output_width + q / stride_width], filter[r * kernel_width + s], value);
        }
    }
#if RESIDUAL
    value += addend[i];
#endif
    dx[i] = value;
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void depthwise_weight_gradient(
    __global const float *restrict x, __global const float *restrict dy, __global float *restrict partial, int pixels,
    WINDOW, int pixels_per_split)
{
    __local float scratch[ITEMS];
    const int item = (int)get_local_id(0);
    const int place = (int)get_group_id(0);
    const int split = (int)get_group_id(1);
    const int taps = kernel_height * kernel_width;
    const int channel = place / taps;
    const int row_shift = place % taps / kernel_width * dilation_height - padding_height;
    const int column_shift = place % kernel_width * dilation_width - padding_width;
    const int end = min((split + 1) * pixels_per_split, pixels);
    float sum = 0.0f;
    for (int pixel = split * pixels_per_split + item; pixel < end; pixel += ITEMS) {
        const int q = pixel % output_width;
        const int p = pixel / output_width % output_height;
        const int plane = pixel / output_width / output_height * channels + channel;
        const int row = p * stride_height + row_shift;
        const int column = q * stride_width + column_shift;
        if (row >= 0 && row < height && column >= 0 && column < width)
            sum = mad(
                x[((size_t)plane * height + row) * width + column],
                dy[((size_t)plane * output_height + p) * output_width + q], sum);
    }
    scratch[item] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = ITEMS / 2; step > 0; step >>= 1) {
        if (item < step) scratch[item] += scratch[item + step];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (item == 0) partial[(size_t)split * get_num_groups(0) + place] = scratch[0];
}

__kernel void depthwise_finish(
    __global const float *restrict partial, __global float *restrict dw, int count, int splits)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    float sum = 0.0f;
    for (int split = 0; split < splits; split++) sum += partial[(size_t)split * count + i];
    dw[i] = sum;
}
