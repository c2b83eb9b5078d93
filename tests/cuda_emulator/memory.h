// Memory as the emulated threads see it: every access within bounds, aligned and unraced.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "fibers.h"

namespace alias_ops::cuda {

// How many barriers there were before an access: of the cluster, of the accessed block, of the thread's warp.
struct Epochs {
  uint32_t cluster, block, warp;
};

// Shared memory of one block. It starts as NaN in every format. Two accesses of one word by different threads, at least
// one of them a write, need a barrier between them: of the cluster, of the block if both are in it, or of the warp.
class SharedMemory {
 public:
  SharedMemory(size_t bytes, int threads)
      : threads_(threads), words_((bytes + 15) / 16), bytes_(bytes), last_(bytes / kUnit + 1) {
    poison();
  }

  void poison() { std::memset(words_.data(), 0xff, words_.size() * sizeof(words_[0])); }
  char* base() { return reinterpret_cast<char*>(words_.data()); }

  // The block's last thread has ended: by now others must have stopped to read what is its own, and a barrier says so.
  void leave(uint32_t cluster_epoch) {
    if (read_from_afar_ && far_epoch_ == cluster_epoch) throw Violation("a block leaves while another one reads of it");
    left_ = true;
  }

  // ``far``: by a thread of another block of the cluster.
  void access(const void* at, size_t bytes, bool write, int thread, const Epochs& epochs, bool far = false) {
    if (left_) throw Violation("shared memory of a block that has left" + of(thread));
    // Before its first barrier, nothing says that a block has started.
    if (far && epochs.cluster == 0) throw Violation("shared memory of a block that may not have started" + of(thread));
    if (far) read_from_afar_ = true, far_epoch_ = epochs.cluster;
    const ptrdiff_t offset = static_cast<const char*>(at) - base();
    if (offset < 0 || size_t(offset) + bytes > bytes_) {
      throw Violation("shared memory of " + std::to_string(bytes_) + " bytes accessed at " + std::to_string(offset) +
                      of(thread));
    }
    if (offset % ptrdiff_t(bytes) != 0)
      throw Violation("misaligned shared access at " + std::to_string(offset) + of(thread));
    for (size_t u = offset / kUnit; u < (offset + bytes + kUnit - 1) / kUnit; ++u) {
      Unit& unit = last_[u];
      const Access now{epochs, thread};
      const Access* before[] = {&unit.write, &unit.read, &unit.other_read, &unit.far_read};
      for (const Access* b : before) {
        if ((write || b == &unit.write) && races(*b, now)) {
          throw Violation("race in shared memory at " + std::to_string(u * kUnit) + of(thread) + " and of thread " +
                          std::to_string(b->thread));
        }
      }
      if (write) {
        unit.write = now;
      } else if (far) {
        unit.far_read = now;
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
    Epochs epochs{};
    int thread = -1;  // none yet
  };
  struct Unit {
    Access write, read, other_read, far_read;
  };

  bool races(const Access& before, const Access& now) const {
    if (before.thread < 0 || before.thread == now.thread || before.epochs.cluster != now.epochs.cluster) return false;
    if (before.thread / threads_ != now.thread / threads_) return true;
    if (before.epochs.block != now.epochs.block) return false;
    return before.thread / 32 != now.thread / 32 || before.epochs.warp == now.epochs.warp;
  }
  static std::string of(int thread) { return " by thread " + std::to_string(thread); }

  struct alignas(16) Word {
    char bytes[16];
  };
  int threads_;  // of a block
  bool left_ = false, read_from_afar_ = false;
  uint32_t far_epoch_ = 0;
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
