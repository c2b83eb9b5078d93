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

#include "conv2d_alias_l1_copies.h"

namespace alias_ops::cuda::conv2d {

template <class T, int PRODUCTS>
struct Measure : Copies<T, PRODUCTS> {
  using Base = Copies<T, PRODUCTS>;
  using Base::a, Base::p, Base::memory, Base::block, Base::inputs, Base::outputs;
  using Base::kWide, Base::kNumbers, Base::kChannels, Base::kParts;

  float residual[kTilesOfWarp][kOutputTiles][4];

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

  ALIAS_OPS_DEVICE void left_product(int tap, int x_buffer, int low_buffer) const {
    const int per_row = ceil_div(a.layer.w.size, 8), count = p.images * (kChannels / kPlanes) * per_row;
    const int g = lane() / 4, t = lane() % 4, last = a.layer.h.size - 1;
    const int plane_bytes = p.x_plane * kUnit, row_bytes = p.x_row * kUnit;
    const char* tables = memory + p.left_at + tap * p.left_tiles * p.left_steps * kFragment + kUnit * lane();
    for (int task = warp(); task < count; task += kWarps) {
      warp_barrier();  // products want all lanes at one instruction, which the task before may not leave
      const int plane = task / per_row * kPlanes, column = task % per_row * 8;
      const int channel = plane % kChannels, column_written = column + 2 * t;
      // ldmatrix takes addresses of two planes at once: the upper half of the lanes has the second one's.
      const char* from = memory + plane_place(p, x_buffer, plane) + column * int(sizeof(T)) +
                         (kWide ? 4 * g : lane() / 16 * plane_bytes);
      char* to = memory + low_place(p, low_buffer, plane / kChannels, g, channel) + column_written * int(sizeof(T));
      const bool kept = column_written < p.row_units * kNumbers;
#pragma unroll 1
      for (int tile = 0; tile < p.left_tiles; ++tile) {
        const char* table = tables + tile * p.left_steps * kFragment;
        float c[kPlanes][4] = {};
        for (int s = 0; s < p.left_steps; ++s) {
          const auto left = left_of<T, PRODUCTS>(load_shared<Words<4>>(table + s * kFragment).w);
          if constexpr (kWide) {
            const int h = 8 * s + t;
            const char* first = from + (h < last ? h : last) * row_bytes;
            const char* second = from + (h + 4 < last ? h + 4 : last) * row_bytes;
#pragma unroll
            for (int i = 0; i < kPlanes; ++i) {
              step(c[i], left,
                   right_of<T, PRODUCTS>(load_shared<uint32_t>(first + i * plane_bytes),
                                         load_shared<uint32_t>(second + i * plane_bytes)));
            }
          } else {
            const int h = 16 * s + lane() % 16;
            const char* rows = from + (h < last ? h : last) * row_bytes;
#pragma unroll
            for (int i = 0; i < kPlanes; i += 2) {
              uint32_t tiles[4];
              load_tiles_transposed(tiles, rows + i * plane_bytes);
              step(c[i], left, right_of<T, PRODUCTS>(tiles[0], tiles[1]));
              step(c[i + 1], left, right_of<T, PRODUCTS>(tiles[2], tiles[3]));
            }
          }
        }
        const bool upper = kept && 16 * tile + g < p.low_rows, lower = kept && 16 * tile + g + 8 < p.low_rows;
        char* rows = to + 16 * tile * p.low_row * kUnit;
#pragma unroll
        for (int i = 0; i < kPlanes; ++i) {
          char* row = rows + i * p.low_channel * kUnit;
          if (upper) store_low(row, c[i][0], c[i][1]);
          if (lower) store_low(row + 8 * p.low_row * kUnit, c[i][2], c[i][3]);
        }
      }
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

  // x~ of a warp's tiles for a pair of taps, as left operands of the main product.
  ALIAS_OPS_DEVICE void build(const Source (&sources)[kTilesOfWarp], int column_tile, int tap_w,
                              Left<T, PRODUCTS> (&built)[kTilesOfWarp]) const {
    const char* table =
        memory + p.right_at + (tap_w * p.column_tiles + column_tile) * p.right_steps * kFragment + kUnit * lane();
    const int together = p.load_rows, row_bytes = p.row_units * kUnit, load_bytes = p.load_units * kUnit;
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
        for (int at = 0; at < row_bytes;) {
          if (PRODUCTS == 1 && at + load_bytes < row_bytes) {
            add_loads<2>(from, at, load_bytes, table, c);
          } else {
            add_loads<1>(from, at, load_bytes, table, c);
          }
        }
      }
    }
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

  ALIAS_OPS_DEVICE void main_product(int tap_h, int x_buffer, int low_buffer) {
    Tile tiles[kTilesOfWarp];
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
      tiles[i] = tile_of(p, kTilesOfWarp * warp() + i);
      // A warp whose second tile is none builds another one, which goes nowhere.
      if (i > 0 && tiles[i].image < 0) tiles[i].image = 0, tiles[i].row = 0;
    }
    if (tiles[0].image < 0) return;
    warp_barrier();
    Source sources[kTilesOfWarp];
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) sources[i] = source_of(tiles[i], tap_h, x_buffer, low_buffer);
    const int left_over = outputs - block.output;
    for (int tap_w = 0; tap_w < a.layer.w.kernel; ++tap_w) {
      Left<T, PRODUCTS> built[kTilesOfWarp];
      build(sources, tiles[0].column, tap_w, built);
      const char* weight =
          memory + p.weight_at + low_buffer * p.weight_bytes + kUnit * lane() + tap_w * kOutputTiles / 2 * kFragment;
      // Loads wait for no branch where there are outputs for all tiles.
      if (left_over > 16 * (kOutputTiles / 2 - 1)) {
        add_products<true>(weight, kOutputTiles / 2, built);
      } else {
        add_products<false>(weight, ceil_div(left_over, 16), built);
      }
    }
  }

