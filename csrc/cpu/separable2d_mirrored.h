// The product of a long axis through the even and odd parts of its samples.
//
// A pooling's matrix A looks the same from both ends: A[r'][k'] = A[r][k] where a prime turns an index around.
// With e = x[k] + x[k'] and o = x[k] - x[k'], U = sum (A[r][k] + A[r][k']) / 2 e and V = sum (A[r][k] - A[r][k']) / 2 o
// over half of the k are y[r] = U + V and y[r'] = U - V: half of the multiplications, for any size. Where the axis
// is split in halves too, S and D of separable2d_tile.h are each turned around so, and a quarter is left.
//
// Leaves are e and o of every part. Of a short axis those of one vector of columns stay in registers for all the rows;
// of a longer one those of a panel of vectors are written once, to the first cache, where blocks of rows read them.
#pragma once

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

#include "separable2d_mirror.h"
#include "separable2d_tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Registers that the leaves of a short axis may fill, beside the sums of one row.
inline constexpr int kResident = kRegisters == 32 ? 28 : 0;

// Of a longer one: the sums of all the leaves, a row of loads and a broadcast must fit in the registers.
template <int kLeaves>
inline constexpr int kMirrorRows = kRegisters == 32 ? (kLeaves == 4 ? 3 : 4) : 4 / kLeaves;
template <int kLeaves>
inline constexpr int kMirrorColumns = kRegisters == 32 && kLeaves == 4 ? 2 : 3;

// What rows add to their sums, known when compiled or seen from the arguments. Never both: what copies samples comes
// first, what adds the rank-1 term last.
enum class Adds { kNothing, kCopied, kOuter, kAsArguments };

// What becomes of the sums of a pair of rows: both rows, in every half. Holds copies of the arguments, which the
// compiler would read again after each store.
template <class C, int V, Adds kAdds>
class MirroredRows {
 public:
  MirroredRows(const BlockArgs<C>& a, int64_t first_vector, int64_t half)
      : copy_(a.copy == nullptr ? nullptr : a.copy + first_vector * a.copy_vector_step),
        outer_(a.outer == nullptr ? nullptr : a.outer + first_vector * a.outer_vector_step),
        copy_scale_(a.copy_scale),
        outer_scale_(a.outer_scale),
        copy_row_(a.copy_row_step),
        copy_vector_(a.copy_vector_step),
        outer_vector_(a.outer_vector_step),
        outer_half_(a.outer_scale_half),
        half_(half),
        y_(a.y + first_vector * a.y_vector_step),
        y_row_(a.y_row_step),
        y_vector_(a.y_vector_step) {}

  template <int kLeaves>
  void finish(const std::array<int64_t, 2>& rows, const std::array<int64_t, 2>& dense_rows,
              const Vec<C> (&sum)[kLeaves][V]) const {
    ALIAS_OPS_UNROLL for (int image = 0; image < 2; ++image) {
      const int64_t at = rows[image], dense = dense_rows[image];
      if (at < 0) continue;
      Vec<C> upper[V], lower[V];
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
        upper[v] = image == 0 ? sum[0][v] + sum[1][v] : sum[0][v] - sum[1][v];
        if constexpr (kLeaves == 4) {
          const Vec<C> difference = image == 0 ? sum[2][v] + sum[3][v] : sum[2][v] - sum[3][v];
          lower[v] = upper[v] - difference;
          upper[v] += difference;
        }
      }
      store_row(at, dense, upper);
      if constexpr (kLeaves == 4) store_row(at + half_, dense + outer_half_, lower);
    }
  }

 private:
  // Copied sample and rank-1 term of one row, then the row.
  void store_row(int64_t at, int64_t dense, Vec<C> (&sum)[V]) const {
    if (kAdds == Adds::kCopied || (kAdds == Adds::kAsArguments && copy_ != nullptr)) {
      const C scale = copy_scale_[at], *from = copy_ + at * copy_row_;
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) sum[v] += scale * load(from + v * copy_vector_);
    }
    if (kAdds == Adds::kOuter || (kAdds == Adds::kAsArguments && outer_ != nullptr)) {
      const C scale = outer_scale_[dense];
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) sum[v] += scale * load(outer_ + v * outer_vector_);
    }
    C* to = y_ + at * y_row_;
    ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) store(to + v * y_vector_, sum[v]);
  }

  const C *copy_, *outer_, *copy_scale_, *outer_scale_;
  int64_t copy_row_, copy_vector_, outer_vector_, outer_half_, half_;
  C* y_;
  int64_t y_row_, y_vector_;
};

