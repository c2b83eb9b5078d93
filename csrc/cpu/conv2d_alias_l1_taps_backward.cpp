// Gradients of the aliasing of a strided convolution by identity 4, given those of the norms with respect to the
// strided output: two products of the strided layer's size on residuals of x that are made, used and turned into dx
// vector by vector of input channels. No convolution, and nothing of x's size but dx.
#include <algorithm>
#include <optional>

#include "buffer.h"
#include "conv2d_taps.h"
#include "ops.h"
#include "parallel.h"
#include "tap_product.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

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
        input_vectors_(ceiling(inputs_, kL)),
        output_vectors_(ceiling(outputs_, kL)),
        tasks_(a.groups * input_vectors_),
        parts_(std::clamp<int64_t>(ceiling(kTasks, tasks_), 1, a.x.images)),
        images_(residuals_.images_together(ceiling(a.x.images, parts_))),
        rows_(residuals_.rows_together()),
        row_(residuals_.row_size(images_ * rows_ * residuals_.width())),
        taps_size_(output_vectors_ * kL * residuals_.taps() * kL),
        sums_(parts_ * tasks_ * taps_size_) {}

  void run() {
    parallel(runtime_, parts_ * tasks_, 1, [&](Pieces& pieces) {
      Task task(*this);
      for (int64_t i = pieces.next(); i >= 0; i = pieces.next()) task.run(i / tasks_, i % tasks_);
    });
    scatter_taps();
  }

 private:
  // A vector of input channels of one convolution group, and a part of the batch.
  class Task {
   public:
    explicit Task(const TapGradient& owner)
        : o_(owner),
          residuals_(o_.residuals_.taps() * o_.row_),
          gradient_(o_.output_vectors_ * o_.row_),
          weight_(o_.taps_size_),
          maps_(map_size()),
          low_(o_.residuals_),
          work_(o_.residuals_) {
      // Rows of an image by turns: what its residuals are made of and what they come to are needed side by side.
      if (o_.rows_ < o_.residuals_.height()) dx_ = Buffer<C>(map_size()), sums_.emplace(o_.residuals_);
    }

    void run(int64_t part, int64_t task) {
      const int64_t within = task % o_.input_vectors_ * kL;
      group_ = task / o_.input_vectors_;
      channel_ = group_ * o_.inputs_ + within, count_ = std::min<int64_t>(kL, o_.inputs_ - within);
      taps_ = const_cast<C*>(o_.sums_.data()) + (part * o_.tasks_ + task) * o_.taps_size_;
      std::fill_n(taps_, o_.taps_size_, C(0));
      gather_weight(within);
      const int64_t images = o_.a_.x.images, last = images * (part + 1) / o_.parts_;
      for (int64_t first = images * part / o_.parts_; first < last; first += o_.images_) {
        first_ = first, images_ = std::min(o_.images_, last - first);
        for (int64_t row = 0; row < o_.residuals_.height(); row += o_.rows_) rows(row);
      }
    }

   private:
    int64_t map_size() const { return o_.a_.x.height * o_.a_.x.width * kL; }
    int64_t width() const { return o_.residuals_.width(); }
    Buffer<C>& dx() { return sums_ ? dx_ : maps_; }
    typename TapResiduals<C>::Low& sums() { return sums_ ? *sums_ : low_; }

    // weight_ [output][tap][lanes], zero beyond the outputs
    void gather_weight(int64_t input) {
      const int64_t taps = o_.residuals_.taps(), size = o_.inputs_ * taps;
      const Maps rows{o_.a_.weight, o_.a_.x.dtype, 1, o_.inputs_, 1, taps, 0, taps, taps, 1};
      C* to = weight_.data();
      for (int64_t o = 0; o < o_.outputs_; ++o, to += taps * kL) {
        const C* from = static_cast<const C*>(o_.a_.weight) + (group_ * o_.outputs_ + o) * size + input * taps;
        gather_group<C, C>(rows, count_, [&](int64_t i) { return from + i * taps; }, to);
      }
      std::fill(to, weight_.end(), C(0));
    }

    void rows(int64_t row) {
      const int64_t last = std::min(row + o_.rows_, o_.residuals_.height()), pixels = (last - row) * width();
      for (int64_t i = 0; i < images_; ++i) {
        gather_gradient(i, row, last);
        make_residuals(i, row, last);
      }
      weight_gradient(images_ * pixels);
      input_gradient(images_ * pixels);
      for (int64_t i = 0; i < images_; ++i) {
        if (row == 0) o_.residuals_.clear(dx().data(), sums());
        o_.residuals_.collect(residuals_.data() + i * pixels * kL, o_.row_, row, last, dx().data(), sums());
        if (last < o_.residuals_.height()) continue;
        o_.residuals_.finish(dx().data(), sums(), work_);
        scatter_maps(dx().data(), o_.a_.dx, count_, const_cast<C*>(map_at<C>(o_.a_.dx, first_ + i, channel_)));
      }
    }

    // gradient_ [vector of outputs][image, pixel][lanes], times what comes in for each map
    void gather_gradient(int64_t i, int64_t row, int64_t last) {
      const int64_t pixels = (last - row) * width();
      Maps y = o_.a_.y;
      y.height = last - row;
      for (int64_t v = 0; v < o_.output_vectors_; ++v) {
        const int64_t channel = group_ * o_.outputs_ + v * kL, count = std::min<int64_t>(kL, o_.outputs_ - v * kL);
        const C* from = map_at<C>(y, first_ + i, channel) + row * y.row_stride;
        C* to = gradient_.data() + v * o_.row_ + i * pixels * kL;
        gather_group<C, C>(y, count, [&](int64_t j) { return from + j * y.channel_stride; }, to);
        const C* incoming = static_cast<const C*>(o_.a_.grad) + (first_ + i) * o_.a_.outputs + channel;
        const Vec<C> scale = load_first(incoming, count);
        for (int64_t p = 0; p < pixels; ++p) store(to + p * kL, scale * load(to + p * kL));
      }
    }

    void make_residuals(int64_t i, int64_t row, int64_t last) {
      C* to = residuals_.data() + i * (last - row) * width() * kL;
      o_.residuals_.template make<C>(o_.a_.x, first_ + i, channel_, count_, row, last, maps_.data(), low_, work_, to,
                                     o_.row_);
    }

    // visit(tap, count) for the taps that a tile takes side by side.
    template <class Visit>
    void each_taps(Visit visit) const {
      each_block(o_.residuals_.taps(), kTileColumns, visit);
    }

    // taps_ [output][tap][lanes] += over the pixels
    void weight_gradient(int64_t pixels) {
      const int64_t taps = o_.residuals_.taps(), row = o_.row_;
      each_block(pixels, kInnerBlock, [&](int64_t pixel, int64_t count) {
        each_taps([&](int64_t tap, int64_t vectors) {
          for (int64_t v = 0; v < o_.output_vectors_; ++v) {
            each_block(std::min<int64_t>(kL, o_.outputs_ - v * kL), kRows, [&](int64_t lane, int64_t lanes) {
              const C *gradient = gradient_.data() + v * row + pixel * kL + lane,
                      *residuals = residuals_.data() + tap * row + pixel * kL;
              C* to = taps_ + ((v * kL + lane) * taps + tap) * kL;
              product<Inner::kPixels>(TapProduct<C>{gradient, 0, 1, count, residuals, kL, row, to, taps * kL, kL, true},
                                      int(lanes), int(vectors));
            });
          }
        });
      });
    }

    // The residuals' gradients, written over them: [tap][pixel][lanes] = over the outputs
    void input_gradient(int64_t pixels) {
      const int64_t taps = o_.residuals_.taps(), row = o_.row_;
      each_taps([&](int64_t tap, int64_t vectors) {
        each_block(o_.output_vectors_, kInnerBlock / kL, [&](int64_t v, int64_t blocks) {
          each_block(pixels, kTileRows, [&](int64_t pixel, int64_t count) {
            const C *gradient = gradient_.data() + v * row + pixel * kL,
                    *weight = weight_.data() + (v * kL * taps + tap) * kL;
            C* to = residuals_.data() + tap * row + pixel * kL;
            product<Inner::kChannels>(
                TapProduct<C>{gradient, row, blocks, kL, weight, taps * kL, kL, to, kL, row, v > 0}, int(count),
                int(vectors));
          });
        });
      });
    }

    const TapGradient& o_;
    Buffer<C> residuals_;  // [tap][image, pixel][lanes]
    Buffer<C> gradient_, weight_, maps_, dx_;
    typename TapResiduals<C>::Low low_;
    typename TapResiduals<C>::Work work_;
    std::optional<typename TapResiduals<C>::Low> sums_;
    C* taps_ = nullptr;
    int64_t group_ = 0, channel_ = 0, count_ = 0, first_ = 0, images_ = 0;
  };

  void scatter_taps() {
    const int64_t taps = residuals_.taps(), size = inputs_ * taps;
    const Maps rows{a_.dweight, a_.x.dtype, 1, inputs_, 1, taps, 0, taps, taps, 1};
    parallel(runtime_, tasks_, 1, [&](Pieces& pieces) {
      for (int64_t task = pieces.next(); task >= 0; task = pieces.next()) {
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
  const int64_t inputs_, outputs_, input_vectors_, output_vectors_, tasks_, parts_, images_, rows_, row_, taps_size_;
  Buffer<C> sums_;  // [part][group, vector of inputs][output][tap][lanes]
};

}  // namespace

void conv2d_alias_l1_tap_gradient(const Conv2dTapGradientArgs& a, const Runtime& runtime) {
  if (a.x.dtype == Dtype::kFloat64) return TapGradient<double>(a, runtime).run();
  TapGradient<float>(a, runtime).run();
}

}  // namespace alias_ops::ALIAS_OPS_ISA
