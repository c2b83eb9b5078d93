// Huge pages for large results, where the system lends them to those who ask (madvise, the usual setting).
//
// Memory that malloc has just been given by the system, as any block above 32 MB is each time, costs one fault
// for every 4 KB that the kernel writes: more than the kernel itself. Of 2 MB it costs one, which is 20 times less.
// Only blocks that lie in the result whole are asked for, so that no other memory is kept or zeroed.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#endif

namespace alias_ops {

#if defined(__linux__) && defined(MADV_HUGEPAGE)

inline bool huge_pages_wanted() {
  static const bool wanted = [] {
    const char* said = std::getenv("ALIAS_OPS_HUGE_PAGES");
    return said == nullptr || std::strcmp(said, "0") != 0;
  }();
  return wanted;
}

inline void ask_for_huge_pages(void* data, std::size_t bytes) {
  constexpr std::uintptr_t kHuge = 2 << 20;
  const auto from = (reinterpret_cast<std::uintptr_t>(data) + kHuge - 1) / kHuge * kHuge;
  const auto to = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kHuge * kHuge;
  if (from >= to || !huge_pages_wanted()) return;
  madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);  // advice: nothing depends on its being heeded
}

#else

inline void ask_for_huge_pages(void*, std::size_t) {}

#endif

}  // namespace alias_ops
