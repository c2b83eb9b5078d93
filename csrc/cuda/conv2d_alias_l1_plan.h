// How the one-pass convolution measure is cut into blocks, tiles and shared memory; numbers only, so that a CPU can
// check all of it. benchmarks/NOTES.md, "CUDA C++: one-pass convolution measure", has the reasons.
#pragma once

#include "conv2d_alias_l1_tiled_plan.h"

namespace alias_ops::cuda::conv2d {

// Columns of a row of x that are read: those behind the map are zeros.
ALIAS_OPS_BOTH int columns_kept(const Layer& l, const Plan& p) {
  const int taken = p.row_units * numbers_of_unit(l.precision), tiles = 8 * ceil_div(l.w.size, 8);
  return taken > tiles ? taken : tiles;
}

// The residual on chip, which lies where everything else was; of a cluster, each block its band's.
ALIAS_OPS_BOTH int residual_bytes(const Plan& p) {
  if (whole_map(p)) return 4 * p.images * p.residual_image;
  return p.cluster > 1 ? p.sums_at + 4 * p.group_tiles * kWarps * 8 : 0;
}

ALIAS_OPS_BOTH void lay_out_residual(const Layer& l, Plan& p, int cluster) {
  const int tiles = ceil_div(l.outputs / l.groups, 8);
  p.cluster = cluster;
  p.group_tiles = ceil_div(tiles < kOutputTiles ? tiles : kOutputTiles, cluster);
  // Blocks trade groups of tiles: of three blocks, the last one's group may be smaller than the room that it needs.
  const int kept = p.group_tiles * cluster < kOutputTiles ? kOutputTiles : p.group_tiles * cluster;
  p.residual_column = 8 * kept + 8;
  p.residual_row = p.column_tiles * p.columns * p.residual_column + 8;
  p.residual_image = p.low_rows * p.residual_row;
  p.sums_at = 4 * p.residual_image;
}

// Where the parts of shared memory lie; `buffers` of x, two of low if more than one.
ALIAS_OPS_BOTH int lay_out(Plan& p, int buffers) {
  p.x_buffers = buffers;
  p.low_buffers = buffers > 1 ? 2 : 1;
  p.zero_at = 0;
  p.left_at = p.zero_at + p.row_units * kUnit;
  p.right_at = p.left_at + p.left_bytes;
  p.weight_at = p.right_at + p.right_bytes;
  p.low_at = p.weight_at + p.low_buffers * p.weight_bytes;
  p.x_at = p.low_at + p.low_buffers * p.images * p.low_image * kUnit;
  const int working = p.x_at + p.x_buffers * p.images * p.x_image * kUnit;
  return working > residual_bytes(p) ? working : residual_bytes(p);
}

// The plan of a layer, with shared == 0 where it does not fit into `limit` bytes of shared memory or is not served.
// `clusters`: whether the chip, and the code for it, have them.
ALIAS_OPS_BOTH Plan kept_plan_of(const Layer& l, int limit, bool clusters) {
  Plan p = cut_of(l);
  const int unit = numbers_of_unit(l.precision), kept_units = ceil_div(columns_kept(l, p), unit);
  // Eight rows meet in one ldmatrix, four rows of eight floats in one load of the left product: each on banks of its
  // own.
  p.x_row = sixteen_bits(l.precision) ? up_to(p.row_units, 1, 2) : up_to(kept_units, 2, 4);
  p.x_plane = up_to(l.h.size * p.x_row, 1, 2);
  p.x_image = channels_of_chunk(l.precision) * p.x_plane;
  take_taps(l, p, 1);
  p.right_bytes = l.w.kernel * p.column_tiles * p.right_steps * kFragment;

  lay_out_residual(l, p, clusters && p.bands <= kLargestCluster ? p.bands : 1);
  if (p.cluster > 1 && residual_bytes(p) > limit) lay_out_residual(l, p, 1);

  p.images = whole_map(p) ? kSlots / tiles_of_image(p) : 1;
  if (p.images > l.batch) p.images = l.batch > 0 ? l.batch : 1;
  // A kernel of one row has a new chunk every step: the next one but one is on its way while two are in use.
  const int most = p.chunks * l.h.kernel == 1 ? 1 : l.h.kernel == 1 ? 3 : 2;
  for (; p.images > 0; --p.images) {
    for (int buffers = most; buffers > 0; buffers = buffers > 1 ? 1 : 0) {
      const int bytes = lay_out(p, buffers);
      if (bytes <= limit) {
        p.shared = bytes;
        return p;
      }
    }
  }
  return p;
}

// The same, of whichever way there is: x on chip as a whole, or in parts.
ALIAS_OPS_BOTH Plan plan_of(const Layer& l, int limit, bool clusters) {
  if (!serves_axis(l.h) || !serves_axis(l.w)) return {};
  if (l.h.outputs <= kLargestKept && l.w.outputs <= kLargestKept) {
    const Plan p = kept_plan_of(l, limit, clusters);
    if (p.shared > 0) return p;
  }
  return tiled_plan_of(l, limit);
}

// What tables and weights depend on, in the order of Plan in alias_ops/kernels/conv2d_alias_l1_cuda_tables.py.
constexpr int kPlanNumbers = 18;

ALIAS_OPS_BOTH void plan_numbers(const Plan& p, int64_t* out) {
  const int numbers[kPlanNumbers] = {p.shared, p.rows,      p.columns,    p.column_tiles, p.low_rows,      p.bands,
                                     p.chunks, p.row_units, p.left_tiles, p.left_steps,   p.output_blocks, kOutputTiles,
                                     p.images, p.x_buffers, p.cluster,    p.taps,         p.passes,        on_chip(p)};
  for (int i = 0; i < kPlanNumbers; ++i) out[i] = numbers[i];
}

// ---- who does what
// ---------------------------------------------------------------------------------------------------

struct Block {
  int image, band, group, output;  // first image, first output channel within the group
};

ALIAS_OPS_BOTH int64_t block_count(const Layer& l, const Plan& p) {
  return int64_t(ceil_div(l.batch, p.images)) * p.bands * l.groups * p.output_blocks;
}

// Neighbours share x: outputs first, then groups, bands, images. Those of a cluster are one map's bands.
ALIAS_OPS_BOTH Block block_of(const Layer& l, const Plan& p, int64_t index) {
  Block b{};
  const int band = int(index % p.cluster);
  index /= p.cluster;
  b.output = int(index % p.output_blocks) * 8 * kOutputTiles;
  index /= p.output_blocks;
  b.group = int(index % l.groups);
  index /= l.groups;
  b.band = p.cluster > 1 ? band : int(index % p.bands);
  b.image = int(p.cluster > 1 ? index : index / p.bands) * p.images;
  return b;
}

// A tile of a block: its image there, its first strided row within the band, its column tile. image < 0: none.
struct Tile {
  int image, row, column;
};

ALIAS_OPS_BOTH Tile tile_of(const Plan& p, int slot) {
  const int image = slot / tiles_of_image(p), rest = slot % tiles_of_image(p);
  if (image >= p.images) return {-1, 0, 0};
  return {image, rest % p.groups_of_band * p.rows, rest / p.groups_of_band};
}

// Where numbers of a chunk lie in shared memory, in bytes; planes of x, [image][channel], follow each other.
ALIAS_OPS_BOTH int x_place(const Plan& p, int buffer, int image, int channel, int row) {
  return p.x_at + ((buffer * p.images + image) * p.x_image + channel * p.x_plane + row * p.x_row) * kUnit;
}

ALIAS_OPS_BOTH int plane_place(const Plan& p, int buffer, int plane) {
  return p.x_at + (buffer * p.images * p.x_image + plane * p.x_plane) * kUnit;
}

ALIAS_OPS_BOTH int low_place(const Plan& p, int buffer, int image, int row, int channel) {
  return p.low_at + ((buffer * p.images + image) * p.low_image + row * p.low_row + channel * p.low_channel) * kUnit;
}

ALIAS_OPS_BOTH int residual_place(const Plan& p, int image, int row, int column) {
  return image * p.residual_image + row * p.residual_row + column * p.residual_column;
}

// The input row under a tap of the strided row n; outside of 0..size-1 it is padding.
ALIAS_OPS_BOTH int input_row(const Axis& a, int n, int tap) { return n * kStride + tap * a.dilation - a.padding; }

// The chunk of x that is sent for at the start of a step, or none: -1. One of several buffers is free as soon as its
// chunk's last step is over, and has to be full a step before its new chunk's first one.
ALIAS_OPS_BOTH int chunk_to_copy(const Layer& l, const Plan& p, int step) {
  const int taps = l.h.kernel;
  if (p.x_buffers == 1) return step % taps == 0 ? step / taps : -1;
  if (taps == 1) return step + 2;
  if (step == -2) return 0;
  return step >= 0 && step % taps == 0 ? step / taps + 1 : -1;
}

// ---- the last transform
// ----------------------------------------------------------------------------------------------

// A real axis of n samples has this many cosines with a sine beside them; that of frequency 0 has the cosine of n / 2.
ALIAS_OPS_BOTH int pairs(int n) { return ceil_div(n, 2); }
ALIAS_OPS_BOTH int pair_tiles(int n) { return ceil_div(pairs(n), 8); }
ALIAS_OPS_BOTH int sample_steps(int n) { return ceil_div(n, 8); }
// Bytes of an axis' table: [tile][step] operand tiles.
ALIAS_OPS_BOTH int wave_bytes(int n) { return pair_tiles(n) * sample_steps(n) * kFragment; }

// Between the two axes the blocks of a cluster trade: each brings its group of output channels of every row of the
// other bands, once those are transformed along the width, and puts them where its own rows' other channels were, which
// those bands brought meanwhile. A thread brings the same 16 bytes of a pixel after the other, kTurns of them.
constexpr int kTurns = 25;

struct Pixel {
  int band, row, column;
};

ALIAS_OPS_BOTH int rows_of_band(const Layer& l, const Plan& p, int band) {
  const int rows = l.h.outputs - band * p.low_rows;
  return rows < p.low_rows ? rows : p.low_rows;
}
ALIAS_OPS_BOTH int group_units(const Plan& p) { return 2 * p.group_tiles; }
ALIAS_OPS_BOTH int columns_traded(const Layer& l) { return 2 * pairs(l.w.outputs); }
// A row at most, so that a thread's next pixel is in the same row or in the next one.
ALIAS_OPS_BOTH int pixels_at_once(const Layer& l, const Plan& p) {
  const int most = kThreads / group_units(p), columns = columns_traded(l);
  return most < columns ? most : columns;
}
// `taking`: whether there is anything for the thread at all; if not, its first pixel is beyond the last one.
ALIAS_OPS_BOTH Pixel first_pixel(const Plan& p, int own, int column, bool taking) {
  return {!taking ? p.bands : own == 0 ? 1 : 0, 0, column};
}
ALIAS_OPS_BOTH bool is_there(const Layer& l, const Plan& p, const Pixel& pixel) {
  return pixel.band * p.low_rows + pixel.row < l.h.outputs;
}
ALIAS_OPS_BOTH void go_on(const Layer& l, const Plan& p, int own, Pixel& pixel) {
  pixel.column += pixels_at_once(l, p);
  const bool next_row = pixel.column >= columns_traded(l);
  pixel.column -= next_row ? columns_traded(l) : 0;
  pixel.row += next_row ? 1 : 0;
  const bool next_band = pixel.row == p.low_rows;
  pixel.row = next_band ? 0 : pixel.row;
  pixel.band += !next_band ? 0 : pixel.band + 1 == own ? 2 : 1;
}
// The first float of a group of a pixel.
ALIAS_OPS_BOTH int group_place(const Plan& p, const Pixel& pixel, int group) {
  return pixel.row * p.residual_row + pixel.column * p.residual_column + 8 * p.group_tiles * group;
}

// Floats between the residual's parts where it goes through memory: [image][outputs / 8][n][m][8].
ALIAS_OPS_BOTH int64_t scratch_map(const Layer& l) { return int64_t(l.h.outputs) * l.w.outputs * 8; }
ALIAS_OPS_BOTH int scratch_outputs(const Layer& l) { return l.groups * ceil_div(l.outputs / l.groups, 8); }

// The last transform of such a residual, eight maps a block. Maps that one block of x's kernel kept: [n][m][8] in
// shared memory; larger ones: [n][cosines and sines of eight frequencies][8].
constexpr int kSpectrumWarps = 4;

ALIAS_OPS_BOTH int spectrum_row(int M) { return 8 * up_to(M, 0, 4) + 8; }
ALIAS_OPS_BOTH int spectrum_bytes(const Layer& l) {
  return 4 * (l.h.outputs * spectrum_row(l.w.outputs) + 8 * kSpectrumWarps);
}
constexpr int kLargeSpectrumRow = 8 * 16 + 8;
ALIAS_OPS_BOTH int large_spectrum_bytes(const Layer& l) { return 4 * (l.h.outputs * kLargeSpectrumRow + 8 * kWarps); }

// ---- a call
// ----------------------------------------------------------------------------------------------------------

struct Arguments {
  const void* x;
  int64_t x_image, x_channel, x_row, x_column;  // strides, in numbers
  int copied;                                   // of copied_bytes
  const uint32_t* weight;                       // [group][output block][chunk][tap_h] of Plan::weight_bytes
  const uint32_t* left;                         // [band][tap_h][tile][step] operand tiles
  const uint32_t* right;                        // [tap_w][column tile][step] operand tiles
  const float *wave_h, *wave_w;                 // [tile][step] operand tiles
  float scale;                                  // of the result
  float* out;                                   // [batch][outputs]
  float* scratch;  // where a map's bands make no cluster: its residuals, [batch][scratch_outputs][N][M][8]
  Layer layer;
  Plan plan;
};

ALIAS_OPS_BOTH int64_t weight_bytes(const Layer& l, const Plan& p) {
  return int64_t(l.groups) * p.output_blocks * steps(l, p) * p.weight_bytes;
}

ALIAS_OPS_BOTH int64_t scratch_bytes(const Layer& l, const Plan& p) {
  return on_chip(p) ? 0 : 4 * int64_t(l.batch) * scratch_outputs(l) * scratch_map(l);
}

// The largest of 16, 8 and 4 bytes that every row of x can be copied by; 0: one number at a time.
ALIAS_OPS_BOTH int copied_bytes(const Arguments& a, int item) {
  const Layer& l = a.layer;
  if (l.w.size > 1 && a.x_column != 1) return 0;
  for (int bytes = 16; bytes >= 4; bytes /= 2) {
    const int64_t steps[] = {l.batch > 1 ? a.x_image : 0, l.channels > 1 ? a.x_channel : 0, l.h.size > 1 ? a.x_row : 0,
                             l.w.size};
    bool fits = reinterpret_cast<uintptr_t>(a.x) % bytes == 0;
    for (const int64_t step : steps) fits = fits && step * item % bytes == 0;
    if (fits) return bytes;
  }
  return 0;
}

}  // namespace alias_ops::cuda::conv2d
