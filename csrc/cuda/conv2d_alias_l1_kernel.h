// The convolution measure in one pass (identity 4): the residual of a strided layer, built and transformed on chip.
//
// A block owns a few images (or a band of one) and up to 128 output channels; a warp two tiles of 16 strided outputs
// and all of those channels, in its registers from the first input channel to the last. Channels come in chunks; a
// step is a chunk and a row of taps:
//   left product   low = Q_h x, along the height, all warps into shared memory
//   right product  x~ = -(S_h x Q_w' + low P_w'), along the width, each warp for its own tiles: what comes out is, in
//                  its registers, the left operand of the
//   main product   residual += x~ w
// with Q = P - S, which takes a constant to zero: the mean of x meets no rounded number. Tables and weights lie as the
// lanes of a warp hold them. benchmarks/NOTES.md, "CUDA C++: one-pass convolution measure".
#pragma once

#include "conv2d_alias_l1_residual.h"

namespace alias_ops::cuda::conv2d {

template <class T, int PRODUCTS>
struct Measure : Residual<T, PRODUCTS> {
  using Base = Residual<T, PRODUCTS>;
  using Base::a, Base::p, Base::memory, Base::block, Base::inputs, Base::outputs, Base::residual;
  using Base::kWide, Base::kNumbers, Base::kChannels, Base::kParts;

  ALIAS_OPS_DEVICE explicit Measure(const Arguments& arguments) : Base(arguments) {}

  // ---- the left product ----

  static constexpr int kPlanes = 4;  // that a warp takes at once, each with the same 8 columns

  ALIAS_OPS_DEVICE void store_low(char* to, float first, float second) const {
    if constexpr (kWide) {
      store_shared(to, Words<2>{bits_of(first), bits_of(second)});
    } else {
      store_shared(to, pair_of<T>(first, second));
    }
  }

  // low of PLANES channels in eight columns: `from` is what the lane reads first, `to` where it writes its first row,
  // of `rows` ones in all.
  template <int PLANES>
  ALIAS_OPS_DEVICE void left_columns(const char* from, int plane_bytes, int row_bytes, const char* tables, char* to,
                                     int rows, bool kept) const {
    const int g = lane() / 4, t = lane() % 4, last = a.layer.h.size - 1;
#pragma unroll 1
    for (int tile = 0; tile < p.left_tiles; ++tile) {
      warp_barrier();  // products want all lanes at one instruction, which the stores before may not leave
      const char* table = tables + tile * p.left_steps * kFragment;
      float c[PLANES][4] = {};
      for (int s = 0; s < p.left_steps; ++s) {
        const auto left = left_of<T, PRODUCTS>(load_shared<Words<4>>(table + s * kFragment).w);
        if constexpr (kWide) {
          const int h = 8 * s + t;
          const char* first = from + (h < last ? h : last) * row_bytes;
          const char* second = from + (h + 4 < last ? h + 4 : last) * row_bytes;
#pragma unroll
          for (int i = 0; i < PLANES; ++i) {
            step(c[i], left,
                 right_of<T, PRODUCTS>(load_shared<uint32_t>(first + i * plane_bytes),
                                       load_shared<uint32_t>(second + i * plane_bytes)));
          }
        } else {
          const int h = 16 * s + lane() % 16;
          const char* lines = from + (h < last ? h : last) * row_bytes;
#pragma unroll
          for (int i = 0; i < PLANES; i += 2) {
            uint32_t tiles[4];
            load_tiles_transposed(tiles, lines + i * plane_bytes);
            step(c[i], left, right_of<T, PRODUCTS>(tiles[0], tiles[1]));
            step(c[i + 1], left, right_of<T, PRODUCTS>(tiles[2], tiles[3]));
          }
        }
      }
      const bool upper = kept && 16 * tile + g < rows, lower = kept && 16 * tile + g + 8 < rows;
      char* lines = to + 16 * tile * p.low_row * kUnit;
#pragma unroll
      for (int i = 0; i < PLANES; ++i) {
        char* line = lines + i * p.low_channel * kUnit;
        if (upper) store_low(line, c[i][0], c[i][1]);
        if (lower) store_low(line + 8 * p.low_row * kUnit, c[i][2], c[i][3]);
      }
    }
  }

  ALIAS_OPS_DEVICE void left_product(int tap, int x_buffer, int low_buffer) const {
    const int per_row = ceil_div(a.layer.w.size, 8), count = p.images * (kChannels / kPlanes) * per_row;
    const int g = lane() / 4, t = lane() % 4, plane_bytes = p.x_plane * kUnit;
    const char* tables = memory + p.left_at + tap * p.left_tiles * p.left_steps * kFragment + kUnit * lane();
    for (int task = warp(); task < count; task += kWarps) {
      const int plane = task / per_row * kPlanes, column = task % per_row * 8;
      const int channel = plane % kChannels, column_written = column + 2 * t;
      // ldmatrix takes addresses of two planes at once: the upper half of the lanes has the second one's.
      const char* from = memory + plane_place(p, x_buffer, plane) + column * int(sizeof(T)) +
                         (kWide ? 4 * g : lane() / 16 * plane_bytes);
      char* to = memory + low_place(p, low_buffer, plane / kChannels, g, channel) + column_written * int(sizeof(T));
      left_columns<kPlanes>(from, plane_bytes, p.x_row * kUnit, tables, to, p.low_rows,
                            column_written < p.row_units * kNumbers);
    }
  }

