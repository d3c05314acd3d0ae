// The product of int8 weights with 16-bit integer activations by the byte dot product (VNNI). x = q * scale with one scale a token;
// q = 256 * (high - 128) + low, so that a product is two dot products of unsigned with signed bytes, exact in 32 bits for k up to
// kMaxDot8K. Sums are integers until the end, so their order does not matter. Included after vec_avx512.h and kernels_linear.h, by kernel
// files of AVX-512 only.
#pragma once

namespace gossamer::cpu {
namespace {

constexpr int kPairs = kGroup / 2;            // two rows share a register: 32 columns of each
constexpr int kDot8DirectTokens = 2;          // up to so many tokens take the weights from memory straight into registers
constexpr int kDot8Tokens = 3;                // tokens in registers with a whole group of a panel
constexpr std::int64_t kDot8Steps = 64;       // of a panel: 16 KiB; whole scales of i4 fit it
constexpr std::int64_t kDot8TokenBlock = 96;  // tokens whose sums wait in memory between panels

// Readers of one group: load(use) calls use(pair, bytes) for the step at hand; then advance().
struct Dot8Dense {
  const std::int8_t* at;
  std::int64_t stride;

  Dot8Dense(const WeightView& w, std::int64_t group)
      : at(static_cast<const std::int8_t*>(w.values) + group * kGroup * w.steps * kStep), stride(w.steps * kStep) {}
  template <typename Use>
  [[gnu::always_inline]] void load(const Use& use) const {
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) {
      const std::int8_t* row = at + 2 * pair * stride;
      prefetch(row + kPrefetchBytes / kGroup);
      prefetch(row + stride + kPrefetchBytes / kGroup);
      const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(row)));
      use(pair, _mm512_inserti64x4(low, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + stride)), 1));
    }
  }
  void advance() { at += kStep; }
};

struct Dot8Bitmap {
  const std::uint32_t* masks;
  const std::int8_t* values;

  Dot8Bitmap(const WeightView& w, std::int64_t group)
      : masks(w.masks + group * w.steps * kGroup), values(static_cast<const std::int8_t*>(w.values) + w.offsets[group]) {}
  template <typename Use>
  [[gnu::always_inline]] void load(const Use& use) {
    prefetch(reinterpret_cast<const char*>(masks) + kPrefetchBytes);
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) {
      std::uint64_t two;
      __builtin_memcpy(&two, masks + 2 * pair, sizeof two);
      prefetch(values + kPrefetchBytes);
      use(pair, _mm512_mask_expand_epi8(fresh_zero(), two, _mm512_loadu_si512(values)));
      values += __builtin_popcountll(two);
    }
  }
  void advance() { masks += kGroup; }
};

// A group that was expanded: [steps][kPairs][64].
struct Dot8Panel {
  const std::int8_t* at;
  template <typename Use>
  [[gnu::always_inline]] void load(const Use& use) const {
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) use(pair, _mm512_load_si512(at + pair * 64));
  }
  void advance() { at += kPairs * 64; }
};

// Sums of some tokens with the rows of a group, for the high and the low bytes of the activations.
struct Dot8Sums {
  __m256i high, low;  // i32 [kGroup]
};

// The sums of each pair's halves, in the order of the rows.
[[gnu::always_inline]] inline __m256i rows_of(const __m512i (&acc)[kPairs]) {
  const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(acc[0], acc[1]), _mm512_unpackhi_epi32(acc[0], acc[1]));
  const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(acc[2], acc[3]), _mm512_unpackhi_epi32(acc[2], acc[3]));
  const __m512i c = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));  // each 128 bits: pairs 0 to 3
  const __m512i d = _mm512_add_epi32(c, _mm512_shuffle_i64x2(c, c, 0xB1));
  const __m128i even = _mm512_castsi512_si128(d);
  const __m128i odd = _mm512_extracti32x4_epi32(d, 2);
  return _mm256_set_m128i(_mm_unpackhi_epi32(even, odd), _mm_unpacklo_epi32(even, odd));
}

template <int kTokens, typename Rows>
[[gnu::always_inline]] inline void dot8_steps(Rows& rows, const std::uint8_t* low, const std::uint8_t* high, std::int64_t stride,
                                              std::int64_t steps, Dot8Sums (&sums)[kTokens]) {
  __m512i acc_high[kTokens][kPairs], acc_low[kTokens][kPairs];
  for (int t = 0; t < kTokens; ++t)
    for (int pair = 0; pair < kPairs; ++pair) acc_high[t][pair] = acc_low[t][pair] = _mm512_setzero_si512();
  for (std::int64_t step = 0; step < steps; ++step) {
    __m512i x_low[kTokens], x_high[kTokens];
#pragma GCC unroll 4
    for (int t = 0; t < kTokens; ++t) {
      x_low[t] = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(low + t * stride)));
      x_high[t] = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(high + t * stride)));
    }
    rows.load([&](int pair, __m512i w) {
#pragma GCC unroll 4
      for (int t = 0; t < kTokens; ++t) {
        acc_low[t][pair] = _mm512_dpbusd_epi32(acc_low[t][pair], x_low[t], w);
        acc_high[t][pair] = _mm512_dpbusd_epi32(acc_high[t][pair], x_high[t], w);
      }
    });
    rows.advance();
    low += kStep;
    high += kStep;
  }
  for (int t = 0; t < kTokens; ++t) sums[t] = {rows_of(acc_high[t]), rows_of(acc_low[t])};
}

