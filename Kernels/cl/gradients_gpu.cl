// What is done to the gradients and weights of all cohorts at once, GPU class.
//
//   accumulate       sum = share >= 1 ? g : sum + share * (g - sum);  g = sum
//   square_sums      partial[i] = squares of run i;  norm: result = {root of all, min(1, maximum / (norm + 1e-6))}
//   scale_by_norm    g *= norm[1]
//   average_weights  average += share * (w - average)
//
// Work-items: one for each element (grid rounded up). `square_sums` one group for each run of `run` elements: item i takes
// elements i, i + ITEMS, ... in blocks of 64, then a tree; `norm` one group in the same way over the partial sums. Runs
// follow the slab's length alone. Gaps between parameters hold zero gradients.
//
// Tunables (default; legal values)
//   ITEMS    256   items per group: a power of two, at most 256

#ifndef ITEMS
#define ITEMS 256
#endif

__kernel void accumulate(__global float *restrict gradients, __global float *restrict sums, int count, float share)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const float g = gradients[i];
    const float before = sums[i];
    const float sum = share >= 1.0f ? g : before + share * (g - before);
    sums[i] = sum;
    gradients[i] = sum;
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void square_sums(__global const float *restrict gradients, __global float *restrict partial, int count, int run)
{
    __local float scratch[ITEMS];
    const int group = (int)get_group_id(0);
    const int end = (int)min((long)(group + 1) * run, (long)count);
    float total = 0.0f;
    int i = group * run + (int)get_local_id(0);
    while (i < end) {
        float sum = 0.0f;
        for (int k = 0; k < 64 && i < end; ++k, i += ITEMS) sum += gradients[i] * gradients[i];
        total += sum;
    }
    total = group_sum(total, scratch, ITEMS);
    if (get_local_id(0) == 0) partial[group] = total;
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void norm(__global const float *restrict partial, __global float *restrict result, int count, float maximum)
{
    __local float scratch[ITEMS];
    float sum = 0.0f;
    for (int i = (int)get_local_id(0); i < count; i += ITEMS) sum += partial[i];
    sum = group_sum(sum, scratch, ITEMS);
    if (get_local_id(0) == 0) {
        const float length = sqrt(sum);
        const float factor = maximum / (length + 1e-6f);
        result[0] = length;
        result[1] = factor > 1.0f ? 1.0f : factor;
    }
}

__kernel void scale_by_norm(__global float *restrict gradients, __global const float *restrict norm, int count)
{
    const int i = (int)get_global_id(0);
    if (i < count) gradients[i] *= norm[1];
}

__kernel void average_weights(
    __global const float *restrict parameters, __global float *restrict averages, int count, float share)
{
    const int i = (int)get_global_id(0);
    if (i >= count) return;
    const float before = averages[i];
    averages[i] = before + share * (parameters[i] - before);
}
