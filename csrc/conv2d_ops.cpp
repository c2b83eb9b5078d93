// The CPU kernels of conv2d_alias_l1 and its gradients, registered through PyTorch's stable ABI.
#include <algorithm>
#include <array>
#include <optional>
#include <tuple>

#include "tensors.h"

namespace alias_ops {
namespace {

constexpr int kConvTables = 6, kTapTables = 5;

// Outputs of an axis, checked; the kernels' sums and products of its numbers then fit into 64 bits.
int64_t axis_outputs(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation) {
  STD_TORCH_CHECK(stride > 0 && padding >= 0 && dilation > 0,
                  "stride and dilation must be positive, padding not negative");
  constexpr int64_t kMost = (int64_t(1) << 31) - 1;
  STD_TORCH_CHECK(std::max({stride, padding, dilation, kernel}) <= kMost && size <= kMost * kMost,
                  "stride, padding, dilation and the kernel's size must be below 2^31");
  const int64_t stride_1 = size + 2 * padding - dilation * (kernel - 1);
  STD_TORCH_CHECK(kernel > 0 && stride_1 > 0, "the kernel must fit in the padded input");
  return outputs_of(stride_1, stride);
}

ConvAxis conv_axis(const std::vector<Tensor>& t, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                   int64_t dilation) {
  STD_TORCH_CHECK(t.size() == kConvTables || t.size() == kConvTables + kTapTables,
                  "conv2d_alias_l1 takes six tables an axis, or eleven");
  const int64_t outputs = axis_outputs(size, kernel, stride, padding, dilation);
  ConvAxis a{};
  a.input = dft_table(t[0], "input rows");
  a.dft = dft_table(t[4], "dft rows");
  check_bands(a.dft, a.input, outputs, size);
  for (int i = 0; i < kConvTables; ++i) STD_TORCH_CHECK(t[i].is_contiguous(), "tables must be contiguous");
  for (int i : {1, 2, 5}) STD_TORCH_CHECK(t[i].scalar_type() == ScalarType::Double, "tables must be float64");
  a.lines = t[3].dim() == 2 ? t[3].size(0) : -1;
  STD_TORCH_CHECK(t[3].scalar_type() == ScalarType::Long && a.lines >= 0 && t[3].size(1) == kernel &&
                      t[1].numel() == 2 * a.input.frequencies * kernel &&
                      t[2].numel() == 2 * a.input.frequencies * a.lines &&
                      (kernel > 1 || t[5].numel() == outputs * size),
                  "tables must be those of alias_ops.designs for this geometry");
  a.phase = static_cast<const double*>(data_of(t[1], "a table"));
  a.frame = static_cast<const double*>(data_of(t[2], "a table"));
  a.sources = static_cast<const int64_t*>(data_of(t[3], "a table"));
  a.low_pass = static_cast<const double*>(data_of(t[5], "a table"));
  for (int64_t i = 0; i < a.lines * kernel; ++i)
    STD_TORCH_CHECK(a.sources[i] < size, "frame sources must lie in the input");
  a.kernel = kernel, a.stride = stride, a.padding = padding;
  return a;
}

// Of the tables that follow those of identity 7.
TapTable tap_table(const std::vector<Tensor>& all, int64_t size, int64_t kernel, int64_t stride, int64_t padding,
                   int64_t dilation) {
  STD_TORCH_CHECK(all.size() == kConvTables + kTapTables, "identity 4 takes eleven tables an axis");
  const Tensor* t = &all[kConvTables];
  const int64_t outputs = axis_outputs(size, kernel, stride, padding, dilation);
  STD_TORCH_CHECK(size < int64_t(1) << 31, "x must be below 2^31 a side");
  for (int i = 0; i < kTapTables; ++i) STD_TORCH_CHECK(t[i].is_contiguous(), "tables must be contiguous");
  for (int i : {0, 1, 3}) STD_TORCH_CHECK(t[i].scalar_type() == ScalarType::Double, "tables must be float64");
  for (int i : {2, 4}) STD_TORCH_CHECK(t[i].scalar_type() == ScalarType::Long, "places must be int64");
  const auto shaped = [](const Tensor& table, const std::vector<int64_t>& sizes) {
    return table.dim() == int64_t(sizes.size()) && std::equal(sizes.begin(), sizes.end(), table.sizes().begin());
  };
  const int64_t phases = t[1].dim() == 3 ? t[1].size(0) : 0, lines = t[4].dim() == 2 ? t[4].size(0) : 0;
  STD_TORCH_CHECK(shaped(t[0], {outputs, size}) && shaped(t[1], {phases, outputs, outputs}) &&
                      shaped(t[2], {kernel, 2}) && shaped(t[3], {lines, outputs}) && shaped(t[4], {lines, kernel}),
                  "tables must be those of alias_ops.designs for this geometry");
  const auto doubles = [](const Tensor& table) { return static_cast<const double*>(data_of(table, "a table")); };
  const auto integers = [](const Tensor& table) { return static_cast<const int64_t*>(data_of(table, "a table")); };
  const TapTable made{doubles(t[0]), doubles(t[1]), integers(t[2]), doubles(t[3]), integers(t[4]), kernel,  outputs,
                      size,          phases,        lines,          stride,        padding,        dilation};
  for (int64_t i = 0; i < kernel; ++i) {
    STD_TORCH_CHECK(made.places[2 * i] >= 0 && made.places[2 * i] <= phases && made.places[2 * i + 1] >= 0 &&
                        made.places[2 * i + 1] < outputs,
                    "places must lie among the outputs");
  }
  for (int64_t i = 0; i < lines * kernel; ++i)
    STD_TORCH_CHECK(made.sources[i] < size, "frame sources must lie in the input");
  return made;
}

Tensor strided_convolution(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& stride,
                           const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  using torch::stable::detail::from;
  std::array<StableIValue, 7> stack{
      from(x), from(weight), from(std::optional<Tensor>()), from(stride), from(padding), from(dilation), from(groups)};
  STABLE_TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::conv2d", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

void check_layer(const Tensor& x, const Tensor& weight, const std::vector<int64_t>& stride,
                 const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  STD_TORCH_CHECK(x.dim() == 4 && weight.dim() == 4,
                  "x must be [B, Cin, H, W] and weight [Cout, Cin / groups, kH, kW]");
  STD_TORCH_CHECK(stride.size() == 2 && padding.size() == 2 && dilation.size() == 2, "geometry must be pairs");
  STD_TORCH_CHECK(
      groups > 0 && weight.size(0) % groups == 0 && x.size(1) % groups == 0 && weight.size(1) == x.size(1) / groups,
      "weight must be [Cout, Cin / groups, kH, kW] with Cout a multiple of groups");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type(), "weight must have the dtype of x");
}

// What x, weight and the geometry say; weight becomes contiguous. y, bias and results are the caller's to add.
Conv2dAliasL1Args layer_of(Tensor& x, Tensor& weight, const std::vector<Tensor>& tables_h,
                           const std::vector<Tensor>& tables_w, const std::vector<int64_t>& stride,
                           const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation, int64_t groups) {
  Conv2dAliasL1Args args{};
  args.x = maps_of(x, "x", true);
  args.h = conv_axis(tables_h, args.x.height, weight.size(2), stride[0], padding[0], dilation[0]);
  args.w = conv_axis(tables_w, args.x.width, weight.size(3), stride[1], padding[1], dilation[1]);
  args.weight = packed(weight, "weight");
  args.outputs = weight.size(0), args.groups = groups;
  return args;
}

Maps output_of(Tensor& y, const Conv2dAliasL1Args& args) {
  const Maps maps = maps_of(y, "output", true);
  STD_TORCH_CHECK(y.dim() == 4 && maps.images == args.x.images && maps.channels == args.outputs &&
                      maps.height == args.h.dft.length && maps.width == args.w.dft.length,
                  "output must be the layer's own strided output");
  return maps;
}

// Whether identity 4 is faster than a strided convolution and identity 7: vectors filled by a group's channels, few
// taps, and maps whose low-passed places stay in a cache. Measured in benchmarks/NOTES.md.
bool norms_by_taps(const Conv2dAliasL1Args& a) {
  return a.x.channels / a.groups >= 16 && a.h.kernel * a.w.kernel <= 25 &&
         std::max(a.h.dft.length, a.w.dft.length) <= 112;
}

// The norms [B, Cout]; with `d_output`, the gradient of every map's norm with respect to the strided output goes there.
Tensor measure(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> output,
               const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
               const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
               const std::vector<int64_t>& dilation, int64_t groups, Tensor* d_output) {
  check_layer(x, weight, stride, padding, dilation, groups);
  const int64_t outputs = weight.size(0);
  Tensor out = empty({x.size(0), outputs}, accumulation_dtype(x));
  if (out.numel() == 0 && d_output == nullptr) return out;
  Conv2dAliasL1Args args = layer_of(x, weight, tables_h, tables_w, stride, padding, dilation, groups);
  const std::vector<int64_t> strided{x.size(0), outputs, args.h.dft.length, args.w.dft.length};
  if (out.numel() == 0 || weight.numel() == 0) {
    if (d_output != nullptr) {
      *d_output = empty(strided, accumulation_dtype(x));
      torch::stable::zero_(*d_output);
    }
    return torch::stable::zero_(out);
  }
  args.out = out.mutable_data_ptr();
  // A 1x1 layer without padding needs no output (identity 4), nor do others whose tables allow for that.
  const bool pointwise = args.h.kernel == 1 && args.w.kernel == 1 && padding[0] == 0 && padding[1] == 0;
  const bool by_taps = !output.has_value() && tables_h.size() > kConvTables && norms_by_taps(args);
  Tensor y;
  if (by_taps) {
    args.taps_h = tap_table(tables_h, args.x.height, args.h.kernel, stride[0], padding[0], dilation[0]);
    args.taps_w = tap_table(tables_w, args.x.width, args.w.kernel, stride[1], padding[1], dilation[1]);
  } else if (!pointwise || d_output != nullptr) {
    if (output.has_value()) {
      y = *output;
      STD_TORCH_CHECK(y.scalar_type() == x.scalar_type(), "output must have the dtype of x");
    } else {
      y = strided_convolution(x, weight, stride, padding, dilation, groups);
    }
    args.y = output_of(y, args);
    if (bias.has_value() && output.has_value()) {
      STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs, "bias must be [Cout]");
      data_of(*bias, "bias");
      bias = torch::stable::contiguous(torch::stable::to(*bias, x.scalar_type()));
      args.bias = bias->const_data_ptr();
    }
  }
  if (d_output != nullptr) {
    *d_output = empty(strided, accumulation_dtype(x), is_channels_last(by_taps ? x : y));
    args.d_output = maps_of(*d_output, "d_output", true);
    args.d_output.data = d_output->mutable_data_ptr();
  }
  kernels().conv2d_alias_l1(args, runtime());
  return out;
}

Tensor conv2d_alias_l1(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> output,
                       const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
                       const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                       const std::vector<int64_t>& dilation, int64_t groups) {
  return measure(x, weight, bias, output, tables_h, tables_w, stride, padding, dilation, groups, nullptr);
}

std::tuple<Tensor, Tensor> conv2d_alias_l1_training(Tensor x, Tensor weight, std::optional<Tensor> bias,
                                                    std::optional<Tensor> output, const std::vector<Tensor>& tables_h,
                                                    const std::vector<Tensor>& tables_w,
                                                    const std::vector<int64_t>& stride,
                                                    const std::vector<int64_t>& padding,
                                                    const std::vector<int64_t>& dilation, int64_t groups) {
  STD_TORCH_CHECK(x.scalar_type() == ScalarType::Double || x.scalar_type() == ScalarType::Float,
                  "x must be float64 or float32");
  Tensor d_output;
  Tensor norms = measure(x, weight, bias, output, tables_h, tables_w, stride, padding, dilation, groups, &d_output);
  return {norms, d_output};
}

// A gradient that a kernel reads as it lies: in x's dtype, which is float64 or float32 by then.
void check_gradient(const Tensor& t, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(t.scalar_type() == x.scalar_type() &&
                      (t.scalar_type() == ScalarType::Double || t.scalar_type() == ScalarType::Float),
                  name, " must be float64 or float32, like x");
  STD_TORCH_CHECK(t.dim() == 4, name, " must have four dimensions, got ", t.dim());
}

// And one that it writes.
void check_written(const Tensor& t, const Tensor& x, const char* name) {
  check_gradient(t, x, name);
  STD_TORCH_CHECK(!overlaps_itself(t), name, " must have memory of its own for every element: it is written in place");
}

const void* map_gradient(Tensor& grad, const Tensor& maps) {
  STD_TORCH_CHECK(grad.dim() == 2 && grad.size(0) == maps.size(0) && grad.size(1) == maps.size(1) &&
                      grad.scalar_type() == maps.scalar_type(),
                  "grad must have one value for every map, in the maps' dtype");
  return packed(grad, "grad");
}

// What comes of the low band, given the gradient with respect to the strided output: with a minus, added to dx and
// dweight or written over them.
void low_gradient(Tensor output_gradient, Tensor x, Tensor weight, Tensor dx, Tensor dweight,
                  const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
                  const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                  const std::vector<int64_t>& dilation, int64_t groups, bool adding) {
  Conv2dLowGradientArgs args{
      layer_of(x, weight, tables_h, tables_w, stride, padding, dilation, groups), {}, nullptr, adding};
  args.layer.y = output_of(output_gradient, args.layer);
  args.dx = maps_of(dx, "dx", true);
  args.dx.data = dx.mutable_data_ptr();
  const auto same = [](const Tensor& a, const Tensor& b) {
    return std::equal(a.sizes().begin(), a.sizes().end(), b.sizes().begin());
  };
  STD_TORCH_CHECK(same(dx, x) && same(dweight, weight) && dweight.is_contiguous(),
                  "dx must have the shape of x, and dweight that of weight and be contiguous");
  args.dweight = dweight.mutable_data_ptr();
  kernels().conv2d_alias_l1_low_gradient(args, runtime());
}

void conv2d_alias_l1_low_gradient(Tensor output_gradient, Tensor x, Tensor weight, Tensor dx, Tensor dweight,
                                  const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
                                  const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                  const std::vector<int64_t>& dilation, int64_t groups) {
  check_layer(x, weight, stride, padding, dilation, groups);
  check_gradient(output_gradient, x, "output_gradient");
  check_written(dx, x, "dx");
  check_written(dweight, x, "dweight");
  if (x.numel() == 0 || weight.numel() == 0) return;
  low_gradient(output_gradient, x, weight, dx, dweight, tables_h, tables_w, stride, padding, dilation, groups, true);
}

// dx and dweight for a kernel to write, and whether they are done: zeros, as there is nothing for it to do.
std::tuple<Tensor, Tensor, bool> fresh_gradients(const Tensor& x, const Tensor& weight, const Tensor& output_gradient) {
  const std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  const std::vector<int64_t> weight_sizes(weight.sizes().begin(), weight.sizes().end());
  Tensor dx = empty(sizes, accumulation_dtype(x), is_channels_last(x)),
         dweight = empty(weight_sizes, accumulation_dtype(x));
  const bool done = x.numel() == 0 || output_gradient.numel() == 0 || weight.numel() == 0;
  if (done) torch::stable::zero_(dx), torch::stable::zero_(dweight);
  return {dx, dweight, done};
}

std::tuple<Tensor, Tensor> conv2d_alias_l1_low_part(Tensor output_gradient, Tensor x, Tensor weight,
                                                    const std::vector<Tensor>& tables_h,
                                                    const std::vector<Tensor>& tables_w,
                                                    const std::vector<int64_t>& stride,
                                                    const std::vector<int64_t>& padding,
                                                    const std::vector<int64_t>& dilation, int64_t groups) {
  check_layer(x, weight, stride, padding, dilation, groups);
  check_gradient(output_gradient, x, "output_gradient");
  const auto [dx, dweight, done] = fresh_gradients(x, weight, output_gradient);
  if (done) return {dx, dweight};
  low_gradient(output_gradient, x, weight, dx, dweight, tables_h, tables_w, stride, padding, dilation, groups, false);
  return {dx, dweight};
}

// Both gradients by identity 4, given the gradient of every norm with respect to the strided output.
std::tuple<Tensor, Tensor> conv2d_alias_l1_tap_gradient(Tensor grad, Tensor output_gradient, Tensor x, Tensor weight,
                                                        const std::vector<Tensor>& tables_h,
                                                        const std::vector<Tensor>& tables_w,
                                                        const std::vector<int64_t>& stride,
                                                        const std::vector<int64_t>& padding,
                                                        const std::vector<int64_t>& dilation, int64_t groups) {
  check_layer(x, weight, stride, padding, dilation, groups);
  check_gradient(output_gradient, x, "output_gradient");
  Conv2dTapGradientArgs args{};
  args.x = maps_of(x, "x", true);
  auto [dx, dweight, done] = fresh_gradients(x, weight, output_gradient);
  if (done) return {dx, dweight};
  args.h = tap_table(tables_h, args.x.height, weight.size(2), stride[0], padding[0], dilation[0]);
  args.w = tap_table(tables_w, args.x.width, weight.size(3), stride[1], padding[1], dilation[1]);
  args.weight = packed(weight, "weight");
  args.outputs = weight.size(0), args.groups = groups;
  args.y = maps_of(output_gradient, "output_gradient", true);
  STD_TORCH_CHECK(args.y.images == args.x.images && args.y.channels == args.outputs &&
                      args.y.height == args.h.outputs && args.y.width == args.w.outputs,
                  "output_gradient must be of the layer's strided output");
  args.grad = map_gradient(grad, output_gradient);
  args.dx = maps_of(dx, "dx", true);
  args.dx.data = dx.mutable_data_ptr();
  args.dweight = dweight.mutable_data_ptr();
  kernels().conv2d_alias_l1_tap_gradient(args, runtime());
  return {dx, dweight};
}

// residual [B, C, N, M] becomes the gradient of the L1 norms of its maps' spectra.
void residual_l1_gradient(Tensor grad, Tensor residual, const Tensor& dft_h, const Tensor& dft_w) {
  check_written(residual, residual, "residual");
  if (residual.numel() == 0) return;
  ResidualL1GradientArgs args{maps_of(residual, "residual", true), dft_table(dft_h, "dft_h"), dft_table(dft_w, "dft_w"),
                              map_gradient(grad, residual)};
  args.residual.data = residual.mutable_data_ptr();
  for (const auto& [table, size] : {std::pair{args.dft_h, args.residual.height}, {args.dft_w, args.residual.width}}) {
    STD_TORCH_CHECK(table.length == size && table.frequencies == size / 2 + 1, "tables must be those of the residual");
  }
  kernels().residual_l1_gradient(args, runtime());
}

}  // namespace
}  // namespace alias_ops

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CPU, m) {
  m.impl("conv2d_alias_l1", TORCH_BOX(&alias_ops::conv2d_alias_l1));
  m.impl("_conv2d_alias_l1_training", TORCH_BOX(&alias_ops::conv2d_alias_l1_training));
  m.impl("_conv2d_alias_l1_low_gradient", TORCH_BOX(&alias_ops::conv2d_alias_l1_low_gradient));
  m.impl("_conv2d_alias_l1_low_part", TORCH_BOX(&alias_ops::conv2d_alias_l1_low_part));
  m.impl("_conv2d_alias_l1_tap_gradient", TORCH_BOX(&alias_ops::conv2d_alias_l1_tap_gradient));
  m.impl("_residual_l1_gradient", TORCH_BOX(&alias_ops::residual_l1_gradient));
}
