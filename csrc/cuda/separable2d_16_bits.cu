// separable2d's kernels for bfloat16 and float16.
#include "separable2d_launch.h"

namespace alias_ops::cuda {

bool separable2d_of_16_bits(const Separable2dLaunch& call, Place where) {
  if (call.precision == Precision::kBFloat16) return launch_separable2d<BFloat16, 1>(call, where);
  return launch_separable2d<Half, 1>(call, where);
}

}  // namespace alias_ops::cuda
