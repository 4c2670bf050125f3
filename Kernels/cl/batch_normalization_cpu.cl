// Batch normalisation, forward and backward, and the sum of each channel; CPU class.
//
// A channel block of 16 is one contiguous run of pixelCount = N*H*W vectors. It is cut into segments of segmentPixels
// pixels (by shape alone). Kernels:
//   statistics         work-item (segment, block): partial[block][segment] = {mean, M2} of its pixels, the mean
//                      relative to the channel's first value. Values are shifted by the mean of 16 of them, so that
//                      mean and sum of squared deviations follow without cancellation; four accumulators.
//   combine_statistics work-item (block): segments are merged in order (Chan et al. 1979):
//                      M2 = M2a + M2b + d^2 * na*nb/n; running statistics are updated; zero behind the last channel.
//   normalize          work-item (segment, block): y = (x - mean)*scale + beta, + residual, max(0, .)
//                      with scale = gamma*inverseDeviation.
//   gradient_sums      partial = {sum of dy, sum of dy*(x - mean)} per segment.
//   combine_gradients  sums in order; dgamma = inverseDeviation * second, dbeta = first;
//                      coefficients for the next: {dbeta/n, inverseDeviation^2 * second/n, gamma*inverseDeviation}
//   input_gradient     dx = scale * (dy - a - (x - mean)*b).
//   scale_gradient     dx = dy * gamma/sqrt(runningVariance + epsilon): parameters and statistics frozen.
//   channel_sum, combine_sums   v[c] = sum of x.
// Channel vectors are padded to blocks of 32: kernels per block of vectors run over those too.
//
// Tunables: RESIDUAL, RELU (0, 1; default 0), ACTIVATION (prelude.cl): the epilogue of normalize. TRAINING (0, 1; default 1): normalize reads
// mean and 1/deviation, else running mean and variance.

#ifndef RESIDUAL
#define RESIDUAL 0
#endif
#ifndef RELU
#define RELU 0
#endif
#ifndef TRAINING
#define TRAINING 1
#endif

#define INLINE static inline __attribute__((always_inline))
#define GLOBAL_IN const __global float *restrict
#define GLOBAL_OUT __global float *restrict
#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))
#define ZERO ((float16)(0.0f))

// value where the lane's channel exists, else zero.
INLINE float16 existing(float16 value, int block, int channels) {
    const int16 lane = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return block * 16 + lane < channels ? value : ZERO;
}

INLINE float16 inverse_root(float16 variance, float epsilon) { return (float16)(1.0f) / sqrt(variance + epsilon); }

SINGLE_ITEM kernel void statistics(GLOBAL_IN x, GLOBAL_OUT partial, int pixelCount, int segmentPixels) {
    const int segment = (int)get_global_id(0), segments = (int)get_global_size(0), block = (int)get_global_id(1);
    const int first = segment * segmentPixels, count = min(segmentPixels, pixelCount - first);
    const __global float *from = x + ((size_t)block * pixelCount + first) * 16;
    // Means are kept relative to the channel's first value: rounded at their own size, they still differ between segments.
    const float16 base = vload16(0, x + (size_t)block * pixelCount * 16);
    // The mean of samples from all over the segment: what is subtracted below is then small beside what is kept.
    const int samples = min(count, 16), step = count / samples;
    float16 shift = ZERO;
    for (int i = 0; i < samples; ++i) shift += vload16(i * step, from);
    shift /= (float)samples;
    float16 s0 = ZERO, s1 = ZERO, s2 = ZERO, s3 = ZERO, q0 = ZERO, q1 = ZERO, q2 = ZERO, q3 = ZERO;
    int m = 0;
    for (; m + 4 <= count; m += 4, from += 64) {
        const float16 d0 = vload16(0, from) - shift, d1 = vload16(1, from) - shift;
        const float16 d2 = vload16(2, from) - shift, d3 = vload16(3, from) - shift;
        s0 += d0;
        s1 += d1;
        s2 += d2;
        s3 += d3;
        q0 = fma(d0, d0, q0);
        q1 = fma(d1, d1, q1);
        q2 = fma(d2, d2, q2);
        q3 = fma(d3, d3, q3);
    }
    for (; m < count; ++m, from += 16) {
        const float16 d = vload16(0, from) - shift;
        s0 += d;
        q0 = fma(d, d, q0);
    }
    const float16 sum = (s0 + s1) + (s2 + s3), squares = (q0 + q1) + (q2 + q3);
    const float16 offset = sum / (float)count;
    __global float *to = partial + ((size_t)block * segments + segment) * 32;
    const float16 rest = squares - sum * offset;
    // Where the samples' mean lies far from the mean, squares are summed again about the mean itself.
    if (any(sum * offset > rest)) {
        const float16 mean = shift + offset;
        q0 = ZERO;
        q1 = ZERO;
        s0 = ZERO;
        from = x + ((size_t)block * pixelCount + first) * 16;
        for (m = 0; m + 2 <= count; m += 2, from += 32) {
            const float16 d0 = vload16(0, from) - mean, d1 = vload16(1, from) - mean;
            s0 += d0 + d1;
            q0 = fma(d0, d0, q0);
            q1 = fma(d1, d1, q1);
        }
        for (; m < count; ++m, from += 16) {
            const float16 d = vload16(0, from) - mean;
            s0 += d;
            q0 = fma(d, d, q0);
        }
        const float16 correction = s0 / (float)count;
        vstore16((mean - base) + correction, 0, to);
        vstore16(fmax(q0 + q1 - s0 * correction, ZERO), 1, to);
    } else {
        vstore16((shift - base) + offset, 0, to);
        vstore16(fmax(rest, ZERO), 1, to);
    }
}

