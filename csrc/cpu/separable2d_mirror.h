// Whether a matrix looks the same from both ends: A[r'][k'] = A[r][k], where a prime turns an index around.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "simd.h"

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

  // Nothing turned around: every row and column for itself.
  static Mirror none(int64_t rows, int64_t columns) {
    Mirror m;
    for (int64_t r = 0; r < rows; ++r) m.rows.push_back({r, -1});
    for (int64_t c = 0; c < columns; ++c) m.columns.push_back({c, -1});
    return m;
  }

  // Of a number that belongs to each dense column, the coefficient of a leaf's column c: of V of a part, or of U.
  template <class Coefficient>
  double of_leaf(int part, bool of_v, int64_t c, Coefficient a) const {
    const auto [k, turned] = columns[c];
    const int64_t alone = int64_t(columns.size()) - column_pairs;
    if (turned < 0) return odd[part * alone + c - column_pairs] == of_v ? a(part, k) : 0.0;
    return 0.5 * (of_v ? a(part, k) - a(part, turned) : a(part, k) + a(part, turned));
  }
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

}  // namespace alias_ops::ALIAS_OPS_ISA
