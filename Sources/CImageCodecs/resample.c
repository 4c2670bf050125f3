#include "CImageCodecs.h"

#include <string.h>

// The passes of GraftVision's Resampling with AVX2, chosen at run time; the arithmetic is described there.

#if defined(__x86_64__)
#include <immintrin.h>

#define GRAFT_AVX2 __attribute__((target("avx2")))
#define GRAFT_INLINE static inline __attribute__((always_inline, target("avx2")))

enum { LOW_BITS = 11, FRACTION_BITS = 22 };

bool graft_resample_has_avx2(void) { return __builtin_cpu_supports("avx2"); }

GRAFT_INLINE __m256i both_parts(__m256i high, __m256i low) {
    return _mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low);
}

// One to four rows at once. A register holds two pairs of pixels, one in each half, as 16-bit numbers in the order
// R R G G B B - -, so that one multiplication adds up each channel of a pair.
GRAFT_INLINE void rows_at_once(int count, const uint8_t *source, size_t source_stride, const graft_resample_weights *w,
                               ptrdiff_t first_column, uint8_t *target, size_t target_stride) {
    const __m256i arrange = _mm256_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
                                             6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1);
    const __m128i half = _mm_set1_epi32(1 << (FRACTION_BITS - 1));
    for (size_t x = 0; x < w->count; x++) {
        const uint8_t *pixel = source + (w->starts[x] - first_column) * 3;
        const uint32_t *highs = w->high_pairs + x * w->capacity;
        const uint32_t *lows = w->low_pairs + x * w->capacity;
        __m256i high[4], low[4];
        for (int row = 0; row < count; row++) high[row] = low[row] = _mm256_setzero_si256();
        for (ptrdiff_t pair = 0; pair < w->pair_counts[x]; pair += 2, pixel += 12) {
            __m256i h = _mm256_set_m128i(_mm_set1_epi32((int)highs[pair + 1]), _mm_set1_epi32((int)highs[pair]));
            __m256i l = _mm256_set_m128i(_mm_set1_epi32((int)lows[pair + 1]), _mm_set1_epi32((int)lows[pair]));
            for (int row = 0; row < count; row++) {
                __m128i bytes = _mm_loadu_si128((const __m128i *)(pixel + (size_t)row * source_stride));
                __m256i pixels = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(bytes), arrange);
                high[row] = _mm256_add_epi32(high[row], _mm256_madd_epi16(pixels, h));
                low[row] = _mm256_add_epi32(low[row], _mm256_madd_epi16(pixels, l));
            }
        }
        for (int row = 0; row < count; row++) {
            __m256i sum = both_parts(high[row], low[row]);
            __m128i value = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
            value = _mm_srai_epi32(_mm_add_epi32(value, half), FRACTION_BITS);
            value = _mm_packs_epi32(value, value);
            uint32_t rgb = (uint32_t)_mm_cvtsi128_si32(_mm_packus_epi16(value, value));
            // The fourth byte is the next pixel's, which is written later; behind the last there is none.
            uint8_t *place = target + (size_t)row * target_stride + 3 * x;
            if (x + 1 < w->count) {
                memcpy(place, &rgb, 4);
            } else {
                memcpy(place, &rgb, 3);
            }
        }
    }
}

GRAFT_AVX2 void graft_resample_rows_avx2(const uint8_t *source, size_t source_stride, size_t row_count,
                                         const graft_resample_weights *weights, ptrdiff_t first_column, uint8_t *target,
                                         size_t target_stride) {
    size_t row = 0;
    for (; row + 4 <= row_count; row += 4) {
        rows_at_once(4, source + row * source_stride, source_stride, weights, first_column,
                     target + row * target_stride, target_stride);
    }
    for (; row < row_count; row++) {
        rows_at_once(1, source + row * source_stride, source_stride, weights, first_column,
                     target + row * target_stride, target_stride);
    }
}

GRAFT_AVX2 void graft_resample_columns_avx2(const uint8_t *source, size_t source_stride, size_t byte_count,
                                            ptrdiff_t last_row, const graft_resample_weights *weights, ptrdiff_t first_row,
                                            uint8_t *target, size_t target_stride) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i half = _mm256_set1_epi32(1 << (FRACTION_BITS - 1));
    for (size_t y = 0; y < weights->count; y++) {
        const uint32_t *highs = weights->high_pairs + y * weights->capacity;
        const uint32_t *lows = weights->low_pairs + y * weights->capacity;
        ptrdiff_t start = weights->starts[y] - first_row;
        uint8_t *output = target + y * target_stride;
        for (size_t offset = 0; offset < byte_count; offset += 32) {
            __m256i high[4] = {zero, zero, zero, zero};
            __m256i low[4] = {zero, zero, zero, zero};
            for (ptrdiff_t pair = 0; pair < weights->pair_counts[y]; pair++) {
                ptrdiff_t upper = start + 2 * pair;
                // An odd count ends in a pair whose second weight is zero; its row must exist all the same.
                ptrdiff_t lower = upper < last_row ? upper + 1 : last_row;
                __m256i a = _mm256_loadu_si256((const __m256i *)(source + (size_t)upper * source_stride + offset));
                __m256i b = _mm256_loadu_si256((const __m256i *)(source + (size_t)lower * source_stride + offset));
                __m256i h = _mm256_set1_epi32((int)highs[pair]);
                __m256i l = _mm256_set1_epi32((int)lows[pair]);
                __m256i front = _mm256_unpacklo_epi8(a, b);
                __m256i back = _mm256_unpackhi_epi8(a, b);
                const __m256i pixels[4] = {_mm256_unpacklo_epi8(front, zero), _mm256_unpackhi_epi8(front, zero),
                                           _mm256_unpacklo_epi8(back, zero), _mm256_unpackhi_epi8(back, zero)};
                for (int part = 0; part < 4; part++) {
                    high[part] = _mm256_add_epi32(high[part], _mm256_madd_epi16(pixels[part], h));
                    low[part] = _mm256_add_epi32(low[part], _mm256_madd_epi16(pixels[part], l));
                }
            }
            __m256i value[4];
            for (int part = 0; part < 4; part++) {
                __m256i sum = _mm256_add_epi32(both_parts(high[part], low[part]), half);
                value[part] = _mm256_srai_epi32(sum, FRACTION_BITS);
            }
            __m256i bytes = _mm256_packus_epi16(_mm256_packs_epi32(value[0], value[1]),
                                                _mm256_packs_epi32(value[2], value[3]));
            if (offset + 32 <= byte_count) {
                _mm256_storeu_si256((__m256i *)(output + offset), bytes);
            } else {
                uint8_t rest[32];
                _mm256_storeu_si256((__m256i *)rest, bytes);
                memcpy(output + offset, rest, byte_count - offset);
            }
        }
    }
}

#else

bool graft_resample_has_avx2(void) { return false; }

void graft_resample_rows_avx2(const uint8_t *source, size_t source_stride, size_t row_count,
                              const graft_resample_weights *weights, ptrdiff_t first_column, uint8_t *target,
                              size_t target_stride) {}

void graft_resample_columns_avx2(const uint8_t *source, size_t source_stride, size_t byte_count, ptrdiff_t last_row,
                                 const graft_resample_weights *weights, ptrdiff_t first_row, uint8_t *target,
                                 size_t target_stride) {}

#endif
