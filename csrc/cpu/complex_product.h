// out[image] += sum_i x[image][i] * w[i]: complex, channels of x broadcast, output channels in lanes.
#pragma once

#include <algorithm>

#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Two accumulators an image, two vectors of weights and the broadcasts must fit in the registers.
inline constexpr int kImageTile = kRegisters == 32 ? 12 : 5;

template <class C>
struct ComplexProduct {
  const C* x;  // image -> [re, im][channels]
  int64_t image_step, im_offset;
  const C* w;  // [inner][re, im][lanes], w_step between two inner elements
  int64_t w_step, inner;
  C* out;  // [image][re, im][lanes]
  bool accumulate;
  // Output channels of several convolution groups in one vector: the first input channel of each
  // lane, or null where all lanes share x's.
  const int64_t* lane_channel;
};

template <class C, int R>
inline void complex_rows(const ComplexProduct<C>& p, int64_t image) {
  constexpr int kL = kLanes<C>;
  Vec<C> re[R], im[R];
  C* out = p.out + image * 2 * kL;
  for (int r = 0; r < R; ++r) {
    re[r] = p.accumulate ? load(out + r * 2 * kL) : Vec<C>{};
    im[r] = p.accumulate ? load(out + r * 2 * kL + kL) : Vec<C>{};
  }
  const C *x = p.x + image * p.image_step, *w = p.w;
  for (int64_t i = 0; i < p.inner; ++i) {
    const Vec<C> w_re = load(w), w_im = load(w + kL);
    for (int r = 0; r < R; ++r) {
      const C x_re = x[r * p.image_step + i], x_im = x[r * p.image_step + p.im_offset + i];
      re[r] += x_re * w_re;
      im[r] += x_re * w_im;
      re[r] -= x_im * w_im;
      im[r] += x_im * w_re;
    }
    w += p.w_step;
  }
  for (int r = 0; r < R; ++r) {
    store(out + r * 2 * kL, re[r]);
    store(out + r * 2 * kL + kL, im[r]);
  }
}

template <class C, size_t... R>
inline void complex_block(const ComplexProduct<C>& p, int64_t image, int rows, std::index_sequence<R...>) {
  static constexpr void (*table[])(const ComplexProduct<C>&, int64_t) = {&complex_rows<C, int(R) + 1>...};
  table[rows - 1](p, image);
}

template <class C>
inline void complex_spanning(const ComplexProduct<C>& p, int64_t image) {
  constexpr int kL = kLanes<C>;
  C* out = p.out + image * 2 * kL;
  Vec<C> re = p.accumulate ? load(out) : Vec<C>{}, im = p.accumulate ? load(out + kL) : Vec<C>{};
  const C* x = p.x + image * p.image_step;
  for (int64_t i = 0; i < p.inner; ++i) {
    const Vec<C> w_re = load(p.w + i * p.w_step), w_im = load(p.w + i * p.w_step + kL);
    Vec<C> x_re, x_im;
    for (int lane = 0; lane < kL; ++lane) {
      x_re[lane] = x[p.lane_channel[lane] + i];
      x_im[lane] = x[p.im_offset + p.lane_channel[lane] + i];
    }
    re += x_re * w_re - x_im * w_im;
    im += x_re * w_im + x_im * w_re;
  }
  store(out, re);
  store(out + kL, im);
}

template <class C>
inline void multiply(const ComplexProduct<C>& p, int64_t images) {
  if (p.lane_channel != nullptr) {
    for (int64_t image = 0; image < images; ++image) complex_spanning(p, image);
    return;
  }
  const int64_t blocks = (images + kImageTile - 1) / kImageTile;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t image = images * block / blocks, rows = images * (block + 1) / blocks - image;
    complex_block(p, image, int(rows), std::make_index_sequence<kImageTile>{});
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
