// Helpers that every program begins with: the host puts this file before each other file of this folder.
//
// Nothing here is a kernel. Floating point is plain float32: no fast-math option is ever passed, contraction is off, and
// a kernel that wants a fused multiply-add calls fma() or mad() itself, so that a result depends on the source alone.

#pragma OPENCL FP_CONTRACT OFF

// Asks for a cache line that is needed soon; changes no result. FETCHES: set by the host for processors, whose compilers
// have it; a simulator of another device may not.
#if FETCHES
#define FETCH_SOON(p) __builtin_prefetch((const void *)(size_t)(p), 0, 2)
#endif
#ifndef FETCH_SOON
#define FETCH_SOON(p)
#endif

// DropoutMask of the host (GraftGraph/Primitive.swift): finalizer "lowbias32" of C. Wellons, a bijection on 32 bits.
static inline uint dropout_mix(uint x) {
    x = (x ^ (x >> 16)) * 0x7FEB352Du;
    x = (x ^ (x >> 15)) * 0x846CA68Bu;
    return x ^ (x >> 16);
}

// Whether dropout keeps the element of this flat NCHW index modulo 2^32; threshold = floor(rate * 2^32).
static inline bool dropout_keeps(uint key, uint index, uint threshold) {
    return dropout_mix(key ^ dropout_mix(index)) >= threshold;
}

// max(0, x) that keeps NaN, as torch.relu does; fmax would drop it.
static inline float positive_part(float x) { return x < 0.0f ? 0.0f : x; }

// Sum over a work-group of so many items, a power of two, the same tree always. `scratch` has a float for each and may be
// used again after the call.
static inline float group_sum(float value, __local float *scratch, int items) {
    const int item = (int)get_local_id(0);
    scratch[item] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = items / 2; width > 0; width >>= 1) {
        if (item < width) scratch[item] += scratch[item + width];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float sum = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return sum;
}

// Activations by the host's number (GraftGraph/Activation.swift, `code`; 0 is none): the function, and its derivative
// times dy, of which v is the argument or the result as `gradientReads` says. Normal distribution: half of
// erfc(-x / sqrt 2) by the Chebyshev fit of Press et al., Numerical Recipes, 6.2. A number that is a literal costs nothing.
#define DEFINE_ACTIVATIONS(T)                                                                                    \
    static inline T clamped_##T(T x, float high) {                                                               \
        const T positive = x < (T)(0.0f) ? (T)(0.0f) : x;                                                        \
        return positive > (T)(high) ? (T)(high) : positive;                                                      \
    }                                                                                                            \
    static inline T normal_distribution_##T(T x) {                                                               \
        const T scaled = x * 0.70710678f;                                                                        \
        const T z = fabs(scaled);                                                                                \
        const T t = (T)(1.0f) / (z * 0.5f + 1.0f);                                                               \
        T p = t * 0.17087277f - 0.82215223f;                                                                     \
        p = p * t + 1.48851587f;                                                                                 \
        p = p * t - 1.13520398f;                                                                                 \
        p = p * t + 0.27886807f;                                                                                 \
        p = p * t - 0.18628806f;                                                                                 \
        p = p * t + 0.09678418f;                                                                                 \
        p = p * t + 0.37409196f;                                                                                 \
        p = p * t + 1.00002368f;                                                                                 \
        p = p * t - 1.26551223f;                                                                                 \
        const T tail = t * 0.5f * exp(p - z * z);                                                                \
        return scaled > (T)(0.0f) ? (T)(1.0f) - tail : tail;                                                     \
    }                                                                                                            \
    static inline T activated_##T(T x, int code) {                                                               \
        if (code == 1) return x < (T)(0.0f) ? (T)(0.0f) : x;                                                     \
        if (code == 2) return clamped_##T(x, 6.0f);                                                              \
        if (code == 3) return clamped_##T(x + 3.0f, 6.0f) / 6.0f;                                                \
        if (code == 4) return x * clamped_##T(x + 3.0f, 6.0f) / 6.0f;                                            \
        if (code == 5) return (T)(1.0f) / (exp(-x) + 1.0f);                                                      \
        if (code == 6) return x / (exp(-x) + 1.0f);                                                              \
        if (code == 7) return x * normal_distribution_##T(x);                                                    \
        return x;                                                                                                \
    }                                                                                                            \
    static inline T activation_gradient_##T(T dy, T v, int code) {                                               \
        const T zero = (T)(0.0f);                                                                                \
        if (code == 1) return v > zero ? dy : zero;                                                              \
        if (code == 2) return v > zero ? (v < (T)(6.0f) ? dy : zero) : zero;                                     \
        if (code == 3) return v > zero ? (v < (T)(1.0f) ? dy / 6.0f : zero) : zero;                              \
        if (code == 4) {                                                                                         \
            const T inner = v > (T)(3.0f) ? dy : dy * (v / 3.0f + 0.5f);                                         \
            return v < (T)(-3.0f) ? zero : inner;                                                                \
        }                                                                                                        \
        if (code == 5) return dy * v * ((T)(1.0f) - v);                                                          \
        if (code == 6) {                                                                                         \
            const T share = (T)(1.0f) / (exp(-v) + 1.0f);                                                        \
            return dy * share * (v * ((T)(1.0f) - share) + 1.0f);                                                \
        }                                                                                                        \
        const T density = exp(v * v * -0.5f) * 0.39894228f;                                                      \
        return dy * (normal_distribution_##T(v) + v * density);                                                  \
    }
