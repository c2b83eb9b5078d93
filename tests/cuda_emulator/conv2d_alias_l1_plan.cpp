// Every statement that the kernel relies on of a plan, for tests/test_cuda_conv2d_alias_l1_plan.py: no kernel is run.
#include "conv2d_alias_l1_plan.h"

#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

using namespace alias_ops::cuda;
using namespace alias_ops::cuda::conv2d;

namespace {

std::string message;

std::string fails(const char* what, int got) { return std::string(what) + ", got " + std::to_string(got); }

// Of the accesses of one phase, each `words` wide: how many share a bank with another one.
int conflicts(const std::vector<int>& bytes, int words) {
  std::vector<std::set<int>> seen(32);
  size_t most = 1;
  for (const int at : bytes) {
    for (int w = 0; w < words; ++w) seen[(at / 4 + w) % 32].insert(at / 4 + w);
  }
  for (const auto& s : seen) most = s.size() > most ? s.size() : most;
  return int(most) - 1;
}

std::string banks(const Layer& l, const Plan& p) {
  const bool narrow = sixteen_bits(l.precision);
  std::vector<int> rows_of_x, rows_of_low, left, stores, kept, samples;
  for (int i = 0; i < 8; ++i) {
    rows_of_x.push_back(x_place(p, 0, 0, i, 0));
    rows_of_low.push_back(low_place(p, 0, 0, 0, i));
  }
  if (int c = conflicts(rows_of_x, 4)) return fails("channels of x share banks", c);
  if (int c = conflicts(rows_of_low, 4)) return fails("channels of low share banks", c);
  // The left product reads eight rows of 16 bytes, or four rows of eight floats.
  for (int h = 0; h < (narrow ? 8 : 4) && h < l.h.size; ++h) {
    for (int g = 0; g < (narrow ? 1 : 8); ++g) left.push_back(x_place(p, 0, 0, 0, h) + 4 * g);
  }
  if (int c = conflicts(left, narrow ? 4 : 1)) return fails("rows of x share banks", c);
  // Stores of 8 bytes go by half warps.
  for (int g = 0; g < (narrow ? 8 : 4) && g < p.low_rows; ++g) {
    for (int t = 0; t < 4; ++t) stores.push_back(low_place(p, 0, 0, g, 0) + (narrow ? 4 : 8) * t);
  }
  if (int c = conflicts(stores, narrow ? 1 : 2)) return fails("rows of low share banks", c);
  for (int m = 0; m < 4 && m < p.columns; ++m) {
    for (int t = 0; t < 4; ++t) kept.push_back(4 * residual_place(p, 0, 0, m) + 8 * t);
  }
  if (int c = conflicts(kept, 2)) return fails("columns of the residual share banks", c);
  for (int n = 0; n < 4 && n < p.low_rows; ++n) {
    for (int g = 0; g < 8; ++g) samples.push_back(4 * residual_place(p, 0, n, 0) + 4 * g);
  }
  if (int c = conflicts(samples, 1)) return fails("rows of the residual share banks", c);
  return "";
}

std::string regions(const Layer& l, const Plan& p, int limit) {
  if (p.shared > limit) return fails("more shared memory than there is", p.shared);
  const int columns = columns_kept(l, p), unit = numbers_of_unit(l.precision),
            channels = channels_of_chunk(l.precision);
  if (p.left_at < p.zero_at + p.row_units * kUnit) return fails("too few zeros", p.left_at);
  if (p.right_at < p.left_at + p.left_bytes || p.weight_at < p.right_at + p.right_bytes) return "tables overlap";
  if (p.low_at < p.weight_at + p.low_buffers * p.weight_bytes) return fails("weights overlap", p.low_at);
  const int last_low = low_place(p, p.low_buffers - 1, p.images - 1, p.low_rows - 1, channels - 1);
  if (last_low + p.row_units * kUnit > p.x_at) return fails("low overlaps x", last_low);
  const int last_x = x_place(p, p.x_buffers - 1, p.images - 1, channels - 1, l.h.size - 1);
  if (last_x + columns * kUnit / unit > p.shared) return fails("x is out of bounds", last_x);
  if (p.x_row * unit < columns || p.low_channel < p.row_units) return fails("rows overlap", p.x_row);
  if (p.x_plane < l.h.size * p.x_row || p.x_image != channels * p.x_plane) return fails("planes overlap", p.x_plane);
  if (p.low_row < channels * p.low_channel) return fails("rows of low overlap", p.low_row);
  if (p.low_image < p.low_rows * p.low_row) return fails("images of low overlap", p.low_image);
  if (p.row_units * unit < l.w.size || p.left_steps * 2 * unit < l.h.size) return "a sample is in no product";
  if (16 * p.left_tiles < p.low_rows) return fails("a row of low is in no product", p.left_tiles);
  const int load = units_of_load(l.precision);
  if (load % p.load_units != 0 || p.row_units % p.load_units != 0 || p.rows % (load / p.load_units) != 0) {
    return fails("loads of the right product do not tile it", p.load_units);
  }
  if (p.right_steps != p.rows * p.row_units) return fails("steps of the right product", p.right_steps);
  if (p.cluster > 1 && (p.cluster != p.bands || p.cluster > kLargestCluster || p.images != 1)) {
    return fails("a cluster that is not a map", p.cluster);
  }
  if (p.cluster > 1 && p.sums_at + 4 * p.group_tiles * kWarps * 8 > p.shared)
    return fails("sums out of bounds", p.sums_at);
  if (p.cluster > 1 && p.sums_at < 4 * p.residual_image) return fails("sums overlap the residual", p.sums_at);
  if (on_chip(p)) {
    if (p.residual_column < 8 * kOutputTiles || p.residual_column < 8 * p.group_tiles * p.cluster) {
      return fails("outputs overlap", p.residual_column);
    }
    if (4 * p.images * p.residual_image > p.shared) return fails("the residual is out of bounds", p.residual_image);
    if (2 * pairs(l.w.outputs) > p.column_tiles * p.columns) return fails("no room for frequencies", p.columns);
  }
  for (const int at : {p.left_at, p.right_at, p.weight_at, p.low_at, p.x_at, p.left_bytes, p.right_bytes}) {
    if (at % kUnit != 0) return fails("misaligned", at);
  }
  return "";
}

// The same of a plan whose x comes in parts.
std::string tiled_regions(const Layer& l, const Plan& p, int limit) {
  const Tiles& t = p.tiles;
  if (p.shared > limit) return fails("more shared memory than there is", p.shared);
  const int unit = numbers_of_unit(l.precision), channels = channels_of_chunk(l.precision);
  if (p.right_at < p.left_at + pass_bytes(p)) return fails("tables overlap", p.right_at);
  if (p.low_at < p.right_at + (t.parts == 1 ? p.right_bytes : 0)) return fails("low overlaps a table", p.low_at);
  const int past = p.row_units * kUnit, last_low = pass_place(p, p.low_at, p.taps - 1, p.low_rows - 1, channels - 1);
  if (last_low + past > t.sharp_at) return fails("low overlaps sharp", last_low);
  const int last_sharp = pass_place(p, t.sharp_at, p.taps - 1, p.low_rows - 1, channels - 1);
  if (last_sharp + past > t.slab_at || last_sharp + past > t.stage_at) return fails("sharp overlaps slabs", last_sharp);
  if (p.low_channel < p.row_units || p.low_row < channels * p.low_channel) return fails("rows overlap", p.low_channel);
  const int last_row = slab_place(p, t.slab_buffers - 1, kSlabPlanes - 1, l.h.size - 1);
  if (last_row + 8 * t.columns * kUnit / unit > p.shared) return fails("slabs are out of bounds", last_row);
  if (t.slab_row * unit < 8 * t.columns || t.slab_plane < l.h.size * t.slab_row) return "rows of a slab overlap";
  if (t.slab_bytes < kSlabPlanes * t.slab_plane * kUnit) return fails("slabs overlap", t.slab_bytes);
  if (t.stage_at + t.stage_buffers * t.stage_bytes > p.shared) return fails("stages are out of bounds", t.stage_at);
  if (t.stage_bytes < staged_table_bytes(p) + kTapWeight) return fails("stages overlap", t.stage_bytes);
  if (l.w.kernel * kTapWeight != p.weight_bytes) return fails("the weight of a pair of taps", p.weight_bytes);
  if (p.row_units * unit < l.w.size || p.left_steps * 2 * unit < l.h.size) return "a sample is in no product";
  if (16 * p.left_tiles < p.taps * p.low_rows) return fails("a row of low is in no product", p.left_tiles);
  if (p.taps * p.passes < l.h.kernel || p.taps * (p.passes - 1) >= l.h.kernel) return fails("passes", p.passes);
  const int load = units_of_load(l.precision);
  if (load % p.load_units != 0 || p.row_units % p.load_units != 0 || p.rows % (load / p.load_units) != 0) {
    return fails("loads of the right product do not tile it", p.load_units);
  }
  if (p.right_steps != p.rows * p.row_units || p.right_steps % 2 != 0) return fails("right steps", p.right_steps);
  if (on_chip(p) || p.images != 1 || p.cluster != 1) return "the residual is not in memory";
  if (large_spectrum_bytes(l) > limit) return fails("too large for the last transform", large_spectrum_bytes(l));
  for (const int at : {p.left_at, p.right_at, p.low_at, t.sharp_at, t.slab_at, t.slab_bytes, t.stage_at, t.stage_bytes,
                       p.left_bytes, pass_bytes(p), p.right_bytes}) {
    if (at % kUnit != 0) return fails("misaligned", at);
  }
  return "";
}

std::string tiled_banks(const Layer& l, const Plan& p) {
  const bool narrow = sixteen_bits(l.precision);
  std::vector<int> channels, left, stores, samples;
  for (int i = 0; i < 8; ++i) channels.push_back(pass_place(p, p.low_at, 0, 0, i));
  if (int c = conflicts(channels, 4)) return fails("channels of low share banks", c);
  for (int h = 0; h < (narrow ? 8 : 4) && h < l.h.size; ++h) {
    for (int g = 0; g < (narrow ? 1 : 8); ++g) left.push_back(slab_place(p, 0, 0, h) + 4 * g);
  }
  if (int c = conflicts(left, narrow ? 4 : 1)) return fails("rows of a slab share banks", c);
  for (int g = 0; g < (narrow ? 8 : 4) && g < p.taps * p.low_rows; ++g) {
    for (int t = 0; t < 4; ++t) stores.push_back(pass_place(p, p.low_at, 0, g, 0) + (narrow ? 4 : 8) * t);
  }
  if (int c = conflicts(stores, narrow ? 1 : 2)) return fails("rows of low share banks", c);
  for (int n = 0; n < 4; ++n) {
    for (int g = 0; g < 8; ++g) samples.push_back(4 * (n * kLargeSpectrumRow + g));
  }
  if (int c = conflicts(samples, 1)) return fails("rows of the last transform share banks", c);
  return "";
}

// Every channel and column of x in one slab of every chunk, every pair of taps in one stage of one pass, with each part
// of the table before the weight.
std::string parts(const Layer& l, const Plan& p) {
  const int columns = ceil_div(l.w.size, 8);
  int channels = 0;
  for (int chunk = 0; chunk < p.chunks; ++chunk) {
    std::set<std::pair<int, int>> seen;
    for (int i = 0; i < slabs_of_chunk(l, p, chunk); ++i) {
      const Slab slab = slab_of(p, i);
      if (slab.pair * kSlabPlanes >= channels_there(l, chunk)) return fails("a slab of no channel", i);
      if (slab.tile >= columns) return fails("a slab of no column", i);
      for (int tile = slab.tile; tile < slab.tile + p.tiles.columns && tile < columns; ++tile) {
        if (!seen.insert({slab.pair, tile}).second) return fails("columns come twice", tile);
      }
    }
    if (int(seen.size()) != ceil_div(channels_there(l, chunk), kSlabPlanes) * columns) return "columns never come";
    channels += channels_there(l, chunk);
  }
  if (channels != l.channels / l.groups) return fails("channels", channels);
  std::set<std::pair<int, int>> taps;
  for (int pass = 0; pass < p.passes; ++pass) {
    int next_part = 0;
    for (int i = 0; i < stages_of_pass(l, p, pass); ++i) {
      const Stage stage = stage_of(l, p, i);
      if (stage.part != next_part) return fails("parts out of turn", i);
      next_part = is_last_part(p, stage) ? 0 : next_part + 1;
      if (stage.tap >= taps_of_pass(l, p, pass) || stage.tap_w >= l.w.kernel) return fails("no such tap", i);
      if (!is_last_part(p, stage)) continue;
      if (!taps.insert({pass * p.taps + stage.tap, stage.tap_w}).second) return fails("taps come twice", i);
    }
  }
  return int(taps.size()) == l.h.kernel * l.w.kernel ? "" : fails("pairs of taps", int(taps.size()));
}

// Every strided output in one tile of one warp of one block, and none in two.
std::string coverage(const Layer& l, const Plan& p) {
  std::set<std::tuple<int, int, int, int, int>> seen;  // image, group, outputs, n, m
  for (int64_t b = 0; b < block_count(l, p); ++b) {
    const Block block = block_of(l, p, b);
    if (block.group >= l.groups || block.band >= p.bands || block.output >= l.outputs / l.groups) {
      return fails("no such block", int(b));
    }
    const Block leader = block_of(l, p, b - b % p.cluster);
    const bool map = block.image == leader.image && block.group == leader.group && block.output == leader.output;
    if (p.cluster > 1 && (!map || block.band != b % p.cluster)) return fails("a cluster of several maps", int(b));
    for (int slot = 0; slot < kSlots; ++slot) {
      const Tile tile = tile_of(p, slot);
      if (tile.image < 0 || block.image + tile.image >= l.batch) continue;
      if (slot % kTilesOfWarp == 1 && tile_of(p, slot - 1).column != tile.column) return fails("two columns", slot);
      for (int i = 0; i < 16; ++i) {
        const int n = block.band * p.low_rows + tile.row + i / p.columns, m = tile.column * p.columns + i % p.columns;
        if (tile.row + i / p.columns >= p.low_rows) return fails("a tile beyond its band", slot);
        if (n >= l.h.outputs || m >= l.w.outputs) continue;
        if (!seen.insert({block.image + tile.image, block.group, block.output, n, m}).second) return fails("twice", n);
      }
    }
  }
  const size_t all = size_t(l.batch) * l.groups * p.output_blocks * l.h.outputs * l.w.outputs;
  return seen.size() == all ? "" : fails("outputs in no tile", int(all - seen.size()));
}

// After the trade each block of a cluster has its group of channels of every row, where BandedMaps looks for it; nobody
// brought anything twice or what there is not, or put it over what the block needs itself.
std::string trade(const Layer& l, const Plan& p) {
  const int units = group_units(p), columns = columns_traded(l), N = l.h.outputs;
  const auto number = [&](int n, int column, int unit) { return (n * columns + column) * units * p.cluster + unit; };
  const int left_over = ceil_div(l.outputs / l.groups, 8), tiles = left_over < kOutputTiles ? left_over : kOutputTiles;
  for (int own = 0; own < p.cluster; ++own) {
    std::vector<int> has(p.residual_image / 4, -1);
    for (int row = 0; row < rows_of_band(l, p, own); ++row) {
      for (int i = 0; i < columns * units * p.cluster; ++i) {
        const Pixel pixel{own, row, i / (units * p.cluster)};
        has[(group_place(p, pixel, 0)) / 4 + i % (units * p.cluster)] =
            number(own * p.low_rows + row, pixel.column, i % (units * p.cluster));
      }
    }
    std::set<int> brought;
    for (int t = 0; t < kThreads; ++t) {
      Pixel pixel = first_pixel(p, own, t / units, t / units < pixels_at_once(l, p));
      for (int turn = 0; is_there(l, p, pixel); ++turn, go_on(l, p, own, pixel)) {
        if (turn == kTurns) return fails("more to bring than there are turns", turn);
        if (pixel.band == own || pixel.band >= p.cluster || pixel.column >= columns) return fails("no such pixel", t);
        if (pixel.row >= rows_of_band(l, p, pixel.band)) return fails("no such row", pixel.row);
        const int what = number(pixel.band * p.low_rows + pixel.row, pixel.column, own * units + t % units);
        if (!brought.insert(what).second) return fails("brought twice", what);
        const int to = group_place(p, pixel, pixel.band) + 4 * (t % units);
        if (to % 4 != 0 || to < 0 || to + 4 > p.residual_image) return fails("brought out of bounds", to);
        has[to / 4] = what;
      }
    }
    const int first = own * p.group_tiles;
    for (int tile = first; tile < first + p.group_tiles && tile < tiles; ++tile) {
      for (int n = 0; n < N; ++n) {
        const int band = n * (0x10000 / p.low_rows + 1) >> 16;  // as BandedMaps has it
        if (band != n / p.low_rows) return fails("a row in another band", n);
        for (int column = 0; column < columns; ++column) {
          const int at = 8 * (tile - first) + (n - band * p.low_rows) * p.residual_row + 8 * p.group_tiles * band +
                         column * p.residual_column;
          for (int half = 0; half < 2; ++half) {
            if (has[at / 4 + half] != number(n, column, 2 * tile + half)) return fails("another sample", n);
          }
        }
      }
    }
    for (int four = 0; four + 4 <= N; four += 4) {
      std::vector<int> samples;
      for (int n = four; n < four + 4; ++n) {
        for (int g = 0; g < 8; ++g) {
          samples.push_back(4 * (n / p.low_rows * 8 * p.group_tiles + n % p.low_rows * p.residual_row + g));
        }
      }
      // Rows of two bands may meet: the end of one and the start of the next.
      const int allowed = four / p.low_rows == (four + 3) / p.low_rows ? 0 : 1;
      if (int c = conflicts(samples, 1); c > allowed) return fails("rows of a traded residual share banks", c);
    }
  }
  return "";
}

// A buffer of x is full a step before its first use, and is not filled again before its last one is over.
std::string schedule(const Layer& l, const Plan& p) {
  const int taps = l.h.kernel, count = steps(l, p);
  const bool ahead = p.x_buffers > 1;
  std::vector<int> holds(p.x_buffers, -1), arrived;
  for (int s = ahead ? -2 : 0; s < count; ++s) {
    arrived = holds;  // a barrier
    const int chunk = chunk_to_copy(l, p, s);
    if (chunk >= 0 && chunk < p.chunks) holds[chunk % p.x_buffers] = chunk, arrived[chunk % p.x_buffers] = -1;
    if (!ahead) arrived = holds;  // another one
    for (const int used : {s, ahead ? s + 1 : s}) {
      if (used >= 0 && used < count && arrived[used / taps % p.x_buffers] != used / taps) return fails("not there", s);
    }
  }
  return "";
}

}  // namespace

// "" or what is wrong with the plan; *served: the blocks that take a map's bands together, -1 where x comes in parts, 0
// if there is no plan.
extern "C" const char* check(int batch, int channels, int outputs, int groups, int precision, int height, int width,
                             int kernel_h, int kernel_w, int padding, int dilation, int limit, int clusters,
                             int* served) {
  const Layer l{axis_of(height, kernel_h, padding, dilation),
                axis_of(width, kernel_w, padding, dilation),
                batch,
                channels,
                outputs,
                groups,
                Precision(precision)};
  const Plan p = plan_of(l, limit, clusters != 0);
  *served = p.shared == 0 ? 0 : tiled(p) ? -1 : p.cluster;
  message.clear();
  if (p.shared == 0) return message.c_str();
  message = tiled(p) ? tiled_regions(l, p, limit) : regions(l, p, limit);
  if (message.empty()) message = tiled(p) ? tiled_banks(l, p) : banks(l, p);
  if (message.empty()) message = coverage(l, p);
  if (message.empty()) message = tiled(p) ? parts(l, p) : schedule(l, p);
  if (message.empty() && p.cluster > 1) message = trade(l, p);
  return message.c_str();
}
