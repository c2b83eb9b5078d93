// y = sum_t left[t] x right[t]^T, both products of a map while it is in cache.
//
// Two walks over the same register tile. Wide: the lanes of a vector are neighbouring columns of one map.
// Grouped: the lanes are maps (transposed on load) or channels (channels_last), which serves maps
// narrower than a vector as well as any other.
#include <algorithm>
#include <vector>

#include "lanes.h"
#include "ops.h"
#include "parallel.h"
#include "separable2d_prepared.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

// Room behind a row, so that whole vectors (two, where a row is read in pairs) may be loaded past its end.
template <class C>
constexpr int64_t padded(int64_t n) {
  return (n + 3 * kLanes<C>) / kLanes<C> * kLanes<C>;
}

// Rows `out` of an axis applied to a panel of vectors: dense rows by tiles, copied rows by a scale.
template <class C>
void apply(const Axis<C>& axis, const C* x, int64_t x_step, int64_t x_vector_step, C* y, int64_t y_step,
           int64_t y_vector_step, int64_t vectors) {
  Panel<C> panel{x, x_step, x_vector_step, y, y_step, y_vector_step, vectors};
  if (axis.form == Form::kHalfIn) {
    panel.x = x + x_step;
    panel.x_inner_step = 2 * x_step;
    panel.add_rows = axis.out;
    panel.add = x;
    panel.add_scale = axis.scale.data();
    panel.add_row_step = 2 * x_step;
    panel.add_vector_step = x_vector_step;
  } else if (axis.form == Form::kHalfOut) {
    panel.y = y + y_step;
    panel.y_row_step = 2 * y_step;
    for (int64_t m = 0; m < axis.in; ++m) {
      for (int64_t v = 0; v < vectors; ++v) {
        store(y + 2 * m * y_step + v * y_vector_step, axis.scale[m] * load(x + m * x_step + v * x_vector_step));
      }
    }
  }
  multiply(axis.packed, panel);
}

// Where the left product leaves the row in_h^T x of the rank-1 term.
template <class C>
int64_t outer_row(const Plan<C>& plan) {
  return plan.left.form == Form::kHalfOut ? plan.left.out + 1 : plan.left.out * plan.terms;
}

// ---- grouped -----------------------------------------------------------------------------------------------------

// x [height][width][lanes] (steps in elements) -> y [out_height][out_width][lanes].
template <class C>
void grouped(const Plan<C>& plan, const C* x, int64_t row_step, int64_t column_step, C* z, C* y) {
  constexpr int kL = kLanes<C>;
  const int64_t width = plan.right.in, inner = width * plan.terms;
  // A column of z past the last holds the rank-1 term's share of the row; odd, as half-band steps go.
  const int64_t slots = inner + 2, z_row = slots * kL;
  const int64_t extra = plan.right.form == Form::kHalfIn ? inner + 1 : inner;
  if (plan.terms == 1) {
    apply(plan.left, x, row_step, column_step, z, z_row, kL, width);
  } else {
    // Rows (m, term) of the stacked factor land side by side: z[m][term * width + w].
    for (int64_t m = 0; m < plan.left.packed.rows(); m += plan.left.packed.block_rows(m)) {
      const int64_t rows = plan.left.packed.block_rows(m);
      for (int64_t w = 0; w < width; ++w) {
        C block[kTileRows * kL];
        tile_of<C>(int(rows), 1)({plan.left.packed.block(m), plan.left.packed.inner(), x + w * column_step, row_step, 0,
                                  block, kL, 0, 0, nullptr, nullptr, 0, 0});
        for (int64_t r = 0; r < rows; ++r) {
          store(z + (m + r) / 2 * z_row + ((m + r) % 2 * width + w) * kL, load(block + r * kL));
        }
      }
    }
  }
  if (plan.outer.present) {
    Vec<C> number = {};
    const C* row = z + outer_row(plan) * z_row;
    for (int64_t w = 0; w < width; ++w) number += plan.outer.in_w[w] * load(row + w * kL);
    for (int64_t m = 0; m < plan.left.out; ++m) store(z + m * z_row + extra * kL, plan.outer.out_h[m] * number);
  }
  for (int64_t m = 0; m < plan.left.out; ++m) {
    apply(plan.right, z + m * z_row, kL, 0, y + m * plan.right.out * kL, kL, 0, 1);
  }
}

