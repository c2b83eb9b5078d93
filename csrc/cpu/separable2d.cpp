// y = sum_t left[t] x right[t]^T, both products of a map while it is in cache.
#include "ops.h"
#include "separable2d_prepared.h"

namespace alias_ops::ALIAS_OPS_ISA {
namespace {

template <class S>
void run(const Separable2dArgs& a, const Runtime& runtime) {
  using C = Compute<S>;
  static thread_local Recent<C> recent;
  if (const Prepared<C>* prepared = recent.find(a)) return prepared->template run<S>(a, runtime);
  Prepared<C>(a).template run<S>(a, runtime);
}

}  // namespace

void separable2d(const Separable2dArgs& a, const Runtime& runtime) {
  for_dtype(a.x.dtype, [&](auto stored) { run<decltype(stored)>(a, runtime); });
}

}  // namespace alias_ops::ALIAS_OPS_ISA
