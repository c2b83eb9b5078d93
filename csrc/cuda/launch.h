// Launching from the host: where, how many blocks, and what CUDA says to it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

#include "ops.h"

namespace alias_ops::cuda {

inline void check(cudaError_t error, const char* doing) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next call of anybody would report it once more
  throw std::runtime_error(std::string("alias_ops: ") + doing + ": " + cudaGetErrorString(error));
}

constexpr int kMostDevices = 64;

// Blocks of KERNEL that run at once on the current device, 0 if not even one has the shared memory that it needs; asked
// once for each device, and the shared memory allowed.
template <auto KERNEL>
inline int resident_blocks(int device, int threads, int shared_bytes) {
  static std::atomic<int> known[kMostDevices];
  int blocks = device < kMostDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (blocks > 0) return blocks;
  int processors = 0, most = 0;
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for shared memory");
  if (shared_bytes > most) return 0;
  check(cudaFuncSetAttribute(KERNEL, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "asking for shared memory");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "asking for multiprocessors");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, KERNEL, threads, shared_bytes), "asking for occupancy");
  blocks = std::max(1, blocks) * processors;
  if (device < kMostDevices) known[device].store(blocks, std::memory_order_relaxed);
  return blocks;
}

// As many blocks as fit the device, or as there is work for; on the current device, which must be ``where``'s. False,
// and nothing done, if none fits.
template <auto KERNEL, class... Arguments>
inline bool launch_persistent(Place where, int64_t work, int threads, int shared_bytes, Arguments... arguments) {
  const int64_t blocks = std::min<int64_t>(work, resident_blocks<KERNEL>(where.device, threads, shared_bytes));
  if (blocks == 0) return false;
  KERNEL<<<dim3(unsigned(blocks)), threads, shared_bytes, static_cast<cudaStream_t>(where.stream)>>>(arguments...);
  check(cudaGetLastError(), "launching a kernel");
  return true;
}

}  // namespace alias_ops::cuda
