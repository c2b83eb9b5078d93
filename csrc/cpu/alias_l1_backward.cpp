// The gradient of the aliasing of stride-1 maps. With G the gradient of a map's sum of |D| with respect to the pairs
// that D is kept as, dx is the strided transform's adjoint of G at the samples that subsampling takes, less the kept
// band's everywhere: x is read once more and dx written, nothing else of their size exists.
#include "alias_l1.h"
#include "ops.h"
#include "parallel.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

template <class C>
struct Adjoints {
  DftAxis<C> low_h, low_w, dft_h, dft_w;
  explicit Adjoints(const AliasL1Args& a)
      : low_h(pack_dft_adjoint<C>(a.low_h, -1)),
        low_w(pack_dft_adjoint<C>(a.low_w)),
        dft_h(pack_dft_adjoint<C>(a.dft_h)),
        dft_w(pack_dft_adjoint<C>(a.dft_w)) {}
};

template <class S>
void run(const AliasL1GradientArgs& args, const Runtime& runtime) {
  using C = Compute<S>;
  constexpr int kL = kLanes<C>;
  const AliasL1Args& a = args.measure;
  const AliasTransforms<C> transforms(a);
  const Adjoints<C> back(a);
  const MapGroups<C> groups(a.x, follow_evenly(a.x) && follow_evenly(args.dx));
  const int64_t row = pair_rows(a.dft_w.frequencies) * kL;
  parallel(runtime, groups.count(), 1, [&](Pieces& pieces) {
    AliasResidual<S> residual(a, transforms);
    C *map = residual.map(), *along = residual.along();
    for (int64_t group = pieces.next(); group >= 0; group = pieces.next()) {
      const int64_t maps = groups.maps(group);
      S* dx = const_cast<S*>(groups.template at<S>(args.dx, group));
      residual.ahead.template group<S>(groups.template at<S>(a.x, group + 1), dense_size(a.x, groups.maps(group + 1)),
                                       dx, dense_size(args.dx, maps));
      C* pairs = residual.pairs(groups.template at<S>(a.x, group), maps);
      l1_of_pairs_adjoint(pairs, a.dft_h, a.dft_w,
                          load_first(static_cast<const C*>(args.grad) + groups.number(group), maps));
      transform(back.low_h, back.low_w, pairs, row, kL, along, map, &residual.ahead);
      const int64_t width = back.dft_w.inner(), outputs = a.dft_h.length;
      multiply(back.dft_h, Panel<C>{pairs, row, kL, along, width * kL, kL, width, false, &residual.ahead});
      multiply(back.dft_w, Panel<C>{along, kL, width * kL, map, a.stride_w * kL, a.stride_h * a.x.width * kL, outputs,
                                    true, &residual.ahead});
      scatter_maps(map, args.dx, maps, dx);
    }
  });
}

}  // namespace

void alias_l1_gradient(const AliasL1GradientArgs& a, const Runtime& runtime) {
  for_dtype(a.measure.x.dtype, [&](auto stored) { run<decltype(stored)>(a, runtime); });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
