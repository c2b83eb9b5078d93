// The one-pass convolution measure of maps whose x does not fit on chip; conv2d_alias_l1_tiled_plan.h says in what
// parts it comes. The products are those of conv2d_alias_l1_kernel.h; the residual goes through memory, and a kernel
// for larger maps takes its norm.
#pragma once

#include "conv2d_alias_l1_kernel.h"

namespace alias_ops::cuda::conv2d {

template <class T, int PRODUCTS>
struct TiledMeasure : Measure<T, PRODUCTS> {
  using Base = Measure<T, PRODUCTS>;
  using Base::a, Base::p, Base::memory, Base::block, Base::inputs;
  using Base::kWide, Base::kNumbers, Base::kChannels, Base::kParts;

  static constexpr int kItem = int(sizeof(T));

  const Tiles& tiles;

  ALIAS_OPS_DEVICE explicit TiledMeasure(const Arguments& arguments) : Base(arguments), tiles(arguments.plan.tiles) {}

  // ---- copies ----

  // Of low and sharp, what is never written: columns behind the last one, channels that a chunk lacks.
  ALIAS_OPS_DEVICE void clear() const {
    for (int at = p.low_at + kUnit * thread(); at < tiles.slab_at; at += kUnit * kThreads) {
      store_shared(memory + at, Words<4>{});
    }
  }

  ALIAS_OPS_DEVICE int64_t plane_of_x(int chunk, int channel) const {
    return block.image * a.x_image + (int64_t(block.group) * inputs + chunk * kChannels + channel) * a.x_channel;
  }

  // Copies BYTES at a time, or with 0 one number. `line_of(line, from, to)` says whether a line exists in x, where its
  // first number is, and where it goes; of its columns, those beyond the map become zeros.
  template <int BYTES, class LineOf>
  ALIAS_OPS_DEVICE void copy_lines(int lines, int first_column, int columns, const LineOf& line_of) const {
    constexpr int kPiece = BYTES == 0 ? 1 : BYTES / kItem;  // numbers
    const int pieces = columns / kPiece, together = kThreads / pieces, along = thread() % pieces * kPiece;
    const bool inside = first_column + along < a.layer.w.size;
    for (int line = thread() / pieces; line < lines; line += together) {
      if (thread() >= together * pieces) break;
      int64_t from = 0;
      char* to = nullptr;
      const bool there = line_of(line, from, to) && inside;
      from += (first_column + along) * a.x_column;
      const auto* x = static_cast<const T*>(a.x);
      if constexpr (BYTES == 0) {
        store_shared(to + along * kItem, there ? load_global<T>(x + from) : T{});
      } else {
        copy_async_or_zero<BYTES>(to + along * kItem, there ? x + from : x, there);
      }
    }
  }

  template <class LineOf>
  ALIAS_OPS_DEVICE void copy_lines(int lines, int first_column, int columns, const LineOf& line_of) const {
    if (a.copied == 16) return copy_lines<16>(lines, first_column, columns, line_of);
    if (a.copied == 8) return copy_lines<8>(lines, first_column, columns, line_of);
    if (a.copied == 4) return copy_lines<4>(lines, first_column, columns, line_of);
    copy_lines<0>(lines, first_column, columns, line_of);
  }

  ALIAS_OPS_DEVICE void copy_slab(int chunk, int index) const {
    const Slab slab = slab_of(p, index);
    const int height = a.layer.h.size, buffer = index % tiles.slab_buffers;
    copy_lines(kSlabPlanes * height, 8 * slab.tile, 8 * tiles.columns, [&](int line, int64_t& from, char*& to) {
      const int plane = line >= height ? 1 : 0, row = line - plane * height, channel = slab.pair * kSlabPlanes + plane;
      from = plane_of_x(chunk, channel) + row * a.x_row;
      to = memory + slab_place(p, buffer, plane, row);
      return chunk * kChannels + channel < inputs;
    });
  }

  ALIAS_OPS_DEVICE void copy_sharp(int chunk, int pass) const {
    const int rows = taps_of_pass(a.layer, p, pass) * p.low_rows;
    copy_lines(rows * kChannels, 0, a.layer.w.size, [&](int line, int64_t& from, char*& to) {
      const int channel = line % kChannels, tap = line / kChannels / p.low_rows, row = line / kChannels % p.low_rows;
      const int h = input_row(a.layer.h, block.band * p.low_rows + row, pass * p.taps + tap);
      from = plane_of_x(chunk, channel) + h * a.x_row;
      to = memory + pass_place(p, tiles.sharp_at, tap, row, channel);
      return unsigned(h) < unsigned(a.layer.h.size) && chunk * kChannels + channel < inputs;
    });
  }

