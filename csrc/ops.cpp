// The ops' CPU kernels, registered through PyTorch's stable ABI: tensors become plain pointers and strides here.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <array>
#include <optional>
#include <vector>

#include "kernels.h"

namespace alias_ops {
namespace {

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

Dtype accumulation_dtype(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? Dtype::kFloat64 : Dtype::kFloat32;
}

Runtime runtime() {
  return {[](int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context) {
            torch::stable::parallel_for(begin, end, grain, [=](int64_t from, int64_t to) { body(from, to, context); });
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
  return t.scalar_type() == ScalarType::Double ? t : torch::stable::to(t, ScalarType::Double);
}

Factor factor_of(const Tensor& t, bool transposed) {
  const int64_t row = transposed ? 2 : 1, column = transposed ? 1 : 2;
  return {static_cast<const double*>(t.const_data_ptr()), t.stride(0), t.stride(row), t.stride(column)};
}

// A fresh tensor on the CPU, straight from the shim: looking up aten::empty by its name, as
// torch::stable::empty does, costs a fifth of a small call.
Tensor empty(const std::vector<int64_t>& sizes, Dtype dtype, bool channels_last = false) {
  std::vector<int64_t> strides(sizes.size());
  int64_t step = 1;
  const auto place = [&](size_t d) { strides[d] = step, step *= std::max<int64_t>(1, sizes[d]); };
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
  return Tensor(handle);
}

// The adjoint op is the same one with transposed factors.
Tensor separable2d_or_adjoint(Tensor x, const Tensor& left, const Tensor& right, bool adjoint) {
  STD_TORCH_CHECK(left.dim() == 3 && right.dim() == 3, "left and right must be [T, M, H] and [T, N, W]");
  const bool channels_last = is_channels_last(x);
  const Maps maps = maps_of(x, "x", false);
  const int64_t in = adjoint ? 1 : 2, out = adjoint ? 2 : 1;
  STD_TORCH_CHECK(left.size(in) == maps.height && right.size(in) == maps.width, "left and right must fit x");
  const int64_t terms = left.size(0);
  STD_TORCH_CHECK((terms == 1 || terms == 2) && right.size(0) == terms, "left and right must have 1 or 2 terms");
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const int64_t out_height = left.size(out), out_width = right.size(out);
  sizes[sizes.size() - 2] = out_height;
  sizes[sizes.size() - 1] = out_width;
  Tensor y = empty(sizes, maps.dtype, channels_last);
  if (y.numel() == 0) return y;
  const Tensor l = as_double(left), r = as_double(right);
  const int64_t area = out_height * out_width;
  Separable2dArgs args{
      maps,       channels_last, y.mutable_data_ptr(),  maps.channels * area, area, out_width, 1, terms,
      out_height, out_width,     factor_of(l, adjoint), factor_of(r, adjoint)};
  if (channels_last) {
    args.y_channel_stride = 1, args.y_column_stride = maps.channels, args.y_row_stride = maps.channels * out_width;
  }
  kernels().separable2d(args, runtime());
  return y;
}

Tensor separable2d(Tensor x, const Tensor& left, const Tensor& right) {
  return separable2d_or_adjoint(x, left, right, false);
}

DftTable dft_table(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == ScalarType::Double && t.is_contiguous() && t.dim() == 3 && t.size(0) == 2, name,
                  " must be a contiguous float64 table [2, frequencies, length]");
  STD_TORCH_CHECK(t.size(1) > 0 && t.size(2) > 0, name, " must not be empty");
  return {static_cast<const double*>(t.const_data_ptr()), t.size(1), t.size(2)};
}

int64_t outputs_of(int64_t size, int64_t stride) { return (size + stride - 1) / stride; }

// The strided map's transform must have the bins of its size, and the kept band must lie below its Nyquist bin.
void check_bands(const DftTable& dft, const DftTable& low, int64_t outputs, int64_t size) {
  STD_TORCH_CHECK(dft.length == outputs && dft.frequencies == outputs / 2 + 1 && low.length == size &&
                      low.frequencies == (outputs - 1) / 2 + 1,
                  "tables must be those of alias_ops.designs for this size and stride");
}

Tensor alias_l1(Tensor x, const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
                const std::vector<int64_t>& stride) {
  STD_TORCH_CHECK(tables_h.size() == 2 && tables_w.size() == 2, "alias_l1 takes two tables an axis");
  STD_TORCH_CHECK(stride.size() == 2 && stride[0] > 0 && stride[1] > 0, "stride must be two positive ints");
  const std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end() - std::min<int64_t>(2, x.dim()));
  const Maps maps = maps_of(x, "x", true);
  Tensor out = empty(sizes, accumulation_dtype(x));
  if (out.numel() == 0) return out;
  AliasL1Args args{maps,
                   stride[0],
                   stride[1],
                   dft_table(tables_h[0], "tables_h[0]"),
                   dft_table(tables_w[0], "tables_w[0]"),
                   dft_table(tables_h[1], "tables_h[1]"),
                   dft_table(tables_w[1], "tables_w[1]"),
                   out.mutable_data_ptr()};
  check_bands(args.dft_h, args.low_h, outputs_of(maps.height, stride[0]), maps.height);
  check_bands(args.dft_w, args.low_w, outputs_of(maps.width, stride[1]), maps.width);
  kernels().alias_l1(args, runtime());
  return out;
}

ConvAxis conv_axis(const std::vector<Tensor>& t, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                   int64_t dilation) {
  STD_TORCH_CHECK(t.size() == 6, "conv2d_alias_l1 takes six tables an axis");
  STD_TORCH_CHECK(stride > 0 && padding >= 0 && dilation > 0,
                  "stride and dilation must be positive, padding not negative");
  const int64_t stride_1 = size + 2 * padding - dilation * (kernel - 1);
  STD_TORCH_CHECK(kernel > 0 && stride_1 > 0, "the kernel must fit in the padded input");
  const int64_t outputs = outputs_of(stride_1, stride);
  ConvAxis a{};
  a.input = dft_table(t[0], "input rows");
  a.dft = dft_table(t[4], "dft rows");
  check_bands(a.dft, a.input, outputs, size);
  for (const Tensor& table : t) STD_TORCH_CHECK(table.is_contiguous(), "tables must be contiguous");
  for (int i : {1, 2, 5}) STD_TORCH_CHECK(t[i].scalar_type() == ScalarType::Double, "tables must be float64");
  a.lines = t[3].dim() == 2 ? t[3].size(0) : -1;
  STD_TORCH_CHECK(t[3].scalar_type() == ScalarType::Long && a.lines >= 0 && t[3].size(1) == kernel &&
                      t[1].numel() == 2 * a.input.frequencies * kernel &&
                      t[2].numel() == 2 * a.input.frequencies * a.lines &&
                      (kernel > 1 || t[5].numel() == outputs * size),
                  "tables must be those of alias_ops.designs for this geometry");
  a.phase = static_cast<const double*>(t[1].const_data_ptr());
  a.frame = static_cast<const double*>(t[2].const_data_ptr());
  a.sources = static_cast<const int64_t*>(t[3].const_data_ptr());
  a.low_pass = static_cast<const double*>(t[5].const_data_ptr());
  for (int64_t i = 0; i < a.lines * kernel; ++i)
    STD_TORCH_CHECK(a.sources[i] < size, "frame sources must lie in the input");
  a.kernel = kernel, a.stride = stride, a.padding = padding;
  return a;
}

Tensor strided_convolution(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& stride,
                           const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{
      from(x), from(weight), from(std::optional<Tensor>()), from(stride), from(padding), from(dilation), from(groups)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::conv2d", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor conv2d_alias_l1(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> output,
                       const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
                       const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                       const std::vector<int64_t>& dilation, int64_t groups) {
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4,
                  "x must be [B, Cin, H, W] and weight [Cout, Cin / groups, kH, kW]");
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2, "geometry must be pairs");
  STD_TORCH_CHECK(groups > 0 && weight.size(0) % groups == 0 && weight.size(1) * groups == x.size(1),
                  "weight must be [Cout, Cin / groups, kH, kW] with Cout a multiple of groups");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight must have the dtype of x");
  const int64_t outputs = weight.size(0);
  Tensor out = empty({x.size(0), outputs}, accumulation_dtype(x));
  if (out.numel() == 0) return out;
  Conv2dAliasL1Args args{};
  args.x = maps_of(x, "x", true);
  args.h = conv_axis(tables_h, args.x.height, weight.size(2), stride[0], padding[0], dilation[0]);
  args.w = conv_axis(tables_w, args.x.width, weight.size(3), stride[1], padding[1], dilation[1]);
  if (weight.numel() == 0) return torch::stable::zero_(out);
  weight = torch::stable::contiguous(weight);
  args.weight = weight.const_data_ptr();
  args.outputs = outputs, args.groups = groups;
  args.out = out.mutable_data_ptr();
  // A 1x1 layer without padding needs no output (identity 4); others compute it where it is not at hand.
  const bool pointwise = args.h.kernel == 1 && args.w.kernel == 1 && padding[0] == 0 && padding[1] == 0;
  Tensor y;
  if (!pointwise) {
    if (output.has_value()) {
      y = *output;
      STD_TORCH_CHECK(y.scalar_type() == x.scalar_type(), "output must have the dtype of x");
    } else {
      y = strided_convolution(x, weight, stride, padding, dilation, groups);
    }
    args.y = maps_of(y, "output", true);
    STD_TORCH_CHECK(y.dim() == 4 && args.y.images == x.size(0) && args.y.channels == outputs &&
                        args.y.height == args.h.dft.length && args.y.width == args.w.dft.length,
                    "output must be the layer's own strided output");
    if (bias.has_value() && output.has_value()) {
      STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs, "bias must be [Cout]");
      bias = torch::stable::contiguous(torch::stable::to(*bias, x.scalar_type()));
      args.bias = bias->const_data_ptr();
    }
  }
  kernels().conv2d_alias_l1(args, runtime());
  return out;
}

}  // namespace
}  // namespace alias_ops

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CPU, m) {
  m.impl("separable2d", TORCH_BOX(&alias_ops::separable2d));
  m.impl("_separable2d", TORCH_BOX(&alias_ops::separable2d_or_adjoint));
  m.impl("alias_l1", TORCH_BOX(&alias_ops::alias_l1));
  m.impl("conv2d_alias_l1", TORCH_BOX(&alias_ops::conv2d_alias_l1));
}
