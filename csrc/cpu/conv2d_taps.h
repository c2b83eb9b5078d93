// Identity 4: what a layer folds is the sum over its taps of w_tap times the residual of its input at that tap,
// S_t x S_u^T - P_t x P_u^T. Here those residuals for a vector of maps, and the way back from them to x.
#pragma once

#include <algorithm>
#include <vector>

#include "buffer.h"
#include "lanes.h"
#include "tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

// The sample that a tap meets at an output, or -1 in the padding.
inline int64_t tap_sample(const TapTable& t, int64_t tap, int64_t output) {
  const int64_t sample = output * t.stride + tap * t.dilation - t.padding;
  return sample < t.size ? sample : -1;  // in front of the first one it is negative already
}

template <class C>
class TapResiduals {
  static constexpr int kL = kLanes<C>;

 public:
  TapResiduals(const TapTable& h, const TapTable& w)
      : h_(h),
        w_(w),
        left_(h.taps * h.outputs, h.size, [&](int64_t r, int64_t k) { return h.low[r * h.size + k]; }),
        left_back_(h.size, h.taps * h.outputs, [&](int64_t r, int64_t k) { return -h.low[k * h.size + r]; }) {
    for (int64_t u = 0; u < w.taps; ++u) {
      const double* low = w.low + u * w.outputs * w.size;
      right_.emplace_back(w.outputs, w.size, [&](int64_t r, int64_t k) { return -low[r * w.size + k]; });
      right_back_.emplace_back(w.size, w.outputs, [&](int64_t r, int64_t k) { return low[k * w.size + r]; });
    }
  }
  int64_t taps() const { return h_.taps * w_.taps; }
  int64_t pixels() const { return h_.outputs * w_.outputs; }
  // Vectors between the two products.
  int64_t along_size() const { return h_.taps * h_.outputs * w_.size * kL; }

  // residuals[tap][pixel][lanes], `tap_step` from tap to tap.
  void forward(const C* x, int64_t row_step, int64_t column_step, C* along, C* residuals, int64_t tap_step) const {
    multiply(left_, Panel<C>{x, row_step, column_step, along, w_.size * kL, kL, w_.size});
    each_tap([&](int64_t t, int64_t u, int64_t tap) {
      C* to = residuals + tap * tap_step;
      each_output([&](int64_t n, int64_t m) {
        const int64_t row = tap_sample(h_, t, n), column = tap_sample(w_, u, m);
        store(to, row < 0 || column < 0 ? Vec<C>{} : load(x + row * row_step + column * column_step));
        to += kL;
      });
      multiply(right_[u], Panel<C>{along + t * h_.outputs * w_.size * kL, kL, w_.size * kL, residuals + tap * tap_step,
                                   kL, w_.outputs * kL, h_.outputs, true});
    });
  }

  // dx[row][column][lanes] from the residuals' gradients.
  void adjoint(const C* gradients, int64_t tap_step, C* along, C* dx) const {
    each_tap([&](int64_t t, int64_t u, int64_t tap) {
      multiply(right_back_[u], Panel<C>{gradients + tap * tap_step, kL, w_.outputs * kL,
                                        along + t * h_.outputs * w_.size * kL, kL, w_.size * kL, h_.outputs, u > 0});
    });
    multiply(left_back_, Panel<C>{along, w_.size * kL, kL, dx, w_.size * kL, kL, w_.size});
    each_tap([&](int64_t t, int64_t u, int64_t tap) {
      const C* from = gradients + tap * tap_step;
      each_output([&](int64_t n, int64_t m) {
        const int64_t row = tap_sample(h_, t, n), column = tap_sample(w_, u, m);
        C* to = dx + (row * w_.size + column) * kL;
        if (row >= 0 && column >= 0) store(to, load(to) + load(from));
        from += kL;
      });
    });
  }

 private:
  template <class Visit>
  void each_tap(Visit visit) const {
    for (int64_t t = 0; t < h_.taps; ++t) {
      for (int64_t u = 0; u < w_.taps; ++u) visit(t, u, t * w_.taps + u);
    }
  }
  template <class Visit>
  void each_output(Visit visit) const {
    for (int64_t n = 0; n < h_.outputs; ++n) {
      for (int64_t m = 0; m < w_.outputs; ++m) visit(n, m);
    }
  }

  const TapTable &h_, &w_;
  PackedRows<C> left_, left_back_;                 // P of all taps, and minus its adjoint
  std::vector<PackedRows<C>> right_, right_back_;  // of each tap: minus P, and P's adjoint
};

}  // namespace alias_ops::ALIAS_OPS_ISA
