// Element by element and element to element, CPU class. Activations [C/16][N][H][W][16], vectors of 16 channels.
//
//   relu, relu_gradient, add, activation_gradient
//                                   work-item: a run of runVectors vectors of vectorCount.
//   activate                        work-item (run of pixels, block): lanes that are no channels stay zero.
//   channel_scale, channel_scale_gradient, stochastic_depth
//                                   work-item (n, block): one plane; scales [C/16][N][16].
//   dropout                         the same; the mask needs the logical index n*C*HW + c*HW + p of each lane.
//   copy_channels                   work-item (run of pixels, block of y): y[c] = x[c + shift] for the channels
//                                   first ..< first + count of y, from lane first%16 of block first/16 to the end of
//                                   the last block; lanes behind them become zero. Launches of one concatenation run in
//                                   order, so that a part overwrites the zeros behind the part before it.
//   flatten, flatten_gradient       work-item (n, block of y): 16 channels of y, a gather.
//   subsample, subsample_gradient   y[n, before + c, i, j] = x[n, c, i*stride, j*stride], zero channels around.
//   normalize_image                 (u/255 - mean)/deviation, 3 channels of a block of 16, or of a compact image.
//
// Tunables: RELU (0, 1; default 0): add ends with max(0, .). ACTIVATION: prelude.cl. ALIGNED (0, 1; default 0):
// copy_channels with a shift that is a multiple of 16, and subsample with such a number of channels before. COMPACT (0, 1;
// default 0): normalize_image writes [pixel][3].

#ifndef RELU
#define RELU 0
#endif
#ifndef ALIGNED
#define ALIGNED 0
#endif
#ifndef COMPACT
#define COMPACT 0
#endif

#define INLINE static inline __attribute__((always_inline))
#define GLOBAL_IN const __global float *restrict
#define GLOBAL_OUT __global float *restrict
#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))
#define ZERO ((float16)(0.0f))
#define LANES ((int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))

// Without restrict: the result may take an operand's place.
SINGLE_ITEM kernel void relu(const __global float *x, __global float *y, int vectorCount, int runVectors) {
    const int first = (int)get_global_id(0) * runVectors, end = min(first + runVectors, vectorCount);
    for (int index = first; index < end; ++index) {
        const float16 value = vload16(index, x);
        vstore16(value < 0.0f ? ZERO : value, index, y);
    }
}

SINGLE_ITEM kernel void relu_gradient(const __global float *dy, GLOBAL_IN y, __global float *dx, int vectorCount,
                                      int runVectors) {
    const int first = (int)get_global_id(0) * runVectors, end = min(first + runVectors, vectorCount);
    for (int index = first; index < end; ++index)
        vstore16(vload16(index, y) > 0.0f ? vload16(index, dy) : ZERO, index, dx);
}

SINGLE_ITEM kernel void activate(const __global float *x, __global float *y, int pixelCount, int runPixels,
                                 int channels) {
    const int block = (int)get_global_id(1), first = (int)get_global_id(0) * runPixels;
    const int end = min(first + runPixels, pixelCount);
    const int16 exists = block * 16 + LANES < channels;
    const size_t start = (size_t)block * pixelCount * 16;
    for (int m = first; m < end; ++m)
        vstore16(exists ? activated_float16(vload16(m, x + start), ACTIVATION) : ZERO, m, y + start);
}

SINGLE_ITEM kernel void activation_gradient(const __global float *dy, GLOBAL_IN v, __global float *dx, int vectorCount,
                                            int runVectors) {
    const int first = (int)get_global_id(0) * runVectors, end = min(first + runVectors, vectorCount);
    for (int index = first; index < end; ++index)
        vstore16(activation_gradient_float16(vload16(index, dy), vload16(index, v), ACTIVATION), index, dx);
}

SINGLE_ITEM kernel void channel_scale(const __global float *x, GLOBAL_IN scales, __global float *y, int pixels) {
    const size_t plane = (size_t)get_global_id(1) * get_global_size(0) + get_global_id(0);
    const float16 scale = vload16(plane, scales);
    const __global float *from = x + plane * pixels * 16;
    __global float *to = y + plane * pixels * 16;
    for (int p = 0; p < pixels; ++p) vstore16(vload16(p, from) * scale, p, to);
}