template <class S>
void run_grouped(const Separable2dArgs& a, const Plan<Compute<S>>& plan, const Runtime& runtime) {
  using C = Compute<S>;
  constexpr int kL = kLanes<C>;
  const Maps& x = a.x;
  const bool channels_last = a.channels_last;
  // Contiguous maps form one list; channels in lanes stay within their image.
  const int64_t lists = channels_last ? x.images : 1, length = channels_last ? x.channels : x.images * x.channels;
  const int64_t groups = (length + kL - 1) / kL;
  const int64_t pixels = x.height * x.width, out_pixels = a.out_height * a.out_width;
  const int64_t z_size = (a.out_height * plan.terms + 2) * (x.width * plan.terms + 2) * kL;
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, pixels * kL));
  parallel(runtime, lists * groups, grain, [&](int64_t begin, int64_t end) {
    std::vector<C> scratch((pixels + out_pixels) * kL + z_size);
    C *group = scratch.data(), *out = group + pixels * kL, *z = out + out_pixels * kL;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t list = task / groups, at = task % groups * kL;
      const int64_t count = std::min<int64_t>(kL, length - at);
      const S* from = map_at<S>(x, list, 0);
      S* to = static_cast<S*>(a.y) + list * a.y_image_stride;
      if (channels_last && std::is_same_v<S, C> && count == kL) {
        grouped(plan, reinterpret_cast<const C*>(from + at), x.row_stride, x.column_stride, z, out);
      } else {
        gather_group<S, C>(x, count, [&](int64_t i) { return from + (at + i) * x.channel_stride; }, group);
        grouped(plan, group, x.width * kL, kL, z, out);
      }
      if (channels_last) {
        for (int64_t p = 0; p < out_pixels; ++p) {
          store_first(to + p * a.y_column_stride + at, load(out + p * kL), count);
        }
      } else {
        scatter_group<S, C>(out, out_pixels, count, [&](int64_t i) { return to + (at + i) * a.y_channel_stride; });
      }
    }
  });
}

// ---- wide --------------------------------------------------------------------------------------------------------

template <class S, class C>
struct RightArgs {
  const C* z;  // R rows
  int64_t z_row, inner, inner_step;
  const C *panel, *outer, *scale;  // at the tile's first column
  int64_t columns, column;         // of the panel; the tile's first
  const C* share;                  // out_h[m] * number for each row; null without a rank-1 term
  S* y;
  int64_t y_row, out;  // outputs in a row of y
};

template <class S, class C, Form form, int R, int V>
void right_tile(const RightArgs<S, C>& a) {
  constexpr int kL = kLanes<C>;
  Vec<C> sum[R][V];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      sum[r][v] = Vec<C>{};
      if (a.share != nullptr) sum[r][v] = a.share[r] * load(a.outer + v * kL);
      if constexpr (form == Form::kHalfIn) {
        const C* even = a.z + r * a.z_row + 2 * (a.column + v * kL);
        sum[r][v] += load(a.scale + v * kL) * shuffle<C>(load(even), load(even + kL), Even<C>{});
      }
    }
  }
  const C* z = a.z + (form == Form::kHalfIn ? 1 : 0);
  const C* panel = a.panel;
  for (int64_t k = 0; k < a.inner; ++k) {
    Vec<C> column[V];
    for (int v = 0; v < V; ++v) column[v] = load(panel + v * kL);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sum[r][v] += z[r * a.z_row] * column[v];
    }
    z += a.inner_step;
    panel += a.columns;
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) {
      const int64_t n = a.column + v * kL;
      if constexpr (form == Form::kHalfOut) {
        S* y = a.y + r * a.y_row + 2 * n;
        const Vec<C> even = load(a.scale + v * kL) * load(a.z + r * a.z_row + n);
        store_first(y, shuffle<C>(even, sum[r][v], LowerInterleaved<C>{}), std::max<int64_t>(0, a.out - 2 * n));
        store_first(y + kL, shuffle<C>(even, sum[r][v], UpperInterleaved<C>{}),
                    std::max<int64_t>(0, a.out - 2 * n - kL));
      } else {
        store_first(a.y + r * a.y_row + n, sum[r][v], a.out - n);
      }
    }
  }
}

