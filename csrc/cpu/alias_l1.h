// D, the spectrum of a strided map less the kept band of the stride-1 map it is taken from, for a group of maps in
// lanes: one read of the stride-1 map, two small DFTs. The measure and its gradient begin with it.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "lanes.h"
#include "spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {

// One list of maps where the images follow evenly.
inline bool follow_evenly(const Maps& m) {
  return m.image_stride == m.channels * m.channel_stride && m.channel_stride != 1;
}

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
    const LaneMaps<C> x = in_lanes(a_.x, from, maps, group_.data());
    C *low = low_.data(), *pairs = pairs_.data();
    transform(t_.low_h, t_.low_w, x.data, x.row, x.column, along(), low, &ahead);
    transform(t_.dft_h, t_.dft_w, x.data, a_.stride_h * x.row, a_.stride_w * x.column, along(), pairs, &ahead);
    const int64_t columns = t_.low_w.rows() * kL;
    for (int64_t r = 0; r < t_.low_h.rows(); ++r, low += columns, pairs += t_.dft_w.rows() * kL) {
      for (int64_t i = 0; i < columns; ++i) pairs[i] -= low[i];
    }
    return pairs_.data();
  }
  // Free again once there are pairs: the maps as they were gathered, and what lies between two products, either way.
  C* map() { return group_.data(); }
  C* along() { return along_.data(); }

  Ahead ahead{false};

 private:
  const AliasL1Args& a_;
  const AliasTransforms<C>& t_;
  Buffer<C> group_, along_, low_, pairs_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
