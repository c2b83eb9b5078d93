// Gradients of the aliasing of a strided convolution, but for the strided convolution's own backward, which is
// PyTorch's: what the low band takes off.
#include <algorithm>

#include "buffer.h"
#include "conv2d_alias_l1.h"
#include "conv2d_input_gradient.h"
#include "conv2d_weight_gradient.h"
#include "ops.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

// Bytes of a chunk's spectra of x and of the gradients. A weight's gradient is summed chunk by chunk, so that it
// depends on the shape alone, not on the number of threads.
constexpr int64_t kChunkBytes = 6 << 20;
// Input channels of a task of the weight's gradient: what it folds stays in the first cache.
constexpr int64_t kChannelBlock = 2 * kProductRows;

template <class C>
class LowGradient {
  static constexpr int kL = kLanes<C>;

 public:
  LowGradient(const Conv2dLowGradientArgs& a, const Runtime& runtime)
      : a_(a),
        runtime_(runtime),
        h_(a.layer.h),
        w_(a.layer.w),
        back_h_(a.layer.h, h_, -1),
        back_w_(a.layer.w, w_, 1),
        outputs_(a.layer),
        inputs_(a.dx.channels, a.layer.outputs, a.layer.groups),
        vector_size_(outputs_.inputs() * h_.kernel * w_.kernel * kL) {}

  void run() {
    const Maps &x = a_.layer.x, &y = a_.layer.y;
    const int64_t image_bytes =
        InputSpectra<C>::image_bytes(h_, w_, x.channels) + GradientSpectra<C>::image_bytes(h_, w_, y.channels);
    const int64_t most = std::max<int64_t>(1, kChunkBytes / image_bytes);
    chunk_ = ceiling(x.images, ceiling(x.images, most));  // a short last one would fold for few images
    const int64_t tile = std::min(chunk_ * runtime_.threads, x.images);
    InputSpectra<C> spectra(h_, w_, tile, x.channels);
    GradientSpectra<C> gradient(h_, w_, back_h_, back_w_, tile, y.channels);
    taps_ = Buffer<C>(outputs_.count() * vector_size_);
    std::fill(taps_.begin(), taps_.end(), C(0));
    for (int64_t first = 0; first < x.images; first += tile) {
      const int64_t images = std::min(tile, x.images - first);
      spectra.template fill<C>(x, first, images, runtime_);
      gradient.fill(y, first, images, runtime_);
      input_gradient(gradient, first, images);
      weight_gradient(spectra, gradient, images);
    }
    put_taps();
  }

 private:
  void input_gradient(const GradientSpectra<C>& gradient, int64_t first, int64_t images) {
    const int64_t pairs_bytes = back_h_.columns * back_w_.columns * kL * int64_t(sizeof(C));
    const int64_t blocks = image_blocks(images, pairs_bytes, inputs_.count(), runtime_.threads);
    parallel(runtime_, inputs_.count() * blocks, 1, [&](Pieces& pieces) {
      InputGradient<C> task(a_, inputs_, h_, w_, back_h_, back_w_, gradient, (images + blocks - 1) / blocks);
      for (int64_t i = pieces.next(); i >= 0; i = pieces.next()) {
        const int64_t block = i % blocks, from = images * block / blocks, to = images * (block + 1) / blocks;
        task.run(i / blocks, first, from, to - from);
      }
    });
  }

  // Every tap belongs to one task, which adds the chunks in their order.
  void weight_gradient(const InputSpectra<C>& spectra, const GradientSpectra<C>& gradient, int64_t images) {
    const int64_t channels = outputs_.inputs(), blocks = (channels + kChannelBlock - 1) / kChannelBlock;
    parallel(runtime_, outputs_.count() * blocks, 1, [&](Pieces& pieces) {
      WeightGradient<C> task(h_, w_, spectra, gradient, std::min(kChannelBlock, channels));
      for (int64_t i = pieces.next(); i >= 0; i = pieces.next()) {
        const int64_t vector = i / blocks, block = i % blocks;
        const int64_t channel = channels * block / blocks, count = channels * (block + 1) / blocks - channel;
        C* taps = taps_.data() + vector * vector_size_ + channel * h_.kernel * w_.kernel * kL;
        for (int64_t from = 0; from < images; from += chunk_) {
          task.run(outputs_.vector(vector), channel, count, from, std::min(chunk_, images - from), taps);
        }
      }
    });
  }

  void put_taps() {
    const int64_t size = vector_size_ / kL;
    const Maps rows{a_.dweight, a_.dx.dtype, 1, a_.layer.outputs, 1, size, 0, size, size, 1};
    parallel(runtime_, outputs_.count(), 1, [&](Pieces& pieces) {
      for (int64_t i = pieces.next(); i >= 0; i = pieces.next()) {
        const LaneVector<C> vector = outputs_.vector(i);
        C* to = static_cast<C*>(a_.dweight) + vector.output * size;
        scatter_maps(taps_.data() + i * vector_size_, rows, vector.count, to, a_.adding);
      }
    });
  }

  const Conv2dLowGradientArgs& a_;
  const Runtime& runtime_;
  const SpectralAxis<C> h_, w_;
  const GradientAxis<C> back_h_, back_w_;
  const OutputLanes<C> outputs_, inputs_;
  const int64_t vector_size_;
  int64_t chunk_ = 1;
  Buffer<C> taps_;  // minus the weight's gradient: [vector of outputs][channel][taps][lanes]
};

template <class C>
void residual_gradient(const ResidualL1GradientArgs& a, const Runtime& runtime) {
  constexpr int kL = kLanes<C>;
  const Maps& maps = a.residual;
  const DftAxis<C> dft_h = pack_dft<C>(a.dft_h), dft_w = pack_dft<C>(a.dft_w);
  const DftAxis<C> back_h = pack_dft_adjoint<C>(a.dft_h), back_w = pack_dft_adjoint<C>(a.dft_w);
  const int64_t along_size = std::max(dft_h.rows() * maps.width, maps.height * dft_w.rows()) * kL;
  const int64_t pairs_size = dft_h.rows() * dft_w.rows() * kL, map_size = maps.height * maps.width * kL;
  const auto fill = [&](int64_t image, int64_t channel, const C* x, int64_t row_step, int64_t column_step, C* along,
                        Ahead* ahead) {
    C *pairs = along + along_size, *map = pairs + pairs_size;
    const int64_t count = std::min<int64_t>(kL, maps.channels - channel);
    const C* gradient = static_cast<const C*>(a.grad) + image * maps.channels + channel;
    transform(dft_h, dft_w, x, row_step, column_step, along, pairs, ahead);
    l1_of_pairs_adjoint(pairs, a.dft_h, a.dft_w, load_first(gradient, count));
    transform(back_h, back_w, pairs, dft_w.rows() * kL, kL, along, map, ahead);
    scatter_maps(map, maps, count, const_cast<C*>(map_at<C>(maps, image, channel)));
  };
  each_group<C, C>(maps, 0, maps.images, along_size + pairs_size + map_size, runtime, fill);
}

}  // namespace

void conv2d_alias_l1_low_gradient(const Conv2dLowGradientArgs& a, const Runtime& runtime) {
  if (a.dx.dtype == Dtype::kFloat64) return LowGradient<double>(a, runtime).run();
  LowGradient<float>(a, runtime).run();
}

void residual_l1_gradient(const ResidualL1GradientArgs& a, const Runtime& runtime) {
  if (a.residual.dtype == Dtype::kFloat64) return residual_gradient<double>(a, runtime);
  residual_gradient<float>(a, runtime);
}

}  // namespace alias_ops::ALIAS_OPS_ISA
