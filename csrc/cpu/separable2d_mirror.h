// The product of a long axis through the even and odd parts of its samples.
//
// A pooling's matrix A looks the same from both ends: A[r'][k'] = A[r][k] where a prime turns an index around.
// With e = x[k] + x[k'] and o = x[k] - x[k'], U = sum (A[r][k] + A[r][k']) / 2 e and V = sum (A[r][k] - A[r][k']) / 2 o
// over half of the k are y[r] = U + V and y[r'] = U - V: half of the multiplications, for any size. Where the axis
// is split in halves too, S and D of separable2d_tile.h are each turned around so, and a quarter is left.
// Sums and differences of a panel of vectors are written once, to the first cache, for all the rows.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "separable2d_tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

// How an index is turned around: around 0, as of a periodic signal, or around the middle.
struct Turn {
  bool around_zero;
  int64_t size;
  int64_t operator()(int64_t i) const { return around_zero ? (size - i) % size : size - 1 - i; }
};

struct Mirror {
  bool found = false;
  std::vector<std::array<int64_t, 2>> rows, columns;  // pairs, then those that are their own image, with -1
  int64_t row_pairs = 0, column_pairs = 0;
  std::vector<bool> odd;  // [part][column that is its own image]: whether it belongs to V
};

inline std::vector<std::array<int64_t, 2>> orbits(const Turn& turn, int64_t& pairs) {
  std::vector<std::array<int64_t, 2>> all, alone;
  for (int64_t i = 0; i < turn.size; ++i) {
    if (i < turn(i)) all.push_back({i, turn(i)});
    if (i == turn(i)) alone.push_back({i, -1});
  }
  pairs = int64_t(all.size());
  all.insert(all.end(), alone.begin(), alone.end());
  return all;
}

// a(part, r, k): what is to be turned around; `noise` is what counts as zero.
template <class Element>
inline Mirror mirror_of(int parts, const Turn& rows, const Turn& columns, double noise, Element a) {
  Mirror m;
  m.rows = orbits(rows, m.row_pairs);
  m.columns = orbits(columns, m.column_pairs);
  // Written so that NaN and inf do not pass.
  const auto same = [&](double x, double y) { return std::abs(x - y) <= noise; };
  for (int part = 0; part < parts; ++part) {
    for (size_t c = 0; c < m.columns.size(); ++c) {
      const auto [k, turned] = m.columns[c];
      bool even = true, odd = true;
      for (int64_t i = 0; i < m.row_pairs; ++i) {
        const auto [r, image] = m.rows[i];
        if (turned >= 0) {
          if (!same(a(part, r, k), a(part, image, turned)) || !same(a(part, r, turned), a(part, image, k))) return m;
        } else {
          even = even && same(a(part, r, k), a(part, image, k));
          odd = odd && same(a(part, r, k), -a(part, image, k));
        }
      }
      if (turned >= 0) continue;
      if (!even && !odd) return m;
      m.odd.push_back(!even);
    }
  }
  m.found = true;
  return m;
}

template <class Element>
inline Mirror find_mirror(int parts, int64_t rows, int64_t columns, double noise, Element a) {
  Mirror m;
  if (!std::isfinite(noise)) return m;
  for (const bool row : {true, false}) {
    for (const bool column : {true, false}) {
      m = mirror_of(parts, Turn{row, rows}, Turn{column, columns}, noise, a);
      if (m.found) return m;
    }
  }
  return m;
}

// Accumulators of all the leaves (U and V of every part), a row of loads and a broadcast must fit in the registers.
template <int kLeaves>
inline constexpr int kMirrorRows = kRegisters == 32 ? (kLeaves == 4 ? 3 : 4) : 4 / kLeaves;
template <int kLeaves>
inline constexpr int kMirrorColumns = kRegisters == 32 && kLeaves == 4 ? 2 : 3;

