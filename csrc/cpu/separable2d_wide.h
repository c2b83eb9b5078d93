// separable2d with neighbouring columns of a map in the lanes; contiguous maps only.
#pragma once

#include <algorithm>
#include <vector>

#include "aligned.h"
#include "blocks.h"
#include "lanes.h"
#include "parallel.h"
#include "separable2d_leaves.h"

namespace alias_ops::ALIAS_OPS_ISA {

// The product that shrinks comes first where there is one: a pooling starts on the left, its adjoint on the right.
template <class C>
class Wide {
 public:
  Wide() = default;
  Wide(const Plan& plan, const Separable2dArgs& a)
      : terms_(plan.terms),
        right_first_(starts_right(plan)),
        right_(plan, a.right),
        right_leaves_(plan, a.right),
        number_(plan.in_h, plan.in_w),
        out_h_(cast<C>(plan.out_h)),
        out_w_(cast<C>(plan.out_w)) {
    for (int64_t t = 0; t < terms_; ++t) left_[t] = {plan.left, a.left, t, 1, plan.in_h, plan.out_h, true};
  }

  template <class S>
  void run(const Separable2dArgs& a, const Runtime& runtime) const;

 private:
  static constexpr int kL = kLanes<C>;
  static constexpr int64_t kSlack = 3 * kL;   // elements that may be loaded past the end of a map
  static constexpr int64_t kFoldedRows = 32;  // at a time, so that they are in the first cache when they are read

  static bool starts_right(const Plan& plan) {
    return plan.terms == 1 && plan.left.form != Form::kHalfIn &&
           plan.left.out * plan.right.out > plan.left.in * plan.right.in;
  }
  static int64_t whole_vectors(int64_t n) { return ceiling(n, kL) * kL; }
  bool has_outer() const { return !out_h_.empty(); }
  int64_t left_width() const { return right_first_ ? right_.out : right_.in; }
  // Whether the left product leaves what the rank-1 term's number is made of, and how much of it a map.
  bool takes() const { return has_outer() && !right_first_ && left_[0].mirrored.takes(); }
  int64_t taken_row() const { return whole_vectors(left_width()); }
  // Maps that share a call: of narrow ones three fill a tile of the left product, and rows of several one of the right.
  int64_t batch() const {
    const int64_t rows = right_first_ ? left_[0].in : left_[0].out, maps = std::max<int64_t>(1, 32 / rows);
    return left_width() <= kL ? (maps + 2) / 3 * 3 : std::min<int64_t>(4, maps);
  }

  struct Scratch;
  void left_product(int64_t term, const C* x, int64_t x_row, int64_t x_map, C* y, int64_t y_row, int64_t y_map,
                    int64_t maps, const C* outer, int64_t outer_map, Scratch& scratch) const;
  template <class S>
  void right_product_of(const C* z, int64_t z_row, int64_t rows, const C* share, S* y, int64_t y_row,
                        Scratch& scratch) const;
  template <class Number>
  void each_number(const C* x, int64_t maps, const Scratch& scratch, Number number) const;
  template <class S>
  void left_then_right(const C* x, int64_t maps, S* y, Scratch& scratch) const;
  template <class S>
  void right_then_left(const C* x, int64_t maps, S* y, Scratch& scratch) const;

  int64_t terms_ = 1;
  bool right_first_ = false;
  TiledAxis<C> left_[2];
  RightPanel<C> right_;
  RightLeaves<C> right_leaves_;  // in place of it, where found
  OuterNumber<C> number_;
  std::vector<C> out_h_, out_w_;
};

// One thread's.
template <class C>
struct Wide<C>::Scratch {
  int64_t row, half_row;  // of `between` and `outer`, of `folded`
  Aligned<C> between;     // the two products: [map][row of the first's result][row]
  Aligned<C> folded, panel, taken, share, outer, source, whole;
  Ahead ahead;

