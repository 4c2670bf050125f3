#include "COpenCL.h"

#ifdef GRAFT_OPENCL_FUNCTIONS

// For RTLD_DEFAULT.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

static const char *const usual_paths[] = {
    "libOpenCL.so.1",
    "libOpenCL.so",
#ifdef __APPLE__
    "/System/Library/Frameworks/OpenCL.framework/OpenCL",
#endif
};

int graft_opencl_load(const char *path, graft_opencl *table, char *reason, size_t reason_capacity) {
    void *library = NULL;
    if (path) {
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    } else if (dlsym(RTLD_DEFAULT, "clGetPlatformIDs")) {
        // The process has OpenCL already: a tool such as Oclgrind was preloaded, or the host program links a loader.
        library = dlopen(NULL, RTLD_NOW);
    } else {
        for (size_t i = 0; !library && i < sizeof(usual_paths) / sizeof(usual_paths[0]); i++)
            library = dlopen(usual_paths[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (!library) {
        const char *error = dlerror();
        snprintf(reason, reason_capacity, "no OpenCL loader: %s", error ? error : "it could not be opened");
        return 0;
    }
    graft_opencl found;
    const char *missing = NULL;
#define FIND(name) \
    if (!(found.name = (__typeof__(found.name))dlsym(library, "cl" #name))) missing = "cl" #name;
    GRAFT_OPENCL_FUNCTIONS(FIND)
#undef FIND
    if (missing) {
        snprintf(reason, reason_capacity, "the OpenCL loader has no function %s: it is older than OpenCL 1.2", missing);
        dlclose(library);
        return 0;
    }
    *table = found;
    return 1;
}

#endif
