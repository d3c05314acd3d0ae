// The product of int4 weights with 16-bit integer activations by the byte dot product (VNNI). x = (256 * high + low) * scale with one scale
// a token and signed bytes; weights are shifted to 0 .. 15, dropped ones to 8, and the 8 of each is taken off by the activations' own sums.
// The sums of a group of columns are exact integers; lane by lane they are multiplied by its scale and added up in order.
// Included after kernels_dot8.h, by kernel files of AVX-512 only.
#pragma once

namespace gossamer::cpu {
namespace {

constexpr int kDot4Tokens = 2;  // tokens in registers with a whole group

// Sixteen bytes of each of two rows as 64 shifted weights, in order.
[[gnu::always_inline]] inline __m512i shifted_nibbles(const std::uint8_t* first, const std::uint8_t* second) {
  const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(first))),
                                               _mm_loadu_si128(reinterpret_cast<const __m128i*>(second)), 1);
  const __m512i words = _mm512_cvtepu8_epi16(both);
  constexpr int kOrAnd = 0xA8;  // (a | b) & c
  const __m512i nibbles = _mm512_ternarylogic_epi64(words, _mm512_slli_epi16(words, 4), _mm512_set1_epi8(15), kOrAnd);
  return _mm512_xor_si512(nibbles, _mm512_set1_epi8(8));
}

// Readers of one group: load(use) calls use(pair, bytes) for the step at hand; then advance().
struct Dot4Dense {
  const std::uint8_t* at;
  std::int64_t stride;

  Dot4Dense(const WeightView& w, std::int64_t group)
      : at(static_cast<const std::uint8_t*>(w.values) + group * kGroup * w.steps * kInt4StepBytes), stride(w.steps * kInt4StepBytes) {}
  template <typename Use>
  [[gnu::always_inline]] void load(const Use& use) const {
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) {
      const std::uint8_t* row = at + 2 * pair * stride;
      prefetch(row + kPrefetchBytes / kGroup);
      prefetch(row + stride + kPrefetchBytes / kGroup);
      use(pair, shifted_nibbles(row, row + stride));
    }
  }
  void advance() { at += kInt4StepBytes; }
};

struct Dot4Bitmap {
  const std::uint32_t* masks;
  const std::uint8_t* values;

  Dot4Bitmap(const WeightView& w, std::int64_t group)
      : masks(w.masks + group * w.steps * kGroup), values(static_cast<const std::uint8_t*>(w.values) + w.offsets[group]) {}
  template <typename Use>
  [[gnu::always_inline]] void load(const Use& use) {
    prefetch(reinterpret_cast<const char*>(masks) + kPrefetchBytes);
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) {
      const std::uint32_t first = masks[2 * pair], second = masks[2 * pair + 1];
      const std::uint8_t* next = values + (__builtin_popcount(first) + 1) / 2;
      prefetch(values + kPrefetchBytes);
      // Dropped weights are 8 in the lanes of the expansion; the values of two rows lie 32 bytes apart.
      const __m512i bytes = shifted_nibbles(values, next);
      const __m256i low = _mm256_mask_expand_epi8(_mm256_set1_epi8(8), first, _mm512_castsi512_si256(bytes));
      const __m256i high = _mm256_mask_expand_epi8(_mm256_set1_epi8(8), second, _mm512_extracti64x4_epi64(bytes, 1));
      use(pair, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
      values = next + (__builtin_popcount(second) + 1) / 2;
    }
  }
  void advance() { masks += kGroup; }
};

// What one token brings: its bytes, and minus 8 times the sums of each step's columns, lane by lane.
struct Dot4Token {
  const std::int8_t *low, *high;
  const std::int32_t* sums;  // [steps][8]
};

inline Dot4Token dot4_token(const LinearTask& task, std::int64_t token) {
  const auto* low = static_cast<const std::int8_t*>(task.x) + token * task.x_stride;
  return {low, reinterpret_cast<const std::int8_t*>(task.x_high) + token * task.x_stride, task.x_sums + token * task.weight.steps * 8};
}

