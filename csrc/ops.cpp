// The CPU kernels of separable2d and alias_l1, registered through PyTorch's stable ABI.
#include "tensors.h"

namespace alias_ops {
namespace {

Tensor as_double(const Tensor& t, const char* name) {
  data_of(t, name);  // copying does not look
  return t.scalar_type() == ScalarType::Double ? t : torch::stable::to(t, ScalarType::Double);
}

Factor factor_of(const Tensor& t, const char* name, bool transposed) {
  const int64_t row = transposed ? 2 : 1, column = transposed ? 1 : 2;
  return {static_cast<const double*>(data_of(t, name)), t.stride(0), t.stride(row), t.stride(column)};
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
  const Tensor l = as_double(left, "left"), r = as_double(right, "right");
  const int64_t area = out_height * out_width;
  Separable2dArgs args{maps,
                       channels_last,
                       y.mutable_data_ptr(),
                       maps.channels * area,
                       area,
                       out_width,
                       1,
                       terms,
                       out_height,
                       out_width,
                       factor_of(l, "left", adjoint),
                       factor_of(r, "right", adjoint)};
  if (channels_last) {
    args.y_channel_stride = 1, args.y_column_stride = maps.channels, args.y_row_stride = maps.channels * out_width;
  }
  kernels().separable2d(args, runtime());
  return y;
}

Tensor separable2d(Tensor x, const Tensor& left, const Tensor& right) {
  return separable2d_or_adjoint(x, left, right, false);
}

AliasL1Args alias_l1_args(const Maps& x, const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
                          const std::vector<int64_t>& stride) {
  STD_TORCH_CHECK(tables_h.size() == 2 && tables_w.size() == 2, "alias_l1 takes two tables an axis");
  STD_TORCH_CHECK(stride.size() == 2 && stride[0] > 0 && stride[1] > 0, "stride must be two positive ints");
  // A stride above the size takes the first sample alone, as the size itself does: steps stay within the map.
  AliasL1Args args{x,
                   std::min(stride[0], x.height),
                   std::min(stride[1], x.width),
                   dft_table(tables_h[0], "tables_h[0]"),
                   dft_table(tables_w[0], "tables_w[0]"),
                   dft_table(tables_h[1], "tables_h[1]"),
                   dft_table(tables_w[1], "tables_w[1]"),
                   nullptr};
  check_bands(args.dft_h, args.low_h, outputs_of(x.height, stride[0]), x.height);
  check_bands(args.dft_w, args.low_w, outputs_of(x.width, stride[1]), x.width);
  return args;
}

std::vector<int64_t> leading_sizes(const Tensor& x) {
  return {x.sizes().begin(), x.sizes().end() - std::min<int64_t>(2, x.dim())};
}

Tensor alias_l1(Tensor x, const std::vector<Tensor>& tables_h, const std::vector<Tensor>& tables_w,
                const std::vector<int64_t>& stride) {
  const std::vector<int64_t> sizes = leading_sizes(x);
  const Maps maps = maps_of(x, "x", true);
  Tensor out = empty(sizes, accumulation_dtype(x));
  AliasL1Args args = alias_l1_args(maps, tables_h, tables_w, stride);
  if (out.numel() == 0) return out;
  args.out = out.mutable_data_ptr();
  kernels().alias_l1(args, runtime());
  return out;
}

Tensor alias_l1_backward(Tensor grad, Tensor x, const std::vector<Tensor>& tables_h,
                         const std::vector<Tensor>& tables_w, const std::vector<int64_t>& stride) {
  const std::vector<int64_t> sizes = leading_sizes(x);
  STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), grad.sizes().begin(), grad.sizes().end()),
                  "grad must have one value for every map of x");
  Tensor dx = torch::stable::empty_like(x);  // of x's strides, where these leave no gaps
  AliasL1GradientArgs args{alias_l1_args(maps_of(x, "x", true), tables_h, tables_w, stride), nullptr, {}};
  if (dx.numel() == 0) return dx;
  const ScalarType wide = x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  data_of(grad, "grad");  // copying does not look
  grad = torch::stable::to(grad, wide);
  args.grad = packed(grad, "grad");
  Tensor written = dx;
  args.dx = maps_of(written, "dx", true);  // in place, but for lists of maps that do not lie in order
  args.dx.data = written.mutable_data_ptr();
  ask_for_huge_pages(written.mutable_data_ptr(), size_t(written.numel() * written.element_size()));
  kernels().alias_l1_gradient(args, runtime());
  if (written.const_data_ptr() != dx.const_data_ptr()) torch::stable::copy_(dx, written);
  return dx;
}

}  // namespace
}  // namespace alias_ops

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CPU, m) {
  m.impl("separable2d", TORCH_BOX(&alias_ops::separable2d));
  m.impl("_separable2d", TORCH_BOX(&alias_ops::separable2d_or_adjoint));
  m.impl("alias_l1", TORCH_BOX(&alias_ops::alias_l1));
  m.impl("alias_l1_backward", TORCH_BOX(&alias_ops::alias_l1_backward));
}
