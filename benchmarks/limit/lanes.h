// Vectors of rollouts: lane l of a `vec` is rollout l of a group of LANES that are simulated side by side.
#pragma once
#include <immintrin.h>

#ifndef LANES
#ifdef __AVX512F__
#define LANES 8
#else
#define LANES 4
#endif
#endif

typedef double vec __attribute__((vector_size(8 * LANES)));
typedef float single __attribute__((vector_size(4 * LANES)));
typedef long long mask __attribute__((vector_size(8 * LANES)));

#define INLINE inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

INLINE vec all(double value) { return vec{} + value; }
INLINE vec select(mask m, vec yes, vec no) { return m ? yes : no; }
INLINE vec max(vec a, vec b) { return a > b ? a : b; }
INLINE vec abs(vec a) { return (vec)((mask)a & 0x7fffffffffffffff); }

INLINE bool any(mask m) {
#if LANES == 8
  return _mm512_test_epi64_mask((__m512i)m, (__m512i)m);
#else
  return !_mm256_testz_si256((__m256i)m, (__m256i)m);
#endif
}

// 1/√a and 1/a to an ulp or two: where the processor has a 14-bit guess, that and one step of fourth order, which leaves
// the divider alone (5 % of a step of the cloth).
#if defined(__AVX512VL__)
INLINE vec reciprocal_root(vec a) {
#if LANES == 8
  vec y = (vec)_mm512_rsqrt14_pd((__m512d)a);
#else
  vec y = (vec)_mm256_rsqrt14_pd((__m256d)a);
#endif
  vec e = 1.0 - a * y * y;
  return y + y * (e * (0.5 + e * (0.375 + e * 0.3125)));
}
INLINE vec reciprocal(vec a) {
#if LANES == 8
  vec y = (vec)_mm512_rcp14_pd((__m512d)a);
#else
  vec y = (vec)_mm256_rcp14_pd((__m256d)a);
#endif
  vec e = 1.0 - a * y;
  return y + y * (e * (1.0 + e * (1.0 + e)));
}
#else
INLINE vec reciprocal_root(vec a) {
#if LANES == 8
  return 1.0 / (vec)_mm512_sqrt_pd((__m512d)a);
#else
  return 1.0 / (vec)_mm256_sqrt_pd((__m256d)a);
#endif
}
INLINE vec reciprocal(vec a) { return 1.0 / a; }
#endif

template <class num> INLINE num narrow(vec a) { return __builtin_convertvector(a, num); }
template <class num> INLINE vec widen(num a) { return __builtin_convertvector(a, vec); }
INLINE single reciprocal_root(single a) { return narrow<single>(reciprocal_root(widen(a))); }
INLINE single reciprocal(single a) { return narrow<single>(reciprocal(widen(a))); }

// e^a for −100 ≤ a ≤ 0: 2^n e^f with |f| ≤ ½ ln 2, Taylor to f¹³.
INLINE vec exponential(vec a) {
  const double shift = 6755399441055744.0;  // 1.5·2⁵²: adding it leaves round(n) in the low bits
  vec n = a * 1.4426950408889634 + shift;
  mask power = ((mask)n + 1023) << 52;
  n -= shift;
  vec f = a - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
  vec y = all(1.0 / 6227020800);
  const double inverse_factorials[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                                       1.0 / 5040,      1.0 / 720,      1.0 / 120,     1.0 / 24,     1.0 / 6,
                                       0.5,             1.0,            1.0};
  UNROLL for (double c : inverse_factorials) y = y * f + c;
  return y * (vec)power;
}
