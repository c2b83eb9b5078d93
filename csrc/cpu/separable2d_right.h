// The product along the rows of a map: lanes are outputs, samples of x are broadcast.
#pragma once

#include <algorithm>
#include <vector>

#include "aligned.h"
#include "separable2d_plan.h"

namespace alias_ops::ALIAS_OPS_ISA {

// The right factor transposed: [inner][parts][outputs, padded to vectors]. Where splitting fills no lanes
// better than the whole, as for 16 outputs, the whole is taken.
template <class C>
struct RightPanel : Axis {
  int64_t inner = 0, columns = 0;
  Aligned<C> values, outer, scale;  // the last two [parts][columns]

  RightPanel() = default;
  RightPanel(const Plan& plan, const Factor& factor) : Axis(plan.right) {
    constexpr int64_t kL = kLanes<C>;
    if (ceiling(dense_rows() / 2, kL) == ceiling(dense_rows(), kL)) split = false;
    const int64_t rows = dense_rows() / parts(), inner_of_term = dense_columns() / parts();
    inner = inner_of_term * plan.terms;
    columns = ceiling(rows, kL) * kL;
    values.assign(inner * parts() * columns, 0);
    for (int64_t k = 0; k < inner; ++k) {
      const MatrixView a(factor, k / inner_of_term, out, in);
      for (int part = 0; part < parts(); ++part) {
        for (int64_t n = 0; n < rows; ++n) {
          values[(k * parts() + part) * columns + n] = C(element(a, part, n, k % inner_of_term));
        }
      }
    }
    if (plan.outer) outer = padded_halves(at_dense_rows(plan.out_w));
    scale = padded_halves(copy_scale(MatrixView(factor, 0, out, in)));
  }

 private:
  Aligned<C> padded_halves(const std::vector<double>& v) const {
    Aligned<C> padded(parts() * columns, 0);
    const int64_t half = int64_t(v.size()) / parts();
    for (int64_t i = 0; i < half * parts(); ++i) padded[i / half * columns + i % half] = C(v[i]);
    return padded;
  }
};

template <class S, class C>
struct RightArgs {
  const C* part[2];  // R rows of z, or of its sums and differences
  int64_t part_row, inner_step;
  const C* z;  // R rows
  int64_t z_row;
  const RightPanel<C>* panel;
  int64_t column;  // the tile's first
  const C* share;  // factor of the rank-1 term for each row; null without one
  S* y;
  int64_t y_row;
  Ahead* ahead;        // what to ask for meanwhile
  int64_t blocks = 0;  // of R rows each, one after the other
};

// A vector of outputs, n and the following of `width`: what they add to their sums, and where they go.
template <class S, class C, Form form>
class RightColumns {
 public:
  // Coefficients of the rank-1 term, if it is `shared`, and of the copied samples lie `at` so much.
  RightColumns(const Aligned<C>& outer, const Aligned<C>& scale, bool shared, int64_t at, int64_t n, int64_t width)
      : n_(n), width_(width) {
    if (shared) outer_ = load(outer.data() + at);
    if constexpr (form != Form::kDense) scale_ = load(scale.data() + at);
  }

  // R rows: sum(r) -> their sums; z and y as of RightArgs, of the width's first output.
  template <int R, class Sum>
  [[gnu::always_inline]] void finish(Sum sum_of, const C* share, const C* z, int64_t z_row, S* y, int64_t y_row) const {
    constexpr int kL = kLanes<C>;
    Vec<C> sum[R];
    ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) sum[r] = sum_of(r);
    if (share != nullptr) {
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) sum[r] += share[r] * outer_;
    }
    if constexpr (form == Form::kHalfIn) {
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
        const C* pairs = z + r * z_row + 2 * n_;
        sum[r] += scale_ * shuffle<C>(load(pairs), load(pairs + kL), Even<C>{});
      }
    }
    if constexpr (form == Form::kHalfOut) {
      const int64_t left = width_ - 2 * n_;
      S* pairs = y + 2 * n_;
      const auto even = [&](int r) { return scale_ * load(z + r * z_row + n_); };
      if (left >= 2 * kL) {
        ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
          const Vec<C> copied = even(r);
          store(pairs + r * y_row, shuffle<C>(copied, sum[r], LowerInterleaved<C>{}));
          store(pairs + r * y_row + kL, shuffle<C>(copied, sum[r], UpperInterleaved<C>{}));
        }
      } else {
        ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
          const Vec<C> copied = even(r);
          store_first(pairs + r * y_row, shuffle<C>(copied, sum[r], LowerInterleaved<C>{}), std::max<int64_t>(0, left));
          store_first(pairs + r * y_row + kL, shuffle<C>(copied, sum[r], UpperInterleaved<C>{}),
                      std::max<int64_t>(0, left - kL));
        }
      }
    } else if (n_ + kL <= width_) {
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) store(y + r * y_row + n_, sum[r]);
    } else {
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) store_first(y + r * y_row + n_, sum[r], width_ - n_);
    }
  }

 private:
  Vec<C> outer_, scale_;
  int64_t n_, width_;
};

