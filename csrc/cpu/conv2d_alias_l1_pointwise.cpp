// Identity 4 for 1x1 layers: the residual of the input, x[::s, ::s] - P x P^T, then one real matrix product of
// the strided layer's size, then the small DFT. The layer's output is not needed.
#include "blocks.h"
#include "buffer.h"
#include "conv2d_alias_l1.h"
#include "conv2d_spectra.h"
#include "ops.h"
#include "parallel.h"
#include "spectra.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

// Bytes of a batch tile's input residuals, per thread.
constexpr int64_t kResidualBytes = 2 << 20;

template <class C, int R, int V>
void product_tile(const C* x, int64_t x_row, const C* w, int64_t w_row, int64_t inner, C* y, int64_t y_vector) {
  constexpr int kL = kLanes<C>;
  Vec<C> sum[R][V] = {};
  for (int64_t i = 0; i < inner; ++i) {
    Vec<C> column[V];
    for (int v = 0; v < V; ++v) column[v] = load(w + v * w_row);
    for (int r = 0; r < R; ++r) {
      for (int v = 0; v < V; ++v) sum[r][v] += x[r * x_row + i] * column[v];
    }
    w += kL;
  }
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < V; ++v) store(y + r * kL + v * y_vector, sum[r][v]);
  }
}

template <class C, int V, size_t... R>
void product_rows(int rows, std::index_sequence<R...>, const C* x, int64_t x_row, const C* w, int64_t w_row,
                  int64_t inner, C* y, int64_t y_vector) {
  static constexpr decltype(&product_tile<C, 1, V>) table[] = {&product_tile<C, int(R) + 1, V>...};
  table[rows - 1](x, x_row, w, w_row, inner, y, y_vector);
}

template <class S>
class PointwiseConv2d {
  using C = Compute<S>;
  static constexpr int kL = kLanes<C>;

 public:
  PointwiseConv2d(const Conv2dAliasL1Args& a, const Runtime& runtime)
      : a_(a),
        runtime_(runtime),
        lanes_(a),
        height_(a.h.dft.length),
        width_(a.w.dft.length),
        channels_((a.x.channels + kL - 1) / kL * kL),
        dft_h_(pack_dft<C>(a.h.dft)),
        dft_w_(pack_dft<C>(a.w.dft)),
        low_h_(height_, a.x.height, [&](int64_t r, int64_t k) { return a.h.low_pass[r * a.x.height + k]; }),
        low_w_(width_, a.x.width, [&](int64_t r, int64_t k) { return a.w.low_pass[r * a.x.width + k]; }) {}

  void run() {
    const int64_t image_size = height_ * width_ * channels_;
    const int64_t tile =
        std::clamp<int64_t>(kResidualBytes * runtime_.threads / (image_size * int64_t(sizeof(C))), 1, a_.x.images);
    Buffer<C> residuals(tile * image_size);
    for (int64_t first = 0; first < a_.x.images; first += tile) {
      const int64_t images = std::min(tile, a_.x.images - first);
      transform_input(residuals.data(), first, images);
      measure(residuals.data(), first, images);
    }
  }

 private:
  // residuals [image][pixel][channels]
  void transform_input(C* residuals, int64_t first, int64_t images) {
    const int64_t width = a_.x.width, along_size = height_ * width * kL;
    const auto fill = [&](int64_t image, int64_t channel, const C* x, int64_t row_step, int64_t column_step, C* along,
                          Ahead* ahead) {
      C *low = along + along_size, *to = residuals + image * height_ * width_ * channels_ + channel;
      transform(low_h_, low_w_, x, row_step, column_step, along, low, ahead);
      for (int64_t n = 0; n < height_; ++n) {
        for (int64_t m = 0; m < width_; ++m) {
          const C* sample = x + n * a_.h.stride * row_step + m * a_.w.stride * column_step;
          store(to + (n * width_ + m) * channels_, load(sample) - load(low + (n * width_ + m) * kL));
        }
      }
    };
    each_group<S, C>(a_.x, first, images, along_size + height_ * width_ * kL, runtime_, fill);
  }

