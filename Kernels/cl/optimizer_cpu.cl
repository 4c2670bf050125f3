// One optimizer step over a slab of parameters, CPU class. Rules as in torch.optim.
//
//   sgd:   g += weightDecay*w;  b = first ? g : momentum*b + g;  u = NESTEROV ? g + momentum*b : b;  w -= rate*u
//   adam:  DECOUPLED ? w *= 1 - rate*weightDecay : g += weightDecay*w;
//          m = beta1*m + (1-beta1)*g;  v = beta2*v + (1-beta2)*g*g;
//          w -= (rate/correction1) * m / (sqrt(v)/correction2Root + epsilon)
// Work-item: runFloats floats of floatCount, in vectors of 16 and a rest.
//
// Tunables: MOMENTUM, NESTEROV (0, 1; default 0) of sgd; DECOUPLED (0, 1; default 0) of adam.

#ifndef MOMENTUM
#define MOMENTUM 0
#endif
#ifndef NESTEROV
#define NESTEROV 0
#endif
#ifndef DECOUPLED
#define DECOUPLED 0
#endif

#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1))) __attribute__((vec_type_hint(float16)))

// Once for vectors, once for the rest.
#if MOMENTUM
#define DESCEND(T, LOAD, STORE)                                             \
    const T value = LOAD(w);                                                \
    const T slope = fma((T)(weightDecay), value, LOAD(g));                  \
    const T kept = isFirst ? slope : fma((T)(momentum), LOAD(b), slope);    \
    const T step = NESTEROV ? fma((T)(momentum), kept, slope) : kept;       \
    STORE(kept, b);                                                         \
    STORE(fma((T)(-rate), step, value), w);
#else
#define DESCEND(T, LOAD, STORE)                               \
    const T value = LOAD(w);                                  \
    const T step = fma((T)(weightDecay), value, LOAD(g));     \
    STORE(fma((T)(-rate), step, value), w);
#endif
#define LOAD_VECTOR(p) vload16(0, p + index)
#define STORE_VECTOR(value, p) vstore16(value, 0, p + index)
#define LOAD_ONE(p) p[index]
#define STORE_ONE(value, p) p[index] = value

SINGLE_ITEM kernel void sgd(__global float *restrict w, const __global float *restrict g,
#if MOMENTUM
                            __global float *restrict b,
#endif
                            int floatCount, int runFloats, float rate, float weightDecay
#if MOMENTUM
                            , float momentum, int isFirst
#endif
) {
    size_t index = get_global_id(0) * (size_t)runFloats;
    const size_t end = min(index + runFloats, (size_t)floatCount);
    for (; index + 16 <= end; index += 16) {
        DESCEND(float16, LOAD_VECTOR, STORE_VECTOR)
    }
    for (; index < end; ++index) {
        DESCEND(float, LOAD_ONE, STORE_ONE)
    }
}

#define ADAM_STEP(T, LOAD, STORE)                                                       \
    T value = LOAD(w), slope = LOAD(g);                                                 \
    if (DECOUPLED)                                                                      \
        value *= 1.0f - rate * weightDecay;                                             \
    else                                                                                \
        slope = fma((T)(weightDecay), value, slope);                                    \
    const T first = fma((T)(beta1), LOAD(m), (1.0f - beta1) * slope);                   \
    const T second = fma((T)(beta2), LOAD(v), (1.0f - beta2) * slope * slope);          \
    STORE(first, m);                                                                    \
    STORE(second, v);                                                                   \
    STORE(value - (rate / correction1) * first / (sqrt(second) / correction2Root + epsilon), w);

SINGLE_ITEM kernel void adam(__global float *restrict w, const __global float *restrict g, __global float *restrict m,
                             __global float *restrict v, int floatCount, int runFloats, float rate, float weightDecay,
                             float beta1, float beta2, float epsilon, float correction1, float correction2Root) {
    size_t index = get_global_id(0) * (size_t)runFloats;
    const size_t end = min(index + runFloats, (size_t)floatCount);
    for (; index + 16 <= end; index += 16) {
        ADAM_STEP(float16, LOAD_VECTOR, STORE_VECTOR)
    }
    for (; index < end; ++index) {
        ADAM_STEP(float, LOAD_ONE, STORE_ONE)
    }
}