template <class S, class C, Form form, bool kSplit, int R, int V>
void right_tile(const RightArgs<S, C>& a) {
  constexpr int kL = kLanes<C>, kParts = kSplit ? 2 : 1;
  const RightPanel<C>& panel = *a.panel;
  const C *first_values = panel.values.data() + a.column, *first = a.part[0], *z_rows = a.z, *share = a.share;
  const int64_t columns = panel.columns, inner = panel.inner, second = a.part[1] - a.part[0];
  const int64_t row = a.part_row, inner_step = a.inner_step, z_row = a.z_row, y_row = a.y_row;
  const int64_t half_in = panel.in / 2, half_out = panel.out / kParts;
  S* y_rows = a.y;
  for (int64_t block = 0; block < a.blocks; ++block) {
    a.ahead->tile();
    Vec<C> sum[kParts][R][V] = {};
    const C *values = first_values, *part = first;
    for (int64_t k = 0; k < inner; ++k) {
      ALIAS_OPS_UNROLL for (int p = 0; p < kParts; ++p) {
        const C* samples = part + p * second;
        Vec<C> column[V];
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) column[v] = load(values + v * kL);
        ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
          ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) sum[p][r][v] += samples[r * row] * column[v];
        }
        values += columns;
      }
      part += inner_step;
    }
    if constexpr (kSplit) join_halves<C>(sum);
    ALIAS_OPS_UNROLL for (int half = 0; half < kParts; ++half) {
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
        const int64_t n = a.column + v * kL;
        const RightColumns<S, C, form> columns_of(panel.outer, panel.scale, share != nullptr, half * columns + n, n,
                                                  half_out);
        columns_of.template finish<R>([&](int r) { return sum[half][r][v]; }, share, z_rows + half * half_in, z_row,
                                      y_rows + half * half_out, y_row);
      }
    }
    first += R * row, z_rows += R * z_row, y_rows += R * y_row;
    if (share != nullptr) share += R;
  }
}

template <class S, class C, Form form, bool kSplit, int V, size_t... R>
void right_tile_of_rows(const RightArgs<S, C>& a, int rows, std::index_sequence<R...>) {
  static constexpr void (*table[])(const RightArgs<S, C>&) = {&right_tile<S, C, form, kSplit, int(R) + 1, V>...};
  table[rows - 1](a);
}

// y = z right^T for `rows` rows; `part` is z itself, or its sums and differences. Writes over the arguments.
template <class S, class C, Form form, bool kSplit>
void right_product_as(RightArgs<S, C>& a, int64_t rows) {
  constexpr int kL = kLanes<C>;
  const RightPanel<C>& panel = *a.panel;
  a.inner_step = form == Form::kHalfIn ? 2 : 1;
  const C *part[2] = {a.part[0] + a.inner_step - 1, a.part[1] + a.inner_step - 1}, *z = a.z, *share = a.share;
  S* y = a.y;
  using Few = std::make_index_sequence<kBlockRows<kSplit>>;
  using Most = std::make_index_sequence<kBlockRows<false>>;
  for (a.column = 0; a.column < panel.columns;) {
    const int vectors = block_columns<kSplit>((panel.columns - a.column) / kL);
    const int64_t most = kSplit && vectors > 1 ? kBlockRows<true> : kBlockRows<false>;
    const int64_t blocks = ceiling(rows, most), size = rows / blocks, longer = rows % blocks;
    int64_t m = 0;
    const auto run = [&](int64_t count, int size_of_block) {
      a.blocks = count;
      for (int p = 0; p < 2; ++p) a.part[p] = part[p] + m * a.part_row;
      a.z = z + m * a.z_row;
      a.y = y + m * a.y_row;
      if (share != nullptr) a.share = share + m;
      if (vectors == 1) right_tile_of_rows<S, C, form, kSplit, 1>(a, size_of_block, Most{});
      if (vectors == 2) right_tile_of_rows<S, C, form, kSplit, 2>(a, size_of_block, Few{});
      if (vectors == 3) right_tile_of_rows<S, C, form, kSplit, kBlockColumns<kSplit>>(a, size_of_block, Few{});
      m += count * size_of_block;
    };
    if (longer > 0) run(longer, int(size + 1));
    run(blocks - longer, int(size));
    a.column += vectors * kL;
  }
}

template <class S, class C>
void right_product(RightArgs<S, C>& a, int64_t rows) {
  if (a.panel->split) {
    if (a.panel->form == Form::kDense) return right_product_as<S, C, Form::kDense, true>(a, rows);
    if (a.panel->form == Form::kHalfIn) return right_product_as<S, C, Form::kHalfIn, true>(a, rows);
    return right_product_as<S, C, Form::kHalfOut, true>(a, rows);
  }
  if (a.panel->form == Form::kDense) return right_product_as<S, C, Form::kDense, false>(a, rows);
  if (a.panel->form == Form::kHalfIn) return right_product_as<S, C, Form::kHalfIn, false>(a, rows);
  return right_product_as<S, C, Form::kHalfOut, false>(a, rows);
}

// Sums and differences of the halves of `rows` rows: out[row][part][half_row].
template <class C>
void fold(const C* z, int64_t z_row, int64_t rows, int64_t width, C* out, int64_t half_row) {
  const int64_t half = width / 2;
  for (int64_t r = 0; r < rows; ++r) {
    const C* left = z + r * z_row;
    C* sums = out + 2 * r * half_row;
    for (int64_t k = 0; k < half; k += kLanes<C>) {
      const Vec<C> a = load(left + k), b = load(left + half + k);
      store(sums + k, a + b);
      store(sums + half_row + k, a - b);
    }
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