// mean, inverseDeviation, running statistics: vectors; runningIn and runningOut may be the same memory.
SINGLE_ITEM kernel void combine_statistics(GLOBAL_IN x, GLOBAL_IN partial, const __global float *runningMeanIn,
                                           const __global float *runningVarianceIn, GLOBAL_OUT mean,
                                           GLOBAL_OUT inverseDeviation, __global float *runningMean,
                                           __global float *runningVariance, int pixelCount, int segmentPixels,
                                           int segments, int channels, float epsilon, float momentum) {
    const int block = (int)get_global_id(0);
    float16 m = ZERO, m2 = ZERO;
    if (block * 16 < channels) {
        const __global float *from = partial + (size_t)block * segments * 32;
        m = vload16(0, from);
        m2 = vload16(1, from);
        float count = (float)min(segmentPixels, pixelCount);
        for (int segment = 1; segment < segments; ++segment) {
            const float added = (float)min(segmentPixels, pixelCount - segment * segmentPixels);
            const float total = count + added;
            const float16 delta = vload16(segment * 2, from) - m;
            m += delta * (added / total);
            m2 += vload16(segment * 2 + 1, from) + delta * delta * (count * (added / total));
            count = total;
        }
        m += vload16(0, x + (size_t)block * pixelCount * 16);
    }
    const float16 variance = m2 / (float)pixelCount;
    // One value per channel has no unbiased variance; the divisor stays 1.
    const float16 unbiased = m2 / (float)max(pixelCount - 1, 1);
    vstore16(existing(m, block, channels), block, mean);
    vstore16(existing(inverse_root(variance, epsilon), block, channels), block, inverseDeviation);
    const float16 newMean = (1.0f - momentum) * vload16(block, runningMeanIn) + momentum * m;
    const float16 newVariance = (1.0f - momentum) * vload16(block, runningVarianceIn) + momentum * unbiased;
    vstore16(existing(newMean, block, channels), block, runningMean);
    vstore16(existing(newVariance, block, channels), block, runningVariance);
}

// second: 1/deviation with TRAINING, else the running variance.
SINGLE_ITEM kernel void normalize_blocks(GLOBAL_IN x, GLOBAL_IN gamma, GLOBAL_IN beta, GLOBAL_IN mean, GLOBAL_IN second,
#if RESIDUAL
                                  GLOBAL_IN residual,
#endif
                                  GLOBAL_OUT y, int pixelCount, int segmentPixels, int channels, float epsilon) {
    const int block = (int)get_global_id(1), first = (int)get_global_id(0) * segmentPixels;
    const int count = min(segmentPixels, pixelCount - first);
    const size_t start = ((size_t)block * pixelCount + first) * 16;
#if TRAINING
    const float16 inverse = vload16(block, second);
#else
    const float16 inverse = inverse_root(vload16(block, second), epsilon);
#endif
    const float16 scale = existing(vload16(block, gamma) * inverse, block, channels);
    const float16 center = vload16(block, mean), shift = vload16(block, beta);
    for (int m = 0; m < count; ++m) {
        float16 value = fma(vload16(m, x + start) - center, scale, shift);
#if RESIDUAL
        value += vload16(m, residual + start);
#endif
#if RELU
        value = value < 0.0f ? ZERO : value;
#elif ACTIVATION
        value = existing(activated_float16(value, ACTIVATION), block, channels);
#endif
        vstore16(value, m, y + start);
    }
}

