/// What Graft needs of the operating system, libcrypto and zlib, with no state shared between calls.
///
/// Functions that can fail return a status instead of setting global state; none writes to standard output.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// SHA-256 (FIPS 180-4) by libcrypto.

/// A running SHA-256. Not safe for use by two threads at once.
typedef struct graft_sha256 graft_sha256;

/// Starts a digest; NULL when libcrypto is out of memory or refuses SHA-256.
graft_sha256 *graft_sha256_create(void);

/// Adds `byte_count` bytes; `bytes` may be NULL when the count is zero. False when libcrypto fails.
bool graft_sha256_update(graft_sha256 *digest, const void *bytes, size_t byte_count);

/// A second digest with the same bytes so far; NULL when out of memory.
graft_sha256 *graft_sha256_copy(const graft_sha256 *digest);

/// Writes the 32 bytes of the digest; the handle must be destroyed afterwards and not updated again.
bool graft_sha256_final(graft_sha256 *digest, uint8_t result[32]);

/// Frees a digest; NULL is allowed.
void graft_sha256_destroy(graft_sha256 *digest);

// Deflate (RFC 1951) and CRC-32 by zlib.

/// How inflating ended.
typedef enum graft_inflate_status {
    /// The stream ended and its output fit.
    GRAFT_INFLATE_OK = 0,
    /// The stream is not deflate data or contradicts itself.
    GRAFT_INFLATE_CORRUPT = 1,
    /// The input ended before the stream did.
    GRAFT_INFLATE_TRUNCATED = 2,
    /// The stream holds more than `output_capacity` bytes.
    GRAFT_INFLATE_TOO_LARGE = 3,
    /// zlib had no memory.
    GRAFT_INFLATE_OUT_OF_MEMORY = 4,
} graft_inflate_status;

/// Inflates a raw deflate stream (no zlib or gzip header) into a buffer of fixed size.
///
/// `output_count` gets the bytes written, `input_used` the bytes consumed; both are set in every case. Nothing is ever
/// written beyond `output_capacity`.
graft_inflate_status graft_inflate_raw(
    const void *input, size_t input_count, void *output, size_t output_capacity, size_t *output_count,
    size_t *input_used);

/// The most bytes that `graft_deflate_raw` needs for an input of this size.
size_t graft_deflate_raw_bound(size_t input_count);

/// Compresses into a raw deflate stream, level 1 to 9. False when the output does not fit or zlib has no memory.
bool graft_deflate_raw(
    const void *input, size_t input_count, int level, void *output, size_t output_capacity, size_t *output_count);

/// The CRC-32 of zip and gzip; `crc` is 0 to start, or the value so far.
uint32_t graft_crc32(uint32_t crc, const void *bytes, size_t byte_count);

// Files.

/// Flushes a file or a folder to the disk. 0, or the errno of the failure; a file system that cannot flush a folder is
/// not a failure.
int graft_sync_path(const char *path);

/// The text of an errno, in a buffer of the caller's (`strerror` is not safe in threads).
void graft_error_text(int error_number, char *buffer, size_t capacity);

// Processor.

/// Instruction sets that kernels are built for.
typedef enum graft_instruction_set {
    /// AVX2 with FMA.
    GRAFT_AVX2_FMA = 0,
    /// AVX-512 F, BW, CD, DQ and VL with FMA: what `-target-cpu skylake-avx512` assumes.
    GRAFT_AVX512 = 1,
} graft_instruction_set;

/// Whether this processor and its operating system run an instruction set; false on other architectures than x86-64.
bool graft_cpu_supports(graft_instruction_set instruction_set);

/// Tells the processor that this is a waiting loop: it saves power and leaves the core to its other thread.
static inline void graft_spin_hint(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// HTTP by libcurl, which is opened at run time when it is first needed.

/// How a request ended.
typedef enum graft_http_status {
    /// A whole answer came, whatever its response code.
    GRAFT_HTTP_OK = 0,
    /// There is no libcurl on this machine, or none that can be used.
    GRAFT_HTTP_NO_CLIENT = 1,
    /// Neither server nor proxy could be reached: no network, no such name, nobody listens.
    GRAFT_HTTP_UNREACHABLE = 2,
    /// The connection broke off or stood still.
    GRAFT_HTTP_CUT = 3,
    /// A callback returned false.
    GRAFT_HTTP_STOPPED = 4,
    /// Anything else: a certificate, too many redirections, an address that is none.
    GRAFT_HTTP_REFUSED = 5,
} graft_http_status;

/// A GET request. Proxies come from the environment, as with curl.
typedef struct graft_http_request {
    const char *url;
    /// Lines such as `Range: bytes=10-`.
    const char *const *headers;
    size_t header_count;
    const char *user_agent;
    long connect_timeout_seconds;
    /// The request is given up when not a byte came for so long.
    long stall_timeout_seconds;
    long redirect_limit;
    /// Whether a redirection may lead to an address without TLS.
    bool allows_plain_redirects;
    void *context;
    /// Gets each header line with its end, those of redirections too; every answer begins with a line `HTTP/…`.
    bool (*on_header)(void *context, const char *line, size_t byte_count);
    /// Gets the body of the last answer in pieces.
    bool (*on_body)(void *context, const void *bytes, size_t byte_count);
} graft_http_request;

/// What came of it.
typedef struct graft_http_outcome {
    /// The last answer's code; 0 when there was none.
    long response_code;
    /// What went wrong, for people; empty after GRAFT_HTTP_OK.
    char message[256];
} graft_http_outcome;

/// Performs a request and returns when it is over; it is the caller's thread that calls back.
graft_http_status graft_http_get(const graft_http_request *request, graft_http_outcome *outcome);
/// The file of the program or library that an address of this process belongs to, as the loader names it; NULL when it
/// is not known. The text stays until that library is unloaded.
const char *graft_image_path(const void *address);

// Caches.

/// Asks for the cache line at an address, which need not be mapped: it is needed soon, in the second-level cache.
static inline void graft_fetch_soon(const void *address) { __builtin_prefetch(address, 0, 2); }
