/// The demo's network, embedded: a safetensors file that `Sources/Graft/Demo/make-weights.sh` reproduces.
#pragma once

#include <stddef.h>

/// First byte of the file.
const unsigned char *graft_demo_weights(void);

/// Bytes of the file.
size_t graft_demo_weights_count(void);
