#include "CDemoWeights.h"

static const unsigned char weights[] = {
#embed "resnet8_cifar.safetensors"
};

const unsigned char *graft_demo_weights(void) { return weights; }

size_t graft_demo_weights_count(void) { return sizeof(weights); }
