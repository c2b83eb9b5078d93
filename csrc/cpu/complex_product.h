// out[row] += sum_i x[row][i] * w[i]: complex, x broadcast, w and out in lanes. Rows are images and the inner index
// channels, or, for the gradient of the weight, the other way about.
#pragma once

#include <algorithm>

#include "blocks.h"
#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Two accumulators a row, two vectors of weights and the broadcasts must fit in the registers.
inline constexpr int kProductRows = kRegisters == 32 ? 12 : 5;

template <class C>
struct ComplexProduct {
  const C* x;
  int64_t row_step, inner_step, im_offset;
  const C* w;
  int64_t w_step, w_im_offset, inner;
  C* out;  // [row][re, im][lanes]
  bool accumulate;
  bool real;  // imaginary parts of x and w are zero: a quarter of the work, and out's are left or made zero
  // Channels of several convolution groups in one vector: what each lane adds to x, or null where all share it.
  const int64_t* lane_channel;
};

template <class C, int R>
inline void complex_rows(const ComplexProduct<C>& p, int64_t row) {
  constexpr int kL = kLanes<C>;
  Vec<C> re[R], im[R];
  C* out = p.out + row * 2 * kL;
  for (int r = 0; r < R; ++r) {
    re[r] = p.accumulate ? load(out + r * 2 * kL) : Vec<C>{};
    im[r] = p.accumulate ? load(out + r * 2 * kL + kL) : Vec<C>{};
  }
  const C *x = p.x + row * p.row_step, *w = p.w;
  for (int64_t i = 0; i < p.inner; ++i) {
    const Vec<C> w_re = load(w), w_im = load(w + p.w_im_offset);
    for (int r = 0; r < R; ++r) {
      const C x_re = x[r * p.row_step], x_im = x[r * p.row_step + p.im_offset];
      re[r] += x_re * w_re;
      im[r] += x_re * w_im;
      re[r] -= x_im * w_im;
      im[r] += x_im * w_re;
    }
    x += p.inner_step;
    w += p.w_step;
  }
  for (int r = 0; r < R; ++r) {
    store(out + r * 2 * kL, re[r]);
    store(out + r * 2 * kL + kL, im[r]);
  }
}

template <class C, int R>
inline void real_rows(const ComplexProduct<C>& p, int64_t row) {
  constexpr int kL = kLanes<C>;
  Vec<C> re[R];
  C* out = p.out + row * 2 * kL;
  for (int r = 0; r < R; ++r) re[r] = p.accumulate ? load(out + r * 2 * kL) : Vec<C>{};
  const C *x = p.x + row * p.row_step, *w = p.w;
  for (int64_t i = 0; i < p.inner; ++i) {
    const Vec<C> w_re = load(w);
    for (int r = 0; r < R; ++r) re[r] += x[r * p.row_step] * w_re;
    x += p.inner_step;
    w += p.w_step;
  }
  for (int r = 0; r < R; ++r) {
    store(out + r * 2 * kL, re[r]);
    if (!p.accumulate) store(out + r * 2 * kL + kL, Vec<C>{});
  }
}

template <class C, size_t... R>
inline void complex_block(const ComplexProduct<C>& p, int64_t row, int rows, std::index_sequence<R...>) {
  using Rows = void (*)(const ComplexProduct<C>&, int64_t);
  static constexpr Rows all[] = {&complex_rows<C, int(R) + 1>...}, real[] = {&real_rows<C, int(R) + 1>...};
  (p.real ? real : all)[rows - 1](p, row);
}

template <class C>
inline void complex_spanning(const ComplexProduct<C>& p, int64_t row) {
  constexpr int kL = kLanes<C>;
  C* out = p.out + row * 2 * kL;
  Vec<C> re = p.accumulate ? load(out) : Vec<C>{}, im = p.accumulate ? load(out + kL) : Vec<C>{};
  const C* x = p.x + row * p.row_step;
  for (int64_t i = 0; i < p.inner; ++i) {
    const Vec<C> w_re = load(p.w + i * p.w_step), w_im = load(p.w + i * p.w_step + p.w_im_offset);
    Vec<C> x_re, x_im;
    for (int lane = 0; lane < kL; ++lane) {
      x_re[lane] = x[p.lane_channel[lane] + i * p.inner_step];
      x_im[lane] = x[p.im_offset + p.lane_channel[lane] + i * p.inner_step];
    }
    re += x_re * w_re - x_im * w_im;
    im += x_re * w_im + x_im * w_re;
  }
  store(out, re);
  store(out + kL, im);
}

template <class C>
inline void multiply(const ComplexProduct<C>& p, int64_t rows) {
  if (p.lane_channel != nullptr) {
    for (int64_t row = 0; row < rows; ++row) complex_spanning(p, row);
    return;
  }
  each_block(rows, kProductRows, [&](int64_t row, int64_t count) {
    complex_block(p, row, int(count), std::make_index_sequence<kProductRows>{});
  });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
