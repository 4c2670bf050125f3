/// A C shim over libjpeg-turbo and libpng.
///
/// Both libraries report errors with `longjmp`, which must not cross Swift frames: every jump starts and ends in this
/// target, and errors come back as a status and a message. Pictures are decoded from memory into packed RGB, 8 bits per
/// channel, converted as Pillow's `convert("RGB")` does.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/// What became of a call.
typedef enum graft_image_status {
    GRAFT_IMAGE_OK = 0,
    /// The file ends before the picture does.
    GRAFT_IMAGE_TRUNCATED = 1,
    /// The file contradicts its format; `message` is the library's.
    GRAFT_IMAGE_DAMAGED = 2,
    /// A valid file of a kind that is not decoded.
    GRAFT_IMAGE_UNSUPPORTED = 3,
    /// More pixels than the caller allows; `width` and `height` are set.
    GRAFT_IMAGE_TOO_LARGE = 4,
    GRAFT_IMAGE_OUT_OF_MEMORY = 5,
} graft_image_status;

/// The outcome of a call: a status, the picture's extents as far as they are known, and a message for a fault.
typedef struct graft_image_result {
    graft_image_status status;
    uint32_t width;
    uint32_t height;
    char message[256];
} graft_image_result;

/// A decoder between reading the header and reading the pixels.
typedef struct graft_image_decoder graft_image_decoder;

/// Reads the header of a JPEG file in memory.
///
/// `bytes` must stay in place until the decoder is closed. `pixel_limit` bounds width × height, checked before anything
/// of that size is allocated. Returns NULL unless the status is OK.
graft_image_decoder *graft_jpeg_open(const uint8_t *bytes, size_t byte_count, uint64_t pixel_limit,
                                     graft_image_result *result);

/// Reads the header of a PNG file in memory; as `graft_jpeg_open`.
graft_image_decoder *graft_png_open(const uint8_t *bytes, size_t byte_count, uint64_t pixel_limit,
                                    graft_image_result *result);

/// Decodes into `pixels`, width × height × 3 bytes, rows from top to bottom, R G B per pixel. Once per decoder.
void graft_image_read(graft_image_decoder *decoder, uint8_t *pixels, graft_image_result *result);

/// Frees a decoder; NULL is allowed.
void graft_image_close(graft_image_decoder *decoder);

/// Encodes packed RGB as a PNG file in memory, to be freed with `graft_image_free`. NULL unless the status is OK.
uint8_t *graft_png_encode(const uint8_t *pixels, uint32_t width, uint32_t height, int compression_level,
                          size_t *byte_count, graft_image_result *result);

/// Frees what `graft_png_encode` returned.
void graft_image_free(uint8_t *bytes);

#ifdef __cplusplus
}
#endif
