// Mean cross entropy of logits with label smoothing, its gradient, and the count of correct predictions, GPU class.
//
//   target_j = (1 - s) * [j = label] + s / classes,  d_j = x_j - max,  S = sum over j != arg-max of exp(d_j)
//   loss     = log1p(S) - (1 - s) * d_label - s / classes * sum over j of d_j         (exact where the loss is small)
//   dlogits  = (exp(d_j) / (1 + S) - target_j) / batch
//
// Arg-max is the first of equal values; a NaN wins. A label outside 0 ..< classes makes the loss NaN.
//
// Variants (default 0): MIXED, second labels with shares: [j = label] is share * [j = label] + (1 - share) * [j = second],
// and the label with the larger share counts as the right answer. WEIGHTED, u_j = weights_j * target_j:
//   loss = sum over j of u_j * (log1p(S) - d_j) / D,  dlogits = (softmax_j * sum of u - u_j) / D
// with D = batch where mixed, else the sum of the labels' weights (a row's loss has batch / D in it).
//
// Work-items: `softmax_rows` one group for each row; item i takes classes i, i + ITEMS, ... in order, then a tree.
// `softmax_finish` one group: item i takes rows i, i + ITEMS, ..., then a tree. Rows lie in the workspace as
// (loss, 1 if correct) pairs.
//
// Tunables (default; legal values)
//   ITEMS    256   items per group: a power of two, at most 256

#ifndef ITEMS
#define ITEMS 256
#endif
#ifndef MIXED
#define MIXED 0
#endif
#ifndef WEIGHTED
#define WEIGHTED 0
#endif
#if WEIGHTED
#define WEIGHT(j) weights[j]
#else
#define WEIGHT(j) 1.0f
#endif

// Whether (value, index) comes before (other, other_index) as arg-max.
static inline bool precedes(float value, int index, float other, int other_index) {
    if (isnan(value) || isnan(other)) return isnan(value) && (!isnan(other) || index < other_index);
    return value > other || (value == other && index < other_index);
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void softmax_rows(
    __global const float *restrict logits, __global const int *restrict labels, __global float *restrict dlogits,
    __global float *restrict rows,
#if MIXED
    __global const int *restrict second, __global const float *restrict shares,
#endif
#if WEIGHTED
    __global const float *restrict weights,
#endif
    int classes, int batch, float smoothing)
{
    __local float scratch[ITEMS];
    __local int indices[ITEMS];
    const int row = (int)get_group_id(0);
    const int item = (int)get_local_id(0);
    const int label = labels[row];
    __global const float *x = logits + (size_t)row * classes;

    float best = -INFINITY;
    int best_index = INT_MAX;
    for (int j = item; j < classes; j += ITEMS) {
        if (precedes(x[j], j, best, best_index)) {
            best = x[j];
            best_index = j;
        }
    }
    scratch[item] = best;
    indices[item] = best_index;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int width = ITEMS / 2; width > 0; width >>= 1) {
        if (item < width && precedes(scratch[item + width], indices[item + width], scratch[item], indices[item])) {
            scratch[item] = scratch[item + width];
            indices[item] = indices[item + width];
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    best = scratch[0];
    best_index = indices[0];
    barrier(CLK_LOCAL_MEM_FENCE);

    float item_sum = 0.0f, item_deviations = 0.0f;
    for (int j = item; j < classes; j += ITEMS) {
        const float deviation = x[j] - best;
        item_deviations += deviation;
        if (j != best_index) item_sum += exp(deviation);
    }
    const float sum = group_sum(item_sum, scratch, ITEMS);
    const float deviations = group_sum(item_deviations, scratch, ITEMS);

    const float share = smoothing / (float)classes;
    const bool known = label >= 0 && label < classes;
#if MIXED || WEIGHTED
#if MIXED
    const int other = second[row];
    const float part = shares[row];
    const bool all_known = known && other >= 0 && other < classes;
#else
    const int other = label;
    const float part = 1.0f;
    const bool all_known = known;
#endif
#define PULL(j) (WEIGHT(j) * ((1.0f - smoothing) * ((j == label ? part : 0.0f) + (j == other ? 1.0f - part : 0.0f)) \
                              + share))
    float denominator = (float)batch;
#if WEIGHTED && !MIXED
    float item_weights = 0.0f;
    for (int i = item; i < batch; i += ITEMS)
        item_weights += labels[i] >= 0 && labels[i] < classes ? weights[labels[i]] : NAN;
    denominator = group_sum(item_weights, scratch, ITEMS);
#endif
    float item_mass = 0.0f, item_pulled = 0.0f;
    for (int j = item; j < classes; j += ITEMS) {
        const float pull = PULL(j);
        item_mass += pull;
        if (pull != 0.0f) item_pulled += pull * (x[j] - best);
    }
    const float mass = group_sum(item_mass, scratch, ITEMS);
    const float pulled = group_sum(item_pulled, scratch, ITEMS);
    for (int j = item; j < classes; j += ITEMS)
        dlogits[(size_t)row * classes + j] = (exp(x[j] - best) / (1.0f + sum) * mass - PULL(j)) / denominator;
    if (item == 0) {
        rows[row * 2] = all_known ? (mass * log1p(sum) - pulled) * ((float)batch / denominator) : NAN;
        rows[row * 2 + 1] = best_index == (part >= 0.5f ? label : other) ? 1.0f : 0.0f;
    }
#else
    for (int j = item; j < classes; j += ITEMS) {
        const float target = (j == label ? 1.0f - smoothing : 0.0f) + share;
        dlogits[(size_t)row * classes + j] = (exp(x[j] - best) / (1.0f + sum) - target) / (float)batch;
    }
    if (item == 0) {
        const float label_deviation = known ? x[label] - best : NAN;
        float loss = log1p(sum) - (1.0f - smoothing) * label_deviation;
        if (smoothing != 0.0f) loss -= share * deviations;
        rows[row * 2] = loss;
        rows[row * 2 + 1] = best_index == label ? 1.0f : 0.0f;
    }
#endif
}

__kernel __attribute__((reqd_work_group_size(ITEMS, 1, 1)))
void softmax_finish(__global const float *restrict rows, __global float *restrict metrics, int batch)
{
    __local float scratch[ITEMS];
    float loss = 0.0f, correct = 0.0f;
    for (int row = (int)get_local_id(0); row < batch; row += ITEMS) {
        loss += rows[row * 2];
        correct += rows[row * 2 + 1];
    }
    loss = group_sum(loss, scratch, ITEMS);
    correct = group_sum(correct, scratch, ITEMS);
    if (get_local_id(0) == 0) {
        metrics[0] = loss / (float)batch;
        metrics[1] = correct;
    }
}