template <class C>
class MirroredAxis {
 public:
  MirroredAxis() = default;
  // a(part, r, k) -> coefficient; taken(part, k) -> coefficient of what BlockArgs::taken is to get. in_row and out_row:
  // where dense column k and dense row r lie on the axis.
  template <class Element, class Taken, class InRow, class OutRow>
  MirroredAxis(const Mirror& m, int parts, int64_t half_in, int64_t half_out, Element a, Taken taken, InRow in_row,
               OutRow out_row)
      : parts_(parts), half_in_(half_in), half_out_(half_out), rows_(m.rows), columns_(m.columns) {
    const int64_t rows = int64_t(m.rows.size()), inner = int64_t(m.columns.size());
    const auto element = [&](int leaf, int64_t i, int64_t c) {
      return m.of_leaf(leaf / 2, leaf % 2 == 1, c, [&](int part, int64_t k) { return a(part, m.rows[i][0], k); });
    };
    if (is_resident(parts, inner)) {
      blocks_ = Blocks<C>(1, 1, rows, 2 * parts * inner,
                          [&](int, int64_t r, int64_t i) { return element(int(i / inner), r, i % inner); });
      for (int64_t i = 0; i < 2 * parts * inner; ++i) {
        const int leaf = int(i / inner);
        taken_.push_back(C(m.of_leaf(leaf / 2, leaf % 2 == 1, i % inner, taken)));
      }
    } else {
      const int64_t most = parts == 2 ? kMirrorRows<4> : kMirrorRows<2>;
      blocks_ = Blocks<C>(2 * parts, most, rows, inner, element);
    }
    for (auto& [k, turned] : columns_) k = in_row(k), turned = turned < 0 ? -1 : in_row(turned);
    for (auto& [r, image] : rows_) {
      dense_rows_.push_back({r, image});
      r = out_row(r), image = image < 0 ? -1 : out_row(image);
    }
  }
  bool found() const { return parts_ > 0; }
  // Whether BlockArgs::taken is served.
  bool takes() const { return !taken_.empty(); }
  int64_t scratch() const { return takes() ? 0 : blocks_.inner() * 2 * parts_ * kMirrorColumns<2> * kLanes<C>; }

  static bool is_resident(int64_t parts, int64_t columns) { return 2 * parts * columns <= kResident; }

  // Arguments as of a block; the steps are of the axis itself, not of its dense samples.
  void run(const BlockArgs<C>& a, int64_t vectors, C* scratch) const {
    if (parts_ == 2) {
      run_as<2>(a, vectors, scratch);
    } else {
      run_as<1>(a, vectors, scratch);
    }
  }

