// separable2d of whole maps on chip: one read of x, one write of y, both in accesses of 16 bytes; blocks persist and
// copy the next group of maps while they work on one.
#pragma once

#include "fragments.h"
#include "separable2d_plan.h"

namespace alias_ops::cuda {

template <class T, int IN, int OUT, Form FORM, int PRODUCTS>
struct Separable2d {
  static constexpr SeparablePlan P{IN, OUT, int(sizeof(T)), FORM};
  using RightTable = Words<sizeof(T)>;  // a lane's four numbers
  using LeftFragment = Left<T, PRODUCTS>;
  using RightFragment = Right<T, PRODUCTS>;

  // Units of inner elements that the compiler sees at once. All of them, where results depend on the unit; of the dense
  // form it would load so many numbers ahead that it runs out of registers.
  static constexpr int kUnits = FORM == Form::kDense ? 1 : P.right_units;

  const T* x;
  T* y;
  const char* tables;
  int64_t maps;

  // ---- places in shared memory ----

  static ALIAS_OPS_DEVICE const float* vectors() {
    return reinterpret_cast<const float*>(shared_memory() + P.vectors_at());
  }
  static ALIAS_OPS_DEVICE float constant(int which) { return load_shared<float>(vectors() + which); }
  static ALIAS_OPS_DEVICE T* x_of(int stage) {
    return reinterpret_cast<T*>(shared_memory() + P.x_at() + stage * P.x_bytes());
  }
  static ALIAS_OPS_DEVICE float* z() { return reinterpret_cast<float*>(shared_memory() + P.z_at()); }
  static ALIAS_OPS_DEVICE float* sums() { return reinterpret_cast<float*>(shared_memory() + P.sums_at()); }
  static ALIAS_OPS_DEVICE T* results() { return reinterpret_cast<T*>(shared_memory() + P.y_at()); }

  // ---- global memory ----

  ALIAS_OPS_DEVICE int maps_of(int64_t group) const {
    const int64_t left = maps - group * P.maps;
    return left < P.maps ? int(left) : P.maps;
  }

  ALIAS_OPS_DEVICE void copy_tables() const {
    for (int i = thread(); i < P.table_bytes() / 16; i += P.threads()) {
      copy_async<16>(shared_memory() + 16 * i, tables + 16 * i);
    }
  }

  ALIAS_OPS_DEVICE void copy_group(int64_t group, int stage) const {
    const T* from = x + group * P.maps * IN * IN;
    T* to = x_of(stage);
    const int count = maps_of(group) * IN * IN;
    constexpr int kChunk = 16 / int(sizeof(T)), kRow = P.x_pitch == IN ? 1 : IN / kChunk;
    for (int i = thread(); i < count / kChunk; i += P.threads()) {
      copy_async<16>(to + (P.x_pitch == IN ? i * kChunk : i / kRow * P.x_pitch + i % kRow * kChunk), from + i * kChunk);
    }
    // Of an odd number of maps a chunk may be left in part.
    const int rest = count / kChunk * kChunk + thread();
    if (rest < count) store_shared(to + rest, load_global<T>(from + rest));
  }

  ALIAS_OPS_DEVICE void write_group(int64_t group) const {
    T* to = y + group * P.maps * OUT * OUT;
    const int count = maps_of(group) * OUT * OUT;
    constexpr int kChunk = 16 / int(sizeof(T));
    for (int i = thread(); i < count / kChunk; i += P.threads()) {
      store_global(to + i * kChunk, load_shared<Words<4>>(results() + i * kChunk));
    }
    const int rest = count / kChunk * kChunk + thread();
    if (rest < count) store_global(to + rest, load_shared<T>(results() + rest));
  }

  // ---- first product ----

  // Four neighbours of a row; zeros beyond the map.
  static ALIAS_OPS_DEVICE void read_four(float (&four)[4], const T* row, int column, bool wanted) {
    constexpr int N = P.together;
#pragma unroll
    for (int i = 0; i < 4; i += N) {
      const bool there = wanted && column + i < IN;
      if constexpr (N == 1) {
        four[i] = there ? to_float(load_shared<T>(row + column + i)) : 0.0f;
      } else if constexpr (sizeof(T) == 4) {
        const Words<N> w = there ? load_shared<Words<N>>(row + column + i) : Words<N>{};
#pragma unroll
        for (int j = 0; j < N; ++j) four[i + j] = float_of(w.w[j]);
      } else {
        const Words<N / 2> w = there ? load_shared<Words<N / 2>>(row + column + i) : Words<N / 2>{};
#pragma unroll
        for (int j = 0; j < N; ++j) four[i + j] = to_float(T{uint16_t(w.w[j / 2] >> 16 * (j % 2))});
      }
    }
  }

