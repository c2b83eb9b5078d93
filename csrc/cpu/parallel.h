// Work on all threads, in pieces that may be done in any order.
#pragma once

#include <algorithm>
#include <atomic>
#include <vector>

#include "../kernels.h"
#include "blocks.h"

namespace alias_ops::ALIAS_OPS_ISA {

// One thread's pieces: those of its own share first, in order, then what others have left.
class Pieces {
 public:
  struct alignas(64) Share {
    std::atomic<int64_t> at;
    int64_t end;
  };
  Pieces(std::vector<Share>& shares, int64_t own, int64_t together) : shares_(shares), own_(own), together_(together) {}

  // The next piece, or -1.
  int64_t next() {
    while (at_ == end_) {
      if (tried_ == shares_.size()) return -1;
      Share& share = shares_[(own_ + tried_) % shares_.size()];
      // Looked at first: a share that is done with stays in everybody's cache.
      int64_t at = share.at.load(std::memory_order_relaxed);
      if (at < share.end) at = share.at.fetch_add(together_, std::memory_order_relaxed);
      if (at < share.end) {
        at_ = at, end_ = std::min(at + together_, share.end);
      } else {
        ++tried_;
      }
    }
    return at_++;
  }

 private:
  std::vector<Share>& shares_;
  size_t own_, tried_ = 0;
  int64_t together_, at_ = 0, end_ = 0;
};

// body(pieces) on every thread, for pieces 0..count. A thread that is held up, or whose core is of the slower kind,
// keeps nobody waiting for longer than its last few; equal ranges would all wait for it.
template <class Body>
inline void parallel(const Runtime& runtime, int64_t count, int64_t grain, const Body& body) {
  constexpr int64_t kTurns = 32;  // in which a share is taken
  if (count <= 0) return;
  const int64_t threads = std::clamp<int64_t>(ceiling(count, grain), 1, runtime.threads);
  std::vector<Pieces::Share> shares(threads);
  for (int64_t t = 0; t < threads; ++t) {
    shares[t].at.store(count * t / threads, std::memory_order_relaxed);
    shares[t].end = count * (t + 1) / threads;
  }
  const int64_t together = threads == 1 ? count : std::max<int64_t>(1, count / (threads * kTurns));
  const auto each_share = [&](int64_t begin, int64_t end) {
    // More than one where this thread is alone with all of them.
    for (int64_t t = begin; t < end; ++t) {
      Pieces pieces(shares, t, together);
      body(pieces);
    }
  };
  using Each = decltype(each_share);
  runtime.parallel_for(
      0, threads, 1,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const Each*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&each_share)));
}

}  // namespace alias_ops::ALIAS_OPS_ISA
