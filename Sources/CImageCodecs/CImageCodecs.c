// For dladdr.
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "CImageCodecs.h"

#include <dlfcn.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <jerror.h>
#include <png.h>

// ---------------------------------------------------------------------------------------------------------------------
// Common

enum graft_image_kind { GRAFT_KIND_JPEG, GRAFT_KIND_PNG };

struct graft_image_decoder {
    enum graft_image_kind kind;
    uint32_t width;
    uint32_t height;
    // Where the library jumps on a fault; set at the start of every call that enters the library.
    jmp_buf fault;
    graft_image_status fault_status;
    char message[256];
    // Freed in close, so that no pointer has to survive a longjmp in a local variable.
    uint8_t *row;
    png_bytep *rows;

    struct jpeg_decompress_struct jpeg;
    struct jpeg_error_mgr jpeg_errors;
    struct jpeg_source_mgr jpeg_source;
    struct jpeg_progress_mgr jpeg_progress;
    // Whether the library asked for bytes behind the file's end: skipping rows does not report it.
    bool jpeg_ran_out;

    png_structp png;
    png_infop png_information;
    const uint8_t *next;
    size_t remaining;
    // 16-bit grey is narrowed here instead of by libpng.
    bool is_deep_gray;
};

static void set_result(graft_image_result *result, graft_image_status status, uint32_t width, uint32_t height,
                       const char *message) {
    result->status = status;
    result->width = width;
    result->height = height;
    snprintf(result->message, sizeof result->message, "%s", message);
}

static void set_fault(graft_image_decoder *decoder, graft_image_result *result) {
    set_result(result, decoder->fault_status, decoder->width, decoder->height, decoder->message);
}

static bool within_limit(uint64_t width, uint64_t height, uint64_t pixel_limit) {
    // 2^31 × 2^31 still fits 64 bits, and no format here has longer sides.
    return width != 0 && height != 0 && width <= 0x7fffffff && height <= 0x7fffffff && width * height <= pixel_limit;
}

// ---------------------------------------------------------------------------------------------------------------------
// Libraries

void graft_jpeg_library_version(char *text, size_t capacity) {
    // The library's table of messages holds them; the headers' macros are those of the build.
    struct jpeg_error_mgr errors;
    jpeg_std_error(&errors);
    text[0] = 0;
    if (errors.last_jpeg_message < JMSG_VERSION || errors.last_jpeg_message < JMSG_COPYRIGHT) return;
    snprintf(text, capacity, "%s %s", errors.jpeg_message_table[JMSG_VERSION], errors.jpeg_message_table[JMSG_COPYRIGHT]);
}

const char *graft_png_library_version(void) { return png_get_libpng_ver(NULL); }

static const char *library_path(const void *function) {
    Dl_info information;
    return dladdr(function, &information) ? information.dli_fname : NULL;
}

const char *graft_jpeg_library_path(void) { return library_path((const void *)jpeg_start_decompress); }

const char *graft_png_library_path(void) { return library_path((const void *)png_read_image); }

// ---------------------------------------------------------------------------------------------------------------------
// JPEG

// More scans than any encoder writes: a file may otherwise hold a core for hours.
static const int maximum_scan_count = 200;

static graft_image_decoder *jpeg_owner(j_common_ptr library) { return library->client_data; }

[[noreturn]] static void jpeg_fault(j_common_ptr library) {
    graft_image_decoder *decoder = jpeg_owner(library);
    char message[JMSG_LENGTH_MAX];
    library->err->format_message(library, message);
    snprintf(decoder->message, sizeof decoder->message, "%s", message);
    decoder->fault_status =
        library->err->msg_code == JERR_OUT_OF_MEMORY ? GRAFT_IMAGE_OUT_OF_MEMORY : GRAFT_IMAGE_DAMAGED;
    longjmp(decoder->fault, 1);
}

// Warnings (extraneous bytes, bad restart markers) leave a picture, as in Pillow.
static void jpeg_silence(j_common_ptr library) { (void)library; }

static void jpeg_nothing(j_decompress_ptr library) { (void)library; }

