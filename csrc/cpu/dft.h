// Small dense real DFTs of groups of maps, maps in lanes, and their adjoints.
//
// A real axis' spectrum is kept as real pairs: row 0 is the cosine sum of frequency 0, rows 2f - 1 and 2f are the
// minus-sine and cosine sums of frequency f. Samples k and length - k share cosines, and sines up to their sign: sums
// of the two meet the cosines, differences the sines, which is half of the multiplications.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "buffer.h"
#include "tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

inline int64_t pair_rows(int64_t frequencies) { return 2 * frequencies - 1; }
inline bool is_sine(int64_t row) { return row % 2 == 1; }

inline double pair_element(const DftTable& table, int64_t row, int64_t k) {
  const int64_t f = (row + 1) / 2, part = is_sine(row) ? 1 : 0;
  return table.data[(part * table.frequencies + f) * table.length + k];
}

// Not so where a map that was replicated at its end has the last sample's column stand for several.
inline bool is_mirrored(const DftTable& table) {
  double most = 0, off = 0;
  for (int64_t row = 0; row < pair_rows(table.frequencies); ++row) {
    for (int64_t k = 1; k <= table.length / 2; ++k) {
      const double value = pair_element(table, row, k), mirrored = pair_element(table, row, table.length - k);
      most = std::max(most, std::abs(value));
      off = std::max(off, std::abs(is_sine(row) ? value + mirrored : value - mirrored));
    }
  }
  return off <= 1e-14 * most;
}

// One axis, packed for tiles: the pairs of its first `frequencies` from samples, or samples from pairs, the adjoint.
// `sine` and `factor`: times the sines, and times everything.
template <class C>
class DftAxis {
 public:
  DftAxis() = default;
  DftAxis(const DftTable& t, int64_t frequencies, bool adjoint, double sine, double factor)
      : adjoint_(adjoint),
        pairs_(pair_rows(frequencies)),
        length_(t.length),
        mirrored_(t.length >= kShortest && is_mirrored(t)) {
    const auto element = [&](int64_t row, int64_t k) {
      return factor * (is_sine(row) ? sine : 1) * pair_element(t, row, k);
    };
    const auto pack = [&](int64_t rows, int64_t inner, auto at) {
      if (adjoint) return PackedRows<C>(inner, rows, [&](int64_t k, int64_t row) { return at(row, k); });
      return PackedRows<C>(rows, inner, at);
    };
    if (!mirrored_) {
      cosines_ = pack(pairs_, length_, element);
      return;
    }
    cosines_ = pack(frequencies, sums(), [&](int64_t f, int64_t k) { return element(2 * f, k); });
    sines_ = pack(frequencies - 1, differences(), [&](int64_t f, int64_t k) { return element(2 * f + 1, k + 1); });
  }

  int64_t rows() const { return adjoint_ ? length_ : pairs_; }
  int64_t inner() const { return adjoint_ ? pairs_ : length_; }

  void multiply(const Panel<C>& p) const {
    if (!mirrored_) return ALIAS_OPS_ISA::multiply(cosines_, p);
    Buffer<C> folded(length_ * kTileColumns * kL);
    for (int64_t v = 0; v < p.vectors;) {
      const int width = tile_width(p.vectors - v);
      Panel<C> q = p;
      q.x += v * p.x_vector_step, q.y += v * p.y_vector_step, q.vectors = width;
      switch (width) {
        case 1:
          panel<1>(q, folded.data());
          break;
        case 2:
          panel<2>(q, folded.data());
          break;
        default:
          panel<3>(q, folded.data());
      }
      v += width;
    }
  }

 private:
  static constexpr int kL = kLanes<C>;
  static constexpr int64_t kShortest = 12;  // below, there is less to save than there is to add

  // Of two samples each, but for the first and the middle one, which are their own mirror images.
  int64_t sums() const { return length_ / 2 + 1; }
  int64_t differences() const { return (length_ - 1) / 2; }