  static ALIAS_OPS_DEVICE void read_right(RightFragment& b, int unit, int tile) {
    const char* at = shared_memory() + ((unit * P.right_tiles + tile) * 32 + lane()) * int(sizeof(RightTable));
    const RightTable w = load_shared<RightTable>(at);
    if constexpr (sizeof(T) == 4) {
      b.set({float_of(w.w[0]), float_of(w.w[1]), float_of(w.w[2]), float_of(w.w[3])});
    } else {
      b.pairs[0] = w.w[0], b.pairs[1] = w.w[1];
    }
  }

  static ALIAS_OPS_DEVICE void first_product(int task, const T* x_shared, float copied, bool outer) {
    constexpr int R = 2 * P.task_rows;  // rows of a lane
    warp_barrier();  // products want all lanes at one instruction, which the task before may not leave
    const int g = lane() / 4, t = lane() % 4;
    int rows[R];
#pragma unroll
    for (int r = 0; r < R; ++r) {
      rows[r] = 16 * (task * P.task_rows + r / 2) + row_of_slot(P.x_step, g + 8 * (r % 2));
    }
    float c[P.task_rows][P.right_tiles][4] = {}, sum[R] = {};
#pragma unroll kUnits
    for (int u = 0; u < P.right_units; ++u) {
      float values[R][4];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const T* row = x_shared + rows[r] * P.x_pitch;
        const bool wanted = rows[r] < P.rows();
        if constexpr (FORM == Form::kHalfIn) {
#pragma unroll
          for (int q = 0; q < 2; ++q) {
            float four[4] = {};
            if (32 * u + 16 * q < IN) read_four(four, row, 32 * u + 16 * q + 4 * t, wanted);
            values[r][2 * q] = four[1], values[r][2 * q + 1] = four[3];
            if (2 * u + q < P.right_tiles) {
              float (&m)[4] = c[r / 2][2 * u + q];
              m[r % 2 * 2] += copied * four[0], m[r % 2 * 2 + 1] += copied * four[2];
            }
          }
        } else {
          read_four(values[r], row, 16 * u + 4 * t, wanted);
        }
      }
      if (outer) {
        const auto w = load_shared<Words<4>>(vectors() + P.in_w() + 16 * u + 4 * t);
#pragma unroll
        for (int i = 0; i < 4 * R; ++i) sum[i / 4] += float_of(w.w[i % 4]) * values[i / 4][i % 4];
      }
      LeftFragment a[P.task_rows];
#pragma unroll
      for (int m = 0; m < P.task_rows; ++m) a[m].set(values[2 * m], values[2 * m + 1]);
#pragma unroll
      for (int n = 0; n < P.right_tiles; ++n) {
        RightFragment b;
        read_right(b, u, n);
#pragma unroll
        for (int m = 0; m < P.task_rows; ++m) multiply(c[m][n], a[m], b);
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const bool there = rows[r] < P.rows();
      if (outer) {
        sum[r] += shuffle_xor(sum[r], 1);
        sum[r] += shuffle_xor(sum[r], 2);
        if (t == 0 && there) store_shared(sums() + rows[r], sum[r]);
      }
      if (there) {
        write_row(c[r / 2], r % 2, x_shared + rows[r] * P.x_pitch, z() + rows[r] * P.z_pitch, copied);
      }
    }
  }

  static ALIAS_OPS_DEVICE void write_row(const float (&c)[P.right_tiles][4], int r, const T* row, float* z_row,
                                         float copied) {
    const int t = lane() % 4;
    if constexpr (FORM == Form::kHalfOut) {
#pragma unroll
      for (int p = 0; p < P.right_tiles / 2; ++p) {
        float four[4];
        read_four(four, row, 16 * p + 4 * t, true);
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int column = 32 * p + 8 * t + 4 * h;
          if (column >= OUT) continue;
          const float (&m)[4] = c[2 * p + h];
          store_shared(z_row + column, Words<4>{bits_of(copied * four[2 * h]), bits_of(r == 0 ? m[0] : m[2]),
                                                bits_of(copied * four[2 * h + 1]), bits_of(r == 0 ? m[1] : m[3])});
        }
      }
    } else {
#pragma unroll
      for (int n = 0; n < P.right_tiles; ++n) {
        store_shared(z_row + 8 * n + 2 * t,
                     Words<2>{bits_of(r == 0 ? c[n][0] : c[n][2]), bits_of(r == 0 ? c[n][1] : c[n][3])});
      }
    }
  }

