// Identity 4: what a layer folds is the sum over its taps of w_tap times the residual of its input at that tap,
// S_t x S_u^T - P_t x P_u^T. Here those residuals for a vector of maps, and the way back from them to x.
#pragma once

#include <algorithm>

#include "blocks.h"
#include "buffer.h"
#include "conv2d_tap_axis.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Output pixels that are worked on together, several images or some rows of one: the residuals of a vector of
// channels, nine taps of them, then fit in the second cache.
inline constexpr int64_t kTapPixels = 512;

template <class C>
class TapResiduals {
  static constexpr int kL = kLanes<C>;
  using Tap = typename TapAxis<C>::Tap;
  using Line = typename TapAxis<C>::Line;

 public:
  TapResiduals(const TapTable& h, const TapTable& w) : h_(h), w_(w), width_(w.outputs * kL) {}

  int64_t taps() const { return int64_t(h_.taps.size() * w_.taps.size()); }
  int64_t height() const { return h_.outputs; }
  int64_t width() const { return w_.outputs; }
  // Nearly equal shares of the images, and of the rows where not even one image fits: sums over a short last one would
  // be short.
  int64_t images_together(int64_t images) const {
    const int64_t fitting = std::max<int64_t>(1, kTapPixels / (height() * width()));
    return ceiling(images, ceiling(images, fitting));
  }
  int64_t rows_together() const {
    const int64_t fitting = std::max<int64_t>(1, kTapPixels / width());
    return ceiling(height(), ceiling(height(), fitting));
  }
  // Elements from tap to tap: an odd number of lines, so that taps do not meet in one set of a cache.
  int64_t row_size(int64_t pixels) const { return (pixels / 2 * 2 + 1) * kL; }

  // One map's: what its residuals are made of, or what their gradients add up to.
  struct Low {
    Buffer<C> low;            // [phase of the width][phase of the height][place][place][lanes]
    Buffer<C> rows, columns;  // [sample of a line][tap][output][lanes]
    explicit Low(const TapResiduals& o)
        : low(o.w_.phases * o.low_step()),
          rows(int64_t(o.h_.samples.size()) * o.row_step()),
          columns(int64_t(o.w_.samples.size()) * o.column_step()) {}
  };
  // Between two products.
  struct Work {
    Buffer<C> along;  // [output][column of x][lanes]
    Buffer<C> line;   // of one axis, all phases
    explicit Work(const TapResiduals& o)
        : along(o.h_.outputs * o.w_.size * kL),
          line(std::max(o.h_.phases * o.h_.outputs, o.w_.phases * o.w_.outputs) * kL) {}
  };

  // residuals[tap][pixel][lanes] of the output rows first..last of maps channel..channel + count of an image,
  // `tap_step` from tap to tap. `map` keeps x in lanes, `low` what follows from it: those of an image's first rows
  // serve the others.
  template <class S>
  void make(const Maps& x, int64_t image, int64_t channel, int64_t count, int64_t first, int64_t last, C* map, Low& low,
            Work& work, C* residuals, int64_t tap_step) const {
    const S* maps = map_at<S>(x, image, channel);
    const C* from = map;
    int64_t x_row = x.width * kL, x_column = kL;
    if (std::is_same_v<S, C> && x.channel_stride == 1 && count == kL) {
      from = reinterpret_cast<const C*>(maps);
      x_row = x.row_stride, x_column = x.column_stride;
    } else if (first == 0) {
      gather_group<S, C>(x, count, [&](int64_t i) { return maps + i * x.channel_stride; }, map);
    }
    if (first == 0) prepare(from, x_row, x_column, low, work);
    forward(from, x_row, x_column, low, first, last, residuals, tap_step);
  }

 private:
  // Of x[row][column][lanes].
  void prepare(const C* x, int64_t x_row, int64_t x_column, Low& s, Work& work) const {
    C *along = work.along.data(), *low = s.low.data();
    h_.base(x, x_row, x_column, along, w_.size * kL, kL, w_.size);
    w_.base(along, kL, w_.size * kL, low, kL, width_, h_.outputs);
    h_.turn(low, h_.outputs * width_, width_, kL, w_.outputs);
    w_.turn(low, low_step(), kL, width_, h_.phases * h_.outputs);
    for (size_t i = 0; i < h_.samples.size(); ++i) {
      const C* line = x + h_.samples[i] * x_row;
      C* rows = s.rows.data() + int64_t(i) * row_step();
      w_.line(line, x_column, work.line.data(), rows);
      each_crossing([&](int64_t u, const Line& crossing) {
        const Vec<C> value = load(line + w_.samples[crossing.sample] * x_column);
        for (int64_t m = 0; m < w_.outputs; ++m) add(rows + u * width_ + m * kL, crossing.profile[m] * value);
      });
    }
    for (size_t i = 0; i < w_.samples.size(); ++i) {
      h_.line(x + w_.samples[i] * x_column, x_row, work.line.data(), s.columns.data() + int64_t(i) * column_step());
    }
  }

