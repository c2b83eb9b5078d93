// Multiply-add rate of this machine from registers alone: the ceiling that arithmetic is measured against.
// To be compiled as GNU C++, which joins a product and a sum into one instruction.
#include <chrono>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

// Enough independent sums to cover the latency of both multipliers.
constexpr int kSums = 12;

template <class T>
double rate_of_one(double seconds) {
  typedef T Vec __attribute__((vector_size(kBytes)));
  constexpr int kLanes = kBytes / sizeof(T);
  Vec sum[kSums], a, b;
  for (int i = 0; i < kLanes; ++i) a[i] = T(1.0000001), b[i] = T(1e-9);
  for (int s = 0; s < kSums; ++s) sum[s] = a * T(s + 1);
  const auto start = std::chrono::steady_clock::now();
  double elapsed = 0, operations = 0;
  while (elapsed < seconds) {
    for (int i = 0; i < 20000; ++i) {
#pragma GCC unroll 12
      for (int s = 0; s < kSums; ++s) sum[s] = sum[s] * a + b;
    }
    operations += 2.0 * 20000 * kSums * kLanes;
    elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  volatile T keep = 0;
  for (int s = 0; s < kSums; ++s) keep = keep + sum[s][0];
  return operations / elapsed;
}

// A processor to each thread: the scheduler may leave fresh threads on one for longer than they run.
void pin([[maybe_unused]] int thread) {
#if defined(__linux__)
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &allowed) && thread-- == 0) CPU_SET(cpu, &one);
  }
  if (CPU_COUNT(&one) == 1) sched_setaffinity(0, sizeof one, &one);
#endif
}

template <class T>
double rate(int threads, double seconds) {
  std::vector<double> rates(threads);
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) {
    team.emplace_back([&rates, t, seconds] {
      pin(t);
      rates[t] = rate_of_one<T>(seconds);
    });
  }
  for (std::thread& member : team) member.join();
  double sum = 0;
  for (double one : rates) sum += one;
  return sum;
}

}  // namespace

// Floating-point operations a second, a multiply-add counted as two.
extern "C" double float32_rate(int threads, double seconds) { return rate<float>(threads, seconds); }
extern "C" double float64_rate(int threads, double seconds) { return rate<double>(threads, seconds); }
