// What a call of separable2d derives from its factors, and the last few of these, kept for the next call.
#pragma once

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
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

// The last few sets of factors: small ones cost more to prepare than a small map costs to pool, large ones as much
// as several large maps. Found again by their values, so a caller who writes into a factor gets what he wrote.
template <class C>
class Recent {
 public:
  // Of the copies that are compared, a thread; what is prepared is no larger.
  static constexpr int64_t kBytes = 8 << 20;
  static constexpr size_t kSets = 16;

  // Null where the set is too large to be kept.
  const Prepared<C>* find(const Separable2dArgs& a) {
    const Key key = key_of(a);
    for (const Entry& entry : entries_) {
      if (entry.key == key && holds(entry, a)) return entry.prepared.get();
    }
    const int64_t bytes = elements(a) * int64_t(sizeof(double));
    if (bytes > kBytes) return nullptr;
    while (!entries_.empty() && (bytes_ + bytes > kBytes || entries_.size() == kSets)) {
      bytes_ -= int64_t(entries_.front().factors.size() * sizeof(double));
      entries_.pop_front();
    }
    Entry entry{key, {}, std::make_unique<Prepared<C>>(a)};
    entry.factors.reserve(elements(a));
    visit(a,
          [&](const double* run, int64_t n) { return entry.factors.insert(entry.factors.end(), run, run + n), true; });
    entries_.push_back(std::move(entry));
    bytes_ += bytes;
    return entries_.back().prepared.get();
  }

 private:
  using Key = std::array<int64_t, 13>;
  struct Entry {
    Key key;
    std::vector<double> factors;
    std::unique_ptr<Prepared<C>> prepared;
  };

  static bool is_one_factor(const Separable2dArgs& a) {
    return a.left.data == a.right.data && a.out_height == a.out_width && a.x.height == a.x.width &&
           a.left.term_stride == a.right.term_stride && a.left.row_stride == a.right.row_stride &&
           a.left.column_stride == a.right.column_stride;
  }
  static Key key_of(const Separable2dArgs& a) {
    return {a.terms,
            a.out_height,
            a.x.height,
            a.out_width,
            a.x.width,
            a.channels_last,
            is_one_factor(a),
            a.left.term_stride,
            a.left.row_stride,
            a.left.column_stride,
            a.right.term_stride,
            a.right.row_stride,
            a.right.column_stride};
  }
  static int64_t elements(const Separable2dArgs& a) {
    return a.terms * (a.out_height * a.x.height + (is_one_factor(a) ? 0 : a.out_width * a.x.width));
  }

  // each(run, length) -> whether to go on, over all of both factors in an order that the key decides.
  template <class Each>
  static bool visit(const Separable2dArgs& a, Each each) {
    return visit(a.left, a.terms, a.out_height, a.x.height, each) &&
           (is_one_factor(a) || visit(a.right, a.terms, a.out_width, a.x.width, each));
  }
  template <class Each>
  static bool visit(const Factor& f, int64_t terms, int64_t rows, int64_t columns, Each each) {
    const bool by_column = f.column_stride != 1 && f.row_stride == 1;
    const int64_t step = by_column ? f.row_stride : f.column_stride, jump = by_column ? f.column_stride : f.row_stride;
    const int64_t lines = by_column ? columns : rows, length = by_column ? rows : columns;
    for (int64_t t = 0; t < terms; ++t) {
      const double* term = f.data + t * f.term_stride;
      if (step == 1 && jump == length) {
        if (!each(term, lines * length)) return false;
        continue;
      }
      for (int64_t line = 0; line < lines; ++line) {
        for (int64_t i = 0; i < length; i += step == 1 ? length : 1) {
          if (!each(term + line * jump + i * step, step == 1 ? length : 1)) return false;
        }
      }
    }
    return true;
  }
  static bool holds(const Entry& entry, const Separable2dArgs& a) {
    const double* stored = entry.factors.data();
    return visit(a, [&](const double* run, int64_t n) {
      const double* from = stored;
      stored += n;
      return std::memcmp(run, from, n * sizeof(double)) == 0;
    });
  }

  std::deque<Entry> entries_;
  int64_t bytes_ = 0;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