// The whole file is in memory, so a wish for more means that it ends early: the library then suspends.
static boolean jpeg_no_more(j_decompress_ptr library) {
    jpeg_owner((j_common_ptr)library)->jpeg_ran_out = true;
    return FALSE;
}

static void jpeg_skip(j_decompress_ptr library, long count) {
    if (count <= 0) return;
    size_t skipped = (size_t)count;
    if (skipped > library->src->bytes_in_buffer) skipped = library->src->bytes_in_buffer;
    library->src->next_input_byte += skipped;
    library->src->bytes_in_buffer -= skipped;
}

static void jpeg_watch_scans(j_common_ptr library) {
    graft_image_decoder *decoder = jpeg_owner(library);
    if (decoder->jpeg.input_scan_number > maximum_scan_count) {
        snprintf(decoder->message, sizeof decoder->message, "more than %d scans", maximum_scan_count);
        decoder->fault_status = GRAFT_IMAGE_DAMAGED;
        longjmp(decoder->fault, 1);
    }
}

graft_image_decoder *graft_jpeg_open(const uint8_t *bytes, size_t byte_count, uint64_t pixel_limit,
                                     graft_image_result *result) {
    graft_image_decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) {
        set_result(result, GRAFT_IMAGE_OUT_OF_MEMORY, 0, 0, "no memory for a decoder");
        return NULL;
    }
    decoder->kind = GRAFT_KIND_JPEG;
    if (setjmp(decoder->fault)) {
        set_fault(decoder, result);
        graft_image_close(decoder);
        return NULL;
    }
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    jpeg->err = jpeg_std_error(&decoder->jpeg_errors);
    decoder->jpeg_errors.error_exit = jpeg_fault;
    decoder->jpeg_errors.output_message = jpeg_silence;
    jpeg->client_data = decoder;
    jpeg_create_decompress(jpeg);
    jpeg->client_data = decoder;
    decoder->jpeg_source = (struct jpeg_source_mgr){
        .next_input_byte = bytes,
        .bytes_in_buffer = byte_count,
        .init_source = jpeg_nothing,
        .fill_input_buffer = jpeg_no_more,
        .skip_input_data = jpeg_skip,
        .resync_to_restart = jpeg_resync_to_restart,
        .term_source = jpeg_nothing,
    };
    jpeg->src = &decoder->jpeg_source;
    decoder->jpeg_progress.progress_monitor = jpeg_watch_scans;
    jpeg->progress = &decoder->jpeg_progress;

    int header;
    do {
        header = jpeg_read_header(jpeg, FALSE);
    } while (header == JPEG_HEADER_TABLES_ONLY);
    if (header == JPEG_SUSPENDED) {
        set_result(result, GRAFT_IMAGE_TRUNCATED, 0, 0, "the file ends within the header");
        graft_image_close(decoder);
        return NULL;
    }
    decoder->width = jpeg->image_width;
    decoder->height = jpeg->image_height;
    switch (jpeg->num_components) {
    case 1:
    case 3:
        jpeg->out_color_space = JCS_RGB;
        break;
    case 4:
        jpeg->out_color_space = JCS_CMYK;
        break;
    default:
        set_result(result, GRAFT_IMAGE_UNSUPPORTED, decoder->width, decoder->height, "");
        snprintf(result->message, sizeof result->message, "%d colour components; 1, 3 and 4 are known",
                 jpeg->num_components);
        graft_image_close(decoder);
        return NULL;
    }
    if (!within_limit(decoder->width, decoder->height, pixel_limit)) {
        set_result(result, GRAFT_IMAGE_TOO_LARGE, decoder->width, decoder->height, "too many pixels");
        graft_image_close(decoder);
        return NULL;
    }
    set_result(result, GRAFT_IMAGE_OK, decoder->width, decoder->height, "");
    return decoder;
}

// Adobe stores CMYK inverted. With the stored values c and k the ink is 255 - c, and RGB is what a multiplication of
// 255 - ink with the black's complement leaves, rounded as Pillow rounds it.
static void cmyk_row_to_rgb(const uint8_t *restrict cmyk, uint8_t *restrict rgb, uint32_t width) {
    for (uint32_t x = 0; x < width; x++) {
        int paper = cmyk[4 * x + 3];
        for (int channel = 0; channel < 3; channel++) {
            int ink = 255 - cmyk[4 * x + channel];
            int product = ink * paper + 128;
            int value = paper - (((product >> 8) + product) >> 8);
            rgb[3 * x + channel] = (uint8_t)(value < 0 ? 0 : value);
        }
    }
}

