// The register tile of separable2d: rows of broadcast coefficients times columns of vectors, with the radix-2
// step of a split axis inside it.
//
// An axis of even sizes whose matrix is [[P, Q], [Q, P]] (a pooling's is: shift a periodic signal by half its
// length and the output shifts by half of its own) needs half of the multiplications: with s = top + bottom
// and d = top - bottom of the input, S = (P + Q) / 2 and D = (P - Q) / 2, the output is S s + D d on top and
// S s - D d below. Sums and differences never leave the registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ahead.h"
#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Both parts' accumulators, a row of loads and a broadcast must fit in the registers.
template <bool kSplit>
inline constexpr int kBlockRows = (kRegisters == 32 ? 8 : 4) / (kSplit ? 2 : 1);
template <bool kSplit>
inline constexpr int kBlockColumns = kSplit && kRegisters < 32 ? 2 : 3;

// Rows r of the upper half of y, and where the axis is split those of the lower half, `y_half` further on.
template <class C>
struct BlockArgs {
  const C* coefficients;  // [inner][S or everything, D][rows], packed
  int64_t inner;
  const C* x;
  int64_t x_inner_step, x_vector_step, x_half;
  C* y;
  int64_t y_row_step, y_vector_step, y_half;
  // What the rows add, if present: copy_scale[r] * copy[r].
  const C* copy = nullptr;
  const C* copy_scale = nullptr;
  int64_t copy_row_step = 0, copy_vector_step = 0, copy_half = 0, copy_scale_half = 0;
  // And outer_scale[r] * outer.
  const C* outer = nullptr;
  const C* outer_scale = nullptr;
  int64_t outer_vector_step = 0, outer_scale_half = 0;
  C* taken = nullptr;      // where a mirrored axis puts what it takes from every vector: of the rank-1 term, in_h^T x
  Ahead* ahead = nullptr;  // what to ask for meanwhile
};

// What S and D of a split axis come to: S s + D d on top, S s - D d below.
template <class C, int R, int V>
inline void join_halves(Vec<C> (&sum)[2][R][V]) {
  ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
    ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
      const Vec<C> difference = sum[1][r][v];
      sum[1][r][v] = sum[0][r][v] - difference;
      sum[0][r][v] += difference;
    }
  }
}

template <class C, bool kSplit, int R, int V>
void block(const BlockArgs<C>& a) {
  constexpr int kParts = kSplit ? 2 : 1;
  Vec<C> sum[kParts][R][V] = {};
  const C* coefficient = a.coefficients;
  const C* x = a.x;
  const int64_t x_inner_step = a.x_inner_step, x_vector_step = a.x_vector_step, x_half = a.x_half;
  for (int64_t k = 0; k < a.inner; ++k) {
    Vec<C> column[kParts][V];
    ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
      column[0][v] = load(x + v * x_vector_step);
      if constexpr (kSplit) {
        const Vec<C> bottom = load(x + x_half + v * x_vector_step);
        column[1][v] = column[0][v] - bottom;
        column[0][v] += bottom;
      }
    }
    ALIAS_OPS_UNROLL for (int p = 0; p < kParts; ++p) {
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) sum[p][r][v] += coefficient[p * R + r] * column[p][v];
      }
    }
    coefficient += kParts * R;
    x += x_inner_step;
  }
  if constexpr (kSplit) join_halves<C>(sum);
  if (a.copy != nullptr) {
    const int64_t row_step = a.copy_row_step, vector_step = a.copy_vector_step;
    ALIAS_OPS_UNROLL for (int half = 0; half < kParts; ++half) {
      const C *copy = a.copy + half * a.copy_half, *scale = a.copy_scale + half * a.copy_scale_half;
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
          sum[half][r][v] += scale[r] * load(copy + r * row_step + v * vector_step);
        }
      }
    }
  }
  if (a.outer != nullptr) {
    ALIAS_OPS_UNROLL for (int half = 0; half < kParts; ++half) {
      const C* scale = a.outer_scale + half * a.outer_scale_half;
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
        const Vec<C> outer = load(a.outer + v * a.outer_vector_step);
        ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) sum[half][r][v] += scale[r] * outer;
      }
    }
  }
  const int64_t row_step = a.y_row_step, vector_step = a.y_vector_step;
  ALIAS_OPS_UNROLL for (int half = 0; half < kParts; ++half) {
    C* y = a.y + half * a.y_half;
    ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) store(y + r * row_step + v * vector_step, sum[half][r][v]);
    }
  }
}

