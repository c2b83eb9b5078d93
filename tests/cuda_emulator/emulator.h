// csrc/cuda/device.h on a CPU: the same functions, every access checked, matrix units by the layouts of the PTX manual.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <memory>

#include "fibers.h"
#include "memory.h"
#include "numbers.h"

#define ALIAS_OPS_DEVICE inline
#define ALIAS_OPS_KERNEL(threads, blocks) inline void

namespace alias_ops::cuda {

// One block at a time, or all blocks of a cluster.
struct Emulator {
  struct Copy {
    char* to;
    char data[16];
    int bytes;
  };
  struct Thread {
    std::vector<Copy> open;                // copies of no group yet
    std::deque<std::vector<Copy>> groups;  // under way
    int cluster_barriers = 0, barriers = 0;
  };
  struct Block {
    SharedMemory shared;
    uint32_t epoch;
  };

  Fibers fibers;
  GlobalMemory& global;
  std::vector<Block> cluster;
  std::vector<Thread> threads;
  std::vector<uint32_t> warp_epochs;
  uint32_t cluster_epoch;
  int64_t first_block, blocks;
  int block_y;

  // A cluster's barrier that is one of its blocks alone, so that tests see what misses it; none: -1.
  static int& weakened() {
    static int which = -1;
    return which;
  }

  // A block's barrier that is none; no such one: -1.
  static int& removed() {
    static int which = -1;
    return which;
  }

