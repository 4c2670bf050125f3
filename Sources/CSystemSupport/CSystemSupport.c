#define _GNU_SOURCE
#include "CSystemSupport.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#define ZLIB_CONST
#include <zlib.h>

// An EVP_MD_CTX under a name of our own, so that Swift needs no OpenSSL header.

graft_sha256 *graft_sha256_create(void) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (context == NULL) return NULL;
    if (EVP_DigestInit_ex(context, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(context);
        return NULL;
    }
    return (graft_sha256 *)context;
}

bool graft_sha256_update(graft_sha256 *digest, const void *bytes, size_t byte_count) {
    if (byte_count == 0) return true;
    return EVP_DigestUpdate((EVP_MD_CTX *)digest, bytes, byte_count) == 1;
}

graft_sha256 *graft_sha256_copy(const graft_sha256 *digest) {
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    if (context == NULL) return NULL;
    if (EVP_MD_CTX_copy_ex(context, (const EVP_MD_CTX *)digest) != 1) {
        EVP_MD_CTX_free(context);
        return NULL;
    }
    return (graft_sha256 *)context;
}

bool graft_sha256_final(graft_sha256 *digest, uint8_t result[32]) {
    unsigned int byte_count = 0;
    return EVP_DigestFinal_ex((EVP_MD_CTX *)digest, result, &byte_count) == 1 && byte_count == 32;
}

void graft_sha256_destroy(graft_sha256 *digest) { EVP_MD_CTX_free((EVP_MD_CTX *)digest); }

// zlib counts in unsigned int: larger buffers are handed over in pieces.
static unsigned int piece(size_t count) { return count > UINT_MAX ? UINT_MAX : (unsigned int)count; }

graft_inflate_status graft_inflate_raw(
    const void *input, size_t input_count, void *output, size_t output_capacity, size_t *output_count,
    size_t *input_used) {
    *output_count = 0;
    *input_used = 0;
    z_stream stream = {0};
    if (inflateInit2(&stream, -MAX_WBITS) != Z_OK) return GRAFT_INFLATE_OUT_OF_MEMORY;
    const unsigned char *source = input;
    unsigned char *target = output;
    // With the buffer full, one spare byte tells a stream that ends here from one that goes on.
    unsigned char spare;
    size_t read = 0, written = 0;
    graft_inflate_status status;
    for (;;) {
        unsigned int available_in = piece(input_count - read);
        bool full = written == output_capacity;
        unsigned int available_out = full ? 1 : piece(output_capacity - written);
        stream.next_in = source == NULL ? NULL : source + read;
        stream.avail_in = available_in;
        stream.next_out = full ? &spare : target + written;
        stream.avail_out = available_out;
        int result = inflate(&stream, Z_NO_FLUSH);
        size_t consumed = available_in - stream.avail_in, produced = available_out - stream.avail_out;
        read += consumed;
        if (full && produced > 0) {
            status = GRAFT_INFLATE_TOO_LARGE;
            break;
        }
        written += produced;
        if (result == Z_STREAM_END) {
            status = GRAFT_INFLATE_OK;
            break;
        }
        if (result == Z_MEM_ERROR) {
            status = GRAFT_INFLATE_OUT_OF_MEMORY;
            break;
        }
        if (result != Z_OK && result != Z_BUF_ERROR) {
            status = GRAFT_INFLATE_CORRUPT;
            break;
        }
        if (consumed == 0 && produced == 0) {
            status = read == input_count ? GRAFT_INFLATE_TRUNCATED : GRAFT_INFLATE_CORRUPT;
            break;
        }
    }
    inflateEnd(&stream);
    *output_count = written;
    *input_used = read;
    return status;
}

size_t graft_deflate_raw_bound(size_t input_count) {
    // zlib's bound for stored blocks, in size_t; saturates instead of wrapping.
    size_t extra = (input_count >> 12) + (input_count >> 14) + (input_count >> 25) + 64;
    return input_count > SIZE_MAX - extra ? SIZE_MAX : input_count + extra;
}

bool graft_deflate_raw(
    const void *input, size_t input_count, int level, void *output, size_t output_capacity, size_t *output_count) {
    *output_count = 0;
    z_stream stream = {0};
    if (deflateInit2(&stream, level, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) != Z_OK) return false;
    const unsigned char *source = input;
    unsigned char *target = output;
    size_t read = 0, written = 0;
    int result = Z_OK;
    while (result == Z_OK) {
        unsigned int available_in = piece(input_count - read), available_out = piece(output_capacity - written);
        bool last = input_count - read == available_in;
        stream.next_in = source == NULL ? NULL : source + read;
        stream.avail_in = available_in;
        stream.next_out = target + written;
        stream.avail_out = available_out;
        result = deflate(&stream, last ? Z_FINISH : Z_NO_FLUSH);
        read += available_in - stream.avail_in;
        written += available_out - stream.avail_out;
        if (result == Z_OK && written == output_capacity) break;
    }
    deflateEnd(&stream);
    *output_count = written;
    return result == Z_STREAM_END;
}

uint32_t graft_crc32(uint32_t crc, const void *bytes, size_t byte_count) {
    const unsigned char *source = bytes;
    uLong value = crc;
    while (byte_count > 0) {
        unsigned int count = piece(byte_count);
        value = crc32(value, source, count);
        source += count;
        byte_count -= count;
    }
    return (uint32_t)value;
}

int graft_sync_path(const char *path) {
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0) return errno;
    int result = fsync(descriptor) == 0 ? 0 : errno;
    close(descriptor);
    // Network and virtual file systems answer so for a folder: they have nothing to flush.
    return result == EINVAL || result == ENOTSUP ? 0 : result;
}

void graft_error_text(int error_number, char *buffer, size_t capacity) {
    if (capacity == 0) return;
#if defined(__GLIBC__)
    const char *text = strerror_r(error_number, buffer, capacity);
    if (text != buffer) snprintf(buffer, capacity, "%s", text);
#else
    if (strerror_r(error_number, buffer, capacity) != 0) snprintf(buffer, capacity, "error %d", error_number);
#endif
}

bool graft_cpu_supports(graft_instruction_set instruction_set) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi")
        && __builtin_cpu_supports("bmi2");
    switch (instruction_set) {
    case GRAFT_AVX2_FMA:
        return avx2;
    case GRAFT_AVX512:
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512vl");
    }
#else
    (void)instruction_set;
#endif
    return false;
}

const char *graft_image_path(const void *address) {
    Dl_info information;
    return dladdr(address, &information) ? information.dli_fname : NULL;
}
