// Pooling, CPU class. Activations [C/16][N][H][W][16].
//
// Work-item (output row i + outputHeight * n, channel block): one row of the result, a vector of 16 channels at a time;
// for gradients the row is one of dx, and each of its pixels gathers from the windows that hold it, in their order, so
// that sums have one order and nothing is zeroed before.
// Windows: rows i*strideHeight - paddingHeight + r*dilation, r < kernelHeight; likewise columns.
//   max      -infinity outside, the first of equal values wins, NaN wins; index = h*W + w.
//   average  sum / divisor, where the divisor counts the pixels inside of the plane, or with countsPadding those inside
//            of the padded plane (at the far edge no further than the padding).
//   adaptive bin i covers floor(i*H/outputHeight) ..< ceil((i+1)*H/outputHeight).
//
// Tunables: INDICES (0, 1; default 0): max_pooling also writes the indices. KERNEL (0, 2, 3; default 0): a square
// window of this extent without dilation, unrolled where it lies inside of the plane.

#ifndef INDICES
#define INDICES 0
#endif
#ifndef KERNEL
#define KERNEL 0
#endif

#define INLINE static inline __attribute__((always_inline))
#define GLOBAL_IN const __global float *restrict
#define GLOBAL_OUT __global float *restrict
#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))
#define ZERO ((float16)(0.0f))