bool graft_jpeg_decodes_windows(void) {
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && LIBJPEG_TURBO_VERSION_NUMBER >= 2001000
    return true;
#else
    return false;
#endif
}

// Whether rows and columns outside a window can be left out without a change inside it: one interleaved Huffman-coded
// scan, and chroma as it is or halved. Tested for these; older libraries had faults here.
static bool jpeg_allows_window(const graft_image_decoder *decoder) {
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && LIBJPEG_TURBO_VERSION_NUMBER >= 2001000
    const struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    if (jpeg->out_color_space != JCS_RGB || jpeg->num_components != 3 || jpeg->scale_num != jpeg->scale_denom ||
        jpeg->arith_code || jpeg_has_multiple_scans((j_decompress_ptr)jpeg)) {
        return false;
    }
    const jpeg_component_info *luma = jpeg->comp_info;
    if (luma->h_samp_factor > 2 || luma->v_samp_factor > 2 ||
        (luma->v_samp_factor == 2 && luma->h_samp_factor == 1)) {
        return false;
    }
    for (int index = 1; index < 3; index++) {
        if (luma[index].h_samp_factor != 1 || luma[index].v_samp_factor != 1) return false;
    }
    return true;
#else
    (void)decoder;
    return false;
#endif
}

// Leaves the decoding of rows and columns far outside the window out. Blocks at the window's border need neighbours,
// so one more on each side is decoded.
static void jpeg_read_window(graft_image_decoder *decoder, graft_image_window window, uint8_t *pixels,
                             graft_image_result *result) {
#if defined(LIBJPEG_TURBO_VERSION_NUMBER) && LIBJPEG_TURBO_VERSION_NUMBER >= 2001000
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    const uint32_t block = 16;
    uint32_t left = window.x / block * block;
    left = left > block ? left - block : 0;
    uint32_t right = window.x + window.width + block < decoder->width ? window.x + window.width + block : decoder->width;
    uint32_t top = window.y / block * block;
    top = top > block ? top - block : 0;
    uint32_t bottom =
        window.y + window.height + block < decoder->height ? window.y + window.height + block : decoder->height;
    size_t stride = (size_t)decoder->width * 3;
    if (left > 0 || right < decoder->width) {
        JDIMENSION offset = left;
        JDIMENSION width = right - left;
        jpeg_crop_scanline(jpeg, &offset, &width);
        left = offset;
    }
    if (top > 0) jpeg_skip_scanlines(jpeg, top);
    while (!decoder->jpeg_ran_out && jpeg->output_scanline < bottom) {
        uint32_t y = jpeg->output_scanline;
        JSAMPROW target[4];
        JDIMENSION wanted = bottom - y < 4 ? bottom - y : 4;
        for (JDIMENSION row = 0; row < wanted; row++) target[row] = pixels + (size_t)(y + row) * stride + left * 3;
        if (jpeg_read_scanlines(jpeg, target, wanted) == 0) break;
    }
    // The last row is read, not skipped: skipping to the end would not look at the rest of the file.
    if (!decoder->jpeg_ran_out && jpeg->output_scanline + 1 < decoder->height) {
        jpeg_skip_scanlines(jpeg, decoder->height - 1 - jpeg->output_scanline);
    }
    if (!decoder->jpeg_ran_out && jpeg->output_scanline < decoder->height) {
        JSAMPROW target = pixels + (size_t)(decoder->height - 1) * stride + left * 3;
        jpeg_read_scanlines(jpeg, &target, 1);
    }
    if (decoder->jpeg_ran_out || jpeg->output_scanline < decoder->height) {
        set_result(result, GRAFT_IMAGE_TRUNCATED, decoder->width, decoder->height, "the file ends before the picture");
        return;
    }
#else
    (void)window;
    (void)pixels;
#endif
    set_result(result, GRAFT_IMAGE_OK, decoder->width, decoder->height, "");
}