 private:
  template <int kParts>
  void run_as(const BlockArgs<C>& a, int64_t vectors, C* scratch) const {
    if constexpr (kResident > 0) {
      if (takes()) return run_resident<kParts>(a, vectors);
    }
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

  template <int kParts>
  void run_resident(const BlockArgs<C>& a, int64_t vectors) const {
    constexpr auto sizes = std::make_index_sequence<kResident / (2 * kParts)>{};
    if (a.copy != nullptr) return resident_of<kParts, Adds::kCopied>(a, vectors, sizes);
    if (a.outer != nullptr) return resident_of<kParts, Adds::kOuter>(a, vectors, sizes);
    resident_of<kParts, Adds::kNothing>(a, vectors, sizes);
  }

  template <int kParts, Adds kAdds, size_t... K>
  void resident_of(const BlockArgs<C>& a, int64_t vectors, std::index_sequence<K...>) const {
    using Run = void (MirroredAxis::*)(const BlockArgs<C>&, int64_t) const;
    static constexpr Run table[] = {&MirroredAxis::resident<kParts, kAdds, int(K) + 1>...};
    (this->*table[columns_.size() - 1])(a, vectors);
  }

  template <int kParts, Adds kAdds, int K>
  void resident(const BlockArgs<C>& a, int64_t vectors) const {
    constexpr int kLeaves = 2 * kParts;
    constexpr bool kRowByRow = kLeaves * K >= 24;  // large maps, whose lines are too many for a few tiles
    const std::array<int64_t, 2>*rows = rows_.data(), *dense_rows = dense_rows_.data();
    const int64_t count = int64_t(rows_.size());
    for (int64_t v = 0; v < vectors; ++v) {
      if constexpr (!kRowByRow) a.ahead->tile();
      Vec<C> column[K][kLeaves];
      ALIAS_OPS_UNROLL for (int k = 0; k < K; ++k) {
        leaves_of(a.x + v * a.x_vector_step, a.x_inner_step, columns_[k], column[k]);
      }
      const auto sum_of = [&](const C* coefficient, int leaf) {
        Vec<C> sum = coefficient[leaf * K] * column[0][leaf];
        ALIAS_OPS_UNROLL for (int k = 1; k < K; ++k) sum += coefficient[leaf * K + k] * column[k][leaf];
        return sum;
      };
      if (a.taken != nullptr) {
        Vec<C> taken = {};
        ALIAS_OPS_UNROLL for (int leaf = 0; leaf < kLeaves; ++leaf) taken += sum_of(taken_.data(), leaf);
        store(a.taken + v * kLanes<C>, taken);
      }
      const MirroredRows<C, 1, kAdds> ends(a, v, half_out_);
      const C* coefficient = blocks_.block(0);
      for (int64_t r = 0; r < count; ++r) {
        if constexpr (kRowByRow) a.ahead->tile();
        Vec<C> sum[kLeaves][1];
        ALIAS_OPS_UNROLL for (int leaf = 0; leaf < kLeaves; ++leaf) sum[leaf][0] = sum_of(coefficient, leaf);
        ends.finish(rows[r], dense_rows[r], sum);
        coefficient += kLeaves * K;
      }
    }
  }

  template <int kLeaves>
  void leaves_of(const C* x, int64_t x_step, const std::array<int64_t, 2>& pair, Vec<C> (&leaf)[kLeaves]) const {
    const auto [k, turned] = pair;
    const C *p = x + k * x_step, *q = x + (turned < 0 ? k : turned) * x_step;
    const Vec<C> x_p = load(p), x_q = turned < 0 ? Vec<C>{} : load(q);
    if constexpr (kLeaves == 2) {
      leaf[0] = x_p + x_q, leaf[1] = x_p - x_q;
    } else {
      const Vec<C> y_p = load(p + half_in_ * x_step), y_q = turned < 0 ? Vec<C>{} : load(q + half_in_ * x_step);
      const Vec<C> sum_p = x_p + y_p, sum_q = x_q + y_q, difference_p = x_p - y_p, difference_q = x_q - y_q;
      leaf[0] = sum_p + sum_q, leaf[1] = sum_p - sum_q;
      leaf[2] = difference_p + difference_q, leaf[3] = difference_p - difference_q;
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

  // [column][leaf][vector]
  template <int kParts, int V>
  void fold(const C* x, int64_t x_step, int64_t x_vector_step, C* folded) const {
    constexpr int kL = kLanes<C>, kLeaves = 2 * kParts;
    for (const auto& pair : columns_) {
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
        Vec<C> leaf[kLeaves];
        leaves_of(x + v * x_vector_step, x_step, pair, leaf);
        ALIAS_OPS_UNROLL for (int i = 0; i < kLeaves; ++i) store(folded + (i * V + v) * kL, leaf[i]);
      }
      folded += kLeaves * V * kL;
    }
  }

  template <int kParts, int R, int V>
  void block(const BlockArgs<C>& a, int64_t first_vector, int64_t row, const C* folded) const {
    constexpr int kL = kLanes<C>, kLeaves = 2 * kParts;
    Vec<C> sum[R][kLeaves][V] = {};
    const C* coefficient = blocks_.block(row);
    for (int64_t k = 0; k < blocks_.inner(); ++k) {
      ALIAS_OPS_UNROLL for (int leaf = 0; leaf < kLeaves; ++leaf) {
        Vec<C> column[V];
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
          column[v] = load(folded + (leaf * V + v) * kL);
          keep(column[v]);
        }
        ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
          ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) sum[r][leaf][v] += coefficient[leaf * R + r] * column[v];
        }
      }
      coefficient += kLeaves * R;
      folded += kLeaves * V * kL;
    }
    const MirroredRows<C, V, Adds::kAsArguments> ends(a, first_vector, half_out_);
    const std::array<int64_t, 2>*rows = rows_.data() + row, *dense_rows = dense_rows_.data() + row;
    ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) ends.finish(rows[r], dense_rows[r], sum[r]);
  }

  int parts_ = 0;
  int64_t half_in_ = 0, half_out_ = 0;
  std::vector<std::array<int64_t, 2>> rows_, columns_, dense_rows_;
  Blocks<C> blocks_;      // of a short axis [row][leaf][column]
  std::vector<C> taken_;  // [leaf][column], of a short axis alone
};

}  // namespace alias_ops::ALIAS_OPS_ISA
