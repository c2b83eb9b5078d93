// The one-pass convolution measure on a CPU, for tests/test_cuda_conv2d_alias_l1.py.
#include "conv2d_alias_l1.h"

using namespace alias_ops::cuda;
using namespace alias_ops::cuda::conv2d;

namespace {

std::string message;

// batch, channels, outputs, groups, precision; then size, kernel, padding, dilation along the height and the width.
Layer layer_of(const int64_t* n) {
  return {axis_of(int(n[5]), int(n[6]), int(n[7]), int(n[8])), axis_of(int(n[9]), int(n[10]), int(n[11]), int(n[12])),
          int(n[0]), int(n[1]), int(n[2]), int(n[3]), Precision(n[4])};
}

template <class T, int PRODUCTS>
std::string run(const Arguments& a, size_t x_bytes, size_t weight_bytes) {
  const Layer& l = a.layer;
  const Plan& p = a.plan;
  const size_t scratch = whole_map(p) ? 0 : 4 * size_t(l.batch) * scratch_outputs(l) * scratch_map(l);
  std::vector<float> kept(scratch / 4);
  Arguments mine = a;
  mine.scratch = kept.data();
  GlobalMemory memory;
  memory.may_read(a.x, x_bytes);
  memory.may_read(a.weight, weight_bytes);
  memory.may_read(a.left, size_t(p.bands) * p.left_bytes);
  memory.may_read(a.right, p.right_bytes);
  memory.may_read(a.wave_h, wave_bytes(l.h.outputs));
  memory.may_read(a.wave_w, wave_bytes(l.w.outputs));
  GlobalMemory second = memory;
  const size_t result = 4 * size_t(l.batch) * l.outputs;
  whole_map(p) ? memory.may_write(a.out, result) : memory.may_write(kept.data(), scratch);
  std::string wrong =
      emulate(block_count(l, p), 1, kThreads, p.shared, memory, [=] { conv2d_alias_l1<T, PRODUCTS>(mine); });
  if (!wrong.empty() || whole_map(p)) return wrong;
  second.may_read(kept.data(), scratch);
  second.may_write(a.out, result);
  return emulate(int64_t(l.batch) * scratch_outputs(l), 1, 32 * kSpectrumWarps, spectrum_bytes(l), second,
                 [=] { residual_l1<PRODUCTS>(mine); });
}

}  // namespace

extern "C" void plan(const int64_t* numbers, int limit, int64_t* out) {
  const Layer l = layer_of(numbers);
  const Plan p = plan_of(l, limit);
  for (const int n : {p.shared, p.rows, p.columns, p.column_tiles, p.low_rows, p.bands, p.chunks, p.output_blocks,
                      p.row_units, p.left_tiles, p.left_steps, output_tiles(l.precision), p.images, p.x_buffers}) {
    *out++ = n;
  }
}

extern "C" const char* measure(const int64_t* numbers, int limit, const void* x, const int64_t* strides, int copied,
                               const void* weight, const void* left, const void* right, const float* wave_h,
                               const float* wave_w, float scale, float* out, int64_t x_bytes, int64_t weight_bytes) {
  const Layer l = layer_of(numbers);
  Arguments a{x, strides[0], strides[1], strides[2], strides[3], copied, static_cast<const uint32_t*>(weight),
              static_cast<const uint32_t*>(left), static_cast<const uint32_t*>(right), wave_h, wave_w, scale, out,
              nullptr, l, plan_of(l, limit)};
  switch (l.precision) {
    case Precision::kBFloat16:
      message = run<BFloat16, 1>(a, x_bytes, weight_bytes);
      break;
    case Precision::kFloat16:
      message = run<Half, 1>(a, x_bytes, weight_bytes);
      break;
    case Precision::kTF32:
      message = run<float, 1>(a, x_bytes, weight_bytes);
      break;
    default:
      message = run<float, 3>(a, x_bytes, weight_bytes);
  }
  return message.c_str();
}
