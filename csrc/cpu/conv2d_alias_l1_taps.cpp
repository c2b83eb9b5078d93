// Gradients of the aliasing of a strided convolution by identity 4, given those of the norms with respect to the
// strided output: two products of the strided layer's size on residuals of x that are made, used and turned into dx
// vector by vector of input channels. No convolution, and nothing of x's size but dx.
#include <algorithm>

#include "buffer.h"
#include "conv2d_taps.h"
#include "ops.h"
#include "parallel.h"
#include "tap_product.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

// Output pixels of a chunk: the residuals of a vector of channels, nine taps of them, then fit in the second cache.
constexpr int64_t kChunkPixels = 512;
// Bytes of the outputs' gradients that chunks wait for together, per thread.
constexpr int64_t kGradientBytes = 2 << 20;
// Inner indices of a product: three vectors of each stay in the first cache.
constexpr int64_t kInnerBlock = 128;
// Tasks that there are at least, where the batch allows: it is cut into parts, each with taps of its own to sum. Parts
// follow from the shape alone, so sums do not depend on the number of threads.
constexpr int64_t kTasks = 16;

template <class C>
class TapGradient {
  static constexpr int kL = kLanes<C>;
  static constexpr int64_t kRows = std::min<int64_t>(kTileRows, kL);

 public:
  TapGradient(const Conv2dTapGradientArgs& a, const Runtime& runtime)
      : a_(a),
        runtime_(runtime),
        residuals_(a.h, a.w),
        inputs_(a.x.channels / a.groups),
        outputs_(a.outputs / a.groups),
        input_vectors_((inputs_ + kL - 1) / kL),
        output_vectors_((outputs_ + kL - 1) / kL),
        tasks_(a.groups * input_vectors_),
        parts_(parts(a.x.images)),
        images_(chunk_images((a.x.images + parts_ - 1) / parts_)),
        tile_(std::max(images_, tile_images() / images_ * images_)),
        // An odd number of lines from row to row, so that rows do not meet in one set of a cache.
        residual_row_((images_ * residuals_.pixels() / 2 * 2 + 1) * kL),
        gradient_row_((tile_ * residuals_.pixels() / 2 * 2 + 1) * kL),
        taps_size_(output_vectors_ * kL * residuals_.taps() * kL),
        weight_(tasks_ * taps_size_),
        sums_(parts_ * tasks_ * taps_size_),
        gradient_(parts_ * a.groups * output_vectors_ * gradient_row_) {}

  void run() {
    gather_weight();
    std::fill(sums_.begin(), sums_.end(), C(0));
    const int64_t longest = (a_.x.images + parts_ - 1) / parts_;
    for (int64_t first = 0; first < longest; first += tile_) {
      gather_gradient(first);
      parallel(runtime_, parts_ * tasks_, 1, [&](int64_t begin, int64_t end) {
        Scratch scratch(*this);
        for (int64_t i = begin; i < end; ++i) {
          for (int64_t from = 0; from < tile_; from += images_) chunk(i / tasks_, i % tasks_, first, from, scratch);
        }
      });
    }
    scatter_taps();
  }

 private:
  struct Scratch {
    Buffer<C> maps, residuals;
    typename TapResiduals<C>::Scratch low;
    explicit Scratch(const TapGradient& o)
        : maps(o.a_.x.height * o.a_.x.width * kL),
          residuals(o.residuals_.taps() * o.residual_row_),
          low(o.residuals_) {}
  };
  int64_t parts(int64_t images) const {
    const int64_t chunks = (images + fitting() - 1) / fitting();
    return std::clamp<int64_t>((kTasks + tasks_ - 1) / tasks_, 1, chunks);
  }
  int64_t fitting() const { return std::max<int64_t>(1, kChunkPixels / residuals_.pixels()); }
  // Of nearly equal chunks: sums over a short last one would be short.
  int64_t chunk_images(int64_t images) const {
    const int64_t chunks = (images + fitting() - 1) / fitting();
    return (images + chunks - 1) / chunks;
  }
  int64_t tile_images() const {
    const int64_t image_bytes = parts_ * a_.groups * output_vectors_ * kL * residuals_.pixels() * int64_t(sizeof(C));
    return std::min(kGradientBytes * runtime_.threads / image_bytes, (a_.x.images + parts_ - 1) / parts_ + images_ - 1);
  }

