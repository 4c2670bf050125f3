// Helpers that every program begins with: the host puts this file before each other file of this folder.
//
// Nothing here is a kernel. Floating point is plain float32: no fast-math option is ever passed, contraction is off, and
// a kernel that wants a fused multiply-add calls fma() or mad() itself, so that a result depends on the source alone.

#pragma OPENCL FP_CONTRACT OFF

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
