// The one-pass convolution measure for PyTorch, through its stable ABI. alias_ops/kernels/conv2d_alias_l1_cuda.py calls
// these operators; users never do.
#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "conv2d_alias_l1.h"
#include "tensors.h"

namespace alias_ops::cuda {
namespace {

using namespace conv2d;

constexpr int64_t kMost = int64_t(1) << 24;  // of any number of a layer: sums and products of two stay below 2^63

// batch, channels, outputs, groups, precision; size, kernel, padding, dilation along the height, then along the width.
Layer layer_of(const std::vector<int64_t>& n) {
  STD_TORCH_CHECK(n.size() == 13, "layer must have 13 numbers, got ", n.size());
  for (const int64_t number : n) STD_TORCH_CHECK(number >= 0 && number < kMost, "layer: ", number, " is out of range");
  STD_TORCH_CHECK(n[0] > 0 && n[1] > 0 && n[2] > 0 && n[3] > 0 && n[4] < 4, "layer: no such layer");
  STD_TORCH_CHECK(n[1] % n[3] == 0 && n[2] % n[3] == 0, "layer: channels and outputs must be multiples of groups");
  const auto axis = [&](size_t i) {
    STD_TORCH_CHECK(n[i] > 0 && n[i + 1] > 0 && n[i + 3] > 0, "layer: no such axis");
    // Above the plan's own limits nothing is served: numbers of 32 bits suffice for what is.
    const bool small = n[i] <= kLargestInput && n[i + 1] <= kLargestKernel && n[i + 2] < 1 << 16 && n[i + 3] < 1 << 16;
    const int64_t covered = n[i] + 2 * n[i + 2] - n[i + 3] * (n[i + 1] - 1);
    STD_TORCH_CHECK(covered > 0, "layer: the kernel must fit in the padded input");
    return small ? axis_of(int(n[i]), int(n[i + 1]), int(n[i + 2]), int(n[i + 3])) : Axis{};
  };
  return {axis(5), axis(9), int(n[0]), int(n[1]), int(n[2]), int(n[3]), Precision(n[4])};
}

// The plan as far as tables and weights depend on it, as int64 on the CPU, in the order of Python's Plan.
Tensor plan(const Tensor& like, const std::vector<int64_t>& layer, int64_t shared_memory, bool clusters) {
  const Layer l = layer_of(layer);
  const Plan p = plan_of(l, int(std::min<int64_t>(shared_memory, 1 << 20)), clusters);
  Tensor numbers = torch::stable::new_empty(like, {kPlanNumbers}, ScalarType::Long);
  plan_numbers(p, static_cast<int64_t*>(numbers.mutable_data_ptr()));
  return numbers;
}

int64_t bytes_of(const Tensor& t) {
  const auto type = t.scalar_type();
  return t.numel() * (type == ScalarType::BFloat16 || type == ScalarType::Half ? 2 : 4);
}

// False if the device has too little shared memory for the plan that the tables were made for.
bool measure(const Tensor& x, const Tensor& weight, const Tensor& left, const Tensor& right, const Tensor& wave_h,
             const Tensor& wave_w, const std::vector<int64_t>& layer, int64_t shared_memory, bool clusters,
             double scale, Tensor scratch, Tensor out) {
  const Layer l = layer_of(layer);
  const Plan p = plan_of(l, int(std::min<int64_t>(shared_memory, 1 << 20)), clusters);
  STD_TORCH_CHECK(p.shared > 0, "there is no plan for this layer");
  STD_TORCH_CHECK(
      x.dim() == 4 && x.size(0) == l.batch && x.size(1) == l.channels && x.size(2) == l.h.size && x.size(3) == l.w.size,
      "x must be the layer's input");
  STD_TORCH_CHECK(x.is_cuda(), "x must be on a CUDA device");
  STD_TORCH_CHECK(precision_of(x, l.precision == Precision::kTf32) == l.precision, "x must have the layer's precision");
  const std::pair<const Tensor*, int64_t> sizes[] = {{&weight, weight_bytes(l, p)},
                                                     {&left, int64_t(p.bands) * p.left_bytes},
                                                     {&right, p.right_bytes},
                                                     {&wave_h, wave_bytes(l.h.outputs)},
                                                     {&wave_w, wave_bytes(l.w.outputs)},
                                                     {&scratch, scratch_bytes(l, p)},
                                                     {&out, 4 * int64_t(l.batch) * l.outputs}};
  for (const auto& [tensor, bytes] : sizes) {
    STD_TORCH_CHECK(bytes_of(*tensor) == bytes, "a table must have ", bytes, " bytes, got ", bytes_of(*tensor));
    check_packed(*tensor, "what a kernel reads whole");
    STD_TORCH_CHECK(tensor->get_device_index() == x.get_device_index(), "all tensors must be on one device");
  }
  const bool half = l.precision == Precision::kBFloat16 || l.precision == Precision::kFloat16;
  for (const Tensor* t : {&weight, &left, &right}) {
    STD_TORCH_CHECK(t->scalar_type() == x.scalar_type(), "tables must have x's dtype");
  }
  for (const Tensor* t : std::initializer_list<const Tensor*>{&wave_h, &wave_w, &scratch, &out}) {
    STD_TORCH_CHECK(t->scalar_type() == ScalarType::Float, "waves, scratch and out must be float32");
  }
  Arguments a{x.const_data_ptr(),
              x.stride(0),
              x.stride(1),
              x.stride(2),
              x.stride(3),
              0,
              static_cast<const uint32_t*>(weight.const_data_ptr()),
              static_cast<const uint32_t*>(left.const_data_ptr()),
              static_cast<const uint32_t*>(right.const_data_ptr()),
              static_cast<const float*>(wave_h.const_data_ptr()),
              static_cast<const float*>(wave_w.const_data_ptr()),
              float(scale),
              static_cast<float*>(out.mutable_data_ptr()),
              static_cast<float*>(scratch.mutable_data_ptr()),
              l,
              p};
  a.copied = copied_bytes(a, half ? 2 : 4);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  return conv2d_alias_l1(a, place_of(x));
}

}  // namespace
}  // namespace alias_ops::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(alias_ops, m) {
  m.def("_cuda_conv2d_alias_l1_plan(Tensor like, int[] layer, int shared_memory, bool clusters) -> Tensor");
  m.def(
      "_cuda_conv2d_alias_l1(Tensor x, Tensor weight, Tensor left, Tensor right, Tensor wave_h, Tensor wave_w, "
      "int[] layer, int shared_memory, bool clusters, float scale, Tensor(a!) scratch, Tensor(b!) out) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CPU, m) {
  m.impl("_cuda_conv2d_alias_l1_plan", TORCH_BOX(&alias_ops::cuda::plan));
}

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CUDA, m) { m.impl("_cuda_conv2d_alias_l1", TORCH_BOX(&alias_ops::cuda::measure)); }
