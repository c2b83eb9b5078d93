// One axis of identity 4 by parts (alias_ops/designs/conv2d_taps.py): the low-passed axis at the strided places, turned
// to the phases between them, and the lines by which a tap's outputs differ from what lies at its places there.
#pragma once

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

#include "blocks.h"
#include "lanes.h"
#include "tile.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
class TapAxis {
  static constexpr int kL = kLanes<C>;

 public:
  struct Line {
    const C* profile;  // [outputs]
    int64_t sample;    // which of `samples`
  };
  struct Tap {
    int64_t phase, shift;
    std::vector<Line> lines;
    int64_t first, last;  // outputs whose sample lies in x
    int64_t offset;       // output n meets sample stride * n + offset
  };

  explicit TapAxis(const TapTable& t)
      : outputs(t.outputs),
        size(t.size),
        stride(t.stride),
        phases(t.phases + 1),
        base_(t.outputs, t.size, [&](int64_t r, int64_t k) { return t.base[r * t.size + k]; }),
        base_back_(t.size, t.outputs, [&](int64_t r, int64_t k) { return t.base[k * t.size + r]; }),
        profiles_(t.profiles, t.profiles + t.lines * t.outputs) {
    for (int64_t i = 0; i < t.phases; ++i) {
      const double* turn = t.turns + i * outputs * outputs;
      turns_.emplace_back(outputs, outputs, [&](int64_t r, int64_t k) { return turn[r * outputs + k]; });
      turns_back_.emplace_back(outputs, outputs, [&](int64_t r, int64_t k) { return turn[k * outputs + r]; });
    }
    for (int64_t tap = 0; tap < t.taps; ++tap) {
      Tap made{t.places[2 * tap], t.places[2 * tap + 1], {}, 0, 0, tap * t.dilation - t.padding};
      for (int64_t line = 0; line < t.lines; ++line) {
        const int64_t source = t.sources[line * t.taps + tap];
        if (source >= 0) made.lines.push_back({profiles_.data() + line * outputs, known(source)});
      }
      std::tie(made.first, made.last) = inside(made.offset, outputs);
      taps.push_back(std::move(made));
    }
  }
  TapAxis(const TapAxis&) = delete;

  const int64_t outputs, size, stride, phases;
  std::vector<Tap> taps;
  std::vector<int64_t> samples;  // that any line meets, each once

  // y[n][vector] = base x[size][vector]; `back` is the adjoint, which adds.
  void base(const C* x, int64_t step, int64_t vector_step, C* y, int64_t y_step, int64_t y_vector_step, int64_t vectors,
            Ahead* ahead = nullptr) const {
    multiply(base_, Panel<C>{x, step, vector_step, y, y_step, y_vector_step, vectors, false, ahead});
  }
  void base_back(const C* y, int64_t step, int64_t vector_step, C* x, int64_t x_step, int64_t x_vector_step,
                 int64_t vectors, bool accumulate = true, Ahead* ahead = nullptr) const {
    multiply(base_back_, Panel<C>{y, step, vector_step, x, x_step, x_vector_step, vectors, accumulate, ahead});
  }
  // The other phases of y, `phase_step` apart.
  void turn(C* y, int64_t phase_step, int64_t step, int64_t vector_step, int64_t vectors) const {
    for (int64_t phase = 1; phase < phases; ++phase) {
      multiply(turns_[phase - 1],
               Panel<C>{y, step, vector_step, y + phase * phase_step, step, vector_step, vectors, false});
    }
  }
  void turn_back(C* y, int64_t phase_step, int64_t step, int64_t vector_step, int64_t vectors) const {
    for (int64_t phase = 1; phase < phases; ++phase) {
      multiply(turns_back_[phase - 1],
               Panel<C>{y + phase * phase_step, step, vector_step, y, step, vector_step, vectors, true});
    }
  }

  // A single row or column of x: what the taps find on it, [tap][output][lanes]; `work` has room for all phases.
  void line(const C* x, int64_t step, C* work, C* found) const {
    base(x, step, 0, work, kL, 0, 1);
    turn(work, outputs * kL, kL, 0, 1);
    for (const Tap& tap : taps) {
      const C* from = work + tap.phase * outputs * kL;
      around(tap, [&](int64_t n, int64_t place) { store(found + n * kL, load(from + place * kL)); });
      found += outputs * kL;
    }
  }
  void line_back(const C* found, C* work, C* x, int64_t step) const {
    std::fill_n(work, phases * outputs * kL, C(0));
    for (const Tap& tap : taps) {
      C* to = work + tap.phase * outputs * kL;
      around(tap, [&](int64_t n, int64_t place) { add(to + place * kL, load(found + n * kL)); });
      found += outputs * kL;
    }
    turn_back(work, outputs * kL, kL, 0, 1);
    base_back(work, kL, 0, x, step, 0, 1);
  }

  // Of so many outputs from `offset` on, the first whose sample lies in x and the one behind the last.
  std::pair<int64_t, int64_t> inside(int64_t offset, int64_t count) const {
    const int64_t first = std::clamp<int64_t>(ceiling(-offset, stride), 0, count);
    return {first, std::clamp<int64_t>(ceiling(size - offset, stride), first, count)};
  }

  // visit(output, its place in the tap's phase), for `more` outputs than there are
  template <class Visit>
  void around(const Tap& tap, Visit visit, int64_t more = 0) const {
    for (int64_t n = 0; n < outputs - tap.shift; ++n) visit(n, n + tap.shift);
    for (int64_t n = outputs - tap.shift; n < outputs + more; ++n) visit(n, n + tap.shift - outputs);
  }
  static void add(C* to, Vec<C> value) { store(to, load(to) + value); }

 private:
  int64_t known(int64_t sample) {
    const auto found = std::find(samples.begin(), samples.end(), sample);
    const int64_t place = found - samples.begin();
    if (found == samples.end()) samples.push_back(sample);
    return place;
  }

  const PackedRows<C> base_, base_back_;
  std::vector<PackedRows<C>> turns_, turns_back_;
  const std::vector<C> profiles_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
