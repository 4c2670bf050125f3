// Batch normalization and sums over channels, GPU class. Activations are NCHW, vectors have one element per channel.
//
// Statistics are made in two levels with fixed trees, so that large planes fill the device and long sums stay exact:
//   1. `channel_moments`, `channel_gradient_sums`, `channel_sums`: one group for each (chunk, channel). A chunk is
//      CHUNK = ITEMS * VALUES consecutive elements of the channel's batch * plane; element e lies at image e / plane,
//      pixel e % plane. An item holds VALUES of them (e = item + ITEMS * i) in registers: the mean is summed first,
//      then the squared deviations from it (two passes over registers, one over memory).
//   2. `finish_*`: one group for each channel combines its chunks: item i takes chunks i, i + ITEMS, ... in order, then
//      a tree. Moments are combined by Chan, Golub and LeVeque's formula (1979), sums are added.
// Partial results lie in the workspace as [channel][chunk], moments as pairs (mean, sum of squared deviations).
//
// The element-wise kernels take one item for each VECTOR consecutive elements of the flat tensor (grid rounded up).
//
//   forward    y = (x - mean) * inverseDeviation * gamma + beta [+ residual] [max(0, .)]
//   gradient   dx = gamma * inverseDeviation * (dy - (dbeta + xhat * dgamma) / (batch * plane)),
//              dbeta = sum dy, dgamma = sum dy * xhat, xhat = (x - mean) * inverseDeviation
//
// Tunables (default; legal values)
//   ITEMS      256  items per group: a power of two, at most 256
//   VALUES     16   elements per item of a chunk: 1 to 32
//   VECTOR     1    elements per item of the element-wise kernels: 1, or 4 where the plane is a multiple of 4
// Variants (default 0): RESIDUAL, RELU as named, ACTIVATION of prelude.cl

#ifndef VALUES
#define VALUES 16
#endif
#ifndef VECTOR
#define VECTOR 1
#endif
#ifndef RESIDUAL
#define RESIDUAL 0
#endif
#ifndef RELU
#define RELU 0
#endif

#ifndef ITEMS
#define ITEMS 256
#endif
#define CHUNK (ITEMS * VALUES)

#if VECTOR == 4
typedef float4 lanes;
#else
typedef float lanes;
#endif

static inline lanes epilogue(lanes value) {
#if RELU && VECTOR == 4
    return (float4)(positive_part(value.x), positive_part(value.y), positive_part(value.z), positive_part(value.w));
#elif RELU
    return positive_part(value);
#elif ACTIVATION && VECTOR == 4
    return activated_float4(value, ACTIVATION);
#elif ACTIVATION
    return activated_float(value, ACTIVATION);
#else
    return value;
#endif
}

// Pairwise sum of registers.
static inline float pairwise_sum(float *values) {
#pragma unroll
    for (int width = 1; width < VALUES; width <<= 1) {
#pragma unroll
        for (int i = 0; i + width < VALUES; i += 2 * width) values[i] += values[i + width];
    }
    return values[0];
}

// Offset of element e of a channel.
static inline size_t element_offset(int e, int channel, int channels, int plane) {
    const int image = e / plane;
    return ((size_t)image * channels + channel) * plane + (e - image * plane);
}

// Group id = channel * chunks + chunk.
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void channel_moments(
    __global const float *restrict x, __global float *restrict partial, int channels, int plane, int count, int chunks)
{
    __local float scratch[ITEMS];
    const int channel = (int)get_group_id(0) / chunks;
    const int first = ((int)get_group_id(0) - channel * chunks) * CHUNK;
    const int extent = min(CHUNK, count - first);
    const int item = (int)get_local_id(0);
    float values[VALUES];
    float sums[VALUES];
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
        const int e = item + i * ITEMS;
        values[i] = e < extent ? x[element_offset(first + e, channel, channels, plane)] : 0.0f;
        sums[i] = values[i];
    }
    const float mean = group_sum(pairwise_sum(sums), scratch, ITEMS) / (float)extent;
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
        const float deviation = values[i] - mean;
        sums[i] = item + i * ITEMS < extent ? deviation * deviation : 0.0f;
    }
    const float squares = group_sum(pairwise_sum(sums), scratch, ITEMS);
    if (item == 0) {
        partial[(size_t)get_group_id(0) * 2] = mean;
        partial[(size_t)get_group_id(0) * 2 + 1] = squares;
    }
}