// acc += steps [begin, end) of some tokens with a group's rows; begin is where a scale begins.
template <int kTokens, typename Rows>
[[gnu::always_inline]] inline void dot4_steps(const WeightView& weight, std::int64_t group, Rows& rows, const Dot4Token (&tokens)[kTokens],
                                              std::int64_t begin, std::int64_t end, Vf (&acc)[kTokens][kPairs]) {
  const std::int64_t sets = (weight.steps + weight.scale_steps - 1) / weight.scale_steps;
  const float* scales = weight.step_scales + (group * sets + begin / weight.scale_steps) * kGroup;
  for (std::int64_t step = begin; step < end; scales += kGroup) {
    __m512i high[kTokens][kPairs], low[kTokens][kPairs];
    for (int t = 0; t < kTokens; ++t)
      for (int pair = 0; pair < kPairs; ++pair) high[t][pair] = low[t][pair] = _mm512_setzero_si512();
    const std::int64_t last = smaller(step + weight.scale_steps, end);
    for (; step < last; ++step) {
      __m512i x_low[kTokens], x_high[kTokens];
#pragma GCC unroll 2
      for (int t = 0; t < kTokens; ++t) {
        const auto broadcast = [](const void* p) { return _mm512_broadcast_i64x4(_mm256_loadu_si256(static_cast<const __m256i*>(p))); };
        x_low[t] = broadcast(tokens[t].low + step * kStep);
        x_high[t] = broadcast(tokens[t].high + step * kStep);
        const __m512i minus = broadcast(tokens[t].sums + step * 8);
#pragma GCC unroll 4
        for (int pair = 0; pair < kPairs; ++pair) low[t][pair] = _mm512_add_epi32(low[t][pair], minus);
      }
      rows.load([&](int pair, __m512i w) {
#pragma GCC unroll 2
        for (int t = 0; t < kTokens; ++t) {
          low[t][pair] = _mm512_dpbusd_epi32(low[t][pair], w, x_low[t]);
          high[t][pair] = _mm512_dpbusd_epi32(high[t][pair], w, x_high[t]);
        }
      });
      rows.advance();
    }
    const Vf eight = _mm512_castps256_ps512(_mm256_loadu_ps(scales));
#pragma GCC unroll 4
    for (int pair = 0; pair < kPairs; ++pair) {
      const __m512i of_rows = _mm512_inserti64x4(_mm512_set1_epi32(2 * pair), _mm256_set1_epi32(2 * pair + 1), 1);
      const Vf scale = _mm512_permutexvar_ps(of_rows, eight);
#pragma GCC unroll 2
      for (int t = 0; t < kTokens; ++t) {
        const __m512i total = _mm512_add_epi32(_mm512_slli_epi32(high[t][pair], 8), low[t][pair]);
        acc[t][pair] = fma(_mm512_cvtepi32_ps(total), scale, acc[t][pair]);
      }
    }
  }
}

// The sums of each pair's halves, in the order of the rows: as rows_of, of floats.
[[gnu::always_inline]] inline void dot4_emit(const LinearTask& task, std::int64_t group, std::int64_t token, const Vf (&acc)[kPairs]) {
  const Vf a = add(_mm512_unpacklo_ps(acc[0], acc[1]), _mm512_unpackhi_ps(acc[0], acc[1]));
  const Vf b = add(_mm512_unpacklo_ps(acc[2], acc[3]), _mm512_unpackhi_ps(acc[2], acc[3]));
  const __m512d a2 = _mm512_castps_pd(a), b2 = _mm512_castps_pd(b);
  const Vf c = add(_mm512_castpd_ps(_mm512_unpacklo_pd(a2, b2)), _mm512_castpd_ps(_mm512_unpackhi_pd(a2, b2)));
  const Vf d = add(c, _mm512_shuffle_f32x4(c, c, 0xB1));
  const __m128 even = _mm512_castps512_ps128(d);
  const __m128 odd = _mm512_extractf32x4_ps(d, 2);
  float out[1][kGroup];
  const __m256 rows = _mm256_set_m128(_mm_unpackhi_ps(even, odd), _mm_unpacklo_ps(even, odd));
  _mm256_storeu_ps(out[0], _mm256_mul_ps(rows, _mm256_set1_ps(task.x_scales[token])));
  emit(task, group, token, 1, out);
}

template <int kTokens, typename Rows>
inline void dot4_direct(const LinearTask& task, std::int64_t group, std::int64_t token) {
  Rows rows(task.weight, group);
  Dot4Token tokens[kTokens];
  Vf acc[kTokens][kPairs];
  for (int t = 0; t < kTokens; ++t) {
    tokens[t] = dot4_token(task, token + t);
    for (Vf& sum : acc[t]) sum = zero();
  }
  dot4_steps<kTokens>(task.weight, group, rows, tokens, 0, task.weight.steps, acc);
  for (int t = 0; t < kTokens; ++t) dot4_emit(task, group, token + t, acc[t]);
}

