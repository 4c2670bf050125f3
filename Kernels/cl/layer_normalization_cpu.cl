// Layer norm over the channels of each pixel, its gradient, and factors per channel, CPU class. Activations
// [C/16][N][H][W][16]; mean and variance of a pixel are taken over blocks that lie far apart, so that 16 pixels go together.
//
//   layer_normalization             work-item: a run of runPixels pixels of pixelCount.
//   layer_normalization_gradient    work-item: a split of the pixels; partial[split][dgamma, dbeta][vectorBlocks][16].
//   layer_normalization_sums        work-item (vector, 0 or 1): the splits in order.
//   layer_scale                     work-item (n, block): y = x * v.
//   layer_scale_sum                 work-item (vector): the images in order, of elementwise_cpu's channel_scale_gradient.

#define INLINE static inline __attribute__((always_inline))
#define GLOBAL_IN const __global float *restrict
#define GLOBAL_OUT __global float *restrict
#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))
#define ZERO ((float16)(0.0f))
#define LANES ((int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
#define PIXELS 16

INLINE float lane_sum(float16 v) {
    const float8 a = v.lo + v.hi;
    const float4 b = a.lo + a.hi;
    const float2 c = b.lo + b.hi;
    return c.x + c.y;
}

// Mean and 1/deviation of count pixels from x on, blockStride floats between blocks.
INLINE void statistics(GLOBAL_IN x, size_t blockStride, int count, int channels, float epsilon, float *mean,
                       float *inverse) {
    const int blocks = (channels + 15) / 16;
    float16 sums[PIXELS];
    for (int p = 0; p < count; ++p) sums[p] = ZERO;
    for (int block = 0; block < blocks; ++block)
        for (int p = 0; p < count; ++p) sums[p] += vload16(p, x + block * blockStride);
    for (int p = 0; p < count; ++p) {
        mean[p] = lane_sum(sums[p]) / (float)channels;
        sums[p] = ZERO;
    }
    for (int block = 0; block < blocks; ++block) {
        const int16 exists = block * 16 + LANES < channels;
        for (int p = 0; p < count; ++p) {
            const float16 deviation = exists ? vload16(p, x + block * blockStride) - mean[p] : ZERO;
            sums[p] = mad(deviation, deviation, sums[p]);
        }
    }
    for (int p = 0; p < count; ++p) inverse[p] = 1.0f / sqrt(lane_sum(sums[p]) / (float)channels + epsilon);
}

SINGLE_ITEM kernel void layer_normalization(GLOBAL_IN x, GLOBAL_IN gamma, GLOBAL_IN beta, GLOBAL_OUT y, int pixelCount,
                                            int runPixels, int channels, float epsilon) {
    const int first = (int)get_global_id(0) * runPixels, end = min(first + runPixels, pixelCount);
    const size_t blockStride = (size_t)pixelCount * 16;
    float mean[PIXELS], inverse[PIXELS];
    for (int at = first; at < end; at += PIXELS) {
        const int count = min(PIXELS, end - at);
        statistics(x + (size_t)at * 16, blockStride, count, channels, epsilon, mean, inverse);
        // gamma and beta are zero behind the last channel, and so is the result.
        for (int block = 0; block < (channels + 15) / 16; ++block) {
            const float16 factor = vload16(block, gamma), shift = vload16(block, beta);
            const size_t start = block * blockStride + (size_t)at * 16;
            for (int p = 0; p < count; ++p)
                vstore16(mad((vload16(p, x + start) - mean[p]) * inverse[p], factor, shift), p, y + start);
        }
    }
}

SINGLE_ITEM kernel void layer_normalization_gradient(GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_IN gamma, GLOBAL_OUT dx,
                                                     GLOBAL_OUT partial, int pixelCount, int splitPixels, int channels,
                                                     int vectorBlocks, float epsilon) {
    const int split = (int)get_global_id(0), first = split * splitPixels, end = min(first + splitPixels, pixelCount);
    const size_t blockStride = (size_t)pixelCount * 16;
    const int blocks = (channels + 15) / 16;
    GLOBAL_OUT dgamma = partial + (size_t)split * 2 * vectorBlocks * 16;
    GLOBAL_OUT dbeta = dgamma + vectorBlocks * 16;
    for (int block = 0; block < 2 * vectorBlocks; ++block) vstore16(ZERO, block, dgamma);
    float mean[PIXELS], inverse[PIXELS], level[PIXELS], slope[PIXELS];
    for (int at = first; at < end; at += PIXELS) {
        const int count = min(PIXELS, end - at);
        statistics(x + (size_t)at * 16, blockStride, count, channels, epsilon, mean, inverse);
        float16 sums[PIXELS], products[PIXELS];
        for (int p = 0; p < count; ++p) sums[p] = products[p] = ZERO;
        for (int block = 0; block < blocks; ++block) {
            const float16 factor = vload16(block, gamma);
            const size_t start = block * blockStride + (size_t)at * 16;
            float16 scales = ZERO, shifts = ZERO;
            for (int p = 0; p < count; ++p) {
                const float16 normalized = (vload16(p, x + start) - mean[p]) * inverse[p];
                const float16 gradient = vload16(p, dy + start), scaled = gradient * factor;
                shifts += gradient;
                scales = mad(gradient, normalized, scales);
                sums[p] += scaled;
                products[p] = mad(scaled, normalized, products[p]);
            }
            vstore16(vload16(block, dgamma) + scales, block, dgamma);
            vstore16(vload16(block, dbeta) + shifts, block, dbeta);
        }
        for (int p = 0; p < count; ++p) {
            level[p] = lane_sum(sums[p]) / (float)channels;
            slope[p] = lane_sum(products[p]) / (float)channels;
        }
        for (int block = 0; block < blocks; ++block) {
            const int16 exists = block * 16 + LANES < channels;
            const float16 factor = vload16(block, gamma);
            const size_t start = block * blockStride + (size_t)at * 16;
            for (int p = 0; p < count; ++p) {
                const float16 normalized = (vload16(p, x + start) - mean[p]) * inverse[p];
                const float16 result = (vload16(p, dy + start) * factor - level[p] - normalized * slope[p]) * inverse[p];
                vstore16(exists ? result : ZERO, p, dx + start);
            }
        }
    }
}

SINGLE_ITEM kernel void layer_normalization_sums(GLOBAL_IN partial, GLOBAL_OUT dgamma, GLOBAL_OUT dbeta, int splits) {
    const size_t vector = get_global_id(0), vectors = get_global_size(0), which = get_global_id(1);
    float16 sum = ZERO;
    for (int split = 0; split < splits; ++split) sum += vload16((split * 2 + which) * vectors + vector, partial);
    vstore16(sum, vector, which ? dbeta : dgamma);
}

SINGLE_ITEM kernel void layer_scale(const __global float *x, GLOBAL_IN scales, __global float *y, int pixels) {
    const size_t plane = (size_t)get_global_id(1) * get_global_size(0) + get_global_id(0);
    const float16 scale = vload16(get_global_id(1), scales);
    const __global float *from = x + plane * pixels * 16;
    __global float *to = y + plane * pixels * 16;
    for (int p = 0; p < pixels; ++p) vstore16(vload16(p, from) * scale, p, to);
}

SINGLE_ITEM kernel void layer_scale_sum(GLOBAL_IN sums, GLOBAL_OUT dscales, int batch, int blocks) {
    const int block = (int)get_global_id(0);
    float16 total = ZERO;
    for (int n = 0; block < blocks && n < batch; ++n) total += vload16((size_t)block * batch + n, sums);
    vstore16(total, block, dscales);
}
