// The OpenCL C files of cl/, embedded: name → text. A file that is added to cl/ gets an entry here, in its section;
// a test compares this table with the folder. Nothing else is in this file.

#include "kernel_sources.h"

// An entry is BEGIN("name"), the #embed of the file with a zero byte behind it, END.
#define BEGIN(name) {name, (const char *)(const unsigned char[]){
#define END }}

static const graft_kernel_source sources[] = {
    BEGIN("prelude")
#embed "cl/prelude.cl" suffix(, 0)
    END,

    // CPU class: *_cpu.cl

    // GPU class: *_gpu.cl

};

size_t graft_kernel_source_count(void) { return sizeof(sources) / sizeof(sources[0]); }

const graft_kernel_source *graft_kernel_source_at(size_t index) {
    return index < graft_kernel_source_count() ? &sources[index] : NULL;
}
