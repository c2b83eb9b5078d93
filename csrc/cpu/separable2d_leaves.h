// The product along the rows of a map whose right factor is split in halves, and mirrored where it allows that too
// (separable2d_mirrored.h).
//
// Neighbouring lanes are the leaves of the same outputs: S and D, or U and V of S and U and V of D. The two or four
// numbers that they need of a sample and its images lie side by side, so one load hands them to all lanes, where the
// plain product broadcasts each number alone: half of its loads or a quarter, and mirrored half of its multiplications.
// Samples turn into leaves, and leaves into outputs, by the same sums and differences of neighbours.
#pragma once

#include <algorithm>
#include <utility>
#include <vector>

#include "aligned.h"
#include "blocks.h"
#include "separable2d_mirror.h"
#include "separable2d_right.h"

namespace alias_ops::ALIAS_OPS_ISA {

// The sign of a lane's own number where it meets the lane so far away.
template <class C, int kDistance>
inline Vec<C> signs() {
  Vec<C> sign;
  ALIAS_OPS_UNROLL for (int i = 0; i < kLanes<C>; ++i) sign[i] = i & kDistance ? C(-1) : C(1);
  return sign;
}
// (a, b) -> (a + b, a - b) of lanes so far apart.
template <int kDistance, class C>
inline Vec<C> meet(Vec<C> v, Vec<C> sign) {
  return shuffle<C>(v, v, Swapped<C, kDistance>{}) + sign * v;
}
// What S and D come to, or first U and V of both.
template <int kLeaves, class C>
inline Vec<C> join_leaves(Vec<C> v) {
  v = meet<1, C>(v, signs<C, 1>());
  if constexpr (kLeaves == 4) v = meet<2, C>(v, signs<C, 2>());
  return v;
}
// Lanes of S from the first vector, of D from the second.
template <class C, int kLeaves>
struct SecondHalf {
  constexpr int operator()(int i) const { return i % kLeaves < kLeaves / 2 ? i : i + kLanes<C>; }
};

template <class C>
class RightLeaves : Axis {
 public:
  RightLeaves() = default;
  RightLeaves(const Plan& plan, const Factor& factor) : Axis(plan.right) {
    // Lanes are chosen from two vectors, of a half's samples and of leaves. A single vector of outputs is as fast
    // without: benchmarks/NOTES.md.
    if (kRegisters < 32 || plan.terms != 1 || !split) return;
    if (dense_rows() <= kL || dense_rows() > 2 * kL || dense_columns() > kMost) return;
    const MatrixView a(factor, 0, out, in);
    const Mirror mirror = mirror_in(a);
    if (mirror.found && 4 * mirror.rows.size() <= 2 * kL && 4 * mirror.columns.size() <= kMost) {
      take<4>(mirror, a);
    } else {
      take<2>(Mirror::none(dense_rows() / 2, dense_columns() / 2), a);
    }
    if (plan.outer) outer_ = padded(at_dense_rows(plan.out_w));
    scale_ = padded(copy_scale(a));
  }
  bool found() const { return leaves_ > 0; }
  int64_t folded_row() const { return ceiling(leaves_ * samples_, kL) * kL; }

  // Leaves of `rows` rows of z: out[row][sample][leaf].
  void fold(const C* z, int64_t z_row, int64_t rows, C* out) const {
    constexpr auto targets = std::make_index_sequence<kMost / kL>{};
    if (leaves_ == 4) {
      fold_of<4>(z, z_row, rows, out, targets);
    } else {
      fold_of<2>(z, z_row, rows, out, targets);
    }
  }

  // y = z right^T for `rows` rows; a.part[0] is what fold made of them. Writes over the arguments.
  template <class S>
  void product(RightArgs<S, C>& a, int64_t rows) const {
    if (form == Form::kDense) return product_as<S, Form::kDense>(a, rows);
    if (form == Form::kHalfIn) return product_as<S, Form::kHalfIn>(a, rows);
    return product_as<S, Form::kHalfOut>(a, rows);
  }

