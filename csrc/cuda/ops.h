// What csrc/cuda/ops.cpp calls: plain pointers and sizes, no PyTorch and no CUDA header.
#pragma once

#include <cstdint>

namespace alias_ops::cuda {

// A device's index and a stream of it; the device is the current one when a launcher is called.
struct Place {
  int device;
  void* stream;
};

enum class Precision { kFloat32, kTf32, kBFloat16, kFloat16 };  // kFloat32: products keep 22 of 24 bits

struct Separable2dLaunch {
  const void* x;  // [maps][in][in], contiguous, aligned to 16 bytes
  void* y;        // [maps][out][out], the same
  const void* tables;
  int64_t maps;
  int in, out, form;  // form: of separable2d_plan.h
  Precision precision;
};

// False, and nothing done, if there is no kernel for these sizes on this device. Throws std::runtime_error with what
// CUDA says.
bool separable2d(const Separable2dLaunch& call, Place where);
bool separable2d_of_16_bits(const Separable2dLaunch& call, Place where);

}  // namespace alias_ops::cuda
