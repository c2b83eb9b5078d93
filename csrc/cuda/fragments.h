// Products of 16 inner elements at a time in every precision, from values that threads hold as floats.
//
// Lane l is (g, t) = (l / 4, l % 4). Of a left operand [16 x 16] it holds rows g and g + 8, of a right one [16 x 8]
// column g, and of either the same four inner elements: which ones is for the kernel to choose, as long as both
// operands agree. Of the result [16 x 8] it holds rows g and g + 8, columns 2 t and 2 t + 1.
#pragma once

#include "device.h"

namespace alias_ops::cuda {

// PRODUCTS: 1 takes the operands in T, or in TF32 where T is float; 3, for float, keeps 22 of their 24 bits. STEPS: of
// 8 inner elements; with 1 the last two of a thread's four count for nothing, and T of 16 bits wants zeros there.
template <class T, int PRODUCTS>
struct Left {
  uint32_t pairs[4];
  ALIAS_OPS_DEVICE void set(const float (&upper)[4], const float (&lower)[4]) {
    pairs[0] = pair_of<T>(upper[0], upper[1]), pairs[1] = pair_of<T>(lower[0], lower[1]);
    pairs[2] = pair_of<T>(upper[2], upper[3]), pairs[3] = pair_of<T>(lower[2], lower[3]);
  }
};
template <class T, int PRODUCTS>
struct Right {
  uint32_t pairs[2];
  ALIAS_OPS_DEVICE void set(const float (&values)[4]) {
    pairs[0] = pair_of<T>(values[0], values[1]), pairs[1] = pair_of<T>(values[2], values[3]);
  }
};

template <int PRODUCTS>
ALIAS_OPS_DEVICE float high_of(float value) {
  return PRODUCTS == 3 ? tf32_of(value) : tf32_or_nan_of(value);
}

template <int PRODUCTS>
struct Left<float, PRODUCTS> {
  float high[2][4], low[2][4];
  ALIAS_OPS_DEVICE void set(const float (&upper)[4], const float (&lower)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // Slots of a step: (row g, first), (row g + 8, first), (g, second), (g + 8, second).
      const int step = i / 2, slot = 2 * (i % 2);
      high[step][slot] = high_of<PRODUCTS>(upper[i]), high[step][slot + 1] = high_of<PRODUCTS>(lower[i]);
      if constexpr (PRODUCTS == 3) {
        low[step][slot] = tf32_rest(upper[i], high[step][slot]);
        low[step][slot + 1] = tf32_rest(lower[i], high[step][slot + 1]);
      }
    }
  }
};
template <int PRODUCTS>
struct Right<float, PRODUCTS> {
  float high[2][2], low[2][2];
  ALIAS_OPS_DEVICE void set(const float (&values)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[i / 2][i % 2] = high_of<PRODUCTS>(values[i]);
      if constexpr (PRODUCTS == 3) low[i / 2][i % 2] = tf32_rest(values[i], high[i / 2][i % 2]);
    }
  }
};

// c += a b, small contributions first.
template <int STEPS = 2, class T, int PRODUCTS>
ALIAS_OPS_DEVICE void multiply(float (&c)[4], const Left<T, PRODUCTS>& a, const Right<T, PRODUCTS>& b) {
  static_assert(PRODUCTS == 1, "16-bit operands are exact");
  multiply_16<T>(c, a.pairs, b.pairs);
}
template <int STEPS = 2, int PRODUCTS>
ALIAS_OPS_DEVICE void multiply(float (&c)[4], const Left<float, PRODUCTS>& a, const Right<float, PRODUCTS>& b) {
#pragma unroll
  for (int step = 0; step < STEPS; ++step) {
    if constexpr (PRODUCTS == 3) {
      multiply_tf32(c, a.low[step], b.high[step]);
      multiply_tf32(c, a.high[step], b.low[step]);
    }
    multiply_tf32(c, a.high[step], b.high[step]);
  }
}

}  // namespace alias_ops::cuda