 private:
  static constexpr int kL = kLanes<C>, kRows = 4;
  static constexpr int64_t kMost = 4 * kL;  // samples of a row, and leaves of them
  using Index = LaneIndex<C>;

  template <int kLeaves>
  void take(const Mirror& m, const MatrixView& a) {
    const int64_t outputs = int64_t(m.rows.size()), half_out = dense_rows() / 2, half_in = dense_columns() / 2;
    leaves_ = kLeaves, samples_ = int64_t(m.columns.size());
    gather_.assign(kMost, 0), order_.assign(2 * kL, 0);
    first_.assign(kMost, 0), values_.assign(samples_ * 2 * kL, 0);
    for (int leaf = 0; leaf < kLeaves; ++leaf) {
      const int part = leaf / (kLeaves / 2);
      const bool of_v = kLeaves == 4 && leaf % 2 == 1;
      for (int64_t k = 0; k < samples_; ++k) {
        const auto [one, image] = m.columns[k];
        const int64_t lane = kLeaves * k + leaf;
        gather_[lane] = Index((of_v && image >= 0 ? image : one) + (half_in > kL ? 0 : part * kL));
        // A sample that is its own image meets none: it alone is U and V.
        if (image >= 0) first_[lane] = C(leaf % 2 == 0 ? 1 : -1);
        for (int64_t i = 0; i < outputs; ++i) {
          const auto of_row = [&](int p, int64_t c) { return element(a, p, m.rows[i][0], c); };
          values_[k * 2 * kL + kLeaves * i + leaf] =
              C(kLeaves == 4 ? m.of_leaf(part, of_v, k, of_row) : of_row(part, one));
        }
      }
      for (int64_t i = 0; i < outputs; ++i) {
        if (const int64_t r = m.rows[i][of_v]; r >= 0) order_[r + part * half_out] = Index(kLeaves * i + leaf);
      }
    }
  }

  Aligned<C> padded(const std::vector<double>& v) const {
    Aligned<C> whole(2 * kL, 0);
    std::copy(v.begin(), v.end(), whole.begin());
    return whole;
  }

  template <int kLeaves, size_t... T>
  void fold_of(const C* z, int64_t z_row, int64_t rows, C* out, std::index_sequence<T...>) const {
    using Fold = void (RightLeaves::*)(const C*, int64_t, int64_t, C*) const;
    static constexpr Fold half_in[] = {&RightLeaves::fold_as<kLeaves, Form::kHalfIn, 1, int(T) + 1>...};
    static constexpr Fold few[] = {&RightLeaves::fold_as<kLeaves, Form::kDense, 1, int(T) + 1>...};
    static constexpr Fold many[] = {&RightLeaves::fold_as<kLeaves, Form::kDense, 2, int(T) + 1>...};
    const int64_t last = folded_row() / kL - 1;
    const Fold fold = form == Form::kHalfIn ? half_in[last] : dense_columns() <= 2 * kL ? few[last] : many[last];
    (this->*fold)(z, z_row, rows, out);
  }

  // From so many vectors of each half of the dense samples so many of leaves.
  template <int kLeaves, Form kForm, int kVectors, int kTargets>
  void fold_as(const C* z, int64_t z_row, int64_t rows, C* out) const {
    Vec<Index> lanes[kTargets];
    Vec<C> first[kTargets];
    ALIAS_OPS_UNROLL for (int t = 0; t < kTargets; ++t) {
      lanes[t] = load(gather_.data() + t * kL);
      first[t] = load(first_.data() + t * kL);
    }
    const int64_t half = in / 2;
    for (int64_t r = 0; r < rows; ++r) {
      Vec<C> sum[kVectors], difference[kVectors];
      ALIAS_OPS_UNROLL for (int v = 0; v < kVectors; ++v) {
        const Vec<C> left = dense_at<kForm>(z, v), right = dense_at<kForm>(z + half, v);
        sum[v] = left + right, difference[v] = left - right;
      }
      ALIAS_OPS_UNROLL for (int t = 0; t < kTargets; ++t) {
        Vec<C> leaves;
        if constexpr (kVectors == 1) {
          leaves = pick<C>(sum[0], difference[0], lanes[t]);
        } else {
          leaves = shuffle<C>(pick<C>(sum[0], sum[1], lanes[t]), pick<C>(difference[0], difference[1], lanes[t]),
                              SecondHalf<C, kLeaves>{});
        }
        if constexpr (kLeaves == 4) leaves = meet<1, C>(leaves, first[t]);
        store(out + t * kL, leaves);
      }
      z += z_row, out += kTargets * kL;
    }
  }
  template <Form kForm>
  static Vec<C> dense_at(const C* z, int v) {
    if constexpr (kForm == Form::kDense) return load(z + v * kL);
    return shuffle<C>(load(z + 2 * v * kL), load(z + (2 * v + 1) * kL), Odd<C>{});
  }

