// Memory as the emulated threads see it: every access within bounds, aligned and unraced.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "fibers.h"

namespace alias_ops::cuda {

// Shared memory starts as NaN in every format. Two accesses of one word by different threads, at least one of them a
// write, need a barrier between them: of the block, or of the warp if both are in it.
class SharedMemory {
 public:
  explicit SharedMemory(size_t bytes) : words_((bytes + 15) / 16), bytes_(bytes), last_(bytes / kUnit + 1) { poison(); }

  void poison() { std::memset(words_.data(), 0xff, words_.size() * sizeof(words_[0])); }
  char* base() { return reinterpret_cast<char*>(words_.data()); }

  void access(const void* at, size_t bytes, bool write, int thread, uint64_t epoch, uint64_t warp_epoch) {
    const ptrdiff_t offset = static_cast<const char*>(at) - base();
    if (offset < 0 || size_t(offset) + bytes > bytes_) {
      throw Violation("shared memory of " + std::to_string(bytes_) + " bytes accessed at " + std::to_string(offset) +
                      of(thread));
    }
    if (offset % ptrdiff_t(bytes) != 0)
      throw Violation("misaligned shared access at " + std::to_string(offset) + of(thread));
    for (size_t u = offset / kUnit; u < (offset + bytes + kUnit - 1) / kUnit; ++u) {
      Unit& unit = last_[u];
      const Access now{epoch, warp_epoch, thread};
      if (races(unit.write, now) || (write && (races(unit.read, now) || races(unit.other_read, now)))) {
        throw Violation("race in shared memory at " + std::to_string(u * kUnit) + of(thread) + " and of thread " +
                        std::to_string(races(unit.write, now) ? unit.write.thread : unit.read.thread));
      }
      if (write) {
        unit.write = now;
      } else if (unit.read.thread != thread) {  // the last two readers: if several, one is not the next writer
        unit.other_read = unit.read, unit.read = now;
      } else {
        unit.read = now;
      }
    }
  }

 private:
  static constexpr size_t kUnit = 2;

  struct Access {
    uint64_t epoch = ~uint64_t(0), warp_epoch = 0;
    int thread = -1;
  };
  struct Unit {
    Access write, read, other_read;
  };

  static bool races(const Access& before, const Access& now) {
    if (before.epoch != now.epoch || before.thread == now.thread) return false;
    return before.thread / 32 != now.thread / 32 || before.warp_epoch == now.warp_epoch;
  }
  static std::string of(int thread) { return " by thread " + std::to_string(thread); }

  struct alignas(16) Word {
    char bytes[16];
  };
  std::vector<Word> words_;
  size_t bytes_;
  std::vector<Unit> last_;
};

// Tensors that a launch may touch; of a written one every element is written once.
class GlobalMemory {
 public:
  void may_read(const void* data, size_t bytes) { add(data, bytes, false); }
  void may_write(void* data, size_t bytes) { add(data, bytes, true); }

  void access(const void* at, size_t bytes, bool write) {
    const char* p = static_cast<const char*>(at);
    if (reinterpret_cast<uintptr_t>(p) % bytes != 0) throw Violation("misaligned global access");
    for (Region& r : regions_) {
      if (p < r.begin || p + bytes > r.begin + r.bytes) continue;
      if (r.writable != write) throw Violation(write ? "write to an input" : "read of an output");
      for (size_t i = p - r.begin; write && i < size_t(p - r.begin) + bytes; ++i) {
        if (r.written[i]) throw Violation("output written twice at byte " + std::to_string(i));
        r.written[i] = true;
      }
      return;
    }
    throw Violation(std::string(write ? "write" : "read") + " of " + std::to_string(bytes) +
                    " bytes outside of every tensor");
  }

  // Bytes of the outputs that nothing was written to.
  size_t unwritten() const {
    size_t count = 0;
    for (const Region& r : regions_) {
      for (const bool w : r.written) count += !w;
    }
    return count;
  }

 private:
  struct Region {
    const char* begin;
    size_t bytes;
    bool writable;
    std::vector<bool> written;
  };
  void add(const void* data, size_t bytes, bool writable) {
    regions_.push_back({static_cast<const char*>(data), bytes, writable, std::vector<bool>(writable ? bytes : 0)});
  }
  std::vector<Region> regions_;
};

}  // namespace alias_ops::cuda
