// The aliasing of a strided convolution from its input, weight and strided output: identity 7. Without that output, and
// for 1x1 layers, identity 4, in conv2d_alias_l1_taps.cpp and conv2d_alias_l1_pointwise.cpp.
#include "conv2d_alias_l1.h"

#include "conv2d_residual.h"
#include "ops.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

template <class S>
void run(const Conv2dAliasL1Args& a, const Runtime& runtime) {
  if (a.y.data == nullptr) {
    (a.taps_h.taps > 0 ? conv2d_alias_l1_taps : conv2d_alias_l1_pointwise)(a, runtime);
    return;
  }
  if constexpr (std::is_same_v<S, Compute<S>>) {
    if (a.d_output.data != nullptr) return ConvResidual<S, true>(a, runtime).run();
  }
  ConvResidual<S, false>(a, runtime).run();
}

}  // namespace

void conv2d_alias_l1(const Conv2dAliasL1Args& a, const Runtime& runtime) {
  for_dtype(a.x.dtype, [&](auto stored) { run<decltype(stored)>(a, runtime); });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
