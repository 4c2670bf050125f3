#pragma once

#include <stddef.h>

/// One OpenCL C file of `Kernels/cl`, embedded at build time.
typedef struct {
    /// File name without `.cl`.
    const char *_Nonnull name;
    /// The text, with a zero byte behind it.
    const char *_Nonnull text;
} GraftKernelSource;

/// How many files there are.
size_t graftKernelSourceCount(void);

/// A file by position in `0 ..< graftKernelSourceCount()`; NULL beyond.
const GraftKernelSource *_Nullable graftKernelSourceAt(size_t index);
