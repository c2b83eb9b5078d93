// What csrc/ops.cpp calls: plain pointers and sizes, no PyTorch. Every instruction set fills one Kernels table.
#pragma once

#include <cstdint>

namespace alias_ops {

enum class Dtype { kFloat32, kFloat64, kBFloat16, kFloat16 };

// at::parallel_for behind a C signature, so that the kernels need no PyTorch header.
using ParallelBody = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = void (*)(int64_t begin, int64_t end, int64_t grain, ParallelBody body, void* context);

struct Runtime {
  ParallelFor parallel_for;
  int64_t threads;
  int64_t first_cache;  // bytes of a core's
};

// Maps [images, channels, height, width] with strides in elements.
struct Maps {
  const void* data;
  Dtype dtype;
  int64_t images, channels, height, width;
  int64_t image_stride, channel_stride, row_stride, column_stride;
};

struct Factor {
  const double* data;  // [terms][out][in], any strides: the adjoint comes as a transposed view
  int64_t term_stride, row_stride, column_stride;
};

// y = sum_t left[t] x right[t]^T. x and y are contiguous (all maps as the channels of one image) or channels_last.
struct Separable2dArgs {
  Maps x;
  bool channels_last;
  void* y;
  int64_t y_image_stride, y_channel_stride, y_row_stride, y_column_stride;
  int64_t terms, out_height, out_width;
  Factor left, right;
};

// One axis of a real DFT: cos rows then -sin rows for the frequencies 0..frequencies-1.
struct DftTable {
  const double* data;  // [2][frequencies][length]
  int64_t frequencies, length;
};

struct AliasL1Args {
  Maps x;
  int64_t stride_h, stride_w;
  DftTable low_h, low_w;  // kept band of the replicated stride-1 map
  DftTable dft_h, dft_w;  // of the strided map
  void* out;              // [images][channels], float or double
};

struct AliasL1GradientArgs {
  AliasL1Args measure;
  const void* grad;  // [images][channels], float or double
  Maps dx;           // in x's dtype
};

// One axis of identity 7.
struct ConvAxis {
  DftTable input;          // low band of the input
  const double* phase;     // [2][frequencies][kernel]
  const double* frame;     // [2][lines][frequencies]
  const int64_t* sources;  // [lines][kernel], -1 where a tap meets no sample
  int64_t lines, kernel;
  DftTable dft;            // of the strided output
  const double* low_pass;  // [outputs][size]: identity 4's P, for kernels of one tap
  int64_t stride, padding;
};

// One axis of identity 4: P of every tap, in parts (alias_ops/designs/conv2d_taps.py).
struct TapTable {
  const double* base;      // [outputs][size]
  const double* turns;     // [phases][outputs][outputs]
  const int64_t* places;   // [taps][2]: 0 for base or 1 + a turn, first output there
  const double* profiles;  // [lines][outputs]
  const int64_t* sources;  // [lines][taps], -1 where a tap meets no sample
  int64_t taps, outputs, size, phases, lines, stride, padding, dilation;
};

struct Conv2dAliasL1Args {
  Maps x;
  const void* weight;  // [outputs][channels / groups][kernel_h][kernel_w], contiguous, x's dtype
  const void* bias;    // [outputs] in x's dtype, or null
  Maps y;              // strided output; data is null for identity 4, which needs none
  int64_t outputs, groups;
  ConvAxis h, w;
  TapTable taps_h, taps_w;  // for identity 4 of kernels that are not 1x1
  void* out;                // [images][outputs], float or double
  Maps d_output;  // if data is not null: the gradient of every map's norm with respect to y, for float or double x
};

// y is the gradient with respect to the strided output. In float or double, like x and weight.
struct Conv2dLowGradientArgs {
  Conv2dAliasL1Args layer;
  Maps dx;
  void* dweight;  // contiguous
  bool adding;    // to what dx and dweight hold: the strided convolution's gradients. Otherwise they are written over
};

// Both gradients, all of them. In float or double.
struct Conv2dTapGradientArgs {
  Maps x;
  const void* weight;  // [outputs][channels / groups][taps of h][taps of w], contiguous
  int64_t outputs, groups;
  TapTable h, w;
  Maps y;            // the gradient of every map's norm with respect to the strided output,
  const void* grad;  // and what comes in for that norm: [images][outputs]
  Maps dx;
  void* dweight;  // contiguous
};

// Maps that are written over by the gradient of their spectra's L1 norms, in float or double.
struct ResidualL1GradientArgs {
  Maps residual;
  DftTable dft_h, dft_w;
  const void* grad;  // [images][channels]
};

struct Kernels {
  const char* name;
  void (*separable2d)(const Separable2dArgs&, const Runtime&);
  void (*alias_l1)(const AliasL1Args&, const Runtime&);
  void (*alias_l1_gradient)(const AliasL1GradientArgs&, const Runtime&);
  void (*conv2d_alias_l1)(const Conv2dAliasL1Args&, const Runtime&);
  void (*conv2d_alias_l1_low_gradient)(const Conv2dLowGradientArgs&, const Runtime&);
  void (*conv2d_alias_l1_tap_gradient)(const Conv2dTapGradientArgs&, const Runtime&);
  void (*residual_l1_gradient)(const ResidualL1GradientArgs&, const Runtime&);
};

// The table for this processor, or the one that ALIAS_OPS_ISA names; chosen once, at load time.
const Kernels& kernels();

// Instruction sets compiled in, best first, and whether this processor has them.
struct InstructionSet {
  const Kernels* kernels;
  bool supported;
};
const InstructionSet* instruction_sets(int* count);

}  // namespace alias_ops