  void measure(const C* residuals, int64_t first, int64_t images) {
    const int64_t inputs = lanes_.inputs(), pixels = height_ * width_;
    // Two vectors of output channels at a time share the broadcasts of x.
    const int64_t pairs = (lanes_.count() + 1) / 2;
    const int64_t wanted = (2 * runtime_.threads + pairs - 1) / pairs;
    const int64_t blocks = std::min(wanted, images);
    parallel(runtime_, pairs * blocks, 1, [&](Pieces& pieces) {
      Buffer<C> weight(2 * inputs * kL), maps(2 * pixels * kL), along(dft_h_.rows() * width_ * kL),
          spectrum(dft_h_.rows() * dft_w_.rows() * kL);
      for (int64_t task = pieces.next(); task >= 0; task = pieces.next()) {
        const int64_t block = task % blocks, from = images * block / blocks, to = images * (block + 1) / blocks;
        const int64_t vector = task / blocks * 2, vectors = std::min<int64_t>(2, lanes_.count() - vector);
        for (int64_t v = 0; v < vectors; ++v) {
          const LaneVector<C> lanes = lanes_.vector(vector + v);
          gather_output_weight<S>(a_, lanes, weight.data() + v * inputs * kL);
        }
        for (int64_t image = from; image < to; ++image) {
          const C* x = residuals + image * pixels * channels_;
          product(x, weight.data(), vector, vectors, maps.data());
          for (int64_t v = 0; v < vectors; ++v) {
            transform(dft_h_, dft_w_, maps.data() + v * pixels * kL, width_ * kL, kL, along.data(), spectrum.data());
            const LaneVector<C> lanes = lanes_.vector(vector + v);
            store_first(static_cast<C*>(a_.out) + (first + image) * a_.outputs + lanes.output,
                        l1_of_pairs(spectrum.data(), a_.h.dft, a_.w.dft), lanes.count);
          }
        }
      }
    });
  }

  // maps [vector][pixel][lanes] = residuals of an image times the weights
  void product(const C* x, const C* weight, int64_t vector, int64_t vectors, C* maps) const {
    const int64_t inputs = lanes_.inputs(), pixels = height_ * width_;
    const LaneVector<C> lanes = lanes_.vector(vector), next = lanes_.vector(vector + vectors - 1);
    if (lanes.spanning) {
      for (int64_t v = 0; v < vectors; ++v)
        spanning_product(x, weight + v * inputs * kL, vector + v, maps + v * pixels * kL);
      return;
    }
    if (next.channel != lanes.channel) {
      product_of(x + lanes.channel, weight, 1, maps);
      product_of(x + next.channel, weight + inputs * kL, 1, maps + pixels * kL);
      return;
    }
    product_of(x + lanes.channel, weight, int(vectors), maps);
  }

  void product_of(const C* x, const C* weight, int vectors, C* maps) const {
    using Rows = std::make_index_sequence<kTileRows>;
    const int64_t inputs = lanes_.inputs(), pixels = height_ * width_;
    each_block(pixels, kTileRows, [&](int64_t pixel, int64_t rows) {
      const C* from = x + pixel * channels_;
      if (vectors == 1) {
        product_rows<C, 1>(int(rows), Rows{}, from, channels_, weight, inputs * kL, inputs, maps + pixel * kL,
                           pixels * kL);
      } else {
        product_rows<C, 2>(int(rows), Rows{}, from, channels_, weight, inputs * kL, inputs, maps + pixel * kL,
                           pixels * kL);
      }
    });
  }

  void spanning_product(const C* x, const C* weight, int64_t vector, C* maps) const {
    const LaneVector<C> lanes = lanes_.vector(vector);
    for (int64_t pixel = 0; pixel < height_ * width_; ++pixel) {
      Vec<C> sum = {};
      for (int64_t i = 0; i < lanes_.inputs(); ++i) {
        Vec<C> value;
        for (int lane = 0; lane < kL; ++lane) value[lane] = x[pixel * channels_ + lanes.lane_channel[lane] + i];
        sum += value * load(weight + i * kL);
      }
      store(maps + pixel * kL, sum);
    }
  }

  const Conv2dAliasL1Args& a_;
  const Runtime& runtime_;
  const OutputLanes<C> lanes_;
  const int64_t height_, width_, channels_;
  const DftAxis<C> dft_h_, dft_w_;
  const PackedRows<C> low_h_, low_w_;
};

}  // namespace

void conv2d_alias_l1_pointwise(const Conv2dAliasL1Args& a, const Runtime& runtime) {
  for_dtype(a.x.dtype, [&](auto stored) { PointwiseConv2d<decltype(stored)>(a, runtime).run(); });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