  ALIAS_OPS_DEVICE void copy_left_table(int pass) const {
    const int64_t at = (int64_t(block.band) * p.passes + pass) * pass_bytes(p);
    this->copy(memory + p.left_at, reinterpret_cast<const char*>(a.left) + at, pass_bytes(p));
  }

  ALIAS_OPS_DEVICE void copy_stage(int chunk, int pass, int index) const {
    const Stage stage = stage_of(a.layer, p, index);
    char* to = memory + tiles.stage_at + index % tiles.stage_buffers * tiles.stage_bytes;
    if (tiles.parts == 2) {
      const int bytes = part_steps(p) * kFragment;
      const char* from = reinterpret_cast<const char*>(a.right) + 2 * bytes * stage.tap_w * p.column_tiles;
      for (int tile = 0; tile < p.column_tiles; ++tile) {
        this->copy(to + tile * bytes, from + (2 * tile + stage.part) * bytes, bytes);
      }
    }
    if (!is_last_part(p, stage)) return;
    const int64_t panel = int64_t(block.group) * p.output_blocks + block.output / (8 * kOutputTiles);
    const int64_t step = panel * steps(a.layer, p) + chunk * a.layer.h.kernel + pass * p.taps + stage.tap;
    this->copy(to + staged_table_bytes(p),
               reinterpret_cast<const char*>(a.weight) + step * p.weight_bytes + stage.tap_w * kTapWeight, kTapWeight);
  }

  // ---- products ----

  ALIAS_OPS_DEVICE void left_product(int pass, int index) const {
    const Slab slab = slab_of(p, index);
    const int rest = ceil_div(a.layer.w.size, 8) - slab.tile, count = rest < tiles.columns ? rest : tiles.columns;
    const int g = lane() / 4, t = lane() % 4, plane_bytes = tiles.slab_plane * kUnit;
    const int rows = taps_of_pass(a.layer, p, pass) * p.low_rows;
    for (int task = warp(); task < count; task += kWarps) {
      const int column_written = 8 * (slab.tile + task) + 2 * t;
      const char* from = memory + slab_place(p, index % tiles.slab_buffers, 0, 0) + 8 * task * kItem +
                         (kWide ? 4 * g : lane() / 16 * plane_bytes);
      char* to = memory + pass_place(p, p.low_at, 0, g, slab.pair * kSlabPlanes) + column_written * kItem;
      this->template left_columns<kSlabPlanes>(from, plane_bytes, tiles.slab_row * kUnit,
                                               memory + p.left_at + kUnit * lane(), to, rows,
                                               column_written < p.row_units * kNumbers);
    }
  }

  // Adds a part of the right product: of sharp, or of low.
  ALIAS_OPS_DEVICE void add_part(const Tile (&own)[kTilesOfWarp], int at, int tap, const char* table,
                                 float (&c)[kTilesOfWarp][kParts][4]) const {
    constexpr int kLoad = Base::kLoad;
    const int channel = (kWide ? 0 : lane() / 16 * 8) + lane() % 8, unit = lane() / 8 % kLoad;
    for (int first = 0; first < p.rows; first += p.load_rows) {
      const char* from[kTilesOfWarp];
#pragma unroll
      for (int i = 0; i < kTilesOfWarp; ++i) {
        from[i] = memory + pass_place(p, at, tap, own[i].row + first + unit / p.load_units, channel) +
                  unit % p.load_units * kUnit;
      }
      this->add_rows(from, table, c);
    }
  }

  ALIAS_OPS_DEVICE void add_stage(const Tile (&own)[kTilesOfWarp], int index, float (&c)[kTilesOfWarp][kParts][4]) {
    if (own[0].image < 0) return;
    warp_barrier();
    const Stage stage = stage_of(a.layer, p, index);
    const int bytes = part_steps(p) * kFragment, column = own[0].column;
    const char* staged = memory + tiles.stage_at + index % tiles.stage_buffers * tiles.stage_bytes;
    const char* whole = memory + p.right_at + 2 * bytes * (stage.tap_w * p.column_tiles + column);
    for (int part = stage.part; part < (tiles.parts == 1 ? 2 : stage.part + 1); ++part) {
      const char* table = (tiles.parts == 1 ? whole + part * bytes : staged + column * bytes) + kUnit * lane();
      add_part(own, part == 0 ? tiles.sharp_at : p.low_at, stage.tap, table, c);
    }
    if (!is_last_part(p, stage)) return;
    Left<T, PRODUCTS> built[kTilesOfWarp];
    this->built_of(c, built);
    this->add_outputs(staged + staged_table_bytes(p) + kUnit * lane(), built);
#pragma unroll
    for (int i = 0; i < kTilesOfWarp; ++i) {
#pragma unroll
      for (int j = 0; j < 4 * kParts; ++j) c[i][j / 4][j % 4] = 0;
    }
  }

  // ---- all of it ----

