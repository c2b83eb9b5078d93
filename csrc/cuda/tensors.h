// Tensors in, plain pointers out: what the operators of csrc/cuda share.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include "ops.h"

namespace alias_ops::cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Precision precision_of(const Tensor& x, bool tf32) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return tf32 ? Precision::kTf32 : Precision::kFloat32;
    case ScalarType::BFloat16:
      return Precision::kBFloat16;
    case ScalarType::Half:
      return Precision::kFloat16;
    default:
      STD_TORCH_CHECK(false, "x must be float32, bfloat16 or float16");
  }
}

// Contiguous and aligned to 16 bytes, as the kernels' accesses want it.
inline void check_packed(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.is_cuda(), name, " must be on a CUDA device");
  STD_TORCH_CHECK(t.is_contiguous(), name, " must be contiguous");
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(t.const_data_ptr()) % 16 == 0, name, " must be aligned to 16 bytes");
}

inline Place place_of(const Tensor& x) {
  Place where{x.get_device_index(), nullptr};
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(where.device, &where.stream));
  return where;
}

}  // namespace alias_ops::cuda
