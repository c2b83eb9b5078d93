// The aliasing of a strided convolution from its input, weight and strided output (identity 7): per kept bin
// a complex product over the input channels, a few frame terms, a difference, a modulus, a running sum.
// Neither a stride-1 map nor a whole spectrum of the layer ever exists. 1x1 layers take identity 4, in
// conv2d_alias_l1_pointwise.cpp.
#include "conv2d_alias_l1.h"

#include "complex_product.h"
#include "conv2d_spectra.h"
#include "ops.h"
#include "parallel.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

// Working sets in bytes: a tile's input spectra (shared, per thread) and a task's output spectra.
constexpr int64_t kInputBytes = 2 << 20, kOutputBytes = 768 << 10;

template <class S>
class SpectralConv2d {
  using C = Compute<S>;
  static constexpr int kL = kLanes<C>;

 public:
  SpectralConv2d(const Conv2dAliasL1Args& a, const Runtime& runtime)
      : a_(a), runtime_(runtime), h_(a.h), w_(a.w), lanes_(a) {}

  void run() {
    const int64_t image_bytes = InputSpectra<C>::slots(h_, w_) * 2 * (a_.x.channels + kL) * int64_t(sizeof(C));
    const int64_t tile = std::clamp<int64_t>(kInputBytes * runtime_.threads / image_bytes, 1, a_.x.images);
    InputSpectra<C> spectra(h_, w_, tile, a_.x.channels);
    for (int64_t first = 0; first < a_.x.images; first += tile) {
      const int64_t images = std::min(tile, a_.x.images - first);
      transform_input(spectra, first, images);
      measure(spectra, first, images);
    }
  }

