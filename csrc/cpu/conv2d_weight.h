// The weight of a convolution for one vector of channels in lanes: its spectrum, panel by panel as products ask for it.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "complex_product.h"
#include "conv2d_alias_l1.h"
#include "conv2d_spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {

// A panel is [inner][re, im][lanes]. The inner index runs over the channels of the convolution group that are not in
// lanes: input channels where output channels are, and the other way about for the gradient of x.
template <class C>
class LaneWeight {
  static constexpr int kL = kLanes<C>;

 public:
  LaneWeight(const SpectralAxis<C>& h, const SpectralAxis<C>& w, int64_t inner)
      : h_(h),
        w_(w),
        inner_(inner),
        taps_(inner * h.kernel * w.kernel * kL),
        partial_(inner * h.kernel * 2 * kL),
        panels_(2 * inner * 2 * kL) {}

  int64_t inner() const { return inner_; }
  // [inner][taps][lanes], for the owner to fill.
  C* taps() { return taps_.data(); }

  // Transforms along the width at frequency g; bins() and row() are then of that frequency.
  void along_width(int64_t g) {
    for (int64_t i = 0; i < inner_ * h_.kernel; ++i) {
      const C* from = taps_.data() + i * w_.kernel * kL;
      const Bin<C> sum = real_sum(w_, g, from, kL);
      store(partial_.data() + i * 2 * kL, sum.re);
      store(partial_.data() + i * 2 * kL + kL, sum.im);
    }
  }

  // Panels at (+f, g) and, if there is such a bin, at (-f, g).
  void bins(int64_t f, bool both) {
    for (int64_t i = 0; i < inner_; ++i) {
      const C* from = partial_.data() + i * h_.kernel * 2 * kL;
      Bin<C> cosine = {}, sine = {};
      for (int64_t t = 0; t < h_.kernel; ++t) {
        const C phase_re = h_.phase_re[f * h_.kernel + t], phase_im = h_.phase_im[f * h_.kernel + t];
        const Vec<C> re = load(from + t * 2 * kL), im = load(from + t * 2 * kL + kL);
        cosine.re += phase_re * re, cosine.im += phase_re * im;
        sine.re += phase_im * re, sine.im += phase_im * im;
      }
      put(0, i, {cosine.re - sine.im, cosine.im + sine.re});
      if (both) put(1, i, {cosine.re + sine.im, cosine.im - sine.re});
    }
  }
  // One column of taps, transformed along the height.
  void column(int64_t tap, int64_t f) {
    for (int64_t i = 0; i < inner_; ++i) {
      put(0, i, real_sum(h_, f, taps_.data() + (i * h_.kernel * w_.kernel + tap) * kL, w_.kernel * kL));
    }
  }
  void corner(int64_t t, int64_t u) {
    for (int64_t i = 0; i < inner_; ++i) {
      put(0, i, Bin<C>{load(taps_.data() + ((i * h_.kernel + t) * w_.kernel + u) * kL), Vec<C>{}});
    }
  }

  // out[image][re, im][lanes] (+)= x at `slot` times the panel made last (0 at +f, 1 at -f) for `images` from `image`.
  // real: both are, at frequency zero and where single samples meet.
  void product(const Spectra<C>& x, int64_t slot, int64_t image, int64_t images, const LaneVector<C>& lanes, C* out,
               bool accumulate, int which = 0, bool real = false) const {
    multiply(x, slot, image, images, lanes, panels_.data() + which * inner_ * 2 * kL, 2 * kL, out, accumulate, real);
  }
  // The same with one row of taps as along_width left it.
  void row_product(const Spectra<C>& x, int64_t slot, int64_t image, int64_t images, const LaneVector<C>& lanes, C* out,
                   int64_t tap, bool real = false) const {
    multiply(x, slot, image, images, lanes, partial_.data() + tap * 2 * kL, h_.kernel * 2 * kL, out, true, real);
  }

 private:
  static Bin<C> real_sum(const SpectralAxis<C>& axis, int64_t f, const C* w, int64_t step) {
    Bin<C> sum = {};
    for (int64_t t = 0; t < axis.kernel; ++t) {
      const Vec<C> value = load(w + t * step);
      sum.re += axis.phase_re[f * axis.kernel + t] * value;
      sum.im += axis.phase_im[f * axis.kernel + t] * value;
    }
    return sum;
  }
  void put(int which, int64_t i, const Bin<C>& value) {
    C* to = panels_.data() + (which * inner_ + i) * 2 * kL;
    store(to, value.re);
    store(to + kL, value.im);
  }
  void multiply(const Spectra<C>& x, int64_t slot, int64_t image, int64_t images, const LaneVector<C>& lanes,
                const C* panel, int64_t step, C* out, bool accumulate, bool real) const {
    const C* from = x.at(slot, image) + (lanes.spanning ? 0 : lanes.channel);
    ALIAS_OPS_ISA::multiply(ComplexProduct<C>{from, 2 * x.channels, 1, x.channels, panel, step, kL, inner_, out,
                                              accumulate, real, lanes.spanning ? lanes.lane_channel : nullptr},
                            images);
  }

  const SpectralAxis<C>&h_, &w_;
  const int64_t inner_;
  Buffer<C> taps_;
  Buffer<C> partial_;  // [inner][tap along the height][re, im][lanes]: transformed along the width
  Buffer<C> panels_;   // at +f, at -f
};

}  // namespace alias_ops::ALIAS_OPS_ISA