template <class C>
class MirroredAxis {
 public:
  MirroredAxis() = default;
  // a(part, r, k) -> coefficient; in_row and out_row: where dense column k and dense row r lie on the axis.
  template <class Element, class InRow, class OutRow>
  MirroredAxis(const Mirror& m, int parts, int64_t half_in, int64_t half_out, Element a, InRow in_row, OutRow out_row)
      : parts_(parts), half_in_(half_in), half_out_(half_out), rows_(m.rows), columns_(m.columns) {
    const int64_t alone = int64_t(m.columns.size()) - m.column_pairs;
    const auto element = [&](int leaf, int64_t i, int64_t c) {
      const int part = leaf / 2;
      const bool odd = leaf % 2 == 1;
      const int64_t r = m.rows[i][0], k = m.columns[c][0], turned = m.columns[c][1];
      if (turned < 0) return m.odd[part * alone + c - m.column_pairs] == odd ? a(part, r, k) : 0.0;
      return 0.5 * (odd ? a(part, r, k) - a(part, r, turned) : a(part, r, k) + a(part, r, turned));
    };
    const int64_t most = parts == 2 ? kMirrorRows<4> : kMirrorRows<2>;
    blocks_ = Blocks<C>(2 * parts, most, int64_t(m.rows.size()), int64_t(m.columns.size()), element);
    for (auto& [k, turned] : columns_) k = in_row(k), turned = turned < 0 ? -1 : in_row(turned);
    for (auto& [r, image] : rows_) {
      dense_rows_.push_back({r, image});
      r = out_row(r), image = image < 0 ? -1 : out_row(image);
    }
  }
  bool found() const { return parts_ > 0; }
  int64_t scratch() const { return blocks_.inner() * 2 * parts_ * kMirrorColumns<2> * kLanes<C>; }

  // Arguments as of a block; the steps are of the axis itself, not of its dense samples.
  void run(BlockArgs<C>& a, int64_t vectors, C* scratch) const {
    if (parts_ == 2) {
      run_as<2>(a, vectors, scratch);
    } else {
      run_as<1>(a, vectors, scratch);
    }
  }

 private:
  template <int kParts>
  void run_as(BlockArgs<C>& a, int64_t vectors, C* scratch) const {
    constexpr int kMost = kMirrorColumns<2 * kParts>;
    for (int64_t v = 0; v < vectors;) {
      const int columns = std::min(kMost, block_columns<false>(vectors - v));
      if (columns == 1) panel<kParts, 1>(a, v, scratch);
      if (columns == 2) panel<kParts, 2>(a, v, scratch);
      if constexpr (kMost == 3) {
        if (columns == 3) panel<kParts, 3>(a, v, scratch);
      }
      v += columns;
    }
  }

  template <int kParts, int V>
  void panel(const BlockArgs<C>& a, int64_t v, C* folded) const {
    fold<kParts, V>(a.x + v * a.x_vector_step, a.x_inner_step, a.x_vector_step, folded);
    for (int64_t r = 0; r < blocks_.rows(); r += blocks_.block_rows(r)) {
      a.ahead->tile();
      block_of_rows<kParts, V>(int(blocks_.block_rows(r)), a, v, r, folded,
                               std::make_index_sequence<kMirrorRows<2 * kParts>>{});
    }
  }

  template <int kParts, int V, size_t... R>
  void block_of_rows(int rows, const BlockArgs<C>& a, int64_t v, int64_t r, const C* folded,
                     std::index_sequence<R...>) const {
    using Block = void (MirroredAxis::*)(const BlockArgs<C>&, int64_t, int64_t, const C*) const;
    static constexpr Block table[] = {&MirroredAxis::block<kParts, int(R) + 1, V>...};
    (this->*table[rows - 1])(a, v, r, folded);
  }

