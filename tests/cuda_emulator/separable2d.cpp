// separable2d's kernels and their plans, for tests/test_cuda_separable2d.py.
#include "separable2d_kernel.h"
#include "separable2d_tables.h"

using namespace alias_ops::cuda;

namespace {

std::string message;

template <class T, int PRODUCTS, class Made>
void run(Made made_for, int in, int out, int form, const void* x, const char* tables, void* y, int64_t maps,
         int64_t blocks) {
  message = "no such kernel";
  visit_separable_kernel<T, PRODUCTS>(made_for, in, out, Form(form), [&](auto kernel) {
    using K = decltype(kernel);
    constexpr SeparablePlan p = Separable2d<T, K::IN, K::OUT, K::FORM, PRODUCTS>::P;
    GlobalMemory memory;
    memory.may_read(x, maps * in * in * sizeof(T));
    memory.may_read(tables, p.table_bytes());
    memory.may_write(y, maps * out * out * sizeof(T));
    message = emulate(blocks, 1, p.threads(), p.shared_bytes(), memory, [&] {
      separable2d_kernel<T, K::IN, K::OUT, K::FORM, PRODUCTS>(static_cast<const T*>(x), static_cast<T*>(y), tables,
                                                              maps);
    });
  });
}

}  // namespace

// precision: 0 3xTF32, 1 TF32, 2 bfloat16, 3 float16; all sides of the first, a cross-section of the others, which
// take as long to compile.
extern "C" const char* run_separable2d(int precision, int in, int out, int form, const void* x, const char* tables,
                                       void* y, int64_t maps, int64_t blocks) {
  if (precision == 0) run<float, 3>(SeparableSides(), in, out, form, x, tables, y, maps, blocks);
  if (precision == 1) run<float, 1>(Sides<28>(), in, out, form, x, tables, y, maps, blocks);
  if (precision == 2) run<BFloat16, 1>(Sides<14, 64>(), in, out, form, x, tables, y, maps, blocks);
  if (precision == 3) run<Half, 1>(Sides<16, 28>(), in, out, form, x, tables, y, maps, blocks);
  return message.c_str();
}

// factors: as csrc/cuda/ops.cpp takes them. Without ``tables``, their size alone.
extern "C" int make_tables(int precision, int in, int out, int form, const double* factors, char* tables) {
  const SeparablePlan p(in, out, precision < 2 ? 4 : 2, Form(form));
  if (tables == nullptr) return p.table_bytes();
  const SeparableFactors f = separable_factors(p, factors);
  if (precision < 2) make_separable_tables<float>(p, f, tables);
  if (precision == 2) make_separable_tables<BFloat16>(p, f, tables);
  if (precision == 3) make_separable_tables<Half>(p, f, tables);
  return p.table_bytes();
}

// What a test asks of a plan, in this order.
extern "C" void plan_of(int in, int out, int item, int form, int32_t* facts) {
  const SeparablePlan p(in, out, item, Form(form));
  const int32_t all[] = {p.maps,
                         p.threads(),
                         p.shared_bytes(),
                         p.blocks(),
                         p.x_conflicts(),
                         p.z_read_conflicts(),
                         p.z_write_conflicts(),
                         p.x_pitch,
                         p.x_step,
                         p.z_pitch,
                         p.right_units,
                         p.right_tiles,
                         p.left_units,
                         p.left_tiles,
                         p.row_tiles};
  std::copy(std::begin(all), std::end(all), facts);
}

extern "C" int column_of(int form, int u, int t, int i) { return right_column(Form(form), u, t, i); }
extern "C" int result_of(int form, int n, int slot) { return right_result(Form(form), n, slot); }
extern "C" int row_of(int step, int slot) { return row_of_slot(step, slot); }
extern "C" int inner_of(int u, int t, int i) { return left_inner(u, t, i); }
