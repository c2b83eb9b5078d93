// The tables of separable2d's kernel, made once for a pair of factors: numbers in the order in which lanes take them.
#pragma once

#include <cmath>
#include <vector>

#include "separable2d_plan.h"

namespace alias_ops::cuda {

// One pair of factors in float64, [out][in] each, of square maps. ``copied``: of a halved axis, what its even samples
// are multiplied by. The second term (out_h out_w^T) (in_h^T x in_w) is left out where in_h is null.
struct SeparableFactors {
  const double *left, *right;
  double copied_left, copied_right;
  const double *in_h, *in_w, *out_h, *out_w;
};

// From numbers one after the other: left and right, the constants of the copied samples of left and right, whether
// there is a second term, then its in_h, in_w, out_h, out_w.
inline SeparableFactors separable_factors(const SeparablePlan& p, const double* numbers) {
  const int area = p.in * p.out;
  const double *constants = numbers + 2 * area, *vectors = constants + 3;
  SeparableFactors f{numbers, numbers + area, constants[0], constants[1], nullptr, nullptr, nullptr, nullptr};
  if (constants[2] != 0) {
    f.in_h = vectors, f.in_w = vectors + p.in, f.out_h = vectors + 2 * p.in, f.out_w = vectors + 2 * p.in + p.out;
  }
  return f;
}

// Rows of results and columns of samples that a table's row and column stand for.
inline double factor_at(const SeparablePlan& p, const double* factor, int result, int sample) {
  const int row = p.form == Form::kHalfOut ? 2 * result + 1 : result;
  return result < p.results() && sample < p.in ? factor[row * p.in + sample] : 0.0;
}

// The power of two that the right table is divided by: then no result of the first product exceeds the largest sample.
inline int separable_exponent(const SeparablePlan& p, const SeparableFactors& f) {
  double largest = 0;
  for (int r = 0; r < p.out; ++r) {
    double sum = 0;
    for (int c = 0; c < p.in; ++c) sum += std::fabs(f.right[r * p.in + c]);
    largest = std::fmax(largest, sum);
  }
  int exponent = 0;
  if (largest > 0 && std::isfinite(largest)) std::frexp(largest, &exponent);
  return exponent;
}

// ``made`` has p.table_bytes() bytes.
template <class T>
inline void make_separable_tables(const SeparablePlan& p, const SeparableFactors& f, char* made) {
  const int exponent = separable_exponent(p, f);
  std::vector<T> numbers;
  numbers.reserve((p.right_bytes() + p.left_bytes()) / sizeof(T));
  for (int u = 0; u < p.right_units; ++u) {
    for (int n = 0; n < p.right_tiles; ++n) {
      for (int l = 0; l < 32; ++l) {
        for (int i = 0; i < 4; ++i) {
          const double value = factor_at(p, f.right, right_result(p.form, n, l / 4), right_column(p.form, u, l % 4, i));
          numbers.push_back(from_float<T>(float(std::ldexp(value, -exponent))));
        }
      }
    }
  }
  for (int m = 0; m < p.left_tiles; ++m) {
    for (int u = 0; u < p.left_units; ++u) {
      for (int l = 0; l < 32; ++l) {
        for (int place = 0; place < 8; ++place) {
          // float: four of the upper row, four of the lower one; pairs of 16 bits: two of each in turn.
          const int r = sizeof(T) == 4 ? place / 4 : place / 2 % 2;
          const int i = sizeof(T) == 4 ? place % 4 : place / 4 * 2 + place % 2;
          const int k = left_inner(u, l % 4, i), sample = p.form == Form::kHalfIn ? 2 * k + 1 : k;
          const double value = factor_at(p, f.left, 16 * m + l / 4 + 8 * r, sample);
          numbers.push_back(from_float<T>(float(std::ldexp(value, exponent))));
        }
      }
    }
  }
  std::memcpy(made, numbers.data(), numbers.size() * sizeof(T));

  std::vector<float> vectors((p.table_bytes() - p.vectors_at()) / 4);
  vectors[0] = float(std::ldexp(f.copied_right, -exponent));
  vectors[1] = float(std::ldexp(f.copied_left, exponent));
  vectors[2] = f.in_h != nullptr;
  if (f.in_h != nullptr) {
    for (int place = 0; place < 16 * p.right_units; ++place) {
      const int column = right_column(p.form, place / 16, place / 4 % 4, place % 4);
      vectors[p.in_w() + place] = column < p.in ? float(f.in_w[column]) : 0.0f;
    }
    for (int i = 0; i < p.in; ++i) vectors[p.in_h() + i] = float(f.in_h[i]);
    for (int i = 0; i < p.out; ++i) {
      vectors[p.out_h() + i] = float(f.out_h[i]), vectors[p.out_w() + i] = float(f.out_w[i]);
    }
  }
  std::memcpy(made + p.vectors_at(), vectors.data(), vectors.size() * 4);
}

}  // namespace alias_ops::cuda
