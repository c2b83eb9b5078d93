// How separable2d's kernel cuts its work: which numbers of a map go where. All of it is arithmetic on sizes, done at
// compile time, and exercised by ordinary tests.
//
// A block takes a group of whole maps at a time. First products: rows of all its maps, stacked, times the right table;
// the results z stay in shared memory. Second products: the left table times each map's z.
#pragma once

#include "numbers.h"

namespace alias_ops::cuda {

// kHalfIn: of the even input samples, output m needs number 2 m alone, times a constant. kHalfOut is its transpose.
enum class Form { kDense, kHalfIn, kHalfOut };

ALIAS_OPS_BOTH constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }
ALIAS_OPS_BOTH constexpr int round_up(int a, int b) { return ceil_div(a, b) * b; }

// ---- who holds what: lane (g, t) = (l / 4, l % 4), see fragments.h ----

// Rows of x that slots g and g + 8 of a tile stand for: ``step`` apart for neighbouring g, against bank conflicts.
ALIAS_OPS_BOTH constexpr int row_of_slot(int step, int slot) {
  const int count = 16 / step;
  return slot % count * step + slot / count;
}

// Column of x that lane t reads as number i of unit u, of 16 inner elements. Four neighbours are read at once; of
// kHalfIn two of them are even, and belong to the results that the same lane holds.
ALIAS_OPS_BOTH constexpr int right_column(Form form, int u, int t, int i) {
  return form == Form::kHalfIn ? 32 * u + 16 * (i / 2) + 4 * t + 2 * (i % 2) + 1 : 16 * u + 4 * t + i;
}

// Result of the first product in column ``slot`` of tile n. Of kHalfOut lane t holds, in tiles 2 p and 2 p + 1, the
// results between the four samples that it copies.
ALIAS_OPS_BOTH constexpr int right_result(Form form, int n, int slot) {
  return form == Form::kHalfOut ? 16 * (n / 2) + 4 * (slot / 2) + 2 * (n % 2) + slot % 2 : 8 * n + slot;
}

// Inner element of the second product that lane t reads as number i of unit u.
ALIAS_OPS_BOTH constexpr int left_inner(int u, int t, int i) { return 16 * u + t + 4 * i; }

// ---- bank conflicts: the most words that one bank has to give for one access of a warp ----

// Lane l reads ``words`` words from word at(l) on. Accesses of 8 and 16 bytes go by half and quarter warps.
template <class At>
constexpr int conflicts(int words, At at) {
  int worst = 0;
  const int lanes = 32 / words;
  for (int first = 0; first < 32; first += lanes) {
    int wanted[32] = {};  // of this group, words by bank; a word that several lanes read counts once
    for (int l = first; l < first + lanes; ++l) {
      for (int w = 0; w < words; ++w) {
        bool seen = false;
        for (int other = first; other < l; ++other) {
          const int distance = at(l) + w - at(other);
          seen = seen || (distance >= 0 && distance < words);
        }
        if (!seen) ++wanted[(at(l) + w) % 32];
      }
    }
    for (const int count : wanted) worst = count > worst ? count : worst;
  }
  return worst;
}

struct SeparablePlan {
  int in, out, item;  // sides of maps and results; bytes of a number
  Form form;

  int maps = 1;                              // of a group
  int warps = 4;                             // of a block
  int together = 4;                          // neighbours of a row that are read at once
  int x_pitch, x_step = 1;                   // numbers from row to row of x in shared memory; see row_of_slot
  int z_pitch;                               // floats from row to row of z
  int right_units, right_tiles, row_tiles;   // first product: of 16 inner elements; of 8 results; of 16 rows
  int left_units, left_tiles, column_tiles;  // second: of 16 inner elements; of 16 results; of 8 columns of a map
  // Tiles that a warp takes at a time, which then share what is read of a table: of rows in the first product; in the
  // second of left ones, and of columns, counted through all maps.
  int task_rows = 1, task_tiles, task_columns = 1;

  constexpr SeparablePlan(int in_, int out_, int item_, Form form_)
      : in(in_),
        out(out_),
        item(item_),
        form(form_),
        x_pitch(in_),
        z_pitch(0),
        right_units(ceil_div(inner(), 16)),
        right_tiles(form == Form::kHalfOut ? 2 * ceil_div(results(), 16) : ceil_div(results(), 8)),
        row_tiles(0),
        left_units(ceil_div(inner(), 16)),
        left_tiles(ceil_div(results(), 16)),
        column_tiles(ceil_div(out, 8)),
        task_tiles(left_tiles < 4 ? left_tiles : 4) {
    const int larger = in > out ? in : out;
    while (maps * larger * larger * item < 8192 || maps * in * in * item % 16 != 0 ||
           maps * out * out * item % 16 != 0) {
      maps *= 2;
    }
    if (larger > 96) warps = 8;
    left_tiles = round_up(left_tiles, task_tiles);
    row_tiles = ceil_div(rows(), 16);
    // No more than the registers hold, and no warp without a task.
    if (right_tiles <= 2 && ceil_div(row_tiles, 2) >= warps) task_rows = 2;
    for (int n = 2; n <= 4; n *= 2) {
      const bool whole = maps * column_tiles % n == 0, busy = 8 * row_chunks() * maps * column_tiles >= 7 * n * warps;
      if (whole && busy && n * task_tiles <= 8) task_columns = n;
    }
    while (in % together != 0) together /= 2;
    // Rows of z that one access reads, of kHalfIn every other one, must lie 8 banks apart.
    z_pitch = 8 * column_tiles;
    while (z_pitch * (form == Form::kHalfIn ? 2 : 1) % 16 != 8) z_pitch += 4;
    // The least time for rows of x and of z, then the least memory. Rows of x can be set apart only if they are whole
    // copies of 16 bytes.
    int best = 1 << 30;
    for (int pad = 0; pad <= (in * item % 16 == 0 ? 1 : 0); ++pad) {
      for (int step = 1; step <= 4; step *= 2) {
        const int pitch = in + pad * 16 / item;
        const int cost = in * conflicts_of_x(pitch, step) + out * conflicts_of_z_writes(step);
        if (cost < best) best = cost, x_pitch = pitch, x_step = step;
      }
    }
  }

