// Gradients of the aliasing of a strided convolution by identity 4, given those of the norms with respect to the
// strided output: two products of at most the strided layer's size on what is made of x's residuals, used and turned
// into dx vector by vector of input channels. No convolution, and nothing of x's size but dx.
#include <algorithm>
#include <optional>
#include <vector>

#include "buffer.h"
#include "conv2d_tap_pairs.h"
#include "conv2d_tap_terms.h"
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
// Vectors of input channels that share what is gathered of the outputs, what that may cost in memory, and tasks that
// are enough for a thread then.
constexpr int64_t kShared = 2, kSharedBytes = 6 << 20, kThreadTasks = 4;

template <class C, class Terms>
class TapGradient {
  static constexpr int kL = kLanes<C>;
  static constexpr int64_t kRows = std::min<int64_t>(kTileRows, kL);

 public:
  TapGradient(const Conv2dTapGradientArgs& a, const Runtime& runtime)
      : a_(a),
        runtime_(runtime),
        inputs_(a.x.channels / a.groups),
        outputs_(a.outputs / a.groups),
        input_vectors_(ceiling(inputs_, kL)),
        output_vectors_(ceiling(outputs_, kL)),
        taps_(a.h.taps * a.w.taps),
        taps_size_(outputs_ * taps_ * kL),
        parts_(parts()),
        shares_(shares()),
        terms_(a.h, a.w, ceiling(a.x.images, parts_)),
        sums_(parts_ > 1 ? sums_size(parts_) : 0) {}

  void run() {
    const int64_t tasks = a_.groups * shares_;
    parallel(runtime_, parts_ * tasks, 1, [&](Pieces& pieces) {
      Task task(*this);
      for (int64_t i = pieces.next(); i >= 0; i = pieces.next()) task.run(i / tasks, i % tasks / shares_, i % shares_);
    });
    if (parts_ > 1) add_parts();
  }

 private:
  int64_t fewer() const { return ceiling(input_vectors_, kShared); }
  int64_t sums_size(int64_t parts) const { return parts * a_.groups * input_vectors_ * taps_size_; }
  // Whether some vectors of inputs may be one task, which gathers the outputs' side once for all of them: not where
  // images are taken in bands, as what a band is made of is kept for one vector only.
  bool may_share(int64_t parts) const {
    const int64_t weights = 2 * kShared * Terms::weights(a_.h, a_.w) * outputs_ * kL;
    const int64_t sums = parts > 1 ? sums_size(parts) : 0;
    return Terms::takes_whole(a_.h, a_.w) && (sums + weights) * int64_t(sizeof(C)) <= kSharedBytes;
  }
  // Parts of the batch: enough for tasks that share, if there are images for so many and it is not too much to sum.
  int64_t parts() const {
    const auto of = [this](int64_t tasks) { return std::clamp<int64_t>(ceiling(kTasks, tasks), 1, a_.x.images); };
    const int64_t shared = of(a_.groups * fewer());
    return shared * a_.groups * fewer() >= kTasks && may_share(shared) ? shared : of(a_.groups * input_vectors_);
  }
  int64_t shares() const {
    const bool busy = parts_ * a_.groups * fewer() >= std::min(kTasks, kThreadTasks * runtime_.threads);
    return busy && may_share(parts_) ? fewer() : input_vectors_;
  }

  // Some vectors of input channels of one convolution group, and a part of the batch.
  class Task {
   public:
    explicit Task(const TapGradient& owner)
        : o_(owner),
          terms_(o_.terms_),
          weight_step_(Terms::row_size(o_.output_vectors_ * kL)),
          gradient_row_(terms_.groups().gradient_row()),
          x_(terms_.groups().x_size()),
          gradient_(o_.output_vectors_ * gradient_row_),
          maps_(map_size()),
          scratch_(std::max(terms_.rows * terms_.width(), o_.taps_) * kL),
          places_(terms_.work_size()),
          low_(terms_),
          work_(terms_) {
      const int64_t vectors = ceiling(o_.input_vectors_, o_.shares_), size = terms_.weights() * weight_step_;
      for (int64_t v = 0; v < vectors; ++v) inputs_.push_back({0, 0, 0, Buffer<C>(size), Buffer<C>(size)});
      // Rows of an image by turns: what its residuals are made of and what they come to are needed side by side.
      if (terms_.rows < terms_.height()) dx_ = Buffer<C>(map_size()), sums_.emplace(terms_);
    }