  // ---- second product ----

  static ALIAS_OPS_DEVICE void read_left(LeftFragment& a, int tile, int unit) {
    const char* at = shared_memory() + P.left_at() + ((tile * P.left_units + unit) * 32 + lane()) * 8 * int(sizeof(T));
    const auto w = load_shared<Words<4>>(at);
    if constexpr (sizeof(T) == 4) {
      const auto v = load_shared<Words<4>>(at + 16);
      a.set({float_of(w.w[0]), float_of(w.w[1]), float_of(w.w[2]), float_of(w.w[3])},
            {float_of(v.w[0]), float_of(v.w[1]), float_of(v.w[2]), float_of(v.w[3])});
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) a.pairs[i] = w.w[i];
    }
  }

  // The number that the second term's outer product is multiplied by, for one map: in_h^T x in_w.
  static ALIAS_OPS_DEVICE float common_of(int map) {
    float total = 0;
#pragma unroll
    for (int first = 0; first < IN; first += 32) {
      const int row = first + lane();
      if (row < IN) total += constant(P.in_h() + row) * load_shared<float>(sums() + map * IN + row);
    }
#pragma unroll
    for (int mask = 16; mask > 0; mask /= 2) total += shuffle_xor(total, mask);
    return total;
  }

  // ``chunk``: of column tiles, counted through the maps of the group.
  static ALIAS_OPS_DEVICE void second_product(int chunk, int row_chunk, float copied, bool outer) {
    constexpr int M = P.task_tiles, N = P.task_columns, kApart = FORM == Form::kHalfIn ? 2 : 1;
    warp_barrier();
    const int g = lane() / 4, t = lane() % 4;
    int maps_of_tiles[N], columns[N];
    const float* z_tiles[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      maps_of_tiles[n] = (chunk * N + n) / P.column_tiles, columns[n] = (chunk * N + n) % P.column_tiles * 8;
      z_tiles[n] = z() + maps_of_tiles[n] * IN * P.z_pitch + columns[n];
    }
    float c[M][N][4] = {};
#pragma unroll kUnits
    for (int u = 0; u < P.left_units; ++u) {
      RightFragment b[N];
#pragma unroll
      for (int n = 0; n < N; ++n) {
        float values[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int k = left_inner(u, t, i), row = kApart * k + kApart - 1;
          values[i] = k < P.inner() ? load_shared<float>(z_tiles[n] + row * P.z_pitch + g) : 0.0f;
        }
        b[n].set(values);
      }
#pragma unroll
      for (int m = 0; m < M; ++m) {
        LeftFragment a;
        read_left(a, row_chunk * M + m, u);
#pragma unroll
        for (int n = 0; n < N; ++n) multiply(c[m][n], a, b[n]);
      }
    }
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const float common = outer ? common_of(maps_of_tiles[n]) : 0.0f;
      T* y_map = results() + maps_of_tiles[n] * OUT * OUT;
      const int column = columns[n] + 2 * t;
      if (column >= OUT) continue;
#pragma unroll
      for (int r = 0; r < 2 * M; ++r) {
        const int result = 16 * (row_chunk * M + r / 2) + g + 8 * (r % 2);
        if (result >= P.results()) continue;
        float two[2] = {c[r / 2][n][r % 2 * 2], c[r / 2][n][r % 2 * 2 + 1]};
        if constexpr (FORM != Form::kDense) {
          const int row = FORM == Form::kHalfIn ? 2 * result : result;
          const auto w = load_shared<Words<2>>(z_tiles[n] + row * P.z_pitch + 2 * t);
          const float even[2] = {copied * float_of(w.w[0]), copied * float_of(w.w[1])};
          if constexpr (FORM == Form::kHalfIn) {
            two[0] += even[0], two[1] += even[1];
          } else {
            write_two(y_map, 2 * result, column, even, common, outer);
          }
        }
        write_two(y_map, FORM == Form::kHalfOut ? 2 * result + 1 : result, column, two, common, outer);
      }
    }
  }

  static ALIAS_OPS_DEVICE void write_two(T* y_map, int row, int column, const float (&two)[2], float common,
                                         bool outer) {
    float values[2] = {two[0], two[1]};
    if (outer) {
      const float of_row = common * constant(P.out_h() + row);
      const auto w = load_shared<Words<2>>(vectors() + P.out_w() + column);
      values[0] += of_row * float_of(w.w[0]), values[1] += of_row * float_of(w.w[1]);
    }
    T* at = y_map + row * OUT + column;
    if constexpr (OUT % 2 != 0) {
      store_shared(at, from_float<T>(values[0]));
      if (column + 1 < OUT) store_shared(at + 1, from_float<T>(values[1]));
    } else if constexpr (sizeof(T) == 4) {
      store_shared(at, Words<2>{bits_of(values[0]), bits_of(values[1])});
    } else {
      store_shared(at, pair_of<T>(values[0], values[1]));
    }
  }

  // ---- the block ----

  ALIAS_OPS_DEVICE void run() const {
    const int64_t groups = (maps + P.maps - 1) / P.maps;
    copy_tables();
    if (block() < groups) copy_group(block(), 0);
    commit_copies();
    int stage = 0;
    for (int64_t group = block(); group < groups; group += blocks(), stage ^= 1) {
      // Read last in the first product of the group before, and there was a barrier since.
      if (group + blocks() < groups) copy_group(group + blocks(), stage ^ 1);
      commit_copies();
      wait_for_copies<1>();
      barrier();
      const float copied_right = constant(0), copied_left = constant(1);
      const bool outer = constant(2) != 0.0f;
      const T* x_shared = x_of(stage);
      for (int task = warp(); task < P.row_tasks(); task += P.warps) {
        first_product(task, x_shared, copied_right, outer);
      }
      barrier();
      // Of a group in part, tiles of maps that are not there may be taken along, and are written nowhere.
      const int there = (maps_of(group) * P.column_tiles + P.task_columns - 1) / P.task_columns * P.row_chunks();
      for (int task = warp(); task < there; task += P.warps) {
        second_product(task / P.row_chunks(), task % P.row_chunks(), copied_left, outer);
      }
      barrier();
      write_group(group);
    }
  }
};

