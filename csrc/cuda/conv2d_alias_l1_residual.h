// What becomes of a residual: its norms, by one block, by the blocks of a cluster, or through memory by a second
// kernel.
#pragma once

#include "conv2d_alias_l1_copies.h"

namespace alias_ops::cuda::conv2d {

template <class T, int PRODUCTS>
struct Residual : Copies<T, PRODUCTS> {
  using Base = Copies<T, PRODUCTS>;
  using Base::a, Base::p, Base::memory, Base::block, Base::outputs;

  static constexpr int kPrecise = PRODUCTS == 3 ? 3 : 1;

  float residual[kTilesOfWarp][kOutputTiles][4];

  ALIAS_OPS_DEVICE explicit Residual(const Arguments& arguments) : Base(arguments) {}

  ALIAS_OPS_DEVICE void clear_residual() {
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
#pragma unroll
      for (int o = 0; o < kOutputTiles; ++o) {
#pragma unroll
        for (int j = 0; j < 4; ++j) residual[i][o][j] = 0;
      }
    }
  }

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

  // ---- by a cluster, whose blocks keep a band each ----

  // The block's group of channels comes from the other bands. Everything is in registers before anything is written:
  // it goes where the others look for what is theirs.
  ALIAS_OPS_DEVICE void trade(float* kept, int tiles) const {
    const int units = group_units(p), unit = thread() % units, column = thread() / units;
    const bool taking = column < pixels_at_once(a.layer, p) && unit < 2 * tiles;
    Words<4> brought[kTurns];
    cluster_barrier();
    Pixel pixel = first_pixel(p, block.band, column, taking);
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (is_there(a.layer, p, pixel)) {
        brought[i] = load_of_block(kept + group_place(p, pixel, block.band) + 4 * unit, pixel.band);
      }
      go_on(a.layer, p, block.band, pixel);
    }
    cluster_barrier();  // behind it nobody reads this block's memory any more: it may write there, and leave
    pixel = first_pixel(p, block.band, column, taking);
#pragma unroll
    for (int i = 0; i < kTurns; ++i) {
      if (is_there(a.layer, p, pixel)) {
        store_shared(kept + group_place(p, pixel, pixel.band) + 4 * unit, brought[i]);
      }
      go_on(a.layer, p, block.band, pixel);
    }
  }

  ALIAS_OPS_DEVICE void measure_together() const {
    auto* kept = reinterpret_cast<float*>(memory);
    auto* sums = reinterpret_cast<float*>(memory + p.sums_at);
    const int left_over = ceil_div(outputs - block.output, 8),
              tiles = left_over < kOutputTiles ? left_over : kOutputTiles;
    const int rows = rows_of_band(a.layer, p, block.band);
    for (int task = warp(); task < tiles * rows; task += kWarps) {
      const Maps maps{kept + 8 * (task % tiles), p.residual_row, p.residual_column, rows, a.layer.w.outputs};
      transform_rows<kPrecise>(maps, a.wave_w, task / tiles, rows);
    }
    const int first = block.band * p.group_tiles, rest = tiles - first;
    const int own = rest < 0 ? 0 : rest < p.group_tiles ? rest : p.group_tiles;
    trade(kept, own);
    barrier();
    for (int tile = 0; tile < own; ++tile) {
      const BandedMaps maps{{kept + 8 * tile, p.residual_row, p.residual_column, a.layer.h.outputs, a.layer.w.outputs},
                            p.low_rows,
                            8 * p.group_tiles};
      float total[2];
      add_moduli<kPrecise>(maps, a.wave_h, warp(), kWarps, total);
      float* to = sums + (tile * kWarps + warp()) * 8 + 2 * lane();
      if (lane() < 4) store_shared(to, Words<2>{bits_of(total[0]), bits_of(total[1])});
    }
    barrier();
    const int output = block.output + 8 * first + thread();
    if (thread() >= 8 * own || output >= outputs) return;
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += load_shared<float>(sums + (thread() / 8 * kWarps + w) * 8 + thread() % 8);
    store_global(a.out + int64_t(block.image) * a.layer.outputs + block.group * outputs + output, sum * a.scale);
  }
};

// ---- through memory: the residual of a map cut into bands comes back ----

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
