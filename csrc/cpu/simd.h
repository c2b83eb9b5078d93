// Vectors of the instruction set a file is compiled for, written once with the compiler's vector extension.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "../kernels.h"

#ifndef ALIAS_OPS_ISA
#error "compile with -DALIAS_OPS_ISA=<name>"
#endif

// An array of vectors lives in registers only if every index is a constant: all loops over it must be unrolled.
#define ALIAS_OPS_UNROLL _Pragma("GCC unroll 16")

namespace alias_ops::ALIAS_OPS_ISA {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kRegisters = 32;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kRegisters = 16;
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kRegisters = 16;
#endif

template <class T>
struct Simd {
  typedef T Vec __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / sizeof(T);
};
template <class T>
using Vec = typename Simd<T>::Vec;
template <class T>
inline constexpr int kLanes = Simd<T>::kLanes;

// Holds a value in a register: GCC would rather read it from memory again for each of its uses, and the two
// loads that a cycle allows are then what a short tile waits for.
template <class V>
inline void keep(V& v) {
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__x86_64__)
  asm("" : "+x"(v));
#else
  (void)v;
#endif
}

// Storage types of 16 bits; sums are taken in float.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
template <class S>
using Compute = std::conditional_t<std::is_same_v<S, double>, double, float>;

// run(S()) for the type that is stored.
template <class Run>
inline void for_dtype(Dtype dtype, const Run& run) {
  switch (dtype) {
    case Dtype::kFloat32:
      return run(float());
    case Dtype::kFloat64:
      return run(double());
    case Dtype::kBFloat16:
      return run(BFloat16());
    case Dtype::kFloat16:
      return run(Float16());
  }
}

inline float widen(BFloat16 v) {
  uint32_t bits = uint32_t(v.bits) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

inline float widen(Float16 v) {
#if defined(__F16C__)
  return _cvtsh_ss(v.bits);
#else
  // Half the exponent range of float: shift into place and rescale, which also rights subnormals.
  uint32_t magnitude = uint32_t(v.bits & 0x7fff) << 13, sign = uint32_t(v.bits & 0x8000) << 16;
  float f;
  std::memcpy(&f, &magnitude, 4);
  f *= 0x1p112f;
  std::memcpy(&magnitude, &f, 4);
  if ((v.bits & 0x7c00) == 0x7c00) magnitude |= 0x7f800000;
  magnitude |= sign;
  std::memcpy(&f, &magnitude, 4);
  return f;
#endif
}
inline float widen(float v) { return v; }
inline double widen(double v) { return v; }

inline void narrow(float v, float& out) { out = v; }
inline void narrow(double v, double& out) { out = v; }
inline void narrow(float v, BFloat16& out) {
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const bool nan = (bits & 0x7fffffff) > 0x7f800000;
  out.bits = nan ? uint16_t(0x7fc0) : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
inline void narrow(float v, Float16& out) {
#if defined(__F16C__)
  out.bits = uint16_t(_cvtss_sh(v, _MM_FROUND_TO_NEAREST_INT));
#else
  uint32_t bits;
  std::memcpy(&bits, &v, 4);
  const uint16_t sign = uint16_t((bits >> 16) & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) {
    out.bits = sign | 0x7e00;
  } else if (bits >= 0x477ff000) {  // rounds to at least 65520: infinity
    out.bits = sign | 0x7c00;
  } else if (bits < 0x38800000) {  // subnormal: let the float adder round
    float magnitude, anchored;
    std::memcpy(&magnitude, &bits, 4);
    anchored = magnitude + 0.5f;
    std::memcpy(&bits, &anchored, 4);
    out.bits = uint16_t(sign | (bits - 0x3f000000));
  } else {
    bits += 0xfff + ((bits >> 13) & 1);
    out.bits = uint16_t(sign | ((bits - 0x38000000) >> 13));
  }
#endif
}

template <class T>
inline Vec<T> load(const T* p) {
  Vec<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vec<T> v) {
  std::memcpy(p, &v, sizeof v);
}

typedef uint16_t Bits16 __attribute__((vector_size(kVectorBytes / 2)));
typedef uint32_t Bits32 __attribute__((vector_size(kVectorBytes)));

inline Vec<float> load(const BFloat16* p) {
  Bits16 half;
  std::memcpy(&half, p, sizeof half);
  Bits32 wide = __builtin_convertvector(half, Bits32) << 16;
  Vec<float> v;
  std::memcpy(&v, &wide, sizeof v);
  return v;
}
inline void store(BFloat16* p, Vec<float> v) {
  Bits32 bits;
  std::memcpy(&bits, &v, sizeof bits);
  const Bits32 nan = Bits32((bits & 0x7fffffff) > 0x7f800000);
  Bits32 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  rounded = (rounded & ~nan) | (nan & 0x7fc0);
  Bits16 half = __builtin_convertvector(rounded, Bits16);
  std::memcpy(p, &half, sizeof half);
}
inline Vec<float> load(const Float16* p) {
  Vec<float> v;
#if defined(__AVX512F__)
  const __m512 wide = _mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  std::memcpy(&v, &wide, sizeof v);
#elif defined(__F16C__)
  const __m256 wide = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  std::memcpy(&v, &wide, sizeof v);
#else
  for (int i = 0; i < kLanes<float>; ++i) v[i] = widen(p[i]);
#endif
  return v;
}
inline void store(Float16* p, Vec<float> v) {
#if defined(__AVX512F__)
  __m512 wide;
  std::memcpy(&wide, &v, sizeof v);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtps_ph(0xffff, wide, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  __m256 wide;
  std::memcpy(&wide, &v, sizeof v);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(wide, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes<float>; ++i) narrow(v[i], p[i]);
#endif
}

// The first n lanes, 0 <= n <= lanes; nothing beyond them is read or written.
template <class S>
inline Vec<Compute<S>> load_first(const S* p, int64_t n) {
  using C = Compute<S>;
  if (n >= kLanes<C>) return load(p);
  Vec<C> v = {};
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    const __m512 part = _mm512_maskz_loadu_ps(__mmask16((1u << n) - 1), p);
    std::memcpy(&v, &part, sizeof v);
    return v;
  }
#endif
  for (int64_t i = 0; i < n; ++i) v[i] = widen(p[i]);
  return v;
}
template <class S>
inline void store_first(S* p, Vec<Compute<S>> v, int64_t n) {
  if (n >= kLanes<Compute<S>>) return store(p, v);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<S, float>) {
    __m512 whole;
    std::memcpy(&whole, &v, sizeof v);
    _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1), whole);
    return;
  }
