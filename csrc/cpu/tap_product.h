// c[row][vector] (+)= sum_i a[i][row] * b[i][vector]: the two large products of a convolution's gradients. One of the
// factors comes in broadcasts from maps with their channels in lanes, [channels / lanes][pixel][lanes]: with pixels as
// the inner index its rows are lanes, with channels as the inner index they are pixels.
#pragma once

#include <algorithm>
#include <cstddef>

#include "simd.h"
#include "tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

enum class Inner { kPixels, kChannels };

template <class C>
struct TapProduct {
  const C* a;
  int64_t a_outer_step;  // from one block of inner indices to the next
  int64_t outer, inner;  // blocks, and indices in each
  const C* b;
  int64_t b_inner_step, b_vector_step;
  C* c;
  int64_t c_row_step, c_vector_step;
  bool accumulate;
};

template <class C, Inner kInner, int R, int V>
void product_tile(const TapProduct<C>& p) {
  constexpr int kRowStep = kInner == Inner::kPixels ? 1 : kLanes<C>;
  constexpr int kInnerStep = kInner == Inner::kPixels ? kLanes<C> : 1;
  Vec<C> sum[R][V];
  const int64_t c_row_step = p.c_row_step, c_vector_step = p.c_vector_step;
  ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
    ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
      sum[r][v] = p.accumulate ? load(p.c + r * c_row_step + v * c_vector_step) : Vec<C>{};
    }
  }
  const C* b = p.b;
  const int64_t b_inner_step = p.b_inner_step, b_vector_step = p.b_vector_step;
  for (int64_t o = 0; o < p.outer; ++o) {
    const C* a = p.a + o * p.a_outer_step;
    for (int64_t i = 0; i < p.inner; ++i) {
      Vec<C> column[V];
      ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) {
        column[v] = load(b + v * b_vector_step);
        keep(column[v]);
      }
      ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
        ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) sum[r][v] += a[r * kRowStep] * column[v];
      }
      a += kInnerStep;
      b += b_inner_step;
    }
  }
  ALIAS_OPS_UNROLL for (int r = 0; r < R; ++r) {
    ALIAS_OPS_UNROLL for (int v = 0; v < V; ++v) store(p.c + r * c_row_step + v * c_vector_step, sum[r][v]);
  }
}

template <class C, Inner kInner, int V, size_t... R>
inline void product_of_rows(const TapProduct<C>& p, int rows, std::index_sequence<R...>) {
  static constexpr void (*table[])(const TapProduct<C>&) = {&product_tile<C, kInner, int(R) + 1, V>...};
  table[rows - 1](p);
}

template <Inner kInner, class C>
inline void product(const TapProduct<C>& p, int rows, int vectors) {
  using Rows = std::make_index_sequence<kTileRows>;
  if (vectors == 1) return product_of_rows<C, kInner, 1>(p, rows, Rows{});
  if (vectors == 2) return product_of_rows<C, kInner, 2>(p, rows, Rows{});
  product_of_rows<C, kInner, kTileColumns>(p, rows, Rows{});
}

}  // namespace alias_ops::ALIAS_OPS_ISA
