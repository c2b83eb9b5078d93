// Identity 7: D, the spectrum of the strided output less the kept band of the stride-1 map, bin by bin. Per kept bin
// a complex product over the input channels, a few frame terms, a difference; then |D| is summed, and where gradients
// are wanted D / |D| goes back to the samples of the strided output. Neither a stride-1 map nor a whole spectrum of the
// layer ever exists.
#pragma once

#include <algorithm>

#include "buffer.h"
#include "conv2d_alias_l1.h"
#include "conv2d_spectra.h"
#include "conv2d_weight.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Bytes of a tile's input spectra, per thread.
inline constexpr int64_t kInputBytes = 2 << 20;

// kGradient: with the gradient of every norm with respect to the strided output.
template <class S, bool kGradient>
class ConvResidual {
  using C = Compute<S>;
  static constexpr int kL = kLanes<C>;

 public:
  ConvResidual(const Conv2dAliasL1Args& a, const Runtime& runtime)
      : a_(a), runtime_(runtime), h_(a.h), w_(a.w), lanes_(a) {
    if constexpr (kGradient) back_h_ = pack_dft_adjoint<C>(a.h.dft), back_w_ = pack_dft_adjoint<C>(a.w.dft);
  }

  void run() {
    const int64_t image_bytes = InputSpectra<C>::image_bytes(h_, w_, a_.x.channels);
    const int64_t tile = std::clamp<int64_t>(kInputBytes * runtime_.threads / image_bytes, 1, a_.x.images);
    InputSpectra<C> spectra(h_, w_, tile, a_.x.channels);
    for (int64_t first = 0; first < a_.x.images; first += tile) {
      const int64_t images = std::min(tile, a_.x.images - first);
      spectra.template fill<S>(a_.x, first, images, runtime_);
      measure(spectra, first, images);
    }
  }

 private:
  // Tasks: vectors of output channels times blocks of images.
  void measure(const InputSpectra<C>& spectra, int64_t first, int64_t images) {
    const int64_t pairs_bytes = h_.dft.rows() * w_.dft.rows() * kL * int64_t(sizeof(C));
    const int64_t blocks = image_blocks(images, pairs_bytes, lanes_.count(), runtime_.threads);
    parallel(runtime_, lanes_.count() * blocks, 1, [&](Pieces& pieces) {
      Task task(*this, spectra, (images + blocks - 1) / blocks);
      for (int64_t i = pieces.next(); i >= 0; i = pieces.next()) {
        const int64_t block = i % blocks, from = images * block / blocks, to = images * (block + 1) / blocks;
        task.run(i / blocks, first, from, to - from);
      }
    });
  }

  // One vector of output channels of one convolution group (or, where groups are narrower than a vector,
  // of several) for a block of images.
  class Task {
   public:
    Task(const ConvResidual& owner, const InputSpectra<C>& spectra, int64_t images)
        : o_(owner),
          x_(spectra),
          weight_(o_.h_, o_.w_, o_.lanes_.inputs()),
          pairs_(o_.h_.dft.rows() * o_.w_.dft.rows() * kL),
          output_(images * pairs_),
          map_(o_.a_.y.height * o_.a_.y.width * kL),
          along_(std::max(o_.h_.dft.rows() * o_.a_.y.width, o_.a_.y.height * o_.w_.dft.rows()) * kL),
          product_(images * 4 * kL),
          rows_(o_.h_.lines * images * 2 * kL),
          columns_(o_.w_.lines * o_.h_.frequencies * images * 2 * kL),
          sums_(images * kL) {}

    void run(int64_t vector, int64_t first, int64_t from, int64_t images) {
      vector_ = o_.lanes_.vector(vector);
      from_ = from, images_ = images;
      gather_output_weight<S>(o_.a_, vector_, weight_.taps());
      for (int64_t i = 0; i < images; ++i) {
        const int64_t image = first + from + i;
        const bool more = i + 1 < images;
        read_ahead(ahead_, o_.a_.y, map_at<S>(o_.a_.y, image + more, vector_.output), more ? vector_.count : 0);
        transform_output(image, i);
      }
      column_lines();
      for (int64_t g = 0; g < o_.w_.frequencies; ++g) {
        weight_.along_width(g);
        row_lines(g);
        for (int64_t f = 0; f < o_.h_.frequencies; ++f) bins(f, g);
      }
      for (int64_t i = 0; i < images; ++i) finish(first + from + i, i);
    }