// Writes what the sums of a group's rows with one token come to.
inline void dot8_emit(const LinearTask& task, std::int64_t group, std::int64_t token, const Dot8Sums& sums) {
  const auto* row_sums = reinterpret_cast<const __m256i*>(task.weight.row_sums + group * kGroup);
  const __m512d high = _mm512_cvtepi32_pd(_mm256_sub_epi32(sums.high, _mm256_loadu_si256(row_sums)));
  const __m512d total = _mm512_fmadd_pd(high, _mm512_set1_pd(256.0), _mm512_cvtepi32_pd(sums.low));
  float out[1][kGroup];
  _mm256_storeu_ps(out[0], _mm256_mul_ps(_mm512_cvtpd_ps(total), _mm256_set1_ps(task.x_scales[token])));
  emit(task, group, token, 1, out);
}

template <int kTokens, typename Rows>
inline void dot8_direct(const LinearTask& task, std::int64_t group) {
  Rows rows(task.weight, group);
  Dot8Sums sums[kTokens];
  dot8_steps<kTokens>(rows, static_cast<const std::uint8_t*>(task.x), task.x_high, task.x_stride, task.weight.steps, sums);
  for (int t = 0; t < kTokens; ++t) dot8_emit(task, group, t, sums[t]);
}

// One panel for kTokens tokens, whose sums wait in `partial` between a group's panels.
template <int kTokens>
inline void dot8_panel(const LinearTask& task, const std::int8_t* panel, std::int64_t token, std::int64_t step, std::int64_t steps,
                       Dot8Sums* partial) {
  Dot8Panel rows{panel};
  Dot8Sums sums[kTokens];
  const std::int64_t at = token * task.x_stride + step * kStep;
  dot8_steps<kTokens>(rows, static_cast<const std::uint8_t*>(task.x) + at, task.x_high + at, task.x_stride, steps, sums);
  for (int t = 0; t < kTokens; ++t) {
    partial[t].high = _mm256_add_epi32(partial[t].high, sums[t].high);
    partial[t].low = _mm256_add_epi32(partial[t].low, sums[t].low);
  }
}

// Tokens [begin, end) with one group, panel after panel.
template <typename Rows>
inline void dot8_tokens(const LinearTask& task, std::int64_t group, std::int64_t begin, std::int64_t end) {
  alignas(64) std::int8_t panel[kDot8Steps * kPairs * 64];
  Dot8Sums partial[kDot8TokenBlock];
  for (std::int64_t t = 0; t < end - begin; ++t) partial[t] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
  Rows rows(task.weight, group);
  for (std::int64_t step = 0; step < task.weight.steps; step += kDot8Steps) {
    const std::int64_t steps = smaller(kDot8Steps, task.weight.steps - step);
    for (std::int64_t s = 0; s < steps; ++s) {
      rows.load([&](int pair, __m512i w) { _mm512_store_si512(panel + (s * kPairs + pair) * 64, w); });
      rows.advance();
    }
    std::int64_t token = begin;
    for (; token + kDot8Tokens <= end; token += kDot8Tokens)
      dot8_panel<kDot8Tokens>(task, panel, token, step, steps, partial + (token - begin));
    if (token + 2 == end) dot8_panel<2>(task, panel, token, step, steps, partial + (token - begin));
    if (token + 1 == end) dot8_panel<1>(task, panel, token, step, steps, partial + (token - begin));
  }
  for (std::int64_t token = begin; token < end; ++token) dot8_emit(task, group, token, partial[token - begin]);
}

template <typename Rows>
inline void dot8_groups(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  if (task.n <= kDot8DirectTokens) {
    for (std::int64_t group = group_begin; group < group_end; ++group) {
      if (task.n == 1) dot8_direct<1, Rows>(task, group);
      if (task.n == 2) dot8_direct<2, Rows>(task, group);
    }
    return;
  }
  for (std::int64_t token = 0; token < task.n; token += kDot8TokenBlock) {
    for (std::int64_t group = group_begin; group < group_end; ++group)
      dot8_tokens<Rows>(task, group, token, smaller(token + kDot8TokenBlock, task.n));
  }
}

inline void dot8(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  if (task.weight.sparse) {
    dot8_groups<Dot8Bitmap>(task, group_begin, group_end);
  } else {
    dot8_groups<Dot8Dense>(task, group_begin, group_end);
  }
}

// Rounds `size` floats to 16-bit integers, the greatest of them `limit`, 0 from there to `padded`; returns their scale, NaN if one is not
// finite.
inline float round_to_bytes(std::uint8_t* low, std::uint8_t* high, const float* x, std::int64_t size, std::int64_t padded, float limit) {
  Vf greatest = zero();
  __mmask16 odd = 0;
  for (std::int64_t i = 0; i < size; i += kLanes) {
    const Vf v = load_n(x + i, size - i);
    greatest = max(greatest, _mm512_abs_ps(v));
    odd |= _mm512_fpclass_ps_mask(v, 0x99);  // NaN or infinite
  }
  const float found = reduce_max(greatest);
  const bool usable = odd == 0 && found >= 1e-30F;  // of smaller ones the quotient below is none
  const Vf factor = set1(usable ? limit / found : 0.0F);
  for (std::int64_t i = 0; i < padded; i += kLanes) {
    const Vf v = load_n(x + i, size > i ? size - i : 0);
    const __m512i q = _mm512_maskz_mov_epi32(usable ? 0xFFFF : 0, _mm512_cvtps_epi32(mul(v, factor)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i), _mm512_cvtepi32_epi8(q));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i),
                     _mm512_cvtepi32_epi8(_mm512_add_epi32(_mm512_srai_epi32(q, 8), _mm512_set1_epi32(128))));
  }
  if (odd != 0) return __builtin_nanf("");
  return usable ? found / limit : 0.0F;
}

}  // namespace
}  // namespace gossamer::cpu
