// Small dense DFTs of groups of real maps, maps in lanes, and the L1 norm of a half plane.
//
// A real map's spectrum is kept as real pairs: row 0 is the cosine sum of frequency 0, rows 2f-1 and 2f
// are the cosine and minus-sine sums of frequency f; columns likewise. With a, b the two rows of f and
// c, s the two columns of g, the bin (+f, g) is (ac - bs) + i(as + bc) and (-f, g) is (ac + bs) + i(as - bc).
#pragma once

#include <cmath>

#include "lanes.h"
#include "tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

inline int64_t pair_rows(int64_t frequencies) { return 2 * frequencies - 1; }

// Coefficients of one axis, packed for tiles: pair_rows x length.
template <class C>
inline PackedRows<C> pack_dft(const DftTable& table) {
  return PackedRows<C>(pair_rows(table.frequencies), table.length, [&](int64_t row, int64_t k) {
    const int64_t f = (row + 1) / 2, part = row == 0 || row % 2 == 1 ? 0 : 1;
    return table.data[(part * table.frequencies + f) * table.length + k];
  });
}

// Pairs [rows][columns][lanes] of maps [height][width][lanes] (steps in elements); `along` holds
// rows x width vectors between the two products.
template <class C>
inline void transform(const PackedRows<C>& rows, const PackedRows<C>& columns, const C* x, int64_t row_step,
                      int64_t column_step, C* along, C* pairs) {
  constexpr int kL = kLanes<C>;
  const int64_t width = columns.inner();
  multiply(rows, Panel<C>{x, row_step, column_step, along, width * kL, kL, width});
  multiply(columns, Panel<C>{along, kL, width * kL, pairs, kL, columns.rows() * kL, rows.rows()});
}

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

// |re + i im|. Squares overflow or lose bits far from 1, where the lanes go through hypot instead.
template <class C>
inline Vec<C> magnitude(Vec<C> re, Vec<C> im) {
  constexpr C kTiny = sizeof(C) == 4 ? C(1e-30) : C(1e-280), kHuge = sizeof(C) == 4 ? C(1e38) : C(1e300);
  const Vec<C> square = re * re + im * im;
  const auto small = (square < kTiny) & ((re != C(0)) | (im != C(0)));
  if (any(small | ~(square < kHuge))) {
    Vec<C> exact;
    for (int i = 0; i < kLanes<C>; ++i) exact[i] = std::hypot(re[i], im[i]);
    return exact;
  }
  return square_root(square);
}

// Sum of |D| over the full plane, from the pairs of its half plane; the bins with f < skip_f and
// g < skip_g are left out.
template <class C>
inline Vec<C> l1_of_pairs(const C* pairs, const DftTable& h, const DftTable& w, int64_t skip_f = 0,
                          int64_t skip_g = 0) {
  const int64_t rows_f = h.frequencies, columns_g = w.frequencies, height = h.length, width = w.length;
  constexpr int kL = kLanes<C>;
  const int64_t columns = pair_rows(columns_g);
  Vec<C> sum = {};
  for (int64_t f = 0; f < rows_f; ++f) {
    const C* a = pairs + (f == 0 ? 0 : 2 * f - 1) * columns * kL;
    const C* b = a + columns * kL;
    for (int64_t g = f < skip_f ? skip_g : 0; g < columns_g; ++g) {
      const int64_t c = g == 0 ? 0 : (2 * g - 1) * kL, s = c + kL;
      const int weight = multiplicity(f, height) * multiplicity(g, width);
      const Vec<C> zero = {};
      const Vec<C> ac = load(a + c), as = g == 0 ? zero : load(a + s);
      if (f == 0) {
        sum += C(weight) * magnitude<C>(ac, as);
        continue;
      }
      const Vec<C> bc = load(b + c), bs = g == 0 ? zero : load(b + s);
      if (g == 0) {
        sum += C(weight) * magnitude<C>(ac, bc);
      } else {
        sum += C(0.5 * weight) * (magnitude<C>(ac - bs, as + bc) + magnitude<C>(ac + bs, as - bc));
      }
    }
  }
  return sum;
}

}  // namespace alias_ops::ALIAS_OPS_ISA
