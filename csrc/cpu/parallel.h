// A lambda over a range, through the C signature of kernels.h.
#pragma once

#include "../kernels.h"

namespace alias_ops::ALIAS_OPS_ISA {

template <class Body>
inline void parallel(const Runtime& runtime, int64_t count, int64_t grain, const Body& body) {
  if (count <= 0) return;
  runtime.parallel_for(
      0, count, grain,
      [](int64_t begin, int64_t end, void* context) { (*static_cast<const Body*>(context))(begin, end); },
      const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace alias_ops::ALIAS_OPS_ISA
