// Vectors of numbers that begin at the start of a cache line: a load of 64 bytes that straddles two takes two.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace alias_ops::ALIAS_OPS_ISA {

template <class C>
struct LineAllocator {
  static constexpr std::align_val_t kLine{64};
  using value_type = C;
  LineAllocator() = default;
  template <class D>
  LineAllocator(const LineAllocator<D>&) {}
  C* allocate(std::size_t n) { return static_cast<C*>(::operator new(n * sizeof(C), kLine)); }
  void deallocate(C* p, std::size_t) { ::operator delete(p, kLine); }
  bool operator==(const LineAllocator&) const { return true; }
};

template <class C>
using Aligned = std::vector<C, LineAllocator<C>>;

}  // namespace alias_ops::ALIAS_OPS_ISA
