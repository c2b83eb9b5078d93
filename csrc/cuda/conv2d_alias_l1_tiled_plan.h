// The one-pass convolution measure of maps whose x does not fit on chip: how x and the tables come in parts.
//
// A pass is a chunk of channels and as many rows of taps as there is room for. First x comes in slabs, two channels by
// some columns by all rows, and leaves its columns of low for all those taps; the rows of x that the taps meet come as
// well, `sharp`, laid out as low is. Then, a pair of taps at a time, the right and the main product. The right one's
// table comes in stages, of a pair of taps and one of its parts (that of x, that of low), or it is there as a whole;
// with each last part comes the weight. Stages lie where the slabs were.
#pragma once

#include "conv2d_alias_l1_layer.h"

namespace alias_ops::cuda::conv2d {

constexpr int kSlabPlanes = 2;                            // channels of a slab: of one ldmatrix
constexpr int kTapWeight = kOutputTiles * 8 * 2 * kUnit;  // bytes of a chunk's weight of one pair of taps

// What follows from a layer alone.
ALIAS_OPS_BOTH Plan cut_of(const Layer& l) {
  Plan p{};
  const int N = l.h.outputs, M = l.w.outputs, unit = numbers_of_unit(l.precision);
  p.rows = M > 8 ? 1 : M > 4 ? 2 : 4;
  p.columns = 16 / p.rows;
  p.column_tiles = ceil_div(M, p.columns);
  p.row_groups = ceil_div(N, p.rows);
  // A warp's two tiles share their columns.
  const int most = p.column_tiles > 1 ? kSlots / p.column_tiles / 2 * 2 : kSlots;
  p.bands = ceil_div(p.row_groups, most);
  p.groups_of_band = ceil_div(p.row_groups, p.bands);
  if (p.column_tiles > 1) p.groups_of_band = up_to(p.groups_of_band, 0, 2);
  p.bands = ceil_div(p.row_groups, p.groups_of_band);
  p.low_rows = p.groups_of_band * p.rows;
  p.images = p.cluster = 1;
  p.chunks = ceil_div(l.channels / l.groups, channels_of_chunk(l.precision));
  p.output_blocks = ceil_div(l.outputs / l.groups, 8 * kOutputTiles);

  // A load of the right product is 2 or 4 units: of one row, or of neighbouring ones where these are so short.
  const int load = units_of_load(l.precision);
  p.load_units = load / p.rows;
  if (p.load_units == 0) p.load_units = 1;
  while (p.load_units < load && p.load_units < ceil_div(l.w.size, unit)) p.load_units *= 2;
  p.load_rows = load / p.load_units;
  p.row_units = up_to(ceil_div(l.w.size, unit), 0, p.load_units);
  p.low_channel = up_to(p.row_units, 1, 2);
  p.low_row = up_to(channels_of_chunk(l.precision) * p.low_channel, sixteen_bits(l.precision) ? 1 : 2, 4);
  p.right_steps = p.rows * p.row_units;
  p.weight_bytes = l.w.kernel * kTapWeight;
  return p;
}

// How many rows of taps the left product takes at once.
ALIAS_OPS_BOTH void take_taps(const Layer& l, Plan& p, int taps) {
  p.taps = taps;
  p.passes = ceil_div(l.h.kernel, taps);
  p.low_image = taps * p.low_rows * p.low_row;
  p.left_tiles = ceil_div(taps * p.low_rows, 16);
  p.left_steps = ceil_div(l.h.size, 2 * numbers_of_unit(l.precision));
  p.left_bytes = p.passes * p.left_tiles * p.left_steps * kFragment;
}

ALIAS_OPS_BOTH int pass_bytes(const Plan& p) { return p.left_bytes / p.passes; }  // of the left product's table
ALIAS_OPS_BOTH int part_steps(const Plan& p) { return p.right_steps / 2; }        // of the right product's, for a tile
ALIAS_OPS_BOTH int taps_of_pass(const Layer& l, const Plan& p, int pass) {
  const int rest = l.h.kernel - pass * p.taps;
  return rest < p.taps ? rest : p.taps;
}
ALIAS_OPS_BOTH int channels_there(const Layer& l, int chunk) {
  const int most = channels_of_chunk(l.precision), rest = l.channels / l.groups - chunk * most;
  return rest < most ? rest : most;
}

// A slab: its pair of channels and its first tile of 8 columns; pairs that a chunk lacks have none.
struct Slab {
  int pair, tile;
};
ALIAS_OPS_BOTH int slabs_of_chunk(const Layer& l, const Plan& p, int chunk) {
  return ceil_div(channels_there(l, chunk), kSlabPlanes) * p.tiles.slabs;
}
ALIAS_OPS_BOTH Slab slab_of(const Plan& p, int index) {
  return {index / p.tiles.slabs, index % p.tiles.slabs * p.tiles.columns};
}

// A stage of a pass: its row of taps within the pass, its column of taps, its part of the table.
struct Stage {
  int tap, tap_w, part;
};
ALIAS_OPS_BOTH int stages_of_pass(const Layer& l, const Plan& p, int pass) {
  return taps_of_pass(l, p, pass) * l.w.kernel * p.tiles.parts;
}
ALIAS_OPS_BOTH Stage stage_of(const Layer& l, const Plan& p, int index) {
  const int pair = index / p.tiles.parts;
  return {pair / l.w.kernel, pair % l.w.kernel, index % p.tiles.parts};
}
// Whether the weight comes with it, behind the table.
ALIAS_OPS_BOTH bool is_last_part(const Plan& p, const Stage& s) { return s.part == p.tiles.parts - 1; }
ALIAS_OPS_BOTH int staged_table_bytes(const Plan& p) {
  return p.tiles.parts == 2 ? p.column_tiles * part_steps(p) * kFragment : 0;
}

// Where numbers lie in shared memory, in bytes: of a slab, and of low and sharp alike.
ALIAS_OPS_BOTH int slab_place(const Plan& p, int buffer, int plane, int row) {
  return p.tiles.slab_at + buffer * p.tiles.slab_bytes + (plane * p.tiles.slab_plane + row * p.tiles.slab_row) * kUnit;
}
ALIAS_OPS_BOTH int pass_place(const Plan& p, int at, int tap, int row, int channel) {
  return at + ((tap * p.low_rows + row) * p.low_row + channel * p.low_channel) * kUnit;
}

// Bytes of shared memory with slabs of so many tiles of 8 columns.
ALIAS_OPS_BOTH int lay_out_tiles(const Layer& l, Plan& p, int columns) {
  Tiles& t = p.tiles;
  const int all = ceil_div(l.w.size, 8), units = 8 / numbers_of_unit(l.precision);
  t.slabs = ceil_div(all, columns);
  t.columns = ceil_div(all, t.slabs);
  // As rows of x: eight of them in one ldmatrix, or four of eight floats in one load, on banks of their own.
  t.slab_row = sixteen_bits(l.precision) ? up_to(t.columns, 1, 2) : up_to(units * t.columns, 2, 4);
  t.slab_plane = l.h.size * t.slab_row;
  t.slab_bytes = kSlabPlanes * t.slab_plane * kUnit;
  t.stage_bytes = staged_table_bytes(p) + kTapWeight;
  p.right_bytes = l.w.kernel * p.column_tiles * p.right_steps * kFragment;
  p.left_at = 0;
  p.right_at = p.left_at + pass_bytes(p);
  p.low_at = p.right_at + (t.parts == 1 ? p.right_bytes : 0);
  t.sharp_at = p.low_at + p.low_image * kUnit;
  t.slab_at = t.stage_at = t.sharp_at + p.low_image * kUnit;
  const int slabs = t.slab_buffers * t.slab_bytes, stages = t.stage_buffers * t.stage_bytes;
  return t.slab_at + (slabs > stages ? slabs : stages);
}

// With shared == 0 where there is no room. As many taps at once as there is room for, for x is read again for every
// pass; then the table as a whole rather than in stages, two buffers rather than one. Slabs are as wide as they can be,
// and above half of the warps' number, or it is another plan's turn.
ALIAS_OPS_BOTH Plan tiled_plan_of(const Layer& l, int limit) {
  Plan p = cut_of(l);
  const int all = ceil_div(l.w.size, 8), wanted = all < kWarps / 2 ? all : kWarps / 2;
  for (int least = wanted; least > 0; least = least > 1 ? 1 : 0) {
    for (int passes = 1; passes <= l.h.kernel; ++passes) {
      take_taps(l, p, ceil_div(l.h.kernel, passes));
      for (int way = 0; way < 4; ++way) {
        p.tiles.parts = way == 0 ? 1 : 2;
        p.tiles.stage_buffers = way < 2 ? 2 : 1;
        p.tiles.slab_buffers = way < 3 ? 2 : 1;
        for (int columns = all; columns >= least; --columns) {
          const int bytes = lay_out_tiles(l, p, columns);
          if (bytes > limit || p.tiles.columns < least) continue;
          p.shared = bytes;
          return p;
        }
      }
    }
  }
  p.tiles = Tiles{};
  return p;
}

}  // namespace alias_ops::cuda::conv2d