   private:
    static constexpr Vec<C> kOne = Vec<C>{} + C(1);

    // Spectrum of the strided output as pairs, without its bias; the Nyquist bins are done with at once.
    void transform_output(int64_t image, int64_t slot) {
      const Maps& y = o_.a_.y;
      C *pairs = output_.data() + slot * pairs_, *sums = sums_.data() + slot * kL;
      const S* from = map_at<S>(y, image, vector_.output);
      const LaneMaps<C> maps = in_lanes(y, from, vector_.count, map_.data());
      transform(o_.h_.dft, o_.w_.dft, maps.data, maps.row, maps.column, along_.data(), pairs, &ahead_);
      if (o_.a_.bias != nullptr) {
        const S* bias = static_cast<const S*>(o_.a_.bias) + vector_.output;
        store(pairs, load(pairs) - load_first(bias, vector_.count));
      }
      const auto &h = o_.a_.h.dft, &w = o_.a_.w.dft;
      store(sums, l1_of_pairs(pairs, h, w, o_.h_.frequencies, o_.w_.frequencies));
      if constexpr (kGradient) l1_of_pairs_adjoint(pairs, h, w, kOne, o_.h_.frequencies, o_.w_.frequencies);
    }

    void finish(int64_t image, int64_t slot) {
      C* out = static_cast<C*>(o_.a_.out) + image * o_.a_.outputs + vector_.output;
      store_first(out, load(sums_.data() + slot * kL), vector_.count);
      if constexpr (kGradient) {
        const Maps& to = o_.a_.d_output;
        const int64_t columns = o_.w_.dft.rows() * kL;
        const C* maps = map_at<C>(to, image, vector_.output);
        write_ahead(ahead_, to, maps, vector_.count);
        transform(o_.back_h_, o_.back_w_, output_.data() + slot * pairs_, columns, kL, along_.data(), map_.data(),
                  &ahead_);
        scatter_maps(map_.data(), to, vector_.count, const_cast<C*>(maps));
      }
    }

    void product(int64_t slot, C* out, bool accumulate, int which = 0, bool real = false) const {
      weight_.product(x_, slot, from_, images_, vector_, out, accumulate, which, real);
    }

    // Spectra along the height of the columns by which the full correlation differs from what is kept, each
    // with the corners that it shares with such rows.
    void column_lines() {
      const auto &h = o_.h_, &w = o_.w_;
      std::fill(columns_.begin(), columns_.end(), C(0));
      for (int64_t line = 0; line < w.lines; ++line) {
        for (int64_t tap = 0; tap < w.kernel; ++tap) {
          const int64_t sample = w.source[line * w.kernel + tap];
          if (sample < 0) continue;
          for (int64_t f = 0; f < h.frequencies; ++f) {
            weight_.column(tap, f);
            product(x_.column(sample, f), column(line, f, 0), true, 0, f == 0);
          }
        }
        for (int64_t other = 0; other < h.lines; ++other) corners(line, other);
      }
    }

    void corners(int64_t line, int64_t other) {
      const auto &h = o_.h_, &w = o_.w_;
      bool any = false;
      for (int64_t t = 0; t < h.kernel; ++t) {
        for (int64_t u = 0; u < w.kernel; ++u) {
          const int64_t row = h.source[other * h.kernel + t], column = w.source[line * w.kernel + u];
          if (row < 0 || column < 0) continue;
          weight_.corner(t, u);
          product(x_.corner(row, column), product_.data(), any, 0, true);
          any = true;
        }
      }
      if (!any) return;
      for (int64_t f = 0; f < h.frequencies; ++f) {
        const C re = h.frame_re[other * h.frequencies + f], im = h.frame_im[other * h.frequencies + f];
        for (int64_t i = 0; i < images_; ++i) {
          const Vec<C> value = load(product_.data() + i * 2 * kL);
          C* to = column(line, f, i);
          store(to, load(to) + re * value);
          store(to + kL, load(to + kL) + im * value);
        }
      }
    }