    void run(int64_t part, int64_t group, int64_t share) {
      const int64_t from = o_.input_vectors_ * share / o_.shares_, to = o_.input_vectors_ * (share + 1) / o_.shares_;
      group_ = group, vectors_ = to - from;
      for (int64_t v = 0; v < vectors_; ++v) start(inputs_[v], from + v);
      const int64_t images = o_.a_.x.images, last = images * (part + 1) / o_.parts_;
      for (int64_t first = images * part / o_.parts_; first < last; first += terms_.images) {
        first_ = first, images_ = std::min(terms_.images, last - first);
        for (int64_t row = 0; row < terms_.height(); row += terms_.rows) {
          const int64_t end = std::min(row + terms_.rows, terms_.height());
          for (int64_t i = 0; i < images_; ++i) gather_gradient(i, row, end);
          for (int64_t v = 0; v < vectors_; ++v) rows(inputs_[v], row, end);
        }
      }
      for (int64_t v = 0; v < vectors_; ++v) finish(inputs_[v], part);
    }

   private:
    int64_t map_size() const { return o_.a_.x.height * o_.a_.x.width * kL; }
    Buffer<C>& dx() { return sums_ ? dx_ : maps_; }
    typename Terms::Low& sums() { return sums_ ? *sums_ : low_; }

    // A vector of input channels.
    struct Inputs {
      int64_t vector, channel, count;
      Buffer<C> weight, dweight;  // [weight][output][lanes], zero beyond the outputs
    };

    void start(Inputs& inputs, int64_t vector) {
      const int64_t within = vector * kL, taps = o_.taps_, size = o_.inputs_ * taps;
      inputs.vector = vector, inputs.channel = group_ * o_.inputs_ + within;
      inputs.count = std::min<int64_t>(kL, o_.inputs_ - within);
      std::fill(inputs.weight.begin(), inputs.weight.end(), C(0));
      std::fill(inputs.dweight.begin(), inputs.dweight.end(), C(0));
      const Maps rows{o_.a_.weight, o_.a_.x.dtype, 1, o_.inputs_, 1, taps, 0, taps, taps, 1};
      for (int64_t o = 0; o < o_.outputs_; ++o) {
        const C* from = static_cast<const C*>(o_.a_.weight) + (group_ * o_.outputs_ + o) * size + within * taps;
        gather_group<C, C>(rows, inputs.count, [&](int64_t i) { return from + i * taps; }, scratch_.data());
        terms_.spread_weight(scratch_.data(), inputs.weight.data() + o * kL, weight_step_);
      }
    }
    void finish(const Inputs& inputs, int64_t part) {
      const int64_t number = group_ * o_.input_vectors_ + inputs.vector;
      for (int64_t o = 0; o < o_.outputs_; ++o) {
        C* sums = o_.parts_ == 1 ? scratch_.data() : o_.sums_of(part, number) + o * o_.taps_ * kL;
        terms_.collect_weight(inputs.dweight.data() + o * kL, weight_step_, sums);
        if (o_.parts_ == 1) o_.scatter_taps(sums, number, o);
      }
    }

    void rows(Inputs& inputs, int64_t row, int64_t last) {
      const int64_t channel = inputs.channel, count = inputs.count;
      const Maps &x = o_.a_.x, &to = o_.a_.dx;
      for (int64_t i = 0; i < images_; ++i) {
        const auto lanes = terms_.template take<C>(x, first_ + i, channel, count, row == 0, maps_.data(), low_, work_);
        terms_.make(lanes, low_, i, row, last, x_.data(), places_.data());
      }
      for (const TermGroup& group : terms_.groups().all()) {
        const int64_t pixels = images_ * group.pixels(last - row, last == terms_.height());
        for (const TermBlock& block : group.blocks) {
          weight_gradient(group, block, pixels, inputs.dweight.data());
          input_gradient(group, block, pixels, inputs.weight.data());
        }
      }
      for (int64_t i = 0; i < images_; ++i) {
        if (row == 0) terms_.clear(dx().data(), sums());
        terms_.collect(x_.data(), i, row, last, dx().data(), sums(), places_.data());
        if (last < terms_.height()) continue;
        const C* maps = map_at<C>(to, first_ + i, channel);
        write_ahead(work_.ahead, to, maps, count);
        terms_.finish(dx().data(), sums(), work_);
        scatter_maps(dx().data(), to, count, const_cast<C*>(maps));
      }
    }

    // gradient_ [vector of outputs][group][image, pixel][lanes], times what comes in for each map
    void gather_gradient(int64_t i, int64_t row, int64_t last) {
      Maps y = o_.a_.y;
      y.height = last - row;
      for (int64_t v = 0; v < o_.output_vectors_; ++v) {
        const int64_t channel = group_ * o_.outputs_ + v * kL, count = std::min<int64_t>(kL, o_.outputs_ - v * kL);
        const C* from = map_at<C>(y, first_ + i, channel) + row * y.row_stride;
        gather_group<C, C>(y, count, [&](int64_t j) { return from + j * y.channel_stride; }, scratch_.data());
        const C* incoming = static_cast<const C*>(o_.a_.grad) + (first_ + i) * o_.a_.outputs + channel;
        terms_.spread_gradient(scratch_.data(), load_first(incoming, count), i, row, last,
                               gradient_.data() + v * gradient_row_);
      }
    }

