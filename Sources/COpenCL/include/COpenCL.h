/// OpenCL 1.2 without a link-time dependency: the types of <CL/cl.h> and a table of the functions that Graft calls.
///
/// The library is opened at run time, so that a binary with the OpenCL backend starts on a machine that has no OpenCL
/// loader, and falls back. Without OpenCL headers this module is empty; the package then builds with its trait
/// `OpenCL` off.
#pragma once

#if __has_include(<CL/cl.h>)

#define CL_TARGET_OPENCL_VERSION 120
#include <CL/cl.h>
#include <stddef.h>

/// Each function as `FUNCTION(name)`, without the prefix `cl`.
#define GRAFT_OPENCL_FUNCTIONS(FUNCTION) \
    FUNCTION(GetPlatformIDs) \
    FUNCTION(GetPlatformInfo) \
    FUNCTION(GetDeviceIDs) \
    FUNCTION(GetDeviceInfo) \
    FUNCTION(CreateContext) \
    FUNCTION(ReleaseContext) \
    FUNCTION(CreateCommandQueue) \
    FUNCTION(ReleaseCommandQueue) \
    FUNCTION(CreateBuffer) \
    FUNCTION(CreateSubBuffer) \
    FUNCTION(ReleaseMemObject) \
    FUNCTION(CreateProgramWithSource) \
    FUNCTION(CreateProgramWithBinary) \
    FUNCTION(BuildProgram) \
    FUNCTION(GetProgramInfo) \
    FUNCTION(GetProgramBuildInfo) \
    FUNCTION(ReleaseProgram) \
    FUNCTION(CreateKernel) \
    FUNCTION(ReleaseKernel) \
    FUNCTION(GetKernelInfo) \
    FUNCTION(GetKernelWorkGroupInfo) \
    FUNCTION(SetKernelArg) \
    FUNCTION(EnqueueNDRangeKernel) \
    FUNCTION(EnqueueReadBuffer) \
    FUNCTION(EnqueueMapBuffer) \
    FUNCTION(EnqueueUnmapMemObject) \
    FUNCTION(EnqueueFillBuffer) \
    FUNCTION(GetEventProfilingInfo) \
    FUNCTION(ReleaseEvent) \
    FUNCTION(Flush) \
    FUNCTION(Finish)

/// The functions, all present.
typedef struct graft_opencl {
#define GRAFT_OPENCL_FIELD(name) __typeof__(cl##name) *_Nonnull name;
    GRAFT_OPENCL_FUNCTIONS(GRAFT_OPENCL_FIELD)
#undef GRAFT_OPENCL_FIELD
} graft_opencl;

/// Opens the OpenCL loader and fills a table; the library stays open for the life of the process.
///
/// - `path`: the library to open, or NULL for the usual names.
/// - `reason`: on failure gets a text of less than `reason_capacity` bytes that says why.
/// Returns 1 on success, 0 on failure; then the table is untouched.
int graft_opencl_load(
    const char *_Nullable path, graft_opencl *_Nonnull table, char *_Nonnull reason, size_t reason_capacity);

#endif
