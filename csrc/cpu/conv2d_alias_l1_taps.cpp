// Identity 4 for layers of several taps, where their output is not at hand: r, the sum over the taps of w_tap times the
// residual of x there, in one product of the strided layer's size, then the small DFT. No strided output, either.
#include <algorithm>

#include "buffer.h"
#include "conv2d_alias_l1.h"
#include "conv2d_taps.h"
#include "ops.h"
#include "parallel.h"
#include "spectra.h"
#include "tap_product.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

// Bytes of r that a task keeps.
constexpr int64_t kMapBytes = 2 << 20;

template <class S, bool kGradient>
class TapMeasure {
  using C = Compute<S>;
  static constexpr int kL = kLanes<C>;

 public:
  TapMeasure(const Conv2dAliasL1Args& a, const Runtime& runtime)
      : a_(a),
        runtime_(runtime),
        residuals_(a.taps_h, a.taps_w),
        dft_h_(pack_dft<C>(a.h.dft)),
        dft_w_(pack_dft<C>(a.w.dft)),
        inputs_(a.x.channels / a.groups),
        outputs_(a.outputs / a.groups),
        input_vectors_(ceiling(inputs_, kL)),
        output_vectors_(ceiling(outputs_, kL)),
        pixels_(residuals_.height() * residuals_.width()),
        images_(residuals_.images_together(a.x.images, kTapPixels)),
        rows_(residuals_.rows_together(kTapPixels)),
        residual_row_(residuals_.row_size(images_ * rows_ * residuals_.width())),
        map_row_(residuals_.row_size(images_ * pixels_)),
        weight_size_(residuals_.taps() * kL * output_vectors_ * kL),
        weight_(a.groups * input_vectors_ * weight_size_) {
    if constexpr (kGradient) back_h_ = pack_dft_adjoint<C>(a.h.dft), back_w_ = pack_dft_adjoint<C>(a.w.dft);
    const int64_t chunks = ceiling(a.x.images, images_) * a.groups, panels = ceiling(output_vectors_, kTileColumns);
    const int64_t fitting = ceiling(output_vectors_ * map_row_ * int64_t(sizeof(C)), kMapBytes);
    blocks_ = std::min(panels, std::max(fitting, ceiling(2 * runtime.threads, chunks)));
  }

  // Tasks: a few images, a convolution group, and a block of its output channels.
  void run() {
    gather_weight();
    const int64_t chunks = ceiling(a_.x.images, images_), tasks = chunks * a_.groups * blocks_;
    parallel(runtime_, tasks, 1, [&](Pieces& pieces) {
      Task task(*this);
      for (int64_t i = pieces.next(); i >= 0; i = pieces.next()) {
        const int64_t chunk = i / blocks_ / a_.groups;
        task.run(a_.x.images * chunk / chunks, a_.x.images * (chunk + 1) / chunks, i / blocks_ % a_.groups,
                 i % blocks_);
      }
    });
  }

 private:
  // visit(first vector of outputs, how many) for those that a tile takes side by side.
  template <class Visit>
  void each_panel(Visit visit) const {
    each_block(output_vectors_, kTileColumns, visit);
  }

  // weight_ [group, vector of inputs][panel of outputs][tap][input][vector of the panel][lanes], zero beyond the
  // channels
  void gather_weight() {
    const int64_t taps = residuals_.taps(), size = inputs_ * taps;
    const Maps rows{a_.weight, a_.x.dtype, 1, a_.outputs, 1, size, 0, size, size, 1};
    std::fill(weight_.begin(), weight_.end(), C(0));
    parallel(runtime_, a_.groups * output_vectors_, 1, [&](Pieces& pieces) {
      Buffer<C> lanes(size * kL);
      for (int64_t task = pieces.next(); task >= 0; task = pieces.next()) {
        const int64_t group = task / output_vectors_, vector = task % output_vectors_;
        const S* from = map_at<S>(rows, 0, group * outputs_ + vector * kL);
        const auto first = [&](int64_t i) { return from + i * size; };
        gather_group<S, C>(rows, std::min<int64_t>(kL, outputs_ - vector * kL), first, lanes.data());
        each_panel([&](int64_t panel, int64_t vectors) {
          if (vector < panel || vector >= panel + vectors) return;
          for (int64_t i = 0; i < size; ++i) {
            const int64_t input = i / taps, tap = i % taps;
            C* to = weight_.data() + (group * input_vectors_ + input / kL) * weight_size_ + panel * taps * kL * kL;
            store(to + ((tap * kL + input % kL) * vectors + vector - panel) * kL, load(lanes.data() + i * kL));
          }
        });
      }
    });
  }

  class Task {
   public:
    explicit Task(const TapMeasure& owner)
        : o_(owner),
          residuals_(o_.residuals_.taps() * o_.residual_row_),
          map_(std::max(o_.a_.x.height * o_.a_.x.width, o_.pixels_) * kL),
          r_(ceiling(ceiling(o_.output_vectors_, kTileColumns), o_.blocks_) * kTileColumns * o_.map_row_),
          along_(std::max(o_.dft_h_.rows() * width(), height() * o_.dft_w_.rows()) * kL),
          pairs_(o_.dft_h_.rows() * o_.dft_w_.rows() * kL),
          low_(o_.residuals_),
          work_(o_.residuals_) {}

