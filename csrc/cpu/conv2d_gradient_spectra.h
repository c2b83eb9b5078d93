// The way back from D / |D| to x and the weight, in the frequency domain. Gradients of bins are kept as their
// conjugates there: both products are then plain ones, like the forward's.
#pragma once

#include <algorithm>

#include "conv2d_spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {

// One axis. What comes back to x has, after its pairs, the samples that the frame meets one by one.
template <class C>
struct GradientAxis {
  DftAxis<C> bins;      // strided output's gradient -> pairs of the kept bins' gradients, conjugated
  PackedRows<C> input;  // conjugated pairs and samples -> x, times `factor`
  int64_t columns;

  GradientAxis(const ConvAxis& a, const SpectralAxis<C>& axis, double factor) {
    const int64_t pairs = pair_rows(axis.frequencies), samples = axis.samples.size();
    columns = pairs + samples;
    bins = DftAxis<C>(a.dft, axis.frequencies, false, -1, 1);
    input = PackedRows<C>(a.input.length, columns, [&](int64_t k, int64_t row) {
      return factor * (row < pairs ? (is_sine(row) ? -1 : 1) * pair_element(a.input, row, k)
                                   : double(axis.samples[row - pairs] == k));
    });
  }
};

// A batch tile of the kept bins' gradients, and what they add up to on the lines of the frame.
template <class C>
class GradientSpectra : public Spectra<C> {
  static constexpr int kL = kLanes<C>;

 public:
  GradientSpectra(const SpectralAxis<C>& h, const SpectralAxis<C>& w, const GradientAxis<C>& back_h,
                  const GradientAxis<C>& back_w, int64_t tile, int64_t channels)
      : Spectra<C>(h, w, h.lines, w.lines, tile, channels), h_(h), w_(w), back_h_(back_h), back_w_(back_w) {}
  static int64_t image_bytes(const SpectralAxis<C>& h, const SpectralAxis<C>& w, int64_t channels) {
    return Spectra<C>::image_bytes(h, w, h.lines, w.lines, channels);
  }

  void fill(const Maps& y, int64_t first, int64_t count, const Runtime& runtime) {
    const int64_t scratch = back_h_.bins.rows() * (y.width + back_w_.bins.rows()) * kL;
    each_group<C, C>(y, first, count, scratch, runtime, [&](auto... group) { fill_group(group...); });
  }

 private:
  // y's gradient is the adjoint transform of the bins' gradients. Rows of a DFT are orthogonal: its transform gives
  // them back, up to a factor.
  void fill_group(int64_t image, int64_t channel, const C* y, int64_t row_step, int64_t column_step, C* scratch,
                  Ahead* ahead) {
    C* pairs = scratch + back_h_.bins.rows() * back_w_.bins.inner() * kL;
    transform(back_h_.bins, back_w_.bins, y, row_step, column_step, scratch, pairs, ahead);
    const C all = C(back_h_.bins.inner() * back_w_.bins.inner());
    for (int64_t i = 0; i < back_h_.bins.rows() * back_w_.bins.rows(); ++i) {
      store(pairs + i * kL, (i == 0 ? all : 2 * all) * load(pairs + i * kL));
    }
    this->put_bins(pairs, back_w_.bins.rows(), image, channel);
    for (int64_t line = 0; line < h_.lines; ++line) {
      for (int64_t g = 0; g < w_.frequencies; ++g)
        put(this->row(line, g), image, channel, on_row(line, g, image, channel));
    }
    for (int64_t line = 0; line < w_.lines; ++line) {
      for (int64_t f = 0; f < h_.frequencies; ++f) {
        put(this->column(line, f), image, channel, on_column(line, f, image, channel));
      }
      for (int64_t other = 0; other < h_.lines; ++other) {
        put(this->corner(other, line), image, channel, {on_corner(other, line, image, channel), Vec<C>{}});
      }
    }
  }

  void put(int64_t slot, int64_t image, int64_t channel, const Bin<C>& value) {
    Spectra<C>::put(slot, image, channel, value.re, value.im);
  }

  Bin<C> on_row(int64_t line, int64_t g, int64_t image, int64_t channel) const {
    Bin<C> sum = {};
    for (int64_t f = 0; f < h_.frequencies; ++f) {
      const C re = h_.frame_re[line * h_.frequencies + f], im = h_.frame_im[line * h_.frequencies + f];
      add(sum, re, im, this->get(this->bin(f, g), image, channel));
      if (f > 0 && g > 0) add(sum, re, -im, this->get(this->bin(-f, g), image, channel));
    }
    return sum;
  }
  // The bins (-f, g) took the conjugate of the column's spectrum at f.
  Bin<C> on_column(int64_t line, int64_t f, int64_t image, int64_t channel) const {
    Bin<C> sum = {}, conjugate = {};
    for (int64_t g = 0; g < w_.frequencies; ++g) {
      const C re = w_.frame_re[line * w_.frequencies + g], im = w_.frame_im[line * w_.frequencies + g];
      add(sum, re, im, this->get(this->bin(f, g), image, channel));
      if (f > 0 && g > 0) add(conjugate, re, im, this->get(this->bin(-f, g), image, channel));
    }
    return {sum.re + conjugate.re, sum.im - conjugate.im};
  }
  Vec<C> on_corner(int64_t row, int64_t column, int64_t image, int64_t channel) const {
    Bin<C> sum = {};
    for (int64_t f = 0; f < h_.frequencies; ++f) {
      const C re = h_.frame_re[row * h_.frequencies + f], im = h_.frame_im[row * h_.frequencies + f];
      add(sum, re, im, this->get(this->column(column, f), image, channel));
    }
    return sum.re;
  }
  static void add(Bin<C>& sum, C re, C im, const Bin<C>& value) {
    sum.re += re * value.re - im * value.im;
    sum.im += re * value.im + im * value.re;
  }

  const SpectralAxis<C>&h_, &w_;
  const GradientAxis<C>&back_h_, &back_w_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