template <class C>
using Block = void (*)(const BlockArgs<C>&);

template <class C, bool kSplit, int V, size_t... R>
inline Block<C> block_of_rows(int rows, std::index_sequence<R...>) {
  static constexpr Block<C> table[] = {&block<C, kSplit, int(R) + 1, V>...};
  return table[rows - 1];
}

template <class C, bool kSplit>
inline Block<C> block_of(int rows, int vectors) {
  using Rows = std::make_index_sequence<kBlockRows<kSplit>>;
  if (vectors == 1) return block_of_rows<C, kSplit, 1>(rows, Rows{});
  if (vectors == 2) return block_of_rows<C, kSplit, 2>(rows, Rows{});
  return block_of_rows<C, kSplit, kBlockColumns<kSplit>>(rows, Rows{});
}

// Columns of a tile where `left` vectors are still to do: 4 go as 2 + 2, not 3 + 1.
template <bool kSplit>
inline int block_columns(int64_t left) {
  return int(left == 4 ? 2 : left < kBlockColumns<kSplit> ? left : kBlockColumns<kSplit>);
}

// A coefficient matrix cut into blocks of nearly equal height: a short last one would starve the multipliers.
template <class C>
class Blocks {
 public:
  Blocks() = default;
  // element(part, r, k) -> coefficient; blocks of at most `most` rows
  template <class Element>
  Blocks(int parts, int64_t most, int64_t rows, int64_t inner, Element element)
      : parts_(parts), rows_(rows), inner_(inner) {
    const int64_t blocks = ceiling(rows, most);
    if (blocks > 0) size_ = rows / blocks, first_shorter_ = rows % blocks * (size_ + 1);
    values_.reserve(parts * rows * inner);
    for (int64_t r = 0; r < rows; r += block_rows(r)) {
      for (int64_t k = 0; k < inner; ++k) {
        for (int part = 0; part < parts; ++part) {
          for (int64_t i = 0; i < block_rows(r); ++i) values_.push_back(C(element(part, r + i, k)));
        }
      }
    }
  }
  bool split() const { return parts_ == 2; }
  int64_t rows() const { return rows_; }
  int64_t inner() const { return inner_; }
  const C* block(int64_t row) const { return values_.data() + row * inner_ * parts_; }
  int64_t block_rows(int64_t row) const { return row < first_shorter_ ? size_ + 1 : size_; }

 private:
  int parts_ = 1;
  int64_t rows_ = 0, inner_ = 0, size_ = 0, first_shorter_ = 0;
  std::vector<C> values_;
};

template <class C, bool kSplit>
inline void multiply_as(const Blocks<C>& blocks, BlockArgs<C>& a, int64_t vectors) {
  // Written over from tile to tile, never copied whole: wide loads of fields just stored one by one would stall.
  const C *x = a.x, *copy = a.copy, *copy_scale = a.copy_scale, *outer = a.outer, *outer_scale = a.outer_scale;
  C* y = a.y;
  a.inner = blocks.inner();
  for (int64_t v = 0; v < vectors;) {
    const int columns = block_columns<kSplit>(vectors - v);
    a.x = x + v * a.x_vector_step;
    if (outer != nullptr) a.outer = outer + v * a.outer_vector_step;
    for (int64_t r = 0; r < blocks.rows(); r += blocks.block_rows(r)) {
      a.coefficients = blocks.block(r);
      a.y = y + r * a.y_row_step + v * a.y_vector_step;
      if (copy != nullptr) {
        a.copy = copy + r * a.copy_row_step + v * a.copy_vector_step;
        a.copy_scale = copy_scale + r;
      }
      if (outer != nullptr) a.outer_scale = outer_scale + r;
      a.ahead->tile();
      block_of<C, kSplit>(int(blocks.block_rows(r)), columns)(a);
    }
    v += columns;
  }
}

template <class C, class Element>
inline Blocks<C> blocks_of(bool split, int64_t rows, int64_t inner, Element element) {
  return Blocks<C>(split ? 2 : 1, split ? kBlockRows<true> : kBlockRows<false>, rows, inner, element);
}

// `blocks` times a panel of vectors; writes over the arguments.
template <class C>
inline void multiply(const Blocks<C>& blocks, BlockArgs<C>& panel, int64_t vectors) {
  if (blocks.split()) {
    multiply_as<C, true>(blocks, panel, vectors);
  } else {
    multiply_as<C, false>(blocks, panel, vectors);
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
