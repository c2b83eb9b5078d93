// The threads of a block, or of the blocks of a cluster, as fibers of one CPU thread: each runs until it has to wait
// for others.
#pragma once

#include <ucontext.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace alias_ops::cuda {

struct Violation : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A meeting point of a fixed number of threads.
struct Meeting {
  int expected = 0, arrived = 0;
  uint64_t times = 0;
  std::string what;
  std::vector<void*> brought;  // by lane
};

class Fibers {
 public:
  Fibers(int threads, int blocks, std::function<void()> body)
      : body_(std::move(body)), fibers_(threads * blocks), blocks_(blocks) {
    if (threads % 32 != 0) throw Violation("a block must be whole warps, got " + std::to_string(threads));
    cluster_.expected = threads * blocks;
    for (Meeting& b : blocks_) b.expected = threads;
    warps_.resize(threads * blocks / 32);
    for (Meeting& w : warps_) w.expected = 32, w.brought.resize(32);
  }

  // Runs every thread to its end. ``backwards`` starts with the last one: what is right in one order alone is wrong.
  void run(bool backwards) {
    active() = this;
    const int threads = int(fibers_.size());
    for (Fiber& f : fibers_) {
      f.stack.reset(new char[kStack]);  // not set to zero: most of it is never touched
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.get(), f.context.uc_stack.ss_size = kStack, f.context.uc_link = &scheduler_;
      makecontext(&f.context, &Fibers::enter, 0);
    }
    for (int left = threads; left > 0;) {
      bool moved = false;
      for (int i = 0; i < threads; ++i) {
        Fiber& f = fibers_[current_ = backwards ? threads - 1 - i : i];
        if (f.done || (f.waits != nullptr && f.waits->times == f.since)) continue;
        f.waits = nullptr, moved = true;
        swapcontext(&scheduler_, &f.context);
        if (!error_.empty()) throw Violation(error_);
        if (f.done && left_block()) ended_(current_ / threads_of_block());
        if (f.done) --left;
      }
      if (!moved) throw Violation("threads wait for others that never come" + where());
    }
  }

  int current() const { return current_; }
  int threads_of_block() const { return int(fibers_.size() / blocks_.size()); }
  Meeting& warp() { return warps_[current_ / 32]; }
  Meeting& block() { return blocks_[current_ / threads_of_block()]; }
  Meeting& cluster() { return cluster_; }

  // What to do when the last thread of a block has ended.
  void at_end(std::function<void(int block)> ended) { ended_ = std::move(ended); }

  // Waits at ``m`` until all are there. The last one to come calls ``all``.
  template <class All>
  void meet(Meeting& m, const char* what, All all) {
    if (m.arrived == 0) m.what = what;
    if (m.what != what) throw Violation("threads meet at " + m.what + " and at " + what + " at once" + where());
    if (++m.arrived == m.expected) {
      all();
      m.arrived = 0, ++m.times;
      return;
    }
    Fiber& f = fibers_[current_];
    f.waits = &m, f.since = m.times;
    swapcontext(&f.context, &scheduler_);
  }

  std::string where() const { return " (thread " + std::to_string(current_) + ")"; }

  static Fibers*& active() {
    static Fibers* fibers = nullptr;
    return fibers;
  }

 private:
  static constexpr size_t kStack = 128 << 10;

  struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    bool done = false;
    const Meeting* waits = nullptr;
    uint64_t since = 0;
  };

  // Whether the current thread's block has no other left.
  bool left_block() const {
    const int threads = threads_of_block(), first = current_ / threads * threads;
    for (int i = first; i < first + threads; ++i) {
      if (!fibers_[i].done) return false;
    }
    return true;
  }

  static void enter() {
    Fibers& f = *active();
    try {
      f.body_();
    } catch (const std::exception& e) {
      f.error_ = e.what();
    }
    f.fibers_[f.current_].done = true;
  }

  std::function<void()> body_;
  std::vector<Fiber> fibers_;
  std::vector<Meeting> warps_, blocks_;
  Meeting cluster_;
  std::function<void(int block)> ended_ = [](int) {};
  ucontext_t scheduler_;
  int current_ = 0;
  std::string error_;
};

}  // namespace alias_ops::cuda
