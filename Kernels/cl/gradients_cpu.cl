// What is done to the gradients and weights of all cohorts at once, CPU class.
//
//   accumulate       sum = share >= 1 ? g : sum + share*(g - sum);  g = sum
//   square_sums      partial[i] = squares of run i, by lane; norm: result = {root of all, min(1, maximum/(norm + 1e-6))}
//   scale_by_norm    g *= norm[1]
//   average_weights  average += share*(w - average)
// Work-item: runVectors vectors of 16 floats of vectorCount; of norm there is one. Runs of square_sums follow the slab's
// length alone, and each is summed in blocks of 64 vectors. Slabs are whole vectors; gaps between parameters hold zero
// gradients.
//
// Tunables: none.

#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))
#define BEGIN                                                        \
    const size_t first = get_global_id(0) * (size_t)runVectors;      \
    const size_t end = min(first + runVectors, (size_t)vectorCount);

SINGLE_ITEM kernel void accumulate(__global float *restrict g, __global float *restrict sum, int vectorCount,
                                   int runVectors, float share) {
    BEGIN
    for (size_t i = first; i < end; ++i) {
        float16 value = vload16(i, g);
        if (share < 1.0f) {
            const float16 before = vload16(i, sum);
            value = fma((float16)(share), value - before, before);
            vstore16(value, i, g);
        }
        vstore16(value, i, sum);
    }
}

SINGLE_ITEM kernel void square_sums(const __global float *restrict g, __global float *restrict partial, int vectorCount,
                                    int runVectors) {
    BEGIN
    float16 total = 0.0f;
    for (size_t block = first; block < end; block += 64) {
        const size_t last = min(block + 64, end);
        float16 sum = 0.0f;
        for (size_t i = block; i < last; ++i) {
            const float16 value = vload16(i, g);
            sum = fma(value, value, sum);
        }
        total += sum;
    }
    vstore16(total, get_global_id(0), partial);
}

// By pairs, in place.
SINGLE_ITEM kernel void norm(__global float *restrict partial, __global float *restrict result, int count,
                             float maximum) {
    for (int width = 1; width < count; width *= 2)
        for (int i = 0; i + width < count; i += 2 * width)
            vstore16(vload16(i, partial) + vload16(i + width, partial), i, partial);
    for (int width = 8; width > 0; width /= 2)
        for (int lane = 0; lane < width; ++lane) partial[lane] += partial[lane + width];
    const float length = sqrt(partial[0]);
    const float factor = maximum / (length + 1e-6f);
    // A vector of two has 32 floats.
    for (int lane = 0; lane < 32; ++lane) result[lane] = 0.0f;
    result[0] = length;
    result[1] = factor > 1.0f ? 1.0f : factor;
}

SINGLE_ITEM kernel void scale_by_norm(__global float *restrict g, const __global float *restrict norm, int vectorCount,
                                      int runVectors) {
    BEGIN
    const float factor = norm[1];
    for (size_t i = first; i < end; ++i) vstore16(vload16(i, g) * factor, i, g);
}

SINGLE_ITEM kernel void average_weights(const __global float *restrict w, __global float *restrict average,
                                        int vectorCount, int runVectors, float share) {
    BEGIN
    for (size_t i = first; i < end; ++i) {
        const float16 before = vload16(i, average);
        vstore16(fma((float16)(share), vload16(i, w) - before, before), i, average);
    }
}