  Scratch(const Wide& w, const Runtime& runtime) : ahead(Ahead::has_room(runtime.first_cache)) {
    const int64_t maps = w.batch(), rows = maps * (w.right_first_ ? w.left_[0].in : w.left_[0].out);
    // The terms lie side by side; whole vectors are stored where the last one ends.
    row = whole_vectors(w.left_width() * (w.terms_ - 1) + whole_vectors(w.left_width()));
    half_row = whole_vectors(w.right_.in / 2);
    between.resize(rows * row + kSlack);
    const int64_t folded_rows = std::min(rows, kFoldedRows);
    if (w.right_leaves_.found()) {
      folded.resize(folded_rows * w.right_leaves_.folded_row());
    } else if (w.right_.split) {
      folded.resize(folded_rows * 2 * half_row);
    }
    if (w.left_[0].mirrored.found()) panel.resize(w.left_[0].mirrored.scratch());
    if (!w.has_outer()) return;
    if (w.right_first_) outer.resize(maps * row);
    if (!w.right_first_) share.resize(rows);
    if (w.takes()) taken.resize(maps * w.taken_row());
  }
};

// y = left[term] x, plus the rank-1 term of which `outer` is the row of the first map.
template <class C>
void Wide<C>::left_product(int64_t term, const C* x, int64_t x_row, int64_t x_map, C* y, int64_t y_row, int64_t y_map,
                           int64_t maps, const C* outer, int64_t outer_map, Scratch& scratch) const {
  const TiledAxis<C>& axis = left_[term];
  const int64_t width = left_width();
  C *folded = scratch.panel.data(), *taken = takes() ? scratch.taken.data() : nullptr;
  Ahead* ahead = &scratch.ahead;
  if (width <= kL) {
    return apply(axis, AxisPanel<C>{x, x_row, x_map, y, y_row, y_map, maps, outer, outer_map, folded, taken, ahead});
  }
  // A ragged end is covered by a vector that overlaps its neighbour, in one panel with it.
  const int64_t vectors = ceiling(width, kL), whole = width % kL == 0 ? vectors : vectors - 2;
  const int64_t at = whole * kL, step = width - kL - at;
  for (int64_t map = 0; map < maps; ++map) {
    if (whole > 0) apply(axis, AxisPanel<C>{x, x_row, kL, y, y_row, kL, whole, outer, kL, folded, taken, ahead});
    if (whole < vectors) {
      apply(axis, AxisPanel<C>{x + at, x_row, step, y + at, y_row, step, vectors - whole,
                               outer == nullptr ? nullptr : outer + at, step, folded,
                               taken == nullptr ? nullptr : taken + at, ahead});
    }
    x += x_map, y += y_map;
    if (outer != nullptr) outer += outer_map;
    if (taken != nullptr) taken += taken_row();
  }
}

template <class C>
template <class S>
void Wide<C>::right_product_of(const C* z, int64_t z_row, int64_t rows, const C* share, S* y, int64_t y_row,
                               Scratch& scratch) const {
  const bool leaves = right_leaves_.found();
  if (!leaves && !right_.split) {
    RightArgs<S, C> a{{z, z}, z_row, 0, z, z_row, &right_, 0, share, y, y_row, &scratch.ahead};
    return right_product(a, rows);
  }
  C* folded = scratch.folded.data();
  const int64_t half_row = scratch.half_row, folded_row = leaves ? right_leaves_.folded_row() : 2 * half_row;
  for (int64_t r = 0; r < rows; r += kFoldedRows) {
    const int64_t count = std::min(kFoldedRows, rows - r);
    const C *from = z + r * z_row, *shares = share == nullptr ? nullptr : share + r;
    RightArgs<S, C> a{{folded, folded + half_row},
                      folded_row,
                      0,
                      from,
                      z_row,
                      &right_,
                      0,
                      shares,
                      y + r * y_row,
                      y_row,
                      &scratch.ahead};
    if (leaves) {
      right_leaves_.fold(from, z_row, count, folded);
      right_leaves_.product(a, count);
    } else {
      fold(from, z_row, count, right_.in, folded, half_row);
      right_product(a, count);
    }
  }
}

// number(map, in_h^T x in_w) for the maps of a group.
template <class C>
template <class Number>
void Wide<C>::each_number(const C* x, int64_t maps, const Scratch& scratch, Number number) const {
  const int64_t area = left_[0].in * right_.in;
  if (takes()) {
    for (int64_t map = 0; map < maps; ++map) number(map, number_.of_taken(scratch.taken.data() + map * taken_row()));
  } else if (right_.in <= kL) {
    number_.of_narrow(x, area, maps, number);
  } else {
    for (int64_t map = 0; map < maps; ++map) number(map, number_.of(x + map * area));
  }
}

template <class C>
template <class S>
void Wide<C>::left_then_right(const C* x, int64_t maps, S* y, Scratch& scratch) const {
  const int64_t width = right_.in, height = left_[0].out, row = scratch.row;
  C* between = scratch.between.data();
  for (int64_t t = 0; t < terms_; ++t) {
    left_product(t, x, width, left_[t].in * width, between + t * width, row, height * row, maps, nullptr, 0, scratch);
  }
  const C* share = nullptr;
  if (has_outer()) {
    each_number(x, maps, scratch, [&](int64_t map, C number) {
      for (int64_t m = 0; m < height; ++m) scratch.share[map * height + m] = out_h_[m] * number;
    });
    share = scratch.share.data();
  }
  right_product_of(between, row, maps * height, share, y, right_.out, scratch);
}

template <class C>
template <class S>
void Wide<C>::right_then_left(const C* x, int64_t maps, S* y, Scratch& scratch) const {
  const int64_t height = left_[0].in, out_width = right_.out, out_height = left_[0].out, row = scratch.row;
  C* between = scratch.between.data();
  right_product_of(x, right_.in, maps * height, nullptr, between, row, scratch);
  const C* outer = nullptr;
  if (has_outer()) {
    each_number(x, maps, scratch, [&](int64_t map, C number) {
      for (int64_t n = 0; n < out_width; ++n) scratch.outer[map * row + n] = out_w_[n] * number;
    });
    outer = scratch.outer.data();
  }
  if constexpr (std::is_same_v<S, C>) {
    if (out_width >= kL) {
      return left_product(0, between, row, height * row, y, out_width, out_height * out_width, maps, outer, row,
                          scratch);
    }
  }
  // Rows narrower than a vector, or of another type, are stored by a pass of their own.
  scratch.whole.resize(maps * out_height * row);
  C* whole = scratch.whole.data();
  left_product(0, between, row, height * row, whole, row, out_height * row, maps, outer, row, scratch);
  // What a vector writes past the end of its row, the next rows write over.
  const S* end = y + maps * out_height * out_width;
  for (int64_t r = 0; r < maps * out_height; ++r, y += out_width, whole += row) {
    for (int64_t n = 0; n < out_width; n += kL) {
      const Vec<C> part = load(whole + n);
      if (end - (y + n) >= kL) {
        store(y + n, part);
      } else {
        store_first(y + n, part, out_width - n);
      }
    }
  }
}

template <class C>
template <class S>
void Wide<C>::run(const Separable2dArgs& a, const Runtime& runtime) const {
  const Maps& x = a.x;
  const int64_t maps = x.images * x.channels, area = x.height * x.width, out_area = a.out_height * a.out_width;
  const int64_t together = batch(), groups = ceiling(maps, together);
  const S* first = static_cast<const S*>(x.data);
  parallel(runtime, groups, std::max<int64_t>(1, 32768 / (area * together)), [&](Pieces& pieces) {
    int64_t group = pieces.next();
    if (group < 0) return;
    Scratch scratch(*this, runtime);
    for (int64_t next; group >= 0; group = next) {
      next = pieces.next();
      const int64_t map = group * together, count = std::min(together, maps - map), size = count * area;
      const S* from = first + map * area;
      const C* source = reinterpret_cast<const C*>(from);
      // Whole vectors are loaded past the end of a map, which must not be the end of x.
      if (!std::is_same_v<S, C> || (map + count) * area + kSlack > maps * area) {
        scratch.source.resize(size + kSlack);
        for (int64_t i = 0; i < size; i += kL) {
          store_first(scratch.source.data() + i, load_first(from + i, size - i), size - i);
        }
        source = scratch.source.data();
      }
      S* y = static_cast<S*>(a.y);
      if (next >= 0) {
        const int64_t at = next * together, follow = std::min(together, maps - at);
        scratch.ahead.group(first + at * area, follow * area, y + at * out_area, follow * out_area);
      }
      if (right_first_) {
        right_then_left(source, count, y + map * out_area, scratch);
      } else {
        left_then_right(source, count, y + map * out_area, scratch);
      }
    }
  });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
