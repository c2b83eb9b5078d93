// The ops' CPU kernels, registered through PyTorch's stable ABI: tensors become plain pointers and strides here.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <vector>

#include "kernels.h"

namespace alias_ops {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

Dtype dtype_of(const Tensor& t, const char* name) {
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

ScalarType accumulation_type(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Runtime runtime() {
  return {[](int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
            torch::stable::parallel_for(begin, end, grain,
                                        [=](int64_t from, int64_t to) { body(from, to, context); });
          },
          int64_t(torch::stable::get_num_threads())};
}

// Strides of a dimension of one element say nothing; give them those of a packed layout.
bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4 || t.is_contiguous()) return false;
  int64_t expected = 1;
  for (int64_t d : {1, 3, 2, 0}) {
    if (t.size(d) == 1) continue;
    if (t.stride(d) != expected) return false;
    expected *= t.size(d);
  }
  return true;
}

// x as maps that the kernels can walk. Strided 4-D layouts pass as they are where `any_strides`;
// others are copied unless they are contiguous or channels_last.
Maps maps_of(Tensor& t, const char* name, bool any_strides) {
  STD_TORCH_CHECK(t.dim() >= 2, name, " must have at least 2 dimensions, got ", t.dim());
  Maps m{nullptr, dtype_of(t, name), 1, 1, t.size(t.dim() - 2), t.size(t.dim() - 1), 0, 0, 0, 0};
  STD_TORCH_CHECK(m.height > 0 && m.width > 0, name, " must have maps of at least 1x1");
  const bool in_place = t.dim() == 4 && (any_strides || is_channels_last(t));
  if (!in_place && !t.is_contiguous()) t = torch::stable::contiguous(t);
  if (in_place) {
    m.images = t.size(0), m.channels = t.size(1);
    m.image_stride = t.stride(0), m.channel_stride = t.stride(1);
    m.row_stride = t.stride(2), m.column_stride = t.stride(3);
  } else {
    for (int64_t d = 0; d < t.dim() - 2; ++d) m.channels *= t.size(d);
    m.channel_stride = m.height * m.width, m.row_stride = m.width, m.column_stride = 1;
    m.image_stride = m.channels * m.channel_stride;
  }
  m.data = t.const_data_ptr();
  return m;
}

Tensor as_double(const Tensor& t) {
  return torch::stable::contiguous(torch::stable::to(t, ScalarType::Double));
}

Tensor separable2d(Tensor x, const Tensor& left, const Tensor& right) {
  STD_TORCH_CHECK(left.dim() == 3 && right.dim() == 3, "left and right must be [T, M, H] and [T, N, W]");
  const bool channels_last = is_channels_last(x);
  const Maps maps = maps_of(x, "x", false);
  STD_TORCH_CHECK(left.size(2) == maps.height && right.size(2) == maps.width, "left and right must fit x");
  const int64_t terms = left.size(0);
  STD_TORCH_CHECK((terms == 1 || terms == 2) && right.size(0) == terms, "left and right must have 1 or 2 terms");
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const int64_t out_height = left.size(1), out_width = right.size(1);
  sizes[sizes.size() - 2] = out_height;
  sizes[sizes.size() - 1] = out_width;
  Tensor y = torch::stable::empty(sizes, x.scalar_type(), std::nullopt, x.device(), std::nullopt,
                                  channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (y.numel() == 0) return y;
  const Tensor l = as_double(left), r = as_double(right);
  const int64_t area = out_height * out_width;
  Separable2dArgs args{maps, channels_last, y.mutable_data_ptr(), maps.channels * area, area, out_width, 1, terms, out_height, out_width,
                       static_cast<const double*>(l.const_data_ptr()), static_cast<const double*>(r.const_data_ptr())};
  if (channels_last) {
    args.y_channel_stride = 1, args.y_column_stride = maps.channels, args.y_row_stride = maps.channels * out_width;
  }
  kernels().separable2d(args, runtime());
  return y;
}

}  // namespace
}  // namespace alias_ops

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CPU, m) { m.impl("separable2d", TORCH_BOX(&alias_ops::separable2d)); }
