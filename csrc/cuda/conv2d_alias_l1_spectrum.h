// The last step of the one-pass convolution measure: DFT of a residual, moduli, their sum. Eight maps at a time.
//
// Real on both axes: a table has the cosine of frequency i in row i of a tile and its sine in row i + 8, so that one
// thread holds both; beside frequency 0, which has no sine, lies the cosine of n / 2. What a bin is follows from the
// four products of cosines and sines. Tables carry 1 / n.
#pragma once

#include <cmath>

#include "conv2d_alias_l1_plan.h"
#include "fragments.h"

namespace alias_ops::cuda::conv2d {

// Operands of one step of 8 inner elements (16 for T of 16 bits), from registers as the PTX manual numbers them.
template <class T, int PRODUCTS>
ALIAS_OPS_DEVICE Left<T, PRODUCTS> left_of(const uint32_t (&words)[4]) {
  Left<T, PRODUCTS> left;
  if constexpr (std::is_same_v<T, float>) {
    const float upper[4] = {float_of(words[0]), float_of(words[2]), 0, 0};
    const float lower[4] = {float_of(words[1]), float_of(words[3]), 0, 0};
    left.set(upper, lower);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) left.pairs[i] = words[i];
  }
  return left;
}

template <class T, int PRODUCTS>
ALIAS_OPS_DEVICE Right<T, PRODUCTS> right_of(uint32_t first, uint32_t second) {
  Right<T, PRODUCTS> right;
  if constexpr (std::is_same_v<T, float>) {
    const float values[4] = {float_of(first), float_of(second), 0, 0};
    right.set(values);
  } else {
    right.pairs[0] = first, right.pairs[1] = second;
  }
  return right;
}

template <class T, int PRODUCTS>
ALIAS_OPS_DEVICE void step(float (&c)[4], const Left<T, PRODUCTS>& a, const Right<T, PRODUCTS>& b) {
  if constexpr (std::is_same_v<T, float>) {
    multiply<1>(c, a, b);
  } else {
    multiply(c, a, b);
  }
}

template <int PRODUCTS>
ALIAS_OPS_DEVICE Left<float, PRODUCTS> wave_of(const float* table, int tile, int steps, int at) {
  return left_of<float, PRODUCTS>(load_global<Words<4>>(table + ((tile * steps + at) * 32 + lane()) * 4).w);
}

ALIAS_OPS_DEVICE float square_root(float value) {
#ifdef __CUDACC__
  float root;  // within an ulp, in one instruction and a scaling
  asm("sqrt.approx.f32 %0, %1;" : "=f"(root) : "f"(value));
  return root;
#else
  return std::sqrt(value);
#endif
}

// |re + i im| over the whole range of float: both parts times one of four powers of two before they are squared.
ALIAS_OPS_DEVICE float modulus(float re, float im) {
  const uint32_t a = bits_of(re) & 0x7fffffffu, b = bits_of(im) & 0x7fffffffu;
  const uint32_t quarter = (a > b ? a : b) & 0x60000000u;
  const float scale = float_of(0x6f000000u - quarter);
  re *= scale, im *= scale;
  return square_root(re * re + im * im) * float_of(0x10000000u + quarter);
}

// What the bins of frequencies f and g, of both signs, add to the norm.
ALIAS_OPS_DEVICE float moduli(float cc, float sc, float cs, float ss, bool f_alone, bool g_alone) {
  if (f_alone && g_alone) return modulus(cc, 0) + modulus(sc, 0) + modulus(cs, 0) + modulus(ss, 0);
  if (f_alone) return 2 * (modulus(cc, cs) + modulus(sc, ss));
  if (g_alone) return 2 * (modulus(cc, sc) + modulus(cs, ss));
  return 2 * (modulus(cc - ss, cs + sc) + modulus(cc + ss, cs - sc));
}

// Eight maps in shared memory, neighbours in memory: sample (n, m) at `maps` + n `row` + m `column`.
struct Maps {
  float* maps;
  int row, column, N, M;

  ALIAS_OPS_DEVICE float* row_at(int n) const { return maps + n * row; }
};

// The same, but `rows` rows at a time are `band` floats apart.
struct BandedMaps : Maps {
  int rows, band;

