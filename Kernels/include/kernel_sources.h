#pragma once

#include <stddef.h>

/// One OpenCL C file of `Kernels/cl`, embedded at build time.
typedef struct graft_kernel_source {
    /// File name without `.cl`.
    const char *_Nonnull name;
    /// The text, with a zero byte behind it.
    const char *_Nonnull text;
} graft_kernel_source;

/// How many files there are.
size_t graft_kernel_source_count(void);

/// A file by position in `0 ..< graft_kernel_source_count()`; NULL beyond.
const graft_kernel_source *_Nullable graft_kernel_source_at(size_t index);
