// The product along the rows of a map whose right factor is split in halves and mirrored (separable2d_mirrored.h).
//
// Four neighbouring lanes are the leaves of one pair of outputs: U and V of S, U and V of D. The four numbers that they
// need of a pair of samples lie side by side, so one load hands them to every quad of lanes, where the plain product
// broadcasts each number alone: half of the multiplications of halves alone, a quarter of the loads. Samples turn into
// leaves, and leaves into outputs, by the same sums and differences of four neighbours.
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
// (a, b, c, d) -> (a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d)
template <class C>
inline Vec<C> turn_quads(Vec<C> v, Vec<C> neighbours = signs<C, 1>()) {
  v = shuffle<C>(v, v, Swapped<C, 1>{}) + neighbours * v;
  return shuffle<C>(v, v, Swapped<C, 2>{}) + signs<C, 2>() * v;
}

template <class C>
class RightQuads : Axis {
 public:
  RightQuads() = default;
  RightQuads(const Plan& plan, const Factor& factor) : Axis(plan.right) {
    // Lanes are chosen from two vectors, of samples and of quads. One vector of outputs would not fill those of quads,
    // or takes as long without any; benchmarks/NOTES.md.
    if (kRegisters < 32 || plan.terms != 1 || !split) return;
    if (dense_rows() <= kL || std::max(dense_rows(), dense_columns()) > 2 * kL) return;
    const int64_t rows = dense_rows() / 2, inner = dense_columns() / 2;
    const MatrixView a(factor, 0, out, in);
    const auto element = [&](int part, int64_t r, int64_t k) {
      return coefficient(part, k, [&](int64_t c) { return a(dense_row(r), c); });
    };
    const Mirror m = find_mirror(2, rows, inner, 1e-14 * largest_of(a), element);
    const int64_t quads = int64_t(m.rows.size()), pairs = int64_t(m.columns.size());
    if (!m.found || 4 * std::max(quads, pairs) > 2 * kL) return;
    pairs_ = pairs;
    gather_.assign(2 * kL, 0), order_.assign(2 * kL, 0);
    values_.assign(pairs * 2 * kL, 0);
    neighbours_ = Aligned<C>(2 * kL, 0);
    for (int64_t k = 0; k < pairs; ++k) {
      const auto [one, other] = m.columns[k];
      for (int leaf = 0; leaf < 4; ++leaf) {
        const int part = leaf / 2;
        const bool odd = leaf % 2 == 1;
        gather_[4 * k + leaf] = Index((odd && other >= 0 ? other : one) + part * inner);
        // A sample that is its own image has no neighbour: it alone is U and V.
        if (other >= 0) neighbours_[4 * k + leaf] = C(odd ? -1 : 1);
        for (int64_t i = 0; i < quads; ++i) {
          const auto of_row = [&](int p, int64_t c) { return element(p, m.rows[i][0], c); };
          values_[k * 2 * kL + 4 * i + leaf] = C(m.of_leaf(part, odd, k, of_row));
        }
      }
    }
    for (int64_t i = 0; i < quads; ++i) {
      for (int lane = 0; lane < 4; ++lane) {
        if (const int64_t r = m.rows[i][lane % 2]; r >= 0) order_[r + lane / 2 * rows] = Index(4 * i + lane);
      }
    }
    if (plan.outer) outer_ = padded(at_dense_rows(plan.out_w));
    scale_ = padded(copy_scale(a));
  }
  bool found() const { return pairs_ > 0; }
  int64_t folded_row() const { return ceiling(4 * pairs_, kL) * kL; }

  // Leaves of `rows` rows of z: out[row][pair of samples][leaf].
  void fold(const C* z, int64_t z_row, int64_t rows, C* out) const {
    if (form == Form::kHalfIn) {
      fold_as<Form::kHalfIn>(z, z_row, rows, out);
    } else {
      fold_as<Form::kDense>(z, z_row, rows, out);
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

  Aligned<C> padded(const std::vector<double>& v) const {
    Aligned<C> whole(2 * kL, 0);
    std::copy(v.begin(), v.end(), whole.begin());
    return whole;
  }

  template <Form kForm>
  void fold_as(const C* z, int64_t z_row, int64_t rows, C* out) const {
    const Vec<Index> first = load(gather_.data()), second = load(gather_.data() + kL);
    const Vec<C> of_first = load(neighbours_.data()), of_second = load(neighbours_.data() + kL);
    const int64_t row = folded_row();
    for (int64_t r = 0; r < rows; ++r) {
      Vec<C> low, high;
      if constexpr (kForm == Form::kHalfIn) {
        low = shuffle<C>(load(z), load(z + kL), Odd<C>{});
        high = shuffle<C>(load(z + 2 * kL), load(z + 3 * kL), Odd<C>{});
      } else {
        low = load(z), high = load(z + kL);
      }
      store(out, turn_quads<C>(pick<C>(low, high, first), of_first));
      if (row > kL) store(out + kL, turn_quads<C>(pick<C>(low, high, second), of_second));
      z += z_row, out += row;
    }
  }

  template <class S, Form kForm>
  void product_as(RightArgs<S, C>& a, int64_t rows) const {
    for (int64_t r = 0; r < rows; r += kRows) {
      a.ahead->tile();
      const int count = int(std::min<int64_t>(kRows, rows - r));
      tile_of_rows<S, kForm>(a, count, std::make_index_sequence<kRows>{});
      a.part[0] += count * a.part_row, a.z += count * a.z_row, a.y += count * a.y_row;
      if (a.share != nullptr) a.share += count;
    }
  }

  template <class S, Form kForm, size_t... R>
  void tile_of_rows(const RightArgs<S, C>& a, int rows, std::index_sequence<R...>) const {
    using Tile = void (RightQuads::*)(const RightArgs<S, C>&) const;
    static constexpr Tile table[] = {&RightQuads::tile<S, kForm, int(R) + 1>...};
    (this->*table[rows - 1])(a);
  }

  template <class S, Form kForm, int R>
  void tile(const RightArgs<S, C>& a) const {
    Vec<C> sum[R][2] = {};
    const C *values = values_.data(), *leaves = a.part[0];
    const int64_t row = a.part_row;
    for (int64_t k = 0; k < pairs_; ++k) {
      Vec<C> column[2];
      ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) column[v] = load(values + v * kL);
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
        const Vec<C> of_pair = load_quad(leaves + r * row);
        ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) sum[r][v] += of_pair * column[v];
      }
      values += 2 * kL, leaves += 4;
    }
    ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
      ALIAS_OPS_UNROLL for (int v = 0; v < 2; ++v) sum[r][v] = turn_quads<C>(sum[r][v]);
    }
    const int64_t width = dense_rows();
    for (int64_t n = 0; n < width; n += kL) {
      const Vec<Index> order = load(order_.data() + n);
      const RightColumns<S, C, kForm> columns(outer_, scale_, a.share != nullptr, n, n, out);
      columns.template finish<R>([&](int r) { return pick<C>(sum[r][0], sum[r][1], order); }, a.share, a.z, a.z_row,
                                 a.y, a.y_row);
    }
  }

  int64_t pairs_ = 0;
  Aligned<C> values_;              // [pair of samples][quad][leaf]
  Aligned<Index> gather_, order_;  // where a leaf's sample lies among the dense ones, an output among the quads
  Aligned<C> neighbours_;          // signs of a leaf's first step
  Aligned<C> outer_, scale_;       // of the dense outputs
};

}  // namespace alias_ops::ALIAS_OPS_ISA
