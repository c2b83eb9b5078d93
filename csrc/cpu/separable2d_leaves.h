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
// (a, b) -> (a + b, a - b), or (a, b, c, d) -> (a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d)
template <int kLeaves, class C>
inline Vec<C> turn(Vec<C> v, Vec<C> first) {
  v = shuffle<C>(v, v, Swapped<C, 1>{}) + first * v;
  if constexpr (kLeaves == 4) v = shuffle<C>(v, v, Swapped<C, 2>{}) + signs<C, 2>() * v;
  return v;
}

template <class C>
class RightLeaves : Axis {
 public:
  RightLeaves() = default;
  RightLeaves(const Plan& plan, const Factor& factor) : Axis(plan.right) {
    // Lanes are chosen from two vectors, of samples and of leaves; a single one of outputs is as fast without:
    // benchmarks/NOTES.md.
    if (kRegisters < 32 || plan.terms != 1 || !split) return;
    if (dense_rows() <= kL || std::max(dense_rows(), dense_columns()) > 2 * kL) return;
    const MatrixView a(factor, 0, out, in);
    const auto element = [&](int part, int64_t r, int64_t k) {
      return coefficient(part, k, [&](int64_t c) { return a(dense_row(r), c); });
    };
    const int64_t rows = dense_rows() / 2, inner = dense_columns() / 2;
    const Mirror mirror = find_mirror(2, rows, inner, 1e-14 * largest_of(a), element);
    if (mirror.found && 4 * std::max(mirror.rows.size(), mirror.columns.size()) <= 2 * kL) {
      take<4>(mirror, element);
    } else {
      take<2>(Mirror::none(rows, inner), element);
    }
    if (plan.outer) outer_ = padded(at_dense_rows(plan.out_w));
    scale_ = padded(copy_scale(a));
  }
  bool found() const { return leaves_ > 0; }
  int64_t folded_row() const { return ceiling(leaves_ * samples_, kL) * kL; }

