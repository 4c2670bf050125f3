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
    BEGIN("batch_normalization_cpu")
#embed "cl/batch_normalization_cpu.cl" suffix(, 0)
    END,
    BEGIN("convolution_cpu")
#embed "cl/convolution_cpu.cl" suffix(, 0)
    END,
    BEGIN("convolution_gradient_cpu")
#embed "cl/convolution_gradient_cpu.cl" suffix(, 0)
    END,
    BEGIN("depthwise_cpu")
#embed "cl/depthwise_cpu.cl" suffix(, 0)
    END,
    BEGIN("elementwise_cpu")
#embed "cl/elementwise_cpu.cl" suffix(, 0)
    END,
    BEGIN("layer_normalization_cpu")
#embed "cl/layer_normalization_cpu.cl" suffix(, 0)
    END,
    BEGIN("gradients_cpu")
#embed "cl/gradients_cpu.cl" suffix(, 0)
    END,
    BEGIN("optimizer_cpu")
#embed "cl/optimizer_cpu.cl" suffix(, 0)
    END,
    BEGIN("pooling_cpu")
#embed "cl/pooling_cpu.cl" suffix(, 0)
    END,
    BEGIN("softmax_cross_entropy_cpu")
#embed "cl/softmax_cross_entropy_cpu.cl" suffix(, 0)
    END,
    BEGIN("winograd_cpu")
#embed "cl/winograd_cpu.cl" suffix(, 0)
    END,

    // GPU class: *_gpu.cl
    BEGIN("batch_normalization_gpu")
#embed "cl/batch_normalization_gpu.cl" suffix(, 0)
    END,
    BEGIN("convolution_gpu")
#embed "cl/convolution_gpu.cl" suffix(, 0)
    END,
    BEGIN("convolution_weight_gradient_gpu")
#embed "cl/convolution_weight_gradient_gpu.cl" suffix(, 0)
    END,
    BEGIN("depthwise_gpu")
#embed "cl/depthwise_gpu.cl" suffix(, 0)
    END,
    BEGIN("elementwise_gpu")
#embed "cl/elementwise_gpu.cl" suffix(, 0)
    END,
    BEGIN("layer_normalization_gpu")
#embed "cl/layer_normalization_gpu.cl" suffix(, 0)
    END,
    BEGIN("gradients_gpu")
#embed "cl/gradients_gpu.cl" suffix(, 0)
    END,
    BEGIN("optimizer_gpu")
#embed "cl/optimizer_gpu.cl" suffix(, 0)
    END,
    BEGIN("pooling_gpu")
#embed "cl/pooling_gpu.cl" suffix(, 0)
    END,
    BEGIN("softmax_cross_entropy_gpu")
#embed "cl/softmax_cross_entropy_gpu.cl" suffix(, 0)
    END,
    BEGIN("winograd_gpu")
#embed "cl/winograd_gpu.cl" suffix(, 0)
    END,
    BEGIN("winograd_weight_gradient_gpu")
#embed "cl/winograd_weight_gradient_gpu.cl" suffix(, 0)
    END,
};

size_t graft_kernel_source_count(void) { return sizeof(sources) / sizeof(sources[0]); }

const graft_kernel_source *graft_kernel_source_at(size_t index) {
    return index < graft_kernel_source_count() ? &sources[index] : NULL;
}
