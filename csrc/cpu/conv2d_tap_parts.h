// Identity 4 by parts, for a vector of maps: x low-passed at the places that taps read, what they find on the lines
// that the frame meets, and the way back from both to x. conv2d_taps.h puts them together tap by tap,
// conv2d_tap_pairs.h for fewer products.
#pragma once

#include <algorithm>

#include "blocks.h"
#include "buffer.h"
#include "conv2d_tap_axis.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
class TapParts {
 protected:
  static constexpr int kL = kLanes<C>;
  using Tap = typename TapAxis<C>::Tap;
  using Line = typename TapAxis<C>::Line;

 public:
  TapParts(const TapTable& h, const TapTable& w) : h_(h), w_(w), width_(w.outputs * kL) {}

  int64_t taps() const { return int64_t(h_.taps.size() * w_.taps.size()); }
  int64_t height() const { return h_.outputs; }
  int64_t width() const { return w_.outputs; }

  // Nearly equal shares of the images, and of the rows where not even one image fits `pixels`: sums over a short last
  // one would be short.
  int64_t images_together(int64_t images, int64_t pixels) const {
    const int64_t fitting = std::max<int64_t>(1, pixels / (height() * width()));
    return ceiling(images, ceiling(images, fitting));
  }
  int64_t rows_together(int64_t pixels) const {
    const int64_t fitting = std::max<int64_t>(1, pixels / width());
    return ceiling(height(), ceiling(height(), fitting));
  }
  // Elements from row to row of pixels: an odd number of lines, so that rows do not meet in one set of a cache.
  static int64_t row_size(int64_t pixels) { return (pixels / 2 * 2 + 1) * kL; }

  // One map's: what its residuals are made of, or what their gradients add up to.
  struct Low {
    Buffer<C> low;            // [phase of the width][phase of the height][place][place][lanes]
    Buffer<C> rows, columns;  // [sample of a line][tap][output][lanes]
    explicit Low(const TapParts& o)
        : low(o.w_.phases * o.low_step()),
          rows(int64_t(o.h_.samples.size()) * o.row_step()),
          columns(int64_t(o.w_.samples.size()) * o.column_step()) {}
  };
  // Between two products.
  struct Work {
    Buffer<C> along;  // [output][column of x][lanes]
    Buffer<C> line;   // of one axis, all phases
    Ahead ahead{false};
    explicit Work(const TapParts& o)
        : along(o.h_.outputs * o.w_.size * kL),
          line(std::max(o.h_.phases * o.h_.outputs, o.w_.phases * o.w_.outputs) * kL) {}
  };

  // x[row][column][lanes]
  struct Lanes {
    const C* data;
    int64_t row, column;
  };
  // Maps channel..channel + count of an image, in `map` where they do not lie so in x. first: the parts in `low` as
  // well; they serve all rows of the image.
  template <class S>
  Lanes take(const Maps& x, int64_t image, int64_t channel, int64_t count, bool first, C* map, Low& low,
             Work& work) const {
    const S* maps = map_at<S>(x, image, channel);
    const bool more = first && image + 1 < x.images;
    read_ahead(work.ahead, x, map_at<S>(x, image + more, channel), more ? count : 0);
    Lanes lanes{map, x.width * kL, kL};
    if (std::is_same_v<S, C> && x.channel_stride == 1 && count == kL) {
      lanes = {reinterpret_cast<const C*>(maps), x.row_stride, x.column_stride};
    } else if (first) {
      gather_group<S, C>(x, count, [&](int64_t i) { return maps + i * x.channel_stride; }, map);
    }
    if (first) prepare(lanes, low, work);
    return lanes;
  }

  // The way back to dx[row][column][lanes]: nothing yet, and what the parts' gradients come to.
  void clear(C* dx, Low& s) const {
    std::fill_n(dx, h_.size * w_.size * kL, C(0));
    for (Buffer<C>* sums : {&s.low, &s.rows, &s.columns}) std::fill(sums->begin(), sums->end(), C(0));
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
    w_.base_back(low, kL, width_, along, kL, x_row, h_.outputs, false, &work.ahead);
    h_.base_back(along, x_row, kL, dx, x_row, kL, w_.size, true, &work.ahead);
  }

 protected:
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

  const TapAxis<C> h_, w_;
  const int64_t width_;

 private:
  void prepare(const Lanes& lanes, Low& s, Work& work) const {
    const auto [x, x_row, x_column] = lanes;
    C *along = work.along.data(), *low = s.low.data();
    h_.base(x, x_row, x_column, along, w_.size * kL, kL, w_.size, &work.ahead);
    w_.base(along, kL, w_.size * kL, low, kL, width_, h_.outputs, &work.ahead);
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
};

}  // namespace alias_ops::ALIAS_OPS_ISA