// One group per channel. Also moves the running statistics: new = (1 - momentum) * old + momentum * batch, the unbiased
// variance in the second; a batch of one element has no unbiased variance, its biased one (zero) is taken.
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void finish_moments(
    __global const float *restrict partial, __global float *restrict mean_out,
    __global float *restrict inverse_deviation_out,
    __global float *restrict running_mean, __global float *restrict running_variance, int count, int chunks,
    float epsilon, float momentum)
{
    __local float counts[ITEMS], means[ITEMS], squares[ITEMS];
    const int channel = (int)get_group_id(0);
    const int item = (int)get_local_id(0);
    float item_count = 0.0f, item_mean = 0.0f, item_squares = 0.0f;
    for (int chunk = item; chunk < chunks; chunk += ITEMS) {
        const float n = (float)min(CHUNK, count - chunk * CHUNK);
        const float mean = partial[((size_t)channel * chunks + chunk) * 2];
        const float deviation = mean - item_mean;
        const float all = item_count + n;
        item_squares += partial[((size_t)channel * chunks + chunk) * 2 + 1]
            + deviation * deviation * (item_count * (n / all));
        item_mean += deviation * (n / all);
        item_count = all;
    }
    counts[item] = item_count;
    means[item] = item_mean;
    squares[item] = item_squares;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = ITEMS / 2; width > 0; width >>= 1) {
        if (item < width && counts[item + width] > 0.0f) {
            const float n = counts[item + width];
            const float deviation = means[item + width] - means[item];
            const float all = counts[item] + n;
            squares[item] += squares[item + width] + deviation * deviation * (counts[item] * (n / all));
            means[item] += deviation * (n / all);
            counts[item] = all;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    if (item == 0) {
        const float mean = means[0];
        const float variance = squares[0] / (float)count;
        mean_out[channel] = mean;
        inverse_deviation_out[channel] = 1.0f / sqrt(variance + epsilon);
        running_mean[channel] = (1.0f - momentum) * running_mean[channel] + momentum * mean;
        running_variance[channel] =
            (1.0f - momentum) * running_variance[channel] + momentum * (squares[0] / (float)max(count - 1, 1));
    }
}

// y from mean and inverse deviation.
__kernel void normalize_by_batch(
    __global const float *restrict x, __global const float *restrict gamma, __global const float *restrict beta,
    __global const float *restrict mean, __global const float *restrict inverse_deviation,
    __global const float *restrict residual, __global float *restrict y, int vectors, int channels, int plane)
{
    const int i = (int)get_global_id(0);
    if (i >= vectors) return;
    const int channel = (int)(((uint)i * VECTOR / (uint)plane) % (uint)channels);
    const float scale = inverse_deviation[channel] * gamma[channel];
    lanes value = (((__global const lanes *)x)[i] - mean[channel]) * scale + beta[channel];
#if RESIDUAL
    value += ((__global const lanes *)residual)[i];
#endif
    ((__global lanes *)y)[i] = epilogue(value);
}

// y from running statistics: inverse deviation = 1 / sqrt(variance + epsilon).
__kernel void normalize_by_running(
    __global const float *restrict x, __global const float *restrict gamma, __global const float *restrict beta,
    __global const float *restrict mean, __global const float *restrict variance,
    __global const float *restrict residual, __global float *restrict y, int vectors, int channels, int plane,
    float epsilon)
{
    const int i = (int)get_global_id(0);
    if (i >= vectors) return;
    const int channel = (int)(((uint)i * VECTOR / (uint)plane) % (uint)channels);
    const float scale = gamma[channel] / sqrt(variance[channel] + epsilon);
    lanes value = (((__global const lanes *)x)[i] - mean[channel]) * scale + beta[channel];
#if RESIDUAL
    value += ((__global const lanes *)residual)[i];
#endif
    ((__global lanes *)y)[i] = epilogue(value);
}

// Group id = channel * chunks + chunk; partial pairs (sum dy, sum dy * xhat).
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void channel_gradient_sums(
    __global const float *restrict x, __global const float *restrict dy, __global const float *restrict mean,
    __global const float *restrict inverse_deviation, __global float *restrict partial, int channels, int plane,
    int count, int chunks)
{
    __local float scratch[ITEMS];
    const int channel = (int)get_group_id(0) / chunks;
    const int first = ((int)get_group_id(0) - channel * chunks) * CHUNK;
    const int extent = min(CHUNK, count - first);
    const int item = (int)get_local_id(0);
    const float center = mean[channel];
    const float scale = inverse_deviation[channel];
    float sums[VALUES];
    float products[VALUES];
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
        const int e = item + i * ITEMS;
        sums[i] = 0.0f;
        products[i] = 0.0f;
        if (e < extent) {
            const size_t at = element_offset(first + e, channel, channels, plane);
            sums[i] = dy[at];
            products[i] = sums[i] * ((x[at] - center) * scale);
        }
    }
    const float sum = group_sum(pairwise_sum(sums), scratch, ITEMS);
    const float product = group_sum(pairwise_sum(products), scratch, ITEMS);
    if (item == 0) {
        partial[(size_t)get_group_id(0) * 2] = sum;
        partial[(size_t)get_group_id(0) * 2 + 1] = product;
    }
}

