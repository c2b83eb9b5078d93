// separable2d with maps in the lanes: transposed on load where maps are contiguous, channels where they are last.
#pragma once

#include <algorithm>
#include <vector>

#include "blocks.h"
#include "buffer.h"
#include "lanes.h"
#include "parallel.h"
#include "separable2d_plan.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
class Grouped {
 public:
  Grouped() = default;
  Grouped(const Plan& plan, const Separable2dArgs& a)
      : terms_(plan.terms),
        right_(plan.right, a.right, 0, plan.terms, {}, plan.out_w, false),
        number_(plan.in_h, plan.in_w),
        out_h_(cast<C>(plan.out_h)) {
    for (int64_t t = 0; t < terms_; ++t) left_[t] = {plan.left, a.left, t, 1, {}, {}, true};
  }

  template <class S>
  void run(const Separable2dArgs& a, const Runtime& runtime) const;

 private:
  void product(const C* x, int64_t row_step, int64_t column_step, C* z, C* panel, C* y, Ahead& ahead) const;
  // Vectors between the two products: rows of every term side by side, and one behind them.
  int64_t z_row() const { return right_.in * terms_ + 1; }

  int64_t terms_ = 1;
  TiledAxis<C> left_[2], right_;
  OuterNumber<C> number_;
  std::vector<C> out_h_;
};

// x [height][width][lanes] (steps in elements) -> y [out_height][out_width][lanes].
template <class C>
void Grouped<C>::product(const C* x, int64_t row_step, int64_t column_step, C* z, C* panel, C* y, Ahead& ahead) const {
  constexpr int kL = kLanes<C>;
  const int64_t width = right_.in, row = z_row() * kL, height = left_[0].out;
  for (int64_t t = 0; t < terms_; ++t) {
    apply(left_[t], AxisPanel<C>{x, row_step, column_step, z + t * width * kL, row, kL, width, nullptr, 0, panel,
                                 nullptr, &ahead});
  }
  Vec<C> number = {};
  if (!out_h_.empty()) number = number_.of_group(x, row_step, column_step);
  for (int64_t m = 0; m < height; ++m) {
    C* z_m = z + m * row;
    AxisPanel<C> right{z_m, kL, 0, y + m * right_.out * kL, kL, 0, 1, nullptr, 0, nullptr, nullptr, &ahead};
    if (!out_h_.empty()) {
      C* share = z_m + width * terms_ * kL;
      store(share, out_h_[m] * number);
      right.outer = share;
    }
    apply(right_, right);
  }
}

template <class C>
template <class S>
void Grouped<C>::run(const Separable2dArgs& a, const Runtime& runtime) const {
  constexpr int kL = kLanes<C>;
  const Maps& x = a.x;
  const bool channels_last = a.channels_last;
  // Contiguous maps form one list; channels in lanes stay within their image.
  const int64_t lists = channels_last ? x.images : 1, length = channels_last ? x.channels : x.images * x.channels;
  const int64_t groups = ceiling(length, kL);
  const int64_t pixels = x.height * x.width, out_pixels = a.out_height * a.out_width;
  const Maps y{a.y, x.dtype, 1, length, a.out_height, a.out_width, 0, a.y_channel_stride, a.out_width, 1};
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, pixels * kL));
  parallel(runtime, lists * groups, grain, [&](Pieces& pieces) {
    int64_t task = pieces.next();
    if (task < 0) return;
    Buffer<C> scratch((pixels + out_pixels + left_[0].out * z_row()) * kL + left_[0].mirrored.scratch());
    C *group = scratch.data(), *out = group + pixels * kL, *z = out + out_pixels * kL,
      *panel = z + left_[0].out * z_row() * kL;
    Ahead ahead(true);  // the few maps that are worked on fit beside the next ones
    for (int64_t next; task >= 0; task = next) {
      next = pieces.next();
      const int64_t list = task / groups, at = task % groups * kL;
      const int64_t count = std::min<int64_t>(kL, length - at);
      const S* from = map_at<S>(x, list, 0);
      S* to = static_cast<S*>(a.y) + list * a.y_image_stride;
      if (!channels_last && next >= 0) {
        const int64_t first = next * kL, maps = std::min<int64_t>(kL, length - first);
        ahead.group(from + first * pixels, maps * pixels, to + first * out_pixels, maps * out_pixels);
      }
      if (channels_last && std::is_same_v<S, C> && count == kL) {
        product(reinterpret_cast<const C*>(from + at), x.row_stride, x.column_stride, z, panel, out, ahead);
      } else {
        gather_group<S, C>(x, count, [&](int64_t i) { return from + (at + i) * x.channel_stride; }, group);
        product(group, x.width * kL, kL, z, panel, out, ahead);
      }
      if (channels_last) {
        for (int64_t p = 0; p < out_pixels; ++p) {
          store_first(to + p * a.y_column_stride + at, load(out + p * kL), count);
        }
      } else {
        scatter_maps(out, y, count, to + at * a.y_channel_stride);
      }
    }
  });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