template <class S, class C, Form form, int V, size_t... R>
void right_tile_of_rows(const RightArgs<S, C>& a, int rows, std::index_sequence<R...>) {
  static constexpr void (*table[])(const RightArgs<S, C>&) = {&right_tile<S, C, form, int(R) + 1, V>...};
  table[rows - 1](a);
}

template <class S, class C, Form form>
void right_product(const Plan<C>& plan, const RightPanel<C>& panel, const C* z, int64_t z_row, const C* share, S* y,
                   int64_t y_row) {
  constexpr int kL = kLanes<C>;
  using Rows = std::make_index_sequence<kTileRows>;
  const Axis<C>& axis = plan.right;
  const int64_t inner = axis.dense_columns() * plan.terms;
  for (int64_t n = 0; n < panel.columns;) {
    const int64_t left = (panel.columns - n) / kL;
    const int vectors = int(left == 4 ? 2 : std::min<int64_t>(left, kTileColumns));
    const int64_t blocks = (axis.out > 0) ? (plan.left.out + kTileRows - 1) / kTileRows : 0;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t m = plan.left.out * block / blocks, rows = plan.left.out * (block + 1) / blocks - m;
      const RightArgs<S, C> args{z + m * z_row,
                                 z_row,
                                 inner,
                                 form == Form::kHalfIn ? 2 : 1,
                                 panel.values.data() + n,
                                 panel.outer.data() + n,
                                 panel.scale.data() + n,
                                 panel.columns,
                                 n,
                                 share == nullptr ? nullptr : share + m,
                                 y + m * y_row,
                                 y_row,
                                 axis.out};
      if (vectors == 1) right_tile_of_rows<S, C, form, 1>(args, int(rows), Rows{});
      if (vectors == 2) right_tile_of_rows<S, C, form, 2>(args, int(rows), Rows{});
      if (vectors == 3) right_tile_of_rows<S, C, form, 3>(args, int(rows), Rows{});
    }
    n += vectors * kL;
  }
}

// The left product of a map whose rows are at least a vector long: z[row][width], terms side by side.
template <class C>
void left_product(const Plan<C>& plan, const C* x, int64_t x_row, C* z, int64_t z_row) {
  constexpr int kL = kLanes<C>;
  const int64_t width = plan.right.in, vectors = (width + kL - 1) / kL;
  // A ragged end is covered by a vector that overlaps its neighbour, in one panel with it.
  const int64_t whole = width % kL == 0 ? vectors : std::max<int64_t>(0, vectors - 2);
  apply(plan.left, x, x_row, kL, z, z_row, kL, whole);
  if (whole < vectors) {
    const int64_t at = whole * kL;
    apply(plan.left, x + at, x_row, width - kL - at, z + at, z_row, width - kL - at, vectors - whole);
  }
}