SINGLE_ITEM kernel void gradient_sums(GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_IN mean, GLOBAL_OUT partial, int pixelCount,
                                      int segmentPixels) {
    const int segment = (int)get_global_id(0), segments = (int)get_global_size(0), block = (int)get_global_id(1);
    const int first = segment * segmentPixels, count = min(segmentPixels, pixelCount - first);
    const size_t start = ((size_t)block * pixelCount + first) * 16;
    const __global float *xAt = x + start, *gAt = dy + start;
    const float16 center = vload16(block, mean);
    float16 s0 = ZERO, s1 = ZERO, s2 = ZERO, s3 = ZERO, q0 = ZERO, q1 = ZERO, q2 = ZERO, q3 = ZERO;
    int m = 0;
    for (; m + 4 <= count; m += 4, xAt += 64, gAt += 64) {
        const float16 g0 = vload16(0, gAt), g1 = vload16(1, gAt), g2 = vload16(2, gAt), g3 = vload16(3, gAt);
        s0 += g0;
        s1 += g1;
        s2 += g2;
        s3 += g3;
        q0 = fma(g0, vload16(0, xAt) - center, q0);
        q1 = fma(g1, vload16(1, xAt) - center, q1);
        q2 = fma(g2, vload16(2, xAt) - center, q2);
        q3 = fma(g3, vload16(3, xAt) - center, q3);
    }
    for (; m < count; ++m, xAt += 16, gAt += 16) {
        const float16 g = vload16(0, gAt);
        s0 += g;
        q0 = fma(g, vload16(0, xAt) - center, q0);
    }
    __global float *to = partial + ((size_t)block * segments + segment) * 32;
    vstore16((s0 + s1) + (s2 + s3), 0, to);
    vstore16((q0 + q1) + (q2 + q3), 1, to);
}

SINGLE_ITEM kernel void combine_gradients(GLOBAL_IN partial, GLOBAL_IN gamma, GLOBAL_IN inverseDeviation,
                                          GLOBAL_OUT dgamma, GLOBAL_OUT dbeta, GLOBAL_OUT coefficients, int pixelCount,
                                          int segments, int channels) {
    const int block = (int)get_global_id(0);
    float16 sum = ZERO, product = ZERO;
    if (block * 16 < channels) {
        const __global float *from = partial + (size_t)block * segments * 32;
        for (int segment = 0; segment < segments; ++segment) {
            sum += vload16(segment * 2, from);
            product += vload16(segment * 2 + 1, from);
        }
    }
    const float16 inverse = vload16(block, inverseDeviation);
    vstore16(existing(product * inverse, block, channels), block, dgamma);
    vstore16(existing(sum, block, channels), block, dbeta);
    vstore16(existing(sum / (float)pixelCount, block, channels), block * 3, coefficients);
    vstore16(existing(inverse * inverse * (product / (float)pixelCount), block, channels), block * 3 + 1, coefficients);
    vstore16(existing(vload16(block, gamma) * inverse, block, channels), block * 3 + 2, coefficients);
}

SINGLE_ITEM kernel void input_gradient(GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_IN mean, GLOBAL_IN coefficients, GLOBAL_OUT dx,
                                       int pixelCount, int segmentPixels) {
    const int block = (int)get_global_id(1), first = (int)get_global_id(0) * segmentPixels;
    const int count = min(segmentPixels, pixelCount - first);
    const size_t start = ((size_t)block * pixelCount + first) * 16;
    const float16 center = vload16(block, mean), average = vload16(block * 3, coefficients);
    const float16 slope = vload16(block * 3 + 1, coefficients), scale = vload16(block * 3 + 2, coefficients);
    for (int m = 0; m < count; ++m) {
        const float16 g = vload16(m, dy + start) - average;
        vstore16(scale * (g - (vload16(m, x + start) - center) * slope), m, dx + start);
    }
}

SINGLE_ITEM kernel void scale_gradient(GLOBAL_IN dy, GLOBAL_IN gamma, GLOBAL_IN variance, GLOBAL_OUT dx, int pixelCount,
                                       int segmentPixels, int channels, float epsilon) {
    const int block = (int)get_global_id(1), first = (int)get_global_id(0) * segmentPixels;
    const int count = min(segmentPixels, pixelCount - first);
    const size_t start = ((size_t)block * pixelCount + first) * 16;
    const float16 scale =
        existing(vload16(block, gamma) * inverse_root(vload16(block, variance), epsilon), block, channels);
    for (int m = 0; m < count; ++m) vstore16(vload16(m, dy + start) * scale, m, dx + start);
}

SINGLE_ITEM kernel void channel_sum(GLOBAL_IN x, GLOBAL_OUT partial, int pixelCount, int segmentPixels) {
    const int segment = (int)get_global_id(0), segments = (int)get_global_size(0), block = (int)get_global_id(1);
    const int first = segment * segmentPixels, count = min(segmentPixels, pixelCount - first);
    const __global float *from = x + ((size_t)block * pixelCount + first) * 16;
    float16 s0 = ZERO, s1 = ZERO, s2 = ZERO, s3 = ZERO;
    int m = 0;
    for (; m + 4 <= count; m += 4, from += 64) {
        s0 += vload16(0, from);
        s1 += vload16(1, from);
        s2 += vload16(2, from);
        s3 += vload16(3, from);
    }
    for (; m < count; ++m, from += 16) s0 += vload16(0, from);
    vstore16((s0 + s1) + (s2 + s3), block * segments + segment, partial);
}

SINGLE_ITEM kernel void combine_sums(GLOBAL_IN partial, GLOBAL_OUT v, int segments, int channels) {
    const int block = (int)get_global_id(0);
    float16 sum = ZERO;
    if (block * 16 < channels)
        for (int segment = 0; segment < segments; ++segment) sum += vload16(block * segments + segment, partial);
    vstore16(existing(sum, block, channels), block, v);
}
