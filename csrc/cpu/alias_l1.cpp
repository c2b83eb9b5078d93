// Per map, the L1 norm of the spectrum that subsampling folds: one read of the stride-1 map, two small DFTs.
#include <algorithm>

#include "buffer.h"
#include "ops.h"
#include "parallel.h"
#include "spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

template <class C>
struct Transforms {
  PackedRows<C> low_h, low_w, dft_h, dft_w;
};

// pairs of the strided map minus the pairs of the kept band of the whole one.
template <class C>
void residual_pairs(const AliasL1Args& a, const Transforms<C>& t, const C* x, int64_t row_step, int64_t column_step,
                    C* along, C* low, C* pairs, Ahead* ahead) {
  constexpr int kL = kLanes<C>;
  transform(t.low_h, t.low_w, x, row_step, column_step, along, low, ahead);
  transform(t.dft_h, t.dft_w, x, a.stride_h * row_step, a.stride_w * column_step, along, pairs, ahead);
  for (int64_t r = 0; r < t.low_h.rows(); ++r) {
    C* to = pairs + r * t.dft_w.rows() * kL;
    const C* from = low + r * t.low_w.rows() * kL;
    for (int64_t i = 0; i < t.low_w.rows() * kL; ++i) to[i] -= from[i];
  }
}

template <class S>
void run(const AliasL1Args& a, const Runtime& runtime) {
  using C = Compute<S>;
  constexpr int kL = kLanes<C>;
  const Maps& x = a.x;
  const Transforms<C> t{pack_dft<C>(a.low_h), pack_dft<C>(a.low_w), pack_dft<C>(a.dft_h), pack_dft<C>(a.dft_w)};
  // One list of maps where the images follow evenly; otherwise the maps of a group share an image.
  const bool one_list = x.image_stride == x.channels * x.channel_stride && x.channel_stride != 1;
  const int64_t lists = one_list ? 1 : x.images, length = one_list ? x.images * x.channels : x.channels;
  const int64_t groups = (length + kL - 1) / kL, pixels = x.height * x.width;
  const int64_t along_size = std::max(t.low_h.rows() * x.width, t.dft_h.rows() * a.dft_w.length) * kL;
  const int64_t low_size = t.low_h.rows() * t.low_w.rows() * kL, pairs_size = t.dft_h.rows() * t.dft_w.rows() * kL;
  parallel(runtime, lists * groups, 1, [&](Pieces& pieces) {
    Buffer<C> scratch((pixels * kL + along_size) + low_size + pairs_size);
    C *group = scratch.data(), *along = group + pixels * kL, *low = along + along_size, *pairs = low + low_size;
    Ahead ahead(false);
    for (int64_t task = pieces.next(); task >= 0; task = pieces.next()) {
      const int64_t list = task / groups, at = task % groups * kL, count = std::min<int64_t>(kL, length - at);
      const S* from = map_at<S>(x, list, at);
      const int64_t next = (task + 1) % groups * kL;
      read_ahead(ahead, x, map_at<S>(x, (task + 1) / groups, next),
                 task + 1 < lists * groups ? std::min<int64_t>(kL, length - next) : 0);
      if (std::is_same_v<S, C> && x.channel_stride == 1 && count == kL) {
        residual_pairs(a, t, reinterpret_cast<const C*>(from), x.row_stride, x.column_stride, along, low, pairs,
                       &ahead);
      } else {
        gather_group<S, C>(x, count, [&](int64_t i) { return from + i * x.channel_stride; }, group);
        residual_pairs<C>(a, t, group, x.width * kL, kL, along, low, pairs, &ahead);
      }
      store_first(static_cast<C*>(a.out) + list * length + at, l1_of_pairs(pairs, a.dft_h, a.dft_w), count);
    }
  });
}

}  // namespace

void alias_l1(const AliasL1Args& a, const Runtime& runtime) {
  for_dtype(a.x.dtype, [&](auto stored) { run<decltype(stored)>(a, runtime); });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
