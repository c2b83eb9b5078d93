// Identity 7 in the frequency domain: its axes, and batch tiles by their low band with the lines the frame needs.
#pragma once

#include <algorithm>
#include <vector>

#include "buffer.h"
#include "parallel.h"
#include "spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {

// One axis of identity 7 in the kernel's type; signed frequencies are asked for with their sign.
template <class C>
struct SpectralAxis {
  int64_t frequencies, kernel, lines;
  DftAxis<C> input, dft;
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

// A batch tile in the frequency domain: slot -> [image][re, im][channels], slots being the kept bins, lines along the
// width and along the height that stand for themselves, and where these cross.
template <class C>
struct Spectra {
  int64_t frequencies_h, frequencies_w, rows, columns;
  int64_t images, channels;  // channels padded to whole vectors
  Buffer<C> values;

  Spectra(const SpectralAxis<C>& h, const SpectralAxis<C>& w, int64_t row_count, int64_t column_count, int64_t tile,
          int64_t channel_count)
      : frequencies_h(h.frequencies),
        frequencies_w(w.frequencies),
        rows(row_count),
        columns(column_count),
        images(tile),
        channels(padded(channel_count)) {
    const int64_t size = slots(h, w, rows, columns) * images * 2 * channels;
    // A vector that starts at the last channel may be loaded whole.
    values = Buffer<C>(size + kLanes<C>);
    std::fill_n(values.data() + size, kLanes<C>, C(0));
  }
  static int64_t padded(int64_t channel_count) { return (channel_count + kLanes<C> - 1) / kLanes<C> * kLanes<C>; }
  static int64_t slots(const SpectralAxis<C>& h, const SpectralAxis<C>& w, int64_t rows, int64_t columns) {
    return (2 * h.frequencies - 1 + rows) * w.frequencies + columns * (h.frequencies + rows);
  }
  static int64_t image_bytes(const SpectralAxis<C>& h, const SpectralAxis<C>& w, int64_t rows, int64_t columns,
                             int64_t channel_count) {
    return slots(h, w, rows, columns) * 2 * padded(channel_count) * int64_t(sizeof(C));
  }
  int64_t bin(int64_t f, int64_t g) const {  // f of either sign
    return g * (2 * frequencies_h - 1) + (f >= 0 ? f : frequencies_h - 1 - f);
  }
  int64_t row(int64_t line, int64_t g) const {
    return (2 * frequencies_h - 1) * frequencies_w + line * frequencies_w + g;
  }
  int64_t column(int64_t line, int64_t f) const { return row(rows, 0) + line * frequencies_h + f; }
  int64_t corner(int64_t row_line, int64_t column_line) const {
    return column(columns, 0) + row_line * columns + column_line;
  }
  const C* at(int64_t slot, int64_t image) const { return values.data() + (slot * images + image) * 2 * channels; }
  C* at(int64_t slot, int64_t image) { return values.data() + (slot * images + image) * 2 * channels; }
  void put(int64_t slot, int64_t image, int64_t channel, Vec<C> re, Vec<C> im) {
    C* to = at(slot, image) + channel;
    store(to, re);
    store(to + channels, im);
  }
  Bin<C> get(int64_t slot, int64_t image, int64_t channel) const {
    const C* from = at(slot, image) + channel;
    return {load(from), load(from + channels)};
  }
  void put_bins(const C* pairs, int64_t pair_columns, int64_t image, int64_t channel) {
    for (int64_t f = 0; f < frequencies_h; ++f) {
      for (int64_t g = 0; g < frequencies_w; ++g) {
        const BinPair<C> bins = load_bins(pairs, pair_columns, f, g);
        put(bin(f, g), image, channel, bins.plus.re, bins.plus.im);
        if (f > 0) put(bin(-f, g), image, channel, bins.minus.re, bins.minus.im);
      }
    }
  }
};

// Calls fill(image of the tile, channel, x [height][width][lanes], its steps, scratch of `scratch_size`, what to ask
// for meanwhile) for every vector of channels of a batch tile.
template <class S, class C, class Fill>
inline void each_group(const Maps& x, int64_t first, int64_t images, int64_t scratch_size, const Runtime& runtime,
                       const Fill& fill) {
  const int64_t size = x.height * x.width * kLanes<C>;
  Maps tile = x;
  tile.data = map_at<S>(x, first, 0), tile.images = images;
  const MapGroups<C> groups(tile, false);
  parallel(runtime, groups.count(), 1, [&](Pieces& pieces) {
    Buffer<C> scratch(size + scratch_size);
    Ahead ahead(false);
    for (int64_t group = pieces.next(); group >= 0; group = pieces.next()) {
      read_ahead(ahead, tile, groups.template at<S>(tile, group + 1), groups.maps(group + 1));
      const LaneMaps<C> maps = in_lanes(tile, groups.template at<S>(tile, group), groups.maps(group), scratch.data());
      fill(groups.list(group), groups.first(group), maps.data, maps.row, maps.column, scratch.data() + size, &ahead);
    }
  });
}

// x by its kept bins, and the rows and columns of it that the frame meets.
template <class C>
class InputSpectra : public Spectra<C> {
  static constexpr int kL = kLanes<C>;

 public:
  InputSpectra(const SpectralAxis<C>& h, const SpectralAxis<C>& w, int64_t tile, int64_t channels)
      : Spectra<C>(h, w, h.samples.size(), w.samples.size(), tile, channels), h_(h), w_(w) {}
  static int64_t image_bytes(const SpectralAxis<C>& h, const SpectralAxis<C>& w, int64_t channels) {
    return Spectra<C>::image_bytes(h, w, h.samples.size(), w.samples.size(), channels);
  }

  template <class S>
  void fill(const Maps& x, int64_t first, int64_t count, const Runtime& runtime) {
    const int64_t scratch = h_.input.rows() * (x.width + w_.input.rows()) * kL;
    each_group<S, C>(x, first, count, scratch, runtime, [&](auto... group) { fill_group(group...); });
  }

 private:
  void fill_group(int64_t image, int64_t channel, const C* x, int64_t row_step, int64_t column_step, C* scratch,
                  Ahead* ahead) {
    C* pairs = scratch + h_.input.rows() * w_.input.inner() * kL;
    transform(h_.input, w_.input, x, row_step, column_step, scratch, pairs, ahead);
    this->put_bins(pairs, w_.input.rows(), image, channel);
    for (size_t r = 0; r < h_.samples.size(); ++r) {
      const C* line = x + h_.samples[r] * row_step;
      multiply(w_.input, Panel<C>{line, column_step, 0, scratch, kL, 0, 1});
      put_line(w_.frequencies, scratch, image, channel, [&](int64_t g) { return this->row(r, g); });
      for (size_t c = 0; c < w_.samples.size(); ++c) {
        this->put(this->corner(r, c), image, channel, load(line + w_.samples[c] * column_step), Vec<C>{});
      }
    }
    for (size_t c = 0; c < w_.samples.size(); ++c) {
      multiply(h_.input, Panel<C>{x + w_.samples[c] * column_step, row_step, 0, scratch, kL, 0, 1});
      put_line(h_.frequencies, scratch, image, channel, [&](int64_t f) { return this->column(c, f); });
    }
  }

  template <class Slot>
  void put_line(int64_t frequencies, const C* pairs, int64_t image, int64_t channel, Slot slot) {
    for (int64_t f = 0; f < frequencies; ++f) {
      const C* pair = pairs + 2 * f * kL;
      this->put(slot(f), image, channel, load(pair), f == 0 ? Vec<C>{} : load(pair - kL));
    }
  }

  const SpectralAxis<C>&h_, &w_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
