// The one-pass convolution measure on a CPU, for tests/test_cuda_conv2d_alias_l1.py.
#include "conv2d_alias_l1_tiled.h"

using namespace alias_ops::cuda;
using namespace alias_ops::cuda::conv2d;

namespace {

std::string message;

// batch, channels, outputs, groups, precision; then size, kernel, padding, dilation along the height and the width.
Layer layer_of(const int64_t* n) {
  return {axis_of(int(n[5]), int(n[6]), int(n[7]), int(n[8])),
          axis_of(int(n[9]), int(n[10]), int(n[11]), int(n[12])),
          int(n[0]),
          int(n[1]),
          int(n[2]),
          int(n[3]),
          Precision(n[4])};
}

template <class T, int PRODUCTS>
std::string run(const Arguments& a, size_t x_bytes) {
  const Layer& l = a.layer;
  const Plan& p = a.plan;
  const size_t scratch = scratch_bytes(l, p);
  GlobalMemory memory;
  memory.may_read(a.x, x_bytes);
  memory.may_read(a.weight, weight_bytes(l, p));
  memory.may_read(a.left, size_t(p.bands) * p.left_bytes);
  memory.may_read(a.right, p.right_bytes);
  memory.may_read(a.wave_h, wave_bytes(l.h.outputs));
  memory.may_read(a.wave_w, wave_bytes(l.w.outputs));
  GlobalMemory second = memory;
  const size_t result = 4 * size_t(l.batch) * l.outputs;
  on_chip(p) ? memory.may_write(a.out, result) : memory.may_write(a.scratch, scratch);
  const auto kernel = [=] {
    tiled(p) ? conv2d_alias_l1_tiled_kernel<T, PRODUCTS>(a) : conv2d_alias_l1_kernel<T, PRODUCTS>(a);
  };
  std::string wrong = emulate(block_count(l, p), 1, kThreads, p.shared, memory, kernel, p.cluster);
  Emulator::removed() = -1;
  if (!wrong.empty() || on_chip(p)) return wrong;
  second.may_read(a.scratch, scratch);
  second.may_write(a.out, result);
  const int64_t maps = int64_t(l.batch) * scratch_outputs(l);
  if (tiled(p)) {
    return emulate(maps, 1, kThreads, large_spectrum_bytes(l), second, [=] { large_residual_l1_kernel<PRODUCTS>(a); });
  }
  return emulate(maps, 1, 32 * kSpectrumWarps, spectrum_bytes(l), second, [=] { residual_l1_kernel<PRODUCTS>(a); });
}

}  // namespace

extern "C" void plan(const int64_t* numbers, int limit, int clusters, int64_t* out) {
  const Layer l = layer_of(numbers);
  plan_numbers(plan_of(l, limit, clusters != 0), out);
}

// How x and tables come in parts: slabs of a row and their buffers, parts of the table and their buffers, passes.
extern "C" void parts(const int64_t* numbers, int limit, int64_t* out) {
  const Plan p = plan_of(layer_of(numbers), limit, false);
  out[0] = p.tiles.slabs, out[1] = p.tiles.slab_buffers, out[2] = p.tiles.parts, out[3] = p.tiles.stage_buffers;
  out[4] = p.passes;
}

// The cluster's barrier `which` of a kernel becomes one of each block alone, until it is -1 again.
extern "C" void weaken(int which) { Emulator::weakened() = which; }

// The first kernel of the next call runs without this barrier of its blocks.
extern "C" void leave_out(int which) { Emulator::removed() = which; }

// copied: bytes at once, or -1 for what the launcher would choose.
extern "C" const char* measure(const int64_t* numbers, int limit, int clusters, const void* x, const int64_t* strides,
                               int copied, int64_t x_bytes, const void* weight, const void* left, const void* right,
                               const float* wave_h, const float* wave_w, float scale, float* scratch, float* out) {
  const Layer l = layer_of(numbers);
  Arguments a{x,
              strides[0],
              strides[1],
              strides[2],
              strides[3],
              copied,
              static_cast<const uint32_t*>(weight),
              static_cast<const uint32_t*>(left),
              static_cast<const uint32_t*>(right),
              wave_h,
              wave_w,
              scale,
              out,
              scratch,
              l,
              plan_of(l, limit, clusters != 0)};
  if (copied < 0) a.copied = copied_bytes(a, sixteen_bits(l.precision) ? 2 : 4);
  switch (l.precision) {
    case Precision::kFloat32:
      message = run<float, 3>(a, x_bytes);
      break;
    case Precision::kTf32:
      message = run<float, 1>(a, x_bytes);
      break;
    case Precision::kBFloat16:
      message = run<BFloat16, 1>(a, x_bytes);
      break;
    default:
      message = run<Half, 1>(a, x_bytes);
  }
  return message.c_str();
}

// Bytes that rows of x are copied by.
extern "C" int copied(const int64_t* numbers, const void* x, const int64_t* strides) {
  Arguments a{};
  a.layer = layer_of(numbers), a.x = x;
  a.x_image = strides[0], a.x_channel = strides[1], a.x_row = strides[2], a.x_column = strides[3];
  return copied_bytes(a, sixteen_bits(a.layer.precision) ? 2 : 4);
}