  // Sums, then differences, [sample][V][lanes].
  template <int V>
  void panel(const Panel<C>& p, C* even) const {
    constexpr int64_t kStep = V * kL;
    C* odd = even + sums() * kStep;
    Panel<C> cosines = p, sines = p;
    if (adjoint_) {
      cosines.x_inner_step *= 2, cosines.y = even;
      sines.x += p.x_inner_step, sines.x_inner_step *= 2, sines.y = odd;
      for (Panel<C>* half : {&cosines, &sines}) {
        half->y_row_step = kStep, half->y_vector_step = kL, half->accumulate = false;
      }
      both(cosines, sines);
      p.accumulate ? unfold<V, true>(p, even, odd) : unfold<V, false>(p, even, odd);
      return;
    }
    fold<V>(p, even, odd);
    cosines.x = even, cosines.y_row_step *= 2;
    sines.x = odd, sines.y += p.y_row_step, sines.y_row_step *= 2;
    for (Panel<C>* half : {&cosines, &sines}) half->x_inner_step = kStep, half->x_vector_step = kL;
    both(cosines, sines);
  }
  void both(const Panel<C>& cosines, const Panel<C>& sines) const {
    ALIAS_OPS_ISA::multiply(cosines_, cosines);
    ALIAS_OPS_ISA::multiply(sines_, sines);
  }

  template <int V>
  void fold(const Panel<C>& p, C* even, C* odd) const {
    constexpr int64_t kStep = V * kL;
    const C *from = p.x, *back = p.x + (length_ - 1) * p.x_inner_step;
    const auto single = [&](const C* x, C* to) {
      for (int v = 0; v < V; ++v) store(to + v * kL, load(x + v * p.x_vector_step));
    };
    single(from, even);
    for (int64_t k = 1; k <= differences(); ++k) {
      from += p.x_inner_step, even += kStep;
      for (int v = 0; v < V; ++v) {
        const Vec<C> a = load(from + v * p.x_vector_step), b = load(back + v * p.x_vector_step);
        store(even + v * kL, a + b);
        store(odd + v * kL, a - b);
      }
      back -= p.x_inner_step, odd += kStep;
    }
    if (length_ % 2 == 0) single(from + p.x_inner_step, even + kStep);
  }

  template <int V, bool kAdd>
  void unfold(const Panel<C>& p, const C* even, const C* odd) const {
    constexpr int64_t kStep = V * kL;
    C *to = p.y, *back = p.y + (length_ - 1) * p.y_row_step;
    const auto put = [](C* y, Vec<C> value) { store(y, kAdd ? load(y) + value : value); };
    const auto single = [&](const C* x, C* y) {
      for (int v = 0; v < V; ++v) put(y + v * p.y_vector_step, load(x + v * kL));
    };
    single(even, to);
    for (int64_t k = 1; k <= differences(); ++k) {
      to += p.y_row_step, even += kStep;
      for (int v = 0; v < V; ++v) {
        const Vec<C> a = load(even + v * kL), b = load(odd + v * kL);
        put(to + v * p.y_vector_step, a + b);
        put(back + v * p.y_vector_step, a - b);
      }
      back -= p.y_row_step, odd += kStep;
    }
    if (length_ % 2 == 0) single(even + kStep, to + p.y_row_step);
  }

  bool adjoint_ = false;
  int64_t pairs_ = 0, length_ = 0;
  bool mirrored_ = false;
  PackedRows<C> cosines_, sines_;  // all pairs in the first where they are not mirrored
};

template <class C>
inline void multiply(const DftAxis<C>& axis, const Panel<C>& p) {
  axis.multiply(p);
}

template <class C>
inline DftAxis<C> pack_dft(const DftTable& table) {
  return DftAxis<C>(table, table.frequencies, false, 1, 1);
}
// The way back from pairs to samples.
template <class C>
inline DftAxis<C> pack_dft_adjoint(const DftTable& table, double factor = 1) {
  return DftAxis<C>(table, table.frequencies, true, 1, factor);
}

// Pairs [rows][columns][lanes] of maps [height][width][lanes] (steps in elements), or the way back; `along` holds
// rows x width vectors between the two products.
template <class Rows, class Columns, class C>
inline void transform(const Rows& rows, const Columns& columns, const C* x, int64_t row_step, int64_t column_step,
                      C* along, C* pairs, Ahead* ahead = nullptr) {
  constexpr int kL = kLanes<C>;
  const int64_t width = columns.inner();
  multiply(rows, Panel<C>{x, row_step, column_step, along, width * kL, kL, width, false, ahead});
  multiply(columns, Panel<C>{along, kL, width * kL, pairs, kL, columns.rows() * kL, rows.rows(), false, ahead});
}

}  // namespace alias_ops::ALIAS_OPS_ISA
