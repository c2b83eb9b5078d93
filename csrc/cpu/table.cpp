// This instruction set's entry in the table that csrc/isa.cpp chooses from.
#include "ops.h"

#define ALIAS_OPS_TEXT_(x) #x
#define ALIAS_OPS_TEXT(x) ALIAS_OPS_TEXT_(x)

namespace alias_ops::ALIAS_OPS_ISA {

extern const Kernels table;
const Kernels table{ALIAS_OPS_TEXT(ALIAS_OPS_ISA),
                    separable2d,
                    alias_l1,
                    alias_l1_gradient,
                    conv2d_alias_l1,
                    conv2d_alias_l1_low_gradient,
                    conv2d_alias_l1_tap_gradient,
                    residual_l1_gradient};

}  // namespace alias_ops::ALIAS_OPS_ISA
