// Bytes of a core's first data cache; ALIAS_OPS_FIRST_CACHE in the environment says otherwise.
#pragma once

#include <cstdint>
#include <cstdlib>

#if defined(__linux__)
#include <unistd.h>
#endif

namespace alias_ops {

inline int64_t first_cache() {
  static const int64_t bytes = [] {
    const char* said = std::getenv("ALIAS_OPS_FIRST_CACHE");
    int64_t known = said == nullptr ? 0 : std::strtoll(said, nullptr, 10);
#if defined(_SC_LEVEL1_DCACHE_SIZE)
    if (known <= 0) known = sysconf(_SC_LEVEL1_DCACHE_SIZE);
#endif
    return known > 0 ? known : int64_t(32) << 10;
  }();
  return bytes;
}

}  // namespace alias_ops