 private:
  void transform_input(InputSpectra<C>& spectra, int64_t first, int64_t images) {
    const Maps& x = a_.x;
    const int64_t groups = (x.channels + kL - 1) / kL, pixels = x.height * x.width;
    parallel(runtime_, images * groups, 1, [&](int64_t begin, int64_t end) {
      std::vector<C> scratch((pixels + h_.input.rows() * (x.width + w_.input.rows())) * kL);
      C *group = scratch.data(), *rest = group + pixels * kL;
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / groups, channel = task % groups * kL;
        const int64_t count = std::min<int64_t>(kL, x.channels - channel);
        const S* from = map_at<S>(x, first + image, channel);
        if (std::is_same_v<S, C> && x.channel_stride == 1 && count == kL) {
          spectra.fill(image, channel, reinterpret_cast<const C*>(from), x.row_stride, x.column_stride, rest);
        } else {
          gather_group<S, C>(x, count, [&](int64_t i) { return from + i * x.channel_stride; }, group);
          spectra.fill(image, channel, group, x.width * kL, kL, rest);
        }
      }
    });
  }

  // Tasks: vectors of output channels times blocks of images.
  void measure(const InputSpectra<C>& spectra, int64_t first, int64_t images) {
    const int64_t pairs_bytes = h_.dft.rows() * w_.dft.rows() * kL * int64_t(sizeof(C));
    const int64_t fitting = std::max<int64_t>(1, kOutputBytes / pairs_bytes);
    const int64_t wanted = (2 * runtime_.threads + lanes_.count() - 1) / lanes_.count();
    const int64_t blocks = std::clamp<int64_t>((images + fitting - 1) / fitting, std::min(wanted, images), images);
    parallel(runtime_, lanes_.count() * blocks, 1, [&](int64_t begin, int64_t end) {
      Task task(*this, spectra, (images + blocks - 1) / blocks);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t block = i % blocks, from = images * block / blocks, to = images * (block + 1) / blocks;
        task.run(i / blocks, first, from, to - from);
      }
    });
  }

  // One vector of output channels of one convolution group (or, where groups are narrower than a vector,
  // of several) for a block of images.
  class Task {
   public:
    Task(const SpectralConv2d& owner, const InputSpectra<C>& spectra, int64_t images)
        : o_(owner),
          x_(spectra),
          cin_(owner.lanes_.inputs()),
          taps_(o_.h_.kernel * o_.w_.kernel),
          pairs_(o_.h_.dft.rows() * o_.w_.dft.rows() * kL),
          weight_(cin_ * taps_ * kL),
          partial_(cin_ * std::max(o_.h_.kernel, o_.w_.kernel) * 2 * kL),
          panel_(cin_ * 2 * kL),
          output_(images * pairs_),
          map_(o_.a_.y.height * o_.a_.y.width * kL),
          along_(o_.h_.dft.rows() * o_.a_.y.width * kL),
          product_(images * 2 * kL),
          rows_(o_.h_.lines * images * 2 * kL),
          columns_(o_.w_.lines * o_.h_.frequencies * images * 2 * kL),
          sums_(images * kL) {}

    void run(int64_t vector, int64_t first, int64_t from, int64_t images) {
      vector_ = o_.lanes_.vector(vector);
      from_ = from, images_ = images;
      gather_weight();
      for (int64_t i = 0; i < images; ++i) transform_output(first + from + i, i);
      column_lines();
      for (int64_t g = 0; g < o_.w_.frequencies; ++g) {
        for (int64_t i = 0; i < cin_ * o_.h_.kernel; ++i) {
          phase_sum(o_.w_, g, weight_.data() + i * o_.w_.kernel * kL, kL, -1, partial_.data() + i * 2 * kL);
        }
        row_lines(g);
        for (int64_t f = g == 0 ? 0 : 1 - o_.h_.frequencies; f < o_.h_.frequencies; ++f) bin(f, g);
      }
      for (int64_t i = 0; i < images; ++i) {
        C* out = static_cast<C*>(o_.a_.out) + (first + from + i) * o_.a_.outputs + vector_.output;
        store_first(out, load(sums_.data() + i * kL), vector_.count);
      }
    }

   private:
    void gather_weight() {
      const int64_t size = cin_ * taps_;
      const Maps weight{o_.a_.weight, o_.a_.x.dtype, 1, o_.a_.outputs, 1, size, 0, size, size, 1};
      const S* from = map_at<S>(weight, 0, vector_.output);
      gather_group<S, C>(weight, vector_.count, [&](int64_t i) { return from + i * size; }, weight_.data());
    }

    // Spectrum of the strided output as pairs, without its bias; the Nyquist bins are summed at once.
    void transform_output(int64_t image, int64_t slot) {
      const Maps& y = o_.a_.y;
      C* pairs = output_.data() + slot * pairs_;
      const S* from = map_at<S>(y, image, vector_.output);
      if (std::is_same_v<S, C> && y.channel_stride == 1 && vector_.count == kL) {
        transform(o_.h_.dft, o_.w_.dft, reinterpret_cast<const C*>(from), y.row_stride, y.column_stride, along_.data(),
                  pairs);
      } else {
        gather_group<S, C>(y, vector_.count, [&](int64_t i) { return from + i * y.channel_stride; }, map_.data());
        transform(o_.h_.dft, o_.w_.dft, map_.data(), y.width * kL, kL, along_.data(), pairs);
      }
      if (o_.a_.bias != nullptr) {
        const S* bias = static_cast<const S*>(o_.a_.bias) + vector_.output;
        store(pairs, load(pairs) - load_first(bias, vector_.count));
      }
      store(sums_.data() + slot * kL,
            l1_of_pairs(pairs, o_.a_.h.dft, o_.a_.w.dft, o_.h_.frequencies, o_.w_.frequencies));
    }

    void product(int64_t slot, const C* w, int64_t w_step, C* out, bool accumulate) const {
      const C* x = x_.at(slot, from_) + (vector_.spanning ? 0 : vector_.channel);
      multiply(ComplexProduct<C>{x, 2 * x_.channels, x_.channels, w, w_step, cin_, out, accumulate,
                                 vector_.spanning ? vector_.lane_channel : nullptr},
               images_);
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
            for (int64_t i = 0; i < cin_; ++i) {
              phase_sum(h, f, weight_.data() + (i * taps_ + tap) * kL, w.kernel * kL, -1, panel_.data() + i * 2 * kL);
            }
            product(x_.column(sample, f), panel_.data(), 2 * kL, column(line, f, 0), true);
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
          for (int64_t i = 0; i < cin_; ++i) {
            store(panel_.data() + i * 2 * kL, load(weight_.data() + (i * taps_ + t * w.kernel + u) * kL));
            store(panel_.data() + i * 2 * kL + kL, Vec<C>{});
          }
          product(x_.corner(row, column), panel_.data(), 2 * kL, product_.data(), any);
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
          product(x_.row(sample, g), partial_.data() + tap * 2 * kL, h.kernel * 2 * kL, row(line, 0), true);
        }
      }
    }

    void bin(int64_t f, int64_t g) {
      const auto &h = o_.h_, &w = o_.w_;
      for (int64_t i = 0; i < cin_; ++i) {
        phase_sum(h, f, partial_.data() + i * h.kernel * 2 * kL, 2 * kL, kL, panel_.data() + i * 2 * kL);
      }
      product(x_.bin(f, g), panel_.data(), 2 * kL, product_.data(), false);
      const int64_t positive = f < 0 ? -f : f;
      const C sign = f < 0 ? C(-1) : C(1);
      const C weight = g > 0 ? C(2) : C(multiplicity(f, o_.a_.h.dft.length));
      const int64_t at = ((positive == 0 ? 0 : 2 * positive - 1) * w.dft.rows() + (g == 0 ? 0 : 2 * g - 1)) * kL;
      const int64_t below = w.dft.rows() * kL;
      const Vec<C> zero = {};
      for (int64_t i = 0; i < images_; ++i) {
        const C* y = output_.data() + i * pairs_ + at;
        const Vec<C> ac = load(y), as = g == 0 ? zero : load(y + kL);
        const Vec<C> bc = f == 0 ? zero : load(y + below), bs = f == 0 || g == 0 ? zero : load(y + below + kL);
        Vec<C> re = ac - sign * bs - load(product_.data() + i * 2 * kL);
        Vec<C> im = as + sign * bc - load(product_.data() + i * 2 * kL + kL);
        for (int64_t line = 0; line < h.lines; ++line) {
          const C c_re = h.frame_re[line * h.frequencies + positive];
          const C c_im = sign * h.frame_im[line * h.frequencies + positive];
          const Vec<C> r_re = load(row(line, i)), r_im = load(row(line, i) + kL);
          re -= c_re * r_re - c_im * r_im;
          im -= c_re * r_im + c_im * r_re;
        }
        for (int64_t line = 0; line < w.lines; ++line) {
          const C c_re = w.frame_re[line * w.frequencies + g], c_im = w.frame_im[line * w.frequencies + g];
          const C* from = column(line, positive, i);
          const Vec<C> r_re = load(from), r_im = sign * load(from + kL);
          re -= c_re * r_re - c_im * r_im;
          im -= c_re * r_im + c_im * r_re;
        }
        store(sums_.data() + i * kL, load(sums_.data() + i * kL) + weight * magnitude<C>(re, im));
      }
    }

    C* row(int64_t line, int64_t image) { return rows_.data() + (line * images_ + image) * 2 * kL; }
    C* column(int64_t line, int64_t f, int64_t image) {
      return columns_.data() + ((line * o_.h_.frequencies + f) * images_ + image) * 2 * kL;
    }

    const SpectralConv2d& o_;
    const InputSpectra<C>& x_;
    const int64_t cin_, taps_, pairs_;
    std::vector<C> weight_;   // [channel][taps][lanes]
    std::vector<C> partial_;  // [channel][tap along the height][re, im][lanes]: transformed along the width
    std::vector<C> panel_;    // [channel][re, im][lanes]: the weight at one bin
    std::vector<C> output_, map_, along_, product_, rows_, columns_, sums_;
    LaneVector<C> vector_{};
    int64_t from_ = 0, images_ = 0;
  };

  const Conv2dAliasL1Args& a_;
  const Runtime& runtime_;
  const SpectralAxis<C> h_, w_;
  const OutputLanes<C> lanes_;
};

template <class S>
void run(const Conv2dAliasL1Args& a, const Runtime& runtime) {
  if (a.y.data == nullptr) {
    conv2d_alias_l1_pointwise(a, runtime);
  } else {
    SpectralConv2d<S>(a, runtime).run();
  }
}

}  // namespace

void conv2d_alias_l1(const Conv2dAliasL1Args& a, const Runtime& runtime) {
  switch (a.x.dtype) {
    case Dtype::kFloat32:
      return run<float>(a, runtime);
    case Dtype::kFloat64:
      return run<double>(a, runtime);
    case Dtype::kBFloat16:
      return run<BFloat16>(a, runtime);
    case Dtype::kFloat16:
      return run<Float16>(a, runtime);
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