  // Leaves of `rows` rows of z: out[row][sample][leaf].
  void fold(const C* z, int64_t z_row, int64_t rows, C* out) const {
    if (leaves_ == 4) {
      fold_of<4>(z, z_row, rows, out);
    } else {
      fold_of<2>(z, z_row, rows, out);
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
  using Index = LaneIndex<C>;

  template <int kLeaves, class Element>
  void take(const Mirror& m, Element element) {
    const int64_t outputs = int64_t(m.rows.size()), half_out = dense_rows() / 2, half_in = dense_columns() / 2;
    leaves_ = kLeaves, samples_ = int64_t(m.columns.size());
    gather_.assign(2 * kL, 0), order_.assign(2 * kL, 0);
    first_.assign(2 * kL, 0), values_.assign(samples_ * 2 * kL, 0);
    for (int leaf = 0; leaf < kLeaves; ++leaf) {
      const int part = leaf / (kLeaves / 2);
      const bool of_v = kLeaves == 4 && leaf % 2 == 1;
      for (int64_t k = 0; k < samples_; ++k) {
        const auto [one, image] = m.columns[k];
        const int64_t lane = kLeaves * k + leaf;
        gather_[lane] = Index((of_v && image >= 0 ? image : one) + part * half_in);
        // A sample that is its own image meets none: it alone is U and V.
        if (kLeaves == 2 || image >= 0) first_[lane] = C(leaf % 2 == 0 ? 1 : -1);
        for (int64_t i = 0; i < outputs; ++i) {
          const auto of_row = [&](int p, int64_t c) { return element(p, m.rows[i][0], c); };
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

  template <int kLeaves>
  void fold_of(const C* z, int64_t z_row, int64_t rows, C* out) const {
    if (form == Form::kHalfIn) {
      fold_as<kLeaves, Form::kHalfIn>(z, z_row, rows, out);
    } else {
      fold_as<kLeaves, Form::kDense>(z, z_row, rows, out);
    }
  }

  template <int kLeaves, Form kForm>
  void fold_as(const C* z, int64_t z_row, int64_t rows, C* out) const {
    const Vec<Index> low_lanes = load(gather_.data()), high_lanes = load(gather_.data() + kL);
    const Vec<C> low_signs = load(first_.data()), high_signs = load(first_.data() + kL);
    const int64_t row = folded_row();
    for (int64_t r = 0; r < rows; ++r) {
      Vec<C> low, high;
      if constexpr (kForm == Form::kHalfIn) {
        low = shuffle<C>(load(z), load(z + kL), Odd<C>{});
        high = shuffle<C>(load(z + 2 * kL), load(z + 3 * kL), Odd<C>{});
      } else {
        low = load(z), high = load(z + kL);
      }
      store(out, turn<kLeaves, C>(pick<C>(low, high, low_lanes), low_signs));
      if (row > kL) store(out + kL, turn<kLeaves, C>(pick<C>(low, high, high_lanes), high_signs));
      z += z_row, out += row;
    }
  }

  template <class S, Form kForm>
  void product_as(RightArgs<S, C>& a, int64_t rows) const {
    if (leaves_ == 4) return product_of<S, kForm, 4>(a, rows);
    product_of<S, kForm, 2>(a, rows);
  }

  template <class S, Form kForm, int kLeaves>
  void product_of(RightArgs<S, C>& a, int64_t rows) const {
    for (int64_t r = 0; r < rows; r += kRows) {
      a.ahead->tile();
      const int count = int(std::min<int64_t>(kRows, rows - r));
      tile_of_rows<S, kForm, kLeaves>(a, count, std::make_index_sequence<kRows>{});
      a.part[0] += count * a.part_row, a.z += count * a.z_row, a.y += count * a.y_row;
      if (a.share != nullptr) a.share += count;
    }
  }

  template <class S, Form kForm, int kLeaves, size_t... R>
  void tile_of_rows(const RightArgs<S, C>& a, int rows, std::index_sequence<R...>) const {
    using Tile = void (RightLeaves::*)(const RightArgs<S, C>&) const;
    static constexpr Tile table[] = {&RightLeaves::tile<S, kForm, kLeaves, int(R) + 1>...};
    (this->*table[rows - 1])(a);
  }

  template <class S, Form kForm, int kLeaves, int R>
  void tile(const RightArgs<S, C>& a) const {
    Vec<C> sum[R][2] = {};
    const C *values = values_.data(), *leaves = a.part[0];
    const int64_t row = a.part_row;
    for (int64_t k = 0; k < samples_; ++k) {
      Vec<C> column[2];
      ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) column[v] = load(values + v * kL);
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
        const Vec<C> of_sample = load_repeated<kLeaves>(leaves + r * row);
        ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) sum[r][v] += of_sample * column[v];
      }
      values += 2 * kL, leaves += kLeaves;
    }
    ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
      ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) sum[r][v] = turn<kLeaves, C>(sum[r][v], signs<C, 1>());
    }
    const int64_t width = dense_rows();
    for (int64_t n = 0; n < width; n += kL) {
      const Vec<Index> order = load(order_.data() + n);
      const RightColumns<S, C, kForm> columns(outer_, scale_, a.share != nullptr, n, n, out);
      columns.template finish<R>([&](int r) { return pick<C>(sum[r][0], sum[r][1], order); }, a.share, a.z, a.z_row,
                                 a.y, a.y_row);
    }
  }

  int64_t leaves_ = 0, samples_ = 0;
  Aligned<C> values_;              // [sample][two vectors: output, leaf]
  Aligned<Index> gather_, order_;  // where a leaf's sample lies among the dense ones, an output among the leaves
  Aligned<C> first_;               // signs of a leaf's first step
  Aligned<C> outer_, scale_;       // of the dense outputs
};

}  // namespace alias_ops::ALIAS_OPS_ISA
