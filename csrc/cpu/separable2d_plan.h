// What the factors of separable2d allow: half-band axes, a second term of rank 1. Read off the matrices,
// so no caller can promise something untrue.
#pragma once

#include <cmath>
#include <vector>

#include "tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

// kHalfIn: of the even input samples, output m needs number 2m alone. kHalfOut is its transpose.
enum class Form { kDense, kHalfIn, kHalfOut };

// A second term of rank 1: (out_h out_w^T) times the number in_h^T x in_w.
template <class C>
struct Outer {
  bool present = false;
  std::vector<C> in_h, in_w, out_h, out_w;
};

struct MatrixView {
  const double* data;
  int64_t rows, columns, row_stride, column_stride;
  MatrixView(const Factor& f, int64_t term, int64_t out, int64_t in)
      : data(f.data + term * f.term_stride),
        rows(out),
        columns(in),
        row_stride(f.row_stride),
        column_stride(f.column_stride) {}
  double operator()(int64_t r, int64_t c) const { return data[r * row_stride + c * column_stride]; }
};

inline bool is_half_in(const MatrixView& a) {
  if (a.columns != 2 * a.rows) return false;
  for (int64_t m = 0; m < a.rows; ++m) {
    for (int64_t e = 0; e < a.rows; ++e) {
      if (e != m && a(m, 2 * e) != 0) return false;
    }
  }
  return true;
}

inline bool is_half_out(const MatrixView& a) {
  if (a.rows != 2 * a.columns) return false;
  for (int64_t e = 0; e < a.columns; ++e) {
    for (int64_t m = 0; m < a.columns; ++m) {
      if (e != m && a(2 * e, m) != 0) return false;
    }
  }
  return true;
}

inline double largest_of(const MatrixView& a) {
  double largest = 0;
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) largest = std::fmax(largest, std::abs(a(r, c)));
  }
  return largest;
}

// a = u v^T to rounding? Pivot on the largest element. `scale` is the size of the term that a is added to:
// what is noise beside that one is noise here.
inline bool rank_one(const MatrixView& a, double scale, std::vector<double>& u, std::vector<double>& v) {
  int64_t row = 0, column = 0;
  double largest = 0;
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) {
      if (!std::isfinite(a(r, c))) return false;
      if (std::abs(a(r, c)) > largest) largest = std::abs(a(r, c)), row = r, column = c;
    }
  }
  u.assign(a.rows, 0);
  v.assign(a.columns, 0);
  if (largest == 0) return true;
  for (int64_t r = 0; r < a.rows; ++r) u[r] = a(r, column) / a(row, column);
  for (int64_t c = 0; c < a.columns; ++c) v[c] = a(row, c);
  for (int64_t r = 0; r < a.rows; ++r) {
    for (int64_t c = 0; c < a.columns; ++c) {
      if (std::abs(a(r, c) - u[r] * v[c]) > 1e-13 * std::fmax(largest, scale)) return false;
    }
  }
  return true;
}

inline bool zero_at_even(const std::vector<double>& v) {
  for (size_t i = 0; i < v.size(); i += 2) {
    if (v[i] != 0) return false;
  }
  return true;
}

template <class C>
struct Axis {
  Form form = Form::kDense;
  int64_t in = 0, out = 0;
  // Dense coefficients: rows are outputs (with every term's rows side by side on the left axis), and
  // the vector that meets the rank-1 term, if any, is the last row (left) or the last column (right).
  PackedRows<C> packed;
  std::vector<C> scale;  // of the copied samples, half forms only

  int64_t dense_rows() const { return form == Form::kHalfOut ? out / 2 : out; }
  int64_t dense_columns() const { return form == Form::kHalfIn ? in / 2 : in; }
};

template <class C>
struct Plan {
  int64_t terms;  // dense terms: 1, or 2 where the second has no structure
  Axis<C> left, right;
  Outer<C> outer;
};

template <class C>
inline std::vector<C> cast(const std::vector<double>& v) {
  return std::vector<C>(v.begin(), v.end());
}

inline Form form_of(const MatrixView& a, const std::vector<double>& in, const std::vector<double>& out) {
  if (is_half_in(a) && zero_at_even(in)) return Form::kHalfIn;
  if (is_half_out(a) && zero_at_even(out)) return Form::kHalfOut;
  return Form::kDense;
}

template <class C>
inline void fill_scale(Axis<C>& axis, const MatrixView& a) {
  if (axis.form == Form::kHalfIn) {
    for (int64_t m = 0; m < a.rows; ++m) axis.scale.push_back(C(a(m, 2 * m)));
  } else if (axis.form == Form::kHalfOut) {
    for (int64_t m = 0; m < a.columns; ++m) axis.scale.push_back(C(a(2 * m, m)));
  }
}

template <class C>
inline Plan<C> make_plan(const Separable2dArgs& a) {
  const int64_t height = a.x.height, width = a.x.width;
  const MatrixView left(a.left, 0, a.out_height, height), right(a.right, 0, a.out_width, width);
  Plan<C> plan;
  plan.terms = a.terms;
  std::vector<double> out_h, in_h, out_w, in_w;
  if (a.terms == 2) {
    const MatrixView left_2(a.left, 1, a.out_height, height), right_2(a.right, 1, a.out_width, width);
    if (rank_one(left_2, largest_of(left), out_h, in_h) && rank_one(right_2, largest_of(right), out_w, in_w)) {
      plan.terms = 1;
      plan.outer = {true, cast<C>(in_h), cast<C>(in_w), cast<C>(out_h), cast<C>(out_w)};
    }
  }
  const int64_t extra = plan.outer.present ? 1 : 0, terms = plan.terms;
  auto& l = plan.left;
  auto& r = plan.right;
  l.in = height, l.out = a.out_height, r.in = width, r.out = a.out_width;
  if (terms == 1) {
    l.form = form_of(left, in_h, {});
    r.form = form_of(right, in_w, out_w);
  }
  fill_scale(l, left);
  fill_scale(r, right);
  // Dense rows and columns of the half forms are the odd ones.
  const auto odd_row = [](Form f, int64_t i) { return f == Form::kHalfOut ? 2 * i + 1 : i; };
  const auto odd_column = [](Form f, int64_t i) { return f == Form::kHalfIn ? 2 * i + 1 : i; };
  const int64_t left_rows = l.dense_rows() * terms;
  l.packed = PackedRows<C>(left_rows + extra, l.dense_columns(), [&](int64_t row, int64_t k) {
    const int64_t column = odd_column(l.form, k);
    if (row == left_rows) return in_h[column];
    return MatrixView(a.left, row % terms, left.rows, left.columns)(odd_row(l.form, row / terms), column);
  });
  const int64_t right_columns = r.dense_columns() * terms;
  r.packed = PackedRows<C>(r.dense_rows(), right_columns + extra, [&](int64_t row, int64_t k) {
    const int64_t target = odd_row(r.form, row);
    if (k == right_columns) return out_w[target];
    const int64_t column = odd_column(r.form, k % r.dense_columns());
    return MatrixView(a.right, k / r.dense_columns(), right.rows, right.columns)(target, column);
  });
  return plan;
}

}  // namespace alias_ops::ALIAS_OPS_ISA