  // ---- the residual's norm ----

  ALIAS_OPS_DEVICE void keep_residual() const {
    auto* kept = reinterpret_cast<float*>(memory);
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
      const Tile tile = tile_of(p, kTilesOfWarp * warp() + i);
      if (tile.image < 0) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = lane() / 4 + 8 * half, row = tile.row + place / p.columns;
        const int column = tile.column * p.columns + place % p.columns;
        float* to = kept + residual_place(p, tile.image, row, column) + lane() % 4 * 2;
#pragma unroll
        for (int o = 0; o < kOutputTiles; ++o) {
          const float* r = residual[i][o] + 2 * half;
          store_shared(to + 8 * o, Words<2>{bits_of(r[0]), bits_of(r[1])});
        }
      }
    }
  }

  ALIAS_OPS_DEVICE void write_residual() const {
    const Axis &h = a.layer.h, &w = a.layer.w;
    const int64_t first =
        (int64_t(block.image) * scratch_outputs(a.layer) + block.group * ceil_div(outputs, 8) + block.output / 8) *
        scratch_map(a.layer);
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
      const Tile tile = tile_of(p, kTilesOfWarp * warp() + i);
      if (tile.image < 0) continue;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int place = lane() / 4 + 8 * half, n = block.band * p.low_rows + tile.row + place / p.columns;
        const int m = tile.column * p.columns + place % p.columns;
        if (n >= h.outputs || m >= w.outputs) continue;
        float* to = a.scratch + first + (n * w.outputs + m) * 8 + lane() % 4 * 2;
#pragma unroll
        for (int o = 0; o < kOutputTiles; ++o) {
          if (block.output + 8 * o >= outputs) break;
          const float* r = residual[i][o] + 2 * half;
          store_global(to + o * scratch_map(a.layer), Words<2>{bits_of(r[0]), bits_of(r[1])});
        }
      }
    }
  }

  ALIAS_OPS_DEVICE void measure() const {
    auto* kept = reinterpret_cast<float*>(memory);
    constexpr int kPrecise = PRODUCTS == 3 ? 3 : 1;
    for (int task = warp(); task < p.images * kOutputTiles; task += kWarps) {
      const int image = task / kOutputTiles, o = task % kOutputTiles * 8;
      if (block.image + image >= a.layer.batch || block.output + o >= outputs) continue;
      const Maps maps{kept + image * p.residual_image + o, p.residual_row, p.residual_column, a.layer.h.outputs,
                      a.layer.w.outputs};
      transform_rows<kPrecise>(maps, a.wave_w, 0, 1);
      warp_barrier();
      float total[2];
      add_moduli<kPrecise>(maps, a.wave_h, 0, 1, total);
      const int output = block.output + o + 2 * lane();
      float* to = a.out + int64_t(block.image + image) * a.layer.outputs + block.group * outputs + output;
      if (lane() < 4 && output < outputs) store_global(to, total[0] * a.scale);
      if (lane() < 4 && output + 1 < outputs) store_global(to + 1, total[1] * a.scale);
    }
  }

  // ---- all of it ----

  ALIAS_OPS_DEVICE void run() {
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
#pragma unroll
      for (int o = 0; o < kOutputTiles; ++o) {
#pragma unroll
        for (int j = 0; j < 4; ++j) residual[i][o][j] = 0;
      }
    }
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
    if (!whole_map(p)) return write_residual();
    wait_for_copies<0>();
    barrier();
    keep_residual();
    barrier();
    measure();
  }
};

