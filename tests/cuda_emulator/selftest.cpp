// One kernel with one fault at a time, for tests/test_cuda_emulator.py: does the emulator see it, and nothing else?
#include "fragments.h"

using namespace alias_ops::cuda;

namespace {

enum Fault { kNone, kNoWait, kNoBarrier, kOneLaneLeaves, kNotWritten, kBeyondShared, kBeyondGlobal, kWrittenTwice };

// y [16 x 8] = a [16 x 16] b [16 x 8]; a lies in shared memory, copied there by both warps, each one half.
template <class T, int PRODUCTS>
void product(const float* a, const float* b, float* y, int fault) {
  auto* copied = reinterpret_cast<float*>(shared_memory());
  const int g = lane() / 4, t = lane() % 4;
  copy_async<16>(copied + 4 * thread() + (fault == kBeyondShared ? 4 : 0), a + 4 * thread());
  commit_copies();
  if (fault != kNoWait) wait_for_copies<0>();
  if (fault != kNoBarrier) barrier();
  if (warp() == 1 || (fault == kOneLaneLeaves && lane() == 3)) return;
  float upper[4], lower[4], values[4];
  for (int i = 0; i < 4; ++i) {
    upper[i] = load_shared<float>(copied + 16 * g + 4 * t + i);
    lower[i] = load_shared<float>(copied + 16 * (g + 8) + 4 * t + i);
    values[i] = load_global<float>(b + 8 * (4 * t + i) + g + (fault == kBeyondGlobal ? 1 : 0));
  }
  Left<T, PRODUCTS> left;
  Right<T, PRODUCTS> right;
  left.set(upper, lower), right.set(values);
  float c[4] = {};
  multiply(c, left, right);
  for (int i = 0; i < 4; ++i) {
    if (fault == kNotWritten && i == 3 && lane() == 9) continue;
    const int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    store_global(y + 8 * row + (fault == kWrittenTwice ? column / 2 * 2 : column), c[i]);
  }
}

// The same product by 16-bit tiles: a as it lies, b transposed on the way.
template <class T>
void tiles(const float* a, const float* b, float* y) {
  auto* left = reinterpret_cast<T*>(shared_memory());
  T* right = left + 256;
  for (int i = lane(); i < 256; i += 32) store_shared(left + i, from_float<T>(load_global<float>(a + i)));
  for (int i = lane(); i < 128; i += 32) store_shared(right + i, from_float<T>(load_global<float>(b + i)));
  barrier();
  uint32_t of_a[4], of_b[4];
  load_tiles(of_a, left + 16 * (lane() % 16) + 8 * (lane() / 16));
  load_tiles_transposed(of_b, right + 8 * (lane() % 16));
  float c[4] = {};
  multiply_16<T>(c, of_a, {of_b[0], of_b[1]});
  for (int i = 0; i < 4; ++i) {
    // Each value takes a turn through its neighbour's registers.
    const float there = shuffle_xor(shuffle(c[i], lane() ^ 5), 5);
    store_global(y + 8 * (lane() / 4 + 8 * (i / 2)) + 2 * (lane() % 4) + i % 2, there);
  }
}

enum ClusterFault {
  kNoFault,
  kNoBarrierBefore,
  kNoBarrierBehind,
  kOverwritten,
  kNoSuchBlock,
  kBeyondTheirs,
  kOneBlock
};

// y = x turned by a block: each of a cluster's four blocks keeps 16 numbers, and hands on those of the next one.
void pass_on(const float* x, float* y, int fault) {
  auto* kept = reinterpret_cast<float*>(shared_memory());
  const int rank = int(block() % 4), next = fault == kNoSuchBlock ? rank + 1 : (rank + 1) % 4;
  if (fault == kOneBlock && rank == 2) return;
  if (thread() < 16) store_shared(kept + thread(), load_global<float>(x + 16 * block() + thread()));
  // The first one says that all blocks have started.
  cluster_barrier();
  if (thread() < 16) store_shared(kept + thread(), 2 * load_shared<float>(kept + thread()));
  fault == kNoBarrierBefore ? barrier() : cluster_barrier();
  Words<4> words{};
  if (thread() < 4) words = load_of_block(kept + 4 * thread() + (fault == kBeyondTheirs ? 4 : 0), next);
  if (fault == kOverwritten) store_shared(kept + thread(), 0.0f);
  if (fault != kNoBarrierBehind) cluster_barrier();
  if (thread() < 4) store_global(y + 16 * block() + 4 * thread(), words);
}

std::string message;

}  // namespace

extern "C" const char* run_product(const float* a, const float* b, float* y, int precision, int fault) {
  GlobalMemory memory;
  memory.may_read(a, 1024), memory.may_read(b, 512), memory.may_write(y, 512);
  message = emulate(1, 1, 64, 1024, memory, [=] {
    if (precision == 0) return product<float, 3>(a, b, y, fault);
    if (precision == 1) return product<float, 1>(a, b, y, fault);
    if (precision == 2) return product<BFloat16, 1>(a, b, y, fault);
    return product<Half, 1>(a, b, y, fault);
  });
  return message.c_str();
}

extern "C" const char* run_cluster(const float* x, float* y, int blocks, int fault) {
  GlobalMemory memory;
  memory.may_read(x, 64 * size_t(blocks)), memory.may_write(y, 64 * size_t(blocks));
  message = emulate(blocks, 1, 32, fault == kOverwritten ? 128 : 64, memory, [=] { pass_on(x, y, fault); }, 4);
  return message.c_str();
}

extern "C" const char* run_tiles(const float* a, const float* b, float* y, int is_half) {
  GlobalMemory memory;
  memory.may_read(a, 1024), memory.may_read(b, 512), memory.may_write(y, 512);
  message = emulate(1, 1, 32, 768, memory, [=] { is_half != 0 ? tiles<Half>(a, b, y) : tiles<BFloat16>(a, b, y); });
  return message.c_str();
}

extern "C" void convert(const float* values, int count, uint16_t* bfloat16s, uint16_t* halves, float* back) {
  for (int i = 0; i < count; ++i) {
    bfloat16s[i] = from_float<BFloat16>(values[i]).bits, halves[i] = from_float<Half>(values[i]).bits;
    back[i] = to_float(Half{halves[i]});
  }
}
