// Softmax cross-entropy: loss, count of correct answers and the logits' gradient at once; CPU class.
//
// logits [classes/16][N][16]. With m = max x, S = sum over j other than the maximum's of exp(x_j - m):
//   loss = log1p(S) - (1-s)*(x_label - m) - s/classes * sum of (x_j - m)      exact for small losses
//   dlogits = (exp(x_j - m)/(1 + S) - target) / N,  target = (1-s)*onehot + s/classes
// softmax_cross_entropy: work-item n = one sample; partial[n] = {loss, 1 if the first maximum is the label}.
// mean_metrics: one work-item; metrics = {mean loss, number of correct answers}, samples in pairs by a fixed tree.
// A label outside of 0 ..< classes yields NaN loss.
//
// Variants (default 0): MIXED, second labels with shares: onehot is share*onehot(label) + (1-share)*onehot(second), and
// the label with the larger share counts as the right answer. WEIGHTED, u_j = weights_j*target_j:
//   loss = sum of u_j*(log(1+S) - (x_j - m)) / D,  dlogits = (softmax_j * sum of u - u_j) / D
// with D = N where mixed, else the sum of the labels' weights (the partial loss has N/D in it).
//
// Tunables: none.

#ifndef MIXED
#define MIXED 0
#endif
#ifndef WEIGHTED
#define WEIGHTED 0
#endif

#define SINGLE_ITEM __attribute__((reqd_work_group_size(1, 1, 1)))

SINGLE_ITEM kernel void softmax_cross_entropy(const __global float *restrict logits,
                                              const __global int *restrict labels, __global float *restrict dlogits,
                                              __global float *restrict partial,
#if MIXED
                                              const __global int *restrict second,
                                              const __global float *restrict shares,
#endif
#if WEIGHTED
                                              const __global float *restrict weights,
#endif
                                              int classes, float smoothing) {
    const int n = (int)get_global_id(0), batch = (int)get_global_size(0);
    const int label = labels[n];
    const size_t step = (size_t)batch * 16;
    const __global float *row = logits + (size_t)n * 16;
    __global float *to = dlogits + (size_t)n * 16;
    float largest = -INFINITY;
    int best = 0;
    for (int j = 0; j < classes; ++j) {
        const float value = row[j / 16 * step + j % 16];
        if (value > largest || isnan(value)) {
            largest = value;
            best = j;
        }
    }
    float others = 0.0f, distance = 0.0f;
    for (int j0 = 0; j0 < classes; j0 += 16) {
        float blockOthers = 0.0f, blockDistance = 0.0f;
        for (int lane = 0; lane < 16 && j0 + lane < classes; ++lane) {
            const float shifted = row[j0 / 16 * step + lane] - largest;
            const float power = exp(shifted);
            to[j0 / 16 * step + lane] = power;
            blockDistance += shifted;
            if (j0 + lane != best) blockOthers += power;
        }
        others += blockOthers;
        distance += blockDistance;
    }
    const float total = 1.0f + others;
    const float spread = smoothing / (float)classes;
    const int valid = label >= 0 && label < classes;
#if MIXED || WEIGHTED
#if MIXED
    const int other = second[n];
    const float share = shares[n];
    const int allValid = valid && other >= 0 && other < classes;
#else
    const int other = label, allValid = valid;
    const float share = 1.0f;
#endif
#if WEIGHTED
#define WEIGHT(j) weights[j]
#else
#define WEIGHT(j) 1.0f
#endif
#define PULL(j) (WEIGHT(j) * ((1.0f - smoothing) * ((j == label ? share : 0.0f) + (j == other ? 1.0f - share : 0.0f)) \
                              + spread))
    float denominator = (float)batch;
#if WEIGHTED && !MIXED
    denominator = 0.0f;
    for (int i = 0; i < batch; ++i)
        denominator += labels[i] >= 0 && labels[i] < classes ? weights[labels[i]] : NAN;
#endif
    float mass = 0.0f, pulled = 0.0f;
    for (int j0 = 0; j0 < classes; j0 += 16) {
        float blockMass = 0.0f, blockPulled = 0.0f;
        for (int lane = 0; lane < 16 && j0 + lane < classes; ++lane) {
            const float pull = PULL(j0 + lane);
            blockMass += pull;
            if (pull != 0.0f) blockPulled += pull * (row[j0 / 16 * step + lane] - largest);
        }
        mass += blockMass;
        pulled += blockPulled;
    }
    for (int j = 0; j < (classes + 15) / 16 * 16; ++j) {
        const size_t at = j / 16 * step + j % 16;
        to[at] = j < classes ? (to[at] / total * mass - PULL(j)) / denominator : 0.0f;
    }
    partial[n * 2] = allValid ? (mass * log1p(others) - pulled) * ((float)batch / denominator) : NAN;
    partial[n * 2 + 1] = best == (share >= 0.5f ? label : other) ? 1.0f : 0.0f;
#else
    for (int j = 0; j < (classes + 15) / 16 * 16; ++j) {
        const size_t at = j / 16 * step + j % 16;
        const float target = (j == label ? 1.0f - smoothing : 0.0f) + spread;
        to[at] = j < classes ? (to[at] / total - target) / (float)batch : 0.0f;
    }
    const float chosen = valid ? row[label / 16 * step + label % 16] - largest : NAN;
    partial[n * 2] = log1p(others) - (1.0f - smoothing) * chosen - (smoothing > 0.0f ? spread * distance : 0.0f);
    partial[n * 2 + 1] = best == label ? 1.0f : 0.0f;
#endif
}

// Overwrites partial.
SINGLE_ITEM kernel void mean_metrics(__global float *restrict partial, __global float *restrict metrics, int batch) {
    for (int width = 1; width < batch; width *= 2)
        for (int n = 0; n + width < batch; n += 2 * width) {
            partial[n * 2] += partial[(n + width) * 2];
            partial[n * 2 + 1] += partial[(n + width) * 2 + 1];
        }
    metrics[0] = partial[0] / (float)batch;
    metrics[1] = partial[1];
}
