// Number formats of the CUDA kernels and what they round to, the same on the device and on the host.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __CUDACC__
#define ALIAS_OPS_BOTH __host__ __device__ __forceinline__
#else
#define ALIAS_OPS_BOTH inline
#endif

namespace alias_ops::cuda {

// Storage formats; arithmetic is in float. No CUDA header, so that hosts without one compile them too.
struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

// An access of N words: 4 are the 16 bytes that a thread moves at most.
template <int N>
struct alignas(4 * N) Words {
  uint32_t w[N];
};

ALIAS_OPS_BOTH uint32_t bits_of(float value) {
#ifdef __CUDA_ARCH__
  return __float_as_uint(value);
#else
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
#endif
}

ALIAS_OPS_BOTH float float_of(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
#endif
}

// Nearest TF32 number, ties away from zero, as cvt.rna does; two integer instructions, where cvt has its own pipe.
ALIAS_OPS_BOTH float tf32_of(float value) { return float_of((bits_of(value) + 0x1000u) & 0xffffe000u); }

// The same, and a NaN stays one: adding to the one that a GPU makes, 0x7fffffff, would carry into its sign. Where the
// rest is multiplied too it keeps the NaN, and the shorter form does.
ALIAS_OPS_BOTH float tf32_or_nan_of(float value) {
  const uint32_t raised = (bits_of(value) & 0x7fffffffu) + 0x1000u, most = 0x7fffffffu;
  return float_of(((raised < most ? raised : most) & 0x7fffe000u) | (bits_of(value) & 0x80000000u));
}

// What TF32 leaves of a value. Matrix units ignore its last bits: the pair keeps 22 of 24.
ALIAS_OPS_BOTH float tf32_rest(float value, float high) { return value - high; }

ALIAS_OPS_BOTH float to_float(float value) { return value; }
ALIAS_OPS_BOTH float to_float(BFloat16 value) { return float_of(uint32_t(value.bits) << 16); }
ALIAS_OPS_BOTH float to_float(Half value) {
#ifdef __CUDA_ARCH__
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  const uint32_t sign = uint32_t(value.bits & 0x8000) << 16, rest = value.bits & 0x7fff;
  if (rest >= 0x7c00) return float_of(sign | 0x7f800000u | rest << 13);
  const float magnitude = float_of(rest << 13) * float_of(0x77800000u);  // 2^112: subnormal numbers come out right
  return float_of(sign | bits_of(magnitude));
#endif
}

namespace host {

// Round to nearest, ties to even, as cvt.rn does.
inline uint16_t bfloat16_bits(float value) {
  const uint32_t bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

inline uint16_t half_bits(float value) {
  const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return uint16_t(sign | 0x7e00);
  if (rest >= 0x477ff000u) return uint16_t(sign | 0x7c00);
  if (rest < 0x38800000u) {  // subnormal: adding 2^-1 leaves the wanted bits last
    return uint16_t(sign | (bits_of(float_of(rest) + 0.5f) - 0x3f000000u));
  }
  return uint16_t(sign | ((rest - 0x38000000u + 0xfffu + (rest >> 13 & 1)) >> 13));
}

}  // namespace host

template <class T>
ALIAS_OPS_BOTH T from_float(float value);

template <>
ALIAS_OPS_BOTH float from_float<float>(float value) {
  return value;
}
template <>
ALIAS_OPS_BOTH BFloat16 from_float<BFloat16>(float value) {
#ifdef __CUDA_ARCH__
  BFloat16 narrow;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
  return narrow;
#else
  return {host::bfloat16_bits(value)};
#endif
}
template <>
ALIAS_OPS_BOTH Half from_float<Half>(float value) {
#ifdef __CUDA_ARCH__
  Half narrow;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
  return narrow;
#else
  return {host::half_bits(value)};
#endif
}

// Two neighbours in one word, the first in its lower half, as matrix units want them.
template <class T>
ALIAS_OPS_BOTH uint32_t pair_of(float first, float second) {
#ifdef __CUDA_ARCH__
  uint32_t both;
  if constexpr (sizeof(T) == 2 && !std::is_same_v<T, Half>) {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  } else {
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  }
  return both;
#else
  return from_float<T>(first).bits | uint32_t(from_float<T>(second).bits) << 16;
#endif
}

}  // namespace alias_ops::cuda
