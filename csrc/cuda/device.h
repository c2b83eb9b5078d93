// What a kernel may do to memory and to other threads. Kernels touch memory through these functions alone, so that
// the same source runs on a CPU: without nvcc they come from tests/cuda_emulator, which checks every access.
#pragma once

#include "numbers.h"

#ifndef __CUDACC__
#include "emulator.h"
#else

#define ALIAS_OPS_DEVICE __device__ __forceinline__
#define ALIAS_OPS_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)

namespace alias_ops::cuda {

ALIAS_OPS_DEVICE int thread() { return int(threadIdx.x); }
ALIAS_OPS_DEVICE int lane() { return int(threadIdx.x) % 32; }
ALIAS_OPS_DEVICE int warp() { return int(threadIdx.x) / 32; }
// x runs fastest and may reach 2^31; y stays below 65536.
ALIAS_OPS_DEVICE int64_t block() { return int64_t(blockIdx.x); }
ALIAS_OPS_DEVICE int64_t blocks() { return int64_t(gridDim.x); }
ALIAS_OPS_DEVICE int block_y() { return int(blockIdx.y); }

// The block's dynamic shared memory, aligned to 16 bytes.
ALIAS_OPS_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

// ---- one access each: V is float, uint16_t, BFloat16, Half, or Words<N> ----

template <class V>
ALIAS_OPS_DEVICE V load_shared(const void* at) {
  return *static_cast<const V*>(at);
}
template <class V>
ALIAS_OPS_DEVICE void store_shared(void* at, V value) {
  *static_cast<V*>(at) = value;
}
template <class V>
ALIAS_OPS_DEVICE V load_global(const void* at) {
  return *static_cast<const V*>(at);
}
template <class V>
ALIAS_OPS_DEVICE void store_global(void* at, V value) {
  *static_cast<V*>(at) = value;
}

// ---- copies past the registers, in groups ----

// 4, 8 or 16 bytes, aligned to as much on both sides. Visible after wait_for_copies and a barrier.
template <int BYTES>
ALIAS_OPS_DEVICE void copy_async(void* shared, const void* global) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  const uint32_t to = uint32_t(__cvta_generic_to_shared(shared));
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(BYTES) : "memory");
  }
}

// As above where ``wanted``, otherwise zeros; ``global`` is an address in bounds either way.
template <int BYTES>
ALIAS_OPS_DEVICE void copy_async_or_zero(void* shared, const void* global, bool wanted) {
  static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16);
  const uint32_t to = uint32_t(__cvta_generic_to_shared(shared)), bytes = wanted ? BYTES : 0;
  if constexpr (BYTES == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(to), "l"(global), "n"(BYTES), "r"(bytes)
                 : "memory");
  }
}

// Ends a group of this thread's copies.
ALIAS_OPS_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most PENDING of this thread's groups are under way.
template <int PENDING>
ALIAS_OPS_DEVICE void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- other threads ----

ALIAS_OPS_DEVICE void barrier() { __syncthreads(); }
ALIAS_OPS_DEVICE void warp_barrier() { __syncwarp(); }
ALIAS_OPS_DEVICE float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }
ALIAS_OPS_DEVICE float shuffle(float value, int from) { return __shfl_sync(0xffffffffu, value, from); }

// ---- other blocks of a cluster: neighbours in x, which start and run together ----

// Code for chips before sm_90 has none: there, nothing of the below may be reached.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
constexpr bool kHasClusters = true;
#else
constexpr bool kHasClusters = false;
#endif

// Of all threads of all blocks; what they wrote to shared memory before is seen behind it. A block's shared memory is
// there from the first such barrier on, and has to stay until nobody reads it any more: no block leaves before one.
ALIAS_OPS_DEVICE void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
  __cluster_barrier_arrive();
  __cluster_barrier_wait();
#endif
}

// What lies in the shared memory of the cluster's block `rank` where `at` is in this block's own.
ALIAS_OPS_DEVICE Words<4> load_of_block(const void* at, int rank) {
  Words<4> value{};
  if constexpr (kHasClusters) {
    uint32_t there;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
                 : "=r"(there)
                 : "r"(uint32_t(__cvta_generic_to_shared(at))), "r"(rank));
    asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.w[0]), "=r"(value.w[1]), "=r"(value.w[2]), "=r"(value.w[3])
                 : "r"(there)
                 : "memory");
  }
  return value;
}

// ---- matrix units; who holds what is in the PTX manual, "Matrix Fragments" ----

// Four 8 x 8 tiles of 16-bit numbers; lane i gives the address of row i % 8 of tile i / 8.
ALIAS_OPS_DEVICE void load_tiles(uint32_t (&tiles)[4], const void* row) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(at)
               : "memory");
}
ALIAS_OPS_DEVICE void load_tiles_transposed(uint32_t (&tiles)[4], const void* row) {
  const uint32_t at = uint32_t(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(tiles[0]), "=r"(tiles[1]), "=r"(tiles[2]), "=r"(tiles[3])
               : "r"(at)
               : "memory");
}

// c[16 x 8] += a[16 x 16] b[16 x 8], of pairs of T.
template <class T>
ALIAS_OPS_DEVICE void multiply_16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (std::is_same_v<T, Half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    static_assert(std::is_same_v<T, BFloat16>);
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}

// c[16 x 8] += a[16 x 8] b[8 x 8] in TF32: of the floats, the first 19 bits count.
ALIAS_OPS_DEVICE void multiply_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(bits_of(a[0])), "r"(bits_of(a[1])), "r"(bits_of(a[2])), "r"(bits_of(a[3])), "r"(bits_of(b[0])),
        "r"(bits_of(b[1])));
}

}  // namespace alias_ops::cuda
#endif
