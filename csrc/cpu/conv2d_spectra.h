// Identity 7's two inputs: low-band spectra of x with the lines the frame needs, and of the weight bin by bin.
#pragma once

#include <algorithm>
#include <vector>

#include "spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {

// One axis of identity 7 in the kernel's type; signed frequencies are asked for with their sign.
template <class C>
struct SpectralAxis {
  int64_t frequencies, kernel, lines;
  PackedRows<C> input, dft;
  std::vector<C> phase_re, phase_im;  // [frequencies][kernel]
  std::vector<C> frame_re, frame_im;  // [lines][frequencies]
  std::vector<int64_t> samples;       // the input samples that any line meets, each once
  std::vector<int64_t> source;        // [lines][kernel]: index into samples, or -1

  explicit SpectralAxis(const ConvAxis& a)
      : frequencies(a.input.frequencies),
        kernel(a.kernel),
        lines(a.lines),
        input(pack_dft<C>(a.input)),
        dft(pack_dft<C>(a.dft)) {
    const int64_t phases = frequencies * kernel, weights = lines * frequencies;
    phase_re.assign(a.phase, a.phase + phases);
    phase_im.assign(a.phase + phases, a.phase + 2 * phases);
    frame_re.assign(a.frame, a.frame + weights);
    frame_im.assign(a.frame + weights, a.frame + 2 * weights);
    for (int64_t i = 0; i < lines * kernel; ++i) {
      const auto known = std::find(samples.begin(), samples.end(), a.sources[i]);
      source.push_back(a.sources[i] < 0 ? -1 : known - samples.begin());
      if (a.sources[i] >= 0 && known == samples.end()) samples.push_back(a.sources[i]);
    }
  }
};

// A batch tile of x in the frequency domain: slot -> [image][re, im][channels], slots being the bins, the
// spectra of single rows and columns, and single samples.
template <class C>
struct InputSpectra {
  const SpectralAxis<C>&h, &w;
  int64_t images, channels;  // channels padded to whole vectors
  std::vector<C> values;

  InputSpectra(const SpectralAxis<C>& h_axis, const SpectralAxis<C>& w_axis, int64_t tile, int64_t channel_count)
      : h(h_axis), w(w_axis), images(tile), channels((channel_count + kLanes<C> - 1) / kLanes<C> * kLanes<C>) {
    values.resize(slots(h, w) * images * 2 * channels);
  }
  static int64_t slots(const SpectralAxis<C>& h, const SpectralAxis<C>& w) {
    const int64_t rows = h.samples.size(), columns = w.samples.size();
    return (2 * h.frequencies - 1) * w.frequencies + rows * w.frequencies + columns * h.frequencies + rows * columns;
  }
  int64_t bin(int64_t f, int64_t g) const {  // f of either sign
    return g * (2 * h.frequencies - 1) + (f >= 0 ? f : h.frequencies - 1 - f);
  }
  int64_t row(int64_t sample, int64_t g) const {
    return (2 * h.frequencies - 1) * w.frequencies + sample * w.frequencies + g;
  }
  int64_t column(int64_t sample, int64_t f) const { return row(h.samples.size(), 0) + sample * h.frequencies + f; }
  int64_t corner(int64_t row_sample, int64_t column_sample) const {
    return column(w.samples.size(), 0) + row_sample * w.samples.size() + column_sample;
  }
  const C* at(int64_t slot, int64_t image) const { return values.data() + (slot * images + image) * 2 * channels; }
  void put(int64_t slot, int64_t image, int64_t channel, Vec<C> re, Vec<C> im) {
    C* to = values.data() + (slot * images + image) * 2 * channels + channel;
    store(to, re);
    store(to + channels, im);
  }

  // Fills the slots of `image` for the channels channel..channel+lanes from x [height][width][lanes].
  // scratch: input_rows * width + input_rows * input_columns vectors.
  void fill(int64_t image, int64_t channel, const C* x, int64_t row_step, int64_t column_step, C* scratch) {
    constexpr int kL = kLanes<C>;
    const Vec<C> zero = {};
    C* pairs = scratch + h.input.rows() * w.input.inner() * kL;
    transform(h.input, w.input, x, row_step, column_step, scratch, pairs);
    const int64_t columns = w.input.rows();
    for (int64_t f = 0; f < h.frequencies; ++f) {
      const C* a = pairs + (f == 0 ? 0 : 2 * f - 1) * columns * kL;
      const C* b = a + columns * kL;
      for (int64_t g = 0; g < w.frequencies; ++g) {
        const int64_t c = g == 0 ? 0 : (2 * g - 1) * kL, s = c + kL;
        const Vec<C> ac = load(a + c), as = g == 0 ? zero : load(a + s);
        const Vec<C> bc = f == 0 ? zero : load(b + c), bs = f == 0 || g == 0 ? zero : load(b + s);
        put(bin(f, g), image, channel, ac - bs, as + bc);
        if (f > 0) put(bin(-f, g), image, channel, ac + bs, as - bc);
      }
    }
    for (size_t r = 0; r < h.samples.size(); ++r) {
      const C* line = x + h.samples[r] * row_step;
      multiply(w.input, Panel<C>{line, column_step, 0, scratch, kL, 0, 1});
      put_line(w.frequencies, scratch, image, channel, [&](int64_t g) { return row(r, g); });
      for (size_t c = 0; c < w.samples.size(); ++c) {
        put(corner(r, c), image, channel, load(line + w.samples[c] * column_step), zero);
      }
    }
    for (size_t c = 0; c < w.samples.size(); ++c) {
      multiply(h.input, Panel<C>{x + w.samples[c] * column_step, row_step, 0, scratch, kL, 0, 1});
      put_line(h.frequencies, scratch, image, channel, [&](int64_t f) { return column(c, f); });
    }
  }

 private:
  template <class Slot>
  void put_line(int64_t frequencies, const C* pairs, int64_t image, int64_t channel, Slot slot) {
    constexpr int kL = kLanes<C>;
    for (int64_t f = 0; f < frequencies; ++f) {
      const C* pair = pairs + (f == 0 ? 0 : 2 * f - 1) * kL;
      put(slot(f), image, channel, load(pair), f == 0 ? Vec<C>{} : load(pair + kL));
    }
  }
};

// w[t] * phase(f, t) summed over the taps: vectors at w + t * step (re at 0, im at `imaginary`, < 0 for none).
template <class C>
inline void phase_sum(const SpectralAxis<C>& axis, int64_t f, const C* w, int64_t step, int64_t imaginary, C* out) {
  constexpr int kL = kLanes<C>;
  const int64_t at = (f < 0 ? -f : f) * axis.kernel;
  const C sign = f < 0 ? C(-1) : C(1);
  Vec<C> re = {}, im = {};
  for (int64_t t = 0; t < axis.kernel; ++t) {
    const C phase_re = axis.phase_re[at + t], phase_im = sign * axis.phase_im[at + t];
    const Vec<C> value = load(w + t * step);
    re += phase_re * value;
    im += phase_im * value;
    if (imaginary >= 0) {
      const Vec<C> other = load(w + t * step + imaginary);
      re -= phase_im * other;
      im += phase_re * other;
    }
  }
  store(out, re);
  store(out + kL, im);
}

}  // namespace alias_ops::ALIAS_OPS_ISA