  // [column][U and V of every part][vector]
  template <int kParts, int V>
  void fold(const C* x, int64_t x_step, int64_t x_vector_step, C* folded) const {
    constexpr int kL = kLanes<C>;
    for (const auto& [k, turned] : columns_) {
      const C *one = x + k * x_step, *other = x + (turned < 0 ? k : turned) * x_step;
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
        C* to = folded + v * kL;
        const C *p = one + v * x_vector_step, *q = other + v * x_vector_step;
        Vec<C> x_p = load(p), x_q = turned < 0 ? Vec<C>{} : load(q);
        if constexpr (kParts == 1) {
          store(to, x_p + x_q);
          store(to + V * kL, x_p - x_q);
        } else {
          const Vec<C> y_p = load(p + half_in_ * x_step), y_q = turned < 0 ? Vec<C>{} : load(q + half_in_ * x_step);
          const Vec<C> sum_p = x_p + y_p, sum_q = x_q + y_q, difference_p = x_p - y_p, difference_q = x_q - y_q;
          store(to, sum_p + sum_q);
          store(to + V * kL, sum_p - sum_q);
          store(to + 2 * V * kL, difference_p + difference_q);
          store(to + 3 * V * kL, difference_p - difference_q);
        }
      }
      folded += 2 * kParts * V * kL;
    }
  }

  template <int kParts, int R, int V>
  void block(const BlockArgs<C>& a, int64_t first_vector, int64_t row, const C* folded) const {
    constexpr int kL = kLanes<C>, kLeaves = 2 * kParts;
    Vec<C> sum[kLeaves][R][V] = {};
    const C* coefficient = blocks_.block(row);
    for (int64_t k = 0; k < blocks_.inner(); ++k) {
      ALIAS_OPS_UNROLL for (int leaf = 0; leaf < kLeaves; ++leaf) {
        Vec<C> column[V];
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
          column[v] = load(folded + (leaf * V + v) * kL);
          keep(column[v]);
        }
        ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
          ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) sum[leaf][r][v] += coefficient[leaf * R + r] * column[v];
        }
      }
      coefficient += kLeaves * R;
      folded += kLeaves * V * kL;
    }
    const C* copy = a.copy == nullptr ? nullptr : a.copy + first_vector * a.copy_vector_step;
    const C* outer = a.outer == nullptr ? nullptr : a.outer + first_vector * a.outer_vector_step;
    const C *copy_scale = a.copy_scale, *outer_scale = a.outer_scale;
    const int64_t copy_row_step = a.copy_row_step, copy_vector_step = a.copy_vector_step;
    const int64_t outer_vector_step = a.outer_vector_step, outer_half = a.outer_scale_half, half = half_out_;
    const int64_t y_row_step = a.y_row_step, y_vector_step = a.y_vector_step;
    C* y = a.y + first_vector * y_vector_step;
    // Copied sample and rank-1 term of one row, then the row.
    const auto finish = [=](int64_t at, int64_t dense, Vec<C>(&row_sum)[V]) {
      if (copy != nullptr) {
        const C scale = copy_scale[at], *from = copy + at * copy_row_step;
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) row_sum[v] += scale * load(from + v * copy_vector_step);
      }
      if (outer != nullptr) {
        const C scale = outer_scale[dense];
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) row_sum[v] += scale * load(outer + v * outer_vector_step);
      }
      C* to = y + at * y_row_step;
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) store(to + v * y_vector_step, row_sum[v]);
    };
    const std::array<int64_t, 2>*rows = rows_.data() + row, *dense_rows = dense_rows_.data() + row;
    ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
      ALIAS_OPS_UNROLL for (int image = 0; image < 2; ++image) {
        const int64_t at = rows[r][image], dense = dense_rows[r][image];
        if (at < 0) continue;
        Vec<C> upper[V], lower[V];
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
          upper[v] = image == 0 ? sum[0][r][v] + sum[1][r][v] : sum[0][r][v] - sum[1][r][v];
          if constexpr (kParts == 2) {
            const Vec<C> difference = image == 0 ? sum[2][r][v] + sum[3][r][v] : sum[2][r][v] - sum[3][r][v];
            lower[v] = upper[v] - difference;
            upper[v] += difference;
          }
        }
        finish(at, dense, upper);
        if constexpr (kParts == 2) finish(at + half, dense + outer_half, lower);
      }
    }
  }

  int parts_ = 0;
  int64_t half_in_ = 0, half_out_ = 0;
  std::vector<std::array<int64_t, 2>> rows_, columns_, dense_rows_;
  Blocks<C> blocks_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