template <class T, int PRODUCTS>
ALIAS_OPS_KERNEL(kThreads, 1)
conv2d_alias_l1_kernel(const Arguments a) {
  Measure<T, PRODUCTS>(a).run();
}

// ---- where a map is cut into bands: its residual comes back ----

// A block for eight output channels of an image.
template <int PRODUCTS>
ALIAS_OPS_KERNEL(32 * kSpectrumWarps, 1)
residual_l1_kernel(const Arguments a) {
  const int N = a.layer.h.outputs, M = a.layer.w.outputs, together = scratch_outputs(a.layer);
  const int outputs = a.layer.outputs / a.layer.groups, tiles = ceil_div(outputs, 8);
  const int64_t image = block() / together;
  const int group = int(block() % together) / tiles, o = int(block() % together) % tiles * 8;
  auto* maps = reinterpret_cast<float*>(shared_memory());
  float* sums = maps + N * spectrum_row(M);
  const float* from = a.scratch + block() * scratch_map(a.layer);
  for (int i = thread(); i < N * M * 2; i += 32 * kSpectrumWarps) {
    const int pixel = i / 2;
    copy_async<16>(maps + pixel / M * spectrum_row(M) + pixel % M * 8 + i % 2 * 4, from + 4 * int64_t(i));
  }
  commit_copies();
  wait_for_copies<0>();
  barrier();
  const Maps eight{maps, spectrum_row(M), 8, N, M};
  transform_rows<PRODUCTS>(eight, a.wave_w, warp(), kSpectrumWarps);
  barrier();
  float total[2];
  add_moduli<PRODUCTS>(eight, a.wave_h, warp(), kSpectrumWarps, total);
  if (lane() < 4) {
    store_shared(sums + 8 * warp() + 2 * lane(), total[0]);
    store_shared(sums + 8 * warp() + 2 * lane() + 1, total[1]);
  }
  barrier();
  if (thread() < 8 && o + thread() < outputs) {
    float sum = 0;
    for (int w = 0; w < kSpectrumWarps; ++w) sum += load_shared<float>(sums + 8 * w + thread());
    store_global(a.out + image * a.layer.outputs + group * outputs + o + thread(), sum * a.scale);
  }
}

}  // namespace alias_ops::cuda::conv2d