// Rows of 64 pixels keep the sums of long planes exact.
SINGLE_ITEM kernel void channel_scale_gradient(GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_OUT dscales, int pixels) {
    const size_t plane = (size_t)get_global_id(1) * get_global_size(0) + get_global_id(0);
    GLOBAL_IN left = x + plane * pixels * 16;
    GLOBAL_IN right = dy + plane * pixels * 16;
    float16 total = ZERO;
    for (int first = 0; first < pixels; first += 64) {
        float16 sum = ZERO;
        for (int p = first; p < min(first + 64, pixels); ++p) sum = mad(vload16(p, left), vload16(p, right), sum);
        total += sum;
    }
    vstore16(total, plane, dscales);
}

SINGLE_ITEM kernel void stochastic_depth(const __global float *x, __global float *y, int pixels, uint threshold,
                                         float keepRate, uint key) {
    const size_t plane = (size_t)get_global_id(1) * get_global_size(0) + get_global_id(0);
    const int keeps = dropout_keeps(key, (uint)get_global_id(0), threshold);
    const __global float *from = x + plane * pixels * 16;
    __global float *to = y + plane * pixels * 16;
    for (int p = 0; p < pixels; ++p) vstore16(keeps ? vload16(p, from) / keepRate : ZERO, p, to);
}

SINGLE_ITEM kernel void add(const __global float *a, const __global float *b, __global float *y, int vectorCount,
                            int runVectors) {
    const int first = (int)get_global_id(0) * runVectors, end = min(first + runVectors, vectorCount);
    for (int index = first; index < end; ++index) {
        float16 value = vload16(index, a) + vload16(index, b);
#if RELU
        value = value < 0.0f ? ZERO : value;
#endif
        vstore16(value, index, y);
    }
}