  // ---- the right and the main product ----

  // A load brings two units of 16 channels, or four of 8: of one row, or of neighbouring ones.
  static constexpr int kLoad = kWide ? 4 : 2, kSteps = kLoad / 2;

  // What a lane reads of a tile, from the start of shared memory: x in its first strided row (in input row `h`), low.
  struct Source {
    int x, h, low;
  };

  ALIAS_OPS_DEVICE Source source_of(const Tile& tile, int tap_h, int x_buffer, int low_buffer) const {
    const int channel = (kWide ? 0 : lane() / 16 * 8) + lane() % 8, unit = lane() / 8 % kLoad;
    const int row = tile.row + unit / p.load_units, h = input_row(a.layer.h, block.band * p.low_rows + row, tap_h);
    const int along = unit % p.load_units * kUnit;
    return {x_place(p, x_buffer, tile.image, channel, h) + along, h,
            low_place(p, low_buffer, tile.image, row, channel) + along};
  }

  // Adds COUNT loads to the right product of both tiles: all of them are under way before the first one's products.
  template <int COUNT>
  ALIAS_OPS_DEVICE void add_loads(const char* const (&from)[kTilesOfWarp], int& at, int load_bytes, const char*& table,
                                  float (&c)[kTilesOfWarp][kParts][4]) const {
    Words<4> tables[COUNT][kSteps];
    uint32_t units[COUNT][kTilesOfWarp][4];
#pragma unroll
    for (int n = 0; n < COUNT; ++n) {
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        tables[n][s] = load_shared<Words<4>>(table);
        table += kFragment;
      }
#pragma unroll
      for (int i = 0; i < kTilesOfWarp; ++i) load_tiles(units[n][i], from[i] + at);
      at += load_bytes;
    }
#pragma unroll
    for (int n = 0; n < COUNT; ++n) {
      const auto left = left_of<T, PRODUCTS>(tables[n][0].w), next = left_of<T, PRODUCTS>(tables[n][kSteps - 1].w);
#pragma unroll
      for (int i = 0; i < kTilesOfWarp; ++i) {
        const uint32_t (&u)[4] = units[n][i];
        step(c[i][0], left, right_of<T, PRODUCTS>(u[0], u[1]));
        step(c[i][kParts - 1], next, right_of<T, PRODUCTS>(u[2], u[3]));
      }
    }
  }

  ALIAS_OPS_DEVICE void add_rows(const char* const (&from)[kTilesOfWarp], const char*& table,
                                 float (&c)[kTilesOfWarp][kParts][4]) const {
    const int row_bytes = p.row_units * kUnit, load_bytes = p.load_units * kUnit;
    for (int at = 0; at < row_bytes;) {
      if (PRODUCTS == 1 && at + load_bytes < row_bytes) {
        add_loads<2>(from, at, load_bytes, table, c);
      } else {
        add_loads<1>(from, at, load_bytes, table, c);
      }
    }
  }

  // x~ of a warp's tiles for a pair of taps, as left operands of the main product.
  ALIAS_OPS_DEVICE void build(const Source (&sources)[kTilesOfWarp], int column_tile, int tap_w,
                              Left<T, PRODUCTS> (&built)[kTilesOfWarp]) const {
    const char* table =
        memory + p.right_at + (tap_w * p.column_tiles + column_tile) * p.right_steps * kFragment + kUnit * lane();
    const int together = p.load_rows;
    float c[kTilesOfWarp][kParts][4] = {};
#pragma unroll
    for (int part = 0; part < 2; ++part) {
#pragma unroll 1
      for (int first = 0; first < p.rows; first += together) {
        const char* from[kTilesOfWarp];
#pragma unroll
        for (int i = 0; i < kTilesOfWarp; ++i) {
          const int h = sources[i].h + kStride * first, of_x = sources[i].x + first * (kStride * kUnit) * p.x_row;
          const int of_low = sources[i].low + first * kUnit * p.low_row;
          from[i] = memory + (part == 1 ? of_low : unsigned(h) < unsigned(a.layer.h.size) ? of_x : p.zero_at);
        }
        add_rows(from, table, c);
      }
    }
    built_of(c, built);
  }