static void jpeg_read_pixels(graft_image_decoder *decoder, graft_image_window window, uint8_t *pixels,
                             graft_image_result *result) {
    if (setjmp(decoder->fault)) {
        set_fault(decoder, result);
        return;
    }
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    bool is_cmyk = jpeg->out_color_space == JCS_CMYK;
    size_t stride = (size_t)decoder->width * 3;
    if (is_cmyk) {
        decoder->row = malloc((size_t)decoder->width * 4);
        if (!decoder->row) {
            set_result(result, GRAFT_IMAGE_OUT_OF_MEMORY, decoder->width, decoder->height, "no memory for a row");
            return;
        }
    }
    if (!jpeg_start_decompress(jpeg)) {
        set_result(result, GRAFT_IMAGE_TRUNCATED, decoder->width, decoder->height, "the file ends before the picture");
        return;
    }
    bool is_part = window.width < decoder->width || window.height < decoder->height;
    if (is_part && jpeg_allows_window(decoder)) {
        jpeg_read_window(decoder, window, pixels, result);
        return;
    }
    while (jpeg->output_scanline < jpeg->output_height) {
        uint32_t y = jpeg->output_scanline;
        JSAMPROW target[4];
        JDIMENSION wanted = is_cmyk ? 1 : 4;
        if (wanted > jpeg->output_height - y) wanted = jpeg->output_height - y;
        for (JDIMENSION row = 0; row < wanted; row++) target[row] = pixels + (size_t)(y + row) * stride;
        if (is_cmyk) target[0] = decoder->row;
        JDIMENSION count = jpeg_read_scanlines(jpeg, target, wanted);
        if (count == 0) {
            set_result(result, GRAFT_IMAGE_TRUNCATED, decoder->width, decoder->height, "");
            snprintf(result->message, sizeof result->message, "the file ends in row %u of %u", y, decoder->height);
            return;
        }
        if (is_cmyk) cmyk_row_to_rgb(decoder->row, pixels + (size_t)y * stride, decoder->width);
    }
    // Bytes after the last row are of no interest, so the decompressor is not finished but destroyed.
    set_result(result, GRAFT_IMAGE_OK, decoder->width, decoder->height, "");
}

// ---------------------------------------------------------------------------------------------------------------------
// PNG

[[noreturn]] static void png_fault(png_structp png, png_const_charp message) {
    graft_image_decoder *decoder = png_get_error_ptr(png);
    // A read past the end has already said so.
    if (decoder->fault_status != GRAFT_IMAGE_TRUNCATED) {
        decoder->fault_status = strstr(message, "ut of memory") || strstr(message, "nsufficient memory")
                                    ? GRAFT_IMAGE_OUT_OF_MEMORY
                                    : GRAFT_IMAGE_DAMAGED;
        snprintf(decoder->message, sizeof decoder->message, "%s", message);
    }
    longjmp(decoder->fault, 1);
}

