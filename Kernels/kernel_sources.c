// The OpenCL C files of cl/, embedded: name → text. A file that is added to cl/ gets an entry here, in its section;
// a test compares this table with the folder. Nothing else is in this file.

#include "kernel_sources.h"

// An entry is BEGIN("name"), the #embed of the file with a zero byte behind it, END.
#define BEGIN(name) {name, (const char *)(const unsigned char[]){
#define END }}

static const GraftKernelSource sources[] = {
    BEGIN("prelude")
#embed "cl/prelude.cl" suffix(, 0)
    END,

    // CPU class: *_cpu.cl

    // GPU class: *_gpu.cl

};

size_t graftKernelSourceCount(void) { return sizeof(sources) / sizeof(sources[0]); }

const GraftKernelSource *graftKernelSourceAt(size_t index) {
    return index < graftKernelSourceCount() ? &sources[index] : NULL;
}
