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

// Taps that lie a stride apart in x.
struct TapPairs {
  std::vector<std::array<int64_t, 2>> pairs;
  std::vector<int64_t> singles;

  explicit TapPairs(const TapTable& t) {
    std::vector<bool> taken(t.taps);
    for (int64_t tap = 0; tap < t.taps; ++tap) {
      if (taken[tap]) continue;
      const int64_t other = tap + t.stride / t.dilation;
      if (t.stride % t.dilation == 0 && other < t.taps) {
        pairs.push_back({tap, other}), taken[other] = true;
      } else {
        singles.push_back(tap);
      }
    }
  }
  int64_t weights() const { return 3 * int64_t(pairs.size()) + int64_t(singles.size()); }
  // What all terms of the axis have in pixels, where taps have taps * outputs.
  int64_t pixels(int64_t outputs) const {
    const int64_t both = int64_t(pairs.size());
    return outputs * (both + int64_t(singles.size())) + ceiling(outputs, 2) * both;
  }
};

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
  PairedAxis(const TapTable& table, const TapAxis<C>& axis, int64_t rows) : weight_of_tap(table.taps) {
    const auto [pairs, singles] = TapPairs(table);
    for (const auto& [t, u] : pairs) put(t);
    for (int64_t t : singles) put(t);
    for (const auto& [t, u] : pairs) put(u);
    for (const auto& [t, u] : pairs) {
      const int64_t at = add_run(axis, t, 1, rows);
      parts[kEven].push_back({weight_of_tap[t], at, at + 1});
      parts[kBoth].push_back({int64_t(weights.size()), at + 1, -1});
      weights.push_back({t, u});
    }
    for (int64_t t : singles) {
      const int64_t at = add_run(axis, t, 0, rows);
      parts[kEven].push_back({weight_of_tap[t], at, -1});
      parts[kOdd].push_back({weight_of_tap[t], at + 1, -1});
    }
    for (size_t i = 0; i < pairs.size(); ++i) {
      const Term& even = parts[kEven][i];
      parts[kOdd].push_back({weight_of_tap[pairs[i][1]], even.plus + 2, even.plus + 1});
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
  void put(int64_t tap) {
    weight_of_tap[tap] = int64_t(weights.size());
    weights.push_back({tap, -1});
  }
  int64_t add_run(const TapAxis<C>& axis, int64_t tap, int64_t more, int64_t rows) {
    const auto [first, last] = axis.inside(axis.taps[tap].offset, axis.outputs + more);
    runs.push_back({tap, size, more, first, last});
    size += rows + more;
    return runs.back().begin;
  }
};

}  // namespace alias_ops::ALIAS_OPS_ISA
