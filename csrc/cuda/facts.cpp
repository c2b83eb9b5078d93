// The CUDA extension's own facts, for `alias-ops info`; importing the module registers the kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

PYBIND11_MODULE(_C_cuda, m) {
  m.doc() = "Compiled CUDA kernels of alias_ops.";
  m.def(
      "build_info",
      [] {
        return std::map<std::string, std::string>{{"compiler", ALIAS_OPS_BUILD_COMPILER},
                                                  {"architectures", ALIAS_OPS_BUILD_ARCHITECTURES},
                                                  {"torch", ALIAS_OPS_BUILD_TORCH}};
      },
      "How the extension was built: compiler, architectures, torch.");
}
