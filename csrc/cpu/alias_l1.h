// D, the spectrum of a strided map less the kept band of the stride-1 map it is taken from, for a group of maps in
// lanes: one read of the stride-1 map, two small DFTs. The measure and its gradient begin with it.
#pragma once

#include <algorithm>

#include "blocks.h"
#include "buffer.h"
#include "lanes.h"
#include "spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {

// One list of maps where the images follow evenly.
inline bool follow_evenly(const Maps& m) {
  return m.image_stride == m.channels * m.channel_stride && m.channel_stride != 1;
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

template <class C>
struct AliasTransforms {
  DftAxis<C> low_h, low_w, dft_h, dft_w;
  explicit AliasTransforms(const AliasL1Args& a)
      : low_h(pack_dft<C>(a.low_h)),
        low_w(pack_dft<C>(a.low_w)),
        dft_h(pack_dft<C>(a.dft_h)),
        dft_w(pack_dft<C>(a.dft_w)) {}
};

// A thread's memory for one group after the other.
template <class S>
class AliasResidual {
  using C = Compute<S>;
  static constexpr int kL = kLanes<C>;

 public:
  AliasResidual(const AliasL1Args& a, const AliasTransforms<C>& t)
      : a_(a),
        t_(t),
        group_(a.x.height * a.x.width * kL),
        along_(std::max({t.low_h.rows() * a.x.width, t.dft_h.rows() * a.dft_w.length, a.x.height * t.low_w.rows(),
                         a.dft_h.length * t.dft_w.rows()}) *
               kL),
        low_(t.low_h.rows() * t.low_w.rows() * kL),
        pairs_(t.dft_h.rows() * t.dft_w.rows() * kL) {}

  // D as pairs. What is asked for meanwhile is the caller's to say.
  C* pairs(const S* from, int64_t maps) {
    const Maps& x = a_.x;
    if (std::is_same_v<S, C> && x.channel_stride == 1 && maps == kL) {
      transforms(reinterpret_cast<const C*>(from), x.row_stride, x.column_stride);
    } else {
      gather_group<S, C>(x, maps, [&](int64_t i) { return from + i * x.channel_stride; }, group_.data());
      transforms(group_.data(), x.width * kL, kL);
    }
    return pairs_.data();
  }
  // Free again once there are pairs: the maps as they were gathered, and what lies between two products, either way.
  C* map() { return group_.data(); }
  C* along() { return along_.data(); }

  Ahead ahead{false};

 private:
  void transforms(const C* x, int64_t row_step, int64_t column_step) {
    C *low = low_.data(), *pairs = pairs_.data();
    transform(t_.low_h, t_.low_w, x, row_step, column_step, along(), low, &ahead);
    transform(t_.dft_h, t_.dft_w, x, a_.stride_h * row_step, a_.stride_w * column_step, along(), pairs, &ahead);
    const int64_t columns = t_.low_w.rows() * kL;
    for (int64_t r = 0; r < t_.low_h.rows(); ++r, low += columns, pairs += t_.dft_w.rows() * kL) {
      for (int64_t i = 0; i < columns; ++i) pairs[i] -= low[i];
    }
  }

  const AliasL1Args& a_;
  const AliasTransforms<C>& t_;
  Buffer<C> group_, along_, low_, pairs_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
