// The launch of one of separable2d's kernels.
#pragma once

#include "launch.h"
#include "separable2d_kernel.h"

namespace alias_ops::cuda {

template <class T, int PRODUCTS>
inline bool launch_separable2d(const Separable2dLaunch& call, Place where) {
  bool launched = false;
  visit_separable_kernel<T, PRODUCTS>(SeparableSides(), call.in, call.out, Form(call.form), [&](auto kernel) {
    using K = decltype(kernel);
    constexpr SeparablePlan p = Separable2d<T, K::IN, K::OUT, K::FORM, PRODUCTS>::P;
    launched = launch_persistent<separable2d_kernel<T, K::IN, K::OUT, K::FORM, PRODUCTS>>(
        where, (call.maps + p.maps - 1) / p.maps, p.threads(), p.shared_bytes(), static_cast<const T*>(call.x),
        static_cast<T*>(call.y), static_cast<const char*>(call.tables), call.maps);
  });
  return launched;
}

}  // namespace alias_ops::cuda