  int threads_of_block() const { return fibers.threads_of_block(); }
  int rank() const { return fibers.current() / threads_of_block(); }
  Block& own() { return cluster[rank()]; }
  Thread& current() { return threads[fibers.current()]; }
  void access_shared(const void* at, size_t bytes, bool write) {
    const int t = fibers.current();
    own().shared.access(at, bytes, write, t, {cluster_epoch, own().epoch, warp_epochs[t / 32]});
  }
  // Where block `of` has what the own block has at `at`.
  const void* access_block(const void* at, size_t bytes, int of) {
    const int t = fibers.current();
    if (of < 0 || of >= int(cluster.size())) throw Violation("no block " + std::to_string(of) + " in the cluster");
    SharedMemory& there = cluster[of].shared;
    const char* place = there.base() + (static_cast<const char*>(at) - own().shared.base());
    there.access(place, bytes, false, t, {cluster_epoch, cluster[of].epoch, warp_epochs[t / 32]}, of != rank());
    return place;
  }
  static Emulator*& active() {
    static Emulator* emulator = nullptr;
    return emulator;
  }
};

inline Emulator& emulator() { return *Emulator::active(); }

inline int thread() { return emulator().fibers.current() % emulator().threads_of_block(); }
inline int lane() { return thread() % 32; }
inline int warp() { return thread() / 32; }
inline int64_t block() { return emulator().first_block + emulator().rank(); }
inline int64_t blocks() { return emulator().blocks; }
inline int block_y() { return emulator().block_y; }
inline char* shared_memory() { return emulator().own().shared.base(); }

template <class V>
inline V load_shared(const void* at) {
  emulator().access_shared(at, sizeof(V), false);
  V value;
  std::memcpy(&value, at, sizeof(V));
  return value;
}
template <class V>
inline void store_shared(void* at, V value) {
  emulator().access_shared(at, sizeof(V), true);
  std::memcpy(at, &value, sizeof(V));
}
template <class V>
inline V load_global(const void* at) {
  emulator().global.access(at, sizeof(V), false);
  V value;
  std::memcpy(&value, at, sizeof(V));
  return value;
}
template <class V>
inline void store_global(void* at, V value) {
  emulator().global.access(at, sizeof(V), true);
  std::memcpy(at, &value, sizeof(V));
}

// Until the thread has waited for a copy, its target is NaN.
template <int BYTES>
inline void copy_async_or_zero(void* shared, const void* global, bool wanted) {
  Emulator& e = emulator();
  Emulator::Copy copy{static_cast<char*>(shared), {}, BYTES};
  if (wanted) {
    e.global.access(global, BYTES, false);
    std::memcpy(copy.data, global, BYTES);
  }
  e.access_shared(shared, BYTES, true);
  std::memset(shared, 0xff, BYTES);
  e.current().open.push_back(copy);
}
template <int BYTES>
inline void copy_async(void* shared, const void* global) {
  copy_async_or_zero<BYTES>(shared, global, true);
}
inline void commit_copies() {
  Emulator::Thread& t = emulator().current();
  t.groups.push_back(std::move(t.open));
  t.open.clear();
}
template <int PENDING>
inline void wait_for_copies() {
  Emulator& e = emulator();
  for (auto& groups = e.current().groups; groups.size() > PENDING; groups.pop_front()) {
    for (const Emulator::Copy& c : groups.front()) {
      e.access_shared(c.to, c.bytes, true);
      std::memcpy(c.to, c.data, c.bytes);
    }
  }
}

inline void barrier() {
  Emulator& e = emulator();
  if (e.current().barriers++ == Emulator::removed()) return;
  e.fibers.meet(e.fibers.block(), "a barrier", [&] { ++e.own().epoch; });
}

constexpr bool kHasClusters = true;

inline void cluster_barrier() {
  Emulator& e = emulator();
  if (e.current().cluster_barriers++ == Emulator::weakened()) return barrier();
  e.fibers.meet(e.fibers.cluster(), "a cluster's barrier", [&] { ++e.cluster_epoch; });
}

inline Words<4> load_of_block(const void* at, int rank) {
  Words<4> value;
  std::memcpy(&value, emulator().access_block(at, sizeof(value), rank), sizeof(value));
  return value;
}

// ``all`` sees what every lane of the warp brought, and writes what it gets.
template <class Mine, class All>
inline void as_warp(const char* what, Mine& mine, All all) {
  Meeting& w = emulator().fibers.warp();
  w.brought[lane()] = &mine;
  emulator().fibers.meet(w, what, [&] { all([&](int of) -> Mine& { return *static_cast<Mine*>(w.brought[of]); }); });
}

inline void warp_barrier() {
  int nothing = 0;
  as_warp("a warp's barrier", nothing, [](auto) { ++emulator().warp_epochs[emulator().fibers.current() / 32]; });
}

inline float shuffle(float value, int from) {
  struct {
    float value, result;
    int from;
  } mine{value, 0, from};
  as_warp("a shuffle", mine, [](auto of) {
    for (int l = 0; l < 32; ++l) of(l).result = of(of(l).from & 31).value;
  });
  return mine.result;
}
inline float shuffle_xor(float value, int mask) { return shuffle(value, lane() ^ mask); }

inline void load_tiles_as(uint32_t (&tiles)[4], const void* row, bool transposed) {
  struct {
    const uint16_t* row;
    uint32_t* tiles;
  } mine{static_cast<const uint16_t*>(row), tiles};
  emulator().access_shared(row, 16, false);
  as_warp("ldmatrix", mine, [&](auto of) {
    for (int l = 0; l < 32; ++l) {
      const int g = l / 4, t = l % 4;
      for (int tile = 0; tile < 4; ++tile) {
        const auto at = [&](int r, int c) {
          return uint32_t(transposed ? of(8 * tile + c).row[r] : of(8 * tile + r).row[c]);
        };
        of(l).tiles[tile] = at(g, 2 * t) | at(g, 2 * t + 1) << 16;
      }
    }
  });
}
inline void load_tiles(uint32_t (&tiles)[4], const void* row) { load_tiles_as(tiles, row, false); }
inline void load_tiles_transposed(uint32_t (&tiles)[4], const void* row) { load_tiles_as(tiles, row, true); }

// c += a b on [16 x K] and [K x 8] in double, rounded to float once.
template <int K, class Mine, class Of, class A, class B>
inline void product_of_warp(Of of, A a, B b) {
  double left[16][K], right[K][8];
  for (int l = 0; l < 32; ++l) a(of(l), l / 4, l % 4, left), b(of(l), l / 4, l % 4, right);
  for (int l = 0; l < 32; ++l) {
    for (int i = 0; i < 4; ++i) {
      const int row = l / 4 + 8 * (i / 2), column = 2 * (l % 4) + i % 2;
      double sum = (*of(l).c)[i];
      for (int k = 0; k < K; ++k) sum += left[row][k] * right[k][column];
      (*of(l).c)[i] = std::isnan(sum) ? float_of(0x7fffffffu) : float(sum);  // the NaN that a GPU makes
    }
  }
}

template <class T>
inline void multiply_16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Mine {
    float (*c)[4];
    const uint32_t *a, *b;
  } mine{&c, a, b};
  as_warp("mma.m16n8k16", mine, [](auto of) {
    const auto half = [](uint32_t pair, int i) { return double(to_float(T{uint16_t(pair >> 16 * i)})); };
    product_of_warp<16, Mine>(
        of,
        [&](const Mine& m, int g, int t, double (&left)[16][16]) {
          for (int r = 0; r < 4; ++r) {
            for (int i = 0; i < 2; ++i) left[g + 8 * (r % 2)][2 * t + i + 8 * (r / 2)] = half(m.a[r], i);
          }
        },
        [&](const Mine& m, int g, int t, double (&right)[16][8]) {
          for (int r = 0; r < 2; ++r) {
            for (int i = 0; i < 2; ++i) right[2 * t + i + 8 * r][g] = half(m.b[r], i);
          }
        });
  });
}

