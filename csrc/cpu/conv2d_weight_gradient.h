// Identity 7 backwards to the weight: for a vector of output channels and a block of input channels, products over the
// images of a chunk, each folded at once into the taps.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "complex_product.h"
#include "conv2d_alias_l1.h"
#include "conv2d_gradient_spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
class WeightGradient {
  static constexpr int kL = kLanes<C>;

 public:
  WeightGradient(const SpectralAxis<C>& h, const SpectralAxis<C>& w, const InputSpectra<C>& x,
                 const GradientSpectra<C>& gradient, int64_t channels)
      : h_(h),
        w_(w),
        x_(x),
        gradient_(gradient),
        product_(2 * channels * 2 * kL),
        partial_(channels * h.kernel * 2 * kL) {}

  // Takes the gradient of the images from..from + images off taps [channel][taps][lanes], for `channels` of the lanes'
  // input channels from `channel` on.
  void run(const LaneVector<C>& vector, int64_t channel, int64_t channels, int64_t from, int64_t images, C* taps) {
    vector_ = vector, channel_ = channel, channels_ = channels, from_ = from, images_ = images, taps_ = taps;
    for (int64_t g = 0; g < w_.frequencies; ++g) {
      std::fill(partial_.begin(), partial_.end(), C(0));
      for (int64_t f = 0; f < h_.frequencies; ++f) bins(f, g);
      rows(g);
      for (int64_t i = 0; i < channels; ++i) {
        for (int64_t t = 0; t < h_.kernel; ++t) {
          fold(value(partial_.data() + (i * h_.kernel + t) * 2 * kL), w_, g, tap(i, t, 0), kL);
        }
      }
    }
    columns();
    corners();
  }

 private:
  // Folds along the height, the bins +f and -f in one go: their phases are conjugates.
  void bins(int64_t f, int64_t g) {
    const bool both = f > 0 && g > 0;
    const C *plus = product_.data(), *minus = plus + channels_ * 2 * kL;
    product(x_.bin(f, g), gradient_.bin(f, g), f == 0 && g == 0, 0);
    if (both) product(x_.bin(-f, g), gradient_.bin(-f, g), false, 1);
    for (int64_t i = 0; i < channels_; ++i) {
      Bin<C> sum = value(plus + i * 2 * kL), difference = sum;
      if (both) {
        const Bin<C> other = value(minus + i * 2 * kL);
        sum.re += other.re, sum.im += other.im;
        difference.re -= other.re, difference.im -= other.im;
      }
      for (int64_t t = 0; t < h_.kernel; ++t) {
        const C re = h_.phase_re[f * h_.kernel + t], im = h_.phase_im[f * h_.kernel + t];
        C* to = partial_.data() + (i * h_.kernel + t) * 2 * kL;
        store(to, load(to) + re * sum.re - im * difference.im);
        store(to + kL, load(to + kL) + re * sum.im + im * difference.re);
      }
    }
  }

  void rows(int64_t g) {
    for (int64_t line = 0; line < h_.lines; ++line) {
      for (int64_t t = 0; t < h_.kernel; ++t) {
        const int64_t sample = h_.source[line * h_.kernel + t];
        if (sample < 0) continue;
        product(x_.row(sample, g), gradient_.row(line, g), g == 0, 0);
        for (int64_t i = 0; i < channels_; ++i) {
          const Bin<C> d = value(product_.data() + i * 2 * kL);
          C* to = partial_.data() + (i * h_.kernel + t) * 2 * kL;
          store(to, load(to) + d.re);
          store(to + kL, load(to + kL) + d.im);
        }
      }
    }
  }

  void columns() {
    for (int64_t line = 0; line < w_.lines; ++line) {
      for (int64_t u = 0; u < w_.kernel; ++u) {
        const int64_t sample = w_.source[line * w_.kernel + u];
        if (sample < 0) continue;
        for (int64_t f = 0; f < h_.frequencies; ++f) {
          product(x_.column(sample, f), gradient_.column(line, f), f == 0, 0);
          for (int64_t i = 0; i < channels_; ++i) {
            fold(value(product_.data() + i * 2 * kL), h_, f, tap(i, 0, u), w_.kernel * kL);
          }
        }
      }
    }
  }

  void corners() {
    for (int64_t a = 0; a < h_.lines * h_.kernel; ++a) {
      for (int64_t b = 0; b < w_.lines * w_.kernel; ++b) {
        if (h_.source[a] < 0 || w_.source[b] < 0) continue;
        product(x_.corner(h_.source[a], w_.source[b]), gradient_.corner(a / h_.kernel, b / w_.kernel), true, 0);
        for (int64_t i = 0; i < channels_; ++i) {
          C* to = tap(i, a % h_.kernel, b % w_.kernel);
          store(to, load(to) - load(product_.data() + i * 2 * kL));
        }
      }
    }
  }

  // taps -= Re(phase(f) d) along one axis.
  static void fold(const Bin<C>& d, const SpectralAxis<C>& axis, int64_t f, C* taps, int64_t step) {
    for (int64_t t = 0; t < axis.kernel; ++t) {
      const C re = axis.phase_re[f * axis.kernel + t], im = axis.phase_im[f * axis.kernel + t];
      store(taps + t * step, load(taps + t * step) - re * d.re + im * d.im);
    }
  }

  // [channel][re, im][lanes] = sum over the images of x times gradient
  void product(int64_t x_slot, int64_t gradient_slot, bool real, int which) {
    const C* x = x_.at(x_slot, from_) + (vector_.spanning ? 0 : vector_.channel) + channel_;
    const C* gradient = gradient_.at(gradient_slot, from_) + vector_.output;
    multiply(ComplexProduct<C>{x, 1, 2 * x_.channels, x_.channels, gradient, 2 * gradient_.channels, gradient_.channels,
                               images_, product_.data() + which * channels_ * 2 * kL, false, real,
                               vector_.spanning ? vector_.lane_channel : nullptr},
             channels_);
  }
  static Bin<C> value(const C* at) { return {load(at), load(at + kL)}; }
  C* tap(int64_t channel, int64_t t, int64_t u) { return taps_ + ((channel * h_.kernel + t) * w_.kernel + u) * kL; }

  const SpectralAxis<C>&h_, &w_;
  const InputSpectra<C>& x_;
  const GradientSpectra<C>& gradient_;
  Buffer<C> product_;  // at +f, at -f
  Buffer<C> partial_;  // [channel][tap along the height][re, im][lanes]
  LaneVector<C> vector_{};
  int64_t channel_ = 0, channels_ = 0, from_ = 0, images_ = 0;
  C* taps_ = nullptr;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
