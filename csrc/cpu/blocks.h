// A range in blocks.
#pragma once

#include <cstdint>

namespace alias_ops::ALIAS_OPS_ISA {

inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

// visit(first, count) for blocks of nearly equal size, none above `most`: a short last one would starve the
// multipliers.
template <class Visit>
inline void each_block(int64_t size, int64_t most, const Visit& visit) {
  const int64_t blocks = ceiling(size, most);
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t first = size * block / blocks;
    visit(first, size * (block + 1) / blocks - first);
  }
}

}  // namespace alias_ops::ALIAS_OPS_ISA
