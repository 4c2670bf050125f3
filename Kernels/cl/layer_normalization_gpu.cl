// Layer norm over the channels of each pixel, its gradient, and factors per channel, GPU class. Activations NCHW: one
// item per pixel walks through the channels, neighbours read neighbours.
//
//   layer_normalization             y.
//   layer_normalization_gradient    dx, and each pixel's mean and 1/deviation for
//   layer_normalization_sums        group per channel: dgamma, dbeta.
//   layer_scale                     item per element: y = x * v.
//   layer_scale_gradient            group per channel.
//
// Tunables: ITEMS 256 items per group, a power of two.

#ifndef ITEMS
#define ITEMS 256
#endif
// Channels are summed in pieces, which keeps many of them exact.
#define PIECE 32

static inline void statistics(__global const float *x, int channels, int plane, float epsilon, float *mean, float *inverse)
{
    float total = 0.0f;
    for (int first = 0; first < channels; first += PIECE) {
        float sum = 0.0f;
        for (int c = first; c < min(first + PIECE, channels); c++) sum += x[(size_t)c * plane];
        total += sum;
    }
    *mean = total / (float)channels;
    float squares = 0.0f;
    for (int first = 0; first < channels; first += PIECE) {
        float sum = 0.0f;
        for (int c = first; c < min(first + PIECE, channels); c++) {
            const float deviation = x[(size_t)c * plane] - *mean;
            sum = mad(deviation, deviation, sum);
        }
        squares += sum;
    }
    *inverse = 1.0f / sqrt(squares / (float)channels + epsilon);
}

__kernel void layer_normalization(
    __global const float *restrict x, __global const float *restrict gamma, __global const float *restrict beta,
    __global float *restrict y, int count, int channels, int plane, float epsilon)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const size_t start = (size_t)(i / plane) * channels * plane + i % plane;
    float mean, inverse;
    statistics(x + start, channels, plane, epsilon, &mean, &inverse);
    for (int c = 0; c < channels; c++) {
        const size_t at = start + (size_t)c * plane;
        y[at] = (x[at] - mean) * inverse * gamma[c] + beta[c];
    }
}

// pixels[2][count]: mean, 1/deviation.
__kernel void layer_normalization_gradient(
    __global const float *restrict x, __global const float *restrict dy, __global const float *restrict gamma,
    __global float *restrict dx, __global float *restrict pixels, int count, int channels, int plane, float epsilon)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const size_t start = (size_t)(i / plane) * channels * plane + i % plane;
    float mean, inverse;
    statistics(x + start, channels, plane, epsilon, &mean, &inverse);
    pixels[i] = mean;
    pixels[count + i] = inverse;
    float level = 0.0f, slope = 0.0f;
    for (int first = 0; first < channels; first += PIECE) {
        float sum = 0.0f, product = 0.0f;
        for (int c = first; c < min(first + PIECE, channels); c++) {
            const size_t at = start + (size_t)c * plane;
            const float scaled = dy[at] * gamma[c];
            sum += scaled;
            product = mad(scaled, (x[at] - mean) * inverse, product);
        }
        level += sum;
        slope += product;
    }
    level /= (float)channels;
    slope /= (float)channels;
    for (int c = 0; c < channels; c++) {
        const size_t at = start + (size_t)c * plane;
        dx[at] = (dy[at] * gamma[c] - level - (x[at] - mean) * inverse * slope) * inverse;
    }
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void layer_normalization_sums(
    __global const float *restrict x, __global const float *restrict dy, __global const float *restrict pixels,
    __global float *restrict dgamma, __global float *restrict dbeta, int count, int channels, int plane)
{
    __local float scratch[ITEMS];
    const int channel = (int)get_group_id(0);
    float scale = 0.0f, shift = 0.0f;
    for (int i = (int)get_local_id(0); i < count; i += ITEMS) {
        const size_t at = ((size_t)(i / plane) * channels + channel) * plane + i % plane;
        scale = mad(dy[at], (x[at] - pixels[i]) * pixels[count + i], scale);
        shift += dy[at];
    }
    scale = group_sum(scale, scratch, ITEMS);
    shift = group_sum(shift, scratch, ITEMS);
    if (get_local_id(0) == 0) {
        dgamma[channel] = scale;
        dbeta[channel] = shift;
    }
}

__kernel void layer_scale(
    __global const float *x, __global const float *restrict scales, __global float *y, int count, int channels,
    int plane)
{
    const int i = (int)get_global_id(0);
    if (i < count) y[i] = x[i] * scales[i / plane % channels];
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void layer_scale_gradient(
    __global const float *restrict x, __global const float *restrict dy, __global float *restrict dscales, int count,
    int channels, int plane)
{
    __local float scratch[ITEMS];
    const int channel = (int)get_group_id(0);
    float sum = 0.0f;
    for (int i = (int)get_local_id(0); i < count; i += ITEMS) {
        const size_t at = ((size_t)(i / plane) * channels + channel) * plane + i % plane;
        sum = mad(x[at], dy[at], sum);
    }
    sum = group_sum(sum, scratch, ITEMS);
    if (get_local_id(0) == 0) dscales[channel] = sum;
}
