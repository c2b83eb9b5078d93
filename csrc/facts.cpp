// The extension's own facts, for `alias-ops info`; importing the module loads and registers the kernels.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>
#include <vector>

#include "kernels.h"

namespace {

std::map<std::string, std::string> build_info() {
  return {{"compiler", ALIAS_OPS_BUILD_COMPILER}, {"flags", ALIAS_OPS_BUILD_FLAGS}, {"torch", ALIAS_OPS_BUILD_TORCH}};
}

std::vector<std::string> isas() {
  int count;
  const alias_ops::InstructionSet* sets = alias_ops::instruction_sets(&count);
  std::vector<std::string> names;
  for (int i = 0; i < count; ++i) names.emplace_back(sets[i].kernels->name);
  return names;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled CPU kernels of alias_ops.";
  // Chosen here, so that a bad ALIAS_OPS_ISA fails at import with a sentence and not inside an op.
  alias_ops::kernels();
  m.def("build_info", &build_info, "How the extension was built: compiler, flags, torch.");
  m.def("isa", [] { return std::string(alias_ops::kernels().name); }, "Instruction set of the kernels in use.");
  m.def("isas", &isas, "Instruction sets compiled in, best first.");
}