  template <class S, Form kForm>
  void product_as(RightArgs<S, C>& a, int64_t rows) const {
    if (leaves_ == 4) return product_of<S, kForm, 4>(a, rows);
    product_of<S, kForm, 2>(a, rows);
  }

  template <class S, Form kForm, int kLeaves>
  void product_of(RightArgs<S, C>& a, int64_t rows) const {
    a.blocks = rows / kRows;
    if (a.blocks > 0) tiles<S, kForm, kLeaves, kRows>(a);
    const int64_t done = a.blocks * kRows;
    if (done == rows) return;
    a.part[0] += done * a.part_row, a.z += done * a.z_row, a.y += done * a.y_row;
    if (a.share != nullptr) a.share += done;
    a.blocks = 1;
    last_rows<S, kForm, kLeaves>(a, int(rows - done), std::make_index_sequence<kRows - 1>{});
  }

  template <class S, Form kForm, int kLeaves, size_t... R>
  void last_rows(const RightArgs<S, C>& a, int rows, std::index_sequence<R...>) const {
    using Tiles = void (RightLeaves::*)(const RightArgs<S, C>&) const;
    static constexpr Tiles table[] = {&RightLeaves::tiles<S, kForm, kLeaves, int(R) + 1>...};
    (this->*table[rows - 1])(a);
  }

  template <class S, Form kForm, int kLeaves, int R>
  void tiles(const RightArgs<S, C>& a) const {
    const int64_t row = a.part_row, z_row = a.z_row, y_row = a.y_row, samples = samples_, width = dense_rows();
    const C *values = values_.data(), *first = a.part[0], *z = a.z, *share = a.share;
    const Index* orders = order_.data();
    S* y = a.y;
    for (int64_t block = 0; block < a.blocks; ++block) {
      a.ahead->tile();
      Vec<C> sum[R][2] = {};
      const C *value = values, *leaves = first;
      for (int64_t k = 0; k < samples; ++k) {
        Vec<C> column[2];
        ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) column[v] = load(value + v * kL);
        ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
          const Vec<C> of_sample = load_repeated<kLeaves>(leaves + r * row);
          ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) sum[r][v] += of_sample * column[v];
        }
        value += 2 * kL, leaves += kLeaves;
      }
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
        ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) sum[r][v] = join_leaves<kLeaves, C>(sum[r][v]);
      }
      for (int64_t n = 0; n < width; n += kL) {
        const Vec<Index> order = load(orders + n);
        const RightColumns<S, C, kForm> columns(outer_, scale_, share != nullptr, n, n, out);
        columns.template finish<R>([&](int r) { return pick<C>(sum[r][0], sum[r][1], order); }, share, z, z_row, y,
                                   y_row);
      }
      first += R * row, z += R * z_row, y += R * y_row;
      if (share != nullptr) share += R;
    }
  }

  int64_t leaves_ = 0, samples_ = 0;
  Aligned<C> values_;              // [sample][two vectors: output, leaf]
  Aligned<Index> gather_, order_;  // where a leaf's sample lies in its half, an output among the leaves
  Aligned<C> first_;               // signs of a sample where it meets its image
  Aligned<C> outer_, scale_;       // of the dense outputs
};

}  // namespace alias_ops::ALIAS_OPS_ISA
