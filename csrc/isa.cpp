// Picks the kernels for this processor, once; ALIAS_OPS_ISA in the environment forces a lesser set.
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace alias_ops {

#if defined(ALIAS_OPS_HAVE_AVX512)
namespace avx512 {
extern const Kernels table;
}
#endif
#if defined(ALIAS_OPS_HAVE_AVX2)
namespace avx2 {
extern const Kernels table;
}
#endif
namespace portable {
extern const Kernels table;
}

namespace {

bool has_avx2() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

bool has_avx512() {
#if defined(__x86_64__)
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

const Kernels& choose() {
  int count;
  const InstructionSet* sets = instruction_sets(&count);
  const char* forced = std::getenv("ALIAS_OPS_ISA");
  for (int i = 0; i < count; ++i) {
    if (forced != nullptr && *forced != '\0' && std::strcmp(forced, sets[i].kernels->name) != 0) continue;
    if (sets[i].supported) return *sets[i].kernels;
    if (forced != nullptr && *forced != '\0') {
      throw std::runtime_error(std::string("ALIAS_OPS_ISA=") + forced + " cannot run: this processor does not have it");
    }
  }
  throw std::runtime_error(std::string("ALIAS_OPS_ISA=") + forced + " names no instruction set of this build");
}

}  // namespace

const InstructionSet* instruction_sets(int* count) {
  static const InstructionSet sets[] = {
#if defined(ALIAS_OPS_HAVE_AVX512)
      {&avx512::table, has_avx512()},
#endif
#if defined(ALIAS_OPS_HAVE_AVX2)
      {&avx2::table, has_avx2()},
#endif
      {&portable::table, true},
  };
  *count = int(sizeof sets / sizeof *sets);
  return sets;
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace alias_ops
