// The CUDA kernels for PyTorch, through its stable ABI: tensors in, plain pointers and the current stream out.
// alias_ops/kernels/separable2d_cuda.py calls these operators; users never do.
#include "ops.h"

#include "separable2d_tables.h"
#include "tensors.h"

namespace alias_ops::cuda {
namespace {

SeparablePlan plan_of(int64_t in, int64_t out, int64_t item, int64_t form) {
  STD_TORCH_CHECK(form >= 0 && form <= 2, "form must be 0, 1 or 2, got ", form);
  STD_TORCH_CHECK((in == 2 * out && form != 2) || (2 * in == out && form != 1), "no form ", form, " of ", in, " to ",
                  out);
  STD_TORCH_CHECK(in > 0 && in <= 1024 && out <= 1024, "maps of ", in, " are too large");
  return SeparablePlan(int(in), int(out), int(item), Form(form));
}

// factors: float64 on the CPU, as separable_factors takes them. Returns the tables as bytes on the CPU.
Tensor separable2d_tables(const Tensor& factors, int64_t in, int64_t out, int64_t form, int64_t precision) {
  STD_TORCH_CHECK(precision >= 0 && precision <= 3, "precision must be 0 to 3, got ", precision);
  const SeparablePlan p = plan_of(in, out, precision < 2 ? 4 : 2, form);
  STD_TORCH_CHECK(factors.scalar_type() == ScalarType::Double && factors.is_cpu() && factors.is_contiguous() &&
                      factors.numel() == 2 * in * out + 3 + 2 * (in + out),
                  "factors must be a contiguous float64 tensor of 2 in out + 3 + 2 (in + out) elements on the CPU");
  const SeparableFactors of = separable_factors(p, static_cast<const double*>(factors.const_data_ptr()));
  Tensor tables = torch::stable::new_empty(factors, {p.table_bytes()}, ScalarType::Byte);
  auto* made = static_cast<char*>(tables.mutable_data_ptr());
  if (precision < 2) {
    make_separable_tables<float>(p, of, made);
  } else if (Precision(precision) == Precision::kBFloat16) {
    make_separable_tables<BFloat16>(p, of, made);
  } else {
    make_separable_tables<Half>(p, of, made);
  }
  return tables;
}

// False if there is no kernel for this size on this device.
bool separable2d_on(const Tensor& x, const Tensor& tables, int64_t form, bool tf32, Tensor y) {
  check_packed(x, "x"), check_packed(tables, "tables"), check_packed(y, "y");
  const int64_t in = x.dim() < 2 ? 0 : x.size(x.dim() - 1), out = y.dim() < 2 ? 0 : y.size(y.dim() - 1);
  STD_TORCH_CHECK(in > 0 && x.size(x.dim() - 2) == in && out > 0 && y.size(y.dim() - 2) == out, "maps must be square");
  STD_TORCH_CHECK(y.scalar_type() == x.scalar_type() && x.numel() / (in * in) == y.numel() / (out * out),
                  "y must have x's dtype and number of maps");
  const Precision precision = precision_of(x, tf32);
  const bool wide = precision == Precision::kFloat32 || precision == Precision::kTf32;
  const SeparablePlan p = plan_of(in, out, wide ? 4 : 2, form);
  STD_TORCH_CHECK(tables.scalar_type() == ScalarType::Byte && tables.numel() == p.table_bytes(),
                  "tables must be those of this size, form and dtype");
  STD_TORCH_CHECK(tables.get_device_index() == x.get_device_index() && y.get_device_index() == x.get_device_index(),
                  "x, tables and y must be on one device");
  if (x.numel() == 0) return true;
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  return separable2d({x.const_data_ptr(), y.mutable_data_ptr(), tables.const_data_ptr(), x.numel() / (in * in), int(in),
                      int(out), int(form), precision},
                     place_of(x));
}

}  // namespace
}  // namespace alias_ops::cuda

STABLE_TORCH_LIBRARY_FRAGMENT(alias_ops, m) {
  m.def("_cuda_separable2d_tables(Tensor factors, int in_, int out, int form, int precision) -> Tensor");
  m.def("_cuda_separable2d(Tensor x, Tensor tables, int form, bool tf32, Tensor(a!) y) -> bool");
}

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CPU, m) {
  m.impl("_cuda_separable2d_tables", TORCH_BOX(&alias_ops::cuda::separable2d_tables));
}

STABLE_TORCH_LIBRARY_IMPL(alias_ops, CUDA, m) {
  m.impl("_cuda_separable2d", TORCH_BOX(&alias_ops::cuda::separable2d_on));
}
