// SHA-256 with the x86 SHA extensions: two rounds an instruction. The only file that needs them; used when the CPU says so.
#include "core/sha256_blocks.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <immintrin.h>

namespace gossamer {
namespace {

bool cpu_has_sha() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  constexpr unsigned kSsse3AndSse41 = bit_SSSE3 | bit_SSE4_1;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || (c & kSsse3AndSse41) != kSsse3AndSse41) return false;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (b & bit_SHA) != 0;
}

// The instructions want the state as {A,B,E,F} and {C,D,G,H}, highest lane first.
[[gnu::target("sha,sse4.1,ssse3")]] void compress_ni(Sha256State& state, const std::byte* blocks, std::size_t count) {
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
  const auto* constants = reinterpret_cast<const __m128i*>(kSha256Constants.data());
  auto* words = reinterpret_cast<__m128i*>(state.data());
  const __m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128(words), 0xB1);
  const __m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128(words + 1), 0x1B);
  __m128i abef = _mm_alignr_epi8(cdab, efgh, 8);
  __m128i cdgh = _mm_blend_epi16(efgh, cdab, 0xF0);

  for (; count > 0; --count, blocks += 64) {
    const __m128i abef_before = abef;
    const __m128i cdgh_before = cdgh;
    const auto* block = reinterpret_cast<const __m128i*>(blocks);
    __m128i w[4];  // the last 16 words of the message schedule, 4 a vector
#pragma GCC unroll 16
    for (int group = 0; group < 16; ++group) {
      __m128i& current = w[group % 4];
      if (group < 4) {
        current = _mm_shuffle_epi8(_mm_loadu_si128(block + group), big_endian);
      } else {
        const __m128i previous = w[(group + 3) % 4];
        const __m128i partial = _mm_sha256msg1_epu32(current, w[(group + 1) % 4]);
        const __m128i seven_back = _mm_alignr_epi8(previous, w[(group + 2) % 4], 4);
        current = _mm_sha256msg2_epu32(_mm_add_epi32(partial, seven_back), previous);
      }
      const __m128i with_constants = _mm_add_epi32(current, _mm_load_si128(constants + group));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, with_constants);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(with_constants, 0x0E));
    }
    abef = _mm_add_epi32(abef, abef_before);
    cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }

  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B);
  const __m128i dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  _mm_storeu_si128(words, _mm_blend_epi16(feba, dchg, 0xF0));
  _mm_storeu_si128(words + 1, _mm_alignr_epi8(dchg, feba, 8));
}

}  // namespace

Sha256Compress sha256_compress_accelerated() { return cpu_has_sha() ? compress_ni : nullptr; }

}  // namespace gossamer

#else

namespace gossamer {

Sha256Compress sha256_compress_accelerated() { return nullptr; }

}  // namespace gossamer

#endif
