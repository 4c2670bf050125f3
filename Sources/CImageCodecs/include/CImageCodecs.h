/// A C shim over libjpeg-turbo and libpng.
///
/// Both libraries report errors with `longjmp`, which must not cross Swift frames: every jump starts and ends in this
/// target, and errors come back as a status and a message. Pictures are decoded from memory into packed RGB, 8 bits per
/// channel, converted as Pillow's `convert("RGB")` does.
#pragma once

#include <stdbool.h>
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

/// Has a JPEG decoded at `eighths`/8 of its size (1, 2, 4 or 8), rounded up; `result` gets the extents from then on.
/// Before reading; a PNG keeps its size.
void graft_image_scale(graft_image_decoder *decoder, uint32_t eighths, graft_image_result *result);

/// A rectangle of pixels.
typedef struct graft_image_window {
    uint32_t x;
    uint32_t y;
    uint32_t width;
    uint32_t height;
} graft_image_window;

/// Decodes into `pixels`, width × height × 3 bytes, rows from top to bottom, R G B per pixel. Once per decoder.
///
/// Only the pixels of `window` are sure to be written, each at its place in the whole picture and with the value it has
/// when the window is the whole. The file is read to its end in any case, so that a file that ends early is one.
void graft_image_read(graft_image_decoder *decoder, graft_image_window window, uint8_t *pixels,
                      graft_image_result *result);

/// Whether the JPEG library is one whose rows and columns outside a window can be left out.
bool graft_jpeg_decodes_windows(void);

/// What the JPEG library that is loaded says of itself: version and copyright years. Empty when it says nothing.
void graft_jpeg_library_version(char *text, size_t capacity);

/// What the PNG library that is loaded says of itself.
const char *graft_png_library_version(void);

/// The file of the JPEG library that is loaded, as the loader names it; NULL when it is not known.
const char *graft_jpeg_library_path(void);

/// The file of the PNG library that is loaded.
const char *graft_png_library_path(void);

/// Frees a decoder; NULL is allowed.
void graft_image_close(graft_image_decoder *decoder);

/// Encodes packed RGB as a PNG file in memory, to be freed with `graft_image_free`. NULL unless the status is OK.
uint8_t *graft_png_encode(const uint8_t *pixels, uint32_t width, uint32_t height, int compression_level,
                          size_t *byte_count, graft_image_result *result);

/// Frees what `graft_png_encode` returned.
void graft_image_free(uint8_t *bytes);

/// The weights of one direction of resampling; see GraftVision's `Resampling.Weights`.
typedef struct graft_resample_weights {
    /// Positions of the result.
    size_t count;
    const ptrdiff_t *starts;
    const ptrdiff_t *pair_counts;
    const uint32_t *high_pairs;
    const uint32_t *low_pairs;
    /// Pairs from one position's weights to the next one's: an even number.
    size_t capacity;
} graft_resample_weights;

/// Whether the functions below work on this processor; elsewhere they do nothing.
bool graft_resample_has_avx2(void);

/// The horizontal pass; column 0 of `source` is the picture's `first_column`. Reads up to 13 bytes behind the last pixel.
void graft_resample_rows_avx2(const uint8_t *source, size_t source_stride, size_t row_count,
                              const graft_resample_weights *weights, ptrdiff_t first_column, uint8_t *target,
                              size_t target_stride);

/// The vertical pass over rows of `byte_count` bytes; row 0 of `source` is the picture's `first_row`, the last one
/// `last_row` of `source`. Reads up to 31 bytes behind a row.
void graft_resample_columns_avx2(const uint8_t *source, size_t source_stride, size_t byte_count, ptrdiff_t last_row,
                                 const graft_resample_weights *weights, ptrdiff_t first_row, uint8_t *target,
                                 size_t target_stride);

#ifdef __cplusplus
}
#endif