  ALIAS_OPS_DEVICE static void built_of(const float (&c)[kTilesOfWarp][kParts][4],
                                        Left<T, PRODUCTS> (&built)[kTilesOfWarp]) {
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
      if constexpr (kWide) {
        // Channels 2 t and 2 t + 1 stand for inner elements t and t + 4; the weight is packed so.
        built[i] =
            left_of<T, PRODUCTS>({bits_of(c[i][0][0]), bits_of(c[i][0][2]), bits_of(c[i][0][1]), bits_of(c[i][0][3])});
      } else {
        built[i] = left_of<T, PRODUCTS>({pair_of<T>(c[i][0][0], c[i][0][1]), pair_of<T>(c[i][0][2], c[i][0][3]),
                                         pair_of<T>(c[i][1][0], c[i][1][1]), pair_of<T>(c[i][1][2], c[i][1][3])});
      }
    }
  }

  // residual += x~ w, for pairs of tiles of output channels: all of them, or the first ones.
  template <bool ALL>
  ALIAS_OPS_DEVICE void add_products(const char* weight, int pairs, const Left<T, PRODUCTS> (&built)[kTilesOfWarp]) {
#pragma unroll
    for (int pair = 0; pair < kOutputTiles / 2; ++pair) {
      if (!ALL && pair >= pairs) break;
      const auto words = load_shared<Words<4>>(weight + pair * kFragment);
      const auto first = right_of<T, PRODUCTS>(words.w[0], words.w[1]);
      const auto second = right_of<T, PRODUCTS>(words.w[2], words.w[3]);
#pragma unroll
      for (int i = 0; i < kTilesOfWarp; ++i) {
        step(residual[i][2 * pair], built[i], first);
        step(residual[i][2 * pair + 1], built[i], second);
      }
    }
  }

  ALIAS_OPS_DEVICE void find_tiles(Tile (&tiles)[kTilesOfWarp]) const {
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
      tiles[i] = tile_of(p, kTilesOfWarp * warp() + i);
      // A warp whose second tile is none builds another one, which goes nowhere.
      if (i > 0 && tiles[i].image < 0) tiles[i].image = 0, tiles[i].row = 0;
    }
  }

  ALIAS_OPS_DEVICE void main_product(int tap_h, int x_buffer, int low_buffer) {
    Tile tiles[kTilesOfWarp];
    find_tiles(tiles);
    if (tiles[0].image < 0) return;
    warp_barrier();
    Source sources[kTilesOfWarp];
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) sources[i] = source_of(tiles[i], tap_h, x_buffer, low_buffer);
    for (int tap_w = 0; tap_w < a.layer.w.kernel; ++tap_w) {
      Left<T, PRODUCTS> built[kTilesOfWarp];
      build(sources, tiles[0].column, tap_w, built);
      const char* weight =
          memory + p.weight_at + low_buffer * p.weight_bytes + kUnit * lane() + tap_w * kOutputTiles / 2 * kFragment;
      add_outputs(weight, built);
    }
  }

  ALIAS_OPS_DEVICE void add_outputs(const char* weight, const Left<T, PRODUCTS> (&built)[kTilesOfWarp]) {
    const int left_over = outputs - block.output;
    // Loads wait for no branch where there are outputs for all tiles.
    if (left_over > 16 * (kOutputTiles / 2 - 1)) {
      add_products<true>(weight, kOutputTiles / 2, built);
    } else {
      add_products<false>(weight, ceil_div(left_over, 16), built);
    }
  }

  // ---- all of it ----

  ALIAS_OPS_DEVICE void run() {
    this->clear_residual();
    this->clear_margins();
    this->copy_tables();
    // With buffers to spare, copies are two steps ahead of the main product and the left product one.
    const int taps = a.layer.h.kernel, count = steps(a.layer, p);
    const bool ahead = p.x_buffers > 1;
    for (int s = ahead ? -2 : 0; s < count; ++s) {
      wait_for_copies<0>();
      barrier();
      const int chunk = chunk_to_copy(a.layer, p, s), weight = ahead ? s + 1 : s;
      if (chunk >= 0 && chunk < p.chunks) this->copy_x(chunk, chunk % p.x_buffers);
      if (weight >= 0 && weight < count) this->copy_weight(weight, weight % p.low_buffers);
      commit_copies();
      if (!ahead) {
        wait_for_copies<0>();
        barrier();
      }
#pragma unroll 1
      for (int half = 0; half < 2; ++half) {
        const bool left = ahead == (half == 1);
        const int now = ahead && left ? s + 1 : s;
        if (now >= 0 && now < count) {
          const int x_buffer = now / taps % p.x_buffers, low_buffer = now % p.low_buffers;
          if (left) {
            left_product(now % taps, x_buffer, low_buffer);
          } else {
            main_product(now % taps, x_buffer, low_buffer);
          }
        }
        if (!ahead && left) barrier();
      }
    }
    if (!on_chip(p)) return this->write_residual();
    wait_for_copies<0>();
    barrier();
    this->keep_residual();
    barrier();
    if constexpr (kHasClusters) {
      if (p.cluster > 1) return this->measure_together();
    }
    this->measure();
  }
};

template <class T, int PRODUCTS>
ALIAS_OPS_KERNEL(kThreads, 1)
conv2d_alias_l1_kernel(const Arguments a) {
  Measure<T, PRODUCTS>(a).run();
}

}  // namespace alias_ops::cuda::conv2d