// All ones where the lane's channel exists.
INLINE int16 existing_lanes(int block, int channels) {
    const int16 lane = (int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return block * 16 + lane < channels;
}

INLINE int ceil_divide(int a, int b) { return a > 0 ? (a + b - 1) / b : 0; }

SINGLE_ITEM kernel void max_pooling(GLOBAL_IN x, GLOBAL_OUT y,
#if INDICES
                                    __global int *restrict indices,
#endif
                                    int channels, int height, int width, int outputHeight, int outputWidth,
                                    int kernelHeight, int kernelWidth, int strideHeight, int strideWidth,
                                    int paddingHeight, int paddingWidth, int dilation) {
    const int block = (int)get_global_id(1), row = (int)get_global_id(0);
    const int n = row / outputHeight, i = row % outputHeight, batch = (int)get_global_size(0) / outputHeight;
    const __global float *plane = x + ((size_t)block * batch + n) * height * width * 16;
    const size_t start = ((size_t)block * get_global_size(0) + row) * outputWidth;
    const int16 exists = existing_lanes(block, channels);
    const int h0 = i * strideHeight - paddingHeight;
    const int rFirst = ceil_divide(-h0, dilation), rEnd = min(kernelHeight, ceil_divide(height - h0, dilation));
    for (int j = 0; j < outputWidth; ++j) {
        const int w0 = j * strideWidth - paddingWidth;
        const int sFirst = ceil_divide(-w0, dilation), sEnd = min(kernelWidth, ceil_divide(width - w0, dilation));
#if KERNEL
        if (rFirst == 0 && rEnd == KERNEL && sFirst == 0 && sEnd == KERNEL) {
            const int corner = h0 * width + w0;
            float16 largest = vload16(corner, plane);
#if INDICES
            int16 place = (int16)(corner);
#endif
#pragma unroll
            for (int tap = 1; tap < KERNEL * KERNEL; ++tap) {
                const int at = corner + tap / KERNEL * width + tap % KERNEL;
                const float16 value = vload16(at, plane);
                // Nothing exceeds a NaN, and every NaN is taken.
                const int16 wins = (value > largest) | (value != value);
                largest = wins ? value : largest;
#if INDICES
                place = wins ? (int16)(at) : place;
#endif
            }
            vstore16(exists ? largest : ZERO, start + j, y);
#if INDICES
            vstore16(exists ? place : (int16)(0), start + j, indices);
#endif
            continue;
        }
#endif
        float16 best = (float16)(-INFINITY);
        int16 index = (int16)((h0 + rFirst * dilation) * width + w0 + sFirst * dilation);
        for (int r = rFirst; r < rEnd; ++r)
            for (int s = sFirst; s < sEnd; ++s) {
                const int at = (h0 + r * dilation) * width + w0 + s * dilation;
                const float16 value = vload16(at, plane);
                const int16 wins = (value > best) | (value != value);
                best = wins ? value : best;
                index = wins ? (int16)(at) : index;
            }
        vstore16(exists ? best : ZERO, start + j, y);
#if INDICES
        vstore16(exists ? index : (int16)(0), start + j, indices);
#endif
    }
}

SINGLE_ITEM kernel void max_pooling_gradient(GLOBAL_IN dy, const __global int *restrict indices, GLOBAL_OUT dx,
                                             int height, int width, int outputHeight, int outputWidth,
                                             int kernelHeight, int kernelWidth, int strideHeight, int strideWidth,
                                             int paddingHeight, int paddingWidth, int dilation) {
    const int block = (int)get_global_id(1), row = (int)get_global_id(0);
    const int n = row / height, h = row % height, batch = (int)get_global_size(0) / height;
    const size_t plane = ((size_t)block * batch + n) * outputHeight * outputWidth;
    const size_t start = ((size_t)block * get_global_size(0) + row) * width;
    // Windows whose first row lies at most the kernel's reach before h.
    const int i0 = ceil_divide(h + paddingHeight - dilation * (kernelHeight - 1), strideHeight);
    const int i1 = min(outputHeight, (h + paddingHeight) / strideHeight + 1);
    for (int w = 0; w < width; ++w) {
        const int j0 = ceil_divide(w + paddingWidth - dilation * (kernelWidth - 1), strideWidth);
        const int j1 = min(outputWidth, (w + paddingWidth) / strideWidth + 1);
        const int16 self = (int16)(h * width + w);
        float16 sum = ZERO;
        for (int i = i0; i < i1; ++i)
            for (int j = j0; j < j1; ++j) {
                const size_t at = plane + i * outputWidth + j;
                sum += vload16(at, indices) == self ? vload16(at, dy) : ZERO;
            }
        vstore16(sum, start + w, dx);
    }
}

// The divisor of the window that begins at first (padding included) in one direction: how many of its pixels count.
INLINE int counted(int first, int kernelExtent, int extent, int padding, int countsPadding) {
    const int end = min(first + kernelExtent, extent + padding);
    return countsPadding ? end - first : min(end, extent) - max(first, 0);
}

SINGLE_ITEM kernel void average_pooling(GLOBAL_IN x, GLOBAL_OUT y, int height, int width, int outputHeight,
                                        int outputWidth, int kernelHeight, int kernelWidth, int strideHeight,
                                        int strideWidth, int paddingHeight, int paddingWidth, int countsPadding) {
    const int block = (int)get_global_id(1), row = (int)get_global_id(0);
    const int n = row / outputHeight, i = row % outputHeight, batch = (int)get_global_size(0) / outputHeight;
    const __global float *plane = x + ((size_t)block * batch + n) * height * width * 16;
    const size_t start = ((size_t)block * get_global_size(0) + row) * outputWidth;
    const int h0 = i * strideHeight - paddingHeight;
    for (int j = 0; j < outputWidth; ++j) {
        const int w0 = j * strideWidth - paddingWidth;
        float16 sum = ZERO;
        for (int h = max(h0, 0); h < min(h0 + kernelHeight, height); ++h)
            for (int w = max(w0, 0); w < min(w0 + kernelWidth, width); ++w) sum += vload16(h * width + w, plane);
        const int divisor = counted(h0, kernelHeight, height, paddingHeight, countsPadding) *
                            counted(w0, kernelWidth, width, paddingWidth, countsPadding);
        vstore16(divisor > 0 ? sum / (float)divisor : ZERO, start + j, y);
    }
}

SINGLE_ITEM kernel void average_pooling_gradient(GLOBAL_IN dy, GLOBAL_OUT dx, int height, int width, int outputHeight,
                                                 int outputWidth, int kernelHeight, int kernelWidth, int strideHeight,
                                                 int strideWidth, int paddingHeight, int paddingWidth,
                                                 int countsPadding) {
    const int block = (int)get_global_id(1), row = (int)get_global_id(0);
    const int n = row / height, h = row % height, batch = (int)get_global_size(0) / height;
    const size_t plane = ((size_t)block * batch + n) * outputHeight * outputWidth;
    const size_t start = ((size_t)block * get_global_size(0) + row) * width;
    const int i0 = ceil_divide(h + paddingHeight - (kernelHeight - 1), strideHeight);
    const int i1 = min(outputHeight, (h + paddingHeight) / strideHeight + 1);
    for (int w = 0; w < width; ++w) {
        const int j0 = ceil_divide(w + paddingWidth - (kernelWidth - 1), strideWidth);
        const int j1 = min(outputWidth, (w + paddingWidth) / strideWidth + 1);
        float16 sum = ZERO;
        for (int i = i0; i < i1; ++i) {
            const int rows = counted(i * strideHeight - paddingHeight, kernelHeight, height, paddingHeight,
                                     countsPadding);
            for (int j = j0; j < j1; ++j) {
                const int columns = counted(j * strideWidth - paddingWidth, kernelWidth, width, paddingWidth,
                                            countsPadding);
                sum += vload16(plane + i * outputWidth + j, dy) / (float)(rows * columns);
            }
        }
        vstore16(sum, start + w, dx);
    }
}

// first pixel of bin i, and one past its last: extents up to 46340 pixels stay within 32 bits.
INLINE int bin_first(int i, int extent, int bins) { return i * extent / bins; }
INLINE int bin_end(int i, int extent, int bins) { return ((i + 1) * extent + bins - 1) / bins; }

SINGLE_ITEM kernel void adaptive_average_pooling(GLOBAL_IN x, GLOBAL_OUT y, int height, int width, int outputHeight,
                                                 int outputWidth) {
    const int block = (int)get_global_id(1), row = (int)get_global_id(0);
    const int n = row / outputHeight, i = row % outputHeight, batch = (int)get_global_size(0) / outputHeight;
    const __global float *plane = x + ((size_t)block * batch + n) * height * width * 16;
    const size_t start = ((size_t)block * get_global_size(0) + row) * outputWidth;
    const int h0 = bin_first(i, height, outputHeight), h1 = bin_end(i, height, outputHeight);
    for (int j = 0; j < outputWidth; ++j) {
        const int w0 = bin_first(j, width, outputWidth), w1 = bin_end(j, width, outputWidth);
        float16 sum = ZERO;
        // A row at a time: long sums stay accurate.
        for (int h = h0; h < h1; ++h) {
            float16 rowSum = ZERO;
            for (int w = w0; w < w1; ++w) rowSum += vload16(h * width + w, plane);
            sum += rowSum;
        }
        vstore16(sum / (float)((h1 - h0) * (w1 - w0)), start + j, y);
    }
}

SINGLE_ITEM kernel void adaptive_average_pooling_gradient(GLOBAL_IN dy, GLOBAL_OUT dx, int height, int width,
                                                          int outputHeight, int outputWidth) {
    const int block = (int)get_global_id(1), row = (int)get_global_id(0);
    const int n = row / height, h = row % height, batch = (int)get_global_size(0) / height;
    const size_t plane = ((size_t)block * batch + n) * outputHeight * outputWidth;
    const size_t start = ((size_t)block * get_global_size(0) + row) * width;
    // The bins that hold h are neighbours: from the one of its first pixel on.
    int i0 = h * outputHeight / height, i1 = i0 + 1;
    while (i0 > 0 && bin_end(i0 - 1, height, outputHeight) > h) --i0;
    while (i1 < outputHeight && bin_first(i1, height, outputHeight) <= h) ++i1;
    for (int w = 0; w < width; ++w) {
        int j0 = w * outputWidth / width, j1 = j0 + 1;
        while (j0 > 0 && bin_end(j0 - 1, width, outputWidth) > w) --j0;
        while (j1 < outputWidth && bin_first(j1, width, outputWidth) <= w) ++j1;
        float16 sum = ZERO;
        for (int i = i0; i < i1; ++i) {
            const int rows = bin_end(i, height, outputHeight) - bin_first(i, height, outputHeight);
            for (int j = j0; j < j1; ++j) {
                const int columns = bin_end(j, width, outputWidth) - bin_first(j, width, outputWidth);
                sum += vload16(plane + i * outputWidth + j, dy) / (float)(rows * columns);
            }
        }
        vstore16(sum, start + w, dx);
    }
}