#endif
  for (int64_t i = 0; i < n; ++i) narrow(v[i], p[i]);
}

// Lanes of two vectors by compile-time index functions, for shuffles that both GCC and Clang take.
template <class T, class Index, size_t... I>
inline Vec<T> shuffle_as(Vec<T> a, Vec<T> b, Index, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, Index{}(int(I))...);
}
template <class T, class Index>
inline Vec<T> shuffle(Vec<T> a, Vec<T> b, Index index) {
  return shuffle_as<T>(a, b, index, std::make_index_sequence<kLanes<T>>{});
}

template <class T>
struct Even {
  constexpr int operator()(int i) const { return 2 * i; }
};
template <class T>
struct Odd {
  constexpr int operator()(int i) const { return 2 * i + 1; }
};
template <class T>
struct LowerInterleaved {
  constexpr int operator()(int i) const { return i / 2 + (i % 2) * kLanes<T>; }
};
template <class T>
struct UpperInterleaved {
  constexpr int operator()(int i) const { return i / 2 + kLanes<T> / 2 + (i % 2) * kLanes<T>; }
};

template <class T, int Distance>
struct Swapped {
  constexpr int operator()(int i) const { return i ^ Distance; }
};
template <class T, int Step>
struct Rotated {
  constexpr int operator()(int i) const { return (i + Step) % kLanes<T>; }
};

// N neighbours, two or four, again and again.
template <int N, class T>
inline Vec<T> load_repeated(const T* p) {
  Vec<T> v;
#if defined(__AVX512F__)
  // Masks of all lanes: without one GCC 12's own header warns of what it leaves undefined.
  constexpr __mmask8 kAll = 0xff;
  __m512d repeated;
  if constexpr (N * sizeof(T) == 8) {
    double two;
    std::memcpy(&two, p, sizeof two);
    repeated = _mm512_set1_pd(two);
  } else if constexpr (N * sizeof(T) == 16) {
    repeated = _mm512_maskz_broadcast_f64x2(kAll, _mm_loadu_pd(reinterpret_cast<const double*>(p)));
  } else {
    static_assert(N * sizeof(T) == 32);
    repeated = _mm512_maskz_broadcast_f64x4(kAll, _mm256_loadu_pd(reinterpret_cast<const double*>(p)));
  }
  std::memcpy(&v, &repeated, sizeof v);
#else
  for (int i = 0; i < kLanes<T>; ++i) v[i] = p[i % N];
#endif
  return v;
}

// Lane i is number index[i] of the lanes of a and, after them, of b.
template <class T>
using LaneIndex = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
template <class T>
inline Vec<T> pick(Vec<T> a, Vec<T> b, Vec<LaneIndex<T>> index) {
  Vec<T> v;
#if defined(__AVX512F__)
  __m512i first, second, lanes;
  std::memcpy(&first, &a, sizeof a), std::memcpy(&second, &b, sizeof b), std::memcpy(&lanes, &index, sizeof index);
  // Not the permutations of integers: what they give may reach the floating-point units a cycle later.
  __m512i picked;
  if constexpr (sizeof(T) == 4) {
    picked =
        _mm512_castps_si512(_mm512_permutex2var_ps(_mm512_castsi512_ps(first), lanes, _mm512_castsi512_ps(second)));
  } else {
    picked =
        _mm512_castpd_si512(_mm512_permutex2var_pd(_mm512_castsi512_pd(first), lanes, _mm512_castsi512_pd(second)));
  }
  std::memcpy(&v, &picked, sizeof v);
#else
  for (int i = 0; i < kLanes<T>; ++i) v[i] = index[i] < kLanes<T> ? a[index[i]] : b[index[i] - kLanes<T>];
#endif
  return v;
}

template <class T, int Step = kLanes<T> / 2>
inline T sum_of_lanes(Vec<T> v) {
  if constexpr (Step == 0) {
    return v[0];
  } else {
    return sum_of_lanes<T, Step / 2>(v + shuffle<T>(v, v, Rotated<T, Step>{}));
  }
}

// Lanes of two row vectors that a transposition's step of size B swaps.
template <class T, int B>
struct KeepLower {
  constexpr int operator()(int i) const { return i & B ? i - B + kLanes<T> : i; }
};
template <class T, int B>
struct KeepUpper {
  constexpr int operator()(int i) const { return i & B ? i + kLanes<T> : i + B; }
};

template <class T, int B = 1>
inline void transpose(Vec<T>* rows) {
  if constexpr (B < kLanes<T>) {
    ALIAS_OPS_UNROLL for (int i = 0; i < kLanes<T>; ++i) {
      if (i & B) continue;
      const Vec<T> a = rows[i], b = rows[i + B];
      rows[i] = shuffle<T>(a, b, KeepLower<T, B>{});
      rows[i + B] = shuffle<T>(a, b, KeepUpper<T, B>{});
    }
    transpose<T, 2 * B>(rows);
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
