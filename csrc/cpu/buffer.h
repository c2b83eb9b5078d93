// Working memory that a thread keeps from call to call.
//
// What malloc gives back to the system between two calls, the next call has to fault in again page by page, which
// can take longer than the arithmetic. std::vector would write it all over with zeros besides.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "../huge_pages.h"

namespace alias_ops::ALIAS_OPS_ISA {

struct Memory {
  void* data = nullptr;
  std::size_t bytes = 0;

  std::align_val_t alignment() const {
    constexpr std::size_t kLine = 64, kHuge = 2 << 20;
    return std::align_val_t(bytes < kHuge ? kLine : kHuge);
  }
};

// AddressSanitizer sees what leaves a block of the size asked for; a larger one kept from another call would hide it.
#if defined(__SANITIZE_ADDRESS__)
inline constexpr bool kKeepsMemory = false;
#elif defined(__has_feature)
inline constexpr bool kKeepsMemory = !__has_feature(address_sanitizer);
#else
inline constexpr bool kKeepsMemory = true;
#endif

// The blocks that a thread is done with, the last one given back at the end; at most kMost bytes of them.
class KeptMemory {
  static constexpr std::size_t kMost = kKeepsMemory ? 16 << 20 : 0, kCount = 32;

 public:
  KeptMemory() { kept_.reserve(kCount + 1); }
  KeptMemory(const KeptMemory&) = delete;
  KeptMemory& operator=(const KeptMemory&) = delete;
  ~KeptMemory() {
    for (const Memory& block : kept_) release(block);
  }

  Memory take(std::size_t bytes) {
    auto best = kept_.end();
    for (auto block = kept_.begin(); block != kept_.end(); ++block) {
      if (block->bytes >= bytes && (best == kept_.end() || block->bytes < best->bytes)) best = block;
    }
    if (best != kept_.end()) {
      const Memory block = *best;
      kept_.erase(best);
      bytes_ -= block.bytes;
      return block;
    }
    Memory block{nullptr, bytes};
    block.data = ::operator new(bytes, block.alignment());
    ask_for_huge_pages(block.data, bytes);
    return block;
  }

  void give(const Memory& block) noexcept {
    kept_.push_back(block);
    bytes_ += block.bytes;
    while (bytes_ > kMost || kept_.size() > kCount) {
      bytes_ -= kept_.front().bytes;
      release(kept_.front());
      kept_.erase(kept_.begin());
    }
  }

 private:
  static void release(const Memory& block) noexcept { ::operator delete(block.data, block.alignment()); }

  std::vector<Memory> kept_;
  std::size_t bytes_ = 0;
};

inline KeptMemory& kept_memory() {
  thread_local KeptMemory blocks;
  return blocks;
}

// `size` numbers that nobody has written yet.
template <class C>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) : size_(size) {
    if (size > 0) block_ = kept_memory().take(std::size_t(size) * sizeof(C));
  }
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, {})), size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(block_, other.block_), std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() {
    if (block_.data != nullptr) kept_memory().give(block_);
  }

  C* data() { return static_cast<C*>(block_.data); }
  const C* data() const { return static_cast<const C*>(block_.data); }
  C* begin() { return data(); }
  C* end() { return data() + size_; }

 private:
  Memory block_;
  int64_t size_ = 0;
};

}  // namespace alias_ops::ALIAS_OPS_ISA
