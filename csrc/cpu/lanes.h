// Groups of maps side by side in the lanes of a vector: [height][width][lanes], whatever the layout in memory.
#pragma once

#include <algorithm>

#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Maps count..count+lanes of one image, or of the flat list of all maps where the channels follow evenly.
template <class S>
inline const S* map_at(const Maps& m, int64_t image, int64_t channel) {
  return static_cast<const S*>(m.data) + image * m.image_stride + channel * m.channel_stride;
}

// Asks for the next group of maps and the one after it while a group is worked on. The hardware's prefetchers see
// rows of panels, a page or two a map, and stay behind; asked for once a line would be dropped where too many are
// under way. Groups that would push each other out of the second cache are left alone.
inline void prefetch_groups(const void* next, int64_t bytes, const void* end) {
  constexpr int64_t kLine = 64, kMost = 128 << 10;
  if (bytes > kMost) return;
  asm volatile("");  // GCC drops calls of a function that only prefetches, as one without effect
  const char *p = static_cast<const char*>(next), *last = static_cast<const char*>(end);
  for (const char *after = p + bytes, *stop = std::min(after + bytes, last); after < stop; after += kLine) {
    __builtin_prefetch(after, 0, 2);
  }
  for (const char* stop = std::min(p + bytes, last); p < stop; p += kLine) __builtin_prefetch(p, 0, 3);
}

// Copies `count` <= lanes maps into `group` [height * width][lanes]; the lanes beyond are zero.
// first(i) -> address of map i.
template <class S, class C, class First>
inline void gather_group(const Maps& m, int64_t count, First first, C* group) {
  constexpr int kL = kLanes<C>;
  if (m.channel_stride == 1 && count > 1) {
    for (int64_t h = 0; h < m.height; ++h) {
      for (int64_t w = 0; w < m.width; ++w) {
        store(group, load_first(first(0) + h * m.row_stride + w * m.column_stride, count));
        group += kL;
      }
    }
    return;
  }
  const bool flat = m.column_stride == 1 && (m.row_stride == m.width || m.height == 1);
  const int64_t rows = flat ? 1 : m.height, columns = flat ? m.height * m.width : m.width;
  for (int64_t h = 0; h < rows; ++h) {
    for (int64_t w = 0; w < columns; w += kL) {
      const int64_t n = columns - w < kL ? columns - w : kL;
      Vec<C> block[kL];
      if (count == kL && n == kL && m.column_stride == 1) {
        ALIAS_OPS_UNROLL for (int i = 0; i < kL; ++i) block[i] = load(first(i) + h * m.row_stride + w);
        transpose<C>(block);
        ALIAS_OPS_UNROLL for (int j = 0; j < kL; ++j) store(group + (h * columns + w + j) * kL, block[j]);
        continue;
      }
      for (int i = 0; i < kL; ++i) {
        block[i] = Vec<C>{};
        if (i >= count) continue;
        const S* from = first(i) + h * m.row_stride + w * m.column_stride;
        if (m.column_stride == 1) {
          block[i] = load_first(from, n);
        } else {
          for (int64_t j = 0; j < n; ++j) block[i][j] = widen(from[j * m.column_stride]);
        }
      }
      transpose<C>(block);
      for (int64_t j = 0; j < n; ++j) store(group + (h * columns + w + j) * kL, block[j]);
    }
  }
}

// The way back: `group` [pixels][lanes] to `count` maps of `pixels` contiguous samples each.
template <class S, class C, class First>
inline void scatter_group(const C* group, int64_t pixels, int64_t count, First first) {
  constexpr int kL = kLanes<C>;
  for (int64_t p = 0; p < pixels; p += kL) {
    const int64_t n = pixels - p < kL ? pixels - p : kL;
    Vec<C> block[kL];
    if (count == kL && n == kL) {
      ALIAS_OPS_UNROLL for (int j = 0; j < kL; ++j) block[j] = load(group + (p + j) * kL);
      transpose<C>(block);
      ALIAS_OPS_UNROLL for (int i = 0; i < kL; ++i) store(first(i) + p, block[i]);
      continue;
    }
    for (int64_t j = 0; j < kL; ++j) block[j] = j < n ? load(group + (p + j) * kL) : Vec<C>{};
    transpose<C>(block);
    for (int64_t i = 0; i < count; ++i) store_first(first(i) + p, block[i], n);
  }
}

// The same for maps of any strides, which are written over, or with kAdd added to. to: the first map.
template <bool kAdd = false, class C>
inline void scatter_maps(const C* group, const Maps& m, int64_t count, C* to) {
  constexpr int kL = kLanes<C>;
  const auto put = [](C* at, Vec<C> v, int64_t n) {
    if constexpr (kAdd) v += load_first(at, n);
    store_first(at, v, n);
  };
  if (m.channel_stride == 1) {
    for (int64_t h = 0; h < m.height; ++h) {
      for (int64_t w = 0; w < m.width; ++w) {
        put(to + h * m.row_stride + w * m.column_stride, load(group), count);
        group += kL;
      }
    }
    return;
  }
  const bool flat = m.column_stride == 1 && (m.row_stride == m.width || m.height == 1);
  const int64_t rows = flat ? 1 : m.height, columns = flat ? m.height * m.width : m.width;
  for (int64_t h = 0; h < rows; ++h) {
    for (int64_t w = 0; w < columns; w += kL) {
      const int64_t n = columns - w < kL ? columns - w : kL;
      const C* from = group + (h * columns + w) * kL;
      C* at = to + h * m.row_stride + w * m.column_stride;
      Vec<C> block[kL];
      if (count == kL && n == kL && m.column_stride == 1) {
        ALIAS_OPS_UNROLL for (int j = 0; j < kL; ++j) block[j] = load(from + j * kL);
        transpose<C>(block);
        ALIAS_OPS_UNROLL for (int i = 0; i < kL; ++i) put(at + i * m.channel_stride, block[i], kL);
        continue;
      }
      for (int64_t j = 0; j < kL; ++j) block[j] = j < n ? load(from + j * kL) : Vec<C>{};
      transpose<C>(block);
      for (int64_t i = 0; i < count; ++i) {
        C* line = at + i * m.channel_stride;
        if (m.column_stride == 1) {
          put(line, block[i], n);
        } else {
          for (int64_t j = 0; j < n; ++j)
            line[j * m.column_stride] = (kAdd ? line[j * m.column_stride] : C(0)) + block[i][j];
        }
      }
    }
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