// One group per channel.
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void finish_gradient_sums(
    __global const float *restrict partial, __global float *restrict dgamma, __global float *restrict dbeta, int chunks)
{
    __local float scratch[ITEMS];
    const int channel = (int)get_group_id(0);
    float sum = 0.0f, product = 0.0f;
    for (int chunk = (int)get_local_id(0); chunk < chunks; chunk += ITEMS) {
        sum += partial[((size_t)channel * chunks + chunk) * 2];
        product += partial[((size_t)channel * chunks + chunk) * 2 + 1];
    }
    sum = group_sum(sum, scratch, ITEMS);
    product = group_sum(product, scratch, ITEMS);
    if (get_local_id(0) == 0) {
        dbeta[channel] = sum;
        dgamma[channel] = product;
    }
}

// dx of training batch norm.
__kernel void normalize_gradient(
    __global const float *restrict x, __global const float *restrict dy, __global const float *restrict gamma,
    __global const float *restrict mean, __global const float *restrict inverse_deviation,
    __global const float *restrict dgamma, __global const float *restrict dbeta, __global float *restrict dx,
    int vectors, int channels, int plane, int count)
{
    const int i = (int)get_global_id(0);
    if (i >= vectors) return;
    const int channel = (int)(((uint)i * VECTOR / (uint)plane) % (uint)channels);
    const float deviation = inverse_deviation[channel];
    const lanes normalized = (((__global const lanes *)x)[i] - mean[channel]) * deviation;
    const lanes mean_part = (dbeta[channel] + normalized * dgamma[channel]) / (float)count;
    ((__global lanes *)dx)[i] = (((__global const lanes *)dy)[i] - mean_part) * (gamma[channel] * deviation);
}

// dx where the running statistics were used.
__kernel void normalize_by_running_gradient(
    __global const float *restrict dy, __global const float *restrict gamma, __global const float *restrict variance,
    __global float *restrict dx, int vectors, int channels, int plane, float epsilon)
{
    const int i = (int)get_global_id(0);
    if (i >= vectors) return;
    const int channel = (int)(((uint)i * VECTOR / (uint)plane) % (uint)channels);
    ((__global lanes *)dx)[i] = ((__global const lanes *)dy)[i] * (gamma[channel] / sqrt(variance[channel] + epsilon));
}

// Group id = channel * chunks + chunk; partial[channel][chunk] (the result itself where there is one chunk).
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void channel_sums(
    __global const float *restrict x, __global float *restrict partial, int channels, int plane, int count, int chunks)
{
    __local float scratch[ITEMS];
    const int channel = (int)get_group_id(0) / chunks;
    const int first = ((int)get_group_id(0) - channel * chunks) * CHUNK;
    const int extent = min(CHUNK, count - first);
    float sums[VALUES];
#pragma unroll
    for (int i = 0; i < VALUES; i++) {
        const int e = (int)get_local_id(0) + i * ITEMS;
        sums[i] = e < extent ? x[element_offset(first + e, channel, channels, plane)] : 0.0f;
    }
    const float sum = group_sum(pairwise_sum(sums), scratch, ITEMS);
    if (get_local_id(0) == 0) partial[get_group_id(0)] = sum;
}

// One group per channel.
__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void finish_channel_sums(__global const float *restrict partial, __global float *restrict sums, int chunks)
{
    __local float scratch[ITEMS];
    const int channel = (int)get_group_id(0);
    float sum = 0.0f;
    for (int chunk = (int)get_local_id(0); chunk < chunks; chunk += ITEMS)
        sum += partial[(size_t)channel * chunks + chunk];
    sum = group_sum(sum, scratch, ITEMS);
    if (get_local_id(0) == 0) sums[channel] = sum;
}