  void forward(const C* x, int64_t x_row, int64_t x_column, const Low& s, int64_t first, int64_t last, C* residuals,
               int64_t tap_step) const {
    each_row(first, last, [&](int64_t tap, int64_t n, int64_t t, int64_t u) {
      const Tap &h = h_.taps[t], &w = w_.taps[u];
      C* to = residuals + tap * tap_step + (n - first) * width_;
      const C* place = s.low.data() + place_of(h, w, n);
      w_.around(w, [&](int64_t m, int64_t at) { store(to + m * kL, -load(place + at * kL)); });
      if (n >= h.first && n < h.last) {
        const C* from = x + (n * h_.stride + h.offset) * x_row + w.offset * x_column;
        for (int64_t m = w.first; m < w.last; ++m) add(to + m * kL, load(from + m * w_.stride * x_column));
      }
      for (const Line& line : h.lines) {
        const C* from = s.rows.data() + line.sample * row_step() + u * width_;
        for (int64_t m = 0; m < w_.outputs; ++m) add(to + m * kL, -line.profile[n] * load(from + m * kL));
      }
      for (const Line& line : w.lines) {
        const Vec<C> value = load(s.columns.data() + line.sample * column_step() + (t * h_.outputs + n) * kL);
        for (int64_t m = 0; m < w_.outputs; ++m) add(to + m * kL, -line.profile[m] * value);
      }
    });
  }

 public:
  // The way back to dx[row][column][lanes]: nothing yet, rows of the residuals' gradients, and what they come to.
  void clear(C* dx, Low& s) const {
    std::fill_n(dx, h_.size * w_.size * kL, C(0));
    for (Buffer<C>* sums : {&s.low, &s.rows, &s.columns}) std::fill(sums->begin(), sums->end(), C(0));
  }
  void collect(const C* gradients, int64_t tap_step, int64_t first, int64_t last, C* dx, Low& s) const {
    each_row(first, last, [&](int64_t tap, int64_t n, int64_t t, int64_t u) {
      const Tap &h = h_.taps[t], &w = w_.taps[u];
      const C* from = gradients + tap * tap_step + (n - first) * width_;
      C* place = s.low.data() + place_of(h, w, n);
      w_.around(w, [&](int64_t m, int64_t at) { add(place + at * kL, -load(from + m * kL)); });
      if (n >= h.first && n < h.last) {
        C* to = dx + ((n * h_.stride + h.offset) * w_.size + w.offset) * kL;
        for (int64_t m = w.first; m < w.last; ++m) add(to + m * w_.stride * kL, load(from + m * kL));
      }
      for (const Line& line : h.lines) {
        C* to = s.rows.data() + line.sample * row_step() + u * width_;
        for (int64_t m = 0; m < w_.outputs; ++m) add(to + m * kL, -line.profile[n] * load(from + m * kL));
      }
      for (const Line& line : w.lines) {
        Vec<C> sum = {};
        for (int64_t m = 0; m < w_.outputs; ++m) sum += line.profile[m] * load(from + m * kL);
        add(s.columns.data() + line.sample * column_step() + (t * h_.outputs + n) * kL, -sum);
      }
    });
  }
  void finish(C* dx, Low& s, Work& work) const {
    const int64_t x_row = w_.size * kL;
    C *along = work.along.data(), *low = s.low.data();
    for (size_t i = 0; i < h_.samples.size(); ++i) {
      C* line = dx + h_.samples[i] * x_row;
      const C* rows = s.rows.data() + int64_t(i) * row_step();
      each_crossing([&](int64_t u, const Line& crossing) {
        Vec<C> sum = {};
        for (int64_t m = 0; m < w_.outputs; ++m) sum += crossing.profile[m] * load(rows + u * width_ + m * kL);
        add(line + w_.samples[crossing.sample] * kL, sum);
      });
      w_.line_back(rows, work.line.data(), line, kL);
    }
    for (size_t i = 0; i < w_.samples.size(); ++i) {
      h_.line_back(s.columns.data() + int64_t(i) * column_step(), work.line.data(), dx + w_.samples[i] * kL, x_row);
    }
    w_.turn_back(low, low_step(), kL, width_, h_.phases * h_.outputs);
    h_.turn_back(low, h_.outputs * width_, width_, kL, w_.outputs);
    w_.base_back(low, kL, width_, along, kL, x_row, h_.outputs, false);
    h_.base_back(along, x_row, kL, dx, x_row, kL, w_.size, true);
  }

 private:
  int64_t low_step() const { return h_.phases * h_.outputs * width_; }
  int64_t row_step() const { return int64_t(w_.taps.size()) * width_; }
  int64_t column_step() const { return int64_t(h_.taps.size()) * h_.outputs * kL; }
  static void add(C* to, Vec<C> value) { TapAxis<C>::add(to, value); }

  // visit(u, line) wherever a tap along the width meets a sample of a line: on a single row of x it finds P_u.
  template <class Visit>
  void each_crossing(Visit visit) const {
    for (size_t u = 0; u < w_.taps.size(); ++u) {
      for (const Line& line : w_.taps[u].lines) visit(int64_t(u), line);
    }
  }

  // Where the row of low-passed places lies that outputs n of two taps take theirs from.
  int64_t place_of(const Tap& h, const Tap& w, int64_t n) const {
    const int64_t at = n + h.shift < h_.outputs ? n + h.shift : n + h.shift - h_.outputs;
    return w.phase * low_step() + (h.phase * h_.outputs + at) * width_;
  }

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

  const TapAxis<C> h_, w_;
  const int64_t width_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
