// Depthwise convolution (one filter per channel) and its gradients, CPU class. Memory-bound: vectors of 16 channels, no
// gather. Activations [C/16][N][H][W][16], weights [C/16][R*S][16].
//
//   depthwise                   work-item (run of grid rows of all images, block):
//                               y[i*scatterStride + scatterOffset] = sum over taps (r, s) of
//                               x[i*stride + offset + r*step] * w[first + r*placeStep], then bias, residual, activation.
//                               The forward pass, and one class of the input gradient's pixels (x is dy then).
//   depthwise_weight_gradient   work-item (split of dy's rows of all images, block): partial[split][C/16][R*S][16].
//   depthwise_sum               work-item (vector): the splits in order.
//
// Tunables: VECTOR 16, 8, 4: floats per vector (prelude.cl). ACTIVATION (prelude.cl): of the result.

#define INLINE static inline __attribute__((always_inline))
#define GLOBAL_IN const __global float *restrict
#define GLOBAL_OUT __global float *restrict
#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))
#define LANES ((int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))

// Bits of the epilogue, as in convolution_cpu.cl.
#define BIASED 1
#define RESIDUAL 2
#define RECTIFIED 4

typedef struct {
    const __global float *source;
    const __global float *weights;
    int sourceHeight, sourceWidth;
    // Source row of tap row 0, and steps between taps.
    int row, stepHeight, stepWidth, rows, columns;
    // Places of the taps in the weights, in floats.
    int placeStepRow, placeStepColumn;
} Taps;

INLINE vector finished(vector value, const __global float *residual, size_t place, int epilogue) {
    if (epilogue & RESIDUAL) value += LOAD(residual + place);
    if (epilogue & RECTIFIED) value = value < 0.0f ? ZERO_VECTOR : value;
    return value;
}

