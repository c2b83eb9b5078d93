// What a call of separable2d derives from its factors, and the last few of these, kept for the next call.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <vector>

#include "separable2d_grouped.h"
#include "separable2d_wide.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Rows of half a vector or less leave most lanes of the wide walk empty; measured, see benchmarks/NOTES.md.
template <class C>
inline bool prefer_wide(const Separable2dArgs& a) {
  return !a.channels_last && std::max(a.x.width, a.out_width) > kLanes<C> / 2;
}

template <class C>
class Prepared {
 public:
  explicit Prepared(const Separable2dArgs& a) {
    const Plan plan(a);
    is_wide_ = prefer_wide<C>(a);
    if (is_wide_) {
      wide_ = Wide<C>(plan, a);
    } else {
      grouped_ = Grouped<C>(plan, a);
    }
  }
  template <class S>
  void run(const Separable2dArgs& a, const Runtime& runtime) const {
    if (is_wide_) {
      wide_.template run<S>(a, runtime);
    } else {
      grouped_.template run<S>(a, runtime);
    }
  }

 private:
  bool is_wide_;
  Wide<C> wide_;
  Grouped<C> grouped_;
};

// The last few sets of small factors, which cost more to prepare than a small map costs to pool. Found
// again by their values, so a caller who writes into a factor gets what he wrote.
template <class C>
class Recent {
 public:
  static constexpr int64_t kLargest = 8192;  // elements of a set; with 16 of them below 2 MB a thread
  const Prepared<C>& find(const Separable2dArgs& a) {
    const std::array<int64_t, 6> shape{a.terms, a.out_height, a.x.height, a.out_width, a.x.width, a.channels_last};
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
    std::array<int64_t, 6> shape{};
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