DEFINE_ACTIVATIONS(float)
DEFINE_ACTIVATIONS(float4)
DEFINE_ACTIVATIONS(float16)

// The activation of a program that has one: its number, ReLU apart.
#ifndef ACTIVATION
#define ACTIVATION 0
#endif

// X(0) X(1) ... X(count - 1), for register tiles of named scalars.
#define EACH_1(X) X(0)
#define EACH_2(X) EACH_1(X) X(1)
#define EACH_3(X) EACH_2(X) X(2)
#define EACH_4(X) EACH_3(X) X(3)
#define EACH_5(X) EACH_4(X) X(4)
#define EACH_6(X) EACH_5(X) X(5)
#define EACH_7(X) EACH_6(X) X(6)
#define EACH_8(X) EACH_7(X) X(7)
#define EACH_9(X) EACH_8(X) X(8)
#define EACH_10(X) EACH_9(X) X(9)
#define EACH_11(X) EACH_10(X) X(10)
#define EACH_12(X) EACH_11(X) X(11)
#define EACH_13(X) EACH_12(X) X(12)
#define EACH_14(X) EACH_13(X) X(13)
#define EACH_OF(count, X) EACH_##count(X)
#define EACH_COUNT(count, X) EACH_OF(count, X)

// Register tiles of the CPU class are made of vectors of the device's width. VECTOR: 16, 8 or 4 floats, set by the host.
#ifndef VECTOR
#define VECTOR 16
#endif
#if VECTOR == 16
typedef float16 vector;
typedef int16 integer_vector;
#define LOAD(from) vload16(0, from)
#define STORE(value, to) vstore16(value, 0, to)
#define LANE_NUMBERS ((int16)(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
#elif VECTOR == 8
typedef float8 vector;
typedef int8 integer_vector;
#define LOAD(from) vload8(0, from)
#define STORE(value, to) vstore8(value, 0, to)
#define LANE_NUMBERS ((int8)(0, 1, 2, 3, 4, 5, 6, 7))
#else
typedef float4 vector;
typedef int4 integer_vector;
#define LOAD(from) vload4(0, from)
#define STORE(value, to) vstore4(value, 0, to)
#define LANE_NUMBERS ((int4)(0, 1, 2, 3))
#endif
#define ZERO_VECTOR ((vector)(0.0f))