    // Spectra along the width of the rows by which it differs, at frequency g.
    void row_lines(int64_t g) {
      const auto& h = o_.h_;
      std::fill(rows_.begin(), rows_.end(), C(0));
      for (int64_t line = 0; line < h.lines; ++line) {
        for (int64_t tap = 0; tap < h.kernel; ++tap) {
          const int64_t sample = h.source[line * h.kernel + tap];
          if (sample < 0) continue;
          weight_.row_product(x_, x_.row(sample, g), from_, images_, vector_, row(line, 0), tap, g == 0);
        }
      }
    }

    // D at (+f, g) and (-f, g).
    void bins(int64_t f, int64_t g) {
      const bool both = f > 0 && g > 0;
      weight_.bins(f, both);
      C *plus = product_.data(), *minus = plus + images_ * 2 * kL;
      product(x_.bin(f, g), plus, false, 0, f == 0 && g == 0);
      if (both) product(x_.bin(-f, g), minus, false, 1);
      const C weight = f == 0 && g == 0 ? C(1) : C(2);
      for (int64_t i = 0; i < images_; ++i) {
        C* pairs = output_.data() + i * pairs_;
        BinPair<C> d = load_bins<C>(pairs, o_.w_.dft.rows(), f, g);
        subtract(d.plus, plus + i * 2 * kL, f, g, C(1), i);
        if (both) subtract(d.minus, minus + i * 2 * kL, f, g, C(-1), i);
        C* sums = sums_.data() + i * kL;
        Vec<C> length = magnitude(d.plus);
        if (both) length += magnitude(d.minus);
        store(sums, load(sums) + weight * length);
        if constexpr (kGradient) {
          store_bins_adjoint(pairs, o_.w_.dft.rows(), f, g, directions(d, both, weight * kOne));
        }
      }
    }

    // Takes the product and the frame's terms at (sign f, g) off d.
    void subtract(Bin<C>& d, const C* product, int64_t f, int64_t g, C sign, int64_t image) {
      const auto &h = o_.h_, &w = o_.w_;
      d.re -= load(product), d.im -= load(product + kL);
      for (int64_t line = 0; line < h.lines; ++line) {
        const C c_re = h.frame_re[line * h.frequencies + f], c_im = sign * h.frame_im[line * h.frequencies + f];
        const Vec<C> r_re = load(row(line, image)), r_im = load(row(line, image) + kL);
        d.re -= c_re * r_re - c_im * r_im;
        d.im -= c_re * r_im + c_im * r_re;
      }
      for (int64_t line = 0; line < w.lines; ++line) {
        const C c_re = w.frame_re[line * w.frequencies + g], c_im = w.frame_im[line * w.frequencies + g];
        const C* from = column(line, f, image);
        const Vec<C> r_re = load(from), r_im = sign * load(from + kL);
        d.re -= c_re * r_re - c_im * r_im;
        d.im -= c_re * r_im + c_im * r_re;
      }
    }

    C* row(int64_t line, int64_t image) { return rows_.data() + (line * images_ + image) * 2 * kL; }
    C* column(int64_t line, int64_t f, int64_t image) {
      return columns_.data() + ((line * o_.h_.frequencies + f) * images_ + image) * 2 * kL;
    }

    const ConvResidual& o_;
    const InputSpectra<C>& x_;
    LaneWeight<C> weight_;
    const int64_t pairs_;
    Buffer<C> output_, map_, along_, product_, rows_, columns_;
    Buffer<C> sums_;  // of |D|
    Ahead ahead_{false};
    LaneVector<C> vector_{};
    int64_t from_ = 0, images_ = 0;
  };

  const Conv2dAliasL1Args& a_;
  const Runtime& runtime_;
  const SpectralAxis<C> h_, w_;
  const OutputLanes<C> lanes_;
  DftAxis<C> back_h_, back_w_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