    void run(int64_t first, int64_t last, int64_t group, int64_t block) {
      first_ = first, images_ = last - first, group_ = group;
      const int64_t panels = ceiling(o_.output_vectors_, kTileColumns);
      const int64_t from = panels * block / o_.blocks_, to = panels * (block + 1) / o_.blocks_;
      from_ = o_.output_vectors_ * from / panels, to_ = o_.output_vectors_ * to / panels;
      for (int64_t v = 0; v < o_.input_vectors_; ++v) {
        for (int64_t row = 0; row < height(); row += o_.rows_) {
          const int64_t end = std::min(row + o_.rows_, height());
          for (int64_t i = 0; i < images_; ++i) make_residuals(v, i, row, end);
          product(v, row * width(), images_ * (end - row) * width());
        }
      }
      for (int64_t i = 0; i < images_; ++i) {
        for (int64_t v = from_; v < to_; ++v) finish(i, v);
      }
    }

   private:
    int64_t height() const { return o_.residuals_.height(); }
    int64_t width() const { return o_.residuals_.width(); }

    void make_residuals(int64_t v, int64_t i, int64_t row, int64_t last) {
      const int64_t channel = group_ * o_.inputs_ + v * kL, count = std::min<int64_t>(kL, o_.inputs_ - v * kL);
      C* to = residuals_.data() + i * (last - row) * width() * kL;
      const auto lanes =
          o_.residuals_.template take<S>(o_.a_.x, first_ + i, channel, count, row == 0, map_.data(), low_, work_);
      o_.residuals_.make(lanes, low_, row, last, to, o_.residual_row_);
    }

    // r [vector of outputs][image, pixel][lanes] += a vector of inputs' part
    void product(int64_t v, int64_t first, int64_t pixels) {
      const int64_t taps = o_.residuals_.taps();
      const C* weight = o_.weight_.data() + (group_ * o_.input_vectors_ + v) * o_.weight_size_;
      o_.each_panel([&](int64_t panel, int64_t vectors) {
        if (panel < from_ || panel >= to_) return;
        each_block(pixels, kTileRows, [&](int64_t pixel, int64_t count) {
          const C* residuals = residuals_.data() + pixel * kL;
          C* to = r_.data() + (panel - from_) * o_.map_row_ + (first + pixel) * kL;
          ALIAS_OPS_ISA::product<Inner::kChannels>(
              TapProduct<C>{residuals, o_.residual_row_, taps, kL, weight + panel * taps * kL * kL, vectors * kL, kL,
                            to, kL, o_.map_row_, v > 0},
              int(count), int(vectors));
        });
      });
    }

    void finish(int64_t i, int64_t vector) {
      const Conv2dAliasL1Args& a = o_.a_;
      const int64_t output = group_ * o_.outputs_ + vector * kL;
      const int64_t count = std::min<int64_t>(kL, o_.outputs_ - vector * kL);
      const C* r = r_.data() + (vector - from_) * o_.map_row_ + i * o_.pixels_ * kL;
      transform(o_.dft_h_, o_.dft_w_, r, width() * kL, kL, along_.data(), pairs_.data());
      C* out = static_cast<C*>(a.out) + (first_ + i) * a.outputs + output;
      store_first(out, l1_of_pairs(pairs_.data(), a.h.dft, a.w.dft), count);
      if constexpr (kGradient) {
        l1_of_pairs_adjoint(pairs_.data(), a.h.dft, a.w.dft, Vec<C>{} + C(1));
        transform(o_.back_h_, o_.back_w_, pairs_.data(), o_.dft_w_.rows() * kL, kL, along_.data(), map_.data());
        scatter_maps(map_.data(), a.d_output, count, const_cast<C*>(map_at<C>(a.d_output, first_ + i, output)));
      }
    }

    const TapMeasure& o_;
    Buffer<C> residuals_;  // [tap][image, pixel][lanes]
    Buffer<C> map_, r_, along_, pairs_;
    typename TapResiduals<C>::Low low_;
    typename TapResiduals<C>::Work work_;
    int64_t first_ = 0, images_ = 0, group_ = 0, from_ = 0, to_ = 0;
  };

  const Conv2dAliasL1Args& a_;
  const Runtime& runtime_;
  const TapResiduals<C> residuals_;
  const DftAxis<C> dft_h_, dft_w_;
  DftAxis<C> back_h_, back_w_;
  const int64_t inputs_, outputs_, input_vectors_, output_vectors_, pixels_, images_, rows_, residual_row_, map_row_,
      weight_size_;
  int64_t blocks_ = 1;
  Buffer<C> weight_;
};

template <class S>
void run(const Conv2dAliasL1Args& a, const Runtime& runtime) {
  if constexpr (std::is_same_v<S, Compute<S>>) {
    if (a.d_output.data != nullptr) return TapMeasure<S, true>(a, runtime).run();
  }
  TapMeasure<S, false>(a, runtime).run();
}

}  // namespace

void conv2d_alias_l1_taps(const Conv2dAliasL1Args& a, const Runtime& runtime) {
  for_dtype(a.x.dtype, [&](auto stored) { run<decltype(stored)>(a, runtime); });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
