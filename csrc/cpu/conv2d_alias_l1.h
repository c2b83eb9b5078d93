// How output channels fill vectors, and their weights: shared by both identities.
#pragma once

#include <algorithm>

#include "lanes.h"

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
  explicit OutputLanes(const Conv2dAliasL1Args& a) : OutputLanes(a.outputs, a.x.channels, a.groups) {}
  // For the gradient of x the two kinds of channels change places: x's lie in lanes.
  OutputLanes(int64_t outputs, int64_t inputs, int64_t groups)
      : outputs_(outputs),
        inputs_(inputs / groups),
        per_group_(outputs / groups),
        // Groups of a few channels would leave most lanes empty: let vectors run across them.
        spanning_(groups > 1 && per_group_ < kLanes<C>),
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

// Blocks of images that a tile is cut into for tasks of one vector of channels each: what a task keeps of its images,
// `image_bytes` of each, fits in the second cache, and there are tasks for all threads.
inline int64_t image_blocks(int64_t images, int64_t image_bytes, int64_t vectors, int64_t threads) {
  constexpr int64_t kTaskBytes = 768 << 10;
  const int64_t fitting = std::max<int64_t>(1, kTaskBytes / image_bytes);
  const int64_t wanted = (2 * threads + vectors - 1) / vectors;
  return std::clamp<int64_t>((images + fitting - 1) / fitting, std::min(wanted, images), images);
}

// [channel][taps][lanes] for a vector of output channels.
template <class S>
inline void gather_output_weight(const Conv2dAliasL1Args& a, const LaneVector<Compute<S>>& lanes, Compute<S>* weight) {
  const int64_t size = a.x.channels / a.groups * a.h.kernel * a.w.kernel;
  const Maps rows{a.weight, a.x.dtype, 1, a.outputs, 1, size, 0, size, size, 1};
  const S* from = map_at<S>(rows, 0, lanes.output);
  gather_group<S, Compute<S>>(rows, lanes.count, [&](int64_t i) { return from + i * size; }, weight);
}

void conv2d_alias_l1_pointwise(const Conv2dAliasL1Args&, const Runtime&);
void conv2d_alias_l1_taps(const Conv2dAliasL1Args&, const Runtime&);

}  // namespace alias_ops::ALIAS_OPS_ISA