  // What is copied is used one turn later; with one buffer, behind a barrier in between.
  template <class Copy, class Use>
  ALIAS_OPS_DEVICE static void in_turn(int count, int buffers, const Copy& copy, const Use& use) {
    copy(0);
    commit_copies();
    for (int i = 0; i < count; ++i) {
      wait_for_copies<0>();
      barrier();
      if (buffers > 1 && i + 1 < count) copy(i + 1);
      commit_copies();
      use(i);
      if (buffers == 1 && i + 1 < count) {
        barrier();
        copy(i + 1);
        commit_copies();
      }
    }
  }

  ALIAS_OPS_DEVICE void run_tiled() {
    this->clear_residual();
    clear();
    Tile own[kTilesOfWarp];
    this->find_tiles(own);
    if (tiles.parts == 1) this->copy(memory + p.right_at, a.right, p.right_bytes);
    for (int chunk = 0; chunk < p.chunks; ++chunk) {
      for (int pass = 0; pass < p.passes; ++pass) {
        barrier();
        copy_left_table(pass);
        copy_sharp(chunk, pass);
        in_turn(
            slabs_of_chunk(a.layer, p, chunk), tiles.slab_buffers, [&](int i) { copy_slab(chunk, i); },
            [&](int i) { left_product(pass, i); });
        barrier();  // stages lie where slabs were
        float c[kTilesOfWarp][kParts][4] = {};
        in_turn(
            stages_of_pass(a.layer, p, pass), tiles.stage_buffers, [&](int i) { copy_stage(chunk, pass, i); },
            [&](int i) { add_stage(own, i, c); });
      }
    }
    wait_for_copies<0>();
    this->write_residual();
  }
};

template <class T, int PRODUCTS>
ALIAS_OPS_KERNEL(kThreads, 1)
conv2d_alias_l1_tiled_kernel(const Arguments a) {
  TiledMeasure<T, PRODUCTS>(a).run_tiled();
}

// The norms of eight output channels of an image. A tile of frequencies along the width at a time, so that what lies on
// chip is [n][cosines and sines of eight frequencies][8]: the residual is read once for each.
template <int PRODUCTS>
ALIAS_OPS_KERNEL(kThreads, 1)
large_residual_l1_kernel(const Arguments a) {
  const int N = a.layer.h.outputs, M = a.layer.w.outputs, together = scratch_outputs(a.layer);
  const int outputs = a.layer.outputs / a.layer.groups, tiles = ceil_div(outputs, 8), steps = sample_steps(M);
  const int64_t image = block() / together;
  const int group = int(block() % together) / tiles, o = int(block() % together) % tiles * 8;
  const int g = lane() / 4, t = lane() % 4, last = M - 1;
  auto* kept = reinterpret_cast<float*>(shared_memory());
  float* sums = kept + N * kLargeSpectrumRow;
  const float* from = a.scratch + block() * scratch_map(a.layer);
  float total[2] = {};
  for (int tile = 0; tile < pair_tiles(M); ++tile) {
    barrier();  // the tile before is summed up
    for (int n = warp(); n < N; n += kWarps) {
      warp_barrier();  // products want all lanes at one instruction
      const float* samples = from + int64_t(n) * M * 8 + g;
      float c[4] = {};
      for (int s = 0; s < steps; ++s) {
        const int m = 8 * s + t;
        const auto right =
            right_of<float, PRODUCTS>(load_global<uint32_t>(samples + (m < last ? m : last) * 8),
                                      load_global<uint32_t>(samples + (m + 4 < last ? m + 4 : last) * 8));
        step(c, wave_of<PRODUCTS>(a.wave_w, tile, steps, s), right);
      }
      float* to = kept + n * kLargeSpectrumRow + 8 * g + 2 * t;
      store_shared(to, Words<2>{bits_of(c[0]), bits_of(c[1])});
      store_shared(to + 64, Words<2>{bits_of(c[2]), bits_of(c[3])});
    }
    barrier();
    const Maps eight{kept, kLargeSpectrumRow, 8, N, M};
    static_assert(kWarps == 8, "a warp takes one of a tile's frequencies");
    const int frequency = 8 * tile + warp();
    if (frequency < pairs(M)) add_frequency<PRODUCTS>(eight, a.wave_h, warp(), 8 + warp(), frequency == 0, total);
  }
  add_lanes(total);
  if (lane() < 4) store_shared(sums + 8 * warp() + 2 * lane(), Words<2>{bits_of(total[0]), bits_of(total[1])});
  barrier();
  if (thread() >= 8 || o + thread() >= outputs) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += load_shared<float>(sums + 8 * w + thread());
  store_global(a.out + image * a.layer.outputs + group * outputs + o + thread(), sum * a.scale);
}

}  // namespace alias_ops::cuda::conv2d