// COUNT neighbouring grid pixels whose tap columns all exist. column: the first one's source column of tap column 0.
#define DECLARE(p) vector sum##p = start;
#define MULTIPLY(p) sum##p = mad(LOAD(from + (size_t)p * pixelStep), weight, sum##p);
#define FINISH(p) \
    STORE(finished(sum##p, residual, place + (size_t)p * placeStep, epilogue), y + place + (size_t)p * placeStep);
#define INNER(NAME, EACH)                                                                                           \
    INLINE void NAME(const Taps taps, const vector start, int column, int pixelStep, const __global float *residual, \
                     __global float *y, size_t place, int placeStep, int epilogue) {                                \
        EACH(DECLARE)                                                                                               \
        for (int r = 0; r < taps.rows; ++r) {                                                                       \
            const int row = taps.row + r * taps.stepHeight;                                                         \
            if (row < 0 || row >= taps.sourceHeight) continue;                                                      \
            const __global float *from = taps.source + ((ptrdiff_t)row * taps.sourceWidth + column) * 16;           \
            const __global float *w = taps.weights + r * taps.placeStepRow;                                         \
            for (int s = 0; s < taps.columns; ++s, from += taps.stepWidth * 16, w += taps.placeStepColumn) {        \
                const vector weight = LOAD(w);                                                                      \
                EACH(MULTIPLY)                                                                                      \
            }                                                                                                       \
        }                                                                                                           \
        EACH(FINISH)                                                                                                \
    }
INNER(inner8, EACH_8)
INNER(inner4, EACH_4)

SINGLE_ITEM kernel void depthwise(
    GLOBAL_IN x, GLOBAL_IN w, GLOBAL_IN biases, const __global float *residual, __global float *y, int height,
    int width, int gridHeight, int gridWidth, int strideHeight, int strideWidth, int offsetHeight, int offsetWidth,
    int stepHeight, int stepWidth, int rows, int columns, int firstPlace, int placeStepRow, int placeStepColumn,
    int places, int outputHeight, int outputWidth, int scatterHeight, int scatterWidth, int scatterRow,
    int scatterColumn, int epilogue, int channels, int firstInner, int endInner, int rowCount, int runRows) {
    const int block = (int)get_global_id(1), first = (int)get_global_id(0) * runRows;
    const int batch = rowCount / gridHeight;
    for (int line = first; line < min(first + runRows, rowCount); ++line) {
        const int n = line / gridHeight, i = line % gridHeight;
        const size_t plane = (size_t)block * batch + n;
        const size_t begin =
            ((plane * outputHeight + i * scatterHeight + scatterRow) * outputWidth + scatterColumn) * 16;
        const int placeStep = scatterWidth * 16;
        for (int lane = 0; lane < 16; lane += VECTOR) {
            Taps taps;
            taps.source = x + plane * height * width * 16 + lane;
            taps.weights = w + ((size_t)block * places + firstPlace) * 16 + lane;
            taps.sourceHeight = height;
            taps.sourceWidth = width;
            taps.row = i * strideHeight + offsetHeight;
            taps.stepHeight = stepHeight;
            taps.stepWidth = stepWidth;
            taps.rows = rows;
            taps.columns = columns;
            taps.placeStepRow = placeStepRow * 16;
            taps.placeStepColumn = placeStepColumn * 16;
            const vector start = epilogue & BIASED ? LOAD(biases + block * 16 + lane) : ZERO_VECTOR;
            size_t place = begin + lane;
            for (int j = 0; j < gridWidth;) {
                const int column = j * strideWidth + offsetWidth;
                if (j >= firstInner && j + 8 <= endInner) {
                    inner8(taps, start, column, strideWidth * 16, residual, y, place, placeStep, epilogue);
                    j += 8;
                    place += 8 * placeStep;
                } else if (j >= firstInner && j + 4 <= endInner) {
                    inner4(taps, start, column, strideWidth * 16, residual, y, place, placeStep, epilogue);
                    j += 4;
                    place += 4 * placeStep;
                } else {
                    vector sum = start;
                    for (int r = 0; r < rows; ++r) {
                        const int row = taps.row + r * stepHeight;
                        if (row < 0 || row >= height) continue;
                        for (int s = 0; s < columns; ++s) {
                            const int at = column + s * stepWidth;
                            if (at < 0 || at >= width) continue;
                            sum = mad(LOAD(taps.source + ((size_t)row * width + at) * 16),
                                      LOAD(taps.weights + r * taps.placeStepRow + s * taps.placeStepColumn), sum);
                        }
                    }
                    STORE(finished(sum, residual, place, epilogue), y + place);
                    j += 1;
                    place += placeStep;
                }
            }
        }
#if ACTIVATION
        // Forward passes alone: the row lies in one piece.
        const int16 exists = block * 16 + LANES < channels;
        for (int j = 0; j < gridWidth; ++j)
            vstore16(exists ? activated_float16(vload16(j, y + begin), ACTIVATION) : (float16)(0.0f), j, y + begin);
#endif
    }
}

// rowCount: rows of dy, all images.
SINGLE_ITEM kernel void depthwise_weight_gradient(
    GLOBAL_IN x, GLOBAL_IN dy, GLOBAL_OUT partial, int height, int width, int outputHeight, int outputWidth,
    int strideHeight, int strideWidth, int paddingHeight, int paddingWidth, int dilationHeight, int dilationWidth,
    int kernelHeight, int kernelWidth, int rowCount, int rowsPerSplit, int rowsPerChunk) {
    const int split = (int)get_global_id(0), block = (int)get_global_id(1), blocks = (int)get_global_size(1);
    const int batch = rowCount / outputHeight, places = kernelHeight * kernelWidth;
    GLOBAL_OUT sums = partial + ((size_t)split * blocks + block) * places * 16;
    for (int place = 0; place < places; ++place) vstore16((float16)(0.0f), place, sums);
    const int splitEnd = min((split + 1) * rowsPerSplit, rowCount);
    // Few rows at a time: what all taps read stays in the cache.
    for (int first = split * rowsPerSplit; first < splitEnd; first += rowsPerChunk) {
        const int end = min(first + rowsPerChunk, splitEnd);
        for (int r = 0; r < kernelHeight; ++r)
            for (int s = 0; s < kernelWidth; ++s) {
                const int shift = s * dilationWidth - paddingWidth;
                const int low = shift >= 0 ? 0 : (-shift + strideWidth - 1) / strideWidth;
                const int room = width - 1 - shift;
                const int high = min(room < 0 ? 0 : room / strideWidth + 1, outputWidth);
                for (int lane = 0; lane < 16; lane += VECTOR) {
                    vector total = ZERO_VECTOR;
                    for (int line = first; line < end; ++line) {
                        const int n = line / outputHeight, i = line % outputHeight;
                        const int row = i * strideHeight + r * dilationHeight - paddingHeight;
                        if (row < 0 || row >= height || low >= high) continue;
                        const size_t plane = (size_t)block * batch + n;
                        GLOBAL_IN from =
                            x + ((plane * height + row) * width + low * strideWidth + shift) * 16 + lane;
                        GLOBAL_IN gradient = dy + ((plane * outputHeight + i) * outputWidth + low) * 16 + lane;
                        const int count = high - low, step = strideWidth * 16;
                        vector sum0 = ZERO_VECTOR, sum1 = ZERO_VECTOR;
                        int j = 0;
                        for (; j + 2 <= count; j += 2) {
                            sum0 = mad(LOAD(from + (size_t)j * step), LOAD(gradient + j * 16), sum0);
                            sum1 = mad(LOAD(from + (size_t)(j + 1) * step), LOAD(gradient + (j + 1) * 16), sum1);
                        }
                        if (j < count) sum0 = mad(LOAD(from + (size_t)j * step), LOAD(gradient + j * 16), sum0);
                        total += sum0 + sum1;
                    }
                    __global float *to = sums + (r * kernelWidth + s) * 16 + lane;
                    STORE(LOAD(to) + total, to);
                }
            }
    }
}

SINGLE_ITEM kernel void depthwise_sum(GLOBAL_IN partial, GLOBAL_OUT dw, int splits) {
    const size_t index = get_global_id(0), count = get_global_size(0);
    float16 sum = (float16)(0.0f);
    for (int split = 0; split < splits; ++split) sum += vload16(split * count + index, partial);
    vstore16(sum, index, dw);
}
