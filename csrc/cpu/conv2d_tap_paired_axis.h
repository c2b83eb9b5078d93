// One axis of F(2, 2) (conv2d_tap_pairs.h): which taps pair up, and where they find what.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "blocks.h"
#include "conv2d_tap_axis.h"

namespace alias_ops::ALIAS_OPS_ISA {

// Parts of the outputs of an axis: those of an even number, of an odd number, and sums of the two.
inline constexpr int kParts = 3;
enum Part { kEven, kOdd, kBoth };

inline int64_t part_size(int part, int64_t outputs) { return part == kOdd ? outputs / 2 : ceiling(outputs, 2); }

template <class C>
class PairedAxis {
 public:
  // Of a tap, or of two.
  struct Weight {
    int64_t tap, other;  // -1: none
  };
  // For number j of a part: what lies 2 j places on from `plus`, less what lies so from `minus`, if that is not -1.
  struct Term {
    int64_t weight, plus, minus;
  };
  // Places from `begin`: of a tap, or of a pair from its first tap's output 0 to its second's last, one more. Samples
  // of x lie at those from `first` to `last`.
  struct Run {
    int64_t tap, begin, more, first, last;
  };
  struct LineTap {
    int64_t tap, sample;
  };
  struct Line {
    const C* profile;
    std::vector<LineTap> taps;
  };

  // rows: the most outputs at a time.
  PairedAxis(const TapAxis<C>& axis, int64_t rows) : weight_of_tap(axis.taps.size()) {
    find_pairs(axis);
    for (const auto& [t, u] : pairs_) put(t);
    for (int64_t t : singles_) put(t);
    for (const auto& [t, u] : pairs_) put(u);
    for (const auto& [t, u] : pairs_) {
      const int64_t at = add_run(axis, t, 1, rows);
      parts[kEven].push_back({weight_of_tap[t], at, at + 1});
      parts[kBoth].push_back({int64_t(weights.size()), at + 1, -1});
      weights.push_back({t, u});
    }
    for (int64_t t : singles_) {
      const int64_t at = add_run(axis, t, 0, rows);
      parts[kEven].push_back({weight_of_tap[t], at, -1});
      parts[kOdd].push_back({weight_of_tap[t], at + 1, -1});
    }
    for (size_t i = 0; i < pairs_.size(); ++i) {
      const Term& even = parts[kEven][i];
      parts[kOdd].push_back({weight_of_tap[pairs_[i][1]], even.plus + 2, even.plus + 1});
    }
    for (size_t t = 0; t < axis.taps.size(); ++t) {
      for (const auto& line : axis.taps[t].lines) {
        const auto same = [&](const Line& known) { return known.profile == line.profile; };
        auto at = std::find_if(lines.begin(), lines.end(), same);
        if (at == lines.end()) at = lines.insert(at, Line{line.profile, {}});
        at->taps.push_back({int64_t(t), line.sample});
      }
    }
  }

  // First taps of pairs, single taps, second taps, sums of pairs: what a part meets lies side by side.
  std::vector<Weight> weights;
  std::vector<int64_t> weight_of_tap;
  std::vector<Term> parts[kParts];
  std::vector<Run> runs;
  std::vector<Line> lines;  // each once
  int64_t size = 0;         // of all runs

 private:
  void find_pairs(const TapAxis<C>& axis) {
    std::vector<bool> taken(axis.taps.size());
    for (size_t t = 0; t < axis.taps.size(); ++t) {
      if (taken[t]) continue;
      size_t u = t + 1;
      while (u < axis.taps.size() && (taken[u] || axis.taps[u].offset != axis.taps[t].offset + axis.stride)) ++u;
      if (u == axis.taps.size()) {
        singles_.push_back(int64_t(t));
      } else {
        pairs_.push_back({int64_t(t), int64_t(u)}), taken[u] = true;
      }
    }
  }
  void put(int64_t tap) {
    weight_of_tap[tap] = int64_t(weights.size());
    weights.push_back({tap, -1});
  }
  int64_t add_run(const TapAxis<C>& axis, int64_t tap, int64_t more, int64_t rows) {
    const int64_t offset = axis.taps[tap].offset, all = axis.outputs + more;
    const int64_t first = std::clamp<int64_t>(ceiling(-offset, axis.stride), 0, all);
    const int64_t last = std::clamp<int64_t>(ceiling(axis.size - offset, axis.stride), first, all);
    runs.push_back({tap, size, more, first, last});
    size += rows + more;
    return runs.back().begin;
  }

  std::vector<std::array<int64_t, 2>> pairs_;
  std::vector<int64_t> singles_;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
