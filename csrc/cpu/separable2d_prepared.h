// What a call of separable2d derives from its factors, and the last few of these, kept for the next call.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "separable2d_plan.h"

namespace alias_ops::ALIAS_OPS_ISA {

// The right factor transposed: [inner][padded outputs], so that outputs are lanes.
template <class C>
struct RightPanel {
  int64_t columns;  // outputs computed by tiles, padded to whole vectors
  std::vector<C> values, outer, scale;

  RightPanel(const Plan<C>& plan) {
    const Axis<C>& axis = plan.right;
    const int64_t dense = axis.dense_rows(), inner = axis.dense_columns() * plan.terms;
    columns = (dense + kLanes<C> - 1) / kLanes<C> * kLanes<C>;
    values.assign(inner * columns, 0);
    for (int64_t row = 0; row < dense;) {
      const int64_t rows = axis.packed.block_rows(row);
      const C* block = axis.packed.block(row);
      for (int64_t k = 0; k < inner; ++k) {
        for (int64_t r = 0; r < rows; ++r) values[k * columns + row + r] = block[k * rows + r];
      }
      row += rows;
    }
    outer.assign(columns, 0);
    if (plan.outer.present) {
      for (int64_t n = 0; n < dense; ++n) outer[n] = plan.outer.out_w[axis.form == Form::kHalfOut ? 2 * n + 1 : n];
    }
    scale.assign(columns, 0);
    std::copy(axis.scale.begin(), axis.scale.end(), scale.begin());
  }
};

template <class C>
struct Prepared {
  Plan<C> plan;
  RightPanel<C> panel;
  explicit Prepared(const Separable2dArgs& a) : plan(make_plan<C>(a)), panel(plan) {}
};

// The last few sets of small factors, which cost more to prepare than a small map costs to pool. Found
// again by their values, so a caller who writes into a factor gets what he wrote.
template <class C>
class Recent {
 public:
  static constexpr int64_t kLargest = 8192;  // elements of a set; with 16 of them below 2 MB a thread
  const Prepared<C>& find(const Separable2dArgs& a) {
    const std::array<int64_t, 5> shape{a.terms, a.out_height, a.x.height, a.out_width, a.x.width};
    for (const Entry& entry : entries_) {
      if (entry.shape == shape && holds(entry, a)) return *entry.prepared;
    }
    Entry& entry = entries_[next_++ % entries_.size()];
    entry.shape = {};  // matches nothing, should memory run out below
    entry.prepared = std::make_unique<Prepared<C>>(a);
    entry.factors.clear();
    visit(a, [&](double value) { return entry.factors.push_back(value), true; });
    entry.shape = shape;
    return *entry.prepared;
  }

 private:
  struct Entry {
    std::array<int64_t, 5> shape{};
    std::vector<double> factors;
    std::unique_ptr<Prepared<C>> prepared;
  };

  template <class Each>
  static bool visit(const Separable2dArgs& a, Each each) {
    for (int64_t t = 0; t < a.terms; ++t) {
      for (const MatrixView& m :
           {MatrixView(a.left, t, a.out_height, a.x.height), MatrixView(a.right, t, a.out_width, a.x.width)}) {
        for (int64_t r = 0; r < m.rows; ++r) {
          for (int64_t c = 0; c < m.columns; ++c) {
            if (!each(m(r, c))) return false;
          }
        }
      }
    }
    return true;
  }
  static bool holds(const Entry& entry, const Separable2dArgs& a) {
    const double* stored = entry.factors.data();
    return visit(a, [&](double value) { return value == *stored++; });
  }

  std::array<Entry, 16> entries_;
  size_t next_ = 0;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
