// What the rank-1 term of separable2d takes from a map: the number in_h^T x in_w.
//
// A pooling's coefficients are 0 for every other sample: those are not read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "blocks.h"
#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
class OuterNumber {
 public:
  OuterNumber() = default;
  OuterNumber(const std::vector<double>& in_h, const std::vector<double>& in_w) : width_(int64_t(in_w.size())) {
    rows_ = without_zeros(in_h);
    columns_ = without_zeros(in_w);
    // The last vector overlaps the one before: what both hold counts once.
    const int64_t vectors = ceiling(width_, kL);
    weights_.assign(vectors * kL, 0);
    for (int64_t w = 0; w < width_; ++w) {
      const int64_t v = w / kL;
      weights_[v * kL + w - start(v)] = C(in_w[w]);
    }
  }

  // Of a map wider than a vector.
  C of(const C* x) const {
    const int64_t vectors = int64_t(weights_.size()) / kL;
    Vec<C> sum = {};
    for (int64_t v = 0; v < vectors;) {
      const int64_t left = vectors - v;
      if (left >= 4) sum += columns<4>(x, v), v += 4;
      if (left == 3) sum += columns<3>(x, v), v += 3;
      if (left == 2) sum += columns<2>(x, v), v += 2;
      if (left == 1) sum += columns<1>(x, v), v += 1;
    }
    return sum_of_lanes<C>(sum);
  }

  // Of `maps` maps one after the other, each narrower than a vector or as wide: number(map, value).
  template <class Number>
  void of_narrow(const C* x, int64_t map_step, int64_t maps, Number number) const {
    int64_t map = 0;
    for (; map + 3 <= maps; map += 3) narrow<3>(x + map * map_step, map_step, map, number);
    for (; map < maps; ++map) narrow<1>(x + map * map_step, map_step, map, number);
  }

  // Of a map whose in_h^T x a product of its columns has left in `taken`, vector by vector.
  C of_taken(const C* taken) const {
    const int64_t vectors = int64_t(weights_.size()) / kL;
    Vec<C> sum = load(weights_.data()) * load_first(taken, width_);
    for (int64_t v = 1; v < vectors; ++v) sum += load(weights_.data() + v * kL) * load(taken + v * kL);
    return sum_of_lanes<C>(sum);
  }

  // Of as many maps as a vector has lanes.
  Vec<C> of_group(const C* x, int64_t row_step, int64_t column_step) const {
    Vec<C> sum = {};
    for (const auto& [h, of_row] : rows_) {
      Vec<C> row = {};
      for (const auto& [w, of_column] : columns_) row += of_column * load(x + h * row_step + w * column_step);
      sum += of_row * row;
    }
    return sum;
  }

 private:
  static constexpr int kL = kLanes<C>;
  using Coefficients = std::vector<std::pair<int64_t, C>>;

  static Coefficients without_zeros(const std::vector<double>& v) {
    Coefficients kept;
    for (size_t i = 0; i < v.size(); ++i) {
      if (v[i] != 0) kept.emplace_back(int64_t(i), C(v[i]));
    }
    return kept;
  }
  int64_t start(int64_t vector) const { return std::min(vector * kL, std::max<int64_t>(0, width_ - kL)); }

  // Vectors v..v+V of all rows, weighted. Two rows at a time, whose sums do not wait for each other.
  template <int V>
  Vec<C> columns(const C* x, int64_t v) const {
    int64_t at[V];
    ALIAS_OPS_UNROLL for (int i = 0; i < V; ++i) at[i] = start(v + i);
    Vec<C> even[V] = {}, odd[V] = {};
    const auto add = [&](const std::pair<int64_t, C>& row, Vec<C>(&sum)[V]) {
      const C* from = x + row.first * width_;
      ALIAS_OPS_UNROLL for (int i = 0; i < V; ++i) sum[i] += row.second * load(from + at[i]);
    };
    size_t i = 0;
    for (; i + 1 < rows_.size(); i += 2) add(rows_[i], even), add(rows_[i + 1], odd);
    if (i < rows_.size()) add(rows_[i], even);
    Vec<C> sum = {};
    ALIAS_OPS_UNROLL for (int j = 0; j < V; ++j) sum += load(weights_.data() + (v + j) * kL) * (even[j] + odd[j]);
    return sum;
  }

  template <int M, class Number>
  void narrow(const C* x, int64_t map_step, int64_t first, Number number) const {
    Vec<C> sum[M] = {};
    for (const auto& [h, of_row] : rows_) {
      ALIAS_OPS_UNROLL for (int m = 0; m < M; ++m) sum[m] += of_row * load_first(x + m * map_step + h * width_, width_);
    }
    const Vec<C> weights = load(weights_.data());
    ALIAS_OPS_UNROLL for (int m = 0; m < M; ++m) number(first + m, sum_of_lanes<C>(weights * sum[m]));
  }

  int64_t width_ = 0;
  Coefficients rows_, columns_;
  std::vector<C> weights_;  // [vector][lane]
};

}  // namespace alias_ops::ALIAS_OPS_ISA