  ALIAS_OPS_DEVICE float* row_at(int n) const {
    const int at = n * (0x10000 / rows + 1) >> 16;  // n / rows: it is n of up to 32, and a division would take longer
    return maps + (n - at * rows) * row + at * band;
  }
};

// Samples of each row become what its frequencies have of them: cosines in front, then sines. Rows part, part +
// parts...
template <int PRODUCTS>
ALIAS_OPS_DEVICE void transform_rows(const Maps& a, const float* wave_w, int part, int parts) {
  const int g = lane() / 4, t = lane() % 4, count = pairs(a.M), tiles = pair_tiles(a.M), steps = sample_steps(a.M);
  for (int n = part; n < a.N; n += parts) {
    warp_barrier();  // products want all lanes at one instruction, which what is behind may not leave
    float* samples = a.row_at(n);
    float c[2][4] = {};
    for (int s = 0; s < steps; ++s) {
      const int m = 8 * s + t, last = a.M - 1;
      const auto right =
          right_of<float, PRODUCTS>(load_shared<uint32_t>(samples + (m < last ? m : last) * a.column + g),
                                    load_shared<uint32_t>(samples + (m + 4 < last ? m + 4 : last) * a.column + g));
#pragma unroll
      for (int tile = 0; tile < 2; ++tile) {
        if (tile < tiles) step(c[tile], wave_of<PRODUCTS>(wave_w, tile, steps, s), right);
      }
    }
    warp_barrier();
#pragma unroll
    for (int tile = 0; tile < 2; ++tile) {
      const int frequency = 8 * tile + g;
      if (frequency >= count) continue;
      store_shared(samples + frequency * a.column + 2 * t, Words<2>{bits_of(c[tile][0]), bits_of(c[tile][1])});
      store_shared(samples + (count + frequency) * a.column + 2 * t,
                   Words<2>{bits_of(c[tile][2]), bits_of(c[tile][3])});
    }
  }
}

// Adds the moduli of maps 2 t and 2 t + 1 at one frequency along the rows, whose cosines and sines have come to be
// columns; `alone`: frequency 0, beside which lies the cosine of half the samples.
template <int PRODUCTS, class AnyMaps>
ALIAS_OPS_DEVICE void add_frequency(const AnyMaps& a, const float* wave_h, int cosine_column, int sine_column,
                                    bool alone, float (&total)[2]) {
  const int g = lane() / 4, t = lane() % 4, tiles = pair_tiles(a.N), steps = sample_steps(a.N), last = a.N - 1;
  const int apart = (sine_column - cosine_column) * a.column;
  for (int tile = 0; tile < tiles; ++tile) {
    warp_barrier();
    float cosines[4] = {}, sines[4] = {};
    for (int s = 0; s < steps; ++s) {
      const int n = 8 * s + t;
      const float* upper = a.row_at(n < last ? n : last) + cosine_column * a.column + g;
      const float* lower = a.row_at(n + 4 < last ? n + 4 : last) + cosine_column * a.column + g;
      const auto wave = wave_of<PRODUCTS>(wave_h, tile, steps, s);
      step(cosines, wave, right_of<float, PRODUCTS>(load_shared<uint32_t>(upper), load_shared<uint32_t>(lower)));
      upper += apart, lower += apart;
      step(sines, wave, right_of<float, PRODUCTS>(load_shared<uint32_t>(upper), load_shared<uint32_t>(lower)));
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      total[i] += moduli(cosines[i], cosines[2 + i], sines[i], sines[2 + i], 8 * tile + g == 0, alone);
    }
  }
}

ALIAS_OPS_DEVICE void add_lanes(float (&total)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    for (int mask = 4; mask < 32; mask *= 2) total[i] += shuffle_xor(total[i], mask);
  }
}

// The sums of moduli of maps 2 t and 2 t + 1, of the frequencies part, part + parts... along the rows.
template <int PRODUCTS, class AnyMaps>
ALIAS_OPS_DEVICE void add_moduli(const AnyMaps& a, const float* wave_h, int part, int parts, float (&total)[2]) {
  const int count = pairs(a.M);
  total[0] = total[1] = 0;
  for (int along_w = part; along_w < count; along_w += parts) {
    add_frequency<PRODUCTS>(a, wave_h, along_w, count + along_w, along_w == 0, total);
  }
  add_lanes(total);
}

}  // namespace alias_ops::cuda::conv2d
