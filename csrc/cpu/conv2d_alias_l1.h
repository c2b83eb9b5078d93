// How output channels fill vectors, shared by both identities.
#pragma once

#include <algorithm>

#include "simd.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
struct LaneVector {
  int64_t output, count;  // first output channel, how many
  int64_t channel;        // first input channel of its convolution group
  bool spanning;          // lanes belong to several convolution groups
  int64_t lane_channel[kLanes<C>];
};

template <class C>
class OutputLanes {
 public:
  explicit OutputLanes(const Conv2dAliasL1Args& a)
      : outputs_(a.outputs),
        inputs_(a.x.channels / a.groups),
        per_group_(a.outputs / a.groups),
        // Groups of a few channels would leave most lanes empty: let vectors run across them.
        spanning_(a.groups > 1 && per_group_ < kLanes<C>),
        span_(spanning_ ? outputs_ : per_group_),
        vectors_((span_ + kLanes<C> - 1) / kLanes<C>) {}

  int64_t inputs() const { return inputs_; }
  int64_t count() const { return outputs_ / span_ * vectors_; }
  LaneVector<C> vector(int64_t index) const {
    LaneVector<C> v;
    const int64_t group = index / vectors_, at = index % vectors_ * kLanes<C>;
    v.output = group * span_ + at;
    v.count = std::min<int64_t>(kLanes<C>, span_ - at);
    v.channel = group * inputs_;
    v.spanning = spanning_;
    for (int lane = 0; lane < kLanes<C>; ++lane) {
      v.lane_channel[lane] = (v.output + std::min<int64_t>(lane, v.count - 1)) / per_group_ * inputs_;
    }
    return v;
  }

 private:
  int64_t outputs_, inputs_, per_group_;
  bool spanning_;
  int64_t span_, vectors_;
};

void conv2d_alias_l1_pointwise(const Conv2dAliasL1Args&, const Runtime&);

}  // namespace alias_ops::ALIAS_OPS_ISA