    // [weight][output][lanes] += over the pixels
    void weight_gradient(const TermGroup& group, const TermBlock& block, int64_t pixels, C* dweight) {
      each_block(pixels, kInnerBlock, [&](int64_t pixel, int64_t count) {
        for (int64_t v = 0; v < o_.output_vectors_; ++v) {
          each_block(std::min<int64_t>(kL, o_.outputs_ - v * kL), kRows, [&](int64_t lane, int64_t lanes) {
            const C* gradient = gradient_.data() + v * gradient_row_ + group.gradient + pixel * kL + lane;
            C* to = dweight + block.weight * weight_step_ + (v * kL + lane) * kL;
            product<Inner::kPixels>(TapProduct<C>{gradient, 0, 1, count, x_.data() + block.x + pixel * kL, kL,
                                                  block.x_step, to, kL, block.weight_step * weight_step_, true},
                                    int(lanes), block.vectors);
          });
        }
      });
    }

    // The gradients of x's side, written over it: [term][pixel][lanes] = over the outputs
    void input_gradient(const TermGroup& group, const TermBlock& block, int64_t pixels, const C* weights) {
      each_block(o_.output_vectors_, kInnerBlock / kL, [&](int64_t v, int64_t blocks) {
        each_block(pixels, kTileRows, [&](int64_t pixel, int64_t count) {
          const C *gradient = gradient_.data() + v * gradient_row_ + group.gradient + pixel * kL,
                  *weight = weights + block.weight * weight_step_ + v * kL * kL;
          product<Inner::kChannels>(
              TapProduct<C>{gradient, gradient_row_, blocks, kL, weight, kL, block.weight_step * weight_step_,
                            x_.data() + block.x + pixel * kL, kL, block.x_step, v > 0},
              int(count), block.vectors);
        });
      });
    }

    const TapGradient& o_;
    const Terms& terms_;
    const int64_t weight_step_, gradient_row_;
    Buffer<C> x_, gradient_, maps_, scratch_, places_, dx_;
    typename Terms::Low low_;
    typename Terms::Work work_;
    std::optional<typename Terms::Low> sums_;
    std::vector<Inputs> inputs_;
    int64_t vectors_ = 0, group_ = 0, first_ = 0, images_ = 0;
  };

  C* sums_of(int64_t part, int64_t vector) const {
    return const_cast<C*>(sums_.data()) + (part * a_.groups * input_vectors_ + vector) * taps_size_;
  }
  // One output's taps [tap][lanes] to the gradient of the weight. vector: of inputs, of all convolution groups.
  void scatter_taps(const C* sums, int64_t vector, int64_t output) const {
    const int64_t group = vector / input_vectors_, input = vector % input_vectors_ * kL, size = inputs_ * taps_;
    const Maps rows{a_.dweight, a_.x.dtype, 1, inputs_, 1, taps_, 0, taps_, taps_, 1};
    C* to = static_cast<C*>(a_.dweight) + (group * outputs_ + output) * size + input * taps_;
    scatter_maps(sums, rows, std::min<int64_t>(kL, inputs_ - input), to);
  }
  void add_parts() const {
    const int64_t vectors = a_.groups * input_vectors_;
    parallel(runtime_, vectors, 1, [&](Pieces& pieces) {
      for (int64_t vector = pieces.next(); vector >= 0; vector = pieces.next()) {
        C* sum = sums_of(0, vector);
        for (int64_t part = 1; part < parts_; ++part) {
          const C* other = sums_of(part, vector);
          for (int64_t i = 0; i < taps_size_; i += kL) store(sum + i, load(sum + i) + load(other + i));
        }
        for (int64_t o = 0; o < outputs_; ++o) scatter_taps(sum + o * taps_ * kL, vector, o);
      }
    });
  }

  const Conv2dTapGradientArgs& a_;
  const Runtime& runtime_;
  const int64_t inputs_, outputs_, input_vectors_, output_vectors_, taps_, taps_size_, parts_, shares_;
  const Terms terms_;
  Buffer<C> sums_;  // [part][group, vector of inputs][output][tap][lanes], for several parts
};

template <class C>
void run(const Conv2dTapGradientArgs& a, const Runtime& runtime) {
  if (PairedTerms<C>::pays(a.h, a.w)) return TapGradient<C, PairedTerms<C>>(a, runtime).run();
  TapGradient<C, TapTerms<C>>(a, runtime).run();
}

}  // namespace

void conv2d_alias_l1_tap_gradient(const Conv2dTapGradientArgs& a, const Runtime& runtime) {
  if (a.x.dtype == Dtype::kFloat64) return run<double>(a, runtime);
  run<float>(a, runtime);
}

}  // namespace alias_ops::ALIAS_OPS_ISA
