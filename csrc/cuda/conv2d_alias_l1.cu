// conv2d_alias_l1 on CUDA: its kernels and their launches.
#include "conv2d_alias_l1.h"
#include "conv2d_alias_l1_tiled.h"
#include "launch.h"

namespace alias_ops::cuda {
namespace {

using namespace conv2d;

constexpr int64_t kMostBlocks = (int64_t(1) << 31) - 1;

// Lets KERNEL have as much shared memory as the device gives a block, once for each device; false if that is too
// little.
template <auto KERNEL>
bool allows(int device, int bytes) {
  static std::atomic<int> known[kMostDevices];
  int most = device < kMostDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (most == 0) {
    check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "asking for shared memory");
    check(cudaFuncSetAttribute(KERNEL, cudaFuncAttributeMaxDynamicSharedMemorySize, most), "asking for shared memory");
    if (device < kMostDevices) known[device].store(most, std::memory_order_relaxed);
  }
  return bytes <= most;
}

template <auto KERNEL>
bool launch(const Arguments& call, Place where, int64_t blocks, int threads, int bytes) {
  if (!allows<KERNEL>(where.device, bytes)) return false;
  KERNEL<<<dim3(unsigned(blocks)), threads, bytes, static_cast<cudaStream_t>(where.stream)>>>(call);
  check(cudaGetLastError(), "launching a kernel");
  return true;
}

// The same in clusters of blocks, of which ``blocks`` is a multiple. That a chip has none of that size, or no room for
// one, is an error and not another backend's turn: the caller's tables and scratch are those of a cluster.
template <auto KERNEL>
bool launch_clusters(const Arguments& call, Place where, int64_t blocks, int threads, int bytes, int cluster) {
  if (!allows<KERNEL>(where.device, bytes)) return false;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(cluster), attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t configuration{};
  configuration.gridDim = dim3(unsigned(blocks)), configuration.blockDim = dim3(unsigned(threads));
  configuration.dynamicSmemBytes = size_t(bytes), configuration.stream = static_cast<cudaStream_t>(where.stream);
  configuration.attrs = &attribute, configuration.numAttrs = 1;
  const std::string doing = "launching clusters of " + std::to_string(cluster) + " blocks with " +
                            std::to_string(bytes) + " bytes of shared memory each";
  check(cudaLaunchKernelEx(&configuration, KERNEL, call), doing.c_str());
  return true;
}

template <class T, int PRODUCTS>
bool measure(const Arguments& call, Place where) {
  const Layer& layer = call.layer;
  const int64_t blocks = block_count(layer, call.plan), maps = int64_t(layer.batch) * scratch_outputs(layer);
  if (blocks > kMostBlocks || maps > kMostBlocks) return false;
  if (tiled(call.plan)) {
    constexpr auto kTiled = conv2d_alias_l1_tiled_kernel<T, PRODUCTS>;
    constexpr auto kLarge = large_residual_l1_kernel<PRODUCTS>;
    return launch<kTiled>(call, where, blocks, kThreads, call.plan.shared) &&
           launch<kLarge>(call, where, maps, kThreads, large_spectrum_bytes(layer));
  }
  constexpr auto kKernel = conv2d_alias_l1_kernel<T, PRODUCTS>;
  const Plan& p = call.plan;
  if (p.cluster > 1) return launch_clusters<kKernel>(call, where, blocks, kThreads, p.shared, p.cluster);
  if (!launch<kKernel>(call, where, blocks, kThreads, p.shared)) return false;
  if (on_chip(p)) return true;
  return launch<residual_l1_kernel<PRODUCTS>>(call, where, maps, 32 * kSpectrumWarps, spectrum_bytes(layer));
}

}  // namespace

bool conv2d_alias_l1(const Arguments& call, Place where) {
  switch (call.layer.precision) {
    case Precision::kFloat32:
      return measure<float, 3>(call, where);
    case Precision::kTf32:
      return measure<float, 1>(call, where);
    case Precision::kBFloat16:
      return measure<BFloat16, 1>(call, where);
    default:
      return measure<Half, 1>(call, where);
  }
}

}  // namespace alias_ops::cuda