template <class T, int IN, int OUT, Form FORM, int PRODUCTS>
ALIAS_OPS_KERNEL((Separable2d<T, IN, OUT, FORM, PRODUCTS>::P.threads()),
                 (Separable2d<T, IN, OUT, FORM, PRODUCTS>::P.blocks()))
separable2d_kernel(const T* x, T* y, const char* tables, int64_t maps) {
  Separable2d<T, IN, OUT, FORM, PRODUCTS>{x, y, tables, maps}.run();
}

// ---- which kernels there are ----

template <class T_, int IN_, int OUT_, Form FORM_, int PRODUCTS_>
struct SeparableKernel {
  using T = T_;
  static constexpr int IN = IN_, OUT = OUT_, PRODUCTS = PRODUCTS_;
  static constexpr Form FORM = FORM_;
};

template <int... N>
struct Sides {};

// Of the larger of a map and its result; alias_ops/kernels/separable2d_cuda.py lists them too.
using SeparableSides = Sides<8, 14, 16, 28, 32, 56, 64, 112>;

template <class T, int PRODUCTS, int N, class Visit>
inline bool visit_side(int in, int out, Form form, Visit&& visit) {
  if (in == N && out == N / 2 && form != Form::kHalfOut) {
    form == Form::kDense ? visit(SeparableKernel<T, N, N / 2, Form::kDense, PRODUCTS>())
                         : visit(SeparableKernel<T, N, N / 2, Form::kHalfIn, PRODUCTS>());
    return true;
  }
  if (in == N / 2 && out == N && form != Form::kHalfIn) {
    form == Form::kDense ? visit(SeparableKernel<T, N / 2, N, Form::kDense, PRODUCTS>())
                         : visit(SeparableKernel<T, N / 2, N, Form::kHalfOut, PRODUCTS>());
    return true;
  }
  return false;
}

// Calls ``visit`` with the SeparableKernel for these sizes and form; false if there is none.
template <class T, int PRODUCTS, class Visit, int... N>
inline bool visit_separable_kernel(Sides<N...>, int in, int out, Form form, Visit&& visit) {
  return (visit_side<T, PRODUCTS, N>(in, out, form, visit) || ...);
}

}  // namespace alias_ops::cuda
