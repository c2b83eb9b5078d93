// The sum that both gradients of identity 4 are products of: over groups of terms, and in a term over pixels of
// g x w, with g a row of the outputs' side that the group shares, x and w the term's own row of x's side and weight.
// Terms of a TapTerms are the layer's taps; those of a PairedTerms (conv2d_tap_pairs.h) are fewer.
#pragma once

#include <vector>

#include "conv2d_taps.h"
#include "tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Terms that a register tile takes side by side. x, x_step: their rows, in elements; weight, weight_step: which
// weights.
struct TermBlock {
  int64_t x, x_step, weight, weight_step;
  int vectors;
};

// Output rows that a group meets: all, those of an even or odd number, pairs of rows, or a single row of sums over
// them, complete with the image's last.
enum class TermRows { kEven, kOdd, kBoth, kAll, kSum };

struct TermGroup {
  TermRows rows;
  int64_t columns;
  int64_t gradient, x, x_step;  // where its rows begin, in elements, and the step from term to term
  std::vector<TermBlock> blocks;

  // Of an image, in some output rows of which the first is even; complete: the last of them, too.
  int64_t pixels(int64_t count, bool complete) const { return columns * rows_of(rows, count, complete); }
  static int64_t rows_of(TermRows rows, int64_t count, bool complete) {
    if (rows == TermRows::kAll) return count;
    if (rows == TermRows::kSum) return complete ? 1 : 0;
    return rows == TermRows::kOdd ? count / 2 : ceiling(count, 2);
  }
};

// Groups as they are added, side by side in memory.
template <class C>
class TermGroups {
 public:
  TermGroups(int64_t images, int64_t rows) : images_(images), rows_(rows) {}

  // A group of `terms` terms, valid until the next.
  TermGroup& add(TermRows rows, int64_t columns, int64_t terms) {
    const int64_t most = images_ * columns * TermGroup::rows_of(rows, rows_, true);
    const int64_t x_step = TapParts<C>::row_size(most);
    all_.push_back({rows, columns, gradient_size_, x_size_, x_step, {}});
    gradient_size_ += x_step;
    x_size_ += terms * x_step;
    return all_.back();
  }
  // Terms first..first + count of a group, their weights `step` apart.
  static void add_blocks(TermGroup& group, int64_t first, int64_t count, int64_t weight, int64_t step) {
    each_block(count, kTileColumns, [&](int64_t at, int64_t vectors) {
      group.blocks.push_back(
          {group.x + (first + at) * group.x_step, group.x_step, weight + at * step, step, int(vectors)});
    });
  }

  const std::vector<TermGroup>& all() const { return all_; }
  int64_t x_size() const { return x_size_; }
  // From one vector of outputs to the next.
  int64_t gradient_row() const { return TapParts<C>::row_size(gradient_size_ / kLanes<C>); }

 private:
  int64_t images_, rows_, gradient_size_ = 0, x_size_ = 0;
  std::vector<TermGroup> all_;
};

template <class C>
class TapTerms : public TapResiduals<C> {
  using Residuals = TapResiduals<C>;
  static constexpr int kL = kLanes<C>;

 public:
  TapTerms(const TapTable& h, const TapTable& w, int64_t images)
      : Residuals(h, w),
        images(this->images_together(images, kTapPixels)),
        rows(this->rows_together(kTapPixels)),
        groups_(this->images, rows) {
    groups_.add_blocks(groups_.add(TermRows::kAll, w.outputs, weights()), 0, weights(), 0, 1);
  }

  const TermGroups<C>& groups() const { return groups_; }
  static bool takes_whole(const TapTable& h, const TapTable& w) { return h.outputs * w.outputs <= kTapPixels; }
  static int64_t weights(const TapTable& h, const TapTable& w) { return h.taps * w.taps; }
  int64_t weights() const { return this->taps(); }
  int64_t work_size() const { return 0; }

  // One output's weights of terms, `step` apart, from those of taps [tap][lanes], and the way back.
  void spread_weight(const C* taps, C* to, int64_t step) const {
    for (int64_t i = 0; i < weights(); ++i) store(to + i * step, load(taps + i * kL));
  }
  void collect_weight(const C* from, int64_t step, C* taps) const {
    for (int64_t i = 0; i < weights(); ++i) store(taps + i * kL, load(from + i * step));
  }

  // The outputs' side of image i of those together, from [pixel][lanes] of output rows first..last, times `scale`.
  void spread_gradient(const C* map, Vec<C> scale, int64_t i, int64_t first, int64_t last, C* to) const {
    const int64_t pixels = (last - first) * this->width();
    to += i * pixels * kL;
    for (int64_t p = 0; p < pixels; ++p) store(to + p * kL, scale * load(map + p * kL));
  }
  // x's side of it, and the way back from its gradient.
  void make(const typename Residuals::Lanes& lanes, const typename Residuals::Low& low, int64_t i, int64_t first,
            int64_t last, C* x, C*) const {
    Residuals::make(lanes, low, first, last, x + i * (last - first) * this->width() * kL, step());
  }
  void collect(const C* x, int64_t i, int64_t first, int64_t last, C* dx, typename Residuals::Low& low, C*) const {
    Residuals::collect(x + i * (last - first) * this->width() * kL, step(), first, last, dx, low);
  }

  const int64_t images, rows;

 private:
  int64_t step() const { return groups_.all()[0].x_step; }

  TermGroups<C> groups_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
