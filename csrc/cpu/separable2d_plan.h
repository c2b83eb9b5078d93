// What the factors of separable2d allow: half-band axes, split axes, a second term of rank 1. Read off the
// matrices, so no caller can promise something untrue.
#pragma once

#include <cmath>
#include <vector>

#include "separable2d_mirrored.h"
#include "separable2d_outer.h"

namespace alias_ops::ALIAS_OPS_ISA {

// kHalfIn: of the even input samples, output m needs number 2m alone. kHalfOut is its transpose.
enum class Form { kDense, kHalfIn, kHalfOut };

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
    for (int64_t c = 0; c < a.columns; ++c) {
      if (const double value = std::abs(a(r, c)); value > largest) largest = value;
    }
  }
  return largest;
}

// [[P, Q], [Q, P]] to rounding, halves of the dense rows and columns apart too.
inline bool is_split(const MatrixView& a, Form form) {
  if (a.rows % (form == Form::kHalfOut ? 4 : 2) != 0 || a.columns % (form == Form::kHalfIn ? 4 : 2) != 0) return false;
  const int64_t rows = a.rows / 2, columns = a.columns / 2;
  const double noise = 1e-14 * largest_of(a);
  if (!std::isfinite(noise)) return false;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      // Written so that NaN and inf do not pass.
      if (!(std::abs(a(r, c) - a(r + rows, c + columns)) <= noise)) return false;
      if (!(std::abs(a(r, c + columns) - a(r + rows, c)) <= noise)) return false;
    }
  }
  return true;
}