inline void multiply_tf32(float (&c)[4], const float (&a)[4], const float (&b)[2]) {
  struct Mine {
    float (*c)[4];
    const float *a, *b;
  } mine{&c, a, b};
  as_warp("mma.m16n8k8", mine, [](auto of) {
    const auto cut = [](float v) { return double(float_of(bits_of(v) & 0xffffe000u)); };
    product_of_warp<8, Mine>(
        of,
        [&](const Mine& m, int g, int t, double (&left)[16][8]) {
          for (int r = 0; r < 4; ++r) left[g + 8 * (r % 2)][t + 4 * (r / 2)] = cut(m.a[r]);
        },
        [&](const Mine& m, int g, int t, double (&right)[8][8]) {
          for (int r = 0; r < 2; ++r) right[t + 4 * r][g] = cut(m.b[r]);
        });
  });
}

// Runs a kernel over a grid of blocks, `cluster` of them together, each in both orders of its threads' turns (the
// second into the same outputs, which are as if not written yet). Returns "" or what the first wrong access was.
template <class Kernel>
inline std::string emulate(int64_t blocks, int blocks_y, int threads, size_t shared_bytes, GlobalMemory global,
                           const Kernel& kernel, int cluster = 1) {
  try {
    if (blocks % cluster != 0) throw Violation("a grid must be whole clusters, got " + std::to_string(blocks));
    for (const bool backwards : {false, true}) {
      GlobalMemory memory = global;
      for (int y = 0; y < blocks_y; ++y) {
        for (int64_t b = 0; b < blocks; b += cluster) {
          Emulator e{Fibers(threads, cluster, kernel), memory, {}, {}, {}, 0, b, blocks, y};
          for (int i = 0; i < cluster; ++i) e.cluster.push_back({SharedMemory(shared_bytes, threads), 0});
          e.threads.resize(threads * cluster), e.warp_epochs.resize(threads * cluster / 32);
          e.fibers.at_end([&](int block) { e.cluster[block].shared.leave(e.cluster_epoch); });
          Emulator::active() = &e;
          e.fibers.run(backwards);
          for (const Emulator::Thread& t : e.threads) {
            if (!t.open.empty()) throw Violation("copies left without a group");
          }
        }
      }
      if (memory.unwritten() != 0) throw Violation(std::to_string(memory.unwritten()) + " bytes of output not written");
    }
  } catch (const Violation& violation) {
    return violation.what();
  }
  return "";
}

}  // namespace alias_ops::cuda
