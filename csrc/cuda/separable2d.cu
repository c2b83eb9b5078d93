// separable2d on CUDA: kernels in float32; those of 16 bits are in separable2d_16_bits.cu, to compile side by side.
#include "separable2d_launch.h"

namespace alias_ops::cuda {

bool separable2d(const Separable2dLaunch& call, Place where) {
  if (call.precision == Precision::kFloat32) return launch_separable2d<float, 3>(call, where);
  if (call.precision == Precision::kTf32) return launch_separable2d<float, 1>(call, where);
  return separable2d_of_16_bits(call, where);
}

}  // namespace alias_ops::cuda
