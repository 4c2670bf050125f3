// Optimizer updates over the slab range of one cohort, GPU class. Rules as in torch.optim.
//
//   sgd            g += decay * w;  w -= rate * g
//   sgd_momentum   g += decay * w;  b = first ? g : momentum * b + g;  w -= rate * (NESTEROV ? g + momentum * b : b)
//   adam           g += decay * w, or w *= 1 - rate * decay (DECOUPLED);  m = beta1 * m + (1 - beta1) * g;
//                  v = beta2 * v + (1 - beta2) * g * g;
//                  w -= (rate / correction1) * m / (sqrt(v) / correction2_root + epsilon)
//
// Work-items: one for each element of the range (grid rounded up); each touches its own element only. Gaps between
// parameters are walked too: what they hold reaches no parameter.
//
// Variants (default 0): NESTEROV, DECOUPLED as above. No tunables.

#ifndef NESTEROV
#define NESTEROV 0
#endif
#ifndef DECOUPLED
#define DECOUPLED 0
#endif

__kernel void sgd(
    __global float *restrict parameters, __global const float *restrict gradients, int count, float rate, float decay)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const float w = parameters[i];
    parameters[i] = w - rate * (gradients[i] + decay * w);
}

__kernel void sgd_momentum(
    __global float *restrict parameters, __global const float *restrict gradients, __global float *restrict buffers,
    int count, float rate, float decay, float momentum, int is_first_step)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const float w = parameters[i];
    const float g = gradients[i] + decay * w;
    const float b = is_first_step ? g : momentum * buffers[i] + g;
    buffers[i] = b;
#if NESTEROV
    parameters[i] = w - rate * (g + momentum * b);
#else
    parameters[i] = w - rate * b;
#endif
}

__kernel void adam(
    __global float *restrict parameters, __global const float *restrict gradients,
    __global float *restrict first_moments,
    __global float *restrict second_moments, int count, float rate, float decay, float beta1, float beta2,
    float epsilon,
    float correction1, float correction2_root)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    float w = parameters[i];
    float g = gradients[i];
#if DECOUPLED
    w *= 1.0f - rate * decay;
#else
    g += decay * w;
#endif
    const float m = beta1 * first_moments[i] + (1.0f - beta1) * g;
    const float v = beta2 * second_moments[i] + (1.0f - beta2) * g * g;
    first_moments[i] = m;
    second_moments[i] = v;
    parameters[i] = w - (rate / correction1) * (m / (sqrt(v) / correction2_root + epsilon));
}
