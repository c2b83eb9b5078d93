// A layer, and what there is to say of how the one-pass convolution measure cuts it; conv2d_alias_l1_plan.h decides.
#pragma once

#include "numbers.h"
#include "ops.h"

namespace alias_ops::cuda::conv2d {

constexpr int kWarps = 8;
constexpr int kThreads = 32 * kWarps;
constexpr int kTilesOfWarp = 2;                // tiles of 16 strided outputs, times all output channels of a block
constexpr int kSlots = kWarps * kTilesOfWarp;  // tiles of a block
constexpr int kOutputTiles = 16;               // of 8 output channels, of a block
constexpr int kUnit = 16;                      // bytes that move together
constexpr int kFragment = 512;                 // bytes of one operand tile of 16 rows, as a warp holds it
constexpr int kStride = 2;                     // of the layer
constexpr int kLargestKernel = 7;
constexpr int kLargestOutput = 112;  // along an axis
constexpr int kLargestKept = 32;     // the same, where x of a chunk lies on chip as a whole
constexpr int kLargestCluster = 8;   // of blocks, on every chip that has clusters
constexpr int kLargestInput = 256;   // keeps sizes in bytes far below 2^31

ALIAS_OPS_BOTH int ceil_div(int a, int b) { return (a + b - 1) / b; }
ALIAS_OPS_BOTH bool sixteen_bits(Precision p) { return p == Precision::kBFloat16 || p == Precision::kFloat16; }
ALIAS_OPS_BOTH int numbers_of_unit(Precision p) { return sixteen_bits(p) ? 8 : 4; }
// Channels that one step of the products over channels takes: 32 bytes of a weight's row.
ALIAS_OPS_BOTH int channels_of_chunk(Precision p) { return 2 * numbers_of_unit(p); }
// Units that one ldmatrix brings of a channel: of 8 channels, or two times 8.
ALIAS_OPS_BOTH int units_of_load(Precision p) { return sixteen_bits(p) ? 2 : 4; }

// The next number that is `rest` modulo `modulus`.
ALIAS_OPS_BOTH int up_to(int value, int rest, int modulus) {
  return value + ((rest - value) % modulus + modulus) % modulus;
}

// Along one axis; outputs is that of the layer, so of the strided map.
struct Axis {
  int size, kernel, padding, dilation, outputs;
};

ALIAS_OPS_BOTH Axis axis_of(int size, int kernel, int padding, int dilation) {
  return {size, kernel, padding, dilation, ceil_div(size + 2 * padding - dilation * (kernel - 1), kStride)};
}

struct Layer {
  Axis h, w;
  int batch, channels, outputs, groups;
  Precision precision;
};

// How x and tables come in parts where the whole is too large: conv2d_alias_l1_tiled.h. All 0 where it is not.
struct Tiles {
  int columns, slabs;            // of a slab of x, in tiles of 8, and slabs of a row
  int slab_row, slab_plane;      // distances in units
  int slab_bytes, slab_buffers;  // one buffer where there is no room for two
  int parts;  // of the right product's table that come one by one: 2, or 1 and it is there as a whole
  int stage_bytes, stage_buffers;
  int sharp_at, slab_at, stage_at;
};

// Distances are in units of 16 bytes, places in bytes from the start of a block's shared memory.
struct Plan {
  // A tile is `rows` x `columns` strided outputs; a row of the map has column_tiles of them.
  int rows, columns, column_tiles, row_groups;
  int images;                 // of a block; 1 where the map is cut into bands
  int bands, groups_of_band;  // of row_groups
  int cluster;                // the blocks of a map's bands, which keep its residual on chip; 1: none
  int group_tiles;            // of 8 output channels: what a block of a cluster takes of the map's norms
  int chunks, output_blocks;  // of a group of channels
  // x of a chunk: [image][channel][row][unit]; low: [image][strided row][channel][unit].
  int row_units;              // of a row of x and of low, as the right product takes them
  int load_units, load_rows;  // units of a row, and rows, in a load of the right product
  int x_row, x_plane, x_image, x_buffers;
  int low_channel, low_row, low_image, low_buffers, low_rows;  // as many buffers of weights
  int taps, passes;                           // rows of taps that the product along the height takes at once, and times
  int left_tiles, left_steps;                 // of that product: tiles of 16 rows, of all those taps; steps along h
  int right_steps;                            // of the product along the width
  int left_bytes, right_bytes, weight_bytes;  // tables of a band; the weight's share of a step
  int x_at, low_at, weight_at, left_at, right_at, zero_at;
  int residual_column, residual_row, residual_image;  // floats: the residual on chip, [image][n][m][output]
  int sums_at;                                        // of a cluster's norms, [group tile][warp][8]
  Tiles tiles;                                        // where x comes a part at a time; there, other parts count less
  int shared;                                         // bytes, 0 where the layer is not one of this kernel's
};

ALIAS_OPS_BOTH bool tiled(const Plan& p) { return p.tiles.columns > 0; }
ALIAS_OPS_BOTH bool whole_map(const Plan& p) { return p.bands == 1 && !tiled(p); }
// Otherwise the residual goes through memory.
ALIAS_OPS_BOTH bool on_chip(const Plan& p) { return whole_map(p) || p.cluster > 1; }
ALIAS_OPS_BOTH int tiles_of_image(const Plan& p) { return p.groups_of_band * p.column_tiles; }
ALIAS_OPS_BOTH int steps(const Layer& l, const Plan& p) { return p.chunks * l.h.kernel; }

ALIAS_OPS_BOTH bool serves_axis(const Axis& a) {
  const bool kernel = a.kernel == 1 || a.kernel == 3 || a.kernel == 5 || a.kernel == 7;
  return kernel && a.size > 0 && a.size <= kLargestInput && a.outputs > 0 && a.outputs <= kLargestOutput;
}

}  // namespace alias_ops::cuda::conv2d
