// Groups of maps side by side in the lanes of a vector: [height][width][lanes], whatever the layout in memory.
#pragma once

#include <algorithm>

#include "ahead.h"
#include "blocks.h"
#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Maps count..count+lanes of one image, or of the flat list of all maps where the channels follow evenly.
template <class S>
inline const S* map_at(const Maps& m, int64_t image, int64_t channel) {
  return static_cast<const S*>(m.data) + image * m.image_stride + channel * m.channel_stride;
}

// Numbers in `count` maps, if they lie side by side in memory, or 0.
inline int64_t dense_size(const Maps& m, int64_t count) {
  const int64_t area = m.height * m.width;
  return m.column_stride == 1 && m.row_stride == m.width && m.channel_stride == area ? count * area : 0;
}
// Has `count` maps from `first` on asked for, to be read or to be written, where they lie so.
template <class S>
inline void read_ahead(Ahead& ahead, const Maps& m, const S* first, int64_t count) {
  ahead.group<S>(first, dense_size(m, count), nullptr, 0);
}
template <class S>
inline void write_ahead(Ahead& ahead, const Maps& m, const S* first, int64_t count) {
  ahead.group<S>(nullptr, 0, first, dense_size(m, count));
}

// visit(offset) for the samples of a map, row by row.
template <class Visit>
inline void each_sample(const Maps& m, Visit visit) {
  for (int64_t h = 0; h < m.height; ++h) {
    for (int64_t w = 0; w < m.width; ++w) visit(h * m.row_stride + w * m.column_stride);
  }
}

// visit(offset, place, n) for runs of n <= lanes samples a column's stride apart, the first of them number `place` of
// its map; across the rows' ends where nothing lies between them.
template <class C, class Visit>
inline void each_run(const Maps& m, Visit visit) {
  const bool flat = m.column_stride == 1 && (m.row_stride == m.width || m.height == 1);
  const int64_t rows = flat ? 1 : m.height, columns = flat ? m.height * m.width : m.width;
  for (int64_t h = 0; h < rows; ++h) {
    for (int64_t w = 0; w < columns; w += kLanes<C>) {
      visit(h * m.row_stride + w * m.column_stride, h * columns + w, std::min<int64_t>(kLanes<C>, columns - w));
    }
  }
}

// Copies `count` <= lanes maps into `group` [height * width][lanes]; the lanes beyond are zero.
// first(i) -> address of map i.
template <class S, class C, class First>
inline void gather_group(const Maps& m, int64_t count, First first, C* group) {
  constexpr int kL = kLanes<C>;
  if (m.channel_stride == 1 && count > 1) {
    const S* from = first(0);
    return each_sample(m, [&](int64_t offset) {
      store(group, load_first(from + offset, count));
      group += kL;
    });
  }
  const int64_t step = m.column_stride;
  each_run<C>(m, [&](int64_t offset, int64_t place, int64_t n) {
    C* to = group + place * kL;
    Vec<C> block[kL];
    if (count == kL && n == kL && step == 1) {
      ALIAS_OPS_UNROLL for (int i = 0; i < kL; ++i) block[i] = load(first(i) + offset);
      transpose<C>(block);
      ALIAS_OPS_UNROLL for (int j = 0; j < kL; ++j) store(to + j * kL, block[j]);
      return;
    }
    for (int i = 0; i < kL; ++i) {
      block[i] = Vec<C>{};
      if (i >= count) continue;
      const S* from = first(i) + offset;
      if (step == 1) {
        block[i] = load_first(from, n);
      } else {
        for (int64_t j = 0; j < n; ++j) block[i][j] = widen(from[j * step]);
      }
    }
    transpose<C>(block);
    for (int64_t j = 0; j < n; ++j) store(to + j * kL, block[j]);
  });
}

// Maps in groups of a vector's lanes, which share a list: all maps are one, or those of an image.
template <class C>
class MapGroups {
  static constexpr int kL = kLanes<C>;

 public:
  MapGroups(const Maps& m, bool evenly)
      : length_(evenly ? m.images * m.channels : m.channels),
        groups_(ceiling(length_, kL)),
        count_((evenly ? 1 : m.images) * groups_) {}

  int64_t count() const { return count_; }
  int64_t list(int64_t group) const { return group / groups_; }
  int64_t first(int64_t group) const { return group % groups_ * kL; }
  // No maps beyond the last group.
  int64_t maps(int64_t group) const { return group < count_ ? std::min<int64_t>(kL, length_ - first(group)) : 0; }
  int64_t number(int64_t group) const { return list(group) * length_ + first(group); }  // of its first map
  template <class S>
  const S* at(const Maps& m, int64_t group) const {
    return map_at<S>(m, list(group), first(group));
  }

 private:
  int64_t length_, groups_, count_;
};

// [height][width][lanes], the steps in elements.
template <class C>
struct LaneMaps {
  const C* data;
  int64_t row, column;
};

// `count` <= lanes maps from `first` on: where they are, if they lie so, or else gathered into `group`.
template <class S, class C>
inline LaneMaps<C> in_lanes(const Maps& m, const S* first, int64_t count, C* group) {
  if constexpr (std::is_same_v<S, C>) {
    if (m.channel_stride == 1 && count == kLanes<C>) return {first, m.row_stride, m.column_stride};
  }
  gather_group<S, C>(m, count, [&](int64_t i) { return first + i * m.channel_stride; }, group);
  return {group, m.width * kLanes<C>, kLanes<C>};
}

// The way back to maps of any strides, which are written over, or with kAdd added to. to: the first map.
template <bool kAdd = false, class S, class C>
inline void scatter_maps(const C* group, const Maps& m, int64_t count, S* to) {
  constexpr int kL = kLanes<C>;
  const auto put = [](S* at, Vec<C> v, int64_t n) {
    if constexpr (kAdd) v += load_first(at, n);
    store_first(at, v, n);
  };
  if (m.channel_stride == 1) {
    return each_sample(m, [&](int64_t offset) {
      put(to + offset, load(group), count);
      group += kL;
    });
  }
  const int64_t step = m.column_stride, map_step = m.channel_stride;
  each_run<C>(m, [&](int64_t offset, int64_t place, int64_t n) {
    const C* from = group + place * kL;
    S* at = to + offset;
    Vec<C> block[kL];
    if (count == kL && n == kL && step == 1) {
      ALIAS_OPS_UNROLL for (int j = 0; j < kL; ++j) block[j] = load(from + j * kL);
      transpose<C>(block);
      ALIAS_OPS_UNROLL for (int i = 0; i < kL; ++i) put(at + i * map_step, block[i], kL);
      return;
    }
    for (int64_t j = 0; j < kL; ++j) block[j] = j < n ? load(from + j * kL) : Vec<C>{};
    transpose<C>(block);
    for (int64_t i = 0; i < count; ++i) {
      S* line = at + i * map_step;
      if (step == 1) {
        put(line, block[i], n);
      } else {
        for (int64_t j = 0; j < n; ++j) narrow((kAdd ? widen(line[j * step]) : C(0)) + block[i][j], line[j * step]);
      }
    }
  });
}

template <class S, class C>
inline void scatter_maps(const C* group, const Maps& m, int64_t count, S* to, bool adding) {
  adding ? scatter_maps<true>(group, m, count, to) : scatter_maps<false>(group, m, count, to);
}

}  // namespace alias_ops::ALIAS_OPS_ISA
