// exp and the activations on vectors, about 2 ulp. Included after one of vec_*.h, by kernel files only.
#pragma once

namespace gossamer::cpu {
namespace {

// exp(x); 0 below -86.6 (where it would leave the normal floats), e^88.72 above 88.72, NaN for NaN. exp(0) is exactly 1.
inline Vf exp(Vf x) {
  const Vf lowest = set1(-86.6F);
  const Vf clamped = min(set1(88.72F), max(lowest, x));
  const Vf n = round(mul(clamped, set1(1.44269504F)));
  // ln 2 in two parts; n times the first is exact.
  const Vf r = fnma(n, set1(-2.12194440e-4F), fnma(n, set1(0.693359375F), clamped));
  // e^r = 1 + r + r^2 q(r) on |r| <= ln2/2, minimax: relative error 3e-9.
  Vf q = set1(1.381446490995586e-3F);
  q = fma(q, r, set1(8.368780836462975e-3F));
  q = fma(q, r, set1(4.166839271783829e-2F));
  q = fma(q, r, set1(0.1666651964187622F));
  q = fma(q, r, set1(0.4999999403953552F));
  const Vf power = times_power_of_2(add(fma(mul(r, r), q, r), set1(1.0F)), n);
  return if_less(x, lowest, zero(), power);
}

inline Vf times_sigmoid(Vf x, Vf y) { return div(x, add(set1(1.0F), exp(sub(zero(), y)))); }

// x * Phi(x), with erfc(z) = exp(-z^2) t P(t), t = 1 / (1 + 0.47 z), z = |x| / sqrt(2): relative error of the fit 5e-9 up to z = 5.2.
inline Vf gelu(Vf x) {
  const Vf z = mul(max(x, sub(zero(), x)), set1(0.70710678F));
  const Vf t = div(set1(1.0F), fma(z, set1(0.47F), set1(1.0F)));
  Vf p = set1(-5.318329110741615e-2F);
  p = fma(p, t, set1(0.29835712909698486F));
  p = fma(p, t, set1(-0.6294788718223572F));
  p = fma(p, t, set1(0.5440859794616699F));
  p = fma(p, t, set1(-0.18022286891937256F));
  p = fma(p, t, set1(0.2718617618083954F));
  p = fma(p, t, set1(0.21598723530769348F));
  p = fma(p, t, set1(0.2675473988056183F));
  p = fma(p, t, set1(0.2650455832481384F));
  const Vf half_erfc = mul(set1(0.5F), mul(mul(t, p), exp(sub(zero(), mul(z, z)))));
  return mul(x, if_less(x, zero(), half_erfc, sub(set1(1.0F), half_erfc)));
}

// 0.5 x (1 + tanh(y)) = x sigmoid(2y), y = sqrt(2/pi) (x + 0.044715 x^3).
inline Vf gelu_tanh(Vf x) {
  const Vf cubic = fma(mul(mul(x, x), x), set1(0.044715F), x);
  return times_sigmoid(x, mul(set1(1.5957691216F), cubic));
}

inline Vf activate(Vf x, Act activation) {
  switch (activation) {
    case Act::none: return x;
    case Act::relu: return max(zero(), x);
    case Act::gelu: return gelu(x);
    case Act::gelu_tanh: return gelu_tanh(x);
    case Act::silu: return times_sigmoid(x, x);
  }
  return x;
}

}  // namespace
}  // namespace gossamer::cpu