  struct Images {
    int64_t first, count;
  };
  // Those of a part from its `from`-th on, `most` of them or what there is.
  Images images_of(int64_t part, int64_t from, int64_t most) const {
    const int64_t begin = a_.x.images * part / parts_ + from, end = a_.x.images * (part + 1) / parts_;
    return {begin, std::clamp<int64_t>(end - begin, 0, most)};
  }

  // weight_ [group, vector of inputs][output][tap][lanes]
  void gather_weight() {
    const int64_t taps = residuals_.taps(), size = inputs_ * taps;
    const Maps rows{a_.weight, a_.x.dtype, 1, a_.x.channels, 1, taps, 0, taps, taps, 1};
    parallel(runtime_, tasks_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / input_vectors_, input = task % input_vectors_ * kL;
        C* to = weight_.data() + task * taps_size_;
        for (int64_t o = 0; o < outputs_; ++o, to += taps * kL) {
          const C* from = static_cast<const C*>(a_.weight) + (group * outputs_ + o) * size + input * taps;
          gather_group<C, C>(
              rows, std::min<int64_t>(kL, inputs_ - input), [&](int64_t i) { return from + i * taps; }, to);
        }
        std::fill(to, weight_.data() + (task + 1) * taps_size_, C(0));
      }
    });
  }

  // gradient_ [part][group, vector of outputs][image, pixel][lanes], times what comes in for each map
  void gather_gradient(int64_t first) {
    const int64_t vectors = a_.groups * output_vectors_, pixels = residuals_.pixels();
    parallel(runtime_, parts_ * vectors, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Images images = images_of(i / vectors, first, tile_);
        const int64_t within = i % vectors % output_vectors_ * kL;
        const int64_t channel = i % vectors / output_vectors_ * outputs_ + within;
        const int64_t count = std::min<int64_t>(kL, outputs_ - within);
        for (int64_t k = 0; k < images.count; ++k) {
          const int64_t image = images.first + k;
          const C* from = map_at<C>(a_.y, image, channel);
          C* to = gradient_.data() + i * gradient_row_ + k * pixels * kL;
          gather_group<C, C>(a_.y, count, [&](int64_t j) { return from + j * a_.y.channel_stride; }, to);
          const Vec<C> scale = load_first(static_cast<const C*>(a_.grad) + image * a_.outputs + channel, count);
          for (int64_t p = 0; p < pixels; ++p) store(to + p * kL, scale * load(to + p * kL));
        }
      }
    });
  }

  void chunk(int64_t part, int64_t task, int64_t first, int64_t from_image, Scratch& scratch) {
    const Images images = images_of(part, first + from_image, images_);
    if (images.count == 0) return;
    const Maps& x = a_.x;
    const int64_t group = task / input_vectors_, within = task % input_vectors_ * kL;
    const int64_t channel = group * inputs_ + within, count = std::min<int64_t>(kL, inputs_ - within);
    const int64_t pixels = residuals_.pixels();
    C* residuals = scratch.residuals.data();
    for (int64_t k = 0; k < images.count; ++k) {
      const C* from = map_at<C>(x, images.first + k, channel);
      C* to = residuals + k * pixels * kL;
      if (x.channel_stride == 1 && count == kL) {
        residuals_.forward(from, x.row_stride, x.column_stride, to, residual_row_, scratch.low);
      } else {
        gather_group<C, C>(x, count, [&](int64_t i) { return from + i * x.channel_stride; }, scratch.maps.data());
        residuals_.forward(scratch.maps.data(), x.width * kL, kL, to, residual_row_, scratch.low);
      }
    }
    const C* gradient =
        gradient_.data() + (part * a_.groups + group) * output_vectors_ * gradient_row_ + from_image * pixels * kL;
    weight_gradient(gradient, residuals, images.count * pixels, sums_.data() + (part * tasks_ + task) * taps_size_);
    input_gradient(gradient, weight_.data() + task * taps_size_, images.count * pixels, residuals);
    for (int64_t k = 0; k < images.count; ++k) {
      residuals_.adjoint(residuals + k * pixels * kL, residual_row_, scratch.maps.data(), scratch.low);
      C* to = const_cast<C*>(map_at<C>(a_.dx, images.first + k, channel));
      scatter_maps(scratch.maps.data(), a_.dx, count, to);
    }
  }

  // visit(tap, count) for the taps that a tile takes side by side.
  template <class Visit>
  void each_taps(Visit visit) const {
    each_block(residuals_.taps(), kTileColumns, visit);
  }

  // sums [output][tap][lanes] += over the pixels
  void weight_gradient(const C* gradient, const C* residuals, int64_t pixels, C* sums) const {
    const int64_t taps = residuals_.taps();
    each_block(pixels, kInnerBlock, [&](int64_t pixel, int64_t count) {
      each_taps([&](int64_t tap, int64_t vectors) {
        for (int64_t v = 0; v < output_vectors_; ++v) {
          each_block(std::min<int64_t>(kL, outputs_ - v * kL), kRows, [&](int64_t row, int64_t rows) {
            product<Inner::kPixels>(TapProduct<C>{gradient + v * gradient_row_ + pixel * kL + row, 0, 1, count,
                                                  residuals + tap * residual_row_ + pixel * kL, kL, residual_row_,
                                                  sums + ((v * kL + row) * taps + tap) * kL, taps * kL, kL, true},
                                    int(rows), int(vectors));
          });
        }
      });
    });
  }

  // gradients of the residuals, written over them: [tap][pixel][lanes] = over the outputs
  void input_gradient(const C* gradient, const C* weight, int64_t pixels, C* residuals) const {
    const int64_t taps = residuals_.taps();
    each_taps([&](int64_t tap, int64_t vectors) {
      each_block(output_vectors_, kInnerBlock / kL, [&](int64_t v, int64_t blocks) {
        each_block(pixels, kTileRows, [&](int64_t pixel, int64_t rows) {
          product<Inner::kChannels>(
              TapProduct<C>{gradient + v * gradient_row_ + pixel * kL, gradient_row_, blocks, kL,
                            weight + (v * kL * taps + tap) * kL, taps * kL, kL,
                            residuals + tap * residual_row_ + pixel * kL, kL, residual_row_, v > 0},
              int(rows), int(vectors));
        });
      });
    });
  }

  void scatter_taps() {
    const int64_t taps = residuals_.taps(), size = inputs_ * taps;
    const Maps rows{a_.dweight, a_.x.dtype, 1, a_.x.channels, 1, taps, 0, taps, taps, 1};
    parallel(runtime_, tasks_, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t group = task / input_vectors_, input = task % input_vectors_ * kL;
        C* sum = sums_.data() + task * taps_size_;
        for (int64_t part = 1; part < parts_; ++part) {
          const C* other = sum + part * tasks_ * taps_size_;
          for (int64_t i = 0; i < taps_size_; i += kL) store(sum + i, load(sum + i) + load(other + i));
        }
        C* to = static_cast<C*>(a_.dweight) + group * outputs_ * size + input * taps;
        for (int64_t o = 0; o < outputs_; ++o, to += size) {
          scatter_maps(sum + o * taps * kL, rows, std::min<int64_t>(kL, inputs_ - input), to);
        }
      }
    });
  }

  const Conv2dTapGradientArgs& a_;
  const Runtime& runtime_;
  const TapResiduals<C> residuals_;
  const int64_t inputs_, outputs_, input_vectors_, output_vectors_, tasks_, parts_, images_, tile_, residual_row_,
      gradient_row_, taps_size_;
  Buffer<C> weight_, sums_, gradient_;
};

}  // namespace

void conv2d_alias_l1_tap_gradient(const Conv2dTapGradientArgs& a, const Runtime& runtime) {
  if (a.x.dtype == Dtype::kFloat64) return TapGradient<double>(a, runtime).run();
  TapGradient<float>(a, runtime).run();
}

}  // namespace alias_ops::ALIAS_OPS_ISA