  // Inner elements of either product and results of it; of the halved axis alone what is multiplied.
  ALIAS_OPS_BOTH constexpr int inner() const { return form == Form::kHalfIn ? in / 2 : in; }
  ALIAS_OPS_BOTH constexpr int results() const { return form == Form::kHalfOut ? out / 2 : out; }

  ALIAS_OPS_BOTH constexpr int threads() const { return 32 * warps; }
  ALIAS_OPS_BOTH constexpr int rows() const { return maps * in; }
  ALIAS_OPS_BOTH constexpr int row_chunks() const { return left_tiles / task_tiles; }
  ALIAS_OPS_BOTH constexpr int row_tasks() const { return ceil_div(row_tiles, task_rows); }

  // ---- tables: bytes, and where each begins in the tables as they lie in device and in shared memory ----

  ALIAS_OPS_BOTH constexpr int right_bytes() const { return right_units * right_tiles * 32 * 4 * item; }
  ALIAS_OPS_BOTH constexpr int left_bytes() const { return left_tiles * left_units * 32 * 8 * item; }
  ALIAS_OPS_BOTH constexpr int left_at() const { return right_bytes(); }
  // Floats: constants (copies of the right axis, of the left one, whether there is a second term, 0); then the second
  // term's in_w by unit, lane t and number, in_h, out_h and out_w.
  ALIAS_OPS_BOTH constexpr int vectors_at() const { return left_at() + left_bytes(); }
  ALIAS_OPS_BOTH constexpr int in_w() const { return 4; }
  ALIAS_OPS_BOTH constexpr int in_h() const { return in_w() + 16 * right_units; }
  ALIAS_OPS_BOTH constexpr int out_h() const { return in_h() + round_up(in, 4); }
  ALIAS_OPS_BOTH constexpr int out_w() const { return out_h() + round_up(out, 4); }
  ALIAS_OPS_BOTH constexpr int table_bytes() const { return vectors_at() + 4 * (out_w() + round_up(out, 8)); }

  // ---- shared memory: tables, two groups of x, z, its row sums, y ----

  ALIAS_OPS_BOTH constexpr int x_bytes() const { return round_up(maps * in * x_pitch * item, 16); }
  ALIAS_OPS_BOTH constexpr int y_bytes() const { return maps * out * out * item; }
  ALIAS_OPS_BOTH constexpr int x_at() const { return table_bytes(); }
  ALIAS_OPS_BOTH constexpr int z_at() const { return x_at() + 2 * x_bytes(); }
  ALIAS_OPS_BOTH constexpr int sums_at() const { return z_at() + 4 * rows() * z_pitch; }
  ALIAS_OPS_BOTH constexpr int y_at() const { return sums_at() + round_up(4 * rows(), 16); }
  ALIAS_OPS_BOTH constexpr int shared_bytes() const { return y_at() + y_bytes(); }

  // Blocks that a multiprocessor of sm_90 has room for, as far as it matters: registers are shared out among them.
  constexpr int blocks() const {
    // Rows of 14 tiles take more than the 128 registers that 16 warps leave a thread.
    const int fitting = 232448 / (shared_bytes() + 1024),
              wanted = right_tiles >= 14 ? 1 : (right_tiles <= 2 ? 24 : 16) / warps;
    return fitting < 1 ? 1 : fitting < wanted ? fitting : wanted;
  }

  // ---- conflicts of each kind of access to shared memory ----

  constexpr int conflicts_of_x(int pitch, int step) const {
    const int bytes = together * item;
    return conflicts(bytes < 4 ? 1 : bytes / 4,
                     [&](int l) { return (row_of_slot(step, l / 4) * pitch + 4 * (l % 4)) * item / 4; });
  }
  constexpr int x_conflicts() const { return conflicts_of_x(x_pitch, x_step); }
  constexpr int z_read_conflicts() const {
    const int apart = form == Form::kHalfIn ? 2 : 1;
    return conflicts(1, [&](int l) { return apart * left_inner(0, l % 4, 0) * z_pitch + l / 4; });
  }
  constexpr int conflicts_of_z_writes(int step) const {
    const int pitch = z_pitch;
    if (form == Form::kHalfOut) {
      return conflicts(4, [&](int l) { return row_of_slot(step, l / 4) * pitch + 8 * (l % 4); });
    }
    return conflicts(2, [&](int l) { return row_of_slot(step, l / 4) * pitch + 2 * (l % 4); });
  }
  constexpr int z_write_conflicts() const { return conflicts_of_z_writes(x_step); }
};

}  // namespace alias_ops::cuda