// a = u v^T to rounding? Pivot on the largest element. `scale` is the size of the term that a is added to:
// what is noise beside that one is noise here.
inline bool rank_one(const MatrixView& a, double scale, std::vector<double>& u, std::vector<double>& v) {
  int64_t row = 0, column = 0;
  double largest = 0;
  if (!std::isfinite(scale)) return false;
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

// One axis: sizes and structure. Its dense rows are all outputs, of kHalfOut the odd ones; its dense columns
// all inputs, of kHalfIn the odd ones.
struct Axis {
  Form form = Form::kDense;
  bool split = false;
  int64_t in = 0, out = 0;

  int64_t parts() const { return split ? 2 : 1; }
  int64_t dense_rows() const { return form == Form::kHalfOut ? out / 2 : out; }
  int64_t dense_columns() const { return form == Form::kHalfIn ? in / 2 : in; }
  int64_t dense_row(int64_t i) const { return form == Form::kHalfOut ? 2 * i + 1 : i; }
  int64_t dense_column(int64_t i) const { return form == Form::kHalfIn ? 2 * i + 1 : i; }

  // Coefficient of dense row r (of the upper half, where split) and dense column k (of the left half) in S or D.
  template <class Row>
  double coefficient(int part, int64_t k, Row row) const {
    const int64_t c = dense_column(k);
    if (!split) return row(c);
    return 0.5 * (part == 0 ? row(c) + row(c + in / 2) : row(c) - row(c + in / 2));
  }
  double element(const MatrixView& a, int part, int64_t r, int64_t k) const {
    return coefficient(part, k, [&](int64_t c) { return a(dense_row(r), c); });
  }
  // How the dense rows and columns of a, of a half where split, look from their other ends.
  Mirror mirror_in(const MatrixView& a) const {
    return find_mirror(int(parts()), dense_rows() / parts(), dense_columns() / parts(), 1e-14 * largest_of(a),
                       [&](int part, int64_t r, int64_t k) { return element(a, part, r, k); });
  }
  // Factors of the copied samples.
  std::vector<double> copy_scale(const MatrixView& a) const {
    std::vector<double> scale;
    for (int64_t m = 0; form == Form::kHalfIn && m < out; ++m) scale.push_back(a(m, 2 * m));
    for (int64_t m = 0; form == Form::kHalfOut && m < in; ++m) scale.push_back(a(2 * m, m));
    return scale;
  }
  std::vector<double> at_dense_rows(const std::vector<double>& v) const {
    std::vector<double> dense;
    for (int64_t i = 0; i < dense_rows(); ++i) dense.push_back(v[dense_row(i)]);
    return dense;
  }
};

inline Axis axis_of(const MatrixView& a, const std::vector<double>& in, const std::vector<double>& out) {
  Axis axis;
  axis.in = a.columns, axis.out = a.rows;
  if (is_half_in(a) && zero_at_even(in)) {
    axis.form = Form::kHalfIn;
  } else if (is_half_out(a) && zero_at_even(out)) {
    axis.form = Form::kHalfOut;
  }
  axis.split = is_split(a, axis.form);
  return axis;
}

// The structure of a call.
struct Plan {
  int64_t terms = 1;   // dense ones: 1, or 2 where the second has no structure
  bool outer = false;  // a second term of rank 1: (out_h out_w^T) times the number in_h^T x in_w
  std::vector<double> out_h, in_h, out_w, in_w;
  Axis left, right;

  explicit Plan(const Separable2dArgs& a) : terms(a.terms) {
    const MatrixView left_1(a.left, 0, a.out_height, a.x.height), right_1(a.right, 0, a.out_width, a.x.width);
    if (terms == 2) {
      const MatrixView left_2(a.left, 1, a.out_height, a.x.height), right_2(a.right, 1, a.out_width, a.x.width);
      outer = rank_one(left_2, largest_of(left_1), out_h, in_h) && rank_one(right_2, largest_of(right_1), out_w, in_w);
      if (outer) {
        terms = 1;
      } else {
        for (std::vector<double>* v : {&out_h, &in_h, &out_w, &in_w}) v->clear();
      }
    }
    if (terms == 1) {
      left = axis_of(left_1, in_h, out_h);
      right = axis_of(right_1, in_w, out_w);
    } else {
      left.in = a.x.height, left.out = a.out_height, right.in = a.x.width, right.out = a.out_width;
    }
  }
};

// Dense rows and columns from which a mirrored axis is faster: in all where its leaves stay in registers, otherwise of
// a half where it is split; benchmarks/NOTES.md.
inline constexpr int64_t kMirrorResidentFrom = 13, kMirrorFrom = 12;

template <class C>
inline std::vector<C> cast(const std::vector<double>& v) {
  return std::vector<C>(v.begin(), v.end());
}

// An axis ready for tiles whose lanes run across it: one term, or the inner products of two side by side.
template <class C>
struct TiledAxis : Axis {
  Blocks<C> blocks;
  MirroredAxis<C> mirrored;           // in place of the blocks, where it pays
  std::vector<C> scale, outer_scale;  // of the copied samples; of the rank-1 term at the dense rows

  TiledAxis() = default;
  TiledAxis(const Axis& axis, const Factor& factor, int64_t term, int64_t terms, const std::vector<double>& in,
            const std::vector<double>& out, bool may_mirror)
      : Axis(axis) {
    const int64_t rows = dense_rows() / parts(), inner = dense_columns() / parts();
    const bool pays = MirroredAxis<C>::is_resident(parts(), ceiling(inner, 2))
                          ? std::min(dense_rows(), dense_columns()) >= kMirrorResidentFrom
                          : std::min(rows, inner) >= kMirrorFrom;
    scale = cast<C>(copy_scale(MatrixView(factor, term, axis.out, axis.in)));
    if (!out.empty()) outer_scale = cast<C>(at_dense_rows(out));
    if (may_mirror && pays) {
      const MatrixView a(factor, term, axis.out, axis.in);
      const Mirror mirror = mirror_in(a);
      if (mirror.found) {
        const auto of_dense = [&](int part, int64_t r, int64_t k) { return element(a, part, r, k); };
        const auto taken = [&](int part, int64_t k) {
          return in.empty() ? 0 : coefficient(part, k, [&](int64_t c) { return in[c]; });
        };
        mirrored = MirroredAxis<C>(
            mirror, int(parts()), axis.in / 2, axis.out / 2, of_dense, taken,
            [&](int64_t k) { return dense_column(k); }, [&](int64_t r) { return dense_row(r); });
        return;
      }
    }
    blocks = blocks_of<C>(split, rows, inner * terms, [&](int part, int64_t r, int64_t k) {
      const MatrixView a(factor, term + k / inner, axis.out, axis.in);
      return element(a, part, r, k % inner);
    });
  }
};

template <class C>
struct AxisPanel {
  const C* x;
  int64_t x_step, x_vector_step;
  C* y;
  int64_t y_step, y_vector_step;
  int64_t vectors;
  const C* outer = nullptr;  // the rank-1 term's vector, if this product adds it
  int64_t outer_vector_step = 0;
  C* scratch = nullptr;  // of a mirrored axis
  C* taken = nullptr;    // of one that takes
  Ahead* ahead = nullptr;
};

// The copied rows of kHalfOut, up to four vectors from v on; how many.
template <class C>
inline int64_t copy_rows(const TiledAxis<C>& axis, const AxisPanel<C>& p, int64_t v) {
  const auto copy = [&]<int V>(std::integral_constant<int, V>) {
    const C *x = p.x + v * p.x_vector_step, *scale = axis.scale.data();
    C* y = p.y + v * p.y_vector_step;
    const int64_t x_step = p.x_step, y_step = 2 * p.y_step, x_vector = p.x_vector_step, y_vector = p.y_vector_step;
    for (int64_t m = 0; m < axis.in; ++m) {
      ALIAS_OPS_UNROLL for (int i = 0; i < V; ++i) store(y + i * y_vector, scale[m] * load(x + i * x_vector));
      x += x_step, y += y_step;
    }
    return V;
  };
  const int64_t left = p.vectors - v;
  if (left >= 4) return copy(std::integral_constant<int, 4>());
  if (left == 3) return copy(std::integral_constant<int, 3>());
  if (left == 2) return copy(std::integral_constant<int, 2>());
  return copy(std::integral_constant<int, 1>());
}

// y = axis x: dense rows by tiles, copied rows by a scale.
template <class C>
inline void apply(const TiledAxis<C>& axis, const AxisPanel<C>& p) {
  const int64_t half_out = axis.out / 2, half_in = axis.in / 2;
  BlockArgs<C> a{nullptr,
                 0,
                 p.x,
                 p.x_step,
                 p.x_vector_step,
                 half_in * p.x_step,
                 p.y,
                 p.y_step,
                 p.y_vector_step,
                 half_out * p.y_step};
  if (axis.form == Form::kHalfIn) {
    a.copy = p.x;
    a.copy_scale = axis.scale.data();
    a.copy_row_step = 2 * p.x_step;
    a.copy_vector_step = p.x_vector_step;
    a.copy_half = half_in * p.x_step;
    a.copy_scale_half = half_out;
  } else if (axis.form == Form::kHalfOut) {
    for (int64_t v = 0; v < p.vectors;) v += copy_rows(axis, p, v);
  }
  if (p.outer != nullptr) {
    a.outer = p.outer;
    a.outer_scale = axis.outer_scale.data();
    a.outer_vector_step = p.outer_vector_step;
    a.outer_scale_half = axis.dense_rows() / 2;
  }
  a.taken = p.taken;
  a.ahead = p.ahead;
  if (axis.mirrored.found()) return axis.mirrored.run(a, p.vectors, p.scratch);
  if (axis.form == Form::kHalfIn) a.x += p.x_step, a.x_inner_step = 2 * p.x_step;
  if (axis.form == Form::kHalfOut) a.y += p.y_step, a.y_row_step = 2 * p.y_step;
  multiply(axis.blocks, a, p.vectors);
}

}  // namespace alias_ops::ALIAS_OPS_ISA
