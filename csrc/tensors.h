// Tensors in, plain pointers and strides out: what the ops of PyTorch's stable ABI share.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "first_cache.h"
#include "huge_pages.h"
#include "kernels.h"

namespace alias_ops {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& t, const char* name) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat32;
    case ScalarType::Double:
      return Dtype::kFloat64;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Half:
      return Dtype::kFloat16;
    default:
      STD_TORCH_CHECK(false, name, " must be float64, float32, bfloat16 or float16");
  }
}

// Where a tensor's elements lie. A storage that was resized to nothing, as sharded training does, has no such place,
// and PyTorch's copies do not look: to be asked before them.
inline const void* data_of(const Tensor& t, const char* name) {
  const void* data = t.const_data_ptr();
  STD_TORCH_CHECK(data != nullptr || t.numel() == 0, name, " has no memory: its storage was freed");
  return data;
}

// The elements side by side: t is a copy then, unless it was contiguous.
inline const void* packed(Tensor& t, const char* name) {
  data_of(t, name);
  t = torch::stable::contiguous(t);
  return t.const_data_ptr();
}

// Of a tensor that is written as it lies: an element of its own for every index. A few layouts that have one, as
// strides (2, 3) of 3 x 2 elements, are taken for overlapping ones.
inline bool overlaps_itself(const Tensor& t) {
  std::vector<std::pair<int64_t, int64_t>> dims;  // stride, size
  for (int64_t d = 0; d < t.dim(); ++d) {
    if (t.size(d) == 0) return false;
    if (t.size(d) > 1) dims.emplace_back(t.stride(d), t.size(d));
  }
  std::sort(dims.begin(), dims.end());
  int64_t last = 0;  // the largest offset so far; a tensor with memory has no larger one than fits
  for (const auto& [stride, size] : dims) {
    if (stride <= last) return true;
    last += stride * (size - 1);
  }
  return false;
}

inline Dtype accumulation_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? Dtype::kFloat64 : Dtype::kFloat32;
}

inline Runtime runtime() {
  return {[](int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
            torch::stable::parallel_for(begin, end, grain, [=](int64_t from, int64_t to) { body(from, to, context); });
          },
          int64_t(torch::stable::get_num_threads()), first_cache()};
}

// Strides of a dimension of one element say nothing; give them those of a packed layout.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return false;
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != expected || __builtin_mul_overflow(expected, t.size(d), &expected)) return false;
  }
  return true;
}

// x as maps that the kernels can walk. Strided 4-D layouts pass as they are where `any_strides`;
// others are copied unless they are contiguous or channels_last.
inline Maps maps_of(Tensor& t, const char* name, bool any_strides) {
  STD_TORCH_CHECK(t.dim() >= 2, name, " must have at least 2 dimensions, got ", t.dim());
  Maps m{nullptr, dtype_of(t, name), 1, 1, t.size(t.dim() - 2), t.size(t.dim() - 1), 0, 0, 0, 0};
  STD_TORCH_CHECK(m.height > 0 && m.width > 0, name, " must have maps of at least 1x1");
  const bool in_place = t.dim() == 4 && (any_strides || is_channels_last(t));
  data_of(t, name);
  if (!in_place && !t.is_contiguous()) t = torch::stable::contiguous(t);
  if (in_place) {
    m.images = t.size(0), m.channels = t.size(1);
    m.image_stride = t.stride(0), m.channel_stride = t.stride(1);
    m.row_stride = t.stride(2), m.column_stride = t.stride(3);
  } else if (t.numel() == 0) {
    m.channels = 0;  // the sizes beside the 0 may be anything
  } else {
    for (int64_t d = 0; d < t.dim() - 2; ++d) m.channels *= t.size(d);
    m.channel_stride = m.height * m.width, m.row_stride = m.width, m.column_stride = 1;
    m.image_stride = m.channels * m.channel_stride;
  }
  m.data = t.const_data_ptr();
  return m;
}

// A fresh tensor on the CPU, straight from the shim: looking up aten::empty by its name, as
// torch::stable::empty does, costs a fifth of a small call.
inline Tensor empty(const std::vector<int64_t>& sizes, Dtype dtype, bool channels_last = false) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  const auto place = [&](size_t d) {
    strides[d] = step;
    STD_TORCH_CHECK(!__builtin_mul_overflow(step, std::max<int64_t>(1, sizes[d]), &step), "the result is too large");
  };
  if (channels_last) {
    for (size_t d : {1, 3, 2, 0}) place(d);
  } else {
    for (size_t d = sizes.size(); d-- > 0;) place(d);
  }
  const int32_t type = dtype == Dtype::kFloat32    ? aoti_torch_dtype_float32()
                       : dtype == Dtype::kFloat64  ? aoti_torch_dtype_float64()
                       : dtype == Dtype::kBFloat16 ? aoti_torch_dtype_bfloat16()
                                                   : aoti_torch_dtype_float16();
  AtenTensorHandle handle = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(sizes.size()), sizes.data(), strides.data(), type,
                                                         aoti_torch_device_type_cpu(), 0, &handle));
  Tensor made(handle);
  const int64_t item = dtype == Dtype::kFloat64 ? 8 : dtype == Dtype::kFloat32 ? 4 : 2;
  ask_for_huge_pages(made.mutable_data_ptr(), size_t(made.numel() * item));
  return made;
}

inline DftTable dft_table(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Double && t.is_contiguous() && t.dim() == 3 && t.size(0) == 2, name,
                  " must be a contiguous float64 table [2, frequencies, length]");
  STD_TORCH_CHECK(t.size(1) > 0 && t.size(2) > 0, name, " must not be empty");
  return {static_cast<const double*>(data_of(t, name)), t.size(1), t.size(2)};
}

// Not (size + stride - 1) / stride, which a stride near 2^63 takes beyond 64 bits.
inline int64_t outputs_of(int64_t size, int64_t stride) { return size / stride + (size % stride != 0); }

// The strided map's transform must have the bins of its size, and the kept band must lie below its Nyquist bin.
inline void check_bands(const DftTable& dft, const DftTable& low, int64_t outputs, int64_t size) {
  STD_TORCH_CHECK(dft.length == outputs && dft.frequencies == outputs / 2 + 1 && low.length == size &&
                      low.frequencies == (outputs - 1) / 2 + 1,
                  "tables must be those of alias_ops.designs for this size and stride");
}

}  // namespace alias_ops
