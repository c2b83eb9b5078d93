// The one-pass convolution measure: what a block does before its products, copies into shared memory.
#pragma once

#include "conv2d_alias_l1_spectrum.h"

namespace alias_ops::cuda::conv2d {

template <class T, int PRODUCTS>
struct Copies {
  static constexpr bool kWide = std::is_same_v<T, float>;
  static constexpr int kNumbers = kWide ? 4 : 8;  // of 16 bytes
  static constexpr int kChannels = 2 * kNumbers;  // of a chunk
  static constexpr int kParts = kWide ? 1 : 2;    // tiles of 8 channels

  const Arguments& a;
  const Plan& p;
  char* const memory;
  const Block block;
  const int inputs, outputs;  // of a group

  ALIAS_OPS_DEVICE explicit Copies(const Arguments& arguments)
      : a(arguments),
        p(arguments.plan),
        memory(shared_memory()),
        block(block_of(a.layer, p, cuda::block())),
        inputs(a.layer.channels / a.layer.groups),
        outputs(a.layer.outputs / a.layer.groups) {}

  ALIAS_OPS_DEVICE void copy(char* to, const void* from, int bytes) const {
    for (int at = kUnit * thread(); at < bytes; at += kUnit * kThreads) {
      copy_async<kUnit>(to + at, static_cast<const char*>(from) + at);
    }
  }

  ALIAS_OPS_DEVICE void copy_tables() const {
    copy(memory + p.left_at, reinterpret_cast<const char*>(a.left) + int64_t(block.band) * p.left_bytes, p.left_bytes);
    copy(memory + p.right_at, a.right, p.right_bytes);
  }

  ALIAS_OPS_DEVICE void copy_weight(int step, int buffer) const {
    const int64_t panel = int64_t(block.group) * p.output_blocks + block.output / (8 * kOutputTiles);
    const int64_t at = (panel * steps(a.layer, p) + step) * p.weight_bytes;
    copy(memory + p.weight_at + buffer * p.weight_bytes, reinterpret_cast<const char*>(a.weight) + at, p.weight_bytes);
  }

  // Columns behind the last one are part of a unit or of a tile that is read: zeros, once and for all.
  ALIAS_OPS_DEVICE void clear_margins() const {
    for (int i = thread(); i < p.row_units * 4; i += kThreads) store_shared(memory + p.zero_at + 4 * i, uint32_t(0));
    const int width = a.layer.w.size, height = a.layer.h.size, margin = columns_kept(a.layer, p) - width;
    if (margin == 0) return;
    // Of low, the left product writes whole tiles of 8 columns.
    const int written = 8 * ceil_div(width, 8) / kNumbers, units = p.row_units - written;
    const int rows = units > 0 ? p.low_buffers * p.images * p.low_rows * kChannels : 0;
    for (int i = thread(); i < rows * units; i += kThreads) {
      const int line = i / units, row = line / kChannels;
      char* to = memory + low_place(p, 0, 0, 0, line % kChannels) + row * p.low_row * kUnit;
      store_shared(to + (written + i % units) * kUnit, Words<4>{});
    }
    const int lines = p.x_buffers * p.images * kChannels * height;
    for (int i = thread(); i < lines * margin; i += kThreads) {
      const int line = i / margin, column = width + i % margin, plane = line / height;
      char* row = memory + x_place(p, 0, plane / kChannels, plane % kChannels, line % height);
      store_shared(row + int(sizeof(T)) * column, T{});
    }
  }

  template <int BYTES>
  ALIAS_OPS_DEVICE void copy_rows(int chunk, int buffer) const {
    const int pieces = a.layer.w.size * int(sizeof(T)) / BYTES, height = a.layer.h.size;
    const int planes = p.images * kChannels, together = kThreads / pieces;
    const int line = thread() / pieces, along = thread() % pieces * BYTES;
    if (line >= together) return;
    const int64_t first = block.image * a.x_image + (int64_t(block.group) * inputs + chunk * kChannels) * a.x_channel;
    const char* from = static_cast<const char*>(a.x) + first * int64_t(sizeof(T)) + along;
    const int channels = inputs - chunk * kChannels, images = a.layer.batch - block.image;
    const int planes_on = together / height, rows_on = together % height;
    int plane = line / height, row = line % height;
    while (plane < planes) {
      const int image = plane / kChannels, channel = plane % kChannels;
      const bool there = image < images && channel < channels;
      const int64_t at = image * a.x_image + channel * a.x_channel + row * a.x_row;
      char* to = memory + plane_place(p, buffer, plane) + row * p.x_row * kUnit + along;
      copy_async_or_zero<BYTES>(to, there ? from + at * int64_t(sizeof(T)) : static_cast<const char*>(a.x), there);
      plane += planes_on, row += rows_on;
      if (row >= height) ++plane, row -= height;
    }
  }

  ALIAS_OPS_DEVICE void copy_numbers(int chunk, int buffer) const {
    const int width = a.layer.w.size, height = a.layer.h.size, pixels = height * width;
    const int count = p.images * kChannels * pixels;
    const bool channels_first = a.x_channel < a.x_column;  // in memory: neighbours there are read by neighbours here
    for (int i = thread(); i < count; i += kThreads) {
      const int plane = channels_first ? i / (kChannels * pixels) * kChannels + i % kChannels : i / pixels;
      const int pixel = channels_first ? i / kChannels % pixels : i % pixels;
      const int image = plane / kChannels, channel = plane % kChannels, row = pixel / width, column = pixel % width;
      T value{};
      if (block.image + image < a.layer.batch && chunk * kChannels + channel < inputs) {
        const int64_t at = (block.image + image) * a.x_image + row * a.x_row + column * a.x_column +
                           (int64_t(block.group) * inputs + chunk * kChannels + channel) * a.x_channel;
        value = load_global<T>(static_cast<const T*>(a.x) + at);
      }
      store_shared(memory + x_place(p, buffer, image, channel, row) + column * int(sizeof(T)), value);
    }
  }

  ALIAS_OPS_DEVICE void copy_x(int chunk, int buffer) const {
    if (a.copied == 16) return copy_rows<16>(chunk, buffer);
    if (a.copied == 8) return copy_rows<8>(chunk, buffer);
    if (a.copied == 4) return copy_rows<4>(chunk, buffer);
    copy_numbers(chunk, buffer);
  }
};

}  // namespace alias_ops::cuda::conv2d
