// The lines of the next group of maps, asked for while a group is worked on: a few between each two tiles, in order.
//
// All at once they wait for each other, as a core has room for two or three dozen lines on their way to its first
// cache; the hardware's prefetchers have more, but follow only those who come line by line. Lines to be written are
// asked for too: a store waits for its line as a load does, and a few dozen stores later so does everything.
#pragma once

#include <algorithm>
#include <cstdint>

#include "blocks.h"

namespace alias_ops::ALIAS_OPS_ISA {

class Ahead {
 public:
  // Into the first cache, or the second one: as measured on processors whose first one has so many bytes
  // (benchmarks/NOTES.md). In 32 KB, the next maps drive out what the products work on.
  explicit Ahead(bool first) : first_(first) {}
  static bool has_room(int64_t first_cache) { return first_cache >= 48 << 10; }

  // A group begins that another follows. What that one reads and writes: so many numbers from x and y on.
  template <class S>
  void group(const S* x, int64_t x_size, const S* y, int64_t y_size) {
    // Groups have as many tiles as the one before, or nearly.
    const int64_t tiles = std::max<int64_t>(1, tiles_);
    tiles_ = 0;
    const bool fits = (x_size + y_size) * int64_t(sizeof(S)) <= kMost;
    read_ = Lines(x, fits ? x + x_size : x, tiles);
    written_ = Lines(y, fits ? y + y_size : y, tiles);
  }
  void tile() {
    ++tiles_;
    read_.ask<false>(first_);
    written_.ask<true>(first_);
    asm volatile("");  // GCC drops calls of a function that only prefetches, as one without effect
  }

 private:
  // Larger groups would be gone from the second cache before their turn.
  static constexpr int64_t kMost = 512 << 10;

  struct Lines {
    static constexpr int64_t kLine = 64;
    const char *at = nullptr, *end = nullptr;
    int64_t step = 0;

    Lines() = default;
    Lines(const void* from, const void* to, int64_t tiles)
        : at(static_cast<const char*>(from)), end(static_cast<const char*>(to)) {
      step = ceiling(ceiling(end - at, kLine), tiles) * kLine;
    }
    // volatile: one loop, not one for each cache. This is inlined between any two tiles, and two are too long for those
    // of 8 x 8 maps; called, they would take the products' registers.
    template <bool kWrite>
    void ask(const volatile bool& first) {
      const char* stop = std::min(at + step, end);
      for (const char* line = at; line < stop; line += kLine) {
        if (first) {
          __builtin_prefetch(line, kWrite, 3);
        } else {
          __builtin_prefetch(line, 0, 2);
        }
      }
      at = stop;
    }
  };

  bool first_;
  Lines read_, written_;
  int64_t tiles_ = 0;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
