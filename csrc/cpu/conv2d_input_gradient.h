// Identity 7 backwards to x: for a vector of input channels and a block of images, the kept bins and the frame's lines
// of dx by products with the weight, then the way back to samples, which goes to dx with a minus.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "conv2d_gradient_spectra.h"
#include "conv2d_weight.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
class InputGradient {
  static constexpr int kL = kLanes<C>;

 public:
  InputGradient(const Conv2dLowGradientArgs& a, const OutputLanes<C>& lanes, const SpectralAxis<C>& h,
                const SpectralAxis<C>& w, const GradientAxis<C>& back_h, const GradientAxis<C>& back_w,
                const GradientSpectra<C>& gradient, int64_t images)
      : a_(a),
        lanes_(lanes),
        h_(h),
        w_(w),
        back_h_(back_h),
        back_w_(back_w),
        gradient_(gradient),
        weight_(h, w, lanes.inputs()),
        size_(back_h.columns * back_w.columns * kL),
        pairs_(images * size_),
        along_(a.dx.height * back_w.columns * kL),
        map_(a.dx.height * a.dx.width * kL),
        product_(images * std::max<int64_t>({2, int64_t(h.samples.size()), int64_t(w.samples.size())}) * 2 * kL) {}

  // Images from..from + images of the tile that begins at image `first` of the batch.
  void run(int64_t vector, int64_t first, int64_t from, int64_t images) {
    vector_ = lanes_.vector(vector);
    from_ = from, images_ = images;
    gather_weight();
    for (int64_t g = 0; g < w_.frequencies; ++g) {
      weight_.along_width(g);
      for (int64_t f = 0; f < h_.frequencies; ++f) bins(f, g);
      rows(g);
    }
    for (int64_t f = 0; f < h_.frequencies; ++f) columns(f);
    corners();
    const Maps& dx = a_.dx;
    for (int64_t i = 0; i < images_; ++i) {
      const C* to = map_at<C>(dx, first + from + i, vector_.output);
      write_ahead(ahead_, dx, to, vector_.count);
      transform(back_h_.input, back_w_.input, pairs_.data() + i * size_, back_w_.columns * kL, kL, along_.data(),
                map_.data(), &ahead_);
      scatter_maps(map_.data(), dx, vector_.count, const_cast<C*>(to), a_.adding);
    }
  }

 private:
  // [output channel of the group][taps][lanes]
  void gather_weight() {
    const int64_t taps = h_.kernel * w_.kernel, inputs = a_.dx.channels / a_.layer.groups;
    const Maps rows{a_.layer.weight, a_.dx.dtype, 1, 1, lanes_.inputs(), taps, 0, 0, inputs * taps, 1};
    const C* from = static_cast<const C*>(a_.layer.weight);
    const auto first = [&](int64_t lane) {
      return from + (vector_.lane_channel[lane] * inputs + (vector_.output + lane) % inputs) * taps;
    };
    gather_group<C, C>(rows, vector_.count, first, weight_.taps());
  }

  void bins(int64_t f, int64_t g) {
    const bool both = f > 0 && g > 0;
    weight_.bins(f, both);
    const C *plus = product_.data(), *minus = plus + images_ * 2 * kL;
    product(gradient_.bin(f, g), 0, false, f == 0 && g == 0);
    if (both) product(gradient_.bin(-f, g), 1, false, false, 1);
    for (int64_t i = 0; i < images_; ++i) {
      BinPair<C> d{value(plus, i), {}};
      if (both) d.minus = value(minus, i);
      store_bins_adjoint(pairs_.data() + i * size_, back_w_.columns, f, g, d);
    }
  }

  void rows(int64_t g) {
    clear(h_.samples.size());
    for (int64_t line = 0; line < h_.lines; ++line) {
      for (int64_t tap = 0; tap < h_.kernel; ++tap) {
        const int64_t sample = h_.source[line * h_.kernel + tap];
        if (sample < 0) continue;
        weight_.row_product(gradient_, gradient_.row(line, g), from_, images_, vector_, product_at(sample), tap,
                            g == 0);
      }
    }
    for (size_t sample = 0; sample < h_.samples.size(); ++sample) {
      for (int64_t i = 0; i < images_; ++i) {
        C* to = at(i, pair_rows(h_.frequencies) + sample, 2 * g);
        const Bin<C> d = value(product_at(sample), i);
        store(to, d.re);
        if (g > 0) store(to - kL, d.im);
      }
    }
  }

  void columns(int64_t f) {
    clear(w_.samples.size());
    for (int64_t line = 0; line < w_.lines; ++line) {
      for (int64_t tap = 0; tap < w_.kernel; ++tap) {
        const int64_t sample = w_.source[line * w_.kernel + tap];
        if (sample < 0) continue;
        weight_.column(tap, f);
        product(gradient_.column(line, f), sample, true, f == 0);
      }
    }
    for (size_t sample = 0; sample < w_.samples.size(); ++sample) {
      for (int64_t i = 0; i < images_; ++i) {
        C* to = at(i, 2 * f, pair_rows(w_.frequencies) + sample);
        const Bin<C> d = value(product_at(sample), i);
        store(to, d.re);
        if (f > 0) store(to - back_w_.columns * kL, d.im);
      }
    }
  }

  // Single samples, where a row of the frame crosses a column.
  void corners() {
    for (size_t row = 0; row < h_.samples.size(); ++row) {
      for (size_t column = 0; column < w_.samples.size(); ++column) {
        clear(1);
        each_crossing(row, column, [&](int64_t line, int64_t other, int64_t t, int64_t u) {
          weight_.corner(t, u);
          product(gradient_.corner(line, other), 0, true, true);
        });
        for (int64_t i = 0; i < images_; ++i) {
          store(at(i, pair_rows(h_.frequencies) + row, pair_rows(w_.frequencies) + column),
                value(product_.data(), i).re);
        }
      }
    }
  }
  template <class Visit>
  void each_crossing(int64_t row, int64_t column, Visit visit) const {
    for (int64_t a = 0; a < h_.lines * h_.kernel; ++a) {
      for (int64_t b = 0; b < w_.lines * w_.kernel; ++b) {
        if (h_.source[a] != row || w_.source[b] != column) continue;
        visit(a / h_.kernel, b / w_.kernel, a % h_.kernel, b % w_.kernel);
      }
    }
  }

  C* product_at(int64_t place) { return product_.data() + place * images_ * 2 * kL; }
  void clear(int64_t places) { std::fill_n(product_.begin(), places * images_ * 2 * kL, C(0)); }
  void product(int64_t slot, int64_t place, bool accumulate, bool real, int which = 0) {
    weight_.product(gradient_, slot, from_, images_, vector_, product_at(place), accumulate, which, real);
  }
  static Bin<C> value(const C* product, int64_t image) {
    return {load(product + image * 2 * kL), load(product + image * 2 * kL + kL)};
  }
  C* at(int64_t image, int64_t row, int64_t column) {
    return pairs_.data() + image * size_ + (row * back_w_.columns + column) * kL;
  }

  const Conv2dLowGradientArgs& a_;
  const OutputLanes<C>& lanes_;
  const SpectralAxis<C>&h_, &w_;
  const GradientAxis<C>&back_h_, &back_w_;
  const GradientSpectra<C>& gradient_;
  LaneWeight<C> weight_;
  const int64_t size_;
  Buffer<C> pairs_;  // [image][pairs, then samples, along the height][the same along the width][lanes]
  Buffer<C> along_, map_, product_;
  Ahead ahead_{false};
  LaneVector<C> vector_{};
  int64_t from_ = 0, images_ = 0;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