static void png_silence(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static void png_take(png_structp png, png_bytep target, size_t count) {
    graft_image_decoder *decoder = png_get_io_ptr(png);
    if (count > decoder->remaining) {
        decoder->fault_status = GRAFT_IMAGE_TRUNCATED;
        snprintf(decoder->message, sizeof decoder->message, "the file ends before the picture");
        png_error(png, "end of file");
    }
    memcpy(target, decoder->next, count);
    decoder->next += count;
    decoder->remaining -= count;
}

// Chunks that do not change the pixels: passed over, so that broken colour profiles or texts do no harm.
static const png_byte png_passed_over[] = "bKGD\0cHRM\0eXIf\0gAMA\0hIST\0iCCP\0iTXt\0oFFs\0pCAL\0pHYs\0"
                                          "sBIT\0sCAL\0sPLT\0sRGB\0sTER\0tEXt\0tIME\0zTXt";

graft_image_decoder *graft_png_open(const uint8_t *bytes, size_t byte_count, uint64_t pixel_limit,
                                    graft_image_result *result) {
    graft_image_decoder *decoder = calloc(1, sizeof *decoder);
    if (!decoder) {
        set_result(result, GRAFT_IMAGE_OUT_OF_MEMORY, 0, 0, "no memory for a decoder");
        return NULL;
    }
    decoder->kind = GRAFT_KIND_PNG;
    decoder->next = bytes;
    decoder->remaining = byte_count;
    if (setjmp(decoder->fault)) {
        set_fault(decoder, result);
        graft_image_close(decoder);
        return NULL;
    }
    decoder->png = png_create_read_struct(PNG_LIBPNG_VER_STRING, decoder, png_fault, png_silence);
    if (decoder->png) decoder->png_information = png_create_info_struct(decoder->png);
    if (!decoder->png || !decoder->png_information) {
        set_result(result, GRAFT_IMAGE_OUT_OF_MEMORY, 0, 0, "no memory for a decoder");
        graft_image_close(decoder);
        return NULL;
    }
    png_structp png = decoder->png;
    png_set_read_fn(png, decoder, png_take);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, png_passed_over, (int)(sizeof png_passed_over / 5));
    png_read_info(png, decoder->png_information);
    decoder->width = png_get_image_width(png, decoder->png_information);
    decoder->height = png_get_image_height(png, decoder->png_information);
    if (!within_limit(decoder->width, decoder->height, pixel_limit)) {
        set_result(result, GRAFT_IMAGE_TOO_LARGE, decoder->width, decoder->height, "too many pixels");
        graft_image_close(decoder);
        return NULL;
    }
    int color_type = png_get_color_type(png, decoder->png_information);
    decoder->is_deep_gray =
        color_type == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, decoder->png_information) == 16;
    if (!decoder->is_deep_gray) png_set_strip_16(png);  // the high byte, not a rounded quotient
    if (color_type == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (color_type == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
    png_set_strip_alpha(png);  // dropped, not blended; also the alpha that a palette's tRNS would add
    if (!decoder->is_deep_gray) png_set_gray_to_rgb(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, decoder->png_information);
    size_t expected = (size_t)decoder->width * (decoder->is_deep_gray ? 2 : 3);
    if (png_get_rowbytes(png, decoder->png_information) != expected) {
        set_result(result, GRAFT_IMAGE_UNSUPPORTED, decoder->width, decoder->height, "");
        snprintf(result->message, sizeof result->message, "colour type %d with %d bits does not become RGB", color_type,
                 png_get_bit_depth(png, decoder->png_information));
        graft_image_close(decoder);
        return NULL;
    }
    set_result(result, GRAFT_IMAGE_OK, decoder->width, decoder->height, "");
    return decoder;
}

static void png_read_pixels(graft_image_decoder *decoder, uint8_t *pixels, graft_image_result *result) {
    decoder->rows = malloc((size_t)decoder->height * sizeof *decoder->rows);
    if (!decoder->rows) {
        set_result(result, GRAFT_IMAGE_OUT_OF_MEMORY, decoder->width, decoder->height, "no memory for row pointers");
        return;
    }
    size_t stride = (size_t)decoder->width * 3;
    // Two bytes a pixel go to the end of the row's three, so that widening from the left never overtakes reading.
    size_t offset = decoder->is_deep_gray ? decoder->width : 0;
    for (uint32_t y = 0; y < decoder->height; y++) decoder->rows[y] = pixels + y * stride + offset;
    if (setjmp(decoder->fault)) {
        set_fault(decoder, result);
        return;
    }
    png_read_image(decoder->png, decoder->rows);
    if (decoder->is_deep_gray) {
        for (uint32_t y = 0; y < decoder->height; y++) {
            const uint8_t *deep = decoder->rows[y];
            uint8_t *rgb = pixels + y * stride;
            for (uint32_t x = 0; x < decoder->width; x++) {
                // Pillow reads this kind into whole numbers and clips them at 255 on the way to RGB.
                uint8_t value = deep[2 * x] != 0 ? 255 : deep[2 * x + 1];
                rgb[3 * x] = rgb[3 * x + 1] = rgb[3 * x + 2] = value;
            }
        }
    }
    set_result(result, GRAFT_IMAGE_OK, decoder->width, decoder->height, "");
}

// ---------------------------------------------------------------------------------------------------------------------
// Both

void graft_image_scale(graft_image_decoder *decoder, uint32_t eighths, graft_image_result *result) {
    if (decoder->kind == GRAFT_KIND_JPEG) {
        if (setjmp(decoder->fault)) {
            set_fault(decoder, result);
            return;
        }
        decoder->jpeg.scale_num = eighths;
        decoder->jpeg.scale_denom = 8;
        jpeg_calc_output_dimensions(&decoder->jpeg);
        decoder->width = decoder->jpeg.output_width;
        decoder->height = decoder->jpeg.output_height;
    }
    set_result(result, GRAFT_IMAGE_OK, decoder->width, decoder->height, "");
}

void graft_image_read(graft_image_decoder *decoder, graft_image_window window, uint8_t *pixels,
                      graft_image_result *result) {
    switch (decoder->kind) {
    case GRAFT_KIND_JPEG:
        jpeg_read_pixels(decoder, window, pixels, result);
        break;
    case GRAFT_KIND_PNG:
        png_read_pixels(decoder, pixels, result);
        break;
    }
}

void graft_image_close(graft_image_decoder *decoder) {
    if (!decoder) return;
    switch (decoder->kind) {
    case GRAFT_KIND_JPEG:
        jpeg_destroy_decompress(&decoder->jpeg);
        break;
    case GRAFT_KIND_PNG:
        if (decoder->png) png_destroy_read_struct(&decoder->png, &decoder->png_information, NULL);
        break;
    }
    free(decoder->row);
    free(decoder->rows);
    free(decoder);
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing

struct png_output {
    jmp_buf fault;
    char message[256];
    uint8_t *bytes;
    size_t count;
    size_t capacity;
    png_structp png;
    png_infop information;
};

[[noreturn]] static void png_write_fault(png_structp png, png_const_charp message) {
    struct png_output *output = png_get_error_ptr(png);
    snprintf(output->message, sizeof output->message, "%s", message);
    longjmp(output->fault, 1);
}

static void png_append(png_structp png, png_bytep source, size_t count) {
    struct png_output *output = png_get_io_ptr(png);
    if (count > output->capacity - output->count) {
        size_t capacity = output->capacity * 2 + count;
        uint8_t *bytes = realloc(output->bytes, capacity);
        if (!bytes) png_error(png, "out of memory");
        output->bytes = bytes;
        output->capacity = capacity;
    }
    memcpy(output->bytes + output->count, source, count);
    output->count += count;
}

static void png_no_flush(png_structp png) { (void)png; }

uint8_t *graft_png_encode(const uint8_t *pixels, uint32_t width, uint32_t height, int compression_level,
                          size_t *byte_count, graft_image_result *result) {
    *byte_count = 0;
    struct png_output *output = calloc(1, sizeof *output);
    if (!output) {
        set_result(result, GRAFT_IMAGE_OUT_OF_MEMORY, width, height, "no memory for an encoder");
        return NULL;
    }
    if (setjmp(output->fault)) {
        set_result(result, GRAFT_IMAGE_DAMAGED, width, height, output->message);
        png_destroy_write_struct(&output->png, &output->information);
        free(output->bytes);
        free(output);
        return NULL;
    }
    output->png = png_create_write_struct(PNG_LIBPNG_VER_STRING, output, png_write_fault, png_silence);
    if (output->png) output->information = png_create_info_struct(output->png);
    if (!output->png || !output->information) {
        set_result(result, GRAFT_IMAGE_OUT_OF_MEMORY, width, height, "no memory for an encoder");
        png_destroy_write_struct(&output->png, &output->information);
        free(output);
        return NULL;
    }
    png_set_write_fn(output->png, output, png_append, png_no_flush);
    png_set_compression_level(output->png, compression_level);
    png_set_IHDR(output->png, output->information, width, height, 8, PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(output->png, output->information);
    for (uint32_t y = 0; y < height; y++) png_write_row(output->png, pixels + (size_t)y * width * 3);
    png_write_end(output->png, NULL);
    png_destroy_write_struct(&output->png, &output->information);
    uint8_t *bytes = output->bytes;
    *byte_count = output->count;
    free(output);
    set_result(result, GRAFT_IMAGE_OK, width, height, "");
    return bytes;
}

void graft_image_free(uint8_t *bytes) { free(bytes); }
