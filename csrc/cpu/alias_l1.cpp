// Per map, the L1 norm of the spectrum that subsampling folds.
#include "alias_l1.h"

#include "ops.h"
#include "parallel.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

template <class S>
void run(const AliasL1Args& a, const Runtime& runtime) {
  using C = Compute<S>;
  const AliasTransforms<C> transforms(a);
  const MapGroups<C> groups(a.x, follow_evenly(a.x));
  parallel(runtime, groups.count(), 1, [&](Pieces& pieces) {
    AliasResidual<S> residual(a, transforms);
    for (int64_t group = pieces.next(); group >= 0; group = pieces.next()) {
      const int64_t maps = groups.maps(group);
      read_ahead(residual.ahead, a.x, groups.template at<S>(a.x, group + 1), groups.maps(group + 1));
      const C* pairs = residual.pairs(groups.template at<S>(a.x, group), maps);
      store_first(static_cast<C*>(a.out) + groups.number(group), l1_of_pairs(pairs, a.dft_h, a.dft_w), maps);
    }
  });
}

}  // namespace

void alias_l1(const AliasL1Args& a, const Runtime& runtime) {
  for_dtype(a.x.dtype, [&](auto stored) { run<decltype(stored)>(a, runtime); });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