template <class S>
void run_wide(const Separable2dArgs& a, const Plan<Compute<S>>& plan, const RightPanel<Compute<S>>& panel,
              const Runtime& runtime) {
  using C = Compute<S>;
  const Maps& x = a.x;
  const int64_t maps = x.images * x.channels, width = x.width, terms = plan.terms;
  const int64_t z_row = padded<C>(width * terms), z_rows = a.out_height + 2;
  // Two dense terms: left rows alternate between them, so a row of z holds both, width apart.
  const int64_t left_row = terms == 1 ? z_row : padded<C>(width);
  const int64_t grain = std::max<int64_t>(1, 32768 / (x.height * width));
  parallel(runtime, maps, grain, [&](int64_t begin, int64_t end) {
    std::vector<C> z(z_rows * z_row), share(a.out_height), wide, stacked;
    if (!std::is_same_v<S, C>) wide.resize(x.height * width);
    if (terms == 2) stacked.resize((2 * a.out_height + 2) * left_row);
    for (int64_t map = begin; map < end; ++map) {
      const S* from = map_at<S>(x, map / x.channels, map % x.channels);
      const C* source = reinterpret_cast<const C*>(from);
      int64_t x_row = x.row_stride;
      if constexpr (!std::is_same_v<S, C>) {
        for (int64_t h = 0; h < x.height; ++h) {
          for (int64_t w = 0; w < width; w += kLanes<C>) {
            store_first(wide.data() + h * width + w, load_first(from + h * x.row_stride + w, width - w), width - w);
          }
        }
        source = wide.data();
        x_row = width;
      }
      if (terms == 1) {
        left_product(plan, source, x_row, z.data(), z_row);
      } else {
        left_product(plan, source, x_row, stacked.data(), left_row);
        for (int64_t row = 0; row < 2 * a.out_height; ++row) {
          std::copy_n(stacked.data() + row * left_row, width, z.data() + row / 2 * z_row + row % 2 * width);
        }
      }
      const C* shares = nullptr;
      if (plan.outer.present) {
        C number = 0;
        const C* row = z.data() + outer_row(plan) * z_row;
        for (int64_t w = 0; w < width; ++w) number += plan.outer.in_w[w] * row[w];
        for (int64_t m = 0; m < a.out_height; ++m) share[m] = plan.outer.out_h[m] * number;
        shares = share.data();
      }
      S* to = static_cast<S*>(a.y) + map / x.channels * a.y_image_stride + map % x.channels * a.y_channel_stride;
      switch (plan.right.form) {
        case Form::kDense:
          right_product<S, C, Form::kDense>(plan, panel, z.data(), z_row, shares, to, a.y_row_stride);
          break;
        case Form::kHalfIn:
          right_product<S, C, Form::kHalfIn>(plan, panel, z.data(), z_row, shares, to, a.y_row_stride);
          break;
        case Form::kHalfOut:
          right_product<S, C, Form::kHalfOut>(plan, panel, z.data(), z_row, shares, to, a.y_row_stride);
          break;
      }
    }
  });
}

// Wide needs rows of a vector or more, contiguous; it wastes the lanes that a ragged output leaves empty,
// where grouped pays two transpositions.
template <class S>
bool prefer_wide(const Separable2dArgs& a, const Plan<Compute<S>>& plan) {
  constexpr int kL = kLanes<Compute<S>>;
  if (a.channels_last || a.x.width < kL) return false;
  const auto vectors = [](int64_t n) { return double((n + kL - 1) / kL); };
  const double left = double(plan.left.packed.rows()) * plan.left.packed.inner();
  const double right = double(a.out_height) * plan.right.dense_columns() * plan.terms;
  const double wide = left * vectors(a.x.width) + right * vectors(plan.right.dense_rows());
  const double grouped = (left * a.x.width + right * plan.right.dense_rows()) / kL +
                         0.5 * (a.x.width * a.x.height + a.out_width * a.out_height);
  return wide <= grouped;
}

template <class S>
void run_prepared(const Separable2dArgs& a, const Prepared<Compute<S>>& prepared, const Runtime& runtime) {
  if (prefer_wide<S>(a, prepared.plan)) {
    run_wide<S>(a, prepared.plan, prepared.panel, runtime);
  } else {
    run_grouped<S>(a, prepared.plan, runtime);
  }
}

template <class S>
void run(const Separable2dArgs& a, const Runtime& runtime) {
  using C = Compute<S>;
  if (a.terms * (a.out_height * a.x.height + a.out_width * a.x.width) > Recent<C>::kLargest) {
    return run_prepared<S>(a, Prepared<C>(a), runtime);
  }
  static thread_local Recent<C> recent;
  run_prepared<S>(a, recent.find(a), runtime);
}

}  // namespace

void separable2d(const Separable2dArgs& a, const Runtime& runtime) {
  switch (a.x.dtype) {
    case Dtype::kFloat32:
      return run<float>(a, runtime);
    case Dtype::kFloat64:
      return run<double>(a, runtime);
    case Dtype::kBFloat16:
      return run<BFloat16>(a, runtime);
    case Dtype::kFloat16:
      return run<Float16>(a, runtime);
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