INLINE uint16 mix16(uint16 x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

SINGLE_ITEM kernel void dropout(const __global float *x, __global float *y, int vectorCount, int runVectors, int batch,
                                int channels, int pixels, uint threshold, float keepRate, uint key) {
    const int first = (int)get_global_id(0) * runVectors, end = min(first + runVectors, vectorCount);
    for (int index = first; index < end; ++index) {
        const int pixel = index % pixels, n = index / pixels % batch, block = index / pixels / batch;
        const int16 channel = block * 16 + LANES;
        const uint16 logical = (as_uint16(channel) + (uint)n * (uint)channels) * (uint)pixels + (uint)pixel;
        const uint16 random = mix16(key ^ mix16(logical));
        const int16 keeps = (random >= threshold) & (channel < channels);
        vstore16(keeps ? vload16(index, x) / keepRate : ZERO, index, y);
    }
}

SINGLE_ITEM kernel void copy_channels(GLOBAL_IN x, GLOBAL_OUT y, int pixelCount, int runPixels, int first, int count,
                                      int shift) {
    const int pixelFirst = (int)get_global_id(0) * runPixels, pixelEnd = min(pixelFirst + runPixels, pixelCount);
    const int block = first / 16 + (int)get_global_id(1);
    const int16 channel = block * 16 + LANES;
    GLOBAL_OUT to = y + (size_t)block * pixelCount * 16;
#if ALIGNED
    const int16 exists = channel < first + count;
    GLOBAL_IN from = x + (ptrdiff_t)(block + shift / 16) * pixelCount * 16;
    for (int m = pixelFirst; m < pixelEnd; ++m) vstore16(exists ? vload16(m, from) : ZERO, m, to);
#else
    for (int lane = max(first - block * 16, 0); lane < 16; ++lane) {
        const int c = block * 16 + lane, source = c + shift;
        if (c < first + count) {
            GLOBAL_IN from = x + (size_t)(source / 16) * pixelCount * 16 + source % 16;
            for (int m = pixelFirst; m < pixelEnd; ++m) to[(size_t)m * 16 + lane] = from[(size_t)m * 16];
        } else {
            for (int m = pixelFirst; m < pixelEnd; ++m) to[(size_t)m * 16 + lane] = 0.0f;
        }
    }
#endif
}

// x[N, C, pixels] to y[N, C*pixels, 1, 1].
SINGLE_ITEM kernel void flatten(GLOBAL_IN x, GLOBAL_OUT y, int channels, int pixels) {
    const int n = (int)get_global_id(0), batch = (int)get_global_size(0), block = (int)get_global_id(1);
    GLOBAL_OUT to = y + ((size_t)block * batch + n) * 16;
    for (int lane = 0; lane < 16; ++lane) {
        const int feature = block * 16 + lane, c = feature / pixels, p = feature % pixels;
        to[lane] = c < channels ? x[(((size_t)(c / 16) * batch + n) * pixels + p) * 16 + c % 16] : 0.0f;
    }
}

// dy[N, C*pixels, 1, 1] to dx[N, C, pixels]; work-item (n, block of dx).
SINGLE_ITEM kernel void flatten_gradient(GLOBAL_IN dy, GLOBAL_OUT dx, int channels, int pixels) {
    const int n = (int)get_global_id(0), batch = (int)get_global_size(0), block = (int)get_global_id(1);
    GLOBAL_OUT to = dx + ((size_t)block * batch + n) * pixels * 16;
    for (int lane = 0; lane < 16; ++lane) {
        const int c = block * 16 + lane;
        for (int p = 0; p < pixels; ++p) {
            const int feature = c * pixels + p;
            to[(size_t)p * 16 + lane] =
                c < channels ? dy[((size_t)(feature / 16) * batch + n) * 16 + feature % 16] : 0.0f;
        }
    }
}

// Work-item (row of y of all images, block of y).
SINGLE_ITEM kernel void subsample(GLOBAL_IN x, GLOBAL_OUT y, int channels, int height, int width, int outputHeight,
                                  int outputWidth, int stride, int before) {
    const int row = (int)get_global_id(0), block = (int)get_global_id(1);
    const int n = row / outputHeight, i = row % outputHeight, batch = (int)get_global_size(0) / outputHeight;
    GLOBAL_OUT to = y + ((size_t)block * get_global_size(0) + row) * outputWidth * 16;
    const size_t plane = (size_t)height * width * 16;
#if ALIGNED
    const int sourceBlock = block - before / 16;
    // Lanes behind the last channel of x are zero there too.
    const int exists = sourceBlock >= 0 && sourceBlock * 16 < channels;
    GLOBAL_IN from = x + ((ptrdiff_t)(exists ? sourceBlock : 0) * batch + n) * plane + (size_t)i * stride * width * 16;
    for (int j = 0; j < outputWidth; ++j) vstore16(exists ? vload16(j * stride, from) : ZERO, j, to);
#else
    for (int lane = 0; lane < 16; ++lane) {
        const int c = block * 16 + lane - before;
        const int exists = c >= 0 && c < channels;
        const int source = exists ? c : 0;
        GLOBAL_IN from =
            x + ((size_t)(source / 16) * batch + n) * plane + (size_t)i * stride * width * 16 + source % 16;
        for (int j = 0; j < outputWidth; ++j)
            to[(size_t)j * 16 + lane] = exists ? from[(size_t)j * stride * 16] : 0.0f;
    }
#endif
}

// Work-item (row of dx of all images, block of dx).
SINGLE_ITEM kernel void subsample_gradient(GLOBAL_IN dy, GLOBAL_OUT dx, int channels, int height, int width,
                                           int outputHeight, int outputWidth, int stride, int before) {
    const int row = (int)get_global_id(0), block = (int)get_global_id(1);
    const int n = row / height, h = row % height, batch = (int)get_global_size(0) / height;
    GLOBAL_OUT to = dx + ((size_t)block * get_global_size(0) + row) * width * 16;
    const size_t plane = (size_t)outputHeight * outputWidth * 16;
    for (int w = 0; w < width; ++w) vstore16(ZERO, w, to);
    if (h % stride != 0) return;
    for (int lane = 0; lane < 16 && block * 16 + lane < channels; ++lane) {
        const int c = block * 16 + lane + before;
        GLOBAL_IN from = dy + ((size_t)(c / 16) * batch + n) * plane + (size_t)(h / stride) * outputWidth * 16 + c % 16;
        for (int j = 0; j < outputWidth; ++j) to[(size_t)j * stride * 16 + lane] = from[(size_t)j * 16];
    }
}

SINGLE_ITEM kernel void normalize_image(const __global uchar *restrict pixels, GLOBAL_OUT y, int pixelCount,
                                        int runPixels, float mean0, float mean1, float mean2, float deviation0,
                                        float deviation1, float deviation2) {
    const int first = (int)get_global_id(0) * runPixels, end = min(first + runPixels, pixelCount);
    const float4 mean = (float4)(mean0, mean1, mean2, 0.0f);
    const float4 deviation = (float4)(deviation0, deviation1, deviation2, 1.0f);
    for (int m = first; m < end; ++m) {
        const uchar3 pixel = vload3(m, pixels);
        const float4 value = (float4)((float)pixel.x, (float)pixel.y, (float)pixel.z, 0.0f) / 255.0f;
#if COMPACT
        vstore3(((value - mean) / deviation).xyz, m, y);
#else
        vstore16((float16)((value - mean) / deviation, (float4)(0.0f), (float8)(0.0f)), m, y);
#endif
    }
}
