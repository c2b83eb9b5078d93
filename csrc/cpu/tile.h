// The register tile of the measures' transforms: rows of broadcast coefficients times columns of vectors.
#pragma once

#include <cstddef>

#include "ahead.h"
#include "buffer.h"
#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Tile sides. rows * columns accumulators, one row of loads and a broadcast must fit in the registers.
inline constexpr int kTileColumns = 3;
inline constexpr int kTileRows = kRegisters == 32 ? 8 : 4;

// y[r][v] (+)= sum_k coefficient[k][r] * x[k][v] for a tile of R rows and V vectors.
template <class C>
struct TileArgs {
  const C* coefficients;  // [inner][R], packed
  int64_t inner;
  const C* x;
  int64_t x_inner_step, x_vector_step;
  C* y;
  int64_t y_row_step, y_vector_step;
  bool accumulate;
};

template <class C, int R, int V>
inline void tile(const TileArgs<C>& a) {
  Vec<C> sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      sum[r][v] = a.accumulate ? load(a.y + r * a.y_row_step + v * a.y_vector_step) : Vec<C>{};
    }
  }
  const C* coefficient = a.coefficients;
  const C* x = a.x;
  for (int64_t k = 0; k < a.inner; ++k) {
    Vec<C> column[V];
    for (int v = 0; v < V; ++v) column[v] = load(x + v * a.x_vector_step);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sum[r][v] += coefficient[r] * column[v];
    }
    coefficient += R;
    x += a.x_inner_step;
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(a.y + r * a.y_row_step + v * a.y_vector_step, sum[r][v]);
  }
}

template <class C>
using Tile = void (*)(const TileArgs<C>&);

template <class C, int V, size_t... R>
inline Tile<C> tile_of_rows(int rows, std::index_sequence<R...>) {
  static constexpr Tile<C> table[] = {&tile<C, int(R) + 1, V>...};
  return table[rows - 1];
}

template <class C>
inline Tile<C> tile_of(int rows, int vectors) {
  using Rows = std::make_index_sequence<kTileRows>;
  switch (vectors) {
    case 1:
      return tile_of_rows<C, 1>(rows, Rows{});
    case 2:
      return tile_of_rows<C, 2>(rows, Rows{});
    default:
      return tile_of_rows<C, 3>(rows, Rows{});
  }
}

// A coefficient matrix cut into blocks of at most kTileRows rows, each packed [inner][rows of the block].
template <class C>
class PackedRows {
 public:
  PackedRows() = default;
  // element(r, k) -> coefficient
  template <class Element>
  PackedRows(int64_t rows, int64_t inner, Element element) : rows_(rows), inner_(inner), values_(rows * inner) {
    C* out = values_.data();
    for (int64_t r = 0; r < rows; r += block_rows(r)) {
      for (int64_t k = 0; k < inner; ++k) {
        for (int64_t i = 0; i < block_rows(r); ++i) *out++ = C(element(r + i, k));
      }
    }
  }
  int64_t rows() const { return rows_; }
  int64_t inner() const { return inner_; }
  const C* block(int64_t row) const { return values_.data() + row * inner_; }
  // Blocks of nearly equal height: a short last block would starve the multiply-add units.
  int64_t block_rows(int64_t row) const {
    const int64_t blocks = (rows_ + kTileRows - 1) / kTileRows;
    const int64_t size = rows_ / blocks, longer = rows_ % blocks;
    return row < longer * (size + 1) ? size + 1 : size;
  }

 private:
  int64_t rows_ = 0, inner_ = 0;
  Buffer<C> values_;
};

// Rows of `packed` times a panel x[inner][vectors] (steps in elements).
template <class C>
struct Panel {
  const C* x;
  int64_t x_inner_step, x_vector_step;
  C* y;
  int64_t y_row_step, y_vector_step;
  int64_t vectors;
  bool accumulate = false;
  Ahead* ahead = nullptr;  // what to ask for meanwhile
};

// Vectors of the next tile, of those that are left: 4 go as 2 + 2, not 3 + 1.
inline int tile_width(int64_t left) { return int(left == 4 ? 2 : left < kTileColumns ? left : kTileColumns); }

template <class C>
inline void multiply(const PackedRows<C>& packed, const Panel<C>& p) {
  for (int64_t v = 0; v < p.vectors;) {
    const int width = tile_width(p.vectors - v);
    for (int64_t r = 0; r < packed.rows(); r += packed.block_rows(r)) {
      const int rows = int(packed.block_rows(r));
      tile_of<C>(rows,
                 width)({packed.block(r), packed.inner(), p.x + v * p.x_vector_step, p.x_inner_step, p.x_vector_step,
                         p.y + r * p.y_row_step + v * p.y_vector_step, p.y_row_step, p.y_vector_step, p.accumulate});
      if (p.ahead != nullptr) p.ahead->tile();
    }
    v += width;
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
