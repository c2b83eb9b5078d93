// Identity 4: what a layer folds is the sum over its taps of w_tap times the residual of its input at that tap,
// S_t x S_u^T - P_t x P_u^T. Here those residuals for a vector of maps, and the way back from them to x.
#pragma once

#include "conv2d_tap_parts.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Output pixels that are worked on together, several images or some rows of one: the residuals of a vector of
// channels, nine taps of them, then fit in the second cache.
inline constexpr int64_t kTapPixels = 512;

template <class C>
class TapResiduals : public TapParts<C> {
  using Parts = TapParts<C>;
  using Parts::add;
  using Parts::h_;
  using Parts::kL;
  using Parts::w_;
  using Parts::width_;
  using typename Parts::Line;
  using typename Parts::Tap;

 public:
  using Parts::Parts;
  using typename Parts::Lanes;
  using typename Parts::Low;

  // residuals[tap][pixel][lanes] of the output rows first..last, `tap_step` from tap to tap, of maps that were taken.
  void make(const Lanes& lanes, const Low& s, int64_t first, int64_t last, C* residuals, int64_t tap_step) const {
    const auto [x, x_row, x_column] = lanes;
    each_row(first, last, [&](int64_t tap, int64_t n, int64_t t, int64_t u) {
      const Tap &h = h_.taps[t], &w = w_.taps[u];
      C* to = residuals + tap * tap_step + (n - first) * width_;
      const C* place = s.low.data() + this->place_of(h, w, n);
      w_.around(w, [&](int64_t m, int64_t at) { store(to + m * kL, -load(place + at * kL)); });
      if (n >= h.first && n < h.last) {
        const C* from = x + (n * h_.stride + h.offset) * x_row + w.offset * x_column;
        for (int64_t m = w.first; m < w.last; ++m) add(to + m * kL, load(from + m * w_.stride * x_column));
      }
      for (const Line& line : h.lines) {
        const C* from = s.rows.data() + line.sample * this->row_step() + u * width_;
        for (int64_t m = 0; m < w_.outputs; ++m) add(to + m * kL, -line.profile[n] * load(from + m * kL));
      }
      for (const Line& line : w.lines) {
        const Vec<C> value = load(s.columns.data() + line.sample * this->column_step() + (t * h_.outputs + n) * kL);
        for (int64_t m = 0; m < w_.outputs; ++m) add(to + m * kL, -line.profile[m] * value);
      }
    });
  }
  // Rows of the residuals' gradients, added to what leads back to x.
  void collect(const C* gradients, int64_t tap_step, int64_t first, int64_t last, C* dx, Low& s) const {
    each_row(first, last, [&](int64_t tap, int64_t n, int64_t t, int64_t u) {
      const Tap &h = h_.taps[t], &w = w_.taps[u];
      const C* from = gradients + tap * tap_step + (n - first) * width_;
      C* place = s.low.data() + this->place_of(h, w, n);
      w_.around(w, [&](int64_t m, int64_t at) { add(place + at * kL, -load(from + m * kL)); });
      if (n >= h.first && n < h.last) {
        C* to = dx + ((n * h_.stride + h.offset) * w_.size + w.offset) * kL;
        for (int64_t m = w.first; m < w.last; ++m) add(to + m * w_.stride * kL, load(from + m * kL));
      }
      for (const Line& line : h.lines) {
        C* to = s.rows.data() + line.sample * this->row_step() + u * width_;
        for (int64_t m = 0; m < w_.outputs; ++m) add(to + m * kL, -line.profile[n] * load(from + m * kL));
      }
      for (const Line& line : w.lines) {
        Vec<C> sum = {};
        for (int64_t m = 0; m < w_.outputs; ++m) sum += line.profile[m] * load(from + m * kL);
        add(s.columns.data() + line.sample * this->column_step() + (t * h_.outputs + n) * kL, -sum);
      }
    });
  }

 private:
  // visit(tap, n, t, u) for output rows first <= n < last of every tap.
  template <class Visit>
  void each_row(int64_t first, int64_t last, Visit visit) const {
    int64_t tap = 0;
    for (size_t t = 0; t < h_.taps.size(); ++t) {
      for (size_t u = 0; u < w_.taps.size(); ++u, ++tap) {
        for (int64_t n = first; n < last; ++n) visit(tap, n, int64_t(t), int64_t(u));
      }
    }
  }
};

}  // namespace alias_ops::ALIAS_OPS_ISA