// One panel for kTokens tokens, whose sums wait in `partial` between a group's panels.
template <int kTokens>
inline void dot4_panel(const LinearTask& task, const std::int8_t* panel, std::int64_t group, std::int64_t token, std::int64_t begin,
                       std::int64_t end, Vf (*partial)[kPairs]) {
  Dot8Panel rows{panel};
  Dot4Token tokens[kTokens];
  Vf acc[kTokens][kPairs];
  for (int t = 0; t < kTokens; ++t) {
    tokens[t] = dot4_token(task, token + t);
    for (int pair = 0; pair < kPairs; ++pair) acc[t][pair] = partial[t][pair];
  }
  dot4_steps<kTokens>(task.weight, group, rows, tokens, begin, end, acc);
  for (int t = 0; t < kTokens; ++t)
    for (int pair = 0; pair < kPairs; ++pair) partial[t][pair] = acc[t][pair];
}

// Tokens [begin, end) with one group, panel after panel.
template <typename Rows>
inline void dot4_tokens(const LinearTask& task, std::int64_t group, std::int64_t begin, std::int64_t end) {
  alignas(64) std::int8_t panel[kDot8Steps * kPairs * 64];
  Vf partial[kDot8TokenBlock][kPairs];
  for (std::int64_t t = 0; t < end - begin; ++t)
    for (Vf& sum : partial[t]) sum = zero();
  Rows rows(task.weight, group);
  for (std::int64_t step = 0; step < task.weight.steps; step += kDot8Steps) {
    const std::int64_t last = smaller(step + kDot8Steps, task.weight.steps);
    for (std::int64_t s = 0; s < last - step; ++s) {
      rows.load([&](int pair, __m512i w) { _mm512_store_si512(panel + (s * kPairs + pair) * 64, w); });
      rows.advance();
    }
    std::int64_t token = begin;
    for (; token + kDot4Tokens <= end; token += kDot4Tokens)
      dot4_panel<kDot4Tokens>(task, panel, group, token, step, last, partial + (token - begin));
    if (token < end) dot4_panel<1>(task, panel, group, token, step, last, partial + (token - begin));
  }
  for (std::int64_t token = begin; token < end; ++token) dot4_emit(task, group, token, partial[token - begin]);
}

template <typename Rows>
inline void dot4_groups(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  for (std::int64_t token = 0; token < task.n; token += kDot8TokenBlock) {
    for (std::int64_t group = group_begin; group < group_end; ++group) {
      if (task.n == 1) dot4_direct<1, Rows>(task, group, 0);
      if (task.n == 2) dot4_direct<2, Rows>(task, group, 0);
      if (task.n > 2) dot4_tokens<Rows>(task, group, token, smaller(token + kDot8TokenBlock, task.n));
    }
  }
}

inline void dot4(const LinearTask& task, std::int64_t group_begin, std::int64_t group_end) {
  if (task.weight.sparse) {
    dot4_groups<Dot4Bitmap>(task, group_begin, group_end);
  } else {
    dot4_groups<Dot4Dense>(task, group_begin, group_end);
  }
}

// After round_to_bytes: makes the bytes of both halves signed, and sums [padded / kStep][8]: -8 times the sums of four columns each.
inline void center_bytes(std::uint8_t* low, std::uint8_t* high, std::int32_t* sums, std::int64_t padded) {
  const __m256i ones = _mm256_set1_epi8(1);
  for (std::int64_t i = 0; i < padded; i += kStep) {
    auto* low_at = reinterpret_cast<__m256i*>(low + i);
    auto* high_at = reinterpret_cast<__m256i*>(high + i);
    const __m256i l = _mm256_loadu_si256(low_at);
    const __m256i carry = _mm256_and_si256(_mm256_srli_epi16(l, 7), ones);  // of low bytes from 128 on, which become negative
    const __m256i h = _mm256_add_epi8(_mm256_xor_si256(_mm256_loadu_si256(high_at), _mm256_set1_epi8(-128)), carry);
    _mm256_storeu_si256(high_at, h);
    const __m256i zeros = _mm256_setzero_si256();
    const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(_mm256_dpbusd_epi32(zeros, ones, h), 8), _mm256_dpbusd_epi32(zeros, ones, l));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(sums + i / kStep * 8), _mm256_sub_epi32(zeros, _mm256_slli_epi32(sum, 3)));
  }
}

}  // namespace
}  // namespace gossamer::cpu
