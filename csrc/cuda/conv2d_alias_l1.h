// What csrc/cuda/conv2d_ops.cpp calls.
#pragma once

#include "conv2d_alias_l1_plan.h"

namespace alias_ops::cuda {

// False, and nothing done, if the device has less shared memory than the call's plan asks for, or it has too many
// blocks. Throws std::runtime_error with what CUDA says.
bool conv2d_alias_l1(const conv2d::Arguments& call, Place where);

}  // namespace alias_ops::cuda
