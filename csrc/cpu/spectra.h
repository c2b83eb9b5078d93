// Bins of maps in lanes, and the L1 norm of a half plane of them.
//
// Of pairs (dft.h) with a and b the cosine and sine row of f, c and s the cosine and sine column of g, the bin (+f, g)
// is (ac - bs) + i(as + bc) and (-f, g) is (ac + bs) + i(as - bc).
#pragma once

#include <cmath>

#include "dft.h"
#include "lanes.h"

namespace alias_ops::ALIAS_OPS_ISA {

// 1 for the bins that are their own mirror image (DC, and Nyquist of an even size), 2 for the others.
inline int multiplicity(int64_t frequency, int64_t length) { return frequency == 0 || 2 * frequency == length ? 1 : 2; }

typedef int32_t Mask32 __attribute__((vector_size(kVectorBytes)));
typedef int64_t Mask64 __attribute__((vector_size(kVectorBytes)));

template <class Mask>
inline bool any(Mask mask) {
#if defined(__AVX512F__)
  __m512i bits;
  std::memcpy(&bits, &mask, sizeof bits);
  return _mm512_test_epi32_mask(bits, bits) != 0;
#elif defined(__AVX2__)
  __m256i bits;
  std::memcpy(&bits, &mask, sizeof bits);
  return !_mm256_testz_si256(bits, bits);
#else
  int64_t joined = 0;
  for (size_t i = 0; i < sizeof mask / sizeof mask[0]; ++i) joined |= mask[i];
  return joined != 0;
#endif
}

inline Vec<float> square_root(Vec<float> v) {
#if defined(__AVX512F__)
  return Vec<float>(_mm512_maskz_sqrt_ps(0xffff, __m512(v)));
#elif defined(__AVX2__)
  return Vec<float>(_mm256_sqrt_ps(__m256(v)));
#else
  for (int i = 0; i < kLanes<float>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}
inline Vec<double> square_root(Vec<double> v) {
#if defined(__AVX512F__)
  return Vec<double>(_mm512_maskz_sqrt_pd(0xff, __m512d(v)));
#elif defined(__AVX2__)
  return Vec<double>(_mm256_sqrt_pd(__m256d(v)));
#else
  for (int i = 0; i < kLanes<double>; ++i) v[i] = std::sqrt(v[i]);
  return v;
#endif
}

template <class C>
struct Bin {
  Vec<C> re, im;
};

// Whether the sum of squares overflows or loses bits in a lane, as it does far from 1: then hypot has to do it.
template <class C>
inline bool extreme(const Bin<C>& v, Vec<C> square) {
  constexpr C kTiny = sizeof(C) == 4 ? C(1e-30) : C(1e-280), kHuge = sizeof(C) == 4 ? C(1e38) : C(1e300);
  const auto small = (square < kTiny) & ((v.re != C(0)) | (v.im != C(0)));
  return any(small | ~(square < kHuge));
}

template <class C>
inline Vec<C> magnitude(const Bin<C>& v) {
  const Vec<C> square = v.re * v.re + v.im * v.im;
  if (extreme(v, square)) {
    Vec<C> exact;
    for (int i = 0; i < kLanes<C>; ++i) exact[i] = std::hypot(v.re[i], v.im[i]);
    return exact;
  }
  return square_root(square);
}

// v / |v|, and 0 at 0.
template <class C>
inline Bin<C> direction(Bin<C> v) {
  const Vec<C> square = v.re * v.re + v.im * v.im;
  if (extreme(v, square)) {
    for (int i = 0; i < kLanes<C>; ++i) {
      const C length = std::hypot(v.re[i], v.im[i]);
      v.re[i] = length == C(0) ? C(0) : v.re[i] / length;
      v.im[i] = length == C(0) ? C(0) : v.im[i] / length;
    }
    return v;
  }
  const Vec<C> inverse = square == C(0) ? Vec<C>{} : C(1) / square_root(square);
  return {v.re * inverse, v.im * inverse};
}

// The bins (+f, g) and (-f, g); where f or g is 0 they are conjugates and only the first is used.
template <class C>
struct BinPair {
  Bin<C> plus, minus;
};

// Where the cosine row and column of a frequency lie among `columns` columns of pairs; the sines' lie before.
template <class C>
inline int64_t pair_offset(int64_t columns, int64_t f, int64_t g) {
  return 2 * (f * columns + g) * kLanes<C>;
}

template <class C>
inline BinPair<C> load_bins(const C* pairs, int64_t columns, int64_t f, int64_t g) {
  constexpr int kL = kLanes<C>;
  const C* a = pairs + pair_offset<C>(columns, f, g);
  const int64_t row = columns * kL;
  const Vec<C> zero = {};
  const Vec<C> ac = load(a), as = g == 0 ? zero : load(a - kL);
  const Vec<C> bc = f == 0 ? zero : load(a - row), bs = f == 0 || g == 0 ? zero : load(a - row - kL);
  return {{ac - bs, as + bc}, {ac + bs, as - bc}};
}

// The adjoint: what gradients of the bins say about the pairs. Where there is only one bin, `minus` must be zero.
template <class C>
inline void store_bins_adjoint(C* pairs, int64_t columns, int64_t f, int64_t g, const BinPair<C>& d) {
  constexpr int kL = kLanes<C>;
  C* a = pairs + pair_offset<C>(columns, f, g);
  const int64_t row = columns * kL;
  store(a, d.plus.re + d.minus.re);
  if (g > 0) store(a - kL, d.plus.im + d.minus.im);
  if (f > 0) store(a - row, d.plus.im - d.minus.im);
  if (f > 0 && g > 0) store(a - row - kL, d.minus.re - d.plus.re);
}

// visit(f, g, weight) for the half plane of bins but those with f < skip_f and g < skip_g. The weight is how often
// (+f, g) counts in the sum over the full plane, and likewise (-f, g) where it is another bin.
template <class Visit>
inline void each_bin(const DftTable& h, const DftTable& w, int64_t skip_f, int64_t skip_g, Visit visit) {
  for (int64_t f = 0; f < h.frequencies; ++f) {
    for (int64_t g = f < skip_f ? skip_g : 0; g < w.frequencies; ++g) {
      const double weight = multiplicity(f, h.length) * multiplicity(g, w.length);
      visit(f, g, f > 0 && g > 0 ? 0.5 * weight : weight);
    }
  }
}

// Sum of |D| over the full plane, from the pairs of its half plane, but for the bins to skip.
template <class C>
inline Vec<C> l1_of_pairs(const C* pairs, const DftTable& h, const DftTable& w, int64_t skip_f = 0,
                          int64_t skip_g = 0) {
  Vec<C> sum = {};
  each_bin(h, w, skip_f, skip_g, [&](int64_t f, int64_t g, double weight) {
    const BinPair<C> d = load_bins(pairs, pair_rows(w.frequencies), f, g);
    Vec<C> length = magnitude(d.plus);
    if (f > 0 && g > 0) length += magnitude(d.minus);
    sum += C(weight) * length;
  });
  return sum;
}

// d(sum of |D|) / d(bins) for the bins of one `weight` in the sum, times that map's incoming gradient.
template <class C>
inline BinPair<C> directions(const BinPair<C>& d, bool both, Vec<C> weight) {
  BinPair<C> to{direction(d.plus), Bin<C>{}};
  to.plus.re *= weight, to.plus.im *= weight;
  if (!both) return to;
  to.minus = direction(d.minus);
  to.minus.re *= weight, to.minus.im *= weight;
  return to;
}

// Turns pairs into the gradient of l1_of_pairs with respect to them, in place, but for the bins to skip.
template <class C>
inline void l1_of_pairs_adjoint(C* pairs, const DftTable& h, const DftTable& w, Vec<C> gradient, int64_t skip_f = 0,
                                int64_t skip_g = 0) {
  const int64_t columns = pair_rows(w.frequencies);
  each_bin(h, w, skip_f, skip_g, [&](int64_t f, int64_t g, double weight) {
    const BinPair<C> d = load_bins<C>(pairs, columns, f, g);
    store_bins_adjoint(pairs, columns, f, g, directions(d, f > 0 && g > 0, C(weight) * gradient));
  });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
